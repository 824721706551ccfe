"""Draws small data sets in the official layouts: what tests, and CPU runs without --data_path,
train on.

    python test/sample_data.py --output=DIR [--sets=davis,davis2017,youtube_vos,coco,vid,det,vot]

Textured, saturated blobs move, deform, pass behind a pillar and leave, over greyish textured
backgrounds: a small network is trained on them in a minute and segments sequences that it has not
seen. The same seed draws the same images.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import masks  # noqa: E402

HEIGHT, WIDTH = 180, 320  # px
FINISHED = 'sample_data.json'  # written last: what was drawn


def noise(draw: np.random.RandomState, height: int, width: int, octaves=(4, 12, 40)) -> np.ndarray:
    """Smooth random texture float32 [height, width], about -1 .. 1."""
    total = np.zeros((height, width), np.float32)
    for i, cells in enumerate(octaves):
        grid = draw.randn(cells, cells * width // height + 1).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / (i + 1.5)
    return total


def background(draw: np.random.RandomState) -> np.ndarray:
    """Greyish texture float32 [HEIGHT, 2 WIDTH, 3] BGR, along which the camera pans."""
    grey = 110 + 45 * noise(draw, HEIGHT, 2 * WIDTH)
    tint = draw.uniform(-12, 12, 3) + 10 * noise(draw, HEIGHT, 2 * WIDTH, (3, 6))[..., None]
    return np.clip(grey[..., None] + tint, 0, 255)


def make_object(draw: np.random.RandomState, number: int) -> dict:
    """Shape, colors and path of one object."""
    hue = (draw.randint(0, 180) + 60 * number) % 180
    texture = noise(draw, HEIGHT, WIDTH, (8, 24))
    hsv = np.stack(
        [np.full_like(texture, hue) + 6 * texture, 215 + 25 * texture, 170 + 60 * texture], -1
    )
    hsv[..., 0] %= 180
    colors = cv2.cvtColor(np.clip(hsv, 0, 255).astype(np.uint8), cv2.COLOR_HSV2BGR)
    return dict(
        colors=colors,
        radius=draw.uniform(26, 42),
        start=np.array([draw.uniform(70, WIDTH - 70), draw.uniform(55, HEIGHT - 55)]),
        speed=draw.uniform(-5, 5, 2) * (1, 0.5),
        waves=draw.uniform(0.03, 0.16, 3),
        phases=draw.uniform(0, 6.28, 3),
        turn=draw.uniform(-0.35, 0.35, 3),
    )


def outline(item: dict, t: int) -> np.ndarray:
    """The object's outline at frame t, int32 [64, 2] (x, y)."""
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    ripple = 0
    waves = zip(item['waves'], item['phases'], item['turn'])
    for k, (wave, phase, turn) in enumerate(waves, 2):
        ripple = ripple + wave * np.cos(k * angle + phase + turn * t)
    center = item['start'] + item['speed'] * t
    directions = np.stack([np.cos(angle), np.sin(angle)], 1)
    points = center + (item['radius'] * (1 + ripple))[:, None] * directions
    return np.round(points).astype(np.int32)


