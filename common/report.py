"""A page to read results by: scores with the paper's beside them, the worst frames, a plot a
sequence, settings; of one folder of results, or of several compared.

    python -m common.report results --output=report.html
    python -m common.report before after --output=compare.html

A folder is one that `evaluate` or `python -m common.metrics` wrote: all numbers are those of its
results.json. The page is one file that loads nothing: plots are SVG in it, frames are JPEG in it.
"""

from __future__ import annotations

import argparse
import base64
import functools
import hashlib
import html
import math
import os
import sys
from collections.abc import Iterator
from typing import NamedTuple

from . import files, masks, plots
from .lazy import cv2, np

WORST = 12  # frames shown first
PER_ROW = 2  # of these, at most, of one object
MOST_IMAGES = 48  # in a page, those of the sequences included
WIDTH = 420  # px of a frame in the page
QUALITY = 74  # of its JPEG
LOWER_IS_BETTER = ('J-Decay', 'F-Decay', 'T-Mean', 'lost', 'robustness')
COLUMNS = ('J-Mean', 'F-Mean', 'J-Recall', 'J-Decay', 'F-Recall', 'F-Decay', 'T-Mean')
COLUMNS += ('accuracy', 'lost', 'AUC', 'precision')  # those that the results have are shown
HERE = os.path.dirname(os.path.abspath(__file__))  # of report.css and report.js


class Result(NamedTuple):
    """A folder of results: what the page calls it, its path, what its results.json holds."""

    label: str
    folder: str
    found: dict

    @property
    def model(self) -> str:
        """Name of the network, '' where none is said."""
        return (self.found.get('config') or {}).get('name', '')

    @property
    def scores(self) -> dict:
        """{name: float} of the whole set."""
        found = self.found.get('global', self.found)
        return {k: v for k, v in found.items() if isinstance(v, float) or v is None}

    @property
    def rows(self) -> dict:
        """{row: {column: float}}, a row an object or a sequence."""
        return self.found.get('per_sequence', {})

    @property
    def frames(self) -> dict:
        """{row: {'frames': names, measure: values}}."""
        return self.found.get('per_frame', {})

    def values(self, row: str) -> dict:
        """{frame name: J, or overlap} of a row."""
        own = self.frames.get(row, {})
        measure = 'J' if 'J' in own else 'overlap'
        return dict(zip(own.get('frames', []), own.get(measure, [])))

    def place(self, row: str) -> dict:
        """Where the files of a row's sequence are; {} where that was not noted."""
        return self.found.get('where', {}).get(self.sequence(row), {})

    def sequence(self, row: str) -> str:
        """Name of a row's sequence."""
        return plots.sequence_of(row, self.found.get('where', {}))


def read(paths: list[str]) -> list[Result]:
    """The results in some folders; a folder without results.json stands for those below it that
    have one (the trackers of SiamMask).

    Raises:
      FileNotFoundError: none there. ValueError: no JSON, or not the scores of evaluate.
    """
    found = []
    for path in paths:
        inside = sorted(os.listdir(path)) if os.path.isdir(path) else []
        folders = [f for f in [path, *(os.path.join(path, n) for n in inside)] if _has(f)]
        if not folders:
            raise FileNotFoundError(
                f'no results.json in {os.path.abspath(path)} nor in a folder in it; evaluate and '
                'python -m common.metrics write it'
            )
        found += folders[:1] if folders[0] == path else folders
    labels = _labels([os.path.abspath(folder) for folder in found])
    results = []
    for label, folder in zip(labels, found):
        content = files.read_json(os.path.join(folder, 'results.json'))
        if not isinstance(content, dict) or not isinstance(content.get('per_sequence'), dict):
            raise ValueError(f'{os.path.abspath(folder)}/results.json has no per_sequence scores')
        results.append(Result(label, folder, content))
    return results


def _has(folder):
    return os.path.isfile(os.path.join(folder, 'results.json'))


def _labels(paths):
    """The last parts of paths, as many as tell them apart."""
    for count in range(1, 1 + max(len(path.split(os.sep)) for path in paths)):
        labels = [os.sep.join(path.split(os.sep)[-count:]) for path in paths]
        if len(set(labels)) == len(paths):
            return labels
    return [f'{path} ({k})' for k, path in enumerate(paths, 1)]  # the same folder twice


