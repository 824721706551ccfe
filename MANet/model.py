"""MANet's network: DeepLabV3+ embeddings, the head of the annotated frame (interaction) and that of
every other (propagation) (MANet section 3; networks/ of the official code).
"""

from __future__ import annotations

import tensorflow.compat.v1 as tf

from . import matching, npu
from .backbone import batch_norm, conv, depthwise, resnet, scaled

EMBEDDED, HEAD = 100, 256  # channels (config.py MODEL_SEMANTIC_EMBEDDING_DIM, MODEL_HEAD_...)
ASPP, LOW = 256, 48  # channels (aspp.py, decoder.py)
RATES = (1, 6, 12, 18)  # of the pyramid at output stride 16 (aspp.py)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # in B, G, R order, as trained
ABSENT = 1e4  # taken off the logits of classes that a sequence lacks: finite in float16
DROPPED = 0.1  # of the pyramid's output while training (aspp.py)


def embedded(cfg) -> int:
    """Channels of the embeddings."""
    return scaled(EMBEDDED, cfg)


def normalised(image: tf.Tensor, cfg) -> tf.Tensor:
    """B, G, R of 0..255 by the constants of R, G, B, as the official weights expect: float32."""
    with npu.keep_float32(cfg):
        return (tf.cast(image, tf.float32) / 255 - MEAN) / DEVIATION


def embed(image: tf.Tensor, cfg, training: bool = False) -> tf.Tensor:
    """Embeddings of pictures float32 [B, H, W, 3], normalised(): [B, ceil(H/4), ceil(W/4), 100]."""
    with tf.variable_scope('manet', reuse=tf.AUTO_REUSE):
        x, low = resnet(image, cfg, training)
        x = pyramid(x, cfg, training)
        x = decoder(x, low, cfg, training)
        x = depthwise(x, 3, 'seperate_conv')
        x = tf.nn.relu(batch_norm(x, 'bn1', training, cfg, cfg.head_decay))
        x = conv(x, scaled(EMBEDDED, cfg), 1, 'embedding_conv', cfg, bias=True)
        return tf.nn.relu(batch_norm(x, 'bn2', training, cfg, cfg.head_decay))


def pyramid(x: tf.Tensor, cfg, training: bool) -> tf.Tensor:
    """Atrous spatial pyramid pooling: [B, h, w, 2048] -> [B, h, w, 256]."""
    width = scaled(ASPP, cfg)
    with tf.variable_scope('aspp'):
        parts = []
        for k, rate in enumerate(RATES, 1):
            with tf.variable_scope(f'aspp{k}'):
                y = conv(x, width, 1 if k == 1 else 3, 'atrous_conv', cfg, rate=rate, fan='in')
                parts.append(tf.nn.relu(batch_norm(y, 'bn', training, cfg)))
        with tf.variable_scope('global_avg_pool'):
            y = conv(tf.reduce_mean(x, [1, 2], keepdims=True), width, 1, '1', cfg, fan='in')
            y = tf.nn.relu(batch_norm(y, '2', training, cfg))
        parts.append(tf.tile(y, [1, *x.shape.as_list()[1:3], 1]))
        y = conv(tf.concat(parts, -1), width, 1, 'conv1', cfg, fan='in')
        y = tf.nn.relu(batch_norm(y, 'bn1', training, cfg))
    return tf.nn.dropout(y, rate=DROPPED) if training else y


def decoder(x: tf.Tensor, low: tf.Tensor, cfg, training: bool) -> tf.Tensor:
    """Pyramid and low-level features together: [B, h4, w4, 256]."""
    with tf.variable_scope('decoder'):
        low = conv(low, scaled(LOW, cfg), 1, 'conv1', cfg, fan='in')
        low = tf.nn.relu(batch_norm(low, 'bn1', training, cfg))
        x = tf.image.resize_bilinear(x, low.shape.as_list()[1:3], align_corners=True)
        x = tf.concat([x, low], -1)
        for k in (0, 4):  # places in nn.Sequential
            x = conv(x, scaled(ASPP, cfg), 3, f'last_conv/{k}', cfg, fan='in')
            x = tf.nn.relu(batch_norm(x, f'last_conv/{k + 1}', training, cfg))
    return x


