"""Reads published weight files into {name: array} without the framework that wrote them, running no
code.

PyTorch .pth, .pt, .pkl (the pickle stream before 1.6, the zip since), pickled dicts of arrays
(.pdparams, .npy), .npz, HDF5 (.h5, also inside a wheel), Caffe's VGG as .mat, MindSpore .ckpt
(protobuf), TensorFlow checkpoints. The kind is told by the file's first bytes, whatever its ending.
Pickles are read by an unpickler that knows tensors and arrays and nothing else, and the numbers of
an array are taken only as far as the file holds them.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import io
import operator
import os
import pickle
import pickletools
import re
import struct
import zipfile
import zlib

import numpy as np

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of a torch file before 1.6 (serialization.py)
LEGACY_START = pickle.dumps(LEGACY_MAGIC, 2)[2:-1]
PICKLE_STARTS = (b'\x80', b'(d', b'}', b'ccollections\n')  # since protocol 2, or a dict before it
TABLE_END = (0xDB4775248B80FB57).to_bytes(8, 'little')  # of TensorFlow's files before V2 (table.cc)
STORAGES = {
    'FloatStorage': np.float32,
    'DoubleStorage': np.float64,
    'HalfStorage': np.float16,
    'LongStorage': np.int64,
    'IntStorage': np.int32,
    'ShortStorage': np.int16,
    'CharStorage': np.int8,
    'ByteStorage': np.uint8,
    'BoolStorage': np.bool_,
}
MINDSPORE_TYPES = {
    'Float32': np.float32,
    'Float16': np.float16,
    'Float64': np.float64,
    'Int32': np.int32,
    'Int64': np.int64,
    'UInt8': np.uint8,
    'Bool': np.bool_,
}
SMALL = 2**20  # bytes, numbers: too few to fill a memory, whatever a file claims
MOST_RATIO = 200  # of bytes in memory to bytes in a compressed file; weights have less than 2
WRAPPERS = ('state_dict', 'model', 'network')  # keys under which programs keep the state dict
BROKEN = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    OverflowError,
    UnicodeDecodeError,
    MemoryError,
    RecursionError,
    NotImplementedError,
    RuntimeError,
    OSError,
)  # what Python's readers raise on a damaged file


class Tensor:
    """A tensor of a pickle before its numbers are read: storage, offset, shape and strides in
    items."""

    def __init__(self, storage, offset, shape, stride, *_):
        """As torch._utils._rebuild_tensor and _rebuild_tensor_v2 are called."""
        self.storage, self.offset = storage, offset
        self.shape, self.stride = tuple(shape), tuple(stride)

    def array(self, storages: dict) -> np.ndarray:
        """The numbers, copied; ValueError where the shape does not fit in the storage."""
        flat = storages[self.storage]
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride))
        bad = min((self.offset, *self.shape, *self.stride)) < 0
        # as many numbers as the storage has, or a few more of a tensor that was expanded
        large = _size(self.shape) > max(flat.size, SMALL)
        if bad or large or (0 not in self.shape and last >= flat.size):
            raise ValueError(
                f'tensor {list(self.shape)} does not fit in its storage of {flat.size}'
            )
        strides = [s * flat.itemsize for s in self.stride]
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides).copy()


def _size(shape):
    return functools.reduce(operator.mul, shape, 1)  # of Python's numbers, which do not overflow


class PickledType:
    """A numpy type of a pickle: one of plain numbers, told its byte order by the pickle."""

    def __init__(self, text, *_):
        """As numpy.dtype is called: with a text such as 'f4'."""
        self.dtype = np.dtype(text if isinstance(text, str) else object)
        if self.dtype.kind not in 'biufcO':
            raise ValueError(f'{text!r} is no plain type of numbers')

    def __setstate__(self, state):
        """As numpy.dtype.__setstate__: (version, byte order, subtype, names, ...); of these the
        byte order is taken, because flags and sizes would let numpy read foreign memory."""
        if any(part is not None for part in state[2:5]):
            raise ValueError('a numpy type of several fields')
        if state[1] in ('<', '>'):
            self.dtype = self.dtype.newbyteorder(state[1])


class PickledArray:
    """A numpy array of a pickle: made empty, then told its shape, type and bytes by the pickle, so
    that a file cannot ask for more memory than it has bytes."""

    def __init__(self, *_):
        """As numpy.core.multiarray._reconstruct is called; its shape is a placeholder."""
        self.array = None

    def __setstate__(self, state):
        """As numpy.ndarray.__setstate__: (version, shape, dtype, Fortran order, data)."""
        _, shape, kind, fortran, data = state
        self.array = _array(data, kind.dtype, shape, 'F' if fortran else 'C')


def _from_buffer(data, kind, shape, order, *_):
    """numpy.core.numeric._frombuffer, which protocol 5 calls."""
    result = PickledArray()
    result.array = _array(data, kind.dtype, shape, order)
    return result


def _array(data, dtype, shape, order):
    """An array of the numbers that are in `data`, copied; ValueError where they are not as many as
    the shape says."""
    if dtype.hasobject:
        flat = np.empty(len(data), object)
        flat[:] = [plain(item) for item in data]
    else:
        data = data.encode('latin1') if isinstance(data, str) else data
        if len(data) % dtype.itemsize:
            raise ValueError(f'{len(data)} bytes are no numbers of {dtype}')
        flat = np.frombuffer(data, dtype) if len(data) else np.empty(0, dtype)
    if any(n < 0 for n in shape) or flat.size != _size(shape):
        raise ValueError(f'array {list(shape)} does not fit in its {len(data)} bytes or items')
    return flat.reshape(shape, order=order).copy()


def _scalar(kind, data=b''):
    """A numpy scalar, such as a best score beside the weights."""
    if kind.dtype.hasobject:
        raise ValueError('a numpy scalar that is no number')
    return _array(data, kind.dtype, (1,), 'C')[0]


def _forbidden(*_):
    raise ValueError('the file asks for an array without its data')


def plain(value):
    """`value` with the stand-ins of arrays replaced by the arrays."""
    if isinstance(value, PickledArray):
        if value.array is None:
            raise ValueError('the file has an array without its data')
        return value.array
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


ALLOWED = {
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('torch._utils', '_rebuild_tensor_v2'): Tensor,
    ('torch._utils', '_rebuild_tensor'): Tensor,
    ('torch._utils', '_rebuild_parameter'): lambda data, *_: data,
    ('numpy', 'ndarray'): _forbidden,
    ('numpy', 'dtype'): PickledType,
    ('_codecs', 'encode'): lambda text, _: text.encode('latin1'),
    ('builtins', 'bytes'): lambda: b'',  # empty ones, of protocols 0 to 2
    ('__builtin__', 'bytes'): lambda: b'',
    **{('torch', name): dtype for name, dtype in STORAGES.items()},
}
for _package in ('numpy.core', 'numpy._core'):  # numpy 1 and 2
    ALLOWED[f'{_package}.multiarray', '_reconstruct'] = PickledArray
    ALLOWED[f'{_package}.multiarray', 'scalar'] = _scalar
    ALLOWED[f'{_package}.numeric', '_frombuffer'] = _from_buffer


class TensorUnpickler(pickle.Unpickler):
    """Unpickles containers, tensors and arrays; any other name in the file is an error, nothing of
    it is run."""

    def __init__(self, file):
        """`file`: binary, at the start of a pickle."""
        super().__init__(file, encoding='latin1')
        self.file = file
        self.types = {}  # {key of a storage: numpy type}

    def find_class(self, module, name):
        """The stand-in of an allowed global; ValueError for any other."""
        if (module, name) not in ALLOWED:
            raise ValueError(
                f'the file asks for {module}.{name}, which is no tensor: not a weights file, '
                'or one made to run code'
            )
        return ALLOWED[module, name]

    def persistent_load(self, pid):
        """Key of a storage, read later; notes its type."""
        if pid[0] != 'storage' or pid[1] not in STORAGES.values():
            raise ValueError('the file asks for a storage of no known type')
        self.types[str(pid[2])] = np.dtype(pid[1])
        return str(pid[2])

    def load(self):
        """The object, after a look at the pickle's instructions: one that numbers an object far
        behind the file's size would have Python make a table as long."""
        start, size = self.file.tell(), self.file.seek(0, os.SEEK_END)
        self.file.seek(start)
        for instruction, argument, _ in pickletools.genops(self.file):
            if instruction.name in ('PUT', 'LONG_BINPUT') and argument > size:
                raise ValueError(f'object {argument} in a pickle of {size} bytes')
        self.file.seek(start)
        return super().load()


