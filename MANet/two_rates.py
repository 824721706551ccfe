"""Two learning rates in one optimizer, for stage 1 of MANet (train_stage1.py of the official code).
"""

from __future__ import annotations

from common.lazy import tf

DEEPLAB = ('manet/backbone/', 'manet/aspp/', 'manet/decoder/')  # parameter group 0 (PT)


class TwoRates(tf.train.Optimizer):
    """An optimizer for the variables of DeepLab and one for all others, as one: loss scaling and
    averaging over cards wrap a single optimizer."""

    def __init__(self, of_deeplab: tf.train.Optimizer, of_others: tf.train.Optimizer):
        """The two optimizers."""
        super().__init__(use_locking=False, name='TwoRates')
        self.of_deeplab, self.of_others = of_deeplab, of_others

    def apply_gradients(self, grads_and_vars, global_step=None, name=None):
        """Applies each pair by the optimizer of its variable, then counts the step."""
        deeplab, others = [], []
        for gradient, variable in grads_and_vars:
            group = deeplab if variable.op.name.startswith(DEEPLAB) else others
            group.append((gradient, variable))
        done = [self.of_deeplab.apply_gradients(deeplab), self.of_others.apply_gradients(others)]
        with tf.control_dependencies(done):
            counted = tf.no_op() if global_step is None else tf.assign_add(global_step, 1)
        return tf.group(counted, name=name)
