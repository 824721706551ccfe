"""Training examples of MANet: three frames of a sequence for the propagation head, one frame with
scribbles for the interaction head (MANet section 4; dataloaders/ of the official code).

    DAVIS/Scribbles/<sequence>/001.json ...    human scribbles, where there are any

An example is drawn from two generators seeded by its number: a run that goes on at update N takes
the examples that it would have taken. The readers are processes: many small calls of OpenCV, scipy
and Python make an example.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import itertools
import os
import random
from typing import NamedTuple

from common import davis, files, masks, processes
from common.lazy import cv2, ndimage, np, tf

from . import ranks, robot

SHIFT, SCALE, TURN = 0.05, 0.025, 3.0  # share of the size, share, degrees (mask_damaging.py)
CHECKED = 32  # examples outside training
ENDLESS = 1000  # crops of a frame with first scribbles, at most (PT: no end)
REDRAWN = 20  # times the frames: references drawn until one shows all objects (PT: no end)
VOID = 255  # label of pixels without loss
SMALL = 'no frame shows an object large enough for a stroke; draw Scribbles/<sequence>/001.json'
INSTANCES = '{}_instances.txt'  # in ImageSets/2017; the split's letters joined by _ (PT)


class Draws(NamedTuple):
    """The two generators that an example is drawn from, as in the official code."""

    python: random.Random
    numpy: np.random.RandomState


def input_fn(cfg, training: bool) -> tf.data.Dataset:
    """Batches (features, labels) of model.network() and losses.losses().

    Args:
      cfg: uses examples (names of sequences), counts, objects, data_path, stage, batch_size, seed,
        start_step, corrections and the augmentation's settings.
      training: endless, from the examples of update cfg.start_step on; else CHECKED examples, once,
        of draws that no training uses.
    """
    first, step = 0, 1
    if training:
        rank, step = ranks.rank()
        first = cfg.get('start_step', 0) * cfg.batch_size * step + rank
    shapes, types = signature(cfg)

    def batches():
        return processes.batches(examples(cfg, first, step, training), cfg.batch_size)

    return tf.data.Dataset.from_generator(batches, types, shapes).prefetch(2)


def signature(cfg) -> tuple:
    """(shapes, types) of a batch, each ({features}, {labels})."""
    size = [cfg.size, cfg.size]
    if cfg.stage == 1:
        features = {
            'images': ([3, *size, 3], tf.float32),
            'reference': (size, tf.int32),
            'previous': (size, tf.int32),
        }
    else:
        features = {
            'images': ([1, *size, 3], tf.float32),
            'strokes': (size, tf.int32),
            'previous': (size, tf.int32),
        }
    features['present'] = [cfg.objects + 1], tf.float32
    parts = features, {'label': (size, tf.int32)}
    shapes = tuple(
        {key: tf.TensorShape([cfg.batch_size, *shape]) for key, (shape, _) in part.items()}
        for part in parts
    )
    return shapes, tuple({key: kind for key, (_, kind) in part.items()} for part in parts)


@contextlib.contextmanager
def readers(cfg):
    """cfg.workers processes that make the examples inside; without, this one does."""
    with processes.readers(functools.partial(_make_example, cfg), cfg.workers):
        yield


def examples(cfg, first: int, step: int, training: bool):
    """Examples number first, first + step, ..., in order."""
    stop = None if training else first + CHECKED * step
    jobs = (
        _job(cfg, number, training)
        for number in itertools.islice(itertools.count(), first, stop, step)
    )
    if training and processes.running():
        yield from processes.results(jobs)
    else:
        yield from (_make_example(cfg, *job) for job in jobs)


def _job(cfg, number, training):
    """What makes an example, plain values for the readers: its sequence is that of a pass over
    shuffled sequences."""
    count = len(cfg.examples)
    order = np.random.RandomState([cfg.seed, number // count]).permutation(count)
    name = cfg.examples[int(order[number % count])]
    correction = cfg.get('corrections', {}).get(name)
    return number, training, name, cfg.stage, correction


def _make_example(cfg, number, training, name, stage, correction):
    seed = (cfg.seed * 2 + (not training)) % 2**31
    draws = Draws(random.Random(seed * 2**40 + number), np.random.RandomState([seed, number]))
    if stage == 1:
        return propagation_example(name, cfg, draws)
    return interaction_example(name, correction, cfg, draws)


def instances(root: str, split: str, year: str = '2017') -> dict:
    """{sequence: number of objects} of a split: from <letters of split>_instances.txt where it is
    there, else the largest id of the first mask."""
    path = os.path.join(root, 'ImageSets', year, INSTANCES.format('_'.join(split)))
    listed, found = files.read_json(path) if os.path.isfile(path) else {}, {}
    if not isinstance(listed, dict):
        raise ValueError(f'{path}: expected {{sequence: [ids]}}')
    for name in davis.sequences(root, split, year):
        ids = listed.get(name)
        if ids is None:
            ids = np.unique(read_label(davis.masks(root, name)[0], year)).tolist()
        if not isinstance(ids, list) or not all(files.is_number(n, 0, VOID, int) for n in ids):
            raise ValueError(f'{path}: {name}: expected a list of ids, not {str(ids)[:60]}')
        found[name] = max([n for n in ids if n != VOID], default=0)
    empty = sorted(name for name, count in found.items() if not count)
    if empty:
        raise ValueError(
            f'{root}: no object in the first mask of {", ".join(empty[:3])}, or in {path}'
        )
    return found


def read_label(path: str, year: str, count: int = VOID - 1) -> np.ndarray:
    """Ids int32 [H, W] of a mask, all as 1 with year '2016'; objects beyond `count`, which came
    after the first frame, are void as 255 is."""
    ids = masks.read_mask(path).astype(np.int32)
    if year == '2016':
        ids = np.where(ids == VOID, VOID, np.minimum(ids, 1))
    return np.where(ids > count, VOID, ids)


def propagation_example(name: str, cfg, draws: Draws) -> tuple[dict, dict]:
    """A frame, the one before, and a reference frame that shows all objects, cropped and damaged.

    Returns:
      (features, labels) as signature() lists them.

    Raises:
      ValueError: a sequence of fewer than three frames.
    """
    frames, truth = davis.frames(cfg.data_path, name), davis.masks(cfg.data_path, name)
    if len(frames) < 3:
        raise ValueError(f'{name} has {len(frames)} frames, training takes three')
    count = cfg.counts[name]
    t = int(draws.numpy.randint(0, len(frames) - 1))
    for _ in range(REDRAWN * len(frames)):
        reference = int(draws.numpy.randint(0, len(frames)))
        if reference in (t, t + 1):
            continue
        shown = np.unique(read_label(truth[reference], cfg.year, count)).tolist()
        if set(range(1, count + 1)) <= set(shown):
            break
    else:  # no frame shows all
        reference = next(k for k in range(len(frames)) if k not in (t, t + 1))
    chosen = (reference, t, t + 1)
    images = [masks.read_image(frames[k]).astype(np.float32) for k in chosen]
    labels = [read_label(truth[k], cfg.year, count) for k in chosen]
    size = frame_size(labels[0].shape, cfg)
    images, labels = resize_images(images, size), resize_labels(labels, size)
    images, labels = augment(images, labels, cfg, draws, cfg.tries)
    previous = damage_mask(labels[1], draws.numpy) if cfg.damage else labels[1]
    features = {
        'images': np.stack(images),
        'reference': labels[0],
        'previous': previous,
        'present': _present(cfg, name),
    }
    return features, {'label': labels[2]}


def interaction_example(name: str, correction, cfg, draws: Draws) -> tuple[dict, dict]:
    """A frame with scribbles: human ones of a first round where `correction` is None, else
    (frame, strokes, mask of the round before) as in corrections.Correction.

    Returns:
      (features, labels) as signature() lists them.
    """
    frames, truth = davis.frames(cfg.data_path, name), davis.masks(cfg.data_path, name)
    if correction is None:
        t, strokes = first_strokes(name, cfg, draws.python)
        before, tries = np.zeros(strokes.shape, np.int32), ENDLESS
    else:
        t, strokes, before = correction
        tries = 2 * cfg.tries
    images = resize_images([masks.read_image(frames[t]).astype(np.float32)], strokes.shape)
    label = read_label(truth[t], cfg.year, cfg.counts[name])
    labels = [strokes, before, *resize_labels([label], strokes.shape)]
    labels = [np.asarray(x, np.int32) for x in labels]
    images, (strokes, before, label) = augment(images, labels, cfg, draws, tries)
    features = {
        'images': images[0][None],
        'strokes': strokes,
        'previous': before,
        'present': _present(cfg, name),
    }
    return features, {'label': label}


def _present(cfg, name):
    """float32 [N], 1 of the classes that a sequence has."""
    return (np.arange(cfg.objects + 1) <= cfg.counts[name]).astype(np.float32)


def frame_size(shape, cfg) -> tuple[int, int]:
    """(H, W) that training brings frames of [H, W] to, cfg.height high."""
    height, width = shape[:2]
    return (cfg.height, round(width * cfg.height / height)) if cfg.height else (height, width)


def scribble_files(root: str, name: str) -> list[str]:
    """Paths of a sequence's human scribbles."""
    return sorted(glob.glob(os.path.join(root, 'Scribbles', glob.escape(name), '*.json')))


