"""Label propagation: every cell takes the label of the cells most like it in earlier frames
(ColorNet section 3.5; labelprop/ and infer_vos_dul.py of the official code, after Jabri et al.
2020).

Of the first frame every cell is a candidate, of the 20 others those within a radius. The official
code makes the matrix of all pairs, 0.9 billion numbers a frame; here a tile of 12x12 cells meets
the window around it, and the best are found in two stages: a cell of the ten best lies at one of
the ten positions whose best frame is best. Ties aside the answer is the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import tensorflow.compat.v1 as tf

from . import cli, model, npu

TILE = 12  # cells a side: fastest of 8, 12, 16
OUTSIDE = -1e4  # added to a cosine: no vote, and finite in float16
KEYS = ('color', 'cls', 'merge', 'q_color', 'q_cls', 'q_merge')  # of TEST.KEY (infer_vos_dul.py)
DUL_KEYS = ('res4', 'res3', 'key')  # of dense-ulearn-vos, which publishes res4


def feature_key(cfg) -> str:
    """cfg.key, or the best of the network; ValueError where the network does not have it."""
    if cfg.model_size == 'DUL':
        known = DUL_KEYS
    else:
        known = KEYS if cfg.is_dul else ('color', 'q_color')
    key = cfg.key or ('merge' if 'merge' in known else known[0])
    if key not in known:
        why = ': it was trained with is_dul=false' if key in KEYS and 'color' in known else ''
        raise ValueError(f'key={key}: this network has {", ".join(known)}{why}')
    return key


def votes(query: tf.Tensor, first: tf.Tensor, others: tf.Tensor, cfg):
    """Which cells vote for each cell of a frame, and how much.

    Args:
      query, first: float32 [h, w, C], unit vectors: this frame's, and the unrestricted frame's.
      others: float32 [K, h, w, C]. cfg: uses radius, neighbours, temperature, device.

    Returns:
      (weight float32 [h w, n], cell int32 [h w, n]): cell = frame * h w + row * w + column, frame 0
      is `first`, k + 1 the k-th of `others`.
    """
    height, width, channels = query.shape.as_list()
    rows, columns = (-(-side // TILE) for side in (height, width))
    query = tf.pad(query, [[0, rows * TILE - height], [0, columns * TILE - width], [0, 0]])
    corners = [(i * TILE, j * TILE) for i in range(rows) for j in range(columns)]

    def tile(corner):
        return _tile_votes(corner, query, first, others, cfg)

    if cfg.get('device', 'cpu') == 'cpu':
        found = tf.map_fn(tile, tf.constant(corners), (tf.float32, tf.int32), 1, back_prop=False)
    else:  # no loop on the NPU
        found = [tf.stack(part) for part in zip(*(tile(tf.constant(c)) for c in corners))]

    def joined(x):
        x = tf.reshape(x, [rows, columns, TILE, TILE, -1])
        x = tf.reshape(tf.transpose(x, [0, 2, 1, 3, 4]), [rows * TILE, columns * TILE, -1])
        return tf.reshape(x[:height, :width], [height * width, -1])

    return joined(found[0]), joined(found[1])


def _tile_votes(corner, query, first, others, cfg):
    count, height, width, channels = others.shape.as_list()
    q = tf.slice(query, tf.concat([corner, [0]], 0), [TILE, TILE, channels])
    q = tf.reshape(q, [TILE * TILE, channels])
    values, cells = _best(first, q, None, cfg.neighbours)  # rows as frames, columns as places
    reach = int(np.ceil(cfg.radius)) - 1
    size = [min(TILE + 2 * reach, side) for side in (height, width)]
    start = tf.minimum(tf.maximum(corner - reach, 0), [height - size[0], width - size[1]])
    keys = tf.slice(others, tf.concat([[0], start, [0]], 0), [count, *size, channels])
    keys = tf.reshape(keys, [count, size[0] * size[1], channels])
    near = _near(corner, start, size, cfg.radius)
    found, place = _best(keys, q, near, cfg.neighbours)
    position = place % (size[0] * size[1])
    row, column = start[0] + position // size[1], start[1] + position % size[1]
    frame = place // (size[0] * size[1]) + 1
    values = tf.concat([values, found], 1)
    cells = tf.concat([cells, (frame * height + row) * width + column], 1)
    values, order = tf.nn.top_k(values, min(cfg.neighbours, height * width))
    with npu.keep_float32(cfg):
        weight = tf.nn.softmax(tf.cast(values, tf.float32) / cfg.temperature)
    return weight, tf.gather(cells, order, batch_dims=1)


def _near(corner, start, size, radius):
    """float32 [tile, window]: 0 within the radius, else OUTSIDE."""
    squares = []
    for axis in (0, 1):
        line = corner[axis] + tf.range(TILE)
        squares.append(tf.square(line[:, None] - (start[axis] + tf.range(size[axis]))))
    far = squares[0][:, None, :, None] + squares[1][None, :, None, :]
    inside = tf.cast(far, tf.float32) < radius**2
    near = tf.where(inside, tf.zeros(far.shape), tf.fill(far.shape, OUTSIDE))
    return tf.reshape(near, [TILE * TILE, -1])


def _best(keys, query, near, most):
    """The best of K x P cells for each query, in two stages: the places whose best of K is best.

    Args:
      keys: float32 [K, P, C]. query: float32 [Q, C]. near: float32 [Q, P] to add, or None.

    Returns:
      (float32 values, int32 k * P + p) [Q, n], n = most or all that there are.
    """
    count, size, channels = keys.shape.as_list()
    queries, first = query.shape.as_list()[0], min(most, size)
    found = tf.matmul(tf.reshape(keys, [-1, channels]), query, transpose_b=True)  # long side first
    best = tf.transpose(tf.reduce_max(tf.reshape(found, [count, size, queries]), 0))
    _, places = tf.nn.top_k(best if near is None else best + near, first)
    index = (tf.range(count)[:, None] * size + places[:, None]) * queries  # [Q, K, first]
    index = tf.reshape(index + tf.range(queries)[:, None, None], [queries, -1])
    values = tf.gather(tf.reshape(found, [-1]), index)
    if near is not None:
        values += tf.tile(tf.gather(near, places, batch_dims=1), [1, count])
    values, order = tf.nn.top_k(values, min(most, count * first))
    return values, order // first * size + tf.gather(places, order % first, batch_dims=1)


@contextlib.contextmanager
def loaded(cfg, prefix: str):
    """A network with a checkpoint's weights: yields (features, vote).

    features: uint8 [n, H, W, 3] BGR of cfg.test_height, cfg.test_width, n <= cfg.test_batch ->
    float32 [n, h, w, C]. vote: query, first [h, w, C], others [K, h, w, C] -> votes().

    Raises:
      ValueError: the checkpoint is of another network; it lacks cfg.key.
    """
    key = feature_key(cfg)
    with tf.Graph().as_default(), npu.session(cfg) as session:
        shape = [cfg.test_batch, cfg.test_height, cfg.test_width, 3]
        image = tf.placeholder(tf.float32, shape)
        output = model.extract(model.normalised(image[..., ::-1], cfg), cfg)[key]
        height, width, channels = output.shape.as_list()[1:]
        cell = [tf.placeholder(tf.float32, [height, width, channels]) for _ in range(2)]
        others = tf.placeholder(tf.float32, [len(cfg.context), height, width, channels])
        result = votes(*cell, others, cfg)
        variables = [v for v in tf.global_variables() if v.op.name.startswith('colornet/')]
        tf.train.Saver(cli.match_variables(prefix, variables)).restore(session, prefix)

        def features(images):
            batch = np.zeros(shape, np.float32)
            batch[: len(images)] = images
            return session.run(output, {image: batch})[: len(images)]

        def vote(query, first, context):
            return session.run(result, {cell[0]: query, cell[1]: first, others: context})

        yield features, vote


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float32 [h, w, C] of [H, W, C], bilinear, corners aligned, without antialiasing."""
    for axis, count in enumerate(size):
        last = image.shape[axis] - 1
        place = np.arange(count, dtype=np.float32) * np.float32(last / max(1, count - 1))
        low = np.minimum(place.astype(np.int32), last)
        high = np.minimum(low + 1, last)
        share = (place - low).reshape([-1 if k == axis else 1 for k in range(3)])
        lower, upper = (np.take(image, k, axis).astype(np.float32) for k in (low, high))
        image = lower * (1 - share) + upper * share
    return image


