"""The page of MANet.demo --serve: draw scribbles on a clip, see the masks, correct, save.

    python -m MANet.demo --serve --input=clip.mp4

One clip, one session, one thread that computes. What the page shows is page.html, which asks for
frames and masks by their numbers and is told of progress by server-sent events. For one person on
this machine: it listens on 127.0.0.1 alone, the URL has a random token that every request must
carry, Host and Origin must be its own, and no request names a file.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import io
import itertools
import json
import os
import queue
import re
import secrets
import shutil
import socket
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from easydict import EasyDict
from werkzeug.exceptions import (
    BadRequest,
    Conflict,
    Forbidden,
    HTTPException,
    LengthRequired,
    NotFound,
    RequestEntityTooLarge,
    TooManyRequests,
    UnsupportedMediaType,
)
from werkzeug.routing import Map, Rule
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from common import console, files, masks, videos
from common.lazy import Image, cv2, np

from . import cli, inference, session

HOST = '127.0.0.1'
PAGE = Path(__file__).with_name('page.html')
LONGEST_BODY = 2**22  # bytes of a request
MOST_ROUNDS = 100  # of a request
MOST_STREAMS = 32  # of events at a time
PULSE = 5  # s between two events where nothing happens: so a closed page is noticed
DISPLAYED = 1280  # px, the longest side of a frame in the page
THUMBNAIL = 72  # px, height
QUALITY = 90  # of the page's JPEG
SHARES = (1, 0.75, 0.5)  # of the network's size that the page offers
LEAST_HEIGHT = 64  # px of them
QUICK = 8.0  # s; what takes less is measured a second time, without the graph's first run
HEADERS = {
    'Cache-Control': 'no-store',
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Referrer-Policy': 'no-referrer',
    'X-Content-Type-Options': 'nosniff',
    'X-Frame-Options': 'DENY',
}


class First(NamedTuple):
    """What is there before the page opens. rounds: [(frame, strokes, mask or None)] to play.
    saved: of session.read(), or None. objects: their number."""

    rounds: list
    saved: session.Saved | None
    objects: int


class Cancelled(Exception):
    """The user has cancelled what was computed."""


def measure(network, cfg, source: str, count: int) -> dict:
    """Seconds that a frame takes: {'embed': s, 'play': s}; on the first frames, `count` classes and
    all cells labelled, as in a first round."""
    frames = itertools.islice(videos.Frames(source), cfg.test_batch)
    images = np.stack([inference.resize_frame(frame, cfg) for frame in frames])
    found = {}

    def embed():
        found['embedding'] = network.embed(images)[0]

    def play():
        maps = network.match(
            count,
            query=found['embedding'],
            reference=found['embedding'],
            previous=found['embedding'],
            labels=labels,
            mask=labels,
        )
        network.propagate(
            count,
            embedding=found['embedding'],
            global_map=maps[0],
            local_map=maps[1],
            mask=labels,
        )

    seconds = _seconds(embed) / len(images)
    labels = np.zeros(found['embedding'].shape[:2], np.int32)
    labels[: len(labels) // 2] = 1
    return {'embed': seconds, 'play': _seconds(play)}


def _seconds(function):
    least = None
    while True:
        begin = time.monotonic()
        function()
        seconds = time.monotonic() - begin
        if least is not None or seconds > QUICK:
            return min(seconds, least or seconds)
        least = seconds


def network_sizes(cfg, size) -> list[dict]:
    """The sizes that the page offers: {'height', 'width', 'share'} px in the network, of frames of
    `size` (H, W); the first is that of the settings."""
    result = []
    for share in SHARES:
        height = int(round(cfg.test_height * share / 4)) * 4 if share < 1 else cfg.test_height
        width = int(round(cfg.test_width * share / 4)) * 4 if share < 1 else cfg.test_width
        if share == 1 or height >= LEAST_HEIGHT:
            smaller = EasyDict(test_height=height, test_width=width)
            shown = inference.network_size(*size, smaller)
            result.append({'height': height, 'width': shown[1], 'share': share, 'set': width})
    return result


class Work:
    """The session behind the page, and the thread that computes for it.

    Every change of what the page has to know counts up `changes` and wakes who waits for
    `condition`.
    """

    def __init__(
        self, network, cfg, clip, source: str, output_path: str, facts: dict, first: First
    ):
        """Args: see run(). Nothing is computed before start()."""
        self.network, self.cfg, self.clip, self.source = network, EasyDict(cfg), clip, source
        self.output_path, self.facts, self.claimed, self.first = output_path, facts, facts, first
        self.fps, self.session, self.drawn, self.seconds = None, None, {}, {}
        self.sizes, self.height = network_sizes(cfg, clip.size), cfg.test_height
        self.condition, self.jobs, self.stop = threading.Condition(), queue.Queue(), None
        self.exporting, self.closed, self.streams = threading.Lock(), False, 0
        self.changes, self.version, self.plays, self.told = 0, 0, 0, {}
        self.message, self.error = '', ''
        self.begun = False  # what was there before the page is played, or the user has gone on
        self.folder = tempfile.mkdtemp(prefix='manet-page-')
        self.thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        """Writes the frames as the page shows them and begins to embed."""
        frames = masks.read_frames(self.source)
        for t, (_, image) in enumerate(console.progress(frames, 'reading', len(self.clip.names))):
            scale = min(1, DISPLAYED / max(image.shape[:2]))
            self._write(f'{t}.jpg', image, scale)
            self._write(f'{t}.thumb.jpg', image, min(1, THUMBNAIL / image.shape[0]))
        self._put_old_session_aside()
        self.thread.start()
        self.submit('embedding', lambda: self._embed(self.sizes[0]))

    def _put_old_session_aside(self):
        """Renames a session of this folder that is not the one resumed: the first round would
        replace it."""
        for ending in ('.json', '.npz'):
            path = os.path.join(self.output_path, f'session{ending}')
            if os.path.isfile(path) and not self.first.saved:
                old = os.path.join(self.output_path, f'session.old{ending}')
                os.replace(path, old)
                print(f'{path} of an earlier call is now {old}', flush=True)

    def _write(self, name, image, scale):
        size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
        data = cv2.imencode('.jpg', small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
        data.tofile(os.path.join(self.folder, name))

    def close(self) -> None:
        """Cancels, ends the thread and removes the page's frames."""
        with self.condition:
            self.closed = True
            if self.stop:
                self.stop.set()
            self.condition.notify_all()
        self.jobs.put(None)
        if self.thread.is_alive():
            self.thread.join(timeout=20)
        shutil.rmtree(self.folder, ignore_errors=True)

    def submit(self, what: str, function, instead: bool = False) -> None:
        """Has the thread call `function()`; with `instead` it cancels what it is doing.

        Raises:
          Conflict: something else is being computed.
        """
        with self.condition:
            if self.closed or (self.stop and not instead):
                raise Conflict(f'{self.told.get("what") or "something"} is being computed')
            if self.stop:
                self.stop.set()
            self.stop = threading.Event()
            self._tell(what=what, done=0, total=0, eta=None)
            self.jobs.put((function, self.stop))

    def cancel(self) -> None:
        """Has the thread stop after the frame that it is at; does nothing where it is idle."""
        with self.condition:
            if self.stop:
                self.stop.set()

    def _tell(self, **news):
        """Notes what is computed. Called with the condition held."""
        self.told.update(news)
        self.changes += 1
        self.condition.notify_all()

    def _work(self):
        while True:
            job = self.jobs.get()
            if job is None:
                return
            function, self.running = job
            message, error = '', ''
            try:
                message = function() or ''
            except Cancelled:
                message = 'Cancelled: the masks are as they were.'
            except cli.errors() as fault:
                error = str(fault) or repr(fault)
                print(f'page: error: {error}', file=sys.stderr, flush=True)
            except Exception as fault:  # an error of ours: the page must not wait forever
                error = f'{type(fault).__name__}: {fault}'
                traceback.print_exc()
            with self.condition:
                self.drawn, self.version = {}, self.version + 1
                self.message, self.error = message, error
                if self.stop is self.running:
                    self.stop = None
                    self._tell(what='', done=0, total=0, eta=None)

    def _watched(self, items: Iterable, total: int, what: str) -> Iterator:
        """Passes items on, notes their number and the time left; raises Cancelled."""
        begin = time.monotonic()
        with self.condition:
            self._tell(what=what, done=0, total=total, eta=None)
        for done, item in enumerate(items, 1):
            if self.running.is_set():
                raise Cancelled
            yield item
            eta = (time.monotonic() - begin) * (total - done) / done
            with self.condition:
                self._tell(done=done, eta=eta)

    def _embed(self, size):
        """Embeds the clip in a size and plays the rounds that there are; the session before is kept
        until all of it is done."""
        cfg, total = EasyDict(self.cfg), len(self.clip.names)
        cfg.update(test_height=size['height'], test_width=size['set'])
        rounds, saved, objects = self.first
        if self.begun:
            saved = session.Saved(None, list(self.session.state.log), self.session.count - 1)
            rounds, objects = [], saved.objects
        elif saved and saved.state and size is not self.sizes[0]:
            saved = session.Saved(None, list(saved.state.log), saved.objects)
        seconds = measure(self.network, cfg, self.source, objects + 1)
        with self.condition:
            self.seconds = {key: value / size['share'] ** 2 for key, value in seconds.items()}
            self.height = size['height']
            self._tell()
        try:
            frames = self._watched(videos.Frames(self.source), total, 'embedding')
            embeddings = inference.embed_video(self.network, cfg, frames)
            run = session.Session(self.network, cfg, embeddings, self.clip.size, objects)
            if not self.begun:  # else the one before stays until all rounds are played again
                self.session = run
            if saved:
                self._play(run, run.restore_frames(saved), total * len(saved.rounds))
            for frame, strokes, given in rounds:
                played = ((0, t, ids) for t, ids in run.play_frames(strokes, frame, given))
                self._play(run, played, total)
        except BaseException:
            with self.condition:
                self.height = self.session.cfg.test_height if self.session else 0
            raise
        facts = {**self.facts, 'test_height': cfg.test_height, 'test_width': cfg.test_width}
        with self.condition:
            self.session, self.facts, self.begun = run, facts, True

    def _play(self, run, played, total):
        """Plays (round, frame, mask) to the end, showing the masks."""
        number, what = None, 'round'
        with contextlib.closing(played):
            for each, t, ids in self._watched(played, total, what):
                png = mask_png(ids)
                with self.condition:
                    if each != number:
                        number, self.drawn, self.plays = each, {}, self.plays + 1
                        self.told['frame'] = t
                    self.drawn[t] = png
        with self.condition:
            self.version += 1
            self.drawn = {}

    def check_rounds(self, rounds) -> None:
        """BadRequest where `rounds` are not [{'frame': t, 'strokes': [...]}] that can be played."""
        run = self._ready()
        if not isinstance(rounds, list) or not 0 < len(rounds) <= MOST_ROUNDS:
            raise BadRequest(f'expected {{"rounds": [...]}}, 1 to {MOST_ROUNDS} of them')
        for each in rounds:
            if not isinstance(each, dict) or set(each) != {'frame', 'strokes'}:
                raise BadRequest('a round is {"frame": 0, "strokes": [...]}')
            try:
                run.play_frames(each['strokes'], each['frame']).close()
            except ValueError as error:
                raise BadRequest(str(error)) from None
        if not run.rounds and not any(s['object_id'] for s in rounds[0]['strokes']):
            raise BadRequest('the first round shows no object, only background')

    def play(self, rounds: list) -> None:
        """Plays checked rounds, one after the other; what is done stays where a later one is
        cancelled."""
        run, total = self._ready(), len(self.clip.names)

        def job():
            self.begun = True
            for each in rounds:
                frames = run.play_frames(each['strokes'], each['frame'])
                self._play(run, _with_zero(frames), total)
                self._keep_strokes()
                share = next(x['share'] for x in self.sizes if x['height'] == self.height)
                self.seconds['play'] = run.state.log[-1]['seconds'] / total / share**2

        self.submit('round', job)

    def undo(self) -> dict:
        """Takes the last round back; returns what the log says of it."""
        run = self._ready()
        with self.condition:
            if self.stop:
                raise Conflict('something is being computed')
            try:
                told = run.undo()
            except ValueError as error:
                raise Conflict(str(error)) from None
            self.version, self.message, self.error = self.version + 1, '', ''
            self._tell()
        self._keep_strokes()
        return told

    def add_object(self) -> int:
        """Adds an object; returns its id."""
        run = self._ready()
        with self.condition:
            if self.stop:
                raise Conflict('something is being computed')
            try:
                number = run.add_object()
            except ValueError as error:
                raise Conflict(str(error)) from None
            self._tell()
            return number

    def resize(self, height) -> None:
        """Embeds the clip in another of the sizes, and plays the rounds again."""
        found = [size for size in self.sizes if size['height'] == height]
        if not found:
            raise BadRequest(f'height is one of {[size["height"] for size in self.sizes]}')
        state = self.session.state if self.begun else self.first.saved and self.first.saved.state
        drawn = [each['strokes'] for each in state.log] if state else []
        image = bool(state) and len(drawn) < state.rounds  # of a file without a log
        if not self.begun:
            drawn += [strokes for _, strokes, _ in self.first.rounds]
        if image or any(not isinstance(each, list) for each in drawn):
            raise Conflict('a round was given as an image, which cannot be played in another size')
        self.submit('embedding', lambda: self._embed(found[0]), instead=True)

    def save(self) -> None:
        """Writes masks/, overlay.mp4, sheet.png, session.json and session.npz."""
        run = self._ready()

        def job():
            self._claim()
            total = len(self.clip.names)
            found = self._watched(run.masks, total, 'saving')
            videos.write_clip(self.source, found, self.output_path, self.fps)
            session.save(run, os.path.join(self.output_path, 'session'), self.facts)
            return f'Saved in {os.path.abspath(self.output_path)}.'

        self.submit('saving', job)

    def _claim(self):
        """Notes what the results are made from, where the size was changed here too."""
        if self.claimed != self.facts:
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(self.output_path, 'made_from.json'))
        files.claim(self.output_path, self.facts)
        self.claimed = self.facts

    def _keep_strokes(self):
        """Writes session.json, so that what was drawn survives the program."""
        path = os.path.join(self.output_path, 'session.json')
        files.write_text(path, json.dumps(session.describe(self.session, self.facts)))

    def _ready(self):
        if not self.session:
            raise Conflict('the clip is being embedded')
        return self.session

    def mask(self, t: int) -> bytes:
        """mask_png() of frame t, that of the round being played where there is one."""
        drawn, run = self.drawn.get(t), self.session
        return drawn or mask_png(run.masks[t] if run else np.zeros(self.clip.size, np.uint8))

    def describe(self) -> dict:
        """What the page shows beside the images. Called with the condition held."""
        run = self.session
        log = run.state.log if run else ()
        names = ('round', 'frame', 'seconds', 'objects')
        return {
            **self.told,
            'ready': bool(run),
            'busy': bool(self.stop),
            'drawn': len(self.drawn),
            'plays': self.plays,
            'version': self.version,
            'objects': run.count - 1 if run else self.first.objects,
            'undo': bool(run and run.can_undo()),
            'rounds': [{key: each[key] for key in names} for each in log],
            'played': run.rounds if run else 0,
            'height': self.height,
            'seconds': self.seconds,
            'message': self.message,
            'error': self.error,
        }


