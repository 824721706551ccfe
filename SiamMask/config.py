"""Settings of SiamMask: one flat table a preset, one commented line a value.

Sources: PT = foolwood/SiamMask (the official code), TFP = the Ascend port SiamMask_ID0166. `full`
is the base stage, `sharp` the refinement stage that follows it, `performance` a short timed `full`,
`small` and `small_sharp` the narrow network of pretrained/, `smoke` and `smoke_sharp` one that a
laptop trains from scratch in minutes. Any value
is set with `--set name=value`; `--config FILE` takes a config.json of the original.
"""

from __future__ import annotations

import math
import os

from easydict import EasyDict

from common import files

PRESETS = (
    'full', 'sharp', 'performance', 'small', 'small_sharp', 'smoke', 'smoke_sharp',
)  # fmt: skip
NETWORK = ('variant', 'channels', 'blocks', 'optimizer')  # settings that make another checkpoint
RANGES = {
    'pairs': (1, float('inf')),
    'template_scale': (0, 0.9),
    'search_scale': (0, 0.9),
    'search_blur': (0, 1),
    'negative': (0, 1),
    'inner_negative': (0, 1),
    'gray': (0, 1),
    'positive_iou': (0, 1),
    'negative_iou': (0, 1),
    'positives': (1, float('inf')),
    'warmup_epochs': (0, 19),
    'unfreeze': (0, 1),
    'momentum': (0, 1),
    'clip': (0, float('inf')),
    'highest_loss': (0, float('inf')),
    'cls_weight': (0, float('inf')),
    'loc_weight': (0, float('inf')),
    'mask_weight': (0, float('inf')),
    'penalty_k': (-1, float('inf')),
    'window_influence': (-1, 1),
    'tracker_rate': (-1, float('inf')),
    'mask_threshold': (-1, 1),
    'checkpoint_steps': (0, float('inf')),
}
PRETRAINED = {
    'file': 'models/resnet.model',  # below the data path or this folder
    'what': 'the ResNet-50 with 3x3 shortcuts that the authors trained on ImageNet, resnet.model, '
            '174 MB, from http://www.robots.ox.ac.uk/~qwang/resnet.model',
    'how': 'Convert it (python -m SiamMask.convert --source=resnet.model '
           '--output=resnet/model.ckpt)',
}  # of checkpoint_to_start_from()
TRACKING = ('penalty_k', 'window_influence', 'tracker_rate', 'mask_threshold')
HYPER = {  # values of TRACKING (PT experiments/*/config*.json)
    'base': (0.09, 0.39, 0.38, 0.30),  # tracker_config.py, which base/config.json leaves alone
    'vot': (0.04, 0.42, 0.25, 0.30),
    'vot18': (0.10, 0.41, 0.32, 0.15),
    'davis': (0.04, 0.40, 1.0, 0.35),  # DAVIS, YouTube-VOS, demo
}
BASE_SETS = [
    ['ytb_vos', 200000, 20, 'train.json'],
    ['vid', 200000, 100, 'train.json'],
    ['coco', 0, 1, 'train2017.json'],
    ['det', 100000, 1, 'train.json'],
]
PAPER = {  # {data set and year: {score: value}}; robustness is failures a hundred frames
    'vot 2016': {'eao': 0.433, 'accuracy': 0.639, 'robustness': 0.214},
    'vot 2018': {'eao': 0.380, 'accuracy': 0.609, 'robustness': 0.276},
    'davis 2016': {'J-Mean': 0.717, 'F-Mean': 0.678},
    'davis 2017': {'J-Mean': 0.543, 'F-Mean': 0.585},
}


