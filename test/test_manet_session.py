"""MANet's rounds on a video whose network is a table: which answers a frame keeps. On one whose
network answers by color: what is kept of a round that breaks off, undo, objects, files."""

import json

import numpy as np
import pytest
import tiny_manet
from easydict import EasyDict

from MANet import inference, robot, session

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


def tiny(objects=2, **settings):
    """(a session on the clip of tiny_manet, its network)."""
    cfg, network = tiny_manet.settings(**settings), tiny_manet.Network()
    embeddings = inference.embed_video(network, cfg, tiny_manet.images())
    del network.calls[:]
    return session.Session(network, cfg, embeddings, tiny_manet.SIZE, objects), network


def stroke(*args, **more):
    return tiny_manet.stroke(*args, **more)


def test_the_stand_in_follows_the_squares():
    run, _ = tiny()
    found = run.play([stroke(1, 2), stroke(2, 2)], 2)
    truth = tiny_manet.ids()
    for number in (1, 2):
        same = ((found == number) & (truth == number)).sum()
        assert same / ((found == number) | (truth == number)).sum() > 0.6


def test_the_annotated_frame_comes_first_and_a_round_is_kept_at_its_end():
    run, _ = tiny()
    frames = run.play_frames([stroke(1, 2)], 2)
    order, last = [], None
    for t, mask in frames:
        order.append(t)
        assert run.rounds == 0 and not run.masks.any()
        last = t, mask
    assert order == [2, 3, 4, 5, 1, 0]
    assert run.rounds == 1 and np.array_equal(run.masks[last[0]], last[1])


@pytest.mark.parametrize('merge', ['newest', 'distance'])
@pytest.mark.parametrize('first', [0, 1])
def test_a_fault_or_a_cancelled_round_leaves_all_as_it_was(merge, first):
    """In a first and in a second round, wherever it breaks off."""
    run, network = tiny(merge=merge)
    wanted, _ = tiny(merge=merge)
    for each in (run, wanted):
        if first:
            each.play([stroke(1, 0)], 0)
    for calls in (1, 2, 3, 11):
        network.calls, network.fault = [], {calls: RuntimeError('out of memory')}
        state = run.state
        with pytest.raises(RuntimeError, match='out of memory'):
            run.play([stroke(2, 4)], 4)
        assert run.state is state and not run.masks.flags.writeable
    network.fault = {}
    frames = run.play_frames([stroke(2, 4)], 4)
    next(frames), next(frames)
    frames.close()
    assert run.state is state and run.can_undo() == bool(first)
    found, other = (each.play([stroke(2, 4)], 4) for each in (run, wanted))
    assert np.array_equal(found, other) and run.rounds == first + 1
    for a, b in zip(run.state.maps(), wanted.state.maps()):
        assert np.array_equal(a, b)


def test_what_play_returns_is_a_copy_and_masks_cannot_be_changed():
    run, _ = tiny()
    found = run.play([stroke(1, 0)], 0)
    kept = found.copy()
    found[:] = 7
    assert np.array_equal(run.masks, kept)
    with pytest.raises(ValueError, match='read-only'):
        run.masks[0] = 1


def test_one_round_at_a_time():
    run, _ = tiny()
    frames = run.play_frames([stroke(1, 0)], 0)
    next(frames)
    again = run.play_frames([stroke(2, 0)], 0)
    for other in (lambda: next(again), run.undo, run.add_object):
        with pytest.raises(RuntimeError, match='is being played'):
            other()
    assert len(list(frames)) == 5 and run.rounds == 1
    assert run.add_object() == 3


def test_undo(monkeypatch):
    run, _ = tiny()
    states = []
    for t in (0, 5, 3):
        states.append(run.state)
        run.play([stroke(1, t), stroke(2, t)], t)
    told = run.undo()
    assert told['round'] == 3 and told['frame'] == 3 and told['strokes'][0] == stroke(1, 3)
    assert np.array_equal(run.masks, states[2].masks) and run.rounds == 2
    for found, other in zip(run.state.maps(), states[2].maps()):
        assert found is other
    with pytest.raises(ValueError, match='read-only'):
        run.masks[0] = 1
    run.undo(), run.undo()
    assert run.rounds == 0 and not run.masks.any() and not list(run.state.maps())
    with pytest.raises(ValueError, match='round 0 cannot be undone'):
        run.undo()
    monkeypatch.setattr(session, 'HISTORY', 0)  # the last one can be undone in any case
    for t in (0, 5, 3):
        run.play([stroke(1, t)], t)
    run.undo()
    assert not run.can_undo()
    run = session.Session(run.network, run.cfg, run.embeddings, run.size, 2, undo=False)
    run.play([stroke(1, 0)], 0)
    assert not run.can_undo()


