"""Segments your own video: a file or a folder of frames, and the mask of its first frame.

    python -m OSMN.demo --input=clip.mp4 --mask=first.png --checkpoint=run --output_path=demo

Nothing is trained. Writes masks/<frame>.png, overlay.mp4 and sheet.png. The network takes frames of
the aspect of yours, their short side that of the tests (--set=test_height=...).
"""

from __future__ import annotations

import sys

from common import files, masks, videos, weights

from . import cli, inference, pretrained
from .config import get_config

FACTS = ('threshold', 'test_height', 'objects', 'original_mask', 'guide_aspect', 'guide_pad')


@cli.program
def main(argv=None):
    """Segments and draws every frame."""
    flags = cli.parser(__doc__)
    cli.add_demo_flags(flags)
    flags.add_argument('--mask', help='PNG of the first frame; ids are objects')
    text = 'x,y,width,height px instead, once an object: GrabCut makes the mask'
    flags.add_argument('--box', action='append', help=text)
    flags.add_argument('--crf', action='store_true', help='refine by a CRF; needs pydensecrf')
    args = flags.parse_args(argv)
    pretrained.choose(args)
    cfg = cli.configure(args, get_config, args.checkpoint)
    cfg.test_width = 0  # any aspect
    prefix = weights.checkpoint_prefix(args.checkpoint)
    ids = videos.first_ids(args.input, args.mask, args.box)
    for _ in masks.read_frames(args.input):  # what is wrong with a frame shows before the work
        pass
    with inference.load(prefix, cfg) as network:
        cli.say_weights(cfg, prefix)
        output_path = cli.demo_folder(args)
        settings = {'boxes': args.box, 'crf': args.crf, **{name: cfg[name] for name in FACTS}}
        facts = videos.claim_facts(args.input, args.mask, f'{prefix}.index', settings)
        files.claim(output_path, facts)
        frames = videos.Frames(args.input)
        results = inference.segment(network, cfg, frames, {0: ids}, args.crf)
        videos.write_clip(args.input, results, output_path, args.fps)


if __name__ == '__main__':
    sys.exit(main())
