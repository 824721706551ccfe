"""MANet "as on the NPU": its programs run through the strict stand-in for npu_bridge, in processes
of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import tensorflow.compat.v1 as tf

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = dict(
    channels=0.05, blocks=[1, 1, 1, 1], size=32, max_distance=2, cycle=1, log_steps=2,
    checkpoint_steps=2, workers=1, test_height=32, test_width=48, interactions=1,
)  # fmt: skip
SMALL = ['--batch_size=2'] + [f'--set={k}={v}' for k, v in SETTINGS.items()]


def run(folder, *flags, module='MANet.train', **environment):
    """The finished process of a program with npu_bridge on its path."""
    environment = dict(
        os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / 'test')]), JOB_ID='10087',
        TF_CPP_MIN_LOG_LEVEL='2', NPU_STANDIN_REPORT=str(folder / 'report.json'), **environment,
    )  # fmt: skip
    command = [sys.executable, '-W', 'ignore', '-m', module, '--device=npu', *flags]
    return subprocess.run(command, env=environment, cwd=str(ROOT), capture_output=True, timeout=300)


def report(folder):
    return json.loads((folder / 'report.json').read_text())


def test_both_stages_and_rounds(drawn, tmp_path):
    """Static shapes, a skipped overflow, float32 islands; no loops in the matching."""
    flags = [*SMALL, f'--data_path={drawn["davis2017"]}']
    done = run(
        tmp_path, *flags, '--preset=smoke', f'--output_path={tmp_path}/one', '--steps=4',
        '--loss_scale=64', NPU_STANDIN_OVERFLOW_STEPS='2',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    found = report(tmp_path)
    assert found['global_step'] == 4 and found['skipped'] >= 1
    assert found['mixlist'] == {'black-list': {'to-add': ['ReduceSumD'], 'to-remove': []}}
    assert found['loss_scale'] == 64 and found['keep_dtype_ops'] > 200
    done = run(
        tmp_path, *flags, '--preset=smoke', '--set=stage1_steps=0', '--steps=2', '--loss_scale=8',
        f'--init_from={tmp_path}/one', f'--output_path={tmp_path}/two',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert tf.train.latest_checkpoint(str(tmp_path / 'two')).endswith('model.ckpt-2')
    done = run(
        tmp_path, f'--data_path={drawn["davis2017"]}', f'--checkpoint={tmp_path}/two',
        f'--output_path={tmp_path}/out', '--sequences=drawn-x', module='MANet.evaluate',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / 'out' / 'summary.json').is_file()


def test_cpu_mode_never_imports_npu_bridge(drawn, tmp_path):
    code = (
        'import sys\nfrom MANet import demo, evaluate, train\n'
        'status = train.main(sys.argv[1:])\n'
        'assert not [m for m in sys.modules if m.startswith("npu_bridge")]\nsys.exit(status)'
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / 'test')])
    flags = [*SMALL, '--device=cpu', '--steps=1', f'--data_path={drawn["davis2017"]}']
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code, *flags, f'--output_path={tmp_path}/x'],
        env=dict(os.environ, PYTHONPATH=path), cwd=str(ROOT), capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
