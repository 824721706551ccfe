"""Turns published weights into a checkpoint of this network.

    python -m SiamMask.convert --source=SiamMask_VOT.pth --output=published/model.ckpt
    python -m SiamMask.convert --source=resnet.model --output=resnet/model.ckpt
    python -m SiamMask.convert --source=resnet50-0676ba61.pth --output=resnet/model.ckpt

The file's kind is told by its first bytes, the format by names and shapes: official
(foolwood/SiamMask, base or sharp, with or without "module."), pysot (siammask_r50_l3), resnet (the
original's resnet.model, 3x3 shortcuts), torchvision (plain ResNet-50: its 1x1 shortcuts go into the
middle of 3x3 ones, its input normalization into the first layer). A backbone gives a checkpoint of
its layers alone, for --init_from.
"""

from __future__ import annotations

import functools
import re
import sys

from easydict import EasyDict

from common import weights
from common.lazy import np, tf

from . import cli, model
from .config import get_config

FORMATS = ('official', 'pysot', 'resnet', 'torchvision')
BACKBONES = ('resnet', 'torchvision')
LEAVES = {  # of PyTorch's batch norm
    'weight': 'gamma', 'bias': 'beta', 'running_mean': 'moving_mean',
    'running_var': 'moving_variance',
}  # fmt: skip
PYSOT = (
    ('backbone.', 'features.features.'), ('neck.', 'features.'), ('rpn_head.', 'rpn_model.'),
    ('mask_head.', 'mask_model.mask.'), ('refine_head.', 'refine_model.'),
)  # fmt: skip
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # R, G, B of 0..1 (torchvision)
SHORTCUTS = ('layer2.0.downsample.0.weight', 'layer3.0.downsample.0.weight')
RULES = [  # what follows "siammask/" of an official name; {n} is batch norm
    (r'features\.features\.(conv1)\.weight', r'features/\1/weights'),
    (r'features\.features\.(bn1)\.{n}', r'features/\1/{n}'),
    (r'features\.features\.(layer\d)\.(\d)\.(conv\d)\.weight', r'features/\1/\2/\3/weights'),
    (r'features\.features\.(layer\d)\.(\d)\.(bn\d)\.{n}', r'features/\1/\2/\3/{n}'),
    (r'features\.features\.(layer\d)\.0\.downsample\.0\.weight', r'features/\1/0/shortcut/weights'),
    (r'features\.features\.(layer\d)\.0\.downsample\.1\.{n}', r'features/\1/0/shortcut_bn/{n}'),
    (r'features\.downsample\.downsample\.0\.weight', r'neck/conv/weights'),
    (r'features\.downsample\.downsample\.1\.{n}', r'neck/bn/{n}'),
    (r'(?:rpn_model|mask_model)\.(\w+)\.conv_(kernel|search)\.0\.weight', r'\1/\2/conv/weights'),
    (r'(?:rpn_model|mask_model)\.(\w+)\.conv_(kernel|search)\.1\.{n}', r'\1/\2/bn/{n}'),
    (r'(?:rpn_model|mask_model)\.(\w+)\.head\.0\.weight', r'\1/head/conv/weights'),
    (r'(?:rpn_model|mask_model)\.(\w+)\.head\.1\.{n}', r'\1/head/bn/{n}'),
    (r'(?:rpn_model|mask_model)\.(\w+)\.head\.3\.{w}', r'\1/head/out/{w}'),
    (r'refine_model\.([vh]\d)\.([02])\.{w}', r'refine/\1/\2/{w}'),
    (r'refine_model\.(post\d|deconv)\.{w}', r'refine/\1/{w}'),
]  # fmt: skip


def target(name: str) -> str | None:
    """Our variable of an official name; None of what the network has not."""
    for pattern, ours in RULES:
        if '{n}' in pattern:
            leaves = LEAVES
        elif '{w}' in pattern:
            leaves = {'weight': 'weights', 'bias': 'biases'}
        else:
            leaves = {'': ''}
        for leaf, own in leaves.items():
            full = re.sub('{[nw]}', leaf, pattern)
            if re.fullmatch(full, name):
                return 'siammask/' + re.sub(full, re.sub('{[nw]}', own, ours), name)
    return None


def detect(found: dict) -> str:
    """The format of what a file holds, by names and shapes.

    Raises:
      ValueError: none of the formats; a checkpoint of the Ascend port.
    """
    plain = {re.sub(r'^module\.', '', name): array for name, array in found.items()}
    if any(name.startswith('features.features.') for name in plain):
        return 'official'
    if any(name.startswith('rpn_head.') for name in plain):
        return 'pysot'
    if SHORTCUTS[0] in plain and 'conv1.weight' in plain:
        return 'resnet' if np.shape(plain[SHORTCUTS[0]])[-1] == 3 else 'torchvision'
    if any('siammask/' in name and 'conv2d' in name for name in plain):
        raise ValueError(
            'a checkpoint of the Ascend port (SiamMask_ID0166) does not fit: it has 1x1 shortcuts, '
            'strides elsewhere, and one neck for templates and another for search images'
        )
    raise ValueError(
        f'unknown weights: expected names such as features.features.conv1.weight, rpn_head.*, '
        f'conv1.weight; found {sorted(found)[:5]}'
    )


