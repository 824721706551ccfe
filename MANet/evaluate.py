"""Evaluates interactive segmentation as the DAVIS challenge does: up to eight rounds a sequence,
each corrected by a robot on the worst frame, J over time (Caelles et al. 2018; MANet section 4.3).

    python -m MANet.evaluate --data_path=DAVIS --checkpoint=run --output_path=results --overlay

Samples are the files of DAVIS/Scribbles/<sequence>; where there are none the robot draws the first
scribbles on the first frame that shows most objects. The first round of a sequence pays for its
embedding, as in the challenge. Writes result.csv (the columns of davisinteractive), summary.json
(AUC, J at 60 s, the curve; the same without the embedding beside it), results.json (scores a round
and of the last round by frame), curve.png, plots/, rounds.csv (J and F a round), with --save_masks
the masks. --backend=davisinteractive lets that package play
evaluator (see the README for its installation).
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import time
from typing import NamedTuple

from common import davis, files, masks, plots, report, videos, weights
from common.bitmasks import frame_scores
from common.lazy import np

from . import cli, data, inference, pretrained, robot, session
from .config import PAPER, get_config

DATASETS = ('davis',)
COLUMNS = (
    'session_id',
    'sequence',
    'scribble_idx',
    'interaction',
    'object_id',
    'frame',
    'jaccard',
    'contour',
    'j_and_f',
    'timing',
)  # of davisinteractive's csv
AT = 60  # s, of the score "J at 60 s"
METRICS = ('J', 'F', 'J_AND_F')  # what the service may ask for


class Interaction(NamedTuple):
    """One round of a sample.

    number: from 1. seconds: from scribbles to masks, by the official clock. embedding: seconds of
    these that the video's embedding took, which a sequence pays once. scores: float64 [T, N, 2], J
    and F of every frame and object.
    """

    number: int
    seconds: float
    embedding: float
    scores: np.ndarray


def read_truth(root: str, name: str, year: str) -> np.ndarray:
    """Ids uint8 [T, H, W], void 255 as background."""
    found = np.stack([data.read_label(path, year) for path in davis.masks(root, name)])
    return np.where(found == data.VOID, 0, found).astype(np.uint8)


def score_masks(truth: np.ndarray, found: np.ndarray, count: int) -> np.ndarray:
    """J and F float64 [T, N, 2] of every frame and object, ids uint8 [T, H, W]."""
    scores = np.zeros((len(truth), count, 2))
    for t, (ids, answer) in enumerate(zip(truth, found)):
        for k in range(count):
            pair = (ids == k + 1).astype(np.uint8), (answer == k + 1).astype(np.uint8)
            scores[t, k] = frame_scores(*pair)
    return scores


def metric_of(scores: np.ndarray, metric: str) -> np.ndarray:
    """[...] of scores [..., 2]: J, F or their mean."""
    return scores.mean(-1) if metric == 'J_AND_F' else scores[..., METRICS.index(metric)]


def worst_frame(scores: np.ndarray, used: list[int]) -> int:
    """The frame of the least mean score float64 [T, N], of those not used yet (all where all
    are)."""
    order = np.argsort(scores.mean(1))
    left = [int(t) for t in order if t not in used]
    return left[0] if left else int(order[0])


def play(run: session.Session, scribbles: dict) -> np.ndarray:
    """One round on the annotated frame of some scribbles; without a stroke the masks stay."""
    frames = robot.annotated_frames(scribbles)
    if not frames:
        return run.masks
    return run.play(scribbles['scribbles'][frames[0]], frames[0])


def evaluate_sample(
    run,
    truth: np.ndarray,
    name: str,
    first: dict,
    cfg,
    clock=time.monotonic,
    embedding: float = 0.0,
) -> list[Interaction]:
    """Plays one sample, at most cfg.interactions rounds; it ends when its time, cfg.seconds an
    interaction and object, is over.

    Args:
      run: session.Session of the video.
      truth: ids uint8 [T, H, W].
      name: of the sequence.
      first: scribbles of the first round.
      cfg: uses interactions, seconds, metric.
      clock: gives seconds.
      embedding: seconds that the first round pays for the video's embedding.
    """
    count, used, rows = run.count - 1, [], []
    start, scribbles = clock() - embedding, first
    budget = cfg.seconds * cfg.interactions * count
    for number in range(1, cfg.interactions + 1):
        begin = clock()
        found = play(run, scribbles)
        end = clock()
        if end - start > budget:
            break
        paid = embedding if number == 1 else 0.0
        rows.append(Interaction(number, end - begin + paid, paid, score_masks(truth, found, count)))
        frame = worst_frame(metric_of(rows[-1].scores, cfg.metric), used)
        used.append(frame)
        scribbles = robot.interact(name, truth, found, frame, count)
    return rows


def curve(found: dict, cfg, with_embedding: bool = True) -> dict:
    """AUC, the score at 60 s and the curve.

    A sample that ended early keeps its last scores, at no time; objects weigh equally.

    Args:
      found: {(sequence, number): (objects, [Interaction])}.
      cfg: uses metric, interactions, seconds.
      with_embedding: by the official clock; else without the seconds of the embeddings.
    """
    means, times = [], []
    for number in range(cfg.interactions):
        values, spent = [], []
        for objects, rows in found.values():
            if rows:
                scores = rows[min(number, len(rows) - 1)].scores.mean(0)
            else:
                scores = np.zeros((objects, 2))
            values += metric_of(scores, cfg.metric).tolist()
            seconds = 0.0
            if number < len(rows):
                seconds = rows[number].seconds
                seconds -= 0.0 if with_embedding else rows[number].embedding
            spent.append(seconds)
        means.append(float(np.mean(values)))
        times.append(float(np.mean(spent)))
    objects = {name: count for (name, _), (count, _) in found.items()}
    last = np.mean(list(objects.values())) * cfg.seconds * cfg.interactions
    t = np.array([0.0, *np.cumsum(times), max(last, sum(times))])
    v = np.array([0.0, *means, means[-1]])
    area = float(np.sum((t[1:] - t[:-1]) * (v[1:] + v[:-1]) / 2) / t[-1])
    return {
        'auc': area,
        'metric_at_threshold': {'threshold': AT, cfg.metric: float(np.interp(AT, t, v))},
        'curve': {'time': t.tolist(), cfg.metric: v.tolist()},
    }


def csv_rows(found: dict) -> list[tuple]:
    """Rows of davisinteractive's csv."""
    result = []
    for (name, number), (_, rows) in found.items():
        for row in rows:
            for frame, k in np.ndindex(*row.scores.shape[:2]):
                j, f = row.scores[frame, k]
                where = 'local', name, number, row.number, k + 1, frame
                result.append((*where, j, f, (j + f) / 2, row.seconds))
    return result


