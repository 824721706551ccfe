"""A trained OSVOS network that segments frames (OSVOS section 3.2: one network an object)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from common import weights
from common.lazy import cv2, np, tf
from common.videos import numbers, starts, stem

from . import cli, data, model, npu


@contextlib.contextmanager
def load(checkpoint: str, cfg):
    """A network with a checkpoint's weights.

    Args:
      checkpoint: folder or prefix.
      cfg: of the network; uses height, which is the short side of every frame in the network.

    Yields:
      A function: frame uint8 [H, W, 3] BGR -> probability of the object, float32 [H, W]. A graph is
      built for every new size of frame.

    Raises:
      FileNotFoundError, ValueError: no checkpoint, or of another network.
    """
    with _session(cfg) as (network, restore):
        restore(checkpoint)
        yield network


@contextlib.contextmanager
def load_in_turn(cfg):
    """Networks of one kind whose weights are exchanged: a session is made and compiled once for
    each that is held at a time, not for every checkpoint.

    Yields:
      A function: list of checkpoints -> list of functions as of load(), which answer with these
      weights until the next call. Raises as load().
    """
    with contextlib.ExitStack() as stack:
        held = []

        def take(checkpoints):
            while len(held) < len(checkpoints):
                held.append(stack.enter_context(_session(cfg)))
            for (_, restore), checkpoint in zip(held, checkpoints):
                restore(checkpoint)
            return [network for network, _ in held[: len(checkpoints)]]

        yield take


@contextlib.contextmanager
def _session(cfg):
    """(network, restore) of a session: the function of load(), and one that takes a checkpoint's
    weights."""
    built, savers = {}, []
    graph = tf.Graph()

    def build(size):
        image = tf.placeholder(tf.float32, [1, *size, 3])
        return image, model.network({'image': image}, cfg, training=False)['probability']

    with graph.as_default():
        session = npu.session(cfg)
        build((64, 64))  # for its variables
        variables = [v for v in tf.global_variables() if cli.of_network(v)]

    def restore(checkpoint):
        prefix = weights.checkpoint_prefix(checkpoint)
        with graph.as_default():
            found = cli.match_variables(prefix, variables)
            if not savers:
                savers.append(tf.train.Saver(found))
            savers[0].restore(session, prefix)

    def network(frame):
        shape = frame.shape[:2]
        size = data.network_size(*shape, cfg)
        if size not in built:
            with graph.as_default():
                built[size] = build(size)
        image, probability = built[size]
        resized = frame if shape == size else data.resize_image(frame, size)
        batch = cv2.LUT(resized, data.less_mean())[None]
        found = session.run(probability, {image: batch})[0, ..., 0]
        return found if shape == size else cv2.resize(found, shape[::-1])

    with contextlib.closing(session):
        yield network, restore


def segment(networks: dict, cfg, frames, given: dict) -> Iterator[np.ndarray]:
    """Object ids uint8 [H, W] of every frame: the likeliest object above cfg.threshold, else 0.

    Args:
      networks: {object id: function of load()}; id 0 (all objects as one) is written as 1.
      cfg: uses threshold.
      frames: iterable of uint8 [H, W, 3] BGR.
      given: first masks {frame number: ids}; OSVOS takes none of them here, it was trained on them.
    """
    del given
    ids = np.array([number or 1 for number in networks], np.uint8)
    for frame in frames:
        maps = np.stack([network(frame) for network in networks.values()])
        best = ids[np.argmax(maps, axis=0)]
        yield np.where(np.max(maps, axis=0) > cfg.threshold, best, 0).astype(np.uint8)


def units(found: list) -> list[tuple]:
    """[(video, object id)] to train online: id 0, all objects in one, of a union; else every id of
    the first mask.

    Args:
      found: of common.videos.find().
    """
    return [
        (video, number)
        for video in found
        for number in ([0] if video.union else numbers(video.given))
    ]


def folder(output_path: str, name: str, number: int) -> str:
    """Folder of one online training's checkpoints."""
    return os.path.join(output_path, f'{name}_{number}' if number else name)


def networks_of(video, online_path: str, take) -> dict:
    """{object id: network} of a video's online trainings, for segment(); `take`: of
    load_in_turn()."""
    ids = [number for _, number in units([video])]
    return dict(zip(ids, take([folder(online_path, video.name, number) for number in ids])))


def first_example(video, number: int) -> tuple:
    """(image path, mask path, object id) of the frame that an object is first shown in.

    Raises:
      ValueError: no mask given shows the object.
    """
    found = starts(video.given)
    if (number or 1) not in found:
        raise ValueError(f'{video.name} has no object {number}; there are {sorted(found)}')
    image = video.frames[found[number or 1]]
    return image, dict(video.truth)[stem(image)], number
