"""The VOT half of evaluate: trackers of checkpoints and settings, the supervised protocol, scores,
tables and plots (tools/test.py, tools/eval.py and tools/tune_vot.py of the official code)."""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
import os
import random
import re
from typing import NamedTuple

from common import files, plots, weights
from common.lazy import np

from . import cli, inference, tracker, vot
from .config import PAPER

SEARCHED = ('penalty_k', 'window_influence', 'tracker_rate')


class Tracker(NamedTuple):
    """What results are made with: name of their folder, prefix of the checkpoint, values of
    config.TRACKING."""

    name: str
    checkpoint: str
    hyper: dict


def trackers(options, cfg, benchmark: str) -> list[Tracker]:
    """Those of --checkpoint, --sweep (every checkpoint of the folder) and --search (a grid).

    Args:
      options: attributes checkpoint, sweep, search, boxes.
      cfg: of the network.
      benchmark: row of config.HYPER.
    """
    prefixes = [weights.checkpoint_prefix(options.checkpoint)]
    if options.sweep:
        pattern = os.path.join(glob.escape(os.path.dirname(prefixes[0])), '*.index')
        found = {path[: -len('.index')] for path in glob.glob(pattern)}
        prefixes = files.naturally_sorted(found)
    if options.boxes:
        kind = 'box'
    else:
        kind = 'mask' if cfg.variant == 'base' else 'mask_refine'
    hyper, result = tracker.hyper_parameters(cfg, benchmark), []
    for prefix in prefixes:
        name = f'{cfg.name}_{kind}_{os.path.basename(prefix)}'
        for point in grid(options.search):
            label = ''.join(f'_{key}{value:.3f}' for key, value in point.items())
            result.append(Tracker(name + label, prefix, {**hyper, **point}))
    return result


def grid(texts: list[str] | None) -> list[dict]:
    """The points of a search, in random order, since several processes share one; [{}] of none.

    Args:
      texts: NAME=start,stop,step, one a parameter.

    Raises:
      ValueError: another form.
    """
    axes = {}
    for text in texts or []:
        key, _, values = text.partition('=')
        try:
            start, stop, step = map(float, values.split(','))
        except ValueError:
            start = stop = step = 0.0
        if key not in SEARCHED or not step or not (stop - start) / step > 0:
            raise ValueError(f'--search {text}: expected start,stop,step of {", ".join(SEARCHED)}')
        axes[key] = np.arange(start, stop, step).tolist()
    points = [dict(zip(axes, values)) for values in itertools.product(*axes.values())]
    random.Random(os.getpid()).shuffle(points)
    return points


def interval_of(path: str, asked: str | None) -> tuple:
    """(low, high) frames of EAO: those of --interval, else of the year that the file's or folder's
    own name says, else VOT2018's.

    Args:
      path: of the data.
      asked: 'VOT2016', or '108,371'.

    Raises:
      ValueError: --interval in another form.
    """
    if asked:
        numbers = re.fullmatch(r'(\d+),(\d+)', asked)
        if numbers and int(numbers.group(1)) <= int(numbers.group(2)):
            return int(numbers.group(1)), int(numbers.group(2))
        if asked in vot.INTERVALS:
            return vot.INTERVALS[asked]
        raise ValueError(
            f'--interval={asked}: expected low,high frames or one of {", ".join(vot.INTERVALS)}'
        )
    named = re.search(r'VOT20\d\d', os.path.basename(os.path.abspath(path)))
    return vot.INTERVALS.get(named.group(0), vot.LEGACY) if named else vot.LEGACY


def chosen(options) -> list[dict]:
    """The sequences of --data_path, those of --sequences where that is given.

    Raises:
      FileNotFoundError, ValueError: missing data, or no such sequence.
    """
    sequences = vot.load(options.data_path)
    names = files.split_names(options.sequences)
    absent = sorted(set(names) - {sequence['name'] for sequence in sequences})
    if absent:
        raise ValueError(f'--sequences: no {", ".join(absent)} in {options.data_path}')
    return [sequence for sequence in sequences if not names or sequence['name'] in names]


def run(options, cfg, benchmark: str) -> dict:
    """{tracker: scores} of --results, or of what --checkpoint and its like track.

    Args:
      options: flags of evaluate.
      cfg: of the network.
      benchmark: row of config.HYPER.

    Raises:
      FileNotFoundError, ValueError: missing data; results of something else in the folder.
    """
    sequences = chosen(options)
    interval = interval_of(options.data_path, options.interval)
    print(f'EAO of {interval[0]} .. {interval[1]} frames', flush=True)
    output_path, rows = cli.writable(options.output_path), {}
    year = re.search(r'VOT(20\d\d)', os.path.basename(os.path.abspath(options.data_path)))
    paper = PAPER.get(f'vot {year.group(1)}') if year else None
    if options.results:
        for folder in result_folders(options.results, options.tracker_prefix):
            runs = {s['name']: vot.read_runs(folder, s) for s in sequences}
            name = os.path.basename(os.path.abspath(folder))
            own = cli.writable(os.path.join(output_path, name))
            rows[name] = score(sequences, runs, interval, own, paper=paper, results=folder)
        return rows
    todo = trackers(options, cfg, benchmark)
    for prefix, same in itertools.groupby(todo, lambda each: each.checkpoint):
        with inference.load(prefix, inference.settings_for(cfg, 1)) as network:
            for each in same:
                folder = cli.writable(os.path.join(output_path, each.name))
                made = files.fingerprint(f'{prefix}.index')
                files.claim(folder, {'checkpoint': made, 'boxes': options.boxes, **each.hyper})
                runs = track(network, sequences, each.hyper, folder, options.boxes)
                settings = {**cfg, **each.hyper}
                rows[each.name] = score(sequences, runs, interval, folder, settings, paper)
    return rows