def mask_png(ids: np.ndarray) -> bytes:
    """PNG of ids uint8 [H, W] in the palette's colors, background transparent."""
    image = Image.fromarray(ids)
    image.putpalette(masks.palette().ravel().tolist())
    data = io.BytesIO()
    image.save(data, 'PNG', transparency=0, compress_level=1)
    return data.getvalue()


def _with_zero(frames):
    with contextlib.closing(frames):
        for t, ids in frames:
            yield 0, t, ids


def show_page(work, request):
    """The page."""
    return Response(PAGE.read_bytes(), mimetype='text/html')


def show_clip(work, request):
    """What does not change: names, sizes, colors."""
    return _json(
        {
            'name': os.path.basename(os.path.abspath(work.source)),
            'names': work.clip.names,
            'height': work.clip.size[0],
            'width': work.clip.size[1],
            'fps': work.fps or masks.frame_rate(work.source),
            'palette': masks.palette().tolist(),
            'sizes': work.sizes,
            'folder': os.path.abspath(work.output_path),
            'most_objects': session.MOST_OBJECTS,
        }
    )


def show_state(work, request):
    """What the events tell, once."""
    with work.condition:
        return _json(work.describe())


def show_events(work, request):
    """Server-sent events: describe() of the work whenever it changes."""
    with work.condition:
        if work.streams >= MOST_STREAMS:
            raise TooManyRequests('too many open pages')
        work.streams += 1

    def stream():
        seen = -1
        try:
            while not work.closed:
                with work.condition:
                    if work.changes == seen:
                        work.condition.wait(PULSE)
                    seen, told = work.changes, work.describe()
                yield f'data: {json.dumps(told)}\n\n'
        finally:
            with work.condition:
                work.streams -= 1

    return Response(stream(), mimetype='text/event-stream')


