"""The stand-in for npu_bridge (test/npu_bridge): signatures, values, ranks, optimizers.

python -m pytest test/test_npu_standin.py
"""

from __future__ import annotations

import contextlib
import inspect
import json
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from npu_standin import (  # noqa: F401 (pytest finds the fixtures here)
    control_flow,
    load_fixture,
    mixlist_fixture,
    session_config,
    write_table,
)

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] != (3, 7), reason='npu_bridge is for Python 3.7 and TensorFlow 1.15'
)


def test_names_and_patch(load):
    npu = load()
    assert npu.SESSIONS_PATCHED and tf.Session.__init__.__wrapped__
    names = {}
    exec('from npu_bridge.npu_init import *', names)
    for name in (
        'NPURunConfig',
        'NPUEstimator',
        'NPULossScaleOptimizer',
        'RewriterConfig',
        'util',
        'tf',
        'os',
        'npu_scope',
        'npu_ops',
        'npu_hooks_append',
        'close_session',
    ):
        assert name in names, name
    old = load('r1.1.1')
    assert not old.SESSIONS_PATCHED and not hasattr(tf.Session.__init__, '__wrapped__')
    assert not hasattr(old, 'npu_tf_optimizer') and not hasattr(old, 'DynamicInputConfig')
    assert hasattr(load('r1.3'), 'npu_tf_optimizer')
    with pytest.raises(ValueError, match='NPU_STANDIN_VERSION'):
        load('r2.0')


@pytest.mark.parametrize(
    'version, has, lacks',
    [
        ('r1.1.1', dict(hcom_parallel=False, auto_tune_mode=None), 'enable_small_channel'),
        ('r1.3', dict(op_tune_mode=None, mstune_mode=None), 'modify_mixlist'),
        ('r1.5', dict(modify_mixlist=None, hcom_parallel=False), 'mstune_mode'),
        ('r1.8', dict(HCCL_algorithm=None, enable_exception_dump=0), 'memory_config'),
        ('r1.10', dict(jit_compile=True, hcom_parallel=True), 'insert_op_file'),
        ('r1.11', dict(jit_compile=False), 'auto_tune_mode'),
        ('r1.12', dict(deterministic=0), 'jit_compile'),
        ('r1.13', dict(jit_compile='auto', precision_mode_v2=None), 'ac_parallel_enable'),
        ('r1.15.0', dict(enable_exception_dump=2, save_summary_steps=0), 'auto_tune_mode'),
    ],
)
def test_signatures(load, version, has, lacks):
    npu = load(version)
    parameters = inspect.signature(npu.NPURunConfig).parameters
    assert {key: parameters[key].default for key in has} == has
    assert lacks not in parameters
    assert list(inspect.signature(npu.NPURunConfig.__init__).parameters) == (
        ['self'] + list(parameters)
    )
    with pytest.raises(TypeError, match=lacks):
        npu.NPURunConfig(**{lacks: None})
    npu.NPURunConfig(**{k: p.default for k, p in parameters.items()})
    assert ('dump_layer' in inspect.signature(npu.DumpConfig).parameters) == (
        tuple(map(int, version[1:].split('.')[:2])) >= (1, 10)
    )


def test_master_has_every_keyword(load):
    assert len(inspect.signature(load().NPURunConfig).parameters) == 76