def head(x: tf.Tensor, name: str, cfg, there=None) -> tf.Tensor:
    """Logits [h, w, N] of one item a class, float32 [N, h, w, C].

    Args: there: float32 [N], 1 of real classes, while training; batch norm then takes the
      statistics of the real ones.
    """
    training = there is not None
    with tf.variable_scope(f'manet/{name}', reuse=tf.AUTO_REUSE):
        for k in (1, 2, 3, 4):
            with tf.variable_scope(f'layer{k}'):
                x = depthwise(x, 7, 'conv1')
                x = tf.nn.relu(batch_norm(x, 'bn1', training, cfg, cfg.head_decay, there))
                x = conv(x, scaled(HEAD, cfg), 1, 'conv2', cfg, bias=True)
                x = tf.nn.relu(batch_norm(x, 'bn2', training, cfg, cfg.head_decay, there))
        x = conv(x, 1, 1, 'conv', cfg, bias=True)
    logits = tf.transpose(x[..., 0], [1, 2, 0])
    return logits if there is None else logits + (there - 1) * ABSENT


def planes(labels: tf.Tensor, count: int) -> tf.Tensor:
    """float32 [h, w, count] of 0 and 1 of labels int32 [h, w]; -1 is of none."""
    return tf.one_hot(labels, count, dtype=tf.float32)


def propagate(embedding, global_, local, previous, cfg, there=None) -> tf.Tensor:
    """Logits [h, w, N] of a frame.

    Args:
      embedding: float32 [h, w, C]. global_, local: maps [h, w, N]. previous: planes of the mask of
      the frame before [h, w, N]. there: see head().
    """
    return head(_items(embedding, [global_, local, previous]), 'dynamic_seghead', cfg, there)


def interact(embedding, strokes, previous, cfg, there=None) -> tf.Tensor:
    """Logits [h, w, N] of the annotated frame; strokes and mask of the round before as planes."""
    return head(_items(embedding, [strokes, previous]), 'inter_seghead', cfg, there)


def _items(embedding, maps):
    count = maps[0].shape.as_list()[-1]
    shared = tf.tile(embedding[None], [count, 1, 1, 1])
    return tf.concat([shared, *(tf.transpose(m, [2, 0, 1])[..., None] for m in maps)], -1)


def nearest(labels: tf.Tensor, size) -> tf.Tensor:
    """int32 [H, W] to `size`, the cell floor(i in / out)."""
    x = tf.cast(labels, tf.float32)[None, ..., None]
    return tf.cast(tf.image.resize_nearest_neighbor(x, size)[0, ..., 0], tf.int32)


def network(features: dict, cfg, training: bool) -> dict:
    """Logits of a batch of stage cfg.stage.

    Args:
      features: images float32 [B, 3, S, S, 3] (reference, previous, current frame; stage 2: [B, 1,
        S, S, 3]), B, G, R, 0..255; there float32 [B, N], 1 of classes that the sequence has;
        stage 1: reference, previous int32 [B, S, S] labels; stage 2: strokes int32 [B, S, S], -1
        where there are none, previous int32 [B, S, S], 0 in a first round.

    Returns:
      logits float32 [B, s, s, N], s = S / 4.
    """
    images = features['images']
    batch, frames, *shape = images.shape.as_list()
    whole = training and cfg.stage == 1
    flat = normalised(tf.reshape(tf.transpose(images, [1, 0, 2, 3, 4]), [-1, *shape]), cfg)
    embeddings = embed(flat, cfg, whole)
    size = embeddings.shape.as_list()[1:3]
    embeddings = tf.reshape(embeddings, [frames, batch, *size, embedded(cfg)])
    logits = []
    for n in range(batch):
        there = features['there'][n] if training else tf.ones_like(features['there'][n])
        count = there.shape.as_list()[0]
        labels = {
            key: nearest(features[key][n], size)
            for key in ('reference', 'previous', 'strokes') if key in features
        }  # fmt: skip
        mask = planes(labels['previous'], count)
        if cfg.stage == 1:
            reference, previous, current = (embeddings[k, n] for k in range(3))
            maps = matched(current, reference, labels['reference'], previous, labels['previous'],
                           count, cfg)  # fmt: skip
            logits.append(propagate(current, *maps, mask, cfg, there if training else None))
        else:
            own = tf.stop_gradient(embeddings[0, n])
            strokes = planes(labels['strokes'], count)
            logits.append(interact(own, strokes, mask, cfg, there if training else None))
    return {'logits': tf.stack(logits)}


def every_variable(cfg) -> None:
    """Makes the variables of both heads where the graph lacks some: one form of checkpoint."""
    embedding, zeros = tf.zeros([4, 4, embedded(cfg)]), tf.zeros([4, 4, 2])
    propagate(embedding, zeros, zeros, zeros, cfg)
    interact(embedding, zeros, zeros, cfg)


def matched(query, reference, labels, previous, previous_labels, count: int, cfg):
    """(global map, local map) of a frame without memories."""
    return (
        matching.global_map(query, reference, labels, count, cfg),
        matching.local_map(query, previous, previous_labels, count, cfg),
    )
