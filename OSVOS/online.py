"""Online training: one copy of the parent network a sequence, on its first frame and mask (OSVOS
section 3.2).

    python -m OSVOS.online --data_path=DAVIS --checkpoint=run --output_path=online --devices=0,1,2,3

Every sequence (2017: every object of it) trains in a process of its own; a queue keeps one process
on each device. Finished ones are skipped when the command is given again, a killed one goes on from
its checkpoint; both only where parent, first frame, mask and settings are the same. Hosts with a
common drive share the work when each is given the same command.
"""

from __future__ import annotations

import argparse
import os
import sys

from easydict import EasyDict

from common import files, masks, processes, videos, weights

from . import cli, data, evaluate, inference, pretrained, train
from .config import get_config

MOST_RATE = 1e3  # a learning rate above it is a mistake
FACTS = (  # settings that an online training depends on
    'online_steps', 'online_accumulate', 'optimizer', 'schedule', 'momentum', 'weight_decay',
    'flip', 'rotation', 'scale', 'height', 'seed',
)  # fmt: skip


def learning_rate(cfg, image_path: str) -> float:
    """The rate for a sequence, told by the folder of its frames: cfg.online_learning_rate, unless
    the table cfg.online_rates has one."""
    table = files.read_json(cfg.online_rates) if cfg.online_rates else {}
    name = os.path.basename(os.path.dirname(os.path.abspath(image_path)))
    rate = table.get(name, cfg.online_learning_rate) if isinstance(table, dict) else None
    if not files.is_number(rate, sys.float_info.min, MOST_RATE):
        raise ValueError(f'{cfg.online_rates}: {name}: expected a learning rate, not {rate!r:.60}')
    return float(rate)


def settings(cfg, pair: tuple, parent: str) -> EasyDict:
    """Settings of one online training.

    Args:
      cfg: of the parent.
      pair: (image path, mask path, object id or 0).
      parent: prefix of the parent's checkpoint.
    """
    height, width = data.network_size(*masks.read_image(pair[0]).shape[:2], cfg)
    steps = cfg.online_steps
    return EasyDict(
        cfg,
        pairs=[pair],
        height=height,
        width=width,
        init_from=parent,
        train_steps=steps,
        train_epochs=steps,
        batch_size=cfg.online_accumulate,
        accumulate=cfg.online_accumulate,
        learning_rate=learning_rate(cfg, pair[0]),
        schedule='warmup' if cfg.schedule == 'warmup' else 'constant',
        side_schedule='none',
        checkpoint_steps=max(1, steps // 4),
        keep_checkpoints=1,
        log_steps=max(1, steps // 5),
        iterations_per_loop=1,
    )


def finetune(cfg, pair: tuple, parent: str, output_path: str) -> str:
    """Trains on one frame and returns the checkpoint's prefix; goes on from what `output_path`
    holds, where that was made from the same.

    Args:
      cfg: of the parent.
      pair: (image path, mask path, object id or 0).
      parent: prefix of the parent's checkpoint.
      output_path: folder of the checkpoints.

    Raises:
      ValueError: the mask has no pixel of the object; the folder holds another online training.
    """
    if not data.load(*pair)[1].any():
        raise ValueError(f'{pair[1]}: no pixel of the object, nothing to train on')
    files.claim(output_path, facts(cfg, pair, parent))
    run = settings(cfg, pair, parent)
    return train.train(run, argparse.Namespace(output_path=output_path), saved=cfg)


def facts(cfg, pair: tuple, parent: str) -> dict:
    """What an online training is made from, for files.claim()."""
    return {
        'parent': files.fingerprint(f'{parent}.index'),
        'frame': files.fingerprint(pair[0]),
        'mask': files.fingerprint(pair[1]),
        'object': pair[2],
        'online_learning_rate': learning_rate(cfg, pair[0]),
        **{name: cfg[name] for name in FACTS},
    }


def trained(cfg, pair: tuple, parent: str, folder: str) -> bool:
    """Whether the folder holds the checkpoint of the last step of this online training.

    Raises:
      ValueError: it holds one that was made from something else.
    """
    if not os.path.isfile(os.path.join(folder, 'checkpoint')):
        return False
    files.claim(folder, facts(cfg, pair, parent))
    return int(weights.checkpoint_prefix(folder).rsplit('-', 1)[1]) >= cfg.online_steps


def unfinished(cfg, units: list[tuple], parent: str, output_path: str) -> list[tuple]:
    """Those of `units`, [(video, object id)], whose online training has not ended; raises as
    trained()."""
    left = []
    for video, number in units:
        pair = inference.first_example(video, number)
        if not trained(cfg, pair, parent, inference.folder(output_path, video.name, number)):
            left.append((video, number))
    return left


def train_all(argv: list[str], todo: list[tuple], output_path: str, devices: list[str]) -> None:
    """Trains [(video, object id)], each in a process of its own.

    Raises:
      RuntimeError: naming the ones that failed and their logs, after the others have ended.
    """
    folder = cli.writable(output_path)
    program = [sys.executable, '-m', f'{cli.MODEL.name}.online', *argv]
    jobs = []
    for video, number in todo:
        command = [*program, f'--sequences={video.name}', f'--object={number}']
        jobs.append((command, inference.folder(folder, video.name, number) + '.log'))
    statuses = processes.run_queue(jobs, devices)
    failed = [log for (_, log), status in zip(jobs, statuses) if status]
    if failed:
        raise RuntimeError(
            f'{len(failed)} of {len(todo)} online trainings failed, see {", ".join(failed)}'
        )


def arguments():
    """The program's flags."""
    flags = cli.parser(__doc__)
    cli.add_evaluation_flags(flags, evaluate.DATASETS)
    flags.set_defaults(output_path='online')
    flags.add_argument('--online_steps', type=cli.positive, help='updates a sequence')
    flags.add_argument('--devices', default=os.environ.get('ASCEND_DEVICE_ID', '0'), help='0,1,2,3')
    flags.add_argument('--object', type=int, help='train this id (0: all as one) in this process')
    return flags


@cli.program
def main(argv=None):
    """Trains every sequence asked for; fails where one of them does, after the others have run."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = arguments().parse_args(argv)
    pretrained.choose(args)
    cfg = cli.configure(args, get_config, args.checkpoint)
    cfg.online_steps = args.online_steps or cfg.online_steps
    root = cli.data_root(args, cfg)
    found = videos.find(root, args.dataset or cfg.dataset, args.split, args.sequences, cfg.year)
    parent = weights.checkpoint_prefix(args.checkpoint)
    if args.object is not None:
        for video in found:
            pair = inference.first_example(video, args.object)
            folder = inference.folder(args.output_path, video.name, args.object)
            try:
                finetune(cfg, pair, parent, folder)
            except BlockingIOError as error:  # as on another host
                print(error, flush=True)
        return
    cli.say_weights(cfg, parent)
    todo = unfinished(cfg, inference.units(found), parent, args.output_path)
    print(f'{len(todo)} online trainings to do', flush=True)
    argv = [*argv, f'--data_path={root}']
    train_all(argv, todo, args.output_path, args.devices.split(','))
    left = [video.name for video, _ in unfinished(cfg, todo, parent, args.output_path)]
    folder = os.path.abspath(args.output_path)
    print(f'{len(todo) - len(left)} online trainings are in {folder}', flush=True)
    if left:
        print(f'not ended yet, another program trains them: {", ".join(left)}', flush=True)


if __name__ == '__main__':
    sys.exit(main())
