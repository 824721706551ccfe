"""How near each cell of a frame is to each object: of the whole reference frame (global), and of a
window in the previous frame (local) (MANet sections 3.2, 3.3; networks/IntVOS.py).

Distances d become maps 2 / (1 + exp(-d)) - 1 = tanh(d / 2) of 0 (the same) to 1 (far, or no such
object). All of it is float32. `count` is the number of objects, the background included: a number,
or on the CPU an int32 scalar, so that a sequence of few objects costs no more than these.
"""

from __future__ import annotations

from typing import NamedTuple

from common.lazy import np, tf

from . import npu

FAR = 1e9  # distance of a cell of another object: finite in float32 with what is added to it
STRIP = 8  # rows of the local map that are computed at once
CHUNK = 16e6  # numbers of the distance matrix that are held at once (64 MB)


def global_map(
    query: tf.Tensor, reference: tf.Tensor, labels: tf.Tensor, count, cfg, lean: bool = False
) -> tf.Tensor:
    """Map of the distance to the nearest reference cell of each object, or of the mean of the
    distances to the cfg.neighbours nearest.

    Args:
      query: float32 [h, w, C].
      reference: float32 [h, w, C].
      labels: int32 [h, w] of the reference; -1 and 255 are of no object.
      count: of objects.
      cfg: uses neighbours, device.
      lean: on CPU, without gradients: cells of no label are left out first.

    Returns:
      float32 [h, w, count].
    """
    height, width, channels = query.shape.as_list()
    cells = height * width
    with npu.keep_float32(cfg):
        q = tf.reshape(tf.cast(query, tf.float32), [cells, channels])
        r = tf.reshape(tf.cast(reference, tf.float32), [cells, channels])
        labels = tf.reshape(labels, [cells])
        labels = tf.where(labels < count, labels, -tf.ones_like(labels))  # void 255
        chunks = max(1, -(-cells * cells // int(CHUNK)))
        size = -(-cells // chunks)
        own = tf.reduce_sum(q * q, 1)
        q = tf.concat([-2 * q, tf.ones([cells, 1])], 1)  # one product gives |r|^2 - 2 q r
        r = tf.concat([r, tf.reduce_sum(r * r, 1, keepdims=True)], 1)
        if lean and cfg.neighbours == 1 and _on_cpu(cfg):
            labeled = tf.reshape(tf.where(labels >= 0), [-1])
            r, labels = tf.gather(r, labeled), tf.gather(labels, labeled)
        q = tf.pad(q, [[0, size * chunks - cells], [0, 0]])
        q = tf.reshape(q, [chunks, size, channels + 1])

        def chunk_distances(chunk):
            return _nearest(tf.matmul(r, chunk, transpose_b=True), labels, count, cfg)

        if _on_cpu(cfg) and chunks > 1:
            found = tf.map_fn(chunk_distances, q, parallel_iterations=1)
        else:
            found = tf.stack([chunk_distances(chunk) for chunk in tf.unstack(q)])
        found = tf.reshape(tf.transpose(found, [0, 2, 1]), [size * chunks, count])[:cells]
        found = tf.tanh((found + own[:, None]) / 2)
        return tf.reshape(found, [height, width, count])


def _on_cpu(cfg):
    return cfg.get('device', 'cpu') == 'cpu'


def _of_every_object(function, count):
    """function(object) float32 of every object, stacked in front; without a loop where `count` is a
    number."""
    if isinstance(count, int):
        return tf.stack([function(number) for number in range(count)])
    return tf.map_fn(function, tf.range(count), tf.float32, parallel_iterations=1)


def _nearest(distance, labels, count, cfg):
    """float32 [count, Q]: of distances [N, Q] the least of the rows of each label, or the mean of
    the least; FAR where there is none."""
    if cfg.neighbours == 1 and _on_cpu(cfg):
        return tf.minimum(tf.unsorted_segment_min(distance, labels, count), FAR)

    def of_object(number):
        rows = tf.where(tf.equal(labels, number), distance, tf.fill(distance.shape, FAR))
        if cfg.neighbours == 1:
            return tf.reduce_min(rows, 0)
        return _mean_of_least(tf.transpose(rows), cfg.neighbours)

    return _of_every_object(of_object, count)


def _mean_of_least(distance, neighbors):
    """float32 [Q], mean of the `neighbors` least of [Q, N]; where there are fewer, the largest of
    these counts for the missing ones."""
    found = -tf.nn.top_k(-distance, neighbors).values
    present = found < FAR / 2
    most = tf.reduce_max(tf.where(present, found, tf.fill(found.shape, -FAR)), 1, keepdims=True)
    found = tf.where(present, found, tf.tile(most, [1, neighbors]))
    return tf.where(present[:, 0], tf.reduce_mean(found, 1), tf.fill(found.shape[:1], FAR))


def local_map(
    query: tf.Tensor, previous: tf.Tensor, labels: tf.Tensor, count, cfg, lean: bool = False
) -> tf.Tensor:
    """Map of the distance to the nearest cell of each object within cfg.max_distance cells of the
    halved maps.

    Args:
      query: float32 [h, w, C].
      previous: float32 [h, w, C].
      labels: int32 [h, w] of the previous frame.
      count: of objects.
      cfg: uses max_distance, device.
      lean: see window_minima().

    Returns:
      float32 [h, w, count].
    """
    with npu.keep_float32(cfg):
        q = tf.nn.avg_pool2d(tf.cast(query, tf.float32)[None], 2, 2, 'VALID')[0]
        p = tf.nn.avg_pool2d(tf.cast(previous, tf.float32)[None], 2, 2, 'VALID')[0]
        planes = tf.tanh(window_distances(q, p, cfg.max_distance, cfg) / 2)
        return window_minima(planes, labels, count, cfg, lean)


def window_minima(planes: tf.Tensor, labels: tf.Tensor, count, cfg, lean: bool) -> tf.Tensor:
    """Least value of each object in a window, 1 where it is not there.

    Args:
      planes: float32 [h / 2, w / 2, (2 R + 1)^2], a plane an offset; they are resized to [h, w]
        (bilinear, corners aligned).
      labels: int32 [h, w] of the candidates; outside is background.
      count: of objects.
      cfg: uses max_distance (R), device.
      lean: on CPU, without gradients: STRIP rows at a time, so that no resized plane is held in
        full.

    Returns:
      float32 [h, w, count].
    """
    height, width = labels.shape.as_list()
    radius = 2 * cfg.max_distance
    strips = -(-height // STRIP)
    more = strips * STRIP - height
    on_npu = cfg.get('device', 'cpu') in ('npu', 'atc')
    kind = tf.float16 if on_npu else tf.float32  # ids up to 255; half the memory of patches
    labels = tf.pad(tf.cast(labels, kind), [[radius, radius + more], [radius, radius]])
    if not lean or not _on_cpu(cfg):
        planes = tf.image.resize_bilinear(planes[None], [height, width], align_corners=True)[0]
        return _minima_of_objects(planes, labels[: height + 2 * radius], count, radius, cfg)
    columns = aligned_positions(width, planes.shape.as_list()[1])
    rows = aligned_positions(height, planes.shape.as_list()[0])

    def strip_minima(args):
        y, low, high, share = args
        strip = _interpolate(planes, Positions(low, high, share[:, None, None]), 0)
        strip = _interpolate(strip, columns._replace(share=columns.share[:, None]), 1)
        candidates = tf.slice(labels, [y, 0], [STRIP + 2 * radius, width + 2 * radius])
        return _minima_of_objects(strip, candidates, count, radius, cfg)

    starts = tf.range(0, strips * STRIP, STRIP)
    rows = [np.pad(values, (0, more), 'edge').reshape(strips, STRIP) for values in rows]
    found = tf.map_fn(strip_minima, (starts, *map(tf.constant, rows)), tf.float32, 1)
    return tf.reshape(found, [strips * STRIP, width, count])[:height]


def _minima_of_objects(planes, labels, count, radius, cfg):
    """window_minima() of planes as large as the labels, which have a border of `radius`."""
    side = radius + 1
    if cfg.get('device') == 'onnx':  # which has no operator for patches
        height, width = planes.shape.as_list()[:2]
        offsets = [(2 * y, 2 * x) for y in range(side) for x in range(side)]
        candidates = tf.stack([labels[y : y + height, x : x + width] for y, x in offsets], 2)
    else:
        candidates = tf.extract_image_patches(
            labels[None, ..., None], [1, side, side, 1], [1, 1, 1, 1], [1, 2, 2, 1], 'VALID'
        )[0]
    ones = tf.ones_like(planes)

    def of_object(number):
        shown = tf.equal(candidates, tf.cast(number, candidates.dtype))
        return tf.reduce_min(tf.where(shown, planes, ones), 2)

    return tf.transpose(_of_every_object(of_object, count), [1, 2, 0])


class Positions(NamedTuple):
    """Cells between which values are interpolated: int32 `low` and `high`, float32 `share` of the
    second."""

    low: np.ndarray
    high: np.ndarray
    share: np.ndarray


def aligned_positions(count: int, source: int) -> Positions:
    """Where each of `count` cells lies between those of a row of `source`, corners aligned."""
    position = np.arange(count, dtype=np.float32) * np.float32((source - 1) / max(1, count - 1))
    position = np.minimum(position, np.float32(source - 1))
    low = position.astype(np.int32)
    return Positions(low, np.minimum(low + 1, source - 1), position - low.astype(np.float32))


def _interpolate(x, positions, axis):
    lower = tf.gather(x, positions.low, axis=axis)
    return lower + (tf.gather(x, positions.high, axis=axis) - lower) * positions.share


def window_distances(query: tf.Tensor, previous: tf.Tensor, radius: int, cfg) -> tf.Tensor:
    """Squared distances of each cell to those up to `radius` rows and columns away, FAR outside the
    frame.

    The cells of one row against all cells of side = 2 radius + 1 rows of the previous frame are one
    matrix product [w, side, wide], wide = w + 2 radius. Of that, cell x needs the columns x ..
    x + side - 1 of every row: a diagonal band, here for w = 4, radius = 1 and one of the rows:

        cell 0   # # # . . .      the product's rows one after the other in memory:
        cell 1   . # # # . .      ###....###....###....###
        cell 2   . . # # # .      cut into rows that are one number longer:
        cell 3   . . . # # #      ###....   ###....   ###....   ###....

    In rows one number longer the band stands in the first columns, where a slice takes it. These
    rows need w numbers more than the product has: a cell of zeros is appended to the query's.

    Args:
      query: float32 [h, w, C].
      previous: float32 [h, w, C].
      radius: cells.
      cfg: uses device.

    Returns:
      float32 [h, w, (2 radius + 1)^2], row offset first.
    """
    height, width, channels = query.shape.as_list()
    side, wide = 2 * radius + 1, width + 2 * radius
    border = [[radius, radius], [radius, radius], [0, 0]]
    squares = tf.reduce_sum(previous * previous, 2, keepdims=True)
    p = tf.concat([tf.pad(previous, border), tf.pad(squares, border, constant_values=FAR)], 2)
    own = tf.reduce_sum(query * query, 2)
    q = tf.concat([-2 * query, tf.ones([height, width, 1])], 2)  # one product: |p|^2 - 2 q p
    q = tf.pad(q, [[0, 0], [0, 1], [0, 0]])  # the cell of zeros

    def rows_distances(cells, rows):
        """[n, w, side^2] of n rows of cells [n, w + 1, C + 1] and theirs [n, side, wide, C + 1]."""
        count = cells.shape.as_list()[0]
        rows = tf.reshape(rows, [count, side * wide, channels + 1])
        product = tf.reshape(tf.matmul(cells, rows, transpose_b=True), [count, -1])
        product = product[:, : width * (side * wide + 1)]
        longer = tf.reshape(product, [count, width, side * wide + 1])[..., :-1]
        band = tf.reshape(longer, [count * width, side, wide])[..., :side]
        return tf.reshape(band, [count, width, side * side])

    def row_distances(args):
        y, cells = args
        rows = tf.slice(p, [y, 0, 0], [side, wide, channels + 1])
        return rows_distances(cells[None], rows[None])[0]

    if _on_cpu(cfg):  # a row at a time: a twentieth of the memory
        found = tf.map_fn(row_distances, (tf.range(height), q), tf.float32, 1)
    else:  # few operators, which are compiled one by one
        rows = tf.stack([p[dy : dy + height] for dy in range(side)], 1)
        found = rows_distances(q, rows)
    return tf.minimum(found + own[..., None], FAR)
