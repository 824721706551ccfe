"""Equal weights through the official MANet code and through ours: embeddings, both heads and both
memories over three rounds, the first update of stage 1.

Needs what recorded/manet_official.py writes (its docstring has the command; torch is needed for
that alone):

    MANET_OFFICIAL=DIR python -m pytest test/test_manet_parity.py
"""

from __future__ import annotations

import os
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from recorded.manet_official import OBJECTS, ROUNDS, SIZE, SQUARE, batch, discs, picture, strokes

from common import weights
from MANet import cli, config, convert, inference, model, session, train

MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


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
def prefix(official, tmp_path_factory):
    """Prefix of the seeded weights, imported by convert."""
    path = tmp_path_factory.mktemp('converted') / 'model.ckpt'
    assert convert.main([f'--source={official}/net.pth', f'--output={path}']) == 0
    return str(path)


@pytest.fixture(scope='module')
def network(prefix):
    """The parts of the network with the seeded weights."""
    cfg = config.get_config()
    cfg.device = 'cpu'
    with inference.load(prefix, cfg) as found:
        yield cfg, found


def nhwc(array):
    return np.ascontiguousarray(np.moveaxis(array, -3, -1))


def relative(mine, theirs):
    assert mine.shape == theirs.shape
    return np.abs(mine - theirs).max() / theirs.std()


def test_embeddings_equal_the_official_ones(recorded, network):
    """Within twice the distance of the official float32 from its float64."""
    images = np.stack([nhwc(picture(n)) for n in range(3)]).astype(np.float64)
    images = ((images * DEVIATION + MEAN) * 255).astype(np.float32)
    found = network[1].embed(images)
    exact = nhwc(recorded['embedding64'])
    own = np.abs(nhwc(recorded['embedding']) - exact).max()
    assert np.abs(found - exact).max() < max(2 * own, 1e-4) and exact.std() > 0.1


def test_three_rounds_equal_the_official_ones(recorded, network):
    """Teacher-forced: the masks of all rounds are given."""
    cfg, parts = network
    e = nhwc(recorded['embedding'])
    answers = {}

    class Watched:
        match = parts.match

        def interact(self, count, **values):
            found = parts.interact(count, **values)
            answers.setdefault('interact', []).append(found[0])
            return found

        def propagate(self, count, **values):
            found = parts.propagate(count, **values)
            answers.setdefault('propagate', []).append(found)
            return found

    run = session.Session(Watched(), cfg, e, SIZE, 2, undo=False)
    run._mask = lambda logits: None
    masks = [discs(n).astype(np.uint8) for n in range(3)]

    class Given(list):
        flags = types.SimpleNamespace()

        def __setitem__(self, t, value):
            pass  # the network's own masks are not used

        def copy(self):
            return self

    run.state = run.state._replace(masks=Given(masks))
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
                assert np.abs(run.state.global_memory[t] - memory[t]).max() < 1e-4, (number, t)
    finally:
        session.rough_region = original


def updated(prefix: str):
    """Loss, values and momenta {variable: array} after the first update of stage 1 on batch()."""
    images, (reference, previous, current) = batch()
    images = (nhwc(images).astype(np.float64) * DEVIATION + MEAN) * 255
    images = images.reshape(3, 2, SQUARE, SQUARE, 3).transpose(1, 0, 2, 3, 4)
    present = [[1, 1, 1], [1, 1, OBJECTS[1] == 2]]
    features = {
        'images': tf.constant(images, tf.float32), 'present': tf.constant(present, tf.float32),
        'reference': tf.constant(reference, tf.int32), 'previous': tf.constant(previous, tf.int32),
    }  # fmt: skip
    cfg = config.get_config()
    cfg.update(device='cpu', stage=1, size=SQUARE, objects=max(OBJECTS), train_steps=101000)
    labels = {'label': tf.constant(current, tf.int32)}
    spec = train.model_fn(features, labels, tf.estimator.ModeKeys.TRAIN, cfg)
    slots = {v.op.name: v for v in tf.global_variables()}
    variables = [v for v in slots.values() if cli.of_network(v)]
    with tf.Session() as run:
        run.run(tf.global_variables_initializer())
        tf.train.Saver(variables).restore(run, prefix)
        loss = run.run(spec.loss)
        run.run(spec.train_op)
        found = run.run(slots)
    momenta = {n[: -len('/Momentum')]: v for n, v in found.items() if n.endswith('/Momentum')}
    return loss, found, momenta


def test_first_update_equals_the_official_one(official, prefix, monkeypatch):
    """Of two sequences of two and one objects, variables of at most 70,000 numbers: as near to the
    official float64 as the official float32 is."""
    monkeypatch.setattr(model, 'DROPPED', 0.0)
    with tf.Graph().as_default():
        loss, *found = updated(prefix)
    steps = [dict(np.load(official / f'step_{kind}.npz')) for kind in ('float32', 'float64')]
    own, exact = (float(step['loss']) for step in steps)
    assert abs(loss - exact) < max(5 * abs(own - exact), 1e-6 * exact)
    start = weights.read(str(official / 'net.pth'))
    before = convert.convert(start, 'official')[0]
    for kind, mine in zip(('value/', 'momentum/'), found):
        recorded = [
            {n[len(kind) :]: v for n, v in step.items() if n.startswith(kind)} for step in steps
        ]
        single, exact = (convert.convert({**start, **part}, 'official')[0] for part in recorded)
        names = [n for n in exact if not np.array_equal(exact[n], before[n])]
        norm = np.linalg.norm
        errors = np.array([[norm(x[n] - exact[n]) for x in (mine, single)] for n in names])
        sizes = np.array([norm(exact[n]) for n in names])
        wrong = errors[:, 0] > 5 * errors[:, 1] + 1e-6 * sizes + 1e-5  # all gradients: norm 5
        assert not wrong.any(), (kind, np.array(names)[wrong])
        assert np.median(errors[:, 0] / (errors[:, 1] + 1e-12)) < 2 and len(names) > 250
