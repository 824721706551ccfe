"""A trained MANet network, in the parts that the rounds of a video call (MANet section 1), and the
graphs of these parts.

A count of classes is that of the objects and the background; cells are those of the embedding, a
quarter of the image's rows and columns.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable

from common import processes, weights
from common.lazy import cv2, np, tf

from . import cli, matching, model, npu

SHARE = 0.8  # of the free memory that a video may take
RESIDENT = 2**30  # bytes of a video's embeddings in memory: 100 frames at 480x854


def cells_of(size) -> tuple[int, int]:
    """(h, w) of the embedding of an image of size (H, W)."""
    return -(-size[0] // 4), -(-size[1] // 4)


def embed_graph(cfg, images: int, size) -> tuple[dict, dict]:
    """(inputs, outputs) of the part that embeds `images` images of size (H, W)."""
    image = tf.placeholder(tf.float32, [images, *size, 3], 'image')
    return {'image': image}, {'embedding': model.embed(model.normalize(image, cfg), cfg)}


def interact_graph(cfg, count: int, cells) -> tuple[dict, dict]:
    """(inputs, outputs) of the part that answers the annotated frame: logits, and the map of its
    own strokes that its global memory takes up."""
    embedding = tf.placeholder(tf.float32, [*cells, model.embedding_channels(cfg)], 'embedding')
    strokes = tf.placeholder(tf.int32, cells, 'strokes')
    previous = tf.placeholder(tf.int32, cells, 'previous')
    maps = [model.planes(labels, count) for labels in (strokes, previous)]
    inputs = {'embedding': embedding, 'strokes': strokes, 'previous': previous}
    return inputs, {
        'logits': model.interact(embedding, *maps, cfg),
        'own': matching.local_map(embedding, embedding, strokes, count, cfg, lean=True),
    }


def match_graph(cfg, count: int, cells) -> tuple[dict, dict]:
    """(inputs, outputs) of the part that matches a frame with the annotated one and with the frame
    before."""
    shape = [*cells, model.embedding_channels(cfg)]
    query = tf.placeholder(tf.float32, shape, 'query')
    reference = tf.placeholder(tf.float32, shape, 'reference')
    previous = tf.placeholder(tf.float32, shape, 'previous')
    labels = tf.placeholder(tf.int32, cells, 'labels')
    mask = tf.placeholder(tf.int32, cells, 'mask')
    inputs = {
        'query': query,
        'reference': reference,
        'previous': previous,
        'labels': labels,
        'mask': mask,
    }
    return inputs, {
        'global_map': matching.global_map(query, reference, labels, count, cfg, lean=True),
        'local_map': matching.local_map(query, previous, mask, count, cfg, lean=True),
    }


def propagate_graph(cfg, count: int, cells) -> tuple[dict, dict]:
    """(inputs, outputs) of the part that answers a frame that is not annotated."""
    embedding = tf.placeholder(tf.float32, [*cells, model.embedding_channels(cfg)], 'embedding')
    global_map = tf.placeholder(tf.float32, [*cells, count], 'global')
    local_map = tf.placeholder(tf.float32, [*cells, count], 'local')
    mask = tf.placeholder(tf.int32, cells, 'mask')
    inputs = {'embedding': embedding, 'global': global_map, 'local': local_map, 'mask': mask}
    planes = model.planes(mask, count)
    return inputs, {'logits': model.propagate(embedding, global_map, local_map, planes, cfg)}


PARTS = {
    'embed': embed_graph,
    'interact': interact_graph,
    'match': match_graph,
    'propagate': propagate_graph,
}


class Network:
    """The parts of a network with weights; a graph is built for every new count and size."""

    def __init__(self, session: tf.Session, cfg):
        """`session` has the variables of its graph loaded."""
        self.session, self.cfg, self.built = session, cfg, {}

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Embeddings float32 [B, h, w, C] of images float32 [B, H, W, 3], B, G, R, 0..255."""
        found = self._run('embed', len(images), images.shape[1:3], {'image': images})
        return found['embedding']

    def interact(self, count: int, **values) -> tuple[np.ndarray, np.ndarray]:
        """(logits, own map) float32 [h, w, count]; inputs as interact_graph() names them."""
        found = self._run('interact', count, values['embedding'].shape[:2], values)
        return found['logits'], found['own']

    def match(self, count: int, **values) -> tuple[np.ndarray, np.ndarray]:
        """(global map, local map) float32 [h, w, count]; inputs as match_graph() names them."""
        found = self._run('match', count, values['query'].shape[:2], values)
        return found['global_map'], found['local_map']

    def propagate(self, count: int, **values) -> np.ndarray:
        """Logits float32 [h, w, count]; inputs as propagate_graph() names them, the maps as
        global_map and local_map."""
        values['global'], values['local'] = values.pop('global_map'), values.pop('local_map')
        return self._run('propagate', count, values['embedding'].shape[:2], values)['logits']

    def _run(self, part, count, size, values):
        key = part, count, tuple(size)
        if key not in self.built:
            with self.session.graph.as_default():
                self.built[key] = PARTS[part](self.cfg, count, tuple(size))
        inputs, outputs = self.built[key]
        return self.session.run(outputs, {inputs[name]: values[name] for name in inputs})


