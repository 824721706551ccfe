"""What every program of a model folder shares: flags, settings, paths, errors as exit status.

The same file in all five model folders. Flag names follow the Ascend model zoo; each reaches what
it names.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import functools
import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

import tensorflow.compat.v1 as tf
from easydict import EasyDict

from . import npu

PRECISION_MODES = (
    'allow_mix_precision',
    'allow_fp32_to_fp16',
    'force_fp16',
    'must_keep_origin_dtype',
)  # what every TF Adapter accepts (ascend ModelZoo)
MODEL = Path(__file__).resolve().parent
ERRORS = (OSError, ValueError, RuntimeError, tf.errors.OpError, ImportError)


def program(main):
    """Turns an error of `main(argv)` into one message on stderr and exit status 1."""

    @functools.wraps(main)
    def run(argv=None):
        tf.logging.set_verbosity(tf.logging.ERROR)
        try:
            main(argv)
        except ERRORS as error:
            print(f'{MODEL.name}: error: {_text(error)}', file=sys.stderr, flush=True)
            return 1
        return 0

    return run


def _text(error):
    text = error.message if isinstance(error, tf.errors.OpError) else str(error)
    return '\n'.join(text.splitlines()[:12]) or repr(error)


def boolean(text: str) -> bool:
    """True or False of a zoo flag (`--over_dump=True`)."""
    if text.lower() not in ('true', 'false'):
        raise argparse.ArgumentTypeError(f'True or False, not {text!r}')
    return text.lower() == 'true'


def parser(doc: str) -> argparse.ArgumentParser:
    """A parser whose help is the module docstring, with the flags that all programs have."""
    result = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument(
        '--preset',
        help='settings of config.py; default: those of the checkpoint, '
        'else full (training on CPU: smoke)',
    )
    result.add_argument('--device', choices=('auto', 'npu', 'cpu'), default='auto')
    result.add_argument('--seed', type=int, help='of every random draw')
    result.add_argument(
        '--set', action='append', default=[], metavar='NAME=VALUE', help='a setting of config.py'
    )
    return result


def add_training_flags(flags: argparse.ArgumentParser) -> None:
    """The model zoo's training flags (ascend ModelZoo, test/train_full_1p.sh)."""
    add, switch = flags.add_argument, dict(type=boolean, default=False, metavar='{True,False}')
    add('--data_path', help='data; as given, then from --script_dir; default on CPU: drawn data')
    add('--output_path', default='output', help='checkpoints, resumed from when there are any')
    text = 'updates in all, those already done included'
    add('--steps', '--train_steps', type=int, dest='steps', help=text)
    text = 'passes over the data, instead of --steps'
    add('--epochs', '--train_epochs', type=int, dest='epochs', help=text)
    add('--batch_size', type=int, help='examples a card a step')
    add('--learning_rate', type=float)
    add('--precision_mode', choices=PRECISION_MODES, help='NPU only')
    add('--loss_scale', help="NPU only: 'dynamic', 'none' or a number")
    text = 'checkpoint (folder or prefix) to start from'
    add('--init_from', '--ckpt_path', dest='init_from', help=text)
    add('--over_dump', help='NPU: dump overflows', **switch)
    add('--data_dump_flag', help='NPU: dump operators', **switch)
    add('--data_dump_step', default='10', help='NPU: steps dumped, such as 0|5|10-20')
    add('--profiling', help='NPU: write a profile', **switch)
    add('--autotune', help='NPU: tune operators', **switch)
    add('--check_data', action='store_true', help='count what --data_path holds and stop')
    text = 'build the graph, read one batch, print sizes and stop'
    add('--dry_run', action='store_true', help=text)
    text = 'perf: preset performance, no accuracy at the end'
    add('--case', choices=('acc', 'perf'), default='acc', help=text)
    add('--result_path', help="folder of the model zoo's result files; without it there are none")
    add('--script_dir', help='second folder from which a relative --data_path is tried')


