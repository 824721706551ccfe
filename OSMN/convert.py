"""Turns published weights into a checkpoint of this network.

    python -m OSMN.convert --source=vgg_16.ckpt --output=vgg/model.ckpt
    python -m OSMN.convert --source=train_coco --output=coco/model.ckpt
    python -m OSMN.convert --source=vgg_16.ckpt --source=OSVOS_parent.ckpt --output=start/model.ckpt

Formats, told apart by the names inside: slim (slim's vgg_16.ckpt), mobilenet (slim's
mobilenet_v1_1.0_224.ckpt), osmn (official or model zoo), osvos and osvos_pytorch (parent networks:
the segmentation net), deeplab and deeplab_npy (Caffe's DeepLab). Of several sources the later ones
overwrite. A backbone gives a checkpoint of its layers alone, for --init_from.
"""

from __future__ import annotations

import json
import os
import re
import sys

import numpy as np
import tensorflow.compat.v1 as tf

from . import backbone, cli, model, npu, weights
from .config import get_config

LAYERS = [(s, k) for s, (_, n) in enumerate(backbone.STAGES, 1) for k in range(1, n + 1)]
FORMATS = {  # a name that only this format has
    'osmn': 'osmn/modulator_sp/',
    'slim': 'vgg_16/conv1/conv1_1/weights',
    'mobilenet': 'MobilenetV1/Conv2d_0/weights',
    'osvos': 'osvos/conv1/conv1_1/weights',
    'osvos_pytorch': 'stages.0.0.weight',
    'deeplab': 'conv1_1/w',
    'deeplab_npy': 'conv1_1',
}
DROPPED = re.compile(r'(/Adam(_1)?$|^optimization/|^beta[12]_power|^global_step$|-up/weights$)')


def detect(found: dict) -> str:
    """The format whose mark is among the names; ValueError with what was found otherwise."""
    for kind, mark in FORMATS.items():
        if mark in found or (mark.endswith('/') and any(n.startswith(mark) for n in found)):
            return kind
    if any(name.startswith('osmn/') for name in found):  # without a spatial modulator
        return 'osmn'
    raise ValueError(
        f'unknown weights: expected one of {sorted(FORMATS.values())}, found {sorted(found)[:5]}'
    )


def targets(name: str, kind: str) -> list[str]:
    """Our variables that may take the array `name` of a source."""
    if kind == 'osmn':
        return [] if DROPPED.search(name) else [name]
    if kind == 'osvos':
        return [] if DROPPED.search(name) else [name.replace('osvos/', 'osmn/seg/', 1)]
    if kind == 'osvos_pytorch':
        return _pytorch(name)
    if kind in ('slim', 'mobilenet'):  # the first component of the name is replaced
        rest = name.split('/', 1)[-1] if '/' in name else ''
        return [f'osmn/{part}/{rest}' for part in ('modulator', 'seg')] if rest else []
    layer, _, leaf = name.rpartition('/')  # DeepLab, from Caffe
    leaf = {'w': 'weights', 'b': 'biases'}.get(leaf, leaf)
    stage = re.fullmatch(r'(conv\d)_\d', layer)
    return [f'osmn/seg/{stage.group(1)}/{layer}/{leaf}' if stage else f'osmn/seg/{layer}/{leaf}']


def _pytorch(name):
    """Names of OSVOS-PyTorch: stages.<s>.<index>, side_prep.<i>, fuse."""
    leaf = {'weight': 'weights', 'bias': 'biases'}.get(name.rpartition('.')[2])
    part = name.split('.')
    if part[0] == 'stages' and leaf:
        stage, index = int(part[1]) + 1, int(part[2])
        layer = (index - (stage > 1)) // 2 + 1
        return [f'osmn/seg/conv{stage}/conv{stage}_{layer}/{leaf}']
    if part[0] == 'side_prep' and leaf:
        k = int(part[1]) + 2
        return [f'osmn/seg/conv{k}_{2 if k == 2 else 3}_16/{leaf}']
    return [f'osmn/seg/upscore-fuse/{leaf}'] if part[0] == 'fuse' and leaf else []


def flatten(found: dict) -> dict:
    """The nested dicts of DeepLab's .npy, {layer: {'weights': array}}, as {'layer/weights':
    array}."""
    result = {}
    for name, value in found.items():
        value = value.item() if getattr(value, 'dtype', np.dtype('f')).kind == 'O' else value
        if isinstance(value, dict):
            result.update({f'{name}/{leaf}': np.asarray(a) for leaf, a in value.items()})
        else:
            result[name] = value
    return result


