"""Exports a trained network: SavedModels and frozen graphs, and the ATC lines that make offline
models.

    python -m SiamMask.export --checkpoint=run --output_path=exported

SiamMask_template: `template` -> kernel_cls, kernel_loc, kernel_mask, once an object.
SiamMask_track: `search`, the kernels, `size`, `hyper` -> best, score, penalty, box, mask, once a
frame (see model.track). SiamMask_pair: `template`, `search` -> cls, loc, masks, the whole maps, as
the original port's to_pb.py has them. Images are float32, B, G, R, 0..255; the nodes of outputs are
called out_<name>.
"""

from __future__ import annotations

import functools
import sys

from common.lazy import tf

from . import cli, model, pretrained
from .backbone import scaled
from .config import get_config


def image_input(name: str, side: int) -> tf.Tensor:
    """Placeholder float32 [1, side, side, 3]."""
    return tf.placeholder(tf.float32, [1, side, side, 3], name)


def build_template(cfg):
    """(inputs, outputs) of the template's graph."""
    image = image_input('template', model.TEMPLATE)
    kernels = model.template_kernels(image, cfg)
    return {'template': image}, {f'kernel_{name}': kernel for name, kernel in kernels.items()}


def build_track(cfg):
    """(inputs, outputs) of a frame's graph."""
    shape = [1, 5, 5, scaled(model.NECK, cfg)]
    inputs = {
        'search': image_input('search', model.SEARCH),
        'size': tf.placeholder(tf.float32, [1, 2], 'size'),
        'hyper': tf.placeholder(tf.float32, [2], 'hyper'),
    }
    kernels = {name: tf.placeholder(tf.float32, shape, f'kernel_{name}') for name in model.BRANCHES}
    found = model.track(inputs['search'], kernels, inputs['size'], inputs['hyper'], cfg)
    inputs.update({f'kernel_{name}': kernel for name, kernel in kernels.items()})
    return inputs, {key: found[key] for key in ('best', 'score', 'penalty', 'box', 'mask')}


def build_pair(cfg):
    """(inputs, outputs) of template and search image together, every cell's 63x63 mask."""
    template = image_input('template', model.TEMPLATE)
    search = image_input('search', model.SEARCH)
    outputs = {}
    with tf.variable_scope('siammask', reuse=tf.AUTO_REUSE):
        z, _ = model.extract(template, cfg)
        x, _ = model.extract(search, cfg)
        for name in model.BRANCHES:
            kernel = model.branch_input(z, name, 'kernel', cfg)
            wide = model.branch_input(x, name, 'search', cfg)
            hidden = model.head_hidden(model.correlate(wide, kernel, cfg), name, cfg)
            key = 'masks' if name == 'mask' else name
            outputs[key] = model.head_output(hidden, name, cfg)
    return {'template': template, 'search': search}, outputs


@cli.program
def main(argv=None):
    """Exports and prints the ATC commands."""
    flags = cli.parser(__doc__)
    cli.add_export_flags(flags, sizes=False)
    args = flags.parse_args(argv)
    pretrained.choose(args)
    cfg = cli.configure(args, get_config, args.checkpoint)
    cfg.device = 'onnx' if args.onnx else 'atc'  # no NPU scopes, and no forms that only CPUs like
    output_path = cli.writable(args.output_path)
    parts = {'template': build_template, 'track': build_track, 'pair': build_pair}
    for name, build in parts.items():
        part = functools.partial(build, cfg)
        cli.export_graph(part, f'{cfg.name}_{name}', args, output_path)


if __name__ == '__main__':
    sys.exit(main())
