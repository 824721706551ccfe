"""The OSMN networks: a visual and a spatial modulator that steer a segmentation network (OSMN
section 3).

The visual modulator makes one scale a channel from the masked object of the first frame, the
spatial one makes a shift a pixel from the heat map of the previous mask: x * scale + shift after
layers of the segmentation network, of which there are four (cfg.base_model). Upsampling and the
1x1 fusion are linear, so the fusion is applied before upsampling: the same logits, one channel.
"""

from __future__ import annotations

from typing import NamedTuple

from common.lazy import np, tf

from . import backbone, npu
from .backbone import conv, scaled

SIDES = (2, 3, 4, 5)  # stages with a side branch (model_func.py)
PREP = 16  # channels of a side branch (model_func.py)
LITE = {3: 128, 5: 256, 11: 512, 13: 1024}  # modulated layers of MobileNet, their channels
RATES = (6, 12, 18, 24)  # dilations of DeepLab's four branches (model_func.py)


def network(features: dict, cfg, training: bool) -> dict:
    """Logits and probability of the object.

    Args:
      features: 'image' float32 [B or 1, H, W, 3], BGR, 0..255 minus mean; 'heat' float32 [B, H, W,
        1], 0..1 (dilated mask 0/255 with original_mask); 'guide' float32 [B, G, G, 3], the object
        of the first frame, 0 outside it, or instead 'scales' as returned; 'shifts' of
        spatial_modulator() where they are made already. An image of batch 1 is shared by all heat
        maps: what is not modulated runs once.
      cfg: uses the settings of the network, test or training size aside.
      training: dropout, and batch statistics unless cfg.fix_bn.

    Returns:
      'logits', 'probability': float32 [B, H, W, 1]; 'scales': float32 [B, K] (absent without the
      visual modulator).
    """
    outputs = {}
    if cfg.visual_modulator:
        outputs['scales'] = features.get('scales')
        if outputs['scales'] is None:
            outputs['scales'] = visual_modulator(features['guide'], cfg, training)
    shifts = features.get('shifts')
    if shifts is None:
        shifts = spatial_modulator([features['heat']], cfg, training)[0]
    segmenter = {'lite': _lite, 'osvos': _osvos, 'deeplab': _deeplab, 'masktrack': _deeplab}
    with tf.variable_scope('osmn', reuse=tf.AUTO_REUSE):
        run = segmenter[cfg.base_model]
        outputs['logits'] = run(features, outputs.get('scales'), shifts, cfg, training)
    with npu.keep_float32(cfg):
        outputs['probability'] = tf.sigmoid(outputs['logits'])
    return outputs


def batch_network(features: dict, cfg) -> dict:
    """The networks of the parts of a training batch, as of one batch: guides go through the visual
    modulator together, batch statistics are those of all parts.

    Args:
      features: 'guide_k', 'heat_k', 'image_k' of every part k, as data.input_fn() gives them.
      cfg: of network().

    Returns:
      'logits_k' float32 [b, h, w, 1] of every part.
    """
    parts = range(sum(key.startswith('image_') for key in features))
    heats = [features[f'heat_{k}'] for k in parts]
    shifts = spatial_modulator(heats, cfg, True)
    scales = [None] * len(heats)
    if cfg.visual_modulator:
        counts = [heat.shape.as_list()[0] for heat in heats]
        guides = tf.concat([features[f'guide_{k}'] for k in parts], 0)
        scales = tf.split(visual_modulator(guides, cfg, True), counts)
    outputs = {}
    for k in parts:
        part = {'image': features[f'image_{k}'], 'heat': heats[k]}
        part.update(scales=scales[k], shifts=shifts[k])
        outputs[f'logits_{k}'] = network(part, cfg, True)['logits']
    return outputs


