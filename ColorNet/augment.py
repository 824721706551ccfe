"""Changes of a frame's light and color: shadows, jitter, blur; the Lab target and the weight along
edges (datasets/dataloader_video_my_dul.py of the official code).

Images are R, G, B. Random numbers are drawn in the order of the original.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from common.lazy import Image, ImageEnhance, ImageFilter, ImageOps, cv2, np

JITTER = ((0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1))  # brightness, contrast, saturation, hue
MARGIN = 5  # px around a shadow, more than the blur of its border reaches
EDGE_STEP, EDGE_RUN, EDGE_BORDER = 16, 16, 4  # px of the half-size image (findEdge2)


class Draws(NamedTuple):
    """The two generators of a clip: python for what the original draws from `random`, torch for
    what it and torchvision draw from torch."""

    python: random.Random
    torch: np.random.RandomState


class Strength(NamedTuple):
    """Probabilities of blur and of solarization."""

    blur: float
    solarize: float


WEAK = Strength(0.2, 0.0)  # of the main view
STRONG = Strength(0.3, 0.1)  # of the second view


def jitter(image, strength: Strength, shadows: bool, draws: Draws):
    """A PIL image in other light: perhaps with shadows, other colors, gray, blurred, solarized."""
    if shadows and draws.python.random() < 0.6:
        image = add_shadows(image, draws.python.randint(3, 6), draws)
    if not draws.torch.rand() > 0.8:
        image = jitter_color(image, draws)
    if draws.torch.rand() < 0.2:
        image = image.convert('L').convert('RGB')
    if draws.python.random() <= strength.blur:
        image = image.filter(ImageFilter.GaussianBlur(draws.python.uniform(0.1, 2.0)))
    if strength.solarize and draws.python.random() < strength.solarize:
        image = ImageOps.solarize(image)
    return image


def jitter_color(image, draws: Draws):
    """torchvision's ColorJitter: four changes in random order."""
    order = draws.torch.permutation(4)
    factors = [float(draws.torch.uniform(*bounds)) for bounds in JITTER]
    changes = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for k in order:
        if k < 3:
            image = changes[k](image).enhance(factors[k])
        else:
            hue, saturation, value = image.convert('HSV').split()
            turned = (np.array(hue) + np.uint8(int(factors[k] * 255) % 256)).astype(np.uint8)
            merged = Image.merge('HSV', (Image.fromarray(turned), saturation, value))
            image = merged.convert('RGB')
    return image


def add_shadows(image, count: int, draws: Draws):
    """Makes `count` quadrangles of a PIL image darker or lighter, with soft or hard borders; only
    the part around each is computed."""
    uniform = draws.python
    pixels = np.asarray(image).astype(np.float32)
    for _ in range(count):
        points = _quadrangle(*pixels.shape[:2], uniform)
        left, top, width, height = cv2.boundingRect(points)
        corner = max(left - MARGIN, 0), max(top - MARGIN, 0)
        part = pixels[corner[1] : top + height + MARGIN, corner[0] : left + width + MARGIN]
        other, least, most = part, pixels.min(), pixels.max()
        if most > 0.01:
            other = (part - least) / most
        if uniform.random() < 0.5:
            gamma = 0.5 + 0.5 * uniform.random()
        else:
            gamma = 1 + uniform.random() * 0.5
        other = ((other**gamma) * 255).astype(np.uint8)
        mask = np.zeros(part.shape[:2], np.float64)
        cv2.fillConvexPoly(mask, points - np.array(corner, np.int32), 255)
        if uniform.random() < 0.8:
            size, sigma = uniform.choice([3, 5, 7, 9]), uniform.randint(7, 12)
            share = cv2.GaussianBlur(mask, (size, size), sigma).astype(np.float32)[..., None] / 255
            part[:] = other * share + part * (1 - share)
        else:
            part[mask > 127] = other[mask > 127]
    return Image.fromarray(pixels.astype(np.uint8))


def _quadrangle(height, width, uniform):
    points = []
    for _ in range(2):
        x, y = uniform.randint(0, width), uniform.randint(0, height)
        points.append((x, y))
        near = [
            min(max(uniform.randint(at - int(side * 0.5), at + int(side * 0.5)), 1), side - 1)
            for at, side in ((x, width), (y, height))
        ]
        points.append(near)
    return np.array(points, np.int32)


def to_lab(image) -> np.ndarray:
    """uint8 [H, W, 3] of a PIL image: OpenCV's 8-bit L, a, b."""
    return cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2LAB)


def clip_range(frames: np.ndarray, clip: bool) -> np.ndarray:
    """How a and b of a clip become 0..1: float32 [4] = lowest, highest, start, span of a, b / 255.

    Args:
      frames: uint8 [T, H, W, 3], L, a, b.
      clip: clip them at three standard deviations from their mean.
    """
    values = frames[..., 1:].astype(np.float32) / 255
    low, high = values.min(), values.max()
    if clip:
        mean, deviation = np.mean(values), np.std(values)
        low, high = max(low, mean - deviation * 3), min(high, mean + deviation * 3)
    start, span = (low, high - low) if high - low >= 1 / 256 else (0, 1)
    return np.array([low, high, start, span], np.float32)


def edge_weight(image) -> np.ndarray:
    """uint8 [H, W] of a PIL image: 255 (weight 5) around edges that follow a smooth stretch, else 0
    (weight 1).

    Edges of the blurred half-size image count where they cross every 16th row or column more than
    16 px after the edge before.
    """
    small = cv2.GaussianBlur(cv2.resize(np.asarray(image), (0, 0), fx=0.5, fy=0.5), (5, 5), 3)
    edges = cv2.Canny(small, 100, 200) > 0
    height, width = edges.shape
    edges[: int(height * 0.1)] = edges[int(height * 0.9) :] = False
    edges[:, : int(width * 0.1)] = edges[:, int(width * 0.9) :] = False
    marked, border = np.zeros((height, width), np.uint8), EDGE_BORDER
    for column in range(0, width, EDGE_STEP):
        for row in _crossings(edges[:, column]):
            marked[row - border : row + border, column - border : column + border] = 255
    for row in range(0, height, EDGE_STEP):
        for column in _crossings(edges[row]):
            marked[row - border : row + border, column - border : column + border] = 255
    return cv2.resize(marked, (0, 0), fx=2, fy=2)


def _crossings(line):
    """Positions of a line's edges that are more than EDGE_RUN px from the one before or behind."""
    found = np.flatnonzero(line)
    back = len(line) - 1 - found[::-1]
    after = found[np.diff(found, prepend=-2) - 2 > EDGE_RUN]
    before = len(line) - 1 - back[np.diff(back, prepend=-2) - 2 > EDGE_RUN]
    return np.concatenate([after, before])
