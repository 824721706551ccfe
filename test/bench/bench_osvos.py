"""Times and memory of OSVOS on this machine, against plain forms and other frameworks, interleaved
in one run.

    python test/bench/bench_osvos.py --rounds=5 --other=/tf215/bin/python --intel=/itf/bin/python
    --torch=/torch/bin/python

Every variant is a resident process (the named Python, or this one) that does one step when told to;
the steps go round (A B C A B C ...), and the medians of wall and process CPU seconds are printed, a
JSON line a variant with its ratio to `naive`: the same network as it is usually written, dense
16-channel transposed convolutions, built-in gradients, default malloc. Cases: forward and train at
1x480x854, `side` (upsampling and fusion alone, forward and gradient), `memory` (peak of segmenting
20 and 200 frames).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SIZE = (480, 854)  # px, DAVIS 480p
MALLOC = {
    'MALLOC_MMAP_THRESHOLD_': '8589934592',
    'MALLOC_TRIM_THRESHOLD_': '17179869184',
    'MALLOC_TOP_PAD_': '268435456',
}  # as env.sh sets them
SIDES = (
    (128, 240, 427),
    (256, 120, 214),
    (512, 60, 107),
    (512, 30, 54),
)  # channels, h, w of stages 2..5


def worker(case: str, form: str, threads: int) -> None:
    """Says 'ready', then does a step a line of stdin and answers with JSON."""
    step = (torch_step if form == 'torch' else tf_step)(case, form, threads)
    print('ready', flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        print(
            json.dumps(
                [
                    time.perf_counter() - wall,
                    time.process_time() - cpu,
                    resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                ]
            ),
            flush=True,
        )


def tf_step(case, form, threads):
    """A function that runs one step in TensorFlow."""
    sys.path.insert(0, str(ROOT))
    import numpy as np
    import tensorflow.compat.v1 as tf

    from OSVOS import backbone, config, model, optimizer

    tf.disable_eager_execution()
    cfg = config.get_config('paper')
    cfg.update(batch_size=1, accumulate=1, device='cpu', side_schedule='constant', side_weight=1.0)
    if form == 'naive':
        cfg.upsampling = 'dense'
        backbone.slow_gradients = lambda cfg: False
    session = tf.Session(
        config=tf.ConfigProto(
            intra_op_parallelism_threads=threads, inter_op_parallelism_threads=min(2, threads)
        )
    )
    draw = np.random.RandomState(0)
    frame = draw.uniform(-100, 130, (1, *SIZE, 3)).astype(np.float32)
    image = tf.Variable(frame, trainable=False).read_value()  # a constant would be folded
    if case == 'side':
        fetch = side_stage(tf, model, cfg, draw)
    elif case == 'forward':
        fetch = [model.network({'image': image}, cfg, False)['probability']]
    else:
        labels = {'mask': tf.constant((draw.rand(1, *SIZE, 1) < 0.1).astype(np.float32))}
        step = tf.train.get_or_create_global_step()
        updater = optimizer.make_optimizer(step, cfg)
        _, gradients = optimizer.one_pass(updater, {'image': image}, labels, cfg)
        fetch = updater.apply_gradients(optimizer.scaled_gradients(gradients, cfg), step)
    session.run(tf.global_variables_initializer())
    if case != 'train':  # sums: something must be fetched, or the graph is optimized away
        fetch = [tf.reduce_sum(tensor) for tensor in fetch]
    return lambda: session.run(fetch)


def side_stage(tf, model, cfg, draw):
    """Upsampling and fusion of four maps of 16 channels, and the gradient with respect to the
    maps."""
    import numpy as np

    preps = [tf.Variable(draw.randn(1, h, w, model.PREP).astype(np.float32)) for _, h, w in SIDES]
    with tf.variable_scope('osvos', reuse=tf.AUTO_REUSE):
        fused = model._fuse([p.read_value() for p in preps], SIZE, cfg)
    return [fused] + tf.gradients(tf.reduce_sum(fused * fused), preps)


def torch_step(case, form, threads):
    """A function that runs one step in PyTorch, channels last: layers written here."""
    import torch
    from torch import nn
    from torch.nn import functional as f

    torch.set_num_threads(threads)
    stages = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            inputs, self.stages = 3, nn.ModuleList()
            for channels, layers in stages:
                convs = [
                    nn.Conv2d(inputs if i == 0 else channels, channels, 3, padding=1)
                    for i in range(layers)
                ]
                self.stages.append(nn.ModuleList(convs))
                inputs = channels
            self.prep = nn.ModuleList(nn.Conv2d(c, 16, 3, padding=1) for c, _ in stages[1:])
            self.score = nn.ModuleList(nn.Conv2d(16, 1, 1) for _ in range(4))
            self.up = nn.ModuleList(
                nn.ConvTranspose2d(16, 16, 2 ** (k + 1), 2**k, bias=False) for k in range(1, 5)
            )
            self.up1 = nn.ModuleList(
                nn.ConvTranspose2d(1, 1, 2 ** (k + 1), 2**k, bias=False) for k in range(1, 5)
            )
            self.fuse = nn.Conv2d(64, 1, 1)
            for p in [*self.up.parameters(), *self.up1.parameters()]:
                p.requires_grad_(False)

        def forward(self, x):
            def crop(y):
                top, left = (y.shape[2] - SIZE[0]) // 2, (y.shape[3] - SIZE[1]) // 2
                return y[:, :, top : top + SIZE[0], left : left + SIZE[1]]

            wide, outputs = [], []
            for i, convs in enumerate(self.stages):
                x = f.max_pool2d(x, 2, 2, ceil_mode=True) if i else x
                for conv in convs:
                    x = f.relu(conv(x))
                if i:
                    side = self.prep[i - 1](x)
                    wide.append(crop(self.up[i - 1](side)))
                    outputs.append(crop(self.up1[i - 1](self.score[i - 1](side))))
            return outputs + [self.fuse(torch.cat(wide, 1))]

    net = Network().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        [p for p in net.parameters() if p.requires_grad], 1e-8, momentum=0.9
    )
    image = torch.randn(1, 3, *SIZE).to(memory_format=torch.channels_last)
    mask = (torch.rand(1, 1, *SIZE) < 0.1).float()

    def forward():
        with torch.no_grad():
            net(image)

    def train():
        optimizer.zero_grad()
        weight = mask * (1 - mask.mean()) + (1 - mask) * mask.mean()
        sum(
            f.binary_cross_entropy_with_logits(o, mask, weight, reduction='sum') for o in net(image)
        ).backward()
        optimizer.step()

    return forward if case == 'forward' else train


def start(python, case, form, threads):
    """A resident worker, ready."""
    unset = {k: v for k, v in os.environ.items() if not k.startswith('MALLOC_')}
    environment = dict(
        unset,
        TF_CPP_MIN_LOG_LEVEL='2',
        OMP_NUM_THREADS=str(threads),
        KMP_BLOCKTIME='1',
        KMP_AFFINITY='none',
        MKL_DEBUG_CPU_TYPE='5',
        PYTHONWARNINGS='ignore',
    )
    environment.update({} if form == 'naive' or form == 'torch' else MALLOC)
    command = [python, __file__, f'--worker={case}', f'--form={form}', f'--threads={threads}']
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        stderr=subprocess.DEVNULL,
        universal_newlines=True,
    )
    while True:
        line = process.stdout.readline()
        if line.strip() == 'ready':
            return process
        if not line:
            raise RuntimeError(f'{command} ended: it cannot run this case')


def run_case(case, variants, threads, rounds):
    """Interleaves the variants' steps and prints a line each."""
    workers = {}
    for name, (python, form) in variants.items():
        try:
            workers[name] = start(python, case, form, threads)
        except RuntimeError as error:
            print(
                json.dumps({'bench': 'osvos', 'case': case, 'variant': name, 'error': str(error)})
            )
    results = {name: [] for name in workers}
    for i in range(rounds + 1):
        for name, process in workers.items():
            process.stdin.write('step\n')
            process.stdin.flush()
            line = process.stdout.readline()
            if line and i:  # the first round warms up
                results[name].append(json.loads(line))
    base = statistics.median(r[1] for r in results['naive']) if results.get('naive') else None
    for name, values in results.items():
        workers[name].kill()
        wall, cpu, peak = (
            (statistics.median(column) for column in zip(*values)) if values else (None,) * 3
        )
        print(
            json.dumps(
                {
                    'bench': 'osvos',
                    'case': case,
                    'variant': name,
                    'threads': threads,
                    'rounds': len(values),
                    'wall_s': wall and round(wall, 4),
                    'cpu_s': cpu and round(cpu, 4),
                    'peak_mb': peak and round(peak),
                    'times_naive': round(base / cpu, 2) if base and cpu else None,
                }
            ),
            flush=True,
        )


