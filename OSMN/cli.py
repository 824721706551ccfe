"""What every program of a model folder shares: flags, settings, folders of runs, checkpoints and
graphs in and out, errors as exit status.

The same file in all five model folders. Flag names follow the Ascend model zoo; each reaches what
it names.
"""

from __future__ import annotations

import argparse
import ast
import collections
import contextlib
import difflib
import fcntl
import functools
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from easydict import EasyDict

from common import console, files, plots, weights
from common.lazy import np, tf

from . import config, npu, ranks

PRECISION_MODES = (
    'allow_mix_precision',
    'allow_fp32_to_fp16',
    'force_fp16',
    'must_keep_origin_dtype',
)  # what every TF Adapter accepts (ascend ModelZoo)
MODEL = Path(__file__).resolve().parent
MODELS = ('OSMN', 'OSVOS', 'SiamMask', 'ColorNet', 'MANet')  # their scopes: these in small letters
CARD = 32  # GB of an Ascend 910
SLOTS = ('/Adam', '/Adam_1', '/AdamW', '/AdamW_1', '/Momentum')  # an optimizer's variables
ABOVE_ZERO = (
    'batch_size', 'accumulate', 'learning_rate', 'online_learning_rate', 'height', 'width',
    'test_height', 'channels', 'log_steps', 'checkpoint_steps', 'keep_checkpoints', 'online_steps',
    'iterations_per_loop', 'guide_size', 'search_size', 'size', 'objects',
)  # fmt: skip
DEBUG = ('over_dump', 'data_dump_flag', 'data_dump_step', 'profiling', 'autotune')
DUMPS = ('over_dump', 'data_dump', 'profiling_dump')  # what may have a folder of its own
NOT_NEGATIVE = (
    'train_steps', 'train_epochs', 'workers', 'seed', 'weight_decay', 'momentum', 'summary_steps',
)  # fmt: skip
CHECKPOINT = 'folder or prefix; default: small, the weights that come along'


class Stopped(BaseException):
    """SIGINT or SIGTERM has come; `status` is the exit status, 130 or 143."""

    def __init__(self, number: int):
        """`number` of the signal."""
        super().__init__(number)
        self.status = 128 + number


def program(main):
    """Turns an error of `main(argv)` into one message on stderr and exit status 1, SIGINT and
    SIGTERM into one line and 130 or 143. Called from another program, it leaves signals to that."""

    @functools.wraps(main)
    def run(argv=None):
        logging.getLogger('tensorflow').setLevel(logging.ERROR)
        if hasattr(sys.stdout, 'reconfigure'):  # names of files may have bytes that are no UTF-8
            sys.stdout.reconfigure(errors='backslashreplace')
        mine = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        mine = mine and threading.current_thread() is threading.main_thread()
        try:
            with _signals() if mine else contextlib.nullcontext():
                main(argv)
        except Stopped as stopped:
            if not mine:
                raise
            print(f'{MODEL.name}: stopped by a signal; given again, it goes on', file=sys.stderr)
            return stopped.status
        except errors() as error:
            print(f'{MODEL.name}: error: {_text(error)}', file=sys.stderr, flush=True)
            return 1
        return 0

    return run


def errors() -> tuple:
    """The kinds of exceptions that a program reports in one message."""
    kinds = (OSError, ValueError, RuntimeError, ImportError, MemoryError)
    return (*kinds, tf.errors.OpError) if 'tensorflow' in sys.modules else kinds


@contextlib.contextmanager
def _signals():
    """Raises Stopped at the first SIGINT or SIGTERM; more of them are ignored while things end."""

    def stop(number, frame):
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    before = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _text(error):
    """The message of an error; of one that Python raised inside TensorFlow, what Python said."""
    if isinstance(error, UnicodeEncodeError):  # as TensorFlow and OpenCV raise it
        return f'{error.object!r:.300}: a name with bytes that are no UTF-8; rename or link it'
    if 'tensorflow' not in sys.modules or not isinstance(error, tf.errors.OpError):
        return str(error) or repr(error)
    raised = re.search(r'^\w+Error: (.*?)(?=\nTraceback|\n\s|\n*\Z)', error.message, re.M | re.S)
    return raised.group(1) if raised else '\n'.join(error.message.splitlines()[:12])


def boolean(text: str) -> bool:
    """True or False of a zoo flag (`--over_dump=True`)."""
    if text.lower() not in ('true', 'false'):
        raise argparse.ArgumentTypeError(f'True or False, not {text!r}')
    return text.lower() == 'true'


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'expected a whole number of at least 1, not {text!r}')
    return int(text)


