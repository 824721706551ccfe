"""Reader processes that make examples in parallel and in order, and a queue of commands over
devices.

Examples are made in processes where Python and many small calls of OpenCV or Pillow do the work,
which hold the interpreter; in threads (tf.data's own) where one long call of OpenCV does it.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import itertools
import mmap
import multiprocessing
import os
import signal
import subprocess
import time
import traceback
from collections.abc import Iterable, Iterator
from multiprocessing import connection
from typing import NamedTuple

from .lazy import cv2, np

AHEAD = 8  # examples that are made in advance, a reader
DEAD = 'a reader process has died: out of memory? Fewer --set=workers=... take less'
SIGNALS = (signal.SIGINT, signal.SIGTERM)  # that end a program
GRACE = 60  # s that run_queue() leaves commands to end after SIGTERM
MEMORY = 2**26  # bytes of arrays that a reader hands over at once; pages that it uses are taken
ALIGNED = 64  # bytes: arrays in that memory begin at multiples


class Reader(NamedTuple):
    """A process that makes examples, the pipe to it, and memory of both in which it lays their
    arrays, which are not pickled then. No two readers share anything, so that the death of
    one, whatever it is doing, is an end of file in its pipe and nothing else."""

    process: multiprocessing.Process
    pipe: connection.Connection
    memory: mmap.mmap


class StoredArray(NamedTuple):
    """What is sent in the place of an array: where it lies in the reader's memory."""

    start: int  # bytes
    count: int  # of elements
    shape: tuple
    dtype: np.dtype


_READERS = []  # of this process
_BUSY = set()  # pipes of the readers that are making an example
_CALLS = itertools.count()  # numbers of the calls of results()


@contextlib.contextmanager
def readers(task, count: int) -> Iterator[None]:
    """`count` processes for results(); none with 0.

    They are forked, which shares with them whatever `task` refers to; so enter before the first
    session, whose threads do not outlive a fork.

    Args:
      task: function of what results() is given; that and what it returns are pickled.
      count: processes.
    """
    global _READERS
    cv2.setNumThreads(1)
    context = multiprocessing.get_context('fork')
    try:
        # A signal waits until a new process has its own handlers, see begin_worker().
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            for _ in range(count):
                ours, theirs = context.Pipe()
                memory = mmap.mmap(-1, MEMORY)
                job = (task, ours, theirs, memory, os.getpid())
                process = context.Process(target=_serve, args=job, daemon=True)
                process.start()
                theirs.close()
                _READERS.append(Reader(process, ours, memory))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        yield
    finally:
        for reader in _READERS:  # what they were asked in advance is not wanted
            reader.process.terminate()
        for reader in _READERS:
            reader.process.join()
        _BUSY.clear()
        _READERS = []  # the pipes close with their last user, which may be a thread of tf.data


def _serve(task, parents, pipe, memory, parent):
    """Answers (call, number, job) by (call, number, example, error) until the parent's end of the
    pipe closes."""
    begin_worker(parent)
    for inherited in (parents, *(reader.pipe for reader in _READERS)):
        inherited.close()
    while True:
        try:
            call, number, job = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((call, number, _store(task(*job), memory), None))
        except Exception as error:
            where = traceback.format_exc()
            try:
                pipe.send((call, number, where, error))
            except Exception:  # an error that cannot be pickled
                pipe.send((call, number, where, RuntimeError(repr(error))))


