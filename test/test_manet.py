"""MANet: network, matching, memories, losses, examples, robot, evaluation; against recorded answers
of the official code and of davisinteractive, and against plain forms."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from recorded import manet_examples, manet_robot
from recorded.manet_robot import SHAPE, lines, shapes
from scipy.spatial import cKDTree

from common import davis, masks
from MANet import (
    backbone,
    config,
    corrections,
    data,
    evaluate,
    losses,
    matching,
    model,
    robot,
    session,
    train,
)

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope='module')
def recorded():
    return np.load(HERE / 'recorded' / 'manet_small.npz')


@pytest.fixture(scope='module')
def strokes():
    return np.load(HERE / 'recorded' / 'manet_robot.npz')


def settings(**changes):
    cfg = config.get_config('smoke')
    cfg.update({'device': 'cpu', 'workers': 0, 'start_step': 0, 'stage': 1, **changes})
    return cfg


def test_parameters_are_those_of_the_published_network():
    cfg = config.get_config()
    cfg.device = 'cpu'
    with tf.Graph().as_default():
        found = model.embed(tf.zeros([1, 480, 854, 3]), cfg)
        model.make_every_variable(cfg)
        assert found.shape.as_list() == [1, 120, 214, 100]
        sizes = {}
        for v in tf.trainable_variables():
            part = v.op.name.split('/')[1]
            sizes[part] = sizes.get(part, 0) + v.shape.num_elements()
        moving = sum(v.shape.num_elements() for v in tf.global_variables() if 'moving' in v.name)
    assert sizes['backbone'] == 42500160 and sizes['aspp'] == 15535104
    assert sizes['decoder'] == 1303648 and sizes['dynamic_seghead'] == 271597
    assert sizes['inter_seghead'] == 271289 and sum(sizes.values()) == 59910770
    assert moving == 117826


def test_maps_are_the_official_ones(recorded):
    draw = np.random.RandomState(2)
    q, p = (np.abs(draw.randn(13, 18, 6)).astype(np.float32) * 0.4 for _ in range(2))
    labels = draw.randint(-1, 3, (13, 18, 1))[..., 0].astype(np.int32)
    for device, lean in (('cpu', True), ('cpu', False), ('atc', True), ('onnx', True)):
        with tf.Graph().as_default(), tf.Session() as run:
            tensors = [tf.constant(x) for x in (q, p, labels)]
            found = {'global': matching.global_map(*tensors, 4, settings(device=device), lean)}
            for reach in (3, 12):
                cfg = settings(max_distance=reach, device=device)
                found[f'local{reach}'] = matching.local_map(*tensors, 4, cfg, lean)
            found = run.run(found)
        for key, value in found.items():
            assert np.abs(value - recorded[key]).max() < 2e-6, key
        assert (found['global'][..., 3] == 1).all()  # an object that is nowhere is far


@pytest.mark.parametrize('device', ['cpu', 'atc'])
def test_mean_of_the_nearest_is_the_official_one(recorded, device):
    draw = np.random.RandomState(2)
    q, p = (np.abs(draw.randn(13, 18, 6)).astype(np.float32) * 0.4 for _ in range(2))
    labels = draw.randint(-1, 3, (13, 18, 1))[..., 0].astype(np.int32)
    few = np.where((labels == 1) & (np.cumsum(labels == 1).reshape(13, 18) > 2), 0, labels)
    with tf.Graph().as_default(), tf.Session() as run:
        cfg = settings(neighbours=4, device=device)
        tensors = [tf.constant(x) for x in (q, p)]
        found = run.run(matching.global_map(*tensors, tf.constant(labels), 4, cfg))
        rare = run.run(matching.global_map(*tensors, tf.constant(few), 2, cfg))
    assert np.abs(found[..., :3] - recorded['global4']).max() < 2e-6
    assert (found[..., 3] == 1).all()
    d = np.sort(((q[:, :, None] - p[few == 1]) ** 2).sum(-1), -1)  # two cells: the farther thrice
    np.testing.assert_allclose(rare[..., 1], np.tanh((d[..., 0] + 3 * d[..., 1]) / 8), atol=1e-5)


def test_global_map_in_chunks(monkeypatch):
    draw = np.random.RandomState(0)
    q, r = (draw.rand(9, 11, 4).astype(np.float32) for _ in range(2))
    labels = draw.randint(-1, 3, (9, 11)).astype(np.int32)
    labels[0, :3] = 255

    def found():
        with tf.Graph().as_default(), tf.Session() as run:
            tensors = [tf.constant(x) for x in (q, r, labels)]
            return run.run(matching.global_map(*tensors, 3, settings()))

    whole = found()
    monkeypatch.setattr(matching, 'CHUNK', 1000)
    np.testing.assert_allclose(found(), whole, atol=1e-6)
    d = ((q[:, :, None, None] - r) ** 2).sum(-1)
    for c in range(3):
        least = np.where(labels == c, d, 1e9).min((2, 3))
        np.testing.assert_allclose(whole[..., c], np.tanh(least / 2), atol=1e-5)


def test_loss_is_the_official_one(recorded):
    draw = np.random.RandomState(2)
    for _ in range(2):
        draw.randn(13, 18, 6)
    draw.randint(-1, 3, (13, 18, 1))
    logits = draw.randn(1, 3, 40, 40).astype(np.float32)
    label = draw.randint(0, 3, (1, 40, 40)).astype(np.int32)
    label[0, :5] = 255
    for step in (0, 25000, 90000):
        with tf.Graph().as_default(), tf.Session() as run:
            outputs = {'logits': tf.constant(logits.transpose(0, 2, 3, 1))}
            labels = {'label': tf.constant(label), 'step': tf.constant(step, tf.int64)}
            found = run.run(losses.losses(outputs, labels, settings(mining_steps=50000)))
        wanted = float(recorded[f'loss{step}'])
        assert abs(found['total'] - wanted) < 2e-6 * wanted
        assert 0.2 < found['accuracy'] < 0.4


@pytest.mark.parametrize('kind', ['all differ', 'most are 0', 'many ties'])
def test_the_hardest_errors_are_the_largest(kind):
    """As sorting would choose them, and the gradient reaches them alone."""
    draw = np.random.RandomState(5)
    errors = draw.gamma(0.3, 1.0, (2, 500)).astype(np.float32)
    if kind == 'most are 0':
        errors[:, 50:] = 0
    if kind == 'many ties':
        errors = np.round(errors, 1).astype(np.float32)
    cfg = settings(mining_steps=100, hardest=0.15)
    with tf.Graph().as_default(), tf.Session() as run:
        given, step = tf.constant(errors), tf.placeholder(tf.int64, [])
        loss = losses.hardest(given, step, cfg)
        gradient = tf.gradients(loss, given)[0]
        for passed, count in ((0, 500), (50, 287), (200, 75)):
            largest = np.sort(errors.astype(np.float64), 1)[:, ::-1][:, :count]
            value, slope = run.run([loss, gradient], {step: passed})
            assert abs(value - largest.mean()) < 2e-6 * largest.mean()
            np.testing.assert_allclose(slope.sum(1), 0.5, rtol=1e-5)
            for row, found in zip(errors, slope):
                assert (row[found == 0] <= np.min(row[found > 0])).all()


def test_padded_classes_change_nothing():
    """Batch statistics and logits of two classes are the same with two more that are not there."""
    draw = np.random.RandomState(0)
    items = draw.rand(4, 6, 7, 5).astype(np.float32)
    cfg = settings()
    found = []
    for count in (2, 4):
        with tf.Graph().as_default(), tf.Session() as run:
            tf.set_random_seed(1)
            there = tf.constant([1.0, 1, 0, 0][:count])
            logits = model.head(tf.constant(items[:count]), 'dynamic_seghead', cfg, True, there)
            moves = [tf.assign(*pair) for pair in backbone.moving_statistics()]
            run.run(tf.global_variables_initializer())
            found.append((run.run(logits), run.run(moves)))
    np.testing.assert_allclose(found[1][0][..., :2], found[0][0], atol=1e-4)
    assert found[1][0][..., 2:].max() < -9000
    for a, b in zip(found[0][1], found[1][1]):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_weighted_statistics_are_those_of_fused_batch_norm():
    x = np.random.RandomState(0).rand(3, 5, 6, 4).astype(np.float32) * 3
    with tf.Graph().as_default(), tf.Session() as run:
        gamma, beta = tf.fill([4], 1.5), tf.fill([4], 0.2)
        plain = tf.nn.fused_batch_norm(tf.constant(x), gamma, beta, epsilon=backbone.BN_EPSILON)
        own = backbone._weighted_norm(tf.constant(x), gamma, beta, tf.ones([3]))
        for a, b in zip(*run.run([plain, own])):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_rates_of_the_groups():
    """DeepLab's rate falls, the heads' stays in stage 1 of the original."""
    for quirk in (True, False):
        cfg = settings(group0_only=quirk, train_steps=9, learning_rate=1.0, momentum=0.0,
                       nesterov=False)  # fmt: skip
        with tf.Graph().as_default(), tf.Session() as run:
            names = 'manet/backbone/conv1/weights', 'manet/dynamic_seghead/conv/weights'
            values = [tf.get_variable(n, [2], initializer=tf.zeros_initializer()) for n in names]
            step = tf.constant(5)
            optimizer = train.make_optimizer(step, cfg)
            run_op = optimizer.apply_gradients([(tf.ones([2]), v) for v in values])
            run.run(tf.global_variables_initializer())
            run.run(run_op)
            slow, other = (float(x[0]) for x in run.run(values))
        assert abs(slow + 0.5**0.9) < 1e-6 and abs(other + (1.0 if quirk else 0.5**0.9)) < 1e-6


@pytest.mark.parametrize('nesterov', [True, False])
def test_momentum_steps_as_pytorch(nesterov):
    cfg = settings(
        nesterov=nesterov, momentum=0.9, group0_only=False, train_steps=9, learning_rate=0.1
    )
    draw = np.random.RandomState(0)
    gradients = draw.randn(3, 4).astype(np.float32)
    p, memory = np.zeros(4), np.zeros(4)
    with tf.Graph().as_default(), tf.Session() as run:
        value = tf.get_variable('manet/aspp/x', [4], initializer=tf.zeros_initializer())
        feed = tf.placeholder(tf.float32, [4])
        run_op = train.make_optimizer(tf.constant(0), cfg).apply_gradients([(feed, value)])
        run.run(tf.global_variables_initializer())
        for g in gradients:
            run.run(run_op, {feed: g})
            memory = 0.9 * memory + g
            p = p - 0.1 * (g + 0.9 * memory if nesterov else memory)
        np.testing.assert_allclose(run.run(value), p, atol=1e-6)


def test_nearest_takes_the_floor():
    labels = np.arange(35).reshape(5, 7).astype(np.int32)
    with tf.Graph().as_default(), tf.Session() as run:
        found = run.run(model.resize_labels(tf.constant(labels), [3, 4]))
    rows, columns = [0, 1, 3], [0, 1, 3, 5]
    assert np.array_equal(found, labels[np.ix_(rows, columns)])


@pytest.fixture(scope='module')
def tree(drawn):
    return drawn['davis2017']


def example_settings(tree, **changes):
    cfg = settings(data_path=tree, **changes)
    cfg.counts = data.instances(tree, 'train')
    cfg.examples, cfg.objects = sorted(cfg.counts), max(cfg.counts.values())
    return cfg


def test_instances_are_counted_and_listed(tree, tmp_path):
    assert data.instances(tree, 'train')['drawn-a'] == 2
    (tmp_path / 'ImageSets' / '2017').mkdir(parents=True)
    for name in ('JPEGImages', 'Annotations'):
        (tmp_path / name).symlink_to(Path(tree) / name)
    (tmp_path / 'ImageSets' / '2017' / 'val.txt').write_text('drawn-x\n')
    (tmp_path / 'ImageSets' / '2017' / 'v_a_l_instances.txt').write_text('{"drawn-x": [1, 5]}')
    assert data.instances(str(tmp_path), 'val') == {'drawn-x': 5}


@pytest.mark.parametrize('stage', [1, 2])
def test_examples_have_their_shapes_and_repeat(tree, stage):
    cfg = example_settings(tree, stage=stage)
    shapes, types = data.signature(cfg)
    first, again = (list(data.examples(cfg, 0, 1, False))[:8] for _ in range(2))
    for part in (0, 1):
        assert set(first[0][part]) == set(shapes[part])
        for key, value in first[0][part].items():
            assert list(value.shape) == shapes[part][key].as_list()[1:], key
            assert value.dtype == types[part][key].as_numpy_dtype, key
            assert np.array_equal(value, again[0][part][key])
    features, labels = first[0]
    assert set(np.unique(labels['label'])) <= {0, 1, 2, 3}
    if stage == 2:
        assert all((f['strokes'] >= 0).any() and not f['previous'].any() for f, _ in first[:4])
        assert {-1} < set(np.unique(features['strokes']))
    assert {int(f['present'].sum()) for f, _ in first} == {3, 4}


@pytest.fixture(scope='module')
def official_examples():
    return np.load(HERE / 'recorded' / 'manet_examples.npz')


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp('made')
    manet_examples.tree(folder)
    return folder


@pytest.mark.parametrize('seed', manet_examples.SEEDS)
def test_triples_are_the_official_ones(made, official_examples, seed):
    cfg = example_settings(str(made), size=manet_examples.SIDE, height=0, damage=False)
    draws = data.Draws(random.Random(seed), np.random.RandomState(seed))
    features, labels = data.propagation_example('a', cfg, draws)
    wanted = official_examples[f'labels{seed}']
    for mine, theirs in zip((features['reference'], features['previous'], labels['label']), wanted):
        assert np.array_equal(mine, theirs)
    difference = features['images'] - official_examples[f'images{seed}'].astype(np.float32)
    assert np.abs(difference).max() < 0.2  # recorded in float16
    found = data.damage_mask(features['previous'], draws.numpy)
    wrong = (found != official_examples[f'damaged{seed}']).sum()
    assert wrong <= 10  # of 1,600; subpixel warps


@pytest.mark.parametrize('seed', manet_examples.SEEDS)
def test_crops_with_strokes_are_the_official_ones(made, official_examples, seed):
    picture = masks.read_image(str(made / 'JPEGImages' / '480p' / 'a' / '00000.jpg'))
    cfg = settings(size=manet_examples.SIDE)
    for name, tries in (('None', data.ENDLESS), ('10', 10)):
        draws = data.Draws(random.Random(seed), np.random.RandomState(seed))
        labels = [manet_examples.strokes()]
        _, labels = data.augment([picture.astype(np.float32)], labels, cfg, draws, tries)
        assert np.array_equal(labels[0], official_examples[f'strokes{name}{seed}'])


@pytest.mark.parametrize('seed', manet_examples.SEEDS)
def test_rough_masks_are_the_official_ones(made, official_examples, seed):
    ids = masks.read_mask(str(made / 'Annotations' / '480p' / 'a' / '00001.png'))
    found = corrections.distort_mask((ids == 1).astype(np.int32), random.Random(seed), 0.3)
    theirs = official_examples[f'rough{seed}']
    assert (found != theirs).mean() < 0.02  # at borders: theirs mixes labels
    assert found.any() == theirs.any()


def test_damage_moves_objects_a_little():
    label = np.zeros((80, 120), np.int32)
    label[20:50, 30:70], label[55:70, 80:110] = 1, 2
    overlaps = []
    for seed in range(20):
        found = data.damage_mask(label, np.random.RandomState(seed))
        for k in (1, 2):
            a, b = found == k, label == k
            overlaps.append((a & b).sum() / (a | b).sum())
    assert 0.6 < np.mean(overlaps) < 0.97 and min(overlaps) > 0.4
    dot = np.zeros((40, 40), np.int32)
    dot[20, 20] = 3  # one pixel may vanish: the label stays
    for seed in range(10):
        assert set(np.unique(data.damage_mask(dot, np.random.RandomState(seed)))) <= {0, 3}


def test_crops_show_an_object(tree):
    cfg = example_settings(tree, size=40)
    for n in range(6):
        draws = data.Draws(random.Random(n), np.random.RandomState(n))
        features, _ = data.propagation_example('drawn-b', cfg, draws)
        assert features['images'].shape == (3, 40, 40, 3)


def test_pixels_of_strokes_are_the_packages(strokes):
    for seed in range(6):
        found = robot.rasterize([lines(seed)], (37, 53))[0]
        assert np.array_equal(found, strokes[f'pixels{seed}'])


def test_robot_draws_as_the_package(strokes):
    """The same ids, as many strokes, points within 2 px: ties in graphs are library dependent."""
    equal, total, near = 0, 0, []
    for seed in range(8):
        truth, mask = shapes(seed)
        found = robot.interact('a', truth[None], mask[None], 0, 2)['scribbles'][0]
        ids = np.array([s['object_id'] for s in found])
        theirs = strokes[f'ids{seed}']
        assert set(ids) == set(theirs)
        for k in set(theirs):
            equal, total = equal + ((ids == k).sum() == (theirs == k).sum()), total + 1
        size = np.array(SHAPE[::-1])
        own = np.concatenate([np.array(s['path']) for s in found]) * size
        other = strokes[f'paths{seed}'] * size
        near += [(cKDTree(own).query(other)[0] < 2).mean()]
    assert equal >= 0.85 * total and np.mean(near) > 0.95


def test_robot_leaves_a_right_mask_alone():
    truth, _ = shapes(0)
    found = robot.interact('a', truth[None], truth[None], 0, 2)
    assert found['scribbles'] == [[]] and robot.annotated_frames(found) == []
    first = robot.first_scribbles('a', truth, 2)['scribbles'][0]
    assert {s['object_id'] for s in first} == {1, 2}
    for stroke in first:  # along the middle of the object
        inside = [truth[int(y * SHAPE[0]), int(x * SHAPE[1])] for x, y in stroke['path'][::50]]
        assert np.mean(np.array(inside) == stroke['object_id']) > 0.9
    dot = np.zeros((30, 30), np.uint8)
    dot[4, 4] = 1
    assert robot.interact('a', dot[None], np.zeros_like(dot)[None], 0, 1)['scribbles'] == [[]]


def test_scribble_files_are_checked(tmp_path):
    path = tmp_path / 's.json'
    for text, message in (
        ('{', 'is no JSON'), ('{"scribbles": 3}', 'strokes of every frame'),
        ('{"scribbles": [[{"path": [[0.1, 1.2]], "object_id": 1}]]}', 'outside 0..1'),
        ('{"scribbles": [[{"path": [], "object_id": 1}]]}', 'a path is'),
        ('{"scribbles": [[{"path": [[0, 0]]}]]}', 'needs path and object_id'),
        ('{"scribbles": [[{"path": [[0, 0]], "object_id": -2}]]}', 'object_id -2'),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            robot.read(str(path), 1)
    with pytest.raises(FileNotFoundError, match='no such file'):
        robot.read(str(tmp_path / 'absent.json'), 1)


def test_enlarged_aligns_corners():
    image = np.random.RandomState(0).rand(5, 1, 3).astype(np.float32)
    for size in ((12, 7), (5, 1)):
        with tf.Graph().as_default(), tf.Session() as run:
            wanted = run.run(tf.image.resize_bilinear(image[None], size, align_corners=True))[0]
        np.testing.assert_allclose(session.resize_logits(image, size), wanted, atol=1e-6)


def test_rough_region():
    labels = -np.ones((20, 30), np.int32)
    labels[8, 10:15], labels[12, 12] = 1, 2
    found = session.rough_region(labels, 3)
    assert found[5, 7] == -1 and found[4, 7] == 0 and found[5, 6] == 0
    assert found[14, 16] == -1 and found[15, 16] == 0 and found[14, 17] == 0
    assert np.array_equal(found[5:15, 7:17], labels[5:15, 7:17])
    assert (session.rough_region(labels, 99)[-1] == 0).all()  # the last row is never inside


class FakeNetwork:
    """Parts that answer with numbers by which the rounds can be followed."""

    def __init__(self, log, count=3, cells=(6, 8)):
        self.log, self.count, self.shape = log, count, (*cells, count)

    def note(self, name, values):
        self.log.append((name, {k: np.asarray(v) for k, v in values.items()}))

    def interact(self, count, **values):
        self.note('interact', values)
        return np.eye(self.count)[1] + np.zeros(self.shape), np.full(self.shape, 0.9, np.float32)

    def match(self, count, **values):
        self.note('match', values)
        n = sum(key == 'match' for key, _ in self.log)
        return tuple(np.full(self.shape, x, np.float32) for x in (1 / n, n / 100))

    def propagate(self, count, **values):
        self.note('propagate', values)
        return np.eye(self.count)[2] + np.zeros(self.shape)


def test_rounds_and_memories():
    """Order outward; least global map kept; of the last two local maps the nearer round's."""
    log, cfg = [], settings(roi=2)
    embeddings = np.arange(5)[:, None, None, None] + np.zeros((5, 6, 8, 4), np.float32)
    run = session.Session(FakeNetwork(log), cfg, embeddings, (12, 16), 2)
    strokes = -np.ones((6, 8), np.int32)
    strokes[2, 2] = 1
    found = run.play(strokes, 2)
    assert (found[2] == 1).all() and (found[[0, 1, 3, 4]] == 2).all()
    order = [(float(v['query'][0, 0, 0]), float(v['previous'][0, 0, 0])) for k, v in log
             if k == 'match']  # fmt: skip
    assert order == [(3, 2), (4, 3), (1, 2), (0, 1)]
    match = next(v for k, v in log if k == 'match')
    assert match['labels'][5, 7] == 0 and match['labels'][2, 3] == -1  # rough region
    assert (match['mask'] == 1).all()  # of the annotated frame, of this round
    assert not next(v for k, v in log if k == 'interact')['previous'].any()
    del log[:]
    run.play(strokes, 0)  # frame 4 is farther now, frame 1 as near, 3 farther
    parts = {float(v['embedding'][0, 0, 0]): v for k, v in log if k == 'propagate'}
    assert np.allclose(parts[4.0]['local_map'], 0.02) and np.allclose(parts[1.0]['local_map'], 0.03)
    assert np.allclose(parts[2.0]['local_map'], 0.02)  # annotated before: no map of then
    assert np.allclose(parts[2.0]['global_map'], 0.5)  # match 2 of this log, 0.9 of its strokes
    second = next(v for k, v in log if k == 'interact')
    assert (second['previous'] == 2).all()
    matches = [v for k, v in log if k == 'match']
    assert (matches[0]['labels'] != 0).all()  # later rounds: strokes alone
    with pytest.raises(ValueError, match='object 3: the video has 2'):
        run.play(np.full((6, 8), 3, np.int32), 1)
    with pytest.raises(ValueError, match='without a stroke'):
        run.play(-np.ones((6, 8), np.int32), 1)
    with pytest.raises(ValueError, match='frame 5 of a video of 5'):
        run.play(strokes, 5)


