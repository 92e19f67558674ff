"""The commit record's bytes, the same in the ring and in L2's log: csrc/hs_record.h draws them."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from .errors import CorruptError

# csrc/hs_record.h: type, version, flags, name size, 0, message size, metadata size | root, incarnation | parent word,
# serial, sequence | time, latency, new bytes, reused bytes | new nodes, changed keys, retries, 0 | parent, second
# parent
RECORD = struct.Struct("<BBHHHII 32sQ QQQ qQQQ IIII 32s32s")
RECORD_ROOT = slice(16, 48)
RECORD_BASE = slice(16, 56)
RECORD_TIME = slice(80, 88)
RECORD_PARENT = slice(128, 160)
DELETED, HAS_PARENT, HAS_SECOND, RESTORED = 1, 2, 4, 8
# Single fields of a record that the core has found whole, for paths on which RecordHead costs too much.
_FLAGS_AT = 2
_NAME_SIZE = slice(4, 6)
_SERIAL = slice(64, 72)
_SEQUENCE = slice(72, 80)
_SECOND = slice(RECORD.size - 32, RECORD.size)
_CHANGED_KEYS = 17  # which of the fields


@dataclass(frozen=True, slots=True)
class RecordHead:
    """The fields of a commit record that branches walk by."""

    deleted: bool
    name: str
    root: bytes
    incarnation: int
    parent_word: int
    serial: int
    sequence: int
    time_ns: int


def record_text(data: bytes, what: str) -> str:
    """Text out of a record. The core checks a record's sizes, and leaves it to us whether its text is text.
    CorruptError."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise CorruptError(f"the {what} of a commit record is no UTF-8: {error}") from None


def record_head(record: bytes) -> RecordHead:
    """Decode what a walk along a branch needs of a record. CorruptError."""
    if len(record) < RECORD.size:
        raise CorruptError(f"a commit record of {len(record)} bytes is cut short")
    fields = RECORD.unpack_from(record)
    name = record_text(record[RECORD.size : RECORD.size + fields[3]], "branch name")
    return RecordHead(
        deleted=bool(fields[2] & DELETED),
        name=name,
        root=fields[7],
        incarnation=fields[8],
        parent_word=fields[9],
        serial=fields[10],
        sequence=fields[11],
        time_ns=fields[12],
    )


def is_deleted(record: bytes) -> bool:
    """Does this record say that its branch was deleted?"""
    return bool(record[_FLAGS_AT] & DELETED)


def is_restored(record: bytes) -> bool:
    """Was this record made by moving the head to a state, rather than by edits?"""
    return bool(record[_FLAGS_AT] & RESTORED)


def parent_root(record: bytes) -> bytes | None:
    """The root of the head before this record; None: there was none."""
    return record[RECORD_PARENT] if record[_FLAGS_AT] & HAS_PARENT else None


def sequence_of(record: bytes) -> int:
    return int.from_bytes(record[_SEQUENCE], "little")


def roots_of(record: bytes) -> tuple[bytes, ...]:
    """The root of a commit, and of its second parent if it is a merge."""
    return (
        (record[RECORD_ROOT], record[_SECOND]) if record[_FLAGS_AT] & HAS_SECOND else (record[RECORD_ROOT],)
    )


def began_empty(record: bytes) -> bool:
    """Was a branch's first commit made of the empty state, by edits or by a merge?"""
    return bool(record[_FLAGS_AT] & HAS_SECOND) or RECORD.unpack_from(record)[_CHANGED_KEYS] > 0


def serial_of(record: bytes) -> int:
    return int.from_bytes(record[_SERIAL], "little")


def is_of(record: bytes, name: bytes) -> bool:
    """Is it a record of the branch of this name?"""
    size = int.from_bytes(record[_NAME_SIZE], "little")
    return record[RECORD.size : RECORD.size + size] == name
