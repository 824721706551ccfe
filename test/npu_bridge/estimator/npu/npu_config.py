"""NPURunConfig and its parts with the signature of the chosen adapter branch.

Strict where the real ones are not: keywords only, and every value is checked at once.
"""

from __future__ import annotations

import inspect
import os

import tensorflow.compat.v1 as tf

from ... import rules, tables

BASE = (  # arguments of tf.estimator.RunConfig
    'model_dir',
    'tf_random_seed',
    'save_summary_steps',
    'save_checkpoints_steps',
    'save_checkpoints_secs',
    'session_config',
    'keep_checkpoint_max',
    'keep_checkpoint_every_n_hours',
    'log_step_count_steps',
)
DEFAULT_SAVE_STEPS = 100  # steps, of the adapter where no save_checkpoints_* is given


def _bound(rows, args, kwargs, keys=()):
    arguments = tables.signature(rows).bind(*args, **kwargs)
    arguments.apply_defaults()
    settings = dict(arguments.arguments)
    given = {dict(keys).get(key, key): value for key, value in settings.items()}
    given = {k: v for k, v in given.items() if v is not None and tables.parameter(k)}
    for key, value in given.items():
        rules.value(key, value)
    rules.together(given)
    return settings


class ProfilingConfig:
    """Profiler switch and its options as a JSON string."""

    def __init__(self, *args, **kwargs):
        """Arguments of tables.HELPERS."""
        keys = [('enable_profiling', 'profiling_mode')]
        self.settings = _bound(tables.HELPERS['ProfilingConfig'], args, kwargs, keys)


class DumpConfig:
    """Data dump or overflow dump into an existing folder."""

    def __init__(self, *args, **kwargs):
        """Arguments of tables.HELPERS."""
        self.settings = _bound(tables.HELPERS['DumpConfig'], args, kwargs)


class MemoryConfig:
    """Memory policies."""

    def __init__(self, *args, **kwargs):
        """Arguments of tables.HELPERS."""
        self.settings = _bound(tables.HELPERS['MemoryConfig'], args, kwargs)


class DynamicInputConfig:
    """Buckets of input shapes."""

    def __init__(self, *args, **kwargs):
        """Arguments of tables.HELPERS."""
        self.settings = _bound(tables.HELPERS['DynamicInputConfig'], args, kwargs)


PARTS = {
    'profiling_config': ProfilingConfig,
    'dump_config': DumpConfig,
    'memory_config': MemoryConfig,
    'dynamic_input_config': DynamicInputConfig,
    'session_config': tf.ConfigProto,
}


class NPURunConfig(tf.estimator.RunConfig):
    """tf.estimator.RunConfig with the NPU's settings, kept in `settings`."""

    def __init__(self, *args, **kwargs):
        """Keywords of tables.NPU_RUN_CONFIG.

        Raises:
          TypeError: unknown keyword, positional argument, type; ValueError: value, combination.
        """
        if args:
            raise TypeError(
                'NPURunConfig: the order of arguments differs between adapter versions, '
                'give keywords'
            )
        self.settings = _bound(tables.NPU_RUN_CONFIG, (), kwargs)
        if not kwargs.get('save_checkpoints_steps') and not kwargs.get('save_checkpoints_secs'):
            self.settings['save_checkpoints_steps'] = DEFAULT_SAVE_STEPS
        _check(self.settings)
        super().__init__(**{key: self.settings[key] for key in BASE})


def _check(settings):
    for key, kind in PARTS.items():
        if settings.get(key) is not None and not isinstance(settings[key], kind):
            raise TypeError(f'{key}={settings[key]!r}: expected {kind.__name__}')
    if settings['session_config'] is not None:
        rules.session_config(settings['session_config'])
    for key in ('horovod_mode', 'enable_reduce_precision'):
        if not isinstance(settings[key], bool):
            raise TypeError(f'{key}={settings[key]!r}: expected a bool')
    loop = settings['iterations_per_loop']
    for key in ('save_checkpoints_steps', 'log_step_count_steps', 'save_summary_steps'):
        if settings[key] and settings[key] % loop:
            raise ValueError(f'{key}={settings[key]} is no multiple of iterations_per_loop={loop}')
    if settings['save_checkpoints_secs'] and rules.ranks()[1] > 1:
        raise ValueError(
            'save_checkpoints_secs on several cards: ranks would save at different steps, '
            'give save_checkpoints_steps'
        )
    if settings['model_dir'] and not os.path.isabs(settings['model_dir']):
        raise ValueError(f'model_dir={settings["model_dir"]}: expected an absolute path')


def _sign(kind, rows):
    signature = tables.signature(rows)
    kind.__signature__ = signature
    me = inspect.Parameter('self', inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [me] + list(signature.parameters.values())
    kind.__init__.__signature__ = inspect.Signature(parameters)


_sign(NPURunConfig, tables.NPU_RUN_CONFIG)
for _kind in (ProfilingConfig, DumpConfig, MemoryConfig, DynamicInputConfig):
    _sign(_kind, tables.HELPERS[_kind.__name__])
