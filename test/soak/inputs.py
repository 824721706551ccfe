"""Damages files of every format that is read, in thousands of ways, and reads them.

    python test/soak/inputs.py --cases=10000 --seed=1 [--formats=image,coco]
    python test/soak/inputs.py --only=coco:17 --seed=1          # one case, with its traceback
    python test/soak/inputs.py --again=h5:32:1,mat:3190:3       # format, number and seed of cases

A case is right when it ends, within 10 CPU s and 1 GB over the start, in a result that the format's
oracle accepts, or in one error of a kind that the programs turn into one line (OSError, ValueError,
RuntimeError) that names the file or its folder. All else is a loss: another error, a result that
cannot be, memory, a hang, a process that dies. Prints a JSON line a loss and a format; exit status
1 where there is a loss.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Callable, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'test'), str(ROOT / 'test' / 'soak')]

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import bases  # noqa: E402
import mutations  # noqa: E402

SECONDS, MEMORY = 10, 2**30  # of the processor, bytes: of a case
HANGS = 90  # s of a clock, after which a case does not end: the machine may be shared
CLEAR = (OSError, ValueError, RuntimeError)  # of cli.errors(), without TensorFlow's
OUT_OF_MEMORY = ('MemoryError', 'Unable to allocate', 'std::bad_alloc', 'Insufficient memory')
STARTING = 120  # s, until a process has imported TensorFlow


class Format(NamedTuple):
    """A format that is read.

    make: function of a folder that writes whole files, gives their paths.
    read: function of (path, damaged) that reads one and raises Wrong where the result cannot be.
    damages: functions (bytes, draw) -> bytes, one of which is taken.
    heavy: whether the reader needs TensorFlow.
    """

    make: Callable
    read: Callable
    damages: tuple
    heavy: bool = False


def formats() -> dict:
    """{name: Format}."""
    b, m = bases, mutations
    found = {}
    for name, make, read, *damages in (
        ('image', b.make_images, b.read_image, m.damage_bytes),
        ('image_png', b.make_png_images, b.read_checked_image, m.damage_bytes),
        ('image_png_inside', b.make_png_images, b.read_image, m.damage_png),
        ('mask_png', b.make_masks, b.read_mask, m.damage_bytes),
        ('mask_png_inside', b.make_masks, b.read_mask_inside, m.damage_png),
        ('mp4', b.make_video, b.read_video, m.damage_bytes),
        ('coco', b.make_coco, b.read_coco, m.damage_json),
        ('youtube_vos', b.make_youtube_vos, b.read_youtube_vos, m.damage_json),
        ('vot_json', b.make_vot_json, b.read_vot, m.damage_json),
        ('vot_truth', b.make_vot_truth, b.read_vot, m.damage_lines),
        ('vot_run', b.make_vot_run, b.read_vot_run, m.damage_lines),
        ('scribbles', b.make_scribbles, b.read_scribbles, m.damage_json),
        ('davis_list', b.make_davis_list, b.read_davis_list, m.damage_lines),
        ('pth_zip', b.make_pth_zip, b.read_checked_arrays, m.damage_bytes),
        ('pth_zip_inside', b.make_pth_zip, b.read_arrays, m.damage_zip),
        ('pth_legacy', b.make_pth_legacy, b.read_arrays, m.damage_bytes),
        ('pkl', b.make_pkl, b.read_arrays, m.damage_bytes),
        ('pdparams', b.make_pdparams, b.read_arrays, m.damage_bytes),
        ('mat', b.make_mat, b.read_arrays, m.damage_bytes),
        ('npz', b.make_npz, b.read_checked_arrays, m.damage_bytes),
        ('npz_inside', b.make_npz, b.read_arrays, m.damage_zip),
        ('npy', b.make_npy, b.read_arrays, m.damage_bytes),
        ('h5', b.make_h5, b.read_arrays, m.damage_bytes),
        ('mindspore', b.make_mindspore, b.read_arrays, m.damage_bytes),
        ('checkpoint_file', b.make_checkpoint_file, b.read_checkpoint_file, m.damage_lines),
        ('plain_json', b.make_plain_json, b.read_plain_json, m.damage_json),
    ):
        found[name] = Format(make, read, tuple(damages))
    for name, make, read, *damages in (
        ('tensorflow', b.make_checkpoint, b.read_checked_arrays, m.damage_bytes),
        ('tensorflow_v1', b.make_checkpoint_v1, b.read_arrays, m.damage_bytes),
        ('config', b.make_config, b.read_config, m.damage_json),
        ('siammask_config', b.make_siammask_config, b.read_siammask_config, m.damage_json),
        ('colornet_config', b.make_colornet_config, b.read_colornet_config, m.damage_json),
        ('colornet_yaml', b.make_yaml, b.read_yaml, m.damage_lines),
        ('colornet_list', b.make_colornet_list, b.read_colornet_list, m.damage_lines),
        ('infer_list', b.make_infer_list, b.read_infer_list, m.damage_lines),
        ('online_rates', b.make_rates, b.read_rates, m.damage_json),
        ('instances', b.make_instances, b.read_instances, m.damage_json),
        ('crops', b.make_crops, b.read_crops, m.damage_json),
        ('imagenet_xml', b.make_xml, b.read_xml, m.damage_lines),
        ('manet_state', b.make_state, b.read_state, m.damage_bytes),
        ('manet_state_inside', b.make_state, b.read_state, m.damage_zip),
    ):
        found[name] = Format(make, read, tuple(damages), heavy=True)
    return found


FORMATS = formats()


def run_case(name: str, paths: list, seed: int, number: int) -> str:
    """'right' or 'refused'; raises what a loss raises."""
    form, draw = FORMATS[name], random.Random(f'{seed} {name} {number}')
    path = draw.choice(paths)
    whole = Path(path).read_bytes()
    damaged = b''
    try:
        damaged = draw.choice(form.damages)(whole, draw)
        Path(path).write_bytes(damaged)
        form.read(path, damaged != whole)
        return 'right'
    except bases.Wrong:
        raise
    except CLEAR as error:
        text = str(error)
        if any(sign in text for sign in OUT_OF_MEMORY):
            raise MemoryError(text) from error
        tree = f'{os.sep}{name}{os.sep}'  # of the format's files
        if not any(place in text for place in (Path(path).name, str(Path(path).parent), tree)):
            raise bases.Wrong(f'the error does not name {path}: {text}') from error
        if len(text) > 4000:
            raise bases.Wrong(f'an error of {len(text)} characters') from error
        return 'refused'
    finally:
        Path(path).write_bytes(whole)


def memory_limit() -> None:
    """Limits this process to MEMORY over what it has now."""
    with open('/proc/self/statm') as f:
        now = int(f.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, resource.RLIM_INFINITY))


def work(pipe, names: list, folder: str, jobs: list) -> None:
    """Runs [(format, number, seed)], sends ('begin', *job) and ('end', verdict, text, seconds)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(os.open(os.path.join(folder, 'stderr.txt'), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    os.dup2(2, 1)  # OpenCV, ffmpeg and libjpeg have much to say
    paths = {}
    for name in names:
        own = os.path.join(folder, name)
        shutil.rmtree(own, ignore_errors=True)
        os.makedirs(own)
        paths[name] = FORMATS[name].make(own)
        for path in paths[name]:  # what is whole is read, and imports what it needs
            FORMATS[name].read(path, False)
    memory_limit()
    pipe.send(('ready',))
    for name, number, seed in jobs:
        pipe.send(('begin', name, number, seed))
        begin = time.process_time()
        try:
            verdict, text = run_case(name, paths[name], seed, number), ''
        except bases.Wrong as error:
            verdict, text = 'wrong', str(error)[:2000]
        except MemoryError as error:
            verdict, text = 'memory', repr(error)[:500] + traceback.format_exc()[-700:]
        except Exception as error:
            verdict, text = 'traceback', repr(error)[:500] + traceback.format_exc()[-700:]
        pipe.send(('end', verdict, text, time.process_time() - begin))
    pipe.send(('done',))


def run(jobs: list, folder: str, say: Callable) -> dict:
    """{format: counts} of cases [(format, number, seed)]; each loss is given to `say`."""
    names = list(dict.fromkeys(name for name, _, _ in jobs))
    counts = {name: dict(cases=0, right=0, refused=0, lost=0, seconds=0.0) for name in names}
    context = multiprocessing.get_context('fork')
    while jobs:
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, names, folder, jobs))
        process.start()
        theirs.close()
        current, verdict = None, 'died'
        while True:
            if not ours.poll(HANGS if current else STARTING):
                verdict = 'hang'
                break
            try:
                kind, *message = ours.recv()
            except EOFError:
                break
            if kind == 'begin':
                current = tuple(message)
            elif kind == 'end':
                jobs = jobs[1:]
                _count(counts, current, *message, say)
            elif kind == 'done':
                verdict = None
                break
        if verdict:
            process.kill()
        process.join()
        ours.close()
        if verdict and not current:
            text = Path(folder, 'stderr.txt').read_text(errors='replace')[-2000:]
            raise RuntimeError(f'the whole files of {names} cannot be read:\n{text}')
        if verdict:
            jobs = jobs[1:]
            text = f'exit status {process.exitcode}'
            _count(counts, current, verdict, text, 0.0, say)
    return counts


