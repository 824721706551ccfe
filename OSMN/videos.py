"""The layout of YouTube-Objects, and the preparation programs of the official code.

    python -m OSMN.videos --task=youtube_objects --data_path=youtube_masks --output_path=prepared
    python -m OSMN.videos --task=split_davis --data_path=DAVIS --output_path=split
    python -m OSMN.videos --task=merge --dataset=davis --data_path=DAVIS --output_path=results

youtube_objects: Images/, Labels/, all.txt from the raw set (preprocess_youtube.py). split_davis:
one 0/255 mask an object and one of all (preprocess_davis.py; this project does not need it). merge:
the masks again, from the probabilities that evaluate --save_score left in --output_path
(ytvos_merge_result.py, davis_eval.py), by the threshold that evaluate noted there. All may be run
again.
"""

from __future__ import annotations

import os
import sys

from common import davis, files, masks
from common import videos as driver
from common.files import stem
from common.lazy import np
from common.videos import Video, binary

from . import cli, inference, pretrained
from .config import get_config

DATASETS = ('davis', 'youtube_vos', 'youtube_objects')
NOTED = ('threshold', 'year')  # settings that evaluate notes beside probabilities, for merge
RAW = '<class>/data/<video>/shots/001/images'


def default_dataset(cfg) -> str:
    """The data set that a network is evaluated on where none is named: DAVIS after the COCO
    stage."""
    return 'davis' if cfg.dataset == 'coco' else cfg.dataset


def online_folder(output_path: str, name: str, number: int) -> str:
    """Folder of one online training's checkpoints."""
    return os.path.join(output_path, f'{name}_{number}')


def find(
    root: str, dataset: str, split: str = '', names: str | None = None, year: str = '2017'
) -> list[Video]:
    """The videos of a split, or the sequences `names` (a,b); see common/videos.py.

    Raises:
      FileNotFoundError, ValueError: missing data; a video without any object.
    """
    if dataset != 'youtube_objects':
        return driver.find(root, dataset, split, names, year)
    path = os.path.join(root, 'all.txt')
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f'no {path}: expected Images/, Labels/ and all.txt, which '
            'python -m OSMN.videos --task=youtube_objects writes'
        )
    names = files.split_names(names) or ' '.join(files.read_lines(path)).split()
    found = [_youtube_objects(root, files.plain_name(name, path)) for name in names]
    return driver.with_objects([video for video in found if len(video.frames) > 1])


def _youtube_objects(root, name):
    folders = [os.path.join(root, kind, name) for kind in ('Images', 'Labels')]
    for folder in folders:
        if not os.path.isdir(folder):
            raise FileNotFoundError(f'{root}/all.txt names {name}, {folder} is not there')
    images, labels = (files.listed(folder, masks.IMAGE_ENDINGS) for folder in folders)
    if [stem(path) for path in images] != [stem(path) for path in labels]:
        raise ValueError(f'{name}: {len(images)} images and {len(labels)} labels do not pair up')
    truth = [(stem(path), path) for path in labels]
    given = {0: binary(masks.read_mask(labels[0]))} if labels else {}
    return Video(name, os.path.join('masks', name), images, given, {}, truth)


