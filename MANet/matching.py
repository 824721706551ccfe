"""How near each cell of a frame is to each object: of the whole reference frame (global), and of a
window in the frame before (local) (MANet sections 3.2, 3.3; networks/IntVOS.py).

Distances d become maps 2 / (1 + exp(-d)) - 1 = tanh(d / 2) of 0 (the same) to 1 (far, or no such
object). All of it is float32.
"""

from __future__ import annotations

import tensorflow.compat.v1 as tf

from . import npu

FAR = 1e9  # distance of a cell that is of another object
CHUNK = 16e6  # numbers of the distance matrix held at once (64 MB)


def global_map(query: tf.Tensor, reference: tf.Tensor, labels: tf.Tensor, count: int, cfg):
    """Map of the nearest reference cell of each object, or of the mean of the cfg.neighbours
    nearest.

    Args:
      query, reference: float32 [h, w, C]. labels: int32 [h, w] of the reference; -1, 255: none.
      count: objects, the background included.

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
        q = tf.reshape(tf.pad(q, [[0, size * chunks - cells], [0, 0]]), [chunks, size, channels])
        squares = tf.reduce_sum(r * r, 1, keepdims=True)

        def part(chunk):
            d = squares - 2 * tf.matmul(r, chunk, transpose_b=True)  # [cells, size]
            return _nearest(d, labels, count, cfg) + tf.reduce_sum(chunk * chunk, 1)

        if cfg.get('device', 'cpu') == 'cpu' and chunks > 1:
            found = tf.map_fn(part, q, parallel_iterations=1)
        else:
            found = tf.stack([part(chunk) for chunk in tf.unstack(q)])
        found = tf.reshape(tf.transpose(found, [0, 2, 1]), [size * chunks, count])[:cells]
        return tf.reshape(tf.tanh(found / 2), [height, width, count])


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


def local_map(query: tf.Tensor, previous: tf.Tensor, labels: tf.Tensor, count: int, cfg):
    """Map of the nearest cell of each object within cfg.max_distance cells of the halved maps.

    Args:
      query, previous: float32 [h, w, C]. labels: int32 [h, w] of the previous frame.

    Returns:
      float32 [h, w, count].
    """
    height, width, _ = query.shape.as_list()
    reach = cfg.max_distance
    with npu.keep_float32(cfg):
        q, p = (
            tf.nn.avg_pool2d(tf.cast(x, tf.float32)[None], 2, 2, 'VALID')[0]
            for x in (query, previous)
        )
        planes = tf.tanh(window_distances(q, p, reach, cfg) / 2)
        planes = tf.image.resize_bilinear(planes[None], [height, width], align_corners=True)[0]
        border = [[2 * reach] * 2, [2 * reach] * 2]
        there = tf.pad(tf.cast(labels, tf.float32), border)  # outside is background
        side = 2 * reach + 1
        there = tf.extract_image_patches(
            there[None, ..., None], [1, side, side, 1], [1, 1, 1, 1], [1, 2, 2, 1], 'VALID'
        )[0]
        maps = [
            tf.reduce_min(tf.where(tf.equal(there, float(c)), planes, tf.ones_like(planes)), 2)
            for c in range(count)
        ]
        return tf.stack(maps, 2)


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

    def row(args):
        y, cells = args
        rows = tf.reshape(tf.slice(p, [y, 0, 0], [side, wide, channels + 1]), [side * wide, -1])
        found = tf.reshape(tf.matmul(cells, rows, transpose_b=True), [width, side, wide])
        found = tf.reshape(tf.transpose(found, [1, 0, 2]), [side, width * wide])
        found = tf.pad(found, [[0, 0], [0, width]])  # a row longer: the band becomes columns
        band = tf.reshape(found, [side, width, wide + 1])[:, :, :side]
        return tf.reshape(tf.transpose(band, [1, 0, 2]), [width, side * side])

    numbers = tf.range(height)
    if cfg.get('device', 'cpu') == 'cpu':
        found = tf.map_fn(row, (numbers, q), tf.float32, 1)
    else:
        found = tf.stack([row((y, q[y])) for y in range(height)])
    return tf.minimum(found + own[..., None], FAR)
