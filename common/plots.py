"""Line plots: SVG for a page, PNG for a folder, both of the same marks.

    python -m common.plots RUN

draws training.png of a run's folder again, from its progress.jsonl: of a run that is still going on
or was killed, too.
"""

from __future__ import annotations

import argparse
import html
import json
import math
import os
import sys
from typing import NamedTuple

from . import masks
from .lazy import cv2, np

COLORS = ('#2f6fb4', '#cf5a2e', '#2e8b57', '#8e55b3', '#a87f10', '#c2487a', '#2c8f96', '#707070')
LOG_FROM = 50  # largest over smallest value from which an axis is logarithmic
CROWDED = 4  # lines in a plot, from which on J and F have one each
LETTER = 6.2  # px, width of a letter of a plot's texts, about
PROGRESS = 'progress.jsonl'  # of a run's folder, an object a progress line
PANELS = {  # what progress.jsonl may have, in the order of training.png
    'loss': 'loss',
    'learning_rate': 'learning rate',
    'gradient_norm': 'gradient norm',
    'images_per_second': 'images/s',
    'data_wait': 'share of the time that waits for data',
    'loss_scale': 'loss scale',
}


class Line(NamedTuple):
    """A curve: name, positions x, values y (None or NaN leaves a gap), number of its color, whether
    it is dashed, whether its points are marked."""

    name: str
    x: list
    y: list
    color: int = 0
    dashed: bool = False
    dots: bool = False


class Panel(NamedTuple):
    """A plot: lines, labels of the axes, range of y (None: of the values), a range of x to shade,
    whether y may be logarithmic where the values ask for it."""

    lines: list
    x_label: str = ''
    y_label: str = ''
    low: float | None = None
    high: float | None = None
    span: tuple | None = None
    log: bool = False


