"""Pairs of crops: which two, how they are changed (SiamMask section 4.1;
datasets/siam_mask_dataset.py of the official code).

    <root>/<set>/crop511/<video>/<frame:06d>.<track:02d>.x.jpg   511 px around the object, BGR
    <root>/<set>/crop511/<video>/<frame:06d>.<track:02d>.m.png   its mask, 0/255: WITH_MASKS
    <root>/<set>/train.json                                      video -> track -> frame -> box

Two generators a pair, seeded by its number, are drawn from in the order of the original: the same
draws give the same pair, and a run that goes on at update N takes the pairs that it would have
taken. The readers are processes: a pair is many small calls of Python and OpenCV.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import itertools
import os
import random

from common import files, masks, processes
from common.lazy import cv2, np, tf

from . import ranks
from .losses import targets
from .model import PATCH, STRIDE, TEMPLATE
from .tracker import CROP, box_in_crop, warp_window

WITH_MASKS = ('coco', 'ytb_vos', 'davis')  # sets that have masks (PT)
LARGEST = 1e6  # px: coordinates that can be
COLORS = (  # directions of the color noise, R, G, B gray levels (PT rgbVar)
    (-0.55919361, 0.98062831, -0.41940627),
    (1.72091413, 0.19879334, -1.82968581),
    (4.64467907, 4.73710203, 4.88324118),
)


def input_fn(cfg, training: bool) -> tf.data.Dataset:
    """Batches (features, labels) of model.network() and losses.losses(), from that of update
    cfg.start_step on; outside training 128 pairs, once, of draws that no training uses."""
    rank, cards = ranks.rank() if training else (0, 1)
    first = cfg.get('start_step', 0) * cfg.batch_size * cards + rank if training else 0
    shapes, types = signature(cfg)

    def batches():
        return processes.batches(examples(cfg, first, cards, training), cfg.batch_size)

    return tf.data.Dataset.from_generator(batches, types, shapes).prefetch(2)


def signature(cfg) -> tuple:
    """(shapes, types) of a batch, each ({features}, {labels})."""
    n, k, s = cells_a_side(cfg), slots(cfg), cfg.search_size
    features = {
        'template': ([TEMPLATE, TEMPLATE, 3], tf.float32),
        'search': ([s, s, 3], tf.float32),
        'cell': ([k], tf.int32),
    }
    labels = {
        'cls': ([n, n, 5], tf.int32),
        'loc': ([n, n, 4, 5], tf.float32),
        'loc_weight': ([n, n, 5], tf.float32),
        'mask_weight': ([k], tf.float32),
        'mask': ([k, PATCH, PATCH], tf.int8),
    }
    parts = (features, labels)
    shapes = tuple(
        {key: tf.TensorShape([cfg.batch_size, *shape]) for key, (shape, _) in part.items()}
        for part in parts
    )
    return shapes, tuple({key: kind for key, (_, kind) in part.items()} for part in parts)


def cells_a_side(cfg) -> int:
    """N of the score map of the training image: 25 of 255 px, 3 of 143 px."""
    return (cfg.search_size - TEMPLATE) // STRIDE + 1 + cfg.base_size


def slots(cfg) -> int:
    """Masks an image: at most as many as positives or cells."""
    return min(cfg.positives, cells_a_side(cfg) ** 2)


@contextlib.contextmanager
def readers(cfg):
    """cfg.workers processes that make the pairs of examples() inside; without, this one does."""
    sets = load_sets(cfg.crops, cfg)
    with processes.readers(functools.partial(example, sets, cfg, True), cfg.workers):
        yield


def examples(cfg, first: int, step: int, training: bool):
    """Examples number first, first + step, ..., in order; RuntimeError where a process is dead."""
    sets = load_sets(cfg.crops, cfg)
    every = itertools.chain.from_iterable(video_cycles(sets, cfg.seed))
    jobs = itertools.islice(enumerate(every), first, None, step)  # (its number, its video)
    if not training:
        jobs = itertools.islice(jobs, 128)
    if training and processes.running():
        yield from processes.results(jobs)
    else:
        yield from (example(sets, cfg, training, *job) for job in jobs)


def example(sets: list[dict], cfg, training: bool, number: int, video: int) -> tuple[dict, dict]:
    """(features, labels) of pair `number`, whose template shows the video `video`."""
    seed = (cfg.seed * 2 + (not training)) % 2**31
    draws = random.Random(seed * 2**40 + number), np.random.RandomState([seed, number])
    return pack(make_pair(sets, video, cfg, draws), cfg)


def load_sets(crops: dict, cfg) -> list[dict]:
    """The sets of cfg.datasets, in order: [{name, root, start (number of its first video), videos
    [(name, [(track, frames, sizes)])], use (pairs a cycle), range (frames), masks}].

    Args:
      crops: {set: folder that has its crop511 and json}.

    Raises:
      FileNotFoundError, ValueError: what is missing, or has no boxes.
    """
    result, start = [], 0
    for name, use, radius, file_name in cfg.datasets:
        if name not in crops:
            raise ValueError(f'no data set {name!r}; there are {", ".join(sorted(crops))}')
        path = os.path.join(crops[name], file_name)
        if not os.path.isfile(path):
            raise FileNotFoundError(f'no {path}; `python -m SiamMask.prepare` writes it')
        videos = _videos(path, os.stat(path).st_mtime_ns)
        if not videos:
            raise ValueError(f'{path} has no boxes')
        entry = dict(
            name=name,
            root=os.path.join(crops[name], 'crop511'),
            start=start,
            videos=videos,
            use=use or len(videos),
            range=radius,
            masks=name in WITH_MASKS,
        )
        result.append(entry)
        start += len(videos)
    return result


@functools.lru_cache(maxsize=8)  # lists of a million boxes: readers and generator share them
def _videos(path, _changed):
    try:
        found = [_video(name, tracks) for name, tracks in files.read_json(path).items()]
    except (AttributeError, TypeError, IndexError, ValueError) as error:
        raise ValueError(
            f'{path} is no list of crops: expected {{video: {{track: {{frame: box}}}}}} ({error})'
        ) from None
    return [(name, tracks) for name, tracks in found if tracks]


def _video(name, tracks):
    result = []
    files.path_inside(name, 'a video')
    for track, boxes in tracks.items():
        files.plain_name(track, name)
        sizes = {int(frame): _size(box) for frame, box in boxes.items() if frame.isdigit()}
        frames = sorted(f for f, (w, h) in sizes.items() if w > 0 and h > 0)
        if frames:
            result.append((track, frames, [sizes[f] for f in frames]))
    return name, result


def _size(box):
    if len(box) not in (2, 4) or not all(files.is_number(v, -LARGEST, LARGEST) for v in box):
        raise ValueError(f'{str(box)[:60]} is no box')
    return tuple(box) if len(box) == 2 else (box[2] - box[0], box[3] - box[1])


def video_cycles(sets: list[dict], seed: int):
    """Cycles of video numbers: each set's videos shuffled and repeated, the sets then mixed."""
    draw = random.Random(seed)

    def shuffled(entry):
        numbers = list(range(entry['start'], entry['start'] + len(entry['videos'])))
        result = []
        while len(result) < entry['use']:
            draw.shuffle(numbers)
            result += numbers
        return result[: entry['use']]

    for entry in sets:  # the original shuffles each set once when it is made
        shuffled(entry)
    while True:
        cycle = [number for entry in sets for number in shuffled(entry)]
        draw.shuffle(cycle)
        yield cycle


