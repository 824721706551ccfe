"""Cuts the training crops of 511 px from COCO, ImageNet DET and VID, and YouTube-VOS (data/ of the
official code).

    python -m SiamMask.prepare --data_path=DATA --output_path=CROPS [--sets=coco,vid] [--workers=24]

DATA holds the data sets as they are downloaded: coco/annotations, ILSVRC2015/Annotations/DET and
VID, YouTubeVOS/train, DAVIS. Writes CROPS/<set>/crop511/ and, last, CROPS/<set>/<split>.json. Crops
that are there already are kept: a broken run goes on where it ended. An image that cannot be read
is named, left out and counted; with --strict the exit status is then 1.

The work is many small calls of Python and OpenCV, so it is done in processes.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import json
import os
import sys
import xml.etree.ElementTree as ElementTree
from typing import NamedTuple

from common import coco, console, davis, files, masks, processes, youtube_vos
from common.files import stem
from common.lazy import cv2, np, rle

from . import cli
from .config import BASE_SETS
from .model import TEMPLATE
from .tracker import CROP, context, warp_window

SETS = (*(entry[0] for entry in BASE_SETS), 'davis')
VALIDATION = 3000  # YouTube-VOS train videos from this one on are val.json (PT parse_ytb_vos.py)
LEAST_AREA = 1000  # px, smaller objects of YouTube-VOS are left out (PT parse_ytb_vos.py)
CHECKED = 50  # images of a set that --check_data decodes
PAGES = {
    'coco': coco.PAGE,
    'ytb_vos': youtube_vos.PAGE,
    'davis': davis.PAGE,
    'det': 'https://image-net.org (ILSVRC2015, DET)',
    'vid': 'https://image-net.org (ILSVRC2015, VID)',
}


class Cut(NamedTuple):
    """What was cut of an image or a video.

    split: name of the json that lists it.
    key: its name there.
    tracks: {track: {frame: box}} of the crops that were written.
    faults: messages about images that could not be read.
    """

    split: str
    key: str
    tracks: dict
    faults: list


def raw(root: str, name: str) -> str | None:
    """Folder of a downloaded data set below `root`; None where there is none."""
    if name not in SETS:
        raise ValueError(f'no data set {name!r}; there are {", ".join(SETS)}')
    if name == 'coco':
        try:
            return coco.resolve(root)
        except FileNotFoundError:
            return None
    if name == 'davis':
        try:
            return davis.resolve(root, '2017')  # objects apart, where there are trees of both years
        except FileNotFoundError:
            return None
    if name == 'ytb_vos':
        for base in [root, *sorted(glob.glob(os.path.join(glob.escape(root), 'YouTubeVOS*')))]:
            for path in (os.path.join(base, 'train'), base):
                if os.path.isfile(os.path.join(path, 'meta.json')):
                    return path
        return None
    for place in ('', name, name.upper()):
        path = os.path.join(root, place, 'ILSVRC2015')
        if os.path.isdir(_xml(path, name)):
            return path
    return None


def _xml(root, name):
    return os.path.join(root, 'Annotations', name.upper(), 'train')


def folder_beside(data_path: str) -> str:
    """Where a training keeps the crops of a data folder: <data_path>_crops, or below output/ where
    nothing can be written beside the data."""
    path = os.path.abspath(data_path)
    if os.path.isdir(f'{path}_crops') or os.access(os.path.dirname(path), os.W_OK):
        return f'{path}_crops'
    digest = hashlib.sha256(path.encode()).hexdigest()[:8]
    return os.path.abspath(os.path.join('output', f'{os.path.basename(path)}_{digest}_crops'))


def facts(name: str, source: str) -> dict:
    """What the crops of a data set are made from, for files.claim()."""
    if name == 'coco':
        data = files.fingerprint(os.path.join(source, 'annotations'))
    elif name == 'ytb_vos':
        data = files.fingerprint(os.path.join(source, 'meta.json'))
    else:
        text = '\n'.join('/'.join(unit).replace(source, '') for unit in units(name, source))
        data = hashlib.sha256(text.encode()).hexdigest()[:16]
    made = {'set': name, 'annotations': data, 'crop': CROP, 'template': TEMPLATE}
    places = (source, os.path.dirname(source))
    if any(os.path.isfile(os.path.join(place, 'sample_data.json')) for place in places):
        made['drawn'] = True
    return made


def are_drawn(crops: dict) -> bool:
    """Whether {set: folder} of crops has some that were cut from drawn data."""
    paths = [os.path.join(folder, 'made_from.json') for folder in crops.values()]
    return any(files.read_json(path).get('drawn') for path in paths if os.path.isfile(path))


def find(root: str, cfg, folder: str, cut_missing: bool = True) -> dict:
    """{set: folder of its crops} of cfg.datasets: in `root`, else in `folder`.

    With preset smoke a set that is not there is left out, said so; else it is an error.

    Args:
      root: data folder.
      cfg: uses datasets, preset, workers.
      folder: crops that were cut from `root`.
      cut_missing: cut what is in neither, into `folder`.

    Raises:
      FileNotFoundError: neither crops nor data of a set. ValueError: a set that nobody knows;
      `folder` has crops of other data.
    """
    result, missing = {}, []
    for name, _, _, file_name in cfg.datasets:
        given, own = os.path.join(root, name), os.path.join(folder, name)
        source = raw(root, name)
        if os.path.isfile(os.path.join(given, file_name)):
            result[name] = given
            continue
        ready = os.path.isfile(os.path.join(own, file_name))
        if source and (ready or cut_missing):
            _cut_once(name, source, own, file_name, cfg.workers)
            ready = True
        if ready:
            result[name] = own
        else:
            missing.append(f'{name} (tried {given}/{file_name}; download: {PAGES[name]})')
    if missing and not (cfg.preset.startswith('smoke') and result):
        raise FileNotFoundError(
            f'no crops in {root} of {"; ".join(missing)}. `python -m SiamMask.prepare` cuts them; '
            '--set=datasets= names the sets of a training'
        )
    if missing:
        cfg.datasets = [entry for entry in cfg.datasets if entry[0] in result]
        print(f'data: only {", ".join(result)} is there: preset smoke trains on that', flush=True)
    return result


def _cut_once(name, source, folder, file_name, workers):
    """Cuts a set where it has not been cut; of several ranks one does, the others wait for it."""
    os.makedirs(folder, exist_ok=True)
    with files.locked(f'{folder}.lock'):
        files.claim(folder, facts(name, source))
        if not os.path.isfile(os.path.join(folder, file_name)):
            cut(name, source, folder, workers)


def check(root: str, cfg, every: bool = False) -> dict:
    """{set: counts} of the crops, or of what is downloaded, below `root`.

    Args:
      root: data folder.
      cfg: uses datasets.
      every: decode every image, not CHECKED of a set.

    Raises:
      FileNotFoundError: there is no set. ValueError: images that cannot be read, the first three
      by name.
    """
    result = {}
    for name, _, _, file_name in cfg.datasets:
        path, source = os.path.join(root, name, file_name), raw(root, name)
        if os.path.isfile(path):
            videos = files.read_json(path)
            tracks = [track for video in videos.values() for track in video.values()]
            result[name] = {'tracks': len(tracks), 'boxes': sum(map(len, tracks))}
            paths = [
                os.path.join(root, name, f'crop{CROP}', video, f'{frame}.{track}.x.jpg')
                for video, found in videos.items()
                for track, boxes in found.items()
                for frame in boxes
            ]
            result[name]['decoded'] = _decode(paths, every)
        elif source:
            todo = units(name, source)
            result[name] = {'images or videos': len(todo)}
            if not every:
                todo = todo[:: -(-len(todo) // CHECKED)]
            paths = [path for unit in todo for path in _images(name, source, unit)]
            result[name]['decoded'] = _decode(paths, every)
    if not result:
        raise FileNotFoundError(
            f'none of {", ".join(d[0] for d in cfg.datasets)} in {os.path.abspath(root)}'
        )
    return result


def _decode(paths, every):
    """Number of images that were decoded; ValueError where one cannot be."""
    chosen = paths if every else paths[:: -(-len(paths) // CHECKED) or 1]
    faults = []
    for path in chosen:
        try:
            masks.read_image(path)
        except (OSError, ValueError) as error:
            faults.append(str(error))
    if faults:
        raise ValueError(
            f'{len(faults)} of {len(chosen)} images cannot be read, first: {"; ".join(faults[:3])}'
        )
    return len(chosen)


def _images(name, source, unit):
    """Paths of the images of a unit."""
    if name == 'coco':
        return coco.frames(source, str(unit[1]), unit[0])
    if name in ('ytb_vos', 'davis'):
        return [image for image, _ in _masked_frames(name, source, *unit[1:])]
    if name == 'vid':
        folder = os.path.join(_xml(source, 'vid'), unit[1])
        return [_image_of(path) for path in sorted(glob.glob(f'{glob.escape(folder)}/*.xml'))]
    return [_image_of(unit[2])]


def cut(name: str, source: str, output: str, workers: int) -> list[str]:
    """Cuts one data set into the folder `output`; returns messages about the images that could not
    be read and were left out.

    Raises:
      ValueError: nothing could be cut. RuntimeError: a process has died.
    """
    todo, found, faults = units(name, source), {}, []
    folder = os.path.join(cli.writable(output), f'crop{CROP}')
    task = functools.partial(_cut_unit, name, source, folder, todo)
    with contextlib.ExitStack() as stack:
        if workers > 1:  # forked: not after a TensorFlow session, whose threads do not survive it
            stack.enter_context(processes.readers(task, workers))
            results = processes.results((number,) for number in range(len(todo)))
        else:
            results = map(task, range(len(todo)))
        for result in console.progress(results, name, len(todo), 'files'):
            if result.tracks:
                found.setdefault(result.split, {})[result.key] = result.tracks
            for fault in result.faults:
                print(f'{name}: left out: {fault}', flush=True)
            faults += result.faults
    if not found:
        raise ValueError(f'{source} has no objects; {len(faults)} faults, first: {faults[:1]}')
    for split in sorted(found, key=lambda split: 'train' in split):  # train last
        text = json.dumps(found[split], indent=4, sort_keys=True)
        files.write_text(os.path.join(output, f'{split}.json'), text)
    if faults:
        print(f'{name}: {len(faults)} images were left out, named above', flush=True)
    return faults


def units(name: str, source: str) -> list[tuple]:
    """What one process cuts at a time: images of COCO and DET, videos of the others."""
    if name == 'coco':
        folder = glob.escape(os.path.join(source, 'annotations'))
        found = sorted(glob.glob(os.path.join(folder, 'instances_*2017.json')))
        splits = [stem(path)[len('instances_') :] for path in found]
        return [(split, number) for split in splits for number in coco.index(source, split).imgs]
    if name == 'ytb_vos':
        return [
            ('train' if i < VALIDATION else 'val', video, entry)
            for i, (video, entry) in enumerate(youtube_vos.meta(source).items())
        ]
    if name == 'davis':
        splits = [split for split in ('train', 'val') if davis.has_list(source, split, '2017')]
        return [
            (split, video)
            for split in splits or ['train']
            for video in davis.sequences(source, split, '2017')
        ]
    base, result = _xml(source, name), []
    for subset in sorted(os.listdir(base)):
        folder = os.path.join(base, subset)
        if name == 'vid':
            split = 'val' if subset == 'val' else 'train'
            result += [(split, os.path.join(subset, v)) for v in sorted(os.listdir(folder))]
        else:
            paths = glob.glob(os.path.join(glob.escape(folder), '**', '*.xml'), recursive=True)
            result += [('train', subset, path) for path in sorted(paths)]
    return result


def _cut_unit(name, source, folder, todo, number):
    """The Cut of unit `number` of `todo`; what is damaged in it is told in `faults`."""
    cv2.setNumThreads(1)
    unit = todo[number]
    cutters = {'coco': _coco, 'vid': _vid, 'det': _det}
    for masked in ('ytb_vos', 'davis'):
        cutters[masked] = functools.partial(_masked_video, masked)
    try:
        return cutters[name](source, folder, *unit)
    except (OSError, ValueError) as error:
        return Cut(unit[0], '', {}, [f'{name} {unit[1]}: {error}'])


def _coco(source, folder, split, number):
    index = coco.index(source, split)
    entry = index.imgs[number]
    key, tracks, shapes = f'{split}/{stem(entry["file_name"])}', {}, {}
    size = (entry['height'], entry['width'])
    for i, annotation in enumerate(index.imgToAnns[number]):
        x, y, w, h = annotation['bbox']
        if w > 0 and h > 0:
            tracks[f'{i:02d}'] = {'000000': [x, y, x + w - 1, y + h - 1]}
            runs = coco.run_lengths(annotation, *size)
            shapes[f'{i:02d}'] = functools.partial(_decoded, runs)
    if tracks:
        image = coco.frames(source, str(number), split)[0]
        boxes = {track: found['000000'] for track, found in tracks.items()}
        _write(folder, image, key, boxes, 0, shapes, one=1, size=size)
    return Cut(split, key, tracks, [])


def _decoded(runs):
    return rle.decode(runs), 0.5  # the least value of a resized mask (PT coco/par_crop.py)


def _masked_frames(name, source, video, entry=None):
    """[(image path, mask path)] of a video of YouTube-VOS (`entry`: its part of meta()) or
    DAVIS."""
    if name == 'davis':
        return davis.pairs(source, [video])
    frames = sorted({frame for shown in entry.values() for frame in shown})
    return [
        (
            os.path.join(source, 'JPEGImages', video, f'{frame}.jpg'),
            os.path.join(source, 'Annotations', video, f'{frame}.png'),
        )
        for frame in frames
    ]


def _masked_video(name, source, folder, split, video, entry=None):
    pairs = _masked_frames(name, source, video, entry)
    boxes, faults = {}, []  # {object id: {frame: box}}
    for _, path in pairs:
        try:
            ids = masks.read_mask(path)
        except (OSError, ValueError) as error:
            faults.append(str(error))
            continue
        for number in np.unique(ids[(ids > 0) & (ids < 255)]):
            box = _outline((ids == number).astype(np.uint8))
            if box:
                boxes.setdefault(int(number), {})[stem(path)] = box
    ids_of = {f'{i:02d}': number for i, number in enumerate(sorted(boxes))}
    tracks = {track: boxes[number] for track, number in ids_of.items()}
    for image, path in pairs:
        frame = stem(path)
        here = {track: found[frame] for track, found in tracks.items() if frame in found}
        shapes = {track: functools.partial(_object, path, ids_of[track]) for track in here}
        try:
            _write(folder, image, f'train/{video}', here, int(frame), shapes)
        except (OSError, ValueError) as error:
            faults.append(str(error))
            _drop(tracks, frame)
    named = {t: {f'{int(f):06d}': b for f, b in found.items()} for t, found in tracks.items()}
    return Cut(split, f'train/{video}', {t: found for t, found in named.items() if found}, faults)


def _object(path, number):
    return masks.read_mask(path) == number, 0.2  # least value (PT ytb_vos/par_crop.py)


def _drop(tracks, frame):
    for boxes in tracks.values():
        boxes.pop(frame, None)


def _outline(mask):
    """[x0, y0, x1, y1], x1 and y1 exclusive, of the parts with an inside; None of small objects."""
    if mask.sum() <= LEAST_AREA:
        return None
    parts = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[-2]
    points = [part.reshape(-1, 2) for part in parts if len(part) > 2]
    if not points:
        return None
    points = np.concatenate(points)
    return [*map(float, points.min(0)), *map(float, points.max(0) + 1)]


def _vid(source, folder, split, video):
    pattern = os.path.join(glob.escape(os.path.join(_xml(source, 'vid'), video)), '*.xml')
    paths = sorted(glob.glob(pattern))
    seen, faults = {}, []  # track: [(number of the frame, box)]
    for number, path in enumerate(paths):
        try:
            for track, box in _objects(path, 'trackid'):
                seen.setdefault(track, []).append((number, box))
        except ValueError as error:
            faults.append(str(error))
    tracks = {}
    for track, found in seen.items():
        cuts = [i for i in range(1, len(found)) if found[i][0] - found[i - 1][0] > 1]
        parts = [found[a:b] for a, b in zip([0, *cuts], [*cuts, len(found)]) if b - a > 1]
        if parts:  # the last part without a gap, as the original's json ends up with
            tracks[f'{track:02d}'] = {stem(paths[number]): box for number, box in parts[-1]}
    for path in paths:
        frame = stem(path)
        here = {track: boxes[frame] for track, boxes in tracks.items() if frame in boxes}
        try:
            _write(folder, _image_of(path), video, here, int(frame))
        except (OSError, ValueError) as error:
            faults.append(str(error))
            _drop(tracks, frame)
    return Cut(split, video, {t: boxes for t, boxes in tracks.items() if boxes}, faults)


def _det(source, folder, split, subset, path):
    del source
    boxes = {f'{i:02d}': box for i, (_, box) in enumerate(_objects(path))}
    key = os.path.join(subset, stem(path))
    _write(folder, _image_of(path), key, boxes, 0)
    return Cut(split, key, {track: {'000000': box} for track, box in boxes.items()}, [])


def _objects(path, number=None):
    """[(value of the field `number` or 0, box)] of an annotation of ImageNet."""
    try:
        return [
            (
                int(item.find(number).text) if number else 0,
                [int(item.find(f'bndbox/{key}').text) for key in ('xmin', 'ymin', 'xmax', 'ymax')],
            )
            for item in ElementTree.parse(path).findall('object')
        ]
    except (ElementTree.ParseError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f'{path} is no annotation of ImageNet: {error!r}') from None


def _image_of(path):
    return os.path.splitext(path.replace('Annotations', 'Data'))[0] + '.JPEG'


def _write(folder, image_path, key, boxes, frame, shapes=None, one=0, size=None):
    """Writes the crops of an image's objects, with their masks; those that are there are kept.

    Args:
      folder: of the crops.
      image_path: of the image.
      key: folder below `folder`.
      boxes: {track: [x0, y0, x1, y1]}.
      frame: its number.
      shapes: {track: function that gives (mask, least value of the resized mask)}.
      one: of context_window().
      size: (H, W) that the annotations are of.

    Raises:
      FileNotFoundError, ValueError: the image is missing, damaged or of another size.
    """
    image = None
    for track, box in boxes.items():
        name = os.path.join(folder, key, f'{frame:06d}.{track}')
        image_out, mask_out = name + '.x.jpg', name + '.m.png'
        done = os.path.isfile(image_out) and (not shapes or os.path.isfile(mask_out))
        if done or box[2] <= box[0] or box[3] <= box[1]:
            continue
        if image is None:
            image = masks.read_image(image_path)
            mean = image.mean((0, 1))
            if size and image.shape[:2] != size:
                raise ValueError(
                    f'{image_path} is {image.shape[:2]}, its annotations are of {size}'
                )
            os.makedirs(os.path.dirname(name), exist_ok=True)
        window = context_window(box, one)
        if shapes:
            mask, least = shapes[track]()
            mask = warp_window(mask.astype(np.float32), window, CROP) > least
            masks.write_image(mask_out, mask.astype(np.uint8) * 255)
        masks.write_image(image_out, warp_window(image, window, CROP, mean))


def context_window(box, one: int = 0) -> list:
    """Corners of the square that becomes a crop: the operations of the official code in float64.

    Args:
      box: [x0, y0, x1, y1].
      one: added to width and height (COCO).
    """
    x, y = (box[2] + box[0]) / 2, (box[3] + box[1]) / 2
    side = context((box[2] - box[0] + one, box[3] - box[1] + one))
    border = (CROP - TEMPLATE) / 2 / (TEMPLATE / side)
    half = (side + 2 * border) / 2
    return [x - half, y - half, x + half, y + half]


@cli.program
def main(argv=None):
    """Cuts the sets that are there; an error where none is, with --strict where one is damaged."""
    flags = cli.parser(__doc__)
    add = flags.add_argument
    add('--data_path', required=True, help='folder of the data sets as they are downloaded')
    add('--output_path', required=True, help='folder of the crops')
    add('--sets', help=f'default: those found of {",".join(SETS)}')
    add('--workers', type=cli.positive, default=os.cpu_count(), help='processes')
    add('--strict', action='store_true', help='exit status 1 where an image cannot be read')
    args = flags.parse_args(argv)
    cli.set_progress(args)
    asked = args.sets.split(',') if args.sets else SETS
    sources = {name: raw(os.path.abspath(args.data_path), name) for name in asked}
    missing = [name for name, source in sources.items() if not source]
    if len(missing) == len(sources) or (args.sets and missing):
        raise FileNotFoundError(
            f'no {", ".join(missing)} in {os.path.abspath(args.data_path)}: expected '
            'coco/annotations, ILSVRC2015/Annotations/DET/train, ILSVRC2015/Annotations/VID/train, '
            'YouTubeVOS/train, DAVIS/JPEGImages/480p'
        )
    output, faults = cli.writable(args.output_path), []
    for name, source in sources.items():
        if source:
            folder = os.path.join(output, name)
            files.claim(folder, facts(name, source))
            faults += cut(name, source, folder, args.workers)
            print(folder, flush=True)
    if faults and args.strict:
        raise ValueError(f'{len(faults)} images could not be read, first: {faults[0]}')


if __name__ == '__main__':
    sys.exit(main())
