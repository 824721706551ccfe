"""Trains MANet: embedding and propagation head (stage 1), then the interaction head on scribbles
that a robot corrects between rounds (stage 2; train_stage1.py, train_stage2.py).

    python -m MANet.train --data_path=DAVIS --output_path=run --init_from=coco/model.ckpt
    python -m MANet.train --data_path=DAVIS --output_path=more --init_from=run --preset=stage2

Presets: full (both stages), stage1, stage2, performance, smoke (both, narrow, from scratch, the
default on CPU). A killed run goes on from its last checkpoint when the command is given again.
"""

from __future__ import annotations

import functools
import os
import sys

from easydict import EasyDict

from common import davis, weights
from common.lazy import tf

from . import cli, corrections, data, evaluate, model, npu, pretrained, ranks
from .backbone import moving_statistics
from .config import get_config
from .losses import losses

SCHEDULE = ('stage1_steps', 'train_steps', 'mining_steps', 'cycle')  # settings in updates


def model_fn(features, labels, mode, params):
    """tf.estimator's model function; params are the settings of config.py."""
    cfg = EasyDict(params)
    if mode != tf.estimator.ModeKeys.TRAIN:
        raise ValueError(f'mode {mode}: this model function trains; inference.load() answers')
    step = tf.train.get_or_create_global_step()
    scalars = training_losses(features, labels, cfg)
    for key, value in scalars.items():
        tf.summary.scalar(f'loss/{key}', value)
    train_op = update(scalars['total'], step, cfg)
    cli.init_from_checkpoint(cfg)
    loss = tf.identity(scalars['total'], 'train_loss')
    return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train_op)


def training_losses(features, labels, cfg) -> dict:
    """losses() of a batch at the graph's global step; the variables of both stages are made, so
    that all checkpoints have one form."""
    step = tf.train.get_or_create_global_step() - span(cfg)[0]
    outputs = model.network(features, cfg, training=True)
    npu.show_images(cfg, lambda: shown(features, labels, outputs))
    model.make_every_variable(cfg)
    return losses(outputs, dict(labels, step=step), cfg)


def shown(features, labels, outputs) -> dict:
    """Images for TensorBoard: the frame to answer, ids as shares of the largest, void black."""
    count = outputs['logits'].shape.as_list()[-1]
    found, target = tf.argmax(outputs['logits'], -1, output_type=tf.int32), labels['label']
    found, target = (
        tf.cast(ids % data.VOID, tf.float32)[..., None] / (count - 1) for ids in (found, target)
    )
    return {'input': features['images'][:, -1], 'target': target, 'prediction': found}


def loss_of(features, labels, cfg) -> tf.Tensor:
    """The training loss of a batch, float32 scalar."""
    return training_losses(features, labels, cfg)['total']


def make_optimizer(step: tf.Tensor, cfg) -> tf.train.Optimizer:
    """Momentum SGD of the stage: the rate falls, in stage 1 of the official code for DeepLab alone
    (cfg.group0_only)."""
    rate = learning_rate(step, cfg)
    npu.record('learning_rate', rate)
    nesterov = cfg.nesterov and cfg.stage == 1
    falling = tf.train.MomentumOptimizer(rate, cfg.momentum, use_nesterov=nesterov)
    if cfg.stage == 2 or not cfg.group0_only:
        return falling
    from .two_rates import (
        TwoRates,  # here: a subclass needs TensorFlow, which --help can do without
    )

    constant = tf.train.MomentumOptimizer(cfg.learning_rate, cfg.momentum, use_nesterov=nesterov)
    return TwoRates(falling, constant)


def update(loss: tf.Tensor, step: tf.Tensor, cfg):
    """One step: gradients clipped by their global norm, then weight decay added."""
    optimizer = npu.wrap_optimizer(make_optimizer(step, cfg), cfg, moving_statistics())
    chosen = [v for v in tf.trainable_variables() if trains(v, cfg)]
    pairs = [(g, v) for g, v in optimizer.compute_gradients(loss, chosen) if g is not None]
    if cfg.clip and cfg.stage == 1:
        norm = tf.sqrt(tf.add_n([tf.reduce_sum(g * g) for g, _ in pairs]))
        npu.record('gradient_norm', norm)
        shrink = tf.minimum(1.0, cfg.clip / (norm + 1e-6))  # as PyTorch clips
        pairs = [(g * shrink, v) for g, v in pairs]
    pairs = [(g + cfg.weight_decay * v, v) for g, v in pairs]
    train_op = optimizer.apply_gradients(pairs, step)
    keep_momenta([v for v in tf.trainable_variables() if v not in chosen])
    return train_op


