"""Examples of OSMN: a visual guide, a heat map of the previous mask, a picture and its mask
(dataset_coco.py, dataset_davis.py of the official code).

Every random draw is made in one generator from a seeded source; reading, cropping and warping are
pure functions of the draws and run in parallel. A batch is split over the scales, so that all
shapes are static. Lists of examples that take minutes to make are kept as JSON, by data path and
settings.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os

import numpy as np
import tensorflow.compat.v1 as tf
from PIL import Image
from pycocotools import mask as rle

from common import coco, davis, masks, youtube_vos
from common.videos import binary

from . import guides, npu

DRAWS = 17  # numbers an example: 8 guide, mirror, 2 centre, 2 spread, 4 borders of the picture
SPLITS = {'coco': 'train2017', 'davis': 'train', 'youtube_vos': 'train'}


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
        _bucket(cfg, k, size, count, training) for k, (size, count) in enumerate(zip(sizes, counts))
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
      ValueError: fewer examples than scales.
    """
    count = len(cfg.scales)
    if cfg.batch_size < count:
        raise ValueError(
            f'batch_size={cfg.batch_size} is less than the {count} scales {cfg.scales} that a '
            'batch is split over; use --set=scales=[1.0]'
        )
    order = np.argsort(cfg.scales, kind='stable')
    return np.bincount(order[np.arange(cfg.batch_size) % count], minlength=count).tolist()


def _bucket(cfg, k, size, count, training):
    draws = functools.partial(samples if training else plain, cfg, k)
    dataset = tf.data.Dataset.from_generator(draws, (tf.int64, tf.float64), ((), (DRAWS,)))
    shapes = [(cfg.guide_size,) * 2 + (3,), size + (1,), size + (3,), size + (1,)]

    def load(i, numbers):
        return example(cfg.examples[i], size, cfg, numbers if training else None)

    def read(i, numbers):
        tensors = tf.numpy_function(load, (i, numbers), (tf.float32,) * 4)
        for tensor, shape in zip(tensors, shapes):
            tensor.set_shape(shape)
        return dict(zip(('guide', 'heat', 'image'), tensors)), {'mask': tensors[3]}

    dataset = dataset.map(read, num_parallel_calls=cfg.workers)
    return dataset.batch(count, drop_remainder=True).prefetch(1)


