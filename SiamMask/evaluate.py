"""Tracks and scores: VOT (accuracy, robustness, EAO), OTB (success, precision) and video object
segmentation (J, F).

    python -m SiamMask.evaluate --data_path=VOT2018.json --checkpoint=run --output_path=out
    python -m SiamMask.evaluate --data_path=VOT2018.json --results=out       (scores result files)
    python -m SiamMask.evaluate --data_path=OTB --dataset=otb --checkpoint=run --output_path=out
    python -m SiamMask.evaluate --data_path=DAVIS --dataset=davis --checkpoint=run [--overlay]

VOT: by the supervised protocol, results in <output_path>/<tracker>/baseline/<video>/<video>_001.txt
as the official toolkits read them; a video that has its file is not tracked again. otb: one pass
from the first box, results in <output_path>/<tracker>/<video>.txt, the same of --results. davis and
youtube_vos: every object from its first mask's box, masks as palette PNGs. --sweep takes every
checkpoint of a folder, --search=penalty_k=0.08,0.13,0.01 (once a parameter) a grid of settings
(tune_vot.py, tune_vos.py). --hyper, --config and --set win over what the checkpoint was saved with.
"""

from __future__ import annotations

import itertools
import os
import sys

from common import davis, files, masks, metrics, report, videos, weights
from common.files import stem
from common.lazy import np

from . import cli, evaluate_otb, evaluate_vot, inference, pretrained, tracker, vot
from .config import HYPER, PAPER, TRACKING, get_config, tracking_settings

DATASETS = ('vot', 'otb', 'davis', 'youtube_vos')
THRESHOLDS = tuple(k / 100 for k in range(30, 81, 5))  # of mean IoU (PT tools/tune_vos.py)


def run(options, cfg) -> dict:
    """Tracks, scores and draws.

    Args:
      options: flags of arguments() as attributes; data_path and dataset are set.
      cfg: settings of the network.

    Returns:
      {tracker: scores}: of VOT accuracy, robustness, eao ...; of the others `global` (of OTB AUC,
      precision),
      `per_sequence` ..., {} without ground truth.
    """
    if options.dataset == 'vot':
        return evaluate_vot.run(options, cfg, benchmark(options, cfg))
    if options.dataset == 'otb':
        return evaluate_otb.run(options, cfg, benchmark(options, cfg))
    found = videos.find(
        options.data_path, options.dataset, options.split, options.sequences, cfg.year
    )
    most = max(len(videos.numbers(video.given)) for video in found)
    todo = evaluate_vot.trackers(options, cfg, benchmark(options, cfg))
    rows = {}
    for prefix, same in itertools.groupby(todo, lambda each: each.checkpoint):
        with inference.load(prefix, inference.settings_for(cfg, most)) as network:
            for each in same:
                folder = cli.writable(options.output_path)
                if not (options.search or options.sweep):  # which several processes share
                    cli.lock(folder)
                if len(todo) > 1:
                    folder = cli.writable(os.path.join(folder, each.name))
                rows[each.name] = segment_videos(found, network, each, folder, options, cfg)
    return rows


def segment_videos(found: list, network, each, folder: str, options, cfg) -> dict:
    """Segments videos with one tracker and scores them; results.json has the mean IoU at several
    thresholds (PT MultiBatchIouMeter) beside J and F.

    Args:
      found: of common.videos.find().
      network: of inference.load().
      each: the evaluate_vot.Tracker.
      folder: of the results. In a search, one that has results.json is kept, so that several
        processes can share it.
      options: flags.
      cfg: of the network.

    Raises:
      ValueError: the folder has results of something else.
    """
    if options.search or options.sweep:
        made = {
            'checkpoint': files.fingerprint(f'{each.checkpoint}.index'),
            'videos': [video.name for video in found],
            'year': cfg.year,
            **each.hyper,
        }
        files.claim(folder, made)
        done = os.path.join(folder, 'results.json')
        if os.path.isfile(done):
            return files.read_json(done)
    shares = {}

    def segment(video):
        steps = tracker.segment(
            network, videos.Frames(video.frames), video.given, each.hyper, last_frames(video)
        )
        for t, (ids, states) in enumerate(steps):
            for number, row in ious(video, t, states).items():
                shares.setdefault(f'{video.name}_{number}', []).append(row)
            yield ids

    set_name = options.split or ('val' if options.dataset == 'davis' else 'valid')
    results = videos.evaluate(
        found,
        segment,
        folder,
        settings={**cfg, **each.hyper},
        set_name=set_name,
        overlay=options.overlay,
        paper=PAPER.get(f'{options.dataset} {cfg.year}'),
    )
    for name, values in shares.items():
        if name in results.get('per_sequence', {}):
            means = np.mean(values, axis=0)
            results['per_sequence'][name].update(
                {f'IoU@{v:.2f}': float(mean) for v, mean in zip(THRESHOLDS, means)}
            )
    if results:
        metrics.write_results(results, folder, set_name)
    return results


def last_frames(video) -> dict:
    """{object id: number of the last frame that may show it}, of objects that not all frames
    may."""
    order = {stem(path): t for t, path in enumerate(video.frames)}
    return {number: max(order[name] for name in names) for number, names in video.shown.items()}


def ious(video, t: int, states: dict) -> dict:
    """{object id: IoU at each of THRESHOLDS} in frame t, for objects that began before and do not
    end with it; {} without ground truth."""
    path = dict(video.truth).get(stem(video.frames[t]))
    if path is None or not states:
        return {}
    begins, ends = videos.starts(video.given), last_frames(video)
    maps = np.stack([state['mask'] for state in states.values()])
    best, probability = maps.argmax(0), maps.max(0)
    truth = masks.read_mask(path)
    result = {}
    for i, number in enumerate(states):
        if begins[number] < t < ends.get(number, len(video.frames) - 1):
            wanted = videos.binary(truth, 0 if video.union else number)
            result[number] = [
                metrics.db_eval_iou(wanted, (best == i) & (probability > threshold))
                for threshold in THRESHOLDS
            ]
    return result


