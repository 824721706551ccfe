"""What the official SiamMask code answers without a network: augmentation and anchor targets; the
overlap, accuracy, robustness and EAO of the VOT toolkit inside it. Cases and recorder, used by
siammask_official.py and the tests.
"""

from __future__ import annotations

import ctypes
import importlib
import random
import subprocess
import sys
import types
from pathlib import Path

import numpy as np


def overlap_cases(count=400):
    """Pairs of quadrilaterals float32 [n, 8]: rotated, ragged, crossing, outside, whole numbers."""
    draw = np.random.RandomState(0)
    first = draw.uniform(-20, 340, (count, 1, 2)) + draw.uniform(-60, 60, (count, 4, 2))
    angle, side = draw.uniform(0, 6.3, count), draw.uniform(2, 120, (count, 2))
    corner = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2 * side[:, None]
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], 1)
    boxes = corner @ turn.reshape(-1, 2, 2) + draw.uniform(0, 300, (count, 1, 2))
    first = np.where(np.arange(count)[:, None, None] % 4 == 0, first, boxes).reshape(count, 8)
    second = first + draw.randn(count, 8) * draw.choice([0, 2, 10, 60], (count, 1))
    first[::7], second[::7] = np.round(first[::7]), np.round(second[::7] * 2) / 2
    return first.astype(np.float32), second.astype(np.float32)


def overlap_library(checkout: Path, folder: Path):
    """The toolkit's C function: (float32 [8], [8], (W, H)) -> float."""
    source = checkout / 'utils' / 'pyvotkit' / 'src' / 'region.c'
    library = folder / 'region.so'
    subprocess.run(
        ['gcc', '-O2', '-w', '-shared', '-fPIC', '-o', str(library), str(source), '-lm'], check=True
    )
    floats = ctypes.POINTER(ctypes.c_float)

    class Polygon(ctypes.Structure):
        _fields_ = [('count', ctypes.c_int), ('x', floats), ('y', floats)]

    class Bounds(ctypes.Structure):
        _fields_ = [(n, ctypes.c_float) for n in ('top', 'bottom', 'left', 'right')]

    function = ctypes.CDLL(str(library)).compute_polygon_overlap
    function.restype = ctypes.c_float
    function.argtypes = [ctypes.POINTER(Polygon)] * 2 + [floats] * 2 + [Bounds]

    def overlap(first, second, size):
        shapes = [
            Polygon(4, (ctypes.c_float * 4)(*p[0::2]), (ctypes.c_float * 4)(*p[1::2]))
            for p in (first, second)
        ]
        rest = [ctypes.byref(ctypes.c_float()) for _ in range(2)]
        inf = np.inf
        limits = Bounds(0, size[1], 0, size[0]) if size else Bounds(-inf, inf, -inf, inf)
        return function(*map(ctypes.byref, shapes), *rest, limits)

    return overlap


def score_cases():
    """Sequences and runs: {name: (boxes [n, 8], (W, H), [runs])}, failures early, late and none,
    NaN, ties, 15 repetitions."""
    draw, result = np.random.RandomState(3), {}
    for k, length in enumerate((60, 45, 130, 30, 80)):
        start = draw.uniform(60, 160, 2)
        path = start + np.cumsum(draw.randn(length, 2), 0)
        corner = np.array([[0, 0], [50, 0], [50, 40], [0, 40]])
        boxes = (path[:, None] + corner).reshape(length, 8).round(2)
        runs = []
        for r in range(15):
            own, run, f = np.random.RandomState(100 * k + r), [], 0
            while f < length:
                if not run or (len(run) >= 5 and run[-5:] == [2, 0, 0, 0, 0]):
                    run.append(1)
                elif run[-1] == 2 or (run[-1] == 0 and run[-5:] != [2, 0, 0, 0, 0]):
                    run.append(0)
                elif own.rand() < (0.03 if k else 0.0) or (k == 3 and f == length - 3):
                    run.append(2)
                elif own.rand() < 0.2:
                    run.append([float(v) for v in boxes[f]])  # a tie: overlap 1
                elif own.rand() < 0.1:
                    run.append([float(v) for v in (*boxes[f][:2], 45.0, 41.5)])
                else:
                    run.append([float(f'{v:.4f}') for v in boxes[f] + own.randn(8) * 8])
                f += 1
            runs.append(run)
        result[f'video{k}'] = boxes, (320, 240), runs
    return result


