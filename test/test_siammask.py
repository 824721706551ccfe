"""SiamMask: network, losses, pairs of crops, preparation, tracker, VOT scores, on small shapes.

recorded/siammask_small.npz holds answers of the official code; recorded/siammask_official.py made
it.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from easydict import EasyDict

from common import files, processes
from SiamMask import (
    backbone,
    config,
    convert,
    data,
    evaluate_otb,
    evaluate_vot,
    losses,
    model,
    optimizer,
    prepare,
    tracker,
    vot,
)

HERE = Path(__file__).resolve().parent
RECORDED = np.load(HERE / 'recorded' / 'siammask_small.npz')
TINY = dict(channels=0.07, blocks=[1, 1, 2], device='cpu', workers=0, batch_size=2)
sys.path.insert(0, str(HERE / 'recorded'))
import siammask_toolkit  # noqa: E402, pictures and cases that were recorded


def tiny(preset='smoke', **changes):
    cfg = config.get_config(preset)
    cfg.update(TINY)
    cfg.update(changes)
    return cfg


@pytest.fixture(scope='module')
def crops(drawn, tmp_path_factory):
    """{set: folder of crops}, cut from the drawn data."""
    cfg = tiny()
    folder = tmp_path_factory.mktemp('crops')
    return prepare.find(str(Path(drawn['coco']).parent), cfg, str(folder))


def features(cfg, batch=2, size=None):
    draw = np.random.RandomState(1)
    size = size or cfg.search_size
    return {
        'template': draw.uniform(0, 255, (batch, 127, 127, 3)).astype(np.float32),
        'search': draw.uniform(0, 255, (batch, size, size, 3)).astype(np.float32),
        'cell': np.stack([np.arange(data.slots(cfg))] * batch).astype(np.int32),
    }


def seeded(session, seed=0):
    """Draws every variable; statistics positive."""
    draw = np.random.RandomState(seed)
    for v in sorted(tf.global_variables(), key=lambda v: v.op.name):
        value = draw.randn(*v.shape.as_list()) * 0.1
        v.load(np.abs(value) + 0.5 if 'variance' in v.op.name else value, session)


# network


def test_parameters_and_names_are_the_official_ones():
    counts = {'siammask/features/': 13786176, 'siammask/neck/': 262656, 'siammask/cls/': 1249290,
              'siammask/loc/': 1251860, 'siammask/mask/': 2266753,
              'siammask/refine/': 2665317}  # fmt: skip
    shapes = convert.network_shapes('sharp')
    found = dict.fromkeys(counts, 0)
    for name, shape in shapes.items():
        if 'moving' not in name:
            found[next(k for k in counts if name.startswith(k))] += int(np.prod(shape))
    assert found == counts
    assert sum(int(np.prod(s)) for n, s in shapes.items() if 'moving' in n) == 35712
    base = convert.network_shapes('base')
    assert set(base) == {n for n in shapes if '/refine/' not in n}
    assert shapes['siammask/features/layer2/0/shortcut/weights'] == (3, 3, 256, 512)


@pytest.mark.parametrize('preset', ['smoke', 'smoke_sharp'])
def test_shapes(preset):
    cfg = tiny(preset)
    side, count, mask = (25, 16, 63) if preset == 'smoke' else (3, 9, 127)
    with tf.Graph().as_default():
        found = model.network({k: tf.constant(v) for k, v in features(cfg).items()}, cfg, True)
    shapes = {k: v.shape.as_list() for k, v in found.items()}
    assert shapes == {'cls': [2, side, side, 10], 'loc': [2, side, side, 20],
                      'mask': [2, count, mask, mask]}  # fmt: skip


def test_correlation_forms_are_equal():
    draw = np.random.RandomState(0)
    with tf.Graph().as_default(), tf.Session() as session:
        search, kernel = (tf.constant(draw.randn(3, n, n, 8), tf.float32) for n in (29, 5))
        one, other = session.run(
            [model.correlate(search, kernel, {'device': d}) for d in ('cpu', 'npu')]
        )
        s, k = session.run([search, kernel])
    np.testing.assert_allclose(one, other, atol=1e-4)
    expected = (s[1, 3:8, 7:12] * k[1]).sum((0, 1))
    np.testing.assert_allclose(one[1, 3, 7], expected, atol=1e-4)


def test_dilated_gradients_equal_those_of_space_to_batch():
    draw = np.random.RandomState(0)
    x, w = draw.randn(2, 15, 15, 4), draw.randn(3, 3, 4, 5)
    with tf.Graph().as_default(), tf.Session() as session:
        x, w = tf.constant(x, tf.float32), tf.constant(w, tf.float32)
        ours = backbone._conv_dilated(x, w, 2)
        plain = tf.nn.convolution(x, w, 'SAME', dilation_rate=[2, 2])
        both = [tf.gradients(tf.reduce_sum(y * y), [x, w]) + [y] for y in (ours, plain)]
        for mine, theirs in zip(*session.run(both)):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-3)


def test_moving_statistics_move_once_a_call_in_order():
    cfg = tiny()
    with tf.Graph().as_default(), tf.Session() as session:
        with tf.variable_scope('s', reuse=tf.AUTO_REUSE):
            for value in (1.0, 5.0):
                backbone.batch_norm(tf.fill([1, 2, 2, 1], value), 'bn', True, cfg)
        updates = [tf.assign(*pair) for pair in backbone.moving_statistics()]
        assert len(updates) == 2
        session.run(tf.global_variables_initializer())
        session.run(updates)
        mean = next(v for v in tf.global_variables() if 'moving_mean' in v.op.name)
        np.testing.assert_allclose(session.run(mean), (0 * 0.9 + 0.1) * 0.9 + 0.5, rtol=1e-6)


def test_refine_takes_the_same_cell_in_training_and_in_tracking():
    """A 143 px picture in the middle of a 255 px one: windows without and with padding agree."""
    cfg = tiny('smoke_sharp')
    draw = np.random.RandomState(0)
    with tf.Graph().as_default(), tf.Session() as session:
        sides, channels = (125, 63, 31), [backbone.scaled(c, cfg) for c in (64, 256, 512)]
        maps = [draw.randn(1, s, s, c).astype(np.float32) for s, c in zip(sides, channels)]
        corr = draw.randn(1, 25, 25, backbone.scaled(256, cfg)).astype(np.float32)
        with tf.variable_scope('siammask', reuse=tf.AUTO_REUSE):
            best = model.refine_best(
                tf.constant(corr), [tf.constant(m) for m in maps], tf.constant([12 * 25 + 12]), cfg
            )
            inner = [m[:, n : n + s, n : n + s] for m, n, s in zip(maps, (28, 14, 7), (69, 35, 17))]
            cell = tf.zeros([1, 9], tf.int32)
            every = model.refine_all(
                tf.constant(corr[:, 11:14, 11:14]), [tf.constant(m) for m in inner], cell, cfg
            )
        seeded(session)
        one, nine = session.run([best, every])
    np.testing.assert_allclose(one[0], nine[0, 4], rtol=1e-4, atol=1e-4)


def test_best_anchor_follows_size_and_window():
    cls, loc = np.zeros((1, 25, 25, 10), np.float32), np.zeros((1, 25, 25, 20), np.float32)
    cls[0, 3, 20, 5 + 2] = cls[0, 12, 13, 5 + 4] = 5.0  # two answers: far away, near
    loc[0, 12, 13, [4, 9, 14, 19]] = 0.5, -0.25, 0.1, 0.2  # dx, dy, dw, dh of anchor 4
    with tf.Session() as session:
        feed = [tf.constant(v) for v in (cls, loc)]
        size = tf.constant([[32.0, 96.0]])
        found = session.run(model.choose(*feed, size, tf.constant([0.04, 0.42])))
        far = session.run(model.choose(*feed, tf.constant([[64.0, 64.0]]), tf.constant([1.0, 0.0])))
    assert found['best'][0] == 4 * 625 + 12 * 25 + 13
    expected = [0.5 * 32 + 8, -0.25 * 96, 32 * np.exp(0.1), 96 * np.exp(0.2)]
    np.testing.assert_allclose(found['box'][0], expected, rtol=1e-5)
    assert far['best'][0] == 2 * 625 + 3 * 25 + 20  # without window, penalised for its shape


# losses


def naive_losses(outputs, labels):
    logits = outputs['cls'].reshape(*outputs['cls'].shape[:3], 2, 5)
    score = np.log(np.exp(logits) / np.exp(logits).sum(3, keepdims=True))
    parts = [-score[..., k, :][labels['cls'] == k] for k in (1, 0)]
    cls = sum(0.5 * p.mean() for p in parts if p.size)
    moves = outputs['loc'].reshape(*outputs['loc'].shape[:3], 4, 5)
    loc = (np.abs(moves - labels['loc']).sum(3) * labels['loc_weight']).sum() / len(moves)
    chosen = labels['mask_weight'] == 1
    if not chosen.any():
        return cls, loc, 0.0
    x = outputs['mask'][chosen]
    return cls, loc, np.log1p(np.exp(-labels['mask'][chosen].astype(float) * x)).mean()


@pytest.mark.parametrize('empty', [False, True])
def test_losses(empty):
    cfg, draw = tiny('smoke_sharp'), np.random.RandomState(0)
    outputs = {'cls': draw.randn(2, 3, 3, 10), 'loc': draw.randn(2, 3, 3, 20),
               'mask': draw.randn(2, 9, 127, 127)}  # fmt: skip
    outputs = {k: v.astype(np.float32) for k, v in outputs.items()}
    labels = {
        'cls': np.full((2, 3, 3, 5), -1, np.int32) if empty else draw.randint(-1, 2, (2, 3, 3, 5)),
        'loc': draw.randn(2, 3, 3, 4, 5).astype(np.float32),
        'loc_weight': (draw.rand(2, 3, 3, 5) * (not empty)).astype(np.float32),
        'mask': draw.randint(-1, 2, (2, 9, 127, 127)).astype(np.int8),
        'mask_weight': (draw.rand(2, 9) < 0.5 * (not empty)).astype(np.float32),
    }
    cfg.update(cls_weight=1.0, loc_weight=1.2, mask_weight=36.0)
    with tf.Graph().as_default(), tf.Session() as session:
        feed = {k: tf.constant(v) for k, v in outputs.items()}
        found = losses.losses(feed, {k: tf.constant(v) for k, v in labels.items()}, cfg)
        gradients = tf.gradients(found['total'], list(feed.values()))
        values, gradients = session.run([found, gradients])
    expected = naive_losses(outputs, labels)
    mine = values['cls'], values['loc'], values['mask']
    np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(values['total'], np.dot([1, 1.2, 36], expected), rtol=1e-5)
    assert np.isfinite(list(values.values())).all() and all(np.isfinite(g).all() for g in gradients)
    if not empty:
        patch = (outputs['mask'] >= 0) & (labels['mask_weight'] == 1)[..., None, None]
        truth = (labels['mask'] == 1) & (labels['mask_weight'] == 1)[..., None, None]
        both, either = (f(patch, truth).sum((2, 3)) for f in (np.logical_and, np.logical_or))
        iou = (both / np.maximum(either, 1))[labels['mask_weight'] == 1]
        np.testing.assert_allclose(values['iou'], iou.mean(), rtol=1e-5)


def test_upsampling_aligns_corners():
    small = np.random.RandomState(0).randn(1, 1, 63, 63).astype(np.float32)
    with tf.Session() as session:
        large = session.run(losses.upsampled(tf.constant(small)))[0, 0]
    np.testing.assert_allclose(large[[0, 0, -1], [0, -1, -1]], small[0, 0][[0, 0, -1], [0, -1, -1]])
    at = np.arange(127) * 62 / 126
    rows = np.stack([np.interp(at, np.arange(63), row) for row in small[0, 0]])
    expected = np.stack([np.interp(at, np.arange(63), column) for column in rows.T]).T
    np.testing.assert_allclose(large, expected, atol=1e-4)


# pairs


def test_augmentation_and_targets_equal_the_official_ones():
    image, disk = siammask_toolkit.smooth_picture()
    for i in range(8):
        draws = random.Random(i), np.random.RandomState(i)
        size, shift, scale, blur = (255, 64, 0.18, 1.0) if i % 2 == 0 else (127, 4, 0.05, 0)
        box = np.array([255 + 30 * v for v in (-1, -1.3, 1, 1.3)])
        found = data.augment(image, box, size, shift, scale, blur, i % 3 == 0, draws, disk)
        theirs = {k: RECORDED[f'{i}:{k}'] for k in
                  ('box', 'image', 'sums', 'cls', 'loc', 'weight', 'target')}  # fmt: skip
        np.testing.assert_allclose(found['box'], theirs['box'], rtol=1e-9)
        np.testing.assert_allclose(found['image'][::16, ::16], theirs['image'], atol=1e-3)
        assert abs((found['mask'] == 1).sum() - theirs['sums'][1]) <= 2
        side, cfg = (25, tiny()) if size == 255 else (3, tiny('smoke_sharp'))
        cls = losses.targets(theirs['target'], side, cfg, i in (2, 4), draws[1])
        np.testing.assert_array_equal(cls['cls'], theirs['cls'])
        np.testing.assert_allclose(cls['loc'][:, :, ::6, ::6], theirs['loc'], atol=1e-6)
        np.testing.assert_array_equal(cls['loc_weight'], theirs['weight'])
    assert (RECORDED['0:cls'] == 1).any() and (RECORDED['2:cls'] != 1).all()


def test_anchors_are_those_of_the_paper():
    x, y, width, height = losses.grid(255, 25)
    assert x[0, 0, [0, 24]].tolist() == [31, 223] and losses.grid(143, 3)[1][0, :, 0].tolist() == [
        63,
        71,
        79,
    ]
    assert list(zip(width[:, 0, 0], height[:, 0, 0])) == [
        (104, 32), (88, 40), (64, 64), (40, 80), (32, 96)]  # fmt: skip
    flat = model.anchor_grid()
    np.testing.assert_array_equal(flat[0].reshape(5, 25, 25) + 127, x)
    np.testing.assert_array_equal(flat[3].reshape(5, 25, 25), height)


def test_a_pair_shows_its_object(crops):
    """The mask of the label is where the box is, and the slots are the positives' patches."""
    cfg = tiny(negative=0.0, datasets=[['coco', 0, 1, 'train2017.json']])
    sets = data.load_sets(crops, cfg)
    seen = 0
    for pick in range(6):
        draws = random.Random(pick), np.random.RandomState(pick)
        found = EasyDict(data.make_pair(sets, pick, cfg, draws))
        x0, y0, x1, y1 = np.clip(np.round(found.box), 0, 254).astype(int)
        mask = found.mask == 1
        assert mask[y0:y1, x0:x1].mean() > 0.3 and mask[y0:y1, x0:x1].sum() > 0.8 * mask.sum()
        _, labels = data.pack(found, cfg)
        cell = data.pack(found, cfg)[0]['cell']
        for k in np.flatnonzero(labels['mask_weight']):
            i, j = divmod(int(cell[k]), 25)
            whole = np.pad(found.mask, 32, 'constant')
            np.testing.assert_array_equal(labels['mask'][k], whole[8 * i :, 8 * j :][:127, :127])
            assert found.cls[:, i, j].max() == 1
            seen += 1
        assert len(cell) == 16 and labels['mask'].shape == (16, 127, 127)
    assert seen > 5


