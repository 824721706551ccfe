"""The stand-in for npu_bridge (test/npu_bridge): what it refuses in a graph, and training with it.

python -m pytest test/test_npu_standin_graphs.py
"""

from __future__ import annotations

import contextlib
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

SIZE = 4  # px of the little pictures


def conv(x):
    kernel = tf.get_variable('kernel', [3, 3, x.shape[-1], 2])
    return tf.nn.conv2d(x, kernel, 1, 'SAME')


def image(shape=(2, SIZE, SIZE, 3)):
    return tf.placeholder(tf.float32, shape)


def queue():
    producer = tf.train.string_input_producer(['a'])
    return tf.cast(producer.size(), tf.float32)


def one_shot():
    dataset = tf.data.Dataset.from_tensors(np.float32(1)).repeat()
    return tf.data.make_one_shot_iterator(dataset).get_next() * 1.0


def batches(ending):
    dataset = ending(tf.data.Dataset.from_tensors(np.zeros((SIZE, SIZE, 3), np.float32)))
    return tf.reduce_mean(conv(tf.data.make_initializable_iterator(dataset).get_next()))


def table_in_dataset():
    table = tf.get_variable('table', [3], use_resource=True)
    dataset = tf.data.Dataset.range(3).map(lambda i: table[i]).prefetch(1)
    return tf.data.make_initializable_iterator(dataset).get_next() * 1.0


def on_gpu():
    with tf.device('/gpu:0'):
        return tf.reduce_mean(conv(image()))


def positive(x):
    return tf.cond(tf.reduce_mean(x) > 0, lambda: x, lambda: -x)


GRAPHS = {  # name: (builder of a tensor, expected message or None, v2 control flow)
    'static': (lambda: tf.reduce_mean(conv(image())), None, True),
    'cond v2': (lambda: tf.reduce_mean(positive(image())), None, True),
    'cond v1': (lambda: tf.reduce_mean(positive(image())), 'V1 control flow', False),
    'loop v1': (lambda: tf.while_loop(lambda i: i < 3, lambda i: i + 1, [0]), 'V1 control', False),
    'float64 in cond': (
        lambda: tf.cast(positive(tf.cast(image(), tf.float64)), tf.float32),
        'float64',
        True,
    ),
    'batch size unknown': (lambda: conv(image((None, SIZE, SIZE, 3))), 'dynamic shape', True),
    'size unknown': (lambda: conv(image((2, None, None, 3))), 'dynamic shape', True),
    'float64': (lambda: tf.cast(tf.constant(np.ones(3)), tf.float32), 'float64', True),
    'complex': (lambda: tf.abs(tf.fft(tf.cast(image(), tf.complex64))), 'complex64', True),
    'string': (lambda: tf.string_to_number(tf.constant('1.0')), 'string', True),
    'is_nan': (lambda: tf.cast(tf.is_nan(image()), tf.float32), 'unsupported', True),
    'check': (lambda: tf.check_numerics(image(), 'no number'), 'unsupported', True),
    'where': (lambda: tf.reduce_sum(tf.where(image() > 0)), 'dynamic output', True),
    'boolean mask': (lambda: tf.boolean_mask(image(), image() > 0), 'dynamic', True),
    'py_func': (
        lambda: tf.numpy_function(lambda x: np.sqrt(x), [image()], tf.float32),
        'Python',
        True,
    ),
    'queue': (queue, 'queue runners', True),
    'one shot': (one_shot, 'one-shot', True),
    'prefetch last': (
        lambda: batches(lambda d: d.batch(2, drop_remainder=True).prefetch(1)),
        None,
        True,
    ),
    'batch last': (lambda: batches(lambda d: d.batch(2, drop_remainder=True)), 'prefetch', True),
    'remainder': (lambda: batches(lambda d: d.batch(2).prefetch(1)), 'dynamic shape', True),
    'python in dataset': (
        lambda: batches(lambda d: d.map(python_map).batch(2, drop_remainder=True).prefetch(1)),
        None,
        True,
    ),
    'variable in dataset': (table_in_dataset, 'in the dataset', True),
    'gpu': (on_gpu, 'GPU', True),
    'print': (lambda: printed(image()), None, True),
}


