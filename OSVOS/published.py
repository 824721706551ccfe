"""Names in published weights and the variables they become: slim, HED, OSVOS-TensorFlow,
OSVOS-PyTorch, torchvision, Caffe and MindSpore.
"""

from __future__ import annotations

import re

from . import backbone, model

LAYERS = [(s, k) for s, (_, n) in enumerate(backbone.STAGES, 1) for k in range(1, n + 1)]
INDICES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # of VGG-16's convolutions (torchvision)
FORMATS = {  # a name that only this format has
    'slim': 'vgg_16/conv1/conv1_1/weights',
    'hed': 'block1/layers/conv2d/vars/0',
    'tensorflow': 'osvos/conv1/conv1_1/weights',
    'pytorch': 'stages.0.0.weight',
    'torchvision': 'features.0.weight',
    'caffe': 'weights_0',
    'caffe_npy': 'conv1_1_w',
    'mindspore_vgg': 'layers.0.weight',
    'mindspore': 'stages_ms.0.0.weight',
}
WHOLE = ('tensorflow', 'pytorch', 'caffe_npy', 'mindspore')  # formats of the whole network
HWIO = ('slim', 'hed', 'tensorflow', 'caffe_npy')  # formats whose kernels are [kh, kw, in, out]
TAKE_RGB = ('slim', 'torchvision', 'mindspore_vgg')  # formats whose first layer takes R, G, B
NORMALIZED = ('torchvision', 'mindspore_vgg')  # and whose input was divided by a deviation


def names(kind: str) -> dict:
    """{name in the source: our variable} of one format."""
    weights = _vgg(kind)
    if kind in WHOLE:
        weights.update(_branches(kind))
    biased = weights
    if kind == 'mindspore_vgg':
        biased = {}
    elif kind == 'mindspore':  # its VGG layers have no biases
        biased = _branches(kind)
    biases = {_bias(name): ours.replace('weights', 'biases') for name, ours in biased.items()}
    return {**weights, **biases, **_upsampling(kind)}


def _vgg(kind):
    """The 13 kernels of VGG-16."""
    table = {}
    for i, (stage, layer) in enumerate(LAYERS):
        index = 2 * (layer - 1) + (stage > 1)  # pooling is the first module of later stages
        suffix = f'_{layer - 1}' if layer > 1 else ''
        name = {
            'slim': f'vgg_16/conv{stage}/conv{stage}_{layer}/weights',
            'hed': f'block{stage}/layers/conv2d{suffix}/vars/0',
            'tensorflow': f'osvos/conv{stage}/conv{stage}_{layer}/weights',
            'pytorch': f'stages.{stage - 1}.{index}.weight',
            'torchvision': f'features.{INDICES[i]}.weight',
            'caffe': f'weights_{i}',
            'caffe_npy': f'conv{stage}_{layer}_w',
            'mindspore_vgg': f'layers.{INDICES[i]}.weight',
            'mindspore': f'stages_ms.{stage - 1}.{INDICES[i]}.weight',
        }[kind]
        table[name] = f'osvos/conv{stage}/conv{stage}_{layer}/weights'
    return table


def _branches(kind):
    """The kernels of the side branches and of the fusion."""
    table = {}
    for i, k in enumerate(model.SIDES):
        layer = f'conv{k}_{2 if k == 2 else 3}_16'
        prep, score = {
            'tensorflow': (f'osvos/{layer}/weights', f'osvos/score-dsn_{k}/weights'),
            'pytorch': (f'side_prep.{i}.weight', f'score_dsn.{i}.weight'),
            'caffe_npy': (f'{layer}_w', f'score-dsn_{k}_w'),
            'mindspore': (f'side_prep_ms.{i}.weight', f'score_dsn_ms.{i}.weight'),
        }[kind]
        table[prep] = f'osvos/{layer}/weights'
        table[score] = f'osvos/score-dsn_{k}/weights'
    fuse = {'caffe_npy': 'new-score-weighting_w', 'tensorflow': 'osvos/upscore-fuse/weights'}
    table[fuse.get(kind, 'fuse.weight')] = 'osvos/upscore-fuse/weights'
    return table


def _upsampling(kind):
    """The kernels of the transposed convolutions, which have no biases; {} where there are none."""
    table = {}
    for i, k in enumerate(model.SIDES):
        ours = (f'osvos/score-multi{k}-up/weights', f'osvos/score-dsn_{k}-up/weights')
        sources = {
            'tensorflow': ours,
            'pytorch': (f'upscale.{i}.weight', f'upscale_.{i}.weight'),
            'mindspore': (f'ms_upscale.{i}.weight', f'ms_upscale_.{i}.weight'),
        }.get(kind, ())
        table.update(zip(sources, ours))
    return table


def _bias(source):
    """Name of the bias that belongs to a kernel."""
    if source.endswith('/vars/0'):
        return source[:-1] + '1'
    name = source.replace('weights', 'biases').replace('.weight', '.bias')
    return re.sub(r'_w$', '_b', name)


def detect(found: dict) -> str:
    """The format whose mark is among the names; ValueError with what was found otherwise."""
    for kind, mark in FORMATS.items():
        if mark in found:
            return kind
    raise ValueError(
        f'unknown weights: expected one of {sorted(FORMATS.values())}, found {sorted(found)[:5]}'
    )
