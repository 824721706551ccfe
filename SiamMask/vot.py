"""VOT challenge: sequences, the supervised protocol's result files, region overlap, accuracy,
robustness and EAO (Kristan et al. 2016; pysot-toolkit, which SiamMask carries a copy of).

A sequence is {name, frames (paths), boxes, regions, width, height}. Both annotations are polygons
float64 [n, 8], which differ where a rectangle x, y, w, h was annotated: a tracker starts from
`boxes`, whose corners are its first and last pixels (x + w - 1, PT benchmark_helper.py); results
are scored against `regions`, whose corners are x and x + w (region.pyx). A run of a tracker is a
list, one entry a frame: 1 started, 2 lost, 0 left out, or 4 or 8 numbers.
"""

from __future__ import annotations

import glob
import os

from common import files, masks
from common.lazy import np

INTERVALS = {  # frames low..high of EAO, from the sequence lengths (pysot-toolkit eao_benchmark.py)
    'VOT2016': (108, 371), 'VOT2017': (100, 356), 'VOT2018': (100, 356), 'VOT2019': (46, 291),
}  # fmt: skip
LEGACY = (100, 356)  # what SiamMask's copy takes for VOT2016 too (its issue 21)
LARGEST = 1e6  # px: coordinates and sizes that can be
CODES = (0, 1, 2)  # of a frame without a region, see above
SKIPPED, BURN_IN = 5, 10  # frames after a failure, frames after a start without accuracy
CHUNK = 128  # pairs rasterised together: their nodes stay in cache


def polygon(numbers, last: int = 0) -> np.ndarray:
    """float64 [8] corners of a region of 8 numbers, or of x, y, w, h; ValueError otherwise.

    Args:
      numbers: of the region.
      last: 1 for corners of a rectangle that are its first and last pixels.
    """
    try:
        numbers = np.asarray(numbers, np.float64).ravel()
    except (TypeError, ValueError):
        raise ValueError(f'a region has 4 or 8 numbers, not {str(numbers)[:100]}') from None
    if numbers.size == 8:
        return numbers
    if numbers.size != 4:
        raise ValueError(f'a region has 4 or 8 numbers, not {numbers.size}')
    x, y, w, h = numbers
    right, bottom = x + w - last, y + h - last
    return np.array([x, y, right, y, right, bottom, x, bottom])


def _sequence(name, frames, rows, width, height, path):
    """A sequence of its annotation, one row of 4 or 8 numbers a frame; ValueError where `path`, the
    annotation's, has others."""
    for number, row in enumerate(rows, 1):
        try:
            corners = polygon(row)
            usable = np.isfinite(corners).all() and np.abs(corners).max() <= LARGEST
        except ValueError:
            usable = False
        if not usable:
            raise ValueError(
                f'{path}: {name}, region {number}: expected 4 or 8 numbers of pixels, not '
                f'{str(row)[:100]}'
            )
    return dict(
        name=name,
        frames=frames,
        boxes=np.stack([polygon(row, last=1) for row in rows]),
        regions=np.stack([polygon(row) for row in rows]),
        width=width,
        height=height,
    )


def load(path: str) -> list[dict]:
    """The sequences of a data set.

    Args:
      path: VOT20xx.json; a folder with list.txt or with sequence folders; or one sequence, a folder
        with groundtruth.txt (groundtruth_rect.txt) and images in it, in color/ or in img/.

    Raises:
      FileNotFoundError, ValueError: what is missing or disagrees.
    """
    path = os.path.abspath(path)
    if path.endswith('.json'):
        return _from_json(path)
    if _groundtruth(path):
        return [_from_folder(path)]
    listed = os.path.join(path, 'list.txt')
    if os.path.isfile(listed):
        names = ' '.join(files.read_lines(listed)).split()
        names = [files.plain_name(name, listed) for name in names]
    else:
        found = os.listdir(path) if os.path.isdir(path) else []
        names = sorted(n for n in found if _groundtruth(os.path.join(path, n)))
    if not names:
        raise FileNotFoundError(
            f'no sequences at {path}: expected VOT20xx.json, or <sequence>/groundtruth.txt and '
            '<sequence>/color/*.jpg'
        )
    return [_from_folder(os.path.join(path, name)) for name in names]


def _groundtruth(folder):
    found = [os.path.join(folder, n) for n in ('groundtruth.txt', 'groundtruth_rect.txt')]
    return next((path for path in found if os.path.isfile(path)), None)


