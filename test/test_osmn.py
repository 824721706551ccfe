"""OSMN: networks, guides, examples, loss, roll-out, training and the programs, on small shapes.

recorded/osmn_small.npz holds samples of the official code; recorded/osmn_official.py made it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from PIL import Image

from common import coco, davis, masks
from common.videos import binary
from OSMN import backbone, config, data, guides, inference, losses, model, train

RECORDED = np.load(Path(__file__).parent / 'recorded' / 'osmn_small.npz')
TINY = dict(
    height=48, width=64, guide_size=32, channels=0.07, batch_size=2, train_steps=4, log_steps=1,
    checkpoint_steps=2, test_height=48, test_width=80, online_steps=3, device='cpu', workers=2,
    original_mask=False, center_perturb=0.5, std_perturb=1.0, threshold=0.8,  # the heat map
)  # fmt: skip


def tiny(**changes):
    cfg = config.get_config('smoke')
    cfg.update(TINY)
    cfg.update(changes)
    return cfg


def features(batch=1, images=None, height=48, width=64, guide=32):
    draw = np.random.RandomState(1)
    return {
        'guide': draw.uniform(-100, 130, (batch, guide, guide, 3)).astype(np.float32),
        'heat': draw.rand(batch, height, width, 1).astype(np.float32),
        'image': draw.uniform(-100, 130, (images or batch, height, width, 3)).astype(np.float32),
    }


def constants(arrays):
    return {key: tf.constant(value) for key, value in arrays.items()}


def run(build, seed=0):
    """Values of build() with every variable drawn from a seed, statistics positive."""
    with tf.Graph().as_default(), tf.Session() as session:
        fetches = build()
        draw, starts = np.random.RandomState(seed), {}
        for v in sorted(tf.global_variables(), key=lambda v: v.op.name):
            value = draw.randn(*v.shape.as_list()) * 0.2
            value = np.abs(value) + 0.5 if 'variance' in v.op.name else value
            small = 'fc8/weights' in v.op.name or '_out_' in v.op.name  # scales of about 1
            starts[v.initializer.inputs[1]] = value * 1e-6 if small else value
        session.run([v.initializer for v in tf.global_variables()], starts)
        return session.run(fetches)


def variables(cfg):
    with tf.Graph().as_default():
        size = cfg.guide_size
        model.network(constants(features(1, 1, 64, 64, size)), cfg, True)
        return {v.op.name: v.shape.as_list() for v in tf.trainable_variables()}


@pytest.mark.parametrize(
    'base, count', [('osvos', 164922113), ('lite', 12729601), ('deeplab', 187800196)]
)
def test_parameters_and_names_are_the_published_ones(base, count):
    cfg = config.get_config('full')
    cfg.base_model = base
    shapes = variables(cfg)
    assert sum(int(np.prod(s)) for s in shapes.values()) == count
    if base == 'osvos':
        assert shapes['osmn/modulator/fc6/weights'] == [7, 7, 512, 4096]
        assert shapes['osmn/modulator/fc8/biases'] == [3840]
        assert shapes['osmn/modulator_sp/conv4/weights'] == [1, 1, 1, 1536]
        assert shapes['osmn/modulator_sp/conv3/BatchNorm/gamma'] == [768]
        assert shapes['osmn/seg/upscore-fuse/weights'] == [1, 1, 64, 1]
    if base == 'lite':
        assert shapes['osmn/seg/Conv2d_5_depthwise/depthwise_weights'] == [3, 3, 256, 1]
        assert shapes['osmn/Conv2d_out_4/weights'] == [1, 1, 2048, 1024]


def test_flags_change_the_network():
    early = variables(tiny(channels=1.0, early_modulation=True))
    assert early['osmn/modulator/fc8/biases'] == [4224]
    assert early['osmn/modulator_sp/conv1/weights'] == [1, 1, 1, 128]
    plain = variables(tiny(spatial_modulator=False, visual_modulator=False))
    assert not [name for name in plain if 'modulator' in name]


def test_scales_start_at_one():
    with tf.Graph().as_default(), tf.Session() as session:
        scales = model.visual_modulator(tf.constant(features()['guide']), tiny(), False)
        session.run(tf.global_variables_initializer())
        assert (session.run(scales) == 1).all()


@pytest.mark.parametrize('base', ['osvos', 'deeplab', 'masktrack', 'lite'])
def test_objects_together_equal_objects_alone(base):
    """One image shared by three heat maps: what inference.py relies on."""
    size = dict(height=64, width=64) if base == 'lite' else {}
    inputs = features(3, 1, **size)
    last = {key: value if key == 'image' else value[2:] for key, value in inputs.items()}

    def build():
        cfg = tiny(base_model=base)
        return [model.network(constants(x), cfg, False)['logits'] for x in (inputs, last)]

    together, alone = run(build)
    assert np.abs(alone).max() > 1e-3
    assert np.abs(together[2] - together[1]).max() > 1e-3 * np.abs(alone).max()
    np.testing.assert_allclose(together[2], alone[0], rtol=1e-4, atol=1e-5)


def test_masktrack_pads_to_the_aligned_size():
    inputs = features(1, 1, 40, 60)

    def logits(size):
        cfg = tiny(base_model='masktrack', aligned_size=size)
        with tf.Graph().as_default():
            return model.network(constants(inputs), cfg, False)['logits']

    for size in ([], [41, 65]):
        assert logits(size).shape.as_list() == [1, 40, 60, 1]
    with pytest.raises(ValueError, match='smaller than the image'):
        logits([39, 65])
    padded = model._with_mask(
        *(tf.ones([1, 40, 60, n]) for n in (3, 1)), tiny(aligned_size=[41, 65])
    )
    assert padded.shape.as_list() == [1, 41, 65, 4]


def test_lite_takes_multiples_of_32():
    with pytest.raises(ValueError, match=r'multiples of 32, not \[48, 64\]'):
        run(lambda: model.network(constants(features()), tiny(base_model='lite'), False)['logits'])
    cfg = tiny(base_model='lite', test_height=256, test_width=0)
    assert data.network_size((480, 854), cfg) == (
        256, 448,
    )  # fmt: skip


@pytest.mark.parametrize('rate', [2, 6])
def test_dilated_gradients_equal_the_built_in_ones(rate):
    draw = np.random.RandomState(0)
    x, w, dy = (
        draw.randn(*s).astype(np.float32) for s in ((2, 9, 11, 5), (3, 3, 5, 4), (2, 9, 11, 4))
    )
    with tf.Graph().as_default(), tf.Session() as session:
        x, w, dy = (tf.constant(a) for a in (x, w, dy))
        plain = tf.nn.convolution(x, w, 'SAME', dilation_rate=[rate, rate])
        ours = backbone._conv_dilated(x, w, rate)
        pairs = [(ours, plain)] + list(zip(*(tf.gradients(y, [x, w], dy) for y in (ours, plain))))
        for a, b in session.run(pairs):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_fast_gradients_equal_the_built_in_ones(monkeypatch):
    def gradients(fast):
        monkeypatch.setattr(backbone, 'slow_gradients', lambda cfg: fast)

        def build():
            y = backbone.vgg16(tf.constant(features()['image']), tiny())
            return tf.gradients([tf.reduce_sum(m * m) for m in y], tf.trainable_variables())

        return run(build)

    for fast, plain in zip(gradients(True), gradients(False)):
        np.testing.assert_allclose(fast, plain, rtol=2e-4, atol=2e-5 * np.abs(plain).max())


def test_dropout_only_while_training():
    arrays = features()

    def scales(training):
        cfg = tiny(channels=0.2)
        with tf.Graph().as_default(), tf.Session() as session:
            output = model.visual_modulator(tf.constant(arrays['guide']), cfg, training)
            session.run(tf.global_variables_initializer())
            for v in tf.trainable_variables():
                if 'fc8/weights' in v.op.name:
                    v.load(np.full(v.shape.as_list(), 0.1, np.float32), session)
            return [session.run(output) for _ in range(2)]

    first, second = scales(False)
    assert np.array_equal(first, second)
    first, second = scales(True)
    assert not np.allclose(first, second)


@pytest.mark.parametrize('fixed', [False, True])
def test_moving_statistics_move_unless_fixed(fixed):
    with tf.Graph().as_default(), tf.Session() as session:
        model.network(constants(features()), tiny(fix_bn=fixed), True)
        moving = [v for v in tf.global_variables() if 'moving' in v.op.name]
        session.run(tf.global_variables_initializer())
        before = session.run(moving)
        session.run([tf.assign(*pair) for pair in backbone.moving_statistics()])
        changed = [not np.array_equal(a, b) for a, b in zip(before, session.run(moving))]
    assert len(changed) == 6 and changed == [not fixed] * 6


def test_fixed_segmentation_net_keeps_its_layers():
    with tf.Graph().as_default():
        model.network(constants(features()), tiny(), True)
        names = {v.op.name for v in train.trained_variables(tiny(fix_seg=True))}
        everything = train.trained_variables(tiny())
        assert everything == tf.trainable_variables()
    assert {n for n in names if 'osmn/seg' in n} == {
        'osmn/seg/upscore-fuse/weights', 'osmn/seg/upscore-fuse/biases',
    }  # fmt: skip
    assert 'osmn/modulator/conv1/conv1_1/weights' in names


def test_loss_is_the_balanced_sum():
    draw = np.random.RandomState(0)
    x, y = draw.randn(2, 5, 7, 1), draw.rand(2, 5, 7, 1) < 0.3
    entropy = np.log1p(np.exp(-np.where(y, x, -x)))
    share = y.mean()
    expected = (1 - share) * entropy[y].sum() + share * entropy[~y].sum()
    with tf.Graph().as_default(), tf.Session() as session:
        logits, mask = tf.constant(x.astype(np.float32)), tf.constant(y.astype(np.float32))
        total, mean, none = session.run(
            [
                losses.balanced_bce([logits], [mask], 1),
                losses.balanced_bce([logits], [mask]),
                losses.balanced_bce([logits], [tf.zeros_like(mask)]),
            ]
        )
    assert total == pytest.approx(expected, rel=1e-6) and none == 0
    assert mean == pytest.approx(expected / 70, rel=1e-6)


def test_classes_are_balanced_over_the_whole_batch():
    """Parts of several sizes, one without the object: as if their pixels were one batch's."""
    draw = np.random.RandomState(0)
    sizes = ((2, 5, 7, 1), (1, 3, 4, 1), (1, 9, 11, 1))
    x = [draw.randn(*size) for size in sizes]
    y = [draw.rand(*size) < share for size, share in zip(sizes, (0.3, 0.0, 0.7))]
    flat = [np.concatenate([part.ravel() for part in parts]) for parts in (x, y)]
    entropy = np.log1p(np.exp(-np.where(flat[1], flat[0], -flat[0])))
    weights = np.where(flat[1], 1 - flat[1].mean(), flat[1].mean())
    with tf.Graph().as_default(), tf.Session() as session:
        outputs = {f'logits_{k}': tf.constant(part.astype(np.float32)) for k, part in enumerate(x)}
        labels = {f'mask_{k}': tf.constant(part.astype(np.float32)) for k, part in enumerate(y)}
        for pixels, divisor in ((100, 100), (0, len(entropy))):
            found = losses.losses(outputs, labels, tiny(loss_pixels=pixels))['total']
            expected = (weights * entropy).sum() / divisor
            assert session.run(found) == pytest.approx(expected, rel=1e-6)


