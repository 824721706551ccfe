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
import re
import struct
import zipfile
import zlib

import numpy as np

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of a torch file before 1.6 (serialization.py)
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
}
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
)  # what Python's readers raise on a damaged file


class Tensor:
    """A tensor of a pickle before its numbers are read: storage, offset, shape and strides in
    items."""

    def __init__(self, storage, offset, shape, stride):
        """As torch._utils._rebuild_tensor_v2 is called."""
        self.storage, self.offset, self.shape, self.stride = storage, offset, shape, stride

    def array(self, storages: dict) -> np.ndarray:
        """The numbers, copied; ValueError where the shape does not fit in the storage."""
        flat = storages[self.storage]
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride))
        bad = any(n < 0 for n in self.shape) or any(s < 0 for s in self.stride) or self.offset < 0
        if bad or (0 not in self.shape and last >= flat.size):
            raise ValueError(
                f'tensor {list(self.shape)} does not fit in its storage of {flat.size}'
            )
        strides = [s * flat.itemsize for s in self.stride]
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides).copy()


def _rebuild_tensor(storage, offset, shape, stride, *_):
    return Tensor(storage, offset, tuple(shape), tuple(stride))


def _rebuild_parameter(data, *_):
    return data


class PickledArray:
    """A numpy array of a pickle: made empty, then told its shape, type and bytes by the pickle, so
    that a file cannot ask for more memory than it has bytes."""

    def __init__(self, *_):
        """As numpy.core.multiarray._reconstruct is called; its shape is a placeholder."""
        self.array = None

    def __setstate__(self, state):
        """As numpy.ndarray.__setstate__: (version, shape, dtype, Fortran order, data)."""
        _, shape, dtype, fortran, data = state
        if dtype.hasobject:
            items = [plain(item) for item in data]
            self.array = np.empty(len(items), object)
            self.array[:] = items
            self.array = self.array.reshape(shape)
            return
        data = data.encode('latin1') if isinstance(data, str) else data
        array = np.frombuffer(data, dtype)
        if any(n < 0 for n in shape) or array.size != functools.reduce(operator.mul, shape, 1):
            raise ValueError(f'array {list(shape)} does not fit in its {len(data)} bytes')
        self.array = array.reshape(shape, order='F' if fortran else 'C').copy()


def _scalar(dtype, data=b''):
    """A numpy scalar, such as a best score beside the weights."""
    data = data.encode('latin1') if isinstance(data, str) else data
    if dtype.hasobject or len(data) != dtype.itemsize:
        raise ValueError(f'a numpy scalar of type {dtype} with {len(data)} bytes')
    return np.frombuffer(data, dtype)[0]


def _dtype(text, *_):
    """numpy.dtype of a plain type's text, such as 'f4'."""
    if not isinstance(text, str) or not np.dtype(text).isbuiltin:
        raise ValueError(f'{text!r} is no plain type of numbers')
    return np.dtype(text, False, True)  # a copy: its byte order may be set next


def _ndarray(*_):
    raise ValueError('an array without its data')


def plain(value):
    """`value` with the stand-ins of arrays replaced by the arrays."""
    if isinstance(value, PickledArray):
        if value.array is None:
            raise ValueError('an array without its data')
        return value.array
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


ALLOWED = {
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('torch._utils', '_rebuild_tensor_v2'): _rebuild_tensor,
    ('torch._utils', '_rebuild_tensor'): _rebuild_tensor,
    ('torch._utils', '_rebuild_parameter'): _rebuild_parameter,
    ('numpy', 'ndarray'): _ndarray,
    ('numpy', 'dtype'): _dtype,
    ('_codecs', 'encode'): lambda text, _: text.encode('latin1'),
    **{('torch', name): dtype for name, dtype in STORAGES.items()},
}
for _module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
    ALLOWED[_module, '_reconstruct'] = PickledArray
    ALLOWED[_module, 'scalar'] = _scalar


class TensorUnpickler(pickle.Unpickler):
    """Unpickles containers and tensors; any other name in the file is an error, nothing of it is
    run."""

    def find_class(self, module, name):
        """The stand-in of an allowed global; ValueError for any other."""
        if (module, name) not in ALLOWED:
            raise ValueError(
                f'the file asks for {module}.{name}, which is no tensor: not a weights file, '
                'or one made to run code'
            )
        return ALLOWED[module, name]

    def persistent_load(self, pid):
        """Key and type of a storage, read later."""
        return (str(pid[2]), np.dtype(pid[1]))


