"""Long videos, many objects, large frames and long lists: the memory that they take.

    python test/soak/load.py [--frames=2000] [--networks=OSMN,ColorNet]

Each measurement is a process of its own, which prints its peak. For videos, two lengths are run,
and the peak may grow by GROWTH between them, whatever the number of frames; for lists, by BYTES an
entry. Prints a JSON line a measurement; exit status 1 where memory grows.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'test')]

GROWTH = 60e6  # bytes, of allocators that keep what is freed
BYTES = 3000  # of memory an entry of a list: Python's strings, and what is parsed
MOST_4K = 1.2e9  # bytes that one 4K video of 50 objects may take, frames in turn
SHEET = 17  # frames: as many images are kept for the contact sheet, at most
SIZE = (180, 320)  # px
NETWORKS = {  # small heights: what is measured is the growth with the number of frames
    'OSMN': ['--mask={mask}', '--set=test_height=96'],
    'ColorNet': ['--mask={mask}', '--set=test_height=96'],
    'SiamMask': ['--box=100,50,60,60'],
}


def video(folder: str, frames: int, size=SIZE) -> str:
    """An MP4 of a moving texture."""
    import cv2
    import numpy as np

    from common import masks

    path = os.path.join(folder, f'{frames}_{size[0]}.mp4')
    draw = np.random.RandomState(0)
    image = cv2.resize(draw.randint(0, 255, (18, 32, 3)).astype(np.uint8), size[::-1])
    if not os.path.isfile(path):
        masks.write_video(path, (np.roll(image, t % size[1], 1) for t in range(frames)))
    return path


def ids_of(size, objects: int):
    """Ids uint8 [H, W] of vertical bars."""
    import numpy as np

    return np.tile((np.arange(size[1]) * objects // size[1] + 1).astype(np.uint8), (size[0], 1))


def clip(folder: str, frames: int, size=SIZE, objects: int = 2) -> None:
    """Reads a video, writes masks and overlay of as many objects: all that a demo does but the
    network."""
    from common import videos

    path = video(folder, frames, size)
    results = (ids_of(size, objects) for _ in range(frames))
    videos.write_clip(path, results, os.path.join(folder, f'out{frames}_{size[0]}'))


def demo(folder: str, frames: int, model: str) -> None:
    """The demo of a network."""
    import importlib

    from common import masks

    mask = os.path.join(folder, 'mask.png')
    masks.write_mask(mask, ids_of(SIZE, 2))
    flags = [flag.format(mask=mask) for flag in NETWORKS[model]]
    output = os.path.join(folder, f'{model}{frames}')
    program = importlib.import_module(f'{model}.demo')
    flags += [f'--input={video(folder, frames)}', f'--output_path={output}', '--device=cpu']
    if program.main(flags):
        raise RuntimeError(f'{model}.demo failed')


def lists(folder: str, entries: int, kind: str) -> None:
    """Reads a list of as many entries: of COCO, YouTube-VOS, ColorNet, VOT, or one of sequences."""
    from common import coco, files, youtube_vos

    root = os.path.join(folder, f'{kind}{entries}')
    os.makedirs(os.path.join(root, 'annotations'))
    if kind == 'coco':
        images = [dict(id=i, file_name=f'{i}.jpg', height=9, width=9) for i in range(entries)]
        box, shape = [1, 1, 3, 3], [[1, 1, 4, 1, 4, 4]]
        items = [
            dict(id=i, image_id=i, category_id=1, bbox=box, segmentation=shape, area=9)
            for i in range(entries)
        ]
        tree = {'images': images, 'annotations': items, 'categories': []}
        path = os.path.join(root, 'annotations', 'instances_train2017.json')
        files.write_text(path, json.dumps(tree))
        assert len(coco.sequences(root)) == entries
    elif kind == 'youtube_vos':
        entry = {'objects': {'1': {'frames': ['00000']}}}
        tree = {'videos': {f'v{i}': entry for i in range(entries)}}
        files.write_text(os.path.join(root, 'meta.json'), json.dumps(tree))
        assert len(youtube_vos.meta(root)) == entries
    else:
        path = os.path.join(root, 'list.txt')
        files.write_text(path, ''.join(f'JPEGImages/v{i // 50}/{i}.jpg\n' for i in range(entries)))
        assert len(files.read_lines(path)) == entries


def measure(folder: str, what: str, *arguments) -> dict:
    """Runs one of the functions above in a process; {'peak': bytes, 'seconds': s}."""
    call = [sys.executable, __file__, '--measure', json.dumps([folder, what, *arguments])]
    begin = time.monotonic()
    done = subprocess.run(call, capture_output=True)
    if done.returncode:
        raise RuntimeError(f'{what} {arguments}: {done.stderr.decode()[-2000:]}')
    found = json.loads(done.stdout.decode().splitlines()[-1])
    return {'peak': found['peak'], 'seconds': round(time.monotonic() - begin, 1)}


def main(argv=None) -> int:
    """Measures; exit status 1 where memory grows."""
    flags = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    flags.add_argument('--frames', type=int, default=2000)
    flags.add_argument('--entries', type=int, default=100_000)
    flags.add_argument('--networks', default=','.join(NETWORKS), help='a,b or nothing')
    flags.add_argument('--measure', help=argparse.SUPPRESS)
    args = flags.parse_args(argv)
    if args.measure:
        folder, what, *arguments = json.loads(args.measure)
        {'clip': clip, 'demo': demo, 'lists': lists, 'video': video}[what](folder, *arguments)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({'peak': peak}), flush=True)
        return 0
    failed = 0

    def say(name, rows, allowed):
        nonlocal failed
        sizes = sorted(rows)
        grown = rows[sizes[-1]]['peak'] - (rows[sizes[0]]['peak'] if len(sizes) > 1 else 0)
        failed += grown > allowed
        peaks = {str(size): round(rows[size]['peak'] / 1e6) for size in sizes}
        seconds = rows[sizes[-1]]['seconds']
        row = {'load': name, 'peak_MB': peaks, 'grown_MB': round(grown / 1e6, 1)}
        row.update(allowed_MB=round(allowed / 1e6), seconds=seconds)
        print(json.dumps(row), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        lengths = (max(2, args.frames // 10), args.frames)
        for count in lengths:
            measure(folder, 'video', count)
        say('clip', {n: measure(folder, 'clip', n) for n in lengths}, GROWTH)
        sizes = SHEET, 2 * SHEET
        large = {n: measure(folder, 'clip', n, [2160, 3840], 50) for n in sizes}
        say('4K, 50 objects', {SHEET: large[SHEET]}, MOST_4K)
        say('4K, 50 objects, more frames', large, GROWTH)
        for model in filter(None, args.networks.split(',')):
            say(model, {n: measure(folder, 'demo', n, model) for n in lengths}, GROWTH)
        for kind in ('coco', 'youtube_vos', 'list'):
            sizes = (args.entries // 10, args.entries)
            rows = {n: measure(folder, 'lists', n, kind) for n in sizes}
            say(f'{kind} of entries', rows, BYTES * args.entries)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
