"""Label propagation: every cell takes the label of the cells most like it in earlier frames
(ColorNet section 3.5; labelprop/ and infer_vos_dul.py of the official code, after Jabri et al.
2020).

Of the first frame every cell is a candidate, of the 20 others those within a radius. The official
code makes the matrix of all pairs, 0.9 billion numbers a frame; here a tile of 12x12 cells meets
the window around it, and the best are found in two stages: a cell of the ten best lies at one of
the ten positions whose best frame is best. Ties aside the answer is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from common.lazy import np, tf

from . import npu

TILE = 12  # cells a side: fastest of 8, 12, 16
OUTSIDE = -1e4  # added to a cosine: no vote, and finite in float16
KEYS = ('color', 'cls', 'merge', 'q_color', 'q_cls', 'q_merge')  # of TEST.KEY (infer_vos_dul.py)
DUL_KEYS = ('res4', 'res3', 'key')  # of dense-ulearn-vos, which publishes res4


class Remembered(NamedTuple):
    """A frame of the memory: features float32 [h, w, C], soft labels float32 [h, w, L]."""

    features: np.ndarray
    labels: np.ndarray


def feature_key(cfg) -> str:
    """cfg.key, or the best of the network; ValueError where the network does not have it."""
    if cfg.model_size == 'DUL':
        known = DUL_KEYS
    elif cfg.is_dul:
        known = KEYS
    else:
        known = ('color', 'q_color')
    if cfg.key:
        key = cfg.key
    else:
        key = 'merge' if 'merge' in known else known[0]
    if key not in known:
        why = ': it was trained with is_dul=false' if key in KEYS and 'color' in known else ''
        raise ValueError(f'key={key}: this network has {", ".join(known)}{why}')
    return key


def votes(query: tf.Tensor, first: tf.Tensor, others: tf.Tensor, cfg):
    """Which cells vote for each cell of a frame, and how much.

    Args:
      query, first: float32 [h, w, C], unit vectors: this frame's, and the unrestricted frame's.
      others: float32 [K, h, w, C].
      cfg: uses radius, neighbours, temperature, device.

    Returns:
      (weight float32 [h w, n], cell int32 [h w, n]): cell = frame * h w + row * w + column, frame 0
      is `first`, k + 1 the k-th of `others`.
    """
    height, width, _ = query.shape.as_list()
    rows, columns = -(-height // TILE), -(-width // TILE)
    query = tf.pad(query, [[0, rows * TILE - height], [0, columns * TILE - width], [0, 0]])
    corners = [(i * TILE, j * TILE) for i in range(rows) for j in range(columns)]

    def tile(corner):
        return _tile_votes(corner, query, first, others, cfg)

    if cfg.get('device', 'cpu') == 'cpu':
        found = tf.map_fn(tile, tf.constant(corners), (tf.float32, tf.int32), 1, back_prop=False)
        weight, cell = found
    else:  # no loop on the NPU
        found = [tile(tf.constant(corner)) for corner in corners]
        weight = tf.stack([weight for weight, _ in found])
        cell = tf.stack([cell for _, cell in found])

    def joined(x):
        x = tf.reshape(x, [rows, columns, TILE, TILE, -1])
        x = tf.reshape(tf.transpose(x, [0, 2, 1, 3, 4]), [rows * TILE, columns * TILE, -1])
        return tf.reshape(x[:height, :width], [height * width, -1])

    return joined(weight), joined(cell)


def _tile_votes(corner, query, first, others, cfg):
    """votes() of the TILE x TILE cells at `corner` (row, column)."""
    count, height, width, channels = others.shape.as_list()
    tile = tf.slice(query, tf.concat([corner, [0]], 0), [TILE, TILE, channels])
    tile = tf.reshape(tile, [TILE * TILE, channels])

    # the unrestricted frame: its rows take the part of frames, its columns that of positions
    first_values, row, column = _best(first, tile, None, cfg.neighbours)
    first_cells = row * width + column

    # the window of the other frames around the tile
    border = int(np.ceil(cfg.radius)) - 1
    window = [min(TILE + 2 * border, height), min(TILE + 2 * border, width)]
    start = tf.minimum(tf.maximum(corner - border, 0), [height - window[0], width - window[1]])
    keys = tf.slice(others, tf.concat([[0], start, [0]], 0), [count, *window, channels])
    keys = tf.reshape(keys, [count, window[0] * window[1], channels])
    near = _near(corner, start, window, cfg.radius)
    other_values, frame, position = _best(keys, tile, near, cfg.neighbours)
    row, column = start[0] + position // window[1], start[1] + position % window[1]
    other_cells = ((frame + 1) * height + row) * width + column

    values = tf.concat([first_values, other_values], 1)
    cells = tf.concat([first_cells, other_cells], 1)
    values, order = tf.nn.top_k(values, min(cfg.neighbours, height * width))
    with npu.keep_float32(cfg):
        weight = tf.nn.softmax(tf.cast(values, tf.float32) / cfg.temperature)
    return weight, tf.gather(cells, order, batch_dims=1)


def _near(corner, start, window, radius):
    """float32 [tile, window]: 0 within the radius, else OUTSIDE."""
    squares = []
    for axis in (0, 1):
        line = corner[axis] + tf.range(TILE)
        squares.append(tf.square(line[:, None] - (start[axis] + tf.range(window[axis]))))
    distance = squares[0][:, None, :, None] + squares[1][None, :, None, :]
    inside = tf.cast(distance, tf.float32) < radius**2
    near = tf.where(inside, tf.zeros(distance.shape), tf.fill(distance.shape, OUTSIDE))
    return tf.reshape(near, [TILE * TILE, -1])


def _best(keys, query, near, most):
    """The best of K frames x P positions for each query, in two stages: first the positions whose
    best frame is best, then the best cells at these.

    Args:
      keys: float32 [K, P, C].
      query: float32 [Q, C].
      near: float32 [Q, P] to add, or None.
      most: of them.

    Returns:
      (values float32, frame int32, position int32) [Q, n], n = most or all that there are.
    """
    frames, size, channels = keys.shape.as_list()
    queries = query.shape.as_list()[0]
    kept = min(most, size)  # positions that go to the second stage
    found = tf.matmul(tf.reshape(keys, [-1, channels]), query, transpose_b=True)  # long side first
    best = tf.transpose(tf.reduce_max(tf.reshape(found, [frames, size, queries]), 0))
    _, positions = tf.nn.top_k(best if near is None else best + near, kept)  # [Q, kept]

    index = (tf.range(frames)[:, None] * size + positions[:, None]) * queries  # [Q, K, kept]
    index = index + tf.range(queries)[:, None, None]
    values = tf.gather(tf.reshape(found, [-1]), tf.reshape(index, [queries, -1]))  # [Q, K * kept]
    if near is not None:
        values += tf.tile(tf.gather(near, positions, batch_dims=1), [1, frames])
    values, order = tf.nn.top_k(values, min(most, frames * kept))
    frame, column = order // kept, order % kept
    return values, frame, tf.gather(positions, column, batch_dims=1)


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float32 [h, w, C] of [H, W, C], bilinear, corners aligned, without antialiasing; positions in
    float32 as in PyTorch. (scipy.ndimage.zoom needs twice the time.)"""
    for axis, count in enumerate(size):
        last = image.shape[axis] - 1
        position = np.arange(count, dtype=np.float32) * np.float32(last / max(1, count - 1))
        low = np.minimum(position.astype(np.int32), last)
        high = np.minimum(low + 1, last)
        shape = [1, 1, 1]
        shape[axis] = count
        share = (position - low).reshape(shape)
        lower = np.take(image, low, axis).astype(np.float32)
        upper = np.take(image, high, axis).astype(np.float32)
        image = lower * (1 - share) + upper * share
    return image


