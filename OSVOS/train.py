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
from .losses import losses
from .optimizer import averaged_gradients, make_optimizer, scaled_gradients


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