def _unpickle(file):
    return TensorUnpickler(file).load()


def read_pth(path: str) -> dict:
    """{name: array} of a PyTorch state dict, zip or legacy; a checkpoint's 'state_dict' or 'model'
    is taken.

    Raises:
      ValueError: cut off, not a state dict, or a pickle that asks for anything but tensors.
    """
    with _damage_is_named(path, 'PyTorch file'):
        state, storages = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
        found = {}
        for name, value in _unwrap(state).items():
            value = value.array(storages) if isinstance(value, Tensor) else plain(value)
            if isinstance(value, np.ndarray):
                found[name[7:] if name.startswith('module.') else name] = value
        if not found:
            raise ValueError('there is no state dict in it')
    return found


@contextlib.contextmanager
def _damage_is_named(path, kind):
    """Turns what readers raise on a damaged file into a ValueError that names the file."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f'{os.path.abspath(path)}: {error}') from None
    except BROKEN as error:
        raise ValueError(f'{os.path.abspath(path)} is no readable {kind}: {error!r}') from None


def _unwrap(state):
    for key in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    return state if isinstance(state, dict) else {}


def _read_member(archive, name):
    """The bytes of a file in a zip; ValueError where they would be many more than are stored, as
    of a file made to fill the memory."""
    info = archive.getinfo(name)
    if info.file_size > max(SMALL, MOST_RATIO * info.compress_size):
        raise ValueError(
            f'{name} in it unpacks from {info.compress_size} to {info.file_size} bytes'
        )
    return archive.read(name)


def _read_zip(path):
    """(pickled object, {key: storage}) of a file since torch 1.6."""
    with zipfile.ZipFile(path) as archive:
        pickles = [n for n in archive.namelist() if n.endswith('/data.pkl') or n == 'data.pkl']
        if not pickles:
            raise ValueError('a zip without data.pkl is no PyTorch file')
        root = pickles[0][: -len('data.pkl')]
        unpickler = TensorUnpickler(io.BytesIO(_read_member(archive, pickles[0])))
        state = unpickler.load()
        storages = {}
        for key in {t.storage for t in _unwrap(state).values() if isinstance(t, Tensor)}:
            data = _read_member(archive, f'{root}data/{key}')
            storages[key] = np.frombuffer(data, unpickler.types[key])
    return state, storages


def _read_legacy(path):
    """(pickled object, {key: storage}) of a file before torch 1.6."""
    with open(path, 'rb') as f:
        if _unpickle(f) != LEGACY_MAGIC:
            raise ValueError('it does not start as a PyTorch file')
        _unpickle(f)  # the protocol's version
        _unpickle(f)  # sizes of the writing machine's types
        unpickler = TensorUnpickler(f)
        state = unpickler.load()
        storages = {}
        for key in _unpickle(f):
            count = struct.unpack('<q', f.read(8))[0]
            dtype = unpickler.types[str(key)]
            if not 0 <= count * dtype.itemsize <= os.path.getsize(path):
                raise ValueError(f'a storage of {count} numbers in a smaller file')
            data = f.read(count * dtype.itemsize)
            storages[str(key)] = np.frombuffer(data, dtype, count)
    return state, storages


def read_mindspore(path: str) -> dict:
    """{name: array} of a MindSpore checkpoint; pieces of a split tensor are joined.

    Raises:
      ValueError: not such a file, or an unknown type of number.
    """
    with open(path, 'rb') as f:
        data = memoryview(f.read())
    pieces, shapes = collections.OrderedDict(), {}
    with _damage_is_named(path, 'MindSpore checkpoint'):
        for field, value in _fields(data):
            if field != 1:
                continue
            entry = dict(_fields(value))
            name = bytes(entry[1]).decode()
            tensor = list(_fields(entry[2]))
            kind = bytes([v for k, v in tensor if k == 2][0]).decode()
            dtype = np.dtype(MINDSPORE_TYPES[kind])
            shapes[name] = [d for k, v in tensor if k == 1 for d in _dimensions(v)]
            content = next((v for k, v in tensor if k == 3), b'')
            pieces.setdefault(name, []).append(np.frombuffer(content, dtype))
        return {n: np.concatenate(p).reshape(shapes[n]) for n, p in pieces.items()}


def _fields(data):
    """(number, int or memoryview) of each field of a protobuf message."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        kind = key & 7
        if kind == 0:
            value, position = _varint(data, position)
        elif kind in (1, 2, 5):
            size = {1: 8, 5: 4}.get(kind)
            if size is None:
                size, position = _varint(data, position)
            value = data[position : position + size]
            if len(value) < size:
                raise IndexError('cut off')
            position += size
        else:
            raise KeyError(f'wire type {kind}')
        yield key >> 3, value


