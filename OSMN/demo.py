"""Segments your own video: a file or a folder of frames, and the mask of its first frame.

    python -m OSMN.demo --input=clip.mp4 --mask=first.png --checkpoint=run --output_path=demo

Nothing is trained. Writes masks/<frame>.png, overlay.mp4 and sheet.png. The network takes frames of
the aspect of yours, their short side that of the tests (--set=test_height=...).
"""

from __future__ import annotations

import os
import sys

from common import masks

from . import cli, evaluate
from .config import get_config

SHEET = 8  # pictures of sheet.png, at least, where there are so many frames


def first_mask(args):
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


@cli.program
def main(argv=None):
    """Segments and draws every frame."""
    flags = cli.parser(__doc__)
    flags.add_argument('--input', required=True, help='video file, or folder of frames')
    flags.add_argument('--mask', required=True, help='PNG of the first frame; ids are objects')
    flags.add_argument('--checkpoint', required=True, help='folder or prefix')
    flags.add_argument('--output_path', default='demo')
    flags.add_argument('--fps', type=float, default=25, help='frames a second of overlay.mp4')
    flags.add_argument('--crf', action='store_true', help='refine by a CRF; needs pydensecrf')
    args = flags.parse_args(argv)
    cfg = cli.configure(args, get_config, args.checkpoint)
    cfg.test_width = 0  # any aspect
    mask = first_mask(args)
    output_path = cli.writable(args.output_path)
    folder = cli.writable(os.path.join(output_path, 'masks'))
    sheet, every = [], 1

    def drawn(pictures):
        nonlocal sheet, every
        for i, picture in enumerate(pictures):
            if i % every == 0:
                sheet.append(picture)
            if len(sheet) == 2 * SHEET:  # of any length of clip, at least SHEET evenly spaced
                sheet, every = sheet[::2], 2 * every
            yield picture

    def frames():
        return (image for _, image in masks.read_frames(args.input))

    with evaluate.loaded(cfg, cli.checkpoint_prefix(args.checkpoint)) as network:
        results = evaluate.segment(network, cfg, frames, {0: mask}, args.crf)
        pictures = drawn(written(results, masks.read_frames(args.input), folder))
        masks.write_video(os.path.join(output_path, 'overlay.mp4'), pictures, args.fps)
    masks.write_image(os.path.join(output_path, 'sheet.png'), masks.contact_sheet(sheet, 4, 1280))
    print(f'masks, overlay.mp4 and sheet.png are in {output_path}', flush=True)


if __name__ == '__main__':
    sys.exit(main())
