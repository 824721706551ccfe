"""Hooks that NPUEstimator prepends, as far as they have an effect on CPU."""

from __future__ import annotations

import tensorflow.compat.v1 as tf

from ... import rules


class NPUCheckpointSaverHook(tf.train.CheckpointSaverHook):
    """Saves at the first call, every save_steps and at the end, with a Saver of its own."""


class NPUBroadcastGlobalVariablesHook(tf.train.SessionRunHook):
    """Broadcast of the trainable variables from rank `root_rank`; the one process has them."""

    def __init__(self, root_rank: int | None = None, index: int | None = None):
        """`root_rank`: 0 .. cards - 1, `index`: this process's rank."""
        cards = rules.ranks()[1]
        if not 0 <= (root_rank or 0) < cards or not 0 <= (index or 0) < cards:
            raise ValueError(f'root_rank={root_rank}, index={index}: expected 0 .. {cards - 1}')
        self.root_rank, self.index = root_rank, index


class SetIterationsVarHook(tf.train.SessionRunHook):
    """Would write iterations_per_loop - 1 into the device's loop variable after session creation.

    There one session call then runs iterations_per_loop steps and global_step advances by as many;
    here a call stays one step.
    """

    def __init__(self, iterations_per_loop: int):
        """`iterations_per_loop`: int of 1 or more."""
        rules.value('iterations_per_loop', iterations_per_loop)
        self.iterations_per_loop = iterations_per_loop


def npu_hooks_append(hooks_list=None) -> list:
    """The hooks and the broadcast hook; the real one drops anything but a list, here TypeError."""
    if hooks_list is not None and not isinstance(hooks_list, list):
        raise TypeError(f'npu_hooks_append: {type(hooks_list)}, expected a list')
    return (hooks_list or []) + [NPUBroadcastGlobalVariablesHook(0, rules.ranks()[0])]
