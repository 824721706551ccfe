"""What the two modulators of OSMN see: the cropped object of a frame, and a heat map of a mask
(util.py of the official code).

Pure functions of pictures, masks and draws. Resizing is Pillow's, as in the original: its filter
grows with the shrinking, OpenCV's does not.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageEnhance

MAD = 1.4826  # standard deviations in a median absolute deviation (util.py)
LEAST_STD = 5.0  # px (util.py)
DILATION = 5  # px, radius of the disk that dilates a mask given as input (dataset_davis.py)
COLOUR = (0.8, 1.3)  # factors of brightness and contrast (util.py)


def box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) px of the non-zero pixels, x1 and y1 inclusive; (0, 0, W, H) of an empty
    mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return 0, 0, mask.shape[1], mask.shape[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def guide(image: np.ndarray, mask: np.ndarray, cfg, draws: np.ndarray | None = None) -> np.ndarray:
    """The visual guide: the object cut out, resized to a square, background 0 after the mean.

    Args:
      image: uint8 [H, W, 3] BGR.
      mask: uint8 [H, W], 0 or 1; empty: the whole picture, all of it background.
      cfg: uses guide_size and the settings that begin with guide_, flip, mean, scale_value.
      draws: float64 [8], uniform in [0, 1): left, top, right, bottom border, rotation, mirror,
        brightness, contrast; None: a border of guide_pad, nothing else.

    Returns:
      float32 [G, G, 3].
    """
    x0, y0, x1, y1 = box(mask)  # the last row and column are left out, as the original does
    inside = x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)
    image, mask = (Image.fromarray(x).crop(inside) for x in (image, mask))
    size = (cfg.guide_size,) * 2
    if draws is None:
        borders = [cfg.guide_pad] * 4
    else:
        borders = -cfg.guide_crop + 2 * cfg.guide_crop * draws[:4]
    image, mask = resized(image, mask, size, borders, cfg.guide_aspect)
    if draws is not None:
        image = coloured(image, *draws[6:8]) if cfg.guide_colour else image
        image, mask = turned(image, mask, (draws[4] - 0.5) * 2 * cfg.guide_rotation)
        if draws[5] > 1 - cfg.flip:
            image, mask = image[:, ::-1], mask[:, ::-1]
    result = normalised(image, cfg)
    return result if cfg.box_guide else result * (mask > 0)[..., None]


def resized(image, mask, size: tuple[int, int], borders=(0, 0, 0, 0), aspect: bool = False):
    """Picture (bilinear) and mask (nearest) moved at their borders and resized.

    Args:
      image, mask: PIL images. size: (W, H) px. borders: left, top, right, bottom, shares of the
      size by which the crop grows, outside is 0. aspect: fit in `size`, centred in 0.

    Returns:
      uint8 [H, W, 3] and [H, W].
    """
    width, height = image.size
    if any(borders):
        left, top, right, bottom = borders
        crop = (
            int(-left * width), int(-top * height),
            width + int(right * width), height + int(bottom * height),
        )  # fmt: skip
        image, mask = image.crop(crop), mask.crop(crop)
    inner = size
    if aspect:
        ratio = np.amin(np.array(size, np.float32) / np.array(image.size))
        inner = tuple(max(1, int(n * ratio)) for n in image.size)
    image, mask = image.resize(inner, Image.BILINEAR), mask.resize(inner, Image.NEAREST)
    if aspect:
        x, y = ((n - m) // 2 for n, m in zip(size, inner))
        image, mask = (part.crop((-x, -y, size[0] - x, size[1] - y)) for part in (image, mask))
    return np.asarray(image), np.asarray(mask)


def coloured(image: np.ndarray, brightness: float, contrast: float) -> np.ndarray:
    """uint8 [H, W, 3] BGR with brightness and contrast drawn from COLOUR by two numbers in
    [0, 1)."""
    picture = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))  # contrast needs R, G, B
    span = COLOUR[1] - COLOUR[0]
    picture = ImageEnhance.Brightness(picture).enhance(COLOUR[0] + span * brightness)
    picture = ImageEnhance.Contrast(picture).enhance(COLOUR[0] + span * contrast)
    return np.asarray(picture)[..., ::-1]


def turned(image: np.ndarray, mask: np.ndarray, degrees: float):
    """Both turned about (W // 2, H // 2), nearest, outside 0."""
    if not degrees:
        return image, mask
    height, width = mask.shape
    matrix = cv2.getRotationMatrix2D((width // 2, height // 2), degrees, 1)
    return tuple(
        cv2.warpAffine(np.ascontiguousarray(x), matrix, (width, height), flags=cv2.INTER_NEAREST)
        for x in (image, mask)
    )


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3] to size (H, W), Pillow's bilinear; aspect not kept."""
    if image.shape[:2] == tuple(size):
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.BILINEAR))


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W] to size (H, W), Pillow's nearest."""
    if mask.shape == tuple(size):
        return mask
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.NEAREST))


