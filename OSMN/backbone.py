"""VGG-16 with a modulation after every layer, and MobileNet-v1 (Simonyan and Zisserman 2015; Howard
et al. 2017).

Variable names are those of the official code, which are slim's, below the scope that the caller
opens: published checkpoints map to them.
"""

from __future__ import annotations

from common.lazy import np, tf

from . import npu

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, layers (VGG-16, column D)
MOBILE = (64, 128, 128, 256, 256) + (512,) * 6 + (1024, 1024)  # of the separable layers 1 .. 13
MOBILE_STRIDED = (2, 4, 6, 12)  # separable layers of stride 2 (MobileNet-v1 table 1)
BN_EPSILON = 1e-3  # model_func.py, mobilenet_v1.py
PIXEL_STD = 57.4  # grey levels, of ImageNet; divides the first layer's scratch init
STATISTICS = 'batch_norm_statistics'  # collection: (moving variable, value of this batch, decay)
STRIP = 8  # rows of a strip in the filter gradient: fastest of 4..32 measured on AVX-512 CPUs


def vgg16(image: tf.Tensor, cfg, modulate=None, pool: int = 2, dilated: bool = False):
    """The last map of each of the five stages.

    Args:
      image: float32 [B, H, W, C], BGR, 0..255 minus mean.
      cfg: uses channels and device.
      modulate: function (stage, layer, float32 [B, h, w, C] after its ReLU) -> the same shape.
      pool: side of the max pools, 2 or 3, SAME.
      dilated: the fourth pool has stride 1 and stage 5 dilation 2 (DeepLab).

    Returns:
      Five float32 [B, ceil(H/s), ceil(W/s), C], strides s = 1, 2, 4, 8, 16 (8 where dilated).
    """
    x, maps = image, []
    for stage, (channels, layers) in enumerate(STAGES, 1):
        last = dilated and stage == 5
        if stage > 1:  # SAME pools round odd sizes up, as the published networks do
            x = tf.nn.max_pool2d(x, pool, 1 if last else 2, 'SAME', name=f'pool{stage - 1}')
        for layer in range(1, layers + 1):
            name = f'conv{stage}/conv{stage}_{layer}'
            x = conv(x, scaled(channels, cfg), 3, name, cfg, None, rate=2 if last else 1)
            x = tf.nn.relu(x)
            if modulate is not None:
                x = modulate(stage, layer, x)
        maps.append(x)
    return maps


def scaled(channels: int, cfg) -> int:
    """Channels of a layer under the width factor cfg.channels, at least 4."""
    return max(4, int(round(channels * cfg.channels)))


def conv(
    x,
    channels: int,
    size: int,
    name: str,
    cfg,
    init,
    bias: float = 0.0,
    rate: int = 1,
    padding: str = 'SAME',
) -> tf.Tensor:
    """Convolution with bias, stride 1: float32 [B, h, w, C] -> [B, h, w, channels].

    Args:
      init: standard deviation of the weights; None: He's (2015), for a start without ImageNet
        weights.
      bias: start of the biases; None: no biases.
      rate: dilation.
      padding: 'SAME' or 'VALID'.
    """
    inputs = x.shape.as_list()[-1]
    if init is None:
        init = np.sqrt(2.0 / (size * size * inputs)) / (PIXEL_STD if inputs in (3, 4) else 1.0)
    with tf.variable_scope(name):
        weights = tf.get_variable(
            'weights',
            [size, size, inputs, channels],
            tf.float32,
            tf.truncated_normal_initializer(stddev=init),
        )
        biases = (
            None
            if bias is None
            else tf.get_variable('biases', [channels], tf.float32, tf.constant_initializer(bias))
        )
    cpu = cfg.get('device', 'cpu') == 'cpu'
    if rate > 1 and cpu:
        y = _conv_dilated(x, tf.identity(weights), rate)
    elif size == 3 and padding == 'SAME' and rate == 1 and slow_gradients(cfg):
        y = _conv_fast(x, tf.identity(weights))
    else:
        y = tf.nn.conv2d(x, weights, 1, padding, dilations=[1, rate, rate, 1])
    return y if biases is None else tf.nn.bias_add(y, biases)


def slow_gradients(cfg) -> bool:
    """Whether this TensorFlow's own convolution gradients are the slow ones: stock 1.15 on CPU."""
    if cfg.get('device', 'cpu') != 'cpu' or not tf.__version__.startswith('1.'):
        return False
    from tensorflow.python import pywrap_tensorflow  # the only place that tells an MKL build

    return not pywrap_tensorflow.IsMklEnabled()


