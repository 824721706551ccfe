"""OSVOS: network, losses, data, schedules, training and prediction, on small shapes.

recorded/osvos_small.npz holds what the official OSVOS-PyTorch answered; recorded/osvos_official.py
made it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from common import davis, masks, videos, weights
from OSVOS import (
    backbone,
    config,
    data,
    evaluate,
    export,
    inference,
    losses,
    model,
    npu,
    online,
    optimizer,
    train,
)  # fmt: skip

REFERENCE = tf.__version__.startswith('1.')
learns = pytest.mark.skipif(not REFERENCE, reason='learning is tested on the reference stack')
RECORDED = np.load(Path(__file__).parent / 'recorded' / 'osvos_small.npz')
TINY = dict(
    height=48,
    width=80,
    channels=0.07,
    batch_size=2,
    train_steps=4,
    log_steps=1,
    checkpoint_steps=2,
    online_steps=3,
    device='cpu',
)


def tiny(**changes):
    cfg = config.get_config('smoke')
    cfg.update(TINY)
    cfg.update(changes)
    return cfg


def run(build, weights=None, seed=0):
    """Values of build() with every trainable variable drawn from a seed."""
    with tf.Graph().as_default(), tf.Session() as session:
        fetches = build()
        session.run(tf.global_variables_initializer())
        draw = np.random.RandomState(seed)
        for v in sorted(tf.trainable_variables(), key=lambda v: v.op.name):
            v.load((draw.randn(*v.shape.as_list()) * 0.2).astype(np.float32), session)
        return session.run(fetches)


def images(*shape):
    return tf.constant(np.random.RandomState(1).uniform(-100, 130, shape).astype(np.float32))


def test_parameters_and_names_are_those_of_the_paper():
    with tf.Graph().as_default():
        model.network({'image': tf.zeros([1, 64, 64, 3])}, config.get_config('full'), True)
        shapes = {v.op.name: v.shape.as_list() for v in tf.trainable_variables()}
    assert sum(int(np.prod(s)) for s in shapes.values()) == 14917637  # VGG + prep + dsn + fuse
    assert shapes['osvos/conv1/conv1_1/weights'] == [3, 3, 3, 64]
    assert shapes['osvos/conv4_3_16/weights'] == [3, 3, 512, 16]
    assert shapes['osvos/score-dsn_2/biases'] == [1]
    assert shapes['osvos/upscore-fuse/weights'] == [1, 1, 64, 1]


def test_dense_form_has_the_fixed_kernels():
    cfg = config.get_config('full')
    cfg.upsampling = 'dense'
    with tf.Graph().as_default():
        model.network({'image': tf.zeros([1, 64, 64, 3])}, cfg, True)
        fixed = [v for v in tf.global_variables() if v.op.name.endswith('-up/weights')]
        assert sum(v.shape.num_elements() for v in fixed) == 349520
        assert not set(fixed) & set(tf.trainable_variables())


@pytest.mark.parametrize('size', [(64, 96), (61, 83), (48, 107)])
@pytest.mark.parametrize('crop', ['center', 'aligned'])
def test_fused_upsampling_equals_the_plain_form(size, crop, monkeypatch):
    def pooled(image, cfg):  # five maps of VGG's strides, at once
        maps = [image]
        for _ in range(4):
            maps.append(tf.nn.max_pool2d(maps[-1], 2, 2, 'SAME'))
        return maps

    monkeypatch.setattr(model, 'vgg16', pooled)

    def outputs(form):
        cfg = tiny(upsampling=form, crop=crop)
        return run(lambda: model.network({'image': images(2, *size, 3)}, cfg, True))

    fused, dense = outputs('bilinear'), outputs('dense')
    for key in model.OUTPUTS:
        assert fused[key].shape == (2, *size, 1)
        np.testing.assert_allclose(
            fused[key], dense[key], rtol=1e-5, atol=1e-5 * np.abs(dense[key]).max()
        )


@pytest.mark.parametrize(
    'stride, cells, size, start',
    [(2, 427, 854, 1), (4, 214, 854, 3), (8, 107, 854, 5), (16, 54, 854, 13), (16, 30, 480, 8)],
)
def test_crop_offsets_of_480p(stride, cells, size, start):
    found = model.crop_start(cells, size, stride, 'center')
    assert found == start  # measured on the official code
    assert model.crop_start(cells, size, stride, 'aligned') == stride // 2
    with pytest.raises(ValueError, match="'center' or 'aligned'"):
        model.crop_start(cells, size, stride, 'middle')


def test_aligned_crop_puts_cells_over_their_pixels():
    matrix = model.bilinear_matrix(10, 80, 8, 'aligned')
    centers = (matrix * np.arange(80)[:, None]).sum(0) / matrix.sum(0)
    np.testing.assert_allclose(centers[1:-1], np.arange(10)[1:-1] * 8 + 3.5, atol=1e-4)


def test_fast_gradients_equal_the_built_in_ones(monkeypatch):
    def gradients(fast):
        monkeypatch.setattr(backbone, 'slow_gradients', lambda cfg: fast)

        def build():
            cfg = tiny(channels=0.1)
            y = backbone.vgg16(images(2, 45, 38, 3), cfg)
            return tf.gradients([tf.reduce_sum(m * m) for m in y], tf.trainable_variables())

        return run(build)

    for fast, plain in zip(gradients(True), gradients(False)):
        np.testing.assert_allclose(fast, plain, rtol=2e-4, atol=2e-5 * np.abs(plain).max())


@pytest.mark.parametrize('i', range(4))  # few, half, no and only object pixels
def test_loss_equals_the_official_one(i):
    logits, mask = (RECORDED[f'loss{i}/{k}'].transpose(0, 2, 3, 1) for k in ('logits', 'mask'))
    with tf.Graph().as_default(), tf.Session() as session:
        x = tf.constant(logits)
        loss = losses.balanced_bce(x, tf.constant(mask), pixels=1)  # pixels=1: the official sum
        value, gradient = session.run([loss, tf.gradients(loss, x)[0]])
    official = RECORDED[f'loss{i}/gradient'].transpose(0, 2, 3, 1)
    assert value == pytest.approx(float(RECORDED[f'loss{i}/value']), rel=2e-6, abs=1e-6)
    np.testing.assert_allclose(gradient, official, rtol=1e-4, atol=1e-6)


def test_loss_by_groups_is_the_mean_of_single_losses():
    draw = np.random.RandomState(0)
    logits, mask = (
        draw.randn(4, 6, 7, 1).astype(np.float32),
        (draw.rand(4, 6, 7, 1) < 0.3).astype(np.float32),
    )
    with tf.Graph().as_default(), tf.Session() as session:
        whole = session.run(
            losses.balanced_bce(tf.constant(logits), tf.constant(mask), 42, groups=4)
        )
        each = [
            session.run(
                losses.balanced_bce(
                    tf.constant(logits[i : i + 1]), tf.constant(mask[i : i + 1]), 42
                )
            )
            for i in range(4)
        ]
    assert whole == pytest.approx(np.mean(each), rel=1e-6)


def updated(cfg):
    """Weights after one update on a fixed batch."""

    def build():
        draw = np.random.RandomState(2)
        labels = {'mask': tf.constant((draw.rand(4, 32, 48, 1) < 0.3).astype(np.float32))}
        step = tf.train.create_global_step()
        updater = optimizer.make_optimizer(step, cfg)
        loss, gradients = optimizer.averaged_gradients(
            updater, {'image': images(4, 32, 48, 3)}, labels, cfg
        )
        with tf.control_dependencies(
            [updater.apply_gradients(optimizer.scaled_gradients(gradients, cfg), step)]
        ):
            return [tf.identity(loss)] + [v.read_value() for v in tf.trainable_variables()]

    return run(build)


def test_passes_one_after_the_other_equal_one_pass(monkeypatch):
    changes = dict(optimizer='sgd', batch_size=4, accumulate=2, learning_rate=1e-3)
    looped = updated(tiny(**changes))
    monkeypatch.setattr(
        npu, 'keep_float32', lambda cfg: contextlib.ExitStack()
    )  # no npu_bridge here
    whole = updated(tiny(device='npu', **changes))
    for a, b in zip(looped, whole):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match='no multiple of accumulate=3'):
        updated(tiny(batch_size=4, accumulate=3))


def test_multipliers_and_decay_of_the_paper_recipe():
    cfg = tiny(optimizer='sgd', weight_decay=0.5)
    with tf.Graph().as_default(), tf.Session() as session:
        names = ('osvos/conv1/conv1_1/', 'osvos/score-dsn_2/', 'osvos/upscore-fuse/')
        variables = [
            tf.Variable(2.0, name=n + leaf) for n in names for leaf in ('weights', 'biases')
        ]
        pairs = optimizer.scaled_gradients([(tf.constant(1.0), v) for v in variables], cfg)
        session.run(tf.global_variables_initializer())
        values = session.run([g for g, _ in pairs])
    np.testing.assert_allclose(values, [2, 2, 0.2, 0.2, 0.02, 0.02], rtol=1e-6)


def scheduled(function, steps, cfg):
    with tf.Graph().as_default(), tf.Session() as session:
        step = tf.placeholder(tf.int64, [])
        value = function(step, cfg)
        return [float(session.run(value, {step: s})) for s in steps]


def test_paper_stages():
    cfg = config.get_config('paper')
    steps = [0, 10000, 10001, 15000, 15001, 25001, 30000, 30001, 40001, 50000]
    rates = np.array(scheduled(optimizer.learning_rate, steps, cfg)) / config.PIXELS
    np.testing.assert_allclose(
        rates, np.array([1, 1, 0.1, 0.1, 1, 0.1, 0.1, 1, 0.1, 0.1]) * 1e-8, rtol=1e-6
    )
    sides = scheduled(losses.side_weight, steps, cfg)
    assert sides == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0, 0, 0]


def test_full_schedule_by_epoch():
    cfg = config.get_config('full')
    cfg.train_steps = 240 * 173
    rates = scheduled(
        optimizer.learning_rate, [0, 47 * 173, 48 * 173, 143 * 173, 144 * 173, 145 * 173], cfg
    )
    np.testing.assert_allclose(np.array(rates) / 5e-5, [1 / 48, 1, 1, 1, 1 / 16, 1 / 32], rtol=1e-5)
    cfg.update(side_schedule='linear', side_weight=1.0)
    sides = scheduled(losses.side_weight, [0, 172, 173, 120 * 173], cfg)
    np.testing.assert_allclose(sides, [1, 1, 239 / 240, 0.5], rtol=1e-6)


@pytest.mark.parametrize('i', range(4))
def test_augmentation_equals_the_official_one(i):
    image, mask, draws = (RECORDED[f'aug{i}/{k}'] for k in ('image', 'mask', 'draws'))
    flip, rotation, scale = draws[0] < 0.5, 60 * draws[1] - 30, 0.5 * draws[2] - 0.25 + 1
    ours = data.augment(image, mask, flip, rotation, scale)
    np.testing.assert_allclose(ours[0], RECORDED[f'aug{i}/image_out'], atol=1e-4)
    assert np.array_equal(ours[1], RECORDED[f'aug{i}/mask_out'])


def test_draws_are_those_of_the_official_order():
    cfg = tiny(pairs=[('a', 'b', 0), ('c', 'd', 0)])
    for number, sample in zip(range(5), data.training_samples(cfg)):
        draw = random.Random(f'{cfg.seed}/{number}')
        flip, rotation, scale = (draw.random() for _ in range(3))
        assert sample[3] == (flip < 0.5)
        assert sample[4:] == pytest.approx((60 * rotation - 30, 0.5 * scale - 0.25 + 1))


def test_resumed_training_draws_the_examples_of_an_uninterrupted_one(monkeypatch):
    """Three updates and four more, in the second epoch of seven images, on either of two cards."""
    monkeypatch.setenv('RANK_SIZE', '2')
    for rank in ('0', '1'):
        monkeypatch.setenv('RANK_ID', rank)
        cfg = tiny(pairs=[(str(i), '', 0) for i in range(7)])
        whole = list(itertools.islice(data.training_samples(cfg), 14))
        cfg.start_step = 3
        rest = list(itertools.islice(data.training_samples(cfg), 8))
        assert whole[6:] == rest
    assert len({sample[4] for sample in whole}) == 14  # no draw is repeated in the next epoch


def test_cards_share_an_epoch_evenly(monkeypatch):
    cfg = tiny(pairs=[(str(i), '', 0) for i in range(10)])
    shares = []
    for number in range(4):
        monkeypatch.setenv('RANK_ID', str(number))
        monkeypatch.setenv('RANK_SIZE', '4')
        shares += [sample[0] for _, sample in zip(range(3), data.training_samples(cfg))]
    assert len(shares) == 12 and set(shares) == {str(i) for i in range(10)}


def test_masks_are_made_binary():
    ids = np.array([[0, 1, 2, 255]], np.uint8)
    assert data.binary(ids).tolist() == [[0, 1, 1, 0]]
    assert data.binary(ids, 2).tolist() == [[0, 0, 1, 0]]


def test_examples_have_static_shapes_and_stream(drawn):
    cfg = tiny(pairs=data.pairs(drawn['davis'], 'train', '2016'))
    with tf.Graph().as_default(), tf.Session() as session:
        features, labels = tf.data.make_one_shot_iterator(data.input_fn(cfg, True)).get_next()
        assert features['image'].shape.as_list() == [2, 48, 80, 3]
        image, mask = session.run([features['image'], labels['mask']])
    assert image.dtype == mask.dtype == np.float32
    assert set(np.unique(mask)) <= {0.0, 1.0} and -130 < image.min() < 0 < image.max() < 160


def test_plain_example_is_the_frame_minus_mean(drawn):
    image_path, mask_path = davis.pairs(drawn['davis'], ['drawn-a'])[0]
    image, mask = data.example(
        image_path.encode(), mask_path.encode(), 0, False, 0.0, 1.0, (180, 320)
    )
    expected = masks.read_image(image_path).astype(np.float32) - np.float32(data.MEAN)
    assert np.array_equal(image, expected)
    assert np.array_equal(mask[..., 0], masks.read_mask(mask_path))


def test_mask_of_another_size_is_an_error(drawn, tmp_path):
    image_path, _ = davis.pairs(drawn['davis'], ['drawn-a'])[0]
    masks.write_mask(str(tmp_path / 'm.png'), np.zeros((10, 20), np.uint8))
    with pytest.raises(ValueError, match='m.png is 20x10, its frame .* is 320x180'):
        data.load(image_path, str(tmp_path / 'm.png'))


def test_network_sizes_keep_the_aspect():
    cfg = tiny(height=480)
    assert data.network_size(480, 854, cfg) == (480, 854)
    assert data.network_size(1080, 1920, cfg) == (480, 853)
    assert data.network_size(853, 480, cfg) == (853, 480)


def test_online_rates_are_those_of_the_seed_where_its_table_is_named():
    table = Path(__file__).resolve().parent.parent / 'OSVOS' / 'config' / 'online_rates.json'
    cfg = config.get_config('full')
    assert online.learning_rate(cfg, 'JPEGImages/480p/blackswan/00000.jpg') == 1e-5
    cfg.online_rates = str(table)
    for name, rate in (('blackswan', 1e-4), ('drift-straight', 5e-9), ('mine', 1e-5)):
        assert online.learning_rate(cfg, f'JPEGImages/480p/{name}/00000.jpg') == rate
    assert len(json.loads(table.read_text())) == 20


def test_new_layers_start_as_their_optimizer_wants():
    """N(0, 0.001) is of the official SGD; the seed's Adam starts at N(0, 0.01)."""
    deviations = {}
    for preset in ('full', 'paper'):
        with tf.Graph().as_default(), tf.Session() as session:
            model.network({'image': tf.zeros([1, 16, 16, 3])}, config.get_config(preset), True)
            weights_of = {v.op.name: v for v in tf.trainable_variables()}
            prep = weights_of['osvos/conv5_3_16/weights']
            session.run(prep.initializer)
            deviations[preset] = session.run(prep).std()
    assert deviations['full'] == pytest.approx(0.01, rel=0.15)  # truncated at two deviations
    assert deviations['paper'] == pytest.approx(0.001, rel=0.15)


