"""DAVIS scores: region similarity J, contour accuracy F, temporal stability T, and the official CSV
files.

    python -m common.metrics --annotations DAVIS --results masks --output scores [--report]

J and F are those of davis2017-evaluation (Pont-Tuset et al. 2017), equal to the last bit; T is that
of Perazzi et al. 2016 (stability.py). First and last frame are left out. Masks are compared as
integers of a bit a pixel (bitmasks.py).
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import multiprocessing
import os
import sys
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from typing import NamedTuple

from . import davis, files, processes
from .bitmasks import frame_scores
from .lazy import cv2, np
from .masks import read_values, shows_ids

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
    year: str = '',
    workers: int = 1,
    stability: bool = False,
) -> dict:
    """Scores the masks of sequences.

    Args:
      annotations: folder of <sequence>/<frame>.png, or one above it (a DAVIS root).
      results: the same of the masks to score; first and last frame may be absent, frames without
        an annotation are left out, as the official tool does.
      sequences: names; None: those of `annotations` that have results, which is said.
      year: '2016', all ids are one object; '2017', each id of the first annotation, void 255 left
        out. '': told from the annotations, which is said.
      workers: sequences are scored in so many processes; 1 stays in this one.
      stability: T as well, seconds a sequence.

    Returns:
      {'global': {seven official columns}, 'per_sequence': {'<sequence>_<id>': {'J-Mean',
      'J-Recall', 'J-Decay', 'F-Mean', ...}}, 'per_frame': {the same rows: {'frames', 'J', 'F'}}};
      with stability 'T-Mean' too.

    Raises:
      FileNotFoundError, ValueError: missing or wrongly sized masks, named with what was found.
      RuntimeError: a process has died.
    """
    if year not in ('', '2016', '2017'):
        raise ValueError(f"year is '2016' or '2017', not {year!r}")
    annotations, results = mask_folder(annotations), mask_folder(results)
    names = sorted(sequences or _with_results(annotations, results))
    frames = {name: _frames(annotations, results, name) for name in names}
    if not year:
        year = _tell_year([os.path.join(annotations, n, frames[n][0]) for n in names])
    jobs = [Job(annotations, results, name, frames[name], year, stability) for name in names]
    if workers > 1 and len(jobs) > 1:
        parts = _score_in_processes(jobs, min(workers, len(jobs)))
    else:
        parts = [score_sequence(job) for job in jobs]
    per_frame = {row: values for part in parts for row, values in part.items()}
    if not per_frame:
        raise ValueError(f'no sequences with objects in {annotations}')
    return _summary(per_frame)


class Job(NamedTuple):
    """A sequence to score."""

    annotations: str  # folder of the sequences' folders
    results: str
    name: str
    frames: list  # file names of the annotations
    year: str
    stability: bool


def _score_in_processes(jobs, count):
    spawn = multiprocessing.get_context('spawn')  # safe beside TensorFlow's threads
    try:
        with ProcessPoolExecutor(count, spawn, processes.begin_worker, (os.getpid(),)) as pool:
            return list(pool.map(score_sequence, jobs))
    except BrokenProcessPool:
        raise RuntimeError('a process that scores has died: out of memory?') from None


def _folders(path):
    return sorted(n for n in os.listdir(path) if os.path.isdir(os.path.join(path, n)))


def _with_results(annotations, results):
    annotated, found = _folders(annotations), _folders(results)
    names = [name for name in annotated if name in found]
    if not names:
        raise FileNotFoundError(
            f'no sequence has both annotations and results: {annotations} has {annotated[:5]}, '
            f'{results} has {found[:5]}'
        )
    strange = sorted(set(found) - set(annotated))
    if len(names) < len(annotated) or strange:
        print(
            f'scored: the {len(names)} of {len(annotated)} annotated sequences that have results'
            + (f'; no annotations of {strange[:5]}' if strange else ''),
            flush=True,
        )
    return names


def _tell_year(paths):
    """'2017' where the first annotation of a sequence shows several objects, else '2016'."""
    for path in paths:
        array = read_values(path).array
        numbers = sorted(set(np.unique(array).tolist()) - {0, 255})
        if len(numbers) > 1:
            print(f'year: 2017, because {path} has the objects {numbers}', flush=True)
            return '2017'
    print('year: 2016, because no first annotation has several objects', flush=True)
    return '2016'


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
        candidate = os.path.normpath(os.path.join(absolute, inner))
        if os.path.isdir(candidate) and os.listdir(candidate):
            return candidate
    raise FileNotFoundError(
        f'no masks at {absolute}: expected <sequence>/<frame>.png there, in 480p/ or in '
        'Annotations/480p/'
    )


def score_sequence(job: Job) -> dict:
    """{'<sequence>_<id>': {'frames': names, 'J': floats, 'F': floats}} of one sequence; see
    evaluate()."""
    folder = os.path.join(job.annotations, job.name)
    first = os.path.join(folder, job.frames[0])
    void = shows_ids(first)
    count = int(_read_annotation(first, job.year, void).max(initial=0))
    numbers = range(1, (count if job.year == '2017' else 1) + 1)
    scored = job.frames[1:-1]
    rows = {
        f'{job.name}_{n}': {'frames': [files.stem(frame) for frame in scored], 'J': [], 'F': []}
        for n in numbers
    }
    history = {n: [] for n in numbers}
    soft = 0
    for frame in scored:
        truth = _read_annotation(os.path.join(folder, frame), job.year, void)
        path = os.path.join(job.results, job.name, frame)
        result, levels = _read_result(path, truth.shape, count, job.year, void)
        soft += levels > 2
        for n in numbers:
            segmented = (result == n).view(np.uint8)
            j, f = frame_scores((truth == n).view(np.uint8), segmented)
            rows[f'{job.name}_{n}']['J'].append(j)
            rows[f'{job.name}_{n}']['F'].append(f)
            if job.stability:
                history[n].append(segmented)
    if soft:
        print(
            f'{job.name}: {soft} results have grey levels between 0 and 255; all above 0 is '
            'object, as in the official tool',
            flush=True,
        )
    if job.stability:
        from .stability import instabilities

        for n in numbers:
            rows[f'{job.name}_{n}']['T'] = instabilities(history[n])
    return rows


def _read_annotation(path, year, void):
    """Ids uint8 [H, W] of an annotation, 0 and 1 for 2016; 255 is void and becomes 0 where the
    sequence has ids, else it is the object."""
    array = read_values(path).array
    if void:
        array = cv2.threshold(array, 254, 0, cv2.THRESH_TOZERO_INV)[1]  # np.where takes 0.7 ms
    if year == '2016':
        return (array > 0).view(np.uint8)
    return array if void else (array == 255).view(np.uint8)


def _read_result(path, shape, count, year, void):
    """Ids uint8 [H, W] of a result, 0 and 1 for 2016, and the number of its grey levels (0 of an
    indexed file)."""
    array, indexed = read_values(path)
    if array.shape != shape:
        raise ValueError(
            f'{path} is {array.shape[1]}x{array.shape[0]}, its annotation {shape[1]}x{shape[0]}'
        )
    highest = cv2.minMaxLoc(array)[1]
    if year == '2016':
        levels = 0
        if not indexed and highest == 255:
            levels = np.count_nonzero(np.bincount(array.ravel()))
        return (array > 0).view(np.uint8), levels
    if not void and highest == 255:  # 0 and 255 as in the annotations
        array = np.where(array == 255, 1, array).astype(np.uint8)
        highest = array.max()
    if highest > count:
        raise ValueError(
            f'{path} has ids {np.unique(array).tolist()[:20]}, its sequence has {count} objects'
        )
    return array, 0


def _frames(annotations, results, name):
    """File names of the annotated frames, after the results' names were checked against them."""
    folders = [os.path.join(root, name) for root in (annotations, results)]
    for folder in folders:
        if not os.path.isdir(folder):
            raise FileNotFoundError(f'sequence {name}: no folder {folder}')
    frames, found = (
        [os.path.basename(path) for path in files.listed(folder, ('.png',))] for folder in folders
    )
    if len(frames) < 3:
        raise ValueError(
            f'sequence {name}: {len(frames)} annotations in {folders[0]}, at least 3 are needed: '
            'first and last are left out'
        )
    missing, extra = sorted(set(frames[1:-1]) - set(found)), sorted(set(found) - set(frames))
    if missing:
        raise ValueError(
            f'sequence {name}: {folders[1]} lacks {len(missing)} masks {missing[:3]} and has '
            f'{len(extra)} that are no frames {extra[:3]}; expected {frames[0]} .. {frames[-1]}'
        )
    if extra:
        print(f'{name}: {len(extra)} results without an annotation are left out {extra[:3]}')
    return frames


