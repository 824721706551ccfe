"""Indexed masks and pictures in and out: PNG with the DAVIS palette, overlays, contact sheets,
clips.

Masks are uint8 [H, W] of object ids: 0 background, 1.. objects, 255 void where a data set has it.
Files are written under a temporary name and moved, so that a killed program leaves no half picture.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from PIL import Image

VIDEO_ENDINGS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')
IMAGE_ENDINGS = ('.jpg', '.jpeg', '.png', '.bmp')


def _palette() -> np.ndarray:
    """The PASCAL VOC colour map that DAVIS masks carry: bit i of the id goes to bit 7 - i // 3 of
    channel i % 3."""
    ids = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= (((ids >> bit) & 1) << (7 - bit // 3)).astype(np.uint8)
    return colours


PALETTE = _palette()  # uint8 [256, 3], R, G, B


def read_image(path: str) -> np.ndarray:
    """A picture as uint8 [H, W, 3] BGR.

    Raises:
      FileNotFoundError: no such file. ValueError: cut off or no picture.
    """
    data = np.fromfile(_existing(path), np.uint8)
    jpeg = data[:2].tobytes() == b'\xff\xd8'
    if jpeg and b'\xff\xd9' not in data[-4096:].tobytes():  # OpenCV would fill the rest with grey
        raise ValueError(f'{os.path.abspath(path)} is cut off: a JPEG without its end marker')
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise ValueError(f'{os.path.abspath(path)} is no readable picture ({data.size} bytes)')
    return image


def _existing(path):
    if not os.path.isfile(path):
        raise FileNotFoundError(f'no such file: {os.path.abspath(path)}')
    return path


def read_mask(path: str) -> np.ndarray:
    """Object ids uint8 [H, W] of an indexed or grey PNG.

    Palette ids are kept; a grey mask of 0 and 255 alone becomes 0 and 1; other grey values are ids
    already.

    Raises:
      FileNotFoundError: no such file. ValueError: cut off, no picture, of 16 bits, or in colours.
    """
    image = _decoded(path)
    if image.mode[0] in 'IF':  # PIL would clip ids above 255
        raise ValueError(f'{os.path.abspath(path)} has 16 or 32 bits, expected 8-bit ids')
    if image.mode not in ('P', 'L', '1'):
        return _from_colours(np.array(image.convert('RGB')), path)
    mask = np.array(image, np.uint8)
    return _from_grey(mask) if image.mode == 'L' else mask


def _decoded(path):
    try:
        with Image.open(_existing(path)) as image:
            image.load()  # here, because numpy would turn a decoder's error into a TypeError
            return image
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise ValueError(f'{os.path.abspath(path)} is no readable mask: {error}') from None


def _from_grey(mask):
    whites = cv2.threshold(mask, 254, 1, cv2.THRESH_BINARY)[1]  # a tenth of numpy's time
    return whites if cv2.countNonZero(whites) == cv2.countNonZero(mask) else mask


def _from_colours(image, path):
    grey = np.ascontiguousarray(image[..., 0])
    if not (np.array_equal(grey, image[..., 1]) and np.array_equal(grey, image[..., 2])):
        raise ValueError(
            f'{os.path.abspath(path)} is a colour picture, expected a mask of object ids: save it '
            "indexed (PIL: image.convert('P')) or grey, 0 background and 1, 2, ... objects"
        )
    return _from_grey(grey)


def write_mask(path: str, mask: np.ndarray) -> None:
    """Writes uint8 [H, W] ids as an indexed PNG with the DAVIS palette."""
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise ValueError(f'a mask is uint8 [H, W], not {mask.dtype} {list(mask.shape)}')
    image = Image.fromarray(mask)
    image.putpalette(PALETTE.ravel().tolist())
    image.save(f'{path}.tmp', 'PNG')
    os.replace(f'{path}.tmp', path)


def write_image(path: str, image: np.ndarray) -> None:
    """Writes uint8 [H, W, 3] BGR in the format of the path's ending."""
    done, data = cv2.imencode(os.path.splitext(path)[1], image)
    if not done:
        raise ValueError(f'OpenCV cannot write {path}')
    data.tofile(f'{path}.tmp')
    os.replace(f'{path}.tmp', path)


