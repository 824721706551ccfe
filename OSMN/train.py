"""Trains OSMN: on COCO pictures, then on DAVIS or YouTube-VOS (OSMN section 4).

    python -m OSMN.train --data_path=COCO  --output_path=run1 --init_from=vgg/model.ckpt
    python -m OSMN.train --data_path=DAVIS --output_path=run2 --init_from=run1 --preset=davis

Presets: full (the COCO stage), davis, youtube_vos, performance, smoke (narrow and small, the
default on CPU), smoke_davis (its stage on DAVIS). A killed run goes on from its last checkpoint
when the command is given again.
"""

from __future__ import annotations

import json
import sys

import tensorflow.compat.v1 as tf
from easydict import EasyDict

from common import coco, davis, youtube_vos

from . import cli, data, model, npu, videos
from .config import get_config
from .losses import losses

READERS = {'coco': coco, 'davis': davis, 'youtube_vos': youtube_vos}


def model_fn(features, labels, mode, params):
    """tf.estimator's model function; params are the settings of config.py."""
    cfg = EasyDict(params)
    training = mode == tf.estimator.ModeKeys.TRAIN
    if mode == tf.estimator.ModeKeys.PREDICT:
        outputs = model.network(features, cfg, False)
        return tf.estimator.EstimatorSpec(mode, {'probability': outputs['probability']})
    loss = total_loss(features, labels, cfg, training)
    if not training:
        return tf.estimator.EstimatorSpec(mode, loss=loss)
    step = tf.train.get_or_create_global_step()
    rate = learning_rate(step, cfg)
    tf.summary.scalar('learning_rate', rate)
    optimizer = tf.train.AdamOptimizer(rate, epsilon=cfg.adam_epsilon)
    optimizer = npu.wrap_optimizer(optimizer, cfg)
    gradients = optimizer.compute_gradients(loss, trained_variables(cfg))
    update = optimizer.apply_gradients(decayed(gradients, cfg), step)
    train_op = tf.group(update, *tf.get_collection(tf.GraphKeys.UPDATE_OPS))
    if cfg.get('init_from'):
        variables = [v for v in tf.global_variables() if belongs(v)]
        found = cli.match_variables(cfg.init_from, variables, partial=True)
        tf.train.init_from_checkpoint(cfg.init_from, {v.op.name: v for v in found})
    return tf.estimator.EstimatorSpec(mode, loss=tf.identity(loss, 'train_loss'), train_op=train_op)


def total_loss(features: dict, labels: dict, cfg, training: bool) -> tf.Tensor:
    """float32 scalar: the losses of the parts of a batch, one a scale, added."""
    total = []
    for k in range(len(labels)):
        part = {key: features[f'{key}_{k}'] for key in ('guide', 'heat', 'image')}
        outputs = model.network(part, cfg, training)
        scalars = losses(outputs, {'mask': labels[f'mask_{k}']}, cfg)
        tf.summary.scalar(f'loss/scale{k}', scalars['total'])
        total.append(scalars['total'])
    return tf.add_n(total)


def learning_rate(step: tf.Tensor, cfg) -> tf.Tensor:
    """float32 scalar, the rate of update `step` (0 is the first); as tf.train.piecewise_constant
    without its conditions, which the NPU runs badly."""
    passed = tf.cast(step >= tf.constant(cfg.lr_boundaries, step.dtype.base_dtype), tf.int32)
    factors = tf.constant(cfg.lr_values, tf.float32)
    return cfg.learning_rate * tf.gather(factors, tf.reduce_sum(passed))


def belongs(variable) -> bool:
    """Whether a variable is one of the network, not of the optimizer."""
    name = variable.op.name
    return name.startswith('osmn/') and not name.endswith(('/Adam', '/Adam_1'))


def trained_variables(cfg) -> list:
    """The variables that training changes: with cfg.fix_seg not the segmentation net's."""
    fixed = 'osmn/seg/' if cfg.fix_seg else '-'
    return [
        v
        for v in tf.trainable_variables()
        if not v.op.name.startswith(fixed) or 'upscore-fuse' in v.op.name
    ]


