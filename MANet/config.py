"""Settings of MANet: one flat table a preset, one commented line a value.

Sources: PT = lightas/CVPR2020_MANet (the official code), PD = PaddleVideo's port. `full` trains
stage 1 (embedding and propagation head), then stage 2 (interaction head); `stage1` and `stage2` are
one of them, `performance` a short timed `stage1`, `small` both stages of the narrow network of
pretrained/, `smoke` of one that a laptop trains from scratch in minutes. Any value is set with
`--set name=value`.
"""

from __future__ import annotations

from easydict import EasyDict

PRESETS = ('full', 'stage1', 'stage2', 'performance', 'small', 'smoke')
NETWORK = ('channels', 'blocks')  # settings that make another network
RANGES = {
    'height': (0, 4096),             # 0: frames as they are
    'objects': (0, 254),             # 0: of the data
    'flip': (0, 1),
    'tries': (1, 1000),
    'max_distance': (1, 64),
    'neighbours': (1, 1000),
    'bn_decay': (0, 1),
    'head_decay': (0, 1),
    'stage1_steps': (0, float('inf')),
    'power': (0, 10),
    'clip': (0, float('inf')),
    'hardest': (1e-6, 1),
    'mining_steps': (0, float('inf')),
    'cycle': (1, float('inf')),
    'rounds': (1, 1000),
    'test_width': (0, 16384),        # 0: from the frame's aspect
    'test_batch': (1, 1024),
    'roi': (0, float('inf')),
    'interactions': (1, 1000),
    'seconds': (1e-3, float('inf')),
}
PRETRAINED = {
    'file': 'models/model_best.pth.tar',  # below the data path or this folder
    'what': 'DeepLabV3+ (ResNet-101) trained on COCO, model_best.pth.tar, linked in the README of '
            'https://github.com/lightas/CVPR2020_MANet',
    'how': 'Convert it (python -m MANet.convert --source=model_best.pth.tar '
           '--output=coco/model.ckpt)',
}  # of checkpoint_to_start_from()
PAPER = {'davis 2017': {'J at 60 s': 0.761, 'AUC of J': 0.749}}  # {data and year: {score: value}}


def get_config(preset: str = 'full') -> EasyDict:
    """The settings of one preset, flat names and plain values.

    Raises:
      ValueError: no such preset.
    """
    if preset not in PRESETS:
        raise ValueError(f'no preset {preset!r}; there are {", ".join(PRESETS)}')
    cfg = EasyDict(_full())
    changes = {'stage1': _stage1, 'stage2': _stage2, 'performance': _performance,
               'small': _small, 'smoke': _smoke}  # fmt: skip
    cfg.update(changes.get(preset, dict)())
    cfg.preset = preset
    return cfg


def _full():
    return dict(
        name='MANet',                # the model's folder, first word of CaseName
        # data
        dataset='davis',             # the only one with scribbles
        year='2017',                 # DAVIS: '2017' several objects, '2016' all as one
        height=0,                    # px that frames are first brought to; 0: as they are (PT)
        size=416,                    # px, side of the training images (PT)
        scales=[0.75, 1.0, 1.25],    # of the frames before the crop (PT)
        flip=0.5,                    # probability of mirroring (PT)
        tries=5,                     # crops drawn until one shows an object (PT; see data.augment)
        damage=True,                 # previous masks moved, scaled and turned (PT)
        objects=0,                   # most objects of an example; 0: of the data
        workers=4,                   # reader processes
        # network
        channels=1.0,                # factor on all channels
        blocks=[3, 4, 23, 3],        # bottlenecks of layer1..layer4 (ResNet-101)
        max_distance=12,             # cells of the halved map, local matching (PT)
        neighbours=1,                # cells whose mean distance is the global map (PT KNNS)
        bn_decay=0.9,                # moving statistics of DeepLab (PT momentum 0.1)
        head_decay=0.9997,           # of embedding and heads (PT 0.0003): needs over 10k updates
        # training
        from_scratch=False,          # random weights where published ones are expected
        stage1_steps=101000,         # updates of embedding and propagation head (PT); then stage 2
        batch_size=2,                # sequences a card a step (PT)
        train_epochs=0,              # passes over the sequences, instead of train_steps
        train_steps=201001,          # updates of both stages (PT 100,001 of stage 2)
        learning_rate=7e-4,          # SGD (PT)
        power=0.9,                   # of the falling rate (PT)
        group0_only=True,            # the rate falls for DeepLab alone, as in PT
        momentum=0.9,                # (PT)
        nesterov=True,               # (PT; stage 1 alone)
        weight_decay=4e-5,           # of everything (PT)
        clip=5.0,                    # global norm of the gradients (PT; stage 1 alone)
        hardest=0.15,                # share of the pixels that count in the end (PT)
        mining_steps=50000,          # updates until then (PT)
        cycle=900,                   # stage 2: updates a round of scribbles (PT 30 epochs of 30)
        rounds=3,                    # stage 2: rounds a cycle (PT)
        true_result=True,            # stage 2: corrects the network's masks, not damaged truth (PT)
        # rounds
        test_height=480,             # px (PT: 480x854 of every video)
        test_width=854,              # px; 0: from the frame's aspect
        test_batch=2,                # frames in one pass of the network (PT 14)
        roi=20,                      # cells around the first scribbles; beyond is background (PT)
        merge='newest',              # frames between annotated ones: of the last round (PT), or
                                     # 'distance': of both sides, annotated frames stay
        interactions=8,              # rounds of an evaluation (PT)
        seconds=30.0,                # budget, an interaction and object (PT)
        metric='J',                  # that the evaluation asks for: J, F or J_AND_F (PT J)
        # run
        seed=1234,                   # PD
        log_steps=50,                # updates a progress line (PT)
        summary_steps=0,             # updates between images for TensorBoard, CPU alone; 0: none
        checkpoint_steps=1000,       # updates a checkpoint (PT 20,000)
        keep_checkpoints=3,          # newest kept
        iterations_per_loop=1,       # updates a call on the NPU
        precision_mode='allow_mix_precision',  # NPU; on CPU always float32
        loss_scale='dynamic',        # 'dynamic' (2^32, ascend.md g), 'none' or a number
        black_list=['ReduceSumD'],   # operators kept in float32: fp16 sums overflow and are slow
    )


def _stage1():  # train_stage1.py
    return dict(train_steps=101000)


def _stage2():  # train_stage2.py, from the last checkpoint of stage 1
    return dict(stage1_steps=0, train_steps=100001)


def _performance():
    return dict(from_scratch=True, train_steps=500, log_steps=50, checkpoint_steps=500)


def _small():
    return dict(
        _smoke(), channels=0.25, blocks=[1, 2, 3, 1], height=160, size=144, year='2016',
        max_distance=8, stage1_steps=900, train_steps=1900, test_height=160, test_width=284, roi=8,
        merge='distance', log_steps=20, checkpoint_steps=100, cycle=100,
    )


def _smoke():
    return dict(
        from_scratch=True,
        channels=0.125, blocks=[1, 1, 2, 1], height=120, size=112, max_distance=6,
        batch_size=4, stage1_steps=200, train_steps=500, learning_rate=0.02, group0_only=False,
        bn_decay=0.95, head_decay=0.98, cycle=50,
        test_height=120, test_width=214, roi=5,
        workers=2, log_steps=10, checkpoint_steps=50, keep_checkpoints=2,
    )
