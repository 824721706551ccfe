"""What the benchmarks' own code says: the table of results, the study of float16, sizes on paper.

python -m pytest test/test_bench.py
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCH = Path(__file__).resolve().parent / 'bench'


def load(name):
    """A file of test/bench as a module."""
    spec = importlib.util.spec_from_file_location(f'bench_{name}', str(BENCH / f'{name}.py'))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_table_of_results(tmp_path, monkeypatch):
    table = load('table')
    rows = [
        {'bench': 'osvos', 'case': 'a|b', 'variant': 'ours', 'cpu_s': 0.123456, 'peak_mb': 7},
        {'bench': 'reader', 'case': 'plain', 'ms': {'ours': 61.0, 'plain': 2}},
    ]
    text = table.table(rows)
    assert text.splitlines()[2:] == [
        '| osvos | a/b | ours | cpu s 0.1235, peak mb 7 |',
        '| reader | plain |  | ms ours 61 / plain 2 |',
    ]
    page = tmp_path / 'README.md'
    page.write_text(f'before\n{table.BEGIN}\nold\n{table.END}\nafter\n')
    monkeypatch.setattr(table, 'PAGE', page)
    for _ in range(2):  # again and again in the same place
        table.write(text)
        written = page.read_text()
        assert written.startswith('before\n') and written.endswith('after\n')
        assert 'old' not in written and written.count(text) == 1
        assert f'code {table.fingerprint()}.' in written


def test_the_table_is_of_this_code():
    """Says so where the code was changed since the benchmarks were run; that is no fault."""
    table = load('table')
    page = table.PAGE.read_text()
    assert page.count(table.BEGIN) == page.count(table.END) == 1
    measured = re.search(r'code (\w+)\.', page)
    if not measured or measured.group(1) != table.fingerprint():
        pytest.skip('test/bench/README.md is of other code than this: bash test/bench.sh')


@pytest.mark.skipif(sys.version_info[:2] != (3, 7), reason='as on the NPU: TensorFlow 1.15')
def test_rounding_of_the_float16_study(monkeypatch):
    """Values and gradients of a product are those of numbers rounded to float16, but inside
    keep_dtype_scope."""
    import tensorflow.compat.v1 as tf

    before = tf.Graph._create_op_internal
    monkeypatch.setattr(tf.Graph, '_create_op_internal', before)  # put back at the end
    load('float16').round_operators()
    draw = np.random.RandomState(0)
    x, w = (draw.randn(3, 3).astype(np.float32) for _ in 'xw')

    def half(array):
        return np.asarray(array).astype(np.float16).astype(np.float32)

    with tf.Graph().as_default() as graph, tf.Session() as session:
        y = tf.matmul(x, tf.Variable(w))
        with graph._attr_scope({'_keep_dtype': tf.AttrValue(i=1)}):
            exact = tf.matmul(x, w)
        slope = tf.gradients(tf.reduce_sum(0.1 * y), tf.trainable_variables())[0]
        session.run(tf.global_variables_initializer())
        y, exact, slope = session.run([y, exact, slope])
    np.testing.assert_allclose(y, half(half(x) @ half(w)), rtol=1e-3)
    assert np.array_equal(y, half(y)) and not np.array_equal(exact, half(exact))
    np.testing.assert_allclose(exact, x @ w, rtol=1e-6)
    assert np.array_equal(slope, half(slope))
    np.testing.assert_allclose(slope, half(half(x).T @ half(np.full((3, 3), 0.1))), rtol=1e-3)


@pytest.mark.parametrize('name', ['scale', 'float16', 'table'])
def test_help(name):
    command = [sys.executable, str(BENCH / f'{name}.py'), '--help']
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0 and f'test/bench/{name}.py' in done.stdout


def test_studies_fail_loudly():
    """A training that fails is an error of the study, with its last lines."""
    float16 = load('float16')
    with pytest.raises(RuntimeError, match='unrecognized arguments: --no_such_flag'):
        float16.run('OSVOS', False, ['--no_such_flag'])
