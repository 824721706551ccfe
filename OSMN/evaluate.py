"""Segments videos from their first masks and scores them: DAVIS, YouTube-VOS, YouTube-Objects.

    python -m OSMN.evaluate --data_path=DAVIS --checkpoint=run --output_path=out
    python -m OSMN.evaluate --data_path=YouTubeVOS --dataset=youtube_vos --split=valid ...

Roll-out as in the paper (section 3): the first mask makes the guide, every mask the heat map of the
next frame. Objects of a frame go through the network together. Writes masks/<sequence>/<frame>.png
(YouTube-VOS: Annotations/<video>/), with --save_score the probabilities of every object, the scores
as CSV and results.json, with --overlay a contact sheet and an MP4 a sequence.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys

import cv2
import numpy as np
import tensorflow.compat.v1 as tf

from common import masks, metrics, videos

from . import cli, data, guides, model, npu
from .config import get_config
from .videos import DATASETS, find, first_run, resolve


@contextlib.contextmanager
def loaded(cfg, prefix: str):
    """A network with a checkpoint's weights: yields `run(image, heats, scales)` and
    `modulate(guides)`.

    run: float32 [1, H, W, 3], [N, H, W, 1], [N, K] -> probabilities float32 [N, H, W]. modulate:
    float32 [N, G, G, 3] -> scales float32 [N, K]. A graph is built for every new shape.

    Raises:
      ValueError: the checkpoint is of another network.
    """
    cfg = type(cfg)({**cfg, 'examples': []})
    with tf.Graph().as_default() as graph, npu.session(cfg) as session:
        guide = tf.placeholder(tf.float32, [1, cfg.guide_size, cfg.guide_size, 3])
        scales = model.visual_modulator(guide, cfg, False) if cfg.visual_modulator else None
        inputs = {}

        def build(height, width, count):
            with graph.as_default():
                feed = {
                    'image': tf.placeholder(tf.float32, [1, height, width, 3]),
                    'heat': tf.placeholder(tf.float32, [count, height, width, 1]),
                }
                if scales is not None:
                    shape = [count, scales.shape.as_list()[1]]
                    feed['scales'] = tf.placeholder(tf.float32, shape)
                output = model.network(feed, cfg, False)['probability']
            inputs[height, width, count] = feed, output

        size = data.network_size((cfg.test_height, cfg.test_width or cfg.test_height), cfg)
        build(*size, 1)
        variables = [v for v in tf.global_variables() if v.op.name.startswith('osmn/')]
        tf.train.Saver(cli.match_variables(prefix, variables)).restore(session, prefix)

        def modulate(pictures):
            if scales is None:
                return np.zeros((len(pictures), 1), np.float32)
            return np.concatenate([session.run(scales, {guide: x[None]}) for x in pictures])

        def run(image, heats, vectors):
            key = (*image.shape[1:3], len(heats))
            if key not in inputs:
                build(*key)
            feed, output = inputs[key]
            values = {'image': image, 'heat': heats, 'scales': vectors}
            return session.run(output, {feed[name]: values[name] for name in feed})[..., 0]

        yield run, modulate


def roll_out(network, cfg, frames, given: dict, crf: bool = False, visit=None):
    """The probability of every object in every frame.

    Args:
      network: of loaded(). frames: iterator of uint8 [H, W, 3] BGR. given: {frame number: ids uint8
      [H, W]}; an object starts in the first that shows it. crf: masks are refined() before they
      guide the next frame, as in the original. visit: function (frame number, probabilities),
      called for every frame that has any, before refinement.

    Yields:
      (frame, {object id: float32 [h, w]} at network size, ids in order; 0 and 1 in an object's
      first frame).
    """
    run, modulate = network
    scales, heats = {}, {}
    for t, image in enumerate(frames):
        size = data.network_size(image.shape[:2], cfg)
        small = guides.resize_image(image, size)
        maps, found = {}, {}
        if scales:
            picture = guides.normalised(small, cfg)[None]
            found = _in_groups(run, cfg, picture, heats, scales)
            maps = refined(found, image) if crf else found
        ids = given.get(t, np.zeros(image.shape[:2], np.uint8))
        if ids.shape != image.shape[:2]:
            raise ValueError(
                f'frame {t}: its mask is {ids.shape[1]}x{ids.shape[0]}, the frame '
                f'{image.shape[1]}x{image.shape[0]}'
            )
        for number in sorted(set(np.unique(ids).tolist()) - {0, 255} - set(scales)):
            whole = videos.binary(ids, number)
            scales[number] = modulate(guides.guide(image, whole, cfg)[None])[0]
            maps[number] = guides.resize_mask(whole, size).astype(np.float32)
        if maps and visit is not None:
            visit(t, {**maps, **found})
        for number, map_ in maps.items():
            heats[number] = data.prior((map_ > cfg.threshold).view(np.uint8), cfg)
        yield image, dict(sorted(maps.items()))


def _in_groups(run, cfg, picture, heats, scales):
    """{id: probabilities}, at most cfg.objects at once; groups are equal, the last filled up, so
    that shapes do not change from frame to frame."""
    numbers, maps = sorted(scales), {}
    count = min(len(numbers), cfg.objects)
    for i in range(0, len(numbers), count):
        group = numbers[i : i + count]
        padded = group + [group[-1]] * (count - len(group))
        heat = np.stack([heats[n] for n in padded])[..., None]
        found = run(picture, heat, np.stack([scales[n] for n in padded]))
        maps.update(zip(group, found))
    return maps


def merged(maps: dict, cfg) -> np.ndarray:
    """Object ids uint8 [h, w]: the likeliest of the background, cfg.threshold everywhere, and the
    objects {id: float32 [h, w]} (davis_eval.py)."""
    numbers = np.array([0, *maps], np.uint8)
    background = np.full_like(next(iter(maps.values())), cfg.threshold)
    return numbers[np.argmax([background, *maps.values()], axis=0)]


def refined(maps: dict, image: np.ndarray) -> dict:
    """The masks of {id: float32 [h, w]} after a fully connected CRF (Kraehenbuehl and Koltun 2011;
    dataset_davis.py crf_processing), as 0 and 1.

    Raises:
      ImportError: pydensecrf is not installed.
    """
    try:
        from pydensecrf import densecrf, utils
    except ImportError:
        raise ImportError(
            '--crf needs pydensecrf: pip install git+https://github.com/lucasb-eyer/pydensecrf.git'
        ) from None
    result = {}
    for number, map_ in maps.items():
        height, width = map_.shape
        picture = np.ascontiguousarray(guides.resize_image(image, map_.shape)[..., ::-1])
        crf = densecrf.DenseCRF2D(width, height, 2)
        labels = (map_ > 0.5).astype(np.int32)
        crf.setUnaryEnergy(utils.unary_from_labels(labels, 2, gt_prob=0.9, zero_unsure=False))
        crf.addPairwiseGaussian(sxy=(3, 3), compat=3)
        crf.addPairwiseBilateral(sxy=(40, 40), srgb=(5, 5, 5), rgbim=picture, compat=10)
        best = np.argmax(crf.inference(5), axis=0)
        result[number] = best.reshape(map_.shape).astype(np.float32)
    return result


def segment(network, cfg, frames, given: dict, crf: bool = False, visit=None):
    """Object ids uint8 [H, W] of every frame, of the frame's size; given masks are kept where an
    object starts.

    Args:
      network, frames, given, crf, visit: of roll_out(), but `frames` is a function that makes the
      iterator; `network` may be {object id: network}, trained online.
    """
    networks = network if isinstance(network, dict) else {0: network}
    streams = [
        roll_out(own, cfg, frames(), _only(n, given), crf, visit) for n, own in networks.items()
    ]
    started = set()
    for t, steps in enumerate(zip(*streams)):
        shape = steps[0][0].shape[:2]
        maps = {number: map_ for _, found in steps for number, map_ in found.items()}
        ids = guides.resize_mask(merged(maps, cfg), shape) if maps else np.zeros(shape, np.uint8)
        new = sorted(set(maps) - started)
        if new:
            ids = np.where(np.isin(ids, new), 0, ids)
            ids = np.where(np.isin(given[t], new), given[t], ids).astype(np.uint8)
        started |= set(new)
        yield ids


def _only(number, given):
    """Given masks of one object, of all for 0."""
    return {t: np.where(ids == number, ids, 0) if number else ids for t, ids in given.items()}


def sequence(cfg, video, network, output_path: str, args) -> None:
    """Writes the masks, and with --save_score the probabilities, of one video."""
    folder = cli.writable(os.path.join(output_path, video.folder))
    stems = [videos.stem(path) for path in video.frames]

    def save(t, maps):
        for number, map_ in maps.items():
            own = os.path.join(output_path, 'scores', video.name, str(number))
            os.makedirs(own, exist_ok=True)
            path = os.path.join(own, f'{stems[t]}.npy')
            with open(f'{path}.tmp', 'wb') as f:
                np.save(f, map_)
            os.replace(f'{path}.tmp', path)

    visit = save if args.save_score else None
    results = segment(
        network, cfg, lambda: map(masks.read_image, video.frames), video.given, args.crf, visit
    )
    for name, ids in zip(stems, results):
        absent = [number for number, shown in video.shown.items() if name not in shown]
        ids = np.where(np.isin(ids, absent), 0, ids).astype(np.uint8) if absent else ids
        masks.write_mask(os.path.join(folder, name + '.png'), ids)
    print(f'{video.name}: {len(stems)} masks in {folder}', flush=True)


def score(cfg, found: list, root: str, dataset: str, output_path: str, stability=False) -> dict:
    """Scores the written masks, writes the CSV files and results.json, returns the results; {}
    where the data has no masks to compare with."""
    if dataset == 'davis':
        folders = [os.path.join(root, 'Annotations', '480p'), os.path.join(output_path, 'masks')]
        names = [video.name for video in found]
        results = metrics.evaluate(*folders, names, year=cfg.year, stability=stability)
    else:
        results = videos.score(found, output_path)
    if results:
        results['config'] = {key: value for key, value in cfg.items() if key != 'examples'}
        results['versions'] = {
            'tensorflow': tf.__version__, 'numpy': np.__version__, 'opencv': cv2.__version__,
        }  # fmt: skip
        metrics.write_results(results, output_path)
    return results


@contextlib.contextmanager
def networks(cfg, args):
    """Yields a function: video -> its network, or {object id: network} from --online_path."""
    if not args.online_path:
        with loaded(cfg, cli.checkpoint_prefix(args.checkpoint)) as network:
            yield lambda video: network
        return
    with contextlib.ExitStack() as stack:

        def online(video):
            stack.close()  # one video's networks at a time: 0.7 GB each
            folders = {n: f'{video.name}_{n}' for n in videos.numbers(video)}
            return {
                n: stack.enter_context(
                    loaded(cfg, cli.checkpoint_prefix(os.path.join(args.online_path, folder)))
                )
                for n, folder in folders.items()
            }

        yield online


def run(args, cfg) -> dict:
    """Segments, scores, draws; returns the results."""
    dataset = args.dataset or ('davis' if cfg.dataset == 'coco' else cfg.dataset)
    root = resolve(cli.data_root(args, cfg), dataset)
    found = find(root, dataset, args.split, args.sequences, cfg.year)
    output_path = cli.writable(args.output_path)
    with networks(cfg, args) as network_of:
        for video in found:
            sequence(cfg, video, network_of(video), output_path, args)
    results = score(cfg, found, root, dataset, output_path, args.stability)
    for video in found if args.overlay else ():
        videos.overlays(video, output_path)
    return results


def accuracy(cfg, root: str, checkpoint: str, result_path: str) -> float | None:
    """J&F-Mean, 0..1, on the validation sequences of the stage, of DAVIS after COCO; None, with a
    line that says so, where `root` has none with masks."""
    try:
        dataset = 'youtube_vos' if cfg.dataset == 'youtube_vos' else 'davis'
        resolve(root, dataset)
    except FileNotFoundError as error:
        print(f'no TrainAccuracy: {error}', flush=True)
        return None
    split = 'train' if dataset == 'youtube_vos' else 'val'  # valid has no masks
    args = arguments().parse_args(
        [
            f'--data_path={root}', f'--checkpoint={checkpoint}', f'--split={split}',
            f'--output_path={os.path.join(result_path, "results")}',
        ]
    )  # fmt: skip
    return run(args, cfg)['global']['J&F-Mean']


def arguments():
    """The program's flags."""
    flags = cli.parser(__doc__)
    flags.add_argument('--data_path', help='data tree; default on CPU: drawn data')
    flags.add_argument('--checkpoint', help='folder or prefix')
    flags.add_argument('--online_path', help='folder that OSMN.online wrote')
    flags.add_argument('--output_path', default='results')
    flags.add_argument('--dataset', choices=DATASETS, help='default: as trained, or davis')
    flags.add_argument('--sequences', help='a,b; default: the split')
    flags.add_argument('--split', default='', help="default: val, YouTube-VOS 'valid'")
    flags.add_argument('--overlay', action='store_true', help='draw contact sheets and clips')
    flags.add_argument('--save_score', action='store_true', help='probabilities as .npy')
    flags.add_argument('--crf', action='store_true', help='refine by a CRF; needs pydensecrf')
    flags.add_argument('--stability', action='store_true', help='temporal stability T too; slow')
    return flags


@cli.program
def main(argv=None):
    """Prints J and F of every object, and J&F."""
    args = arguments().parse_args(argv)
    if not args.checkpoint and not args.online_path:
        raise ValueError('--checkpoint or --online_path is needed')
    cfg = cli.configure(args, get_config, args.checkpoint or first_run(args.online_path))
    results = run(args, cfg)
    for name, row in sorted(results.get('per_sequence', {}).items()):
        print(f'{name:24s} J {row["J-Mean"]:.3f} F {row["F-Mean"]:.3f}')
    print(json.dumps(results['global']) if results else 'no masks to compare with: nothing scored')


if __name__ == '__main__':
    sys.exit(main())
