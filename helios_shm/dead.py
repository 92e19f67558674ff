"""What L2 remembers for collection: which rows of a pack are dead, and when packs were written. Pure.

    dead   pack number -> parts, oldest first:   generation:8 size:4 bitmap[size] sum:8
    clock  one row of meta:                      {time:8 next pack:8} ... sum:8

A part holds from its generation on, until the next part's: a collection writes the parts of the next generation
beforehand, where nobody heeds them yet, and then lets all of them hold at one instant by raising the generation in
meta. A bitmap of no bytes says that the whole pack is dead. LMDB has no checksums, so both have their own.

An entry (t, n) of the clock says: the packs below n were written before t, and at t every writer was told to rely no
longer on what had been persisted by then (hs_drain_age). Entries thin out with their age, and only grow.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from typing_extensions import Buffer

from .errors import CorruptError
from .hashing import blake3

_PART = struct.Struct("<QI")  # generation, bytes of the bitmap
_SUM_SIZE = 8
_TICK = struct.Struct("<qQ")  # time in ns since the epoch, next pack

SECOND = 10**9
# A new row is left out only where L2 has one of a pack that is younger than this; writers rely on what is in the ring
# for as long. So what is written again comes to lie among the young, at most so much later.
HORIZON_NS = 30 * SECOND
TICK_NS = 5 * SECOND
# The clock's entries are at most this share of their age apart.
_THIN = 8


@dataclass(frozen=True, slots=True)
class Part:
    """From ``generation`` on these rows of a pack are dead; ``bitmap`` b"": all of them."""

    generation: int
    bitmap: bytes

    def has(self, row: int) -> bool:
        at = row >> 3
        return not self.bitmap or (at < len(self.bitmap) and bool(self.bitmap[at] >> (row & 7) & 1))


def parts_encode(number: int, parts: list[Part]) -> bytes:
    """The row of pack ``number`` in the database ``dead``."""
    data = b""
    for part in parts:
        body = _PART.pack(part.generation, len(part.bitmap)) + part.bitmap
        data += body + _sum(number, body)
    return data


def parts_decode(number: int, data: Buffer) -> list[Part]:
    """CorruptError for anything that ``parts_encode`` has not made for this pack."""
    value, at, parts = bytes(data), 0, []
    while at < len(value):
        if at + _PART.size + _SUM_SIZE > len(value):
            raise CorruptError(f"pack {number}: what L2 says of its dead rows is cut short")
        generation, size = _PART.unpack_from(value, at)
        end = at + _PART.size + size
        if value[end : end + _SUM_SIZE] != _sum(number, value[at:end]):
            raise CorruptError(f"pack {number}: what L2 says of its dead rows fails its checksum")
        parts.append(Part(generation, value[at + _PART.size : end]))
        at = end + _SUM_SIZE
    return parts


def part_at(parts: list[Part], generation: int) -> Part | None:
    """The part that holds at a generation."""
    holding = [part for part in parts if part.generation <= generation]
    return holding[-1] if holding else None


def _sum(number: int, body: bytes) -> bytes:
    return blake3(number.to_bytes(8, "big") + body)[:_SUM_SIZE]


@dataclass(frozen=True, slots=True)
class Clock:
    """When packs were written: (time in ns, next pack), rising in both."""

    ticks: tuple[tuple[int, int], ...] = ()

    def is_due(self, now: int) -> bool:
        return not self.ticks or not 0 <= now - self.ticks[-1][0] < TICK_NS

    def ticked(self, now: int, next_pack: int) -> Clock:
        """With an entry for now. Entries of a time that is yet to come, since the clock was set back, go."""
        ticks = [tick for tick in self.ticks if tick[0] < now]
        return Clock((*_thinned(ticks, now), (now, next_pack)))

    def young_from(self, since: int) -> int:
        """The first pack that may hold what was committed at ``since`` or later: behind it stands all that a commit
        of that time wrote or relied upon, but for what its own base holds."""
        at = self._at(since)
        return 1 if at is None else self._packs_at(at - HORIZON_NS)

    def recent_from(self, now: int) -> int | None:
        """The first of the packs that are surely younger than the horizon; None: of none it is sure."""
        recent = [number for time, number in self.ticks if now - HORIZON_NS <= time <= now]
        return recent[0] if recent else None

    def _at(self, time: int) -> int | None:
        """The last entry's time that is not above ``time``."""
        before = [tick for tick in self.ticks if tick[0] <= time]
        return before[-1][0] if before else None

    def _packs_at(self, time: int) -> int:
        before = [tick for tick in self.ticks if tick[0] <= time]
        return before[-1][1] if before else 1

    def encode(self) -> bytes:
        body = b"".join(_TICK.pack(*tick) for tick in self.ticks)
        return body + blake3(body)[:_SUM_SIZE]

    @staticmethod
    def decode(data: Buffer) -> Clock:
        """CorruptError for anything that ``encode`` has not made."""
        value = bytes(data)
        body, told = value[:-_SUM_SIZE], value[-_SUM_SIZE:]
        if len(body) % _TICK.size or blake3(body)[:_SUM_SIZE] != told:
            raise CorruptError("L2's clock of packs fails its checksum")
        return Clock(tuple((time, number) for time, number in _TICK.iter_unpack(body)))


def _thinned(ticks: list[tuple[int, int]], now: int) -> list[tuple[int, int]]:
    """The oldest of each span of time. Spans are the longer, by powers of two, the older they are, so that what is the
    oldest of one is the oldest of that part of it that was a span before."""
    kept: list[tuple[int, int]] = []
    for time, number in ticks:
        span = TICK_NS << max(0, ((now - time) // (_THIN * TICK_NS)).bit_length() - 1)
        if not kept or time // span != kept[-1][0] // span:
            kept.append((time, number))
    return kept