def test_cycles_cover_the_sets_as_often_as_asked(crops):
    cfg = tiny(datasets=[['coco', 0, 1, 'train2017.json'], ['det', 20, 1, 'train.json']])
    sets = data.load_sets(crops, cfg)
    cycle = next(data.video_cycles(sets, 1))
    count = len(sets[0]['videos'])
    assert sorted(n for n in cycle if n < count) == list(range(count))
    others = [n for n in cycle if n >= count]
    assert len(others) == 20 and set(np.unique(others, return_counts=True)[1]) <= {2, 3}


def test_readers_are_deterministic_and_resume(crops):
    """A resumed run goes on where it ended, cards share the pairs out."""
    cfg = tiny(crops=crops, start_step=0, batch_size=2)
    plain = [f['search'].sum() for f, _ in take(data.examples(cfg, 0, 1, True), 6)]
    assert [f['search'].sum() for f, _ in take(data.examples(cfg, 4, 1, True), 2)] == plain[4:]
    second_card = [f['search'].sum() for f, _ in take(data.examples(cfg, 1, 2, True), 2)]
    assert second_card == [plain[1], plain[3]]
    cfg.start_step = 2
    with tf.Graph().as_default(), tf.Session() as session:
        batch = tf.data.make_one_shot_iterator(data.input_fn(cfg, True)).get_next()
        found = session.run(batch)[0]['search'].sum((1, 2, 3))
        shapes = [t.shape.as_list() for part in batch for t in part.values()]
    np.testing.assert_allclose(found, plain[4:], rtol=1e-5)
    assert all(None not in shape for shape in shapes)