def make_pair(sets: list[dict], video: int, cfg, draws: tuple) -> dict:
    """One pair.

    Args:
      sets: of load_sets().
      video: number of the template's video.
      cfg: uses the settings of augmentation and targets.
      draws: (random.Random, numpy RandomState).

    Returns:
      template float32 [127, 127, 3], search float32 [S, S, 3], box float64 [4] (corners in the
      search image), cls int64 [5, N, N], loc float32 [4, 5, N, N], loc_weight float32 [5, N, N],
      mask int8 [S, S] of 1 and -1, mask_weight [N, N] of 1, 0 and -1.

    Raises:
      FileNotFoundError, ValueError: a crop is missing, damaged or has another size.
    """
    uniform = draws[0]
    entry = sets[bisect.bisect([s['start'] for s in sets], video) - 1]
    gray = bool(cfg.gray) and cfg.gray > uniform.random()
    negative = bool(cfg.negative) and cfg.negative > uniform.random()
    number = video - entry['start']
    if negative:
        template = _target(entry, number, uniform)
        inner = bool(cfg.inner_negative) and cfg.inner_negative > uniform.random()
        other = entry if inner else uniform.choice(sets)
        search = _target(other, uniform.randint(0, len(other['videos']) - 1), uniform)
    else:
        template, search = _positive(entry, number, uniform)
    with_mask = entry['masks'] and not negative
    image, mask = _read(search[0] + '.x.jpg'), None
    if with_mask:
        mask = (_read(search[0] + '.m.png')[..., 0] > 0).astype(np.float32)
    first = augment(
        _read(template[0] + '.x.jpg'),
        box_in_crop(template[1]),
        size=TEMPLATE,
        shift=cfg.template_shift,
        scale=cfg.template_scale,
        blur=0.0,
        gray=gray,
        draws=draws,
    )
    second = augment(
        image,
        box_in_crop(search[1]),
        size=cfg.search_size,
        shift=cfg.search_shift,
        scale=cfg.search_scale,
        blur=cfg.search_blur,
        gray=gray,
        draws=draws,
        mask=mask,
    )
    labels = targets(second['box'], cells_a_side(cfg), cfg, negative, draws[1])
    if with_mask:
        weight = labels['cls'].max(0)
    else:
        weight = np.zeros(labels['cls'].shape[1:], np.int64)
    return dict(
        labels,
        template=first['image'],
        search=second['image'],
        box=second['box'],
        mask=second['mask'],
        mask_weight=weight,
    )