def part_of(arrays, k, rows):
    return {f'{key}_{k}': tf.constant(value[rows]) for key, value in arrays.items()}


def test_a_split_batch_is_one_batch():
    """Two and one and one images of one size against the four together: the same loss, gradients
    and statistics, which are updated once."""
    arrays = features(4)
    arrays['mask'] = (arrays['heat'] > 0.8).astype(np.float32)
    arrays['mask'][3] = arrays['heat'][3] > 0.2  # what balances each part alone differs
    arrays['heat'][0] *= 0.1

    def build(cuts):
        def values():
            cfg = tiny(dropout=0.0)
            merged = {}
            for k, rows in enumerate(cuts):
                merged.update(part_of(arrays, k, rows))
            labels = {key: merged.pop(key) for key in list(merged) if key.startswith('mask')}
            loss = train.loss_of(merged, labels, cfg)
            updates = [tf.assign(*pair) for pair in backbone.moving_statistics()]
            assert len(updates) == 6  # mean and variance of three stages, once
            kinds = ('modulator_sp/', 'fc8/', 'upscore-fuse/', 'seg/conv5/conv5_3/')
            chosen = [v for v in tf.trainable_variables() if any(k in v.op.name for k in kinds)]
            return loss, tf.gradients(loss, chosen), updates

        return values

    whole = run(build([slice(0, 4)]))
    split = run(build([slice(0, 2), slice(2, 3), slice(3, 4)]))
    assert split[0] == pytest.approx(whole[0], rel=1e-5)
    for mine, theirs in zip(split[1], whole[1]):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())
    for mine, theirs in zip(split[2], whole[2]):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-7)


