"""ColorNet: network sizes, losses, views, images' changes, clips, propagation, optimizer; against
recorded answers of the official code (recorded/colornet_official.py) and against plain forms."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from PIL import Image
from recorded.colornet_made import made_frames

from ColorNet import (
    adamw,
    augment,
    backbone,
    config,
    data,
    inference,
    losses,
    model,
    propagation,
    train,
    views,
)

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope='module')
def recorded():
    return np.load(HERE / 'recorded' / 'colornet_small.npz')


def draws(seed):
    return augment.Draws(random.Random(seed), np.random.RandomState(seed))


def settings(**changes):
    cfg = config.get_config('smoke')
    cfg.update({'device': 'cpu', 'workers': 0, 'start_step': 0, **changes})
    return cfg


@pytest.mark.parametrize('size,dul,kernel,count,flops', [
    ('L', False, 3, 11498176, 12.271), ('M', True, 3, 14549296, 15.192),
    ('S', True, 3, 4043296, 4.277), ('L', False, 7, 11505856, 12.397),
    ('M', False, 3, 3924912, 4.305), ('S', False, 3, 1319456, 1.485),
    ('L', True, 3, 53259584, 55.049), ('DUL', True, 7, 11505856, 12.397),
])  # fmt: skip
def test_parameters_and_flops_are_the_published_ones(size, dul, kernel, count, flops):
    """thop's rule: products of convolutions, and four operations a number normalised."""
    cfg = settings(model_size=size, is_dul=dul, first_kernal_size=kernel, channels=1.0)
    with tf.Graph().as_default() as graph:
        found = model.extract(tf.zeros([1, 256, 256, 3]), cfg, training=True)
        assert sum(v.shape.num_elements() for v in tf.trainable_variables()) == count
        total = 0
        for op in graph.get_operations():
            if op.type == 'Conv2D':
                weights, output = op.inputs[1].shape.as_list(), op.outputs[0].shape.as_list()
                total += int(np.prod(weights[:3])) * int(np.prod(output))
            elif op.type.startswith('FusedBatchNorm'):
                total += 4 * op.outputs[0].shape.num_elements()
    assert abs(total / 1e9 - flops) < 6e-4
    widths = {'L': (512, 512), 'M': (256, 512), 'S': (128, 256)}
    if size in widths:
        assert found['color'].shape.as_list() == [1, 32, 32, widths[size][0]]
        assert ('merge' in found) == dul and found['q_color'].shape[-1] == 128
        assert not dul or found['merge'].shape[-1] == 2 * widths[size][0]


def test_kernels_start_as_published():
    cfg = settings(channels=1.0)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(1)
        model.extract(tf.zeros([1, 64, 64, 3]), cfg)
        session.run(tf.global_variables_initializer())
        values = session.run({v.op.name: v for v in tf.global_variables()})
    kernel = values['colornet/layer4/0/conv2/weights']
    assert abs(kernel.std() / np.sqrt(2 / (9 * 256)) - 1) < 0.01
    bias = values['colornet/query_cls/3/biases']
    assert np.abs(bias).max() <= 1 / np.sqrt(128) and np.abs(bias).max() > 0.07


def small_batch(recorded, n, draw):
    """The recorder's made features, targets and places, its draws repeated."""
    unit = lambda *s: unit_length(draw.randn(*s).astype(np.float32))  # noqa: E731
    keys = [unit(2 * k, 8, 32, 32) for k in (4, 2, 3, 3)]
    grid = (draw.rand(2, 3, 32, 32, 2) * 2.6 - 1.3).astype(np.float32)
    lab = draw.randint(0, 256, (2, 3, 3, 256, 256)).astype(np.uint8)
    weight = draw.randint(0, 256, (2, 3, 1, 256, 256)).astype(np.uint8)
    theta = np.array([[-0.7, 0, 0.2], [0, 0.7, -0.1]], np.float32)
    align, inside = views.nearest_inside(views.affine_cells(theta, 32))
    nhwc = [np.ascontiguousarray(k.transpose(0, 2, 3, 1)) for k in keys]
    dul1, dul2 = (k.reshape(2, -1, 32, 32, 8) for k in nhwc[:2])
    outputs = {
        'key1': nhwc[2].reshape(2, 3, 1024, 8), 'key2': nhwc[3].reshape(2, 3, 1024, 8),
        'dul1': dul1[:, :3], 'dul2': np.concatenate([dul1[:, 3:], dul2], 1),
    }  # fmt: skip
    fold = lambda x: np.stack([data._fold(f.transpose(0, 2, 3, 1)) for f in x])  # noqa: E731
    labels = {
        'target': fold(lab), 'weight': fold(weight)[..., 0],
        'range': np.tile(np.array([0, 1, 0, 1], np.float32), (2, 1)),
        'index': np.stack([[views.nearest_cells(g) for g in clip] for clip in grid]),
        'align': np.tile(align, (2, 3, 1)), 'inside': np.tile(inside, (2, 3, 1)),
        'anchor': recorded[f'{n}:anchor'].reshape(2, 64).astype(np.int32),
        'cross': recorded[f'{n}:cross'].reshape(2, 16).astype(np.int32),
    }  # fmt: skip
    return outputs, labels