def python_map(x):
    result = tf.numpy_function(lambda x: np.sqrt(x), [x], tf.float32)
    result.set_shape(x.shape)
    return result


def printed(x):
    with tf.control_dependencies([tf.print('x', x)]):
        return tf.reduce_mean(x)


@pytest.mark.parametrize('name', list(GRAPHS))
def test_graph(load, name):
    load()
    from npu_bridge import graph_check

    build, message, v2 = GRAPHS[name]
    expected = (
        contextlib.nullcontext() if message is None else pytest.raises(ValueError, match=message)
    )
    with control_flow(v2), tf.Graph().as_default() as graph:
        result = build()
        roots = list(result) if isinstance(result, (list, tuple)) else [result]
        roots += tf.gradients(result, tf.trainable_variables()) if tf.trainable_variables() else []
        with expected:
            graph_check.check(graph, roots, {'iterations_per_loop': 10})


# training


def input_fn():
    random = np.random.RandomState(0)
    x = random.rand(16, SIZE, SIZE, 3).astype(np.float32)
    y = (x.mean((1, 2, 3)) > 0.5).astype(np.float32)[:, None]
    dataset = tf.data.Dataset.from_tensor_slices(({'image': x}, y)).repeat()
    return dataset.batch(4, drop_remainder=True).prefetch(1)


def two_layers(x):
    hidden = tf.nn.relu(conv(x))
    from npu_bridge.estimator.npu import npu_scope

    weights = tf.get_variable('weights', [SIZE * SIZE * 2, 1])
    with npu_scope.keep_dtype_scope():
        return tf.matmul(tf.reshape(hidden, [-1, SIZE * SIZE * 2]), weights)


def model_fn(features, labels, mode, params):
    from npu_bridge import npu_init as npu

    logits = two_layers(features['image'])
    if mode == tf.estimator.ModeKeys.PREDICT:
        return tf.estimator.EstimatorSpec(mode, {'probability': tf.sigmoid(logits)})
    loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits))
    if mode == tf.estimator.ModeKeys.EVAL:
        return tf.estimator.EstimatorSpec(mode, loss=loss)
    optimizer = tf.train.AdamOptimizer(params['rate'])
    if params.get('average', True):
        optimizer = npu.npu_tf_optimizer(optimizer)
    manager = npu.ExponentialUpdateLossScaleManager(1024, 1000, 2, decr_ratio=0.5)
    distributed = npu.get_npu_rank_size() > 1
    optimizer = npu.NPULossScaleOptimizer(optimizer, manager, is_distributed=distributed)
    step = tf.train.get_global_step()
    train_op = optimizer.minimize(loss, step)
    return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train_op)


def make_estimator(npu, folder, **settings):
    settings = dict(
        dict(
            session_config=session_config(npu),
            tf_random_seed=1,
            save_checkpoints_steps=2,
            log_step_count_steps=2,
        ),
        **settings,
    )
    return npu.NPUEstimator(
        model_fn, str(folder), npu.NPURunConfig(**settings), params={'rate': 0.05}
    )