def get_config(preset: str = 'full') -> EasyDict:
    """The settings of one preset, flat names and plain values.

    Raises:
      ValueError: no such preset.
    """
    if preset not in PRESETS:
        raise ValueError(f'no preset {preset!r}; there are {", ".join(PRESETS)}')
    cfg = EasyDict(_full())
    changes = {
        'sharp': _sharp, 'performance': _performance, 'smoke': _smoke,
        'small': _small, 'smoke_sharp': lambda: {**_sharp(), **_smoke(), **_smoke_sharp()},
        'small_sharp': lambda: {**_sharp(), **_small(), **_small_sharp()},
    }  # fmt: skip
    cfg.update(changes.get(preset, dict)())
    cfg.preset = preset
    return cfg


def _full():
    return dict(
        name='SiamMask',             # the model's folder, first word of CaseName
        # data
        dataset='crops',             # what sample_data.py draws and prepare.py cuts
        datasets=BASE_SETS,          # [name, pairs a cycle (0: videos), frame range, json] (PT)
        year='2017',                 # DAVIS convention: '2016' one object, '2017' several
        pairs=600000,                # pairs an epoch (PT "num")
        search_size=255,             # px, search crop while training; 143 for sharp (PT)
        base_size=8,                 # cells added to (search - template) / stride + 1 (PT)
        template_shift=4.0,          # px, of the template's window (PT)
        template_scale=0.05,         # share, of the template's window (PT)
        search_shift=64.0,           # px, of the search window (PT)
        search_scale=0.18,           # share, of the search window (PT)
        search_blur=0.18,            # probability (PT)
        negative=0.2,                # share of pairs of two objects (PT "neg")
        inner_negative=0.0,          # of those, share from one set (PT "inner_neg")
        gray=0.25,                   # share of gray pairs (PT)
        positive_iou=0.6,            # anchors above are positive (PT thr_high)
        negative_iou=0.3,            # anchors below are negative (PT thr_low)
        positives=16,                # anchors kept an image (PT)
        anchors_kept=64,             # positives and negatives kept an image (PT rpn_batch)
        pair_negatives=16,           # anchors kept of a negative pair (PT "negative")
        workers=4,                   # reader processes
        # network
        variant='base',              # 'base', or 'sharp' with the refine module
        channels=1.0,                # factor on all channels but the last layers'
        blocks=[3, 4, 6],            # bottlenecks of layer1..layer3 (ResNet-50)
        scratch=False,               # no ImageNet weights: the whole backbone trains, BN too
        norm_start='uniform',        # gamma of neck and branches U(0, 1) (PyTorch 0.4.1); 'ones'
        # training
        from_scratch=False,          # random weights where published ones are expected
        optimizer='sgd',             # PT; 'adam' (TFP --optimizer), betas 0.9 and 0.999
        batch_size=64,               # pairs a card a step (PT: 4 cards of 16)
        accumulate=1,                # passes that a batch is taken in, gradients averaged
        train_epochs=20,             # of `pairs` pairs (PT)
        train_steps=0,               # updates; 0: from train_epochs
        learning_rate=0.005,         # after the warm-up, for 64 pairs a step; scaled with them (PT)
        end_learning_rate=0.0025,    # of the last epoch; log-spaced between (PT)
        warmup_rate=0.001,           # of the first epoch (PT)
        warmup_epochs=5,             # of the 20 of the schedule (PT)
        unfreeze=0.5,                # share of the training after which layer2, layer3 train (PT)
        backbone_rate=0.1,           # factor of the rate of layer2 and layer3 (PT)
        momentum=0.9,                # of optimizer 'sgd' (PT)
        weight_decay=1e-4,           # of everything trained, after the clipping (PT)
        clip=10.0,                   # global norm of the gradients (PT)
        highest_loss=1e4,            # above it, or not finite, an update is left out (PT)
        cls_weight=1.0,              # of the class loss (PT)
        loc_weight=1.2,              # of the box loss (PT)
        mask_weight=36.0,            # of the mask loss (PT)
        penalty_k=-1.0,              # tracking, on change of shape; -1: of the benchmark, see HYPER
        window_influence=-1.0,       # share of the cosine window
        tracker_rate=-1.0,           # of the size's moving average
        mask_threshold=-1.0,         # probability
        objects=4,                   # objects in one call of the network
        # run
        seed=123456,                 # PT siam_mask_dataset.py
        log_steps=20,                # updates a progress line
        summary_steps=0,             # updates between images for TensorBoard, CPU alone; 0: none
        checkpoint_steps=0,          # updates a checkpoint; 0: one an epoch of the schedule (PT)
        keep_checkpoints=20,         # newest kept (TFP SAVE_MAX); PT chooses among its 20
        iterations_per_loop=1,       # updates a call on the NPU
        precision_mode='allow_mix_precision',  # NPU; on CPU always float32
        loss_scale='dynamic',        # 'dynamic' (2^32, ascend.md g), 'none' or a number
        black_list=['ReduceSumD'],   # operators kept in float32: fp16 sums overflow and are slow
    )


