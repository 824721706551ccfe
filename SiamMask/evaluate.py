"""Tracks and scores: VOT (accuracy, robustness, EAO) and video object segmentation (J, F).

    python -m SiamMask.evaluate --data_path=VOT2018.json --checkpoint=run --output_path=out
    python -m SiamMask.evaluate --data_path=VOT2018.json --results=out       (scores result files)
    python -m SiamMask.evaluate --data_path=DAVIS --dataset=davis --checkpoint=run [--overlay]

VOT: by the supervised protocol, results in <output_path>/<tracker>/baseline/<video>/<video>_001.txt
as the official toolkits read them; a video that has its file is not tracked again. --sweep takes
every checkpoint of a folder, --search=penalty_k=0.08,0.13,0.01 (once a parameter) a grid of
settings. davis and youtube_vos: every object from its first mask's box, masks as palette PNGs.
"""

from __future__ import annotations

import glob
import itertools
import json
import os
import random
import sys

import numpy as np
import tensorflow.compat.v1 as tf

from common import davis, masks, metrics, youtube_vos

from . import cli, demo, npu, tracker, vot
from .config import get_config

SEARCHED = ('penalty_k', 'window_influence', 'tracker_rate')
THRESHOLDS = (0.30, 0.35, 0.40, 0.45)  # of mean IoU (PT tools/test.py)


def track_set(network, sequences: list, hyper: dict, folder: str, boxes: bool = False) -> dict:
    """{sequence: [run]} of one tracker, read where its file is there, else tracked and written."""
    result = {}
    for sequence in sequences:
        name = sequence['name']
        path = os.path.join(folder, 'baseline', name, f'{name}_001.txt')
        if not os.path.isfile(path):
            vot.write_run(path, tracker.supervised(network, sequence, hyper, True, boxes))
            print(f'{name}: {len(sequence["frames"])} frames, {path}', flush=True)
        result[name] = vot.read_runs(folder, sequence)
    return result


def interval_of(path: str) -> tuple:
    """(name, (low, high)) of EAO for a data path that names its year; VOT2018's otherwise."""
    found = [year for year in vot.INTERVALS if year in os.path.abspath(path)]
    return (found[-1], vot.INTERVALS[found[-1]]) if found else ('', vot.LEGACY)


def score_vot(sequences: list, runs: dict, data_path: str, folder: str) -> dict:
    """Scores of one tracker, written to `folder`: results.json, eao.png, overlap.png."""
    _, interval = interval_of(data_path)
    found = vot.score(sequences, runs, interval)
    found['eao_legacy'] = vot.eao(found['curve'], vot.LEGACY)
    met = {
        s['name']: vot.run_overlaps(runs[s['name']][0], s, (s['width'], s['height']))
        for s in sequences
    }
    every = np.concatenate([overlap[1:] for overlap in met.values()])
    found['mean_overlap'] = float(np.nan_to_num(every).mean())
    curve = found.pop('curve')
    plain = {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in found.items()}
    plain['interval'], plain['curve'] = interval, [float(v) for v in curve]
    npu.replace_file(os.path.join(folder, 'results.json'), json.dumps(plain, indent=1))
    lines = {'expected overlap': curve}
    masks.write_image(os.path.join(folder, 'eao.png'), demo.plot(lines, 'frames', interval))
    shown = dict(list(met.items())[:6])
    masks.write_image(os.path.join(folder, 'overlap.png'), demo.plot(shown, 'frame'))
    return found


def table(rows: dict) -> str:
    """Tracker, accuracy, robustness, lost, EAO, best EAO first."""
    best = sorted(rows.items(), key=lambda r: -np.nan_to_num(r[1]['eao']))
    lines = [f'{"tracker":36s} accuracy robustness   lost    EAO  EAO 100-356']
    for name, r in best[:20]:
        lines.append(
            f'{name:36s} {r["accuracy"]:8.3f} {r["robustness"]:10.3f} {r["lost"]:6.1f} '
            f'{r["eao"]:6.3f} {r["eao_legacy"]:7.3f}'
        )
    return '\n'.join(lines)