def scores(checkout: Path, folder: Path) -> dict:
    """Accuracy, robustness, lost and EAO (three intervals) of the toolkit, its overlap in C."""
    overlap = overlap_library(checkout, folder)
    region, statistics = types.ModuleType('region'), None

    def as_polygon(p):  # as region.pyx
        x, y, w, h = p[:4]
        return p if len(p) == 8 else [x, y, x + w, y, x + w, y + h, x, y + h]

    region.vot_overlap_traj = lambda a, b, bound: [
        float('nan') if len(p) == 1 else overlap(as_polygon(p), as_polygon(q), bound)
        for p, q in zip(a, b)
    ]
    numba = types.ModuleType('numba')
    numba.jit = lambda **k: lambda f: f
    colours = types.ModuleType('colorama')
    colours.Style = colours.Fore = None
    sys.modules.update({'numba': numba, 'colorama': colours, 'utils.pysot.utils.region': region})
    package = types.ModuleType('utils.pysot.utils')
    package.region, package.__path__ = region, [str(checkout / 'utils/pysot/utils')]
    sys.modules['utils.pysot.utils'] = package
    statistics = importlib.import_module('utils.pysot.utils.statistics')
    for name in ('calculate_failures', 'calculate_accuracy', 'calculate_expected_overlap'):
        setattr(package, name, getattr(statistics, name))
    evaluation = types.ModuleType('utils.pysot.evaluation')
    evaluation.__path__ = [str(checkout / 'utils/pysot/evaluation')]
    sys.modules['utils.pysot.evaluation'] = evaluation
    ar = importlib.import_module('utils.pysot.evaluation.ar_benchmark')
    eao = importlib.import_module('utils.pysot.evaluation.eao_benchmark')

    class Video:
        def __init__(self, name, boxes, size, runs):
            self.name, self.gt_traj, (self.width, self.height) = name, boxes.tolist(), size
            as_lists = [[e if isinstance(e, list) else [e] for e in run] for run in runs]
            self.pred_trajs = {'tracker': as_lists}

        def select_tag(self, tag, start=0, end=0):
            return ([1] * len(self.gt_traj))[start:end]

    class Dataset(dict):
        name = 'VOT2018'

        def __iter__(self):
            return iter(self.values())

        def __getitem__(self, key):
            return list(self.values())[key] if isinstance(key, int) else dict.__getitem__(self, key)

    result = {}
    for count in (1, 15):
        videos = Dataset((n, Video(n, b, s, r[:count])) for n, (b, s, r) in score_cases().items())
        found = ar.AccuracyRobustnessBenchmark(videos).eval('tracker')['tracker']
        values = np.concatenate([np.asarray(v) for v in found['overlaps'].values()])
        lost = np.mean(np.sum(list(found['failures'].values()), axis=0))
        row = [np.nanmean(values), 100 * lost / len(values), lost]
        bench = eao.EAOBenchmark(videos)
        for low, high in ((100, 356), (20, 60), (46, 291)):
            bench.low, bench.high = low, high
            row.append(bench.eval('tracker')['tracker']['all'])
        result[f'scores{count}'] = np.array(row)
    return result


def anchors() -> dict:
    return {'stride': 8, 'ratios': [0.33, 0.5, 1, 2, 3], 'scales': [8], 'round_dight': 0}


def smooth_picture(size=511):
    """A picture of formulas, uint8 [511, 511, 3], and a disk: the same on every machine."""
    y, x = np.mgrid[:size, :size]
    waves = [
        127 + 100 * np.sin(x / a + k) * np.cos(y / b)
        for k, (a, b) in enumerate(((17, 23), (31, 13), (53, 41)))
    ]
    disk = ((x - 255) ** 2 + (y - 240) ** 2 < 70**2).astype(np.float32)
    return np.stack(waves, -1).astype(np.uint8), disk


def augmentations(checkout: Path) -> dict:
    """Augmentation and targets of the smooth picture: every 16th pixel, sums, all targets."""
    module = importlib.import_module('datasets.siam_mask_dataset')
    image, disk = smooth_picture()
    result = {}
    settings = (dict(shift=64, scale=0.18, blur=1.0), dict(shift=4, scale=0.05))
    for i in range(8):
        random.seed(i)
        np.random.seed(i)
        box = module.Corner(*(255 + 30 * v for v in (-1, -1.3, 1, 1.3)))
        size = 255 if i % 2 == 0 else 127
        picture, box, mask = module.Augmentation(settings[i % 2])(
            image, box, size, gray=i % 3 == 0, mask=disk.copy()
        )
        result[f'{i}:box'], result[f'{i}:image'] = np.array(box), picture[::16, ::16]
        result[f'{i}:sums'] = np.array([picture.mean(), (mask > 0.5).sum()])
        grid = module.Anchors({**anchors()})
        side = 25 if size == 255 else 3
        grid.generate_all_anchors(im_c=(255 if side == 25 else 143) // 2, size=side)
        target = module.AnchorTargetLayer({})
        shifted = module.Corner(*(np.array(box) + (0 if size == 255 else 8)))
        cls, loc, weight = target(grid, shifted, side, i in (2, 4))
        result.update(
            {
                f'{i}:cls': cls.astype(np.int8),
                f'{i}:loc': loc[:, :, ::6, ::6],
                f'{i}:weight': weight.astype(np.float32),
                f'{i}:target': shifted,
            }
        )
    return result
