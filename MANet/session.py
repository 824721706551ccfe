"""Rounds of interactive segmentation of one video: scribbles in, masks out, what earlier rounds
found kept in two memories (test.py of the official code). No files, no clock: an evaluation or an
interface drives it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import matching


def resize_labels(labels: np.ndarray, size) -> np.ndarray:
    """int32 [h, w] of labels [H, W], size (h, w): the cell floor(i H / h), as PyTorch's nearest."""
    rows = np.arange(size[0]) * labels.shape[0] // size[0]
    columns = np.arange(size[1]) * labels.shape[1] // size[1]
    return labels[rows[:, None], columns].astype(np.int32)


def stroke_cells(ids: np.ndarray, size) -> np.ndarray:
    """int32 [h, w] of an image of ids int32 [H, W], -1 where there is none: resize_labels(), but no
    id is lost for being thin."""
    result = resize_labels(ids, size)
    for number in set(np.unique(ids[ids >= 0])) - set(np.unique(result)):
        rows, columns = np.nonzero(ids == number)
        result[rows * size[0] // ids.shape[0], columns * size[1] // ids.shape[1]] = number
    return result


def resize_logits(logits: np.ndarray, size) -> np.ndarray:
    """float32 [H, W, N] of [h, w, N], size (H, W), bilinear, corners aligned."""
    rows = matching.aligned_positions(size[0], logits.shape[0])
    share = rows.share[:, None, None]
    logits = logits[rows.low] * (1 - share) + logits[rows.high] * share
    columns = matching.aligned_positions(size[1], logits.shape[1])
    share = columns.share[None, :, None]
    return logits[:, columns.low] * (1 - share) + logits[:, columns.high] * share


def rough_region(strokes: np.ndarray, radius: int) -> np.ndarray:
    """Strokes int32 [h, w] of a first round with background, 0, wherever it is far from any: beyond
    `radius` cells around their box, whose last row and column count as outside (test.py)."""
    rows, columns = np.nonzero(strokes != -1)
    if not len(rows):  # lost when they were resized
        return strokes
    height, width = strokes.shape
    top, left = max(rows.min() - radius, 0), max(columns.min() - radius, 0)
    bottom, right = min(rows.max() + radius, height - 1), min(columns.max() + radius, width - 1)
    result = np.zeros_like(strokes)
    result[top:bottom, left:right] = strokes[top:bottom, left:right]
    return result


class LocalMemory(NamedTuple):
    """Local map float32 [h, w, N] of a frame in a round; weight: 1 / distance in frames to the
    round's annotated frame."""

    round: int
    weight: float
    map: np.ndarray


def softmax(logits: np.ndarray) -> np.ndarray:
    """float32 [..., N] of probabilities."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def between(answers: dict, t: int) -> np.ndarray:
    """The answer for frame t from those that came from annotated frames: of the nearest before and
    the nearest after it, weighted by the distance to the other one.

    Args:
      answers: {annotated frame: float [h, w, N]}; frame t's own is taken as it is.
      t: frame.
    """
    if t in answers:
        return answers[t]
    before = [frame for frame in answers if frame < t]
    after = [frame for frame in answers if frame > t]
    if not before or not after:
        return answers[max(before) if before else min(after)]
    low, high = max(before), min(after)
    share = (t - low) / (high - low)
    return answers[low] * (1 - share) + answers[high] * share


class Session:
    """One video in several rounds.

    masks: uint8 [T, H, W], of the last round. rounds: number of rounds played. global_memory:
    {frame: least global map so far, float32 [h, w, N]}. local_memory: {frame: LocalMemory of the
    last round}. answers: {frame: {annotated frame: probabilities float16 [h, w, N]}}, where
    cfg.merge is 'distance'.
    """

    def __init__(self, network, cfg, embeddings: list, size, objects: int):
        """A video before its first round.

        Args:
          network: inference.Network.
          cfg: uses roi, merge.
          embeddings: of inference.embed_video().
          size: (H, W) of the frames.
          objects: ids are 1..objects.

        Raises:
          ValueError: an unknown cfg.merge.
        """
        if cfg.merge not in ('newest', 'distance'):
            raise ValueError(f"merge is 'newest' or 'distance', not {cfg.merge!r}")
        self.network, self.cfg, self.embeddings = network, cfg, embeddings
        self.size, self.count, self.rounds = tuple(size), objects + 1, 0
        self.cells = embeddings[0].shape[:2]
        self.masks = np.zeros((len(embeddings), *self.size), np.uint8)
        self.global_memory, self.local_memory, self.answers = {}, {}, {}

    def play(self, strokes: np.ndarray, frame: int, given: np.ndarray | None = None) -> np.ndarray:
        """Plays one more round; returns the masks uint8 [T, H, W].

        Args:
          strokes: int32 [h, w] of the embeddings' size, -1 where there are none.
          frame: that they are drawn on.
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
        for t in range(frame + 1, len(self.embeddings)):
            self._propagate(t, t - 1, frame, labels)
        for t in range(frame - 1, -1, -1):
            self._propagate(t, t + 1, frame, labels)
        return self.masks

    def _annotate(self, strokes, frame, first):
        previous = np.zeros(self.cells, np.int32) if first else self._cell_labels(frame)
        logits, own = self.network.interact(
            self.count, embedding=self.embeddings[frame], strokes=strokes, previous=previous
        )
        self.global_memory[frame] = np.minimum(self.global_memory.get(frame, 1), own)
        self.local_memory.pop(frame, None)
        self.masks[frame] = self._mask(self._merged(frame, frame, logits))

    def _propagate(self, t, before, frame, labels):
        """Answers frame t from its neighbor `before` and the annotated frame."""
        mask = self._cell_labels(before)
        global_map, local_map = self.network.match(
            self.count,
            query=self.embeddings[t],
            reference=self.embeddings[frame],
            previous=self.embeddings[before],
            labels=labels,
            mask=mask,
        )
        self.global_memory[t] = np.minimum(self.global_memory.get(t, 1), global_map)
        new = LocalMemory(self.rounds, 1 / abs(t - frame), local_map)
        logits = self.network.propagate(
            self.count,
            embedding=self.embeddings[t],
            global_map=self.global_memory[t],
            local_map=self._remember_local(t, new),
            mask=mask,
        )
        merged = self._merged(t, frame, logits)
        if t not in self.answers.get(t, ()):  # else annotated: what the user has drawn stays
            self.masks[t] = self._mask(merged)

    def _merged(self, t, frame, logits):
        """The answer for frame t: this round's, or with cfg.merge = 'distance' what this round and
        those annotated elsewhere say together."""
        if self.cfg.merge == 'newest':
            return logits
        answers = self.answers.setdefault(t, {})
        answers[frame] = softmax(logits).astype(np.float16)
        return between(answers, t).astype(np.float32)

    def _remember_local(self, t, new):
        """Keeps the local map of this round; returns the one to use: that of the round before where
        its annotated frame was as near or nearer."""
        old = self.local_memory.get(t)
        self.local_memory[t] = new
        if old and old.round == new.round - 1 and new.weight <= old.weight:
            return old.map
        return new.map

    def _cell_labels(self, t):
        return resize_labels(self.masks[t], self.cells)

    def _mask(self, logits):
        return resize_logits(logits, self.size).argmax(-1).astype(np.uint8)
