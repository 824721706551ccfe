"""Records what davisinteractive 1.0.4 answers: strokes of its robot, their pixels, and a session:
scores, frames it asks for, summary.

    python test/recorded/manet_robot.py

Needs Python 3.7 with davisinteractive 1.0.4 (GPL, not used by the project): numpy 1.18.5, scipy
1.4.1, scikit-image 0.17.2, scikit-learn 0.20.3, networkx 2.5.1, pandas 1.1.5, Cython below 3, then
pip install --no-deps --no-build-isolation davisinteractive==1.0.4. Writes
test/recorded/manet_robot.npz.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

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


SECONDS = {'a': 3.0, 'b': 100.0}  # a round; the budget of b is over after two


def videos() -> dict:
    """{name: ids uint8 [T, H, W]}: fewer frames than rounds, and more."""
    result = {}
    for name, count, objects in (('a', 6, 2), ('b', 20, 1)):
        result[name] = np.zeros((count, 61, 91), np.uint8)
        for (t, k), _ in np.ndenumerate(np.zeros((count, objects))):
            at = 20 + 2 * t + 25 * k, 20 + t + 10 * k
            cv2.circle(result[name][t], at, 9 + t % 4, k + 1, -1)
    return result


def answers(truth: np.ndarray, sample: int, number: int) -> np.ndarray:
    """Masks of a round: the truth, moved by less and less, some frames by more."""
    return np.stack([
        np.roll(ids, (max(9 - number - sample, 0), (3 * t + number) % 7), (0, 1))
        for t, ids in enumerate(truth)
    ])  # fmt: skip


def scribbles(name: str, truth: np.ndarray) -> dict:
    """A stroke of object 1 on frame 2."""
    path = [[0.2, 0.3], [0.4, 0.5]]
    frames = [[] for _ in truth]
    frames[2] = [{'path': path, 'object_id': 1, 'start_time': 0, 'end_time': 1}]
    return {'sequence': name, 'scribbles': frames}


class Clock:
    """Seconds that pass when told to."""

    now = 1000.0

    def time(self) -> float:
        """Now."""
        return self.now


def tree(root: Path) -> None:
    """videos() and three scribble files each as a DAVIS tree, which the package is told of."""
    from davisinteractive.dataset import Davis

    names = videos()
    Davis.sets['val'] = sorted(names)
    for name, truth in names.items():
        count, objects = len(truth), int(truth.max())
        Davis.dataset[name] = {
            'name': name, 'num_frames': count, 'num_objects': objects, 'image_size': [91, 61],
            'num_scribbles': 3, 'set': 'val',
        }  # fmt: skip
        for kind in ('Annotations/480p', 'Scribbles'):
            (root / kind / name).mkdir(parents=True)
        for t, ids in enumerate(truth):
            Image.fromarray(ids).save(str(root / 'Annotations' / '480p' / name / f'{t:05d}.png'))
        for k in (1, 2, 3):
            text = json.dumps(scribbles(name, truth))
            (root / 'Scribbles' / name / f'{k:03d}.json').write_text(text)


def session(metric: str) -> dict:
    """Frames asked for, scores and summary of a session that answers() plays."""
    from davisinteractive.session import session as module
    from davisinteractive.utils.scribbles import annotated_frames

    module.time = clock = Clock()
    result, truth = {}, videos()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / 'DAVIS'
        tree(root)
        with module.DavisInteractiveSession(
            host='localhost', davis_root=str(root), subset='val', metric_to_optimize=metric,
            max_nb_interactions=8, max_time=240, report_save_dir=folder,
        ) as service:  # fmt: skip
            while service.next():
                name, drawn, _ = service.get_scribbles(only_last=True)
                key = name, service.samples[service.sample_idx][1]
                result.setdefault(f'{metric}/frames/{key[0]}{key[1]}', []).extend(
                    annotated_frames(drawn) or [-1]
                )
                number = len(result[f'{metric}/frames/{key[0]}{key[1]}'])
                clock.now += SECONDS[name]
                service.submit_masks(answers(truth[name], key[1], number).astype(int))
            summary, report = service.get_global_summary(), service.get_report()
    result[f'{metric}/auc'] = summary['auc']
    result[f'{metric}/at'] = summary['metric_at_threshold'][metric]
    result[f'{metric}/time'] = summary['curve']['time']
    result[f'{metric}/curve'] = summary['curve'][metric]
    for (name, k), rows in report.groupby(['sequence', 'scribble_idx']):
        rows = rows.sort_values(['interaction', 'frame', 'object_id'])
        shape = -1, len(truth[name]), int(truth[name].max()), 2
        scores = rows[['jaccard', 'contour']].values.astype(np.float64).reshape(shape)
        result[f'{metric}/scores/{name}{k}'] = scores
    return result


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
    for metric in ('J', 'J_AND_F'):
        result.update(session(metric))
    np.savez_compressed(HERE / 'manet_robot.npz', **result)


if __name__ == '__main__':
    main()
