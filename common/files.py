"""Files that are never half written, names in the order people count in, and what a result was made
from.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
import secrets
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator

LONGEST_NAME = 255  # bytes of a file's name, on all usual file systems
SAMPLE = 2**20  # bytes that fingerprint() reads at each end of a file
SLOW = 60  # s after which a file that is still being read is named

_READS = {}  # {thread: (path, when its reading began)} of this process


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Yields a temporary path beside `path` and moves it there at the end; on an error it is
    removed and `path` stays as it was.

    The name is random, because several ranks and hosts may write into one folder; hidden, so that
    what a killed program leaves is taken for no frame; and it keeps the ending, by which some
    writers choose a format.
    """
    folder, name = os.path.split(path)
    ending = os.path.splitext(name)[1]
    temporary = os.path.join(folder, f'.{name}.{secrets.token_hex(8)}.tmp{ending}')
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Waits until no other process is inside for this path, a file that is made; a process that
    dies leaves it. On a file system without locks nothing is waited for."""
    with open(path, 'w') as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Around the reading of a file of a data set: names it on standard error where that takes
    longer than SLOW seconds, as on a network drive that has gone."""
    _watch_reads(os.getpid())
    _READS[threading.get_ident()] = (path, time.monotonic())
    try:
        yield
    finally:
        _READS.pop(threading.get_ident(), None)


@functools.lru_cache(maxsize=None)
def _watch_reads(process):
    """Starts the watch of this process; a fork has the reads of its parent, but not its threads."""
    _READS.clear()
    threading.Thread(target=_name_slow_reads, daemon=True).start()


def _name_slow_reads():
    named = set()
    while True:
        time.sleep(SLOW / 4)
        slow = {read for read in list(_READS.values()) if time.monotonic() - read[1] > SLOW}
        for path, begin in slow - named:
            seconds = time.monotonic() - begin
            print(
                f'{os.path.abspath(path)} has been read for {seconds:.0f} s and is not read yet: '
                'does its drive answer?',
                file=sys.stderr,
                flush=True,
            )
        named = slow


def write_text(path: str, text: str) -> None:
    """Replaces `path` by a file that holds `text`."""
    with replacing(path) as temporary, open(temporary, 'w', encoding='utf-8') as f:
        f.write(text)


def stem(path: str) -> str:
    """File name without its ending."""
    return os.path.splitext(os.path.basename(path))[0]


def naturally_sorted(names: Iterable[str]) -> list[str]:
    """The names with the numbers in them in numeric order: 1.png, 2.png, 10.png."""

    def key(name):
        parts = re.split(r'([0-9]+)', name)  # text, number, text, ...
        parts[1::2] = map(int, parts[1::2])
        return parts, name

    return sorted(names, key=key)


def split_names(text: str | None) -> list[str]:
    """The names of a flag such as --sequences=a,b, each once; [] of an empty one."""
    names = [name.strip() for name in (text or '').split(',')]
    return list(dict.fromkeys(name for name in names if name))


def read_lines(path: str) -> list[str]:
    """The lines of a text that are not empty, without what surrounds them. Bytes that are no UTF-8
    stay as they are, because names of files may have them.

    Raises:
      FileNotFoundError: no such file. ValueError: a byte 0, as of no text.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f'no such file: {os.path.abspath(path)}')
    with open(path, encoding='utf-8', errors='surrogateescape') as f:
        text = f.read()
    if '\0' in text:
        raise ValueError(f'{os.path.abspath(path)} is no text')
    return [line.strip() for line in text.split('\n') if line.strip()]


def plain_name(name, source: str) -> str:
    """`name`, the name of one file or folder.

    Args:
      name: that a list or a flag has, which may be a stranger's.
      source: of the name, for the message: a path or a flag.

    Raises:
      ValueError: no text, or it would lead to another folder.
    """
    if not isinstance(name, str) or name in ('', '.', '..') or re.search('[/\0]', name):
        raise ValueError(f'{source}: {str(name)[:60]!r} is no name of a folder or file')
    if len(os.fsencode(name)) > LONGEST_NAME:
        raise ValueError(f'{source}: a name of {len(name)} characters: {name[:60]!r}...')
    return name


def path_inside(path, source: str) -> str:
    """`path`, below the folder that a list is of; leading slashes are left out.

    Raises:
      ValueError: as plain_name(), of any part.
    """
    if not isinstance(path, str):
        raise ValueError(f'{source}: {str(path)[:60]!r} is no path')
    parts = [part for part in path.split('/') if part not in ('', '.')]
    if not parts:
        raise ValueError(f'{source}: {path[:60]!r} is no path')
    return '/'.join(plain_name(part, source) for part in parts)


def is_number(value, low: float, high: float, kind: type = float) -> bool:
    """Whether a value of a JSON file is a number in low .. high; `kind` int: a whole one."""
    kinds = (int,) if kind is int else (int, float)
    return type(value) in kinds and low <= value <= high


def listed(folder: str, endings: tuple[str, ...]) -> list[str]:
    """Paths of the files of `folder` with one of the endings, in natural order, without hidden
    ones such as the `._00000.png` that macOS leaves beside a copied file.

    Raises:
      ValueError: two files differ in their endings alone, so that their results would be one.
    """
    visible = [name for name in os.listdir(folder) if not name.startswith('.')]
    names = naturally_sorted(name for name in visible if name.lower().endswith(endings))
    seen = {}
    for name in names:
        other = seen.setdefault(os.path.splitext(name)[0], name)
        if other != name:
            raise ValueError(
                f'{os.path.abspath(folder)} has {other} and {name}: their results would have the '
                'same name; move one of them away'
            )
    return [os.path.join(folder, name) for name in names]


def fingerprint(path: str) -> str:
    """Short hash of what a file, or a folder of files, holds: sizes, and of each file its first and
    last megabyte. The path is not part of it, so that moved data are the same.

    Raises:
      FileNotFoundError: nothing there.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f'no such file: {os.path.abspath(path)}')
    digest = hashlib.sha256()
    paths = [path]
    if os.path.isdir(path):
        names = sorted(name for name in os.listdir(path) if not name.startswith('.'))
        paths = [os.path.join(path, name) for name in names]
        digest.update('\n'.join(names).encode(errors='surrogateescape'))
    for each in filter(os.path.isfile, paths):
        size = os.path.getsize(each)
        digest.update(str(size).encode())
        with open(each, 'rb') as f:
            digest.update(f.read(SAMPLE))
            f.seek(max(0, size - SAMPLE))
            digest.update(f.read(SAMPLE))
    return digest.hexdigest()[:16]


