"""Segments your own video: a file or a folder of frames, and the mask of its first frame.

    python -m OSVOS.demo --input=clip.mp4 --mask=first.png --checkpoint=run --output_path=demo

Trains online on the first frame, one network an object of the mask, then writes masks/<frame>.png,
overlay.mp4 and sheet.png. Given again, it goes on from what is there.
"""

from __future__ import annotations

import os
import sys

import numpy as np

from common import masks

from . import cli, evaluate, online
from .config import get_config

SHEET = 8  # pictures of sheet.png, at least, where there are so many frames


def first_frame(args, output_path: str) -> tuple[str, tuple[int, int]]:
    """Writes the first frame where online training reads it; returns its path and (H, W)."""
    image = next((image for _, image in masks.read_frames(args.input)), None)
    if image is None:
        raise ValueError(f'{os.path.abspath(args.input)} has no frame')
    mask = masks.read_mask(args.mask)
    if mask.shape != image.shape[:2]:
        raise ValueError(
            f'{args.mask} is {mask.shape[1]}x{mask.shape[0]}, the frames are '
            f'{image.shape[1]}x{image.shape[0]}; the mask must have their size'
        )
    path = os.path.join(output_path, 'first_frame.png')
    masks.write_image(path, image)
    return path, image.shape[:2]


def train_objects(cfg, args, image_path: str, output_path: str) -> dict:
    """{object id: checkpoint prefix}, one online training each."""
    parent = cli.checkpoint_prefix(args.checkpoint)
    evaluate.check_checkpoint(cfg, parent)
    ids = [int(n) for n in np.unique(masks.read_mask(args.mask)) if 0 < n < 255]
    if not ids:
        raise ValueError(f'{os.path.abspath(args.mask)} marks no object: all pixels are 0 or 255')
    return {
        number: online.finetune(
            cfg,
            (image_path, args.mask, number),
            parent,
            os.path.join(output_path, 'online', str(number)),
        )
        for number in ids
    }


@cli.program
def main(argv=None):
    """Trains on the first frame, then segments and draws every frame."""
    flags = cli.parser(__doc__)
    flags.add_argument('--input', required=True, help='video file, or folder of frames')
    flags.add_argument('--mask', required=True, help='PNG of the first frame; ids are objects')
    flags.add_argument('--checkpoint', required=True, help='of the parent: folder or prefix')
    flags.add_argument('--output_path', default='demo')
    flags.add_argument('--online_steps', type=int, help='updates on the first frame')
    flags.add_argument('--fps', type=float, default=25, help='frames a second of overlay.mp4')
    args = flags.parse_args(argv)
    cfg = cli.configure(args, get_config, args.checkpoint)
    cfg.online_steps = args.online_steps or cfg.online_steps
    output_path = cli.writable(args.output_path)
    image_path, shape = first_frame(args, output_path)
    checkpoints = train_objects(cfg, args, image_path, output_path)
    folder = cli.writable(os.path.join(output_path, 'masks'))
    sheet, every = [], 1

    def frames():
        return (image for _, image in masks.read_frames(args.input))

    def drawn():
        nonlocal sheet, every
        results = evaluate.segment(cfg, checkpoints, frames, shape)
        for i, ((name, image), mask) in enumerate(zip(masks.read_frames(args.input), results)):
            masks.write_mask(os.path.join(folder, name + '.png'), mask)
            picture = masks.overlay(image, mask)
            if i % every == 0:
                sheet.append(picture)
            if len(sheet) == 2 * SHEET:  # of any length of clip, at least SHEET evenly spaced
                sheet, every = sheet[::2], 2 * every
            yield picture

    masks.write_video(os.path.join(output_path, 'overlay.mp4'), drawn(), args.fps)
    masks.write_image(os.path.join(output_path, 'sheet.png'), masks.contact_sheet(sheet, 4, 1280))
    print(f'masks, overlay.mp4 and sheet.png are in {output_path}', flush=True)


if __name__ == '__main__':
    sys.exit(main())