def test_one_frame_is_a_video():
    cfg = settings(roi=2)
    run = session.Session(FakeNetwork([]), cfg, np.zeros((1, 6, 8, 4), np.float32), (12, 16), 2)
    strokes = np.ones((6, 8), np.int32)
    assert (run.play(strokes, 0) == 1).all() and run.rounds == 1


class Corrected:
    """A session whose masks get one more object right in every round."""

    def __init__(self, truth):
        self.truth, self.count, self.cells = truth, int(truth.max()) + 1, truth.shape[1:]
        self.masks, self.rounds, self.frames = np.zeros_like(truth), 0, []

    def play(self, strokes, frame):
        self.rounds += 1
        self.frames.append(frame)
        self.masks = np.where(self.truth <= self.rounds, self.truth, 0).astype(np.uint8)
        return self.masks


def test_evaluation_follows_the_protocol():
    truth = np.stack([shapes(0)[0]] * 4)
    truth[3] = np.where(truth[3] == 2, 0, truth[3])
    cfg, clock = settings(interactions=4), iter(np.arange(0, 1000, 2.0))
    first = {'scribbles': [robot.first_scribbles('a', truth[1], 2)['scribbles'][0] if t == 1 else []
                           for t in range(4)]}  # fmt: skip
    run = Corrected(truth)
    rows = evaluate.evaluate_sample(run, truth, 'a', first, cfg, lambda: next(clock))
    assert [r.number for r in rows] == [1, 2, 3, 4] and [r.seconds for r in rows] == [2.0] * 4
    assert run.frames == [1, 0]  # worst of round 1 is frame 0; then all is right
    assert np.allclose(rows[0].scores[:3, :, 0], [1, 0]) and np.allclose(rows[3].scores, 1)
    clock = iter(np.arange(0, 1000, 300.0))
    rows = evaluate.evaluate_sample(Corrected(truth), truth, 'a', first, cfg, lambda: next(clock))
    assert rows == []  # 600 s, more than 30 s x 4 x 2 objects


