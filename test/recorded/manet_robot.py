"""Records what davisinteractive 1.0.4 answers: strokes of its robot, their pixels, its summary.

    python test/recorded/manet_robot.py

Needs Python 3.7 with davisinteractive 1.0.4 (GPL, not used by the project): numpy 1.18.5, scipy
1.4.1, scikit-image 0.17.2, scikit-learn 0.20.3, networkx 2.5.1, pandas 1.1.5, Cython below 3, then
pip install --no-deps --no-build-isolation davisinteractive==1.0.4. Writes
test/recorded/manet_robot.npz.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

HERE = Path(__file__).resolve().parent
SHAPE = (120, 214)


def shapes(seed: int):
    """(truth, mask) uint8 [H, W] of two objects, the mask wrong here and there."""
    draw = np.random.RandomState(seed)
    truth, mask = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    for number in (1, 2):
        angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        for image in (truth, mask):
            radius = draw.uniform(18, 34) * (1 + 0.3 * np.cos(3 * angle + draw.uniform(0, 6)))
            centre = np.array([60 + 80 * (number - 1), 60]) + draw.uniform(-8, 8, 2)
            points = centre + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
            cv2.fillPoly(image, [np.round(points).astype(np.int32)], number)
    return truth, mask


def lines(seed: int) -> list:
    """Random strokes of a frame."""
    draw = np.random.RandomState(seed)
    return [
        {'path': draw.rand(draw.randint(1, 6), 2).tolist(), 'object_id': int(draw.randint(0, 4)),
         'start_time': 0, 'end_time': 1}
        for _ in range(5)
    ]  # fmt: skip


def main():
    """Records."""
    from davisinteractive.robot.interactive_robot import InteractiveScribblesRobot
    from davisinteractive.utils.scribbles import scribbles2mask

    robot, result = InteractiveScribblesRobot(kernel_size=0.2, max_kernel_radius=16), {}
    for seed in range(8):
        truth, mask = (x.astype(int)[None] for x in shapes(seed))
        found = robot.interact('a', mask, truth, nb_objects=2, frame=0)['scribbles'][0]
        result[f'ids{seed}'] = np.array([s['object_id'] for s in found])
        result[f'sizes{seed}'] = np.array([len(s['path']) for s in found])
        paths = np.concatenate([np.array(s['path']) for s in found])
        result[f'paths{seed}'] = paths[::20].astype(np.float32)
    for seed in range(6):
        drawn = {'sequence': 'a', 'scribbles': [lines(seed)]}
        result[f'pixels{seed}'] = scribbles2mask(drawn, (37, 53)).astype(np.int8)[0]
    np.savez_compressed(HERE / 'manet_robot.npz', **result)


if __name__ == '__main__':
    main()
