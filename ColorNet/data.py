"""Clips of unlabelled video, or of one picture warped, in two views (ColorNet section 4.1;
datasets/dataloader_video_my_dul.py and dataloader_video_my_coco.py of the official code).

    <root>/filelists/train_ytvos.txt    paths of frames relative to <root>, a video a folder
    else YouTube-VOS (train/JPEGImages, JPEGImages), else DAVIS; --coco: COCO/train2017

Two seeded generators a clip are drawn from in the order of the original: the same draws give the
same clip. One clip a video a pass.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import itertools
import os
import random

import cv2
import numpy as np
import tensorflow.compat.v1 as tf
from PIL import Image, ImageOps

from common import davis, masks, processes, youtube_vos

from . import augment, npu, views
from .losses import ANCHORS, CROSS
from .model import has_dul

FILE_LIST = os.path.join('filelists', 'train_ytvos.txt')
CHECKED = 64  # clips outside training


def input_fn(cfg, training: bool) -> tf.data.Dataset:
    """Batches (features, labels) of model.network() and losses.losses(), from that of update
    cfg.start_step on; outside training CHECKED clips, once, of draws that no training uses."""
    cards = npu.rank()[1] if training else 1
    first = cfg.get('start_step', 0) * cfg.batch_size * cards if training else 0
    first += npu.rank()[0] * (cards > 1)
    shapes, types = signature(cfg)
    clips = functools.partial(examples, cfg, first, cards, training)
    found = tf.data.Dataset.from_generator(clips, types, shapes)
    return found.batch(cfg.batch_size, drop_remainder=True).prefetch(2)


def signature(cfg):
    """Shapes and types of one clip, ({features}, {labels})."""
    count, size = cfg.video_len, cfg.size
    cells, frames = (size // views.STRIDE) ** 2, [count, size, size, 3]
    shapes = ({}, {})
    if cfg.model_size != 'DUL':
        shapes[0].update(main=frames, second=frames)
        shapes[1].update(
            target=[count, cells, 64, 3], range=[4], weight=[count, cells, 64],
            index=[count, cells],
        )  # fmt: skip
    if has_dul(cfg):
        shapes[0].update(dul1=frames, dul2=frames)
        shapes[1].update(
            align=[count, cells], inside=[count, cells], anchor=[ANCHORS**2], cross=[CROSS**2]
        )
    kinds = dict.fromkeys(('index', 'align', 'anchor', 'cross'), tf.int32)
    kinds.update(dict.fromkeys(('main', 'dul1', 'dul2', 'target', 'weight'), tf.uint8))
    types = tuple({key: kinds.get(key, tf.float32) for key in part} for part in shapes)
    return tuple({key: tf.TensorShape(v) for key, v in part.items()} for part in shapes), types


@contextlib.contextmanager
def readers(cfg):
    """cfg.workers processes that make the clips of examples() inside; without, this one does."""
    with processes.readers(functools.partial(_made, cfg, True), cfg.workers):
        yield


def examples(cfg, first: int, step: int, training: bool):
    """Clips number first, first + step, ..., in order."""
    numbers = itertools.islice(_numbers(cfg), first, None if training else CHECKED, step)
    if training and processes.running():
        yield from processes.results(numbers)
    else:
        yield from (_made(cfg, training, *job) for job in numbers)


def _numbers(cfg):
    """(number of the clip, number of its video), for ever: passes over shuffled videos, cut to
    whole batches of all cards."""
    count, whole = len(cfg.examples), cfg.batch_size * npu.rank()[1]
    length = count // whole * whole or count
    for epoch in itertools.count():
        order = np.random.RandomState([cfg.seed, epoch]).permutation(count)[:length]
        yield from ((epoch * length + i, int(video)) for i, video in enumerate(order))


def _made(cfg, training, number, video):
    seed = (cfg.seed * 2 + (not training)) % 2**31
    draws = random.Random(seed * 2**40 + number), np.random.RandomState([seed, number])
    return sample(cfg.examples[video], cfg, draws)


def steps_an_epoch(cfg) -> int:
    """Updates of one pass, the last batch left out where it is not whole."""
    return max(1, len(cfg.examples) // (cfg.batch_size * npu.rank()[1]))


def find(root: str, cfg) -> list[list[str]]:
    """The videos with at least cfg.video_len frames as lists of paths; pictures as lists of one.

    Raises:
      FileNotFoundError: no data, naming what was tried. ValueError: none that is long enough.
    """
    if cfg.dataset == 'coco':
        return [[path] for path in _pictures(root)]
    videos = _videos(root, cfg)
    long = [frames for frames in videos if len(frames) >= cfg.video_len]
    if not long:
        raise ValueError(
            f'{root}: none of its {len(videos)} videos has {cfg.video_len} frames (video_len)'
        )
    return long


def check(root: str, cfg) -> dict:
    """Counts {'sequences', 'frames'} of find(); FileNotFoundError where listed frames are absent,
    the first three by name."""
    found = find(root, cfg)
    missing = [path for frames in found for path in frames if not os.path.isfile(path)]
    if missing:
        raise FileNotFoundError(f'{len(missing)} frames are missing, first: {missing[:3]}')
    return {'sequences': len(found), 'frames': sum(map(len, found))}


def _videos(root, cfg):
    path = cfg.file_list or os.path.join(root, FILE_LIST)
    if cfg.file_list or os.path.isfile(path):
        return listed(path, root)
    for name in ('', 'YouTubeVOS', 'YouTube-VOS', 'train'):
        tree = os.path.join(root, name)
        frames = any(os.path.isdir(os.path.join(tree, s, 'JPEGImages')) for s in ('train', ''))
        if frames and not os.path.isdir(os.path.join(tree, 'JPEGImages', '480p')):
            return [youtube_vos.frames(tree, n) for n in youtube_vos.sequences(tree)]
    try:
        tree = davis.resolve(root)
    except FileNotFoundError:
        raise FileNotFoundError(
            f'no videos at {root}: tried {FILE_LIST} (paths of frames), JPEGImages/<video>/ and '
            'train/JPEGImages/<video>/ there and in YouTubeVOS/, and DAVIS (JPEGImages/480p)'
        ) from None
    return [davis.frames(tree, n) for n in davis.sequences(tree, 'train', '2017')]


def listed(path: str, root: str) -> list[list[str]]:
    """Videos of a file list: a frame's path a line, relative to `root`, first word; a new video
    where the folder changes.

    Raises:
      FileNotFoundError: no such file. ValueError: nothing in it, or a line without a folder.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f'file_list: no such file: {os.path.abspath(path)}')
    with open(path) as f:
        lines = [line.split()[0].lstrip('/') for line in f if line.strip()]
    if not lines or not all(os.path.dirname(line) for line in lines):
        raise ValueError(f'{path}: expected lines such as JPEGImages/<video>/00000.jpg')
    groups = itertools.groupby(lines, lambda line: os.path.dirname(line).split('/')[-1])
    return [[os.path.join(root, line) for line in group] for _, group in groups]


