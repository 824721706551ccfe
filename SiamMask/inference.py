"""A trained SiamMask network: templates in, kernels out; search images in, boxes and masks out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from easydict import EasyDict

from common import weights
from common.lazy import np, tf

from . import cli, npu, tracker
from .backbone import scaled
from .model import BRANCHES, NECK, SEARCH, TEMPLATE, template_kernels, track


class Network:
    """The graph of template and tracked frame in a session; load() makes it."""

    def __init__(self, session, cfg, objects: int):
        """Builds the graph.

        Args:
          session: whose graph is the default one; its variables are loaded by load().
          cfg: of the network.
          objects: in one call of locate(); shapes are static, so that calls are padded to it.
        """
        channels = scaled(NECK, cfg)
        self.session, self.objects = session, objects
        self.template = tf.placeholder(tf.float32, [1, TEMPLATE, TEMPLATE, 3], 'template')
        self.kernels = template_kernels(self.template, cfg)
        self.search = tf.placeholder(tf.float32, [objects, SEARCH, SEARCH, 3], 'search')
        self.size = tf.placeholder(tf.float32, [objects, 2], 'size')
        self.hyper = tf.placeholder(tf.float32, [2], 'hyper')
        self.branches = {
            name: tf.placeholder(tf.float32, [objects, 5, 5, channels], f'kernel_{name}')
            for name in BRANCHES
        }
        outputs = track(self.search, self.branches, self.size, self.hyper, cfg)
        self.outputs = {key: outputs[key] for key in ('best', 'score', 'penalty', 'box', 'mask')}

    def embed(self, image: np.ndarray) -> dict:
        """{branch: float32 [1, 5, 5, 256]} of a template image float32 [127, 127, 3], BGR,
        0..255."""
        return self.session.run(self.kernels, {self.template: image[None]})

    def locate(self, images: list, kernels: list, sizes: list, hyper: tuple) -> dict:
        """Outputs of model.track() for any number of objects, `self.objects` a call.

        Args:
          images: search images float32 [255, 255, 3], BGR, 0..255, one an object.
          kernels: of embed(), one an object.
          sizes: (width, height) of each target in px of its search image.
          hyper: (penalty_k, window_influence).
        """
        found = []
        for first in range(0, len(images), self.objects):
            rows = list(range(first, min(first + self.objects, len(images))))
            rows += [first] * (self.objects - len(rows))  # padding, dropped below
            feed = {
                self.search: np.stack([images[i] for i in rows]),
                self.size: np.array([sizes[i] for i in rows]),
                self.hyper: hyper,
            }
            for name, kernel in self.branches.items():
                feed[kernel] = np.concatenate([kernels[i][name] for i in rows])
            found.append(self.session.run(self.outputs, feed))
        return {key: np.concatenate([f[key] for f in found])[: len(images)] for key in self.outputs}


def settings_for(cfg, count: int) -> EasyDict:
    """`cfg` for videos of at most `count` objects: a call of the network takes no more of them."""
    return EasyDict(cfg, objects=max(1, min(count, cfg.objects)))


@contextlib.contextmanager
def load(checkpoint: str, cfg) -> Iterator[Network]:
    """A network with a checkpoint's weights.

    Args:
      checkpoint: folder or prefix.
      cfg: of the network; one call takes cfg.objects objects.

    Yields:
      A Network.

    Raises:
      FileNotFoundError, ValueError: no checkpoint, or of another network.
    """
    prefix = weights.checkpoint_prefix(checkpoint)
    with tf.Graph().as_default():
        session = npu.session(cfg)
        network = Network(session, cfg, cfg.objects)
        cli.restore(session, prefix)
    with contextlib.closing(session):
        yield network


def segment(network: Network, cfg, frames, given: dict) -> Iterator[np.ndarray]:
    """Object ids uint8 [H, W] of every frame: the likeliest object above the threshold, else 0.

    Args:
      network: of load().
      cfg: uses the settings config.TRACKING; -1: the published ones for video segmentation.
      frames: iterable of uint8 [H, W, 3] BGR.
      given: {frame number: ids uint8 [H, W]}, an object starts in the first that shows it.
    """
    hyper = tracker.hyper_parameters(cfg, 'davis')
    for ids, _ in tracker.segment(network, frames, given, hyper):
        yield ids
