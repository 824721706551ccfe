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
import glob
import io
import multiprocessing
import operator
import os
import pickle
import re
import struct
import tokenize
import zipfile
import zlib

from .lazy import np

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of a torch file before 1.6 (serialization.py)
LEGACY_START = pickle.dumps(LEGACY_MAGIC, 2)[2:-1]
PICKLE_STARTS = (b'\x80', b'(d', b'}', b'ccollections\n')  # since protocol 2, or a dict before it
TABLE_END = (0xDB4775248B80FB57).to_bytes(8, 'little')  # of TensorFlow's files before V2 (table.cc)
STORAGES = {  # numpy's names of the dtypes of PyTorch's storages
    'FloatStorage': 'float32',
    'DoubleStorage': 'float64',
    'HalfStorage': 'float16',
    'LongStorage': 'int64',
    'IntStorage': 'int32',
    'ShortStorage': 'int16',
    'CharStorage': 'int8',
    'ByteStorage': 'uint8',
    'BoolStorage': 'bool',
}
MINDSPORE_TYPES = {  # dtypes of MindSpore's checkpoint.proto
    'Float32': 'float32',
    'Float16': 'float16',
    'Float64': 'float64',
    'Int32': 'int32',
    'Int64': 'int64',
    'UInt8': 'uint8',
    'Bool': 'bool',
}
SECONDS = 300  # that a reader in a process of its own may take
MESSAGE = 500  # characters of an error that are shown
SMALL = 2**20  # bytes, numbers: too few to fill a memory, whatever a file claims
MOST_RATIO = 20  # of bytes in memory to bytes in a file; weights have less than 2
MOST_DIMENSIONS = 32  # of an array (numpy)
MOST_DIGITS = 100  # of a number that a pickle writes out: Python takes long for many
HEADER = 10_000  # bytes of an .npy's header, which numpy evaluates (its max_header_size)
NUMBERS = 'biufc'  # kinds of numpy types
MAT_HEADER = 128  # bytes (MAT-File Format, version 5)
MAT_MATRIX, MAT_COMPRESSED = 14, 15  # types of its elements
PLAIN = (str, bytes, float, bool, type(None))
BYTEARRAY8 = 0x96  # an instruction of pickles since Python 3.8
FORBIDDEN = (  # instructions of pickles that make objects of classes, or sets
    pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4,
    pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET,
)  # fmt: skip
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
    AssertionError,
    SyntaxError,
    tokenize.TokenError,
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
        size = _size(self.shape)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride))
        bad = min((self.offset, *self.shape, *self.stride)) < 0
        # as many numbers as the storage has, or a few more of a tensor that was expanded
        large = size > max(flat.size, SMALL)
        if bad or large or (0 not in self.shape and last >= flat.size):
            raise ValueError(
                f'tensor {list(self.shape)} does not fit in its storage of {flat.size}'
            )
        strides = [s * flat.itemsize for s in self.stride]
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides).copy()


def _size(shape):
    """Number of items, of Python's numbers, which do not overflow; ValueError where `shape` is
    none."""
    if len(shape) > MOST_DIMENSIONS or not all(0 <= operator.index(n) < 2**63 for n in shape):
        raise ValueError('an array of an impossible shape')
    if functools.reduce(operator.mul, filter(None, shape), 1) >= 2**60:
        raise ValueError('an array of an impossible shape')  # numpy counts so, whatever is 0
    return functools.reduce(operator.mul, shape, 1)


def _check_unpacked(path, total):
    """ValueError where arrays of `total` bytes are many more than the file can hold, or the files
    that begin with `path`: made to fill the memory."""
    size = sum(map(os.path.getsize, glob.glob(f'{glob.escape(path)}*')))
    if total > max(64 * SMALL, MOST_RATIO * size):
        raise ValueError(f'arrays of {total} bytes in a file of {size} bytes')


