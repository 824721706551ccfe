"""Examples of OSVOS from a DAVIS tree: frame and mask, mirrored, rotated and scaled (OSVOS-PyTorch
custom_transforms.py).

The draws of an example come from a generator seeded by its number, in the order of the official
code; reading and warping are pure functions of the draws and run in parallel. So a run that goes on
at update N takes the examples that it would have taken. Frames stream from disk: memory does not
grow with the data set. The readers are threads: their time is spent in a few long calls of OpenCV.
"""

from __future__ import annotations

import functools
import itertools
import random

from common import davis, masks
from common.lazy import cv2, np, tf
from common.videos import binary

from . import ranks

MEAN = (104.00699, 116.66877, 122.67892)  # B, G, R grey levels (OSVOS README)


def input_fn(cfg, training: bool) -> tf.data.Dataset:
    """Examples for the Estimator: endless and augmented for training, else each frame once.

    Args:
      cfg: uses pairs [(image path, mask path, object id or 0)], batch_size, height, width, seed,
        workers, start_step and the augmentation's ranges.
      training: shuffle, augment, repeat.

    Returns:
      Dataset of ({'image': float32 [B, H, W, 3] BGR minus mean}, {'mask': float32 [B, H, W, 1], 0
      or 1}).
    """
    draws = training_samples if training else plain_samples
    batch = cfg.batch_size if training else 1
    size = (cfg.height, cfg.width)
    types = (tf.string, tf.string, tf.int32, tf.bool, tf.float64, tf.float64)
    dataset = tf.data.Dataset.from_generator(lambda: draws(cfg), types, ((),) * len(types))

    load_one = functools.partial(example, size=size)

    def read(*sample):
        image, mask = tf.numpy_function(load_one, sample, (tf.float32, tf.float32))
        image.set_shape((*size, 3))
        mask.set_shape((*size, 1))
        return {'image': image}, {'mask': mask}

    dataset = dataset.map(read, num_parallel_calls=max(1, cfg.workers))
    return dataset.batch(batch, drop_remainder=True).prefetch(2)


def training_samples(cfg):
    """Endless (image path, mask path, object id, flip, rotation, scale) of this process's share,
    from that of update cfg.start_step on.

    An epoch is a permutation seeded by its number, padded to a multiple of the cards and strided
    over them, so that all cards take equally many steps (MindSpore port, dataset.py). Three draws
    an example (OSVOS-PyTorch).
    """
    rank, cards = ranks.rank()
    length = -(-len(cfg.pairs) // cards) * cards  # of an epoch over all cards
    first = cfg.get('start_step', 0) * cfg.batch_size * cards + rank
    epoch, order = None, None
    for number in itertools.count(first, cards):
        if number // length != epoch:
            epoch = number // length
            order = np.random.RandomState(cfg.seed + epoch).permutation(len(cfg.pairs))
            order = np.resize(order, length)
        draw = random.Random(f'{cfg.seed}/{number}')
        flip = draw.random() < cfg.flip
        rotation = 2 * cfg.rotation * draw.random() - cfg.rotation
        scale = 2 * cfg.scale * draw.random() - cfg.scale + 1
        yield (*cfg.pairs[order[number % length]], flip, rotation, scale)


def plain_samples(cfg):
    """Each pair once, not augmented."""
    for pair in cfg.pairs:
        yield (*pair, False, 0.0, 1.0)


def example(
    image_path: bytes,
    mask_path: bytes,
    number: int,
    flip: bool,
    rotation: float,
    scale: float,
    size: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """One training example: float32 [H, W, 3] and [H, W, 1] of `size` = (H, W)."""
    image, mask = load(image_path.decode(), mask_path.decode(), number)
    if image.shape[:2] != size:
        image = resize_image(image, size)
        mask = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)
    image = cv2.LUT(image, less_mean())  # twice as fast as the subtraction
    if flip or rotation or scale != 1:
        image, mask = augment(image, mask, flip, rotation, scale)
    return image, mask[..., None]


@functools.lru_cache(maxsize=None)
def less_mean() -> np.ndarray:
    """Every grey level minus MEAN: float32 [1, 256, 3]."""
    return (np.arange(256, dtype=np.float32)[:, None] - np.float32(MEAN))[None]


def load(image_path: str, mask_path: str, number: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A frame uint8 [H, W, 3] BGR and the mask float32 [H, W], 0 or 1, of object `number` (0: of
    all objects).

    Raises:
      ValueError: sizes differ, or the mask is no indexed one; OSError: unreadable.
    """
    image, mask = masks.read_image(image_path), masks.read_mask(mask_path)
    if image.shape[:2] != mask.shape:
        raise ValueError(
            f'{mask_path} is {mask.shape[1]}x{mask.shape[0]}, its frame {image_path} '
            f'is {image.shape[1]}x{image.shape[0]}'
        )
    return image, binary(mask, number).astype(np.float32)


def resize_image(image: np.ndarray, size) -> np.ndarray:
    """uint8 or float32 [H, W(, C)] to size (H, W): area when shrinking, cubic when growing."""
    method = cv2.INTER_AREA if size[0] < image.shape[0] else cv2.INTER_CUBIC
    return cv2.resize(image, (size[1], size[0]), interpolation=method)


def augment(image: np.ndarray, mask: np.ndarray, flip: bool, rotation: float, scale: float):
    """Mirror, then rotate and scale about the center; outside is the mean color and background.

    Args:
      image: float32 [H, W, 3], minus mean.
      mask: float32 [H, W], 0 or 1.
      flip: mirror left-right first.
      rotation: degrees, counter-clockwise.
      scale: factor, above 1 enlarges.

    Returns:
      The same pair, warped: image cubic, mask nearest (OSVOS-PyTorch ScaleNRotate).
    """
    if flip:
        image, mask = cv2.flip(image, 1), cv2.flip(mask, 1)
    height, width = mask.shape
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), rotation, scale)
    return (
        cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_CUBIC),
        cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_NEAREST),
    )


def pairs(root: str, split: str, year: str) -> list[tuple]:
    """(image path, mask path, 0) of every frame of a split: OSVOS trains on the union of
    objects."""
    names = davis.sequences(root, split, year=year)
    return [(image, mask, 0) for image, mask in davis.pairs(root, names)]


def network_size(height: int, width: int, cfg) -> tuple[int, int]:
    """(H, W) that a frame of any size has in the network: its short side is cfg.height, its aspect
    kept."""
    scale = cfg.height / min(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)