def parser(doc: str) -> argparse.ArgumentParser:
    """A parser whose help is the module docstring, with the flags that all programs have."""
    result = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    text = 'settings of config.py; default: those of the checkpoint, else full (on CPU: smoke)'
    result.add_argument('--preset', help=text)
    result.add_argument('--device', choices=('auto', 'npu', 'gpu', 'cpu'), default='auto')
    result.add_argument('--seed', type=int, help='of every random draw')
    form = result.add_mutually_exclusive_group()
    form.add_argument('--quiet', action='store_true', help='no lines of progress')
    form.add_argument('--json', action='store_true', help='lines of progress as JSON')
    text = 'a setting of config.py'
    result.add_argument('--set', action='append', default=[], metavar='NAME=VALUE', help=text)
    return result


def add_training_flags(flags: argparse.ArgumentParser) -> None:
    """The model zoo's training flags (ascend ModelZoo, test/train_full_1p.sh)."""
    add, switch = flags.add_argument, dict(type=boolean, default=False, metavar='{True,False}')
    add('--data_path', help='data; as given, then from --script_dir; default on CPU: drawn data')
    text = 'checkpoints, resumed from when there are any; default: output/<model>'
    add('--output_path', default=os.path.join('output', MODEL.name), help=text)
    text = 'updates in all, those already done included'
    add('--steps', '--train_steps', type=positive, dest='steps', help=text)
    text = 'passes over the data, instead of --steps'
    add('--epochs', '--train_epochs', type=positive, dest='epochs', help=text)
    add('--batch_size', type=positive, help='examples a card a step')
    add('--learning_rate', type=float)
    add('--precision_mode', choices=PRECISION_MODES, help='NPU only')
    add('--loss_scale', help="NPU only: 'dynamic', 'none' or a number")
    text = 'checkpoint (folder or prefix) to start from, or small: the weights that come along'
    add('--init_from', '--ckpt_path', dest='init_from', help=text)
    text = 'take --init_from even where it has less than half of the variables'
    add('--partial_init', action='store_true', help=text)
    text = 'random weights where the preset expects published ones'
    add('--from_scratch', action='store_true', help=text)
    add('--fp32', help='as --precision_mode=must_keep_origin_dtype', **switch)
    add('--hf32', help='refused: the Ascend 910 has no HF32', **switch)
    add('--over_dump', help='NPU: dump overflows', **switch)
    add('--data_dump_flag', help='NPU: dump operators', **switch)
    add('--data_dump_step', default='10', help='NPU: steps dumped, such as 0|5|10-20')
    add('--profiling', help='NPU: write a profile', **switch)
    add('--autotune', help='NPU: tune operators', **switch)
    for what in DUMPS:
        add(f'--{what}_path', help='folder; default: beside the checkpoints')
    text = 'count what --data_path holds and stop; =all: decode every file'
    add('--check_data', nargs='?', const='some', choices=('some', 'all'), help=text)
    text = 'build the graph, read one batch, print sizes and stop'
    add('--dry_run', action='store_true', help=text)
    text = 'perf: preset performance, no accuracy at the end'
    add('--case', choices=('acc', 'perf'), default='acc', help=text)
    add('--result_path', help="folder of the model zoo's result files; without it there are none")
    add('--script_dir', help='second folder from which a relative --data_path is tried')


def add_evaluation_flags(flags: argparse.ArgumentParser, datasets: tuple) -> None:
    """What evaluate has in every folder; cfg.year and cfg.dataset are the defaults of --year and
    --dataset."""
    add = flags.add_argument
    add('--data_path', help='data tree; default on CPU: drawn data')
    add('--checkpoint', help=CHECKPOINT)
    add('--output_path', default='results')
    add('--dataset', choices=datasets, help='default: as trained, or davis')
    add('--split', default='', help="default: val, of YouTube-VOS 'valid'")
    add('--year', choices=('2016', '2017'), help='DAVIS: one object, or several')
    add('--sequences', help='a,b; default: the split')
    add('--overlay', action='store_true', help='draw contact sheets and clips')
    add('--report', action='store_true', help='write report.html, a page to read the results by')


def options(flags: argparse.ArgumentParser, **values) -> argparse.Namespace:
    """The defaults of a program's flags, then `values`: how one program calls another."""
    result = flags.parse_args([])
    vars(result).update(values)
    return result