def _pictures(root):
    tried = [os.path.join(root, *parts, 'train2017') for parts in ((), ('COCO',), ('coco',))]
    tried += [os.path.join(folder, 'images', 'train2017') for folder in (root, f'{root}/coco')]
    for folder in tried:
        found = sorted(p for p in glob.glob(os.path.join(glob.escape(folder), '*'))
                       if p.lower().endswith(masks.IMAGE_ENDINGS))  # fmt: skip
        if found:
            return found
    raise FileNotFoundError(f'--coco: no pictures in {", ".join(tried)}')


def read(path: str):
    """PIL image, R, G, B, of a picture of any kind; ValueError where it is none."""
    try:
        with Image.open(path) as image:
            return image.convert('RGB')
    except FileNotFoundError:
        raise FileNotFoundError(f'no frame at {os.path.abspath(path)}') from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f'{os.path.abspath(path)} is no readable picture: {error}') from None


def sample(frames: list[str], cfg, draws) -> tuple[dict, dict]:
    """One clip of a video, or of one picture with dataset='coco'.

    Args:
      frames: paths. draws: (random.Random, numpy RandomState).

    Returns:
      (features, labels) as signature() lists them, numpy arrays.

    Raises:
      FileNotFoundError, ValueError: a frame is missing, unreadable, or of another size.
    """
    if cfg.dataset == 'coco':
        liquid, (images, plain) = False, _clip_of_picture(frames[0], cfg, draws)
    else:
        liquid = not draws[0].random() < 0.5 and cfg.is_liquid
        images, plain = _clip_of_video(frames, cfg, draws)
    features, labels = {}, {}
    if cfg.model_size != 'DUL':
        colour_branch(images, liquid, cfg, draws, features, labels)
    if has_dul(cfg):
        dul_branch(plain, cfg, draws, features, labels)
    return features, labels


