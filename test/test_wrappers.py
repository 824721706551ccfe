"""The shell wrappers: where they run from, what they write, how they end. What belongs to the shell
is tested with a stub in the place of Python, which takes a tenth of a second a run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SMALL = ('height=36', 'width=64', 'channels=0.07', 'log_steps=1', 'checkpoint_steps=2')
SHORT = ['--preset=smoke', '--steps=4', '--batch_size=2', '--device=cpu']
SHORT += [f'--set={setting}' for setting in SMALL]
STUB = """#!/bin/bash
case "$*" in
  *npu_bridge*) exit 1 ;;                 # env.sh asks: is this CANN's Python?
  -c*) exit 0 ;;                          # env.sh asks: has it the packages?
  -\ *) exec python3 "$@" ;;              # a program of train_full_8p.sh
  *sample_data.py*) exit 0 ;;
esac
echo "stub: $* START_TIME=${START_TIME:-} BIND_CORE=${BIND_CORE:-}" \
  "RANK=${RANK_ID:-}/${RANK_SIZE:-}" "HOSTS=${WORKER_HOSTS:-}"
for flag in "$@"; do
  case $flag in
    --result_path=*) result=${flag#--result_path=} ;;
    --steps=*) steps=${flag#--steps=} ;;
  esac
done
case " $* " in
  *" --fail "*) [ "${RANK_ID:-0}" = "${FAILING_RANK:-0}" ] && { echo broken; exit 3; } ;;
esac
case " $* " in
  *" --wait "*)
    trap 'echo asked to stop; exit 143' TERM
    echo waiting
    while true; do sleep 0.1; done ;;
  *" --check_data "*|*" --dry_run "*) exit 0 ;;