def add_demo_flags(flags: argparse.ArgumentParser, optional: bool = False) -> None:
    """What demo has in every folder; `optional`: --input may be left out."""
    add = flags.add_argument
    add('--input', required=not optional, help='video file, or folder of frames')
    add('--checkpoint', help=CHECKPOINT)
    add('--output_path', help='default: demo/<model>/<name of the input>')
    add('--fps', type=float, help="frames a second of overlay.mp4; default: the input's")


def add_convert_flags(flags: argparse.ArgumentParser, formats, several: bool = False) -> None:
    """What convert has in every folder; `formats`: names that --format may have; `several`:
    --source may be given several times."""
    add = flags.add_argument
    action, more = ('append', '; may be given several times') if several else ('store', '')
    text = 'weights file, or prefix of a TensorFlow checkpoint'
    add('--source', required=True, action=action, help=text + more)
    add('--output', required=True, help='prefix of the checkpoint, such as vgg/model.ckpt')
    add('--format', choices=sorted(formats), help='default: by the names in the file')


def say_converted(args, kind: str, arrays: dict, left_out: list) -> None:
    """Prints what convert has mapped and what it has left out."""
    count = sum(array.size for array in arrays.values())
    print(f'{args.source}: {kind}, {len(arrays)} arrays, {count} numbers -> {args.output}')
    print(f'left out: {len(left_out)} arrays {left_out[:5]}')


def add_export_flags(flags: argparse.ArgumentParser, sizes: bool = True) -> None:
    """What export has in every folder; `sizes`: --height and --width, where frames are exported."""
    add = flags.add_argument
    add('--checkpoint', help=CHECKPOINT)
    add('--output_path', default='exported')
    add('--onnx', action='store_true', help='write ONNX too; needs tf2onnx')
    for side in ('height', 'width') if sizes else ():
        add(f'--{side}', type=positive, help='px; default: of the settings')


def demo_folder(args) -> str:
    """Makes and locks the folder of a demo's results, --output_path or demo/<model>/<input>."""
    name = os.path.basename(os.path.abspath(args.input))
    default = os.path.join('demo', MODEL.name, os.path.splitext(name)[0])
    folder = writable(args.output_path or default)
    lock(folder)
    return folder


def set_progress(args) -> None:
    """Has --quiet and --json reach the lines of progress; configure() does it too."""
    quiet, as_json = getattr(args, 'quiet', False), getattr(args, 'json', False)
    console.set_form('none' if quiet else 'json' if as_json else 'text')


def configure(args, get_config, checkpoint: str | None = None) -> EasyDict:
    """The settings of a run: preset, then config.json beside `checkpoint`, then flags, then --set.

    Raises:
      ValueError: unknown preset or setting (nearest names given), value of another type or out of
      range.
    """
    set_progress(args)
    device = npu.choose_device(args.device)
    preset = args.preset
    saved = {} if preset or not checkpoint else saved_settings(checkpoint)
    if preset is None and not saved and not checkpoint:
        preset = 'full' if getattr(args, 'case', 'acc') == 'acc' else 'performance'
        if device == 'cpu':
            print(f'preset: smoke (on CPU; --preset={preset} trains the whole network)', flush=True)
            preset = 'smoke'
    cfg = get_config(preset or 'full')
    _take_saved(cfg, saved, checkpoint)
    if getattr(args, 'epochs', None) is not None:
        cfg.update(train_epochs=args.epochs, train_steps=0)
    if getattr(args, 'steps', None) is not None:
        cfg.train_steps = args.steps
    names = ('batch_size', 'learning_rate', 'precision_mode', 'loss_scale', 'seed', 'year')
    for key in names:
        if getattr(args, key, None) is not None:
            cfg[key] = getattr(args, key)
    if getattr(args, 'hf32', False):
        raise ValueError('--hf32: HF32 came with the Ascend 910B; --fp32 keeps float32')
    if getattr(args, 'fp32', False):
        cfg.precision_mode = 'must_keep_origin_dtype'
    for text in args.set:
        _assign(cfg, text)
    for key in (*DEBUG, *(f'{what}_path' for what in DUMPS), 'case'):
        cfg[key] = getattr(args, key, None)
    cfg.device = device
    check_ranges(cfg)
    return cfg


