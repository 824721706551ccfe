"""common/masks.py: pictures in and out, exact and with clear errors."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest
from PIL import Image

from common import masks


@pytest.fixture
def picture():
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
        assert np.abs(stored[:21] - masks.PALETTE[:21].astype(int)).max() <= tolerance


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


def test_grey_saved_in_three_channels_is_taken_but_colour_is_not(tmp_path, picture):
    path = str(tmp_path / 'm.png')
    cv2.imwrite(path, np.full((4, 4, 3), 255, np.uint8))
    assert masks.read_mask(path).tolist() == [[1] * 4] * 4
    cv2.imwrite(path, picture)
    with pytest.raises(
        ValueError, match='m.png is a colour picture, expected a mask of object ids'
    ):
        masks.read_mask(path)


@pytest.mark.parametrize('read', [masks.read_image, masks.read_mask])
def test_missing_and_broken_files(tmp_path, read, picture):
    with pytest.raises(FileNotFoundError, match='no such file: .*absent.png'):
        read(str(tmp_path / 'absent.png'))
    data = cv2.imencode('.png', picture)[1].tobytes()
    for name, content in (
        ('cut.png', data[: len(data) // 2]),
        ('text.png', b'no picture'),
        ('empty.png', b''),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            read(str(tmp_path / name))


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


def test_truncated_jpeg_is_an_error(tmp_path, picture):
    data = cv2.imencode('.jpg', picture)[1].tobytes()
    path = tmp_path / 'f.jpg'
    path.write_bytes(data)
    assert masks.read_image(str(path)).shape == (40, 60, 3)
    path.write_bytes(data[:-200])
    with pytest.raises(ValueError, match='f.jpg is cut off'):
        masks.read_image(str(path))


def test_overlay_colours_objects_and_leaves_void_and_background(picture, ids):
    drawn = masks.overlay(picture, ids, alpha=1.0)
    assert np.array_equal(drawn[ids == 0][:50], picture[ids == 0][:50])
    assert np.array_equal(drawn[0, 0], picture[0, 0])
    assert drawn[10, 15].tolist() == masks.PALETTE[1, ::-1].tolist()
    assert drawn[28, 40].tolist() == masks.PALETTE[7, ::-1].tolist()
    assert not np.shares_memory(drawn, picture)
    flat = masks.overlay(picture, ids, contour=False)
    assert np.array_equal(flat[ids == 0], picture[ids == 0])
    with pytest.raises(ValueError, match='does not fit'):
        masks.overlay(picture, ids[:-1])


def test_contact_sheet(picture):
    sheet = masks.contact_sheet([picture] * 5, 3, 180)
    assert sheet.shape == (80, 180, 3)
    assert np.array_equal(sheet[:40, :60], picture) and not sheet[40:, 120:].any()
    with pytest.raises(ValueError, match='no pictures'):
        masks.contact_sheet([], 3, 180)


def test_video_comes_back_frame_by_frame(tmp_path):
    path = str(tmp_path / 'v.mp4')
    frames = [np.full((48, 64, 3), 40 * i, np.uint8) for i in range(5)]
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


def test_folders_of_frames(tmp_path, picture):
    for name in ('b.jpg', 'a.png'):
        masks.write_image(str(tmp_path / name), picture)
    (tmp_path / 'notes.txt').write_text('')
    assert [name for name, _ in masks.read_frames(str(tmp_path))] == ['a', 'b']
    masks.write_image(str(tmp_path / 'c.png'), picture[:, :30])
    with pytest.raises(ValueError, match='frame c of .* is 30x40, the first 60x40'):
        list(masks.read_frames(str(tmp_path)))
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match='has no frames'):
        list(masks.read_frames(str(tmp_path / 'empty')))
    with pytest.raises(FileNotFoundError, match='no such file'):
        list(masks.read_frames(str(tmp_path / 'absent.mp4')))
