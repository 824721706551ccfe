"""common/masks.py: images and masks in and out, exact and with clear errors."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from common import masks


@pytest.fixture
def image():
    return np.random.RandomState(0).randint(0, 256, (40, 60, 3)).astype(np.uint8)


@pytest.fixture
def ids():
    mask = np.zeros((40, 60), np.uint8)
    mask[5:20, 5:30], mask[18:35, 25:50], mask[0, 0] = 1, 7, 255
    return mask


def test_masks_come_back_with_ids_and_the_davis_palette(tmp_path, ids):
    path = str(tmp_path / 'm.png')
    masks.write_mask(path, ids)
    assert np.array_equal(masks.read_mask(path), ids)
    with Image.open(path) as image:
        assert image.mode == 'P'
        assert image.getpalette()[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
    assert os.listdir(tmp_path) == ['m.png']  # nothing temporary is left
    with pytest.raises(ValueError, match='uint8'):
        masks.write_mask(path, ids.astype(int))


def test_palette_is_the_one_davis_masks_carry(shared_data):
    """DAVIS has two, with 191 (2017 masks) or 192 for the same bits; we write the later, 192."""
    for folder, tolerance in (('DAVIS_interactive', 0), ('DAVIS2017_240p', 1)):
        with Image.open(sorted((shared_data / folder).rglob('*.png'))[0]) as image:
            stored = np.array(image.getpalette()).reshape(-1, 3)
        assert np.abs(stored[:21] - masks.palette()[:21].astype(int)).max() <= tolerance


@pytest.mark.parametrize(
    'values, expected',
    [
        ((0, 255), (0, 1)),
        ((0, 1), (0, 1)),
        ((0, 3, 255), (0, 3, 255)),
        ((0, 0), (0, 0)),
        ((0, 128), (0, 128)),
        ((255, 255), (1, 1)),
    ],
)
def test_grey_masks(tmp_path, values, expected):
    path = str(tmp_path / 'm.png')
    cv2.imwrite(path, np.tile(np.array(values, np.uint8), (4, 2)))
    assert np.array_equal(masks.read_mask(path), np.tile(np.array(expected, np.uint8), (4, 2)))


def test_grey_saved_in_three_channels_is_taken_but_other_colors_are_not(tmp_path, image):
    path = str(tmp_path / 'm.png')
    cv2.imwrite(path, np.full((4, 4, 3), 255, np.uint8))
    assert masks.read_mask(path).tolist() == [[1] * 4] * 4
    cv2.imwrite(path, image)
    with pytest.raises(ValueError, match='m.png has 2400 colors .*expected a mask of object ids'):
        masks.read_mask(path)


@pytest.mark.parametrize('read', [masks.read_image, masks.read_mask])
def test_missing_and_broken_files(tmp_path, read, image):
    with pytest.raises(FileNotFoundError, match='no such file: .*absent.png'):
        read(str(tmp_path / 'absent.png'))
    data = cv2.imencode('.png', image)[1].tobytes()
    for name, content in (
        ('cut.png', data[: len(data) // 2]),
        ('text.png', b'no image'),
        ('empty.png', b''),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            read(str(tmp_path / name))


def test_masks_in_the_colors_of_the_palette_are_taken(tmp_path, ids):
    ids[ids == 255] = 2
    Image.fromarray(masks.palette()[ids]).save(str(tmp_path / 'm.png'))
    assert np.array_equal(masks.read_mask(str(tmp_path / 'm.png')), ids)


@pytest.mark.parametrize('void', [False, True])
def test_white_alone_is_an_object_unless_the_frame_is_of_an_id_map(tmp_path, void):
    """In a palette too: 255 is void only where other ids are."""
    ids = np.tile(np.array([0, 255], np.uint8), (4, 2))
    for name, write in (('p.png', masks.write_mask), ('l.png', cv2.imwrite)):
        write(str(tmp_path / name), ids)
        found = masks.read_mask(str(tmp_path / name), void)
        assert np.unique(found).tolist() == ([0, 255] if void else [0, 1])
        assert not masks.shows_ids(str(tmp_path / name))
    ids[0, 0] = 1
    masks.write_mask(str(tmp_path / 'p.png'), ids)
    assert masks.shows_ids(str(tmp_path / 'p.png'))
    assert np.array_equal(masks.read_mask(str(tmp_path / 'p.png'), void), ids)


def soft_circle(objects=1, spread=6):
    """Grey levels 0 .. 255 of circles with soft edges, uint8 [60, 80]."""
    mask = np.zeros((60, 80), np.uint8)
    for n in range(objects):
        cv2.circle(mask, (20 + 35 * n, 30), 14, 255, -1)
    return cv2.GaussianBlur(mask, (0, 0), spread)


def save_soft(path, kind):
    """What labelling tools hand out by mistake."""
    soft = soft_circle()
    if kind == 'anti-aliased':
        cv2.imwrite(path, cv2.normalize(soft, None, 0, 255, cv2.NORM_MINMAX))
    elif kind == 'grey 128':
        cv2.imwrite(path, np.where(soft > 90, 128, 0).astype(np.uint8))
    elif kind == 'few levels':
        cv2.imwrite(path, np.where(soft > 90, 255, np.where(soft > 70, 50, 0)).astype(np.uint8))
    elif kind == 'palette of greys':
        image = Image.fromarray(soft)
        image.putpalette([level for level in range(256) for _ in range(3)])
        image.save(path)
    elif kind == 'colors':
        color = np.zeros((60, 80, 3), np.uint8)
        color[soft > 90] = 30, 200, 255
        cv2.imwrite(path, color)


def run_advice(message, folder):
    """The mask that the command in an error message makes."""
    command = message[message.index('python -c') :].replace('python', sys.executable, 1)
    subprocess.run(command, shell=True, check=True, cwd=str(folder))
    return str(folder / 'mask.png')


SOFT = ['anti-aliased', 'grey 128', 'few levels', 'palette of greys', 'colors']


@pytest.mark.parametrize('kind', SOFT)
@pytest.mark.parametrize('name', ['m.png', "it's $(touch x) {0}.png"])
def test_first_masks_that_are_no_ids_are_refused_with_a_command_that_mends_them(
    tmp_path, kind, name
):
    path = str(tmp_path / name)
    save_soft(path, kind)
    with pytest.raises(ValueError) as caught:
        masks.first_mask(path, (60, 80))
    mended = masks.first_mask(run_advice(str(caught.value), tmp_path), (60, 80))
    threshold = 127 if kind in ('anti-aliased', 'palette of greys') else 90
    soft = soft_circle()
    if kind == 'anti-aliased':
        soft = cv2.normalize(soft, None, 0, 255, cv2.NORM_MINMAX)
    assert np.array_equal(mended, soft > threshold) and mended.any()
    assert sorted(os.listdir(str(tmp_path))) == sorted([name, 'mask.png'])


def test_soft_masks_of_a_data_set_are_refused(tmp_path):
    """255 beside many levels is no void of an id map: the object would be lost."""
    path = str(tmp_path / 'm.png')
    save_soft(path, 'anti-aliased')
    with pytest.raises(ValueError, match='m.png has grey levels up to 2.. beside 255: a soft or'):
        masks.read_mask(path)
    assert masks.read_values(path).array.max() == 255


def test_jpeg_masks_are_refused(tmp_path):
    path = str(tmp_path / 'm.jpg')
    cv2.imwrite(path, np.where(soft_circle() > 90, 255, 0).astype(np.uint8))
    with pytest.raises(ValueError, match='m.jpg has .*a soft or JPEG-compressed mask'):
        masks.first_mask(path, (60, 80))


@pytest.mark.parametrize(
    'values, indexed, expected',
    [
        ((0, 255), False, (0, 1)),
        ((0, 255), True, (0, 1)),
        ((0, 1, 2), False, (0, 1, 2)),
        ((0, 1, 2, 255), False, (0, 1, 2, 0)),
        ((0, 1, 2, 255), True, (0, 1, 2, 0)),
        ((0, 2, 5), True, (0, 2, 5)),
        ((1, 2), True, (1, 2)),
    ],
)
def test_first_masks_that_are_taken(tmp_path, values, indexed, expected, capsys):
    """Gaps between the ids are taken of indexed masks, and said."""
    path = str(tmp_path / 'm.png')
    write = masks.write_mask if indexed else cv2.imwrite
    write(path, np.tile(np.array(values, np.uint8), (3, 1)))
    found = masks.first_mask(path, (3, len(values)))
    assert found.dtype == np.uint8 and found.tolist() == [list(expected)] * 3
    said = capsys.readouterr().out
    assert said == (f'{path}: the objects have the ids [2, 5]\n' if 5 in values else '')


def test_first_masks_of_no_or_too_many_objects_or_another_size(tmp_path):
    path = str(tmp_path / 'm.png')
    for value in (0, 255):
        masks.write_mask(path, np.array([[0, value], [0, 0]], np.uint8))
        if value:
            assert masks.first_mask(path, (2, 2)).max() == 1
        else:
            with pytest.raises(ValueError, match='m.png marks no object'):
                masks.first_mask(path, (2, 2))
    with pytest.raises(ValueError, match='m.png is 2x2, the frames are 5x2; the mask must have'):
        masks.first_mask(path, (2, 5))
    masks.write_mask(path, np.arange(0, 160, dtype=np.uint8)[None])
    with pytest.raises(ValueError, match='m.png has 159 values'):
        masks.first_mask(path, (1, 160))
    with pytest.raises(FileNotFoundError, match='absent.png'):
        masks.first_mask(str(tmp_path / 'absent.png'), (2, 2))


def test_check_files_names_what_is_damaged(tmp_path, image, ids):
    paths = {name: str(tmp_path / name) for name in ('a.jpg', 'b.jpg', 'a.png', 'b.png')}
    for name, path in paths.items():
        if name.endswith('.jpg'):
            masks.write_image(path, image)
        else:
            masks.write_mask(path, ids)
    images, maps = ([paths[f'{n}.{ending}'] for n in 'ab'] for ending in ('jpg', 'png'))
    masks.check_files(images, maps)
    for name in ('b.jpg', 'a.png'):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r'2 of 4 files are damaged: .*b.jpg.*; .*a.png'):
        masks.check_files(images, maps)


def test_deep_masks_are_refused(tmp_path):
    path = str(tmp_path / 'm.png')
    cv2.imwrite(path, np.array([[0, 1], [2, 300]], np.uint16))
    with pytest.raises(ValueError, match='m.png has 16 or 32 bits'):
        masks.read_mask(path)


def test_damaged_masks_are_errors_or_whole(tmp_path, ids):
    path = tmp_path / 'm.png'
    masks.write_mask(str(path), ids)
    data, draw = path.read_bytes(), np.random.RandomState(0)
    for _ in range(300):
        broken = bytearray(data)
        broken[draw.randint(len(data))] ^= 1 << draw.randint(8)
        path.write_bytes(broken)
        try:
            result = masks.read_mask(str(path))
        except ValueError as error:
            assert 'm.png' in str(error)
        else:
            assert np.array_equal(result, ids)


def test_truncated_jpeg_is_an_error(tmp_path, image):
    data = cv2.imencode('.jpg', image)[1].tobytes()
    path = tmp_path / 'f.jpg'
    path.write_bytes(data)
    assert masks.read_image(str(path)).shape == (40, 60, 3)
    path.write_bytes(data[:-200])
    with pytest.raises(ValueError, match='f.jpg is cut off'):
        masks.read_image(str(path))


def test_overlay_colors_objects_and_leaves_void_and_background(image, ids):
    drawn = masks.overlay(image, ids, alpha=1.0)
    assert np.array_equal(drawn[ids == 0][:50], image[ids == 0][:50])
    assert np.array_equal(drawn[0, 0], image[0, 0])
    assert drawn[10, 15].tolist() == masks.palette()[1, ::-1].tolist()
    assert drawn[28, 40].tolist() == masks.palette()[7, ::-1].tolist()
    assert not np.shares_memory(drawn, image)
    flat = masks.overlay(image, ids, contour=False)
    assert np.array_equal(flat[ids == 0], image[ids == 0])
    with pytest.raises(ValueError, match='does not fit'):
        masks.overlay(image, ids[:-1])


def test_contact_sheet(image):
    sheet = masks.contact_sheet([image] * 5, 3, 180)
    assert sheet.shape == (80, 180, 3)
    assert np.array_equal(sheet[:40, :60], image) and not sheet[40:, 120:].any()
    with pytest.raises(ValueError, match='no images'):
        masks.contact_sheet([], 3, 180)


def test_video_comes_back_frame_by_frame(tmp_path, monkeypatch):
    path = str(tmp_path / 'v.mp4')
    frames = [np.full((48, 64, 3), 40 * i, np.uint8) for i in range(5)]
    monkeypatch.setattr(masks.shutil, 'which', lambda name: None)
    assert masks.write_video(path, iter(frames), 10) == 5
    back = list(masks.read_frames(path))
    assert [name for name, _ in back] == [f'{i:05d}' for i in range(5)]
    assert all(abs(int(image.mean()) - 40 * i) < 6 for i, (_, image) in enumerate(back))
    assert os.listdir(tmp_path) == ['v.mp4']
    with pytest.raises(ValueError, match='no frames'):
        masks.write_video(path, [])
    assert len(list(masks.read_video(path))) == 5
    with pytest.raises(ValueError, match='frame 1 for .*v.mp4 is .30, 64, 3., the first .48'):
        masks.write_video(path, [frames[0], frames[0][:30]])
    assert os.listdir(tmp_path) == ['v.mp4']  # the old one, and nothing half written
    with pytest.raises(OSError, match='cannot write a video'):
        masks.write_video(str(tmp_path / 'no' / 'v.mp4'), frames)


@pytest.mark.parametrize('fault', ['', 'exit 1', 'head -c 100 "$from" > "$to"'])
def test_videos_for_browsers(fault, tmp_path, monkeypatch):
    """ffmpeg's H.264 takes the place of OpenCV's file where it is whole, and of nothing else."""
    frames = [np.full((32, 48, 3), 40 * t, np.uint8) for t in range(4)]
    masks.write_video(str(tmp_path / 'coded.mp4'), frames, 25)  # what the stand-in writes
    program = tmp_path / 'bin' / 'ffmpeg'
    program.parent.mkdir()
    work = fault or f'cp {tmp_path}/coded.mp4 "$to"'
    note = f'echo "$*" > {tmp_path}/asked'
    program.write_text(f'#!/bin/bash\nfrom=$3 to=${{@: -1}}\n{note}\n{work}\n')
    program.chmod(0o755)
    monkeypatch.setenv('PATH', f'{program.parent}:{os.environ["PATH"]}')
    path = tmp_path / 'overlay.mp4'
    assert masks.write_video(str(path), frames, 10) == 4
    assert masks.frame_rate(str(path)) == (10 if fault else 25)
    assert len(list(masks.read_video(str(path)))) == 4
    assert '-c:v libx264' in (tmp_path / 'asked').read_text()
    left = {each.name for each in tmp_path.iterdir()}
    assert left == {'coded.mp4', 'bin', 'asked', 'overlay.mp4'}



def test_a_video_whose_end_cannot_be_decoded_is_an_error(tmp_path):
    """Its header names 40 frames, the file has no bytes of the last ones."""
    path = tmp_path / 'v.avi'
    draw = np.random.RandomState(0)
    frames = [draw.randint(0, 255, (48, 64, 3)).astype(np.uint8) for _ in range(40)]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 10, (64, 48))
    for frame in frames:
        writer.write(frame)
    writer.release()
    assert len(list(masks.read_frames(str(path)))) == 40
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r'v.avi should have 40 frames, only \d+ can be decoded'):
        list(masks.read_frames(str(path)))


def test_frames_come_in_natural_order_and_one_a_name(tmp_path, image):
    for name in ('10.png', '9.png', '1.JPG', '._1.png', '.2.png.tmp.png'):
        masks.write_image(str(tmp_path / name), image)
    assert [name for name, _ in masks.read_frames(str(tmp_path))] == ['1', '9', '10']
    masks.write_image(str(tmp_path / '9.jpg'), image)
    with pytest.raises(ValueError, match=r'has 9.jpg and 9.png: their results .* same name'):
        list(masks.read_frames(str(tmp_path)))


def test_images_that_opencv_refuses(tmp_path):
    """A header that asks for 10^12 pixels."""
    data = bytearray(cv2.imencode('.png', np.zeros((4, 4, 3), np.uint8))[1].tobytes())
    data[16:24] = struct.pack('>II', 10**6, 10**6)
    data[29:33] = struct.pack('>I', zlib.crc32(bytes(data[12:29])))
    (tmp_path / 'm.png').write_bytes(bytes(data))
    for read in (masks.read_image, masks.read_mask):
        with pytest.raises(ValueError, match='m.png is no readable'):
            read(str(tmp_path / 'm.png'))


def test_folders_of_frames(tmp_path, image):
    for name in ('b.jpg', 'a.png'):
        masks.write_image(str(tmp_path / name), image)
    (tmp_path / 'notes.txt').write_text('')
    assert [name for name, _ in masks.read_frames(str(tmp_path))] == ['a', 'b']
    masks.write_image(str(tmp_path / 'c.png'), image[:, :30])
    with pytest.raises(ValueError, match='frame c of .* is 30x40, the first 60x40'):
        list(masks.read_frames(str(tmp_path)))
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match='has no frames'):
        list(masks.read_frames(str(tmp_path / 'empty')))
    with pytest.raises(FileNotFoundError, match='no such file'):
        list(masks.read_frames(str(tmp_path / 'absent.mp4')))


def disk(center, radius, size=(90, 120)):
    """bool [H, W]."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    return (rows - center[1]) ** 2 + (columns - center[0]) ** 2 <= radius**2