def check_ranges(cfg) -> None:
    """ValueError where a setting is out of its range; config.RANGES has those of one model."""
    ranges = {key: (0, float('inf')) for key in (*ABOVE_ZERO, *NOT_NEGATIVE)}
    ranges.update(config.RANGES)
    for key, (low, high) in ranges.items():
        value = cfg.get(key)
        if isinstance(value, (int, float)) and not low <= value <= min(high, sys.float_info.max):
            raise ValueError(f'{key}={value}: expected {low} .. {high}')
        if value == 0 and key in ABOVE_ZERO and key not in config.RANGES:
            raise ValueError(f'{key}={value}: expected a number above 0')
    if cfg.loss_scale not in ('dynamic', 'none'):
        try:
            if not 0 < float(cfg.loss_scale) < float('inf'):
                raise ValueError('out of range')
        except ValueError:
            raise ValueError(
                f"loss_scale={cfg.loss_scale}: expected 'dynamic', 'none' or a number above 0"
            ) from None


def saved_settings(checkpoint: str) -> dict:
    """What config.json beside a checkpoint holds; {} where there is none.

    Raises:
      FileNotFoundError: no such checkpoint. ValueError: it is of another model.
    """
    path = os.path.join(os.path.dirname(weights.checkpoint_prefix(checkpoint)), 'config.json')
    if not os.path.isfile(path):
        return {}
    found = _read_settings(path)
    if found.get('name', MODEL.name) != MODEL.name:
        raise ValueError(f'{checkpoint} is a checkpoint of {found["name"]}, this is {MODEL.name}')
    return found


def _read_settings(path):
    """What a config.json holds; ValueError where that are no settings of a run."""
    found = files.read_json(path)
    origin = found.get('trained_on', []) if isinstance(found, dict) else None
    if not isinstance(origin, list) or not all(isinstance(text, str) for text in origin):
        raise ValueError(f'{path} is damaged: expected settings, with a list `trained_on` of texts')
    return found


def _take_saved(cfg, saved, checkpoint):
    """Puts saved settings into cfg; ValueError where one is of another type or out of range."""
    wrong = [k for k, value in saved.items() if k in cfg and not _is_like(value, cfg[k])]
    where = f'{checkpoint}: config.json beside it'
    if wrong:
        rows = ', '.join(f'{k}={saved[k]!r:.60}, expected like {cfg[k]!r}' for k in wrong[:3])
        raise ValueError(f'{where}: {rows}')
    cfg.update({key: value for key, value in saved.items() if key in cfg})
    cfg.trained_on = saved.get('trained_on', [])
    try:
        check_ranges(cfg)
    except ValueError as error:
        raise ValueError(f'{where}: {error}') from None


def _is_like(value, old):
    """Whether a value of JSON has the type of a setting's old value."""
    if isinstance(old, (list, tuple)):
        return isinstance(value, list) and all(
            not old or any(_is_like(item, each) for each in old) for item in value
        )
    if isinstance(old, float):
        return type(value) in (int, float) and abs(value) <= sys.float_info.max  # False of NaN
    return type(value) is type(old)


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
    try:
        subprocess.run([sys.executable, str(script), f'--output={output}'], check=True)
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f'{script} failed with exit status {error.returncode}') from None
    return str(output)


def writable(folder: str) -> str:
    """Makes the folder and returns its absolute path; OSError where nothing can be written
    there."""
    folder = os.path.abspath(folder)
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f'cannot write to {folder}: {error.strerror}; choose another --output_path'
        ) from None
    return folder


def checkpoint_to_start_from(args, cfg) -> str:
    """Prefix of --init_from, of published weights that lie where config.PRETRAINED says, or ''.

    cfg.trained_on becomes what the weights will have been trained on.

    Raises:
      FileNotFoundError: no such checkpoint. ValueError: the preset expects published weights, and
      neither they nor --from_scratch are given.
    """
    cfg.partial_init = args.partial_init
    drawn = os.path.isfile(os.path.join(cfg.data_path, 'sample_data.json')) or not args.data_path
    cfg.trained_on = ['drawn data' if drawn else os.path.basename(cfg.data_path)]
    if args.init_from:
        cfg.trained_on = saved_settings(args.init_from).get('trained_on', []) + cfg.trained_on
        return weights.checkpoint_prefix(args.init_from)
    running = os.path.isfile(os.path.join(args.output_path, 'checkpoint'))
    if cfg.from_scratch or args.from_scratch or running:
        return ''
    tried = [
        os.path.join(folder, config.PRETRAINED['file'])
        for folder in (cfg.data_path, str(MODEL.parent))
    ]
    for path in tried:
        if os.path.isfile(path) or os.path.isfile(f'{path}.index'):
            return _converted(path, os.path.join(args.output_path, 'published'))
    raise ValueError(
        f'preset {cfg.preset} starts from published weights: {config.PRETRAINED["what"]}. '
        f'Tried {" and ".join(tried)}. {config.PRETRAINED["how"]} and give the checkpoint by '
        '--init_from; --from_scratch trains from random weights'
    )


