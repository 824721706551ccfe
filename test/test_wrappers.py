"""The shell wrappers: where they run from, what they write, how they end."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHORT = ['--preset=smoke', '--steps=4', '--batch_size=2', '--device=cpu'] + [
    f'--set={s}'
    for s in ('height=36', 'width=64', 'channels=0.07', 'log_steps=1', 'checkpoint_steps=2')
]


@pytest.fixture(scope='module')
def collection(tmp_path_factory):
    """A copy of what a user clones, without the parts that the wrappers do not need."""
    target = tmp_path_factory.mktemp('clone') / 'collection'
    ignore = shutil.ignore_patterns('output', '__pycache__', 'recorded', 'npu_bridge', 'test_*.py')
    for name in ('OSVOS', 'common', 'test'):
        shutil.copytree(str(ROOT / name), str(target / name), ignore=ignore)
    for name in ('env.sh', 'requirements.txt'):
        shutil.copy(str(ROOT / name), str(target / name))
    return target


def bash(script, *flags, cwd, **environment):
    unset = ('PYTHONPATH', 'VENV', 'RANK_TABLE_FILE', 'ASCEND_DEVICE_ID')
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    environment = dict(inherited, PYTHON=sys.executable, **environment)
    return subprocess.run(
        ['bash', str(script), *flags],
        cwd=str(cwd),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_full_run_writes_the_zoo_files_from_any_folder(collection, drawn, tmp_path):
    out = collection / 'OSVOS' / 'test' / 'output'
    script = collection / 'OSVOS' / 'test' / 'train_full_1p.sh'
    relative = os.path.relpath(drawn['davis'], str(tmp_path))
    done = bash(script, f'--data_path={relative}', *SHORT, cwd=tmp_path, ASCEND_DEVICE_ID='3')
    text = done.stdout.decode()
    assert done.returncode == 0, text
    assert 'Device ID: 3' in text and 'Final Train Accuracy : 0.' in text
    assert re.search(r'^-+ Final result -+\nFinal Performance images/sec : [\d.]+$', text, re.M)
    assert re.search(r'^E2E Training Duration sec : \d+$', text, re.M)
    names = {str(p.relative_to(out / '3')) for p in (out / '3').iterdir()}
    assert {
        'train_3.log',
        'OSVOS_bs2_1p_acc.log',
        'train_OSVOS_bs2_1p_acc_loss.txt',
        'ckpt',
    } <= names
    rows = dict(
        line.split(' = ')
        for line in (out / '3' / 'OSVOS_bs2_1p_acc.log').read_text().split('\n')[:-1]
    )
    assert list(rows) == [
        'Network',
        'RankSize',
        'BatchSize',
        'DeviceType',
        'CaseName',
        'ActualFPS',
        'TrainingTime',
        'TrainAccuracy',
        'ActualLoss',
        'E2ETrainingTime',
    ]
    assert (rows['Network'], rows['RankSize'], rows['BatchSize']) == ('OSVOS', '1', '2')
    assert float(rows['ActualLoss']) == float(
        (out / '3' / 'train_OSVOS_bs2_1p_acc_loss.txt').read_text().split()[-1]
    )
    assert (
        int(rows['E2ETrainingTime']) >= 1 and 'step 4/4' in (out / '3' / 'train_3.log').read_text()
    )


def test_second_run_moves_the_first_aside(collection, drawn, tmp_path):
    script = collection / 'OSVOS' / 'test' / 'train_performance_1p.sh'
    for _ in range(2):
        done = bash(
            script, f'--data_path={drawn["davis"]}', *SHORT, cwd=tmp_path, ASCEND_DEVICE_ID='5'
        )
        assert done.returncode == 0, done.stdout.decode()
    folders = sorted(
        p.name for p in (collection / 'OSVOS' / 'test' / 'output').iterdir() if p.name[0] == '5'
    )
    assert len(folders) == 2 and folders[0] == '5'
    kept = collection / 'OSVOS' / 'test' / 'output' / folders[1]
    assert (kept / 'ckpt' / 'model.ckpt-4.index').is_file()
    assert 'TrainAccuracy' not in (kept / 'OSVOS_bs2_1p_perf.log').read_text()


def test_data_path_is_tried_from_both_folders(collection, drawn, tmp_path):
    script = collection / 'OSVOS' / 'test' / 'train_full_1p.sh'
    done = bash(script, '--data_path=../nowhere', cwd=tmp_path)
    text = done.stdout.decode()
    assert done.returncode == 1 and 'Final result' not in text
    assert f'{tmp_path.parent}/nowhere' in text and f'{collection}/OSVOS/nowhere' in text
    link = collection / 'OSVOS' / 'data'
    link.symlink_to(drawn['davis'])
    done = bash(script, '--data_path=../data', '--check_data', cwd=tmp_path)
    link.unlink()
    assert '"frames": 90' in done.stdout.decode()


def test_failure_is_reported(collection, drawn, tmp_path):
    script = collection / 'OSVOS' / 'test' / 'train_performance_1p.sh'
    done = bash(
        script,
        f'--data_path={drawn["davis"]}',
        *SHORT,
        '--set=optimiser=sgd',
        cwd=tmp_path,
        ASCEND_DEVICE_ID='6',
    )
    assert done.returncode == 1 and 'nearest: optimizer' in done.stdout.decode()
    out = collection / 'OSVOS' / 'test' / 'output' / '6'
    assert not (out / 'finished').exists() and not list(out.glob('*_perf.log'))
    done = bash(
        collection / 'test' / 'train_performance_1p.sh',
        f'--data_path={drawn["davis"]}',
        '--set=x=1',
        cwd=tmp_path,
        ASCEND_DEVICE_ID='6',
    )
    assert done.returncode == 1 and 'FAILED: OSVOS' in done.stdout.decode()


def test_wrapper_trains_on_the_npu_where_there_is_one(collection, drawn, tmp_path):
    """The same command, with npu_bridge (its stand-in) in the Python that env.sh finds."""
    script = collection / 'OSVOS' / 'test' / 'train_performance_1p.sh'
    flags = [flag for flag in SHORT if flag != '--device=cpu'] + ['--loss_scale=1024']
    done = bash(
        script,
        f'--data_path={drawn["davis"]}',
        *flags,
        cwd=tmp_path,
        ASCEND_DEVICE_ID='4',
        PYTHONPATH=str(ROOT / 'test'),
        NPU_STANDIN_REPORT=str(tmp_path / 'report.json'),
    )
    assert done.returncode == 0, done.stdout.decode()
    assert 'loss_scale 1024' in done.stdout.decode() and (tmp_path / 'report.json').is_file()
    assert (collection / 'OSVOS/test/output/4/OSVOS_bs2_1p_perf.log').is_file()


def test_help_ends_well(collection, tmp_path):
    done = bash(collection / 'OSVOS' / 'test' / 'train_full_1p.sh', '--help', cwd=tmp_path)
    assert done.returncode == 0 and '--precision_mode' in done.stdout.decode()


def test_collection_wrapper_draws_data_and_names_the_model(collection, tmp_path):
    script = collection / 'test' / 'train_performance_1p.sh'
    done = bash(
        script, '--model=OSVOS', *SHORT, '--bind_core=True', cwd=tmp_path, ASCEND_DEVICE_ID='7'
    )
    text = done.stdout.decode()
    assert done.returncode == 0, text
    assert 'data: drawing a small set' in text and 'OSVOS: train_performance_1p.sh' in text
    assert (collection / 'OSVOS/test/output/7/OSVOS_bindcore_bs2_1p_perf.log').is_file()
    done = bash(script, '--model=OSVAS', cwd=tmp_path)
    assert done.returncode == 1 and 'no model OSVAS' in done.stdout.decode()


def test_eight_cards_need_a_rank_table(collection, tmp_path):
    done = bash(collection / 'OSVOS' / 'test' / 'train_full_8p.sh', '--data_path=.', cwd=tmp_path)
    assert done.returncode == 1 and 'RANK_TABLE_FILE' in done.stdout.decode()


def test_several_cards_have_folders_of_their_own(collection, drawn, tmp_path):
    table = {'server_list': [{'device': [{'rank_id': '0'}, {'rank_id': '1'}]}]}
    (tmp_path / 'table.json').write_text(str(table).replace("'", '"'))
    script = collection / 'OSVOS' / 'test' / 'train_full_8p.sh'
    done = bash(
        script,
        f'--data_path={drawn["davis"]}',
        *SHORT,
        cwd=tmp_path,
        CARDS='2',
        RANK_TABLE_FILE=str(tmp_path / 'table.json'),
    )
    assert done.returncode == 1  # two processes, but several cards are the NPU's
    assert 'several cards need the NPU' in done.stdout.decode()


def test_folder_common_and_env_train_elsewhere(drawn, tmp_path):
    for name in ('OSVOS', 'common'):
        shutil.copytree(
            str(ROOT / name), str(tmp_path / name), ignore=shutil.ignore_patterns('output')
        )
    for name in ('env.sh', 'requirements.txt'):
        shutil.copy(str(ROOT / name), str(tmp_path / name))
    script = tmp_path / 'OSVOS' / 'test' / 'train_performance_1p.sh'
    done = bash(script, f'--data_path={drawn["davis"]}', *SHORT, cwd='/')
    assert done.returncode == 0, done.stdout.decode()
    done = bash(script, *SHORT, cwd='/')
    assert done.returncode == 1 and '--data_path is needed' in done.stdout.decode()


def test_no_usable_python_says_how_to_get_one(collection, tmp_path):
    (tmp_path / 'bin').mkdir()
    for tool in ('bash', 'dirname', 'basename', 'mkdir', 'cmp', 'cat', 'date', 'ls'):
        (tmp_path / 'bin' / tool).symlink_to(shutil.which(tool))
    command = f'. {collection}/env.sh'
    done = subprocess.run(
        ['bash', '-c', command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={
            'PATH': str(tmp_path / 'bin'),
            'HOME': str(tmp_path),
            'VENV': str(tmp_path / 'venv'),
            'PYTHON': '/nowhere/python3.7',
        },
    )
    text = done.stdout.decode()
    assert (
        done.returncode == 1 and 'no Python 3.7 - 3.11' in text and 'pyenv install 3.7.17' in text
    )