def test_shifts_are_those_of_a_normalised_convolution():
    """The map and the statistics of a 1x1 convolution and tf.nn.fused_batch_norm, which the
    official code has."""
    heat = features(3)['heat']

    def ours():
        shifts = model.spatial_modulator([tf.constant(heat)], tiny(), True)[0]
        moved = [tf.assign(*pair) for pair in backbone.moving_statistics()]
        return tf.concat(shifts[3], 3), moved[:2]

    def official():
        model.spatial_modulator([tf.constant(heat)], tiny(), True)
        found = {v.op.name: v for v in tf.global_variables()}
        weights, beta, gamma, mean, variance = (
            found[f'osmn/modulator_sp/conv3/{name}']
            for name in ('weights', 'BatchNorm/beta', 'BatchNorm/gamma', 'BatchNorm/moving_mean',
                         'BatchNorm/moving_variance')
        )  # fmt: skip
        x = tf.constant(heat)
        for _ in range(2):
            x = tf.nn.avg_pool2d(x, 2, 2, 'SAME')
        y = tf.nn.conv2d(x, weights, 1, 'SAME')
        y, *batch = tf.nn.fused_batch_norm(y, gamma, beta, epsilon=1e-3)
        moved = [old * 0.95 + new * 0.05 for old, new in zip((mean, variance), batch)]
        return tf.nn.relu(y), moved

    for mine, theirs in zip(run(ours), run(official)):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_update_is_that_of_the_summed_loss(monkeypatch):
    """Loss, decay and Adam's epsilon divided by one number: the same update, safe for float16.

    Shown in float64 with given gradients of the loss, tiny ones among them: Adam makes steps of the
    whole learning rate even of rounding noise, so that those of float32 gradients differ from
    machine to machine."""
    pixels = 6144
    draw = np.random.RandomState(0)
    gradient = draw.randn(50) * 10.0 ** draw.uniform(-9, 3, 50)
    start = draw.randn(50)

    def updated(divisor):
        cfg = tiny(weight_decay=2e-4 / divisor, adam_epsilon=1e-8 / divisor, learning_rate=1e-3)
        with tf.Graph().as_default(), tf.Session() as session:
            weights = tf.Variable(start, name='osmn/seg/fc/weights')
            scaled = [(tf.constant(gradient / divisor), weights)]
            optimizer = tf.train.AdamOptimizer(cfg.learning_rate, epsilon=cfg.adam_epsilon)
            step = optimizer.apply_gradients(train.decayed_gradients(scaled, cfg))
            session.run(tf.global_variables_initializer())
            for _ in range(3):
                session.run(step)
            return session.run(weights)

    plain, safe = updated(1), updated(pixels)
    assert np.abs(plain - start).max() > 1e-3
    np.testing.assert_allclose(safe, plain, rtol=1e-9)
    found = config.get_config('full')
    assert found.weight_decay * found.loss_pixels == pytest.approx(2e-4)
    assert found.adam_epsilon * found.loss_pixels == pytest.approx(1e-8)


