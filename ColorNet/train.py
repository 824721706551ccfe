"""Trains ColorNet on unlabelled clips: colors of a frame reconstructed from others, agreement of
two views, and dense unsupervised learning (trainColorNetDUL_benchmark.py of the official code).

    python -m ColorNet.train --data_path=DATA --output_path=run
    python -m ColorNet.train --train_config=ColorNet/config/train_config_default_M.json --exp=0001

Presets: full (model M, both branches), dul (dense-ulearn-vos), performance, smoke (narrow S, the
default on CPU). --train_config: a JSON of the original; --exp NAME: checkpoints in snapshots/NAME;
--coco: single images of COCO. A killed run goes on from its last checkpoint when the command is
given again.
"""

from __future__ import annotations

import functools
import math
import os
import sys

from easydict import EasyDict

from common.lazy import tf

from . import cli, data, evaluate, model, npu, pretrained, ranks, views
from .backbone import moving_statistics
from .config import check_settings, from_json, get_config
from .losses import losses

EPOCHS, DUL_EPOCHS = 300, 500  # of the schedules (PT; DUL)
FLOOR = 260  # epoch from which the rate stays (PT)
HALVED = (100, 200, 300, 400)  # epochs from which the rate is halved without is_cos_lr (PT)


def model_fn(features, labels, mode, params):
    """tf.estimator's model function; params are the settings of config.py."""
    cfg = EasyDict(params)
    if mode != tf.estimator.ModeKeys.TRAIN:
        raise ValueError(f'mode {mode}: this model function trains; inference.load() segments')
    outputs = model.network(features, cfg, True)
    scalars = losses(outputs, labels, cfg)
    npu.show_images(cfg, lambda: shown(features, labels, outputs, cfg))
    for key, value in scalars.items():
        tf.summary.scalar(f'loss/{key}', value)
    train_op = update(scalars['total'], cfg)
    cli.init_from_checkpoint(cfg)
    loss = tf.identity(scalars['total'], 'train_loss')
    return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train_op)


def shown(features, labels, outputs, cfg) -> dict:
    """Images for TensorBoard: the second frame of a clip, its first color channel (lightness of
    Lab) and what the attention to the first frame makes of that; of DUL alone the frame."""
    if 'key1' not in outputs:
        return {'input': features['dul1'][:, 1, ..., ::-1]}
    light = tf.cast(labels['target'][..., 0], tf.float32) / 255  # [B, T, N, 64]
    first, second = outputs['key1'][:, 0], outputs['key1'][:, 1]
    share = tf.nn.softmax(cfg.TEMP * tf.matmul(second, first, transpose_b=True))
    side = cfg.size // views.STRIDE
    target, found = (
        tf.depth_to_space(tf.reshape(x, [-1, side, side, views.STRIDE**2]), views.STRIDE)
        for x in (light[:, 1], tf.matmul(share, light[:, 0]))
    )
    image = features['main'][:, 1, ..., ::-1]
    return {'input': image, 'target': target, 'prediction': found}


def update(loss: tf.Tensor, cfg):
    """One step of the optimizer and of the moving statistics."""
    from .adamw import AdamW  # here: a subclass needs TensorFlow, which --help does not wait for

    step = tf.train.get_or_create_global_step()
    rate = learning_rate(step, cfg)
    npu.record('learning_rate', rate)
    # Some passes give statistics alone.
    optimizer = npu.wrap_optimizer(AdamW(rate, cfg), cfg, moving_statistics(cfg.bn_decay))
    pairs = optimizer.compute_gradients(loss)
    pairs = [(g, v) for g, v in pairs if g is not None]  # the others are not decayed either
    return optimizer.apply_gradients(pairs, step)