@pytest.fixture(scope='module')
def parent(drawn, tmp_path_factory):
    """A parent network as the program trains it; it learns on the reference stack alone."""
    folder = tmp_path_factory.mktemp('parent')
    flags = dict(data_path=drawn['davis'], output_path=folder, preset='smoke', batch_size=2)
    flags.update(device='cpu', result_path=folder / 'result', steps=120 if REFERENCE else 4)
    settings = dict(height=54, width=96, channels=0.15, log_steps=40, checkpoint_steps=120)
    settings.update(online_steps=40)
    assert train.main(
        [f'--{key}={value}' for key, value in flags.items()]
        + [f'--set={key}={value}' for key, value in settings.items()]
    ) == 0  # fmt: skip
    return str(folder)


def saved_config(folder):
    cfg = config.get_config('smoke')
    cfg.update(json.loads(Path(folder, 'config.json').read_text()), device='cpu')
    return cfg


def test_result_block_is_that_of_the_zoo(parent):
    """Keys, units, the accuracy of the validation sequences, the marker of a finished run."""
    folder = Path(parent, 'result')
    text = (folder / 'OSVOS_bs2_1p_acc.log').read_text()
    rows = dict(line.split(' = ') for line in text.split('\n') if line)
    assert list(rows) == [
        'Network', 'RankSize', 'BatchSize', 'DeviceType', 'CaseName', 'ActualFPS', 'TrainingTime',
        'TrainAccuracy', 'ActualLoss', 'E2ETrainingTime',
    ]  # fmt: skip
    milliseconds = 2000 / float(rows['ActualFPS'])
    assert float(rows['TrainingTime']) == pytest.approx(milliseconds, rel=0.01)
    results = json.loads((folder / 'results' / 'results.json').read_text())
    assert float(rows['TrainAccuracy']) == pytest.approx(results['global']['J&F-Mean'], abs=1e-4)
    losses_ = (folder / 'train_OSVOS_bs2_1p_acc_loss.txt').read_text().split()
    assert len(losses_) >= 2 and rows['ActualLoss'] == losses_[-1]
    assert (folder / 'finished').is_file()


