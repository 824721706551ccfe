"""The server of MANet's page: what it answers, what it refuses, what it keeps; the page's own file.
The network is a stand-in that answers by color."""

from __future__ import annotations

import contextlib
import io
import json
import re
import socket
import threading
import zipfile
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tiny_manet
from PIL import Image
from werkzeug.serving import make_server
from werkzeug.test import Client

from common import files, masks
from MANet import demo, serve, session

TOKEN, PORT = 'the-token', 8000
OWN = f'http://127.0.0.1:{PORT}'
FRAMES = tiny_manet.FRAMES


class Server:
    """A served clip, its session and a browser's requests."""

    def __init__(self, folder, first=None, **settings):
        self.source, self.output = folder / 'frames', folder / 'out'
        self.source.mkdir(exist_ok=True)
        for t, image in enumerate(tiny_manet.images()):
            cv2.imwrite(str(self.source / f'{t:02d}.png'), image)
        self.cfg, self.network = tiny_manet.settings(**settings), tiny_manet.Network()
        clip = demo.read_clip(str(self.source), self.cfg)
        self.facts = {'input': 'x', 'test_height': 48, 'test_width': 64, 'merge': self.cfg.merge}
        files.claim(str(self.output), self.facts)
        first = first or serve.First([], None, 2)
        arguments = str(self.source), str(self.output), self.facts, first
        self.work = serve.Work(self.network, self.cfg, clip, *arguments)
        self.app = serve.application(self.work, TOKEN, PORT)
        self.client = Client(self.app)

    def start(self):
        self.work.start()
        self.wait()
        return self

    def wait(self, until=lambda work: not work.stop):
        with self.work.condition:
            assert self.work.condition.wait_for(lambda: until(self.work), 60)

    def get(self, path, **more):
        return self.client.get(f'/{TOKEN}/{path}', base_url=OWN, **more)

    def post(self, path, body=None, **more):
        headers = {'Origin': OWN, **more}
        return self.client.post(f'/{TOKEN}/{path}', base_url=OWN, headers=headers, json=body or {})

    def play(self, *rounds):
        """Plays [(frame, strokes)] to the end."""
        rounds = [{'frame': t, 'strokes': strokes} for t, strokes in rounds]
        answer = self.post('rounds', {'rounds': rounds})
        assert answer.status_code == 202, answer.get_json()
        self.wait()

    def state(self):
        return self.get('state').get_json()

    def mask(self, t):
        image = Image.open(io.BytesIO(self.get(f'masks/{t}.png').data))
        assert image.mode == 'P' and image.info['transparency'] == 0
        assert image.getpalette()[: 3 * 256] == masks.palette().ravel().tolist()
        return np.array(image)


@pytest.fixture
def served(tmp_path):
    server = Server(tmp_path)
    with contextlib.closing(server.work):
        yield server.start()


@pytest.fixture(scope='module')
def standing(tmp_path_factory):
    """A server with one round, for requests that change nothing."""
    server = Server(tmp_path_factory.mktemp('standing'))
    with contextlib.closing(server.work):
        server.start().play((2, both(2)))
        yield server


def both(t):
    return [tiny_manet.stroke(1, t), tiny_manet.stroke(2, t)]


def alone(*rounds, objects=2):
    """Masks of the same rounds without a server."""
    from MANet import inference

    cfg, network = tiny_manet.settings(), tiny_manet.Network()
    embeddings = inference.embed_video(network, cfg, tiny_manet.images())
    run = session.Session(network, cfg, embeddings, tiny_manet.SIZE, objects)
    for t, strokes in rounds:
        run.play(strokes, t)
    return run.masks


