"""Reader of DAVIS 2016 and 2017 trees (Perazzi et al. 2016, Pont-Tuset et al. 2017;
davischallenge.org).

    DAVIS/ImageSets/{2016,2017}/{train,val}.txt   names of sequences
    DAVIS/ImageSets/480p/{train,val}.txt          lines "/JPEGImages/... /Annotations/..." (2016)
    DAVIS/JPEGImages/480p/<sequence>/00000.jpg
    DAVIS/Annotations/480p/<sequence>/00000.png
"""

from __future__ import annotations

import glob
import itertools
import os

from . import files
from .lazy import np
from .masks import check_files, read_mask

PAGE = 'https://davischallenge.org (DAVIS 2016 / 2017, 480p)'
TREE = (
    'JPEGImages/480p/<sequence>/*.jpg, Annotations/480p/<sequence>/*.png, '
    'ImageSets/<year>/<split>.txt'
)


def resolve(root: str, year: str) -> str:
    """The folder that has JPEGImages/480p: `root`, or one named DAVIS, DAVIS2016, DAVIS2017 ... in
    it. Of several, one that is named after `year` or has its lists in ImageSets comes first.

    Raises:
      FileNotFoundError: naming what was tried, the tree expected and where the data are.
    """
    root = os.path.abspath(root)
    names = ['DAVIS', 'DAVIS2016', 'DAVIS-2016', 'DAVIS2017', 'DAVIS-2017', 'davis2017']
    candidates = [root] + [os.path.join(root, name) for name in names]
    found = [p for p in candidates if os.path.isdir(os.path.join(p, 'JPEGImages', '480p'))]
    if root in found:
        return root
    other = '2017' if year == '2016' else '2016'
    for path in found:
        lists = os.path.join(path, 'ImageSets', year)
        if path.endswith(year) or (os.path.isdir(lists) and not path.endswith(other)):
            return path
    if found:
        return found[0]
    raise FileNotFoundError(
        f'no DAVIS data at {root}: no JPEGImages/480p there (nor in DAVIS/, DAVIS2016/, '
        f'DAVIS2017/ inside it). Expected {TREE}; download: {PAGE}'
    )


def sequences(root: str, split: str, year: str = '2016') -> list[str]:
    """Names of a split's sequences.

    From ImageSets/<year>/<split>.txt, else ImageSets/480p/<split>.txt, else <split>.txt or
    <split>_seqs.txt in the root (the lists of the MindSpore and PyTorch ports), else the other
    year's list, else every folder.

    Raises:
      ValueError: an empty list, a sequence without a folder. FileNotFoundError: no such split.
    """
    root = resolve(root, year)
    path = _list(root, split, year)
    if path:
        return _listed(root, path)
    if os.path.isdir(os.path.join(root, 'ImageSets')):
        there = sorted(glob.glob(os.path.join(root, 'ImageSets', '*', '*.txt')))
        raise FileNotFoundError(
            f'no list of split {split!r} under {root}/ImageSets; there are '
            f'{[os.path.relpath(path, root) for path in there]}'
        )
    return _folders(root)


def has_list(root: str, split: str, year: str = '2016') -> bool:
    """Whether there is a list of a split's sequences, of this year or the other."""
    return _list(root, split, year) is not None


def _list(root, split, year):
    other = '2017' if year == '2016' else '2016'
    for place in (
        f'ImageSets/{year}/{split}.txt',
        f'ImageSets/480p/{split}.txt',
        f'{split}.txt',
        f'{split}_seqs.txt',
        f'ImageSets/{other}/{split}.txt',
    ):
        path = os.path.join(root, *place.split('/'))
        if os.path.isfile(path):
            return path
    return None


def _folders(root):
    found = os.scandir(os.path.join(root, 'JPEGImages', '480p'))
    return sorted(entry.name for entry in found if entry.is_dir())


