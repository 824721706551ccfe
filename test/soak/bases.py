"""Whole files of every format that is read, and readers with an oracle: what test/soak/inputs.py
damages. A make_* writes into a folder and gives the paths; a read_*(path, damaged) reads one and
raises Wrong where the result cannot be. Model folders, which bring TensorFlow, are imported where
they are used.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zlib
from pathlib import Path

import cv2
import h5py
import mutations
import numpy as np
from PIL import Image, ImageOps
from scipy.io import savemat
from weights_files import mindspore_entry, write_legacy, write_zip

from common import coco, davis, files, masks, videos, weights, youtube_vos

H, W = 36, 48  # px
FRAMES = 4
MOST_NUMBERS = 1e6  # of a damaged file of a few thousand
DRAW = np.random.RandomState(0)
IDS = np.zeros((H, W), np.uint8)
IDS[8:24, 6:30], IDS[14:30, 25:44] = 1, 2
PHOTO = cv2.GaussianBlur(DRAW.randint(0, 255, (H, W, 3)).astype(np.uint8), (5, 5), 0)
TALL = cv2.resize(PHOTO, (120, 150), interpolation=cv2.INTER_CUBIC)  # a JPEG above its last 4 kB
ARRAYS = {
    'conv.weight': DRAW.randn(4, 3, 3, 3).astype(np.float32),
    'conv.bias': DRAW.randn(4),
    'half': DRAW.randn(3, 2).astype(np.float16),
    'steps': np.array(7),
}


WHOLE = {}  # {path: image}


class Wrong(Exception):
    """A reader has given a result that cannot be."""


def expect(condition, text: str) -> None:
    """Raises Wrong(text) where the condition does not hold."""
    if not condition:
        raise Wrong(text)


# --- images --------------------------------------------------------------------------------------


def _jpeg(path, image, **options):
    image.save(path, 'JPEG', quality=92, **options)
    return path


def _exif(turn, thumbnail=b''):
    """An EXIF block: orientation and, with it, a thumbnail."""
    entries = [(0x0112, 3, 1, turn << 16)]
    text = b'Exif\0\0MM\0*\0\0\0\x08' + struct.pack('>H', len(entries))
    for entry in entries:
        text += struct.pack('>HHII', *entry)
    if not thumbnail:
        return text + b'\0\0\0\0'
    second = 8 + 2 + 12 + 4
    offset = second + 2 + 24 + 4
    text += struct.pack('>I', second) + struct.pack('>H', 2)
    text += struct.pack('>HHII', 0x0201, 4, 1, offset)
    text += struct.pack('>HHII', 0x0202, 4, 1, len(thumbnail)) + b'\0\0\0\0'
    return text + thumbnail


def make_images(folder: str) -> list[str]:
    """JPEGs: color, grey, CMYK, progressive, turned by EXIF with a thumbnail; a BMP."""
    image, path = Image.fromarray(TALL[..., ::-1]), os.path.join(folder, '{}.jpg').format
    small = io.BytesIO()
    image.resize((16, 20)).save(small, 'JPEG')
    found = [
        _jpeg(path('color'), image),
        _jpeg(path('grey'), image.convert('L')),
        _jpeg(path('cmyk'), image.convert('CMYK')),
        _jpeg(path('progressive'), image, progressive=True),
        _jpeg(path('turned'), image, exif=_exif(6, small.getvalue())),
        _jpeg(path('mirrored'), image, exif=_exif(5)),
    ]
    cv2.imwrite(os.path.join(folder, 'image.bmp'), PHOTO)
    return [*found, os.path.join(folder, 'image.bmp')]


def _rows(array, bits):
    """The rows of a PNG, filter 0, of whole numbers [H, W] or [H, W, C]."""
    array = array.reshape(len(array), -1)
    if bits == 16:
        packed = array.astype('>u2').view(np.uint8).reshape(len(array), -1)
    elif bits == 8:
        packed = array.astype(np.uint8)
    else:
        each = 8 // bits
        padded = np.zeros((len(array), -(-array.shape[1] // each) * each), np.uint8)
        padded[:, : array.shape[1]] = array
        shifts = 8 - bits * (np.arange(each) + 1)
        packed = (padded.reshape(len(array), -1, each) << shifts).sum(-1).astype(np.uint8)
    return b''.join(b'\0' + row.tobytes() for row in packed)


def _png(array, kind, bits=8, interlaced=False, more=()):
    """PNG bytes of [H, W] or [H, W, C]; `kind`: color type, `more`: [(type, content)]."""
    height, width = array.shape[:2]
    data = b''
    if interlaced:  # Adam7
        steps = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))
        for y, x, dy, dx in (*steps, (1, 0, 2, 1)):
            data += _rows(array[y::dy, x::dx], bits)
    else:
        data = _rows(array, bits)
    header = struct.pack('>IIBBBBB', width, height, bits, kind, 0, 0, int(interlaced))
    parts = [(b'IHDR', header), *more, (b'IDAT', zlib.compress(data)), (b'IEND', b'')]
    return mutations.png(parts)


PALETTE = (b'PLTE', masks.palette()[:8].tobytes())
PROFILE = (b'iCCP', b'profile\0\0' + zlib.compress(b'\0' * 128))


def make_png_images(folder: str) -> list[str]:
    """PNGs: color, alpha, grey, 16 bits, a palette with tRNS, interlaced, with iCCP."""
    rgb = PHOTO[..., ::-1]
    alpha = np.dstack([rgb, 255 * (IDS > 0)])
    texts = {
        'rgb': _png(rgb, 2),
        'rgba': _png(alpha, 6),
        'grey': _png(rgb[..., 0], 0),
        'grey_alpha': _png(alpha[..., [0, 3]], 4),
        'grey16': _png(rgb[..., 0].astype(int) * 257, 0, 16),
        'rgb16': _png(rgb.astype(int) * 257, 2, 16),
        'palette': _png(IDS, 3, 8, more=[PALETTE, (b'tRNS', b'\0\xff\x80')]),
        'interlaced': _png(rgb, 2, interlaced=True),
        'profile': _png(rgb, 2, more=[PROFILE]),
    }
    return _written(folder, texts, 'png')


def make_masks(folder: str) -> list[str]:
    """Masks of IDS as PNG: palettes of 2 to 8 bits, grey, interlaced, tRNS, iCCP, DAVIS colors."""
    texts = {
        'palette': _png(IDS, 3, more=[PALETTE]),
        'palette4': _png(IDS, 3, 4, more=[PALETTE]),
        'palette2': _png(IDS, 3, 2, more=[(b'PLTE', PALETTE[1][:12])]),
        'palette_trns': _png(IDS, 3, more=[PALETTE, (b'tRNS', b'\0')]),
        'interlaced': _png(IDS, 3, interlaced=True, more=[PALETTE]),
        'profile': _png(IDS, 3, more=[PROFILE, PALETTE]),
        'grey': _png(IDS, 0),
        'colors': _png(masks.palette()[IDS], 2),
        'colors_alpha': _png(np.dstack([masks.palette()[IDS], np.full((H, W), 255)]), 6),
    }
    return _written(folder, texts, 'png')


def _written(folder, texts, ending):
    paths = []
    for name, data in texts.items():
        paths.append(os.path.join(folder, f'{name}.{ending}'))
        Path(paths[-1]).write_bytes(data)
    return paths


def read_image(path: str, damaged: bool) -> None:
    """uint8 [H, W, 3] of the size that the header says; of a whole file what Pillow decodes."""
    found = masks.read_image(path)
    expect(found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3, f'{found.shape}')
    expect(found.size, 'no pixels')
    if damaged:
        return
    with Image.open(path) as image:
        turned = ImageOps.exif_transpose(image)
        if turned.mode in ('I', 'I;16'):
            turned = Image.fromarray((np.array(turned) >> 8).astype(np.uint8))
        expected = np.array(turned.convert('RGBA').convert('RGB'))[..., ::-1]
    expect(found.shape == expected.shape, f'{found.shape}, Pillow {expected.shape}')
    if 'cmyk' not in path:  # two ways of turning it into R, G, B
        difference = np.abs(found.astype(int) - expected).mean()
        expect(difference < 2, f'differs from Pillow by {difference:.1f}')


def read_checked_image(path: str, damaged: bool) -> None:
    """The image that was written: check sums show every damage."""
    read_image(path, damaged)
    whole = WHOLE.setdefault(path, masks.read_image(path))  # read first when it is whole
    expect(np.array_equal(masks.read_image(path), whole), 'another image than the one written')


def read_mask(path: str, damaged: bool) -> None:
    """The ids: check sums show every damage."""
    found = masks.read_mask(path)
    expect(np.array_equal(found, IDS), 'other ids than those written')
    masks.first_mask(path, (H, W))
    expect(masks.shows_ids(path), 'no ids')


def read_mask_inside(path: str, damaged: bool) -> None:
    """uint8 [H, W] of the size in the header: the check sums are right, the contents are not."""
    found, values = masks.read_mask(path), masks.read_values(path)
    data = Path(path).read_bytes()
    size = struct.unpack('>II', dict(reversed(mutations.chunks(data)))[b'IHDR'][:8])[::-1]
    expect(found.dtype == np.uint8 and found.shape == size, f'{found.shape}, header {size}')
    expect(found.shape == values.array.shape, 'two sizes')


def make_video(folder: str) -> list[str]:
    """An MP4 of 8 frames."""
    path = os.path.join(folder, 'clip.mp4')
    masks.write_video(path, [np.roll(TALL, 3 * t, 1) for t in range(8)])
    return [path]


def read_video(path: str, damaged: bool) -> None:
    """At most some frames more than written, all of one size."""
    frames = [image for _, image in masks.read_frames(path)]
    expect(len({image.shape for image in frames}) == 1, 'frames of several sizes')
    expect(damaged or len(frames) == 8, f'{len(frames)} frames')
    expect(1 <= masks.frame_rate(path) <= 240, 'frame rate')


# --- trees and their lists -----------------------------------------------------------------------


def _frames(folder, count=FRAMES):
    os.makedirs(folder, exist_ok=True)
    for t in range(count):
        cv2.imwrite(os.path.join(folder, f'{t:05d}.jpg'), PHOTO)


def _mask_files(folder, count=FRAMES):
    os.makedirs(folder, exist_ok=True)
    for t in range(count):
        masks.write_mask(os.path.join(folder, f'{t:05d}.png'), IDS)


def _written_json(path, tree):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(path).write_text(json.dumps(tree))
    return [path]


def _root(path, name):
    """The folder above the first part `name` of a path."""
    return path[: path.rindex(f'{os.sep}{name}{os.sep}')]


def _inside(root, paths):
    for path in paths:
        real = os.path.realpath(path)
        expect(real.startswith(os.path.realpath(root) + os.sep), f'{path} is outside of {root}')


def make_coco(folder: str) -> list[str]:
    """Two images, polygons and both forms of run lengths."""
    place = os.path.join(folder, 'train2017')
    os.makedirs(place)
    for name in ('1.jpg', '2.jpg'):
        cv2.imwrite(os.path.join(place, name), PHOTO)
    polygon = [[5.0, 5.0, 30.0, 6.0, 28.0, 20.0, 6.0, 22.0]]
    runs = {'size': [H, W], 'counts': [100, 50, H * W - 150]}
    text = coco.rle.frPyObjects(runs, H, W)
    text = {'size': [H, W], 'counts': text['counts'].decode()}
    images = [dict(id=i, file_name=f'{i}.jpg', height=H, width=W) for i in (1, 2)]
    found = [
        dict(id=i, image_id=1 + i % 2, category_id=1, iscrowd=int(i > 1), area=50.0 * i,
             bbox=[5, 5, 25, 16], segmentation=shape)
        for i, shape in enumerate((polygon, runs, text), 1)
    ]  # fmt: skip
    tree = {'images': images, 'annotations': found, 'categories': [{'id': 1, 'name': 'x'}]}
    return _written_json(os.path.join(folder, 'annotations', 'instances_train2017.json'), tree)


def read_coco(path: str, damaged: bool) -> None:
    """Masks of 0 and 1 of the images' size, one an instance; images inside the tree."""
    root = _root(path, 'annotations')
    coco.index.cache_clear()
    coco.check(root)
    for name in coco.sequences(root):
        _inside(root, coco.frames(root, name))
        found, listed = coco.masks(root, name), coco.annotations(root, name)
        expect(len(found) == len(listed), f'{len(found)} masks of {len(listed)} instances')
        for mask in found:
            expect(mask.shape == (H, W) and mask.max() <= 1, f'mask {mask.shape}')
    if not damaged:
        expect(coco.check(root, every=True)['objects'] == 3, 'counts')