esac
mkdir -p "$result/ckpt"
touch "$result/ckpt/model.ckpt-$steps.index" "$result/finished"
"""


@pytest.fixture
def collection(tmp_path):
    """What a user clones, without the parts that the wrappers do not need: links for speed."""
    target = tmp_path / 'collection'
    for model in ('OSVOS', 'OSMN'):
        shutil.copytree(
            str(ROOT / model / 'test'),
            str(target / model / 'test'),
            ignore=shutil.ignore_patterns('output'),
        )
    (target / 'test').mkdir()
    for script in (ROOT / 'test').glob('*.sh'):
        shutil.copy(str(script), str(target / 'test'))
    for name in ('env.sh', 'requirements.txt'):
        shutil.copy(str(ROOT / name), str(target / name))
    return target


@pytest.fixture
def stub(tmp_path):
    """Path of a stub in the place of Python."""
    path = tmp_path / 'bin' / 'python'
    path.parent.mkdir()
    path.write_text(STUB)
    path.chmod(0o755)
    return str(path)


def environment(python, **more):
    unset = ('PYTHONPATH', 'VENV', 'RANK_TABLE_FILE', 'ASCEND_DEVICE_ID', 'RANK_ID', 'RANK_SIZE')
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    return dict(inherited, PYTHON=python, **more)


def bash(script, *flags, cwd, python=sys.executable, **more):
    """Runs a script; (exit status, all that it printed)."""
    done = subprocess.run(
        ['bash', str(script), *flags],
        cwd=str(cwd),
        env=environment(python, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.returncode, done.stdout.decode()


def begun(script, *flags, cwd, python, **more):
    """Starts a script in a session of its own, as a terminal does: with SIGINT not ignored, which
    it is where the tests run in the background of a shell."""
    return subprocess.Popen(
        ['bash', str(script), *flags],
        cwd=str(cwd),
        env=environment(python, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(path, text):
    """Until the file holds the text; fails after ten minutes, more than any load takes."""
    end = time.time() + 600
    while time.time() < end:
        if path.is_file() and text in path.read_text():
            return
        time.sleep(0.05)
    pytest.fail(f'{path} never held {text!r}')


def test_flags_folders_and_log_of_a_run(collection, stub, tmp_path):
    script = collection / 'OSVOS' / 'test' / 'train_full_1p.sh'
    status, text = bash(script, '--steps=4', cwd=tmp_path, python=stub, ASCEND_DEVICE_ID='3')
    out = collection / 'OSVOS' / 'test' / 'output' / '3'
    assert status == 0 and 'Device ID: 3' in text
    call = re.search(r'stub: -m OSVOS\.train (.*)', text).group(1)
    assert '--case=acc' in call and f'--script_dir={collection}/OSVOS/test' in call
    assert f'--output_path={out}/ckpt' in call and f'--result_path={out}' in call
    assert '--steps=4' in call and re.search(r'START_TIME=\d{9,}', call)
    assert 'stub: -m OSVOS.train' in (out / 'train_3.log').read_text()
    performance = collection / 'OSVOS' / 'test' / 'train_performance_1p.sh'
    assert '--case=perf' in bash(performance, cwd=tmp_path, python=stub)[1]


def test_values_that_mean_something_to_a_shell(collection, stub, tmp_path):
    """They reach the program as they are; nothing of them is run."""
    values = ['$(touch x)', '`touch x`', ';touch x', "o'clock", 'say "x"', 'two\nlines', '*', '-rf']
    flags = [f'--data_path={value}' for value in values]
    for script in ('OSVOS/test/train_full_1p.sh', 'test/train_full_1p.sh'):
        status, text = bash(collection / script, *flags, cwd=tmp_path, python=stub)
        assert status == 0 and ' '.join(flags) in text, text
    assert sorted(os.listdir(str(tmp_path))) == ['bin', 'collection']


def test_a_finished_run_is_moved_aside_and_an_unfinished_one_stays(collection, stub, tmp_path):
    script = collection / 'OSVOS' / 'test' / 'train_full_1p.sh'
    output = collection / 'OSVOS' / 'test' / 'output'
    for _ in range(2):
        assert bash(script, '--steps=4', cwd=tmp_path, python=stub)[0] == 0
    folders = sorted(p.name for p in output.iterdir())
    assert len(folders) == 2 and folders[0] == '0' and folders[1].startswith('0.')
    assert (output / folders[1] / 'ckpt' / 'model.ckpt-4.index').is_file()
    (output / '0' / 'finished').unlink()
    assert bash(script, '--steps=6', cwd=tmp_path, python=stub)[0] == 0
    assert sorted(p.name for p in output.iterdir()) == folders
    kept = {p.name for p in (output / '0' / 'ckpt').iterdir()}
    assert kept == {'model.ckpt-4.index', 'model.ckpt-6.index'}


@pytest.mark.parametrize('flag', ['--check_data', '--dry_run', '--help'])
def test_what_trains_nothing_moves_and_finishes_nothing(flag, collection, stub, tmp_path):
    script = collection / 'OSVOS' / 'test' / 'train_full_1p.sh'
    output = collection / 'OSVOS' / 'test' / 'output'
    assert bash(script, flag, cwd=tmp_path, python=stub)[0] == 0
    assert not (output / '0' / 'finished').exists()
    assert bash(script, '--steps=4', cwd=tmp_path, python=stub)[0] == 0
    assert bash(script, flag, cwd=tmp_path, python=stub)[0] == 0
    assert [p.name for p in output.iterdir()] == ['0']
    assert (output / '0' / 'finished').is_file()


def test_failure_is_reported(collection, stub, tmp_path):
    script = collection / 'OSVOS' / 'test' / 'train_performance_1p.sh'
    status, text = bash(script, '--fail', cwd=tmp_path, python=stub)
    assert status == 3 and 'broken' in text
    log = collection / 'OSVOS' / 'test' / 'output' / '0' / 'train_0.log'
    assert 'broken' in log.read_text() and not (log.parent / 'finished').exists()
    script = collection / 'test' / 'train_performance_1p.sh'
    status, text = bash(script, '--fail', cwd=tmp_path, python=stub)
    assert status == 1 and 'FAILED: OSMN OSVOS' in text


@pytest.mark.parametrize('number, status', [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize('top', [False, True])
def test_a_signal_to_the_wrapper_ends_its_program(number, status, top, collection, stub, tmp_path):
    folder = collection / 'test' if top else collection / 'OSVOS' / 'test'
    flags = ['--wait'] + ['--model=OSVOS'] * top
    process = begun(folder / 'train_full_1p.sh', *flags, cwd=tmp_path, python=stub)
    log = collection / 'OSVOS' / 'test' / 'output' / '0' / 'train_0.log'
    wait_for(log, 'waiting')
    process.send_signal(number)  # to the wrapper alone, as kill does
    assert process.wait(timeout=600) == status
    wait_for(log, 'asked to stop')


def test_collection_wrapper_runs_the_models_asked_for(collection, stub, tmp_path):
    script = collection / 'test' / 'train_performance_1p.sh'
    flags = ['--model=OSVOS', '--bind_core=True', '--steps=4']
    status, text = bash(script, *flags, cwd=tmp_path, python=stub)
    assert status == 0 and 'OSVOS: train_performance_1p.sh' in text and 'OSMN' not in text
    assert 'BIND_CORE=1' in text and f'--script_dir={collection}/test' in text
    assert '--bind_core' not in re.search(r'stub: (.*)', text).group(1)
    status, text = bash(script, cwd=tmp_path, python=stub)
    assert status == 0 and text.count('stub: -m') == 2
    status, text = bash(script, '--model=OSVAS', cwd=tmp_path, python=stub)
    assert status == 1 and 'no model OSVAS' in text


def test_eight_cards_need_a_rank_table(collection, stub, tmp_path):
    for name in ('train_full_8p.sh', 'train_performance_8p.sh'):
        status, text = bash(collection / 'OSVOS' / 'test' / name, cwd=tmp_path, python=stub)
        assert status == 1 and f'{name}: RANK_TABLE_FILE' in text


@pytest.fixture
def two_cards(tmp_path):
    """The environment of two ranks."""
    table = tmp_path / 'table.json'
    table.write_text('{}')
    return dict(CARDS='2', RANK_TABLE_FILE=str(table))


def test_several_cards_have_folders_of_their_own(collection, stub, tmp_path, two_cards):
    script = collection / 'OSVOS' / 'test' / 'train_performance_8p.sh'
    status, text = bash(script, '--steps=4', cwd=tmp_path, python=stub, **two_cards)
    assert status == 0 and 'RANK=0/2' in text and 'RANK=1/2' in text and '--case=perf' in text
    for rank in '01':
        output = collection / 'OSVOS' / 'test' / 'output' / rank
        assert f'RANK={rank}/2' in (output / f'train_{rank}.log').read_text()


def test_ranks_of_one_machine_get_ports(collection, stub, tmp_path):
    script = collection / 'OSVOS' / 'test' / 'train_full_8p.sh'
    flags = ['--device=cpu', '--ranks=3', '--steps=4']
    status, text = bash(script, *flags, cwd=tmp_path, python=stub)
    assert status == 0, text
    assert [f'RANK={rank}/3' in text for rank in range(3)] == [True] * 3
    found = set(re.findall(r'HOSTS=(127.0.0.1:\d+),(127.0.0.1:\d+),(127.0.0.1:\d+)$', text, re.M))
    assert len(found) == 1 and len(set(found.pop())) == 3
    assert '--ranks' not in re.search(r'stub: (.*)', text).group(1)


def test_only_the_ranks_of_this_machine_are_started(collection, stub, tmp_path):
    script = collection / 'OSVOS' / 'test' / 'train_full_8p.sh'
    flags = ['--device=cpu', '--hosts=192.0.2.7:9000,127.0.0.1:9001', '--steps=4']
    status, text = bash(script, *flags, cwd=tmp_path, python=stub)
    assert status == 0 and 'RANK=1/2' in text and 'RANK=0/2' not in text
    output = collection / 'OSVOS' / 'test' / 'output'
    assert (output / '1' / 'finished').is_file() and not (output / '0').exists()


def test_servers_without_a_rank_table(collection, stub, tmp_path):
    script = collection / 'OSVOS' / 'test' / 'train_full_8p.sh'
    chief = dict(CM_CHIEF_IP='10.0.0.1', CM_WORKER_SIZE='4', RANK_ID_START='2', CARDS='2')
    status, text = bash(script, '--steps=4', cwd=tmp_path, python=stub, **chief)
    assert status == 0 and 'RANK=2/ ' in text and 'RANK=3/ ' in text, text


def test_an_environment_of_conda(collection, stub, tmp_path):
    tool = Path(stub).parent / 'conda'
    tool.write_text('#!/bin/sh\necho \'conda() { echo "conda $*"; }\'\n')
    tool.chmod(0o755)
    script = collection / 'OSVOS' / 'test' / 'train_full_1p.sh'
    path = f'{tool.parent}:{os.environ["PATH"]}'
    status, text = bash(script, '--conda_name=tf', cwd=tmp_path, python=stub, PATH=path)
    assert status == 0 and 'conda activate tf' in text
    assert '--conda_name' not in re.search(r'stub: (.*)', text).group(1)


def test_ranks_finish_together(collection, stub, tmp_path, two_cards):
    """A run that was killed while its ranks were marked as finished goes on, none starts anew."""
    script = collection / 'OSVOS' / 'test' / 'train_full_8p.sh'
    output = collection / 'OSVOS' / 'test' / 'output'
    (output / '0').mkdir(parents=True)
    (output / '0' / 'finished').touch()
    (output / '0' / 'kept').touch()
    for _ in range(2):
        status, text = bash(script, '--steps=4', cwd=tmp_path, python=stub, **two_cards)
        assert status == 0, text
        assert all((output / rank / 'finished').is_file() for rank in '01')
    aside = sorted(path.name.split('.')[0] for path in output.iterdir() if '.' in path.name)
    assert aside == ['0', '1']  # the first run, which had finished, and nothing else
    assert [path.parent.name.split('.')[0] for path in output.glob('*.*/kept')] == ['0']


@pytest.mark.parametrize('failing', ['0', '1'])
def test_the_first_failed_rank_ends_the_others(failing, collection, stub, tmp_path, two_cards):
    script = collection / 'OSVOS' / 'test' / 'train_full_8p.sh'
    flags = ['--fail', '--wait']  # one rank fails, the other waits until it is ended
    status, text = bash(
        script, *flags, cwd=tmp_path, python=stub, FAILING_RANK=failing, **two_cards
    )
    assert status == 1 and f'rank {failing} failed' in text
    output = collection / 'OSVOS' / 'test' / 'output'
    other = str(1 - int(failing))
    assert text.count('broken') == 2  # as it was printed, and as the end of that rank's log
    assert 'asked to stop' in (output / other / f'train_{other}.log').read_text()


def test_a_signal_ends_every_rank(collection, stub, tmp_path, two_cards):
    script = collection / 'OSVOS' / 'test' / 'train_full_8p.sh'
    process = begun(script, '--wait', cwd=tmp_path, python=stub, **two_cards)
    logs = [collection / 'OSVOS' / 'test' / 'output' / r / f'train_{r}.log' for r in '01']
    for log in logs:
        wait_for(log, 'waiting')
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=600) == 143
    for log in logs:
        wait_for(log, 'asked to stop')


def test_the_seeds_own_words(collection, stub, tmp_path):
    """cd test; source ./env.sh; bash train_full_1p.sh --data_path=../data"""
    command = 'source ./env.sh; bash train_full_1p.sh --data_path=../data'
    done = subprocess.run(
        ['bash', '-c', command],
        cwd=str(collection / 'OSVOS' / 'test'),
        env=environment(stub),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0 and '--data_path=../data' in done.stdout.decode()


def test_env_puts_its_python_first_once(collection, stub, tmp_path):
    command = (
        f'. {collection}/env.sh; . {collection}/env.sh; echo $PATH; echo $PYTHONPATH; python -m x'
    )
    done = subprocess.run(
        ['bash', '-euc', command], cwd='/', env=environment(stub), stdout=subprocess.PIPE
    )
    path, python_path, called = done.stdout.decode().split('\n')[:3]
    assert path.split(':')[0] == str(Path(stub).parent)
    assert python_path == str(collection) and called.startswith('stub: -m x')


@pytest.fixture
def bare(tmp_path):
    """The environment of a machine that has a few tools and no Python."""
    folder = tmp_path / 'tools'
    folder.mkdir()
    for tool in ('bash', 'dirname', 'basename', 'mkdir', 'cmp', 'cat', 'date', 'ls'):
        (folder / tool).symlink_to(shutil.which(tool))
    return {'PATH': str(folder), 'HOME': str(tmp_path), 'VENV': str(tmp_path / 'venv')}


def sourced(collection, variables):
    """env.sh in a shell with these environment variables: (exit status, what it printed)."""
    done = subprocess.run(
        ['bash', '-c', f'. {collection}/env.sh'],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.returncode, done.stdout.decode()


def test_a_tensorflow_without_estimator_is_not_taken(collection, bare, tmp_path):
    """Such as TensorFlow 2.17 on Python 3.12."""
    python = tmp_path / 'python3'
    python.write_text(
        '#!/bin/bash\ncase "$*" in *npu_bridge*) exit 1;; *venv*) exit 1;; '
        '*find_spec*) echo tensorflow_estimator;; esac\n'
    )
    python.chmod(0o755)
    del bare['VENV']
    status, text = sourced(collection, dict(bare, PYTHON=str(python)))
    assert status == 1
    assert f'{python} has TensorFlow but not tensorflow_estimator' in text
    assert 'no Python 3.7 - 3.11 with venv found' in text


def test_no_usable_python_says_how_to_get_one(collection, bare):
    status, text = sourced(collection, dict(bare, PYTHON='/nowhere/python3.7'))
    assert status == 1
    assert 'no Python 3.7 - 3.11' in text and 'pyenv install 3.7.17' in text


# with the real program


@pytest.fixture(scope='module')
def copied(tmp_path_factory):
    """A folder with OSVOS, common/ and env.sh alone, which must train by itself."""
    target = tmp_path_factory.mktemp('copied')
    ignore = shutil.ignore_patterns('output', '__pycache__')
    for name in ('OSVOS', 'common'):
        shutil.copytree(str(ROOT / name), str(target / name), ignore=ignore)
    for name in ('env.sh', 'requirements.txt'):
        shutil.copy(str(ROOT / name), str(target / name))
    return target


def test_full_run_writes_the_zoo_files_from_any_folder(copied, drawn, tmp_path):
    out = copied / 'OSVOS' / 'test' / 'output' / '3'
    script = copied / 'OSVOS' / 'test' / 'train_full_1p.sh'
    relative = os.path.relpath(drawn['davis'], str(tmp_path))
    status, text = bash(
        script, f'--data_path={relative}', *SHORT, cwd=tmp_path, ASCEND_DEVICE_ID='3'
    )
    assert status == 0, text
    assert 'Device ID: 3' in text and 'Final Train Accuracy : 0.' in text
    assert re.search(r'^-+ Final result -+\nFinal Performance images/sec : [\d.]+$', text, re.M)
    assert re.search(r'^E2E Training Duration sec : \d+$', text, re.M)
    names = {p.name for p in out.iterdir()}
    wanted = {'train_3.log', 'OSVOS_bs2_1p_acc.log', 'train_OSVOS_bs2_1p_acc_loss.txt', 'ckpt'}
    assert wanted | {'finished'} <= names
    lines = (out / 'OSVOS_bs2_1p_acc.log').read_text().split('\n')[:-1]
    rows = dict(line.split(' = ') for line in lines)
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
    losses = (out / 'train_OSVOS_bs2_1p_acc_loss.txt').read_text().split()
    assert float(rows['ActualLoss']) == float(losses[-1])
    assert int(rows['E2ETrainingTime']) >= 1 and 'step 4/4' in (out / 'train_3.log').read_text()


def test_data_path_is_tried_from_both_folders(copied, tmp_path):
    script = copied / 'OSVOS' / 'test' / 'train_full_1p.sh'
    status, text = bash(script, '--data_path=../nowhere', cwd=tmp_path)
    assert status == 1 and 'Final result' not in text
    assert f'{tmp_path.parent}/nowhere' in text and f'{copied}/OSVOS/nowhere' in text
    status, text = bash(script, *SHORT, cwd='/')
    assert status == 1 and '--data_path is needed' in text  # there is no sample_data.py to draw


def test_data_path_relative_to_the_wrapper(copied, drawn, tmp_path):
    (copied / 'OSVOS' / 'data').symlink_to(drawn['davis'])
    script = copied / 'OSVOS' / 'test' / 'train_full_1p.sh'
    status, text = bash(script, '--data_path=../data', '--check_data', cwd=tmp_path)
    assert status == 0 and '"frames": 90' in text


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 7), reason='npu_bridge is for Python 3.7 and TensorFlow 1.15'
)
def test_wrapper_trains_on_the_npu_where_there_is_one(copied, drawn, tmp_path):
    """The same command, with npu_bridge (its stand-in) in the Python that env.sh finds."""
    script = copied / 'OSVOS' / 'test' / 'train_performance_1p.sh'
    flags = [flag for flag in SHORT if flag != '--device=cpu'] + ['--loss_scale=1024']
    status, text = bash(
        script,
        f'--data_path={drawn["davis"]}',
        *flags,
        cwd=tmp_path,
        ASCEND_DEVICE_ID='4',
        PYTHONPATH=str(ROOT / 'test'),
        NPU_STANDIN_REPORT=str(tmp_path / 'report.json'),
    )
    assert status == 0, text
    assert 'loss_scale 1024' in text and (tmp_path / 'report.json').is_file()
    result = (copied / 'OSVOS/test/output/4/OSVOS_bs2_1p_perf.log').read_text()
    assert 'TrainAccuracy' not in result