def split_davis(root: str, output: str) -> int:
    """Writes Annotations/480p_split/<sequence>/<id>/<frame>.png and Annotations/480p_all/
    <sequence>/<frame>.png, 0 and 255; returns the number of files."""
    root, count = davis.resolve(root, '2017'), 0
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
    <class>/data/<video>/shots/001/{images,labels}; returns the number of images.

    Raises:
      FileNotFoundError: no such folders; an image without its label.
    """
    names, count = [], 0
    for kind in sorted(os.listdir(root)):
        inner = os.path.join(root, kind, 'data')
        for video in sorted(os.listdir(inner)) if os.path.isdir(inner) else ():
            shot = os.path.join(inner, video, 'shots', '001')
            if not os.path.isdir(os.path.join(shot, 'images')):
                raise FileNotFoundError(f'no {shot}/images: expected the raw set, as {RAW}')
            name = f'{kind}_{video}'
            names.append(name)
            for folder in ('Images', 'Labels'):
                os.makedirs(os.path.join(output, folder, name), exist_ok=True)
            for source in files.listed(os.path.join(shot, 'images'), masks.IMAGE_ENDINGS):
                image = masks.read_image(source)
                label = masks.read_image(os.path.join(shot, 'labels', stem(source) + '.jpg'))
                label = ((label[..., :1] > 127) * 255).astype(np.uint8)
                masks.write_image(
                    os.path.join(output, 'Images', name, stem(source) + '.png'), image
                )
                masks.write_image(
                    os.path.join(output, 'Labels', name, stem(source) + '.png'), label
                )
                count += 1
    if not names:
        raise FileNotFoundError(f'no {RAW} in {root}')
    files.write_text(os.path.join(output, 'all.txt'), '\n'.join(names) + '\n')
    return count


def merge(found: list, output_path: str, cfg) -> int:
    """Writes the masks of videos from scores/<name>/<id>/<frame>.npy; returns their number.

    Raises:
      FileNotFoundError: no scores of a video, or of one of its frames.
    """
    count = 0
    for video in found:
        first = inference.first_masks(video.given)

        def results(video=video, first=first):
            for t, path in enumerate(video.frames):
                maps = scores(video, stem(path), t, output_path)
                yield inference.whole_ids(maps, cfg, masks.read_image(path).shape[:2], first.get(t))

        driver.write_masks(video, results(), output_path)
        count += len(video.frames)
    return count


def scores(video, frame: str, t: int, output_path: str) -> dict:
    """{object id: float32 [h, w]} that evaluate --save_score wrote of frame number t; {} before
    any object starts.

    Raises:
      FileNotFoundError: an object that has started has none.
    """
    maps = {}
    for number, start in driver.starts(video.given).items():
        if start > t:
            continue
        path = os.path.join(output_path, 'scores', video.name, str(number), frame + '.npy')
        if not os.path.isfile(path):
            raise FileNotFoundError(f'no {path}: run OSMN.evaluate with --save_score')
        try:
            maps[number] = np.load(path)
        except ValueError as error:
            raise ValueError(f'{path} holds no probabilities: {error}') from None
    return dict(sorted(maps.items()))


def merge_settings(args):
    """The settings of merge: those of --checkpoint or --preset, else what evaluate noted beside
    the probabilities; --year and --set rule over both.

    Raises:
      FileNotFoundError: nothing was noted there and neither flag is given.
    """
    if args.checkpoint:
        pretrained.choose(args)
    path = os.path.join(args.output_path, 'scores', 'settings.json')
    if not args.checkpoint and not args.preset:
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f'no {os.path.abspath(path)}, which OSMN.evaluate --save_score writes: give the '
                '--checkpoint (or --preset) whose threshold the masks are merged by'
            )
        noted = files.read_json(path)
        args.preset, args.year = 'full', args.year or noted['year']
        args.set = [f'threshold={noted["threshold"]}', *args.set]
    return cli.configure(args, get_config, args.checkpoint)


@cli.program
def main(argv=None):
    """Runs one task and prints how many files it wrote."""
    flags = cli.parser(__doc__)
    flags.add_argument('--task', required=True, choices=('youtube_objects', 'split_davis', 'merge'))
    flags.add_argument('--data_path', required=True)
    flags.add_argument('--output_path', required=True)
    flags.add_argument('--dataset', choices=DATASETS, default='davis', help='of merge')
    flags.add_argument('--split', default='', help='of merge')
    flags.add_argument('--year', choices=('2016', '2017'), help='of merge: as evaluated')
    flags.add_argument('--sequences', help='of merge: a,b')
    flags.add_argument('--checkpoint', help='of merge: take the threshold of these weights')
    flags.set_defaults(device='cpu')
    args = flags.parse_args(argv)
    root, output = cli.data_root(args, None), cli.writable(args.output_path)
    if args.task == 'merge':
        cfg = merge_settings(args)
        found = find(root, args.dataset, args.split, args.sequences, cfg.year)
        count = merge(found, output, cfg)
        print(f'merged by a threshold of {cfg.threshold}')
    elif args.task == 'split_davis':
        count = split_davis(root, output)
    else:
        count = prepare_youtube_objects(root, output)
    print(f'{args.task}: {count} images in {output}', flush=True)


if __name__ == '__main__':
    sys.exit(main())
