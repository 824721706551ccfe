"""Class-balanced binary cross entropy of OSMN (osmn.py; section 4 of the paper), in a form safe for
float16.

The original sums over all pixels of a batch, 1e5 and more, beyond float16; here the sum is divided
by a constant number of pixels. Adam's update stays the same where its epsilon and the weight decay
are divided by that number too, as config.py does.
"""

from __future__ import annotations

from common.lazy import tf

from . import npu


def losses(outputs: dict, labels: dict, cfg) -> dict:
    """The loss of a batch, whose parts may have several sizes.

    Args:
      outputs: 'logits' of model.network, or 'logits_k' of model.batch_network: float32 [B, H, W,
        1].
      labels: 'mask', or 'mask_k' of every part k: float32 [B, H, W, 1], 0 or 1.
      cfg: uses loss_pixels.

    Returns:
      float32 scalars 'balanced' and 'total', which are the same: weight decay is added to the
      gradients.
    """
    keys = sorted(labels)
    logits = [outputs[key.replace('mask', 'logits')] for key in keys]
    with npu.keep_float32(cfg):
        balanced = balanced_bce(logits, [labels[key] for key in keys], cfg.loss_pixels)
    return {'balanced': balanced, 'total': balanced}


def balanced_bce(logits: list, masks: list, pixels: int = 0) -> tf.Tensor:
    """Cross entropy in which either class weighs as much as the other has pixels in the batch, all
    parts of it together.

    Args:
      logits: float32 [B, H, W, 1] of every part.
      masks: float32 [B, H, W, 1] of every part; above 0.5 is the object (osmn.py).
      pixels: the sum is divided by this; 0: by the number of pixels of the batch.

    Returns:
      float32 scalar; 0 where one class is absent.
    """
    truths = [tf.cast(mask > 0.5, tf.float32) for mask in masks]
    counts = [y.shape.num_elements() for y in truths]
    total = sum(counts)
    # of the object; means do not overflow as sums do
    share = tf.add_n([tf.reduce_mean(y) * (n / total) for y, n in zip(truths, counts)])
    parts = []
    for x, y, count in zip(logits, truths, counts):
        entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=x)
        weights = y * (1 - share) + (1 - y) * share
        parts.append(tf.reduce_mean(weights * entropy) * (count / (pixels or total)))
    return tf.add_n(parts)
