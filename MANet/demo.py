"""Segments your own video in rounds: a file or a folder of frames, and scribbles or a first mask.

    python -m MANet.demo --input=clip.mp4 --scribbles=round1.json --checkpoint=run
    python -m MANet.demo --input=frames --mask=first.png --scribbles=round2.json --checkpoint=run

Every --scribbles is one more round: JSON in DAVIS's form ({"scribbles": [strokes of every frame]},
x and y of 0..1, object_id 0 for background in corrections), or a PNG of ids named <frame>.png (255:
no stroke). A --mask is the first round: the first frame keeps it. Writes masks/, overlay.mp4,
round<N>.png and session.json; --save_state keeps what a later call goes on from with --resume.
"""

from __future__ import annotations

import json
import os
import sys
import time
import zipfile
import zlib

import numpy as np

from common import masks

from . import cli, npu, robot, session
from .config import get_config

SHEET = 8  # pictures of a contact sheet, at most twice as many


def rounds_of(args, count: int, cells, size) -> list[tuple[int, np.ndarray]]:
    """[(frame, strokes int32 [h, w], mask uint8 [H, W] or None)] of the arguments, in order; if a
    file has several annotated frames, they are rounds one after the other.

    Raises:
      ValueError: no stroke; another number of frames; a mask of another size.
    """
    result = []
    if args.mask:
        ids = picture_of(args.mask, size)
        result.append((0, session.stroke_cells(ids, cells), np.maximum(ids, 0).astype(np.uint8)))
    for path in args.scribbles:
        if path.lower().endswith('.png'):
            stem = os.path.splitext(os.path.basename(path))[0]
            frame = int(stem) if stem.isdigit() else 0
            result.append((frame, session.stroke_cells(picture_of(path, size), cells), None))
            continue
        found = robot.read(path)
        frames = robot.annotated(found)
        if len(found['scribbles']) != count:
            raise ValueError(f'{path} has {len(found["scribbles"])} frames, the video has {count}')
        if not frames:
            raise ValueError(f'{path} has no stroke')
        for t in frames:
            result.append((t, robot.rasterised([found['scribbles'][t]], cells)[0], None))
    if not result:
        raise ValueError('--scribbles or --mask is needed')
    return result


def picture_of(path: str, size) -> np.ndarray:
    """Ids int32 [H, W] of a PNG, 255 as -1; ValueError where it has another size."""
    found = masks.read_mask(path)
    if found.shape != tuple(size):
        raise ValueError(
            f'{path} is {found.shape[1]}x{found.shape[0]}, the frames are {size[1]}x{size[0]}'
        )
    return np.where(found == 255, -1, found).astype(np.int32)


def draw(args, found: np.ndarray, output_path: str, number: int) -> None:
    """Writes round<N>.png, at most 2 SHEET frames of it."""
    every = -(-len(found) // (2 * SHEET))
    pictures = [
        masks.overlay(image, found[t])
        for t, (_, image) in enumerate(masks.read_frames(args.input)) if t % every == 0
    ]  # fmt: skip
    sheet = masks.contact_sheet(pictures, 4, 1280)
    masks.write_image(os.path.join(output_path, f'round{number}.png'), sheet)


def restore(run: session.Session, path: str) -> None:
    """Takes up masks, memories and number of rounds that save() kept."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f'--resume: no such file: {os.path.abspath(path)}')
    try:
        with np.load(path) as found:
            kept = {key: found[key] for key in found.files}
        shape, count = kept['masks'].shape, int(kept['count'])
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f'--resume: {path} breaks off or is not what --save_state wrote ({error})'
        ) from None
    if shape != run.masks.shape or count != run.count:
        raise ValueError(f'{path} is of another video or number of objects')
    run.masks, run.rounds = kept['masks'], int(kept['rounds'])
    run.nearest = {int(k[2:]): x for k, x in kept.items() if k.startswith('n/')}
    for key in [k for k in kept if k.startswith('l/')]:
        number, weight = kept[f'w{key[1:]}']
        run.local[int(key[2:])] = int(number), float(weight), kept[key]


def save(run: session.Session, path: str) -> None:
    """Keeps masks, memories and number of rounds, under a temporary name that is then moved."""
    arrays = {'masks': run.masks, 'rounds': run.rounds, 'count': run.count}
    arrays.update({f'n/{t}': x for t, x in run.nearest.items()})
    for t, (number, weight, x) in run.local.items():
        arrays.update({f'l/{t}': x, f'w/{t}': (number, weight)})
    with open(f'{path}.tmp', 'wb') as f:
        np.savez_compressed(f, **arrays)
    os.replace(f'{path}.tmp', path)


@cli.program
def main(argv=None):
    """Plays every round and draws it."""
    flags = cli.parser(__doc__)
    flags.add_argument('--input', required=True, help='video file, or folder of frames')
    flags.add_argument('--scribbles', action='append', default=[], help='JSON or PNG, one a round')
    flags.add_argument('--mask', help='PNG of the first frame, all of it a first round')
    flags.add_argument('--checkpoint', required=True, help='folder or prefix')
    flags.add_argument('--output_path', default='demo')
    flags.add_argument('--num_objects', type=int, help='default: the largest id of the scribbles')
    flags.add_argument(
        '--keep_aspect', action='store_true', help='not squeezed to the size of tests'
    )
    flags.add_argument('--fps', type=float, default=25, help='frames a second of overlay.mp4')
    flags.add_argument('--save_state', help='.npz that --resume goes on from')
    flags.add_argument('--resume', help='.npz of an earlier call')
    args = flags.parse_args(argv)
    cfg = cli.configure(args, get_config, args.checkpoint)
    cfg.test_width = 0 if args.keep_aspect else cfg.test_width
    output_path = cli.writable(args.output_path)
    with session.loaded(cfg, cli.checkpoint_prefix(args.checkpoint)) as network:
        names, size = [], None
        for name, image in masks.read_frames(args.input):
            names.append(name)
            size = image.shape[:2]
        frames = (image for _, image in masks.read_frames(args.input))
        embeddings = session.embedded(network, cfg, frames)
        plays = rounds_of(args, len(names), embeddings[0].shape[:2], size)
        objects = args.num_objects or max(1, *(int(strokes.max()) for _, strokes, _ in plays))
        run = session.Session(network, cfg, embeddings, size, objects)
        if args.resume:
            restore(run, args.resume)
        log = []
        for frame, strokes, given in plays:
            start = time.time()
            found = run.play(strokes, frame, given)
            log.append({'round': run.rounds, 'frame': frame, 'seconds': time.time() - start})
            draw(args, found, output_path, run.rounds)
            print(f'round {run.rounds}, frame {frame}: {log[-1]["seconds"]:.1f} s', flush=True)
    folder = cli.writable(os.path.join(output_path, 'masks'))
    for name, ids in zip(names, run.masks):
        masks.write_mask(os.path.join(folder, name + '.png'), ids)
    if args.save_state:
        save(run, args.save_state)
    pictures = (masks.overlay(image, ids) for (_, image), ids in
                zip(masks.read_frames(args.input), run.masks))  # fmt: skip
    masks.write_video(os.path.join(output_path, 'overlay.mp4'), pictures, args.fps)
    npu.replace_file(os.path.join(output_path, 'session.json'), json.dumps({'rounds': log}))
    print(f'{len(names)} frames, {run.rounds} rounds -> {output_path}', flush=True)


if __name__ == '__main__':
    sys.exit(main())