def _from_json(path):
    videos, root, result = files.read_json(path), os.path.dirname(path), []
    try:
        for name, video in videos.items():
            files.plain_name(name, path)
            if not video.get('img_names') or len(video['img_names']) != len(video['gt_rect']):
                raise ValueError(f'{path}: {name} has no frames, or not as many as boxes')
            frames = [os.path.join(root, files.path_inside(n, path)) for n in video['img_names']]
            size = _size(video, frames)
            if not all(files.is_number(side, 1, LARGEST, int) for side in size):
                raise ValueError(f'{path}: {name} is of {size} px')
            result.append(_sequence(name, frames, video['gt_rect'], *size, path))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path} is no VOT json: expected {{name: {{img_names, gt_rect, width, height}}}} '
            f'({error!r})'
        ) from None
    return result


def _size(video, frames):
    """(width, height) of a video of a JSON; those of OTB do not say it."""
    if 'width' in video:
        return video['width'], video['height']
    return masks.read_image(frames[0]).shape[1::-1]


def _from_folder(folder):
    path = _groundtruth(folder)
    if path is None:
        raise FileNotFoundError(f'no groundtruth.txt in {folder}')
    rows = [line.replace(',', ' ').split() for line in files.read_lines(path)]
    frames = []
    for subfolder in ('', 'color', 'img'):
        images = os.path.join(folder, subfolder)
        if not frames and os.path.isdir(images):
            frames = files.listed(images, ('.jpg',))
    if len(frames) != len(rows) or not rows:
        raise ValueError(f'{folder}: {len(frames)} frames, {len(rows)} lines in {path}')
    height, width = masks.read_image(frames[0]).shape[:2]
    return _sequence(os.path.basename(folder), frames, rows, width, height, path)


def write_run(path: str, run: list) -> None:
    """Writes one run, a line a frame, numbers as %.4f."""
    lines = []
    for entry in run:
        if isinstance(entry, int):
            lines.append(str(entry))
        else:
            lines.append(','.join(f'{np.float32(v):.4f}' for v in np.ravel(entry)))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    files.write_text(path, '\n'.join(lines) + '\n')


def read_runs(folder: str, sequence: dict) -> list[list]:
    """The runs of a sequence: all of `folder`/baseline/<name>/*0*.txt where they are 15, else the
    first. Raises FileNotFoundError, ValueError: no file; other lines than one region a frame."""
    name = sequence['name']
    own = glob.escape(os.path.join(folder, 'baseline', name))
    paths = sorted(glob.glob(os.path.join(own, '*0*.txt')))
    if not paths:
        raise FileNotFoundError(f'no results of {name}: tried {folder}/baseline/{name}/*0*.txt')
    runs = []
    for path in paths if len(paths) == 15 else paths[:1]:
        lines = files.read_lines(path)
        try:
            run = [[float(v) for v in line.split(',')] for line in lines]
        except ValueError as error:
            text = str(error)[:100]
            raise ValueError(f'{path}: {text}; expected 1, 4 or 8 numbers a line') from None
        if len(run) != len(sequence['frames']) or {len(r) for r in run} - {1, 4, 8}:
            raise ValueError(
                f'{path}: expected {len(sequence["frames"])} lines of 1, 4 or 8 numbers, '
                f'found {len(run)}'
            )
        if any(len(row) == 1 and row[0] not in CODES for row in run):
            raise ValueError(f'{path}: a line of one number is 0, 1 or 2')
        runs.append([int(r[0]) if len(r) == 1 else r for r in run])
    return runs


def run_overlaps(run: list, sequence: dict, bounds, burn_in: int = 0) -> np.ndarray:
    """float64 [n], overlaps with the annotation; NaN at codes and in `burn_in` frames from a
    start."""
    codes = np.array([entry if isinstance(entry, int) else -1 for entry in run])
    wanted = codes < 0
    for f in np.flatnonzero(codes == 1):
        wanted[f : f + burn_in] = False
    result = np.full(len(run), np.nan)
    chosen = np.flatnonzero(wanted)
    if chosen.size:
        found = np.stack([polygon(run[f]) for f in chosen])
        truth = sequence.get('regions', sequence['boxes'])
        result[chosen] = overlaps(found, truth[chosen], bounds)
    return result