class Answering:
    """A session that manet_robot.answers() plays, on its clock."""

    def __init__(self, name, truth, sample, clock):
        self.name, self.truth, self.sample, self.clock = name, truth, sample, clock
        self.count, self.cells, self.frames = int(truth.max()) + 1, truth.shape[1:], []

    def play(self, strokes, frame):
        self.frames.append(frame)
        self.clock.now += manet_robot.SECONDS[self.name]
        self.masks = manet_robot.answers(self.truth, self.sample, len(self.frames))
        return self.masks


@pytest.mark.parametrize('metric', ['J', 'J_AND_F'])
def test_a_session_scores_as_the_package(strokes, metric):
    """Two sequences, three samples each: one runs out of frames, one out of time."""
    cfg, found = settings(interactions=8, seconds=30.0, metric=metric), {}
    for name, truth in manet_robot.videos().items():
        for sample in (1, 2, 3):
            clock = manet_robot.Clock()
            run = Answering(name, truth, sample, clock)
            first = manet_robot.scribbles(name, truth)
            rows = evaluate.evaluate_sample(run, truth, name, first, cfg, clock.time)
            assert run.frames == strokes[f'{metric}/frames/{name}{sample}'].tolist()
            scores = np.stack([row.scores for row in rows])
            theirs = strokes[f'{metric}/scores/{name}{sample}']
            np.testing.assert_allclose(scores, theirs, rtol=0, atol=1e-9)
            found[name, sample] = run.count - 1, rows
    summary = evaluate.curve(found, cfg)
    assert abs(summary['auc'] - strokes[f'{metric}/auc']) < 1e-9
    assert abs(summary['metric_at_threshold'][metric] - strokes[f'{metric}/at']) < 1e-9
    np.testing.assert_allclose(summary['curve'][metric], strokes[f'{metric}/curve'], atol=1e-9)
    np.testing.assert_allclose(summary['curve']['time'], strokes[f'{metric}/time'], atol=1e-9)