def _converted(source, folder):
    from . import convert

    prefix = os.path.join(folder, 'model.ckpt')
    if not os.path.isfile(f'{prefix}.index'):
        print(f'{source} is converted to {prefix}', flush=True)
        if convert.main([f'--source={source}', f'--output={prefix}']):
            raise ValueError(f'{source} could not be converted (message above)')
    return prefix


def of_network(variable) -> bool:
    """Whether a variable is one of the network, not of the optimizer."""
    name = variable.op.name
    return name.startswith(f'{MODEL.name.lower()}/') and not name.endswith(SLOTS)


def init_from_checkpoint(cfg) -> None:
    """Has the network's variables start from cfg.init_from, where that is set; a backbone alone
    will do. Call it when the graph is built."""
    if cfg.get('init_from'):
        variables = [v for v in tf.global_variables() if of_network(v)]
        found = match_variables(cfg.init_from, variables, partial=True)
        if 2 * len(found) < len(variables) and not cfg.get('partial_init'):
            raise ValueError(
                f'{cfg.init_from} has {len(found)} of the {len(variables)} variables of this '
                'network, less than half: give --partial_init if that is meant'
            )
        print(f'{len(found)} of {len(variables)} variables from {cfg.init_from}', flush=True)
        tf.train.init_from_checkpoint(cfg.init_from, {v.op.name: v for v in found})


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
        model = model_of(prefix)
        whose = f' but of {model}' if model not in ('', MODEL.name) else ''
        raise ValueError(
            f'checkpoint {prefix} is not of this network{whose}: {len(missing)} of '
            f'{len(variables)} variables missing (first: {missing[:3]}), {len(shapes)} of another '
            f'shape (first: {shapes[:3]}); it holds {sorted(found)[:3]}... Another preset, such as '
            '--preset=full for published weights?'
        )
    return [v for v in variables if v.op.name in found]


def model_of(prefix: str) -> str:
    """Name of the model that a checkpoint is of, by its variables; '' where it is none of ours."""
    scopes = {name.split('/')[0] for name, _ in tf.train.list_variables(prefix)}
    return next((model for model in MODELS if model.lower() in scopes), '')


def restore(session, prefix: str) -> None:
    """Loads a checkpoint into the network's variables of the session's graph, all of them.

    Raises:
      ValueError: the checkpoint is of another network.
    """
    with session.graph.as_default():
        variables = [v for v in tf.global_variables() if of_network(v)]
        tf.train.Saver(match_variables(prefix, variables)).restore(session, prefix)


def say_weights(cfg, prefix: str) -> None:
    """Prints which weights are used and what they were trained on."""
    source = ', then '.join(cfg.get('trained_on') or ['data that config.json does not name'])
    more = ': for tests only' if 'drawn data' in source else ''
    print(f'weights: {prefix}, trained on {source}{more}', flush=True)


def check_data(args, cfg, check) -> None:
    """Prints the counts of `check(root, every)` as JSON: what --check_data asks for."""
    print(json.dumps(check(data_root(args, cfg), every=args.check_data == 'all')))