def unit_length(x):
    return x / np.maximum(np.sqrt((x * x).sum(1, keepdims=True)), 1e-12)


def constants(values):
    return {key: tf.constant(value) for key, value in values.items()}


def test_losses_are_the_official_ones(recorded):
    draw = np.random.RandomState(1)
    for n, (neg, ohem) in enumerate(((True, [0, 1.0]), (False, [0.2, 0.7]))):
        outputs, labels = small_batch(recorded, n, draw)
        cfg = settings(is_neg=neg, ohem_range=ohem)
        with tf.Graph().as_default(), tf.Session() as session:
            found = session.run(losses.losses(constants(outputs), constants(labels), cfg))
        for key in ('color', 'consistency', 'dul', 'negative'):
            theirs = float(recorded[f'{n}:{key}'])
            assert abs(found[key] - theirs) < 3e-6 * theirs, (n, key)
        total = found['color'] + found['consistency'] + 0.01 * found['dul']
        assert abs(found['total'] - total) < 1e-5


def made_batch():
    """Features, targets and cells of two clips of two frames of 64 px."""
    draw = np.random.RandomState(1)

    def unit(*shape):
        x = draw.randn(*shape).astype(np.float32)
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    outputs = {'key1': unit(2, 2, 64, 8), 'key2': unit(2, 2, 64, 8),
               'dul1': unit(2, 2, 8, 8, 8), 'dul2': unit(2, 2, 8, 8, 8)}  # fmt: skip
    cells = np.tile(np.arange(64, dtype=np.int32), (2, 2, 1))
    labels = {
        'target': draw.randint(0, 256, (2, 2, 64, 64, 3)).astype(np.uint8),
        'weight': draw.randint(0, 256, (2, 2, 64, 64)).astype(np.uint8),
        'range': np.tile(np.array([0.2, 0.6, 0.2, 0.4], np.float32), (2, 1)),
        'index': cells, 'align': cells, 'inside': np.ones((2, 2, 64), np.float32),
        'anchor': cells[:, 0], 'cross': cells[:, 0, ::4],
    }  # fmt: skip
    return outputs, labels


def test_switches_of_the_losses():
    outputs, labels = made_batch()

    def total(**changes):
        cfg = settings(**changes)
        with tf.Graph().as_default(), tf.Session() as session:
            values = losses.losses(constants(outputs), constants(labels), cfg)
            return session.run([values, *losses.target_colors(constants(labels), cfg)])

    plain, target, weight = total()
    assert abs(target[..., 1:].max() - 1) < 1e-6 and target[..., 1:].min() == 0
    assert weight.min() == 1 and weight.max() == 5
    without, _, _ = total(space_consistency=False)
    assert abs(plain['total'] - without['total'] - plain['consistency']) < 1e-5
    assert without['consistency'] == plain['consistency']  # shown all the same
    ab, target, _ = total(color_mode='AB')
    assert np.all(target[..., 0] == 0) and np.any(target[..., 1] > 0)
    rgb, target, _ = total(color_mode='RGB')
    assert np.array_equal(np.round(target * 255), labels['target']) and rgb['color'] > 0
    with pytest.raises(ValueError, match='leaves none of 4 losses'):
        total(ohem_range=[0.1, 0.15])


def test_gradient_runs_where_it_should():
    """Through key1, view 1, and the first frames of view 2."""
    frames = {k: tf.uint8 for k in ('main', 'dul1', 'dul2')}
    cfg = settings(size=64, video_len=3, batch_size=2, channels=0.1)
    with tf.Graph().as_default(), tf.Session() as session:
        draw = np.random.RandomState(0)
        shape = [2, 3, 64, 64, 3]
        images = {
            k: tf.constant(draw.randint(0, 255, shape), frames.get(k, tf.float32))
            for k in ('main', 'second', 'dul1', 'dul2')
        }
        found = model.network(images, cfg, True)
        session.run(tf.global_variables_initializer())
        weights = [v for v in tf.trainable_variables() if 'layer1/0/conv1' in v.op.name]
        assert tf.gradients(found['key2'], weights) == [None]
        (first, later, own) = session.run(
            [tf.gradients(tf.reduce_sum(x[..., :3]), weights)[0]
             for x in (found['dul2'][:, 0], found['dul2'], found['key1'])]
        )  # fmt: skip
        np.testing.assert_allclose(first, later, atol=1e-4)
        assert np.abs(first).max() > 1e-3 and np.abs(own).max() > 1e-3