@pytest.mark.parametrize('merge', ['newest', 'distance'])
def test_an_object_is_added(merge, tmp_path):
    """Masks stay until it is drawn; undo, saving and playing again know it."""
    run, _ = tiny(1, merge=merge)
    before = run.play([stroke(1, 0)], 0)
    with pytest.raises(ValueError, match='object 2: the video has 1'):
        run.play([stroke(2, 5)], 5)
    assert run.add_object() == 2 and np.array_equal(run.masks, before)
    found = run.play([stroke(2, 5), stroke(1, 5)], 5)
    assert (found[5] == 2).sum() > 100 and (found[5] == 1).sum() > 100
    path = str(tmp_path / 's.json')
    session.save(run, path, {'input': 'x'})
    shape = (tiny_manet.FRAMES, *tiny_manet.SIZE)
    for name in ('s.npz', 's.json'):
        kept = session.read(str(tmp_path / name), shape, tiny_manet.CELLS, {'input': 'x'})
        other, network = tiny(2, merge=merge)
        other.restore(kept)
        assert not network.calls and np.array_equal(other.masks, found) and other.count == 3
    (tmp_path / 's.npz').unlink()
    kept = session.read(path, shape, tiny_manet.CELLS, {'input': 'x'})
    other, network = tiny(2, merge=merge)
    other.restore(kept)
    assert network.calls and np.array_equal(other.masks, found)
    run.undo()
    assert np.array_equal(run.masks, before)
    run.count = session.MOST_OBJECTS + 1
    with pytest.raises(ValueError, match='254 objects are the most'):
        run.add_object()


def test_a_session_goes_on_where_it_was_saved(tmp_path):
    whole, _ = tiny()
    run, _ = tiny()
    for each in (whole, run):
        each.play([stroke(1, 0), stroke(2, 0)], 0)
        each.play([stroke(0, 4)], 4)
    session.save(run, str(tmp_path / 's.npz'), {'input': 'x', 'merge': 'distance'})
    shape = (tiny_manet.FRAMES, *tiny_manet.SIZE)

    def read(name='s.json', shape=shape, cells=tiny_manet.CELLS, **facts):
        facts = {'input': 'x', 'merge': 'distance', **facts}
        return session.read(str(tmp_path / name), shape, cells, facts)

    other, _ = tiny()
    other.restore(read())
    assert other.rounds == 2 and not other.can_undo()
    last = [stroke(1, 2)]
    assert np.array_equal(other.play(last, 2), whole.play(last, 2))
    with pytest.raises(ValueError, match='s.npz was made with another merge'):
        read('s.npz', merge='newest')
    assert read(merge='newest').state is None  # the strokes can be played with other settings
    with pytest.raises(ValueError, match='s.json was made with another input'):
        read(input='y')
    with pytest.raises(ValueError, match='s.json has 6 frames, the video has 7'):
        read(shape=(7, *tiny_manet.SIZE))
    with pytest.raises(ValueError, match='s.npz is of another video'):
        read('s.npz', shape=(7, *tiny_manet.SIZE))
    with pytest.raises(ValueError, match='is of another size in the network'):
        read('s.npz', cells=(6, 8))
    told = json.loads((tmp_path / 's.json').read_text())
    del told['rounds'][1]  # as the page's after an undo: the arrays are of more rounds
    (tmp_path / 's.json').write_text(json.dumps(told))
    kept = read()
    assert kept.state is None and len(kept.rounds) == 1


def test_the_json_of_a_session_is_a_sample_of_an_evaluation(tmp_path):
    run, _ = tiny()
    run.play([stroke(1, 3), stroke(2, 3)], 3)
    run.play([stroke(1, 0)], 0)
    session.save(run, str(tmp_path / '001'), {})
    found = robot.read(str(tmp_path / '001.json'), tiny_manet.FRAMES)
    assert robot.annotated_frames(found) == [3]
    assert found['scribbles'][3] == [stroke(1, 3), stroke(2, 3)]


@pytest.mark.parametrize(
    'change, message',
    [
        ({'objects': 0}, 'is no session'),
        ({'objects': True}, 'is no session'),
        ({'rounds': {}}, 'is no session'),
        ({'frame': 6}, 'round 1 has no frame of a video of 6'),
        ({'frame': '0'}, 'round 1 has no frame of a video of 6'),
        ({'round objects': 3}, 'round 1 has 3 objects of 2'),
        ({'strokes': 'x'}, 'expected {"scribbles"'),
        ({'strokes': []}, 'round 1 has no strokes of the objects 0 to 2'),
        ({'strokes': [{'path': [[0, 0]], 'object_id': 3}]}, 'no strokes of the objects 0 to 2'),
        ({'strokes': None}, 'round 1 was given as an image'),
    ],
)
def test_a_damaged_session_is_refused(tmp_path, change, message):
    one = {'frame': 0, 'objects': 2, 'strokes': [stroke(1, 0)]}
    one.update({k: v for k, v in change.items() if k in one and k != 'objects'})
    one['objects'] = change.get('round objects', 2)
    told = {'objects': 2, 'rounds': [one], 'frames': 6}
    told.update({k: v for k, v in change.items() if k in ('objects', 'rounds')})
    (tmp_path / 's.json').write_text(json.dumps(told))
    with pytest.raises(ValueError, match=message):
        session.read(str(tmp_path / 's.json'), (6, *tiny_manet.SIZE), tiny_manet.CELLS, {})