def _check_key(key):
    """The key of a dict; ValueError of one whose hash may take for ever, as of tuples of tuples."""
    parts = key if isinstance(key, tuple) and len(key) <= MOST_DIMENSIONS else (key,)
    for part in parts:
        whole = isinstance(part, int) and abs(part) < 2**53
        if not (whole or isinstance(part, PLAIN)):
            raise ValueError(f'a dict with a key of type {type(part).__name__}')
    return key


def _ordered_dict(pairs=()):
    """collections.OrderedDict, of pairs in old pickles."""
    return collections.OrderedDict((_check_key(key), value) for key, value in pairs)


class PickledType:
    """A numpy type of a pickle: one of plain numbers, told its byte order by the pickle."""

    def __init__(self, text, *_):
        """As numpy.dtype is called: with a text such as 'f4'."""
        self.dtype = np.dtype(text if isinstance(text, str) else object)
        if self.dtype.kind not in NUMBERS + 'O':
            raise ValueError(f'{text[:40]!r} is no plain type of numbers')

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
    if flat.size != _size(shape):
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
    """The array of a stand-in; any other value as it is."""
    if isinstance(value, PickledArray):
        if value.array is None:
            raise ValueError('the file has an array without its data')
        return value.array
    return value


ALLOWED = {
    ('collections', 'OrderedDict'): _ordered_dict,
    ('torch._utils', '_rebuild_tensor_v2'): Tensor,
    ('torch._utils', '_rebuild_tensor'): Tensor,
    ('torch._utils', '_rebuild_parameter'): lambda data, *_: data,
    ('numpy', 'ndarray'): _forbidden,
    ('numpy', 'dtype'): PickledType,
    ('_codecs', 'encode'): lambda text, _: text.encode('latin1'),
    ('builtins', 'bytes'): lambda: b'',  # empty ones, of protocols 0 to 2
    ('__builtin__', 'bytes'): lambda: b'',
    **{('torch', name): name for name in STORAGES},
}
for _package in ('numpy.core', 'numpy._core'):  # numpy 1 and 2
    ALLOWED[f'{_package}.multiarray', '_reconstruct'] = PickledArray
    ALLOWED[f'{_package}.multiarray', 'scalar'] = _scalar
    ALLOWED[f'{_package}.numeric', '_frombuffer'] = _from_buffer


class WholeReads:
    """A file whose read() fails where it has fewer bytes than are asked for, before Python makes
    room for them."""

    def __init__(self, file):
        """`file`: binary."""
        start, self.size = file.tell(), file.seek(0, os.SEEK_END)
        file.seek(start)
        self.file, self.readline = file, file.readline

    def read(self, count):
        """`count` bytes; EOFError where there are fewer."""
        if count > self.size - self.file.tell():
            raise EOFError(f'{count} bytes are expected where it ends')
        return self.file.read(count)


