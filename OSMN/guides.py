"""What the two modulators of OSMN see: the cropped object of a frame, and a heat map of a mask
(util.py of the official code).

Pure functions of images, masks and draws. Images are resized as Pillow does it in the original: its
filter grows with the shrinking, OpenCV's does not. That filter is written out here, so that the
guide is the same with every version of Pillow.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from common.lazy import Image, ImageEnhance, cv2, np, sparse

MAD = 1.4826  # standard deviations in a median absolute deviation (util.py)
LEAST_STD = 5.0  # px (util.py)
DILATION = 5  # px, radius of the disk that dilates a mask given as input (dataset_davis.py)
COLOR = (0.8, 1.3)  # factors of brightness and contrast (util.py)
BITS = 22  # of a filter weight in fixed point (Pillow Resample.c PRECISION_BITS)


class Draws(NamedTuple):
    """The random numbers of one training example, uniform in [0, 1)."""

    guide_borders: np.ndarray  # [4] left, top, right, bottom
    guide_rotation: float
    guide_mirror: float
    brightness: float
    contrast: float
    mirror: float  # of the image
    center: np.ndarray  # [2] move of the spatial guide, x and y
    spread: np.ndarray  # [2] scale of the spatial guide, x and y
    borders: np.ndarray  # [4] of the image


COUNT = 17  # numbers that draws_of() takes


def draws_of(numbers: np.ndarray) -> Draws:
    """The draws that float64 [COUNT] stands for."""
    return Draws(
        guide_borders=numbers[0:4],
        guide_rotation=numbers[4],
        guide_mirror=numbers[5],
        brightness=numbers[6],
        contrast=numbers[7],
        mirror=numbers[8],
        center=numbers[9:11],
        spread=numbers[11:13],
        borders=numbers[13:17],
    )


def box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) px of the non-zero pixels, x1 and y1 inclusive; (0, 0, W, H) of an empty
    mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return 0, 0, mask.shape[1], mask.shape[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def guide(image: np.ndarray, mask: np.ndarray, cfg, draws: Draws | None = None) -> np.ndarray:
    """The visual guide: the object cropped, resized to a square, background 0 after the mean.

    Args:
      image: uint8 [H, W, 3] BGR.
      mask: uint8 [H, W], 0 or 1; empty: the whole image, all of it background.
      cfg: uses guide_size and the settings that begin with guide_, flip, mean, scale_value.
      draws: of the augmentation; None: a border of guide_pad, nothing else.

    Returns:
      float32 [G, G, 3].
    """
    x0, y0, x1, y1 = box(mask)  # the last row and column are left out, as the original does
    inside = x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)
    if draws is None:
        borders = [cfg.guide_pad] * 4
    else:
        borders = -cfg.guide_crop + 2 * cfg.guide_crop * draws.guide_borders
    size = cfg.guide_size, cfg.guide_size
    image, mask = crop(image, inside), crop(mask, inside)
    image, mask = resize_pair(image, mask, size, borders, cfg.guide_aspect)
    if draws is not None:
        if cfg.guide_colour:
            image = jitter_colors(image, draws.brightness, draws.contrast)
        image, mask = rotate(image, mask, (draws.guide_rotation - 0.5) * 2 * cfg.guide_rotation)
        if draws.guide_mirror > 1 - cfg.flip:
            image, mask = image[:, ::-1], mask[:, ::-1]
    result = subtract_mean(image, cfg)
    return result if cfg.box_guide else result * (mask > 0)[..., None]


def crop(image: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """The pixels of (x0, y0, x1, y1), x1 and y1 exclusive, of uint8 [H, W] or [H, W, 3]; outside
    the image 0."""
    x0, y0, x1, y1 = box
    height, width = image.shape[:2]
    result = np.zeros((y1 - y0, x1 - x0, *image.shape[2:]), image.dtype)
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    if left < right and top < bottom:
        part = image[top:bottom, left:right]
        result[top - y0 : bottom - y0, left - x0 : right - x0] = part
    return result


def resize_pair(image, mask, size: tuple[int, int], borders=(0, 0, 0, 0), aspect: bool = False):
    """Image (bilinear) and mask (nearest) moved at their borders and resized.

    Args:
      image: uint8 [H, W, 3].
      mask: uint8 [H, W].
      size: (H, W) px of the results.
      borders: left, top, right, bottom, shares of the size by which the crop grows; outside is 0.
      aspect: keep it, fit in `size`, centered in 0.

    Returns:
      uint8 [H, W, 3] and [H, W].
    """
    height, width = mask.shape
    if any(borders):
        left, top, right, bottom = borders
        grown = (
            int(-left * width),
            int(-top * height),
            width + int(right * width),
            height + int(bottom * height),
        )
        image, mask = crop(image, grown), crop(mask, grown)
    inner = size
    if aspect:
        ratio = np.amin(np.array(size, np.float32) / np.array(mask.shape))
        inner = tuple(max(1, int(n * ratio)) for n in mask.shape)
    image, mask = resize_image(image, inner), resize_mask(mask, inner)
    if aspect:
        y, x = ((n - m) // 2 for n, m in zip(size, inner))
        centered = -x, -y, size[1] - x, size[0] - y
        image, mask = crop(image, centered), crop(mask, centered)
    return image, mask


def jitter_colors(image: np.ndarray, brightness: float, contrast: float) -> np.ndarray:
    """uint8 [H, W, 3] BGR with brightness and contrast drawn from COLOR by two numbers in
    [0, 1)."""
    result = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))  # contrast needs R, G, B
    span = COLOR[1] - COLOR[0]
    result = ImageEnhance.Brightness(result).enhance(COLOR[0] + span * brightness)
    result = ImageEnhance.Contrast(result).enhance(COLOR[0] + span * contrast)
    return np.asarray(result)[..., ::-1]


def rotate(image: np.ndarray, mask: np.ndarray, degrees: float):
    """Both rotated about (W // 2, H // 2), nearest, outside 0."""
    if not degrees:
        return image, mask
    height, width = mask.shape
    matrix = cv2.getRotationMatrix2D((width // 2, height // 2), degrees, 1)
    return tuple(
        cv2.warpAffine(np.ascontiguousarray(x), matrix, (width, height), flags=cv2.INTER_NEAREST)
        for x in (image, mask)
    )


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3] to size (H, W), bilinear with a filter that grows with the shrinking; aspect
    not kept. To the bit what Pillow 9.5 gives (Resample.c): along x, then along y, each rounded."""
    for axis in (1, 0):
        if image.shape[axis] != size[axis]:
            image = _resample(image, size[axis], axis)
    return image


def _resample(image, count, axis):
    matrix = _filter_matrix(image.shape[axis], count)
    lines = np.moveaxis(image, axis, 0)
    sums = matrix @ lines.reshape(len(lines), -1).astype(np.int32)  # below 255 * 2**22 + 2**21
    levels = np.clip((sums + (1 << (BITS - 1))) >> BITS, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(levels.reshape(count, *lines.shape[1:]), 0, axis))


@functools.lru_cache(maxsize=64)
def _filter_matrix(inputs, outputs):
    """Weights int32 [outputs, inputs] in fixed point of the bilinear filter (Resample.c
    precompute_coeffs)."""
    scale = inputs / outputs
    radius = max(scale, 1.0)
    rows, columns, values = [], [], []
    for row in range(outputs):
        center = (row + 0.5) * scale
        first = max(0, int(center - radius + 0.5))
        last = min(inputs, int(center + radius + 0.5))
        taps = np.arange(first, last)
        weights = np.maximum(0, 1 - np.abs((taps - center + 0.5) * (1 / radius)))
        rows += [row] * len(taps)
        columns += taps.tolist()
        values += (weights / weights.sum() * (1 << BITS) + 0.5).astype(np.int32).tolist()
    entries = np.array(values, np.int32), (rows, columns)
    return sparse.csr_matrix(entries, (outputs, inputs), np.int32)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W] to size (H, W), Pillow's nearest."""
    if mask.shape == tuple(size):
        return mask
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.NEAREST))


