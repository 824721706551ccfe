"""Made videos that ColorNet's recorder and tests share: which clips, their frames and masks."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

CLIPS = ((0, 11), (1, 12), (2, 13), (0, 14), (1, 15), (2, 16))  # video, seed
PICTURES = 3


def made_frames(folder: Path, video: int, count: int = 8, size=(150, 266)) -> list[str]:
    """Smooth colored noise that drifts, with sharp discs: PNG, the same everywhere."""
    draw = np.random.RandomState(video)
    height, width = size
    layers = [draw.randn(k, k * 2, 3).astype(np.float32) for k in (4, 9, 30)]
    scene = sum(cv2.resize(x, (2 * width, height), interpolation=cv2.INTER_CUBIC) / (i + 1)
                for i, x in enumerate(layers))  # fmt: skip
    scene = np.clip(120 + 60 * scene, 0, 255).astype(np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for t in range(count):
        image = np.ascontiguousarray(scene[:, 5 * t : 5 * t + width])
        for k in range(3):
            at = 60 + 60 * k + 6 * t, 40 + 30 * k + 3 * t
            cv2.circle(image, at, 22, [int(v) for v in draw.randint(0, 255, 3)], -1)
            draw.seed(video * 10 + k)
        paths.append(str(folder / f'{t:05d}.png'))
        if not os.path.isfile(paths[-1]):
            Image.fromarray(image).save(paths[-1])
    return paths


def made_mask(video: int, t: int, count: int, size=(150, 266)) -> np.ndarray:
    """Ids uint8 of the first `count` discs."""
    mask = np.zeros(size, np.uint8)
    for k in range(count):
        cv2.circle(mask, (60 + 60 * k + 6 * t, 40 + 30 * k + 3 * t), 22, k + 1, -1)
    return mask
