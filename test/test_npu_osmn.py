"""OSMN "as on the NPU": its programs run through the strict stand-in for npu_bridge, in processes
of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow.compat.v1 as tf

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = dict(
    height=48, width=64, guide_size=32, channels=0.07, log_steps=2, checkpoint_steps=2,
    test_height=48, test_width=80, online_steps=2,
)  # fmt: skip
SMALL = ['--preset=smoke', '--batch_size=3', '--loss_scale=1024', '--device=npu'] + [
    f'--set={k}={v}' for k, v in SETTINGS.items()
]


def run(data_path, folder, *flags, module='OSMN.train', **environment):
    """The finished process of a program with npu_bridge on its path."""
    environment = dict(
        os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / 'test')]), JOB_ID='10087',
        TF_CPP_MIN_LOG_LEVEL='2', NPU_STANDIN_REPORT=str(folder / 'report.json'), **environment,
    )  # fmt: skip
    command = [sys.executable, '-W', 'ignore', '-m', module, f'--data_path={data_path}', *flags]
    return subprocess.run(command, env=environment, cwd=str(ROOT), capture_output=True)


def report(folder):
    return json.loads((folder / 'report.json').read_text())


@pytest.mark.parametrize('base', ['osvos', 'deeplab', 'lite'])
def test_trains_on_coco_in_static_buckets_and_skips_an_overflow(base, drawn, tmp_path):
    flags = [*SMALL, '--steps=4', f'--output_path={tmp_path}/ckpt', f'--set=base_model={base}']
    flags += (
        ['--set=height=64', '--set=scales=[0.5,1.0,1.5]'] if base != 'lite' else ['--set=height=64']
    )
    done = run(drawn['coco'], tmp_path, *flags, NPU_STANDIN_OVERFLOW_STEPS='2,3')
    assert done.returncode == 0, done.stderr.decode()
    found = report(tmp_path)
    assert found['global_step'] == 4 and found['skipped'] == 2 and found['attempts'] == 6
    assert found['run_config']['precision_mode'] == 'allow_mix_precision'
    assert found['mixlist'] == {'black-list': {'to-add': ['ReduceSumD'], 'to-remove': []}}
    assert found['loss_scale'] == 1024 and found['keep_dtype_ops'] > 50  # loss, batch norm, fc8
    assert tf.train.latest_checkpoint(str(tmp_path / 'ckpt')).endswith('model.ckpt-4')


def test_stage_two_online_and_evaluation(drawn, tmp_path):
    flags = [*SMALL, '--steps=2', '--set=dataset=davis', f'--output_path={tmp_path}/ckpt']
    done = run(drawn['davis2017'], tmp_path, *flags, '--set=fix_bn=True')
    assert done.returncode == 0, done.stderr.decode()
    common = ['--device=npu', '--sequences=drawn-x', f'--checkpoint={tmp_path}/ckpt']
    common += [f'--set={s}' for s in ('online_steps=2', 'loss_scale=1024')]
    done = run(
        drawn['davis2017'], tmp_path, *common, '--object=1', f'--output_path={tmp_path}/online',
        module='OSMN.online',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert report(tmp_path)['global_step'] == 2
    done = run(
        drawn['davis2017'], tmp_path, *common, f'--output_path={tmp_path}/results',
        module='OSMN.evaluate',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / 'results' / 'results.json').is_file()


def test_cpu_mode_never_imports_npu_bridge(drawn, tmp_path):
    code = (
        'import sys\nfrom OSMN import evaluate, train\n'
        'args = sys.argv[1:]\n'
        'status = train.main(args + ["--steps=1"]) or evaluate.main(\n'
        '    args[:1] + ["--device=cpu", "--checkpoint=" + args[1][14:], args[1] + "/r"])\n'
        'assert not [m for m in sys.modules if m.startswith("npu_bridge")]\nsys.exit(status)'
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / 'test')])
    flags = [f'--data_path={Path(drawn["coco"]).parent}', f'--output_path={tmp_path}']
    flags += [*SMALL, '--device=cpu']
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code, *flags],
        env=dict(os.environ, PYTHONPATH=path), cwd=str(ROOT), capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