def _varint(data, position):
    result = shift = 0
    while True:
        byte = data[position]
        result |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return result, position
        if shift > 63:
            raise IndexError('a number of more than 64 bits')


def _dimensions(value):
    if isinstance(value, int):
        return [value]
    result, position = [], 0
    while position < len(value):  # packed form
        number, position = _varint(value, position)
        result.append(number)
    return result


def read_npy(path: str) -> dict:
    """{name: array} of a .npy that holds a pickled dict (Caffe's weights as converted by
    caffe-tensorflow), nested dicts as 'layer/weights'.

    Raises:
      ValueError: damaged, or no dict.
    """
    with open(path, 'rb') as f, _damage_is_named(path, 'dict of arrays'):
        _read_npy_header(f)
        state = plain(_unpickle(f))
        if isinstance(state, np.ndarray) and state.size == 1:
            state = state.item()
        return _arrays_of(state)


def read_pickle(path: str) -> dict:
    """{name: array} of a pickled dict of arrays (PaddlePaddle's .pdparams); a 'state_dict' inside
    is taken, nested dicts become 'layer/weights'.

    Raises:
      ValueError: damaged, or no dict of arrays.
    """
    with open(path, 'rb') as f, _damage_is_named(path, 'dict of arrays'):
        return _arrays_of(_unwrap(plain(_unpickle(f))))


