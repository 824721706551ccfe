"""MANet "as on the NPU": the graphs of both stages through the strict stand-in for npu_bridge, in a
process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import tensorflow.compat.v1 as tf

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {
    'channels': 0.05,
    'blocks': [1, 1, 1, 1],
    'size': 32,
    'max_distance': 2,
    'stage1_steps': 1,
    'cycle': 1,
    'log_steps': 1,
    'checkpoint_steps': 2,
    'workers': 1,
}


def test_both_stages_and_a_round(drawn, tmp_path):
    """An update of stage 1 and two of stage 2, before the second of which the network's answers are
    corrected: static shapes, float32 islands, one loss scale for two optimizers, no loops in the
    matching, and the inference graphs in a session of the NPU."""
    path = os.pathsep.join([str(ROOT), str(ROOT / 'test')])
    environment = dict(
        os.environ,
        PYTHONPATH=path,
        JOB_ID='10087',
        TF_CPP_MIN_LOG_LEVEL='2',
        NPU_STANDIN_REPORT=str(tmp_path / 'report.json'),
        NPU_STANDIN_OVERFLOW_STEPS='1',
    )
    command = [sys.executable, '-W', 'ignore', '-m', 'MANet.train', '--device=npu']
    command += ['--preset=smoke', '--batch_size=2', '--loss_scale=64', '--steps=3']
    command += [f'--set={key}={value}' for key, value in SETTINGS.items()]
    command += ['--set=group0_only=True']
    command += [f'--data_path={drawn["davis2017"]}', f'--output_path={tmp_path}/run']
    done = subprocess.run(command, env=environment, cwd=str(ROOT), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads((tmp_path / 'report.json').read_text())
    assert found['global_step'] == 3 and found['skipped'] >= 1 and found['loss_scale'] == 64
    assert found['keep_dtype_ops'] > 100
    assert tf.train.latest_checkpoint(str(tmp_path / 'run')).endswith('model.ckpt-3')
    assert (tmp_path / 'run' / 'rounds' / '1.npz').is_file()
