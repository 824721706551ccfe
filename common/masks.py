"""Masks, images and clips in and out: PNG with the DAVIS palette, overlays, contact sheets.

Masks are uint8 [H, W] of object ids: 0 background, 1.. objects, 255 void where a data set has it.
Files are written under a temporary name and moved, so that a killed program leaves none half
written.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from PIL import Image

from . import files

VIDEO_ENDINGS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')
IMAGE_ENDINGS = ('.jpg', '.jpeg', '.png', '.bmp')
MOST_OBJECTS = 100  # ids above are grey values; DAVIS has 10 objects, YouTube-VOS 12
LOST_FRAMES = 0.02  # of a video, that a container may count too many


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
    """An image as uint8 [H, W, 3] BGR.

    Raises:
      FileNotFoundError: no such file. ValueError: cut off or no image.
    """
    data = np.fromfile(_existing(path), np.uint8)
    jpeg = data[:2].tobytes() == b'\xff\xd8'
    if jpeg and b'\xff\xd9' not in data[-4096:].tobytes():  # OpenCV would fill the rest with grey
        raise ValueError(f'{os.path.abspath(path)} is cut off: a JPEG without its end marker')
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise ValueError(f'{os.path.abspath(path)} is no readable image ({data.size} bytes)')
    return image


def _existing(path):
    if not os.path.isfile(path):
        raise FileNotFoundError(f'no such file: {os.path.abspath(path)}')
    return path


def read_mask(path: str, void: bool = False) -> np.ndarray:
    """Object ids uint8 [H, W] of an indexed or grey PNG.

    A mask whose only value beside 0 is 255 shows one object, which becomes 1; with other ids in it
    255 is void and stays.

    Args:
      path: of the PNG; colours are taken where all are of the DAVIS palette.
      void: 255 is void in any case, as in a frame of an id map that shows nothing else.

    Raises:
      FileNotFoundError: no such file. ValueError: cut off, no image, of 16 bits, in other colours,
      or of grey values between, which are no ids.
    """
    image = _decoded(path)
    if image.mode[0] in 'IF':  # PIL would clip ids above 255
        raise ValueError(f'{os.path.abspath(path)} has 16 or 32 bits, expected 8-bit ids')
    if image.mode in ('P', 'L', '1'):
        mask = np.array(image, np.uint8)
    else:
        mask = _from_colours(np.array(image.convert('RGB')), path)
    whites = cv2.threshold(mask, 254, 1, cv2.THRESH_BINARY)[1]  # a tenth of numpy's time
    if not void and cv2.countNonZero(whites) == cv2.countNonZero(mask):
        return whites.astype(np.uint8)
    if image.mode != 'P' and cv2.countNonZero(whites):
        _refuse_soft_values(mask, path)
    return mask


def _refuse_soft_values(mask, path):
    values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)[:255])
    if values[-1:] > MOST_OBJECTS:
        raise ValueError(
            f'{os.path.abspath(path)} has grey values up to {values[-1]} beside 255: a soft or '
            f'JPEG-compressed mask, no object ids. {_THRESHOLD.format(path)}'
        )


_THRESHOLD = (
    'Make it 0 and 255: python -c "from PIL import Image; '
    "Image.open('{0}').convert('L').point(lambda v: 255 * (v > 127)).save('mask.png')\""
)
_COLOURS_TO_IDS = (
    'Give every colour a number: python -c "import numpy as np; from PIL import Image; '
    "x = np.array(Image.open('{0}').convert('RGB')); "
    'ids = np.unique(x.reshape(-1, 3), axis=0, return_inverse=True)[1]; '
    "Image.fromarray(ids.reshape(x.shape[:2]).astype('uint8')).save('mask.png')\""
)


def _decoded(path):
    try:
        with Image.open(_existing(path)) as image:
            image.load()  # here, because numpy would turn a decoder's error into a TypeError
            return image
    except FileNotFoundError:
        raise
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise ValueError(f'{os.path.abspath(path)} is no readable mask: {error}') from None


def _from_colours(image, path):
    grey = np.ascontiguousarray(image[..., 0])
    if np.array_equal(grey, image[..., 1]) and np.array_equal(grey, image[..., 2]):
        return grey
    codes = image.astype(np.int32) @ (65536, 256, 1)
    palette = PALETTE[: MOST_OBJECTS + 1].astype(np.int32)
    known = {int(code): number for number, code in enumerate(palette @ (65536, 256, 1))}
    found = np.unique(codes)
    if not set(found.tolist()) <= set(known):
        raise ValueError(
            f'{os.path.abspath(path)} has {len(found)} colours that are not those of the DAVIS '
            'palette, expected a mask of object ids: 0 background and 1, 2, ... objects, or 0 and '
            f'255. {_COLOURS_TO_IDS.format(path)}'
        )
    numbers = np.array([known[int(code)] for code in found], np.uint8)
    return numbers[np.searchsorted(found, codes)]


def first_mask(path: str, shape: tuple[int, int]) -> np.ndarray:
    """The mask of a user's first frame: ids uint8 [H, W], 1.. objects, void as background.

    The one check of what a user gives, for every network: an indexed PNG, a grey one of 0 and 255,
    or a grey one of ids 1, 2, ... N.

    Args:
      path: of the mask.
      shape: (H, W) of the frames.

    Raises:
      FileNotFoundError, ValueError: as read_mask(); another size; no object; grey values that are
      no ids.
    """
    ids = read_mask(path)
    if ids.shape != tuple(shape):
        raise ValueError(
            f'{path} is {ids.shape[1]}x{ids.shape[0]}, the frames are {shape[1]}x{shape[0]}; the '
            'mask must have their size'
        )
    ids = np.where(ids == 255, 0, ids).astype(np.uint8)
    numbers = [int(n) for n in np.unique(ids) if n]
    if not numbers:
        raise ValueError(f'{os.path.abspath(path)} marks no object: all pixels are 0 or void')
    gaps = numbers != list(range(1, len(numbers) + 1))
    if gaps and _decoded(path).mode != 'P':
        raise ValueError(
            f'{os.path.abspath(path)} has the grey values {numbers[:8]}, expected ids 1, 2, ... or '
            f'0 and 255: a soft or JPEG-compressed mask? {_THRESHOLD.format(path)}'
        )
    if gaps:
        print(f'{path}: the objects have the ids {numbers}', flush=True)
    return ids


def write_mask(path: str, mask: np.ndarray) -> None:
    """Writes uint8 [H, W] ids as an indexed PNG with the DAVIS palette."""
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise ValueError(f'a mask is uint8 [H, W], not {mask.dtype} {list(mask.shape)}')
    image = Image.fromarray(mask)
    image.putpalette(PALETTE.ravel().tolist())
    with files.replacing(path) as temporary:
        image.save(temporary, 'PNG')


def write_image(path: str, image: np.ndarray) -> None:
    """Writes uint8 [H, W, 3] BGR in the format of the path's ending."""
    done, data = cv2.imencode(os.path.splitext(path)[1], image)
    if not done:
        raise ValueError(f'OpenCV cannot write {path}')
    with files.replacing(path) as temporary:
        data.tofile(temporary)


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
    """Images uint8 [H, W, 3] side by side in rows, `width` px in all; sizes may differ: cells are
    the first's. Raises ValueError where there are none."""
    if not images:
        raise ValueError('no images for a contact sheet')
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
    with files.replacing(path) as temporary:
        return _encode(temporary, frames, fps, os.path.abspath(path))


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


