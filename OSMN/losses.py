"""Class-balanced binary cross entropy of OSMN (osmn.py; section 4 of the paper), in a form safe for
float16.

The original sums over all pixels of a batch, 1e5 and more, beyond float16; here the sum is divided
by a constant number of pixels. Adam's update stays the same where its epsilon and the weight decay
are divided by that number too, as config.py does.
"""

from __future__ import annotations

import tensorflow.compat.v1 as tf

from . import npu


def losses(outputs: dict, labels: dict, cfg) -> dict:
    """The loss of a batch.

    Args:
      outputs: of model.network, 'logits' float32 [B, H, W, 1].
      labels: 'mask' float32 [B, H, W, 1], 0 or 1.
      cfg: uses loss_pixels.

    Returns:
      float32 scalars 'balanced' and 'total', which are the same: weight decay is added to the
      gradients.
    """
    with npu.keep_float32(cfg):
        balanced = balanced_bce(outputs['logits'], labels['mask'], cfg.loss_pixels)
    return {'balanced': balanced, 'total': balanced}


def balanced_bce(logits: tf.Tensor, mask: tf.Tensor, pixels: int = 0) -> tf.Tensor:
    """Cross entropy in which either class weighs as much as the other has pixels in the batch.

    Args:
      logits: float32 [B, H, W, 1]. mask: float32 [B, H, W, 1]; above 0.5 is the object (osmn.py).
      pixels: the sum is divided by this; 0: by the number of pixels of the batch.

    Returns:
      float32 scalar; 0 where one class is absent.
    """
    y = tf.cast(mask > 0.5, tf.float32)
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=logits)
    share = tf.reduce_mean(y)  # of the object; a mean does not overflow as a sum
    weights = y * (1 - share) + (1 - y) * share
    return tf.reduce_mean(weights * entropy) * (y.shape.num_elements() / pixels if pixels else 1.0)
