"""Turns published weights into a checkpoint of this network.

    python -m SiamMask.convert --source=SiamMask_VOT.pth --output=published/model.ckpt
    python -m SiamMask.convert --source=resnet.model --output=resnet/model.ckpt
    python -m SiamMask.convert --source=resnet50-0676ba61.pth --output=resnet/model.ckpt

Formats, told apart by names and shapes: official (foolwood/SiamMask, base or sharp, with or without
"module."), pysot (siammask_r50_l3), resnet (the original's resnet.model, 3x3 shortcuts),
torchvision (plain ResNet-50: its 1x1 shortcuts go into the middle of 3x3 ones, its input
normalisation into the first layer). A backbone gives a checkpoint of its layers alone, for
--init_from.
"""

from __future__ import annotations

import json
import os
import re
import sys

import numpy as np
import tensorflow.compat.v1 as tf

from . import cli, model, npu, weights
from .config import get_config

FORMATS = ('official', 'pysot', 'resnet', 'torchvision')
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
        kind = LEAVES if '{n}' in pattern else {'weight': 'weights', 'bias': 'biases'}
        for leaf, own in kind.items():
            full = pattern.replace('{n}', leaf).replace('{w}', leaf)
            if re.fullmatch(full, name):
                return 'siammask/' + re.sub(full, ours, name).replace('{n}', own).replace(
                    '{w}', own
                )
            if '{' not in pattern:
                break
    return None


def official_names(found: dict) -> tuple[str, dict]:
    """(format, {official name: array}) of what a file holds.

    Raises:
      ValueError: none of the formats; a checkpoint of the Ascend port.
    """
    plain = {re.sub(r'^module\.', '', name): array for name, array in found.items()}
    if any(name.startswith('features.features.') for name in plain):
        return 'official', plain
    if any(name.startswith('rpn_head.') for name in plain):
        for ours, theirs in PYSOT:
            plain = {re.sub('^' + re.escape(ours), theirs, n): a for n, a in plain.items()}
        return 'pysot', plain
    if SHORTCUTS[0] in plain and 'conv1.weight' in plain:
        kind = 'resnet' if np.shape(plain[SHORTCUTS[0]])[-1] == 3 else 'torchvision'
        plain = _from_torchvision(plain) if kind == 'torchvision' else plain
        return kind, {f'features.features.{n}': a for n, a in plain.items()}
    if any('siammask/' in name and 'conv2d' in name for name in plain):
        raise ValueError(
            'a checkpoint of the Ascend port (SiamMask_ID0166) does not fit: it has 1x1 shortcuts, '
            'strides elsewhere, and one neck for templates and another for search pictures'
        )
    raise ValueError(
        f'unknown weights: expected names such as features.features.conv1.weight, rpn_head.*, '
        f'conv1.weight; found {sorted(found)[:5]}'
    )


def _from_torchvision(arrays):
    """1x1 shortcuts in the middle of 3x3 ones; input B, G, R of 0..255 instead of normalised R, G,
    B: exact but for the one-cell shift of layer2's grid."""
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


def convert(found: dict) -> tuple[str, dict, list[str]]:
    """(format, {our variable: float32 array}, names left out) of {source name: array}.

    Raises:
      ValueError: unknown names; arrays missing or of another shape, both lists given.
    """
    kind, arrays = official_names(found)
    result, left_out = {}, []
    for name, array in arrays.items():
        ours = target(name)
        if ours is None:
            left_out.append(name)
            continue
        array = np.asarray(array, np.float32)
        if 'deconv.weight' in name:  # in, out, 15, 15: a matrix, position before channel
            array = array.transpose(0, 2, 3, 1).reshape(len(array), -1)
        result[ours] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
    variant = 'sharp' if any('/refine/' in name for name in result) else 'base'
    shapes = network_shapes(get_config(), variant)
    if kind in ('resnet', 'torchvision'):
        left_out = [name[len('features.features.') :] for name in left_out]
        shapes = {n: s for n, s in shapes.items() if n.startswith('siammask/features/')}
    wrong = [n for n in shapes if n not in result or result[n].shape != shapes[n]]
    if wrong:
        seen = {n: result[n].shape if n in result else 'nothing' for n in wrong[:3]}
        raise ValueError(
            f'{kind}: {len(wrong)} of {len(shapes)} variables are missing or of another shape, '
            f'expected {[(n, shapes[n]) for n in wrong[:3]]}, found {seen}; left out {left_out[:3]}'
        )
    left_out += sorted(set(result) - set(shapes))
    return kind, {name: result[name] for name in shapes}, left_out


def network_shapes(cfg, variant: str) -> dict:
    """{variable: shape} of the network."""
    with tf.Graph().as_default():
        size = 143 if variant == 'sharp' else 255
        feed = {'template': tf.zeros([1, 127, 127, 3]), 'search': tf.zeros([1, size, size, 3])}
        feed['cell'] = tf.zeros([1, 9 if variant == 'sharp' else 16], tf.int32)
        model.network(feed, type(cfg)(cfg, variant=variant, device='cpu'), training=False)
        return {v.op.name: tuple(v.shape.as_list()) for v in tf.global_variables()}


def write(arrays: dict, prefix: str, cfg=None) -> str:
    """Writes a checkpoint with global_step 0; returns its prefix.

    It is written under a temporary name and moved. A whole network gets config.json (`cfg`) beside
    it, so that evaluate and export need no settings.
    """
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
    if cfg:
        text = json.dumps(cfg, indent=1, sort_keys=True)
        npu.replace_file(os.path.join(folder, 'config.json'), text)
    return prefix


@cli.program
def main(argv=None):
    """Converts and prints what was mapped and what was left out."""
    flags = cli.parser(__doc__)
    flags.add_argument('--source', required=True, help='weights file: .pth, .model, .npz')
    flags.add_argument('--output', required=True, help='prefix, such as published/model.ckpt')
    args = flags.parse_args(argv)
    kind, arrays, left_out = convert(weights.read(args.source))
    cfg = None
    if kind in ('official', 'pysot'):
        sharp = any('/refine/' in name for name in arrays)
        cfg = get_config('sharp' if sharp else 'full')
    prefix = write(arrays, args.output, cfg)
    count = sum(a.size for a in arrays.values())
    counted = [n for n in left_out if not n.endswith('num_batches_tracked')]
    print(f'{args.source}: {kind}, {len(arrays)} variables, {count} numbers -> {prefix}')
    print(f'left out: {len(counted)} arrays {counted[:5]}')


if __name__ == '__main__':
    sys.exit(main())
