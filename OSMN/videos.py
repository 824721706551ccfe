"""The videos that OSMN segments, in the layouts of DAVIS, YouTube-VOS and YouTube-Objects, and the
preparation programs of the official code.

    python -m OSMN.videos --task=youtube_objects --data_path=youtube_masks --output_path=prepared
    python -m OSMN.videos --task=split_davis --data_path=DAVIS --output_path=split
    python -m OSMN.videos --task=merge --dataset=davis --data_path=DAVIS --output_path=results

youtube_objects: Images/, Labels/, all.txt from the raw set (preprocess_youtube.py). split_davis:
one 0/255 mask an object and one of all (preprocess_davis.py; this project does not need it). merge:
the masks again, from the probabilities that evaluate --save_score left in --output_path
(ytvos_merge_result.py, davis_eval.py). All may be run again.
"""

from __future__ import annotations

import os
import sys

import numpy as np

from common import davis, masks, videos
from common.videos import Video, binary, stem

from . import cli, guides
from .config import get_config

DATASETS = ('davis', 'youtube_vos', 'youtube_objects')


def resolve(root: str, dataset: str) -> str:
    """The data set's own folder in `root`.

    Raises:
      FileNotFoundError: naming what was tried.
    """
    if dataset != 'youtube_objects':
        return videos.resolve(root, dataset)
    if os.path.isfile(os.path.join(root, 'all.txt')):
        return root
    raise FileNotFoundError(
        f'no {root}/all.txt: expected Images/, Labels/ and all.txt, which '
        'python -m OSMN.videos --task=youtube_objects writes'
    )


def find(root: str, dataset: str, split: str = '', names: str | None = None, year: str = '2017'):
    """[Video] of a split, or of the sequences `names` (a,b); see common/videos.py."""
    if dataset != 'youtube_objects':
        return videos.find(root, dataset, split, names, year)
    with open(os.path.join(root, 'all.txt')) as f:
        names = names.split(',') if names else f.read().split()
    found = [_youtube_objects(root, name) for name in names]
    return videos.with_objects([video for video in found if len(video.frames) > 1])


def _youtube_objects(root, name):
    folders = [os.path.join(root, kind, name) for kind in ('Images', 'Labels')]
    for folder in folders:
        if not os.path.isdir(folder):
            raise FileNotFoundError(f'{root}/all.txt names {name}, {folder} is not there')
    images, labels = (sorted(os.path.join(f, n) for n in os.listdir(f)) for f in folders)
    if [stem(path) for path in images] != [stem(path) for path in labels]:
        raise ValueError(f'{name}: {len(images)} images and {len(labels)} labels do not pair up')
    truth = [(stem(path), path) for path in labels]
    given = {0: binary(masks.read_mask(labels[0]))} if labels else {}
    return Video(name, os.path.join('masks', name), images, given, {}, truth)


def split_davis(root: str, output: str) -> int:
    """Writes Annotations/480p_split/<sequence>/<id>/<frame>.png and Annotations/480p_all/
    <sequence>/<frame>.png, 0 and 255; returns the number of files."""
    root, count = davis.resolve(root), 0
    for name in sorted(os.listdir(os.path.join(root, 'Annotations', '480p'))):
        paths = davis.masks(root, name)
        ids = [int(n) for n in np.unique(masks.read_mask(paths[0])) if 0 < n < 255]
        for path in paths:
            mask = masks.read_mask(path)
            for n in [0, *ids]:
                folder = ('480p_split', name, str(n)) if n else ('480p_all', name)
                target = os.path.join(output, 'Annotations', *folder, stem(path) + '.png')
                os.makedirs(os.path.dirname(target), exist_ok=True)
                masks.write_image(target, binary(mask, n)[..., None] * 255)
                count += 1
    return count


