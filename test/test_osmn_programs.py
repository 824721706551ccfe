"""OSMN's programs: import of published weights, export, online training, demo, other data sets,
faults."""

from __future__ import annotations

import json
import os
import shutil
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from common import davis, masks
from OSMN import config, convert, data, demo, evaluate, export, model, online, train, videos

SMALL = dict(
    height=48, width=64, guide_size=32, channels=0.07, log_steps=1, checkpoint_steps=2,
    test_height=48, test_width=80, online_steps=3, workers=2,
)  # fmt: skip
FLAGS = ['--device=cpu', '--preset=smoke', '--batch_size=2'] + [
    f'--set={k}={v}' for k, v in SMALL.items()
]


def fails(capsys, program, *flags):
    """The message of a program that must fail."""
    assert program.main([str(flag) for flag in flags]) == 1
    message = capsys.readouterr().err
    assert message.startswith('OSMN: error: ')
    return message


@pytest.fixture(scope='module')
def run(drawn, tmp_path_factory):
    """Folder of a finished short run on COCO."""
    folder = tmp_path_factory.mktemp('run')
    flags = [f'--data_path={drawn["coco"]}', f'--output_path={folder}', '--steps=2']
    assert train.main(FLAGS + flags) == 0
    return folder


def test_check_data_and_dry_run(drawn, tmp_path, capsys):
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
        capsys, train, *FLAGS, *flags[:1], '--set=dataset=vot'
    )


def test_resume_and_the_next_stage(run, drawn, tmp_path, capsys):
    folder = shutil.copytree(str(run), str(tmp_path / 'run'))
    flags = [f'--data_path={drawn["coco"]}', f'--output_path={folder}', '--steps=4']
    assert train.main(FLAGS + flags) == 0
    assert 'resuming from step 2' in capsys.readouterr().out
    assert int(tf.train.load_variable(folder, 'global_step')) == 4
    flags = [f'--data_path={drawn["davis2017"]}', f'--output_path={tmp_path}/next', '--steps=1']
    assert train.main(FLAGS + flags + [f'--init_from={folder}', '--preset=smoke_davis']) == 0
    for name, fixed in (
        ('osmn/seg/conv1/conv1_1/weights', True),
        ('osmn/modulator_sp/conv3/BatchNorm/moving_mean', True),
        ('osmn/modulator_sp/conv3/weights', False),
    ):
        old, new = (tf.train.load_variable(str(f), name) for f in (folder, tmp_path / 'next'))
        assert np.array_equal(old, new) == fixed, name
    assert int(tf.train.load_variable(str(tmp_path / 'next'), 'global_step')) == 1


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


def test_published_checkpoint_maps_every_variable(narrow, tmp_path, capsys):
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
    assert saved['channels'] == 0.07 and 'left out: 0 arrays' in capsys.readouterr().out
    arrays.pop('osmn/modulator/fc8/biases')
    np.savez(str(tmp_path / 'source.npz'), **arrays)
    flags = [f'--source={tmp_path}/source.npz', f'--output={tmp_path}/o/model.ckpt', *NARROW]
    assert "expected [('osmn/modulator/fc8/biases', (" in fails(capsys, convert, *flags)
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


def test_unknown_weights(tmp_path, capsys):
    np.savez(str(tmp_path / 'x.npz'), a=np.zeros(3))
    flags = [f'--source={tmp_path}/x.npz', f'--output={tmp_path}/model.ckpt']
    assert "found ['a']" in fails(capsys, convert, *flags)