def test_from_the_first_stroke_to_saved_masks(served):
    state = served.state()
    assert state['ready'] and not state['busy'] and not state['undo'] and state['played'] == 0
    assert not served.mask(0).any() and state['seconds']['play'] > 0
    assert state['height'] == 48 and state['objects'] == 2 and state['error'] == ''
    served.play((2, both(2)), (5, [tiny_manet.stroke(0, 5)]))
    wanted = alone((2, both(2)), (5, [tiny_manet.stroke(0, 5)]))
    assert wanted.any()
    for t in range(FRAMES):
        assert np.array_equal(served.mask(t), wanted[t])
    assert [r['frame'] for r in served.state()['rounds']] == [2, 5] and served.state()['undo']
    archive = zipfile.ZipFile(io.BytesIO(served.get('export/masks.zip').data))
    assert archive.namelist() == [f'masks/{t:02d}.png' for t in range(FRAMES)]
    for t in range(FRAMES):
        assert np.array_equal(np.array(Image.open(archive.open(f'masks/{t:02d}.png'))), wanted[t])
    video = served.get('export/overlay.mp4')
    assert video.data[4:8] == b'ftyp' and 'attachment' in video.headers['Content-Disposition']
    assert served.post('save').status_code == 202
    served.wait()
    assert served.state()['message'] == f'Saved in {served.output}.'
    for t in range(FRAMES):
        assert np.array_equal(
            masks.read_mask(f'{served.output}/masks/{t:02d}.png', True), wanted[t]
        )
    assert {'overlay.mp4', 'sheet.png'} <= {path.name for path in served.output.iterdir()}
    told = json.loads((served.output / 'session.json').read_text())
    assert told == served.get('export/session.json').get_json()
    assert [each['strokes'] for each in told['rounds']] == [both(2), [tiny_manet.stroke(0, 5)]]


def test_a_round_is_undone_and_comes_back_as_strokes(served):
    served.play((2, both(2)))
    before = [served.mask(t) for t in range(FRAMES)]
    served.play((5, [tiny_manet.stroke(0, 5)]))
    assert not all(np.array_equal(served.mask(t), before[t]) for t in range(FRAMES))
    version = served.state()['version']
    answer = served.post('undo').get_json()
    assert answer['frame'] == 5 and answer['strokes'] == [tiny_manet.stroke(0, 5)]
    assert all(np.array_equal(served.mask(t), before[t]) for t in range(FRAMES))
    assert served.state()['version'] > version
    told = json.loads((served.output / 'session.json').read_text())  # kept after every round
    assert len(told['rounds']) == 1
    served.post('undo')
    answer = served.post('undo')
    assert answer.status_code == 409 and 'cannot be undone' in answer.get_json()['error']


def test_an_object_is_added(served):
    served.play((2, both(2)))
    assert served.post('objects').get_json() == {'object': 3} and served.state()['objects'] == 3
    strokes = [{**tiny_manet.stroke(1, 4), 'object_id': 3}]
    served.play((4, strokes))
    assert (served.mask(4) == 3).any()


def test_progress_is_told_while_masks_appear_and_cancel_keeps_what_was(served):
    served.play((2, both(2)))
    before = [served.mask(t) for t in range(FRAMES)]
    go, match = threading.Semaphore(0), served.network.match

    def slow(*args, **values):
        assert go.acquire(timeout=60)
        return match(*args, **values)

    served.network.match = slow  # a frame for every release
    round5 = {'rounds': [{'frame': 5, 'strokes': [tiny_manet.stroke(0, 5)]}]}
    assert served.post('rounds', round5).status_code == 202
    go.release()
    served.wait(lambda work: work.told['done'] == 2)
    state = served.state()
    assert state['busy'] and state['what'] == 'round' and state['drawn'] == 2
    assert (state['frame'], state['total'], state['done']) == (5, FRAMES, 2) and state['eta'] > 0
    assert not served.mask(5).any() and before[5].any()  # of this round; others of the last
    assert np.array_equal(served.mask(0), before[0]) and state['played'] == 1
    for path in ('undo', 'objects', 'save'):
        assert served.post(path).status_code == 409, path
    answer = served.post('rounds', round5)
    assert answer.status_code == 409 and answer.get_json()['error'] == 'round is being computed'
    assert served.post('cancel').status_code == 202
    go.release()
    served.wait()
    assert served.state()['message'].startswith('Cancelled')
    served.network.match = match
    assert all(np.array_equal(served.mask(t), before[t]) for t in range(FRAMES))
    assert served.state()['drawn'] == 0 and len(served.state()['rounds']) == 1
    served.play((5, [tiny_manet.stroke(0, 5)]))
    assert len(served.state()['rounds']) == 2