def dry_run(cfg, input_fn, build_loss, slots: int, parts: int = 1) -> None:
    """Builds the training graph, reads one batch and prints what a run would use.

    Args:
      cfg: of the run.
      input_fn: of data.py.
      build_loss: function (features, labels, cfg) -> float32 scalar, whose gradients are built too.
      slots: numbers that the optimizer keeps beside each weight.
      parts: that a batch is taken in, one after the other; the activations are those of one.
    """
    with tf.Graph().as_default() as graph, tf.Session() as session:
        iterator = tf.data.make_one_shot_iterator(input_fn(cfg, True))
        features, labels = iterator.get_next()
        begin = time.monotonic()
        batch = session.run({**features, **labels})
        seconds = time.monotonic() - begin
        tf.train.get_or_create_global_step()
        loss = build_loss(features, labels, cfg)
        maps = [x for op in graph.get_operations() for x in op.outputs if x.dtype == tf.float32]
        numbers = sum(x.shape.num_elements() for x in maps if x.shape.is_fully_defined()) / parts
        tf.gradients(loss, tf.trainable_variables())
        init_from_checkpoint(cfg)
        count = sum(v.shape.num_elements() for v in tf.trainable_variables() if of_network(v))
        kinds = collections.Counter(op.type for op in graph.get_operations())
        operations = _floating_point_operations(graph)
    print('batch: ' + ', '.join(f'{k} {v.dtype} {list(v.shape)}' for k, v in batch.items()))
    print(f'the first batch was read in {seconds:.1f} s')
    common = ', '.join(f'{kind} {number}' for kind, number in kinds.most_common(12))
    print(f'{sum(kinds.values())} operators of a step and its start: {common}, ...')
    print(f'{operations / 1e9:.1f} GFLOP a step, those of convolutions and matrix products')
    weights_size, disk = 4e-9 * count, 4e-6 * count * (1 + slots) * cfg.keep_checkpoints
    print(
        f'{count} parameters, {weights_size:.2f} GB with {1 + slots} more of that for gradients '
        f'and optimizer; at most {4e-9 * numbers:.2f} GB of activations in float32, '
        f'{2e-9 * numbers:.2f} GB in float16; {disk:.0f} MB of checkpoints'
    )
    room = CARD - weights_size * (2 + slots + (parts > 1))  # the sum of the gradients
    fits = [int(cfg.batch_size * room / (size * 1e-9 * numbers)) for size in (4, 2)]
    taken = f' in {parts} parts' if parts > 1 else ''
    print(
        f'a card of {CARD} GB holds batches of {fits[0]} in float32, {fits[1]} in float16{taken}, '
        f'if nothing is freed on the way; {cfg.train_steps} steps, device {cfg.device}'
    )


def _floating_point_operations(graph):
    from tensorflow.python.framework import ops
    from tensorflow.python.profiler.internal import flops_registry  # noqa: F401, counts for ops

    total = 0
    for op in graph.get_operations():
        if op.type in ('Conv2D', 'MatMul', 'BatchMatMulV2') or 'Backprop' in op.type:
            with contextlib.suppress(ValueError):  # a shape that is not known
                total += ops.get_stats_for_node_def(graph, op.node_def, 'flops').value or 0
    return total


def begin_run(cfg, args, settings: dict | None = None):
    """Takes the folder args.output_path for a run: refuses one of another run, sets
    cfg.start_step, writes config.json. To be called once, before the training.

    Args:
      cfg: of the run.
      args: output_path, and result_path where the zoo's files are wanted.
      settings: that config.json keeps; default: cfg.

    Returns:
      The hook that prints progress, progress.ProgressHook.

    Raises:
      ValueError: the folder holds another run (model, case, preset, network). BlockingIOError: one
      is running.
    """
    folder = writable(args.output_path)
    npu.fit_loop(cfg)
    source = cfg if settings is None else settings
    keys = [*config.get_config(cfg.preset), 'case', 'trained_on']
    settings = json.loads(json.dumps({key: source.get(key) for key in keys}))
    lock(folder)
    if ranks.rank()[1] > 1:
        npu.prepare_ranks(cfg)
        ranks.agree(folder, cfg.device)
    cfg.start_step = 0
    if os.path.isfile(os.path.join(folder, 'checkpoint')):
        prefix = weights.checkpoint_prefix(folder)
        _compare_runs(folder, model_of(prefix), settings)
        _forget_paths(folder)
        cfg.start_step = int(tf.train.load_variable(prefix, 'global_step'))
        cfg.init_from = ''
        print(f'resuming from step {cfg.start_step}: {prefix}', flush=True)
    text = json.dumps(settings, indent=1, sort_keys=True)
    files.write_text(os.path.join(folder, 'config.json'), text)
    result_path = getattr(args, 'result_path', None)
    from .progress import ProgressHook  # here: its class needs TensorFlow

    return ProgressHook(cfg, folder, npu.loss_path(cfg, result_path) if result_path else None)


_LOCKS = {}  # folder: open file; the system frees it when the process ends, however it ends


def lock(folder: str) -> None:
    """Takes a folder for this process, until it ends or end_run(); a dead process holds none.

    Raises:
      BlockingIOError: another process has it.
    """
    if folder in _LOCKS:
        return
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW  # a link would lead to any file
    file = os.fdopen(os.open(os.path.join(folder, '.lock'), flags, 0o666), 'r+')
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _LOCKS[folder] = file
    except BlockingIOError:
        file.close()
        raise BlockingIOError(
            f'another run is writing to {folder}: wait for it, or choose another --output_path'
        ) from None
    except OSError:  # a file system without locks
        file.close()


