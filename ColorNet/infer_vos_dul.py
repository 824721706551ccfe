r"""The official inference command, flag by flag (infer_vos_dul.py of colorNet_DUL, infer_vos.py of
dense-ulearn-vos).

    python -m ColorNet.infer_vos_dul --cfg configs/ytvos.yaml --exp 0001 --run final \
        --infer-list filelists/val_davis2017_test --mask-output-dir ./output --seed 0 \
        --set TEST.KEY merge --resume snapshots/color_dul_300_M.pkl

--resume: a published file, or a checkpoint of this collection. The list has a line "flag image
mask" a frame, paths relative to DATASET.ROOT of the --cfg (default ./data); it is looked for below
./data and the root. Where val_davis2017_test itself is not there, the DAVIS 2017 validation
sequences below the root are taken. Writes <KEY>_vos/<sequence>/<frame>.png (where flag is not 0)
and overlays in <KEY>_vis. --exp, --run, --seed and --workers change nothing.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import os
import re
import sys
from typing import NamedTuple

from common import console, files, masks, videos, weights
from common.lazy import np

from . import cli, convert, evaluate, inference, propagation
from .config import get_config

DAVIS_LIST = 'val_davis2017_test'
NAMES = {  # TEST.* of the official configuration, and our settings
    'KEY': 'key',
    'KNN': 'neighbours',
    'RADIUS': 'radius',
    'TEMP': 'temperature',
    'CXT_SIZE': 'context',
}
INPUT_SIZE = -1  # TEST.INPUT_SIZE: the frames' own; other sizes by --size
LONGEST_LINE = 1000  # characters of a line of settings


class Listed(NamedTuple):
    """A video of a list, and the names of the frames whose masks are saved."""

    video: videos.Video
    saved: set


def read_config(path: str) -> dict:
    """{'DATASET.ROOT': value, ...} of an official YAML: sections of plain values.

    Args:
      path: as given, else a file of that name in config/ beside this program.

    Raises:
      FileNotFoundError: neither is there. ValueError: a line that is no `KEY: value`.
    """
    beside = os.path.join(str(cli.MODEL), 'config', os.path.basename(path))
    tried = [path, beside]
    there = [each for each in tried if os.path.isfile(each)]
    if not there:
        raise FileNotFoundError(f'--cfg: no such file: tried {" and ".join(tried)}')
    found, section = {}, ''
    with open(there[0], encoding='utf-8', errors='replace') as f:
        lines = f.read().split('\n')
    for number, line in enumerate(lines, 1):
        line = re.sub(r'(^|\s)#.*', '', line).rstrip()
        if not line:
            continue
        key, colon, text = line.partition(':')
        if not colon or len(line) > LONGEST_LINE:
            raise ValueError(
                f'{there[0]}, line {number}: expected KEY: value, not {line[:100]!r}'
            )
        if not line.startswith(' '):
            section = key
        if text.strip():
            name = f'{section}.{key.strip()}' if line.startswith(' ') else key
            found[name] = _value(text.strip())
    return found


def _value(text):
    """A value as the official program decodes it: a Python literal, else text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {'true': True, 'false': False}.get(text.lower(), text)


def with_pairs(settings: dict, pairs: list[str]) -> dict:
    """The settings of read_config() with the KEY VALUE pairs of --set.

    Raises:
      ValueError: a key without a value, or of none of the official sections.
    """
    if len(pairs) % 2:
        raise ValueError(f'--set {" ".join(pairs)}: expected KEY VALUE pairs, such as TEST.KEY cls')
    result = dict(settings)
    for key, text in zip(pairs[::2], pairs[1::2]):
        section = key.split('.')[0]
        known = [f'TEST.{name}' for name in NAMES]
        if section == 'TEST' and key not in (*known, 'TEST.INPUT_SIZE'):
            raise ValueError(f'--set {key}: no such key; there are {", ".join(known)}')
        if section not in ('TEST', 'DATASET', 'TRAIN', 'MODEL', 'LOG', 'TB', 'NUM_GPUS'):
            raise ValueError(f'--set {key}: no such section')
        result[key] = _value(text)
    return result


def take_settings(cfg, settings: dict) -> None:
    """Puts TEST.* of the official settings into ours; ValueError where a type differs."""
    if settings.get('TEST.INPUT_SIZE', INPUT_SIZE) != INPUT_SIZE:
        raise ValueError('TEST.INPUT_SIZE: only -1 is possible here; --size WIDTH HEIGHT instead')
    for official, ours in NAMES.items():
        value = settings.get(f'TEST.{official}')
        if value is None:
            continue
        if official == 'CXT_SIZE':
            if type(value) is not int or value < 1:
                raise ValueError(f'TEST.CXT_SIZE={value!r}: expected a number of frames')
            if cfg.model_size == 'DUL':  # ColorNet's list of frames is fixed (labelprop/common.py)
                cfg.context = list(range(value, 0, -1))
            continue
        kind = type(cfg[ours])
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise ValueError(f'TEST.{official}={value!r}: expected {kind.__name__}')
        cfg[ours] = value
    cli.check_ranges(cfg)


def find_list(name: str, root: str) -> str:
    """Path of --infer-list, which names it without .txt: below ./data, as there, the root, or as
    given; '' for the DAVIS list that is not there.

    Raises:
      FileNotFoundError: naming what was tried.
    """
    name = name if name.endswith('.txt') else name + '.txt'
    tried = [os.path.join('data', name), os.path.join(root, name), name]
    for path in tried:
        if os.path.isfile(path):
            return path
    if files.stem(name) == DAVIS_LIST:
        return ''
    raise FileNotFoundError(f'--infer-list: no such file: tried {", ".join(tried)}')