def test_curve_by_hand():
    cfg = settings(interactions=3)
    row = lambda n, seconds, scores: evaluate.Interaction(n, seconds, 0.0, scores)  # noqa: E731
    scores = lambda *values: np.array(values, float)[None, :, None] * [1, 0.5]  # noqa: E731
    found = {
        ('a', 1): (2, [row(1, 10.0, scores(0.2, 0.4)), row(2, 20.0, scores(0.6, 0.6))]),
        ('b', 1): (
            1,
            [row(1, 30.0, scores(0.9)), row(2, 10.0, scores(0.9)), row(3, 30.0, scores(1.0))],
        ),
    }
    summary = evaluate.curve(found, cfg)
    t, v = [0, 20, 35, 50, 135], [0, 0.5, 0.7, 2.2 / 3, 2.2 / 3]
    np.testing.assert_allclose(summary['curve']['time'], t)
    np.testing.assert_allclose(summary['curve']['J'], v)
    area = 20 * 0.25 + 15 * 0.6 + 15 * (0.7 + 2.2 / 3) / 2 + 85 * 2.2 / 3
    assert abs(summary['auc'] - area / 135) < 1e-12
    assert abs(summary['metric_at_threshold']['J'] - 2.2 / 3) < 1e-12
    cfg.metric = 'J_AND_F'
    assert abs(evaluate.curve(found, cfg)['curve']['J_AND_F'][1] - 0.375) < 1e-12


