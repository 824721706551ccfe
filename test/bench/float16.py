"""What float16 does to a training: losses of the program itself with the inputs, outputs and
gradients of convolutions and matrix products rounded to float16, beside the losses in float32.

    python test/bench/float16.py --model=OSVOS --updates=50 --preset=small --data_path=DAVIS

The training runs as on the NPU, with the stand-in for npu_bridge (Python 3.7, TensorFlow 1.15): its
loss scale, its skipped updates, keep_dtype_scope, whose operators are not rounded. First the
dynamic loss scale falls from 2**32 until updates succeed, then on until no update overflows; then a
training in float32 takes the same examples. What this cannot show: sums inside an operator, which
the NPU takes in float32, and the operators between, which follow their inputs to float16 there.

Prints a JSON line: mean losses of the first and of the last five updates, the mean and the largest
difference between the two losses over the mean loss, the scale, and updates that overflow at any
scale. Other flags are those of <model>.train.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TEST = Path(__file__).resolve().parent.parent
ROUNDED = (
    'Conv2D', 'Conv2DBackpropInput', 'Conv2DBackpropFilter', 'DepthwiseConv2dNative',
    'DepthwiseConv2dNativeBackpropInput', 'DepthwiseConv2dNativeBackpropFilter', 'MatMul',
    'BatchMatMul', 'BatchMatMulV2',
)  # fmt: skip
SETTLE = 5  # updates that the dynamic loss scale has to allow in a row


def round_operators() -> None:
    """Has every operator of ROUNDED that is made from now on work on float16 values."""
    import tensorflow.compat.v1 as tf

    create = tf.Graph._create_op_internal

    def to_half(x):
        return tf.cast(tf.cast(x, tf.float16), tf.float32)  # the gradient is rounded likewise

    def create_rounded(graph, op_type, inputs, *args, **kwargs):
        if op_type not in ROUNDED or '_keep_dtype' in graph._attr_scope_map:
            return create(graph, op_type, inputs, *args, **kwargs)
        inputs = [to_half(x) if x.dtype.base_dtype == tf.float32 else x for x in inputs]
        op = create(graph, op_type, inputs, *args, **kwargs)
        result = to_half(op.outputs[0]).op
        # TensorFlow's wrapper of the operator asks what it has made for the operator's attributes.
        result.get_attr, result._get_attr_type = op.get_attr, op._get_attr_type
        return result

    tf.Graph._create_op_internal = create_rounded


def train(model: str, rounded: bool, flags: list) -> int:
    """Runs <model>.train as on the NPU in this process; its exit status."""
    if rounded:
        round_operators()
    return importlib.import_module(f'{model}.train').main(['--device=npu', *flags])


def run(model: str, rounded: bool, flags: list) -> tuple[list, dict]:
    """Trains in a process of its own: the loss of every update but the first, and the stand-in's
    report of the loss scale.

    Raises:
      RuntimeError: the training failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = os.path.join(folder, 'report.json')
        environment = dict(os.environ, JOB_ID='10087', NPU_STANDIN_REPORT=report)
        environment['PYTHONPATH'] = f'{TEST.parent}:{TEST}'
        command = [sys.executable, __file__, f'--model={model}', f'--train={rounded}', *flags]
        done = subprocess.run(
            [*command, f'--output_path={folder}/run', '--set=log_steps=1'],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stdout[-2000:])
        rows = (Path(folder) / 'run' / 'progress.jsonl').read_text().splitlines()
        return [json.loads(row)['loss'] for row in rows], json.loads(Path(report).read_text())


def study(model: str, updates: int, flags: list) -> dict:
    """The result for one network, as the module's docstring has it."""
    _, found = run(model, True, [*flags, f'--steps={SETTLE}', '--loss_scale=dynamic'])
    scale, before, skipped = 4 * found['loss_scale'], None, None
    while skipped is None or (skipped and skipped != before):  # as many again: not for its scale
        scale, before = scale / 4, skipped
        fixed = [*flags, f'--steps={updates}', f'--loss_scale={scale:g}']
        half, report = run(model, True, fixed)
        skipped = report['skipped']
        print(f'{model}: loss scale {scale:g}: {skipped} skipped', file=sys.stderr, flush=True)
    exact, _ = run(model, False, fixed)
    mean = sum(exact) / len(exact)
    differences = [abs(a - b) / mean for a, b in zip(exact, half)]
    return {
        'model': model,
        'updates': updates,
        'loss_scale': scale,
        'skipped': skipped,
        'float32': [sum(part) / len(part) for part in (exact[:5], exact[-5:])],
        'float16': [sum(part) / len(part) for part in (half[:5], half[-5:])],
        'mean_difference': sum(differences) / len(differences),
        'largest_difference': max(differences),
    }


def main() -> int:
    """Prints the result of a network."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    models = ('OSMN', 'OSVOS', 'SiamMask', 'ColorNet', 'MANet')
    flags.add_argument('--model', required=True, choices=models)
    flags.add_argument('--updates', type=int, default=50)
    flags.add_argument('--train', choices=('True', 'False'), help='used by the program itself')
    args, rest = flags.parse_known_args()
    if args.train:
        return train(args.model, args.train == 'True', rest)
    print(json.dumps(study(args.model, args.updates, rest)))
    return 0


if __name__ == '__main__':
    sys.exit(main())
