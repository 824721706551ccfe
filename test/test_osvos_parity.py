"""Equal weights through OSVOS-PyTorch and through ours: logits, loss, first update.

Needs the official code and a Python with torch, which may be another one:

    OSVOS_OFFICIAL=OSVOS-PyTorch OSVOS_TORCH_PYTHON=torch/bin/python \\
        python -m pytest test/test_osvos_parity.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from OSVOS import convert, model, optimizer, published
from OSVOS.config import PIXELS, get_config
from OSVOS.losses import losses

RECORD = Path(__file__).resolve().parent / 'recorded' / 'osvos_official.py'


@pytest.fixture(scope='module')
def official(tmp_path_factory):
    checkout = os.environ.get('OSVOS_OFFICIAL')
    if not checkout:
        pytest.skip('OSVOS_OFFICIAL names no checkout of OSVOS-PyTorch')
    folder = tmp_path_factory.mktemp('official')
    python = os.environ.get('OSVOS_TORCH_PYTHON', sys.executable)
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    subprocess.run(
        [python, str(RECORD), f'--official={checkout}', f'--output={folder}'],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    return folder


@pytest.mark.parametrize('kind', ['zip', 'legacy'])
@pytest.mark.parametrize('size', ['odd', 'full'])
def test_logits_equal_the_official_ones(official, tmp_path, kind, size):
    assert convert.main([f'--source={official}/{kind}.pth', f'--output={tmp_path}/model.ckpt']) == 0
    data = np.load(official / 'official.npz')
    with tf.Graph().as_default(), tf.Session() as session:
        outputs = model.network(
            {'image': tf.constant(data[f'{size}/image'].transpose(0, 2, 3, 1))},
            get_config('full'),
            False,
        )
        tf.train.Saver(tf.trainable_variables()).restore(session, f'{tmp_path}/model.ckpt')
        ours = session.run([outputs[key] for key in model.OUTPUTS])
    for i, mine in enumerate(ours):
        theirs = data[f'{size}/{i}'].transpose(0, 2, 3, 1)
        assert theirs.std() > 0.1
        difference = np.abs(mine - theirs).max()
        print(f'{size} {model.OUTPUTS[i]}: std {theirs.std():.3f} max difference {difference:.2e}')
        assert difference < 1e-4


def test_loss_and_first_update_equal_the_official_ones(official, tmp_path):
    convert.main([f'--source={official}/zip.pth', f'--output={tmp_path}/model.ckpt'])
    data = np.load(official / 'official.npz')
    cfg = get_config('paper')
    cfg.update(
        batch_size=1, accumulate=1, side_schedule='linear', side_weight=1.0, train_epochs=240
    )
    with tf.Graph().as_default(), tf.Session() as session:
        features = {'image': tf.constant(data['odd/image'].transpose(0, 2, 3, 1))}
        labels = {'mask': tf.constant(data['odd/mask'].transpose(0, 2, 3, 1))}
        step = tf.train.create_global_step()
        updater = optimizer.make_optimizer(step, cfg)
        scalars = losses(model.network(features, cfg, True), labels, cfg)
        _, gradients = optimizer.averaged_gradients(updater, features, labels, cfg)
        train_op = updater.apply_gradients(optimizer.scaled_gradients(gradients, cfg), step)
        session.run(tf.global_variables_initializer())
        tf.train.Saver(tf.trainable_variables()).restore(session, f'{tmp_path}/model.ckpt')
        before = {
            v.op.name: a
            for v, a in zip(tf.trainable_variables(), session.run(tf.trainable_variables()))
        }
        values = session.run([scalars[key] for key in model.OUTPUTS])
        session.run(train_op)
        after = {
            v.op.name: a
            for v, a in zip(tf.trainable_variables(), session.run(tf.trainable_variables()))
        }
    np.testing.assert_allclose(np.array(values) * PIXELS, data['losses'], rtol=2e-6)
    worst = 0.0
    for source, ours in published.names('pytorch').items():
        if ours not in after:
            continue
        theirs = data[f'updated/{source}']
        theirs = theirs.transpose(2, 3, 1, 0) if theirs.ndim == 4 else theirs
        moved = np.abs(theirs - before[ours]).max()
        ulp = np.spacing(np.abs(theirs).max())
        difference = np.abs(after[ours] - theirs).max()
        worst = max(worst, difference / max(moved, ulp))
        assert difference <= 1e-4 * moved + 2 * ulp, (ours, difference, moved)
    print(f'worst difference of an update, as a share of the update: {worst:.1e}')
