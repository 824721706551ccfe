"""common/weights.py: every kind of file, told by its content and read to the bit; files that run
code or ask for more than they hold."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import struct
import zipfile

import h5py
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from scipy.io import savemat
from weights_files import Global, Storage, TorchPickler, mindspore_entry, write_legacy, write_zip

from common import weights

DRAW = np.random.RandomState(0)
ARRAYS = {
    'conv.weight': DRAW.randn(4, 3, 3, 3).astype(np.float32),
    'conv.bias': DRAW.randn(4).astype(np.float64),
    'half': DRAW.randn(3, 2).astype(np.float16),
    'steps': np.array(7),
    'flags': np.array([True, False]),
    'turned': np.asfortranarray(DRAW.randn(3, 5)),
    'foreign': np.arange(3, dtype='>f4'),
    'nothing': np.zeros((0, 3), np.float32),
}


def same(found, expected=ARRAYS):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].shape == array.shape and found[name].dtype == array.dtype, name
        assert np.array_equal(found[name], array), name


TORCH = {name: array for name, array in ARRAYS.items() if name not in ('foreign', 'nothing')}


@pytest.mark.parametrize('write', [write_zip, write_legacy])
@pytest.mark.parametrize('ending', ['pth', 'model', 'ckpt', 'txt'])
def test_torch_files_are_told_by_content(tmp_path, write, ending):
    """SiamMask's resnet.model among them; a checkpoint around the state, its optimizer's lists of
    float64 tensors, numpy scalars beside it."""
    path = tmp_path / f'w.{ending}'
    optimizer = {'state': [np.ones(3), np.zeros(2)], 'groups': [{'lr': 0.1}]}
    state = {f'module.{name}': array for name, array in TORCH.items()}
    write(path, {'epoch': 3, 'state_dict': state, 'optimizer': optimizer})
    same(weights.read(str(path)), TORCH)


def test_file_of_torch_itself(tmp_path):
    """Where torch is installed: both forms, expanded and turned tensors."""
    torch = pytest.importorskip('torch')
    state = {
        'w': torch.arange(6.0).reshape(2, 3).t(),
        'expanded': torch.ones(1).expand(3),
        'view': torch.arange(12)[4:10:2],
    }
    for zipped in (True, False):
        path = str(tmp_path / 'w.pth')
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
        same(weights.read(path), {name: tensor.numpy() for name, tensor in state.items()})


# --- pickles, numpy, HDF5, MATLAB, MindSpore, TensorFlow -----------------------------------------


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol(tmp_path, protocol):
    path = tmp_path / 'w.pdparams'
    state = dict(ARRAYS, best=np.float32(0.5), name='text')
    state['StructuredToParameterName@@'] = {'x': 'y'}
    path.write_bytes(pickle.dumps(state, protocol))
    same(weights.read(str(path)))
    path.write_bytes(pickle.dumps({'state_dict': {'layer': {'w': np.ones(2)}}}, protocol))
    same(weights.read(str(path)), {'layer/w': np.ones(2)})


def test_names_of_numpy_2(tmp_path):
    """numpy 2 calls its modules numpy._core."""
    for protocol in range(2, min(pickle.HIGHEST_PROTOCOL, 5) + 1):
        data = pickle.dumps({'w': np.arange(6.0).reshape(2, 3), 's': np.float32(2)}, protocol)
        for module in (b'multiarray', b'numeric'):
            old, new = b'numpy.core.' + module, b'numpy._core.' + module
            if protocol >= 4:  # the text's length stands before it, the frame's before all
                old, new = bytes([len(old)]) + old, bytes([len(new)]) + new
                start = data.find(b'\x95') + 1
                if old in data:
                    size = struct.unpack('<Q', data[start : start + 8])[0] + data.count(old)
                    data = data[:start] + struct.pack('<Q', size) + data[start + 8 :]
            data = data.replace(old, new)
        assert b'numpy._core' in data
        (tmp_path / 'w.pkl').write_bytes(data)
        same(weights.read(str(tmp_path / 'w.pkl')), {'w': np.arange(6.0).reshape(2, 3)})


def test_npy_of_nested_dicts_and_npz(tmp_path):
    nested = {'conv1': {'weights': ARRAYS['turned'], 'biases': ARRAYS['foreign']}}
    np.save(str(tmp_path / 'w.npy'), np.array(nested, object), allow_pickle=True)
    expected = {'conv1/weights': ARRAYS['turned'], 'conv1/biases': ARRAYS['foreign']}
    same(weights.read(str(tmp_path / 'w.npy')), expected)
    for save in (np.savez, np.savez_compressed):
        save(str(tmp_path / 'w.npz'), **ARRAYS)
        same(weights.read(str(tmp_path / 'w.npz')))
        same(weights.read(shutil.copy(str(tmp_path / 'w.npz'), str(tmp_path / 'w.bin'))))


def test_hdf5_and_matlab(tmp_path):
    with h5py.File(str(tmp_path / 'w.bin'), 'w') as f:
        f['block1/conv'] = ARRAYS['conv.weight']
    same(weights.read(str(tmp_path / 'w.bin')), {'block1/conv': ARRAYS['conv.weight']})
    cells = [np.empty((1, 2), object) for _ in range(2)]
    for i in range(2):
        cells[0][0, i], cells[1][0, i] = DRAW.randn(3, 3, 2, 4 + i), DRAW.randn(4 + i, 1)
    savemat(str(tmp_path / 'w.mat'), {'weights': cells[0], 'biases': cells[1]})
    found = weights.read(shutil.copy(str(tmp_path / 'w.mat'), str(tmp_path / 'w.pth')))
    assert found['weights_1'].shape == (5, 2, 3, 3)
    assert np.array_equal(found['weights_0'], cells[0][0, 0].transpose())
    assert np.array_equal(found['biases_1'], cells[1][0, 1][:, 0])
    savemat(str(tmp_path / 'w.mat'), {'other': cells[0]})
    with pytest.raises(ValueError, match=r'w.mat: it has .*other.*expected cell arrays'):
        weights.read(str(tmp_path / 'w.mat'))


def test_mindspore_pieces_and_packed_shapes(tmp_path):
    array = DRAW.randn(300, 2).astype(np.float32)
    data = array.tobytes()
    path = tmp_path / 'w.ckpt'
    path.write_bytes(
        mindspore_entry(b'a', (300, 2), b'Float32', data[:800])
        + mindspore_entry(b'b', (300, 2), b'Float32', data, packed=True)
        + mindspore_entry(b'a', (300, 2), b'Float32', data[800:])
    )
    same(weights.read(str(path)), {'a': array, 'b': array})
    path.write_bytes(mindspore_entry(b'a', (3, 2), b'Float32', data))
    with pytest.raises(ValueError, match=r'w.ckpt: a of shape \[3, 2\] has 600 numbers'):
        weights.read(str(path))
    path.write_bytes(mindspore_entry(b'a', (300, 2), b'Text', data))
    with pytest.raises(ValueError, match="w.ckpt: a is of type 'Text', no number"):
        weights.read(str(path))
    path.write_bytes(b'\n' + b'\xff' * 2_000_000)  # a number without end
    with pytest.raises(ValueError, match='more than 64 bits'):
        weights.read(str(path))


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """A folder with checkpoints of both of TensorFlow's forms."""
    folder = tmp_path_factory.mktemp('checkpoints')
    with tf.Graph().as_default(), tf.Session() as session:
        for name in ('conv.weight', 'conv.bias'):
            tf.Variable(ARRAYS[name], name=name)
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(folder / 'model.ckpt-5'), write_meta_graph=False)
        old = tf.train.Saver(write_version=tf.train.SaverDef.V1)
        state = dict(write_meta_graph=False, write_state=False)
        old.save(session, str(folder / 'vgg_16.ckpt'), **state)
    return folder


