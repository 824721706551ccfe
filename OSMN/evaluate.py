"""Segments videos from their first masks and scores them: DAVIS, YouTube-VOS, YouTube-Objects.

    python -m OSMN.evaluate --data_path=DAVIS --checkpoint=run --output_path=out
    python -m OSMN.evaluate --data_path=YouTubeVOS --dataset=youtube_vos --split=valid ...

Objects of a frame go through the network together. Writes masks/<sequence>/<frame>.png
(YouTube-VOS: Annotations/<video>/), with --save_score the probabilities of every object, the scores
as CSV and results.json, with --overlay a contact sheet and an MP4 a sequence.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import sys

from common import files, report, weights, youtube_vos
from common import videos as driver
from common.lazy import np

from . import cli, inference, pretrained, videos
from .config import PAPER, get_config

ACCURACY_VIDEOS = 20  # of YouTube-VOS train, the first by name: all 3,471 would take days


def run(options, cfg) -> dict:
    """Segments, scores and draws; returns the scores.

    Args:
      options: attributes data_path, dataset, split, sequences, checkpoint or online_path,
        output_path, overlay, stability, save_score, crf, as arguments() has them.
      cfg: settings of the network.
    """
    found = videos.find(
        options.data_path, options.dataset, options.split, options.sequences, cfg.year
    )
    driver.check_sizes(found)
    output_path = cli.writable(options.output_path)
    cli.lock(output_path)
    if options.save_score:
        noted = json.dumps({key: cfg[key] for key in videos.NOTED})
        os.makedirs(os.path.join(output_path, 'scores'), exist_ok=True)
        files.write_text(os.path.join(output_path, 'scores', 'settings.json'), noted)

    with contextlib.ExitStack() as stack:
        whole = None
        if not options.online_path:
            whole = stack.enter_context(inference.load(options.checkpoint, cfg))

        def segment(video):
            with contextlib.ExitStack() as own:
                network = whole
                if network is None:
                    network = own.enter_context(networks_of(video, options.online_path, cfg))
                visit = saver(video, output_path) if options.save_score else None
                frames = driver.Frames(video.frames)
                yield from inference.segment(network, cfg, frames, video.given, options.crf, visit)

        return driver.evaluate(
            found,
            segment,
            output_path,
            settings=cfg,
            set_name=options.split or 'val',
            overlay=options.overlay,
            stability=options.stability,
            paper=PAPER.get(f'{options.dataset} {cfg.year}'),
        )


@contextlib.contextmanager
def networks_of(video, online_path: str, cfg):
    """{object id: network} of a video's online trainings, for inference.segment()."""
    with contextlib.ExitStack() as stack:
        yield {
            number: stack.enter_context(
                inference.load(videos.online_folder(online_path, video.name, number), cfg)
            )
            for number in driver.numbers(video.given)
        }


def saver(video, output_path: str):
    """A function (frame number, {object id: probabilities}) that writes
    scores/<video>/<id>/<frame>.npy."""

    def save(t, maps):
        for number, map_ in maps.items():
            folder = os.path.join(output_path, 'scores', video.name, str(number))
            os.makedirs(folder, exist_ok=True)
            path = os.path.join(folder, files.stem(video.frames[t]) + '.npy')
            with files.replacing(path) as temporary:
                np.save(temporary, map_)

    return save


def accuracy(cfg, data_path: str, checkpoint: str, output_path: str) -> float | None:
    """J&F-Mean, 0..1, on the validation sequences of DAVIS, after the stage on YouTube-VOS on some
    of its training videos (its others have no masks); None, with a line that says so, where there
    are none."""
    options = cli.options(
        arguments(), data_path=data_path, checkpoint=checkpoint, output_path=output_path
    )
    options.dataset = 'davis'
    try:
        if cfg.dataset == 'youtube_vos':
            options.dataset, options.split = cfg.dataset, 'train'
            root = driver.resolve(data_path, cfg.dataset, cfg.year)
            names = youtube_vos.sequences(root, 'train')
            options.sequences = ','.join(names[:ACCURACY_VIDEOS])
        results = run(options, cfg)
    except FileNotFoundError as error:
        print(f'no TrainAccuracy: {error}', flush=True)
        return None
    return results['global']['J&F-Mean'] if results else None


def first_run(online_path: str) -> str:
    """The first finished training in a folder of online trainings: its settings are those of
    all.

    Raises:
      FileNotFoundError: there is none.
    """
    for path in sorted(glob.glob(os.path.join(glob.escape(online_path), '*', 'checkpoint'))):
        return os.path.dirname(path)
    raise FileNotFoundError(
        f'no online trainings in {os.path.abspath(online_path)}; python -m OSMN.online writes them'
    )


def arguments():
    """The program's flags."""
    flags = cli.parser(__doc__)
    cli.add_evaluation_flags(flags, videos.DATASETS)
    flags.add_argument('--online_path', help='folder that OSMN.online wrote')
    flags.add_argument('--save_score', action='store_true', help='probabilities as .npy')
    flags.add_argument('--crf', action='store_true', help='refine by a CRF; needs pydensecrf')
    flags.add_argument('--stability', action='store_true', help='temporal stability T too; slow')
    return flags


@cli.program
def main(argv=None):
    """Prints J and F of every object, and J&F."""
    args = arguments().parse_args(argv)
    if not args.online_path:
        pretrained.choose(args)
    checkpoint = first_run(args.online_path) if args.online_path else args.checkpoint
    cfg = cli.configure(args, get_config, checkpoint)
    cli.say_weights(cfg, weights.checkpoint_prefix(checkpoint))
    args.data_path = cli.data_root(args, cfg)
    args.dataset = args.dataset or videos.default_dataset(cfg)
    results = run(args, cfg)
    driver.print_scores(results)
    if results and args.report:
        report.write([args.output_path], os.path.join(args.output_path, 'report.html'))


if __name__ == '__main__':
    sys.exit(main())
