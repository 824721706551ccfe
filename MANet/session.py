"""Rounds of interactive segmentation of one video: scribbles in, masks out, what earlier rounds
found kept (test.py of the official code). No files, no clock: an evaluation or an interface drives
it. And the corrected scribbles of stage 2's rounds.
"""

from __future__ import annotations

import contextlib
import os
import random

import cv2
import numpy as np
import tensorflow.compat.v1 as tf

from common import davis, masks

from . import cli, data, matching, model, npu, robot

REACH, KERNEL = 15, 0.15  # px of the region, robot's opening while training (train_stage2.py)
OPENING, TURNS, SCALES = (10, 15), (5, 15), (0.8, 1.0, 1.2)  # mask_damager: px, degrees
EMPTIED = 0.1  # probability that a damaged truth shows nothing (train_stage2.py)


@contextlib.contextmanager
def loaded(cfg, prefix: str):
    """A network with a checkpoint's weights: yields a function `network(name, count, size, values)`
    which runs a part ('embed', 'interact', 'match', 'propagate') for `count` classes.

    Raises:
      ValueError: the checkpoint is of another network.
    """
    with tf.Graph().as_default() as graph, npu.session(cfg) as session:
        parts = {}
        picture = tf.placeholder(tf.float32, [1, 64, 64, 3])
        model.embed(picture, cfg)
        model.every_variable(cfg)
        variables = [v for v in tf.global_variables() if v.op.name.startswith('manet/')]
        tf.train.Saver(cli.match_variables(prefix, variables)).restore(session, prefix)

        def network(name, count, size, values):
            key = name, count, tuple(size)
            if key not in parts:
                with graph.as_default():
                    parts[key] = BUILDERS[name](count, size, cfg)
            feed, outputs = parts[key]
            return session.run(outputs, {feed[k]: values[k] for k in feed})

        yield network


def _embed(count, size, cfg):
    image = tf.placeholder(tf.float32, [count, *size, 3], 'image')
    return {'image': image}, model.embed(model.normalised(image, cfg), cfg)


def _interact(count, size, cfg):
    feed = {
        'embedding': tf.placeholder(tf.float32, [*size, model.embedded(cfg)]),
        'strokes': tf.placeholder(tf.int32, size), 'previous': tf.placeholder(tf.int32, size),
    }  # fmt: skip
    embedding, strokes, previous = feed.values()
    planes = [model.planes(x, count) for x in (strokes, previous)]
    logits = model.interact(embedding, *planes, cfg)
    own = matching.local_map(embedding, embedding, strokes, count, cfg, lean=True)
    return feed, (logits, own)


def _match(count, size, cfg):
    shape = [*size, model.embedded(cfg)]
    feed = {k: tf.placeholder(tf.float32, shape) for k in ('query', 'reference', 'previous')}
    feed.update({k: tf.placeholder(tf.int32, size) for k in ('labels', 'mask')})
    query, reference, previous, labels, mask = feed.values()
    return feed, (
        matching.global_map(query, reference, labels, count, cfg, lean=True),
        matching.local_map(query, previous, mask, count, cfg, lean=True),
    )


def _propagate(count, size, cfg):
    feed = {'embedding': tf.placeholder(tf.float32, [*size, model.embedded(cfg)])}
    feed.update({k: tf.placeholder(tf.float32, [*size, count]) for k in ('global', 'local')})
    feed['mask'] = tf.placeholder(tf.int32, size)
    embedding, global_, local, mask = feed.values()
    return feed, model.propagate(embedding, global_, local, model.planes(mask, count), cfg)


BUILDERS = {'embed': _embed, 'interact': _interact, 'match': _match, 'propagate': _propagate}


def embedded(network, cfg, frames) -> list[np.ndarray]:
    """Embeddings float32 [h, w, C] of frames uint8 [H, W, 3] BGR: 10 MB a frame at 480x854."""
    found, pending = [], []
    for image in frames:
        pending.append(network_size(image, cfg))
        if len(pending) == cfg.test_batch:
            found += list(network('embed', cfg.test_batch, pending[0].shape[:2],
                                  {'image': np.stack(pending)}))  # fmt: skip
            pending = []
    for image in pending:
        found += list(network('embed', 1, image.shape[:2], {'image': image[None]}))
    if not found:
        raise ValueError('a video without frames')
    return found


def network_size(image: np.ndarray, cfg) -> np.ndarray:
    """float32 [h, w, 3] of the size that the network takes, bicubic, not clipped."""
    height = cfg.test_height
    width = cfg.test_width or int(round(image.shape[1] * height / image.shape[0] / 4)) * 4
    if image.shape[:2] == (height, width):
        return image.astype(np.float32)
    return cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)


