"""Training examples of MANet: three frames of a sequence for the propagation head, one frame with
scribbles for the interaction head (MANet section 4; dataloaders/ of the official code).

    DAVIS/Scribbles/<sequence>/001.json ...    human scribbles, where there are any

Two seeded generators an example are drawn from: the same draws give the same example.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import itertools
import json
import os
import random

import cv2
import numpy as np
import tensorflow.compat.v1 as tf
from scipy import ndimage

from common import davis, masks, processes

from . import npu, robot

SHIFT, SCALE, TURN = 0.05, 0.025, 3.0  # share of the size, share, degrees (mask_damaging.py)
CHECKED = 32  # examples outside training
ENDLESS = 1000  # crops of a frame with first scribbles, at most (PT: no end)
REDRAWN = 20  # times the frames, references drawn until one shows all objects (PT: no end)
SMALL = 'no frame shows an object large enough for a stroke; draw Scribbles/<sequence>/001.json'
INSTANCES = '{}_instances.txt'  # in ImageSets/2017; the split's letters joined by _ (PT)


def input_fn(cfg, training: bool) -> tf.data.Dataset:
    """Batches (features, labels) of model.network() and losses.losses(), from that of update
    cfg.start_step on; outside training CHECKED examples, once, of draws that no training uses."""
    cards = npu.rank()[1] if training else 1
    first = cfg.get('start_step', 0) * cfg.batch_size * cards if training else 0
    first += npu.rank()[0] * (cards > 1)
    shapes, types = signature(cfg)
    found = tf.data.Dataset.from_generator(
        functools.partial(examples, cfg, first, cards, training), types, shapes
    )
    return found.batch(cfg.batch_size, drop_remainder=True).prefetch(2)


def signature(cfg):
    """Shapes and types of one example, ({features}, {labels})."""
    size, classes = [cfg.size, cfg.size], cfg.objects + 1
    if cfg.stage == 1:
        features = {'images': [3, *size, 3], 'reference': size, 'previous': size}
    else:
        features = {'images': [1, *size, 3], 'strokes': size, 'previous': size}
    features['there'] = [classes]
    shapes = (features, {'label': size})
    kinds = {'images': tf.float32, 'there': tf.float32}
    types = tuple({key: kinds.get(key, tf.int32) for key in part} for part in shapes)
    return tuple({key: tf.TensorShape(v) for key, v in part.items()} for part in shapes), types


@contextlib.contextmanager
def readers(cfg):
    """cfg.workers processes that make the examples inside; without, this one does."""
    with processes.readers(functools.partial(_made, cfg), cfg.workers):
        yield


def examples(cfg, first: int, step: int, training: bool):
    """Examples number first, first + step, ..., in order."""
    stop = None if training else first + CHECKED * step
    numbers = itertools.islice(itertools.count(), first, stop, step)
    named = ((n, _sequence(cfg, n)) for n in numbers)
    jobs = ((n, training, name, cfg.stage, _state(cfg, name)) for n, name in named)
    if training and processes.running():
        yield from processes.results(jobs)
    else:
        yield from (_made(cfg, *job) for job in jobs)


def _state(cfg, name):
    """What a round of scribbles says of the example's sequence: plain values, for the readers."""
    return (cfg.get('annotations') or {}).get(name)


