"""The networks in Python: the lines of each card run as they are printed, on a drawn clip with the
weights that come along; what a user gives is checked; nothing is imported before it is wanted."""

from __future__ import annotations

import contextlib
import importlib
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from conftest import ROOT

from common import masks, videos

SEGMENTING = ('OSVOS', 'OSMN', 'ColorNet')
MODELS = (*SEGMENTING, 'SiamMask', 'MANet')
SIZE = (240, 428)


@pytest.fixture(scope='module')
def clip(drawn):
    """(4 frames uint8 [240, 428, 3], the first mask uint8)."""
    root = Path(drawn['davis'])
    paths = sorted((root / 'JPEGImages/480p/drawn-x').glob('*.jpg'))[:4]
    frames = [cv2.resize(masks.read_image(str(path)), SIZE[::-1]) for path in paths]
    ids = masks.read_mask(str(root / 'Annotations/480p/drawn-x/00000.png'))
    return frames, cv2.resize(ids, SIZE[::-1], interpolation=cv2.INTER_NEAREST)


QUICK = {  # settings that make the networks small images' ones: what the lines do is the same
    'OSVOS': {'height': 32, 'online_steps': 1},
    'OSMN': {'test_height': 64},
    'ColorNet': {'test_height': 64, 'test_width': 112},
    'SiamMask': {},
    'MANet': {'test_height': 32, 'test_width': 56},
}


@pytest.fixture
def quick(monkeypatch):
    """quick(model): its networks take QUICK's settings."""

    def change(model):
        module = importlib.import_module(f'{model}.pretrained')
        whole = module.network

        def network(*args, **settings):
            return whole(*args, **QUICK[model], **settings)

        monkeypatch.setattr(module, 'network', network)

    return change


def block(model):
    """The lines of Python in a card."""
    (found,) = re.findall(r'```python\n(.*?)```', (ROOT / model / 'README.md').read_text(), re.S)
    return found


@pytest.mark.parametrize('model', MODELS)
def test_lines_of_the_card_run(model, clip, quick, tmp_path, monkeypatch):
    quick(model)
    frames, ids = clip
    masks.write_video(str(tmp_path / 'clip.mp4'), frames)
    masks.write_mask(str(tmp_path / 'first.png'), ids)
    monkeypatch.chdir(tmp_path)
    write, graph = masks.write_mask, tf.get_default_graph()

    def write_mask(*args):
        assert tf.get_default_graph() is graph  # the caller's, while the network is there
        write(*args)

    monkeypatch.setattr(masks, 'write_mask', write_mask)
    lines = block(model)
    assert lines.count('\n') <= 15 and f'from {model} import' in lines
    exec(compile(lines, f'{model}/README.md', 'exec'), {})
    written = sorted(tmp_path.glob('0*.png'))
    first = model == 'SiamMask'  # whose first frame is given
    assert [path.stem for path in written] == [f'{t:05d}' for t in range(first, 4)]
    found = [masks.read_mask(str(path), void=True) for path in written]
    assert all(mask.shape == SIZE and mask.max() <= 1 for mask in found)
    if model in ('OSMN', 'ColorNet'):  # which keep the first mask
        assert (found[0] == ids).all() and found[1].any()


def test_packages_are_imported_without_tensorflow():
    code = f'import sys, {", ".join(MODELS)}; assert "tensorflow" not in sys.modules; '
    code += 'print([hasattr(m, "segment_") for m in (OSVOS, MANet)])'
    done = subprocess.run([sys.executable, '-c', code], cwd=str(ROOT), stdout=subprocess.PIPE)
    assert done.returncode == 0 and done.stdout.decode().strip() == '[False, False]'


def test_tracker_answers_as_evaluate_does(clip):
    from SiamMask import Tracker, tracker

    frames, ids = clip
    with Tracker() as follow:
        follow.start(frames[0], mask=ids > 0)
        found = [follow.step(frame) for frame in frames[1:3]]
        assert set(found[0].boxes) == set(found[0].scores) == {1}
        assert found[0].boxes[1].shape == (4, 2) and 0 <= found[0].scores[1] <= 1
        given, hyper = {0: (ids > 0).astype(np.uint8)}, follow.hyper
        steps = tracker.segment(follow.network, frames[:3], given, hyper)
        expected = [mask for mask, _ in steps][1:]
        assert all((a.ids == b).all() for a, b in zip(found, expected))
        with pytest.raises(ValueError, match='either boxes or a mask'):
            follow.start(frames[0])
        with pytest.raises(ValueError, match='has no area'):
            follow.start(frames[0], boxes=[(0, 0, 0, 4)])
        follow.states = {}
        with pytest.raises(ValueError, match='comes before step'):
            follow.step(frames[0])


