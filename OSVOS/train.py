"""Trains the OSVOS parent network on a DAVIS tree (OSVOS sections 3.2 and 4.1).

    python -m OSVOS.train --data_path=DAVIS --output_path=run --init_from=vgg/model.ckpt

Presets: full (the seed's Adam recipe), paper (the official SGD recipe), performance, smoke (narrow
and small, the default on CPU). A killed run goes on from its last checkpoint when the command is
given again.
"""

from __future__ import annotations

import json
import os
import sys

import tensorflow.compat.v1 as tf
from easydict import EasyDict

from common import davis

from . import cli, data, model, npu
from .config import get_config
from .losses import losses, stage_value

MULTIPLIERS = (('score-dsn', 0.1), ('upscore-fuse', 0.01))  # of the rate, SGD (OSVOS-TensorFlow)


def model_fn(features, labels, mode, params):
    """tf.estimator's model function; params are the settings of config.py."""
    cfg = EasyDict(params)
    training = mode == tf.estimator.ModeKeys.TRAIN
    if not training:
        outputs = model.network(features, cfg, training)
        if mode == tf.estimator.ModeKeys.PREDICT:
            return tf.estimator.EstimatorSpec(mode, {'probability': outputs['probability']})
        scalars = losses(outputs, labels, cfg)
        metrics = {key: tf.metrics.mean(value) for key, value in scalars.items() if key != 'total'}
        return tf.estimator.EstimatorSpec(mode, loss=scalars['total'], eval_metric_ops=metrics)
    step = tf.train.get_or_create_global_step()
    optimizer = npu.wrap_optimizer(make_optimizer(step, cfg), cfg)
    loss, gradients = averaged_gradients(optimizer, features, labels, cfg)
    train_op = optimizer.apply_gradients(scaled_gradients(gradients, cfg), step)
    if cfg.get('init_from'):
        found = cli.match_variables(cfg.init_from, tf.trainable_variables(), partial=True)
        tf.train.init_from_checkpoint(cfg.init_from, {v.op.name: v for v in found})
    return tf.estimator.EstimatorSpec(mode, loss=tf.identity(loss, 'train_loss'), train_op=train_op)


def make_optimizer(step: tf.Tensor, cfg):
    """Adam or momentum SGD with the schedule's rate at update `step`."""
    rate = learning_rate(step, cfg)
    tf.summary.scalar('learning_rate', rate)
    if cfg.optimizer == 'adam':
        return tf.train.AdamOptimizer(rate, epsilon=cfg.adam_epsilon)
    return tf.train.MomentumOptimizer(rate, cfg.momentum)


def learning_rate(step: tf.Tensor, cfg) -> tf.Tensor:
    """float32 scalar, the rate of update `step` (0 is the first)."""
    if cfg.schedule == 'steps':
        return cfg.learning_rate * stage_value(step, cfg.lr_boundaries, cfg.lr_values)
    if cfg.schedule == 'warmup':  # by epoch: a fifth up, two fifths flat, two fifths lr/(16(i+1))
        epoch = tf.floor(tf.cast(step, tf.float32) * cfg.train_epochs / cfg.train_steps)
        up, down = cfg.train_epochs / 5, cfg.train_epochs * 3 / 5
        late = 1 / (16 * tf.maximum(epoch - down + 1, 1.0))
        return cfg.learning_rate * tf.where(epoch < down, tf.minimum((epoch + 1) / up, 1.0), late)
    return tf.constant(cfg.learning_rate, tf.float32)


def averaged_gradients(optimizer, features: dict, labels: dict, cfg):
    """Loss and gradients of a batch.

    With cfg.accumulate above 1 the class balance is that of batch_size / accumulate images, as in
    the official code, which sums the gradients of ten single images. On CPU the parts are taken one
    after the other, so that the activations of one are in memory; on the NPU in one pass: the sum
    is the same and the graph has no loop.

    Returns:
      (float32 scalar, [(gradient, variable)]).
    """
    size, rest = divmod(cfg.batch_size, cfg.accumulate)
    if rest:
        raise ValueError(
            f'batch_size={cfg.batch_size} is no multiple of accumulate={cfg.accumulate}'
        )
    if cfg.accumulate == 1 or cfg.device == 'npu':
        return one_pass(optimizer, features, labels, cfg)

    def part(i):
        parts = [
            {
                k: tf.reshape(x, [cfg.accumulate, size] + x.shape.as_list()[1:])[i]
                for k, x in t.items()
            }
            for t in (features, labels)
        ]
        loss, pairs = one_pass(optimizer, *parts, cfg)
        return loss, [g for g, _ in pairs], [v for _, v in pairs]

    def add(i, total, sums):
        loss, gradients, _ = part(i)
        return i + 1, total + loss, [s + g for s, g in zip(sums, gradients)]

    loss, gradients, variables = part(0)  # also makes the variables, outside the loop
    start = (tf.constant(1), loss, gradients)
    _, loss, sums = tf.while_loop(
        lambda i, *_: i < cfg.accumulate, add, start, back_prop=False, parallel_iterations=1
    )
    return loss / cfg.accumulate, [(s / cfg.accumulate, v) for s, v in zip(sums, variables)]


