"""Records what the official OSMN code answers to seeded weights and draws.

    python test/recorded/osmn_official.py --official=video_seg --output=DIR [--small]

Needs Python 3.7 with TensorFlow 1.15 (tf.contrib), opencv, pillow and a checkout of
linjieyangsc/video_seg, which is Python 2: a copy is translated by lib2to3 in a temporary folder and
its integer divisions are made explicit. Writes official.npz and a checkpoint official.ckpt with
the published names; --small writes test/recorded/osmn_small.npz, what the tests without the
checkout use: the pure functions and the samples.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import random
import sys
import tempfile
import types
from pathlib import Path

import numpy as np

FILES = ('model_func', 'mobilenet_v1', 'ops', 'util', 'osmn', 'dataset_davis', 'dataset_coco')
DIVISIONS = (  # Python 2's integer divisions, made explicit
    ('im_size[1]/2, im_size[0]/2', 'im_size[1]//2, im_size[0]//2'),
    ('tuple(np.array(image.shape[1::-1])/2)', '(image.shape[1] // 2, image.shape[0] // 2)'),
    ('((xmin+xmax)/2, (ymin + ymax)/2)', '((xmin+xmax)//2, (ymin + ymax)//2)'),
    ('size_p_1 = size_p / 2', 'size_p_1 = size_p // 2'),
    ('np.array(ka_size))/2', 'np.array(ka_size))//2'),
)
STUBS = ('pydensecrf', 'pydensecrf.densecrf', 'pydensecrf.utils')


def load(checkout: str, folder: str) -> dict:
    """The official modules, translated into `folder`."""
    from lib2to3.refactor import RefactoringTool, get_fixers_from_package

    tool = RefactoringTool(get_fixers_from_package('lib2to3.fixes'))
    for name in FILES:
        text = (Path(checkout) / f'{name}.py').read_text()
        for old, new in DIVISIONS:
            text = text.replace(old, new)
        text = text.expandtabs(8)
        (Path(folder) / f'{name}.py').write_text(str(tool.refactor_string(text + '\n', name)))
    sys.path.insert(0, folder)
    for name in STUBS:
        stub = types.ModuleType(name)
        for member in ('unary_from_labels', 'unary_from_softmax', 'create_pairwise_bilateral'):
            setattr(stub, member, None)
        stub.create_pairwise_gaussian = None
        sys.modules[name] = stub
    sys.modules['pydensecrf'].densecrf = sys.modules['pydensecrf.densecrf']
    return {name: importlib.import_module(name) for name in FILES if name != 'dataset_coco'}


def parameters(**changes):
    """The model parameters that the official code reads, its defaults."""
    values = dict(
        mod_early_conv=False, use_visual_modulator=True, use_spatial_modulator=True,
        train_seg=True, fix_bn=False, base_model='osvos', aligned_size=None, im_size=[128, 96],
        vg_keep_aspect_ratio=False, vg_random_crop_ratio=0.1, vg_random_rotate_angle=10,
        vg_color_aug=False, vg_pad_ratio=0.03, use_original_mask=False, bbox_sup=False,
        sg_center_perturb_ratio=0.2, sg_std_perturb_ratio=0.4, mean_value=[104, 117, 123],
        scale_value=1.0, data_aug_scales=[1.0],
    )  # fmt: skip
    return types.SimpleNamespace(**dict(values, **changes))


def inputs(height: int, width: int, batch: int, guide: int = 224):
    """Seeded guide, heat, image and mask."""
    draw = np.random.RandomState(7)
    y, x = np.mgrid[:height, :width]
    heat = np.exp(-(((x - width / 3) / 20) ** 2) - ((y - height / 2) / 15) ** 2)
    return (
        draw.uniform(-100, 130, (batch, guide, guide, 3)).astype(np.float32),
        np.repeat(heat[None, ..., None], batch, 0).astype(np.float32),
        draw.uniform(-100, 130, (batch, height, width, 3)).astype(np.float32),
        (draw.rand(batch, height, width, 1) < 0.2).astype(np.float32),
    )


def seeded(variables) -> list:
    """Values for the variables: He-like kernels, small biases, positive statistics."""
    values = []
    for v in variables:
        shape, name = v.shape.as_list(), v.op.name
        draw = np.random.RandomState(sum(map(ord, name)) % 2**31)
        if name.endswith('weights'):
            fan = int(np.prod(shape[:-1])) if 'depthwise' not in name else 9
            value = draw.standard_normal(shape).astype(np.float32) * np.sqrt(2.0 / fan)
            value *= 0.01 if 'modulator/fc8' in name or '_out_' in name else 1  # scales near 1
            value *= 1 / 60 if shape[-2] in (3, 4) and shape[0] == 3 else 1  # pixels
        elif name.endswith(('gamma', 'moving_variance')):
            value = draw.uniform(0.5, 1.5, shape)
        else:
            start = 1.0 if 'modulator/fc8/' in name or '_out_' in name else 0.0
            value = start + 0.1 * draw.standard_normal(shape)
        values.append(np.asarray(value, np.float32))
    return values


def networks(modules, output: str, sizes, variant: str) -> dict:
    """Scales and logits of a variant at sizes; its weights go to <output>/<variant>.ckpt."""
    import tensorflow as tf

    found, model = {}, modules['model_func']
    function = getattr(model, 'osmn' if variant == 'osvos' else f'osmn_{variant}')
    visual = model.visual_modulator_lite if variant == 'lite' else model.visual_modulator
    for tag, (height, width) in sizes.items():
        params = parameters(base_model=variant, im_size=[width, height])
        guide, heat, image, _ = inputs(height, width, 1)
        with tf.Graph().as_default(), tf.Session() as session:
            scales = visual(tf.constant(guide), params, is_training=False)
            feed = [tf.constant(x) for x in (guide, heat, image)]
            logits, _ = function(feed, params, visual_modulator_params=scales)
            step = tf.Variable(0, name='global_step', trainable=False)
            variables = [v for v in tf.global_variables() if v is not step]
            for v, value in zip(variables, seeded(variables)):
                v.load(value, session)
            session.run(step.initializer)
            if variant != 'lite':
                session.run(model.interp_surgery(tf.global_variables()))
            if scales is not None:
                many = scales if isinstance(scales, list) else [scales]
                flat = [np.reshape(x, [1, -1]) for x in session.run(many)]
                found[f'{variant}/{tag}/scales'] = np.concatenate(flat, 1)
            found[f'{variant}/{tag}/logits'] = session.run(logits)
            tf.train.Saver().save(session, os.path.join(output, f'{variant}.ckpt'))
    return found


def training(modules, height=96, width=128) -> dict:
    """Loss, L2 and some gradients of a batch of 2, without dropout, with batch statistics."""
    import tensorflow as tf

    guide, heat, image, mask = inputs(height, width, 2)
    with tf.Graph().as_default(), tf.Session() as session:
        params = parameters()
        scales = modules['model_func'].visual_modulator(tf.constant(guide), params)
        feed = [tf.constant(x) for x in (guide, heat, image)]
        logits, _ = modules['model_func'].osmn(
            feed, params, visual_modulator_params=scales, is_training=True
        )
        loss = modules['osmn'].class_balanced_cross_entropy_loss(logits, tf.constant(mask))
        decay = tf.add_n(tf.losses.get_regularization_losses())
        names = [
            'osmn/modulator/fc8/biases', 'osmn/modulator/conv1/conv1_1/weights',
            'osmn/seg/conv3/conv3_2/weights', 'osmn/seg/upscore-fuse/weights',
            'osmn/modulator_sp/conv4/weights', 'osmn/modulator_sp/conv4/BatchNorm/gamma',
        ]  # fmt: skip
        variables = {v.op.name: v for v in tf.trainable_variables()}
        gradients = tf.gradients(loss + decay, [variables[name] for name in names])
        everything = tf.global_variables()
        for v, value in zip(everything, seeded(everything)):
            v.load(value, session)
        session.run(modules['model_func'].interp_surgery(everything))
        values = session.run([loss, decay] + gradients)
        statistics = [
            v for v in everything if 'modulator_sp' in v.op.name and 'moving' in v.op.name
        ]
        after = dict(zip((v.op.name for v in statistics), session.run(statistics)))
    found = {'train/loss': values[0], 'train/decay': values[1]}
    found.update({f'train/gradient/{n}': g for n, g in zip(names, values[2:])})
    found.update({f'train/after/{n}': a for n, a in after.items()})
    return found


@contextlib.contextmanager
def draws(numbers, mask=False):
    """random.random and np.random.uniform answer from our 17 numbers, in the official order of
    calls, with `mask` of a mask as spatial guide; see OSMN/data.py."""
    single = iter(numbers[[4, 5, 8]])
    guide = [numbers[11:12], numbers[9:11]] if mask else [numbers[9:11], numbers[11:13]]
    arrays = iter([numbers[:4], *guide])
    kept = random.random, np.random.uniform

    def uniform(low, high, count):
        return low + (high - low) * np.array(next(arrays))

    def one():
        heat = sys._getframe(1).f_code.co_name == 'get_gb_image'
        return 0.5 if heat else next(single)  # its blank_prob is 0: any number does

    random.random, np.random.uniform = one, uniform
    try:
        yield
    finally:
        random.random, np.random.uniform = kept


def pictures(folder: Path):
    """A guide frame and its mask, a previous mask, a frame and its mask, as files."""
    from PIL import Image

    draw = np.random.RandomState(3)
    y, x = np.mgrid[:60, :90]
    found = {}
    for i, name in enumerate(('guide', 'previous', 'now')):
        image = (draw.rand(60, 90, 3) * 255).astype(np.uint8)
        mask = ((x - 40 - 5 * i) ** 2 / 500 + (y - 30) ** 2 / 200 < 1).astype(np.uint8)
        mask[20:26, 30 + 4 * i : 60] = 0
        Image.fromarray(image).save(folder / f'{name}.png')
        Image.fromarray(mask).save(folder / f'{name}_mask.png')
        found[name], found[f'{name}_mask'] = image, mask
    return found


def samples(modules) -> dict:
    """Guide, heat map, image and mask of six samples with given draws, DAVIS and COCO order."""
    from PIL import Image

    util, found = modules['util'], {}
    args, disk = parameters(guide_size=(64, 64), data_aug_flip=True), util.get_dilate_structure(5)
    masked = parameters(**dict(vars(args), use_original_mask=True, dilate_structure=disk))

    def pixels(image):
        return util.to_bgr(np.array(image, np.float32)) - np.array((104, 117, 123))

    with tempfile.TemporaryDirectory() as folder:
        made = pictures(Path(folder))
        found.update({f'sample/{k}': v for k, v in made.items()})
        path = {k: os.path.join(folder, f'{k}.png') for k in made}
        item = [path[k] for k in ('guide', 'guide_mask', 'previous_mask', 'now', 'now_mask')]
        for i in range(6):
            numbers = np.random.RandomState(100 + i).random_sample(17)
            found[f'sample/{i}/draws'] = numbers
            args.vg_keep_aspect_ratio = i == 4
            with draws(numbers):
                values = {'davis': modules['dataset_davis'].get_one(item, (72, 40), args)}
            with draws(numbers, mask=True):
                grown = modules['dataset_davis'].get_one(item, (72, 40), masked)[1]
            found[f'sample/{i}/davis/dilated'] = grown.astype(np.uint8)
            with draws(numbers):  # the calls of dataset_coco.next_batch, in its order
                image, label = (Image.open(path[k]) for k in ('now', 'now_mask'))
                inside = util.get_mask_bbox(np.array(label))
                guide, shown = util.data_augmentation(
                    image.crop(inside), label.crop(inside), (64, 64), data_aug_flip=True,
                    keep_aspect_ratio=i == 4, random_crop_ratio=0.1, random_rotate_angle=10,
                )  # fmt: skip
                image, label = util.data_augmentation(image, label, (72, 40), random_crop_ratio=0)
                label = np.array(label, np.float32)
                heat = util.get_gb_image(label, center_perturb=0.2, std_perturb=0.4)
            guide = util.mask_image(pixels(guide), np.array(shown, np.uint8))
            values['coco'] = guide, heat, pixels(image), label
            for kind in values:
                for key, value in zip(('guide', 'heat', 'image', 'mask'), values[kind]):
                    found[f'sample/{i}/{kind}/{key}'] = np.asarray(value, np.float32)
    return found


def video(folder: Path, frames: int = 4):
    """Frames and the first mask of a moving blob, as files in the layout of DAVIS."""
    from PIL import Image

    draw = np.random.RandomState(11)
    texture = (draw.rand(60, 120, 3) * 120).astype(np.uint8)
    y, x = np.mgrid[:60, :90]
    found = []
    for kind in ('JPEGImages', 'Labels'):
        (folder / kind / 'clip').mkdir(parents=True)
    for t in range(frames):
        mask = ((x - 30 - 6 * t) ** 2 / 250 + (y - 28) ** 2 / 120 < 1).astype(np.uint8)
        image = texture[:, 3 * t : 3 * t + 90].copy()
        image[mask > 0] += 120
        Image.fromarray(image).save(folder / 'JPEGImages' / 'clip' / f'{t:05d}.png')
        found.append(image)
        if t == 0:
            Image.fromarray(mask * 255).save(folder / 'Labels' / 'clip' / '00000.png')
            first = mask
    return np.stack(found), first


def shifted(weights: str, target: str, by: float) -> str:
    """The checkpoint with `by` added to the bias of upscore-fuse."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(weights)
    with tf.Graph().as_default(), tf.Session() as session:
        for name, shape in reader.get_variable_to_shape_map().items():
            value = reader.get_tensor(name)
            value = value + np.float32(by) if name == 'osmn/seg/upscore-fuse/biases' else value
            placeholder = tf.placeholder(value.dtype, shape)
            variable = tf.Variable(placeholder, name=name)
            session.run(variable.initializer, {placeholder: value})
        return tf.train.Saver().save(session, target)


