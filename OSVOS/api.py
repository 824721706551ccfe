"""The network in Python: frames in, masks out.

from OSVOS import segment
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator

from common import masks, videos
from common.lazy import np

from . import demo, inference, pretrained


def segment(
    frames: Iterable[np.ndarray],
    first_mask: np.ndarray,
    checkpoint: str = 'small',
    device: str = 'auto',
    **settings,
) -> Iterator[np.ndarray]:
    """Object ids uint8 [H, W] of every frame, the first included, after the online training on it:
    one network an object, cfg.online_steps updates.

    Args:
      frames: iterable of uint8 [H, W, 3], B, G, R as OpenCV reads them (masks.read_frames, cv2's
        VideoCapture), all of one size; each is taken once.
      first_mask: [H, W] of the first frame: ids 1, 2, ... and 0, or bool, or 0 and 255.
      checkpoint: folder or prefix; 'small': the weights that come along.
      device: 'auto', 'npu' or 'cpu'.
      settings: of config.py, such as online_steps=500.

    Raises:
      FileNotFoundError, ValueError: no checkpoint, a mask or frames of another form, an unknown
      setting.
    """
    image, every = videos.with_first(frames)
    ids = masks.checked_ids(first_mask, image.shape[:2])
    parent, cfg = pretrained.network(checkpoint, device, **settings)
    return _segment(parent, cfg, image, ids, every)


def _segment(parent, cfg, image, ids, frames):
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        networks = stack.enter_context(demo.tuned(cfg, parent, image, ids, folder))
        yield from inference.segment(networks, cfg, frames, {0: ids})