def test_exported_graphs_answer_as_the_network(run, tmp_path, capsys):
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

    def frozen(name, feed):
        with tf.Graph().as_default(), tf.Session() as session:
            graph = tf.GraphDef.FromString((tmp_path / f'{name}.pb').read_bytes())
            output = tf.import_graph_def(graph, return_elements=['output:0'], name='')[0]
            return session.run(output, {f'{key}:0': values[key] for key in feed})

    values['scales'] = frozen('OSMN_modulator', ['guide'])
    np.testing.assert_allclose(values['scales'], scales, atol=1e-6)
    names = ['image', 'heat', 'scales']
    np.testing.assert_allclose(frozen('OSMN', names), expected, atol=1e-6)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.saved_model.load(session, ['serve'], str(tmp_path / 'saved_model_OSMN'))
        again = session.run('output:0', {f'{key}:0': values[key] for key in names})
    np.testing.assert_allclose(again, expected, atol=1e-6)
    assert export.main([f'--checkpoint={run}', f'--output_path={tmp_path}', '--device=cpu']) == 1


def test_online_networks_are_evaluated_and_kept(run, drawn, tmp_path, capsys):
    flags = [f'--data_path={drawn["davis2017"]}', '--sequences=drawn-x', '--device=cpu']
    start = flags + [f'--checkpoint={run}', f'--output_path={tmp_path}/online', '--devices=0,1']
    assert online.main(start) == 0
    assert all(online.trained(f'{tmp_path}/online/drawn-x_{n}', 3) for n in (1, 2))
    capsys.readouterr()
    assert online.main(start) == 0
    assert '2 of them done already' in capsys.readouterr().out
    more = [f'--online_path={tmp_path}/online', f'--output_path={tmp_path}/results']
    assert evaluate.main(flags + more) == 0
    rows = json.loads((tmp_path / 'results' / 'results.json').read_text())['per_sequence']
    assert set(rows) == {'drawn-x_1', 'drawn-x_2'}
    changed = [
        tf.train.load_variable(str(f), 'osmn/seg/conv1/conv1_1/weights')
        for f in (run, tmp_path / 'online' / 'drawn-x_1')
    ]
    assert not np.array_equal(*changed)
    assert 'no online trainings in' in fails(
        capsys, evaluate, *flags, f'--online_path={tmp_path}/none', f'--output_path={tmp_path}/r'
    )


def test_youtube_vos_objects_start_later(run, drawn, tmp_path, capsys):
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
    assert 'frames that meta.json names' in fails(capsys, evaluate, *flags)
    more = [f'--data_path={drawn["youtube_vos"]}', '--split=train', '--dataset=youtube_vos']
    more += [f'--checkpoint={run}', '--device=cpu', f'--output_path={tmp_path}/train']
    assert evaluate.main(more + ['--sequences=0aaaaaaaaa']) == 0
    rows = json.loads((tmp_path / 'train' / 'results.json').read_text())['per_sequence']
    assert set(rows) == {'0aaaaaaaaa_1', '0aaaaaaaaa_2'}


def test_youtube_objects_from_the_raw_set(run, drawn, tmp_path, capsys):
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
        capsys, evaluate, f'--data_path={tmp_path}', *flags[1:], '--device=cpu',
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
def test_demo(kind, run, drawn, tmp_path):
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