def test_statistics_move_once_a_pass():
    cfg = settings(size=64, video_len=2, bn_decay=0.9, channels=0.1)
    with tf.Graph().as_default(), tf.Session() as session:
        draw = np.random.RandomState(0)
        kinds = {'second': tf.float32}
        images = {
            k: tf.constant(draw.randint(0, 255, [2, 2, 64, 64, 3]), kinds.get(k, tf.uint8))
            for k in ('main', 'second', 'dul1', 'dul2')
        }
        model.network(images, cfg, True)
        passes = [p for p in tf.get_collection(backbone.STATISTICS)
                  if p[0].op.name == 'colornet/query_cls/1/moving_mean']  # fmt: skip
        assert len(passes) == 4
        session.run(tf.global_variables_initializer())
        values = session.run([value for _, value in passes])
        moves = [tf.assign(*pair) for pair in backbone.moving_statistics(0.9)]
        session.run(moves)
        wanted = np.zeros_like(values[0])
        for value in values:
            wanted = 0.9 * wanted + 0.1 * value
        np.testing.assert_allclose(session.run(passes[0][0]), wanted, atol=1e-5)


@pytest.mark.parametrize('resource', [False, True])
@pytest.mark.parametrize('name', ['adamw', 'adam'])
def test_optimizers_step_as_pytorch(recorded, name, resource):
    draw = np.random.RandomState(3)
    start, gradients = draw.randn(2, 6), draw.randn(3, 2, 6) * 10.0 ** -np.arange(1, 7)
    changes = {} if name == 'adamw' else dict(beta1=0.5, beta2=0.999, weight_decay=5e-4)
    cfg = settings(optimizer=name, **changes)
    with tf.Graph().as_default(), tf.Session() as session:
        step = tf.train.get_or_create_global_step()
        values = [
            tf.get_variable(n, initializer=tf.constant(s, tf.float32), use_resource=resource)
            for n, s in zip(('a/weights', 'a/biases'), start)
        ]
        feed = [tf.placeholder(tf.float32, [6]) for _ in values]
        optimizer = adamw.AdamW(tf.constant(1e-3), cfg)
        run = optimizer.apply_gradients(list(zip(feed, values)), step)
        names = {v.op.name for v in tf.global_variables()}  # as in checkpoints made before
        slots = {f'a/{n}/{slot}' for n in ('weights', 'biases') for slot in ('AdamW', 'AdamW_1')}
        assert names - {'a/weights', 'a/biases', 'global_step'} == {
            'beta1_power', 'beta2_power', *slots,
        }  # fmt: skip
        session.run(tf.global_variables_initializer())
        for n, pair in enumerate(gradients):
            session.run(run, dict(zip(feed, pair)))
            found = np.stack(session.run(values))
            assert np.abs(found - recorded[f'{name}{n}']).max() < 5e-7


def test_rates_by_epoch():
    cfg = settings(learning_rate=1e-4)
    cfg.train_steps = 433 * 300
    with tf.Graph().as_default(), tf.Session() as session:
        step = tf.placeholder(tf.int64, [])
        rate = train.learning_rate(step, cfg)
        for epoch, wanted in ((1, 4e-6), (24, 9.6e-5), (25, 1e-4), (101, 8.23e-5),
                              (259, 5.385e-6), (260, 5.130e-6), (300, 5.130e-6)):  # fmt: skip
            for at in (433 * (epoch - 1), 433 * epoch - 1):
                assert abs(session.run(rate, {step: at}) / wanted - 1) < 1e-3, epoch
        cfg.is_cos_lr = False
        rate = train.learning_rate(step, cfg)
        for epoch, wanted in ((99, 1e-4), (100, 5e-5), (250, 2.5e-5), (300, 1.25e-5)):
            assert abs(session.run(rate, {step: 433 * (epoch - 1)}) / wanted - 1) < 1e-5


def plain_sample(image, grid):
    """grid_sample, bilinear and reflected, a pixel at a time in float64."""
    height, width = image.shape[:2]

    def reflected(v, n):
        v = np.abs(np.mod(v + 0.5, 2 * n))
        return float(np.clip((2 * n - v if v > n else v) - 0.5, 0, n - 1))

    result = np.zeros((*grid.shape[:2], 3))
    for i, j in np.ndindex(*grid.shape[:2]):
        sides = zip(grid[i, j], (width, height))
        x, y = (reflected(((float(g) + 1) * n - 1) / 2, n) for g, n in sides)
        x0, y0 = int(x), int(y)
        for row, share in ((y0, 1 - (y - y0)), (min(y0 + 1, height - 1), y - y0)):
            for column, part in ((x0, 1 - (x - x0)), (min(x0 + 1, width - 1), x - x0)):
                result[i, j] += share * part * image[row, column]
    return result


