"""The page of MANet in a headless Chromium, from the first stroke to saved masks, with the network
that comes along: the masks are those of the command line with the same strokes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import chromium
import cv2
import numpy as np
import pytest
import tiny_manet

from common import masks

ROOT = Path(__file__).resolve().parent.parent
NAME = 'a <img src=x> & "more"'  # of the clip: shown as it is
RIGHT, END, ENTER = '\ue014', '\ue010', '\ue007'  # W3C WebDriver 17.4.2

pytestmark = pytest.mark.skipif(bool(chromium.missing()), reason=chromium.missing())


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    """Folder of six frames: of Big Buck Bunny where it is there, else drawn."""
    folder = tmp_path_factory.mktemp('page') / NAME
    folder.mkdir()
    film = ROOT.parent / 'shared' / 'data' / 'BigBuckBunny' / 'bigbuckbunny.mp4'
    images = tiny_manet.images()
    if film.is_file():
        images = itertools.islice(masks.read_video(str(film)), 40, 100, 10)
    for t, image in enumerate(images):
        cv2.imwrite(str(folder / f'{t:02d}.png'), cv2.resize(image, (320, 180)))
    return folder


def start(clip, output, *flags):
    command = [sys.executable, '-m', 'MANet.demo', f'--input={clip}', f'--output_path={output}']
    return subprocess.Popen(
        [*command, '--device=cpu', '--num_objects=2', *flags],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        stdout=subprocess.PIPE,
        universal_newlines=True,
    )


@contextlib.contextmanager
def served(clip, output):
    """(the URL that MANet.demo --serve prints, its process)."""
    program = start(clip, output, '--serve', '--port=0')
    try:
        lines = iter(program.stdout.readline, '')
        yield next(line.split()[1] for line in lines if line.startswith('page: ')), program
    finally:
        program.kill()
        program.stdout.close()
        program.wait()


def line(x, y, size):
    """A wave around (x, y), shares of the frame."""
    s = np.linspace(-1, 1, 12)
    return [(x + size * each, y + size * 0.5 * np.sin(3 * each)) for each in s]


def done(browser, rounds):
    browser.wait(f'return told.played === {rounds} && !told.busy')
    assert browser.run('return told.error') == ''


def test_from_the_first_stroke_to_saved_masks(clip, tmp_path):
    output, profile = tmp_path / 'out', tmp_path / 'profile'
    with served(clip, output) as (url, program), chromium.browser(str(profile)) as browser:
        browser.look(1280, 900)
        browser.call('url', url=url)
        browser.wait('return told.ready && !told.busy && !!shown')
        assert browser.run('return [document.title, $("title").textContent]') == [NAME, NAME]
        assert 'a frame takes' in browser.run('return $("cost").textContent')
        assert browser.run('return $("propagate").disabled')

        browser.keys(RIGHT * 2)
        browser.wait('return shown.t === 2')
        browser.drag('#view', line(0.33, 0.5, 0.05))
        browser.keys('2')
        browser.drag('#view', line(0.75, 0.5, 0.08), 'pen')
        browser.drag('#view', line(0.2, 0.2, 0.1), 'touch')
        assert browser.run('return pending.get(2).map(s => s.object_id)') == [1, 2, 2]
        browser.keys('z')
        assert browser.run('return pending.get(2).map(s => s.object_id)') == [1, 2]
        browser.keys('e')  # the eraser cuts the line of object 1 in two
        browser.drag('#view', [(0.33, 0.3), (0.33, 0.5), (0.33, 0.7)])
        assert browser.run('return pending.get(2).map(s => s.object_id)') == [1, 1, 2]
        browser.keys('d')
        browser.screenshot(str(tmp_path / 'strokes.png'))
        browser.click('#propagate')
        done(browser, 1)
        browser.wait('return !!shown.mask && now === 2 && !pending.has(2)')

        browser.keys(END + '0')
        browser.wait('return shown.t === 5')
        browser.drag('#view', line(0.8, 0.2, 0.05))
        browser.keys(ENTER)
        done(browser, 2)
        browser.keys('Z')  # the round is undone, its strokes are back
        done(browser, 1)
        browser.wait('return now === 5 && pending.has(5) && pending.get(5).length === 1')
        browser.keys(ENTER)
        done(browser, 2)
        browser.keys(' ')
        browser.wait('return playing && now !== 5')
        browser.keys(' ')
        assert not browser.run('return playing')

        browser.click('#save')
        browser.wait('return told.message.startsWith("Saved in")')
        for name, width, dark in (('wide', 1280, False), ('narrow', 400, True)):
            browser.look(width, 900, dark)
            browser.wait(f'return innerWidth === {width} && view.width <= {width}')
            assert browser.run('return document.documentElement.scrollWidth') <= width
            browser.screenshot(str(tmp_path / f'{name}.png'))
            assert cv2.imread(str(tmp_path / f'{name}.png')).std() > 20
        assert browser.log() == []  # nothing was refused by the page's own policy
        program.send_signal(signal.SIGTERM)
        assert program.wait(60) == 143

    told = json.loads((output / 'session.json').read_text())
    assert [(each['frame'], len(each['strokes'])) for each in told['rounds']] == [(2, 3), (5, 1)]
    flags = []
    for each in told['rounds']:
        path = tmp_path / f'{each["round"]}.json'
        path.write_text(json.dumps({'frame': each['frame'], 'scribbles': each['strokes']}))
        flags.append(f'--scribbles={path}')
    program = start(clip, tmp_path / 'command', *flags)
    program.communicate()
    assert program.returncode == 0
    found = [masks.read_mask(str(path), True) for path in sorted((output / 'masks').glob('*.png'))]
    assert len(found) == 6 and any(ids.any() for ids in found)
    for t, ids in enumerate(found):
        other = masks.read_mask(str(tmp_path / 'command' / 'masks' / f'{t:02d}.png'), True)
        assert np.array_equal(ids, other)
