"""Records what the official MANet code answers to seeded weights.

    python test/recorded/manet_official.py --official=CVPR2020_MANet --output=DIR [--small]

Needs Python 3 with torch, torchvision, opencv-python below 4.13 and a checkout of
lightas/CVPR2020_MANet (75f562b; only its Python files). Writes net.pth (seeded, the form before
torch 1.6) and official.npz: embeddings, three rounds with memories, losses and the first step of
stage 1. --small writes test/recorded/manet_small.npz: matching and losses on made features.
"""

from __future__ import annotations

import argparse
import sys
import types
from pathlib import Path

import cv2
import numpy as np

HERE = Path(__file__).resolve().parent
SIZE = (97, 129)  # px of the pictures
ROUNDS = ((1, 1), (2, 0), (3, 2))  # round, annotated frame
SQUARE, OBJECTS = 65, (2, 1)  # px of the training pictures, objects of its two sequences


def prepared(checkout: Path):
    """torch, the official modules, with what a machine without CUDA lacks."""
    import torch

    settings = types.SimpleNamespace(
        KNNS=1, MODEL_ASPP_OUTDIM=256, MODEL_SEMANTIC_EMBEDDING_DIM=100,
        MODEL_HEAD_EMBEDDING_DIM=256, MODEL_LOCAL_DOWNSAMPLE=True, MODEL_MAX_LOCAL_DISTANCE=12,
        MODEL_USEIntSeg=False, TRAIN_BN_MOM=0.0003, TEST_MODE=True,
    )  # fmt: skip
    module = types.ModuleType('config')
    module.cfg = settings
    sys.modules['config'] = module
    sys.path.insert(0, str(checkout))
    for kind in (torch.Tensor, torch.nn.Module):
        kind.cuda = lambda self, *a, **k: self
    torch.Tensor.view = torch.Tensor.reshape  # new versions refuse views of cut tensors
    import torch.utils.model_zoo as zoo

    zoo.load_url = lambda *a, **k: {}
    return torch, settings


def picture(seed: int, size=SIZE) -> np.ndarray:
    """float32 [3, H, W], smooth coloured noise."""
    draw = np.random.RandomState(seed)
    layers = (draw.randn(k, k * 2, 3).astype(np.float32) for k in (3, 9, 30))
    sums = sum(cv2.resize(x, size[::-1], interpolation=cv2.INTER_CUBIC) / (i + 1)
               for i, x in enumerate(layers))  # fmt: skip
    return np.ascontiguousarray(sums.transpose(2, 0, 1), np.float32)


def discs(seed: int) -> np.ndarray:
    """Ids int64 [H, W] of two discs."""
    draw, mask = np.random.RandomState(seed), np.zeros(SIZE, np.uint8)
    for number in (1, 2):
        cv2.circle(mask, (int(draw.randint(20, 110)), int(draw.randint(20, 80))), 16, number, -1)
    return mask.astype(np.int64)


def strokes(n: int, cells) -> np.ndarray:
    """int64 [h, w]: a line of each id, -1 elsewhere."""
    result = -np.ones(cells, np.int64)
    for number in range(3):
        result[3 + 7 * number + n, 2 : 14 + number] = number
    return result