def test_events_are_the_state(served):
    stream = served.get('events', buffered=False)
    assert stream.mimetype == 'text/event-stream'
    found = iter(stream.response)
    first = next(found)
    first = first.decode() if isinstance(first, bytes) else first
    assert first.startswith('data: ') and first.endswith('\n\n')
    assert json.loads(first[6:]) == served.state()
    served.post('objects')
    second = next(found)
    assert (
        json.loads((second.decode() if isinstance(second, bytes) else second)[6:])['objects'] == 3
    )
    assert served.work.streams == 1
    stream.close()
    assert served.work.streams == 0
    served.work.streams = serve.MOST_STREAMS
    assert served.get('events').status_code == 429


def test_an_error_is_told_and_the_session_goes_on(served, capsys):
    served.network.calls, served.network.fault = [], {3: RuntimeError('<b>no memory</b>')}
    served.play((2, both(2)))
    assert served.state()['error'] == '<b>no memory</b>' and served.state()['played'] == 0
    assert 'page: error: <b>no memory</b>' in capsys.readouterr().err
    served.network.fault = {}
    served.play((2, both(2)))
    assert served.state()['error'] == '' and served.state()['played'] == 1


def test_another_size_plays_the_rounds_again(tmp_path):
    server = Server(tmp_path, test_height=96, test_width=128)
    with contextlib.closing(server.work):
        server.start()
        sizes = server.get('clip').get_json()['sizes']
        assert [(x['height'], x['width']) for x in sizes] == [(96, 128), (72, 96)]
        server.play((2, both(2)))
        assert server.work.session.cells == (24, 32)
        assert server.post('size', {'height': 72}).status_code == 202
        server.wait()
        assert server.work.session.cells == (18, 24) and server.state()['height'] == 72
        assert server.state()['played'] == 1 and server.mask(4).any()
        server.post('save')
        server.wait()
        assert server.state()['error'] == ''
        made = json.loads((server.output / 'made_from.json').read_text())
        assert (made['test_height'], made['test_width']) == (72, 96)
        assert server.post('size', {'height': 100}).status_code == 400


def blocked(network):
    """An event that the network's embedding waits for."""
    go, embed = threading.Event(), network.embed

    def slow(images):
        assert go.wait(60)
        return embed(images)

    network.embed = slow
    return go


def test_a_smaller_size_can_be_chosen_while_the_clip_is_embedded(tmp_path):
    server = Server(tmp_path, test_height=96, test_width=128)
    go = blocked(server.network)
    with contextlib.closing(server.work):
        server.work.start()
        body = {'rounds': [{'frame': 0, 'strokes': both(0)}]}
        answer = server.post('rounds', body)
        assert answer.status_code == 409 and 'being embedded' in answer.get_json()['error']
        assert not server.mask(0).any()
        assert server.post('size', {'height': 72}).status_code == 202
        go.set()
        server.wait()
        assert server.state()['ready'] and server.work.session.cells == (18, 24)