def test_worst_frame():
    scores = np.array([[0.5], [0.1], [0.3]])
    assert evaluate.worst_frame(scores, []) == 1 and evaluate.worst_frame(scores, [1]) == 2
    assert evaluate.worst_frame(scores, [0, 1, 2]) == 1


def test_samples_are_checked(tree, tmp_path):
    truth = evaluate.read_truth(tree, 'drawn-x', '2017')
    found = data.samples(tree, 'drawn-x', truth, 2)
    assert len(found) == 1 and len(robot.annotated_frames(found[0][1])) == 1
    for name in ('JPEGImages', 'Annotations', 'ImageSets'):
        (tmp_path / name).symlink_to(Path(tree) / name)
    folder = tmp_path / 'Scribbles' / 'drawn-x'
    folder.mkdir(parents=True)
    stroke = {'path': [[0.1, 0.1], [0.5, 0.5]], 'object_id': 1}
    for content, message in (
        ({'sequence': 'other', 'scribbles': [[stroke]] + [[]] * 9}, "of sequence 'other'"),
        ({'scribbles': [[stroke]]}, 'has 1 frames'), ({'scribbles': [[]] * 10}, 'has no stroke'),
    ):  # fmt: skip
        (folder / '001.json').write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            data.samples(str(tmp_path), 'drawn-x', truth, 2)
    (folder / '001.json').write_text(json.dumps({'scribbles': [[stroke]] + [[]] * 9}))
    (folder / '002.json').write_text(json.dumps({'scribbles': [[]] * 9 + [[stroke]]}))
    assert [n for n, _ in data.samples(str(tmp_path), 'drawn-x', truth, 2)] == [1, 2]
    cfg = settings(data_path=str(tmp_path), counts={'drawn-x': 2}, height=0)
    t, pixels = data.first_strokes('drawn-x', cfg, random.Random(0))
    assert t in (0, 9) and set(np.unique(pixels)) == {-1, 1}
    assert masks.read_mask(davis.masks(tree, 'drawn-x')[0]).shape == pixels.shape


