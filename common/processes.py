"""Reader processes that make examples in parallel and in order, and a queue of commands over
devices.

Examples are made in processes where Python and many small calls of OpenCV or Pillow do the work,
which hold the interpreter; in threads (tf.data's own) where one long call of OpenCV does it.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import multiprocessing
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor

import cv2

AHEAD = 8  # examples that are asked of each reader in advance
_POOL = None  # the readers of this process
_TASK = None  # what they run, inherited by the fork


@contextlib.contextmanager
def readers(task, count: int) -> Iterator[None]:
    """`count` processes for results(); none with 0.

    They are forked, which shares with them whatever `task` refers to; so enter before the first
    session, whose threads do not outlive a fork.

    Args:
      task: function of what results() is given; that and what it returns are pickled.
      count: processes.
    """
    global _TASK, _POOL
    _TASK = task
    cv2.setNumThreads(1)
    if count:
        fork = multiprocessing.get_context('fork')
        _POOL = ProcessPoolExecutor(count, fork, _begin_reader)
        _POOL.submit(os.getpid).result()  # forks all of them now, before there are threads
    try:
        yield
    finally:
        if _POOL:
            processes = list((_POOL._processes or {}).values())
            _POOL.shutdown(wait=False)
            for process in processes:  # what they were asked in advance is not wanted
                process.terminate()
        _TASK = _POOL = None


def _begin_reader():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent ends the readers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(OSError, AttributeError):  # Linux: PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _run(job):
    return _TASK(*job)


def running() -> bool:
    """Whether there are reader processes."""
    return _POOL is not None


def results(jobs: Iterable[tuple]) -> Iterator:
    """task(*job) of every job, in order, made ahead by the readers.

    Raises:
      RuntimeError: a reader process has died. What `task` raises is raised here.
    """
    waiting = collections.deque()
    try:
        for job in jobs:
            waiting.append(_POOL.submit(_run, job))
            if len(waiting) > AHEAD * _POOL._max_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise RuntimeError(
            'a reader process has died: out of memory? Fewer --set=workers=... take less'
        ) from None
    finally:
        for example in waiting:
            example.cancel()


def run_queue(jobs: list[tuple], devices: list[str]) -> list[int]:
    """Runs commands, one process on each device at a time; returns their exit statuses.

    Args:
      jobs: [(command, log file)]; the process writes there and has ASCEND_DEVICE_ID of its device.
      devices: ids.

    Raises:
      KeyboardInterrupt: as it came, after the commands that ran have been ended.
    """
    waiting, results = queue.Queue(), [1] * len(jobs)
    for i in range(len(jobs)):
        waiting.put(i)
    children, stopped = set(), threading.Event()

    def work(device):
        environment = dict(os.environ, ASCEND_DEVICE_ID=device, RANK_ID='0', RANK_SIZE='1')
        while not stopped.is_set():
            try:
                i = waiting.get_nowait()
            except queue.Empty:
                return
            command, log_path = jobs[i]
            print(f'device {device}: {os.path.basename(log_path)} begins', flush=True)
            with open(log_path, 'a') as log:
                child = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
                children.add(child)
                if stopped.is_set():  # while it was started
                    child.terminate()
                results[i] = child.wait()
                children.discard(child)

    threads = [threading.Thread(target=work, args=(device,), daemon=True) for device in devices]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(1)  # a join without end would not see a signal
    except BaseException:
        stopped.set()
        for child in list(children):
            child.terminate()
        for thread in threads:
            thread.join(10)
        for child in list(children):  # was asked to end, and did not
            child.kill()
        raise
    return results