def make_youtube_vos(folder: str) -> list[str]:
    """Two videos of two objects."""
    root = os.path.join(folder, 'train')
    for name in ('a', 'b'):
        _frames(os.path.join(root, 'JPEGImages', name))
        _mask_files(os.path.join(root, 'Annotations', name))
    names = [f'{t:05d}' for t in range(FRAMES)]
    entry = {'objects': {str(n): {'category': 'x', 'frames': names} for n in (1, 2)}}
    meta = os.path.join(root, 'meta.json')
    return _written_json(meta, {'videos': {'a': entry, 'b': entry}})


def read_youtube_vos(path: str, damaged: bool) -> None:
    """Videos, objects, frames and masks that are there, inside the tree."""
    root = os.path.dirname(path)
    youtube_vos._videos.cache_clear()
    youtube_vos.check(root)
    names = youtube_vos.sequences(root)
    _inside(root, [os.path.join(root, 'JPEGImages', name) for name in names])
    for name in names:
        frames = [files.stem(p) for p in youtube_vos.frames(root, name)]
        for number, shown in youtube_vos.objects(root, name).items():
            expect(0 < number < 255 and set(shown) <= set(frames), f'object {number}: {shown}')
    for video in videos.find(root, 'youtube_vos', 'train'):
        expect(videos.numbers(video.given), 'no objects')
        _inside(root, [os.path.join(root, video.folder)])