def trackers(args, cfg) -> list[tuple]:
    """[(name, checkpoint prefix, hyper-parameters)] of --checkpoint, --sweep and --search."""
    prefixes = [cli.checkpoint_prefix(args.checkpoint)]
    if args.sweep:
        found = glob.glob(os.path.join(os.path.dirname(prefixes[0]), '*.index'))
        prefixes = sorted({p[: -len('.index')] for p in found}, key=lambda p: (len(p), p))
    hyper = tracker.hyper_parameters(cfg, benchmark(args, cfg))
    kind = 'box' if args.boxes else 'mask' if cfg.variant == 'base' else 'mask_refine'
    plain = [(f'{cfg.name}_{kind}_{os.path.basename(p)}', p, hyper) for p in prefixes]
    if not args.search:
        return plain
    grid = {}
    for text in args.search:
        key, _, values = text.partition('=')
        if key not in SEARCHED or len(values.split(',')) != 3:
            raise ValueError(f'--search {text}: expected start,stop,step of {", ".join(SEARCHED)}')
        grid[key] = [float(v) for v in np.arange(*map(float, values.split(',')))]
    points, result = list(itertools.product(*grid.values())), []
    random.Random(os.getpid()).shuffle(points)  # several processes share a search
    for base, prefix, hyper in plain:
        for values in points:
            chosen = dict(zip(grid, values))
            label = ''.join(f'_{k}{v:.3f}' for k, v in chosen.items())
            result.append((base + label, prefix, {**hyper, **chosen}))
    return result


def claim(folder: str, prefix: str, hyper: dict) -> None:
    """Notes in `folder` what its results are of; ValueError where they are of something else."""
    path = os.path.join(folder, 'settings.json')
    changed = os.stat(f'{prefix}.index').st_mtime
    text = json.dumps({'checkpoint': prefix, 'written': changed, **hyper}, indent=1)
    if os.path.isfile(path):
        with open(path) as f:
            if f.read() != text:
                raise ValueError(
                    f'{folder} has results of another checkpoint or of other settings '
                    '(settings.json): choose another --output_path'
                )
    npu.replace_file(path, text)


def benchmark(args, cfg) -> str:
    """Row of config.HYPER: --hyper, else by network and data set."""
    if args.hyper:
        return args.hyper
    if args.dataset != 'vot':
        return 'davis'
    return 'vot' if cfg.variant == 'sharp' else 'base'


def run_vot(args, cfg, output_path: str) -> dict:
    """{tracker: scores} of --results, or of what --checkpoint and its like track."""
    path = args.data_path
    sequences = vot.load(path)
    if args.sequences:
        sequences = [s for s in sequences if s['name'] in args.sequences.split(',')]
        if not sequences:
            raise ValueError(f'--sequences={args.sequences}: none of them is in {path}')
    rows = {}
    if args.results:
        folders = sorted(glob.glob(os.path.join(args.results, args.tracker_prefix + '*')))
        folders = [f for f in folders if os.path.isdir(os.path.join(f, 'baseline'))]
        folders = folders or [args.results]
        for folder in folders:
            runs = {s['name']: vot.read_runs(folder, s) for s in sequences}
            name = os.path.basename(os.path.abspath(folder))
            own = cli.writable(os.path.join(output_path, name))
            rows[name] = score_vot(sequences, runs, path, own)
        return rows
    network = made = None
    for name, prefix, hyper in trackers(args, cfg):
        if prefix != made:
            network, made = tracker.Network(cfg, prefix), prefix
        folder = cli.writable(os.path.join(output_path, name))
        claim(folder, prefix, hyper)
        runs = track_set(network, sequences, hyper, folder, args.boxes)
        rows[name] = score_vot(sequences, runs, path, folder)
    return rows


def find_videos(root: str, dataset: str, split: str, names: str | None, year: str) -> list[dict]:
    """[{name, frames, given {frame number: ids}, truth {frame number: path}}] of a VOS data set;
    an object starts in the first mask that shows it."""
    result, asked = [], names.split(',') if names else None
    reader, args = (davis, ()) if dataset == 'davis' else (youtube_vos, (split or 'valid',))
    if dataset == 'davis':
        root = davis.resolve(root)
        listed = asked or davis.sequences(root, split or 'val', year)
    else:
        listed = asked or youtube_vos.sequences(root, *args)
    for name in listed:
        frames = reader.frames(root, name, *args)
        places = {os.path.splitext(os.path.basename(p))[0]: t for t, p in enumerate(frames)}
        truth = {places[os.path.splitext(os.path.basename(p))[0]]: p
                 for p in reader.masks(root, name, *args)}  # fmt: skip
        seen, given = set(), {}
        for t in [min(truth)] if dataset == 'davis' else sorted(truth):
            ids = _ids(truth[t], year if dataset == 'davis' else '2017')
            new = set(np.unique(ids).tolist()) - {0} - seen
            if new:
                given[t] = np.where(np.isin(ids, sorted(new)), ids, 0).astype(np.uint8)
                seen |= new
        if not seen:
            raise ValueError(f'{name}: the masks show no object')
        ends = {}
        if dataset == 'youtube_vos':  # the last frame that meta.json lists
            shown = youtube_vos.objects(root, name, *args)
            ends = {n: max(places[stem] for stem in stems) for n, stems in shown.items()}
        result.append(dict(name=name, frames=frames, given=given, truth=truth, ends=ends))
    return result


