"""Temporal stability T of DAVIS 2016 (Perazzi et al. 2016, section 4.3): how much the outline
jitters.

The outline of each mask is described by shape contexts (Belongie et al. 2002), matched to that of
the next by dynamic time warping; T is five times the mean cost of the matches, lower is better.
Constants and steps follow the authors' toolkits (davis, davis-matlab). Their contour tracer is a
C++ library; OpenCV's contours with a polygon tolerance of the same 3 px stand in for it, so values
are near the published ones, not equal to them.
"""

from __future__ import annotations

from .lazy import cv2, np

STEP = 3.0  # px, polygon tolerance and longest step along an outline (toolkit cont_th)
RINGS = 5  # radii between 1/8 and 2 mean distances (toolkit nbins_r, r_inner, r_outer)
ANGLES = 12  # sectors (toolkit nbins_theta)
FACTOR = 5.0  # 'magic number' that brings T to the range of J and F (toolkit)
TINY = 2.2204e-16  # keeps empty histograms finite (toolkit)


def instabilities(masks: list[np.ndarray]) -> list[float]:
    """T of each pair of successive masks uint8 [H, W]; NaN where one of them is empty."""
    described = [shape_contexts(outline(mask)) for mask in masks]
    return [
        FACTOR * matching_cost(a, b) if len(a) and len(b) else float('nan')
        for a, b in zip(described, described[1:])
    ]


def outline(mask: np.ndarray) -> np.ndarray:
    """The longest simplified outline of a mask uint8 [H, W], with points at most STEP px apart:
    float64 [n, 2]."""
    found = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[-2]
    polygons = [cv2.approxPolyDP(c, STEP, True)[:, 0].astype(float) for c in found]
    if not polygons:
        return np.zeros((0, 2))
    corners = max(polygons, key=len)
    points = []
    for a, b in zip(corners, np.roll(corners, -1, 0)):
        pieces = max(1, int(np.ceil(np.linalg.norm(b - a) / STEP)))
        points += [a + (b - a) * i / pieces for i in range(pieces)]
    return np.array(points)


def shape_contexts(points: np.ndarray) -> np.ndarray:
    """Normalized log-polar histograms of the other points around each: float64 [n, 60]."""
    n = len(points)
    if not n:
        return np.zeros((0, ANGLES * RINGS))
    away = points[None] - points[:, None]
    distance = np.linalg.norm(away, axis=2)
    radii = np.logspace(np.log10(1 / 8), np.log10(2), RINGS)
    rings = (distance[..., None] < radii * (distance.mean() + TINY)).sum(2)  # 0: outside
    sectors = np.floor(np.arctan2(away[..., 1], away[..., 0]) % (2 * np.pi) / (2 * np.pi / ANGLES))
    bins = np.minimum(sectors, ANGLES - 1).astype(int) + ANGLES * (rings - 1)
    rows = np.broadcast_to(np.arange(n)[:, None], (n, n))
    histograms = np.zeros((n, ANGLES * RINGS))
    np.add.at(histograms, (rows[rings > 0], bins[rings > 0]), 1)
    return histograms / (histograms.sum(1, keepdims=True) + TINY)


def matching_cost(first: np.ndarray, second: np.ndarray) -> float:
    """Mean chi-square cost of the one-to-one matches of two closed outlines' histograms [n, 60],
    [m, 60]."""
    costs = np.stack([0.5 * ((row - second) ** 2 / (row + second + TINY)).sum(1) for row in first])
    path = warp(costs)
    # outlines are closed: start after the surest match
    best = min(path[1:] or path, key=lambda p: costs[p])
    shift = (best[0] + 1, best[1] + 1)
    path = warp(np.roll(costs, (-shift[0], -shift[1]), (0, 1)))
    pairs = [((i + shift[0]) % len(first), (j + shift[1]) % len(second)) for i, j in path]
    for side in (0, 1):  # each point keeps its cheapest partner
        kept = {}
        for pair in sorted(pairs):
            if pair[side] not in kept or costs[pair] < costs[kept[pair[side]]]:
                kept[pair[side]] = pair
        pairs = list(kept.values())
    return float(np.mean([costs[pair] for pair in pairs]))


def warp(costs: np.ndarray) -> list[tuple[int, int]]:
    """The cheapest monotone path [(i, j)] from the first to the last cell of costs [n, m].

    Steps go down, right or both; a path costs what its cells cost, the first left out.
    """
    n, m = costs.shape
    total = np.full((n + 1, m + 1), np.inf)
    total[1, 1] = 0.0
    for d in range(1, n + m - 1):  # anti-diagonals: cells that depend on earlier ones only
        i = np.arange(max(0, d - m + 1), min(n, d + 1))
        j = d - i
        before = np.minimum(np.minimum(total[i, j + 1], total[i + 1, j]), total[i, j])
        total[i + 1, j + 1] = before + costs[i, j]
    i, j = n - 1, m - 1
    path = [(i, j)]
    while i or j:
        options = (
            (total[i, j], i - 1, j - 1),
            (total[i, j + 1], i - 1, j),
            (total[i + 1, j], i, j - 1),
        )
        _, i, j = min(options)
        path.append((i, j))
    return path[::-1]
