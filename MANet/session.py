"""Rounds of interactive segmentation of one video: strokes in, masks out, what earlier rounds
found kept in two memories (test.py of the official code). An evaluation or an interface drives it.

    run = Session(network, cfg, embeddings, size, objects=1)
    masks = run.play([{'path': [[0.4, 0.5], [0.6, 0.5]], 'object_id': 1}], frame=0)

A round is kept when it has been played to its end; an error or a cancelled round leaves all as it
was. save() and read() keep a session as a JSON of its strokes and an .npz of its arrays.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from common import files, weights
from common.lazy import np

from . import matching, robot

MOST_OBJECTS = 254  # ids are uint8 and 255 is void
HISTORY = 2**30  # bytes of earlier rounds that undo() may hold, beside the one before


def resize_labels(labels: np.ndarray, size) -> np.ndarray:
    """int32 [h, w] of labels [H, W], size (h, w): the cell floor(i H / h), as PyTorch's nearest."""
    rows = np.arange(size[0]) * labels.shape[0] // size[0]
    columns = np.arange(size[1]) * labels.shape[1] // size[1]
    return labels[rows[:, None], columns].astype(np.int32)


def stroke_cells(ids: np.ndarray, size) -> np.ndarray:
    """int32 [h, w] of an image of ids int32 [H, W], -1 where there is none: resize_labels(), but no
    id is lost for being thin."""
    result = resize_labels(ids, size)
    for number in set(np.unique(ids[ids >= 0])) - set(np.unique(result)):
        rows, columns = np.nonzero(ids == number)
        result[rows * size[0] // ids.shape[0], columns * size[1] // ids.shape[1]] = number
    return result


def resize_logits(logits: np.ndarray, size) -> np.ndarray:
    """float32 [H, W, N] of [h, w, N], size (H, W), bilinear, corners aligned."""
    rows = matching.aligned_positions(size[0], logits.shape[0])
    share = rows.share[:, None, None]
    logits = logits[rows.low] * (1 - share) + logits[rows.high] * share
    columns = matching.aligned_positions(size[1], logits.shape[1])
    share = columns.share[None, :, None]
    return logits[:, columns.low] * (1 - share) + logits[:, columns.high] * share


def rough_region(strokes: np.ndarray, radius: int) -> np.ndarray:
    """Strokes int32 [h, w] of a first round with background, 0, wherever it is far from any object:
    beyond `radius` cells around their box, whose last row and column count as outside (test.py,
    whose first rounds have no strokes on the background)."""
    rows, columns = np.nonzero(strokes > 0)
    if not len(rows):  # lost when they were resized
        return strokes
    height, width = strokes.shape
    top, left = max(rows.min() - radius, 0), max(columns.min() - radius, 0)
    bottom, right = min(rows.max() + radius, height - 1), min(columns.max() + radius, width - 1)
    result = np.zeros_like(strokes)
    result[top:bottom, left:right] = strokes[top:bottom, left:right]
    return result


class LocalMemory(NamedTuple):
    """Local map float32 [h, w, N] of a frame in a round; weight: 1 / distance in frames to the
    round's annotated frame."""

    round: int
    weight: float
    map: np.ndarray


def softmax(logits: np.ndarray) -> np.ndarray:
    """float32 [..., N] of probabilities."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def between(answers: dict, t: int) -> np.ndarray:
    """The answer for frame t from those that came from annotated frames: of the nearest before and
    the nearest after it, weighted by the distance to the other one.

    Args:
      answers: {annotated frame: float [h, w, N]}; frame t's own is taken as it is.
      t: frame.
    """
    if t in answers:
        return answers[t]
    before = [frame for frame in answers if frame < t]
    after = [frame for frame in answers if frame > t]
    if not before or not after:
        return answers[max(before) if before else min(after)]
    low, high = max(before), min(after)
    share = (t - low) / (high - low)
    return answers[low] * (1 - share) + answers[high] * share


def nearest(answers: dict, t: int) -> dict:
    """Those of `answers` that between() looks at for frame t, now and after any further round."""
    if t in answers:
        return {t: answers[t]}
    before = [frame for frame in answers if frame < t]
    after = [frame for frame in answers if frame > t]
    kept = ([max(before)] if before else []) + ([min(after)] if after else [])
    return {frame: answers[frame] for frame in kept}


def pad_classes(maps: np.ndarray, count: int, fill: float) -> np.ndarray:
    """[h, w, count] of maps [h, w, N], N <= count: objects that were added later have `fill`."""
    missing = count - maps.shape[-1]
    if not missing:
        return maps
    return np.pad(maps, ((0, 0), (0, 0), (0, missing)), 'constant', constant_values=fill)


class State(NamedTuple):
    """What the rounds have left. It is replaced as a whole and never changed, so that other threads
    may read one.

    rounds: number of rounds played. log: {'round', 'frame', 'objects', 'strokes', 'seconds'} of
    each; strokes are None where they were given as an image. masks: uint8 [T, H, W], read only.
    global_memory: {frame: least global map so far, float32 [h, w, N]}. local_memory: {frame:
    LocalMemory of the last round}. answers: {frame: {annotated frame: probabilities float16
    [h, w, N]}} of the nearest annotated frames, where cfg.merge is 'distance'.
    """

    rounds: int
    log: tuple
    masks: np.ndarray
    global_memory: dict
    local_memory: dict
    answers: dict

    def draft(self) -> State:
        """A copy to play a round on; the maps in it are shared."""
        return State(
            self.rounds + 1,
            self.log,
            self.masks.copy(),
            dict(self.global_memory),
            dict(self.local_memory),
            dict(self.answers),
        )

    def maps(self) -> Iterator[np.ndarray]:
        """All maps of the memories."""
        yield from self.global_memory.values()
        yield from (memory.map for memory in self.local_memory.values())
        for found in self.answers.values():
            yield from found.values()


class Session:
    """One video in several rounds. One thread at a time may change it; any may read `state`.

    state: State. count: of classes, the objects and the background. cells: (h, w) of the
    embeddings. size: (H, W) of the masks.
    """

    def __init__(self, network, cfg, embeddings: list, size, objects: int, undo: bool = True):
        """A video before its first round.

        Args:
          network: inference.Network.
          cfg: uses roi, merge.
          embeddings: of inference.embed_video().
          size: (H, W) of the frames.
          objects: ids are 1..objects.
          undo: keep what undo() needs, which takes memory: the memories of the round before, and of
            as many before that as HISTORY allows.

        Raises:
          ValueError: an unknown cfg.merge.
        """
        if cfg.merge not in ('newest', 'distance'):
            raise ValueError(f"merge is 'newest' or 'distance', not {cfg.merge!r}")
        self.network, self.cfg, self.embeddings = network, cfg, embeddings
        self.size, self.count = tuple(size), objects + 1
        self.cells = embeddings[0].shape[:2]
        masks = np.zeros((len(embeddings), *self.size), np.uint8)
        masks.flags.writeable = False
        self.state = State(0, (), masks, {}, {}, {})
        self._undo, self._history, self._lock = undo, [], threading.Lock()

    @property
    def masks(self) -> np.ndarray:
        """uint8 [T, H, W] of the last round, read only."""
        return self.state.masks

    @property
    def rounds(self) -> int:
        """Number of rounds played."""
        return self.state.rounds

    def play(self, strokes, frame: int, given: np.ndarray | None = None) -> np.ndarray:
        """Plays one more round; returns the masks uint8 [T, H, W], a copy. See play_frames()."""
        for _ in self.play_frames(strokes, frame, given):
            pass
        return self.masks.copy()

    def play_frames(
        self, strokes, frame: int, given: np.ndarray | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Plays one more round and gives (frame number, mask uint8 [H, W]) as they are answered:
        the annotated frame, those after it, those before it.

        The round is kept when the iteration has come to its end. Leaving it earlier (close() of the
        generator) cancels the round.

        Args:
          strokes: [{'path': [[x, y], ...] of 0..1, 'object_id': id}, ...], or int32 [h, w] of the
            embeddings' size, -1 where there are none.
          frame: that they are drawn on.
          given: ids uint8 [H, W], the frame's mask where the user has it; it stays.

        Raises:
          ValueError: no strokes or no strokes at all, an id that is not of the video, a frame
            outside it. RuntimeError, at the first frame: another round is being played.
        """
        if isinstance(frame, bool) or not isinstance(frame, (int, np.integer)):
            raise ValueError(f'frame {frame!r} is no number')
        if not 0 <= frame < len(self.embeddings):
            raise ValueError(f'frame {frame} of a video of {len(self.embeddings)}')
        frame, paths = int(frame), None
        if not isinstance(strokes, np.ndarray):
            robot.check({'scribbles': [strokes]}, 'strokes')
            paths = [dict(stroke) for stroke in strokes]
            strokes = robot.rasterize([paths], self.cells)[0]
        self._check(strokes, given)
        return self._play(strokes, frame, given, paths)

    def _check(self, strokes, given):
        if strokes.shape != self.cells or strokes.dtype.kind not in 'iu':
            wanted = f'whole numbers {list(self.cells)}'
            raise ValueError(f'strokes are {wanted}, not {strokes.dtype} {list(strokes.shape)}')
        if (strokes == -1).all():
            raise ValueError('scribbles without a stroke')
        if strokes.min() < -1:
            raise ValueError(f'object {strokes.min()}: ids are 0, 1, ..., and -1 no stroke')
        if strokes.max() >= self.count:
            raise ValueError(f'object {strokes.max()}: the video has {self.count - 1}')
        if given is not None and given.shape != self.size:
            raise ValueError(f'the mask given is {list(given.shape)}, frames {list(self.size)}')

    def _play(self, strokes, frame, given, paths):
        with self._alone():
            begin, first = time.monotonic(), self.rounds == 0
            draft = self.state.draft()
            self._annotate(draft, strokes, frame, first)
            if given is not None:
                draft.masks[frame] = given
            yield frame, draft.masks[frame].copy()
            labels = rough_region(strokes, self.cfg.roi) if first else strokes
            for t in range(frame + 1, len(self.embeddings)):
                self._propagate(draft, t, t - 1, frame, labels)
                yield t, draft.masks[t].copy()
            for t in range(frame - 1, -1, -1):
                self._propagate(draft, t, t + 1, frame, labels)
                yield t, draft.masks[t].copy()
            told = {'round': draft.rounds, 'frame': frame, 'objects': self.count - 1}
            told.update(strokes=paths, seconds=time.monotonic() - begin)
            self._keep(draft._replace(log=(*draft.log, told)))

    @contextlib.contextmanager
    def _alone(self):
        if not self._lock.acquire(blocking=False):
            raise RuntimeError('a round of this session is being played')
        try:
            yield
        finally:
            self._lock.release()

    def _keep(self, state):
        """Takes up a state. The one before goes to the history, its masks compressed, which makes
        them a hundredth."""
        if self._undo:
            packed = [zlib.compress(mask.tobytes(), 1) for mask in self.masks]
            self._history.append(self.state._replace(masks=packed))
        state.masks.flags.writeable = False
        self.state = state
        while len(self._history) > 1 and sum(map(_bytes, self._history[:-1])) > HISTORY:
            del self._history[0]

    def can_undo(self) -> bool:
        """Whether the state before the last round is still there."""
        return bool(self._history)

    def undo(self) -> dict:
        """Takes the last round back; returns what State.log says of it.

        Raises:
          ValueError: there is none, or the state before it is not kept (a session that was read, or
            too many rounds back). RuntimeError: a round is being played.
        """
        with self._alone():
            if not self._history:
                raise ValueError(
                    f'round {self.rounds} cannot be undone: no state before it is kept'
                )
            told, state = self.state.log[-1], self._history.pop()
            masks = b''.join(map(zlib.decompress, state.masks))
            masks = np.frombuffer(masks, np.uint8).reshape(self.masks.shape)  # read only
            self.state = state._replace(masks=masks)
            return told

    def add_object(self) -> int:
        """Adds an object; returns its id. Masks do not change until it has strokes.

        Raises:
          ValueError: there are MOST_OBJECTS. RuntimeError: a round is being played.
        """
        with self._alone():
            if self.count > MOST_OBJECTS:
                raise ValueError(f'{MOST_OBJECTS} objects are the most a mask can hold')
            self.count += 1
            return self.count - 1

    def restore(self, saved: Saved) -> None:
        """Takes up what read() has found: its arrays, or where there are none its rounds, which are
        played again. Raises as play_frames()."""
        for _ in self.restore_frames(saved):
            pass

    def restore_frames(self, saved: Saved) -> Iterator[tuple[int, int, np.ndarray]]:
        """As restore(), gives (index of the round, frame number, mask uint8 [H, W]) of what is
        played."""
        if saved.state is not None:
            with self._alone():
                saved.state.masks.flags.writeable = False
                self.state, self._history = saved.state, []
                self.count = max(self.count, saved.objects + 1)
            return
        if saved.rounds and not self.rounds:
            self.count = saved.rounds[0]['objects'] + 1
        for number, told in enumerate(saved.rounds):
            while self.count <= told['objects']:
                self.add_object()
            for t, mask in self.play_frames(told['strokes'], told['frame']):
                yield number, t, mask
        while self.count <= saved.objects:
            self.add_object()

    def _annotate(self, draft, strokes, frame, first):
        previous = np.zeros(self.cells, np.int32) if first else self._cell_labels(draft, frame)
        logits, own = self.network.interact(
            self.count, embedding=self.embeddings[frame], strokes=strokes, previous=previous
        )
        draft.global_memory[frame] = np.minimum(self._global(draft, frame), own)
        draft.local_memory.pop(frame, None)
        draft.masks[frame] = self._mask(self._merged(draft, frame, frame, logits))

    def _propagate(self, draft, t, before, frame, labels):
        """Answers frame t from its neighbor `before` and the annotated frame."""
        mask = self._cell_labels(draft, before)
        global_map, local_map = self.network.match(
            self.count,
            query=self.embeddings[t],
            reference=self.embeddings[frame],
            previous=self.embeddings[before],
            labels=labels,
            mask=mask,
        )
        draft.global_memory[t] = np.minimum(self._global(draft, t), global_map)
        new = LocalMemory(draft.rounds, 1 / abs(t - frame), local_map)
        logits = self.network.propagate(
            self.count,
            embedding=self.embeddings[t],
            global_map=draft.global_memory[t],
            local_map=self._remember_local(draft, t, new),
            mask=mask,
        )
        merged = self._merged(draft, t, frame, logits)
        if t not in draft.answers.get(t, ()):  # else annotated: what the user has drawn stays
            draft.masks[t] = self._mask(merged)

    def _global(self, draft, t):
        """The least global map of frame t so far; 1, far, for what was not there yet."""
        found = draft.global_memory.get(t)
        return 1 if found is None else pad_classes(found, self.count, 1)

    def _merged(self, draft, t, frame, logits):
        """The answer for frame t: this round's, or with cfg.merge = 'distance' what this round and
        those annotated elsewhere say together."""
        if self.cfg.merge == 'newest':
            return logits
        answers = {**draft.answers.get(t, {}), frame: softmax(logits).astype(np.float16)}
        answers = {key: pad_classes(x, self.count, 0) for key, x in nearest(answers, t).items()}
        draft.answers[t] = answers
        return between(answers, t).astype(np.float32)

    def _remember_local(self, draft, t, new):
        """Keeps the local map of this round; returns the one to use: that of the round before where
        its annotated frame was as near or nearer."""
        old = draft.local_memory.get(t)
        draft.local_memory[t] = new
        if old and old.round == new.round - 1 and new.weight <= old.weight:
            return pad_classes(old.map, self.count, 1)
        return new.map

    def _cell_labels(self, draft, t):
        return resize_labels(draft.masks[t], self.cells)

    def _mask(self, logits):
        return resize_logits(logits, self.size).argmax(-1).astype(np.uint8)


def _bytes(state):
    return sum(map(len, state.masks)) + sum(array.nbytes for array in state.maps())


class Saved(NamedTuple):
    """A session as it was saved. state: None where the rounds have to be played again. rounds: as
    State.log."""

    state: State | None
    rounds: list
    objects: int


def describe(run: Session, facts: dict) -> dict:
    """What the JSON of a session holds, plain values: facts, number of frames and objects, rounds
    with their strokes; and the first round as DAVIS's scribbles, so that the file can be a sample
    of an evaluation (Scribbles/<sequence>/001.json)."""
    log, frames = run.state.log, len(run.embeddings)
    result = {'frames': frames, 'objects': run.count - 1, 'facts': facts, 'rounds': list(log)}
    if log and log[0]['round'] == 1 and log[0]['strokes']:
        first = log[0]
        result['annotated_frame'] = first['frame']
        result['scribbles'] = [
            first['strokes'] if t == first['frame'] else [] for t in range(frames)
        ]
    return result


def save(run: Session, path: str, facts: dict) -> None:
    """Writes a session as <path>.npz, arrays, and <path>.json, describe().

    Args:
      run: session.
      path: .npz or .json at its end or nothing.
      facts: plain values that read() compares: what the video is segmented from and with.
    """
    path = _stem(path)
    state, told = run.state, describe(run, facts)
    arrays = {'masks': state.masks, 'rounds': state.rounds, 'count': run.count}
    for key, value in (('facts', facts), ('log', state.log)):
        arrays[key] = np.frombuffer(json.dumps(value).encode(), np.uint8)
    full = {t: pad_classes(memory, run.count, 1) for t, memory in state.global_memory.items()}
    arrays.update({f'n/{t}': memory for t, memory in full.items()})
    for t, memory in state.local_memory.items():
        arrays[f'l/{t}'] = pad_classes(memory.map, run.count, 1)
        arrays[f'w/{t}'] = (memory.round, memory.weight)
    for t, answers in state.answers.items():
        for annotated, array in answers.items():
            arrays[f'a/{t}/{annotated}'] = pad_classes(array, run.count, 0)
    with files.replacing(f'{path}.npz') as temporary:
        np.savez_compressed(temporary, **arrays)
    files.write_text(f'{path}.json', json.dumps(told))


def _stem(path):
    return os.path.splitext(path)[0] if path.lower().endswith(('.npz', '.json')) else path


def read(path: str, shape, cells, facts: dict) -> Saved:
    """A saved session, checked.

    A .json with the .npz that was saved with it beside it is read from that; alone, its rounds are
    to be played again, and may be with other weights and in another size.

    Args:
      path: of save(), .npz or .json.
      shape: [T, H, W] of the masks.
      cells: (h, w) of the embeddings.
      facts: as of save().

    Raises:
      FileNotFoundError: no such file. ValueError: damaged, or of another video, network or size;
        rounds that cannot be played again, because their strokes were an image.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f'--resume: no such file: {os.path.abspath(path)}')
    if not path.lower().endswith('.json'):
        return _of_arrays(_arrays(path), path, shape, cells, facts)
    told = files.read_json(path)
    objects = check_rounds(told, path, shape[0])
    saved = told.get('facts')
    saved = saved if isinstance(saved, dict) else {}
    arrays = f'{_stem(path)}.npz'
    if saved == facts and os.path.isfile(arrays):
        kept = _arrays(arrays)
        if _plain(kept, 'log', []) == told['rounds'] and told['rounds']:
            return _of_arrays(kept, arrays, shape, cells, facts)
    _compare({key: saved[key] for key in ('input',) if key in saved}, facts, path)
    for number, each in enumerate(told['rounds'], 1):
        if each['strokes'] is None:
            raise ValueError(
                f'{path}: round {number} was given as an image: without the .npz that was saved '
                'with it, it cannot be played again'
            )
    return Saved(None, told['rounds'], objects)


def check_rounds(told, path: str, frames: int) -> int:
    """Number of objects of what the JSON of a session holds; ValueError where it holds something
    else, or strokes of another video."""
    rounds, objects = (
        told.get(key) if isinstance(told, dict) else None for key in ('rounds', 'objects')
    )
    if not isinstance(rounds, list) or not files.is_number(objects, 1, MOST_OBJECTS, int):
        raise ValueError(f'{path} is no session: expected {{"objects": 1, "rounds": [...]}}')
    if told.get('frames', frames) != frames:
        raise ValueError(f'{path} has {told["frames"]} frames, the video has {frames}')
    for number, each in enumerate(rounds, 1):
        name = f'{path}: round {number}'
        if not isinstance(each, dict) or not files.is_number(each.get('frame'), 0, frames - 1, int):
            raise ValueError(f'{name} has no frame of a video of {frames} frames')
        each.setdefault('objects', objects)
        if not files.is_number(each['objects'], 1, objects, int):
            raise ValueError(f'{name} has {each["objects"]!r} objects of {objects}')
        if each.setdefault('strokes', None) is None:  # an image; the arrays may know
            continue
        robot.check({'scribbles': [each['strokes']]}, name)
        drawn = max((stroke['object_id'] for stroke in each['strokes']), default=-1)
        if not 0 <= drawn <= each['objects']:
            raise ValueError(f'{name} has no strokes of the objects 0 to {each["objects"]}')
    return objects


def _arrays(path):
    """{name: array} of a saved session; ValueError where it cannot be one."""
    try:
        kept = weights.read_npz(path)
        count, keys = int(kept['count']), [key.split('/') for key in kept if '/' in key]
        frames = {str(t) for t in range(len(kept['masks']))}
        usable = kept['masks'].dtype == np.uint8 and kept['masks'].max(initial=0) < count
        usable = usable and int(kept['rounds']) >= 0 and isinstance(_plain(kept, 'facts', {}), dict)
        usable = usable and isinstance(_plain(kept, 'log', []), list)
        if not usable or any(set(numbers) - frames for _, *numbers in keys):
            raise ValueError('masks, rounds or frames that cannot be')
        for kind, *numbers in keys:
            _, _ = kept[f'w/{numbers[0]}'] if kind == 'l' else (0, 0)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f'--resume: {path} breaks off or is not what --save_state wrote ({error})'
        ) from None
    return kept


def _plain(kept, key, default):
    return json.loads(kept[key].tobytes().decode()) if key in kept else default


def _of_arrays(kept, path, shape, cells, facts):
    masks, count = kept['masks'], int(kept['count'])
    if masks.shape != tuple(shape) or masks.dtype != np.uint8:
        raise ValueError(f'--resume: {path} is of another video: masks {list(masks.shape)}')
    maps = [array for key, array in kept.items() if key[:2] in ('n/', 'l/', 'a/')]
    if any(array.shape != (*cells, count) for array in maps):
        raise ValueError(f'--resume: {path} is of another size in the network: --keep_aspect?')
    _compare(_plain(kept, 'facts', {}), facts, path)
    log = tuple(_plain(kept, 'log', ()))
    state = State(int(kept['rounds']), log, masks, {}, {}, {})
    for key, array in kept.items():
        kind, _, frame = key.partition('/')
        if kind == 'n':
            state.global_memory[int(frame)] = array
        elif kind == 'l':
            number, weight = kept[f'w/{frame}']
            state.local_memory[int(frame)] = LocalMemory(int(number), float(weight), array)
        elif kind == 'a':
            t, annotated = map(int, frame.split('/'))
            state.answers.setdefault(t, {})[annotated] = array
    return Saved(state, list(log), count - 1)


def _compare(saved, facts, path):
    changed = sorted(key for key in saved if saved[key] != facts.get(key))
    if changed:
        raise ValueError(f'--resume: {path} was made with another {" and ".join(changed)}')
