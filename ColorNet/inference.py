"""A trained ColorNet that propagates given masks through a video (ColorNet section 3.5)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Callable, NamedTuple

from common import weights
from common.lazy import np, tf

from . import cli, model, npu, propagation


class Network(NamedTuple):
    """A network with weights, for propagation.propagate().

    features: frames uint8 [n, H, W, 3] BGR, n <= cfg.test_batch -> float32 [n, h, w, C].
    vote: query and first float32 [h, w, C], others float32 [K, h, w, C] -> propagation.votes().
    """

    features: Callable
    vote: Callable


@contextlib.contextmanager
def load(checkpoint: str, cfg) -> Iterator[Network]:
    """Yields a network with a checkpoint's weights. A graph is built for every new size of frame.

    Args:
      checkpoint: folder or prefix.
      cfg: of the network; uses key, test_height, test_width, test_batch, context, radius,
        neighbours, temperature.

    Raises:
      FileNotFoundError: no checkpoint. ValueError: it is of another network, or lacks cfg.key.
    """
    prefix = weights.checkpoint_prefix(checkpoint)
    key = propagation.feature_key(cfg)
    with tf.Graph().as_default() as graph:
        session = npu.session(cfg)
        size = network_size(64, 64, cfg)
        feature_graphs, vote_graphs = {size: _feature_graph(size, key, cfg)}, {}
        cli.restore(session, prefix)

    def features(frames):
        size = network_size(*frames.shape[1:3], cfg)
        if size not in feature_graphs:
            with graph.as_default():
                feature_graphs[size] = _feature_graph(size, key, cfg)
        image, output = feature_graphs[size]
        batch = np.zeros(image.shape.as_list(), np.float32)
        for k, frame in enumerate(frames):
            batch[k] = propagation.resize_image(frame, size)
        return session.run(output, {image: batch})[: len(frames)]

    def vote(query, first, others):
        if query.shape not in vote_graphs:
            with graph.as_default():
                vote_graphs[query.shape] = vote_graph(query.shape, cfg)
        inputs, outputs = vote_graphs[query.shape]
        feed = {inputs['query']: query, inputs['first']: first, inputs['others']: others}
        return session.run((outputs['weight'], outputs['cell']), feed)

    with contextlib.closing(session):
        yield Network(features, vote)


def network_size(height: int, width: int, cfg) -> tuple[int, int]:
    """(H, W) that a frame of any size has in the network: cfg.test_height and cfg.test_width,
    whatever its aspect, or its own where they are 0."""
    return cfg.test_height or height, cfg.test_width or width


def _feature_graph(size, key, cfg):
    image = tf.placeholder(tf.float32, [cfg.test_batch, *size, 3])
    return image, model.extract(model.normalize(image[..., ::-1], cfg), cfg)[key]


def vote_graph(shape: tuple[int, int, int], cfg) -> tuple[dict, dict]:
    """(inputs, outputs) of one frame's label propagation on features of `shape` (h, w, C):
    placeholders query, first, others; weight and cell as propagation.votes() gives them."""
    inputs = {
        'query': tf.placeholder(tf.float32, shape, 'query'),
        'first': tf.placeholder(tf.float32, shape, 'first'),
        'others': tf.placeholder(tf.float32, [len(cfg.context), *shape], 'others'),
    }
    weight, cell = propagation.votes(inputs['query'], inputs['first'], inputs['others'], cfg)
    return inputs, {'weight': weight, 'cell': cell}


def segment(
    network: Network, cfg, frames: Iterable[np.ndarray], given: dict
) -> Iterator[np.ndarray]:
    """Object ids uint8 [H, W] of every frame: the masks given, propagated.

    Args:
      network: of load().
      cfg: uses context and test_batch.
      frames: iterable of uint8 [H, W, 3] BGR.
      given: {frame number: ids uint8 [H, W]}.
    """
    return propagation.propagate(network, cfg, frames, given)
