"""The page of results: its numbers are those of results.json, its frames the worst, and no name or
setting becomes a tag. The plots: marks where the values are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as xml
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from conftest import ROOT

from common import files, masks, metrics, plots, report, videos

EVIL = '<img src=x onerror=alert(1)>"\'&</td></script>'
TAGS = set(
    re.findall(
        r'\w+',
        'html head meta title style body header main section h1 h2 h3 p b br span div figure img '
        'figcaption table thead tbody tr th td button label input details summary script svg rect '
        'line text circle polyline',
    )
)
MODELS = ('OSMN', 'OSVOS', 'SiamMask', 'ColorNet', 'MANet')


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.inside = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag

    def handle_data(self, text):
        self.texts.append((self.inside, text))

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope='module')
def results(drawn, tmp_path_factory):
    """Folders of results: the first mask copied, and the ground truth with a damaged frame."""
    folder = tmp_path_factory.mktemp('results')
    found = videos.find(drawn['davis'], 'davis', year='2016')

    def copy(video):
        return (video.given[0] for _ in video.frames)

    def truth(video):
        for t, (_, path) in enumerate(video.truth):
            ids = videos.binary(masks.read_mask(path))
            yield ids if t != 3 or video.name != 'drawn-y' else np.zeros_like(ids)

    settings = {'name': 'Net', 'threshold': 0.5}
    paper = {'J-Mean': 0.798}
    videos.evaluate(found, copy, str(folder / 'copy'), settings, paper=paper)
    settings['threshold'] = 0.25
    videos.evaluate(found, truth, str(folder / 'truth'), settings, paper=paper)
    return folder


def test_page_of_a_folder(results):
    report.write([str(results / 'truth')], str(results / 'page.html'))
    text = (results / 'page.html').read_text()
    page, found = Page(text), json.loads((results / 'truth' / 'results.json').read_text())
    assert {tag for tag, _ in page.tags} <= TAGS
    cells = [text for tag, text in page.texts if tag == 'td']
    assert f'{found["global"]["J-Mean"]:.3f}' in cells and '0.798' in cells  # the paper's beside it
    values = {float(cell['data-v']) for cell in page.all('td') if 'data-v' in cell}
    assert found['per_sequence']['drawn-y_1']['J-Mean'] in values
    images = page.all('img')
    assert images[0]['alt'] == 'drawn-y_1, frame 00003'  # the damaged one is the worst
    data = [image['src'] for image in images]
    assert all(source.startswith('data:image/jpeg;base64,') for source in data)
    assert len(data) == 6 + 3  # two an object, one a sequence
    assert len(page.all('svg')) == 3
    assert 'commit' in text and 'threshold' in text and files.commit(str(ROOT)) in text


def test_page_loads_nothing_and_runs_one_script(results):
    page = Page(report.page(report.read([str(results / 'copy')])))
    scripts = [text for tag, text in page.texts if tag == 'script']
    assert ''.join(scripts).strip() == (ROOT / 'common' / 'report.js').read_text().strip()
    for tag, attributes in page.tags:
        assert not {name for name in attributes if name.startswith('on') or name == 'href'}, tag
    (policy,) = [m['content'] for m in page.all('meta') if 'http-equiv' in m]
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert re.search(r"script-src 'sha256-[\w+/]+=*'$", policy)


def test_html_in_names_and_settings_stays_text(results, tmp_path, monkeypatch):
    """In names of sequences, measures, settings, versions and folders, the command and the paper's
    scores; also where the frames are not found."""
    name = EVIL.replace('/', '|')  # as a folder's name could be
    row = {'J-Mean': 0.5, 'F-Mean': float('nan')}
    frames = {'frames': [EVIL, '<b>2'], 'J': [0.1, None], 'F': [0.3, 0.4]}
    found = {
        'global': {EVIL: 0.5, 'J-Mean': 0.5},
        'per_sequence': {f'{name}_1': row, f'{name}_<i>': row},
        'per_frame': {f'{name}_1': frames, f'{name}_<i>': frames},
        'rounds': {f'{name}_1': {EVIL: [0.1, 0.2]}},
        'curve': {'time': [0.0, 1.0, 2.0], EVIL: [0.0, 0.5, 0.5]},
        'where': {name: {'images': EVIL, 'masks': EVIL, 'truth': EVIL}},
        'paper': {EVIL: 0.7},
        'config': {'name': EVIL, EVIL: EVIL},
        'versions': {EVIL: EVIL},
        'command': [EVIL, f'--x={EVIL}'],
        'commit': EVIL,
        'time': EVIL,
    }
    for folder in (tmp_path / name, tmp_path / 'other'):
        folder.mkdir()
        (folder / 'results.json').write_text(json.dumps(found))
    for paths in ([tmp_path / name], [tmp_path / name, tmp_path / 'other']):
        text = report.page(report.read([str(path) for path in paths]))
        page = Page(text)
        assert {tag for tag, _ in page.tags} <= TAGS - {'img'}
        assert len(page.all('script')) == 1 and text.count('</script>') == 1
        for tag, attributes in page.tags:
            assert not {key for key in attributes if key.startswith('on') or key == 'src'}, tag
            if tag == 'polyline':
                assert set(attributes) <= {'class', 'data-name', 'points'}
        assert 'no image: no such file' in text
        told = ''.join(text for _, text in page.texts)
        assert told.count('onerror=alert(1)') > 20  # it is there, as text


def test_several_are_compared(results, tmp_path, capsys):
    output = str(tmp_path / 'compare.html')
    assert report.main([str(results / 'copy'), str(results / 'truth'), f'--output={output}']) == 0
    assert f'report: {output}' in capsys.readouterr().out
    text = (tmp_path / 'compare.html').read_text()
    page = Page(text)
    assert '1 differ' in text and '<tr class="differs"><th scope="row">threshold</th>' in text
    best = [cell['data-v'] for cell in page.all('td') if 'best' in cell.get('class', '')]
    wanted = json.loads((results / 'truth' / 'results.json').read_text())['global']['J-Mean']
    assert repr(wanted) in best
    shown = re.search('<h2>Largest differences.*?</section>', text, re.S).group(0)
    captions = re.findall(r'<figcaption>(copy|truth): J ([\d.]+)</figcaption>', shown)
    apart = [abs(float(a[1]) - float(b[1])) for a, b in zip(captions[::2], captions[1::2])]
    assert apart and apart == sorted(apart, reverse=True)
    assert [name for name, _ in captions[:2]] == ['copy', 'truth']


def test_worst_frames_are_spread():
    found = [report.Shown('a_1', f'{t:05d}', [0.01 * t]) for t in range(30)]
    found += [report.Shown('b_1', f'{t:05d}', [0.5 + 0.01 * t]) for t in range(30)]
    chosen = list(report.chosen(found, lambda each: each.values[0], 3))
    assert [(each.row, int(each.frame)) for each in chosen] == [('a_1', 0), ('a_1', 3), ('b_1', 0)]
    assert list(report.chosen([], lambda each: 0, 3)) == []


def test_frame_shows_result_and_truth(results):
    (result,) = report.read([str(results / 'copy')])
    frame = '00005'
    image = report.draw(result, 'drawn-x_1', frame)
    place = result.place('drawn-x_1')
    plain = masks.read_image(f'{place["images"]}/{frame}.jpg')
    truth = masks.read_mask(f'{place["truth"]}/{frame}.png') > 0
    ids = masks.read_mask(str(results / 'copy' / place['masks'] / f'{frame}.png'), void=True)
    assert image.shape == plain.shape  # 320 px fit
    outline = truth & ~cv2.erode(truth.astype(np.uint8), np.ones((3, 3))).astype(bool)
    assert np.median(image[outline].min(1)) > 150  # white on it
    inside = cv2.erode((ids > 0).astype(np.uint8), np.ones((9, 9))).astype(bool)
    far = ~cv2.dilate(truth.astype(np.uint8), np.ones((9, 9))).astype(bool)
    redder = image[..., 2].astype(int) - plain[..., 2]
    elsewhere = far & ~cv2.dilate((ids > 0).astype(np.uint8), np.ones((9, 9))).astype(bool)
    assert np.abs(redder[elsewhere]).max() == 0
    assert np.abs(image.astype(int) - plain)[inside].mean() > 20


def test_frames_that_are_gone_are_told(results, tmp_path):
    shutil.copytree(str(results / 'copy'), str(tmp_path / 'copy'))
    shutil.rmtree(str(tmp_path / 'copy' / 'masks' / 'drawn-x'))
    path = tmp_path / 'copy' / 'results.json'
    found = json.loads(path.read_text())
    found['where']['drawn-y']['images'] = '/nowhere'
    del found['where']['drawn-z']
    found['per_frame']['drawn-z'] = found['per_frame'].pop('drawn-z_1')
    found['per_sequence']['drawn-z'] = found['per_sequence'].pop('drawn-z_1')
    path.write_text(json.dumps(found))
    text = report.page(report.read([str(tmp_path / 'copy')]))
    assert 'no image: no such file' in text and 'drawn-x' in text
    assert 'results.json does not say where the frames are' in text
    (result,) = report.read([str(tmp_path / 'copy')])
    assert report.draw(result, 'drawn-y_1', '00005').shape == (180, 320, 3)  # masks on grey


def test_folders_without_results_are_refused(results, tmp_path, capsys):
    def message(*flags):
        assert report.main([str(flag) for flag in flags]) == 1
        text = capsys.readouterr().err
        assert text.startswith('report: error: ') and 'Traceback' not in text
        return text

    assert f'no results.json in {tmp_path}' in message(tmp_path)
    assert 'no results.json in' in message(tmp_path / 'absent')
    (tmp_path / 'results.json').write_text('{"per_sequence"')
    assert 'is no JSON' in message(tmp_path)
    (tmp_path / 'results.json').write_text('[1]')
    assert 'has no per_sequence scores' in message(tmp_path)
    (tmp_path / 'results.json').write_text('{"per_sequence": {"a": 1}}')
    assert 'is not as evaluate writes it' in message(tmp_path, f'--output={tmp_path}/page.html')
    assert not (tmp_path / 'page.html').exists()


def test_labels_tell_folders_apart(results):
    paths = [str(results / name) for name in ('copy', 'truth')]
    assert [result.label for result in report.read(paths)] == ['copy', 'truth']
    assert [result.label for result in report.read([str(results)])] == ['copy', 'truth']
    assert report._labels(['/a/run/out', '/b/run/out']) == ['a/run/out', 'b/run/out']
    assert len(set(report._labels(['/a/out', '/a/out']))) == 2


def test_metrics_writes_a_report(drawn, results, tmp_path):
    """Of any program's masks: the frames are found beside the annotations."""
    flags = [f'--annotations={drawn["davis"]}', f'--results={results}/copy/masks', '--year=2016']
    flags += [f'--output={tmp_path}', '--processes=1', '--sequences=drawn-x', '--report']
    assert metrics.main(flags) == 0
    page = Page((tmp_path / 'report.html').read_text())
    assert len(page.all('img')) == 3
    found = json.loads((tmp_path / 'results.json').read_text())
    assert found['where']['drawn-x']['images'].endswith('JPEGImages/480p/drawn-x')