def test_absent_classes_cost_nothing():
    """Two objects where the data have six: the head runs for three classes, and the answer is that
    of seven padded ones."""
    draw = np.random.RandomState(0)
    features = {
        'images': draw.randint(0, 255, (1, 1, 32, 32, 3)).astype(np.float32),
        'strokes': draw.randint(-1, 3, (1, 32, 32)).astype(np.int32),
        'previous': np.zeros((1, 32, 32), np.int32),
        'present': np.array([[1, 1, 1, 0, 0, 0, 0]], np.float32),
    }
    found, items = {}, {}
    for device in ('cpu', 'atc'):  # the last with static shapes, as on the NPU
        cfg = settings(device=device, stage=2, channels=0.05, blocks=[1, 1, 1, 1], size=32)
        with tf.Graph().as_default() as graph, tf.Session() as run:
            tf.set_random_seed(1)
            logits = model.network({k: tf.constant(v) for k, v in features.items()}, cfg, True)
            run.run(tf.global_variables_initializer())
            for variable in tf.global_variables():
                if variable.op.name.endswith(('weights', 'biases')):
                    seeded = np.random.RandomState(len(variable.op.name)).randn(*variable.shape)
                    variable.load(seeded.astype(np.float32) * 0.1, run)
            name = next(
                op.name
                for op in graph.get_operations()
                if 'inter_seghead' in op.name and op.type == 'DepthwiseConv2dNative'
            )
            answers, first = run.run([logits['logits'], f'{name}:0'])
            found[device], items[device] = answers, len(first)
    assert items == {'cpu': 3, 'atc': 7} and found['cpu'].shape == (1, 8, 8, 7)
    np.testing.assert_allclose(found['cpu'][..., :3], found['atc'][..., :3], atol=1e-3)
    assert found['cpu'][..., 3:].max() < -9000


