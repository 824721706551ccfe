"""MANet: network, matching, memories, losses, examples, robot, evaluation; against recorded answers
of the official code and of davisinteractive, and against plain forms."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from recorded import manet_examples, manet_robot
from recorded.manet_robot import SHAPE, lines, shapes
from scipy.spatial import cKDTree

from common import davis, masks
from MANet import backbone, config, data, evaluate, losses, matching, model, robot, session, train

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
        model.every_variable(cfg)
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
    for device, lean in (('cpu', True), ('cpu', False), ('atc', True)):  # the last without loops
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
            logits = model.head(tf.constant(items[:count]), 'dynamic_seghead', cfg, there)
            moves = backbone.moving_updates()
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
            optimizer = train.SGD(train.learning_rate(step, cfg), cfg)
            run_op = optimizer.apply_gradients([(tf.ones([2]), v) for v in values])
            run.run(tf.global_variables_initializer())
            run.run(run_op)
            slow, other = (float(x[0]) for x in run.run(values))
        assert abs(slow + 0.5**0.9) < 1e-6 and abs(other + (1.0 if quirk else 0.5**0.9)) < 1e-6


@pytest.mark.parametrize('nesterov', [True, False])
def test_momentum_steps_as_pytorch(nesterov):
    cfg = settings(nesterov=nesterov, momentum=0.9, group0_only=False, train_steps=9)
    draw = np.random.RandomState(0)
    gradients = draw.randn(3, 4).astype(np.float32)
    p, memory = np.zeros(4), np.zeros(4)
    with tf.Graph().as_default(), tf.Session() as run:
        value = tf.get_variable('manet/aspp/x', [4], initializer=tf.zeros_initializer())
        feed = tf.placeholder(tf.float32, [4])
        run_op = train.SGD(tf.constant(0.1), cfg).apply_gradients([(feed, value)])
        run.run(tf.global_variables_initializer())
        for g in gradients:
            run.run(run_op, {feed: g})
            memory = 0.9 * memory + g
            p = p - 0.1 * (g + 0.9 * memory if nesterov else memory)
        np.testing.assert_allclose(run.run(value), p, atol=1e-6)


def test_nearest_takes_the_floor():
    labels = np.arange(35).reshape(5, 7).astype(np.int32)
    with tf.Graph().as_default(), tf.Session() as run:
        found = run.run(model.nearest(tf.constant(labels), [3, 4]))
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
            assert list(value.shape) == shapes[part][key].as_list(), key
            assert value.dtype == types[part][key].as_numpy_dtype, key
            assert np.array_equal(value, again[0][part][key])
    features, labels = first[0]
    assert set(np.unique(labels['label'])) <= {0, 1, 2, 3}
    if stage == 2:
        assert all((f['strokes'] >= 0).any() and not f['previous'].any() for f, _ in first[:4])
        assert {-1} < set(np.unique(features['strokes']))
    assert {int(f['there'].sum()) for f, _ in first} == {3, 4}


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
    draws = random.Random(seed), np.random.RandomState(seed)
    features, labels = data.triple('a', cfg, draws)
    wanted = official_examples[f'labels{seed}']
    for mine, theirs in zip((features['reference'], features['previous'], labels['label']), wanted):
        assert np.array_equal(mine, theirs)
    difference = features['images'] - official_examples[f'images{seed}'].astype(np.float32)
    assert np.abs(difference).max() < 0.2  # recorded in float16
    found = data.damaged(features['previous'], draws[1])
    wrong = (found != official_examples[f'damaged{seed}']).sum()
    assert wrong <= 10  # of 1,600; subpixel warps


@pytest.mark.parametrize('seed', manet_examples.SEEDS)
def test_crops_with_strokes_are_the_official_ones(made, official_examples, seed):
    picture = masks.read_image(str(made / 'JPEGImages' / '480p' / 'a' / '00000.jpg'))
    cfg = settings(size=manet_examples.SIDE)
    for name, tries in (('None', data.ENDLESS), ('10', 10)):
        draws = random.Random(seed), np.random.RandomState(seed)
        labels = [manet_examples.strokes()]
        _, labels = data.changed([picture.astype(np.float32)], labels, cfg, draws, tries)
        assert np.array_equal(labels[0], official_examples[f'strokes{name}{seed}'])


@pytest.mark.parametrize('seed', manet_examples.SEEDS)
def test_rough_masks_are_the_official_ones(made, official_examples, seed):
    ids = masks.read_mask(str(made / 'Annotations' / '480p' / 'a' / '00001.png'))
    found = session.roughened((ids == 1).astype(np.int32), random.Random(seed), 0.3)
    theirs = official_examples[f'rough{seed}']
    assert (found != theirs).mean() < 0.02  # at borders: theirs mixes labels
    assert found.any() == theirs.any()


def test_damage_moves_objects_a_little():
    label = np.zeros((80, 120), np.int32)
    label[20:50, 30:70], label[55:70, 80:110] = 1, 2
    overlaps = []
    for seed in range(20):
        found = data.damaged(label, np.random.RandomState(seed))
        for k in (1, 2):
            a, b = found == k, label == k
            overlaps.append((a & b).sum() / (a | b).sum())
    assert 0.6 < np.mean(overlaps) < 0.97 and min(overlaps) > 0.4
    dot = np.zeros((40, 40), np.int32)
    dot[20, 20] = 3  # one pixel may vanish: the label stays
    for seed in range(10):
        assert set(np.unique(data.damaged(dot, np.random.RandomState(seed)))) <= {0, 3}


def test_crops_show_an_object(tree):
    cfg = example_settings(tree, size=40)
    for n in range(6):
        features, _ = data.triple('drawn-b', cfg, (random.Random(n),
                                                         np.random.RandomState(n)))  # fmt: skip
        assert features['images'].shape == (3, 40, 40, 3)


def test_pixels_of_strokes_are_the_packages(strokes):
    for seed in range(6):
        found = robot.rasterised([lines(seed)], (37, 53))[0]
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
    assert found['scribbles'] == [[]] and robot.annotated(found) == []
    first = robot.first('a', truth, 2)['scribbles'][0]
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
            robot.read(str(path))
    with pytest.raises(FileNotFoundError, match='no scribbles at'):
        robot.read(str(tmp_path / 'absent.json'))


def test_enlarged_aligns_corners():
    image = np.random.RandomState(0).rand(5, 1, 3).astype(np.float32)
    for size in ((12, 7), (5, 1)):
        with tf.Graph().as_default(), tf.Session() as run:
            wanted = run.run(tf.image.resize_bilinear(image[None], size, align_corners=True))[0]
        np.testing.assert_allclose(session.enlarged(image, size), wanted, atol=1e-6)


def test_rough_region():
    labels = -np.ones((20, 30), np.int32)
    labels[8, 10:15], labels[12, 12] = 1, 2
    found = session.rough_region(labels, 3)
    assert found[5, 7] == -1 and found[4, 7] == 0 and found[5, 6] == 0
    assert found[14, 16] == -1 and found[15, 16] == 0 and found[14, 17] == 0
    assert np.array_equal(found[5:15, 7:17], labels[5:15, 7:17])
    assert (session.rough_region(labels, 99)[-1] == 0).all()  # the last row is never inside


def fake_network(log, count=3, cells=(6, 8)):
    """Parts that answer with numbers by which the rounds can be followed."""

    def network(name, classes, size, values):
        log.append((name, {k: np.asarray(v) for k, v in values.items()}))
        shape = (*cells, count)
        if name == 'interact':
            return np.eye(count)[1] + np.zeros(shape), np.full(shape, 0.9, np.float32)
        if name == 'match':
            n = sum(key == 'match' for key, _ in log)
            return np.full(shape, 1 / n, np.float32), np.full(shape, n / 100, np.float32)
        return np.eye(count)[2] + np.zeros(shape)

    return network


def test_rounds_and_memories():
    """Order outward; least global map kept; of the last two local maps the nearer round's."""
    log, cfg = [], settings(roi=2)
    embeddings = np.arange(5)[:, None, None, None] + np.zeros((5, 6, 8, 4), np.float32)
    run = session.Session(fake_network(log), cfg, embeddings, (12, 16), 2)
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
    assert np.allclose(parts[4.0]['local'], 0.02) and np.allclose(parts[1.0]['local'], 0.03)
    assert np.allclose(parts[2.0]['local'], 0.02)  # annotated before: no map of then
    assert np.allclose(parts[2.0]['global'], 0.5)  # match 2 of this log, 0.9 of its strokes
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
    run = session.Session(fake_network([]), cfg, np.zeros((1, 6, 8, 4), np.float32), (12, 16), 2)
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
    first = {'scribbles': [robot.first('a', truth[1], 2)['scribbles'][0] if t == 1 else []
                           for t in range(4)]}  # fmt: skip
    run = Corrected(truth)
    rows = evaluate.evaluate_sample(run, truth, 'a', first, cfg, lambda: next(clock))
    assert [r[0] for r in rows] == [1, 2, 3, 4] and [r[1] for r in rows] == [2.0] * 4
    assert run.frames == [1, 0]  # worst of round 1 is frame 0; then all is right
    assert np.allclose(rows[0][2][:3, :, 0], [1, 0]) and np.allclose(rows[3][2], 1)
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
            scores = np.stack([row[2] for row in rows])
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
    scores = lambda *values: np.array(values, float)[None, :, None] * [1, 0.5]  # noqa: E731
    found = {
        ('a', 1): (2, [(1, 10.0, scores(0.2, 0.4)), (2, 20.0, scores(0.6, 0.6))]),
        ('b', 1): (1, [(1, 30.0, scores(0.9)), (2, 10.0, scores(0.9)), (3, 30.0, scores(1.0))]),
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
    assert evaluate.worst(scores, []) == 1 and evaluate.worst(scores, [1]) == 2
    assert evaluate.worst(scores, [0, 1, 2]) == 1


def test_samples_are_checked(tree, tmp_path):
    found = data.samples(tree, 'drawn-x', 2)
    assert len(found) == 1 and len(robot.annotated(found[0][1])) == 1
    for name in ('JPEGImages', 'Annotations', 'ImageSets'):
        (tmp_path / name).symlink_to(Path(tree) / name)
    folder = tmp_path / 'Scribbles' / 'drawn-x'
    folder.mkdir(parents=True)
    stroke = {'path': [[0.1, 0.1], [0.5, 0.5]], 'object_id': 1}
    for content, message in (
        ({'sequence': 'other', 'scribbles': [[]] * 10}, "of sequence 'other'"),
        ({'scribbles': [[stroke]]}, 'has 1 frames'), ({'scribbles': [[]] * 10}, 'has no stroke'),
    ):  # fmt: skip
        (folder / '001.json').write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            data.samples(str(tmp_path), 'drawn-x', 2)
    (folder / '001.json').write_text(json.dumps({'scribbles': [[stroke]] + [[]] * 9}))
    (folder / '002.json').write_text(json.dumps({'scribbles': [[]] * 9 + [[stroke]]}))
    assert [n for n, _ in data.samples(str(tmp_path), 'drawn-x', 2)] == [1, 2]
    cfg = settings(data_path=str(tmp_path), counts={'drawn-x': 2}, height=0)
    t, pixels = data.first_strokes('drawn-x', cfg, random.Random(0))
    assert t in (0, 9) and set(np.unique(pixels)) == {-1, 1}
    assert masks.read_mask(davis.masks(tree, 'drawn-x')[0]).shape == pixels.shape
