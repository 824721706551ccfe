"""MANet's programs: both stages, resume, evaluation, demo in rounds, import, export, the exact
messages of faults."""

from __future__ import annotations

import csv
import json
import pickle
import shutil
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from common import masks, weights
from MANet import (
    cli,
    config,
    convert,
    corrections,
    data,
    demo,
    evaluate,
    export,
    inference,
    model,
    session,
    train,
)

NARROW = {
    'channels': 0.05,
    'blocks': [1, 1, 1, 1],
    'size': 32,
    'max_distance': 2,
    'stage1_steps': 1,
    'cycle': 1,
    'log_steps': 1,
    'checkpoint_steps': 99,
    'keep_checkpoints': 9,
    'workers': 0,
    'test_height': 48,
    'test_width': 80,
    'interactions': 2,
}
SMALL = ['--device=cpu', '--batch_size=1', '--preset=smoke']
SMALL += [f'--set={key}={value}' for key, value in NARROW.items()]


@pytest.fixture(scope='module')
def run(drawn, tmp_path_factory):
    """Folder of a finished short training: an update of stage 1 and two of stage 2, in rounds 0 and
    1 of scribbles."""
    folder = tmp_path_factory.mktemp('run')
    flags = [f'--data_path={drawn["davis2017"]}', f'--output_path={folder}', '--steps=3']
    assert train.main([*SMALL, *flags, '--set=summary_steps=1']) == 0
    return folder


def test_training_can_be_watched(run, watched):
    watched(run, short=True)


def settings_of(run):
    cfg = config.get_config('smoke')
    cfg.update(json.loads((run / 'config.json').read_text()))
    cfg.device = 'cpu'
    return cfg


def value(folder, step, name):
    return tf.train.load_variable(f'{folder}/model.ckpt-{step}', f'manet/{name}')


def test_each_stage_trains_its_part(run):
    for name in ('backbone/conv1/weights', 'bn2/moving_mean', 'dynamic_seghead/conv/weights'):
        assert not np.array_equal(value(run, 0, name), value(run, 1, name)), name
        assert np.array_equal(value(run, 1, name), value(run, 3, name)), name
    for name in ('inter_seghead/conv/weights', 'inter_seghead/layer1/bn1/moving_mean'):
        assert np.array_equal(value(run, 0, name), value(run, 1, name)), name
        assert not np.array_equal(value(run, 1, name), value(run, 3, name)), name
    assert sorted(p.name for p in (run / 'rounds').iterdir()) == ['1.npz']
    with np.load(str(run / 'rounds' / '1.npz')) as kept:
        strokes, mask = kept['drawn-a/strokes'], kept['drawn-a/mask']
        assert strokes.shape == mask.shape == (120, 213) and (strokes >= 0).any()


def test_checkpoints_of_both_stages_have_the_same_variables(run):
    """Momenta of every trained variable included, under the names of MomentumOptimizer."""
    names = [dict(tf.train.list_variables(f'{run}/model.ckpt-{step}')) for step in (1, 3)]
    assert names[0] == names[1]
    with tf.Graph().as_default():
        cfg = settings_of(run)
        model.embed(tf.zeros([1, 32, 32, 3]), cfg)
        model.make_every_variable(cfg)
        trained = {f'{v.op.name}/Momentum' for v in tf.trainable_variables()}
    assert {name for name in names[0] if name.endswith('/Momentum')} == trained
    name = 'dynamic_seghead/conv/weights/Momentum'
    assert value(run, 1, name).any() and np.array_equal(value(run, 1, name), value(run, 3, name))


def test_resume_between_rounds(run, drawn, tmp_path, capsys):
    copy = tmp_path / 'b'
    shutil.copytree(str(run), str(copy))
    for path in copy.glob('model.ckpt-3.*'):
        path.unlink()
    tf.train.update_checkpoint_state(str(copy), f'{copy}/model.ckpt-2')
    flags = [f'--data_path={drawn["davis2017"]}', f'--output_path={copy}', '--steps=3']
    assert train.main([*SMALL, *flags]) == 0
    assert 'resuming from step 2' in capsys.readouterr().out
    name = 'inter_seghead/layer2/conv2/weights'
    np.testing.assert_allclose(value(copy, 3, name), value(run, 3, name), atol=1e-5)


