"""The programs as a user runs them: flags, faults with their messages and exit status, resume after
a kill."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from common import davis, masks
from OSVOS import cli, config, convert, demo, evaluate, export, npu, online, train

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = {
    'train': train,
    'online': online,
    'evaluate': evaluate,
    'demo': demo,
    'convert': convert,
    'export': export,
}
EVERY = [('OSVOS', name) for name in PROGRAMS] + [('OSMN', name) for name in PROGRAMS]
EVERY += [('OSMN', 'videos'), ('SiamMask', 'prepare')]
EVERY += [
    (m, name) for m in ('SiamMask', 'ColorNet', 'MANet') for name in PROGRAMS if name != 'online'
]
SMALL = [
    f'--set={s}'
    for s in (
        'height=36',
        'width=64',
        'channels=0.07',
        'log_steps=1',
        'checkpoint_steps=2',
        'online_steps=3',
    )
]


def trained(data, output, *flags):
    """Exit status of a short training."""
    return train.main(
        [
            f'--data_path={data}',
            f'--output_path={output}',
            '--device=cpu',
            '--preset=smoke',
            '--batch_size=2',
            *SMALL,
            *flags,
        ]
    )


@pytest.fixture(scope='module')
def run(drawn, tmp_path_factory):
    """Folder of a finished short run."""
    folder = tmp_path_factory.mktemp('run')
    assert trained(drawn['davis'], folder, '--steps=4') == 0
    return folder


def fails(capsys, program, *flags):
    """The message of a program that must fail."""
    assert program.main([str(flag) for flag in flags]) == 1
    message = capsys.readouterr().err
    assert message.startswith('OSVOS: error: ')
    return message


@pytest.mark.parametrize('model, name', EVERY)
def test_help_names_the_command_and_every_flag(model, name, capsys):
    program = importlib.import_module(f'{model}.{name}')
    with pytest.raises(SystemExit) as stopped:
        program.main(['--help'])
    text = capsys.readouterr().out
    assert stopped.value.code == 0 and f'python -m {model}.{name}' in text
    assert '--set NAME=VALUE' in text


def test_module_runs_and_passes_its_exit_status_on(tmp_path):
    command = [
        sys.executable,
        '-m',
        'OSVOS.train',
        '--device=cpu',
        f'--data_path={tmp_path}/absent',
    ]
    done = subprocess.run(command, cwd=str(ROOT), capture_output=True)
    assert done.returncode == 1
    assert f'no such folder. Tried {tmp_path}/absent' in done.stderr.decode()


def test_check_data_and_dry_run(drawn, tmp_path, capsys):
    assert trained(drawn['davis'], tmp_path / 'run', '--check_data') == 0
    assert json.loads(capsys.readouterr().out.strip().split('\n')[-1])['frames'] == 90
    assert trained(drawn['davis'], tmp_path / 'run', '--dry_run', '--steps=7') == 0
    printed = capsys.readouterr().out
    assert (
        'image float32 [2, 36, 64, 3]' in printed
        and 'parameters' in printed
        and '7 steps' in printed
    )
    assert not (tmp_path / 'run').exists()


def test_flags_reach_the_settings():
    flags = cli.parser('doc')
    cli.add_training_flags(flags)
    values = {
        'train_epochs': '9',
        'batch_size': '3',
        'learning_rate': '0.25',
        'precision_mode': 'force_fp16',
        'loss_scale': '128',
        'seed': '5',
        'over_dump': 'True',
        'data_dump_flag': 'True',
        'data_dump_step': '0|5',
        'profiling': 'True',
        'autotune': 'True',
        'preset': 'full',
        'case': 'perf',
    }
    args = flags.parse_args(
        [f'--{k}={v}' for k, v in values.items()] + ['--device=cpu', '--set=momentum=0.5']
    )
    cfg = cli.configure(args, config.get_config)
    assert (cfg.train_epochs, cfg.batch_size, cfg.learning_rate, cfg.seed) == (9, 3, 0.25, 5)
    assert (cfg.precision_mode, cfg.loss_scale, cfg.momentum, cfg.case) == (
        'force_fp16',
        '128',
        0.5,
        'perf',
    )
    assert cfg.over_dump and cfg.data_dump_flag and cfg.profiling and cfg.autotune
    assert cfg.data_dump_step == '0|5' and cfg.train_steps == 0
    assert (
        cli.configure(
            flags.parse_args(['--steps=8', '--device=cpu']), config.get_config
        ).train_steps
        == 8
    )


def test_presets_by_device_and_case(monkeypatch, capsys):
    flags = cli.parser('doc')
    cli.add_training_flags(flags)
    assert cli.configure(flags.parse_args([]), config.get_config).preset == 'smoke'
    assert '--preset=full trains the whole network' in capsys.readouterr().out
    monkeypatch.setattr(npu, 'choose_device', lambda device: 'npu')
    assert cli.configure(flags.parse_args([]), config.get_config).preset == 'full'
    assert (
        cli.configure(flags.parse_args(['--case=perf']), config.get_config).preset == 'performance'
    )
    with pytest.raises(ValueError, match="no preset 'ful'; there are full, paper"):
        config.get_config('ful')


@pytest.mark.parametrize(
    'setting, message',
    [
        ('chanels=1', 'nearest: channels'),
        ('channels', 'expected NAME=VALUE'),
        ('batch_size=many', 'expected a value like'),
        ('batch_size=2.5', 'expected int'),
        ('lr_values=3', 'expected list'),
    ],
)
def test_bad_settings(setting, message, drawn, tmp_path, capsys):
    assert message in fails(
        capsys, train, f'--data_path={drawn["davis"]}', '--device=cpu', f'--set={setting}'
    )


def test_npu_without_npu_bridge(drawn, capsys):
    assert 'npu_bridge is not installed' in fails(
        capsys, train, f'--data_path={drawn["davis"]}', '--device=npu'
    )
    assert npu.choose_device('auto') == 'cpu' and 'npu_bridge' not in sys.modules


def test_resume_goes_on_and_a_finished_run_stays(run, drawn, tmp_path, capsys):
    folder = shutil.copytree(str(run), str(tmp_path / 'run'))
    assert trained(drawn['davis'], folder, '--steps=4') == 0
    assert 'resuming from step 4' in capsys.readouterr().out
    assert trained(drawn['davis'], folder, '--steps=6') == 0
    assert tf.train.latest_checkpoint(folder).endswith('model.ckpt-6')
    message = fails(
        capsys,
        train,
        f'--data_path={drawn["davis"]}',
        f'--output_path={folder}',
        '--device=cpu',
        '--preset=smoke',
        '--batch_size=2',
        '--steps=6',
        f'--result_path={tmp_path}/res',
        *SMALL,
    )
    assert 'no throughput figure' in message  # nothing was left to train


def test_killed_run_ends_at_the_same_step_with_its_checkpoints(drawn, tmp_path):
    flags = [
        '--preset=smoke',
        '--device=cpu',
        '--batch_size=2',
        '--steps=40',
        *SMALL,
        '--set=keep_checkpoints=30',
        f'--data_path={drawn["davis"]}',
        f'--output_path={tmp_path}/run',
    ]
    command = [sys.executable, '-m', 'OSVOS.train', *flags]
    process = subprocess.Popen(
        command, cwd=str(ROOT), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end = time.time() + 120
    while time.time() < end and not (tmp_path / 'run' / 'model.ckpt-4.index').exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = {p.name for p in (tmp_path / 'run').glob('model.ckpt-*.index')}
    assert before and 'model.ckpt-40.index' not in before
    assert train.main(flags) == 0
    after = {p.name for p in (tmp_path / 'run').glob('model.ckpt-*.index')}
    assert before <= after and 'model.ckpt-40.index' in after
    assert int(tf.train.load_variable(str(tmp_path / 'run'), 'global_step')) == 40


def test_full_disk_at_checkpoint_time_loses_nothing(run, drawn, tmp_path):
    folder = shutil.copytree(str(run), str(tmp_path / 'run'))
    before = tf.train.latest_checkpoint(folder)
    code = (
        'import resource, sys\n'
        'from OSVOS import train\n'
        'resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000))\n'  # a full disk
        'sys.exit(train.main(sys.argv[1:]))'
    )
    flags = [
        f'--data_path={drawn["davis"]}',
        f'--output_path={folder}',
        '--device=cpu',
        '--preset=smoke',
        '--batch_size=2',
        '--steps=8',
        *SMALL,
    ]
    done = subprocess.run(
        [sys.executable, '-c', code, *flags],
        cwd=str(ROOT),
        capture_output=True,
    )
    assert done.returncode == 1 and b'OSVOS: error:' in done.stderr
    assert tf.train.latest_checkpoint(folder) == before
    assert int(tf.train.load_variable(folder, 'global_step')) == 4
    assert trained(drawn['davis'], folder, '--steps=8') == 0  # with space again
    assert int(tf.train.load_variable(folder, 'global_step')) == 8


def test_unwritable_output(drawn, tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    message = fails(
        capsys,
        train,
        f'--data_path={drawn["davis"]}',
        '--device=cpu',
        '--preset=smoke',
        f'--output_path={tmp_path}/file/run',
        *SMALL,
    )
    assert f'cannot write to {tmp_path}/file/run' in message


@pytest.fixture
def tree(drawn, tmp_path):
    return Path(shutil.copytree(drawn['davis'], str(tmp_path / 'DAVIS')))


@pytest.mark.parametrize(
    'fault, message',
    [
        ('list', 'train.txt is empty'),
        ('mask', 'frames have no mask'),
        ('size', 'its frame'),
        ('colour', 'is a colour picture'),
        ('jpeg', 'is cut off'),
        ('root', 'no DAVIS data at'),
    ],
)
def test_bad_data(fault, message, tree, tmp_path, capsys):
    frame = tree / 'JPEGImages/480p/drawn-a/00003.jpg'
    mask = tree / 'Annotations/480p/drawn-a/00003.png'
    if fault == 'list':
        (tree / 'ImageSets/2016/train.txt').write_text('\n')
    elif fault == 'mask':
        mask.unlink()
    elif fault == 'size':
        masks.write_mask(str(mask), np.ones((9, 9), np.uint8))
    elif fault == 'colour':
        cv2.imwrite(str(mask), np.random.RandomState(0).randint(0, 255, (180, 320, 3)))
    elif fault == 'jpeg':
        frame.write_bytes(frame.read_bytes()[:-500])
    else:
        shutil.rmtree(str(tree / 'JPEGImages'))
    assert trained(tree, tmp_path / 'run', '--steps=60') == 1
    assert message in capsys.readouterr().err


def test_checkpoint_of_another_network(run, drawn, tmp_path, capsys):
    common = [f'--data_path={drawn["davis"]}', f'--output_path={tmp_path}/o', '--device=cpu']
    message = fails(capsys, evaluate, *common, f'--checkpoint={run}', '--preset=smoke')
    assert (
        'of another shape (first: ' in message
        and 'expected [3, 3, 3, 16], found [3, 3, 3, 4]' in message
    )
    with tf.Graph().as_default(), tf.Session() as session:
        tf.Variable(1.0, name='other/weights')
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(tmp_path / 'other' / 'model.ckpt'))
    message = fails(capsys, evaluate, *common, f'--checkpoint={tmp_path}/other/model.ckpt')
    assert (
        "variables missing (first: ['osvos/conv1" in message
        and "it holds ['other/weights']" in message
    )
    message = fails(
        capsys,
        train,
        *common,
        '--preset=smoke',
        '--steps=2',
        f'--init_from={tmp_path}/other/model.ckpt',
    )
    assert 'is not of this network' in message
    assert 'no checkpoint at' in fails(
        capsys, evaluate, *common, f'--checkpoint={tmp_path}/nowhere'
    )
    assert 'is needed' in fails(capsys, evaluate, *common)


def test_unknown_sequence_and_empty_first_mask(run, drawn, tree, tmp_path, capsys):
    flags = [f'--checkpoint={run}', '--device=cpu']
    message = fails(
        capsys,
        evaluate,
        *flags,
        f'--data_path={tree}',
        '--sequences=absent',
        f'--output_path={tmp_path}/o',
    )
    assert "no sequence 'absent'" in message and 'drawn-a' in message
    masks.write_mask(
        str(tree / 'Annotations/480p/drawn-x/00000.png'), np.zeros((180, 320), np.uint8)
    )
    message = fails(
        capsys,
        online,
        *flags,
        f'--data_path={tree}',
        '--sequences=drawn-x,drawn-y',
        f'--output_path={tmp_path}/online',
    )
    assert '1 of 2 online trainings failed' in message and 'drawn-x.log' in message
    assert 'no pixel of the object' in (tmp_path / 'online' / 'drawn-x.log').read_text()
    assert online.trained(
        str(tmp_path / 'online' / 'drawn-y'), 3
    )  # the other one was trained all the same


def test_init_from_takes_what_is_there(run, drawn, tmp_path):
    assert (
        trained(
            drawn['davis'],
            tmp_path / 'next',
            '--steps=1',
            f'--init_from={run}',
            '--learning_rate=0',
        )
        == 0
    )
    name = 'osvos/conv1/conv1_1/weights'
    old, new = (tf.train.load_variable(str(f), name) for f in (run, tmp_path / 'next'))
    assert np.array_equal(old, new)


@pytest.mark.parametrize('kind', ['folder', 'video'])
def test_demo(kind, run, drawn, tmp_path):
    frames = os.path.dirname(davis.frames(drawn['davis2017'], 'drawn-x')[0])
    source = frames
    if kind == 'video':
        source = str(tmp_path / 'clip.mp4')
        masks.write_video(source, (image for _, image in masks.read_frames(frames)))
    mask = davis.masks(drawn['davis2017'], 'drawn-x')[0]
    out = tmp_path / 'demo'
    assert (
        demo.main(
            [
                f'--input={source}',
                f'--mask={mask}',
                f'--checkpoint={run}',
                f'--output_path={out}',
                '--device=cpu',
            ]
        )
        == 0
    )
    names = sorted(p.name for p in (out / 'masks').iterdir())
    assert names == [f'{t:05d}.png' for t in range(10)]
    first = masks.read_mask(str(out / 'masks' / names[0]))
    assert first.shape == (180, 320) and set(np.unique(first)) <= {0, 1, 2}
    assert len(list(masks.read_frames(str(out / 'overlay.mp4')))) == 10
    assert masks.read_image(str(out / 'sheet.png')).shape[1] > 0


def test_demo_faults(run, drawn, tmp_path, capsys):
    frames = os.path.dirname(davis.frames(drawn['davis'], 'drawn-x')[0])
    common = [f'--checkpoint={run}', '--device=cpu', f'--output_path={tmp_path}/o']
    masks.write_mask(str(tmp_path / 'small.png'), np.ones((9, 9), np.uint8))
    masks.write_mask(str(tmp_path / 'empty.png'), np.zeros((180, 320), np.uint8))
    assert 'small.png is 9x9, the frames are 320x180' in fails(
        capsys, demo, *common, f'--input={frames}', f'--mask={tmp_path}/small.png'
    )
    assert 'marks no object' in fails(
        capsys, demo, *common, f'--input={frames}', f'--mask={tmp_path}/empty.png'
    )
    assert 'no such file' in fails(
        capsys, demo, *common, f'--input={tmp_path}/no.mp4', f'--mask={tmp_path}/empty.png'
    )


def test_both_stacks_answer_alike(run, drawn):
    """The probabilities of one checkpoint, recorded below by either TensorFlow, agree to 1e-5."""
    other = os.environ.get('OTHER_STACK_PYTHON')
    if not other:
        pytest.skip('OTHER_STACK_PYTHON names no Python of the other stack')
    code = (
        'import sys, numpy as np, tensorflow.compat.v1 as tf\n'
        'from OSVOS import config, model\n'
        'cfg = config.get_config("smoke"); cfg.update(channels=0.07)\n'
        'image = np.random.RandomState(0).uniform(-100, 130, (1, 36, 64, 3)).astype("f")\n'
        'with tf.Graph().as_default(), tf.Session() as s:\n'
        '    out = model.network({"image": tf.constant(image)}, cfg, False)\n'
        '    tf.train.Saver().restore(s, tf.train.latest_checkpoint(sys.argv[1]))\n'
        '    np.savez(sys.argv[2], **s.run(out))\n'
    )
    values = []
    for python in (sys.executable, other):
        path = str(run / f'{len(values)}.npz')
        subprocess.run([python, '-c', code, str(run), path], cwd=str(ROOT), check=True)
        values.append(np.load(path))
    for key in values[0].files:
        np.testing.assert_allclose(values[0][key], values[1][key], atol=1e-5)