def write(paths: list[str], output: str) -> str:
    """Writes the page of read(paths) to `output`; returns its absolute path.

    Raises:
      FileNotFoundError, ValueError: as read(); scores of another form.
    """
    results = read(paths)
    try:
        text = page(results)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(
            f'results.json of {" or ".join(paths)} is not as evaluate writes it: {error!r}'
        ) from None
    os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)
    files.write_text(output, text)
    print(f'report: {os.path.abspath(output)}', flush=True)
    return os.path.abspath(output)


def _style():
    """report.css and the colors of the plots."""
    with open(os.path.join(HERE, 'report.css'), encoding='utf-8') as f:
        style = f.read()
    return style + ''.join(
        f'svg .c{k}{{stroke:{color}}}svg circle.c{k}{{fill:{color}}}\n'
        for k, color in enumerate(plots.COLORS)
    )


def page(results: list[Result]) -> str:
    """The HTML of one result, or of several compared.

    Names and settings are escaped; beyond that the page's policy lets no other script run and
    nothing be loaded.
    """
    with open(os.path.join(HERE, 'report.js'), encoding='utf-8') as f:
        script = f.read()
    images = Images()
    models = dict.fromkeys(result.model for result in results)
    title = f'{", ".join(filter(None, models))} results'.strip()
    title = title[0].upper() + title[1:]
    title = f'{title} compared' if len(results) > 1 else title
    body = [
        f'<header><h1>{_text(title)}</h1>{_facts(results)}</header><main>',
        _scores(results),
        _worst_frames(results, images),
        _curves(results),
        _filter(),
        _table(results),
        _sequences(results, images),
        _settings(results),
        '</main>',
    ]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{_text(title)}</title><style>{_style()}</style></head>\n<body>'
        + '\n'.join(body)
        + f'\n<script>{script}</script></body></html>\n'
    )


def _text(value) -> str:
    """Any value as text of HTML, also in quotes."""
    return html.escape(str(value))


def _number(value) -> str:
    """A score as text, – for none."""
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return '–'
    return f'{value:.3f}'


def _facts(results):
    shown = []
    for result in results:
        rows, sequences = result.rows, {result.sequence(row) for row in result.rows}
        count = f'{len(sequences)} sequence{"s" * (len(sequences) != 1)}'
        count += f', {len(rows)} objects' if len(rows) != len(sequences) else ''
        time = result.found.get('time', '')
        where = _text(os.path.abspath(result.folder))
        label = f'<b>{_text(result.label)}</b>' if len(results) > 1 else ''
        parts = [label, count, _text(time), f'<span class="path">{where}</span>']
        shown.append(f'<p class="facts">{" · ".join(part for part in parts if part)}</p>')
    return ''.join(shown)


def _cell(value, best=False, tag='td'):
    """A cell of a number, which sorts by its full value."""
    known = isinstance(value, (int, float)) and math.isfinite(value)
    sorts = f' data-v="{value!r}"' if known else ''
    return f'<{tag}{sorts} class="number{" best" if best else ""}">{_number(value)}</{tag}>'


def _best(name, values):
    """For each of several values whether it is the best of them."""
    known = [v for v in values if isinstance(v, (int, float)) and math.isfinite(v)]
    if len(known) < 2 or min(known) == max(known):
        return [False] * len(values)
    wanted = min(known) if name in LOWER_IS_BETTER else max(known)
    return [v == wanted for v in values]