def propagate(network, cfg, frames: Iterator[np.ndarray], given: dict) -> Iterator[np.ndarray]:
    """Object ids uint8 [H, W] of every frame, of the frame's size; a given mask is kept.

    Args:
      network: of loaded(). frames: uint8 [H, W, 3] BGR. given: {frame number: ids uint8 [H, W]}; an
      object, the background too, starts in the first that shows it.

    Raises:
      ValueError: a given mask of another size than its frame.
    """
    features, vote = network
    ids = sorted({n for mask in given.values() for n in np.unique(mask).tolist()} - {255})
    memory = {}  # frame number: (features, soft labels)
    starts, shown = {}, set()  # {frame number: labels that began there}; ids that have begun
    for t, (image, query) in enumerate(_described(features, cfg, frames)):
        labels = _merged(vote, cfg, memory, starts, t, query)
        new = []
        if t in given:
            if given[t].shape != image.shape[:2]:
                raise ValueError(
                    f'frame {t}: its mask is {given[t].shape[1]}x{given[t].shape[0]}, the frame '
                    f'{image.shape[1]}x{image.shape[0]}'
                )
            new = [n for n in ids if n not in shown and (given[t] == n).any()]
        if new:
            labels, starts[t] = _started(given[t], new, ids, labels, t)
            shown.update(new)
        if starts:
            memory[t] = query, labels
            _forget(memory, starts, t, cfg)
            yield _written(labels, ids, image.shape[:2], given.get(t), new)
        else:
            yield np.zeros(image.shape[:2], np.uint8)


