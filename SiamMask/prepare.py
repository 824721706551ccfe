"""Cuts the training crops of 511 px from COCO, ImageNet DET and VID, and YouTube-VOS (data/ of the
official code).

    python -m SiamMask.prepare --data_path=DATA --output_path=CROPS [--sets=coco,vid] [--workers=24]

DATA holds the data sets as they are downloaded: coco/annotations, ILSVRC2015/Annotations/DET and
VID, YouTubeVOS/train. Writes CROPS/<set>/crop511/ and, last, CROPS/<set>/<split>.json. Crops that
are there already are kept: a broken run goes on where it ended.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import json
import multiprocessing
import os
import sys
import time
import xml.etree.ElementTree as ElementTree

import cv2
import numpy as np
from pycocotools import mask as rle

from common import coco, masks, youtube_vos

from . import cli, npu
from .config import BASE_SETS
from .model import TEMPLATE
from .tracker import CROP, context, window_of

SETS = tuple(entry[0] for entry in BASE_SETS)
VALIDATION = 3000  # YouTube-VOS train videos from this one on are val.json (PT parse_ytb_vos.py)
LEAST_AREA = 1000  # px, smaller objects of YouTube-VOS are left out (PT parse_ytb_vos.py)
PAGES = {
    'coco': coco.PAGE, 'ytb_vos': youtube_vos.PAGE,
    'det': 'https://image-net.org (ILSVRC2015, DET)',
    'vid': 'https://image-net.org (ILSVRC2015, VID)',
}  # fmt: skip
_ROOT = None  # (set, folder, output folder) of this process and those forked from it


def raw(root: str, name: str) -> str | None:
    """Folder of a downloaded data set below `root`; None where there is none."""
    if name not in SETS:
        raise ValueError(f'no data set {name!r}; there are {", ".join(SETS)}')
    if name == 'coco':
        try:
            return coco.resolve(root)
        except FileNotFoundError:
            return None
    if name == 'ytb_vos':
        places = [root, *sorted(glob.glob(os.path.join(root, 'YouTubeVOS*')))]
        places = [p for base in places for p in (os.path.join(base, 'train'), base)]
        return next((p for p in places if os.path.isfile(os.path.join(p, 'meta.json'))), None)
    places = [os.path.join(root, p, 'ILSVRC2015') for p in ('', name, name.upper())]
    return next((p for p in places if os.path.isdir(_xml(p, name))), None)


def _xml(root, name):
    return os.path.join(root, 'Annotations', name.upper(), 'train')


def find(root: str, cfg, folder: str | None) -> dict:
    """{set: folder of its crops} of cfg.datasets; what is not cut yet is cut into `folder`.

    With preset smoke a set that is not there is left out, said so; else it is an error.

    Raises:
      FileNotFoundError: neither crops nor data of a set. ValueError: a set that nobody knows.
    """
    result, missing = {}, []
    for name, _, _, file_name in cfg.datasets:
        places = [os.path.join(root, name)] + ([os.path.join(folder, name)] if folder else [])
        ready = [p for p in places if os.path.isfile(os.path.join(p, file_name))]
        source = None if ready else raw(root, name)
        if ready:
            result[name] = ready[0]
        elif source and folder and npu.rank()[1] == 1:
            result[name] = cut(name, source, os.path.join(folder, name), cfg.workers)
        else:
            missing.append(f'{name} (tried {places[0]}/{file_name}; download: {PAGES[name]})')
    if missing and not (cfg.preset.startswith('smoke') and result):
        raise FileNotFoundError(
            f'no crops in {root} of {"; ".join(missing)}. `python -m SiamMask.prepare` cuts them; '
            '--set=datasets= names the sets of a training'
        )
    if missing:
        cfg.datasets = [entry for entry in cfg.datasets if entry[0] in result]
        print(f'data: only {", ".join(result)} is there: preset smoke trains on that', flush=True)
    return result


def check(root: str, cfg) -> dict:
    """{set: {videos, tracks, boxes}} of the crops, or what is downloaded, below `root`."""
    result = {}
    for name, _, _, file_name in cfg.datasets:
        path = os.path.join(root, name, file_name)
        if os.path.isfile(path):
            with open(path) as f:
                tracks = [t for v in json.load(f).values() for t in v.values()]
            result[name] = {'tracks': len(tracks), 'boxes': sum(map(len, tracks))}
        elif raw(root, name):
            result[name] = {'pictures or videos': len(units(name, raw(root, name)))}
    if not result:
        raise FileNotFoundError(
            f'none of {", ".join(d[0] for d in cfg.datasets)} in {os.path.abspath(root)}'
        )
    return result


def cut(name: str, source: str, output: str, workers: int) -> str:
    """Cuts one data set; returns `output`.

    Raises:
      FileNotFoundError, ValueError: a picture is missing or differs from its annotation.
    """
    global _ROOT
    _ROOT = name, source, os.path.join(output, f'crop{CROP}')
    todo, found, start, said = units(name, source), {}, time.time(), 0.0
    cli.writable(output)
    with contextlib.ExitStack() as stack:
        every = map
        if workers > 1:  # forked: not after a TensorFlow session, whose threads do not survive it
            pool = stack.enter_context(multiprocessing.get_context('fork').Pool(workers))
            every = functools.partial(pool.imap, chunksize=4)
        for done, (split, key, tracks) in enumerate(every(_cut_unit, todo), 1):
            if tracks:
                found.setdefault(split, {})[key] = tracks
            if time.time() - said > 10 or done == len(todo):  # s
                said = time.time()
                left = (said - start) / done * (len(todo) - done)
                print(f'{name}: {done}/{len(todo)} cut, {left:.0f} s left', flush=True)
    if not found:
        raise ValueError(f'{source} has no objects')
    for split, videos in sorted(found.items(), key=lambda item: 'train' in item[0]):  # train last
        text = json.dumps(videos, indent=4, sort_keys=True)
        npu.replace_file(os.path.join(output, f'{split}.json'), text)
    return output


def units(name: str, source: str) -> list[tuple]:
    """What one process cuts at a time: pictures of COCO and DET, videos of VID and YouTube-VOS."""
    if name == 'coco':
        found = sorted(glob.glob(os.path.join(source, 'annotations', 'instances_*2017.json')))
        splits = [os.path.basename(path)[len('instances_') : -len('.json')] for path in found]
        return [(s, number) for s in splits for number in coco.index(source, s).imgs]
    if name == 'ytb_vos':
        with open(os.path.join(source, 'meta.json')) as f:
            videos = json.load(f)['videos']
        return [('train' if i < VALIDATION else 'val', v, videos[v]) for i, v in enumerate(videos)]
    base, result = _xml(source, name), []
    for subset in sorted(os.listdir(base)):
        inside = sorted(os.listdir(os.path.join(base, subset)))
        if name == 'vid':
            split = 'val' if subset == 'val' else 'train'
            result += [(split, os.path.join(subset, video)) for video in inside]
        else:
            for path in sorted(
                glob.glob(os.path.join(base, subset, '**', '*.xml'), recursive=True)
            ):
                result.append(('train', subset, path))
    return result


def _cut_unit(unit):
    """(split, key in the json, {track: {frame: box}}) of one unit, its crops written."""
    cv2.setNumThreads(1)
    return {'coco': _coco, 'ytb_vos': _ytb_vos, 'vid': _vid, 'det': _det}[_ROOT[0]](*unit)


def _coco(split, number):
    source = _ROOT[1]
    index = coco.index(source, split)
    entry = index.imgs[number]
    key, tracks, shapes = f'{split}/{os.path.splitext(entry["file_name"])[0]}', {}, {}
    for i, annotation in enumerate(index.imgToAnns[number]):
        x, y, w, h = annotation['bbox']
        if w > 0 and h > 0:
            tracks[f'{i:02d}'] = {'000000': [x, y, x + w - 1, y + h - 1]}
            runs = coco.run_lengths(annotation, entry['height'], entry['width'])
            shapes[f'{i:02d}'] = lambda runs=runs: (rle.decode(runs), 0.5)
    if tracks:
        image = coco.frames(source, str(number), split)[0]
        size = (entry['height'], entry['width'])
        _write(image, key, {t: b['000000'] for t, b in tracks.items()}, 0, shapes, 1, size)
    return split, key, tracks


def _ytb_vos(split, video, entry):
    source = _ROOT[1]
    frames = sorted({f for o in entry['objects'].values() for f in o['frames']})
    boxes = {}
    for frame in frames:
        ids = masks.read_mask(os.path.join(source, 'Annotations', video, f'{frame}.png'))
        for number in np.unique(ids[(ids > 0) & (ids < 255)]):
            box = _outline((ids == number).astype(np.uint8))
            if box:
                boxes.setdefault(int(number), {})[frame] = box
    tracks = {f'{i:02d}': boxes[number] for i, number in enumerate(sorted(boxes))}
    numbers = dict(zip(tracks, sorted(boxes)))
    for frame in frames:
        here = {t: found[frame] for t, found in tracks.items() if frame in found}
        path = os.path.join(source, 'Annotations', video, f'{frame}.png')
        shapes = {
            t: lambda t=t, path=path: ((masks.read_mask(path) == numbers[t]), 0.2) for t in here
        }
        image = os.path.join(source, 'JPEGImages', video, f'{frame}.jpg')
        _write(image, f'train/{video}', here, int(frame), shapes)
    named = {t: {f'{int(f):06d}': b for f, b in found.items()} for t, found in tracks.items()}
    return split, f'train/{video}', named


def _outline(mask):
    """[x0, y0, x1, y1], x1 and y1 exclusive, of the parts with an inside; None of small objects."""
    if mask.sum() <= LEAST_AREA:
        return None
    parts = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[-2]
    points = [p.reshape(-1, 2) for p in parts if len(p) > 2]
    if not points:
        return None
    points = np.concatenate(points)
    return [*map(float, points.min(0)), *map(float, points.max(0) + 1)]


def _vid(split, video):
    source = _ROOT[1]
    paths = sorted(glob.glob(os.path.join(_xml(source, 'vid'), video, '*.xml')))
    seen = {}  # track: [(place of the frame, box)]
    for place, path in enumerate(paths):
        for item in ElementTree.parse(path).findall('object'):
            seen.setdefault(int(item.find('trackid').text), []).append((place, _box(item)))
    tracks = {}
    for number, found in seen.items():
        cuts = [i for i in range(1, len(found)) if found[i][0] - found[i - 1][0] > 1]
        parts = [found[a:b] for a, b in zip([0, *cuts], [*cuts, len(found)]) if b - a > 1]
        if parts:  # the last part without a gap, as the original's json ends up with
            tracks[f'{number:02d}'] = {_stem(paths[place]): box for place, box in parts[-1]}
    for path in paths:
        here = {t: boxes[_stem(path)] for t, boxes in tracks.items() if _stem(path) in boxes}
        _write(_picture(path), video, here, int(_stem(path)))
    return split, video, tracks


def _det(split, subset, path):
    found = [_box(item) for item in ElementTree.parse(path).findall('object')]
    tracks = {f'{i:02d}': {'000000': box} for i, box in enumerate(found)}
    key = os.path.join(subset, _stem(path))
    _write(_picture(path), key, {t: b['000000'] for t, b in tracks.items()}, 0)
    return split, key, tracks


def _box(item):
    box = item.find('bndbox')
    return [int(box.find(key).text) for key in ('xmin', 'ymin', 'xmax', 'ymax')]


def _stem(path):
    return os.path.splitext(os.path.basename(path))[0]


def _picture(path):
    return os.path.splitext(path.replace('Annotations', 'Data'))[0] + '.JPEG'


def _write(image_path, key, boxes, frame, shapes=None, one=0, size=None):
    """Crops of a picture's objects, with their masks; whole files only, those there are kept."""
    image = None
    for track, box in boxes.items():
        stem = os.path.join(_ROOT[2], key, f'{frame:06d}.{track}')
        names = [stem + '.x.jpg'] + ([stem + '.m.png'] if shapes else [])
        if all(map(os.path.isfile, names)) or box[2] <= box[0] or box[3] <= box[1]:
            continue
        if image is None:
            image = masks.read_image(image_path)
            average = image.mean((0, 1))
            if size and image.shape[:2] != size:
                raise ValueError(
                    f'{image_path} is {image.shape[:2]}, its annotations are of {size}'
                )
            os.makedirs(os.path.dirname(stem), exist_ok=True)
        window = context_window(box, one)
        if shapes:
            mask, least = shapes[track]()
            mask = window_of(mask.astype(np.float32), window, CROP) > least
            _encode(names[1], '.png', mask.astype(np.uint8) * 255)
        _encode(names[0], '.jpg', window_of(image, window, CROP, average))


