"""Time of J and F against the plain formula, and end to end with PNG reading, interleaved; values
must be equal.

    python test/bench/bench_metrics.py [--official=davis2017-evaluation]

The plain form (masks as bool arrays, OpenCV's dilation by the disk) is written here; with
--official, a checkout of davis2017-evaluation is timed too (needs scikit-image, pandas). One JSON
line a case.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from common import bitmasks, masks, metrics  # noqa: E402

CASES = {
    '1 object, 1.3 %': (1, 0.013),
    '3 objects, 6 %': (3, 0.06),
    '5 objects, 19 %': (5, 0.19),
    '5 objects, 78 %': (5, 0.78),
}  # number, share of a 480x854 frame: performance.md's four


def frames(count, share, seed=0, size=(480, 854)):
    """Ids uint8 [H, W] of `count` ellipses that cover `share` of the frame, and the same a little
    moved."""
    draw = np.random.RandomState(seed)
    area = share * size[0] * size[1] / count
    columns = -(-count // 2) if count > 1 else 1
    both = []
    for move in (0, 4):
        mask = np.zeros(size, np.uint8)
        for n in range(count):
            y, x = (n % 2 + 0.5) * size[0] / min(count, 2), (n // 2 + 0.5) * size[1] / columns
            ratio = (size[1] / columns) / (size[0] / min(count, 2))
            b = (area / np.pi / ratio) ** 0.5
            center = (int(x) + move, int(y) + move // 2)
            cv2.ellipse(mask, center, (int(b * ratio), int(b)), draw.rand() * 9, 0, 360, n + 1, -1)
        both.append(mask)
    return both


def plain(truth, result):
    """(J, F) of one object with bool arrays."""
    truth, result = truth.astype(bool), result.astype(bool)
    union = np.sum(truth | result)
    j = np.sum(truth & result) / union if union else 1.0
    radius = int(np.ceil(0.008 * np.linalg.norm(truth.shape)))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.uint8)

    def outline(mask):
        padded = np.pad(mask, ((0, 1), (0, 1)), mode='edge')
        here = padded[:-1, :-1]
        return (here ^ padded[:-1, 1:]) | (here ^ padded[1:, :-1]) | (here ^ padded[1:, 1:])

    a, b = outline(truth), outline(result)
    if not a.any() or not b.any():
        return j, float(a.any() == b.any())
    precision = np.sum(b & (cv2.dilate(a.astype(np.uint8), disk) > 0)) / float(np.sum(b))
    recall = np.sum(a & (cv2.dilate(b.astype(np.uint8), disk) > 0)) / float(np.sum(a))
    return j, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def official(path):
    """(J, F) by a checkout of davis2017-evaluation."""
    sys.path.insert(0, path)
    from davis2017.metrics import db_eval_boundary, db_eval_iou

    return lambda a, b: (float(db_eval_iou(a, b)), float(db_eval_boundary(a, b)))


def objects(function, truth, result, count, kind):
    """Scores of all objects of a frame."""
    out = []
    for n in range(1, count + 1):
        a, b = truth == n, result == n
        out.append(function(a.view(kind), b.view(kind)))
    return out


def time_frames(name, count, share, functions, rounds):
    """One line: milliseconds a frame, ratios, whether all agree."""
    truth, result = frames(count, share)
    seconds = {key: [] for key in functions}
    values = {}
    for _ in range(rounds):
        for key, (function, kind) in functions.items():
            begin = time.process_time()
            for _ in range(4):
                values[key] = objects(function, truth, result, count, kind)
            seconds[key].append((time.process_time() - begin) / 4)
    medians = {key: statistics.median(s) for key, s in seconds.items()}
    worst = max(
        abs(x - y) for v in values.values() for a, b in zip(v, values['ours']) for x, y in zip(a, b)
    )
    print(
        json.dumps(
            {
                'bench': 'metrics',
                'case': name,
                'difference': worst,
                'ms': {k: round(1e3 * v, 3) for k, v in medians.items()},
                'times': {k: round(v / medians['ours'], 1) for k, v in medians.items()},
            }
        ),
        flush=True,
    )


def end_to_end(rounds):
    """One line: a sequence of 60 frames and 3 objects from PNG files, against its decoding
    alone."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in ('gt', 'results'):
            os.makedirs(os.path.join(folder, kind, 'a'))
        for t in range(60):
            for kind, mask in zip(('gt', 'results'), frames(3, 0.1, t)):
                masks.write_mask(os.path.join(folder, kind, 'a', f'{t:05d}.png'), mask)
        paths = [
            os.path.join(folder, kind, 'a', n)
            for kind in ('gt', 'results')
            for n in sorted(os.listdir(os.path.join(folder, 'gt', 'a')))[1:-1]
        ]
        seconds = {'decode': [], 'evaluate': []}
        for _ in range(rounds):
            begin = time.process_time()
            for path in paths:
                masks.read_mask(path)
            middle = time.process_time()
            metrics.evaluate(
                os.path.join(folder, 'gt'), os.path.join(folder, 'results'), year='2017'
            )
            seconds['decode'].append(middle - begin)
            seconds['evaluate'].append(time.process_time() - middle)
        decode, evaluate = (statistics.median(s) for s in seconds.values())
        print(
            json.dumps(
                {
                    'bench': 'metrics',
                    'case': 'end to end',
                    's': round(evaluate, 3),
                    'of_decode': round(evaluate / decode, 2),
                    'peak_mb': round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
                }
            )
        )


def main():
    """Runs all cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--official', help='checkout of davis2017-evaluation')
    parser.add_argument('--rounds', type=int, default=9)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    end_to_end(args.rounds)  # first: the peak is this case's alone
    functions = {'ours': (bitmasks.frame_scores, np.uint8), 'plain': (plain, bool)}
    if args.official:
        functions['official'] = (official(args.official), bool)
    for name, (count, share) in CASES.items():
        time_frames(name, count, share, functions, args.rounds)


if __name__ == '__main__':
    main()
