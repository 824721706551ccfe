"""Readers of DAVIS, YouTube-VOS and COCO on drawn trees, whole and broken."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from pycocotools import mask as rle

from common import coco, davis, masks, youtube_vos

VIDEO = '0aaaaaaaaa'


@pytest.fixture
def tree(drawn, tmp_path):
    """A copy of the drawn sets that a test may break."""

    def copy(name):
        return shutil.copytree(drawn[name], str(tmp_path / name))

    return copy


def test_davis(drawn):
    root = drawn['davis']
    assert davis.check(root) == {'sequences': 9, 'frames': 90, 'masks': 90, 'objects': 9}
    assert davis.check(drawn['davis2017'])['objects'] == 22
    names = davis.sequences(root, 'val')
    assert names == ['drawn-x', 'drawn-y', 'drawn-z']
    pairs = davis.pairs(root, names)
    assert len(pairs) == 30 and all(os.path.isfile(p) for pair in pairs for p in pair)
    assert davis.frames(root, 'drawn-x')[3].endswith('JPEGImages/480p/drawn-x/00003.jpg')
    assert davis.resolve(os.path.dirname(root), '2016') == root
    assert davis.resolve(os.path.dirname(root), '2017') == drawn['davis2017']
    assert davis.sequences(os.path.dirname(root), 'val') == names
    with pytest.raises(FileNotFoundError, match="no sequence 'drawn-x'"):
        davis.frames(os.path.dirname(root), names[0])  # a root that resolve() has given is needed


@pytest.mark.parametrize(
    'folders, years',
    [
        ({'DAVIS': '2016', 'DAVIS2017': '2017'}, ('DAVIS', 'DAVIS2017')),
        ({'DAVIS': '2017', 'DAVIS2016': '2016'}, ('DAVIS2016', 'DAVIS')),
        ({'DAVIS': '2017', 'DAVIS-2017': '2017'}, ('DAVIS', 'DAVIS')),
        ({'DAVIS': '', 'davis2017': ''}, ('DAVIS', 'davis2017')),
        ({'DAVIS2016': '', 'DAVIS2017': ''}, ('DAVIS2016', 'DAVIS2017')),
        ({'DAVIS2017': '2016'}, ('DAVIS2017', 'DAVIS2017')),
        ({'DAVIS': '2016', '': '2017'}, ('', '')),
    ],
)
def test_davis_of_a_year_is_found_among_others(tmp_path, folders, years):
    """By name, then by the lists of that year; the only tree is taken for both years."""
    for name, listed in folders.items():
        (tmp_path / name / 'JPEGImages' / '480p').mkdir(parents=True)
        if listed:
            (tmp_path / name / 'ImageSets' / listed).mkdir(parents=True)
    for year, expected in zip(('2016', '2017'), years):
        found = os.path.relpath(davis.resolve(str(tmp_path), year), str(tmp_path))
        assert found == (expected or '.')


def cut(path):
    with open(path, 'r+b') as f:
        f.truncate(os.path.getsize(path) // 2)


def test_every_file_is_decoded_on_request(tree):
    """check(root) reads a sample, check(root, every=True) all, in all three readers."""
    places = {
        'davis': 'JPEGImages/480p/drawn-b/00007.jpg',
        'davis2017': 'Annotations/480p/drawn-b/00007.png',
        'youtube_vos': 'train/JPEGImages/0bbbbbbbbb/00007.jpg',
        'coco': 'train2017/000000000007.jpg',
    }
    for name, place in places.items():
        reader = {'davis': davis, 'davis2017': davis, 'youtube_vos': youtube_vos, 'coco': coco}[
            name
        ]
        root = tree(name)
        assert reader.check(root, every=True) == reader.check(root)
        path = os.path.join(root, place)
        cut(path)
        reader.check(root)
        with pytest.raises(ValueError, match=f'1 of .* files are damaged: {path}'):
            reader.check(root, every=True)


def test_davis_masks_without_a_frame_and_natural_order(tree):
    root = tree('davis')
    folders = [
        os.path.join(root, kind, '480p', 'drawn-a') for kind in ('JPEGImages', 'Annotations')
    ]
    for folder, ending in zip(folders, ('.jpg', '.png')):
        for name in os.listdir(folder):
            short = str(int(os.path.splitext(name)[0]) + 3) + ending
            os.rename(os.path.join(folder, name), os.path.join(folder, short))
    expected = [str(n) for n in range(3, 13)]
    assert [os.path.basename(p)[:-4] for p in davis.frames(root, 'drawn-a')] == expected
    assert [os.path.basename(p)[:-4] for p in davis.masks(root, 'drawn-a')] == expected
    os.remove(os.path.join(folders[0], '7.jpg'))
    with pytest.raises(ValueError, match='1 masks of drawn-a without a frame .*7.png'):
        davis.masks(root, 'drawn-a')


def test_davis_lists_in_every_form(tree):
    root = tree('davis')
    names = ['drawn-x', 'drawn-y', 'drawn-z']
    shutil.rmtree(os.path.join(root, 'ImageSets', '2016'))
    assert davis.sequences(root, 'val') == names  # ImageSets/480p: pairs of paths
    shutil.rmtree(os.path.join(root, 'ImageSets', '480p'))
    with open(os.path.join(root, 'val_seqs.txt'), 'w') as f:
        f.write('drawn-z\n\ndrawn-y\n')
    assert davis.sequences(root, 'val') == ['drawn-z', 'drawn-y']
    with pytest.raises(FileNotFoundError, match=r"no list of split 'train'.*there are \[\]"):
        davis.sequences(root, 'train')
    shutil.rmtree(os.path.join(root, 'ImageSets'))
    assert len(davis.sequences(root, 'train')) == 9  # no lists at all: every folder


def test_davis_faults_are_named(tree, tmp_path):
    root = tree('davis')
    lists = os.path.join(root, 'ImageSets', '2016', 'val.txt')
    os.remove(os.path.join(root, 'Annotations', '480p', 'drawn-a', '00004.png'))
    with pytest.raises(
        FileNotFoundError, match='1 of 10 frames have no mask, first: .*drawn-a/00004.png'
    ):
        davis.pairs(root, ['drawn-a'])
    with pytest.raises(FileNotFoundError, match='drawn-a/00004.png'):
        davis.check(root)
    with pytest.raises(FileNotFoundError, match=r"no sequence 'absent'.*there are \['drawn-a'"):
        davis.frames(root, 'absent')
    with open(lists, 'a') as f:
        f.write('absent\n')
    with pytest.raises(
        ValueError, match=r"without a folder.*\['absent'\]; download: https://davischallenge.org"
    ):
        davis.sequences(root, 'val')
    with pytest.raises(ValueError, match='without a folder'):
        davis.check(root)
    open(lists, 'w').close()
    with pytest.raises(ValueError, match='val.txt is empty'):
        davis.sequences(root, 'val')
    with pytest.raises(FileNotFoundError, match='no DAVIS data at .*JPEGImages/480p.*download'):
        davis.check(str(tmp_path / 'nowhere'))


def test_davis_with_first_masks_and_stray_files(tree):
    root = tree('davis')
    open(os.path.join(root, 'JPEGImages', '480p', '.DS_Store'), 'w').close()
    folder = os.path.join(root, 'Annotations', '480p', 'drawn-a')
    for name in os.listdir(folder):
        if name != '00000.png':
            os.remove(os.path.join(folder, name))
    assert davis.check(root) == {'sequences': 9, 'frames': 90, 'masks': 81, 'objects': 9}


def test_real_davis(shared_data):
    counts = davis.check(str(shared_data / 'DAVIS'))
    assert counts == {'sequences': 18, 'frames': 203, 'masks': 203, 'objects': 18}
    assert davis.check(str(shared_data / 'DAVIS2017_240p'))['objects'] == 7
    assert davis.sequences(str(shared_data / 'DAVIS'), 'val')[0] == 'blackswan'


def test_youtube_vos(drawn):
    root = drawn['youtube_vos']
    assert youtube_vos.check(root) == {'sequences': 4, 'frames': 64, 'masks': 13, 'objects': 8}
    assert youtube_vos.sequences(root, 'valid') == ['0ddddddddd']
    assert len(youtube_vos.frames(root, VIDEO)) == 16
    assert [os.path.basename(p) for p in youtube_vos.masks(root, VIDEO)][:2] == [
        '00000.png',
        '00005.png',
    ]
    listed = youtube_vos.objects(root, VIDEO)
    assert set(listed) == {1, 2} and '00000' in listed[1]
    os.rename(os.path.join(root, 'train', 'meta.json'), os.path.join(root, 'meta.bak'))
    try:
        assert youtube_vos.objects(root, VIDEO) == listed  # counted in the masks
    finally:
        os.rename(os.path.join(root, 'meta.bak'), os.path.join(root, 'train', 'meta.json'))


def test_youtube_vos_faults_are_named(tree, tmp_path):
    root = tree('youtube_vos')
    folder = os.path.join(root, 'train', 'JPEGImages', VIDEO)
    os.remove(os.path.join(folder, '00005.jpg'))
    with pytest.raises(
        ValueError, match=r"1 frames that meta.json names and .* lacks, first \['00005'\]"
    ):
        youtube_vos.objects(root, VIDEO)
    with pytest.raises(ValueError, match='1 masks of 0aaaaaaaaa without a frame'):
        youtube_vos.masks(root, VIDEO)
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match=VIDEO):
        youtube_vos.sequences(root, 'train')
    for text in ('{', '[]', '{"videos": {"a": 1}}'):
        with open(os.path.join(root, 'train', 'meta.json'), 'w') as f:
            f.write(text)
        with pytest.raises(ValueError, match='is no meta.json'):
            youtube_vos.sequences(root, 'train')
    with pytest.raises(
        FileNotFoundError,
        match='no YouTube-VOS split .train. at .*download: https://youtube-vos.org',
    ):
        youtube_vos.check(str(tmp_path / 'nowhere'))


def test_youtube_vos_videos_that_meta_does_not_name(tree):
    root = tree('youtube_vos')
    folder = os.path.join(root, 'train', 'JPEGImages')
    open(os.path.join(folder, '.DS_Store'), 'w').close()
    assert youtube_vos.check(root)['sequences'] == 4
    shutil.copytree(os.path.join(folder, VIDEO), os.path.join(folder, 'stranger'))
    with pytest.raises(ValueError, match=r"meta.json does not name, first \['stranger'\]"):
        youtube_vos.check(root)


def test_coco(drawn):
    root = drawn['coco']
    counts = coco.check(root)
    assert (
        counts['sequences'] == counts['frames'] == 16 and counts['masks'] == counts['objects'] > 30
    )
    crowd = coco.masks(root, '12')[0]
    assert coco.annotations(root, '12')[0]['iscrowd'] == 1
    assert crowd.shape == masks.read_image(coco.frames(root, '12')[0]).shape[:2]
    assert crowd.sum() == coco.annotations(root, '12')[0]['area']


def test_coco_is_found_inside_a_folder(drawn, tmp_path):
    root = drawn['coco']
    assert coco.resolve(os.path.dirname(root)) == coco.resolve(root) == root
    with pytest.raises(FileNotFoundError, match='no COCO data at .*nor in coco/.*cocodataset.org'):
        coco.resolve(str(tmp_path))


def test_coco_faults_are_named(tree, tmp_path):
    root = tree('coco')
    os.remove(os.path.join(root, 'train2017', '000000000003.jpg'))
    with pytest.raises(
        FileNotFoundError, match='image 3 of train2017 is missing: tried .*000000000003.jpg'
    ):
        coco.frames(root, '3')
    with pytest.raises(FileNotFoundError, match='1 images are missing'):
        coco.check(root)
    for read in (coco.masks, coco.annotations, coco.frames):
        for name in ('99', 'text'):
            with pytest.raises(ValueError, match=f'has no image {name}'):
                read(root, name)
    with pytest.raises(
        FileNotFoundError, match='no COCO annotations at .*download: https://cocodataset.org'
    ):
        coco.sequences(str(tmp_path), 'train2017')


def test_coco_shapes_outside_the_image_are_cut_off():
    inside = coco.mask({'segmentation': [[2, 2, 8, 2, 8, 8, 2, 8]]}, 20, 30)
    outside = coco.mask({'segmentation': [[-50, -50, 8, -50, 8, 8, -50, 8]]}, 20, 30)
    assert inside.sum() == 36 and outside.shape == (20, 30) and outside[:8, :8].all()
    assert not coco.mask({'segmentation': [[1, 1, 2, 2]]}, 20, 30).any()  # a line has no area


def encode(mask):
    return rle.encode(np.asfortranarray(mask))


def test_coco_run_lengths_in_every_form():
    """Numbers, the text of COCO's API as bytes or as JSON has it."""
    mask = np.random.RandomState(0).randint(0, 2, (37, 53)).astype(np.uint8)
    mask[:20] = 0
    packed = encode(mask)
    runs = coco._decode_runs(packed['counts'])
    assert sum(runs) == mask.size
    for counts in (packed['counts'], packed['counts'].decode(), runs):
        annotation = {'segmentation': {'size': [37, 53], 'counts': counts}}
        assert np.array_equal(coco.mask(annotation, 37, 53), mask)
        assert rle.area(coco.run_lengths(annotation, 37, 53)) == mask.sum()


