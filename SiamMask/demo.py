"""Tracks objects in your own video: a file or a folder of frames, and boxes (or a mask) in its
first frame.

    python -m SiamMask.demo --input=clip.mp4 --box=300,100,60,80 --box=20,40,50,50 --checkpoint=run
    python -m SiamMask.demo --input=frames --mask=first.png --checkpoint=run

A box is x, y, width, height in px. Writes masks/<frame>.png (ids in the order given), tracks.csv
(frame, object, score, the four corners), overlay.mp4 and sheet.png.
"""

from __future__ import annotations

import os
import re
import sys

import cv2
import numpy as np

from common import masks

from . import cli, npu, tracker
from .config import get_config

SHEET, CLIP = 8, 'overlay.mp4'  # most pictures of sheet.png


def first_states(args, network, image: np.ndarray) -> dict:
    """{id: state} of what --box or --mask marks in the first frame; ValueError of nothing."""
    if args.mask:
        ids = masks.read_mask(args.mask)
        if ids.shape != image.shape[:2]:
            sizes = f'{args.mask} is {ids.shape[::-1]}, the frames are {image.shape[1::-1]}'
            raise ValueError(f'{sizes}; the mask must have their size')
        numbers = sorted(set(np.unique(ids).tolist()) - {0, 255})
        boxes = {n: tracker.box_of_mask(ids == n) for n in numbers}
    else:
        boxes = {n: parsed_box(text) for n, text in enumerate(args.box, 1)}
    if not boxes:
        raise ValueError(f'{os.path.abspath(args.mask)} marks no object')
    return {n: tracker.start(network, image, box) for n, box in boxes.items()}


def parsed_box(text: str) -> tuple:
    """Centre x, y, width, height of 'x,y,w,h'; ValueError otherwise."""
    numbers = [float(v) for v in re.findall(r'-?[0-9.]+', text)]
    if len(numbers) != 4:
        raise ValueError(f'--box={text}: expected x,y,width,height in px')
    return tracker.center_box(numbers)


def drawn(image: np.ndarray, ids: np.ndarray, states: dict) -> np.ndarray:
    """The frame with masks, rotated boxes, and axis-aligned boxes with the score."""
    picture = masks.overlay(image, ids)
    for number, state in states.items():
        colour = masks.PALETTE[number][::-1].tolist()
        straight = tracker.corners(state['place'], state['size'])
        for points, width in ((state.get('polygon', straight), 2), (straight, 1)):
            points = np.round(points).astype(np.int32)
            cv2.polylines(picture, [points], True, colour, width, cv2.LINE_AA)
        label_at(picture, f'{number}: {state["score"]:.2f}', points[0] - (0, 4), colour)
    return picture


def followed(args, network, hyper: dict):
    """(name, frame, ids uint8 [H, W], {id: state}) of every frame; lost objects have no mask."""
    states = None
    for name, image in masks.read_frames(args.input):
        ids = np.zeros(image.shape[:2], np.uint8)
        if states is None:
            states = first_states(args, network, image)
        else:
            states = dict(zip(states, tracker.step(network, image, [*states.values()], hyper)))
            seen = {n: s['mask'] for n, s in states.items() if s['score'] >= args.lost}
            if seen:
                ids = tracker.merged([*seen.values()], [*seen], hyper['mask_threshold'])
        yield name, image, ids, states


def row(name: str, number: int, state: dict) -> str:
    """A line of tracks.csv."""
    corners = state.get('polygon', tracker.corners(state['place'], state['size'])).ravel()
    return f'{name},{number},{state["score"]:.4f},' + ','.join(f'{v:.2f}' for v in corners)


def label_at(image: np.ndarray, text: str, place, colour=(60, 60, 60)) -> None:
    """Small text into a picture, its lower left corner at `place` (x, y) px."""
    place = max(0, int(place[0])), max(12, int(place[1]))
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1, cv2.LINE_AA)


def plot(lines: dict, label: str, span=None) -> np.ndarray:
    """uint8 [360, 720, 3]: curves 0..1 over 0, 1, ...; NaN is left out; `span` is shaded."""
    image, longest = np.full((360, 720, 3), 255, np.uint8), max(2, *map(len, lines.values()))
    place = lambda x, y: (int(50 + 650 * x / (longest - 1)), int(320 - 290 * y))  # noqa: E731
    text = lambda *args: label_at(image, *args)  # noqa: E731
    if span and span[0] < longest:
        image[30:320, place(span[0], 0)[0] : place(min(span[1], longest - 1), 0)[0]] = 235
    for tick in (0, 0.25, 0.5, 0.75, 1):
        cv2.line(image, place(0, tick), place(longest - 1, tick), (210, 210, 210))
        text(f'{tick:g}', (12, place(0, tick)[1] + 4))
        text(f'{tick * (longest - 1):.0f}', (place(tick * (longest - 1), 0)[0] - 8, 336))
    text(label, (340, 354))
    for i, (name, values) in enumerate(lines.items()):
        colour = masks.PALETTE[i + 1][::-1].tolist()
        for x in range(1, len(values)):
            if not np.isnan(values[x - 1 : x + 1]).any():
                ends = place(x - 1, values[x - 1]), place(x, values[x])
                cv2.line(image, *ends, colour, 1, cv2.LINE_AA)
        text(name, (60 + 105 * i, 20), colour)
    return image


@cli.program
def main(argv=None):
    """Tracks, writes and draws every frame."""
    flags = cli.parser(__doc__)
    flags.add_argument('--input', required=True, help='video file, or folder of frames')
    flags.add_argument('--box', action='append', help='x,y,width,height; once an object')
    flags.add_argument('--mask', help='PNG of the first frame instead; ids are objects')
    flags.add_argument('--checkpoint', required=True, help='folder or prefix')
    flags.add_argument('--output_path', default='demo')
    flags.add_argument('--fps', type=float, default=25, help='frames a second of overlay.mp4')
    flags.add_argument('--lost', type=float, default=0.0, help='score below which one is not drawn')
    args = flags.parse_args(argv)
    if bool(args.box) == bool(args.mask):
        raise ValueError('either --box=x,y,width,height (once an object) or --mask=FILE is needed')
    cfg = cli.configure(args, get_config, args.checkpoint)
    output_path = cli.writable(args.output_path)
    folder = cli.writable(os.path.join(output_path, 'masks'))
    objects = len(args.box or np.unique(masks.read_mask(args.mask)[None]))
    network = tracker.Network(cfg, args.checkpoint, objects)
    hyper = tracker.hyper_parameters(cfg, 'davis' if cfg.variant == 'sharp' else 'base')
    lines, clip = ['frame,object,score,x0,y0,x1,y1,x2,y2,x3,y3'], os.path.join(output_path, CLIP)

    def pictures():
        for name, image, ids, states in followed(args, network, hyper):
            masks.write_mask(os.path.join(folder, name + '.png'), ids)
            lines.extend(row(name, n, state) for n, state in states.items())
            yield drawn(image, ids, states)

    every = -(-masks.write_video(clip, pictures(), args.fps) // SHEET)
    sheet = [image for i, image in enumerate(masks.read_video(clip)) if i % every == 0]
    masks.write_image(os.path.join(output_path, 'sheet.png'), masks.contact_sheet(sheet, 4, 1280))
    npu.replace_file(os.path.join(output_path, 'tracks.csv'), '\n'.join(lines) + '\n')
    print(f'masks, tracks.csv, overlay.mp4 and sheet.png are in {output_path}', flush=True)


if __name__ == '__main__':
    sys.exit(main())
