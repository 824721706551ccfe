"""The narrow VGG-16 that OSVOS.narrow makes of a whole one."""

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from easydict import EasyDict

from common import weights
from OSVOS import cli, narrow
from OSVOS.backbone import STAGES, scaled, vgg16

WHOLE, NARROW = EasyDict(channels=0.125), EasyDict(channels=0.0625)


@pytest.fixture(scope='module')
def whole():
    """A VGG-16 of few channels with random weights: {variable: array}."""
    draw, before, arrays = np.random.RandomState(0), 3, {}
    for stage, layer in narrow.layers():
        count = scaled(STAGES[stage - 1][0], WHOLE)
        deviation = np.sqrt(2 / (9 * before)) / (57 if before == 3 else 1)
        kernel = draw.normal(0, deviation, (3, 3, before, count)).astype(np.float32)
        biases = draw.normal(0, 0.1, count).astype(np.float32)
        arrays.update(zip(narrow.names(stage, layer), (kernel, biases)))
        before = count
    return arrays


@pytest.fixture(scope='module')
def images():
    noise = np.random.RandomState(1).normal(0, 60, (3, 48, 64, 3))
    return np.stack([cv2.GaussianBlur(each, (5, 5), 1) for each in noise]).astype(np.float32)


def top_map(arrays, images, cfg):
    """The last map of OSVOS's own VGG-16 with these weights."""
    with tf.Graph().as_default(), tf.Session() as session:
        with tf.variable_scope('osvos'):
            top = vgg16(tf.constant(images), EasyDict(cfg, device='cpu'))[-1]
        for variable in tf.global_variables():
            variable.load(arrays[variable.op.name], session)
        return session.run(top)


def test_a_network_of_the_same_width_stays_what_it_is(whole, images, monkeypatch):
    monkeypatch.setattr(narrow, 'RIDGE', 1e-9)
    arrays, explained = narrow.narrow(whole, images, WHOLE, seed=0)
    assert min(explained) > 0.999
    expected = top_map(whole, images, WHOLE)
    error = np.abs(top_map(arrays, images, WHOLE) - expected).max()
    assert error < 0.01 * expected.max()


def test_the_narrow_network_explains_more_than_sliced_kernels(whole, images):
    arrays, explained = narrow.narrow(whole, images, NARROW, seed=0)
    assert min(explained) > 0.3 and max(explained) <= 1
    top = top_map(arrays, images, NARROW)  # its shapes are the network's
    assert np.isfinite(top).all() and top.std() > 0
    again, _ = narrow.narrow(whole, images, NARROW, seed=0)
    assert all(np.array_equal(arrays[name], again[name]) for name in arrays)
    stage, layer = 2, 1  # the first layer whose inputs are fewer
    kernel, biases = (whole[name] for name in narrow.names(stage, layer))
    first = narrow.names(1, 2)
    inputs = np.maximum(narrow._convolved(images, *(whole[n] for n in narrow.names(1, 1))), 0)
    inputs = narrow._pooled(np.maximum(narrow._convolved(inputs, *(whole[n] for n in first)), 0))
    answers = narrow._convolved(inputs, kernel, biases)
    kept = arrays[narrow.names(stage, layer)[0]].shape[-1]
    cut = narrow._convolved(inputs[..., :4], kernel[:, :, :4], biases)
    best = np.sort(1 - ((answers - cut) ** 2).sum((0, 1, 2)) / answers.var((0, 1, 2)))[-kept:]
    assert explained[2] > best.mean()


def test_program(whole, images, tmp_path, fails, capsys):
    source = cli.write_checkpoint(whole, str(tmp_path / 'vgg' / 'model.ckpt'), None, 'test')
    for i, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f'{i}.jpg'), np.clip(image + 120, 0, 255).astype(np.uint8))
    output = tmp_path / 'narrow' / 'model.ckpt'
    flags = [f'--checkpoint={source}', f'--output={output}', '--set=channels=0.0625', '--count=3']
    flags += ['--set=height=48', '--set=width=64']
    assert narrow.main([*flags, f'--images={tmp_path}']) == 0
    assert 'conv5_3: ' in capsys.readouterr().out
    found = weights.read_checkpoint(str(output))
    assert found['osvos/conv5/conv5_3/weights'].shape == (3, 3, 32, 32)
    message = fails(narrow, *flags[:-2], '--count=4', f'--images={tmp_path}')
    assert f'3 .jpg files below {tmp_path}, expected at least 4' in message
    message = fails(narrow, *flags, '--images=x', '--checkpoint=nowhere')
    assert 'no checkpoint at' in message
