"""Reads and writes masks, images and clips: PNG with the DAVIS palette, overlays, contact sheets.

Masks are uint8 [H, W] of object ids: 0 background, 1.. objects, 255 void where a data set has it.
Files are written under a temporary name and moved, so that a killed program leaves none half
written.
"""

from __future__ import annotations

import functools
import io
import os
import shlex
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from . import files
from .lazy import Image, cv2, np

IMAGE_ENDINGS = ('.jpg', '.jpeg', '.png', '.bmp')
MOST_OBJECTS = 100  # ids above are grey values; DAVIS has 10 objects, YouTube-VOS 12
MOST_PIXELS = 2**26  # of an image; 8K video has half as many
MASK_FORMATS = ('PNG', 'BMP', 'GIF', 'TIFF', 'JPEG', 'WEBP')  # Pillow has others that run programs
PNG_START = b'\x89PNG\r\n\x1a\n'
FRAME_HEADERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # of JPEG (ITU T.81, table B.1)
PLAYLISTS = (b'#EXTM3U', b'ffconcat', b'<?xml', b'<MPD', b'v=0', b'[')  # that ffmpeg follows
LOST_FRAMES = 0.02  # of a video, that a container may count too many


@functools.lru_cache(maxsize=None)
def palette() -> np.ndarray:
    """The PASCAL VOC color map that DAVIS masks carry, uint8 [256, 3] of R, G, B: bit i of the id
    goes to bit 7 - i // 3 of channel i % 3."""
    ids = np.arange(256)
    colors = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        colors[:, bit % 3] |= (((ids >> bit) & 1) << (7 - bit // 3)).astype(np.uint8)
    return colors


GRABCUT_ROUNDS = 5  # of cv2.grabCut; more change nothing that shows


def read_image(path: str) -> np.ndarray:
    """An image as uint8 [H, W, 3] BGR.

    Raises:
      FileNotFoundError: no such file. ValueError: cut off or no image.
    """
    with files.reading(path):
        data = np.fromfile(_existing(path), np.uint8)
    jpeg = data[:2].tobytes() == b'\xff\xd8'
    if jpeg and b'\xff\xd9' not in data[-4096:].tobytes():  # OpenCV would fill the rest with grey
        raise ValueError(f'{os.path.abspath(path)} is cut off: a JPEG without its end marker')
    try:
        _check_size(data, path)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error as error:  # such as a header that asks for too many pixels
        raise ValueError(f'{os.path.abspath(path)} is no readable image: {error}') from None
    if image is None:
        raise ValueError(f'{os.path.abspath(path)} is no readable image ({data.size} bytes)')
    return image


def _check_size(data, path):
    """ValueError where an encoded image is of another kind than those that are read, or has more
    pixels than the memory should be filled with. By its header alone, in some microseconds."""
    start, place = data[:12].tobytes(), os.path.abspath(path)
    width = height = 0
    if start.startswith(b'\xff\xd8'):
        height, width = _jpeg_size(data)
    elif start.startswith(PNG_START):
        width, height = struct.unpack('>II', data[16:24].tobytes().ljust(8, b'\0'))
    elif start.startswith(b'BM'):
        width, height = struct.unpack('<ii', data[18:26].tobytes().ljust(8, b'\0'))
    elif start[:4] != b'RIFF' or start[8:] != b'WEBP':  # whose sides have 14 bits
        raise ValueError(
            f'{place} is no readable image ({data.size} bytes): expected JPEG, PNG, BMP or WebP'
        )
    if abs(width * height) > MOST_PIXELS:
        raise ValueError(
            f'{place} is no readable image: {width} x {height} pixels, more than {MOST_PIXELS}'
        )


def _jpeg_size(data):
    """(height, width) of a JPEG's first frame header, (0, 0) where there is none."""
    at = 2
    while at + 9 <= data.size:
        kind = int(data[at + 1])
        if data[at] != 0xFF or kind == 0xFF:
            at += 1
        elif kind in FRAME_HEADERS:
            return struct.unpack('>HH', data[at + 5 : at + 9].tobytes())
        elif 0xD0 <= kind <= 0xD8 or kind in (0, 1):  # markers without a segment
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4].tobytes(), 'big')
    return 0, 0


