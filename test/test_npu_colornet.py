"""ColorNet "as on the NPU": its programs run through the strict stand-in for npu_bridge, in
processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import tensorflow.compat.v1 as tf

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = dict(
    channels=0.1, size=64, video_len=2, log_steps=2, checkpoint_steps=2, workers=1,
    test_height=48, test_width=80, radius=4.0,
)  # fmt: skip
SMALL = ['--preset=smoke', '--batch_size=2'] + [f'--set={k}={v}' for k, v in SETTINGS.items()]


def run(folder, *flags, module='ColorNet.train', **environment):
    """The finished process of a program with npu_bridge on its path."""
    environment = dict(
        os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / 'test')]), JOB_ID='10087',
        TF_CPP_MIN_LOG_LEVEL='2', NPU_STANDIN_REPORT=str(folder / 'report.json'), **environment,
    )  # fmt: skip
    command = [sys.executable, '-W', 'ignore', '-m', module, '--device=npu', *flags]
    return subprocess.run(command, env=environment, cwd=str(ROOT), capture_output=True, timeout=300)


def report(folder):
    return json.loads((folder / 'report.json').read_text())


def test_training_with_a_skipped_overflow_and_propagation(drawn, tmp_path):
    flags = [*SMALL, f'--data_path={drawn["youtube_vos"]}', f'--output_path={tmp_path}/run']
    done = run(tmp_path, *flags, '--loss_scale=1024', '--steps=4', NPU_STANDIN_OVERFLOW_STEPS='2')
    assert done.returncode == 0, done.stderr.decode()
    found = report(tmp_path)
    assert found['global_step'] == 4 and found['skipped'] >= 1
    assert found['run_config']['precision_mode'] == 'allow_mix_precision'
    assert found['mixlist'] == {'black-list': {'to-add': ['ReduceSumD'], 'to-remove': []}}
    assert found['loss_scale'] == 1024 and found['keep_dtype_ops'] > 200  # losses, batch norm
    assert tf.train.latest_checkpoint(str(tmp_path / 'run')).endswith('model.ckpt-4')
    done = run(
        tmp_path, f'--data_path={drawn["davis"]}', f'--checkpoint={tmp_path}/run',
        f'--output_path={tmp_path}/out', '--sequences=drawn-x', module='ColorNet.evaluate',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert len(list((tmp_path / 'out' / 'masks' / 'drawn-x').iterdir())) == 10


def test_dense_ulearn_vos_trains_too(drawn, tmp_path):
    flags = ['--preset=dul', *SMALL[1:], f'--data_path={drawn["youtube_vos"]}', '--steps=2',
             f'--output_path={tmp_path}/run', '--loss_scale=8']  # fmt: skip
    done = run(tmp_path, *flags)
    assert done.returncode == 0, done.stderr.decode()
    assert report(tmp_path)['global_step'] == 2


def test_cpu_mode_never_imports_npu_bridge(drawn, tmp_path):
    code = (
        'import sys\nfrom ColorNet import demo, evaluate, train\n'
        'status = train.main(sys.argv[1:])\n'
        'assert not [m for m in sys.modules if m.startswith("npu_bridge")]\nsys.exit(status)'
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / 'test')])
    flags = [*SMALL, '--device=cpu', '--steps=1', f'--data_path={drawn["youtube_vos"]}']
    flags.append('--set=is_dul=False')  # half the graph
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code, *flags, f'--output_path={tmp_path}/x'],
        env=dict(os.environ, PYTHONPATH=path), cwd=str(ROOT), capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
