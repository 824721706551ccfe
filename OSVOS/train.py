"""Trains the OSVOS parent network on a DAVIS tree (OSVOS sections 3.2 and 4.1).

    python -m OSVOS.train --data_path=DAVIS --output_path=run --init_from=vgg/model.ckpt

Presets: full (the seed's Adam recipe), paper (the official SGD recipe), performance, smoke (narrow
and small, the default on CPU). A killed run goes on from its last checkpoint when the command is
given again.
"""

from __future__ import annotations

import functools
import sys

from easydict import EasyDict

from common import davis
from common.lazy import tf

from . import cli, data, evaluate, model, npu, pretrained, ranks
from .config import get_config
from .losses import losses
from .optimizer import averaged_gradients, make_optimizer, scaled_gradients


def model_fn(features, labels, mode, params):
    """tf.estimator's model function; params are the settings of config.py."""
    cfg = EasyDict(params)
    if mode != tf.estimator.ModeKeys.TRAIN:
        raise ValueError(f'mode {mode}: this model function trains; inference.load() segments')
    step = tf.train.get_or_create_global_step()
    optimizer = npu.wrap_optimizer(make_optimizer(step, cfg), cfg)
    loss, gradients = averaged_gradients(optimizer, features, labels, cfg)
    train_op = optimizer.apply_gradients(scaled_gradients(gradients, cfg), step)
    cli.init_from_checkpoint(cfg)
    return tf.estimator.EstimatorSpec(mode, loss=tf.identity(loss, 'train_loss'), train_op=train_op)


def prepare(args, cfg) -> None:
    """Fills what a run needs in its settings: examples, steps, the checkpoint to start from."""
    cfg.data_path = davis.resolve(cli.data_root(args, cfg), cfg.year)
    cfg.pairs = data.pairs(cfg.data_path, 'train', cfg.year)
    steps_an_epoch = len(cfg.pairs) // (cfg.batch_size * ranks.rank()[1])
    cfg.train_steps = cfg.train_steps or cfg.train_epochs * max(1, steps_an_epoch)
    cfg.init_from = cli.checkpoint_to_start_from(args, cfg)


def train(cfg, args, saved=None) -> str:
    """Trains to cfg.train_steps, from what args.output_path holds; returns the last checkpoint.

    Args:
      cfg: of the run.
      args: output_path, and result_path for the zoo's files.
      saved: settings that config.json keeps; default: cfg.
    """
    hook = cli.begin_run(cfg, args, saved)
    run = npu.estimator(model_fn, cfg, args.output_path)
    run.train(lambda: data.input_fn(cfg, True), max_steps=cfg.train_steps, hooks=[hook])
    return cli.end_run(cfg, args)


def loss_of(features, labels, cfg) -> tf.Tensor:
    """The training loss of a batch, float32 scalar."""
    return losses(model.network(features, cfg, training=True), labels, cfg)['total']


@cli.program
def main(argv=None):
    """Trains; exit status 0 when the last step is in a checkpoint."""
    flags = cli.parser(__doc__)
    cli.add_training_flags(flags)
    args = flags.parse_args(argv)
    args.init_from = pretrained.resolve(args.init_from)
    cfg = cli.configure(args, get_config)
    if args.check_data:
        cli.check_data(args, cfg, functools.partial(davis.check, year=cfg.year))
        return
    prepare(args, cfg)
    if args.dry_run:
        cli.dry_run(cfg, data.input_fn, loss_of, slots=2 if cfg.optimizer == 'adam' else 1)
        return
    train(cfg, args)
    cli.write_result(cfg, args, evaluate.accuracy)


if __name__ == '__main__':
    sys.exit(main())
