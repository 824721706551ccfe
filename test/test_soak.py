"""What strangers may give: the short form of test/soak/, and the files and names by which faults
were found or feared. No code is run, no memory filled, nothing hangs, nothing lands elsewhere."""

from __future__ import annotations

import builtins
import io
import json
import os
import pickle
import posix
import re
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from common import coco, davis, files, masks, videos, weights, youtube_vos

ROOT = Path(__file__).resolve().parent.parent
TORCH = ('load', 'save', 'storage._load_from_bytes', '_utils._rebuild_device_tensor_from_numpy')


def soak(program, *flags):
    """Runs a program of test/soak; its JSON lines."""
    command = [sys.executable, str(ROOT / 'test' / 'soak' / f'{program}.py'), *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    rows = done.stdout.decode()
    assert done.returncode == 0, rows[-3000:]
    return [json.loads(row) for row in rows.splitlines()]


def test_damaged_inputs_of_every_format():
    """Twenty cases a format; thousands: python test/soak/inputs.py --cases=10000."""
    rows = soak('inputs', '--cases=800', '--seed=5')
    assert rows[-1]['lost'] == 0 and len(rows) > 35
    assert all(row['refused'] and row['cases'] >= 20 for row in rows[:-1])


FOUND = (  # cases by which faults were found that show in no other test here
    'h5:32:1',  # the library of HDF5 crashed
    'mat:3190:3',  # scipy crashed
    'mat:180:3',  # scipy asked for gigabytes
    'mat:1795:3',  # no array, and no error
    'pth_legacy:9:0',  # Python asked for gigabytes
    'pdparams:0:0',
    'mask_png:13:0',  # other ids, and no error
    'npy:19:0',  # numpy raised an error of tokenize
    'vot_run:13:0',  # infinity as a code
    'vot_json:47:0',  # boxes that are not finite
    'scribbles:3:0',
    'checkpoint_file:32:1',  # a byte 0 in a name
    'plain_json:74:0',
)


def test_cases_by_which_faults_were_found():
    assert soak('inputs', '--again=' + ','.join(FOUND))[-1]['lost'] == 0


def test_what_a_kill_may_not_leave(tmp_path, monkeypatch):
    """The eye of test/soak/crash.py: whole files pass, every kind of half one is seen, hidden ones
    do not count. Kills of real programs: python test/soak/crash.py --kills=200."""
    monkeypatch.syspath_prepend(str(ROOT / 'test' / 'soak'))
    import crash

    image = np.random.RandomState(0).randint(0, 255, (40, 60, 3)).astype(np.uint8)
    masks.write_image(str(tmp_path / 'a.jpg'), image)
    masks.write_mask(str(tmp_path / 'm.png'), image[..., 0])
    masks.write_video(str(tmp_path / 'v.mp4'), [image] * 5)
    files.write_text(str(tmp_path / 'r.json'), '{"a": [1, 2]}')
    files.write_text(str(tmp_path / 's.csv'), 'aa,b\n1,2\n3,4\n')
    np.savez(str(tmp_path / 'n.npz'), x=image)
    assert crash.half_written(str(tmp_path)) == []
    before = crash.results(str(tmp_path))
    assert len(before) == 5  # all but the video, whose bytes have a time
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        assert len(crash.half_written(str(tmp_path))) == 1, path
        (tmp_path / f'.{path.name}.tmp').write_bytes(whole[:9])
        path.write_bytes(whole)
    assert crash.half_written(str(tmp_path)) == [] and crash.results(str(tmp_path)) == before


def test_memory_of_long_videos_and_lists(tmp_path, monkeypatch):
    """Two measurements of test/soak/load.py, in processes of their own."""
    monkeypatch.syspath_prepend(str(ROOT / 'test' / 'soak'))
    import load

    short, long = (load.measure(str(tmp_path), 'clip', n) for n in (20, 200))
    assert long['peak'] - short['peak'] < load.GROWTH
    few, many = (load.measure(str(tmp_path), 'lists', n, 'youtube_vos') for n in (100, 20_000))
    assert many['peak'] - few['peak'] < load.BYTES * 20_000


def test_manet_refuses_a_video_that_does_not_fit(monkeypatch):
    from common import processes
    from MANet import inference, model
    from MANet.config import get_config

    cfg = get_config('full')
    inference.check_memory(60, (480, 854), 3, cfg)
    cells = inference.cells_of(inference.network_size(480, 854, cfg))
    each = 4 * cells[0] * cells[1] * 2 * 3 + 480 * 854  # two float32 maps of three classes, a mask
    embedding = 4 * cells[0] * cells[1] * model.embedding_channels(cfg)
    for free, expected in (
        (2**30, 0.8 * 2**30 / (each + embedding)),
        (2**33, (0.8 * 2**33 - inference.RESIDENT) / each),  # the rest of the embeddings on disk
    ):
        monkeypatch.setattr(processes, 'free_memory', lambda free=free: free)
        with pytest.raises(ValueError, match='9000 frames of 854x480 need .* GB') as raised:
            inference.check_memory(9000, (480, 854), 3, cfg)
        fit = int(re.search(r'(\d+) frames fit', str(raised.value)).group(1))
        assert fit == int(expected)
        inference.check_memory(fit, (480, 854), 3, cfg)
        with pytest.raises(ValueError, match='frames fit'):
            inference.check_memory(fit + 1, (480, 854), 3, cfg)


# --- pickles -------------------------------------------------------------------------------------


def globals_of(module):
    return [name for name in dir(module) if callable(getattr(module, name))]


def test_no_callable_of_python_numpy_or_torch_is_reached(tmp_path):
    """Every one of these modules, by both instructions that name a global; what is allowed are
    stand-ins of our own."""
    names = [(m.__name__, n) for m in (builtins, os, posix, subprocess, np) for n in globals_of(m)]
    names += [('__builtin__', n) for n in globals_of(builtins)]
    names += [('torch', n) for n in TORCH] + [('torch', 'FloatStorage.__class__')]
    for module in ('numpy.core.multiarray', 'numpy.core.numeric', 'numpy.lib.npyio'):
        names += [(module, n) for n in globals_of(sys.modules[module])]
    real, refused = [], 0
    for module, name in names:
        old = f'c{module}\n{name}\n.'.encode()
        new = b'\x80\x04' + b''.join(b'\x8c' + bytes([len(t)]) + t.encode() for t in (module, name))
        for data in (old, new + b'\x93.'):
            try:
                found = weights._unpickle(io.BytesIO(data))
            except ValueError as error:
                assert f'asks for {module}.{name}, which is no tensor' in str(error)
                refused += 1
            else:
                real.append(found)
    assert refused > 2000
    assert set(map(type, real)) <= {type, type(soak)}
    assert {x.__module__ for x in real} == {'common.weights'}


GLOBAL = b'ctorch._utils\n_rebuild_tensor_v2\n'
INSTRUCTIONS = {
    'INST': b'(itorch._utils\n_rebuild_tensor_v2\n.',
    'OBJ': b'(' + GLOBAL + b'o.',
    'NEWOBJ': b'\x80\x02' + GLOBAL + b')\x81.',
    'NEWOBJ_EX': b'\x80\x04' + GLOBAL + b')}\x92.',
    'EXT1': b'\x80\x02\x82\x01.',
    'EXT2': b'\x80\x02\x83\x01\x00.',
    'EXT4': b'\x80\x02\x84\x01\x00\x00\x00.',
    'sets': b'\x80\x04\x8f.',
    'BUILD of a class': GLOBAL + b'(N}X\x05\x00\x00\x00arrayNstb.',
    'BUILD of a function': b'cnumpy\nndarray\n}X\x08\x00\x00\x00__code__Nsb.',
    'REDUCE of a storage': b'ctorch\nFloatStorage\n(K\x01tR.',
    'attributes': b'\x80\x04\x8c\x0ccollections\x8c\x14OrderedDict.__init__\x93.',
    'a key of tuples': b'\x80\x02})' + b'2\x86' * 60 + b'Ns.',
    'pairs of tuples': b'\x80\x02ccollections\nOrderedDict\n(]()' + b'2\x86' * 60 + b'N\x86etR.',
    'digits': b'L' + b'9' * 1_000_000 + b'L\n.',
    'bytes': b'\x80\x04\x8e' + struct.pack('<Q', 2**40) + b'x.',
    'a bytearray': b'\x80\x04\x96' + struct.pack('<Q', 2**40) + b'x.',
    'a frame': b'\x80\x04\x95' + struct.pack('<Q', 2**40) + b'x.',
}


@pytest.mark.parametrize('name', INSTRUCTIONS)
def test_instructions_of_pickles_that_no_weights_need(name, tmp_path):
    """60 tuples of two, hashed, would take a day; a million digits, a minute."""
    path = tmp_path / 'w.pkl'
    path.write_bytes(INSTRUCTIONS[name])
    before = dict(vars(weights.Tensor))
    with pytest.raises(ValueError, match='w.pkl'):
        weights.read_pickle(str(path))
    assert dict(vars(weights.Tensor)) == before


def test_dicts_in_dicts_are_not_copied_without_end(tmp_path):
    """Sixty dicts, each twice in the next: 2**60 items where they are walked."""
    tree = {'w': np.ones(2)}
    for _ in range(60):
        tree = {'a': tree, 'b': tree}
    (tmp_path / 'w.pkl').write_bytes(pickle.dumps({**tree, 'x': np.ones(3)}, 2))
    assert list(weights.read(str(tmp_path / 'w.pkl'))) == ['x']


def test_one_array_under_many_names(tmp_path):
    """Tied weights are read; a file that copies one array into gigabytes is not."""
    array = np.zeros(500_000, np.float32)
    (tmp_path / 'w.pkl').write_bytes(pickle.dumps({'a': array, 'b': array}, 4))
    assert set(weights.read(str(tmp_path / 'w.pkl'))) == {'a', 'b'}
    state = {f'w{i}': array for i in range(1000)}
    (tmp_path / 'w.pkl').write_bytes(pickle.dumps(state, 4))
    with pytest.raises(ValueError, match='w.pkl: arrays of 2000000000 bytes in a file of'):
        weights.read(str(tmp_path / 'w.pkl'))


# --- zips, HDF5, MATLAB, sparse files ------------------------------------------------------------


def npy(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def test_zips_that_lie(tmp_path):
    """Members that unpack to more than they say, by methods that cannot be stopped, or that share
    their bytes; names that lead elsewhere are read and nothing is written."""
    path = str(tmp_path / 'w.npz')
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_LZMA) as archive:
        archive.writestr('x.npy', npy(np.zeros(9)))
    with pytest.raises(ValueError, match='w.npz: x.npy in it is packed by method 14'):
        weights.read(path)
    with zipfile.ZipFile(path, 'w') as archive:
        for i in range(300):
            archive.writestr(f'{i}.npy', npy(np.zeros(40_000)) if i == 0 else b'')
        first = archive.infolist()[0]
        for info in archive.infolist()[1:]:
            info.header_offset = first.header_offset
            info.CRC, info.file_size = first.CRC, first.file_size
            info.compress_size = first.compress_size
    with pytest.raises(ValueError, match='w.npz'):
        weights.read(path)
    with zipfile.ZipFile(path, 'w') as archive:
        for name in ('../x.npy', '/tmp/absolute.npy', 'a/../../y.npy'):
            archive.writestr(name, npy(np.ones(2)))
    assert len(weights.read(path)) == 3 and os.listdir(str(tmp_path)) == ['w.npz']
    (tmp_path / 'w.npz').write_bytes(b'PK\x05\x06' + bytes(18))  # no member at all
    with pytest.raises(ValueError, match='w.npz'):
        weights.read(path)


def test_headers_of_npy_that_numpy_would_evaluate(tmp_path):
    header = b'(' * 60_000
    data = b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header)) + header
    (tmp_path / 'w.npy').write_bytes(data)
    with pytest.raises(ValueError, match='w.npy: a header of more than 10000 bytes'):
        weights.read(str(tmp_path / 'w.npy'))