def test_corrections_of_a_damaged_truth(drawn):
    """Without the network's answers; the round after takes the strokes of the one before."""
    cfg = config.get_config('smoke')
    cfg.update(data_path=drawn['davis2017'], counts={'drawn-a': 2}, true_result=False)
    cfg.examples = ['drawn-a']
    first = corrections.correct_all(None, cfg, {}, 1)['drawn-a']
    truth = masks.read_mask(f'{drawn["davis2017"]}/Annotations/480p/drawn-a/{first.frame:05d}.png')
    truth = session.resize_labels(truth, first.mask.shape)
    assert first.mask.shape == (120, 213) and (first.strokes >= 0).any()
    assert (first.mask == truth).mean() > 0.7 and (first.mask != truth).any()
    again = corrections.correct_all(None, cfg, {}, 1)['drawn-a']
    assert np.array_equal(first.strokes, again.strokes)


def test_stage2_starts_from_stage1(run, drawn, tmp_path, fails):
    flags = [*SMALL, f'--data_path={drawn["davis2017"]}', f'--output_path={tmp_path}/run']
    flags += ['--set=stage1_steps=0', '--steps=1']
    assert 'stage 2 starts from a checkpoint of stage 1' in fails(train, *flags)
    name = 'manet/backbone/conv1/weights'
    prefix = cli.write_checkpoint(
        {name: value(run, 1, 'backbone/conv1/weights')}, f'{tmp_path}/coco/m', None, 'x'
    )
    message = fails(train, *flags, f'--init_from={prefix}')  # DeepLab alone
    assert (
        "has no ['manet/embedding_conv/weights', 'manet/dynamic_seghead/conv/weights']" in message
    )
    args = cli.options(flags_of_training(), init_from=f'{run}/model.ckpt-1')
    train.check_stage2_start(args)


def flags_of_training():
    flags = cli.parser('')
    cli.add_training_flags(flags)
    return flags


def test_check_data_and_dry_run(drawn, tmp_path, capsys):
    flags = [*SMALL, f'--output_path={tmp_path}/run']
    flags.append(f'--data_path={drawn["davis2017"]}')
    assert train.main([*flags, '--check_data']) == 0
    assert json.loads(capsys.readouterr().out.strip().split('\n')[-1])['frames'] == 90
    assert train.main([*flags, '--dry_run', '--steps=7']) == 0
    printed = capsys.readouterr().out
    assert 'images float32 [1, 3, 32, 32, 3]' in printed and '7 steps' in printed
    assert not (tmp_path / 'run').exists()


@pytest.mark.skipif(
    not tf.__version__.startswith('1.'), reason='learning is tested on the reference stack'
)
def test_training_lowers_the_loss(drawn):
    """40 updates of stage 1 on drawn sequences, losses of examples never drawn from."""
    cfg = config.get_config('smoke')
    cfg.update(device='cpu', workers=0, channels=0.06, blocks=[1, 1, 1, 1], size=48,
               max_distance=2, batch_size=2, train_steps=200, start_step=0, stage=1,
               init_from='', data_path=drawn['davis2017'])  # fmt: skip
    cfg.counts = data.instances(cfg.data_path, 'train')
    cfg.examples, cfg.objects = sorted(cfg.counts), max(cfg.counts.values())
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.set_random_seed(1)
        batch = tf.data.make_one_shot_iterator(data.input_fn(cfg, True)).get_next()
        held = tf.data.make_one_shot_iterator(data.input_fn(cfg, False)).get_next()
        held = [sess.run(held) for _ in range(8)]
        spec = train.model_fn(*batch, tf.estimator.ModeKeys.TRAIN, cfg)
        feed = tuple(
            {k: tf.placeholder(v.dtype, v.shape) for k, v in part.items()} for part in held[0]
        )
        labels = dict(feed[1], step=tf.constant(0))
        scalars = train.losses(model.network(feed[0], cfg, True), labels, cfg)
        sess.run(tf.global_variables_initializer())

        def measured():
            values = []
            for example in held:
                pairs = [(t, example[k][n]) for k in (0, 1) for n, t in feed[k].items()]
                values.append(sess.run(scalars, dict(pairs)))
            return {key: np.mean([v[key] for v in values]) for key in values[0]}

        before = measured()
        for _ in range(40):
            sess.run(spec.train_op)
        after = measured()
    assert after['total'] < 0.7 * before['total'], (before, after)
    assert after['accuracy'] > before['accuracy']


