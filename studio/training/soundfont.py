"""SoundFont files as bytes, made fit for tinysoundfont.

tinysoundfont reads no modulators. MuseScore's pianos rest behind a closed low-pass (300 Hz) that a modulator opens
with the key's velocity: unread, the piano is 30 dB too quiet and dull, and the louder key is the softer note. So
filters that a modulator would open are opened here (SoundFont 2.04, sections 7.4 to 8.4, for the layout).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

FILTER_CUTOFF = 8  # generators, and destinations of modulators
ENVELOPE_TO_CUTOFF = 11
OPEN_CENTS = 11_200  # 5.3 kHz: where a firmly struck key's modulators arrive
CLOSED_BELOW_CENTS = 9_000

_BAG = struct.Struct("<HH")  # first generator, first modulator
_GENERATOR = struct.Struct("<Hh")
_MODULATOR = struct.Struct("<HHhHH")  # source, destination, amount, amount's source, transform


def read_opened(path: Path) -> bytes:
    """The soundfont with its velocity-opened filters open."""
    font = bytearray(path.read_bytes())
    tables = dict(_tables(font))
    for generators, destinations in _zones(font, tables, b"ibag", b"igen", b"imod"):
        if FILTER_CUTOFF in destinations:
            _raise(font, generators)
    for generators, destinations in _zones(font, tables, b"pbag", b"pgen", b"pmod"):
        if ENVELOPE_TO_CUTOFF in destinations:
            _set(font, generators, ENVELOPE_TO_CUTOFF, 0)
    return bytes(font)


def _tables(font: bytearray) -> Iterator[tuple[bytes, range]]:
    """Name and byte range of each table of the preset data; sf3 files do not pad odd chunks."""
    for name, body in _chunks(font, 12, len(font)):
        if name == b"LIST" and font[body.start : body.start + 4] == b"pdta":
            yield from _chunks(font, body.start + 4, body.stop)


def _chunks(font: bytearray, start: int, stop: int) -> Iterator[tuple[bytes, range]]:
    while start + 8 <= stop:
        size = int.from_bytes(font[start + 4 : start + 8], "little")
        yield bytes(font[start : start + 4]), range(start + 8, start + 8 + size)
        start += 8 + size
        start += start < stop and font[start] == 0  # a padded file's pad byte


def _zones(
    font: bytearray, tables: dict[bytes, range], bag: bytes, generator: bytes, modulator: bytes
) -> Iterator[tuple[range, set[int]]]:
    """Of each zone, where its generators lie and which destinations its modulators have."""
    bags = [_BAG.unpack_from(font, at) for at in tables[bag][:: _BAG.size]]
    for (first, first_mod), (last, last_mod) in pairwise(bags):
        modulators = tables[modulator][first_mod * _MODULATOR.size : last_mod * _MODULATOR.size : _MODULATOR.size]
        destinations = {_MODULATOR.unpack_from(font, at)[1] for at in modulators}
        yield tables[generator][first * _GENERATOR.size : last * _GENERATOR.size : _GENERATOR.size], destinations


def _raise(font: bytearray, generators: range) -> None:
    for at in generators:
        kind, amount = _GENERATOR.unpack_from(font, at)
        if kind == FILTER_CUTOFF and amount < CLOSED_BELOW_CENTS:
            _GENERATOR.pack_into(font, at, kind, OPEN_CENTS)


def _set(font: bytearray, generators: range, wanted: int, value: int) -> None:
    for at in generators:
        if _GENERATOR.unpack_from(font, at)[0] == wanted:
            _GENERATOR.pack_into(font, at, wanted, value)