def test_command_is_told_as_it_was_typed():
    assert files.command_text(['/any/OSVOS/evaluate.py', '--data_path=a b', '--x']) == (
        "python -m OSVOS.evaluate '--data_path=a b' --x"
    )
    assert files.command_text(['/usr/bin/tool', 'x']) == 'tool x' and files.command_text([]) == ''


@pytest.mark.parametrize('model', MODELS)
def test_paper_figures_are_those_of_the_card(model):
    import importlib

    config = importlib.import_module(f'{model}.config')
    card = (ROOT / model / 'README.md').read_text()
    assert config.PAPER
    for figures in config.PAPER.values():
        for name, value in figures.items():
            texts = f'{value:.3f}', f'{100 * value:.1f}'
            assert any(re.search(rf'\b{re.escape(t)}\b', card) for t in texts), (name, value)


CHECK = """
const rows = () => all('.sortable tbody tr').filter(r => !r.hidden).map(r => r.dataset.seq);
const told = [];
const heads = all('.sortable th button');
heads[1].click(); told.push(rows()); heads[1].click(); told.push(rows());
heads[0].click(); told.push(rows());
filter.value = 'DRAWN-Y'; filter.oninput(); told.push(rows());
told.push(all('.card').filter(c => !c.hidden).map(c => c.dataset.seq), count.textContent);
const plot = all('svg.plot')[0], box = plot.getBoundingClientRect();
filter.value = ''; filter.oninput();
const place = plot.getBoundingClientRect();
plot.onpointermove({clientX: place.left + place.width, clientY: place.top + 5});
told.push(plot.querySelector('.note').textContent);
document.title = JSON.stringify(told);
"""


