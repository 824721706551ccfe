"""Times of SiamMask on this machine: a tracked frame, dilated gradients, overlaps, EAO, pairs.

    python test/bench/bench_siammask.py [--crops=CROPS --vot=VOT2018.json]
        [--torch=PYTHON --official=SiamMask]

`frame`: the sharp network's call of one tracked frame (search image, refine of the best cell) in
resident processes that step in turn, here and with --torch in the official PyTorch code; medians of
process CPU seconds, one thread. `dilated`: gradients of a 3x3, rate 2 convolution against
tf.nn.convolution. `overlap`: microseconds a pair, against the toolkit's C function called through
ctypes, on the annotations of --vot. `eao`: seconds to score 15 repetitions of a result set of that
size. `pairs`: training pairs a second and core from --crops. A JSON line a result.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'test' / 'recorded')]


def say(**row) -> None:
    """Prints a result."""
    print(json.dumps(row), flush=True)


def frame_worker(official: str | None) -> None:
    """Says 'ready', then tracks a frame a line of stdin and answers the CPU seconds."""
    import numpy as np

    draw = np.random.RandomState(0)
    z, x = (draw.uniform(0, 255, (n, n, 3)).astype(np.float32) for n in (127, 255))
    step = _torch_step(official, z, x) if official else _tf_step(z, x)
    step()
    print('ready', flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        step()
        print(time.process_time() - start, flush=True)


def _tf_step(z, x):
    import numpy as np
    import tensorflow.compat.v1 as tf

    from SiamMask import config, inference, model

    tf.disable_eager_execution()
    one = tf.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    cfg = config.get_config('sharp')
    cfg.device = 'cpu'
    session = tf.Session(config=one)
    network = inference.Network(session, cfg, objects=1)
    session.run(tf.global_variables_initializer())
    kernels = network.embed(z)
    assert set(kernels) == set(model.BRANCHES)
    return lambda: network.locate([x], [kernels], [np.array([64.0, 64.0])], (0.04, 0.42))


def _torch_step(official, z, x):
    import siammask_toolkit as toolkit
    import torch
    from siammask_official import prepare_imports

    torch.set_num_threads(1)
    prepare_imports(Path(official), 'siammask_sharp')
    import custom

    net = custom.Custom(anchors=toolkit.anchors())
    for module in net.modules():
        module.training = False
    turn = lambda v: torch.from_numpy(v.transpose(2, 0, 1)[None].copy())  # noqa: E731
    net.template(turn(z))

    def step():
        with torch.no_grad():
            cls, _, _ = net.track_mask(turn(x))
            best = int(cls.flatten().argmax()) % 625
            return net.track_refine((best // 25, best % 25)).sigmoid()

    return step


def frames(args) -> None:
    """Steps the workers in turn."""
    commands = {'here': [sys.executable]}
    if args.torch:
        commands['PyTorch'] = [args.torch]
    workers = {}
    for name, command in commands.items():
        command += ['-W', 'ignore', str(Path(__file__).resolve()), '--worker']
        command += [f'--official={args.official}'] if name == 'PyTorch' else []
        one = dict(os.environ, OMP_NUM_THREADS='1', TF_CPP_MIN_LOG_LEVEL='3')
        workers[name] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=one,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
    for worker in workers.values():
        while worker.stdout.readline().strip() != 'ready':
            assert worker.poll() is None
    times = {name: [] for name in workers}
    for _ in range(args.rounds):
        for name, worker in workers.items():
            worker.stdin.write('\n')
            worker.stdin.flush()
            times[name].append(float(worker.stdout.readline()))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    medians = {name: round(statistics.median(t), 4) for name, t in times.items()}
    ratio = {f'to {n}': round(t / medians['here'], 2) for n, t in medians.items() if n != 'here'}
    say(case='frame', cpu_seconds=medians, **ratio)


def dilated(args) -> None:
    """GFLOP/s of both gradients of a 3x3 convolution of rate 2, 256 channels, 31x31."""
    import numpy as np
    import tensorflow.compat.v1 as tf

    from SiamMask import backbone

    tf.disable_eager_execution()
    one = tf.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    draw, times = np.random.RandomState(0), {'here': [], 'tf.nn.convolution': []}
    with tf.Session(config=one) as session:
        x = tf.Variable(draw.randn(8, 31, 31, 256).astype(np.float32)).read_value()
        w = tf.Variable(draw.randn(3, 3, 256, 256).astype(np.float32)).read_value()
        dy = tf.Variable(draw.randn(8, 31, 31, 256).astype(np.float32)).read_value()
        forms = (
            backbone._conv_dilated(x, w, 2),
            tf.nn.convolution(x, w, 'SAME', dilation_rate=[2, 2]),
        )
        fetches = [[tf.reduce_sum(g) for g in tf.gradients(y, [x, w], dy)] for y in forms]
        session.run(tf.global_variables_initializer())
        for k in range(args.rounds + 1):
            for name, fetch in zip(times, fetches):
                start = time.process_time()
                session.run(fetch)
                times[name] += [time.process_time() - start] * bool(k)
    flops = 2 * 2 * 8 * 31 * 31 * 9 * 256 * 256
    rates = {n: round(flops / statistics.median(t) / 1e9, 1) for n, t in times.items()}
    say(case='dilated', gflops=rates)


def overlap_and_eao(args) -> None:
    """On the annotations of a VOT json and seeded results."""
    import tempfile

    import numpy as np
    import siammask_toolkit as toolkit

    from SiamMask import vot

    sequences = vot.load(args.vot)
    draw = np.random.RandomState(0)
    truth = np.concatenate([s['boxes'] for s in sequences])
    found = (truth + draw.randn(len(truth), 1) * 5 + draw.randn(*truth.shape)).astype(np.float32)
    first, second, size = truth[::4], found[::4], (1280, 720)
    times = {'here': [], 'C': []}
    forms = {'here': lambda: vot.overlaps(first, second, size)}
    if args.official:
        with tempfile.TemporaryDirectory() as folder:
            overlap = toolkit.overlap_library(Path(args.official), Path(folder))
        forms['C'] = lambda: np.array([overlap(a, b, size) for a, b in zip(first, second)])
    for _ in range(args.rounds):
        for name, form in forms.items():
            start = time.process_time()
            form()
            times[name].append((time.process_time() - start) / len(first) * 1e6)
    medians = {n: round(statistics.median(t), 1) for n, t in times.items() if t}
    say(case='overlap', pairs=len(first), microseconds=medians)
    runs, k = {}, 0
    for s in sequences:
        part = found[k : k + len(s['boxes'])]
        k += len(part)
        runs[s['name']] = [[1] + [*(part[1:] + r * 0.1)] for r in range(15)]
    start = time.process_time()
    scores = vot.score(sequences, runs, vot.INTERVALS['VOT2018'])
    say(case='eao', frames=len(truth), repetitions=15, eao=round(scores['eao'], 3),
        cpu_seconds=round(time.process_time() - start, 2))  # fmt: skip


def pairs(args) -> None:
    """Pairs a second and core, and those that decoding alone would allow."""
    import random

    import cv2
    import numpy as np

    from SiamMask import config, data

    cfg = config.get_config('full')
    cfg.crops = {d[0]: os.path.join(args.crops, d[0]) for d in cfg.datasets}
    sets, count, times = data.load_sets(cfg.crops, cfg), 60, {'pairs': [], 'decode': []}
    cv2.setNumThreads(1)
    numbers = next(data.video_cycles(sets, 1))[:count]
    names = sorted(str(p) for p in Path(args.crops).rglob('*.x.jpg'))[: 2 * count]
    for _ in range(args.rounds):
        start = time.process_time()
        for i, pick in enumerate(numbers):
            draws = random.Random(i), np.random.RandomState(i)
            data.pack(data.make_pair(sets, pick, cfg, draws), cfg)
        middle = time.process_time()
        for name in names:
            cv2.imread(name)
        times['pairs'].append(count / (middle - start))
        times['decode'].append(len(names) / 2 / (time.process_time() - middle))
    rates = {n: round(statistics.median(t)) for n, t in times.items()}
    say(case='pairs', a_second_and_core=rates)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--crops', help='folder that SiamMask.prepare wrote')
    parser.add_argument('--vot', help='VOT2018.json')
    parser.add_argument('--torch', help='a Python with torch')
    parser.add_argument('--official', help='checkout of foolwood/SiamMask')
    parser.add_argument('--worker', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        frame_worker(args.official)
        return
    frames(args)
    dilated(args)
    if args.vot:
        overlap_and_eao(args)
    if args.crops:
        pairs(args)


if __name__ == '__main__':
    main()
