"""Fixtures and helpers of the tests that run with the stand-in for npu_bridge in their own process.

from npu_standin import load_fixture, session_config  # noqa: F401 (fixture)
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys

import pytest
import tensorflow.compat.v1 as tf


@pytest.fixture(name='load')
def load_fixture(monkeypatch):
    """load('r1.10') imports npu_init as that adapter; afterwards all is as before the test."""
    inits = [(kind, kind.__init__) for kind in (tf.Session, tf.InteractiveSession)]
    before = {name: m for name, m in sys.modules.items() if name.split('.')[0] == 'npu_bridge'}
    for name in (
        'RANK_SIZE',
        'RANK_ID',
        'RANK_TABLE_FILE',
        'CM_WORKER_SIZE',
        'CM_CHIEF_IP',
        'NPU_STANDIN_REPORT',
        'NPU_STANDIN_OVERFLOW_STEPS',
        'RESTORE_FROM',
        'LOCAL_CHECKPOINT_DIR',
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('JOB_ID', '10087')

    def undo():
        for name in [n for n in sys.modules if n.split('.')[0] == 'npu_bridge']:
            del sys.modules[name]
        for kind, init in inits:
            kind.__init__ = init

    def fresh(version='r1.15'):
        undo()
        monkeypatch.setenv('NPU_STANDIN_VERSION', version)
        return importlib.import_module('npu_bridge.npu_init')

    yield fresh
    undo()
    sys.modules.update(before)


@pytest.fixture(name='mixlist')
def mixlist_fixture(tmp_path):
    """Path of a right mixed-precision list."""
    path = tmp_path / 'mixlist.json'
    path.write_text('{"black-list": {"to-add": ["ReduceSumD", "SoftmaxV2"], "to-remove": []}}')
    return str(path)


@contextlib.contextmanager
def control_flow(v2):
    """Control flow v2 and resource variables on or off, as they were afterwards."""
    was = tf.control_flow_v2_enabled(), tf.resource_variables_enabled()
    switches = [
        (tf.disable_control_flow_v2, tf.enable_control_flow_v2),
        (tf.disable_resource_variables, tf.enable_resource_variables),
    ]
    for switch in switches:
        switch[v2]()
    yield
    for switch, on in zip(switches, was):
        switch[on]()


def session_config(npu, **changes):
    """A ConfigProto as the NPU wants it, then `changes` to its rewrite options."""
    config = tf.ConfigProto(allow_soft_placement=True)
    rewrite = config.graph_options.rewrite_options
    rewrite.remapping = rewrite.memory_optimization = npu.RewriterConfig.OFF
    for key, value in changes.items():
        setattr(rewrite, key, value)
    return config


def write_table(tmp_path, cards, **changes):
    """Writes a right rank table but for `changes`; returns its path."""
    devices = [
        dict(device_id=str(i), device_ip=f'192.168.1.{i + 1}', rank_id=str(i))
        for i in range(cards)
    ]
    table = dict(
        server_count='1',
        status='completed',
        version='1.0',
        server_list=[dict(server_id='10.0.0.10', device=devices)],
    )
    path = tmp_path / 'table.json'
    path.write_text(json.dumps(dict(table, **changes)))
    return str(path)