@learns
def test_training_learns(parent):
    folder = Path(parent, 'result')
    losses_ = (folder / 'train_OSVOS_bs2_1p_acc_loss.txt').read_text().split()
    assert max(map(float, losses_)) < 0.15  # it starts at 0.35
    results = json.loads((folder / 'results' / 'results.json').read_text())
    assert results['global']['J&F-Mean'] > 0.2  # blobs never seen; untrained: below 0.1


@learns
def test_online_training_improves_a_sequence(parent, drawn, tmp_path):
    cfg = saved_config(parent)
    (video,) = videos.find(drawn['davis'], 'davis', names='drawn-y', year='2016')
    pair = inference.first_example(video, 0)
    prefix = weights.checkpoint_prefix(parent)
    online.finetune(cfg, pair, prefix, f'{tmp_path}/online/drawn-y')
    assert online.trained(cfg, pair, prefix, f'{tmp_path}/online/drawn-y')
    saved = saved_config(tmp_path / 'online' / 'drawn-y')
    assert (saved.height, saved.train_steps) == (54, 120)  # the parent's settings
    flags = [f'--data_path={drawn["davis"]}', '--device=cpu', '--sequences=drawn-y', '--overlay']
    flags.append('--set=threshold=0.5')
    means = {}
    for name, source in (('parent', f'--checkpoint={parent}'),
                         ('online', f'--online_path={tmp_path}/online')):  # fmt: skip
        assert evaluate.main([*flags, source, f'--output_path={tmp_path}/{name}']) == 0
        results = json.loads((tmp_path / name / 'results.json').read_text())
        means[name] = results['per_sequence']['drawn-y_1']['J-Mean']
        assert 0 <= results['dice']['drawn-y'] <= 1
        overlay = tmp_path / name / 'overlay'
        assert masks.read_image(str(overlay / 'drawn-y.png')).shape[1] == 1280
        assert len(list(masks.read_frames(str(overlay / 'drawn-y.mp4')))) == 10
    assert means['online'] > 0.5 and means['online'] >= means['parent'] - 0.02
    assert results['dice']['drawn-y'] > 0.5