def samples(cfg, k: int):
    """Endless (number of the example, float64 [DRAWS] in [0, 1)) of this process, of scale k.

    An epoch is a permutation seeded by its number, padded to a multiple of the cards and strided
    over them, so that all cards take equally many steps.
    """
    number, cards = npu.rank()
    start, count = cfg.get('start_step', 0), len(cfg.examples)
    draw = np.random.RandomState([cfg.seed, number, start % 2**31])
    mine = np.repeat(np.arange(len(cfg.scales)), parts(cfg)) == k  # places of a batch
    epoch, place = start * cfg.batch_size * cards // count, 0
    while True:
        order = np.random.RandomState([cfg.seed, epoch]).permutation(count)
        order = np.resize(order, -(-count // cards) * cards)
        for i in order[number::cards]:
            numbers = draw.random_sample(DRAWS)
            if mine[place % cfg.batch_size]:
                yield i, numbers
            place += 1
        epoch += 1


def plain(cfg, k: int):
    """Each example once."""
    del k
    for i in range(len(cfg.examples)):
        yield i, np.zeros(DRAWS)


def example(item, size: tuple[int, int], cfg, draws: np.ndarray | None = None):
    """One example.

    Args:
      item: of examples(). size: (H, W) px. draws: float64 [DRAWS] in [0, 1); None: not augmented.

    Returns:
      float32 guide [G, G, 3], heat [H, W, 1], image [H, W, 3], mask [H, W, 1].
    """
    if len(item) == 4:  # COCO: the picture is its own guide and previous frame
        picture, mask = load_coco(*item)
        guide = (picture, mask)
        borders = (0,) * 4
        if draws is not None and cfg.random_crop:
            borders = -cfg.random_crop + 2 * cfg.random_crop * draws[13:]
        pair = (Image.fromarray(picture), Image.fromarray(mask))
        image, mask = guides.resized(*pair, size[::-1], borders)
        previous, flip = mask, cfg.flip
    else:
        guide, previous, image, mask = load_video(item, size)
        flip = cfg.video_flip
    if draws is not None and draws[8] > 1 - flip:
        image, mask, previous = image[:, ::-1], mask[:, ::-1], previous[:, ::-1]
    return (
        guides.guide(*guide, cfg, draws).astype(np.float32),
        prior(previous, cfg, draws)[..., None],
        guides.normalised(image, cfg),
        mask.astype(np.float32)[..., None],
    )


def prior(mask: np.ndarray, cfg, draws: np.ndarray | None = None) -> np.ndarray:
    """The spatial guide of a previous mask uint8 [H, W]: float32 [H, W], heat map or dilated
    mask."""
    if cfg.original_mask:
        if draws is not None:
            size = 1 + cfg.std_perturb * (draws[11] - 0.5)  # 0.8 .. 1.2 in util.py
            size = max(size, 0.6)  # below 0.5 an object one pixel wide would have no size
            mask = guides.perturbed(mask, size, draws[9:11], cfg.center_perturb)
        return guides.dilated(mask)
    if draws is None:
        return guides.heat_map(mask)
    least, most = 1 / (1 + cfg.std_perturb), 1 + cfg.std_perturb
    center = cfg.center_perturb * (2 * draws[9:11] - 1)
    return guides.heat_map(mask, center, least + (most - least) * draws[11:13])


def load_coco(path: str, height: int, width: int, counts: str):
    """uint8 [H, W, 3] BGR and uint8 [H, W] of 0 and 1; ValueError where picture and annotation
    differ in size."""
    image = masks.read_image(path)
    if image.shape[:2] != (height, width):
        raise ValueError(
            f'{path} is {image.shape[1]}x{image.shape[0]}, its annotations are of {width}x{height}'
        )
    return image, rle.decode({'size': [height, width], 'counts': counts.encode()})


def load_video(item, size: tuple[int, int]):
    """((guide picture, its mask) whole, previous mask, picture, mask) the latter three of `size`;
    ValueError where a mask has another size than its frame.

    item: (guide frame, guide mask, previous mask, frame, mask, object id or 0 for all of them).
    """
    guide_path, guide_mask, previous, frame, mask, number = item
    guide, inside = _pair(guide_path, guide_mask)
    image, mask = _pair(frame, mask)
    previous = guides.resize_mask(masks.read_mask(previous), size)
    image, mask = guides.resize_image(image, size), guides.resize_mask(mask, size)
    inside, previous, mask = (binary(x, number) for x in (inside, previous, mask))
    return (guide, inside), previous, image, mask


def _pair(frame, mask):
    image, ids = masks.read_image(frame), masks.read_mask(mask)
    if image.shape[:2] != ids.shape:
        raise ValueError(
            f'{mask} is {ids.shape[1]}x{ids.shape[0]}, its frame {frame} is '
            f'{image.shape[1]}x{image.shape[0]}'
        )
    return image, ids


def examples(root: str, cfg, cache: str | None = None) -> list[tuple]:
    """The training examples of a stage.

    Args:
      root: data tree of cfg.dataset. cache: folder for lists that take long to make;
      None: they are not kept.

    Returns:
      COCO: [(picture, height, width, run lengths)], objects larger than cfg.foreground; videos:
      [(guide frame, guide mask, previous mask, frame, mask, object id)], see load_video().

    Raises:
      ValueError: there are none. FileNotFoundError: what the readers miss.
    """
    split = cfg.split or SPLITS[cfg.dataset]
    if cfg.dataset == 'coco':
        path = os.path.join(root, 'annotations', f'instances_{split}.json')
        facts = [root, split, cfg.foreground, _changed(path)]
        result = [tuple(x) for x in _cached(cache, facts, lambda: coco_list(root, split, cfg))]
    else:
        names = ('label_valid', 'bbox_valid', 'height', 'width', 'year', 'dataset')
        listed = davis.sequences(root, split, cfg.year) if cfg.dataset == 'davis' else []
        facts = [root, split, listed, _changed(root), _changed(os.path.join(root, split))]
        facts += [cfg[name] for name in names]
        found = _cached(cache, facts, lambda: video_list(root, split, cfg))
        result = video_examples(found, cfg)
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
        npu.replace_file(path, json.dumps(make()))
    with open(path) as f:
        return json.load(f)


def _changed(path):
    return os.stat(path).st_mtime_ns if os.path.exists(path) else 0


def coco_list(root: str, split: str, cfg) -> list[tuple]:
    """[(picture, height, width, run lengths)]: not crowds, covering over cfg.foreground.

    Raises:
      FileNotFoundError: a picture is missing. ValueError: an annotation of no picture.
    """
    index, paths, result = coco.index(root, split), {}, []
    for annotation in index.anns.values():
        number = annotation['image_id']
        if annotation['iscrowd']:
            continue
        if number not in index.imgs:
            raise ValueError(f'{root}: annotation {annotation["id"]} is of no picture ({number})')
        height, width = (index.imgs[number][key] for key in ('height', 'width'))
        runs = coco.run_lengths(annotation, height, width)
        if rle.area(runs) > cfg.foreground * height * width:
            if number not in paths:
                paths[number] = coco.frames(root, str(number), split)[0]
            result.append((paths[number], height, width, runs['counts'].decode()))
    return result


def video_list(root: str, split: str, cfg) -> list[list]:
    """[object id, its frames in order [(frame path, mask path)], numbers of the good guides]."""
    if cfg.dataset == 'davis':
        return [
            entry
            for name in davis.sequences(root, split, cfg.year)
            for entry in _objects(davis.pairs(root, [name]), cfg)
        ]
    result = []
    for name in youtube_vos.sequences(root, split):
        shown = {_stem(path): path for path in youtube_vos.frames(root, name, split)}
        found = {_stem(path): path for path in youtube_vos.masks(root, name, split)}
        for number, stems in youtube_vos.objects(root, name, split).items():
            pairs = [(shown[stem], found[stem]) for stem in stems if stem in found]
            result += _objects(pairs, cfg, number)
    return result


def _stem(path):
    return os.path.splitext(os.path.basename(path))[0]


def _objects(pairs, cfg, number=None):
    """Entries of the objects of one video; DAVIS leaves out frames that do not show the object."""
    read = [masks.read_mask(path) for _, path in pairs]
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
        good = [place for place, i in enumerate(kept) if good_guide(own[i], cfg)]
        if len(kept) > 1:
            yield [n, [pairs[i] for i in kept], good]


def good_guide(mask: np.ndarray, cfg) -> bool:
    """Whether an object is large enough, in the frame and in its box, to be a guide."""
    x0, y0, x1, y1 = guides.box(mask)
    area = np.count_nonzero(mask)
    return bool(
        area > cfg.label_valid * mask.size and area > cfg.bbox_valid * (x1 - x0) * (y1 - y0)
    )


def video_examples(entries: list, cfg) -> list[tuple]:
    """Examples of video_list(): each frame after the first, its guide drawn once, seeded."""
    draw, result = np.random.RandomState(cfg.seed), []
    for number, pairs, good in entries:
        good = good if good and cfg.randomize_guide else [0]
        chosen = draw.randint(0, len(good), len(pairs))
        for (_, previous), pair, k in zip(pairs[:-1], pairs[1:], chosen[1:]):
            result.append((*pairs[good[k]], previous, *pair, number))
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
