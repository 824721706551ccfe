"""ColorNet's programs: training of its kinds, resume, evaluation, the official inference command,
demo, import, averages, export, the exact messages of faults."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from PIL import Image

from ColorNet import (
    backbone,
    cli,
    config,
    convert,
    data,
    demo,
    evaluate,
    export,
    infer_vos_dul,
    inference,
    model,
    train,
)
from common import masks, videos

SMALL = ['--device=cpu', '--batch_size=2'] + [
    f'--set={k}={v}'
    for k, v in dict(channels=0.05, size=64, video_len=2, log_steps=1, checkpoint_steps=1,
                     keep_checkpoints=3, workers=0, test_height=48, test_width=80,
                     radius=4.0).items()
]  # fmt: skip
FIRST_2 = 'drawn-x,drawn-y'


@pytest.fixture(scope='module', autouse=True)
def shallow():
    """One block a stage: what is tested here is what the programs do around the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, 'BLOCKS', 1)
        yield


@pytest.fixture(scope='module')
def run(drawn, tmp_path_factory):
    """Folder of a finished training of three updates with both branches."""
    folder = tmp_path_factory.mktemp('run')
    flags = [f'--data_path={drawn["youtube_vos"]}', f'--output_path={folder}', '--steps=3']
    assert train.main([*SMALL, *flags, '--preset=smoke', '--set=summary_steps=2']) == 0
    return folder


def test_training_can_be_watched(run, watched):
    watched(run)


@pytest.fixture(scope='module')
def clip(drawn, tmp_path_factory):
    """Folder of four frames of 160x90, and the mask of the first: two objects."""
    folder = tmp_path_factory.mktemp('clip')
    (folder / 'frames').mkdir()
    root = Path(drawn['davis2017'])
    paths = sorted((root / 'JPEGImages' / '480p' / 'drawn-x').iterdir())[:4]
    for t, path in enumerate(paths):
        frame = cv2.resize(masks.read_image(str(path)), (160, 90))
        masks.write_image(str(folder / 'frames' / f'{t}.png'), frame)
    ids = masks.read_mask(str(root / 'Annotations' / '480p' / 'drawn-x' / '00000.png'))
    ids = cv2.resize(ids, (160, 90), interpolation=cv2.INTER_NEAREST)
    masks.write_mask(str(folder / 'mask.png'), ids)
    return folder


def value(folder, name):
    return tf.train.load_variable(str(folder), f'colornet/{name}')


def test_check_data_and_dry_run(drawn, tmp_path, capsys):
    flags = [*SMALL, '--preset=smoke', f'--output_path={tmp_path}/run']
    flags.append(f'--data_path={Path(drawn["coco"]).parent}')
    assert train.main([*flags, '--check_data']) == 0
    assert '{"sequences": 3, "frames": 48}' in capsys.readouterr().out
    assert train.main([*flags, '--check_data=all', '--coco']) == 0
    assert '{"sequences": 12, "frames": 12}' in capsys.readouterr().out
    assert train.main([*flags, '--dry_run', '--steps=7']) == 0
    printed = capsys.readouterr().out
    assert 'dul1 uint8 [2, 2, 64, 64, 3]' in printed and '7 steps' in printed
    assert '7 updates, 1 an epoch, 14 clips in all' in printed
    assert not (tmp_path / 'run').exists()


def test_original_config_exp_and_coco(drawn, tmp_path, fails, monkeypatch):
    """The command of the original: its JSON, --exp, --coco; flags and --set win."""
    monkeypatch.chdir(tmp_path)
    taken = []
    monkeypatch.setattr(train, 'train', lambda cfg, args: taken.append((cfg, args)))
    path = Path(train.__file__).parent / 'config' / 'train_config_color_len5_L.json'
    flags = [*SMALL, f'--train_config={path}', '--exp=0001', '--coco', '--steps=1']
    assert train.main([*flags, f'--data_path={drawn["coco"]}']) == 0
    cfg, args = taken[0]
    assert args.output_path == 'snapshots/0001'
    assert cfg.preset == 'full' and cfg.dataset == 'coco' and len(cfg.examples) == 12
    assert (cfg.model_size, cfg.is_dul, cfg.video_len) == ('L', False, 2)
    assert not any('layer5' in n or 'query_cls' in n for n in convert.network_shapes(cfg))
    message = fails(train, '--train_config=./data/configs/absent.json')
    assert 'no such file' in message and 'ColorNet/config' in message


def prepared(drawn, *flags):
    """Settings as training would use them; nothing is trained."""
    args = train.arguments().parse_args([*flags, '--device=cpu'])
    cfg = train.settings(args)
    args.data_path = args.data_path or drawn['coco']
    train.prepare(args, cfg)
    return cfg


def test_an_epoch_of_coco_is_that_of_the_official_code(drawn, capsys):
    """433 updates, 129,900 in all, whatever the number of images; a checkpoint an epoch, so that
    the last ten are those of epochs 291 to 300."""
    cfg = prepared(drawn, '--preset=full', '--coco')
    assert data.steps_an_epoch(cfg) == 433 and cfg.train_steps == 129900
    assert cfg.checkpoint_steps == 433 and cfg.keep_checkpoints == 10
    assert len(cfg.examples) == 12
    printed = capsys.readouterr().out
    assert '129900 updates, 433 an epoch, 1039200 clips in all' in printed
    assert 'a checkpoint every 433 updates' in printed and 'cards' not in printed
    assert prepared(drawn, '--preset=performance', '--coco').train_steps == 500
    looped = prepared(drawn, '--preset=full', '--coco', '--set=iterations_per_loop=10')
    assert looped.checkpoint_steps == 440  # the NPU saves between calls


