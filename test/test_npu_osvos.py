"""OSVOS "as on the NPU": its programs train and segment through the strict stand-in for npu_bridge.

npu.py is one file in the five folders: overflows, loss scales, the mixlist, every flag, older
adapters and several cards are tested here for all of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow.compat.v1 as tf
from npu_standin import control_flow, load_fixture, write_table  # noqa: F401 (a fixture)

from common import weights
from OSVOS import backbone, cli, config, evaluate, npu, online, progress, train

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] != (3, 7), reason='npu_bridge is for Python 3.7 and TensorFlow 1.15'
)

ROOT = Path(__file__).resolve().parent.parent
SMALL = [
    '--device=npu', '--batch_size=2', '--set=height=36', '--set=width=64', '--set=channels=0.07',
    '--set=log_steps=2', '--set=checkpoint_steps=2', '--set=workers=1',
]  # fmt: skip
SMOKE = [*SMALL, '--preset=smoke', '--loss_scale=1024']


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """One layer a stage: half the time to build a graph of the same operators."""
    stages = tuple((channels, 1) for channels, _ in backbone.STAGES)
    monkeypatch.setattr(backbone, 'STAGES', stages)


@pytest.fixture
def asked(load, tmp_path):
    """asked(*flags, version=...) -> the run configuration that NPUEstimator is given."""

    def run(*flags, version='r1.15'):
        load(version)
        parser = cli.parser('doc')
        cli.add_training_flags(parser)
        cfg = cli.configure(parser.parse_args([*SMOKE, '--steps=4', *flags]), config.get_config)
        settings = npu.estimator(train.model_fn, cfg, f'{tmp_path}/ckpt').config.settings
        from npu_bridge import report

        return report.run_config(settings)

    return run


@pytest.fixture
def trained(load, drawn, tmp_path, monkeypatch, capsys):
    """trained(*flags, version=...) -> (exit status, the stand-in's report, what was printed)."""
    monkeypatch.setenv('NPU_STANDIN_REPORT', str(tmp_path / 'report.json'))

    def run(*flags, version='r1.15'):
        load(version)
        capsys.readouterr()
        paths = [f'--data_path={drawn["davis"]}', f'--output_path={tmp_path}/ckpt']
        status = train.main([*paths, *flags])
        found = {}
        if (tmp_path / 'report.json').is_file():
            found = json.loads((tmp_path / 'report.json').read_text())
        printed = capsys.readouterr()
        return status, found, printed.out + printed.err

    return run


def test_trains_with_mixed_precision_and_skips_an_overflow(trained, tmp_path, monkeypatch):
    monkeypatch.setenv('NPU_STANDIN_OVERFLOW_STEPS', '3,4')
    status, found, printed = trained(*SMOKE, '--steps=6', '--device=auto')
    assert status == 0, printed
    assert found['global_step'] == 6 and found['skipped'] == 2 and found['attempts'] == 8
    assert weights.checkpoint_prefix(str(tmp_path / 'ckpt')).endswith('model.ckpt-6')
    settings = found['run_config']
    assert settings['precision_mode'] == 'allow_mix_precision'
    assert found['mixlist'] == {'black-list': {'to-add': ['ReduceSumD'], 'to-remove': []}}
    assert os.path.isabs(settings['modify_mixlist'])
    assert settings['op_compiler_cache_mode'] == 'enable'
    assert found['loss_scale'] == 1024 and found['keep_dtype_ops'] > 50  # loss, sigmoid, upsampling
    assert 'loss_scale 1024' in printed


def test_dynamic_loss_scale_recovers_with_the_oldest_adapter(trained):
    flags = [*SMOKE, '--loss_scale=dynamic', '--steps=3']
    status, found, printed = trained(*flags, version='r1.1.1')
    assert status == 0, printed
    assert found['global_step'] == 3 and found['skipped'] > 3 and found['loss_scale'] < 2**32


def after_updates(results, tmp_path):
    """Has a progress hook see the results of updates, one after the other."""
    cfg = config.get_config('smoke')
    hook = progress.ProgressHook(cfg, str(tmp_path))
    hook.attempts = hook.not_finite = hook.step = hook.time = 0
    hook.seen = hook.start = None
    for result in results:
        hook.after_run(None, tf.train.SessionRunValues(result, None, None))


def test_a_run_that_does_not_advance_ends(tmp_path, monkeypatch):
    """A loss scale that has collapsed, or a loss that stays non-finite: never a silent endless
    run."""
    monkeypatch.setattr(progress, 'STALLED', 5)
    stuck = [{'step': 1, 'loss': 0.5, 'scale': 1.0}] * 7
    with pytest.raises(RuntimeError, match='5 steps in a row overflowed at step 1, loss scale 1.0'):
        after_updates(stuck, tmp_path)
    after_updates(stuck[:6], tmp_path)
    lost = [{'step': step, 'loss': float('nan')} for step in range(5)]
    with pytest.raises(RuntimeError, match='not finite for 5 steps in a row, up to step 4'):
        after_updates(lost, tmp_path)
    after_updates([*lost[:4], {'step': 4, 'loss': 0.5}, {'step': 5, 'loss': 1.0}], tmp_path)


@pytest.mark.parametrize('v2', [False, True])
def test_batch_statistics_stay_where_an_update_is_skipped(load, v2):
    load()
    cfg = config.get_config('smoke')
    cfg.update(device='npu', loss_scale='1024')
    with control_flow(v2), tf.Graph().as_default(), tf.Session() as session:
        x = tf.placeholder(tf.float32, [])
        weight = tf.get_variable('w', [], initializer=tf.ones_initializer())
        moving = tf.get_variable('moving_mean', [], initializer=tf.zeros_initializer())
        step = tf.train.create_global_step()
        inner = tf.train.GradientDescentOptimizer(0.5)
        optimizer = npu.wrap_optimizer(inner, cfg, [(moving, 0.5 * moving + x)])
        train_op = optimizer.apply_gradients(optimizer.compute_gradients(weight * x), step)
        session.run(tf.global_variables_initializer())
        for value in (1.0, float('inf'), 100.0, 2.0):  # 100 * 1024 is beyond float16
            session.run(train_op, {x: value})
        assert session.run([weight, moving, step]) == [-0.5, 2.5, 2]


@pytest.mark.parametrize('version', ['r1.1.1', 'r1.3', 'r1.5', 'r1.10', 'r1.13', 'r1.15'])
def test_keywords_that_an_older_adapter_lacks_are_said(version, asked, capsys):
    settings = asked(version=version)
    old = version in ('r1.1.1', 'r1.3')  # their black list is that of the operator library alone
    assert ('left out' in capsys.readouterr().out) == old
    assert ('modify_mixlist' in settings) != old
    assert settings['precision_mode'] == 'allow_mix_precision'


def test_every_npu_flag_arrives(asked, tmp_path):
    settings = asked(
        '--precision_mode=allow_fp32_to_fp16', '--over_dump=True', '--profiling=True',
        '--autotune=True', '--set=iterations_per_loop=2', '--seed=9',
    )  # fmt: skip
    assert settings['precision_mode'] == 'allow_fp32_to_fp16'
    assert settings.get('modify_mixlist') is None
    assert settings['iterations_per_loop'] == 2 and settings['tf_random_seed'] == 9
    assert settings['dump_config']['enable_dump_debug'] is True
    assert settings['dump_config']['dump_path'] == str(tmp_path / 'overflow_dump')
    assert settings['profiling_config']['enable_profiling'] is True
    assert settings['aoe_mode'] == '2' and settings['work_path'] == str(tmp_path / 'autotune')


def test_the_zoos_other_flags(asked, trained, tmp_path):
    settings = asked('--fp32=True', '--over_dump=True', f'--over_dump_path={tmp_path}/dumps')
    assert settings['precision_mode'] == 'must_keep_origin_dtype'
    assert settings['dump_config']['dump_path'] == str(tmp_path / 'dumps')
    settings = asked('--profiling=True', f'--profiling_dump_path={tmp_path}/profile')
    assert f'"{tmp_path}/profile"' in settings['profiling_config']['profiling_options']
    settings = asked('--data_dump_flag=True', f'--data_dump_path={tmp_path}/values')
    assert settings['dump_config']['dump_path'] == str(tmp_path / 'values')
    status, _, printed = trained(*SMOKE, '--hf32=True', '--steps=2')
    assert status == 1 and '--hf32: HF32 came with the Ascend 910B' in printed


def test_data_dump_flags_arrive(asked, tmp_path):
    dump = asked('--data_dump_flag=True', '--data_dump_step=0|1')['dump_config']
    assert dump['enable_dump'] is True and dump['dump_step'] == '0|1'
    assert dump['dump_path'] == str(tmp_path / 'data_dump')


def test_paper_recipe_runs_without_control_flow(trained):
    status, found, printed = trained(
        *SMALL, '--preset=paper', '--from_scratch', '--steps=2', '--loss_scale=1024',
        '--set=accumulate=2',
    )  # fmt: skip
    assert status == 0, printed
    assert found['global_step'] == 2


def test_several_cards(trained, tmp_path, monkeypatch):
    monkeypatch.setenv('RANK_SIZE', '2')
    monkeypatch.setenv('RANK_ID', '1')
    status, _, printed = trained(*SMOKE, '--steps=2')
    assert status == 1 and '2 ranks need RANK_TABLE_FILE or CM_CHIEF_IP' in printed
    monkeypatch.setenv('RANK_TABLE_FILE', write_table(tmp_path, 2))
    monkeypatch.setenv('RANK_SIZE', '2')  # load() has taken them away
    monkeypatch.setenv('RANK_ID', '1')
    status, found, printed = trained(*SMOKE, '--steps=2')
    assert status == 0, printed
    assert found['distributed'] is True
    monkeypatch.setenv('RANK_SIZE', '4')
    status, _, printed = trained(*SMOKE, '--steps=2')
    assert status == 1 and 'lists the ranks [0, 1], expected 0..3' in printed


def test_steps_become_whole_loops(trained):
    status, found, printed = trained(*SMOKE, '--steps=3', '--set=iterations_per_loop=2')
    assert status == 0, printed
    assert 'train_steps=4, was 3: a multiple of iterations_per_loop' in printed
    assert found['global_step'] == 4


def test_evaluation_and_online_training_on_the_npu(trained, load, drawn, tmp_path):
    status, found, printed = trained(*SMOKE, '--steps=4', '--set=iterations_per_loop=2')
    assert status == 0, printed
    assert found['run_config']['iterations_per_loop'] == 2 and found['global_step'] == 4
    flags = [
        '--device=npu', f'--data_path={drawn["davis"]}', '--sequences=drawn-x',
        f'--checkpoint={tmp_path}/ckpt', '--set=online_steps=2', '--set=loss_scale=1024',
    ]  # fmt: skip
    load()
    assert online.main([*flags, f'--output_path={tmp_path}/online', '--object=0']) == 0
    load()
    flags += [f'--online_path={tmp_path}/online', f'--output_path={tmp_path}/results']
    assert evaluate.main(flags) == 0
    assert (tmp_path / 'results' / 'results.json').is_file()


def test_cpu_mode_never_imports_npu_bridge(drawn, tmp_path):
    """Of a process that can import it: importing makes every session one of the NPU."""
    code = (
        'import sys\nfrom OSVOS import backbone, train\n'
        'backbone.STAGES = tuple((channels, 1) for channels, _ in backbone.STAGES)\n'
        'status = train.main(sys.argv[1:])\n'
        'assert not [m for m in sys.modules if m.startswith("npu_bridge")]\nsys.exit(status)'
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / 'test')])
    flags = [f'--data_path={drawn["davis"]}', f'--output_path={tmp_path}/ckpt', *SMOKE]
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code, *flags, '--device=cpu', '--steps=1'],
        env=dict(os.environ, PYTHONPATH=path), cwd=str(ROOT), capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert tf.train.latest_checkpoint(str(tmp_path / 'ckpt'))
