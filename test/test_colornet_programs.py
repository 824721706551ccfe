"""ColorNet's programs: training of its kinds, resume, evaluation, demo, import, averaging, export,
the exact messages of faults."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from ColorNet import config, convert, data, demo, evaluate, export, model, propagation, train
from common import masks

SMALL = ['--device=cpu', '--batch_size=2'] + [
    f'--set={k}={v}'
    for k, v in dict(channels=0.1, size=64, video_len=2, log_steps=1, checkpoint_steps=1,
                     workers=0, test_height=48, test_width=80, radius=4.0).items()
]  # fmt: skip


def fails(capsys, program, *flags):
    """The message of a program that must fail."""
    assert program.main([str(flag) for flag in flags]) == 1
    message = capsys.readouterr().err
    assert message.startswith('ColorNet: error: ')
    return message


@pytest.fixture(scope='module')
def run(drawn, tmp_path_factory):
    """Folder of a finished short training with both branches."""
    folder = tmp_path_factory.mktemp('run')
    flags = [f'--data_path={drawn["youtube_vos"]}', f'--output_path={folder}', '--steps=3']
    assert train.main([*SMALL, *flags, '--preset=smoke']) == 0
    return folder


def value(folder, name):
    return tf.train.load_variable(str(folder), f'colornet/{name}')


def test_check_data_and_dry_run(drawn, tmp_path, capsys):
    flags = [*SMALL, '--preset=smoke', f'--output_path={tmp_path}/run']
    flags.append(f'--data_path={Path(drawn["coco"]).parent}')
    assert train.main([*flags, '--check_data']) == 0
    assert '{"sequences": 3, "frames": 48}' in capsys.readouterr().out
    assert train.main([*flags, '--check_data', '--coco']) == 0
    assert '{"sequences": 12, "frames": 12}' in capsys.readouterr().out
    assert train.main([*flags, '--dry_run', '--steps=7']) == 0
    printed = capsys.readouterr().out
    assert 'dul1 uint8 [2, 2, 64, 64, 3]' in printed and '7 steps' in printed
    assert not (tmp_path / 'run').exists()


def test_original_config_exp_and_coco(drawn, tmp_path, capsys, monkeypatch):
    """The command of the original: its JSON, --exp, --coco; flags and --set win."""
    monkeypatch.chdir(tmp_path)
    path = Path(train.__file__).parent / 'config' / 'train_config_color_len5_L.json'
    flags = [*SMALL, f'--train_config={path}', '--exp=0001', '--coco', '--steps=1']
    assert train.main([*flags, f'--data_path={drawn["coco"]}']) == 0
    saved = json.loads((tmp_path / 'snapshots' / '0001' / 'config.json').read_text())
    assert saved['preset'] == 'full' and saved['dataset'] == 'coco'
    assert (saved['model_size'], saved['is_dul'], saved['video_len']) == ('L', False, 2)
    names = dict(tf.train.list_variables(str(tmp_path / 'snapshots' / '0001')))
    assert not any('layer5' in n or 'query_cls' in n for n in names)
    message = fails(capsys, train, '--train_config=./data/configs/absent.json')
    assert 'no such file' in message and 'ColorNet/config' in message


@pytest.mark.parametrize('flags', [
    ['--preset=dul', '--set=first_kernal_size=3'],
    ['--preset=smoke', '--set=color_mode=RGB', '--set=is_neg=False', '--set=optimizer=adam'],
    ['--preset=performance', '--set=ohem_range=[0.2, 0.9]', '--set=color_mode=AB'],
])  # fmt: skip
def test_other_kinds_train(drawn, tmp_path, flags):
    data_flag = f'--data_path={drawn["youtube_vos"]}'
    flags = [*flags, *SMALL, data_flag, f'--output_path={tmp_path}', '--steps=1']
    assert train.main([*flags, '--set=is_dul=False']) == 0  # half the graph
    assert tf.train.latest_checkpoint(str(tmp_path)).endswith('model.ckpt-1')


def test_resume_goes_on_with_the_same_clips(run, drawn, tmp_path, capsys):
    second = tmp_path / 'b'
    shutil.copytree(str(run), str(second))
    for path in second.glob('model.ckpt-3*'):
        path.unlink()
    tf.train.update_checkpoint_state(str(second), f'{second}/model.ckpt-2')
    flags = [f'--data_path={drawn["youtube_vos"]}', f'--output_path={second}', '--steps=3']
    assert train.main([*SMALL, *flags, '--preset=smoke']) == 0
    assert 'resuming from step 2' in capsys.readouterr().out
    for name in ('layer4/0/conv2/weights', 'layer4/0/conv2/weights/AdamW', 'bn1/moving_mean'):
        np.testing.assert_allclose(value(second, name), value(run, name), atol=2e-6)


def test_training_lowers_the_losses(drawn, tmp_path):
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
        held = [session.run(held) for _ in range(6)]
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


def test_evaluation_writes_and_scores(run, drawn, tmp_path, capsys):
    flags = [f'--data_path={drawn["davis2017"]}', '--device=cpu']
    checkpoint = f'--checkpoint={run}'
    command = [*flags, checkpoint, f'--output_path={tmp_path}/out', '--overlay']
    assert evaluate.main([*command, '--sequences=drawn-x,drawn-y']) == 0
    results = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert {'drawn-x_1', 'drawn-x_2', 'drawn-y_3'} <= set(results['per_sequence'])
    assert f'"J&F-Mean": {results["global"]["J&F-Mean"]}' in capsys.readouterr().out
    assert results['config']['model_size'] == 'S' and results['global']['J-Mean'] > 0
    first = masks.read_mask(str(tmp_path / 'out/masks/drawn-x/00000.png'))
    truth = masks.read_mask(f'{drawn["davis2017"]}/Annotations/480p/drawn-x/00000.png')
    assert np.array_equal(first, truth)
    assert (tmp_path / 'out/overlay/drawn-y.mp4').stat().st_size > 1000
    assert (tmp_path / 'out/per-sequence_results-val.csv').is_file()
    assert evaluate.main([*flags, '--copy', f'--output_path={tmp_path}/copy']) == 0
    last = masks.read_mask(str(tmp_path / 'copy/masks/drawn-x/00009.png'))
    assert np.array_equal(last, truth)
    assert evaluate.main([*flags, checkpoint, f'--output_path={tmp_path}/q', '--key=q_color',
                          '--sequences=drawn-x']) == 0  # fmt: skip


def test_youtube_vos_objects_start_where_they_appear(run, drawn, tmp_path):
    flags = [f'--data_path={drawn["youtube_vos"]}', f'--checkpoint={run}', '--device=cpu',
             '--dataset=youtube_vos', f'--output_path={tmp_path}']  # fmt: skip
    assert evaluate.main([*flags, '--split=train', '--sequences=0aaaaaaaaa']) == 0
    assert len(list((tmp_path / 'Annotations' / '0aaaaaaaaa').iterdir())) == 16
    assert json.loads((tmp_path / 'results.json').read_text())['global']['J-Mean'] > 0
    assert evaluate.main([*flags, f'--output_path={tmp_path}/valid']) == 0  # first masks alone
    assert not (tmp_path / 'valid' / 'results.json').exists()


def test_accuracy_of_a_training(run, drawn, tmp_path, capsys):
    cfg = config.get_config('smoke')
    cfg.update(json.loads((run / 'config.json').read_text()))
    cfg.device = 'cpu'
    root = str(Path(drawn['davis']).parent)
    assert 0 < evaluate.accuracy(cfg, root, str(run), str(tmp_path)) < 1
    found = evaluate.accuracy(cfg, drawn['youtube_vos'], str(run), str(tmp_path / 'y'))
    assert 0 < found < 1 and 'no TrainAccuracy on davis' in capsys.readouterr().out
    assert evaluate.accuracy(cfg, drawn['coco'], str(run), str(tmp_path / 'c')) is None


def test_messages_of_evaluation(run, drawn, tmp_path, capsys):
    flags = [f'--data_path={drawn["davis"]}', f'--output_path={tmp_path}/o', '--device=cpu']
    assert '--checkpoint is needed' in fails(capsys, evaluate, *flags)
    message = fails(capsys, evaluate, *flags, f'--checkpoint={run}', '--key=res4')
    assert 'key=res4: this network has color, cls, merge' in message
    message = fails(capsys, evaluate, *flags, f'--checkpoint={tmp_path}/absent')
    assert 'no checkpoint at' in message
    message = fails(
        capsys, evaluate, *flags, f'--checkpoint={run}', '--preset=full', '--sequences=drawn-x'
    )
    assert 'is not of this network' in message and 'Another --preset?' in message
    assert 'no DAVIS data at' in fails(
        capsys, evaluate, f'--data_path={tmp_path}', '--copy', f'--output_path={tmp_path}/o'
    )


def test_messages_of_training(drawn, tmp_path, capsys):
    flags = [*SMALL, '--preset=smoke', f'--output_path={tmp_path}/run', '--steps=1']
    flags.append(f'--data_path={drawn["youtube_vos"]}')
    assert 'video_len = 1 is not allowed' in fails(capsys, train, *flags, '--set=video_len=1')
    assert 'no other clip for negatives' in fails(capsys, train, *flags, '--batch_size=1')
    assert "color_mode = 'HSV'" in fails(capsys, train, *flags, '--set=color_mode=HSV')
    assert 'none of its 3 videos has 40 frames' in fails(
        capsys, train, *flags, '--set=video_len=40'
    )
    assert 'leaves none of' in fails(capsys, train, *flags, '--set=ohem_range=[0.1, 0.15]')
    message = fails(capsys, train, *flags, f'--data_path={tmp_path}')
    assert 'no videos at' in message and 'filelists/train_ytvos.txt' in message


def test_a_frame_that_is_missing_ends_the_training(tmp_path, capsys):
    (tmp_path / 'filelists').mkdir()
    lines = [f'JPEGImages/v{v}/{t:05d}.jpg' for v in range(2) for t in range(3)]
    (tmp_path / 'filelists' / 'train_ytvos.txt').write_text('\n'.join(lines))
    flags = [*SMALL, '--preset=dul', f'--output_path={tmp_path}/run', '--steps=1']
    message = fails(capsys, train, *flags, f'--data_path={tmp_path}')
    assert 'no frame at' in message and 'JPEGImages/v' in message
    message = fails(capsys, train, *flags, f'--data_path={tmp_path}', '--check_data')
    assert '6 frames are missing' in message and 'v0/00000.jpg' in message


@pytest.mark.parametrize('kind', ['folder', 'video'])
def test_demo(run, drawn, tmp_path, kind):
    frames = Path(drawn['davis2017']) / 'JPEGImages' / '480p' / 'drawn-x'
    mask = Path(drawn['davis2017']) / 'Annotations' / '480p' / 'drawn-x' / '00000.png'
    source = frames
    if kind == 'video':
        source = tmp_path / 'clip.mp4'
        masks.write_video(str(source), (i for _, i in masks.read_frames(str(frames))))
    flags = [f'--input={source}', f'--mask={mask}', f'--checkpoint={run}', '--device=cpu']
    assert demo.main([*flags, f'--output_path={tmp_path}/out', '--pictures']) == 0
    out = tmp_path / 'out'
    assert len(list((out / 'masks').iterdir())) == 10
    assert sum(1 for _ in masks.read_video(str(out / 'overlay.mp4'))) == 10
    assert cv2.imread(str(out / 'features.png')).shape == (96, 4 * 80, 3)
    assert cv2.imread(str(out / 'matches.png')).shape == (48, 160, 3)
    assert cv2.imread(str(out / 'sheet.png')).shape[1] == 1280


def test_messages_of_demo(run, drawn, tmp_path, capsys):
    frames = Path(drawn['davis']) / 'JPEGImages' / '480p' / 'drawn-x'
    cv2.imwrite(str(tmp_path / 'small.png'), np.ones((10, 10), np.uint8))
    cv2.imwrite(str(tmp_path / 'none.png'), np.zeros((180, 320), np.uint8))
    flags = [f'--input={frames}', f'--checkpoint={run}', f'--output_path={tmp_path}/o']
    message = fails(capsys, demo, *flags, f'--mask={tmp_path}/small.png')
    assert 'is 10x10, the frames are 320x180' in message
    message = fails(capsys, demo, *flags, f'--mask={tmp_path}/none.png')
    assert 'marks no object' in message
    assert 'no such file' in fails(capsys, demo, *flags, f'--mask={tmp_path}/absent.png')


def test_pictures_show_features_and_matches():
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
    picture = demo.match_picture(images, unit, mask)
    assert picture.shape == (32, 96, 3) and picture[12, 12].any() and picture[12, 48 + 28].any()


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


@pytest.mark.parametrize('size,dul,kernel', [('S', True, 3), ('S', False, 7), ('DUL', True, 7)])
def test_import_of_named_arrays(tmp_path, capsys, size, dul, kernel):
    cfg = config.get_config('dul' if size == 'DUL' else 'full')
    cfg.update(model_size=size, is_dul=dul, first_kernal_size=kernel)
    arrays = source_arrays(cfg)
    if size == 'DUL':
        arrays = {
            f'module.fast_net.{"" if n.startswith("emb_q") else "backbone."}{n}': a
            for n, a in arrays.items()
        }
    np.savez(str(tmp_path / 'w.npz'), **arrays)
    prefix = tmp_path / 'c' / 'model.ckpt'
    assert convert.main([f'--source={tmp_path}/w.npz', f'--output={prefix}']) == 0
    assert f': {size}, ' in capsys.readouterr().out
    saved = json.loads((tmp_path / 'c' / 'config.json').read_text())
    assert (saved['model_size'], saved['first_kernal_size']) == (size, kernel)
    assert saved['is_dul'] == dul
    name = 'conv1.weight' if size != 'DUL' else 'module.fast_net.backbone.conv1.weight'
    kernel = tf.train.load_variable(str(prefix), 'colornet/conv1/weights')
    assert np.array_equal(kernel, arrays[name].transpose(2, 3, 1, 0))
    del arrays[name.replace('conv1.weight', 'layer2.0.bn1.running_var')]
    np.savez(str(tmp_path / 'w.npz'), **arrays)
    message = fails(capsys, convert, f'--source={tmp_path}/w.npz', f'--output={prefix}')
    assert '1 of' in message and 'layer2/0/bn1/moving_variance' in message


def test_messages_of_import(tmp_path, capsys):
    np.savez(str(tmp_path / 'w.npz'), fc=np.ones(3))
    message = fails(capsys, convert, f'--source={tmp_path}/w.npz', f'--output={tmp_path}/m')
    assert 'unknown weights' in message and "found ['fc']" in message
    (tmp_path / 'w.pkl').write_bytes(b'cos\nsystem\n(S"true"\ntR.')
    message = fails(capsys, convert, f'--source={tmp_path}/w.pkl', f'--output={tmp_path}/m')
    assert 'system' in message
    assert 'no weights at' in fails(capsys, convert, '--source=absent.pkl', '--output=x/m')


def test_average_of_the_last_checkpoints(run, drawn, tmp_path, capsys):
    prefix = tmp_path / 'mean' / 'model.ckpt'
    flags = [f'--source={run}', f'--output={prefix}']
    assert convert.main([*flags, '--average=2']) == 0
    for name in ('layer1/0/conv1/weights', 'bn1/moving_variance'):
        values = [
            tf.train.load_variable(f'{run}/model.ckpt-{k}', f'colornet/{name}') for k in (2, 3)
        ]
        np.testing.assert_allclose(value(prefix, name), np.mean(values, 0), atol=1e-6)
        assert not np.array_equal(*values)
    assert not any('AdamW' in n for n, _ in tf.train.list_variables(str(prefix)))
    assert evaluate.main([f'--data_path={drawn["davis"]}', f'--checkpoint={prefix}',
                          f'--output_path={tmp_path}/o', '--sequences=drawn-x']) == 0  # fmt: skip
    assert 'keeps' in fails(capsys, convert, *flags, '--average=50')


def test_export_answers_as_the_network(run, tmp_path, capsys):
    flags = [f'--checkpoint={run}', f'--output_path={tmp_path}/x', '--votes']
    assert export.main(flags) == 0
    printed = capsys.readouterr().out
    assert '--input_shape="image:1,48,80,3"' in printed and 'out_merge:0' in printed
    assert '--input_shape="query:6,10,' in printed and 'Ascend910A' in printed
    cfg = config.get_config('smoke')
    cfg.update(json.loads((run / 'config.json').read_text()))
    cfg.device = 'cpu'
    image = np.random.RandomState(0).randint(0, 255, (1, 48, 80, 3)).astype(np.float32)
    prefix = tf.train.latest_checkpoint(str(run))
    with propagation.loaded(cfg, prefix) as (features, _):
        wanted = features(image[..., ::-1])
    with tf.Graph().as_default() as graph, tf.Session() as session:
        definition = tf.GraphDef()
        definition.ParseFromString((tmp_path / 'x' / 'ColorNet.pb').read_bytes())
        assert not any(node.op in ('While', 'Enter') for node in definition.node)
        tf.import_graph_def(definition, name='')
        found = session.run('out_merge:0', {'image:0': image})
        assert graph.get_tensor_by_name('out_q_cls:0').shape.as_list() == [1, 6, 10, 13]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.saved_model.load(session, ['serve'], str(tmp_path / 'x' / 'saved_model_ColorNet'))
        again = session.run('out_merge:0', {'image:0': image})
    np.testing.assert_allclose(again, found, atol=1e-5)
    assert 'is there already' in fails(capsys, export, *flags)


def test_real_sequences(run, shared_data, tmp_path):
    """Seven objects of real frames, and an object that appears later."""
    root = shared_data / 'DAVIS2017_240p'
    flags = [f'--checkpoint={run}', '--device=cpu', f'--output_path={tmp_path}/a']
    assert evaluate.main([*flags, f'--data_path={root}', '--sequences=schoolgirls']) == 0
    results = json.loads((tmp_path / 'a' / 'results.json').read_text())
    assert len(results['per_sequence']) == 7
    flags[-1] = f'--output_path={tmp_path}/b'
    flags += ['--dataset=youtube_vos', '--split=train']
    assert evaluate.main([*flags, f'--data_path={shared_data / "YouTubeVOS_like"}']) == 0
    assert (tmp_path / 'b' / 'Annotations' / 'caps' / '00066.png').is_file()
