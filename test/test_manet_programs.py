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

from common import masks
from MANet import config, convert, data, demo, evaluate, export, model, session, train, weights

SMALL = ['--device=cpu', '--batch_size=2'] + [
    f'--set={k}={v}'
    for k, v in dict(channels=0.05, blocks=[1, 1, 1, 1], size=48, max_distance=2, cycle=2,
                     log_steps=1, checkpoint_steps=99, keep_checkpoints=9, workers=0,
                     test_height=48, test_width=80, interactions=2).items()
]  # fmt: skip
BOTH = ['--preset=smoke', '--set=stage1_steps=2']


def fails(capsys, program, *flags):
    """The message of a program that must fail."""
    assert program.main([str(flag) for flag in flags]) == 1
    message = capsys.readouterr().err
    assert message.startswith('MANet: error: ')
    return message


@pytest.fixture(scope='module')
def run(drawn, tmp_path_factory):
    """Folder of a finished short training: two updates of stage 1, five of stage 2 in rounds 0, 1
    and 2 of scribbles."""
    folder = tmp_path_factory.mktemp('run')
    flags = [f'--data_path={drawn["davis2017"]}', f'--output_path={folder}', '--steps=7']
    assert train.main([*SMALL, *flags, *BOTH]) == 0
    return folder


def value(folder, step, name):
    return tf.train.load_variable(f'{folder}/model.ckpt-{step}', f'manet/{name}')


def test_each_stage_trains_its_part(run):
    for name in ('backbone/conv1/weights', 'bn2/moving_mean', 'dynamic_seghead/conv/weights'):
        assert not np.array_equal(value(run, 0, name), value(run, 2, name)), name
        assert np.array_equal(value(run, 2, name), value(run, 7, name)), name
    for name in ('inter_seghead/conv/weights', 'inter_seghead/layer1/bn1/moving_mean'):
        assert np.array_equal(value(run, 0, name), value(run, 2, name)), name
        assert not np.array_equal(value(run, 2, name), value(run, 7, name)), name
    assert sorted(p.name for p in (run / 'rounds').iterdir()) == ['1.npz', '2.npz']
    with np.load(str(run / 'rounds' / '1.npz')) as kept:
        strokes, mask = kept['drawn-a/strokes'], kept['drawn-a/mask']
        assert strokes.shape == mask.shape == (120, 213) and (strokes >= 0).any()


def test_resume_between_rounds(run, drawn, tmp_path, capsys):
    copy = tmp_path / 'b'
    shutil.copytree(str(run), str(copy))
    for path in copy.glob('model.ckpt-*'):
        if int(path.name.split('-')[1].split('.')[0]) > 4:
            path.unlink()
    tf.train.update_checkpoint_state(str(copy), f'{copy}/model.ckpt-4')
    flags = [f'--data_path={drawn["davis2017"]}', f'--output_path={copy}', '--steps=7']
    assert train.main([*SMALL, *flags, *BOTH]) == 0
    assert 'resuming from step 4' in capsys.readouterr().out
    name = 'inter_seghead/layer2/conv2/weights'
    np.testing.assert_allclose(value(copy, 7, name), value(run, 7, name), atol=1e-5)


def test_corrections_of_a_damaged_truth(run, drawn, tmp_path):
    """Stage 2 alone, from another run, without the network's answers."""
    flags = [f'--data_path={drawn["davis2017"]}', f'--output_path={tmp_path}', '--steps=3']
    flags += ['--preset=smoke', '--set=stage1_steps=0', '--set=true_result=False']
    assert train.main([*SMALL, *flags, f'--init_from={run}/model.ckpt-2']) == 0
    name = 'backbone/conv1/weights'
    assert np.array_equal(value(tmp_path, 3, name), value(run, 2, name))
    with np.load(str(tmp_path / 'rounds' / '1.npz')) as kept:
        truth = masks.read_mask(
            f'{drawn["davis2017"]}/Annotations/480p/drawn-a/{int(kept["drawn-a/frame"]):05d}.png'
        )
        found = kept['drawn-a/mask']
        truth = session.nearest(truth, found.shape)
        assert (
            found.shape == (120, 213) and (found == truth).mean() > 0.7 and (found != truth).any()
        )


