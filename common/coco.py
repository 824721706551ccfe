"""Reader of COCO instance segmentations (Lin et al. 2014; cocodataset.org), with the functions of
davis.py.

    <root>/annotations/instances_train2017.json
    <root>/train2017/000000000009.jpg

A sequence is one image, named by its id; its masks are arrays, one an instance, because COCO has
no mask files.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os

from . import files
from .lazy import cocotools, np, rle
from .masks import check_files

LONGEST = 2**15  # px, of a side of an image; COCO's have 640
PAGE = 'https://cocodataset.org/#download (2017 Train/Val images, annotations)'
TREE = 'annotations/instances_<split>.json, <split>/*.jpg (also images/<split>/)'


def resolve(root: str) -> str:
    """The folder that has annotations/: `root`, or one named coco, COCO or data in it.

    Raises:
      FileNotFoundError: naming what was tried, the tree expected and where the data are.
    """
    root = os.path.abspath(root)
    for path in [root] + [os.path.join(root, name) for name in ('coco', 'COCO', 'data')]:
        if os.path.isdir(os.path.join(path, 'annotations')):
            return path
    raise FileNotFoundError(
        f'no COCO data at {root}: no annotations/ there (nor in coco/, COCO/, data/ inside it). '
        f'Expected {TREE}; download: {PAGE}'
    )


@functools.lru_cache(maxsize=4)
def index(root: str, split: str) -> cocotools.COCO:
    """The split's annotations, read once a process.

    Raises:
      FileNotFoundError, ValueError: no such file, or no COCO annotations.
    """
    path = os.path.join(os.path.abspath(root), 'annotations', f'instances_{split}.json')
    if not os.path.isfile(path):
        raise FileNotFoundError(f'no COCO annotations at {path}. Expected {TREE}; download: {PAGE}')
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            found = cocotools.COCO(path)
        _check_index(found)
        return found
    except (LookupError, TypeError, AttributeError, AssertionError, RecursionError) as error:
        raise ValueError(f'{path} is no COCO annotation file: {error!r}') from None
    except ValueError as error:
        raise ValueError(f'{path} is no COCO annotation file: {error}') from None


def _check_index(found):
    """ValueError, KeyError where images or instances lack what is read of them."""
    for image in found.dataset['images']:
        number, whole = image['id'], functools.partial(files.is_number, kind=int)
        files.path_inside(image['file_name'], f'image {number!r}')
        sides = [image['height'], image['width']]
        if not whole(number, 0, 2**63) or not all(whole(n, 1, LONGEST) for n in sides):
            raise ValueError(f'image {number!r} of {sides} px')
    for item in found.dataset['annotations']:
        if not files.is_number(item['image_id'], 0, 2**63, int) or not isinstance(
            item['id'], (int, float)
        ):
            raise ValueError(f'instance {item["id"]!r} of image {item["image_id"]!r}')
        if item['image_id'] not in found.imgs:
            raise ValueError(f'instance {item["id"]!r} is of image {item["image_id"]}, not there')
        box = item.get('bbox', [0, 0, 0, 0])
        if len(box) != 4 or not all(files.is_number(v, -LONGEST, LONGEST) for v in box):
            raise ValueError(f'instance {item["id"]!r} has the box {str(box)[:60]}')
    for table, kind in ((found.imgs, 'images'), (found.anns, 'annotations')):
        if len(table) != len(found.dataset[kind]):
            raise ValueError(f'two {kind} have the same id')


def sequences(root: str, split: str = 'train2017') -> list[str]:
    """Ids of the images that have instances, as text, in order.

    Raises:
      ValueError: there are none.
    """
    ids = sorted({a['image_id'] for a in index(root, split).anns.values()})
    if not ids:
        raise ValueError(f'{root}/annotations/instances_{split}.json has no instances')
    return [str(number) for number in ids]


def frames(root: str, name: str, split: str = 'train2017') -> list[str]:
    """[path] of the image with id `name`. Raises FileNotFoundError where it is not there."""
    file_name = _image(root, name, split)['file_name']
    root = os.path.abspath(root)
    tried = [os.path.join(root, *place, file_name) for place in ((split,), ('images', split))]
    for path in tried:
        if os.path.isfile(path):
            return [path]
    raise FileNotFoundError(
        f'image {name} of {split} is missing: tried {" and ".join(tried)}; download: {PAGE}'
    )


def _image(root, name, split):
    images = index(root, split).imgs
    if not name.isdigit() or int(name) not in images:
        raise ValueError(f'instances_{split}.json has no image {name}')
    return images[int(name)]


def annotations(root: str, name: str, split: str = 'train2017') -> list[dict]:
    """The image's instances as they are in the file: segmentation, area, bbox, iscrowd, ...

    Raises:
      ValueError: no such image.
    """
    return index(root, split).imgToAnns[_image(root, name, split)['id']]


def masks(root: str, name: str, split: str = 'train2017') -> list[np.ndarray]:
    """The image's instances as uint8 [H, W] of 0 and 1; what lies outside the image is cut
    off."""
    image = _image(root, name, split)
    try:
        return [mask(a, image['height'], image['width']) for a in annotations(root, name, split)]
    except ValueError as error:
        raise ValueError(f'{root}/annotations/instances_{split}.json: {error}') from None


def mask(annotation: dict, height: int, width: int) -> np.ndarray:
    """One instance as uint8 [height, width] of 0 and 1: polygons, or run lengths of either form.
    Raises ValueError as run_lengths()."""
    return rle.decode(run_lengths(annotation, height, width))


def run_lengths(annotation: dict, height: int, width: int) -> dict:
    """One instance in compressed run-length form, whose rle.area is its number of pixels.

    Raises:
      ValueError: a segmentation that is neither polygons nor run lengths of such an image.
    """
    segmentation = annotation.get('segmentation')
    try:
        if isinstance(segmentation, list):
            return _encode_polygons(segmentation, height, width)
        counts = segmentation['counts']
        if list(segmentation['size']) != [height, width]:
            raise ValueError(f'run lengths of size {segmentation["size"]}')
        if isinstance(counts, (str, bytes)):  # pycocotools would read behind the end of bad ones
            text = counts.encode('ascii') if isinstance(counts, str) else counts
            _check_runs(_decode_runs(text), height * width)
            return {'size': [height, width], 'counts': text}
        _check_runs(counts, height * width)
        return rle.frPyObjects(segmentation, height, width)
    except Exception as error:  # pycocotools raises bare ones
        raise ValueError(
            f'annotation {annotation.get("id")} of an image {width}x{height} has no usable '
            f'segmentation: {error!r}'
        ) from None


def _encode_polygons(polygons, height, width):
    usable = [polygon for polygon in polygons if len(polygon) >= 6]  # three points
    for polygon in usable:  # pycocotools would walk any way, and count it in 32 bits
        if not all(files.is_number(value, -LONGEST, LONGEST) for value in polygon):
            raise ValueError('corners that are no numbers of pixels')
    if not usable:
        return rle.encode(np.zeros((height, width), np.uint8, order='F'))
    return rle.merge(rle.frPyObjects(usable, height, width))


def _check_runs(runs, pixels):
    if any(type(run) is not int or run < 0 for run in runs) or sum(runs) != pixels:
        raise ValueError(f'run lengths of {sum(runs)} pixels in all')


def _decode_runs(text):
    """Run lengths of COCO's text form (maskApi.c rleFrString): 5 bits a character, the sixth says
    that more follow; from the third run on, differences to the last but one."""
    runs, value, shift = [], 0, 0
    for character in text:
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError('run lengths that are cut off')
    return runs


def check(root: str, every: bool = False) -> dict:
    """Counts {'sequences', 'frames', 'masks', 'objects'} over the instance files that are there.

    Args:
      root: as given to resolve(). every: decode every image and instance.

    Raises:
      FileNotFoundError: no annotations; images missing, the first three by name. ValueError: files
      or instances that cannot be decoded.
    """
    root = resolve(root)
    folder = os.path.join(root, 'annotations')
    found = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    named = [n for n in found if n.startswith('instances_') and n.endswith('.json')]
    splits = [n[len('instances_') : -len('.json')] for n in named]
    if not splits:
        raise FileNotFoundError(
            f'no instances_*.json in {os.path.abspath(folder)}. Expected {TREE}; download: {PAGE}'
        )
    counts = {'sequences': 0, 'frames': 0, 'masks': 0, 'objects': 0}
    missing, images = [], []
    for split in splits:
        for name in sequences(root, split):
            counts['sequences'] += 1
            counts['objects'] += len(annotations(root, name, split))
            try:
                paths = frames(root, name, split)
            except FileNotFoundError as error:
                missing.append(str(error))
                continue
            counts['frames'] += len(paths)
            if every:
                masks(root, name, split)
                images += paths
    if missing:
        first = '; '.join(missing[:3])
        raise FileNotFoundError(f'{len(missing)} images are missing, first: {first}')
    check_files(images, [])
    counts['masks'] = counts['objects']
    return counts
