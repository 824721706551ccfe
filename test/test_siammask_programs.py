"""SiamMask's programs: training in stages, resume, evaluation, search, demo, import, export, the
exact messages of faults."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from common import masks, videos
from SiamMask import (
    cli,
    config,
    convert,
    demo,
    evaluate,
    evaluate_otb,
    export,
    inference,
    live,
    model,
    prepare,
    progress,
    tracker,
    train,
    vot,
)

SETTINGS = dict(
    channels=0.07, blocks=[1, 1, 1], log_steps=1, checkpoint_steps=2, workers=0, pairs=8
)
SMALL = ['--device=cpu', '--batch_size=2', *(f'--set={k}={v}' for k, v in SETTINGS.items())]


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
    assert train.main([*SMALL, *flags, '--set=summary_steps=1']) == 0
    return folder


@pytest.fixture(scope='module')
def sharp(run, crops, tmp_path_factory):
    """Folder of the refinement that follows it."""
    folder = tmp_path_factory.mktemp('sharp')
    flags = [f'--data_path={crops}', f'--output_path={folder}', '--steps=2']
    assert train.main([*SMALL, *flags, '--preset=smoke_sharp', f'--init_from={run}']) == 0
    return folder


def test_training_can_be_watched(run, watched):
    assert 'gradient_norm' in watched(run)[0]


def settings(folder, preset='smoke_sharp', **changes):
    """The settings that a run was trained with."""
    cfg = config.get_config(preset)
    cfg.update(json.loads((Path(str(folder)) / 'config.json').read_text()), device='cpu')
    cfg.update(objects=1)
    cfg.update(changes)
    return cfg


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


def test_stages_of_the_base_training_and_resume(run, crops, tmp_path, capsys):
    """Not from scratch: layer2 trains in the second half only; killed there, it goes on there, and
    --model_checkpoint_path goes on in another folder."""
    flags = [*SMALL, '--preset=smoke', f'--data_path={crops}', '--set=scratch=False', '--steps=4',
             '--set=learning_rate=0.5', '--set=warmup_rate=0.5', '--set=end_learning_rate=0.5',
             '--set=checkpoint_steps=0', '--SAVE_MAX=9', f'--init_from={run}']  # fmt: skip
    first = tmp_path / 'a'
    assert train.main([*flags, f'--output_path={first}']) == 0
    name, other = 'siammask/features/layer2/0/conv1/weights', 'siammask/features/conv1/weights'
    steps = [tf.train.load_variable(f'{first}/model.ckpt-{k}', name) for k in range(5)]
    changed = [not np.array_equal(a, b) for a, b in zip(steps, steps[1:])]
    assert changed == [False, False, True, True]
    assert np.array_equal(value(first, other), value(run, other))
    saved = json.loads((first / 'config.json').read_text())
    assert saved['pairs'] == 8 and saved['checkpoint_steps'] == 1
    assert saved['keep_checkpoints'] == 9 and saved['trained_on'][-1] == 'drawn data'
    capsys.readouterr()
    second = tmp_path / 'b'
    resumed = [*flags, f'--output_path={second}', f'--model_checkpoint_path={first}/model.ckpt-3']
    assert train.main(resumed) == 0
    assert 'resuming from step 3' in capsys.readouterr().out
    np.testing.assert_allclose(value(second, name), steps[4], atol=1e-6)  # the same pairs


def test_a_training_in_parts_goes_on_with_the_pairs_it_would_have_drawn(run, crops, tmp_path):
    """Killed after update 1 of 3; a checkpoint is always between two updates."""
    flags = [*SMALL, '--preset=smoke_sharp', f'--data_path={crops}', '--set=accumulate=2']
    flags += ['--steps=3', '--set=checkpoint_steps=1', '--SAVE_MAX=9', f'--init_from={run}']
    first, second = tmp_path / 'a', tmp_path / 'b'
    assert train.main([*flags, f'--output_path={first}']) == 0
    resumed = [*flags, f'--output_path={second}', f'--model_checkpoint_path={first}/model.ckpt-1']
    assert train.main(resumed) == 0
    names = [name for name, _ in tf.train.list_variables(str(first)) if 'mask' in name]
    whole = [name for name, _ in tf.train.list_variables(str(run))]
    assert {name for name, _ in tf.train.list_variables(str(first))} >= set(whole)
    for name in names:
        np.testing.assert_allclose(value(second, name), value(first, name), rtol=0, atol=1e-6)
    kept = json.loads((first / 'config.json').read_text())
    assert (kept['batch_size'], kept['accumulate']) == (2, 2) and value(first, 'global_step') == 3


def prepared(tmp_path, crops, *flags):
    """The settings that a run would have."""
    args = train.arguments().parse_args(
        [f'--data_path={crops}', f'--output_path={tmp_path}/run', '--device=cpu', *flags]
    )
    cfg = cli.configure(args, config.get_config)
    train.prepare(args, cfg)
    return cfg


def test_one_checkpoint_an_epoch_is_kept(crops, tmp_path):
    """Twenty, the whole schedule; of `full` at 64 pairs one in 9,375 updates, as the original."""
    flags = ['--preset=full', '--from_scratch']
    cfg = prepared(tmp_path, crops, *flags)
    assert (cfg.train_steps, cfg.checkpoint_steps, cfg.keep_checkpoints) == (187500, 9375, 20)
    cfg = prepared(tmp_path, crops, *flags, '--steps=50', '--SAVE_MAX=7', '--optimizer=adam')
    assert (cfg.checkpoint_steps, cfg.keep_checkpoints, cfg.optimizer) == (3, 7, 'adam')
    cfg = prepared(tmp_path, crops, *flags, '--steps=50', '--set=iterations_per_loop=10')
    assert cfg.checkpoint_steps == 10
    cfg = prepared(tmp_path, crops, *flags, '--set=checkpoint_steps=500')
    assert cfg.checkpoint_steps == 500
    assert cfg.scratch  # the backbone trains where it is random


def test_random_weights_are_not_kept_fixed(run, crops, tmp_path, fails):
    """A random backbone, or a random base network below the refine module, is refused."""
    flags = [f'--data_path={crops}', f'--output_path={tmp_path}/run', '--device=cpu']
    message = fails(train, *flags, '--preset=full')
    assert 'models/resnet.model' in message and '--init_from' in message
    assert 'resnet.model, 174 MB, from http' in message and '--from_scratch' in message
    message = fails(train, *flags, '--preset=smoke', '--set=scratch=False')
    assert 'keeps the backbone fixed' in message
    for preset in ('sharp', 'smoke_sharp'):
        assert 'trains the refine module of a base' in fails(train, *flags, f'--preset={preset}')
    arrays = {'siammask/features/conv1/weights': np.zeros((7, 7, 3, 4), np.float32)}
    prefix = cli.write_checkpoint(arrays, f'{tmp_path}/backbone/model.ckpt', None, 'x')
    message = fails(train, *flags, '--preset=smoke_sharp', f'--init_from={prefix}')
    assert 'has no mask branch' in message
    prefix = f'--model_checkpoint_path={prefix}'
    assert 'has no variables of an optimizer' in fails(train, *flags, '--preset=smoke', prefix)
    assert not (tmp_path / 'run' / 'checkpoint').exists()


def loss_of_one_weight(outputs, labels, cfg):
    """In place of losses(): of a network whose graph is built in no time."""
    return {'total': 2 * tf.get_variable('siammask/neck/w', [], initializer=tf.ones_initializer())}


def test_a_loss_that_stays_useless_ends_the_run(crops, tmp_path, monkeypatch, fails):
    """Updates that are left out one after the other (not finite, or above highest_loss)."""
    monkeypatch.setattr(progress, 'STALLED', 3)
    monkeypatch.setattr(model, 'network', lambda features, cfg, training: {})
    monkeypatch.setattr(train, 'losses', loss_of_one_weight)
    flags = [*SMALL, '--preset=smoke', f'--data_path={crops}', f'--output_path={tmp_path}/run']
    message = fails(train, *flags, '--steps=9', '--set=highest_loss=0.0')
    assert 'the loss was not finite for 3 steps in a row' in message


def test_a_truncated_crop_is_named(crops, tmp_path, fails):
    """One message, while training and by --check_data=all."""
    shutil.copytree(str(crops / 'det'), str(tmp_path / 'data' / 'det'))
    for path in (tmp_path / 'data').rglob('*.x.jpg'):
        path.write_bytes(path.read_bytes()[:2000])
    flags = [*SMALL, '--preset=smoke', f'--data_path={tmp_path}/data', '--steps=1',
             f'--output_path={tmp_path}/run']  # fmt: skip
    for more in ('--dry_run', '--check_data=all'):
        message = fails(train, *flags, more)
        assert '.x.jpg is cut off' in message and message.count('\n') < 4


def test_check_data_and_dry_run(drawn, crops, run, tmp_path, capsys):
    flags = [*SMALL, '--preset=smoke', f'--data_path={crops}', f'--output_path={tmp_path}/run']
    assert train.main([*flags, '--check_data']) == 0
    found = json.loads(capsys.readouterr().out.strip().split('\n')[-1])
    assert found['coco']['tracks'] > 20 and found['vid']['boxes'] > 60
    config_path = Path(train.__file__).parent / 'config' / 'config.json'
    flags += [f'--config={config_path}', '--set=train_steps=0', f'--init_from={run}']
    assert train.main([*flags, '--dry_run']) == 0
    printed = capsys.readouterr().out
    assert 'search float32 [2, 255, 255, 3]' in printed
    assert ' 80 steps' in printed  # pairs=8 of --set wins
    assert 'variables from' in printed and str(run) in printed
    assert not (tmp_path / 'run').exists()
    holds = re.search(r'batches of (\d+) in float32', printed)
    assert train.main([*flags, '--dry_run', '--set=accumulate=2']) == 0
    printed = capsys.readouterr().out
    parts = re.search(r'batches of (\d+) in float32, \d+ in float16 in 2 parts', printed)
    assert int(parts.group(1)) == pytest.approx(2 * int(holds.group(1)), rel=0.1)


def test_messages_of_training(drawn, tmp_path, fails):
    flags = [*SMALL, '--preset=full', '--from_scratch', f'--output_path={tmp_path}/run']
    message = fails(train, *flags, f'--data_path={tmp_path}')
    assert 'no crops' in message and 'ytb_vos/train.json' in message and 'prepare' in message
    unknown = "--set=datasets=[['cocoa', 0, 1, 'x']]"
    assert "no data set 'cocoa'" in fails(train, *flags, f'--data_path={tmp_path}', unknown)
    assert 'no such file' in fails(train, *flags, '--config=none.json', '--data_path=.')
    message = fails(train, *flags, '--set=accumulate=3', '--data_path=.')
    assert 'batch_size=2 is no multiple of accumulate=3' in message
    for flag in ('--set=negative=1.5', '--set=batch_size=0', '--learning_rate=-1'):
        assert 'expected' in fails(train, *flags, flag, '--data_path=.')


def test_raw_data_are_cut_once(drawn, tmp_path, capsys):
    """Into --crops_path; without, beside the data."""
    flags = [f'--crops_path={tmp_path}/crops', '--preset=smoke', '--steps=1']
    flags.append("--set=datasets=[['det', 0, 1, 'train.json']]")
    root = Path(drawn['coco']).parent
    cfg = prepared(tmp_path, root, *flags)
    assert cfg.crops == {'det': f'{tmp_path}/crops/det'}
    assert (tmp_path / 'crops' / 'det' / 'train.json').is_file()
    assert cfg.trained_on == ['drawn data']
    capsys.readouterr()
    assert prepared(tmp_path, root, *flags).crops == cfg.crops
    assert 'cut' not in capsys.readouterr().out


def test_vot_results_table_and_plots(run, sharp, drawn, tmp_path, capsys, fails, reported):
    flags = [f'--data_path={drawn["vot"]}', f'--checkpoint={run}', '--device=cpu',
             f'--output_path={tmp_path}/out']  # fmt: skip
    assert evaluate.main([*flags, '--sequences=drawn1']) == 0
    printed = capsys.readouterr().out
    (folder,) = (tmp_path / 'out').iterdir()
    assert folder.name == 'SiamMask_mask_model.ckpt-2' and folder.name in printed
    assert 'EAO of 100 .. 356 frames' in printed and 'drawn data: for tests only' in printed
    result = folder / 'baseline/drawn1/drawn1_001.txt'
    lines = result.read_text().split('\n')
    assert lines[0] == '1' and len(lines) == 25
    scores = json.loads((folder / 'results.json').read_text())
    assert set(scores['per_sequence']) == {'drawn1'} and scores['eao'] is None
    assert cv2.imread(str(folder / 'eao.png')).shape == (360, 720, 3)
    kept = result.stat().st_mtime_ns
    more = ['--sequences=drawn1,drawn3', '--interval=2,20', '--report']
    assert evaluate.main([*flags, *more]) == 0
    text = reported(tmp_path / 'out' / 'report.html')
    assert 'expected overlap' in text and 'drawn3' in text
    assert 'EAO of 2 .. 20 frames' in capsys.readouterr().out
    assert result.stat().st_mtime_ns == kept
    assert (folder / 'baseline/drawn3/drawn3_001.txt').is_file()
    scores = json.loads((folder / 'results.json').read_text())
    assert scores['interval'] == [2, 20] and scores['eao'] is not None
    overlaps = scores['per_frame']['drawn1']['overlap']
    assert len(overlaps) == 24 and overlaps[0] is None and max(filter(None, overlaps)) <= 1
    one = '--sequences=drawn1'
    assert 'penalty_k: 0.09 there, 0.2 now' in fails(evaluate, *flags, '--set=penalty_k=0.2', one)
    tuned = tmp_path / 'config.json'
    tuned.write_text(json.dumps({'hp': {'penalty_k': 0.3, 'lr': 0.5}}))
    message = fails(evaluate, *flags, '--hyper=vot18', f'--config={tuned}', one)
    assert 'penalty_k: 0.09 there, 0.1 now' in message  # --hyper wins
    message = fails(evaluate, *flags, f'--config={tuned}', one)
    assert 'penalty_k: 0.09 there, 0.3 now' in message
    other = tmp_path / 'other'  # another annotation under the same name
    shutil.copytree(drawn['vot'], str(other))
    truth = other / 'drawn1' / 'groundtruth.txt'
    truth.write_text(truth.read_text().replace('.', '1.', 1))
    message = fails(evaluate, *flags, one, f'--data_path={other}')
    assert 'annotation: ' in message and 'holds results of something else' in message
    again = [f'--data_path={drawn["vot"]}', f'--results={tmp_path}/out', '--device=cpu', one]
    assert evaluate.main([*again, f'--output_path={tmp_path}/scores']) == 0
    assert folder.name in capsys.readouterr().out
    new = json.loads((tmp_path / 'scores' / folder.name / 'results.json').read_text())
    assert new['lost'] == new['per_sequence']['drawn1']['lost']


def test_otb_is_one_pass_with_success_and_precision(run, drawn, tmp_path, capsys, fails):
    flags = [f'--data_path={drawn["vot"]}', '--dataset=otb', '--device=cpu', '--sequences=drawn1']
    tracked = [*flags, f'--checkpoint={run}', f'--output_path={tmp_path}/out']
    assert evaluate.main([*tracked, '--report']) == 0
    (folder,) = (path for path in (tmp_path / 'out').iterdir() if path.is_dir())
    assert folder.name.startswith('SiamMask_box_')
    rows = np.loadtxt(str(folder / 'drawn1.txt'), delimiter=',')
    (sequence,) = vot.load(f'{drawn["vot"]}/drawn1')
    truth = evaluate_otb.boxes(sequence['regions'])
    assert rows.shape == (24, 4) and np.allclose(rows[0], truth[0], atol=1e-4)
    found = json.loads((folder / 'results.json').read_text())
    assert found['global']['AUC'] == pytest.approx(evaluate_otb.success(truth, rows).mean())
    assert found['global']['precision'] == found['precision'][20]
    assert {'success.png', 'precision.png'} <= {path.name for path in folder.iterdir()}
    assert 'Precision (ranked at 20 px)' in (tmp_path / 'out' / 'report.html').read_text()
    capsys.readouterr()
    assert evaluate.main(tracked) == 0  # read, not tracked again
    assert '24 frames' not in capsys.readouterr().out
    assert 'penalty_k' in fails(evaluate, *tracked, '--set=penalty_k=0.3')
    for name, boxes in (('exact', truth), ('lost', truth + [500, 0, 0, 0])):
        (tmp_path / 'files' / name).mkdir(parents=True)
        np.savetxt(str(tmp_path / 'files' / name / 'drawn1.txt'), boxes, '%.4f')
    scored = [*flags, f'--results={tmp_path}/files', f'--output_path={tmp_path}/scores']
    assert evaluate.main(scored) == 0
    table = capsys.readouterr().out.splitlines()[-2:]
    assert table[0].split() == ['exact', '0.952', '1.000']  # 20 of 21 thresholds are below 1
    assert table[1].split() == ['lost', '0.000', '0.000']
    assert (tmp_path / 'scores' / 'success.png').is_file()
    message = fails(evaluate, *flags, f'--results={tmp_path}/none', f'--output_path={tmp_path}/s')
    assert 'no results of drawn1: tried ' in message


def test_settings_of_evaluation_win_over_saved_ones(run, tmp_path):
    """--set wins over --hyper, --hyper over --config, --config over config.json."""
    path = tmp_path / 'c.json'
    path.write_text(json.dumps({'hp': {'penalty_k': 0.3, 'lr': 0.5, 'window_influence': 0.2}}))
    saved = tmp_path / 'run'
    shutil.copytree(str(run), str(saved))
    tree = json.loads((saved / 'config.json').read_text())
    tree.update(penalty_k=0.9, tracker_rate=0.9, window_influence=0.9, mask_threshold=0.9)
    (saved / 'config.json').write_text(json.dumps(tree))

    def used(*flags):
        args = evaluate.arguments().parse_args([f'--checkpoint={saved}', '--device=cpu', *flags])
        args.set = evaluate.overrides(args) + args.set
        cfg = cli.configure(args, config.get_config, args.checkpoint)
        return list(tracker.hyper_parameters(cfg, 'base').values())

    assert used() == [0.9, 0.9, 0.9, 0.9]
    assert used(f'--config={path}') == [0.3, 0.2, 0.5, 0.9]
    assert used(f'--config={path}', '--hyper=vot18') == [0.10, 0.41, 0.32, 0.15]
    assert used('--hyper=vot18', '--set=penalty_k=0.7') == [0.7, 0.41, 0.32, 0.15]


def test_sweep_and_search(run, drawn, tmp_path):
    flags = [f'--data_path={drawn["vot"]}', f'--checkpoint={run}', '--device=cpu', '--boxes',
             '--sequences=drawn1', f'--output_path={tmp_path}', '--set=objects=1']  # fmt: skip
    assert evaluate.main([*flags, '--sweep']) == 0
    assert {p.name for p in tmp_path.iterdir()} == {f'SiamMask_box_model.ckpt-{k}' for k in (0, 2)}
    assert evaluate.main([*flags, '--search=penalty_k=0.0,0.2,0.1']) == 0
    names = {p.name for p in tmp_path.iterdir() if 'penalty' in p.name}
    assert len(names) == 2 and 'SiamMask_box_model.ckpt-2_penalty_k0.100' in names
    line = (tmp_path / 'SiamMask_box_model.ckpt-2/baseline/drawn1/drawn1_001.txt').read_text()
    assert {len(row.split(',')) for row in line.split()} <= {1, 4}


@pytest.mark.parametrize('dataset', ['davis2017', 'youtube_vos'])
def test_video_object_segmentation(sharp, drawn, tmp_path, dataset, capsys):
    kind = 'davis' if dataset == 'davis2017' else dataset
    names = '--sequences=drawn-y' if kind == 'davis' else '--sequences=0cccccccccc'
    root = drawn[dataset]
    if kind == 'davis':  # DAVIS and DAVIS2017 are below it
        root = Path(root).parent
    flags = [f'--data_path={root}', f'--dataset={kind}', f'--checkpoint={sharp}', names,
             f'--output_path={tmp_path}', '--device=cpu', '--overlay']  # fmt: skip
    flags.append('--set=mask_threshold=0.1')
    flags += ['--split=train'] if kind == 'youtube_vos' else []
    assert evaluate.main(flags) == 0
    assert 'J&F-Mean' in capsys.readouterr().out
    folder = 'masks' if kind == 'davis' else 'Annotations'
    folder = tmp_path / folder / names.split('=')[1]
    first = masks.read_mask(str(folder / '00000.png'))
    assert first.shape == (180, 320) and set(np.unique(first)) >= {0, 1, 2}
    assert len(list(folder.iterdir())) == (10 if kind == 'davis' else 16)
    assert list((tmp_path / 'overlay').glob('*.mp4'))
    found = json.loads((tmp_path / 'results.json').read_text())
    assert any('IoU@0.35' in row for row in found['per_sequence'].values())
    assert found['config']['mask_threshold'] == 0.1


def test_search_on_videos(sharp, drawn, tmp_path, capsys):
    """The counterpart of tune_vos.py: a folder a point, kept when it is given again."""
    flags = [f'--data_path={drawn["davis"]}', '--dataset=davis', f'--checkpoint={sharp}',
             '--year=2016', '--device=cpu', '--search=tracker_rate=0.8,1.0,0.1',
             f'--output_path={tmp_path}']  # fmt: skip
    first = videos.find(drawn['davis'], 'davis', 'val', None, '2016')[0].name
    assert evaluate.main([*flags, f'--sequences={first}']) == 0
    printed = capsys.readouterr().out
    folders = sorted(p.name for p in tmp_path.iterdir())
    name = 'SiamMask_mask_refine_model.ckpt-2_tracker_rate'
    assert folders == [f'{name}0.800', f'{name}0.900'] and all(f in printed for f in folders)
    mask = next((tmp_path / folders[0]).rglob('00001.png'))
    time = mask.stat().st_mtime_ns
    assert evaluate.main([*flags, f'--sequences={first}']) == 0
    assert mask.stat().st_mtime_ns == time


@pytest.mark.parametrize('kind', ['davis', 'youtube_vos'])
def test_a_mask_without_its_frame(sharp, drawn, tmp_path, fails, kind):
    shutil.copytree(drawn[kind], str(tmp_path / 'data'))
    name = videos.find(drawn[kind], kind, 'train' if kind != 'davis' else '', None, '2016')[0].name
    frame = max((tmp_path / 'data').rglob(f'JPEGImages/**/{name}/*.jpg'))
    mask = next((tmp_path / 'data').rglob(f'Annotations/**/{name}'))
    shutil.copy(str(min(mask.iterdir())), str(mask / '99999.png'))
    assert frame.is_file()
    flags = [f'--data_path={tmp_path}/data', f'--dataset={kind}', f'--checkpoint={sharp}',
             '--device=cpu', f'--sequences={name}', f'--output_path={tmp_path}/out']  # fmt: skip
    flags += ['--split=train'] if kind == 'youtube_vos' else ['--year=2016']
    assert '99999' in fails(evaluate, *flags)


def test_objects_that_appear_later_and_more_than_a_call_takes(sharp, drawn):
    """Ids out of order, five objects, two of them from frame 2 on: merged under their own ids."""
    cfg = settings(sharp, objects=2)
    frames = [masks.read_image(f) for f in vot.load(drawn['vot'])[0]['frames'][:4]]
    given = {0: np.zeros((180, 320), np.uint8), 2: np.zeros((180, 320), np.uint8)}
    for t, number, x in ((0, 9, 10), (0, 4, 90), (0, 200, 170), (2, 3, 220), (2, 250, 280)):
        given[t][60:100, x : x + 30] = number
    given[0][:5] = 255  # void starts nothing
    hyper = tracker.hyper_parameters(cfg, 'davis')
    with inference.load(str(sharp), cfg) as network:
        assert network.objects == 2 == inference.settings_for(cfg, 5).objects
        steps = list(tracker.segment(network, frames, given, hyper))
        ids = list(inference.segment(network, cfg, frames, given))
        short = list(tracker.segment(network, frames, given, hyper, {9: 1, 4: 2}))
    assert [len(states) for _, states in steps] == [3, 3, 5, 5]
    np.testing.assert_array_equal(steps[0][0], np.where(given[0] == 255, 0, given[0]))
    np.testing.assert_array_equal(ids, [found for found, _ in steps])
    assert [len(states) for _, states in short] == [3, 3, 4, 3]
    with inference.load(str(sharp), inference.settings_for(cfg, 1)) as one:
        only = {0: np.where(given[0] == 4, 4, 0)}
        alone = list(tracker.segment(one, frames, only, hyper))
    np.testing.assert_allclose(alone[3][1][4]['center'], steps[3][1][4]['center'], atol=1e-3)


class Camera:
    """cv2.VideoCapture of a camera that gives four frames."""

    def __init__(self, number):
        self.frames = [] if number else [np.full((90, 160, 3), 20 * t, np.uint8) for t in range(4)]

    def isOpened(self):  # noqa: N802 (OpenCV's name)
        return bool(self.frames)

    def read(self):
        return (True, self.frames.pop()) if self.frames else (False, None)

    def release(self):
        self.frames = []


def test_boxes_drawn_in_a_window_and_a_camera(run, drawn, tmp_path, monkeypatch, capsys, fails):
    """OpenCV's windows and camera are stood in for: there is no display here."""
    shown = []
    monkeypatch.setattr(live, 'check_window', lambda flag: None)
    monkeypatch.setattr(cv2, 'selectROIs', lambda *args, **keys: np.array([[20, 30, 40, 20]]))
    monkeypatch.setattr(cv2, 'imshow', lambda name, image: shown.append(image))
    monkeypatch.setattr(cv2, 'waitKey', lambda milliseconds: -1)
    monkeypatch.setattr(cv2, 'VideoCapture', Camera)
    for name in ('destroyWindow', 'destroyAllWindows'):
        monkeypatch.setattr(cv2, name, lambda *args: None)
    flags = ['--device=cpu', f'--checkpoint={run}']
    assert demo.main([*flags, '--camera=0']) == 0
    assert capsys.readouterr().out.endswith('4 frames\n') and len(shown) == 4
    assert shown[0].shape == (90, 160, 3) and not np.array_equal(shown[0], shown[1])
    assert '--camera=7: OpenCV cannot open that camera' in fails(demo, *flags, '--camera=7')
    monkeypatch.undo()
    monkeypatch.setattr(live, 'select_boxes', lambda image: ['20,30,40,20'])
    frames = Path(vot.load(drawn['vot'])[0]['frames'][0]).parent
    command = [*flags, f'--input={frames}', '--select', f'--output_path={tmp_path}']
    assert demo.main(command) == 0 and (tmp_path / 'tracks.csv').is_file()


