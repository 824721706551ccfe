"""Signatures, NpuOptimizer keys and names of every adapter branch, one row a fact.

Sources: Ascend/tensorflow branches r1.1.1 - r1.15.0 (signatures, npu_attrs.cc) and the CANN
manuals. `since` is the first branch that has a row, `until` the first that has it no more. A '?'
marks a branch that the sources do not name: the one that deprecated the keyword is taken.
"""

from __future__ import annotations

import inspect
import os

BRANCHES = tuple(f'1.{n}' for n in range(1, 16))  # r1.1.1 counts as 1.1

# keyword, default, since, until; order of master
NPU_RUN_CONFIG = (
    ('iterations_per_loop', 1, '1.1', None),
    ('profiling_config', None, '1.1', None),
    ('model_dir', None, '1.1', None),
    ('tf_random_seed', None, '1.1', None),
    ('save_summary_steps', 0, '1.1', None),
    ('save_checkpoints_steps', None, '1.1', None),
    ('save_checkpoints_secs', None, '1.1', None),
    ('session_config', None, '1.1', None),
    ('keep_checkpoint_max', 5, '1.1', None),
    ('keep_checkpoint_every_n_hours', 10000, '1.1', None),
    ('log_step_count_steps', 100, '1.1', None),
    ('distribute', None, '1.1', None),
    ('enable_data_pre_proc', True, '1.1', None),
    ('precision_mode', None, '1.1', None),
    ('enable_reduce_precision', False, '1.1', None),
    ('variable_format_optimize', True, '1.1', '1.12'),  # until?
    ('variable_format_optimize', None, '1.12', None),
    ('mix_compile_mode', False, '1.1', None),
    ('hcom_parallel', False, '1.1', '1.10'),
    ('hcom_parallel', True, '1.10', None),
    ('graph_memory_max_size', None, '1.1', None),
    ('variable_memory_max_size', None, '1.1', None),
    ('auto_tune_mode', None, '1.1', '1.11'),
    ('dump_config', None, '1.1', None),
    ('stream_max_parallel_num', None, '1.1', None),
    ('is_tailing_optimization', False, '1.1', None),
    ('horovod_mode', False, '1.1', None),
    ('graph_run_mode', 1, '1.1', None),
    ('op_debug_level', 0, '1.1', '1.12'),  # until?
    ('op_debug_level', None, '1.12', None),
    ('enable_scope_fusion_passes', None, '1.1', None),
    ('enable_exception_dump', 0, '1.1', '1.15'),
    ('enable_exception_dump', 2, '1.15', None),
    ('op_select_implmode', None, '1.1', None),
    ('optypelist_for_implmode', None, '1.1', None),
    ('dynamic_input_config', None, '1.2', None),
    ('mstune_mode', None, '1.2', '1.5'),
    ('op_tune_mode', None, '1.3', '1.5'),
    ('aoe_mode', None, '1.5', None),
    ('work_path', None, '1.2', None),
    ('buffer_optimize', 'l2_optimize', '1.2', None),
    ('enable_small_channel', 0, '1.2', None),
    ('fusion_switch_file', None, '1.2', None),
    ('enable_compress_weight', False, '1.2', None),
    ('compress_weight_conf', None, '1.2', None),
    ('op_compiler_cache_mode', None, '1.2', None),
    ('op_compiler_cache_dir', None, '1.2', None),
    ('debug_dir', None, '1.2', None),
    ('hcom_multi_mode', False, '1.3', None),
    ('dynamic_input', None, '1.3', None),
    ('dynamic_graph_execute_mode', 'dynamic_execute', '1.3', None),
    ('dynamic_inputs_shape_range', None, '1.3', None),
    ('train_distribute', None, '1.3', None),
    ('eval_distribute', None, '1.3', None),
    ('local_rank_id', None, '1.3', None),
    ('local_device_list', None, '1.3', None),
    ('session_device_id', None, '1.3', None),
    ('distribute_config', None, '1.3', None),
    ('modify_mixlist', None, '1.5', None),
    ('op_precision_mode', None, '1.5', None),
    ('device_type', 'default_device_type', '1.7', None),
    ('soc_config', None, '1.8', None),
    ('hccl_timeout', None, '1.7', None),
    ('op_wait_timeout', None, '1.7', None),
    ('op_execute_timeout', None, '1.7', None),
    ('HCCL_algorithm', None, '1.8', None),
    ('customize_dtypes', None, '1.9', None),
    ('op_debug_config', None, '1.9', None),
    ('memory_config', None, '1.9', None),
    ('experimental_config', None, '1.9', None),
    ('jit_compile', True, '1.10', '1.11'),
    ('jit_compile', False, '1.11', '1.12'),
    ('topo_sorting_mode', None, '1.10', None),
    ('aoe_config_file', None, '1.11', None),
    ('insert_op_file', None, '1.11', None),
    ('stream_sync_timeout', -1, '1.12', None),
    ('event_sync_timeout', -1, '1.12', None),
    ('external_weight', False, '1.11', None),
    ('es_cluster_config', None, '1.13', None),
    ('deterministic', 0, '1.12', None),
    ('frozen_variable', False, '1.12', None),
    ('variable_placement', 'Device', '1.12', None),
    ('jit_compile', 'auto', '1.13', None),
    ('precision_mode_v2', None, '1.13', None),
    ('ac_parallel_enable', None, '1.15', None),
)
REQUIRED = inspect.Parameter.empty
HELPERS = {
    'ProfilingConfig': (
        ('enable_profiling', False, '1.1', None),
        ('profiling_options', None, '1.1', None),
    ),
    'DumpConfig': (
        ('enable_dump', False, '1.1', None),
        ('dump_path', None, '1.1', None),
        ('dump_step', None, '1.1', None),
        ('dump_mode', 'output', '1.1', None),
        ('enable_dump_debug', False, '1.1', None),
        ('dump_debug_mode', 'all', '1.1', None),
        ('dump_data', 'tensor', '1.10', None),
        ('dump_layer', None, '1.10', None),
    ),
    'MemoryConfig': (
        ('atomic_clean_policy', 0, '1.9', None),
        ('static_memory_policy', 0, '1.9', None),
        ('memory_optimization_policy', None, '1.12', None),
    ),
    'DynamicInputConfig': (
        ('input_shape', REQUIRED, '1.2', None),
        ('dynamic_dims', REQUIRED, '1.2', None),
        ('dynamic_node_type', REQUIRED, '1.2', None),
    ),
}

