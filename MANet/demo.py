"""Segments your own video in rounds: a file or a folder of frames, and scribbles or a first mask.

    python -m MANet.demo --input=clip.mp4 --scribbles=round1.json --checkpoint=run
    python -m MANet.demo --input=frames --mask=first.png --scribbles=round2.json --checkpoint=run

Every --scribbles is one more round: JSON in DAVIS's form ({"scribbles": [strokes of every frame]},
x and y of 0..1, object_id 0 for background in corrections), JSON of one frame ({"frame": 0,
"scribbles": [strokes]}), or a PNG of ids named <frame>.png (255: no stroke). A --mask is the first
round: the first frame keeps it. Writes masks/, overlay.mp4, sheet.png, round<N>.png and
session.json; --save_state keeps what a later call goes on from with --resume.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import NamedTuple

import numpy as np

from common import files, masks, videos, weights

from . import cli, inference, pretrained, robot, session
from .config import get_config

SHEET = 16  # images of a round's contact sheet, at most


class Clip(NamedTuple):
    """The user's video: names of the frames, their size (H, W), that of the embeddings."""

    names: list
    size: tuple
    cells: tuple


class Round(NamedTuple):
    """What a user gives for a round: the frame, strokes int32 [h, w] at the embeddings' size, and
    the frame's mask uint8 [H, W] where it is known, else None."""

    frame: int
    strokes: np.ndarray
    given: np.ndarray | None


def read_clip(source: str, cfg) -> Clip:
    """Reads every frame once: what is wrong with a video shows before it is embedded."""
    names, size = [], None
    for name, image in masks.read_frames(source):
        names.append(name)
        size = image.shape[:2]
    return Clip(names, size, inference.cells_of(inference.network_size(*size, cfg)))


def read_rounds(args, clip: Clip) -> list[Round]:
    """The rounds of --mask and --scribbles, in order; the annotated frames of one file are rounds
    one after the other.

    Raises:
      FileNotFoundError, ValueError: no stroke or object; another number of frames; another size.
    """
    result = []
    if args.mask:
        ids = masks.first_mask(args.mask, clip.size)
        void = masks.read_mask(args.mask) == 255
        strokes = np.where(void, -1, ids.astype(np.int32))
        result.append(Round(0, session.stroke_cells(strokes, clip.cells), ids))
    for path in args.scribbles:
        if path.lower().endswith('.png'):
            result.append(_read_image_of_strokes(path, clip))
            continue
        found = robot.read(path, len(clip.names))
        for t in robot.annotated_frames(found):
            strokes = robot.rasterize([found['scribbles'][t]], clip.cells)[0]
            result.append(Round(t, strokes, None))
    if not result:
        raise ValueError('--scribbles or --mask is needed')
    return result


def _read_image_of_strokes(path, clip):
    ids = masks.read_mask(path, void=True)
    if ids.shape != clip.size:
        raise ValueError(
            f'{path} is {ids.shape[1]}x{ids.shape[0]}, the frames are {clip.size[1]}x{clip.size[0]}'
        )
    if (ids == 255).all():
        raise ValueError(f'{path} has no stroke: all pixels are 255')
    name = files.stem(path)
    if name in clip.names:
        frame = clip.names.index(name)
    elif name.isdigit() and int(name) < len(clip.names):
        frame = int(name)
    else:
        raise ValueError(
            f'{path}: expected the name of a frame, such as {clip.names[0]}.png, or its number, '
            f'0 to {len(clip.names) - 1}'
        )
    strokes = np.where(ids == 255, -1, ids.astype(np.int32))
    return Round(frame, session.stroke_cells(strokes, clip.cells), None)


def count_objects(rounds: list[Round], wanted: int | None, kept: int | None) -> int:
    """Number of objects: that of a resumed session, or --num_objects, or the largest id drawn.

    Args:
      rounds: of read_rounds().
      wanted: --num_objects.
      kept: of the session that is resumed.

    Raises:
      ValueError: the numbers differ; a stroke of a higher id; a first round without an object.
    """
    if kept and wanted and wanted != kept:
        raise ValueError(f'--num_objects={wanted}: the resumed session has {kept} objects')
    drawn = max(int(each.strokes.max()) for each in rounds)
    objects = kept or wanted or drawn
    if drawn > objects:
        raise ValueError(f'object {drawn}: the video has {objects}')
    if not kept and rounds[0].strokes.max() < 1:
        raise ValueError('the first round shows no object, only background: ids are 1, 2, ...')
    return objects