def test_script_sorts_filters_and_reads_off(results, tmp_path):
    browser = shutil.which('chromium') or shutil.which('chromium-browser')
    if not browser:
        pytest.skip('no chromium here')
    text = report.page(report.read([str(results / 'truth')]))
    text = re.sub('<meta http-equiv[^>]*>', '', text)
    (tmp_path / 'page.html').write_text(text.replace('</script>', CHECK + '</script>'))
    command = [browser, '--headless', '--no-sandbox', '--disable-gpu', '--dump-dom']
    command += [f'--user-data-dir={tmp_path}/profile', f'file://{tmp_path}/page.html']
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=120)
    title = Page(re.search('<title>.*?</title>', done.stdout.decode()).group(0)).texts[0][1]
    rising, falling, by_name, kept, cards, count, note = json.loads(title)
    found = json.loads((results / 'truth' / 'results.json').read_text())
    scores = {row: values['J-Mean'] for row, values in found['per_sequence'].items()}
    assert [scores[row] for row in rising] == sorted(scores.values())
    assert [scores[row] for row in falling] == sorted(scores.values(), reverse=True)
    assert by_name == sorted(scores)
    assert kept == ['drawn-y_1'] and set(cards) == {'drawn-y_1'} and count == '1 of 3'
    assert re.fullmatch(r'\d+: J \d\.\d\d  F \d\.\d\d', note)