def csv_text(rows: list[tuple], header: tuple) -> str:
    """CSV with a first column that numbers the rows, as pandas writes it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator='\n')
    writer.writerow(('', *header))
    writer.writerows((i, *row) for i, row in enumerate(rows))
    return buffer.getvalue()


def mean_rounds(found: dict, cfg) -> list[tuple]:
    """[(round, J, F, J&F)], means over all objects of the samples that played the round."""
    result = []
    for number in range(1, cfg.interactions + 1):
        scores = [
            row.scores.mean(0) for _, rows in found.values() for row in rows if row.number == number
        ]
        if scores:
            j, f = np.concatenate(scores).mean(0)
            result.append((number, float(j), float(f), float(j + f) / 2))
    return result


def write(found: dict, root: str, cfg, output_path: str) -> dict:
    """Writes result.csv, summary.json, results.json, rounds.csv, curve.png and plots/ of samples
    of the DAVIS tree `root`; returns the summary."""
    header, rounds = ('round', 'J', 'F', 'J&F'), mean_rounds(found, cfg)
    without = curve(found, cfg, with_embedding=False)
    settings = {key: cfg[key] for key in get_config()}
    made = files.made_with(settings)
    summary = {
        **curve(found, cfg),
        'without_embedding': {key: without[key] for key in ('auc', 'metric_at_threshold')},
        'samples': [f'{name} {number}' for name, number in found],
        'rounds': [dict(zip(header, row)) for row in rounds],
        'config': settings,
        'versions': made['versions'],
    }
    results = {**scores_of(found, summary, root, cfg), **made}
    results['paper'] = PAPER.get(f'davis {cfg.year}', {})
    texts = {
        'result.csv': csv_text(csv_rows(found), COLUMNS),
        'rounds.csv': csv_text(rounds, header),
        'summary.json': json.dumps(summary, indent=1),
        'results.json': json.dumps(results, indent=1),
    }
    for name, text in texts.items():
        files.write_text(os.path.join(output_path, name), text)
    times, values = (summary['curve'][key][:-1] for key in ('time', cfg.metric))
    line = plots.Line(cfg.metric, times, values, dots=True)
    panel = plots.Panel([line], 'seconds', f'mean {cfg.metric}, a dot a round', 0.0, 1.0)
    plots.write(os.path.join(output_path, 'curve.png'), [panel], 640, 400)
    plots.write_by_frame(results, os.path.join(output_path, 'plots'))
    return summary


def scores_of(found: dict, summary: dict, root: str, cfg) -> dict:
    """What results.json has of the scores, for common/report.py: `global`, `per_sequence` and
    `per_frame` of the last round, `rounds` {row: {'J': values, 'F': values}}, `curve`, `where`; a
    row is '<sequence>/<sample>_<object>'."""
    last = summary['rounds'][-1] if summary['rounds'] else {}
    results = {
        'global': {
            f'{cfg.metric} at {AT} s': summary['metric_at_threshold'][cfg.metric],
            f'AUC of {cfg.metric}': summary['auc'],
            **{f'{key}, last round': last[key] for key in ('J', 'F', 'J&F') if key in last},
        },
        'per_sequence': {},
        'per_frame': {},
        'rounds': {},
        'curve': summary['curve'],
        'where': {f'{name}/{number}': where(root, name, number) for name, number in found},
    }
    for (name, number), (count, played) in found.items():
        frames = [files.stem(path) for path in davis.frames(root, name)]
        for k in range(count if played else 0):
            row = f'{name}/{number}_{k + 1}'
            j, f = np.array([each.scores[:, k].mean(0) for each in played]).T.tolist()
            results['rounds'][row] = {'J': j, 'F': f}
            results['per_sequence'][row] = {'J-Mean': j[-1], 'F-Mean': f[-1]}
            j, f = played[-1].scores[:, k].T.tolist()
            results['per_frame'][row] = {'frames': frames, 'J': j, 'F': f}
    return results


def where(root: str, name: str, number: int) -> dict:
    """Folders of a sample's frames, ground truth and masks."""
    images, truth = (
        os.path.join(root, kind, '480p', name) for kind in ('JPEGImages', 'Annotations')
    )
    return {'images': images, 'truth': truth, 'masks': os.path.join('masks', name, str(number))}


