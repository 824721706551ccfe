"""Cross entropy of the hardest pixels (networks/loss.py of the official code)."""

from __future__ import annotations

import numpy as np
import tensorflow.compat.v1 as tf

from . import npu


def losses(outputs: dict, labels: dict, cfg) -> dict:
    """Scalar losses and measures of a batch.

    Args:
      outputs: logits float32 [B, h, w, N], those of padded objects far below the others.
      labels: label int32 [B, S, S], 255 void, no loss; step int64 scalar, of the update.

    Returns:
      total, float32 scalar; accuracy, the share of the pixels whose largest logit is the label's.
    """
    with npu.keep_float32(cfg):
        size = labels['label'].shape.as_list()[1:]
        logits = tf.cast(outputs['logits'], tf.float32)
        logits = tf.image.resize_bilinear(logits, size, align_corners=True)
        batch, pixels = logits.shape.as_list()[0], size[0] * size[1]
        label = tf.reshape(labels['label'], [batch, pixels])
        logits = tf.reshape(logits, [batch, pixels, -1])
        shown = label < logits.shape.as_list()[-1]  # neither void nor an object that came later
        errors = tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels=tf.where(shown, label, tf.zeros_like(label)), logits=logits
        )
        errors = tf.where(shown, errors, tf.zeros_like(errors))
        right = tf.equal(tf.argmax(logits, -1, output_type=tf.int32), label)
        accuracy = tf.reduce_mean(tf.cast(right, tf.float32))
        return {'total': hardest(errors, labels['step'], cfg), 'accuracy': accuracy}


def hardest(errors: tf.Tensor, step: tf.Tensor, cfg) -> tf.Tensor:
    """Mean over the batch of the mean of the largest errors.

    Shapes stay static: all errors are sorted, those of a rank beyond the share weigh nothing.

    Args:
      errors: float32 [B, P], P pixels.
      step: int64 scalar; the share that counts falls from 1 to cfg.hardest in cfg.mining_steps.
      cfg: uses hardest, mining_steps.

    Returns:
      float32 scalar.
    """
    pixels = errors.shape.as_list()[1]
    if cfg.mining_steps:
        passed = np.arange(cfg.mining_steps + 1) / cfg.mining_steps
    else:
        passed = np.ones(1)
    counts = ((passed * cfg.hardest + (1.0 - passed)) * float(pixels)).astype(np.int32)
    step = tf.minimum(tf.cast(step, tf.int32), cfg.mining_steps)
    count = tf.cast(tf.gather(tf.constant(counts), step), tf.float32)  # rounded as in float64
    ordered = tf.nn.top_k(errors, pixels).values
    counted = tf.cast(tf.range(pixels), tf.float32) < count
    counted = tf.tile(counted[None], [errors.shape.as_list()[0], 1])
    chosen = tf.where(counted, ordered, tf.zeros_like(ordered))
    return tf.reduce_mean(tf.reduce_sum(chosen, 1)) / tf.maximum(count, 1.0)
