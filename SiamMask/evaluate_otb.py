"""The OTB half of evaluate: one pass over each sequence, success and precision (Wu, Lim, Yang,
Online Object Tracking: A Benchmark, CVPR 2013; thresholds of pysot-toolkit's OPEBenchmark). A frame
without an annotation is a miss in both."""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
import os

from common import files, plots
from common.lazy import np

from . import cli, evaluate_vot, inference, tracker, vot

OVERLAPS = tuple(0.05 * k for k in range(21))  # thresholds of success
DISTANCES = tuple(range(51))  # px, thresholds of precision
NEAR = 20  # px: the threshold that trackers are ranked by


def boxes(regions) -> np.ndarray:
    """Axis-aligned boxes x, y, width, height, float64 [n, 4], around polygons [n, 8]."""
    points = np.asarray(regions, np.float64).reshape(-1, 4, 2)
    low, high = points.min(1), points.max(1)
    return np.concatenate([low, high - low], 1)


def overlaps(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes x, y, width, height [n, 4]: float64 [n]; -1, below every
    threshold, where the annotation shows nothing or the tracker says nothing."""
    with np.errstate(invalid='ignore', divide='ignore'):
        low = np.maximum(truth[:, :2], found[:, :2])
        high = np.minimum(truth[:, :2] + truth[:, 2:], found[:, :2] + found[:, 2:])
        both = np.prod(np.maximum(high - low, 0), 1)
        shares = both / (truth[:, 2:].prod(1) + found[:, 2:].prod(1) - both)
        return np.where(_annotated(truth) & np.isfinite(shares), np.clip(shares, 0, 1), -1.0)


def distances(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """px between the centers of boxes [n, 4]: float64 [n]; inf where overlaps() is -1."""
    centers = [own[:, :2] + own[:, 2:] / 2 for own in (truth, found)]
    apart = np.linalg.norm(centers[0] - centers[1], axis=1)
    with np.errstate(invalid='ignore'):
        return np.where(_annotated(truth) & np.isfinite(apart), apart, np.inf)


def _annotated(truth):
    with np.errstate(invalid='ignore'):
        return (truth[:, 2:] > 0).all(1)


def success(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Share of the frames whose overlap is above each of OVERLAPS: float64 [21]; the mean is the
    AUC."""
    return (overlaps(truth, found)[:, None] > OVERLAPS).mean(0)


def precision(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Share of the frames whose center is within each of DISTANCES: float64 [51]."""
    return (distances(truth, found)[:, None] <= DISTANCES).mean(0)


def run(options, cfg, benchmark: str) -> dict:
    """{tracker: scores} of --results, or of what --checkpoint and its like track.

    Args:
      options: flags of evaluate.
      cfg: of the network.
      benchmark: row of config.HYPER.

    Raises:
      FileNotFoundError, ValueError: missing data; results of something else in the folder.
    """
    sequences = evaluate_vot.chosen(options)
    output_path = cli.writable(options.output_path)
    if options.results:
        rows = _score_files(options, sequences, output_path)
    else:
        rows = _track_all(options, cfg, benchmark, sequences, output_path)
    if len(rows) > 1:
        _draw(rows, output_path)
    return rows


def _score_files(options, sequences, output_path):
    rows = {}
    for folder in result_folders(options.results, options.tracker_prefix):
        found = {s['name']: read_boxes(folder, s) for s in sequences}
        name = os.path.basename(os.path.abspath(folder))
        own = cli.writable(os.path.join(output_path, name))
        rows[name] = score(sequences, found, own, results=folder)
    return rows


def _track_all(options, cfg, benchmark, sequences, output_path):
    rows = {}
    options.boxes = True  # as the benchmark's are
    todo = evaluate_vot.trackers(options, cfg, benchmark)
    for prefix, same in itertools.groupby(todo, lambda each: each.checkpoint):
        with inference.load(prefix, inference.settings_for(cfg, 1)) as network:
            for each in same:
                folder = cli.writable(os.path.join(output_path, each.name))
                made = files.fingerprint(f'{prefix}.index')
                kind = {'checkpoint': made, 'protocol': 'otb', **each.hyper}
                files.claim(folder, kind)
                found = {s['name']: track(network, s, each.hyper, folder) for s in sequences}
                rows[each.name] = score(sequences, found, folder, {**cfg, **each.hyper})
    return rows


def result_folders(path: str, prefix: str) -> list[str]:
    """Folders of trackers in `path` whose names begin with `prefix`, with text files in them;
    `path` itself where it has none, as one tracker's."""
    found = glob.glob(os.path.join(glob.escape(path), glob.escape(prefix) + '*'))
    return sorted(f for f in found if glob.glob(os.path.join(glob.escape(f), '*.txt'))) or [path]


def track(network, sequence: dict, hyper: dict, folder: str) -> np.ndarray:
    """Boxes float64 [n, 4] of one pass, read from <folder>/<name>.txt where that is there, else
    tracked and written.

    Raises:
      ValueError: a file there is of other frames or annotations.
    """
    name = sequence['name']
    path = os.path.join(folder, f'{name}.txt')
    facts = {
        'annotation': hashlib.sha256(sequence['boxes'].tobytes()).hexdigest()[:16],
        'first frame': files.fingerprint(sequence['frames'][0]),
    }
    files.claim(os.path.join(folder, 'made', name), facts)
    if not os.path.isfile(path):
        found = tracker.supervised(network, sequence, hyper, reset=False, boxes=True)
        truth = boxes(sequence['regions'])
        rows = [_row(entry, own) for entry, own in zip(found, truth)]
        vot.write_run(path, rows)
        print(f'{name}: {len(rows)} frames, {path}', flush=True)
    return read_boxes(folder, sequence)


def _row(entry, truth):
    """The box of a frame: where the tracker starts, the annotated one; before that none."""
    if isinstance(entry, int):
        return truth if entry == 1 else np.full(4, np.nan)
    return np.asarray(entry, np.float64)


def read_boxes(folder: str, sequence: dict) -> np.ndarray:
    """Boxes x, y, width, height float64 [n, 4] of <folder>/<sequence>.txt, a line a frame.

    Raises:
      FileNotFoundError, ValueError: no file; other lines than one box a frame.
    """
    path = os.path.join(folder, f'{sequence["name"]}.txt')
    if not os.path.isfile(path):
        raise FileNotFoundError(f'no results of {sequence["name"]}: tried {os.path.abspath(path)}')
    lines = files.read_lines(path)
    try:
        rows = [[float(v) for v in line.replace(',', ' ').split()] for line in lines]
    except ValueError as error:
        raise ValueError(f'{path}: {str(error)[:100]}; expected 4 numbers a line') from None
    wrong = [number for number, row in enumerate(rows, 1) if len(row) != 4]
    if wrong or len(rows) != len(sequence['frames']):
        raise ValueError(
            f'{path}: expected {len(sequence["frames"])} lines of x,y,width,height, found '
            f'{len(rows)}' + (f', line {wrong[0]} with others' if wrong else '')
        )
    return np.array(rows)


def score(
    sequences: list, found: dict, folder: str, settings: dict | None = None, results: str = ''
) -> dict:
    """AUC of success and precision at 20 px of one tracker, written to `folder`: results.json,
    success.png, precision.png, a plot of the overlap a sequence.

    Args:
      sequences: of vot.load().
      found: {sequence: boxes float64 [n, 4]}.
      folder: of the scores.
      settings: plain values that results.json keeps.
      results: folder of the boxes' files; '': `folder`.

    Returns:
      {'global': {AUC, precision}, 'per_sequence': {name: {AUC, precision}}, 'success': [21],
      'precision': [51], ...}; the whole set's are means over the sequences.
    """
    curves, rows, per_frame, where = [], {}, {}, {}
    for sequence in sequences:
        name, truth = sequence['name'], boxes(sequence['regions'])
        own = success(truth, found[name]), precision(truth, found[name])
        curves.append(own)
        rows[name] = {'AUC': float(own[0].mean()), 'precision': float(own[1][NEAR])}
        per_frame[name] = {
            'frames': [files.stem(path) for path in sequence['frames']],
            'overlap': [None if v < 0 else float(v) for v in overlaps(truth, found[name])],
        }
        where[name] = evaluate_vot.where(sequence, folder, results or folder)
        path = os.path.join(results or folder, f'{name}.txt')
        where[name]['regions'] = os.path.relpath(path, folder)
    whole = [np.mean(own, 0) for own in zip(*curves)]
    scores = {'AUC': float(whole[0].mean()), 'precision': float(whole[1][NEAR])}
    result = {'global': scores, 'per_sequence': rows}
    result.update(success=whole[0].tolist(), precision=whole[1].tolist())
    result.update(files.made_with(settings), per_frame=per_frame, where=where)
    files.write_text(os.path.join(folder, 'results.json'), json.dumps(result, indent=1))
    _draw({os.path.basename(folder): result}, folder)
    plots.write_by_frame(result, os.path.join(folder, 'plots'))
    return result


def _draw(rows, folder):
    """success.png and precision.png of {tracker: scores}, the best first, with its score beside its
    name as in the benchmark's own plots."""
    for kind, x, label, key in (
        ('success', OVERLAPS, 'overlap threshold', 'AUC'),
        ('precision', DISTANCES, 'location error threshold, px', 'precision'),
    ):
        best = sorted(rows.items(), key=lambda row: -row[1]['global'][key])[: len(plots.COLORS)]
        lines = [
            plots.Line(f'{own["global"][key]:.3f} {name}', list(x), own[kind], color)
            for color, (name, own) in enumerate(best)
        ]
        panel = plots.Panel(lines, label, kind, 0.0, 1.0)
        plots.write(os.path.join(folder, f'{kind}.png'), [panel], 720, 360)


def table(rows: dict) -> str:
    """Tracker, AUC, precision at 20 px, best AUC first."""
    lines = [f'{"tracker":60s}   AUC precision']
    for name, own in sorted(rows.items(), key=lambda row: -row[1]['global']['AUC']):
        lines.append(f'{name:60s} {own["global"]["AUC"]:5.3f} {own["global"]["precision"]:9.3f}')
    return '\n'.join(lines)
