"""Trains ColorNet on unlabelled clips: colours of a frame rebuilt from others, agreement of two
views, and dense unsupervised learning (trainColorNetDUL_benchmark.py of the official code).

    python -m ColorNet.train --data_path=DATA --output_path=run
    python -m ColorNet.train --train_config=ColorNet/config/train_config_default_M.json --exp=0001

Presets: full (model M, both branches), dul (dense-ulearn-vos), performance, smoke (narrow S, the
default on CPU). --train_config: a JSON of the original; --exp NAME: checkpoints in snapshots/NAME;
--coco: single pictures of COCO. A killed run goes on from its last checkpoint when given again.
"""

from __future__ import annotations

import json
import math
import os
import sys

import tensorflow.compat.v1 as tf
from easydict import EasyDict

from . import cli, data, model, npu
from .backbone import moving_updates
from .config import checked, from_json, get_config
from .losses import losses

EPOCHS, FLOOR = 300, 260  # of the schedule; epoch from which the rate stays (PT)
HALVED = (100, 200, 300, 400)  # epochs from which the rate is halved without is_cos_lr (PT)


def model_fn(features, labels, mode, params):
    """tf.estimator's model function; params are the settings of config.py."""
    cfg = EasyDict(params)
    training = mode == tf.estimator.ModeKeys.TRAIN
    if mode == tf.estimator.ModeKeys.PREDICT:
        return tf.estimator.EstimatorSpec(mode, model.extract(features['image'], cfg))
    scalars = losses(model.network(features, cfg, training), labels, cfg)
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


class AdamW(tf.train.AdamOptimizer):
    """Adam with bias correction before epsilon, as PyTorch has it (TensorFlow's epsilon is
    another), and weight decay: 'adamw' shrinks every variable by rate * decay; 'adam' adds L2 to
    the gradients but of biases, whose rate is double (dense-ulearn-vos)."""

    def __init__(self, rate, cfg):
        """Rate float32 scalar; beta1, beta2, weight_decay, optimizer of the settings."""
        super().__init__(rate, cfg.beta1, cfg.beta2, name='AdamW')
        self.decay, self.decoupled = cfg.weight_decay, cfg.optimizer == 'adamw'

    def _prepare(self):
        super()._prepare()
        power = self._get_beta_accumulators()[1]
        self._epsilon_t = 1e-8 * tf.sqrt(1 - power)

    def _apply_dense(self, gradient, variable):
        return self._decayed(super()._apply_dense, gradient, variable)

    def _resource_apply_dense(self, gradient, variable):
        return self._decayed(super()._resource_apply_dense, gradient, variable)

    def _decayed(self, apply, gradient, variable):
        if self.decoupled:
            shrink = tf.assign_sub(variable, self._lr_t * self.decay * variable)
            with tf.control_dependencies([shrink]):
                return apply(gradient, variable)
        if not variable.op.name.endswith(('/biases', '/beta')):
            return apply(gradient + self.decay * variable, variable)
        rate, self._lr_t = self._lr_t, 2 * self._lr_t
        done = apply(gradient, variable)
        self._lr_t = rate
        return done


def update(loss: tf.Tensor, cfg):
    """One step of the optimizer and of the moving statistics."""
    step = tf.train.get_or_create_global_step()
    rate = learning_rate(step, cfg)
    tf.summary.scalar('learning_rate', rate)
    optimizer = npu.wrap_optimizer(AdamW(rate, cfg), cfg)
    pairs = optimizer.compute_gradients(loss)
    pairs = [(g, v) for g, v in pairs if g is not None]  # what rests is not decayed either
    with tf.control_dependencies(moving_updates(cfg.bn_decay)):  # some passes give statistics alone
        pairs = [(tf.identity(g), v) for g, v in pairs]
    return optimizer.apply_gradients(pairs, step)


