"""Values that the adapter accepts: run-config arguments, NpuOptimizer keys, ranks.

Source: the adapter's npu_attrs.cc and the CANN manuals (tables.py holds the values). Everything
raises ValueError or TypeError that names the key; the real adapter ignores most of it or aborts.
"""

from __future__ import annotations

import json
import os
import re

from . import tables

MEMBERS = {'b': bool, 'i': int, 's': (str, bytes)}
LISTS = ('black-list', 'white-list', 'gray-list')
CHANGES = ('to-add', 'to-remove')
IR_WORD = re.compile(r'(?:[A-Z]+[a-z]*|V\d|\dD|L2|Log1p|Expm1)+')  # ReduceSumD, SoftmaxV2, Conv2D
TF_NAMES = (
    'Sum',
    'Mean',
    'Max',
    'Min',
    'Prod',
    'Softmax',
    'BatchMatMul',
    'FusedBatchNormV3',
    'FusedBatchNorm',
    'ResizeBilinear',
)  # TensorFlow's types: Ascend calls them otherwise
PROFILING = (
    'output',
    'training_trace',
    'task_trace',
    'hccl',
    'aicpu',
    'fp_point',
    'bp_point',
    'aic_metrics',
    'msproftx',
)  # keys that the ports and the adapter's default use
DUMP_SETS = 100  # most ranges in dump_step


def value(key: str, given) -> None:
    """Raises where `given` is no value of NpuOptimizer key `key` in the chosen branch."""
    row = tables.parameter(key)
    if row is None:
        raise ValueError(f'{key}: adapter r{tables.version()} has no such NpuOptimizer key')
    member, allowed = row
    if not isinstance(given, MEMBERS[member]) or (member == 'i' and isinstance(given, bool)):
        raise TypeError(f'{key}={given!r}: expected member .{member}, {MEMBERS[member]}')
    given = given.decode() if isinstance(given, bytes) else given
    if isinstance(allowed, str):
        CHECKS[allowed](key, given)
    elif allowed is not None and given not in allowed:
        raise ValueError(f'{key}={given!r}: allowed are {allowed}')


def positive(key: str, given: int) -> None:
    """An int of 1 or more."""
    if given < 1:
        raise ValueError(f'{key}={given}: expected 1 or more')


def natural(key: str, given: int) -> None:
    """An int of 0 or more."""
    if given < 0:
        raise ValueError(f'{key}={given}: expected 0 or more')


def file(key: str, path: str) -> None:
    """An absolute path of an existing file."""
    if not os.path.isabs(path) or not os.path.isfile(path):
        raise ValueError(f'{key}={path}: expected the absolute path of an existing file')


def folder(key: str, path: str) -> None:
    """An absolute path of an existing, writable folder."""
    if not os.path.isabs(path) or not os.path.isdir(path) or not os.access(path, os.W_OK):
        raise ValueError(f'{key}={path}: expected the absolute path of a writable folder')


def strict_json(key: str, text: str):
    """Parsed JSON; a comment, a trailing comma or a doubled key is an error."""

    def once(pairs):
        result = dict(pairs)
        if len(result) < len(pairs):
            raise ValueError(f'{key}: a key is given twice in {[k for k, _ in pairs]}')
        return result

    try:
        return json.loads(text, object_pairs_hook=once)
    except ValueError as error:
        raise ValueError(f'{key}: no strict JSON: {error}') from error


def json_file(key: str, path: str) -> object:
    """An existing file of strict JSON; returns what it holds."""
    file(key, path)
    with open(path) as f:
        return strict_json(f'{key}={path}', f.read())


def mixlist(key: str, path: str) -> dict:
    """A mixed-precision list, {'black-list': {'to-add': [Ascend IR types], 'to-remove': []}}."""
    content = json_file(key, path)
    where = f'{key}={path}'
    if not isinstance(content, dict) or not content or set(content) - set(LISTS):
        raise ValueError(f'{where}: expected an object with keys among {LISTS}')
    for name, changes in content.items():
        if not isinstance(changes, dict) or not changes or set(changes) - set(CHANGES):
            raise ValueError(f'{where}: {name} must be an object with keys among {CHANGES}')
        for change, types in changes.items():
            if not isinstance(types, list) or not all(isinstance(t, str) for t in types):
                raise ValueError(f'{where}: {name}/{change} must be a list of strings')
            wrong = [t for t in types if t in TF_NAMES or not IR_WORD.fullmatch(t)]
            if wrong:
                raise ValueError(f'{where}: {wrong} are no Ascend IR types (as ReduceSumD is)')
    return content


def dump_step(key: str, text: str) -> None:
    """'0|5|10-20': at most 100 steps or ranges."""
    parts = text.split('|')
    ranges = [re.fullmatch(r'(\d+)(?:-(\d+))?', part) for part in parts]
    if len(parts) > DUMP_SETS or not all(ranges):
        raise ValueError(f'{key}={text!r}: expected "0|5|10-20", at most {DUMP_SETS} of them')
    if any(m.group(2) and int(m.group(2)) <= int(m.group(1)) for m in ranges):
        raise ValueError(f'{key}={text!r}: a range must grow')


def profiling_options(key: str, text: str) -> None:
    """A JSON object of 'on'/'off' switches and an existing output folder."""
    options = strict_json(key, text)
    if not isinstance(options, dict) or set(options) - set(PROFILING):
        raise ValueError(f'{key}={text}: expected a JSON object with keys among {PROFILING}')
    folder(f'{key}/output', options.get('output', ''))
    for name in ('training_trace', 'task_trace', 'hccl', 'aicpu', 'msproftx'):
        if options.get(name, 'on') not in ('on', 'off'):
            raise ValueError(f'{key}: {name}={options[name]!r}, expected on or off')