def subtract_mean(image: np.ndarray, cfg) -> np.ndarray:
    """uint8 [..., 3] BGR -> float32, minus cfg.mean, times cfg.scale_value."""
    levels = np.arange(256, dtype=np.float32)[:, None] - np.array(cfg.mean, np.float32)
    table = (levels * np.float32(cfg.scale_value))[None]
    return cv2.LUT(np.ascontiguousarray(image), table)


def heat_map(mask: np.ndarray, center=(0.0, 0.0), std=(1.0, 1.0)) -> np.ndarray:
    """The spatial guide: a Gaussian with the robust center and spread of a mask.

    Args:
      mask: uint8 [H, W], non-zero is the object.
      center: (x, y) by which the center moves, in standard deviations.
      std: (x, y) factors of the standard deviations.

    Returns:
      float32 [H, W], 0..1; zeros for an empty mask.
    """
    axes = []
    for axis, move, factor in zip((0, 1), center, std):  # columns are x, rows are y
        counts = np.count_nonzero(mask, axis=axis)
        if not counts.any():
            return np.zeros(mask.shape, np.float32)
        positions = np.arange(len(counts), dtype=np.float64)
        median = _median(positions, counts)
        deviation = np.float32(_median(np.abs(positions - median), counts))
        spread = max(float(np.float32(MAD) * deviation), LEAST_STD)  # float32 as in the original
        moved = median + move * spread
        axes.append(np.exp(-0.5 * ((positions - moved) / (factor * spread)) ** 2))
    return np.clip(np.outer(axes[1], axes[0]), 0, 1).astype(np.float32)


