"""The rounds of scribbles of stage 2: what the network answers is corrected by the robot, and the
corrections are what the interaction head is trained on next (train_stage2.py of the official code).
"""

from __future__ import annotations

import os
import random
from typing import NamedTuple

from common import davis, files, masks
from common.lazy import cv2, np

from . import data, inference, robot
from .session import resize_labels, resize_logits, rough_region

RADIUS = 15  # px around first scribbles, beyond is background (train_stage2.py)
KERNEL = 0.15  # of the robot's opening while training (train_stage2.py)
OPENING = (10, 15)  # px, least and largest side of the square (mask_damager)
TURNS = (5, 15)  # degrees, least and largest (mask_damager)
SCALES = (0.8, 1.0, 1.2)  # (mask_damager)
EMPTIED = 0.1  # probability that a damaged truth shows nothing (train_stage2.py)


class Correction(NamedTuple):
    """Scribbles of a sequence: the frame, strokes int32 [H, W] on it, and its mask of the round
    before, uint8 [H, W]."""

    frame: int
    strokes: np.ndarray
    mask: np.ndarray


def of_round(cfg, output_path: str, number: int) -> dict | None:
    """{sequence: Correction} of round `number` of stage 2; None in a cycle's first round, whose
    scribbles are human.

    They are made once, from the checkpoint of then; rounds/<number>.npz keeps them.

    Raises:
      ValueError: the file is of another run.
    """
    if number % cfg.rounds == 0:
        return None
    path = os.path.join(output_path, 'rounds', f'{number}.npz')
    made_from = f'seed {cfg.seed}, {cfg.cycle} updates a round of {len(cfg.examples)} sequences'
    if not os.path.isfile(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        before = of_round(cfg, output_path, number - 1) or {}
        with inference.load(output_path, cfg) as network:
            found = correct_all(network, cfg, before, number)
        arrays = {
            f'{name}/{field}': value
            for name, correction in found.items()
            for field, value in correction._asdict().items()
        }
        with files.replacing(path) as temporary:
            np.savez_compressed(temporary, made_from=made_from, **arrays)
    with np.load(path) as kept:
        source = str(kept['made_from']) if 'made_from' in kept.files else made_from
        if source != made_from:
            raise ValueError(
                f'{path} was made with {source}, this run has {made_from}: go on with those '
                'settings, or start anew in another --output_path'
            )
        result = {}
        for name in cfg.examples:
            frame, strokes, mask = (kept[f'{name}/{key}'] for key in Correction._fields)
            result[name] = Correction(int(frame), strokes, mask)
        return result


def correct_all(network, cfg, before: dict, number: int) -> dict:
    """{sequence: Correction} of the round after `before`."""
    result = {}
    for n, name in enumerate(cfg.examples):
        draws = random.Random(cfg.seed * 2**40 + number * 2**20 + n)
        generator = np.random.RandomState([cfg.seed, number, n])
        result[name] = correct(network, cfg, name, before.get(name), draws, generator)
    return result


def correct(network, cfg, name: str, before, draws, generator) -> Correction:
    """The robot's strokes on a random frame of a sequence, segmented from the scribbles of `before`
    (None: first ones) and from a damaged mask of the frame before."""
    frames, truth = davis.frames(cfg.data_path, name), davis.masks(cfg.data_path, name)
    count = cfg.counts[name]
    if before is None:
        reference, strokes = data.first_strokes(name, cfg, draws)
    else:
        reference, strokes = before.frame, before.strokes
    t = draws.randrange(len(frames) - 1)
    labels = [masks.read_mask(truth[k]) for k in (t, t + 1)]
    if cfg.true_result:
        square = (cfg.size, cfg.size)
        labels = [resize_labels(x, square) for x in labels]
        given = resize_labels(strokes, square)
        if before is None:
            given = rough_region(given, RADIUS)
        previous = distort_mask(labels[0], draws)
        images = [masks.read_image(frames[k]) for k in (reference, t, t + 1)]
        found = answer(network, images, given, previous, count + 1, square)
        found = data.damage_mask(found, generator)
    else:
        found = distort_mask(labels[1], draws, EMPTIED)
    drawn = robot.interact(name, labels[1][None], found[None], 0, count, kernel=KERNEL)
    drawn = robot.rasterize(drawn['scribbles'], strokes.shape)[0]
    if (drawn == -1).all():  # nothing to correct
        mask = resize_labels(masks.read_mask(truth[reference]), strokes.shape)
        return Correction(reference, strokes, mask)
    return Correction(t + 1, drawn, resize_labels(found, strokes.shape))


def answer(network, images, strokes, previous, count: int, size) -> np.ndarray:
    """Mask int32 [S, S] of the last of three images uint8 [H, W, 3], from strokes on the first and
    a mask of the second, int32 [S, S]; `size` is (S, S)."""
    images = [
        cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
        for image in images
    ]
    reference, before, current = network.embed(np.stack(images))
    cells = current.shape[:2]
    mask = resize_labels(previous, cells)
    global_map, local_map = network.match(
        count,
        query=current,
        reference=reference,
        previous=before,
        labels=resize_labels(strokes, cells),
        mask=mask,
    )
    logits = network.propagate(
        count, embedding=current, global_map=global_map, local_map=local_map, mask=mask
    )
    return resize_logits(logits, size).argmax(-1).astype(np.int32)


def distort_mask(label: np.ndarray, draws, emptied: float = 0.0) -> np.ndarray:
    """A stand-in for the mask of the frame before: labels opened or closed by a square, turned and
    scaled (mask_damager, with nearest labels where the original mixes them).

    Args:
      label: int32 [H, W].
      draws: random.Random.
      emptied: probability that the result is all 0.

    Returns:
      int32 [H, W].
    """
    side = draws.randint(*OPENING)
    kernel = np.ones((side, side), np.uint8)
    if draws.random() < emptied:
        return np.zeros(label.shape, np.int32)
    low, high = TURNS
    turns = draws.randint(low, high), draws.randint(-high, -low), 0
    turn, scale = turns[draws.randint(0, 2)], SCALES[draws.randint(0, 2)]
    how = cv2.MORPH_OPEN if draws.random() < 0.5 else cv2.MORPH_CLOSE
    label = cv2.morphologyEx(label.astype(np.uint8), how, kernel)
    height, width = label.shape
    warp = cv2.getRotationMatrix2D((width / 2, height / 2), turn, scale)
    return cv2.warpAffine(label, warp, (width, height), flags=cv2.INTER_NEAREST).astype(np.int32)