def visual_modulator(guide: tf.Tensor, cfg, training: bool) -> tf.Tensor:
    """Scales float32 [B, K] of the modulated layers, from the guide float32 [B, G, G, 3]."""
    with tf.variable_scope('osmn', reuse=tf.AUTO_REUSE):
        if cfg.base_model == 'lite':
            return _visual_lite(guide, cfg, training)
        with tf.variable_scope('modulator'):
            top = backbone.vgg16(guide, cfg)[-1]
            x = tf.nn.max_pool2d(top, 2, 2, 'SAME', name='pool5')
            side = x.shape.as_list()[1]  # 7 of a guide of 224
            for name, size in (('fc6', side), ('fc7', 1)):
                x = tf.nn.relu(conv(x, scaled(4096, cfg), size, name, cfg, None, padding='VALID'))
                x = _dropout(x, cfg, training)
            with npu.keep_float32(cfg):
                x = conv(x, sum(_layers(cfg)), 1, 'fc8', cfg, 0.0, bias=1.0)  # all scales start 1
            return tf.squeeze(x, [1, 2])


def _layers(cfg):
    """Channels of every modulated layer of VGG, in order."""
    return [stage.channels for stage in _vgg_stages(cfg) for _ in range(stage.layers)]


def _dropout(x, cfg, training):
    return tf.nn.dropout(x, rate=cfg.dropout) if training and cfg.dropout else x


def spatial_modulator(heats: list, cfg, training: bool) -> list[dict]:
    """The shifts of the modulated layers, of heat maps of several sizes.

    Args:
      heats: float32 [B, H, W, 1].
      cfg: of network().
      training: batch statistics, those of all heat maps together, unless cfg.fix_bn.

    Returns:
      Of each heat map {stage, or layer of MobileNet: [float32 [B, h, w, C]], one a layer}; empty
      without a spatial modulator.
    """
    if not cfg.spatial_modulator or cfg.base_model == 'masktrack':
        return [{} for _ in heats]
    stages = _lite_stages(cfg) if cfg.base_model == 'lite' else _vgg_stages(cfg)
    training, maps, shifts = training and not cfg.fix_bn, list(heats), [{} for _ in heats]
    with tf.variable_scope('osmn', reuse=tf.AUTO_REUSE):
        for stage in stages:
            for side, padding in stage.pools:
                # SAME leaves the padding out of the mean
                maps = [tf.nn.avg_pool2d(m, side, side, padding) for m in maps]
            with tf.variable_scope(f'modulator_sp/conv{stage.number}'):
                found = _shifts(maps, stage.channels, stage.layers, cfg, training)
            for own, cut in zip(shifts, found):
                own[stage.number] = cut
    return shifts


class Stage(NamedTuple):
    """A stage of the backbone whose layers are modulated."""

    number: int  # of the stage of VGG, of the layer of MobileNet
    channels: int
    layers: int
    pools: list  # (side, padding) of the average pools between the stage before and this one


def _vgg_stages(cfg):
    first = 1 if cfg.early_modulation else 3
    stages = []
    for number, (channels, layers) in enumerate(backbone.STAGES, 1):
        if number < first:
            continue
        pools = [(2, 'SAME')]
        if number == first:
            pools = pools * (first - 1)
        elif number == 5 and cfg.base_model == 'deeplab':
            pools = []  # its stage 5 has stride 8
        stages.append(Stage(number, scaled(channels, cfg), layers, pools))
    return stages


def _lite_stages(cfg):
    stages = []
    for layer, channels in LITE.items():
        pools = [(2, 'SAME')] if stages else [(4, 'VALID')]
        stages.append(Stage(layer, scaled(channels, cfg), 1, pools))
    return stages


def _shifts(maps, channels, layers, cfg, training):
    """ReLU of the normalised 1x1 convolution of each map, cut by layer.

    The normalised convolution is m * factor + offset with one value a channel: these are cut, not
    the maps, which would take a copy of each.
    """
    weights = tf.get_variable(
        'weights',
        [1, 1, 1, channels * layers],
        tf.float32,
        tf.truncated_normal_initializer(stddev=cfg.init_std),
    )
    with npu.keep_float32(cfg):
        if training:
            factor, offset = backbone.batch_norm_of_line(maps, weights[0, 0, 0], cfg.bn_decay)
        else:
            factor, offset = backbone.folded_norm(channels * layers)
            factor = weights[0, 0, 0] * factor
        pairs = list(zip(tf.split(factor, layers), tf.split(offset, layers)))
        return [[tf.nn.relu(m * f + o) for f, o in pairs] for m in maps]


