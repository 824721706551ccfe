"""Records what the official ColorNet code answers to seeded weights and draws.

    python test/recorded/colornet_official.py --official=colorNet_DUL --output=DIR [--small]

Needs Python 3 with torch, torchvision, einops, matplotlib, pyyaml, tqdm, imageio, pillow,
opencv-python below 4.13 and a checkout of icewaterq/colorNet_DUL, commit 7ad5a7a. Writes frames/
(made), S.pkl, M.pkl, L.pkl, DUL.pth (seeded) and official.npz: features, one training batch of the
official loader and one step on it, clips, propagated masks. --small writes
test/recorded/colornet_small.npz: losses on made features, votes, images' changes.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import types
from pathlib import Path

import cv2
import numpy as np
from colornet_made import CLIPS, PICTURES, made_frames, made_mask
from PIL import Image

HERE = Path(__file__).resolve().parent


class Draws:
    """torch's random functions, drawn from a numpy generator."""

    def __init__(self, seed):
        self.state = np.random.RandomState(seed)

    def install(self, torch):
        """Replaces them; returns a function that puts them back."""
        names = ('rand', 'randperm', 'randint', 'empty')
        kept = {name: getattr(torch, name) for name in names}
        state = self.state

        class Scalar(float):
            def uniform_(self, low, high):
                return state.uniform(low, high)

        torch.rand = lambda *a, **k: torch.tensor(state.rand(), dtype=torch.float64)
        torch.randperm = lambda n, **k: torch.from_numpy(state.permutation(n))
        torch.randint = lambda low, high, size, **k: torch.from_numpy(
            np.array(state.randint(low, high)).reshape([1] * len(size))
        )
        torch.empty = lambda *a, **k: Scalar()
        return lambda: [setattr(torch, name, value) for name, value in kept.items()]


def prepared(checkout: Path):
    """The official modules, with what new packages lack."""
    import torch

    sys.path.insert(0, str(checkout))
    np.long, array = np.int64, np.array
    np.array = lambda *a, copy=True, **k: array(*a, copy=copy or None, **k)
    fill = cv2.fillConvexPoly
    cv2.fillConvexPoly = lambda image, points, *rest: fill(image, points.astype(np.int32), *rest)
    for method in (torch.Tensor, torch.nn.Module):
        method.cuda = lambda self, *a, **k: self
    torch.Tensor.view = torch.Tensor.reshape  # new versions refuse views of cut tensors
    import core.config as config
    import datasets.dataloader_base as base

    base.custom_palette = lambda count: None

    config.cfg.MODEL.FEATURE_DIM = 128
    config.cfg.DATASET.update(
        VIDEO_LEN=3, RND_CROP=True, RND_ZOOM=True, RND_ZOOM_RANGE=[0.5, 1.0], GUIDED_HFLIP=True,
        FRAME_GAP=2, SMALLEST_RANGE=[256, 320],
    )  # fmt: skip
    config.cfg.TEST.update(KNN=10, CXT_SIZE=20, RADIUS=12, TEMP=0.05, KEY='merge')
    source = (checkout / 'trainColorNetDUL_benchmark.py').read_text()
    names = {}
    exec(source.split('def adjust_learning_rate(optimizer')[0], names)
    return torch, config.cfg, names['ViT']


def disturbed(torch, net, seed):
    """Seeded weights, and batch norms with the statistics of made images."""
    torch.manual_seed(seed)
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        torch.nn.init.uniform_(norm.weight, 0.6, 1.4)
        torch.nn.init.normal_(norm.bias, 0, 0.2)
    net.train()
    with torch.no_grad():
        net(torch.from_numpy(np.random.RandomState(seed).randn(2, 3, 96, 96).astype(np.float32)))
        for norm in norms:
            norm.momentum = 0.1
            norm.running_mean += 0.1 * torch.randn_like(norm.running_mean)
            norm.running_var *= torch.rand_like(norm.running_var) + 0.5
    net.eval()  # which returns nothing in dense-ulearn-vos
    return net


