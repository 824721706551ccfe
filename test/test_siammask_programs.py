"""SiamMask's programs: training in stages, resume, evaluation, search, demo, import, export, the
exact messages of faults."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from common import masks
from SiamMask import config, convert, demo, evaluate, export, model, prepare, tracker, train, vot

SMALL = ['--device=cpu', '--batch_size=2'] + [
    f'--set={k}={v}'
    for k, v in dict(channels=0.07, blocks=[1, 1, 2], log_steps=1, checkpoint_steps=2,
                     workers=0, pairs=8).items()
]  # fmt: skip


def fails(capsys, program, *flags):
    """The message of a program that must fail."""
    assert program.main([str(flag) for flag in flags]) == 1
    message = capsys.readouterr().err
    assert message.startswith('SiamMask: error: ')
    return message


@pytest.fixture(scope='module')
def crops(drawn, tmp_path_factory):
    """Folder that prepare wrote."""
    folder = tmp_path_factory.mktemp('crops')
    root = Path(drawn['coco']).parent
    assert prepare.main([f'--data_path={root}', f'--output_path={folder}', '--workers=1']) == 0
    return folder


@pytest.fixture(scope='module')
def run(crops, tmp_path_factory):
    """Folder of a finished short base training."""
    folder = tmp_path_factory.mktemp('run')
    flags = [f'--data_path={crops}', f'--output_path={folder}', '--steps=2', '--preset=smoke']
    assert train.main(SMALL + flags) == 0
    return folder


@pytest.fixture(scope='module')
def sharp(run, crops, tmp_path_factory):
    """Folder of the refinement that follows it."""
    folder = tmp_path_factory.mktemp('sharp')
    flags = [f'--data_path={crops}', f'--output_path={folder}', '--steps=2']
    assert train.main([*SMALL, *flags, '--preset=smoke_sharp', f'--init_from={run}']) == 0
    return folder


def value(folder, name):
    return tf.train.load_variable(str(folder), name)


def test_sharp_stage_changes_its_own_variables_only(run, sharp):
    same = ('features/conv1/weights', 'features/bn1/moving_mean', 'neck/bn/moving_variance',
            'cls/head/out/biases', 'mask/head/conv/weights')  # fmt: skip
    for name in same:
        assert np.array_equal(value(run, f'siammask/{name}'), value(sharp, f'siammask/{name}')), (
            name
        )
    for name in ('mask/kernel/conv/weights', 'mask/search/bn/moving_mean'):
        assert not np.array_equal(value(run, f'siammask/{name}'), value(sharp, f'siammask/{name}'))


def test_stages_of_the_base_training_and_resume(crops, tmp_path, capsys):
    """Not from scratch: layer2 trains in the second half only; killed there, it goes on there."""
    flags = [*SMALL, '--preset=smoke', f'--data_path={crops}', '--set=scratch=False', '--steps=4',
             '--set=learning_rate=0.5', '--set=warmup_rate=0.5', '--set=end_learning_rate=0.5',
             '--set=checkpoint_steps=1', '--set=keep_checkpoints=9']  # fmt: skip
    first = tmp_path / 'a'
    assert train.main([*flags, f'--output_path={first}']) == 0
    name, other = 'siammask/features/layer2/0/conv1/weights', 'siammask/features/conv1/weights'
    steps = [tf.train.load_variable(f'{first}/model.ckpt-{k}', name) for k in range(5)]
    changed = [not np.array_equal(a, b) for a, b in zip(steps, steps[1:])]
    assert changed == [False, False, True, True]
    assert np.array_equal(
        value(first, other), tf.train.load_variable(f'{first}/model.ckpt-0', other)
    )
    second = tmp_path / 'b'
    shutil.copytree(str(first), str(second))
    for path in second.glob('model.ckpt-4*'):
        path.unlink()
    tf.train.update_checkpoint_state(str(second), f'{second}/model.ckpt-3')
    capsys.readouterr()
    assert train.main([*flags, f'--output_path={second}']) == 0
    assert 'resuming from step 3' in capsys.readouterr().out
    np.testing.assert_allclose(value(second, name), steps[4], atol=1e-6)  # the same pairs


def test_check_data_and_dry_run(drawn, crops, tmp_path, capsys):
    flags = [*SMALL, '--preset=smoke', f'--data_path={crops}', f'--output_path={tmp_path}/run']
    assert train.main([*flags, '--check_data']) == 0
    found = json.loads(capsys.readouterr().out.strip().split('\n')[-1])
    assert found['coco']['tracks'] > 20 and found['vid']['boxes'] > 60
    assert train.main([*flags, '--dry_run', '--steps=7']) == 0
    printed = capsys.readouterr().out
    assert 'search float32 [2, 255, 255, 3]' in printed and '7 steps' in printed
    config_path = Path(train.__file__).parent / 'config' / 'config.json'
    flags += [f'--config={config_path}', '--set=train_steps=0']
    assert train.main([*flags, '--dry_run']) == 0
    assert ' 80 steps' in capsys.readouterr().out  # pairs=8 of --set wins
    assert not (tmp_path / 'run').exists()


def test_messages_of_training(drawn, tmp_path, capsys):
    flags = [*SMALL, '--preset=full', f'--output_path={tmp_path}/run', '--steps=1']
    message = fails(capsys, train, *flags, f'--data_path={tmp_path}')
    assert 'no crops' in message and 'ytb_vos/train.json' in message and 'prepare' in message
    assert "no data set 'cocoa'" in fails(
        capsys, train, *flags, f'--data_path={tmp_path}', "--set=datasets=[['cocoa', 0, 1, 'x']]"
    )
    assert 'no such file' in fails(capsys, train, *flags, '--config=none.json', '--data_path=.')


def test_raw_data_are_cut_beside_the_checkpoints(drawn, tmp_path):
    flags = [*SMALL, '--preset=smoke', '--steps=1', f'--output_path={tmp_path}/run',
             f'--data_path={Path(drawn["coco"]).parent}']  # fmt: skip
    flags.append("--set=datasets=[['det', 0, 1, 'train.json']]")
    assert train.main(flags) == 0
    assert (tmp_path / 'run_crops' / 'det' / 'train.json').is_file()


def test_vot_results_table_and_pictures(run, drawn, tmp_path, capsys):
    flags = [f'--data_path={drawn["vot"]}', f'--checkpoint={run}', '--device=cpu',
             f'--output_path={tmp_path}/out']  # fmt: skip
    assert evaluate.main([*flags, '--sequences=drawn1,drawn2']) == 0
    printed = capsys.readouterr().out
    (folder,) = (tmp_path / 'out').iterdir()
    assert folder.name == 'SiamMask_mask_model.ckpt-2' and folder.name in printed
    lines = (folder / 'baseline/drawn1/drawn1_001.txt').read_text().split('\n')
    assert lines[0] == '1' and len(lines) == 25
    scores = json.loads((folder / 'results.json').read_text())
    assert set(scores['per_sequence']) == {'drawn1', 'drawn2'} and scores['eao'] is None
    assert cv2.imread(str(folder / 'eao.png')).shape == (360, 720, 3)
    kept = (folder / 'baseline/drawn1/drawn1_001.txt').stat().st_mtime_ns
    assert evaluate.main(flags) == 0  # all three: two are there
    assert (folder / 'baseline/drawn1/drawn1_001.txt').stat().st_mtime_ns == kept
    assert (folder / 'baseline/drawn3/drawn3_001.txt').is_file()
    other = ['--set=penalty_k=0.2', '--sequences=drawn1']
    assert 'of other settings' in fails(capsys, evaluate, *flags, *other)
    again = [f'--data_path={drawn["vot"]}', f'--results={tmp_path}/out', '--device=cpu']
    assert evaluate.main([*again, f'--output_path={tmp_path}/scores']) == 0
    assert folder.name in capsys.readouterr().out
    new = json.loads((tmp_path / 'scores' / folder.name / 'results.json').read_text())
    assert new['lost'] >= scores['lost']


def test_sweep_and_search(run, drawn, tmp_path):
    flags = [f'--data_path={drawn["vot"]}', f'--checkpoint={run}', '--device=cpu', '--boxes',
             '--sequences=drawn1', f'--output_path={tmp_path}']  # fmt: skip
    assert evaluate.main([*flags, '--sweep']) == 0
    assert {p.name for p in tmp_path.iterdir()} == {f'SiamMask_box_model.ckpt-{k}' for k in (0, 2)}
    search = ['--search=penalty_k=0.0,0.2,0.1', '--search=tracker_rate=0.2,0.4,0.1']
    assert evaluate.main([*flags, *search]) == 0
    names = {p.name for p in tmp_path.iterdir() if 'penalty' in p.name}
    assert len(names) == 4 and 'SiamMask_box_model.ckpt-2_penalty_k0.100_tracker_rate0.300' in names
    line = (tmp_path / 'SiamMask_box_model.ckpt-2/baseline/drawn1/drawn1_001.txt').read_text()
    assert {len(row.split(',')) for row in line.split()} <= {1, 4}


@pytest.mark.parametrize('dataset', ['davis2017', 'youtube_vos'])
def test_video_object_segmentation(sharp, drawn, tmp_path, dataset, capsys):
    kind = 'davis' if dataset == 'davis2017' else dataset
    names = '--sequences=drawn-y' if kind == 'davis' else '--sequences=0cccccccccc'
    flags = [f'--data_path={drawn[dataset]}', f'--dataset={kind}', f'--checkpoint={sharp}', names,
             f'--output_path={tmp_path}', '--device=cpu', '--overlay']  # fmt: skip
    flags.append('--set=mask_threshold=0.1')
    flags += ['--split=train'] if kind == 'youtube_vos' else []
    assert evaluate.main(flags) == 0
    assert 'J&F-Mean' in capsys.readouterr().out
    folder = tmp_path / 'masks' / names.split('=')[1]
    first = masks.read_mask(str(folder / '00000.png'))
    assert first.shape == (180, 320) and set(np.unique(first)) >= {0, 1, 2}
    assert len(list(folder.iterdir())) == (10 if kind == 'davis' else 16)
    assert list((tmp_path / 'overlay').glob('*.mp4'))
    rows = json.loads((tmp_path / 'results.json').read_text())['per_sequence']
    assert any('IoU@0.35' in row for row in rows.values())


def test_objects_that_appear_later_and_more_than_a_call_takes(sharp, drawn):
    """Ids out of order, five objects, two of them from frame 2 on: merged under their own ids."""
    cfg = config.get_config('smoke_sharp')
    cfg.update(json.loads((Path(str(sharp)) / 'config.json').read_text()), device='cpu', objects=2)
    network = tracker.Network(cfg, str(sharp), 5)
    assert network.objects == 2
    frames = [masks.read_image(f) for f in vot.load(drawn['vot'])[0]['frames'][:4]]
    given = {0: np.zeros((180, 320), np.uint8), 2: np.zeros((180, 320), np.uint8)}
    for t, number, x in ((0, 9, 10), (0, 4, 90), (0, 200, 170), (2, 3, 220), (2, 250, 280)):
        given[t][60:100, x : x + 30] = number
    hyper = tracker.hyper_parameters(cfg, 'davis')
    steps = list(tracker.segment(network, iter(frames), given, hyper))
    assert [len(states) for _, _, states in steps] == [3, 3, 5, 5]
    np.testing.assert_array_equal(steps[0][1], given[0])
    short = list(tracker.segment(network, iter(frames), given, hyper, {9: 1, 4: 2}))
    assert [len(states) for _, _, states in short] == [3, 3, 4, 3]
    one = tracker.Network(cfg, str(sharp), 1)
    alone = list(tracker.segment(one, iter(frames), {0: np.where(given[0] == 4, 4, 0)}, hyper))
    np.testing.assert_allclose(alone[3][2][4]['place'], steps[3][2][4]['place'], atol=1e-3)


def test_demo_with_boxes_and_with_a_mask(sharp, drawn, tmp_path, capsys):
    folder = Path(drawn['vot']) / 'drawn1' / 'color'
    flags = [f'--input={folder}', f'--checkpoint={sharp}', '--device=cpu']
    assert (
        demo.main(
            [*flags, '--box=60,40,50,50', '--box=150,60,40,40', f'--output_path={tmp_path}/a']
        )
        == 0
    )
    rows = (tmp_path / 'a' / 'tracks.csv').read_text().strip().split('\n')
    assert len(rows) == 1 + 24 * 2 and rows[1].startswith('00000001,1,1.0000,60.00,40.00')
    assert len(list((tmp_path / 'a' / 'masks').iterdir())) == 24
    assert (tmp_path / 'a' / 'overlay.mp4').stat().st_size > 1000
    mask = np.zeros((180, 320), np.uint8)
    mask[50:90, 100:150], mask[100:130, 200:260] = 3, 5
    masks.write_mask(str(tmp_path / 'm.png'), mask)
    assert demo.main([*flags, f'--mask={tmp_path}/m.png', f'--output_path={tmp_path}/b']) == 0
    assert ',5,' in (tmp_path / 'b' / 'tracks.csv').read_text()
    out = f'--output_path={tmp_path}/c'
    assert 'either --box' in fails(capsys, demo, *flags, out)
    assert 'expected x,y,width,height' in fails(capsys, demo, *flags, out, '--box=1,2,3')
    assert 'has no area' in fails(capsys, demo, *flags, out, '--box=1,2,0,5')
    assert 'has no area' in fails(capsys, demo, *flags, out, '--box=5000,2,9,5')
    masks.write_mask(str(tmp_path / 'e.png'), np.zeros((180, 320), np.uint8))
    assert 'marks no object' in fails(capsys, demo, *flags, out, f'--mask={tmp_path}/e.png')
    masks.write_mask(str(tmp_path / 's.png'), np.ones((18, 32), np.uint8))
    assert 'must have their size' in fails(capsys, demo, *flags, out, f'--mask={tmp_path}/s.png')


def test_frames_may_change_their_size(sharp):
    cfg = config.get_config('smoke_sharp')
    cfg.update(json.loads((Path(str(sharp)) / 'config.json').read_text()), device='cpu')
    network = tracker.Network(cfg, str(sharp))
    draw = np.random.RandomState(0)
    state = tracker.start(
        network, draw.randint(0, 255, (90, 120, 3)).astype(np.uint8), (60, 40, 30, 20)
    )
    hyper = tracker.hyper_parameters(cfg, 'davis')
    image = draw.randint(0, 255, (70, 200, 3)).astype(np.uint8)
    state = tracker.step(network, image, [state], hyper)[0]
    assert state['mask'].shape == (70, 200) and 0 <= state['place'][1] <= 70


def test_export_answers_as_the_checkpoint(sharp, tmp_path, capsys):
    assert export.main([f'--checkpoint={sharp}', f'--output_path={tmp_path}']) == 0
    printed = capsys.readouterr().out
    assert '--out_nodes="best:0;score:0;penalty:0;box:0;mask:0"' in printed
    assert 'template:1,127,127,3;search:1,255,255,3' in printed
    cfg = config.get_config('smoke_sharp')
    cfg.update(json.loads((Path(str(sharp)) / 'config.json').read_text()), device='cpu')
    network = tracker.Network(cfg, str(sharp))
    draw = np.random.RandomState(0)
    z, x = (draw.uniform(0, 255, (n, n, 3)).astype(np.float32) for n in (127, 255))
    kernels = network.learn(z)
    ours = network.find([x], [kernels], [np.array([60.0, 70.0])], (0.04, 0.4))

    def frozen(name, feed, fetches):
        graph = tf.GraphDef()
        graph.ParseFromString((tmp_path / f'{name}.pb').read_bytes())
        with tf.Graph().as_default(), tf.Session() as session:
            tf.import_graph_def(graph, name='')
            return session.run(fetches, feed)

    own = frozen(
        'SiamMask_template', {'template:0': z[None]}, [f'kernel_{k}:0' for k in model.BRANCHES]
    )
    for mine, name in zip(own, model.BRANCHES):
        np.testing.assert_allclose(mine, kernels[name], atol=1e-4)
    feed = {'search:0': x[None], 'size:0': [[60, 70]], 'hyper:0': [0.04, 0.4]}
    feed.update({f'kernel_{k}:0': v for k, v in kernels.items()})
    best, mask = frozen('SiamMask_track', feed, ['best:0', 'mask:0'])
    assert best[0] == ours['best'][0]
    np.testing.assert_allclose(mask, ours['mask'], atol=1e-4)
    cls, grid = frozen(
        'SiamMask_pair', {'template:0': z[None], 'search:0': x[None]}, ['cls:0', 'masks:0']
    )
    assert cls.shape == (1, 25, 25, 10) and grid.shape == (1, 25, 25, 3969)
    assert 'is there already' in fails(
        capsys, export, f'--checkpoint={sharp}', f'--output_path={tmp_path}'
    )
    with tf.Graph().as_default(), tf.Session() as session:
        loaded = tf.saved_model.load(
            session, ['serve'], str(tmp_path / 'saved_model_SiamMask_pair')
        )
        assert set(loaded.signature_def['serving_default'].outputs) == {'cls', 'loc', 'masks'}


def test_convert_writes_what_evaluate_takes(tmp_path):
    """Whole size, names of PySOT, as .npz: every variable is filled."""
    shapes = convert.network_shapes(config.get_config('full'), 'base')
    names = {}
    for theirs in _official_names():
        names[convert.target(theirs)] = theirs
    assert set(names) == set(shapes)
    arrays = {}
    for ours, theirs in names.items():
        value = np.zeros(shapes[ours], np.float32)
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
        for new, old in convert.PYSOT:
            theirs = new + theirs[len(old) :] if theirs.startswith(old) else theirs
        arrays[theirs] = value + (0.5 if 'running_var' in theirs else 0.01)
    np.savez(tmp_path / 'w.npz', **arrays, **{'backbone.bn1.num_batches_tracked': 3})
    assert convert.main([f'--source={tmp_path}/w.npz', f'--output={tmp_path}/c/model.ckpt']) == 0
    saved = json.loads((tmp_path / 'c' / 'config.json').read_text())
    assert saved['variant'] == 'base' and saved['channels'] == 1.0
    assert value_of(tmp_path, 'siammask/mask/head/out/weights').shape == (1, 1, 256, 3969)


def value_of(tmp_path, name):
    return tf.train.load_variable(str(tmp_path / 'c' / 'model.ckpt'), name)


def _official_names():
    norm = ('weight', 'bias', 'running_mean', 'running_var')
    base = 'features.features.'
    yield base + 'conv1.weight'
    yield from (f'{base}bn1.{n}' for n in norm)
    for layer, blocks in ((1, 3), (2, 4), (3, 6)):
        for block in range(blocks):
            for k in (1, 2, 3):
                yield f'{base}layer{layer}.{block}.conv{k}.weight'
                yield from (f'{base}layer{layer}.{block}.bn{k}.{n}' for n in norm)
        yield f'{base}layer{layer}.0.downsample.0.weight'
        yield from (f'{base}layer{layer}.0.downsample.1.{n}' for n in norm)
    yield 'features.downsample.downsample.0.weight'
    yield from (f'features.downsample.downsample.1.{n}' for n in norm)
    for part in ('rpn_model.cls', 'rpn_model.loc', 'mask_model.mask'):
        for side in ('conv_kernel', 'conv_search', 'head'):
            yield f'{part}.{side}.0.weight'
            yield from (f'{part}.{side}.1.{n}' for n in norm)
        yield from (f'{part}.head.3.{n}' for n in ('weight', 'bias'))


def test_messages_of_evaluation(run, drawn, tmp_path, capsys):
    flags = [f'--checkpoint={run}', '--device=cpu', f'--output_path={tmp_path}']
    assert 'nothing at' in fails(capsys, evaluate, *flags, f'--data_path={tmp_path}/none')
    assert 'none of them' in fails(
        capsys, evaluate, *flags, f'--data_path={drawn["vot"]}', '--sequences=x'
    )
    assert '--checkpoint is needed' in fails(capsys, evaluate, f'--data_path={drawn["vot"]}')
    assert 'expected start,stop,step' in fails(
        capsys, evaluate, *flags, f'--data_path={drawn["vot"]}', '--search=seed=1,2,1'
    )
    other = tmp_path / 'vot' / 'a'
    (other / 'color').mkdir(parents=True)
    cv2.imwrite(str(other / 'color' / '00000001.jpg'), np.zeros((40, 50, 3), np.uint8))
    (other / 'groundtruth.txt').write_text('1,2,3,4\n1,2,3,4\n')
    assert '1 frames, 2 lines' in fails(capsys, evaluate, *flags, f'--data_path={other.parent}')


def test_training_learns_to_track(crops, drawn, tmp_path):
    """Real training: a drawn sequence that was not trained on is followed better than before."""
    flags = ['--device=cpu', '--preset=smoke', f'--data_path={crops}', '--set=workers=0',
             '--set=channels=0.12', '--set=blocks=[1,1,1]', '--batch_size=6', '--set=gray=0.0',
             '--set=search_blur=0.0', '--set=negative=0.1']  # fmt: skip
    overlaps = []
    for steps in (1, 60):
        folder = tmp_path / str(steps)
        assert train.main([*flags, f'--steps={steps}', f'--output_path={folder}']) == 0
        cfg = config.get_config('smoke')
        cfg.update(json.loads((folder / 'config.json').read_text()))
        network = tracker.Network(cfg, str(folder))
        hyper = tracker.hyper_parameters(cfg, 'base')
        rows = []
        for sequence in vot.load(drawn['vot']):
            found = tracker.supervised(network, sequence, hyper, reset=False, boxes=True)
            size = (sequence['width'], sequence['height'])
            rows.append(vot.run_overlaps(found, sequence, size)[1:].mean())
        overlaps.append(np.mean(rows))
    print('mean overlap after 1 and 60 updates:', overlaps)
    assert overlaps[1] > overlaps[0] + 0.1 and overlaps[1] > 0.3