def _modulation(scales, shifts, cfg):
    """The function that backbone.vgg16 calls after every layer.

    Args:
      scales: float32 [B, K], or None.
      shifts: of spatial_modulator().
    """
    starts, total = {}, 0
    for stage in _vgg_stages(cfg):
        for layer in range(1, stage.layers + 1):
            starts[stage.number, layer] = total
            total += stage.channels

    def modulate(stage, layer, x):
        if (stage, layer) not in starts:
            return x
        count, start = x.shape.as_list()[-1], starts[stage, layer]
        if scales is not None:
            x = x * scales[:, None, None, start : start + count]
        if stage in shifts:
            x = x + shifts[stage][layer - 1]
        return x

    return modulate


def _osvos(features, scales, shifts, cfg, training):
    """VGG-16 with four side branches (the network of OSVOS)."""
    del training
    modulate = _modulation(scales, shifts, cfg)
    image = features['image']
    size = image.shape.as_list()[1:3]
    with tf.variable_scope('seg'):
        maps = backbone.vgg16(image, cfg, modulate)
        names = [f'conv{k}_{2 if k == 2 else 3}_16' for k in SIDES]
        preps = [
            conv(maps[k - 1], PREP, 3, name, cfg, cfg.init_std) for k, name in zip(SIDES, names)
        ]
        parts, total = _fusion(preps, 'upscore-fuse', cfg)
        for k, part in zip(SIDES, parts):
            total = total + upsample(part, 2 ** (k - 1), size, cfg)
    return total


def _fusion(preps, name, cfg):
    """(the maps [B, h, w, 1] whose upsampled sum is the 1x1 fusion of the upsampled maps, bias)."""
    with tf.variable_scope(name):
        weights = tf.get_variable(
            'weights',
            [1, 1, PREP * len(preps), 1],
            tf.float32,
            tf.truncated_normal_initializer(stddev=cfg.init_std),
        )
        biases = tf.get_variable('biases', [1], tf.float32, tf.zeros_initializer())
    parts = [
        tf.nn.conv2d(prep, weights[:, :, PREP * i : PREP * (i + 1)], 1, 'VALID')
        for i, prep in enumerate(preps)
    ]
    return parts, biases


def _deeplab(features, scales, shifts, cfg, training):
    """VGG-16 with dilations and four branches (DeepLab-v2); for MaskTrack the mask is an input
    channel."""
    track = cfg.base_model == 'masktrack'
    modulate = _modulation(scales, shifts, cfg)
    image = features['image']
    size = image.shape.as_list()[1:3]
    with tf.variable_scope('seg'):
        if track:
            image = _with_mask(image, features['heat'], cfg)
        x = backbone.vgg16(image, cfg, modulate, pool=3 if track else 2, dilated=True)[-1]
        x = tf.nn.max_pool2d(x, 3, 1, 'SAME', name='pool5')
        score = 0.0
        for i, rate in enumerate(RATES, 1):
            y = x
            for name, side in (('fc6', 3), ('fc7', 1)):
                dilation = rate if side == 3 else 1
                y = conv(y, scaled(1024, cfg), side, f'{name}_{i}', cfg, None, rate=dilation)
                y = _dropout(tf.nn.relu(y), cfg, training)
            name = f'fc8_{i}' if track else f'fc8_voc12_{i}'
            score = score + conv(y, 1, 1, name, cfg, cfg.init_std)
    return upsample(score, 8, size, cfg)