def make_davis_list(folder: str) -> list[str]:
    """Lists of names, and of paths."""
    for name in ('bear', 'camel'):
        _frames(os.path.join(folder, 'JPEGImages', '480p', name))
        _mask_files(os.path.join(folder, 'Annotations', '480p', name))
    first = os.path.join(folder, 'ImageSets', '2017', 'val.txt')
    second = os.path.join(folder, 'ImageSets', '480p', 'train.txt')
    for path in (first, second):
        os.makedirs(os.path.dirname(path))
    Path(first).write_text('bear\ncamel\n')
    line = '/JPEGImages/480p/{0}/{1:05d}.jpg /Annotations/480p/{0}/{1:05d}.png\n'.format
    Path(second).write_text(''.join(line(n, t) for n in ('bear', 'camel') for t in range(FRAMES)))
    return [first, second]


def read_davis_list(path: str, damaged: bool) -> None:
    """Sequences that are there, inside the tree."""
    root, split, year = _root(path, 'ImageSets'), files.stem(path), '2017'
    for name in davis.sequences(root, split, year):
        expect(name in ('bear', 'camel'), f'sequence {name!r}')
    for video in videos.find(root, 'davis', split, year=year):
        expect(video.name in ('bear', 'camel'), f'video {video.name!r}')