def test_a_session_is_resumed_from_its_strokes(tmp_path):
    server = Server(tmp_path)
    with contextlib.closing(server.work):
        server.start().play((2, both(2)), (5, [tiny_manet.stroke(0, 5)]))
    path = str(server.output / 'session.json')
    shape = (FRAMES, *tiny_manet.SIZE)
    saved = session.read(path, shape, tiny_manet.CELLS, server.facts)
    assert saved.state is None
    again = Server(tmp_path, serve.First([(0, both(0), None)], saved, 2))
    with contextlib.closing(again.work):
        again.start()
        assert [r['frame'] for r in again.state()['rounds']] == [2, 5, 0]
        wanted = alone((2, both(2)), (5, [tiny_manet.stroke(0, 5)]), (0, both(0)))
        assert all(np.array_equal(again.mask(t), wanted[t]) for t in range(FRAMES))
    arrays = str(tmp_path / 'arrays')
    session.save(again.work.session, arrays, server.facts)
    saved = session.read(f'{arrays}.npz', shape, tiny_manet.CELLS, server.facts)
    assert saved.state
    large = Server(tmp_path, serve.First([], saved, 2), test_height=96, test_width=128)
    go = blocked(large.network)
    with contextlib.closing(large.work):  # the size is changed at once: the rounds are played again
        large.work.start()
        large.post('size', {'height': 72})
        go.set()
        large.wait()
        assert large.state()['error'] == '' and large.state()['played'] == 3
        assert large.work.session.cells == (18, 24) and large.state()['undo']
    fresh = Server(tmp_path)
    with contextlib.closing(fresh.work):
        fresh.start()
        assert not (fresh.output / 'session.json').exists()
        assert len(json.loads((fresh.output / 'session.old.json').read_text())['rounds']) == 2


def test_a_round_given_as_a_mask_stays_in_its_size(tmp_path):
    ids = tiny_manet.ids()[0]
    cells = session.stroke_cells(ids.astype(np.int32), (24, 32))
    first = serve.First([(0, cells, ids)], None, 2)
    server = Server(tmp_path, first, test_height=96, test_width=128)
    with contextlib.closing(server.work):
        server.start()
        assert np.array_equal(server.mask(0), ids)
        answer = server.post('size', {'height': 72})
        assert answer.status_code == 409 and 'given as an image' in answer.get_json()['error']


@pytest.mark.parametrize(
    'rounds, message',
    [
        ([], '1 to 100 of them'),
        ({}, '1 to 100 of them'),
        ([{}] * 101, '1 to 100 of them'),
        ([3], 'a round is {'),
        ([{'frame': 0, 'strokes': both(0), 'more': 1}], 'a round is {'),
        ([{'frame': FRAMES, 'strokes': both(0)}], 'frame 6 of a video of 6'),
        ([{'frame': -1, 'strokes': both(0)}], 'frame -1 of a video of 6'),
        ([{'frame': True, 'strokes': both(0)}], 'frame True is no number'),
        ([{'frame': '0', 'strokes': both(0)}], "frame '0' is no number"),
        ([{'frame': 0, 'strokes': []}], 'without a stroke'),
        ([{'frame': 0, 'strokes': 'x'}], 'strokes: expected'),
        ([{'frame': 0, 'strokes': [{'path': [[0, 2]], 'object_id': 1}]}], 'outside 0..1'),
        ([{'frame': 0, 'strokes': [{'path': [[0, 0]], 'object_id': 3}]}], 'the video has 2'),
        ([{'frame': 0, 'strokes': [tiny_manet.stroke(0, 0)]}], 'the first round shows no object'),
    ],
)
def test_rounds_that_cannot_be_played_are_refused(served, rounds, message):
    answer = served.post('rounds', {'rounds': rounds})
    assert answer.status_code == 400 and message in answer.get_json()['error']
    assert served.state()['played'] == 0 and not served.state()['busy']


def ask(server, path=f'/{TOKEN}/state', method='GET', data=None, **headers):
    """Status of a request that is right but for what is given; None leaves a header out."""
    headers = {'Host': f'127.0.0.1:{PORT}', **{k.replace('_', '-'): v for k, v in headers.items()}}
    if method != 'GET':
        headers = {'Origin': OWN, 'Content-Type': 'application/json', **headers}
    environ = {'HTTP_HOST': headers['Host']} if headers['Host'] else {}
    headers = {key: value for key, value in headers.items() if value is not None}
    answer = server.client.open(
        path, base_url=OWN, method=method, data=data, headers=headers, environ_overrides=environ
    )
    return answer.status_code


def test_what_is_asked_rightly_is_answered(standing):
    assert ask(standing) == 200 and ask(standing, Host=f'localhost:{PORT}') == 200
    assert ask(standing, Origin=OWN) == 200
    assert ask(standing, f'/{TOKEN}/cancel', 'POST', '{}') == 202
    assert ask(standing, f'/{TOKEN}/') == 200 and ask(standing, f'/{TOKEN}') == 200


