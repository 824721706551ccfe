"""The one driver of videos: those of DAVIS and YouTube-VOS with their first masks and ground truth,
and a user's own clip. A network gives one iterator, segment(frames, given); finding, writing,
scoring and drawing are here.
"""

from __future__ import annotations

import glob
import itertools
import json
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from typing import Callable, NamedTuple

from . import console, davis, files, masks, metrics, plots, youtube_vos
from .files import stem
from .lazy import Image, cv2, np

PREVIEW, PREVIEW_RATE, PREVIEW_WIDTH = 4, 10, 320  # s, frames/s and px of preview.webp, .gif
SHEET = 8  # images of a contact sheet, at least, where there are so many frames


class Video(NamedTuple):
    """A video to segment."""

    name: str
    folder: str  # of its masks, below the results
    frames: list  # paths
    given: dict  # {frame number: ids uint8 [H, W]}; an object starts in the first that shows it
    shown: dict  # {object id: names of the frames that may show it}; an absent id: all
    truth: list  # [(frame name, path of the ground truth)]
    year: str = ''  # '2016' or '2017' where the official DAVIS scores are wanted
    union: bool = False  # all ids of the ground truth are one object


class Frames:
    """Frames uint8 [H, W, 3] BGR, read while they are iterated, as often as wanted."""

    def __init__(self, source: str | list[str]):
        """`source`: list of image paths, folder of images, or video file."""
        self.source = source

    def __iter__(self) -> Iterator[np.ndarray]:
        return (image for _, image in masks.read_frames(self.source))


def resolve(root: str, dataset: str, year: str) -> str:
    """The tree of `dataset`, 'davis' (of that year) or 'youtube_vos', in `root`.

    Raises:
      FileNotFoundError: naming what was tried.
    """
    if dataset == 'davis':
        return davis.resolve(root, year)
    for path in (root, os.path.join(root, 'YouTubeVOS')):
        if any(os.path.isdir(os.path.join(path, s)) for s in (*youtube_vos.SPLITS, 'JPEGImages')):
            return path
    return youtube_vos.resolve(root, 'valid')  # raises


def find(
    root: str, dataset: str, split: str = '', names: str | None = None, year: str = '2017'
) -> list[Video]:
    """The videos of a split (val of DAVIS, valid of YouTube-VOS), or the sequences `names` (a,b).

    Raises:
      FileNotFoundError, ValueError: missing data; a video without any object.
    """
    root, names = resolve(root, dataset, year), files.split_names(names)
    names = [files.plain_name(name, '--sequences') for name in names]
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
        if not numbers(video.given):
            raise ValueError(
                f'{video.name}: the masks given show no object, all is 0 or void; its frames are '
                f'in {os.path.dirname(os.path.abspath(video.frames[0]))}'
            )
    return found


def check_sizes(found: list[Video]) -> None:
    """Raises ValueError where the frames of a video differ in size: before the work, by the files'
    headers alone."""
    for video in found:
        sizes = {}
        for path in video.frames:
            with Image.open(path) as image:
                sizes.setdefault(image.size, path)
        if len(sizes) > 1:
            rows = [f'{path} is {width}x{height}' for (width, height), path in sizes.items()]
            some = ', '.join(rows[:3])
            raise ValueError(f'{video.name} has frames of {len(sizes)} sizes: {some}')


def numbers(given: dict) -> list[int]:
    """Ids of the objects in given masks {frame number: ids uint8 [H, W]}."""
    ids = {n for mask in given.values() for n in np.unique(mask).tolist()}
    return sorted(ids - {0, 255})


def starts(given: dict) -> dict:
    """{object id: number of the first frame whose given mask shows it}."""
    return {n: min(t for t, ids in given.items() if n in ids) for n in numbers(given)}


def binary(ids: np.ndarray, number: int = 0) -> np.ndarray:
    """Object ids uint8 -> uint8, 1 on object `number` (0: on any); void 255 is background."""
    return (ids == number if number else (ids > 0) & (ids < 255)).astype(np.uint8)


def _davis(root, name, year):
    frames, paths = davis.frames(root, name), davis.masks(root, name)
    start = [stem(path) for path in frames].index(stem(paths[0]))
    first, union = masks.read_mask(paths[0]), year == '2016'
    return Video(
        name=name,
        folder=os.path.join('masks', name),
        frames=frames,
        given={start: binary(first) if union else first},
        shown={},
        truth=[(stem(path), path) for path in paths],
        year=year,
        union=union,
    )