def _store(example, memory):
    """The example, a tuple of dicts, with a StoredArray for each array, which is in `memory`;
    what does not fit there, and an example of another form, stays as it is."""
    if not _is_tuple_of_dicts(example):
        return example
    end, stored = 0, []
    for part in example:
        stored.append(dict(part))
        for key, array in part.items():
            if isinstance(array, np.ndarray) and 0 < array.nbytes <= len(memory) - end:
                row = StoredArray(end, array.size, array.shape, array.dtype)
                _view(row, memory)[...] = array
                stored[-1][key] = row
                end += -(-array.nbytes // ALIGNED) * ALIGNED
    return tuple(stored)


def _load(example, memory):
    """The example as the task has returned it: the reader may use its memory again."""
    if not _is_tuple_of_dicts(example):
        return example
    return tuple(
        {
            key: _view(value, memory).copy() if isinstance(value, StoredArray) else value
            for key, value in part.items()
        }
        for part in example
    )


def _is_tuple_of_dicts(example):
    return isinstance(example, tuple) and all(isinstance(part, dict) for part in example)


def _view(stored, memory):
    flat = np.frombuffer(memory, stored.dtype, stored.count, stored.start)
    return flat.reshape(stored.shape)


def begin_worker(parent: int) -> None:
    """Makes this process one that leaves Ctrl-C to its parent, the process `parent`, and dies with
    it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    with contextlib.suppress(OSError, AttributeError):  # Linux: PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:  # it died before it was watched
        os._exit(1)


def running() -> bool:
    """Whether there are reader processes."""
    return bool(_READERS)


def results(jobs: Iterable[tuple]) -> Iterator:
    """task(*job) of every job, in order, made ahead by the readers.

    A reader is sent a job only when it has answered the one before: then it is listening, and
    neither side can wait for the other to empty a full pipe.

    Raises:
      RuntimeError: a reader process has died. What `task` raises is raised here.
    """
    call, jobs, answers = next(_CALLS), iter(jobs), {}
    asked = given = 0
    job = next(jobs, None)
    while job is not None or given < asked:
        for reader in _READERS:
            idle = reader.pipe not in _BUSY
            if idle and job is not None and asked - given < AHEAD * len(_READERS):
                _send(reader.pipe, (call, asked, job))
                asked += 1
                job = next(jobs, None)
        if given in answers:
            example, error = answers.pop(given)
            given += 1
            if error is not None:
                raise error from RuntimeError(example)  # the traceback in the reader
            yield example
        else:
            answers.update(_received(call))


def _send(pipe, question):
    try:
        pipe.send(question)
    except OSError:
        raise RuntimeError(DEAD) from None
    _BUSY.add(pipe)


def _received(call):
    """{number of the job: (example, error)} that readers have sent, waiting for at least one;
    answers to an earlier call of results() are dropped."""
    found, memories = {}, {reader.pipe: reader.memory for reader in _READERS}
    for pipe in connection.wait(list(memories)):
        try:
            of_call, number, example, error = pipe.recv()
        except (EOFError, OSError):
            raise RuntimeError(DEAD) from None
        if of_call == call:
            found[number] = _load(example, memories[pipe]), error
        _BUSY.discard(pipe)
    return found


def batches(examples: Iterable[tuple], size: int) -> Iterator[tuple]:
    """Batches of `size` examples, tuples of dicts of arrays, as such tuples with one more dimension
    in front; what is left at the end is dropped."""
    examples = iter(examples)
    while True:
        batch = None
        for i, example in enumerate(itertools.islice(examples, size)):
            batch = batch or _empty_batch(example, size)
            for arrays, part in zip(batch, example):
                for key, array in part.items():
                    arrays[key][i] = array
        if batch is None or i < size - 1:
            return
        yield batch


def _empty_batch(example, size):
    return tuple(
        {
            key: np.empty((size, *np.shape(array)), np.asarray(array).dtype)
            for key, array in part.items()
        }
        for part in example
    )


def free_memory() -> int | None:
    """Bytes of memory that a process can take before others are swapped out; None where the system
    does not say (it is Linux that does)."""
    with contextlib.suppress(OSError, ValueError, IndexError), open('/proc/meminfo') as f:
        for line in f:
            if line.startswith('MemAvailable:'):
                return int(line.split()[1]) * 1024
    return None


def run_queue(jobs: list[tuple], devices: list[str]) -> list[int]:
    """Runs commands, one process on each device at a time; returns their exit statuses.

    Args:
      jobs: [(command, log file)]; the process writes there and has ASCEND_DEVICE_ID of its device.
        A command that cannot be started has status 127, its log the reason.
      devices: ids.

    Raises:
      Whatever interrupts it, such as KeyboardInterrupt, after the commands that ran have been
      ended; no other is started.
    """
    statuses, waiting, children = [None] * len(jobs), collections.deque(range(len(jobs))), {}
    try:
        while waiting or children:
            for device in devices:
                if device not in children and waiting:
                    i = waiting.popleft()
                    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
                    try:  # a signal waits until the command is in `children`, where it is ended
                        child = _start(*jobs[i], device)
                        if child:
                            children[device] = (i, child)
                        else:
                            statuses[i] = 127
                    finally:
                        signal.pthread_sigmask(signal.SIG_SETMASK, before)
            time.sleep(0.05)
            for device, (i, child) in list(children.items()):
                if child.poll() is not None:
                    statuses[i] = child.returncode
                    del children[device]
    finally:
        _end([child for _, child in children.values()])
    return statuses


def _start(command, log_path, device):
    environment = dict(os.environ, ASCEND_DEVICE_ID=device, RANK_ID='0', RANK_SIZE='1')
    with open(log_path, 'a') as log:
        print(f'device {device}: {os.path.basename(log_path)} begins', flush=True)
        try:
            return subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, preexec_fn=_take_signals
            )
        except OSError as error:
            log.write(f'{command[0]} cannot be started: {error}\n')
    return None


def _take_signals():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _end(children):
    for child in children:
        child.terminate()
    end = time.monotonic() + GRACE
    for child in children:
        try:
            child.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
