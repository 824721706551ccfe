"""Kills programs at random moments, and looks at what is left and at how they go on.

    python test/soak/crash.py --kills=40 --seed=1 [--tasks=OSVOS.convert,SiamMask.prepare]

Every program is run once undisturbed on one processor. Then it is started anew and stopped by
SIGKILL, SIGTERM, SIGINT, or a limit on the size of files, as of a full disk, when a random number
of changes was seen in its output folder. After that no file may be half written, the newest
checkpoint must be readable, and the exit status and message those of the signal or the fault; the
same command, given again, must end with status 0 and with the very files of the undisturbed run:
the same masks, scores and crops, and the same weights to the bit. Trainings go through the shell
wrappers.

Prints a JSON line a kill that lost something, and one a program with its counts; exit status 1
where something was lost. `exact` says whether two undisturbed trainings have equal weights: where
TensorFlow does not allow it, steps are compared alone.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'test')]
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

MODELS = ('OSVOS', 'OSMN', 'SiamMask', 'ColorNet', 'MANet')
WAYS = ('SIGKILL', 'SIGTERM', 'SIGINT', 'full disk')
STATUS = {  # as a shell sees them: -15 is 143, of a program that has done its work and leaves
    'SIGKILL': (-9,), 'SIGTERM': (143, -15), 'SIGINT': (130, -2), 'full disk': (1,),
}  # fmt: skip
LIMIT = 900  # s of a run: the machine may be shared
VOLATILE = (  # names of files with times, or that tell how a run went
    '.lock', 'checkpoint', 'graph.pbtxt', 'speed.json', 'events.out', 'session.json',
    'kernel_cache', '.log', 'result.csv', 'rounds.csv', 'summary.json', 'curve.png', '.mp4',
    'finished', 'loss.txt', '.meta', 'old.', 'shard',
)  # fmt: skip
NARROW = {
    'OSVOS': 'height=36 width=64 channels=0.07 log_steps=1 checkpoint_steps=2 online_steps=4',
    'OSMN': 'height=48 width=64 guide_size=32 channels=0.07 log_steps=1 checkpoint_steps=2 '
    'test_height=48 test_width=80 online_steps=4 workers=1',
    'SiamMask': 'channels=0.1 log_steps=1 checkpoint_steps=2 workers=1',
    'ColorNet': 'channels=0.05 size=64 video_len=2 log_steps=1 checkpoint_steps=2 workers=0 '
    'test_height=48 test_width=80 radius=4.0',
    'MANet': 'channels=0.05 blocks=[1,1,1,1] size=32 max_distance=2 stage1_steps=4 cycle=4 '
    'log_steps=1 checkpoint_steps=2 workers=0 test_height=48 test_width=80 interactions=2',
}  # settings of trainings that take seconds
DATA = {
    'OSVOS': 'DAVIS', 'OSMN': 'coco', 'SiamMask': '', 'ColorNet': 'YouTubeVOS',
    'MANet': 'DAVIS2017',
}  # fmt: skip


class Task(NamedTuple):
    """A program with its flags; {out} stands for its output folder.

    command: words. trains: whether checkpoints are what it makes, by updates.
    """

    command: list
    trains: bool = False


def settings(model: str) -> list[str]:
    """--set flags of a model's short training."""
    return [f'--set={text}' for text in NARROW[model].split()]


