"""Trains SiamMask on pairs of crops: the base network, then the refine module (SiamMask sections
3.4 and 4.1).

    python -m SiamMask.train --data_path=DATA --output_path=base --init_from=resnet/model.ckpt
    python -m SiamMask.train --data_path=DATA --output_path=sharp --init_from=base --preset=sharp

Presets: full (the base stage), sharp, performance, smoke and smoke_sharp (narrow, from scratch, the
default on CPU). DATA has what prepare wrote, or the data sets themselves, which are then cut first,
into --crops_path, once. A killed run goes on from its last checkpoint when given again.
"""

from __future__ import annotations

import glob
import os
import shutil
import sys

from easydict import EasyDict

from common import files, weights
from common.lazy import tf

from . import cli, data, evaluate, model, npu, optimizer, pretrained, ranks
from . import prepare as crops
from .config import from_json, get_config
from .losses import losses, upsampled


def model_fn(features, labels, mode, params):
    """tf.estimator's model function; params are the settings of config.py."""
    cfg = EasyDict(params)
    if mode != tf.estimator.ModeKeys.TRAIN:
        raise ValueError(f'mode {mode}: this model function trains; inference.load() tracks')

    def loss_of_part(part, before):
        inputs, wanted = (optimizer.part_of(x, part, before, cfg) for x in (features, labels))
        outputs = model.network(inputs, cfg, training=True)
        scalars = losses(outputs, wanted, cfg)
        if part == 0:  # TensorBoard shows the first
            npu.show_images(cfg, lambda: first_masks(inputs, wanted, outputs))
            for key, value in scalars.items():
                tf.summary.scalar(f'loss/{key}', value)
        return scalars['total']

    train_op, loss = optimizer.update(loss_of_part, cfg)
    cli.init_from_checkpoint(cfg)
    return tf.estimator.EstimatorSpec(mode, loss=tf.identity(loss, 'train_loss'), train_op=train_op)


def first_masks(features, labels, outputs) -> dict:
    """Images for TensorBoard: the search image, its first wanted mask patch and that found."""
    masks = {
        'target': tf.cast(tf.equal(labels['mask'], 1), tf.float32),
        'prediction': tf.sigmoid(upsampled(outputs['mask'])),
    }
    masks = {name: mask[:, 0, ..., None] for name, mask in masks.items()}
    return {'input': features['search'], **masks}