def propagate(network, cfg, frames: Iterable[np.ndarray], given: dict) -> Iterator[np.ndarray]:
    """Object ids uint8 [H, W] of every frame, of the frame's size; a given mask is kept.

    Args:
      network: of inference.load().
      cfg: uses context, test_batch.
      frames: uint8 [H, W, 3] BGR.
      given: {frame number: ids uint8 [H, W]}; an object, the background too, starts in the first
        that shows it.

    Raises:
      ValueError: a given mask of another size than its frame.
    """
    ids = sorted({n for mask in given.values() for n in np.unique(mask).tolist()} - {255})
    memory = {}  # frame number: Remembered
    starts = {}  # frame number: float32 [L], 1 for the labels that started there
    started = set()  # ids
    for t, (image, features) in enumerate(_with_features(network, cfg, frames)):
        labels = _labels(network, cfg, memory, starts, t, features)
        new = []
        if t in given:
            _check_size(given[t], image, t)
            new = [n for n in ids if n not in started and (given[t] == n).any()]
        if new:
            labels, starts[t] = _start(given[t], new, ids, labels, t)
            started.update(new)
        if not starts:
            yield np.zeros(image.shape[:2], np.uint8)
            continue
        memory[t] = Remembered(features, labels)
        _forget(memory, starts, t, cfg)
        found = np.array(ids, np.uint8)[resize_image(labels, image.shape[:2]).argmax(-1)]
        yield _keep_given(found, given[t], new) if new else found


