"""The update of a training step: which variables a stage trains, rate, momentum, clipping, weight
decay (SiamMask section 3.4; tools/train_siammask.py and train_siammask_refine.py of the official
code).
"""

from __future__ import annotations

from common.lazy import np, tf

from . import npu, ranks
from .backbone import moving_statistics

EPOCHS = 20  # of the schedule; a training of any length passes through all of them (PT --epochs)
BATCH = 64  # pairs a step that the rates are for (PT -b 64)


def update(loss_of_part, cfg) -> tuple:
    """(train op, loss to report) of one step: gradients averaged over the parts of the batch,
    clipped by their global norm, weight decay added, the backbone's scaled.

    On CPU an update whose loss or gradient is not finite, or whose loss is above cfg.highest_loss,
    is left out, and the reported loss is infinite: zero gradients, rate 0, momentum 1 and the old
    batch statistics change nothing and need no condition. The NPU has its loss scale for that.

    Args:
      loss_of_part: function (number of the part, operations that it waits for) -> float32 scalar,
        called for each of the cfg.accumulate parts in turn.
      cfg: of the run.
    """
    step, first = tf.train.get_or_create_global_step(), loss_of_part(0, [])
    rate, momentum = learning_rate(step, cfg), momentum_factor(step, cfg)
    setting = {}  # filled below: the gradients that it depends on come from the optimizer
    if cfg.optimizer == 'adam':
        optimizer = tf.train.AdamOptimizer(lambda: setting['rate'])
    else:
        optimizer = tf.train.MomentumOptimizer(lambda: setting['rate'], lambda: setting['momentum'])
    statistics = moving_statistics()
    optimizer = npu.wrap_optimizer(optimizer, cfg, statistics)
    loss, pairs = averaged_gradients(optimizer, first, loss_of_part, cfg)
    statistics[:] = moving_statistics()  # of all parts
    norm = tf.sqrt(tf.add_n([tf.reduce_sum(gradient * gradient) for gradient, _ in pairs]))
    shrink = tf.minimum(1.0, cfg.clip / (norm + 1e-6))  # as PyTorch clips
    gradients = [shrink * gradient for gradient, _ in pairs]
    decay, reported = cfg.weight_decay, loss
    if cfg.get('device', 'cpu') == 'cpu':
        good = tf.is_finite(loss) & tf.is_finite(norm) & (loss < cfg.highest_loss)
        gradients = [tf.where(good, g, tf.zeros_like(g)) for g in gradients]
        decay = tf.where(good, cfg.weight_decay, 0.0)
        rate, momentum = tf.where(good, rate, 0.0), tf.where(good, momentum, 1.0)
        reported = tf.where(good, loss, np.inf)
        statistics[:] = [(old, tf.where(good, new, old)) for old, new in statistics]
    setting.update(rate=rate, momentum=momentum)
    npu.record('learning_rate', rate)
    npu.record('gradient_norm', norm)
    changes = [
        (rate_factor(variable, cfg) * (gradient + decay * variable), variable)
        for gradient, (_, variable) in zip(gradients, pairs)
    ]
    names = {variable.op.name for _, variable in changes}
    for variable in tf.trainable_variables():  # all stages then have the same checkpoint
        if variable.op.name not in names:
            changes.append((tf.zeros_like(variable), variable))
    return optimizer.apply_gradients(changes, step), reported


def averaged_gradients(optimizer, first: tf.Tensor, loss_of_part, cfg) -> tuple:
    """(loss, [(gradient, variable)]), means over the parts of a batch.

    A part waits for the sums of those before it, so that the activations of one are in memory. The
    graph has no loop, for the NPU: it has every operator cfg.accumulate times.

    Args:
      optimizer: of npu.wrap_optimizer().
      first: loss of part 0.
      loss_of_part: of update().
      cfg: of the run.
    """
    loss, variables = first, trained_variables(cfg)
    pairs = [p for p in optimizer.compute_gradients(first, variables) if p[0] is not None]
    if cfg.accumulate == 1:
        return loss, pairs
    sums, variables = (list(each) for each in zip(*pairs))
    for part in range(1, cfg.accumulate):
        own = loss_of_part(part, [loss, *sums])
        gradients = [g for g, _ in optimizer.compute_gradients(own, variables)]
        loss, sums = loss + own, [total + g for total, g in zip(sums, gradients)]
    return loss / cfg.accumulate, [(s / cfg.accumulate, v) for s, v in zip(sums, variables)]