def score(sequences: list[dict], runs: dict, interval=None) -> dict:
    """Accuracy, robustness, number of failures and EAO of one tracker.

    Args:
      sequences: of load().
      runs: {sequence name: list of runs}.
      interval: (low, high) frames of EAO; None: LEGACY.

    Returns:
      {accuracy, robustness (failures a hundred frames), lost, eao (NaN of shorter sequences), curve
      (float32 [length]), per_sequence {name: {accuracy, lost}}}.
    """
    per_sequence, overlapped, curves = {}, [], []
    for sequence in sequences:
        own, size = runs[sequence['name']], (sequence['width'], sequence['height'])
        found = [run_overlaps(run, sequence, size, BURN_IN) for run in own]
        overlapped.append(_nanmean(np.stack(found), 0))
        lost = [sum(1 for e in run if isinstance(e, int) and e == 2) for run in own]
        per_sequence[sequence['name']] = dict(
            accuracy=float(_nanmean(overlapped[-1])), lost=float(np.mean(lost))
        )
        inner = (sequence['width'] - 1, sequence['height'] - 1)
        curves += [(run_overlaps(run, sequence, inner), run, len(own)) for run in own]
    curve = expected_overlap(curves)
    frames = sum(len(o) for o in overlapped)
    lost = sum(row['lost'] for row in per_sequence.values())
    return dict(
        accuracy=float(_nanmean(np.concatenate(overlapped))), robustness=100 * lost / frames,
        lost=lost, eao=eao(curve, interval or LEGACY), curve=curve, per_sequence=per_sequence,
    )  # fmt: skip


def _nanmean(values, axis=None):
    there = ~np.isnan(values)
    with np.errstate(invalid='ignore'):
        return np.where(there, values, 0).sum(axis) / there.sum(axis)


def eao(curve: np.ndarray, interval: tuple[int, int]) -> float:
    """Mean of the expected overlap of low .. high frames; NaN where the curve is shorter."""
    part = curve[interval[0] - 1 : interval[1]].astype(np.float64)
    return float(_nanmean(part)) if part.size else float('nan')


def expected_overlap(found: list[tuple]) -> np.ndarray:
    """float32 [longest], expected average overlap of a sequence of 1, 2, ... frames; `found`:
    [(overlaps, run, number of runs of its sequence)]."""
    longest = max(len(o) for o, _, _ in found)
    pieces, shares = [], []
    for values, run, count in found:
        for first, last, padded in _fragments(run):
            piece = np.full(longest, 0.0 if padded else np.nan)
            part = values[first:last]
            failed = padded or first > 0 or 2 in [e for e in run if isinstance(e, int)]
            piece[: len(part)] = np.nan_to_num(part) if failed else part
            pieces.append(piece)
            shares.append(len(part) / (last - first + 1e-16) / count)  # 0 of no frames
    pieces, shares = np.stack(pieces), np.array(shares)
    sums = np.cumsum(pieces[:, 1:], 1) / np.arange(1, longest)
    there = ~np.isnan(pieces[:, 1:])
    curve = np.zeros(longest, np.float32)
    curve[0] = 1
    with np.errstate(invalid='ignore', divide='ignore'):
        total = np.where(there, sums * shares[:, None], 0).sum(0)
        mean = total / np.where(there, shares[:, None], 0).sum(0)
    curve[1:] = np.where(there.any(0), mean, 0)
    return curve


def _fragments(run):
    """(first, after the last, failed) of the pieces between restarts."""
    lost = [f for f, e in enumerate(run) if isinstance(e, int) and e == 2]
    starts = [0] + [f + SKIPPED for f in lost if f + SKIPPED <= len(run)]
    for a, b in zip(starts, starts[1:]):
        yield a, b + 1, True
    yield starts[-1], len(run), False


def overlaps(first: np.ndarray, second: np.ndarray, bounds=None) -> np.ndarray:
    """Rasterised overlap of quadrilaterals float32 [n, 8] and [n, 8]: float32 [n], as the C code of
    the VOT toolkit of 2013-2019 has it, to the bit.

    Args:
      bounds: (W, H), the image; None: none.
    """
    first, second = (np.asarray(p, np.float32).reshape(-1, 4, 2) for p in (first, second))
    limits = np.array([0, 0, *bounds] if bounds else [-np.inf] * 2 + [np.inf] * 2, np.float32)
    with np.errstate(all='ignore'):  # NaN: as in C
        boxes = [_bounds(p, limits) for p in (first, second)]
        origin = _least(boxes[0][:, :2], boxes[1][:, :2])
        size = _most(boxes[0][:, 2:], boxes[1][:, 2:]) - origin
        shape = np.nan_to_num(size, nan=-2, posinf=2**30).astype(np.int64) + 1
        drawn = ~_apart(*boxes) & (shape >= 1).all(1)
    result = np.zeros(len(first), np.float32)
    order = np.flatnonzero(drawn)
    order = order[np.argsort(shape[order, 1], kind='stable')]  # like heights: little padding
    for k in range(0, len(order), CHUNK):
        chosen = order[k : k + CHUNK]
        moved = [p[chosen] - origin[chosen, None] for p in (first, second)]
        result[chosen] = _raster_overlap(*moved, shape[chosen])
    return result


def _least(a, b):  # C's MIN and MAX: of a NaN and a number the second argument
    return np.where(a < b, a, b)


