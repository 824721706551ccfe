"""Distributed optimizer and its function forms. All-reduce is the identity: one process, one rank.

On several cards (RANK_SIZE > 1) the environment must be complete: rank table and rank id.
"""

from __future__ import annotations

import tensorflow.compat.v1 as tf

from ... import graph_check, rules

REDUCED = (tf.int8, tf.int32, tf.float16, tf.float32)  # types that HCCL reduces on the 910A
REDUCTIONS = ('mean', 'min', 'max', 'prod', 'sum')


def values(gradient):
    """The values of a gradient, dense or sparse."""
    return gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient


def npu_allreduce(values, reduction='mean', fusion=1, fusion_id=-1, group='hccl_world_group'):
    """The tensor or list of tensors (None stays None), reduced over one rank."""
    if reduction not in REDUCTIONS:
        raise ValueError(f'reduction={reduction!r}: expected one of {REDUCTIONS}')
    if isinstance(values, (list, tuple)):
        return [None if x is None else npu_allreduce(x, reduction) for x in values]
    if values.dtype.base_dtype not in REDUCED:
        raise TypeError(f'{values.name}: HCCL does not reduce {values.dtype.name}')
    return tf.identity(values)


def _averaged(pairs):
    tf.get_default_graph().add_to_collection(graph_check.DISTRIBUTED, 1)
    for gradient, variable in pairs:
        if gradient is not None and values(gradient).dtype.base_dtype not in REDUCED:
            raise TypeError(f'{variable.op.name}: HCCL does not reduce {gradient.dtype.name}')
    return pairs


class NPUDistributedOptimizer(tf.train.Optimizer):
    """Averages gradients over the cards in compute_gradients; nothing with one card."""

    def __init__(self, optimizer, is_weight_update_sharding: bool = False, name: str | None = None):
        """`optimizer`: a tf.train.Optimizer, no loss-scale optimizer: that goes around this one."""
        if not isinstance(optimizer, tf.train.Optimizer):
            raise TypeError(f'optimizer={optimizer!r}: expected a tf.train.Optimizer')
        if type(optimizer).__name__ in ('NPULossScaleOptimizer', 'NPUDistributedOptimizer'):
            raise ValueError(
                f'{type(optimizer).__name__} inside NPUDistributedOptimizer: the order is '
                'NPULossScaleOptimizer(npu_tf_optimizer(opt), ...)'
            )
        self.cards = rules.ranks()[1]
        super().__init__(False, name or f'Distributed{type(optimizer).__name__}')
        self._optimizer = optimizer

    def compute_gradients(self, *args, **kwargs):
        """Gradients of the wrapped optimizer, averaged."""
        pairs = self._optimizer.compute_gradients(*args, **kwargs)
        return _averaged(pairs) if self.cards > 1 else pairs

    def apply_gradients(self, *args, **kwargs):
        """As the wrapped optimizer."""
        return self._optimizer.apply_gradients(*args, **kwargs)

    def get_slot(self, *args, **kwargs):
        """As the wrapped optimizer."""
        return self._optimizer.get_slot(*args, **kwargs)

    def get_slot_names(self, *args, **kwargs):
        """As the wrapped optimizer."""
        return self._optimizer.get_slot_names(*args, **kwargs)

    def variables(self):
        """As the wrapped optimizer."""
        return self._optimizer.variables()


def npu_tf_optimizer(opt) -> NPUDistributedOptimizer:
    """The optimizer with gradient averaging."""
    return NPUDistributedOptimizer(opt)


def npu_distributed_optimizer_wrapper(optimizer):
    """Patches compute_gradients of the optimizer in place and returns it."""
    if rules.ranks()[1] > 1:
        plain = optimizer.compute_gradients
        optimizer.compute_gradients = lambda *args, **kwargs: _averaged(plain(*args, **kwargs))
    return optimizer


def NPUOptimizer(
    opt,
    loss_scale_manager=None,
    is_distributed=False,
    is_loss_scale=False,
    is_tailing_optimization=False,
    name=None,
):
    """Averaging and loss scaling in one, as asked for; a class in the real adapter."""
    from .npu_loss_scale_optimizer import NPULossScaleOptimizer

    if is_loss_scale and loss_scale_manager is None:
        raise ValueError('is_loss_scale=True needs a loss_scale_manager')
    if rules.ranks()[1] > 1 and not is_distributed:
        raise ValueError('RANK_SIZE > 1: NPUOptimizer needs is_distributed=True')
    opt = NPUDistributedOptimizer(opt, name=name) if is_distributed else opt
    return NPULossScaleOptimizer(opt, loss_scale_manager, is_distributed) if is_loss_scale else opt