def read_pth(path: str) -> dict:
    """{name: array} of a PyTorch state dict, zip or legacy; a checkpoint's 'state_dict' or 'model'
    is taken.

    Raises:
      ValueError: cut off, not a state dict, or a pickle that asks for anything but tensors.
    """
    with _damage_is_named(path, 'PyTorch file'):
        state, storages = _zip(path) if zipfile.is_zipfile(path) else _legacy(path)
        found = {
            name: value.array(storages)
            for name, value in _unwrapped(state).items()
            if isinstance(value, Tensor)
        }
    if not found:
        raise ValueError(f'{path} holds no state dict')
    return {name[7:] if name.startswith('module.') else name: a for name, a in found.items()}


@contextlib.contextmanager
def _damage_is_named(path, kind):
    try:
        yield
    except BROKEN as error:
        raise ValueError(f'{os.path.abspath(path)} is no readable {kind}: {error!r}') from None


def _unwrapped(state):
    for key in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    return state if isinstance(state, dict) else {}


def _zip(path):
    with zipfile.ZipFile(path) as archive:
        pickles = [n for n in archive.namelist() if n.endswith('/data.pkl') or n == 'data.pkl']
        if not pickles:
            raise ValueError(f'{path} is a zip without data.pkl: no PyTorch file')
        root = pickles[0][: -len('data.pkl')]
        state = _unpickler(io.BytesIO(archive.read(pickles[0])))
        wanted = {tensor.storage for tensor in _tensors(state)}
        storages = {}
        for key, dtype in wanted:
            storages[key, dtype] = np.frombuffer(archive.read(f'{root}data/{key}'), dtype)
    return state, storages


def _unpickler(file):
    return TensorUnpickler(file, encoding='latin1').load()


def _tensors(state):
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from _tensors(value)


def _legacy(path):
    with open(path, 'rb') as f:
        if _unpickler(f) != LEGACY_MAGIC:
            raise ValueError(f'{path} does not start as a PyTorch file')
        _unpickler(f)  # the protocol's version
        _unpickler(f)  # sizes of the writing machine's types
        state = _unpickler(f)
        types = dict(tensor.storage for tensor in _tensors(state))
        storages = {}
        for key in _unpickler(f):
            count = struct.unpack('<q', f.read(8))[0]
            dtype = types.get(str(key), np.dtype(np.float32))
            if not 0 <= count * dtype.itemsize <= os.path.getsize(path):
                raise ValueError(f'{path}: a storage of {count} numbers in a smaller file')
            data = f.read(count * dtype.itemsize)
            storages[str(key), dtype] = np.frombuffer(data, dtype, count)
    return state, storages


def read_mindspore(path: str) -> dict:
    """{name: array} of a MindSpore checkpoint; pieces of a split tensor are joined.

    Raises:
      ValueError: not such a file, or an unknown type of number.
    """
    with open(path, 'rb') as f:
        data = f.read()
    pieces, shapes = collections.OrderedDict(), {}
    with _damage_is_named(path, 'MindSpore checkpoint'):
        for field, value in _fields(data):
            if field != 1:
                continue
            entry = dict(_fields(value))
            name = entry[1].decode()
            tensor = list(_fields(entry[2]))
            kind = [v for k, v in tensor if k == 2][0].decode()
            dtype = np.dtype(MINDSPORE_TYPES[kind])
            shapes[name] = [d for k, v in tensor if k == 1 for d in _dimensions(v)]
            content = next((v for k, v in tensor if k == 3), b'')
            pieces.setdefault(name, []).append(np.frombuffer(content, dtype))
        return {n: np.concatenate(p).reshape(shapes[n]) for n, p in pieces.items()}


