"""Settings of ColorNet: one flat table a preset, one commented line a value.

Sources: PT = icewaterq/colorNet_DUL (the official code), commit 7ad5a7a; HEAD = its later defaults;
DUL = visinf/dense-ulearn-vos. `full` is model M with both branches, `dul` dense-ulearn-vos itself,
`performance` a short timed `full`, `smoke` a narrow S on small pictures that a laptop trains from
scratch in minutes. Any value is set with `--set name=value`; `--train_config FILE` takes a JSON of
the original.
"""

from __future__ import annotations

import json
import os

from easydict import EasyDict

PRESETS = ('full', 'dul', 'performance', 'smoke')
STRIDES = [39, 34, 30, 26, 23, 20, 18, 16, 14, 12, *range(10, 0, -1)]  # frames back (PT)
HEAD = dict(radius=25.0, context=list(range(20, 0, -1)))  # label propagation of later commits


def get_config(preset: str = 'full') -> EasyDict:
    """The settings of one preset, flat names and plain values.

    Raises:
      ValueError: no such preset.
    """
    if preset not in PRESETS:
        raise ValueError(f'no preset {preset!r}; there are {", ".join(PRESETS)}')
    cfg = EasyDict(_full())
    changes = {'dul': _dul, 'performance': _performance, 'smoke': _smoke}
    cfg.update(changes.get(preset, dict)())
    cfg.preset = preset
    return cfg


def _full():
    return dict(
        name='ColorNet',             # the model's folder, first word of CaseName
        # data
        dataset='videos',            # clips of videos, or 'coco', single pictures (PT --coco)
        file_list='',                # of frames; '': filelists/train_ytvos.txt, else folders
        size=256,                    # px, side of the training pictures, a multiple of 8 (PT)
        resize=64,                   # px, most that the short side exceeds it before (PT)
        video_len=5,                 # frames a clip (PT)
        frame_gap=2,                 # frames between those of a clip (PT)
        color_mode='LAB',            # target of the reconstruction: LAB, RGB or AB (PT)
        is_aug=True,                 # jitter of colours (PT)
        is_shadow=True,              # drawn shadows (PT)
        is_liquid=True,              # half of the second views are liquid warps (PT)
        is_edge=True,                # weight along edges (PT)
        is_labclip=True,             # clip a and b at three deviations (PT, where it is not wired)
        workers=8,                   # reader processes; a core makes 5 clips/s
        # network
        model_size='M',              # 'S', 'M', 'L', or 'DUL' (ResNet-18)
        is_dul=True,                 # the global branch of dense-ulearn-vos too
        first_kernal_size=3,         # px, of the first convolution (PT's spelling)
        channels=1.0,                # factor on all channels
        bn_decay=0.9,                # of the moving statistics, four times an update (PT)
        # training
        is_neg=True,                 # cells of another clip compete (PT)
        space_consistency=True,      # the two views agree (PT)
        ohem_range=[0, 1.0],         # shares of the ascending losses that count (PT)
        TEMP=25,                     # factor on the cosines (PT)
        batch_size=8,                # clips a card a step (PT)
        train_epochs=300,            # passes over the videos (PT)
        train_steps=0,               # updates; 0: from train_epochs
        optimizer='adamw',           # 'adamw' (PT) or 'adam' (DUL)
        learning_rate=1e-4,          # highest (PT)
        is_cos_lr=True,              # warm-up and cosine; else halved at epochs 100, 200 ... (PT)
        warmup=25,                   # of 300 epochs (PT)
        beta1=0.9,                   # of the optimizer (PT)
        beta2=0.95,                  # (PT)
        weight_decay=0.01,           # adamw: decoupled, of everything (PT); adam: L2, no biases
        # label propagation
        key='',                      # features that match; '': the best of the network
        test_height=480,             # px, of every video (PT)
        test_width=864,              # px
        test_batch=2,                # frames in one pass of the network
        radius=12.0,                 # cells (PT; HEAD 25)
        context=STRIDES,             # frames back, besides the first (PT; DUL: the last 20)
        neighbours=10,               # best matches that vote (PT TEST.KNN)
        temperature=0.05,            # of their votes (PT TEST.TEMP)
        # run
        seed=777,                    # PT
        log_steps=20,                # updates a progress line
        checkpoint_steps=433,        # updates a checkpoint: an epoch of 3,471 videos
        keep_checkpoints=10,         # newest kept; HEAD averages the last ten
        iterations_per_loop=1,       # updates a call on the NPU
        precision_mode='allow_mix_precision',  # NPU; on CPU always float32
        loss_scale='dynamic',        # 'dynamic' (2^32, ascend.md g), 'none' or a number
        black_list=['ReduceSumD'],   # operators kept in float32: fp16 sums overflow and are slow
    )


