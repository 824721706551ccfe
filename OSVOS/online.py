"""Online training: one copy of the parent network a sequence, on its first frame and mask (OSVOS
section 3.2).

    python -m OSVOS.online --data_path=DAVIS --checkpoint=run --output_path=online --devices=0,1,2,3

Every sequence (2017: every object of it) trains in a process of its own; a queue keeps one process
on each device. Finished ones are skipped when the command is given again, a killed one goes on from
its checkpoint.
"""

from __future__ import annotations

import os
import sys

import numpy as np
import tensorflow.compat.v1 as tf
from easydict import EasyDict

from common import davis, masks

from . import cli, data, npu, train
from .config import get_config


def settings(cfg, pair: tuple, parent: str) -> EasyDict:
    """Settings of one online training.

    Args:
      cfg: of the parent.
      pair: (image path, mask path, object id or 0).
      parent: prefix of the parent's checkpoint.
    """
    height, width = masks.read_image(pair[0]).shape[:2]
    height, width = data.network_size(height, width, cfg)
    steps = cfg.online_steps
    return EasyDict(
        cfg, pairs=[pair], height=height, width=width, init_from=parent, start_step=0,
        train_steps=steps, train_epochs=steps, batch_size=cfg.online_accumulate,
        accumulate=cfg.online_accumulate, learning_rate=cfg.online_learning_rate,
        schedule='warmup' if cfg.schedule == 'warmup' else 'constant', side_schedule='none',
        checkpoint_steps=max(1, steps // 4), keep_checkpoints=1, log_steps=max(1, steps // 5),
        iterations_per_loop=1,
    )  # fmt: skip


def finetune(cfg, pair: tuple, parent: str, output_path: str) -> str:
    """Trains on one frame and returns the checkpoint's prefix; goes on from what `output_path`
    holds.

    Raises:
      ValueError: the mask has no pixel of the object.
    """
    mask = data.load(*pair)[1]
    if not mask.any():
        raise ValueError(f'{pair[1]}: no pixel of the object, nothing to learn from')
    run = settings(cfg, pair, parent)
    cli.resume(run, cli.writable(output_path))
    cli.save_settings(cfg, output_path)  # the parent's: its height is every frame's short side
    estimator = npu.estimator(train.model_fn, run, output_path)
    estimator.train(
        lambda: data.input_fn(run, True), max_steps=run.train_steps, hooks=[npu.ProgressHook(run)]
    )
    return tf.train.latest_checkpoint(output_path)


def units(root: str, names: list[str], year: str) -> list[tuple]:
    """[(sequence, object id)] to train: id 0, all objects in one, for 2016; each id of frame 0 for
    2017."""
    result = []
    for name in names:
        first = masks.read_mask(davis.masks(root, name)[0])
        numbers = [0] if year == '2016' else [int(n) for n in np.unique(first) if 0 < n < 255]
        result += [(name, number) for number in numbers]
    return result


def asked(args, root: str, cfg) -> list[str]:
    """The sequences of --sequences, or those of --split."""
    if args.sequences:
        return args.sequences.split(',')
    return davis.sequences(root, args.split, cfg.year)


def folder(output_path: str, name: str, number: int) -> str:
    """Folder of one online training's checkpoints."""
    return os.path.join(output_path, f'{name}_{number}' if number else name)


def trained(path: str, steps: int) -> bool:
    """Whether the folder holds the checkpoint of the last step."""
    latest = tf.train.latest_checkpoint(path)
    return bool(latest) and int(latest.rsplit('-', 1)[1]) >= steps


def train_all(
    argv: list[str], root: str, todo: list[tuple], output_path: str, devices: list[str]
) -> None:
    """Trains [(sequence, object id)], each in a process of its own.

    Raises:
      RuntimeError: naming the ones that failed and their logs, after the others have ended.
    """
    logs = [folder(cli.writable(output_path), *unit) + '.log' for unit in todo]
    program = [sys.executable, '-m', f'{cli.MODEL.name}.online'] + argv
    commands = [
        program + [f'--data_path={root}', f'--sequences={name}', f'--object={number}']
        for name, number in todo
    ]
    results = cli.run_queue(list(zip(commands, logs)), devices)
    failed = [log for log, status in zip(logs, results) if status]
    if failed:
        logs = ', '.join(failed)
        raise RuntimeError(f'{len(failed)} of {len(todo)} online trainings failed, see {logs}')
    print(f'{len(todo)} online trainings are in {output_path}', flush=True)


@cli.program
def main(argv=None):
    """Trains every sequence asked for; fails where one of them does, after the others have run."""
    argv = sys.argv[1:] if argv is None else list(argv)
    flags = cli.parser(__doc__)
    flags.add_argument('--data_path', help='DAVIS tree; default on CPU: drawn data')
    flags.add_argument('--checkpoint', required=True, help='of the parent: folder or prefix')
    flags.add_argument('--output_path', default='online')
    flags.add_argument('--sequences', help='a,b; default: the split')
    flags.add_argument('--split', default='val')
    flags.add_argument('--online_steps', type=int, help='updates a sequence')
    flags.add_argument('--devices', default=os.environ.get('ASCEND_DEVICE_ID', '0'), help='0,1,2,3')
    flags.add_argument('--object', type=int, help='train this id (0: all as one) in this process')
    args = flags.parse_args(argv)
    cfg = cli.configure(args, get_config, args.checkpoint)
    cfg.online_steps = args.online_steps or cfg.online_steps
    root = davis.resolve(cli.data_root(args, cfg))
    parent = cli.checkpoint_prefix(args.checkpoint)
    names = asked(args, root, cfg)
    if args.object is None:
        todo = units(root, names, cfg.year)
        done = [u for u in todo if trained(folder(args.output_path, *u), cfg.online_steps)]
        print(f'{len(todo)} to train, {len(done)} of them done already', flush=True)
        todo = [u for u in todo if u not in done]
        train_all(argv, root, todo, args.output_path, args.devices.split(','))
        return
    for name in names:
        pair = davis.pairs(root, [name])[0] + (args.object,)
        finetune(cfg, pair, parent, folder(args.output_path, name, args.object))


if __name__ == '__main__':
    sys.exit(main())
