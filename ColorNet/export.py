"""Exports a trained network: SavedModel and frozen graph of its features, and the ATC line that
makes an offline model.

    python -m ColorNet.export --checkpoint=run --output_path=exported [--height=480 --width=864]

Input `image` float32 [1, H, W, 3], R, G, B, 0..255; outputs float32 [1, H/8, W/8, C], every cell of
unit length: color, q_color and, with both branches, cls, merge, q_cls, q_merge; of dense-ulearn-vos
res3, res4, key (nodes out_<name>). --votes adds ColorNet_votes, a frame's label propagation:
query, first, others -> weight, cell (propagation.votes).
"""

from __future__ import annotations

import sys

from common.lazy import tf

from . import cli, inference, model, pretrained, propagation
from .config import get_config

SIZE = (480, 854)  # px, of a network that takes frames as they are: DAVIS at 480p


def build_features(cfg):
    """(inputs, outputs) of the network's graph."""
    image = tf.placeholder(tf.float32, [1, cfg.test_height, cfg.test_width, 3], 'image')
    found = model.extract(model.normalize(image, cfg), cfg)
    if 'key' in found:  # of dense-ulearn-vos: the same tensor
        del found['q_cls']
    return {'image': image}, found


def build_votes(cfg):
    """(inputs, outputs) of one frame's label propagation."""
    with tf.Graph().as_default():
        _, found = build_features(cfg)
        shape = found[propagation.feature_key(cfg)].shape.as_list()[1:]
    return inference.vote_graph(shape, cfg)


@cli.program
def main(argv=None):
    """Exports and prints the ATC commands."""
    flags = cli.parser(__doc__)
    cli.add_export_flags(flags)
    flags.add_argument('--votes', action='store_true', help='label propagation of a frame too')
    args = flags.parse_args(argv)
    pretrained.choose(args)
    cfg = cli.configure(args, get_config, args.checkpoint)
    cfg.device = 'atc'  # no NPU scopes, and no loops
    cfg.test_height = args.height or cfg.test_height or SIZE[0]
    cfg.test_width = args.width or cfg.test_width or SIZE[1]
    output_path = cli.writable(args.output_path)
    cli.export_graph(lambda: build_features(cfg), cfg.name, args, output_path)
    if args.votes:
        name = f'{cfg.name}_votes'
        cli.export_graph(lambda: build_votes(cfg), name, args, output_path)


if __name__ == '__main__':
    sys.exit(main())
