"""Clips of unlabelled video, or of one image warped, in two views (ColorNet section 4.1;
datasets/dataloader_video_my_dul.py and dataloader_video_my_coco.py of the official code).

    <root>/filelists/train_ytvos.txt    paths of frames relative to <root>, a video a folder
    else YouTube-VOS (train/JPEGImages, JPEGImages), else DAVIS; --coco: COCO/train2017

The draws of a clip come from two generators seeded by its number, in the order of the original: the
same draws give the same clip, and a run that goes on at update N takes the clips that it would have
taken. One clip a video a pass. The readers are processes: Python and many small calls of Pillow and
OpenCV do the work.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random

from common import davis, files, masks, processes, youtube_vos
from common.lazy import Image, ImageOps, cv2, np, tf

from . import augment, ranks, views
from .augment import Draws
from .losses import ANCHORS, CROSS
from .model import has_dul

FILE_LIST = os.path.join('filelists', 'train_ytvos.txt')
HELD_OUT = 64  # clips outside training
SAMPLE = 100  # images that check() decodes


def input_fn(cfg, training: bool) -> tf.data.Dataset:
    """Batches (features, labels) of model.network() and losses.losses(), endless from that of
    update cfg.start_step on; outside training HELD_OUT clips, once, of draws that no training
    uses."""
    rank, cards = ranks.rank() if training else (0, 1)
    first = rank
    if training:
        first += cfg.get('start_step', 0) * cfg.batch_size * cards
    shapes, types = signature(cfg)

    def batches():
        return processes.batches(clips(cfg, first, cards, training), cfg.batch_size)

    return tf.data.Dataset.from_generator(batches, types, shapes).prefetch(2)


def signature(cfg):
    """(shapes, types) of a batch, each ({features}, {labels})."""
    count, size = cfg.video_len, cfg.size
    cells, frames = (size // views.STRIDE) ** 2, [count, size, size, 3]
    features, labels = {}, {}
    if cfg.model_size != 'DUL':
        features['main'] = frames, tf.uint8
        features['second'] = frames, tf.float32
        labels['target'] = [count, cells, 64, 3], tf.uint8
        labels['range'] = [4], tf.float32
        labels['weight'] = [count, cells, 64], tf.uint8
        labels['index'] = [count, cells], tf.int32
    if has_dul(cfg):
        features['dul1'] = frames, tf.uint8
        features['dul2'] = frames, tf.uint8
        labels['align'] = [count, cells], tf.int32
        labels['inside'] = [count, cells], tf.float32
        labels['anchor'] = [ANCHORS**2], tf.int32
        labels['cross'] = [CROSS**2], tf.int32
    parts = features, labels
    shapes = tuple(
        {key: tf.TensorShape([cfg.batch_size, *shape]) for key, (shape, _) in part.items()}
        for part in parts
    )
    return shapes, tuple({key: kind for key, (_, kind) in part.items()} for part in parts)


@contextlib.contextmanager
def readers(cfg):
    """cfg.workers processes that make the clips of clips() inside; without, this one does."""
    with processes.readers(functools.partial(_make_clip, cfg, True), cfg.workers):
        yield


def clips(cfg, first: int, step: int, training: bool):
    """Clips number first, first + step, ..., in order."""
    jobs = itertools.islice(numbers(cfg), first, None if training else HELD_OUT, step)
    if training and processes.running():
        yield from processes.results(jobs)
    else:
        for number, example in jobs:
            yield _make_clip(cfg, training, number, example)


def numbers(cfg):
    """(number of the clip, number of its video or image), for ever: passes over all of them in an
    order seeded by the pass, cut to whole batches of all cards."""
    count, whole = len(cfg.examples), cfg.batch_size * ranks.rank()[1]
    length = count // whole * whole or count
    for epoch in itertools.count():
        order = np.random.RandomState([cfg.seed, epoch]).permutation(count)[:length]
        yield from ((epoch * length + i, int(example)) for i, example in enumerate(order))


def _make_clip(cfg, training, number, example):
    seed = (cfg.seed * 2 + (not training)) % 2**31
    draws = Draws(random.Random(seed * 2**40 + number), np.random.RandomState([seed, number]))
    return sample(cfg.examples[example], cfg, draws)


def steps_an_epoch(cfg) -> int:
    """Updates of one epoch, the last batch left out where it is not whole: a clip a video; of
    single images cfg.coco_epoch clips, for the official loader counts the videos of its list there
    too (433 updates; dataloader_video_my_coco.py)."""
    count = cfg.coco_epoch if cfg.dataset == 'coco' else len(cfg.examples)
    return max(1, count // (cfg.batch_size * ranks.rank()[1]))


def find(root: str, cfg) -> list[list[str]]:
    """The videos with at least cfg.video_len frames as lists of paths; images as lists of one.

    Raises:
      FileNotFoundError: no data, naming what was tried. ValueError: none that is long enough.
    """
    if cfg.dataset == 'coco':
        return [[path] for path in _single_images(root)]
    found = _videos(root, cfg)
    long = [frames for frames in found if len(frames) >= cfg.video_len]
    if not long:
        raise ValueError(
            f'{root}: none of its {len(found)} videos has {cfg.video_len} frames (video_len)'
        )
    return long


def check(root: str, cfg, every: bool = False) -> dict:
    """Counts {'sequences', 'frames'} of find() and decodes a sample of them.

    Args:
      root: of the data.
      cfg: uses dataset, file_list, video_len.
      every: decode every frame, and compare the sizes of those of a video.

    Raises:
      FileNotFoundError: listed frames are absent, the first three by name. ValueError: a frame
      cannot be decoded, or is of another size than those of its video.
    """
    found = find(root, cfg)
    missing = [path for frames in found for path in frames if not os.path.isfile(path)]
    if missing:
        raise FileNotFoundError(f'{len(missing)} frames are missing, first: {missing[:3]}')
    if every:
        for frames in found:
            size = read_image(frames[0]).size
            for path in frames[1:]:
                _check_size(path, read_image(path).size, size)
    else:
        for frames in found[:: -(-len(found) // SAMPLE)]:
            read_image(frames[0])
    return {'sequences': len(found), 'frames': sum(map(len, found))}


def _videos(root, cfg):
    path = cfg.file_list or os.path.join(root, FILE_LIST)
    if cfg.file_list or os.path.isfile(path):
        return read_list(path, root)
    for name in ('', 'YouTubeVOS', 'YouTube-VOS', 'train'):
        tree = os.path.join(root, name)
        frames = any(os.path.isdir(os.path.join(tree, s, 'JPEGImages')) for s in ('train', ''))
        if frames and not os.path.isdir(os.path.join(tree, 'JPEGImages', '480p')):
            return [youtube_vos.frames(tree, n) for n in youtube_vos.sequences(tree)]
    try:
        tree = davis.resolve(root, cfg.year)
    except FileNotFoundError:
        raise FileNotFoundError(
            f'no videos at {root}: tried {FILE_LIST} (paths of frames), JPEGImages/<video>/ and '
            'train/JPEGImages/<video>/ there and in YouTubeVOS/, and DAVIS (JPEGImages/480p)'
        ) from None
    return [davis.frames(tree, n) for n in davis.sequences(tree, 'train', cfg.year)]


def read_list(path: str, root: str) -> list[list[str]]:
    """Videos of a file list: a frame's path a line, relative to `root`, first word; a new video
    where the folder changes.

    Raises:
      FileNotFoundError: no such file. ValueError: nothing in it, or a line without a folder.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f'file_list: no such file: {os.path.abspath(path)}')
    lines = [files.path_inside(line.split()[0], path) for line in files.read_lines(path)]
    if not lines or not all(os.path.dirname(line) for line in lines):
        raise ValueError(f'{path}: expected lines such as JPEGImages/<video>/00000.jpg')
    groups = itertools.groupby(lines, lambda line: os.path.dirname(line).split('/')[-1])
    return [[os.path.join(root, line) for line in group] for _, group in groups]


