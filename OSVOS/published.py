"""Names in published weights and the variables they become: slim, OSVOS-TensorFlow, OSVOS-PyTorch,
torchvision, Caffe and MindSpore.
"""

from __future__ import annotations

import re

from . import backbone, model

LAYERS = [(s, k) for s, (_, n) in enumerate(backbone.STAGES, 1) for k in range(1, n + 1)]
INDICES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # of VGG-16's convolutions (torchvision)
FORMATS = {  # a name that only this format has
    'slim': 'vgg_16/conv1/conv1_1/weights',
    'tensorflow': 'osvos/conv1/conv1_1/weights',
    'pytorch': 'stages.0.0.weight',
    'torchvision': 'features.0.weight',
    'caffe': 'weights_0',
    'caffe_npy': 'conv1_1_w',
    'mindspore_vgg': 'layers.0.weight',
    'mindspore': 'stages_ms.0.0.weight',
}


def names(kind: str) -> dict:
    """{name in the source: our variable} of one format."""
    table = {}
    for i, (stage, layer) in enumerate(LAYERS):
        index = 2 * (layer - 1) + (stage > 1)
        source = {
            'slim': f'vgg_16/conv{stage}/conv{stage}_{layer}/weights',
            'tensorflow': f'osvos/conv{stage}/conv{stage}_{layer}/weights',
            'pytorch': f'stages.{stage - 1}.{index}.weight',
            'torchvision': f'features.{INDICES[i]}.weight',
            'caffe': f'weights_{i}',
            'caffe_npy': f'conv{stage}_{layer}_w',
            'mindspore_vgg': f'layers.{INDICES[i]}.weight',
            'mindspore': f'stages_ms.{stage - 1}.{INDICES[i]}.weight',
        }[kind]
        table[source] = f'osvos/conv{stage}/conv{stage}_{layer}/weights'
    for i, k in enumerate(model.SIDES if kind in FULL else ()):
        for source, ours in zip(
            FULL[kind](i, k), (f'conv{k}_{2 if k == 2 else 3}_16', f'score-dsn_{k}')
        ):
            table[source] = f'osvos/{ours}/weights'
        table.update(_upsampling(kind, i, k))
    if kind in FULL:
        fuse = {'caffe_npy': 'new-score-weighting_w', 'tensorflow': 'osvos/upscore-fuse/weights'}
        table[fuse.get(kind, 'fuse.weight')] = 'osvos/upscore-fuse/weights'
    biases = {
        'mindspore_vgg': {},
        'mindspore': {n: v for n, v in table.items() if 'stages' not in n},
    }
    for source, ours in list(biases.get(kind, table).items()):
        if not ours.endswith('-up/weights'):
            table[_bias(source)] = ours.replace('weights', 'biases')
    return table


FULL = {
    'tensorflow': lambda i, k: (
        f'osvos/conv{k}_{2 if k == 2 else 3}_16/weights',
        f'osvos/score-dsn_{k}/weights',
    ),
    'pytorch': lambda i, k: (f'side_prep.{i}.weight', f'score_dsn.{i}.weight'),
    'caffe_npy': lambda i, k: (f'conv{k}_{2 if k == 2 else 3}_16_w', f'score-dsn_{k}_w'),
    'mindspore': lambda i, k: (f'side_prep_ms.{i}.weight', f'score_dsn_ms.{i}.weight'),
}


def _upsampling(kind, i, k):
    sources = {
        'tensorflow': (f'osvos/score-multi{k}-up/weights', f'osvos/score-dsn_{k}-up/weights'),
        'pytorch': (f'upscale.{i}.weight', f'upscale_.{i}.weight'),
        'mindspore': (f'ms_upscale.{i}.weight', f'ms_upscale_.{i}.weight'),
    }.get(kind, ())
    return dict(
        zip(sources, (f'osvos/score-multi{k}-up/weights', f'osvos/score-dsn_{k}-up/weights'))
    )


def _bias(source):
    return re.sub(r'_w$', '_b', source.replace('weights', 'biases').replace('.weight', '.bias'))


def detect(found: dict) -> str:
    """The format whose mark is among the names; ValueError with what was found otherwise."""
    for kind, mark in FORMATS.items():
        if mark in found:
            return kind
    raise ValueError(
        f'unknown weights: expected one of {sorted(FORMATS.values())}, found {sorted(found)[:5]}'
    )