def show_frame(work, request, t):
    """JPEG of a frame."""
    return _jpeg(work, t, f'{t}.jpg')


def show_thumbnail(work, request, t):
    """JPEG of a frame, small."""
    return _jpeg(work, t, f'{t}.thumb.jpg')


def _jpeg(work, t, name):
    _known(work, t)
    data = Path(work.folder, name).read_bytes()
    response = Response(data, mimetype='image/jpeg')
    response.headers['Cache-Control'] = 'private, max-age=86400'  # the URL's token is this run's
    return response


def _known(work, t):
    if t >= len(work.clip.names):
        raise NotFound('no such frame')


def show_mask(work, request, t):
    """PNG of a mask in the palette's colors, background transparent."""
    _known(work, t)
    return Response(work.mask(t), mimetype='image/png')


def play_rounds(work, request):
    """Begins to play {"rounds": [{"frame": t, "strokes": [...]}, ...]}."""
    rounds = _body(request, {'rounds'})['rounds']
    work.check_rounds(rounds)
    work.play(rounds)
    return _json({}, 202)


def cancel(work, request):
    """Stops what is computed."""
    _body(request, set())
    work.cancel()
    return _json({}, 202)


def undo(work, request):
    """Takes the last round back and returns it."""
    _body(request, set())
    return _json(work.undo())