def first_strokes(name: str, cfg, draws) -> tuple[int, np.ndarray]:
    """(frame, strokes int32 [H, W] of frame_size()): one of the human scribbles, else the robot's
    on the objects of a random frame; `draws` is a random.Random.

    Raises:
      ValueError: no object is large enough for a stroke.
    """
    truth = davis.masks(cfg.data_path, name)
    shape = frame_size(masks.read_mask(truth[0]).shape, cfg)
    paths = scribble_files(cfg.data_path, name)
    if paths:
        found = robot.read(draws.choice(paths), len(truth))
        t = robot.annotated_frames(found)[0]
        return t, robot.rasterize([found['scribbles'][t]], shape)[0]
    order = list(range(len(truth)))
    draws.shuffle(order)
    for t in order:
        ids = read_label(truth[t], cfg.year)
        found = robot.first_scribbles(name, ids, cfg.counts[name])
        if found['scribbles'][0]:
            return t, robot.rasterize(found['scribbles'], shape)[0]
    raise ValueError(f'{name}: {SMALL}')


def samples(root: str, name: str, truth: np.ndarray, count: int) -> list[tuple[int, dict]]:
    """[(number from 1, scribbles)] of a sequence: the human ones, or where there are none the
    robot's on the first frame that shows most objects.

    Args:
      root: of the DAVIS tree.
      name: of the sequence.
      truth: ids uint8 [T, H, W].
      count: of objects.

    Raises:
      ValueError: scribbles of another sequence or number of frames, or without a stroke.
    """
    result = []
    for number, path in enumerate(scribble_files(root, name), 1):
        found = robot.read(path, len(truth))
        if found.get('sequence', name) != name:
            raise ValueError(f'{path} is of sequence {found["sequence"]!r}, not {name!r}')
        result.append((number, found))
    if result:
        return result
    t = int(np.argmax([len(set(np.unique(ids).tolist()) - {0, VOID}) for ids in truth]))
    strokes = robot.first_scribbles(name, truth[t], count)['scribbles'][0]
    if not strokes:
        raise ValueError(f'{name}: {SMALL}')
    frames = [strokes if k == t else [] for k in range(len(truth))]
    return [(1, {'sequence': name, 'scribbles': frames, 'annotated_frame': t})]


