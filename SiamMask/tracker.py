"""Follows objects through a video, one call of the network a frame for all of them (tools/test.py
of the official code).

The network is one of inference.load(). Each object's state is a plain dict, so that objects come
and go and no tracker overwrites another's template:

    kernels       of the template, from network.embed()
    center, size  float64 [2], px of the frame: x, y; width, height
    mean          float64 [3], mean color of the frame that the tracker started in, B, G, R
    score         0..1
    polygon       [4, 2], corners of the rotated box; axis_aligned [x, y, width, height]
    mask          float32 [H, W], probabilities, -1 outside the patch
"""

from __future__ import annotations

from collections.abc import Iterator

from common import masks as files
from common.lazy import cv2, np
from common.videos import starts

from . import vot
from .config import HYPER, TRACKING
from .model import SCORE, SEARCH, STRIDE, TEMPLATE

CROP = 511  # px, side of a crop to train on: four times the context of 127
SMALLEST = 10  # px, least width and height of a target (PT)
LEAST_AREA = 100  # px of a contour that gives a rotated box (PT)


def hyper_parameters(cfg, benchmark: str) -> dict:
    """{name of config.TRACKING: value}: the settings, or where they are -1 those of `benchmark`,
    'base', 'vot', 'vot18' or 'davis'."""
    return {
        name: cfg[name] if cfg[name] >= 0 else value
        for name, value in zip(TRACKING, HYPER[benchmark])
    }


def crop_image(image: np.ndarray, center, out: int, side: int, mean: np.ndarray) -> np.ndarray:
    """A square of `side` px about `center` (x, y), resized to `out`: float32 [out, out, 3].

    Outside the image is `mean`, as uint8. Halves are rounded to even, as Python does.
    """
    half = (side + 1) / 2
    x, y = (int(round(float(c) - half)) for c in center)
    height, width = image.shape[:2]
    patch = np.empty((side, side, 3), np.uint8)
    patch[:] = mean.astype(np.uint8)
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
    if right > left and bottom > top:
        patch[top - y : bottom - y, left - x : right - x] = image[top:bottom, left:right]
    return (patch if side == out else cv2.resize(patch, (out, out))).astype(np.float32)


def context(size) -> float:
    """Side in px of the square that the template shows, of a target of `size` (w, h)."""
    pad = 0.5 * (size[0] + size[1])
    return np.sqrt((size[0] + pad) * (size[1] + pad))


def box_in_crop(size) -> np.ndarray:
    """Corners float64 [4] in a crop of a box of width and height `size`: context 127 px."""
    center, half = CROP // 2, np.array(size) * (TEMPLATE / context(size)) * 0.5
    return np.concatenate([center - half, center + half])


def warp_window(image: np.ndarray, window, size: int, border=(0, 0, 0)) -> np.ndarray:
    """The window (x0, y0, x1, y1) of an image as size x size, bilinear: its corners become pixels
    0 and size - 1."""
    a, b = (size - 1) / (window[2] - window[0]), (size - 1) / (window[3] - window[1])
    mapping = np.array([[a, 0, -a * window[0]], [0, b, -b * window[1]]], np.float64)
    return cv2.warpAffine(
        image, mapping, (size, size), borderMode=cv2.BORDER_CONSTANT, borderValue=border
    )


def check_box(box, shape) -> None:
    """ValueError where a box (center x, y, width, height, px) has no area in an image of `shape`
    (H, W, ...)."""
    x, y, width, height = (float(v) for v in box)
    rows, columns = shape[:2]
    inside = -width / 2 < x < columns + width / 2 and -height / 2 < y < rows + height / 2
    if not (np.isfinite([x, y, width, height]).all() and width > 0 and height > 0 and inside):
        raise ValueError(
            f'box of center {x:g}, {y:g} and size {width:g} x {height:g} has no area in an image '
            f'of {columns}x{rows}'
        )


