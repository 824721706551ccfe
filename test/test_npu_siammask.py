"""SiamMask "as on the NPU": the graphs of the base stage, of the refinement and of tracking run
through the strict stand-in for npu_bridge, in one process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import tensorflow.compat.v1 as tf

from SiamMask import prepare

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = dict(
    channels=0.07, blocks=[1, 1, 1], log_steps=1, checkpoint_steps=1, workers=0, pairs=12,
    datasets=[['coco', 0, 1, 'train2017.json']],
)  # fmt: skip
PROGRAM = """
import sys
from SiamMask import evaluate, train
folder, data, vot, *flags = sys.argv[1:]
flags += ['--device=npu', '--batch_size=2', '--loss_scale=1024', '--data_path=' + data]
base, sharp = folder + '/base', folder + '/sharp'
status = train.main([*flags, '--preset=performance', '--set=unfreeze=0.0', '--steps=1',
                     '--output_path=' + base])
assert status == 0
flags += ['--preset=smoke_sharp', '--loss_scale=8', '--steps=1', '--init_from=' + base]
assert train.main([*flags, '--output_path=' + sharp]) == 0
flags = ['--device=npu', '--data_path=' + vot, '--sequences=drawn1', '--checkpoint=' + sharp]
sys.exit(evaluate.main([*flags, '--output_path=' + folder + '/out']))
"""


def test_both_stages_and_tracking(drawn, tmp_path):
    """layer2 trains from the start, so that the base stage has one graph."""
    root = Path(drawn['coco']).parent
    flags = [f'--data_path={root}', f'--output_path={tmp_path}/crops', '--sets=coco']
    assert prepare.main([*flags, '--workers=1']) == 0
    environment = dict(
        os.environ,
        PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / 'test')]),
        JOB_ID='10087',
        TF_CPP_MIN_LOG_LEVEL='2',
        NPU_STANDIN_REPORT=str(tmp_path / 'report.json'),
    )
    command = [sys.executable, '-W', 'ignore', '-c', PROGRAM, str(tmp_path)]
    command += [str(tmp_path / 'crops'), drawn['vot']]
    command += [f'--set={key}={value}' for key, value in SETTINGS.items()]
    done = subprocess.run(command, env=environment, cwd=str(ROOT), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads((tmp_path / 'report.json').read_text())
    assert found['loss_scale'] == 8 and found['keep_dtype_ops'] > 100  # losses, batch norm
    assert found['mixlist'] == {'black-list': {'to-add': ['ReduceSumD'], 'to-remove': []}}
    name = 'siammask/features/layer2/0/conv1/weights'
    steps = [tf.train.load_variable(f'{tmp_path}/base/model.ckpt-{k}', name) for k in (0, 1)]
    assert (steps[0] != steps[1]).any()
    assert tf.train.latest_checkpoint(str(tmp_path / 'sharp')).endswith('model.ckpt-1')
    assert list((tmp_path / 'out').glob('*/baseline/drawn1/drawn1_001.txt'))
