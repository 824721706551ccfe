"""Segments your own video in rounds: a file or a folder of frames, and scribbles or a first mask.

    python -m MANet.demo --input=clip.mp4 --scribbles=round1.json --checkpoint=run
    python -m MANet.demo --input=frames --mask=first.png --scribbles=round2.json --checkpoint=run
    python -m MANet.demo --input=clip.mp4 --serve

--serve opens no window but prints the address of a page on this machine to draw and correct on.
Every --scribbles is one more round: JSON in DAVIS's form ({"scribbles": [strokes of every frame]},
x and y of 0..1, object_id 0 for background in corrections), JSON of one frame ({"frame": 0,
"scribbles": [strokes]}), or a PNG of ids named <frame>.png (255: no stroke). A --mask is the first
round: the first frame keeps it. Writes masks/, overlay.mp4, sheet.png, round<N>.png and
session.json, which has the strokes; --resume plays them again, or goes on from what --save_state or
the page has kept.
"""

from __future__ import annotations

import json
import os
import sys
from typing import NamedTuple

from common import console, files, masks, videos, weights
from common.lazy import np

from . import cli, inference, pretrained, robot, session
from .config import get_config

SHEET = 16  # images of a round's contact sheet, at most


class Clip(NamedTuple):
    """The user's video: names of the frames, their size (H, W), that of the embeddings."""

    names: list
    size: tuple
    cells: tuple


class Round(NamedTuple):
    """What a user gives for a round: the frame, its strokes as paths or, of an image, int32 [h, w]
    at the embeddings' size, and the frame's mask uint8 [H, W] where it is known, else None."""

    frame: int
    strokes: list | np.ndarray
    given: np.ndarray | None

    def highest(self) -> int:
        """The largest id drawn."""
        if isinstance(self.strokes, np.ndarray):
            return int(self.strokes.max())
        return max(stroke['object_id'] for stroke in self.strokes)


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
            result.append(Round(t, found['scribbles'][t], None))
    if not result and not args.resume and not args.serve:
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
    drawn = max((each.highest() for each in rounds), default=1)
    objects = kept or wanted or drawn
    if drawn > objects:
        raise ValueError(f'object {drawn}: the video has {objects}')
    if not kept and rounds and rounds[0].highest() < 1:
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


def play_rounds(
    run: session.Session, rounds: list[Round], source: str, output_path: str, facts: dict
) -> None:
    """Plays and draws the rounds; session.json has all rounds of the session."""
    for frame, strokes, given in rounds:
        found = run.play(strokes, frame, given)
        draw_round(source, found, output_path, run.rounds)
        seconds = run.state.log[-1]['seconds']
        print(f'round {run.rounds}, frame {frame}: {seconds:.1f} s', flush=True)
    told = json.dumps(session.describe(run, facts))
    files.write_text(os.path.join(output_path, 'session.json'), told)


@cli.program
def main(argv=None):
    """Plays every round and draws it, or serves the page."""
    flags = cli.parser(__doc__)
    cli.add_demo_flags(flags)
    add = flags.add_argument
    add('--scribbles', action='append', default=[], help='JSON or PNG, one a round')
    add('--mask', help='PNG of the first frame, all of it a first round')
    add('--num_objects', type=cli.positive, help='default: the largest id of the scribbles')
    add('--keep_aspect', action='store_true', help='not squeezed to the size of tests')
    add('--save_state', help='.npz (and .json) that --resume goes on from')
    add('--resume', help='.npz or .json of an earlier call, or session.json of the page')
    add('--serve', action='store_true', help='a page to draw on, at 127.0.0.1')
    add('--port', type=int, default=8000, help='of --serve; 0: any that is free')
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
    kept, shape = None, (len(clip.names), *clip.size)
    if args.resume:
        kept = session.read(args.resume, shape, clip.cells, facts)
    objects = count_objects(rounds, args.num_objects, kept.objects if kept else None)
    inference.check_memory(len(clip.names), clip.size, objects + 1, cfg)
    output_path = cli.demo_folder(args)
    files.claim(output_path, facts)
    with inference.load(prefix, cfg) as network:
        cli.say_weights(cfg, prefix)
        if args.serve:
            from . import serve  # here: nothing else needs werkzeug

            first = serve.First(rounds, kept, objects)
            serve.run(network, cfg, clip, args, output_path, facts, first)
            return
        frames = console.progress(videos.Frames(args.input), 'embedding', len(clip.names))
        embeddings = inference.embed_video(network, cfg, frames)
        run = session.Session(network, cfg, embeddings, clip.size, objects, undo=False)
        if kept:
            run.restore(kept)
        play_rounds(run, rounds, args.input, output_path, facts)
    if args.save_state:
        session.save(run, args.save_state, facts)
    videos.write_clip(args.input, run.masks, output_path, args.fps)


if __name__ == '__main__':
    sys.exit(main())
