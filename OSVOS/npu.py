"""Device choice, run configuration, mixed precision, loss scaling, progress and the model-zoo
result block.

The same file in all five model folders; what differs between models comes from config.py. In CPU
mode npu_bridge is never imported: importing it makes every session an NPU session. Conventions:
Ascend ModelZoo-TensorFlow, TF Adapter r1.1 - r1.15.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import inspect
import json
import os
import platform
import shutil
import tempfile
import time

from common import files
from common.lazy import tf

from . import ranks


def choose_device(device: str) -> str:
    """'npu', 'gpu' or 'cpu' for --device; auto takes the first of these that is there.

    Raises:
      RuntimeError: npu asked for where npu_bridge is not installed, gpu where there is none.
    """
    bridge = importlib.util.find_spec('npu_bridge') is not None
    if device == 'npu' and not bridge:
        raise RuntimeError(
            '--device npu: the Python package npu_bridge is not installed. It comes with CANN '
            '(TF Adapter): source env.sh on the Ascend server, or use --device cpu'
        )
    if device == 'gpu' and not _gpus():
        raise RuntimeError(
            f'--device gpu: TensorFlow {tf.__version__} sees no GPU. It needs one of NVIDIA with '
            "CUDA, and a TensorFlow built for it (pip install 'tensorflow[and-cuda]==2.15.*')"
        )
    if device != 'auto':
        return device
    if bridge:
        return 'npu'
    found = 'gpu' if _gpus() else 'cpu'
    print(f'device: {found} (npu_bridge is not installed)', flush=True)
    return found


def _gpus():
    """GPUs that TensorFlow can use; TensorFlow is asked only where there is a driver."""
    if not os.path.exists('/proc/driver/nvidia'):
        return []
    return tf.config.experimental.list_physical_devices('GPU')


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
        return tf.estimator.Estimator(model_fn, model_dir, _plain_run_config(cfg), dict(cfg))
    from npu_bridge.npu_init import NPUEstimator

    config = _npu_run_config(cfg, model_dir)
    return NPUEstimator(model_fn=model_fn, model_dir=model_dir, params=dict(cfg), config=config)


def session(cfg) -> tf.Session:
    """A session on cfg.device, for programs that feed a result back into the next call."""
    if cfg.device != 'npu':
        return tf.Session(config=_plain_session_config(cfg))
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


def _plain_session_config(cfg):
    """Of TensorFlow's own devices: the processor, with --device=gpu the first GPU too."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    config = tf.ConfigProto(intra_op_parallelism_threads=cores, inter_op_parallelism_threads=2)
    config.device_count['GPU'] = int(cfg.device == 'gpu')
    config.gpu_options.allow_growth = True
    return ranks.join(config) if ranks.rank()[1] > 1 else config


def _plain_run_config(cfg):
    return tf.estimator.RunConfig(
        tf_random_seed=cfg.seed, save_checkpoints_steps=cfg.checkpoint_steps,
        save_summary_steps=cfg.summary_steps, keep_checkpoint_max=cfg.keep_checkpoints,
        log_step_count_steps=None, session_config=_plain_session_config(cfg),
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
    _plain_session_config(cfg)


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


def wrap_optimizer(optimizer, cfg, statistics=()):
    """The optimizer with gradients averaged over the ranks, and with loss scaling on the NPU.

    Call it outside every control-dependency scope: the loss-scale variables may not depend on
    anything.

    Args:
      optimizer: of one rank.
      cfg: device, loss_scale.
      statistics: [(moving statistic, its next value)], assigned where gradients are applied.
    """
    from . import averaging  # here: its classes need TensorFlow, which --help can do without

    count = ranks.rank()[1]
    if statistics:
        optimizer = averaging.WithStatistics(optimizer, statistics)
    if cfg.get('device', 'cpu') != 'npu':
        return averaging.AveragedOptimizer(optimizer) if count > 1 else optimizer
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
    """Has TensorBoard show images every cfg.summary_steps updates; not on the NPU, where they would
    leave the device in the middle of a step.

    Args:
      cfg: uses summary_steps, device.
      make: function that gives {name: image}: float32 or uint8 [B, H, W, 3], BGR, 0..255, or
        float32 [B, H, W, 1], 0..1. Not called where none are shown.
    """
    if not cfg.get('summary_steps') or cfg.get('device', 'cpu') not in ('cpu', 'gpu'):
        return
    for name, image in make().items():
        image = tf.cast(image, tf.float32)
        image = image[..., ::-1] if image.shape.as_list()[-1] == 3 else 255 * image
        tf.summary.image(name, tf.cast(tf.clip_by_value(image, 0, 255), tf.uint8), max_outputs=2)


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
