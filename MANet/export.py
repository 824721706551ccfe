"""Exports a trained network: SavedModels and frozen graphs of its parts, and the ATC lines that
make offline models.

    python -m MANet.export --checkpoint=run --output_path=exported --objects=3

MANet_embed: `image` float32 [1, H, W, 3], B, G, R, 0..255 -> `embedding` [1, H/4, W/4, 100], once a
frame. MANet_interact: `embedding`, `strokes`, `previous` -> `logits`, `own`. MANet_match: `query`,
`reference`, `previous`, `labels`, `mask` -> `global_map`, `local_map`. MANet_propagate:
`embedding`, `global`, `local`, `mask` -> `logits`. Output nodes are called out_<name>. Static
shapes, for a number of objects.
"""

from __future__ import annotations

import functools
import sys

from . import cli, inference, pretrained
from .config import get_config


@cli.program
def main(argv=None):
    """Exports and prints the ATC commands."""
    flags = cli.parser(__doc__)
    cli.add_export_flags(flags)
    flags.add_argument('--objects', type=cli.positive, default=3, help='that the heads answer for')
    args = flags.parse_args(argv)
    pretrained.choose(args)
    cfg = cli.configure(args, get_config, args.checkpoint)
    cfg.device = 'onnx' if args.onnx else 'atc'  # no NPU scopes, and no loops
    size = args.height or cfg.test_height, args.width or cfg.test_width
    if not size[1]:
        raise ValueError('test_width=0 is any width: --width is needed')
    output_path = cli.writable(args.output_path)
    for part, build in inference.PARTS.items():
        if part == 'embed':
            graph = functools.partial(build, cfg, 1, size)
        else:
            graph = functools.partial(build, cfg, args.objects + 1, inference.cells_of(size))
        cli.export_graph(graph, f'{cfg.name}_{part}', args, output_path)


if __name__ == '__main__':
    sys.exit(main())
