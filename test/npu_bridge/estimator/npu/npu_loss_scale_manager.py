"""Loss scale managers: fixed, and growing and shrinking by the overflows seen.

Rules of tf.contrib.mixed_precision's managers, from which the real ones derive.
"""

from __future__ import annotations

import tensorflow.compat.v1 as tf

LARGEST = 3.4e38  # float32: the scale stays below this / incr_ratio


def _outside(name):
    if tf.get_default_graph()._current_control_dependencies():
        raise ValueError(
            f'{name} made inside tf.control_dependencies: the NPU then fails with '
            '"Placeholder not support"; make it before'
        )


class FixedLossScaleManager:
    """A constant scale of 1 or more."""

    def __init__(self, loss_scale, enable_overflow_check: bool = True):
        """`enable_overflow_check` False: updates are applied whatever the gradients hold."""
        if loss_scale < 1:
            raise ValueError(f'loss_scale={loss_scale}: expected 1 or more')
        _outside('FixedLossScaleManager')
        self.enable_overflow_check = enable_overflow_check
        self._scale = tf.constant(loss_scale, tf.float32)

    def get_loss_scale(self) -> tf.Tensor:
        """float32 []."""
        return self._scale

    def update_loss_scale(self, finite: tf.Tensor) -> tf.Tensor:
        """The scale after an attempt, float32 []; here the same."""
        return self._scale


class ExponentialUpdateLossScaleManager:
    """Scale times incr_ratio after n good steps in a row, times decr_ratio after n bad ones."""

    enable_overflow_check = True

    def __init__(
        self,
        init_loss_scale,
        incr_every_n_steps: int,
        decr_every_n_nan_or_inf: int = 2,
        incr_ratio=2,
        decr_ratio=0.8,
    ):
        """Scale of 1 or more, counts of 1 or more, incr_ratio above 1, decr_ratio in (0, 1)."""
        if init_loss_scale < 1 or incr_every_n_steps < 1 or decr_every_n_nan_or_inf < 1:
            raise ValueError('init_loss_scale and both counts must be 1 or more')
        if incr_ratio <= 1 or not 0 < decr_ratio < 1:
            raise ValueError(f'incr_ratio={incr_ratio} > 1, 0 < decr_ratio={decr_ratio} < 1 needed')
        _outside('ExponentialUpdateLossScaleManager')
        self._every, self._bad_every = incr_every_n_steps, decr_every_n_nan_or_inf
        self._up, self._down = incr_ratio, decr_ratio
        self._scale = _variable('loss_scale', float(init_loss_scale), tf.float32)
        self._good = _variable('good_steps', 0, tf.int32)
        self._bad = _variable('bad_steps', 0, tf.int32)

    def get_loss_scale(self) -> tf.Tensor:
        """float32 []."""
        return self._scale.read_value()

    def update_loss_scale(self, finite: tf.Tensor) -> tf.Tensor:
        """Counts an attempt (bool []: all finite) and returns the new scale, float32 [].

        A change of the scale sets both counts to 0, a bad step the good ones; bad steps need not
        be in a row. The scale never falls below 1.
        """
        scale = self._scale.read_value()
        good, bad = self._good.read_value() + 1, self._bad.read_value() + 1
        rise = tf.logical_and(finite, good >= self._every)
        fall = tf.logical_and(tf.logical_not(finite), bad >= self._bad_every)
        room = scale < LARGEST / self._up
        up = tf.where(tf.logical_and(rise, room), scale * self._up, scale)
        new = tf.where(fall, tf.maximum(1.0, scale * self._down), up)
        changed = tf.logical_or(rise, fall)
        counted = tf.logical_and(finite, tf.logical_not(changed))
        new_good = tf.where(counted, good, tf.zeros_like(good))
        new_bad = tf.where(changed, tf.zeros_like(bad), tf.where(finite, bad - 1, bad))
        with tf.control_dependencies([new, new_good, new_bad]):
            pairs = ((self._good, new_good), (self._bad, new_bad), (self._scale, new))
            assigned = [variable.assign(value) for variable, value in pairs]
        with tf.control_dependencies(assigned):
            return tf.identity(new)


def _variable(name, value, dtype):
    return tf.Variable(value, trainable=False, name=name, dtype=dtype, use_resource=True)
