"""SiamMask "as on the NPU": its programs run through the strict stand-in for npu_bridge, in
processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow.compat.v1 as tf

from SiamMask import prepare

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = dict(
    channels=0.07, blocks=[1, 1, 2], log_steps=2, checkpoint_steps=2, workers=2, pairs=12,
)  # fmt: skip
SMALL = ['--batch_size=2', '--loss_scale=1024', '--device=npu'] + [
    f'--set={k}={v}' for k, v in SETTINGS.items()
]


@pytest.fixture(scope='module')
def crops(drawn, tmp_path_factory):
    folder = tmp_path_factory.mktemp('crops')
    root = Path(drawn['coco']).parent
    assert prepare.main([f'--data_path={root}', f'--output_path={folder}', '--workers=1']) == 0
    return folder


def run(folder, *flags, module='SiamMask.train', **environment):
    """The finished process of a program with npu_bridge on its path."""
    environment = dict(
        os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / 'test')]), JOB_ID='10087',
        TF_CPP_MIN_LOG_LEVEL='2', NPU_STANDIN_REPORT=str(folder / 'report.json'), **environment,
    )  # fmt: skip
    command = [sys.executable, '-W', 'ignore', '-m', module, *flags]
    return subprocess.run(command, env=environment, cwd=str(ROOT), capture_output=True, timeout=300)


def report(folder):
    return json.loads((folder / 'report.json').read_text())


def test_both_stages_tracking_and_a_skipped_overflow(crops, drawn, tmp_path):
    flags = [*SMALL, f'--data_path={crops}', '--preset=smoke', '--set=scratch=False']
    done = run(
        tmp_path, *flags, '--steps=4', f'--output_path={tmp_path}/base',
        NPU_STANDIN_OVERFLOW_STEPS='2',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    found = report(tmp_path)
    assert found['global_step'] == 4 and found['skipped'] >= 1
    assert found['run_config']['precision_mode'] == 'allow_mix_precision'
    assert found['mixlist'] == {'black-list': {'to-add': ['ReduceSumD'], 'to-remove': []}}
    assert found['loss_scale'] == 1024 and found['keep_dtype_ops'] > 100  # losses, batch norm
    flags = [*SMALL, f'--data_path={crops}', '--preset=smoke_sharp', '--steps=2']
    flags += [f'--init_from={tmp_path}/base', f'--output_path={tmp_path}/sharp', '--loss_scale=8']
    done = run(tmp_path, *flags)
    assert done.returncode == 0, done.stderr.decode()
    assert tf.train.latest_checkpoint(str(tmp_path / 'sharp')).endswith('model.ckpt-2')
    done = run(
        tmp_path, '--device=npu', f'--data_path={drawn["vot"]}', '--sequences=drawn1',
        f'--checkpoint={tmp_path}/sharp', f'--output_path={tmp_path}/out',
        module='SiamMask.evaluate',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert list((tmp_path / 'out').glob('*/baseline/drawn1/drawn1_001.txt'))


def test_cpu_mode_never_imports_npu_bridge(crops, drawn, tmp_path):
    code = (
        'import sys\nfrom SiamMask import demo, evaluate, train\n'
        'status = train.main(sys.argv[1:])\n'
        'assert not [m for m in sys.modules if m.startswith("npu_bridge")]\nsys.exit(status)'
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / 'test')])
    flags = [*SMALL, '--device=cpu', '--preset=smoke', '--steps=1', f'--data_path={crops}']
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code, *flags, f'--output_path={tmp_path}/x'],
        env=dict(os.environ, PYTHONPATH=path), cwd=str(ROOT), capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
