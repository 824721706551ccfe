"""OSMN's programs: import of published weights, export, online training, demo, other data sets,
faults."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import re
import shutil
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from common import davis, masks
from OSMN import (
    cli,
    config,
    convert,
    data,
    demo,
    evaluate,
    export,
    guides,
    inference,
    model,
    online,
    train,
    videos,
)

SMALL = dict(
    height=48, width=64, guide_size=32, channels=0.07, log_steps=1, checkpoint_steps=2,
    test_height=48, test_width=80, online_steps=3, workers=2,
)  # fmt: skip
FLAGS = ['--device=cpu', '--preset=smoke', '--batch_size=2'] + [
    f'--set={k}={v}' for k, v in SMALL.items()
]


@pytest.fixture(scope='module', autouse=True)
def shapes_built_once():
    """network_shapes() builds a graph for every answer; here it answers the same question once."""
    build, known = convert.network_shapes, {}

    def network_shapes(cfg):
        key = json.dumps([cfg[name] for name in (*config.NETWORK, 'guide_size')])
        if key not in known:
            known[key] = build(cfg)
        return dict(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert, 'network_shapes', network_shapes)
        yield


@pytest.fixture(scope='module')
def run(drawn, tmp_path_factory):
    """Folder of a finished short run on COCO; the zoo's files of it are in result/."""
    folder = tmp_path_factory.mktemp('run')
    flags = [*FLAGS, f'--data_path={drawn["coco"]}', f'--output_path={folder}', '--steps=4']
    flags.append('--set=summary_steps=2')
    assert train.main([*flags, f'--result_path={folder}/result']) == 0
    return folder


def test_training_can_be_watched(run, watched):
    watched(run)


@pytest.fixture(scope='module')
def scored(run, drawn, tmp_path_factory):
    """(results folder, flags, what was printed) of an evaluation with scores and overlays."""
    folder = tmp_path_factory.mktemp('scored')
    flags = [f'--data_path={drawn["davis2017"]}', f'--output_path={folder}', '--sequences=drawn-y']
    more = [f'--checkpoint={run}', '--device=cpu', '--overlay', '--save_score']
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert evaluate.main([*flags, *more, '--set=threshold=0.42']) == 0
    return folder, flags, printed.getvalue()


def test_check_data_and_dry_run(drawn, tmp_path, capsys, fails):
    for dataset, count in (('coco', 16), ('davis', 9), ('youtube_vos', 4)):
        flags = [f'--data_path={Path(drawn["coco"]).parent}', f'--set=dataset={dataset}']
        flags += [f'--output_path={tmp_path}/run']
        assert train.main(FLAGS + flags + ['--check_data']) == 0
        assert json.loads(capsys.readouterr().out.strip().split('\n')[-1])['sequences'] == count
    assert train.main(FLAGS + flags + ['--dry_run', '--steps=7']) == 0
    printed = capsys.readouterr().out
    assert 'image_0 float32 [2, 48, 64, 3]' in printed and '7 steps' in printed
    assert not (tmp_path / 'run').exists()
    assert "dataset='vot': expected one of coco" in fails(
        train, *FLAGS, *flags[:1], '--set=dataset=vot'
    )


def test_a_run_reports(run):
    assert int(tf.train.load_variable(str(run), 'global_step')) == 4
    losses = (run / 'result' / 'train_OSMN_bs2_1p_acc_loss.txt').read_text().split()
    assert len(losses) == 3 and all(0 < float(loss) < 1 for loss in losses)  # not of the first
    text = (run / 'result' / 'OSMN_bs2_1p_acc.log').read_text()
    rows = dict(line.split(' = ') for line in text.split('\n') if line)
    assert rows['CaseName'] == 'OSMN_bs2_1p_acc' and float(rows['ActualFPS']) > 0
    assert 'examples' not in json.loads((run / 'config.json').read_text())


