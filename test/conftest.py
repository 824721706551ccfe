"""Fixtures of the whole suite: the drawn data, the real data where it is there, programs that must
fail, a quiet TensorFlow that does no more than the tests look at."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')  # TF 2.15: same float order as the reference

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / 'shared' / 'data'
LONGEST = (  # of all test files, the longest first: so the workers end together
    'test_manet_programs',
    'test_siammask_programs',
    'test_npu_graphs',
    'test_osmn_programs',
    'test_colornet_programs',
    'test_ranks',
    'test_programs',
    'test_pretrained',
    'test_wrappers',
    'test_npu_osvos',
    'test_osvos',
    'test_osmn',
    'test_manet_page',
    'test_soak',
    'test_siammask',
    'test_manet',
    'test_colornet',
    'test_osvos_convert',
    'test_api',
    'test_osvos_narrow',
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Hands whole files out to the workers in the order of LONGEST; pytest-xdist's own is by the
    number of tests in a file. Alone, pytest takes them by name."""
    from xdist.scheduler import LoadFileScheduling

    class LongestFirst(LoadFileScheduling):
        def _assign_work_unit(self, node):
            for name in reversed(LONGEST):
                if f'test/{name}.py' in self.workqueue:
                    self.workqueue.move_to_end(f'test/{name}.py', last=False)
            super()._assign_work_unit(node)

    return LongestFirst(config, log)


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


@pytest.fixture
def watched():
    """watched(folder): asserts that a training with summary_steps has left its record, the plots of
    it, and for TensorBoard scalars and images; returns the rows of the record. short: with too few
    updates for a line of progress, so that there are images alone."""

    def check(folder, short=False):
        import cv2
        import tensorflow.compat.v1 as tf

        from common import plots

        keys, rows = set(), []
        if not short:
            keys = {'loss', 'learning_rate', 'images_per_second'}
            rows = plots.read_progress(f'{folder}/progress.jsonl')
            assert rows and all(keys <= set(row) and row['images_per_second'] > 0 for row in rows)
            height, width, _ = cv2.imread(f'{folder}/training.png').shape
            assert width == 720 and height >= 3 * 200
        images, tags = {}, set()
        for path in Path(folder).glob('events*'):
            for event in tf.train.summary_iterator(str(path)):
                for value in event.summary.value:
                    tags.add(value.tag)
                    if value.HasField('image'):
                        data = np.frombuffer(value.image.encoded_image_string, np.uint8)
                        images[value.tag] = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert {f'progress/{key}' for key in keys} | {'loss'} <= tags
        names = [f'{name}/image/0' for name in ('input', 'target', 'prediction')]
        assert set(names) <= set(images), set(images)
        assert images[names[0]].std() > 5  # not black
        return rows

    return check


@pytest.fixture
def reported():
    """reported(path): asserts that a report has plots and frames with masks, none missing."""

    def check(path):
        text = Path(path).read_text()
        assert '<svg class="plot"' in text and 'src="data:image/jpeg;base64,' in text
        assert 'no image' not in text
        return text

    return check


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


@pytest.fixture(scope='session', autouse=True)
def quick_tensorflow():
    """Leaves out what takes much of the time of a training of a few steps and what no test looks
    at: the rewriting of graphs before they run, the graph beside each checkpoint and in the event
    files, warnings of deprecated arguments, for which each call's arguments are named.

    It holds for the test process. Programs that a test starts as processes of their own, the
    wrappers among them, run as they are.
    """
    if 'tensorflow' not in sys.modules:  # no test of this run needs it
        yield
        return
    import tensorflow.compat.v1 as tf
    from tensorflow.core.protobuf import config_pb2
    from tensorflow.python.client import session
    from tensorflow.python.util import deprecation

    begin, export = session.BaseSession.__init__, tf.train.Saver.export_meta_graph
    open_events = tf.summary.FileWriter.__init__

    def begin_unoptimized(self, target='', graph=None, config=None):
        changed = config_pb2.ConfigProto()
        if config is not None:
            changed.CopyFrom(config)
        changed.graph_options.rewrite_options.disable_meta_optimizer = True
        changed.graph_options.optimizer_options.opt_level = config_pb2.OptimizerOptions.L0
        begin(self, target, graph, changed)

    def export_no_file(self, filename=None, *args, **kwargs):
        return None if filename else export(self, filename, *args, **kwargs)

    def write_no_graph(self, logdir, graph=None, **kwargs):
        open_events(self, logdir, **kwargs)

    def save_first(self, new_session, coord):
        """CheckpointSaverHook.after_create_session without the graph."""
        step = new_session.run(self._global_step_tensor)
        self._save(new_session, step)
        self._timer.update_last_triggered_step(step)

    with pytest.MonkeyPatch.context() as patch, deprecation.silence():
        patch.setattr(tf.train.Saver, 'export_meta_graph', export_no_file)
        patch.setattr(session.BaseSession, '__init__', begin_unoptimized)
        patch.setattr(tf.train.CheckpointSaverHook, 'after_create_session', save_first)
        patch.setattr(tf.summary.FileWriter, '__init__', write_no_graph)
        yield