def test_the_model_function_only_trains():
    with pytest.raises(ValueError, match=r'inference.load\(\) segments'):
        train.model_fn({}, {}, 'eval', tiny())


def test_rate_falls_after_the_boundary():
    cfg = config.get_config('full')
    with tf.Graph().as_default(), tf.Session() as session:
        step = tf.placeholder(tf.int64, [])
        rate = train.learning_rate(step, cfg)
        rates = [session.run(rate, {step: s}) for s in (0, 199999, 200000, 299999)]
    np.testing.assert_allclose(rates, [1e-5, 1e-5, 1e-6, 1e-6], rtol=1e-6)


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """The recorded images as files: {'guide': path, 'guide_mask': ...}."""
    folder, found = tmp_path_factory.mktemp('images'), {}
    for name in ('guide', 'previous', 'now'):
        found[name] = str(folder / f'{name}.png')
        masks.write_image(found[name], np.ascontiguousarray(RECORDED[f'sample/{name}'][..., ::-1]))
        found[f'{name}_mask'] = str(folder / f'{name}_mask.png')
        masks.write_mask(found[f'{name}_mask'], RECORDED[f'sample/{name}_mask'])
    return found


@pytest.mark.parametrize('i', range(6))
@pytest.mark.parametrize('kind', ['davis', 'coco'])
def test_samples_equal_the_official_ones(images, kind, i):
    cfg = config.get_config('full')
    cfg.update(guide_size=64, guide_aspect=i == 4)
    if kind == 'davis':
        names = ('guide', 'guide_mask', 'previous_mask', 'now', 'now_mask')
        item = data.VideoItem(*(images[n] for n in names), 0)
    else:
        mask = np.asfortranarray(RECORDED['sample/now_mask'])
        counts = data.rle.encode(mask)['counts'].decode()
        item = data.CocoItem(images['now'], *mask.shape, counts)
    ours = data.example(item, (40, 72), cfg, guides.draws_of(RECORDED[f'sample/{i}/draws']))
    for key, mine in zip(('guide', 'heat', 'image', 'mask'), ours):
        theirs = RECORDED[f'sample/{i}/{kind}/{key}'].astype(np.float32)
        mine = mine[..., 0] if mine.shape[-1] == 1 else mine
        if key == 'heat':
            np.testing.assert_allclose(mine, theirs, atol=1e-7)
        else:
            assert np.array_equal(mine, theirs), key


