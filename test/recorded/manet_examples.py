"""Records training examples of the official MANet code, random draws given.

    python test/recorded/manet_examples.py --official=CVPR2020_MANet

Needs the environment of manet_robot.py (its davisinteractive and scikit-image) and a checkout of
lightas/CVPR2020_MANet (75f562b; only its Python files); torch is replaced by what little of it is
called. Writes test/recorded/manet_examples.npz.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import types
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
FRAMES, SHAPE, SIDE = 6, (61, 91), 40  # of the made video; px of the examples
SEEDS = range(6)


def tree(folder: Path) -> None:
    """A DAVIS tree of one made video, 'a': two objects that drift."""
    for name in ('JPEGImages', 'Annotations'):
        (folder / name / '480p' / 'a').mkdir(parents=True)
    (folder / 'ImageSets' / '2017').mkdir(parents=True)
    (folder / 'ImageSets' / '2017' / 'train.txt').write_text('a\n')
    scene = np.random.RandomState(0).randint(0, 256, (20, 30, 3)).astype(np.uint8)
    scene = cv2.resize(scene, SHAPE[::-1], interpolation=cv2.INTER_LINEAR)
    for t in range(FRAMES):
        picture, ids = scene.copy(), np.zeros(SHAPE, np.uint8)
        for k, at in ((1, (20 + 4 * t, 30)), (2, (70 - 5 * t, 20 + 3 * t))):
            cv2.circle(picture, at, 11, (90 * k, 40, 255 - 90 * k), -1)
            if (k, t) != (2, 3):  # frame 3 shows one object
                cv2.circle(ids, at, 11, k, -1)
        path = folder / 'JPEGImages' / '480p' / 'a' / f'{t:05d}.jpg'
        Image.fromarray(picture).save(str(path), 'PNG')  # the same pixels for every reader
        Image.fromarray(ids).save(str(folder / 'Annotations' / '480p' / 'a' / f'{t:05d}.png'))


def strokes() -> np.ndarray:
    """int32 [H, W]: two short lines, -1 elsewhere."""
    result = np.full(SHAPE, -1, np.int32)
    result[30, 15:25], result[18:24, 68] = 1, 2
    return result


class Tensor:
    """The calls of torch.Tensor that mask_damager makes."""

    def __init__(self, array):
        """Holds an array."""
        self.array = array

    def size(self):
        """Its shape."""
        return self.array.shape

    def squeeze(self):
        """Without axes of one."""
        return Tensor(self.array.squeeze())

    def unsqueeze(self, axis):
        """With one more axis."""
        return Tensor(np.expand_dims(self.array, axis))

    def numpy(self):
        """The array."""
        return self.array


def stand_in(folder: Path) -> None:
    """Modules that the official ones import without need here."""
    names = ('torch', 'torch.utils', 'torch.utils.data', 'torchvision', 'torchvision.transforms',
             'torchvision.transforms.functional', 'config')  # fmt: skip
    modules = {name: types.ModuleType(name) for name in names}
    modules['torch.utils.data'].Dataset = object
    modules['torchvision.transforms'].functional = modules['torchvision.transforms.functional']
    modules['torch'].zeros_like = lambda x: Tensor(np.zeros_like(x.array))
    modules['config'].cfg = types.SimpleNamespace(DATA_ROOT=str(folder))
    sys.modules.update(modules)


def seeded(seed: int) -> None:
    """Sets both generators that the official code draws from."""
    random.seed(seed)
    np.random.seed(seed)


def main():
    """Records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--official', required=True)
    args = parser.parse_args()
    result = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree(folder)
        stand_in(folder)
        sys.path.insert(0, os.path.abspath(args.official))
        from dataloaders import custom_transforms_f as tr
        from dataloaders.davis_2017_f import DAVIS2017_VOS_Train
        from utils.mask_damaging import damage_masks_np, mask_damager

        def changed(sample, tries):
            crop = tr.RandomCrop((SIDE, SIDE), tries)
            for step in (tr.RandomHorizontalFlip(0.5), tr.RandomScale(), crop, tr.Resize(SIDE)):
                sample = step(sample)
            return sample

        for seed in SEEDS:
            seeded(seed)
            data = DAVIS2017_VOS_Train(root=name, transform=lambda x: changed(x, 5))
            found = data[0]
            keys = ('ref_img', 'img1', 'img2'), ('ref_scribble_label', 'label1', 'label2')
            result[f'images{seed}'] = np.stack([found[k] for k in keys[0]]).astype(np.float16)
            result[f'labels{seed}'] = np.stack([found[k] for k in keys[1]])
            result[f'damaged{seed}'] = damage_masks_np(found['label1'][..., None])[..., 0]
            picture = cv2.imread(str(folder / 'JPEGImages' / '480p' / 'a' / '00000.jpg'))
            for tries in (None, 10):
                seeded(seed)
                found = {'img1': picture.astype(np.float32), 'ref_scribble_label': strokes()}
                result[f'strokes{tries}{seed}'] = changed(found, tries)['ref_scribble_label']
            ids = np.array(Image.open(str(folder / 'Annotations' / '480p' / 'a' / '00001.png')))
            seeded(seed)
            only = (ids == 1).astype(np.uint8)[None, None]
            result[f'rough{seed}'] = mask_damager(Tensor(only), 0.3)
    np.savez_compressed(str(HERE / 'manet_examples.npz'), **result)


if __name__ == '__main__':
    main()
