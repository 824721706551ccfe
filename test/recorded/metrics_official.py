"""Records what davis2017-evaluation answers on random masks and series.

    git clone https://github.com/davisvideochallenge/davis2017-evaluation
    python test/recorded/metrics_official.py --official=davis2017-evaluation

Needs numpy, OpenCV, scikit-image. Writes metrics_official.npz beside this file. Imports the
checkout, holds none of its code.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np

SHAPES = ((48, 85), (33, 64), (31, 65), (64, 64), (17, 130), (90, 63))  # px, around word borders


def blob(draw, height, width):
    """A mask: empty, full, one pixel, noise, or an ellipse that may leave the picture."""
    kind = draw.randint(0, 7)
    mask = np.full((height, width), int(kind == 1), np.uint8)
    if kind == 2:
        mask[draw.randint(height), draw.randint(width)] = 1
    elif kind == 3:
        mask = (draw.rand(height, width) < draw.rand()).astype(np.uint8)
    elif kind > 3:
        centre = (int(draw.randint(width)), int(draw.randint(height)))
        axes = (int(draw.randint(1, width)), int(draw.randint(1, height)))
        cv2.ellipse(mask, centre, axes, draw.rand() * 360, 0, 360, 1, -1)
    return mask


def main():
    """Records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--official', required=True, help='checkout of davis2017-evaluation')
    sys.path.insert(0, parser.parse_args().official)
    from davis2017.metrics import db_eval_boundary, db_eval_iou
    from davis2017.utils import db_statistics

    warnings.simplefilter('ignore')
    draw, arrays, scores = np.random.RandomState(3), {}, []
    for n in range(60):
        height, width = SHAPES[n % len(SHAPES)]
        a, b = blob(draw, height, width), blob(draw, height, width)
        arrays.update(
            {f'a{n}': np.packbits(a), f'b{n}': np.packbits(b), f's{n}': np.array([height, width])}
        )
        scores.append([float(db_eval_iou(a, b)), float(db_eval_boundary(a, b))])
    for i, length in enumerate((1, 2, 3, 4, 5, 7, 48, 101, 255)):
        arrays[f'v{i}'] = draw.rand(length)
        arrays[f'st{i}'] = np.array(db_statistics(arrays[f'v{i}']))
    np.savez_compressed(Path(__file__).with_suffix('.npz'), scores=np.array(scores), **arrays)


if __name__ == '__main__':
    main()