def _youtube_vos(root, name, split):
    frames = youtube_vos.frames(root, name, split)
    order = {stem(path): t for t, path in enumerate(frames)}
    found = {stem(path): path for path in youtube_vos.masks(root, name, split)}
    given, shown = {}, {}
    for number, stems in youtube_vos.objects(root, name, split).items():
        for frame in files.naturally_sorted(s for s in stems if s in found):
            ids = masks.read_mask(found[frame])
            if (ids == number).any():
                break
        else:
            raise ValueError(f'{name}: object {number} of meta.json is in no mask of the video')
        t = order[frame]
        given[t] = np.where(ids == number, ids, given.get(t, np.zeros_like(ids)))
        if set(stems) - set(found):  # the list of valid: frames to segment; of train: with masks
            shown[number] = set(stems)
    return Video(
        name=name,
        folder=os.path.join('Annotations', name),
        frames=frames,
        given=given,
        shown=shown,
        truth=list(found.items()),
    )


def evaluate(
    found: list[Video],
    segment: Callable,
    output_path: str,
    settings: dict,
    set_name: str = 'val',
    overlay: bool = False,
    stability: bool = False,
    paper: dict | None = None,
) -> dict:
    """Segments videos, writes their masks, scores and draws them; returns the scores, {} where
    there is no ground truth.

    Args:
      found: of find().
      segment: function of a Video that gives an iterator of ids uint8 [H, W], one a frame.
      output_path: folder of the results.
      settings: plain values that results.json keeps.
      set_name: of the official CSV files' names.
      overlay: draw a contact sheet and a clip of each.
      stability: score T of DAVIS as well; slow.
      paper: published scores, {column of the scores: value}, that results.json keeps.
    """
    _put_old_scores_aside(output_path)
    for video in found:
        write_masks(video, segment(video), output_path)
    results = score(found, output_path, settings, set_name, stability, paper)
    for video in found if overlay else ():
        draw(video, output_path)
    return results


def _put_old_scores_aside(output_path):
    """Renames results.json, the CSV files and the report, whose masks are about to be replaced, to
    *.old.*, and removes the plots."""
    kinds = ('results.json', 'report.html', 'global_results-*.csv', 'per-sequence_results-*.csv')
    for path in glob.glob(os.path.join(glob.escape(output_path), 'plots', '*.png')):
        os.remove(path)
    for kind in kinds:
        for path in glob.glob(os.path.join(glob.escape(output_path), kind)):
            start, ending = os.path.splitext(path)
            if not start.endswith('.old'):
                os.replace(path, f'{start}.old{ending}')


def write_masks(video: Video, results: Iterable[np.ndarray], output_path: str) -> None:
    """Writes <output_path>/<video.folder>/<frame>.png of each frame's ids uint8 [H, W]; objects are
    left out of frames that do not show them."""
    folder = os.path.join(output_path, video.folder)
    os.makedirs(folder, exist_ok=True)
    for ids, path in zip(console.progress(results, video.name, len(video.frames)), video.frames):
        name = stem(path)
        absent = [number for number, frames in video.shown.items() if name not in frames]
        ids = np.where(np.isin(ids, absent), 0, ids).astype(np.uint8) if absent else ids
        masks.write_mask(os.path.join(folder, name + '.png'), ids)


def score(
    found: list[Video],
    output_path: str,
    settings: dict,
    set_name: str = 'val',
    stability: bool = False,
    paper: dict | None = None,
) -> dict:
    """Scores written masks, writes the CSV files, results.json and a plot a video, returns the
    scores.

    DAVIS with the official rules (common/metrics.py); other videos on the frames after each
    object's first, the last included (youtube_eval.py of OSMN); {} without ground truth.
    """
    partial = [video.name for video in found if len(video.truth) < len(video.frames)]
    if found[0].year and len(partial) < len(found):
        if partial:
            print(f'not every frame has a mask: {partial} are not scored', flush=True)
            found = [video for video in found if video.name not in partial]
        annotations = os.path.dirname(os.path.dirname(found[0].truth[0][1]))
        written = os.path.join(output_path, os.path.dirname(found[0].folder))
        names = [video.name for video in found]
        results = metrics.evaluate(annotations, written, names, found[0].year, stability=stability)
    else:
        results = _score_frames(found, output_path)
        if results and found[0].year:
            print('not every frame has a mask: not scored by the official rules', flush=True)
    if not results:
        packed = pack_submission(found, output_path)
        print(f'no ground truth beyond the masks given: nothing scored; {packed} holds the masks')
        return {}
    results.update(files.made_with(settings), paper=paper or {})
    results['where'] = {video.name: where(video) for video in found}
    metrics.write_results(results, output_path, set_name)
    plots.write_by_frame(results, os.path.join(output_path, 'plots'))
    return results


