"""Times and memory of MANet on this machine: matching, a propagated frame, embedding, gradients.

    python test/bench/bench_manet.py --rounds=3 [--other=PYTHON]
        [--torch=PYTHON --official=CHECKOUT]

At 480x854, 120x214 cells, 100 channels, three objects and background: `distances` of the local
window, `least` of its 625 planes, made larger, a class, `local` (both) and `global`, against
`usual`, the forms that TensorFlow programs use, and, with --torch naming a Python that has torch
and --official a checkout of lightas/CVPR2020_MANet, against that code; `frame`, one propagated
frame without its embedding; `embed`, the embedding of one frame, with --other in that Python's
TensorFlow too. `dilated`: gradients of the 3x3 convolutions of every rate, GFLOP/s, against
tf.nn.convolution; `gemm`, those of a product of 2048^3. Processes step in turn, medians of CPU
seconds, one thread. A JSON line a result.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from bench_colornet import MALLOC, serve

ROOT = Path(__file__).resolve().parent.parent.parent
CELLS, CHANNELS, CLASSES, REACH = (120, 214), 100, 4, 12
RATES = {2: (512, 512), 4: (512, 512), 8: (512, 512), 6: (2048, 256), 12: (2048, 256),
         18: (2048, 256)}  # of layer4 and of the pyramid: channels in and out  # fmt: skip
IMAGES, SIDE = 6, 26  # of a training step of 2 sequences: maps of the last stage


def inputs() -> dict:
    """Seeded embeddings, labels and planes."""
    import numpy as np

    draw = np.random.RandomState(0)
    query, reference = ((draw.rand(*CELLS, CHANNELS) * 0.3).astype(np.float32) for _ in range(2))
    half = tuple(n // 2 for n in CELLS)
    small = [x[: 2 * half[0] : 2, : 2 * half[1] : 2].copy() for x in (query, reference)]
    labels = draw.randint(0, CLASSES, CELLS).astype(np.int32)
    planes = draw.rand(*half, (2 * REACH + 1) ** 2).astype(np.float32)
    return dict(query=query, reference=reference, labels=labels, planes=planes, q=small[0],
                p=small[1])  # fmt: skip


def prepared():
    """(TensorFlow, settings of the whole network) of a worker."""
    sys.path.insert(0, str(ROOT))
    import tensorflow.compat.v1 as tf

    from MANet import config

    tf.disable_eager_execution()
    cfg = config.get_config()
    cfg.device = 'cpu'
    return tf, cfg


def served(tf, output, feed=None) -> None:
    """Serves runs of `output` in a session of one thread; variables as they start."""
    one = tf.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    session = tf.Session(config=one)
    session.run(tf.global_variables_initializer())
    serve(lambda: session.run(output, feed))


def matching(form: str, case: str) -> None:
    """A part of the matching, 'ours' or 'usual'."""
    tf, cfg = prepared()
    from MANet import matching as ours

    wanted = {'distances': ('q', 'p'), 'least': ('planes', 'labels'),
              'local': ('query', 'reference', 'labels'),
              'global': ('query', 'reference', 'labels')}[case]  # fmt: skip
    values = {key: value for key, value in inputs().items() if key in wanted}
    feed = {key: tf.placeholder(v.dtype, v.shape) for key, v in values.items()}
    given = [feed[key] for key in wanted]
    run = {
        ('ours', 'distances'): lambda q, p: ours.window_distances(q, p, REACH, cfg),
        ('ours', 'least'): lambda p, labels: ours.window_minima(p, labels, CLASSES, cfg, True),
        ('ours', 'local'): lambda q, p, labels: ours.local_map(q, p, labels, CLASSES, cfg, True),
        ('ours', 'global'): lambda q, r, labels: ours.global_map(q, r, labels, CLASSES, cfg, True),
        ('usual', 'distances'): usual_distances, ('usual', 'least'): usual_least,
        ('usual', 'global'): usual_global,
    }[form, case]  # fmt: skip
    output = tf.reduce_sum(run(*given))  # no copy of it to Python
    served(tf, output, {feed[key]: value for key, value in values.items()})


def usual_distances(q, p):
    """Squared differences of 625 shifted copies."""
    import tensorflow.compat.v1 as tf

    height, width = q.shape.as_list()[:2]
    p = tf.pad(p, [[REACH, REACH], [REACH, REACH], [0, 0]])
    side = range(2 * REACH + 1)
    shifted = (p[y : y + height, x : x + width] for y in side for x in side)
    return tf.stack([tf.reduce_sum(tf.square(q - s), 2) for s in shifted], 2)


def usual_least(planes, labels):
    """All classes at once: planes tiled to [h, w, 625, N]."""
    import tensorflow.compat.v1 as tf

    planes = tf.image.resize_bilinear(planes[None], CELLS, align_corners=True)[0]
    border, side = [[2 * REACH] * 2, [2 * REACH] * 2], 2 * REACH + 1
    there = tf.pad(tf.cast(labels, tf.float32), border)[None, ..., None]
    there = tf.extract_image_patches(
        there, [1, side, side, 1], [1, 1, 1, 1], [1, 2, 2, 1], 'VALID'
    )[0]
    same = tf.equal(there[..., None], tf.range(CLASSES, dtype=tf.float32))
    tiled = tf.tile(planes[..., None], [1, 1, 1, CLASSES])
    return tf.reduce_min(tf.where(same, tiled, tf.ones_like(tiled)), 2)


def usual_global(q, r, labels):
    """100 chunks of queries, all classes with a penalty of wrong labels (FEELVOS's structure)."""
    import tensorflow.compat.v1 as tf

    q, r = (tf.reshape(x, [-1, CHANNELS]) for x in (q, r))
    size = -(-q.shape.as_list()[0] // 100)
    q = tf.pad(q, [[0, 100 * size - q.shape.as_list()[0]], [0, 0]])
    wrong = tf.cast(tf.not_equal(tf.reshape(labels, [-1]), tf.range(CLASSES)[:, None]), tf.float32)

    def chunk(part):
        d = tf.reduce_sum(part * part, 1, keepdims=True) + tf.reduce_sum(r * r, 1)
        d -= 2 * tf.matmul(part, r, transpose_b=True)
        return tf.reduce_min(d[:, None] + wrong * 1e20, 2)

    return tf.map_fn(chunk, tf.reshape(q, [100, size, CHANNELS]), parallel_iterations=1)


def frame(*_) -> None:
    """Match and propagate of one frame, as session.Session runs them."""
    tf, cfg = prepared()
    from MANet import inference

    values = inputs()
    feed, maps = inference.match_graph(cfg, CLASSES, CELLS)
    given = dict(query='query', reference='reference', previous='reference', labels='labels',
                 mask='labels')  # fmt: skip
    values = {feed[key]: values[name] for key, name in given.items()}
    more, answer = inference.propagate_graph(cfg, CLASSES, CELLS)
    one = tf.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    run = tf.Session(config=one)
    run.run(tf.global_variables_initializer())

    def step():
        found = run.run(maps, values)
        given = {'global': found['global_map'], 'local': found['local_map']}
        given.update(embedding=values[feed['query']], mask=values[feed['mask']])
        run.run(answer, {more[key]: value for key, value in given.items()})

    serve(step)


def embed(*_) -> None:
    """Embedding of one frame of 480x854."""
    tf, cfg = prepared()
    import numpy as np

    from MANet import model

    image = np.random.RandomState(0).randn(1, 480, 854, 3).astype(np.float32)
    given = tf.placeholder(tf.float32, image.shape)
    served(tf, tf.reduce_sum(model.embed(given, cfg)), {given: image})


def dilated(form: str, rate: str) -> None:
    """Both gradients of a 3x3 convolution, 'ours' or 'usual'."""
    tf, _ = prepared()
    import numpy as np

    from MANet import backbone

    rate = int(rate)
    inputs_, outputs = RATES[rate]
    draw = np.random.RandomState(0)
    shapes = ((IMAGES, SIDE, SIDE, inputs_), (3, 3, inputs_, outputs),
              (IMAGES, SIDE, SIDE, outputs))  # fmt: skip
    values = [draw.randn(*shape).astype(np.float32) for shape in shapes]
    x, weights, dy = (tf.placeholder(tf.float32, shape) for shape in shapes)
    if form == 'ours':
        y = backbone._conv_dilated(x, weights, rate)
    else:
        y = tf.nn.convolution(x, weights, 'SAME', dilation_rate=[rate, rate])
    found = [tf.reduce_sum(g) for g in tf.gradients(y, [x, weights], dy)]
    served(tf, tf.add_n(found), dict(zip((x, weights, dy), values)))


def gemm(*_) -> None:
    """A product of two matrices of 2048 x 2048."""
    tf, _ = prepared()
    import numpy as np

    value = np.random.RandomState(0).rand(2048, 2048).astype(np.float32)
    given = tf.placeholder(tf.float32, value.shape)
    served(tf, tf.reduce_sum(tf.matmul(given, given)), {given: value})


def official(checkout: str, case: str) -> None:
    """The official code's `distances`, `local`, `global` or `frame`."""
    sys.path.insert(0, str(ROOT / 'test' / 'recorded'))
    import manet_official

    torch, settings = manet_official.prepared(Path(checkout))
    from networks import IntVOS
    from networks.deeplab import DeepLab

    torch.set_num_threads(1)
    values = {key: torch.from_numpy(value) for key, value in inputs().items()}
    query, reference = values['query'], values['reference']
    labels, ids = values['labels'][..., None], torch.arange(CLASSES).int()
    net = IntVOS.IntVOS(settings, DeepLab(backbone='resnet')).eval()
    batch = [x.permute(2, 0, 1)[None] for x in (reference, reference, query)]
    planes = values['labels'][None, None]
    calls = {
        'distances': lambda: IntVOS.local_pairwise_distances2(
            values['q'], values['p'], max_distance=REACH
        ),
        'local': lambda: IntVOS.local_previous_frame_nearest_neighbor_features_per_object(
            reference, query, labels, ids, max_distance=REACH
        ),
        'global': lambda: IntVOS.nearest_neighbor_features_per_object(
            reference, query, labels, 1, gt_ids=torch.tensor(CLASSES - 1), n_chunks=10
        ),
        'frame': lambda: net.prop_seghead(
            *batch, planes, planes, seq_names=['a'], gt_ids=torch.tensor([CLASSES - 1]),
            k_nearest_neighbors=1, global_map_tmp_dic={}, local_map_dics=({}, {}),
            interaction_num=1, start_annotated_frame=0, frame_num=[1],
            dynamic_seghead=net.dynamic_seghead,
        ),
    }  # fmt: skip

    def step():
        with torch.no_grad():
            calls[case]()

    serve(step)


WORKERS = {'matching': matching, 'frame': frame, 'embed': embed, 'dilated': dilated, 'gemm': gemm,
           'official': official}  # fmt: skip


def interleaved(variants: dict, rounds: int) -> dict:
    """{variant: (median CPU seconds, peak MB, MB before)} of processes that step in turn, each
    (Python, worker, form, case)."""
    processes = {
        name: subprocess.Popen(
            [python, '-W', 'ignore', __file__, '--worker', *worker],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, **MALLOC, 'OMP_NUM_THREADS': '1'},
        )
        for name, (python, *worker) in variants.items()
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
        name: (statistics.median(v[0] for v in values[1:]), values[-1][1], before[name])
        for name, values in found.items()
    }


def main() -> None:
    """Runs everything and prints JSON lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--other', help='the Python of another TensorFlow, for `embed`')
    parser.add_argument('--torch', help='a Python that has torch')
    parser.add_argument('--official', help='checkout of lightas/CVPR2020_MANet')
    parser.add_argument('--cases', default='distances,least,local,global,frame,embed,gemm,dilated')
    parser.add_argument('--worker', nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        WORKERS[args.worker[0]](*args.worker[1:])
        return
    here = sys.executable
    for case in args.cases.split(','):
        if case == 'dilated':
            for rate, (inputs_, outputs) in RATES.items():
                variants = {f: (here, 'dilated', f, str(rate)) for f in ('ours', 'usual')}
                flops = 2 * 2 * IMAGES * SIDE * SIDE * 9 * inputs_ * outputs / 1e9
                say(f'dilated, rate {rate}', interleaved(variants, args.rounds), flops)
            continue
        worker = case if case in ('frame', 'embed', 'gemm') else 'matching'
        variants = {'ours': (here, worker, 'ours', case)}
        if case in ('distances', 'least', 'global'):
            variants['usual'] = (here, worker, 'usual', case)
        if args.torch and args.official and case not in ('least', 'embed', 'gemm'):
            variants['official'] = (args.torch, 'official', args.official, case)
        if args.other and case == 'embed':
            variants['other TensorFlow'] = (args.other, 'embed', 'ours', case)
        flops = 2 * 2048**3 / 1e9 if case == 'gemm' else 0
        say(case, interleaved(variants, args.rounds), flops)


def say(case: str, found: dict, flops: float = 0) -> None:
    """Prints the variants of a case."""
    for name, (seconds, most, before) in found.items():
        row = {'case': case, 'variant': name, 'cpu_s': round(seconds, 3)}
        row.update({'extra_mb': round(most - before), 'times ours': round(
            seconds / found['ours'][0], 2)})  # fmt: skip
        if flops:
            row['gflop_s'] = round(flops / seconds)
        print(json.dumps(row), flush=True)


if __name__ == '__main__':
    main()