@pytest.mark.parametrize(
    'change, status',
    [
        ({'path': '/'}, 403),
        ({'path': '/state'}, 403),
        ({'path': '//state'}, 403),
        ({'path': '/favicon.ico'}, 403),
        ({'path': f'/{TOKEN}x/state'}, 403),
        ({'path': f'/{TOKEN[:-1]}/state'}, 403),
        ({'path': '/\u00e9/state'}, 403),
        ({'path': '/state?token=' + TOKEN}, 403),
        ({'Host': 'evil.example'}, 403),
        ({'Host': f'evil.example:{PORT}'}, 403),
        ({'Host': '127.0.0.1:8001'}, 403),
        ({'Host': f'127.0.0.1:{PORT}.evil.example'}, 403),
        ({'Origin': 'http://evil.example'}, 403),
        ({'Origin': 'null'}, 403),
        ({'Origin': f'http://localhost:{PORT}'}, 403),
        ({'Origin': f'https://127.0.0.1:{PORT}'}, 403),
        ({'path': f'/{TOKEN}/../MANet/serve.py'}, 404),
        ({'path': f'/{TOKEN}/frames/../../../etc/passwd'}, 404),
        ({'path': f'/{TOKEN}/frames/%2e%2e/%2e%2e/etc/passwd'}, 404),
        ({'path': f'/{TOKEN}/frames/0.jpg/..'}, 404),
        ({'path': f'/{TOKEN}/frames//etc/passwd'}, 404),
        ({'path': f'/{TOKEN}/frames/-1.jpg'}, 404),
        ({'path': f'/{TOKEN}/frames/{FRAMES}.jpg'}, 404),
        ({'path': f'/{TOKEN}/frames/{10**30}.jpg'}, 404),
        ({'path': f'/{TOKEN}/frames/0.thumb.jpg'}, 404),
        ({'path': f'/{TOKEN}/masks/{FRAMES}.png'}, 404),
        ({'path': f'/{TOKEN}/thumbnails/{FRAMES}.jpg'}, 404),
        ({'path': f'/{TOKEN}/export/made_from.json'}, 404),
        ({'path': f'/{TOKEN}/rounds'}, 405),
        ({'method': 'POST', 'data': '{}'}, 405),
        ({'method': 'OPTIONS'}, 405),
        ({'method': 'PUT', 'data': '{}'}, 405),
        ({'data': 'x' * (serve.LONGEST_BODY + 1)}, 413),
    ],
)
def test_refused(standing, change, status):
    assert ask(standing, **change) == status


@pytest.mark.parametrize(
    'change, status',
    [
        ({'Origin': None}, 403),
        ({'Origin': 'http://evil.example'}, 403),
        ({'Origin': 'null'}, 403),
        ({'Host': 'evil.example', 'Origin': 'http://evil.example'}, 403),
        ({'path': '/undo'}, 403),
        ({'Content_Type': 'text/plain'}, 415),
        ({'Content_Type': 'application/x-www-form-urlencoded'}, 415),
        ({'Content_Type': 'multipart/form-data'}, 415),
        ({'data': ''}, 411),
        ({'data': '[]'}, 400),
        ({'data': '{"x": 1}'}, 400),
        ({'data': '{'}, 400),
        ({'data': b'\xff'}, 400),
        ({'data': '[' * 100000}, 400),
        ({'data': '{}' + ' ' * serve.LONGEST_BODY}, 413),
    ],
)
def test_refused_actions(standing, change, status):
    request = {'path': f'/{TOKEN}/undo', 'data': '{}', **change}
    assert ask(standing, method='POST', **request) == status
    assert standing.state()['played'] == 1


