"""npu_scope: regions whose operators carry an attribute for the graph compiler."""

from __future__ import annotations

import contextlib

import tensorflow.compat.v1 as tf

KEEP_DTYPE = '_keep_dtype'  # attribute of operators that stay float32


@contextlib.contextmanager
def keep_dtype_scope():
    """Operators made inside keep their type under mixed precision."""
    with tf.get_default_graph()._attr_scope({KEEP_DTYPE: tf.AttrValue(i=1)}):
        yield


@contextlib.contextmanager
def without_npu_compile_scope():
    """Operators made inside run on the host; needs mix_compile_mode."""
    with tf.get_default_graph()._attr_scope({'_without_npu_compile': tf.AttrValue(b=True)}):
        yield
