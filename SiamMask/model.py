"""The network of SiamMask: siamese features, three depth-wise correlations (class, box, mask) and
the refine module (SiamMask sections 3.1 - 3.3; models/ and experiments/ of the official code).

Training takes template and search image together (`network`); tracking takes the template once
(`template_kernels`) and then one search image a frame (`track`), which also decodes the boxes and
picks the best, so that a frame is one call.
"""

from __future__ import annotations

from common.lazy import np, tf

from .backbone import batch_norm, conv, resnet, scaled

TEMPLATE, SEARCH = 127, 255  # px (section 4.1)
STRIDE, SCORE = 8, 25  # px a cell, cells a side of the search image's score map
ANCHORS = ((104, 32), (88, 40), (64, 64), (40, 80), (32, 96))  # w, h px
# of ratios 0.33, 0.5, 1, 2, 3 and scale 8, whole numbers (PT utils/anchors.py)
MASK, PATCH = 63, 127  # px, sides of the base mask and of the refined one
NECK = 256  # channels (PT custom.py)
BRANCHES = {'cls': 10, 'loc': 20, 'mask': MASK * MASK}  # output channels


def network(features: dict, cfg, training: bool) -> dict:
    """Scores, boxes and masks of pairs.

    Args:
      features: `template` float32 [B, 127, 127, 3], `search` float32 [B, S, S, 3] (S = 255, or 143
        of sharp), BGR, 0..255; `cell` int32 [B, K], cells (row * N + column) whose mask is wanted.
      cfg: uses variant, scratch, channels, blocks, norm_start, device.
      training: batch norm of what trains by the batch's statistics.

    Returns:
      cls float32 [B, N, N, 10] (channel = class * 5 + anchor), loc [B, N, N, 20] (coordinate * 5 +
      anchor), mask [B, K, M, M] logits, M = 63, or 127 of sharp.
    """
    first = training and cfg.variant == 'base'
    with tf.variable_scope('siammask', reuse=tf.AUTO_REUSE):
        template, _ = extract(features['template'], cfg, first and cfg.scratch, first)
        search, maps = extract(features['search'], cfg, first and cfg.scratch, first)
        outputs, correlations = {}, {}
        for name in BRANCHES:
            train = first or (training and name == 'mask')
            kernel = branch_input(template, name, 'kernel', cfg, train)
            correlations[name] = correlate(
                branch_input(search, name, 'search', cfg, train), kernel, cfg
            )
            hidden = head_hidden(correlations[name], name, cfg, first)
            if name == 'mask' and cfg.variant == 'base':
                outputs[name] = base_masks(cells(hidden, features['cell']), cfg)
            else:
                outputs[name] = head_output(hidden, name, cfg)
        if cfg.variant == 'sharp':
            outputs['mask'] = refine_all(correlations['mask'], maps, features['cell'], cfg)
    return outputs


def extract(image, cfg, train_backbone: bool = False, train_neck: bool = False):
    """(float32 [B, n, n, 256], [p0, p1, p2]): n = 7 of the template, 31 of 255, 9 of 143 px."""
    with tf.variable_scope('features'):
        maps = resnet(image, cfg, train_backbone)
    with tf.variable_scope('neck'):
        x = conv(maps[-1], scaled(NECK, cfg), 1, 'conv', cfg)
        x = batch_norm(x, 'bn', train_neck, cfg, cfg.norm_start)
    return (x[:, 4:-4, 4:-4] if x.shape.as_list()[1] < 20 else x), maps[:3]


def branch_input(x, name: str, side: str, cfg, training: bool = False) -> tf.Tensor:
    """The branch's own 3x3 layer on template ('kernel', 7 -> 5) or search ('search', 31 -> 29)."""
    with tf.variable_scope(f'{name}/{side}'):
        x = conv(x, scaled(NECK, cfg), 3, 'conv', cfg, padding='VALID')
        return tf.nn.relu(batch_norm(x, 'bn', training, cfg, cfg.norm_start))