def test_warp_is_grid_sample():
    draw = np.random.RandomState(0)
    image = draw.rand(16, 16, 3).astype(np.float32) * 255
    grid = (draw.rand(16, 16, 2) * 5 - 2.5).astype(np.float32)
    np.testing.assert_allclose(views.warp(image, grid), plain_sample(image, grid), atol=1e-3)


def test_index_says_what_the_second_view_shows():
    """A picture of its own cells, zoomed: the index reads the same cells."""
    size = 256
    cells = np.repeat(np.repeat(np.arange(1024).reshape(32, 32), 8, 0), 8, 1)
    picture = np.stack([cells // 32 * 8, cells % 32 * 8, np.zeros_like(cells)], -1)
    image = Image.fromarray(picture.astype(np.uint8))
    flips = set()
    for seed in range(6):
        (zoomed,), theta = views.zoom_in([image], random.Random(seed))
        index = views.nearest_cells(views.affine_cells(theta, 32))
        shown = np.asarray(zoomed)[3:size:8, 3:size:8].reshape(-1, 3) / 8
        rows, columns = np.divmod(index, 32)
        assert np.abs(rows - shown[:, 0]).max() <= 1.1  # within a cell, as pixels are blended
        assert np.median(np.abs(columns - shown[:, 1])) < 0.6
        flips.add(theta[0, 0] > 0)
    assert flips == {True, False}


def test_liquid_map_moves_around_its_points():
    x, y = views.liquid_map(256, 256, 1.0, random.Random(4))
    plain = np.meshgrid(np.arange(256), np.arange(256))
    assert 5 < np.abs(x - plain[0]).max() < 8 * 24 and np.abs(y - plain[1]).max() > 5
    grid = views.liquid_cells(x, y, True)
    centre = x.reshape(32, 8, 32, 8)[:, 3:5, :, 3:5].mean((1, 3)) / 256 * 2 - 1
    np.testing.assert_allclose(grid[..., 0], centre, atol=1e-6)
    index = views.nearest_cells(grid)
    assert index.dtype == np.int32 and index.min() >= 0 and index.max() < 1024


def test_edge_weight_marks_edges_behind_smooth_stretches():
    image = np.full((256, 256, 3), 200, np.uint8)
    image[64:192, 100:180] = (20, 40, 60)
    weight = augment.edge_weight(Image.fromarray(image))
    assert weight.shape == (256, 256) and set(np.unique(weight[::2, ::2])) <= set(range(256))
    assert weight[128, 96:104].max() == 255 and weight[60:68, 128].max() == 255
    assert weight[128, 130:150].max() == 0 and weight[10:40].max() == 0
    noise = np.random.RandomState(0).randint(0, 255, (256, 256, 3)).astype(np.uint8)
    assert augment.edge_weight(Image.fromarray(noise)).mean() < weight.mean() * 3


def plain_edges(line):
    """The walk of findEdge2 along a line, both ways."""
    marks = []
    for order in (range(len(line)), range(len(line) - 1, -1, -1)):
        run = last = 0
        for k in order:
            if last and not line[k]:
                run = 0
            if not last and not line[k]:
                run += 1
            if not last and line[k]:
                marks += [k] if run > 16 else []
                run = 0
            last = line[k]
    return sorted(marks)


def test_crossings_are_those_of_the_walk():
    draw = np.random.RandomState(0)
    for share in (0.01, 0.03, 0.1, 0.5):
        for _ in range(50):
            line = draw.rand(128) < share
            assert sorted(augment._crossings(line).tolist()) == plain_edges(line)


def test_lab_range():
    frames = np.full((2, 8, 8, 3), 120, np.uint8)
    assert augment.clip_range(frames, True).tolist()[2:] == [0, 1]  # flat: left as it is
    frames[0, 0, 0, 1], frames[1, :, :, 2] = 255, 130
    low, high, start, span = augment.clip_range(frames, True)
    values = frames[..., 1:] / 255
    assert high < 1 and abs(high - (values.mean() + 3 * values.std())) < 1e-6
    assert low == start == np.float32(120 / 255) and abs(span - (high - low)) < 1e-7
    assert augment.clip_range(frames, False)[1] == 1


def test_jitter_changes_light_only_where_it_is_asked():
    image = Image.fromarray(np.random.RandomState(0).randint(0, 255, (64, 64, 3), np.uint8))
    same = 0
    for seed in range(40):
        found = augment.jitter(image, augment.STRONG, True, draws(seed))
        assert found.size == image.size and found.mode == 'RGB'
        same += np.array_equal(np.asarray(found), np.asarray(image))
    assert same < 10  # 0.4 * 0.2 * 0.8 * 0.7 * 0.9 of them


@pytest.fixture(scope='module')
def clips_root(tmp_path_factory):
    """A folder of made videos with a file list, one of them short, one grey."""
    root = tmp_path_factory.mktemp('clips')
    lines = []
    for video, count in ((0, 8), (1, 6), (2, 2)):
        folder = root / 'JPEGImages' / f'v{video}'
        lines += [f'/JPEGImages/v{video}/{Path(p).name} mask' for p in
                  made_frames(folder, video, count)]  # fmt: skip
    for path in sorted((root / 'JPEGImages' / 'v1').iterdir()):
        Image.open(path).convert('L').save(path)
    (root / 'filelists').mkdir()
    (root / 'filelists' / 'train_ytvos.txt').write_text('\n'.join(lines) + '\n\n')
    return root


def test_videos_of_a_list_and_of_folders(clips_root, drawn, tmp_path):
    cfg = settings(video_len=3)
    found = data.find(str(clips_root), cfg)
    assert [len(v) for v in found] == [8, 6] and found[0][0].endswith('v0/00000.png')
    with pytest.raises(ValueError, match='none of its 3 videos has 9 frames'):
        data.find(str(clips_root), settings(video_len=9))
    assert len(data.find(drawn['youtube_vos'], cfg)) == 3
    assert len(data.find(str(Path(drawn['youtube_vos']).parent), cfg)) == 3
    assert len(data.find(drawn['davis'], cfg)) == 6  # its training split
    cfg.dataset = 'coco'
    assert len(data.find(str(Path(drawn['coco']).parent), cfg)) == 12  # no video list is needed
    with pytest.raises(FileNotFoundError, match='--coco: no images in'):
        data.find(str(tmp_path), cfg)
    (tmp_path / 'empty.txt').write_text('\n')
    with pytest.raises(ValueError, match='expected lines such as'):
        data.find(str(tmp_path), settings(file_list=str(tmp_path / 'empty.txt')))
    with pytest.raises(FileNotFoundError, match='file_list: no such file'):
        data.find(str(tmp_path), settings(file_list='absent.txt'))
    with pytest.raises(FileNotFoundError, match='filelists.*DAVIS'):
        data.find(str(tmp_path), settings())


def test_frames_are_drawn_from_a_window(clips_root, monkeypatch):
    cfg = settings(video_len=3)
    seen = []
    monkeypatch.setattr(data, 'read_image', lambda path: seen.append(int(Path(path).stem)) or
                        Image.new('RGB', (160, 96)))  # fmt: skip
    frames = data.find(str(clips_root), cfg)[0]
    starts = set()
    for seed in range(60):
        del seen[:]
        data._clip_of_video(frames, cfg, draws(seed))
        assert sorted(np.diff(sorted(seen))) == [2, 2]
        starts.add(min(seen))
    assert starts == {0, 1, 2, 3} and sorted(seen) != seen


def test_clips_have_their_shapes_and_repeat(clips_root):
    for changes in ({}, {'is_dul': False}, {'model_size': 'DUL'}, {'color_mode': 'RGB'},
                    {'is_aug': False, 'is_edge': False}):  # fmt: skip
        cfg = settings(**changes)
        cfg.examples = data.find(str(clips_root), cfg)
        shapes, types = data.signature(cfg)
        first, again = (list(itertools.islice(data.clips(cfg, 0, 1, False), 3)) for _ in range(2))
        for part in (0, 1):
            assert set(first[0][part]) == set(shapes[part])
            for key, value in first[0][part].items():
                assert list(value.shape) == shapes[part][key].as_list()[1:], key
                assert value.dtype == types[part][key].as_numpy_dtype, key
                assert np.array_equal(value, again[0][part][key])
        assert any(not np.array_equal(first[0][0][k], first[1][0][k]) for k in first[0][0])
        if changes.get('is_edge') is False:
            assert not first[0][1]['weight'].any()


def test_pictures_become_clips(drawn):
    """--coco: frames warped, or the picture itself without is_liquid."""
    spreads = []
    for liquid in (True, False):
        cfg = settings(dataset='coco', is_liquid=liquid)
        path = data.find(drawn['coco'], cfg)[0][0]
        made = draws(3)
        images, plain = data._clip_of_image(path, cfg, made)
        assert [i.size for i in images + plain] == [(192, 120)] * 6
        shapes, _ = data.signature(cfg)
        features, _ = data.sample([path], cfg, made)
        assert all(list(features[k].shape) == v.as_list()[1:] for k, v in shapes[0].items())
        pixels = {np.asarray(i).tobytes() for seed in range(5) for i in
                  data._clip_of_image(path, cfg, draws(seed))[1]}  # fmt: skip
        spreads.append(len(pixels))
    assert spreads[0] == 15 > spreads[1]  # unwarped and unturned frames are one


def test_a_pass_shows_every_video_once(clips_root):
    cfg = settings(batch_size=2)
    cfg.examples = [[str(n)] * 5 for n in range(7)]
    found = data.numbers(cfg)
    numbers = [next(found) for _ in range(12)]
    assert [n for n, _ in numbers] == list(range(12)) and data.steps_an_epoch(cfg) == 3
    assert len({v for _, v in numbers[:6]}) == 6 and len({v for _, v in numbers[6:]}) == 6


def test_pictures_that_cannot_be_read(tmp_path):
    grey, cmyk = tmp_path / 'g.jpg', tmp_path / 'c.jpg'
    Image.new('L', (20, 10), 77).save(grey)
    Image.new('CMYK', (20, 10), (0, 255, 255, 0)).save(cmyk)
    assert np.asarray(data.read_image(str(grey))).shape == (10, 20, 3)
    assert np.asarray(data.read_image(str(cmyk)))[0, 0, 0] > 200
    (tmp_path / 'bad.jpg').write_bytes(grey.read_bytes()[:80])
    with pytest.raises(ValueError, match='bad.jpg is no readable image'):
        data.read_image(str(tmp_path / 'bad.jpg'))
    with pytest.raises(FileNotFoundError, match='no frame at'):
        data.read_image(str(tmp_path / 'absent.jpg'))
    Image.new('RGB', (40, 30)).save(tmp_path / 'a.png')
    Image.new('RGB', (50, 30)).save(tmp_path / 'b.png')
    frames = [str(tmp_path / name) for name in ('a.png', 'b.png', 'a.png')]
    with pytest.raises(ValueError, match=r'is \(50, 30\) px|is \(40, 30\) px'):
        data.sample(frames, settings(), draws(0))


def test_small_frames_are_enlarged(tmp_path):
    frames = made_frames(tmp_path, 3, 4, size=(40, 56))
    cfg = settings(is_liquid=False)
    features, _ = data.sample(frames, cfg, draws(0))
    assert features['main'].shape == (3, 96, 96, 3) and features['dul1'].std() > 10


def test_readers_give_the_same_clips(clips_root):
    """Worker processes; not forked from pytest, whose TensorFlow has threads."""
    code = (
        'import sys\nfrom ColorNet import config, data\ncfg = config.get_config("smoke")\n'
        'cfg.examples = data.find(sys.argv[1], cfg)\n'
        'for workers in (2, 0):\n'
        '    cfg.workers = workers\n'
        '    with data.readers(cfg):\n'
        '        found = data.clips(cfg, 0, 1, True)\n'
        '        made = [next(found) for _ in range(6)]\n'
        '    print([(int(f["main"].sum()), round(float(f["second"].sum()))) for f, _ in made])\n'
    )
    command = [sys.executable, '-W', 'ignore', '-c', code, str(clips_root)]
    lines = subprocess.check_output(command, cwd=str(HERE.parent)).splitlines()
    assert lines[0] == lines[1] and lines[0].count(b',') == 11


def vote(query, first, others, **changes):
    cfg = settings(**changes)
    with tf.Graph().as_default(), tf.Session() as session:
        arrays = [tf.constant(x, tf.float32) for x in (query, first, others)]
        return session.run(propagation.votes(*arrays, cfg))


def test_propagated_labels_are_the_official_ones(recorded):
    """The recorder's made maps, its draws repeated; radius 5, frames that repeat."""
    draw = np.random.RandomState(1)
    for n in (0, 1):
        small_batch(recorded, n, draw)
    maps = [unit_length(draw.randn(1, 8, 17, 26).astype(np.float32)) for _ in range(5)]
    maps = [np.ascontiguousarray(m[0].transpose(1, 2, 0)) for m in maps]
    labels = [draw.rand(1, 3, 17, 26).astype(np.float32)[0] for _ in range(4)]
    order = [0, 1, 1, 2, 3]
    weight, cell = vote(maps[4], maps[0], np.stack([maps[k] for k in order]), radius=5.0)
    stacked = np.stack([labels[k].transpose(1, 2, 0) for k in [0, *order]]).reshape(-1, 3)
    found = (stacked[cell] * weight[..., None]).sum(1).reshape(17, 26, 3)
    assert np.abs(found - recorded['labels'][0].transpose(1, 2, 0)).max() < 1e-5


@pytest.mark.parametrize('shape,radius', [((5, 7), 12.0), ((12, 24), 3.0), ((40, 13), 4.5)])
def test_votes_equal_the_whole_matrix(shape, radius):
    """Maps smaller than a tile, whole tiles, ragged ones."""
    draw = np.random.RandomState(0)
    query, first = (unit_length(draw.randn(3, 6, *shape))[0] for _ in range(2))
    others = unit_length(draw.randn(4, 6, *shape))
    move = lambda x: np.moveaxis(x, -3, -1)  # noqa: E731
    weight, cell = vote(move(query), move(first), move(others), radius=radius)
    flat = move(query).reshape(-1, 6)
    keys = np.concatenate([move(first)[None], move(others)]).reshape(5, -1, 6)
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing='ij'), -1).reshape(-1, 2)
    far = np.sqrt(((places[:, None] - places) ** 2).sum(-1)) >= radius
    scores = np.einsum('qc,fkc->qfk', flat, keys)
    scores[:, 1:] -= 1e10 * far[:, None]
    scores = scores.reshape(len(flat), -1)
    best = np.argsort(-scores, axis=1)[:, :10]
    assert np.array_equal(np.sort(cell, 1), np.sort(best, 1))
    values = np.take_along_axis(scores, cell, 1) / 0.05
    wanted = np.exp(values - values.max(1, keepdims=True))
    np.testing.assert_allclose(weight, wanted / wanted.sum(1, keepdims=True), atol=2e-5)


