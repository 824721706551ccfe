"""Propagates the first masks of the sequences of DAVIS or YouTube-VOS and scores the results.

    python -m ColorNet.evaluate --data_path=DATA --checkpoint=run --output_path=results --overlay

DATA: DAVIS, or with --dataset=youtube_vos YouTube-VOS. --key chooses the features: color, cls,
merge (and q_color, q_cls, q_merge). Writes masks/<sequence>/<frame>.png (YouTube-VOS:
Annotations/<video>/), the scores as CSV and results.json, with --overlay a contact sheet and an MP4
a sequence. --copy writes the first mask for every frame instead: what any network should beat.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys

import cv2
import numpy as np
import tensorflow.compat.v1 as tf

from common import masks, metrics, videos

from . import cli, propagation
from .config import HEAD, get_config


def segmented(network, cfg, video):
    """Ids uint8 [H, W] of every frame of one video; `network` None: the given masks stay."""
    frames = map(masks.read_image, video.frames)
    if network is not None:
        return propagation.propagate(network, cfg, frames, video.given)
    return copied(frames, video.given)


def copied(frames, given: dict):
    """The masks given, unchanged in all later frames."""
    result = None
    for t, image in enumerate(frames):
        result = np.zeros(image.shape[:2], np.uint8) if result is None else result
        result = np.where((given[t] > 0) & (given[t] < 255), given[t], result) if t in given \
            else result  # fmt: skip
        yield result.astype(np.uint8)


def sequence(network, cfg, video, output_path: str) -> None:
    """Writes the masks of one video."""
    folder = cli.writable(os.path.join(output_path, video.folder))
    for path, ids in zip(video.frames, segmented(network, cfg, video)):
        name = videos.stem(path)
        absent = [number for number, shown in video.shown.items() if name not in shown]
        ids = np.where(np.isin(ids, absent), 0, ids).astype(np.uint8) if absent else ids
        masks.write_mask(os.path.join(folder, name + '.png'), ids)
    print(f'{video.name}: {len(video.frames)} masks in {folder}', flush=True)


def score(cfg, found: list, root: str, dataset: str, output_path: str) -> dict:
    """Scores the written masks, writes the CSV files and results.json, returns the results; {}
    where the data has no masks to compare with."""
    if dataset == 'davis':
        folders = [os.path.join(root, 'Annotations', '480p'), os.path.join(output_path, 'masks')]
        results = metrics.evaluate(*folders, [video.name for video in found], year='2017')
    else:
        results = videos.score(found, output_path)
    if results:
        results['config'] = {key: value for key, value in cfg.items() if key != 'examples'}
        results['versions'] = {
            'tensorflow': tf.__version__, 'numpy': np.__version__, 'opencv': cv2.__version__,
        }  # fmt: skip
        metrics.write_results(results, output_path)
    return results


def run(args, cfg) -> dict:
    """Propagates, scores, draws; returns the results."""
    root = videos.resolve(cli.data_root(args, cfg), args.dataset)
    found = videos.find(root, args.dataset, args.split, args.sequences)
    output_path = cli.writable(args.output_path)
    if args.copy:
        loaded = contextlib.nullcontext()
    else:
        loaded = propagation.loaded(cfg, cli.checkpoint_prefix(args.checkpoint))
    with loaded as network:
        for video in found:
            sequence(network, cfg, video, output_path)
    results = score(cfg, found, root, args.dataset, output_path)
    for video in found if args.overlay else ():
        videos.overlays(video, output_path)
    return results


def accuracy(cfg, root: str, checkpoint: str, result_path: str) -> float | None:
    """J&F-Mean, 0..1, on DAVIS's validation sequences, else on 20 training videos of YouTube-VOS;
    None, with a line that says so, where `root` has neither with masks."""
    for dataset, split in (('davis', 'val'), ('youtube_vos', 'train')):
        try:
            tree = videos.resolve(root, dataset)
            found = videos.find(tree, dataset, split)
            found = found if dataset == 'davis' else found[:20]
        except FileNotFoundError as error:
            print(f'no TrainAccuracy on {dataset}: {error}', flush=True)
            continue
        flags = [f'--data_path={tree}', f'--checkpoint={checkpoint}', f'--dataset={dataset}',
                 f'--output_path={result_path}/results', f'--split={split}',
                 f'--sequences={",".join(video.name for video in found)}']  # fmt: skip
        return run(arguments().parse_args(flags), cfg)['global']['J&F-Mean']
    return None


def arguments():
    """The program's flags."""
    flags = cli.parser(__doc__)
    flags.add_argument('--data_path', help='data tree; default on CPU: drawn data')
    flags.add_argument('--checkpoint', help='folder or prefix')
    flags.add_argument('--output_path', default='results')
    flags.add_argument('--dataset', choices=('davis', 'youtube_vos'), default='davis')
    flags.add_argument('--sequences', help='a,b; default: the split')
    flags.add_argument('--split', default='', help="default: val, YouTube-VOS 'valid'")
    flags.add_argument('--key', help='features; default: merge, or the best that there is')
    flags.add_argument('--head', action='store_true', help='radius 25, the last 20 frames')
    flags.add_argument('--overlay', action='store_true', help='draw contact sheets and clips')
    flags.add_argument('--copy', action='store_true', help='no network: copy the first mask')
    return flags


@cli.program
def main(argv=None):
    """Prints J and F of every object, and J&F."""
    args = arguments().parse_args(argv)
    if not args.checkpoint and not args.copy:
        raise ValueError('--checkpoint is needed (or --copy, which needs no network)')
    cfg = cli.configure(args, get_config, args.checkpoint)
    cfg.update(HEAD if args.head else {}, key=args.key or cfg.key)
    results = run(args, cfg)
    for name, row in sorted(results.get('per_sequence', {}).items()):
        print(f'{name:24s} J {row["J-Mean"]:.3f} F {row["F-Mean"]:.3f}')
    print(json.dumps(results['global']) if results else 'no masks to compare with: nothing scored')


if __name__ == '__main__':
    sys.exit(main())
