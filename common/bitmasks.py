"""J and F of one object in one frame, with every mask as one integer, a bit a pixel.

The same numbers as davis2017-evaluation, to the last bit: outlines are exclusive ors of shifted
integers, the tolerance disk is a union of shifted rows, counts are population counts.
"""

from __future__ import annotations

from .lazy import cv2, np

TOLERANCE = 0.008  # of the image diagonal: how far outlines may be apart (official bound_th)


def frame_scores(annotation: np.ndarray, segmentation: np.ndarray) -> tuple[float, float]:
    """(J, F) of one object in one frame: uint8 [H, W] masks, 0 on the background."""
    height, width = annotation.shape
    x, y, columns, rows = cv2.boundingRect(annotation | segmentation)
    if not columns:
        return 1.0, 1.0
    radius = int(np.ceil(TOLERANCE * (height * height + width * width) ** 0.5))
    crop = (slice(max(y - 1, 0), y + rows + 1), slice(max(x - 1, 0), x + columns + 1))
    rows, columns = annotation[crop].shape
    stride = -(-(columns + radius) // 8)  # bytes of a row: what grows over its end meets no other
    truth, result = (_integer(mask[crop], stride) for mask in (annotation, segmentation))
    j = _count(truth & result) / _count(truth | result)
    lines = [_outline(mask, rows, columns, stride) for mask in (truth, result)]
    of_truth, of_result = map(_count, lines)
    if not of_truth or not of_result:
        return j, float(of_truth == of_result)
    near_truth, near_result = (_dilate(line, radius, 8 * stride) for line in lines)
    precision = _count(lines[1] & near_truth) / of_result
    recall = _count(lines[0] & near_result) / of_truth
    return j, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _integer(mask, stride):
    """Pixel (y, x) of uint8 [H, W] is bit 8 * stride * y + x."""
    packed = np.packbits(mask, axis=1, bitorder='little')
    padded = np.zeros((len(packed), stride), np.uint8)
    padded[:, : packed.shape[1]] = packed
    return int.from_bytes(padded.tobytes(), 'little')


def _count(bits):
    data = bits.to_bytes(-(-bits.bit_length() // 8), 'little')
    return int(cv2.norm(np.frombuffer(data, np.uint8), cv2.NORM_HAMMING)) if data else 0


def _outline(mask, rows, columns, stride):
    """Pixels that differ from their right, lower or lower right neighbor; the border repeats
    itself."""
    inside, last_column = (
        int.from_bytes(row.to_bytes(stride, 'little') * rows, 'little')
        for row in ((1 << columns) - 1, 1 << (columns - 1))
    )
    above = 8 * stride * (rows - 1)
    lower = mask >> (8 * stride) | mask >> above << above
    right = mask >> 1 | mask & last_column
    lower_right = lower >> 1 | lower & last_column
    return (mask ^ right | mask ^ lower | mask ^ lower_right) & inside


def _dilate(bits, radius, stride):
    """All pixels within `radius` of a set one, by the disk dx^2 + dy^2 <= radius^2; `stride` bits a
    row."""
    grown, half, result = bits, 0, 0
    for dy in range(radius, -1, -1):
        wanted = int((radius**2 - dy**2) ** 0.5)
        while half < wanted:  # runs of 2 half + 1 px, shifted by so much, leave no gap
            pixels = min(wanted - half, 2 * half + 1)
            grown |= grown << pixels | grown >> pixels
            half += pixels
        result |= grown << dy * stride | grown >> dy * stride
    return result
