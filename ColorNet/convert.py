"""Turns published weights into a checkpoint of this network, or averages the last checkpoints.

    python -m ColorNet.convert --source=color_dul_300_M.pkl --output=published/model.ckpt
    python -m ColorNet.convert --source=dense_ulearn_ytvos.pth --output=dul/model.ckpt
    python -m ColorNet.convert --source=run --average=10 --output=averaged/model.ckpt

Formats: ColorNet's snapshots (size, branches and first kernel are read off the shapes) and
dense-ulearn-vos. --average N: the mean of the last N checkpoints of a training, as the original's
later "merge" snapshots are of epochs 291 - 300.
"""

from __future__ import annotations

import json
import os
import re
import sys

import numpy as np
import tensorflow.compat.v1 as tf

from . import cli, model, npu, weights
from .backbone import WIDTHS
from .config import get_config

LEAVES = {'weight': 'weights', 'bias': 'biases'}
NORM = {  # of PyTorch's batch norm
    'weight': 'gamma', 'bias': 'beta', 'running_mean': 'moving_mean',
    'running_var': 'moving_variance',
}  # fmt: skip


def convert(found: dict):
    """(settings, {our variable: float32 array}, names left out) of {source name: array}.

    Raises:
      ValueError: unknown names; arrays missing or of another shape, both lists given.
    """
    prefix = r'^(module\.)?(convlocal\.)?(fast_net\.)?(backbone\.)?'
    arrays = {re.sub(prefix, '', name): array for name, array in found.items()}
    if 'conv1.weight' not in arrays or 'layer4.0.conv1.weight' not in arrays:
        raise ValueError(
            'unknown weights: expected names such as conv1.weight, layer4.0.conv1.weight or '
            f'fast_net.backbone.conv1.weight; found {sorted(found)[:5]}'
        )
    cfg = settings_of(arrays)
    result, left_out = {}, []
    for name, array in arrays.items():
        module, _, leaf = name.rpartition('.')
        names = NORM if f'{module}.running_mean' in arrays else LEAVES
        if leaf not in names:
            left_out.append(name)
            continue
        array = np.asarray(array, np.float32)
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        result['/'.join(['colornet', *module.split('.'), names[leaf]])] = array
    shapes = network_shapes(cfg)
    wrong = [n for n in shapes if n not in result or result[n].shape != shapes[n]]
    if wrong:
        seen = {n: result[n].shape if n in result else 'nothing' for n in wrong[:3]}
        raise ValueError(
            f'{len(wrong)} of {len(shapes)} variables of {cfg.model_size} are missing or of '
            f'another shape, expected {[(n, shapes[n]) for n in wrong[:3]]}, found {seen}'
        )
    left_out += sorted(set(result) - set(shapes))
    return cfg, {name: result[name] for name in shapes}, left_out


def settings_of(arrays: dict):
    """The settings of the network that official arrays are of."""
    if 'emb_q.conv1.weight' in arrays:
        return get_config('dul')
    cfg = get_config()
    width, _, size, _ = np.shape(arrays['conv1.weight'])
    sizes = {widths[0]: name for name, widths in WIDTHS.items()}
    if width not in sizes:
        raise ValueError(f'conv1 has {width} channels; S, M, L have 32, 48, 64')
    dul = 'layer5.0.conv1.weight' in arrays
    cfg.update(model_size=sizes[width], first_kernal_size=int(size), is_dul=dul)
    return cfg


def network_shapes(cfg) -> dict:
    """{variable: shape} of the network."""
    with tf.Graph().as_default():
        model.extract(tf.zeros([1, 64, 64, 3]), type(cfg)(cfg, device='cpu'))
        return {v.op.name: tuple(v.shape.as_list()) for v in tf.global_variables()}


def averaged(folder: str, count: int) -> dict:
    """{variable: mean float32 array} of the last `count` checkpoints in a folder; ValueError where
    it keeps fewer."""
    cli.checkpoint_prefix(folder)  # raises where there is none
    paths = tf.train.get_checkpoint_state(folder).all_model_checkpoint_paths
    paths = [path for path in paths if os.path.isfile(f'{path}.index')]
    if len(paths) < count:
        raise ValueError(f'{folder} keeps {len(paths)} checkpoints, --average={count}')
    sums = {}
    for path in paths[-count:]:
        for name, array in weights.read_checkpoint(path).items():
            if name.startswith('colornet/') and '/AdamW' not in name:
                sums[name] = sums.get(name, 0) + array.astype(np.float64)
    return {name: (total / count).astype(np.float32) for name, total in sums.items()}


def write(arrays: dict, prefix: str, settings) -> str:
    """Writes a checkpoint, global_step 0, and config.json, under temporary names; its prefix."""
    folder = cli.writable(os.path.dirname(os.path.abspath(prefix)))
    prefix = os.path.join(folder, os.path.basename(prefix))
    with tf.Graph().as_default(), tf.Session() as session:
        feeds = {n: tf.placeholder(tf.float32, a.shape) for n, a in arrays.items()}
        variables = [tf.Variable(feeds[n], name=n) for n in arrays]
        variables.append(tf.train.create_global_step())
        values = {feeds[n]: a for n, a in arrays.items()}
        session.run(tf.global_variables_initializer(), values)
        saver = tf.train.Saver(variables)
        saver.save(session, f'{prefix}.tmp', write_meta_graph=False, write_state=False)
    for ending in ('.data-00000-of-00001', '.index'):
        os.replace(f'{prefix}.tmp{ending}', prefix + ending)
    tf.train.update_checkpoint_state(folder, prefix)
    text = json.dumps(settings, indent=1, sort_keys=True)
    npu.replace_file(os.path.join(folder, 'config.json'), text)
    return prefix


@cli.program
def main(argv=None):
    """Converts and prints what was mapped and what was left out."""
    flags = cli.parser(__doc__)
    flags.add_argument('--source', required=True, help='weights file: .pkl, .pth, .npz; or a run')
    flags.add_argument('--output', required=True, help='prefix, such as published/model.ckpt')
    flags.add_argument('--average', type=int, help='of the last checkpoints of the run')
    args = flags.parse_args(argv)
    args.device = 'cpu'
    if args.average:
        cfg, left_out = cli.configure(args, get_config, args.source), []
        arrays = averaged(args.source, args.average)
    else:
        cfg, arrays, left_out = convert(weights.read(args.source))
    prefix = write(arrays, args.output, cfg)
    count = sum(a.size for a in arrays.values())
    counted = [n for n in left_out if not n.endswith('num_batches_tracked')]
    print(
        f'{args.source}: {cfg.model_size}, {len(arrays)} variables, {count} numbers -> {prefix}\n'
        f'left out: {len(counted)} arrays {counted[:5]}'
    )


if __name__ == '__main__':
    sys.exit(main())