def read_videos(path: str, root: str, key: str) -> list[Listed]:
    """The videos of a list: a line "flag image mask" a frame; a new video where the folder changes.

    Raises:
      FileNotFoundError: a frame is not there. ValueError: another form of line; no object.
    """
    rows = [line.split() for line in files.read_lines(path)]
    for row in rows:
        if len(row) != 3 or row[0] not in ('0', '1'):
            text = ' '.join(row)[:100]
            raise ValueError(f'{path}: expected lines "flag image mask", not {text!r}')
        row[1:] = (files.path_inside(each, path) for each in row[1:])
        if '/' not in row[1]:
            raise ValueError(f'{path}: {row[1]} is in no folder of a video')
        image = os.path.join(root, row[1])
        if not os.path.isfile(image):
            raise FileNotFoundError(f'{path}: no frame at {os.path.abspath(image)}')
    found = []
    for name, group in itertools.groupby(rows, lambda row: row[1].split('/')[-2]):
        group = list(group)
        frames = [os.path.join(root, image) for _, image, _ in group]
        given = _first_masks([os.path.join(root, mask) for _, _, mask in group])
        saved = {files.stem(image) for flag, image, _ in group if int(flag)}
        folder = os.path.join(f'{key}_vos', name)
        found.append(Listed(videos.Video(name, folder, frames, given, {}, []), saved))
    try:
        videos.with_objects([video for video, _ in found])
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None
    return found


def _first_masks(paths):
    """{frame number: mask} of the masks that show an id for the first time."""
    known, given = set(), {}
    for t, path in enumerate(paths):
        if not os.path.isfile(path):  # YouTube-VOS has masks of some frames alone
            continue
        mask = masks.read_mask(path)
        ids = set(np.unique(mask).tolist())
        if ids - known:
            given[t] = mask
        known |= ids
    return given


def davis_videos(root: str, key: str) -> list[Listed]:
    """The DAVIS 2017 validation sequences below the root, as read_videos()."""
    found = []
    for video in videos.find(root, 'davis', 'val', None, '2017'):
        video = video._replace(folder=os.path.join(f'{key}_vos', video.name))
        found.append(Listed(video, {files.stem(path) for path in video.frames}))
    return found


def segment(network, cfg, listed: Listed, output_path: str) -> None:
    """Writes the masks of a video that are asked for, and overlays of all frames."""
    video, saved = listed
    folder = cli.writable(os.path.join(output_path, video.folder))
    overlays = cli.writable(os.path.join(output_path, f'{cfg.key}_vis', video.name))
    frames = videos.Frames(video.frames)
    results = inference.segment(network, cfg, frames, video.given)
    results = console.progress(results, video.name, len(video.frames))
    for path, image, ids in zip(video.frames, frames, results):
        name = files.stem(path) + '.png'
        if files.stem(path) in saved:
            masks.write_mask(os.path.join(folder, name), ids)
        masks.write_image(os.path.join(overlays, name), masks.overlay(image, ids, 0.7, False))


def checkpoint_of(path: str, output_path: str) -> str:
    """Prefix of a checkpoint; a published file is converted to <output_path>/converted/<name>/."""
    if not os.path.isfile(path) or path.endswith('.index'):
        return weights.checkpoint_prefix(re.sub(r'\.index$', '', path))
    found = weights.read(path)
    kind = convert.detect(found)
    arrays, _ = convert.convert(found, kind)
    prefix = os.path.join(output_path, 'converted', files.stem(path), 'model.ckpt')
    return cli.write_checkpoint(arrays, prefix, convert.settings_of(found, kind), path)


def arguments():
    """The official program's flags (opts.py), and --device and --size."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = flags.add_argument
    add('--cfg', required=True, help='YAML; default of DATASET.ROOT: data')
    add('--exp', default='main', help='changes nothing')
    add('--run', default='0001', help='changes nothing')
    add('--workers', type=int, default=8, help='changes nothing')
    add('--seed', type=int, default=64, help='changes nothing: nothing is drawn')
    add('--infer-list', required=True, help='such as filelists/val_davis2017_test')
    add('--mask-output-dir', required=True)
    add('--resume', required=True, help='published file (.pkl, .pth), or checkpoint')
    add('--set', nargs='+', default=[], metavar='KEY VALUE', help='such as TEST.KEY cls')
    text = 'px in the network; default: 864 480, of dense-ulearn-vos those of the frame'
    add('--size', '--infer_wh', dest='size', nargs=2, type=cli.positive, help=text)
    add('--device', choices=('auto', 'npu', 'gpu', 'cpu'), default='auto')
    return flags


@cli.program
def main(argv=None):
    """Segments every video of the list."""
    args = arguments().parse_args(argv)
    settings = with_pairs(read_config(args.cfg), args.set)
    output_path = cli.writable(args.mask_output_dir)
    prefix = checkpoint_of(args.resume, output_path)
    options = cli.options(evaluate.arguments(), device=args.device)
    cfg = cli.configure(options, get_config, prefix)
    take_settings(cfg, settings)
    if args.size:
        cfg.test_width, cfg.test_height = args.size
    cfg.key = propagation.feature_key(cfg)
    root = str(settings.get('DATASET.ROOT', 'data'))
    if not os.path.isdir(root):
        print(f'DATASET.ROOT {root} of {args.cfg} is not there: data/ is taken', flush=True)
        root = 'data'
    path = find_list(args.infer_list, root)
    found = read_videos(path, root, cfg.key) if path else davis_videos(root, cfg.key)
    cli.say_weights(cfg, prefix)
    with inference.load(prefix, cfg) as network:
        for listed in found:
            segment(network, cfg, listed, output_path)
    print(f'{len(found)} videos: {os.path.join(output_path, cfg.key + "_vos")}', flush=True)


if __name__ == '__main__':
    sys.exit(main())