def test_check_data_and_dry_run(drawn, tmp_path, capsys):
    flags = [*SMALL, '--preset=smoke', f'--output_path={tmp_path}/run']
    flags.append(f'--data_path={drawn["davis2017"]}')
    assert train.main([*flags, '--check_data']) == 0
    assert json.loads(capsys.readouterr().out.strip().split('\n')[-1])['frames'] == 90
    assert train.main([*flags, '--dry_run', '--steps=7']) == 0
    printed = capsys.readouterr().out
    assert 'images float32 [2, 3, 48, 48, 3]' in printed and '7 steps' in printed
    assert not (tmp_path / 'run').exists()


def test_training_lowers_the_loss(drawn):
    """40 updates of stage 1 on drawn sequences, losses of examples never drawn from."""
    cfg = config.get_config('smoke')
    cfg.update(device='cpu', workers=0, channels=0.06, blocks=[1, 1, 1, 1], size=64,
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


def test_evaluation_writes_the_challenges_files(run, drawn, tmp_path, capsys):
    flags = [f'--data_path={drawn["davis2017"]}', f'--checkpoint={run}', '--device=cpu']
    command = [*flags, f'--output_path={tmp_path}', '--overlay']
    assert evaluate.main([*command, '--sequences=drawn-x,drawn-y']) == 0
    printed = capsys.readouterr().out
    assert 'round 2: J 0.' in printed and '"auc"' in printed
    with open(str(tmp_path / 'result.csv')) as f:
        rows = list(csv.DictReader(f))
    assert tuple(rows[0])[1:] == evaluate.COLUMNS and len(rows) == 2 * 10 * (2 + 3)
    assert {r['interaction'] for r in rows} == {'1', '2'}
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert 0 <= summary['auc'] <= 1 and len(summary['curve']['J']) == 4
    means = [float(r['jaccard']) for r in rows if r['interaction'] == '2']
    groups = {}
    for r in rows:
        if r['interaction'] == '2':
            groups.setdefault((r['sequence'], r['object_id']), []).append(float(r['jaccard']))
    assert abs(summary['curve']['J'][2] - np.mean([np.mean(v) for v in groups.values()])) < 1e-9
    assert len(means) == 50 and cv2.imread(str(tmp_path / 'curve.png')).shape == (480, 640, 3)
    assert (tmp_path / 'overlay' / 'drawn-y_1.png').is_file()
    assert masks.read_mask(str(tmp_path / 'masks/drawn-x/1/00009.png')).shape == (180, 320)


def test_accuracy_of_a_training(run, drawn, tmp_path, capsys):
    cfg = config.get_config('smoke')
    cfg.update(json.loads((run / 'config.json').read_text()))
    cfg.update(device='cpu', interactions=1)
    assert 0 <= evaluate.accuracy(cfg, str(run), str(tmp_path)) <= 1
    (tmp_path / 'ImageSets' / '2017').mkdir(parents=True)
    (tmp_path / 'ImageSets' / '2017' / 'train.txt').write_text('drawn-a\n')
    for name in ('JPEGImages', 'Annotations'):
        (tmp_path / name).symlink_to(Path(drawn['davis2017']) / name)
    cfg.data_path = str(tmp_path)
    assert evaluate.accuracy(cfg, str(run), str(tmp_path)) is None
    assert "no list of split 'val'" in capsys.readouterr().out


def test_messages_of_evaluation(run, drawn, tmp_path, capsys):
    flags = [f'--data_path={drawn["davis2017"]}', f'--output_path={tmp_path}/o', '--device=cpu']
    message = fails(capsys, evaluate, *flags, f'--checkpoint={tmp_path}/absent')
    assert 'no checkpoint at' in message
    message = fails(capsys, evaluate, *flags, f'--checkpoint={run}', '--preset=full')
    assert 'is not of this network' in message
    message = fails(capsys, evaluate, *flags, f'--checkpoint={run}', '--set=metric=IoU')
    assert 'metric=IoU: known are J, F, J_AND_F' in message
    message = fails(capsys, evaluate, *flags, f'--checkpoint={run}', '--sequences=nobody')
    assert 'nobody: not in split val' in message
    tree = tmp_path / 'tree'
    shutil.copytree(drawn['davis2017'], str(tree))
    (tree / 'Annotations' / '480p' / 'drawn-x' / '00004.png').unlink()
    message = fails(capsys, evaluate, f'--data_path={tree}', f'--output_path={tmp_path}/o',
                    f'--checkpoint={run}', '--sequences=drawn-x')  # fmt: skip
    assert 'drawn-x: 10 frames, 9 masks to score with' in message
    if not _installed('davisinteractive'):
        message = fails(
            capsys, evaluate, *flags, f'--checkpoint={run}', '--backend=davisinteractive'
        )
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


def test_davisinteractive_as_evaluator(run, drawn, tmp_path, monkeypatch, capsys):
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
    assert 'needs human scribbles' in fails(capsys, evaluate, *flags)
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


def test_messages_of_training(drawn, tmp_path, capsys):
    flags = [*SMALL, f'--output_path={tmp_path}/run', '--steps=1']
    flags.append(f'--data_path={drawn["davis2017"]}')
    message = fails(capsys, train, *flags, '--preset=stage2')
    assert 'stage 2 starts from a checkpoint of stage 1' in message
    message = fails(capsys, train, *flags, '--preset=smoke', f'--data_path={tmp_path}')
    assert 'no DAVIS data at' in message


def scribbles(path, count, **strokes):
    """Writes {frame: [(id, x0, y0, x1, y1)]} as a scribble file."""
    frames = [[] for _ in range(count)]
    for frame, lines in strokes.items():
        frames[int(frame[1:])] = [
            {'path': [[a, b], [c, d]], 'object_id': k} for k, a, b, c, d in lines
        ]
    path.write_text(json.dumps({'sequence': 'x', 'scribbles': frames}))
    return path


@pytest.mark.parametrize('kind', ['folder', 'video'])
def test_demo_in_rounds(run, drawn, tmp_path, kind):
    frames = Path(drawn['davis2017']) / 'JPEGImages' / '480p' / 'drawn-x'
    source = frames
    if kind == 'video':
        source = tmp_path / 'clip.mp4'
        masks.write_video(str(source), (i for _, i in masks.read_frames(str(frames))))
    first = scribbles(
        tmp_path / '1.json', 10, f3=[(1, 0.2, 0.3, 0.4, 0.5), (2, 0.6, 0.6, 0.7, 0.8)]
    )
    again = scribbles(tmp_path / '2.json', 10, f0=[(0, 0.1, 0.9, 0.3, 0.9)], f9=[(2, 0, 0, 1, 1)])
    flags = [f'--input={source}', f'--checkpoint={run}', '--device=cpu']
    out = tmp_path / 'out'
    command = [*flags, f'--output_path={out}', f'--scribbles={first}', f'--scribbles={again}']
    assert demo.main([*command, f'--save_state={tmp_path}/s.npz']) == 0
    log = json.loads((out / 'session.json').read_text())['rounds']
    assert [r['frame'] for r in log] == [3, 0, 9] and [r['round'] for r in log] == [1, 2, 3]
    assert len(list((out / 'masks').iterdir())) == 10 and (out / 'round3.png').is_file()
    assert sum(1 for _ in masks.read_video(str(out / 'overlay.mp4'))) == 10
    if kind == 'video':
        return
    half = [*flags, f'--output_path={tmp_path}/a', f'--scribbles={first}', '--num_objects=2']
    assert demo.main([*half, f'--save_state={tmp_path}/half.npz']) == 0
    rest = [*flags, f'--output_path={tmp_path}/b', f'--scribbles={again}', '--num_objects=2']
    assert demo.main([*rest, f'--resume={tmp_path}/half.npz']) == 0
    for path in sorted((out / 'masks').iterdir()):
        resumed = masks.read_mask(str(tmp_path / 'b' / 'masks' / path.name))
        assert np.array_equal(resumed, masks.read_mask(str(path)))


def test_demo_from_a_mask(run, drawn, tmp_path):
    frames = Path(drawn['davis2017']) / 'JPEGImages' / '480p' / 'drawn-y'
    mask = Path(drawn['davis2017']) / 'Annotations' / '480p' / 'drawn-y' / '00000.png'
    flags = [f'--input={frames}', f'--mask={mask}', f'--checkpoint={run}', '--device=cpu']
    assert demo.main([*flags, f'--output_path={tmp_path}', '--keep_aspect']) == 0
    assert (tmp_path / 'round1.png').is_file()
    found = masks.read_mask(str(tmp_path / 'masks' / '00000.png'))
    assert np.array_equal(found, masks.read_mask(str(mask)))


def test_many_and_tiny_objects(run, drawn, tmp_path):
    """25 objects in a first mask, one of them a pixel that the embeddings' size would lose."""
    ids = np.zeros((180, 320), np.uint8)
    for k in range(24):
        ids[20 * (k // 5) : 20 * (k // 5) + 14, 60 * (k % 5) : 60 * (k % 5) + 50] = k + 1
    ids[171, 301] = 25
    assert (session.nearest(ids, (12, 20)) != 25).all()
    found = session.stroke_cells(ids.astype(np.int32), (12, 20))
    assert set(np.unique(found)) == set(range(26)) and (found == 25).sum() == 1
    cv2.imwrite(str(tmp_path / 'm.png'), ids)
    frames = Path(drawn['davis2017']) / 'JPEGImages' / '480p' / 'drawn-x'
    flags = [f'--input={frames}', f'--mask={tmp_path}/m.png', f'--checkpoint={run}']
    assert demo.main([*flags, f'--output_path={tmp_path}/out', '--device=cpu']) == 0
    assert len(list((tmp_path / 'out' / 'masks').iterdir())) == 10


def test_messages_of_demo(run, drawn, tmp_path, capsys):
    frames = Path(drawn['davis2017']) / 'JPEGImages' / '480p' / 'drawn-x'
    flags = [f'--input={frames}', f'--checkpoint={run}', f'--output_path={tmp_path}/o']
    assert '--scribbles or --mask is needed' in fails(capsys, demo, *flags)
    path = scribbles(tmp_path / 'a.json', 4, f0=[(1, 0, 0, 1, 1)])
    assert 'has 4 frames, the video has 10' in fails(capsys, demo, *flags, f'--scribbles={path}')
    path = scribbles(tmp_path / 'b.json', 10)
    assert 'has no stroke' in fails(capsys, demo, *flags, f'--scribbles={path}')
    path = scribbles(tmp_path / 'c.json', 10, f0=[(3, 0, 0, 1, 1)])
    message = fails(capsys, demo, *flags, f'--scribbles={path}', '--num_objects=2')
    assert 'object 3: the video has 2' in message
    path = scribbles(tmp_path / 'd.json', 10, f0=[(1, 0, 0, 1.5, 1)])
    assert 'outside 0..1' in fails(capsys, demo, *flags, f'--scribbles={path}')
    path = scribbles(tmp_path / 'e.json', 10, f0=[(1, 0, 0, 1, 1)])
    (tmp_path / 's.npz').write_bytes(b'PK\x03\x04 breaks off')
    message = fails(capsys, demo, *flags, f'--scribbles={path}', f'--resume={tmp_path}/s.npz')
    assert 's.npz breaks off' in message
    cv2.imwrite(str(tmp_path / 'small.png'), np.ones((10, 10), np.uint8))
    message = fails(capsys, demo, *flags, f'--mask={tmp_path}/small.png')
    assert 'is 10x10, the frames are 320x180' in message


def official_arrays(paddle=False):
    """Official names with seeded numbers of the narrowest kind: whole-size shapes, few values."""
    leaves = {}
    for part in (convert.NORM, convert.LEAVES):
        for key, ours in part.items():
            leaves.setdefault(ours, key)
    if paddle:
        leaves.update(moving_mean='_mean', moving_variance='_variance')
    found = {}
    for n, (name, shape) in enumerate(convert.network_shapes(config.get_config()).items()):
        parts = name.split('/')[1:]
        prefix = 'feature_extracter.' if parts[0] in ('backbone', 'aspp', 'decoder') else ''
        source = prefix + '.'.join([*parts[:-1], leaves[parts[-1]]])
        if len(shape) == 4:
            order = (2, 3, 0, 1) if shape[3] == 1 and shape[0] > 1 else (3, 2, 0, 1)
            shape = tuple(shape[k] for k in order)
        found[source] = np.broadcast_to(np.float32(n % 97), shape)  # no memory
    return found


def test_import_of_named_arrays(tmp_path, capsys):
    arrays = official_arrays()
    arrays['semantic_embedding.0.weight'] = arrays['seperate_conv.weight']  # aliases
    kind, found, left_out = convert.convert(arrays)
    assert kind == 'official' and len(found) == 677 and left_out == ['semantic_embedding.0.weight']
    assert found['manet/seperate_conv/weights'].shape == (3, 3, 256, 1)
    assert found['manet/inter_seghead/layer1/conv1/weights'].shape == (7, 7, 102, 1)
    deeplab = {n.replace('feature_extracter.', ''): a for n, a in arrays.items()
               if n.startswith('feature_extracter.')}  # fmt: skip
    assert convert.convert(deeplab)[0] == 'deeplab' and len(convert.convert(deeplab)[1]) < 677
    del arrays['dynamic_seghead.layer2.bn1.running_var']
    with pytest.raises(ValueError, match='1 of 677 variables are missing'):
        convert.convert(arrays)
    np.savez(str(tmp_path / 'w.npz'), fc=np.ones(3))
    message = fails(capsys, convert, f'--source={tmp_path}/w.npz', f'--output={tmp_path}/m')
    assert 'unknown weights' in message and "found ['fc']" in message


def test_paddle_files_are_read(tmp_path):
    arrays = official_arrays(paddle=True)
    arrays = {n: np.array(a) for n, a in arrays.items() if a.size < 3e5}
    state = dict(arrays)
    state['StructuredToParameterName@@'] = {n: n for n in arrays}
    with open(str(tmp_path / 'w.pdparams'), 'wb') as f:
        pickle.dump(state, f, protocol=4)
    found = weights.read(str(tmp_path / 'w.pdparams'))
    assert set(found) == set(arrays)
    assert np.array_equal(found['bn2._mean'], arrays['bn2._mean'])


def test_export_answers_as_the_network(run, tmp_path, capsys):
    flags = [f'--checkpoint={run}', f'--output_path={tmp_path}/x', '--objects=2']
    assert export.main(flags) == 0
    printed = capsys.readouterr().out
    assert '--input_shape="image:1,48,80,3"' in printed and 'out_global_map:0' in printed
    for part in export.OUTPUTS:
        with tf.Graph().as_default() as graph, tf.Session():
            definition = tf.GraphDef()
            definition.ParseFromString((tmp_path / 'x' / f'MANet_{part}.pb').read_bytes())
            assert not any(node.op in ('While', 'Enter') for node in definition.node), part
            tf.import_graph_def(definition, name='')
            for key in export.OUTPUTS[part]:
                assert graph.get_tensor_by_name(f'out_{key}:0').shape.is_fully_defined()
    cfg = config.get_config('smoke')
    cfg.update(json.loads((run / 'config.json').read_text()))
    cfg.device = 'cpu'
    image = np.random.RandomState(0).randint(0, 255, (1, 48, 80, 3)).astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.saved_model.load(sess, ['serve'], str(tmp_path / 'x' / 'saved_model_MANet_embed'))
        found = sess.run('out_embedding:0', {'image:0': image})
    with session.loaded(cfg, tf.train.latest_checkpoint(str(run))) as network:
        wanted = network('embed', 1, (48, 80), {'image': image})
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert 'is there already' in fails(capsys, export, *flags)


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
    frames = root / 'JPEGImages' / '480p' / name
    flags[-1] = f'--output_path={tmp_path}/b'
    assert demo.main([*flags, f'--input={frames}', f'--mask={mask}']) == 0
    assert len(list((tmp_path / 'b' / 'masks').iterdir())) == 32