def _described(features, cfg, frames):
    """(frame, float32 [h, w, C]) of every frame, cfg.test_batch at a time."""
    pending = []
    for image in frames:
        pending.append(image)
        if len(pending) == cfg.test_batch:
            yield from zip(pending, features(_network_size(pending, cfg)))
            pending = []
    if pending:
        yield from zip(pending, features(_network_size(pending, cfg)))


def _network_size(images, cfg):
    return np.stack([resized(image, (cfg.test_height, cfg.test_width)) for image in images])


def _merged(vote, cfg, memory, starts, t, query):
    """Soft labels float32 [h, w, L]: of each start the labels that began there, summed; [h, w, 1]
    of zeros before any."""
    total = np.zeros((*query.shape[:2], 1), np.float32)
    for start, began in starts.items():
        context = [max(start, t - back) for back in cfg.context]
        weight, cell = vote(query, memory[start][0], np.stack([memory[c][0] for c in context]))
        labels = np.stack([memory[c][1] for c in [start, *context]])
        labels = labels.reshape(-1, labels.shape[-1])
        found = np.zeros((len(cell), labels.shape[1]), np.float32)
        for k in range(cell.shape[1]):  # a neighbour at a time: no [N, neighbours, L]
            found += weight[:, k, None] * labels[cell[:, k]]
        total = total + found.reshape(*query.shape[:2], -1) * began
    return total


def _started(mask, new, ids, labels, t):
    """(labels with what begins in this frame, which began: float32 [L] of 0 and 1)."""
    ones = np.stack([(mask == n) & (n in new) for n in ids], -1)
    small = resized(ones, labels.shape[:2])
    share = small.sum(-1, keepdims=True)
    began = (small > 0 if t == 0 else ones).any((0, 1)).astype(np.float32)  # as the original
    return (1 - share) * labels + share * small, began


def _forget(memory, starts, t, cfg):
    for number in [n for n in memory if t - n >= max(cfg.context) and n not in starts]:
        del memory[number]


def _written(labels, ids, shape, given, new):
    """Ids uint8 [H, W] of soft labels; new objects as given."""
    found = np.array(ids, np.uint8)[resized(labels, shape).argmax(-1)]
    if new:
        found = np.where(np.isin(found, new), 0, found)
        found = np.where(np.isin(given, new), given, found).astype(np.uint8)
    return found
