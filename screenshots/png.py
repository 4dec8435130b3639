"""A PNG of a terminal has few colours: write it with a palette, at a quarter of the size."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from itertools import accumulate

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXEL = 4  # bytes: RGBA, as rsvg-convert writes
PALETTE = 256


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(SIGNATURE)
    while at < len(data):
        length, kind = struct.unpack_from("!I4s", data, at)
        yield kind, data[at + 8:at + 8 + length]
        at += 12 + length


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack("!I", len(body)) + kind + body + struct.pack("!I", zlib.crc32(kind + body))


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((abs(guess - left), 0, left), (abs(guess - up), 1, up),
               (abs(guess - corner), 2, corner))[2]


def _line(kind: int, line: bytes, above: bytes) -> bytes:
    """One line without its filter (PNG specification, 9.2)."""
    if kind == 0:
        return line
    if kind == 1:
        found = bytearray(len(line))
        for channel in range(PIXEL):
            sums: Iterator[int] = accumulate(line[channel::PIXEL], lambda a, b: a + b & 255)
            found[channel::PIXEL] = bytes(sums)
        return bytes(found)
    if kind == 2:
        return bytes(a + b & 255 for a, b in zip(line, above, strict=True))
    found = bytearray(line)
    for i, value in enumerate(line):
        left = found[i - PIXEL] if i >= PIXEL else 0
        corner = above[i - PIXEL] if i >= PIXEL else 0
        guess = (left + above[i]) // 2 if kind == 3 else _paeth(left, above[i], corner)
        found[i] = value + guess & 255
    return bytes(found)


def _pixels(data: bytes) -> tuple[int, int, list[bytes]]:
    """Width, height, lines of RGBA."""
    width = height = 0
    packed = b""
    for kind, body in _chunks(data):
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlaced = struct.unpack("!IIBBBBB", body)
            if (depth, colour, interlaced) != (8, 6, 0):
                raise ValueError("not 8-bit RGBA")
        elif kind == b"IDAT":
            packed += body
    raw, step = zlib.decompress(packed), width * PIXEL + 1
    above, lines = bytes(width * PIXEL), []
    for at in range(0, height * step, step):
        above = _line(raw[at], raw[at + 1:at + step], above)
        lines.append(above)
    return width, height, lines


def _palette(colours: dict[int, int]) -> dict[int, int]:
    """For every colour the one that stands for it: the most frequent of those that look the same.

    Rare hues stay: colours are alike by the upper half of each channel, not by how many there are.
    """
    alike: dict[int, list[int]] = {}
    for colour in sorted(colours, key=lambda c: -colours[c]):
        alike.setdefault(colour & 0xF0F0F0F0, []).append(colour)
    kept = [group[0] for group in alike.values()][:PALETTE]
    bodies = {colour: struct.pack("!I", colour) for colour in kept}

    def stand_in(colour: int) -> int:
        mine = struct.pack("!I", colour)
        return min(kept, key=lambda k: sum(
            (a - b) ** 2 for a, b in zip(mine, bodies[k], strict=True)))

    return {colour: group[0] if group[0] in bodies else stand_in(colour)
            for group in alike.values() for colour in group}


def shrink(data: bytes) -> bytes:
    """The same picture with at most 256 colours."""
    width, height, lines = _pixels(data)
    rows = [struct.unpack(f"!{width}I", line) for line in lines]
    colours: dict[int, int] = {}
    for row in rows:
        for colour in row:
            colours[colour] = colours.get(colour, 0) + 1
    shown = _palette(colours)
    kept = sorted(set(shown.values()))
    place = {colour: kept.index(stands) for colour, stands in shown.items()}
    palette = [struct.pack("!I", colour) for colour in kept]
    body = b"".join(b"\0" + bytes(place[colour] for colour in row) for row in rows)
    return b"".join((
        SIGNATURE, _chunk(b"IHDR", struct.pack("!IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        _chunk(b"PLTE", b"".join(c[:3] for c in palette)),
        _chunk(b"tRNS", bytes(c[3] for c in palette)),
        _chunk(b"IDAT", zlib.compress(body, 9)), _chunk(b"IEND", b"")))
