"""Losses of ColorNet: color reconstruction, space consistency, and those of dense-ulearn-vos
(ColorNet sections 3.3, 3.4; trainColorNetDUL_benchmark.py of the official code).

Whatever samples the images at a grid is an index here, computed by the input pipeline: the graph
only gathers.
"""

from __future__ import annotations

from common.lazy import tf

from . import npu

ANCHORS, CROSS = 8, 4  # anchors and cross-view samples a side (GRID_SIZE, GRID_SIZE_REF)
DUL_TEMPERATURE, CROSS_WEIGHT = 0.05, 0.1  # TEST.TEMP; MODEL.CE_REF
DUL_WEIGHT, AB_WEIGHT = 0.01, 1.5  # of the branch; of the color loss with color_mode AB
BETA = 0.5  # of the smooth L1


def smooth_l1(x: tf.Tensor) -> tf.Tensor:
    """x^2 / (2 BETA) below BETA, else |x| - BETA / 2."""
    size = tf.abs(x)
    return tf.where(size < BETA, size * size / (2 * BETA), size - BETA / 2)


def in_range(values: tf.Tensor, ohem_range) -> tf.Tensor:
    """Mean of the values [n] whose ascending rank lies in the shares [low, high)."""
    count = values.shape.as_list()[0]
    low, high = (int(count * share) for share in ohem_range)
    if low >= high:
        raise ValueError(f'ohem_range={list(ohem_range)} leaves none of {count} losses')
    if (low, high) == (0, count):
        return tf.reduce_mean(values)
    ordered = -tf.nn.top_k(-values, count).values  # ascending
    return tf.reduce_mean(ordered[low:high])


def consistency_loss(key1: tf.Tensor, key2: tf.Tensor, index: tf.Tensor, ohem_range) -> tf.Tensor:
    """Main view's features, moved to the second view, against the second view's.

    Args:
      key1, key2: float32 [F, N, C], F = B T frames.
      index: int32 [F, N], the cell of key1 that each cell of key2 shows.
      ohem_range: shares of the ascending losses that count.
    """
    frames, cells, channels = key1.shape.as_list()
    first = tf.range(frames)[:, None] * cells
    moved = tf.gather(tf.reshape(key1, [-1, channels]), index + first)
    return in_range(tf.reduce_mean(smooth_l1(moved - tf.stop_gradient(key2)), [1, 2]), ohem_range)


def color_loss(key: tf.Tensor, target: tf.Tensor, weight: tf.Tensor, cfg) -> tf.Tensor:
    """Reconstructs each frame's colors from every other frame of its clip by attention.

    Args:
      key: float32 [B, T, N, C], unit vectors.
      target: float32 [B, T, N, 64, 3], folded images.
      weight: float32 [B, T, N, 64], along edges.
      cfg: uses TEMP, is_neg, ohem_range.
    """
    batch, count, cells = key.shape.as_list()[:3]
    flat, parts = tf.reshape(target, [batch, count, cells, -1]), []
    for i in range(count):
        reference, colors = key[:, i], flat[:, i]
        if cfg.is_neg:  # cells of another clip compete
            reference = tf.concat([reference, reference[::-1]], 1)
            colors = tf.concat([colors, colors[::-1]], 1)
        for j in range(count):
            if i != j:
                share = tf.nn.softmax(cfg.TEMP * tf.matmul(key[:, j], reference, transpose_b=True))
                rest = tf.reshape(tf.matmul(share, colors), target[:, j].shape) - target[:, j]
                parts.append(tf.reduce_mean(smooth_l1(rest * weight[:, j, ..., None]), [1, 2, 3]))
    return in_range(tf.concat(parts, 0), cfg.ohem_range)


def negative_similarity(key: tf.Tensor) -> tf.Tensor:
    """Mean of |cosine| between first frames float32 [B, N, C] of different clips; logged only, 0 of
    one clip."""
    batch, cells, channels = key.shape.as_list()
    if batch < 2:
        return tf.zeros([])
    flat = tf.stop_gradient(tf.reshape(key, [-1, channels]))
    total = tf.zeros([])
    for i in range(batch):  # a matrix of all at once would be a quarter of a gigabyte
        similar = tf.abs(tf.matmul(flat[i * cells : (i + 1) * cells], flat, transpose_b=True))
        means = tf.reduce_mean(tf.reshape(similar, [cells, batch, cells]), 2)
        means = tf.reduce_mean(means, 0)  # in two steps: a sum of a million numbers is not exact
        total += tf.reduce_sum(means) - means[i]
    return total / (batch * (batch - 1))


