"""Makes a narrow VGG-16 of a whole one: a start for networks with cfg.channels below 1.

    python -m OSVOS.narrow --checkpoint=vgg --images=DAVIS/JPEGImages --channels=0.34 \\
        --output=narrow/model.ckpt

Layer by layer, the channels that the next layer listens to most are kept, and the kernels are
fitted anew (least squares) so that each kept channel answers to the narrow layer before as it
answered to the whole one (He, Zhang and Sun 2017, "Channel pruning", section 3).
"""

from __future__ import annotations

import glob
import os
import sys

from common import masks, weights
from common.lazy import np, tf

from . import cli, data
from .backbone import STAGES, scaled
from .config import get_config

POSITIONS = 2000  # a frame that the kernels are fitted at
RIDGE = 1e-3  # of the mean square of the inputs: keeps the fit from following noise


def layers() -> list[tuple[int, int]]:
    """(stage, layer) of the 13 convolutions, first to last."""
    return [(s, n) for s, (_, count) in enumerate(STAGES, 1) for n in range(1, count + 1)]


def names(stage: int, layer: int) -> tuple[str, str]:
    """Variables of a convolution: kernel [3, 3, C, C'], biases [C']."""
    scope = f'{cli.MODEL.name.lower()}/conv{stage}/conv{stage}_{layer}'
    return f'{scope}/weights', f'{scope}/biases'


def narrow(whole: dict, images: np.ndarray, cfg, seed: int) -> tuple[dict, list[float]]:
    """The arrays of a VGG-16 with cfg.channels times the channels.

    Args:
      whole: {variable: float32 array} of VGG-16.
      images: float32 [N, H, W, 3] BGR minus mean, that the kernels are fitted on.
      cfg: uses channels.
      seed: of the positions drawn in the frames.

    Returns:
      ({variable: float32 array}, share of the variance of each layer's kept channels that the
      narrow network explains).
    """
    draw = np.random.RandomState(seed)
    x_whole, x_narrow, result, explained = images, images, {}, []
    order = layers()
    for (stage, layer), following in zip(order, [*order[1:], None]):
        if layer == 1 and stage > 1:
            x_whole, x_narrow = _pooled(x_whole), _pooled(x_narrow)
        kernel, biases = (whole[name] for name in names(stage, layer))
        answers = _convolved(x_whole, kernel, biases)
        importance = np.maximum(answers, 0).std((0, 1, 2))
        if following:
            importance = importance * np.sqrt((whole[names(*following)[0]] ** 2).sum((0, 1, 3)))
        count = scaled(STAGES[stage - 1][0], cfg)
        kept = np.sort(np.argsort(-importance)[:count])
        fitted, offsets, share = _fit(x_narrow, answers[..., kept], draw)
        result.update(zip(names(stage, layer), (fitted, offsets)))
        explained.append(share)
        x_whole = np.maximum(answers, 0)
        x_narrow = np.maximum(_convolved(x_narrow, fitted, offsets), 0)
    return result, explained


def _fit(inputs, answers, draw):
    """Kernel and biases of the 3x3 convolution of `inputs` that is nearest to `answers`, and the
    share of their variance that it explains; at POSITIONS drawn positions a frame."""
    frames, height, width, channels = inputs.shape
    padded = np.pad(inputs, [(0, 0), (1, 1), (1, 1), (0, 0)])
    rows = draw.randint(height, size=(frames, POSITIONS))
    columns = draw.randint(width, size=(frames, POSITIONS))
    frame = np.arange(frames)[:, None]
    patches = [padded[frame, rows + i, columns + j] for i in range(3) for j in range(3)]
    patches = np.stack(patches, axis=2).reshape(frames * POSITIONS, 9 * channels).astype(np.float64)
    wanted = answers[frame, rows, columns].reshape(frames * POSITIONS, -1).astype(np.float64)
    centre, mean = patches.mean(0), wanted.mean(0)
    patches -= centre
    wanted -= mean
    moments = patches.T @ patches
    moments[np.diag_indices_from(moments)] += RIDGE * np.trace(moments) / len(moments)
    kernel = np.linalg.solve(moments, patches.T @ wanted)
    error = wanted - patches @ kernel
    offsets = mean - centre @ kernel
    share = 1 - (error**2).sum() / (wanted**2).sum()
    return kernel.reshape(3, 3, channels, -1).astype(np.float32), offsets.astype(np.float32), share


def _convolved(x, kernel, biases):
    """3x3 SAME convolution, frame by frame: float32 [N, h, w, C']."""
    with tf.Graph().as_default(), tf.Session() as session:
        frame = tf.placeholder(tf.float32, [1, *x.shape[1:]])
        y = tf.nn.conv2d(frame, tf.constant(kernel), 1, 'SAME') + biases
        return np.concatenate([session.run(y, {frame: each[None]}) for each in x])


def _pooled(x):
    """2x2 SAME max pooling, as backbone.vgg16() has it."""
    with tf.Graph().as_default(), tf.Session() as session:
        return session.run(tf.nn.max_pool2d(tf.constant(x), 2, 2, 'SAME'))


def frames(folder: str, count: int, cfg) -> np.ndarray:
    """`count` images below a folder, evenly chosen: float32 [count, height, width, 3] minus mean.

    Raises:
      FileNotFoundError: there are fewer.
    """
    found = sorted(glob.glob(os.path.join(glob.escape(folder), '**', '*.jpg'), recursive=True))
    if len(found) < count:
        raise FileNotFoundError(
            f'--images={folder}: {len(found)} .jpg files below {os.path.abspath(folder)}, '
            f'expected at least {count}'
        )
    chosen = [found[i] for i in np.linspace(0, len(found) - 1, count).astype(int)]
    size = (cfg.height, cfg.width)
    images = [data.resize_image(masks.read_image(path), size) for path in chosen]
    return np.stack(images).astype(np.float32) - np.float32(data.MEAN)


@cli.program
def main(argv=None):
    """Writes the narrow backbone and prints how much of each layer it keeps."""
    flags = cli.parser(__doc__)
    add = flags.add_argument
    add('--checkpoint', required=True, help='folder or prefix of the whole VGG-16')
    add('--images', required=True, help='folder of .jpg files, searched with its subfolders')
    add('--count', type=cli.positive, default=40, help='images taken')
    add('--output', required=True, help='prefix of the checkpoint, such as narrow/model.ckpt')
    args = flags.parse_args(argv)
    cfg = cli.configure(args, get_config)
    reader = tf.train.load_checkpoint(weights.checkpoint_prefix(args.checkpoint))
    whole = {name: reader.get_tensor(name) for each in layers() for name in names(*each)}
    arrays, explained = narrow(whole, frames(args.images, args.count, cfg), cfg, cfg.seed)
    cli.write_checkpoint(arrays, args.output, None, args.checkpoint)
    for each, share in zip(layers(), explained):
        print(f'conv{each[0]}_{each[1]}: {share:.0%} of the variance')
    print(f'{len(arrays)} arrays -> {args.output}')


if __name__ == '__main__':
    sys.exit(main())
