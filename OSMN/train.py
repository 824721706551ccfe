"""Trains OSMN: on COCO images, then on DAVIS or YouTube-VOS (OSMN section 4).

    python -m OSMN.train --data_path=COCO  --output_path=run1 --init_from=vgg/model.ckpt
    python -m OSMN.train --data_path=DAVIS --output_path=run2 --init_from=run1 --preset=davis

Presets: full (the COCO stage), davis, youtube_vos, performance, smoke (narrow and small, the
default on CPU), smoke_davis (its stage on DAVIS). A killed run goes on from its last checkpoint
when the command is given again.
"""

from __future__ import annotations

import functools
import os
import sys

from easydict import EasyDict

from common import coco, davis, videos, youtube_vos
from common.lazy import tf

from . import cli, data, evaluate, model, npu, pretrained, ranks
from .backbone import moving_statistics
from .config import get_config
from .losses import losses


def model_fn(features, labels, mode, params):
    """tf.estimator's model function; params are the settings of config.py."""
    cfg = EasyDict(params)
    if mode != tf.estimator.ModeKeys.TRAIN:
        raise ValueError(f'mode {mode}: this model function trains; inference.load() segments')
    outputs = model.batch_network(features, cfg)
    loss = losses(outputs, labels, cfg)['total']
    npu.show_images(
        cfg,
        lambda: {
            'input': features['image_0'] / cfg.scale_value + cfg.mean,
            'target': labels['mask_0'],
            'prediction': tf.sigmoid(outputs['logits_0']),
        },
    )
    step = tf.train.get_or_create_global_step()
    rate = learning_rate(step, cfg)
    npu.record('learning_rate', rate)
    adam = tf.train.AdamOptimizer(rate, epsilon=cfg.adam_epsilon)
    optimizer = npu.wrap_optimizer(adam, cfg, moving_statistics())
    gradients = optimizer.compute_gradients(loss, trained_variables(cfg))
    train_op = optimizer.apply_gradients(decayed_gradients(gradients, cfg), step)
    cli.init_from_checkpoint(cfg)
    return tf.estimator.EstimatorSpec(mode, loss=tf.identity(loss, 'train_loss'), train_op=train_op)


def loss_of(features: dict, labels: dict, cfg) -> tf.Tensor:
    """The training loss of a batch in parts, float32 scalar."""
    return losses(model.batch_network(features, cfg), labels, cfg)['total']


def learning_rate(step: tf.Tensor, cfg) -> tf.Tensor:
    """float32 scalar, the rate of update `step` (0 is the first); as tf.train.piecewise_constant
    without its conditions, which the NPU runs badly."""
    passed = tf.cast(step >= tf.constant(cfg.lr_boundaries, step.dtype.base_dtype), tf.int32)
    factors = tf.constant(cfg.lr_values, tf.float32)
    return cfg.learning_rate * tf.gather(factors, tf.reduce_sum(passed))


def trained_variables(cfg) -> list:
    """The variables that training changes: with cfg.fix_seg not the segmentation net's, but for the
    fusion."""

    def fixed(name):
        return cfg.fix_seg and name.startswith('osmn/seg/') and 'upscore-fuse' not in name

    return [v for v in tf.trainable_variables() if not fixed(v.op.name)]


def decayed_gradients(gradients: list, cfg) -> list:
    """[(gradient, variable)] with weight decay added to those of kernels; biases and batch norm are
    left out of it, variables without a gradient of the result."""
    result = []
    for gradient, variable in gradients:
        if gradient is None:
            continue
        if variable.op.name.endswith('/weights'):
            gradient = gradient + cfg.weight_decay * variable
        result.append((gradient, variable))
    return result


def stage_root(root: str, cfg) -> str:
    """Absolute folder of the tree that the stage trains on, in `root`.

    Raises:
      ValueError: no such data set. FileNotFoundError: it is not there.
    """
    if cfg.dataset not in data.SPLITS:
        raise ValueError(f'dataset={cfg.dataset!r}: expected one of {", ".join(data.SPLITS)}')
    if cfg.dataset == 'coco':
        return coco.resolve(root)
    return videos.resolve(root, cfg.dataset, cfg.year)