def augment(images: list, labels: list, cfg, draws: Draws, tries: int) -> tuple[list, list]:
    """Mirrored, scaled, cropped where the first label shows more than one value, resized to a
    square.

    Args:
      images: float32 [H, W, 3].
      labels: int32 [H, W].
      cfg: uses flip, scales, size.
      draws: generators.
      tries: crops, of which the last two alone are looked at, as in the original; ENDLESS looks at
        all. Where none is good the images stay uncropped.

    Returns:
      Images float32 [S, S, 3] (bicubic, not clipped) and labels int32 [S, S] (nearest).
    """
    if draws.python.random() < cfg.flip:
        images, labels = [x[:, ::-1] for x in images], [x[:, ::-1] for x in labels]
    scale = draws.python.choice(cfg.scales)
    images, labels = resize_images(images, None, scale), resize_labels(labels, None, scale)
    height, width = images[0].shape[:2]
    rows, columns = min(cfg.size, height), min(cfg.size, width)
    for attempt in range(1, tries + 1) if tries < ENDLESS else itertools.count(1):
        top = int(draws.numpy.randint(0, height - rows + 1))
        left = int(draws.numpy.randint(0, width - columns + 1))
        part = slice(top, top + rows), slice(left, left + columns)
        enough = len(np.unique(labels[0][part])) > 1
        if enough and (tries >= ENDLESS or attempt >= tries - 1):
            images, labels = [x[part] for x in images], [x[part] for x in labels]
            break
        if attempt >= ENDLESS:
            break
    size = (cfg.size, cfg.size)
    return resize_images(images, size), resize_labels(labels, size)


