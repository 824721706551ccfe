"""ResNet-101 of output stride 16 with a multi-grid last stage, and the convolution and batch norm
that the rest is made of (MANet section 3.1; networks/backbone/resnet.py of the official code).

Strides and poolings are padded by hand and run VALID: TensorFlow's SAME pads even sizes with stride
2 at the other side.
"""

from __future__ import annotations

from common.lazy import np, tf

from . import npu

BN_EPSILON = 1e-5  # PyTorch's default
STAGES = ((64, 1, (1, 1, 1)), (128, 2, ()), (256, 2, ()), (512, 1, (2, 4, 8)))
# channels, stride, dilations of layer1..layer4 (resnet.py, output stride 16, multi-grid 1 2 4)
STATISTICS = 'batch_norm_statistics'  # collection: (moving variable, value of this batch, decay)


def resnet(image: tf.Tensor, cfg, training: bool = False):
    """Maps of the last stage and of the first.

    Args:
      image: float32 [B, H, W, 3], B, G, R, normalized.
      cfg: uses channels, blocks, bn_decay.
      training: normalize by the batch's statistics.

    Returns:
      float32 [B, ceil(H/16), ceil(W/16), 2048] and [B, ceil(H/4), ceil(W/4), 256].
    """
    with tf.variable_scope('backbone'):
        x = conv(image, scale_channels(64, cfg), 7, 'conv1', cfg, stride=2)
        x = tf.nn.relu(batch_norm(x, 'bn1', training, cfg))
        x = tf.nn.max_pool2d(pad(x, 1), 3, 2, 'VALID')  # not negative: zeros are as good as -inf
        low = None
        for k, (channels, stride, rates) in enumerate(STAGES, 1):
            for block in range(cfg.blocks[k - 1]):
                step = stride if block == 0 else 1
                rate = rates[block] if block < len(rates) else 1
                with tf.variable_scope(f'layer{k}/{block}'):
                    x = bottleneck(x, channels, step, rate, block == 0, training, cfg)
            low = x if k == 1 else low
    return x, low


def bottleneck(x, channels: int, stride: int, rate: int, first: bool, training: bool, cfg):
    """1x1, 3x3 of `stride` and dilation `rate`, 1x1 to four times the channels; added to x."""
    inner = scale_channels(channels, cfg)
    y = tf.nn.relu(batch_norm(conv(x, inner, 1, 'conv1', cfg), 'bn1', training, cfg))
    y = conv(y, inner, 3, 'conv2', cfg, stride, rate)
    y = tf.nn.relu(batch_norm(y, 'bn2', training, cfg))
    y = batch_norm(conv(y, 4 * inner, 1, 'conv3', cfg), 'bn3', training, cfg)
    if first:
        x = conv(x, 4 * inner, 1, 'downsample/0', cfg, stride)
        x = batch_norm(x, 'downsample/1', training, cfg)
    return tf.nn.relu(x + y)


def scale_channels(channels: int, cfg) -> int:
    """Channels of a layer under the width factor cfg.channels, at least 4."""
    return max(4, int(round(channels * cfg.channels)))


def pad(x: tf.Tensor, border: int) -> tf.Tensor:
    """[B, h, w, C] with `border` zeros on each side of rows and columns."""
    return tf.pad(x, [[0, 0], [border, border], [border, border], [0, 0]]) if border else x