def networks(torch, output):
    """{name: network}; weights are saved as the official programs do."""
    from models.resnet_my import resnet18

    found = {}
    for seed, (name, mode) in enumerate((('S', 'color_dul'), ('M', 'color_dul'), ('L', 'color'))):
        torch.manual_seed(seed)
        net = disturbed(torch, resnet18(model_size=name, feat_mode=mode), seed)
        config = dict(model_size=name, is_dul=mode == 'color_dul', first_kernal_size=3, TEMP=25)
        torch.save({'model': net.state_dict(), 'train_config': config}, output / f'{name}.pkl')
        found[name] = net
    from models.net import Net
    from models.resnet18 import resnet18 as official18

    class Options:
        class MODEL:
            FEATURE_DIM = 128

    torch.manual_seed(3)
    net = disturbed(torch, Net(Options, official18()), 3)
    state = {f'module.fast_net.{k}': v for k, v in net.state_dict().items()}
    torch.save({'model': state, 'epoch': 1, 'score': 0.5}, output / 'DUL.pth')
    found['DUL'] = net
    return found


def features(torch, nets) -> dict:
    """Answers to one made batch, 96x136."""
    image = np.random.RandomState(5).randn(2, 3, 96, 136).astype(np.float32)
    result = {'image': image}
    for name, net in nets.items():
        with torch.no_grad():
            found = net(torch.from_numpy(image))
        order = ('key', 'res3', 'res4') if name == 'DUL' else ('q_color', 'q_cls', 'color', 'cls')
        for key, value in zip(order, found):
            if value is not None:
                result[f'{name}:{key}'] = value.numpy()
    return result


def clips(torch, cfg, output) -> dict:
    """Clips of the official loaders given the draws."""
    import datasets.dataloader_video_my_coco as coco_loader
    from datasets.dataloader_video_my_coco import DataVideo as Pictures
    from datasets.dataloader_video_my_dul import DataVideo

    def choice(found):
        return found[0] if isinstance(found[0], str) else random.choice(found)

    coco_loader.random = types.SimpleNamespace(
        random=random.random, randint=random.randint, uniform=random.uniform, choice=choice
    )  # choosing the image draws nothing here

    lines = []
    for video in range(3):
        paths = made_frames(output / 'frames' / 'JPEGImages' / f'v{video}', video)
        lines += [os.path.relpath(path, output / 'frames') for path in paths]
    lists = output / 'frames' / 'filelists'
    lists.mkdir(exist_ok=True)
    (lists / 'train_ytvos.txt').write_text('\n'.join(lines) + '\n')
    cfg.DATASET.ROOT = str(output / 'frames')
    coco = output / 'frames' / 'COCO' / 'train2017'
    for video in range(3):
        made_frames(coco, 20 + video, 1)
        os.replace(coco / '00000.png', coco / f'p{video}.png')
    result = {}
    sets = [('v', DataVideo(cfg, 'train_ytvos')), ('c', Pictures(cfg, 'train_ytvos'))]
    sets[1][1].cocodir = str(coco)
    for kind, dataset in sets:
        for n, (video, seed) in enumerate(CLIPS[: None if kind == 'v' else PICTURES]):
            random.seed(seed)
            restore = Draws(seed).install(torch)
            if kind == 'c':
                dataset.coco_flist = [f'p{video}.png']
            found = dataset[video]
            restore()
            names = ('main', 'second', 'grid', '', 'target', '', 'rgb', '', 'weight', 'dul1',
                     'dul2', 'theta')  # fmt: skip
            for name, value in zip(names, found):
                if name:
                    result[f'{kind}{n}:{name}'] = value.numpy()
    return result


