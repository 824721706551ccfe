"""Segments your own video: a file or a folder of frames, and the mask of its first frame.

    python -m OSVOS.demo --input=clip.mp4 --mask=first.png --checkpoint=run --output_path=demo

Trains online on the first frame, one network an object of the mask, then writes masks/<frame>.png,
overlay.mp4 and sheet.png. Given again, it goes on from what is there.
"""

from __future__ import annotations

import contextlib
import os
import sys

from common import files, masks, videos, weights
from common.lazy import np

from . import cli, inference, online, pretrained
from .config import get_config


def first_pair(ids: np.ndarray, image: np.ndarray, output_path: str) -> tuple[str, str]:
    """Writes the first frame and its checked mask where online training reads them; returns their
    paths."""
    paths = [os.path.join(output_path, name) for name in ('first_frame.png', 'first_mask.png')]
    masks.write_image(paths[0], image)
    masks.write_mask(paths[1], ids)
    return paths[0], paths[1]


@contextlib.contextmanager
def tuned(cfg, parent: str, image: np.ndarray, ids: np.ndarray, output_path: str):
    """{object id: network} for inference.segment(), each trained online on a first frame.

    Args:
      cfg: of the parent.
      parent: prefix of its checkpoint.
      image: uint8 [H, W, 3] BGR.
      ids: uint8 [H, W].
      output_path: folder of the trainings.
    """
    image_path, mask_path = first_pair(ids, image, output_path)
    with contextlib.ExitStack() as stack:
        networks = {}
        for number in videos.numbers({0: ids}):
            folder = os.path.join(output_path, 'online', str(number))
            prefix = online.finetune(cfg, (image_path, mask_path, number), parent, folder)
            networks[number] = stack.enter_context(inference.load(prefix, cfg))
        yield networks


def check_frames(source: str) -> None:
    """Reads every frame once: what is wrong with a video shows before the training, not after."""
    for _ in masks.read_frames(source):
        pass


@cli.program
def main(argv=None):
    """Trains on the first frame, then segments and draws every frame."""
    flags = cli.parser(__doc__)
    cli.add_demo_flags(flags)
    flags.add_argument('--mask', help='PNG of the first frame; ids are objects')
    text = 'x,y,width,height px instead, once an object: GrabCut makes the mask'
    flags.add_argument('--box', action='append', help=text)
    flags.add_argument('--online_steps', type=cli.positive, help='updates on the first frame')
    args = flags.parse_args(argv)
    pretrained.choose(args)
    cfg = cli.configure(args, get_config, args.checkpoint)
    cfg.online_steps = args.online_steps or cfg.online_steps
    parent = weights.checkpoint_prefix(args.checkpoint)
    image = videos.first_frame(args.input)
    ids = videos.first_ids(args.input, args.mask, args.box)
    check_frames(args.input)
    with inference.load(parent, cfg):
        cli.say_weights(cfg, parent)
    output_path = cli.demo_folder(args)
    facts = {name: cfg[name] for name in (*online.FACTS, 'online_learning_rate', 'threshold')}
    facts['boxes'] = args.box
    files.claim(output_path, videos.claim_facts(args.input, args.mask, f'{parent}.index', facts))
    with tuned(cfg, parent, image, ids, output_path) as networks:
        results = inference.segment(networks, cfg, videos.Frames(args.input), {0: ids})
        videos.write_clip(args.input, results, output_path, args.fps)


if __name__ == '__main__':
    sys.exit(main())
