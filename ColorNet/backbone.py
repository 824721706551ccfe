"""The residual network of ColorNet and the ResNet-18 of dense-ulearn-vos, output stride 8, without
dilation (ColorNet section 3; models/resnet_my.py and resnet18.py of the official code).

Everything is padded by hand and run VALID: TensorFlow's SAME pads even sizes with stride 2 at the
other side.
"""

from __future__ import annotations

from common.lazy import np, tf

from . import npu

BN_EPSILON = 1e-5  # PyTorch's default
WIDTHS = {'L': (64, 128, 256, 512), 'M': (48, 96, 192, 256), 'S': (32, 64, 128, 128)}
# channels of conv1 and layer1, of layer2, of layer3, of each half of layer4 (resnet_my.py)
BLOCKS = 2  # residual blocks of a stage (resnet_my.py, torchvision)
RESNET18 = (64, 128, 256, 512)  # channels of layer1..layer4 (torchvision)
STATISTICS = 'batch_norm_statistics'  # collection: (moving variable, value of this batch)


def colornet(image: tf.Tensor, cfg, training: bool = False):
    """The two feature maps before projection.

    Args:
      image: float32 [B, H, W, 3], R, G, B, normalized by ImageNet's mean and deviation.
      cfg: uses model_size, is_dul, first_kernal_size, channels, device.
      training: batch norm by the batch's statistics.

    Returns:
      (color, global) float32 [B, ceil(H/8), ceil(W/8), D], not negative; global None without
      cfg.is_dul.
    """
    *first, half = (scale_channels(c, cfg) for c in WIDTHS[cfg.model_size])
    x = three_stages(image, first, cfg.first_kernal_size, training, cfg)
    x = stage(x, 2 * half if cfg.is_dul else half, 1, 'layer4', training, cfg)
    if not cfg.is_dul:
        return x, None
    color, rest = x[..., :half], x[..., half:]
    for k in (5, 6):
        rest = stage(rest, half, 1, f'layer{k}', training, cfg)
    return color, rest


def resnet18(image: tf.Tensor, cfg, training: bool = False):
    """The maps of layer3 and layer4 of dense-ulearn-vos, as colornet(); 256 and 512 channels."""
    *first, last = (scale_channels(c, cfg) for c in RESNET18)
    third = three_stages(image, first, cfg.first_kernal_size, training, cfg)
    return third, stage(third, last, 1, 'layer4', training, cfg)


def three_stages(image, widths, size: int, training: bool, cfg) -> tf.Tensor:
    """conv1 of `size` px, pooling and layer1..layer3: [B, H, W, 3] -> [B, ceil(H/8), ..., C]."""
    x = conv(image, widths[0], size, 'conv1', cfg, stride=2)
    x = tf.nn.relu(batch_norm(x, 'bn1', training, cfg))
    x = tf.nn.max_pool2d(pad(x, 1), 3, 2, 'VALID')  # not negative: zeros are as good as -inf
    for k, (channels, stride) in enumerate(zip(widths, (1, 2, 1)), 1):
        x = stage(x, channels, stride, f'layer{k}', training, cfg)
    return x


def stage(x, channels: int, stride: int, name: str, training: bool, cfg) -> tf.Tensor:
    """BLOCKS basic residual blocks, the first of `stride`."""
    for block in range(BLOCKS):
        step = stride if block == 0 else 1
        with tf.variable_scope(f'{name}/{block}'):
            y = conv(x, channels, 3, 'conv1', cfg, stride=step)
            y = tf.nn.relu(batch_norm(y, 'bn1', training, cfg))
            y = batch_norm(conv(y, channels, 3, 'conv2', cfg), 'bn2', training, cfg)
            if step != 1 or x.shape.as_list()[-1] != channels:
                x = conv(x, channels, 1, 'downsample/0', cfg, stride=step)
                x = batch_norm(x, 'downsample/1', training, cfg)
            x = tf.nn.relu(x + y)
    return x


def scale_channels(channels: int, cfg) -> int:
    """Channels of a layer under the width factor cfg.channels, at least 4."""
    return max(4, int(round(channels * cfg.channels)))


def pad(x: tf.Tensor, border: int) -> tf.Tensor:
    """Puts `border` zeros around [B, h, w, C]."""
    if not border:
        return x
    return tf.pad(x, [[0, 0], [border, border], [border, border], [0, 0]])


def conv(
    x, channels: int, size: int, name: str, cfg, stride: int = 1, bias: bool = False
) -> tf.Tensor:
    """Convolution padded by (size - 1) / 2: float32 [B, h, w, C] -> [B, h', w', channels].

    Kernels start as N(0, 2 / (outputs of a unit)), biases uniform to 1 / sqrt(inputs of a unit).
    """
    inputs = x.shape.as_list()[-1]
    with tf.variable_scope(name):
        start = tf.random_normal_initializer(0.0, np.sqrt(2 / (channels * size * size)))
        weights = tf.get_variable('weights', [size, size, inputs, channels], tf.float32, start)
        bound = 1 / np.sqrt(size * size * inputs)
        start = tf.random_uniform_initializer(-bound, bound)
        biases = tf.get_variable('biases', [channels], tf.float32, start) if bias else None
    y = tf.nn.conv2d(pad(x, size // 2), weights, stride, 'VALID')
    return y if biases is None else tf.nn.bias_add(y, biases)


def batch_norm(x: tf.Tensor, name: str, training: bool, cfg) -> tf.Tensor:
    """Batch normalization, float32 [B, h, w, C]: by the batch's statistics while training, which go
    to the collection STATISTICS (see moving_statistics()), else by the moving ones."""
    channels = x.shape.as_list()[-1]
    zeros, ones = tf.zeros_initializer, tf.ones_initializer
    starts = dict(gamma=ones, beta=zeros, moving_mean=zeros, moving_variance=ones)
    with npu.keep_float32(cfg), tf.variable_scope(name):
        gamma, beta, mean, variance = (
            tf.get_variable(key, [channels], tf.float32, start(), trainable='moving' not in key)
            for key, start in starts.items()
        )
        if not training:
            factor = gamma * tf.rsqrt(variance + BN_EPSILON)
            return x * factor + (beta - mean * factor)
        y, *found = tf.nn.fused_batch_norm(x, gamma, beta, epsilon=BN_EPSILON)
        for moving, value in zip((mean, variance), found):
            tf.add_to_collection(STATISTICS, (moving, value))
        return y


def moving_statistics(decay: float) -> list:
    """[(moving statistic, its next value)]: every pass through the network moves it once, in the
    order of the calls, passes without gradient too."""
    result = {}
    for moving, value in tf.get_collection(STATISTICS):
        variable, last = result.get(moving.op.name, (moving, moving))
        result[moving.op.name] = variable, last * decay + value * (1 - decay)
    return list(result.values())
