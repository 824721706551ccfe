"""Settings of ColorNet: one flat table a preset, one commented line a value.

Sources: PT = icewaterq/colorNet_DUL (the official code), commit 7ad5a7a; HEAD = its later defaults;
DUL = visinf/dense-ulearn-vos. `full` is model M with both branches, `dul` dense-ulearn-vos itself,
`performance` a short timed `full`, `small` the narrow S of pretrained/, `smoke` the same on smaller
images, which a laptop trains from scratch in minutes. Any value is set with `--set name=value`;
`--train_config FILE` takes a JSON of the original.
"""

from __future__ import annotations

from easydict import EasyDict

from common import files

PRESETS = ('full', 'dul', 'performance', 'small', 'smoke')
NETWORK = ('model_size', 'is_dul', 'first_kernal_size', 'channels')  # make another network
MANY = float('inf')
RANGES = {
    'resize': (0, MANY), 'frame_gap': (1, MANY), 'bn_decay': (0, 1), 'TEMP': (1, MANY),
    'warmup': (0, 300), 'beta1': (0, 0.999999), 'beta2': (0, 0.999999), 'test_height': (0, MANY),
    'test_width': (0, MANY), 'test_batch': (1, MANY), 'radius': (1, MANY),
    'neighbours': (1, MANY), 'temperature': (1e-4, MANY), 'coco_epoch': (1, MANY),
    'checkpoint_steps': (0, MANY),
}
PRETRAINED = {'file': '', 'what': '', 'how': ''}  # all presets start from random weights (PT)
STRIDES = [39, 34, 30, 26, 23, 20, 18, 16, 14, 12, *range(10, 0, -1)]  # frames back (PT)
HEAD = dict(radius=25.0, context=list(range(20, 0, -1)))  # label propagation of later commits
PAPER = {'davis 2017': {'J&F-Mean': 0.721}}  # model M, key merge: {data and year: {score: value}}


def get_config(preset: str = 'full') -> EasyDict:
    """The settings of one preset, flat names and plain values.

    Raises:
      ValueError: no such preset.
    """
    if preset not in PRESETS:
        raise ValueError(f'no preset {preset!r}; there are {", ".join(PRESETS)}')
    cfg = EasyDict(_full())
    changes = {'dul': _dul, 'performance': _performance, 'small': _small,
               'smoke': _smoke}  # fmt: skip
    cfg.update(changes.get(preset, dict)())
    cfg.preset = preset
    return cfg


def _full():
    return dict(
        name='ColorNet',             # the model's folder, first word of CaseName
        # data
        dataset='videos',            # clips of videos, or 'coco', single images (PT --coco)
        year='2017',                 # DAVIS convention: '2016' one object, '2017' several
        file_list='',                # of frames; '': filelists/train_ytvos.txt, else folders
        size=256,                    # px, side of the training images, a multiple of 8 (PT)
        resize=64,                   # px, most that the short side exceeds it before (PT)
        video_len=5,                 # frames a clip (PT)
        frame_gap=2,                 # frames between those of a clip (PT)
        color_mode='LAB',            # target of the reconstruction: LAB, RGB or AB (PT)
        is_aug=True,                 # jitter of colors (PT)
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
        from_scratch=True,           # random weights: nothing published is expected (PT)
        is_neg=True,                 # cells of another clip compete (PT)
        space_consistency=True,      # the two views agree (PT)
        ohem_range=[0, 1.0],         # shares of the ascending losses that count (PT)
        TEMP=25,                     # factor on the cosines (PT)
        batch_size=8,                # clips a card a step (PT)
        train_epochs=300,            # passes over the videos (PT)
        coco_epoch=3470,             # clips of an epoch with 'coco': one a video of the list (PT)
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
        test_height=480,             # px, of every video (PT); 0: the frame's own (DUL)
        test_width=864,              # px; 0: the frame's own
        test_batch=2,                # frames in one pass of the network
        radius=12.0,                 # cells (PT; HEAD 25)
        context=STRIDES,             # frames back, besides the first (PT; DUL: the last 20)
        neighbours=10,               # best matches that vote (PT TEST.KNN)
        temperature=0.05,            # of their votes (PT TEST.TEMP)
        # run
        seed=777,                    # PT
        log_steps=20,                # updates a progress line
        summary_steps=0,             # updates between images for TensorBoard, CPU alone; 0: none
        checkpoint_steps=0,          # updates a checkpoint; 0: one an epoch
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
        first_kernal_size=7,
        test_height=0, test_width=0,  # TEST.INPUT_SIZE -1: frames keep their size (infer_vos.py)
    )


