"""The rounds of a video in Python: frames and strokes in, masks out.

from MANet import Session
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from common import masks, videos
from common.lazy import np

from . import inference, pretrained, session


class Session:
    """A video that is segmented in rounds. To be closed, or used in a `with`."""

    def __init__(
        self,
        frames: Iterable[np.ndarray],
        objects: int = 1,
        checkpoint: str = 'small',
        device: str = 'auto',
        **settings,
    ):
        """Loads the network and embeds every frame.

        Args:
          frames: uint8 [H, W, 3], B, G, R as OpenCV reads them, all of one size; taken once.
          objects: their ids are 1 .. objects.
          checkpoint: folder or prefix; 'small': the weights that come along.
          device: 'auto', 'npu' or 'cpu'.
          settings: of config.py, such as merge='newest'.

        Raises:
          FileNotFoundError, ValueError: no checkpoint, one whose interaction head is not trained;
          frames of another form; an unknown setting.
        """
        image, every = videos.with_first(frames)
        prefix, cfg = pretrained.network(checkpoint, device, **settings)
        untrained = inference.untrained_head(prefix)
        if untrained:
            raise ValueError(untrained)
        self.size, self._stack = image.shape[:2], contextlib.ExitStack()
        with contextlib.ExitStack() as stack:  # freed where embedding fails
            network = stack.enter_context(inference.load(prefix, cfg))
            embeddings = inference.embed_video(network, cfg, every)
            self.rounds = session.Session(network, cfg, embeddings, self.size, objects)
            self._stack = stack.pop_all()

    def scribble(self, frame: int, strokes: list[dict]) -> np.ndarray:
        """One more round: ids uint8 [T, H, W] of all frames.

        Args:
          frame: number of the frame that is drawn on, from 0.
          strokes: {'path': [[x, y], ...], x and y of 0..1, 'object_id': id, 0 for background}.

        Raises:
          ValueError: no such frame or object; strokes of another form.
        """
        return self.rounds.play(strokes, frame)

    def mask(self, frame: int, mask: np.ndarray) -> np.ndarray:
        """One more round, of a whole mask, which its frame keeps: ids uint8 [T, H, W].

        Args:
          frame: number of the frame that it is of, from 0.
          mask: [H, W] of ids 1, 2, ... and 0, or bool, or 0 and 255.

        Raises:
          ValueError: no such frame or object; a mask of another form.
        """
        ids = masks.checked_ids(mask, self.size)
        strokes = session.stroke_cells(ids.astype(np.int32), self.rounds.cells)
        return self.rounds.play(strokes, frame, ids)

    def close(self) -> None:
        """Frees the network."""
        self._stack.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