def correlate(search: tf.Tensor, kernel: tf.Tensor, cfg) -> tf.Tensor:
    """Each channel of float32 [B, n, n, C] correlated with that of [B, k, k, C], VALID, not
    flipped: [B, n - k + 1, n - k + 1, C].

    On CPU an example at a time, which is twice the speed forward and eight times backward; on the
    NPU as a sum of shifted products, static and without filters of a batch.
    """
    batch, side = kernel.shape.as_list()[:2]
    size = search.shape.as_list()[1] - side + 1
    if cfg.get('device', 'cpu') == 'cpu':
        parts = [
            tf.nn.depthwise_conv2d(search[b : b + 1], kernel[b, ..., None], [1, 1, 1, 1], 'VALID')
            for b in range(batch)
        ]
        return tf.concat(parts, 0)
    return tf.add_n(
        [
            search[:, i : i + size, j : j + size] * kernel[:, i : i + 1, j : j + 1]
            for i in range(side)
            for j in range(side)
        ]
    )


def head_hidden(x, name: str, cfg, training: bool = False) -> tf.Tensor:
    """First layer of a branch's head, float32 [B, N, N, 256]."""
    with tf.variable_scope(f'{name}/head'):
        x = conv(x, scaled(NECK, cfg), 1, 'conv', cfg)
        return tf.nn.relu(batch_norm(x, 'bn', training, cfg, cfg.norm_start))


def head_output(x, name: str, cfg) -> tf.Tensor:
    """Last layer of a branch's head, a 1x1 convolution: any cells [B, n, m, 256] -> BRANCHES."""
    with tf.variable_scope(f'{name}/head'):
        return conv(x, BRANCHES[name], 1, 'out', cfg, bias=True)


def base_masks(hidden: tf.Tensor, cfg) -> tf.Tensor:
    """Logits [B, K, 63, 63] of cells [B, K, C]: only the wanted cells go through 3,969 channels."""
    batch, count = hidden.shape.as_list()[:2]
    return tf.reshape(head_output(hidden[:, :, None], 'mask', cfg), [batch, count, MASK, MASK])


def cells(x: tf.Tensor, cell: tf.Tensor) -> tf.Tensor:
    """float32 [B, K, C], the cells `cell` int32 [B, K] of [B, N, N, C]."""
    batch, side, _, channels = x.shape.as_list()
    first = tf.range(batch, dtype=tf.int32)[:, None] * (side * side)
    return tf.gather(tf.reshape(x, [-1, channels]), cell + first)


def refine_all(correlation, maps, cell, cfg) -> tf.Tensor:
    """Training form of the refine module, for a 143 px search image whose cells are few:
    logits [B, K, 127, 127] of cells 0 .. K - 1, which `cell` must be."""
    side, count = correlation.shape.as_list()[1], cell.shape.as_list()[1]
    if count != side * side:
        raise ValueError(
            f'sharp trains on search_size=143, 9 cells, not {side * side} with {count} masks'
        )
    positions = [(i, j) for i in range(side) for j in range(side)]
    windows = [
        tf.concat([_window(p, i, j, step, size) for i, j in positions], 0)
        for p, step, size, _ in _levels(maps)
    ]
    inputs = tf.concat([correlation[:, i : i + 1, j : j + 1] for i, j in positions], 0)
    masks = tf.reshape(refine(inputs, windows, cfg), [count, -1, PATCH, PATCH])
    return tf.transpose(masks, [1, 0, 2, 3])


