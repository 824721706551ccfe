"""Exports a trained network: SavedModels and frozen graphs, and the ATC lines that make offline
models.

    python -m SiamMask.export --checkpoint=run --output_path=exported

SiamMask_template: `template` -> `kernel_cls`, `kernel_loc`, `kernel_mask`, once an object.
SiamMask_track: `search`, the kernels, `size`, `hyper` -> `best`, `score`, `penalty`, `box`, `mask`,
once a frame (see model.track). SiamMask_pair: `template`, `search` -> `cls`, `loc`, `masks`, the
whole maps, as the original port's to_pb.py has them. Pictures are float32, B, G, R, 0..255.
"""

from __future__ import annotations

import os
import sys

import tensorflow.compat.v1 as tf

from . import cli, model
from .backbone import scaled
from .config import get_config


def picture(name: str, side: int) -> tf.Tensor:
    """Placeholder float32 [1, side, side, 3]."""
    return tf.placeholder(tf.float32, [1, side, side, 3], name)


def template(cfg):
    """(inputs, outputs) of the template's graph."""
    image = picture('template', model.TEMPLATE)
    kernels = model.template_kernels(image, cfg)
    return {'template': image}, {f'kernel_{name}': k for name, k in kernels.items()}


def track(cfg):
    """(inputs, outputs) of a frame's graph."""
    shape = [1, 5, 5, scaled(model.NECK, cfg)]
    kernels = {k: tf.placeholder(tf.float32, shape, f'kernel_{k}') for k in model.BRANCHES}
    search = picture('search', model.SEARCH)
    size = tf.placeholder(tf.float32, [1, 2], 'size')
    hyper = tf.placeholder(tf.float32, [2], 'hyper')
    found = model.track(search, kernels, size, hyper, cfg)
    inputs = {'search': search, 'size': size, 'hyper': hyper}
    inputs.update({f'kernel_{name}': tensor for name, tensor in kernels.items()})
    return inputs, {k: found[k] for k in ('best', 'score', 'penalty', 'box', 'mask')}


def pair(cfg):
    """(inputs, outputs) of template and search picture together, every cell's 63x63 mask."""
    inputs = {'template': picture('template', 127), 'search': picture('search', 255)}
    with tf.variable_scope('siammask', reuse=tf.AUTO_REUSE):
        (z, _), (x, _) = (model.extract(image, cfg) for image in inputs.values())
        outputs = {}
        for name in model.BRANCHES:
            kernel, search = (
                model.branch_input(side, name, kind, cfg)
                for side, kind in ((z, 'kernel'), (x, 'search'))
            )
            hidden = model.head_hidden(model.correlate(search, kernel, cfg), name, cfg)
            key = 'masks' if name == 'mask' else name
            outputs[key] = model.head_output(hidden, name, cfg)
    return inputs, outputs


def export(cfg, build, name: str, prefix: str, output_path: str) -> tuple[str, str, dict, list]:
    """Writes saved_model_<name>/ and <name>.pb; returns their paths, the inputs' shapes and the
    outputs' names.

    Raises:
      FileExistsError: the folder is there already.
    """
    folder = os.path.join(output_path, f'saved_model_{name}')
    frozen_path = os.path.join(output_path, f'{name}.pb')
    if os.path.exists(folder):
        raise FileExistsError(f'{folder} is there already; choose another --output_path')
    with tf.Graph().as_default(), tf.Session() as session:
        inputs, outputs = build(cfg)
        names = {key: f'out_{key}' if key in inputs else key for key in outputs}
        outputs = {key: tf.identity(tensor, names[key]) for key, tensor in outputs.items()}
        tf.train.Saver(cli.match_variables(prefix, tf.global_variables())).restore(session, prefix)
        frozen = tf.graph_util.convert_variables_to_constants(
            session, session.graph.as_graph_def(), [t.op.name for t in outputs.values()]
        )
        with open(frozen_path + '.tmp', 'wb') as f:
            f.write(frozen.SerializeToString())
        os.replace(frozen_path + '.tmp', frozen_path)
        tf.saved_model.simple_save(session, folder + '.tmp', inputs, outputs)
        shapes = {key: tensor.shape.as_list() for key, tensor in inputs.items()}
    os.replace(folder + '.tmp', folder)
    return folder, frozen_path, shapes, [f'{t.op.name}:0' for t in outputs.values()]


@cli.program
def main(argv=None):
    """Exports and prints the ATC commands."""
    flags = cli.parser(__doc__)
    flags.add_argument('--checkpoint', required=True, help='folder or prefix')
    flags.add_argument('--output_path', default='exported')
    args = flags.parse_args(argv)
    cfg = cli.configure(args, get_config, args.checkpoint)
    cfg.device = 'atc'  # no NPU scopes, and no forms that only CPUs like
    prefix, output_path = cli.checkpoint_prefix(args.checkpoint), cli.writable(args.output_path)
    for build in (template, track, pair):
        name = f'{cfg.name}_{build.__name__}'
        folder, frozen, shapes, outputs = export(cfg, build, name, prefix, output_path)
        sizes = ';'.join(f'{key}:{",".join(map(str, shape))}' for key, shape in shapes.items())
        print(
            f'{folder}\n{frozen}\non a machine with CANN:\n'
            f'atc --framework=3 --model={frozen} --output={os.path.splitext(frozen)[0]} '
            f'--input_shape="{sizes}" --input_format=NHWC '
            f'--out_nodes="{";".join(outputs)}" --soc_version=Ascend910A',
            flush=True,
        )


if __name__ == '__main__':
    sys.exit(main())
