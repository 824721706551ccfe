"""Equal weights and draws through the official ColorNet code and through ours: features, clips, a
training step, propagated masks.

Needs what recorded/colornet_official.py writes (its docstring has the command; torch is needed for
that alone):

    COLORNET_OFFICIAL=DIR python -m pytest test/test_colornet_parity.py
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from recorded.colornet_made import CLIPS, PICTURES, made_mask

from ColorNet import (
    augment,
    backbone,
    cli,
    config,
    convert,
    data,
    inference,
    losses,
    model,
    train,
)

NETWORKS = {'S': 'S.pkl', 'M': 'M.pkl', 'L': 'L.pkl', 'DUL': 'DUL.pth'}


@pytest.fixture(scope='module')
def official():
    folder = os.environ.get('COLORNET_OFFICIAL')
    if not folder or not os.path.isfile(os.path.join(folder, 'official.npz')):
        pytest.skip('COLORNET_OFFICIAL names no folder that colornet_official.py wrote')
    return Path(folder)


@pytest.fixture(scope='module')
def recorded(official):
    return np.load(official / 'official.npz')


@pytest.fixture(scope='module')
def converted(official, tmp_path_factory):
    """{network: checkpoint} through convert."""
    folder, found = tmp_path_factory.mktemp('converted'), {}
    for name, file in NETWORKS.items():
        found[name] = str(folder / name / 'model.ckpt')
        assert convert.main([f'--source={official / file}', f'--output={found[name]}']) == 0
    return found


def settings(name, **changes):
    cfg = config.get_config('dul' if name == 'DUL' else 'full')
    cfg.update(model_size=name, device='cpu', is_dul=name != 'L', video_len=3, **changes)
    return cfg


def nhwc(array):
    return np.ascontiguousarray(np.moveaxis(array, -3, -1))


@pytest.mark.parametrize('name', NETWORKS)
def test_features_equal_the_official_ones(recorded, converted, name):
    with tf.Graph().as_default(), tf.Session() as session:
        image = tf.constant(nhwc(recorded['image']))
        found = model.extract(image, settings(name))
        cli.restore(session, converted[name])
        found = session.run(found)
    keys = [key.split(':')[1] for key in recorded if key.startswith(f'{name}:')]
    assert len(keys) == {'S': 4, 'M': 4, 'L': 2, 'DUL': 3}[name]
    for key in keys:
        theirs = nhwc(recorded[f'{name}:{key}'])
        assert np.abs(found[key] - theirs).max() < 1e-5 and theirs.std() > 0.02, key


def clip(official, kind, n, cfg):
    """Our clip n of a kind, given the official draws."""
    video, seed = CLIPS[n]
    cfg.dataset = 'coco' if kind == 'c' else 'videos'
    root = str(official / 'frames')
    if kind == 'c':
        frames = [os.path.join(root, 'COCO', 'train2017', f'p{video}.png')]
    else:
        frames = data.find(root, cfg)[video]
    draws = augment.Draws(random.Random(seed), np.random.RandomState(seed))
    return data.sample(frames, cfg, draws)


@pytest.mark.parametrize('kind,n', [('v', n) for n in range(len(CLIPS))]
                         + [('c', n) for n in range(PICTURES)])  # fmt: skip
def test_clips_equal_the_official_ones(official, recorded, kind, n):
    cfg = settings('S')
    features, labels = clip(official, kind, n, cfg)
    mean, deviation = np.array(model.MEAN), np.array(model.DEVIATION)
    for ours, theirs in (('main', 'main'), ('second', 'second'), ('dul1', 'dul1'),
                         ('dul2', 'dul2')):  # fmt: skip
        theirs = (nhwc(recorded[f'{kind}{n}:{theirs}']) * deviation + mean) * 255
        rest = np.abs(features[ours] - theirs)  # Pillow's versions round a few values otherwise
        assert rest.max() < 1.01 and (rest > 1e-3).mean() < 2e-4, (ours, rest.max())
    with tf.Graph().as_default(), tf.Session() as session:
        batch = {key: tf.constant(value[None]) for key, value in labels.items()}
        target, weight = session.run(losses.target_colors(batch, cfg))
    theirs = nhwc(recorded[f'{kind}{n}:target'])
    assert np.abs(unfolded(target[0]) - theirs).max() < 2e-6
    theirs = nhwc(recorded[f'{kind}{n}:weight'])[..., :1]
    assert np.abs(unfolded(weight[0][..., None]) - theirs).max() < 1e-5 and theirs.max() == 5


def unfolded(x):
    count, channels = x.shape[0], x.shape[-1]
    x = x.reshape(count, 32, 32, 8, 8, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(count, 256, 256, channels)


def grid_sample(grid, reflect):
    """Cells that torch's nearest grid_sample takes, in float64, and whether they lie inside."""
    side = grid.shape[1]
    place = ((grid.astype(np.float64) + 1) * side - 1) / 2
    inside = ((np.rint(place) >= 0) & (np.rint(place) < side)).all(-1)
    if reflect:
        place = np.abs(np.mod(place + 0.5, 2 * side))
        place = np.where(place > side, 2 * side - place, place) - 0.5
    place = np.clip(place, 0, side - 1)
    clear = (np.abs(place - np.floor(place) - 0.5) > 1e-4).all(-1)
    place = np.rint(place).astype(int)
    return place[..., 1] * side + place[..., 0], inside, clear


