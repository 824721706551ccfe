"""What the NPU demands of a graph, checked on every operator that a call reaches.

Source: the CANN migration guide (tfmigr1_000005, _000008, _000048) and the adapter's dataset pass.
Operators that the stand-in makes itself (loss scaling) are marked by `own` and exempt from the
rules on control flow and unsupported operators.
"""

from __future__ import annotations

import collections
import contextlib

import tensorflow.compat.v1 as tf

OWN = 'npu_standin_own'  # graph collection: names of the stand-in's operators
DISTRIBUTED = 'npu_standin_distributed'  # graph collection: marks a distributed optimizer
FORBIDDEN = (tf.float64, tf.complex64, tf.complex128, tf.variant, tf.string)
FLOATS = (tf.float16, tf.bfloat16, tf.float32)
V1_CONTROL = ('Switch', 'Merge', 'Enter', 'Exit', 'NextIteration', 'LoopCond')
V1_CONTROL += tuple(f'Ref{name}' for name in V1_CONTROL[:5])
UNSUPPORTED = (
    'IsNan',
    'IsInf',
    'IsFinite',
    'CheckNumerics',
    'ConditionalAccumulator',
    'ResourceConditionalAccumulator',
    'SparseConditionalAccumulator',
)
DYNAMIC = (
    'Where',
    'Unique',
    'UniqueV2',
    'UniqueWithCounts',
    'UniqueWithCountsV2',
    'ListDiff',
    'DynamicPartition',
    'NonMaxSuppression',
    'NonMaxSuppressionV2',
    'NonMaxSuppressionV3',
)
PY_FUNC = ('PyFunc', 'PyFuncStateless', 'EagerPyFunc')
INPUTS = ('IteratorGetNext', 'Placeholder', 'PlaceholderWithDefault')
HOST = (
    'PrintV2',
    'Print',
    'StringFormat',
    'Assert',
    'SaveV2',
    'RestoreV2',
    'ShardedFilename',
    'MergeV2Checkpoints',
    'StringJoin',
    'WriteFile',
)  # log and save: may hold strings
WRAPPERS = (
    'ModelDataset',
    'OptimizeDataset',
    'OptimizeDatasetV2',
    'OptionsDataset',
    'MaxIntraOpParallelismDataset',
    'PrivateThreadPoolDataset',
)
STATEFUL = (
    'VarHandleOp',
    'VariableV2',
    'HashTable',
    'HashTableV2',
    'MutableHashTable',
    'MutableHashTableV2',
)
RESERVED = ('FusedBatchNormV3', 'FusedBatchNormGradV3')  # outputs 3 .. hold a kernel's scratch
SHOWN = 5  # operators named an error


@contextlib.contextmanager
def own(graph):
    """Marks the operators made inside as the stand-in's own."""
    before = {op.name for op in graph.get_operations()}
    yield
    for op in graph.get_operations():
        if op.name not in before:
            graph.add_to_collection(OWN, op.name)


def reached(roots) -> list:
    """[(op, in_function)] of every operator that the roots (tensors, operators) depend on."""
    seen, result = set(), []
    todo = [(getattr(root, 'op', root), False) for root in roots if root is not None]
    while todo:
        op, inside = todo.pop()
        if id(op) in seen:
            continue
        seen.add(id(op))
        result.append((op, inside))
        todo += [(x.op, inside) for x in op.inputs] + [(x, inside) for x in op.control_inputs]
        if 'Dataset' not in op.type and not op.type.endswith('Iterator'):
            for body in _bodies(op):
                todo += [(inner, True) for inner in body.get_operations()]
    return result


def _bodies(op):
    if op.name in op.graph.get_collection_ref(OWN):
        return []
    names = []
    for attribute in op.node_def.attr.values():
        functions = [attribute.func] + list(attribute.list.func)
        names += [function.name for function in functions if function.name]
    graphs = [getattr(_function(op.graph, name), 'graph', None) for name in names]
    return [graph for graph in graphs if graph is not None]


def _function(graph, name):
    while graph is not None:
        found = graph._get_function(name)
        if found is not None:
            return found
        graph = getattr(graph, 'outer_graph', None)
    return None


def check(graph, roots, settings: dict, cards: int = 1) -> None:
    """Raises ValueError listing every rule that the graph breaks.

    Args:
      graph: tf.Graph, complete.
      roots: tensors and operators of a call: train_op, loss, predictions.
      settings: of NPURunConfig; uses iterations_per_loop and mix_compile_mode.
      cards: number of cards; above 1 a graph with a train_op needs a distributed optimizer.
    """
    problems = collections.OrderedDict()

    def report(rule, op):
        problems.setdefault(rule, []).append(f'{op.name} ({op.type})')

    mine = set(graph.get_collection(OWN))
    for op, inside in reached(roots):
        _tensors(op, inside, report)
        if op.name not in mine:
            _kind(op, settings, report)
    _datasets(graph, settings, report)
    lines = [
        f'{rule}: {", ".join(names[:SHOWN])}'
        + (f' and {len(names) - SHOWN} more' if len(names) > SHOWN else '')
        for rule, names in problems.items()
    ]
    if graph.get_collection(tf.GraphKeys.QUEUE_RUNNERS):
        lines.append('queue runners: the NPU takes tf.data or placeholders')
    if cards > 1 and not graph.get_collection(DISTRIBUTED):
        lines.append('RANK_SIZE > 1 but no distributed optimizer: npu_tf_optimizer is missing')
    if lines:
        raise ValueError('the NPU cannot run this graph:\n  ' + '\n  '.join(lines))


def _tensors(op, inside, report):
    host = op.type in HOST or 'Summary' in op.type or 'Dataset' in op.type
    for x in op.outputs:
        kind = x.dtype.base_dtype
        text = kind == tf.string and (host or _only_for_host(x))
        if kind in FORBIDDEN and not text and not (host and kind == tf.variant):
            report(f'{kind.name} tensor', op)
        entry = op.type in INPUTS and not inside and kind != tf.resource
        scratch = op.type in RESERVED and x.value_index > 2  # of no stated shape in TensorFlow
        if (entry or kind in FLOATS) and not x.shape.is_fully_defined() and not scratch:
            report(f'dynamic shape {x.shape}', op)


def _only_for_host(x):
    users = x.consumers()
    return bool(users) and all(user.type in HOST or 'Summary' in user.type for user in users)


def _kind(op, settings, report):
    if op.type in V1_CONTROL:
        report('V1 control flow (call tf.enable_control_flow_v2() after the import)', op)
    if op.type in UNSUPPORTED or 'Queue' in op.type or 'Accumulator' in op.type[-24:]:
        report('unsupported operator', op)
    if op.type in DYNAMIC:
        report('operator of dynamic output shape', op)
    if op.type in PY_FUNC and not settings.get('mix_compile_mode'):
        report('Python function outside the dataset (needs mix_compile_mode)', op)
    if 'gpu' in op.device.lower():
        report(f'tf.device {op.device} of a GPU', op)


def _datasets(graph, settings, report):
    for op in graph.get_operations():
        if op.type == 'OneShotIterator' and settings.get('iterations_per_loop', 1) > 1:
            report('one-shot iterator with iterations_per_loop > 1', op)
        if op.type != 'MakeIterator':
            continue
        last = op.inputs[0].op
        while last.type in WRAPPERS:
            last = last.inputs[0].op
        if last.type != 'PrefetchDataset':
            report('last dataset transformation is not prefetch', last)
        for node, _ in reached([last]):
            if node.type in STATEFUL:
                report('variable or table in the dataset', node)