def learning_rate(step: tf.Tensor, cfg) -> tf.Tensor:
    """float32 scalar, the rate of update `step` (0 is the first), by epoch 1 .. 300; a training of
    any length passes through all of them (dul: its 500)."""
    count = 500 if cfg.model_size == 'DUL' else EPOCHS
    starts = [-(-cfg.train_steps * k // count) for k in range(count)]
    begun = tf.cast(tf.cast(step, tf.int32) >= tf.constant(starts), tf.float32)
    epoch = tf.reduce_sum(begun)
    if not cfg.is_cos_lr:
        passed = [tf.cast(epoch >= number, tf.float32) for number in HALVED]
        return cfg.learning_rate * tf.pow(0.5, tf.add_n(passed))
    epoch = tf.minimum(epoch, float(FLOOR))
    falling = 0.5 * (1 + tf.cos(math.pi * (epoch - cfg.warmup) / (EPOCHS - cfg.warmup)))
    return cfg.learning_rate * tf.where(epoch < cfg.warmup, epoch / max(cfg.warmup, 1), falling)


def belongs(variable) -> bool:
    """Whether a variable is one of the network, not of the optimizer."""
    return variable.op.name.startswith('colornet/') and 'AdamW' not in variable.op.name


def fill(args, cfg) -> None:
    """Fills what a run needs in its settings: videos, steps, the checkpoint to start from."""
    checked(cfg)
    cfg.data_path = cli.data_root(args, cfg)
    cfg.examples = data.find(cfg.data_path, cfg)
    cfg.train_steps = cfg.train_steps or cfg.train_epochs * data.steps_an_epoch(cfg)
    cfg.init_from = cli.checkpoint_prefix(args.init_from) if args.init_from else ''
    cfg.start_step = 0


def settings(args):
    """The settings of a run; what a --train_config says comes before flags and --set."""
    read = from_json if args.train_config else lambda cfg, path: cfg
    if args.train_config and not args.preset:
        args.preset = 'full' if args.case == 'acc' else 'performance'
    cfg = cli.configure(args, lambda preset: read(get_config(preset), args.train_config))
    cfg.dataset = 'coco' if args.coco else cfg.dataset
    return cfg


def arguments():
    """The program's flags."""
    flags = cli.parser(__doc__)
    cli.add_training_flags(flags)
    flags.add_argument('--train_config', help='a JSON of the original; config/ has three')
    flags.add_argument('--exp', help='name of the run: --output_path=snapshots/NAME')
    flags.add_argument('--coco', action='store_true', help='clips made of single COCO pictures')
    return flags


@cli.program
def main(argv=None):
    """Trains; exit status 0 when the last step is in a checkpoint."""
    args = arguments().parse_args(argv)
    cfg = settings(args)
    if args.check_data:
        print(json.dumps(data.check(cli.data_root(args, cfg), cfg)))
        return
    fill(args, cfg)
    if args.dry_run:
        dry_run(cfg)
        return
    output_path = cli.writable(
        os.path.join('snapshots', args.exp) if args.exp else args.output_path
    )
    cli.resume(cfg, output_path)
    cli.save_settings(cfg, output_path)
    hook = npu.ProgressHook(cfg, npu.loss_path(cfg, args.result_path) if args.result_path else None)
    with data.readers(cfg):
        run = npu.estimator(model_fn, cfg, output_path)
        run.train(lambda: data.input_fn(cfg, True), max_steps=cfg.train_steps, hooks=[hook])
    print(f'trained: {tf.train.latest_checkpoint(output_path)}', flush=True)
    if args.result_path:
        accuracy = None
        if args.case == 'acc':
            from . import evaluate

            accuracy = evaluate.accuracy(cfg, cfg.data_path, output_path, args.result_path)
        npu.write_result(cfg, args.result_path, hook, accuracy)


def dry_run(cfg) -> None:
    """Builds the training graph, reads one batch and prints what a run would use."""
    with tf.Graph().as_default(), tf.Session() as session:
        iterator = tf.data.make_one_shot_iterator(data.input_fn(cfg, True))
        features, labels = iterator.get_next()
        batch = session.run({**features, **labels})
        loss = losses(model.network(features, cfg, True), labels, cfg)['total']
        tf.gradients(loss, tf.trainable_variables())
        count = sum(v.shape.num_elements() for v in tf.trainable_variables())
    print('batch: ' + ', '.join(f'{k} {v.dtype} {list(v.shape)}' for k, v in batch.items()))
    disk = count * 4 * 3 * cfg.keep_checkpoints / 1e6  # weights, two moments
    print(
        f'{len(cfg.examples)} videos or pictures, {count} parameters, {disk:.0f} MB of '
        f'checkpoints, {cfg.train_steps} steps, device {cfg.device}'
    )


if __name__ == '__main__':
    sys.exit(main())