def _performance():
    return dict(train_steps=500, log_steps=50, checkpoint_steps=500)


def _small():
    return dict(
        _smoke(), year='2016', size=128, resize=96, train_steps=800, log_steps=20,
        checkpoint_steps=100, keep_checkpoints=4, test_height=336, test_width=600, radius=9.0,
    )


def _smoke():
    return dict(
        model_size='S', channels=0.5, size=96, resize=24, video_len=3, batch_size=4, bn_decay=0.95,
        train_steps=150, learning_rate=1e-3, workers=2, test_height=240, test_width=432,
        radius=8.0, log_steps=10, checkpoint_steps=50, keep_checkpoints=2,
    )


def _anything(value):
    return True


def _is_range(value):
    numbers = all(type(v) in (int, float) for v in value)
    return numbers and len(value) == 2 and 0 <= value[0] < value[1] <= 1


CHECKS = {  # keys of the original's JSON: type, and whether a value is allowed
    'exp': (str, _anything),
    'first_kernal_size': (int, lambda value: value in (3, 5, 7)),
    'color_mode': (str, lambda value: value in ('LAB', 'RGB', 'AB')),
    'is_dul': (bool, _anything),
    'is_aug': (bool, _anything),
    'is_shadow': (bool, _anything),
    'is_liquid': (bool, _anything),
    'is_edge': (bool, _anything),
    'is_neg': (bool, _anything),
    'space_consistency': (bool, _anything),
    'is_labclip': (bool, _anything),
    'ohem_range': (list, _is_range),
    'model_size': (str, lambda value: value in ('S', 'M', 'L')),
    'TEMP': (int, lambda value: value > 0),
    'is_cos_lr': (bool, _anything),
    'video_len': (int, lambda value: value >= 2),
}


def check_settings(cfg: EasyDict) -> None:
    """ValueError where no training can be made of the settings."""
    if cfg.model_size not in ('S', 'M', 'L', 'DUL'):
        raise ValueError(f'model_size = {cfg.model_size!r} is not allowed: S, M, L or DUL')
    if cfg.dataset not in ('videos', 'coco'):
        raise ValueError(f'dataset = {cfg.dataset!r} is not allowed: videos or coco')
    if cfg.optimizer not in ('adamw', 'adam'):
        raise ValueError(f'optimizer = {cfg.optimizer!r} is not allowed: adamw or adam')
    for key, (_, allowed) in CHECKS.items():
        if key != 'model_size' and key in cfg and not allowed(cfg[key]):
            raise ValueError(f'{key} = {cfg[key]!r} is not allowed')
    if cfg.is_neg and cfg.batch_size < 2 and cfg.model_size != 'DUL':
        raise ValueError(
            'batch_size=1 has no other clip for negatives: --set=is_neg=False, or more clips'
        )
    if cfg.size % 8 or cfg.size < 64:
        raise ValueError(f'size = {cfg.size} px: must be a multiple of 8, at least 64')


def from_json(cfg: EasyDict, path: str) -> EasyDict:
    """`cfg` with what a JSON of the original says; the file is only read.

    Raises:
      FileNotFoundError: no such file. ValueError: no JSON; an unknown key, a type or value that is
      not allowed.
    """
    try:
        found = files.read_json(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"--train_config: {error}; the original's are in ColorNet/config/"
        ) from None
    except ValueError as error:
        raise ValueError(f'{error} (comments are no JSON)') from None
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
