"""Follows objects through a video, one call of the network a frame for all of them (tools/test.py
of the official code).

A Network holds the session; each object's state (template kernels, place, size) is a plain dict, so
that objects come and go and no tracker overwrites another's template.
"""

from __future__ import annotations

import cv2
import numpy as np
import tensorflow.compat.v1 as tf

from common import masks as files

from . import cli, npu, vot
from .backbone import scaled
from .config import HYPER
from .model import BRANCHES, NECK, SCORE, SEARCH, STRIDE, TEMPLATE, template_kernels, track

CROP = 511  # px, side of a crop to train on: four times the context of 127
SMALLEST = 10  # px, least width and height of a target (PT)
LEAST_AREA = 100  # px of a contour that gives a rotated box (PT)


def hyper_parameters(cfg, benchmark: str) -> dict:
    """penalty_k, window_influence, tracker_rate, mask_threshold: the settings, or where they are -1
    those of `benchmark`, 'base', 'vot', 'vot18' or 'davis'."""
    names = ('penalty_k', 'window_influence', 'tracker_rate', 'mask_threshold')
    return {
        name: cfg[name] if cfg[name] >= 0 else value for name, value in zip(names, HYPER[benchmark])
    }


class Network:
    """A session with the network's weights: templates in, kernels out; search pictures in, boxes
    and masks out."""

    def __init__(self, cfg, checkpoint: str, objects: int = 1):
        """`objects`: the most that one call takes; calls are padded to it, so shapes are static."""
        prefix, self.objects = cli.checkpoint_prefix(checkpoint), max(1, min(objects, cfg.objects))
        with tf.Graph().as_default():
            n, c = self.objects, scaled(NECK, cfg)
            self.template = tf.placeholder(tf.float32, [1, TEMPLATE, TEMPLATE, 3], 'template')
            self.kernels = template_kernels(self.template, cfg)
            self.inputs = {
                'search': tf.placeholder(tf.float32, [n, SEARCH, SEARCH, 3], 'search'),
                'size': tf.placeholder(tf.float32, [n, 2], 'size'),
                'hyper': tf.placeholder(tf.float32, [2], 'hyper'),
                **{k: tf.placeholder(tf.float32, [n, 5, 5, c], f'kernel_{k}') for k in BRANCHES},
            }
            kernels = {name: self.inputs[name] for name in BRANCHES}
            search, size, hyper = (self.inputs[k] for k in ('search', 'size', 'hyper'))
            outputs = track(search, kernels, size, hyper, cfg)
            self.outputs = {k: outputs[k] for k in ('best', 'score', 'penalty', 'box', 'mask')}
            self.session = npu.session(cfg)
            found = cli.match_variables(prefix, tf.global_variables())
            tf.train.Saver(found).restore(self.session, prefix)

    def learn(self, picture: np.ndarray) -> dict:
        """{branch: float32 [1, 5, 5, 256]} of a template picture [127, 127, 3]."""
        return self.session.run(self.kernels, {self.template: picture[None]})

    def find(self, pictures: list, kernels: list, sizes: list, hyper: tuple) -> dict:
        """Outputs of model.track() for any number of objects, `self.objects` a call."""
        result = []
        for first in range(0, len(pictures), self.objects):
            part = slice(first, first + self.objects)
            rows = [*range(len(pictures[part]))]
            rows += [0] * (self.objects - len(rows))  # padding, dropped below
            feed = {
                self.inputs['search']: np.stack([pictures[part][i] for i in rows]),
                self.inputs['size']: np.array([sizes[part][i] for i in rows]),
                self.inputs['hyper']: hyper,
            }
            for name in BRANCHES:
                feed[self.inputs[name]] = np.concatenate([kernels[part][i][name] for i in rows])
            result.append(self.session.run(self.outputs, feed))
        return {k: np.concatenate([r[k] for r in result])[: len(pictures)] for k in self.outputs}