def _arrays_of(state):
    found = {}
    for name, value in state.items() if isinstance(state, dict) else ():
        if isinstance(value, dict):
            found.update({f'{name}/{leaf}': x for leaf, x in value.items()})
        else:
            found[name] = value
    found = {str(name): x for name, x in found.items() if isinstance(x, np.ndarray)}
    if not found:
        raise ValueError('there are no arrays in it')
    return found


def _read_npy_header(file):
    """(shape, Fortran order, dtype) of an .npy."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def read_npz(path: str) -> dict:
    """{name: array} of an .npz. Raises ValueError where it is damaged or holds objects."""
    found = {}
    with _damage_is_named(path, '.npz'), zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            file = io.BytesIO(_read_member(archive, name))
            shape, fortran, dtype = _read_npy_header(file)
            if dtype.hasobject:
                raise ValueError(f'{name} in it holds objects, not numbers')
            found[name[: -len('.npy')]] = _array(file.read(), dtype, shape, 'F' if fortran else 'C')
    return found


def read_h5(path: str) -> dict:
    """{'group/dataset': array} of an HDF5 file. Raises ValueError where it is damaged."""
    with open(path, 'rb') as f:
        return _hdf5(f, path)


def read_wheel(path: str) -> dict:
    """{'group/dataset': array} of the one HDF5 file in a zip, such as a Python wheel.

    Raises:
      ValueError: damaged, or several of them.
    """
    with _damage_is_named(path, 'zip'), zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith('.h5')]
        if len(names) != 1:
            raise ValueError(f'it holds several .h5 files: {names}')
        return _hdf5(io.BytesIO(_read_member(archive, names[0])), path)


def _hdf5(file, path):
    import h5py  # TensorFlow brings it

    found, size = {}, os.path.getsize(path)

    def take(name, item):
        if isinstance(item, h5py.Dataset):
            if _size(item.shape) * item.dtype.itemsize > max(SMALL, MOST_RATIO * size):
                raise ValueError(f'{name} of shape {list(item.shape)} in a file of {size} bytes')
            found[name] = item[()]

    with _damage_is_named(path, 'HDF5 file'), h5py.File(file, 'r') as f:
        f.visititems(take)
    return found


def read_mat(path: str) -> dict:
    """{'weights_0': OIHW array, 'biases_0': array, ...} of Caffe's VGG as OSVOS-PyTorch ships it
    (vgg_caffe.mat).

    Raises:
      ValueError: damaged, or without these cell arrays.
    """
    from scipy.io import loadmat

    result = {}
    with _damage_is_named(path, 'MATLAB file'):
        try:
            content = loadmat(path)
        except Exception as error:  # scipy has errors of its own
            raise ValueError(f'no readable MATLAB file: {error!r}') from None
        if not {'weights', 'biases'} <= set(content):
            raise ValueError(f'it has {sorted(content)}, expected cell arrays weights and biases')
        for i, (weights, biases) in enumerate(zip(content['weights'][0], content['biases'][0])):
            result[f'weights_{i}'], result[f'biases_{i}'] = weights.transpose(), biases[:, 0]
    return result


def read_checkpoint(prefix: str) -> dict:
    """{name: array} of a TensorFlow checkpoint.

    Raises:
      ValueError: damaged.
    """
    import tensorflow.compat.v1 as tf

    try:
        reader = tf.train.load_checkpoint(prefix)
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except (tf.errors.OpError, ValueError, *BROKEN) as error:
        raise ValueError(f'{os.path.abspath(prefix)} is no readable checkpoint: {error}') from None


def checkpoint_prefix(path: str) -> str:
    """Prefix of a TensorFlow checkpoint: `path` itself, its .index, or the newest one in the folder
    `path`.

    The folder may have been moved: what its file `checkpoint` names is looked for beside it.

    Raises:
      FileNotFoundError: none there.
    """
    absolute = os.path.abspath(path)
    if os.path.isdir(absolute):
        named = _newest(os.path.join(absolute, 'checkpoint'))
        prefix = os.path.join(absolute, named) if named else ''
    else:
        prefix = re.sub(r'\.index$', '', absolute)
    if prefix and os.path.isfile(f'{prefix}.index'):
        return prefix
    raise FileNotFoundError(
        f'no checkpoint at {absolute}: expected a folder with checkpoint and model.ckpt-*.index, '
        'or a prefix such as run/model.ckpt-1000; published weights are imported by convert'
    )


def _newest(path):
    """Base name of the checkpoint that TensorFlow's file `checkpoint` names first."""
    if not os.path.isfile(path):
        return ''
    with open(path, encoding='utf-8', errors='replace') as f:
        found = re.search(r'^model_checkpoint_path: "(.*)"', f.read(), re.M)
    return os.path.basename(found.group(1)) if found else ''


