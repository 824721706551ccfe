"""NPULossScaleOptimizer: scaled loss, and an update that is left out when anything overflowed.

The device's float-status register is emulated: a gradient that is not finite, a scaled gradient
beyond float16's 65504, or an attempt named in NPU_STANDIN_OVERFLOW_STEPS.
"""

from __future__ import annotations

import tensorflow.compat.v1 as tf

from ... import graph_check, report, rules
from .npu_optimizer import values

LARGEST = 65504.0  # float16; the Ascend 910 saturates there
USED = 'npu_standin_loss_scale'  # graph collection: set when one applied


class NPULossScaleOptimizer(tf.train.Optimizer):
    """Wraps an optimizer (on several cards a distributed one) with a loss-scale manager."""

    def __init__(self, opt, loss_scale_manager, is_distributed: bool = False):
        """`is_distributed` must be True on several cards: the overflow flag is summed over them."""
        if not isinstance(opt, tf.train.Optimizer):
            raise TypeError(f'opt={opt!r}: expected a tf.train.Optimizer')
        for name in ('get_loss_scale', 'update_loss_scale'):
            if not hasattr(loss_scale_manager, name):
                raise TypeError(f'loss_scale_manager={loss_scale_manager!r} has no {name}')
        if rules.ranks()[1] > 1 and not is_distributed:
            raise ValueError('RANK_SIZE > 1: NPULossScaleOptimizer needs is_distributed=True')
        if isinstance(opt, NPULossScaleOptimizer):
            raise ValueError('NPULossScaleOptimizer inside NPULossScaleOptimizer')
        super().__init__(False, 'NPULossScaleOptimizer')
        self._opt, self._manager, self._flags = opt, loss_scale_manager, []

    def compute_gradients(self, loss, *args, **kwargs):
        """[(gradient, variable)] of `loss`, taken with the scaled loss and divided again."""
        if callable(loss):
            raise ValueError('a callable loss is for eager mode')
        scale = tf.identity(self._manager.get_loss_scale())
        scaled_loss = loss * tf.cast(scale, loss.dtype.base_dtype)
        scaled = self._opt.compute_gradients(scaled_loss, *args, **kwargs)
        graph = tf.get_default_graph()
        if graph._get_control_flow_context() is None and not hasattr(graph, 'outer_graph'):
            with graph_check.own(graph):
                self._flags += [_beyond(g) for g, _ in scaled if g is not None]
        return [(_times(g, 1 / scale), v) for g, v in scaled]

    def apply_gradients(self, grads_and_vars, global_step=None, name=None):
        """Applies all or, on overflow, nothing (global_step neither); then updates the scale."""
        pairs = list(grads_and_vars)
        graph = tf.get_default_graph()
        if graph.get_collection(USED):
            raise ValueError(
                'a second NPULossScaleOptimizer applies in this graph: they share the '
                'float-status register, use one'
            )
        graph.add_to_collection(USED, 'used')
        if not self._manager.enable_overflow_check:
            return self._opt.apply_gradients(pairs, global_step, name)
        with graph_check.own(graph):
            return self._guarded(pairs, global_step, name)

    def _guarded(self, pairs, global_step, name):
        scale = self._manager.get_loss_scale()
        gradients = [g for g, _ in pairs if g is not None]
        flags = list(self._flags) or [_beyond(_times(g, scale)) for g in gradients]
        flags += [_not_finite(g) for g in gradients]
        overflow = tf.numpy_function(report.attempt, [tf.reduce_any(tf.stack(flags))], tf.bool)
        overflow.set_shape([])

        def apply():
            with tf.control_dependencies([self._opt.apply_gradients(pairs, global_step)]):
                return tf.constant(True)

        applied = tf.cond(overflow, lambda: tf.constant(False), apply)
        with tf.control_dependencies([applied]):
            new = self._manager.update_loss_scale(tf.logical_not(overflow))
        noted = tf.numpy_function(report.loss_scale, [new], tf.float32)
        noted.set_shape([])
        return tf.group(applied, noted, name=name or 'apply_gradients')

    def get_slot(self, var, name):
        """Slot of the inner optimizer."""
        return self._opt.get_slot(var, name)

    def get_slot_names(self):
        """Slot names of the inner optimizer."""
        return self._opt.get_slot_names()

    def variables(self):
        """Variables of the inner optimizer."""
        return self._opt.variables()


def _times(gradient, factor):
    if gradient is None:
        return None
    product = values(gradient) * tf.cast(factor, gradient.dtype)
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(product, gradient.indices, gradient.dense_shape)
    return product


def _beyond(gradient):
    large = tf.abs(tf.cast(values(gradient), tf.float32)) > LARGEST
    return tf.logical_or(tf.reduce_any(large), _not_finite(gradient))


def _not_finite(gradient):
    return tf.logical_not(tf.reduce_all(tf.is_finite(values(gradient))))