def benchmark(options, cfg) -> str:
    """Row of config.HYPER: --hyper, else by network and data set."""
    if options.hyper:
        return options.hyper
    if options.dataset not in ('vot', 'otb'):
        return 'davis'
    return 'vot' if cfg.variant == 'sharp' else 'base'


def accuracy(cfg, data_path: str, checkpoint: str, output_path: str) -> float | None:
    """Of the model zoo's result block, 0..1, from what the data folder holds: EAO of VOT sequences
    that are long enough for it, else their mean overlap (0 where lost); J&F of DAVIS; None, with a
    line that says so, where it has neither."""
    options = cli.options(
        arguments(), data_path=data_path, checkpoint=checkpoint, output_path=output_path
    )
    places = [os.path.join(data_path, name) for name in (*vot.INTERVALS, 'VOT')]
    places = [path for path in places if os.path.isdir(path)]
    if places:
        options.data_path, options.dataset = places[0], 'vot'
        (scores,) = run(options, cfg).values()
        name = 'mean_overlap' if np.isnan(scores['eao']) else 'eao'
        print(f'TrainAccuracy: {name} of {places[0]}', flush=True)
        return scores[name]
    try:
        options.data_path, options.dataset = davis.resolve(data_path, cfg.year), 'davis'
        (scores,) = run(options, cfg).values()
    except FileNotFoundError as error:
        print(f'no TrainAccuracy: no VOT sequences in {data_path}; {error}', flush=True)
        return None
    if not scores:
        print(f'no TrainAccuracy: no ground truth in {options.data_path}', flush=True)
        return None
    print('TrainAccuracy: J&F of DAVIS', flush=True)
    return scores['global']['J&F-Mean']


def arguments():
    """The program's flags."""
    flags = cli.parser(__doc__)
    cli.add_evaluation_flags(flags, DATASETS)
    add = flags.add_argument
    add('--hyper', choices=sorted(HYPER), help='published settings; default: by data and network')
    add('--config', help='a config.json of the original, whose "hp" is taken')
    add('--sweep', action='store_true', help='all checkpoints of the folder')
    add('--search', action='append', help='NAME=start,stop,step of a grid')
    add('--boxes', action='store_true', help='VOT: axis-aligned boxes (SiamMask-box)')
    add('--interval', help='VOT: frames low,high of EAO, or VOT2016 ...; default: by the name')
    add('--results', help='VOT, OTB: score the result files in this folder, of one tracker or more')
    add('--tracker_prefix', default='', help='with --results: names that begin so')
    return flags


def overrides(options) -> list[str]:
    """--config, then --hyper, in the form of --set: what a later one says wins."""
    values = tracking_settings(options.config) if options.config else {}
    if options.hyper:
        values.update(zip(TRACKING, HYPER[options.hyper]))
    return [f'{name}={value}' for name, value in values.items()]


def data_path(args, cfg) -> str:
    """The data to evaluate on: a folder or a VOT json; drawn ones where none is named.

    Raises:
      FileNotFoundError: nothing there.
    """
    if not args.data_path:
        root = cli.drawn_data(cfg)
        return os.path.join(root, 'VOT') if args.dataset == 'vot' else root
    if not os.path.exists(args.data_path):
        raise FileNotFoundError(f'--data_path: nothing at {os.path.abspath(args.data_path)}')
    return os.path.abspath(args.data_path)


def table(rows: dict) -> str:
    """Tracker, J&F and the best threshold's mean IoU of several trackers, the best first."""
    lines = [f'{"tracker":60s}   J&F   IoU  at']
    for name, results in sorted(rows.items(), key=lambda row: -row[1]['global']['J&F-Mean']):
        values = [
            [row[f'IoU@{v:.2f}'] for v in THRESHOLDS]
            for row in results['per_sequence'].values()
            if f'IoU@{THRESHOLDS[0]:.2f}' in row
        ]
        means = np.mean(values, axis=0) if values else np.full(len(THRESHOLDS), np.nan)
        best = int(np.argmax(means))
        lines.append(
            f'{name:60s} {results["global"]["J&F-Mean"]:5.3f} {means[best]:5.3f} '
            f'{THRESHOLDS[best]:.2f}'
        )
    return '\n'.join(lines)


@cli.program
def main(argv=None):
    """Prints the table of VOT or of a search, or J and F of every object."""
    args = arguments().parse_args(argv)
    if not args.results:
        pretrained.choose(args)
    args.dataset = args.dataset or 'vot'
    args.set = overrides(args) + args.set
    if args.results:
        args.preset = args.preset or 'full'  # nothing of it is used
    cfg = cli.configure(args, get_config, args.checkpoint)
    args.data_path = data_path(args, cfg)
    if args.checkpoint:
        cli.say_weights(cfg, weights.checkpoint_prefix(args.checkpoint))
    rows = run(args, cfg)
    if args.dataset == 'vot':
        print(evaluate_vot.table(rows))
    elif args.dataset == 'otb':
        print(evaluate_otb.table(rows))
    elif len(rows) == 1:
        videos.print_scores(*rows.values())
    elif all(rows.values()):
        print(table(rows))
    if args.report and all(rows.values()):
        own = [os.path.join(args.output_path, name) for name in rows]
        own = [args.output_path] if args.dataset not in ('vot', 'otb') and len(rows) == 1 else own
        report.write(own, os.path.join(args.output_path, 'report.html'))


if __name__ == '__main__':
    sys.exit(main())
