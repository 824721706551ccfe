"""How near each cell of a frame is to each object: of the whole reference frame (global), and of a
window in the frame before (local) (MANet sections 3.2, 3.3; networks/IntVOS.py).

Distances d become maps 2 / (1 + exp(-d)) - 1 = tanh(d / 2) of 0 (the same) to 1 (far, or no such
object). All of it is float32.
"""

from __future__ import annotations

import numpy as np
import tensorflow.compat.v1 as tf

from . import npu

FAR = 1e9  # distance of a cell that is of another object
STRIP = 8  # rows of the local map at once
CHUNK = 16e6  # numbers of the distance matrix held at once (64 MB)


def global_map(
    query: tf.Tensor, reference: tf.Tensor, labels: tf.Tensor, count: int, cfg, lean: bool = False
) -> tf.Tensor:
    """Map of the nearest reference cell of each object, or of the mean of the cfg.neighbours
    nearest.

    Args:
      query, reference: float32 [h, w, C]. labels: int32 [h, w] of the reference; -1, 255: none.
      count: objects, the background included. lean: on CPU without gradients: cells of no label are
      left out first.

    Returns:
      float32 [h, w, count].
    """
    height, width, channels = query.shape.as_list()
    cells = height * width
    with npu.keep_float32(cfg):
        q, r = (tf.reshape(tf.cast(x, tf.float32), [cells, channels]) for x in (query, reference))
        labels = tf.reshape(labels, [cells])
        labels = tf.where(labels < count, labels, -tf.ones_like(labels))  # void 255
        chunks = max(1, -(-cells * cells // int(CHUNK)))
        size = -(-cells // chunks)
        own = tf.reduce_sum(q * q, 1)
        q = tf.concat([-2 * q, tf.ones([cells, 1])], 1)  # one product gives |r|^2 - 2 q r
        r = tf.concat([r, tf.reduce_sum(r * r, 1, keepdims=True)], 1)
        if lean and cfg.neighbours == 1 and cfg.get('device', 'cpu') == 'cpu':
            labelled = tf.reshape(tf.where(labels >= 0), [-1])
            r, labels = tf.gather(r, labelled), tf.gather(labels, labelled)
        q = tf.pad(q, [[0, size * chunks - cells], [0, 0]])
        q = tf.reshape(q, [chunks, size, channels + 1])

        def part(chunk):
            return _nearest(tf.matmul(r, chunk, transpose_b=True), labels, count, cfg)

        if cfg.get('device', 'cpu') == 'cpu' and chunks > 1:
            found = tf.map_fn(part, q, parallel_iterations=1)
        else:
            found = tf.stack([part(chunk) for chunk in tf.unstack(q)])
        found = tf.reshape(tf.transpose(found, [0, 2, 1]), [size * chunks, count])[:cells]
        found = tf.tanh((found + own[:, None]) / 2)
        return tf.reshape(found, [height, width, count])


def _nearest(distance, labels, count, cfg):
    """float32 [count, Q], least of [N, Q] of the rows of each label; FAR of none."""
    if cfg.neighbours == 1 and cfg.get('device', 'cpu') == 'cpu':
        return tf.minimum(tf.unsorted_segment_min(distance, labels, count), FAR)
    of_class = (
        tf.where(tf.equal(labels, c), distance, tf.fill(distance.shape, FAR)) for c in range(count)
    )
    if cfg.neighbours == 1:
        return tf.stack([tf.reduce_min(rows, 0) for rows in of_class])
    return tf.stack([_mean_nearest(tf.transpose(rows), cfg.neighbours) for rows in of_class])


def _mean_nearest(distance, neighbours):
    """float32 [Q], mean of the least of [Q, N]; the largest of them for those there are not."""
    found = -tf.nn.top_k(-distance, neighbours).values
    there = found < FAR / 2
    most = tf.reduce_max(tf.where(there, found, tf.fill(found.shape, -FAR)), 1, keepdims=True)
    found = tf.where(there, found, tf.tile(most, [1, neighbours]))
    return tf.where(there[:, 0], tf.reduce_mean(found, 1), tf.fill(found.shape[:1], FAR))


def local_map(
    query: tf.Tensor, previous: tf.Tensor, labels: tf.Tensor, count: int, cfg, lean: bool = False
) -> tf.Tensor:
    """Map of the nearest cell of each object within cfg.max_distance cells of the halved maps.

    Args:
      query, previous: float32 [h, w, C]. labels: int32 [h, w] of the previous frame. lean: see
      least().

    Returns:
      float32 [h, w, count].
    """
    with npu.keep_float32(cfg):
        q, p = (
            tf.nn.avg_pool2d(tf.cast(x, tf.float32)[None], 2, 2, 'VALID')[0]
            for x in (query, previous)
        )
        planes = tf.tanh(window_distances(q, p, cfg.max_distance, cfg) / 2)
        return least(planes, labels, count, cfg, lean)


def least(planes: tf.Tensor, labels: tf.Tensor, count: int, cfg, lean: bool) -> tf.Tensor:
    """Least a class of the window's planes float32 [h / 2, w / 2, (2 R + 1)^2], made larger
    (bilinear, corners aligned): float32 [h, w, count], 1 where there is none.

    Args: labels: int32 [h, w] of the candidates; outside is background. lean: on CPU without
      gradients: STRIP rows at a time, so that no plane is held in full.
    """
    height, width = labels.shape.as_list()
    reach = 2 * cfg.max_distance
    strips = -(-height // STRIP)
    more = strips * STRIP - height
    there = tf.pad(tf.cast(labels, tf.float32), [[reach, reach + more], [reach, reach]])
    if not lean or cfg.get('device', 'cpu') != 'cpu':
        planes = tf.image.resize_bilinear(planes[None], [height, width], align_corners=True)[0]
        return _least_of(planes, there[: height + 2 * reach], count, reach)
    columns = between(width, planes.shape.as_list()[1], width)
    place = between(height, planes.shape.as_list()[0], strips * STRIP)

    def strip(args):
        y, low, high, share = args
        part = _mixed(planes, (low, high, share[:, None, None]), 0)
        part = _mixed(part, (*columns[:2], columns[2][:, None]), 1)
        found = tf.slice(there, [y, 0], [STRIP + 2 * reach, width + 2 * reach])
        return _least_of(part, found, count, reach)

    starts = tf.range(0, strips * STRIP, STRIP)
    given = (tf.constant(x.reshape(strips, STRIP)) for x in place)
    found = tf.map_fn(strip, (starts, *given), tf.float32, 1)
    return tf.reshape(found, [strips * STRIP, width, count])[:height]


def _least_of(planes, labels, count, reach):
    """least() of planes as large as the labels, which have a border of `reach`."""
    side = reach + 1
    there = tf.extract_image_patches(
        labels[None, ..., None], [1, side, side, 1], [1, 1, 1, 1], [1, 2, 2, 1], 'VALID'
    )[0]
    ones = tf.ones_like(planes)
    maps = (tf.where(tf.equal(there, float(c)), planes, ones) for c in range(count))
    return tf.stack([tf.reduce_min(m, 2) for m in maps], 2)


def between(count: int, source: int, wanted: int):
    """Cells (low, high) of `source` and the share of the second, float32, for each of `count`
    cells, corners aligned; `wanted` - count more of the last."""
    place = np.arange(count, dtype=np.float32) * np.float32((source - 1) / max(1, count - 1))
    place = np.pad(np.minimum(place, np.float32(source - 1)), (0, wanted - count), 'edge')
    low = place.astype(np.int32)
    return low, np.minimum(low + 1, source - 1), place - low.astype(np.float32)


def _mixed(x, between, axis):
    low, high, share = between
    lower = tf.gather(x, low, axis=axis)
    return lower + (tf.gather(x, high, axis=axis) - lower) * share


def window_distances(query: tf.Tensor, previous: tf.Tensor, reach: int, cfg) -> tf.Tensor:
    """Squared distances of each cell to those up to `reach` rows and columns away, FAR outside the
    frame.

    A row at a time: its cells against all cells of 2 reach + 1 rows is a matrix product, of which
    the window is a diagonal band.

    Args:
      query, previous: float32 [h, w, C].

    Returns:
      float32 [h, w, (2 reach + 1)^2], row offset first.
    """
    height, width, channels = query.shape.as_list()
    side, wide = 2 * reach + 1, width + 2 * reach
    border = [[reach, reach], [reach, reach], [0, 0]]
    squares = tf.reduce_sum(previous * previous, 2, keepdims=True)
    p = tf.concat([tf.pad(previous, border), tf.pad(squares, border, constant_values=FAR)], 2)
    own = tf.reduce_sum(query * query, 2)
    q = tf.concat([-2 * query, tf.ones([height, width, 1])], 2)
    q = tf.pad(q, [[0, 0], [0, 1], [0, 0]])  # a cell more: what the band's last row reads

    def row(args):
        y, cells = args
        rows = tf.reshape(tf.slice(p, [y, 0, 0], [side, wide, channels + 1]), [side * wide, -1])
        found = tf.reshape(tf.matmul(cells, rows, transpose_b=True), [-1])
        found = found[: width * (side * wide + 1)]  # rows one longer: the band becomes columns
        band = tf.reshape(found, [width, side * wide + 1])[:, :-1]
        band = tf.reshape(band, [width, side, wide])[..., :side]
        return tf.reshape(band, [width, side * side])

    numbers = tf.range(height)
    if cfg.get('device', 'cpu') == 'cpu':
        found = tf.map_fn(row, (numbers, q), tf.float32, 1)
    else:
        found = tf.stack([row((y, q[y])) for y in range(height)])
    return tf.minimum(found + own[..., None], FAR)