def prepare(args, cfg) -> None:
    """Fills what a run needs in its settings: crops, steps, the checkpoint to start from.

    Raises:
      ValueError: parts that this training keeps fixed would be random; a batch that cannot be
        divided.
    """
    if cfg.batch_size % cfg.accumulate:
        raise ValueError(
            f'batch_size={cfg.batch_size} is no multiple of accumulate={cfg.accumulate}'
        )
    cfg.data_path = cli.data_root(args, cfg)
    if args.keep_checkpoints:
        cfg.keep_checkpoints = args.keep_checkpoints
    cfg.optimizer = args.optimizer or cfg.optimizer
    if args.from_scratch and cfg.variant == 'base':
        cfg.scratch = True  # nothing else would train the backbone's first layers
    if args.model_checkpoint_path and not args.dry_run:
        resume_from(args.model_checkpoint_path, args.output_path)
    cfg.init_from = _start(args, cfg)
    folder = args.crops_path or crops.folder_beside(cfg.data_path)
    cfg.crops = crops.find(cfg.data_path, cfg, folder, cut_missing=not args.dry_run)
    if crops.are_drawn(cfg.crops):
        cfg.trained_on[-1] = 'drawn data'
    steps_an_epoch = max(1, cfg.pairs // (cfg.batch_size * ranks.rank()[1]))
    cfg.train_steps = cfg.train_steps or cfg.train_epochs * steps_an_epoch
    if not cfg.checkpoint_steps:
        loops = -(-cfg.train_steps // (optimizer.EPOCHS * cfg.iterations_per_loop))
        cfg.checkpoint_steps = max(1, loops) * cfg.iterations_per_loop


def _start(args, cfg):
    """The checkpoint to start from, or ''; checked against what this training keeps fixed."""
    running = os.path.isfile(os.path.join(args.output_path, 'checkpoint'))
    if cfg.variant == 'sharp' and not (args.init_from or args.from_scratch or running):
        raise ValueError(
            f'preset {cfg.preset} trains the refine module of a base network and keeps the rest '
            'fixed: give the checkpoint of a base training by --init_from; --from_scratch keeps '
            'random weights'
        )
    prefix = cli.checkpoint_to_start_from(args, cfg)
    if cfg.variant == 'sharp' and prefix:
        names = dict(tf.train.list_variables(prefix))
        if 'siammask/mask/kernel/conv/weights' not in names:
            raise ValueError(
                f'{prefix} has no mask branch: preset {cfg.preset} needs the checkpoint of a base '
                'training, not a backbone'
            )
    timed = cfg.preset == 'performance'  # its weights are of no use anyway
    if cfg.variant == 'base' and not (prefix or running or cfg.scratch or timed):
        raise ValueError(
            'scratch=False keeps the backbone fixed in the first half of the training, here a '
            'random one: give --init_from, or --from_scratch to train all of it'
        )
    return prefix


def resume_from(source: str, output_path: str) -> None:
    """Copies a checkpoint of a training to `output_path`, which then goes on from its step; a run
    that is there already stays as it is.

    Raises:
      FileNotFoundError: no checkpoint. ValueError: one without the optimizer's variables.
    """
    prefix, folder = weights.checkpoint_prefix(source), cli.writable(output_path)
    if os.path.isfile(os.path.join(folder, 'checkpoint')):
        return
    if not any(name.endswith(cli.SLOTS) for name, _ in tf.train.list_variables(prefix)):
        raise ValueError(
            f'{prefix} has no variables of an optimizer: a training cannot go on from it, it can '
            'start from it: --init_from'
        )
    name = f'model.ckpt-{int(tf.train.load_variable(prefix, "global_step"))}'
    settings = os.path.join(os.path.dirname(prefix), 'config.json')
    copies = {path: name + path[len(prefix) :] for path in glob.glob(glob.escape(prefix) + '.*')}
    if os.path.isfile(settings):
        copies[settings] = 'config.json'
    for path, copy in copies.items():
        with files.replacing(os.path.join(folder, copy)) as temporary:
            shutil.copyfile(path, temporary)
    tf.train.update_checkpoint_state(folder, os.path.join(folder, name))


def train(cfg, args, saved=None) -> str:
    """Trains to cfg.train_steps, from what args.output_path holds; returns the last checkpoint.

    From optimizer.thaw_step() on the graph trains layer2 and layer3 too: a second call of the
    Estimator.

    Args:
      cfg: of the run.
      args: output_path, and result_path for the zoo's files.
      saved: settings that config.json keeps; default: cfg.
    """
    with data.readers(cfg):  # forked, so before the first session, which ranks have at once
        hook = cli.begin_run(cfg, args, saved)
        thaw = optimizer.thaw_step(cfg)
        ends = [cfg.train_steps]
        if cfg.start_step < thaw:
            ends.insert(0, thaw)
        for end in ends:
            stage = EasyDict(cfg, thawed=0 <= thaw < end)
            if stage.thawed and cfg.start_step < thaw:
                stage.update(start_step=thaw, init_from='')
            run = npu.estimator(model_fn, stage, args.output_path)
            run.train(lambda stage=stage: data.input_fn(stage, True), max_steps=end, hooks=[hook])
    return cli.end_run(cfg, args)


def loss_of(features, labels, cfg) -> tf.Tensor:
    """The training loss of a batch, float32 scalar: the mean over its parts."""
    found = []
    for part in range(cfg.accumulate):
        inputs, wanted = (optimizer.part_of(x, part, [], cfg) for x in (features, labels))
        outputs = model.network(inputs, cfg, training=True)
        found.append(losses(outputs, wanted, cfg)['total'])
    return tf.add_n(found) / cfg.accumulate


def arguments():
    """The program's flags."""
    flags = cli.parser(__doc__)
    cli.add_training_flags(flags)
    add = flags.add_argument
    add('--config', help='a config.json of the original, such as config/config.json')
    add('--crops_path', help='folder of the crops that are cut; default: <data_path>_crops')
    add('--optimizer', choices=('sgd', 'adam'), help='default: sgd')
    text = 'checkpoint (folder or prefix) of a training that is to go on in --output_path'
    add('--model_checkpoint_path', help=text)
    add('--TRAIN_MAX_STEPS', type=cli.positive, dest='steps', help='as --steps')
    text = 'checkpoints kept, one an epoch of the schedule; default: 20'
    add('--keep_checkpoints', '--SAVE_MAX', type=cli.positive, help=text)
    return flags


@cli.program
def main(argv=None):
    """Trains; exit status 0 when the last step is in a checkpoint."""
    args = arguments().parse_args(argv)
    args.init_from = pretrained.resolve(args.init_from)

    def settings(preset):
        cfg = get_config(preset)
        return from_json(cfg, args.config) if args.config else cfg

    cfg = cli.configure(args, settings)
    if args.check_data:
        cli.check_data(args, cfg, lambda root, every: crops.check(root, cfg, every))
        return
    prepare(args, cfg)
    if args.dry_run:
        slots = 2 if cfg.optimizer == 'adam' else 1
        cli.dry_run(cfg, data.input_fn, loss_of, slots, parts=cfg.accumulate)
        return
    train(cfg, args)
    cli.write_result(cfg, args, evaluate.accuracy)


if __name__ == '__main__':
    sys.exit(main())