def test_sparse_files_of_terabytes(tmp_path):
    head = io.BytesIO()
    kind = {'descr': '<f4', 'fortran_order': False, 'shape': (2**38,)}
    np.lib.format.write_array_header_1_0(head, kind)
    for name, start in (('w.npy', head.getvalue()), ('w.ckpt', b'\n'), ('w.pkl', b'\x80\x02}')):
        with open(str(tmp_path / name), 'wb') as f:
            f.write(start)
            f.truncate(2**40)
        with pytest.raises(ValueError, match=f'{name} has {2**40} bytes, of which the disk holds'):
            weights.read(str(tmp_path / name))


def test_hdf5_of_other_files_and_shapes(tmp_path):
    secret = tmp_path / 'secret'
    secret.write_bytes(b'0123456789abcdef')
    with h5py.File(str(tmp_path / 'w.h5'), 'w') as f:
        f.create_dataset('x', (4,), 'f4', external=[(str(secret), 0, 16)])
    with pytest.raises(ValueError, match='w.h5: x in it takes its numbers from other files'):
        weights.read(str(tmp_path / 'w.h5'))
    with h5py.File(str(tmp_path / 'o.h5'), 'w') as f:
        f['link'], f['x'] = h5py.ExternalLink('w.h5', 'x'), np.ones(2)
    assert list(weights.read(str(tmp_path / 'o.h5'))) == ['x']


