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

from common import masks, metrics, stability

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
        centre = (int(draw.randint(854)), int(draw.randint(480)))
        cv2.ellipse(
            mask, centre, (int(draw.randint(5, 500)), int(draw.randint(5, 300))), 30, 0, 360, 1, -1
        )
        pair.append(mask ^ (draw.rand(480, 854) < 0.001).astype(np.uint8))
    assert metrics.db_eval_boundary(*pair) == pytest.approx(plain_f(*pair), abs=1e-15)


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
    assert evaluated(trees, processes=2) == evaluated(trees)


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
        evaluated(trees)
    with pytest.raises(FileNotFoundError, match='no masks at'):
        metrics.evaluate(str(trees / 'nowhere'), str(trees / 'results'))


def test_void_of_the_annotation_is_background(trees):
    path = str(trees / 'gt' / 'two' / '00003.png')
    mask = masks.read_mask(path)
    before = evaluated(trees, year='2017')
    mask[50:, 70:] = 255
    masks.write_mask(path, mask)
    assert evaluated(trees, year='2017') == before


def test_program_writes_the_official_files(trees, capsys):
    flags = [f'--annotations={trees}/gt', f'--results={trees}/results', f'--output={trees}/out']
    assert metrics.main(flags + ['--year=2017', '--processes=1']) == 0
    text = (trees / 'out' / 'global_results-val.csv').read_text().split('\n')
    assert text[0] == 'J&F-Mean,J-Mean,J-Recall,J-Decay,F-Mean,F-Recall,F-Decay'
    assert all(len(v.split('.')[1]) == 3 for v in text[1].split(','))
    lines = (trees / 'out' / 'per-sequence_results-val.csv').read_text().split('\n')
    assert lines[0] == 'Sequence,J-Mean,F-Mean' and lines[1].startswith('one_1,0.')
    written = json.loads((trees / 'out' / 'results.json').read_text())
    assert written == evaluated(trees, year='2017')
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
