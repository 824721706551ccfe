"""Turns published weights into a checkpoint of this network, or averages the last checkpoints.

    python -m ColorNet.convert --source=color_dul_300_M.pkl --output=published/model.ckpt
    python -m ColorNet.convert --source=dense_ulearn_ytvos.pth --output=dul/model.ckpt
    python -m ColorNet.convert --source=run --average=10 --output=averaged/model.ckpt

Formats, told apart by the names inside: colornet (ColorNet's snapshots; size, branches and first
kernel are read off the shapes) and dul (dense-ulearn-vos). --average N: the mean of the last N
checkpoints of a training, one an epoch, as the original's later "merge" snapshots are of epochs
291 - 300; of a prefix: the N up to that one.
"""

from __future__ import annotations

import os
import re
import sys

from common import weights
from common.lazy import np, tf

from . import cli, model
from .backbone import WIDTHS
from .config import get_config

FORMATS = ('colornet', 'dul')
PREFIX = r'^(module\.)?(convlocal\.)?(fast_net\.)?(backbone\.)?'  # of the originals' wrappers
LEAVES = {'weight': 'weights', 'bias': 'biases'}
NORM = {  # of PyTorch's batch norm
    'weight': 'gamma',
    'bias': 'beta',
    'running_mean': 'moving_mean',
    'running_var': 'moving_variance',
}


def detect(found: dict) -> str:
    """The format of {source name: array}; ValueError where it is none of FORMATS."""
    names = {re.sub(PREFIX, '', name) for name in found}
    if not {'conv1.weight', 'layer4.0.conv1.weight'} <= names:
        raise ValueError(
            'unknown weights: expected names such as conv1.weight, layer4.0.conv1.weight or '
            f'fast_net.backbone.conv1.weight; found {sorted(found)[:5]}'
        )
    return 'dul' if 'emb_q.conv1.weight' in names else 'colornet'


def convert(found: dict, kind: str) -> tuple[dict, list[str]]:
    """({our variable: float32 array}, names left out) of {source name: array}.

    Args:
      found: arrays of the source; kernels [out, in, kh, kw].
      kind: of FORMATS.

    Raises:
      ValueError: arrays missing or of another shape, both lists given.
    """
    arrays = {re.sub(PREFIX, '', name): array for name, array in found.items()}
    cfg = settings_of(found, kind)
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
    return {name: result[name] for name in shapes}, left_out


def settings_of(found: dict, kind: str):
    """The settings of the network that official arrays {source name: array} are of.

    Raises:
      ValueError: no such network.
    """
    if kind == 'dul':
        return get_config('dul')
    arrays = {re.sub(PREFIX, '', name): array for name, array in found.items()}
    if 'conv1.weight' not in arrays or np.ndim(arrays['conv1.weight']) != 4:
        shape = np.shape(arrays.get('conv1.weight', ()))
        raise ValueError(f'conv1.weight is {list(shape)}, expected [channels, 3, size, size]')
    width, _, size, _ = np.shape(arrays['conv1.weight'])
    sizes = {widths[0]: name for name, widths in WIDTHS.items()}
    if width not in sizes:
        raise ValueError(f'conv1 has {width} channels; S, M, L have 32, 48, 64')
    cfg = get_config()
    cfg.model_size, cfg.first_kernal_size = sizes[width], int(size)
    cfg.is_dul = 'layer5.0.conv1.weight' in arrays
    return cfg


def network_shapes(cfg) -> dict:
    """{variable: shape} of the network."""
    with tf.Graph().as_default():
        model.extract(tf.zeros([1, 64, 64, 3]), type(cfg)(cfg, device='cpu'))
        return {v.op.name: tuple(v.shape.as_list()) for v in tf.global_variables()}


def last_checkpoints(source: str, count: int) -> list[str]:
    """Prefixes of the last `count` checkpoints of a training, oldest first.

    Args:
      source: folder of the run, or prefix of the last one to take.
      count: of them.

    Raises:
      FileNotFoundError: no checkpoint. ValueError: the folder keeps fewer: those that it keeps.
    """
    newest = weights.checkpoint_prefix(source)
    folder = os.path.dirname(newest)
    state = tf.train.get_checkpoint_state(folder)
    listed = state.all_model_checkpoint_paths if state else []
    names = [os.path.basename(path) for path in listed]
    names = [name for name in names if os.path.isfile(os.path.join(folder, f'{name}.index'))]
    if os.path.basename(newest) in names:
        names = names[: names.index(os.path.basename(newest)) + 1]
    else:
        names = [os.path.basename(newest)]
    if len(names) < count:
        raise ValueError(
            f'--average={count}: {folder} keeps {len(names)} checkpoints up to {names[-1]}: '
            f'{", ".join(names)}. A training keeps the last --set=keep_checkpoints=N'
        )
    return [os.path.join(folder, name) for name in names[-count:]]


def mean_weights(prefixes: list[str]) -> dict:
    """{variable: float32 array}, the mean of the network's variables of several checkpoints."""
    sums = {}
    for prefix in prefixes:
        for name, array in weights.read_checkpoint(prefix).items():
            if name.startswith('colornet/') and not name.endswith(cli.SLOTS):
                sums[name] = sums.get(name, 0) + array.astype(np.float64)
    return {name: (total / len(prefixes)).astype(np.float32) for name, total in sums.items()}


@cli.program
def main(argv=None):
    """Converts and prints what was mapped and what was left out."""
    flags = cli.parser(__doc__)
    cli.add_convert_flags(flags, FORMATS)
    text = 'mean of so many last checkpoints of the run --source'
    flags.add_argument('--average', type=cli.positive, help=text)
    args = flags.parse_args(argv)
    if args.average:
        prefixes = last_checkpoints(args.source, args.average)
        cfg, left_out = cli.configure(args, get_config, prefixes[-1]), []
        arrays = mean_weights(prefixes)
        print('mean of ' + ', '.join(os.path.basename(prefix) for prefix in prefixes))
    else:
        found = weights.read(args.source)
        kind = args.format or detect(found)
        arrays, left_out = convert(found, kind)
        cfg = settings_of(found, kind)
        left_out = [name for name in left_out if not name.endswith('num_batches_tracked')]
    cli.write_checkpoint(arrays, args.output, cfg, args.source)
    cli.say_converted(args, cfg.model_size, arrays, left_out)


if __name__ == '__main__':
    sys.exit(main())