class TensorUnpickler(pickle._Unpickler):
    """Unpickles containers, tensors and arrays; any other name in the file is an error, nothing of
    it is run.

    It is Python's own unpickler in Python, because that in C cannot be told to check what a pickle
    sets: keys whose hash takes for ever, attributes of classes, tables of any length.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, file):
        """`file`: binary, at the start of a pickle."""
        super().__init__(WholeReads(file), encoding='latin1')
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
        if pid[0] != 'storage' or not isinstance(pid[1], str) or pid[1] not in STORAGES:
            raise ValueError('the file asks for a storage of no known type')
        key = str(_check_key(pid[2]))
        self.types[key] = np.dtype(STORAGES[pid[1]])
        return key

    def load_items(self, items):
        """Puts [key, value, ...] into the dict on the stack."""
        if not isinstance(self.stack[-1], dict):
            raise ValueError('items of what is no dict')
        for key, value in zip(items[::2], items[1::2]):
            self.stack[-1][_check_key(key)] = value

    def load_dict(self):
        """DICT of protocol 0."""
        items = self.pop_mark()
        self.append({})
        self.load_items(items)

    def load_setitem(self):
        """One item of a dict."""
        value = self.stack.pop()
        key = self.stack.pop()
        self.load_items([key, value])

    def load_setitems(self):
        """Items of a dict."""
        self.load_items(self.pop_mark())

    def load_build(self):
        """The state of an array or a type; attributes of a dict (torch's _metadata) are dropped."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], (PickledArray, PickledType)):
            self.stack[-1].__setstate__(state)
        elif not isinstance(self.stack[-1], dict):
            raise ValueError('the file sets attributes of what is no array')

    def load_digits(self):
        """A whole number or a truth value that is written out."""
        text = self.readline().rstrip(b'\nL')
        if len(text) > MOST_DIGITS:
            raise ValueError(f'a number of {len(text)} digits')
        self.append(text == b'01' if text in (b'00', b'01') else int(text, 0))

    def load_bytes_of_array(self):
        """BYTEARRAY8 of protocol 5, as far as it is there; Python makes room for it at once."""
        self.append(self.read(struct.unpack('<Q', self.read(8))[0]))

    def load_forbidden(self):
        """Makes objects of classes, or sets: no file of arrays needs it."""
        raise ValueError('the file makes objects, which are no tensors')

    dispatch.update(
        {
            pickle.DICT[0]: load_dict,
            pickle.SETITEM[0]: load_setitem,
            pickle.SETITEMS[0]: load_setitems,
            pickle.BUILD[0]: load_build,
            pickle.INT[0]: load_digits,
            pickle.LONG[0]: load_digits,
            BYTEARRAY8: load_bytes_of_array,
        }
    )
    for _code in FORBIDDEN:
        dispatch[_code[0]] = load_forbidden


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
        found, tensors = {}, [t for t in _unwrap(state).values() if isinstance(t, Tensor)]
        items = ((_size(t.shape), storages[t.storage].itemsize) for t in tensors)
        _check_unpacked(path, sum(size * bytes_each for size, bytes_each in items))
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
    except UnicodeDecodeError as error:
        raise ValueError(f'{os.path.abspath(path)} is no readable {kind}: {error!r}') from None
    except ValueError as error:
        raise ValueError(f'{os.path.abspath(path)}: {str(error)[:MESSAGE]}') from None
    except BROKEN as error:
        text = repr(error)[:MESSAGE]
        raise ValueError(f'{os.path.abspath(path)} is no readable {kind}: {text}') from None


def _unwrap(state):
    for key in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    return state if isinstance(state, dict) else {}


def _read_members(path, archive, names):
    """Yields the bytes of files in a zip, one after the other.

    Raises:
      ValueError: they would be many more than are stored; another method than numpy and torch use,
      whose reader in Python unpacks more than it is told to.
    """
    infos = [archive.getinfo(name) for name in names]
    for info in infos:
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f'{info.filename} in it is packed by method {info.compress_type}')
        if info.file_size > max(SMALL, MOST_RATIO * info.compress_size):
            raise ValueError(
                f'{info.filename} in it unpacks from {info.compress_size} to {info.file_size} bytes'
            )
    _check_unpacked(path, sum(info.file_size for info in infos))
    for info in infos:
        with archive.open(info) as file:
            data = file.read(info.file_size)  # read() would unpack beyond this size
        if len(data) < info.file_size:
            raise EOFError(f'{info.filename} in it breaks off')
        yield data


def _read_zip(path):
    """(pickled object, {key: storage}) of a file since torch 1.6."""
    with zipfile.ZipFile(path) as archive:
        pickles = [n for n in archive.namelist() if n.endswith('/data.pkl') or n == 'data.pkl']
        if not pickles:
            raise ValueError('a zip without data.pkl is no PyTorch file')
        root = pickles[0][: -len('data.pkl')]
        _check_order(archive, f'{root}byteorder')
        unpickler = TensorUnpickler(io.BytesIO(*_read_members(path, archive, pickles[:1])))
        state = unpickler.load()
        keys = sorted({t.storage for t in _unwrap(state).values() if isinstance(t, Tensor)})
        members = _read_members(path, archive, [f'{root}data/{key}' for key in keys])
        storages = {k: np.frombuffer(data, unpickler.types[k]) for k, data in zip(keys, members)}
    return state, storages


