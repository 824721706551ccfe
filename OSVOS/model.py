"""The OSVOS network: VGG-16, four side branches, fixed bilinear upsampling, a 1x1 fusion (OSVOS
section 3.1).

Upsampling and the 1x1 fusion are linear, so the fusion is applied before upsampling: one channel
goes up instead of 16, the same logits at a sixteenth of the cost. Checkpoints with trained `-up`
kernels need the plain form, `upsampling='dense'`.
"""

from __future__ import annotations

from common.lazy import np, tf

from . import npu
from .backbone import conv, vgg16

SIDES = (2, 3, 4, 5)  # stages with a side branch (OSVOS-TensorFlow osvos.py)
PREP = 16  # channels of a side branch (OSVOS-TensorFlow osvos.py)
OUTPUTS = tuple(f'side{k}' for k in SIDES) + ('fuse',)


def network(features: dict, cfg, training: bool) -> dict:
    """Logits of every supervised output, at input resolution.

    Args:
      features: 'image' float32 [B, H, W, 3], BGR, 0..255 minus mean.
      cfg: uses channels, crop, upsampling, init_std, device.
      training: same graph either way: no dropout, no batch norm.

    Returns:
      'side2' .. 'side5', 'fuse': float32 [B, H, W, 1] logits; 'probability': sigmoid of 'fuse'.
      A branch nobody fetches is not run.
    """
    del training
    image = features['image']
    size = image.shape.as_list()[1:3]
    with tf.variable_scope('osvos', reuse=tf.AUTO_REUSE):
        maps = vgg16(image, cfg)
        preps, outputs = [], {}
        for k in SIDES:
            name = f'conv{k}_{2 if k == 2 else 3}_16'
            preps.append(conv(maps[k - 1], PREP, 3, name, cfg, cfg.init_std))
            score = conv(preps[-1], 1, 1, f'score-dsn_{k}', cfg, cfg.init_std)
            outputs[f'side{k}'] = upsample(score, k, size, f'score-dsn_{k}-up', cfg)
        outputs['fuse'] = _fuse(preps, size, cfg)
    with npu.keep_float32(cfg):
        outputs['probability'] = tf.sigmoid(outputs['fuse'], name='probability')
    return outputs


def _fuse(preps, size, cfg):
    with tf.variable_scope('upscore-fuse'):
        weights = tf.get_variable(
            'weights',
            [1, 1, PREP * len(SIDES), 1],
            tf.float32,
            tf.truncated_normal_initializer(stddev=cfg.init_std),
        )
        biases = tf.get_variable('biases', [1], tf.float32, tf.zeros_initializer())
    total = biases
    for i, (k, prep) in enumerate(zip(SIDES, preps)):
        part = weights[:, :, PREP * i : PREP * (i + 1)]
        if cfg.upsampling == 'dense':
            up = upsample(prep, k, size, f'score-multi{k}-up', cfg)
            total = total + tf.nn.conv2d(up, part, 1, 'VALID')
        else:
            scored = tf.nn.conv2d(prep, part, 1, 'VALID')
            total = total + upsample(scored, k, size, '', cfg)
    return total


def upsample(x: tf.Tensor, stage: int, size: list[int], name: str, cfg) -> tf.Tensor:
    """Transposed convolution by the stage's stride and the crop to the input's size.

    Args:
      x: float32 [B, h, w, C]; C = 1 unless cfg.upsampling is 'dense'.
      stage: 2..5, stride 2^(stage-1).
      size: [H, W] of the input.
      name: scope of the kernel in the checkpoint, for 'dense'.

    Returns:
      float32 [B, H, W, C].
    """
    stride = 2 ** (stage - 1)
    with npu.keep_float32(cfg):
        if cfg.upsampling == 'dense':
            return _upsample_dense(x, stride, size, name, cfg)
        rows, columns = (
            bilinear_matrix(n, full, stride, cfg.crop)
            for n, full in zip(x.shape.as_list()[1:3], size)
        )
        y = tf.tensordot(x[..., 0], tf.constant(columns.T), 1)  # [B, h, W]
        y = tf.tensordot(tf.constant(rows), y, [[1], [1]])  # [H, B, W]
        return tf.transpose(y, [1, 0, 2])[..., None]


def _upsample_dense(x, stride, size, name, cfg):
    batch, h, w, channels = x.shape.as_list()
    start = np.outer(bilinear_weights(stride), bilinear_weights(stride))[:, :, None, None]
    start = (start * np.eye(channels)).astype(np.float32)
    with tf.variable_scope(name):
        kernel = tf.get_variable(
            'weights', start.shape, tf.float32, tf.constant_initializer(start), trainable=False
        )
    full = [(n + 1) * stride for n in (h, w)]
    y = tf.nn.conv2d_transpose(x, kernel, [batch] + full + [channels], stride, 'VALID')
    top, left = (crop_start(n, full, stride, cfg.crop) for n, full in zip((h, w), size))
    return y[:, top : top + size[0], left : left + size[1]]


def bilinear_weights(stride: int) -> np.ndarray:
    """One axis of the bilinear kernel of size 2 * stride: float32 [2 * stride] (OSVOS-PyTorch
    osvos_layers.py)."""
    return (1 - np.abs(np.arange(2 * stride) - (stride - 0.5)) / stride).astype(np.float32)


def crop_start(cells: int, size: int, stride: int, crop: str) -> int:
    """First kept position of the upsampled axis of (cells + 1) * stride.

    'center' as the published networks crop, which drifts up to 5 px where the size is no multiple
    of the stride; 'aligned' keeps every cell over its pixels.
    """
    if crop not in ('center', 'aligned'):
        raise ValueError(f"crop is 'center' or 'aligned', not {crop!r}")
    return ((cells + 1) * stride - size) // 2 if crop == 'center' else stride // 2


def bilinear_matrix(cells: int, size: int, stride: int, crop: str = 'center') -> np.ndarray:
    """Upsampling and crop of one axis as a matrix: float32 [size, cells]."""
    weights = bilinear_weights(stride)
    start = crop_start(cells, size, stride, crop)
    offset = np.arange(size)[:, None] + start - stride * np.arange(cells)[None]  # in the kernel
    inside = (offset >= 0) & (offset < 2 * stride)
    return np.where(inside, weights[np.clip(offset, 0, 2 * stride - 1)], 0).astype(np.float32)
