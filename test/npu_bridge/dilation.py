"""Gradients of dilated convolutions, which the NPU has and TensorFlow's CPU kernels lack.

A graph made for the NPU uses the built-in operators; so that the stand-in can run it on CPU, the
registered gradient of Conv2D is replaced for dilations above 1, stride 1.
"""

from __future__ import annotations

import tensorflow.compat.v1 as tf
from tensorflow.python.framework import ops

KEY = 'type'  # of an entry in TensorFlow's registry


def install() -> None:
    """Replaces the gradient, once a process."""
    entry = ops._gradient_registry._registry['Conv2D']
    plain = entry[KEY]
    if getattr(plain, 'of_npu_standin', False):
        return

    def gradient(op, dy):
        rates = list(op.get_attr('dilations'))[1:3]
        if max(rates) == 1:
            return plain(op, dy)
        return _dilated(op.inputs[0], op.inputs[1], dy, rates, op.get_attr('padding').decode())

    gradient.of_npu_standin = True
    entry[KEY] = gradient


def _dilated(x, weights, dy, rates, padding):
    kernel = weights.shape.as_list()
    size, out = x.shape.as_list()[1:3], dy.shape.as_list()[1:3]
    reach = [(k - 1) * r for k, r in zip(kernel[:2], rates)]
    before = [n // 2 if padding == 'SAME' else 0 for n in reach]
    after = [o + n - s - b for o, n, s, b in zip(out, reach, size, before)]
    padded = tf.pad(x, [[0, 0], *zip(before, after), [0, 0]])
    flat = tf.reshape(dy, [-1, kernel[3]])
    total, taps = tf.zeros_like(padded), []
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            top, left = i * rates[0], j * rates[1]
            part = padded[:, top : top + out[0], left : left + out[1]]
            taps.append(tf.matmul(tf.reshape(part, [-1, kernel[2]]), flat, transpose_a=True))
            back = tf.reshape(tf.matmul(flat, weights[i, j], transpose_b=True), tf.shape(part))
            borders = [[top, reach[0] - top], [left, reach[1] - left]]
            total += tf.pad(back, [[0, 0], *borders, [0, 0]])
    inner = total[:, before[0] : before[0] + size[0], before[1] : before[1] + size[1]]
    return inner, tf.reshape(tf.stack(taps), kernel)