def _check_order(archive, name):
    """ValueError where a file says that its numbers are of a big-endian machine (since torch
    2.1)."""
    if name in archive.namelist():
        with archive.open(name) as file:
            order = file.read(16)
        if order != b'little':
            raise ValueError(f'byte order {order!r}, expected little')


def _read_legacy(path):
    """(pickled object, {key: storage}) of a file before torch 1.6."""
    with open(path, 'rb') as f:
        if _unpickle(f) != LEGACY_MAGIC:
            raise ValueError('it does not start as a PyTorch file')
        _unpickle(f)  # the protocol's version
        machine = _unpickle(f)  # sizes of its types
        if isinstance(machine, dict) and not machine.get('little_endian', True):
            raise ValueError('numbers of a big-endian machine')
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
            name = _decoded(entry[1])
            tensor = list(_fields(entry[2]))
            kind = _decoded([v for k, v in tensor if k == 2][0])
            if kind not in MINDSPORE_TYPES:
                raise ValueError(f'{name} is of type {kind[:40]!r}, no number that is known here')
            dtype = np.dtype(MINDSPORE_TYPES[kind])
            shapes[name] = [d for k, v in tensor if k == 1 for d in _dimensions(v)]
            content = next((v for k, v in tensor if k == 3), b'')
            pieces.setdefault(name, []).append(np.frombuffer(content, dtype))
        if not pieces:
            raise ValueError('there are no arrays in it')
        return {n: _joined(p, shapes[n], n) for n, p in pieces.items()}


def _joined(pieces, shape, name):
    flat = np.concatenate(pieces)
    if flat.size != _size(shape):
        raise ValueError(f'{name} of shape {shape} has {flat.size} numbers')
    return flat.reshape(shape)


def _decoded(value):
    """The text of a field of bytes; bytes() of a number would be as many zeros."""
    if isinstance(value, int):
        raise ValueError('a number where a text is expected')
    return bytes(value).decode()


def _fields(data):
    """(number, int or memoryview) of each field of a protobuf message."""
    if isinstance(data, int):
        raise ValueError('a number where a message is expected')
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
        return _arrays_of(path, state)


def read_pickle(path: str) -> dict:
    """{name: array} of a pickled dict of arrays (PaddlePaddle's .pdparams); a 'state_dict' inside
    is taken, nested dicts become 'layer/weights'.

    Raises:
      ValueError: damaged, or no dict of arrays.
    """
    with open(path, 'rb') as f, _damage_is_named(path, 'dict of arrays'):
        return _arrays_of(path, _unwrap(plain(_unpickle(f))))


def _arrays_of(path, state):
    found = {}
    for name, value in state.items() if isinstance(state, dict) else ():
        if isinstance(value, dict):
            found.update({f'{name}/{leaf}': plain(x) for leaf, x in value.items()})
        else:
            found[str(name)] = plain(value)
    found = {name: x for name, x in found.items() if isinstance(x, np.ndarray)}
    _check_unpacked(path, sum(array.nbytes for array in found.values()))
    if not found:
        raise ValueError('there are no arrays in it')
    return found