def _existing(path):
    if not os.path.isfile(path):
        raise FileNotFoundError(f'no such file: {os.path.abspath(path)}')
    return path


class Values(NamedTuple):
    """What a mask file stores, before anybody says what it means."""

    array: np.ndarray  # uint8 [H, W]
    indexed: bool  # indices of a palette, not grey levels


def read_values(path: str) -> Values:
    """The ids or grey levels of a mask file as they are stored.

    Args:
      path: of an indexed or grey image; one in colors is taken where all are of the DAVIS palette.

    Raises:
      FileNotFoundError: no such file. ValueError: cut off, no image, of 16 bits, in other colors.
    """
    image = _decode(path)
    if image.mode[0] in 'IF':  # PIL would clip ids above 255
        raise ValueError(f'{os.path.abspath(path)} has 16 or 32 bits, expected 8-bit ids')
    if image.mode == '1':
        return Values(np.array(image, np.uint8), False)
    if image.mode not in ('P', 'L'):
        return _from_colors(np.array(image.convert('RGB')), path)
    array = np.array(image, np.uint8)
    return Values(array, image.mode == 'P' and not _has_grey_palette(image, array))


def _has_grey_palette(image, array):
    """Whether all colors in use are the grey levels of their indices, as of a grey image that was
    saved with a palette."""
    palette = image.getpalette()
    colors = np.resize(np.array(palette, np.uint8), (len(palette) // 3, 3))
    grey = np.flatnonzero((colors == np.arange(len(colors))[:, None]).all(1))
    if grey.max(initial=0) == 0:  # as of the DAVIS palette: black alone is its index
        return bool(grey.size) and not array.any()
    return set(np.flatnonzero(image.histogram()).tolist()) <= set(grey.tolist())


def read_mask(path: str, void: bool = False) -> np.ndarray:
    """Object ids uint8 [H, W] of an indexed or grey mask file.

    A mask whose only value beside 0 is 255 shows one object, which becomes 1; with other ids in it
    255 is void and stays.

    Args:
      path: of the file, see read_values().
      void: 255 is void in any case, as in a frame of an id map that shows nothing else.

    Raises:
      FileNotFoundError, ValueError: as read_values(); grey levels between, which are no ids.
    """
    mask, indexed = read_values(path)
    whites = cv2.threshold(mask, 254, 1, cv2.THRESH_BINARY)[1]  # a tenth of numpy's time
    white_pixels = cv2.countNonZero(whites)
    if not void and white_pixels == cv2.countNonZero(mask):
        return whites
    if white_pixels and not indexed:
        levels = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)[:255])
        if levels.max(initial=0) > MOST_OBJECTS:
            raise ValueError(
                f'{os.path.abspath(path)} has grey levels up to {levels[-1]} beside 255: a soft or '
                f'JPEG-compressed mask, no object ids. {_how_to_threshold(path)}'
            )
    return mask


def _how_to_threshold(path):
    return (
        'Make it 0 and 255: python -c "import sys; from PIL import Image; '
        "Image.open(sys.argv[1]).convert('L').point(lambda v: 255 * (v > 127)).save('mask.png')\" "
        + shlex.quote(path)
    )


def _how_to_number_colors(path):
    return (
        'Give every color a number, the commonest 0: python -c "import sys; import numpy as np; '
        "from PIL import Image; x = np.array(Image.open(sys.argv[1]).convert('RGB')); "
        '_, ids, n = np.unique(x.reshape(-1, 3), axis=0, return_inverse=True, return_counts=True); '
        'ids = np.argsort(np.argsort(-n))[ids]; assert len(n) < 100, len(n); '
        "Image.fromarray(ids.reshape(x.shape[:2]).astype('uint8')).save('mask.png')\" "
        + shlex.quote(path)
    )


def _check_sums(data):
    """ValueError where a PNG's chunk does not have its check sum: Pillow looks at some alone."""
    at = len(PNG_START)
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], 'big')
        end = at + 8 + size
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], 'big'):
            raise ValueError(f'byte {at}: a chunk with a wrong check sum')
        at, kind = end + 4, data[at + 4 : at + 8]
        if kind == b'IEND':
            return
    raise ValueError('it breaks off')