def test_objects_of_2017_are_trained_one_by_one(parent, drawn):
    found = videos.find(drawn['davis2017'], 'davis', names='drawn-x', year='2017')
    assert [number for _, number in inference.units(found)] == [1, 2]
    assert inference.first_example(found[0], 2)[2] == 2
    with pytest.raises(ValueError, match=r'drawn-x has no object 7; there are \[1, 2\]'):
        inference.first_example(found[0], 7)
    cfg = saved_config(parent)
    frames = [masks.read_image(path) for path in found[0].frames[:2]]
    with inference.load(parent, cfg) as network:
        probability = network(frames[0])
        assert probability.shape == (180, 320)
        assert 0 <= probability.min() <= probability.max() <= 1
        cfg.threshold = float(probability.min()) - 0.01
        ids = list(inference.segment({1: network, 3: network}, cfg, frames, {}))
        assert len(ids) == 2 and set(np.unique(ids[0])) == {1}  # the first of equal objects wins


def test_likeliest_object_above_the_threshold_wins():
    maps = {1: np.array([[0.7, 0.6, 0.1]]), 2: np.array([[0.6, 0.9, 0.4]])}
    networks = {number: lambda frame, m=m: m for number, m in maps.items()}
    ids = next(inference.segment(networks, tiny(threshold=0.5), [None], {}))
    assert ids.tolist() == [[1, 2, 0]] and ids.dtype == np.uint8
    alone = next(inference.segment({0: lambda frame: maps[2]}, tiny(threshold=0.5), [None], {}))
    assert alone.tolist() == [[1, 1, 0]]  # all objects as one