def _single_images(root):
    tried = [
        os.path.join(root, 'train2017'),
        os.path.join(root, 'COCO', 'train2017'),
        os.path.join(root, 'coco', 'train2017'),
        os.path.join(root, 'images', 'train2017'),
        os.path.join(root, 'coco', 'images', 'train2017'),
    ]
    for folder in tried:
        found = files.listed(folder, masks.IMAGE_ENDINGS) if os.path.isdir(folder) else []
        if found:
            return found
    raise FileNotFoundError(f'--coco: no images in {", ".join(tried)}')


def read_image(path: str):
    """PIL image, R, G, B, of an image file of any kind; ValueError where it is none."""
    try:
        with files.reading(path), Image.open(path) as image:
            return image.convert('RGB')
    except FileNotFoundError:
        raise FileNotFoundError(f'no frame at {os.path.abspath(path)}') from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f'{os.path.abspath(path)} is no readable image: {error}') from None


def read_frames(paths: list[str]) -> list:
    """PIL images of frames of one video; ValueError where their sizes differ."""
    images = []
    for path in paths:
        images.append(read_image(path))
        _check_size(path, images[-1].size, images[0].size)
    return images


def _check_size(path, size, first):
    if size != first:
        raise ValueError(f'{path} is {size} px, another frame of its video {first}')