class Frame(NamedTuple):
    """Where the axes of a panel are in its image: px of the plot's edges, values at these."""

    left: float
    top: float
    right: float
    bottom: float
    x0: float
    x1: float
    y0: float
    y1: float
    log: bool

    def at(self, x: float, y: float) -> tuple[float, float]:
        """(x, y) px of a point."""
        if self.log:
            share = math.log(max(y, self.y0) / self.y0) / math.log(self.y1 / self.y0)
        else:
            share = (y - self.y0) / (self.y1 - self.y0)
        share = min(max(share, 0.0), 1.0)
        across = (x - self.x0) / (self.x1 - self.x0)
        return (
            self.left + (self.right - self.left) * across,
            self.bottom - (self.bottom - self.top) * share,
        )


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, at most `most` + 1 of them: multiples of 1, 2, 2.5 or 5
    times a power of ten."""
    rough = (high - low) / most
    power = 10 ** math.floor(math.log10(rough))
    step = next(k * power for k in (1, 2, 2.5, 5, 10) if k * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _values(lines):
    return [v for line in lines for v in line.y if v is not None and math.isfinite(v)]


def axes(panel: Panel, width: int, height: int) -> Frame:
    """The axes of a panel in an image of width x height px."""
    values = _values(panel.lines)
    low, high = min(values, default=0.0), max(values, default=1.0)
    log = panel.log and low > 0 and high > LOG_FROM * low
    if log:
        low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
    else:
        margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        low = low - margin if panel.low is None else panel.low
        high = high + margin if panel.high is None else panel.high
    places = [x for line in panel.lines for x in line.x] or [0, 1]
    x0, x1 = min(places), max(places)
    x1 = x1 if x1 > x0 else x0 + 1
    top = 10 + 16 * len(_legend(panel, width)) + (16 if panel.y_label else 0)
    bottom = height - (34 if panel.x_label else 20)
    return Frame(50, top, width - 12, bottom, x0, x1, low, high, log)


def _legend(panel, width):
    """Rows of [(x, line)] that name the lines; none of a single line."""
    rows, x = [], 0.0
    for line in panel.lines if len(panel.lines) > 1 else ():
        need = 30 + LETTER * len(line.name)
        if not rows or x + need > width - 12:
            rows.append([])
            x = 50.0
        rows[-1].append((x, line))
        x += need
    return rows


def marks(panel: Panel, width: int, height: int) -> list[tuple]:
    """What a panel is drawn of: ('band', x0, y0, x1, y1), ('grid', x0, y0, x1, y1),
    ('text', x, y, text, 'start' | 'middle' | 'end'), ('line', points, color, dashed, name) and
    ('dot', x, y, color), px."""
    frame, result = axes(panel, width, height), []
    if panel.span and panel.span[0] < frame.x1:
        x0, y0 = frame.at(max(panel.span[0], frame.x0), frame.y0)
        x1, y1 = frame.at(min(panel.span[1], frame.x1), frame.y1)
        result.append(('band', x0, y1, x1, y0))
    rising = ticks(frame.y0, frame.y1, 4)
    if frame.log:
        low, high = round(math.log10(frame.y0)), round(math.log10(frame.y1))
        rising = [10.0**k for k in range(low, high + 1, 1 + (high - low) // 5)]
    for value in rising:
        y = frame.at(frame.x0, value)[1]
        result.append(('grid', frame.left, y, frame.right, y))
        result.append(('text', frame.left - 6, y + 4, f'{value:.4g}', 'end'))
    for value in ticks(frame.x0, frame.x1, max(2, int(width // 80))):
        x = frame.at(value, frame.y0)[0]
        result.append(('grid', x, frame.bottom, x, frame.bottom + 4))
        result.append(('text', x, frame.bottom + 16, f'{value:.6g}', 'middle'))
    for row, lines in enumerate(_legend(panel, width)):
        for x, line in lines:
            points = [(x, 10 + 16 * row), (x + 14, 10 + 16 * row)]
            result.append(('line', points, line.color, line.dashed, None))
            result.append(('text', x + 19, 14 + 16 * row, line.name, 'start'))
    if panel.y_label:
        result.append(('text', frame.left, frame.top - 7, panel.y_label, 'start'))
    if panel.x_label:
        result.append(('text', (frame.left + frame.right) / 2, height - 4, panel.x_label, 'middle'))
    for line in panel.lines:
        result += _pieces(line, frame)
    return result


def _pieces(line, frame):
    """Marks of a curve: a line for each stretch without gaps, a dot for a lone point."""
    piece = []
    for x, y in [*zip(line.x, line.y), (0, None)]:
        if y is not None and math.isfinite(y):
            piece.append(frame.at(x, y))
            if line.dots:
                yield ('dot', *piece[-1], line.color)
            continue
        if len(piece) == 1 and not line.dots:
            yield ('dot', *piece[0], line.color)
        if len(piece) > 1:
            yield ('line', piece, line.color, line.dashed, line.name)
        piece = []


def svg(panel: Panel, width: int = 420, height: int = 190, title: str = '') -> str:
    """The panel as an <svg> whose colors are the classes c0..c7, grid, band of the page around it;
    data-axes holds what a script needs to read values off: left, right, bottom, top, x0, x1, y0,
    y1."""
    frame, parts = axes(panel, width, height), []
    for mark in marks(panel, width, height):
        kind, numbers = mark[0], [f'{v:.1f}' for v in mark[1:5] if isinstance(v, (int, float))]
        if kind == 'band':
            x0, y0, x1, y1 = mark[1:]
            size = f'width="{x1 - x0:.1f}" height="{y1 - y0:.1f}"'
            parts.append(f'<rect class="band" x="{x0:.1f}" y="{y0:.1f}" {size}/>')
        elif kind == 'grid':
            ends = 'x1="{}" y1="{}" x2="{}" y2="{}"'.format(*numbers)
            parts.append(f'<line class="grid" {ends}/>')
        elif kind == 'text':
            text, anchor = html.escape(mark[3]), mark[4]
            place = f'x="{numbers[0]}" y="{numbers[1]}" text-anchor="{anchor}"'
            parts.append(f'<text {place}>{text}</text>')
        elif kind == 'dot':
            place = f'cx="{numbers[0]}" cy="{numbers[1]}"'
            parts.append(f'<circle class="c{mark[3] % len(COLORS)}" {place} r="2.5"/>')
        else:
            points = ' '.join(f'{x:.1f},{y:.1f}' for x, y in mark[1])
            named = '' if mark[4] is None else f' data-name="{html.escape(mark[4])}"'
            dash = ' dashed' if mark[3] else ''
            style = f'class="c{mark[2] % len(COLORS)}{dash}"'
            parts.append(f'<polyline {style}{named} points="{points}"/>')
    edges = (frame.left, frame.right, frame.bottom, frame.top, *frame[4:8])
    told = ' '.join(f'{value:.6g}' for value in edges)
    label = html.escape(title or panel.y_label)
    return (
        f'<svg class="plot" role="img" aria-label="{label}" viewBox="0 0 {width} {height}" '
        f'data-axes="{"" if frame.log else told}">{"".join(parts)}</svg>'
    )


def image(panel: Panel, width: int = 640, height: int = 240) -> np.ndarray:
    """The panel as uint8 [height, width, 3] BGR, on white."""
    result = np.full((height, width, 3), 255, np.uint8)

    def point(x, y):
        return int(round(16 * x)), int(round(16 * y))  # 4 bits of a pixel, as shift says

    for mark in marks(panel, width, height):
        kind = mark[0]
        if kind == 'band':
            x0, y0, x1, y1 = (int(round(v)) for v in mark[1:])
            result[y0:y1, x0:x1] = 236
        elif kind == 'grid':
            ends = point(*mark[1:3]), point(*mark[3:5])
            cv2.line(result, *ends, (222, 222, 222), 1, cv2.LINE_AA, 4)
        elif kind == 'text':
            _write(result, *mark[1:])
        elif kind == 'dot':
            cv2.circle(result, point(*mark[1:3]), 48, _bgr(mark[3]), -1, cv2.LINE_AA, 4)
        else:
            _trace(result, [point(*p) for p in mark[1]], _bgr(mark[2]), mark[3])
    return result


def _bgr(number):
    text = COLORS[number % len(COLORS)]
    return tuple(int(text[k : k + 2], 16) for k in (5, 3, 1))


def _write(canvas, x, y, text, anchor):
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.38
    wide = cv2.getTextSize(text, font, scale, 1)[0][0]
    x -= {'start': 0, 'middle': wide / 2, 'end': wide}[anchor]
    cv2.putText(canvas, text, (int(x), int(y)), font, scale, (70, 70, 70), 1, cv2.LINE_AA)


def _trace(canvas, points, color, dashed):
    """A line through points, px times 16; dashed: 6 px on, 4 px off."""
    if not dashed:
        points = np.array([points], np.int32)
        cv2.polylines(canvas, points, False, color, 1, cv2.LINE_AA, 4)
        return
    done = 0.0
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        length = math.hypot(x1 - x0, y1 - y0) / 16
        for k in range(int(length) + 1):
            if (done + k) % 10 < 6:
                a, b = k / max(length, 1), min((k + 1) / max(length, 1), 1)
                ends = [(int(x0 + s * (x1 - x0)), int(y0 + s * (y1 - y0))) for s in (min(a, 1), b)]
                cv2.line(canvas, *ends, color, 1, cv2.LINE_AA, 4)
        done += length


def write(path: str, panels: list[Panel], width: int = 640, height: int = 240) -> None:
    """Writes panels, one below the other, as a PNG."""
    masks.write_image(path, np.vstack([image(panel, width, height) for panel in panels]))


def by_frame(row: dict, name: str, color: int = 0) -> list[Line]:
    """Lines of a row of results.json's per_frame, {'frames': names, measure: values}: J whole, F
    dashed.

    Args:
      row: of one object.
      name: put before the measure's, '' for none.
      color: number.
    """
    x = frame_numbers(row['frames'])
    return [
        Line(f'{name} {measure}'.strip(), x, values, color, measure == 'F')
        for measure, values in row.items()
        if measure != 'frames' and isinstance(values, list) and len(values) == len(x)
    ]


def split(panel: Panel) -> list[Panel]:
    """The panel, or one of its whole and one of its dashed lines where they are too many."""
    parts = [[line for line in panel.lines if line.dashed == kind] for kind in (False, True)]
    if len(panel.lines) <= CROWDED or not all(parts):
        return [panel]
    return [panel._replace(lines=lines) for lines in parts]


def frame_numbers(names: list[str]) -> list[int]:
    """The numbers that frames are called by, else their positions."""
    if all(name.isdigit() for name in names):
        return [int(name) for name in names]
    return list(range(len(names)))


def sequence_of(row: str, names) -> str:
    """Name of the sequence, one of `names`, that a row of scores is of: '<sequence>_<id>', or the
    sequence itself."""
    return row if row in names else row.rpartition('_')[0] or row


def write_by_frame(results: dict, folder: str) -> None:
    """Writes <folder>/<sequence>.png, the scores of a sequence's objects frame by frame.

    Args:
      results: with per_frame and where, as common/videos.py writes them.
      folder: made.
    """
    panels = {}
    for row, values in results.get('per_frame', {}).items():
        name = sequence_of(row, results.get('where', {}))
        panels.setdefault(name, []).append((row[len(name) + 1 :], values))
    for name, rows in panels.items():
        lines = []
        for color, (number, values) in enumerate(rows):
            lines += by_frame(values, number if len(rows) > 1 else '', color)
        path = os.path.join(folder, f'{name}.png')
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write(path, split(Panel(lines, 'frame', name, 0.0, 1.0)))


def read_progress(path: str) -> list[dict]:
    """The rows of progress.jsonl, steps rising: where a run went on from an older checkpoint, what
    it had done after that is left out.

    Raises:
      FileNotFoundError: no such file. ValueError: a line that is no JSON object with a step.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f'no record of a training: {os.path.abspath(path)}')
    rows = []
    with open(path, encoding='utf-8') as f:
        for number, line in enumerate(f, 1):
            try:
                row = json.loads(line)
                step = row['step']
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f'{path}, line {number} is no progress: {error!r}') from None
            rows = [old for old in rows if old['step'] < step]
            rows.append(row)
    return rows


def training_curve(folder: str) -> str | None:
    """Writes training.png of a run's folder, a panel for each of PANELS that its progress.jsonl
    has; returns the path, None where nothing was recorded.

    Raises:
      ValueError: as read_progress().
    """
    try:
        rows = read_progress(os.path.join(folder, PROGRESS))
    except FileNotFoundError:
        return None
    panels, steps = [], [row['step'] for row in rows]
    for key, label in PANELS.items():
        values = [row.get(key) for row in rows]
        if any(value is not None for value in values):
            low = None if key in ('loss', 'gradient_norm') else 0.0
            line = Line(label, steps, values, len(panels))
            panels.append(Panel([line], '', label, low, log=key != 'data_wait'))
    if not panels:
        return None
    panels[-1] = panels[-1]._replace(x_label='update')
    path = os.path.join(folder, 'training.png')
    write(path, panels, 720, 200)
    return path


def main(argv=None) -> int:
    """Draws training.png again; exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('run', help='folder of a training')
    folder = parser.parse_args(argv).run
    try:
        read_progress(os.path.join(folder, PROGRESS))
        print(training_curve(folder))
    except (OSError, ValueError) as error:
        print(f'plots: error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
