"""Evaluates interactive segmentation as the DAVIS challenge does: up to eight rounds a sequence,
each corrected by a robot on the worst frame, J over time (Caelles et al. 2018; MANet section 4.3).

    python -m MANet.evaluate --data_path=DAVIS --checkpoint=run --output_path=results --overlay

Samples are the files of DAVIS/Scribbles/<sequence>; where there are none the robot draws the first
scribbles on the first frame that shows most objects. Writes result.csv (the columns of
davisinteractive), summary.json (AUC, J at 60 s, the curve), curve.png, rounds.csv (J and F a
round), and with --save_masks the masks. --backend=davisinteractive lets that package play
evaluator (see the README for its installation).
"""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import sys
import time

import cv2
import numpy as np
import tensorflow.compat.v1 as tf

from common import davis, masks
from common.bitplanes import frame_scores

from . import cli, data, npu, robot, session
from .config import get_config

COLUMNS = ('session_id', 'sequence', 'scribble_idx', 'interaction', 'object_id', 'frame',
           'jaccard', 'contour', 'j_and_f', 'timing')  # fmt: skip
AT = 60  # s, of the score "J at 60 s"
METRICS = ('J', 'F', 'J_AND_F')  # what the service may ask for


def truth_of(root: str, name: str) -> np.ndarray:
    """Ids uint8 [T, H, W], void 255 as background."""
    found = np.stack([masks.read_mask(path) for path in davis.masks(root, name)])
    return np.where(found == 255, 0, found).astype(np.uint8)


def scored(truth: np.ndarray, found: np.ndarray, count: int) -> np.ndarray:
    """J and F float64 [T, N, 2] of every frame and object."""
    return np.array([
        [frame_scores(*((x == k).astype(np.uint8) for x in pair)) for k in range(1, count + 1)]
        for pair in zip(truth, found)
    ])  # fmt: skip


def worst(scores: np.ndarray, used: list[int]) -> int:
    """The frame of the least mean score float64 [T, N], of those not used yet (all where all
    are)."""
    order = np.argsort(scores.mean(1))
    left = [int(t) for t in order if t not in used]
    return left[0] if left else int(order[0])


def play(run: session.Session, scribbles: dict) -> np.ndarray:
    """One round on the annotated frame of some scribbles."""
    frame = robot.annotated(scribbles)[0]
    strokes = robot.rasterised([scribbles['scribbles'][frame]], run.cells)[0]
    return run.play(strokes, frame)


def evaluate_sample(run, truth, name: str, first: dict, cfg, clock=time.time):
    """Rows (interaction, timing, J and F [T, N, 2]) of one sample, at most cfg.interactions; it
    ends when its time, cfg.seconds an interaction and object, is over.

    Args: clock: gives seconds; what it measures is from scribbles to masks.
    """
    count, used, rows = run.count - 1, [], []
    start, scribbles = clock(), first
    budget = cfg.seconds * cfg.interactions * count
    which = METRICS.index(cfg.metric)
    for number in range(1, cfg.interactions + 1):
        began = clock()
        found = play(run, scribbles) if robot.annotated(scribbles) else run.masks
        ended = clock()
        if ended - start > budget:
            break
        scores = scored(truth, found, count)
        rows.append((number, ended - began, scores))
        asked = scores.mean(2) if which == 2 else scores[..., which]
        frame = worst(asked, used)
        used.append(frame)
        scribbles = robot.interact(name, truth, found, frame, count)
    return rows


def curve(found: dict, cfg) -> dict:
    """AUC, the score at 60 s and the curve of {(sequence, number): (objects, rows)}.

    A sample that ended early keeps its last scores, at no time; objects weigh equally.
    """
    which = METRICS.index(cfg.metric)
    means, times = [], []
    for number in range(cfg.interactions):
        values, spent = [], []
        for objects, rows in found.values():
            row = rows[min(number, len(rows) - 1)] if rows else None
            scores = row[2].mean(0) if row else np.zeros((objects, 2))
            values += (scores.mean(1) if which == 2 else scores[:, which]).tolist()
            spent.append(rows[number][1] if number < len(rows) else 0.0)
        means.append(float(np.mean(values)))
        times.append(float(np.mean(spent)))
    objects = {name: count for (name, _), (count, _) in found.items()}
    last = np.mean(list(objects.values())) * cfg.seconds * cfg.interactions
    t = np.array([0.0, *np.cumsum(times), max(last, sum(times))])
    v = np.array([0.0, *means, means[-1]])
    area = float(np.sum((t[1:] - t[:-1]) * (v[1:] + v[:-1]) / 2) / t[-1])
    at = float(np.interp(AT, t, v))
    return {
        'auc': area, 'metric_at_threshold': {'threshold': AT, cfg.metric: at},
        'curve': {'time': t.tolist(), cfg.metric: v.tolist()},
    }  # fmt: skip