def test_processes_give_the_same_pairs(crops):
    cfg = tiny(crops=crops)
    plain = [f['search'] for f, _ in take(data.examples(cfg, 3, 1, True), 6)]
    cfg.workers = 2
    with data.readers(cfg):
        assert processes.running()
        found = [f['search'] for f, _ in take(data.examples(cfg, 3, 1, True), 6)]
    np.testing.assert_array_equal(found, plain)


def test_a_dead_reader_ends_the_program(crops):
    cfg = tiny(crops=crops, workers=1)
    with data.readers(cfg):
        found = data.examples(cfg, 0, 1, True)
        next(found)
        os.kill(processes._READERS[0].process.pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match='a reader process has died'):
            for _ in range(50):
                next(found)


def take(generator, count):
    result = [next(generator) for _ in range(count)]
    generator.close()
    return result


@pytest.mark.parametrize('what, error, message', [
    ('gone', FileNotFoundError, 'no crop at .*prepare'),
    ('cut off', ValueError, 'x.jpg is cut off'),
    ('list', ValueError, 'is no list of crops'),
    ('small', ValueError, '100x100, crops are 511x511'),
    ('name', ValueError, "no data set 'cocoa'"),
    ('json', FileNotFoundError, 'prepare. writes it'),
    ('empty', ValueError, 'has no boxes'),
])  # fmt: skip
def test_bad_crops(crops, tmp_path, what, error, message):
    shutil.copytree(crops['coco'], tmp_path / 'coco')
    cfg = tiny(datasets=[['coco', 0, 1, 'train2017.json']], negative=0.0)
    if what == 'gone':
        for found in (tmp_path / 'coco').rglob('*.x.jpg'):
            found.unlink()
    elif what == 'small':
        for found in (tmp_path / 'coco').rglob('*.x.jpg'):
            cv2.imwrite(str(found), np.zeros((100, 100, 3), np.uint8))
    elif what == 'cut off':
        for found in (tmp_path / 'coco').rglob('*.x.jpg'):
            found.write_bytes(found.read_bytes()[:3000])
    elif what == 'list':
        (tmp_path / 'coco' / 'train2017.json').write_text('{"a": {"00": ["000000"]}}')
    elif what == 'name':
        cfg.datasets = [['cocoa', 0, 1, 'train.json']]
    elif what == 'json':
        (tmp_path / 'coco' / 'train2017.json').unlink()
    else:
        (tmp_path / 'coco' / 'train2017.json').write_text(
            '{"a": {"00": {"000000": [3, 3, 3, 9], "000001": [3, 3, 2.5, 9]}}}'
        )
    with pytest.raises(error, match=message):
        sets = data.load_sets({'coco': str(tmp_path / 'coco')}, cfg)
        data.make_pair(sets, 0, cfg, (random.Random(0), np.random.RandomState(0)))


# preparation


def test_crops_are_centered_on_their_objects(drawn, crops):
    """Box and mask: the crop's middle is the box's, the context 127 px, in all four sets."""
    for name, folder in crops.items():
        file = 'train2017.json' if name == 'coco' else 'train.json'
        tree = json.loads((Path(folder) / file).read_text())
        count = 0
        for video, tracks in tree.items():
            for track, boxes in tracks.items():
                for frame, box in boxes.items():
                    stem = Path(folder) / 'crop511' / video / f'{frame}.{track}'
                    picture = cv2.imread(f'{stem}.x.jpg')
                    assert picture.shape == (511, 511, 3)
                    if name in data.WITH_MASKS:
                        mask = cv2.imread(f'{stem}.m.png', cv2.IMREAD_GRAYSCALE)
                        assert set(np.unique(mask)) <= {0, 255}
                        found = np.array(tracker.box_of_mask(mask > 0))
                        size = tracker.box_in_crop((box[2] - box[0], box[3] - box[1]))
                        np.testing.assert_allclose(found[:2], 255.5, atol=3)
                        np.testing.assert_allclose(found[2:], size[2:] - size[:2], atol=7)
                    count += 1
        assert count >= 8, name
        videos = {'ytb_vos': 3, 'vid': 4, 'coco': 12, 'det': 8}
        assert len(tree) == videos[name]


