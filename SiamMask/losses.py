"""What the network is to answer, and how far it is from it: anchor targets and the losses of class,
box and mask (SiamMask section 3.2; models/siammask.py of the official code).

Nothing is gathered by a condition and no mean is taken over nothing: shapes are static, and a batch
without positives has a loss.
"""

from __future__ import annotations

from common.lazy import np, tf

from . import npu
from .model import ANCHORS, MASK, PATCH, STRIDE


def losses(outputs: dict, labels: dict, cfg) -> dict:
    """Scalar losses and measures of a batch.

    Args:
      outputs: of model.network().
      labels: cls int32 [B, N, N, 5] of 1, 0 and -1 (left out); loc float32 [B, N, N, 4, 5];
        loc_weight float32 [B, N, N, 5]; mask int8 [B, K, 127, 127] of 1, -1 and 0 (outside the
        image); mask_weight float32 [B, K] of 1 and 0.
      cfg: uses cls_weight, loc_weight, mask_weight, device.

    Returns:
      cls, loc, mask, total (weighted sum); accuracy of the labelled anchors; iou, iou_50, iou_70 of
      the masks (mean, shares above 0.5 and 0.7), 0 without masks.
    """
    with npu.keep_float32(cfg):
        result = {'loc': loc_loss(outputs['loc'], labels['loc'], labels['loc_weight'])}
        result['cls'], result['accuracy'] = cls_loss(outputs['cls'], labels['cls'])
        patches = upsampled(tf.cast(outputs['mask'], tf.float32))
        truth = tf.cast(labels['mask'], tf.float32)
        result.update(mask_loss(patches, truth, labels['mask_weight']))
        result['total'] = (
            cfg.cls_weight * result['cls']
            + cfg.loc_weight * result['loc']
            + cfg.mask_weight * result['mask']
        )
    return result


def cls_loss(logits: tf.Tensor, labels: tf.Tensor):
    """(half the mean over positives plus half the mean over negatives, share classified right)."""
    batch, side = logits.shape.as_list()[:2]
    logits = tf.reshape(tf.cast(logits, tf.float32), [batch, side, side, 2, 5])
    margin = logits[..., 1, :] - logits[..., 0, :]
    positive, negative = (tf.cast(tf.equal(labels, v), tf.float32) for v in (1, 0))
    loss = 0.5 * _mean(tf.nn.softplus(-margin), positive)
    loss += 0.5 * _mean(tf.nn.softplus(margin), negative)
    right = tf.cast(margin > 0, tf.float32)
    right = positive * right + negative * (1 - right)
    return loss, _mean(right, positive + negative)


def _mean(values, weight):
    return tf.reduce_sum(values * weight) / tf.maximum(tf.reduce_sum(weight), 1.0)


def loc_loss(moves: tf.Tensor, labels: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """L1 over the four coordinates, weighted, summed, over the number of pairs."""
    batch, side = moves.shape.as_list()[:2]
    moves = tf.reshape(tf.cast(moves, tf.float32), [batch, side, side, 4, 5])
    return tf.reduce_sum(tf.reduce_sum(tf.abs(moves - labels), 3) * weight) / batch


def upsampled(masks: tf.Tensor) -> tf.Tensor:
    """Logits [B, K, 63, 63] as [B, K, 127, 127] (corners aligned); refined ones as they are."""
    batch, count, side, _ = masks.shape.as_list()
    if side == PATCH:
        return masks
    masks = tf.reshape(masks, [batch * count, MASK, MASK, 1])
    masks = tf.image.resize_bilinear(masks, [PATCH, PATCH], align_corners=True)
    return tf.reshape(masks, [batch, count, PATCH, PATCH])


def mask_loss(logits: tf.Tensor, truth: tf.Tensor, weight: tf.Tensor) -> dict:
    """Mean logistic loss of the wanted patches' pixels; pixels outside the image count ln 2."""
    loss = tf.reduce_mean(tf.nn.softplus(-truth * logits), [2, 3])
    found, there = (tf.cast(t, tf.float32) for t in (logits >= 0, tf.equal(truth, 1)))
    both = tf.reduce_sum(found * there, [2, 3])
    either = tf.reduce_sum(tf.maximum(found, there), [2, 3])
    iou = both / tf.maximum(either, 1.0)
    result = {'mask': _mean(loss, weight), 'iou': _mean(iou, weight)}
    for percent in (50, 70):
        above = tf.cast(iou > percent / 100, tf.float32)
        result[f'iou_{percent}'] = _mean(above, weight)
    return result


def targets(box, side: int, cfg, negative: bool, draw) -> dict:
    """cls, loc and loc_weight of data.make_pair(); section 3.2 of the paper's supplement and
    AnchorTargetLayer.

    Args:
      box: corners in the search image.
      side: cells a side.
      cfg: uses search_size, positives, anchors_kept, pair_negatives and the thresholds.
      negative: the search image shows another object.
      draw: numpy RandomState.
    """
    cls = np.full((len(ANCHORS), side, side), -1, np.int64)
    loc, weight = np.zeros((4, *cls.shape), np.float32), np.zeros(cls.shape, np.float32)
    if negative:
        near = slice(side // 2 - 3, side // 2 + 4)
        cls[:, near, near] = 0
        chosen, _ = _some(cls == 0, cfg.pair_negatives, draw)
        cls[:] = -1
        cls[chosen] = 0
        return {'cls': cls, 'loc': loc, 'loc_weight': weight}
    x, y, width, height = grid(cfg.search_size, side)
    loc[0] = ((box[0] + box[2]) * 0.5 - x) / width
    loc[1] = ((box[1] + box[3]) * 0.5 - y) / height
    loc[2], loc[3] = np.log((box[2] - box[0]) / width), np.log((box[3] - box[1]) / height)
    overlap = _overlap(x, y, width, height, box)
    positive, count = _some(overlap > cfg.positive_iou, cfg.positives, draw)
    others, _ = _some(overlap < cfg.negative_iou, cfg.anchors_kept - count, draw)
    cls[positive] = 1
    weight[positive] = 1 / (count + 1e-6)
    cls[others] = 0
    return {'cls': cls, 'loc': loc, 'loc_weight': weight}


def grid(size: int, side: int) -> list[np.ndarray]:
    """x, y, width, height float32 [5, N, N] of the anchors in a search image of `size` px."""
    center = (size // 2 - side // 2 * STRIDE + STRIDE * np.arange(side)).astype(np.float32)
    y, x = np.meshgrid(center, center, indexing='ij')
    full = np.zeros((len(ANCHORS), side, side), np.float32)
    return [full + x, full + y, *(full + v[:, None, None] for v in np.array(ANCHORS, np.float32).T)]


def _overlap(x, y, width, height, box):
    left, right = np.maximum(box[0], x - width / 2), np.minimum(box[2], x + width / 2)
    top, bottom = np.maximum(box[1], y - height / 2), np.minimum(box[3], y + height / 2)
    both = np.maximum(0, right - left) * np.maximum(0, bottom - top)
    return both / (width * height + (box[2] - box[0]) * (box[3] - box[1]) - both)


def _some(condition, most, draw):
    """(index of at most `most` anchors, their number), drawn where there are more."""
    anchors = np.where(condition)
    if len(anchors[0]) <= most:
        return anchors, len(anchors[0])
    order = np.arange(len(anchors[0]))
    draw.shuffle(order)
    return tuple(index[order[:most]] for index in anchors), most
