"""OSVOS "as on the NPU": the program trains through the strict stand-in for npu_bridge, in a
process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow.compat.v1 as tf

ROOT = Path(__file__).resolve().parent.parent
SMALL = ['--preset=smoke', '--batch_size=2', '--loss_scale=1024'] + [
    f'--set={s}'
    for s in ('height=36', 'width=64', 'channels=0.07', 'log_steps=2', 'checkpoint_steps=2')
]


def run(drawn, folder, *flags, module='OSVOS.train', **environment):
    """The finished process of a program with npu_bridge on its path."""
    path = os.pathsep.join([str(ROOT), str(ROOT / 'test')])
    environment = dict(
        os.environ,
        PYTHONPATH=path,
        JOB_ID='10087',
        TF_CPP_MIN_LOG_LEVEL='2',
        NPU_STANDIN_REPORT=str(folder / 'report.json'),
        **environment,
    )
    command = [
        sys.executable,
        '-W',
        'ignore',
        '-m',
        module,
        f'--data_path={drawn["davis"]}',
        f'--output_path={folder}/ckpt',
        *flags,
    ]
    return subprocess.run(command, env=environment, cwd=str(ROOT), capture_output=True)


def report(folder):
    return json.loads((folder / 'report.json').read_text())


def test_trains_with_mixed_precision_and_skips_an_overflow(drawn, tmp_path):
    done = run(
        drawn, tmp_path, *SMALL, '--steps=6', '--device=auto', NPU_STANDIN_OVERFLOW_STEPS='3,4'
    )
    assert done.returncode == 0, done.stderr.decode()
    found = report(tmp_path)
    assert found['global_step'] == 6 and found['skipped'] == 2 and found['attempts'] == 8
    assert tf.train.latest_checkpoint(str(tmp_path / 'ckpt')).endswith('model.ckpt-6')
    settings = found['run_config']
    assert settings['precision_mode'] == 'allow_mix_precision'
    assert found['mixlist'] == {'black-list': {'to-add': ['ReduceSumD'], 'to-remove': []}}
    assert (
        os.path.isabs(settings['modify_mixlist']) and settings['op_compiler_cache_mode'] == 'enable'
    )
    assert found['loss_scale'] == 1024 and found['keep_dtype_ops'] > 50  # loss, sigmoid, upsampling
    assert b'loss_scale 1024' in done.stdout


def test_dynamic_loss_scale_recovers(drawn, tmp_path):
    done = run(drawn, tmp_path, *SMALL, '--loss_scale=dynamic', '--steps=3', '--device=npu')
    assert done.returncode == 0, done.stderr.decode()
    found = report(tmp_path)
    assert found['global_step'] == 3 and found['skipped'] > 3 and found['loss_scale'] < 2**32


@pytest.mark.parametrize('version', ['r1.1.1', 'r1.5', 'r1.12'])
def test_older_adapters_lack_keywords_which_is_said(version, drawn, tmp_path):
    flags = [*SMALL, '--steps=2', '--device=npu']
    done = run(drawn, tmp_path, *flags, NPU_STANDIN_VERSION=version)
    assert done.returncode == 0, done.stderr.decode()
    assert (b'left out' in done.stdout) == (version == 'r1.1.1')


def test_every_npu_flag_arrives(drawn, tmp_path):
    flags = [
        '--steps=4',
        '--device=npu',
        '--precision_mode=allow_fp32_to_fp16',
        '--over_dump=True',
        '--profiling=True',
        '--autotune=True',
        '--set=iterations_per_loop=2',
        '--seed=9',
    ]
    done = run(drawn, tmp_path, *SMALL, *flags)
    assert done.returncode == 0, done.stderr.decode()
    settings = report(tmp_path)['run_config']
    assert settings['precision_mode'] == 'allow_fp32_to_fp16' and settings['modify_mixlist'] is None
    assert settings['iterations_per_loop'] == 2 and settings['tf_random_seed'] == 9
    assert settings['dump_config']['enable_dump_debug'] is True
    assert settings['dump_config']['dump_path'] == str(tmp_path / 'overflow_dump')
    assert settings['profiling_config']['enable_profiling'] is True
    assert settings['aoe_mode'] == '2' and settings['work_path'] == str(tmp_path / 'autotune')


def test_data_dump_flags_arrive(drawn, tmp_path):
    done = run(
        drawn,
        tmp_path,
        *SMALL,
        '--steps=2',
        '--device=npu',
        '--data_dump_flag=True',
        '--data_dump_step=0|1',
    )
    assert done.returncode == 0, done.stderr.decode()
    dump = report(tmp_path)['run_config']['dump_config']
    assert dump['enable_dump'] is True and dump['dump_step'] == '0|1'
    assert dump['dump_path'] == str(tmp_path / 'data_dump')


def test_paper_recipe_runs_without_control_flow(drawn, tmp_path):
    done = run(
        drawn,
        tmp_path,
        *SMALL[3:],
        '--preset=paper',
        '--steps=2',
        '--device=npu',
        '--loss_scale=1024',
        '--batch_size=2',
        '--set=accumulate=2',
    )
    assert done.returncode == 0, done.stderr.decode()
    assert report(tmp_path)['global_step'] == 2


def test_several_cards(drawn, tmp_path):
    cards = dict(RANK_SIZE='2', RANK_ID='1')
    done = run(drawn, tmp_path, *SMALL, '--steps=2', '--device=npu', **cards)
    assert done.returncode == 1 and b'RANK_SIZE=2 needs RANK_TABLE_FILE' in done.stderr
    devices = [
        {'device_id': str(i), 'device_ip': f'192.168.100.{i}', 'rank_id': str(i)} for i in range(2)
    ]
    table = {
        'server_count': '1',
        'server_list': [{'server_id': '10.0.0.10', 'device': devices}],
        'status': 'completed',
        'version': '1.0',
    }
    (tmp_path / 'table.json').write_text(json.dumps(table))
    cards['RANK_TABLE_FILE'] = str(tmp_path / 'table.json')
    done = run(drawn, tmp_path, *SMALL, '--steps=2', '--device=npu', **cards)
    assert done.returncode == 0, done.stderr.decode()
    assert report(tmp_path)['distributed'] is True
    done = run(drawn, tmp_path, *SMALL, '--steps=2', '--device=npu', **dict(cards, RANK_SIZE='4'))
    assert done.returncode == 1 and b'lists ranks [0, 1], expected 0..3' in done.stderr


def test_steps_must_be_whole_loops(drawn, tmp_path):
    done = run(drawn, tmp_path, *SMALL, '--steps=3', '--device=npu', '--set=iterations_per_loop=2')
    assert done.returncode == 1
    assert b'train_steps=3 must be a multiple of iterations_per_loop=2' in done.stderr


def test_evaluation_and_online_training_on_the_npu(drawn, tmp_path):
    assert run(drawn, tmp_path, *SMALL, '--steps=2', '--device=npu').returncode == 0
    flags = ['--device=npu', '--sequences=drawn-x', '--set=online_steps=2', '--set=loss_scale=1024']
    flags += [f'--checkpoint={tmp_path}/ckpt', f'--output_path={tmp_path}/online']
    done = run(drawn, tmp_path, *flags, '--object=0', module='OSVOS.online')
    assert done.returncode == 0, done.stderr.decode()
    flags[-1] = f'--output_path={tmp_path}/results'
    done = run(drawn, tmp_path, *flags, f'--online_path={tmp_path}/online', module='OSVOS.evaluate')
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / 'results' / 'results.json').is_file()


def test_cpu_mode_never_imports_npu_bridge(drawn, tmp_path):
    code = (
        'import sys\nfrom OSVOS import train\nstatus = train.main(sys.argv[1:])\n'
        'assert not [m for m in sys.modules if m.startswith("npu_bridge")]\nsys.exit(status)'
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / 'test')])
    command = [
        sys.executable,
        '-W',
        'ignore',
        '-c',
        code,
        f'--data_path={drawn["davis"]}',
        f'--output_path={tmp_path}/ckpt',
        '--device=cpu',
        '--steps=1',
        *SMALL,
    ]
    done = subprocess.run(
        command, env=dict(os.environ, PYTHONPATH=path), cwd=str(ROOT), capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