def test_boxes_become_masks():
    """Two colored disks on grey noise; the second box is given first."""
    draw = np.random.RandomState(0)
    image = (90 + draw.randint(0, 20, (90, 120, 3))).astype(np.uint8)
    first, second = disk((30, 40), 15), disk((85, 50), 20)
    image[first], image[second] = (200, 40, 40), (30, 60, 210)
    ids = masks.mask_of_boxes(image, [(60, 26, 50, 48), (10, 20, 40, 40)])
    for number, shape in ((1, second), (2, first)):
        found = ids == number
        assert (found & shape).sum() / (found | shape).sum() > 0.9
    again = masks.mask_of_boxes(image, [(60, 26, 50, 48), (10, 20, 40, 40)])
    assert np.array_equal(ids, again)
    whole = masks.mask_of_boxes(image, [(-5, -5, 500, 500)])
    assert (whole == 1).all()  # nothing is left to be background


def test_boxes_outside_the_image_are_refused():
    image = np.zeros((20, 30, 3), np.uint8)
    with pytest.raises(ValueError, match='box 1 .* has no area in an image of 30x20'):
        masks.mask_of_boxes(image, [(40, 2, 9, 9)])
    with pytest.raises(ValueError, match='no object was found in box 1'):
        masks.mask_of_boxes(image, [(2, 2, 9, 9)])


@pytest.mark.parametrize('text', ['1,2,3', '1,2,3,x', '1,2,0,4', '1,2,nan,4'])
def test_a_box_that_is_none_is_told(text):
    with pytest.raises(ValueError, match=f'--box={text}: '):
        masks.parse_box(text)


def test_a_box_is_four_numbers():
    assert masks.parse_box('1,2.5,3,4') == (1, 2.5, 3, 4)
