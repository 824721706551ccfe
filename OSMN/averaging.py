"""Optimizers around the one of a network: gradients averaged over ranks, batch statistics that move
with the weights.

The same file in all five model folders.
"""

from __future__ import annotations

from common.lazy import tf

from . import ranks


class AveragedOptimizer(tf.train.Optimizer):
    """Averages gradients over the ranks in compute_gradients, as NPUDistributedOptimizer does: in
    one all-reduce, before they are clipped or decayed."""

    def __init__(self, inner: tf.train.Optimizer):
        """The optimizer that applies them."""
        super().__init__(use_locking=False, name='AveragedOptimizer')
        self.inner = inner

    def compute_gradients(self, *args, **kwargs):
        """[(gradient, variable)], gradients averaged; None where a variable has none."""
        pairs = self.inner.compute_gradients(*args, **kwargs)
        gradients = [tf.convert_to_tensor(g) for g, _ in pairs if g is not None]
        sizes = [gradient.shape.num_elements() for gradient in gradients]
        flat = tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], 0)
        ops = tf.get_default_graph().get_operations()
        instance = 1 + sum(op.type == 'CollectiveReduce' for op in ops)
        parts = iter(tf.split(ranks.all_reduce(flat, instance, 'Div'), sizes))
        return [(g if g is None else tf.reshape(next(parts), v.shape), v) for g, v in pairs]

    def apply_gradients(self, *args, **kwargs):
        """As the inner optimizer."""
        return self.inner.apply_gradients(*args, **kwargs)

    def variables(self):
        """Of the inner optimizer."""
        return self.inner.variables()


class WithStatistics(tf.train.Optimizer):
    """Moves batch statistics where gradients are applied: an update that loss scaling skips leaves
    both as they are."""

    def __init__(self, inner, statistics):
        """The optimizer of one rank, and what wrap_optimizer() is given."""
        super().__init__(use_locking=False, name='WithStatistics')
        self.inner, self.statistics = inner, statistics

    def compute_gradients(self, *args, **kwargs):
        """As the inner optimizer."""
        return self.inner.compute_gradients(*args, **kwargs)

    def apply_gradients(self, grads_and_vars, global_step=None, name=None):
        """Moves the statistics and applies the gradients."""
        moved = [tf.assign(variable, value) for variable, value in self.statistics]
        with tf.control_dependencies(moved):
            return self.inner.apply_gradients(grads_and_vars, global_step, name)

    def variables(self):
        """Of the inner optimizer."""
        return self.inner.variables()