def test_the_form_without_loops_votes_the_same():
    draw = np.random.RandomState(0)
    maps = [unit_length(draw.randn(1, 5, 14, 20))[0].transpose(1, 2, 0) for _ in range(4)]
    found = [vote(maps[0], maps[1], np.stack(maps[2:]), radius=4.0, device=device)
             for device in ('cpu', 'atc')]  # fmt: skip
    assert np.array_equal(found[0][1], found[1][1])
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-6)


def color_network(cfg):
    """A network whose features are a cell's colour, so that propagation has one answer."""

    def features(images):
        small = np.stack([propagation.resize_image(i, (15, 27)) for i in images]) / 128 - 1
        small = np.concatenate([small, np.full_like(small[..., :1], 0.2)], -1)
        return (small / np.linalg.norm(small, axis=-1, keepdims=True)).astype(np.float32)

    graph = tf.Graph()
    session = tf.Session(graph=graph)
    built = []

    def votes(query, first, context):
        if not built:
            with graph.as_default():
                built.extend(inference.vote_graph(query.shape, cfg))
        inputs, outputs = built
        feed = dict(zip(inputs.values(), (query, first, context)))
        return session.run((outputs['weight'], outputs['cell']), feed)

    return inference.Network(features, votes)


def clip(count=6, start=3):
    """Frames with a red square that moves, and a blue one from frame `start`; their ids."""
    frames, ids = [], []
    for t in range(count):
        image, mask = np.full((60, 108, 3), 90, np.uint8), np.zeros((60, 108), np.uint8)
        image[10:30, 8 + 4 * t : 36 + 4 * t], mask[10:30, 8 + 4 * t : 36 + 4 * t] = (0, 0, 250), 7
        if t >= start:
            image[36:52, 60 - 4 * t : 92 - 4 * t] = (250, 0, 0)
            mask[36:52, 60 - 4 * t : 92 - 4 * t] = 9
        frames.append(image)
        ids.append(mask)
    return frames, ids


