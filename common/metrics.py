"""DAVIS scores: region similarity J, contour accuracy F, temporal stability T, and the official CSV
files.

    python -m common.metrics --annotations DAVIS/Annotations/480p --results masks --output scores

J and F are those of davis2017-evaluation (Pont-Tuset et al. 2017), equal to the last bit; T is that
of Perazzi et al. 2016 (stability.py). First and last frame are left out. Masks are compared as bit
planes, 64 pixels a word.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import multiprocessing
import os
import sys

import numpy as np

from .bitplanes import frame_scores
from .masks import read_mask

GLOBAL = ('J&F-Mean', 'J-Mean', 'J-Recall', 'J-Decay', 'F-Mean', 'F-Recall', 'F-Decay')


def db_eval_iou(annotation: np.ndarray, segmentation: np.ndarray) -> float | np.ndarray:
    """Jaccard index J of bool or 0/1 masks [H, W] (a float) or [N, H, W] (float64 [N]); 1 where
    both are empty.

    Raises:
      ValueError: the shapes differ.
    """
    return _scores(annotation, segmentation, 0)


def db_eval_boundary(annotation: np.ndarray, segmentation: np.ndarray) -> float | np.ndarray:
    """F-measure of the outlines of bool or 0/1 masks [H, W] (a float) or [N, H, W] (float64 [N]).

    Outlines match within ceil(0.008 * diagonal) px; 1 where both masks have none.

    Raises:
      ValueError: the shapes differ.
    """
    return _scores(annotation, segmentation, 1)


def _scores(annotation, segmentation, which):
    if annotation.shape != segmentation.shape:
        raise ValueError(
            f'annotation {annotation.shape} and segmentation {segmentation.shape} differ in shape'
        )
    pair = [np.ascontiguousarray(m, bool).view(np.uint8) for m in (annotation, segmentation)]
    if annotation.ndim == 2:
        return frame_scores(*pair)[which]
    return np.array([frame_scores(*masks)[which] for masks in zip(*pair)])


def statistics(values) -> tuple[float, float, float]:
    """(mean, recall, decay) of a measure a frame: recall is the share above 0.5, decay the mean of
    the first quarter less that of the last, NaN left out.

    As davis2017-evaluation but for sequences of over 256 frames, where its 8-bit bin edges wrap.
    """
    values = np.asarray(values, np.float64)
    if not values.size or np.isnan(values).all():
        return float('nan'), float('nan'), float('nan')
    edges = (np.round(np.linspace(1, len(values), 5) + 1e-10) - 1).astype(int)
    first, last = values[edges[0] : edges[1] + 1], values[edges[3] : edges[4] + 1]
    return (
        float(np.nanmean(values)),
        float(np.mean(np.nan_to_num(values) > 0.5)),
        float(np.nanmean(first) - np.nanmean(last)),
    )


def evaluate(
    annotations: str,
    results: str,
    sequences=None,
    year: str = '2016',
    processes: int = 1,
    stability: bool = False,
) -> dict:
    """Scores the masks of sequences.

    Args:
      annotations: folder of <sequence>/<frame>.png, or one above it (a DAVIS root). results: the
      same of the masks to score; first and last frame may be absent. sequences: names; None: every
      folder of `annotations`. year: '2016', all ids are one object; '2017', each id of the first
      annotation, void 255 left out. processes: sequences are scored in so many processes; 1 stays
      in this one. stability: T as well, seconds a sequence.

    Returns:
      {'global': {seven official columns}, 'per_sequence': {'<sequence>_<id>': {'J-Mean',
      'J-Recall', 'J-Decay', 'F-Mean', ...}}, 'per_frame': {the same rows: {'frames', 'J', 'F'}}};
      with stability 'T-Mean' too.

    Raises:
      FileNotFoundError, ValueError: missing, extra or wrongly sized masks, named with what was
      found.
    """
    if year not in ('2016', '2017'):
        raise ValueError(f"year is '2016' or '2017', not {year!r}")
    annotations, results = mask_folder(annotations), mask_folder(results)
    names = sorted(
        sequences
        or (n for n in os.listdir(annotations) if os.path.isdir(os.path.join(annotations, n)))
    )
    jobs = [(annotations, results, name, year, stability) for name in names]
    if processes > 1 and len(jobs) > 1:  # spawn: safe beside TensorFlow's threads
        with multiprocessing.get_context('spawn').Pool(min(processes, len(jobs))) as pool:
            parts = pool.starmap(score_sequence, jobs, 1)
    else:
        parts = [score_sequence(*job) for job in jobs]
    per_frame = {row: frames for part in parts for row, frames in part.items()}
    if not per_frame:
        raise ValueError(f'no sequences with objects in {annotations}')
    return _summary(per_frame)


def _summary(per_frame):
    rows = {}
    for row, values in per_frame.items():
        rows[row] = {
            f'{measure}-{kind}': value
            for measure in 'JF'
            for kind, value in zip(('Mean', 'Recall', 'Decay'), statistics(values[measure]))
        }
        if 'T' in values:
            rows[row]['T-Mean'] = statistics(values['T'])[0]
    means = {key: float(np.mean([row[key] for row in rows.values()])) for key in GLOBAL[1:]}
    means = {'J&F-Mean': (means['J-Mean'] + means['F-Mean']) / 2, **means}
    if any('T-Mean' in row for row in rows.values()):
        means['T-Mean'] = float(np.nanmean([row['T-Mean'] for row in rows.values()]))
    return {'global': means, 'per_sequence': rows, 'per_frame': per_frame}


def mask_folder(path: str) -> str:
    """The folder that holds the sequences: `path`, or Annotations/480p or 480p in it.

    Raises:
      FileNotFoundError: no such folder, or nothing in it.
    """
    absolute = os.path.abspath(path)
    for inner in ('Annotations/480p', '480p', ''):
        candidate = os.path.join(absolute, *inner.split('/')) if inner else absolute
        if os.path.isdir(candidate) and os.listdir(candidate):
            return candidate
    raise FileNotFoundError(
        f'no masks at {absolute}: expected <sequence>/<frame>.png there, in 480p/ or in '
        'Annotations/480p/'
    )


def score_sequence(
    annotations: str, results: str, name: str, year: str, stability: bool = False
) -> dict:
    """{'<sequence>_<id>': {'frames': names, 'J': floats, 'F': floats}} of one sequence; see
    evaluate()."""
    frames = _frames(annotations, results, name)
    first = _ids(read_mask(os.path.join(annotations, name, frames[0])), year)
    count = int(first.max(initial=0)) if year == '2017' else 1
    numbers = range(1, count + 1)
    rows = {
        f'{name}_{n}': {'frames': [os.path.splitext(f)[0] for f in frames[1:-1]], 'J': [], 'F': []}
        for n in numbers
    }
    history = {n: [] for n in numbers}
    for frame in frames[1:-1]:
        truth = _ids(read_mask(os.path.join(annotations, name, frame)), year)
        result = _checked(os.path.join(results, name, frame), truth.shape, count, year)
        for n in numbers:
            segmented = (result == n).view(np.uint8)
            j, f = frame_scores((truth == n).view(np.uint8), segmented)
            rows[f'{name}_{n}']['J'].append(j)
            rows[f'{name}_{n}']['F'].append(f)
            if stability:
                history[n].append(segmented)
    for n in numbers if stability else ():
        from .stability import instabilities

        rows[f'{name}_{n}']['T'] = instabilities(history[n])
    return rows


def _ids(mask, year):
    if year == '2016':
        return ((mask > 0) & (mask < 255)).view(np.uint8)
    return np.where(mask == 255, 0, mask).astype(np.uint8) if mask.max(initial=0) == 255 else mask


def _frames(annotations, results, name):
    """Names of the annotated frames, after the results' names were checked against them."""
    folders = [os.path.join(root, name) for root in (annotations, results)]
    for folder in folders:
        if not os.path.isdir(folder):
            raise FileNotFoundError(f'sequence {name}: no folder {folder}')
    frames, found = (sorted(n for n in os.listdir(f) if n.endswith('.png')) for f in folders)
    if len(frames) < 3:
        raise ValueError(
            f'sequence {name}: {len(frames)} annotations in {folders[0]}, at least 3 are needed: '
            'first and last are left out'
        )
    missing, extra = sorted(set(frames[1:-1]) - set(found)), sorted(set(found) - set(frames))
    if missing or extra:
        raise ValueError(
            f'sequence {name}: {folders[1]} lacks {len(missing)} masks {missing[:3]} and has '
            f'{len(extra)} that are no frames {extra[:3]}; expected {frames[0]} .. {frames[-1]}'
        )
    return frames