def test_windows_that_cannot_be_opened(drawn, monkeypatch, fails):
    for name in ('DISPLAY', 'WAYLAND_DISPLAY'):
        monkeypatch.delenv(name, raising=False)
    frames = Path(vot.load(drawn['vot'])[0]['frames'][0]).parent
    flags = ['--device=cpu', f'--input={frames}', '--select']
    monkeypatch.setattr(cv2, 'getBuildInformation', lambda: '  GUI:       GTK3\n')
    assert '--select: there is no display' in fails(demo, *flags)
    monkeypatch.setattr(cv2, 'getBuildInformation', lambda: '  GUI:       NONE\n')
    message = fails(demo, '--device=cpu', '--camera=0')
    assert '--camera=0: this OpenCV has no windows' in message and '--box' in message


def test_demo_with_boxes_and_with_a_mask(sharp, drawn, tmp_path, capsys, fails):
    folder = tmp_path / 'frames'
    folder.mkdir()
    for t, path in enumerate(vot.load(drawn['vot'])[0]['frames'][:6], 7):
        shutil.copy(path, str(folder / f'{t}.jpg'))
    flags = [f'--input={folder}', f'--checkpoint={sharp}', '--device=cpu']
    boxes = ['--box=60,40,50,50', '--box=150,60,40,40', f'--output_path={tmp_path}/a']
    assert demo.main([*flags, *boxes]) == 0
    assert 'trained on drawn data' in capsys.readouterr().out
    rows = (tmp_path / 'a' / 'tracks.csv').read_text().strip().split('\n')
    assert len(rows) == 1 + 6 * 2 and rows[1].startswith('7,1,1.0000,60.00,40.00')
    assert rows[-1].startswith('12,2,')  # 10.jpg is after 9.jpg
    assert len(list((tmp_path / 'a' / 'masks').iterdir())) == 6
    assert (tmp_path / 'a' / 'overlay.mp4').stat().st_size > 1000
    assert (tmp_path / 'a' / 'sheet.png').is_file()
    other = ['--box=60,40,50,51', f'--output_path={tmp_path}/a']
    assert 'holds results of something else (boxes' in fails(demo, *flags, *other)
    mask = np.zeros((180, 320), np.uint8)
    mask[50:90, 100:150], mask[100:130, 200:260] = 3, 5
    masks.write_mask(str(tmp_path / 'm.png'), mask)
    assert demo.main([*flags, f'--mask={tmp_path}/m.png', f'--output_path={tmp_path}/b']) == 0
    assert ',5,' in (tmp_path / 'b' / 'tracks.csv').read_text()
    first = masks.read_mask(str(tmp_path / 'b' / 'masks' / '7.png'))
    np.testing.assert_array_equal(first, mask)  # what was given is the first frame's output
    out = f'--output_path={tmp_path}/c'
    assert 'either --box' in fails(demo, *flags, out)
    assert 'expected x,y,width,height' in fails(demo, *flags, out, '--box=1,2,3')
    assert 'expected x,y,width,height' in fails(demo, *flags, out, '--box=1,2,3,1.2.3')
    assert 'width and height must be above 0' in fails(demo, *flags, out, '--box=1,2,0,5')
    assert 'has no area' in fails(demo, *flags, out, '--box=5000,2,9,5')
    masks.write_mask(str(tmp_path / 'e.png'), np.zeros((180, 320), np.uint8))
    assert 'marks no object' in fails(demo, *flags, out, f'--mask={tmp_path}/e.png')
    masks.write_mask(str(tmp_path / 's.png'), np.ones((18, 32), np.uint8))
    assert 'must have their size' in fails(demo, *flags, out, f'--mask={tmp_path}/s.png')
    cv2.imwrite(str(tmp_path / 'soft.png'), cv2.blur((mask > 0) * np.uint8(255), (5, 5)))
    assert 'soft or' in fails(demo, *flags, out, f'--mask={tmp_path}/soft.png')
    assert not (tmp_path / 'c').exists()