def step(torch, cfg, ViT, output, recorded) -> dict:
    """Losses of the first two clips, gradients, and weights after one step of AdamW."""
    torch.manual_seed(0)
    net = ViT(cfg, ohem_range=[0, 1.0], model_size='S', is_dul=True)
    net.convlocal.load_state_dict(torch.load(output / 'S.pkl', weights_only=False)['model'])
    net.train()
    batch = {
        key: torch.from_numpy(np.stack([recorded[f'v{n}:{key}'] for n in (0, 1)])).float()
        for key in ('main', 'second', 'grid', 'target', 'weight', 'dul1', 'dul2', 'theta')
    }
    identity = torch.eye(2, 3).expand(2, 3, 2, 3).clone()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, eps=1e-8, betas=[0.9, 0.95])
    torch.manual_seed(9)
    found = net(
        batch['main'], batch['second'], batch['grid'], batch['grid'], batch['target'],
        batch['weight'], batch['dul1'], batch['dul2'], batch['theta'], identity,
    )  # fmt: skip
    total = found['loss_ce'] + found['loss_color'] + found['loss_dul'] * 0.01
    total.backward()
    optimizer.step()
    torch.manual_seed(9)
    places = [net._sample_index(torch.zeros(6, 1, 32, 32), 3, 8),
              net._sample_index(torch.zeros(2, 1, 32, 32), 1, 4)]  # fmt: skip
    result = {'anchor': places[0].numpy(), 'cross': places[1].numpy()}
    for ours, name in (('color', 'loss_color'), ('consistency', 'loss_ce'), ('dul', 'loss_dul'),
                       ('negative', 'neg_loss')):  # fmt: skip
        result[f'loss:{ours}'] = found[name].detach().numpy()
    for name, value in net.convlocal.state_dict().items():
        if 'num_batches' not in name:
            result[f'after:{name}'] = value.numpy().copy()
    found = {n: v.grad.clone() for n, v in net.convlocal.named_parameters() if v.grad is not None}
    net.convlocal.load_state_dict(torch.load(output / 'S.pkl', weights_only=False)['model'])
    net.double()
    net.zero_grad()
    torch.manual_seed(9)
    batch = {key: value.double() for key, value in batch.items()}
    answer = net(
        batch['main'], batch['second'], batch['grid'], batch['grid'], batch['target'],
        batch['weight'], batch['dul1'], batch['dul2'], batch['theta'], identity.double(),
    )  # fmt: skip
    (answer['loss_ce'] + answer['loss_color'] + answer['loss_dul'] * 0.01).backward()
    for name, value in net.convlocal.named_parameters():
        if value.grad is not None:  # in float64, and how far float32 is from it
            result[f'gradient:{name}'] = value.grad.numpy()
            rest = (found[name] - value.grad).pow(2).mean().sqrt()
            result[f'rounding:{name}'] = (rest / value.grad.pow(2).mean().sqrt()).numpy()
    return result


def propagated(torch, cfg, checkout, nets) -> dict:
    """Masks of eight made frames, a third object in the fourth; network input 240x432."""
    source = (checkout / 'infer_vos_dul.py').read_text()
    source = source.replace('h, w = 480,864', 'h, w = 240,432').split("if __name__ == '__main__'")[
        0
    ]
    names = {}
    exec(source, names)
    paths = made_frames(Path('/tmp') / f'frames{os.getpid()}', 7)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    images = np.stack([np.asarray(Image.open(p)) for p in paths]).astype(np.float32)
    tensor = torch.from_numpy(((images / 255 - mean) / std).transpose(0, 3, 1, 2)).float()
    result = {'frames': images.astype(np.uint8)}
    for key in ('merge', 'color'):
        cfg.TEST.KEY = key
        given = {0: made_mask(7, 0, 2), 3: np.where(made_mask(7, 3, 3) == 3, 3, 0)}
        init = {t: torch.zeros(1, 7, 150, 266) for t in given}
        for t, mask in given.items():
            for number in np.unique(mask):
                if number or t == 0:
                    init[t][0, number] = torch.from_numpy((mask == number).astype(np.float32))
        with torch.no_grad():
            masks, _ = names['step_seg'](
                cfg, nets['S'], names['LabelPropVOS_CRW'](cfg), tensor, init
            )
        result[f'masks:{key}'] = masks.numpy().astype(np.uint8)
    return result


