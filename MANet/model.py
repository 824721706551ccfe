"""MANet's network: DeepLabV3+ embeddings, the head of the annotated frame (interaction) and that of
every other one (propagation) (MANet section 3; networks/ of the official code).
"""

from __future__ import annotations

from common.lazy import tf

from . import matching, npu
from .backbone import batch_norm, conv, depthwise, resnet, scale_channels

EMBEDDED, HEAD = 100, 256  # channels (config.py MODEL_SEMANTIC_EMBEDDING_DIM, MODEL_HEAD_...)
ASPP, LOW = 256, 48  # channels (aspp.py, decoder.py)
RATES = (1, 6, 12, 18)  # of the pyramid at output stride 16 (aspp.py)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # in B, G, R order, as trained
ABSENT = 1e4  # logits of classes that a sequence lacks are this much lower: finite in float16
DROPPED = 0.1  # of the pyramid's output while training (aspp.py)


def embedding_channels(cfg) -> int:
    """Channels of the embeddings."""
    return scale_channels(EMBEDDED, cfg)


def normalize(image: tf.Tensor, cfg) -> tf.Tensor:
    """Images B, G, R of 0..255, normalized by the constants of R, G, B, as the official weights
    expect it: float32."""
    with npu.keep_float32(cfg):
        return (tf.cast(image, tf.float32) / 255 - MEAN) / DEVIATION


def embed(image: tf.Tensor, cfg, training: bool = False) -> tf.Tensor:
    """Embeddings [B, ceil(H/4), ceil(W/4), 100] of images float32 [B, H, W, 3] of normalize()."""
    with tf.variable_scope('manet', reuse=tf.AUTO_REUSE):
        x, low = resnet(image, cfg, training)
        x = pyramid(x, cfg, training)
        x = decoder(x, low, cfg, training)
        x = depthwise(x, 3, 'seperate_conv')
        x = tf.nn.relu(batch_norm(x, 'bn1', training, cfg, cfg.head_decay))
        x = conv(x, scale_channels(EMBEDDED, cfg), 1, 'embedding_conv', cfg, bias=True)
        return tf.nn.relu(batch_norm(x, 'bn2', training, cfg, cfg.head_decay))


def pyramid(x: tf.Tensor, cfg, training: bool) -> tf.Tensor:
    """Atrous spatial pyramid pooling: [B, h, w, 2048] -> [B, h, w, 256]."""
    width = scale_channels(ASPP, cfg)
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
        low = conv(low, scale_channels(LOW, cfg), 1, 'conv1', cfg, fan='in')
        low = tf.nn.relu(batch_norm(low, 'bn1', training, cfg))
        x = tf.image.resize_bilinear(x, low.shape.as_list()[1:3], align_corners=True)
        x = tf.concat([x, low], -1)
        for k in (0, 4):  # positions in nn.Sequential
            x = conv(x, scale_channels(ASPP, cfg), 3, f'last_conv/{k}', cfg, fan='in')
            x = tf.nn.relu(batch_norm(x, f'last_conv/{k + 1}', training, cfg))
    return x


def head(
    x: tf.Tensor, name: str, cfg, training: bool = False, present: tf.Tensor | None = None
) -> tf.Tensor:
    """Logits of all classes, one item of the batch a class.

    Args:
      x: float32 [N, h, w, C], what the head sees of each class.
      name: 'dynamic_seghead' (propagation) or 'inter_seghead' (interaction).
      cfg: of the network.
      training: batch norm takes the statistics of the items.
      present: float32 [N], 1 of the classes that the sequence has, where `x` is padded with others:
        these have no share in the statistics and lose ABSENT of their logits.

    Returns:
      float32 [h, w, N].
    """
    with tf.variable_scope(f'manet/{name}', reuse=tf.AUTO_REUSE):
        for k in (1, 2, 3, 4):
            with tf.variable_scope(f'layer{k}'):
                x = depthwise(x, 7, 'conv1')
                x = tf.nn.relu(batch_norm(x, 'bn1', training, cfg, cfg.head_decay, present))
                x = conv(x, scale_channels(HEAD, cfg), 1, 'conv2', cfg, bias=True)
                x = tf.nn.relu(batch_norm(x, 'bn2', training, cfg, cfg.head_decay, present))
        x = conv(x, 1, 1, 'conv', cfg, bias=True)
    logits = tf.transpose(x[..., 0], [1, 2, 0])
    return logits if present is None else logits + (present - 1) * ABSENT


def planes(labels: tf.Tensor, count) -> tf.Tensor:
    """float32 [h, w, count], 1 where labels int32 [h, w] have the plane's number; -1 and 255 are on
    none."""
    return tf.one_hot(labels, count, dtype=tf.float32)