def test_evaluation_writes_the_challenges_files(run, drawn, tmp_path, capsys, reported):
    flags = [f'--data_path={drawn["davis2017"]}', f'--checkpoint={run}', '--device=cpu']
    command = [*flags, f'--output_path={tmp_path}', '--overlay', '--report']
    assert evaluate.main([*command, '--sequences=drawn-x,drawn-y']) == 0
    printed = capsys.readouterr().out
    assert 'round 2: J 0.' in printed and '"auc"' in printed
    with open(str(tmp_path / 'result.csv')) as f:
        rows = list(csv.DictReader(f))
    assert tuple(rows[0])[1:] == evaluate.COLUMNS and len(rows) == 2 * 10 * (2 + 3)
    assert {r['interaction'] for r in rows} == {'1', '2'}
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert 0 <= summary['auc'] <= 1 and len(summary['curve']['J']) == 4
    assert summary['auc'] != summary['without_embedding']['auc']  # what the first round pays
    assert '"without_embedding"' in printed and 'for tests only' in printed
    means = [float(r['jaccard']) for r in rows if r['interaction'] == '2']
    groups = {}
    for r in rows:
        if r['interaction'] == '2':
            groups.setdefault((r['sequence'], r['object_id']), []).append(float(r['jaccard']))
    assert abs(summary['curve']['J'][2] - np.mean([np.mean(v) for v in groups.values()])) < 1e-9
    assert len(means) == 50 and cv2.imread(str(tmp_path / 'curve.png')).shape == (400, 640, 3)
    assert (tmp_path / 'overlay' / 'drawn-y_1.png').is_file()
    assert masks.read_mask(str(tmp_path / 'masks/drawn-x/1/00009.png')).shape == (180, 320)
    results = json.loads((tmp_path / 'results.json').read_text())
    assert results['global']['AUC of J'] == summary['auc']
    row = results['rounds']['drawn-y/1_2']
    assert row['J'][-1] == results['per_sequence']['drawn-y/1_2']['J-Mean']
    assert np.mean(results['per_frame']['drawn-y/1_2']['J']) == pytest.approx(row['J'][-1])
    assert 'mean of all frames, by round' in reported(tmp_path / 'report.html')


def test_accuracy_of_a_training(run, drawn, tmp_path, capsys, monkeypatch):
    cfg, root = settings_of(run), drawn['davis2017']
    cfg.interactions = 1
    (tmp_path / 'ImageSets' / '2017').mkdir(parents=True)
    (tmp_path / 'ImageSets' / '2017' / 'train.txt').write_text('drawn-a\n')
    (tmp_path / 'ImageSets' / '2017' / 'val.txt').write_text('drawn-x\n')
    for name in ('JPEGImages', 'Annotations'):
        (tmp_path / name).symlink_to(Path(root) / name)
    assert 0 <= evaluate.accuracy(cfg, str(tmp_path), str(run), str(tmp_path / 'o')) <= 1
    (tmp_path / 'ImageSets' / '2017' / 'val.txt').unlink()
    assert evaluate.accuracy(cfg, str(tmp_path), str(run), str(tmp_path / 'o')) is None
    assert "no TrainAccuracy: no list of split 'val'" in capsys.readouterr().out
    assert evaluate.accuracy(cfg, root, f'{run}/model.ckpt-1', str(tmp_path / 'o')) is None
    assert 'no TrainAccuracy: the interaction head of' in capsys.readouterr().out


