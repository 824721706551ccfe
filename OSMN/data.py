"""Examples of OSMN: a visual guide, a spatial guide of the previous mask, an image and its mask
(dataset_coco.py, dataset_davis.py of the official code).

The draws of an example come from a generator seeded by its number; reading, cropping and warping
are pure functions of the draws and run in parallel. So a run that goes on at update N takes the
examples that it would have taken. A batch is split over the scales, so that all shapes are static.
Lists of examples that take minutes to make are kept as JSON, by data path and settings. The readers
are threads: decoding and resizing, in which they spend their time, are long calls of libraries that
let other threads run.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
from typing import NamedTuple

from common import coco, davis, files, masks, youtube_vos
from common.files import stem
from common.lazy import np, rle, tf
from common.videos import binary

from . import guides, ranks

SPLITS = {'coco': 'train2017', 'davis': 'train', 'youtube_vos': 'train'}


class CocoItem(NamedTuple):
    """An object of a COCO image: the image is its own guide and its own previous frame."""

    path: str
    height: int  # px
    width: int  # px
    counts: str  # run lengths of the mask


class VideoItem(NamedTuple):
    """An object of a video: all are paths, but its number, 0 for all objects as one."""

    guide: str
    guide_mask: str
    previous_mask: str
    frame: str
    mask: str
    number: int


class Track(NamedTuple):
    """An object of a training video."""

    number: int
    pairs: list  # [(frame path, mask path)] in order
    good: list  # indices of the pairs that are large enough to be a guide


def input_fn(cfg, training: bool) -> tf.data.Dataset:
    """Examples for the Estimator: endless and augmented for training, else each once.

    Args:
      cfg: uses examples of examples(), batch_size, height, width, scales, seed, workers,
        start_step and the settings of guides.py.
      training: shuffle, augment, repeat, all scales; else the first size, batches of one.

    Returns:
      Dataset of (features, labels) with, for the part k of the batch at scale k: 'guide_k' float32
      [b, G, G, 3], 'heat_k' float32 [b, h, w, 1], 'image_k' float32 [b, h, w, 3]; 'mask_k' float32
      [b, h, w, 1], 0 or 1.
    """
    sizes = scaled_sizes(cfg) if training else [(cfg.height, cfg.width)]
    counts = parts(cfg) if training else [1]
    read = [
        _part(cfg, k, size, count, training) for k, (size, count) in enumerate(zip(sizes, counts))
    ]

    def merge(*pairs):
        features, labels = {}, {}
        for k, (inputs, outputs) in enumerate(pairs):
            features.update({f'{key}_{k}': x for key, x in inputs.items()})
            labels.update({f'{key}_{k}': x for key, x in outputs.items()})
        return features, labels

    return tf.data.Dataset.zip(tuple(read)).map(merge).prefetch(2)


def scaled_sizes(cfg) -> list[tuple[int, int]]:
    """(H, W) of the input at every scale."""
    return [(int(cfg.height * s), int(cfg.width * s)) for s in cfg.scales]


def parts(cfg) -> list[int]:
    """How many examples of a batch each scale gets, as equal as can be, the largest scale fewest.

    Raises:
      ValueError: fewer examples than scales, or a scale that is not above 0.
    """
    count = len(cfg.scales)
    if not cfg.scales or min(cfg.scales) <= 0:
        raise ValueError(f'scales={cfg.scales}: expected numbers above 0, such as [0.8, 1.0, 1.2]')
    if cfg.batch_size < count:
        raise ValueError(
            f'batch_size={cfg.batch_size} is less than the {count} scales {cfg.scales} that a '
            'batch is split over; use --set=scales=[1.0]'
        )
    order = np.argsort(cfg.scales, kind='stable')
    return np.bincount(order[np.arange(cfg.batch_size) % count], minlength=count).tolist()


def _part(cfg, k, size, count, training):
    draws = functools.partial(training_samples if training else plain_samples, cfg, k)
    dataset = tf.data.Dataset.from_generator(draws, (tf.int64, tf.float64), ((), (guides.COUNT,)))
    height, width = size
    shapes = {
        'guide': (cfg.guide_size, cfg.guide_size, 3),
        'heat': (height, width, 1),
        'image': (height, width, 3),
        'mask': (height, width, 1),
    }

    def load(index, numbers):
        draws = guides.draws_of(numbers) if training else None
        return example(cfg.examples[index], size, cfg, draws)

    def read(index, numbers):
        tensors = tf.numpy_function(load, (index, numbers), (tf.float32,) * len(shapes))
        for tensor, shape in zip(tensors, shapes.values()):
            tensor.set_shape(shape)
        guide, heat, image, mask = tensors
        return {'guide': guide, 'heat': heat, 'image': image}, {'mask': mask}

    dataset = dataset.map(read, num_parallel_calls=max(1, cfg.workers))
    return dataset.batch(count, drop_remainder=True).prefetch(1)


def training_samples(cfg, k: int):
    """Endless (index of the example, float64 [guides.COUNT] in [0, 1)) of this process's share and
    of scale k, from that of update cfg.start_step on.

    An epoch is a permutation seeded by its number, padded to a multiple of the cards and strided
    over them, so that all cards take equally many steps.
    """
    rank, cards = ranks.rank()
    length = -(-len(cfg.examples) // cards) * cards  # of an epoch over all cards
    scale_of = np.repeat(np.arange(len(cfg.scales)), parts(cfg))  # of every example of a batch
    first = cfg.get('start_step', 0) * cfg.batch_size
    epoch, order = None, None
    for mine in itertools.count(first):
        if scale_of[mine % cfg.batch_size] != k:
            continue
        number = mine * cards + rank  # among the examples of all cards
        if number // length != epoch:
            epoch = number // length
            order = np.random.RandomState([cfg.seed, epoch]).permutation(len(cfg.examples))
            order = np.resize(order, length)
        draw = np.random.RandomState([cfg.seed, number // 2**32, number % 2**32, 1])
        yield order[number % length], draw.random_sample(guides.COUNT)


def plain_samples(cfg, k: int):
    """Each example once, not augmented."""
    del k
    for index in range(len(cfg.examples)):
        yield index, np.zeros(guides.COUNT)


def example(item, size: tuple[int, int], cfg, draws: guides.Draws | None = None):
    """One example.

    Args:
      item: CocoItem or VideoItem.
      size: (H, W) px.
      cfg: uses the settings of guides.py, flip, video_flip and random_crop.
      draws: of the augmentation; None: not augmented.

    Returns:
      float32 guide [G, G, 3], heat [H, W, 1], image [H, W, 3], mask [H, W, 1].
    """
    if isinstance(item, CocoItem):
        whole, mask = load_coco(item)
        guide = (whole, mask)
        borders = (0, 0, 0, 0)
        if draws is not None and cfg.random_crop:
            borders = -cfg.random_crop + 2 * cfg.random_crop * draws.borders
        image, mask = guides.resize_pair(whole, mask, size, borders)
        previous, flip = mask, cfg.flip
    else:
        guide, previous, image, mask = load_video(item, size)
        flip = cfg.video_flip
    if draws is not None and draws.mirror > 1 - flip:
        image, mask, previous = image[:, ::-1], mask[:, ::-1], previous[:, ::-1]
    return (
        guides.guide(*guide, cfg, draws).astype(np.float32),
        spatial_guide(previous, cfg, draws)[..., None],
        guides.subtract_mean(image, cfg),
        mask.astype(np.float32)[..., None],
    )


def spatial_guide(mask: np.ndarray, cfg, draws: guides.Draws | None = None) -> np.ndarray:
    """The spatial guide of a previous mask uint8 [H, W]: float32 [H, W], heat map or dilated
    mask."""
    if cfg.original_mask:
        if draws is not None:
            size = 1 + cfg.std_perturb * (draws.spread[0] - 0.5)  # 0.8 .. 1.2 in util.py
            size = max(size, 0.6)  # below 0.5 an object one pixel wide would have no size
            mask = guides.perturb(mask, size, draws.center, cfg.center_perturb)
        return guides.dilate(mask)
    if draws is None:
        return guides.heat_map(mask)
    least, most = 1 / (1 + cfg.std_perturb), 1 + cfg.std_perturb
    center = cfg.center_perturb * (2 * draws.center - 1)
    return guides.heat_map(mask, center, least + (most - least) * draws.spread)


def load_coco(item: CocoItem) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [H, W, 3] BGR and uint8 [H, W] of 0 and 1.

    Raises:
      ValueError: image and annotation differ in size.
    """
    image = masks.read_image(item.path)
    if image.shape[:2] != (item.height, item.width):
        raise ValueError(
            f'{item.path} is {image.shape[1]}x{image.shape[0]}, its annotations are of '
            f'{item.width}x{item.height}'
        )
    return image, rle.decode({'size': [item.height, item.width], 'counts': item.counts.encode()})