def sample(frames: list[str], cfg, draws: Draws) -> tuple[dict, dict]:
    """One clip of a video, or of one image with dataset='coco'.

    Args:
      frames: paths.
      cfg: uses the settings of data and network.
      draws: of this clip.

    Returns:
      (features, labels) as signature() lists them, numpy arrays.

    Raises:
      FileNotFoundError, ValueError: a frame is missing, unreadable, or of another size.
    """
    if cfg.dataset == 'coco':
        liquid = False
        images, plain = _clip_of_image(frames[0], cfg, draws)
    else:
        liquid = not draws.python.random() < 0.5 and cfg.is_liquid
        images, plain = _clip_of_video(frames, cfg, draws)
    features, labels = {}, {}
    if cfg.model_size != 'DUL':
        add_color_branch(images, liquid, cfg, draws, features, labels)
    if has_dul(cfg):
        add_dul_branch(plain, cfg, draws, features, labels)
    return features, labels


def _clip_of_video(paths, cfg, draws):
    """(frames of the color branch, some upside down; frames of the DUL branch), PIL images."""
    window = min(len(paths), cfg.frame_gap * cfg.video_len)
    gap = window // cfg.video_len
    offsets = np.arange(cfg.video_len) * gap
    start = draws.python.randint(0, len(paths) - int(offsets[-1]) - 1)
    order = draws.torch.permutation(cfg.video_len)
    plain = read_frames([paths[start + offsets[k]] for k in order])
    flipped = [ImageOps.flip(image) if draws.python.random() < 0.3 else image for image in plain]
    return flipped, plain


def _clip_of_image(path, cfg, draws):
    """_clip_of_video() of one image: it is warped and rotated anew for every frame."""
    uniform = draws.python
    source = read_image(path)
    if uniform.random() < 0.3:
        source = ImageOps.flip(source)
    scale = cfg.size / views.UNIT
    size = tuple(int(cfg.size * share) for share in views.COCO)
    source = cv2.resize(np.asarray(source), size)
    images, plain = [], []
    for _ in range(cfg.video_len):
        image = source
        if cfg.is_liquid:
            x, y = views.liquid_map(*size, scale, uniform)
            image = cv2.remap(source, x, y, cv2.INTER_LINEAR)
        image = views.rotate(Image.fromarray(image), uniform)
        plain.append(image)
        if uniform.random() < 0.7:
            image = views.crop(image, uniform).resize(size, Image.BICUBIC)
        images.append(image)
    return images, plain