def overlap(a, b):
    return (a & b).sum() / max(1, (a | b).sum())


@pytest.mark.parametrize('batch', [1, 4])
def test_objects_follow_and_begin_later(batch):
    """Ids 7 and 9: any id, any number; an object starts in the frame that first shows it."""
    cfg = settings(test_batch=batch, test_height=60, test_width=108)
    frames, ids = clip()
    given = {0: ids[0], 3: ids[3]}
    found = list(propagation.propagate(color_network(cfg), cfg, iter(frames), given))
    assert np.array_equal(found[0], ids[0]) and np.array_equal(found[3] == 9, ids[3] == 9)
    for t in range(1, 6):
        assert overlap(found[t] == 7, ids[t] == 7) > 0.7, t
        assert t < 3 or overlap(found[t] == 9, ids[t] == 9) > 0.7
    assert not any((f == 9).any() for f in found[:3])


def test_first_mask_empty_or_late():
    cfg = settings(test_batch=2, test_height=60, test_width=108)
    frames, ids = clip(start=2)
    empty = np.zeros_like(ids[0])
    given = {0: empty, 2: np.where(ids[2] == 9, 9, 0).astype(np.uint8)}
    found = list(propagation.propagate(color_network(cfg), cfg, iter(frames), given))
    assert not found[1].any() and overlap(found[4] == 9, ids[4] == 9) > 0.7
    found = list(propagation.propagate(color_network(cfg), cfg, iter(frames), {2: ids[2]}))
    assert not found[0].any() and np.array_equal(found[2], ids[2])
    whole = np.full_like(ids[0], 3)  # nothing has begun before, even where there is one id alone
    found_whole = list(propagation.propagate(color_network(cfg), cfg, iter(frames), {2: whole}))
    assert not found_whole[1].any() and (found_whole[2] == 3).all()
    assert overlap(found[3] == 7, ids[3] == 7) > 0.7
    with pytest.raises(ValueError, match='its mask is 10x8, the frame 108x60'):
        list(propagation.propagate(color_network(cfg), cfg, iter(frames),
                                   {1: np.ones((8, 10), np.uint8)}))  # fmt: skip


