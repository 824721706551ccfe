"""Online training: one copy of the network an object, on its first frame and mask (OSMN section
4.4).

    python -m OSMN.online --data_path=DAVIS --checkpoint=run --output_path=online --devices=0,1,2,3

Every object of every sequence trains in a process of its own; a queue keeps one process on each
device. Finished ones are skipped when the command is given again, a killed one goes on from its
checkpoint.
"""

from __future__ import annotations

import os
import sys

import tensorflow.compat.v1 as tf
from easydict import EasyDict

from common import masks
from common.videos import numbers

from . import cli, train
from .config import get_config
from .videos import DATASETS, find, resolve


def settings(cfg, item: tuple, parent: str) -> EasyDict:
    """Settings of one online training.

    Args:
      cfg: of the parent. item: an example of data.examples(): the first frame is guide, previous
      frame and target. parent: prefix of the parent's checkpoint.
    """
    steps = cfg.online_steps
    scales = cfg.scales if cfg.base_model != 'lite' else [1.0]
    return EasyDict(
        cfg, examples=[item], height=cfg.test_height, width=cfg.test_width or cfg.width,
        scales=scales, batch_size=len(scales), init_from=parent, start_step=0, train_steps=steps,
        learning_rate=cfg.online_learning_rate, lr_boundaries=[], lr_values=[1.0],
        fix_seg=False,  # all weights are trained
        fix_bn=True,  # statistics of one heat map would be useless
        checkpoint_steps=max(1, steps // 4), keep_checkpoints=1, log_steps=max(1, steps // 5),
        iterations_per_loop=1,
    )  # fmt: skip


def finetune(cfg, item: tuple, parent: str, output_path: str) -> str:
    """Trains on one frame and returns the checkpoint's prefix; goes on from what `output_path`
    holds."""
    run = settings(cfg, item, parent)
    cli.resume(run, cli.writable(output_path))
    cli.save_settings(cfg, output_path)  # the parent's: evaluate takes its sizes
    return train.train(run, output_path)


def first_item(video, number: int, folder: str) -> tuple:
    """The example of an object's first frame; its mask is written to `folder` as a file."""
    t = min(t for t, ids in video.given.items() if number in ids)
    path = os.path.join(cli.writable(folder), 'first_mask.png')
    masks.write_mask(path, video.given[t])
    return video.frames[t], path, path, video.frames[t], path, number


def trained(path: str, steps: int) -> bool:
    """Whether the folder holds the checkpoint of the last step."""
    latest = tf.train.latest_checkpoint(path)
    return bool(latest) and int(latest.rsplit('-', 1)[1]) >= steps


def train_all(argv: list[str], todo: list[tuple], output_path: str, devices: list[str]) -> None:
    """Trains [(video name, object id)], each in a process of its own.

    Raises:
      RuntimeError: naming the ones that failed and their logs, after the others have ended.
    """
    logs = [
        os.path.join(cli.writable(output_path), f'{name}_{number}.log') for name, number in todo
    ]
    program = [sys.executable, '-m', f'{cli.MODEL.name}.online'] + argv
    commands = [program + [f'--sequences={name}', f'--object={number}'] for name, number in todo]
    results = cli.run_queue(list(zip(commands, logs)), devices)
    failed = [log for log, status in zip(logs, results) if status]
    if failed:
        raise RuntimeError(
            f'{len(failed)} of {len(todo)} online trainings failed, see ' + ', '.join(failed)
        )
    print(f'{len(todo)} online trainings are in {output_path}', flush=True)


@cli.program
def main(argv=None):
    """Trains every object asked for; fails where one of them does, after the others have run."""
    argv = sys.argv[1:] if argv is None else list(argv)
    flags = cli.parser(__doc__)
    flags.add_argument('--data_path', help='data tree; default on CPU: drawn data')
    flags.add_argument('--checkpoint', required=True, help='of the parent: folder or prefix')
    flags.add_argument('--output_path', default='online')
    flags.add_argument('--dataset', choices=DATASETS, help='default: as trained, or davis')
    flags.add_argument('--sequences', help='a,b; default: the split')
    flags.add_argument('--split', default='', help="default: val, YouTube-VOS 'valid'")
    flags.add_argument('--online_steps', type=int, help='updates an object')
    flags.add_argument('--devices', default=os.environ.get('ASCEND_DEVICE_ID', '0'), help='0,1,2,3')
    flags.add_argument('--object', type=int, help='train this id in this process')
    args = flags.parse_args(argv)
    cfg = cli.configure(args, get_config, args.checkpoint)
    cfg.online_steps = args.online_steps or cfg.online_steps
    dataset = args.dataset or ('davis' if cfg.dataset == 'coco' else cfg.dataset)
    root = resolve(cli.data_root(args, cfg), dataset)
    found = find(root, dataset, args.split, args.sequences, cfg.year)
    parent = cli.checkpoint_prefix(args.checkpoint)
    output_path = os.path.abspath(args.output_path)
    if args.object is None:
        todo = [(video.name, n) for video in found for n in numbers(video)]
        done = [
            (name, n)
            for name, n in todo
            if trained(os.path.join(output_path, f'{name}_{n}'), cfg.online_steps)
        ]
        print(f'{len(todo)} to train, {len(done)} of them done already', flush=True)
        todo = [unit for unit in todo if unit not in done]
        train_all(argv + [f'--data_path={root}'], todo, output_path, args.devices.split(','))
        return
    for video in found:
        folder = os.path.join(output_path, f'{video.name}_{args.object}')
        finetune(cfg, first_item(video, args.object, folder), parent, folder)


if __name__ == '__main__':
    sys.exit(main())