def _count(counts, case, verdict, text, seconds, say):
    name, number, seed = case
    row = counts[name]
    row['cases'] += 1
    row['seconds'] += seconds
    if verdict in ('right', 'refused') and seconds < SECONDS:
        row[verdict] += 1
        return
    row['lost'] += 1
    loss = {'loss': f'{name}:{number}:{seed}', 'kind': verdict, 'text': text}
    say({**loss, 'seconds': round(seconds, 1)})


def main(argv=None) -> int:
    """Runs the cases; exit status 1 where one is lost."""
    flags = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    flags.add_argument('--cases', type=int, default=10000, help='in all')
    flags.add_argument('--seed', type=int, default=0)
    flags.add_argument('--formats', default=','.join(FORMATS), help='a,b; default: all')
    flags.add_argument('--light', action='store_true', help='those that need no TensorFlow')
    flags.add_argument('--only', help='format:number, one case in this process')
    flags.add_argument('--again', help='format:number:seed,... of cases')
    args = flags.parse_args(argv)
    say = functools.partial(print, flush=True)
    names = [n for n in args.formats.split(',') if not (args.light and FORMATS[n].heavy)]
    with tempfile.TemporaryDirectory() as folder:
        if args.only:
            name, number = args.only.split(':')
            print(run_case(name, FORMATS[name].make(folder), args.seed, int(number)))
            return 0
        each = -(-args.cases // len(names))
        jobs = [(name, number, args.seed) for name in names for number in range(each)]
        if args.again:
            jobs = [text.split(':') for text in args.again.split(',')]
            jobs = [(name, int(number), int(seed)) for name, number, seed in jobs]
        lost = 0
        for heavy in (False, True):
            group = [job for job in jobs if FORMATS[job[0]].heavy == heavy]
            rows = run(group, folder, lambda row: say(json.dumps(row)))
            for name, row in rows.items():
                row['seconds'] = round(row['seconds'], 1)
                say(json.dumps({'format': name, **row}))
                lost += row['lost']
    say(json.dumps({'cases': len(jobs), 'lost': lost, 'seed': args.seed}))
    return 1 if lost else 0


if __name__ == '__main__':
    sys.exit(main())