def evaluate_sequence(network, cfg, root: str, name: str, count: int, output_path: str, options):
    """Plays the samples of one sequence; returns {(name, number): (objects, [Interaction])}."""
    frames, truth = davis.frames(root, name), read_truth(root, name, cfg.year)
    if len(truth) != len(frames):
        raise ValueError(f'{name}: {len(frames)} frames, {len(truth)} masks to score with')
    inference.check_memory(len(frames), truth.shape[1:], count + 1, cfg)
    samples = data.samples(root, name, truth, count)
    begin = time.monotonic()
    embeddings = inference.embed_video(network, cfg, videos.Frames(frames))
    embedding, found = time.monotonic() - begin, {}
    for number, first in samples:
        run = session.Session(network, cfg, embeddings, truth.shape[1:], count, undo=False)
        paid = 0.0 if found else embedding
        rows = evaluate_sample(run, truth, name, first, cfg, embedding=paid)
        found[name, number] = count, rows
        scores = [f'{row.scores[..., 0].mean():.3f}' for row in rows]
        print(f'{name} {number}: J {" ".join(scores)}', flush=True)
        folder = os.path.join('masks', name, str(number))
        video = videos.Video(f'{name}_{number}', folder, frames, {}, {}, [])
        if options.save_masks or options.overlay or options.report:
            videos.write_masks(video, run.masks, output_path)
        if options.overlay:
            videos.draw(video, output_path)
    return found


def run(options, cfg) -> dict:
    """Evaluates a split, writes the results and returns the summary.

    Args:
      options: attributes data_path, split, sequences, checkpoint, output_path, save_masks, overlay,
        backend, as arguments() has them.
      cfg: settings of the network.

    Raises:
      FileNotFoundError, ValueError: missing data or checkpoint; unknown sequences or metric.
    """
    if cfg.metric not in METRICS:
        raise ValueError(f'metric={cfg.metric}: known are {", ".join(METRICS)}')
    split = options.split or 'val'
    root = davis.resolve(options.data_path, cfg.year)
    counts = data.instances(root, split, cfg.year)
    names = options.sequences.split(',') if options.sequences else sorted(counts)
    absent = sorted(set(names) - set(counts))
    if absent:
        raise ValueError(f'{", ".join(absent)}: not in split {split}')
    output_path = cli.writable(options.output_path)
    cli.lock(output_path)
    with inference.load(options.checkpoint, cfg) as network:
        if options.backend == 'davisinteractive':
            counts = {name: counts[name] for name in names}
            return play_service(network, cfg, root, counts, split, output_path)
        found = {}
        for name in names:  # files after each: a killed run keeps what it has
            count = counts[name]
            found.update(evaluate_sequence(network, cfg, root, name, count, output_path, options))
            summary = write(found, root, cfg, output_path)
    return summary