def make_scribbles(folder: str) -> list[str]:
    """Scribbles of every frame, and of one."""
    stroke = {'path': [[0.1, 0.2], [0.5, 0.6]], 'object_id': 1, 'start_time': 0, 'end_time': 1}
    every = {'sequence': 'bear', 'scribbles': [[stroke], [], [stroke, stroke], []]}
    return [
        *_written_json(os.path.join(folder, 'every.json'), every),
        *_written_json(os.path.join(folder, 'one.json'), {'frame': 2, 'scribbles': [stroke]}),
    ]


def read_scribbles(path: str, damaged: bool) -> None:
    """Strokes that rasterize to ids."""
    from MANet import robot

    found = robot.read(path, FRAMES)
    strokes = robot.rasterize(found['scribbles'], (H, W))
    expect(strokes.shape == (FRAMES, H, W) and (strokes >= 0).any(), f'{strokes.shape}')
    expect(strokes.max() <= 255, f'id {strokes.max()}')


def _vot_rows():
    return [[5.0 + t, 6, 25 + t, 6, 25 + t, 20, 5 + t, 20] for t in range(FRAMES)]


def make_vot_truth(folder: str) -> list[str]:
    """groundtruth.txt of polygons and of rectangles, list.txt."""
    for name in ('one', 'two'):
        _frames(os.path.join(folder, name, 'color'))
    paths = [os.path.join(folder, n, 'groundtruth.txt') for n in ('one', 'two')]
    Path(paths[0]).write_text(''.join(','.join(map(str, r)) + '\n' for r in _vot_rows()))
    Path(paths[1]).write_text('5,6,20,14\n' * FRAMES)
    listed = os.path.join(folder, 'list.txt')
    Path(listed).write_text('one\ntwo\n')
    return [*paths, listed]


def make_vot_json(folder: str) -> list[str]:
    """VOT2018.json of one sequence."""
    _frames(os.path.join(folder, 'one', 'color'))
    names = [f'one/color/{t:05d}.jpg' for t in range(FRAMES)]
    entry = dict(img_names=names, gt_rect=_vot_rows(), width=W, height=H, init_rect=[1, 2, 3, 4])
    return _written_json(os.path.join(folder, 'VOT2018.json'), {'one': entry})