def add_object(work, request):
    """Adds an object."""
    _body(request, set())
    return _json({'object': work.add_object()})


def resize(work, request):
    """Begins to embed in another size, {"height": px}."""
    work.resize(_body(request, {'height'})['height'])
    return _json({}, 202)


def save(work, request):
    """Begins to write the results to the output folder."""
    _body(request, set())
    work.save()
    return _json({}, 202)


def export_masks(work, request):
    """A zip of all masks."""

    def write(path):
        with zipfile.ZipFile(path, 'w') as archive:
            one = os.path.join(work.folder, 'mask.png')
            for name, ids in zip(work.clip.names, found):
                masks.write_mask(one, ids)
                archive.write(one, f'masks/{name}.png')

    found = work._ready().masks
    return _download(work, write, 'masks.zip', 'application/zip')


def export_overlay(work, request):
    """A clip with the masks drawn on it."""

    def write(path):
        drawn = map(masks.overlay, videos.Frames(work.source), found)
        masks.write_video(path, drawn, work.fps or masks.frame_rate(work.source))

    found = work._ready().masks
    return _download(work, write, 'overlay.mp4', 'video/mp4')


def export_session(work, request):
    """The strokes of all rounds, for --resume."""
    told = session.describe(work._ready(), work.facts)
    return _attached(Response(json.dumps(told), mimetype='application/json'), 'session.json')


