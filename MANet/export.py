"""Exports a trained network: SavedModels and frozen graphs of its parts, and the ATC lines that
make offline models.

    python -m MANet.export --checkpoint=run --output_path=exported --objects=3

MANet_embed: `image` float32 [1, H, W, 3], B, G, R, 0..255 -> `embedding` [1, H/4, W/4, 100], once a
frame. MANet_interact: `embedding`, `strokes`, `previous` -> `logits`, `own`. MANet_match: `query`,
`reference`, `previous`, `labels`, `mask` -> `global_map`, `local_map`. MANet_propagate:
`embedding`, `global`, `local`, `mask` -> `logits`. Static shapes, for a number of objects.
"""

from __future__ import annotations

import os
import sys

import tensorflow.compat.v1 as tf

from . import cli, model, session
from .config import get_config

OUTPUTS = {
    'embed': ('embedding',), 'interact': ('logits', 'own'), 'match': ('global_map', 'local_map'),
    'propagate': ('logits',),
}  # fmt: skip


def export(cfg, part: str, count: int, size, prefix: str, output_path: str):
    """Writes saved_model_<name>/ and <name>.pb of one part; returns their paths, the inputs' shapes
    and the outputs' names.

    Raises:
      FileExistsError: the folder is there already.
    """
    name = f'{cfg.name}_{part}'
    folder = os.path.join(output_path, f'saved_model_{name}')
    frozen_path = os.path.join(output_path, f'{name}.pb')
    if os.path.exists(folder):
        raise FileExistsError(f'{folder} is there already; choose another --output_path')
    with tf.Graph().as_default(), tf.Session() as run:
        inputs, found = session.BUILDERS[part](count, size, cfg)
        found = found if isinstance(found, tuple) else (found,)
        outputs = {key: tf.identity(x, f'out_{key}') for key, x in zip(OUTPUTS[part], found)}
        if tf.global_variables():
            variables = cli.match_variables(prefix, tf.global_variables())
            tf.train.Saver(variables).restore(run, prefix)
        frozen = tf.graph_util.convert_variables_to_constants(
            run, run.graph.as_graph_def(), [t.op.name for t in outputs.values()]
        )
        with open(frozen_path + '.tmp', 'wb') as f:
            f.write(frozen.SerializeToString())
        os.replace(frozen_path + '.tmp', frozen_path)
        tf.saved_model.simple_save(run, folder + '.tmp', inputs, outputs)
        shapes = {tensor.op.name: tensor.shape.as_list() for tensor in inputs.values()}
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
    flags.add_argument('--objects', type=int, default=3, help='that the heads answer for')
    args = flags.parse_args(argv)
    cfg = cli.configure(args, get_config, args.checkpoint)
    cfg.device = 'atc'  # no NPU scopes, and no loops
    size = args.height or cfg.test_height, args.width or cfg.test_width
    prefix, output_path = cli.checkpoint_prefix(args.checkpoint), cli.writable(args.output_path)
    with tf.Graph().as_default():
        cells = model.embed(tf.zeros([1, *size, 3]), cfg).shape.as_list()[1:3]
    for part in OUTPUTS:
        count, shape = (1, size) if part == 'embed' else (args.objects + 1, cells)
        folder, frozen, shapes, outputs = export(cfg, part, count, shape, prefix, output_path)
        sizes = ';'.join(f'{key}:{",".join(map(str, value))}' for key, value in shapes.items())
        print(
            f'{folder}\n{frozen}\non a machine with CANN:\n'
            f'atc --framework=3 --model={frozen} --output={os.path.splitext(frozen)[0]} '
            f'--input_shape="{sizes}" --input_format=NHWC '
            f'--out_nodes="{";".join(outputs)}" --soc_version=Ascend910A',
            flush=True,
        )


if __name__ == '__main__':
    sys.exit(main())