def _most(a, b):
    return np.where(a > b, a, b)


def _bounds(points, limits):
    """float32 [n, 4]: left, top, right, bottom, whole numbers, inside the limits."""
    low, high = (np.full(points[:, 0].shape, v, np.float32) for v in (np.inf, -np.inf))
    for i in range(points.shape[1]):
        low, high = _least(low, points[:, i]), _most(high, points[:, i])
    low, high = _most(np.floor(low), limits[:2]), _least(np.ceil(high), limits[2:])
    return np.concatenate([low, high], 1)


def _apart(a, b):
    """Whether the boxes do not meet, or differ so much in size that they count as such."""
    low, high = _most(a[:, :2], b[:, :2]), _least(a[:, 2:], b[:, 2:])
    both = (high - low).prod(1)
    areas = [(box[:, 2:] - box[:, :2]).prod(1) for box in (a, b)]
    met = both / (areas[0] + areas[1] - both)
    ratio = areas[0] / areas[1]
    return (ratio < 1e-10) | (areas[1] / areas[0] < 1e-10) | (met <= 0)


def _raster_overlap(first, second, shape):
    rows = np.arange(shape[:, 1].max(), dtype=np.float64)
    outlines = [_rounded(points) for points in (first, second)]
    (a0, a1), (b0, b1) = (_spans(points, rows, shape) for points in outlines)
    shared = np.minimum(a1, b1) - np.maximum(a0, b0) + 1
    both = np.maximum(shared, 0, out=shared).sum(1)
    volumes = [np.maximum(0, last - first + 1).sum(1) for first, last in ((a0, a1), (b0, b1))]
    for p in np.flatnonzero(~(_convex(outlines[0]) & _convex(outlines[1]))):
        drawn = [_drawn(points[p], shape[p]) for points in outlines]
        both[p], volumes[0][p], volumes[1][p] = (drawn[0] & drawn[1]).sum(), *map(np.sum, drawn)
    with np.errstate(invalid='ignore'):
        return both.astype(np.float32) / (volumes[0] + volumes[1] - both).astype(np.float32)


def _rounded(points):
    points = points.astype(np.float64)
    return np.sign(points) * np.floor(np.abs(points) + 0.5)  # halves away from zero, as C's round


def _convex(points):
    """Whether a row of pixels meets each outline [P, 4, 2] in one piece."""
    with np.errstate(invalid='ignore'):
        edge = np.roll(points, -1, 1) - points
        after = np.roll(edge, -1, 1)
        turn = edge[..., 0] * after[..., 1] - edge[..., 1] * after[..., 0]
        return (turn > 0).all(1) | (turn < 0).all(1)


def _spans(points, rows, shape):
    """First and last filled pixel float64 [P, R] of each row of convex outlines; last < first where
    there is none."""
    low = np.full((len(points), len(rows)), np.inf)
    high = np.full(low.shape, -np.inf)
    with np.errstate(all='ignore'):
        for i in range(4):
            (x0, y0), (x1, y1) = points[:, i].T[..., None], points[:, i - 1].T[..., None]
            node = rows - y0
            node /= y1 - y0
            node *= x1 - x0
            node += x0
            np.trunc(node, out=node)
            met = (rows >= np.minimum(y0, y1)) & (rows <= np.maximum(y0, y1)) & (y0 != y1)
            np.minimum(low, node, out=low, where=met)
            np.maximum(high, node, out=high, where=met)
        width = shape[:, :1].astype(np.float64)
        none = ~(high > low) | (low >= width) | (high < 0) | (rows >= shape[:, 1:])
    low, high = np.maximum(low, 0, out=low), np.minimum(high, width - 1, out=high)
    low[none], high[none] = 1, 0
    return low, high


def _drawn(points, shape):
    """bool [H, W] of any outline [4, 2]: its nodes in a row pair as they come."""
    result = np.zeros(shape[::-1], bool)
    edges = [(*a, *b) for a, b in zip(points, np.roll(points, 1, 0)) if a[1] != b[1]]
    edges = [e for e in edges if np.isfinite(e).all()]
    for row in range(shape[1]):
        nodes = sorted(
            int(x0 + (row - y0) / (y1 - y0) * (x1 - x0))
            for x0, y0, x1, y1 in edges
            if min(y0, y1) <= row <= max(y0, y1)
        )
        i = 0
        while i + 1 < len(nodes) and (nodes[i] == nodes[i + 1] or nodes[i] < shape[0]):
            if nodes[i] != nodes[i + 1]:
                result[row, max(nodes[i], 0) : max(nodes[i + 1] + 1, 0)] = True
                i += 1
            i += 1
    return result