SWITCH = (0, 1)
IMPLMODES = ('high_precision', 'high_performance', 'high_precision_for_all')
IMPLMODES += ('high_performance_for_all',)
MIXED = ('allow_mix_precision', 'allow_mix_precision_fp16', 'allow_mix_precision_bf16')
MIXED_V2 = ('mixed_float16', 'mixed_bfloat16')
PRECISION = ('force_fp32', 'allow_fp32_to_fp16', 'force_fp16', 'must_keep_origin_dtype') + MIXED
PRECISION += ('cube_fp16in_fp32out', 'allow_fp32_to_bf16')
PRECISION_V2 = ('fp16', 'origin', 'cube_fp16in_fp32out') + MIXED_V2

# NpuOptimizer key: (member of AttrValue, allowed values or the name of a check in rules.py, since)
PARAMETERS = {
    'precision_mode': ('s', PRECISION, '1.1'),
    'precision_mode_v2': ('s', PRECISION_V2, '1.13'),
    'modify_mixlist': ('s', 'mixlist', '1.5'),
    'op_precision_mode': ('s', 'file', '1.5'),
    'op_select_implmode': ('s', IMPLMODES, '1.1'),
    'optypelist_for_implmode': ('s', None, '1.1'),
    'customize_dtypes': ('s', 'file', '1.9'),
    'deterministic': ('i', SWITCH, '1.12'),
    'use_off_line': ('b', (True,), '1.1'),  # False: everything runs on the host
    'mix_compile_mode': ('b', None, '1.1'),
    'iterations_per_loop': ('i', 'positive', '1.1'),
    'enable_data_pre_proc': ('b', None, '1.1'),
    'graph_run_mode': ('i', SWITCH, '1.1'),
    'session_device_id': ('i', 'natural', '1.3'),
    'local_rank_id': ('i', tuple(range(8)), '1.3'),  # cards of a server
    'local_device_list': ('s', None, '1.3'),
    'job': ('s', None, '1.1'),
    'task_index': ('i', 'natural', '1.1'),
    'lower_functional_ops': ('b', None, '1.1'),
    'in_out_pair_flag': ('b', None, '1.3'),
    'in_out_pair': ('s', None, '1.3'),
    'const_input': ('s', None, '1.9'),
    'variable_placement': ('s', ('Device', 'Host'), '1.12'),
    'frozen_variable': ('b', None, '1.12'),
    'jit_compile': ('s', ('true', 'false', 'auto'), '1.13'),  # 1.10, 1.11: member b
    'enable_scope_fusion_passes': ('s', None, '1.1'),
    'fusion_switch_file': ('s', 'json_file', '1.2'),
    'buffer_optimize': ('s', ('l2_optimize', 'off_optimize'), '1.2'),
    'enable_small_channel': ('i', SWITCH, '1.2'),
    'enable_compress_weight': ('b', None, '1.2'),
    'compress_weight_conf': ('s', 'file', '1.2'),
    'variable_format_optimize': ('b', None, '1.1'),
    'topo_sorting_mode': ('i', SWITCH, '1.10'),
    'insert_op_file': ('s', 'file', '1.11'),
    'external_weight': ('b', None, '1.11'),
    'stream_max_parallel_num': ('s', None, '1.1'),
    'ac_parallel_enable': ('s', ('0', '1'), '1.15'),
    'dynamic_input': ('b', None, '1.3'),
    'dynamic_graph_execute_mode': ('s', ('dynamic_execute', 'lazy_recompile'), '1.3'),
    'dynamic_inputs_shape_range': ('s', None, '1.3'),
    'input_shape': ('s', None, '1.2'),
    'dynamic_dims': ('s', None, '1.2'),
    'dynamic_node_type': ('i', SWITCH, '1.2'),
    'graph_memory_max_size': ('s', None, '1.1'),
    'variable_memory_max_size': ('s', None, '1.1'),
    'atomic_clean_policy': ('i', SWITCH, '1.9'),
    'static_memory_policy': ('i', None, '1.9'),
    'memory_optimization_policy': ('s', None, '1.12'),
    'graph_slice': ('s', ('auto', 'manual'), '1.13'),
    'hcom_parallel': ('b', None, '1.1'),
    'hcom_multi_mode': ('b', None, '1.3'),
    'is_tailing_optimization': ('b', None, '1.1'),
    'hccl_timeout': ('i', 'positive', '1.7'),  # s
    'HCCL_algorithm': ('s', None, '1.8'),
    'op_wait_timeout': ('i', 'positive', '1.7'),  # s
    'op_execute_timeout': ('i', 'positive', '1.7'),  # s
    'graph_exec_timeout': ('i', 'positive', '1.9'),  # ms
    'stream_sync_timeout': ('i', None, '1.12'),  # ms
    'event_sync_timeout': ('i', None, '1.12'),  # ms
    'enable_dump': ('b', None, '1.1'),
    'enable_dump_debug': ('b', None, '1.1'),
    'dump_path': ('s', 'folder', '1.1'),
    'dump_step': ('s', 'dump_step', '1.1'),
    'dump_mode': ('s', ('input', 'output', 'all'), '1.1'),
    'dump_debug_mode': ('s', ('aicore_overflow', 'atomic_overflow', 'all'), '1.1'),
    'dump_data': ('s', ('tensor', 'stats'), '1.10'),
    'dump_layer': ('s', None, '1.10'),
    'profiling_mode': ('b', None, '1.1'),
    'profiling_options': ('s', 'profiling_options', '1.1'),
    'op_debug_level': ('i', tuple(range(5)), '1.1'),
    'op_debug_config': ('s', None, '1.9'),
    'debug_dir': ('s', 'folder', '1.2'),
    'enable_exception_dump': ('i', (0, 1, 2), '1.1'),
    'op_compiler_cache_mode': ('s', ('disable', 'enable', 'force'), '1.2'),
    'op_compiler_cache_dir': ('s', 'folder', '1.2'),
    'graph_compiler_cache_dir': ('s', 'folder', '1.13'),
    'aoe_mode': ('s', ('1', '2', '4', 'mdat'), '1.5'),
    'work_path': ('s', 'folder', '1.2'),
    'distribute_config': ('s', 'file', '1.3'),
    'aoe_config_file': ('s', 'file', '1.11'),
    'device_type': ('s', None, '1.7'),
    'soc_config': ('s', None, '1.8'),
    'experimental_logical_device_cluster_deploy_mode': ('s', ('LB',), '1.9'),
    'experimental_logical_device_id': ('s', None, '1.9'),
    'experimental_model_deploy_mode': ('s', None, '1.9'),
    'experimental_model_deploy_devicelist': ('s', None, '1.9'),
    'experimental_accelerate_train_mode': ('s', None, '1.15'),
    'resource_config_path': ('s', 'file', '1.13'),
    'graph_parallel_option_path': ('s', 'file', '1.13'),
    'enable_graph_parallel': ('b', None, '1.13'),
    'es_cluster_config': ('s', None, '1.13'),
}
REMOVED = {'auto_tune_mode': ('1.1', '1.11'), 'mstune_mode': ('1.2', '1.5')}
REMOVED['op_tune_mode'] = ('1.3', '1.5')  # all three: member s, any value

