"""ColorNet's network: features of every cell and the projections that its losses compare (sections
3.1, 3.2; ViT of trainColorNetDUL_benchmark.py), and that of dense-ulearn-vos.
"""

from __future__ import annotations

from common.lazy import tf

from . import npu
from .backbone import batch_norm, colornet, conv, resnet18, scale_channels

PROJECTED = 128  # channels of the projections (resnet_my.py)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # R, G, B of 0..1 (ImageNet)


def network(features: dict, cfg, training: bool) -> dict:
    """The projections of a training batch, in four passes with batch statistics of their own.

    Args:
      features: R, G, B of 0..255: `main` uint8 and `second` float32 [B, T, S, S, 3], and with
        cfg.is_dul `dul1`, `dul2` uint8 [B, T, S, S, 3]; of the DUL network the last two alone are
        used.
      cfg: uses model_size, is_dul, first_kernal_size, channels, device.

    Returns:
      key1, key2 float32 [B, T, N, C] of main and second view, dul1, dul2 float32 [B, T, h, w, C];
      a gradient runs through key1, dul1 and the first frames of dul2.
    """
    outputs = {}
    if has_dul(cfg):
        outputs['dul1'], outputs['dul2'] = _dul_views(features, cfg, training)
    if cfg.model_size != 'DUL':
        for key, view in (('key1', 'main'), ('key2', 'second')):
            found = _project_frames(_frames(features[view]), 'q_color', cfg, training)
            batch, count = features[view].shape.as_list()[:2]
            outputs[key] = tf.reshape(found, [batch, count, -1, found.shape.as_list()[-1]])
        outputs['key2'] = tf.stop_gradient(outputs['key2'])
    return outputs


def has_dul(cfg) -> bool:
    """Whether the network has the branch of dense-ulearn-vos, or is it."""
    return cfg.is_dul or cfg.model_size == 'DUL'


def _dul_views(features, cfg, training):
    """View 1 and the first frames of view 2 in one pass, the rest of view 2 in another."""
    view1, view2 = features['dul1'], features['dul2']
    count = view1.shape.as_list()[1]
    first = _project_frames(_frames(tf.concat([view1, view2[:, :1]], 1)), 'q_cls', cfg, training)
    rest = _project_frames(_frames(view2[:, 1:]), 'q_cls', cfg, training)
    first = _clips(first, count + 1)
    rest = tf.stop_gradient(_clips(rest, count - 1))
    return first[:, :count], tf.concat([first[:, count:], rest], 1)


def _frames(clips):
    return tf.reshape(clips, [-1] + clips.shape.as_list()[2:])


def _clips(frames, count):
    return tf.reshape(frames, [-1, count] + frames.shape.as_list()[1:])


def _project_frames(frames, key, cfg, training):
    return extract(normalize(frames, cfg), cfg, training)[key]


def normalize(image: tf.Tensor, cfg) -> tf.Tensor:
    """Subtracts ImageNet's mean from R, G, B of 0..255, uint8 or float32, and divides by its
    deviation: float32."""
    with npu.keep_float32(cfg):
        return (tf.cast(image, tf.float32) / 255 - MEAN) / DEVIATION


def extract(image: tf.Tensor, cfg, training: bool = False) -> dict:
    """All features of images float32 [B, H, W, 3] of normalize(); each cell of unit length.

    Returns:
      float32 [B, ceil(H/8), ceil(W/8), C]: color, q_color and, with cfg.is_dul, cls, merge, q_cls,
      q_merge; of the DUL network res3, res4, key (its losses' q_cls too).
    """
    with tf.variable_scope('colornet', reuse=tf.AUTO_REUSE):
        if cfg.model_size == 'DUL':
            third, last = resnet18(image, cfg, training)
            names = ('conv1', 'bn1', 'conv2')
            key = unit(project(last, 'emb_q', names, training, cfg), cfg)
            return {'res3': unit(third, cfg), 'res4': unit(last, cfg), 'key': key, 'q_cls': key}
        color, rest = colornet(image, cfg, training)
        found = {'color': unit(color, cfg)}
        names = ('0', '1', '3')
        found['q_color'] = unit(project(color, 'query_color', names, training, cfg), cfg)
        if cfg.is_dul:
            found['cls'] = unit(rest, cfg)
            found['q_cls'] = unit(project(rest, 'query_cls', names, training, cfg), cfg)
            for prefix in ('', 'q_'):
                both = tf.concat([found[prefix + 'cls'], found[prefix + 'color']], -1)
                found[prefix + 'merge'] = unit(both, cfg)
    return found


def project(x, scope: str, names, training: bool, cfg) -> tf.Tensor:
    """Two 1x1 convolutions with batch norm between: [B, h, w, D] -> [B, h, w, 128]."""
    with tf.variable_scope(scope):
        x = conv(x, x.shape.as_list()[-1], 1, names[0], cfg, bias=True)
        x = tf.nn.relu(batch_norm(x, names[1], training, cfg))
        return conv(x, scale_channels(PROJECTED, cfg), 1, names[2], cfg, bias=True)


def unit(x: tf.Tensor, cfg) -> tf.Tensor:
    """Scales vectors to length 1 along the channels, as PyTorch's F.normalize: epsilon 1e-12 on the
    norm."""
    with npu.keep_float32(cfg):
        return tf.nn.l2_normalize(x, -1, epsilon=1e-24)