def test_faults_are_told(run, drawn, tmp_path, capsys):
    frames = os.path.dirname(davis.frames(drawn['davis'], 'drawn-x')[0])
    common = [f'--checkpoint={run}', '--device=cpu', f'--output_path={tmp_path}/o']
    masks.write_mask(str(tmp_path / 'small.png'), np.ones((9, 9), np.uint8))
    masks.write_mask(str(tmp_path / 'void.png'), np.full((180, 320), 255, np.uint8))
    cv2.imwrite(str(tmp_path / 'void.png'), np.zeros((180, 320), np.uint8))
    clip = f'--input={frames}'
    assert 'small.png is 9x9' in fails(capsys, demo, *common, clip, f'--mask={tmp_path}/small.png')
    assert 'marks no object' in fails(capsys, demo, *common, clip, f'--mask={tmp_path}/void.png')
    root = Path(shutil.copytree(drawn['davis'], str(tmp_path / 'DAVIS')))
    flags = [f'--data_path={root}']
    masks.write_mask(
        str(root / 'Annotations/480p/drawn-x/00000.png'), np.zeros((180, 320), np.uint8)
    )
    assert 'drawn-x: the masks given show no object' in fails(capsys, evaluate, *common, *flags)
    message = fails(capsys, evaluate, *common, *flags, '--preset=smoke', '--sequences=drawn-y')
    assert 'is not of this network' in message and 'another shape' in message
    assert 'is needed' in fails(capsys, evaluate, *common[1:], *flags)
    masks.write_mask(str(root / 'Annotations/480p/drawn-y/00000.png'), np.ones((9, 8), np.uint8))
    message = fails(capsys, evaluate, *common, *flags, '--sequences=drawn-y')
    assert 'frame 0: its mask is 8x9, the frame 320x180' in message
    masks.write_mask(str(root / 'Annotations/480p/drawn-a/00003.png'), np.ones((9, 8), np.uint8))
    item = (*davis.pairs(str(root), ['drawn-a'])[0], *([davis.masks(str(root), 'drawn-a')[2]]))
    with pytest.raises(ValueError, match='00003.png is 8x9, its frame .*00003.jpg is 320x180'):
        data.load_video((*item, *davis.pairs(str(root), ['drawn-a'])[3], 0), (48, 64))
    masks.write_mask(
        str(root / 'Annotations/480p/drawn-y/00000.png'), np.ones((180, 320), np.uint8)
    )
    message = fails(
        capsys, evaluate, *common, *flags, '--sequences=drawn-y', '--crf', '--set=threshold=0.01'
    )
    assert '--crf needs pydensecrf: pip install' in message
    flags = [f'--data_path={tmp_path}/empty', *FLAGS, f'--output_path={tmp_path}/t']
    (tmp_path / 'empty').mkdir()
    assert 'no COCO data at' in fails(capsys, train, *flags)
    image = data.masks.read_image(davis.frames(drawn['davis'], 'drawn-x')[0])
    cv2.imwrite(str(tmp_path / 'big.jpg'), cv2.resize(image, (100, 100)))
    with pytest.raises(ValueError, match='big.jpg is 100x100, its annotations are of 320x180'):
        data.load_coco(str(tmp_path / 'big.jpg'), 180, 320, '')


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
    result = evaluate.refined(maps, np.zeros((4, 8, 3), np.uint8))
    assert result[3].tolist() == [[0, 1, 0, 1]] * 2 and calls[0] == (4, 2, 2)
    assert {'gt_prob': 0.9, 'zero_unsure': False} in calls
    named = dict(c for c in calls if isinstance(c, tuple) and len(c) == 2)
    assert named['addPairwiseGaussian'] == {'sxy': (3, 3), 'compat': 3}
    assert {k: v for k, v in named['addPairwiseBilateral'].items() if k != 'rgbim'} == {
        'sxy': (40, 40), 'srgb': (5, 5, 5), 'compat': 10,
    }  # fmt: skip

    def run(picture, heats, scales):
        priors.append(heats[0, ..., 0])
        return np.zeros((1, 2, 4), np.float32) + 0.1  # nothing; the field answers 0 1 0 1

    priors, raw = [], []
    cfg = config.get_config('smoke')
    cfg.update(test_height=2, test_width=4, original_mask=True, guide_size=32, threshold=0.5)
    first = np.array([[0, 1, 1, 0]] * 2, np.uint8)
    frames = [np.zeros((2, 4, 3), np.uint8)] * 3
    network = run, lambda guides_: np.zeros((1, 1), np.float32)
    monkeypatch.setattr(data.guides, 'dilated', lambda mask: mask.astype(np.float32))
    visit = lambda t, maps: raw.append(maps[1])  # noqa: E731
    steps = list(evaluate.roll_out(network, cfg, iter(frames), {0: first}, True, visit))
    assert priors[0].tolist() == first.tolist()  # the given mask is not refined
    assert priors[1].tolist() == steps[1][1][1].tolist() == [[0, 1, 0, 1]] * 2
    assert raw[1].max() == np.float32(0.1)  # what is saved is the network's