def dul_loss(key1: tf.Tensor, key2: tf.Tensor, given: dict) -> tf.Tensor:
    """Dense unsupervised learning: cells of view 1 are classed by anchors of their clip's first
    frame as those of view 2 are, anchors of other clips compete; first frames of both views agree.

    Args:
      key1, key2: float32 [B, T, h, w, C], unit vectors; of key2 only frame 0 carries a gradient.
      given: anchor int32 [B, 64], cells of frame 0; align int32 [B, T, N] and inside float32 [B, T,
        N], the cell of view 1 that each cell of view 2 shows, 0 where it lies outside; cross int32
        [B, 16], cells of the cross-view samples.
    """
    batch, frames, height, width, channels = key1.shape.as_list()
    cells, count = height * width, ANCHORS * ANCHORS
    flat1 = tf.reshape(key1, [batch * frames, cells, channels])
    flat2 = tf.reshape(key2, [batch * frames, cells, channels])
    queries = tf.reshape(_pick(flat1[::frames], given['anchor']), [batch * count, channels])
    logits1 = _logits(flat1, queries)
    logits1 = _aligned(logits1, given, batch * frames, cells)
    own = tf.repeat(tf.eye(batch), count, axis=1)  # [B, 64 B]: the clip's own anchors
    own = tf.repeat(own, frames, axis=0)[:, None]
    pseudo = tf.argmax(tf.nn.softmax(tf.stop_gradient(_logits(flat2, queries))) * own, -1)
    errors = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=pseudo, logits=logits1)
    temporal = tf.reduce_mean(tf.reshape(errors, [batch, frames, cells])[:, 1:])
    first1 = _aligned(flat1, given, batch * frames, cells)[::frames]
    samples = [
        tf.reshape(_pick(view, given['cross']), [batch * CROSS * CROSS, channels])
        for view in (first1, flat2[::frames])
    ]
    scores = tf.matmul(*samples, transpose_b=True) / DUL_TEMPERATURE
    diagonal = tf.range(batch * CROSS * CROSS)
    cross = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=diagonal, logits=scores)
    return CROSS_WEIGHT * tf.reduce_mean(cross) + temporal


def _logits(flat, queries):
    frames, cells, channels = flat.shape.as_list()
    found = tf.matmul(tf.reshape(flat, [-1, channels]), queries, transpose_b=True)
    return tf.reshape(found, [frames, cells, -1]) / DUL_TEMPERATURE


def _pick(flat, index):
    """float32 [B, K, C], cells `index` int32 [B, K] of [B, N, C]."""
    batch, cells, channels = flat.shape.as_list()
    return tf.gather(tf.reshape(flat, [-1, channels]), index + tf.range(batch)[:, None] * cells)


def _aligned(flat, given, frames, cells):
    """Cells of view 1 where view 2 shows them; zeros outside."""
    index, inside = (tf.reshape(given[k], [frames, cells]) for k in ('align', 'inside'))
    return _pick(flat, index) * inside[..., None]


def target_colors(labels: dict, cfg) -> tuple[tf.Tensor, tf.Tensor]:
    """(target float32 [B, T, N, 64, 3], edge weight float32 [B, T, N, 64] of 1..5)."""
    target = tf.cast(labels['target'], tf.float32) / 255
    if cfg.color_mode != 'RGB':
        low, high, start, span = (labels['range'][:, k, None, None, None, None] for k in range(4))
        light, rest = target[..., :1], target[..., 1:]
        rest = (tf.minimum(tf.maximum(rest, low), high) - start) / span
        light = tf.zeros_like(light) if cfg.color_mode == 'AB' else light
        target = tf.concat([light, rest], -1)
    return target, tf.cast(labels['weight'], tf.float32) / 255 * 4 + 1


def losses(outputs: dict, labels: dict, cfg) -> dict:
    """Scalar losses of a batch.

    Args:
      outputs: of model.network().
      labels: target uint8 [B, T, N, 64, 3], images or their Lab, folded; range float32 [B, 4],
        see augment.clip_range(); weight uint8 [B, T, N, 64]; index int32 [B, T, N], the cell of the
        main view that each cell of the second shows; with the DUL branch anchor, align, inside,
        cross, see dul_loss().

    Returns:
      color, consistency, negative (logged only), dul, total.
    """
    result = dict.fromkeys(('color', 'consistency', 'negative', 'dul', 'total'), tf.zeros([]))
    with npu.keep_float32(cfg):
        if 'key1' in outputs:
            batch, frames, cells, channels = outputs['key1'].shape.as_list()
            shape = [batch * frames, cells, channels]
            flat = [tf.reshape(tf.cast(outputs[k], tf.float32), shape) for k in ('key1', 'key2')]
            index = tf.reshape(labels['index'], [batch * frames, cells])
            key = tf.reshape(flat[0], [batch, frames, cells, channels])
            result['consistency'] = consistency_loss(*flat, index, cfg.ohem_range)
            result['color'] = color_loss(key, *target_colors(labels, cfg), cfg)
            if cfg.color_mode == 'AB':
                result['color'] *= AB_WEIGHT
            result['negative'] = negative_similarity(key[:, 0])
            result['total'] = result['color']
            if cfg.space_consistency:
                result['total'] += result['consistency']
        if 'dul1' in outputs:
            views = (tf.cast(outputs[k], tf.float32) for k in ('dul1', 'dul2'))
            result['dul'] = dul_loss(*views, labels)
            share = DUL_WEIGHT if 'key1' in outputs else 1.0  # alone in dense-ulearn-vos
            result['total'] += share * result['dul']
    return result
