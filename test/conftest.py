"""Fixtures of the whole suite: the drawn data, the real data where it is there, programs that must
fail, a quiet TensorFlow."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')  # TF 2.15: same float order as the reference

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / 'shared' / 'data'


@pytest.fixture(scope='session')
def shared_data():
    """Folder of the small real data beside the checkout; tests that need it skip without it."""
    if not SHARED.is_dir():
        pytest.skip(f'real data not here: {SHARED}')
    return SHARED


@pytest.fixture(scope='session')
def drawn(tmp_path_factory):
    """Trees drawn by sample_data.py: {'davis': path, ...}."""
    import sample_data

    return sample_data.draw(str(tmp_path_factory.mktemp('drawn') / 'data'))


@pytest.fixture
def fails(capsys):
    """fails(program, *flags): the message of a program that must end with exit status 1."""

    def run(program, *flags):
        capsys.readouterr()
        assert program.main([str(flag) for flag in flags]) == 1
        message = capsys.readouterr().err
        assert message.startswith(f'{program.__name__.split(".")[-2]}: error: ')
        assert 'Traceback' not in message
        return message

    return run


@pytest.fixture(autouse=True)
def no_npu(request, monkeypatch):
    """Hides the stand-in of npu_bridge, which lies on pytest's path, from all but its own tests."""
    if not request.module.__name__.startswith('test_npu'):
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util,
            'find_spec',
            lambda name, *a: None if name == 'npu_bridge' else find(name, *a),
        )