def configure(args, get_config, checkpoint: str | None = None) -> EasyDict:
    """The settings of a run: preset, then config.json beside `checkpoint`, then flags, then --set.

    Raises:
      ValueError: unknown preset or setting (nearest names given), value of another type.
    """
    device = npu.choose_device(args.device)
    preset = args.preset
    saved = {} if preset or not checkpoint else _saved(checkpoint)
    if preset is None and not saved and not checkpoint:
        preset = 'full' if getattr(args, 'case', 'acc') == 'acc' else 'performance'
        if device == 'cpu':
            print(f'preset: smoke (on CPU; --preset={preset} trains the whole network)', flush=True)
            preset = 'smoke'
    cfg = get_config(preset or 'full')
    cfg.update({key: value for key, value in saved.items() if key in cfg})
    if getattr(args, 'epochs', None):
        cfg.update(train_epochs=args.epochs, train_steps=0)
    if getattr(args, 'steps', None):
        cfg.train_steps = args.steps
    for key in ('batch_size', 'learning_rate', 'precision_mode', 'loss_scale', 'seed'):
        if getattr(args, key, None) is not None:
            cfg[key] = getattr(args, key)
    for text in args.set:
        _assign(cfg, text)
    for key in ('over_dump', 'data_dump_flag', 'data_dump_step', 'profiling', 'autotune', 'case'):
        cfg[key] = getattr(args, key, None)
    cfg.device = device
    return cfg


def _saved(checkpoint):
    path = os.path.join(os.path.dirname(checkpoint_prefix(checkpoint)), 'config.json')
    if not os.path.isfile(path):
        return {}
    with open(path) as f:
        return json.load(f)