CHECKS = dict(
    positive=positive,
    natural=natural,
    file=file,
    folder=folder,
    json_file=json_file,
    mixlist=mixlist,
    dump_step=dump_step,
    profiling_options=profiling_options,
)


def together(given: dict) -> None:
    """Raises where set keys contradict each other; `given` holds only set keys."""
    text = {k: v.decode() if isinstance(v, bytes) else v for k, v in given.items()}
    mode, mode_v2 = text.get('precision_mode'), text.get('precision_mode_v2')
    if mode and mode_v2:
        raise ValueError('precision_mode and precision_mode_v2 exclude each other')
    if text.get('modify_mixlist'):
        mixed = tables.MIXED + tables.MIXED_V2
        mixed = mixed if tables.version() >= (1, 13) else ('allow_mix_precision',)
        if (mode or mode_v2) not in mixed:
            raise ValueError(f'modify_mixlist needs a mode of {mixed}, not {mode or mode_v2}')
    if text.get('optypelist_for_implmode') and not text.get('op_select_implmode'):
        raise ValueError('optypelist_for_implmode needs op_select_implmode')
    loop = text.get('iterations_per_loop', 1)
    if loop > 1 and text.get('mix_compile_mode'):
        raise ValueError('mix_compile_mode needs iterations_per_loop=1')
    if loop > 1 and not text.get('enable_data_pre_proc'):
        raise ValueError('iterations_per_loop > 1 needs enable_data_pre_proc=True')
    if loop > 1 and text.get('dynamic_graph_execute_mode') == 'lazy_recompile':
        raise ValueError('lazy_recompile needs iterations_per_loop=1')
    dynamic = [k for k in ('input_shape', 'dynamic_dims', 'dynamic_node_type') if k in text]
    if len(dynamic) not in (0, 3):
        raise ValueError(f'{dynamic}: input_shape, dynamic_dims, dynamic_node_type go together')
    if (text.get('enable_dump') or text.get('enable_dump_debug')) and not text.get('dump_path'):
        raise ValueError('enable_dump and enable_dump_debug need dump_path')
    if text.get('profiling_mode') and not text.get('profiling_options'):
        raise ValueError('enable_profiling needs profiling_options')


def session_config(config) -> dict:
    """Checks the NpuOptimizer entries and the rewrite options of a ConfigProto.

    Returns:
      {key: value} of the NpuOptimizer's parameter_map, {} without one.

    Raises:
      ValueError: remapping or memory_optimization not OFF, an unknown key, wrong member, value.
    """
    rewrite = config.graph_options.rewrite_options
    for name in ('remapping', 'memory_optimization'):
        if getattr(rewrite, name) != rewrite.OFF:
            raise ValueError(f'session_config: rewrite_options.{name} must be RewriterConfig.OFF')
    found = {}
    for entry in rewrite.custom_optimizers:
        if entry.name != 'NpuOptimizer':
            continue
        for key, attribute in entry.parameter_map.items():
            member = attribute.WhichOneof('value')
            row = tables.parameter(key)
            if row and member != row[0]:
                raise TypeError(f'NpuOptimizer: {key} is set by .{member}, expected .{row[0]}')
            found[key] = getattr(attribute, member) if member else None
            value(key, found[key])
    together(found)
    return found


def ranks() -> tuple:
    """(rank, cards) of the environment.

    Raises:
      ValueError: several cards without rank table or rank id, or two ways of counting at once.
    """
    environment = os.environ
    cards = int(environment.get('RANK_SIZE') or environment.get('CM_WORKER_SIZE') or 1)
    if environment.get('RANK_SIZE') and environment.get('CM_WORKER_SIZE'):
        raise ValueError('RANK_SIZE and CM_WORKER_SIZE exclude each other')
    table = environment.get('RANK_TABLE_FILE')
    if table and environment.get('CM_CHIEF_IP'):
        raise ValueError('RANK_TABLE_FILE and CM_CHIEF_IP exclude each other')
    if cards > 1 and not environment.get('CM_CHIEF_IP'):
        if not table:
            raise ValueError(f'RANK_SIZE={cards} needs RANK_TABLE_FILE')
        rank_table(table, cards)
        if not environment.get('RANK_ID'):
            raise ValueError('RANK_TABLE_FILE needs RANK_ID')
    rank = int(environment.get('RANK_ID') or 0)
    if not 0 <= rank < cards:
        raise ValueError(f'RANK_ID={rank} is not in 0..{cards - 1}')
    return rank, cards


def rank_table(path: str, cards: int) -> None:
    """Checks a rank table: strict JSON, all values strings, ranks 0 .. cards - 1, completed."""
    table = json_file('RANK_TABLE_FILE', path)
    if table.get('status') != 'completed' or table.get('version') != '1.0':
        raise ValueError(f'{path}: expected "status": "completed" and "version": "1.0"')
    servers = table['server_list']
    devices = [device for server in servers for device in server['device']]
    texts = [v for device in devices for v in device.values()] + [table['server_count']]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f'{path}: all values are strings in a rank table')
    if sorted(int(device['rank_id']) for device in devices) != list(range(cards)):
        raise ValueError(f'{path}: its rank_id are not 0..{cards - 1}')
    if any('device_ip' not in device or 'device_id' not in device for device in devices):
        raise ValueError(f'{path}: a device lacks device_id or device_ip')