def test_preparing_again_keeps_what_is_there_and_cuts_what_is_missing(drawn, tmp_path):
    command = [f'--data_path={Path(drawn["det"]).parent}', f'--output_path={tmp_path}']
    command += ['--sets=det', '--workers=1']
    assert prepare.main(command) == 0
    paths = sorted((tmp_path / 'det').rglob('*.x.jpg'))
    before = [p.read_bytes() for p in paths]
    paths[3].unlink()
    times = [p.stat().st_mtime_ns for p in paths if p.exists()]
    assert prepare.main(command) == 0
    assert [p.read_bytes() for p in paths] == before
    assert [p.stat().st_mtime_ns for k, p in enumerate(paths) if k != 3] == times
    assert not list(tmp_path.rglob('*.tmp*'))
    assert prepare.main([*command, '--sets=dat']) == 1


def test_a_video_keeps_its_last_part_without_a_gap(tmp_path):
    """ImageNet VID: a track with a gap; single frames count for nothing (vid/gen_json.py)."""
    import sample_data

    scene = list(sample_data.clip(np.random.RandomState(0), 9, 1))
    for t, (image, mask) in enumerate(scene):
        seen = mask if t in (0, 1, 2, 4, 6, 7) else np.zeros_like(mask)
        sample_data.write_imagenet(tmp_path, 'VID', f'val/v/{t:06d}', image, seen)
    assert prepare.cut('vid', str(tmp_path / 'ILSVRC2015'), str(tmp_path / 'out'), 1) == []
    tree = json.loads((tmp_path / 'out' / 'val.json').read_text())
    assert {k: sorted(v) for k, v in tree['val/v'].items()} == {'00': ['000006', '000007']}


def test_images_that_cannot_be_read_are_left_out_and_told(drawn, tmp_path, capsys):
    """Truncated, of another size, missing: the rest is cut and the lists name only what is there;
    the exit status tells with --strict."""
    root, out = tmp_path / 'data', tmp_path / 'out'
    for name in ('coco', 'vid', 'YouTubeVOS', 'det'):
        shutil.copytree(str(Path(drawn['coco']).parent / name), str(root / name))
    first, second, third = sorted((root / 'coco' / 'train2017').glob('*.jpg'))[:3]
    first.write_bytes(first.read_bytes()[:900])
    cv2.imwrite(str(second), np.zeros((10, 10, 3), np.uint8))
    third.unlink()
    image = sorted((root / 'vid').rglob('*.JPEG'))[-1]
    image.write_bytes(image.read_bytes()[:900])
    annotation = next((root / 'det').rglob('*.xml'))
    annotation.write_text('<annotation><object>')
    mask = sorted((root / 'YouTubeVOS' / 'train' / 'Annotations').rglob('*.png'))[-1]
    mask.write_bytes(mask.read_bytes()[:40])
    flags = [f'--data_path={root}', f'--output_path={out}', '--workers=1']
    assert prepare.main(flags) == 0
    printed = capsys.readouterr().out
    assert f'{first} is cut off' in printed and 'its annotations are of' in printed
    assert 'is missing: tried' in printed and 'coco: 3 images were left out' in printed
    for fault in (f'{image} is cut off', f'{annotation} is no annotation', str(mask)):
        assert fault in printed
    for path in out.glob('*/*.json'):
        if path.name == 'made_from.json':
            continue
        for video, tracks in json.loads(path.read_text()).items():
            assert video.split('/')[-1] not in (first.stem, second.stem) or 'val2017' in video
            for track, boxes in tracks.items():
                for frame in boxes:
                    crop = path.parent / 'crop511' / video / f'{frame}.{track}.x.jpg'
                    assert crop.is_file(), crop
    assert prepare.main([*flags, '--strict', '--sets=det']) == 1
    assert '1 images could not be read' in capsys.readouterr().err


def test_a_data_set_of_which_nothing_can_be_read(drawn, tmp_path):
    shutil.copytree(drawn['coco'], str(tmp_path / 'coco'))
    for path in (tmp_path / 'coco').rglob('*.jpg'):
        path.unlink()
    with pytest.raises(ValueError, match='has no objects; .* faults, first: .*is missing'):
        prepare.cut('coco', str(tmp_path / 'coco'), str(tmp_path / 'out'), 1)


def test_crops_are_made_once_from_the_same_data(drawn, tmp_path):
    """find() cuts beside the data, takes what is there, and refuses what was cut from other
    data."""
    root = tmp_path / 'data'
    shutil.copytree(drawn['det'], str(root / 'det'))
    cfg = tiny(datasets=[['det', 0, 1, 'train.json']])
    folder = prepare.folder_beside(str(root))
    assert folder == f'{root}_crops'
    with pytest.raises(FileNotFoundError, match='no crops in'):
        prepare.find(
            str(root), tiny(preset='full', datasets=cfg.datasets), folder, cut_missing=False
        )
    assert prepare.find(str(root), cfg, folder) == {'det': f'{folder}/det'}
    assert prepare.are_drawn({'det': f'{folder}/det'})
    crop = next(Path(folder).rglob('*.x.jpg'))
    time = crop.stat().st_mtime_ns
    assert prepare.find(str(root), cfg, folder, cut_missing=False) == {'det': f'{folder}/det'}
    assert crop.stat().st_mtime_ns == time
    annotation = next((root / 'det').rglob('*.xml'))
    annotation.rename(annotation.with_name('another.xml'))
    with pytest.raises(ValueError, match='holds results of something else .annotations'):
        prepare.find(str(root), cfg, folder)


def test_crop_windows_are_those_of_the_official_code():
    """Bit for bit: crop_like_SiamFCx of data/vid (and, with one pixel more, of data/coco)."""
    draw = np.random.RandomState(0)
    for one in (0, 1):
        for box in draw.uniform(0, 500, (50, 4)):
            box[2:] += box[:2]
            box = box.tolist()
            center = [(box[2] + box[0]) / 2.0, (box[3] + box[1]) / 2.0]
            size = [box[2] - box[0] + one, box[3] - box[1] + one]
            s_z = np.sqrt((size[1] + 0.5 * sum(size)) * (size[0] + 0.5 * sum(size)))
            s_x = s_z + 2 * ((511 - 127) / 2 / (127 / s_z))
            expected = [center[0] - s_x / 2, center[1] - s_x / 2]
            expected += [center[0] + s_x / 2, center[1] + s_x / 2]
            assert prepare.context_window(box, one) == expected


def test_check_decodes_images(crops, drawn, tmp_path):
    cfg = tiny(datasets=[['det', 0, 1, 'train.json']])
    assert prepare.check(str(Path(drawn['det']).parent), cfg)['det']['decoded'] == 8
    shutil.copytree(drawn['det'], str(tmp_path / 'raw' / 'det'))
    shutil.copytree(crops['det'], str(tmp_path / 'cut' / 'det'))
    for folder, ending in (('raw', '*.JPEG'), ('cut', '*.x.jpg')):
        path = next((tmp_path / folder).rglob(ending))
        path.write_bytes(path.read_bytes()[:900])
        with pytest.raises(ValueError, match='1 of .* images cannot be read, first: .* is cut off'):
            prepare.check(str(tmp_path / folder), cfg, every=True)


# training


