"""Lines by which long programs show how far they are: text, JSON with --json, none with --quiet."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterable, Iterator

EVERY = 10  # s between two lines of progress()
FORMS = ('text', 'json', 'none')
_STATE = {'form': 'text'}  # of this process


def set_form(form: str) -> None:
    """How show() prints from now on: one of FORMS."""
    if form not in FORMS:
        raise ValueError(f'{form!r}: expected one of {FORMS}')
    _STATE['form'] = form


def show(text: str, **facts) -> None:
    """Prints a line of progress: `text`, or `facts` as a JSON object."""
    if _STATE['form'] != 'none':
        print(text if _STATE['form'] == 'text' else json.dumps(facts), flush=True)


def progress(
    items: Iterable, what: str, total: int | None = None, unit: str = 'frames'
) -> Iterator:
    """Passes the items on and shows how many there were, their rate and the time left, every EVERY
    seconds and at the end; the last line may come twice."""
    begin = last = time.monotonic()
    count = 0
    for item in items:
        yield item
        count += 1
        now = time.monotonic()
        if now - last >= EVERY:
            _show_count(what, count, total, unit, now - begin)
            last = now
    _show_count(what, count, total, unit, time.monotonic() - begin)


def _show_count(what, count, total, unit, seconds):
    line = f'{what}: {count}{f"/{total}" if total else ""} {unit}'
    facts = {'what': what, 'done': count, 'of': total}
    if seconds > 0:
        facts[f'{unit}_per_second'] = count / seconds
        line += f', {count / seconds:.2f} {unit}/s'
    if total and 0 < count < total:
        facts['seconds_left'] = seconds * (total - count) / count
        line += f', eta {datetime.timedelta(seconds=round(facts["seconds_left"]))}'
    show(line, **facts)