def check(root: str, every: bool, cfg) -> dict:
    """Counts of the stage's tree in `root`; see the readers' check()."""
    root = stage_root(root, cfg)
    if cfg.dataset == 'davis':
        return davis.check(root, cfg.year, every=every)
    return (coco if cfg.dataset == 'coco' else youtube_vos).check(root, every=every)


def prepare(args, cfg) -> None:
    """Fills what a run needs in its settings: examples, steps, the checkpoint to start from.

    Raises:
      ValueError: settings that do not go together, or no weights to start from.
    """
    if cfg.base_model == 'lite' and len(cfg.scales) > 1:
        raise ValueError(
            f'base_model=lite with scales={cfg.scales}: the batch statistics of MobileNet are '
            'those of one size; use --set=scales=[1.0]'
        )
    data.parts(cfg)
    cfg.data_path = cli.data_root(args, cfg)  # accuracy() looks for DAVIS in it
    root = stage_root(cfg.data_path, cfg)
    cfg.init_from = checkpoint_to_start_from(args, cfg)
    cache = None if args.dry_run else cfg.cache_path or cli.writable(args.output_path)
    cfg.examples = data.examples(root, cfg, cache)
    steps_an_epoch = len(cfg.examples) // (cfg.batch_size * ranks.rank()[1])
    cfg.train_steps = cfg.train_steps or cfg.train_epochs * max(1, steps_an_epoch)


def checkpoint_to_start_from(args, cfg) -> str:
    """Prefix of the checkpoint that a run starts from, or ''; see cli.checkpoint_to_start_from().

    Raises:
      ValueError: the stage on DAVIS, lite and masktrack do not start from VGG-16.
    """
    running = os.path.isfile(os.path.join(args.output_path, 'checkpoint'))
    scratch = args.from_scratch or cfg.from_scratch
    if not (args.init_from or scratch or running):
        needed = {
            'lite': 'MobileNet of slim, mobilenet_v1_1.0_224.ckpt',
            'masktrack': 'VGG-16 without its first layer, which takes four channels here',
        }.get(cfg.base_model)
        if needed:
            raise ValueError(
                f'base_model={cfg.base_model} starts from {needed}: convert it (python -m '
                f'OSMN.convert --source=FILE --set=base_model={cfg.base_model} '
                '--output=start/model.ckpt) and give --init_from=start; --from_scratch trains '
                'from random weights'
            )
        if cfg.preset == 'davis':
            raise ValueError(
                'preset davis is the second stage: give --init_from=RUN of the COCO stage (preset '
                'full), or of official weights that OSMN.convert wrote; --from_scratch trains from '
                'random weights'
            )
    prefix = cli.checkpoint_to_start_from(args, cfg)
    if cfg.trained_on[-1] != 'drawn data':
        cfg.trained_on[-1] = f'{cfg.dataset} of {os.path.basename(cfg.data_path)}'
    return prefix


def train(cfg, args, saved=None) -> str:
    """Trains to cfg.train_steps, from what args.output_path holds; returns the last checkpoint.

    Args:
      cfg: of the run.
      args: output_path, and result_path for the zoo's files.
      saved: settings that config.json keeps; default: cfg.
    """
    hook = cli.begin_run(cfg, args, saved)
    # without the examples: the Estimator copies its params, and COCO has 600,000 of them
    params = EasyDict({key: value for key, value in cfg.items() if key != 'examples'})
    run = npu.estimator(model_fn, params, args.output_path)
    run.train(lambda: data.input_fn(cfg, True), max_steps=cfg.train_steps, hooks=[hook])
    return cli.end_run(cfg, args)


@cli.program
def main(argv=None):
    """Trains; exit status 0 when the last step is in a checkpoint."""
    flags = cli.parser(__doc__)
    cli.add_training_flags(flags)
    args = flags.parse_args(argv)
    args.init_from = pretrained.resolve(args.init_from)
    cfg = cli.configure(args, get_config)
    if args.check_data:
        cli.check_data(args, cfg, functools.partial(check, cfg=cfg))
        return
    prepare(args, cfg)
    if args.dry_run:
        print(f'{len(cfg.examples)} examples')
        cli.dry_run(cfg, data.input_fn, loss_of, slots=2)
        return
    train(cfg, args)
    cli.write_result(cfg, args, evaluate.accuracy)


if __name__ == '__main__':
    sys.exit(main())