def test_learning_rates_are_the_official_ones():
    cfg = config.get_config('full')
    rates = optimizer.learning_rates(cfg)
    np.testing.assert_allclose(
        rates[:5], [0.001, 0.00137973, 0.00190365, 0.00262653, 0.0036239], rtol=1e-5
    )
    np.testing.assert_allclose(rates[5:8], [0.005, 0.00475848, 0.00452862], rtol=1e-5)
    np.testing.assert_allclose(rates[-1], 0.0025, rtol=1e-6)
    cfg.batch_size = 16
    np.testing.assert_allclose(optimizer.learning_rates(cfg), rates / 4, rtol=1e-6)
    sharp = optimizer.learning_rates(config.get_config('sharp'))
    np.testing.assert_allclose(sharp, np.geomspace(0.01, 0.0025, 20), rtol=1e-5)
    cfg = config.get_config('full')
    cfg.train_steps = 100
    with tf.Session() as session:
        epochs = session.run(
            [optimizer.epoch(tf.constant(k), cfg) for k in (0, 4, 5, 49, 50, 99, 500)]
        )
        momenta = session.run(
            [optimizer.momentum_factor(tf.constant(k), cfg) for k in (0, 49, 50, 51)]
        )
    assert epochs == [0, 0, 1, 9, 10, 19, 19]
    np.testing.assert_allclose(momenta, [0.9, 0.9, 0, 0.9], rtol=1e-6)  # forgets at the thaw


class Updates(NamedTuple):
    first: dict
    second: dict
    step: int
    loss: float  # reported before the first


def one_update(cfg, loss_scale=1.0, thawed=False, factors=(1.0,)):
    """Variables after one and two calls of update() on a quadratic loss of ones, times the factor
    of each part."""
    cfg = tiny('full', train_steps=20, thawed=thawed, accumulate=len(factors), **cfg)
    with tf.Graph().as_default(), tf.Session() as session:
        names = ('features/conv1/weights', 'features/layer2/0/conv1/weights', 'neck/bn/beta',
                 'mask/kernel/conv/weights', 'refine/post2/biases')  # fmt: skip
        with tf.variable_scope('siammask'):
            variables = [tf.get_variable(n, [3], initializer=tf.ones_initializer()) for n in names]
        loss = loss_scale * tf.add_n([tf.reduce_sum(v * v) for v in variables])
        op, reported = optimizer.update(lambda part, before: factors[part] * loss, cfg)
        session.run(tf.global_variables_initializer())
        before = session.run(reported)
        session.run(op)
        first = session.run(variables)
        session.run(op)
        second, step = session.run([variables, tf.train.get_global_step()])
        return Updates(dict(zip(names, first)), dict(zip(names, second)), step, before)


def test_update_clips_decays_and_freezes():
    rate = 0.001 * 2 / 64
    first, _, step, loss = one_update({})
    assert loss == 15
    moved = {n for n, v in first.items() if v[0] != 1}
    assert moved == {'neck/bn/beta', 'mask/kernel/conv/weights'} and step == 2
    gradient = 2.0 + 1e-4  # below the clip; decay of biases and norms too
    np.testing.assert_allclose(1 - first['neck/bn/beta'], rate * gradient, rtol=1e-3)
    thawed, _, _, _ = one_update({}, thawed=True)
    np.testing.assert_allclose(
        1 - thawed['features/layer2/0/conv1/weights'], 0.1 * rate * gradient, rtol=2e-2
    )
    assert thawed['features/conv1/weights'][0] == 1
    clipped, _, _, _ = one_update({'highest_loss': 1e9}, loss_scale=1e4)
    norm = 10 / np.sqrt(6)
    np.testing.assert_allclose(1 - clipped['neck/bn/beta'], rate * norm, rtol=1e-3)
    sharp, _, _, _ = one_update({'variant': 'sharp'})
    assert {n for n, v in sharp.items() if v[0] != 1} == {'mask/kernel/conv/weights',
                                                          'refine/post2/biases'}  # fmt: skip


@pytest.mark.parametrize('scale', [np.nan, np.inf, 1e4])
def test_an_update_that_is_not_finite_or_too_high_is_left_out(scale):
    first, second, step, loss = one_update({}, loss_scale=scale)
    assert all((v == 1).all() for v in [*first.values(), *second.values()]) and step == 2
    assert np.isposinf(loss)  # what ends a run that stays there


@pytest.mark.parametrize('factors', [(1.0, np.nan), (np.inf, 1.0, 1.0)])
def test_an_update_with_one_useless_part_is_left_out(factors):
    first, second, step, loss = one_update({}, factors=factors)
    assert all((v == 1).all() for v in [*first.values(), *second.values()]) and step == 2
    assert np.isposinf(loss)


def test_parts_count_alike_and_a_step_is_an_update():
    plain, _, _, loss = one_update({})
    parts, _, step, mean = one_update({}, factors=(0.5, 0.25, 2.25))
    assert step == 2 and mean == pytest.approx(loss)
    for name, value in parts.items():
        np.testing.assert_allclose(value, plain[name], rtol=1e-7)