def _check_size(mask, image, t):
    if mask.shape != image.shape[:2]:
        raise ValueError(
            f'frame {t}: its mask is {mask.shape[1]}x{mask.shape[0]}, the frame '
            f'{image.shape[1]}x{image.shape[0]}'
        )


def _with_features(network, cfg, frames):
    """(frame, its features float32 [h, w, C]), computed cfg.test_batch frames at a time."""
    pending = []
    for image in frames:
        pending.append(image)
        if len(pending) == cfg.test_batch:
            yield from zip(pending, network.features(np.stack(pending)))
            pending = []
    if pending:
        yield from zip(pending, network.features(np.stack(pending)))


def _labels(network, cfg, memory, starts, t, features):
    """Soft labels float32 [h, w, L] of frame t: of each start the labels that started there,
    summed; [h, w, 1] of zeros before any."""
    height, width = features.shape[:2]
    total = np.zeros((height, width, 1), np.float32)
    for start, its_labels in starts.items():
        context = [max(start, t - back) for back in cfg.context]
        others = np.stack([memory[number].features for number in context])
        weight, cell = network.vote(features, memory[start].features, others)
        labels = np.stack([memory[number].labels for number in [start, *context]])
        labels = labels.reshape(-1, labels.shape[-1])
        found = np.zeros((len(cell), labels.shape[1]), np.float32)
        for k in range(cell.shape[1]):  # a neighbor at a time: no [N, neighbors, L]
            found += weight[:, k, None] * labels[cell[:, k]]
        total = total + found.reshape(height, width, -1) * its_labels
    return total


def _start(mask, new, ids, labels, t):
    """(soft labels with the objects `new` of the mask of frame t, float32 [L]: 1 for those that
    start here)."""
    ones = np.stack([(mask == n) & (n in new) for n in ids], -1)
    small = resize_image(ones, labels.shape[:2])
    share = small.sum(-1, keepdims=True)
    shown = small > 0 if t == 0 else ones  # of the reduced mask in the first frame alone (PT)
    return (1 - share) * labels + share * small, shown.any((0, 1)).astype(np.float32)


def _forget(memory, starts, t, cfg):
    """Drops the frames that no later frame looks back to."""
    for number in [n for n in memory if t - n >= max(cfg.context) and n not in starts]:
        del memory[number]


def _keep_given(found, given, new):
    """Ids uint8 [H, W] with the new objects exactly as given."""
    found = np.where(np.isin(found, new), 0, found)
    return np.where(np.isin(given, new), given, found).astype(np.uint8)