def _read_npy_header(file):
    """(shape, Fortran order, dtype) of an .npy."""
    version = np.lib.format.read_magic(file)
    start, count = file.tell(), 2 if version == (1, 0) else 4
    if int.from_bytes(file.read(count), 'little') > HEADER:
        raise ValueError(f'a header of more than {HEADER} bytes')
    file.seek(start)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def read_npz(path: str) -> dict:
    """{name: array} of an .npz. Raises ValueError where it is damaged or holds objects."""
    found = {}
    with _damage_is_named(path, '.npz'), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if not names or len(set(names)) < len(names):
            raise ValueError('there are no arrays in it, or two of one name')
        for name, data in zip(names, _read_members(path, archive, names)):
            file = io.BytesIO(data)
            shape, fortran, dtype = _read_npy_header(file)
            if dtype.kind not in NUMBERS:
                raise ValueError(f'{name} in it holds objects, not numbers')
            found[name[: -len('.npy')]] = _array(file.read(), dtype, shape, 'F' if fortran else 'C')
    return found


def read_h5(path: str) -> dict:
    """{'group/dataset': array} of an HDF5 file. Raises ValueError where it is damaged."""
    with open(path, 'rb') as f:
        return _apart('HDF5 file', _hdf5, f, path)


def read_wheel(path: str) -> dict:
    """{'group/dataset': array} of the one HDF5 file in a zip, such as a Python wheel.

    Raises:
      ValueError: damaged, or several of them.
    """
    with _damage_is_named(path, 'zip'), zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith('.h5')]
        if len(names) != 1:
            raise ValueError(f'it holds several .h5 files: {names}')
        return _apart('HDF5 file', _hdf5, io.BytesIO(*_read_members(path, archive, names)), path)


def _apart(kind, read, file, path):
    """read(file, path) in a process of its own: the libraries of HDF5 and MATLAB files and
    TensorFlow's reader crash on some damaged ones, or do not end."""
    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe(duplex=False)

    def work():
        try:
            theirs.send(read(file, path))
        except Exception as error:
            theirs.send(error)

    process = context.Process(target=work)
    process.start()
    theirs.close()
    try:
        if not ours.poll(SECONDS):
            raise TimeoutError(f'not read in {SECONDS} s')
        found = ours.recv()
    except (EOFError, OSError) as error:
        text = f'its reader gives up ({error!r})'
        raise ValueError(f'{os.path.abspath(path)} is no readable {kind}: {text}') from None
    finally:
        process.kill()
        process.join()
        ours.close()
    if isinstance(found, Exception):
        raise found
    return found


def _hdf5(file, path):
    import h5py  # TensorFlow brings it

    found, total = {}, 0

    def take(name, item):
        nonlocal total
        name = name if isinstance(name, str) else name.decode('utf-8', 'backslashreplace')
        if isinstance(item, h5py.Dataset) and item.dtype.kind in NUMBERS:
            if item.external or item.is_virtual:  # of any file on this machine
                raise ValueError(f'{name} in it takes its numbers from other files')
            size = _size(item.shape) * item.dtype.itemsize
            total += size
            _check_unpacked(path, total)
            if size > max(SMALL, MOST_RATIO * os.path.getsize(path)):  # never written: no bytes
                raise ValueError(f'{name} of shape {list(item.shape)} in a far smaller file')
            found[name] = item[()]

    with _damage_is_named(path, 'HDF5 file'), h5py.File(file, 'r') as f:
        f.visititems(take)
        if not found:
            raise ValueError('there are no arrays in it')
    return found


def read_mat(path: str) -> dict:
    """{'weights_0': OIHW array, 'biases_0': array, ...} of Caffe's VGG as OSVOS-PyTorch ships it
    (vgg_caffe.mat).

    Raises:
      ValueError: damaged, or without these cell arrays.
    """
    result = {}
    with _damage_is_named(path, 'MATLAB file'), open(path, 'rb') as f:
        _check_mat(path)
        content = _apart('MATLAB file', _mat, f, path)
        if not {'weights', 'biases'} <= set(content):
            raise ValueError(f'it has {sorted(content)}, expected cell arrays weights and biases')
        for i, (weights, biases) in enumerate(zip(content['weights'][0], content['biases'][0])):
            result[f'weights_{i}'], result[f'biases_{i}'] = weights.transpose(), biases[:, 0]
        if not result or not all(array.dtype.kind in NUMBERS for array in result.values()):
            raise ValueError('there are no arrays of numbers in it')
    return result


