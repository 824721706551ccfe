"""common/processes.py: reader processes in order, and what happens when one of them or the parent
ends; a queue of commands over devices."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from common import processes

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def opencv_threads():
    count = cv2.getNumThreads()
    yield
    cv2.setNumThreads(count)


def slow_square(number, seconds=0.0):
    time.sleep(seconds)
    if number < 0:
        raise ValueError(f'{number} is negative')
    return number * number, os.getpid()


def alive(pid):
    """Whether a process runs; a zombie, which waits for its parent, does not."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition, seconds=600):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'waited in vain'
        time.sleep(0.02)


def test_results_come_in_order_from_all_readers():
    assert not processes.running()
    with processes.readers(slow_square, 2):
        assert processes.running()
        jobs = [(n, 0.02 if n % 2 == 0 else 0.0) for n in range(30)]
        found = list(processes.results(jobs))
    assert [square for square, _ in found] == [n * n for n in range(30)]
    pids = {pid for _, pid in found}
    assert len(pids) == 2 and os.getpid() not in pids
    wait_until(lambda: not any(map(alive, pids)))
    assert not processes.running()


def test_no_readers():
    with processes.readers(slow_square, 0):
        assert not processes.running()


def test_jobs_are_taken_no_further_ahead_than_needed():
    taken = []

    def jobs():
        for n in range(1000):
            taken.append(n)
            yield (n,)

    with processes.readers(slow_square, 1):
        found = processes.results(jobs())
        assert next(found)[0] == 0
        assert 1 < len(taken) <= processes.AHEAD + 2
        found.close()


def test_large_jobs_and_large_examples_do_not_wait_for_each_other():
    """More than a pipe holds, both ways, as MANet's jobs with the strokes of a round are."""
    with processes.readers(bytes.upper, 2):
        found = list(processes.results([(b'a' * 3_000_000,)] * 40))
    assert len(found) == 40 and set(found) == {b'A' * 3_000_000}


def arrays(number, rows):
    draw = np.random.RandomState(number)
    return (
        {'image': draw.rand(rows, 300, 3).astype(np.float32), 'none': np.zeros((0, 4), np.int32)},
        {'label': draw.rand(7) > 0.5, 'number': np.int32(number), 'name': f'pair {number}'},
    )


@pytest.mark.parametrize('size', [processes.MEMORY, 100_000, 1])
def test_arrays_go_through_memory_and_the_rest_beside_them(monkeypatch, size):
    """Also those that do not fit there; a reader goes on while its examples are kept."""
    monkeypatch.setattr(processes, 'MEMORY', size)
    with processes.readers(arrays, 2):
        found = list(processes.results((n, 10 + n) for n in range(20)))
    for n, example in enumerate(found):
        for part, wanted in zip(example, arrays(n, 10 + n)):
            assert list(part) == list(wanted)
            for key, value in wanted.items():
                assert type(part[key]) is type(value)
                assert np.array_equal(part[key], value)
                assert getattr(part[key], 'dtype', None) == getattr(value, 'dtype', None)


def test_batches_are_whole():
    """Each with arrays of its own, since TensorFlow may use them as they are."""
    examples = [({'image': np.full((2, 3), n, np.float32)}, {'n': np.int32(n)}) for n in range(7)]
    found = list(processes.batches(examples, 3))
    assert [labels['n'].tolist() for _, labels in found] == [[0, 1, 2], [3, 4, 5]]
    for features, labels in found:
        assert features['image'].shape == (3, 2, 3) and features['image'].dtype == np.float32
        assert (features['image'][:, 1, 2] == labels['n']).all() and labels['n'].dtype == np.int32
    assert list(processes.batches(examples[:2], 3)) == [] == list(processes.batches([], 3))


def test_an_exception_of_the_task_is_raised_in_its_place():
    with processes.readers(slow_square, 2):
        found = processes.results([(2,), (-1,), (3,)])
        assert next(found)[0] == 4
        with pytest.raises(ValueError, match='-1 is negative'):
            next(found)
        assert [square for square, _ in processes.results([(5,)])] == [25]  # the readers go on


def test_a_killed_reader_is_an_error_at_once():
    begin = time.monotonic()
    with processes.readers(slow_square, 2):
        found = processes.results([(n, 0.0 if n == 0 else 600.0) for n in range(40)])
        _, pid = next(found)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match='a reader process has died: out of memory'):
            next(found)
    assert time.monotonic() - begin < 300  # of the 600 s that an example takes


class Unpicklable(Exception):
    def __init__(self, first, second):
        super().__init__(first)
        self.hold = lambda: second


def large(kind):
    if kind == 'error':
        raise Unpicklable('first', 'second')
    if kind == 'unpicklable':
        return lambda: 0
    return b'0' * 50_000_000


def test_a_reader_killed_while_it_writes_is_an_error():
    with processes.readers(large, 1):
        found = processes.results([('data',)] * 3)
        next(found)
        wait_until(lambda: processes._READERS[0].pipe.poll())  # the second is under way
        processes._READERS[0].process.kill()
        with pytest.raises(RuntimeError, match='a reader process has died'):
            list(found)


@pytest.mark.parametrize('kind', ['error', 'unpicklable'])
def test_what_cannot_be_sent_is_an_error(kind):
    with processes.readers(large, 1), pytest.raises(Exception, match='first|pickle'):
        list(processes.results([(kind,)]))


