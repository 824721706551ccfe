"""A headless Chromium for tests of pages, by the W3C WebDriver protocol: JSON over HTTP to
Debian's chromedriver, so that no package is needed (Selenium's for Python 3.7 does not install
everywhere). A call that fails raises RuntimeError with the browser's message."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

INSTALL = 'apt-get install chromium chromium-driver'
ELEMENT = 'element-6066-11e4-a52e-4f735466cecf'  # the key of an element's id (W3C WebDriver 11)


def missing() -> str:
    """Why there is no browser to test with; '' where there is one."""
    for name in ('chromium', 'chromedriver'):
        if not shutil.which(name):
            return f'no {name} on PATH ({INSTALL})'
    return ''


class Browser:
    """One window."""

    def __init__(self, url: str):
        """`url` of the session at chromedriver."""
        self.url = url

    def call(self, path: str, **values):
        """POST of a command; its value."""
        return _post(f'{self.url}/{path}', values)

    def run(self, script: str, *values):
        """What JavaScript gives back; `values` are its arguments."""
        return self.call('execute/sync', script=script, args=list(values))

    def devtools(self, command: str, **values):
        """A command of the Chrome DevTools protocol."""
        return self.call('goog/cdp/execute', cmd=command, params=values)

    def wait(self, script: str, seconds: float = 300):
        """Runs a script until it gives something true, and returns that."""
        end = time.monotonic() + seconds
        while True:
            found = self.run(script)
            if found or time.monotonic() > end:
                assert found, f'not within {seconds} s: {script}'
                return found
            time.sleep(0.1)

    def click(self, selector: str) -> None:
        """A click on an element."""
        found = self.call('element', using='css selector', value=selector)
        self.call(f'element/{found[ELEMENT]}/click')

    def keys(self, text: str) -> None:
        """Types into the window; W3C's code points for keys such as the arrows."""
        actions = [{'type': kind, 'value': c} for c in text for kind in ('keyDown', 'keyUp')]
        self.call('actions', actions=[{'type': 'key', 'id': 'keys', 'actions': actions}])

    def drag(self, selector: str, path: list, kind: str = 'mouse') -> None:
        """Draws over an element.

        Args:
          selector: of the element.
          path: [(x, y), ...], shares of its width and height.
          kind: 'mouse', 'pen' or 'touch'.
        """
        box = self.run(
            'const b = document.querySelector(arguments[0]); b.scrollIntoView({block: "center"});'
            'const r = b.getBoundingClientRect(); return [r.left, r.top, r.width, r.height]',
            selector,
        )
        points = [(round(box[0] + x * box[2]), round(box[1] + y * box[3])) for x, y in path]
        moves = [{'type': 'pointerMove', 'duration': 0, 'x': x, 'y': y} for x, y in points]
        moves.insert(1, {'type': 'pointerDown', 'button': 0})
        moves.append({'type': 'pointerUp', 'button': 0})
        pointer = {'type': 'pointer', 'id': kind, 'parameters': {'pointerType': kind}}
        self.call('actions', actions=[{**pointer, 'actions': moves}])

    def screenshot(self, path: str) -> None:
        """Writes what the window shows as a PNG."""
        with open(path, 'wb') as file:
            file.write(base64.b64decode(_get(f'{self.url}/screenshot')))

    def log(self) -> list[str]:
        """Warnings and errors of the console."""
        return [each['message'] for each in self.call('se/log', type='browser')]

    def look(self, width: int, height: int, dark: bool = False) -> None:
        """Sets the window's size in px and the color scheme that the page is told."""
        metrics = dict(width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.devtools('Emulation.setDeviceMetricsOverride', **metrics)
        feature = {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}
        self.devtools('Emulation.setEmulatedMedia', features=[feature])


@contextlib.contextmanager
def browser(profile: str):
    """A Browser; `profile` is an empty folder for what it keeps."""
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        port = sock.getsockname()[1]
    driver = subprocess.Popen(
        ['chromedriver', f'--port={port}'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    root, url = f'http://127.0.0.1:{port}', None
    try:
        _wait_for(driver, f'{root}/status')
        flags = ['--headless=new', '--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu']
        flags += ['--window-size=1280,900', '--no-first-run', f'--user-data-dir={profile}']
        flags += ['--disable-background-networking', '--disable-extensions']
        wanted = {'browserName': 'chrome', 'goog:chromeOptions': {'args': flags}}
        wanted['goog:loggingPrefs'] = {'browser': 'ALL'}
        wanted['goog:chromeOptions']['binary'] = shutil.which('chromium')
        found = _post(f'{root}/session', {'capabilities': {'alwaysMatch': wanted}})
        url = f'{root}/session/{found["sessionId"]}'
        yield Browser(url)
    finally:
        if url:
            _send(urllib.request.Request(url, method='DELETE'))
        driver.terminate()
        driver.wait()


def _wait_for(driver, url):
    for _ in range(300):
        assert driver.poll() is None, 'chromedriver ended'
        with contextlib.suppress(OSError):
            if _get(url)['ready']:
                return
        time.sleep(0.1)
    raise RuntimeError('chromedriver does not answer')


def _post(url, values):
    data = json.dumps(values).encode()
    headers = {'Content-Type': 'application/json'}
    return _send(urllib.request.Request(url, data, headers, method='POST'))


def _get(url):
    return _send(urllib.request.Request(url))


def _send(request):
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)['value']
    except urllib.error.HTTPError as error:
        raise RuntimeError(json.load(error)['value']['message']) from None