def official_names(found: dict, kind: str) -> dict:
    """{official name: array} of {source name: array} in a format.

    Raises:
      ValueError: torchvision's first layers are missing.
    """
    plain = {re.sub(r'^module\.', '', name): array for name, array in found.items()}
    if kind == 'pysot':
        for theirs, official in PYSOT:
            plain = {re.sub('^' + re.escape(theirs), official, n): a for n, a in plain.items()}
    if kind == 'torchvision':
        plain = _from_torchvision(plain)
    if kind in BACKBONES:
        plain = {f'features.features.{name}': array for name, array in plain.items()}
    return plain


def _from_torchvision(arrays):
    """1x1 shortcuts in the middle of 3x3 ones; input B, G, R of 0..255 instead of normalised R, G,
    B: exact but for the one-cell shift of layer2's grid."""
    missing = [n for n in (*SHORTCUTS, 'conv1.weight', 'bn1.running_mean') if n not in arrays]
    if missing:
        raise ValueError(f'torchvision: {missing} are missing, found {sorted(arrays)[:5]}')
    result = dict(arrays)
    for name in SHORTCUTS:
        small = np.asarray(arrays[name], np.float32)
        result[name] = np.zeros((*small.shape[:2], 3, 3), np.float32)
        result[name][:, :, 1:2, 1:2] = small
    kernel = np.asarray(arrays['conv1.weight'], np.float64) / np.reshape(STD, (1, 3, 1, 1))
    offset = (kernel * np.reshape(MEAN, (1, 3, 1, 1))).sum((1, 2, 3))
    result['bn1.running_mean'] = np.asarray(arrays['bn1.running_mean'], np.float64) + offset
    result['conv1.weight'] = np.ascontiguousarray((kernel / 255)[:, ::-1])
    return result


def convert(found: dict, kind: str) -> tuple[dict, list[str]]:
    """({our variable: float32 array}, names left out) of {source name: array} in a format.

    Raises:
      ValueError: arrays missing or of another shape, both lists given.
    """
    result, left_out = {}, []
    for name, array in official_names(found, kind).items():
        ours = target(name)
        if ours is None:
            left_out.append(name.replace('features.features.', ''))
            continue
        array = np.asarray(array, np.float32)
        if 'deconv.weight' in name:  # in, out, 15, 15: a matrix, position before channel
            array = array.transpose(0, 2, 3, 1).reshape(len(array), -1)
        result[ours] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
    variant = 'sharp' if any('/refine/' in name for name in result) else 'base'
    shapes = network_shapes(variant)
    if kind in BACKBONES:
        shapes = {n: s for n, s in shapes.items() if n.startswith('siammask/features/')}
    wrong = [n for n in shapes if n not in result or result[n].shape != shapes[n]]
    if wrong:
        seen = {n: result[n].shape if n in result else 'nothing' for n in wrong[:3]}
        raise ValueError(
            f'{kind}: {len(wrong)} of {len(shapes)} variables are missing or of another shape, '
            f'expected {[(n, shapes[n]) for n in wrong[:3]]}, found {seen}; left out {left_out[:3]}'
        )
    left_out += sorted(set(result) - set(shapes))
    left_out = [name for name in left_out if not name.endswith('num_batches_tracked')]
    return {name: result[name] for name in shapes}, left_out


@functools.lru_cache(maxsize=2)
def network_shapes(variant: str) -> dict:
    """{variable: shape} of the whole network, 'base' or 'sharp'."""
    cfg = EasyDict(get_config(), variant=variant, device='cpu')
    cells = 9 if variant == 'sharp' else 16
    size = 143 if variant == 'sharp' else 255
    with tf.Graph().as_default():
        features = {
            'template': tf.zeros([1, 127, 127, 3]),
            'search': tf.zeros([1, size, size, 3]),
            'cell': tf.zeros([1, cells], tf.int32),
        }
        model.network(features, cfg, training=False)
        return {v.op.name: tuple(v.shape.as_list()) for v in tf.global_variables()}


def settings_of(arrays: dict):
    """The settings of the network that arrays are of; None of a backbone."""
    if 'siammask/mask/head/out/weights' not in arrays:
        return None
    return get_config('sharp' if any('/refine/' in name for name in arrays) else 'full')


@cli.program
def main(argv=None):
    """Converts and prints what was mapped and what was left out."""
    flags = cli.parser(__doc__)
    cli.add_convert_flags(flags, FORMATS)
    args = flags.parse_args(argv)
    found = weights.read(args.source)
    kind = args.format or detect(found)
    arrays, left_out = convert(found, kind)
    cli.write_checkpoint(arrays, args.output, settings_of(arrays), args.source)
    cli.say_converted(args, kind, arrays, left_out)


if __name__ == '__main__':
    sys.exit(main())
