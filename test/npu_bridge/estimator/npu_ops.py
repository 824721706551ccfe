"""npu_ops: the device's dropout, on CPU made of tf.nn.dropout."""

from __future__ import annotations

import tensorflow.compat.v1 as tf


def dropout(x, keep_prob, noise_shape=None, seed=None, name=None) -> tf.Tensor:
    """Dropout of a float tensor; keep_prob in (0, 1] is the share that stays, not a rate.

    Raises:
      ValueError: x is no float tensor, keep_prob out of range.
    """
    x = tf.convert_to_tensor(x)
    if not x.dtype.is_floating:
        raise ValueError(f'npu_ops.dropout: x is {x.dtype.name}, expected a float type')
    if isinstance(keep_prob, (int, float)) and not 0 < keep_prob <= 1:
        raise ValueError(f'npu_ops.dropout: keep_prob={keep_prob}, expected (0, 1]')
    return tf.nn.dropout(x, rate=1 - keep_prob, noise_shape=noise_shape, seed=seed, name=name)
