"""Times and memory of ColorNet on this machine: label propagation, training step, clips.

    python test/bench/bench_colornet.py --rounds=3 [--videos=DATA] [--torch=PYTHON]

`votes`: one frame at 480p, 60x107 cells, 21 context frames, radius 12, C channels: the window form
against `released`, the structure of the official code in TensorFlow (100 queries against all
136,080 cells, mask added, top 10), and, with --torch naming a Python that has torch, against that
structure in torch. `step`: ResNet-18 of stride 8, forward and backward of 4x256x256, GFLOP/s.
`memory`: peak of a propagation through 60 and 240 frames. `clips`: examples a second and core,
against the decoding of their frames alone. Processes step in turn, medians of CPU seconds, one
thread. A JSON line a result.
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
MAP, CONTEXT, BEST = (60, 107), 20, 10  # cells; frames beside the first; neighbors
MALLOC = {
    'MALLOC_MMAP_THRESHOLD_': '8589934592',
    'MALLOC_TRIM_THRESHOLD_': '17179869184',
    'MALLOC_TOP_PAD_': '268435456',
}  # as env.sh sets them


def serve(step) -> None:
    """Says 'ready', then does a step a line of stdin and answers with JSON [CPU s, peak MB]."""
    print(json.dumps(peak()), flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        step()
        print(json.dumps([time.process_time() - start, peak()]), flush=True)


def peak() -> float:
    """MB, the most that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def maps(channels: int):
    """Seeded unit vectors float32 [22, h, w, C]: query, first, others."""
    import numpy as np

    found = np.random.RandomState(0).randn(CONTEXT + 2, *MAP, channels).astype(np.float32)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def session_of(tf):
    """One thread."""
    return tf.Session(
        config=tf.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    )


def votes(form: str, channels: int) -> None:
    """One frame's propagation, 'ours' or 'released'."""
    sys.path.insert(0, str(ROOT))
    import tensorflow.compat.v1 as tf

    from ColorNet import config, propagation

    tf.disable_eager_execution()
    cfg = config.get_config('full')
    cfg.device = 'cpu'
    values = maps(channels)
    feed = [tf.placeholder(tf.float32, v.shape) for v in (values[0], values[1], values[2:])]
    run = propagation.votes if form == 'ours' else released
    output, session = run(*feed, cfg), session_of(tf)
    serve(lambda: session.run(output, dict(zip(feed, (values[0], values[1], values[2:])))))


def released(query, first, others, cfg):
    """The structure of labelprop/crw.py: every query against every cell of every frame."""
    import numpy as np
    import tensorflow.compat.v1 as tf

    size = MAP[0] * MAP[1]
    places = np.stack(np.meshgrid(*map(np.arange, MAP), indexing='ij'), -1).reshape(-1, 2)
    far = np.sqrt(((places[:, None] - places) ** 2).sum(-1)) >= cfg.radius
    mask = tf.constant(np.where(far, np.float32(-1e10), np.float32(0)))
    channels = query.shape.as_list()[-1]
    query = tf.reshape(query, [size, channels])
    keys = tf.reshape(tf.concat([first[None], others], 0), [-1, channels])

    def chunk(start):
        scores = tf.matmul(query[start : start + 100], keys, transpose_b=True)
        scores = tf.reshape(scores, [-1, CONTEXT + 1, size])
        near = mask[start : start + 100, None]
        scores = tf.concat([scores[:, :1], scores[:, 1:] + near], 1)
        values, cells = tf.nn.top_k(tf.reshape(scores, [-1, (CONTEXT + 1) * size]), BEST)
        return tf.nn.softmax(values / cfg.temperature), cells

    starts = tf.constant([*range(0, size - 100, 100), size - 100])
    return tf.map_fn(chunk, starts, (tf.float32, tf.int32), 1, back_prop=False)