@pytest.mark.parametrize('i', range(6))
def test_masks_as_guides_equal_the_official_ones(i):
    cfg = config.get_config('full')
    cfg.original_mask = True
    mask = guides.resize_mask(RECORDED['sample/previous_mask'], (40, 72))
    ours = data.spatial_guide(mask, cfg, guides.draws_of(RECORDED[f'sample/{i}/draws']))
    assert np.array_equal(ours, RECORDED[f'sample/{i}/davis/dilated'])
    assert not np.array_equal(ours, data.spatial_guide(mask, cfg))


def test_the_least_mask_is_still_a_guide():
    cfg = tiny(original_mask=True, std_perturb=3.0)
    mask = np.zeros((40, 72), np.uint8)
    mask[20, 36] = 1
    zeros = guides.draws_of(np.zeros(guides.COUNT))
    assert data.spatial_guide(mask, cfg, zeros).any()
    assert not data.spatial_guide(np.zeros_like(mask), cfg, zeros).any()  # the object has vanished


def test_heat_map_of_hard_masks():
    mask = np.zeros((20, 30), np.uint8)
    assert not guides.heat_map(mask).any()  # the object has vanished
    mask[7, 11] = 1
    heat = guides.heat_map(mask)
    assert heat[7, 11] == 1 and heat[7, 16] == pytest.approx(
        np.exp(-0.5), rel=1e-6
    )  # 5 px at least
    points = np.random.RandomState(0).rand(20, 30) < 0.2
    positions = np.argwhere(points)[:, ::-1].astype(np.float32)
    center = np.median(positions, 0)
    spread = np.maximum(1.4826 * np.median(np.abs(positions - center), 0), 5)
    y, x = np.mgrid[:20, :30]
    expected = np.exp(
        -0.5 * (((x - center[0]) / spread[0]) ** 2 + ((y - center[1]) / spread[1]) ** 2)
    )
    np.testing.assert_allclose(guides.heat_map(points.astype(np.uint8)), expected, atol=1e-6)


def test_guide_of_hard_masks():
    cfg = tiny()
    image = np.full((20, 30, 3), 200, np.uint8)
    mask = np.zeros((20, 30), np.uint8)
    assert guides.box(mask) == (0, 0, 30, 20)
    assert not guides.guide(image, mask, cfg).any()
    mask[5, 6] = 1
    assert guides.guide(image, mask, cfg).shape == (32, 32, 3)  # one pixel
    assert guides.guide(image, mask, tiny(box_guide=True)).all()
    grown = guides.dilate(mask)
    assert grown[10, 6] == 255 and grown[11, 6] == 0 and grown[9, 10] == 0


@pytest.mark.parametrize('size', [(224, 224), (31, 17), (90, 150), (1, 3), (60, 45)])
def test_images_are_resized_as_pillow_does(size):
    """To the bit as the versions this was recorded and tried with, 9.5 and 13."""
    image = np.random.RandomState(0).randint(0, 256, (60, 90, 3)).astype(np.uint8)
    theirs = np.asarray(Image.fromarray(image).resize(size[::-1], Image.BILINEAR))
    assert np.array_equal(guides.resize_image(image, size), theirs)
    assert np.array_equal(guides.crop(image, (-3, 5, 95, 20)),
                          np.asarray(Image.fromarray(image).crop((-3, 5, 95, 20))))  # fmt: skip


def test_guides_do_not_ask_pillow_for_the_resize(monkeypatch):
    image = np.random.RandomState(0).randint(0, 256, (60, 90, 3)).astype(np.uint8)
    mask = np.zeros((60, 90), np.uint8)
    mask[10:40, 20:70] = 1
    plain = Image.Image.resize
    monkeypatch.setattr(
        Image.Image,
        'resize',
        lambda self, size, how: (
            plain(self, size, how) if self.mode == 'L' else pytest.fail('an image')
        ),
    )
    first = guides.guide(image, mask, tiny())
    draws = guides.draws_of(np.random.RandomState(1).rand(guides.COUNT))
    assert first.shape == guides.guide(image, mask, tiny(guide_aspect=True), draws).shape


