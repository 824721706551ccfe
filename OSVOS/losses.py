"""Class-balanced binary cross entropy of OSVOS (section 3.2, after Xie and Tu's HED), in a form
safe for float16.

The originals sum over all pixels, 1e3 to 1e6, beyond float16; here the sum is divided by a number
of pixels and the learning rate multiplied by it where the official recipe is wanted (config.py,
preset `paper`): the update is the same.
"""

from __future__ import annotations

from common.lazy import tf

from . import npu
from .model import SIDES


def losses(outputs: dict, labels: dict, cfg) -> dict:
    """The loss of every supervised output and their weighted sum.

    Args:
      outputs: of model.network, logits float32 [B, H, W, 1].
      labels: 'mask' float32 [B, H, W, 1], 0 or 1.
      cfg: uses side_schedule and its values, loss_pixels, accumulate, batch_size, device.

    Returns:
      float32 scalars 'side2' .. 'side5' (absent without side losses), 'fuse', 'side_weight',
      'total'.
    """
    groups = max(1, cfg.accumulate * labels['mask'].shape.as_list()[0] // cfg.batch_size)

    def balanced(key):
        return balanced_bce(outputs[key], labels['mask'], cfg.loss_pixels, groups)

    with npu.keep_float32(cfg):
        scalars = {'fuse': balanced('fuse')}
        scalars['total'] = scalars['fuse']
        if cfg.side_schedule != 'none':
            sides = {f'side{k}': balanced(f'side{k}') for k in SIDES}
            weight = side_weight(tf.train.get_or_create_global_step(), cfg)
            total = scalars['fuse'] + weight * tf.add_n(list(sides.values()))
            scalars.update(sides, side_weight=weight, total=total)
    return scalars


def balanced_bce(logits, mask, pixels: int = 0, groups: int = 1) -> tf.Tensor:
    """Cross entropy in which either class weighs as much as the other has pixels.

    Args:
      logits: float32 [B, H, W, 1]. mask: float32 [B, H, W, 1]; 0.5 and more is the object
      (OSVOS-PyTorch osvos_layers.py). pixels: a group's sum is divided by this; 0: by the number of
      its pixels. groups: the batch in so many equal parts, each with its own balance; their losses
      are averaged.

    Returns:
      float32 scalar; 0 where one class is absent.
    """
    y = tf.cast(mask >= 0.5, tf.float32)
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=logits)
    elements = logits.shape.num_elements() // groups
    y, entropy = (tf.reshape(x, [groups, elements]) for x in (y, entropy))
    share = tf.reduce_mean(y, 1, keepdims=True)  # of the object; a mean does not overflow as a sum
    weights = y * (1 - share) + (1 - y) * share
    return tf.reduce_mean(weights * entropy) * (elements / pixels if pixels else 1.0)


def side_weight(step: tf.Tensor, cfg) -> tf.Tensor:
    """Factor of the side losses at update `step`, float32 scalar."""
    if cfg.side_schedule == 'steps':
        return stage_value(step, cfg.side_boundaries, cfg.side_values)
    if cfg.side_schedule == 'linear':  # PTv train_parent.py
        epoch = tf.floor(tf.cast(step, tf.float32) * cfg.train_epochs / cfg.train_steps)
        return cfg.side_weight * (1 - epoch / cfg.train_epochs)
    return tf.constant(cfg.side_weight, tf.float32)


def stage_value(step: tf.Tensor, boundaries: list, values: list) -> tf.Tensor:
    """The value of the stage that `step` is in, float32 scalar; a boundary belongs to the earlier
    one.

    As tf.train.piecewise_constant, without its conditions, which the NPU runs badly.
    """
    passed = tf.cast(step > tf.constant(boundaries, step.dtype.base_dtype), tf.int32)
    return tf.gather(tf.constant(values, tf.float32), tf.reduce_sum(passed))