def normalised(image: np.ndarray, cfg) -> np.ndarray:
    """uint8 [..., 3] BGR -> float32, minus cfg.mean, times cfg.scale_value."""
    levels = np.arange(256, dtype=np.float32)[:, None] - np.array(cfg.mean, np.float32)
    table = (levels * np.float32(cfg.scale_value))[None]
    return cv2.LUT(np.ascontiguousarray(image), table)


def heat_map(mask: np.ndarray, center=(0.0, 0.0), std=(1.0, 1.0)) -> np.ndarray:
    """The spatial guide: a Gaussian with the robust centre and spread of a mask.

    Args:
      mask: uint8 [H, W], non-zero is the object.
      center: (x, y) by which the centre moves, in standard deviations. std: (x, y) factors of it.

    Returns:
      float32 [H, W], 0..1; zeros for an empty mask.
    """
    axes = []
    for axis, move, factor in zip((0, 1), center, std):  # columns are x, rows are y
        counts = np.count_nonzero(mask, axis=axis)
        if not counts.any():
            return np.zeros(mask.shape, np.float32)
        places = np.arange(len(counts), dtype=np.float64)
        middle = _median(places, counts)
        deviation = np.float32(_median(np.abs(places - middle), counts))
        spread = max(float(np.float32(MAD) * deviation), LEAST_STD)  # float32 as in the original
        place = middle + move * spread
        axes.append(np.exp(-0.5 * ((places - place) / (factor * spread)) ** 2))
    return np.clip(np.outer(axes[1], axes[0]), 0, 1).astype(np.float32)


def _median(values, counts):
    """Median of values that occur so often."""
    order = np.argsort(values, kind='stable')
    totals = np.cumsum(counts[order])
    last = totals[-1]
    low, high = np.searchsorted(totals, [(last - 1) // 2 + 1, last // 2 + 1])
    return (values[order[low]] + values[order[high]]) / 2


def dilated(mask: np.ndarray) -> np.ndarray:
    """The mask as an input (MaskTrack): float32 [H, W] of 0 and 255, dilated by a disk of 5 px."""
    reach = np.arange(-DILATION, DILATION + 1) ** 2
    disk = (reach[:, None] + reach[None] <= DILATION**2).astype(np.uint8)
    binary = (mask > 0).astype(np.uint8)
    grown = cv2.dilate(binary, disk, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return grown.astype(np.float32) * 255


def perturbed(mask: np.ndarray, size: float, center: np.ndarray, spread: float) -> np.ndarray:
    """The content of the mask's box enlarged and moved (util.py perturb_mask).

    Args:
      mask: uint8 [H, W]. size: factor. center: two numbers in [0, 1): -spread .. spread of the
      box's width and height.

    Returns:
      uint8 [H, W].
    """
    result = np.zeros(mask.shape, np.uint8)
    if not mask.any():
        return result
    x0, y0, x1, y1 = box(mask)
    part = cv2.resize(
        mask[y0 : y1 + 1, x0 : x1 + 1].astype(np.uint8), (0, 0), fx=size, fy=size,
        interpolation=cv2.INTER_NEAREST,
    )  # fmt: skip
    limits = np.array(mask.shape[::-1])
    extent = np.array(part.shape[::-1])
    before = extent // 2
    after = extent - before
    moved = (-spread + 2 * spread * center) * (x1 - x0, y1 - y0)
    place = (moved + ((x0 + x1) // 2, (y0 + y1) // 2)).astype(np.int32)
    start, end = np.maximum(0, place - before), np.minimum(limits, place + after)
    if (end > start).all():
        source = start - (place - before)
        (a, b), (c, d) = source, source + (end - start)
        result[start[1] : end[1], start[0] : end[0]] = part[b:d, a:c]
    return result