def test_perturbed_mask_moves_and_grows():
    mask = np.zeros((40, 60), np.uint8)
    mask[10:21, 20:41] = 1
    same = guides.perturb(mask, 1.0, np.array([0.5, 0.5]), 0.2)
    assert np.array_equal(same, mask)
    moved = guides.perturb(mask, 1.2, np.array([1.0, 0.5]), 0.2)
    assert moved.sum() > 1.3 * mask.sum() and guides.box(moved)[0] > 20


def test_batches_are_split_over_the_scales():
    cfg = config.get_config('full')
    assert data.scaled_sizes(cfg) == [(320, 320), (400, 400), (480, 480)]
    assert data.parts(cfg) == [3, 3, 2]
    cfg = config.get_config('davis')
    assert data.scaled_sizes(cfg) == [(240, 427), (384, 683), (480, 854)]
    with pytest.raises(ValueError, match='batch_size=2 is less than the 3 scales'):
        data.parts(tiny(scales=[0.5, 0.8, 1.0]))
    cfg = tiny(scales=[0.5, 1.0], batch_size=3, examples=list(range(9)))
    streams = [data.training_samples(cfg, k) for k in range(2)]
    seen = [
        i
        for _ in range(3)
        for k, n in ((0, 2), (1, 1))
        for i, _ in (next(streams[k]) for _ in range(n))
    ]
    assert sorted(seen) == list(range(9))  # an epoch: each example once, at one scale


def test_cards_share_an_epoch_evenly(monkeypatch):
    cfg, shares = tiny(examples=list(range(10)), scales=[1.0]), []
    for number in range(4):
        monkeypatch.setenv('RANK_ID', str(number))
        monkeypatch.setenv('RANK_SIZE', '4')
        shares.append([s[0] for _, s in zip(range(3), data.training_samples(cfg, 0))])
    assert set(sum(shares, [])) == set(range(10))  # 12 places for 10 examples


@pytest.mark.parametrize('cards', [1, 3])
def test_a_resumed_run_takes_the_same_examples(cards, monkeypatch):
    """The examples, and their draws, of 5 updates and then of 4 are those of 9 together."""
    monkeypatch.setenv('RANK_SIZE', str(cards))
    monkeypatch.setenv('RANK_ID', str(cards - 1))

    def taken(first, updates):
        cfg = tiny(scales=[0.5, 1.0, 0.8], batch_size=4, examples=list(range(7)), start_step=first)
        found = []
        for k, count in enumerate(data.parts(cfg)):
            stream = data.training_samples(cfg, k)
            found.append([next(stream) for _ in range(updates * count)])
        return found

    for first, second, whole in zip(taken(0, 5), taken(5, 4), taken(0, 9)):
        assert [i for i, _ in first + second] == [i for i, _ in whole]
        assert all(np.array_equal(a[1], b[1]) for a, b in zip(first + second, whole))
    every = [tuple(draws) for part in taken(0, 9) for _, draws in part]
    assert len(set(every)) == len(every)  # no two examples have the same draws


def test_examples_have_static_shapes(drawn):
    cfg = tiny(scales=[0.5, 1.0])
    cfg.examples = data.examples(drawn['coco'], cfg)
    with tf.Graph().as_default(), tf.Session() as session:
        inputs, labels = tf.data.make_one_shot_iterator(data.input_fn(cfg, True)).get_next()
        shapes = {k: v.shape.as_list() for k, v in {**inputs, **labels}.items()}
        values = session.run({**inputs, **labels})
    assert shapes['image_0'] == [1, 24, 32, 3] and shapes['mask_1'] == [1, 48, 64, 1]
    assert shapes['guide_1'] == [1, 32, 32, 3] and set(np.unique(values['mask_1'])) <= {0.0, 1.0}
    assert values['heat_1'].min() >= 0 and values['heat_1'].max() <= 1


def test_examples_that_are_not_for_training_come_once(drawn):
    cfg = tiny()
    cfg.examples = data.examples(drawn['coco'], cfg)[:3]
    with tf.Graph().as_default(), tf.Session() as session:
        inputs, _ = tf.data.make_one_shot_iterator(data.input_fn(cfg, False)).get_next()
        assert inputs['image_0'].shape.as_list() == [1, 48, 64, 3]
        values = [session.run(inputs)['image_0'] for _ in cfg.examples]
        with pytest.raises(tf.errors.OutOfRangeError):  # each example once
            session.run(inputs)
    for item, image in zip(cfg.examples, values):
        assert np.array_equal(data.example(item, (48, 64), cfg)[2], image[0])  # not augmented