def crop(image: np.ndarray, centre, out: int, side: int, average: np.ndarray) -> np.ndarray:
    """A square of `side` px about `centre` (x, y), resized to `out`: float32 [out, out, 3].

    Outside the picture is `average`, as uint8. Halves are rounded to even, as Python does.
    """
    half = (side + 1) / 2
    x, y = (int(round(float(c) - half)) for c in centre)
    height, width = image.shape[:2]
    patch = np.empty((side, side, 3), np.uint8)
    patch[:] = average.astype(np.uint8)
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
    if right > left and bottom > top:
        patch[top - y : bottom - y, left - x : right - x] = image[top:bottom, left:right]
    return (patch if side == out else cv2.resize(patch, (out, out))).astype(np.float32)


def context(size) -> float:
    """Side in px of the square that the template shows, of a target of `size` (w, h)."""
    pad = 0.5 * (size[0] + size[1])
    return np.sqrt((size[0] + pad) * (size[1] + pad))


def centred(size) -> np.ndarray:
    """Corners float64 [4] in a crop of a box of width and height `size`: context 127 px."""
    centre, half = CROP // 2, np.array(size) * (TEMPLATE / context(size)) * 0.5
    return np.concatenate([centre - half, centre + half])


def window_of(image: np.ndarray, window, size: int, border=(0, 0, 0)) -> np.ndarray:
    """The window (x0, y0, x1, y1) of a picture as size x size, bilinear: its corners become pixels
    0 and size - 1."""
    a, b = (size - 1) / (window[2] - window[0]), (size - 1) / (window[3] - window[1])
    mapping = np.array([[a, 0, -a * window[0]], [0, b, -b * window[1]]], np.float64)
    return cv2.warpAffine(
        image, mapping, (size, size), borderMode=cv2.BORDER_CONSTANT, borderValue=border
    )


def start(network: Network, image: np.ndarray, box) -> dict:
    """State of an object from its box in uint8 [H, W, 3] BGR.

    Args:
      box: centre x, y, width, height, px.

    Raises:
      ValueError: a box without area, or outside the picture.
    """
    x, y, width, height = (float(v) for v in box)
    rows, columns = image.shape[:2]
    inside = -width / 2 < x < columns + width / 2 and -height / 2 < y < rows + height / 2
    if not (np.isfinite([x, y, width, height]).all() and width > 0 and height > 0 and inside):
        raise ValueError(
            f'box of centre {x:g}, {y:g} and size {width:g} x {height:g} has no area in a picture '
            f'of {columns}x{rows}'
        )
    place, size = np.array([x, y]), np.array([width, height])
    average = image.mean((0, 1))
    picture = crop(image, place, TEMPLATE, int(round(context(size))), average)
    return dict(kernels=network.learn(picture), place=place, size=size, average=average, score=1.0)


def step(network: Network, image: np.ndarray, states: list, hyper: dict, masks=True) -> list[dict]:
    """New states of all objects in the next frame, uint8 [H, W, 3] BGR.

    A state has also: score (0..1), polygon float32 [4, 2], axis_aligned [x, y, w, h], and with
    `masks` mask float32 [H, W], probabilities, -1 outside the patch.
    """
    scales = [TEMPLATE / context(s['size']) for s in states]
    sides = [int(round(SEARCH / scale)) for scale in scales]
    pictures = [
        crop(image, s['place'], SEARCH, side, s['average']) for s, side in zip(states, sides)
    ]
    found = network.find(
        pictures, [s['kernels'] for s in states],
        [s['size'] * scale for s, scale in zip(states, scales)],
        (hyper['penalty_k'], hyper['window_influence']),
    )  # fmt: skip
    result = []
    for i, (state, scale, side) in enumerate(zip(states, scales, sides)):
        answer = {key: value[i] for key, value in found.items()}
        moved = _moved(state, answer, scale, hyper['tracker_rate'])
        if masks:
            corner = state['place'] - side / 2
            moved['mask'] = pasted(answer['mask'], answer['best'], corner, side, image.shape)
            shape = moved['mask'] > hyper['mask_threshold']
            moved['polygon'] = rotated_box(shape, moved['place'], moved['size'])
        result.append(_clipped(moved, image.shape, masks))
    return result


def _moved(state, answer, scale, rate):
    rate = float(answer['penalty'] * answer['score'] * rate)
    box = answer['box'].astype(np.float64) / scale
    size = state['size'] * (1 - rate) + box[2:] * rate
    return dict(state, place=state['place'] + box[:2], size=size, score=float(answer['score']))


