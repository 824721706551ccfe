"""Trains SiamMask on pairs of crops: the base network, then the refine module (SiamMask sections
3.4 and 4.1).

    python -m SiamMask.train --data_path=DATA --output_path=base --init_from=resnet/model.ckpt
    python -m SiamMask.train --data_path=DATA --output_path=sharp --init_from=base --preset=sharp

Presets: full (the base stage), sharp, performance, smoke and smoke_sharp (narrow, from scratch, the
default on CPU). DATA has what prepare wrote, or the data sets themselves, which are then cut first,
beside the checkpoints. A killed run goes on from its last checkpoint when given again.
"""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import tensorflow.compat.v1 as tf
from easydict import EasyDict

from . import cli, data, model, npu, prepare
from .backbone import moving_updates
from .config import from_json, get_config
from .losses import losses

EPOCHS = 20  # of the schedule; a training of any length passes through all of them (PT --epochs)
BATCH = 64  # pairs a step that the rates are for (PT -b 64)


def model_fn(features, labels, mode, params):
    """tf.estimator's model function; params are the settings of config.py."""
    cfg = EasyDict(params)
    training = mode == tf.estimator.ModeKeys.TRAIN
    outputs = model.network(features, cfg, training)
    if mode == tf.estimator.ModeKeys.PREDICT:
        return tf.estimator.EstimatorSpec(mode, outputs)
    scalars = losses(outputs, labels, cfg)
    if not training:
        metrics = {k: tf.metrics.mean(v) for k, v in scalars.items() if k != 'total'}
        return tf.estimator.EstimatorSpec(mode, loss=scalars['total'], eval_metric_ops=metrics)
    for key, value in scalars.items():
        tf.summary.scalar(f'loss/{key}', value)
    train_op = update(scalars['total'], cfg)
    if cfg.get('init_from'):
        variables = [v for v in tf.global_variables() if belongs(v)]
        found = cli.match_variables(cfg.init_from, variables, partial=True)
        tf.train.init_from_checkpoint(cfg.init_from, {v.op.name: v for v in found})
    loss = tf.identity(scalars['total'], 'train_loss')
    return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train_op)


def update(loss: tf.Tensor, cfg):
    """One step of SGD: gradients clipped by their global norm, weight decay added, the backbone's
    scaled; left out where the loss is not finite or above cfg.highest_loss: zero gradients, rate 0
    and momentum 1 change nothing and need no condition. The NPU has its loss scale for that.
    """
    step = tf.train.get_or_create_global_step()
    chosen, setting = trained_variables(cfg), {}
    optimizer = tf.train.MomentumOptimizer(lambda: setting['rate'], lambda: setting['momentum'])
    optimizer = npu.wrap_optimizer(optimizer, cfg)
    pairs = optimizer.compute_gradients(loss, chosen)
    pairs = [(g, v) for g, v in pairs if g is not None]
    norm = tf.sqrt(tf.add_n([tf.reduce_sum(g * g) for g, _ in pairs]))
    shrink = tf.minimum(1.0, cfg.clip / (norm + 1e-6))  # as PyTorch clips
    gradients = [shrink * g for g, _ in pairs]
    rate, momentum = learning_rate(step, cfg), momentum_factor(step, cfg)
    if cfg.get('device', 'cpu') == 'cpu':
        good = tf.is_finite(loss) & tf.is_finite(norm) & (loss < cfg.highest_loss)
        gradients = [tf.where(good, g, tf.zeros_like(g)) for g in gradients]
        decay = tf.where(good, cfg.weight_decay, 0.0)
        rate, momentum = tf.where(good, rate, 0.0), tf.where(good, momentum, 1.0)
    else:
        decay = cfg.weight_decay
    setting.update(rate=rate, momentum=momentum)
    tf.summary.scalar('learning_rate', rate)
    tf.summary.scalar('gradient_norm', norm)
    changes = [(factor(v, cfg) * (g + decay * v), v) for g, (_, v) in zip(gradients, pairs)]
    names = {v.op.name for _, v in changes}
    resting = [v for v in tf.trainable_variables() if v.op.name not in names]
    changes += [(tf.zeros_like(v), v) for v in resting]  # both stages then have the same checkpoint
    return tf.group(optimizer.apply_gradients(changes, step), *moving_updates())


def trained_variables(cfg) -> list:
    """What a stage trains: sharp the refine module and the mask branch's correlation; base all but
    the backbone, then layer2 and layer3 too; from scratch everything."""
    if cfg.variant == 'sharp':
        parts = ('refine/', 'mask/kernel/', 'mask/search/')
    else:
        parts = ('neck/', 'cls/', 'loc/', 'mask/')
        parts += ('features/',) if cfg.scratch else ()
        parts += ('features/layer2/', 'features/layer3/') if cfg.get('thawed') else ()
    starts = tuple(f'siammask/{part}' for part in parts)
    return [v for v in tf.trainable_variables() if v.op.name.startswith(starts)]


def factor(variable, cfg) -> float:
    """Of a variable's rate; with momentum SGD a factor of its gradient is the same."""
    slow = variable.op.name.startswith('siammask/features/') and not cfg.scratch
    return cfg.backbone_rate if slow else 1.0


def learning_rates(cfg) -> np.ndarray:
    """float32 [20], the rate of each epoch, log-spaced; scaled with the pairs of all cards."""
    warm = cfg.warmup_epochs
    ratio = cfg.learning_rate / cfg.warmup_rate
    rising = cfg.warmup_rate * ratio ** (np.arange(warm) / max(1, warm))
    falling = np.geomspace(cfg.learning_rate, cfg.end_learning_rate, EPOCHS - warm)
    rates = np.concatenate([rising, falling]) * cfg.batch_size * npu.rank()[1] / BATCH
    return rates.astype(np.float32)


