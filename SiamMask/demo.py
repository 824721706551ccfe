"""Tracks objects in your own video: a file or a folder of frames, and boxes (or a mask) in its
first frame.

    python -m SiamMask.demo --input=clip.mp4 --box=300,100,60,80 --box=20,40,50,50 --checkpoint=run
    python -m SiamMask.demo --input=frames --mask=first.png --checkpoint=run
    python -m SiamMask.demo --input=clip.mp4 --select
    python -m SiamMask.demo --camera=0

A box is x, y, width, height in px; --select and --camera open a window to draw it in. Writes
masks/<frame>.png (ids in the order given), tracks.csv (frame, object, score, the four corners),
overlay.mp4 and sheet.png.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from common import files, masks, videos, weights
from common.lazy import cv2, np

from . import cli, inference, live, pretrained, tracker
from .config import get_config


def first_states(network, image: np.ndarray, boxes: dict, ids: np.ndarray | None) -> dict:
    """{id: state} in the first frame.

    Args:
      network: of inference.load().
      image: uint8 [H, W, 3] BGR.
      boxes: {id: center x, y, width, height}.
      ids: the mask that the boxes are of, uint8 [H, W], or None.
    """
    states = {number: tracker.start(network, image, box) for number, box in boxes.items()}
    if ids is not None:
        for number, state in states.items():
            state['mask'] = (ids == number).astype(np.float32)
    return states


def follow(network, source: str, states: dict, hyper: dict, lost: float) -> Iterator[tuple]:
    """(frame name, ids uint8 [H, W], {id: state}) of every frame; objects whose score is below
    `lost`, and in the first frame those given by a box, have no mask."""
    for t, (name, image) in enumerate(masks.read_frames(source)):
        if t:
            found = tracker.step(network, image, list(states.values()), hyper)
            states = dict(zip(states, found))
        seen = {n: s for n, s in states.items() if 'mask' in s and s['score'] >= lost}
        yield name, tracker.merge(seen, image.shape[:2], hyper['mask_threshold']), states


def draw(image: np.ndarray, ids: np.ndarray, states: dict) -> np.ndarray:
    """The frame with masks, rotated boxes, and axis-aligned boxes with the score."""
    image = masks.overlay(image, ids)
    for number, state in states.items():
        color = masks.palette()[number][::-1].tolist()
        straight = tracker.corners(state['center'], state['size'])
        for points, width in ((state.get('polygon', straight), 2), (straight, 1)):
            points = np.round(points).astype(np.int32)
            cv2.polylines(image, [points], True, color, width, cv2.LINE_AA)
        x, y = np.round(straight[0]).astype(int)
        where = max(0, int(x)), max(12, int(y) - 4)
        label = f'{number}: {state["score"]:.2f}'
        cv2.putText(image, label, where, cv2.FONT_HERSHEY_SIMPLEX, 0.4, color, 1, cv2.LINE_AA)
    return image


def row(name: str, number: int, state: dict) -> str:
    """A line of tracks.csv."""
    straight = tracker.corners(state['center'], state['size'])
    numbers = ','.join(f'{value:.2f}' for value in state.get('polygon', straight).ravel())
    return f'{name},{number},{state["score"]:.4f},{numbers}'


def before_camera(args) -> None:
    """Runs the demo with --camera."""
    live.check_window(f'--camera={args.camera}')
    pretrained.choose(args)
    cfg = cli.configure(args, get_config, args.checkpoint)
    prefix = weights.checkpoint_prefix(args.checkpoint)
    hyper = tracker.hyper_parameters(cfg, 'davis' if cfg.variant == 'sharp' else 'base')
    with inference.load(prefix, inference.settings_for(cfg, 1)) as network:
        cli.say_weights(cfg, prefix)
        print(f'{live.follow(network, args.camera, hyper, draw)} frames', flush=True)


@cli.program
def main(argv=None):
    """Tracks, writes and draws every frame."""
    flags = cli.parser(__doc__)
    cli.add_demo_flags(flags, optional=True)
    flags.add_argument('--box', action='append', help='x,y,width,height; once an object')
    flags.add_argument('--mask', help='PNG of the first frame instead; ids are objects')
    flags.add_argument('--select', action='store_true', help='draw the boxes with the mouse')
    text = 'follow an object before this camera, such as 0, in a window; nothing is written'
    flags.add_argument('--camera', type=int, help=text)
    flags.add_argument('--lost', type=float, default=0.0, help='score below which one is not drawn')
    args = flags.parse_args(argv)
    if args.camera is not None:
        before_camera(args)
        return
    if not args.input:
        raise ValueError('--input=FILE_OR_FOLDER is needed, or --camera=0')
    if args.select:
        args.box = (args.box or []) + live.select_boxes(videos.first_frame(args.input))
    if bool(args.box) == bool(args.mask):
        raise ValueError(
            'either --box=x,y,width,height (once an object), --select or --mask=FILE is needed'
        )
    pretrained.choose(args)
    cfg = cli.configure(args, get_config, args.checkpoint)
    prefix, ids = weights.checkpoint_prefix(args.checkpoint), None
    image = videos.first_frame(args.input)
    if args.mask:
        ids = masks.first_mask(args.mask, image.shape[:2])
        boxes = {n: tracker.box_of_mask(ids == n) for n in videos.numbers({0: ids})}
    else:
        boxes = {
            n: tracker.center_box(masks.parse_box(text)) for n, text in enumerate(args.box, 1)
        }
    for box in boxes.values():
        tracker.check_box(box, image.shape)
    hyper = tracker.hyper_parameters(cfg, 'davis' if cfg.variant == 'sharp' else 'base')
    with inference.load(prefix, inference.settings_for(cfg, len(boxes))) as network:
        states = first_states(network, image, boxes, ids)
        cli.say_weights(cfg, prefix)
        output_path = cli.demo_folder(args)
        facts = {'boxes': boxes, 'lost': args.lost, **hyper}
        files.claim(
            output_path, videos.claim_facts(args.input, args.mask, f'{prefix}.index', facts)
        )
        lines, latest = ['frame,object,score,x0,y0,x1,y1,x2,y2,x3,y3'], {}

        def results():
            for name, found, now in follow(network, args.input, states, hyper, args.lost):
                latest['states'] = now
                lines.extend(row(name, number, state) for number, state in now.items())
                yield found

        videos.write_clip(
            args.input,
            results(),
            output_path,
            args.fps,
            draw=lambda image, ids: draw(image, ids, latest['states']),
        )
    files.write_text(os.path.join(output_path, 'tracks.csv'), '\n'.join(lines) + '\n')


if __name__ == '__main__':
    sys.exit(main())