def _checked(path, shape, count, year):
    mask = read_mask(path)
    if mask.shape != shape:
        raise ValueError(
            f'{path} is {mask.shape[1]}x{mask.shape[0]}, its annotation {shape[1]}x{shape[0]}'
        )
    if year == '2016':
        return _ids(mask, year)
    if mask.max(initial=0) > count:
        raise ValueError(
            f'{path} has ids {np.unique(mask).tolist()}, its sequence has {count} objects'
        )
    return mask


def write_results(results: dict, output: str, set_name: str = 'val') -> None:
    """Writes global_results-<set>.csv, per-sequence_results-<set>.csv (the official forms) and
    results.json."""
    columns = [c for c in (*GLOBAL, 'T-Mean') if c in results['global']]
    _write_csv(
        os.path.join(output, f'global_results-{set_name}.csv'),
        columns,
        [[f'{results["global"][c]:.3f}' for c in columns]],
    )
    _write_csv(
        os.path.join(output, f'per-sequence_results-{set_name}.csv'),
        ['Sequence', 'J-Mean', 'F-Mean'],
        [
            [name, f'{row["J-Mean"]:.3f}', f'{row["F-Mean"]:.3f}']
            for name, row in results['per_sequence'].items()
        ],
    )
    plain = json.loads(json.dumps(results), parse_constant=lambda _: None)  # NaN is no JSON
    _write(os.path.join(output, 'results.json'), json.dumps(plain, indent=1))


