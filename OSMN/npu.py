"""Device choice, run configuration, mixed precision, loss scaling, progress and the model-zoo
result block.

The same file in all five model folders; what differs between models comes from config.py. In CPU
mode npu_bridge is never imported: importing it makes every session an NPU session. Conventions:
Ascend ModelZoo-TensorFlow, TF Adapter r1.1 - r1.15.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import functools
import importlib.util
import inspect
import json
import math
import os
import platform
import shutil
import tempfile
import time

import tensorflow.compat.v1 as tf

from common import files, plots

from . import ranks

STALLED = 200  # attempts without an update before a run gives up: the loss scale has collapsed


def choose_device(device: str) -> str:
    """'npu' or 'cpu' for --device auto, npu or cpu.

    Raises:
      RuntimeError: npu asked for where npu_bridge is not installed.
    """
    found = device != 'cpu' and importlib.util.find_spec('npu_bridge') is not None
    if device == 'npu' and not found:
        raise RuntimeError(
            '--device npu: the Python package npu_bridge is not installed. It comes with CANN '
            '(TF Adapter): source env.sh on the Ascend server, or use --device cpu'
        )
    if device == 'auto' and not found:
        print('device: cpu (npu_bridge is not installed)', flush=True)
    return 'npu' if found else 'cpu'


@contextlib.contextmanager
def keep_float32(cfg):
    """Operators made inside stay float32 under mixed precision."""
    if cfg.get('device', 'cpu') == 'npu':
        from npu_bridge.estimator.npu import npu_scope

        with npu_scope.keep_dtype_scope():
            yield
    else:
        yield


def estimator(model_fn, cfg, model_dir: str):
    """NPUEstimator on Ascend, tf.estimator.Estimator on CPU, params=cfg."""
    model_dir = os.path.abspath(model_dir)
    if cfg.device != 'npu':
        return tf.estimator.Estimator(model_fn, model_dir, _cpu_run_config(cfg), dict(cfg))
    from npu_bridge.npu_init import NPUEstimator

    config = _npu_run_config(cfg, model_dir)
    return NPUEstimator(model_fn=model_fn, model_dir=model_dir, params=dict(cfg), config=config)


def session(cfg) -> tf.Session:
    """A session on cfg.device, for programs that feed a result back into the next call."""
    if cfg.device != 'npu':
        return tf.Session(config=_cpu_session_config())
    config = _session_config()
    options = config.graph_options.rewrite_options.custom_optimizers.add(name='NpuOptimizer')
    options.parameter_map['use_off_line'].b = True
    options.parameter_map['graph_run_mode'].i = 0  # inference
    options.parameter_map['precision_mode'].s = cfg.precision_mode.encode()
    options.parameter_map['op_compiler_cache_mode'].s = b'enable'  # in CANN's own folder
    if cfg.precision_mode.startswith('allow_mix_precision'):
        options.parameter_map['modify_mixlist'].s = _mixlist(cfg, _scratch()).encode()
    return tf.Session(config=config)


@functools.lru_cache(maxsize=None)
def _scratch():
    """A folder that lives as long as this process."""
    folder = tempfile.mkdtemp(prefix='npu-')
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _cpu_session_config():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    config = tf.ConfigProto(intra_op_parallelism_threads=cores, inter_op_parallelism_threads=2)
    return ranks.join(config) if ranks.rank()[1] > 1 else config


def _cpu_run_config(cfg):
    return tf.estimator.RunConfig(
        tf_random_seed=cfg.seed, save_checkpoints_steps=cfg.checkpoint_steps,
        save_summary_steps=cfg.summary_steps, keep_checkpoint_max=cfg.keep_checkpoints,
        log_step_count_steps=None, session_config=_cpu_session_config(),
    )  # fmt: skip


def _npu_run_config(cfg, model_dir):
    from npu_bridge.npu_init import NPURunConfig

    settings = dict(
        model_dir=model_dir, tf_random_seed=cfg.seed, session_config=_session_config(),
        save_checkpoints_steps=cfg.checkpoint_steps, keep_checkpoint_max=cfg.keep_checkpoints,
        save_summary_steps=0, log_step_count_steps=cfg.log_steps,
        iterations_per_loop=cfg.iterations_per_loop, enable_data_pre_proc=True,
        hcom_parallel=True, enable_small_channel=1, precision_mode=cfg.precision_mode,
        op_compiler_cache_mode='enable', op_compiler_cache_dir=_folder(model_dir, 'kernel_cache'),
    )  # fmt: skip
    if cfg.precision_mode.startswith('allow_mix_precision'):
        settings['modify_mixlist'] = _mixlist(cfg, model_dir)
    settings.update(_debug_settings(cfg, os.path.dirname(model_dir)))
    return NPURunConfig(**known(NPURunConfig, settings))


def _session_config():
    from npu_bridge.npu_init import RewriterConfig

    session = tf.ConfigProto(allow_soft_placement=True)
    session.graph_options.rewrite_options.remapping = RewriterConfig.OFF
    session.graph_options.rewrite_options.memory_optimization = RewriterConfig.OFF
    return session


def _debug_settings(cfg, folder):
    """Run-config values of --over_dump, --data_dump_flag, --profiling and --autotune."""
    from npu_bridge.npu_init import DumpConfig, ProfilingConfig

    settings = {}
    if cfg.get('over_dump'):
        settings['dump_config'] = DumpConfig(
            enable_dump_debug=True, dump_debug_mode='all',
            dump_path=_folder(cfg.get('over_dump_path') or os.path.join(folder, 'overflow_dump')),
        )  # fmt: skip
    elif cfg.get('data_dump_flag'):
        settings['dump_config'] = DumpConfig(
            enable_dump=True, dump_step=str(cfg.data_dump_step), dump_mode='all',
            dump_path=_folder(cfg.get('data_dump_path') or os.path.join(folder, 'data_dump')),
        )  # fmt: skip
    if cfg.get('profiling'):
        options = {
            'output': _folder(cfg.get('profiling_dump_path') or os.path.join(folder, 'profiling')),
            'training_trace': 'on', 'task_trace': 'on',
            'aicpu': 'on', 'fp_point': '', 'bp_point': '',
        }  # fmt: skip
        settings['profiling_config'] = ProfilingConfig(
            enable_profiling=True, profiling_options=json.dumps(options)
        )
    if cfg.get('autotune'):
        settings.update(aoe_mode='2', work_path=_folder(folder, 'autotune'))  # 2: operator tuning
    return settings


def _mixlist(cfg, model_dir):
    path = os.path.join(_folder(model_dir), 'mixlist.json')
    lists = {'black-list': {'to-add': list(cfg.black_list), 'to-remove': []}}
    files.write_text(path, json.dumps(lists))
    return path


def known(function, settings: dict) -> dict:
    """The settings that the installed adapter's signature has; the dropped ones are printed.

    Raises:
      RuntimeError: it has no precision_mode or session_config, which no run may lose.
    """
    names = inspect.signature(function).parameters
    if any(each.kind == each.VAR_KEYWORD for each in names.values()):
        return settings
    dropped = sorted(set(settings) - set(names))
    if {'precision_mode', 'session_config'} & set(dropped):
        raise RuntimeError(f'{function} of this npu_bridge takes no {", ".join(dropped)}')
    if dropped:
        print(f'this npu_bridge has no {", ".join(dropped)}: left out', flush=True)
    return {key: value for key, value in settings.items() if key in names}


def prepare_ranks(cfg) -> None:
    """Checks the environment of a run on several ranks; without an NPU starts this rank's server.

    Raises:
      ValueError: it cannot work, or a setting needs one rank.
    """
    if cfg.device == 'npu':
        ranks.check_cards()
        return
    if cfg.get('accumulate', 1) > 1:
        raise ValueError(
            f'accumulate={cfg.accumulate}: without an NPU several ranks take a batch in one pass; '
            'give --set accumulate=1 and the --batch_size that fits'
        )
    _cpu_session_config()


def fit_loop(cfg, keys=('train_steps', 'checkpoint_steps', 'log_steps')) -> None:
    """Makes numbers of updates among the settings multiples of iterations_per_loop, which the NPU
    needs, and says so; on CPU a call is one update."""
    loop = cfg.iterations_per_loop
    if loop > 1 and cfg.device != 'npu':
        print(f'iterations_per_loop={loop} is for the NPU: 1 here', flush=True)
        cfg.iterations_per_loop = loop = 1
    for key in keys:
        if cfg[key] % loop:
            more = -(-cfg[key] // loop) * loop
            print(f'{key}={more}, was {cfg[key]}: a multiple of iterations_per_loop', flush=True)
            cfg[key] = more


class _WithStatistics(tf.train.Optimizer):
    """Moves batch statistics where gradients are applied: an update that loss scaling skips leaves
    both as they are."""

    def __init__(self, inner, statistics):
        """The optimizer of one rank, and what wrap_optimizer() is given."""
        super().__init__(use_locking=False, name='WithStatistics')
        self.inner, self.statistics = inner, statistics

    def compute_gradients(self, *args, **kwargs):
        """As the inner optimizer."""
        return self.inner.compute_gradients(*args, **kwargs)

    def apply_gradients(self, grads_and_vars, global_step=None, name=None):
        """Moves the statistics and applies the gradients."""
        moved = [tf.assign(variable, value) for variable, value in self.statistics]
        with tf.control_dependencies(moved):
            return self.inner.apply_gradients(grads_and_vars, global_step, name)

    def variables(self):
        """Of the inner optimizer."""
        return self.inner.variables()


def wrap_optimizer(optimizer, cfg, statistics=()):
    """The optimizer with gradients averaged over the ranks, and with loss scaling on the NPU.

    Call it outside every control-dependency scope: the loss-scale variables may not depend on
    anything.

    Args:
      optimizer: of one rank.
      cfg: device, loss_scale.
      statistics: [(moving statistic, its next value)], assigned where gradients are applied.
    """
    count = ranks.rank()[1]
    if statistics:
        optimizer = _WithStatistics(optimizer, statistics)
    if cfg.get('device', 'cpu') != 'npu':
        return ranks.AveragedOptimizer(optimizer) if count > 1 else optimizer
    from npu_bridge import npu_init as npu

    optimizer = npu.npu_tf_optimizer(optimizer) if count > 1 else optimizer
    if cfg.loss_scale == 'none':
        return optimizer
    if cfg.loss_scale == 'dynamic':  # the zoo's usual values (ascend ports, 100 of 125 uses)
        manager = npu.ExponentialUpdateLossScaleManager(
            init_loss_scale=2**32,
            incr_every_n_steps=1000,
            decr_every_n_nan_or_inf=2,
            decr_ratio=0.5,
        )
    else:
        manager = npu.FixedLossScaleManager(loss_scale=float(cfg.loss_scale))
    tf.identity(manager.get_loss_scale(), name='progress_loss_scale')
    return npu.NPULossScaleOptimizer(optimizer, manager, is_distributed=count > 1)


def record(name: str, value: tf.Tensor) -> None:
    """Has ProgressHook keep a float32 scalar of the training graph, such as the learning rate."""
    tf.add_to_collection('record', tf.identity(value, f'record_{name}'))


def show_images(cfg, make) -> None:
    """Has TensorBoard show images every cfg.summary_steps updates, on CPU alone: on the NPU they
    would leave the device in the middle of a step.

    Args:
      cfg: uses summary_steps, device.
      make: function that gives {name: image}: float32 or uint8 [B, H, W, 3], BGR, 0..255, or
        float32 [B, H, W, 1], 0..1. Not called where none are shown.
    """
    if not cfg.get('summary_steps') or cfg.get('device', 'cpu') != 'cpu':
        return
    for name, image in make().items():
        image = tf.cast(image, tf.float32)
        image = image[..., ::-1] if image.shape.as_list()[-1] == 3 else 255 * image
        tf.summary.image(name, tf.cast(tf.clip_by_value(image, 0, 255), tf.uint8), max_outputs=2)


class ProgressHook(tf.train.SessionRunHook):
    """Prints step, loss, speed and remaining time; measures throughput without the first interval.

    The first interval holds graph compilation, minutes on the NPU. `fps` is None until a second one
    has ended. Attempts that do not advance the step (loss-scale overflows), or whose loss is not
    finite, end the run after STALLED of them in a row.
    """

    def __init__(self, cfg, folder: str, loss_path: str | None = None):
        """`folder` of the run, whose speed.json keeps throughput and last loss for the result block
        of a run that is killed before it; `loss_path`: a file that gets one loss a line. The
        graph's loss is named `train_loss`."""
        self.folder = folder
        self.steps, self.images = cfg.train_steps, cfg.batch_size * ranks.rank()[1]
        left = self.steps - cfg.get('start_step', 0)
        self.every = max(1, min(cfg.log_steps, left // 3))
        self.loop = cfg.iterations_per_loop
        # fewer than the updates after which the last good checkpoint would be deleted, at least 3
        kept = cfg.get('checkpoint_steps', STALLED) * (cfg.get('keep_checkpoints', 5) - 1)
        self.patience = max(3, min(STALLED, kept // self.loop - 1))  # a spike alone ends no run
        self.loss_path, self.fps, self.last_loss = loss_path, None, None

    def begin(self):
        """Finds the step, the loss and, on the NPU, the loss scale."""
        named = tf.get_default_graph().get_tensor_by_name
        self.fetches = {'step': tf.train.get_global_step(), 'loss': named('train_loss:0')}
        with contextlib.suppress(KeyError):
            self.fetches['scale'] = named('progress_loss_scale:0')
        recorded = tf.get_collection('record')
        self.fetches['record'] = {t.op.name.split('record_')[-1]: t for t in recorded}
        self.time = self.step = self.start = self.seen = None
        self.attempts = self.not_finite = 0

    def before_run(self, run_context):
        """Asks for step and loss with every call."""
        return tf.train.SessionRunArgs(self.fetches)

    def after_run(self, run_context, run_values):
        """Prints a line every interval."""
        values, now = run_values.results, time.monotonic()
        step = int(values['step'])  # of before or after this update: reads are not ordered
        self.last_loss = float(values['loss'])
        self.attempts = 0 if self.seen is None or step > self.seen else self.attempts + 1
        self.seen = step
        if self.attempts > STALLED:
            raise RuntimeError(
                f'{STALLED} steps in a row overflowed at step {step}, loss scale '
                f'{values.get("scale")}: lower --learning_rate or --loss_scale'
            )
        self.not_finite = 0 if math.isfinite(self.last_loss) else self.not_finite + 1
        if self.not_finite >= self.patience:
            good = step - self.patience * self.loop
            raise RuntimeError(
                f'the loss was not finite for {self.patience} steps in a row, up to step {step}: '
                f'lower --learning_rate. The checkpoints are kept; those up to step {good} are of '
                'before, if any is left: --init_from takes one, with another --output_path'
            )
        target = self.steps if self.step is None else min(self.step + self.every, self.steps)
        if self.step is None or step + self.loop >= target:
            step = int(run_context.session.run(self.fetches['step']))
            if self.step is None:
                self.step, self.time = step, now
            elif step >= target > self.step:
                self._report(step, now, values.get('scale'))
                self._record(step, values)

    def _report(self, step, now, scale):
        seconds = (now - self.time) / (step - self.step)
        if self.start is None:
            self.start = (step, now)
        else:
            self.fps = self.images * (step - self.start[0]) / (now - self.start[1])
        eta = datetime.timedelta(seconds=round(seconds * (self.steps - step)))
        more = f' loss_scale {float(scale):g}' if scale is not None else ''
        print(
            f'step {step}/{self.steps} loss {self.last_loss:.6g} {seconds:.4f} s/step '
            f'{self.images / seconds:.2f} img/s eta {eta}{more}',
            flush=True,
        )
        if self.loss_path:
            with open(self.loss_path, 'a') as f:
                f.write(f'{self.last_loss:.6g}\n')
        if self.fps:
            speed = {'fps': self.fps, 'loss': self.last_loss, 'images': self.images}
            files.write_text(os.path.join(self.folder, 'speed.json'), json.dumps(speed))
        self.step, self.time, self.speed = step, now, self.images / seconds

    def _record(self, step, values):
        """Adds a line to progress.jsonl, of which training.png is drawn, and the same scalars to
        TensorBoard's events."""
        row = {'loss': self.last_loss, 'images_per_second': self.speed, **values['record']}
        if 'scale' in values:
            row['loss_scale'] = values['scale']
        row = {key: float(value) for key, value in row.items() if math.isfinite(value)}
        with open(os.path.join(self.folder, plots.PROGRESS), 'a') as f:
            f.write(json.dumps({'step': step, **row}) + '\n')
        found = [tf.Summary.Value(tag=f'progress/{k}', simple_value=v) for k, v in row.items()]
        writer = tf.summary.FileWriterCache.get(self.folder)
        writer.add_summary(tf.Summary(value=found), step)
        writer.flush()


def write_result(cfg, folder: str, run_folder: str, accuracy: float | None = None) -> None:
    """Prints the model-zoo result block and writes `folder`/<CaseName>.log, keys and units of the
    zoo; throughput and loss are those that the training left in `run_folder`, of several ranks
    those of the slowest.

    ActualFPS: images/s over all cards; TrainingTime: ms a step; E2ETrainingTime: s since
    START_TIME.

    Raises:
      RuntimeError: no throughput was measured (fewer than two progress intervals).
    """
    speed = ranks.slowest(run_folder)
    if not speed:
        raise RuntimeError(
            'no throughput figure: fewer than two progress intervals were run; give '
            'more --steps than the output folder has already'
        )
    seconds = max(0, int(time.time() - float(os.environ.get('START_TIME') or time.time())))
    rows = {
        'Network': cfg.name, 'RankSize': ranks.rank()[1], 'BatchSize': cfg.batch_size,
        'DeviceType': platform.machine(), 'CaseName': case_name(cfg),
        'ActualFPS': f'{speed["fps"]:.2f}',
        'TrainingTime': f'{speed["images"] * 1000 / speed["fps"]:.2f}',
    }  # fmt: skip
    if accuracy is not None:
        rows['TrainAccuracy'] = f'{accuracy:.4f}'
    rows.update(ActualLoss=f'{speed["loss"]:.6g}', E2ETrainingTime=seconds)
    text = ''.join(f'{key} = {value}\n' for key, value in rows.items())
    files.write_text(os.path.join(folder, f'{case_name(cfg)}.log'), text)
    print('------------------ Final result ------------------')
    print(f'Final Performance images/sec : {speed["fps"]:.2f}')
    if accuracy is not None:
        print(f'Final Train Accuracy : {accuracy:.4f}')
    print(f'E2E Training Duration sec : {seconds}', flush=True)


def case_name(cfg) -> str:
    """<Network>[_bindcore]_bs<B>_<cards>p_<acc|perf>, the zoo's name of a run."""
    bind = '_bindcore' if os.environ.get('BIND_CORE') else ''
    return f'{cfg.name}{bind}_bs{cfg.batch_size}_{ranks.rank()[1]}p_{cfg.case}'


def _folder(*parts):
    path = os.path.abspath(os.path.join(*parts))
    os.makedirs(path, exist_ok=True)
    return path


def loss_path(cfg, folder: str) -> str:
    """`folder`/train_<CaseName>_loss.txt, the zoo's file of one loss a line."""
    return os.path.join(_folder(folder), f'train_{case_name(cfg)}_loss.txt')