def _levels(maps):
    """(map, step a cell, side of the window, padding of a 255 px search image)."""
    return [(p, 4 // 2**k, side, 16 // 2**k) for k, (p, side) in enumerate(zip(maps, (61, 31, 15)))]


def _window(p, i, j, step, size):
    return p[:, step * i : step * i + size, step * j : step * j + size]


def refine_best(correlation, maps, cell, cfg) -> tf.Tensor:
    """Logits [N, 127, 127] of one cell int32 [N] of each search image of 255 px."""
    row, column = cell // SCORE, cell % SCORE
    windows = []
    for p, step, size, padding in _levels(maps):
        p = tf.pad(p, [[0, 0], [padding] * 2, [padding] * 2, [0, 0]])
        parts = []
        for n in range(p.shape.as_list()[0]):
            band = tf.gather(p[n], step * row[n] + np.arange(size))
            parts.append(tf.gather(band, step * column[n] + np.arange(size), axis=1))
        windows.append(tf.stack(parts))
    inputs = cells(correlation, cell[:, None])[:, :, None]
    return refine(inputs, windows, cfg)[..., 0]


def refine(x: tf.Tensor, windows: list, cfg) -> tf.Tensor:
    """The refine module (section 3.3): [M, 1, 1, 256] and windows of p0 [M, 61, 61, 64], p1 [M, 31,
    31, 256], p2 [M, 15, 15, 512] -> logits [M, 127, 127, 1]."""
    with tf.variable_scope('refine'):
        x = _unfold(x, scaled(32, cfg))
        levels = ((2, 128, 32, 31, 16), (1, 64, 16, 61, 4), (0, 16, 4, 127, 1))
        for k, (level, wide, narrow, size, outputs) in enumerate(levels):
            narrow = scaled(narrow, cfg)
            merged = _twice(x, narrow, narrow, f'h{level}', cfg)
            merged += _twice(windows[level], scaled(wide, cfg), narrow, f'v{level}', cfg)
            merged = _resize_nearest(merged, size, cfg)
            outputs = scaled(outputs, cfg) if outputs > 1 else 1
            x = conv(merged, outputs, 3, f'post{k}', cfg, bias=True, gain=np.sqrt(3))
    return x


def _resize_nearest(x, size, cfg):
    """[M, h, h, C] -> [M, size, size, C]."""
    if cfg.get('device') != 'onnx':
        return tf.image.resize_nearest_neighbor(x, [size, size])
    # ONNX is given the factor, rounded, by which 127 of 61 cells would be 126.
    cells = np.arange(size) * x.shape.as_list()[1] // size
    return tf.gather(tf.gather(x, cells, axis=1), cells, axis=2)


def _unfold(x, channels):
    """Transposed convolution 15x15 of one cell, a matrix product: [M, 1, 1, C] -> [M, 15, 15,
    channels]."""
    inputs = x.shape.as_list()[-1]
    bound = 1 / np.sqrt(inputs * 225)  # PyTorch 0.4
    start = tf.random_uniform_initializer(-bound, bound)
    with tf.variable_scope('deconv'):
        weights = tf.get_variable('weights', [inputs, 225 * channels], tf.float32, start)
        biases = tf.get_variable('biases', [channels], tf.float32, start)
    y = tf.matmul(tf.reshape(x, [-1, inputs]), weights)
    return tf.reshape(y, [-1, 15, 15, channels]) + biases


def _twice(x, first, second, name, cfg):
    with tf.variable_scope(name):
        for layer, channels in ((0, first), (2, second)):  # names of nn.Sequential
            x = tf.nn.relu(conv(x, channels, 3, str(layer), cfg, bias=True, gain=np.sqrt(3)))
    return x


def template_kernels(template: tf.Tensor, cfg) -> dict:
    """{branch: float32 [N, 5, 5, 256]} of template images [N, 127, 127, 3]."""
    with tf.variable_scope('siammask', reuse=tf.AUTO_REUSE):
        x, _ = extract(template, cfg)
        return {name: branch_input(x, name, 'kernel', cfg) for name in BRANCHES}


def track(search: tf.Tensor, kernels: dict, size: tf.Tensor, hyper: tf.Tensor, cfg) -> dict:
    """One frame's answer for N objects.

    Args:
      search: float32 [N, 255, 255, 3], BGR, 0..255. kernels: of template_kernels().
      size: float32 [N, 2], the target's width and height in px of the search image.
      hyper: float32 [2]: penalty_k, window_influence.

    Returns:
      cls, loc: as network(). best int32 [N]: anchor * 625 + row * 25 + column. score, penalty
      float32 [N]. box float32 [N, 4]: x, y from the image's center, width, height, px. mask
      float32 [N, M, M], probabilities.
    """
    with tf.variable_scope('siammask', reuse=tf.AUTO_REUSE):
        x, maps = extract(search, cfg)
        correlations = {
            name: correlate(branch_input(x, name, 'search', cfg), kernels[name], cfg)
            for name in BRANCHES
        }
        hidden = {name: head_hidden(correlations[name], name, cfg) for name in BRANCHES}
        outputs = {name: head_output(hidden[name], name, cfg) for name in ('cls', 'loc')}
        outputs.update(choose(outputs['cls'], outputs['loc'], size, hyper))
        cell = outputs['best'] % (SCORE * SCORE)
        if cfg.variant == 'sharp':
            masks = refine_best(correlations['mask'], maps, cell, cfg)
        else:
            masks = base_masks(cells(hidden['mask'], cell[:, None]), cfg)[:, 0]
    outputs['mask'] = tf.sigmoid(masks)
    return outputs


def choose(cls: tf.Tensor, loc: tf.Tensor, size: tf.Tensor, hyper: tf.Tensor) -> dict:
    """best, score, penalty and box of track(), from cls and loc (tools/test.py siamese_track)."""
    batch = cls.shape.as_list()[0]
    score = tf.nn.softmax(tf.reshape(cls, [batch, SCORE * SCORE, 2, 5]), 2)[:, :, 1]
    score = tf.reshape(tf.transpose(score, [0, 2, 1]), [batch, -1])
    moves = tf.transpose(tf.reshape(loc, [batch, SCORE * SCORE, 4, 5]), [2, 0, 3, 1])
    moves = tf.unstack(tf.reshape(moves, [4, batch, -1]))
    x, y, width, height = anchor_grid()
    x, y = moves[0] * width + x, moves[1] * height + y
    width, height = tf.exp(moves[2]) * width, tf.exp(moves[3]) * height
    aspect = _change((size[:, :1] / size[:, 1:]) / (width / height))
    growth = _change(_context(width, height) / _context(size[:, :1], size[:, 1:]))
    penalty = tf.exp(-(aspect * growth - 1) * hyper[0])
    window = np.outer(np.hanning(SCORE), np.hanning(SCORE)).ravel()
    window = np.tile(window, len(ANCHORS)).astype(np.float32)
    ranked = penalty * score * (1 - hyper[1]) + window * hyper[1]
    best = tf.argmax(ranked, 1, output_type=tf.int32)
    chosen = tf.range(batch, dtype=tf.int32) * ranked.shape.as_list()[1] + best

    def pick(values):
        return tf.gather(tf.reshape(values, [-1]), chosen)

    box = tf.stack([pick(t) for t in (x, y, width, height)], 1)
    return {'best': best, 'score': pick(score), 'penalty': pick(penalty), 'box': box}


def anchor_grid() -> list[np.ndarray]:
    """x, y (of the center, from the image's), width, height: float32 [5 * 625], anchor-major."""
    offset = (np.arange(SCORE) - SCORE // 2).astype(np.float32) * STRIDE
    y, x = (np.tile(v.ravel(), len(ANCHORS)) for v in np.meshgrid(offset, offset, indexing='ij'))
    return [x, y, *np.repeat(np.array(ANCHORS, np.float32).T, SCORE * SCORE, 1)]


def _change(ratio):
    return tf.maximum(ratio, 1 / ratio)


def _context(width, height):
    pad = (width + height) * 0.5
    return tf.sqrt((width + pad) * (height + pad))