def read_vot(path: str, damaged: bool) -> None:
    """Sequences of as many finite regions as frames, frames inside the tree."""
    from SiamMask import vot

    root = os.path.dirname(path)
    if path.endswith('groundtruth.txt'):
        root = os.path.dirname(root)
    for sequence in vot.load(path if path.endswith('.json') else root):
        count = len(sequence['frames'])
        _inside(root, sequence['frames'])
        expect(os.sep not in sequence['name'] and sequence['name'], repr(sequence['name']))
        for key in ('boxes', 'regions'):
            expect(sequence[key].shape == (count, 8), f'{key} {sequence[key].shape}')
            expect(np.isfinite(sequence[key]).all(), f'{key} that are not finite')
        expect(all(0 < sequence[key] < 1e6 for key in ('width', 'height')), 'size')
        found = vot.overlaps(sequence['regions'], sequence['regions'], (W, H))
        found = found[~np.isnan(found)]  # of a region without a pixel, as in the toolkit
        expect(((found >= 0) & (found <= 1)).all(), f'overlaps {found}')


def make_vot_run(folder: str) -> list[str]:
    """A run of a tracker."""
    path = os.path.join(folder, 'baseline', 'one', 'one_001.txt')
    os.makedirs(os.path.dirname(path))
    Path(path).write_text('1\n5.0,6.0,20.0,14.0\n2\n0\n')
    return [path]


def read_vot_run(path: str, damaged: bool) -> None:
    """A score of 0 .. 1."""
    from SiamMask import vot

    rows = _vot_rows()
    sequence = vot._sequence('one', ['x.jpg'] * FRAMES, rows, W, H, path)
    runs = vot.read_runs(os.path.dirname(os.path.dirname(os.path.dirname(path))), sequence)
    found = vot.score([sequence], {'one': runs})
    expect(np.isnan(found['accuracy']) or 0 <= found['accuracy'] <= 1, f'{found["accuracy"]}')
    expect(0 <= found['lost'] <= FRAMES, f'lost {found["lost"]}')


# --- weights -------------------------------------------------------------------------------------


def _path(folder, name):
    return os.path.join(folder, name)


def make_pth_zip(folder: str) -> list[str]:
    """A PyTorch file since 1.6."""
    write_zip(_path(folder, 'w.pth'), {'state_dict': ARRAYS, 'epoch': 3})
    return [_path(folder, 'w.pth')]


def make_pth_legacy(folder: str) -> list[str]:
    """A PyTorch file before 1.6."""
    write_legacy(_path(folder, 'w.pth'), {'state_dict': ARRAYS, 'epoch': 3})
    return [_path(folder, 'w.pth')]


def make_pkl(folder: str) -> list[str]:
    """Pickled arrays of every protocol."""
    texts = {
        f'w{n}': pickle.dumps({'state_dict': ARRAYS, 'best': np.float32(2)}, n) for n in range(5)
    }
    return _written(folder, texts, 'pkl')


def make_pdparams(folder: str) -> list[str]:
    """A file of PaddlePaddle."""
    state = {**ARRAYS, 'StructuredToParameterName@@': {'conv.weight': 'conv_0.w_0'}}
    return _written(folder, {'w': pickle.dumps(state, 2)}, 'pdparams')


def make_mat(folder: str) -> list[str]:
    """Caffe's VGG, compressed and not."""
    cells = [np.empty((1, 2), object) for _ in range(2)]
    for i in range(2):
        cells[0][0, i], cells[1][0, i] = DRAW.randn(3, 3, 2, 4 + i), DRAW.randn(4 + i, 1)
    for name, packed in (('w.mat', False), ('z.mat', True)):
        state = {'weights': cells[0], 'biases': cells[1]}
        savemat(_path(folder, name), state, do_compression=packed)
    return [_path(folder, 'w.mat'), _path(folder, 'z.mat')]


def make_npz(folder: str) -> list[str]:
    """An .npz, stored and compressed."""
    np.savez(_path(folder, 'w.npz'), **ARRAYS)
    np.savez_compressed(_path(folder, 'z.npz'), **ARRAYS)
    return [_path(folder, 'w.npz'), _path(folder, 'z.npz')]


def make_npy(folder: str) -> list[str]:
    """A pickled dict of dicts in an .npy."""
    nested = {'conv1': {'weights': ARRAYS['conv.weight'], 'biases': ARRAYS['conv.bias']}}
    np.save(_path(folder, 'w.npy'), np.array(nested, object), allow_pickle=True)
    return [_path(folder, 'w.npy')]