def seeded(torch, settings):
    """A network whose batch norms hold the statistics of made pictures, a little disturbed."""
    from networks.deeplab import DeepLab
    from networks.IntVOS import IntVOS

    torch.manual_seed(0)
    net = IntVOS(settings, DeepLab(backbone='resnet'))
    norms = [m for m in net.modules() if hasattr(m, 'running_mean')]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        torch.nn.init.uniform_(norm.weight, 0.6, 1.4)
        torch.nn.init.normal_(norm.bias, 0, 0.2)
    for name, module in net.named_modules():
        if name.endswith('bn3'):  # as in trained residual networks: gradients keep their size
            torch.nn.init.uniform_(module.weight, 0.05, 0.2)
    torch.nn.init.uniform_(net.bn2.weight, 0.1, 0.3)  # embeddings of a usual size
    torch.nn.init.normal_(net.bn2.bias, 0, 0.05)
    net.train()
    images = torch.from_numpy(np.stack([picture(n) for n in range(3)]))
    with torch.no_grad():
        e = net.extract_feature(images)
        label = torch.from_numpy(np.random.RandomState(0).randint(0, 3, (3, 1, *e.shape[2:])))
        given = dict(seq_names=['a', 'b', 'c'], gt_ids=torch.tensor([2, 2, 2]))
        net.prop_seghead(e, e, e, label, label, dynamic_seghead=net.dynamic_seghead, **given)
        net.int_seghead(e, label, None, global_map_tmp_dic={}, frame_num=[0, 0, 0], **given)
        for norm, norm.momentum in zip(norms, momenta):
            spread = norm.running_var.sqrt()
            norm.running_mean += 0.02 * torch.randn_like(norm.running_mean) * spread
            norm.running_var *= 0.1 * torch.rand_like(norm.running_var) + 0.98
    net.eval()
    return net, images


def rounds(torch, net, e) -> dict:
    """Logits of three rounds on three frames, the masks of all rounds given; the global memory."""
    result, names, ids = {}, ['a'], torch.tensor([2])
    memory, local = {}, ({}, {})
    masks = torch.from_numpy(np.stack([discs(n) for n in range(3)]))[:, None]
    for number, frame in ROUNDS:
        given = torch.from_numpy(strokes(number - 1, e.shape[2:]))[None, None]
        shared = dict(interaction_num=number, seq_names=names, gt_ids=ids)
        found, local = net.int_seghead(
            e[frame : frame + 1], given, masks[frame : frame + 1] if number > 1 else None,
            global_map_tmp_dic=memory, local_map_dics=local, frame_num=[frame],
            first_inter=number == 1, **shared,
        )  # fmt: skip
        result[f'interact{number}'] = found['a'].numpy()
        order = [(t, t - 1) for t in range(frame + 1, 3)]
        order += [(t, t + 1) for t in range(frame - 1, -1, -1)]
        for t, before in order:
            found, memory, local = net.prop_seghead(
                e[frame : frame + 1], e[before : before + 1], e[t : t + 1], given,
                masks[before : before + 1], global_map_tmp_dic=memory, local_map_dics=local,
                start_annotated_frame=frame, frame_num=[t], dynamic_seghead=net.dynamic_seghead,
                **shared,
            )  # fmt: skip
            result[f'propagate{number}{t}'] = found['a'].numpy()
        result[f'memory{number}'] = memory['a'][:3, ..., 0].numpy().copy()
    return result


def batch():
    """Pictures float32 [6, 3, S, S] (two references, two frames before, two frames) and ids int64
    [3, 2, S, S] of them."""
    images = np.stack([picture(10 + n, (SQUARE, SQUARE)) for n in range(6)])
    labels = np.zeros((3, 2, SQUARE, SQUARE), np.uint8)
    for (t, sequence), label in zip(np.ndindex(3, 2), labels.reshape(6, SQUARE, SQUARE)):
        for number in range(1, OBJECTS[sequence] + 1):
            cv2.circle(label, (22 * number + 4 * t, 20 + 9 * sequence + 5 * t), 12, number, -1)
    return images, labels.astype(np.int64)


