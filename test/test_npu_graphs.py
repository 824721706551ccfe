"""OSMN, SiamMask, ColorNet and MANet "as on the NPU": their training graphs keep the rules of the
strict stand-in for npu_bridge, and their trained networks run in its sessions.

Each training is begun by the program itself and ends before the first update, when the complete
graph has been checked. That updates run, overflows are skipped, loss scales recover and every flag
arrives is tested once, in test_npu_osvos.py: npu.py and cli.py are the same files in all folders.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from npu_standin import load_fixture  # noqa: F401 (pytest finds the fixture here)

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] != (3, 7), reason='npu_bridge is for Python 3.7 and TensorFlow 1.15'
)

COMMON = ['--device=npu', '--steps=2', '--set=workers=0']
SETTINGS = {
    'OSMN': ['batch_size=2', 'height=64', 'width=64', 'guide_size=32', 'channels=0.07'],
    'SiamMask': ['batch_size=2', 'channels=0.07', 'blocks=[1, 1, 1]', 'pairs=12',
                 "datasets=[['coco', 0, 1, 'train2017.json']]"],
    'ColorNet': ['batch_size=2', 'channels=0.05', 'size=64', 'video_len=2', 'radius=4.0'],
    'MANet': ['batch_size=1', 'channels=0.05', 'blocks=[1, 1, 1, 1]', 'size=32', 'max_distance=2',
              'group0_only=True'],
}  # fmt: skip
# model, flags, operators kept in float32 at least (losses, batch norm), a weight that is trained
TRAININGS = {
    'OSMN': ('OSMN', ['--preset=smoke', '--set=scales=[0.5,1.0]'], 20, 'osmn/seg/conv1/conv1_1'),
    'OSMN deeplab': (
        'OSMN',
        ['--preset=smoke', '--set=base_model=deeplab', '--set=visual_modulator=False'],
        20,
        'osmn/seg/',
    ),
    'OSMN lite': (
        'OSMN',
        ['--preset=smoke', '--set=base_model=lite', '--set=visual_modulator=False'],
        20,
        'osmn/seg/',
    ),
    'SiamMask base': (
        'SiamMask',
        ['--preset=performance', '--set=unfreeze=0.0'],
        100,
        'siammask/features/layer2/0/conv1',
    ),
    'SiamMask sharp': (
        'SiamMask',
        ['--preset=smoke_sharp', '--from_scratch'],
        100,
        'siammask/mask/kernel/conv',
    ),
    'SiamMask in parts': (
        'SiamMask',
        ['--preset=smoke', '--set=accumulate=2'],
        200,
        'siammask/features/conv1',
    ),
    'ColorNet both branches': ('ColorNet', ['--preset=smoke'], 200, 'colornet/conv1'),
    'ColorNet dul': ('ColorNet', ['--preset=dul', '--from_scratch'], 20, 'colornet/conv1'),
    'MANet stage 1': ('MANet', ['--preset=smoke'], 100, 'manet/backbone/'),
    'MANet stage 2': ('MANet', ['--preset=smoke'], 100, 'manet/inter_seghead/'),
}
FULL = {
    'OSMN': [],
    'OSVOS': [],
    'SiamMask': ["--set=datasets=[['coco', 0, 1, 'train2017.json']]"],
    'ColorNet': [],
    'MANet': [],  # takes a minute: with NPU_AUDIT=1
}  # model: flags
# Adapters, one a training in turn: npu.py, the only file that knows them, is the same in all
# folders, and test_npu_osvos.py asks each of them.
VERSIONS = ('r1.15', 'r1.13', 'r1.10', 'r1.5', 'r1.3')


class GraphChecked(BaseException):
    """The stand-in has checked a training graph; the training ends here."""


@pytest.fixture(scope='module')
def paths(drawn, tmp_path_factory):
    """{model: folder of its training data}."""
    crops = tmp_path_factory.mktemp('crops')
    prepare = importlib.import_module('SiamMask.prepare')
    flags = [f'--data_path={Path(drawn["coco"]).parent}', f'--output_path={crops}', '--sets=coco']
    assert prepare.main([*flags, '--workers=1']) == 0
    return {
        'OSMN': drawn['coco'],
        'SiamMask': str(crops),
        'ColorNet': drawn['youtube_vos'],
        'MANet': drawn['davis2017'],
        'OSVOS': drawn['davis'],
    }


@pytest.fixture
def checked(load, monkeypatch):
    """checked(program, flags) -> facts of the graph that a training program has built."""

    def run(program, flags, version):
        load(version)
        from npu_bridge.estimator.npu import npu_estimator

        found, begin = {}, npu_estimator.CheckHook.begin

        def check_and_end(hook):
            begin(hook)
            found.update(npu_estimator.PROCESS['facts'], settings=hook.settings)
            found['operators'] = len(tf.get_default_graph().get_operations())
            found['variables'] = [v.op.name for v in tf.global_variables()]
            raise GraphChecked

        monkeypatch.setattr(npu_estimator.CheckHook, 'begin', check_and_end)
        with pytest.raises(GraphChecked):
            program.main(flags)
        return found

    return run


def settings_of(model):
    """The settings of a smoke training with the sizes of SETTINGS."""
    cli = importlib.import_module(f'{model}.cli')
    parser = cli.parser('doc')
    cli.add_training_flags(parser)
    flags = ['--preset=smoke', '--device=cpu', *(f'--set={text}' for text in SETTINGS[model])]
    get_config = importlib.import_module(f'{model}.config').get_config
    return cli.configure(parser.parse_args(flags), get_config)


def variables_of(model, cfg):
    """{variable: shape} of a network for inference."""
    if model != 'SiamMask':
        return importlib.import_module(f'{model}.convert').network_shapes(cfg)
    inference = importlib.import_module('SiamMask.inference')
    with tf.Graph().as_default(), tf.Session() as session:
        inference.Network(session, cfg, 1)
        return {v.op.name: tuple(v.shape.as_list()) for v in tf.global_variables()}


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """checkpoints(model) -> folder of a checkpoint with drawn weights, written once a model."""
    made = {}

    def write(model):
        if model not in made:
            folder, cfg = tmp_path_factory.mktemp(model), settings_of(model)
            random = np.random.RandomState(0)
            arrays = {'global_step': np.int64(0)}
            for name, shape in variables_of(model, cfg).items():
                arrays[name] = 0.1 * random.randn(*shape).astype(np.float32)
                if name.endswith('/moving_variance'):
                    arrays[name] = np.ones(shape, np.float32)
            with tf.Graph().as_default(), tf.Session() as session:
                prefix, slices = f'{folder}/model.ckpt', [''] * len(arrays)
                tensors = [tf.constant(array) for array in arrays.values()]
                session.run(tf.raw_ops.SaveV2(
                    prefix=prefix, tensor_names=list(arrays), shape_and_slices=slices,
                    tensors=tensors,
                ))  # fmt: skip
            tf.train.update_checkpoint_state(str(folder), 'model.ckpt')
            (folder / 'config.json').write_text(json.dumps({**cfg, 'trained_on': ['drawn data']}))
            made[model] = str(folder)
        return made[model]

    return write


@pytest.mark.parametrize('model', list(FULL))
def test_the_whole_network_keeps_the_rules_of_the_npu(model, checked, paths, tmp_path):
    """The training graph of preset full, as large as it is trained."""
    if model == 'MANet' and not os.environ.get('NPU_AUDIT'):
        pytest.skip('takes a minute: NPU_AUDIT=1')
    program = importlib.import_module(f'{model}.train')
    flags = [*COMMON, '--preset=full', '--from_scratch', *FULL[model]]
    flags += [f'--data_path={paths[model]}', f'--output_path={tmp_path}/run']
    found = checked(program, flags, 'r1.15')
    assert found['loss_scale_optimizer'] and found['keep_dtype_ops'] > 20
    assert found['operators'] < 40_000  # MANet's; those of saving and starting among them


@pytest.mark.parametrize('name', list(TRAININGS))
def test_training_graph_keeps_the_rules_of_the_npu(name, checked, paths, checkpoints, tmp_path):
    """Static shapes, no forbidden operators, float32 islands, one loss-scale optimizer that holds
    the model's own, the mixlist, the trained part's own weights."""
    model, flags, kept, weight = TRAININGS[name]
    if name == 'MANet stage 2':
        flags = [*flags, '--set=stage1_steps=0', f'--init_from={checkpoints(model)}']
    program = importlib.import_module(f'{model}.train')
    flags = [*COMMON, *(f'--set={text}' for text in SETTINGS[model]), *flags, '--loss_scale=1024']
    flags += [f'--data_path={paths[model]}', f'--output_path={tmp_path}/run']
    version = VERSIONS[list(TRAININGS).index(name) % len(VERSIONS)]
    found = checked(program, flags, version)
    assert found['keep_dtype_ops'] > kept
    assert found['loss_scale_optimizer'] and 'NPUCheckpointSaverHook' in found['hooks']
    assert found['settings']['precision_mode'] == 'allow_mix_precision'
    if version != 'r1.3':  # which has no mixlist
        mixlist = json.loads(Path(found['settings']['modify_mixlist']).read_text())
        assert mixlist == {'black-list': {'to-add': ['ReduceSumD'], 'to-remove': []}}
    slots = ('/Adam', '/AdamW', '/Momentum')
    assert any(v.startswith(weight) and v.endswith(slots) for v in found['variables'])


EVALUATIONS = {
    'OSMN': ('davis2017', 'drawn-x', ['test_height=48', 'test_width=80'], 'results.json'),
    'SiamMask': ('vot', 'drawn1', [], '*/baseline/drawn1/drawn1_001.txt'),
    'ColorNet': ('davis', 'drawn-x', ['test_height=48', 'test_width=80'], 'masks/drawn-x/*9.png'),
    'MANet': ('davis2017', 'drawn-x', ['interactions=2'], 'summary.json'),
}


@pytest.mark.parametrize('model', list(EVALUATIONS))
def test_networks_run_in_a_session_of_the_npu(model, load, drawn, checkpoints, tmp_path):
    data, sequence, settings, result = EVALUATIONS[model]
    folder = checkpoints(model)
    npu = load()
    evaluate = importlib.import_module(f'{model}.evaluate')
    flags = ['--device=npu', f'--data_path={drawn[data]}', f'--sequences={sequence}']
    flags += [f'--set={text}' for text in settings]
    assert evaluate.main([*flags, f'--checkpoint={folder}', f'--output_path={tmp_path}/out']) == 0
    assert list((tmp_path / 'out').glob(result)), result
    assert npu.SESSIONS['made'] > 0
