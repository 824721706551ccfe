"""Runs the official OSVOS-PyTorch on seeded weights and images and keeps what it answers.

    git clone https://github.com/kmaninis/OSVOS-PyTorch
    python test/recorded/osvos_official.py --official=OSVOS-PyTorch --output=DIR
    python test/recorded/osvos_official.py --official=OSVOS-PyTorch --small=osvos_small.npz

Needs torch, OpenCV, scipy. The first command is the parity test's, the second made osvos_small.npz.
Imports the checkout, holds none of its code.
"""

from __future__ import annotations

import argparse
import os
import random
import sys

import cv2
import numpy as np

SIZES = {'full': (480, 854), 'odd': (197, 261)}  # px
SEED = 7


def network(torch):
    """The official network, seeded; later layers are scaled so that the logits spread by about
    1."""
    from networks.vgg_osvos import OSVOS

    torch.manual_seed(SEED)
    net = OSVOS(pretrained=0)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if 'upscale' in name:
                continue
            if p.ndim == 4:
                fan_in = p.shape[1] * p.shape[2] * p.shape[3]
                p.normal_(0, (2 / fan_in) ** 0.5 / (57 if name == 'stages.0.0.weight' else 1))
            else:
                p.normal_(0, 0.05)
    return net


def example(height, width):
    """An image float32 [1, 3, H, W], B, G, R minus mean, and a mask float32 [1, 1, H, W]."""
    draw = np.random.RandomState(SEED)
    smooth = cv2.resize(draw.uniform(-110, 140, (9, 13, 3)), (width, height)).astype(np.float32)
    mask = np.zeros((height, width), np.float32)
    cv2.ellipse(mask, (width // 3, height // 2), (width // 6, height // 4), 20, 0, 360, 1, -1)
    return smooth.transpose(2, 0, 1)[None].copy(), mask[None, None]


def record(torch, folder):
    """Writes weights (zip and legacy), logits at both sizes, loss and the first update of the
    parent recipe."""
    from layers.osvos_layers import class_balanced_cross_entropy_loss as loss_function

    net = network(torch)
    torch.save(net.state_dict(), os.path.join(folder, 'zip.pth'))
    torch.save(
        net.state_dict(), os.path.join(folder, 'legacy.pth'), _use_new_zipfile_serialization=False
    )
    arrays = {}
    for key, size in SIZES.items():
        image, mask = example(*size)
        arrays[f'{key}/image'], arrays[f'{key}/mask'] = image, mask
        outputs = net(torch.from_numpy(image))
        for i, out in enumerate(outputs):
            arrays[f'{key}/{i}'] = out.detach().numpy()
    losses = [loss_function(out, torch.from_numpy(mask), size_average=False) for out in outputs]
    arrays['losses'] = np.array([loss.item() for loss in losses])
    update(torch, net, sum(losses))
    for name, p in net.named_parameters():
        arrays[f'updated/{name}'] = p.detach().numpy()
    np.savez(os.path.join(folder, 'official.npz'), **arrays)


def update(torch, net, loss):
    """One step of SGD with the rates that train_parent.py gives its parameter groups (facts of the
    recipe)."""
    rates = {'stages': 1, 'side_prep': 1, 'score_dsn': 0.1, 'fuse': 0.01}
    groups = []
    for name, p in net.named_parameters():
        part = name.split('.')[0]
        if part in rates:
            bias = name.endswith('bias')
            groups.append(
                {
                    'params': [p],
                    'lr': 1e-8 * rates[part] * (2 if bias else 1),
                    'weight_decay': 0 if bias else 0.0002,
                }
            )
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def augmented(count=4):
    """Small images and masks through the official transforms, with the draws that Python's
    `random` gives."""
    from dataloaders import custom_transforms as official

    draw = np.random.RandomState(SEED)
    arrays = {}
    random.seed(SEED)
    flip, turn = (
        official.RandomHorizontalFlip(),
        official.ScaleNRotate(rots=(-30, 30), scales=(0.75, 1.25)),
    )
    for i in range(count):
        image = draw.uniform(-120, 140, (31, 46, 3)).astype(np.float32)
        gt = (cv2.resize(draw.rand(5, 7), (46, 31)) > 0.5).astype(np.float32)
        arrays[f'aug{i}/image'], arrays[f'aug{i}/mask'] = image, gt
        state = random.getstate()
        sample = turn(flip({'image': image.copy(), 'gt': gt.copy()}))
        end = random.getstate()
        random.setstate(state)
        arrays[f'aug{i}/draws'] = np.array([random.random() for _ in range(3)])
        assert random.getstate() == end  # three draws a sample
        arrays[f'aug{i}/image_out'], arrays[f'aug{i}/mask_out'] = sample['image'], sample['gt']
    return arrays


def small(torch, path):
    """Augmentation and losses on small arrays, for the tests that always run."""
    from layers.osvos_layers import class_balanced_cross_entropy_loss as loss_function

    arrays = augmented()
    draw = np.random.RandomState(SEED)
    for i, share in enumerate((0.02, 0.5, 0.0, 1.0)):
        logits = draw.normal(0, 6, (2, 1, 13, 17)).astype(np.float32)
        mask = (draw.rand(2, 1, 13, 17) < share).astype(np.float32)
        x = torch.from_numpy(logits).requires_grad_()
        loss = loss_function(x, torch.from_numpy(mask), size_average=False, batch_average=False)
        loss.backward()
        arrays.update(
            {
                f'loss{i}/logits': logits,
                f'loss{i}/mask': mask,
                f'loss{i}/value': loss.item(),
                f'loss{i}/gradient': x.grad.numpy(),
            }
        )
    np.savez_compressed(path, **arrays)


def main():
    """Records what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--official', required=True, help='checkout of OSVOS-PyTorch')
    parser.add_argument('--output', help='folder: weights, logits, first update; 180 MB')
    parser.add_argument('--small', help='.npz of small arrays')
    args = parser.parse_args()
    sys.path.insert(0, os.path.abspath(args.official))
    import torch

    if args.output:
        os.makedirs(args.output, exist_ok=True)
        record(torch, args.output)
    if args.small:
        small(torch, args.small)


if __name__ == '__main__':
    main()
