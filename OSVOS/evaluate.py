"""Segments DAVIS sequences and scores them: J, F, T of DAVIS, and the pixel Dice that MindSpore
calls F1.

    python -m OSVOS.evaluate --data_path=DAVIS --checkpoint=run --output_path=out
    python -m OSVOS.evaluate --data_path=DAVIS --online_path=online --output_path=out

Without --online_path the parent network alone segments: no first mask is used. Writes
masks/<sequence>/<frame>.png, the two official CSV files, results.json and, with --overlay, a
contact sheet and an MP4 a sequence.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile

import cv2
import numpy as np
import tensorflow.compat.v1 as tf

from common import davis, masks, metrics

from . import cli, data, model, npu, online, train
from .config import get_config


def check_checkpoint(cfg, prefix: str) -> None:
    """ValueError unless the checkpoint holds every variable of the network, in its shape."""
    with tf.Graph().as_default():
        model.network({'image': tf.zeros([1, 64, 64, 3])}, cfg, training=False)
        cli.match_variables(prefix, tf.global_variables() + [tf.train.create_global_step()])


def probabilities(cfg, prefix: str, frames, shape: tuple[int, int]):
    """The object's probability in every frame, float32 [H, W] of the frame's size.

    Args:
      prefix: of the checkpoint.
      frames: function without arguments that gives an iterator of uint8 [H, W, 3] BGR frames.
      shape: (H, W) of the frames.
    """
    size = data.network_size(*shape, cfg)
    estimator = npu.estimator(train.model_fn, cfg, os.path.dirname(prefix))
    input_fn = data.frames_input_fn(frames, size)
    for prediction in estimator.predict(input_fn, checkpoint_path=prefix):
        map_ = prediction['probability'][..., 0]
        yield map_ if size == shape else cv2.resize(map_, shape[::-1])


def segment(cfg, checkpoints: dict, frames, shape: tuple[int, int]):
    """Object ids uint8 [H, W] of every frame: the likeliest object above cfg.threshold, else 0.

    Args:
      checkpoints: {object id: checkpoint prefix}; id 0 (all objects as one) is written as 1.
      frames, shape: of probabilities().
    """
    ids = np.array([number or 1 for number in checkpoints], np.uint8)
    streams = [probabilities(cfg, prefix, frames, shape) for prefix in checkpoints.values()]
    streams = [spooled(stream, shape) for stream in streams[:-1]] + streams[-1:]
    for maps in zip(*streams):
        best = np.argmax(maps, axis=0) if len(maps) > 1 else np.zeros(shape, np.intp)
        yield np.where(np.max(maps, axis=0) > cfg.threshold, ids[best], 0).astype(np.uint8)


def spooled(maps, shape: tuple[int, int]):
    """The maps float32 [H, W] of a generator, run to its end now, through a temporary file.

    Two predictions of tf.estimator cannot run side by side in one process.
    """
    file = tempfile.TemporaryFile()  # noqa: SIM115, closed with the generator below
    for map_ in maps:
        file.write(map_.astype(np.float32).tobytes())
    file.seek(0)

    def again():
        with file:
            for data_ in iter(lambda: file.read(4 * shape[0] * shape[1]), b''):
                yield np.frombuffer(data_, np.float32).reshape(shape)

    return again()


def sequence(cfg, root: str, name: str, checkpoints: dict, output_path: str) -> None:
    """Writes the masks of one sequence to output_path/masks/<name>/<frame>.png."""
    paths = davis.frames(root, name)
    shape = masks.read_image(paths[0]).shape[:2]
    folder = os.path.join(output_path, 'masks', name)
    os.makedirs(folder, exist_ok=True)
    results = segment(cfg, checkpoints, lambda: map(masks.read_image, paths), shape)
    for path, mask in zip(paths, results):
        stem = os.path.splitext(os.path.basename(path))[0]
        masks.write_mask(os.path.join(folder, stem + '.png'), mask)
    print(f'{name}: {len(paths)} masks in {folder}', flush=True)


def dice(root: str, name: str, output_path: str) -> float:
    """2|A and B| / (|A| + |B|) over all pixels of all frames of a sequence (MindSpore
    evaluation_davis.py)."""
    both = sizes = 0
    for path in davis.masks(root, name):
        truth = data.binary(masks.read_mask(path)) > 0
        written = os.path.join(output_path, 'masks', name, os.path.basename(path))
        result = masks.read_mask(written) > 0
        both += 2 * np.count_nonzero(truth & result)
        sizes += np.count_nonzero(truth) + np.count_nonzero(result)
    return both / sizes if sizes else 1.0


def score(cfg, root: str, names: list[str], output_path: str, stability: bool = False) -> dict:
    """Scores the written masks, writes the CSV files and results.json, returns the results."""
    results = metrics.evaluate(
        os.path.join(root, 'Annotations', '480p'),
        os.path.join(output_path, 'masks'),
        names,
        year=cfg.year,
        stability=stability,
    )
    results['dice'] = {name: dice(root, name, output_path) for name in names}
    results['config'] = {key: value for key, value in cfg.items() if key != 'pairs'}
    results['versions'] = {
        'tensorflow': tf.__version__,
        'numpy': np.__version__,
        'opencv': cv2.__version__,
    }
    metrics.write_results(results, output_path)
    return results


def overlays(root: str, name: str, output_path: str) -> None:
    """Writes overlay/<name>.png, a contact sheet of at most eight frames, and
    overlay/<name>.mp4."""
    folder = os.path.join(output_path, 'overlay')
    os.makedirs(folder, exist_ok=True)
    paths = davis.frames(root, name)

    def drawn(path):
        stem = os.path.splitext(os.path.basename(path))[0]
        mask = masks.read_mask(os.path.join(output_path, 'masks', name, stem + '.png'))
        return masks.overlay(masks.read_image(path), mask)

    chosen = paths[:: -(-len(paths) // 8)]
    sheet = masks.contact_sheet([drawn(path) for path in chosen], 4, 1280)
    masks.write_image(os.path.join(folder, name + '.png'), sheet)
    masks.write_video(os.path.join(folder, name + '.mp4'), map(drawn, paths))


def chosen_checkpoints(args, cfg, root: str, names: list[str]) -> dict:
    """{sequence: {object id: prefix}}: the parent for all, or each one's own from --online_path."""
    if not args.online_path:
        parent = cli.checkpoint_prefix(args.checkpoint)
        return {name: {0: parent} for name in names}
    result = {name: {} for name in names}
    for name, number in online.units(root, names, cfg.year):
        folder = online.folder(args.online_path, name, number)
        result[name][number] = cli.checkpoint_prefix(folder)
    return result


