"""Equal weights through the official OSMN code and through ours: scales, logits of the four
networks, roll-out, loss, gradients, samples.

Needs the official code and, to run it, a Python with TensorFlow 1.15, which may be another one:

    OSMN_OFFICIAL=video_seg OSMN_PYTHON=tf115/bin/python python -m pytest test/test_osmn_parity.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from OSMN import backbone, config, convert, inference, model, train
from OSMN.losses import losses

RECORD = Path(__file__).resolve().parent / 'recorded' / 'osmn_official.py'


@pytest.fixture(scope='module')
def official(tmp_path_factory):
    checkout = os.environ.get('OSMN_OFFICIAL')
    if not checkout:
        pytest.skip('OSMN_OFFICIAL names no checkout of linjieyangsc/video_seg')
    if os.path.isfile(os.path.join(checkout, 'official.npz')):  # recorded before
        return Path(checkout)
    folder = tmp_path_factory.mktemp('official')
    python = os.environ.get('OSMN_PYTHON', sys.executable)
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    command = [python, '-W', 'ignore', str(RECORD)]
    subprocess.run(
        command + [f'--official={checkout}', f'--output={folder}'], check=True, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return folder


@pytest.fixture(scope='module')
def recorder():
    sys.path.insert(0, str(RECORD.parent))
    import osmn_official

    return osmn_official


@pytest.fixture(scope='module')
def converted(official, tmp_path_factory):
    """{variant: checkpoint} through convert."""
    folder = tmp_path_factory.mktemp('converted')
    found = {}
    for variant in ('osvos', 'lite', 'deeplab', 'masktrack', 'roll'):
        prefix = folder / variant / 'model.ckpt'
        flags = [f'--source={official}/{variant}.ckpt', f'--output={prefix}']
        base = 'osvos' if variant == 'roll' else variant
        assert convert.main(flags + [f'--set=base_model={base}']) == 0
        found[variant] = str(prefix)
    return found


@pytest.mark.parametrize(
    'variant, tag',
    [
        ('osvos', 'small'), ('osvos', 'wide'), ('osvos', 'full'), ('lite', 'small'),
        ('lite', 'wide'), ('deeplab', 'small'), ('masktrack', 'small'),
    ],
)  # fmt: skip
def test_logits_equal_the_official_ones(official, converted, recorder, variant, tag):
    data = np.load(official / 'official.npz')
    theirs = data[f'{variant}/{tag}/logits']
    guide, heat, image, _ = recorder.inputs(*theirs.shape[1:3], 1)
    cfg = config.get_config('full')
    cfg.update(base_model=variant, device='cpu')
    with tf.Graph().as_default(), tf.Session() as session:
        inputs = {'guide': guide, 'heat': heat, 'image': image}
        outputs = model.network({k: tf.constant(v) for k, v in inputs.items()}, cfg, False)
        tf.train.Saver(tf.global_variables()).restore(session, converted[variant])
        logits, scales = session.run([outputs['logits'], outputs['scales']])
    assert theirs.std() > 0.1
    difference = (
        np.abs(logits - theirs).max(),
        np.abs(scales - data[f'{variant}/{tag}/scales']).max(),
    )
    print(f'{variant} {tag}: std {theirs.std():.3f}, max difference of logits, scales {difference}')
    assert max(difference) < 1e-4


def test_roll_out_equals_the_official_one(official, converted):
    data = np.load(official / 'official.npz')
    cfg = config.get_config('full')
    cfg.update(device='cpu', test_height=96, test_width=128)
    frames = [np.ascontiguousarray(image[..., ::-1]) for image in data['roll/images']]
    with inference.load(converted['roll'], cfg) as network:
        steps = list(inference.roll_out(network, cfg, frames, {0: data['roll/mask']}))
    maps = np.stack([found[1] for _, found in steps[1:]])
    shares = (maps > 0.5).mean((1, 2))
    difference = np.abs(maps - data['roll/maps']).max()
    print(f'roll-out: object covers {shares}, max difference {difference:.2e}')
    assert ((shares > 0.01) & (shares < 0.99)).all() and difference < 1e-4


def test_loss_gradients_and_statistics_equal_the_official_ones(official, converted, recorder):
    data = np.load(official / 'official.npz')
    guide, heat, image, mask = recorder.inputs(96, 128, 2)
    cfg = config.get_config('full')
    cfg.update(device='cpu', dropout=0.0, loss_pixels=1, weight_decay=2e-4)
    names = [n[len('train/gradient/') :] for n in data.files if n.startswith('train/gradient/')]
    moving = [n[len('train/after/') :] for n in data.files if n.startswith('train/after/')]
    with tf.Graph().as_default(), tf.Session() as session:
        inputs = {'guide': guide, 'heat': heat, 'image': image}
        outputs = model.network({k: tf.constant(v) for k, v in inputs.items()}, cfg, True)
        loss = losses(outputs, {'mask': tf.constant(mask)}, cfg)['total']
        variables = {v.op.name: v for v in tf.global_variables()}
        pairs = [
            (g, variables[n])
            for g, n in zip(tf.gradients(loss, [variables[n] for n in names]), names)
        ]
        kernels = [v for n, v in variables.items() if n.endswith('/weights')]
        decay = cfg.weight_decay * tf.add_n([tf.nn.l2_loss(v) for v in kernels])
        tf.train.Saver(list(variables.values())).restore(session, converted['osvos'])
        gradients = [g for g, _ in train.decayed_gradients(pairs, cfg)]
        value, l2, found = session.run([loss, decay, gradients])
        session.run([tf.assign(*pair) for pair in backbone.moving_statistics()])
        after = session.run([variables[n] for n in moving])
    fixed = 2e-4 / 2 * sum(16 * (recorder_up(k) ** 2).sum() for k in (4, 8, 16, 32))
    np.testing.assert_allclose(value, data['train/loss'], rtol=1e-6)
    np.testing.assert_allclose(l2 + fixed, data['train/decay'], rtol=2e-6)
    for name, mine in zip(names, found):
        theirs = data[f'train/gradient/{name}']
        worst = np.abs(mine - theirs).max() / np.abs(theirs).max()
        print(f'{name}: {worst:.1e} of the largest gradient')
        assert worst < 1e-4
    for name, mine in zip(moving, after):
        np.testing.assert_allclose(mine, data[f'train/after/{name}'], rtol=1e-5, atol=1e-7)


def recorder_up(size):
    line = 1 - np.abs(np.arange(size) - (size / 2 - 0.5)) / (size / 2)
    return np.outer(line, line)