def _assign(cfg, text):
    key, equals, value = text.partition('=')
    if not equals or key not in cfg:
        near = difflib.get_close_matches(key, cfg, 5, 0.4)
        raise ValueError(
            f'--set {text}: expected NAME=VALUE with a setting of config.py; '
            f'nearest: {", ".join(near) or "none"}'
        )
    old = cfg[key]
    if not isinstance(old, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise ValueError(f'--set {text}: expected a value like {old!r}') from None
    elif key == 'loss_scale':
        value = str(value)
    if isinstance(old, float) and isinstance(value, int):
        value = float(value)
    if type(value) is not type(old):
        raise ValueError(f'--set {text}: expected {type(old).__name__} like {old!r}')
    cfg[key] = value


def data_root(args, cfg) -> str:
    """Absolute folder of the data: --data_path as given, from --script_dir, or drawn where none is
    named.

    Raises:
      FileNotFoundError: naming every path tried.
    """
    if not args.data_path:
        return drawn_data(cfg)
    tried = [os.path.abspath(args.data_path)]
    if getattr(args, 'script_dir', None) and not os.path.isabs(args.data_path):
        tried.append(os.path.abspath(os.path.join(args.script_dir, args.data_path)))
    for path in tried:
        if os.path.isdir(path):
            return path
    raise FileNotFoundError(
        f'--data_path={args.data_path}: no such folder. Tried {" and ".join(tried)}'
    )


def drawn_data(cfg) -> str:
    """Draws the small data set of test/sample_data.py beside the model folder, once.

    Raises:
      FileNotFoundError: on the NPU, or where the drawing program is not there.
    """
    script = MODEL.parent / 'test' / 'sample_data.py'
    if cfg.device == 'npu' or not script.is_file():
        raise FileNotFoundError(
            '--data_path is needed: the folder of the data set. Only CPU runs '
            f'in the whole collection draw a small one themselves ({script})'
        )
    output = MODEL.parent / 'test' / 'output' / 'sample_data'
    print(f'data: drawing a small set in {output} (no --data_path)', flush=True)
    subprocess.run([sys.executable, str(script), f'--output={output}'], check=True)
    return str(output)


def writable(folder: str) -> str:
    """Makes the folder and returns its absolute path; OSError where nothing can be written
    there."""
    folder = os.path.abspath(folder)
    try:
        os.makedirs(folder, exist_ok=True)
        probe = os.path.join(folder, f'.write_probe_{os.getpid()}')
        with open(probe, 'w') as f:
            f.write('x')
        os.remove(probe)
    except OSError as error:
        raise OSError(
            f'cannot write to {folder}: {error.strerror}; choose another --output_path'
        ) from None
    return folder


def checkpoint_prefix(path: str) -> str:
    """Prefix of a checkpoint: `path` itself, or the newest one in the folder `path`.

    Raises:
      FileNotFoundError: none there.
    """
    absolute = os.path.abspath(path)
    if os.path.isdir(absolute):
        latest = tf.train.latest_checkpoint(absolute)
        if latest and os.path.isfile(f'{latest}.index'):
            return latest
    elif os.path.isfile(f'{absolute}.index'):
        return absolute
    raise FileNotFoundError(
        f'no checkpoint at {absolute}: expected a folder with '
        'model.ckpt-*.index or a prefix such as run/model.ckpt-1000; '
        'published weights are imported by convert'
    )


def match_variables(prefix: str, variables, partial: bool = False) -> list:
    """The graph's variables that the checkpoint holds, names and shapes checked.

    Args:
      prefix: of the checkpoint.
      variables: of the graph.
      partial: variables may be missing from the checkpoint (a backbone), as long as one is there.

    Raises:
      ValueError: a checkpoint of another network: what was expected against what was found.
    """
    found = dict(tf.train.list_variables(prefix))
    missing = [v.op.name for v in variables if v.op.name not in found]
    shapes = [
        f'{v.op.name}: expected {v.shape.as_list()}, found {found[v.op.name]}'
        for v in variables
        if found.get(v.op.name, v.shape.as_list()) != v.shape.as_list()
    ]
    if shapes or (missing and not partial) or len(missing) == len(variables):
        raise ValueError(
            f'checkpoint {prefix} is not of this network: {len(missing)} of {len(variables)} '
            f'variables missing (first: {missing[:3]}), {len(shapes)} of another shape '
            f'(first: {shapes[:3]}); it holds {sorted(found)[:3]}... Another --preset?'
        )
    return [v for v in variables if v.op.name in found]


def resume(cfg, output_path: str) -> None:
    """Sets the step that a run goes on from; it then starts from no other checkpoint."""
    latest = tf.train.latest_checkpoint(output_path)
    if latest:
        cfg.start_step = int(tf.train.load_variable(latest, 'global_step'))
        cfg.init_from = ''
        print(f'resuming from step {cfg.start_step}: {latest}', flush=True)


def save_settings(cfg, output_path: str) -> None:
    """Writes config.json beside the checkpoints: the other programs take their settings there."""
    saved = {k: v for k, v in cfg.items() if k not in ('pairs', 'examples', 'start_step')}
    text = json.dumps(saved, indent=1, sort_keys=True)
    npu.replace_file(os.path.join(output_path, 'config.json'), text)


def run_queue(jobs: list[tuple], devices: list[str]) -> list[int]:
    """Runs commands, one process on each device at a time; returns their exit statuses.

    Args:
      jobs: [(command, log file)]; the process writes there and has ASCEND_DEVICE_ID of its device.
      devices: ids.
    """
    waiting, results = queue.Queue(), [1] * len(jobs)
    for i in range(len(jobs)):
        waiting.put(i)
    path = os.pathsep.join([str(MODEL.parent), os.environ.get('PYTHONPATH', '')])

    def work(device):
        environment = dict(
            os.environ, ASCEND_DEVICE_ID=device, RANK_ID='0', RANK_SIZE='1', PYTHONPATH=path
        )
        with contextlib.suppress(queue.Empty):
            while True:
                i = waiting.get_nowait()
                command, log_path = jobs[i]
                print(f'device {device}: training, log in {log_path}', flush=True)
                with open(log_path, 'a') as log:
                    results[i] = subprocess.call(command, stdout=log, stderr=log, env=environment)

    threads = [threading.Thread(target=work, args=(device,)) for device in devices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