def read(path: str) -> dict:
    """{name: array} of a weights file, told by its first bytes, or of a TensorFlow checkpoint
    (prefix, or folder).

    Raises:
      FileNotFoundError: no such file or checkpoint. ValueError: damaged, or of no known kind.
    """
    if os.path.isfile(f'{path}.index') or path.endswith('.index') or os.path.isdir(path):
        return read_checkpoint(checkpoint_prefix(path))
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f'no weights at {os.path.abspath(path)}: expected a file, or the prefix of a '
            'TensorFlow checkpoint'
        )
    return _reader(path)(path)


def _reader(path):
    """The function that reads a file of this kind."""
    with open(path, 'rb') as f:
        start = f.read(128)
        f.seek(max(0, os.path.getsize(path) - len(TABLE_END)))
        end = f.read()
    if start.startswith(b'\x93NUMPY'):
        return read_npy
    if start.startswith(b'\x89HDF\r\n\x1a\n'):
        return read_h5
    if start.startswith(b'MATLAB 5.0'):
        return read_mat
    if zipfile.is_zipfile(path):
        with _damage_is_named(path, 'zip'), zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith('.h5') for name in names):
            return read_wheel
        return read_npz if all(name.endswith('.npy') for name in names) else read_pth
    if start.startswith(b'PK'):
        raise ValueError(f'{os.path.abspath(path)} is a zip that is cut off or damaged')
    if LEGACY_START in start:
        return read_pth
    if start.startswith(PICKLE_STARTS):
        return read_pickle
    if start[:1] == b'\n':
        return read_mindspore
    if end == TABLE_END:
        return read_checkpoint
    raise ValueError(
        f'{os.path.abspath(path)} is no weights file that is known here: PyTorch (.pth, .pt, .pkl, '
        '.model), pickled arrays (.pdparams, .npy), .npz, HDF5, .mat of Caffe, MindSpore .ckpt, '
        'TensorFlow checkpoints (prefix)'
    )