def _decode(path):
    with files.reading(path), open(_existing(path), 'rb') as f:
        data = f.read()
    try:
        with Image.open(io.BytesIO(data), formats=MASK_FORMATS) as image:
            if image.size[0] * image.size[1] > MOST_PIXELS:
                raise ValueError(f'{image.size} pixels, expected {MOST_PIXELS} at most')
            if image.format == 'PNG':
                _check_sums(data)
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
        LookupError,
        TypeError,
        OverflowError,
        AttributeError,
        MemoryError,
        Image.DecompressionBombError,
    ) as error:  # what Pillow raises on damaged files
        text = str(error) or repr(error)
        raise ValueError(f'{os.path.abspath(path)} is no readable mask: {text[:200]}') from None


def _from_colors(image, path):
    grey = np.ascontiguousarray(image[..., 0])
    if np.array_equal(grey, image[..., 1]) and np.array_equal(grey, image[..., 2]):
        return Values(grey, False)
    codes = np.zeros(grey.shape, np.int32)
    for channel in range(3):
        codes <<= 8
        codes |= image[..., channel]
    colors = palette()[: MOST_OBJECTS + 1].astype(np.int32)
    known = {int(code): number for number, code in enumerate(colors @ (65536, 256, 1))}
    found = np.unique(codes)
    if not set(found.tolist()) <= set(known):
        raise ValueError(
            f'{os.path.abspath(path)} has {len(found)} colors that are not all of the DAVIS '
            'palette, expected a mask of object ids: 0 background and 1, 2, ... objects, or 0 and '
            f'255. {_how_to_number_colors(path)}'
        )
    numbers = np.array([known[int(code)] for code in found], np.uint8)
    return Values(numbers[np.searchsorted(found, codes)], True)


def shows_ids(path: str) -> bool:
    """Whether a mask file is an id map: some value is neither 0 nor 255. With the first annotation
    of a sequence this tells whether 255 is void in all of them. Raises as read_values()."""
    array = read_values(path).array
    return bool(((array > 0) & (array < 255)).any())


def first_mask(path: str, shape: tuple[int, int]) -> np.ndarray:
    """The mask of a user's first frame: ids uint8 [H, W], 1.. objects, void as background.

    The one check of what a user gives, for every network: an indexed image, a grey one of 0 and
    255, or a grey one of ids 1, 2, ... N.

    Args:
      path: of the mask.
      shape: (H, W) of the frames.

    Raises:
      FileNotFoundError, ValueError: as read_mask(); another size; no object; grey levels that are
      no ids.
    """
    ids = read_mask(path)
    if ids.shape != tuple(shape):
        raise ValueError(
            f'{os.path.abspath(path)} is {ids.shape[1]}x{ids.shape[0]}, the frames are '
            f'{shape[1]}x{shape[0]}; the mask must have their size'
        )
    ids = np.where(ids == 255, 0, ids).astype(np.uint8)
    numbers = [int(n) for n in np.unique(ids) if n]
    if not numbers:
        raise ValueError(f'{os.path.abspath(path)} marks no object: all pixels are 0 or void')
    if numbers == list(range(1, len(numbers) + 1)) and len(numbers) <= MOST_OBJECTS:
        return ids
    if not read_values(path).indexed or len(numbers) > MOST_OBJECTS:
        raise ValueError(
            f'{os.path.abspath(path)} has {len(numbers)} values {numbers[:8]}, expected ids 1, 2, '
            f'... or 0 and 255: a soft or JPEG-compressed mask? {_how_to_threshold(path)}'
        )
    print(f'{path}: the objects have the ids {numbers}', flush=True)
    return ids


