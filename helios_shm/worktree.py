"""What a directory was known to hold: the index that makes ``ingest`` and ``materialize`` work by delta.

    worktrees/<id>    header, key | rows, 88 bytes each | paths, a 0 behind each | the directory's path | BLAKE3 of all

One file for each directory, in the store that it was filled from; ``id`` is of the directory's device, inode and
path. It saves time and says which files ``materialize`` wrote; it may always be deleted. A row is believed only as
far as the file still has the size, times and inode that stand there; what changed in the clock tick in which it
was looked at is written with the time 0, which no file has, so that its bytes are looked at next time. Whoever
writes last wins: rows of another's work do not fit the files, and are not believed.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from .blobs import replace_file
from .hashing import blake3
from .store import StorePaths

STAT_SIZE = 48
WROTE = 1  # an earlier materialize made it
CHECKED = 4  # the key stands for it: see Key
PENDING = 2  # one was about to make it, or to put another in its place, whose id this is

_MAGIC, _VERSION = b"HlioWTR1", 1
# magic, version, size of the directory's path, device, inode, rows, size of their paths, key, entries, mtime and ctime
_HEADER = struct.Struct("<8sIIQQQQ32sQqq")
_ROW = struct.Struct("<48s32sQ")
ROW_SIZE = _ROW.size
_TIMES = struct.Struct("<qq")
_TIMES_AT, _KIND_AT = 8, 40
_HASH_SIZE = 32
_FLAGS = [flags.to_bytes(8, "little") for flags in range(8)]
_SECOND = 1_000_000_000
# Indexes of directories that are gone are looked for when there are more than so many.
_FILES_MANY = 256


class Row(NamedTuple):
    """What a path was when it was last looked at, and the id of its bytes."""

    stat: bytes
    id: bytes
    flags: int

    @property
    def kind(self) -> int:
        return self.stat[_KIND_AT]

    @property
    def size(self) -> int:
        return int.from_bytes(self.stat[:8], "little")


def settled(stat: bytes, now_ns: int) -> bool:
    """Would whoever changes a file after ``now_ns`` leave other times than these? A file system that keeps whole
    seconds may keep every second one only."""
    mtime, ctime = _TIMES.unpack_from(stat, _TIMES_AT)
    slack = 2 * _SECOND if mtime % _SECOND == 0 == ctime % _SECOND else 0
    return bool(max(mtime, ctime) + slack < now_ns)


def unsettled(stat: bytes) -> bytes:
    """The same, as no file can be."""
    return stat[:_TIMES_AT] + bytes(_TIMES.size) + stat[_TIMES_AT + _TIMES.size :]


def stat_of_nothing(kind: int) -> bytes:
    """What stands for a file that was not looked at."""
    return bytes(_KIND_AT) + kind.to_bytes(8, "little")


class Key(NamedTuple):
    """What was found to be so of a directory: by whom, of which state, with which options (``name``, a hash), and how
    many entries it has. It is so as long as all rows with the flag CHECKED are true, and the directory itself has
    these times, if they are not 0."""

    name: bytes
    entries: int
    mtime_ns: int
    ctime_ns: int


NO_KEY = Key(bytes(_HASH_SIZE), 0, 0, 0)


class Worktree:
    """The index of one directory."""

    __slots__ = (
        "_data",
        "_names_at",
        "_place_at",
        "_rows",
        "_status",
        "_writable",
        "directory",
        "key",
        "path",
    )

    _rows: dict[str, Row] | None  # None: not unpacked yet

    def __init__(self, store: StorePaths, directory: str, status: os.stat_result, *, writable: bool) -> None:
        """That of an open directory, without rows if there is none that can be used."""
        self.directory, self._status, self._writable = directory, status, writable
        name = os.fsencode(directory)
        self.path = store.worktrees / _index_name(status.st_dev, status.st_ino, name)
        self.key = NO_KEY
        self._data, self._rows, self._names_at, self._place_at = b"", {}, 0, 0
        with contextlib.suppress(OSError):
            data = self.path.read_bytes()
            found = _parse(data)
            if found is not None and found[0] == (status.st_dev, status.st_ino, name):
                _, self.key, self._names_at, self._place_at = found
                self._data, self._rows = data, None

    @property
    def rows(self) -> dict[str, Row]:
        """Path to row, as they were on disk."""
        if self._rows is None:
            self._rows = _rows_of(self._data, self._names_at, self._place_at)
        return self._rows

    @property
    def times(self) -> tuple[int, int]:
        """The directory's own, mtime and ctime, as they were when it was opened."""
        return self._status.st_mtime_ns, self._status.st_ctime_ns

    def says(self, key: bytes) -> tuple[memoryview, memoryview] | None:
        """Rows and paths to be checked if this key is to stand; None: it does not."""
        found = self.key
        if found.name != key or (found.mtime_ns and (found.mtime_ns, found.ctime_ns) != self.times):
            return None
        view = memoryview(self._data)
        return view[_HEADER.size : self._names_at], view[self._names_at : self._place_at]

    def save(self, rows: Mapping[str, Row], key: Key = NO_KEY) -> None:
        """Put rows on disk in the place of those there. Best effort: without them, the next time takes longer."""
        if not self._writable:
            return
        names = "\0".join([*rows, ""]).encode("utf-8", "surrogateescape")
        place, status = os.fsencode(self.directory), self._status
        device, inode = status.st_dev, status.st_ino
        body = b"".join(
            [
                _HEADER.pack(_MAGIC, _VERSION, len(place), device, inode, len(rows), len(names), *key),
                *chain.from_iterable((stat, id, _FLAGS[flags]) for stat, id, flags in rows.values()),
                names,
                place,
            ]
        )
        with contextlib.suppress(OSError):
            self._replace(body + blake3(body))

    def _replace(self, data: bytes) -> None:
        parent = self.path.parent
        if not self.path.exists():
            _make_directory(parent)
            _drop_stale(parent)
        replace_file(self.path, data)