def _download(work, write, name, kind):
    """What write(path) writes; one at a time, so that the memory is bounded."""
    path = os.path.join(work.folder, name)
    with work.exporting:
        write(path)
        data = Path(path).read_bytes()
        os.remove(path)
    return _attached(Response(data, mimetype=kind), name)


def _attached(response, name):
    response.headers['Content-Disposition'] = f'attachment; filename="{name}"'
    return response


def _json(value, status=200):
    return Response(json.dumps(value), status=status, mimetype='application/json')


def _body(request, names):
    """The JSON object that a request brings, with exactly these names."""
    if request.mimetype != 'application/json':
        raise UnsupportedMediaType('expected application/json')
    try:
        found = json.loads(request.get_data().decode())
    except (ValueError, RecursionError):
        raise BadRequest('no JSON') from None
    if not isinstance(found, dict) or set(found) != names:
        raise BadRequest(f'expected an object with {sorted(names)}')
    return found


PLACES = {
    '/': show_page,
    '/clip': show_clip,
    '/state': show_state,
    '/events': show_events,
    '/frames/<int:t>.jpg': show_frame,
    '/thumbnails/<int:t>.jpg': show_thumbnail,
    '/masks/<int:t>.png': show_mask,
    '/export/masks.zip': export_masks,
    '/export/overlay.mp4': export_overlay,
    '/export/session.json': export_session,
}
ACTIONS = {
    '/rounds': play_rounds,
    '/cancel': cancel,
    '/undo': undo,
    '/objects': add_object,
    '/size': resize,
    '/save': save,
}