def _ids(path, year):
    mask = masks.read_mask(path)
    if year == '2016':
        return ((mask > 0) & (mask < 255)).astype(np.uint8)
    return np.where(mask == 255, 0, mask).astype(np.uint8)


def run_vos(args, cfg, output_path: str) -> dict:
    """Segments, writes masks, scores (where there are masks to compare with), draws."""
    videos = find_videos(args.data_path, args.dataset, args.split, args.sequences, args.year)
    hyper = tracker.hyper_parameters(cfg, benchmark(args, cfg))
    most = max(len({*np.concatenate([np.unique(m) for m in v['given'].values()])}) for v in videos)
    network = tracker.Network(cfg, args.checkpoint, most - 1)
    rows = {}
    for video in videos:
        folder = cli.writable(os.path.join(output_path, 'masks', video['name']))
        shares = {}
        frames = map(masks.read_image, video['frames'])
        steps = tracker.segment(network, frames, video['given'], hyper, video['ends'])
        for t, (_, ids, states) in enumerate(steps):
            stem = os.path.splitext(os.path.basename(video['frames'][t]))[0]
            masks.write_mask(os.path.join(folder, f'{stem}.png'), ids)
            if t in video['truth']:
                _compare(video, t, ids, states, args, shares)
        for number, values in shares.items():
            rows[f'{video["name"]}_{number}'] = _row(values)
        if args.overlay:
            overlays(video, folder, cli.writable(os.path.join(output_path, 'overlay')))
        print(f'{video["name"]}: {len(video["frames"])} masks in {folder}', flush=True)
    return _summary(args, cfg, videos, rows, output_path)