def roll_out(modules, output: str) -> dict:
    """Probabilities of the official test program on a clip, with the weights of osvos.ckpt."""
    import scipy.misc
    import tensorflow as tf
    from PIL import Image

    def save(path, image):  # as scipy.misc.imsave, which is gone
        Image.fromarray((np.asarray(image) * 255).astype(np.uint8)).save(path)

    scipy.misc.imsave = save
    args = parameters(num_loader=1, crf_postprocessing=False, save_score=True)
    weights = os.path.join(output, 'osvos.ckpt')
    for name in ('centred', 'maps'):
        with tempfile.TemporaryDirectory() as folder:
            with tf.Graph().as_default():
                images, mask = video(Path(folder))
                result = os.path.join(folder, 'results')
                frames = [os.path.join(folder, 'JPEGImages/clip', f'{t:05d}.png') for t in range(4)]
                label = os.path.join(folder, 'Labels', 'clip', '00000.png')
                written = [os.path.join(result, 'clip', f'{t:05d}.png') for t in range(4)]
                items = [(frames[0], label, None, None), (None, None, label, frames[1])]
                items += [(None, None, written[t - 1], frames[t]) for t in (2, 3)]
                dataset = modules['dataset_davis'].Dataset([], items, args)
                modules['osmn'].test(dataset, args, weights, result)
            maps = [np.load(os.path.join(result, 'clip', f'{t:05d}.npy')) for t in (1, 2, 3)]
        if name == 'centred':  # the bias is moved so that the masks are neither empty nor full
            level = np.percentile(maps[0], 80)
            weights = shifted(weights, os.path.join(output, 'roll.ckpt'), np.log(1 / level - 1))
    return {'roll/images': images, 'roll/mask': mask, 'roll/maps': np.stack(maps)}


def main() -> None:
    """Records into --output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--official', required=True)
    parser.add_argument('--output', required=True)
    parser.add_argument('--small', action='store_true')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        modules = load(args.official, folder)
        found = samples(modules)
        if args.small:
            small = {k: np.float16(v) if k.endswith('guide') else v for k, v in found.items()}
            np.savez_compressed(Path(__file__).parent / 'osmn_small.npz', **small)
            return
        sizes = {'small': (96, 128), 'wide': (256, 448)}
        for variant in ('osvos', 'deeplab', 'masktrack', 'lite'):
            chosen = sizes if variant in ('osvos', 'lite') else {'small': sizes['small']}
            if variant == 'osvos':
                chosen = dict(chosen, full=(480, 854))
            found.update(networks(modules, args.output, chosen, variant))
        found.update(roll_out(modules, args.output))
        found.update(training(modules))
    np.savez(os.path.join(args.output, 'official.npz'), **found)


if __name__ == '__main__':
    main()
