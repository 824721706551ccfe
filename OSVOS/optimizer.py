"""How OSVOS's weights change: rate, gradients over several passes, weight decay, multipliers of the
layers (OSVOS section 4.1; the official training programs).
"""

from __future__ import annotations

from common.lazy import tf

from . import data, model, npu
from .losses import losses, stage_value

MULTIPLIERS = (('score-dsn', 0.1), ('upscore-fuse', 0.01))  # of the rate, SGD (OSVOS-TensorFlow)


def make_optimizer(step: tf.Tensor, cfg):
    """Adam or momentum SGD with the schedule's rate at update `step`."""
    rate = learning_rate(step, cfg)
    npu.record('learning_rate', rate)
    if cfg.optimizer == 'adam':
        return tf.train.AdamOptimizer(rate, epsilon=cfg.adam_epsilon)
    return tf.train.MomentumOptimizer(rate, cfg.momentum)


def learning_rate(step: tf.Tensor, cfg) -> tf.Tensor:
    """float32 scalar, the rate of update `step` (0 is the first)."""
    if cfg.schedule == 'steps':
        return cfg.learning_rate * stage_value(step, cfg.lr_boundaries, cfg.lr_values)
    if cfg.schedule == 'warmup':  # by epoch: a fifth up, two fifths flat, two fifths lr/(16(i+1))
        epoch = tf.floor(tf.cast(step, tf.float32) * cfg.train_epochs / cfg.train_steps)
        up, down = cfg.train_epochs / 5, cfg.train_epochs * 3 / 5
        late = 1 / (16 * tf.maximum(epoch - down + 1, 1.0))
        return cfg.learning_rate * tf.where(epoch < down, tf.minimum((epoch + 1) / up, 1.0), late)
    return tf.constant(cfg.learning_rate, tf.float32)


def averaged_gradients(optimizer, features: dict, labels: dict, cfg):
    """Loss and gradients of a batch.

    With cfg.accumulate above 1 the class balance is that of batch_size / accumulate images, as in
    the official code, which sums the gradients of ten single images. On CPU the parts are taken one
    after the other, so that the activations of one are in memory; on the NPU in one pass: the sum
    is the same and the graph has no loop.

    Returns:
      (float32 scalar, [(gradient, variable)]).
    """
    size, rest = divmod(cfg.batch_size, cfg.accumulate)
    if rest:
        raise ValueError(
            f'batch_size={cfg.batch_size} is no multiple of accumulate={cfg.accumulate}'
        )
    if cfg.accumulate == 1 or cfg.device == 'npu':
        return one_pass(optimizer, features, labels, cfg)

    def part(i):
        parts = [
            {
                k: tf.reshape(x, [cfg.accumulate, size] + x.shape.as_list()[1:])[i]
                for k, x in t.items()
            }
            for t in (features, labels)
        ]
        loss, pairs = one_pass(optimizer, *parts, cfg)
        return loss, [g for g, _ in pairs], [v for _, v in pairs]

    def add(i, total, sums):
        loss, gradients, _ = part(i)
        return i + 1, total + loss, [s + g for s, g in zip(sums, gradients)]

    loss, gradients, variables = part(0)  # also makes the variables, outside the loop
    start = (tf.constant(1), loss, gradients)
    _, loss, sums = tf.while_loop(
        lambda i, *_: i < cfg.accumulate, add, start, back_prop=False, parallel_iterations=1
    )
    return loss / cfg.accumulate, [(s / cfg.accumulate, v) for s, v in zip(sums, variables)]


def one_pass(optimizer, features: dict, labels: dict, cfg):
    """(loss, [(gradient, variable)]) of one forward and backward pass; unused layers are left
    out."""
    outputs = model.network(features, cfg, training=True)
    scalars = losses(outputs, labels, cfg)
    if cfg.accumulate == 1:
        npu.show_images(
            cfg,
            lambda: {
                'input': features['image'] + data.MEAN,
                'target': labels['mask'],
                'prediction': outputs['probability'],
            },
        )
        for key, value in scalars.items():
            tf.summary.scalar(f'loss/{key}', value)
    pairs = optimizer.compute_gradients(scalars['total'])
    return scalars['total'], [(g, v) for g, v in pairs if g is not None]


def scaled_gradients(gradients, cfg):
    """Weight decay added to the gradients of weights, then the layers' multipliers for SGD.

    Biases: no decay, twice the rate. Adam's step does not depend on a gradient's scale: no
    multipliers.
    """
    result = []
    for gradient, variable in gradients:
        name, factor = variable.op.name, 1.0
        if name.endswith('weights'):
            gradient += cfg.weight_decay * variable
        if cfg.optimizer == 'sgd':
            factor = next((m for part, m in MULTIPLIERS if part in name), 1.0)
            factor *= 2.0 if name.endswith('biases') else 1.0
        result.append((gradient if factor == 1 else factor * gradient, variable))
    return result