def test_coco_list_leaves_out_crowds_and_small_objects(drawn, tmp_path):
    cfg = tiny()
    root = Path(shutil.copytree(drawn['coco'], str(tmp_path / 'coco')))
    path = root / 'annotations' / 'instances_train2017.json'
    content = json.loads(path.read_text())
    height, width = 180, 320
    outside = dict(content['annotations'][0], id=990, segmentation=[[330, 0, 400, 0, 400, 90]])
    half = dict(outside, id=991, segmentation=[[300, 0, 340, 0, 340, 180, 300, 180]])
    content['annotations'] += [outside, half]
    path.write_text(json.dumps(content))
    found = data.coco_list(str(root), 'train2017', cfg)
    everything = coco.index(str(root), 'train2017').anns.values()
    areas = [
        (not a['iscrowd']) * coco.mask(a, height, width).sum() > 0.03 * height * width
        for a in everything
    ]
    assert len(found) == sum(areas) < len(areas)
    cut = [item for item in found if data.load_coco(item)[1][:, :299].sum() == 0]
    assert len(cut) == 1 and data.load_coco(cut[0])[1].shape == (height, width)
    content['annotations'][0]['image_id'] = 12345
    path.write_text(json.dumps(content))
    coco.index.cache_clear()
    with pytest.raises(ValueError, match=r'instance 1 is of image 12345, not there'):
        data.coco_list(str(root), 'train2017', cfg)
    content['annotations'][0]['image_id'] = 1
    path.write_text(json.dumps(content))
    coco.index.cache_clear()
    (root / 'train2017' / '000000000003.jpg').unlink()
    with pytest.raises(FileNotFoundError, match='3 of train2017 is missing'):
        data.coco_list(str(root), 'train2017', cfg)
    coco.index.cache_clear()


def test_lists_are_kept_by_path_and_settings(drawn, tmp_path, monkeypatch):
    cfg = tiny()
    first = data.examples(drawn['coco'], cfg, str(tmp_path))
    monkeypatch.setattr(data, 'coco_list', lambda *_: pytest.fail('made again'))
    assert data.examples(drawn['coco'], cfg, str(tmp_path)) == first
    monkeypatch.undo()
    assert len(list(tmp_path.glob('examples_*.json'))) == 1
    assert len(data.examples(drawn['coco'], tiny(foreground=0.0), str(tmp_path))) > len(first)
    assert len(list(tmp_path.glob('examples_*.json'))) == 2
    copy = Path(shutil.copytree(drawn['coco'], str(tmp_path / 'coco')))
    one = data.examples(str(copy), cfg, str(tmp_path))
    path = copy / 'annotations' / 'instances_train2017.json'
    content = json.loads(path.read_text())
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] > 6]
    path.write_text(json.dumps(content))
    coco.index.cache_clear()
    assert 0 < len(data.examples(str(copy), cfg, str(tmp_path))) < len(one)  # the file is newer
    with pytest.raises(ValueError, match='no examples of coco .* no object passes'):
        data.examples(drawn['coco'], tiny(foreground=1.0), str(tmp_path))


def test_davis_list_follows_each_object(drawn, tmp_path):
    root = Path(shutil.copytree(drawn['davis2017'], str(tmp_path / 'DAVIS')))
    cfg = tiny(dataset='davis', year='2017')
    paths = davis.masks(str(root), 'drawn-a')
    mask = masks.read_mask(paths[4])
    masks.write_mask(paths[4], np.where(mask == 2, 255, mask).astype(np.uint8))  # void
    masks.write_mask(paths[7], np.where(mask > 0, 255, 0).astype(np.uint8))  # nothing but void
    found = {
        (Path(track.pairs[0][1]).parent.name, track.number): track
        for track in data.video_list(str(root), 'train', cfg)
    }
    first = [Path(frame).stem for frame, _ in found['drawn-a', 1].pairs]
    assert '00004' in first and '00007' not in first
    track = found['drawn-a', 2]
    frames = [Path(frame).stem for frame, _ in track.pairs]
    assert not {'00004', '00007'} & set(frames) and len(frames) == 8
    for k, (_, path) in enumerate(track.pairs):
        assert (k in track.good) == data.good_guide(binary(masks.read_mask(path), 2), cfg)
    items = [i for i in data.examples(str(root), cfg) if 'drawn-a' in i.guide and i.number == 2]
    assert len(items) == 7
    assert [Path(i.previous_mask).stem for i in items] == frames[:-1]
    assert [Path(i.frame).stem for i in items] == frames[1:]
    plain = data.examples(str(root), tiny(dataset='davis', randomize_guide=False))
    assert {Path(i.guide).stem for i in plain} == {'00000'}
    union = data.examples(str(root), tiny(dataset='davis', year='2016'))
    assert {i.number for i in union} == {0}