@pytest.mark.parametrize('kind,n', [('v', n) for n in range(len(CLIPS))] + [('c', 0)])
def test_index_maps_are_those_of_grid_sample(official, recorded, kind, n):
    _, labels = clip(official, kind, n, settings('S'))
    index, _, clear = grid_sample(recorded[f'{kind}{n}:grid'], True)
    same = labels['index'].reshape(index.shape) == index
    assert same[clear].all() and clear.mean() > 0.95
    theta = recorded[f'{kind}{n}:theta']
    line = (2 * np.arange(32) + 1) / 32 - 1
    base = np.stack(np.meshgrid(line, line) + [np.ones((32, 32))], -1)
    index, inside, clear = grid_sample(np.einsum('hwk,tck->thwc', base, theta), False)
    clear &= inside
    assert (labels['align'].reshape(index.shape) == index)[clear].all() and clear.mean() > 0.9
    assert np.array_equal(labels['inside'].reshape(inside.shape) > 0, inside)


def exact_batch_norm(x, gamma, beta, epsilon):
    """tf.nn.fused_batch_norm with sums in float64: Eigen's of 131,072 float32 are 5e-4 off."""
    mean, variance = tf.nn.moments(tf.cast(x, tf.float64), [0, 1, 2])
    count = float(np.prod(x.shape.as_list()[:3]))
    whole = [tf.cast(v, tf.float32) for v in (mean, variance, variance * count / (count - 1))]
    y = (tf.cast(x, tf.float64) - mean) * tf.rsqrt(variance + epsilon)
    y = tf.cast(y, tf.float32) * gamma + beta
    return y, whole[0], whole[2]


