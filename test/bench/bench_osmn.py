"""Times and memory of OSMN on this machine: forward pass, several objects, examples.

    python test/bench/bench_osmn.py --rounds=5 [--coco=DIR --davis=DIR]

`forward`: one object at 480x854 (base network, random weights) against `naive`, the same network as
it is usually written: 16-channel dense transposed convolutions, then the 1x1 fusion. `objects`: a
frame with 1, 2, 4 objects together against so many passes of one. Variants are resident processes
that step in turn; medians of process CPU seconds, one thread; peak memory is each process's own.
`examples`: COCO and DAVIS examples a second and core, against the decoding of their files alone.
A JSON line a result.
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


def worker(form: str, objects: int) -> None:
    """Says 'ready', then does a step a line of stdin and answers with JSON."""
    sys.path.insert(0, str(ROOT))
    import numpy as np
    import tensorflow.compat.v1 as tf

    from OSMN import config, model

    tf.disable_eager_execution()
    cfg = config.get_config('full')
    cfg.device = 'cpu'
    if form == 'naive':
        model._osvos = plain(tf, model)
    session = tf.Session(
        config=tf.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    )
    count = objects if form != 'alone' else 1
    feed = {
        'image': tf.placeholder(tf.float32, [1, *SIZE, 3]),
        'heat': tf.placeholder(tf.float32, [count, *SIZE, 1]),
        'scales': tf.placeholder(tf.float32, [count, 3840]),
    }
    output = model.network(feed, cfg, False)['probability']
    session.run(tf.global_variables_initializer())
    draw = np.random.RandomState(0)
    values = {
        feed[key]: draw.uniform(0, 1, feed[key].shape.as_list()).astype(np.float32) for key in feed
    }
    print('ready', flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        for _ in range(objects // count):
            session.run(output, values)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps([time.process_time() - start, peak]), flush=True)


def plain(tf, model):
    """The segmentation with dense 16-channel transposed convolutions before the fusion."""
    import numpy as np

    def network(features, scales, shifts, cfg, training):
        modulate = model._modulation(scales, shifts, cfg)
        maps = model.backbone.vgg16(features['image'], cfg, modulate)
        ups = []
        for k in model.SIDES:
            prep = model.conv(maps[k - 1], model.PREP, 3, f'prep{k}', cfg, cfg.init_std)
            batch, h, w, c = prep.shape.as_list()
            stride = 2 ** (k - 1)
            line = 1 - np.abs(np.arange(2 * stride) - (stride - 0.5)) / stride
            kernel = np.outer(line, line)[:, :, None, None] * np.eye(c)
            kernel = tf.Variable(kernel.astype(np.float32))
            full = [(h + 1) * stride, (w + 1) * stride]
            up = tf.nn.conv2d_transpose(prep, kernel, [batch, *full, c], stride, 'VALID')
            top, left = (full[0] - SIZE[0]) // 2, (full[1] - SIZE[1]) // 2
            ups.append(up[:, top : top + SIZE[0], left : left + SIZE[1]])
        count = max(up.shape.as_list()[0] for up in ups)
        ups = [tf.tile(up, [count // up.shape.as_list()[0], 1, 1, 1]) for up in ups]
        return model.conv(tf.concat(ups, 3), 1, 1, 'fuse', cfg, cfg.init_std)

    return network


def interleaved(variants: dict, rounds: int) -> dict:
    """{variant: (median CPU seconds, peak MB)} of processes that step in turn."""
    processes = {
        name: subprocess.Popen(
            [sys.executable, '-W', 'ignore', __file__, '--worker', form, str(objects)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, **MALLOC},
        )
        for name, (form, objects) in variants.items()
    }  # fmt: skip
    found = {name: [] for name in variants}
    for process in processes.values():
        process.stdout.readline()
    for _ in range(rounds + 1):
        for name, process in processes.items():
            process.stdin.write('\n')
            process.stdin.flush()
            found[name].append(json.loads(process.stdout.readline()))
    for process in processes.values():
        process.stdin.close()
        process.wait()
    return {
        name: (statistics.median(v[0] for v in values[1:]), values[-1][1])
        for name, values in found.items()
    }


def examples(root: str, dataset: str, count: int) -> dict:
    """Examples a second and core, and the rate of decoding alone, in turn."""
    sys.path.insert(0, str(ROOT))
    import cv2
    import numpy as np

    from common import masks
    from OSMN import config, data, guides, train

    cv2.setNumThreads(1)
    cfg = config.get_config('full' if dataset == 'coco' else 'davis')
    items = data.examples(train.stage_root(root, cfg), cfg)
    draw, times = np.random.RandomState(0), {'whole': [], 'decode': []}
    sizes = data.scaled_sizes(cfg)
    for i in range(count):
        item = items[draw.randint(len(items))]
        start = time.process_time()
        if dataset == 'coco':
            data.load_coco(item)
        else:
            for path in item[:5]:
                (masks.read_mask if path.endswith('.png') else masks.read_image)(path)
        times['decode'].append(time.process_time() - start)
        start = time.process_time()
        numbers = draw.random_sample(guides.COUNT)
        data.example(item, sizes[i % len(sizes)], cfg, guides.draws_of(numbers))
        times['whole'].append(time.process_time() - start)
    return {name: 1 / statistics.mean(values) for name, values in times.items()}


def main() -> None:
    """Runs everything and prints JSON lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--coco', help='COCO tree for the examples')
    parser.add_argument('--davis', help='DAVIS tree for the examples')
    parser.add_argument('--worker', nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker[0], int(args.worker[1]))
        return
    pairs = {'forward': {'ours': ('ours', 1), 'naive': ('naive', 1)}}
    for n in (2, 4):
        pairs[f'objects {n}'] = {'together': ('ours', n), 'one by one': ('alone', n)}
    for case, variants in pairs.items():
        found = interleaved(variants, args.rounds)
        slow = list(found)[-1]
        for name, (seconds, memory) in found.items():
            row = dict(case=case, variant=name, cpu_s=round(seconds, 3), peak_mb=round(memory))
            ratio = {f'times faster than {slow}': round(found[slow][0] / seconds, 2)}
            print(json.dumps({**row, **ratio}), flush=True)
    for dataset in ('coco', 'davis'):
        if getattr(args, dataset):
            rates = examples(getattr(args, dataset), dataset, 60 * args.rounds)
            rounded = {name: round(rate, 1) for name, rate in rates.items()}
            print(json.dumps({'case': f'examples {dataset}, a second and core', **rounded}))


if __name__ == '__main__':
    main()