def memory(python):
    """Peak memory of segmenting a few and many frames, each in a process of its own."""
    code = (
        'import sys, resource, numpy as np; sys.path.insert(0, sys.argv[1])\n'
        'import tensorflow.compat.v1 as tf; tf.logging.set_verbosity(tf.logging.ERROR)\n'
        'from OSVOS import config, inference\n'
        'cfg = config.get_config("smoke"); cfg.update(device="cpu")\n'
        'import tempfile; d = tempfile.mkdtemp()\n'
        'with tf.Graph().as_default(), tf.Session() as s:\n'
        '    from OSVOS import model\n'
        '    model.network({"image": tf.zeros([1, 64, 64, 3])}, cfg, False)\n'
        '    tf.train.create_global_step(); s.run(tf.global_variables_initializer())\n'
        '    p = tf.train.Saver().save(s, d + "/m.ckpt")\n'
        'count = int(sys.argv[2])\n'
        'frames = (np.full((480, 854, 3), i % 255, np.uint8) for i in range(count))\n'
        'with inference.load(p, cfg) as network:\n'
        '    n = sum(1 for _ in inference.segment({0: network}, cfg, frames, {}))\n'
        'print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)'
    )
    for count in (20, 200):
        done = subprocess.run(
            [python, '-W', 'ignore', '-c', code, str(ROOT), str(count)],
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        frames, peak = done.stdout.decode().split()[-2:]
        print(
            json.dumps(
                {
                    'bench': 'osvos',
                    'case': 'memory',
                    'frames': int(frames),
                    'peak_mb': round(float(peak)),
                }
            )
        )


def main():
    """Runs the cases asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--cases', default='forward,train,side,memory')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--other', help='Python of the other TensorFlow stack')
    parser.add_argument('--intel', help='Python with intel-tensorflow 1.15.2')
    parser.add_argument('--torch', help='Python with PyTorch')
    parser.add_argument('--worker', help=argparse.SUPPRESS)
    parser.add_argument('--form', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.form, args.threads)
        return
    for case in args.cases.split(','):
        if case == 'memory':
            memory(sys.executable)
            continue
        variants = {'naive': (sys.executable, 'naive'), 'ours': (sys.executable, 'ours')}
        variants.update({'ours_other': (args.other, 'ours')} if args.other else {})
        variants.update({'naive_other': (args.other, 'naive')} if args.other else {})
        variants.update({'ours_intel': (args.intel, 'ours')} if args.intel else {})
        if args.torch and case != 'side':
            variants['torch'] = (args.torch, 'torch')
        run_case(case, variants, args.threads, args.rounds)


if __name__ == '__main__':
    main()
