"""Segments DAVIS or YouTube-VOS videos and scores them: J, F, T of DAVIS, and the pixel Dice that
MindSpore calls F1.

    python -m OSVOS.evaluate --data_path=DAVIS --checkpoint=run --output_path=out
    python -m OSVOS.evaluate --data_path=DAVIS --online_path=online --output_path=out

Without --online_path the parent network alone segments: no first mask is used. Writes
masks/<sequence>/<frame>.png, the two official CSV files, results.json and, with --overlay, a
contact sheet and an MP4 a sequence.
"""

from __future__ import annotations

import glob
import os
import sys

from common import masks, metrics, report, videos, weights
from common.lazy import np

from . import cli, inference, pretrained
from .config import PAPER, get_config

DATASETS = ('davis', 'youtube_vos')


def dice(video, output_path: str) -> float:
    """2|A and B| / (|A| + |B|) over all pixels of all frames of a video with ground truth
    (MindSpore evaluation_davis.py)."""
    both = sizes = 0
    for name, path in video.truth:
        truth = videos.binary(masks.read_mask(path)) > 0
        written = os.path.join(output_path, video.folder, name + '.png')
        result = masks.read_mask(written) > 0
        both += 2 * np.count_nonzero(truth & result)
        sizes += np.count_nonzero(truth) + np.count_nonzero(result)
    return both / sizes if sizes else 1.0


def run(options, cfg) -> dict:
    """Segments, scores and draws; returns the scores.

    Args:
      options: attributes data_path, dataset, split, sequences, checkpoint or online_path,
        output_path, overlay, stability, as arguments() has them.
      cfg: settings of the network.
    """
    found = videos.find(
        options.data_path, options.dataset, options.split, options.sequences, cfg.year
    )
    output_path = cli.writable(options.output_path)
    cli.lock(output_path)
    drive = dict(settings=cfg, set_name=options.split or 'val', overlay=options.overlay)
    drive['stability'] = options.stability
    drive['paper'] = PAPER.get(f'{options.dataset} {cfg.year}')
    if options.online_path:
        with inference.load_in_turn(cfg) as take:

            def segment(video):
                networks = inference.networks_of(video, options.online_path, take)
                return inference.segment(networks, cfg, videos.Frames(video.frames), {})

            results = videos.evaluate(found, segment, output_path, **drive)
    else:
        with inference.load(options.checkpoint, cfg) as parent:

            def segment(video):
                return inference.segment({0: parent}, cfg, videos.Frames(video.frames), {})

            results = videos.evaluate(found, segment, output_path, **drive)
    if results:
        results['dice'] = {video.name: dice(video, output_path) for video in found}
        metrics.write_results(results, output_path, options.split or 'val')
    return results


def accuracy(cfg, data_path: str, checkpoint: str, output_path: str) -> float | None:
    """J&F-Mean, 0..1, of the parent network on the validation sequences; None, with a line that
    says so, where there are none."""
    options = cli.options(
        arguments(), data_path=data_path, checkpoint=checkpoint, output_path=output_path
    )
    options.dataset = cfg.dataset
    try:
        return run(options, cfg)['global']['J&F-Mean']
    except FileNotFoundError as error:
        print(f'no TrainAccuracy: {error}', flush=True)
        return None


def arguments():
    """The program's flags."""
    flags = cli.parser(__doc__)
    cli.add_evaluation_flags(flags, DATASETS)
    flags.add_argument('--online_path', help='folder that OSVOS.online wrote')
    flags.add_argument('--stability', action='store_true', help='temporal stability T too; slow')
    return flags


def first_run(online_path: str) -> str:
    """The first finished training in a folder of online trainings: its settings are those of
    all.

    Raises:
      FileNotFoundError: there is none.
    """
    for path in sorted(glob.glob(os.path.join(glob.escape(online_path), '*', 'checkpoint'))):
        return os.path.dirname(path)
    raise FileNotFoundError(
        f'no online trainings in {os.path.abspath(online_path)}; python -m OSVOS.online writes them'
    )


@cli.program
def main(argv=None):
    """Prints J and F a sequence, the official means and the mean Dice."""
    args = arguments().parse_args(argv)
    if not args.online_path:
        pretrained.choose(args)
    checkpoint = first_run(args.online_path) if args.online_path else args.checkpoint
    cfg = cli.configure(args, get_config, checkpoint)
    cli.say_weights(cfg, weights.checkpoint_prefix(checkpoint))
    args.data_path, args.dataset = cli.data_root(args, cfg), args.dataset or cfg.dataset
    results = run(args, cfg)
    videos.print_scores(results)
    if results:
        print(f'Dice {np.mean(list(results["dice"].values())):.4f}')
        if args.report:
            report.write([args.output_path], os.path.join(args.output_path, 'report.html'))


if __name__ == '__main__':
    sys.exit(main())
