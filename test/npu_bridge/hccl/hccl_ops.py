"""hccl_ops on one process: reductions are the identity."""

from __future__ import annotations

from ..estimator.npu.npu_optimizer import npu_allreduce


def allreduce(tensor, reduction, fusion=1, fusion_id=-1, group='hccl_world_group'):
    """The tensor, reduced over one rank."""
    return npu_allreduce(tensor, reduction, fusion, fusion_id, group)


def broadcast(tensor, root_rank, fusion=2, fusion_id=0, group='hccl_world_group'):
    """The list of tensors, as rank `root_rank` has them."""
    if not isinstance(tensor, (list, tuple)):
        raise TypeError(f'broadcast: {tensor!r}, expected a list of tensors')
    return list(tensor)