def test_gradients_of_parts_are_those_of_the_batch():
    """Moving statistics and as many wanted masks in every part, so that means of means are means;
    a part waits for the gradients of the one before."""
    draw, found = np.random.RandomState(2), {}
    values = features(tiny('smoke_sharp'), 4)
    wanted = {
        'cls': np.zeros((4, 3, 3, 5), np.int32),
        'loc': draw.randn(4, 3, 3, 4, 5).astype(np.float32),
        'loc_weight': np.zeros((4, 3, 3, 5), np.float32),
        'mask': draw.randint(-1, 2, (4, 9, 127, 127)).astype(np.int8),
        'mask_weight': np.tile(np.float32([1, 0, 0, 1, 1, 0, 0, 0, 0]), (4, 1)),
    }
    for parts in (1, 2, 4):
        cfg = tiny('smoke_sharp', batch_size=4, accumulate=parts)
        with tf.Graph().as_default(), tf.Session() as session:
            inputs, labels = ({k: tf.constant(v) for k, v in d.items()} for d in (values, wanted))
            waited = []

            def loss_of_part(part, before, cfg=cfg, inputs=inputs, labels=labels, waited=waited):
                own, truth = (optimizer.part_of(x, part, before, cfg) for x in (inputs, labels))
                assert own['search'].shape.as_list() == [4 // cfg.accumulate, 143, 143, 3]
                waits = {op.name for op in own['search'].op.control_inputs}
                waited.append(waits == {tensor.op.name for tensor in before})
                return losses.losses(model.network(own, cfg, False), truth, cfg)['total']

            first = loss_of_part(0, [])
            sgd = tf.train.GradientDescentOptimizer(1.0)
            loss, pairs = optimizer.averaged_gradients(sgd, first, loss_of_part, cfg)
            session.run(tf.global_variables_initializer())
            seeded(session)
            gradients = {v.op.name: g for g, v in pairs}
            found[parts] = session.run([loss, gradients])
            assert all(waited) and len(waited) == parts
    for parts in (2, 4):
        assert found[parts][0] == pytest.approx(found[1][0], rel=1e-5)
        for name, gradient in found[1][1].items():
            largest = np.abs(gradient).max()
            np.testing.assert_allclose(
                found[parts][1][name], gradient, rtol=0, atol=1e-5 * largest, err_msg=name
            )


def test_batch_statistics_are_of_a_part_and_move_with_each():
    name, found = 'siammask/mask/kernel/bn/moving_mean', {}
    for parts in (1, 2):
        cfg = tiny('smoke_sharp', batch_size=2, accumulate=parts)
        with tf.Graph().as_default(), tf.Session() as session:
            inputs = {k: tf.constant(v) for k, v in features(cfg).items()}
            for part in range(parts):
                model.network(optimizer.part_of(inputs, part, [], cfg), cfg, True)
            session.run(tf.global_variables_initializer())
            seeded(session)
            moved = {v.op.name: new for v, new in backbone.moving_statistics()}
            seen = [x for v, x in tf.get_collection(backbone.STATISTICS) if v.op.name == name]
            (variable,) = (v for v in tf.global_variables() if v.op.name == name)
            old = session.run(variable)
            found[parts] = old, session.run(moved[name]), session.run(seen)
    old, moved, (both,) = found[1]
    np.testing.assert_allclose(moved, 0.9 * old + 0.1 * both, rtol=1e-5)
    old, moved, (one, two) = found[2]
    np.testing.assert_allclose(moved, 0.81 * old + 0.09 * one + 0.1 * two, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose((one + two) / 2, both, rtol=1e-4, atol=1e-6)


def test_adam_moves_what_the_stage_trains():
    first, second, step, _ = one_update({'optimizer': 'adam'})
    moved = {n for n, v in second.items() if v[0] != 1}
    assert moved == {'neck/bn/beta', 'mask/kernel/conv/weights'} and step == 2
    np.testing.assert_allclose(1 - first['neck/bn/beta'], 0.001 * 2 / 64, rtol=1e-2)


def test_batch_norm_starts_as_in_the_pinned_original():
    """PyTorch 0.4.1: gamma of neck and branches from U(0, 1); 1 in the backbone (resnet.py)."""
    cfg = tiny('full')
    with tf.Graph().as_default(), tf.Session() as session:
        model.network({k: tf.constant(v) for k, v in features(cfg).items()}, cfg, False)
        session.run(tf.global_variables_initializer())
        gammas = {v.op.name: v for v in tf.global_variables() if v.op.name.endswith('gamma')}
        gammas = session.run(gammas)
    outside = np.concatenate([v for k, v in gammas.items() if '/features/' not in k])
    assert 0 <= outside.min() < 0.2 and 0.8 < outside.max() <= 1
    assert all((v == 1).all() for k, v in gammas.items() if '/features/' in k)


def test_settings_of_the_original(tmp_path):
    plain = config.get_config('full')
    path = HERE.parent / 'SiamMask' / 'config' / 'config.json'
    before = path.read_bytes()
    cfg = config.from_json(config.get_config('full'), str(path))
    assert cfg == plain and path.read_bytes() == before
    tree = json.loads(before)
    tree['hp'].update(penalty_k=0.1, out_size=127)
    tree['train_datasets'].update(search_size=143, base_size=0, size=3)
    tree['lr'] = {'type': 'log', 'start_lr': 0.01, 'end_lr': 0.0025}
    own = tmp_path / 'c.json'
    own.write_text(json.dumps(tree))
    cfg = config.from_json(config.get_config('full'), str(own))
    assert cfg.penalty_k == 0.1 and cfg.variant == 'sharp' and cfg.warmup_epochs == 0
    for change, message in ((('hp', {'instance_size': 287}), 'hp.instance_size'),
                            (('lr', {'type': 'cos'}), 'lr.type'), (('x', 1), 'x = 1')):  # fmt: skip
        own.write_text(json.dumps({**tree, change[0]: change[1]}))
        with pytest.raises(ValueError, match=message):
            config.from_json(config.get_config('full'), str(own))
    for change, message in (
        ({'loss': {'weight': [1, 2]}}, 'expected three weights'),
        ({'hp': {'penalty_k': 'x'}}, 'expected a number'),
        ({'lr': {'warmup': {'epoch': [5]}}}, 'expected a number'),
        ({'train_datasets': {'datasets': ['coco']}}, 'train_datasets.datasets: expected'),
        ({'train_datasets': 3}, 'no config.json of SiamMask'),
    ):
        own.write_text(json.dumps(change))
        with pytest.raises(ValueError, match=message):
            config.from_json(config.get_config('full'), str(own))
    own.write_text(json.dumps({'hp': {'penalty_k': 0.2, 'seg_thr': 0.5}}))
    assert config.tracking_settings(str(own)) == {'penalty_k': 0.2, 'mask_threshold': 0.5}
    own.write_text('{')
    with pytest.raises(ValueError, match='is no JSON'):
        config.from_json(config.get_config('full'), str(own))
    with pytest.raises(FileNotFoundError, match='no such file'):
        config.from_json(config.get_config('full'), str(tmp_path / 'none.json'))


# tracker


def test_crop_fills_with_the_mean_and_rounds_to_even():
    image = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    mean = np.array([10.9, 20.2, 30.0])
    found = tracker.crop_image(image, (3.0, 4.0), 11, 11, mean)
    assert found.dtype == np.float32 and found.shape == (11, 11, 3)
    np.testing.assert_array_equal(found[0, 0], [10, 20, 30])
    np.testing.assert_array_equal(found[2:, 3:], image[0:9, 0:8])  # x0 = round(3 - 6) = -3
    np.testing.assert_array_equal(
        tracker.crop_image(image, (5.5, 5.5), 4, 4, mean)[0, 0], image[3, 3]
    )
    outside = tracker.crop_image(image, (500.0, 4.0), 11, 11, mean)
    assert (outside == [10, 20, 30]).all()


@pytest.mark.parametrize(
    'box', [(10, 10, 0, 5), (-50, 10, 20, 20), (10, 10, np.nan, 5), (10, 10, 5, -1)]
)
def test_boxes_without_an_area_in_the_picture(box):
    with pytest.raises(ValueError, match='has no area in an image of 40x30'):
        tracker.start(None, np.zeros((30, 40, 3), np.uint8), box)


def test_paste_puts_a_mask_lies_where_its_cell_does():
    mask = np.ones((63, 63), np.float32)
    found = tracker.paste(mask, 2 * 625 + 12 * 25 + 12, (100 - 127.5, 90 - 127.5), 255, (200, 220))
    rows, columns = np.nonzero(found > 0.5)  # the middle cell: 127 px about (100, 90)
    np.testing.assert_allclose(columns.mean(), 100, atol=1.5)
    np.testing.assert_allclose([np.ptp(rows), np.ptp(columns)], 126, atol=3)
    assert found.min() == -1


def test_rotated_box_or_the_plain_one():
    shape = np.zeros((100, 100), bool)
    place, size = np.array([50.0, 40.0]), np.array([20.0, 10.0])
    np.testing.assert_array_equal(
        tracker.rotated_box(shape, place, size)[[0, 2]], [[40, 35], [60, 45]]
    )
    shape[20:40, 10:60] = True
    shape[60:64, 60:64] = True
    found = tracker.rotated_box(shape, place, size)
    np.testing.assert_allclose([found.min(0), found.max(0)], [[10, 20], [59, 39]], atol=0.01)


def test_merging_objects():
    a, b = np.full((4, 4), 0.2, np.float32), np.full((4, 4), 0.4, np.float32)
    a[0], b[1] = 0.9, 0.8
    ids = tracker.merge({7: {'mask': a}, 2: {'mask': b}}, (4, 4), 0.5)
    assert ids[0].tolist() == [7] * 4 and ids[1].tolist() == [2] * 4 and not ids[2:].any()


# VOT


def test_overlap_is_that_of_the_toolkit_to_the_bit():
    first, second = siammask_toolkit.overlap_cases()
    for i, size in enumerate(((320, 240), (319, 239), None)):
        found = vot.overlaps(first, second, size)
        np.testing.assert_array_equal(found, RECORDED[f'overlap{i}'])
        assert (found > 0).sum() > 250


def test_overlap_of_boxes_counts_both_borders():
    box = vot.polygon([10, 10, 4, 2])
    found = vot.overlaps(np.stack([box] * 3), np.stack([box, box + 1, box + 50]), (100, 100))
    np.testing.assert_allclose(found, [1, 8 / (15 + 15 - 8), 0], rtol=1e-6)
    gone = np.full(8, np.nan, np.float32)
    assert vot.overlaps(gone[None], box[None], (100, 100))[0] == 0


@pytest.mark.parametrize('count', [1, 15])
def test_scores_are_those_of_the_toolkit(count):
    sequences, runs = [], {}
    for name, (boxes, (width, height), found) in siammask_toolkit.score_cases().items():
        sequences.append(
            dict(name=name, boxes=boxes.astype(np.float32), width=width, height=height)
        )
        runs[name] = found[:count]
    mine = vot.score(sequences, runs, (100, 356))
    row = [mine['accuracy'], mine['robustness'], mine['lost'], mine['eao']]
    row += [vot.eao(mine['curve'], span) for span in ((20, 60), (46, 291))]
    np.testing.assert_allclose(row, RECORDED[f'scores{count}'], atol=1e-6)
    assert sum(mine['per_sequence'][s['name']]['lost'] for s in sequences) == pytest.approx(
        mine['lost']
    )


def test_runs_are_written_and_read(tmp_path):
    sequence = {'name': 'a', 'frames': ['x'] * 4}
    run = [1, np.array([1.23456, 2, 3, 4]), 2, np.arange(8.0)]
    vot.write_run(str(tmp_path / 'baseline' / 'a' / 'a_001.txt'), run)
    text = (tmp_path / 'baseline' / 'a' / 'a_001.txt').read_text()
    assert text.split('\n')[:3] == ['1', '1.2346,2.0000,3.0000,4.0000', '2']
    (found,) = vot.read_runs(str(tmp_path), sequence)
    assert found[0] == 1 and found[2] == 2 and len(found[3]) == 8
    for k in range(2, 16):
        (tmp_path / 'baseline' / 'a' / f'a_{k:03d}.txt').write_text(text)
    assert len(vot.read_runs(str(tmp_path), sequence)) == 15
    with pytest.raises(ValueError, match='expected 9 lines'):
        vot.read_runs(str(tmp_path), {'name': 'a', 'frames': ['x'] * 9})
    with pytest.raises(FileNotFoundError, match='no results of b'):
        vot.read_runs(str(tmp_path), {'name': 'b', 'frames': []})


def test_sequences_of_all_forms(drawn, tmp_path):
    found = vot.load(drawn['vot'])
    assert [s['name'] for s in found] == ['drawn1', 'drawn2', 'drawn3']
    assert found[0]['boxes'].shape == (24, 8) and found[0]['width'] == 320
    (single,) = vot.load(str(Path(drawn['vot']) / 'drawn2'))
    np.testing.assert_array_equal(single['boxes'], found[1]['boxes'])
    names = [str(Path(f).relative_to(drawn['vot'])) for f in single['frames']]
    entry = {'img_names': names, 'gt_rect': single['boxes'].tolist(), 'width': 320, 'height': 180}
    path = Path(tmp_path) / 'VOT2018.json'
    path.write_text(json.dumps({'drawn2': entry}))
    assert vot.load(str(path))[0]['frames'][0] == str(tmp_path / names[0])
    entry.pop('width')  # as in OTB's
    beside = Path(drawn['vot']) / 'sizes.json'
    beside.write_text(json.dumps({'drawn2': entry}))
    assert (vot.load(str(beside))[0]['width'], vot.load(str(beside))[0]['height']) == (320, 180)
    beside.unlink()
    entry['width'] = 320
    path.write_text(json.dumps({'drawn2': {**entry, 'img_names': names[:-1]}}))
    with pytest.raises(ValueError, match='not as many'):
        vot.load(str(path))
    with pytest.raises(FileNotFoundError, match='no sequences at'):
        vot.load(str(tmp_path / 'nothing'))
    rect = tmp_path / 'otb'
    (rect / 'img').mkdir(parents=True)
    cv2.imwrite(str(rect / 'img' / '0001.jpg'), np.zeros((30, 40, 3), np.uint8))
    (rect / 'groundtruth_rect.txt').write_text('5\t6\t10\t8\n')
    (one,) = vot.load(str(rect))
    np.testing.assert_array_equal(one['boxes'][0], [5, 6, 14, 6, 14, 13, 5, 13])
    np.testing.assert_array_equal(one['regions'][0], [5, 6, 15, 6, 15, 14, 5, 14])
    assert tracker.center_box(one['boxes'][0]) == pytest.approx((9.5, 9.5, 10, 8))
    rectangles = {**entry, 'gt_rect': [[0.1, 0.7, 30.3, 20.9]] * 24}
    path.write_text(json.dumps({'a': rectangles}))
    (one,) = vot.load(str(path))
    expected = 0.1 + 29.3 / 2, 0.7 + 19.9 / 2, 30.3, 20.9  # float64, of the first and last pixels
    np.testing.assert_allclose(tracker.center_box(one['boxes'][0]), expected, rtol=1e-14)
    for text in ('[]', '{"a": 3}', '{"a": {"img_names": ["x"]}}'):
        path.write_text(text)
        with pytest.raises(ValueError, match='is no VOT json'):
            vot.load(str(path))
    (rect / 'groundtruth_rect.txt').write_text('5,6,10\n')
    with pytest.raises(ValueError, match='4 or 8 numbers'):
        vot.load(str(rect))
    (rect / 'groundtruth_rect.txt').write_text('5,6,10,x\n')
    with pytest.raises(ValueError, match='expected 4 or 8 numbers of pixels'):
        vot.load(str(rect))


def test_success_and_precision_are_those_of_otb():
    """Three frames annotated, one that shows nothing, one of which the tracker says nothing."""
    truth = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 0, 0], [0, 0, 9, 9]])
    found = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [40, 30, 10, 10], [0, 0, 9, 9], [np.nan] * 4])
    expected = [1, 50 / 150, 0, -1, -1]
    np.testing.assert_allclose(evaluate_otb.overlaps(truth, found), expected)
    assert evaluate_otb.distances(truth, found).tolist() == [0, 5, 50, np.inf, np.inf]
    curve = evaluate_otb.success(truth, found)
    assert curve.shape == (21,) and curve[0] == 0.4  # an overlap of 0 is not above 0
    assert curve[6] == 0.4 and curve[7] == 0.2 and curve[19] == 0.2  # 1/3 is above 0.30
    assert curve[20] == 0  # nothing is above 1
    assert curve.mean() == pytest.approx((7 * 0.4 + 13 * 0.2) / 21)
    curve = evaluate_otb.precision(truth, found)
    assert curve.shape == (51,) and curve[[0, 4, 5, 49, 50]].tolist() == [0.2, 0.2, 0.4, 0.4, 0.6]
    turned = [[10, 0, 20, 10, 10, 20, 0, 10]]
    assert evaluate_otb.boxes(turned).tolist() == [[0, 0, 20, 20]]