def test_messages_of_evaluation(run, drawn, tmp_path, fails):
    flags = [f'--data_path={drawn["davis2017"]}', f'--output_path={tmp_path}/o', '--device=cpu']
    message = fails(evaluate, *flags, f'--checkpoint={tmp_path}/absent')
    assert 'no checkpoint at' in message
    message = fails(evaluate, *flags, f'--checkpoint={run}', '--set=blocks=[1,1,2,1]')
    assert 'is not of this network' in message
    message = fails(evaluate, *flags, f'--checkpoint={run}', '--set=metric=IoU')
    assert 'metric=IoU: known are J, F, J_AND_F' in message
    message = fails(evaluate, *flags, f'--checkpoint={run}', '--sequences=nobody')
    assert 'nobody: not in split val' in message
    tree = tmp_path / 'tree'
    shutil.copytree(drawn['davis2017'], str(tree))
    (tree / 'Annotations' / '480p' / 'drawn-x' / '00004.png').unlink()
    message = fails(evaluate, f'--data_path={tree}', f'--output_path={tmp_path}/o',
                    f'--checkpoint={run}', '--sequences=drawn-x')  # fmt: skip
    assert 'drawn-x: 10 frames, 9 masks to score with' in message
    if not _installed('davisinteractive'):
        message = fails(evaluate, *flags, f'--checkpoint={run}', '--backend=davisinteractive')
        assert 'davisinteractive==1.0.4' in message


class Service:
    """What davisinteractive's session is asked: one sample of two rounds."""

    def __init__(self, **settings):
        self.settings, self.rounds, self.masks = settings, 0, []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def next(self):
        return self.rounds < 2

    def get_scribbles(self, only_last):
        self.rounds += 1
        frames = [[] for _ in range(10)]
        if self.rounds == 1:  # in the second round nothing is wrong
            frames[4] = [{'path': [[0.2, 0.3], [0.4, 0.5]], 'object_id': 1}]
        return 'drawn-x', {'sequence': 'drawn-x', 'scribbles': frames}, self.rounds == 1

    def submit_masks(self, masks):
        self.masks.append(masks)

    def get_global_summary(self, path):
        Service.last = self
        return {'auc': 0.5, 'metric_at_threshold': {'threshold': 60, 'J': 0.4}}


def test_davisinteractive_as_evaluator(run, drawn, tmp_path, monkeypatch, capsys, fails):
    """Against a stand-in of its two classes; the README says what ran with the package."""
    package = types.ModuleType('davisinteractive')
    package.session, package.dataset = (types.ModuleType(n) for n in ('session', 'dataset'))
    package.session.DavisInteractiveSession = Service
    package.dataset.Davis = types.SimpleNamespace(sets={'val': ['bear']}, dataset={})
    monkeypatch.setitem(sys.modules, 'davisinteractive', package)
    for name in ('session', 'dataset'):
        monkeypatch.setitem(sys.modules, f'davisinteractive.{name}', getattr(package, name))
    for name in ('JPEGImages', 'Annotations', 'ImageSets'):
        (tmp_path / name).symlink_to(Path(drawn['davis2017']) / name)
    flags = [f'--data_path={tmp_path}', f'--output_path={tmp_path}/o', f'--checkpoint={run}']
    flags += ['--device=cpu', '--backend=davisinteractive', '--sequences=drawn-x']
    assert 'needs human scribbles' in fails(evaluate, *flags)
    (tmp_path / 'Scribbles' / 'drawn-x').mkdir(parents=True)
    scribbles(tmp_path / 'Scribbles' / 'drawn-x' / '001.json', 10, f4=[(1, 0.2, 0.3, 0.4, 0.5)])
    assert evaluate.main(flags) == 0
    assert '"auc": 0.5' in capsys.readouterr().out
    known = package.dataset.Davis
    assert known.sets['val'] == ['drawn-x'] and known.dataset['drawn-x']['num_objects'] == 2
    assert known.dataset['drawn-x']['image_size'] == [320, 180]
    first, second = Service.last.masks
    assert first.shape == (10, 180, 320) and np.array_equal(first, second)
    assert Service.last.settings['max_time'] == 60 and Service.last.settings['subset'] == 'val'


def _installed(name):
    import importlib.util

    return importlib.util.find_spec(name) is not None


def scribbles(path, count, **strokes):
    """Writes {frame: [(id, x0, y0, x1, y1)]} as a scribble file."""
    frames = [[] for _ in range(count)]
    for frame, lines in strokes.items():
        frames[int(frame[1:])] = [
            {'path': [[a, b], [c, d]], 'object_id': k} for k, a, b, c, d in lines
        ]
    path.write_text(json.dumps({'sequence': 'x', 'scribbles': frames}))
    return path