class Flat:
    """Stands in for MANet's network: every frame looks like the strokes, or like the one before."""

    def embed(self, images):
        return np.zeros((len(images), *(-(-n // 4) for n in images.shape[1:3]), 2), np.float32)

    def interact(self, count, strokes, **_):
        return np.eye(count, dtype=np.float32)[np.maximum(strokes, 0)], np.ones(
            (*strokes.shape, count), np.float32
        )

    def match(self, count, mask, **_):
        return (np.ones((*mask.shape, count), np.float32),) * 2

    def propagate(self, count, mask, **_):
        return np.eye(count, dtype=np.float32)[mask]


def test_session_keeps_a_given_mask_and_checks_strokes(clip, monkeypatch):
    from MANet import Session, inference

    @contextlib.contextmanager
    def load(*_):
        yield Flat()

    monkeypatch.setattr(inference, 'load', load)
    frames, ids = clip
    with Session(frames[:2]) as session:
        found = session.mask(0, ids)
        assert found.shape == (2, *SIZE) and (found[0] == ids).all() and found[1].any()
        found[:] = 9
        stroke = {'path': [[0.4, 0.4], [0.6, 0.6]], 'object_id': 1}
        assert session.scribble(1, [stroke]).max() <= 1  # the caller's array is the caller's
        for strokes, message in (
            ([{'path': [[0, 0]]}], 'a stroke needs path and object_id'),
            ([{**stroke, 'path': [[0, 7]]}], '0..1'),
            ([{**stroke, 'object_id': 2}], 'object 2: the video has 1'),
            ([], 'without a stroke'),
        ):
            with pytest.raises(ValueError, match=re.escape(message)):
                session.scribble(0, strokes)
        with pytest.raises(ValueError, match='frame 2 of a video of 2'):
            session.scribble(2, [stroke])


def test_what_is_given_is_checked_before_the_network_is_loaded(clip):
    from MANet import Session
    from OSMN import segment

    frames, ids = clip
    with pytest.raises(ValueError, match='a video without frames'):
        segment([], ids)
    with pytest.raises(ValueError, match='frame 0 is float32'):
        segment([frames[0].astype(np.float32)], ids)
    with pytest.raises(ValueError, match=r'first mask is \[10, 428\]'):
        segment(frames, ids[:10])
    with pytest.raises(ValueError, match='--set thresold=0.4: expected NAME=VALUE'):
        segment(frames, ids, thresold=0.4)
    with pytest.raises(FileNotFoundError, match='no checkpoint at'):
        segment(frames, ids, checkpoint='absent')
    with pytest.raises(ValueError, match='expected uint8'):
        Session([frames[0][..., 0]])


def test_first_masks_that_are_arrays():
    ids = np.array([[0, 1], [2, 255]], np.uint8)
    assert (masks.checked_ids(ids, (2, 2)) == [[0, 1], [2, 0]]).all()
    for white in (ids > 0, 255 * (ids > 0).astype(np.int64)):
        found = masks.checked_ids(white, (2, 2))
        assert found.dtype == np.uint8 and (found == [[0, 1], [1, 1]]).all()
    for wrong, message in (
        (ids * 0, r'values \[\]'),
        (ids.astype(float), 'float64'),
        (ids.astype(int) - 1, 'expected ids'),
        (ids.astype(int) * 300, 'expected ids'),
    ):
        with pytest.raises(ValueError, match=message):
            masks.checked_ids(wrong, (2, 2))


def test_frames_of_two_sizes_are_told(clip):
    frames, _ = clip
    with pytest.raises(ValueError, match='frame 1 is .* the first is'):
        list(videos.checked([frames[0], frames[1][:50]]))