def _mat(file, path):
    from scipy.io import loadmat

    try:
        return loadmat(file)
    except Exception as error:  # scipy has errors of its own
        raise ValueError(f'no readable MATLAB file: {error!r}') from None


def _check_mat(path):
    """ValueError where the compressed elements of a MATLAB file unpack to far too much."""
    with open(path, 'rb') as f:
        head = f.read(MAT_HEADER)
        order, total = '<' if head[-2:] == b'IM' else '>', 0
        while True:
            tag = f.read(8)
            if len(tag) < 8:
                break
            kind, size = struct.unpack(f'{order}II', tag)
            if kind != MAT_COMPRESSED:
                data = tag + f.read(min(size, os.path.getsize(path)))
                _check_elements(memoryview(data), order)
                f.seek(-size % 8, os.SEEK_CUR)
                continue
            unpacker, end, found = zlib.decompressobj(), f.tell() + size, []
            data = f.read(min(size, SMALL))
            while data:
                found.append(unpacker.decompress(data, SMALL))
                total += len(found[-1])
                _check_unpacked(path, total)
                data = unpacker.unconsumed_tail or f.read(min(end - f.tell(), SMALL))
            _check_elements(memoryview(b''.join(found)), order)


def _check_elements(data, order):
    """ValueError where an element of a MATLAB file says that it is larger than the file; scipy
    would make room for it."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack(f'{order}II', data[at : at + 8])
        if kind >> 16:  # a small element, of up to four bytes
            at += 8
            continue
        if size > len(data) - at - 8:
            raise ValueError(f'an element of {size} bytes where {len(data) - at - 8} are left')
        if kind == MAT_MATRIX:
            _check_matrix(data[at + 8 : at + 8 + size], order)
        at += 8 + size + -size % 8


def _check_matrix(data, order):
    """The dimensions, the second of a matrix's elements, and the cells among the others."""
    if len(data) >= 32:  # else empty
        size = struct.unpack(f'{order}I', data[20:24])[0]
        count = min(size, len(data) - 24) // 4
        shape = struct.unpack(f'{order}{count}i', data[24 : 24 + 4 * count])
        if _size([max(0, n) for n in shape]) > len(data):
            raise ValueError(f'an array {list(shape)} in {len(data)} bytes')
        _check_elements(data[16:], order)


def read_checkpoint(prefix: str) -> dict:
    """{name: array} of a TensorFlow checkpoint.

    Raises:
      ValueError: damaged.
    """
    with _damage_is_named(prefix, 'checkpoint'):
        return _apart('checkpoint', _checkpoint, None, prefix)


def _checkpoint(_, prefix):
    import tensorflow.compat.v1 as tf

    try:
        reader = tf.train.load_checkpoint(prefix)
        types = reader.get_variable_to_dtype_map()
        shapes = {n: s for n, s in reader.get_variable_to_shape_map().items() if types[n].size}
        total = sum(_size(shape) * types[name].size for name, shape in shapes.items())
        _check_unpacked(prefix, total)
        return {name: np.asarray(reader.get_tensor(name)) for name in shapes}
    except (tf.errors.OpError, ValueError, *BROKEN) as error:
        raise RuntimeError(str(error)) from None


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
        found = re.search(r'^model_checkpoint_path: "([^\0\n]*)"', f.read(), re.M)
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
    status = os.stat(path)
    if 0 < MOST_RATIO * status.st_blocks * 512 < status.st_size:
        raise ValueError(
            f'{os.path.abspath(path)} has {status.st_size} bytes, of which the disk holds '
            f'{status.st_blocks * 512}: a sparse file, made to fill the memory?'
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
