"""Exports a trained network: SavedModel and frozen graph of its features, and the ATC line that
makes an offline model.

    python -m ColorNet.export --checkpoint=run --output_path=exported [--height=480 --width=864]

Input `image` float32 [1, H, W, 3], R, G, B, 0..255; outputs float32 [1, H/8, W/8, C], every cell of
unit length: color, q_color and, with both branches, cls, merge, q_cls, q_merge; of dense-ulearn-vos
res3, res4, key. --votes adds ColorNet_votes, a frame's label propagation (propagation.votes).
"""

from __future__ import annotations

import os
import sys

import tensorflow.compat.v1 as tf

from . import cli, model, propagation
from .config import get_config


def features(cfg):
    """(inputs, outputs) of the network's graph."""
    image = tf.placeholder(tf.float32, [1, cfg.test_height, cfg.test_width, 3], 'image')
    found = model.extract(model.normalised(image, cfg), cfg)
    if 'key' in found:  # of dense-ulearn-vos: the same tensor
        del found['q_cls']
    return {'image': image}, found


def votes(cfg):
    """(inputs, outputs) of one frame's label propagation."""
    with tf.Graph().as_default():
        shape = features(cfg)[1][propagation.feature_key(cfg)].shape.as_list()[1:]
    inputs = {k: tf.placeholder(tf.float32, shape, k) for k in ('query', 'first')}
    inputs['others'] = tf.placeholder(tf.float32, [len(cfg.context), *shape], 'others')
    weight, cell = propagation.votes(*inputs.values(), cfg)
    return inputs, {'weight': weight, 'cell': cell}


def export(cfg, build, name: str, prefix: str, output_path: str):
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
        outputs = {key: tf.identity(tensor, f'out_{key}') for key, tensor in outputs.items()}
        if tf.global_variables():
            found = cli.match_variables(prefix, tf.global_variables())
            tf.train.Saver(found).restore(session, prefix)
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
    flags.add_argument('--height', type=int, help='px; default: of the tests')
    flags.add_argument('--width', type=int, help='px; default: of the tests')
    flags.add_argument('--votes', action='store_true', help='label propagation of a frame too')
    args = flags.parse_args(argv)
    cfg = cli.configure(args, get_config, args.checkpoint)
    cfg.device = 'atc'  # no NPU scopes, and no loops
    cfg.test_height, cfg.test_width = args.height or cfg.test_height, args.width or cfg.test_width
    prefix, output_path = cli.checkpoint_prefix(args.checkpoint), cli.writable(args.output_path)
    parts = [(features, cfg.name)] + [(votes, f'{cfg.name}_votes')] * args.votes
    for build, name in parts:
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