def test_tensorflow_checkpoints(checkpoints, tmp_path):
    """By prefix, by its index, by a folder that was moved; the form of one file by its content."""
    expected = {name: ARRAYS[name] for name in ('conv.weight', 'conv.bias')}
    folder = tmp_path / 'moved'
    shutil.copytree(str(checkpoints), str(folder))
    prefix = str(folder / 'model.ckpt-5')
    for path in (prefix, f'{prefix}.index', str(folder)):
        assert weights.checkpoint_prefix(path) == prefix
        same(weights.read(path), expected)
    shutil.copy(str(checkpoints / 'vgg_16.ckpt'), str(tmp_path / 'vgg.bin'))
    same(weights.read(str(tmp_path / 'vgg.bin')), expected)
    os.remove(f'{prefix}.index')
    for path in (prefix, f'{prefix}.index', str(folder), str(tmp_path)):
        with pytest.raises(FileNotFoundError, match='no checkpoint at .*expected a folder'):
            weights.checkpoint_prefix(path)


def test_damaged_tensorflow_checkpoint(checkpoints, tmp_path):
    for name in os.listdir(str(checkpoints)):
        shutil.copy(str(checkpoints / name), str(tmp_path / name))
    path = tmp_path / 'model.ckpt-5.data-00000-of-00001'
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match='model.ckpt-5 is no readable checkpoint'):
        weights.read(str(tmp_path))