def test_coco_segmentations_that_are_none_are_named():
    packed = encode(np.eye(9, dtype=np.uint8))
    text = packed['counts'].decode()
    bad = [
        None,
        'text',
        {'size': [9, 9]},
        {'size': [9, 9], 'counts': text[:-2]},
        {'size': [9, 9], 'counts': text + 'o'},
        {'size': [9, 9], 'counts': text[:-1] + 'o'},  # a run that goes on behind the end
        {'size': [9, 9], 'counts': 'é'},
        {'size': [99, 99], 'counts': text},
        {'size': [9, 9], 'counts': [10, 900]},
        {'size': [9, 9], 'counts': [91, -10]},
        [['a'] * 6],
        [5],
    ]
    for segmentation in bad:
        annotation = {'id': 5, 'segmentation': segmentation}
        with pytest.raises(ValueError, match='annotation 5 of an image 9x9 has no usable segm'):
            coco.mask(annotation, 9, 9)


def test_coco_check_finds_bad_segmentations(tree):
    root = tree('coco')
    path = os.path.join(root, 'annotations', 'instances_val2017.json')
    with open(path) as f:
        content = json.load(f)
    content['annotations'][0]['segmentation'] = {'size': [180, 320], 'counts': '52'}
    with open(path, 'w') as f:
        json.dump(content, f)
    coco.check(root)
    with pytest.raises(ValueError, match='annotation 1 of an image 320x180 has no usable'):
        coco.check(root, every=True)
    with open(path, 'w') as f:
        f.write('{"annotations": [{"id": 1}]}')
    coco.index.cache_clear()
    with pytest.raises(ValueError, match='is no COCO annotation file'):
        coco.check(root)


def test_real_trees(shared_data):
    assert youtube_vos.check(str(shared_data / 'YouTubeVOS_like'))['objects'] == 2
    assert coco.check(str(shared_data / 'coco'))['sequences'] == 34
    name = coco.sequences(str(shared_data / 'coco'))[0]
    first = coco.masks(str(shared_data / 'coco'), name)[0]
    area = coco.annotations(str(shared_data / 'coco'), name)[0]['area']
    assert abs(int(first.sum()) - area) <= 0.05 * area + 20
    assert np.unique(first).tolist() == [0, 1]


def test_meta_json_is_official_json(drawn):
    with open(os.path.join(drawn['youtube_vos'], 'train', 'meta.json')) as f:
        meta = json.load(f)
    assert set(meta) == {'videos'}
    assert set(meta['videos'][VIDEO]['objects']['1']) == {'category', 'frames'}