def test_frames_may_change_their_size(sharp):
    cfg, draw = settings(sharp), np.random.RandomState(0)
    hyper = tracker.hyper_parameters(cfg, 'davis')
    first, second = (
        draw.randint(0, 255, (*size, 3)).astype(np.uint8) for size in ((90, 120), (70, 200))
    )
    with inference.load(str(sharp), cfg) as network:
        state = tracker.start(network, first, (60, 40, 30, 20))
        state = tracker.step(network, second, [state], hyper)[0]
    assert state['mask'].shape == (70, 200) and 0 <= state['center'][1] <= 70


def test_export_answers_as_the_checkpoint(sharp, tmp_path, capsys, fails):
    assert export.main([f'--checkpoint={sharp}', f'--output_path={tmp_path}']) == 0
    printed = capsys.readouterr().out
    assert '--out_nodes="out_best:0;out_score:0;out_penalty:0;out_box:0;out_mask:0"' in printed
    assert 'template:1,127,127,3;search:1,255,255,3' in printed
    draw = np.random.RandomState(0)
    z, x = (draw.uniform(0, 255, (n, n, 3)).astype(np.float32) for n in (127, 255))
    with inference.load(str(sharp), settings(sharp)) as network:
        kernels = network.embed(z)
        ours = network.locate([x], [kernels], [np.array([60.0, 70.0])], (0.04, 0.4))

    def frozen(name, feed, fetches):
        graph = tf.GraphDef()
        graph.ParseFromString((tmp_path / f'{name}.pb').read_bytes())
        with tf.Graph().as_default(), tf.Session() as session:
            tf.import_graph_def(graph, name='')
            return session.run(fetches, feed)

    own = frozen(
        'SiamMask_template',
        {'template:0': z[None]},
        [f'out_kernel_{k}:0' for k in model.BRANCHES],
    )
    for mine, name in zip(own, model.BRANCHES):
        np.testing.assert_allclose(mine, kernels[name], atol=1e-4)
    feed = {'search:0': x[None], 'size:0': [[60, 70]], 'hyper:0': [0.04, 0.4]}
    feed.update({f'kernel_{k}:0': v for k, v in kernels.items()})
    best, mask = frozen('SiamMask_track', feed, ['out_best:0', 'out_mask:0'])
    assert best[0] == ours['best'][0]
    np.testing.assert_allclose(mask, ours['mask'], atol=1e-4)
    cls, grid = frozen(
        'SiamMask_pair',
        {'template:0': z[None], 'search:0': x[None]},
        ['out_cls:0', 'out_masks:0'],
    )
    assert cls.shape == (1, 25, 25, 10) and grid.shape == (1, 25, 25, 3969)
    capsys.readouterr()
    assert export.main([f'--checkpoint={sharp}', f'--output_path={tmp_path}']) == 0
    assert capsys.readouterr().out.count('is there already, of this checkpoint: kept') == 3
    with tf.Graph().as_default(), tf.Session() as session:
        loaded = tf.saved_model.load(
            session, ['serve'], str(tmp_path / 'saved_model_SiamMask_pair')
        )
        assert set(loaded.signature_def['serving_default'].outputs) == {'cls', 'loc', 'masks'}