# values


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(precision_mode='allow_mixed'), 'precision_mode'),
        (dict(precision_mode='force_fp16', precision_mode_v2='fp16'), 'exclude'),
        (dict(modify_mixlist='MIXLIST'), 'needs a mode'),
        (dict(modify_mixlist='MIXLIST', precision_mode='force_fp16'), 'needs a mode'),
        (dict(modify_mixlist='mixlist.json', precision_mode='allow_mix_precision'), 'absolute'),
        (dict(jit_compile=True), 'jit_compile'),
        (dict(jit_compile='on'), 'jit_compile'),
        (dict(iterations_per_loop=0), 'iterations_per_loop'),
        (dict(iterations_per_loop=10.0), 'iterations_per_loop'),
        (dict(iterations_per_loop=True), 'iterations_per_loop'),
        (dict(iterations_per_loop=7), 'no multiple'),
        (dict(iterations_per_loop=10, save_checkpoints_steps=55), 'save_checkpoints_steps'),
        (dict(iterations_per_loop=10, log_step_count_steps=25), 'log_step_count_steps'),
        (dict(iterations_per_loop=10, mix_compile_mode=True), 'mix_compile_mode'),
        (dict(iterations_per_loop=10, enable_data_pre_proc=False), 'enable_data_pre_proc'),
        (dict(graph_run_mode=2), 'graph_run_mode'),
        (dict(hcom_parallel=1), 'hcom_parallel'),
        (dict(op_compiler_cache_mode='on'), 'op_compiler_cache_mode'),
        (dict(op_compiler_cache_dir='/no/such/folder'), 'op_compiler_cache_dir'),
        (dict(aoe_mode=2), 'aoe_mode'),
        (dict(dump_config='dump'), 'DumpConfig'),
        (dict(session_config={}), 'session_config'),
        (dict(session_config=tf.ConfigProto()), 'remapping'),
        (dict(model_dir='run'), 'absolute'),
        (dict(optypelist_for_implmode='Pooling'), 'op_select_implmode'),
    ],
)
def test_run_config_refuses(load, mixlist, settings, message):
    npu = load()
    settings = {k: mixlist if v == 'MIXLIST' else v for k, v in settings.items()}
    with pytest.raises((ValueError, TypeError), match=message):
        npu.NPURunConfig(**settings)


def test_run_config_accepts(load, mixlist, tmp_path):
    npu = load()
    config = npu.NPURunConfig(
        model_dir=str(tmp_path),
        precision_mode='allow_mix_precision_fp16',
        modify_mixlist=mixlist,
        iterations_per_loop=10,
        session_config=session_config(npu),
        jit_compile='false',
        dump_config=npu.DumpConfig(enable_dump=True, dump_path=str(tmp_path), dump_step='0|5-9'),
    )
    assert isinstance(config, tf.estimator.RunConfig) and config.save_checkpoints_steps == 100
    assert config.save_summary_steps == 0 and config.settings['hcom_parallel'] is True
    with pytest.raises(TypeError, match='keywords'):
        npu.NPURunConfig(10)
    assert load('r1.10').NPURunConfig(jit_compile=True).settings['jit_compile'] is True
    with pytest.raises(TypeError, match='jit_compile'):
        load('r1.11').NPURunConfig(jit_compile='auto')
    with pytest.raises(ValueError, match='needs a mode'):
        load('r1.12').NPURunConfig(precision_mode=MIXED_FP16, modify_mixlist=mixlist)


MIXED_FP16 = 'allow_mix_precision_fp16'


@pytest.mark.parametrize(
    'text',
    [
        '{"black-list": {"to-add": ["ReduceSumD",]}}',
        '{"black-list": {"to-add": ["ReduceSumD"]}} // kept in float32',
        '{"black_list": {"to-add": ["ReduceSumD"]}}',
        '{"black-list": {"add": ["ReduceSumD"]}}',
        '{"black-list": ["ReduceSumD"]}',
        '{"black-list": {"to-add": "ReduceSumD"}}',
        '{"black-list": {"to-add": ["MatMu1V2"]}}',
        '{"black-list": {"to-add": ["Sum"]}}',
        '{"black-list": {"to-add": []}, "black-list": {"to-add": ["Log"]}}',
        '{}',
    ],
)
def test_mixlist_refuses(load, tmp_path, text):
    path = tmp_path / 'bad.json'
    path.write_text(text)
    with pytest.raises(ValueError, match='bad.json'):
        load().NPURunConfig(precision_mode='allow_mix_precision', modify_mixlist=str(path))


