"""Online training: one copy of the network an object, on its first frame and mask (OSMN section
4.4).

    python -m OSMN.online --data_path=DAVIS --checkpoint=run --output_path=online --devices=0,1,2,3

Every object of every sequence trains in a process of its own; a queue keeps one process on each
device. Finished ones are skipped when the command is given again, a killed one goes on from its
checkpoint; both only where parent, first frame, mask and settings are the same. Hosts with a
common drive share the work when each is given the same command.
"""

from __future__ import annotations

import argparse
import os
import sys

from easydict import EasyDict

from common import files, masks, processes, weights
from common import videos as driver
from common.files import stem

from . import cli, data, pretrained, train, videos
from .config import get_config


def settings(cfg, item: data.VideoItem, parent: str) -> EasyDict:
    """Settings of one online training: the size is that of the evaluation.

    Args:
      cfg: of the parent.
      item: the first frame is guide, previous frame and target.
      parent: prefix of the parent's checkpoint.
    """
    steps = cfg.online_steps
    height, width = data.network_size(masks.read_image(item.frame).shape[:2], cfg)
    scales = [1.0] if cfg.base_model == 'lite' else list(cfg.online_scales)
    return EasyDict(
        cfg,
        examples=[item],
        height=height,
        width=width,
        scales=scales,
        batch_size=len(scales),
        init_from=parent,
        train_steps=steps,
        learning_rate=cfg.online_learning_rate,
        lr_boundaries=[],
        lr_values=[1.0],
        fix_seg=False,  # all weights are trained
        fix_bn=True,  # statistics of one heat map would be useless
        checkpoint_steps=max(1, steps // 4),
        keep_checkpoints=1,
        log_steps=max(1, steps // 5),
        iterations_per_loop=1,
    )


def finetune(cfg, item: data.VideoItem, parent: str, output_path: str) -> str:
    """Trains on one frame and returns the checkpoint's prefix; goes on from what `output_path`
    holds, where that was made from the same.

    Args:
      cfg: of the parent.
      item: of first_item().
      parent: prefix of the parent's checkpoint.
      output_path: folder of the checkpoints.

    Raises:
      ValueError: frame and mask differ in size; the folder holds another online training.
    """
    run = settings(cfg, item, parent)
    data.load_video(item, (run.height, run.width))  # refuses what does not fit together
    files.claim(output_path, facts(cfg, item, parent))
    # the parent's settings are kept: evaluate takes its sizes
    return train.train(run, argparse.Namespace(output_path=output_path), saved=cfg)


def facts(cfg, item: data.VideoItem, parent: str) -> dict:
    """What an online training is made from, for files.claim()."""
    names = ('online_learning_rate', 'online_scales', 'test_height', 'test_width', 'seed')
    return {
        'parent': files.fingerprint(f'{parent}.index'),
        'frame': files.fingerprint(item.frame),
        'mask': files.fingerprint(item.mask),
        'object': item.number,
        **{name: cfg[name] for name in names},
    }


def first_item(video, number: int) -> data.VideoItem:
    """The example of an object's first frame; of a union the object is all of its mask."""
    frame = video.frames[driver.starts(video.given)[number]]
    mask = dict(video.truth)[stem(frame)]
    return data.VideoItem(frame, mask, mask, frame, mask, 0 if video.union else number)


def trained(cfg, item: data.VideoItem, parent: str, folder: str) -> bool:
    """Whether the folder holds the checkpoint of the last step of this online training.

    Raises:
      ValueError: it holds one that was made from something else.
    """
    if not os.path.isfile(os.path.join(folder, 'checkpoint')):
        return False
    files.claim(folder, facts(cfg, item, parent))
    return int(weights.checkpoint_prefix(folder).rsplit('-', 1)[1]) >= cfg.online_steps


def unfinished(cfg, units: list[tuple], parent: str, output_path: str) -> list[tuple]:
    """Those of `units`, [(video, object id)], whose online training has not ended; raises as
    trained()."""
    left = []
    for video, number in units:
        folder = videos.online_folder(output_path, video.name, number)
        if not trained(cfg, first_item(video, number), parent, folder):
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
        jobs.append((command, videos.online_folder(folder, video.name, number) + '.log'))
    statuses = processes.run_queue(jobs, devices)
    failed = [log for (_, log), status in zip(jobs, statuses) if status]
    if failed:
        raise RuntimeError(
            f'{len(failed)} of {len(todo)} online trainings failed, see {", ".join(failed)}'
        )


def arguments():
    """The program's flags."""
    flags = cli.parser(__doc__)
    cli.add_evaluation_flags(flags, videos.DATASETS)
    flags.set_defaults(output_path='online')
    flags.add_argument('--online_steps', type=cli.positive, help='updates an object')
    flags.add_argument('--devices', default=os.environ.get('ASCEND_DEVICE_ID', '0'), help='0,1,2,3')
    flags.add_argument('--object', type=int, help='train this id in this process')
    return flags


@cli.program
def main(argv=None):
    """Trains every object asked for; fails where one of them does, after the others have run."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = arguments().parse_args(argv)
    pretrained.choose(args)
    cfg = cli.configure(args, get_config, args.checkpoint)
    cfg.online_steps = args.online_steps or cfg.online_steps
    root, dataset = cli.data_root(args, cfg), args.dataset or videos.default_dataset(cfg)
    found = videos.find(root, dataset, args.split, args.sequences, cfg.year)
    parent = weights.checkpoint_prefix(args.checkpoint)
    if args.object is not None:
        for video in found:
            folder = videos.online_folder(args.output_path, video.name, args.object)
            try:
                finetune(cfg, first_item(video, args.object), parent, folder)
            except BlockingIOError as error:  # as on another host
                print(error, flush=True)
        return
    cli.say_weights(cfg, parent)
    units = [(video, number) for video in found for number in driver.numbers(video.given)]
    todo = unfinished(cfg, units, parent, args.output_path)
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