def _fields(data):
    """(number, int or bytes) of each field of a protobuf message."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        kind = key & 7
        if kind == 0:
            value, position = _varint(data, position)
        elif kind in (1, 2, 5):
            size, position = (
                _varint(data, position) if kind == 2 else ({1: 8, 5: 4}[kind], position)
            )
            value = bytes(data[position : position + size])
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
        version = np.lib.format.read_magic(f)
        if version == (1, 0):
            np.lib.format.read_array_header_1_0(f)
        else:
            np.lib.format.read_array_header_2_0(f)
        state = plain(_unpickler(f))
    state = state.item() if isinstance(state, np.ndarray) and state.size == 1 else state
    return _arrays_of(state, path)


def read_pickle(path: str) -> dict:
    """{name: array} of a pickled dict of arrays (PaddlePaddle's .pdparams); a 'state_dict' inside
    is taken, nested dicts become 'layer/weights'.

    Raises:
      ValueError: damaged, or no dict of arrays.
    """
    with open(path, 'rb') as f, _damage_is_named(path, 'dict of arrays'):
        state = plain(_unpickler(f))
    return _arrays_of(_unwrapped(state), path)


def _arrays_of(state, path):
    found = {}
    for name, value in state.items() if isinstance(state, dict) else ():
        if isinstance(value, dict):
            found.update({f'{name}/{leaf}': x for leaf, x in value.items()})
        else:
            found[name] = value
    found = {str(name): x for name, x in found.items() if isinstance(x, np.ndarray)}
    if not found:
        raise ValueError(f'{os.path.abspath(path)} holds no arrays')
    return found


def read_npz(path: str) -> dict:
    """{name: array} of an .npz. Raises ValueError where it is damaged."""
    with _damage_is_named(path, '.npz'), np.load(path, allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


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
            raise ValueError(f'{os.path.abspath(path)} holds several .h5 files: {names}')
        return _hdf5(io.BytesIO(archive.read(names[0])), path)


def _hdf5(file, path):
    import h5py  # TensorFlow brings it

    found = {}

    def take(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with _damage_is_named(path, 'HDF5 file'):
        try:
            with h5py.File(file, 'r') as f:
                f.visititems(take)
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f'{os.path.abspath(path)} is no readable HDF5 file: {error}') from None
    return found


def read_mat(path: str) -> dict:
    """{'weights_0': OIHW array, 'biases_0': array, ...} of Caffe's VGG as OSVOS-PyTorch ships it
    (vgg_caffe.mat).

    Raises:
      ValueError: damaged, or without these cell arrays.
    """
    from scipy.io import loadmat

    with _damage_is_named(path, 'MATLAB file'):
        content = loadmat(path)
    if not {'weights', 'biases'} <= set(content):
        raise ValueError(f'{path} has {sorted(content)}, expected cell arrays weights and biases')
    result = {}
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
    except (tf.errors.OpError, ValueError) as error:
        raise ValueError(f'{os.path.abspath(prefix)} is no readable checkpoint: {error}') from None


def checkpoint_prefix(path: str) -> str:
    """Prefix of a TensorFlow checkpoint: `path` itself, or the newest one in the folder `path`.

    The folder may have been moved: what its file `checkpoint` names is looked for beside it.

    Raises:
      FileNotFoundError: none there.
    """
    absolute = os.path.abspath(path)
    if os.path.isdir(absolute):
        named = _newest(os.path.join(absolute, 'checkpoint'))
        prefix = os.path.join(absolute, named) if named else ''
    else:
        prefix = absolute
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
    if os.path.isfile(f'{path}.index') or os.path.isdir(path):
        return read_checkpoint(checkpoint_prefix(path))
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f'no weights at {os.path.abspath(path)}: expected a file, or the prefix of a '
            'TensorFlow checkpoint'
        )
    with open(path, 'rb') as f:
        start = f.read(128)
    return _reader(path, start)(path)


def _reader(path, start):
    if start.startswith(b'\x93NUMPY'):
        return read_npy
    if start.startswith(b'\x89HDF\r\n\x1a\n'):
        return read_h5
    if start.startswith(b'MATLAB 5.0'):
        return read_mat
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith('.h5') for name in names):
            return read_wheel
        return read_npz if all(name.endswith('.npy') for name in names) else read_pth
    if start[:1] == b'\x80' and start[1:2] <= b'\x05':  # a pickle, of tensors or of arrays
        with open(path, 'rb') as f, _damage_is_named(path, 'pickle'):
            return read_pth if _unpickler(f) == LEGACY_MAGIC else read_pickle
    if start[:1] == b'\n':
        return read_mindspore
    if path.endswith('.ckpt'):  # TensorFlow's form before 2016, one file
        return read_checkpoint
    raise ValueError(
        f'{os.path.abspath(path)} is no weights file that is known here: PyTorch (.pth, .pt, .pkl, '
        '.model), pickled arrays (.pdparams, .npy), .npz, HDF5, .mat of Caffe, MindSpore .ckpt, '
        'TensorFlow checkpoints (prefix)'
    )