def overlays(video: dict, folder: str, output_path: str) -> None:
    """Writes <name>.png, a contact sheet of at most eight frames, and <name>.mp4."""

    def drawn(path):
        stem = os.path.splitext(os.path.basename(path))[0]
        mask = masks.read_mask(os.path.join(folder, stem + '.png'))
        return masks.overlay(masks.read_image(path), mask)

    name, frames = os.path.join(output_path, video['name']), video['frames']
    chosen = frames[:: -(-len(frames) // 8)]
    masks.write_image(f'{name}.png', masks.contact_sheet([drawn(p) for p in chosen], 4, 1280))
    masks.write_video(f'{name}.mp4', map(drawn, frames))


def _compare(video, t, ids, states, args, shares):
    """Adds J, F and the IoU at several thresholds of frame t, for objects that began before it."""
    truth = _ids(video['truth'][t], args.year if args.dataset == 'davis' else '2017')
    for number, state in states.items():
        began = min(k for k, given in video['given'].items() if (given == number).any())
        if t <= began:
            continue
        mask = truth == number
        row = [metrics.db_eval_iou(mask, ids == number)]
        row.append(metrics.db_eval_boundary(mask, ids == number))
        row += [metrics.db_eval_iou(mask, state['mask'] > v) for v in THRESHOLDS]
        shares.setdefault(number, []).append(row)


def _row(values):
    mean = np.mean(values, 0)
    row = {'J-Mean': float(mean[0]), 'F-Mean': float(mean[1])}
    row.update({f'IoU@{v:.2f}': float(m) for v, m in zip(THRESHOLDS, mean[2:])})
    return row


def _summary(args, cfg, videos, rows, output_path):
    if not rows:
        return {}
    if args.dataset == 'davis' and all(len(v['truth']) == len(v['frames']) for v in videos):
        root = os.path.join(davis.resolve(args.data_path), 'Annotations', '480p')
        names = [video['name'] for video in videos]
        results = metrics.evaluate(root, os.path.join(output_path, 'masks'), names, year=args.year)
        for name, row in results['per_sequence'].items():
            row.update({k: v for k, v in rows.get(name, {}).items() if k.startswith('IoU')})
    else:
        j, f = (float(np.mean([r[k] for r in rows.values()])) for k in ('J-Mean', 'F-Mean'))
        results = {'global': {'J&F-Mean': (j + f) / 2, 'J-Mean': j, 'F-Mean': f}}
        results.update(per_sequence=rows, per_frame={})
    results['config'] = {k: v for k, v in cfg.items() if k != 'crops'}
    results['versions'] = {'tensorflow': tf.__version__, 'numpy': np.__version__}
    metrics.write_results(results, output_path)
    return results


def accuracy(cfg, checkpoint: str, result_path: str) -> float | None:
    """Of the model zoo's result block, 0..1, from what the data folder holds: EAO of VOT sequences
    that are long enough for it, else their mean overlap (0 where lost); J&F of DAVIS; None, with a
    line that says so, where it has neither."""
    found = [os.path.join(cfg.data_path, n) for n in (*vot.INTERVALS, 'VOT')]
    found = [path for path in found if os.path.isdir(path)]
    output_path = os.path.join(result_path, 'results')
    flags = [f'--checkpoint={checkpoint}', f'--output_path={output_path}']
    if found:
        args = arguments().parse_args([*flags, f'--data_path={found[0]}'])
        scores = next(iter(run_vot(args, cfg, output_path).values()))
        print(f'TrainAccuracy: {"mean overlap" if np.isnan(scores["eao"]) else "EAO"}', flush=True)
        return scores['mean_overlap'] if np.isnan(scores['eao']) else scores['eao']
    try:
        root = davis.resolve(cfg.data_path)
    except FileNotFoundError as error:
        print(f'no TrainAccuracy: no VOT sequences in {cfg.data_path}; {error}', flush=True)
        return None
    args = arguments().parse_args([*flags, f'--data_path={root}', '--dataset=davis'])
    print('TrainAccuracy: J&F of DAVIS', flush=True)
    return run_vos(args, cfg, output_path)['global']['J&F-Mean']


def arguments():
    """The program's flags."""
    flags = cli.parser(__doc__)
    add = flags.add_argument
    add('--data_path', required=True, help='VOT20xx.json, VOT folder or sequence, or VOS tree')
    add('--dataset', choices=('vot', 'davis', 'youtube_vos'), default='vot')
    add('--checkpoint', help='folder or prefix')
    add('--output_path', default='results')
    add('--sequences', help='a,b; default: all')
    add('--hyper', choices=('base', 'vot', 'vot18', 'davis'), help='default: by data and network')
    add('--boxes', action='store_true', help='VOT: axis-aligned boxes (SiamMask-box)')
    add('--results', help='VOT: score the result files in this folder, of one tracker or several')
    add('--tracker_prefix', default='', help='with --results: names that begin so')
    add('--sweep', action='store_true', help='VOT: all checkpoints of the folder')
    add('--search', action='append', help='VOT: NAME=start,stop,step of a grid')
    add('--split', default='', help="VOS; default: val, YouTube-VOS 'valid'")
    add('--year', choices=('2016', '2017'), default='2017', help='DAVIS convention')
    add('--overlay', action='store_true', help='VOS: draw contact sheets and clips')
    return flags


@cli.program
def main(argv=None):
    """Prints the table."""
    args = arguments().parse_args(argv)
    if not args.checkpoint and not args.results:
        raise ValueError('--checkpoint is needed, or --results')
    cfg = cli.configure(args, get_config, args.checkpoint)
    if not os.path.exists(args.data_path):
        raise FileNotFoundError(f'--data_path: nothing at {os.path.abspath(args.data_path)}')
    output_path = cli.writable(args.output_path)
    if args.dataset == 'vot':
        print(table(run_vot(args, cfg, output_path)))
        return
    results = run_vos(args, cfg, output_path)
    for name, row in sorted(results.get('per_sequence', {}).items()):
        print(f'{name:24s} J {row["J-Mean"]:.3f} F {row["F-Mean"]:.3f}')
    print(json.dumps(results['global']) if results else 'no masks to compare with: nothing scored')


if __name__ == '__main__':
    sys.exit(main())
