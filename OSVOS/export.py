"""Exports a trained network: SavedModel and frozen graph, and the ATC line that makes an offline
model.

    python -m OSVOS.export --checkpoint=run --output_path=exported [--height=480 --width=854]

The graph takes `image` float32 [1, H, W, 3] BGR minus mean and gives `probability` float32
[1, H, W, 1] (node out_probability): static shapes, as ATC wants them.
"""

from __future__ import annotations

import sys

from common.lazy import tf

from . import cli, model, pretrained
from .config import get_config


def build(cfg):
    """(inputs, outputs) of the network's graph."""
    image = tf.placeholder(tf.float32, [1, cfg.height, cfg.width, 3], 'image')
    return {'image': image}, {
        'probability': model.network({'image': image}, cfg, False)['probability']
    }


@cli.program
def main(argv=None):
    """Exports and prints the ATC command."""
    flags = cli.parser(__doc__)
    cli.add_export_flags(flags)
    args = flags.parse_args(argv)
    pretrained.choose(args)
    cfg = cli.configure(args, get_config, args.checkpoint)
    cfg.device = 'cpu'  # the exported graph carries no NPU scopes
    cfg.height, cfg.width = args.height or cfg.height, args.width or cfg.width
    output_path = cli.writable(args.output_path)
    cli.export_graph(lambda: build(cfg), cfg.name, args, output_path)


if __name__ == '__main__':
    sys.exit(main())
