"""Reader processes: examples made in parallel, handed out in the order asked for.

Threads would wait for each other: Python code and much of OpenCV's and Pillow's small calls hold
the interpreter. One set of readers a process.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator

import cv2

WAIT = 300  # s for one example, before a reader process counts as dead
_TASK, _POOL, _COUNT = None, None, 0  # of this process and the readers forked from it
_WAITING = deque()  # examples asked of them, in order


@contextlib.contextmanager
def readers(task, count: int):
    """`count` processes for results(); none with 0.

    They are forked, which shares with them whatever `task` refers to; so enter before the first
    session, whose threads do not outlive a fork.

    Args:
      task: function of what results() is given; that and what it returns are pickled.
    """
    global _TASK, _POOL, _COUNT
    _TASK, _COUNT = task, count
    cv2.setNumThreads(1)
    if count:
        _POOL = multiprocessing.get_context('fork').Pool(count, _die_with_parent)
    try:
        yield
    finally:
        if _POOL and _WAITING:
            _WAITING[-1].wait(WAIT)  # terminate() waits for ever for a process that is writing
        if _POOL and all(example.ready() for example in _WAITING):
            _POOL.terminate()
        elif _POOL:  # or for one that is dead: the others die with this process
            _POOL._terminate.cancel()
        _TASK, _POOL, _COUNT = None, None, 0


def _die_with_parent():
    with contextlib.suppress(OSError, AttributeError):  # Linux: PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _run(job):
    return _TASK(*job)


def running() -> bool:
    """Whether there are reader processes."""
    return _POOL is not None


def results(jobs: Iterable[tuple]) -> Iterator:
    """task(*job) of every job, in order, made ahead by the readers; RuntimeError where one is dead.

    What `task` raises is raised here.
    """
    _WAITING.clear()  # of an earlier call
    for job in jobs:
        _WAITING.append(_POOL.apply_async(_run, (job,)))
        if len(_WAITING) > 8 * _COUNT:
            yield _next()
    while _WAITING:
        yield _next()


def _next():
    _WAITING[0].wait(WAIT)
    if not _WAITING[0].ready():
        raise RuntimeError(f'a reader process gave no example in {WAIT} s: out of memory?')
    return _WAITING.popleft().get()