def _scores(results):
    """The table of the whole set's scores, the paper's beside them."""
    papers = {r.model: r.found['paper'] for r in results if r.found.get('paper')}
    names = [name for result in results for name in result.scores]
    names = list(dict.fromkeys(names + [name for own in papers.values() for name in own]))
    head = [r.label for r in results] if len(results) > 1 else ['here']
    head += [f'paper, {model}' if len(papers) > 1 else 'paper' for model in papers]
    lines = [f'<th>{_text(name)}</th>' for name in ['', *head]]
    rows = []
    for name in names:
        values = [result.scores.get(name) for result in results]
        cells = ''.join(map(_cell, values, _best(name, values)))
        cells += ''.join(_cell(own.get(name)) for own in papers.values())
        better = ' <span class="hint">lower is better</span>' if name in LOWER_IS_BETTER else ''
        rows.append(f'<tr><th scope="row">{_text(name)}{better}</th>{cells}</tr>')
    note = ''
    if papers:
        note = (
            '<p class="hint">paper: the published network of full size on the whole validation '
            'set; the numbers here are of the weights and sequences named below.</p>'
        )
    return (
        '<section><h2>Scores</h2><div class="wide"><table class="numbers"><thead>'
        f'<tr>{"".join(lines)}</tr>'
        f'</thead><tbody>{"".join(rows)}</tbody></table></div>{note}</section>'
    )


def _filter():
    return (
        '<section><h2>Sequences</h2><p><label>Filter <input id="filter" type="search" '
        'placeholder="part of a name"></label> <span class="hint" id="count"></span></p></section>'
    )


def _all_rows(results):
    return list(dict.fromkeys(row for result in results for row in result.rows))


def _table(results):
    """The table of all rows, sorted by a click on a column's head."""
    columns = [c for c in COLUMNS if any(c in v for r in results for v in r.rows.values())]
    several = len(results) > 1
    columns = columns[:2] if several else columns
    heads = [''.join(_head(c, r.label if several else '') for r in results) for c in columns]
    lines = []
    for row in _all_rows(results):
        cells = ''
        for column in columns:
            values = [result.rows.get(row, {}).get(column) for result in results]
            cells += ''.join(map(_cell, values, _best(column, values)))
        lines.append(f'<tr data-seq="{_text(row)}"><th scope="row">{_text(row)}</th>{cells}</tr>')
    return (
        '<section><div class="wide tall"><table class="numbers sortable"><thead><tr>'
        f'{_head("sequence")}{"".join(heads)}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
        '</div></section>'
    )


def _head(name, label=''):
    more = f'<br><span class="hint">{_text(label)}</span>' if label else ''
    return f'<th><button type="button">{_text(name)}{more}</button></th>'


class Shown(NamedTuple):
    """A frame to show: row, name of the frame, the value of each result there, None for none."""

    row: str
    frame: str
    values: list


def shown_frames(results: list[Result]) -> list[Shown]:
    """The frames that every result has a value of."""
    found = []
    for row in _all_rows(results):
        maps = [result.values(row) for result in results]
        for frame in maps[0]:
            values = [own.get(frame) for own in maps]
            if all(value is not None and math.isfinite(value) for value in values):
                found.append(Shown(row, frame, values))
    return found


def chosen(found: list[Shown], key, count: int) -> Iterator[Shown]:
    """The `count` frames of least key, at most PER_ROW of a row, which are a tenth of it apart."""
    order, places, taken = {}, {}, {}
    for each in found:
        places[each.row, each.frame] = order.setdefault(each.row, 0)
        order[each.row] += 1
    for each in sorted(found, key=key):
        place, own = places[each.row, each.frame], taken.setdefault(each.row, [])
        near = any(abs(place - other) * 10 < order[each.row] for other in own)
        if len(own) < PER_ROW and not near and count > 0:
            own.append(place)
            count -= 1
            yield each