@pytest.mark.parametrize(
    'strokes, message',
    [
        ('x', 'strokes: expected'),
        ([[]], 'a stroke needs path and object_id'),
        ([{'path': [[0, 0]]}], 'a stroke needs path and object_id'),
        ([{'path': [], 'object_id': 1}], r'a path is \[\[x, y\], ...\]'),
        ([{'path': [[0, 0], [1]], 'object_id': 1}], r'a path is \[\[x, y\], ...\]'),
        ([{'path': [[0, float('nan')]], 'object_id': 1}], 'a path outside 0..1'),
        ([{'path': [[0, 1.01]], 'object_id': 1}], 'a path outside 0..1'),
        ([{'path': [[0, 0]], 'object_id': True}], 'object_id True'),
        ([{'path': [[0, 0]], 'object_id': 1.0}], 'object_id 1.0'),
        ([{'path': [[0, 0]], 'object_id': -1}], 'object_id -1'),
        ([{'path': [[0, 0]], 'object_id': 3}], 'object 3: the video has 2'),
        ([{'path': [[0, 0]], 'object_id': 10**30}], 'object_id 1000000'),
        ([{'path': [[0, 0]], 'object_id': 1, 'width': 2}], 'width 2 is no share'),
        ([{'path': [[0, 0]], 'object_id': 1, 'width': float('nan')}], 'width nan is no share'),
        ([], 'scribbles without a stroke'),
        (np.zeros((3, 4), np.int32), r'whole numbers \[12, 16\], not int32 \[3, 4\]'),
        (np.zeros(tiny_manet.CELLS), 'not float64'),
        (np.full(tiny_manet.CELLS, -2), 'object -2'),
    ],
)
def test_strokes_are_checked_before_anything_is_played(strokes, message):
    run, network = tiny()
    with pytest.raises(ValueError, match=message):
        run.play_frames(strokes, 0)
    with pytest.raises(ValueError, match="frame '0' is no number"):
        run.play_frames([stroke(1, 0)], '0')
    with pytest.raises(ValueError, match='the mask given'):
        run.play_frames([stroke(1, 0)], 0, np.zeros((2, 2), np.uint8))
    assert not network.calls and run.rounds == 0


def test_strokes_of_a_width():
    """A disk for a point, a band for a line; without a width, a line of one pixel as before."""
    path = [[0.2, 0.5], [0.8, 0.5]]
    thin, wide = (
        robot.rasterize([[{'path': path, 'object_id': 1, **more}]], (21, 31))[0] == 1
        for more in ({}, {'width': 0.24})
    )
    assert thin.sum(0).max() == 1 and wide[:, 15].sum() == 5 and wide[10, 6:25].all()
    point = robot.rasterize([[{'path': [[0.5, 0.5]], 'object_id': 0, 'width': 0.24}]], (21, 31))[0]
    assert (point == 0).sum() > 12 and point[10, 15] == 0


def test_strokes_on_the_background_leave_the_region_of_a_first_round_as_it_is():
    labels = np.full((20, 30), -1, np.int32)
    labels[8:12, 10:15] = 1
    wanted = session.rough_region(labels, 3)
    labels[0, 0] = labels[-1, -1] = labels[8, 9] = 0
    found = session.rough_region(labels, 3)
    assert found[8, 9] == 0 and wanted[8, 9] == -1
    found[8, 9] = -1
    assert np.array_equal(found, wanted)


def test_memory_is_bounded(monkeypatch):
    """Of many annotated frames a frame keeps the two answers around it; embeddings beyond a bound
    lie on disk and are the same."""
    run, _ = tiny()
    for t in (0, 5, 3, 2, 4, 1):
        run.play([stroke(1, t), stroke(2, t)], t)
        assert max(map(len, run.state.answers.values())) <= 2
    assert run.state.answers[3].keys() == {3}
    cfg, network = tiny_manet.settings(), tiny_manet.Network()
    wanted = inference.embed_video(network, cfg, tiny_manet.images())
    monkeypatch.setattr(inference, 'RESIDENT', 2 * wanted[0].nbytes)
    found = inference.embed_video(network, cfg, tiny_manet.images())
    assert [isinstance(each, np.memmap) for each in found] == [False] * 2 + [True] * 4
    assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(found, wanted))