# --- damaged and hostile -------------------------------------------------------------------------


def writers(tmp_path):
    np.savez(str(tmp_path / 'w.npz'), **ARRAYS)
    np.savez_compressed(str(tmp_path / 'c.npz'), **ARRAYS)
    np.save(str(tmp_path / 'w.npy'), np.array({'a': ARRAYS}, object), allow_pickle=True)
    (tmp_path / 'w.pdparams').write_bytes(pickle.dumps(ARRAYS, 4))
    write_zip(tmp_path / 'zip.pth', TORCH)
    write_legacy(tmp_path / 'legacy.pth', TORCH)
    with h5py.File(str(tmp_path / 'w.h5'), 'w') as f:
        f['a/b'] = ARRAYS['conv.weight']
    cells = np.empty((1, 1), object)
    cells[0, 0] = DRAW.randn(8, 1)
    savemat(str(tmp_path / 'w.mat'), {'weights': cells, 'biases': cells})
    data = ARRAYS['conv.weight'].tobytes()
    entry = mindspore_entry(b'a', (4, 3, 3, 3), b'Float32', data)
    (tmp_path / 'w.ckpt').write_bytes(entry)


FILES = [
    'w.npz',
    'c.npz',
    'w.npy',
    'w.pdparams',
    'zip.pth',
    'legacy.pth',
    'w.h5',
    'w.mat',
    'w.ckpt',
]


@pytest.mark.parametrize('name', FILES)
def test_damaged_files_are_one_error_that_names_them(tmp_path, name):
    """Cut off anywhere: always an error. With a bit turned: an error, or numbers as many as before
    (a format without check sums cannot tell)."""
    writers(tmp_path)
    path = tmp_path / name
    data, draw = path.read_bytes(), np.random.RandomState(1)
    assert weights.read(str(path))
    count = 12 if name == 'w.h5' else 40  # each in a process of its own
    for size in [*range(0, 40, 3), *draw.randint(40, len(data), count).tolist(), len(data) - 1]:
        path.write_bytes(data[:size])
        if name == 'w.mat' and size == len(data) - 1:
            continue  # padding of the last cell
        with pytest.raises(ValueError, match=name.replace('.', r'\.')):
            weights.read(str(path))
    for _ in range(3 * count // 2):
        broken = bytearray(data)
        broken[draw.randint(len(data))] ^= 1 << draw.randint(8)
        path.write_bytes(broken)
        try:
            assert sum(array.size for array in weights.read(str(path)).values()) < 1e5
        except (ValueError, FileNotFoundError) as error:
            assert name in str(error)


def attack(function, *arguments):
    class Attack:
        def __reduce__(self):
            return function, arguments

    return Attack()


def files_with(tmp_path, value):
    """Files of every pickled kind that hold `value` beside a tensor."""
    head = b''.join(pickle.dumps(p, 2) for p in (weights.LEGACY_MAGIC, 1001, {}))
    (tmp_path / 'a.pth').write_bytes(head + pickle.dumps({'x': value}, 2))
    with zipfile.ZipFile(str(tmp_path / 'b.pth'), 'w') as archive:
        archive.writestr('a/data.pkl', pickle.dumps({'x': value}, 2))
    np.save(str(tmp_path / 'c.npy'), np.array({'x': value}, object), allow_pickle=True)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / f'd{protocol}.pkl').write_bytes(pickle.dumps({'x': value}, protocol))
    return sorted(tmp_path.glob('*.*'))


CALLS = [os.system, os.remove, eval, exec, getattr, __import__, open, print, np.load, np.fromfile]


@pytest.mark.parametrize('function', CALLS, ids=lambda f: f.__name__)
def test_pickles_run_no_code(tmp_path, function):
    marker = tmp_path / 'ran'
    marker.write_text('still there')
    for path in files_with(tmp_path, attack(function, str(marker))):
        with pytest.raises(
            ValueError, match=f'{path.name}: the file asks for .*which is no tensor'
        ):
            weights.read(str(path))
    assert marker.read_text() == 'still there'


