"""VGG-16 without fully connected layers, as OSVOS cuts it (Simonyan and Zisserman 2015; OSVOS
section 3).

Variable names are those of OSVOS-TensorFlow (`osvos/conv1/conv1_1/weights`), to which published
checkpoints map.
"""

from __future__ import annotations

from common.lazy import np, tf

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, layers (VGG-16, column D)
PIXEL_STD = 57.4  # grey levels, of ImageNet; divides the first layer's scratch init
STRIP = 8  # rows of a strip in the filter gradient: fastest of 4..32 measured on AVX-512 CPUs


def vgg16(image: tf.Tensor, cfg) -> list[tf.Tensor]:
    """The ReLU'd last map of each of the five stages.

    Args:
      image: float32 [B, H, W, 3], BGR, 0..255 minus mean.
      cfg: uses channels and device.

    Returns:
      Five float32 [B, ceil(H/s), ceil(W/s), C], strides s = 1, 2, 4, 8, 16.
    """
    x, maps = image, []
    for stage, (channels, layers) in enumerate(STAGES, 1):
        if stage > 1:  # SAME pools round odd sizes up, as the published networks do
            x = tf.nn.max_pool2d(x, 2, 2, 'SAME', name=f'pool{stage - 1}')
        for layer in range(1, layers + 1):
            name = f'conv{stage}/conv{stage}_{layer}'
            x = tf.nn.relu(conv(x, scaled(channels, cfg), 3, name, cfg, init=None))
        maps.append(x)
    return maps


def scaled(channels: int, cfg) -> int:
    """Channels of a layer under the width factor cfg.channels, at least 4."""
    return max(4, int(round(channels * cfg.channels)))


def conv(x: tf.Tensor, channels: int, size: int, name: str, cfg, init) -> tf.Tensor:
    """Convolution with bias, stride 1, SAME: float32 [B, h, w, C] -> [B, h, w, channels].

    `init` is the weights' standard deviation; None: He's (2015), for a start without ImageNet
    weights.
    """
    inputs = x.shape.as_list()[-1]
    if init is None:
        init = np.sqrt(2.0 / (size * size * inputs)) / (PIXEL_STD if inputs == 3 else 1.0)
    with tf.variable_scope(name):
        weights = tf.get_variable(
            'weights',
            [size, size, inputs, channels],
            tf.float32,
            tf.truncated_normal_initializer(stddev=init),
        )
        biases = tf.get_variable('biases', [channels], tf.float32, tf.zeros_initializer())
    fast = size == 3 and slow_gradients(cfg)
    y = _conv_fast(x, tf.identity(weights)) if fast else tf.nn.conv2d(x, weights, 1, 'SAME')
    return tf.nn.bias_add(y, biases)


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