def test_examples_of_an_earlier_call_are_dropped():
    with processes.readers(slow_square, 2):
        next(processes.results([(n,) for n in range(9)]))
        assert [square for square, _ in processes.results([(7,), (8,), (9,)])] == [49, 64, 81]


def test_examples_that_are_not_wanted_any_more_end_with_the_readers():
    with processes.readers(slow_square, 2):
        found = processes.results([(n, 0.0 if n == 0 else 600.0) for n in range(40)])
        next(found)
        pids = [reader.process.pid for reader in processes._READERS]
    wait_until(lambda: not any(map(alive, pids)))


PROGRAM = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from common import processes
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it

def task(number):
    time.sleep(600 if number else 0)
    return os.getpid()

try:
    with processes.readers(task, 2):
        found = processes.results([(n,) for n in range(9)])
        next(found)
        print(*(reader.process.pid for reader in processes._READERS), flush=True)
        next(found)
except KeyboardInterrupt:
    print('interrupted', flush=True)
"""


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGKILL])
def test_readers_end_with_their_parent(number):
    """Ctrl-C goes to the whole group, a kill to the parent alone."""
    command = [sys.executable, '-c', PROGRAM, str(ROOT)]
    pipe = subprocess.PIPE
    program = subprocess.Popen(
        command, stdout=pipe, stderr=pipe, universal_newlines=True, start_new_session=True
    )
    pids = [int(word) for word in program.stdout.readline().split()]
    assert len(pids) == 2 and all(map(alive, pids))
    if number == signal.SIGINT:
        os.killpg(program.pid, number)
    else:
        program.send_signal(number)
    try:
        output, errors = program.communicate(timeout=600)
        wait_until(lambda: not any(map(alive, pids)))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
    if number == signal.SIGINT:
        assert output == 'interrupted\n' and errors == '' and program.returncode == 0


def test_a_worker_whose_parent_is_gone_already_ends():
    """Killed between the fork and the worker's first lines: nothing would tell it any more."""
    code = f'import sys; sys.path.insert(0, {str(ROOT)!r}); from common import processes; '
    for parent, status in ((os.getpid(), 0), (1 if os.getpid() != 1 else 2, 1)):
        command = [sys.executable, '-c', f'{code}processes.begin_worker({parent})']
        assert subprocess.run(command).returncode == status


def test_idle_readers_end_with_their_parent_on_any_system():
    """Where the system sends no signal at a parent's death, the end of the pipe tells."""
    text = PROGRAM.replace('600 if number else 0', '0')
    text = text.replace(
        '        next(found)\nexcept', '        list(found)\n        time.sleep(600)\nexcept'
    )
    text = text.replace('import processes\n', 'import processes\nprocesses.begin_worker = int\n')
    pipe = subprocess.PIPE
    program = subprocess.Popen([sys.executable, '-c', text, str(ROOT)], stdout=pipe)
    pids = [int(word) for word in program.stdout.readline().split()]
    assert len(pids) == 2 and all(map(alive, pids))
    program.kill()
    program.wait()
    try:
        wait_until(lambda: not any(map(alive, pids)))
    finally:
        for pid in filter(alive, pids):
            os.kill(pid, signal.SIGKILL)
    program.stdout.close()


def command(text):
    return ['/bin/sh', '-c', text]


def test_queue_keeps_one_process_on_each_device(tmp_path, capsys):
    """Four jobs on two devices; a failure and a command that is not there end no other."""
    line = f'echo $ASCEND_DEVICE_ID $RANK_ID $RANK_SIZE; mkdir {tmp_path}/busy$ASCEND_DEVICE_ID'
    line += f' && sleep 0.2; rmdir {tmp_path}/busy$ASCEND_DEVICE_ID'
    logs = [str(tmp_path / f'{i}.log') for i in range(5)]
    jobs = [(command(line), log) for log in logs[:3]]
    jobs += [(command('echo reason >&2; exit 3'), logs[3]), (['/no/such/program'], logs[4])]
    assert processes.run_queue(jobs, ['4', '6']) == [0, 0, 0, 3, 127]
    text = [Path(log).read_text() for log in logs]
    assert {t.split()[0] for t in text[:3]} == {'4', '6'}
    assert all(t.split()[1:] == ['0', '1'] for t in text[:3])  # and no message of mkdir
    assert text[3] == 'reason\n' and '/no/such/program cannot be started' in text[4]
    assert '0.log begins' in capsys.readouterr().out


def test_an_interrupted_queue_ends_what_runs_and_starts_nothing(tmp_path, monkeypatch):
    pid_file = tmp_path / 'pid'
    first = command(f'echo $$ > {pid_file}; exec sleep 600')
    second = command(f'touch {tmp_path}/second')
    sleep = time.sleep

    def interrupt(seconds):
        sleep(seconds)
        if pid_file.is_file() and pid_file.read_text().strip():
            monkeypatch.undo()
            raise KeyboardInterrupt

    monkeypatch.setattr(processes.time, 'sleep', interrupt)
    with pytest.raises(KeyboardInterrupt):
        processes.run_queue([(first, str(tmp_path / 'a')), (second, str(tmp_path / 'b'))], ['0'])
    assert not alive(int(pid_file.read_text()))
    assert not (tmp_path / 'second').exists()


def test_commands_that_do_not_end_are_killed(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, 'GRACE', 0)
    child = subprocess.Popen(
        command('trap "" TERM; echo; while :; do sleep 0.1; done'), stdout=subprocess.PIPE
    )
    child.stdout.readline()
    processes._end([child])
    assert child.returncode == -signal.SIGKILL