def add_color_branch(
    images: list, liquid: bool, cfg, draws: Draws, features: dict, labels: dict
) -> None:
    """Adds main and second view, what to reconstruct, the weight along edges, and the cells where
    the views meet; with `liquid` the second view is warped, else zoomed."""
    uniform = draws.python
    side, scale = cfg.size // views.STRIDE, cfg.size / views.UNIT
    main = views.resize_short_side(images, cfg.size, cfg.resize, uniform)
    main = [views.squash(image, cfg.size, uniform) for image in main]
    main = [ImageOps.mirror(image) if uniform.random() > 0.5 else image for image in main]
    second, theta = views.zoom_in(main, uniform)
    if liquid:
        second = list(main)

    # the target, of before the jitter
    if cfg.color_mode == 'RGB':
        target = np.stack([np.asarray(image) for image in main])
    else:
        target = np.stack([augment.to_lab(image) for image in main])
    labels['target'] = _fold(target)
    labels['range'] = augment.clip_range(target, cfg.is_labclip)

    if cfg.is_aug:
        for k in range(len(main)):
            second[k] = augment.jitter(second[k], augment.STRONG, cfg.is_shadow, draws)
            main[k] = augment.jitter(main[k], augment.WEAK, cfg.is_shadow, draws)
    weight = np.stack([augment.edge_weight(image) for image in main])
    if not cfg.is_edge:
        weight[:] = 0
    labels['weight'] = _fold(weight[..., None])[..., 0]

    second = [np.asarray(image).astype(np.float32) for image in second]
    if liquid:
        index = []
        for k in range(len(main)):
            x, y = views.liquid_map(cfg.size, cfg.size, scale, uniform)
            second[k] = views.warp(second[k], views.liquid_cells(x, y, False))
            index.append(views.nearest_cells(views.liquid_cells(x, y, True)))
    else:
        index = [views.nearest_cells(views.affine_cells(theta, side))] * len(main)
    features['main'] = np.stack([np.asarray(image) for image in main])
    features['second'] = np.stack(second)
    labels['index'] = np.stack(index)


def add_dul_branch(images: list, cfg, draws: Draws, features: dict, labels: dict) -> None:
    """Adds two views without jitter, the cells where they meet, and those of anchors and
    samples."""
    side = cfg.size // views.STRIDE
    images = views.resize_short_side(images, cfg.size, cfg.resize, draws.python)
    images = views.crop_square(images, cfg.size, draws)
    second, theta = views.zoom_in(images, draws.python)
    index, inside = views.nearest_inside(views.affine_cells(theta, side))
    features['dul1'] = np.stack([np.asarray(image) for image in images])
    features['dul2'] = np.stack([np.asarray(image) for image in second])
    labels['align'] = np.stack([index] * len(images))
    labels['inside'] = np.stack([inside] * len(images))
    labels['anchor'] = grid_cells(ANCHORS, side, draws)
    labels['cross'] = grid_cells(CROSS, side, draws)


def grid_cells(count: int, side: int, draws: Draws) -> np.ndarray:
    """int32 [count * count], cells of a regular grid with a random offset, rows first."""
    step = side // count
    top = int(draws.torch.randint(0, step))
    left = int(draws.torch.randint(0, step))
    line = np.arange(count) * step
    return ((line + top)[:, None] * side + line + left).ravel().astype(np.int32)


def _fold(frames):
    """uint8 [T, S, S, C] -> [T, cells, 64, C], rows first, as space_to_depth."""
    count, size, _, channels = frames.shape
    side = size // views.STRIDE
    parts = frames.reshape(count, side, views.STRIDE, side, views.STRIDE, channels)
    return parts.transpose(0, 1, 3, 2, 4, 5).reshape(count, side * side, -1, channels)