def tasks(work: str) -> dict:
    """{name: Task} of the five networks; data and sources are in the folder `work`."""
    found, python = {}, [sys.executable, '-m']
    data = os.path.join(work, 'data')
    clip, mask = os.path.join(work, 'clip'), os.path.join(work, 'mask.png')
    found['OSVOS.convert'] = Task(
        [*python, 'OSVOS.convert', f'--source={work}/slim.npz', '--output={out}/model.ckpt']
    )
    found['SiamMask.prepare'] = Task(
        [*python, 'SiamMask.prepare', f'--data_path={data}', '--output_path={out}', '--workers=2',
         '--sets=coco,davis']
    )  # fmt: skip
    for model in MODELS:
        common = ['--device=cpu', '--output_path={out}']
        found[f'{model}.export'] = Task([*python, f'{model}.export', *common])
        given = ['--box=20,10,30,25'] if model == 'SiamMask' else [f'--mask={mask}']
        more = ['--online_steps=4', '--set=height=48'] if model == 'OSVOS' else []
        found[f'{model}.demo'] = Task([
            *python, f'{model}.demo', f'--input={clip}', *given, *common, *more
        ])  # fmt: skip
        tree = os.path.join(data, 'DAVIS2017' if model == 'MANet' else 'DAVIS')
        more = ['--set=test_height=48'] if model in ('OSMN', 'ColorNet', 'MANet') else []
        more += ['--save_masks', '--set=interactions=2'] if model == 'MANet' else []
        more += ['--dataset=davis'] if model == 'SiamMask' else []
        name = 'drawn-y' if model == 'MANet' else 'drawn-g'
        found[f'{model}.evaluate'] = Task([
            *python, f'{model}.evaluate', f'--data_path={tree}', *common, *more,
            f'--sequences={sequence(tree, name)}',
        ])  # fmt: skip
        wrapper = ['bash', str(ROOT / model / 'test' / 'train_performance_1p.sh')]
        found[f'{model}.train'] = Task([
            *wrapper, '--preset=smoke', f'--data_path={os.path.join(data, DATA[model])}', *common,
            '--result_path={out}/result', '--steps=8', '--batch_size=2', *settings(model),
        ], trains=True)  # fmt: skip
    for model in ('OSVOS', 'OSMN'):
        tree = os.path.join(data, 'DAVIS')
        more = [f'--set={text}' for text in ('height=48', 'test_height=48') if model == 'OSMN']
        found[f'{model}.online'] = Task([
            *python, f'{model}.online', f'--data_path={tree}', '--output_path={out}',
            '--device=cpu', '--online_steps=4', f'--sequences={sequence(tree, "")}', *more,
        ], trains=True)  # fmt: skip
    return found


def sequence(tree: str, wanted: str) -> str:
    """`wanted`, or the last sequence of a tree."""
    names = sorted(os.listdir(os.path.join(tree, 'JPEGImages', '480p')))
    return wanted if wanted in names else names[-1]


def make_data(work: str) -> None:
    """Draws the data sets, a clip of 6 frames, its mask, and weights to convert."""
    import cv2
    import numpy as np
    import sample_data

    from common import masks

    sets = 'davis', 'davis2017', 'youtube_vos', 'coco'
    sample_data.draw(os.path.join(work, 'data'), sets)
    draw = np.random.RandomState(0)
    image = cv2.resize(draw.randint(0, 255, (9, 16, 3)).astype(np.uint8), (80, 48))
    os.makedirs(os.path.join(work, 'clip'))
    for t in range(6):
        path = os.path.join(work, 'clip', f'{t:05d}.png')
        masks.write_image(path, np.roll(image, t, 1))
    ids = np.zeros((48, 80), np.uint8)
    ids[8:36, 15:55] = 1
    masks.write_mask(os.path.join(work, 'mask.png'), ids)
    arrays, before = {}, 3
    for group, (count, channels) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), 1):
        for number in range(1, count + 1):
            name = f'vgg_16/conv{group}/conv{group}_{number}'
            shape = 3, 3, before, channels
            arrays[f'{name}/weights'] = draw.standard_normal(shape).astype(np.float32)
            arrays[f'{name}/biases'] = np.zeros(channels, np.float32)
            before = channels
    np.savez(os.path.join(work, 'slim.npz'), **arrays)


# --- runs and what they leave --------------------------------------------------------------------


def start(command: list, log: str, size: int | None = None) -> subprocess.Popen:
    """Starts a command on one processor, in a session of its own, with a limit on files' sizes."""

    def limits():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        if hasattr(os, 'sched_setaffinity'):
            os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
        if size is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does: an error of write()
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    environment = dict(os.environ, PYTHON=sys.executable, PYTHONPATH=str(ROOT))
    environment.update(ASCEND_DEVICE_ID='77', OMP_NUM_THREADS='1', TF_ENABLE_ONEDNN_OPTS='0')
    with open(log, 'wb') as f:
        return subprocess.Popen(
            command, stdout=f, stderr=f, env=environment, cwd=os.path.dirname(log),
            start_new_session=True, preexec_fn=limits,
        )  # fmt: skip


def changes(folder: str) -> set:
    """(path, size, time) of all files below a folder, as it is just now."""
    found = set()
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.stat(os.path.join(place, name))
            except OSError:
                continue
            found.add((os.path.join(place, name), status.st_size, status.st_mtime_ns))
    return found