def test_mat_that_unpacks_to_far_more(tmp_path):
    packed = zlib.compress(bytes(200_000_000), 9)
    head = b'MATLAB 5.0'.ljust(124, b' ') + b'\x00\x01IM'
    (tmp_path / 'w.mat').write_bytes(head + struct.pack('<II', 15, len(packed)) + packed)
    with pytest.raises(ValueError, match='w.mat: arrays of .* bytes in a file of'):
        weights.read(str(tmp_path / 'w.mat'))


def test_a_text_of_a_number_in_mindspore(tmp_path):
    """bytes(n) of a number would be n zeros."""
    number = b'\x08' + b'\xff\xff\xff\xff\x7f'
    (tmp_path / 'w.ckpt').write_bytes(b'\n' + bytes([len(number)]) + number)
    with pytest.raises(ValueError, match='w.ckpt'):
        weights.read(str(tmp_path / 'w.ckpt'))


def test_weights_that_are_not_finite_make_no_checkpoint(tmp_path):
    from OSVOS import cli

    arrays = {'osvos/a': np.array([1, np.nan], np.float32), 'osvos/b': np.ones(2, np.float32)}
    with pytest.raises(ValueError, match=r"w.pth: 1 arrays are not finite, first \['osvos/a'\]"):
        cli.write_checkpoint(arrays, str(tmp_path / 'model.ckpt'), None, 'w.pth')
    assert not list(tmp_path.iterdir())