def checked_ids(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A first mask that is an array, checked as first_mask() checks a file: ids uint8 [H, W], void
    as background.

    Args:
      mask: bool, or whole numbers: ids 1, 2, ..., or 0 and 255.
      shape: (H, W) of the frames.

    Raises:
      ValueError: another shape; no object; what are no ids.
    """
    mask = np.asarray(mask)
    if mask.shape != tuple(shape):
        raise ValueError(f'the first mask is {list(mask.shape)}, the frames are {list(shape)}')
    if mask.dtype.kind not in 'bui':
        raise ValueError(f'the first mask is {mask.dtype}, expected bool or uint8 ids')
    numbers = set(np.unique(mask).astype(int).tolist()) - {0}
    if numbers == {255}:
        return (mask == 255).astype(np.uint8)
    numbers -= {255}
    if not numbers or not 1 <= min(numbers) <= max(numbers) < 255 or len(numbers) > MOST_OBJECTS:
        raise ValueError(
            f'the first mask has the values {sorted(numbers)[:8]}, expected ids 1, 2, ... (0: '
            'background), or 0 and 255'
        )
    return np.where(mask == 255, 0, mask).astype(np.uint8)


def parse_box(text: str) -> tuple[float, float, float, float]:
    """x, y, width, height of 'x,y,width,height', px; ValueError where it is none."""
    try:
        x, y, width, height = (float(value) for value in text.split(','))
    except ValueError:
        raise ValueError(f'--box={text}: expected x,y,width,height in px') from None
    if not (np.isfinite([x, y, width, height]).all() and width > 0 and height > 0):
        raise ValueError(f'--box={text}: width and height must be above 0')
    return x, y, width, height


def mask_of_boxes(image: np.ndarray, boxes: list[tuple]) -> np.ndarray:
    """A first mask from boxes, by GrabCut (Rother et al. 2004; cv2.grabCut): ids uint8 [H, W] in
    the order of the boxes. Where boxes overlap, the later object is in front.

    Args:
      image: uint8 [H, W, 3] BGR.
      boxes: (x, y, width, height) px, around an object with a little of what surrounds it.

    Raises:
      ValueError: a box that is not inside the image, or in which no object is found.
    """
    rows, columns = image.shape[:2]
    ids = np.zeros((rows, columns), np.uint8)
    for number, (x, y, width, height) in enumerate(boxes, 1):
        left, top = max(0, int(round(x))), max(0, int(round(y)))
        right = min(columns, int(round(x + width)))
        bottom = min(rows, int(round(y + height)))
        if right - left < 2 or bottom - top < 2:
            raise ValueError(
                f'box {number} ({x:g}, {y:g}, {width:g}, {height:g}) has no area in an image of '
                f'{columns}x{rows}'
            )
        labels = np.full((rows, columns), cv2.GC_BGD, np.uint8)
        labels[top:bottom, left:right] = cv2.GC_PR_FGD
        if (labels == cv2.GC_BGD).any():
            cv2.setRNGSeed(0)  # its mixtures of colors start from drawn centres
            models = np.zeros((2, 1, 65))
            cv2.grabCut(image, labels, None, *models, GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK)
        inside = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
        if not inside.any():
            raise ValueError(f'no object was found in box {number}: a larger box, or --mask?')
        ids[inside] = number
    return ids


def check_files(images: list[str], masks: list[str]) -> None:
    """Decodes files, every one: what --check_data=all asks for.

    Raises:
      ValueError: how many cannot be decoded, and the first three.
    """
    faults = []
    for read, paths in ((read_image, images), (read_values, masks)):
        for path in paths:
            try:
                read(path)
            except (OSError, ValueError) as error:
                faults.append(str(error))
    if faults:
        count = len(images) + len(masks)
        raise ValueError(f'{len(faults)} of {count} files are damaged: {"; ".join(faults[:3])}')


def write_mask(path: str, mask: np.ndarray) -> None:
    """Writes uint8 [H, W] ids as an indexed PNG with the DAVIS palette."""
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise ValueError(f'a mask is uint8 [H, W], not {mask.dtype} {list(mask.shape)}')
    image = Image.fromarray(mask)
    image.putpalette(palette().ravel().tolist())
    with files.replacing(path) as temporary:
        image.save(temporary, 'PNG')


def write_image(path: str, image: np.ndarray) -> None:
    """Writes uint8 [H, W, 3] BGR in the format of the path's ending."""
    done, data = cv2.imencode(os.path.splitext(path)[1], image)
    if not done:
        raise ValueError(f'OpenCV cannot write {path}')
    with files.replacing(path) as temporary, open(temporary, 'wb') as f:
        f.write(data)  # tofile() says nothing of a full disk


def overlay(
    image: np.ndarray, mask: np.ndarray, alpha: float = 0.5, contour: bool = True
) -> np.ndarray:
    """Colors the objects of a frame and draws their outlines.

    Args:
      image: uint8 [H, W, 3] BGR.
      mask: uint8 [H, W] ids; 255 is not drawn.
      alpha: 0 .. 1, share of the color.
      contour: whether to draw the outlines.

    Returns:
      uint8 [H, W, 3] BGR, a new array.

    Raises:
      ValueError: image and mask of different sizes.
    """
    if image.shape[:2] != mask.shape:
        raise ValueError(f'mask {list(mask.shape)} does not fit image {list(image.shape)}')
    table = np.ascontiguousarray(palette()[None, :, ::-1])
    colors = cv2.LUT(cv2.merge([mask, mask, mask]), table)
    inside = cv2.inRange(mask, 1, 254)
    mixed = cv2.copyTo(cv2.addWeighted(image, 1 - alpha, colors, alpha, 0), inside, image.copy())
    numbers = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)[:255])
    for number in numbers[numbers > 0] if contour else ():
        outlines = cv2.findContours(
            (mask == number).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )[-2]
        cv2.drawContours(mixed, outlines, -1, palette()[number, ::-1].tolist(), 2)
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
    """Writes uint8 [H, W, 3] BGR frames as MP4; returns their number.

    H.264, which browsers play, where the system has ffmpeg with libx264; else MPEG-4 part 2, which
    players do.

    Raises:
      OSError: OpenCV cannot write the file. ValueError: no frames, or frames of several sizes.
    """
    path.encode()  # OpenCV crashes on bytes that are no UTF-8: an error here
    with files.replacing(path) as temporary:
        count = _encode(temporary, frames, fps, os.path.abspath(path))
        _as_h264(temporary, count)
    return count