# plots


def test_ticks_are_round_and_inside():
    assert plots.ticks(0, 1, 4) == [0, 0.25, 0.5, 0.75, 1]
    assert plots.ticks(3, 97) == [20, 40, 60, 80]
    for low, high in ((0, 7), (-3e-4, 2e-4), (5, 1e6), (0.97, 0.9701)):
        found = plots.ticks(low, high)
        assert 2 <= len(found) <= 6 and low - 1e-9 <= min(found) and max(found) <= high + 1e-9


def test_gaps_points_and_scales():
    panel = plots.Panel([plots.Line('a', [0, 1, 2, 3, 4], [0.1, None, 0.5, 0.9, float('nan')])])
    drawn = [mark for mark in plots.marks(panel, 420, 190) if mark[0] in ('line', 'dot')]
    assert [mark[0] for mark in drawn] == ['dot', 'line'] and len(drawn[1][1]) == 2
    wide = plots.Panel([plots.Line('a', [0, 1, 2], [1000.0, 1.0, 10.0])], log=True)
    frame = plots.axes(wide, 420, 190)
    assert frame.log and (frame.y0, frame.y1) == (1, 1000)
    middle = frame.at(0, 10.0)[1]
    assert middle == pytest.approx(frame.bottom - (frame.bottom - frame.top) / 3)
    for values in ([], [None], [0.5], [2.0, 2.0], [0.0, -1.0]):
        odd = plots.Panel([plots.Line('a', list(range(len(values))), values)], 'x', 'y', log=True)
        xml.fromstring(plots.svg(odd))
        assert plots.image(odd).shape == (240, 640, 3)


def test_svg_is_well_formed_and_png_has_the_same_line():
    lines = [plots.Line(EVIL, [0, 10], [0.0, 1.0]), plots.Line('b', [0, 10], [1.0, 0.0], 1, True)]
    panel = plots.Panel(lines, 'frame', EVIL, 0.0, 1.0, (4, 6))
    root = xml.fromstring(plots.svg(panel, title=EVIL))
    assert root.attrib['aria-label'] == EVIL
    assert EVIL in [node.text for node in root.iter() if node.tag.endswith('text')]
    image, frame = plots.image(panel, 420, 190), plots.axes(panel, 420, 190)
    x, y = (int(round(v)) for v in frame.at(2.5, 0.25))
    near = image[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).astype(int)
    assert np.abs(near - plots._bgr(0)).sum(1).min() < 90
    x, y = (int(round(v)) for v in frame.at(5, 0.1))
    assert (image[y, x] == 236).all()  # the band


def test_many_objects_have_a_plot_of_j_and_one_of_f():
    row = {'frames': ['00001', '00003'], 'J': [0.1, 0.2], 'F': [0.3, 0.4], 'T': [0.5]}
    lines = [line for k in range(3) for line in plots.by_frame(row, str(k), k)]
    assert [line.name for line in lines[:2]] == ['0 J', '0 F'] and lines[0].x == [1, 3]
    of_j, of_f = plots.split(plots.Panel(lines))
    assert {line.name[-1] for line in of_j.lines} == {'J'} and len(of_f.lines) == 3
    assert len(plots.split(plots.Panel(lines[:4]))) == 1


def test_training_curve_of_a_run_that_went_on_from_a_checkpoint(tmp_path, capsys):
    rows = [{'step': s, 'loss': 1 / s, 'learning_rate': 1e-3} for s in (10, 20, 30)]
    rows += [{'step': 15, 'loss': 5.0, 'data_wait': 0.1}, {'step': 25, 'loss': 4.0}]
    path = tmp_path / 'progress.jsonl'
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    kept = plots.read_progress(str(path))
    assert [row['step'] for row in kept] == [10, 15, 25] and kept[1]['loss'] == 5.0
    assert plots.main([str(tmp_path)]) == 0
    image = masks.read_image(str(tmp_path / 'training.png'))
    assert image.shape == (3 * 200, 720, 3)  # loss, rate, wait for data
    assert plots.training_curve(str(tmp_path / 'absent')) is None
    path.write_text('{"loss": 1}\n')
    assert plots.main([str(tmp_path)]) == 1 and plots.main([str(tmp_path / 'absent')]) == 1
    err = capsys.readouterr().err
    assert 'line 1 is no progress' in err and 'no record of a training' in err
