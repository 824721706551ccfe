"""MANet's rounds on a video whose network is a table: which answers a frame keeps."""

import numpy as np
import pytest
from easydict import EasyDict

from MANet import session

FRAMES, CELLS, COUNT = 9, (3, 4), 3


class Table:
    """A network that answers every frame of round k with object self.says[k]."""

    def __init__(self, says):
        self.says, self.round = says, -1

    def _logits(self):
        logits = np.zeros((*CELLS, COUNT), np.float32)
        logits[..., self.says[self.round]] = 3
        return logits

    def interact(self, count, **maps):
        self.round += 1
        return self._logits(), np.ones((*CELLS, count), np.float32)

    def match(self, count, **maps):
        return np.ones((*CELLS, count), np.float32), np.ones((*CELLS, count), np.float32)

    def propagate(self, count, **maps):
        return self._logits()


def played(merge, says, frames):
    """First pixel of every frame's mask after rounds on `frames`."""
    cfg = EasyDict(roi=9, merge=merge)
    embeddings = [np.zeros((*CELLS, 1), np.float32)] * FRAMES
    run = session.Session(Table(says), cfg, embeddings, (6, 8), COUNT - 1)
    strokes = np.full(CELLS, -1, np.int32)
    strokes[1, 1] = 1
    for frame in frames:
        run.play(strokes, frame)
    assert run.masks.shape == (FRAMES, 6, 8)
    return run, run.masks[:, 0, 0].tolist()


def test_the_newest_round_rules_over_all_frames():
    assert played('newest', [1, 2], [0, 8])[1] == [2] * FRAMES


def test_each_frame_follows_the_nearer_annotated_one_and_annotated_frames_stay():
    _, found = played('distance', [1, 2], [0, 8])
    assert found[:4] == [1] * 4 and found[5:] == [2] * 4
    _, found = played('distance', [1, 2, 1], [0, 8, 4])
    assert found == [1] * 7 + [2] * 2  # 6 is as far from 4 as from 8: the lower id


def test_a_frame_that_is_annotated_again_takes_its_new_answer():
    _, found = played('distance', [1, 2, 2], [0, 8, 0])
    assert found == [2] * FRAMES


def test_beyond_the_last_annotated_frame_the_nearest_one_answers():
    _, found = played('distance', [1, 2], [2, 4])
    assert found == [1, 1, 1, 1, 2, 2, 2, 2, 2]


def test_between_weighs_by_the_distance():
    low, high = np.full((1, 1, 2), 1.0), np.full((1, 1, 2), 4.0)
    assert session.between({0: low, 3: high}, 1).tolist() == [[[2, 2]]]
    assert session.between({0: low, 3: high}, 7).tolist() == high.tolist()
    assert session.between({2: low, 3: high}, 0).tolist() == low.tolist()


def test_unknown_merge_is_refused():
    with pytest.raises(ValueError, match="'newest' or 'distance', not 'oldest'"):
        played('oldest', [1], [0])
