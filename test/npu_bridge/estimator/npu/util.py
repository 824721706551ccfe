"""util of the adapter: iteration offload in session mode. On CPU a call is one iteration."""

from __future__ import annotations

import tensorflow.compat.v1 as tf

from ... import rules
from .npu_scope import KEEP_DTYPE


def set_iteration_per_loop(sess, train_op, iterations_per_loop: int) -> tf.Operation:
    """The train operator to run steps / N times on the NPU; on CPU each run is one step.

    Raises:
      TypeError: no session, train_op no Operation; ValueError: N below 1.
    """
    if not isinstance(sess, tf.Session):
        raise TypeError(f'set_iteration_per_loop: {sess!r} is no tf.Session')
    return IterationPerLoop().create_iteration_per_loop_var(train_op, iterations_per_loop)


class IterationPerLoop:
    """The two-step form for graphs that are finalized in between."""

    def create_iteration_per_loop_var(self, train_op, iterations_per_loop: int = 1):
        """Groups train_op as IterationOp; changes the graph."""
        if not isinstance(train_op, tf.Operation):
            raise TypeError(f'train_op is {train_op!r}, expected a tf.Operation')
        rules.value('iterations_per_loop', iterations_per_loop)
        return tf.group(train_op, name='IterationOp')

    def load_iteration_per_loop_var(self, sess, iterations_per_loop: int) -> None:
        """Sets the number of iterations a call; nothing to do on CPU."""
        rules.value('iterations_per_loop', iterations_per_loop)


def keep_tensors_dtypes(graph, names) -> None:
    """Marks the operators of these tensor names as keep_dtype_scope does; KeyError if missing."""
    for name in names:
        graph.get_tensor_by_name(name).op._set_attr(KEEP_DTYPE, tf.AttrValue(i=1))