def test_a_step_equals_the_official_one(official, recorded, converted, monkeypatch):
    monkeypatch.setattr(tf.nn, 'fused_batch_norm', exact_batch_norm)
    cfg = settings('S', batch_size=2, train_steps=300, learning_rate=1e-4, is_cos_lr=False)
    clips = [clip(official, 'v', n, cfg) for n in (0, 1)]
    features, labels = (
        {key: np.stack([c[part][key] for c in clips]) for key in clips[0][part]} for part in (0, 1)
    )
    labels['anchor'] = recorded['anchor'].reshape(2, -1).astype(np.int32)
    labels['cross'] = recorded['cross'].reshape(2, -1).astype(np.int32)
    with tf.Graph().as_default(), tf.Session() as session:
        batch = [{k: tf.constant(v) for k, v in part.items()} for part in (features, labels)]
        scalars = losses.losses(model.network(batch[0], cfg, True), batch[1], cfg)
        weights = tf.trainable_variables()
        gradients = tf.gradients(scalars['total'], weights)
        train_op = train.update(scalars['total'], cfg)
        session.run(tf.global_variables_initializer())
        cli.restore(session, converted['S'])
        before = session.run({v.op.name: v for v in weights})
        values, gradients = session.run([scalars, gradients])
        session.run(train_op)
        after = session.run({v.op.name: v for v in tf.global_variables() if cli.of_network(v)})
    for key in ('color', 'consistency', 'dul', 'negative'):
        theirs = float(recorded[f'loss:{key}'])
        rounding = 1e-3 if key == 'dul' else 1e-5  # pseudo labels: a near tie may turn
        assert abs(values[key] - theirs) < rounding * abs(theirs), (key, values[key], theirs)
    names = {key[6:]: recorded[key] for key in recorded if key.startswith('after:')}
    theirs, left = convert.convert(names, 'colornet')
    assert set(theirs) == set(after) and not left
    for name, value in theirs.items():
        if 'moving' in name:
            scale = np.abs(value).max()
            assert np.abs(after[name] - value).max() < 1e-5 * scale, name
    compare_gradients(recorded, weights, gradients)
    rest = []
    for variable in weights:  # an update is 1e-4 or less a weight, and 1e-6 of it the decay
        name = variable.op.name
        moved, wanted = after[name] - before[name], theirs[name] - before[name]
        assert np.abs(wanted).max() > 5e-5 or name.endswith('/0/biases'), name
        rest.append(np.abs(moved - wanted).ravel())
    rest = np.concatenate(rest)  # Adam's first step is a sign: of rounding where the gradient is 0
    assert (rest > 1e-6).mean() < 0.01 and np.median(rest) < 1e-7


def compare_gradients(recorded, weights, gradients):
    """Relative RMS a layer to float64: within five times the official float32's own, or what
    one rectifier or pseudo label that turns moves."""
    rounding = {key[9:]: float(recorded[key]) for key in recorded if key.startswith('rounding:')}
    found = {key[9:]: recorded[key] for key in recorded if key.startswith('gradient:')}
    padded = dict(found)
    for name, array in found.items():  # convert wants whole norms
        if name.endswith('.weight') and array.ndim == 1:
            padded[name.replace('.weight', '.running_mean')] = np.zeros_like(array)
            padded[name.replace('.weight', '.running_var')] = np.zeros_like(array)
    theirs, _ = convert.convert(padded, 'colornet')
    own = {name: np.full(array.shape, rounding.get(name, 0)) for name, array in padded.items()}
    own, _ = convert.convert(own, 'colornet')
    assert len(weights) == len(gradients) == 96
    for variable, gradient in zip(weights, gradients):
        name = variable.op.name
        if name.endswith('/0/biases'):  # before a batch norm: zero but for rounding
            continue
        wanted = theirs[name]
        rest = np.sqrt(np.mean((gradient - wanted) ** 2) / np.mean(wanted**2))
        assert rest < max(5 * own[name].ravel()[0], 5e-3) < 0.04, (name, rest)


@pytest.mark.parametrize('key', ['merge', 'color'])
def test_propagated_masks_equal_the_official_ones(recorded, converted, key):
    cfg = settings('S', key=key, test_height=240, test_width=432)
    given = {0: made_mask(7, 0, 2), 3: np.where(made_mask(7, 3, 3) == 3, 3, 0).astype(np.uint8)}
    frames = recorded['frames'][..., ::-1]
    with inference.load(converted['S'], cfg) as network:
        found = np.stack(list(inference.segment(network, cfg, frames, given)))
    theirs = recorded[f'masks:{key}']
    different = (found != theirs).mean((1, 2))
    assert len(np.unique(theirs)) == 4
    for t in (1, 2, 4, 5, 6, 7):  # given masks are kept here, the official code redraws them
        assert different[t] < 1e-4, (t, different[t])


def test_moving_statistics_take_four_passes():
    with tf.Graph().as_default(), tf.Session():
        cfg = settings('S', size=64, batch_size=2)
        shapes, types = data.signature(cfg)
        batch = {k: tf.zeros(shapes[0][k], types[0][k]) for k in shapes[0]}
        model.network(batch, cfg, True)
        passes = [m.op.name for m, _ in tf.get_collection(backbone.STATISTICS)]
        assert passes.count('colornet/bn1/moving_mean') == 4
        assert passes.count('colornet/layer6/1/bn2/moving_mean') == 4