def load_video(item: VideoItem, size: tuple[int, int]):
    """((guide image, its mask) whole, previous mask, image, mask), the latter three of `size`.

    Raises:
      ValueError: a mask has another size than its frame.
    """
    guide, inside = _pair(item.guide, item.guide_mask)
    image, mask = _pair(item.frame, item.mask)
    previous = guides.resize_mask(masks.read_mask(item.previous_mask), size)
    image, mask = guides.resize_image(image, size), guides.resize_mask(mask, size)
    inside, previous, mask = (binary(x, item.number) for x in (inside, previous, mask))
    return (guide, inside), previous, image, mask


def _pair(frame, mask):
    image, ids = masks.read_image(frame), masks.read_mask(mask)
    if image.shape[:2] != ids.shape:
        raise ValueError(
            f'{mask} is {ids.shape[1]}x{ids.shape[0]}, its frame {frame} is '
            f'{image.shape[1]}x{image.shape[0]}'
        )
    return image, ids


def examples(root: str, cfg, cache: str | None = None) -> list:
    """The training examples of a stage.

    Args:
      root: data tree of cfg.dataset.
      cfg: uses dataset, year, split, seed and the settings that choose examples and guides.
      cache: folder for lists that take long to make; None: they are not kept.

    Returns:
      COCO: [CocoItem] of objects larger than cfg.foreground; videos: [VideoItem].

    Raises:
      ValueError: there are none. FileNotFoundError: what the readers miss.
    """
    split = cfg.split or SPLITS[cfg.dataset]
    if cfg.dataset == 'coco':
        path = os.path.join(root, 'annotations', f'instances_{split}.json')
        facts = [root, split, cfg.foreground, _changed(path)]
        found = _cached(cache, facts, lambda: coco_list(root, split, cfg))
        result = [CocoItem(*entry) for entry in found]
    else:
        names = ('label_valid', 'bbox_valid', 'height', 'width', 'year', 'dataset')
        listed = davis.sequences(root, split, cfg.year) if cfg.dataset == 'davis' else []
        facts = [root, split, listed, _changed(root), _changed(os.path.join(root, split))]
        facts += [cfg[name] for name in names]
        found = _cached(cache, facts, lambda: video_list(root, split, cfg))
        result = video_examples([Track(*entry) for entry in found], cfg)
    if not result:
        raise ValueError(f'no examples of {cfg.dataset} in {root}, split {split}: no object passes')
    return result