def test_several_cards_see_as_many_clips(drawn, monkeypatch, capsys):
    monkeypatch.setenv('RANK_SIZE', '8')
    cfg = prepared(drawn, '--preset=full', '--coco')
    assert cfg.train_steps == 300 * (3470 // 64) and cfg.checkpoint_steps == 54
    printed = capsys.readouterr().out
    assert '8 cards: a step takes 64 clips' in printed
    assert 'the learning rate stays 0.0001 (--learning_rate=0.0008' in printed


def test_dense_ulearn_vos_trains(drawn, tmp_path):
    flags = ['--preset=dul', *SMALL, f'--data_path={drawn["youtube_vos"]}', '--steps=1']
    assert train.main([*flags, f'--output_path={tmp_path}', '--set=first_kernal_size=3']) == 0
    assert tf.train.latest_checkpoint(str(tmp_path)).endswith('model.ckpt-1')
    names = dict(tf.train.list_variables(str(tmp_path)))
    assert 'colornet/emb_q/conv2/weights/AdamW_1' in names and 'beta1_power' in names


def test_resume_goes_on_with_the_same_clips(run, drawn, tmp_path, capsys):
    second = tmp_path / 'b'
    shutil.copytree(str(run), str(second))
    for path in second.glob('model.ckpt-3*'):
        path.unlink()
    tf.train.update_checkpoint_state(str(second), f'{second}/model.ckpt-2')
    flags = [f'--data_path={drawn["youtube_vos"]}', f'--output_path={second}', '--steps=3']
    assert train.main([*SMALL, *flags, '--preset=smoke']) == 0
    assert 'resuming from step 2' in capsys.readouterr().out
    for name in ('layer4/0/conv2/weights', 'bn1/moving_mean'):
        np.testing.assert_allclose(value(second, name), value(run, name), atol=1e-4)
    seen = []
    for steps, start in ((4, 0), (2, 2)):
        cfg = config.get_config('smoke')
        cfg.update(examples=[[str(n)] for n in range(9)], batch_size=2, start_step=start)
        jobs = data.numbers(cfg)
        jobs = [next(jobs) for _ in range(2 * (start + steps))]
        seen.append(jobs[2 * start :])
    assert seen[0][4:] == seen[1]


def test_a_run_resumed_takes_the_clips_of_one_uninterrupted(drawn, monkeypatch):
    """Through input_fn: the numbers of the clips of 2 x N updates are those of 2N."""
    cfg = config.get_config('smoke')
    cfg.update(workers=0, batch_size=2, size=64, video_len=2, is_dul=False, device='cpu')
    cfg.examples = data.find(drawn['youtube_vos'], cfg)
    made, make = [], data._make_clip

    def watched(cfg, training, number, example):
        made.append((number, example))
        return make(cfg, training, number, example)

    monkeypatch.setattr(data, '_make_clip', watched)

    def taken(start, steps):
        made.clear()
        cfg.start_step = start
        with tf.Graph().as_default(), tf.Session() as session:
            batch = tf.data.make_one_shot_iterator(data.input_fn(cfg, True)).get_next()
            for _ in range(steps):
                session.run(batch[1]['index'])
        return made[: 2 * steps]  # some more are made ahead

    assert taken(0, 2) + taken(2, 2) == taken(0, 4)


@pytest.mark.skipif(
    not tf.__version__.startswith('1.'), reason='learning is tested on the reference stack'
)
def test_training_lowers_the_losses(drawn):
    """Both branches learn on drawn videos: 25 updates, losses of clips never drawn from."""
    cfg = config.get_config('smoke')
    cfg.update(device='cpu', workers=0, channels=0.25, size=64, video_len=2, batch_size=4,
               learning_rate=3e-3, warmup=0, train_steps=300, start_step=0, init_from='',
               bn_decay=0.8)  # fmt: skip
    cfg.examples = data.find(drawn['youtube_vos'], cfg)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(1)
        batch = tf.data.make_one_shot_iterator(data.input_fn(cfg, True)).get_next()
        held = tf.data.make_one_shot_iterator(data.input_fn(cfg, False)).get_next()
        held = [session.run(held) for _ in range(4)]
        spec = train.model_fn(*batch, tf.estimator.ModeKeys.TRAIN, cfg)
        feed = tuple(
            {k: tf.placeholder(v.dtype, v.shape) for k, v in part.items()} for part in held[0]
        )
        scalars = train.losses(model.network(feed[0], cfg, True), feed[1], cfg)
        session.run(tf.global_variables_initializer())

        def measured():
            values = []
            for clips in held:
                pairs = [(t, clips[k][n]) for k in (0, 1) for n, t in feed[k].items()]
                values.append(session.run(scalars, dict(pairs)))
            return {key: np.mean([v[key] for v in values]) for key in values[0]}

        before = measured()
        for _ in range(25):
            session.run(spec.train_op)
        after = measured()
    assert after['color'] < 0.9 * before['color'], (before, after)
    assert after['consistency'] < 0.5 * before['consistency']
    assert after['dul'] < 0.75 * before['dul']


def test_init_from_a_checkpoint_says_how_much_it_has(run, drawn, tmp_path, capsys, fails):
    """The same network is taken whole, less than half only when that is meant, one of other shapes
    never; --dry_run says so too."""

    def start(prefix, **changes):
        cfg = tiny(run)
        cfg.update(init_from=prefix, **changes)
        with tf.Graph().as_default():
            model.extract(tf.zeros([1, 64, 64, 3]), cfg)
            cli.init_from_checkpoint(cfg)

    start(str(run / 'model.ckpt-3'))
    taken = re.search(r'(\d+) of (\d+) variables from', capsys.readouterr().out)
    count = int(taken.group(1))
    assert count == int(taken.group(2)) == len(convert.network_shapes(tiny(run)))
    with pytest.raises(ValueError, match='of another shape'):
        start(str(run / 'model.ckpt-3'), is_dul=False)  # layer4 is half as wide
    few = {
        name: tf.train.load_variable(str(run), name)
        for name, _ in tf.train.list_variables(str(run))
        if name.startswith('colornet/layer1') and 'AdamW' not in name
    }
    prefix = cli.write_checkpoint(few, f'{tmp_path}/few/model.ckpt', None, 'x')
    with pytest.raises(ValueError, match=f'has {len(few)} of the {count} var.*--partial_init'):
        start(prefix)
    start(prefix, partial_init=True)
    assert f'{len(few)} of {count} variables from' in capsys.readouterr().out
    flags = [*SMALL, '--preset=smoke', f'--data_path={drawn["youtube_vos"]}', '--dry_run']
    flags += [f'--output_path={tmp_path}/x', f'--init_from={run}', '--steps=1']
    message = fails(train, *flags, '--set=model_size=DUL')
    assert 'is not of this network' in message


def test_evaluation_writes_and_scores(run, drawn, tmp_path, capsys, reported):
    flags = [f'--data_path={drawn["davis2017"]}', '--device=cpu']
    checkpoint = f'--checkpoint={run}'
    command = [*flags, checkpoint, f'--output_path={tmp_path}/out', '--overlay', '--report']
    assert evaluate.main([*command, f'--sequences={FIRST_2}']) == 0
    assert '0.721' in reported(tmp_path / 'out' / 'report.html')  # the published J&F
    results = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert {'drawn-x_1', 'drawn-x_2', 'drawn-y_3'} <= set(results['per_sequence'])
    printed = capsys.readouterr().out
    assert f'"J&F-Mean": {results["global"]["J&F-Mean"]}' in printed
    assert 'trained on drawn data: for tests only' in printed
    assert results['config']['model_size'] == 'S' and results['global']['J-Mean'] > 0
    first = masks.read_mask(str(tmp_path / 'out/masks/drawn-x/00000.png'))
    truth = masks.read_mask(f'{drawn["davis2017"]}/Annotations/480p/drawn-x/00000.png')
    assert np.array_equal(first, truth)
    assert (tmp_path / 'out/overlay/drawn-y.mp4').stat().st_size > 1000
    assert (tmp_path / 'out/per-sequence_results-val.csv').is_file()
    copied = [*flags, '--copy', f'--output_path={tmp_path}/copy', '--split=train']
    assert evaluate.main([*copied, '--sequences=drawn-x']) == 0
    last = masks.read_mask(str(tmp_path / 'copy/masks/drawn-x/00009.png'))
    assert np.array_equal(last, truth)
    assert (tmp_path / 'copy/per-sequence_results-train.csv').is_file()
    assert evaluate.main([*flags, checkpoint, f'--output_path={tmp_path}/q', '--key=q_color',
                          '--sequences=drawn-x', '--year=2016']) == 0  # fmt: skip
    results = json.loads((tmp_path / 'q' / 'results.json').read_text())
    assert list(results['per_sequence']) == ['drawn-x_1']  # its objects as one


def test_years_are_told_apart(run, drawn, tmp_path, capsys):
    """With trees of both years below the data path each year takes its own, in evaluation and in
    training."""
    root = tmp_path / 'both'
    root.mkdir()
    (root / 'DAVIS').symlink_to(drawn['davis'])
    (root / 'DAVIS2017').symlink_to(drawn['davis2017'])
    flags = ['--device=cpu', '--copy', f'--data_path={root}', '--sequences=drawn-x']
    assert evaluate.main([*flags, f'--output_path={tmp_path}/a']) == 0
    results = json.loads((tmp_path / 'a' / 'results.json').read_text())
    assert set(results['per_sequence']) == {'drawn-x_1', 'drawn-x_2'}
    assert evaluate.main([*flags, f'--output_path={tmp_path}/b', '--year=2016']) == 0
    results = json.loads((tmp_path / 'b' / 'results.json').read_text())
    assert set(results['per_sequence']) == {'drawn-x_1'}
    for year, tree in (('2017', 'DAVIS2017'), ('2016', 'DAVIS')):
        cfg = config.get_config('smoke')
        cfg.year = year
        assert f'/{tree}/' in data.find(str(root), cfg)[0][0]


def test_youtube_vos_objects_start_where_they_appear(run, drawn, tmp_path, capsys):
    flags = [f'--data_path={drawn["youtube_vos"]}', f'--checkpoint={run}', '--device=cpu',
             '--dataset=youtube_vos', f'--output_path={tmp_path}']  # fmt: skip
    assert evaluate.main([*flags, '--split=train', '--sequences=0aaaaaaaaa']) == 0
    assert len(list((tmp_path / 'Annotations' / '0aaaaaaaaa').iterdir())) == 16
    assert json.loads((tmp_path / 'results.json').read_text())['global']['J-Mean'] > 0
    assert evaluate.main([*flags, '--copy', f'--output_path={tmp_path}/valid']) == 0
    assert not (tmp_path / 'valid' / 'results.json').exists()  # first masks alone
    assert 'nothing scored' in capsys.readouterr().out


def test_accuracy_of_a_training(run, drawn, tmp_path, capsys, monkeypatch):
    cfg = config.get_config('smoke')
    cfg.update(json.loads((run / 'config.json').read_text()))
    cfg.device = 'cpu'
    root = str(Path(drawn['davis']).parent)
    assert 0 < evaluate.accuracy(cfg, root, str(run), str(tmp_path)) < 1
    monkeypatch.setattr(evaluate, 'ACCURACY_VIDEOS', 1)
    capsys.readouterr()
    found = evaluate.accuracy(cfg, drawn['youtube_vos'], str(run), str(tmp_path / 'y'))
    assert 0 < found < 1 and 'on 1 training videos of YouTube-VOS' in capsys.readouterr().out
    assert len(list((tmp_path / 'y' / 'Annotations').iterdir())) == 1
    assert evaluate.accuracy(cfg, drawn['coco'], str(run), str(tmp_path / 'c')) is None
    assert capsys.readouterr().out.count('no TrainAccuracy: no DAVIS data at') == 1


def test_messages_of_evaluation(run, drawn, tmp_path, fails, monkeypatch):
    flags = [f'--data_path={drawn["davis"]}', f'--output_path={tmp_path}/o', '--device=cpu']
    with monkeypatch.context() as patch:
        patch.setattr('ColorNet.pretrained.FOLDER', 'nowhere')  # no weights have come along
        assert '--checkpoint is needed' in fails(evaluate, *flags)
    message = fails(evaluate, *flags, f'--checkpoint={run}', '--key=res4')
    assert 'key=res4: this network has color, cls, merge' in message
    message = fails(evaluate, *flags, f'--checkpoint={tmp_path}/absent')
    assert 'no checkpoint at' in message
    message = fails(evaluate, *flags, f'--checkpoint={run}', '--preset=full', '--sequences=drawn-x')
    assert 'is not of this network' in message
    assert 'no DAVIS data at' in fails(
        evaluate, f'--data_path={tmp_path}', '--copy', f'--output_path={tmp_path}/o'
    )
    assert 'radius=0' in fails(evaluate, *flags, '--copy', '--set=radius=0.0')


def test_messages_of_training(run, drawn, tmp_path, fails):
    flags = [*SMALL, '--preset=smoke', f'--output_path={tmp_path}/run', '--steps=1']
    flags.append(f'--data_path={drawn["youtube_vos"]}')
    assert 'video_len = 1 is not allowed' in fails(train, *flags, '--set=video_len=1')
    assert 'no other clip for negatives' in fails(train, *flags, '--batch_size=1')
    assert "color_mode = 'HSV'" in fails(train, *flags, '--set=color_mode=HSV')
    assert "optimizer = 'sgd'" in fails(train, *flags, '--set=optimizer=sgd')
    assert "model_size = 'XL'" in fails(train, *flags, '--set=model_size=XL')
    assert 'learning_rate=-1' in fails(train, *flags, '--learning_rate=-1')
    assert 'none of its 3 videos has 40 frames' in fails(train, *flags, '--set=video_len=40')
    assert 'leaves none of' in fails(train, *flags, '--set=ohem_range=[0.1, 0.15]')
    message = fails(train, *flags, f'--data_path={tmp_path}')
    assert 'no videos at' in message and 'filelists/train_ytvos.txt' in message


def test_a_folder_belongs_to_one_run(run, drawn, tmp_path, fails):
    """Another network, or another model's run, is refused by name before anything is written."""
    flags = [*SMALL, '--preset=smoke', f'--data_path={drawn["youtube_vos"]}', '--steps=4']
    before = (run / 'config.json').read_text()
    message = fails(train, *flags, f'--output_path={run}', '--set=is_dul=False')
    assert 'is_dul True there, False here' in message and 'Nothing was changed' in message
    assert (run / 'config.json').read_text() == before
    other = tmp_path / 'other'
    shutil.copytree(str(run), str(other))
    saved = json.loads(before)
    saved['name'] = 'OSVOS'
    (other / 'config.json').write_text(json.dumps(saved))
    assert 'OSVOS' in fails(train, *flags, f'--output_path={other}')
    assert 'is a checkpoint of OSVOS' in fails(
        evaluate, f'--data_path={drawn["davis"]}', f'--checkpoint={other}', f'--output_path={other}'
    )
    args = train.arguments().parse_args([])
    assert args.output_path == 'output/ColorNet'


def loss_of_one_weight(outputs, labels, cfg):
    """In place of losses(): of a network whose graph is built in no time, and which reads the
    examples."""
    weight = tf.get_variable('colornet/w', [], initializer=tf.ones_initializer())
    sums = [tf.reduce_sum(tf.cast(x, tf.float32)) for x in labels.values()]
    return {'total': weight * tf.add_n(sums)}


def test_frames_that_are_missing_or_broken_end_the_training(tmp_path, fails, monkeypatch):
    """One message of the frame, no block of TensorFlow's; --check_data finds what it looks at, =all
    every one, sizes too."""
    monkeypatch.setattr(model, 'network', lambda features, cfg, training: {})
    monkeypatch.setattr(train, 'losses', loss_of_one_weight)
    (tmp_path / 'filelists').mkdir()
    lines = [f'JPEGImages/v{v}/{t:05d}.jpg' for v in range(2) for t in range(3)]
    (tmp_path / 'filelists' / 'train_ytvos.txt').write_text('\n'.join(lines))
    flags = [*SMALL, '--preset=dul', '--steps=1', f'--data_path={tmp_path}']
    message = fails(train, *flags, f'--output_path={tmp_path}/run')
    assert 'no frame at' in message and 'JPEGImages/v' in message
    assert message.count('\n') == 1
    message = fails(train, *flags, '--check_data')
    assert '6 frames are missing' in message and 'v0/00000.jpg' in message
    for line in lines:
        (tmp_path / line).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.RandomState(0).randint(0, 255, (80, 90, 3), np.uint8)).save(
            str(tmp_path / line)
        )
    assert train.main([*flags, '--check_data=all']) == 0
    whole = (tmp_path / lines[2]).read_bytes()
    Image.new('RGB', (90, 81)).save(str(tmp_path / lines[2]))
    assert train.main([*flags, '--check_data']) == 0  # not among the sample
    message = fails(train, *flags, '--check_data=all')
    assert '00002.jpg is (90, 81) px, another frame of its video (90, 80)' in message
    for line in lines:
        (tmp_path / line).write_bytes(whole[: len(whole) // 2])
    for check in ('--check_data', '--check_data=all'):
        message = fails(train, *flags, check)
        assert '00000.jpg is no readable image' in message and message.count('\n') == 1
    message = fails(train, *flags, f'--output_path={tmp_path}/cut')
    assert 'is no readable image' in message and message.count('\n') == 1


def test_demo(run, clip, tmp_path, fails, capsys):
    """Of a folder whose frames are 0.png, 1.png, ...; a second clip does not mix with the first."""
    flags = [f'--input={clip}/frames', f'--mask={clip}/mask.png', f'--checkpoint={run}']
    flags += ['--device=cpu', f'--output_path={tmp_path}/out']
    assert demo.main([*flags, '--images']) == 0
    out = tmp_path / 'out'
    assert 'for tests only' in capsys.readouterr().out
    assert sorted(p.name for p in (out / 'masks').iterdir()) == [f'{t}.png' for t in range(4)]
    assert np.array_equal(
        masks.read_mask(str(out / 'masks/0.png')), masks.read_mask(str(clip / 'mask.png'))
    )
    assert sum(1 for _ in masks.read_video(str(out / 'overlay.mp4'))) == 4
    assert cv2.imread(str(out / 'features.png')).shape == (96, 4 * 80, 3)
    assert cv2.imread(str(out / 'matches.png')).shape == (48, 160, 3)
    assert cv2.imread(str(out / 'sheet.png')).shape[1] == 1280
    message = fails(demo, *flags, '--key=color')
    assert 'holds results of something else' in message and "'color' now" in message


def test_messages_of_demo(run, clip, tmp_path, fails):
    """What is wrong with mask or frames shows before the first frame is segmented."""
    small, none, soft = (str(tmp_path / name) for name in ('small.png', 'none.png', 'soft.png'))
    cv2.imwrite(small, np.ones((10, 10), np.uint8))
    cv2.imwrite(none, np.zeros((90, 160), np.uint8))
    edge = np.zeros((90, 160), np.uint8)
    edge[20:60, 30:90] = 255
    cv2.imwrite(soft, cv2.GaussianBlur(edge, (9, 9), 3))
    flags = [f'--input={clip}/frames', f'--checkpoint={run}', f'--output_path={tmp_path}/o']
    message = fails(demo, *flags, f'--mask={small}')
    assert 'is 10x10, the frames are 160x90' in message
    assert 'marks no object' in fails(demo, *flags, f'--mask={none}')
    assert 'soft or JPEG-compressed mask' in fails(demo, *flags, f'--mask={soft}')
    assert 'no such file' in fails(demo, *flags, f'--mask={tmp_path}/absent.png')
    shutil.copytree(str(clip / 'frames'), str(tmp_path / 'frames'))
    cv2.imwrite(str(tmp_path / 'frames' / '3.png'), np.zeros((91, 160, 3), np.uint8))
    flags[0] = f'--input={tmp_path}/frames'
    message = fails(demo, *flags, f'--mask={clip}/mask.png')
    assert 'frame 3' in message and 'is 160x91, the first 160x90' in message
    assert not (tmp_path / 'o').exists()


def test_images_show_features_and_matches():
    draw = np.random.RandomState(0)
    maps = draw.rand(2, 4, 6, 5).astype(np.float32)
    maps[1] = np.roll(maps[0], 2, 1)  # everything moves two cells to the right
    found = demo.components(maps)
    assert found.shape == (2, 4, 6, 3) and found.dtype == np.uint8
    assert np.array_equal(found[1, :, 2:], found[0, :, :-2]) and found.std() > 40
    images = np.zeros((2, 32, 48, 3), np.uint8)
    mask = np.zeros((32, 48), np.uint8)
    mask[8:16, 8:16] = 3
    unit = maps / np.linalg.norm(maps, axis=-1, keepdims=True)
    canvas = demo.draw_matches(images, unit, mask)
    assert canvas.shape == (32, 96, 3) and canvas[12, 12].any() and canvas[12, 48 + 28].any()


@pytest.fixture(scope='module')
def old_data(drawn, tmp_path_factory):
    """Data as the official README has it: data/davis2017, and a list of three frames of one video
    and two of another; results of the middle frame are not saved."""
    folder = tmp_path_factory.mktemp('old')
    (folder / 'data' / 'filelists').mkdir(parents=True)
    (folder / 'data' / 'davis2017').symlink_to(drawn['davis2017'])
    lines = []
    for name, count in (('drawn-x', 3), ('drawn-y', 2)):
        for t in range(count):
            lines.append(
                f'{int(t != 1)} davis2017/JPEGImages/480p/{name}/{t:05d}.jpg '
                f'davis2017/Annotations/480p/{name}/{t:05d}.png'
            )
    (folder / 'data' / 'filelists' / 'short.txt').write_text('\n'.join(lines) + '\n')
    return folder


def official_command(resume, *more, infer_list='filelists/short', key='cls'):
    return [
        '--cfg', 'configs/ytvos.yaml', '--exp', '0001', '--run', 'final',
        '--infer-list', infer_list, '--mask-output-dir', './output', '--seed', '0',
        '--set', 'TEST.KEY', key, '--resume', str(resume), *more,
    ]  # fmt: skip


def test_official_inference_command(run, old_data, drawn, tmp_path, monkeypatch, capsys):
    """The command of the original README, with a checkpoint of this collection."""
    shutil.copytree(str(old_data), str(tmp_path / 'w'), symlinks=True)
    monkeypatch.chdir(tmp_path / 'w')
    command = official_command(run, '--size', '80', '48', '--device', 'cpu')
    assert infer_vos_dul.main(command) == 0
    output = tmp_path / 'w' / 'output'
    written = sorted(str(p.relative_to(output)) for p in output.glob('cls_vos/*/*'))
    assert written == [f'cls_vos/drawn-{n}.png' for n in ('x/00000', 'x/00002', 'y/00000')]
    assert len(list(output.glob('cls_vis/*/*.png'))) == 5
    ids = masks.read_mask(f'{drawn["davis2017"]}/Annotations/480p/drawn-x/00000.png')
    assert np.array_equal(masks.read_mask(str(output / 'cls_vos/drawn-x/00000.png')), ids)
    frame = masks.read_image(f'{drawn["davis2017"]}/JPEGImages/480p/drawn-x/00000.jpg')
    shown = masks.read_image(str(output / 'cls_vis/drawn-x/00000.png'))
    assert np.abs(shown[ids == 0].astype(int) - frame[ids == 0]).max() == 0
    mixed = 0.3 * frame + 0.7 * masks.palette()[ids][..., ::-1]
    assert np.abs(shown - mixed)[ids > 0].max() <= 1
    again = official_command(run, '--size', '80', '48', infer_list='filelists/val_davis2017_test')
    monkeypatch.setattr(infer_vos_dul, 'segment', lambda network, cfg, listed, path: print(
        listed.video.name, len(listed.saved), cfg.key, cfg.radius))  # fmt: skip
    assert infer_vos_dul.main([*again, '--set', 'TEST.KEY', 'merge', 'TEST.RADIUS', '5']) == 0
    assert 'drawn-y 10 merge 5.0' in capsys.readouterr().out  # the sequences of the tree


def test_messages_of_the_official_command(run, old_data, monkeypatch, fails, tmp_path):
    monkeypatch.chdir(old_data)
    assert 'this network has color, cls, merge' in fails(
        infer_vos_dul, *official_command(run, key='res4')
    )
    message = fails(infer_vos_dul, *official_command('absent.pkl'))
    assert 'no checkpoint at' in message
    message = fails(infer_vos_dul, *official_command(run, infer_list='filelists/absent'))
    assert '--infer-list: no such file: tried data/filelists/absent.txt' in message
    for pairs, wanted in (
        (['TEST.KEY'], 'expected KEY VALUE pairs'),
        (['TEST.KEYS', 'cls'], 'no such key'),
        (['TEXT.KEY', 'cls'], 'no such section'),
        (['TEST.KNN', 'many'], "TEST.KNN='many': expected int"),
        (['TEST.KNN', '0'], 'neighbours=0'),
        (['TEST.INPUT_SIZE', '480'], '--size WIDTH HEIGHT'),
    ):
        command = official_command(run, '--set', *pairs)
        assert wanted in fails(infer_vos_dul, *command)
    command = official_command(run)
    command[1] = 'absent.yaml'
    assert '--cfg: no such file' in fails(infer_vos_dul, *command)
    (tmp_path / 'c.yaml').write_text('TEST:\n  KNN 10\n')
    command[1] = str(tmp_path / 'c.yaml')
    assert 'line 2: expected KEY: value' in fails(infer_vos_dul, *command)
    (tmp_path / 'list.txt').write_text('a/b/0.jpg a/b/0.png\n')
    command = official_command(run, infer_list=str(tmp_path / 'list'))
    assert 'expected lines "flag image mask"' in fails(infer_vos_dul, *command)


def test_official_configuration_is_read(tmp_path, run, drawn):
    path = tmp_path / 'ytvos.yaml'
    path.write_text(
        'DATASET:\n#  ROOT: r"/a"\n  ROOT: r"/b c"  # mine\n  RND_CROP: True\n'
        '  RND_ZOOM_RANGE: [.5, 1.]\nTRAIN:\n  TASK: "YTVOS"\nNUM_GPUS: 1\nTEST:\n  CXT_SIZE: 7\n'
    )
    found = infer_vos_dul.read_config(str(path))
    assert found['DATASET.ROOT'] == '/b c' and found['DATASET.RND_ZOOM_RANGE'] == [0.5, 1.0]
    assert found['NUM_GPUS'] == 1 and found['TRAIN.TASK'] == 'YTVOS'
    for preset, context in (('dul', [7, 6, 5, 4, 3, 2, 1]), ('full', config.STRIDES)):
        cfg = config.get_config(preset)
        infer_vos_dul.take_settings(cfg, found)
        assert cfg.context == context


def source_arrays(cfg):
    """Our names turned into official ones, with seeded numbers."""
    draw, found = np.random.RandomState(0), {}
    leaves = {ours: name for part in (convert.NORM, convert.LEAVES) for name, ours in part.items()}
    for name, shape in convert.network_shapes(cfg).items():
        parts = name.split('/')[1:]
        array = draw.rand(*shape).astype(np.float32)
        array = array.transpose(3, 2, 0, 1) if len(shape) == 4 else array
        found['.'.join([*parts[:-1], leaves[parts[-1]]])] = array
        if parts[-1] == 'moving_mean':
            found['.'.join([*parts[:-1], 'num_batches_tracked'])] = np.array(3)
    return found


@pytest.mark.parametrize('size,dul,kernel', [('S', True, 7), ('DUL', True, 7)])
def test_import_of_named_arrays(tmp_path, capsys, fails, monkeypatch, size, dul, kernel):
    monkeypatch.setattr(backbone, 'BLOCKS', 2)  # as published
    cfg = config.get_config('dul' if size == 'DUL' else 'full')
    cfg.update(model_size=size, is_dul=dul, first_kernal_size=kernel)
    arrays = source_arrays(cfg)
    if size == 'DUL':
        arrays = {
            f'module.fast_net.{"" if n.startswith("emb_q") else "backbone."}{n}': a
            for n, a in arrays.items()
        }
    source = tmp_path / 'weights.model'  # the format is told by content
    with open(str(source), 'wb') as f:
        np.savez(f, **arrays)
    prefix = tmp_path / 'c' / 'model.ckpt'
    assert convert.main([f'--source={source}', f'--output={prefix}']) == 0
    printed = capsys.readouterr().out
    assert f': {size}, ' in printed and 'left out: 0 arrays' in printed
    saved = json.loads((tmp_path / 'c' / 'config.json').read_text())
    assert (saved['model_size'], saved['first_kernal_size']) == (size, kernel)
    assert saved['is_dul'] == dul and saved['trained_on'] == ['imported weights.model']
    assert (saved['test_height'], saved['test_width']) == ((0, 0) if size == 'DUL' else (480, 864))
    name = 'conv1.weight' if size != 'DUL' else 'module.fast_net.backbone.conv1.weight'
    kernel = tf.train.load_variable(str(prefix), 'colornet/conv1/weights')
    assert np.array_equal(kernel, arrays[name].transpose(2, 3, 1, 0))
    del arrays[name.replace('conv1.weight', 'layer2.0.bn1.running_var')]
    np.savez(str(tmp_path / 'w.npz'), **arrays)
    message = fails(convert, f'--source={tmp_path}/w.npz', f'--output={prefix}')
    assert '1 of' in message and 'layer2/0/bn1/moving_variance' in message


def test_messages_of_import(tmp_path, fails):
    flags = f'--source={tmp_path}/w.npz', f'--output={tmp_path}/m'
    np.savez(str(tmp_path / 'w.npz'), fc=np.ones(3))
    message = fails(convert, *flags)
    assert 'unknown weights' in message and "found ['fc']" in message
    found = {'conv1.weight': np.ones([64, 3, 3, 3]), 'layer4.0.conv1.weight': np.ones(1)}
    cfg = convert.settings_of(found, convert.detect(found))
    assert (cfg.model_size, cfg.is_dul, cfg.first_kernal_size) == ('L', False, 3)
    names = ('conv1.weight', 'layer4.0.conv1.weight')
    np.savez(str(tmp_path / 'w.npz'), **dict.fromkeys(names, np.ones(3)))
    assert 'conv1.weight is [3], expected [channels, 3, size, size]' in fails(convert, *flags)
    np.savez(str(tmp_path / 'w.npz'), **dict.fromkeys(names, np.ones([5, 3, 3, 3])))
    assert 'conv1 has 5 channels; S, M, L have 32, 48, 64' in fails(convert, *flags)
    np.savez(str(tmp_path / 'w.npz'), **dict.fromkeys(names, np.ones([32, 3, 3, 3])))
    assert 'are missing or of another shape' in fails(convert, *flags)
    assert 'of DUL are missing' in fails(convert, *flags, '--format=dul')
    (tmp_path / 'cut.npz').write_bytes((tmp_path / 'w.npz').read_bytes()[:-200])
    message = fails(convert, f'--source={tmp_path}/cut.npz', flags[1])
    assert 'cut.npz' in message
    (tmp_path / 'w.pkl').write_bytes(b'\x80\x02cos\nsystem\n(S"true"\ntR.')
    assert 'system' in fails(convert, f'--source={tmp_path}/w.pkl', flags[1])
    assert 'no weights at' in fails(convert, '--source=absent.pkl', '--output=x/m')


def test_average_of_the_last_checkpoints(run, drawn, tmp_path, capsys, fails):
    prefix = tmp_path / 'mean' / 'model.ckpt'
    flags = [f'--source={run}', f'--output={prefix}']
    assert convert.main([*flags, '--average=2']) == 0
    assert 'mean of model.ckpt-2, model.ckpt-3' in capsys.readouterr().out
    for name in ('layer1/0/conv1/weights', 'bn1/moving_variance'):
        values = [
            tf.train.load_variable(f'{run}/model.ckpt-{k}', f'colornet/{name}') for k in (2, 3)
        ]
        np.testing.assert_allclose(value(prefix, name), np.mean(values, 0), atol=1e-6)
        assert not np.array_equal(*values)
    assert not any('AdamW' in n for n, _ in tf.train.list_variables(str(prefix)))
    saved = json.loads((tmp_path / 'mean' / 'config.json').read_text())
    assert saved['trained_on'] == ['drawn data'] and saved['channels'] == 0.05
    with inference.load(str(prefix), tiny(run)) as network:
        assert network.features(np.zeros((1, 48, 80, 3), np.uint8)).shape == (1, 6, 10, 12)
    moved = tmp_path / 'moved'
    shutil.copytree(str(run), str(moved))
    flags = [f'--source={moved}/model.ckpt-2', f'--output={tmp_path}/second/model.ckpt']
    assert convert.main([*flags, '--average=2']) == 0  # those up to a prefix
    assert 'mean of model.ckpt-1, model.ckpt-2' in capsys.readouterr().out
    message = fails(convert, *flags, '--average=10')
    assert '--average=10' in message and 'keeps 2 checkpoints up to model.ckpt-2' in message
    assert 'model.ckpt-1, model.ckpt-2' in message and 'keep_checkpoints' in message
    assert 'no checkpoint at' in fails(convert, f'--source={tmp_path}', flags[1], '--average=2')
    (moved / 'checkpoint').unlink()
    assert 'keeps 1 checkpoints up to' in fails(convert, *flags, '--average=2')


def tiny(run):
    """The settings of a run."""
    cfg = config.get_config('smoke')
    cfg.update(json.loads((run / 'config.json').read_text()))
    cfg.device = 'cpu'
    return cfg


def test_dense_ulearn_vos_sees_frames_in_their_own_size(run):
    """854 px wide they stay, with 107 cells (infer_vos.py: TEST.INPUT_SIZE -1); ColorNet's own
    networks see 864x480 whatever the frame."""
    dul = config.get_config('dul')
    assert inference.network_size(480, 854, dul) == (480, 854)
    assert inference.network_size(720, 1280, config.get_config('full')) == (480, 864)
    cfg = tiny(run)
    cfg.update(test_height=0, test_width=0)
    with inference.load(str(run), cfg) as network:
        frames = np.random.RandomState(0).randint(0, 255, (2, 46, 86, 3), np.uint8)
        found = network.features(frames)
        assert found.shape[:3] == (2, 6, 11)
        assert network.features(frames[:, :40, :40]).shape[:3] == (2, 5, 5)
        given = {0: np.ones((46, 86), np.uint8)}
        ids = list(inference.segment(network, cfg, list(frames), given))
        assert [i.shape for i in ids] == [(46, 86)] * 2
    cfg.update(test_height=46, test_width=86)
    with inference.load(str(run), cfg) as network:
        np.testing.assert_allclose(network.features(frames), found, atol=1e-6)


def test_export_answers_as_the_network(run, tmp_path, capsys, fails):
    flags = [f'--checkpoint={run}', f'--output_path={tmp_path}/x', '--votes']
    assert export.main(flags) == 0
    printed = capsys.readouterr().out
    assert '--input_shape="image:1,48,80,3"' in printed and 'out_merge:0' in printed
    assert '--input_shape="query:6,10,' in printed and 'Ascend910A' in printed
    assert '--out_nodes="out_weight:0;out_cell:0"' in printed
    image = np.random.RandomState(0).randint(0, 255, (1, 48, 80, 3)).astype(np.float32)
    with inference.load(str(run), tiny(run)) as network:
        wanted = network.features(image[..., ::-1])
    with tf.Graph().as_default() as graph, tf.Session() as session:
        definition = tf.GraphDef()
        definition.ParseFromString((tmp_path / 'x' / 'ColorNet.pb').read_bytes())
        assert not any(node.op in ('While', 'Enter') for node in definition.node)
        tf.import_graph_def(definition, name='')
        found = session.run('out_merge:0', {'image:0': image})
        assert graph.get_tensor_by_name('out_q_cls:0').shape.as_list() == [1, 6, 10, 6]
    np.testing.assert_allclose(found, wanted, atol=1e-4)  # other batches sum in another order
    with tf.Graph().as_default(), tf.Session() as session:
        tf.saved_model.load(session, ['serve'], str(tmp_path / 'x' / 'saved_model_ColorNet'))
        again = session.run('out_merge:0', {'image:0': image})
    np.testing.assert_allclose(again, found, atol=1e-4)
    capsys.readouterr()
    assert export.main([str(flag) for flag in flags]) == 0
    assert 'is there already, of this checkpoint: kept' in capsys.readouterr().out


def test_real_sequences(run, shared_data, tmp_path):
    """Seven objects of real frames, and an object that appears later."""
    found = videos.find(str(shared_data / 'DAVIS2017_240p'), 'davis', '', 'schoolgirls')
    cfg = tiny(run)
    with inference.load(str(run), cfg) as network:
        frames = videos.Frames(found[0].frames[:5])
        ids = list(inference.segment(network, cfg, frames, found[0].given))
    assert len(ids) == 5 and set(np.unique(ids[0])) == set(range(8))  # as given
    assert ids[4].any() and set(np.unique(ids[4])) <= set(range(8))
    flags = [f'--checkpoint={run}', '--device=cpu', f'--output_path={tmp_path}/b']
    flags += ['--dataset=youtube_vos', '--split=train', '--copy']
    assert evaluate.main([*flags, f'--data_path={shared_data / "YouTubeVOS_like"}']) == 0
    assert (tmp_path / 'b' / 'Annotations' / 'caps' / '00066.png').is_file()