def part_of(batch: dict, part: int, before: list, cfg) -> dict:
    """Part `part` of the cfg.accumulate equal ones of a batch.

    Args:
      batch: {name: tensor [B, ...]}.
      part: number of the part.
      before: operations and tensors that it waits for.
      cfg: batch_size, accumulate.
    """
    if cfg.accumulate == 1:
        return batch
    size = cfg.batch_size // cfg.accumulate
    parts = {name: x[part * size : (part + 1) * size] for name, x in batch.items()}
    with tf.control_dependencies(before):
        return {name: tf.identity(x) for name, x in parts.items()}


def trained_variables(cfg) -> list:
    """What a stage trains: sharp the refine module and the mask branch's correlation; base all but
    the backbone, then layer2 and layer3 too; from scratch everything."""
    if cfg.variant == 'sharp':
        parts = ['refine/', 'mask/kernel/', 'mask/search/']
    else:
        parts = ['neck/', 'cls/', 'loc/', 'mask/']
        if cfg.scratch:
            parts.append('features/')
        elif cfg.get('thawed'):
            parts += ['features/layer2/', 'features/layer3/']
    starts = tuple(f'siammask/{part}' for part in parts)
    return [v for v in tf.trainable_variables() if v.op.name.startswith(starts)]


def rate_factor(variable, cfg) -> float:
    """Factor of a variable's rate. It is applied to the gradient, which is the same in SGD with
    momentum and nothing in Adam."""
    slow = variable.op.name.startswith('siammask/features/') and not cfg.scratch
    return cfg.backbone_rate if slow else 1.0


def learning_rates(cfg) -> np.ndarray:
    """float32 [20], the rate of each epoch, log-spaced; scaled with the pairs of all cards."""
    warm = cfg.warmup_epochs
    ratio = cfg.learning_rate / cfg.warmup_rate
    rising = cfg.warmup_rate * ratio ** (np.arange(warm) / max(1, warm))
    falling = np.geomspace(cfg.learning_rate, cfg.end_learning_rate, EPOCHS - warm)
    rates = np.concatenate([rising, falling]) * cfg.batch_size * ranks.rank()[1] / BATCH
    return rates.astype(np.float32)


def epoch(step: tf.Tensor, cfg) -> tf.Tensor:
    """int32 scalar, epoch 0 .. 19 of update `step`."""
    step = tf.cast(step, tf.int32)
    ends = [-(-cfg.train_steps * (k + 1) // EPOCHS) for k in range(EPOCHS - 1)]
    return tf.reduce_sum(tf.cast(step >= tf.constant(ends), tf.int32))


def learning_rate(step: tf.Tensor, cfg) -> tf.Tensor:
    """float32 scalar, the rate of update `step` (0 is the first)."""
    return tf.gather(tf.constant(learning_rates(cfg)), epoch(step, cfg))


def momentum_factor(step: tf.Tensor, cfg) -> tf.Tensor:
    """float32 scalar: 0 where the original makes its optimizer anew, which forgets the momentum."""
    restarts = [thaw_step(cfg)]
    if cfg.variant == 'sharp':
        restarts = [-(-cfg.train_steps * k // EPOCHS) for k in range(1, EPOCHS)]
    anew = tf.reduce_any(tf.equal(tf.cast(step, tf.int32), tf.constant(restarts)))
    return tf.where(anew, 0.0, cfg.momentum)


def thaw_step(cfg) -> int:
    """Update from which layer2 and layer3 train (-1: never), a multiple of iterations_per_loop."""
    if cfg.variant == 'sharp' or cfg.scratch or cfg.unfreeze >= 1:
        return -1
    return int(cfg.train_steps * cfg.unfreeze) // cfg.iterations_per_loop * cfg.iterations_per_loop