def _worst_frames(results, images):
    found = shown_frames(results)
    if not found:
        return ''
    measure = 'J' if any('J' in own for own in results[0].frames.values()) else 'overlap'
    note = 'Color: the result. White line: ground truth.'
    several = len(results) > 1
    parts = [
        _gallery(
            'Worst frames',
            f'Lowest {"mean " if several else ""}{measure} first, at most {PER_ROW} an object. '
            + note,
            chosen(found, lambda each: sum(each.values), WORST // (2 if several else 1)),
            results, images, measure,
        )
    ]  # fmt: skip
    if several:
        apart = [each for each in found if max(each.values) > min(each.values)]
        best = chosen(apart, lambda each: min(each.values) - max(each.values), WORST // 2)
        text = f'Largest difference in {measure} first. {note}'
        parts.append(_gallery('Largest differences', text, best, results, images, measure))
    return ''.join(parts)


def _gallery(title, note, found, results, images, measure):
    cards = []
    for each in found:
        pictures = [
            _figure(result, each.row, each.frame, f'{measure} {_number(value)}', images, several)
            for several in [len(results) > 1]
            for result, value in zip(results, each.values)
        ]
        name = f'{_text(each.row)} <span class="hint">frame {_text(each.frame)}</span>'
        cards.append(
            f'<div class="card" data-seq="{_text(each.row)}"><h3>{name}</h3>'
            f'<div class="side">{"".join(pictures)}</div></div>'
        )
    if not cards:
        return ''
    kind = ' pairs' if len(results) > 1 else ''
    return (
        f'<section><h2>{title}</h2><p class="hint">{note}</p>'
        f'<div class="cards{kind}">{"".join(cards)}</div></section>'
    )


def _figure(result, row, frame, caption, images, several=False):
    source = images.of(result, row, frame)
    caption = f'{_text(result.label)}: {caption}' if several else caption
    shown = f'<p class="none">{_text(source)}</p>'
    if source.startswith('data:'):
        shown = f'<img src="{source}" alt="{_text(row)}, frame {_text(frame)}">'
    return f'<figure>{shown}<figcaption>{caption}</figcaption></figure>'


class Images:
    """The frames of a page as JPEG data, at most MOST_IMAGES."""

    def __init__(self):
        """None yet."""
        self.count = 0

    def of(self, result: Result, row: str, frame: str) -> str:
        """A data URL of a frame with its masks, or why there is none."""
        if self.count >= MOST_IMAGES:
            return 'not shown: the page has enough images'
        try:
            picture = draw(result, row, frame)
        except (OSError, ValueError) as error:
            return f'no image: {error}'
        self.count += 1
        data = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
        return f'data:image/jpeg;base64,{base64.b64encode(data).decode()}'


def draw(result: Result, row: str, frame: str) -> np.ndarray:
    """A frame uint8 [h, w, 3] BGR of at most WIDTH px across: the result in colors, the ground
    truth of the row's object as a white line.

    Raises:
      FileNotFoundError, ValueError: the files are not where results.json says; it says nothing.
    """
    place = result.place(row)
    if not place:
        raise ValueError('results.json does not say where the frames are')
    if 'regions' in place:
        return _draw_regions(result, row, frame, place)
    path = os.path.join(result.folder, place['masks'], f'{frame}.png')
    ids = masks.read_mask(path, void=True)
    size = _small(ids.shape)
    source = _image_path(place.get('images', ''), frame)
    if source:
        image = cv2.resize(masks.read_image(source), size, interpolation=cv2.INTER_AREA)
    else:
        image = np.full((size[1], size[0], 3), 96, np.uint8)
    ids = cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST)
    image = masks.overlay(image, ids)
    path = os.path.join(place.get('truth', ''), f'{frame}.png')
    if os.path.isfile(path):
        truth = masks.read_mask(path)
        number = row[len(result.sequence(row)) + 1 :]
        alone = number.isdigit() and not place.get('union')
        inside = truth == int(number) if alone else (truth > 0) & (truth < 255)
        inside = cv2.resize(inside.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        lines = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[-2]
        _outline(image, lines)
    return image


def _small(shape):
    """(width, height) of a frame of `shape` in the page."""
    width = min(WIDTH, shape[1])
    return width, max(1, round(width * shape[0] / shape[1]))


def _outline(image, lines):
    for color, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.drawContours(image, lines, -1, color, width, cv2.LINE_AA)


def _draw_regions(result, row, frame, place):
    """A frame with the tracker's region and the annotated one."""
    position = result.frames[row]['frames'].index(frame)
    source = _image_path(place.get('images', ''), frame)
    if not source:
        raise FileNotFoundError(f'frame {frame} is not in {place.get("images")}')
    image = masks.read_image(source)
    size = _small(image.shape)
    scale = size[0] / image.shape[1]
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    own, truth = (
        _region(os.path.join(result.folder, place[key]), position, scale)
        for key in ('regions', 'truth')
    )
    _outline(image, truth)
    cv2.polylines(image, own, True, (60, 60, 230), 2, cv2.LINE_AA)
    return image


def _region(path, position, scale):
    """[corners int32 [4, 2]] of a line of a result file, [] of one of the protocol's codes."""
    with open(path, encoding='utf-8') as f:
        numbers = [float(value) for value in f.read().splitlines()[position].split(',')]
    if len(numbers) == 4:
        x, y, w, h = numbers
        numbers = [x, y, x + w, y, x + w, y + h, x, y + h]
    if len(numbers) != 8 or not np.isfinite(numbers).all():
        return []
    return [np.round(np.reshape(numbers, (4, 1, 2)) * scale).astype(np.int32)]


@functools.lru_cache(maxsize=64)
def _listing(folder):
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return {files.stem(name): name for name in names if name.lower().endswith(masks.IMAGE_ENDINGS)}


def _image_path(folder, frame):
    """Path of a frame, '' where it is not there."""
    name = _listing(folder).get(frame)
    return os.path.join(folder, name) if name else ''


def _curves(results):
    """The curves of the whole set: expected overlap of VOT, success and precision of OTB, J over
    seconds of MANet."""
    parts = []
    lines, span = [], None
    for color, result in enumerate(results):
        values = result.found.get('curve')
        if isinstance(values, list):
            lines.append(plots.Line(result.label, list(range(len(values))), values, color))
            span = tuple(result.found.get('interval') or ()) or span
    if lines:
        panel = plots.Panel(lines, 'frames', 'expected overlap', 0.0, 1.0, span)
        parts.append(('Expected average overlap (EAO is its mean over the grey band)', panel))
    for name, last, label, title in (
        ('success', 1, 'overlap threshold', 'Success (AUC is its mean)'),
        ('precision', 50, 'location error threshold, px', 'Precision (ranked at 20 px)'),
    ):
        lines = []
        for color, result in enumerate(results):
            values = result.found.get(name)
            if isinstance(values, list):
                x = np.linspace(0, last, len(values)).tolist()
                lines.append(plots.Line(result.label, x, values, color))
        if lines:
            parts.append((title, plots.Panel(lines, label, name, 0.0, 1.0)))
    lines = []
    for color, result in enumerate(results):
        values = result.found.get('curve')
        if isinstance(values, dict):
            for name, own in values.items():
                if name != 'time':  # the last point closes the area alone
                    x, y = values['time'][:-1], own[:-1]
                    label = f'{result.label} {name}' if len(results) > 1 else name
                    lines.append(plots.Line(label, x, y, color, dots=True))
    if lines:
        panel = plots.Panel(lines, 'seconds', 'mean of all objects', 0.0, 1.0)
        parts.append(('Score over time, a dot a round', panel))
    figures = [
        f'<figure><figcaption>{title}</figcaption>{plots.svg(panel, title=title)}</figure>'
        for title, panel in parts
    ]
    if not figures:
        return ''
    return f'<section><h2>Curves</h2><div class="plots">{"".join(figures)}</div></section>'


def _sequences(results, images):
    """A plot a sequence, worst first, with its worst frame; of several results a plot a row."""
    if len(results) > 1:
        groups = {row: [row] for row in _all_rows(results)}
    else:
        groups = {}
        for row in results[0].rows:
            groups.setdefault(results[0].sequence(row), []).append(row)

    def level(rows):
        """Mean of the first column over rows and results."""
        values = [
            next(iter(r.rows[n].values()), None) for r in results for n in rows if n in r.rows
        ]
        known = [v for v in values if isinstance(v, (int, float)) and math.isfinite(v)]
        return sum(known) / len(known) if known else math.inf

    worst = {}
    for each in shown_frames(results) if len(results) == 1 else ():
        name = results[0].sequence(each.row)
        worst[name] = min(worst.get(name, each), each, key=lambda one: one.values[0])
    cards = []
    for name, rows in sorted(groups.items(), key=lambda group: level(group[1])):
        shown = ''.join(plots.svg(panel, title=name) for panel in panels(results, name, rows))
        if not shown:
            continue
        picture, each = '', worst.get(name)
        if each and images.count < MOST_IMAGES:
            text = f'worst: {_text(each.row)}, frame {_text(each.frame)}'
            picture = _figure(results[0], each.row, each.frame, text, images)
        seen = ' '.join(rows)
        cards.append(
            f'<div class="card" data-seq="{_text(seen)}"><h3>{_text(name)} '
            f'<span class="hint">{_number(level(rows))}</span></h3>{shown}{picture}</div>'
        )
    if not cards:
        return '<p class="hint">These results have no scores frame by frame.</p>'
    return f'<section><div class="cards plots">{"".join(cards)}</div></section>'


def panels(results: list[Result], name: str, rows: list[str]) -> list[plots.Panel]:
    """The plots of a sequence: scores frame by frame, and round by round where there are rounds.

    Args:
      results: one, whose objects are lines, or several, which are lines of one object each.
      name: of the sequence, or of the row.
      rows: of per_frame.
    """
    lines, played = [], []
    for color, (result, row) in enumerate((result, row) for result in results for row in rows):
        prefix = row[len(name) + 1 :] if len(rows) > 1 else ''
        prefix = result.label if len(results) > 1 else prefix
        own = result.frames.get(row, {'frames': []})
        found = plots.by_frame(own, prefix, color)
        lines += found[:1] if len(results) > 1 else found
        for measure, values in result.found.get('rounds', {}).get(row, {}).items():
            if measure == 'J' or len(results) == 1:
                label, x = f'{prefix} {measure}'.strip(), list(range(1, len(values) + 1))
                played.append(plots.Line(label, x, values, color, measure == 'F', True))
    found = []
    if played:
        found.append(plots.Panel(played, 'round', 'mean of all frames, by round', 0.0, 1.0))
    if lines:
        text = 'last round, by frame' if played else 'by frame'
        found += plots.split(plots.Panel(lines, 'frame', text, 0.0, 1.0))
    return found


def _settings(results):
    """Command, commit, versions; the settings, those that differ first where several results are
    compared."""
    several = len(results) > 1
    heads = ''.join(f'<th>{_text(r.label if several else "")}</th>' for r in results)
    rows = []
    told = {
        'command': lambda found: files.command_text(found.get('command') or []),
        'commit': lambda found: found.get('commit') or '–',
        'time': lambda found: found.get('time') or '–',
        'versions': lambda found: ', '.join(
            f'{name} {version}' for name, version in (found.get('versions') or {}).items()
        ),
    }
    for name, value in told.items():
        cells = ''.join(f'<td class="code">{_text(value(r.found))}</td>' for r in results)
        rows.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
    made = f'<table class="facts"><thead><tr><th></th>{heads}</tr></thead><tbody>{"".join(rows)}'
    made += '</tbody></table>'
    configs = [result.found.get('config') or {} for result in results]
    names = sorted({name for config in configs for name in config})
    values = {name: [_text(config.get(name, '–')) for config in configs] for name in names}
    differ = [name for name in names if len(set(values[name])) > 1]
    rows = []
    for name in differ + [name for name in names if name not in differ]:
        cells = ''.join(f'<td class="code">{value}</td>' for value in values[name])
        mark = ' class="differs"' if name in differ else ''
        rows.append(f'<tr{mark}><th scope="row">{_text(name)}</th>{cells}</tr>')
    count = f'{len(names)} settings' + (f', {len(differ)} differ' if several else '')
    config = (
        f'<table><thead><tr><th></th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )
    opened = ' open' if differ and len({result.model for result in results}) == 1 else ''
    return (
        f'<section><h2>How they were made</h2><div class="wide">{made}</div>'
        f'<details{opened}><summary>{count}</summary><div class="wide">{config}</div></details>'
        '</section>'
    )


def main(argv=None) -> int:
    """Writes the page of some folders; exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('results', nargs='+', help='folders with results.json')
    parser.add_argument('--output', default='report.html', help='default: report.html')
    args = parser.parse_args(argv)
    try:
        write(args.results, args.output)
    except (OSError, ValueError) as error:
        print(f'report: error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
