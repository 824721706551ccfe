"""Propagates the mask of the first frame through your own video: a file or a folder of frames.

    python -m ColorNet.demo --input=clip.mp4 --mask=first.png --checkpoint=run --output_path=demo

Writes masks/<frame>.png, overlay.mp4 and sheet.png. --pictures adds what the network sees:
features.png, the first three principal components of the features as colours, and matches.png, the
cells of the last frame that are most like some of the first.
"""

from __future__ import annotations

import os
import sys

import cv2
import numpy as np

from common import masks

from . import cli, propagation
from .config import HEAD, get_config

SHEET = 8  # pictures of sheet.png, at least, where there are so many frames
MATCHES = 12  # cells that matches.png follows
CELL = 8  # px a cell in the pictures


def first_mask(args) -> np.ndarray:
    """Ids uint8 [H, W] of the first frame.

    Raises:
      ValueError: of another size than the frames, or without an object.
    """
    image = next((image for _, image in masks.read_frames(args.input)), None)
    mask = masks.read_mask(args.mask)
    if mask.shape != image.shape[:2]:
        raise ValueError(
            f'{args.mask} is {mask.shape[1]}x{mask.shape[0]}, the frames are '
            f'{image.shape[1]}x{image.shape[0]}; the mask must have their size'
        )
    if not ((mask > 0) & (mask < 255)).any():
        raise ValueError(f'{os.path.abspath(args.mask)} marks no object: all pixels are 0 or 255')
    return mask


def written(results, frames, folder: str):
    """Writes each mask and yields its picture; names from `frames`."""
    for (name, image), mask in zip(frames, results):
        masks.write_mask(os.path.join(folder, name + '.png'), mask)
        yield masks.overlay(image, mask)


def thinned(pictures, kept: list):
    """Passes pictures on and keeps SHEET to 2 SHEET of them, evenly spaced, in `kept`."""
    every = 1
    for i, picture in enumerate(pictures):
        if i % every == 0:
            kept.append(picture)
        if len(kept) == 2 * SHEET:
            kept[:], every = kept[::2], 2 * every
        yield picture


def components(maps: np.ndarray) -> np.ndarray:
    """uint8 [n, h, w, 3], the first three principal components of features [n, h, w, C]."""
    flat = maps.reshape(-1, maps.shape[-1]).astype(np.float64)
    flat = flat - flat.mean(0)
    _, vectors = np.linalg.eigh(flat.T @ flat)
    found = flat @ vectors[:, :-4:-1]
    low, high = np.percentile(found, (1, 99), axis=0)
    found = np.clip((found - low) / np.maximum(high - low, 1e-9), 0, 1)
    return np.round(255 * found).astype(np.uint8).reshape(*maps.shape[:3], 3)


def feature_picture(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Frames uint8 [n, H, W, 3] above the components() of their features."""
    size = maps.shape[2] * CELL, maps.shape[1] * CELL
    colours = [cv2.resize(c, size, interpolation=cv2.INTER_NEAREST) for c in components(maps)]
    images = [cv2.resize(image, size) for image in images]
    return np.vstack([np.hstack(images), np.hstack(colours)])


def match_picture(images: np.ndarray, maps: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """First and last of frames uint8 [n, H, W, 3] side by side; lines from cells of the objects,
    ids uint8 [H, W] of the first, to those most like them in features [n, h, w, C]."""
    height, width, channels = maps.shape[1:]
    small = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    inside = np.flatnonzero((small > 0) & (small < 255))
    chosen = inside[np.linspace(0, len(inside) - 1, MATCHES).astype(int)] if len(inside) else inside
    last = maps[-1].reshape(-1, channels)
    best = np.argmax(maps[0].reshape(-1, channels)[chosen] @ last.T, axis=1)
    size = width * CELL, height * CELL
    picture = np.hstack([cv2.resize(images[0], size), cv2.resize(images[-1], size)])
    for k, (start, end) in enumerate(zip(chosen, best)):
        points = [
            (int(x * CELL + CELL // 2 + shift), int(y * CELL + CELL // 2))
            for (y, x), shift in ((divmod(start, width), 0), (divmod(end, width), size[0]))
        ]
        colour = masks.PALETTE[k + 1, ::-1].tolist()
        cv2.line(picture, *points, colour, 1, cv2.LINE_AA)
        for point in points:
            cv2.circle(picture, point, 4, colour, -1, cv2.LINE_AA)
    return picture


def draw_features(network, cfg, images: list, mask: np.ndarray, output_path: str) -> None:
    """Writes features.png of some frames uint8 [H, W, 3], matches.png of the first and last."""
    images, size = np.stack(images), (cfg.test_height, cfg.test_width)
    maps = [network[0](propagation.resized(image, size)[None]) for image in images]
    maps = np.concatenate(maps)
    picture = feature_picture(images, maps)
    masks.write_image(os.path.join(output_path, 'features.png'), picture)
    picture = match_picture(images, maps, mask)
    masks.write_image(os.path.join(output_path, 'matches.png'), picture)


@cli.program
def main(argv=None):
    """Propagates and draws every frame."""
    flags = cli.parser(__doc__)
    flags.add_argument('--input', required=True, help='video file, or folder of frames')
    flags.add_argument('--mask', required=True, help='PNG of the first frame; ids are objects')
    flags.add_argument('--checkpoint', required=True, help='folder or prefix')
    flags.add_argument('--output_path', default='demo')
    flags.add_argument('--key', help='features; default: merge, or the best that there is')
    flags.add_argument('--head', action='store_true', help='radius 25, the last 20 frames')
    flags.add_argument('--fps', type=float, default=25, help='frames a second of overlay.mp4')
    flags.add_argument('--pictures', action='store_true', help='features.png and matches.png')
    args = flags.parse_args(argv)
    cfg = cli.configure(args, get_config, args.checkpoint)
    cfg.update(HEAD if args.head else {}, key=args.key or cfg.key)
    mask = first_mask(args)
    output_path = cli.writable(args.output_path)
    folder, sheet = cli.writable(os.path.join(output_path, 'masks')), []
    with propagation.loaded(cfg, cli.checkpoint_prefix(args.checkpoint)) as network:
        frames = (image for _, image in masks.read_frames(args.input))
        results = propagation.propagate(network, cfg, frames, {0: mask})
        pictures = written(results, masks.read_frames(args.input), folder)
        overlay = os.path.join(output_path, 'overlay.mp4')
        count = masks.write_video(overlay, thinned(pictures, sheet), args.fps)
        if args.pictures:
            chosen = set(np.linspace(0, count - 1, 4).astype(int).tolist())
            frames = enumerate(masks.read_frames(args.input))
            images = [image for t, (_, image) in frames if t in chosen]
            draw_features(network, cfg, images, mask, output_path)
    sheet = masks.contact_sheet(sheet, 4, 1280)
    masks.write_image(os.path.join(output_path, 'sheet.png'), sheet)
    print(f'{count} frames -> {output_path}', flush=True)


if __name__ == '__main__':
    sys.exit(main())
