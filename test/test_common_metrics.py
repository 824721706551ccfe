"""common/metrics.py against the official davis2017-evaluation and against every kind of bad input.

recorded/metrics_official.npz: 60 pairs of random masks and their official J and F, 9 random series
and their official statistics; recorded/metrics_official.py made it from a checkout of
davis2017-evaluation.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from common import bitmasks, masks, metrics, stability

RECORDED = np.load(Path(__file__).parent / 'recorded' / 'metrics_official.npz')


def recorded_pair(n):
    height, width = RECORDED[f's{n}']
    return [
        np.unpackbits(RECORDED[f'{k}{n}'])[: height * width].reshape(height, width) for k in 'ab'
    ]


@pytest.mark.parametrize('n', range(60))
def test_j_and_f_equal_the_official_ones(n):
    truth, result = recorded_pair(n)
    ours = metrics.db_eval_iou(truth, result), metrics.db_eval_boundary(truth, result)
    assert ours == tuple(RECORDED['scores'][n])


def plain_f(truth, result):
    """The F-measure by OpenCV's dilation, as the paper states it."""

    def outline(mask):
        padded = np.pad(mask.astype(bool), ((0, 1), (0, 1)), mode='edge')
        here = padded[:-1, :-1]
        return (here ^ padded[:-1, 1:]) | (here ^ padded[1:, :-1]) | (here ^ padded[1:, 1:])

    radius = int(np.ceil(0.008 * np.linalg.norm(truth.shape)))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.uint8)
    lines = [outline(m) for m in (truth, result)]
    grown = [cv2.dilate(line.astype(np.uint8), disk) > 0 for line in lines]
    if not lines[0].any() or not lines[1].any():
        return float(lines[0].any() == lines[1].any())
    precision = (lines[1] & grown[0]).sum() / lines[1].sum()
    recall = (lines[0] & grown[1]).sum() / lines[0].sum()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize('seed', range(20))
def test_large_masks_equal_the_plain_formula(seed):
    draw = np.random.RandomState(seed)
    pair = []
    for _ in range(2):
        mask = np.zeros((480, 854), np.uint8)
        center = (int(draw.randint(854)), int(draw.randint(480)))
        cv2.ellipse(
            mask, center, (int(draw.randint(5, 500)), int(draw.randint(5, 300))), 30, 0, 360, 1, -1
        )
        pair.append(mask ^ (draw.rand(480, 854) < 0.001).astype(np.uint8))
    assert metrics.db_eval_boundary(*pair) == pytest.approx(plain_f(*pair), abs=1e-15)