def context_window(box, one: int = 0) -> list:
    """Corners of the square that becomes a crop of box [x0, y0, x1, y1]: CROP / TEMPLATE times the
    context of the target; `one` is added to width and height (COCO)."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    half = context((box[2] - box[0] + one, box[3] - box[1] + one)) * CROP / TEMPLATE / 2
    return [x - half, y - half, x + half, y + half]


def _encode(path, ending, picture):
    data = cv2.imencode(ending, picture)[1]
    with open(f'{path}.tmp{os.getpid()}', 'wb') as f:
        f.write(data.tobytes())
    os.replace(f'{path}.tmp{os.getpid()}', path)


@cli.program
def main(argv=None):
    """Cuts the sets that are there; an error where none is."""
    flags = cli.parser(__doc__)
    flags.add_argument('--data_path', required=True)
    flags.add_argument('--output_path', required=True)
    flags.add_argument('--sets', help=f'default: those found of {",".join(SETS)}')
    flags.add_argument('--workers', type=int, default=os.cpu_count(), help='processes')
    args = flags.parse_args(argv)
    asked = args.sets.split(',') if args.sets else SETS
    sources = {name: raw(os.path.abspath(args.data_path), name) for name in asked}
    missing = [name for name, source in sources.items() if not source]
    if len(missing) == len(sources) or (args.sets and missing):
        raise FileNotFoundError(
            f'no {", ".join(missing)} in {os.path.abspath(args.data_path)}: expected '
            'coco/annotations, ILSVRC2015/Annotations/DET/train, ILSVRC2015/Annotations/VID/train, '
            'YouTubeVOS/train'
        )
    output = cli.writable(args.output_path)
    for name, source in sources.items():
        if source:
            print(cut(name, source, os.path.join(output, name), args.workers), flush=True)


if __name__ == '__main__':
    sys.exit(main())
