"""Turns published weights into a checkpoint of this network.

    python -m MANet.convert --source=save_step_80000.pth --output=published/model.ckpt
    python -m MANet.convert --source=MANet_davis2017.pdparams --output=published/model.ckpt
    python -m MANet.convert --source=model_best.pth.tar --output=coco/model.ckpt

Formats, told apart by names: official (lightas/CVPR2020_MANet, .pth), Paddle (.pdparams, also of
PaddleVideo's framework), and DeepLabV3+ of COCO (model_best.pth.tar), which gives a checkpoint of
DeepLab alone, for --init_from.
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

LEAVES = {'weight': 'weights', 'bias': 'biases'}
NORM = {  # of PyTorch's and of Paddle's batch norm
    'weight': 'gamma', 'bias': 'beta', 'running_mean': 'moving_mean',
    'running_var': 'moving_variance', '_mean': 'moving_mean', '_variance': 'moving_variance',
}  # fmt: skip
DEEPLAB = ('backbone.', 'aspp.', 'decoder.')
DEPTHWISE = re.compile(r'(seperate_conv|(dynamic|inter)_seghead\.layer\d\.conv1)\.weight')


def convert(found: dict):
    """(format, {our variable: float32 array}, names left out) of {source name: array}.

    Raises:
      ValueError: unknown names; arrays missing or of another shape, both lists given.
    """
    arrays = {re.sub(r'^(module\.|head\.)*', '', name): a for name, a in found.items()}
    arrays = {name.replace('feature_extracter.', ''): a for name, a in arrays.items()}
    if 'backbone.conv1.weight' not in arrays:
        raise ValueError(
            'unknown weights: expected names such as feature_extracter.backbone.conv1.weight or '
            f'backbone.conv1.weight; found {sorted(found)[:5]}'
        )
    whole = 'embedding_conv.weight' in arrays
    result, left_out = {}, []
    for name, array in arrays.items():
        module, _, leaf = name.rpartition('.')
        norm = any(f'{module}.{key}' in arrays for key in ('running_mean', '_mean'))
        names = NORM if norm else LEAVES
        if leaf not in names or name.startswith('semantic_embedding.'):  # aliases
            left_out.append(name)
            continue
        array = np.asarray(array, np.float32)
        if array.ndim == 4:
            array = array.transpose((2, 3, 0, 1) if DEPTHWISE.fullmatch(name) else (2, 3, 1, 0))
        result['/'.join(['manet', *module.split('.'), names[leaf]])] = array
    shapes = network_shapes(get_config())
    if not whole:
        starts = tuple('manet/' + part.replace('.', '/') for part in DEEPLAB)
        shapes = {n: s for n, s in shapes.items() if n.startswith(starts)}
    wrong = [n for n in shapes if n not in result or result[n].shape != shapes[n]]
    if wrong:
        seen = {n: result[n].shape if n in result else 'nothing' for n in wrong[:3]}
        raise ValueError(
            f'{len(wrong)} of {len(shapes)} variables are missing or of another shape, '
            f'expected {[(n, shapes[n]) for n in wrong[:3]]}, found {seen}'
        )
    left_out += sorted(set(result) - set(shapes))
    kind = 'official' if whole else 'deeplab'
    return kind, {name: result[name] for name in shapes}, left_out


def network_shapes(cfg) -> dict:
    """{variable: shape} of the network."""
    with tf.Graph().as_default():
        cfg = type(cfg)(cfg, device='cpu')
        model.embed(tf.zeros([1, 64, 64, 3]), cfg)
        model.every_variable(cfg)
        return {v.op.name: tuple(v.shape.as_list()) for v in tf.global_variables()}


def write(arrays: dict, prefix: str, settings=None) -> str:
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
    if settings:
        text = json.dumps(settings, indent=1, sort_keys=True)
        npu.replace_file(os.path.join(folder, 'config.json'), text)
    return prefix


@cli.program
def main(argv=None):
    """Converts and prints what was mapped and what was left out."""
    flags = cli.parser(__doc__)
    flags.add_argument('--source', required=True, help='weights file: .pth, .tar, .pdparams, .npz')
    flags.add_argument('--output', required=True, help='prefix, such as published/model.ckpt')
    args = flags.parse_args(argv)
    kind, arrays, left_out = convert(weights.read(args.source))
    cfg = get_config() if kind == 'official' else None
    prefix = write(arrays, args.output, cfg)
    count = sum(a.size for a in arrays.values())
    counted = [n for n in left_out if not n.endswith('num_batches_tracked')]
    print(
        f'{args.source}: {kind}, {len(arrays)} variables, {count} numbers -> {prefix}\n'
        f'left out: {len(counted)} arrays {counted[:5]}'
    )


if __name__ == '__main__':
    sys.exit(main())