def nearest(labels: np.ndarray, size) -> np.ndarray:
    """int32 [h, w] of labels [H, W], size (h, w): the cell floor(i H / h), as PyTorch's."""
    rows, columns = (np.arange(n) * s // n for n, s in zip(size, labels.shape))
    return labels[rows[:, None], columns].astype(np.int32)


def stroke_cells(ids: np.ndarray, size) -> np.ndarray:
    """int32 [h, w] of a picture of ids int32 [H, W], -1 where there is none: nearest(), but no id
    is lost for being thin."""
    result = nearest(ids, size)
    for number in set(np.unique(ids[ids >= 0])) - set(np.unique(result)):
        rows, columns = np.nonzero(ids == number)
        result[rows * size[0] // ids.shape[0], columns * size[1] // ids.shape[1]] = number
    return result


def rough_region(strokes: np.ndarray, reach: int) -> np.ndarray:
    """Strokes int32 [h, w] of a first round with background, 0, wherever it is far from any: beyond
    `reach` cells around their box, whose last row and column count as outside (test.py)."""
    rows, columns = np.nonzero(strokes != -1)
    if not len(rows):  # lost when made smaller
        return strokes
    height, width = strokes.shape
    top, left = max(rows.min() - reach, 0), max(columns.min() - reach, 0)
    bottom, right = min(rows.max() + reach, height - 1), min(columns.max() + reach, width - 1)
    result = np.zeros_like(strokes)
    result[top:bottom, left:right] = strokes[top:bottom, left:right]
    return result


class Session:
    """One video in several rounds.

    masks: uint8 [T, H, W], of the last round. rounds: number of rounds played.
    """

    def __init__(self, network, cfg, embeddings: list, size, objects: int):
        """`embeddings` of embedded(); size (H, W) of the frames; ids 1..objects."""
        self.network, self.cfg, self.embeddings = network, cfg, embeddings
        self.size, self.count, self.rounds = tuple(size), objects + 1, 0
        self.cells = embeddings[0].shape[:2]
        self.masks = np.zeros((len(embeddings), *self.size), np.uint8)
        self.nearest, self.local = {}, {}  # {frame: map}; {frame: (round, weight, map)}

    def play(self, strokes: np.ndarray, frame: int, given: np.ndarray | None = None) -> np.ndarray:
        """Masks uint8 [T, H, W] after one more round.

        Args:
          strokes: int32 [h, w] at the embeddings' size, -1 where there are none. frame: theirs.
          given: ids uint8 [H, W], the frame's mask where the user has it; it stays.

        Raises:
          ValueError: no strokes, an id that is not of the video, a frame outside it.
        """
        if not 0 <= frame < len(self.embeddings):
            raise ValueError(f'frame {frame} of a video of {len(self.embeddings)}')
        if (strokes == -1).all():
            raise ValueError('scribbles without a stroke')
        if strokes.max() >= self.count:
            raise ValueError(f'object {strokes.max()}: the video has {self.count - 1}')
        first = self.rounds == 0
        self.rounds += 1
        self._annotate(strokes, frame, first)
        if given is not None:
            self.masks[frame] = given
        labels = rough_region(strokes, self.cfg.roi) if first else strokes
        count = len(self.embeddings)
        for order in (range(frame + 1, count), range(frame - 1, -1, -1)):
            for t in order:
                before = t - 1 if t > frame else t + 1
                self._propagate(t, before, frame, labels)
        return self.masks

    def _annotate(self, strokes, frame, first):
        previous = np.zeros(self.cells, np.int32) if first else self._cells_of(frame)
        values = dict(embedding=self.embeddings[frame], strokes=strokes, previous=previous)
        logits, own = self.network('interact', self.count, self.cells, values)
        self.nearest[frame] = np.minimum(self.nearest.get(frame, 1), own)
        self.masks[frame] = self._mask(logits)
        self.local.pop(frame, None)

    def _propagate(self, t, before, frame, labels):
        mask = self._cells_of(before)
        values = dict(
            query=self.embeddings[t], reference=self.embeddings[frame],
            previous=self.embeddings[before], labels=labels, mask=mask,
        )  # fmt: skip
        found, local = self.network('match', self.count, self.cells, values)
        self.nearest[t] = np.minimum(self.nearest.get(t, 1), found)
        last, weight = self.local.get(t), 1 / abs(t - frame)
        self.local[t] = self.rounds, weight, local
        if last and last[0] == self.rounds - 1 and weight <= last[1]:
            local = last[2]  # nearer to that round's annotation
        values = {'embedding': self.embeddings[t], 'global': self.nearest[t], 'local': local,
                  'mask': mask}  # fmt: skip
        self.masks[t] = self._mask(self.network('propagate', self.count, self.cells, values))

    def _cells_of(self, t):
        return nearest(self.masks[t], self.cells)

    def _mask(self, logits):
        return enlarged(logits, self.size).argmax(-1).astype(np.uint8)


def enlarged(image: np.ndarray, size) -> np.ndarray:
    """float32 [H, W, C] of [h, w, C], bilinear, corners aligned."""
    for axis, count in enumerate(size):
        low, high, share = matching.between(count, image.shape[axis], count)
        share = share.reshape([-1 if k == axis else 1 for k in range(3)])
        image = np.take(image, low, axis) * (1 - share) + np.take(image, high, axis) * share
    return image


def annotations(cfg, output_path: str, turn: int) -> dict | None:
    """Scribbles of a round of stage 2: {sequence: (frame, strokes int32 [H, W], mask of the round
    before uint8 [H, W])}; None in a cycle's first, whose scribbles are human.

    What the checkpoint of then answers is corrected by the robot, once: rounds/<turn>.npz keeps it.
    """
    if turn % cfg.rounds == 0:
        return None
    path = os.path.join(output_path, 'rounds', f'{turn}.npz')
    if not os.path.isfile(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        before = annotations(cfg, output_path, turn - 1)
        found = corrected(cfg, cli.checkpoint_prefix(output_path), before, turn)
        arrays = {f'{name}/{k}': v for name, state in found.items()
                  for k, v in zip(('frame', 'strokes', 'mask'), state)}  # fmt: skip
        with open(f'{path}.tmp', 'wb') as f:
            np.savez_compressed(f, **arrays)
        os.replace(f'{path}.tmp', path)
    with np.load(path) as kept:
        return {
            name: (int(kept[f'{name}/frame']), kept[f'{name}/strokes'], kept[f'{name}/mask'])
            for name in cfg.examples
        }


def corrected(cfg, prefix: str, before: dict | None, turn: int) -> dict:
    """annotations() of the round after `before`: a random frame of each sequence, segmented from
    the scribbles so far and a damaged mask of the frame before, and the robot's strokes on it."""
    result = {}
    with loaded(cfg, prefix) as network:
        for n, name in enumerate(cfg.examples):
            draws = random.Random(cfg.seed * 2**40 + turn * 2**20 + n)
            second = np.random.RandomState([cfg.seed, turn, n])
            result[name] = _corrected(network, cfg, name, (before or {}).get(name), draws, second)
    return result


def _corrected(network, cfg, name, state, draws, second):
    frames, truth = davis.frames(cfg.data_path, name), davis.masks(cfg.data_path, name)
    count, first = cfg.counts[name], state is None
    reference, strokes = data.first_strokes(name, cfg, draws) if first else state[:2]
    t = draws.randrange(len(frames) - 1)
    labels = [masks.read_mask(truth[k]) for k in (t, t + 1)]
    if cfg.true_result:
        pictures = [masks.read_image(frames[k]).astype(np.float32) for k in (reference, t, t + 1)]
        square = (cfg.size, cfg.size)
        labels = [nearest(x, square) for x in labels]
        given = nearest(strokes, square)
        given = rough_region(given, REACH) if first else given
        previous = roughened(labels[0], draws)
        found = _answered(network, pictures, given, previous, count + 1, square)
        found = data.damaged(found, second)
    else:
        found = roughened(labels[1], draws, EMPTIED)
    drawn = robot.interact(name, labels[1][None], found[None], 0, count, kernel=KERNEL)
    drawn = robot.rasterised(drawn['scribbles'], strokes.shape)[0]
    if (drawn == -1).all():  # nothing to correct
        return reference, strokes, nearest(masks.read_mask(truth[reference]), strokes.shape)
    return t + 1, drawn, nearest(found, strokes.shape)


def _answered(network, pictures, given, previous, count, square):
    """Mask int32 [S, S] of the last of three pictures: of strokes on the first and of a mask of the
    second."""
    pictures = [cv2.resize(x, square, interpolation=cv2.INTER_CUBIC) for x in pictures]
    embeddings = network('embed', 3, square, {'image': np.stack(pictures)})
    cells = embeddings.shape[1:3]
    labels, mask = (nearest(x, cells) for x in (given, previous))
    values = dict(query=embeddings[2], reference=embeddings[0], previous=embeddings[1],
                  labels=labels, mask=mask)  # fmt: skip
    global_, local = network('match', count, cells, values)
    values = {'embedding': embeddings[2], 'global': global_, 'local': local, 'mask': mask}
    logits = network('propagate', count, cells, values)
    return enlarged(logits, square).argmax(-1).astype(np.int32)


def roughened(label: np.ndarray, draws, emptied: float = 0.0) -> np.ndarray:
    """Labels int32 [H, W] opened or closed by a square, turned and scaled, or with the probability
    `emptied` all 0: a stand-in for the mask of the frame before (mask_damager, with nearest labels
    where the original mixes them)."""
    kernel = np.ones((draws.randint(*OPENING),) * 2, np.uint8)
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