def make_h5(folder: str) -> list[str]:
    """HDF5, whole and in compressed pieces."""
    with h5py.File(_path(folder, 'w.h5'), 'w') as f:
        f['block1/conv/kernel'] = ARRAYS['conv.weight']
        f['block1/conv/bias'] = ARRAYS['conv.bias']
        f.attrs['layer_names'] = [b'block1']
        f.create_dataset('packed', data=ARRAYS['half'], chunks=True, compression='gzip')
    return [_path(folder, 'w.h5')]


def make_mindspore(folder: str) -> list[str]:
    """A MindSpore checkpoint, shapes in both forms."""
    entries = [
        mindspore_entry(n.encode(), (4, 3, 3, 3), b'Float32', ARRAYS['conv.weight'].tobytes(), p)
        for n, p in (('a', False), ('b', True))
    ]
    return _written(folder, {'w': b''.join(entries)}, 'ckpt')


def read_arrays(path: str, damaged: bool) -> None:
    """Arrays of numbers, not many more than were written."""
    found = weights.read(path)
    expect(found, 'nothing')
    for name, array in found.items():
        expect(isinstance(name, str) and isinstance(array, np.ndarray), f'{name!r}')
        expect(array.dtype.kind in 'biufc', f'{name} is {array.dtype}')
    expect(sum(array.size for array in found.values()) < MOST_NUMBERS, 'far too many numbers')


def read_checked_arrays(path: str, damaged: bool) -> None:
    """Arrays that were written: the format has check sums."""
    found = weights.read(_checkpoint_of(path))
    written = [(a.dtype, a.shape, a.tobytes()) for a in ARRAYS.values()]
    for name, array in found.items():
        expect((array.dtype, array.shape, array.tobytes()) in written, f'{name} differs')


def _checkpoint_of(path):
    return path.split('.data-')[0].split('.index')[0]


def make_checkpoint_file(folder: str) -> list[str]:
    """TensorFlow's file `checkpoint`."""
    for step in (5, 10):
        Path(folder, f'model.ckpt-{step}.index').write_bytes(b'x')
    path = os.path.join(folder, 'checkpoint')
    lines = ['model_checkpoint_path: "model.ckpt-10"']
    lines += [f'all_model_checkpoint_paths: "model.ckpt-{step}"' for step in (5, 10)]
    Path(path).write_text('\n'.join(lines) + '\n')
    return [path]


def read_checkpoint_file(path: str, damaged: bool) -> None:
    """A checkpoint that is in the folder."""
    found = weights.checkpoint_prefix(os.path.dirname(path))
    expect(os.path.basename(found) in ('model.ckpt-5', 'model.ckpt-10'), found)
    expect(os.path.dirname(found) == os.path.dirname(path), found)


def make_checkpoint(folder: str) -> list[str]:
    """A TensorFlow checkpoint, index and data."""
    _save(folder, 'model.ckpt-5', 2)
    return [_path(folder, n) for n in ('model.ckpt-5.index', 'model.ckpt-5.data-00000-of-00001')]


def make_checkpoint_v1(folder: str) -> list[str]:
    """A TensorFlow checkpoint of one file."""
    _save(folder, 'vgg_16.ckpt', 1)
    return [_path(folder, 'vgg_16.ckpt')]


def _save(folder, name, version):
    import tensorflow.compat.v1 as tf

    with tf.Graph().as_default(), tf.Session() as session:
        for key, array in ARRAYS.items():
            if version == 2 or key != 'half':  # a type that the older form has not
                tf.Variable(array, name=key)
        session.run(tf.global_variables_initializer())
        saver = tf.train.Saver(write_version=version)
        state = dict(write_meta_graph=False, write_state=False)
        saver.save(session, os.path.join(folder, name), **state)


# --- settings and lists of the models ------------------------------------------------------------


def make_plain_json(folder: str) -> list[str]:
    """What a folder of results was made from."""
    facts = {'input': 'abc', 'settings': [1, 2.5, None], 'more': {'x': True}}
    return _written_json(os.path.join(folder, 'made_from.json'), facts)


def read_plain_json(path: str, damaged: bool) -> None:
    """files.claim() takes the folder for the same facts alone."""
    facts = {'input': 'abc', 'settings': [1, 2.5, None], 'more': {'x': True}}
    before = Path(path).read_bytes()
    files.claim(os.path.dirname(path), facts)
    expect(Path(path).read_bytes() == before, 'made_from.json was replaced')
    expect(json.loads(before.decode('utf-8', 'replace')) == facts, 'other facts are taken')


