"""SiamMask in a window of OpenCV: boxes chosen with the mouse, objects followed before a camera.

    python -m SiamMask.demo --camera=0
    python -m SiamMask.demo --input=clip.mp4 --select
"""

from __future__ import annotations

import os
import re
import sys

from common import masks
from common.lazy import cv2, np

from . import tracker

WINDOW = 'SiamMask'
KEYS = (ord('q'), 27)  # q and Escape end it


def check_window(flag: str) -> None:
    """RuntimeError where OpenCV can open no window, for which `flag` asks."""
    kind = re.search(r'GUI: +(\S+)', cv2.getBuildInformation())
    if kind and kind.group(1) == 'NONE':
        raise RuntimeError(
            f'{flag}: this OpenCV has no windows (opencv-python-headless): pip uninstall it, then '
            "pip install 'opencv-python<4.13'; or give --input and --box=x,y,width,height"
        )
    if sys.platform == 'linux' and not {'DISPLAY', 'WAYLAND_DISPLAY'} & set(os.environ):
        raise RuntimeError(
            f'{flag}: there is no display (DISPLAY is not set); give --input and '
            '--box=x,y,width,height'
        )


def select_boxes(image: np.ndarray) -> list[str]:
    """Boxes 'x,y,width,height' that the user draws on uint8 [H, W, 3] BGR, one an object.

    Raises:
      ValueError: none was drawn. RuntimeError: no window can be opened.
    """
    check_window('--select')
    print('drag a box, Enter or Space takes it, Escape ends', flush=True)
    boxes = cv2.selectROIs(WINDOW, image, showCrosshair=False)
    cv2.destroyWindow(WINDOW)
    if not len(boxes):
        raise ValueError('--select: no box was drawn')
    return [','.join(str(int(number)) for number in box) for box in boxes]


def camera_frames(number: int):
    """Frames uint8 [H, W, 3] BGR of a camera, until it ends or a key of KEYS is pressed.

    Raises:
      OSError: the camera cannot be opened.
    """
    camera = cv2.VideoCapture(number)
    try:
        if not camera.isOpened():
            raise OSError(f'--camera={number}: OpenCV cannot open that camera')
        while True:
            there, image = camera.read()
            if not there or cv2.waitKey(1) & 0xFF in KEYS:
                return
            yield image
    finally:
        camera.release()


def follow(network, number: int, hyper: dict, draw) -> int:
    """Follows what is chosen in the first frame of a camera, in a window; returns the number of
    frames. Nothing is written.

    Args:
      network: of inference.load(), for one object.
      number: of the camera.
      hyper: of tracker.hyper_parameters().
      draw: function (image, ids, states) -> image to show.
    """
    states, count = None, 0
    for image in camera_frames(number):
        if states is None:
            box = tracker.center_box(masks.parse_box(select_boxes(image)[0]))
            states = [tracker.start(network, image, box)]
        else:
            states = tracker.step(network, image, states, hyper)
        seen = {1: states[0]} if 'mask' in states[0] else {}
        ids = tracker.merge(seen, image.shape[:2], hyper['mask_threshold'])
        cv2.imshow(WINDOW, draw(image, ids, {1: states[0]}))
        count += 1
    cv2.destroyAllWindows()
    return count