def test_more_objects_than_the_original_allows():
    cfg = settings(test_batch=2, test_height=60, test_width=108)
    frames, _ = clip(3)
    mask = np.zeros((60, 108), np.uint8)
    for k in range(12):
        mask[4 + 4 * k : 8 + 4 * k] = 20 + k
    mask[56:] = 255  # void
    found = list(propagation.propagate(color_network(cfg), cfg, iter(frames), {0: mask}))
    assert set(np.unique(found[2])) <= {0, *range(20, 32)} and len(np.unique(found[0])) >= 12


def test_memory_does_not_grow_with_the_video(monkeypatch):
    cfg = settings(test_batch=2, test_height=60, test_width=108)
    held, merged = [], propagation._labels

    def watched(network, cfg, memory, *rest):
        held.append(len(memory))
        return merged(network, cfg, memory, *rest)

    def votes(query, first, context):
        count = query.shape[0] * query.shape[1]
        return np.ones((count, 1), np.float32), np.arange(count)[:, None]

    monkeypatch.setattr(propagation, '_labels', watched)
    frames, ids = clip(1)
    network = inference.Network(color_network(cfg).features, votes)
    list(propagation.propagate(network, cfg, iter(frames * 60), {0: ids[0]}))
    assert max(held) == held[-1] == 40  # the first frame and the 39 before