def weights_of(prefix: str) -> str:
    """Hash of all variables of a checkpoint, the step included."""
    import numpy as np

    from common import weights

    digest = hashlib.sha256()
    for name, array in sorted(weights.read_checkpoint(prefix).items()):
        digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def graph_of(path: str) -> str:
    """Hash of a frozen graph, weights and all."""
    import tensorflow.compat.v1 as tf

    graph = tf.GraphDef.FromString(Path(path).read_bytes())
    for node in graph.node:
        node.attr.pop('_gradient_op_type', None)  # a name with a number that counts on
    nodes = sorted(node.SerializeToString(deterministic=True) for node in graph.node)
    return hashlib.sha256(b''.join(nodes)).hexdigest()[:16]  # their order is of no meaning


def results(out: str) -> dict:
    """{name: hash} of the results below a folder: of files that differ from run to run, what they
    say; of checkpoints, the newest of each folder."""
    found = {}
    for place, folders, names in os.walk(out):
        folders[:] = [name for name in folders if not name.startswith('.')]
        inside = os.path.relpath(place, out)
        if 'checkpoint' in names:
            from common import weights

            prefix = weights.checkpoint_prefix(place)
            found[f'{inside}/{os.path.basename(prefix)}'] = weights_of(prefix)
        for name in names:
            path = os.path.join(place, name)
            if name.startswith('.') or 'model.ckpt' in name or 'saved_model_' in place:
                continue
            if name == 'results.json':
                scores = json.loads(Path(path).read_text())
                found[f'{inside}/{name}'] = repr(scores.get('per_sequence'))
            elif name.endswith('.pb'):
                found[f'{inside}/{name}'] = graph_of(path)
            elif not any(text in name for text in VOLATILE):
                digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
                found[f'{inside}/{name}'] = digest[:16]
    return found


def half_written(out: str) -> list[str]:
    """What is wrong with the files below a folder: every one that can be seen must be whole."""
    import tensorflow.compat.v1 as tf

    from common import masks, weights

    wrong = []
    for place, folders, names in os.walk(out):
        folders[:] = [name for name in folders if not name.startswith('.')]
        if 'checkpoint' in names:
            try:
                weights_of(weights.checkpoint_prefix(place))
            except (OSError, ValueError) as error:
                wrong.append(f'newest checkpoint of {place}: {error}')
        for name in names:
            path = os.path.join(place, name)
            ending = os.path.splitext(name)[1]
            try:
                if name.startswith('.'):
                    continue
                if ending in ('.png', '.jpg'):
                    (masks.read_values if ending == '.png' else masks.read_image)(path)
                elif ending == '.json':
                    json.loads(Path(path).read_text())
                elif ending == '.csv':
                    rows = list(csv.reader(Path(path).read_text().splitlines()))
                    if len({len(row) for row in rows}) != 1:
                        raise ValueError('rows of several lengths, or none')
                elif ending == '.mp4':
                    list(masks.read_frames(path))
                elif ending == '.npz':
                    weights.zipfile.ZipFile(path).testzip()
                elif ending == '.pb' and name != 'saved_model.pb':
                    tf.GraphDef.FromString(Path(path).read_bytes())
            except (OSError, ValueError, RuntimeError) as error:
                if 'colors' not in str(error):  # an image, no mask
                    wrong.append(f'{path}: {error}')
            except Exception as error:  # of protobuf, zipfile
                wrong.append(f'{path}: {error!r}')
    return wrong


def undisturbed(task: Task, out: str, log: str) -> dict:
    """A whole run; {'results', 'changes': number seen, 'largest': bytes of its largest file}."""
    shutil.rmtree(out, ignore_errors=True)
    clear_wrapper(task)
    process, seen = start(words(task, out), log), set()
    end = time.monotonic() + LIMIT
    while process.poll() is None and time.monotonic() < end:
        seen |= changes(out)
        time.sleep(0.005)
    if process.poll() != 0:
        end_session(process)
        raise RuntimeError(f'{words(task, out)}: status {process.returncode}\n{tail(log)}')
    largest = max(size for _, size, _ in seen | changes(out))
    return {'results': results(out), 'changes': len(seen), 'largest': largest}


def words(task: Task, out: str) -> list[str]:
    """The command with its output folder."""
    return [word.replace('{out}', out) for word in task.command]