def test_convert_writes_what_evaluate_takes(tmp_path):
    """Whole size, names of PySOT, as .npz: every variable is filled."""
    shapes = convert.network_shapes('base')
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


def test_the_originals_backbone_is_told_by_content(tmp_path, capsys):
    """--source=resnet.model: an ending that says nothing."""
    arrays = {}
    for name in _official_names():
        ours = convert.target(name)
        if ours.startswith('siammask/features/'):
            value = np.zeros(convert.network_shapes('base')[ours], np.float32)
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
            arrays[name[len('features.features.') :]] = value
    with open(tmp_path / 'resnet.model', 'wb') as f:
        np.savez(f, **arrays)
    flags = [f'--source={tmp_path}/resnet.model', f'--output={tmp_path}/c/model.ckpt']
    assert convert.main(flags) == 0
    assert 'resnet.model: resnet, 215 arrays' in capsys.readouterr().out
    assert not (tmp_path / 'c' / 'config.json').exists()


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


def test_messages_of_evaluation(run, drawn, tmp_path, fails, monkeypatch):
    flags = [f'--checkpoint={run}', '--device=cpu', f'--output_path={tmp_path}']
    assert 'nothing at' in fails(evaluate, *flags, f'--data_path={tmp_path}/none')
    vot_flags = [*flags, f'--data_path={drawn["vot"]}']
    assert 'no x in' in fails(evaluate, *vot_flags, '--sequences=x,drawn1')
    with monkeypatch.context() as patch:
        patch.setattr('SiamMask.pretrained.FOLDER', 'nowhere')  # no weights have come along
        assert '--checkpoint is needed' in fails(evaluate, f'--data_path={drawn["vot"]}')
    assert 'expected start,stop,step' in fails(evaluate, *vot_flags, '--search=seed=1,2,1')
    assert '--interval=5: expected low,high' in fails(evaluate, *vot_flags, '--interval=5')
    other = tmp_path / 'vot' / 'a'
    (other / 'color').mkdir(parents=True)
    cv2.imwrite(str(other / 'color' / '00000001.jpg'), np.zeros((40, 50, 3), np.uint8))
    (other / 'groundtruth.txt').write_text('1,2,3,4\n1,2,3,4\n')
    assert '1 frames, 2 lines' in fails(evaluate, *flags, f'--data_path={other.parent}')