def decayed(gradients, cfg) -> list:
    """Gradients with weight decay added to those of kernels, biases and batch norm left out."""
    return [
        (g + cfg.weight_decay * v if v.op.name.endswith('/weights') else g, v)
        for g, v in gradients
        if g is not None
    ]


def data_root(args, cfg) -> str:
    """Absolute folder of the stage's data."""
    root = cli.data_root(args, cfg)
    if cfg.dataset not in READERS:
        raise ValueError(f'dataset={cfg.dataset!r}: expected one of {", ".join(READERS)}')
    return coco.resolve(root) if cfg.dataset == 'coco' else videos.resolve(root, cfg.dataset)


def prepare(args, cfg) -> None:
    """Fills what a run needs in its settings: examples, steps, the checkpoint to start from."""
    cfg.data_path = data_root(args, cfg)
    cache = None if args.dry_run else cfg.cache_path or cli.writable(args.output_path)
    cfg.examples = data.examples(cfg.data_path, cfg, cache)
    steps_an_epoch = len(cfg.examples) // (cfg.batch_size * npu.rank()[1])
    cfg.train_steps = cfg.train_steps or cfg.train_epochs * max(1, steps_an_epoch)
    cfg.init_from = cli.checkpoint_prefix(args.init_from) if args.init_from else ''
    cfg.start_step = 0


def train(cfg, output_path: str, hook=None) -> str:
    """Trains to cfg.train_steps, from what `output_path` holds; returns the last checkpoint."""
    run = npu.estimator(model_fn, EasyDict({**cfg, 'examples': []}), output_path)
    hooks = [hook or npu.ProgressHook(cfg)]
    run.train(lambda: data.input_fn(cfg, True), max_steps=cfg.train_steps, hooks=hooks)
    return tf.train.latest_checkpoint(output_path)


@cli.program
def main(argv=None):
    """Trains; exit status 0 when the last step is in a checkpoint."""
    flags = cli.parser(__doc__)
    cli.add_training_flags(flags)
    args = flags.parse_args(argv)
    cfg = cli.configure(args, get_config)
    if args.check_data:
        print(json.dumps(READERS[cfg.dataset].check(data_root(args, cfg))))
        return
    prepare(args, cfg)
    if args.dry_run:
        dry_run(cfg)
        return
    output_path = cli.writable(args.output_path)
    cli.resume(cfg, output_path)
    cli.save_settings(cfg, output_path)
    hook = npu.ProgressHook(cfg, npu.loss_path(cfg, args.result_path) if args.result_path else None)
    print(f'trained: {train(cfg, output_path, hook)}', flush=True)
    if args.result_path:
        accuracy = None
        if args.case == 'acc':
            from . import evaluate  # evaluate takes what is above

            root = cli.data_root(args, cfg)
            accuracy = evaluate.accuracy(cfg, root, output_path, args.result_path)
        npu.write_result(cfg, args.result_path, hook, accuracy)


def dry_run(cfg) -> None:
    """Builds the training graph, reads one batch and prints what a run would use."""
    with tf.Graph().as_default(), tf.Session() as session:
        iterator = tf.data.make_one_shot_iterator(data.input_fn(cfg, True))
        features, labels = iterator.get_next()
        batch = session.run({**features, **labels})
        tf.gradients(total_loss(features, labels, cfg, True), tf.trainable_variables())
        count = sum(v.shape.num_elements() for v in tf.trainable_variables())
    print('batch: ' + ', '.join(f'{k} {v.dtype} {list(v.shape)}' for k, v in batch.items()))
    disk = count * 4 * 3 * cfg.keep_checkpoints / 1e6  # weights and Adam's two slots
    print(
        f'{count} parameters, {disk:.0f} MB of checkpoints, {len(cfg.examples)} examples, '
        f'{cfg.train_steps} steps, device {cfg.device}'
    )


if __name__ == '__main__':
    sys.exit(main())