def first_step(torch, net, settings, kind) -> dict:
    """Loss, then variables of at most 70,000 numbers and momenta after the first update of stage
    1."""
    from networks.loss import Added_CrossEntropyLoss

    net = net.to(kind).train()
    settings.TEST_MODE = False
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    parts = net.feature_extracter, net.semantic_embedding, net.dynamic_seghead
    groups = [{'params': part.parameters()} for part in parts]
    optimizer = torch.optim.SGD(groups, lr=7e-4, momentum=0.9, weight_decay=4e-5, nesterov=True)
    images, (reference, previous, current) = batch()
    given = [torch.from_numpy(x)[:, None] for x in (reference, previous)]
    found = net(
        torch.from_numpy(images).to(kind), *given, use_local_map=True, seq_names=['a', 'b'],
        gt_ids=torch.tensor(OBJECTS), k_nearest_neighbors=1,
    )  # fmt: skip
    size = (SQUARE, SQUARE)
    found = {
        key: torch.nn.functional.interpolate(x, size=size, mode='bilinear', align_corners=True)
        for key, x in found.items()
    }
    truth = {key: torch.from_numpy(x)[None] for key, x in zip('ab', current)}
    loss = Added_CrossEntropyLoss(0.15, 50000)(found, truth, 0) / 2
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
    optimizer.step()
    result = {'loss': loss.item(), 'norm': float(norm)}
    kept = {n: v for n, v in net.state_dict().items() if v.numel() <= 70000}
    kept = {n: v for n, v in kept.items() if 'num_batches' not in n and 'semantic' not in n}
    result.update({f'value/{name}': value.numpy() for name, value in kept.items()})
    for name, value in net.named_parameters():
        if name in kept and value in optimizer.state:
            result[f'momentum/{name}'] = optimizer.state[value]['momentum_buffer'].numpy()
    return result


def small(torch, settings) -> dict:
    """Maps of both matchings on made features, and the loss at three steps."""
    from networks import IntVOS
    from networks.loss import Added_CrossEntropyLoss

    draw = np.random.RandomState(2)
    q, p = (np.abs(draw.randn(13, 18, 6)).astype(np.float32) * 0.4 for _ in range(2))
    labels = draw.randint(-1, 3, (13, 18, 1))
    tensors = [torch.from_numpy(x) for x in (q, p, labels)]
    result = {}
    settings.TEST_MODE = True
    found, _ = IntVOS.nearest_neighbor_features_per_object(
        tensors[1], tensors[0], tensors[2], 1, gt_ids=torch.tensor(3), n_chunks=4
    )
    result['global'] = ((torch.sigmoid(found) - 0.5) * 2)[0, ..., 0].numpy()
    found, _ = IntVOS.nearest_neighbor_features_per_object(
        tensors[1], tensors[0], tensors[2], 4, gt_ids=torch.tensor(2), n_chunks=4
    )
    result['global4'] = ((torch.sigmoid(found) - 0.5) * 2)[0, ..., 0].numpy()
    for reach in (3, 12):
        found = IntVOS.local_previous_frame_nearest_neighbor_features_per_object(
            tensors[1], tensors[0], tensors[2], torch.arange(0, 4), max_distance=reach
        )
        result[f'local{reach}'] = found[0, ..., 0].numpy()
    logits = torch.from_numpy(draw.randn(1, 3, 40, 40).astype(np.float32))
    label = draw.randint(0, 3, (1, 40, 40))
    label[0, :5] = 255
    loss = Added_CrossEntropyLoss(0.15, 50000)
    for step in (0, 25000, 90000):
        result[f'loss{step}'] = loss({'a': logits}, {'a': torch.from_numpy(label)}, step).numpy()
    return result


def main():
    """Records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--official', required=True)
    parser.add_argument('--output', required=True)
    parser.add_argument('--small', action='store_true')
    args = parser.parse_args()
    torch, settings = prepared(Path(args.official).resolve())
    if args.small:
        np.savez_compressed(HERE / 'manet_small.npz', **small(torch, settings))
        return
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    net, images = seeded(torch, settings)
    with torch.no_grad():
        e = net.extract_feature(images)
        found = {'embedding': e.numpy(), **rounds(torch, net, e)}
    torch.save(net.state_dict(), output / 'net.pth', _use_new_zipfile_serialization=False)
    with torch.no_grad():
        found['embedding64'] = net.double().extract_feature(images.double()).numpy()
    np.savez(output / 'official.npz', **found)
    for kind in ('float32', 'float64'):
        net.load_state_dict(torch.load(output / 'net.pth'))
        found = first_step(torch, net, settings, getattr(torch, kind))
        np.savez(output / f'step_{kind}.npz', **found)


if __name__ == '__main__':
    main()