def _cached(folder, facts, make):
    if folder is None:
        return make()
    name = hashlib.sha1(json.dumps(facts).encode()).hexdigest()[:12]
    path = os.path.join(folder, f'examples_{name}.json')
    if not os.path.isfile(path):
        os.makedirs(folder, exist_ok=True)
        files.write_text(path, json.dumps(make()))
    return files.read_json(path)


def _changed(path):
    return os.stat(path).st_mtime_ns if os.path.exists(path) else 0


def coco_list(root: str, split: str, cfg) -> list[CocoItem]:
    """The objects of a split that are no crowds and cover more than cfg.foreground of their image.

    Raises:
      FileNotFoundError: an image is missing. ValueError: an annotation of no image.
    """
    index, paths, result = coco.index(root, split), {}, []
    for annotation in index.anns.values():
        number = annotation['image_id']
        if annotation['iscrowd']:
            continue
        if number not in index.imgs:
            raise ValueError(f'{root}: annotation {annotation["id"]} is of no image ({number})')
        height, width = (index.imgs[number][key] for key in ('height', 'width'))
        runs = coco.run_lengths(annotation, height, width)
        if rle.area(runs) > cfg.foreground * height * width:
            if number not in paths:
                paths[number] = coco.frames(root, str(number), split)[0]
            result.append(CocoItem(paths[number], height, width, runs['counts'].decode()))
    return result