def small(torch, cfg, ViT, checkout) -> dict:
    """Losses on made features, votes on a small map, changes of one image."""
    draw = np.random.RandomState(1)
    unit = lambda *s: torch.nn.functional.normalize(  # noqa: E731
        torch.from_numpy(draw.randn(*s).astype(np.float32)), dim=1
    )
    result = {}
    for n, (neg, ohem) in enumerate(((True, [0, 1.0]), (False, [0.2, 0.7]))):
        net = ViT(cfg, ohem_range=ohem, model_size='S', is_dul=True, is_neg=neg)
        keys = [unit(2 * k, 8, 32, 32) for k in (4, 2, 3, 3)]
        queue = [(k, k, None, None) for k in keys]
        net._modules.pop('convlocal')
        net.__dict__['convlocal'] = lambda x, queue=queue: queue.pop(0)
        grid = torch.from_numpy((draw.rand(2, 3, 32, 32, 2) * 2.6 - 1.3).astype(np.float32))
        theta = torch.tensor([[-0.7, 0, 0.2], [0, 0.7, -0.1]]).expand(2, 3, 2, 3)
        lab = torch.from_numpy(draw.randint(0, 256, (2, 3, 3, 256, 256)).astype(np.float32) / 255)
        weight = torch.from_numpy(draw.randint(0, 256, (2, 3, 1, 256, 256)).astype(np.float32))
        weight = (weight / 255 * 4 + 1).expand(2, 3, 3, 256, 256)
        frames = torch.zeros(2, 3, 3, 256, 256)
        torch.manual_seed(7)
        identity = torch.eye(2, 3).expand(2, 3, 2, 3).clone()
        found = net(frames, frames, grid, grid, lab, weight, frames, frames, theta, identity)
        torch.manual_seed(7)
        result[f'{n}:anchor'] = net._sample_index(torch.zeros(6, 1, 32, 32), 3, 8).numpy()
        result[f'{n}:cross'] = net._sample_index(torch.zeros(2, 1, 32, 32), 1, 4).numpy()
        for ours, name in (('color', 'loss_color'), ('consistency', 'loss_ce'),
                           ('dul', 'loss_dul'), ('negative', 'neg_loss')):  # fmt: skip
            result[f'{n}:{ours}'] = found[name].detach().numpy()
    from labelprop.common import LabelPropVOS_CRW

    cfg.TEST.RADIUS = 5
    maps = [unit(1, 8, 17, 26) for _ in range(5)]
    labels = [torch.from_numpy(draw.rand(1, 3, 17, 26).astype(np.float32)) for _ in range(4)]
    order = [0, 0, 1, 1, 2, 3]
    found = LabelPropVOS_CRW(cfg).predict(
        [maps[k] for k in order], [labels[k] for k in order], maps[4]
    )
    result['labels'] = found.numpy()
    result.update(optimized(torch))
    return result


def optimized(torch) -> dict:
    """A weight and a bias after each of three steps on made gradients, with both optimizers."""
    draw, result = np.random.RandomState(3), {}
    start, gradients = draw.randn(2, 6), draw.randn(3, 2, 6) * 10.0 ** -np.arange(1, 7)
    for name in ('adamw', 'adam'):
        values = [torch.nn.Parameter(torch.tensor(v, dtype=torch.float32)) for v in start]
        if name == 'adamw':
            optimizer = torch.optim.AdamW(values, lr=1e-3, eps=1e-8, betas=[0.9, 0.95])
        else:
            groups = [{'params': values[:1], 'lr': 1e-3, 'weight_decay': 5e-4},
                      {'params': values[1:], 'lr': 2e-3, 'weight_decay': 0}]  # fmt: skip
            optimizer = torch.optim.Adam(groups, betas=(0.5, 0.999))
        for n, pair in enumerate(gradients):
            for value, gradient in zip(values, pair):
                value.grad = torch.tensor(gradient, dtype=torch.float32)
            optimizer.step()
            result[f'{name}{n}'] = np.stack([v.detach().numpy() for v in values])
    return result


def main():
    """Records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--official', required=True)
    parser.add_argument('--output', required=True)
    parser.add_argument('--small', action='store_true')
    args = parser.parse_args()
    output, checkout = Path(args.output), Path(args.official).resolve()
    output.mkdir(parents=True, exist_ok=True)
    torch, cfg, vit = prepared(checkout)
    if args.small:
        found = small(torch, cfg, vit, checkout)
        np.savez_compressed(HERE / 'colornet_small.npz', **found)
        return
    nets = networks(torch, output)
    found = features(torch, nets)
    found.update(clips(torch, cfg, output))
    found.update(step(torch, cfg, vit, output, found))
    found.update(propagated(torch, cfg, checkout, nets))
    np.savez(output / 'official.npz', **found)


if __name__ == '__main__':
    main()
