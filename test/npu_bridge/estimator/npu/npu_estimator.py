"""NPUEstimator on CPU: the hooks it prepends, the checks it makes, the graph checks of the NPU.

What it does not emulate: edits of session_config, host_call, several iterations a call.
"""

from __future__ import annotations

import inspect
import json
import os

import tensorflow.compat.v1 as tf

from ... import graph_check, report, rules
from .npu_config import NPURunConfig
from .npu_hook import (
    NPUBroadcastGlobalVariablesHook,
    NPUCheckpointSaverHook,
    SetIterationsVarHook,
)
from .npu_loss_scale_optimizer import USED
from .npu_scope import KEEP_DTYPE

MODES = tf.estimator.ModeKeys
PROCESS = {}  # 'engine': what the first session initialised it with; 'facts': of the last training


class NPUEstimator(tf.estimator.Estimator):
    """tf.estimator.Estimator that refuses what the NPU would refuse."""

    def __init__(
        self,
        model_fn=None,
        model_dir=None,
        config=None,
        params=None,
        job_start_file='',
        warm_start_from=None,
    ):
        """As the real one.

        Raises:
          ValueError: JOB_ID not set, config no NPURunConfig, no or two model_dir, ranks.
        """
        if not os.environ.get('JOB_ID'):
            raise ValueError('JOB_ID is not set')
        if not isinstance(config, NPURunConfig):
            raise ValueError(f'config={config!r}: expected an NPURunConfig')
        if not model_dir and not config.model_dir:
            raise ValueError('no model_dir: the adapter would make a random folder')
        if config.session_config is None:
            raise ValueError('no session_config, so remapping and memory_optimization are on')
        rules.session_config(config.session_config)
        rules.ranks()
        if model_fn is None:
            raise ValueError('model_fn is needed')
        start = os.environ.get('LOCAL_CHECKPOINT_DIR') or os.environ.get('RESTORE_FROM') or None
        super().__init__(
            model_fn=_wrapped(model_fn, config.settings, model_dir or config.model_dir),
            model_dir=model_dir,
            config=config,
            params=params,
            warm_start_from=warm_start_from or start,
        )

    def _assert_members_are_not_overridden(self):
        """TensorFlow's own way to let a subclass have its train."""

    def train(self, input_fn, hooks=None, steps=None, max_steps=None, saving_listeners=None):
        """Trains, then writes the report; steps must be multiples of iterations_per_loop."""
        settings = self.config.settings
        loop = settings['iterations_per_loop']
        for key, given in (('steps', steps), ('max_steps', max_steps)):
            if given and given % loop:
                raise ValueError(f'{key}={given} is no multiple of iterations_per_loop={loop}')
        report.start()
        super().train(input_fn, hooks, steps, max_steps, saving_listeners)
        latest = tf.train.latest_checkpoint(self.model_dir)
        step = int(tf.train.load_variable(latest, 'global_step')) if latest else None
        report.write(settings, dict(PROCESS.get('facts', {}), global_step=step))
        return self


def _wrapped(model_fn, settings, model_dir):
    accepted = inspect.signature(model_fn).parameters

    def npu_model_fn(features, labels, mode, params, config):
        if 'labels' not in accepted and labels is not None:
            raise ValueError('model_fn takes no labels, input_fn gives some')
        extra = dict(labels=labels, mode=mode, params=params, config=config)
        spec = model_fn(features, **{k: v for k, v in extra.items() if k in accepted})
        if getattr(spec, 'host_call', None):
            raise NotImplementedError('host_call is not emulated')
        check = CheckHook(spec, settings)
        if mode == MODES.TRAIN:
            return _training_spec(spec, check, settings, model_dir)
        if mode == MODES.EVAL:
            return spec._replace(evaluation_hooks=[check] + list(spec.evaluation_hooks or ()))
        return spec._replace(prediction_hooks=[check] + list(spec.prediction_hooks or ()))

    return npu_model_fn


def _training_spec(spec, check, settings, model_dir):
    hooks, train_op = [check], spec.train_op
    rank, cards = rules.ranks()
    loop = settings['iterations_per_loop']
    if cards > 1 and not settings['horovod_mode']:
        hooks.append(NPUBroadcastGlobalVariablesHook(0, rank))
    saver = tf.train.Saver(max_to_keep=settings['keep_checkpoint_max'])
    hooks.append(
        NPUCheckpointSaverHook(
            model_dir,
            save_secs=settings['save_checkpoints_secs'],
            save_steps=settings['save_checkpoints_steps'],
            saver=saver,
        )
    )
    if loop > 1:
        hooks.append(SetIterationsVarHook(loop))
        train_op = tf.group(train_op, name='IterationOp')
    hooks += list(spec.training_hooks or ())
    check.names = [type(hook).__name__ for hook in hooks]
    return spec._replace(train_op=train_op, training_hooks=hooks)


class CheckHook(tf.train.SessionRunHook):
    """Checks the complete graph before the session is made, and counts calls."""

    def __init__(self, spec, settings):
        """`spec`: EstimatorSpec, `settings`: of NPURunConfig."""
        self.spec, self.settings, self.names = spec, settings, []

    def begin(self):
        """Raises ValueError listing what the NPU cannot run."""
        graph, training = tf.get_default_graph(), self.spec.mode == MODES.TRAIN
        roots = [self.spec.loss, self.spec.train_op]
        if not training:
            roots += tf.nest.flatten([self.spec.predictions, self.spec.eval_metric_ops])
        graph_check.check(graph, roots, self.settings, rules.ranks()[1] if training else 1)
        _same_engine(self.settings)
        if training:
            ops = [op for op, _ in graph_check.reached(roots)]
            PROCESS['facts'] = dict(
                keep_dtype_ops=sum(KEEP_DTYPE in op.node_def.attr for op in ops),
                distributed=bool(graph.get_collection(graph_check.DISTRIBUTED)),
                loss_scale_optimizer=bool(graph.get_collection(USED)),
                hooks=self.names,
            )

    def after_run(self, run_context, run_values):
        """Counts a session call."""
        report.STATE['calls'] += 1


def _same_engine(settings):
    path = settings.get('modify_mixlist')
    now = json.dumps(
        [
            settings.get('precision_mode'),
            settings.get('precision_mode_v2'),
            settings['graph_run_mode'],
            rules.mixlist('modify_mixlist', path) if path else None,
        ]
    )
    if PROCESS.setdefault('engine', now) != now:
        raise ValueError(
            'the graph engine of this process was initialised with '
            f'{PROCESS["engine"]}, {now} would be ignored: use a process of its own'
        )


class NPUEstimatorSpec(tf.estimator.EstimatorSpec):
    """EstimatorSpec with host_call, which NPUEstimator refuses here."""

    def __new__(cls, *args, host_call=None, **kwargs):
        """Arguments of tf.estimator.EstimatorSpec, then host_call."""
        spec = super().__new__(cls, *args, **kwargs)
        spec.host_call = host_call
        return spec
