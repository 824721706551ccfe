"""A trained OSMN network that segments frames from the first mask (OSMN section 3): the mask makes
the visual guide, every mask found makes the spatial guide of the next frame.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Callable, NamedTuple

from common import videos, weights
from common.lazy import np, tf

from . import cli, data, guides, model, npu


class Network(NamedTuple):
    """A network with weights.

    probabilities: function (image float32 [1, H, W, 3], heats [N, H, W, 1], scales [N, K]) ->
      float32 [N, H, W].
    modulate: function (guides float32 [N, G, G, 3]) -> scales float32 [N, K].
    """

    probabilities: Callable
    modulate: Callable


@contextlib.contextmanager
def load(checkpoint: str, cfg):
    """A network with a checkpoint's weights.

    Args:
      checkpoint: folder or prefix.
      cfg: of the network.

    Yields:
      A Network. A graph is built for every new shape.

    Raises:
      FileNotFoundError, ValueError: no checkpoint, or of another network.
    """
    prefix = weights.checkpoint_prefix(checkpoint)
    with tf.Graph().as_default() as graph:
        session = npu.session(cfg)
        guide = tf.placeholder(tf.float32, [1, cfg.guide_size, cfg.guide_size, 3])
        scales = model.visual_modulator(guide, cfg, False) if cfg.visual_modulator else None
        built = {}

        def build(height, width, count):
            with graph.as_default():
                feed = {
                    'image': tf.placeholder(tf.float32, [1, height, width, 3]),
                    'heat': tf.placeholder(tf.float32, [count, height, width, 1]),
                }
                if scales is not None:
                    shape = [count, scales.shape.as_list()[1]]
                    feed['scales'] = tf.placeholder(tf.float32, shape)
                output = model.network(feed, cfg, False)['probability']
            built[height, width, count] = feed, output

        size = data.network_size((cfg.test_height, cfg.test_width or cfg.test_height), cfg)
        build(*size, 1)
        cli.restore(session, prefix)

    def modulate(found):
        if scales is None:
            return np.zeros((len(found), 1), np.float32)
        return np.concatenate([session.run(scales, {guide: one[None]}) for one in found])

    def probabilities(image, heats, vectors):
        key = (*image.shape[1:3], len(heats))
        if key not in built:
            build(*key)
        feed, output = built[key]
        values = {'image': image, 'heat': heats, 'scales': vectors}
        return session.run(output, {feed[name]: values[name] for name in feed})[..., 0]

    with contextlib.closing(session):
        yield Network(probabilities, modulate)


def roll_out(network: Network, cfg, frames, given: dict, crf: bool = False, visit=None):
    """The probability of every object in every frame.

    Args:
      network: of load().
      cfg: uses the settings of the roll-out.
      frames: iterable of uint8 [H, W, 3] BGR.
      given: {frame number: ids uint8 [H, W]}; an object starts in the first that shows it.
      crf: masks go through refine() before they guide the next frame, as in the original.
      visit: function (frame number, probabilities), called for every frame that has any, before
        the refinement.

    Yields:
      (frame, {object id: float32 [h, w]} at network size, ids in order; 0 and 1 in an object's
      first frame).
    """
    scales, heats = {}, {}
    for t, image in enumerate(frames):
        size = data.network_size(image.shape[:2], cfg)
        small = guides.resize_image(image, size)
        maps, found = {}, {}
        if scales:
            found = _in_groups(network, cfg, guides.subtract_mean(small, cfg)[None], heats, scales)
            maps = refine(found, image) if crf else found
        ids = given.get(t, np.zeros(image.shape[:2], np.uint8))
        if ids.shape != image.shape[:2]:
            raise ValueError(
                f'frame {t}: its mask is {ids.shape[1]}x{ids.shape[0]}, the frame '
                f'{image.shape[1]}x{image.shape[0]}'
            )
        for number in sorted(set(np.unique(ids).tolist()) - {0, 255} - set(scales)):
            whole = videos.binary(ids, number)
            scales[number] = network.modulate(guides.guide(image, whole, cfg)[None])[0]
            maps[number] = guides.resize_mask(whole, size).astype(np.float32)
        if maps and visit is not None:
            visit(t, {**maps, **found})
        for number, map_ in maps.items():
            mask = (map_ > cfg.threshold).astype(np.uint8)
            heats[number] = data.spatial_guide(mask, cfg)
        yield image, dict(sorted(maps.items()))


def _in_groups(network, cfg, image, heats, scales):
    """{id: probabilities}, at most cfg.objects at once; groups are equal, the last filled up, so
    that shapes do not change from frame to frame."""
    numbers, maps = sorted(scales), {}
    count = min(len(numbers), cfg.objects)
    for i in range(0, len(numbers), count):
        group = numbers[i : i + count]
        padded = group + [group[-1]] * (count - len(group))
        heat = np.stack([heats[n] for n in padded])[..., None]
        found = network.probabilities(image, heat, np.stack([scales[n] for n in padded]))
        maps.update(zip(group, found))
    return maps


def merge(maps: dict, cfg) -> np.ndarray:
    """Object ids uint8 [h, w]: the likeliest of the background, cfg.threshold everywhere, and the
    objects {id: float32 [h, w]} (davis_eval.py)."""
    numbers = np.array([0, *maps], np.uint8)
    background = np.full_like(next(iter(maps.values())), cfg.threshold)
    return numbers[np.argmax([background, *maps.values()], axis=0)]


def whole_ids(maps: dict, cfg, shape: tuple[int, int], first: np.ndarray | None) -> np.ndarray:
    """Object ids uint8 [H, W] of a frame: merged, of the frame's size, the masks given kept.

    Args:
      maps: {id: float32 [h, w]}, may be empty.
      cfg: uses threshold.
      shape: (H, W) of the frame.
      first: ids uint8 [H, W] of the objects that start in this frame, or None.
    """
    if not maps:
        return np.zeros(shape, np.uint8)
    ids = guides.resize_mask(merge(maps, cfg), shape)
    if first is not None:
        started = np.setdiff1d(first, (0, 255))
        ids = np.where(np.isin(ids, started), 0, ids)
        ids = np.where(np.isin(first, started), first, ids).astype(np.uint8)
    return ids


def first_masks(given: dict) -> dict:
    """{frame number: ids uint8 [H, W] of the objects that start there} of given masks."""
    starts = videos.starts(given)
    result = {}
    for t in set(starts.values()):
        numbers = [number for number, start in starts.items() if start == t]
        result[t] = np.where(np.isin(given[t], numbers), given[t], 0).astype(np.uint8)
    return result


def refine(maps: dict, image: np.ndarray) -> dict:
    """The masks of {id: float32 [h, w]} after a fully connected CRF (Kraehenbuehl and Koltun 2011;
    dataset_davis.py crf_processing), as 0 and 1.

    Raises:
      ImportError: pydensecrf is not installed.
    """
    try:
        from pydensecrf import densecrf, utils
    except ImportError:
        raise ImportError(
            '--crf needs pydensecrf: pip install git+https://github.com/lucasb-eyer/pydensecrf.git'
        ) from None
    result = {}
    for number, map_ in maps.items():
        height, width = map_.shape
        rgb = np.ascontiguousarray(guides.resize_image(image, map_.shape)[..., ::-1])
        crf = densecrf.DenseCRF2D(width, height, 2)
        labels = (map_ > 0.5).astype(np.int32)
        crf.setUnaryEnergy(utils.unary_from_labels(labels, 2, gt_prob=0.9, zero_unsure=False))
        crf.addPairwiseGaussian(sxy=(3, 3), compat=3)
        crf.addPairwiseBilateral(sxy=(40, 40), srgb=(5, 5, 5), rgbim=rgb, compat=10)
        best = np.argmax(crf.inference(5), axis=0)
        result[number] = best.reshape(map_.shape).astype(np.float32)
    return result


def segment(
    network, cfg, frames, given: dict, crf: bool = False, visit=None
) -> Iterator[np.ndarray]:
    """Object ids uint8 [H, W] of every frame, of the frame's size; given masks are kept where an
    object starts.

    Args:
      network: of load(), or {object id: network}, trained online.
      cfg: uses the settings of the roll-out.
      frames: iterable of uint8 [H, W, 3] BGR, which can be iterated again.
      given: {frame number: ids}.
      crf, visit: of roll_out().
    """
    if isinstance(network, dict):
        only = {n: _only(n, given) for n in network}
        streams = [roll_out(own, cfg, frames, only[n], crf, visit) for n, own in network.items()]
    else:
        streams = [roll_out(network, cfg, frames, given, crf, visit)]
    first = first_masks(given)
    for t, steps in enumerate(zip(*streams)):
        maps = {number: map_ for _, found in steps for number, map_ in found.items()}
        yield whole_ids(maps, cfg, steps[0][0].shape[:2], first.get(t))


def _only(number, given):
    """Given masks of one object."""
    return {t: np.where(ids == number, ids, 0) for t, ids in given.items()}