def draw_round(source: str, found: np.ndarray, output_path: str, number: int) -> None:
    """Writes round<N>.png, evenly spaced frames with their masks."""
    every = -(-len(found) // SHEET)
    images = [
        masks.overlay(image, found[t])
        for t, (_, image) in enumerate(masks.read_frames(source))
        if t % every == 0
    ]
    sheet = masks.contact_sheet(images, 4, 1280)
    masks.write_image(os.path.join(output_path, f'round{number}.png'), sheet)


def read_state(path: str, clip: Clip, facts: dict) -> dict:
    """What save_state() kept, checked: {name: array}.

    Raises:
      FileNotFoundError: no such file. ValueError: damaged, or of another video, network or size.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f'--resume: no such file: {os.path.abspath(path)}')
    try:
        kept = weights.read_npz(path)
        shape, count = kept['masks'].shape, int(kept['count'])
        saved = json.loads(kept['facts'].tobytes().decode()) if 'facts' in kept else {}
        keys = [key.split('/') for key in kept if '/' in key]
        known = {f'{t}' for t in range(len(clip.names))}
        usable = kept['masks'].dtype == np.uint8 and kept['masks'].max(initial=0) < count
        usable = usable and int(kept['rounds']) >= 0 and isinstance(saved, dict)
        if not usable or any(set(numbers) - known for _, *numbers in keys):
            raise ValueError('masks, rounds or frames that cannot be')
        for kind, *numbers in keys:
            _, _ = kept[f'w/{numbers[0]}'] if kind == 'l' else (0, 0)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f'--resume: {path} breaks off or is not what --save_state wrote ({error})'
        ) from None
    if shape != (len(clip.names), *clip.size):
        raise ValueError(f'--resume: {path} is of another video: masks {list(shape)}')
    maps = [array for key, array in kept.items() if key[:2] in ('n/', 'l/', 'a/')]
    if any(array.shape != (*clip.cells, count) for array in maps):
        raise ValueError(f'--resume: {path} is of another size in the network: --keep_aspect?')
    changed = sorted(key for key in saved if saved[key] != facts.get(key))
    if changed:
        raise ValueError(f'--resume: {path} was made with another {" and ".join(changed)}')
    return kept


def restore(run: session.Session, kept: dict) -> None:
    """Takes up masks, memories and number of rounds of read_state()."""
    run.masks, run.rounds = kept['masks'], int(kept['rounds'])
    for key, array in kept.items():
        kind, _, frame = key.partition('/')
        if kind == 'n':
            run.global_memory[int(frame)] = array
        elif kind == 'l':
            number, weight = kept[f'w/{frame}']
            run.local_memory[int(frame)] = session.LocalMemory(int(number), float(weight), array)
        elif kind == 'a':
            t, annotated = map(int, frame.split('/'))
            run.answers.setdefault(t, {})[annotated] = array


def save_state(run: session.Session, path: str, facts: dict) -> None:
    """Keeps masks, memories, number of rounds and what they were made from."""
    arrays = {'masks': run.masks, 'rounds': run.rounds, 'count': run.count}
    arrays['facts'] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    arrays.update({f'n/{t}': memory for t, memory in run.global_memory.items()})
    for t, memory in run.local_memory.items():
        arrays[f'l/{t}'] = memory.map
        arrays[f'w/{t}'] = (memory.round, memory.weight)
    for t, answers in run.answers.items():
        arrays.update({f'a/{t}/{annotated}': array for annotated, array in answers.items()})
    path = path if path.endswith('.npz') else f'{path}.npz'
    with files.replacing(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def play_rounds(run: session.Session, rounds: list[Round], source: str, output_path: str) -> None:
    """Plays and draws the rounds; session.json lists them."""
    log = []
    for frame, strokes, given in rounds:
        begin = time.monotonic()
        found = run.play(strokes, frame, given)
        seconds = time.monotonic() - begin
        log.append({'round': run.rounds, 'frame': frame, 'seconds': seconds})
        draw_round(source, found, output_path, run.rounds)
        print(f'round {run.rounds}, frame {frame}: {seconds:.1f} s', flush=True)
    files.write_text(os.path.join(output_path, 'session.json'), json.dumps({'rounds': log}))


@cli.program
def main(argv=None):
    """Plays every round and draws it."""
    flags = cli.parser(__doc__)
    cli.add_demo_flags(flags)
    add = flags.add_argument
    add('--scribbles', action='append', default=[], help='JSON or PNG, one a round')
    add('--mask', help='PNG of the first frame, all of it a first round')
    add('--num_objects', type=cli.positive, help='default: the largest id of the scribbles')
    add('--keep_aspect', action='store_true', help='not squeezed to the size of tests')
    add('--save_state', help='.npz that --resume goes on from')
    add('--resume', help='.npz of an earlier call')
    args = flags.parse_args(argv)
    pretrained.choose(args)
    cfg = cli.configure(args, get_config, args.checkpoint)
    cfg.test_width = 0 if args.keep_aspect else cfg.test_width
    prefix = weights.checkpoint_prefix(args.checkpoint)
    untrained = inference.untrained_head(args.checkpoint)
    if untrained:
        raise ValueError(untrained)
    clip = read_clip(args.input, cfg)
    rounds = read_rounds(args, clip)
    size = {name: cfg[name] for name in ('test_height', 'test_width', 'merge')}
    facts = videos.claim_facts(args.input, None, f'{prefix}.index', size)
    kept = read_state(args.resume, clip, facts) if args.resume else {}
    objects = count_objects(rounds, args.num_objects, int(kept['count']) - 1 if kept else None)
    inference.check_memory(len(clip.names), clip.size, objects + 1, cfg)
    output_path = cli.demo_folder(args)
    files.claim(output_path, facts)
    with inference.load(prefix, cfg) as network:
        cli.say_weights(cfg, prefix)
        frames = videos.progress(videos.Frames(args.input), 'embedding', len(clip.names))
        embeddings = inference.embed_video(network, cfg, frames)
        run = session.Session(network, cfg, embeddings, clip.size, objects)
        if kept:
            restore(run, kept)
        play_rounds(run, rounds, args.input, output_path)
    if args.save_state:
        save_state(run, args.save_state, facts)
    videos.write_clip(args.input, run.masks, output_path, args.fps)


if __name__ == '__main__':
    sys.exit(main())