def pack_submission(found: list[Video], output_path: str) -> str:
    """Writes submission.zip, as the evaluation servers take it: of YouTube-VOS with
    Annotations/<video>/<frame>.png, of DAVIS <video>/<frame>.png; returns its path."""
    path = os.path.join(output_path, 'submission.zip')
    top = '' if found[0].year else 'Annotations'
    with files.replacing(path) as temporary, zipfile.ZipFile(temporary, 'w') as archive:
        for video in found:
            for name in (f'{stem(frame)}.png' for frame in video.frames):
                entry = zipfile.ZipInfo(os.path.join(top, video.name, name))  # of 1980, always
                with open(os.path.join(output_path, video.folder, name), 'rb') as f:
                    archive.writestr(entry, f.read())
    return path


def where(video: Video) -> dict:
    """What results.json says of a video's files, for report.py: folders of the frames, of the
    ground truth, of the masks (relative to the results), and whether all ids are one object."""
    folders = {'images': os.path.dirname(os.path.abspath(video.frames[0])), 'masks': video.folder}
    if video.truth:
        folders['truth'] = os.path.dirname(os.path.abspath(video.truth[0][1]))
    return {**folders, 'union': video.union}


def _score_frames(found, output_path):
    rows, per_frame = {}, {}
    for video in found:
        order = {stem(path): t for t, path in enumerate(video.frames)}
        scores = {number: [] for number in starts(video.given)}
        void = masks.shows_ids(video.truth[0][1])
        for name, path in video.truth:
            wanted = [n for n, start in starts(video.given).items() if order[name] > start]
            if not wanted:
                continue
            truth = masks.read_mask(path, void)
            written = os.path.join(output_path, video.folder, f'{name}.png')
            ids = masks.read_mask(written, void=True)
            for number in wanted:
                pair = binary(truth, 0 if video.union else number), binary(ids, number)
                j, f = metrics.db_eval_iou(*pair), metrics.db_eval_boundary(*pair)
                scores[number].append((name, j, f))
        for number, values in scores.items():
            if values:
                row = f'{video.name}_{number}'
                names, j, f = map(list, zip(*values))
                rows[row] = {'J-Mean': float(np.mean(j)), 'F-Mean': float(np.mean(f))}
                per_frame[row] = {'frames': names, 'J': j, 'F': f}
    if not rows:
        return {}
    j, f = (float(np.mean([row[key] for row in rows.values()])) for key in ('J-Mean', 'F-Mean'))
    means = {'J&F-Mean': (j + f) / 2, 'J-Mean': j, 'F-Mean': f}
    return {'global': means, 'per_sequence': rows, 'per_frame': per_frame}


def print_scores(results: dict) -> None:
    """Prints J and F of every object, then the means as JSON; nothing of an empty dict."""
    for name, row in sorted(results.get('per_sequence', {}).items()):
        print(f'{name:24s} J {row["J-Mean"]:.3f} F {row["F-Mean"]:.3f}')
    if results:
        print(json.dumps(results['global']))