def test_resize_aligns_corners():
    image = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    found = propagation.resize_image(image, (5, 7))[..., 0]
    assert found[0, 0] == 0 and found[-1, -1] == 11 and found[2, 3] == 5.5
    with tf.Graph().as_default(), tf.Session() as session:
        tensor = tf.image.resize_bilinear(image[None], [5, 7], align_corners=True)
        np.testing.assert_allclose(found, session.run(tensor)[0, ..., 0], atol=1e-5)


def test_keys_of_the_networks():
    assert propagation.feature_key(settings()) == 'merge'
    assert propagation.feature_key(settings(is_dul=False)) == 'color'
    assert propagation.feature_key(settings(model_size='DUL')) == 'res4'
    with pytest.raises(ValueError, match='was trained with is_dul=false'):
        propagation.feature_key(settings(is_dul=False, key='cls'))
    with pytest.raises(ValueError, match='this network has color, cls'):
        propagation.feature_key(settings(key='res4'))


def test_original_settings(tmp_path):
    folder = Path(config.__file__).parent / 'config'
    for path in sorted(folder.glob('*.json')):
        cfg = config.from_json(config.get_config(), str(path))
        assert cfg.model_size == path.stem[-1] and config.check_settings(cfg) is None
    assert len(list(folder.glob('*.json'))) == 3
    path = tmp_path / 'c.json'
    for text, message in (
        ('{"TEMP": 25, // words\n}', 'is no JSON'), ('{"tempo": 3}', "unknown key 'tempo'"),
        ('{"video_len": 1}', 'video_len = 1'), ('{"is_dul": 1}', 'is_dul = 1'),
        ('{"ohem_range": [0.5, 0.5]}', 'ohem_range'), ('{"model_size": "XL"}', 'model_size'),
        ('{"ohem_range": ["a", 1]}', 'ohem_range'),
        ('{"color_mode": "HSV"}', 'color_mode'), ('[1]', 'is no JSON object'),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            config.from_json(config.get_config(), str(path))
    with pytest.raises(ValueError, match='has no other clip'):
        config.check_settings(settings(batch_size=1))
    with pytest.raises(ValueError, match='multiple of 8'):
        config.check_settings(settings(size=100))
    with pytest.raises(ValueError, match='no preset'):
        config.get_config('tiny')