@pytest.mark.parametrize('v2', [False, True])
def test_training_with_injected_overflow(load, monkeypatch, tmp_path, mixlist, v2):
    npu, run = load(), tmp_path / 'run'
    monkeypatch.setenv('NPU_STANDIN_REPORT', str(tmp_path / 'report.json'))
    monkeypatch.setenv('NPU_STANDIN_OVERFLOW_STEPS', '2,3')
    dump = npu.DumpConfig(enable_dump_debug=True, dump_path=str(tmp_path))
    with control_flow(v2):
        estimator = make_estimator(
            npu,
            run,
            precision_mode='allow_mix_precision',
            modify_mixlist=mixlist,
            iterations_per_loop=2,
            keep_checkpoint_max=2,
            dump_config=dump,
        )
        estimator.train(input_fn, max_steps=8)
        report = json.loads((tmp_path / 'report.json').read_text())
        counts = {k: report[k] for k in ('attempts', 'skipped', 'calls', 'global_step')}
        assert counts == dict(attempts=10, skipped=2, calls=10, global_step=8)
        assert report['loss_scale'] == 512 and report['loss_scale_optimizer']
        assert report['keep_dtype_ops'] >= 2 and not report['distributed']
        assert report['mixlist']['black-list']['to-add'] == ['ReduceSumD', 'SoftmaxV2']
        asked = report['run_config']
        assert asked['precision_mode'] == 'allow_mix_precision'
        assert asked['iterations_per_loop'] == 2 and asked['modify_mixlist'] == mixlist
        assert asked['dump_config']['enable_dump_debug'] is True
        assert asked['session_config']['remapping'] == 'OFF'
        assert {'NPUCheckpointSaverHook', 'SetIterationsVarHook'} <= set(report['hooks'])
        assert sorted(p.name for p in run.glob('*.index')) == [
            'model.ckpt-6.index',
            'model.ckpt-8.index',
        ]
        monkeypatch.delenv('NPU_STANDIN_OVERFLOW_STEPS')
        first = estimator.evaluate(input_fn, steps=2)['loss']
        estimator.train(input_fn, max_steps=20)
        assert estimator.evaluate(input_fn, steps=2)['loss'] < first
        assert estimator.get_variable_value('loss_scale') == 512
        batch = next(estimator.predict(lambda: input_fn().map(lambda x, y: x).prefetch(1)))
        assert batch['probability'].shape == (1,)


def test_training_refuses(load, tmp_path, monkeypatch, mixlist):
    npu = load()
    with control_flow(True):
        estimator = make_estimator(npu, tmp_path / 'a', iterations_per_loop=2)
        with pytest.raises(ValueError, match='max_steps'):
            estimator.train(input_fn, max_steps=5)
        with pytest.raises(ValueError, match='prefetch'):
            estimator.train(lambda: input_fn().take(9), max_steps=2)
        estimator.train(input_fn, max_steps=2)
        with pytest.raises(ValueError, match='dynamic shape'):
            next(estimator.predict(lambda: input_fn().unbatch().batch(3).prefetch(1)))
        other = make_estimator(npu, tmp_path / 'b', precision_mode='force_fp16')
        with pytest.raises(ValueError, match='initialised'):
            other.train(input_fn, max_steps=2)
        monkeypatch.setenv('RANK_SIZE', '2')
        monkeypatch.setenv('RANK_ID', '0')
        monkeypatch.setenv('RANK_TABLE_FILE', write_table(tmp_path, 2))
        estimator = make_estimator(npu, tmp_path / 'c')
        estimator.train(input_fn, max_steps=2)
        estimator.params['average'] = False  # a copy: the estimator keeps its own
        estimator._params['average'] = False
        with pytest.raises(ValueError, match='npu_tf_optimizer is missing'):
            estimator.train(input_fn, max_steps=4)


def test_estimator_refuses(load, monkeypatch, tmp_path):
    npu = load()
    with pytest.raises(ValueError, match='NPURunConfig'):
        npu.NPUEstimator(model_fn, str(tmp_path), tf.estimator.RunConfig())
    with pytest.raises(ValueError, match='no session_config'):
        npu.NPUEstimator(model_fn, str(tmp_path), npu.NPURunConfig())
    config = npu.NPURunConfig(session_config=session_config(npu))
    with pytest.raises(ValueError, match='no model_dir'):
        npu.NPUEstimator(model_fn, None, config)
    with pytest.raises(ValueError, match='model_dir'):
        settings = dict(session_config=session_config(npu), model_dir=str(tmp_path / 'x'))
        npu.NPUEstimator(model_fn, str(tmp_path), npu.NPURunConfig(**settings))
    for option in ('remapping', 'memory_optimization'):
        with pytest.raises(ValueError, match=option):
            on = session_config(npu, **{option: npu.RewriterConfig.ON})
            npu.NPURunConfig(session_config=on)
    monkeypatch.delenv('JOB_ID')
    with pytest.raises(ValueError, match='JOB_ID'):
        npu.NPUEstimator(model_fn, str(tmp_path), config)