@pytest.mark.parametrize('text, message', [
    ('1,2,3,4', 'expected 2 lines of x,y,width,height, found 1'),
    ('1,2,3,4\n1 2 3', "found 2, line 2 with others"),
    ('1,2,3,4\n1,2,3,x', "'x'; expected 4 numbers a line"),
])  # fmt: skip
def test_otb_results_of_another_form_are_refused(tmp_path, text, message):
    (tmp_path / 'a.txt').write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate_otb.read_boxes(str(tmp_path), {'name': 'a', 'frames': ['1.jpg', '2.jpg']})


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    for number in (1, 2, 10):
        cv2.imwrite(str(tmp_path / f'{number}.jpg'), np.zeros((30, 40, 3), np.uint8))
    (tmp_path / 'groundtruth.txt').write_text('5,6,10,8\n' * 3)
    (one,) = vot.load(str(tmp_path))
    assert [files.stem(path) for path in one['frames']] == ['1', '2', '10']


@pytest.mark.parametrize('path, asked, expected', [
    ('/data/VOT2019_workspace/VOT2016.json', None, (108, 371)),
    ('/data/VOT2019', None, (46, 291)),
    ('/data/VOT2019/bag', None, vot.LEGACY),
    ('/data/VOT2019/other.json', 'VOT2016', (108, 371)),
    ('/data/VOT2019', '20,60', (20, 60)),
])  # fmt: skip
def test_interval_is_told_by_the_files_own_name(path, asked, expected):
    assert evaluate_vot.interval_of(path, asked) == expected