@pytest.fixture(scope='module')
def clip(drawn, tmp_path_factory):
    """Folder of a short video: four frames of two objects."""
    folder = tmp_path_factory.mktemp('clip') / 'frames'
    folder.mkdir()
    frames = Path(drawn['davis2017']) / 'JPEGImages' / '480p' / 'drawn-x'
    for path in sorted(frames.iterdir())[:4]:
        shutil.copy(str(path), str(folder))
    return folder


def test_demo_in_rounds(run, clip, tmp_path, fails):
    first = scribbles(tmp_path / '1.json', 4, f2=[(1, 0.2, 0.3, 0.4, 0.5), (2, 0.6, 0.6, 0.7, 0.8)])
    again = scribbles(tmp_path / '2.json', 4, f0=[(0, 0.1, 0.9, 0.3, 0.9)], f3=[(1, 0, 0, 1, 1)])
    source = tmp_path / 'clip.mp4'
    masks.write_video(str(source), (image for _, image in masks.read_frames(str(clip))))
    flags = [f'--checkpoint={run}', '--device=cpu']
    out = tmp_path / 'out'
    command = [*flags, f'--input={clip}', f'--output_path={out}']
    command += [f'--scribbles={first}', f'--scribbles={again}']
    assert demo.main(command) == 0
    log = json.loads((out / 'session.json').read_text())['rounds']
    assert [r['frame'] for r in log] == [2, 0, 3] and [r['round'] for r in log] == [1, 2, 3]
    assert len(list((out / 'masks').iterdir())) == 4 and (out / 'round3.png').is_file()
    assert sum(1 for _ in masks.read_video(str(out / 'overlay.mp4'))) == 4
    half = [*flags, f'--input={clip}', f'--output_path={tmp_path}/a', f'--scribbles={first}']
    assert demo.main([*half, f'--save_state={tmp_path}/half.npz']) == 0
    # the corrections name object 1 alone: the number of objects is that of the file
    rest = [*flags, f'--output_path={tmp_path}/b', f'--scribbles={again}']
    rest += [f'--resume={tmp_path}/half.npz', f'--input={clip}']
    assert demo.main(rest) == 0
    for path in sorted((out / 'masks').iterdir()):
        resumed = masks.read_mask(str(tmp_path / 'b' / 'masks' / path.name))
        assert np.array_equal(resumed, masks.read_mask(str(path)))
    played = [*flags, f'--input={clip}', f'--resume={out}/session.json']  # the strokes alone
    assert demo.main([*played, f'--output_path={tmp_path}/c']) == 0
    assert demo.main([*rest, f'--resume={tmp_path}/half.json']) == 0  # its arrays beside it
    for path in sorted((out / 'masks').iterdir()):
        for folder in ('b', 'c'):
            resumed = masks.read_mask(str(tmp_path / folder / 'masks' / path.name), True)
            assert np.array_equal(resumed, masks.read_mask(str(path), True))
    message = fails(demo, *rest, '--num_objects=3')
    assert '--num_objects=3: the resumed session has 2 objects' in message
    more = scribbles(tmp_path / '3.json', 4, f1=[(3, 0, 0, 1, 1)])
    assert 'object 3: the video has 2' in fails(demo, *rest, f'--scribbles={more}')
    message = fails(demo, *rest, '--keep_aspect')
    assert 'half.npz is of another size' in message or 'another test_width' in message
    message = fails(demo, *rest[:-1], f'--input={source}')
    assert 'half.npz was made with another input' in message
    message = fails(demo, *command[:2], f'--input={source}', *command[3:])
    assert 'holds results of something else' in message


def test_demo_of_a_video_file(run, clip, tmp_path):
    source = tmp_path / 'clip.mp4'
    masks.write_video(str(source), (image for _, image in masks.read_frames(str(clip))))
    strokes = {'path': [[0.2, 0.3], [0.4, 0.5]], 'object_id': 1}
    (tmp_path / 's.json').write_text(json.dumps({'frame': 3, 'scribbles': [strokes]}))
    flags = [f'--checkpoint={run}', '--device=cpu', f'--scribbles={tmp_path}/s.json']
    assert demo.main([*flags, f'--input={source}', f'--output_path={tmp_path}/o']) == 0
    assert json.loads((tmp_path / 'o/session.json').read_text())['rounds'][0]['frame'] == 3
    assert sum(1 for _ in masks.read_video(str(tmp_path / 'o' / 'overlay.mp4'))) == 4