def _compare_runs(folder, model, settings):
    """Refuses the folder of another run, whose checkpoint is of `model`; `settings` get what that
    run was trained on."""
    path = os.path.join(folder, 'config.json')
    saved = {'name': model, **(_read_settings(path) if os.path.isfile(path) else {})}
    settings['trained_on'] = saved.get('trained_on', settings['trained_on'])
    changed = [key for key in settings if key in saved and saved[key] != settings[key]]
    fatal = [key for key in ('name', 'case', 'preset', *config.NETWORK) if key in changed]
    if fatal:
        rows = ', '.join(f'{k} {saved[k]!r} there, {settings[k]!r} here' for k in fatal)
        raise ValueError(
            f'{folder} holds another run ({rows}). Nothing was changed. Finish '
            'that run with its own settings, choose another --output_path, or move the folder '
            f'away: mv {folder} {folder}.old'
        )
    for key in changed:
        print(f'{key}: {settings[key]!r} from here on, was {saved[key]!r}', flush=True)


def _forget_paths(folder):
    """Names the checkpoints in the file `checkpoint` by their base names, so that the folder can be
    moved."""
    state = tf.train.get_checkpoint_state(folder)
    names = [os.path.basename(path) for path in state.all_model_checkpoint_paths]
    names = [name for name in names if os.path.isfile(os.path.join(folder, f'{name}.index'))]
    state.model_checkpoint_path = os.path.basename(state.model_checkpoint_path)
    del state.all_model_checkpoint_paths[:]
    state.all_model_checkpoint_paths.extend(names)
    files.write_text(os.path.join(folder, 'checkpoint'), str(state))


def end_run(cfg, args) -> str:
    """Frees the folder of a run that has ended on all ranks; prints and returns the prefix of its
    last checkpoint."""
    folder = os.path.abspath(args.output_path)
    ranks.leave(cfg.device)
    _forget_paths(folder)
    if folder in _LOCKS:
        _LOCKS.pop(folder).close()
    prefix = weights.checkpoint_prefix(folder)
    curve = plots.training_curve(folder)
    print(f'trained: {prefix}{", " + curve if curve else ""}', flush=True)
    return prefix


def write_result(cfg, args, accuracy) -> None:
    """Writes the zoo's result files, with --case acc the score of accuracy(cfg, data_path,
    checkpoint, output_path) too, then the marker `finished`; nothing without --result_path, and on
    rank 0 alone. The marker of several ranks is written by what has started them."""
    number, count = ranks.rank()
    if not args.result_path or number:
        return
    score = None
    if args.case == 'acc':
        results = os.path.join(args.result_path, 'results')
        score = accuracy(cfg, cfg.data_path, args.output_path, results)
    npu.write_result(cfg, args.result_path, args.output_path, score)
    if cfg.case == 'perf':
        print('a performance run: its weights are of no use; bash test/train_full_1p.sh trains')
    if count == 1:
        files.write_text(os.path.join(args.result_path, 'finished'), '')


def write_checkpoint(arrays: dict, prefix: str, settings: dict | None, source: str) -> str:
    """Writes a checkpoint with global_step 0; returns its prefix.

    It is written under a temporary name and moved. With settings of a whole network they go to
    config.json beside it, so that evaluate and export need none.

    Args:
      arrays: {variable: float32 array}.
      prefix: such as vgg/model.ckpt.
      settings: of config.py, or None of a backbone.
      source: file that the arrays come from.
    """
    folder = writable(os.path.dirname(os.path.abspath(prefix)))
    prefix = os.path.join(folder, os.path.basename(prefix))
    held = tf.train.latest_checkpoint(folder)
    if held and os.path.basename(held) != os.path.basename(prefix):
        raise ValueError(f'{folder} holds the checkpoint {held}; choose another --output')
    broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if broken:
        raise ValueError(f'{source}: {len(broken)} arrays are not finite, first {broken[:3]}')
    temporary = f'{prefix}.{os.getpid()}.tmp'
    with tf.Graph().as_default(), tf.Session() as session:
        feeds = {name: tf.placeholder(tf.float32, array.shape) for name, array in arrays.items()}
        variables = [tf.Variable(feeds[name], name=name) for name in arrays]
        variables.append(tf.train.create_global_step())
        values = {feeds[name]: array for name, array in arrays.items()}
        session.run(tf.global_variables_initializer(), values)
        saver = tf.train.Saver(variables)
        saver.save(session, temporary, write_meta_graph=False, write_state=False)
    for ending in ('.data-00000-of-00001', '.index'):
        os.replace(temporary + ending, prefix + ending)
    tf.train.update_checkpoint_state(folder, prefix)
    _forget_paths(folder)
    if settings is not None:
        origin = settings.get('trained_on') or [f'imported {os.path.basename(source)}']
        saved = {**settings, 'trained_on': origin}
        text = json.dumps(saved, indent=1, sort_keys=True)
        files.write_text(os.path.join(folder, 'config.json'), text)
    return prefix