def result_folders(path: str, prefix: str) -> list[str]:
    """Folders of trackers in `path` whose names begin with `prefix`; `path` itself where it has
    none, as one tracker's."""
    pattern = os.path.join(glob.escape(path), glob.escape(prefix) + '*')
    found = [f for f in glob.glob(pattern) if os.path.isdir(os.path.join(f, 'baseline'))]
    return sorted(found) or [path]


def track(network, sequences: list, hyper: dict, folder: str, boxes: bool) -> dict:
    """{sequence: [run]} of one tracker, read where its file is there, else tracked and written.

    Raises:
      ValueError: a file there is of other frames or annotations.
    """
    result = {}
    for sequence in sequences:
        name = sequence['name']
        own = os.path.join(folder, 'baseline', name)
        path = os.path.join(own, f'{name}_001.txt')
        files.claim(
            own,
            {
                'annotation': hashlib.sha256(sequence['boxes'].tobytes()).hexdigest()[:16],
                'first frame': files.fingerprint(sequence['frames'][0]),
            },
        )
        if not os.path.isfile(path):
            vot.write_run(path, tracker.supervised(network, sequence, hyper, True, boxes))
            print(f'{name}: {len(sequence["frames"])} frames, {path}', flush=True)
        result[name] = vot.read_runs(folder, sequence)
    return result


def score(
    sequences: list,
    runs: dict,
    interval: tuple,
    folder: str,
    settings: dict | None = None,
    paper: dict | None = None,
    results: str = '',
) -> dict:
    """Scores of one tracker, written to `folder`: results.json, eao.png, overlap.png, a plot a
    sequence.

    Args:
      sequences: of vot.load().
      runs: {sequence: [run]}.
      interval: frames of EAO.
      folder: of the scores.
      settings: plain values that results.json keeps.
      paper: published scores, kept too.
      results: folder of the runs' files; '': `folder`.
    """
    found = vot.score(sequences, runs, interval)
    found['eao_legacy'] = vot.eao(found['curve'], vot.LEGACY)
    overlaps = {
        s['name']: vot.run_overlaps(runs[s['name']][0], s, (s['width'], s['height']))
        for s in sequences
    }
    every = np.concatenate([overlap[1:] for overlap in overlaps.values()])
    found['mean_overlap'] = float(np.nan_to_num(every).mean())
    curve = found.pop('curve')
    plain = {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in found.items()}
    plain.update(interval=interval, curve=[float(v) for v in curve])
    plain.update(files.made_with(settings), paper=paper or {})
    plain['per_frame'] = {s['name']: by_frame(s, runs, overlaps[s['name']]) for s in sequences}
    plain['where'] = {s['name']: where(s, folder, results or folder) for s in sequences}
    files.write_text(os.path.join(folder, 'results.json'), json.dumps(plain, indent=1))
    line = plots.Line('expected overlap', list(range(len(curve))), plain['curve'])
    panel = plots.Panel([line], 'frames', 'expected overlap', 0.0, 1.0, interval)
    plots.write(os.path.join(folder, 'eao.png'), [panel], 720, 360)
    first = itertools.islice(plain['per_frame'].items(), len(plots.COLORS))
    lines = [
        plots.Line(name, list(range(len(row['overlap']))), row['overlap'], color)
        for color, (name, row) in enumerate(first)
    ]
    panel = plots.Panel(lines, 'frame', 'overlap', 0.0, 1.0)
    plots.write(os.path.join(folder, 'overlap.png'), [panel], 720, 360)
    plots.write_by_frame(plain, os.path.join(folder, 'plots'))
    return found


def by_frame(sequence: dict, runs: dict, overlaps: np.ndarray) -> dict:
    """{'frames': names, 'overlap': values} of a sequence's first run: 0 where it was lost, None
    where the protocol leaves a frame out."""
    run = runs[sequence['name']][0]
    lost = [isinstance(entry, int) and entry == 2 for entry in run]
    values = [0.0 if gone else float(v) for v, gone in zip(overlaps, lost)]
    return {
        'frames': [files.stem(path) for path in sequence['frames']],
        'overlap': [None if np.isnan(v) else v for v in values],
    }


def where(sequence: dict, folder: str, results: str) -> dict:
    """What results.json says of a sequence's files, for common/report.py: folder of the frames,
    files of the regions, the annotated ones written to truth/."""
    name = sequence['name']
    path = os.path.join(folder, 'truth', f'{name}.txt')
    vot.write_run(path, list(sequence.get('regions', sequence['boxes'])))
    own = sorted(glob.glob(os.path.join(glob.escape(results), 'baseline', name, '*0*.txt')))
    return {
        'images': os.path.dirname(os.path.abspath(sequence['frames'][0])),
        'regions': os.path.relpath(own[0], folder) if own else '',
        'truth': os.path.join('truth', f'{name}.txt'),
    }


def table(rows: dict) -> str:
    """Tracker, accuracy, robustness, lost, EAO, best EAO first."""
    best = sorted(rows.items(), key=lambda row: -np.nan_to_num(row[1]['eao']))
    lines = [f'{"tracker":36s} accuracy robustness   lost    EAO  EAO 100-356']
    for name, row in best[:20]:
        lines.append(
            f'{name:36s} {row["accuracy"]:8.3f} {row["robustness"]:10.3f} {row["lost"]:6.1f} '
            f'{row["eao"]:6.3f} {row["eao_legacy"]:7.3f}'
        )
    return '\n'.join(lines)