def run(args, cfg) -> dict:
    """Segments, scores, draws; returns the results."""
    root = davis.resolve(cli.data_root(args, cfg))
    names = online.asked(args, root, cfg)
    checkpoints = chosen_checkpoints(args, cfg, root, names)
    output_path = cli.writable(args.output_path)
    for prefix in sorted({p for unit in checkpoints.values() for p in unit.values()}):
        check_checkpoint(cfg, prefix)
    for name in names:
        sequence(cfg, root, name, checkpoints[name], output_path)
    results = score(cfg, root, names, output_path, args.stability)
    for name in names if args.overlay else ():
        overlays(root, name, output_path)
    return results


def accuracy(cfg, root: str, checkpoint: str, output_path: str) -> float:
    """J&F-Mean of the parent network on the validation sequences, 0..1."""
    flags = arguments()
    args = flags.parse_args(
        [f'--data_path={root}', f'--checkpoint={checkpoint}', f'--output_path={output_path}']
    )
    return run(args, cfg)['global']['J&F-Mean']


def arguments():
    """The program's flags."""
    flags = cli.parser(__doc__)
    flags.add_argument('--data_path', help='DAVIS tree; default on CPU: drawn data')
    flags.add_argument('--checkpoint', help='of the parent: folder or prefix')
    flags.add_argument('--online_path', help='folder that OSVOS.online wrote')
    flags.add_argument('--output_path', default='results')
    flags.add_argument('--sequences', help='a,b; default: the split')
    flags.add_argument('--split', default='val')
    flags.add_argument('--overlay', action='store_true', help='draw contact sheets and clips')
    flags.add_argument('--stability', action='store_true', help='temporal stability T too; slow')
    return flags


@cli.program
def main(argv=None):
    """Prints J&F, J, F and Dice a sequence."""
    args = arguments().parse_args(argv)
    if not args.checkpoint and not args.online_path:
        raise ValueError('--checkpoint or --online_path is needed')
    cfg = cli.configure(args, get_config, args.checkpoint or first_run(args.online_path))
    results = run(args, cfg)
    for name, row in sorted(results['per_sequence'].items()):
        print(f'{name:24s} J {row["J-Mean"]:.3f} F {row["F-Mean"]:.3f}')
    mean_dice = np.mean(list(results['dice'].values()))
    print(json.dumps(results['global']) + f' Dice {mean_dice:.4f}')


def first_run(online_path: str) -> str:
    """The first finished training in a folder of online trainings: its settings are those of
    all."""
    folders = sorted(entry.path for entry in os.scandir(online_path) if entry.is_dir())
    if not folders:
        raise FileNotFoundError(
            f'no online trainings in {os.path.abspath(online_path)}; '
            'python -m OSVOS.online writes them'
        )
    return folders[0]


if __name__ == '__main__':
    sys.exit(main())
