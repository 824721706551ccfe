"""Damages that test/soak/inputs.py does to files: bytes, values of JSON, lines of text, the insides
of zips and PNGs with right check sums around them. Every function takes a random.Random and changes
nothing that it is given.
"""

from __future__ import annotations

import copy
import io
import json
import random
import struct
import zipfile
import zlib

HEAD = 200  # bytes of a file, in which half of the damages lie: its header
SIZES = (1, 2, 4, 8)  # bytes of a number in a header
NUMBERS = (
    0, 1, -1, 127, 128, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1,
)  # fmt: skip
VALUES = (
    None, True, False, -1, 0, 1, 3, 2**31, 10**30, -(10**30), 0.5, -0.5, 1e308, float('nan'),
    float('inf'), '', 'x', '1', '..', '../x', '/etc/passwd', 'a\0b', '\udc80', 'é' * 300, [], {},
    [[]], [None], [1, 2], [1, 2, 3, 4], {'x': 1}, [float('nan')] * 4, [10**30] * 4, ['x'] * 4,
)  # fmt: skip
WORDS = (
    b'', b'nan', b'inf', b'-inf', b'1e400', b'-1', b'0', b'99999999999999999999', b',', b',,,,',
    b'x', b'..', b'../../x', b'/etc/passwd', b'\0', b'\xff\xfe', b'a b', b'\xe2\x80\xa8',
    b'1' * 5000, b'"',
)  # fmt: skip


def damage_bytes(data: bytes, draw: random.Random) -> bytes:
    """One to three damages of a file's bytes."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        data = draw.choice(DAMAGES)(data, draw)
    return data


def _position(data, draw):
    if not data:
        return 0
    return draw.randrange(min(len(data), HEAD) if draw.random() < 0.5 else len(data))


def _put(data, at, new):
    return data[:at] + new + data[at + len(new) :]


def _flip(data, draw):
    if not data:
        return data
    at = _position(data, draw)
    return _put(data, at, bytes([data[at] ^ (1 << draw.randrange(8))]))


def _number(data, draw):
    size, number = draw.choice(SIZES), draw.choice(NUMBERS)
    number %= 1 << (8 * size)
    return _put(data, _position(data, draw), number.to_bytes(size, draw.choice(('little', 'big'))))


def _cut_off(data, draw):
    return data[: _position(data, draw)]


def _leave_out(data, draw):
    at = _position(data, draw)
    return data[:at] + data[at + draw.choice((1, 2, 4, 16, 100, 1000)) :]


def _repeat(data, draw):
    at = _position(data, draw)
    return data[:at] + data[at : at + draw.choice((1, 4, 16, 100, 1000))] + data[at:]


def _insert(data, draw):
    at, count = _position(data, draw), draw.choice((1, 4, 30))
    return data[:at] + bytes(draw.randrange(256) for _ in range(count)) + data[at:]


def _splice(data, draw):
    start = _position(data, draw)
    return _put(data, _position(data, draw), data[start : start + draw.choice((4, 16, 100, 1000))])


DAMAGES = (_flip, _flip, _number, _number, _cut_off, _leave_out, _repeat, _insert, _splice)


def damage_json(data: bytes, draw: random.Random) -> bytes:
    """One or two damages of the values of a JSON text; at times of its bytes, or its depth."""
    if draw.random() < 0.2:
        return damage_bytes(data, draw)
    if draw.random() < 0.02:
        depth = draw.choice((100, 100_000))
        return b'[' * depth + data + b']' * depth
    tree = json.loads(data)
    for _ in range(draw.choice((1, 1, 2))):
        tree = _damage_value(tree, draw)
    text = json.dumps(tree)
    if draw.random() < 0.05 and '{"' in text:  # a key twice
        at = text.index('{"')
        text = f'{text[: at + 1]}{text[at + 1 :].split(",")[0].rstrip("}]")},{text[at + 1 :]}'
    return text.encode('utf-8', 'surrogatepass')


def _places(tree):
    """(container, key) of every value below `tree`."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield tree, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


def _damage_value(tree, draw):
    tree = copy.deepcopy(tree)
    places = list(_places(tree)) if isinstance(tree, (dict, list)) else []
    if not places or draw.random() < 0.02:
        return copy.deepcopy(draw.choice(VALUES))
    container, key = draw.choice(places)
    kind = draw.random()
    if kind < 0.6:
        container[key] = copy.deepcopy(draw.choice(VALUES))
    elif kind < 0.8:
        del container[key]
    elif kind < 0.9:
        other, second = draw.choice(places)
        container[key] = copy.deepcopy(other[second])
    elif isinstance(container, list):
        container.insert(key, copy.deepcopy(container[key]))
    else:
        container[draw.choice(('x', '..', '../x', '-1', str(key) + ' '))] = container[key]
    return tree


def damage_lines(data: bytes, draw: random.Random) -> bytes:
    """One or two damages of the words and lines of a text; at times of its bytes."""
    if draw.random() < 0.2:
        return damage_bytes(data, draw)
    lines = data.split(b'\n')
    for _ in range(draw.choice((1, 1, 2))):
        at, kind = draw.randrange(len(lines)), draw.random()
        if kind < 0.2 and len(lines) > 1:
            del lines[at]
        elif kind < 0.4:
            lines.insert(at, lines[draw.randrange(len(lines))])
        elif kind < 0.6:
            lines[at] = draw.choice(WORDS)
        else:
            mark = b',' if b',' in lines[at] else b' '
            words = lines[at].split(mark)
            words[draw.randrange(len(words))] = draw.choice(WORDS)
            lines[at] = mark.join(words)
    return b'\n'.join(lines)


def damage_zip(data: bytes, draw: random.Random) -> bytes:
    """Damages one member of a zip, and writes the zip anew with right check sums."""
    source = zipfile.ZipFile(io.BytesIO(data))
    chosen, out = draw.choice(source.namelist()), io.BytesIO()
    with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name in source.namelist():
            content = source.read(name)
            archive.writestr(name, damage_bytes(content, draw) if name == chosen else content)
    return out.getvalue()


def chunks(data: bytes) -> list:
    """[(type, content)] of a PNG."""
    found, at = [], 8
    while at + 8 <= len(data):
        size, kind = struct.unpack('>I4s', data[at : at + 8])
        found.append((kind, data[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def png(parts: list) -> bytes:
    """A PNG of [(type, content)]."""
    out = b'\x89PNG\r\n\x1a\n'
    for kind, content in parts:
        check = zlib.crc32(kind + content)
        out += struct.pack('>I', len(content)) + kind + content + struct.pack('>I', check)
    return out


def damage_png(data: bytes, draw: random.Random) -> bytes:
    """Damages one chunk of a PNG, leaves it out or doubles it, and writes right check sums."""
    parts = chunks(data)
    at, kind = draw.randrange(len(parts)), draw.random()
    if kind < 0.7:
        parts[at] = (parts[at][0], damage_bytes(parts[at][1], draw))
    elif kind < 0.85:
        del parts[at]
    else:
        parts.insert(draw.randrange(len(parts)), parts[at])
    return png(parts)