def write_results(results: dict, output: str, set_name: str = 'val') -> None:
    """Writes global_results-<set>.csv, per-sequence_results-<set>.csv (the official forms) and
    results.json."""
    columns = [c for c in (*GLOBAL, 'T-Mean') if c in results['global']]
    means = [f'{results["global"][c]:.3f}' for c in columns]
    _write_csv(os.path.join(output, f'global_results-{set_name}.csv'), [columns, means])
    rows = [['Sequence', 'J-Mean', 'F-Mean']]
    for name, row in results['per_sequence'].items():
        rows.append([name, f'{row["J-Mean"]:.3f}', f'{row["F-Mean"]:.3f}'])
    _write_csv(os.path.join(output, f'per-sequence_results-{set_name}.csv'), rows)
    plain = json.loads(json.dumps(results), parse_constant=lambda _: None)  # NaN is no JSON
    files.write_text(os.path.join(output, 'results.json'), json.dumps(plain, indent=1))


def _write_csv(path, rows):
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    files.write_text(path, text.getvalue())


def _where(results, annotations, masks):
    """Folders of each sequence's frames, ground truth and masks, for report.py."""
    truth, written = mask_folder(annotations), mask_folder(masks)
    images = truth.replace(f'{os.sep}Annotations', f'{os.sep}JPEGImages')
    return {
        name: {kind: os.path.join(path, name) for kind, path in
               (('images', images), ('truth', truth), ('masks', written))}
        for name in {row.rpartition('_')[0] for row in results['per_sequence']}
    }  # fmt: skip


