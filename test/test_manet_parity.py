"""Equal weights through the official MANet code and through ours: embeddings, both heads and both
memories over three rounds.

Needs what recorded/manet_official.py writes (its docstring has the command; torch is needed for
that alone):

    MANET_OFFICIAL=DIR python -m pytest test/test_manet_parity.py
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from recorded.manet_official import ROUNDS, SIZE, discs, picture, strokes

from MANet import config, convert, session


@pytest.fixture(scope='module')
def official():
    folder = os.environ.get('MANET_OFFICIAL')
    if not folder or not os.path.isfile(os.path.join(folder, 'official.npz')):
        pytest.skip('MANET_OFFICIAL names no folder that manet_official.py wrote')
    return Path(folder)


@pytest.fixture(scope='module')
def recorded(official):
    return np.load(official / 'official.npz')


@pytest.fixture(scope='module')
def network(official, tmp_path_factory):
    """The parts of the network with the seeded weights, imported by convert."""
    prefix = tmp_path_factory.mktemp('converted') / 'model.ckpt'
    assert convert.main([f'--source={official}/net.pth', f'--output={prefix}']) == 0
    cfg = config.get_config('stage2')
    cfg.device = 'cpu'
    with session.loaded(cfg, str(prefix)) as found:
        yield cfg, found


def nhwc(array):
    return np.ascontiguousarray(np.moveaxis(array, -3, -1))


def relative(mine, theirs):
    assert mine.shape == theirs.shape
    return np.abs(mine - theirs).max() / theirs.std()


def test_embeddings_equal_the_official_ones(recorded, network):
    """Within twice the distance of the official float32 from its float64."""
    constants = np.array([0.229, 0.224, 0.225]), np.array([0.485, 0.456, 0.406])
    images = np.stack([nhwc(picture(n)) for n in range(3)]).astype(np.float64)
    images = ((images * constants[0] + constants[1]) * 255).astype(np.float32)
    found = network[1]('embed', 3, SIZE, {'image': images})
    exact = nhwc(recorded['embedding64'])
    own = np.abs(nhwc(recorded['embedding']) - exact).max()
    assert np.abs(found - exact).max() < max(2 * own, 1e-4) and exact.std() > 0.1


def test_three_rounds_equal_the_official_ones(recorded, network):
    """Teacher-forced: the masks of all rounds are given."""
    cfg, parts = network
    e = nhwc(recorded['embedding'])
    answers = {}

    def watched(name, count, size, values):
        found = parts(name, count, size, values)
        if name in ('interact', 'propagate'):
            answers.setdefault(name, []).append(found[0] if name == 'interact' else found)
        return found

    run = session.Session(watched, cfg, e, SIZE, 2)
    run._mask = lambda logits: None
    masks = [discs(n).astype(np.uint8) for n in range(3)]

    class Given(list):
        def __setitem__(self, t, value):
            pass  # the network's own masks are not used

    run.masks = Given(masks)
    original = session.rough_region
    session.rough_region = lambda labels, reach: labels  # the recorder gives strokes as they are
    try:
        for number, frame in ROUNDS:
            answers.clear()
            run.play(strokes(number - 1, run.cells).astype(np.int32), frame)
            order = list(range(frame + 1, 3)) + list(range(frame - 1, -1, -1))
            theirs = nhwc(recorded[f'interact{number}'])[0]
            assert relative(answers['interact'][0], theirs) < 1e-3
            for t, logits in zip(order, answers['propagate']):
                theirs = nhwc(recorded[f'propagate{number}{t}'])[0]
                assert relative(logits, theirs) < 1e-3, (number, t)
            memory = recorded[f'memory{number}']
            for t in range(3):
                assert np.abs(run.nearest[t] - memory[t]).max() < 1e-4, (number, t)
    finally:
        session.rough_region = original