def conv(
    x,
    channels: int,
    size: int,
    name: str,
    cfg,
    stride: int = 1,
    rate: int = 1,
    bias: bool = False,
    fan: str = 'out',
) -> tf.Tensor:
    """Convolution padded by rate (size - 1) / 2: float32 [B, h, w, C] -> [B, h', w', channels].

    Kernels start as N(0, 2 / fan), biases uniform between -1 / sqrt(fan in) and 1 / sqrt(fan in).

    Args:
      x: float32 [B, h, w, C].
      channels: of the output.
      size: of the square kernel.
      name: of the variables' scope.
      cfg: of the network.
      stride: of the output.
      rate: of dilation.
      bias: whether there is one.
      fan: 'out', size^2 times the outputs, or 'in', size^2 times the inputs.
    """
    inputs = x.shape.as_list()[-1]
    with tf.variable_scope(name):
        count = size * size * (channels if fan == 'out' else inputs)
        start = tf.random_normal_initializer(0.0, np.sqrt(2 / count))
        weights = tf.get_variable('weights', [size, size, inputs, channels], tf.float32, start)
        biases = _biases(channels, size * size * inputs) if bias else None
    if rate > 1 and cfg.get('device', 'cpu') == 'cpu':
        y = _conv_dilated(x, tf.identity(weights), rate)
    elif rate > 1:
        y = tf.nn.conv2d(x, weights, 1, 'SAME', dilations=[1, rate, rate, 1])
    else:
        y = tf.nn.conv2d(pad(x, size // 2), weights, stride, 'VALID')
    return y if biases is None else tf.nn.bias_add(y, biases)


def depthwise(x, size: int, name: str) -> tf.Tensor:
    """A filter a channel, with bias: float32 [B, h, w, C] -> the same shape."""
    channels = x.shape.as_list()[-1]
    with tf.variable_scope(name):  # He's fan out counts all channels here (PyTorch)
        start = tf.random_normal_initializer(0.0, np.sqrt(2 / (channels * size * size)))
        weights = tf.get_variable('weights', [size, size, channels, 1], tf.float32, start)
        biases = _biases(channels, size * size)
    y = tf.nn.depthwise_conv2d(x, weights, [1, 1, 1, 1], 'SAME')
    return tf.nn.bias_add(y, biases)


def _biases(channels, inputs):
    start = tf.random_uniform_initializer(-1 / np.sqrt(inputs), 1 / np.sqrt(inputs))
    return tf.get_variable('biases', [channels], tf.float32, start)


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


def batch_norm(x, name: str, training: bool, cfg, decay: float | None = None, weight=None):
    """Batch normalization: by the batch's statistics while training, which go to the collection
    STATISTICS (see moving_statistics()), else by the moving ones.

    Args:
      x: float32 [B, h, w, C].
      name: of the variables' scope.
      training: as said.
      cfg: uses bn_decay.
      decay: of the moving statistics; default: cfg.bn_decay.
      weight: float32 [B] of 0 and 1: the items whose statistics count; default: all.

    Returns:
      float32 [B, h, w, C].
    """
    channels = x.shape.as_list()[-1]
    zeros, ones = tf.zeros_initializer, tf.ones_initializer
    with npu.keep_float32(cfg), tf.variable_scope(name):
        gamma = tf.get_variable('gamma', [channels], tf.float32, ones())
        beta = tf.get_variable('beta', [channels], tf.float32, zeros())
        mean = tf.get_variable('moving_mean', [channels], tf.float32, zeros(), trainable=False)
        variance = tf.get_variable(
            'moving_variance', [channels], tf.float32, ones(), trainable=False
        )
        if not training:
            factor = gamma * tf.rsqrt(variance + BN_EPSILON)
            return x * factor + (beta - mean * factor)
        if weight is None:
            y, batch_mean, batch_variance = tf.nn.fused_batch_norm(
                x, gamma, beta, epsilon=BN_EPSILON
            )
        else:
            y, batch_mean, batch_variance = _weighted_norm(
                tf.cast(x, tf.float32), gamma, beta, weight
            )
        decay = decay or cfg.bn_decay
        tf.add_to_collection(STATISTICS, (mean, batch_mean, decay))
        tf.add_to_collection(STATISTICS, (variance, batch_variance, decay))
        return y


def _weighted_norm(x, gamma, beta, weight):
    """(normalized, mean, unbiased variance) by the items of weight 1."""
    height, width = x.shape.as_list()[1:3]
    weight = weight[:, None, None, None]
    count = tf.reduce_sum(weight) * height * width
    mean = tf.reduce_sum(tf.reduce_mean(x * weight, [1, 2]), 0) / tf.reduce_sum(weight)
    rest = x - mean
    square = tf.reduce_sum(tf.reduce_mean(rest * rest * weight, [1, 2]), 0)
    variance = square / tf.reduce_sum(weight)
    y = rest * tf.rsqrt(variance + BN_EPSILON) * gamma + beta
    return y, mean, variance * count / (count - 1)


def moving_statistics() -> list:
    """[(moving statistic, its next value)]; where a layer was called several times, its statistics
    are taken in the order of the calls."""
    result = {}
    for moving, value, decay in tf.get_collection(STATISTICS):
        variable, last = result.get(moving.op.name, (moving, moving))
        result[moving.op.name] = variable, last * decay + value * (1 - decay)
    return list(result.values())