@pytest.mark.parametrize('shape', [(10**12,), (3 * 10**9,), (10**6, 10**6, 10**6)])
def test_arrays_take_only_the_bytes_that_a_file_has(tmp_path, shape):
    """numpy.ndarray(shape) would be memory as it is found, or a MemoryError."""
    for path in files_with(tmp_path, attack(np.ndarray, shape)):
        with pytest.raises(ValueError, match=f'{path.name}: the file asks for an array without'):
            weights.read(str(path))

    class Large(np.ndarray):
        """Pickles as an array of another shape."""

        def __reduce__(self):
            function, arguments, state = np.zeros(2).__reduce__()
            return function, arguments, (state[0], shape, *state[2:])

        def __reduce_ex__(self, protocol):
            return self.__reduce__()

    for path in files_with(tmp_path, np.zeros(2).view(Large)):
        with pytest.raises(ValueError, match=f'{path.name}: array .* does not fit in its 16 bytes'):
            weights.read(str(path))


def reduced(module, name, arguments, state=None):
    """A pickle {'x': module.name(*arguments), then told `state`}."""
    out = io.BytesIO()
    pickler = TorchPickler(out)
    pickler.proto = 2
    out.write(b'\x80\x02}X\x01\x00\x00\x00x')
    pickler.save(Global((module, name)))
    pickler.save(arguments)
    out.write(b'R')
    if state is not None:
        pickler.save(state)
        out.write(b'b')
    out.write(b's.')
    return out.getvalue()