def _conv_fast(x, weights):
    """3x3 SAME convolution whose gradients are built from forward convolutions: 1.5 times the
    step's speed.

    The gradient of the input is a convolution with the filter turned around; that of the filter is
    taken on strips of rows stacked as a batch, which keeps Eigen's patches in cache. Equal to the
    built-in ones to rounding.
    """

    @tf.custom_gradient
    def run(x, weights):
        def gradients(dy):
            turned = tf.transpose(weights[::-1, ::-1], [0, 1, 3, 2])
            return tf.nn.conv2d(dy, turned, 1, 'SAME'), _filter_gradient(x, dy, weights)

        return tf.nn.conv2d(x, weights, 1, 'SAME'), gradients

    return run(x, weights)


def _filter_gradient(x, dy, weights):
    size = weights.shape.as_list()
    height, width = x.shape.as_list()[1:3]
    if max(size[2:]) > 128 or height < 4 * STRIP:  # few rows or wide channels: no gain
        return tf.nn.conv2d_backprop_filter(x, size, dy, [1, 1, 1, 1], 'SAME')
    strips = -(-height // STRIP)
    short = strips * STRIP - height
    x = tf.pad(x, [[0, 0], [1, 1 + short], [1, 1], [0, 0]])
    dy = tf.pad(dy, [[0, 0], [0, short], [0, 0], [0, 0]])
    rows = np.arange(strips)[:, None] * STRIP + np.arange(STRIP + 2)  # a halo row above and below
    x = tf.reshape(tf.gather(x, rows.ravel(), axis=1), [-1, STRIP + 2, width + 2, size[2]])
    dy = tf.reshape(dy, [-1, STRIP, width, size[3]])
    return tf.nn.conv2d_backprop_filter(x, size, dy, [1, 1, 1, 1], 'VALID')


def _conv_dilated(x, weights, rate):
    """3x3 SAME convolution of dilation `rate`, with the gradients that TensorFlow lacks on CPU."""

    @tf.custom_gradient
    def run(x, weights):
        def forward(x, weights):
            return tf.nn.conv2d(x, weights, 1, 'SAME', dilations=[1, rate, rate, 1])

        def gradients(dy):
            turned = tf.transpose(weights[::-1, ::-1], [0, 1, 3, 2])
            return forward(dy, turned), _tap_gradients(x, dy, rate)

        return forward(x, weights), gradients

    return run(x, weights)


def _tap_gradients(x, dy, rate):
    """Gradient of a 3x3 filter of dilation `rate`: a matrix product a tap, on shifted slices."""
    height, width, channels = x.shape.as_list()[1:]
    outputs = dy.shape.as_list()[-1]
    x = tf.pad(x, [[0, 0], [rate, rate], [rate, rate], [0, 0]])
    flat = tf.reshape(dy, [-1, outputs])
    taps = [
        tf.matmul(
            tf.reshape(x[:, r : r + height, c : c + width], [-1, channels]), flat, transpose_a=True
        )
        for r in (0, rate, 2 * rate)
        for c in (0, rate, 2 * rate)
    ]
    return tf.reshape(tf.stack(taps), [3, 3, channels, outputs])


def batch_norm(x: tf.Tensor, training: bool, decay: float, cfg) -> tf.Tensor:
    """Batch normalisation with slim's variable names, float32 [B, h, w, C].

    While training by the statistics of the batch, which go to the collection STATISTICS (see
    moving_statistics()), else by the moving ones.
    """
    channels = x.shape.as_list()[-1]
    with npu.keep_float32(cfg):
        if not training:
            factor, offset = folded_norm(channels)
            return x * factor + offset
        beta, gamma, *statistics = _norm_variables(channels)
        y, *found = tf.nn.fused_batch_norm(x, gamma, beta, epsilon=BN_EPSILON)
        _collect(statistics, found, decay)
        return y


def _collect(statistics, found, decay):
    for moving, value in zip(statistics, found):
        tf.add_to_collection(STATISTICS, (moving, value, decay))


def moving_statistics() -> list:
    """[(moving statistic, its next value)]; where a layer was called several times, its statistics
    are taken in the order of the calls."""
    result = {}
    for moving, value, decay in tf.get_collection(STATISTICS):
        variable, last = result.get(moving.op.name, (moving, moving))
        result[moving.op.name] = variable, last - (last - value) * (1 - decay)
    return list(result.values())


def folded_norm(channels: int) -> tuple[tf.Tensor, tf.Tensor]:
    """(factor, offset) float32 [channels] of the normalisation by the moving statistics."""
    beta, gamma, mean, variance = _norm_variables(channels)
    factor = gamma * tf.rsqrt(variance + BN_EPSILON)
    return factor, beta - mean * factor


def batch_norm_of_line(maps: list, weights: tf.Tensor, decay: float):
    """The batch normalisation of a 1x1 convolution of one-channel maps of several sizes, by the
    statistics of all of them as of one batch.

    The mean of w * m is w * mean(m), its variance w^2 * var(m): so the convolution, which would
    give a map a channel, need not be made. The moving statistics move once.

    Args:
      maps: float32 [B, h, w, 1].
      weights: float32 [C], of the convolution.
      decay: of the moving statistics.

    Returns:
      (factor, offset) float32 [C]: a map m becomes m * factor + offset.
    """
    beta, gamma, *statistics = _norm_variables(weights.shape.as_list()[0])
    sizes = [m.shape.num_elements() for m in maps]
    total = sum(sizes)
    mean = tf.add_n([tf.reduce_mean(m) * (n / total) for m, n in zip(maps, sizes)])
    parts = [tf.reduce_mean(tf.square(m - mean)) * (n / total) for m, n in zip(maps, sizes)]
    variance = tf.add_n(parts)
    unbiased = variance * (total / max(total - 1, 1))  # as tf.nn.fused_batch_norm returns it
    found = [weights * mean, tf.square(weights) * unbiased]
    _collect(statistics, found, decay)
    scale = gamma * tf.rsqrt(tf.square(weights) * variance + BN_EPSILON)
    return scale * weights, beta - scale * weights * mean


def _norm_variables(channels):
    with tf.variable_scope('BatchNorm'):
        return [
            tf.get_variable(name, [channels], tf.float32, start(), trainable='moving' not in name)
            for name, start in (
                ('beta', tf.zeros_initializer),
                ('gamma', tf.ones_initializer),
                ('moving_mean', tf.zeros_initializer),
                ('moving_variance', tf.ones_initializer),
            )
        ]


def mobilenet(image: tf.Tensor, cfg, training: bool, modulate=None) -> dict:
    """MobileNet-v1, output stride 32.

    Args:
      image: float32 [B, H, W, 3].
      cfg: uses channels.
      modulate: function (layer 1..13, float32 [B, h, w, C]) -> the same shape.

    Returns:
      {layer: float32 [B, h, w, C]} of the separable layers 1 .. 13.
    """
    x = _mobile_conv(image, scaled(32, cfg), 3, 2, 'Conv2d_0', cfg, training)
    maps = {}
    for layer, channels in enumerate(MOBILE, 1):
        stride = 2 if layer in MOBILE_STRIDED else 1
        x = _depthwise(x, stride, f'Conv2d_{layer}_depthwise', cfg, training)
        x = _mobile_conv(x, scaled(channels, cfg), 1, 1, f'Conv2d_{layer}_pointwise', cfg, training)
        maps[layer] = x = x if modulate is None else modulate(layer, x)
    return maps


def _mobile_conv(x, channels, size, stride, name, cfg, training):
    with tf.variable_scope(name):
        shape = [size, size, x.shape.as_list()[-1], channels]
        start = tf.truncated_normal_initializer(stddev=0.09)  # mobilenet_v1.py
        y = tf.nn.conv2d(x, tf.get_variable('weights', shape, tf.float32, start), stride, 'SAME')
        return tf.nn.relu6(batch_norm(y, training, cfg.mobile_decay, cfg))


def _depthwise(x, stride, name, cfg, training):
    with tf.variable_scope(name):
        shape = [3, 3, x.shape.as_list()[-1], 1]
        start = tf.truncated_normal_initializer(stddev=0.09)  # mobilenet_v1.py
        weights = tf.get_variable('depthwise_weights', shape, tf.float32, start)
        y = tf.nn.depthwise_conv2d(x, weights, [1, stride, stride, 1], 'SAME')
        return tf.nn.relu6(batch_norm(y, training, cfg.mobile_decay, cfg))