def test_a_run_goes_on_with_the_next_examples(run, drawn, tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(str(run), str(tmp_path / 'run'))
    flags = [*FLAGS, f'--data_path={drawn["coco"]}', f'--output_path={folder}', '--steps=6']
    asked = []
    monkeypatch.setattr(
        train.npu,
        'estimator',
        lambda model_fn, cfg, folder: types.SimpleNamespace(
            train=lambda input_fn, max_steps, hooks: asked.append((input_fn, max_steps, cfg))
        ),
    )
    monkeypatch.setattr(data, 'input_fn', lambda cfg, training: cfg)
    assert train.main(flags) == 0
    assert 'resuming from step 4' in capsys.readouterr().out
    input_fn, steps, params = asked[0]
    assert steps == 6 and 'examples' not in params  # which the Estimator would copy
    cfg = input_fn()
    assert cfg.start_step == 4 and len(cfg.examples) > 8
    whole = data.training_samples(type(cfg)(cfg, start_step=0), 0)
    expected = [next(whole)[0] for _ in range(12)][8:]
    stream = data.training_samples(cfg, 0)
    assert [next(stream)[0] for _ in range(4)] == expected


def test_accuracy_is_that_of_the_evaluation(run, drawn, tmp_path, capsys, monkeypatch):
    cfg = settings_of_run(run)
    root = str(Path(drawn['davis2017']).parent)
    monkeypatch.setattr(inference, 'load', fake_network)
    found = evaluate.accuracy(cfg, root, str(run), str(tmp_path / 'a'))
    results = json.loads((tmp_path / 'a' / 'results.json').read_text())
    assert found == results['global']['J&F-Mean'] and 0 < found < 1
    names = {name.split('_')[0] for name in results['per_sequence']}
    assert names == {'drawn-x', 'drawn-y', 'drawn-z'}
    cfg.dataset = 'youtube_vos'
    monkeypatch.setattr(evaluate, 'ACCURACY_VIDEOS', 1)  # of the two that train has
    assert evaluate.accuracy(cfg, root, str(run), str(tmp_path / 'b')) > 0
    rows = json.loads((tmp_path / 'b' / 'results.json').read_text())['per_sequence']
    assert {name.split('_')[0] for name in rows} == {'0aaaaaaaaa'}
    (tmp_path / 'empty').mkdir()
    capsys.readouterr()
    assert evaluate.accuracy(cfg, str(tmp_path / 'empty'), str(run), str(tmp_path / 'c')) is None
    assert capsys.readouterr().out.count('no TrainAccuracy: ') == 1


def settings_of_run(run):
    cfg = config.get_config('smoke')
    cfg.update(json.loads((run / 'config.json').read_text()), device='cpu')
    return cfg


@contextlib.contextmanager
def fake_network(checkpoint, cfg):
    """Stands for inference.load(): the prior is the answer."""
    yield inference.Network(
        lambda image, heats, scales: heats[..., 0] / 255,
        lambda found: np.ones((len(found), 1), np.float32),
    )


def test_the_next_stage(run, drawn, tmp_path):
    """smoke_davis trains what it should, from the run before: the gradient reaches all of both
    modulators and the fusion, nothing else moves."""
    folder = str(tmp_path / 'next')
    flags = [f'--data_path={drawn["davis2017"]}', f'--output_path={folder}', '--steps=1']
    flags += [f'--init_from={run}', '--preset=smoke_davis', '--set=dropout=0.0']
    assert train.main(FLAGS + flags) == 0
    names = [n for n, _ in tf.train.list_variables(folder) if n.startswith('osmn/')]
    names = [n for n in names if not n.endswith(('/Adam', '/Adam_1'))]
    assert len(names) > 60
    for name in names:
        old, new = (tf.train.load_variable(str(f), name) for f in (run, folder))
        fixed = 'moving_' in name or ('osmn/seg/' in name and 'upscore-fuse' not in name)
        assert np.array_equal(old, new) == fixed, name
    assert int(tf.train.load_variable(folder, 'global_step')) == 1
    saved = json.loads((tmp_path / 'next' / 'config.json').read_text())['trained_on']
    assert saved == ['drawn data', 'drawn data']


@pytest.mark.skipif(
    not tf.__version__.startswith('1.'), reason='learning is tested on the reference stack'
)
def test_training_learns(drawn, tmp_path):
    """Both stages: the loss falls, and masks of sequences that were not trained on are better than
    those of an untrained network."""
    flags = [*FLAGS, f'--output_path={tmp_path}/stage1', f'--data_path={drawn["coco"]}']
    longer = ['--set=log_steps=20', '--set=checkpoint_steps=40', '--batch_size=3']
    longer += ['--set=channels=0.15', '--set=learning_rate=0.002', '--steps=40']
    assert train.main([*flags, *longer, '--case=perf', f'--result_path={tmp_path}/result']) == 0
    path = tmp_path / 'result' / 'train_OSMN_bs3_1p_perf_loss.txt'
    assert float(path.read_text().split()[-1]) < 0.05  # it starts at 0.2, ends near 0.02
    flags = [*FLAGS, f'--output_path={tmp_path}/stage2', f'--data_path={drawn["davis2017"]}']
    flags += [f'--init_from={tmp_path}/stage1', *longer, '--preset=smoke_davis']
    assert train.main(flags) == 0
    scores = {}
    for name, checkpoint in (
        ('untrained', 'stage1/model.ckpt-0'),
        ('stage 1', 'stage1/model.ckpt-40'),
        ('stage 2', 'stage2/model.ckpt-40'),
    ):
        flags = [f'--checkpoint={tmp_path}/{checkpoint}', f'--output_path={tmp_path}/{name}']
        flags += ['--device=cpu', f'--data_path={drawn["davis2017"]}', '--set=threshold=0.7']
        assert evaluate.main(flags) == 0
        found = json.loads((tmp_path / name / 'results.json').read_text())
        scores[name] = found['global']['J-Mean']
    assert scores['stage 1'] > scores['untrained'] + 0.1, scores
    assert scores['stage 2'] > scores['untrained'] + 0.1 and scores['stage 2'] > 0.15, scores
    assert scores['stage 2'] > scores['stage 1'] - 0.05, scores


def test_starts_that_make_no_sense_are_refused(run, drawn, tmp_path, fails):
    flags = ['--device=cpu', f'--output_path={tmp_path}/run', f'--data_path={drawn["coco"]}']
    message = fails(train, *flags, '--preset=full')
    assert 'VGG-16' in message and '--init_from' in message and '--from_scratch' in message
    assert str(Path(drawn['coco']) / 'models' / 'vgg_16.ckpt') in message
    message = fails(train, *flags, '--preset=full', '--set=base_model=lite', '--set=scales=[1.0]')
    assert 'mobilenet_v1_1.0_224.ckpt' in message and 'base_model=lite' in message
    davis_flags = [*flags[:2], f'--data_path={drawn["davis2017"]}', '--preset=davis']
    assert 'second stage' in fails(train, *davis_flags)
    lite = ['--preset=smoke', '--set=base_model=lite', '--set=scales=[0.5,1.0]']
    assert 'batch statistics of MobileNet' in fails(train, *flags, *lite)
    for setting, text in (
        ('threshold=1.5', 'expected 0 .. 1'),
        ('scales=[0.0]', 'expected numbers above 0'),
        ('guide_crop=0.6', 'expected 0 .. 0.45'),
    ):
        assert text in fails(train, *flags, '--preset=smoke', f'--set={setting}')
    assert 'batch_size=0' in fails(train, *flags, '--preset=smoke', '--set=batch_size=0')
    assert not (tmp_path / 'run' / 'checkpoint').exists()
    # the folder of a run keeps its settings when another network is asked for
    before = (run / 'config.json').read_bytes()
    flags = [*FLAGS, f'--data_path={drawn["coco"]}', f'--output_path={run}', '--steps=5']
    assert 'holds another run (channels 0.07 there, 0.1 here)' in fails(
        train, *flags, '--set=channels=0.1'
    )
    assert (run / 'config.json').read_bytes() == before


def test_published_vgg_below_the_data_is_found(drawn, tmp_path, monkeypatch):
    root = tmp_path / 'data'
    (root / 'models').mkdir(parents=True)
    os.symlink(drawn['coco'], str(root / 'data'))  # as the seed's DIR/data/{train2017, ...}
    (root / 'models' / 'vgg_16.ckpt').write_bytes(b'x')
    given = []

    def write(argv):
        given.append(argv)
        return 0

    monkeypatch.setattr(convert, 'main', write)
    args = cli.options(train_flags(), data_path=str(root), output_path=str(tmp_path / 'run'))
    cfg = config.get_config('full')
    cfg.device = 'cpu'
    train.prepare(args, cfg)
    assert given[0][0] == f'--source={root}/models/vgg_16.ckpt'
    assert cfg.init_from.startswith(str(tmp_path / 'run')) and cfg.examples


def train_flags():
    flags = cli.parser('')
    cli.add_training_flags(flags)
    return flags


def arrays_of(cfg, seed=0):
    """{variable: seeded array} of a network."""
    draw = np.random.RandomState(seed)
    return {n: draw.rand(*s).astype(np.float32) for n, s in convert.network_shapes(cfg).items()}


NARROW = ['--preset=smoke', '--set=channels=0.07', '--set=guide_size=32']


@pytest.fixture(scope='module')
def narrow():
    cfg = config.get_config('smoke')
    cfg.update(channels=0.07, guide_size=32)
    return cfg


def converted(tmp_path, found, *flags):
    """{variable: array} that convert writes from {name: array}."""
    np.savez(str(tmp_path / 'source.npz'), **found)
    output = tmp_path / 'out' / 'model.ckpt'
    assert convert.main([f'--source={tmp_path}/source.npz', f'--output={output}', *flags]) == 0
    reader = tf.train.load_checkpoint(str(output))
    return {n: reader.get_tensor(n) for n in reader.get_variable_to_shape_map()}


def test_published_checkpoint_maps_every_variable(narrow, tmp_path, capsys, fails):
    arrays = arrays_of(narrow)
    extra = {
        'global_step': np.int64(9), 'beta1_power': np.float32(0.9),
        'optimization/beta2_power': np.float32(0.9),
        'osmn/seg/conv1/conv1_1/weights/Adam': np.zeros((3, 3, 3, 4), np.float32),
        'osmn/seg/score-multi2-up/weights': np.zeros((4, 4, 16, 16), np.float32),
    }  # fmt: skip
    found = converted(tmp_path, {**arrays, **extra}, *NARROW)
    assert found.pop('global_step') == 0 and set(found) == set(arrays)
    assert all(np.array_equal(found[n], a) for n, a in arrays.items())
    saved = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert saved['channels'] == 0.07 and saved['trained_on'] == ['imported source.npz']
    assert 'left out: 0 arrays' in capsys.readouterr().out
    arrays.pop('osmn/modulator/fc8/biases')
    np.savez(str(tmp_path / 'source.npz'), **arrays)
    flags = [f'--source={tmp_path}/source.npz', f'--output={tmp_path}/o/model.ckpt', *NARROW]
    assert "expected [('osmn/modulator/fc8/biases', (" in fails(convert, *flags)
    assert not (tmp_path / 'o' / 'model.ckpt.index').exists()


@pytest.mark.parametrize('fix', ['auto', 'off'])
def test_slim_vgg_fills_both_nets(narrow, tmp_path, fix):
    arrays = {n: a for n, a in arrays_of(narrow).items() if '/modulator/' in n and 'fc8' not in n}
    source = {n.replace('osmn/modulator', 'vgg_16'): a for n, a in arrays.items()}
    source['vgg_16/mean_rgb'] = np.zeros(3, np.float32)
    source['vgg_16/fc8/weights'] = np.zeros((1, 1, 9, 1000), np.float32)
    found = converted(tmp_path, source, *NARROW, f'--vgg_color_fix={fix}')
    assert len(found) == 26 + 4 + 26 + 1  # both nets' convolutions, fc6 and fc7, global_step
    for part in ('modulator', 'seg'):
        first = arrays['osmn/modulator/conv1/conv1_1/weights']
        first = first[:, :, ::-1] if fix == 'auto' else first
        assert np.array_equal(found[f'osmn/{part}/conv1/conv1_1/weights'], first)
        name = 'conv3/conv3_2/biases'
        assert np.array_equal(found[f'osmn/{part}/{name}'], arrays[f'osmn/modulator/{name}'])
    assert not (tmp_path / 'out' / 'config.json').exists()


def test_mobilenet_fills_lite(tmp_path):
    cfg = config.get_config('smoke')
    cfg.update(channels=0.07, guide_size=32, base_model='lite')
    arrays = {n: a for n, a in arrays_of(cfg).items() if n.startswith('osmn/seg/')}
    source = {n.replace('osmn/seg', 'MobilenetV1'): a for n, a in arrays.items()}
    source['MobilenetV1/Logits/Conv2d_1c_1x1/weights'] = np.zeros((1, 1, 9, 1001), np.float32)
    found = converted(tmp_path, source, *NARROW)
    assert len(found) == 2 * len(arrays) + 1
    assert np.array_equal(
        found['osmn/modulator/Conv2d_0/weights'], arrays['osmn/seg/Conv2d_0/weights'][:, :, ::-1]
    )


@pytest.mark.parametrize('base', ['deeplab', 'masktrack', 'lite'])
def test_the_network_of_a_published_checkpoint_is_told_by_its_names(base, narrow, tmp_path):
    arrays = arrays_of(type(narrow)(narrow, base_model=base))
    found = converted(tmp_path, arrays, *NARROW)
    assert set(found) == {*arrays, 'global_step'}
    assert json.loads((tmp_path / 'out' / 'config.json').read_text())['base_model'] == base


def test_deeplab_and_osvos_fill_the_segmentation_net(narrow, tmp_path):
    cfg = type(narrow)(narrow, base_model='deeplab')
    arrays = {n: a for n, a in arrays_of(cfg).items() if '/seg/' in n and 'fc8' not in n}
    nested = {}
    for name, array in arrays.items():
        layer, leaf = name.split('/')[-2:]
        nested.setdefault(layer, {})[leaf] = array
    np.save(str(tmp_path / 'deeplab.npy'), nested)
    flat = {f'{k}/{leaf[0]}': a for k, v in nested.items() for leaf, a in v.items()}
    np.savez(str(tmp_path / 'deeplab.npz'), **flat)
    for file in ('deeplab.npy', 'deeplab.npz'):
        flags = [f'--source={tmp_path}/{file}', f'--output={tmp_path}/{file}_/model.ckpt']
        assert convert.main(flags + NARROW + ['--set=base_model=deeplab']) == 0
        found = tf.train.load_checkpoint(str(tmp_path / f'{file}_'))
        assert all(np.array_equal(found.get_tensor(n), a) for n, a in arrays.items())
    arrays = {n: a for n, a in arrays_of(narrow).items() if '/seg/' in n}
    parent = {n.replace('osmn/seg', 'osvos'): a for n, a in arrays.items()}
    parent['osvos/score-dsn_2/biases'] = np.zeros(1, np.float32)
    found = converted(tmp_path, parent, *NARROW)
    assert {n for n in found if n != 'global_step'} == set(arrays)
    torch = {}
    for name, a in arrays.items():
        layer, leaf = name.split('/')[-2:]
        leaf = 'weight' if leaf == 'weights' else 'bias'
        a = a.transpose(3, 2, 0, 1) if a.ndim == 4 else a
        if layer.endswith('_16'):
            torch[f'side_prep.{int(layer[4]) - 2}.{leaf}'] = a
        elif layer == 'upscore-fuse':
            torch[f'fuse.{leaf}'] = a
        else:
            stage, index = int(layer[4]), int(layer[6])
            torch[f'stages.{stage - 1}.{2 * (index - 1) + (stage > 1)}.{leaf}'] = a
    again = converted(tmp_path, torch, *NARROW)
    assert all(np.array_equal(again[n], a) for n, a in arrays.items())


def test_unknown_weights(tmp_path, fails):
    np.savez(str(tmp_path / 'x.npz'), a=np.zeros(3))
    flags = [f'--source={tmp_path}/x.npz', f'--output={tmp_path}/model.ckpt']
    assert "found ['a']" in fails(convert, *flags)
    (tmp_path / 'x.npz').write_bytes((tmp_path / 'x.npz').read_bytes()[:60])  # cut off
    assert 'x.npz' in fails(convert, *flags)


def test_formats_are_told_by_content(narrow, tmp_path):
    arrays = {n: a for n, a in arrays_of(narrow).items() if '/modulator/' in n and 'fc8' not in n}
    np.savez(str(tmp_path / 'x.npz'), **{n.replace('osmn/modulator', 'vgg_16'): a
                                         for n, a in arrays.items()})  # fmt: skip
    os.rename(str(tmp_path / 'x.npz'), str(tmp_path / 'x.model'))
    flags = [f'--source={tmp_path}/x.model', f'--output={tmp_path}/out/model.ckpt', *NARROW]
    assert convert.main(flags) == 0


def test_exported_graphs_answer_as_the_network(run, tmp_path, capsys, fails):
    assert export.main([f'--checkpoint={run}', f'--output_path={tmp_path}', '--device=cpu']) == 0
    printed = capsys.readouterr().out
    assert printed.count('atc --framework=3') == 2 and 'image:1,48,80,3;heat:1,48,80,1' in printed
    draw = np.random.RandomState(0)
    values = {
        'guide': draw.uniform(-100, 100, (1, 32, 32, 3)), 'heat': draw.rand(1, 48, 80, 1),
        'image': draw.uniform(-100, 100, (1, 48, 80, 3)),
    }  # fmt: skip
    values = {k: v.astype(np.float32) for k, v in values.items()}
    cfg = config.get_config('smoke')
    cfg.update(SMALL, device='cpu')
    with tf.Graph().as_default(), tf.Session() as session:
        outputs = model.network({k: tf.constant(v) for k, v in values.items()}, cfg, False)
        tf.train.Saver().restore(session, tf.train.latest_checkpoint(str(run)))
        scales, expected = session.run([outputs['scales'], outputs['probability']])

    def frozen(name, node, feed):
        with tf.Graph().as_default(), tf.Session() as session:
            graph = tf.GraphDef.FromString((tmp_path / f'{name}.pb').read_bytes())
            output = tf.import_graph_def(graph, return_elements=[node], name='')[0]
            return session.run(output, {f'{key}:0': values[key] for key in feed})

    values['scales'] = frozen('OSMN_modulator', 'out_scales:0', ['guide'])
    np.testing.assert_allclose(values['scales'], scales, atol=1e-6)
    names = ['image', 'heat', 'scales']
    np.testing.assert_allclose(frozen('OSMN', 'out_probability:0', names), expected, atol=1e-6)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.saved_model.load(session, ['serve'], str(tmp_path / 'saved_model_OSMN'))
        again = session.run('out_probability:0', {f'{key}:0': values[key] for key in names})
    np.testing.assert_allclose(again, expected, atol=1e-6)
    flags = [f'--checkpoint={run}', f'--output_path={tmp_path}', '--device=cpu']
    capsys.readouterr()
    assert export.main([str(flag) for flag in flags]) == 0
    assert 'is there already, of this checkpoint: kept' in capsys.readouterr().out
    assert 'needs a --width' in fails(export, *flags, '--set=test_width=0')


def test_online_networks_are_evaluated_and_kept(run, drawn, tmp_path, capsys, fails, monkeypatch):
    flags = [f'--data_path={drawn["davis"]}', '--sequences=drawn-x', '--device=cpu']
    flags += ['--year=2016']  # one object
    start = flags + [f'--checkpoint={run}', f'--output_path={tmp_path}/online']
    start += ['--set=test_width=0', '--online_steps=2']
    jobs = []
    monkeypatch.setattr(
        online.processes, 'run_queue', lambda all_, devices: jobs.append((all_, devices)) or [0]
    )
    assert online.main([*start, '--devices=0,1']) == 0  # each in a process of its own
    (((command, log),), devices), *_ = jobs
    assert command[1:3] == ['-m', 'OSMN.online'] and devices == ['0', '1']
    assert command[-2:] == ['--sequences=drawn-x', '--object=1']
    assert log == str(tmp_path / 'online' / 'drawn-x_1.log')
    assert 'not ended yet, another program trains them: drawn-x' in capsys.readouterr().out
    folder = tmp_path / 'online' / 'drawn-x_1'
    folder.mkdir()
    with open(str(folder / '.lock'), 'w') as lock:  # of another host
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert online.main(command[3:]) == 0
    assert f'another run is writing to {folder}' in capsys.readouterr().out
    assert not (folder / 'checkpoint').exists()
    assert online.main(command[3:]) == 0  # in this process
    assert (folder / 'model.ckpt-2.index').is_file()
    capsys.readouterr()
    assert online.main(start) == 0
    assert '0 online trainings to do' in capsys.readouterr().out
    more = [f'--online_path={tmp_path}/online', f'--output_path={tmp_path}/results']
    assert evaluate.main(flags + more) == 0
    assert 'weights: ' in capsys.readouterr().out
    rows = json.loads((tmp_path / 'results' / 'results.json').read_text())['per_sequence']
    assert [name.split('_')[0] for name in rows] == ['drawn-x']
    changed = [
        tf.train.load_variable(str(f), 'osmn/seg/conv1/conv1_1/weights') for f in (run, folder)
    ]
    assert not np.array_equal(*changed)
    # nothing made from something else is gone on from, or taken for finished
    again = [*start, '--set=online_learning_rate=0.5']
    for flag in ([], ['--object=1']):
        message = fails(online, *again, *flag)
        assert 'holds results of something else (online_learning_rate' in message
    other = tmp_path / 'parent'
    shutil.copytree(str(run), str(other))
    (other / 'model.ckpt-4.index').write_bytes(b'another training')
    cfg = cli.configure(online.arguments().parse_args(start), config.get_config, str(run))
    item = online.first_item(
        videos.find(drawn['davis'], 'davis', names='drawn-x', year='2016')[0], 1
    )
    with pytest.raises(ValueError, match='something else .parent'):
        online.trained(cfg, item, f'{other}/model.ckpt-4', str(folder))
    none = [f'--online_path={tmp_path}/none', f'--output_path={tmp_path}/r']
    assert 'no online trainings in' in fails(evaluate, *flags, *none)


@pytest.mark.parametrize('width', [0, 80])
def test_online_trains_at_the_evaluated_size(drawn, width):
    cfg = config.get_config('full')
    cfg.update(test_height=48, test_width=width)
    video = videos.find(drawn['davis2017'], 'davis', names='drawn-x')[0]
    item = online.first_item(video, 2)
    assert item.number == 2 and item.frame == video.frames[0]
    run = online.settings(cfg, item, 'parent')
    assert (run.height, run.width) == data.network_size((180, 320), cfg)
    assert run.scales == [0.5, 0.8, 1.0] and run.batch_size == 3  # osmn_online_finetune.py
    assert config.get_config('youtube_vos').online_scales == [0.8, 1.0, 1.5]
    assert online.settings(type(cfg)(cfg, base_model='lite'), item, 'p').scales == [1.0]
    union = videos.find(drawn['davis'], 'davis', names='drawn-x', year='2016')[0]
    assert online.first_item(union, 1).number == 0  # all of the mask is the object


def test_merge_takes_the_threshold_of_the_evaluation(scored, run, tmp_path, fails):
    """The masks again from the probabilities: every one, equal to the bit, by the threshold that
    was evaluated with; 0.42 is no preset's."""
    folder, flags, _ = scored
    written = {p: p.read_bytes() for p in (folder / 'masks').rglob('*.png')}
    assert len(written) == 10
    for path in written:
        path.unlink()
    assert videos.main(['--task=merge', *flags]) == 0
    assert all(path.read_bytes() == content for path, content in written.items())
    for more, threshold in (
        ([f'--checkpoint={run}'], 0.9),
        (['--preset=full'], 0.5),
        (['--set=threshold=0.7'], 0.7),
        ([], 0.42),
    ):
        args = ['--task=merge', *flags, *more]
        assert merged_by(args) == threshold
    os.rename(str(folder / 'scores' / 'settings.json'), str(tmp_path / 'away'))
    assert '--checkpoint (or --preset)' in fails(videos, '--task=merge', *flags)
    os.rename(str(tmp_path / 'away'), str(folder / 'scores' / 'settings.json'))
    path = folder / 'scores' / 'drawn-y' / '1' / '00004.npy'
    os.rename(str(path), str(tmp_path / 'away'))
    assert '00004.npy: run OSMN.evaluate with --save_score' in fails(videos, '--task=merge', *flags)
    os.rename(str(tmp_path / 'away'), str(path))


def merged_by(argv):
    """The threshold that OSMN.videos takes."""
    found = []
    real, videos.merge = videos.merge, lambda _, output, cfg: found.append(cfg.threshold) or 0
    try:
        assert videos.main(argv) == 0
    finally:
        videos.merge = real
    return found[0]


def test_evaluation_draws_and_says_what_was_trained_on(scored):
    folder, _, printed = scored
    assert masks.read_image(str(folder / 'overlay' / 'drawn-y.png')).shape[1] == 1280
    saved = np.load(str(folder / 'scores' / 'drawn-y' / '1' / '00003.npy'))
    assert saved.dtype == np.float32 and saved.shape == (48, 80)
    assert re.search(r'^weights: .*, trained on drawn data: for tests only$', printed, re.M)


def test_youtube_vos_objects_start_later(run, drawn, tmp_path, capsys, fails, reported):
    root = Path(shutil.copytree(drawn['youtube_vos'], str(tmp_path / 'YouTubeVOS')))
    name = '0ddddddddd'
    path = root / 'valid' / 'Annotations' / name / '00000.png'
    ids = masks.read_mask(str(path))
    masks.write_mask(str(path), np.where(ids == 1, ids, 0).astype(np.uint8))
    masks.write_mask(str(path.with_name('00006.png')), np.where(ids == 2, ids, 0).astype(np.uint8))
    meta = json.loads((root / 'valid' / 'meta.json').read_text())
    objects = meta['videos'][name]['objects']
    objects['1']['frames'] = [f'{t:05d}' for t in range(10)]
    objects['2']['frames'] = [f'{t:05d}' for t in range(6, 16)]
    (root / 'valid' / 'meta.json').write_text(json.dumps(meta))
    flags = [f'--data_path={tmp_path}', '--dataset=youtube_vos', f'--checkpoint={run}']
    flags += ['--device=cpu', f'--output_path={tmp_path}/out']
    assert evaluate.main(flags + ['--set=threshold=0.01']) == 0
    written = [
        masks.read_mask(str(p)) for p in sorted((tmp_path / f'out/Annotations/{name}').iterdir())
    ]
    assert len(written) == 16 and not any((m == 2).any() for m in written[:6])
    assert np.array_equal(written[6] == 2, ids == 2)
    assert not any((m == 1).any() for m in written[10:])  # meta.json lists it up to frame 9
    assert 'J&F-Mean' in capsys.readouterr().out  # object 1 has a mask at frame 6: it is not there
    objects['2']['frames'] = ['00099']
    (root / 'valid' / 'meta.json').write_text(json.dumps(meta))
    os.utime(str(root / 'valid' / 'meta.json'), (1, 1))
    assert 'frames that meta.json names' in fails(evaluate, *flags)
    more = [f'--data_path={drawn["youtube_vos"]}', '--split=train', '--dataset=youtube_vos']
    more += [f'--checkpoint={run}', '--device=cpu', f'--output_path={tmp_path}/train']
    assert evaluate.main(more + ['--sequences=0aaaaaaaaa', '--report']) == 0
    reported(tmp_path / 'train' / 'report.html')
    rows = json.loads((tmp_path / 'train' / 'results.json').read_text())['per_sequence']
    assert set(rows) == {'0aaaaaaaaa_1', '0aaaaaaaaa_2'}


def test_youtube_objects_from_the_raw_set(run, drawn, tmp_path, fails):
    raw = tmp_path / 'raw'
    for kind, name in (('aeroplane', 'drawn-x'), ('dog', 'drawn-y')):
        shot = raw / kind / 'data' / '0001' / 'shots' / '001'
        for folder in ('images', 'labels'):
            (shot / folder).mkdir(parents=True)
        pairs = davis.pairs(drawn['davis'], [name])[:3]
        for i, (frame, mask) in enumerate(pairs):
            cv2.imwrite(str(shot / 'images' / f'f{i}.png'), masks.read_image(frame))
            cv2.imwrite(str(shot / 'labels' / f'f{i}.jpg'), masks.read_mask(mask) * 255)
    task = ['--task=youtube_objects', f'--data_path={raw}', f'--output_path={tmp_path}/set']
    assert videos.main(task) == 0 and videos.main(task) == 0  # may be run again
    assert (tmp_path / 'set' / 'all.txt').read_text().split() == ['aeroplane_0001', 'dog_0001']
    label = masks.read_mask(str(tmp_path / 'set' / 'Labels' / 'dog_0001' / 'f1.png'))
    assert set(np.unique(label)) == {0, 1}
    flags = [f'--data_path={tmp_path}/set', '--dataset=youtube_objects', f'--checkpoint={run}']
    assert evaluate.main(flags + ['--device=cpu', f'--output_path={tmp_path}/out']) == 0
    rows = json.loads((tmp_path / 'out' / 'results.json').read_text())['per_sequence']
    assert set(rows) == {'aeroplane_0001_1', 'dog_0001_1'}
    message = fails(
        evaluate, f'--data_path={tmp_path}', *flags[1:], '--device=cpu',
        f'--output_path={tmp_path}/out',
    )  # fmt: skip
    assert 'expected Images/, Labels/ and all.txt' in message


def test_split_davis_writes_a_folder_an_object(drawn, tmp_path):
    task = ['--task=split_davis', f'--data_path={drawn["davis2017"]}', f'--output_path={tmp_path}']
    assert videos.main(task) == 0
    ids = masks.read_mask(davis.masks(drawn['davis2017'], 'drawn-x')[3])
    for folder, expected in (('480p_split/drawn-x/2', ids == 2), ('480p_all/drawn-x', ids > 0)):
        written = cv2.imread(str(tmp_path / 'Annotations' / folder / '00003.png'), -1)
        assert written.dtype == np.uint8 and np.array_equal(written, expected * 255)


@pytest.mark.parametrize('kind', ['folder', 'video'])
def test_demo(kind, run, drawn, tmp_path, capsys, fails):
    frames = os.path.dirname(davis.frames(drawn['davis2017'], 'drawn-y')[0])
    source = frames
    if kind == 'video':
        source = str(tmp_path / 'clip.mp4')
        masks.write_video(source, (image for _, image in masks.read_frames(frames)))
    mask = davis.masks(drawn['davis2017'], 'drawn-y')[0]
    flags = [f'--input={source}', f'--mask={mask}', f'--checkpoint={run}', '--device=cpu']
    assert demo.main(flags + [f'--output_path={tmp_path}/demo']) == 0
    names = sorted(p.name for p in (tmp_path / 'demo' / 'masks').iterdir())
    assert names == [f'{t:05d}.png' for t in range(10)]
    first = masks.read_mask(str(tmp_path / 'demo' / 'masks' / names[0]))
    assert np.array_equal(first, masks.read_mask(mask))
    assert len(list(masks.read_frames(str(tmp_path / 'demo' / 'overlay.mp4')))) == 10
    assert 'weights: ' in capsys.readouterr().out
    other = masks.read_mask(mask)
    other[:20] = 1
    masks.write_mask(str(tmp_path / 'other.png'), other)
    more = [f'--mask={tmp_path}/other.png', f'--output_path={tmp_path}/demo']
    assert 'holds results of something else (mask' in fails(demo, *flags, *more)


def test_faults_are_told(run, drawn, tmp_path, fails, monkeypatch):
    frames = os.path.dirname(davis.frames(drawn['davis'], 'drawn-x')[0])
    common = [f'--checkpoint={run}', '--device=cpu', f'--output_path={tmp_path}/o']
    masks.write_mask(str(tmp_path / 'small.png'), np.ones((9, 9), np.uint8))
    cv2.imwrite(str(tmp_path / 'void.png'), np.zeros((180, 320), np.uint8))
    soft = np.zeros((180, 320), np.uint8)
    soft[40:90, 60:90] = np.arange(100, 130)  # the edge of an anti-aliased mask
    cv2.imwrite(str(tmp_path / 'soft.png'), soft)
    clip = f'--input={frames}'
    assert 'small.png is 9x9' in fails(demo, *common, clip, f'--mask={tmp_path}/small.png')
    assert 'marks no object' in fails(demo, *common, clip, f'--mask={tmp_path}/void.png')
    assert 'a soft or JPEG' in fails(demo, *common, clip, f'--mask={tmp_path}/soft.png')
    mixed = Path(shutil.copytree(frames, str(tmp_path / 'mixed')))
    cv2.imwrite(str(mixed / '00007.jpg'), np.zeros((90, 160, 3), np.uint8))
    mask = davis.masks(drawn['davis'], 'drawn-x')[0]
    message = fails(demo, *common, f'--input={mixed}', f'--mask={mask}')
    assert 'frame 00007' in message and not (tmp_path / 'o').exists()  # told before any work
    root = Path(shutil.copytree(drawn['davis'], str(tmp_path / 'DAVIS')))
    flags = [f'--data_path={root}']
    first = root / 'Annotations/480p/drawn-x/00000.png'
    masks.write_mask(str(first), np.zeros((180, 320), np.uint8))
    assert 'drawn-x: the masks given show no object' in fails(evaluate, *common, *flags)
    message = fails(evaluate, *common, *flags, '--preset=smoke', '--sequences=drawn-y')
    assert 'is not of this network' in message and 'another shape' in message
    with monkeypatch.context() as patch:
        patch.setattr('OSMN.pretrained.FOLDER', 'nowhere')  # no weights have come along
        assert 'is needed' in fails(evaluate, *common[1:], *flags)
    other = root / 'Annotations/480p/drawn-y/00000.png'
    masks.write_mask(str(other), np.ones((9, 8), np.uint8))
    message = fails(evaluate, *common, *flags, '--sequences=drawn-y')
    assert 'frame 0: its mask is 8x9, the frame 320x180' in message
    message = fails(online, *common, *flags, '--sequences=drawn-y', '--object=1')
    assert '00000.png is 8x9, its frame' in message
    masks.write_mask(str(root / 'Annotations/480p/drawn-a/00003.png'), np.ones((9, 8), np.uint8))
    pairs = davis.pairs(str(root), ['drawn-a'])
    item = data.VideoItem(*pairs[0], pairs[2][1], *pairs[3], 0)
    with pytest.raises(ValueError, match='00003.png is 8x9, its frame .*00003.jpg is 320x180'):
        data.load_video(item, (48, 64))
    masks.write_mask(str(other), np.ones((180, 320), np.uint8))
    flags += ['--sequences=drawn-y', '--crf', '--set=threshold=0.01']
    assert '--crf needs pydensecrf: pip install' in fails(evaluate, *common, *flags)
    (tmp_path / 'empty').mkdir()
    flags = [f'--data_path={tmp_path}/empty', *FLAGS, f'--output_path={tmp_path}/t']
    assert 'no COCO data at' in fails(train, *flags)
    image = masks.read_image(davis.frames(drawn['davis'], 'drawn-x')[0])
    cv2.imwrite(str(tmp_path / 'big.jpg'), cv2.resize(image, (100, 100)))
    with pytest.raises(ValueError, match='big.jpg is 100x100, its annotations are of 320x180'):
        data.load_coco(data.CocoItem(str(tmp_path / 'big.jpg'), 180, 320, ''))


def test_a_truncated_training_image_is_named(drawn, tmp_path, fails):
    root = Path(shutil.copytree(drawn['coco'], str(tmp_path / 'coco')))
    for path in (root / 'train2017').iterdir():
        path.write_bytes(path.read_bytes()[:600])
    flags = [*FLAGS, f'--data_path={root}', f'--output_path={tmp_path}/run']
    assert 'is cut off' in fails(train, *flags, '--check_data=all')
    assert 'is cut off' in fails(train, *flags, '--dry_run', '--steps=1')  # reads a batch


def test_crf_is_called_with_the_official_numbers(monkeypatch):
    calls = []

    class Field:
        def __init__(self, width, height, labels):
            calls.append((width, height, labels))

        def __getattr__(self, name):
            def call(*args, **values):
                calls.append((name, values))
                return np.eye(2)[:, [0, 1] * 4] if name == 'inference' else None

            return call

    fake = types.ModuleType('pydensecrf')
    fake.densecrf = types.SimpleNamespace(DenseCRF2D=Field)
    fake.utils = types.SimpleNamespace(unary_from_labels=lambda labels, n, **v: calls.append(v))
    monkeypatch.setitem(sys.modules, 'pydensecrf', fake)
    maps = {3: np.array([[0.1, 0.9, 0.2, 0.8]] * 2, np.float32)}
    result = inference.refine(maps, np.zeros((4, 8, 3), np.uint8))
    assert result[3].tolist() == [[0, 1, 0, 1]] * 2 and calls[0] == (4, 2, 2)
    assert {'gt_prob': 0.9, 'zero_unsure': False} in calls
    named = dict(c for c in calls if isinstance(c, tuple) and len(c) == 2)
    assert named['addPairwiseGaussian'] == {'sxy': (3, 3), 'compat': 3}
    assert {k: v for k, v in named['addPairwiseBilateral'].items() if k != 'rgbim'} == {
        'sxy': (40, 40), 'srgb': (5, 5, 5), 'compat': 10,
    }  # fmt: skip

    def probabilities(image, heats, scales):
        priors.append(heats[0, ..., 0])
        return np.zeros((1, 2, 4), np.float32) + 0.1  # nothing; the field answers 0 1 0 1

    priors, raw = [], []
    cfg = config.get_config('smoke')
    cfg.update(test_height=2, test_width=4, original_mask=True, guide_size=32, threshold=0.5)
    first = np.array([[0, 1, 1, 0]] * 2, np.uint8)
    frames = [np.zeros((2, 4, 3), np.uint8)] * 3
    network = inference.Network(probabilities, lambda found: np.zeros((1, 1), np.float32))
    monkeypatch.setattr(guides, 'dilate', lambda mask: mask.astype(np.float32))
    visit = lambda t, maps: raw.append(maps[1])  # noqa: E731
    steps = list(inference.roll_out(network, cfg, frames, {0: first}, True, visit))
    assert priors[0].tolist() == first.tolist()  # the given mask is not refined
    assert priors[1].tolist() == steps[1][1][1].tolist() == [[0, 1, 0, 1]] * 2
    assert raw[1].max() == np.float32(0.1)  # what is saved is the network's
