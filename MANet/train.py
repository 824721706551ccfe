"""Trains MANet: embedding and propagation head (stage 1), then the interaction head on scribbles
that a robot corrects between rounds (stage 2; train_stage1.py, train_stage2.py).

    python -m MANet.train --data_path=DAVIS --output_path=run --init_from=coco/model.ckpt
    python -m MANet.train --data_path=DAVIS --output_path=more --init_from=run --preset=stage2

Presets: full (both stages), stage1, stage2, performance, smoke (both, narrow, from scratch, the
default on CPU). A killed run goes on from its last checkpoint when given again.
"""

from __future__ import annotations

import json
import sys

import tensorflow.compat.v1 as tf
from easydict import EasyDict

from common import davis

from . import cli, data, model, npu, session
from .backbone import moving_updates
from .config import get_config
from .losses import losses

DEEPLAB = ('manet/backbone/', 'manet/aspp/', 'manet/decoder/')  # parameter group 0 (PT)


def model_fn(features, labels, mode, params):
    """tf.estimator's model function; params are the settings of config.py."""
    cfg = EasyDict(params)
    training = mode == tf.estimator.ModeKeys.TRAIN
    step = tf.train.get_or_create_global_step()
    outputs = model.network(features, cfg, training)
    if mode == tf.estimator.ModeKeys.PREDICT:
        return tf.estimator.EstimatorSpec(mode, outputs)
    scalars = losses(outputs, dict(labels, step=step - span(cfg)[0]), cfg)
    if not training:
        metrics = {k: tf.metrics.mean(v) for k, v in scalars.items() if k != 'total'}
        return tf.estimator.EstimatorSpec(mode, loss=scalars['total'], eval_metric_ops=metrics)
    for key, value in scalars.items():
        tf.summary.scalar(f'loss/{key}', value)
    model.every_variable(cfg)  # both stages have the same checkpoint
    train_op = update(scalars['total'], cfg)
    if cfg.get('init_from'):
        variables = [v for v in tf.global_variables() if belongs(v)]
        found = cli.match_variables(cfg.init_from, variables, partial=True)
        tf.train.init_from_checkpoint(cfg.init_from, {v.op.name: v for v in found})
    loss = tf.identity(scalars['total'], 'train_loss')
    return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train_op)


class SGD(tf.train.MomentumOptimizer):
    """Momentum SGD with a rate a parameter group: DeepLab's falls, the others' stays (as in the
    official code, cfg.group0_only) or falls too."""

    def __init__(self, falling, cfg):
        """`falling` float32 scalar; learning_rate, momentum, nesterov, group0_only of settings."""
        super().__init__(falling, cfg.momentum, use_nesterov=cfg.nesterov and cfg.stage == 1)
        self.still = cfg.learning_rate if cfg.group0_only and cfg.stage == 1 else None

    def _apply_dense(self, gradient, variable):
        return self._rated(super()._apply_dense, gradient, variable)

    def _resource_apply_dense(self, gradient, variable):
        return self._rated(super()._resource_apply_dense, gradient, variable)

    def _create_slots(self, var_list):
        super()._create_slots(tf.trainable_variables())  # both stages have the same checkpoint

    def _rated(self, apply, gradient, variable):
        falling = self._learning_rate_tensor
        if self.still is not None and not variable.op.name.startswith(DEEPLAB):
            self._learning_rate_tensor = tf.constant(self.still, tf.float32)
        done = apply(gradient, variable)
        self._learning_rate_tensor = falling
        return done


def update(loss: tf.Tensor, cfg):
    """One step: gradients clipped by their global norm, then weight decay added."""
    step = tf.train.get_or_create_global_step()
    rate = learning_rate(step, cfg)
    tf.summary.scalar('learning_rate', rate)
    optimizer = npu.wrap_optimizer(SGD(rate, cfg), cfg)
    chosen = [v for v in tf.trainable_variables() if trains(v, cfg)]
    pairs = [(g, v) for g, v in optimizer.compute_gradients(loss, chosen) if g is not None]
    if cfg.clip and cfg.stage == 1:
        norm = tf.sqrt(tf.add_n([tf.reduce_sum(g * g) for g, _ in pairs]))
        tf.summary.scalar('gradient_norm', norm)
        shrink = tf.minimum(1.0, cfg.clip / (norm + 1e-6))  # as PyTorch clips
        pairs = [(g * shrink, v) for g, v in pairs]
    pairs = [(g + cfg.weight_decay * v, v) for g, v in pairs]
    return tf.group(optimizer.apply_gradients(pairs, step), *moving_updates())


def trains(variable, cfg) -> bool:
    """Whether the stage trains a variable: stage 2 the interaction head, stage 1 the rest."""
    return variable.op.name.startswith('manet/inter_seghead/') == (cfg.stage == 2)


def span(cfg) -> tuple[int, int]:
    """First update of the stage cfg.stage and the one after its last."""
    first = min(cfg.stage1_steps, cfg.train_steps)
    return (0, first) if cfg.stage == 1 else (first, cfg.train_steps)