def clear_wrapper(task: Task) -> None:
    """Removes the wrapper's own folder of device 77, which has a log alone."""
    if task.command[0] == 'bash':
        shutil.rmtree(Path(task.command[1]).parent / 'output' / '77', ignore_errors=True)


def end_session(process) -> None:
    """Kills a process and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tail(log: str) -> str:
    """The end of a log."""
    return Path(log).read_text(errors='replace')[-1500:]


def kill(task: Task, out: str, log: str, whole: dict, draw: random.Random, exact: bool) -> dict:
    """One kill and the run that goes on: {'way', 'after': changes, 'lost': [texts]}."""
    shutil.rmtree(out, ignore_errors=True)
    clear_wrapper(task)
    way, lost = draw.choice(WAYS), []
    size = int(2 ** draw.uniform(6, 1 + len(bin(whole['largest'])) - 3))
    size = size if way == 'full disk' else None
    after = draw.randrange(whole['changes'] + 1)
    process, seen = start(words(task, out), log, size), set()
    end = time.monotonic() + LIMIT
    while process.poll() is None and time.monotonic() < end:
        seen |= changes(out)
        if size is None and len(seen) >= after:
            time.sleep(draw.uniform(0, 0.02))
            if after == 0:  # before the first file, while libraries are imported
                time.sleep(draw.uniform(0, 2))
            if way == 'SIGKILL':
                end_session(process)
            else:
                process.send_signal(getattr(signal, way))
            break
        time.sleep(0.005)
    try:
        process.wait(max(1, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        lost.append(f'does not end after {way}')
    end_session(process)  # what a killed wrapper has left
    text = tail(log)
    early = after == 0 and process.returncode in (-2, -15, 1, 130, 143)  # no handlers yet
    if process.returncode not in (0, *STATUS[way]) and not early:
        lost.append(f'exit status {process.returncode} after {way}: {text}')
    if 'Traceback' in text and not early:
        lost.append(f'a traceback after {way}: {text}')
    lost += half_written(out) if os.path.isdir(out) else []
    again = start(words(task, out), log)
    try:
        again.wait(LIMIT)
    except subprocess.TimeoutExpired:
        lost.append('the same command does not end')
    end_session(again)
    text = tail(log)
    if again.returncode:
        lost.append(f'the same command ends with {again.returncode}: {text}')
    else:
        found = results(out)
        for name in sorted({*found, *whole['results']}):
            ours, theirs = found.get(name), whole['results'].get(name)
            if ours != theirs and (exact or not task.trains or None in (ours, theirs)):
                lost.append(f'{name}: {ours}, of an undisturbed run {theirs}')
    return {'way': way, 'after': after, 'of': whole['changes'], 'size': size, 'lost': lost}


def main(argv=None) -> int:
    """Kills; exit status 1 where something was lost."""
    flags = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    flags.add_argument('--kills', type=int, default=200, help='in all')
    flags.add_argument('--seed', type=int, default=0)
    flags.add_argument('--tasks', help='a,b; default: all')
    args = flags.parse_args(argv)
    failed = 0
    with tempfile.TemporaryDirectory() as work:
        make_data(work)
        known = tasks(work)
        names = args.tasks.split(',') if args.tasks else list(known)
        out, log = os.path.join(work, 'out'), os.path.join(work, 'log.txt')
        share = [len(range(k, args.kills, len(names))) for k in range(len(names))]
        for name, count in zip(names, share):
            if not count:
                continue
            begin, task = time.monotonic(), known[name]
            draw = random.Random(f'{args.seed} {name}')
            whole, exact = undisturbed(task, out, log), True
            if task.trains:
                exact = undisturbed(task, out, log)['results'] == whole['results']
            counts = dict.fromkeys(WAYS, 0)
            losses = 0
            for number in range(count):
                row = kill(task, out, log, whole, draw, exact)
                counts[row['way']] += 1
                if row['lost']:
                    losses += 1
                    print(json.dumps({'loss': f'{name}:{number}', **row}), flush=True)
            clear_wrapper(task)
            row = {'program': name, 'kills': count, 'lost': losses, **counts}
            row.update(files=len(whole['results']), changes=whole['changes'], exact=exact)
            print(json.dumps({**row, 'seconds': round(time.monotonic() - begin)}), flush=True)
            failed += losses
    print(json.dumps({'kills': args.kills, 'lost': failed, 'seed': args.seed}))
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