@pytest.mark.parametrize('radius', [1, 2, 3, 8, 17, 36, 71])
def test_disks_of_every_size_have_no_gaps(radius):
    """36 is that of a 4K frame; what grows over the end of a row meets no other."""
    size = 2 * radius + 9
    stride = -(-(size + radius) // 8)
    for row, column in ((radius + 4, radius + 4), (0, size - 1), (size - 1, 0)):
        mask = np.zeros((size, size), np.uint8)
        mask[row, column] = 1
        found = bitmasks._dilate(bitmasks._integer(mask, stride), radius, 8 * stride)
        data = found.to_bytes(3 * size * stride, 'little')[: size * stride]
        plane = np.unpackbits(np.frombuffer(data, np.uint8), bitorder='little')
        y, x = np.mgrid[:size, :size]
        expected = (y - row) ** 2 + (x - column) ** 2 <= radius**2
        assert np.array_equal(plane.reshape(size, -1)[:, :size], expected)


@pytest.mark.parametrize('i', range(9))
def test_statistics_equal_the_official_ones(i):
    assert metrics.statistics(RECORDED[f'v{i}']) == pytest.approx(RECORDED[f'st{i}'], abs=1e-12)


def test_decay_of_long_sequences_does_not_wrap():
    values = np.linspace(1, 0, 600)  # official 8-bit bin edges wrap beyond 256 frames
    assert metrics.statistics(values)[2] == pytest.approx(0.75, abs=0.01)


def test_statistics_leave_nan_out_and_take_no_values():
    assert metrics.statistics([0.2, np.nan, 0.8])[:2] == (0.5, pytest.approx(1 / 3))
    assert all(np.isnan(v) for v in metrics.statistics([]))


def test_arrays_of_frames_and_symmetry():
    pairs = [recorded_pair(n) for n in range(0, 60, 6)]  # all of one size
    truth, result = (np.stack(x) for x in zip(*pairs))
    values = metrics.db_eval_boundary(truth, result)
    assert values.shape == (10,) and np.array_equal(values, metrics.db_eval_boundary(result, truth))
    assert np.array_equal(metrics.db_eval_iou(truth, truth), np.ones(10))
    with pytest.raises(ValueError, match='differ in shape'):
        metrics.db_eval_iou(truth, truth[:, 1:])


def write(folder, name, frames, ending='.png'):
    (folder / name).mkdir(parents=True)
    for t, mask in enumerate(frames):
        masks.write_mask(str(folder / name / f'{t:05d}{ending}'), mask)


@pytest.fixture
def trees(tmp_path):
    """Annotations of two sequences, results a little off: two objects in 'two', one in 'one'."""
    draw = np.random.RandomState(0)
    for name, objects in (('one', 1), ('two', 2)):
        frames, off = [], []
        for t in range(7):
            mask = np.zeros((60, 80), np.uint8)
            for n in range(1, objects + 1):
                cv2.circle(mask, (20 * n + 2 * t, 30), 9, n, -1)
            frames.append(mask)
            off.append(np.roll(mask, int(draw.randint(3)), 1))
        write(tmp_path / 'gt', name, frames)
        write(tmp_path / 'results', name, off)
    return tmp_path


def evaluated(trees, **keywords):
    return metrics.evaluate(str(trees / 'gt'), str(trees / 'results'), **keywords)


def test_conventions_of_2016_and_2017(trees):
    both = evaluated(trees, year='2017')
    assert sorted(both['per_sequence']) == ['one_1', 'two_1', 'two_2']
    rows = list(both['per_sequence'].values())
    assert both['global']['J-Mean'] == pytest.approx(np.mean([r['J-Mean'] for r in rows]))
    assert both['global']['J&F-Mean'] == pytest.approx(
        (both['global']['J-Mean'] + both['global']['F-Mean']) / 2
    )
    assert both['per_frame']['one_1']['frames'] == [f'{t:05d}' for t in range(1, 6)]
    union = evaluated(trees, year='2016')
    assert sorted(union['per_sequence']) == ['one_1', 'two_1']
    assert union['per_sequence']['one_1'] == both['per_sequence']['one_1']
    with pytest.raises(ValueError, match="'2016' or '2017'"):
        evaluated(trees, year='2018')


def test_processes_give_the_same(trees):
    assert evaluated(trees, workers=2) == evaluated(trees)


def test_first_and_last_result_may_be_absent(trees):
    whole = evaluated(trees)
    for t in (0, 6):
        os.remove(trees / 'results' / 'one' / f'{t:05d}.png')
    assert evaluated(trees) == whole


def test_bad_results_are_named(trees):
    broken = trees / 'results' / 'two'
    mask = masks.read_mask(str(broken / '00003.png'))
    os.remove(broken / '00003.png')
    masks.write_mask(str(broken / '00099.png'), mask)
    with pytest.raises(
        ValueError,
        match=r"two.*lacks 1 masks \['00003.png'\].*1 that are no frames \['00099.png'\]",
    ):
        evaluated(trees)
    os.remove(broken / '00099.png')
    masks.write_mask(str(broken / '00003.png'), mask[:, :40])
    with pytest.raises(ValueError, match='00003.png is 40x60, its annotation 80x60'):
        evaluated(trees)
    masks.write_mask(str(broken / '00003.png'), mask + (mask > 0).astype(np.uint8))
    with pytest.raises(
        ValueError, match=r'00003.png has ids \[0, 2, 3\], its sequence has 2 objects'
    ):
        evaluated(trees, year='2017')
    shutil.rmtree(broken)
    with pytest.raises(FileNotFoundError, match='sequence two: no folder'):
        evaluated(trees, sequences=['one', 'two'])
    with pytest.raises(FileNotFoundError, match='no masks at'):
        metrics.evaluate(str(trees / 'nowhere'), str(trees / 'results'))


def test_void_of_the_annotation_is_background(trees):
    before = {year: evaluated(trees, year=year) for year in ('2016', '2017')}
    for frame in ('00000.png', '00003.png'):
        path = str(trees / 'gt' / 'two' / frame)
        mask = masks.read_mask(path)
        mask[50:, 70:] = 255
        masks.write_mask(path, mask)
    for year in ('2016', '2017'):
        assert evaluated(trees, year=year) == before[year]


def test_results_without_an_annotation_are_left_out_and_said(trees, capsys):
    """The official tool reads the annotated frames and nothing else."""
    before = evaluated(trees, year='2017')
    folder = trees / 'results' / 'two'
    masks.write_mask(str(folder / '00099.png'), np.zeros((60, 80), np.uint8))
    for name in ('gt', 'results'):
        (trees / name / 'two' / '._00003.png').write_bytes(b'of macOS')
    capsys.readouterr()
    assert evaluated(trees, year='2017') == before
    assert capsys.readouterr().out == (
        "two: 1 results without an annotation are left out ['00099.png']\n"
    )


def test_the_year_is_told_from_the_annotations(trees, capsys):
    assert evaluated(trees) == evaluated(trees, year='2017')
    said = capsys.readouterr().out
    assert 'year: 2017, because ' in said and 'has the objects [1, 2]' in said
    assert evaluated(trees, sequences=['one']) == evaluated(trees, sequences=['one'], year='2016')
    assert 'year: 2016' in capsys.readouterr().out


def test_sequences_that_have_results_are_scored_and_said(trees, capsys):
    one = evaluated(trees, sequences=['one'])
    shutil.rmtree(trees / 'results' / 'two')
    (trees / 'results' / 'overlay').mkdir()
    capsys.readouterr()
    assert evaluated(trees) == one
    said = "scored: the 1 of 2 annotated sequences that have results; no annotations of ['overlay']"
    assert said in capsys.readouterr().out
    shutil.rmtree(trees / 'results' / 'one')
    with pytest.raises(FileNotFoundError, match='no sequence has both annotations and results'):
        evaluated(trees)


def perfect(value, indexed, folder):
    """A sequence of a moving square as files of 0 and `value`."""
    folder.mkdir(parents=True)
    for t in range(5):
        mask = np.zeros((60, 80), np.uint8)
        mask[20:40, 20 + t : 50 + t] = value
        if indexed:
            masks.write_mask(str(folder / f'{t:05d}.png'), mask)
        else:
            cv2.imwrite(str(folder / f'{t:05d}.png'), mask)


@pytest.mark.parametrize('year', ['2016', '2017', ''])
@pytest.mark.parametrize('indexed', [False, True], ids=['grey', 'palette'])
@pytest.mark.parametrize('value', [1, 255])
@pytest.mark.parametrize('truth', [(1, True), (255, True), (255, False)])
def test_a_perfect_result_is_perfect_in_every_form(tmp_path, value, indexed, truth, year):
    if value == 255 and truth == (1, True) and year == '2017':
        pytest.skip('255 is no object of an id map: an error, tested below')
    perfect(*truth, tmp_path / 'gt' / 'a')
    perfect(value, indexed, tmp_path / 'results' / 'a')
    assert evaluated(tmp_path, year=year)['global']['J&F-Mean'] == 1.0


def test_white_is_no_object_of_an_id_map(tmp_path):
    perfect(1, True, tmp_path / 'gt' / 'a')
    perfect(255, True, tmp_path / 'results' / 'a')
    with pytest.raises(ValueError, match=r'00001.png has ids \[0, 255\], its sequence has 1 obj'):
        evaluated(tmp_path, year='2017')


@pytest.mark.parametrize('level', [50, 200])
def test_soft_results_of_2016_are_objects_above_0_and_said(tmp_path, level, capsys):
    """As the 2016 toolkit, which takes grey levels as truth values: none is taken for void."""
    perfect(255, False, tmp_path / 'gt' / 'a')
    perfect(255, False, tmp_path / 'results' / 'a')
    path = tmp_path / 'results' / 'a' / '00002.png'
    soft = cv2.imread(str(path), 0)
    soft[20, 22:52] = level
    cv2.imwrite(str(path), soft)
    assert evaluated(tmp_path, year='2016')['global']['J-Mean'] == 1.0
    assert 'a: 1 results have grey levels between 0 and 255' in capsys.readouterr().out


@pytest.mark.parametrize('write_file', [masks.write_mask, cv2.imwrite], ids=['P', 'L'])
def test_a_frame_of_2017_that_is_void_alone_shows_no_object(tmp_path, write_file):
    """The official loader makes 255 background in every annotation of an id map."""
    for kind in ('gt', 'results'):
        (tmp_path / kind / 'a').mkdir(parents=True)
        for t in range(5):
            mask = np.zeros((60, 80), np.uint8)
            if t != 2:
                mask[20:40, 20:30], mask[20:40, 40:60] = 1, 2
            elif kind == 'gt':
                mask[:10] = 255
            write_file(str(tmp_path / kind / 'a' / f'{t:05d}.png'), mask)
    assert evaluated(tmp_path, year='2017')['per_frame']['a_1']['J'] == [1.0, 1.0, 1.0]


def test_program_scores_a_split(drawn, tmp_path, capsys):
    """--split reads ImageSets and names the files; the tree may lie in a folder of data sets."""
    root, results = Path(drawn['davis2017']), tmp_path / 'results'
    for name in ('drawn-x', 'drawn-y'):
        shutil.copytree(str(root / 'Annotations' / '480p' / name), str(results / name))
    flags = [f'--results={results}', f'--output={tmp_path}/out', '--processes=1']
    assert metrics.main([f'--annotations={root}', *flags]) == 0
    assert 'scored: the 2 of 9 annotated sequences' in capsys.readouterr().out
    assert metrics.main([f'--annotations={root.parent}', *flags, '--split=val']) == 1
    assert f'sequence drawn-z: no folder {results}/drawn-z' in capsys.readouterr().err
    name = 'drawn-z'
    shutil.copytree(str(root / 'Annotations' / '480p' / name), str(results / name))
    assert metrics.main([f'--annotations={root.parent}', *flags, '--split=val']) == 0
    assert metrics.main([f'--annotations={root}', *flags, '--split=test-dev']) == 1
    assert "no list of split 'test-dev'" in capsys.readouterr().err
    flags.append('--sequences=drawn-x, drawn-x,')
    assert metrics.main([f'--annotations={root}', *flags, '--split=train']) == 0
    assert metrics.main([f'--annotations={root}', *flags, '--set=mine']) == 0
    assert len(json.loads((tmp_path / 'out' / 'results.json').read_text())['per_frame']) == 2
    assert {path.name for path in (tmp_path / 'out').iterdir()} == {
        'results.json',
        *(
            f'{k}_results-{s}.csv'
            for k in ('global', 'per-sequence')
            for s in ('val', 'train', 'mine')
        ),
    }


def test_a_process_that_dies_is_an_error(trees, monkeypatch):
    class Dying:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def map(self, *_):
            raise metrics.BrokenProcessPool

    monkeypatch.setattr(metrics, 'ProcessPoolExecutor', Dying)
    with pytest.raises(RuntimeError, match='a process that scores has died'):
        evaluated(trees, workers=2)


def test_interrupted_program(trees, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(metrics, 'evaluate', stop)
    assert metrics.main(['--annotations=a', '--results=b', '--output=c']) == 130
    assert capsys.readouterr().err == 'metrics: stopped by a signal\n'


def test_program_writes_the_official_files(trees, capsys):
    flags = [f'--annotations={trees}/gt', f'--results={trees}/results', f'--output={trees}/out']
    assert metrics.main(flags + ['--year=2017', '--processes=1']) == 0
    text = (trees / 'out' / 'global_results-val.csv').read_text().split('\n')
    assert text[0] == 'J&F-Mean,J-Mean,J-Recall,J-Decay,F-Mean,F-Recall,F-Decay'
    assert all(len(v.split('.')[1]) == 3 for v in text[1].split(','))
    lines = (trees / 'out' / 'per-sequence_results-val.csv').read_text().split('\n')
    assert lines[0] == 'Sequence,J-Mean,F-Mean' and lines[1].startswith('one_1,0.')
    written = json.loads((trees / 'out' / 'results.json').read_text())
    scores = evaluated(trees, year='2017')
    assert {key: written[key] for key in scores} == scores
    assert {'command', 'versions', 'commit'} <= set(written)
    assert metrics.main(flags + ['--sequences=absent', '--processes=1']) == 1
    assert 'sequence absent' in capsys.readouterr().err


def test_real_osvos_masks_give_the_reference_scores(shared_data):
    folder = shared_data / 'metrics_check'
    reference = json.loads((folder / 'reference_scores.json').read_text())['sequences']
    names = [n for n in reference if (folder / 'GT' / '480p' / n).is_dir()]
    results = metrics.evaluate(str(folder / 'GT'), str(folder / 'osvos_predictions'), names)
    assert len(names) >= 4
    for name in names:
        for measure in 'JF':
            row, official = results['per_sequence'][f'{name}_1'], reference[name][0]
            ours = [row[f'{measure}-{kind}'] for kind in ('Mean', 'Recall', 'Decay')]
            assert ours == pytest.approx(official[measure], abs=1e-12)
            per_frame = np.round(results['per_frame'][f'{name}_1'][measure], 6)
            assert per_frame.tolist() == official[f'{measure}_frame']


def test_stability_grows_with_jitter():
    steady, jagged = [], []
    draw = np.random.RandomState(0)
    for t in range(3):
        mask = np.zeros((120, 160), np.uint8)
        cv2.ellipse(mask, (60 + 3 * t, 60), (40, 25), 0, 0, 360, 1, -1)
        steady.append(mask)
        torn = mask.copy()
        for _ in range(6):
            cv2.circle(
                torn,
                (int(draw.randint(20, 110)), int(draw.randint(30, 90))),
                9,
                int(draw.randint(2)),
                -1,
            )
        jagged.append(torn)
    calm, rough = (np.mean(stability.instabilities(m)) for m in (steady, jagged))
    assert 0 <= calm < 0.1 < rough
    assert np.isnan(stability.instabilities([steady[0], np.zeros_like(steady[0])])).all()


def test_stability_is_that_of_closed_outlines():
    """Points at most 3 px apart; where an outline starts does not matter; five times the cost."""
    first, second = np.zeros((2, 120, 160), np.uint8)
    cv2.ellipse(first, (60, 60), (40, 25), 20, 0, 360, 1, -1)
    cv2.ellipse(second, (70, 60), (30, 35), 50, 0, 360, 1, -1)
    points = stability.outline(first)
    steps = np.linalg.norm(points - np.roll(points, -1, 0), axis=1)
    assert 2 < steps.max() <= 3 and steps.min() > 0
    described = [stability.shape_contexts(stability.outline(mask)) for mask in (first, second)]
    for start in (1, 20, len(points) - 1):
        assert stability.matching_cost(described[0], np.roll(described[0], start, 0)) == 0
    cost = stability.matching_cost(*described)
    assert cost > 0.01 and stability.instabilities([first, second]) == [5 * cost]


def test_warp_finds_the_cheapest_path():
    draw = np.random.RandomState(1)
    costs = draw.rand(4, 5)

    def cheapest(i, j):  # by exhaustive search
        steps = [(i + 1, j), (i, j + 1), (i + 1, j + 1)]
        options = [costs[s] + cheapest(*s) for s in steps if s[0] < 4 and s[1] < 5]
        return min(options) if options else 0.0

    path = stability.warp(costs)
    assert path[0] == (0, 0) and path[-1] == (3, 4)
    assert sum(costs[p] for p in path[1:]) == pytest.approx(cheapest(0, 0))
