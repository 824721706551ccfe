"""The network in Python: frames in, masks out.

from ColorNet import segment
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from common import masks, videos
from common.lazy import np

from . import inference, pretrained


def segment(
    frames: Iterable[np.ndarray],
    first_mask: np.ndarray,
    checkpoint: str = 'small',
    device: str = 'auto',
    **settings,
) -> Iterator[np.ndarray]:
    """Object ids uint8 [H, W] of every frame, the first mask propagated and kept; frames are read
    cfg.test_batch ahead.

    Args:
      frames: iterable of uint8 [H, W, 3], B, G, R as OpenCV reads them (masks.read_frames, cv2's
        VideoCapture), all of one size; each is taken once.
      first_mask: [H, W] of the first frame: ids 1, 2, ... and 0, or bool, or 0 and 255.
      checkpoint: folder or prefix; 'small': the weights that come along.
      device: 'auto', 'npu' or 'cpu'.
      settings: of config.py, such as radius=12.0.

    Raises:
      FileNotFoundError, ValueError: no checkpoint, a mask or frames of another form, an unknown
      setting.
    """
    image, every = videos.with_first(frames)
    ids = masks.checked_ids(first_mask, image.shape[:2])
    prefix, cfg = pretrained.network(checkpoint, device, **settings)
    return _segment(prefix, cfg, every, ids)


def _segment(prefix, cfg, frames, ids):
    with inference.load(prefix, cfg) as network:
        yield from inference.segment(network, cfg, frames, {0: ids})
