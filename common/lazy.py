"""Packages that take a tenth of a second or more to import, imported at their first use: a program
answers --help and wrong flags at once.

    from common.lazy import cv2, np, tf
"""

from __future__ import annotations

import importlib
import types


class Lazy(types.ModuleType):
    """A module that is imported when an attribute of it is first asked for."""

    def __getattr__(self, name: str):
        """The module's own attribute."""
        return getattr(importlib.import_module(self.__name__), name)


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