def test_demo_from_a_mask(run, clip, drawn, tmp_path):
    mask = Path(drawn['davis2017']) / 'Annotations' / '480p' / 'drawn-x' / '00000.png'
    flags = [f'--input={clip}', f'--mask={mask}', f'--checkpoint={run}', '--device=cpu']
    assert demo.main([*flags, f'--output_path={tmp_path}', '--keep_aspect']) == 0
    assert (tmp_path / 'round1.png').is_file()
    found = masks.read_mask(str(tmp_path / 'masks' / '00000.png'))
    assert np.array_equal(found, masks.read_mask(str(mask)))


def test_many_and_tiny_objects(run, clip, tmp_path):
    """25 objects in a first mask, one of them a pixel that the embeddings' size would lose."""
    ids = np.zeros((180, 320), np.uint8)
    for k in range(24):
        ids[20 * (k // 5) : 20 * (k // 5) + 14, 60 * (k % 5) : 60 * (k % 5) + 50] = k + 1
    ids[171, 301] = 25
    assert (session.resize_labels(ids, (12, 20)) != 25).all()
    found = session.stroke_cells(ids.astype(np.int32), (12, 20))
    assert set(np.unique(found)) == set(range(26)) and (found == 25).sum() == 1
    cv2.imwrite(str(tmp_path / 'm.png'), ids)
    flags = [f'--input={clip}', f'--mask={tmp_path}/m.png', f'--checkpoint={run}']
    assert demo.main([*flags, f'--output_path={tmp_path}/out', '--device=cpu']) == 0
    assert len(list((tmp_path / 'out' / 'masks').iterdir())) == 4


def test_messages_of_demo(run, clip, tmp_path, fails, monkeypatch):
    """Whatever is wrong with strokes, masks and files shows before the network is loaded."""
    monkeypatch.setattr(inference, 'load', None)
    flags = [f'--input={clip}', f'--checkpoint={run}', f'--output_path={tmp_path}/o']
    assert '--scribbles or --mask is needed' in fails(demo, *flags)
    (tmp_path / 'z.json').write_text('{"scribbles": [[] []]}')
    assert 'z.json is no JSON' in fails(demo, *flags, f'--scribbles={tmp_path}/z.json')
    path = scribbles(tmp_path / 'a.json', 5, f0=[(1, 0, 0, 1, 1)])
    assert 'has 5 frames, the video has 4' in fails(demo, *flags, f'--scribbles={path}')
    path = scribbles(tmp_path / 'b.json', 4)
    assert 'has no stroke' in fails(demo, *flags, f'--scribbles={path}')
    path = scribbles(tmp_path / 'c.json', 4, f0=[(3, 0, 0, 1, 1)])
    message = fails(demo, *flags, f'--scribbles={path}', '--num_objects=2')
    assert 'object 3: the video has 2' in message
    path = scribbles(tmp_path / 'd.json', 4, f0=[(1, 0, 0, 1.5, 1)])
    assert 'outside 0..1' in fails(demo, *flags, f'--scribbles={path}')
    path = scribbles(tmp_path / 'e.json', 4, f0=[(0, 0, 0, 1, 1)])
    assert 'the first round shows no object' in fails(demo, *flags, f'--scribbles={path}')
    path = scribbles(tmp_path / 'f.json', 4, f0=[(1, 0, 0, 1, 1)])
    (tmp_path / 's.npz').write_bytes(b'PK\x03\x04 breaks off')
    message = fails(demo, *flags, f'--scribbles={path}', f'--resume={tmp_path}/s.npz')
    assert 's.npz breaks off' in message
    message = fails(demo, *flags, f'--scribbles={path}', f'--resume={tmp_path}/absent.npz')
    assert '--resume: no such file' in message
    for name, ids, wanted in (
        ('small', np.ones((10, 10)), 'is 10x10, the frames are 320x180'),
        ('empty', np.zeros((180, 320)), 'marks no object'),
    ):
        cv2.imwrite(f'{tmp_path}/{name}.png', ids)
        assert wanted in fails(demo, *flags, f'--mask={tmp_path}/{name}.png')
    for name, ids, wanted in (
        ('small', np.ones((10, 10)), 'is 10x10, the frames are 320x180'),
        ('0', np.full((180, 320), 255), 'has no stroke: all pixels are 255'),
        ('stroke', np.ones((180, 320)), 'expected the name of a frame, such as 00000.png'),
    ):
        cv2.imwrite(f'{tmp_path}/{name}.png', ids)
        assert wanted in fails(demo, *flags, f'--scribbles={tmp_path}/{name}.png')
    flags[1] = f'--checkpoint={run}/model.ckpt-1'
    message = fails(demo, *flags, f'--scribbles={path}')
    assert 'the interaction head of' in message and '--preset=stage2' in message


def test_images_of_strokes(clip, tmp_path):
    """255 is no stroke, by the name of the frame or its number."""
    cfg = config.get_config('smoke')
    found = demo.read_clip(str(clip), cfg)
    ids = np.full((180, 320), 255, np.uint8)
    ids[90, 100:200] = 1
    for name, frame in (('00002', 2), ('3', 3)):
        cv2.imwrite(f'{tmp_path}/{name}.png', ids)
        args = cli.options(cli.parser(''), mask=None, scribbles=[f'{tmp_path}/{name}.png'])
        (found_round,) = demo.read_rounds(args, found)
        assert found_round.frame == frame and found_round.given is None
        assert set(np.unique(found_round.strokes)) == {-1, 1}


def official_arrays(paddle=False, cfg=None):
    """Official names with seeded numbers of the narrowest kind: whole-size shapes, few values."""
    leaves = {}
    for part in (convert.NORM, convert.LEAVES):
        for key, ours in part.items():
            leaves.setdefault(ours, key)
    if paddle:
        leaves.update(moving_mean='_mean', moving_variance='_variance')
    found = {}
    for n, (name, shape) in enumerate(convert.network_shapes(cfg or config.get_config()).items()):
        parts = name.split('/')[1:]
        prefix = 'feature_extracter.' if parts[0] in ('backbone', 'aspp', 'decoder') else ''
        source = prefix + '.'.join([*parts[:-1], leaves[parts[-1]]])
        if len(shape) == 4:
            order = (2, 3, 0, 1) if shape[3] == 1 and shape[0] > 1 else (3, 2, 0, 1)
            shape = tuple(shape[k] for k in order)
        found[source] = np.broadcast_to(np.float32(n % 97), shape)  # no memory
    return found


def test_import_of_named_arrays(tmp_path, fails, monkeypatch):
    shapes = convert.network_shapes(config.get_config())  # the whole network: seconds
    monkeypatch.setattr(convert, 'network_shapes', lambda cfg: shapes)
    arrays = official_arrays()
    arrays['semantic_embedding.0.weight'] = arrays['seperate_conv.weight']  # aliases
    assert convert.detect(arrays) == 'official'
    found, left_out = convert.convert(arrays, 'official')
    assert len(found) == 677 and left_out == ['semantic_embedding.0.weight']
    assert found['manet/seperate_conv/weights'].shape == (3, 3, 256, 1)
    assert found['manet/inter_seghead/layer1/conv1/weights'].shape == (7, 7, 102, 1)
    assert convert.settings_of(found).preset == 'full'
    del arrays['dynamic_seghead.layer2.bn1.running_var']
    with pytest.raises(ValueError, match='1 of 677 variables are missing'):
        convert.convert(arrays, 'official')
    np.savez(str(tmp_path / 'w.npz'), fc=np.ones(3))
    message = fails(convert, f'--source={tmp_path}/w.npz', f'--output={tmp_path}/m')
    assert 'unknown weights' in message and "found ['fc']" in message


def narrow_settings():
    cfg = config.get_config()
    cfg.update(channels=0.05, blocks=[1, 1, 1, 1])
    return cfg


def test_weights_of_coco_beside_numpy_scalars(tmp_path, monkeypatch, capsys):
    """model_best.pth.tar stores best_pred = np.nanmean(...) beside the weights."""
    narrow = narrow_settings()
    monkeypatch.setattr(convert, 'get_config', lambda *_: narrow)
    arrays = {
        name.replace('feature_extracter.', ''): np.array(array)
        for name, array in official_arrays(cfg=narrow).items()
        if name.startswith('feature_extracter.')
    }
    arrays['decoder.last_conv.8.weight'] = np.ones((21, 8, 1, 1), np.float32)  # classifier
    arrays['backbone.bn1.num_batches_tracked'] = np.array(7)
    best = np.nanmean(np.array([0.5, np.nan, 0.7]))
    state = {'epoch': 9, 'state_dict': arrays, 'best_pred': best, 'scores': {'fwIoU': best}}
    source = tmp_path / 'model_best.pth.tar'
    source.write_bytes(pickle.dumps(state, protocol=2))
    assert convert.main([f'--source={source}', f'--output={tmp_path}/coco/model.ckpt']) == 0
    printed = capsys.readouterr().out
    assert (
        'deeplab' in printed and "left out: 1 arrays ['manet/decoder/last_conv/8/weights" in printed
    )
    found = dict(tf.train.list_variables(f'{tmp_path}/coco/model.ckpt'))
    assert 'manet/aspp/conv1/weights' in found and 'manet/embedding_conv/weights' not in found
    assert not (tmp_path / 'coco' / 'config.json').exists()


def test_paddle_files_are_read(tmp_path):
    arrays = official_arrays(paddle=True, cfg=narrow_settings())
    arrays = {n: np.array(a) for n, a in arrays.items() if a.size < 3e5}
    state = dict(arrays)
    state['StructuredToParameterName@@'] = {n: n for n in arrays}
    with open(str(tmp_path / 'w.pdparams'), 'wb') as f:
        pickle.dump(state, f, protocol=4)
    found = weights.read(str(tmp_path / 'w.pdparams'))
    assert set(found) == set(arrays)
    assert np.array_equal(found['bn2._mean'], arrays['bn2._mean'])


OUTPUTS = {
    'embed': ['embedding'],
    'interact': ['logits', 'own'],
    'match': ['global_map', 'local_map'],
    'propagate': ['logits'],
}


def test_export_answers_as_the_network(run, tmp_path, capsys, fails):
    flags = [f'--checkpoint={run}', f'--output_path={tmp_path}/x', '--objects=2']
    assert export.main(flags) == 0
    printed = capsys.readouterr().out
    assert '--input_shape="image:1,48,80,3"' in printed and 'out_global_map:0' in printed
    for part, keys in OUTPUTS.items():
        with tf.Graph().as_default() as graph, tf.Session():
            definition = tf.GraphDef()
            definition.ParseFromString((tmp_path / 'x' / f'MANet_{part}.pb').read_bytes())
            assert not any(node.op in ('While', 'Enter') for node in definition.node), part
            tf.import_graph_def(definition, name='')
            for key in keys:
                assert graph.get_tensor_by_name(f'out_{key}:0').shape.is_fully_defined()
    image = np.random.RandomState(0).randint(0, 255, (1, 48, 80, 3)).astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.saved_model.load(sess, ['serve'], str(tmp_path / 'x' / 'saved_model_MANet_embed'))
        found = sess.run('out_embedding:0', {'image:0': image})
    with inference.load(str(run), settings_of(run)) as network:
        wanted = network.embed(image)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    capsys.readouterr()
    assert export.main([str(flag) for flag in flags]) == 0
    assert 'is there already, of this checkpoint: kept' in capsys.readouterr().out


def test_real_scribbles_and_seven_objects(run, shared_data, tmp_path):
    root = shared_data / 'DAVIS_interactive'
    flags = [f'--checkpoint={run}', '--device=cpu', f'--output_path={tmp_path}/a']
    split = next((root / 'ImageSets' / '2017').iterdir()).stem
    assert evaluate.main([*flags, f'--data_path={root}', f'--split={split}']) == 0
    rows = json.loads((tmp_path / 'a' / 'summary.json').read_text())['rounds']
    assert [r['round'] for r in rows] == [1, 2]
    root = shared_data / 'DAVIS2017_240p'
    name = 'schoolgirls'
    mask = sorted((root / 'Annotations' / '480p' / name).iterdir())[0]
    frames = tmp_path / 'frames'
    frames.mkdir()
    for path in sorted((root / 'JPEGImages' / '480p' / name).iterdir())[:8]:
        shutil.copy(str(path), str(frames))
    flags[-1] = f'--output_path={tmp_path}/b'
    assert demo.main([*flags, f'--input={frames}', f'--mask={mask}']) == 0
    assert len(list((tmp_path / 'b' / 'masks').iterdir())) == 8
