"""Cross entropy of the hardest pixels (networks/loss.py of the official code)."""

from __future__ import annotations

from common.lazy import np, tf

from . import npu

HALVINGS = 30  # of the interval of loss values; a float32 has 24 bits


def losses(outputs: dict, labels: dict, cfg) -> dict:
    """Scalar losses and measures of a batch.

    Args:
      outputs: logits float32 [B, h, w, N], those of padded objects far below the others.
      labels: label int32 [B, S, S], 255 void, no loss; step int64 scalar, of the update.

    Returns:
      total, float32 scalar; accuracy, the share of the pixels whose largest logit is the label's.
    """
    with npu.keep_float32(cfg):
        size = labels['label'].shape.as_list()[1:]
        logits = tf.cast(outputs['logits'], tf.float32)
        logits = tf.image.resize_bilinear(logits, size, align_corners=True)
        batch, pixels = logits.shape.as_list()[0], size[0] * size[1]
        label = tf.reshape(labels['label'], [batch, pixels])
        logits = tf.reshape(logits, [batch, pixels, -1])
        shown = label < logits.shape.as_list()[-1]  # neither void nor an object that came later
        errors = tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels=tf.where(shown, label, tf.zeros_like(label)), logits=logits
        )
        errors = tf.where(shown, errors, tf.zeros_like(errors))
        right = tf.equal(tf.argmax(logits, -1, output_type=tf.int32), label)
        accuracy = tf.reduce_mean(tf.cast(right, tf.float32))
        return {'total': hardest(errors, labels['step'], cfg), 'accuracy': accuracy}


def hardest(errors: tf.Tensor, step: tf.Tensor, cfg) -> tf.Tensor:
    """Mean over the batch of the mean of the largest errors.

    They are found by halving an interval of values until it holds the smallest of them: an NPU
    sorts no image of pixels (CANN's TopKD ends at 4,096).

    Args:
      errors: float32 [B, P], P pixels, 0 or more.
      step: int64 scalar; the share that counts falls from 1 to cfg.hardest in cfg.mining_steps.
      cfg: uses hardest, mining_steps.

    Returns:
      float32 scalar.
    """
    pixels = errors.shape.as_list()[1]
    if cfg.mining_steps:
        passed = np.arange(cfg.mining_steps + 1) / cfg.mining_steps
    else:
        passed = np.ones(1)
    counts = ((passed * cfg.hardest + (1.0 - passed)) * float(pixels)).astype(np.int32)
    step = tf.minimum(tf.cast(step, tf.int32), cfg.mining_steps)
    count = tf.cast(tf.gather(tf.constant(counts), step), tf.float32)  # rounded as in float64
    values = tf.stop_gradient(errors)
    low, high = smallest_of_largest(values, count)
    above = tf.cast(values >= high, tf.float32)
    tied = tf.cast((values >= low) & (values < high), tf.float32)
    left = count - tf.reduce_sum(above, 1, keepdims=True)
    share = left / tf.maximum(tf.reduce_sum(tied, 1, keepdims=True), 1.0)  # ties count in part
    chosen = tf.reduce_sum((above + share * tied) * errors, 1)
    return tf.reduce_mean(chosen) / tf.maximum(count, 1.0)


def smallest_of_largest(values: tf.Tensor, count: tf.Tensor) -> tuple:
    """An interval [low, high) with the smallest of the `count` largest values of each row.

    Args:
      values: float32 [B, P], 0 or more.
      count: float32 scalar, 0..P.

    Returns:
      low, high: float32 [B, 1]; 2 ** -HALVINGS of the largest value apart, or next to one another.
    """
    low = tf.zeros_like(values[:, :1])
    high = tf.reduce_max(values, 1, keepdims=True) * 1.0001 + 1e-30  # above all of them
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        enough = tf.reduce_sum(tf.cast(values >= middle, tf.float32), 1, keepdims=True) >= count
        low, high = tf.where(enough, middle, low), tf.where(enough, high, middle)
    return low, high
