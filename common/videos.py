"""The videos that a network segments, DAVIS and YouTube-VOS alike: their frames, the masks given,
the truth; scores and pictures of what was written.
"""

from __future__ import annotations

import collections
import os

import numpy as np

from . import davis, masks, metrics, youtube_vos

Video = collections.namedtuple('Video', 'name folder frames given shown truth')
"""name; folder of its results; frame paths; {frame number: ids uint8 [H, W]} of given masks;
{object id: frames that may show it}, {} for all; [(frame name, mask path)] to score."""


def stem(path: str) -> str:
    """File name without its ending."""
    return os.path.splitext(os.path.basename(path))[0]


def resolve(root: str, dataset: str) -> str:
    """The tree of `dataset`, 'davis' or 'youtube_vos', in `root`.

    Raises:
      FileNotFoundError: naming what was tried.
    """
    if dataset == 'davis':
        return davis.resolve(root)
    for path in (root, os.path.join(root, 'YouTubeVOS')):
        if any(os.path.isdir(os.path.join(path, s)) for s in ('train', 'valid', 'JPEGImages')):
            return path
    return youtube_vos.resolve(root)


def find(
    root: str, dataset: str, split: str = '', names: str | None = None, year: str = '2017'
) -> list[Video]:
    """The videos of a split (val of DAVIS, valid of YouTube-VOS), or the sequences `names` (a,b).

    Raises:
      FileNotFoundError, ValueError: missing data; a video without any object.
    """
    names = names.split(',') if names else None
    if dataset == 'davis':
        names = names or davis.sequences(root, split or 'val', year)
        found = [_davis(root, name, year) for name in names]
    else:
        split = split or 'valid'
        names = names or youtube_vos.sequences(root, split)
        found = [_youtube_vos(root, name, split) for name in names]
    return with_objects(found)


def with_objects(found: list[Video]) -> list[Video]:
    """The same videos; ValueError where one is given no object."""
    for video in found:
        if not numbers(video):
            raise ValueError(
                f'{video.name}: the masks given show no object, all pixels are 0 or 255'
            )
    return found


def numbers(video: Video) -> list[int]:
    """Ids of the objects in the given masks."""
    ids = {n for mask in video.given.values() for n in np.unique(mask).tolist()}
    return sorted(ids - {0, 255})


def binary(ids: np.ndarray, number: int = 0) -> np.ndarray:
    """Object ids uint8 -> uint8, 1 on object `number` (0: on any); void 255 is background."""
    return (ids == number if number else (ids > 0) & (ids < 255)).astype(np.uint8)


def _davis(root, name, year):
    paths = davis.masks(root, name)
    first = masks.read_mask(paths[0])
    first = binary(first) if year == '2016' else first
    frames = davis.frames(root, name)
    truth = [(stem(path), path) for path in paths]
    return Video(name, os.path.join('masks', name), frames, {0: first}, {}, truth)


def _youtube_vos(root, name, split):
    frames = youtube_vos.frames(root, name, split)
    order = {stem(path): t for t, path in enumerate(frames)}
    found = {stem(path): path for path in youtube_vos.masks(root, name, split)}
    given, shown = {}, {}
    for number, stems in youtube_vos.objects(root, name, split).items():
        starts = [s for s in stems if s in found]
        if not starts:
            raise ValueError(f'{name}: object {number} of meta.json is in no mask of the video')
        ids = masks.read_mask(found[starts[0]])
        t = order[starts[0]]
        given[t] = np.where(ids == number, ids, given.get(t, np.zeros_like(ids)))
        if set(stems) - set(found):  # the list of valid: frames to segment; of train: with masks
            shown[number] = set(stems)
    folder = os.path.join('Annotations', name)
    return Video(name, folder, frames, given, shown, sorted(found.items()))


def score(found: list, output_path: str) -> dict:
    """J and F of the written masks on the frames after each object's first, the last included
    (youtube_eval.py of OSMN); {} without any."""
    rows = {}
    for video in found:
        order = {stem(path): t for t, path in enumerate(video.frames)}
        start = {n: min(t for t, ids in video.given.items() if n in ids) for n in numbers(video)}
        for n in start:
            values = []
            for name, path in video.truth:
                if order[name] > start[n]:
                    written = os.path.join(output_path, video.folder, name + '.png')
                    values.append(_scores(path, written, n, video))
            if values:
                j, f = np.mean(values, axis=0)
                rows[f'{video.name}_{n}'] = {'J-Mean': float(j), 'F-Mean': float(f)}
    if not rows:
        return {}
    means = {
        key: float(np.mean([row[key] for row in rows.values()])) for key in ('J-Mean', 'F-Mean')
    }
    means = {'J&F-Mean': (means['J-Mean'] + means['F-Mean']) / 2, **means}
    return {'global': means, 'per_sequence': rows}


def _scores(truth, written, number, video):
    truth, result = masks.read_mask(truth), masks.read_mask(written)
    own = binary(truth, 0 if 'masks' in video.folder else number)
    pair = own, (result == number).astype(np.uint8)
    return metrics.db_eval_iou(*pair), metrics.db_eval_boundary(*pair)


def overlays(video, output_path: str) -> None:
    """Writes overlay/<name>.png, a contact sheet of at most eight frames, and
    overlay/<name>.mp4."""
    folder = os.path.join(output_path, 'overlay')
    os.makedirs(folder, exist_ok=True)

    def drawn(path):
        written = os.path.join(output_path, video.folder, stem(path) + '.png')
        return masks.overlay(masks.read_image(path), masks.read_mask(written))

    chosen = video.frames[:: -(-len(video.frames) // 8)]
    sheet = masks.contact_sheet([drawn(path) for path in chosen], 4, 1280)
    masks.write_image(os.path.join(folder, video.name + '.png'), sheet)
    masks.write_video(os.path.join(folder, video.name + '.mp4'), map(drawn, video.frames))