def convert(found: dict, kind: str, shapes: dict, colour_fix: bool) -> tuple[dict, list[str]]:
    """({our variable: float32 array}, names left out) of {source name: array}.

    Args:
      shapes: {variable: shape} of the network. colour_fix: the source's first layer takes R, G, B.

    Raises:
      ValueError: an OSMN checkpoint lacks variables, or nothing fits the network.
    """
    result, left_out = {}, []
    for name, array in flatten(found).items():
        array = np.asarray(array, np.float32) if np.ndim(array) else np.zeros(())
        if kind == 'osvos_pytorch' and array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
        fits = [t for t in targets(name, kind) if shapes.get(t) == array.shape]
        result.update({target: array for target in fits})
        if not fits and not DROPPED.search(name):
            left_out.append(name)
    missing = sorted(set(shapes) - set(result))
    if not result or (kind == 'osmn' and missing):
        raise ValueError(
            f'{kind}: {len(missing)} of {len(shapes)} variables are not in the source or of '
            f'another shape, expected {[(n, shapes[n]) for n in missing[:3]]}, left out '
            f'{left_out[:3]}; another --set=base_model=..., or --preset?'
        )
    if colour_fix:
        for name in [n for n in result if re.search(r'(conv1_1|Conv2d_0)/weights$', n)]:
            result[name] = np.ascontiguousarray(result[name][:, :, ::-1])
    return result, left_out


def network_shapes(cfg) -> dict:
    """{variable: shape} of the network of the settings."""
    with tf.Graph().as_default():
        side = 64
        feed = {
            'image': tf.zeros([1, side, side, 3]),
            'heat': tf.zeros([1, side, side, 1]),
            'guide': tf.zeros([1, cfg.guide_size, cfg.guide_size, 3]),
        }
        cfg = type(cfg)(cfg, aligned_size=[], device='cpu')
        model.network(feed, cfg, training=False)
        return {v.op.name: tuple(v.shape.as_list()) for v in tf.global_variables()}


def write(arrays: dict, prefix: str, cfg, whole: bool) -> str:
    """Writes a checkpoint with global_step 0; returns its prefix.

    It is written under a temporary name and moved. A whole network gets config.json beside it, so
    that evaluate and export need no settings.
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
    if whole:
        text = json.dumps(cfg, indent=1, sort_keys=True)
        npu.replace_file(os.path.join(folder, 'config.json'), text)
    return prefix


@cli.program
def main(argv=None):
    """Converts and prints what was mapped and what was left out."""
    flags = cli.parser(__doc__)
    flags.add_argument(
        '--source', required=True, action='append',
        help='weights file or TensorFlow checkpoint prefix; may be given several times',
    )  # fmt: skip
    flags.add_argument(
        '--output', required=True, help='prefix of the checkpoint, such as vgg/model.ckpt'
    )
    flags.add_argument('--format', choices=sorted(FORMATS), help='default: by the names')
    flags.add_argument(
        '--vgg_color_fix', choices=('auto', 'on', 'off'), default='auto',
        help='the source takes R, G, B: auto is on for slim and mobilenet',
    )  # fmt: skip
    args = flags.parse_args(argv)
    args.device, args.preset = 'cpu', args.preset or 'full'
    cfg = cli.configure(args, get_config)
    shapes, arrays = None, {}
    for source in args.source:
        found = weights.read(source)
        kind = args.format or detect(found)
        if kind == 'mobilenet':
            cfg.base_model = 'lite'
        shapes = network_shapes(cfg)
        fix = args.vgg_color_fix == 'on'
        fix = fix or (args.vgg_color_fix == 'auto' and kind in ('slim', 'mobilenet'))
        new, left_out = convert(found, kind, shapes, fix)
        arrays.update(new)
        print(f'{source}: {kind}, {len(new)} variables, colour fix {"on" if fix else "off"}')
        print(f'left out: {len(left_out)} arrays {left_out[:5]}')
    prefix = write(arrays, args.output, cfg, set(arrays) == set(shapes))
    count = sum(a.size for a in arrays.values())
    print(f'{len(arrays)} of {len(shapes)} variables, {count} numbers -> {prefix}')


if __name__ == '__main__':
    sys.exit(main())