def test_youtube_list_takes_the_frames_of_meta(drawn):
    cfg = tiny(dataset='youtube_vos')
    found = data.video_list(drawn['youtube_vos'], 'train', cfg)
    assert {track.number for track in found} == {1, 2}
    assert all(int(Path(frame).stem) % 5 == 0 for track in found for frame, _ in track.pairs)


def test_merging_takes_the_likeliest():
    cfg = tiny(threshold=0.5)
    first = np.array([[0.4, 0.9, 0.6, 0.2]], np.float32)
    last = np.array([[0.3, 0.8, 0.7, 0.6]], np.float32)
    assert inference.merge({2: first, 10: last}, cfg).tolist() == [[0, 2, 10, 10]]


def blob_video(numbers, frames=4):
    draw = np.random.RandomState(0)
    images = [draw.randint(0, 255, (50, 90, 3)).astype(np.uint8) for _ in range(frames)]
    ids = np.zeros((50, 90), np.uint8)
    for i, n in enumerate(numbers):
        ids[5 + 8 * (i % 5) : 11 + 8 * (i % 5), 6 * i : 6 * i + 5] = n
    return images, ids


@pytest.fixture(scope='module')
def untrained(tmp_path_factory):
    """(settings, checkpoint folder) of a network with random weights."""
    folder = tmp_path_factory.mktemp('untrained')
    cfg = tiny(init_std=0.5)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(5)
        model.network(constants(features()), cfg, False)
        tf.train.create_global_step()
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(folder / 'model.ckpt'), 0)
    return cfg, str(folder)


def test_roll_out_of_objects_that_come_and_go(untrained, monkeypatch):
    cfg, folder = untrained
    images, ids = blob_video([1, 2])
    later = np.where(ids == 2, 3, 0).astype(np.uint8)
    later[0, 0] = 255
    with inference.load(folder, cfg) as network:
        steps = list(inference.roll_out(network, cfg, images, {0: ids, 2: later}))
        assert [sorted(maps) for _, maps in steps] == [[1, 2], [1, 2], [1, 2, 3], [1, 2, 3]]
        assert set(np.unique(steps[2][1][3])) == {0.0, 1.0} and steps[3][1][3].shape == (48, 80)
        results = list(inference.segment(network, cfg, images, {0: ids, 2: later}))
        assert np.array_equal(results[0], ids) and (results[2] == 3)[later == 3].all()
        assert len(results) == 4 and results[3].shape == (50, 90)
        seen = []
        monkeypatch.setattr(
            data, 'spatial_guide', lambda m, c: seen.append(m.any()) or np.zeros(m.shape, 'f')
        )
        cfg = tiny(threshold=2.0)  # no object is ever found again
        lost = list(inference.roll_out(network, cfg, images, {0: ids}))
        assert seen[-1] == np.False_ and lost[-1][1][1].min() >= 0


def test_networks_of_single_objects_are_merged():
    """{object id: network}, as after online training, against one network of all."""
    network = inference.Network(
        lambda image, heats, scales: np.roll(heats[..., 0] / 255 * 0.95, 3, axis=2),
        lambda found: found.mean((1, 2, 3))[:, None],
    )
    cfg = tiny(original_mask=True, threshold=0.5)
    images, ids = blob_video([1, 2, 12])
    later = np.where(ids == 2, 7, 0).astype(np.uint8)
    given = {0: ids, 2: later}
    together = list(inference.segment(network, cfg, images, given))
    alone = {number: network for number in (1, 2, 7, 12)}
    apart = list(inference.segment(alone, cfg, images, given))
    assert len(together) == 4 and {1, 2, 7, 12} == set(np.unique(together[2])) - {0}
    assert all(np.array_equal(a, b) for a, b in zip(together, apart))


def test_many_objects_in_groups_equal_one_by_one(untrained):
    cfg, folder = untrained
    numbers = list(range(1, 13))
    images, ids = blob_video(numbers)
    with inference.load(folder, cfg) as network:
        found = []
        for objects in (5, 1):
            own = type(cfg)(cfg, objects=objects)
            found.append(list(inference.roll_out(network, own, images, {0: ids}))[-1][1])
    assert list(found[0]) == numbers
    for n in numbers:
        np.testing.assert_allclose(found[0][n], found[1][n], atol=1e-4)


def test_loading_refuses_other_weights(untrained):
    cfg, folder = untrained
    wider = inference.load(folder, type(cfg)(cfg, channels=0.1))
    with pytest.raises(ValueError, match='is not of this network'), wider:
        pass
    with pytest.raises(FileNotFoundError, match='no checkpoint at'):
        inference.load(folder + '/none', cfg).__enter__()
