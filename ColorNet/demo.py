"""Propagates the mask of the first frame through your own video: a file or a folder of frames.

    python -m ColorNet.demo --input=clip.mp4 --mask=first.png --checkpoint=run --output_path=demo

Writes masks/<frame>.png, overlay.mp4 and sheet.png. --images adds what the network sees:
features.png, the first three principal components of the features as colors, and matches.png, the
cells of the last frame that are most like some of the first.
"""

from __future__ import annotations

import os
import sys

from common import files, masks, videos, weights
from common.lazy import cv2, np

from . import cli, inference, pretrained
from .config import get_config
from .evaluate import add_propagation_flags, take_propagation_flags

SHOWN = 4  # frames of features.png
MATCHES = 12  # cells that matches.png follows
CELL = 8  # px a cell in the images


def components(maps: np.ndarray) -> np.ndarray:
    """uint8 [n, h, w, 3], the first three principal components of features [n, h, w, C]."""
    flat = maps.reshape(-1, maps.shape[-1]).astype(np.float64)
    flat = flat - flat.mean(0)
    _, vectors = np.linalg.eigh(flat.T @ flat)
    found = flat @ vectors[:, :-4:-1]
    low, high = np.percentile(found, (1, 99), axis=0)
    found = np.clip((found - low) / np.maximum(high - low, 1e-9), 0, 1)
    return np.round(255 * found).astype(np.uint8).reshape(*maps.shape[:3], 3)


def draw_components(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Frames uint8 [n, H, W, 3] above the components() of their features."""
    size = maps.shape[2] * CELL, maps.shape[1] * CELL
    colors = [cv2.resize(c, size, interpolation=cv2.INTER_NEAREST) for c in components(maps)]
    images = [cv2.resize(image, size) for image in images]
    return np.vstack([np.hstack(images), np.hstack(colors)])


def draw_matches(images: np.ndarray, maps: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """First and last of frames uint8 [n, H, W, 3] side by side; lines from cells of the objects,
    ids uint8 [H, W] of the first, to those most like them in features [n, h, w, C]."""
    height, width, channels = maps.shape[1:]
    small = cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST)
    starts = np.flatnonzero((small > 0) & (small < 255))
    if len(starts):
        starts = starts[np.linspace(0, len(starts) - 1, MATCHES).astype(int)]
    first, last = maps[0].reshape(-1, channels), maps[-1].reshape(-1, channels)
    ends = np.argmax(first[starts] @ last.T, axis=1)
    size = width * CELL, height * CELL
    canvas = np.hstack([cv2.resize(images[0], size), cv2.resize(images[-1], size)])
    for k, (start, end) in enumerate(zip(starts, ends)):
        left = _center(start, width)
        right = _center(end, width)
        right = right[0] + size[0], right[1]
        color = masks.palette()[k + 1, ::-1].tolist()
        cv2.line(canvas, left, right, color, 1, cv2.LINE_AA)
        for point in (left, right):
            cv2.circle(canvas, point, 4, color, -1, cv2.LINE_AA)
    return canvas


def _center(cell, width):
    """(x, y) px of a cell's center."""
    row, column = divmod(int(cell), width)
    return column * CELL + CELL // 2, row * CELL + CELL // 2


def write_images(network, source: str, count: int, ids: np.ndarray, output_path: str) -> None:
    """Writes features.png of SHOWN frames and matches.png of the first and last.

    Args:
      network: of inference.load().
      source: video file or folder of images.
      count: frames of it.
      ids: uint8 [H, W], mask of the first frame.
      output_path: folder.
    """
    chosen = set(np.linspace(0, count - 1, SHOWN).astype(int).tolist())
    images = np.stack([image for t, image in enumerate(videos.Frames(source)) if t in chosen])
    maps = np.concatenate([network.features(image[None]) for image in images])
    masks.write_image(os.path.join(output_path, 'features.png'), draw_components(images, maps))
    masks.write_image(os.path.join(output_path, 'matches.png'), draw_matches(images, maps, ids))


def facts(args, cfg, prefix: str) -> dict:
    """What the results of this demo are made from, for files.claim()."""
    names = ('key', 'radius', 'context', 'neighbours', 'temperature', 'test_height', 'test_width')
    settings = {'boxes': args.box, **{name: cfg[name] for name in names}}
    return videos.claim_facts(args.input, args.mask, f'{prefix}.index', settings)


@cli.program
def main(argv=None):
    """Propagates and draws every frame."""
    flags = cli.parser(__doc__)
    cli.add_demo_flags(flags)
    flags.add_argument('--mask', help='PNG of the first frame; ids are objects')
    text = 'x,y,width,height px instead, once an object: GrabCut makes the mask'
    flags.add_argument('--box', action='append', help=text)
    add_propagation_flags(flags)
    text = 'features.png and matches.png'
    flags.add_argument('--images', '--pictures', dest='images', action='store_true', help=text)
    args = flags.parse_args(argv)
    pretrained.choose(args)
    cfg = cli.configure(args, get_config, args.checkpoint)
    take_propagation_flags(args, cfg)
    prefix = weights.checkpoint_prefix(args.checkpoint)
    ids = videos.first_ids(args.input, args.mask, args.box)
    for _ in videos.Frames(args.input):  # what is wrong with a video shows before the work
        pass
    with inference.load(prefix, cfg) as network:
        cli.say_weights(cfg, prefix)
        output_path = cli.demo_folder(args)
        files.claim(output_path, facts(args, cfg, prefix))
        results = inference.segment(network, cfg, videos.Frames(args.input), {0: ids})
        count = videos.write_clip(args.input, results, output_path, args.fps)
        if args.images:
            write_images(network, args.input, count, ids, output_path)


if __name__ == '__main__':
    sys.exit(main())