def test_points_of_a_search():
    points = evaluate_vot.grid(['penalty_k=0.0,0.2,0.1', 'tracker_rate=0.2,0.4,0.1'])
    assert len(points) == 4 and {'penalty_k', 'tracker_rate'} == set(points[0])
    assert evaluate_vot.grid(None) == [{}]
    for text in ('seed=1,2,1', 'penalty_k=1,2', 'penalty_k=a,b,c', 'penalty_k=2,1,0.1',
                 'penalty_k=1,2,0'):  # fmt: skip
        with pytest.raises(ValueError, match='expected start,stop,step'):
            evaluate_vot.grid([text])


def test_the_protocol_starts_again_five_frames_after_a_failure(monkeypatch, drawn):
    """A tracker that answers the corner is lost; an unknown annotation is no failure."""
    (sequence,) = vot.load(str(Path(drawn['vot']) / 'drawn1'))
    sequence['boxes'][10] = np.nan  # an unknown annotation is not lost
    places = []

    def start(network, image, box):
        places.append(box)
        return {}

    def step(network, image, states, hyper, with_masks=True):
        return [{'polygon': np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]]), 'axis_aligned': None}]

    monkeypatch.setattr(tracker, 'start', start)
    monkeypatch.setattr(tracker, 'step', step)
    run = tracker.supervised(None, sequence, {})
    codes = [e if isinstance(e, int) else 'r' for e in run]
    assert codes[:8] == [1, 2, 0, 0, 0, 0, 1, 2]
    assert len(run) == 24 and len(places) == codes.count(1) and codes.count(2) >= 3


def test_converted_plain_resnet_answers_like_it(tmp_path):
    """torchvision's input and shortcuts: the first layer and layer1 equal those of plain ResNet."""
    draw = np.random.RandomState(0)
    shapes = convert.network_shapes('base')
    found = {}
    for name, shape in shapes.items():
        if not name.startswith('siammask/features/'):
            continue
        parts = name[len('siammask/features/') :].replace('shortcut_bn', 'downsample.1')
        parts = parts.replace('shortcut', 'downsample.0').replace('/', '.')
        leaves = {'weights': 'weight', **{v: k for k, v in convert.LEAVES.items()}}
        for ours, theirs in leaves.items():
            parts = parts[: -len(ours)] + theirs if parts.endswith('.' + ours) else parts
        value = draw.rand(*shape).astype(np.float32) * 0.1 + 0.01
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
        small = parts in convert.SHORTCUTS
        found[parts] = value[:, :, 1:2, 1:2] if small else value
    found['fc.weight'] = np.zeros((10, 2048))
    assert convert.detect(found) == 'torchvision'
    arrays, left_out = convert.convert(found, 'torchvision')
    assert left_out == ['fc.weight'] and convert.settings_of(arrays) is None
    assert arrays['siammask/features/layer3/0/shortcut/weights'][0, 0].max() == 0
    rgb = draw.rand(1, 31, 31, 3)  # torchvision's input before its normalisation
    plain = (rgb - convert.MEAN) / convert.STD
    ours = rgb[..., ::-1] * 255
    with tf.Graph().as_default(), tf.Session() as session:
        first = [
            tf.nn.conv2d(tf.constant(x, tf.float32), tf.constant(w, tf.float32), 2, 'VALID')
            for x, w in ((plain, found['conv1.weight'].transpose(2, 3, 1, 0)),
                         (ours, arrays['siammask/features/conv1/weights']))
        ]  # fmt: skip
        theirs, mine = session.run(first)
    moved = mine - arrays['siammask/features/bn1/moving_mean'] + found['bn1.running_mean']
    np.testing.assert_allclose(moved, theirs, atol=1e-4)


def test_convert_refuses_other_files(tmp_path):
    cases = {
        'a.weight': 'unknown weights',
        'model/siammask/rpn_model/conv2d_3/kernel': 'Ascend port',
        'module.features.features.conv1.weight': 'missing or of another',
    }
    for name, message in cases.items():
        path = tmp_path / 'x.npz'
        np.savez(path, **{name: np.zeros((64, 3, 7, 7), np.float32)})
        with pytest.raises(ValueError, match=message):
            found = dict(np.load(path))
            convert.convert(found, convert.detect(found))


@pytest.mark.parametrize('before, after', [(15, 31), (31, 61), (61, 127)])
def test_nearest_neighbors_for_onnx(before, after):
    """The sizes of the refine module: indices give what TensorFlow's operator gives."""
    x = np.random.RandomState(0).rand(2, before, before, 3).astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as session:
        image = tf.constant(x)
        forms = [model._resize_nearest(image, after, EasyDict(device=d)) for d in ('cpu', 'onnx')]
        found = session.run(forms)
    assert found[0].shape == (2, after, after, 3) and np.array_equal(*found)
