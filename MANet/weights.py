"""Reads published weight files into {name: array} without the framework that wrote them, running no
code.

PyTorch .pth, .pt, .pkl (the pickle stream before 1.6, the zip since), MindSpore .ckpt (protobuf),
.pdparams, .npz, pickled .npy, Caffe's vgg .mat, TensorFlow checkpoints. Pickles are read by an
unpickler that knows tensors and nothing else.
"""

from __future__ import annotations

import collections
import io
import os
import pickle
import zipfile

import numpy as np

LEGACY_MAGIC = (
    0x1950A86A20F9469CFC6C  # first pickle of a torch file before 1.6 (torch/serialization.py)
)
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


def _rebuild_array(subtype, shape, _):
    return np.ndarray(0 if shape == (0,) else shape)


ALLOWED = {
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('torch._utils', '_rebuild_tensor_v2'): _rebuild_tensor,
    ('torch._utils', '_rebuild_tensor'): _rebuild_tensor,
    ('torch._utils', '_rebuild_parameter'): _rebuild_parameter,
    ('numpy.core.multiarray', '_reconstruct'): _rebuild_array,
    ('numpy._core.multiarray', '_reconstruct'): _rebuild_array,
    ('numpy', 'ndarray'): np.ndarray,
    ('numpy', 'dtype'): np.dtype,
    ('_codecs', 'encode'): lambda text, _: text.encode('latin1'),
    **{('torch', name): dtype for name, dtype in STORAGES.items()},
}


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
    try:
        if zipfile.is_zipfile(path):
            state, storages = _zip(path)
        else:
            state, storages = _legacy(path)
    except (
        pickle.UnpicklingError,
        EOFError,
        KeyError,
        IndexError,
        AttributeError,
        TypeError,
    ) as error:
        raise ValueError(f'{path} is no readable PyTorch file: {error}') from None
    for key in ('state_dict', 'model', 'network'):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    found = {
        name: t.array(storages)
        for name, t in getattr(state, 'items', dict)()
        if isinstance(t, Tensor)
    }
    if not found:
        raise ValueError(f'{path} holds no state dict')
    return {name[7:] if name.startswith('module.') else name: a for name, a in found.items()}


def _zip(path):
    with zipfile.ZipFile(path) as archive:
        pickles = [n for n in archive.namelist() if n.endswith('/data.pkl') or n == 'data.pkl']
        root = pickles[0][: -len('data.pkl')]
        state = _unpickler(io.BytesIO(archive.read(pickles[0])))
        wanted = {t.storage for t in _tensors(state)}
        storages = {s: np.frombuffer(archive.read(f'{root}data/{s[0]}'), s[1]) for s in wanted}
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
        _unpickler(f), _unpickler(f)  # protocol, sizes of the writing machine
        state = _unpickler(f)
        types = dict(t.storage for t in _tensors(state))
        storages = {}
        for key in _unpickler(f):
            count = int(np.frombuffer(f.read(8), '<i8')[0])
            dtype = types.get(str(key), np.dtype(np.float32))
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
    try:
        for field, value in _fields(data):
            if field != 1:
                continue
            entry = dict(_fields(value))
            name = entry[1].decode()
            tensor = list(_fields(entry[2]))
            kind = next(v for k, v in tensor if k == 2).decode()
            dtype = np.dtype(MINDSPORE_TYPES[kind])
            shapes[name] = [d for k, v in tensor if k == 1 for d in _dimensions(v)]
            content = next((v for k, v in tensor if k == 3), b'')
            pieces.setdefault(name, []).append(np.frombuffer(content, dtype))
        return {n: np.concatenate(p).reshape(shapes[n]) for n, p in pieces.items()}
    except (
        KeyError,
        IndexError,
        StopIteration,
        UnicodeDecodeError,
        AttributeError,
        TypeError,
    ) as error:
        raise ValueError(f'{path} is no readable MindSpore checkpoint: {error!r}') from None


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
    """{name: array} of a .npy that holds a pickled dict, read by the restricted unpickler."""
    with open(path, 'rb') as f:
        version = np.lib.format.read_magic(f)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        read(f)
        try:
            state = _unpickler(f)
        except (pickle.UnpicklingError, EOFError, TypeError, AttributeError) as error:
            raise ValueError(f'{path} holds no dict of arrays: {error}') from None
    state = state.item() if isinstance(state, np.ndarray) and state.size == 1 else state
    return {key: np.asarray(value) for key, value in state.items()}


def read_pickle(path: str) -> dict:
    """{name: array} of a pickled dict of arrays (PaddlePaddle's .pdparams), by the restricted
    unpickler; a 'state_dict' inside is taken."""
    with open(path, 'rb') as f:
        try:
            state = _unpickler(f)
        except (pickle.UnpicklingError, EOFError, TypeError, AttributeError) as error:
            raise ValueError(f'{path} holds no dict of arrays: {error}') from None
    state = state.get('state_dict', state) if isinstance(state, dict) else {}
    found = {name: x for name, x in state.items() if isinstance(x, np.ndarray)}
    if not found:
        raise ValueError(f'{path} holds no arrays')
    return found


def read_npz(path: str) -> dict:
    """{name: array} of an .npz."""
    with np.load(path, allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


def read_mat(path: str) -> dict:
    """{'weights_0': OIHW array, 'biases_0': array, ...} of Caffe's VGG as OSVOS-PyTorch ships it
    (vgg_caffe.mat)."""
    from scipy.io import loadmat

    content = loadmat(path)
    if not {'weights', 'biases'} <= set(content):
        raise ValueError(f'{path} has {sorted(content)}, expected cell arrays weights and biases')
    pairs = zip(content['weights'][0], content['biases'][0])
    result = {}
    for i, (weights, biases) in enumerate(pairs):
        result[f'weights_{i}'], result[f'biases_{i}'] = weights.transpose(), biases[:, 0]
    return result


def read_checkpoint(prefix: str) -> dict:
    """{name: array} of a TensorFlow checkpoint."""
    import tensorflow.compat.v1 as tf

    reader = tf.train.load_checkpoint(prefix)
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def read(path: str) -> dict:
    """{name: array} of a weights file, by its ending and first bytes.

    Raises:
      FileNotFoundError: no such file or checkpoint. ValueError: of no known kind.
    """
    if os.path.isfile(f'{path}.index') or (os.path.isdir(path)):
        from . import cli

        return read_checkpoint(cli.checkpoint_prefix(path))
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f'no weights at {os.path.abspath(path)}: expected a file, or the prefix of a '
            'TensorFlow checkpoint'
        )
    readers = {
        '.npz': read_npz,
        '.npy': read_npy,
        '.mat': read_mat,
        '.pth': read_pth,
        '.pt': read_pth,
        '.pkl': read_pth,
        '.tar': read_pth,
        '.pdparams': read_pickle,
    }
    ending = os.path.splitext(path)[1].lower()
    if ending in readers:
        return readers[ending](path)
    if ending == '.ckpt':
        with open(path, 'rb') as f:
            return read_mindspore(path) if f.read(1) == b'\n' else read_checkpoint(path)
    raise ValueError(
        f'{os.path.abspath(path)}: known are .pth, .pt, .pkl, .pdparams, .ckpt, .npz, .npy, .mat '
        'and TensorFlow checkpoint prefixes'
    )