def test_objects_that_come_later_have_no_loss(tmp_path):
    """An id above those of the first mask is void: its logit is ABSENT lower."""
    ids = np.array([[0, 1, 2, 3, 255]], np.uint8)
    masks.write_mask(str(tmp_path / 'm.png'), ids)
    assert data.read_label(str(tmp_path / 'm.png'), '2017', 2).tolist() == [[0, 1, 2, 255, 255]]
    assert data.read_label(str(tmp_path / 'm.png'), '2016').tolist() == [[0, 1, 1, 1, 255]]


def test_the_first_round_pays_for_the_embedding():
    truth = np.stack([shapes(0)[0]] * 4)
    cfg, clock = settings(interactions=2), iter(np.arange(0, 1000, 2.0))
    first = robot.interact('a', truth, np.zeros_like(truth), 0, 2)
    run = Corrected(truth)
    rows = evaluate.evaluate_sample(run, truth, 'a', first, cfg, lambda: next(clock), 50.0)
    assert [(r.seconds, r.embedding) for r in rows] == [(52.0, 50.0), (2.0, 0.0)]
    official = evaluate.curve({('a', 1): (2, rows)}, cfg)
    without = evaluate.curve({('a', 1): (2, rows)}, cfg, with_embedding=False)
    assert official['curve']['time'][:3] == [0, 52, 54]
    assert without['curve']['time'][:3] == [0, 2, 4] and without['auc'] > official['auc']
    clock = iter(np.arange(0, 1000, 2.0))  # 30 s x 2 x 2 objects are less than the embedding
    run = Corrected(truth)
    assert evaluate.evaluate_sample(run, truth, 'a', first, cfg, lambda: next(clock), 200.0) == []