def _sharp():  # PT experiments/siammask_sharp, from the best base checkpoint
    sets = [['ytb_vos', 100000, 20, 'train.json'], BASE_SETS[2]]
    return dict(
        variant='sharp', datasets=sets, pairs=200000, search_size=143, base_size=0,
        search_shift=8.0, negative=0.0, learning_rate=0.01, warmup_epochs=0,
        cls_weight=0.0, loc_weight=0.0,
    )  # fmt: skip


def _performance():
    return dict(from_scratch=True, train_steps=500, log_steps=50, checkpoint_steps=500)


def _small():  # DAVIS and COCO
    return dict(
        _smoke(), search_shift=64.0, train_steps=1200, pairs=9600, log_steps=20, workers=1,
        datasets=[['davis', 1500, 20, 'train.json'], ['coco', 1500, 1, 'train2017.json']],
    )  # fmt: skip


def _small_sharp():
    return dict(_smoke_sharp(), train_steps=200, pairs=1600)


def _smoke():
    return dict(
        channels=0.25, blocks=[1, 2, 2], norm_start='ones', from_scratch=True, scratch=True,
        batch_size=8, train_steps=200,
        pairs=1600, learning_rate=0.08, end_learning_rate=0.02, warmup_rate=0.02, workers=2,
        search_shift=32.0,
        log_steps=10, checkpoint_steps=100, keep_checkpoints=2,
    )  # fmt: skip


def _smoke_sharp():
    return dict(learning_rate=0.01, end_learning_rate=0.0025, search_shift=8.0, mask_weight=36.0)


JSON_KEYS = {  # path in the original's config.json: our setting
    'hp.penalty_k': 'penalty_k', 'hp.window_influence': 'window_influence',
    'hp.lr': 'tracker_rate', 'hp.seg_thr': 'mask_threshold',
    'lr.start_lr': 'learning_rate', 'lr.end_lr': 'end_learning_rate',
    'lr.warmup.start_lr': 'warmup_rate', 'lr.warmup.epoch': 'warmup_epochs',
    'train_datasets.num': 'pairs',
    'train_datasets.search_size': 'search_size', 'train_datasets.base_size': 'base_size',
    'train_datasets.augmentation.template.shift': 'template_shift',
    'train_datasets.augmentation.template.scale': 'template_scale',
    'train_datasets.augmentation.search.shift': 'search_shift',
    'train_datasets.augmentation.search.scale': 'search_scale',
    'train_datasets.augmentation.search.blur': 'search_blur',
    'train_datasets.augmentation.neg': 'negative', 'train_datasets.augmentation.gray': 'gray',
    'train_datasets.augmentation.inner_neg': 'inner_negative',
    'train_datasets.anchor_target.thr_high': 'positive_iou',
    'train_datasets.anchor_target.thr_low': 'negative_iou',
    'train_datasets.anchor_target.positive': 'positives',
    'train_datasets.anchor_target.negative': 'pair_negatives',
    'train_datasets.anchor_target.rpn_batch': 'anchors_kept',
}  # fmt: skip
FIXED = {  # settings of the original that have one value here
    'network.arch': 'Custom', 'hp.instance_size': 255, 'hp.base_size': 8, 'lr.type': 'log',
    'lr.warmup.type': 'step', 'lr.warmup.step': 1, 'lr.feature_lr_mult': 1,
    'lr.rpn_lr_mult': 1, 'lr.mask_lr_mult': 1, 'anchors.stride': 8, 'anchors.scales': [8],
    'anchors.ratios': [0.33, 0.5, 1, 2, 3], 'anchors.round_dight': 0,
    'train_datasets.template_size': 127, 'train_datasets.origin_size': 127,
    'train_datasets.crop_size': 0, 'train_datasets.template_small': False,
    'train_datasets.augmentation.template.blur': 0,
    'train_datasets.augmentation.template.flip': 0, 'train_datasets.augmentation.search.flip': 0,
}  # fmt: skip


