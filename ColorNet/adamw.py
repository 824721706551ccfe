"""The optimizer of ColorNet: Adam as PyTorch has it (ColorNet section 5; DUL).
"""

from __future__ import annotations

from common.lazy import tf

EPSILON = 1e-8  # of Adam (PyTorch's default)


class AdamW(tf.train.AdamOptimizer):
    """Adam as PyTorch has it: bias correction before epsilon, where TensorFlow's comes after.

    'adamw' shrinks every variable by rate * weight_decay. 'adam' has two groups of variables, as
    dense-ulearn-vos: biases at twice the rate, and the others with L2 in the gradient.
    """

    def __init__(self, rate, cfg):
        """`rate` float32 scalar; beta1, beta2, weight_decay and optimizer of the settings."""
        super().__init__(rate, cfg.beta1, cfg.beta2, name='AdamW')
        self.rate, self.decay, self.kind = rate, cfg.weight_decay, cfg.optimizer

    def _apply_dense(self, gradient, variable):
        return self._step(tf.raw_ops.ApplyAdam, gradient, variable, lambda v: v)

    def _resource_apply_dense(self, gradient, variable):
        return self._step(tf.raw_ops.ResourceApplyAdam, gradient, variable, lambda v: v.handle)

    def _step(self, apply, gradient, variable, reference):
        """One update of a variable by the operator `apply`, which takes reference(variable)."""
        rate, before = self.rate, []
        if self.kind == 'adamw':
            before = [tf.assign_sub(variable, rate * self.decay * variable)]
        elif is_bias(variable):
            rate = 2 * rate
        else:
            gradient = gradient + self.decay * variable
        power1, power2 = self._get_beta_accumulators()
        with tf.control_dependencies(before):
            return apply(
                var=reference(variable),
                m=reference(self.get_slot(variable, 'm')),
                v=reference(self.get_slot(variable, 'v')),
                beta1_power=power1,
                beta2_power=power2,
                lr=rate,
                beta1=self._beta1,
                beta2=self._beta2,
                epsilon=EPSILON * tf.sqrt(1 - power2),
                grad=gradient,
                use_locking=False,
            )


def is_bias(variable) -> bool:
    """Whether PyTorch calls the variable a bias: of a convolution or of a batch norm."""
    return variable.op.name.endswith(('/biases', '/beta'))