def table(found: dict) -> list[tuple]:
    """Rows of davisinteractive's csv."""
    result = []
    for (name, number), (_, rows) in found.items():
        for interaction, timing, scores in rows:
            for frame, k in np.ndindex(*scores.shape[:2]):
                j, f = scores[frame, k]
                result.append(('local', name, number, interaction, k + 1, frame, j, f,
                               (j + f) / 2, timing))  # fmt: skip
    return result


def text_of(rows: list[tuple], header: tuple) -> str:
    """CSV with a first column that numbers the rows, as pandas writes it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator='\n')
    writer.writerow(('', *header))
    writer.writerows((i, *row) for i, row in enumerate(rows))
    return buffer.getvalue()


def write(found: dict, cfg, output_path: str) -> dict:
    """Writes result.csv, summary.json, rounds.csv and curve.png; returns the summary."""
    summary = curve(found, cfg)
    npu.replace_file(os.path.join(output_path, 'result.csv'),
                     text_of(table(found), COLUMNS))  # fmt: skip
    summary['samples'] = [f'{name} {number}' for name, number in found]
    rounds = []
    for number in range(1, cfg.interactions + 1):
        scores = [row[2].mean(0) for _, rows in found.values() for row in rows if row[0] == number]
        if scores:
            j, f = np.concatenate(scores).mean(0)
            rounds.append((number, float(j), float(f), float(j + f) / 2))
    npu.replace_file(os.path.join(output_path, 'rounds.csv'),
                     text_of(rounds, ('round', 'J', 'F', 'J&F')))  # fmt: skip
    summary['rounds'] = [dict(zip(('round', 'J', 'F', 'J&F'), row)) for row in rounds]
    summary['config'] = {k: v for k, v in cfg.items() if k not in ('examples', 'counts')}
    summary['versions'] = {
        'tensorflow': tf.__version__, 'numpy': np.__version__, 'opencv': cv2.__version__,
    }  # fmt: skip
    npu.replace_file(os.path.join(output_path, 'summary.json'), json.dumps(summary, indent=1))
    picture = plotted(summary['curve']['time'], summary['curve'][cfg.metric], cfg.metric)
    masks.write_image(os.path.join(output_path, 'curve.png'), picture)
    return summary


def plotted(times: list, values: list, name: str) -> np.ndarray:
    """uint8 [480, 640, 3]: a curve of values 0..1 over seconds."""
    picture = np.full((480, 640, 3), 255, np.uint8)
    left, top, width, height = 60, 20, 560, 410
    most = max(times[-2] * 1.05, 1e-6)
    for k in range(6):
        y = top + height - height * k // 5
        cv2.line(picture, (left, y), (left + width, y), (220, 220, 220), 1)
        cv2.putText(picture, f'{k / 5:.1f}', (15, y + 5), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0))
    points = [(left + int(width * min(t / most, 1)), top + height - int(height * v))
              for t, v in zip(times, values)]  # fmt: skip
    cv2.polylines(picture, [np.array(points, np.int32)], False, (160, 60, 0), 2, cv2.LINE_AA)
    for point in points[1:-1]:
        cv2.circle(picture, point, 4, (0, 0, 200), -1, cv2.LINE_AA)
    text = f'{name} over seconds, 0 to {most:.1f} s'
    cv2.putText(picture, text, (left, 465), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1)
    return picture


def sequence(network, cfg, root: str, name: str, count: int, output_path: str, args) -> dict:
    """Plays the samples of one sequence; returns {(name, number): (objects, rows)}."""
    frames, truth = davis.frames(root, name), truth_of(root, name)
    if len(truth) != len(frames):
        raise ValueError(f'{name}: {len(frames)} frames, {len(truth)} masks to score with')
    embeddings = session.embedded(network, cfg, map(masks.read_image, frames))
    found = {}
    for number, first in data.samples(root, name, count):
        run = session.Session(network, cfg, embeddings, truth.shape[1:], count)
        rows = evaluate_sample(run, truth, name, first, cfg)
        found[name, number] = count, rows
        scores = [f'{row[2][..., 0].mean():.3f}' for row in rows]
        print(f'{name} {number}: J {" ".join(scores)}', flush=True)
        folder = os.path.join(output_path, 'masks', name, str(number))
        if args.save_masks or args.overlay:
            os.makedirs(folder, exist_ok=True)
            for path, ids in zip(frames, run.masks):
                stem = os.path.splitext(os.path.basename(path))[0]
                masks.write_mask(os.path.join(folder, stem + '.png'), ids)
        if args.overlay:
            drawn = [masks.overlay(masks.read_image(frames[t]), run.masks[t])
                     for t in range(0, len(frames), -(-len(frames) // 8))]  # fmt: skip
            path = os.path.join(output_path, 'overlay', f'{name}_{number}.png')
            os.makedirs(os.path.dirname(path), exist_ok=True)
            masks.write_image(path, masks.contact_sheet(drawn, 4, 1280))
    return found


def run(args, cfg) -> dict:
    """Evaluates a split; returns the summary."""
    if cfg.metric not in METRICS:
        raise ValueError(f'metric={cfg.metric}: known are {", ".join(METRICS)}')
    root = davis.resolve(cli.data_root(args, cfg), '2017')
    counts = data.instances(root, args.split)
    names = args.sequences.split(',') if args.sequences else sorted(counts)
    absent = sorted(set(names) - set(counts))
    if absent:
        raise ValueError(f'{", ".join(absent)}: not in split {args.split}')
    output_path = cli.writable(args.output_path)
    with session.loaded(cfg, cli.checkpoint_prefix(args.checkpoint)) as network:
        if args.backend == 'davisinteractive':
            counts = {name: counts[name] for name in names}
            return backend(network, cfg, root, counts, args, output_path)
        found = {}
        for name in names:  # files after each: a killed run keeps what it has
            found.update(sequence(network, cfg, root, name, counts[name], output_path, args))
            summary = write(found, cfg, output_path)
    return summary


def backend(network, cfg, root: str, counts: dict, args, output_path: str) -> dict:
    """The rounds, with davisinteractive's session as evaluator; returns its summary.

    Raises:
      ImportError: the package is not installed. ValueError: sequences without human scribbles.
    """
    try:
        from davisinteractive.session import DavisInteractiveSession
    except ImportError:
        raise ImportError(
            '--backend=davisinteractive needs that package (GPL): pip install numpy "Cython<3", '
            'then pip install --no-build-isolation davisinteractive==1.0.4 (README: versions)'
        ) from None
    _introduce(root, counts, args.split)
    current, embeddings = None, None
    with DavisInteractiveSession(
        host='localhost', davis_root=root, subset=args.split, metric_to_optimize=cfg.metric,
        max_nb_interactions=cfg.interactions, max_time=cfg.seconds * cfg.interactions,
        report_save_dir=output_path,
    ) as service:  # fmt: skip
        while service.next():
            name, scribbles, new = service.get_scribbles(only_last=True)
            frames = davis.frames(root, name)
            if new:
                if name != current:
                    images = map(masks.read_image, frames)
                    current, embeddings = name, session.embedded(network, cfg, images)
                size = masks.read_image(frames[0]).shape[:2]
                run = session.Session(network, cfg, embeddings, size, counts[name])
            found = play(run, scribbles) if robot.annotated(scribbles) else run.masks
            service.submit_masks(found.astype(int))
        return service.get_global_summary(os.path.join(output_path, 'summary.json'))


def _introduce(root, counts, split):
    """Tells davisinteractive of the sequences, else it knows DAVIS alone and downloads it."""
    from davisinteractive.dataset import Davis

    Davis.sets[split] = list(counts)
    for name, objects in counts.items():
        paths = glob.glob(os.path.join(root, 'Scribbles', glob.escape(name), '*.json'))
        if not paths:
            raise ValueError(f'davisinteractive needs human scribbles, no {root}/Scribbles/{name}')
        height, width = truth_of(root, name).shape[1:]
        Davis.dataset[name] = {
            'name': name, 'num_frames': len(davis.frames(root, name)), 'num_objects': objects,
            'image_size': [width, height], 'num_scribbles': len(paths), 'set': split,
        }  # fmt: skip


def accuracy(cfg, checkpoint: str, result_path: str) -> float | None:
    """The score at 60 s, 0..1, on the validation sequences; None, with a line that says so, where
    there are none."""
    args = arguments().parse_args(
        [f'--data_path={cfg.data_path}', f'--checkpoint={checkpoint}',
         f'--output_path={os.path.join(result_path, "results")}']
    )  # fmt: skip
    try:
        data.instances(cfg.data_path, args.split)
    except FileNotFoundError as error:
        print(f'no TrainAccuracy: {error}', flush=True)
        return None
    return run(args, cfg)['metric_at_threshold'][cfg.metric]


def arguments():
    """The program's flags."""
    flags = cli.parser(__doc__)
    flags.add_argument('--data_path', help='DAVIS 2017 tree; default on CPU: drawn data')
    flags.add_argument('--checkpoint', required=True, help='folder or prefix')
    flags.add_argument('--output_path', default='results')
    flags.add_argument('--sequences', help='a,b; default: the split')
    flags.add_argument('--split', default='val')
    flags.add_argument('--save_masks', action='store_true', help='of the last round')
    flags.add_argument('--overlay', action='store_true', help='draw contact sheets of the last')
    flags.add_argument('--backend', choices=('own', 'davisinteractive'), default='own')
    return flags


@cli.program
def main(argv=None):
    """Prints J and F a round, AUC and the score at 60 s."""
    args = arguments().parse_args(argv)
    cfg = cli.configure(args, get_config, args.checkpoint)
    summary = run(args, cfg)
    for row in summary.get('rounds', []):
        print(f'round {row["round"]}: J {row["J"]:.3f} F {row["F"]:.3f}')
    print(json.dumps({k: summary[k] for k in ('auc', 'metric_at_threshold')}))


if __name__ == '__main__':
    sys.exit(main())