# names of npu_init that are not in every branch
EXPORTED_SINCE = {
    'DynamicInputConfig': '1.2',
    'NPUEstimatorSpec': '1.2',
    'NPUBroadcastGlobalVariablesHook': '1.3',
    'npu_config_proto': '1.3',
    'npu_run_config_init': '1.3',
    'npu_hooks_append': '1.3',
    'npu_tf_optimizer': '1.3',
    'init_resource': '1.3',
    'shutdown_resource': '1.3',
    'close_session': '1.3',
    'get_npu_rank_id': '1.3',
    'get_npu_rank_size': '1.3',
    'get_npu_local_rank_id': '1.3',
    'npu_allreduce': '1.6',
    'npu_distributed_optimizer_wrapper': '1.6',
    'get_npu_local_rank_size': '1.8',
    'MemoryConfig': '1.9',
    'SetIterationsVarHook': '1.10',
}


def number(branch: str) -> tuple:
    """(1, 10) of '1.10', 'r1.10' or 'r1.10.0'.

    Raises:
      ValueError: no such branch.
    """
    parts = branch.lstrip('r').split('.')
    if '.'.join(parts[:2]) not in BRANCHES:
        raise ValueError(f'NPU_STANDIN_VERSION={branch}: expected r1.1.1, r1.2 .. r1.15')
    return int(parts[0]), int(parts[1])


def version() -> tuple:
    """(1, 15): the branch of NPU_STANDIN_VERSION."""
    return number(os.environ.get('NPU_STANDIN_VERSION') or 'r1.15')


def present(since: str, until: str | None = None) -> bool:
    """Whether the chosen branch has what came with `since` and went with `until`."""
    return number(since) <= version() and (until is None or version() < number(until))


def signature(rows: tuple) -> inspect.Signature:
    """The chosen branch's signature of the rows (keyword, default, since, until), without self."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature(
        [
            inspect.Parameter(name, kind, default=default)
            for name, default, since, until in rows
            if present(since, until)
        ]
    )


def parameter(key: str) -> tuple | None:
    """(member, allowed values or check) of an NpuOptimizer key in the chosen branch, or None."""
    if key in REMOVED:
        return ('s', None) if present(*REMOVED[key]) else None
    if key == 'jit_compile' and version() < (1, 13):
        return ('b', None) if present('1.10', '1.12') else None
    if key not in PARAMETERS or not present(PARAMETERS[key][2]):
        return None
    return PARAMETERS[key][:2]
