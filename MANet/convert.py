"""Turns published weights into a checkpoint of this network.

    python -m MANet.convert --source=save_step_80000.pth --output=published/model.ckpt
    python -m MANet.convert --source=MANet_davis2017.pdparams --output=published/model.ckpt
    python -m MANet.convert --source=model_best.pth.tar --output=coco/model.ckpt

Formats, told apart by names: official (lightas/CVPR2020_MANet as .pth, and Paddle's .pdparams, also
of PaddleVideo's framework), and deeplab (DeepLabV3+ of COCO, model_best.pth.tar), which gives a
checkpoint of DeepLab alone, for --init_from.
"""

from __future__ import annotations

import re
import sys

from common import weights
from common.lazy import np, tf

from . import cli, model
from .config import get_config

FORMATS = ('official', 'deeplab')
LEAVES = {'weight': 'weights', 'bias': 'biases'}
NORM = {  # of PyTorch's batch norm, the last two of Paddle's
    'weight': 'gamma',
    'bias': 'beta',
    'running_mean': 'moving_mean',
    'running_var': 'moving_variance',
    '_mean': 'moving_mean',
    '_variance': 'moving_variance',
}
DEEPLAB = ('manet/backbone/', 'manet/aspp/', 'manet/decoder/')  # variables of the format deeplab
DEPTHWISE = re.compile(r'(seperate_conv|(dynamic|inter)_seghead\.layer\d\.conv1)\.weight')


def plain_names(found: dict) -> dict:
    """The same arrays without the prefixes of frameworks and of the feature extractor."""
    names = {name: re.sub(r'^(module\.|head\.)*', '', name) for name in found}
    return {names[n].replace('feature_extracter.', ''): array for n, array in found.items()}


def detect(found: dict) -> str:
    """The format of {source name: array}.

    Raises:
      ValueError: unknown names.
    """
    names = plain_names(found)
    if 'backbone.conv1.weight' not in names:
        raise ValueError(
            'unknown weights: expected names such as feature_extracter.backbone.conv1.weight or '
            f'backbone.conv1.weight; found {sorted(found)[:5]}'
        )
    return 'official' if 'embedding_conv.weight' in names else 'deeplab'


def convert(found: dict, kind: str) -> tuple[dict, list[str]]:
    """({our variable: float32 array}, names left out) of {source name: array}.

    Raises:
      ValueError: arrays missing or of another shape, both lists given.
    """
    arrays = plain_names(found)
    result, left_out = {}, []
    for name, array in arrays.items():
        module, _, leaf = name.rpartition('.')
        norm = f'{module}.running_mean' in arrays or f'{module}._mean' in arrays
        names = NORM if norm else LEAVES
        if leaf not in names or name.startswith('semantic_embedding.'):  # aliases
            left_out.append(name)
            continue
        array = np.asarray(array, np.float32)
        if array.ndim == 4:
            array = array.transpose((2, 3, 0, 1) if DEPTHWISE.fullmatch(name) else (2, 3, 1, 0))
        result['/'.join(['manet', *module.split('.'), names[leaf]])] = array
    shapes = network_shapes(get_config())
    if kind == 'deeplab':
        shapes = {name: shape for name, shape in shapes.items() if name.startswith(DEEPLAB)}
    wrong = [n for n in shapes if n not in result or result[n].shape != shapes[n]]
    if wrong:
        seen = {n: result[n].shape if n in result else 'nothing' for n in wrong[:3]}
        raise ValueError(
            f'{len(wrong)} of {len(shapes)} variables are missing or of another shape, '
            f'expected {[(n, shapes[n]) for n in wrong[:3]]}, found {seen}'
        )
    left_out = [name for name in left_out if not name.endswith('num_batches_tracked')]
    return {name: result[name] for name in shapes}, left_out + sorted(set(result) - set(shapes))


def network_shapes(cfg) -> dict:
    """{variable: shape} of the network."""
    with tf.Graph().as_default():
        cfg = type(cfg)(cfg, device='cpu')
        model.embed(tf.zeros([1, 64, 64, 3]), cfg)
        model.make_every_variable(cfg)
        return {v.op.name: tuple(v.shape.as_list()) for v in tf.global_variables()}


def settings_of(arrays: dict):
    """The settings of the network that arrays are of; None of DeepLab alone."""
    return get_config() if 'manet/embedding_conv/weights' in arrays else None


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