def test_accuracy_of_what_the_data_hold(run, drawn, tmp_path, capsys, monkeypatch):
    """VOT's mean overlap, J&F of DAVIS, or None with a line that says why."""
    cfg = settings(run, 'smoke')
    seen = []

    def scores(options, cfg):
        seen.append((options.dataset, options.data_path))
        if options.dataset == 'vot':
            return {'x': {'eao': float('nan'), 'mean_overlap': 0.25}}
        return {'x': {'global': {'J&F-Mean': 0.5}}}

    monkeypatch.setattr(evaluate, 'run', scores)
    root = str(Path(drawn['vot']).parent)
    assert evaluate.accuracy(cfg, root, str(run), f'{tmp_path}/a') == 0.25
    assert evaluate.accuracy(cfg, drawn['davis'], str(run), f'{tmp_path}/b') == 0.5
    assert seen == [('vot', drawn['vot']), ('davis', drawn['davis'])]
    capsys.readouterr()
    assert evaluate.accuracy(cfg, str(tmp_path), str(run), f'{tmp_path}/c') is None
    assert capsys.readouterr().out.startswith('no TrainAccuracy: no VOT sequences in')


@pytest.mark.skipif(
    not tf.__version__.startswith('1.'), reason='learning is tested on the reference stack'
)
def test_training_learns_to_track(run, crops, drawn, tmp_path):
    """Real training: drawn sequences that were not trained on are followed better than by a network
    of two updates."""
    flags = ['--device=cpu', '--preset=smoke', f'--data_path={crops}', '--set=workers=0',
             '--set=channels=0.12', '--set=blocks=[1,1,1]', '--batch_size=6', '--set=gray=0.0',
             '--set=search_blur=0.0', '--set=negative=0.1']  # fmt: skip
    assert train.main([*flags, '--steps=64', f'--output_path={tmp_path}']) == 0
    overlaps = []
    for folder in (run, tmp_path):
        cfg = settings(folder, 'smoke')
        hyper = tracker.hyper_parameters(cfg, 'base')
        rows = []
        with inference.load(str(folder), cfg) as network:
            for sequence in vot.load(drawn['vot']):
                found = tracker.supervised(network, sequence, hyper, reset=False, boxes=True)
                size = (sequence['width'], sequence['height'])
                rows.append(vot.run_overlaps(found, sequence, size)[1:].mean())
        overlaps.append(np.mean(rows))
    print('mean overlap after 2 and 64 updates:', overlaps)
    assert overlaps[1] > overlaps[0] + 0.1 and overlaps[1] > 0.3