def learning_rate(step: tf.Tensor, cfg) -> tf.Tensor:
    """The rate of update `step` (0 is the first), float32 scalar: a function of the epoch, of which
    a training of any length has EPOCHS (dense-ulearn-vos DUL_EPOCHS)."""
    count = DUL_EPOCHS if cfg.model_size == 'DUL' else EPOCHS
    starts = [-(-cfg.train_steps * k // count) for k in range(count)]
    begun = tf.cast(tf.cast(step, tf.int32) >= tf.constant(starts), tf.float32)
    epoch = tf.reduce_sum(begun)
    if not cfg.is_cos_lr:
        passed = [tf.cast(epoch >= number, tf.float32) for number in HALVED]
        return cfg.learning_rate * tf.pow(0.5, tf.add_n(passed))
    epoch = tf.minimum(epoch, float(FLOOR))
    falling = 0.5 * (1 + tf.cos(math.pi * (epoch - cfg.warmup) / (EPOCHS - cfg.warmup)))
    return cfg.learning_rate * tf.where(epoch < cfg.warmup, epoch / max(cfg.warmup, 1), falling)


def prepare(args, cfg) -> None:
    """Fills what a run needs in its settings: examples, steps, the checkpoint to start from."""
    check_settings(cfg)
    cfg.data_path = cli.data_root(args, cfg)
    cfg.examples = data.find(cfg.data_path, cfg)
    epoch = data.steps_an_epoch(cfg)
    cfg.train_steps = cfg.train_steps or cfg.train_epochs * epoch
    if not cfg.checkpoint_steps:  # one an epoch, at the end of a call on the NPU
        cfg.checkpoint_steps = -(-epoch // cfg.iterations_per_loop) * cfg.iterations_per_loop
    cfg.init_from = cli.checkpoint_to_start_from(args, cfg)
    say_schedule(cfg, epoch)


def say_schedule(cfg, epoch: int) -> None:
    """Prints how long the training is, and on several cards what becomes of the rate.

    Args:
      cfg: of the run.
      epoch: updates of one.
    """
    cards = ranks.rank()[1]
    clips = cfg.train_steps * cfg.batch_size * cards
    print(
        f'{cfg.train_steps} updates, {epoch} an epoch, {clips} clips in all; a checkpoint every '
        f'{cfg.checkpoint_steps} updates',
        flush=True,
    )
    if cards > 1:
        print(
            f'{cards} cards: a step takes {cfg.batch_size * cards} clips, an epoch has as many '
            f'clips and fewer updates; the learning rate stays {cfg.learning_rate:g} '
            f'(--learning_rate={cards * cfg.learning_rate:g} would grow with the batch)',
            flush=True,
        )


def train(cfg, args, saved=None) -> str:
    """Trains to cfg.train_steps, from what args.output_path holds; returns the last checkpoint.

    Args:
      cfg: of the run.
      args: output_path, and result_path for the zoo's files.
      saved: settings that config.json keeps; default: cfg.
    """
    with data.readers(cfg):  # forked, so before the first session, which ranks have at once
        hook = cli.begin_run(cfg, args, saved)
        run = npu.estimator(model_fn, cfg, args.output_path)
        run.train(lambda: data.input_fn(cfg, True), max_steps=cfg.train_steps, hooks=[hook])
    return cli.end_run(cfg, args)


def loss_of(features, labels, cfg) -> tf.Tensor:
    """The training loss of a batch, float32 scalar."""
    return losses(model.network(features, cfg, True), labels, cfg)['total']


def settings(args) -> EasyDict:
    """The settings of a run; what a --train_config says comes before flags and --set."""
    build = get_config
    if args.train_config:
        if not args.preset:
            args.preset = 'full' if args.case == 'acc' else 'performance'

        def build(preset):
            return from_json(get_config(preset), args.train_config)

    cfg = cli.configure(args, build)
    if args.coco:
        cfg.dataset = 'coco'
    return cfg


def arguments():
    """The program's flags."""
    flags = cli.parser(__doc__)
    cli.add_training_flags(flags)
    flags.add_argument('--train_config', help='a JSON of the original; config/ has three')
    flags.add_argument('--exp', help='name of the run: --output_path=snapshots/NAME')
    flags.add_argument('--coco', action='store_true', help='clips made of single COCO images')
    return flags


@cli.program
def main(argv=None):
    """Trains; exit status 0 when the last step is in a checkpoint."""
    args = arguments().parse_args(argv)
    args.init_from = pretrained.resolve(args.init_from)
    cfg = settings(args)
    if args.exp:
        args.output_path = os.path.join('snapshots', args.exp)
    if args.check_data:
        cli.check_data(args, cfg, functools.partial(data.check, cfg=cfg))
        return
    prepare(args, cfg)
    if args.dry_run:
        cli.dry_run(cfg, data.input_fn, loss_of, slots=2)
        return
    train(cfg, args)
    cli.write_result(cfg, args, evaluate.accuracy)


if __name__ == '__main__':
    sys.exit(main())