# --- images and videos ---------------------------------------------------------------------------


def png_of(width, height):
    data = bytearray(cv2.imencode('.png', np.zeros((4, 4), np.uint8))[1].tobytes())
    data[16:24] = struct.pack('>II', width, height)
    data[29:33] = struct.pack('>I', zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def test_images_of_too_many_pixels(tmp_path):
    """A header says so before a byte is decoded."""
    jpeg = bytearray(cv2.imencode('.jpg', np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    at = jpeg.index(b'\xff\xc0')
    jpeg[at + 5 : at + 9] = struct.pack('>HH', 30000, 30000)
    bmp = bytearray(cv2.imencode('.bmp', np.zeros((4, 4, 3), np.uint8))[1].tobytes())
    bmp[18:26] = struct.pack('<ii', 20000, -20000)
    for name, data in (('a.jpg', jpeg), ('a.bmp', bmp), ('a.png', png_of(20000, 20000))):
        (tmp_path / name).write_bytes(bytes(data))
        with pytest.raises(ValueError, match=f'{name} is no readable image: .* pixels, more than'):
            masks.read_image(str(tmp_path / name))
    with pytest.raises(ValueError, match='a.png is no readable mask: .*pixels'):
        masks.read_mask(str(tmp_path / 'a.png'))


def test_a_turned_bit_in_a_mask_is_seen(tmp_path):
    """Pillow looks at the check sums of some chunks alone."""
    ids = np.random.RandomState(0).randint(0, 4, (40, 40)).astype(np.uint8)
    path = tmp_path / 'm.png'
    masks.write_mask(str(path), ids)
    data = path.read_bytes()
    start = data.index(b'IDAT')
    for at in range(start, len(data) - 20, 7):
        path.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        with pytest.raises(ValueError, match='m.png is no readable mask'):
            masks.read_mask(str(path))


def test_masks_that_would_run_a_program(tmp_path):
    """Pillow hands PostScript to Ghostscript."""
    (tmp_path / 'm.png').write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n')
    with pytest.raises(ValueError, match='m.png is no readable mask'):
        masks.read_mask(str(tmp_path / 'm.png'))


@pytest.mark.parametrize('text', [b'#EXTM3U\nfile.ts\n', b'ffconcat version 1.0\nfile x\n\0', b'x'])
def test_playlists_are_no_videos(text, tmp_path):
    (tmp_path / 'clip.mp4').write_bytes(text)
    for read in (masks.frame_rate, lambda path: list(masks.read_frames(path))):
        with pytest.raises(ValueError, match='clip.mp4 is no readable video: a text,'):
            read(str(tmp_path / 'clip.mp4'))


def test_a_full_disk_while_an_image_or_a_video_is_written(tmp_path):
    """numpy's tofile() and OpenCV's writer say nothing of it: half a file was moved in place."""
    code = (
        'import resource, sys; import numpy as np; from common import masks\n'
        'image = np.random.RandomState(0).randint(0, 255, (200, 300, 3)).astype(np.uint8)\n'
        'resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n'
        'for write, name in ((masks.write_image, "a.png"), (masks.write_image, "a.jpg"),\n'
        '                    (lambda p, x: masks.write_video(p, [x] * 9), "a.mp4"),\n'
        '                    (lambda p, x: masks.write_mask(p, x[..., 0]), "m.png")):\n'
        '    try: write(sys.argv[1] + "/" + name, image)\n'
        '    except OSError: print("error", flush=True)\n'
    )
    command = [sys.executable, '-c', code, str(tmp_path)]
    done = subprocess.run(command, cwd=str(ROOT), stdout=subprocess.PIPE)
    assert done.stdout.decode().split() == ['error'] * 4 and not list(tmp_path.iterdir())


# --- names ---------------------------------------------------------------------------------------

NAMES = ('a b', '$(touch x)', ';x', '-rf', "o'clock", 'say "x"', 'two\nlines', '*', '\udcff', '<b>')


def test_names_that_lead_elsewhere():
    for name in ('', '.', '..', 'a/b', '/etc', 'a\0b', 'x' * 256, None, 3, ['x']):
        with pytest.raises(ValueError, match='list.txt: '):
            files.plain_name(name, 'list.txt')
    for name in NAMES:
        assert files.plain_name(name, 'list.txt') == name
    assert files.path_inside('/JPEGImages//a/./0.jpg', 'list') == 'JPEGImages/a/0.jpg'
    for path in ('../x', 'a/../../x', '/', '', 'a/\0'):
        with pytest.raises(ValueError, match='list: '):
            files.path_inside(path, 'list')


def davis_tree(root, name):
    for kind, ending in (('JPEGImages', 'jpg'), ('Annotations', 'png')):
        folder = os.path.join(root, kind, '480p', name)
        os.makedirs(folder)
        for t in range(3):
            path = os.path.join(folder, f'{t:05d}.{ending}')
            if ending == 'jpg':
                masks.write_image(path, np.zeros((24, 32, 3), np.uint8))
            else:
                masks.write_mask(path, np.eye(24, 32, dtype=np.uint8))


def test_lists_cannot_lead_out_of_a_data_set(tmp_path):
    """A sequence `..` would have its masks written beside the results."""
    root = str(tmp_path)
    davis_tree(root, 'bear')
    os.makedirs(os.path.join(root, 'ImageSets', '2017'))
    listed = Path(root, 'ImageSets', '2017', 'val.txt')
    for text in ('..\n', '../../JPEGImages/480p/bear\n', '/\n'):
        listed.write_text(text)
        with pytest.raises(ValueError, match='val.txt: .* is no name of a folder'):
            davis.sequences(root, 'val', '2017')
    with pytest.raises(ValueError, match='--sequences: '):
        videos.find(root, 'davis', names='../480p/bear')
    os.makedirs(os.path.join(root, 'train', 'JPEGImages', 'a'))
    meta = Path(root, 'train', 'meta.json')
    for tree in (
        {'..': {'objects': {}}},
        {'a': {'objects': {'1': {'frames': ['../x']}}}},
        {'a': {'objects': {'0': {'frames': ['x']}}}},
        {'a': {'objects': {'1': {'frames': [None]}}}},
    ):
        meta.write_text(json.dumps({'videos': tree}))
        youtube_vos._videos.cache_clear()
        with pytest.raises(ValueError, match='is no meta.json of YouTube-VOS: .*'):
            youtube_vos.sequences(root)


@pytest.mark.parametrize('change', [
    ('images', 'file_name', '../../etc/x.jpg'),
    ('images', 'height', 10**9),
    ('images', 'id', '1'),
    ('annotations', 'image_id', 7),
    ('annotations', 'bbox', [1, 2, float('nan'), 3]),
    ('annotations', 'segmentation', [[0, 0, 1e308, 0, 5, 5]]),
    ('annotations', 'segmentation', {'size': [24, 32], 'counts': [0.5, 767.5]}),
])  # fmt: skip
def test_coco_of_values_that_cannot_be(change, tmp_path):
    kind, key, value = change
    image = {'id': 1, 'file_name': '1.jpg', 'height': 24, 'width': 32}
    item = {'id': 1, 'image_id': 1, 'bbox': [1, 2, 3, 4], 'segmentation': [[0, 0, 9, 0, 5, 5]]}
    tree = {'images': [image], 'annotations': [item], 'categories': []}
    tree[kind][0][key] = value
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'annotations' / 'instances_train2017.json').write_text(json.dumps(tree))
    coco.index.cache_clear()
    with pytest.raises(ValueError, match='instances_train2017.json'):
        for name in coco.sequences(str(tmp_path)):
            coco.masks(str(tmp_path), name)


def test_deep_json(tmp_path):
    (tmp_path / 'x.json').write_text('[' * 200_000)
    with pytest.raises(ValueError, match='x.json is no JSON'):
        files.read_json(str(tmp_path / 'x.json'))


@pytest.fixture(scope='module')
def colornet():
    """ColorNet.demo, quickest of the five, with the weights that come along."""
    from ColorNet import demo

    return demo


@pytest.mark.parametrize('name', [n for n in NAMES if n != '\udcff'])
def test_names_that_mean_something_to_a_shell(name, tmp_path, monkeypatch):
    """Frames, folders and results of such names, read and written as they are."""
    monkeypatch.chdir(tmp_path)
    davis_tree(str(tmp_path), name)
    os.makedirs('ImageSets/2017')
    Path('ImageSets/2017/val.txt').write_text(name.split()[0] + '\n')
    if len(name.split()) == 1:
        assert davis.sequences(str(tmp_path), 'val', '2017') == [name]
    (found,) = videos.find(str(tmp_path), 'davis', names=name)
    videos.write_masks(found, (np.zeros((24, 32), np.uint8) for _ in range(3)), 'out')
    assert len(os.listdir(os.path.join('out', 'masks', name))) == 3
    videos.score([found], 'out', {})
    assert name in ' '.join(json.loads(Path('out', 'results.json').read_text())['per_sequence'])
    assert sorted(os.listdir('.')) == ['Annotations', 'ImageSets', 'JPEGImages', 'out']


def test_frames_and_folders_of_odd_names_through_a_program(colornet, tmp_path, monkeypatch):
    """The demo of ColorNet: a folder `-x $(touch y);"`, frames of such names and bytes."""
    monkeypatch.chdir(tmp_path)
    folder, names = Path('-x $(touch y);"'), ('0-$(touch x)', "1o'clock\n", '2\udcff')
    folder.mkdir()
    image = np.random.RandomState(0).randint(0, 255, (48, 64, 3)).astype(np.uint8)
    for name in names:
        masks.write_image(str(folder / f'{name}.jpg'), image)
    mask = np.zeros((48, 64), np.uint8)
    mask[8:30, 8:40] = 1
    masks.write_mask('-m.png', mask)
    flags = [f'--input={folder}', '--mask=-m.png', '--output_path=-out', '--device=cpu']
    assert colornet.main([*flags, '--set=test_height=48']) == 0
    assert sorted(os.listdir(os.path.join('-out', 'masks'))) == sorted(f'{n}.png' for n in names)
    assert sorted(os.listdir('.')) == ['-m.png', '-out', str(folder)]


def test_bytes_that_libraries_do_not_take(tmp_path):
    """OpenCV crashes on names that are no UTF-8."""
    path = str(tmp_path / '\udcff.mp4')
    with pytest.raises(UnicodeEncodeError):
        masks.write_video(path, [np.zeros((24, 32, 3), np.uint8)])
    Path(path).write_bytes(bytes(100))
    with pytest.raises(UnicodeEncodeError):
        list(masks.read_frames(path))
    from OSVOS import cli

    with pytest.raises(UnicodeEncodeError) as error:
        path.encode()
    assert 'a name with bytes that are no UTF-8' in cli._text(error.value)


def test_links_are_replaced_and_not_followed(tmp_path):
    """What lies in an output folder may be a link to anything."""
    from OSVOS import cli

    target = tmp_path / 'precious'
    target.write_text('as it was')
    out = tmp_path / 'out'
    out.mkdir()
    for name in ('a.png', 'results.json', '.lock'):
        (out / name).symlink_to(target)
    masks.write_mask(str(out / 'a.png'), np.zeros((4, 4), np.uint8))
    files.write_text(str(out / 'results.json'), '{}')
    with pytest.raises(OSError, match='.lock'):
        cli.lock(str(out))
    assert target.read_text() == 'as it was' and (out / '.lock').is_symlink()


def test_a_folder_of_results_is_of_one_program_at_a_time(tmp_path):
    """A demo in a folder where another writes is refused; a dead one holds nothing."""
    from OSVOS import cli

    (tmp_path / 'out').mkdir()
    code = (
        'import fcntl, sys, time; f = open(sys.argv[1], "w"); fcntl.flock(f, fcntl.LOCK_EX); '
        'print("held", flush=True); time.sleep(60)'
    )
    command = [sys.executable, '-c', code, str(tmp_path / 'out' / '.lock')]
    other = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b'held\n'
        with pytest.raises(BlockingIOError, match='another run is writing to .*out'):
            cli.lock(str(tmp_path / 'out'))
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    cli.lock(str(tmp_path / 'out'))
    cli._LOCKS.pop(str(tmp_path / 'out')).close()
    shutil.rmtree(str(tmp_path / 'out'))


def test_a_loss_that_is_not_finite_ends_before_the_last_good_checkpoint_is_deleted(tmp_path):
    """A checkpoint every 2 updates, 3 kept: after 3 bad updates one of before is still there. Three
    are waited for in any case: where SiamMask leaves an update out, its loss is infinite once."""
    import tensorflow.compat.v1 as tf

    from OSVOS import progress
    from OSVOS.config import get_config

    for every, kept, patience in ((2, 3, 3), (1, 1, 3), (1000, 5, progress.STALLED)):
        cfg = get_config('smoke')
        cfg.update(checkpoint_steps=every, keep_checkpoints=kept, train_steps=10**6)
        hook = progress.ProgressHook(cfg, str(tmp_path))
        hook.attempts = hook.not_finite = hook.step = hook.time = 0
        hook.seen, hook.start, hook.every = None, None, 10**6
        bad = [{'step': 10 + step, 'loss': float('nan')} for step in range(patience)]
        for values in bad[:-1]:
            hook.after_run(None, tf.train.SessionRunValues(values, None, None))
        with pytest.raises(RuntimeError, match=f'for {patience} steps in a row.*up to step 9 are'):
            hook.after_run(None, tf.train.SessionRunValues(bad[-1], None, None))


@pytest.mark.parametrize('change', [
    {'height': '96'}, {'learning_rate': float('nan')}, {'batch_size': -1}, {'trained_on': 'x'},
    {'lr_values': 3},
])  # fmt: skip
def test_settings_beside_a_checkpoint_of_other_types(change, tmp_path):
    from OSVOS import cli
    from OSVOS.config import get_config

    (tmp_path / 'model.ckpt-1.index').write_bytes(b'')
    (tmp_path / 'config.json').write_text(json.dumps({**get_config('smoke'), **change}))
    args = cli.parser('').parse_args(['--device=cpu'])
    with pytest.raises(ValueError, match=f'config.json.*{next(iter(change))}'):
        cli.configure(args, get_config, str(tmp_path / 'model.ckpt-1'))
