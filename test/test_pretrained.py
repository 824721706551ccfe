"""Weights that come along: packed and unpacked, taken by name or by default, and each of those in
the project gives its recorded score on frames that the project draws."""

import argparse
import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import train_small
from conftest import ROOT

from common import masks, weights
from OSVOS import cli, config, export, inference, model, pretrained, train

MODELS = ('OSMN', 'OSVOS', 'SiamMask', 'ColorNet', 'MANet')
TOLD = {
    'trained_on': ['frames of a test'],
    'license': 'for tests',
    'commands': ['none'],
    'minutes': 1,
    'scores': {},
}
SETTINGS = ['height=32', 'width=48', 'channels=0.05']


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run's folder: a tiny OSVOS with random weights, and an optimizer's variable."""
    cfg = config.get_config('smoke')
    cfg.update(height=32, width=48, channels=0.05)
    with tf.Graph().as_default(), tf.Session() as session:
        model.network({'image': tf.zeros([1, 32, 48, 3])}, cfg, training=False)
        session.run(tf.global_variables_initializer())
        arrays = {v.op.name: v.eval(session) for v in tf.global_variables()}
    arrays['osvos/conv1/conv1_1/weights/Adam'] = arrays['osvos/conv1/conv1_1/weights']
    prefix = str(tmp_path_factory.mktemp('run') / 'model.ckpt')
    cli.write_checkpoint(arrays, prefix, dict(cfg, trained_on=['drawn data']), 'test')
    return prefix


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """OSVOS/pretrained of this test alone."""
    monkeypatch.setattr(pretrained, 'FOLDER', str(tmp_path / 'pretrained'))
    return tmp_path / 'pretrained'


def test_packed_weights_are_the_same_bytes_and_half_the_size(run, folder):
    path = pretrained.pack(run, 'small', TOLD)
    first = (folder / 'small.npz').read_bytes()
    assert pretrained.pack(run, 'small', TOLD) == path
    assert (folder / 'small.npz').read_bytes() == first
    found, expected = weights.read_npz(path), weights.read_checkpoint(run)
    names = {name for name in expected if name.startswith('osvos/') and 'Adam' not in name}
    assert set(found) == names
    for name, array in found.items():
        assert array.dtype == np.float16
        assert np.allclose(array, expected[name], rtol=1e-3, atol=1e-6)
    told = json.loads((folder / 'small.json').read_text())
    assert told['settings']['channels'] == 0.05 and told['updates'] == 0
    assert told['settings']['trained_on'] == ['frames of a test'] and told['license'] == 'for tests'


def test_a_number_too_large_for_float16_keeps_its_type():
    assert pretrained._halved(np.array([1.0, 7e4], np.float32)).dtype == np.float32
    assert pretrained._halved(np.array([1.0, 5e4], np.float32)).dtype == np.float16


def test_fewer_bits_take_less_space(run, folder):
    """Each number stays within half a step of its mantissa."""
    values = np.array([1.0, -1.03, 3.99, 1e-3, 0], np.float32)
    rounded = pretrained._halved(values, 4).astype(np.float32)
    assert np.allclose(rounded, values, rtol=2**-5, atol=0)
    assert rounded[1] == -1 and rounded[2] == 4
    whole = Path(pretrained.pack(run, 'small', TOLD)).stat().st_size
    assert Path(pretrained.pack(run, 'small', TOLD, 4)).stat().st_size < 0.8 * whole


def test_what_is_not_told_or_not_known_is_refused(run, folder, tmp_path):
    with pytest.raises(ValueError, match='does not tell license'):
        pretrained.pack(run, 'small', {k: v for k, v in TOLD.items() if k != 'license'})
    for path in (tmp_path / 'bare.index', tmp_path / 'bare.data-00000-of-00001'):
        shutil.copy(run + path.name[len('bare') :], path)
    with pytest.raises(ValueError, match='no config.json beside'):
        pretrained.pack(str(tmp_path / 'bare'), 'small', TOLD)
    assert not folder.exists()


def test_unpacked_once_and_again_when_the_weights_change(run, folder):
    pretrained.pack(run, 'small', TOLD)
    prefix = pretrained.resolve('small')
    assert weights.checkpoint_prefix(prefix) == prefix
    before = sorted(path.name for path in folder.iterdir())
    assert pretrained.resolve('small') == prefix
    assert sorted(path.name for path in folder.iterdir()) == before
    arrays = weights.read_checkpoint(prefix)
    arrays.pop('global_step')
    arrays['osvos/upscore-fuse/biases'] = np.ones(1, np.float32)
    other = cli.write_checkpoint(arrays, str(folder / 'o' / 'm.ckpt'), cli.saved_settings(run), 't')
    pretrained.pack(other, 'small', TOLD)
    newer = pretrained.resolve('small')
    assert newer != prefix
    pretrained.pack(other, 'small', {**TOLD, 'license': 'another'})
    assert pretrained.resolve('small') not in (prefix, newer)
    assert weights.read_checkpoint(newer)['osvos/upscore-fuse/biases'] == 1


def test_a_folder_of_that_name_goes_before_the_weights(run, folder, tmp_path, monkeypatch):
    pretrained.pack(run, 'small', TOLD)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'small').mkdir()
    assert pretrained.resolve('small') == 'small'
    assert pretrained.resolve('other') == 'other' and pretrained.resolve(None) is None


def test_programs_take_them_by_default_and_say_so(run, folder, tmp_path, capsys):
    pretrained.pack(run, 'small', TOLD)
    assert export.main([f'--output_path={tmp_path}/exported']) == 0
    out = capsys.readouterr().out
    assert 'no --checkpoint: the weights that come along, --checkpoint=small' in out
    assert 'small: for tests' in out  # the licence
    assert (tmp_path / 'exported' / 'OSVOS.pb').is_file()
    args = argparse.Namespace(checkpoint='small')
    pretrained.choose(args)
    cfg = cli.configure(argparse.Namespace(preset=None, device='cpu', set=[]), config.get_config,
                        args.checkpoint)  # fmt: skip
    assert cfg.channels == 0.05
    cli.say_weights(cfg, args.checkpoint)
    assert 'trained on frames of a test' in capsys.readouterr().out
    with inference.load(args.checkpoint, cfg) as network:
        assert network(np.zeros((32, 48, 3), np.uint8)).shape == (32, 48)


def test_weights_of_another_network_are_refused(run, folder, fails, tmp_path):
    pretrained.pack(run, 'small', TOLD)
    message = fails(export, '--set=channels=0.1', f'--output_path={tmp_path}/exported')
    assert 'is not of this network' in message


def test_training_starts_from_them(run, folder, tmp_path, drawn, capsys):
    pretrained.pack(run, 'small', TOLD)
    flags = [f'--data_path={drawn["davis"]}', '--init_from=small', '--steps=1', '--batch_size=1']
    flags += [f'--set={text}' for text in SETTINGS]
    assert train.main([*flags, f'--output_path={tmp_path}/run']) == 0
    assert '44 of 44 variables from' in capsys.readouterr().out
    saved = cli.saved_settings(f'{tmp_path}/run')
    assert saved['trained_on'] == ['frames of a test', 'drawn data']


def test_nothing_to_take_is_told(folder, fails):
    assert '--checkpoint is needed: folder or prefix' in fails(export)


@pytest.mark.parametrize('name', MODELS)
def test_what_comes_along_is_small_and_says_what_it_is(name):
    folder = ROOT / name / 'pretrained'
    module = importlib.import_module(f'{name}.pretrained')
    assert module.names() == ['small']
    assert (folder / 'small.npz').stat().st_size <= 4e6
    told = module.facts('small')
    for key in (*module.FACTS, 'updates', 'commit', 'settings'):
        assert told[key], key
    assert told['settings']['name'] == name and told['settings']['preset'].startswith('small')
    assert 'CC BY-NC 4.0' in told['license']


@pytest.mark.parametrize('name', MODELS)
def test_what_comes_along_gives_its_recorded_score(name, drawn, tmp_path):
    recorded = importlib.import_module(f'{name}.pretrained').facts('small')['scores']['drawn']
    found = train_small.drawn_score(name, drawn['davis'], str(tmp_path / 'results'))
    assert found == pytest.approx(recorded, abs=0.01)


@pytest.mark.parametrize('name', ['OSVOS', 'OSMN', 'ColorNet'])
def test_demo_of_a_clip_and_a_box_needs_nothing_else(name, drawn, tmp_path):
    """Three drawn frames; the box is the outline of the first mask."""
    source = Path(drawn['davis'])
    frames = sorted((source / 'JPEGImages/480p/drawn-x').glob('*.jpg'))[:3]
    (tmp_path / 'clip').mkdir()
    for frame in frames:
        shutil.copy(frame, tmp_path / 'clip')
    truth = masks.read_mask(str(source / 'Annotations/480p/drawn-x/00000.png')) > 0
    rows, columns = np.nonzero(truth)
    box = [columns.min() - 4, rows.min() - 4, np.ptp(columns) + 9, np.ptp(rows) + 9]
    flags = [f'--input={tmp_path}/clip', f'--output_path={tmp_path}/demo', '--device=cpu']
    flags += ['--box=' + ','.join(map(str, box)), *(['--online_steps=1'] * (name == 'OSVOS'))]
    assert importlib.import_module(f'{name}.demo').main(flags) == 0
    written = sorted((tmp_path / 'demo' / 'masks').glob('*.png'))
    assert [path.stem for path in written] == [path.stem for path in frames]
    if name != 'OSVOS':  # which segments the first frame too, here by an untrained network
        first = masks.read_mask(str(written[0])) > 0
        assert (first & truth).sum() / (first | truth).sum() > 0.8
