"""Records what the official SiamMask code answers to seeded weights and draws.

    python test/recorded/siammask_official.py --official=SiamMask --frames=DAVIS/.../tennis \
        --crops=CROPS --output=DIR [--small]

Needs Python 3 with torch, opencv-python below 4.13, scipy, gcc and a checkout of foolwood/SiamMask.
--crops: a folder that `python -m SiamMask.prepare` wrote from the drawn data. Writes base.pth and
sharp.pth (seeded), their answers official.npz; --small writes test/recorded/siammask_small.npz,
what the tests without the checkout use: overlaps, scores, augmentation and targets.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import siammask_toolkit as toolkit

HERE = Path(__file__).resolve().parent
BOX = (300, 110, 165, 250)  # x, y, w, h of the tennis player
FRAMES = 6


def prepare_imports(checkout: Path, experiment: str):
    """Paths and stand-ins for what new versions of the packages lack."""
    for name, kind in (('float', float), ('int', int), ('bool', bool)):
        if name not in np.__dict__:
            setattr(np, name, kind)
    region = types.ModuleType('region')
    region.vot_overlap = region.vot_float2str = None
    for name in ('utils.pyvotkit', 'utils.pyvotkit.region'):
        sys.modules[name] = region
    sys.path[:0] = [str(checkout), str(checkout / 'experiments' / experiment)]


def seeded(checkout: Path, experiment: str, pictures):
    """A network whose batch norms hold the statistics of real pictures, disturbed."""
    import torch

    for name in ('custom', 'resnet'):
        sys.modules.pop(name, None)
    sys.path.insert(0, str(checkout / 'experiments' / experiment))
    custom = importlib.import_module('custom')
    sys.path.pop(0)
    torch.Tensor.cuda = lambda self, *a, **k: self
    torch.Tensor.view = torch.Tensor.reshape  # new versions refuse views of cut maps
    torch.manual_seed(0)
    net = custom.Custom(anchors=toolkit.anchors())
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        torch.nn.init.uniform_(norm.weight, 0.6, 1.4)
        torch.nn.init.normal_(norm.bias, 0, 0.2)
    torch.nn.Module.train(net, True)
    for module in net.modules():
        module.training = True
    template, search = pictures
    with torch.no_grad():
        zf, xf = net.features(template), net.features(search)
        net.rpn(zf, xf)
        net.mask_model.mask(zf, xf)
        for norm in norms:
            norm.momentum = 0.1
            norm.running_mean += 0.1 * torch.randn_like(norm.running_mean)
            norm.running_var *= torch.rand_like(norm.running_var) + 0.5
        for name, p in net.named_parameters():
            if name.endswith('head.3.weight'):
                p *= 0.002 if 'loc' in name else 1  # boxes of a usual size
    for module in net.modules():
        module.training = False
    return net


def numpy(**tensors):
    return {
        k: v.detach().numpy() if hasattr(v, 'detach') else np.asarray(v) for k, v in tensors.items()
    }


def crops_of(frames, count=2):
    """Templates [count, 3, 127, 127] and search pictures [count, 3, 255, 255] of a sequence."""
    import torch

    pictures = [cv2.imread(str(f)).astype(np.float32) for f in frames[: count + 1]]
    cut = lambda im, s, x, y: im[y : y + s, x : x + s].transpose(2, 0, 1)  # noqa: E731
    z = np.stack([cut(im, 127, 320 + 9 * i, 150) for i, im in enumerate(pictures[:count])])
    x = np.stack([cut(im, 255, 260, 90 + 7 * i) for i, im in enumerate(pictures[1:])])
    return torch.from_numpy(z), torch.from_numpy(x)


def network_answers(net, pictures, sharp: bool) -> dict:
    """cls, loc, mask (or corr and one refined mask) of the seeded network."""
    import torch

    z, x = pictures
    with torch.no_grad():
        net.template(z)
        if sharp:
            cls, loc, mask = net.track_mask(x)
            refined = torch.cat(
                [
                    net.refine_model(
                        [f[n : n + 1] for f in net.feature],
                        net.corr_feature[n : n + 1],
                        pos=(3 + 9 * n, 20 - 8 * n),
                        test=True,
                    )
                    for n in range(len(x))
                ]
            )
            return numpy(cls=cls, loc=loc, mask=mask[:, :, 10:14, 10:14], refined=refined)
        cls, loc, mask = net.track_mask(x)
    return numpy(cls=cls, loc=loc, mask=mask[:, :, 10:14, 10:14])


def labels(count, side, size, sharp):
    """Seeded labels of a batch; the last pair has no positives."""
    draw = np.random.RandomState(5)
    cls = (
        draw.choice([-1, 0, 1], (count, 5, side, side), p=[0.6, 0.3, 0.1])
        if sharp
        else (np.full((count, 5, side, side), -1))
    )
    if not sharp:
        for n in range(count):
            flat = cls[n].reshape(-1)
            chosen = draw.permutation(flat.size)[:60]
            flat[chosen] = 0
            flat[chosen[:9]] = 1
    cls[-1][cls[-1] == 1] = 0
    loc = draw.randn(count, 4, 5, side, side).astype(np.float32)
    weight = (cls == 1) / np.maximum((cls == 1).sum((1, 2, 3), keepdims=True), 1)
    mask = np.where(draw.rand(count, 1, size, size) < 0.4, 1, -1).astype(np.float32)
    mask = cv2.blur(mask[0, 0], (9, 9))
    mask = np.where(np.stack([np.roll(mask, 5 * n, 0) for n in range(count)]) > 0, 1, -1)[:, None]
    return dict(
        cls=cls,
        loc=loc,
        loc_weight=weight.astype(np.float32),
        mask=mask.astype(np.float32),
        mask_weight=cls.max(1, keepdims=True),
    )


def training_answers(net, pictures, sharp: bool) -> dict:
    """Losses, some gradients and moving statistics of one pass in training mode."""
    import torch

    z, x = pictures
    x = x[:, :, 56:199, 56:199].contiguous() if sharp else x
    given = labels(len(z), 3 if sharp else 25, x.shape[-1], sharp)
    on = (
        [net.mask_model, net.refine_model]
        if sharp
        else [net.features.downsample, net.rpn_model, net.mask_model]
    )
    torch.nn.Module.train(net, False)
    for part in on:
        for module in part.modules():
            module.training = True
    for p in net.parameters():
        p.requires_grad = True
    net.zero_grad()
    net.training = True
    feed = dict(
        template=z,
        search=x,
        label_cls=torch.from_numpy(given['cls']),
        label_loc=torch.from_numpy(given['loc']),
        label_loc_weight=torch.from_numpy(given['loc_weight']),
        label_mask=torch.from_numpy(given['mask'])
        if sharp
        else torch.nn.functional.pad(torch.from_numpy(given['mask']), [32] * 4),
        label_mask_weight=torch.from_numpy(given['mask_weight']),
    )
    if sharp:
        out = net(feed)
    else:  # the padding of the label is in the base code's unfold
        feed['label_mask'] = torch.from_numpy(given['mask'])
        out = net(feed)
    cls, loc, mask = out['losses']
    weights = (0.0, 0.0, 36.0) if sharp else (1.0, 1.2, 36.0)
    (weights[0] * cls + weights[1] * loc + weights[2] * mask).backward()
    result = numpy(cls=cls, loc=loc, mask=mask)
    wanted = {
        'base': (
            'features.features.layer3.1.conv2.weight',
            'rpn_model.cls.head.3.weight',
            'features.downsample.downsample.0.weight',
            'rpn_model.loc.head.1.weight',
            'mask_model.mask.head.3.weight',
            'mask_model.mask.conv_kernel.0.weight',
        ),
        'sharp': (
            'refine_model.v0.0.weight',
            'refine_model.deconv.weight',
            'refine_model.post2.weight',
            'mask_model.mask.conv_search.0.weight',
        ),
    }
    named, state = dict(net.named_parameters()), net.state_dict()
    for name in wanted['sharp' if sharp else 'base']:
        result['gradient:' + name] = named[name].grad.numpy()
    moved = (
        'mask_model.mask.conv_search.1.running_var'
        if sharp
        else ('features.downsample.downsample.1.running_mean')
    )
    result['moved:' + moved] = state[moved].numpy().copy()
    result.update({'label:' + k: v for k, v in given.items()})
    return result


def tracked(checkout: Path, net, frames, hyper: dict, sharp: bool) -> dict:
    """State and answer of every frame."""
    sys.modules['utils.benchmark_helper'] = types.SimpleNamespace(
        load_dataset=None, dataset_zoo=['VOT2018']
    )
    sys.argv = ['test.py', '--config=x', '--resume=x']
    test = importlib.import_module('tools.test')
    version, test.cv2.__version__ = cv2.__version__, '4.5.4'
    image = cv2.imread(str(frames[0]))
    x, y, w, h = BOX
    place, size = np.array([x + w / 2, y + h / 2]), np.array([w, h])
    state = test.siamese_init(image, place, size, net, hyper, 'cpu')
    rows = {k: [] for k in ('place', 'size', 'score', 'polygon', 'mask')}
    for f in frames[1:FRAMES]:
        state = test.siamese_track(state, cv2.imread(str(f)), True, sharp, 'cpu')
        rows['place'].append(state['target_pos'].copy())
        rows['size'].append(state['target_sz'].copy())
        rows['score'].append(state['score'])
        rows['polygon'].append(np.asarray(state['ploygon'], np.float64))
        rows['mask'].append(np.round(state['mask'] * 1000).astype(np.int16))
    test.cv2.__version__ = version
    return {k: np.stack(v) for k, v in rows.items()}


def sampled(checkout: Path, crops: str, config: dict, count: int) -> dict:
    """The first pairs of the official data set over drawn crops, draws seeded a pair."""
    module = importlib.import_module('datasets.siam_mask_dataset')
    module.sample_random.seed(123456)
    cfg = json.loads(json.dumps(config['train_datasets']))
    for name, entry in cfg['datasets'].items():
        entry['root'] = f'{crops}/{name}/crop511'
        entry['anno'] = f'{crops}/{name}/' + entry['anno'].split('/')[-1]
        entry['num_use'] = 20
    cfg['num'] = 60
    found = module.DataSets(cfg, config['anchors'])
    result = {'pick': np.array(found.pick[:60])}
    names = ('template', 'search', 'cls', 'loc', 'loc_weight', 'box', 'mask', 'mask_weight')
    for i in range(count):
        random.seed(i)
        np.random.seed(i)
        result.update({f'{i}:{k}': np.asarray(v) for k, v in zip(names, found[i])})
    return result


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--official', required=True)
    parser.add_argument('--frames')
    parser.add_argument('--crops')
    parser.add_argument('--output', required=True)
    parser.add_argument('--small', action='store_true')
    args = parser.parse_args()
    checkout, output = Path(args.official).resolve(), Path(args.output).resolve()
    output.mkdir(parents=True, exist_ok=True)
    prepare_imports(checkout, 'siammask_sharp')
    if args.small:
        overlap = toolkit.overlap_library(checkout, output)
        first, second = toolkit.overlap_cases()
        found = {
            f'overlap{i}': np.array(
                [overlap(a, b, size) for a, b in zip(first, second)], np.float32
            )
            for i, size in enumerate(((320, 240), (319, 239), None))
        }
        found.update(toolkit.augmentations(checkout), **toolkit.scores(checkout, output))
        np.savez_compressed(HERE / 'siammask_small.npz', **found)
        return
    import torch

    torch.set_num_threads(2)
    frames = sorted(Path(args.frames).glob('*.jpg'))
    pictures, found = crops_of(frames), {}
    for variant in ('base', 'sharp'):
        sharp = variant == 'sharp'
        net = seeded(checkout, f'siammask_{variant}', pictures)
        state = {f'module.{k}': v for k, v in net.state_dict().items()}
        torch.save(
            {'epoch': 1, 'state_dict': state},
            output / f'{variant}.pth',
            _use_new_zipfile_serialization=sharp,
        )
        found.update(
            {f'{variant}:{k}': v for k, v in network_answers(net, pictures, sharp).items()}
        )
        hyper = dict(
            instance_size=255,
            base_size=8,
            seg_thr=0.3,
            out_size=127 if sharp else 63,
            penalty_k=0.04,
            window_influence=0.42,
            lr=0.25,
        )
        rows = tracked(checkout, net, frames, hyper, sharp)
        found.update({f'{variant}:track:{k}': v for k, v in rows.items()})
        rows = training_answers(net, pictures, sharp)
        found.update({f'{variant}:train:{k}': v for k, v in rows.items()})
        if args.crops:
            path = checkout / 'experiments' / f'siammask_{variant}' / 'config.json'
            rows = sampled(checkout, args.crops, json.loads(path.read_text()), 12)
            found.update({f'{variant}:sample:{k}': v for k, v in rows.items()})
    np.savez(output / 'official.npz', z=pictures[0].numpy(), x=pictures[1].numpy(), **found)


if __name__ == '__main__':
    main()