def _make_directory(path: Path) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
        os.chmod(path, 0o700)  # whatever the umask says


def _index_name(device: int, inode: int, place: bytes) -> str:
    return blake3(struct.pack("<QQ", device, inode) + place).hex()[:32]


def _parse(data: bytes) -> tuple[tuple[int, int, bytes], Key, int, int] | None:
    """Which directory an index is of, its key, and where paths begin and end; None: damaged, or another version's."""
    if len(data) < _HEADER.size + _HASH_SIZE or blake3(memoryview(data)[:-_HASH_SIZE]) != data[-_HASH_SIZE:]:
        return None
    magic, version, place_size, device, inode, count, names_size, *key = _HEADER.unpack_from(data)
    names_at = _HEADER.size + count * _ROW.size
    place_at = names_at + names_size
    if (magic, version) != (_MAGIC, _VERSION) or len(data) != place_at + place_size + _HASH_SIZE:
        return None
    return (device, inode, data[place_at : place_at + place_size]), Key(*key), names_at, place_at


def _rows_of(data: bytes, names_at: int, place_at: int) -> dict[str, Row]:
    names = data[names_at:place_at].decode("utf-8", "surrogateescape").split("\0")
    rows = map(Row._make, _ROW.iter_unpack(data[_HEADER.size : names_at]))
    return dict(zip(names[:-1], rows, strict=True))


def is_whole(data: bytes) -> bool:
    """Is this an index that would be used?"""
    with contextlib.suppress(ValueError):
        found = _parse(data)
        return found is not None and len(_rows_of(data, *found[2:])) >= 0
    return False


def _drop_stale(parent: Path) -> None:
    """Of many indexes, those whose directory is gone."""
    names = os.listdir(parent)
    if len(names) <= _FILES_MANY:
        return
    for name in names:
        path = parent / name
        with contextlib.suppress(OSError, ValueError):
            found = _parse(path.read_bytes())
            if found is None or not _is_there(*found[0]):
                os.unlink(path)


def _is_there(device: int, inode: int, place: bytes) -> bool:
    try:
        status = os.stat(place)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (device, inode)