def play_service(network, cfg, root: str, counts: dict, split: str, output_path: str) -> dict:
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
    _introduce(root, counts, split, cfg.year)
    current, embeddings = None, None
    with DavisInteractiveSession(
        host='localhost',
        davis_root=root,
        subset=split,
        metric_to_optimize=cfg.metric,
        max_nb_interactions=cfg.interactions,
        max_time=cfg.seconds * cfg.interactions,
        report_save_dir=output_path,
    ) as service:
        while service.next():
            name, scribbles, new = service.get_scribbles(only_last=True)
            frames = davis.frames(root, name)
            if new:
                if name != current:
                    images = videos.Frames(frames)
                    current, embeddings = name, inference.embed_video(network, cfg, images)
                size = masks.read_image(frames[0]).shape[:2]
                run = session.Session(network, cfg, embeddings, size, counts[name], undo=False)
            service.submit_masks(play(run, scribbles).astype(int))
        return service.get_global_summary(os.path.join(output_path, 'summary.json'))


def _introduce(root, counts, split, year):
    """Tells davisinteractive of the sequences, else it knows DAVIS alone and downloads it."""
    from davisinteractive.dataset import Davis

    Davis.sets[split] = list(counts)
    for name, objects in counts.items():
        paths = data.scribble_files(root, name)
        if not paths:
            raise ValueError(f'davisinteractive needs human scribbles, no {root}/Scribbles/{name}')
        height, width = read_truth(root, name, year).shape[1:]
        Davis.dataset[name] = {
            'name': name,
            'num_frames': len(davis.frames(root, name)),
            'num_objects': objects,
            'image_size': [width, height],
            'num_scribbles': len(paths),
            'set': split,
        }


def accuracy(cfg, data_path: str, checkpoint: str, output_path: str) -> float | None:
    """The score at 60 s, 0..1, on the validation sequences; None, with a line that says so, where
    there are none or the interaction head is not trained."""
    options = cli.options(
        arguments(), data_path=data_path, checkpoint=checkpoint, output_path=output_path
    )
    untrained = inference.untrained_head(checkpoint)
    if untrained:
        print(f'no TrainAccuracy: {untrained}', flush=True)
        return None
    try:
        return run(options, cfg)['metric_at_threshold'][cfg.metric]
    except FileNotFoundError as error:
        print(f'no TrainAccuracy: {error}', flush=True)
        return None


def arguments():
    """The program's flags."""
    flags = cli.parser(__doc__)
    cli.add_evaluation_flags(flags, DATASETS)
    flags.add_argument('--save_masks', action='store_true', help='of the last round')
    flags.add_argument('--backend', choices=('own', 'davisinteractive'), default='own')
    return flags


@cli.program
def main(argv=None):
    """Prints J and F a round, AUC and the score at 60 s."""
    args = arguments().parse_args(argv)
    if args.report and args.backend != 'own':
        raise ValueError('--report needs the scores of --backend=own')
    pretrained.choose(args)
    cfg = cli.configure(args, get_config, args.checkpoint)
    args.data_path = cli.data_root(args, cfg)
    cli.say_weights(cfg, weights.checkpoint_prefix(args.checkpoint))
    untrained = inference.untrained_head(args.checkpoint)
    if untrained:
        print(f'these scores mean nothing: {untrained}', flush=True)
    summary = run(args, cfg)
    for row in summary.get('rounds', []):
        print(f'round {row["round"]}: J {row["J"]:.3f} F {row["F"]:.3f}')
    keys = ('auc', 'metric_at_threshold', 'without_embedding')
    print(json.dumps({key: summary[key] for key in keys if key in summary}))
    if args.report:
        report.write([args.output_path], os.path.join(args.output_path, 'report.html'))


if __name__ == '__main__':
    sys.exit(main())