def _sequence(cfg, number):
    """Name of the example's sequence: passes over shuffled sequences."""
    count = len(cfg.examples)
    order = np.random.RandomState([cfg.seed, number // count]).permutation(count)
    return cfg.examples[int(order[number % count])]


def _made(cfg, number, training, name, stage, state):
    seed = (cfg.seed * 2 + (not training)) % 2**31
    draws = random.Random(seed * 2**40 + number), np.random.RandomState([seed, number])
    if stage == 1:
        return triple(name, cfg, draws)
    return annotated(name, state, cfg, draws)


def instances(root: str, split: str) -> dict:
    """{sequence: number of objects} of a split: from <letters of split>_instances.txt where it is
    there, else the largest id of the first mask."""
    path = os.path.join(root, 'ImageSets', '2017', INSTANCES.format('_'.join(split)))
    names = davis.sequences(root, split, '2017')
    listed = {}
    if os.path.isfile(path):
        with open(path) as f:
            listed = json.load(f)
    found = {}
    for name in names:
        ids = listed.get(name)
        if ids is None:
            ids = np.unique(masks.read_mask(davis.masks(root, name)[0])).tolist()
        found[name] = max([int(n) for n in ids if n != 255], default=0)
    empty = sorted(name for name, count in found.items() if not count)
    if empty:
        raise ValueError(f'no object in the first mask of {", ".join(empty[:3])}')
    return found


def triple(name: str, cfg, draws) -> tuple[dict, dict]:
    """A frame, the one before, and a reference frame that shows all objects, cut and damaged.

    Returns:
      (features, labels) as signature() lists them.

    Raises:
      ValueError: a sequence of fewer than three frames.
    """
    uniform, second = draws
    frames, truth = davis.frames(cfg.data_path, name), davis.masks(cfg.data_path, name)
    if len(frames) < 3:
        raise ValueError(f'{name} has {len(frames)} frames, training takes three')
    t = int(second.randint(0, len(frames) - 1))
    for _ in range(REDRAWN * len(frames)):
        reference = int(second.randint(0, len(frames)))
        if reference in (t, t + 1):
            continue
        shown = np.unique(masks.read_mask(truth[reference])).tolist()
        if set(range(1, cfg.counts[name] + 1)) <= set(shown):
            break
    else:  # no frame shows all
        reference = next(k for k in range(len(frames)) if k not in (t, t + 1))
    chosen = (reference, t, t + 1)
    pictures = [masks.read_image(frames[k]).astype(np.float32) for k in chosen]
    labels = [masks.read_mask(truth[k]).astype(np.int32) for k in chosen]
    pictures, labels = _sized(pictures, labels, frame_size(labels[0].shape, cfg)[::-1])
    pictures, labels = changed(pictures, labels, cfg, draws, cfg.tries)
    previous = damaged(labels[1], second) if cfg.damage else labels[1]
    features = {
        'images': np.stack(pictures), 'reference': labels[0], 'previous': previous,
        'there': _there(cfg, name),
    }  # fmt: skip
    return features, {'label': labels[2]}


def annotated(name: str, state, cfg, draws) -> tuple[dict, dict]:
    """A frame with scribbles: human ones in a first round (state None), else those of the round.

    Args:
      state: (frame, strokes int32 [H, W], mask of the round before uint8 [H, W]) or None.
    """
    frames, truth = davis.frames(cfg.data_path, name), davis.masks(cfg.data_path, name)
    if state is None:
        t, strokes = first_strokes(name, cfg, draws[0])
        before = np.zeros(strokes.shape, np.int32)
    else:
        t, strokes, before = state
    picture = masks.read_image(frames[t]).astype(np.float32)
    label = masks.read_mask(truth[t]).astype(np.int32)
    (picture,), (label,) = _sized([picture], [label], strokes.shape[::-1])
    labels = [np.asarray(x, np.int32) for x in (strokes, before, label)]
    tries = ENDLESS if state is None else 2 * cfg.tries
    (picture,), labels = changed([picture], labels, cfg, draws, tries)
    features = {
        'images': picture[None], 'strokes': labels[0], 'previous': labels[1],
        'there': _there(cfg, name),
    }  # fmt: skip
    return features, {'label': labels[2]}


def _there(cfg, name):
    return (np.arange(cfg.objects + 1) <= cfg.counts[name]).astype(np.float32)


def frame_size(shape, cfg) -> tuple[int, int]:
    """(H, W) that training brings frames of [H, W] to, cfg.height high."""
    height, width = shape[:2]
    return (cfg.height, round(width * cfg.height / height)) if cfg.height else (height, width)


def first_strokes(name: str, cfg, uniform):
    """(frame, strokes int32 [H, W] of frame_size()): one of the human scribbles, else the robot's
    on the objects of a random frame."""
    paths = glob.glob(os.path.join(cfg.data_path, 'Scribbles', glob.escape(name), '*.json'))
    truth = davis.masks(cfg.data_path, name)
    shape = frame_size(masks.read_mask(truth[0]).shape, cfg)
    if paths:
        found = robot.read(uniform.choice(sorted(paths)))
        frames = robot.annotated(found)
        if frames and frames[0] < len(truth):
            return frames[0], robot.rasterised([found['scribbles'][frames[0]]], shape)[0]
    order = list(range(len(truth)))
    uniform.shuffle(order)
    for t in order:
        ids = masks.read_mask(truth[t])
        found = robot.first(name, ids, cfg.counts[name])
        if found['scribbles'][0]:
            return t, robot.rasterised(found['scribbles'], shape)[0]
    raise ValueError(f'{name}: {SMALL}')


def samples(root: str, name: str, count: int) -> list[tuple[int, dict]]:
    """[(number from 1, scribbles)] of a sequence, human ones where there are any.

    Raises:
      ValueError: scribbles of another sequence or number of frames, or without a stroke.
    """
    truth = davis.masks(root, name)
    paths = sorted(glob.glob(os.path.join(root, 'Scribbles', glob.escape(name), '*.json')))
    result = []
    for number, path in enumerate(paths, 1):
        found = robot.read(path)
        if found.get('sequence', name) != name:
            raise ValueError(f'{path} is of sequence {found["sequence"]!r}, not {name!r}')
        if len(found['scribbles']) != len(truth):
            raise ValueError(
                f'{path} has {len(found["scribbles"])} frames, {name} has {len(truth)}'
            )
        if not robot.annotated(found):
            raise ValueError(f'{path} has no stroke')
        result.append((number, found))
    return result or [(1, _drawn(name, truth, count))]


def _drawn(name, truth, count):
    ids = [masks.read_mask(path) for path in truth]
    shown = [len(set(np.unique(x).tolist()) - {0, 255}) for x in ids]
    t = int(np.argmax(shown))
    found = robot.first(name, ids[t], count)
    found['scribbles'] = [found['scribbles'][0] if k == t else [] for k in range(len(ids))]
    if not found['scribbles'][t]:
        raise ValueError(f'{name}: {SMALL}')
    return found


def changed(pictures: list, labels: list, cfg, draws, tries: int):
    """Mirrored, scaled, cropped where the first label shows more than one value, resized to a
    square: float32 [S, S, 3] pictures (bicubic, not clipped) and int32 [S, S] labels (nearest).

    Of `tries` crops the last two alone are looked at, as in the original; ENDLESS looks at all.
    """
    uniform, second = draws
    if uniform.random() < cfg.flip:
        pictures, labels = ([x[:, ::-1] for x in part] for part in (pictures, labels))
    scale = uniform.choice(cfg.scales)
    pictures, labels = _sized(pictures, labels, None, scale)
    height, width = pictures[0].shape[:2]
    crop = [min(cfg.size, side) for side in (height, width)]
    for attempt in itertools.count(1):
        top, left = (int(second.randint(0, n - c + 1)) for n, c in zip((height, width), crop))
        part = slice(top, top + crop[0]), slice(left, left + crop[1])
        enough = len(np.unique(labels[0][part])) > 1
        if enough and (tries == ENDLESS or attempt >= tries - 1):
            pictures, labels = ([x[part] for x in group] for group in (pictures, labels))
            break
        if attempt >= tries:  # uncropped
            break
    return _sized(pictures, labels, (cfg.size, cfg.size))


def _sized(pictures, labels, size, scale=None):
    """Resized to (width, height), or by a factor."""
    return tuple(
        [cv2.resize(np.ascontiguousarray(x), size, fx=scale, fy=scale, interpolation=how)
         for x in part]
        for part, how in ((pictures, cv2.INTER_CUBIC), (labels, cv2.INTER_NEAREST))
    )  # fmt: skip


def damaged(label: np.ndarray, second) -> np.ndarray:
    """Each object of int32 [H, W] shifted, scaled and turned a little, painted in random order; the
    label itself where an object cannot be (FEELVOS; utils/mask_damaging.py)."""
    numbers = np.unique(label)
    numbers = numbers[(numbers > 0) & (numbers < 255)]
    second.shuffle(numbers)
    result = np.zeros_like(label)
    for number in numbers:
        mask = label == number
        rows, columns = np.nonzero(mask)
        reach = np.sqrt(np.ptp(rows) * np.ptp(columns)) * SHIFT
        mask = ndimage.shift(mask, second.uniform(-reach, reach, 2), order=0)
        rows, columns = np.nonzero(mask)
        if not len(rows):
            return label
        centre = 0.5 * np.ptp(columns), 0.5 * np.ptp(rows)  # of the box's size, as the original
        mask = _warped(mask, centre, 1 + second.uniform(-SCALE, SCALE), 0)
        centre = 0.5 * mask.shape[1], 0.5 * mask.shape[0]
        result[_warped(mask, centre, 1, second.uniform(-TURN, TURN))] = number
    return result


def _warped(mask, centre, scale, degrees):
    turn = cv2.getRotationMatrix2D(centre, -degrees, scale)
    return cv2.warpAffine(mask.astype(np.float32), turn, mask.shape[::-1]) > 0.5
