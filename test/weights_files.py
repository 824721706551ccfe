"""Writes weights files as torch and MindSpore do, without them, for tests of their readers."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile

import numpy as np

from common import weights


class Global(tuple):
    """(module, name) that a pickle asks for."""


class Storage(tuple):
    """(type, key, numbers) of a persistent storage."""


KINDS = {
    'float32': 'FloatStorage',
    'float64': 'DoubleStorage',
    'float16': 'HalfStorage',
    'int64': 'LongStorage',
    'bool': 'BoolStorage',
}


class TorchPickler(pickle._Pickler):
    """Writes arrays as torch writes tensors: a call of _rebuild_tensor_v2 on a storage."""

    def __init__(self, file):
        super().__init__(file, 2)
        self.storages = {}

    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            return ('storage', Global(('torch', obj[0])), obj[1], 'cpu', obj[2])
        return None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Global):
            return self.write(b'c' + f'{obj[0]}\n{obj[1]}\n'.encode())
        if isinstance(obj, np.ndarray):
            key = str(len(self.storages))
            self.storages[key] = obj
            strides = tuple(s // obj.itemsize for s in obj.strides)
            self.save(Global(('torch._utils', '_rebuild_tensor_v2')))
            storage = Storage((KINDS[obj.dtype.name], key, obj.size))
            self.save((storage, 0, obj.shape, strides, False, {}))
            return self.write(b'R')
        return super().save(obj, save_persistent_id)


def torch_pickle(state):
    file = io.BytesIO()
    pickler = TorchPickler(file)
    pickler.dump(state)
    return file.getvalue(), {k: a.tobytes('A') for k, a in pickler.storages.items()}


def write_zip(path, state, compression=zipfile.ZIP_STORED):
    data, storages = torch_pickle(state)
    with zipfile.ZipFile(str(path), 'w', compression) as archive:
        archive.writestr('archive/data.pkl', data)
        for key, content in storages.items():
            archive.writestr(f'archive/data/{key}', content)


def write_legacy(path, state):
    data, storages = torch_pickle(state)
    with open(str(path), 'wb') as f:
        for part in (weights.LEGACY_MAGIC, 1001, {'little_endian': True}):
            f.write(pickle.dumps(part, 2))
        f.write(data + pickle.dumps(sorted(storages), 2))
        sizes = {key: a.size for key, a in zip(storages, arrays_of(state))}
        for key in sorted(storages):
            f.write(struct.pack('<q', sizes[key]) + storages[key])


def arrays_of(value):
    if isinstance(value, np.ndarray):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [array for item in items for array in arrays_of(item)]


def varint(n):
    out = b''
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def mindspore_entry(name, shape, kind, content, packed=False):
    dims = [field(1, d) for d in shape]
    if packed:
        dims = [field(1, b''.join(varint(d) for d in shape))]
    tensor = b''.join(dims) + field(2, kind) + field(3, content)
    return field(1, field(1, name) + field(2, tensor))
