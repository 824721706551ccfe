"""Packages that take a tenth of a second or more to import, imported at their first use: a program
answers --help and wrong flags at once.

    from common.lazy import cv2, np, tf
"""

from __future__ import annotations

import importlib


class Lazy:
    """A module that is imported when an attribute of it is first asked for."""

    def __init__(self, name: str):
        """`name` as in an import."""
        self._name, self._module = name, None

    def __getattr__(self, name: str):
        """The module's own attribute."""
        if self._module is None:
            self._module = importlib.import_module(self._name)
        return getattr(self._module, name)  # not imported again: that takes 10 us


np = Lazy('numpy')
cv2 = Lazy('cv2')
tf = Lazy('tensorflow.compat.v1')
ndimage = Lazy('scipy.ndimage')
sparse = Lazy('scipy.sparse')
csgraph = Lazy('scipy.sparse.csgraph')
special = Lazy('scipy.special')
Image = Lazy('PIL.Image')
ImageEnhance = Lazy('PIL.ImageEnhance')
ImageFilter = Lazy('PIL.ImageFilter')
ImageOps = Lazy('PIL.ImageOps')
cocotools = Lazy('pycocotools.coco')
rle = Lazy('pycocotools.mask')
