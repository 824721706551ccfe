"""npu_unary_ops: gelu."""

from __future__ import annotations

import tensorflow.compat.v1 as tf


def gelu(x) -> tf.Tensor:
    """float [..] -> x * Phi(x), the same shape."""
    return 0.5 * x * (1 + tf.math.erf(x / 2**0.5))
