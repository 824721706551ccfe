"""Exports a trained network: SavedModels and frozen graphs of its two halves, and the ATC lines
that make offline models.

    python -m OSMN.export --checkpoint=run --output_path=exported [--height=480 --width=854]

OSMN_modulator: `guide` float32 [1, G, G, 3] -> `scales` float32 [1, K], once an object. OSMN:
`image` float32 [1, H, W, 3] BGR minus mean, `heat` float32 [1, H, W, 1], `scales` -> `probability`
float32 [1, H, W, 1], every frame. Static shapes, as ATC wants them.
"""

from __future__ import annotations

import os
import sys

import tensorflow.compat.v1 as tf

from . import cli, model
from .config import get_config


def modulator(cfg):
    """(inputs, outputs) of the visual modulator's graph."""
    guide = tf.placeholder(tf.float32, [1, cfg.guide_size, cfg.guide_size, 3], 'guide')
    return {'guide': guide}, {'scales': model.visual_modulator(guide, cfg, False)}


def segmenter(cfg):
    """(inputs, outputs) of the segmentation's graph."""
    inputs = {
        'image': tf.placeholder(tf.float32, [1, cfg.test_height, cfg.test_width, 3], 'image'),
        'heat': tf.placeholder(tf.float32, [1, cfg.test_height, cfg.test_width, 1], 'heat'),
    }
    if cfg.visual_modulator:
        with tf.Graph().as_default():
            count = modulator(cfg)[1]['scales'].shape.as_list()[1]
        inputs['scales'] = tf.placeholder(tf.float32, [1, count], 'scales')
    return inputs, {'probability': model.network(inputs, cfg, False)['probability']}


def export(cfg, build, name: str, prefix: str, output_path: str) -> tuple[str, str, dict]:
    """Writes saved_model_<name>/ and <name>.pb; returns their paths and the inputs' shapes.

    Raises:
      FileExistsError: the folder is there already.
    """
    folder = os.path.join(output_path, f'saved_model_{name}')
    frozen_path = os.path.join(output_path, f'{name}.pb')
    if os.path.exists(folder):
        raise FileExistsError(f'{folder} is there already; choose another --output_path')
    with tf.Graph().as_default(), tf.Session() as session:
        inputs, outputs = build(cfg)
        outputs = {key: tf.identity(tensor, 'output') for key, tensor in outputs.items()}
        tf.train.Saver(cli.match_variables(prefix, tf.global_variables())).restore(session, prefix)
        frozen = tf.graph_util.convert_variables_to_constants(
            session, session.graph.as_graph_def(), ['output']
        )
        with open(frozen_path + '.tmp', 'wb') as f:
            f.write(frozen.SerializeToString())
        os.replace(frozen_path + '.tmp', frozen_path)
        tf.saved_model.simple_save(session, folder + '.tmp', inputs, outputs)
        shapes = {key: tensor.shape.as_list() for key, tensor in inputs.items()}
    os.replace(folder + '.tmp', folder)
    return folder, frozen_path, shapes


@cli.program
def main(argv=None):
    """Exports and prints the ATC commands."""
    flags = cli.parser(__doc__)
    flags.add_argument('--checkpoint', required=True, help='folder or prefix')
    flags.add_argument('--output_path', default='exported')
    flags.add_argument('--height', type=int, help='px; default: of the tests')
    flags.add_argument('--width', type=int, help='px; default: of the tests')
    args = flags.parse_args(argv)
    cfg = cli.configure(args, get_config, args.checkpoint)
    cfg.device = 'cpu'  # the exported graph carries no NPU scopes
    cfg.test_height, cfg.test_width = args.height or cfg.test_height, args.width or cfg.test_width
    prefix, output_path = cli.checkpoint_prefix(args.checkpoint), cli.writable(args.output_path)
    halves = [(segmenter, cfg.name)]
    if cfg.visual_modulator:
        halves.append((modulator, f'{cfg.name}_modulator'))
    for build, name in halves:
        folder, frozen, shapes = export(cfg, build, name, prefix, output_path)
        sizes = ';'.join(f'{key}:{",".join(map(str, shape))}' for key, shape in shapes.items())
        print(
            f'{folder}\n{frozen}\non a machine with CANN:\n'
            f'atc --framework=3 --model={frozen} --output={os.path.splitext(frozen)[0]} '
            f'--input_shape="{sizes}" --input_format=NHWC '
            '--out_nodes="output:0" --soc_version=Ascend910A',
            flush=True,
        )


if __name__ == '__main__':
    sys.exit(main())