def start(network, image: np.ndarray, box) -> dict:
    """State of an object from its box in uint8 [H, W, 3] BGR.

    Args:
      network: of inference.load().
      image: the frame.
      box: center x, y, width, height, px.

    Raises:
      ValueError: a box without area, or outside the image.
    """
    check_box(box, image.shape)
    center, size = np.array(box[:2], np.float64), np.array(box[2:], np.float64)
    mean = image.mean((0, 1))
    template = crop_image(image, center, TEMPLATE, int(round(context(size))), mean)
    return dict(kernels=network.embed(template), center=center, size=size, mean=mean, score=1.0)


def step(network, image: np.ndarray, states: list, hyper: dict, with_masks: bool = True) -> list:
    """New states of all objects in the next frame.

    Args:
      network: of inference.load().
      image: uint8 [H, W, 3] BGR.
      states: of start() or step(), one an object.
      hyper: of hyper_parameters().
      with_masks: without, the states have no mask and the polygon is the axis-aligned box.
    """
    scales = [TEMPLATE / context(state['size']) for state in states]
    sides = [int(round(SEARCH / scale)) for scale in scales]
    found = network.locate(
        [
            crop_image(image, state['center'], SEARCH, side, state['mean'])
            for state, side in zip(states, sides)
        ],
        [state['kernels'] for state in states],
        [state['size'] * scale for state, scale in zip(states, scales)],
        (hyper['penalty_k'], hyper['window_influence']),
    )
    result = []
    for i, (state, scale, side) in enumerate(zip(states, scales, sides)):
        answer = {key: value[i] for key, value in found.items()}
        moved = _moved(state, answer, scale, hyper['tracker_rate'])
        if with_masks:
            corner = state['center'] - side / 2
            moved['mask'] = paste(answer['mask'], answer['best'], corner, side, image.shape)
            inside = moved['mask'] > hyper['mask_threshold']
            moved['polygon'] = rotated_box(inside, moved['center'], moved['size'])
        result.append(_clipped(moved, image.shape, with_masks))
    return result


def _moved(state, answer, scale, rate):
    rate = float(answer['penalty'] * answer['score'] * rate)
    box = answer['box'].astype(np.float64) / scale
    size = state['size'] * (1 - rate) + box[2:] * rate
    return dict(state, center=state['center'] + box[:2], size=size, score=float(answer['score']))


def _clipped(state, shape, with_masks):
    limit = np.array([shape[1], shape[0]], np.float64)
    center = np.clip(state['center'], 0, limit)
    size = np.maximum(SMALLEST, np.minimum(limit, state['size']))
    box = np.concatenate([center - size / 2, size])
    polygon = state['polygon'] if with_masks else corners(center, size)
    return dict(state, center=center, size=size, axis_aligned=box, polygon=polygon)


def paste(mask: np.ndarray, best: int, corner, side: int, shape) -> np.ndarray:
    """The chosen cell's patch float32 [M, M] in the frame: float32 [H, W], -1 outside."""
    row, column = divmod(int(best) % (SCORE * SCORE), SCORE)
    scale, (height, width) = side / SEARCH, shape[:2]
    x, y = (c + (k - 4) * STRIDE * scale for c, k in zip(corner, (column, row)))  # 4: base_size / 2
    zoom = mask.shape[0] / (scale * TEMPLATE)
    a, b = (width - 1) / (width * zoom), (height - 1) / (height * zoom)
    mapping = np.array([[a, 0, a * x * zoom], [0, b, b * y * zoom]], np.float64)
    return cv2.warpAffine(mask, mapping, (width, height), borderValue=-1)


def rotated_box(mask: np.ndarray, center, size) -> np.ndarray:
    """Corners float32 [4, 2] of the smallest rectangle about the largest part of bool [H, W]; of
    the axis-aligned box where that is small."""
    parts = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[-2]
    areas = [cv2.contourArea(part) for part in parts]
    if areas and max(areas) > LEAST_AREA:
        largest = parts[int(np.argmax(areas))].reshape(-1, 2)
        return cv2.boxPoints(cv2.minAreaRect(largest))
    return corners(center, size)