def claim(folder: str, facts: dict) -> None:
    """Notes in `folder` what its results are made from, before the first is written; a folder with
    a checkpoint must have such a note.

    Args:
      folder: made if it is not there; made_from.json in it holds the facts.
      facts: plain values: fingerprints of inputs and weights, settings.

    Raises:
      ValueError: the folder holds results made from something else: what differs, and what to do.
    """
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, 'made_from.json')
    facts = json.loads(json.dumps(facts))
    if os.path.isfile(path):
        found = read_json(path)
        if not isinstance(found, dict):
            raise ValueError(f'{os.path.abspath(path)} is damaged: expected a JSON object')
    elif os.path.isfile(os.path.join(folder, 'checkpoint')):
        found = {}
    else:
        write_text(path, json.dumps(facts, indent=1, sort_keys=True))
        return
    changed = sorted(k for k in {*facts, *found} if facts.get(k) != found.get(k))
    if changed:
        rows = [f'{key}: {found.get(key)!r} there, {facts.get(key)!r} now' for key in changed]
        raise ValueError(
            f'{os.path.abspath(folder)} holds results of something else ({"; ".join(rows)}). '
            'Choose another --output_path, or move the folder away'
        )


def commit(folder: str) -> str:
    """The commit of the repository that `folder` is in, '' where it is in none."""
    command = ['git', '-C', folder, 'rev-parse', 'HEAD']
    try:
        found = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
        )
    except OSError:  # no git
        return ''
    return found.stdout.decode().strip()


def made_with(settings: dict | None = None) -> dict:
    """What results.json says beside the scores: config (the plain ones of the settings), versions,
    command, commit and time."""
    modules = {'numpy': 'numpy', 'opencv': 'cv2', 'tensorflow': 'tensorflow'}
    versions = {name: sys.modules[m].__version__ for name, m in modules.items() if m in sys.modules}
    settings = settings or {}
    return {
        'config': {key: value for key, value in settings.items() if _is_plain(value)},
        'versions': {'python': sys.version.split()[0], **versions},
        'command': sys.argv,
        'commit': commit(os.path.dirname(os.path.abspath(__file__))),
        'time': time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime()),
    }


def _is_plain(value):
    if isinstance(value, (list, tuple)):
        return all(isinstance(item, (str, int, float)) for item in value)
    return value is None or isinstance(value, (str, int, float))


def command_text(command: list[str]) -> str:
    """sys.argv as it was typed: a module of this project as `python -m OSVOS.evaluate`."""
    if not command:
        return ''
    program, *flags = command
    start, ending = os.path.splitext(os.path.abspath(program))
    if ending == '.py':
        parts = start.split(os.sep)[-2:]
        program = f'python -m {".".join(part for part in parts if part != "__main__")}'
    else:
        program = shlex.quote(os.path.basename(program))
    return ' '.join([program, *map(shlex.quote, flags)])


def read_json(path: str):
    """What a JSON file holds.

    Raises:
      FileNotFoundError: no such file. ValueError: no JSON, with the place of the first fault.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f'no such file: {os.path.abspath(path)}')
    with open(path, encoding='utf-8') as f:
        try:
            return json.load(f)
        except (ValueError, RecursionError) as error:
            raise ValueError(f'{os.path.abspath(path)} is no JSON: {error}') from None