def test_types_cannot_make_numpy_read_foreign_memory(tmp_path):
    """dtype('O') without its flag of objects would take bytes of the file for addresses; sizes,
    fields and flags of a type are not taken."""
    path = tmp_path / 'w.pkl'

    def array_of(kind, state, content):
        dtype = np.dtype(kind)

        class Kind:
            def __reduce__(self):
                return np.dtype, (kind, False, True), state

        class Array:
            def __reduce__(self):
                function, arguments, _ = np.zeros(1).__reduce__()
                return (
                    function,
                    arguments,
                    (1, (len(content) // dtype.itemsize,), Kind(), False, content),
                )

        return pickle.dumps({'x': Array(), 'y': np.zeros(3)}, 2)

    path.write_bytes(array_of('O', (3, '|', None, None, None, -1, -1, 0), b'A' * 16))
    with pytest.raises(ValueError, match='w.pkl: array .* does not fit'):
        weights.read(str(path))
    path.write_bytes(array_of('f8', (3, '<', None, None, None, -1, -1, 63), b'A' * 16))
    assert weights.read(str(path))['x'].dtype == np.float64
    path.write_bytes(array_of('f8', (3, '<', None, ('a',), {'a': 1}, 8, 8, 0), b'A' * 16))
    with pytest.raises(ValueError, match='w.pkl: a numpy type of several fields'):
        weights.read(str(path))
    for kind in ('V8', 'f4,f4', 'M8[s]'):
        path.write_bytes(reduced('numpy', 'dtype', (kind, False, True)))
        with pytest.raises(ValueError, match='w.pkl: .*is no plain type of numbers'):
            weights.read(str(path))


def test_scalars_are_numbers_of_their_own_bytes(tmp_path):
    path = tmp_path / 'w.pkl'
    state = {'w': np.ones(2), 'best': np.float64(0.5), 'more': np.int64(3)}
    path.write_bytes(pickle.dumps(state, 2))
    same(weights.read(str(path)), {'w': np.ones(2)})

    class Kind:
        def __init__(self, text):
            self.text = text

        def __reduce__(self):
            return np.dtype, (self.text, False, True)

    module = np.float64(1).__reduce__()[0].__module__
    for kind, content in (('f8', b'A' * 4), ('f8', b'A' * 16), ('O', b'A' * 8)):
        path.write_bytes(reduced(module, 'scalar', (Kind(kind), content)))
        with pytest.raises(ValueError, match='w.pkl: '):
            weights.read(str(path))


def test_tensors_stay_within_their_storage(tmp_path):
    path = tmp_path / 'w.pth'
    base = np.zeros(4, np.float32)
    for shape, strides in (((5,), (4,)), ((3 * 10**9,), (0,)), ((2,), (16,)), ((10**7,), (0,))):
        tensor = np.lib.stride_tricks.as_strided(base, shape, strides)
        data = torch_pickle_of(tensor, shape)
        with zipfile.ZipFile(str(path), 'w') as archive:
            archive.writestr('a/data.pkl', data)
            archive.writestr('a/data/0', base.tobytes())
        message = r'w.pth: (tensor .* does not fit in its storage of 4|arrays of \d+ bytes in)'
        with pytest.raises(ValueError, match=message):
            weights.read(str(path))


def torch_pickle_of(tensor, shape):
    out = io.BytesIO()
    pickler = TorchPickler(out)
    out.write(b'\x80\x02}X\x01\x00\x00\x00x')
    pickler.save(Global(('torch._utils', '_rebuild_tensor_v2')))
    strides = tuple(s // tensor.itemsize for s in tensor.strides)
    pickler.save((Storage(('FloatStorage', '0', 4)), 0, shape, strides, False, {}))
    out.write(b'Rs.')
    return out.getvalue()


def test_storages_are_of_known_types(tmp_path):
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return ('storage', 'O', '0', 'cpu', 1) if obj is Ellipsis else None

    out = io.BytesIO()
    Pickler(out, 2).dump({'x': ...})
    with zipfile.ZipFile(str(tmp_path / 'w.pth'), 'w') as archive:
        archive.writestr('a/data.pkl', out.getvalue())
    with pytest.raises(ValueError, match='w.pth: the file asks for a storage of no known type'):
        weights.read(str(tmp_path / 'w.pth'))


def test_zips_that_unpack_to_far_more_are_refused(tmp_path):
    zeros = np.zeros(2_000_000, np.float32)
    np.savez_compressed(str(tmp_path / 'w.npz'), x=zeros)
    write_zip(tmp_path / 'w.pth', {'x': zeros}, zipfile.ZIP_DEFLATED)
    with h5py.File(str(tmp_path / 'w.h5'), 'w') as f:
        f.create_dataset('x', (2_000_000,), 'f4', chunks=True)  # never written: no bytes
    for name in ('w.npz', 'w.pth', 'w.h5'):
        with pytest.raises(ValueError, match=name):
            weights.read(str(tmp_path / name))


def test_huge_shapes_in_npz(tmp_path):
    """A header that asks for terabytes, over a few bytes."""
    header = io.BytesIO()
    kind = {'descr': '<f4', 'fortran_order': False, 'shape': (10**12,)}
    np.lib.format.write_array_header_1_0(header, kind)
    with zipfile.ZipFile(str(tmp_path / 'w.npz'), 'w') as archive:
        archive.writestr('x.npy', header.getvalue() + b'\0' * 16)
    with pytest.raises(ValueError, match=r'w.npz: array \[1000000000000\] does not fit'):
        weights.read(str(tmp_path / 'w.npz'))
    np.savez(str(tmp_path / 'o.npz'), x=np.array([{}], object))
    with pytest.raises(ValueError, match='o.npz: x.npy in it holds objects'):
        weights.read(str(tmp_path / 'o.npz'))


def test_pickles_cannot_ask_for_a_large_table(tmp_path):
    """Python's unpickler in C would make a table of 2**31 objects."""
    for put in (b'r' + struct.pack('<I', 2**31), b'p2147483648\n'):
        (tmp_path / 'w.pkl').write_bytes(b'\x80\x02}' + put + b'.')
        with pytest.raises(ValueError, match='w.pkl: there are no arrays in it'):
            weights.read(str(tmp_path / 'w.pkl'))


def test_what_is_no_weights_file(tmp_path):
    (tmp_path / 'notes.txt').write_text('text')
    with pytest.raises(
        ValueError, match='notes.txt is no weights file that is known here: PyTorch'
    ):
        weights.read(str(tmp_path / 'notes.txt'))
    with pytest.raises(FileNotFoundError, match='no weights at .*absent.pth'):
        weights.read(str(tmp_path / 'absent.pth'))
    with zipfile.ZipFile(str(tmp_path / 'w.zip'), 'w') as archive:
        archive.writestr('readme', 'text')
    with pytest.raises(ValueError, match='w.zip: a zip without data.pkl'):
        weights.read(str(tmp_path / 'w.zip'))
    for state in ({}, {'a': 'text'}, [1, 2]):
        (tmp_path / 'w.pkl').write_bytes(pickle.dumps(state, 2))
        with pytest.raises(ValueError, match='w.pkl: there are no arrays in it'):
            weights.read(str(tmp_path / 'w.pkl'))
    endless = {}
    endless['state'] = endless
    (tmp_path / 'w.pkl').write_bytes(pickle.dumps(endless, 2))
    with pytest.raises(ValueError, match='w.pkl'):
        weights.read(str(tmp_path / 'w.pkl'))