def _median(values, counts):
    """Median of values that occur so often."""
    order = np.argsort(values, kind='stable')
    totals = np.cumsum(counts[order])
    last = totals[-1]
    low, high = np.searchsorted(totals, [(last - 1) // 2 + 1, last // 2 + 1])
    return (values[order[low]] + values[order[high]]) / 2


def dilate(mask: np.ndarray) -> np.ndarray:
    """The mask as an input (MaskTrack): float32 [H, W] of 0 and 255, dilated by a disk of 5 px."""
    squares = np.arange(-DILATION, DILATION + 1) ** 2
    disk = (squares[:, None] + squares[None] <= DILATION**2).astype(np.uint8)
    binary = (mask > 0).astype(np.uint8)
    grown = cv2.dilate(binary, disk, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return grown.astype(np.float32) * 255


def perturb(mask: np.ndarray, size: float, center: np.ndarray, spread: float) -> np.ndarray:
    """The content of the mask's box enlarged and moved (util.py perturb_mask).

    Args:
      mask: uint8 [H, W].
      size: factor.
      center: two numbers in [0, 1): -spread .. spread of the box's width and height.
      spread: share.

    Returns:
      uint8 [H, W].
    """
    result = np.zeros(mask.shape, np.uint8)
    if not mask.any():
        return result
    x0, y0, x1, y1 = box(mask)
    part = mask[y0 : y1 + 1, x0 : x1 + 1].astype(np.uint8)
    part = cv2.resize(part, (0, 0), fx=size, fy=size, interpolation=cv2.INTER_NEAREST)
    limits = np.array(mask.shape[::-1])
    extent = np.array(part.shape[::-1])
    before = extent // 2
    after = extent - before
    moved = (-spread + 2 * spread * center) * (x1 - x0, y1 - y0)
    position = (moved + ((x0 + x1) // 2, (y0 + y1) // 2)).astype(np.int32)
    start, end = np.maximum(0, position - before), np.minimum(limits, position + after)
    if (end > start).all():
        source = start - (position - before)
        (a, b), (c, d) = source, source + (end - start)
        result[start[1] : end[1], start[0] : end[0]] = part[b:d, a:c]
    return result
