"""Scribbles: their file form, their pixels, and a robot that draws them where a mask is wrong
(Caelles et al. 2018, The 2018 DAVIS Challenge, section 4; MANet section 4).

Own code after the published description; the package davisinteractive (GPL) is not used. A stroke
is {'path': [[x, y], ...] of 0..1, 'object_id': id, 'start_time': ms, 'end_time': ms}, here also
'width': a share of the frame's height, 0 or absent for a line one pixel wide; scribbles are
{'sequence': name, 'scribbles': [[stroke, ...] of every frame]}.
"""

from __future__ import annotations

import functools

from common import files
from common.lazy import csgraph, cv2, ndimage, np, sparse, special

KERNEL, LARGEST, LEAST_NODES, POINTS = 0.2, 16, 4, 1000  # of the evaluation service's robot
STILL = 0.9  # factor of a radius that leaves nothing


def rasterize(scribbles: list, shape: tuple[int, int]) -> np.ndarray:
    """The strokes' pixels: int32 [T, H, W], -1 where there is none; later strokes lie above.

    Args:
      scribbles: strokes of every frame. shape: (H, W).
    """
    height, width = shape
    result = np.full((len(scribbles), height, width), -1, np.int32)
    for labels, strokes in zip(result, scribbles):
        for stroke in strokes:
            path = np.asarray(stroke['path'], np.float64).reshape(-1, 2)
            path = (path * (width - 1, height - 1)).astype(int)
            line = np.zeros((height, width), np.uint8)
            for x, y in bresenham(path):
                line[y, x] = 1
            radius = stroke.get('width', 0) * height / 2
            if radius > 1:  # all that is nearer to the line
                away = cv2.distanceTransform(1 - line, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
                line = away < radius
            labels[line > 0] = stroke['object_id']
    return result


def bresenham(path: np.ndarray):
    """(x, y) of the pixels of a path int [n, 2], Bresenham's between its points."""
    if len(path) == 1:
        yield tuple(path[0])
    for start, end in zip(path, path[1:]):
        step = np.sign(end - start)
        major = 0 if abs(end[0] - start[0]) > abs(end[1] - start[1]) else 1
        long, short = abs(end[major] - start[major]), abs(end[1 - major] - start[1 - major])
        position, error = start.copy(), 2 * short - long
        for _ in range(long + 1):
            yield tuple(position)
            if error >= 0:
                position[1 - major] += step[1 - major]
                error -= 2 * long
            position[major] += step[major]
            error += 2 * short


def read(path: str, count: int) -> dict:
    """A scribble file of a video of `count` frames, in the form that has a list for every frame.

    {"frame": 3, "scribbles": [stroke, ...]}, the strokes of one frame, is taken too.

    Raises:
      FileNotFoundError: no such file. ValueError: no JSON, no scribbles, of another number of
      frames, no stroke, a stroke without path or id, a path outside 0..1.
    """
    found = files.read_json(path)
    if isinstance(found, dict) and 'frame' in found:
        found = _of_all_frames(found, path, count)
    check(found, path)
    if len(found['scribbles']) != count:
        raise ValueError(f'{path} has {len(found["scribbles"])} frames, the video has {count}')
    if not annotated_frames(found):
        raise ValueError(f'{path} has no stroke')
    return found


def _of_all_frames(found, path, count):
    frame, strokes = found['frame'], found.get('scribbles')
    if not isinstance(frame, int) or isinstance(frame, bool) or not 0 <= frame < count:
        raise ValueError(f'{path}: frame {frame!r} of a video of {count} frames (0 is the first)')
    if not isinstance(strokes, list) or any(isinstance(stroke, list) for stroke in strokes):
        raise ValueError(f'{path}: with "frame", "scribbles" are the strokes of that frame')
    return {**found, 'scribbles': [strokes if t == frame else [] for t in range(count)]}


def check(found: dict, name: str = 'scribbles') -> None:
    """ValueError where `found` are no scribbles."""
    frames = found.get('scribbles') if isinstance(found, dict) else None
    if not isinstance(frames, list) or not all(isinstance(f, list) for f in frames):
        raise ValueError(
            f'{name}: expected {{"scribbles": [strokes of every frame]}}, or '
            '{"frame": 0, "scribbles": [strokes of that frame]}'
        )
    for t, strokes in enumerate(frames):
        for stroke in strokes:
            if not isinstance(stroke, dict) or not {'path', 'object_id'} <= set(stroke):
                raise ValueError(f'{name}: frame {t}: a stroke needs path and object_id')
            try:
                path = np.asarray(stroke['path'], np.float64)
            except (TypeError, ValueError):
                path = np.zeros(0)
            if path.ndim != 2 or path.shape[1] != 2 or not len(path):
                raise ValueError(f'{name}: frame {t}: a path is [[x, y], ...]')
            if not np.isfinite(path).all() or path.min() < 0 or path.max() > 1:
                raise ValueError(f'{name}: frame {t}: a path outside 0..1')
            if not files.is_number(stroke['object_id'], 0, 254, int):
                raise ValueError(f'{name}: frame {t}: object_id {stroke["object_id"]!r}')
            width = stroke.get('width', 0)
            if not files.is_number(width, 0, 1):
                raise ValueError(f'{name}: frame {t}: width {width!r} is no share of the height')


def annotated_frames(found: dict) -> list[int]:
    """Numbers of the frames that have strokes."""
    return [t for t, strokes in enumerate(found['scribbles']) if strokes]


def interact(name: str, truth: np.ndarray, masks: np.ndarray, frame: int, count: int, **kernel):
    """Scribbles on the errors of one frame.

    Args:
      name: of the sequence. truth, masks: ids [T, H, W]. frame: number. count: objects.
      kernel: share and largest radius of the opening, see draw_strokes().

    Returns:
      scribbles of all frames, strokes in `frame` alone.
    """
    wrong = truth[frame] != masks[frame]
    strokes = []
    for number in range(count + 1):
        for path in draw_strokes(wrong & (truth[frame] == number), **kernel):
            strokes.append(
                {'path': path.tolist(), 'object_id': number, 'start_time': 0, 'end_time': 0}
            )
    frames = [[] for _ in truth]
    frames[frame] = strokes
    return {'sequence': name, 'scribbles': frames, 'annotated_frame': frame}


def first_scribbles(name: str, truth: np.ndarray, count: int, **kernel) -> dict:
    """Scribbles on the objects of ids [H, W], none on the background: what a human
    draws first."""
    found = interact(name, truth[None], np.zeros_like(truth)[None], 0, count, **kernel)
    return found


def draw_strokes(region: np.ndarray, kernel: float = KERNEL, largest: float = LARGEST) -> list:
    """Curves float64 [n, 2] (x, y of 0..1) along the middle of each part of a bool region [H, W].

    Args: kernel: radius of the opening, in halves of the region's root. largest: px.
    """
    if not region.any():
        return []
    height, width = region.shape
    inside = open_region(region, min(kernel * np.sqrt(region.sum()) / 2, largest))
    skeleton = medial_axis(np.pad(inside, 1, 'constant'))[1:-1, 1:-1]
    return [bezier(path) / (width, height) for path in longest_paths(skeleton)]


def open_region(region: np.ndarray, radius: float) -> np.ndarray:
    """Morphological opening by a disk, smaller until something is left."""
    image = region.astype(np.uint8)
    while radius > 1:
        line = np.arange(-radius, radius + 1)
        disk = (line[:, None] ** 2 + line**2 <= radius**2).astype(np.uint8)
        anchor = (len(line) // 2,) * 2
        found = cv2.dilate(cv2.erode(image, disk, anchor=anchor), disk, anchor=anchor)
        if found.any():
            return found > 0
        radius *= STILL
    return region


@functools.lru_cache(maxsize=None)
def _removable() -> np.ndarray:
    """bool [512]: 3x3 patterns whose center may go: it joins nothing, and three or more are on."""
    result = np.zeros(512, bool)
    eight = np.ones((3, 3))
    for number in range(512):
        pattern = (number >> np.arange(9) & 1).reshape(3, 3).astype(bool)
        without = pattern.copy()
        without[1, 1] = False
        same = ndimage.label(pattern, eight)[1] == ndimage.label(without, eight)[1]
        result[number] = same and pattern.sum() >= 3
    return result


def medial_axis(region: np.ndarray) -> np.ndarray:
    """Skeleton of a bool region [H, W] that touches no border: pixels go from the outside in, as
    long as what is left hangs together (Blum 1967).

    Order: distance to the background, pixels of background around, a seeded permutation.
    """
    rows, columns = np.nonzero(region)
    distance = ndimage.distance_transform_edt(region)[rows, columns]
    around = 9 - ndimage.convolve(region.astype(int), np.ones((3, 3), int), mode='constant')
    ties = np.random.RandomState(0).permutation(np.arange(len(rows)))
    order = np.lexsort((ties, around[rows, columns], distance))
    width = region.shape[1]
    image = region.astype(np.uint8).ravel().tolist()
    removable = _removable().tolist()
    near = [
        (dy * width + dx, 1 << (3 * (dy + 1) + dx + 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)
    ]
    positions = (rows * width + columns)[order].tolist()
    for position in positions:
        pattern = 0
        for step, bit in near:
            if image[position + step]:
                pattern |= bit
        if removable[pattern]:
            image[position] = 0
    return np.array(image, bool).reshape(region.shape)




def longest_paths(skeleton: np.ndarray) -> list[np.ndarray]:
    """int [n, 2] (x, y): the longest path, in pixels, through each part of a skeleton."""
    rows, columns = np.nonzero(skeleton)
    count = len(rows)
    numbers = np.full((skeleton.shape[0] + 2, skeleton.shape[1] + 2), -1)
    numbers[rows + 1, columns + 1] = np.arange(count)
    starts, ends, weights = [], [], []
    for dy, dx in ((0, 1), (1, -1), (1, 0), (1, 1)):
        other = numbers[rows + 1 + dy, columns + 1 + dx]
        there = other >= 0
        starts.append(np.flatnonzero(there))
        ends.append(other[there])
        weights.append(np.full(there.sum(), np.hypot(dy, dx)))
    edges = [np.concatenate(x) for x in (weights, starts, ends)]
    graph = sparse.coo_matrix((edges[0], (edges[1], edges[2])), (count, count)).tocsr()
    tree = csgraph.minimum_spanning_tree(graph)  # every cycle loses its heaviest edge
    parts = csgraph.connected_components(tree, False)[1]
    result = []
    for part in range(parts.max() + 1 if count else 0):
        members = np.flatnonzero(parts == part)
        if len(members) >= LEAST_NODES:
            path = _longest_path(tree, members[0])
            result.append(np.stack([columns[path], rows[path]], 1))
    return result


def _longest_path(tree, start):
    """Nodes of the longest path of a tree: the farthest from the farthest."""
    for _ in range(2):
        order, before = csgraph.breadth_first_order(tree, start, False)
        hops = {int(start): 0}
        for node in order[1:]:
            hops[int(node)] = hops[int(before[node])] + 1
        most = max(hops.values())
        origin, start = start, next(n for n in hops if hops[n] == most)
    path = [start]
    while path[-1] != origin:
        path.append(before[path[-1]])
    return np.array(path[::-1])


def bezier(path: np.ndarray) -> np.ndarray:
    """A path's pixels as control points of one Bezier curve: float64 [1000, 2], its end first."""
    count = len(path)
    if count > POINTS:
        return path.astype(np.float64)
    t, k = np.linspace(0, 1, POINTS)[:, None], np.arange(count)
    with np.errstate(divide='ignore', invalid='ignore'):
        logs = special.gammaln(count) - special.gammaln(k + 1) - special.gammaln(count - k)
        share = np.exp(logs + special.xlogy(k, t) + special.xlogy(count - 1 - k, 1 - t))
    return (share @ path)[::-1]