def _clip_of_video(frames, cfg, draws):
    uniform, second = draws
    window = min(len(frames), cfg.frame_gap * cfg.video_len)
    offsets = np.arange(window)[:: window // cfg.video_len][: cfg.video_len]
    start = uniform.randint(0, len(frames) - int(offsets[-1]) - 1)
    plain, images = [], []
    for k in offsets[second.permutation(cfg.video_len)] + start:
        plain.append(read(frames[k]))
        images.append(ImageOps.flip(plain[-1]) if uniform.random() < 0.3 else plain[-1])
        if plain[-1].size != plain[0].size:
            raise ValueError(f'{frames[k]} is {plain[-1].size} px, another of it {plain[0].size}')
    return images, plain


def _clip_of_picture(path, cfg, draws):
    uniform = draws[0]
    picture = read(path)
    picture = ImageOps.flip(picture) if uniform.random() < 0.3 else picture
    scale = cfg.size / views.UNIT
    size = tuple(int(cfg.size * share) for share in views.COCO)
    picture, plain, images = cv2.resize(np.asarray(picture), size), [], []
    for _ in range(cfg.video_len):
        image = picture
        if cfg.is_liquid:
            image = cv2.remap(picture, *views.liquid_map(*size, scale, uniform), cv2.INTER_LINEAR)
        plain.append(views.rotated(Image.fromarray(image), uniform))
        images.append(plain[-1])
        if uniform.random() < 0.7:
            images[-1] = views.cropped(plain[-1], uniform).resize(size, Image.BICUBIC)
    return images, plain


def colour_branch(images: list, liquid: bool, cfg, draws, features: dict, labels: dict) -> None:
    """Adds main and second view, what to rebuild, the weight along edges, where the views meet."""
    uniform, second = draws
    side, scale = cfg.size // views.STRIDE, cfg.size / views.UNIT
    main = views.enlarged(images, cfg.size, cfg.resize, uniform)
    main = [views.squashed(image, cfg.size, uniform) for image in main]
    main = [ImageOps.mirror(i) if uniform.random() > 0.5 else i for i in main]
    other, theta = views.zoomed(main, uniform)
    shown = np.stack(
        [np.asarray(i) if cfg.color_mode == 'RGB' else augment.lab(i) for i in main]
    )  # before the jitter
    labels['target'] = _folded(shown)
    labels['range'] = augment.clip_range(shown, cfg.is_labclip)
    for k, image in enumerate(main):
        other[k] = image if liquid else other[k]
        if cfg.is_aug:
            jitter = functools.partial(
                augment.jittered, shadows=cfg.is_shadow, uniform=uniform, second=second
            )
            other[k] = jitter(other[k], augment.STRONG)
            main[k] = jitter(image, augment.WEAK)
    weight = [augment.edge_weight(i) * np.uint8(cfg.is_edge) for i in main]
    labels['weight'] = _folded(np.stack(weight)[..., None])[..., 0]
    index = [views.nearest(views.affine_cells(theta, side))] * len(main)
    other = [np.asarray(image).astype(np.float32) for image in other]
    if liquid:
        maps = [views.liquid_map(cfg.size, cfg.size, scale, uniform) for _ in main]
        other = [views.warped(i, views.liquid_cells(*m, False)) for i, m in zip(other, maps)]
        index = [views.nearest(views.liquid_cells(*m, True)) for m in maps]
    features['main'], features['second'] = np.stack(list(map(np.asarray, main))), np.stack(other)
    labels['index'] = np.stack(index)


def dul_branch(images: list, cfg, draws, features: dict, labels: dict) -> None:
    """Adds two views without jitter, where they meet, and the places of anchors and samples."""
    uniform, second = draws
    side = cfg.size // views.STRIDE
    images = views.enlarged(images, cfg.size, cfg.resize, uniform)
    images = views.same_square(images, cfg.size, uniform, second)
    other, theta = views.zoomed(images, uniform)
    index, inside = views.nearest_inside(views.affine_cells(theta, side))
    features['dul1'] = np.stack(list(map(np.asarray, images)))
    features['dul2'] = np.stack(list(map(np.asarray, other)))
    labels['align'], labels['inside'] = (np.stack([v] * len(images)) for v in (index, inside))
    labels['anchor'] = grid_of(ANCHORS, side, second)
    labels['cross'] = grid_of(CROSS, side, second)


def grid_of(count: int, side: int, second) -> np.ndarray:
    """int32 [count * count], cells of a regular grid with a random offset, rows first."""
    step = side // count
    top, left = (int(second.randint(0, step)) for _ in range(2))
    places = np.arange(count) * step
    return ((places + top)[:, None] * side + places + left).ravel().astype(np.int32)


def _folded(frames):
    """uint8 [T, S, S, C] -> [T, cells, 64, C], rows first, as space_to_depth."""
    count, size, _, channels = frames.shape
    side = size // views.STRIDE
    parts = frames.reshape(count, side, views.STRIDE, side, views.STRIDE, channels)
    return parts.transpose(0, 1, 3, 2, 4, 5).reshape(count, side * side, -1, channels)
