"""A stand-in for MANet's network that answers by color, and a clip for it: for tests of what calls
the network. Cells are a quarter of the image's rows and columns, as in inference.cells_of()."""

from __future__ import annotations

import cv2
import numpy as np
from easydict import EasyDict

FRAMES, SIZE, CELLS = 6, (48, 64), (12, 16)
COLORS = {1: (40, 40, 230), 2: (230, 60, 40)}  # B, G, R of the objects


def settings(**changes) -> EasyDict:
    """What a session and an embedding use of MANet's settings."""
    cfg = dict(test_height=SIZE[0], test_width=SIZE[1], test_batch=2, roi=99, merge='distance')
    return EasyDict(cfg, **changes)


class Network:
    """Every cell goes to the class whose strokes, or whose mask in the frame before, have its
    color; what no class has is background.

    calls: names of the parts that were called. fault: raised at the call of that number.
    """

    def __init__(self):
        self.calls, self.fault = [], {}

    def _note(self, name):
        self.calls.append(name)
        if len(self.calls) in self.fault:
            raise self.fault[len(self.calls)]

    def embed(self, images):
        self._note('embed')
        return np.ascontiguousarray(images[:, ::4, ::4]) / np.float32(255)

    def interact(self, count, embedding, strokes, previous):
        self._note('interact')
        own = _distances(embedding, embedding, strokes, count)
        logits = -own
        logits[..., 0] = np.where(strokes == 0, 9, -0.3)
        kept = np.eye(count, dtype=np.float32)[previous]
        return (logits + 0.1 * kept).astype(np.float32), own

    def match(self, count, query, reference, previous, labels, mask):
        self._note('match')
        pair = (reference, labels), (previous, mask)
        return tuple(_distances(query, other, ids, count) for other, ids in pair)

    def propagate(self, count, embedding, global_map, local_map, mask):
        self._note('propagate')
        assert global_map.shape == local_map.shape == (*mask.shape, count)
        logits = -(global_map + local_map)
        logits[..., 0] = np.maximum(logits[..., 0], -0.6)
        return logits.astype(np.float32)


def _distances(query, reference, labels, count):
    """float32 [h, w, count]: distance to the mean color of a class, 1 without it."""
    result = np.ones((*query.shape[:2], count), np.float32)
    for number in range(count):
        colors = reference[labels == number]
        if len(colors):
            result[..., number] = np.minimum(np.abs(query - colors.mean(0)).mean(-1), 1)
    return result


def images() -> list[np.ndarray]:
    """FRAMES frames uint8 [*SIZE, 3] BGR: two squares that move."""
    result = []
    for t in range(FRAMES):
        image = np.full((*SIZE, 3), 128, np.uint8)
        cv2.rectangle(image, (4 + 2 * t, 8), (19 + 2 * t, 23), COLORS[1], -1)
        cv2.rectangle(image, (40 - 2 * t, 28), (55 - 2 * t, 43), COLORS[2], -1)
        result.append(image)
    return result


def ids() -> np.ndarray:
    """uint8 [FRAMES, *SIZE]: the squares."""
    found = np.stack(images()).astype(int)
    return sum(k * (found == c).all(-1) for k, c in COLORS.items()).astype(np.uint8)


def stroke(number: int, t: int, **more) -> dict:
    """A line on object `number` (0: on the background) in frame t."""
    rows, columns = np.nonzero(ids()[t] == number)
    x = np.linspace(columns.min() + 4, columns.max() - 4, 5) / (SIZE[1] - 1)
    y = (rows.min() + rows.max()) / 2 / (SIZE[0] - 1) if number else 0.02
    path = [[round(float(each), 4), round(float(y), 4)] for each in x]
    return {'path': path, 'object_id': number, **more}