def _listed(root, path):
    words = [line.split()[0] for line in files.read_lines(path)]
    words = [w.split('/')[-2] if w.endswith('.jpg') and '/' in w else w for w in words]
    names = list(dict.fromkeys(files.plain_name(word, path) for word in words))
    if not names:
        raise ValueError(f'{path} is empty: expected a name of a sequence a line')
    absent = [name for name in names if not os.path.isdir(_folder(root, 'JPEGImages', name))]
    if absent:
        raise ValueError(
            f'{path} lists {len(absent)} sequences without a folder in {root}/JPEGImages/480p, '
            f'first {absent[:3]}; download: {PAGE}'
        )
    return names


def _folder(root, kind, name):
    return os.path.join(root, kind, '480p', name)


def _files(root, kind, name, ending):
    folder = _folder(root, kind, name)
    if not os.path.isdir(folder):
        parent = os.path.dirname(folder)
        there = sorted(os.listdir(parent)) if os.path.isdir(parent) else []
        raise FileNotFoundError(
            f'no sequence {name!r}: {folder} is not there; there are {there[:20]}'
        )
    paths = files.listed(folder, (ending,))
    if not paths:
        raise FileNotFoundError(f'{folder} has no {ending} files')
    return paths


def frames(root: str, name: str) -> list[str]:
    """Paths of a sequence's frames, in order; `root` as resolve() gives it.

    Raises:
      FileNotFoundError: there are none.
    """
    return _files(root, 'JPEGImages', name, '.jpg')


def masks(root: str, name: str) -> list[str]:
    """Paths of a sequence's masks, in order; `root` as resolve() gives it.

    Raises:
      FileNotFoundError: there are none. ValueError: a mask without its frame.
    """
    paths = _files(root, 'Annotations', name, '.png')
    shown = {files.stem(path) for path in frames(root, name)}
    strange = [path for path in paths if files.stem(path) not in shown]
    if strange:
        raise ValueError(
            f'{len(strange)} masks of {name} without a frame in JPEGImages, first {strange[:3]}'
        )
    return paths


def pairs(root: str, names: list[str]) -> list[tuple[str, str]]:
    """(frame path, mask path) of every frame of the sequences; `root` as resolve() gives it.

    Raises:
      FileNotFoundError: a frame without its mask: the first three are named.
    """
    result = []
    for name in names:
        folder = _folder(root, 'Annotations', name)
        for frame in frames(root, name):
            result.append((frame, os.path.join(folder, files.stem(frame) + '.png')))
    missing = [mask for _, mask in result if not os.path.isfile(mask)]
    if missing:
        raise FileNotFoundError(
            f'{len(missing)} of {len(result)} frames have no mask, first: ' + ', '.join(missing[:3])
        )
    return result


def check(root: str, year: str = '2016', every: bool = False) -> dict:
    """Counts {'sequences', 'frames', 'masks', 'objects'} of a tree; objects are counted in first
    masks. A sequence with more than its first mask (test-dev has no more) needs one a frame; the
    lists of train and val are read where they are.

    Args:
      root: as given to resolve(). year: preferred where there are trees of both.
      every: decode every frame and mask, not a first mask a sequence alone.

    Raises:
      FileNotFoundError, ValueError: what is missing or unreadable, by name.
    """
    root = resolve(root, year)
    for listed_year, split in itertools.product(('2016', '2017'), ('train', 'val')):
        if _list(root, split, listed_year):
            sequences(root, split, listed_year)
    names = _folders(root)
    counts = {'sequences': len(names), 'frames': 0, 'masks': 0, 'objects': 0}
    for name in names:
        frame_paths, mask_paths = frames(root, name), masks(root, name)
        counts['frames'] += len(frame_paths)
        counts['masks'] += len(mask_paths)
        if len(mask_paths) > 1:
            pairs(root, [name])
        counts['objects'] += len(set(np.unique(read_mask(mask_paths[0])).tolist()) - {0, 255})
        if every:
            check_files(frame_paths, mask_paths)
    return counts