def corners(center, size) -> np.ndarray:
    """[[x0, y0], [x1, y0], [x1, y1], [x0, y1]] of a box about `center`."""
    (x0, y0), (x1, y1) = center - size / 2, center + size / 2
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def merge(states: dict, shape, threshold: float) -> np.ndarray:
    """Object ids uint8 [H, W]: the likeliest object where it is above the threshold, else 0.

    Args:
      states: {object id: state with a mask}; may be empty.
      shape: (H, W).
      threshold: probability.
    """
    if not states:
        return np.zeros(shape, np.uint8)
    maps = np.stack([state['mask'] for state in states.values()])
    ids = np.array(list(states), np.uint8)[maps.argmax(0)]
    return np.where(maps.max(0) > threshold, ids, 0).astype(np.uint8)


def box_of_mask(mask: np.ndarray) -> tuple:
    """Center x, y, width, height of the pixels of bool [H, W]; ValueError where there are none."""
    if not mask.any():
        raise ValueError('an empty mask has no box')
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return x + width / 2, y + height / 2, width, height


def center_box(numbers) -> tuple:
    """Center x, y, width, height of the axis-aligned box that a tracker starts from (PT
    get_axis_aligned_bbox): of 8 numbers one of the polygon's area, +1 px."""
    region = np.asarray(numbers, np.float64)
    if region.size == 4:
        x, y, w, h = region
        return x + w / 2, y + h / 2, w, h
    points = region.reshape(4, 2)
    low, high = points.min(0), points.max(0)
    sides = np.linalg.norm(points[0] - points[1]) * np.linalg.norm(points[1] - points[2])
    scale = np.sqrt(sides / np.prod(high - low)) if (high > low).all() else 0.0
    width, height = scale * (high - low) + 1
    return (*points.mean(0), width, height)


def supervised(network, sequence: dict, hyper: dict, reset: bool = True, boxes: bool = False):
    """One run of the supervised protocol: 1 where the tracker is started, 2 where its region does
    not meet the annotation, 0 for the five frames after that, else the region.

    Args:
      network: of inference.load().
      sequence: of vot.load().
      hyper: of hyper_parameters().
      reset: without, the tracker goes on whatever happens.
      boxes: axis-aligned boxes instead of rotated ones of the mask.
    """
    run, begin, state = [], 0, None
    for f, path in enumerate(sequence['frames']):
        truth = sequence['boxes'][f]
        if f < begin or (f == begin and not np.isfinite(truth).all()):
            begin = max(begin, f + 1)
            run.append(0)
            continue
        image = files.read_image(path)
        if f == begin:
            state = start(network, image, center_box(truth))
            run.append(1)
            continue
        state = step(network, image, [state], hyper, not boxes)[0]
        region = state['axis_aligned'] if boxes else state['polygon'].ravel()
        size = (image.shape[1], image.shape[0])
        met = vot.overlaps(vot.polygon(region)[None], truth[None], size)[0]
        if met == 0 and reset:
            run.append(2)
            begin = f + vot.SKIPPED
        else:
            run.append(region)
    return run


def segment(network, frames, given: dict, hyper: dict, ends: dict | None = None) -> Iterator[tuple]:
    """(ids uint8 [H, W], {object id: state}) of every frame.

    Args:
      network: of inference.load().
      frames: iterable of uint8 [H, W, 3] BGR.
      given: {frame number: ids uint8 [H, W]}, an object starts in the first that shows it.
      hyper: of hyper_parameters().
      ends: {object id: number of the last frame that may show it}.

    Raises:
      ValueError: a mask of another size than its frame.
    """
    states, ends, first = {}, ends or {}, starts(given)
    for t, image in enumerate(frames):
        states = {n: state for n, state in states.items() if t <= ends.get(n, t)}
        if states:
            states = dict(zip(states, step(network, image, list(states.values()), hyper)))
        for number in [n for n, frame in first.items() if frame == t]:
            mask = given[t] == number
            if mask.shape != image.shape[:2]:
                raise ValueError(f'frame {t} is {image.shape[:2]}, its mask {mask.shape}')
            states[number] = start(network, image, box_of_mask(mask))
            states[number]['mask'] = mask.astype(np.float32)
        yield merge(states, image.shape[:2], hyper['mask_threshold']), states