def one_pass(optimizer, features: dict, labels: dict, cfg):
    """(loss, [(gradient, variable)]) of one forward and backward pass; unused layers are left
    out."""
    scalars = losses(model.network(features, cfg, training=True), labels, cfg)
    if cfg.accumulate == 1:
        for key, value in scalars.items():
            tf.summary.scalar(f'loss/{key}', value)
    pairs = optimizer.compute_gradients(scalars['total'])
    return scalars['total'], [(g, v) for g, v in pairs if g is not None]


def scaled_gradients(gradients, cfg):
    """Weight decay added to the gradients of weights, then the layers' multipliers for SGD.

    Biases: no decay, twice the rate. Adam's step does not depend on a gradient's scale: no
    multipliers.
    """
    result = []
    for gradient, variable in gradients:
        name, factor = variable.op.name, 1.0
        if name.endswith('weights'):
            gradient += cfg.weight_decay * variable
        if cfg.optimizer == 'sgd':
            factor = next((m for part, m in MULTIPLIERS if part in name), 1.0)
            factor *= 2.0 if name.endswith('biases') else 1.0
        result.append((gradient if factor == 1 else factor * gradient, variable))
    return result


def prepare(args, cfg) -> None:
    """Fills what a run needs in its settings: examples, steps, the checkpoint to start from."""
    root = davis.resolve(cli.data_root(args, cfg))
    cfg.data_path = root
    cfg.pairs = data.pairs(root, 'train', cfg.year)
    steps_an_epoch = len(cfg.pairs) // (cfg.batch_size * npu.rank()[1])
    cfg.train_steps = cfg.train_steps or cfg.train_epochs * max(1, steps_an_epoch)
    cfg.init_from = cli.checkpoint_prefix(args.init_from) if args.init_from else ''
    cfg.start_step = 0


@cli.program
def main(argv=None):
    """Trains; exit status 0 when the last step is in a checkpoint."""
    flags = cli.parser(__doc__)
    cli.add_training_flags(flags)
    args = flags.parse_args(argv)
    cfg = cli.configure(args, get_config)
    if args.check_data:
        print(json.dumps(davis.check(davis.resolve(cli.data_root(args, cfg)))))
        return
    prepare(args, cfg)
    if args.dry_run:
        dry_run(cfg)
        return
    output_path = cli.writable(args.output_path)
    cli.resume(cfg, output_path)
    cli.save_settings(cfg, output_path)
    hook = npu.ProgressHook(cfg, npu.loss_path(cfg, args.result_path) if args.result_path else None)
    run = npu.estimator(model_fn, cfg, output_path)
    run.train(lambda: data.input_fn(cfg, True), max_steps=cfg.train_steps, hooks=[hook])
    print(f'trained: {tf.train.latest_checkpoint(output_path)}', flush=True)
    if args.result_path:
        accuracy = None
        if args.case == 'acc':
            from . import evaluate  # evaluate takes model_fn from here

            accuracy = evaluate.accuracy(
                cfg, cfg.data_path, output_path, os.path.join(args.result_path, 'results')
            )
        npu.write_result(cfg, args.result_path, hook, accuracy)


def dry_run(cfg) -> None:
    """Builds the training graph, reads one batch and prints what a run would use."""
    with tf.Graph().as_default(), tf.Session() as session:
        iterator = tf.data.make_one_shot_iterator(data.input_fn(cfg, True))
        features, labels = iterator.get_next()
        batch = session.run({**features, **labels})
        averaged_gradients(tf.train.GradientDescentOptimizer(1.0), features, labels, cfg)
        count = sum(v.shape.num_elements() for v in tf.trainable_variables())
    print('batch: ' + ', '.join(f'{k} {v.dtype} {list(v.shape)}' for k, v in batch.items()))
    slots = 3 if cfg.optimizer == 'adam' else 2
    disk = count * 4 * slots * cfg.keep_checkpoints / 1e6
    print(
        f'{count} parameters, {disk:.0f} MB of checkpoints, {len(cfg.pairs)} examples, '
        f'{cfg.train_steps} steps, device {cfg.device}'
    )


if __name__ == '__main__':
    sys.exit(main())