def _write_csv(path, columns, rows):
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows([columns] + rows)
    _write(path, text.getvalue())


def _write(path, text):
    with open(f'{path}.tmp', 'w') as f:
        f.write(text)
    os.replace(f'{path}.tmp', path)


def main(argv=None) -> int:
    """Scores, writes, prints the table; exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--annotations', required=True, help='<sequence>/<frame>.png, or a DAVIS root'
    )
    parser.add_argument('--results', required=True, help='<sequence>/<frame>.png')
    parser.add_argument('--output', required=True, help='folder of the CSV files and results.json')
    parser.add_argument(
        '--year', choices=('2016', '2017'), default='2016', help='one object or several'
    )
    parser.add_argument('--sequences', help='a,b; default: every folder of --annotations')
    parser.add_argument('--set', default='val', help="name in the CSV files' names")
    parser.add_argument('--processes', type=int, default=os.cpu_count())
    parser.add_argument('--stability', action='store_true', help='T as well; slow')
    args = parser.parse_args(argv)
    try:
        names = args.sequences.split(',') if args.sequences else None
        results = evaluate(
            args.annotations, args.results, names, args.year, args.processes, args.stability
        )
        os.makedirs(args.output, exist_ok=True)
        write_results(results, args.output, args.set)
    except (OSError, ValueError) as error:
        print(f'metrics: error: {error}', file=sys.stderr)
        return 1
    print(' '.join(f'{key} {value:.3f}' for key, value in results['global'].items()))
    for name, row in results['per_sequence'].items():
        print(f'{name:28s} J {row["J-Mean"]:.3f} F {row["F-Mean"]:.3f}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