def keep_momenta(variables: list) -> None:
    """Makes the momenta of variables that this stage does not train, under the names that
    MomentumOptimizer gives them: the checkpoints of both stages have the same variables."""
    for variable in variables:
        tf.get_variable(
            f'{variable.op.name}/Momentum',
            variable.shape,
            tf.float32,
            tf.zeros_initializer(),
            trainable=False,
        )


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


def prepare(args, cfg) -> None:
    """Fills what a run needs in its settings: sequences, steps, the checkpoint to start from.

    Raises:
      FileNotFoundError, ValueError: no data; no weights to start from, or of the wrong stage.
    """
    cfg.data_path = davis.resolve(cli.data_root(args, cfg), cfg.year)
    cfg.counts = data.instances(cfg.data_path, 'train', cfg.year)
    cfg.examples = sorted(cfg.counts)
    cfg.objects = max(cfg.objects, *cfg.counts.values())
    if cfg.train_epochs:
        steps = len(cfg.examples) // (cfg.batch_size * ranks.rank()[1])
        cfg.train_steps = cfg.train_epochs * max(1, steps)
    elif not args.steps and cfg.case != 'perf':
        keep_examples(cfg, ranks.rank()[1])
    if cfg.case == 'perf' and cfg.stage1_steps:  # timed: one kind of update
        cfg.train_steps = min(cfg.train_steps, cfg.stage1_steps)
    npu.fit_loop(cfg, ('stage1_steps', 'cycle'))
    cfg.stage = 1 if cfg.stage1_steps else 2
    if cfg.stage == 2:
        check_stage2_start(args)
    cfg.init_from = cli.checkpoint_to_start_from(args, cfg)


def keep_examples(cfg, cards: int) -> None:
    """Divides the schedule by the number of cards: as many examples are seen as on one card."""
    if cards == 1:
        return
    before = {key: cfg[key] for key in SCHEDULE}
    loop = cfg.iterations_per_loop
    for key, value in before.items():
        cfg[key] = -(-value // (cards * loop)) * loop
    rows = ', '.join(f'{key} {value} -> {cfg[key]}' for key, value in before.items())
    print(
        f'{cards} cards, {cards} times the examples an update: {rows}. The learning rate stays '
        f'{cfg.learning_rate}; --learning_rate sets another, --steps another number of updates',
        flush=True,
    )


def check_stage2_start(args) -> None:
    """ValueError where a run of stage 2 alone has no stage 1 to start from."""
    if args.init_from:
        names = dict(tf.train.list_variables(weights.checkpoint_prefix(args.init_from)))
        needed = ('manet/embedding_conv/weights', 'manet/dynamic_seghead/conv/weights')
        missing = [name for name in needed if name not in names]
        if missing:
            raise ValueError(
                f'stage 2 starts from a checkpoint of stage 1, {args.init_from} has no {missing}'
            )
    elif not os.path.isfile(os.path.join(args.output_path, 'checkpoint')):
        raise ValueError(
            'stage 2 starts from a checkpoint of stage 1: --init_from=FOLDER of '
            'python -m MANet.train --preset=stage1, or --preset=full for both'
        )


def train(cfg, args, saved=None) -> str:
    """Trains to cfg.train_steps, from what args.output_path holds; returns the last checkpoint.

    Stage 2 stops after every cfg.cycle updates for the robot's corrections of what it then answers.

    Args:
      cfg: of the run.
      args: output_path, and result_path for the zoo's files.
      saved: settings that config.json keeps; default: cfg.
    """
    with data.readers(cfg):  # forked, so before the first session, which ranks have at once
        hook = cli.begin_run(cfg, args, saved)
        step = cfg.start_step
        while step < cfg.train_steps:
            part, end = part_of(cfg, args.output_path, step)
            run = npu.estimator(model_fn, part, args.output_path)
            run.train(functools.partial(data.input_fn, part, True), max_steps=end, hooks=[hook])
            step = end
    return cli.end_run(cfg, args)


def part_of(cfg, output_path: str, step: int) -> tuple:
    """(settings, end) of the updates from `step` on that are trained at once: stage 1, or a round
    of stage 2."""
    part = EasyDict(cfg, stage=1 if step < cfg.stage1_steps else 2, start_step=step)
    part.init_from = cfg.init_from if step == 0 else ''
    first, end = span(part)
    if part.stage == 2:
        number = (step - first) // cfg.cycle
        end = min(end, first + (number + 1) * cfg.cycle)
        found = corrections.of_round(part, output_path, number) or {}
        part.corrections = {name: tuple(correction) for name, correction in found.items()}
    return part, end


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
        cli.dry_run(cfg, data.input_fn, loss_of, slots=1)
        return
    train(cfg, args)
    cli.write_result(cfg, args, evaluate.accuracy)


if __name__ == '__main__':
    sys.exit(main())