def from_json(cfg: EasyDict, path: str) -> EasyDict:
    """`cfg` with what a config.json of the original says; the file is only read.

    Raises:
      FileNotFoundError: no such file. ValueError: no JSON; a key or value that this network lacks.
    """
    tree = files.read_json(path)
    if not isinstance(tree, dict) or not all(
        isinstance(tree.get(part, {}), dict) for part in ('train_datasets', 'lr')
    ):
        raise ValueError(f'{path}: no config.json of SiamMask; see SiamMask/config/config.json')
    tree.pop('val_datasets', None)  # read by nothing in the original either
    sets = tree.get('train_datasets', {}).pop('datasets', None)
    if sets:
        cfg.datasets = _data_sets(sets, path)
    derived = ('lr.warmup.end_lr', 'train_datasets.size', 'hp.out_size')  # follow from the others
    for key, value in _flat(tree):
        if key == 'loss.weight':
            names = ('cls_weight', 'loc_weight', 'mask_weight')
            if not isinstance(value, list) or len(value) != len(names):
                raise ValueError(f'{path}: {key} = {value!r}: expected three weights: {names}')
            cfg.update(
                {name: _converted(weight, 0.0, key, path) for name, weight in zip(names, value)}
            )
        elif key in JSON_KEYS:
            cfg[JSON_KEYS[key]] = _converted(value, cfg[JSON_KEYS[key]], key, path)
        elif key not in derived and (key not in FIXED or FIXED[key] != value):
            raise ValueError(f'{path}: {key} = {value!r}: not a setting of this network')
    if 'lr' in tree and 'warmup' not in tree['lr']:
        cfg.warmup_epochs = 0
    cfg.variant = 'sharp' if cfg.search_size == 143 else cfg.variant
    return cfg


def tracking_settings(path: str) -> dict:
    """{setting of TRACKING: value} that a config.json of the original names."""
    cfg = from_json(get_config(), path)
    return {name: cfg[name] for name in TRACKING if cfg[name] >= 0}


def _converted(value, old, key, path):
    """`value` as the type of the setting's old value."""
    try:
        found = type(old)(value)
        if isinstance(value, float) and (not math.isfinite(value) or found != value):
            raise ValueError('a number that is none, or cut')
        return found
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f'{path}: {key} = {value!r}: expected a number like {old!r}') from None


def _data_sets(sets, path):
    """Settings `datasets` of the original's; ValueError where they have another form."""
    try:
        return [
            [
                name,
                int(entry.get('num_use', 0)),
                int(entry.get('frame_range', 100)),
                os.path.basename(entry.get('anno', 'train.json')),
            ]
            for name, entry in sets.items()
        ]
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f'{path}: train_datasets.datasets: expected '
            f'{{name: {{anno, num_use, frame_range}}}} ({error})'
        ) from None


def _flat(tree, prefix=''):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f'{prefix}{key}.')
        else:
            yield prefix + key, value