def propagate(embedding, global_map, local_map, previous, cfg, training=False, present=None):
    """Logits of a frame that is not annotated.

    Args:
      embedding: float32 [h, w, C].
      global_map: float32 [h, w, N].
      local_map: float32 [h, w, N].
      previous: planes() of the mask of the frame before, [h, w, N].
      cfg: of the network.
      training: see head().
      present: see head().

    Returns:
      float32 [h, w, N].
    """
    items = _items(embedding, [global_map, local_map, previous])
    return head(items, 'dynamic_seghead', cfg, training, present)


def interact(embedding, strokes, previous, cfg, training=False, present=None) -> tf.Tensor:
    """Logits of the annotated frame.

    Args:
      embedding: float32 [h, w, C].
      strokes: planes() of the strokes, [h, w, N].
      previous: planes() of the frame's mask of the round before, [h, w, N].
      cfg: of the network.
      training: see head().
      present: see head().

    Returns:
      float32 [h, w, N].
    """
    items = _items(embedding, [strokes, previous])
    return head(items, 'inter_seghead', cfg, training, present)


def _items(embedding, maps):
    """float32 [N, h, w, C + maps]: the embedding and the class's plane of each map."""
    count = maps[0].shape.as_list()[-1] or tf.shape(maps[0])[-1]
    shared = tf.tile(embedding[None], [count, 1, 1, 1])
    return tf.concat([shared, *(tf.transpose(m, [2, 0, 1])[..., None] for m in maps)], -1)


def resize_labels(labels: tf.Tensor, size) -> tf.Tensor:
    """int32 [H, W] to `size` (h, w), the cell floor(i H / h)."""
    x = tf.cast(labels, tf.float32)[None, ..., None]
    return tf.cast(tf.image.resize_nearest_neighbor(x, size)[0, ..., 0], tf.int32)


def network(features: dict, cfg, training: bool) -> dict:
    """Logits of a batch of stage cfg.stage.

    A sequence's head runs for the classes that it has. On the NPU, where shapes are static, it is
    padded to the largest number of the data.

    Args:
      features: images float32 [B, 3, S, S, 3] (reference, previous, current frame; stage 2: [B, 1,
        S, S, 3]), B, G, R, 0..255; present float32 [B, N], 1 of classes that the sequence has;
        stage 1: reference, previous int32 [B, S, S] labels; stage 2: strokes int32 [B, S, S], -1
        where there are none, previous int32 [B, S, S], 0 in a first round.
      cfg: of the network; uses stage, device.
      training: batch norm takes the batch's statistics.

    Returns:
      logits float32 [B, s, s, N], s = S / 4; those of absent classes are ABSENT lower.
    """
    images = features['images']
    batch, frames, *shape = images.shape.as_list()
    flat = tf.reshape(tf.transpose(images, [1, 0, 2, 3, 4]), [-1, *shape])
    embeddings = embed(normalize(flat, cfg), cfg, training and cfg.stage == 1)
    size = embeddings.shape.as_list()[1:3]
    embeddings = tf.reshape(embeddings, [frames, batch, *size, embedding_channels(cfg)])
    answer = _propagated if cfg.stage == 1 else _interacted
    logits = []
    for n in range(batch):
        given = {
            key: resize_labels(features[key][n], size)
            for key in ('reference', 'previous', 'strokes')
            if key in features
        }
        classes = features['present'].shape.as_list()[1]
        if cfg.get('device', 'cpu') == 'cpu':
            count = tf.cast(tf.reduce_sum(features['present'][n]), tf.int32)
            found = answer(embeddings[:, n], given, count, cfg, training, None)
            found = _pad_classes(found, classes)
        else:
            present = features['present'][n] if training else None
            found = answer(embeddings[:, n], given, classes, cfg, training, present)
        logits.append(found)
    return {'logits': tf.stack(logits)}


def _propagated(embeddings, given, count, cfg, training, present):
    reference, previous, current = (embeddings[k] for k in range(3))
    global_map = matching.global_map(current, reference, given['reference'], count, cfg)
    local_map = matching.local_map(current, previous, given['previous'], count, cfg)
    mask = planes(given['previous'], count)
    return propagate(current, global_map, local_map, mask, cfg, training, present)


def _interacted(embeddings, given, count, cfg, training, present):
    embedding = tf.stop_gradient(embeddings[0])
    strokes, mask = planes(given['strokes'], count), planes(given['previous'], count)
    return interact(embedding, strokes, mask, cfg, training, present)


def _pad_classes(logits, classes):
    """Logits [h, w, n] with -ABSENT for those of `classes` that are missing."""
    height, width, _ = logits.shape.as_list()
    missing = classes - tf.shape(logits)[2]
    logits = tf.pad(logits, [[0, 0], [0, 0], [0, missing]], constant_values=-ABSENT)
    return tf.reshape(logits, [height, width, classes])


def make_every_variable(cfg) -> None:
    """Makes the variables of both heads where the graph lacks some: one form of checkpoint."""
    embedding, zeros = tf.zeros([4, 4, embedding_channels(cfg)]), tf.zeros([4, 4, 2])
    propagate(embedding, zeros, zeros, zeros, cfg)
    interact(embedding, zeros, zeros, cfg)
