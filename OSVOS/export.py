"""Exports a trained network: SavedModel and frozen graph, and the ATC line that makes an offline
model.

    python -m OSVOS.export --checkpoint=run --output_path=exported [--height=480 --width=854]

Input `image` float32 [1, H, W, 3], BGR, 0..255 minus mean; output `probability` float32 [1, H, W,
1]. Static shapes, as ATC wants them.
"""

from __future__ import annotations

import os
import sys

import tensorflow.compat.v1 as tf

from . import cli, model
from .config import get_config


def export(cfg, prefix: str, output_path: str) -> tuple[str, str]:
    """Writes saved_model/ and <name>.pb; returns their paths.

    Raises:
      FileExistsError: saved_model/ is there already.
    """
    folder = os.path.join(output_path, 'saved_model')
    frozen_path = os.path.join(output_path, f'{cfg.name}.pb')
    if os.path.exists(folder):
        raise FileExistsError(f'{folder} is there already; choose another --output_path')
    with tf.Graph().as_default(), tf.Session() as session:
        image = tf.placeholder(tf.float32, [1, cfg.height, cfg.width, 3], 'image')
        output = tf.identity(model.network({'image': image}, cfg, False)['probability'], 'output')
        tf.train.Saver(cli.match_variables(prefix, tf.global_variables())).restore(session, prefix)
        frozen = tf.graph_util.convert_variables_to_constants(
            session, session.graph.as_graph_def(), [output.op.name]
        )
        with open(frozen_path + '.tmp', 'wb') as f:
            f.write(frozen.SerializeToString())
        os.replace(frozen_path + '.tmp', frozen_path)
        tf.saved_model.simple_save(
            session, folder + '.tmp', {'image': image}, {'probability': output}
        )
    os.replace(folder + '.tmp', folder)
    return folder, frozen_path


@cli.program
def main(argv=None):
    """Exports and prints the ATC command."""
    flags = cli.parser(__doc__)
    flags.add_argument('--checkpoint', required=True, help='folder or prefix')
    flags.add_argument('--output_path', default='exported')
    flags.add_argument('--height', type=int, help='px; default: of the training')
    flags.add_argument('--width', type=int, help='px; default: of the training')
    args = flags.parse_args(argv)
    cfg = cli.configure(args, get_config, args.checkpoint)
    cfg.device = 'cpu'  # the exported graph carries no NPU scopes
    cfg.height, cfg.width = args.height or cfg.height, args.width or cfg.width
    folder, frozen = export(
        cfg, cli.checkpoint_prefix(args.checkpoint), cli.writable(args.output_path)
    )
    print(
        f'{folder}\n{frozen}\non a machine with CANN:\n'
        f'atc --framework=3 --model={frozen} --output={os.path.splitext(frozen)[0]} '
        f'--input_shape="image:1,{cfg.height},{cfg.width},3" --input_format=NHWC '
        '--out_nodes="output:0" --soc_version=Ascend910A',
        flush=True,
    )


if __name__ == '__main__':
    sys.exit(main())
