"""Exports a trained network: SavedModels and frozen graphs of its two halves, and the ATC lines
that make offline models.

    python -m OSMN.export --checkpoint=run --output_path=exported [--height=480 --width=854]

OSMN_modulator: `guide` float32 [1, G, G, 3] -> `scales` float32 [1, K] (node out_scales), once an
object. OSMN: `image` float32 [1, H, W, 3] BGR minus mean, `heat` float32 [1, H, W, 1], `scales` ->
`probability` float32 [1, H, W, 1] (node out_probability), every frame. Static shapes, as ATC wants
them.
"""

from __future__ import annotations

import sys

from common.lazy import tf

from . import cli, model, pretrained
from .config import get_config


def build_modulator(cfg):
    """(inputs, outputs) of the visual modulator's graph."""
    guide = tf.placeholder(tf.float32, [1, cfg.guide_size, cfg.guide_size, 3], 'guide')
    return {'guide': guide}, {'scales': model.visual_modulator(guide, cfg, False)}


def build_segmenter(cfg):
    """(inputs, outputs) of the segmentation's graph."""
    inputs = {
        'image': tf.placeholder(tf.float32, [1, cfg.test_height, cfg.test_width, 3], 'image'),
        'heat': tf.placeholder(tf.float32, [1, cfg.test_height, cfg.test_width, 1], 'heat'),
    }
    if cfg.visual_modulator:
        with tf.Graph().as_default():
            count = build_modulator(cfg)[1]['scales'].shape.as_list()[1]
        inputs['scales'] = tf.placeholder(tf.float32, [1, count], 'scales')
    return inputs, {'probability': model.network(inputs, cfg, False)['probability']}


@cli.program
def main(argv=None):
    """Exports and prints the ATC commands."""
    flags = cli.parser(__doc__)
    cli.add_export_flags(flags)
    args = flags.parse_args(argv)
    pretrained.choose(args)
    cfg = cli.configure(args, get_config, args.checkpoint)
    cfg.device = 'cpu'  # the exported graph carries no NPU scopes
    cfg.test_height, cfg.test_width = args.height or cfg.test_height, args.width or cfg.test_width
    if not cfg.test_width:
        raise ValueError('test_width=0 (the aspect of each frame): an export needs a --width')
    output_path = cli.writable(args.output_path)
    cli.export_graph(lambda: build_segmenter(cfg), cfg.name, args, output_path)
    if cfg.visual_modulator:
        name = f'{cfg.name}_modulator'
        cli.export_graph(lambda: build_modulator(cfg), name, args, output_path)


if __name__ == '__main__':
    sys.exit(main())