def prepare_youtube_objects(root: str, output: str) -> int:
    """Writes Images/<class>_<video>/, Labels/<class>_<video>/ (0 and 255) and all.txt from
    <class>/data/<video>/shots/001/{images,labels}; returns the number of pictures.

    Raises:
      FileNotFoundError: no such folders; a picture without its label.
    """
    names, count = [], 0
    for kind in sorted(os.listdir(root)):
        inner = os.path.join(root, kind, 'data')
        for video in sorted(os.listdir(inner)) if os.path.isdir(inner) else ():
            shot = os.path.join(inner, video, 'shots', '001')
            name = f'{kind}_{video}'
            names.append(name)
            for file in sorted(os.listdir(os.path.join(shot, 'images'))):
                image = masks.read_image(os.path.join(shot, 'images', file))
                label = masks.read_image(os.path.join(shot, 'labels', stem(file) + '.jpg'))
                for folder, picture in (
                    ('Images', image),
                    ('Labels', (label[..., :1] > 127) * 255),
                ):
                    os.makedirs(os.path.join(output, folder, name), exist_ok=True)
                    path = os.path.join(output, folder, name, stem(file) + '.png')
                    masks.write_image(path, picture.astype(np.uint8))
                count += 1
    if not names:
        raise FileNotFoundError(f'no <class>/data/<video>/shots/001/images in {root}')
    with open(os.path.join(output, 'all.txt.tmp'), 'w') as f:
        f.write('\n'.join(names) + '\n')
    os.replace(os.path.join(output, 'all.txt.tmp'), os.path.join(output, 'all.txt'))
    return count


def merge(found: list, output_path: str, cfg) -> int:
    """Writes the masks of videos from scores/<name>/<id>/<frame>.npy; returns their number.

    Raises:
      FileNotFoundError: no scores of a video.
    """
    from . import evaluate

    count = 0
    for video in found:
        folder = os.path.join(output_path, 'scores', video.name)
        if not os.path.isdir(folder):
            raise FileNotFoundError(f'no {folder}: run OSMN.evaluate with --save_score')
        ids = sorted(int(name) for name in os.listdir(folder) if name.isdigit())
        for path in video.frames:
            paths = {n: os.path.join(folder, str(n), stem(path) + '.npy') for n in ids}
            maps = {
                n: np.load(p)
                for n, p in paths.items()
                if os.path.isfile(p) and stem(path) in video.shown.get(n, (stem(path),))
            }
            shape = masks.read_image(path).shape[:2]
            mask = evaluate.merged(maps, cfg) if maps else np.zeros(shape, np.uint8)
            os.makedirs(os.path.join(output_path, video.folder), exist_ok=True)
            target = os.path.join(output_path, video.folder, stem(path) + '.png')
            masks.write_mask(target, guides.resize_mask(mask, shape))
            count += 1
    return count


def first_run(online_path: str) -> str:
    """The first finished training in a folder of online trainings: its settings are those of
    all."""
    entries = os.scandir(online_path) if os.path.isdir(online_path) else ()
    folders = sorted(entry.path for entry in entries if entry.is_dir())
    if not folders:
        raise FileNotFoundError(
            f'no online trainings in {os.path.abspath(online_path)}; python -m OSMN.online '
            'writes them'
        )
    return folders[0]


@cli.program
def main(argv=None):
    """Runs one task and prints how many files it wrote."""
    flags = cli.parser(__doc__)
    flags.add_argument('--task', required=True, choices=('youtube_objects', 'split_davis', 'merge'))
    flags.add_argument('--data_path', required=True)
    flags.add_argument('--output_path', required=True)
    flags.add_argument('--dataset', choices=DATASETS, default='davis', help='of merge')
    flags.add_argument('--split', default='', help='of merge')
    flags.add_argument('--sequences', help='of merge: a,b')
    args = flags.parse_args(argv)
    args.device = 'cpu'
    cfg = cli.configure(args, get_config)
    root, output = cli.data_root(args, cfg), cli.writable(args.output_path)
    if args.task == 'merge':
        root = resolve(root, args.dataset)
        count = merge(find(root, args.dataset, args.split, args.sequences, cfg.year), output, cfg)
    else:
        task = {'youtube_objects': prepare_youtube_objects, 'split_davis': split_davis}[args.task]
        count = task(root, output)
    print(f'{args.task}: {count} pictures in {output}', flush=True)


if __name__ == '__main__':
    sys.exit(main())