def video_list(root: str, split: str, cfg) -> list[Track]:
    """The objects of a split's videos that are seen in two frames at least."""
    result = []
    if cfg.dataset == 'davis':
        for name in davis.sequences(root, split, cfg.year):
            result += _tracks(davis.pairs(root, [name]), cfg)
        return result
    for name in youtube_vos.sequences(root, split):
        shown = {stem(path): path for path in youtube_vos.frames(root, name, split)}
        found = {stem(path): path for path in youtube_vos.masks(root, name, split)}
        for number, names in youtube_vos.objects(root, name, split).items():
            pairs = [(shown[frame], found[frame]) for frame in names if frame in found]
            result += _tracks(pairs, cfg, number)
    return result


def _tracks(pairs, cfg, number=None):
    """The objects of one video; without `number`, as of DAVIS, frames that do not show an object
    are left out."""
    first = masks.read_mask(pairs[0][1], void=True) if pairs else np.zeros(1, np.uint8)
    has_ids = bool(set(np.unique(first).tolist()) - {0, 255})  # then 255 is void, else the object
    read = [masks.read_mask(path, void=has_ids) for _, path in pairs]
    if number is not None:
        numbers = [number]
        read = [guides.resize_mask(mask, (cfg.height, cfg.width)) for mask in read]
    elif cfg.year == '2016':
        numbers = [0]
    else:
        numbers = [int(n) for n in np.unique(read[0]) if 0 < n < 255]
    for n in numbers:
        own = [binary(mask, n) for mask in read]
        kept = [i for i, mask in enumerate(own) if number is not None or mask.any()]
        good = [k for k, i in enumerate(kept) if good_guide(own[i], cfg)]
        if len(kept) > 1:
            yield Track(n, [pairs[i] for i in kept], good)


def good_guide(mask: np.ndarray, cfg) -> bool:
    """Whether an object is large enough, in the frame and in its box, to be a guide."""
    x0, y0, x1, y1 = guides.box(mask)
    area = np.count_nonzero(mask)
    return bool(
        area > cfg.label_valid * mask.size and area > cfg.bbox_valid * (x1 - x0) * (y1 - y0)
    )


def video_examples(tracks: list[Track], cfg) -> list[VideoItem]:
    """Each frame after the first of every track, its guide drawn once, seeded."""
    draw, result = np.random.RandomState(cfg.seed), []
    for track in tracks:
        good = track.good if track.good and cfg.randomize_guide else [0]
        chosen = draw.randint(0, len(good), len(track.pairs))
        for t in range(1, len(track.pairs)):
            guide, guide_mask = track.pairs[good[chosen[t]]]
            frame, mask = track.pairs[t]
            previous_mask = track.pairs[t - 1][1]
            result.append(VideoItem(guide, guide_mask, previous_mask, frame, mask, track.number))
    return result


def network_size(shape: tuple[int, int], cfg) -> tuple[int, int]:
    """(H, W) of a frame (H, W) in the network: the test size, or its height and the frame's
    aspect; lite takes multiples of 32."""
    height, width = cfg.test_height, cfg.test_width
    if not width:
        scale = height / min(shape)
        height, width = (int(n * scale + 0.5) for n in shape)
    if cfg.base_model == 'lite':
        height, width = (max(32, int(n / 32 + 0.5) * 32) for n in (height, width))
    return height, width