def make_config(folder: str) -> list[str]:
    """config.json beside a checkpoint of OSVOS."""
    from OSVOS.config import get_config

    Path(folder, 'model.ckpt-1.index').write_bytes(b'x')
    Path(folder, 'checkpoint').write_text('model_checkpoint_path: "model.ckpt-1"\n')
    settings = {**get_config('smoke'), 'case': 'acc', 'trained_on': ['drawn data']}
    return _written_json(os.path.join(folder, 'config.json'), settings)


def read_config(path: str, damaged: bool) -> None:
    """Settings of the types that config.py has, in their ranges."""
    from OSVOS import cli
    from OSVOS.config import get_config

    args = cli.parser('').parse_args(['--device=cpu'])
    cfg, usual = cli.configure(args, get_config, os.path.dirname(path)), get_config('full')
    for key, value in usual.items():
        kinds = {type(value), int} if isinstance(value, float) else {type(value)}
        expect(type(cfg[key]) in kinds, f'{key} is {cfg[key]!r}')
    cli.say_weights(cfg, 'x')


def make_siammask_config(folder: str) -> list[str]:
    """A config.json of the original SiamMask."""
    from SiamMask import cli

    source = sorted(Path(str(cli.MODEL), 'config').glob('*.json'))
    return _written(folder, {path.stem: path.read_bytes() for path in source}, 'json')


def read_siammask_config(path: str, damaged: bool) -> None:
    """Settings of our types, in their ranges."""
    from SiamMask import cli
    from SiamMask.config import from_json, get_config

    cfg, usual = from_json(get_config('full'), path), get_config('full')
    try:
        cli.check_ranges(cfg)
    except ValueError as error:  # of a setting, which it names
        raise ValueError(f'{path}: {error}') from None
    for key, value in usual.items():
        expect(type(cfg[key]) is type(value), f'{key} is {cfg[key]!r}')
        if isinstance(value, float):
            expect(np.isfinite(cfg[key]), f'{key} is {cfg[key]}')


def make_colornet_config(folder: str) -> list[str]:
    """JSON settings of the original ColorNet."""
    from ColorNet import cli

    source = sorted(Path(str(cli.MODEL), 'config').glob('*.json'))
    return _written(folder, {path.stem: path.read_bytes() for path in source}, 'json')


def read_colornet_config(path: str, damaged: bool) -> None:
    """Settings of our types."""
    from ColorNet.config import check_settings, from_json, get_config

    cfg, usual = from_json(get_config('full'), path), get_config('full')
    check_settings(cfg)
    for key, value in usual.items():
        expect(type(cfg[key]) is type(value), f'{key} is {cfg[key]!r}')


def make_yaml(folder: str) -> list[str]:
    """YAML settings of the original ColorNet."""
    from ColorNet import cli

    source = sorted(Path(str(cli.MODEL), 'config').glob('*.y*ml'))
    if not source:
        text = b'DATASET:\n  ROOT: data  # x\nTEST:\n  KNN: 10\n  TEMP: 0.05\n  KEY: res4\n'
        return _written(folder, {'test': text}, 'yaml')
    return _written(folder, {path.stem: path.read_bytes() for path in source}, 'yaml')


def read_yaml(path: str, damaged: bool) -> None:
    """Plain values, which take_settings() takes or refuses."""
    from ColorNet import infer_vos_dul as program
    from ColorNet.config import get_config

    cfg = get_config('full')
    found = program.read_config(path)
    try:
        program.take_settings(cfg, found)
    except ValueError as error:  # of a setting, which it names; main has the file's name
        raise ValueError(f'{path}: {error}') from None


def make_colornet_list(folder: str) -> list[str]:
    """A list of frames."""
    for name in ('a', 'b'):
        _frames(os.path.join(folder, 'JPEGImages', name))
    text = ''.join(f'JPEGImages/{n}/{t:05d}.jpg 1\n' for n in ('a', 'b') for t in range(FRAMES))
    path = os.path.join(folder, 'list.txt')
    Path(path).write_text(text)
    return [path]


def read_colornet_list(path: str, damaged: bool) -> None:
    """Frames inside the tree, which are there or named."""
    from ColorNet import data

    root = os.path.dirname(path)
    for video in data.read_list(path, root):
        _inside(root, video)
        data.read_frames(video)


def make_infer_list(folder: str) -> list[str]:
    """A list of infer_vos_dul."""
    _frames(os.path.join(folder, 'JPEGImages', 'a'))
    _mask_files(os.path.join(folder, 'Annotations', 'a'))
    line = '{0} /JPEGImages/a/{1:05d}.jpg /Annotations/a/{1:05d}.png\n'.format
    path = os.path.join(folder, 'list.txt')
    Path(path).write_text(''.join(line(int(t == 0), t) for t in range(FRAMES)))
    return [path]