def draw(video: Video, output_path: str) -> None:
    """Writes overlay/<name>.png, a contact sheet of at most eight frames, and
    overlay/<name>.mp4."""
    folder = os.path.join(output_path, 'overlay')
    os.makedirs(folder, exist_ok=True)

    def drawn(path):
        written = os.path.join(output_path, video.folder, stem(path) + '.png')
        return masks.overlay(masks.read_image(path), masks.read_mask(written, void=True))

    chosen = video.frames[:: -(-len(video.frames) // SHEET)]
    sheet = masks.contact_sheet([drawn(path) for path in chosen], 4, 1280)
    masks.write_image(os.path.join(folder, video.name + '.png'), sheet)
    masks.write_video(os.path.join(folder, video.name + '.mp4'), map(drawn, video.frames))


def first_frame(source: str) -> np.ndarray:
    """The first frame, uint8 [H, W, 3] BGR, of a user's own clip: a video file or a folder of
    images. Raises as masks.read_frames()."""
    return next(image for _, image in masks.read_frames(source))


def checked(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Passes frames on; ValueError at one that is not uint8 [H, W, 3], or not of the first's
    size."""
    shape = None
    for t, frame in enumerate(frames):
        kind = getattr(frame, 'dtype', None), getattr(frame, 'shape', ())
        if kind[0] != np.uint8 or len(kind[1]) != 3 or kind[1][2] != 3:
            raise ValueError(f'frame {t} is {kind[0]} {list(kind[1])}, expected uint8 [H, W, 3]')
        shape = shape or frame.shape
        if frame.shape != shape:
            raise ValueError(f'frame {t} is {list(frame.shape)}, the first is {list(shape)}')
        yield frame


def with_first(frames: Iterable[np.ndarray]) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """(the first frame, all frames), checked().

    Raises:
      ValueError: no frames.
    """
    every = checked(frames)
    first = next(every, None)
    if first is None:
        raise ValueError('a video without frames')
    return first, itertools.chain([first], every)


def first_ids(source: str, mask: str | None, boxes: list[str] | None) -> np.ndarray:
    """The objects of the first frame of a user's own clip, ids uint8 [H, W].

    Args:
      source: video file or folder of images.
      mask: path of a PNG, or None.
      boxes: 'x,y,width,height' of each object instead, whose mask GrabCut finds.

    Raises:
      FileNotFoundError, ValueError: as masks.first_mask() and masks.mask_of_boxes(); neither or
      both are given.
    """
    if bool(mask) == bool(boxes):
        raise ValueError('either --mask=FILE or --box=x,y,width,height (once an object) is needed')
    image = first_frame(source)
    if mask:
        return masks.first_mask(mask, image.shape[:2])
    print('first mask: GrabCut of each --box; masks/ shows it, a --mask is better', flush=True)
    return masks.mask_of_boxes(image, [masks.parse_box(text) for text in boxes])


def write_clip(
    source: str,
    results: Iterable,
    output_path: str,
    fps: float | None = None,
    draw: Callable = masks.overlay,
) -> int:
    """Writes what a network found in a user's own clip: masks/<frame>.png, overlay.mp4,
    preview.webp and preview.gif of its first PREVIEW seconds, and sheet.png.

    Args:
      source: video file or folder of images.
      results: ids uint8 [H, W] of every frame.
      output_path: folder of the results.
      fps: frames a second of overlay.mp4; default: those of the source.
      draw: function (image, ids) that gives the overlay, uint8 [H, W, 3].

    Returns:
      The number of frames.
    """
    folder = os.path.join(output_path, 'masks')
    os.makedirs(folder, exist_ok=True)
    kept, preview = [], []
    fps = fps or masks.frame_rate(source)
    every = max(1, round(fps / PREVIEW_RATE))

    def drawn():
        for i, (ids, (name, image)) in enumerate(
            zip(console.progress(results, source), masks.read_frames(source))
        ):
            masks.write_mask(os.path.join(folder, name + '.png'), ids)
            overlay = draw(image, ids)
            if i % every == 0 and i < PREVIEW * fps:
                height = max(1, round(overlay.shape[0] * PREVIEW_WIDTH / overlay.shape[1]))
                size = (PREVIEW_WIDTH, height)
                preview.append(cv2.resize(overlay, size, interpolation=cv2.INTER_AREA))
            yield overlay

    path = os.path.join(output_path, 'overlay.mp4')
    count = masks.write_video(path, thinned(drawn(), kept), fps)
    for name in ('preview.webp', 'preview.gif'):
        masks.write_animation(os.path.join(output_path, name), preview, fps / every)
    sheet = masks.contact_sheet(kept, 4, 1280)
    masks.write_image(os.path.join(output_path, 'sheet.png'), sheet)
    print(f'{count} masks, overlay.mp4 and sheet.png are in {os.path.abspath(output_path)}')
    if shutil.which('ffmpeg') is None:
        print('overlay.mp4 is MPEG-4 part 2: for browsers install ffmpeg, which makes it H.264')
    return count


def thinned(images: Iterable[np.ndarray], kept: list) -> Iterator[np.ndarray]:
    """Passes images on and keeps SHEET to 2 SHEET of them, evenly spaced, in `kept`."""
    every = 1
    for i, image in enumerate(images):
        if i % every == 0:
            kept.append(image)
        if len(kept) == 2 * SHEET:
            kept[:] = kept[::2]
            every *= 2
        yield image


def claim_facts(source: str, mask: str | None, checkpoint: str, settings: dict) -> dict:
    """What a user's clip is segmented from, for files.claim(); `settings` have boxes too where
    there is no mask."""
    facts = {'input': files.fingerprint(source), 'checkpoint': files.fingerprint(checkpoint)}
    if mask:
        facts['mask'] = files.fingerprint(mask)
    return {**facts, **settings}