def _clipped(state, shape, masks):
    limit = np.array([shape[1], shape[0]], np.float64)
    place = np.clip(state['place'], 0, limit)
    size = np.maximum(SMALLEST, np.minimum(limit, state['size']))
    box = np.concatenate([place - size / 2, size])
    polygon = state['polygon'] if masks else corners(place, size)
    return dict(state, place=place, size=size, axis_aligned=box, polygon=polygon)


def pasted(mask: np.ndarray, best: int, corner, side: int, shape) -> np.ndarray:
    """The chosen cell's patch float32 [M, M] in the frame: float32 [H, W], -1 outside."""
    row, column = divmod(int(best) % (SCORE * SCORE), SCORE)
    scale, (height, width) = side / SEARCH, shape[:2]
    x, y = (c + (k - 4) * STRIDE * scale for c, k in zip(corner, (column, row)))  # 4: base_size / 2
    zoom = mask.shape[0] / (scale * TEMPLATE)
    a, b = (width - 1) / (width * zoom), (height - 1) / (height * zoom)
    mapping = np.array([[a, 0, a * x * zoom], [0, b, b * y * zoom]], np.float64)
    return cv2.warpAffine(mask, mapping, (width, height), borderValue=-1)


def rotated_box(shape: np.ndarray, place, size) -> np.ndarray:
    """Corners float32 [4, 2] of the smallest rectangle about the largest part of bool [H, W]; of
    the axis-aligned box where that is small."""
    parts = cv2.findContours(shape.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[-2]
    areas = [cv2.contourArea(part) for part in parts]
    if areas and max(areas) > LEAST_AREA:
        largest = parts[int(np.argmax(areas))].reshape(-1, 2)
        return cv2.boxPoints(cv2.minAreaRect(largest))
    return corners(place, size)


def corners(place, size) -> np.ndarray:
    """[[x0, y0], [x1, y0], [x1, y1], [x0, y1]] of a box about `place`."""
    (x0, y0), (x1, y1) = place - size / 2, place + size / 2
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def merged(maps: list[np.ndarray], numbers: list[int], threshold: float) -> np.ndarray:
    """Object ids uint8 [H, W]: the likeliest object where it is above the threshold, else 0."""
    stack = np.stack(maps)
    ids = np.array(numbers, np.uint8)[stack.argmax(0)]
    return np.where(stack.max(0) > threshold, ids, 0).astype(np.uint8)


def box_of_mask(mask: np.ndarray) -> tuple:
    """Centre x, y, width, height of the pixels of bool [H, W]; ValueError where there are none."""
    if not mask.any():
        raise ValueError('an empty mask has no box')
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return x + width / 2, y + height / 2, width, height


def center_box(numbers) -> tuple:
    """Centre x, y, width, height of the axis-aligned box that a tracker starts from (PT
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
      reset: without, the tracker goes on whatever happens. boxes: axis-aligned boxes instead of
      rotated ones of the mask.
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


def segment(network, frames, given: dict, hyper: dict, ends: dict | None = None):
    """(frame, ids uint8 [H, W], {id: state}) of every frame of an iterator; objects start where
    `given` {frame number: ids} first shows them, and end after frame `ends` {id: number}."""
    states, ends = {}, ends or {}
    for t, image in enumerate(frames):
        states = {n: s for n, s in states.items() if t <= ends.get(n, t)}
        found = step(network, image, list(states.values()), hyper) if states else []
        states = dict(zip(states, found))
        for number in sorted(set(np.unique(given[t]).tolist()) - {0}) if t in given else ():
            mask = given[t] == number
            if mask.shape != image.shape[:2]:
                raise ValueError(f'frame {t} is {image.shape[:2]}, its mask {mask.shape}')
            states[number] = start(network, image, box_of_mask(mask))
            states[number].update(mask=mask.astype(np.float32))
        ids = np.zeros(image.shape[:2], np.uint8)
        if states:
            maps = [state['mask'] for state in states.values()]
            ids = merged(maps, list(states), hyper['mask_threshold'])
        yield image, ids, states
