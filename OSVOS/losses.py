"""Class-balanced binary cross entropy of OSVOS (section 3.2, after Xie and Tu's HED), in a form
safe for float16.

The originals sum over all pixels, 1e3 to 1e6, beyond float16; here the sum is divided by a number
of pixels and the learning rate multiplied by it where the official recipe is wanted (config.py,
preset `paper`): the update is the same.
"""

from __future__ import annotations

import tensorflow.compat.v1 as tf

from . import npu
from .model import SIDES


def losses(outputs: dict, labels: dict, cfg) -> dict:
    """The loss of every supervised output and their weighted sum.

    Args:
      outputs: of model.network, logits float32 [B, H, W, 1].
      labels: 'mask' float32 [B, H, W, 1], 0 or 1.
      cfg: uses side_schedule and its values, loss_pixels, device.

    Returns:
      float32 scalars 'side2' .. 'side5' (absent without side losses), 'fuse', 'side_weight',
      'total'.
    """
    with npu.keep_float32(cfg):
        scalars = {'fuse': balanced_bce(outputs['fuse'], labels['mask'], cfg.loss_pixels)}
        scalars['total'] = scalars['fuse']
        if cfg.side_schedule != 'none':
            weight = side_weight(tf.train.get_or_create_global_step(), cfg)
            for k in SIDES:
                key = f'side{k}'
                scalars[key] = balanced_bce(outputs[key], labels['mask'], cfg.loss_pixels)
            scalars['side_weight'] = weight
            scalars['total'] += weight * tf.add_n([scalars[f'side{k}'] for k in SIDES])
    return scalars


def balanced_bce(logits: tf.Tensor, mask: tf.Tensor, pixels: int = 0) -> tf.Tensor:
    """Cross entropy in which either class weighs as much as the other has pixels, over all images
    of the batch.

    Args:
      logits: float32 [B, H, W, 1].
      mask: float32 [B, H, W, 1]; 0.5 and more is the object (OSVOS-PyTorch osvos_layers.py).
      pixels: the sum is divided by this; 0: by the number of pixels of the batch.

    Returns:
      float32 scalar; 0 where one class is absent.
    """
    y = tf.cast(mask >= 0.5, tf.float32)
    share = tf.reduce_mean(y)  # of the object; a mean cannot overflow where a sum of pixels would
    weights = y * (1 - share) + (1 - y) * share
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=logits)
    factor = logits.shape.num_elements() / pixels if pixels else 1.0
    return tf.reduce_mean(weights * entropy) * factor


def side_weight(step: tf.Tensor, cfg) -> tf.Tensor:
    """Factor of the side losses at update `step`, float32 scalar."""
    if cfg.side_schedule == 'steps':  # a boundary's own update still has the old value (TFv)
        boundaries = [tf.constant(b, step.dtype.base_dtype) for b in cfg.side_boundaries]
        return tf.train.piecewise_constant(step, boundaries, cfg.side_values)
    if cfg.side_schedule == 'linear':  # PTv train_parent.py
        epoch = tf.floor(tf.cast(step, tf.float32) * cfg.train_epochs / cfg.train_steps)
        return cfg.side_weight * (1 - epoch / cfg.train_epochs)
    return tf.constant(cfg.side_weight, tf.float32)