def overlay(
    image: np.ndarray, mask: np.ndarray, alpha: float = 0.5, contour: bool = True
) -> np.ndarray:
    """Colours the objects of a frame and draws their outlines.

    Args:
      image: uint8 [H, W, 3] BGR.
      mask: uint8 [H, W] ids; 255 is not drawn.
      alpha: 0 .. 1, share of the colour.
      contour: whether to draw the outlines.

    Returns:
      uint8 [H, W, 3] BGR, a new array.

    Raises:
      ValueError: image and mask of different sizes.
    """
    if image.shape[:2] != mask.shape:
        raise ValueError(f'mask {list(mask.shape)} does not fit image {list(image.shape)}')
    table = np.ascontiguousarray(PALETTE[None, :, ::-1])
    colours = cv2.LUT(cv2.merge([mask, mask, mask]), table)
    inside = cv2.inRange(mask, 1, 254)
    mixed = cv2.copyTo(cv2.addWeighted(image, 1 - alpha, colours, alpha, 0), inside, image.copy())
    numbers = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)[:255])
    for number in numbers[numbers > 0] if contour else ():
        outlines = cv2.findContours(
            (mask == number).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )[-2]
        cv2.drawContours(mixed, outlines, -1, PALETTE[number, ::-1].tolist(), 2)
    return mixed


def contact_sheet(images: list[np.ndarray], columns: int, width: int) -> np.ndarray:
    """Pictures uint8 [H, W, 3] side by side in rows, `width` px in all; sizes may differ: cells are
    the first's."""
    if not images:
        raise ValueError('no pictures for a contact sheet')
    columns = min(columns, len(images))
    cell = width // columns
    size = (cell, max(1, round(cell * images[0].shape[0] / images[0].shape[1])))
    rows = -(-len(images) // columns)
    sheet = np.zeros((rows * size[1], columns * cell, 3), np.uint8)
    for i, image in enumerate(images):
        y, x = i // columns * size[1], i % columns * cell
        sheet[y : y + size[1], x : x + cell] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return sheet


def write_video(path: str, frames: Iterable[np.ndarray], fps: float = 25) -> int:
    """Writes uint8 [H, W, 3] BGR frames as MP4 (mp4v); returns their number.

    Raises:
      OSError: OpenCV cannot write the file. ValueError: no frames, or frames of several sizes.
    """
    stem, ending = os.path.splitext(path)
    temporary = f'{stem}.tmp{ending}'
    try:
        count = _encode(temporary, frames, fps, os.path.abspath(path))
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
    return count


def _encode(temporary, frames, fps, path):
    writer, shape, count = None, None, 0
    try:
        for frame in frames:
            if writer is None:
                shape = frame.shape
                codec = cv2.VideoWriter_fourcc(*'mp4v')
                writer = cv2.VideoWriter(temporary, codec, fps, shape[1::-1])
                if not writer.isOpened():
                    raise OSError(f'OpenCV cannot write a video to {path}')
            if frame.shape != shape:  # OpenCV would leave it out without a word
                raise ValueError(f'frame {count} for {path} is {frame.shape}, the first {shape}')
            writer.write(frame)
            count += 1
    finally:
        if writer is not None:
            writer.release()
    if not count:
        raise ValueError(f'no frames for {path}')
    if not os.path.isfile(temporary) or not os.path.getsize(temporary):
        raise OSError(f'OpenCV wrote an empty video for {path}')
    return count


def read_video(path: str) -> Iterator[np.ndarray]:
    """Frames of a video, uint8 [H, W, 3] BGR. Raises as read_frames."""
    return (image for _, image in read_frames(path))


def read_frames(path: str) -> Iterator[tuple[str, np.ndarray]]:
    """(name, uint8 [H, W, 3] BGR) of every frame of a video file or of a folder of pictures, in
    order.

    Raises:
      FileNotFoundError: neither is there. ValueError: no frames, or frames of several sizes.
    """
    if os.path.isdir(path):
        names = sorted(n for n in os.listdir(path) if n.lower().endswith(IMAGE_ENDINGS))
        frames = ((os.path.splitext(n)[0], read_image(os.path.join(path, n))) for n in names)
    else:
        frames = _video_frames(_existing(path))
    shape = None
    for name, image in frames:
        shape = shape or image.shape
        if image.shape != shape:
            raise ValueError(
                f'frame {name} of {path} is {image.shape[1]}x{image.shape[0]}, the first '
                f'{shape[1]}x{shape[0]}'
            )
        yield name, image
    if shape is None:
        raise ValueError(
            f'{os.path.abspath(path)} has no frames: expected a video or a folder of '
            f'{", ".join(IMAGE_ENDINGS)}'
        )


def _video_frames(path):
    video = cv2.VideoCapture(path)
    try:
        i = 0
        while True:
            more, image = video.read()
            if not more:
                return
            yield f'{i:05d}', image
            i += 1
    finally:
        video.release()
