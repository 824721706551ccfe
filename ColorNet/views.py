"""Two views of the frames of a clip and where each shows the other: crops, flips, zoom and liquid
warps (ColorNet section 3.2, 4.1; datasets/daugm_video_my.py and dataloader_video_my_dul.py).

A view of another view is given as cells: `index`, the cell of the main view that each cell of the
second shows, so that the graph only gathers. Draws are taken in the original's order.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageOps

STRIDE = 8  # px a cell
UNIT = 256  # px, the size that the original's distances are for
POINTS, REACH, PUSH = 8, 100, (12, 24)  # of a liquid map: number; px; px (generateMap)
COCO = (2.0, 1.25)  # width and height of a single picture, of `size` (512x320 of 256)


def enlarged(images: list, size: int, extra: int, uniform) -> list:
    """PIL images, all so resized that the short side has size .. size + extra px."""
    side = size + int(extra * uniform.random())
    width, height = images[0].size
    aspect = width / height
    new = (int(side * aspect), side) if aspect > 1 else (side, int(side / aspect))
    return [image.resize(new, Image.BILINEAR) for image in images]


def cropped(image, uniform):
    """A random part of half to three quarters of each side, in the upper left quarter."""
    width, height = image.size
    left, top = (int(side * uniform.random() * 0.25) for side in (width, height))
    right, bottom = (int(side * (uniform.random() * 0.25 + 0.5)) for side in (width, height))
    return image.crop((left, top, left + right, top + bottom))


def rotated(image, uniform):
    """By up to 30 degrees, one time in two; corners black."""
    return image.rotate(uniform.randint(-30, 30)) if uniform.random() < 0.5 else image


def squashed(image, size: int, uniform):
    """Rotated, cropped seven times in ten, and resized to a square."""
    image = rotated(image, uniform)
    image = cropped(image, uniform) if uniform.random() < 0.7 else image
    return image.resize((size, size), Image.BICUBIC)


def same_square(images: list, size: int, uniform, second) -> list:
    """One random square of `size` px of all frames, mirrored one time in two."""
    width, height = images[0].size
    top = left = 0
    if (width, height) != (size, size):
        top, left = (int(second.randint(0, side - size + 1)) for side in (height, width))
    images = [image.crop((left, top, left + size, top + size)) for image in images]
    return [ImageOps.mirror(i) for i in images] if uniform.random() > 0.5 else images


def zoomed(images: list, uniform):
    """(images, theta): mirrored or not, one zoom into all of them.

    Returns:
      PIL images of the same size; theta float32 [2, 3], from cells of the zoomed to those of the
      whole, in the -1 .. 1 of affine_grid.
    """
    size, flip = images[0].size[0], 1.0
    if uniform.random() > 0.5:
        images, flip = [ImageOps.mirror(image) for image in images], -1.0
    zoom = uniform.uniform(0.5, 1.0)
    side = int(zoom * size)
    top, left = uniform.randint(0, size - side), uniform.randint(0, size - side)
    box = (left, top, left + side, top + side)
    images = [image.crop(box).resize((size, size), Image.BILINEAR) for image in images]
    dx, dy = ((start + side / 2 - size / 2) / (size // 2) for start in (left, top))
    return images, np.array([[flip * zoom, 0, flip * dx], [0, zoom, dy]], np.float32)


def affine_cells(theta: np.ndarray, side: int) -> np.ndarray:
    """Where the cells of a map [side, side] look: float32 [side, side, 2], x and y, -1 .. 1."""
    line = np.linspace(-1, 1, side, dtype=np.float32) * np.float32((side - 1) / side)
    x, y = line[None, :, None], line[:, None, None]
    return x * theta[:, 0] + y * theta[:, 1] + theta[:, 2]


def liquid_map(width: int, height: int, scale: float, uniform):
    """x and y float32 [height, width] px that a liquid warp looks at: eight points push their
    surroundings. scale: of the distances, 1 of 256 px."""
    x, y = (m.astype(np.float32) for m in np.meshgrid(np.arange(width), np.arange(height)))
    moved = [x.copy(), y.copy()]
    points = [
        [uniform.randint(-int(0.2 * side), int(1.2 * side)) for side in (width, height)]
        for _ in range(POINTS)
    ]
    for column, row in points:
        far = ((x - column) ** 2 + (y - row) ** 2) ** 0.5
        share = np.clip(1 - far / (REACH * scale), 0, 1)
        for axis in moved:
            axis += uniform.randint(*PUSH) * uniform.choice([1, -1]) * scale * share
    return moved


def liquid_cells(x: np.ndarray, y: np.ndarray, cells: bool) -> np.ndarray:
    """A liquid map as float32 [h, w, 2] of -1 .. 1, of every pixel or of every cell."""
    height, width = x.shape
    if cells:
        x, y = (cv2.resize(m, (0, 0), fx=1 / STRIDE, fy=1 / STRIDE) for m in (x, y))
    return np.stack([x / width * 2 - 1, y / height * 2 - 1], -1).astype(np.float32)


def places(grid: np.ndarray, reflect: bool) -> np.ndarray:
    """x and y of a map of the grid's size, float32 [h, w, 2]: grid_sample's coordinates without
    aligned corners; reflect: at the borders, then clipped."""
    size = np.array(grid.shape[1::-1], np.float32)
    place = ((grid + 1) * size - 1) / 2
    if not reflect:
        return place
    away = np.abs(place + np.float32(0.5))
    turns = np.floor(away / size)
    rest = np.fmod(away, size)
    place = np.where(turns % 2 == 0, rest, size - rest) - np.float32(0.5)
    return np.clip(place, 0, size - 1)


def nearest(grid: np.ndarray) -> np.ndarray:
    """int32 [N], the cell that each looks at, reflected at the borders."""
    place = np.rint(places(grid, True)).astype(np.int32)
    return (place[..., 1] * grid.shape[1] + place[..., 0]).ravel()


def nearest_inside(grid: np.ndarray):
    """(int32 [N], float32 [N]): the cell that each looks at, and 0 where it lies outside."""
    place, size = np.rint(places(grid, False)).astype(np.int32), np.array(grid.shape[1::-1])
    inside = ((place >= 0) & (place < size)).all(-1)
    place = np.clip(place, 0, size - 1)
    cell = place[..., 1] * size[0] + place[..., 0]
    return cell.ravel().astype(np.int32), inside.ravel().astype(np.float32)


def warped(image: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """float32 [H, W, 3] looked at through a grid [H, W, 2], bilinear, reflected at the borders."""
    height, width = image.shape[:2]
    place = places(grid, True).reshape(-1, 2)
    (right, below), low = (place - np.floor(place)).T[..., None], place.astype(np.int32)
    (x0, y0), (x1, y1) = low.T, np.minimum(low + 1, [width - 1, height - 1]).T
    rows = image.reshape(-1, 3)
    upper, lower = (
        np.take(rows, y * width + x0, 0) * (1 - right) + np.take(rows, y * width + x1, 0) * right
        for y in (y0, y1)
    )
    return (upper * (1 - below) + lower * below).reshape(image.shape)