def export_graph(build, name: str, args, output_path: str) -> None:
    """Writes saved_model_<name>/ and <name>.pb of a graph with a checkpoint's weights, with --onnx
    <name>.onnx too, and prints the ATC command.

    Args:
      build: function without arguments that builds the graph and gives (inputs, outputs), dicts of
        tensors.
      name: of the files.
      args: checkpoint, a folder or prefix, and onnx.
      output_path: folder.

    What a killed export has written is kept.

    Raises:
      FileExistsError, ValueError: the folder is there already, of something else. ValueError: a
      checkpoint of another network. ImportError: --onnx without tf2onnx.
    """
    if args.onnx:
        _tf2onnx()
    prefix = weights.checkpoint_prefix(args.checkpoint)
    folder = os.path.join(output_path, f'saved_model_{name}')
    frozen_path = os.path.join(output_path, f'{name}.pb')
    with tf.Graph().as_default(), tf.Session() as session:
        inputs, outputs = build()
        outputs = {key: tf.identity(tensor, f'out_{key}') for key, tensor in outputs.items()}
        made = {'checkpoint': files.fingerprint(f'{prefix}.index')}
        made.update({t.op.name: t.shape.as_list() for t in (*inputs.values(), *outputs.values())})
        if args.onnx:  # some graphs are then made of other operators
            made['onnx'] = True
        if os.path.exists(folder):
            if not os.path.isfile(os.path.join(folder, 'made_from.json')):
                raise FileExistsError(f'{folder} is there already; choose another --output_path')
            files.claim(folder, made)
            print(f'{folder} is there already, of this checkpoint: kept', flush=True)
            _write_onnx(args, frozen_path, inputs, outputs)
            return
        if tf.global_variables():
            restore(session, prefix)
        nodes = [tensor.op.name for tensor in outputs.values()]
        frozen = tf.graph_util.convert_variables_to_constants(
            session, session.graph.as_graph_def(), nodes
        )
        with files.replacing(frozen_path) as temporary, open(temporary, 'wb') as f:
            f.write(frozen.SerializeToString())
        _write_onnx(args, frozen_path, inputs, outputs)
        scratch = tempfile.mkdtemp(prefix=f'.{name}-', dir=output_path)
        try:
            model = os.path.join(scratch, 'saved_model')
            tf.saved_model.simple_save(session, model, inputs, outputs)
            files.claim(model, made)
            os.replace(model, folder)
        finally:
            shutil.rmtree(scratch)
    sizes = ';'.join(
        f'{tensor.op.name}:{",".join(map(str, tensor.shape.as_list()))}'
        for tensor in inputs.values()
    )
    wanted = ';'.join(f'{node}:0' for node in nodes)
    print(
        f'{folder}\n{frozen_path}\non a machine with CANN:\n'
        f'atc --framework=3 --model={frozen_path} --output={os.path.splitext(frozen_path)[0]} '
        f'--input_shape="{sizes}" --input_format=NHWC '
        f'--out_nodes="{wanted}" --soc_version=Ascend910A',
        flush=True,
    )


def _tf2onnx():
    try:
        import tf2onnx
    except ImportError:
        raise ImportError(
            '--onnx needs tf2onnx: python -m pip install --no-deps tf2onnx==1.16.1 onnx==1.16.2'
        ) from None
    return tf2onnx


def _write_onnx(args, frozen_path, inputs, outputs):
    """Writes a frozen graph as ONNX too, where --onnx asks for it and it is not there."""
    path = os.path.splitext(frozen_path)[0] + '.onnx'
    if not args.onnx or os.path.exists(path):
        return
    definition = tf.GraphDef()
    definition.ParseFromString(Path(frozen_path).read_bytes())
    with files.replacing(path) as temporary:
        _tf2onnx().convert.from_graph_def(
            definition,
            input_names=[tensor.name for tensor in inputs.values()],
            output_names=[tensor.name for tensor in outputs.values()],
            opset=13,
            output_path=temporary,
        )
    print(path, flush=True)