def application(work: Work, token: str, port: int):
    """The WSGI application of one server.

    Args:
      work: what it serves.
      token: the first part of every path.
      port: that the browser's Host and Origin have to name.
    """
    rules = [Rule(path, endpoint=show, methods=['GET']) for path, show in PLACES.items()]
    rules += [Rule(path, endpoint=act, methods=['POST']) for path, act in ACTIONS.items()]
    places = Map(rules, merge_slashes=False)
    hosts = {f'{HOST}:{port}', f'localhost:{port}'}
    headers = {**HEADERS, 'Content-Security-Policy': content_policy(PAGE.read_text('utf-8'))}

    def answer(environ, start_response):
        request = Request(environ)
        try:
            path = _admit(request, token, hosts)
            show, values = places.bind('').match(path, request.method)
            response = show(work, request, **values)
        except HTTPException as error:
            response = _json({'error': error.description}, error.code)
        except cli.errors() as error:  # such as a disk that is full
            print(f'page: error: {error}', file=sys.stderr, flush=True)
            response = _json({'error': str(error)}, 500)
        for name, value in headers.items():
            response.headers.setdefault(name, value)
        return response(environ, start_response)

    return answer


def _admit(request, token, hosts):
    """The path below the token; raises where a request may not be answered."""
    host, origin = request.environ.get('HTTP_HOST', ''), request.headers.get('Origin')
    if host not in hosts:
        raise Forbidden('another Host')
    first, _, rest = request.environ.get('PATH_INFO', '')[1:].partition('/')
    if not hmac.compare_digest(first.encode('utf-8', 'replace'), token.encode()):
        raise Forbidden('no or another token: open the URL that the program has printed')
    if origin != f'http://{host}' and (origin is not None or request.method == 'POST'):
        raise Forbidden('another Origin')
    length = request.headers.get('Content-Length')
    chunked = 'Transfer-Encoding' in request.headers  # werkzeug would read such a body to its end
    if chunked or (length is None and request.method == 'POST'):
        raise LengthRequired('a body needs a Content-Length and comes in one piece')
    if length is not None and (not length.isdigit() or int(length) > LONGEST_BODY):
        raise RequestEntityTooLarge(f'a request has at most {LONGEST_BODY} bytes')
    return '/' + rest


def content_policy(page: str) -> str:
    """The Content-Security-Policy that lets the page's own script and style run and nothing else:
    nothing is loaded from elsewhere, whatever a name of a frame may hold."""

    def digests(tag):
        found = re.findall(f'<{tag}>(.*?)</{tag}>', page, re.S)
        digest = [base64.b64encode(hashlib.sha256(x.encode()).digest()).decode() for x in found]
        return ' '.join(f"'sha256-{x}'" for x in digest)

    return (
        f"default-src 'none'; script-src {digests('script')}; style-src {digests('style')}; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


class QuietHandler(WSGIRequestHandler):
    """Requests are no events for the terminal."""

    timeout = 60  # s that a connection may be silent

    def log_request(self, *args):
        """Prints nothing: a path has the token in it."""

    def log_error(self, *args):
        """Prints nothing: a browser opens connections in advance, which time out."""


def listen(port: int) -> socket.socket:
    """A socket on 127.0.0.1; port 0: one that is free.

    Raises:
      ValueError: the port is in use, may not be used or is none.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((HOST, port))
    except (OSError, OverflowError) as error:
        sock.close()
        raise ValueError(f'--port={port}: {error}; --port=0 takes a free one') from None
    sock.listen(128)
    return sock


def run(network, cfg, clip, args, output_path: str, facts: dict, first: First) -> None:
    """Serves the page until a signal comes.

    Args:
      network: inference.Network.
      cfg: its settings.
      clip: names of the frames, size (H, W).
      args: uses input, port, fps.
      output_path: folder that the page saves to.
      facts: that session.save() keeps.
      first: what to begin with.
    """
    work = Work(network, cfg, clip, args.input, output_path, facts, first)
    work.fps = args.fps
    with contextlib.closing(work), contextlib.closing(listen(args.port)) as sock:
        work.start()
        port, token = sock.getsockname()[1], secrets.token_urlsafe(24)
        app = application(work, token, port)
        server = make_server(
            HOST, port, app, threaded=True, request_handler=QuietHandler, fd=sock.fileno()
        )
        server.daemon_threads = True
        with contextlib.closing(server.socket):
            print(
                f'page: http://{HOST}:{port}/{token}/ (for you alone; Ctrl-C ends it)', flush=True
            )
            try:
                server.serve_forever()
            finally:
                if work.session and work.session.rounds:
                    path = os.path.join(output_path, 'session.json')
                    print(f'the strokes are in {path}: --resume={path} goes on', flush=True)