def learning_rate(step: tf.Tensor, cfg) -> tf.Tensor:
    """float32 scalar, the falling rate of update `step` (0 is the first of both stages)."""
    first, end = span(cfg)
    left = 1 - tf.cast(step - first, tf.float32) / (end - first + 1)
    return cfg.learning_rate * tf.pow(tf.maximum(left, 0.0), cfg.power)


def belongs(variable) -> bool:
    """Whether a variable is one of the network, not of the optimizer."""
    return variable.op.name.startswith('manet/') and not variable.op.name.endswith('/Momentum')


def train(cfg, output_path: str, hook) -> str:
    """Trains to cfg.train_steps, from what `output_path` holds; returns the last checkpoint.

    Stage 2 stops after every cfg.cycle updates for the robot's corrections of what it then answers.
    """
    step = cfg.start_step
    while step < cfg.train_steps:
        part = EasyDict(cfg, stage=1 if step < cfg.stage1_steps else 2)
        first, end = span(part)
        if part.stage == 2:
            turn = (step - first) // cfg.cycle
            end = min(end, first + (turn + 1) * cfg.cycle)
            part.annotations = session.annotations(part, output_path, turn)
        part.update(start_step=step, init_from=cfg.init_from if step == 0 else '')
        run = npu.estimator(model_fn, part, output_path)
        run.train(lambda part=part: data.input_fn(part, True), max_steps=end, hooks=[hook])
        step = end
    return tf.train.latest_checkpoint(output_path)


def fill(args, cfg) -> None:
    """Fills what a run needs in its settings: sequences, steps, the checkpoint to start from."""
    cfg.data_path = davis.resolve(cli.data_root(args, cfg), '2017')
    cfg.counts = data.instances(cfg.data_path, 'train')
    cfg.examples = sorted(cfg.counts)
    cfg.objects = max(cfg.objects, *cfg.counts.values())
    if cfg.train_epochs:
        steps = len(cfg.examples) // (cfg.batch_size * npu.rank()[1])
        cfg.train_steps = cfg.train_epochs * max(1, steps)
    cfg.init_from = cli.checkpoint_prefix(args.init_from) if args.init_from else ''
    if cfg.case == 'perf' and cfg.stage1_steps:  # timed: one kind of update
        cfg.train_steps = min(cfg.train_steps, cfg.stage1_steps)
    cfg.start_step = 0
    cfg.stage = 1 if cfg.stage1_steps else 2
    if cfg.stage == 2 and not cfg.init_from and not tf.train.latest_checkpoint(args.output_path):
        raise ValueError('stage 2 starts from a checkpoint of stage 1: --init_from=stage1')


@cli.program
def main(argv=None):
    """Trains; exit status 0 when the last step is in a checkpoint."""
    flags = cli.parser(__doc__)
    cli.add_training_flags(flags)
    args = flags.parse_args(argv)
    cfg = cli.configure(args, get_config)
    if args.check_data:
        print(json.dumps(davis.check(davis.resolve(cli.data_root(args, cfg), '2017'))))
        return
    fill(args, cfg)
    if args.dry_run:
        dry_run(cfg)
        return
    output_path = cli.writable(args.output_path)
    cli.resume(cfg, output_path)
    cli.save_settings(cfg, output_path)
    hook = npu.ProgressHook(cfg, npu.loss_path(cfg, args.result_path) if args.result_path else None)
    with data.readers(cfg):  # once: they are forked, which sessions forbid
        print(f'trained: {train(cfg, output_path, hook)}', flush=True)
    if args.result_path:
        accuracy = None
        if args.case == 'acc':
            from . import evaluate  # evaluate takes what is above

            if cfg.train_steps > cfg.stage1_steps:
                accuracy = evaluate.accuracy(cfg, output_path, args.result_path)
            else:
                print('no TrainAccuracy: the interaction head is trained in stage 2', flush=True)
        npu.write_result(cfg, args.result_path, hook, accuracy)


def dry_run(cfg) -> None:
    """Builds the training graph, reads one batch and prints what a run would use."""
    with tf.Graph().as_default(), tf.Session() as run:
        features, labels = tf.data.make_one_shot_iterator(data.input_fn(cfg, True)).get_next()
        batch = run.run({**features, **labels})
        step = tf.train.get_or_create_global_step()
        outputs = model.network(features, cfg, True)
        loss = losses(outputs, dict(labels, step=step), cfg)['total']
        model.every_variable(cfg)
        tf.gradients(loss, [v for v in tf.trainable_variables() if trains(v, cfg)])
        count = sum(v.shape.num_elements() for v in tf.trainable_variables())
    print('batch: ' + ', '.join(f'{k} {v.dtype} {list(v.shape)}' for k, v in batch.items()))
    disk = count * 4 * 2 * cfg.keep_checkpoints / 1e6  # weights and momentum
    print(
        f'{len(cfg.examples)} sequences, {count} parameters, {disk:.0f} MB of checkpoints, '
        f'{cfg.train_steps} steps, device {cfg.device}'
    )


if __name__ == '__main__':
    sys.exit(main())