def _positive(entry, number, uniform):
    video, tracks = entry['videos'][number]
    track, frames, boxes = uniform.choice(tracks)
    f = uniform.randint(0, len(frames) - 1)
    near = range(max(f - entry['range'], 0), min(f + entry['range'], len(frames) - 1) + 1)
    return tuple(_crop(entry, video, track, frames[i], boxes[i]) for i in (f, uniform.choice(near)))


def _target(entry, number, uniform):
    video, tracks = entry['videos'][number]
    track, frames, boxes = uniform.choice(tracks)
    i = uniform.choice(range(len(frames)))
    return _crop(entry, video, track, frames[i], boxes[i])


def _crop(entry, video, track, frame, size):
    return os.path.join(entry['root'], video, f'{frame:06d}.{track}'), size


def _read(path):
    if not os.path.isfile(path):
        raise FileNotFoundError(f'no crop at {path}; python -m SiamMask.prepare cuts them')
    image = masks.read_image(path)
    if image.shape[:2] != (CROP, CROP):
        raise ValueError(f'{path} is {image.shape[1]}x{image.shape[0]}, crops are {CROP}x{CROP}')
    return image


def augment(
    image: np.ndarray,
    box: np.ndarray,
    size: int,
    shift: float,
    scale: float,
    blur: float,
    gray: bool,
    draws: tuple,
    mask: np.ndarray | None = None,
) -> dict:
    """A window of a crop, moved, stretched, its colors shifted, perhaps blurred.

    Args:
      image: uint8 [511, 511, 3] BGR.
      box: corners in it.
      size: px of the result.
      shift: px by which the window moves.
      scale: share by which the window is stretched.
      blur: probability.
      gray: without colors.
      draws: (random.Random, numpy RandomState).
      mask: float32 [511, 511] of 0 and 1.

    Returns:
      image float32 [size, size, 3], not clipped; box; mask int8 [size, size] of 1 and -1.
    """
    uniform, normal = draws
    if gray:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    move, stretch = [0.0, 0.0], [1.0, 1.0]
    if shift:
        move = [(uniform.random() * 2 - 1) * shift for _ in range(2)]
    if scale:
        stretch = [1 + (uniform.random() * 2 - 1) * scale for _ in range(2)]
    side, half = image.shape[0], (size - 1) * 0.5
    center = side // 2
    window = np.empty(4)
    for k in range(2):
        radius = min(stretch[k], side / (size - 1)) * half
        low, high = center - radius, center + radius
        moved = max(-low, min(side - 1 - high, move[k]))
        window[[k, k + 2]] = low + moved, high + moved
    box = (box - window[[0, 1, 0, 1]]) / np.array(stretch * 2)
    image = warp_window(image, window, size)
    offset = np.dot(np.array(COLORS, np.float32), normal.randn(3, 1))[::-1].reshape(3)
    image = (image - offset).astype(np.float64)
    if blur > uniform.random():
        image = _blur(image, uniform, normal)
    if mask is None:
        inside = np.zeros((size, size), bool)
    else:
        inside = warp_window(mask, window, size) > 0.5
    mask = np.where(inside, 1, -1).astype(np.int8)
    return {'image': image.astype(np.float32), 'box': box, 'mask': mask}


def _blur(image, uniform, normal):
    size = int(np.round(normal.randn(1))[0]) * 2 + 1
    if size < 0 or uniform.random() < 0.5:
        return image
    size = min(size, 45)  # px (PT)
    kernel, across = np.zeros((size, size)), uniform.random()
    kernel[:, size // 2] += across / size
    kernel[size // 2] += (1 - across) / size
    return cv2.filter2D(image, -1, kernel)


def pack(found: dict, cfg) -> tuple[dict, dict]:
    """A pair in the network's layout: K slots with the mask of a cell each, empty ones of weight
    0; 143 px images have a slot a cell.

    Args:
      found: of make_pair().
      cfg: uses positives, search_size, base_size.
    """
    side, count = found['mask_weight'].shape[0], slots(cfg)
    weight = (found['mask_weight'].ravel() == 1).astype(np.float32)
    order = np.arange(count) if count == weight.size else np.argsort(-weight, kind='stable')
    cell = order[:count].astype(np.int32)
    border = (STRIDE * (side - 1) + PATCH - cfg.search_size) // 2  # 32 px of 255, 0 of 143
    padded = np.pad(found['mask'], border, 'constant')
    patches = np.zeros((count, PATCH, PATCH), np.int8)
    for k in np.flatnonzero(weight[cell]):
        row, column = divmod(int(cell[k]), side)
        row, column = STRIDE * row, STRIDE * column
        patches[k] = padded[row : row + PATCH, column : column + PATCH]
    features = {'template': found['template'], 'search': found['search'], 'cell': cell}
    labels = {
        'cls': found['cls'].transpose(1, 2, 0).astype(np.int32),
        'loc': found['loc'].transpose(2, 3, 0, 1),
        'loc_weight': found['loc_weight'].transpose(1, 2, 0),
        'mask_weight': weight[cell],
        'mask': patches,
    }
    return features, labels
