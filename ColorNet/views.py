"""Two views of the frames of a clip and where each shows the other: crops, flips, zoom and liquid
warps (ColorNet section 3.2, 4.1; datasets/daugm_video_my.py and dataloader_video_my_dul.py).

A view of another view is given as cells: `index`, the cell of the main view that each cell of the
second shows, so that the graph only gathers. Random numbers are drawn in the order of the original.
"""

from __future__ import annotations

from common.lazy import Image, ImageOps, cv2, ndimage, np

STRIDE = 8  # px a cell
UNIT = 256  # px, the size that the original's distances are for
POINTS, RADIUS, PUSH = 8, 100, (12, 24)  # of a liquid map: number; px; px (generateMap)
COCO = (2.0, 1.25)  # width and height of a single image, in units of `size` (512x320 of 256)


def resize_short_side(images: list, size: int, extra: int, uniform) -> list:
    """Resizes PIL images so that their short side has size .. size + extra px, all alike."""
    side = size + int(extra * uniform.random())
    width, height = images[0].size
    aspect = width / height
    new = (int(side * aspect), side) if aspect > 1 else (side, int(side / aspect))
    return [image.resize(new, Image.BILINEAR) for image in images]


def crop(image, uniform):
    """Crops a random part of half to three quarters of each side, begun in the upper left
    quarter."""
    width, height = image.size
    left, top = (int(side * uniform.random() * 0.25) for side in (width, height))
    right, bottom = (int(side * (uniform.random() * 0.25 + 0.5)) for side in (width, height))
    return image.crop((left, top, left + right, top + bottom))


def rotate(image, uniform):
    """Rotates by up to 30 degrees, one time in two; corners become black."""
    if uniform.random() < 0.5:
        return image.rotate(uniform.randint(-30, 30))
    return image


def squash(image, size: int, uniform):
    """Rotates, crops seven times in ten, and resizes to a square."""
    image = rotate(image, uniform)
    if uniform.random() < 0.7:
        image = crop(image, uniform)
    return image.resize((size, size), Image.BICUBIC)


def crop_square(images: list, size: int, draws) -> list:
    """Crops the same random square of `size` px of all frames and mirrors it one time in two."""
    width, height = images[0].size
    top = left = 0
    if (width, height) != (size, size):
        top = int(draws.torch.randint(0, height - size + 1))
        left = int(draws.torch.randint(0, width - size + 1))
    images = [image.crop((left, top, left + size, top + size)) for image in images]
    if draws.python.random() > 0.5:
        images = [ImageOps.mirror(image) for image in images]
    return images


def zoom_in(images: list, uniform):
    """Mirrors all images or none, and zooms into the same random square of all.

    Returns:
      (PIL images of the same size, theta float32 [2, 3] from cells of the second view to those of
      the first, in the -1 .. 1 of affine_grid).
    """
    size, flip = images[0].size[0], 1.0
    if uniform.random() > 0.5:
        images = [ImageOps.mirror(image) for image in images]
        flip = -1.0
    zoom = uniform.uniform(0.5, 1.0)
    side = int(zoom * size)
    top, left = uniform.randint(0, size - side), uniform.randint(0, size - side)
    box = (left, top, left + side, top + side)
    images = [image.crop(box).resize((size, size), Image.BILINEAR) for image in images]
    dx = (left + side / 2 - size / 2) / (size // 2)
    dy = (top + side / 2 - size / 2) / (size // 2)
    return images, np.array([[flip * zoom, 0, flip * dx], [0, zoom, dy]], np.float32)


def affine_cells(theta: np.ndarray, side: int) -> np.ndarray:
    """The positions that the cells of a map [side, side] show through theta float32 [2, 3]: x and
    y, float32 [side, side, 2] of -1 .. 1."""
    line = np.linspace(-1, 1, side, dtype=np.float32) * np.float32((side - 1) / side)
    x, y = line[None, :, None], line[:, None, None]
    return x * theta[:, 0] + y * theta[:, 1] + theta[:, 2]


def liquid_map(width: int, height: int, scale: float, uniform):
    """The position that each pixel of a liquid warp shows: x and y, float32 [height, width] px.

    Eight random points push the pixels around them. `scale` multiplies the distances; 1 of images
    of 256 px.
    """
    x, y = (m.astype(np.float32) for m in np.meshgrid(np.arange(width), np.arange(height)))
    warped = [x.copy(), y.copy()]
    points = [
        [uniform.randint(-int(0.2 * side), int(1.2 * side)) for side in (width, height)]
        for _ in range(POINTS)
    ]
    for column, row in points:
        distance = ((x - column) ** 2 + (y - row) ** 2) ** 0.5
        share = np.clip(1 - distance / (RADIUS * scale), 0, 1)
        for axis in warped:
            axis += uniform.randint(*PUSH) * uniform.choice([1, -1]) * scale * share
    return warped


def liquid_cells(x: np.ndarray, y: np.ndarray, cells: bool) -> np.ndarray:
    """A liquid map as float32 [h, w, 2] of -1 .. 1, of every pixel or of every cell."""
    height, width = x.shape
    if cells:
        x, y = (cv2.resize(m, (0, 0), fx=1 / STRIDE, fy=1 / STRIDE) for m in (x, y))
    return np.stack([x / width * 2 - 1, y / height * 2 - 1], -1).astype(np.float32)


def positions(grid: np.ndarray) -> np.ndarray:
    """A grid of -1 .. 1, float32 [h, w, 2], as x and y of cells: grid_sample's coordinates without
    aligned corners."""
    size = np.array(grid.shape[1::-1], np.float32)
    return ((grid + 1) * size - 1) / 2


def reflect(position: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Positions float32 [h, w, 2] reflected at the borders of a map of `size` (w, h) and clipped to
    its cells, as grid_sample does."""
    distance = np.abs(position + np.float32(0.5))
    turns = np.floor(distance / size)
    rest = np.fmod(distance, size)
    position = np.where(turns % 2 == 0, rest, size - rest) - np.float32(0.5)
    return np.clip(position, 0, size - 1)


def nearest_cells(grid: np.ndarray) -> np.ndarray:
    """int32 [N], the cell that each cell shows, reflected at the borders."""
    size = np.array(grid.shape[1::-1], np.float32)
    position = np.rint(reflect(positions(grid), size)).astype(np.int32)
    return (position[..., 1] * grid.shape[1] + position[..., 0]).ravel()


def nearest_inside(grid: np.ndarray):
    """(int32 [N], float32 [N]): the cell that each cell shows, and 0 where that lies outside, else
    1."""
    position = np.rint(positions(grid)).astype(np.int32)
    size = np.array(grid.shape[1::-1])
    inside = ((position >= 0) & (position < size)).all(-1)
    position = np.clip(position, 0, size - 1)
    cell = position[..., 1] * size[0] + position[..., 0]
    return cell.ravel().astype(np.int32), inside.ravel().astype(np.float32)


def warp(image: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """float32 [H, W, 3] sampled at a grid [H, W, 2] of -1 .. 1, bilinear, reflected at the borders
    (grid_sample)."""
    x, y = np.moveaxis(positions(grid), -1, 0)
    channels = [
        ndimage.map_coordinates(image[..., k], (y, x), order=1, mode='reflect') for k in range(3)
    ]
    return np.stack(channels, -1)