def read_infer_list(path: str, damaged: bool) -> None:
    """Videos with objects, inside the tree."""
    from ColorNet import infer_vos_dul as program

    root = os.path.dirname(path)
    for video, _ in program.read_videos(path, root, 'res4'):
        _inside(root, [*video.frames, os.path.join(root, video.folder)])
        expect(videos.numbers(video.given), 'no object')


def make_rates(folder: str) -> list[str]:
    """A table of online learning rates."""
    return _written_json(os.path.join(folder, 'rates.json'), {'bear': 1e-5, 'camel': 3e-6})


def read_rates(path: str, damaged: bool) -> None:
    """A rate above 0."""
    from OSVOS import online
    from OSVOS.config import get_config

    cfg = get_config('smoke')
    cfg.online_rates = path
    for name in ('bear', 'camel', 'x'):
        rate = online.learning_rate(cfg, f'{name}/00000.jpg')
        expect(isinstance(rate, float) and 0 < rate < 1e3, f'{rate!r}')


def make_instances(folder: str) -> list[str]:
    """MANet's list of objects beside a DAVIS tree."""
    make_davis_list(folder)
    path = os.path.join(folder, 'ImageSets', '2017', 'v_a_l_instances.txt')
    return _written_json(path, {'bear': [1, 2], 'camel': [1]})


def read_instances(path: str, damaged: bool) -> None:
    """Numbers of objects."""
    from MANet import data

    for name, count in data.instances(_root(path, 'ImageSets'), 'val', '2017').items():
        expect(isinstance(count, int) and 0 < count < 255, f'{name}: {count!r}')


def make_crops(folder: str) -> list[str]:
    """SiamMask's list of crops."""
    boxes = {f'{t:06d}': [5, 6, 25 + t, 20] for t in range(FRAMES)}
    tree = {'train/a': {'00': boxes, '01': boxes}, 'train/b': {'00': boxes}}
    return _written_json(os.path.join(folder, 'train.json'), tree)


def read_crops(path: str, damaged: bool) -> None:
    """Tracks of finite sizes."""
    from SiamMask import data

    data._videos.cache_clear()
    for name, tracks in data._videos(path, 0):
        expect('..' not in name.split('/') and not name.startswith('/'), repr(name))
        for track, frames, sizes in tracks:
            expect('/' not in track and frames == sorted(frames), repr(track))
            expect(np.isfinite(np.asarray(sizes, np.float64)).all(), 'sizes')


def make_xml(folder: str) -> list[str]:
    """An annotation of ImageNet VID."""
    box = '<bndbox>\n<xmax>30</xmax>\n<xmin>5</xmin>\n<ymax>20</ymax>\n<ymin>6</ymin>\n</bndbox>'
    item = f'<object>\n<trackid>0</trackid>\n<name>n</name>\n{box}\n</object>\n'
    path = os.path.join(folder, '000000.xml')
    Path(path).write_text(f'<annotation>\n<folder>a</folder>\n{item}{item}</annotation>\n')
    return [path]


def read_xml(path: str, damaged: bool) -> None:
    """Tracks and boxes of whole numbers."""
    from SiamMask import prepare

    for track, box in prepare._objects(path, 'trackid'):
        expect(isinstance(track, int) and abs(track) < 2**31, f'{track!r}')
        expect(len(box) == 4 and all(abs(v) < 2**31 for v in box), f'{box}')


def make_state(folder: str) -> list[str]:
    """What MANet.demo --save_state writes."""
    arrays = {
        'masks': np.stack([IDS] * FRAMES), 'rounds': 1, 'count': 3,
        'facts': np.frombuffer(json.dumps({'a': 1}).encode(), np.uint8),
        'n/0': np.zeros((9, 12, 3), np.float32), 'l/1': np.zeros((9, 12, 3), np.float32),
        'w/1': np.array([1, 0.5]), 'a/1/0': np.zeros((9, 12, 3), np.float32),
    }  # fmt: skip
    path = os.path.join(folder, 'state.npz')
    np.savez_compressed(path, **arrays)
    return [path]


def read_state(path: str, damaged: bool) -> None:
    """A state that a session takes up."""
    from MANet import session

    kept = session.read(path, (FRAMES, H, W), (9, 12), {'a': 1})
    state = kept.state
    expect(state.masks.dtype == np.uint8 and state.masks.max() <= kept.objects, 'masks')
    expect(set(state.global_memory) | set(state.answers) <= set(range(FRAMES)), 'frames')
