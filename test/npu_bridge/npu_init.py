"""`from npu_bridge.npu_init import *`: the names of the adapter, those of the chosen branch only.

As with the real one (since r1.9) the import replaces tf.Session.__init__ and that of
InteractiveSession: from then on every session would be an NPU session. Here the replaced one checks
a config that has an NpuOptimizer entry; SESSIONS_PATCHED says that it happened, `SESSIONS` counts.
"""

# ruff: noqa: F401 (the names are there to be imported)
from __future__ import annotations

import functools
import os

import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from . import rules, tables
from .dilation import install as _dilated_gradients
from .estimator import npu_ops
from .estimator.npu import npu_scope, npu_unary_ops, util
from .estimator.npu.npu_config import (
    DumpConfig,
    DynamicInputConfig,
    MemoryConfig,
    NPURunConfig,
    ProfilingConfig,
)
from .estimator.npu.npu_estimator import NPUEstimator, NPUEstimatorSpec
from .estimator.npu.npu_hook import (
    NPUBroadcastGlobalVariablesHook,
    NPUCheckpointSaverHook,
    SetIterationsVarHook,
    npu_hooks_append,
)
from .estimator.npu.npu_loss_scale_manager import (
    ExponentialUpdateLossScaleManager,
    FixedLossScaleManager,
)
from .estimator.npu.npu_loss_scale_optimizer import NPULossScaleOptimizer
from .estimator.npu.npu_optimizer import (
    NPUDistributedOptimizer,
    NPUOptimizer,
    npu_allreduce,
    npu_distributed_optimizer_wrapper,
    npu_tf_optimizer,
)
from .hccl import hccl_ops

_dilated_gradients()
session_run_hook = tf.train  # has SessionRunHook and SessionRunArgs
SESSIONS = {'made': 0}
SESSIONS_PATCHED = False


def npu_config_proto(config_proto=None, job=None, task_index=None) -> tf.ConfigProto:
    """The ConfigProto, edited in place: NpuOptimizer added where absent, remapping OFF.

    memory_optimization is set OFF only together with a new NpuOptimizer entry, as in the adapter.
    """
    config = tf.ConfigProto() if config_proto is None else config_proto
    if not isinstance(config, tf.ConfigProto):
        raise TypeError(f'config_proto={config!r}: expected a tf.ConfigProto')
    rewrite = config.graph_options.rewrite_options
    if not any(entry.name == 'NpuOptimizer' for entry in rewrite.custom_optimizers):
        entry = rewrite.custom_optimizers.add(name='NpuOptimizer')
        entry.parameter_map['use_off_line'].b = True
        rewrite.memory_optimization = RewriterConfig.OFF
    config.allow_soft_placement, config.log_device_placement = True, False
    rewrite.remapping = RewriterConfig.OFF
    rules.session_config(config)
    return config


def npu_run_config_init(run_config=None) -> tf.estimator.RunConfig:
    """A tf.estimator.RunConfig whose session_config has the NpuOptimizer."""
    run_config = run_config or tf.estimator.RunConfig()
    if not isinstance(run_config, tf.estimator.RunConfig):
        raise TypeError(f'run_config={run_config!r}: expected a tf.estimator.RunConfig')
    return run_config.replace(session_config=npu_config_proto(run_config.session_config))


def init_resource(job=None, task_index=None) -> tuple:
    """(session, operator) for shutdown_resource and close_session."""
    rules.ranks()
    with tf.Graph().as_default():
        shutdown = tf.no_op(name='npu_shutdown')
        return tf.Session(), shutdown


def shutdown_resource(session, npu_shutdown) -> None:
    """Runs the operator of init_resource."""
    session.run(npu_shutdown)


def close_session(session) -> None:
    """Closes the session of init_resource."""
    session.close()


def get_npu_rank_id() -> int:
    """RANK_ID."""
    return rules.ranks()[0]


def get_npu_rank_size() -> int:
    """RANK_SIZE."""
    return rules.ranks()[1]


get_rank_id, get_rank_size = get_npu_rank_id, get_npu_rank_size
get_npu_local_rank_id, get_npu_local_rank_size = get_npu_rank_id, get_npu_rank_size


def set_split_strategy_by_idx(idx_list, group='hccl_world_group') -> None:
    """Checks growing gradient indexes."""
    if list(idx_list) != sorted(set(idx_list)):
        raise ValueError(f'set_split_strategy_by_idx: {idx_list} does not grow')


def set_split_strategy_by_size(size_list, group='hccl_world_group') -> None:
    """Checks percentages that sum to 100."""
    if sum(size_list) != 100:
        raise ValueError(f'set_split_strategy_by_size: {size_list} does not sum to 100')


def _patch(kind):
    plain = kind.__init__

    @functools.wraps(plain)
    def init(self, target='', graph=None, config=None):
        self._session = None  # for __del__, where the config is refused
        rewrite = None if config is None else config.graph_options.rewrite_options
        if rewrite and any(e.name == 'NpuOptimizer' for e in rewrite.custom_optimizers):
            rules.session_config(config)
        SESSIONS['made'] += 1
        plain(self, target, graph, config)

    kind.__init__ = init


if tables.version() >= (1, 9):
    _patch(tf.Session)
    _patch(tf.InteractiveSession)
    SESSIONS_PATCHED = True
for _name, _since in tables.EXPORTED_SINCE.items():
    if not tables.present(_since):
        del globals()[_name]
