"""Propagates the first masks of the videos of DAVIS or YouTube-VOS and scores the results.

    python -m ColorNet.evaluate --data_path=DATA --checkpoint=run --output_path=results --overlay

DATA: DAVIS, or with --dataset=youtube_vos YouTube-VOS. --key chooses the features: color, cls,
merge (and q_color, q_cls, q_merge). Writes masks/<sequence>/<frame>.png (YouTube-VOS:
Annotations/<video>/), the scores as CSV and results.json, with --overlay a contact sheet and an MP4
a video. --copy writes the first mask for every frame instead: what any network should beat.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator

from common import report, videos, weights, youtube_vos
from common.lazy import np

from . import cli, inference, pretrained
from .config import HEAD, PAPER, get_config

DATASETS = ('davis', 'youtube_vos')
ACCURACY_VIDEOS = 20  # of YouTube-VOS's 3,471 training videos that accuracy() segments


def copy_masks(frames: Iterable[np.ndarray], given: dict) -> Iterator[np.ndarray]:
    """Ids uint8 [H, W] of every frame: the masks given so far, unchanged.

    Args:
      frames: uint8 [H, W, 3].
      given: {frame number: ids uint8 [H, W]}.
    """
    ids = None
    for t, frame in enumerate(frames):
        if ids is None:
            ids = np.zeros(frame.shape[:2], np.uint8)
        if t in given:
            shown = (given[t] > 0) & (given[t] < 255)
            ids = np.where(shown, given[t], ids).astype(np.uint8)
        yield ids


def run(options, cfg) -> dict:
    """Propagates, scores and draws; returns the scores.

    Args:
      options: attributes data_path, dataset, split, sequences, checkpoint, copy, output_path,
        overlay, as arguments() has them.
      cfg: settings of the network.
    """
    found = videos.find(
        options.data_path, options.dataset, options.split, options.sequences, cfg.year
    )
    videos.check_sizes(found)
    output_path = cli.writable(options.output_path)
    cli.lock(output_path)
    drive = dict(settings=cfg, set_name=options.split or 'val', overlay=options.overlay)
    drive['paper'] = PAPER.get(f'{options.dataset} {cfg.year}')
    if options.copy:

        def copy(video):
            return copy_masks(videos.Frames(video.frames), video.given)

        return videos.evaluate(found, copy, output_path, **drive)
    with inference.load(options.checkpoint, cfg) as network:

        def segment(video):
            return inference.segment(network, cfg, videos.Frames(video.frames), video.given)

        return videos.evaluate(found, segment, output_path, **drive)


def accuracy(cfg, data_path: str, checkpoint: str, output_path: str) -> float | None:
    """J&F-Mean, 0..1, on DAVIS's validation sequences, else on 20 training videos of YouTube-VOS;
    None, with a line that says so, where `data_path` has neither with masks."""
    options = cli.options(
        arguments(), data_path=data_path, checkpoint=checkpoint, output_path=output_path
    )
    reasons = []
    for dataset, split in (('davis', 'val'), ('youtube_vos', 'train')):
        options.dataset, options.split = dataset, split
        try:
            root = videos.resolve(data_path, dataset, cfg.year)
            if dataset == 'youtube_vos':
                names = youtube_vos.sequences(root, split)[:ACCURACY_VIDEOS]
                options.sequences = ','.join(names)
                print(f'TrainAccuracy on {len(names)} training videos of YouTube-VOS', flush=True)
            results = run(options, cfg)
        except FileNotFoundError as error:
            reasons.append(str(error))
            continue
        if results:
            return results['global']['J&F-Mean']
        reasons.append(f'{root} has no ground truth of its {split} videos')
    print(f'no TrainAccuracy: {"; ".join(reasons)}', flush=True)
    return None


def add_propagation_flags(flags) -> None:
    """Flags of label propagation, which demo has too."""
    flags.add_argument('--key', help='features; default: merge, or the best that there is')
    flags.add_argument('--head', action='store_true', help='radius 25, the last 20 frames')


def take_propagation_flags(args, cfg) -> None:
    """Puts --key and --head into the settings."""
    if args.head:
        cfg.update(HEAD)
    if args.key:
        cfg.key = args.key


def arguments():
    """The program's flags."""
    flags = cli.parser(__doc__)
    cli.add_evaluation_flags(flags, DATASETS)
    add_propagation_flags(flags)
    flags.add_argument('--copy', action='store_true', help='no network: copy the first mask')
    return flags


@cli.program
def main(argv=None):
    """Prints J and F of every object, and J&F."""
    args = arguments().parse_args(argv)
    if not args.copy:
        pretrained.choose(args)
    cfg = cli.configure(args, get_config, args.checkpoint)
    take_propagation_flags(args, cfg)
    if not args.copy:
        cli.say_weights(cfg, weights.checkpoint_prefix(args.checkpoint))
    args.data_path, args.dataset = cli.data_root(args, cfg), args.dataset or 'davis'
    results = run(args, cfg)
    videos.print_scores(results)
    if results and args.report:
        report.write([args.output_path], os.path.join(args.output_path, 'report.html'))


if __name__ == '__main__':
    sys.exit(main())