def clip(draw: np.random.RandomState, frames: int, objects: int, leaving: bool = False):
    """Images uint8 [HEIGHT, WIDTH, 3] BGR and masks uint8 [HEIGHT, WIDTH] of one sequence.

    Later objects are in front; every other sequence has a grey pillar in front of all. With
    `leaving`, the last object is out of the image in the last frames.
    """
    scene, pan = background(draw), draw.uniform(0, 4)
    items = [make_object(draw, i) for i in range(objects)]
    if leaving:
        items[-1]['speed'] = np.array([WIDTH * 1.1 / frames, 0])
    pillar = draw.randint(WIDTH // 4, 3 * WIDTH // 4) if draw.rand() < 0.5 else None
    for t in range(frames):
        x = int(pan * t)
        image = scene[:, x : x + WIDTH].astype(np.uint8)
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        for number, item in enumerate(items, 1):
            inside = np.zeros_like(mask)
            cv2.fillPoly(inside, [outline(item, t)], 1)
            shift = np.round(item['speed'] * t).astype(int)
            colors = np.roll(item['colors'], (shift[1], shift[0]), (0, 1))
            image[inside > 0], mask[inside > 0] = colors[inside > 0], number
        if pillar is not None:
            image[:, pillar : pillar + 12] = scene[:, :12].astype(np.uint8)
            mask[:, pillar : pillar + 12] = 0
        yield cv2.GaussianBlur(image, (3, 3), 0.6), mask


def write_jpeg(path: Path, image: np.ndarray) -> None:
    """Writes a JPEG of quality 92."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())


def draw_davis(root: Path, draw: np.random.RandomState, year: str = '2016') -> None:
    """A DAVIS tree: six train and three val sequences, one object (2016, masks 0/255) or two to
    three (2017)."""
    lists = {'train': [f'drawn-{c}' for c in 'abcdef'], 'val': [f'drawn-{c}' for c in 'xyz']}
    lines = {'train': [], 'val': []}
    for split, names in lists.items():
        for i, name in enumerate(names):
            objects = 1 if year == '2016' else 2 + i % 2
            for t, (image, mask) in enumerate(clip(draw, 10, objects, leaving=name == 'drawn-f')):
                frame = f'JPEGImages/480p/{name}/{t:05d}.jpg'
                label = f'Annotations/480p/{name}/{t:05d}.png'
                write_jpeg(root / frame, image)
                (root / label).parent.mkdir(parents=True, exist_ok=True)
                if year == '2016':
                    (root / label).write_bytes(cv2.imencode('.png', mask * 255)[1].tobytes())
                else:
                    masks.write_mask(str(root / label), mask)
                lines[split].append(f'/{frame} /{label} \n')
    for split, names in lists.items():
        write_text(root / 'ImageSets' / year / f'{split}.txt', '\n'.join(names) + '\n')
        if year == '2016':  # the official lists are pairs of paths, a blank before the line's end
            write_text(root / 'ImageSets' / '480p' / f'{split}.txt', ''.join(lines[split]))


def draw_davis2017(root: Path, draw: np.random.RandomState) -> None:
    """A DAVIS 2017 tree: several objects, indexed masks."""
    draw_davis(root, draw, '2017')


def write_text(path: Path, text: str) -> None:
    """Writes a text file, folders made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def draw_youtube_vos(root: Path, draw: np.random.RandomState) -> None:
    """A YouTube-VOS tree: train with masks every fifth frame, valid with the first mask of each
    object."""
    for split, names in (
        ('train', ('0aaaaaaaaa', '0bbbbbbbbb', '0cccccccccc')),
        ('valid', ('0ddddddddd',)),
    ):
        videos = {}
        for name in names:
            shown = {}
            for t, (image, mask) in enumerate(clip(draw, 16, 2, leaving=name.startswith('0c'))):
                write_jpeg(root / split / 'JPEGImages' / name / f'{t:05d}.jpg', image)
                if t % 5 or (split == 'valid' and t):
                    continue
                path = root / split / 'Annotations' / name / f'{t:05d}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                masks.write_mask(str(path), mask)
                for number in np.unique(mask[mask > 0]):
                    shown.setdefault(str(number), []).append(f'{t:05d}')
            videos[name] = {
                'objects': {
                    number: {'category': 'blob', 'frames': frames}
                    for number, frames in shown.items()
                }
            }
        write_text(root / split / 'meta.json', json.dumps({'videos': videos}))


def draw_coco(root: Path, draw: np.random.RandomState) -> None:
    """A COCO tree: 12 train2017 and 4 val2017 images, polygons, one crowd in run-length form a
    set."""
    for split, count in (('train2017', 12), ('val2017', 4)):
        images, annotations = [], []
        for number in range(1, count + 1):
            image, mask = next(clip(draw, 1, 3))
            name = f'{number:012d}.jpg'
            write_jpeg(root / split / name, image)
            images.append(dict(id=number, file_name=name, height=HEIGHT, width=WIDTH, license=1))
            for item in np.unique(mask[mask > 0]):
                entry = coco_annotation(mask == item, crowd=number == count and item == 1)
                annotations.append(
                    dict(entry, id=len(annotations) + 1, image_id=number, category_id=1)
                )
        tree = dict(
            info={'description': 'drawn'}, licenses=[{'id': 1, 'name': 'drawn', 'url': ''}],
            images=images, annotations=annotations,
            categories=[{'id': 1, 'name': 'blob', 'supercategory': 'blob'}],
        )  # fmt: skip
        write_text(root / 'annotations' / f'instances_{split}.json', json.dumps(tree))


def write_imagenet(root: Path, kind: str, name: str, image, mask) -> None:
    """One image of ILSVRC2015 with the boxes of its objects as XML."""
    write_jpeg(root / 'ILSVRC2015' / 'Data' / kind / 'train' / f'{name}.JPEG', image)
    objects = ''
    for number in np.unique(mask[mask > 0]):
        rows, columns = np.nonzero(mask == number)
        box = columns.min(), rows.min(), columns.max(), rows.max()
        sides = zip(('xmin', 'ymin', 'xmax', 'ymax'), box)
        objects += (
            f'<object><trackid>{number - 1}</trackid><name>n0</name><occluded>0</occluded>'
            f'<bndbox>{"".join(f"<{k}>{v}</{k}>" for k, v in sides)}</bndbox></object>'
        )
    text = f'<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>{objects}'
    path = root / 'ILSVRC2015' / 'Annotations' / kind / 'train' / f'{name}.xml'
    write_text(path, f'<annotation><filename>{path.stem}</filename>{text}</annotation>')


def draw_vid(root: Path, draw: np.random.RandomState) -> None:
    """ImageNet VID: four train videos of ten frames; one object leaves."""
    for v in range(4):
        for t, (image, mask) in enumerate(clip(draw, 10, 2, leaving=v == 3)):
            name = f'ILSVRC2015_VID_train_0000/ILSVRC2015_train_{v:08d}/{t:06d}'
            write_imagenet(root, 'VID', name, image, mask)


def draw_det(root: Path, draw: np.random.RandomState) -> None:
    """ImageNet DET: eight images of two subsets, one with folders of categories."""
    for i in range(8):
        image, mask = next(clip(draw, 1, 2))
        place = 'ILSVRC2013_train/n00000001' if i % 2 else 'ILSVRC2014_train_0000'
        write_imagenet(root, 'DET', f'{place}/drawn_{i:08d}', image, mask)


def draw_vot(root: Path, draw: np.random.RandomState) -> None:
    """VOT: three sequences of 24 frames, rotated boxes, an occlusion tag."""
    names = ['drawn1', 'drawn2', 'drawn3']
    for name in names:
        areas = [0]
        while min(areas) < 0.6 * max(areas) + 1:  # the object stays in sight
            frames = list(clip(draw, 24, 1))
            areas = [int(mask.sum()) for _, mask in frames]
        lines = ''
        for t, (image, mask) in enumerate(frames, 1):
            write_jpeg(root / name / 'color' / f'{t:08d}.jpg', image)
            points = np.argwhere(mask)[:, ::-1].astype(np.float32)
            corners = cv2.boxPoints(cv2.minAreaRect(points)).ravel()
            lines += ','.join(f'{v:.2f}' for v in corners) + '\n'
        write_text(root / name / 'groundtruth.txt', lines)
        hidden = ''.join(f'{int(area < 0.8 * max(areas))}\n' for area in areas)
        write_text(root / name / 'occlusion.tag', hidden)
    write_text(root / 'list.txt', '\n'.join(names) + '\n')


def coco_annotation(mask: np.ndarray, crowd: bool) -> dict:
    """Segmentation, area, bbox and iscrowd of a bool mask [H, W]."""
    rows, columns = np.nonzero(mask)
    box = [int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
    if crowd:  # uncompressed counts: runs down the columns, first of background
        flat = np.concatenate([[0], mask.ravel(order='F'), [0]])
        edges = np.flatnonzero(np.diff(flat.astype(int)))
        runs = np.diff(np.concatenate([[0], edges, [mask.size]]))
        segmentation = {'size': list(mask.shape), 'counts': [int(run) for run in runs]}
    else:
        outlines = cv2.findContours(
            mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )[-2]
        segmentation = [[float(v) for v in o.ravel()] for o in outlines if len(o) >= 3]
    return {
        'segmentation': segmentation,
        'area': float(mask.sum()),
        'bbox': box,
        'iscrowd': int(crowd),
    }


SETS = {
    'davis': ('DAVIS', draw_davis),
    'davis2017': ('DAVIS2017', draw_davis2017),
    'youtube_vos': ('YouTubeVOS', draw_youtube_vos),
    'coco': ('coco', draw_coco),
    'vid': ('vid', draw_vid),
    'det': ('det', draw_det),
    'vot': ('VOT', draw_vot),
}


def draw(output: str, sets=tuple(SETS), seed: int = 0) -> dict:
    """Draws the sets into `output`; one that is there already, drawn with the same seed, is kept.

    Returns:
      {set: absolute path of its tree}.

    Raises:
      ValueError: unknown set. FileExistsError: something else is where a set would go.
    """
    unknown = sorted(set(sets) - set(SETS))
    if unknown:
        raise ValueError(f'no set {unknown}; there are {", ".join(SETS)}')
    result = {}
    for name in sets:
        folder, function = SETS[name]
        target = Path(output).resolve() / folder
        result[name] = str(target)
        marker, text = target / FINISHED, json.dumps({'set': name, 'seed': seed, 'version': 1})
        if marker.is_file() and marker.read_text() == text:
            continue
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise FileExistsError(
                f'{target} is there already and is not this drawing; choose another --output'
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f'.{folder}.', suffix='.tmp', dir=target.parent))
        try:
            function(temporary, np.random.RandomState(seed + list(SETS).index(name)))
            write_text(temporary / FINISHED, text)
            temporary.chmod(0o755)  # mkdtemp's are for the owner alone
            with contextlib.suppress(OSError):  # another process was faster
                os.rename(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        if not marker.is_file():
            raise FileExistsError(f'{target} could not be put in place; choose another --output')
    return result


def main(argv=None) -> int:
    """Draws and prints the paths."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--output', required=True)
    parser.add_argument('--sets', default=','.join(SETS))
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(argv)
    try:
        for name, path in draw(args.output, args.sets.split(','), args.seed).items():
            print(f'{name}: {path}')
    except (OSError, ValueError, cv2.error) as error:
        print(f'sample_data: error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
