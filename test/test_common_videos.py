"""common/videos.py: the driver finds videos, writes their masks, scores them by both rules, draws
them."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from common import console, files, masks, metrics, videos, youtube_vos

ONE = 'drawn-x'
VIDEO = '0ddddddddd'  # of valid: only the first frame has a mask


@pytest.fixture
def tree(drawn, tmp_path):
    """A copy of a drawn set that a test may break."""

    def copy(name):
        return shutil.copytree(drawn[name], str(tmp_path / 'data' / name))

    return copy


def keep_given(video):
    """A network that repeats the masks given."""
    ids = np.zeros_like(next(iter(video.given.values())))
    for t in range(len(video.frames)):
        for start, mask in video.given.items():
            ids = np.where(mask, mask, ids) if start == t else ids
        yield ids


def answer_truth(video):
    """A network that knows the ground truth of every frame."""
    truth = dict(video.truth)
    for path in video.frames:
        ids = masks.read_mask(truth[files.stem(path)])
        yield (ids > 0).astype(np.uint8) if video.union else ids


# --- find ---------------------------------------------------------------------------------------


def test_find_davis(drawn):
    found = videos.find(drawn['davis'], 'davis', year='2016')
    assert [video.name for video in found] == ['drawn-x', 'drawn-y', 'drawn-z']
    video = found[0]
    assert video.folder == os.path.join('masks', ONE) and video.shown == {}
    assert video.union and video.year == '2016' and len(video.frames) == len(video.truth) == 10
    assert set(video.given) == {0} and np.unique(video.given[0]).tolist() == [0, 1]
    several = videos.find(drawn['davis2017'], 'davis', 'train', 'drawn-b, drawn-a,', '2017')
    assert [video.name for video in several] == ['drawn-b', 'drawn-a']
    assert not several[0].union and videos.numbers(several[0].given) == [1, 2, 3]
    assert len(videos.find(drawn['davis2017'], 'davis', 'train')) == 6


def test_the_tree_of_the_year_is_taken(drawn):
    """DAVIS/ and DAVIS2017/ lie below one root."""
    root = os.path.dirname(drawn['davis'])
    assert [v.union for v in videos.find(root, 'davis', names=ONE, year='2016')] == [True]
    several = videos.find(root, 'davis', names=ONE, year='2017')[0]
    assert videos.numbers(several.given) == [1, 2]
    assert several.frames[0].startswith(drawn['davis2017'])


def test_find_youtube_vos(drawn):
    root = drawn['youtube_vos']
    video = videos.find(root, 'youtube_vos')[0]
    assert video.name == VIDEO and video.folder == os.path.join('Annotations', VIDEO)
    assert set(video.given) == {0} and len(video.truth) == 1 and not video.year
    for place in (os.path.dirname(root), os.path.join(root, 'valid')):
        assert videos.find(place, 'youtube_vos')[0].frames == video.frames
    with pytest.raises(FileNotFoundError, match="split 'test' at .*only train and valid"):
        videos.find(root, 'youtube_vos', 'test')
    with pytest.raises(FileNotFoundError, match='no YouTube-VOS split'):
        videos.find(os.path.join(root, 'train', 'Annotations'), 'youtube_vos')


def late_object(root):
    """Makes object 2 of the valid video begin at frame 4, where it has a mask, and both objects
    wanted in some frames only."""
    folder = os.path.join(root, 'valid', 'Annotations', VIDEO)
    first = os.path.join(folder, '00000.png')
    ids = masks.read_mask(first)
    masks.write_mask(os.path.join(folder, '00004.png'), np.where(ids == 2, ids, 0).astype(np.uint8))
    masks.write_mask(first, np.where(ids == 1, ids, 0).astype(np.uint8))
    path = os.path.join(root, 'valid', 'meta.json')
    meta = json.loads(Path(path).read_text())
    meta['videos'][VIDEO]['objects']['1']['frames'] = ['00000', '00001', '00002', '00005']
    meta['videos'][VIDEO]['objects']['2']['frames'] = ['00000', '00004', '00005', '00006']
    Path(path).write_text(json.dumps(meta))


def test_objects_begin_where_a_mask_shows_them_and_end_where_meta_says(tree, tmp_path):
    root = tree('youtube_vos')
    late_object(root)
    video = videos.find(root, 'youtube_vos')[0]
    assert videos.starts(video.given) == {1: 0, 2: 4}
    assert np.unique(video.given[4]).tolist() == [0, 2]
    videos.write_masks(video, keep_given(video), str(tmp_path / 'out'))
    shown = [
        set(np.unique(masks.read_mask(path)).tolist()) - {0}
        for path in files.listed(str(tmp_path / 'out' / 'Annotations' / VIDEO), ('.png',))
    ]
    assert shown == [{1}, {1}, {1}, set(), {2}, {1, 2}, {2}, *([set()] * 9)]


def test_faults_of_videos_are_named(tree):
    root = tree('davis')
    folder = os.path.join(root, 'Annotations', '480p', ONE)
    first = os.path.join(folder, '00000.png')
    masks.write_mask(first, np.zeros((180, 320), np.uint8))
    with pytest.raises(ValueError, match='drawn-x: the masks given show no object'):
        videos.find(root, 'davis', names=ONE)
    with pytest.raises(FileNotFoundError, match="no sequence 'absent'"):
        videos.find(root, 'davis', names='absent')
    os.remove(os.path.join(root, 'JPEGImages', '480p', ONE, '00003.jpg'))
    with pytest.raises(ValueError, match=r'1 masks of drawn-x without a frame .*00003.png'):
        videos.find(root, 'davis', names=ONE)
    root = tree('youtube_vos')
    path = Path(root) / 'valid' / 'meta.json'
    path.write_text(path.read_text().replace('"2"', '"9"'))
    with pytest.raises(ValueError, match=f'{VIDEO}: object 9 of meta.json is in no mask'):
        videos.find(root, 'youtube_vos')


def test_a_video_whose_first_mask_is_late(tree):
    root = tree('davis')
    for t in range(2):
        os.remove(os.path.join(root, 'Annotations', '480p', ONE, f'{t:05d}.png'))
    assert set(videos.find(root, 'davis', names=ONE)[0].given) == {2}


# --- write, score -------------------------------------------------------------------------------


@pytest.mark.parametrize('name, year', [('davis', '2016'), ('davis2017', '2017')])
def test_evaluate_davis_by_the_official_rules(drawn, tmp_path, name, year, capsys):
    found = videos.find(drawn[name], 'davis', year=year)
    output = str(tmp_path / 'out')
    settings = {'threshold': 0.5, 'sizes': (1, 2), 'table': {'a': 1}, 'none': None}
    results = videos.evaluate(found, answer_truth, output, settings, 'val')
    assert results['global']['J&F-Mean'] == 1.0
    assert results['config'] == {'threshold': 0.5, 'sizes': (1, 2), 'none': None}
    again = videos.evaluate(found, keep_given, output, settings, 'val', stability=year == '2016')
    official = metrics.evaluate(drawn[name], os.path.join(output, 'masks'), year=year)
    assert again['global']['J-Mean'] == official['global']['J-Mean'] < 1
    assert ('T-Mean' in again['global']) == (year == '2016')
    new, old = (
        json.loads((tmp_path / 'out' / f'results{k}.json').read_text()) for k in ('', '.old')
    )
    assert new['global']['J-Mean'] < 1 and old['global'] == results['global']
    assert {path.name for path in (tmp_path / 'out').iterdir()} == {
        'masks',
        'plots',
        *(f'results{k}.json' for k in ('', '.old')),
        *(f'global_results-val{k}.csv' for k in ('', '.old')),
        *(f'per-sequence_results-val{k}.csv' for k in ('', '.old')),
    }
    assert {'python', 'numpy', 'opencv'} <= set(new['versions'])
    videos.print_scores(results)
    assert 'drawn-x_1                J 1.000 F 1.000' in capsys.readouterr().out


def test_scores_of_masks_that_are_replaced_are_put_aside_first(drawn, tmp_path):
    """A run that is stopped while it writes leaves no scores of other masks."""
    found = videos.find(drawn['davis'], 'davis', names=ONE, year='2016')
    videos.evaluate(found, answer_truth, str(tmp_path), {})
    (tmp_path / 'report.html').write_text('of the old masks')
    assert (tmp_path / 'plots' / f'{ONE}.png').is_file()

    def stop(video):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        videos.evaluate(found, stop, str(tmp_path), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'global_results-val.old.csv',
        'masks',
        'per-sequence_results-val.old.csv',
        'plots',
        'report.old.html',
        'results.old.json',
    ]
    assert not list((tmp_path / 'plots').iterdir())


def test_evaluate_youtube_vos_on_the_frames_after_the_first(drawn, tmp_path):
    """Frames 5, 10, 15 of train have masks; the last is scored too."""
    found = videos.find(drawn['youtube_vos'], 'youtube_vos', 'train', '0aaaaaaaaa')
    assert found[0].shown == {}  # the list of train names the annotated frames: none is left out
    results = videos.evaluate(found, keep_given, str(tmp_path), {}, 'train')
    expected = []
    for path in youtube_vos.masks(drawn['youtube_vos'], '0aaaaaaaaa')[1:]:
        pair = masks.read_mask(path) == 1, found[0].given[0] == 1
        expected.append((metrics.db_eval_iou(*pair), metrics.db_eval_boundary(*pair)))
    row = results['per_sequence']['0aaaaaaaaa_1']
    assert len(expected) == 3
    assert (row['J-Mean'], row['F-Mean']) == pytest.approx(tuple(np.mean(expected, axis=0)))
    rows = list(results['per_sequence'].values())
    assert results['global']['J-Mean'] == pytest.approx(np.mean([row['J-Mean'] for row in rows]))
    assert (tmp_path / 'global_results-train.csv').is_file()


def test_nothing_is_scored_without_ground_truth(drawn, tmp_path, capsys):
    found = videos.find(drawn['youtube_vos'], 'youtube_vos')
    assert videos.evaluate(found, keep_given, str(tmp_path), {}) == {}
    assert 'nothing scored' in capsys.readouterr().out
    with zipfile.ZipFile(str(tmp_path / 'submission.zip')) as archive:  # as the server takes it
        names = {f'Annotations/{v.name}/{files.stem(path)}.png' for v in found for path in v.frames}
        assert set(archive.namelist()) == names
        path = found[0].frames[-1]
        written = tmp_path / 'Annotations' / found[0].name / f'{files.stem(path)}.png'
        name = f'Annotations/{found[0].name}/{files.stem(path)}.png'
        assert archive.read(name) == written.read_bytes()
    videos.print_scores({})
    assert not (tmp_path / 'results.json').exists() and capsys.readouterr().out == ''


def test_davis_videos_with_some_masks_are_left_out_or_scored_by_frames(tree, tmp_path, capsys):
    root = tree('davis')
    os.remove(os.path.join(root, 'Annotations', '480p', ONE, '00005.png'))
    found = videos.find(root, 'davis', year='2016')
    results = videos.evaluate(found, keep_given, str(tmp_path / 'out'), {})
    assert sorted(results['per_sequence']) == ['drawn-y_1', 'drawn-z_1']
    assert "not every frame has a mask: ['drawn-x'] are not scored" in capsys.readouterr().out
    results = videos.evaluate(found[:1], keep_given, str(tmp_path / 'out'), {})
    assert list(results['per_sequence']) == ['drawn-x_1']
    assert 'not scored by the official rules' in capsys.readouterr().out


def test_a_frame_of_void_alone_shows_no_object(tree, tmp_path):
    root = tree('davis2017')
    folder = os.path.join(root, 'Annotations', '480p', ONE)
    masks.write_mask(os.path.join(folder, '00003.png'), np.full((180, 320), 255, np.uint8))
    for name in ('00004.png', '00009.png'):
        os.remove(os.path.join(folder, name))
    found = videos.find(root, 'davis', names=ONE)
    results = videos.evaluate(found, none_of, str(tmp_path / 'out'), {})
    assert results['per_sequence']['drawn-x_1']['J-Mean'] == pytest.approx(1 / 7)


def none_of(video):
    return (np.zeros((180, 320), np.uint8) for _ in video.frames)


def test_progress(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(console.time, 'monotonic', lambda: now[0])

    def items():
        for n in range(4):
            now[0] += 6
            yield n

    assert list(console.progress(items(), 'clip', 4)) == [0, 1, 2, 3]
    assert capsys.readouterr().out.splitlines() == [
        'clip: 2/4 frames, 0.17 frames/s, eta 0:00:12',
        'clip: 4/4 frames, 0.17 frames/s',
        'clip: 4/4 frames, 0.17 frames/s',
    ]
    assert list(console.progress([], 'clip')) == []
    assert capsys.readouterr().out == 'clip: 0 frames\n'
    try:
        console.set_form('json')
        assert list(console.progress(items(), 'clip', 4)) == [0, 1, 2, 3]
        first = json.loads(capsys.readouterr().out.splitlines()[0])
        assert first.pop('frames_per_second') == pytest.approx(2 / 12)
        assert first == {'what': 'clip', 'done': 2, 'of': 4, 'seconds_left': 12.0}
        console.set_form('none')
        assert list(console.progress(items(), 'clip', 4)) == [0, 1, 2, 3]
        assert capsys.readouterr().out == ''
    finally:
        console.set_form('text')


# --- draw, a user's own clip --------------------------------------------------------------------


def test_draw(drawn, tmp_path):
    found = videos.find(drawn['davis2017'], 'davis', names=ONE)
    videos.evaluate(found, keep_given, str(tmp_path), {}, overlay=True)
    assert {path.name for path in (tmp_path / 'overlay').iterdir()} == {
        'drawn-x.mp4',
        'drawn-x.png',
    }
    clip = list(masks.read_frames(str(tmp_path / 'overlay' / 'drawn-x.mp4')))
    assert len(clip) == 10 and clip[0][1].shape == (180, 320, 3)
    sheet = masks.read_image(str(tmp_path / 'overlay' / 'drawn-x.png'))
    assert sheet.shape == (2 * 180, 1280, 3)  # every other of the ten frames, four in a row
    frame = masks.read_image(found[0].frames[0])
    expected = cv2.resize(masks.overlay(frame, found[0].given[0]), (320, 180))
    np.testing.assert_array_equal(sheet[:180, :320], expected)


def test_write_clip(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(videos.shutil, 'which', lambda name: None)
    source = tmp_path / 'clip'
    source.mkdir()
    for t in (1, 2, 10, 9):
        masks.write_image(str(source / f'{t}.png'), np.full((48, 64, 3), 20 * t, np.uint8))
    assert (videos.first_frame(str(source)) == 20).all()
    frames = videos.Frames(str(source))
    assert [int(frame[0, 0, 0]) for frame in frames] == [20, 40, 180, 200]
    assert len(list(frames)) == 4  # as often as wanted

    def segment():
        for frame in frames:
            yield np.full(frame.shape[:2], frame[0, 0, 0] // 20, np.uint8)

    output = tmp_path / 'out'
    assert videos.write_clip(str(source), segment(), str(output)) == 4
    for t in (1, 2, 9, 10):
        assert (masks.read_mask(str(output / 'masks' / f'{t}.png')) == t).all()
    assert len(list(masks.read_video(str(output / 'overlay.mp4')))) == 4
    assert masks.frame_rate(str(output / 'overlay.mp4')) == 25
    assert masks.read_image(str(output / 'sheet.png')).shape == (240, 1280, 3)
    printed = capsys.readouterr().out
    assert f'4 masks, overlay.mp4 and sheet.png are in {output}' in printed
    assert 'for browsers install ffmpeg' in printed
    for name, count in (('preview.webp', 2), ('preview.gif', 2)):  # 25 frames/s, every second one
        with Image.open(str(output / name)) as preview:
            assert preview.size == (320, 240) and preview.n_frames == count

    def draw(image, ids):
        return np.full_like(image, ids[0, 0] * 10)

    videos.write_clip(str(source), segment(), str(output), 10, draw)
    assert masks.frame_rate(str(output / 'overlay.mp4')) == 10
    assert abs(int(masks.read_image(str(output / 'sheet.png'))[0, 0, 0]) - 10) < 3


@pytest.mark.parametrize('count', [1, 15, 16, 17, 33, 100])
def test_the_sheet_keeps_few_images_evenly_spaced(count):
    kept = []
    assert list(videos.thinned(range(count), kept)) == list(range(count))
    assert kept[0] == 0 and len(kept) < 2 * videos.SHEET
    assert len(kept) >= min(count, videos.SHEET)
    assert len(set(np.diff(kept))) <= 1


def test_facts_of_a_clip(tmp_path):
    for name in ('clip.mp4', 'mask.png', 'model.index'):
        (tmp_path / name).write_text(name)
    source, mask, checkpoint = (str(tmp_path / n) for n in ('clip.mp4', 'mask.png', 'model.index'))
    facts = videos.claim_facts(source, mask, checkpoint, {'steps': 3})
    assert set(facts) == {'input', 'mask', 'checkpoint', 'steps'}
    assert facts == videos.claim_facts(source, mask, checkpoint, {'steps': 3})
    for name in ('clip.mp4', 'mask.png', 'model.index'):
        (tmp_path / name).write_text('another')
        assert facts != videos.claim_facts(source, mask, checkpoint, {'steps': 3})
        (tmp_path / name).write_text(name)
    assert 'mask' not in videos.claim_facts(source, None, checkpoint, {})


def test_binary():
    ids = np.array([[0, 1, 2, 255]], np.uint8)
    assert videos.binary(ids).tolist() == [[0, 1, 1, 0]]
    assert videos.binary(ids, 2).tolist() == [[0, 0, 1, 0]]


def test_frames_of_several_sizes_are_named_before_the_work(tmp_path):
    for name, width in (('0', 40), ('1', 40), ('2', 44)):
        masks.write_image(str(tmp_path / f'{name}.jpg'), np.zeros((20, width, 3), np.uint8))
    paths = [str(tmp_path / f'{t}.jpg') for t in range(3)]
    video = videos.Video('clip', 'masks/clip', paths, {}, {}, [])
    videos.check_sizes([video._replace(frames=paths[:2])])
    with pytest.raises(ValueError, match='clip has frames of 2 sizes: .*0.jpg is 40x20, .*44x20'):
        videos.check_sizes([video])


def test_first_mask_of_a_clip_is_a_file_or_boxes(tmp_path, capsys):
    image = np.full((60, 80, 3), 60, np.uint8)
    image[20:40, 30:60] = (20, 200, 30)
    masks.write_image(str(tmp_path / '0.png'), image)
    ids = videos.first_ids(str(tmp_path), None, ['24,14,42,32'])
    assert ids[20:40, 30:60].mean() > 0.95 and ids.sum() < 1.2 * 20 * 30
    assert 'GrabCut' in capsys.readouterr().out
    path = str(tmp_path.parent / f'{tmp_path.name}.png')
    masks.write_mask(path, ids)
    assert np.array_equal(videos.first_ids(str(tmp_path), path, None), ids)
    for mask, boxes in ((None, None), (path, ['1,1,5,5'])):
        with pytest.raises(ValueError, match='either --mask=FILE or --box=x,y,width,height'):
            videos.first_ids(str(tmp_path), mask, boxes)