def _with_mask(image, heat, cfg):
    """Heat map and image as four channels, float32 [B, H, W, 4], centered in zeros of
    aligned_size."""
    batch = heat.shape.as_list()[0]
    image = image if image.shape.as_list()[0] == batch else tf.tile(image, [batch, 1, 1, 1])
    both = tf.concat([heat, image], 3)
    if not cfg.aligned_size:
        return both
    missing = [a - n for a, n in zip(cfg.aligned_size, both.shape.as_list()[1:3])]
    if min(missing) < 0:
        raise ValueError(f'aligned_size={cfg.aligned_size} is smaller than the image')
    borders = [[m // 2, m - m // 2] for m in missing]
    return tf.pad(both, [[0, 0]] + borders + [[0, 0]])


def _visual_lite(guide, cfg, training):
    with tf.variable_scope('modulator'):
        top = backbone.mobilenet(guide, cfg, training)[13]
        x = tf.reduce_mean(top, [1, 2], keepdims=True)  # 7x7 of a guide of 224
        with tf.variable_scope('Logits'):
            x = tf.nn.relu(conv(x, scaled(2048, cfg), 1, 'Conv2d_1c_1x1', cfg, 0.0, bias=1.0))
    with npu.keep_float32(cfg):
        heads = [
            conv(x, scaled(c, cfg), 1, f'Conv2d_out_{i}', cfg, 0.0, bias=1.0)
            for i, c in enumerate(LITE.values(), 1)
        ]
        return tf.squeeze(tf.concat(heads, 3), [1, 2])


def _lite(features, scales, shifts, cfg, training):
    """MobileNet-v1 with four side branches; H and W multiples of 32."""
    image = features['image']
    size = image.shape.as_list()[1:3]
    if any(n % 32 for n in size):
        raise ValueError(f'lite takes sizes that are multiples of 32, not {size}')
    counts = [scaled(c, cfg) for c in LITE.values()]
    starts = np.cumsum([0] + counts)

    def modulate(layer, x):
        if layer in LITE:
            i = list(LITE).index(layer)
            x = x if scales is None else x * scales[:, None, None, starts[i] : starts[i + 1]]
            x = x + shifts[layer][0] if layer in shifts else x
        return x

    with tf.variable_scope('seg'):
        maps = backbone.mobilenet(image, cfg, training, modulate)
    preps = [conv(maps[layer], PREP, 3, f'conv{layer}_16', cfg, 0.09) for layer in LITE]
    parts, total = _fusion(preps, 'score', cfg)
    with npu.keep_float32(cfg):
        half = [n // 2 for n in size]
        total = total + tf.add_n([tf.image.resize_bilinear(part, half) for part in parts])
        return tf.image.resize_bilinear(total, size)


def upsample(x: tf.Tensor, stride: int, size: list[int], cfg) -> tf.Tensor:
    """The fixed bilinear transposed convolution and the crop to the input's size.

    Args:
      x: float32 [B, h, w, 1].
      stride: 2, 4, 8 or 16.
      size: [H, W] of the input.
      cfg: uses crop.

    Returns:
      float32 [B, H, W, 1].
    """
    with npu.keep_float32(cfg):
        rows, columns = (
            bilinear_matrix(n, full, stride, cfg.crop)
            for n, full in zip(x.shape.as_list()[1:3], size)
        )
        y = tf.tensordot(x[..., 0], tf.constant(columns.T), 1)  # [B, h, W]
        y = tf.tensordot(tf.constant(rows), y, [[1], [1]])  # [H, B, W]
        return tf.transpose(y, [1, 0, 2])[..., None]


def bilinear_matrix(cells: int, size: int, stride: int, crop: str = 'center') -> np.ndarray:
    """Transposed convolution by 2 * stride and crop of one axis as a matrix: float32 [size, cells].

    'center' crops as the published networks do, which drifts up to 5 px where the size is no
    multiple of the stride; 'aligned' keeps every cell over its pixels.
    """
    if crop not in ('center', 'aligned'):
        raise ValueError(f"crop is 'center' or 'aligned', not {crop!r}")
    start = ((cells + 1) * stride - size) // 2 if crop == 'center' else stride // 2
    weights = 1 - np.abs(np.arange(2 * stride) - (stride - 0.5)) / stride
    offset = np.arange(size)[:, None] + start - stride * np.arange(cells)[None]  # in the kernel
    inside = (offset >= 0) & (offset < 2 * stride)
    return np.where(inside, weights[np.clip(offset, 0, 2 * stride - 1)], 0).astype(np.float32)