def test_dump_and_profiling(load, tmp_path):
    npu, there = load(), str(tmp_path)
    npu.DumpConfig(enable_dump_debug=True, dump_path=there, dump_debug_mode='all')
    npu.ProfilingConfig(True, json.dumps({'output': there, 'task_trace': 'on', 'fp_point': ''}))
    bad = [
        (npu.DumpConfig, dict(enable_dump=True), 'need dump_path'),
        (npu.DumpConfig, dict(enable_dump=True, dump_path=there + '/no'), 'writable folder'),
        (npu.DumpConfig, dict(dump_step='5-1'), 'grow'),
        (npu.DumpConfig, dict(dump_step='1,2'), 'expected "0|5'),
        (npu.DumpConfig, dict(dump_step=10), 'dump_step'),
        (npu.DumpConfig, dict(dump_mode='both'), 'dump_mode'),
        (npu.DumpConfig, dict(dump_everything=True), 'dump_everything'),
        (npu.ProfilingConfig, dict(enable_profiling=True), 'profiling_options'),
        (npu.ProfilingConfig, dict(profiling_options="{'output': '.'}"), 'strict JSON'),
        (npu.ProfilingConfig, dict(profiling_options='{"output": "/no/such"}'), 'folder'),
        (npu.ProfilingConfig, dict(profiling_options='{"trace": "on"}'), 'keys among'),
        (npu.MemoryConfig, dict(atomic_clean_policy=5), 'atomic_clean_policy'),
        (npu.DynamicInputConfig, dict(input_shape='a:1'), 'dynamic_dims'),
    ]
    for kind, settings, message in bad:
        with pytest.raises((ValueError, TypeError), match=message):
            kind(**settings)


@pytest.mark.parametrize(
    'key, member, value, message',
    [
        ('precision_mode', 's', b'allow_mix_precision', None),
        ('iterations_per_loop', 'i', 10, 'enable_data_pre_proc'),
        ('autotune_tune_mode', 's', b'GA', 'no such'),
        ('precision_mode', 'b', True, 'set by .b'),
        ('precision_mode', 's', b'mixed', 'allowed are'),
        ('jit_compile', 'b', True, 'set by .b'),
        ('use_off_line', 'b', False, 'allowed are'),
    ],
)
def test_parameter_map(load, key, member, value, message):
    npu = load()
    config = npu.npu_config_proto()
    entry = config.graph_options.rewrite_options.custom_optimizers[0]
    setattr(entry.parameter_map[key], member, value)
    expected = (
        contextlib.nullcontext()
        if message is None
        else pytest.raises((ValueError, TypeError), match=message)
    )
    with expected, tf.Graph().as_default(), tf.Session(config=config) as session:
        assert session.run(tf.constant(2)) == 2
    with pytest.raises(ValueError, match='memory_optimization'):
        entry.parameter_map.clear()
        config.graph_options.rewrite_options.memory_optimization = npu.RewriterConfig.ON
        npu.npu_config_proto(config)


# ranks and optimizers


def test_several_cards(load, monkeypatch, tmp_path):
    npu = load()
    plain = tf.train.GradientDescentOptimizer(0.1)
    with tf.Graph().as_default():
        npu.NPULossScaleOptimizer(npu.npu_tf_optimizer(plain), npu.FixedLossScaleManager(4.0))
    monkeypatch.setenv('RANK_SIZE', '2')
    with pytest.raises(ValueError, match='RANK_TABLE_FILE'):
        npu.npu_tf_optimizer(plain)
    monkeypatch.setenv('RANK_TABLE_FILE', write_table(tmp_path, 2))
    with pytest.raises(ValueError, match='RANK_ID'):
        npu.npu_tf_optimizer(plain)
    monkeypatch.setenv('RANK_ID', '1')
    assert (npu.get_npu_rank_id(), npu.get_npu_rank_size()) == (1, 2)
    with tf.Graph().as_default():
        manager = npu.FixedLossScaleManager(4.0)
        averaged = npu.npu_tf_optimizer(plain)
        with pytest.raises(ValueError, match='is_distributed'):
            npu.NPULossScaleOptimizer(averaged, manager)
        whole = npu.NPULossScaleOptimizer(averaged, manager, is_distributed=True)
        with pytest.raises(ValueError, match='order'):
            npu.npu_tf_optimizer(whole)
    with pytest.raises(ValueError, match='save_checkpoints_secs'):
        npu.NPURunConfig(save_checkpoints_secs=60)
    for changes in (dict(status='no'), dict(server_count=1), dict(server_list=[])):
        write_table(tmp_path, 2, **changes)
        with pytest.raises(ValueError, match='table.json'):
            npu.get_npu_rank_id()
    monkeypatch.setenv('CM_WORKER_SIZE', '2')
    with pytest.raises(ValueError, match='CM_WORKER_SIZE'):
        npu.get_npu_rank_id()