def read_frames(source: str | list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """(name, uint8 [H, W, 3] BGR) of every frame of a video file, of a folder of images in natural
    order, or of a list of image paths.

    Raises:
      FileNotFoundError: nothing there. ValueError: no frames, frames of several sizes, two files of
      one name, a video whose end cannot be decoded.
    """
    if isinstance(source, str) and not os.path.isdir(source):
        frames = _video_frames(_existing(source))
    else:
        paths = files.listed(source, IMAGE_ENDINGS) if isinstance(source, str) else source
        frames = ((files.stem(path), read_image(path)) for path in paths)
    shape = None
    for name, image in frames:
        shape = shape or image.shape
        if image.shape != shape:
            raise ValueError(
                f'frame {name} of {source} is {image.shape[1]}x{image.shape[0]}, the first '
                f'{shape[1]}x{shape[0]}'
            )
        yield name, image
    if shape is None:
        raise ValueError(
            f'{source} has no frames: expected a video or a folder of {", ".join(IMAGE_ENDINGS)}'
        )


def _video_frames(path):
    video = cv2.VideoCapture(path)
    try:
        expected, count = video.get(cv2.CAP_PROP_FRAME_COUNT), 0
        while True:
            more, image = video.read()
            if not more:
                break
            yield f'{count:05d}', image
            count += 1
    finally:
        video.release()
    if count and expected - count > max(2, LOST_FRAMES * expected):
        raise ValueError(
            f'{os.path.abspath(path)} should have {expected:.0f} frames, only {count} can be '
            'decoded: cut off or damaged?'
        )


def frame_rate(source: str) -> float:
    """Frames a second of a video file; 25 of a folder of images."""
    if os.path.isdir(source):
        return 25.0
    video = cv2.VideoCapture(_existing(source))
    rate = video.get(cv2.CAP_PROP_FPS)
    video.release()
    return rate if 1 <= rate <= 240 else 25.0