def epoch(step: tf.Tensor, cfg) -> tf.Tensor:
    """int32 scalar, epoch 0 .. 19 of update `step`."""
    step = tf.cast(step, tf.int32)
    ends = [-(-cfg.train_steps * (k + 1) // EPOCHS) for k in range(EPOCHS - 1)]
    return tf.reduce_sum(tf.cast(step >= tf.constant(ends), tf.int32))


def learning_rate(step: tf.Tensor, cfg) -> tf.Tensor:
    """float32 scalar, the rate of update `step` (0 is the first)."""
    return tf.gather(tf.constant(learning_rates(cfg)), epoch(step, cfg))


def momentum_factor(step: tf.Tensor, cfg) -> tf.Tensor:
    """float32 scalar: 0 where the original makes its optimizer anew, which forgets the momentum."""
    restarts = [thaw_step(cfg)]
    if cfg.variant == 'sharp':
        restarts = [-(-cfg.train_steps * k // EPOCHS) for k in range(1, EPOCHS)]
    anew = tf.reduce_any(tf.equal(tf.cast(step, tf.int32), tf.constant(restarts)))
    return tf.where(anew, 0.0, cfg.momentum)


def thaw_step(cfg) -> int:
    """Update from which layer2 and layer3 train (-1: never), a multiple of iterations_per_loop."""
    if cfg.variant == 'sharp' or cfg.scratch or cfg.unfreeze >= 1:
        return -1
    return int(cfg.train_steps * cfg.unfreeze) // cfg.iterations_per_loop * cfg.iterations_per_loop


def belongs(variable) -> bool:
    """Whether a variable is one of the network, not of the optimizer."""
    return variable.op.name.startswith('siammask/') and not variable.op.name.endswith('/Momentum')


def train(cfg, output_path: str, hook=None) -> str:
    """Trains to cfg.train_steps, from what `output_path` holds; returns the last checkpoint."""
    hook, thaw = hook or npu.ProgressHook(cfg), thaw_step(cfg)
    for end in [thaw] * (cfg.start_step < thaw) + [cfg.train_steps]:
        stage = EasyDict({**cfg, 'thawed': thaw >= 0 and end > thaw})
        stage.start_step = max(cfg.start_step, thaw) if stage.thawed else cfg.start_step
        stage.init_from = cfg.init_from if stage.start_step == 0 else ''
        run = npu.estimator(model_fn, stage, output_path)
        run.train(lambda stage=stage: data.input_fn(stage, True), max_steps=end, hooks=[hook])
    return tf.train.latest_checkpoint(output_path)


def fill(args, cfg) -> None:
    """Fills what a run needs in its settings: crops, steps, the checkpoint to start from."""
    cfg.data_path = cli.data_root(args, cfg)
    folder = os.path.abspath(args.output_path) + '_crops'
    cfg.crops = prepare.find(cfg.data_path, cfg, None if args.dry_run else folder)
    steps_an_epoch = max(1, cfg.pairs // (cfg.batch_size * npu.rank()[1]))
    cfg.train_steps = cfg.train_steps or cfg.train_epochs * steps_an_epoch
    cfg.init_from = cli.checkpoint_prefix(args.init_from) if args.init_from else ''
    cfg.start_step = 0


@cli.program
def main(argv=None):
    """Trains; exit status 0 when the last step is in a checkpoint."""
    flags = cli.parser(__doc__)
    cli.add_training_flags(flags)
    flags.add_argument('--config', help='a config.json of the original, such as config/config.json')
    args = flags.parse_args(argv)
    read = from_json if args.config else lambda cfg, path: cfg
    cfg = cli.configure(args, lambda preset: read(get_config(preset), args.config))
    if args.check_data:
        print(json.dumps(prepare.check(cli.data_root(args, cfg), cfg)))
        return
    fill(args, cfg)
    if args.dry_run:
        dry_run(cfg)
        return
    output_path = cli.writable(args.output_path)
    cli.resume(cfg, output_path)
    cli.save_settings(cfg, output_path)
    hook = npu.ProgressHook(cfg, npu.loss_path(cfg, args.result_path) if args.result_path else None)
    with data.readers(cfg):
        print(f'trained: {train(cfg, output_path, hook)}', flush=True)
    if args.result_path:
        accuracy = None
        if args.case == 'acc':
            from . import evaluate  # evaluate takes what is above

            accuracy = evaluate.accuracy(cfg, output_path, args.result_path)
        npu.write_result(cfg, args.result_path, hook, accuracy)


def dry_run(cfg) -> None:
    """Builds the training graph, reads one batch and prints what a run would use."""
    with tf.Graph().as_default(), tf.Session() as session:
        iterator = tf.data.make_one_shot_iterator(data.input_fn(cfg, True))
        features, labels = iterator.get_next()
        batch = session.run({**features, **labels})
        tf.gradients(
            losses(model.network(features, cfg, True), labels, cfg)['total'], trained_variables(cfg)
        )
        count = sum(v.shape.num_elements() for v in tf.trainable_variables())
    print('batch: ' + ', '.join(f'{k} {v.dtype} {list(v.shape)}' for k, v in batch.items()))
    disk = count * 4 * 2 * cfg.keep_checkpoints / 1e6  # weights and momentum
    print(
        f'{count} parameters, {disk:.0f} MB of checkpoints, {cfg.train_steps} steps, '
        f'device {cfg.device}'
    )


if __name__ == '__main__':
    sys.exit(main())