def test_managers(load):
    npu = load()
    with tf.Graph().as_default(), tf.Session() as session:
        manager = npu.ExponentialUpdateLossScaleManager(8.0, 3, 2, decr_ratio=0.25)
        finite = tf.placeholder(tf.bool, [])
        update = manager.update_loss_scale(finite)
        session.run(tf.global_variables_initializer())
        steps = [(1, 8), (1, 8), (1, 16), (0, 16), (1, 16), (0, 4), (0, 4), (0, 1), (0, 1), (0, 1)]
        for i, (good, scale) in enumerate(steps):
            assert session.run(update, {finite: bool(good)}) == scale, i
        with tf.control_dependencies([tf.no_op()]):
            for make in (
                lambda: npu.ExponentialUpdateLossScaleManager(8.0, 3),
                lambda: npu.FixedLossScaleManager(8.0),
            ):
                with pytest.raises(ValueError, match='control_dependencies'):
                    make()
        with pytest.raises(ValueError, match='1 or more'):
            npu.FixedLossScaleManager(0.5)


@pytest.mark.parametrize('v2', [False, True])
def test_natural_overflow_is_skipped(load, v2):
    npu = load()
    with control_flow(v2), tf.Graph().as_default(), tf.Session() as session:
        x = tf.placeholder(tf.float32, [])
        weight = tf.get_variable('w', [], initializer=tf.ones_initializer())
        step = tf.train.create_global_step()
        inner = tf.train.MomentumOptimizer(0.5, 0.0)
        optimizer = npu.NPULossScaleOptimizer(inner, npu.FixedLossScaleManager(1024))
        pairs = optimizer.compute_gradients(weight * x)
        train = optimizer.apply_gradients(pairs, step)
        session.run(tf.global_variables_initializer())
        assert session.run(pairs[0][0], {x: 2.0}) == 2.0
        for value in (1.0, 100.0, np.inf, np.nan, 2.0):  # 100 * 1024 is beyond float16
            session.run(train, {x: value})
        assert session.run([weight, step]) == [-0.5, 2]
        with pytest.raises(ValueError, match='second'):
            optimizer.apply_gradients(pairs, step)


@pytest.mark.parametrize('padding', ['SAME', 'VALID'])
def test_gradients_of_dilated_convolutions(load, padding):
    """The stand-in's own, as CPU kernels lack them: equal to those of a convolution in pieces."""
    load()
    random = np.random.RandomState(0)
    image, kernel = random.randn(2, 11, 9, 3), random.randn(3, 3, 3, 4)
    with tf.Graph().as_default(), tf.Session() as session:
        x, weights = tf.constant(image), tf.constant(kernel)
        built_in = tf.nn.conv2d(x, weights, 1, padding, dilations=[1, 2, 2, 1])
        in_pieces = tf.nn.atrous_conv2d(x, weights, 2, padding)
        found, wanted = (
            session.run([y, *tf.gradients(tf.reduce_sum(y * y), [x, weights])])
            for y in (built_in, in_pieces)
        )
    for one, other in zip(found, wanted):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


# session mode and the small functions


def test_session_mode(load):
    npu = load()
    session, shutdown = npu.init_resource()
    npu.shutdown_resource(session, shutdown)
    npu.close_session(session)
    hooks = npu.npu_hooks_append([tf.train.StepCounterHook()])
    assert type(hooks[-1]) is npu.NPUBroadcastGlobalVariablesHook
    with pytest.raises(TypeError, match='list'):
        npu.npu_hooks_append((1,))
    config = npu.npu_run_config_init(tf.estimator.RunConfig())
    names = config.session_config.graph_options.rewrite_options.custom_optimizers
    assert [entry.name for entry in names] == ['NpuOptimizer']
    with tf.Graph().as_default(), tf.Session(config=npu.npu_config_proto()) as session:
        counter = tf.get_variable('counter', [], initializer=tf.zeros_initializer())
        train = npu.util.set_iteration_per_loop(session, counter.assign_add(1).op, 10)
        session.run(tf.global_variables_initializer())
        session.run(train)
        assert session.run(counter) == 1
        with pytest.raises(TypeError, match='Operation'):
            npu.util.set_iteration_per_loop(session, counter, 10)
        with pytest.raises(ValueError, match='keep_prob'):
            npu.npu_ops.dropout(tf.ones([2]), 1.5)
        assert session.run(npu.hccl_ops.allreduce(tf.ones([2]), 'sum')).tolist() == [1, 1]
        with pytest.raises(TypeError, match='float64'):
            npu.npu_allreduce(tf.constant(np.ones(2)))
