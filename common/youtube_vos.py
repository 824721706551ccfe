"""Reader of YouTube-VOS trees (Xu et al. 2018; youtube-vos.org), with the functions of davis.py.

    <root>/train/meta.json                        objects and the frames that show them
    <root>/train/JPEGImages/<video>/00000.jpg
    <root>/train/Annotations/<video>/00000.png    every fifth frame; in valid, where objects appear

`root` is the folder that has train/ or valid/, or a split's own folder.
"""

from __future__ import annotations

import functools
import os

from . import files
from .files import stem
from .lazy import np
from .masks import check_files, read_mask

PAGE = 'https://youtube-vos.org/dataset/vos'
SPLITS = ('train', 'valid', 'test')
TREE = '<split>/JPEGImages/<video>/*.jpg, <split>/Annotations/<video>/*.png, <split>/meta.json'


def resolve(root: str, split: str = 'train') -> str:
    """The split's folder: `root`/split, or `root` itself where it has JPEGImages, or
    `root`/YouTubeVOS/split.

    Raises:
      FileNotFoundError: naming what was tried, the tree expected and where the data are.
    """
    root = os.path.abspath(root)
    for path in (os.path.join(root, split), root, os.path.join(root, 'YouTubeVOS', split)):
        if os.path.isdir(os.path.join(path, 'JPEGImages')):
            return path
    there = [s for s in SPLITS if os.path.isdir(os.path.join(root, s, 'JPEGImages'))]
    raise FileNotFoundError(
        f'no YouTube-VOS split {split!r} at {root}: no {split}/JPEGImages there'
        f'{", only " + " and ".join(there) if there else ""}. Expected {TREE}; download: {PAGE}'
    )


def sequences(root: str, split: str = 'train') -> list[str]:
    """Names of the split's videos, those of meta.json where there is one, else all folders.

    Raises:
      ValueError: meta.json names videos without a folder, or none.
    """
    folder = resolve(root, split)
    listed = sorted(meta(folder)) or _folders(folder)
    _none(
        sorted(set(listed) - set(_folders(folder))),
        f'videos of {folder}/meta.json without a folder in JPEGImages',
    )
    if not listed:
        raise ValueError(f'{folder} has no videos; download: {PAGE}')
    return listed


def _folders(folder):
    return sorted(e.name for e in os.scandir(os.path.join(folder, 'JPEGImages')) if e.is_dir())


def meta(folder: str) -> dict:
    """{video: {object id: [frames that show it]}} of the meta.json of a split's folder, {} where
    there is none.

    Raises:
      ValueError: no such JSON; names that would lead out of the folder.
    """
    path = os.path.join(folder, 'meta.json')
    return _videos(path, os.stat(path).st_mtime_ns) if os.path.isfile(path) else {}


@functools.lru_cache(maxsize=4)  # the official train file takes 0.1 s to parse, for every video
def _videos(path, _changed):
    try:
        videos = files.read_json(path)['videos'].items()
        return {
            files.plain_name(name, 'videos'): {
                _object_id(number): [files.plain_name(f, name) for f in item['frames']]
                for number, item in video['objects'].items()
            }
            for name, video in videos
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        text = str(error)[:500] or repr(error)
        raise ValueError(f'{path} is no meta.json of YouTube-VOS: {text}') from None


def _object_id(text):
    if not 0 < int(text) < 255:
        raise ValueError(f'an object of id {text}, expected 1 .. 254')
    return int(text)


def frames(root: str, name: str, split: str = 'train') -> list[str]:
    """Paths of a video's frames, in order. Raises FileNotFoundError where there are none."""
    return _files(resolve(root, split), 'JPEGImages', name, '.jpg')


def masks(root: str, name: str, split: str = 'train') -> list[str]:
    """Paths of a video's masks, in order: not every frame has one.

    Raises:
      FileNotFoundError: no masks. ValueError: a mask without its frame.
    """
    folder = resolve(root, split)
    paths = _files(folder, 'Annotations', name, '.png')
    shown = {stem(path) for path in frames(root, name, split)}
    _none([path for path in paths if stem(path) not in shown], f'masks of {name} without a frame')
    return paths


def _files(folder, kind, name, ending):
    path = os.path.join(folder, kind, name)
    found = files.listed(path, (ending,)) if os.path.isdir(path) else []
    if not found:
        raise FileNotFoundError(f'video {name}: no {ending} files in {path}; download: {PAGE}')
    return found


def objects(root: str, name: str, split: str = 'train') -> dict:
    """{object id: names of the annotated frames that show it}, of meta.json, else of the masks.

    Raises:
      ValueError: meta.json names frames that the video does not have.
    """
    folder = resolve(root, split)
    entry = meta(folder).get(name)
    if entry is None:
        result = {}
        for path in masks(root, name, split):
            for number in set(np.unique(read_mask(path)).tolist()) - {0, 255}:
                result.setdefault(number, []).append(stem(path))
        return result
    shown = {stem(path) for path in frames(root, name, split)}
    absent = sorted({f for names in entry.values() for f in names} - shown)
    _none(absent, f'frames that meta.json names and {folder}/JPEGImages/{name} lacks')
    return {number: list(names) for number, names in entry.items()}


def _none(names, what):
    if names:
        raise ValueError(f'{len(names)} {what}, first {names[:3]}; download: {PAGE}')


def check(root: str, every: bool = False) -> dict:
    """Counts {'sequences', 'frames', 'masks', 'objects'} over the splits that are there.

    Args:
      root: as given to resolve(). every: decode every frame and mask.

    Raises:
      FileNotFoundError, ValueError: what is missing or disagrees, by name.
    """
    counts = {'sequences': 0, 'frames': 0, 'masks': 0, 'objects': 0}
    there = [split for split in SPLITS if os.path.isdir(os.path.join(root, split))]
    for split in there or ['train']:
        names, folder = sequences(root, split), resolve(root, split)
        unlisted = sorted(set(_folders(folder)) - set(names))
        _none(unlisted, f'videos in {folder}/JPEGImages that meta.json does not name')
        for name in names:
            frame_paths, mask_paths = frames(root, name, split), masks(root, name, split)
            counts['sequences'] += 1
            counts['frames'] += len(frame_paths)
            counts['masks'] += len(mask_paths)
            counts['objects'] += len(objects(root, name, split))
            if every:
                check_files(frame_paths, mask_paths)
    return counts
