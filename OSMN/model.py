"""The OSMN networks: a visual and a spatial modulator that steer a segmentation network (OSMN
section 3).

The visual modulator makes one scale a channel from the masked object of the first frame, the
spatial one makes a shift a pixel from the heat map of the previous mask: x * scale + shift after
layers of the segmentation network, of which there are four (cfg.base_model). Upsampling and the
1x1 fusion are linear, so the fusion is applied before upsampling: the same logits, one channel.
"""

from __future__ import annotations

import numpy as np
import tensorflow.compat.v1 as tf

from . import backbone, npu
from .backbone import batch_norm, conv, scaled

SIDES = (2, 3, 4, 5)  # stages with a side branch (model_func.py)
PREP = 16  # channels of a side branch (model_func.py)
LITE = {3: 128, 5: 256, 11: 512, 13: 1024}  # modulated layers of MobileNet, their channels
RATES = (6, 12, 18, 24)  # dilations of DeepLab's four branches (model_func.py)


def network(features: dict, cfg, training: bool) -> dict:
    """Logits and probability of the object.

    Args:
      features: 'image' float32 [B or 1, H, W, 3], BGR, 0..255 minus mean; 'heat' float32 [B, H, W,
        1], 0..1 (dilated mask 0/255 with original_mask); 'guide' float32 [B, G, G, 3], the object
        of the first frame, 0 outside it, or instead 'scales' as returned. An image of batch 1 is
        shared by all heat maps: what is not modulated runs once.
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
    with tf.variable_scope('osmn', reuse=tf.AUTO_REUSE):
        segmenter = {'lite': _lite, 'osvos': _osvos, 'deeplab': _deeplab, 'masktrack': _deeplab}
        logits = segmenter[cfg.base_model](features, outputs.get('scales'), cfg, training)
    outputs['logits'] = logits
    with npu.keep_float32(cfg):
        outputs['probability'] = tf.sigmoid(logits)
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
    first = 1 if cfg.early_modulation else 3
    stages = backbone.STAGES[first - 1 :]
    return [scaled(channels, cfg) for channels, layers in stages for _ in range(layers)]


def _dropout(x, cfg, training):
    return tf.nn.dropout(x, rate=cfg.dropout) if training and cfg.dropout else x


def _spatial_modulator(heat, layers, pools, cfg, training):
    """[[float32 [B, h, w, C]]] the shifts of every layer of every stage.

    Args:
      layers: {name: (channels, layers)} of the stages. pools: for each stage, (side, padding) of
      the average pools before it.
    """
    training, x, maps = training and not cfg.fix_bn, heat, []
    for (name, (channels, count)), steps in zip(layers.items(), pools):
        for side, padding in steps:
            x = tf.nn.avg_pool2d(x, side, side, padding)  # SAME leaves the padding out of the mean
        with tf.variable_scope(f'modulator_sp/{name}'):
            maps.append(_shifts(x, channels, count, cfg, training))
    return maps


def _shifts(x, channels, count, cfg, training):
    """ReLU of the normalised 1x1 convolution, cut by layer.

    Otherwise than while training, what has one value a channel is cut: cutting the maps would take
    longer than making them.
    """
    start = tf.truncated_normal_initializer(stddev=cfg.init_std)
    weights = tf.get_variable('weights', [1, 1, 1, channels * count], tf.float32, start)
    if training:
        y = batch_norm(tf.nn.conv2d(x, weights, 1, 'SAME'), True, cfg.bn_decay, cfg)
        return tf.split(tf.nn.relu(y), count, 3)
    with npu.keep_float32(cfg):
        factor, offset = backbone.folded_norm(channels * count)
        pairs = zip(tf.split(weights[0, 0, 0] * factor, count), tf.split(offset, count))
        return [tf.nn.relu(x * f + o) for f, o in pairs]


def _modulation(heat, scales, cfg, training):
    """The function that backbone.vgg16 calls after every layer; maps of stage 5 of DeepLab come
    from stride 8."""
    first = 1 if cfg.early_modulation else 3
    stages = [(k, scaled(c, cfg), n) for k, (c, n) in enumerate(backbone.STAGES, 1) if k >= first]
    shifts = {}
    if cfg.spatial_modulator and cfg.base_model != 'masktrack':
        pools = [[(2, 'SAME')]] * len(stages)
        pools[0] = [] if first == 1 else [(2, 'SAME')] * 2
        if cfg.base_model == 'deeplab':
            pools[-1] = []
        layers = {f'conv{k}': (c, n) for k, c, n in stages}
        maps = _spatial_modulator(heat, layers, pools, cfg, training)
        shifts = dict(zip((k for k, _, _ in stages), maps))
    starts, total = {}, 0
    for k, c, n in stages:
        for layer in range(1, n + 1):
            starts[k, layer], total = total, total + c

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


def _osvos(features, scales, cfg, training):
    """VGG-16 with four side branches (the network of OSVOS)."""
    modulate = _modulation(features['heat'], scales, cfg, training)
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


def _deeplab(features, scales, cfg, training):
    """VGG-16 with dilations and four branches (DeepLab-v2); for MaskTrack the mask is an input
    channel."""
    track = cfg.base_model == 'masktrack'
    modulate = _modulation(features['heat'], scales, cfg, training)
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
                y = conv(
                    y,
                    scaled(1024, cfg),
                    side,
                    f'{name}_{i}',
                    cfg,
                    None,
                    rate=rate if side == 3 else 1,
                )
                y = _dropout(tf.nn.relu(y), cfg, training)
            name = f'fc8_{i}' if track else f'fc8_voc12_{i}'
            score = score + conv(y, 1, 1, name, cfg, cfg.init_std)
    return upsample(score, 8, size, cfg)


def _with_mask(image, heat, cfg):
    """Heat map and picture as four channels, float32 [B, H, W, 4], centred in zeros of
    aligned_size."""
    batch = heat.shape.as_list()[0]
    image = image if image.shape.as_list()[0] == batch else tf.tile(image, [batch, 1, 1, 1])
    both = tf.concat([heat, image], 3)
    if not cfg.aligned_size:
        return both
    missing = [a - n for a, n in zip(cfg.aligned_size, both.shape.as_list()[1:3])]
    if min(missing) < 0:
        raise ValueError(f'aligned_size={cfg.aligned_size} is smaller than the picture')
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


def _lite(features, scales, cfg, training):
    """MobileNet-v1 with four side branches; H and W multiples of 32."""
    image, heat = features['image'], features['heat']
    size = image.shape.as_list()[1:3]
    if any(n % 32 for n in size):
        raise ValueError(f'lite takes sizes that are multiples of 32, not {size}')
    counts = [scaled(c, cfg) for c in LITE.values()]
    starts = np.cumsum([0] + counts)
    shifts = None
    if cfg.spatial_modulator:
        pools = [[(4, 'VALID')]] + [[(2, 'SAME')]] * 3
        layers = {f'conv{layer}': (c, 1) for layer, c in zip(LITE, counts)}
        shifts = _spatial_modulator(heat, layers, pools, cfg, training)

    def modulate(layer, x):
        if layer in LITE:
            i = list(LITE).index(layer)
            x = x if scales is None else x * scales[:, None, None, starts[i] : starts[i + 1]]
            x = x if shifts is None else x + shifts[i][0]
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
      x: float32 [B, h, w, 1]. stride: 2, 4, 8 or 16. size: [H, W] of the input.

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
