"""The tracker in Python: a box or a mask in, masks and boxes of frame after frame out.

from SiamMask import Tracker
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from common import masks, videos
from common.lazy import np

from . import demo, inference, pretrained, tracker


class Found(NamedTuple):
    """Answer for a frame: ids uint8 [H, W]; {object id: corners float32 [4, 2], x and y in px, of
    the rotated box}; {object id: score 0..1}."""

    ids: np.ndarray
    boxes: dict
    scores: dict


class Tracker:
    """Follows objects from frame to frame; frames are uint8 [H, W, 3], B, G, R as OpenCV reads
    them. To be closed, or used in a `with`."""

    def __init__(
        self, checkpoint: str = 'small', device: str = 'auto', objects: int = 1, **settings
    ):
        """Loads the network.

        Args:
          checkpoint: folder or prefix; 'small': the weights that come along.
          device: 'auto', 'npu' or 'cpu'.
          objects: that one call of the network takes; more of them take several.
          settings: of config.py, such as tracker_rate=0.4.

        Raises:
          FileNotFoundError, ValueError: no checkpoint, an unknown setting.
        """
        prefix, cfg = pretrained.network(checkpoint, device, **settings)
        benchmark = 'davis' if cfg.variant == 'sharp' else 'base'
        self.hyper, self.states = tracker.hyper_parameters(cfg, benchmark), {}
        self._stack = contextlib.ExitStack()
        loaded = inference.load(prefix, inference.settings_for(cfg, objects))
        self.network = self._stack.enter_context(loaded)

    def start(self, frame: np.ndarray, boxes: list | None = None, mask=None) -> None:
        """Starts anew on a frame.

        Args:
          frame: the first one.
          boxes: (x, y, width, height) in px of objects 1, 2, ...; or
          mask: [H, W] of ids 1, 2, ... and 0, or bool, or 0 and 255.

        Raises:
          ValueError: neither or both; a box without area; a mask or frame of another form.
        """
        frame, _ = videos.with_first([frame])
        if (boxes is None) == (mask is None):
            raise ValueError('either boxes or a mask is needed')
        ids = None if mask is None else masks.checked_ids(mask, frame.shape[:2])
        if ids is None:
            found = {number: tracker.center_box(box) for number, box in enumerate(boxes, 1)}
        else:
            found = {n: tracker.box_of_mask(ids == n) for n in videos.numbers({0: ids})}
        self.states = demo.first_states(self.network, frame, found, ids)

    def step(self, frame: np.ndarray) -> Found:
        """Finds the objects in the next frame.

        Raises:
          ValueError: start() comes first; a frame of another form.
        """
        frame, _ = videos.with_first([frame])
        if not self.states:
            raise ValueError('Tracker.start(frame, boxes) comes before step()')
        found = tracker.step(self.network, frame, list(self.states.values()), self.hyper)
        self.states = dict(zip(self.states, found))
        return Found(
            tracker.merge(self.states, frame.shape[:2], self.hyper['mask_threshold']),
            {number: np.float32(state['polygon']) for number, state in self.states.items()},
            {number: state['score'] for number, state in self.states.items()},
        )

    def close(self) -> None:
        """Frees the network."""
        self._stack.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
