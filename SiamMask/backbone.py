"""ResNet-50 cut after its third stage, with SiamMask's 3x3 shortcuts, output stride 8 (SiamMask
section 3.1; experiments/*/resnet.py), and the convolution and batch norm that the rest is made of.
"""

from __future__ import annotations

from common.lazy import np, tf

from . import npu

BN_EPSILON = 1e-5  # PyTorch's default
BN_DECAY = 0.9  # PyTorch's momentum 0.1
STATISTICS = 'batch_norm_statistics'  # collection: (moving variable, value of this batch)


def resnet(image: tf.Tensor, cfg, training: bool = False) -> list[tf.Tensor]:
    """The maps p0..p3 of the stages.

    Args:
      image: float32 [B, S, S, 3], BGR, 0..255.
      cfg: uses channels, blocks, device.
      training: batch norm by the batch's statistics.

    Returns:
      Four float32 [B, s, s, C], C = 64, 256, 512, 1024; s = 61, 31, 15, 15 of S = 127;
      125, 63, 31, 31 of 255; 69, 35, 17, 17 of 143.
    """
    x = conv(image, scaled(64, cfg), 7, 'conv1', cfg, stride=2, padding='VALID')
    p0 = tf.nn.relu(batch_norm(x, 'bn1', training, cfg))
    x = tf.nn.max_pool2d(p0, 3, 2, 'SAME')  # sides are odd: as padding 1
    p1 = _stage(x, 1, 64, cfg, training)
    p2 = _stage(p1, 2, 128, cfg, training)
    return [p0, p1, p2, _stage(p2, 3, 256, cfg, training)]


def _stage(x, stage, channels, cfg, training):
    for block in range(cfg.blocks[stage - 1]):
        with tf.variable_scope(f'layer{stage}/{block}'):
            stride = 2 if stage == 2 and block == 0 else 1
            rate = 2 if stage == 3 and block > 0 else 1
            x = _bottleneck(x, channels, stride, rate, stage, block, cfg, training)
    return x


def _bottleneck(x, channels, stride, rate, stage, block, cfg, training):
    inner, outer = scaled(channels, cfg), 4 * scaled(channels, cfg)
    padding = 'VALID' if stride == 2 else 'SAME'  # stride 2 without padding, 31 -> 15
    y = conv(x, inner, 1, 'conv1', cfg)
    y = tf.nn.relu(batch_norm(y, 'bn1', training, cfg))
    y = conv(y, inner, 3, 'conv2', cfg, stride, padding, rate)
    y = tf.nn.relu(batch_norm(y, 'bn2', training, cfg))
    y = batch_norm(conv(y, outer, 1, 'conv3', cfg), 'bn3', training, cfg)
    if block == 0:
        size = 1 if stage == 1 else 3
        x = conv(x, outer, size, 'shortcut', cfg, stride, padding if size == 3 else 'VALID')
        x = batch_norm(x, 'shortcut_bn', training, cfg)
    return tf.nn.relu(x + y)


def scaled(channels: int, cfg) -> int:
    """Channels of a layer under the width factor cfg.channels, at least 4."""
    return max(4, int(round(channels * cfg.channels)))


def conv(
    x: tf.Tensor,
    channels: int,
    size: int,
    name: str,
    cfg,
    stride: int = 1,
    padding: str = 'SAME',
    rate: int = 1,
    bias: bool = False,
    gain: float = 1.0,
) -> tf.Tensor:
    """Convolution: float32 [B, h, w, C] -> [B, h', w', channels].

    Args:
      x: float32 [B, h, w, C].
      channels: of the output.
      size: side of the kernel.
      name: of the variables' scope.
      cfg: uses device.
      stride: cells.
      padding: 'SAME' or 'VALID'.
      rate: dilation.
      bias: whether a bias is added.
      gain: factor on the bound of the weights' uniform start, 1 / sqrt(inputs of a unit), which is
        PyTorch 0.4's.
    """
    inputs = x.shape.as_list()[-1]
    bound = 1 / np.sqrt(size * size * inputs)
    with tf.variable_scope(name):
        start = tf.random_uniform_initializer(-gain * bound, gain * bound)
        weights = tf.get_variable('weights', [size, size, inputs, channels], tf.float32, start)
        start = tf.random_uniform_initializer(-bound, bound)
        biases = tf.get_variable('biases', [channels], tf.float32, start) if bias else None
    if rate > 1 and cfg.get('device', 'cpu') == 'cpu':
        y = _conv_dilated(x, tf.identity(weights), rate)
    else:
        y = tf.nn.conv2d(x, weights, stride, padding, dilations=[1, rate, rate, 1])
    return y if biases is None else tf.nn.bias_add(y, biases)


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


def batch_norm(x: tf.Tensor, name: str, training: bool, cfg, start: str = 'ones') -> tf.Tensor:
    """Batch normalization, float32 [B, h, w, C]: by the batch's statistics while training, which go
    to the collection STATISTICS (see moving_statistics()), else by the moving ones.

    Args:
      x: float32 [B, h, w, C].
      name: of the variables' scope.
      training: whether the batch's statistics are used.
      cfg: uses device.
      start: of gamma: 'ones' (PT resnet.py), or 'uniform' in [0, 1], PyTorch 0.4.1's default.
    """
    channels = [x.shape.as_list()[-1]]
    zeros, ones = tf.zeros_initializer(), tf.ones_initializer()
    uniform = tf.random_uniform_initializer(0.0, 1.0)
    with npu.keep_float32(cfg), tf.variable_scope(name):
        gamma = tf.get_variable(
            'gamma', channels, tf.float32, uniform if start == 'uniform' else ones
        )
        beta = tf.get_variable('beta', channels, tf.float32, zeros)
        mean = tf.get_variable('moving_mean', channels, tf.float32, zeros, trainable=False)
        variance = tf.get_variable('moving_variance', channels, tf.float32, ones, trainable=False)
        if not training:
            factor = gamma * tf.rsqrt(variance + BN_EPSILON)
            return x * factor + (beta - mean * factor)
        y, *found = tf.nn.fused_batch_norm(x, gamma, beta, epsilon=BN_EPSILON)
        for moving, value in zip((mean, variance), found):
            tf.add_to_collection(STATISTICS, (moving, value))
        return y


def moving_statistics() -> list:
    """[(moving statistic, its next value)]: a layer that saw template and search moves twice, in
    the order of the calls, as it does in PyTorch."""
    result = {}
    for moving, value in tf.get_collection(STATISTICS):
        variable, last = result.get(moving.op.name, (moving, moving))
        result[moving.op.name] = variable, last * BN_DECAY + value * (1 - BN_DECAY)
    return list(result.values())