def _as_h264(path, count):
    """Encodes a video again where ffmpeg is there; where it fails the video stays as it is."""
    program = shutil.which('ffmpeg')
    if program is None:
        return
    with files.replacing(path) as temporary:
        shutil.copyfile(path, temporary)  # what is left where ffmpeg writes nothing of use
        even = 'pad=ceil(iw/2)*2:ceil(ih/2)*2'  # H.264 has no odd sizes
        options = ['-c:v', 'libx264', '-crf', '18', '-pix_fmt', 'yuv420p', '-vf', even]
        options += ['-movflags', '+faststart', '-loglevel', 'error', '-y']
        coded = f'{temporary}.h264.mp4'
        try:
            command = [program, '-nostdin', '-i', temporary, *options, coded]
            done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if done.returncode == 0 and os.path.isfile(coded) and _frame_count(coded) >= count:
                os.replace(coded, temporary)
        finally:
            if os.path.exists(coded):
                os.remove(coded)


def _frame_count(path):
    video = cv2.VideoCapture(path)
    count = video.get(cv2.CAP_PROP_FRAME_COUNT)
    video.release()
    return count


def write_animation(path: str, frames: list[np.ndarray], fps: float) -> None:
    """Writes uint8 [H, W, 3] BGR frames as an endless .webp or .gif, as wide as they are."""
    images = [Image.fromarray(np.ascontiguousarray(frame[..., ::-1])) for frame in frames]
    with files.replacing(path) as temporary:
        images[0].save(
            temporary, save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0
        )


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
    written = _frame_count(temporary)  # OpenCV's writer says nothing of a full disk
    if written < count:
        raise OSError(f'{path} has {written:.0f} of {count} frames: OpenCV failed, or a full disk')
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


def _open_video(path):
    """An open cv2.VideoCapture; ValueError of a playlist, which would have ffmpeg open other files
    and addresses."""
    with open(path, 'rb') as f:
        start = f.read(4096)
    if b'\0' not in start or start.lstrip().startswith(PLAYLISTS):
        raise ValueError(f'{os.path.abspath(path)} is no readable video: a text, or a playlist')
    path.encode()  # OpenCV crashes on bytes that are no UTF-8: an error here
    return cv2.VideoCapture(os.path.abspath(path))  # a relative one may look like an address


def _video_frames(path):
    video = _open_video(path)
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
    video = _open_video(_existing(source))
    rate = video.get(cv2.CAP_PROP_FPS)
    video.release()
    return rate if 1 <= rate <= 240 else 25.0