def _dul():  # visinf/dense-ulearn-vos, configs/ytvos.yaml
    return dict(
        model_size='DUL', optimizer='adam', beta1=0.5, beta2=0.999, weight_decay=5e-4,
        is_cos_lr=False, batch_size=16, train_epochs=500, seed=32, context=list(range(20, 0, -1)),
        first_kernal_size=7, checkpoint_steps=216,
    )  # fmt: skip


def _performance():
    return dict(train_steps=500, log_steps=50, checkpoint_steps=500)


def _smoke():
    return dict(
        model_size='S', channels=0.5, size=96, resize=24, video_len=3, batch_size=4, bn_decay=0.95,
        train_steps=150, learning_rate=1e-3, workers=2, test_height=240, test_width=432,
        radius=8.0, log_steps=10, checkpoint_steps=50, keep_checkpoints=2,
    )  # fmt: skip


def _is_range(value):
    numbers = all(type(v) in (int, float) for v in value)
    return numbers and len(value) == 2 and 0 <= value[0] < value[1] <= 1


CHECKS = {  # keys of the original's JSON: type and what is allowed
    'exp': (str, lambda v: True), 'first_kernal_size': (int, lambda v: v in (3, 5, 7)),
    'color_mode': (str, lambda v: v in ('LAB', 'RGB', 'AB')), 'is_dul': (bool, lambda v: True),
    'is_aug': (bool, lambda v: True), 'is_shadow': (bool, lambda v: True),
    'is_liquid': (bool, lambda v: True), 'is_edge': (bool, lambda v: True),
    'is_neg': (bool, lambda v: True), 'space_consistency': (bool, lambda v: True),
    'is_labclip': (bool, lambda v: True),
    'ohem_range': (list, _is_range),
    'model_size': (str, lambda v: v in ('S', 'M', 'L')), 'TEMP': (int, lambda v: v > 0),
    'is_cos_lr': (bool, lambda v: True), 'video_len': (int, lambda v: v >= 2),
}  # fmt: skip


def checked(cfg: EasyDict) -> EasyDict:
    """`cfg` itself; ValueError where a training cannot be made of its values."""
    for key, (_, allowed) in CHECKS.items():
        if key != 'model_size' and key in cfg and not allowed(cfg[key]):
            raise ValueError(f'{key} = {cfg[key]!r} is not allowed')
    if cfg.is_neg and cfg.batch_size < 2 and cfg.model_size != 'DUL':
        raise ValueError(
            'batch_size=1 has no other clip for negatives: --set=is_neg=False, or more clips'
        )
    if cfg.size % 8 or cfg.size < 64:
        raise ValueError(f'size = {cfg.size} px: must be a multiple of 8, at least 64')
    return cfg


def from_json(cfg: EasyDict, path: str) -> EasyDict:
    """`cfg` with what a JSON of the original says; the file is only read.

    Raises:
      FileNotFoundError: no such file. ValueError: no JSON; a key, type or value it may not have.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f'--train_config: no such file: {os.path.abspath(path)}; the original\'s are in '
            'ColorNet/config/'
        )
    with open(path) as f:
        try:
            found = json.load(f)
        except ValueError as error:
            raise ValueError(f'{path} is no JSON (comments are none): {error}') from None
    if not isinstance(found, dict):
        raise ValueError(f'{path} is no JSON object')
    for key, value in found.items():
        kind, allowed = CHECKS.get(key, (None, None))
        if kind is None:
            raise ValueError(f'{path}: unknown key {key!r}; known: {", ".join(CHECKS)}')
        if type(value) is not kind or not allowed(value):
            raise ValueError(f'{path}: {key} = {value!r} is not allowed')
        if key != 'exp':  # the original ignores it
            cfg[key] = value
    return cfg