@contextlib.contextmanager
def load(checkpoint: str, cfg):
    """A Network with a checkpoint's weights.

    Args:
      checkpoint: folder or prefix.
      cfg: of the network.

    Raises:
      FileNotFoundError, ValueError: no checkpoint, or of another network.
    """
    prefix = weights.checkpoint_prefix(checkpoint)
    with tf.Graph().as_default():
        session = npu.session(cfg)
        model.embed(tf.placeholder(tf.float32, [1, 64, 64, 3]), cfg)
        model.make_every_variable(cfg)
        cli.restore(session, prefix)
    with contextlib.closing(session):
        yield Network(session, cfg)


def untrained_head(checkpoint: str) -> str:
    """Why a checkpoint's interaction head cannot answer scribbles; '' where it is trained.

    Stage 1 leaves the head as it starts: its moving means are 0, which no training of it leaves.
    """
    prefix = weights.checkpoint_prefix(checkpoint)
    name = 'manet/inter_seghead/layer1/bn1/moving_mean'
    shapes = dict(tf.train.list_variables(prefix))
    if name not in shapes or np.any(tf.train.load_variable(prefix, name)):
        return ''
    return (
        f'the interaction head of {prefix} is not trained: that is stage 2, '
        f'python -m MANet.train --preset=stage2 --init_from={checkpoint}'
    )


def check_memory(frames: int, size: tuple[int, int], count: int, cfg) -> None:
    """Refuses a video whose rounds do not fit in the free memory: the maps and the mask of every
    frame are kept, and RESIDENT bytes of embeddings, because a round may be of any frame.

    Args:
      frames: number of them.
      size: (H, W) of a frame.
      count: classes.
      cfg: uses test_height, test_width, channels.

    Raises:
      ValueError: with the number of frames that fit.
    """
    height, width = cells_of(network_size(*size, cfg))
    each = 4 * height * width * 2 * count + size[0] * size[1]  # of maps and masks
    embedded = 4 * height * width * model.embedding_channels(cfg)  # beyond RESIDENT on disk
    free = processes.free_memory()
    needed = frames * each + min(frames * embedded, RESIDENT)
    if free is not None and needed > SHARE * free:
        fit = int(max(SHARE * free / (each + embedded), (SHARE * free - RESIDENT) / each))
        raise ValueError(
            f'{frames} frames of {size[1]}x{size[0]} need {needed / 1e9:.1f} GB, '
            f'{free / 1e9:.1f} GB are free: {fit} frames fit; a part of the video, or a smaller '
            f'--set=test_height= (now {cfg.test_height})'
        )


def embed_video(network: Network, cfg, frames: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Embeddings float32 [h, w, C] of frames uint8 [H, W, 3] BGR: 10 MB a frame at 480x854.

    What is beyond RESIDENT lies in a temporary file ($TMPDIR), which ends with the last array.

    Raises:
      ValueError: no frames. OSError: no room for the file.
    """
    found, size = [], 0
    with tempfile.TemporaryFile(prefix='manet-embeddings-') as file:
        for embedding in _embed_frames(network, cfg, frames):
            size += embedding.nbytes
            if size <= RESIDENT:
                found.append(embedding)
            else:
                file.write(embedding.tobytes())
        if not size:
            raise ValueError('a video without frames')
        file.flush()
        if size > RESIDENT:
            rest = size // embedding.nbytes - len(found)
            found += list(np.memmap(file, np.float32, 'r', shape=(rest, *embedding.shape)))
    return found


def _embed_frames(network, cfg, frames):
    pending = []
    for frame in frames:
        pending.append(resize_frame(frame, cfg))
        if len(pending) == cfg.test_batch:
            yield from network.embed(np.stack(pending))
            pending = []
    for image in pending:
        yield from network.embed(image[None])


def network_size(height: int, width: int, cfg) -> tuple[int, int]:
    """(H, W) that a frame of any size has in the network."""
    fitting = int(round(width * cfg.test_height / height / 4)) * 4
    return cfg.test_height, cfg.test_width or max(4, fitting)


def resize_frame(frame: np.ndarray, cfg) -> np.ndarray:
    """float32 [H', W', 3] of network_size(), bicubic, not clipped."""
    size = network_size(*frame.shape[:2], cfg)
    frame = frame.astype(np.float32)
    if frame.shape[:2] == size:
        return frame
    return cv2.resize(frame, size[::-1], interpolation=cv2.INTER_CUBIC)