def torch_votes(channels: int) -> None:
    """The same structure in torch, as released: einsum, mask, topk over the second-last axis."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    size, values = MAP[0] * MAP[1], torch.from_numpy(maps(channels))
    places = np.stack(np.meshgrid(*map(np.arange, MAP), indexing='ij'), -1).reshape(-1, 2)
    far = np.sqrt(((places[:, None] - places) ** 2).sum(-1)) >= 12
    mask = torch.from_numpy(np.where(far, np.float32(-1e10), np.float32(0)))
    keys = values[1:].reshape(CONTEXT + 1, size, channels).permute(2, 0, 1)[None].contiguous()
    query = values[0].reshape(size, channels).t()[None, :, None].contiguous()

    def step():
        for start in range(0, size, 100):
            part = query[..., start : start + 100]
            scores = torch.einsum('ijlm,ijkn->iklmn', keys, part)
            scores[0, :, 1:] += mask[:, start : start + 100]
            scores = scores.reshape(1, (CONTEXT + 1) * size, -1) / 0.05
            found, _ = torch.topk(scores, BEST, dim=-2)
            torch.nn.functional.softmax(found, dim=-2)

    serve(step)


def train_step(*_) -> None:
    """ResNet-18 of stride 8, forward and backward of 4x256x256."""
    sys.path.insert(0, str(ROOT))
    import numpy as np
    import tensorflow.compat.v1 as tf

    from ColorNet import config, model

    tf.disable_eager_execution()
    cfg = config.get_config('dul')
    cfg.device = 'cpu'
    image = tf.constant(np.random.RandomState(0).randn(4, 256, 256, 3).astype(np.float32))
    loss = tf.reduce_sum(tf.square(model.extract(image, cfg, training=True)['key'][..., :3]))
    variables = [v for v in tf.trainable_variables() if 'weights' in v.op.name]
    gradients = tf.add_n([g[(0,) * g.shape.ndims] for g in tf.gradients(loss, variables)])
    session = session_of(tf)
    session.run(tf.global_variables_initializer())
    serve(lambda: session.run(gradients))


def long_video(frames: str, channels: int) -> None:
    """Propagation through so many frames of 240x432, `channels` is not used."""
    sys.path.insert(0, str(ROOT))
    import numpy as np
    import tensorflow.compat.v1 as tf

    from ColorNet import cli, config, convert, inference

    tf.disable_eager_execution()
    cfg = config.get_config('full')
    cfg.update(device='cpu', model_size='S', test_height=240, test_width=432)
    folder = ROOT / 'test' / 'output' / f'bench_colornet_{os.getpid()}'
    draw = np.random.RandomState(0)
    arrays = {n: draw.rand(*s).astype(np.float32) / 20 for n, s in
              convert.network_shapes(cfg).items()}  # fmt: skip
    prefix = cli.write_checkpoint(arrays, str(folder / 'model.ckpt'), cfg, 'drawn numbers')
    image, mask = draw.randint(0, 255, (240, 432, 3), np.uint8), np.zeros((240, 432), np.uint8)
    mask[80:160, 100:200] = 1

    def step():
        with inference.load(prefix, cfg) as network:
            images = (image for _ in range(int(frames)))
            for _ in inference.segment(network, cfg, images, {0: mask}):
                pass

    serve(step)


WORKERS = {'votes': votes, 'torch': lambda _, c: torch_votes(c), 'step': train_step,
           'memory': long_video}  # fmt: skip


def interleaved(variants: dict, rounds: int, python: str) -> dict:
    """{variant: (median CPU seconds, peak MB, MB before)} of processes that step in turn."""
    processes = {
        name: subprocess.Popen(
            [python if kind == 'torch' else sys.executable, '-W', 'ignore', __file__,
             '--worker', kind, form, str(channels)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, **MALLOC},
        )
        for name, (kind, form, channels) in variants.items()
    }  # fmt: skip
    found = {name: [] for name in variants}
    before = {name: json.loads(p.stdout.readline()) for name, p in processes.items()}
    for _ in range(rounds + 1):
        for name, process in processes.items():
            process.stdin.write('\n')
            process.stdin.flush()
            found[name].append(json.loads(process.stdout.readline()))
    for process in processes.values():
        process.stdin.close()
        process.wait()
    return {
        name: (statistics.median(v[0] for v in values[1:] or values), values[-1][1], before[name])
        for name, values in found.items()
    }


def clips(root: str, count: int) -> dict:
    """Clips of five frames a second and core, images of 256 px a second (25 a clip that the network
    takes), and frames decoded a second."""
    sys.path.insert(0, str(ROOT))
    import random

    import cv2
    import numpy as np

    from ColorNet import augment, config, data

    cv2.setNumThreads(1)
    cfg = config.get_config('full')
    cfg.examples = data.find(root, cfg)
    times = {'clip': [], 'decode': []}
    for n in range(count):
        frames = cfg.examples[n % len(cfg.examples)]
        start = time.process_time()
        for path in frames[: cfg.video_len]:
            data.read_image(path)
        times['decode'].append(time.process_time() - start)
        start = time.process_time()
        draws = augment.Draws(random.Random(n), np.random.RandomState(n))
        data.sample(frames, cfg, draws)
        times['clip'].append(time.process_time() - start)
    rate = 1 / statistics.mean(times['clip'])
    return {
        'clips': round(rate, 2), 'images of the network': round(rate * 4 * cfg.video_len, 1),
        'clips decoded': round(1 / statistics.mean(times['decode']), 1),
    }  # fmt: skip


def main() -> None:
    """Runs everything and prints JSON lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--videos', help='data with videos, for `clips`')
    parser.add_argument('--torch', help='a Python that has torch')
    parser.add_argument('--worker', nargs=3, help=argparse.SUPPRESS)
    parser.add_argument('--cases', default='votes,step,memory,clips')
    args = parser.parse_args()
    if args.worker:
        WORKERS[args.worker[0]](args.worker[1], int(args.worker[2]))
        return
    cases = args.cases.split(',')
    for channels in (256, 512) if 'votes' in cases else ():
        variants = {n: ('votes', n, channels) for n in ('ours', 'released')}
        if args.torch:
            variants['torch'] = ('torch', '', channels)
        found = interleaved(variants, args.rounds, args.torch)
        for name, (seconds, most, before) in found.items():
            row = dict(case=f'votes C={channels}', variant=name, cpu_s=round(seconds, 2))
            ratio = round(seconds / found['ours'][0], 2)
            print(
                json.dumps({**row, 'extra_mb': round(most - before), 'times ours': ratio}),
                flush=True,
            )
    if 'step' in cases:
        seconds = interleaved({'step': ('step', '', 0)}, args.rounds, '')['step'][0]
        flops = 3 * 4 * 2 * 12.37  # forward, twice for backward; 12.37 GMAC an image
        row = {'cpu_s': round(seconds, 2), 'gflop_s': round(flops / seconds)}
        print(json.dumps({'case': 'step 4x256x256', **row}), flush=True)
    for frames in ('60', '240') if 'memory' in cases else ():
        most, before = interleaved({'m': ('memory', frames, 0)}, 0, '')['m'][1:]
        row = {'case': f'memory, {frames} frames', 'extra_mb': round(most - before)}
        print(json.dumps(row), flush=True)
    if args.videos and 'clips' in cases:
        print(json.dumps({'case': 'clips a second and core', **clips(args.videos, 20)}))


if __name__ == '__main__':
    main()