def resize_images(images: list, size, scale: float | None = None) -> list:
    """Images resized to (H, W), or by a factor where that is None; bicubic, not clipped."""
    return [_resize(x, size, scale, cv2.INTER_CUBIC) for x in images]


def resize_labels(labels: list, size, scale: float | None = None) -> list:
    """Labels resized to (H, W), or by a factor where that is None; nearest."""
    return [_resize(x, size, scale, cv2.INTER_NEAREST) for x in labels]


def _resize(x, size, scale, how):
    size = size and (size[1], size[0])
    return cv2.resize(np.ascontiguousarray(x), size, fx=scale, fy=scale, interpolation=how)


def damage_mask(label: np.ndarray, draws) -> np.ndarray:
    """Labels as a network might give them: each object shifted, scaled and turned a little, painted
    in random order (FEELVOS; utils/mask_damaging.py).

    Args:
      label: int32 [H, W].
      draws: np.random.RandomState.

    Returns:
      int32 [H, W]; the label itself where an object is shifted out of it.
    """
    numbers = np.unique(label)
    numbers = numbers[(numbers > 0) & (numbers < VOID)]
    draws.shuffle(numbers)
    result = np.zeros_like(label)
    for number in numbers:
        mask = label == number
        rows, columns = np.nonzero(mask)
        most = np.sqrt(np.ptp(rows) * np.ptp(columns)) * SHIFT
        mask = ndimage.shift(mask, draws.uniform(-most, most, 2), order=0)
        rows, columns = np.nonzero(mask)
        if not len(rows):
            return label
        center = 0.5 * np.ptp(columns), 0.5 * np.ptp(rows)  # of the box's size, as the original
        mask = warp_mask(mask, center, 1 + draws.uniform(-SCALE, SCALE), 0)
        center = 0.5 * mask.shape[1], 0.5 * mask.shape[0]
        result[warp_mask(mask, center, 1, draws.uniform(-TURN, TURN))] = number
    return result


def warp_mask(mask: np.ndarray, center, scale: float, degrees: float) -> np.ndarray:
    """bool [H, W] of a bool mask scaled and turned about (x, y)."""
    turn = cv2.getRotationMatrix2D(center, -degrees, scale)
    return cv2.warpAffine(mask.astype(np.float32), turn, mask.shape[::-1]) > 0.5