def test_schedule_of_several_cards_sees_as_many_examples(tree, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv('RANK_SIZE', '8')
    flags = [f'--data_path={tree}', f'--output_path={tmp_path}', '--device=cpu', '--preset=full']
    flags += ['--from_scratch']

    def prepared(*more):
        args = flags_of_training().parse_args([*flags, *more])
        cfg = train.cli.configure(args, config.get_config)
        train.prepare(args, cfg)
        return cfg

    cfg = prepared()
    assert (cfg.stage1_steps, cfg.train_steps) == (12625, 25126)
    assert (cfg.mining_steps, cfg.cycle) == (6250, 113)
    printed = capsys.readouterr().out
    assert '8 cards, 8 times the examples an update: stage1_steps 101000 -> 12625' in printed
    assert 'The learning rate stays 0.0007' in printed
    cfg = prepared('--steps=201001')  # as it is asked for
    assert (cfg.stage1_steps, cfg.train_steps) == (101000, 201001)
    monkeypatch.delenv('RANK_SIZE')
    assert prepared().train_steps == 201001


def flags_of_training():
    flags = train.cli.parser('')
    train.cli.add_training_flags(flags)
    return flags


def test_published_weights_are_asked_for(tree, tmp_path):
    for preset in ('full', 'stage1'):
        args = flags_of_training().parse_args(
            [f'--data_path={tree}', f'--output_path={tmp_path}', f'--preset={preset}']
        )
        cfg = train.cli.configure(args, config.get_config)
        with pytest.raises(ValueError, match='model_best.pth.tar, linked in'):
            train.prepare(args, cfg)


def test_rounds_of_another_run_are_refused(tmp_path):
    cfg = settings(examples=['a'], rounds=3, seed=5)
    folder = tmp_path / 'rounds'
    folder.mkdir()
    kept = {'a/frame': 3, 'a/strokes': np.ones((2, 2)), 'a/mask': np.zeros((2, 2))}
    np.savez(str(folder / '1.npz'), **kept)  # of before these facts were kept
    assert corrections.of_round(cfg, str(tmp_path), 1)['a'].frame == 3
    assert corrections.of_round(cfg, str(tmp_path), 3) is None  # a new cycle
    facts = f'seed 4, {cfg.cycle} updates a round of 1 sequences'
    np.savez(str(folder / '1.npz'), made_from=facts, **kept)
    with pytest.raises(ValueError, match='1.npz was made with seed 4'):
        corrections.of_round(cfg, str(tmp_path), 1)


@pytest.mark.parametrize('stage', [1, 2])
def test_a_resumed_run_takes_the_same_examples(tree, stage):
    """Those of updates 0..3 are those of updates 0, 1, then of a run that begins at update 2."""
    cfg = example_settings(tree, stage=stage, size=24, batch_size=2)
    jobs = [data._job(cfg, n, True) for n in range(8)]
    whole = list(itertools.islice(data.examples(cfg, 0, 1, True), 8))
    cfg.start_step = 2
    with tf.Graph().as_default(), tf.Session() as run:
        batch = tf.data.make_one_shot_iterator(data.input_fn(cfg, True)).get_next()
        later = [run.run(batch) for _ in range(2)]
    assert len({job[2] for job in jobs}) > 2  # several sequences
    for number, (features, labels) in enumerate(whole[4:]):
        update, item = divmod(number, 2)
        for key, value in {**features, **labels}.items():
            part = later[update][0] if key in features else later[update][1]
            assert np.array_equal(part[key][item], value), (number, key)


def test_a_broken_frame_is_named(tree, tmp_path):
    for name in ('Annotations', 'ImageSets'):
        (tmp_path / name).symlink_to(Path(tree) / name)
    shutil.copytree(str(Path(tree) / 'JPEGImages'), str(tmp_path / 'JPEGImages'))
    for path in (tmp_path / 'JPEGImages' / '480p').glob('*/*.jpg'):
        path.write_bytes(path.read_bytes()[:2000])
    cfg = example_settings(str(tmp_path))
    with pytest.raises(ValueError, match=r'\d\d\.jpg is cut off'):
        next(data.examples(cfg, 0, 1, True))


def test_short_scribble_files(tmp_path):
    """The strokes of one frame, without a list for every other."""
    stroke = {'path': [[0.1, 0.1], [0.5, 0.5]], 'object_id': 1}
    path = tmp_path / 's.json'
    path.write_text(json.dumps({'frame': 2, 'scribbles': [stroke]}))
    assert robot.read(str(path), 4)['scribbles'] == [[], [], [stroke], []]
    for content, message in (
        ({'frame': 4, 'scribbles': [stroke]}, 'frame 4 of a video of 4 frames'),
        ({'frame': 'a', 'scribbles': [stroke]}, "frame 'a' of a video"),
        ({'frame': 0, 'scribbles': [[stroke]]}, 'are the strokes of that frame'),
        ({'frame': 0, 'scribbles': []}, 'has no stroke'),
        ({'frame': 0, 'scribbles': [{'path': 'x', 'object_id': 1}]}, 'a path is'),
        ({'scribbles': [[stroke]] * 3}, 'has 3 frames, the video has 4'),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            robot.read(str(path), 4)