def test_every_answer_forbids_what_the_page_does_not_need(standing):
    for path in ('', 'state', 'frames/0.jpg', 'masks/0.png', 'nothing'):
        headers = standing.get(path).headers
        assert (
            headers['X-Content-Type-Options'] == 'nosniff' and headers['X-Frame-Options'] == 'DENY'
        )
        assert headers['Referrer-Policy'] == 'no-referrer'
        assert "default-src 'none'" in headers['Content-Security-Policy']
        assert 'unsafe' not in headers['Content-Security-Policy']
        assert 'Access-Control-Allow-Origin' not in headers


def test_the_page_is_one_file_that_loads_nothing_and_writes_no_html():
    page = serve.PAGE.read_text('utf-8')
    assert not re.search(r'https?:|//[a-z]|@import|url\(|<script |<link [^>]*stylesheet', page)
    assert not re.search(r'innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(', page)
    assert not re.search(r'<[^>]* (on\w+|style)=', page)  # what the policy would not run
    policy = serve.content_policy(page)
    assert policy.count('sha256-') == page.count('<script>') + page.count('<style>') == 2
    assert all(len(line) <= 120 for line in page.split('\n')), 'a page is read too'


def test_only_this_machine_is_listened_to_and_paths_come_as_they_are(standing):
    """Over a real socket: no client tidies the path up."""
    with contextlib.closing(serve.listen(0)) as sock:
        host, port = sock.getsockname()
        assert host == '127.0.0.1'
        with pytest.raises(ValueError, match=f'--port={port}: .*--port=0 takes a free one'):
            serve.listen(port)
        app = serve.application(standing.work, TOKEN, port)
        server = make_server(
            host, port, app, True, request_handler=serve.QuietHandler, fd=sock.fileno()
        )
        thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.05})
        thread.start()
        try:
            own = f'127.0.0.1:{port}'

            def raw(path, head=f'Host: {own}\r\n'):
                with socket.create_connection((host, port), timeout=30) as one:
                    one.sendall(f'{path} HTTP/1.1\r\n{head}Connection: close\r\n\r\n'.encode())
                    return int(one.makefile('rb').readline().split()[1])

            assert raw(f'GET /{TOKEN}/state') == 200
            assert raw(f'GET /{TOKEN}/../../../../etc/passwd') == 404
            assert raw('GET /../etc/passwd') == 403
            assert raw(f'GET http://evil.example/{TOKEN}/state', 'Host: evil.example\r\n') == 403
            assert raw(f'GET /{TOKEN}/state', '') == 403  # no Host
            post = f'Host: {own}\r\nOrigin: http://{own}\r\nContent-Type: application/json\r\n'
            assert raw(f'POST /{TOKEN}/undo', post) == 411
            chunked = post + 'Transfer-Encoding: chunked\r\n'
            assert raw(f'POST /{TOKEN}/undo', chunked) == 411
            assert raw(f'POST /{TOKEN}/undo', chunked + 'Content-Length: 2\r\n') == 411
            assert raw(f'POST /{TOKEN}/undo', post + f'Content-Length: {10**12}\r\n') == 413
            assert raw(f'GET /{TOKEN}/state', f'Host: {own}\r\nContent-Length: -1\r\n') == 413
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def test_ports_that_are_none(tmp_path):
    for port in (-1, 65536, 10**20):
        with pytest.raises(ValueError, match='--port='):
            serve.listen(port)


def test_a_closed_server_leaves_no_files_and_takes_no_work(tmp_path):
    server = Server(tmp_path)
    server.start()
    server.work.close()
    assert not server.work.thread.is_alive()
    assert not serve.Path(server.work.folder).exists()
    assert server.post('objects').status_code == 200  # nothing to compute
    body = {'rounds': [{'frame': 0, 'strokes': both(0)}]}
    assert server.post('rounds', body).status_code == 409


def test_sizes_keep_the_aspect_where_it_is_asked():
    sizes = serve.network_sizes(SimpleNamespace(test_height=480, test_width=0), (720, 1280))
    assert [(x['height'], x['width'], x['set']) for x in sizes] == [
        (480, 852, 0),
        (360, 640, 0),
        (240, 428, 0),
    ]