def main(argv=None) -> int:
    """Scores, writes, prints the table; exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--annotations', required=True, help='<sequence>/<frame>.png, or a DAVIS root')
    add('--results', required=True, help='<sequence>/<frame>.png')
    add('--output', required=True, help='folder of the CSV files and results.json')
    add('--year', choices=('2016', '2017'), default='', help='default: told from the annotations')
    add('--split', help="a list of the DAVIS root's ImageSets, such as val")
    add('--sequences', help='a,b; default: the split, or the sequences that have results')
    add('--set', help="name in the CSV files' names; default: the split, or val")
    add('--processes', type=int, default=os.cpu_count())
    add('--stability', action='store_true', help='T as well; slow')
    add('--report', action='store_true', help='write report.html, a page to read the scores by')
    args = parser.parse_args(argv)
    try:
        annotations, names = args.annotations, files.split_names(args.sequences)
        if args.split:
            annotations = davis.resolve(annotations, args.year or '2017')
            names = names or davis.sequences(annotations, args.split, args.year or '2017')
        results = evaluate(
            annotations, args.results, names, args.year, args.processes, args.stability
        )
        os.makedirs(args.output, exist_ok=True)
        results.update(files.made_with(), where=_where(results, annotations, args.results))
        write_results(results, args.output, args.set or args.split or 'val')
        if args.report:
            from . import report

            report.write([args.output], os.path.join(args.output, 'report.html'))
    except (OSError, ValueError, RuntimeError) as error:
        print(f'metrics: error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('metrics: stopped by a signal', file=sys.stderr)
        return 130
    print(' '.join(f'{key} {value:.3f}' for key, value in results['global'].items()))
    for name, row in results['per_sequence'].items():
        print(f'{name:28s} J {row["J-Mean"]:.3f} F {row["F-Mean"]:.3f}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