def test_dice_is_that_of_all_pixels(tmp_path):
    truth = np.zeros((20, 20), np.uint8)
    truth[:10] = 1
    for folder, mask in (('truth', truth), ('masks/s', np.roll(truth, 5, 0))):
        (tmp_path / folder).mkdir(parents=True)
        masks.write_mask(str(tmp_path / folder / '00000.png'), mask)
    path = str(tmp_path / 'truth' / '00000.png')
    video = videos.Video('s', 'masks/s', [], {}, {}, [('00000', path)])
    assert evaluate.dice(video, str(tmp_path)) == pytest.approx(0.5)


def test_exported_graphs_answer_as_the_network(parent, tmp_path, capsys, fails, monkeypatch):
    """Also after an export that was killed when half of it was written."""
    flags = [f'--checkpoint={parent}', f'--output_path={tmp_path}', '--device=cpu']
    saved = tmp_path / 'saved_model_OSVOS'
    with monkeypatch.context() as patch:

        def killed(session, folder, *_):
            Path(folder).mkdir()
            (Path(folder) / 'saved_model.pb').write_bytes(b'half')
            raise KeyboardInterrupt

        patch.setattr(tf.saved_model, 'simple_save', killed)
        with pytest.raises(KeyboardInterrupt):
            export.main(flags)
    assert not saved.exists()
    capsys.readouterr()
    assert export.main(flags) == 0
    printed = capsys.readouterr().out
    assert 'atc --framework=3' in printed and '--input_shape="image:1,54,96,3"' in printed
    image = np.random.RandomState(0).uniform(-100, 100, (1, 54, 96, 3)).astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as session:
        outputs = model.network({'image': tf.constant(image)}, tiny(channels=0.15), False)
        tf.train.Saver().restore(session, weights.checkpoint_prefix(parent))
        expected = session.run(outputs['probability'])
    with tf.Graph().as_default(), tf.Session() as session:
        graph = tf.GraphDef.FromString((tmp_path / 'OSVOS.pb').read_bytes())
        names = ['out_probability:0']
        frozen = tf.import_graph_def(graph, return_elements=names, name='')[0]
        np.testing.assert_allclose(session.run(frozen, {'image:0': image}), expected, atol=1e-6)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.saved_model.load(session, ['serve'], str(saved))
        found = session.run('out_probability:0', {'image:0': image})
        np.testing.assert_allclose(found, expected, atol=1e-6)
    capsys.readouterr()
    assert export.main([str(flag) for flag in flags]) == 0
    assert 'is there already, of this checkpoint: kept' in capsys.readouterr().out
