"""What a run asked for and what became of it: the JSON file of NPU_STANDIN_REPORT.

    {"version": "r1.15", "run_config": {"precision_mode": ..., "modify_mixlist": path,
     "dump_config": {...}, "profiling_config": {...}, "session_config": {...}, ...},
     "mixlist": {...} or null, "attempts": 12, "skipped": 2, "loss_scale": 1024.0 or null,
     "global_step": 10, "calls": 12, "keep_dtype_ops": 7, "distributed": false,
     "loss_scale_optimizer": true, "hooks": [...], "trainings": 1}

`attempts` counts apply_gradients of NPULossScaleOptimizer, `calls` session calls.
"""

from __future__ import annotations

import json
import os

import numpy as np
import tensorflow.compat.v1 as tf

from . import rules

STATE = {'trainings': 0, 'attempts': 0, 'skipped': 0, 'calls': 0, 'loss_scale': None}


def start() -> None:
    """Counters of a new training."""
    STATE.update(attempts=0, skipped=0, calls=0, loss_scale=None)
    STATE['trainings'] += 1


def attempt(overflow: np.ndarray) -> np.ndarray:
    """Counts an apply attempt; bool []: whether it overflowed by itself or by the environment."""
    STATE['attempts'] += 1
    steps = os.environ.get('NPU_STANDIN_OVERFLOW_STEPS', '')
    injected = STATE['attempts'] in [int(text) for text in steps.split(',') if text]
    result = bool(overflow) or injected
    STATE['skipped'] += result
    return np.bool_(result)


def loss_scale(scale: np.ndarray) -> np.ndarray:
    """Notes the loss scale float32 [] after an update."""
    STATE['loss_scale'] = float(scale)
    return scale


def run_config(settings: dict) -> dict:
    """Run-config arguments as JSON values."""
    return {key: _plain(value) for key, value in settings.items()}


def _plain(value):
    if isinstance(value, tf.ConfigProto):
        rewrite = value.graph_options.rewrite_options
        names = {number: name for name, number in type(rewrite).Toggle.items()}
        return {
            'remapping': names[rewrite.remapping],
            'memory_optimization': names[rewrite.memory_optimization],
            'allow_soft_placement': value.allow_soft_placement,
            'NpuOptimizer': run_config(rules.session_config(value)),
        }
    if hasattr(value, 'settings'):
        return run_config(value.settings)
    if isinstance(value, bytes):
        return value.decode()
    return value if isinstance(value, (str, bool, int, float, type(None))) else repr(value)


def write(settings: dict, facts: dict) -> None:
    """Writes the report where NPU_STANDIN_REPORT says; `facts` are added to the counters."""
    path = os.environ.get('NPU_STANDIN_REPORT')
    if not path:
        return
    mixlist = settings.get('modify_mixlist')
    content = dict(STATE, version=os.environ.get('NPU_STANDIN_VERSION') or 'r1.15')
    content.update(
        run_config=run_config(settings),
        mixlist=rules.mixlist('modify_mixlist', mixlist) if mixlist else None,
        **facts,
    )
    with open(f'{path}.tmp', 'w') as f:
        json.dump(content, f, indent=1, sort_keys=True)
    os.replace(f'{path}.tmp', path)
