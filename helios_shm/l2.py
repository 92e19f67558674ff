"""L2: packs, commit log and branches in LMDB, found through the locator. The only importer of lmdb.

    packs     number (8 bytes, big-endian)            -> a pack
    log       name 0x00 first serial (8 bytes, b.e.)  -> a log block: commit records, oldest first
    branches  name                                    -> a row; a deleted branch keeps its row
    dead      number (8 bytes, big-endian)            -> which rows of that pack are dead (dead.py)
    meta      uuid, format, epoch, next_pack; generation, clock, collected: of collections (collect.py)

docs/FORMAT.md has the bytes. Invariants. Only the holder of the coordinator lock writes, and each of its transactions
checks the epoch that it drew, so that one who lost the lock cannot write any more. A transaction is synced before it is
acknowledged. Pack numbers only grow and are never used twice. Readers keep no transaction open between calls, and give
out copies only. Nobody but LMDB itself opens ``lock.mdb``.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import os
import shutil
import struct
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
from typing_extensions import Buffer

from ._capi import check, ffi, lib
from .codec import RAW, decode
from .dead import Clock, Part, part_at, parts_decode, parts_encode
from .errors import CapacityError, ClosedError, CorruptError, FormatError, StoreError
from .hashing import blake3
from .record import RECORD_TIME
from .store import FORMAT_VERSION, StorePaths, identity

NODE, VALUE, BLOB = 1, 2, 4

_MAP_SIZES = tuple(1 << bits for bits in (40, 38, 36, 35, 34, 33, 32, 31, 30, 28))
MAP_BYTES_MAX, MAP_BYTES_MIN = _MAP_SIZES[0], _MAP_SIZES[-1]
_READERS_MAX = 2048
# LMDB maps its lock file and touches it page by page: what has no room on the disk by then is SIGBUS, so it is made
# before. A header and 64 bytes a reader; LMDB takes what is more for more readers.
_LOCK_FILE_BYTES = 64 * _READERS_MAX + 4096
_DATABASES = (b"packs", b"log", b"branches", b"meta")
_DEAD = b"dead"  # missing in a store that no coordinator has opened since it is known: then nothing is dead
_META_NUMBER_MAX = 1 << 63
_PACKS_MAX = 1 << 62  # no store has so many, and what is counted from one still fits
_SERIAL_LAST = (1 << 64) - 1
_EARLIEST_MAX = 1 << 16
LOG_BLOCKS_BYTES_MAX = 4 << 20  # that a reader keeps: of 200 bytes each, 20 000 records

_PACK_MAGIC = 0x314B43504F494C48
PACK_HEADER = struct.Struct("<QIIQQ")  # magic, version, count, payload bytes, reserved
PACK_ROW = struct.Struct("<32sIIQBB6x")  # id, offset, stored, raw, kind, codec
_ROW_TAIL = struct.Struct("<IIQBB6x")
_ID_SIZE = 32
KIND_AT = 48
_LOG_HEADER = struct.Struct("<IIQ")  # magic, count, first serial
_LOG_MAGIC = 0x474C4C48
_LOG_SUM_SIZE = 32
_LOG_KEY_TAIL = 9  # of a block's key, behind the branch's name
_SERIAL_MAX = 2**64 - 1
_LOG_PLACES_AT = 16
_BRANCH = struct.Struct("<BB6s6Qq32s")
_BRANCH_SUM = slice(2, 8)
_RECORD_NAME = slice(4, 6)  # of a commit record: the size of its name, which stands at _RECORD_NAME_AT
_RECORD_NAME_AT = 192

_CANDIDATES_MAX = 512  # all that a probe can meet
_ATTEMPTS = 8
_ROWS_A_LOOK = 64
_OPEN_PAUSES = (0.001, 0.002, 0.004, 0.008, 0.016)
# A reader scans so few packs' tables of contents itself; beyond that it enters them in a table of its own.
_SCAN_PACKS_MAX = 16


@dataclass(frozen=True, slots=True)
class Entry:
    """What L2 holds under an id. ``kind`` BLOB: the bytes are a file of ``size`` bytes (blobs.py), ``raw`` is empty.
    ``stored`` is what stands for ``raw`` by ``codec``."""

    kind: int
    raw: bytes
    size: int
    codec: int = field(default=RAW, compare=False)
    stored: bytes = field(default=b"", compare=False)


@dataclass(frozen=True, slots=True)
class BranchRow:
    """What L2 knows of a branch: its newest record. ``word`` is its head word in the segment ``segment_nonce``."""

    name: str
    deleted: bool
    word: int
    segment_nonce: int
    serial: int
    sequence: int
    incarnation: int
    oldest: int  # serial of the oldest record in the log
    time_ns: int
    root: bytes


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """LMDB's errors, and the system's, as ours."""
    try:
        yield
    except (
        lmdb.CorruptedError,
        lmdb.PageNotFoundError,
        lmdb.NotFoundError,
        lmdb.IncompatibleError,
    ) as failure:
        raise CorruptError(f"{what}: {failure}") from failure
    except (lmdb.InvalidError, lmdb.VersionMismatchError) as failure:
        raise FormatError(f"{what}: {failure}") from failure
    except lmdb.MapFullError as failure:
        raise CapacityError(f"{what}: {failure}; the address space is limited (ulimit -v)") from failure
    except lmdb.LockError as failure:
        raise StoreError(
            f"{what}: {failure}; is the store open in another PID namespace (container)? That cannot work"
        ) from failure
    except lmdb.Error as failure:
        full = os.strerror(28) in str(failure)
        raise (CapacityError if full else StoreError)(f"{what}: {failure}") from failure
    except OSError as failure:
        full = failure.errno in (28, 122)
        raise (CapacityError if full else StoreError)(f"{what}: {failure}") from failure


def _environment(
    path: Path, *, readonly: bool, sync: bool = True, lock: bool = True, create: bool = False
) -> Any:
    """Open LMDB with the largest map that the address space has room for."""
    failure: Exception | None = None
    for size in _MAP_SIZES:
        try:
            return lmdb.open(
                str(path), map_size=size, readonly=readonly, create=create, lock=lock, mode=0o700, sync=sync,
                metasync=sync, max_dbs=len(_DATABASES) + 1, max_readers=_READERS_MAX, max_spare_txns=1,
                readahead=False, meminit=True,
            )  # fmt: skip
        except (lmdb.MemoryError, MemoryError) as caught:
            failure = caught
    raise CapacityError(
        f"{path}: no address space for a map of {_MAP_SIZES[-1]} bytes (ulimit -v)"
    ) from failure


def pack_key(number: int) -> bytes:
    return number.to_bytes(8, "big")


def pack_number(key: Buffer) -> int:
    """The number that ``pack_key`` made a key of. CorruptError if none can be."""
    number = int.from_bytes(key, "big")
    if memoryview(key).nbytes != 8 or not 0 < number < _PACKS_MAX:
        raise CorruptError(f"a pack in L2 has the key {bytes(key)!r}, which is no number of one")
    return number


def log_key(name: str, serial: int) -> bytes:
    return name.encode() + b"\0" + serial.to_bytes(8, "big")


def _row_sum(name: str, row: bytes) -> bytes:
    """Six bytes of BLAKE3 over the name and the row without them: LMDB has no sums of its own."""
    return blake3(name.encode() + b"\0" + row[: _BRANCH_SUM.start] + row[_BRANCH_SUM.stop :])[:6]


def row_encode(row: BranchRow) -> bytes:
    data = _BRANCH.pack(
        1, int(row.deleted), bytes(6), row.word, row.segment_nonce, row.serial, row.sequence, row.incarnation,
        row.oldest, row.time_ns, row.root,
    )  # fmt: skip
    return data[: _BRANCH_SUM.start] + _row_sum(row.name, data) + data[_BRANCH_SUM.stop :]


def row_decode(name: str, data: Buffer) -> BranchRow:
    """CorruptError for anything but version 1 of this branch's row. Copies nothing before the size is right."""
    size = memoryview(data).nbytes
    if size != _BRANCH.size:
        raise CorruptError(f"branch {name!r}: its row in L2 has {size} bytes")
    version, flags, told, *fields = _BRANCH.unpack(data)
    if version != 1 or flags > 1:
        raise CorruptError(f"branch {name!r}: its row in L2 is no row of version 1")
    if _row_sum(name, bytes(data)) != told:
        raise CorruptError(f"branch {name!r}: its row in L2 fails its checksum")
    return BranchRow(name, bool(flags), *fields)


def name_decode(key: bytes) -> str:
    """A branch's name, as it is a key. CorruptError."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise CorruptError(f"a branch's name in L2 is no UTF-8: {key!r}") from None


def create(path: Path, uuid: bytes) -> None:
    """A new database in the directory ``path``, synced. Nobody else may know of it yet."""
    with translated(f"creating {path}"):
        os.mkdir(path, 0o700)
        os.chmod(path, 0o700)  # whatever the umask says
        for name, size in (("data.mdb", 0), ("lock.mdb", _LOCK_FILE_BYTES)):
            fd = os.open(path / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.fchmod(fd, 0o600)
                if size:
                    os.posix_fallocate(fd, 0, size)
            finally:
                os.close(fd)
        try:
            env = _environment(path, readonly=False, create=True)
        except lmdb.InvalidError as failure:  # that it could not lock them, in its words
            raise StoreError(f"creating {path}: LMDB cannot use the files that were just made") from failure
        try:
            databases = {name: env.open_db(name) for name in (*_DATABASES, _DEAD)}
            with env.begin(write=True, db=databases[b"meta"]) as txn:
                txn.put(b"uuid", uuid)
                txn.put(b"format", FORMAT_VERSION.to_bytes(8, "little"))
                txn.put(b"epoch", bytes(8))
                txn.put(b"next_pack", (1).to_bytes(8, "little"))
            env.sync(True)
        finally:
            env.close()
        # LMDB does not sync the file's first pages before its first commit.
        fd = os.open(path / "data.mdb", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


# ---- the locator, as Python sees it ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LocatorInfo:
    """Where a locator file stands; see csrc/helios_shm.h."""

    mark: int
    checkpoint: int
    rows: int
    capacity: int
    boot_id: bytes


class Locator:
    """One mapping of a locator file. Unmapped when it is forgotten, in a forked child the child's mapping."""

    def __init__(self, pointer: Any) -> None:
        self._pointer = ffi.gc(pointer, lib.hs_locator_close)
        self._info = ffi.new("hs_locator_info *")
        self._packs = ffi.new("uint64_t[]", _CANDIDATES_MAX)
        self._rows = ffi.new("uint32_t[]", _CANDIDATES_MAX)

    @staticmethod
    def create(path: Path, capacity: int, boot_id: bytes) -> Locator:
        """A new, empty file under exactly this name; an older one of that name is removed."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        out = ffi.new("hs_locator **")
        check(lib.hs_locator_create(os.fsencode(path), capacity, boot_id, out), f"creating locator {path}")
        return Locator(out[0])

    @staticmethod
    def open(path: Path, *, writable: bool) -> Locator | None:
        """The file of this name; None if there is none that can be used."""
        out = ffi.new("hs_locator **")
        status = lib.hs_locator_open(os.fsencode(path), int(writable), out)
        if status in (lib.HS_NOT_FOUND, lib.HS_CORRUPT, lib.HS_FORMAT):
            return None
        check(status, f"opening locator {path}")
        return Locator(out[0])

    def info(self) -> LocatorInfo:
        lib.hs_locator_info_get(self._pointer, self._info)
        info = self._info
        return LocatorInfo(
            info.mark, info.checkpoint, info.rows, info.capacity, bytes(ffi.buffer(info.boot_id))
        )

    def is_named(self, path: Path) -> bool:
        return bool(lib.hs_locator_is_named(self._pointer, os.fsencode(path)) == 1)

    def find(self, id: bytes) -> list[tuple[int, int]]:
        """(pack, row) that may hold this id, newest pack first."""
        count = lib.hs_locator_find(self._pointer, id, self._packs, self._rows, _CANDIDATES_MAX)
        return [(self._packs[i], self._rows[i]) for i in range(count - 1, -1, -1)]

    def insert(self, number: int, pack: Buffer) -> bool:
        """Enter a pack's rows; False: it is too full."""
        data = ffi.from_buffer(pack)
        status = lib.hs_locator_insert(self._pointer, number, data, len(data))
        if status == lib.HS_WAIT:
            return False
        check(status, f"entering pack {number} in the locator")
        return True

    def candidates(self, pack: Any, count: int) -> list[int]:
        """Rows of this pack whose ids may be in an older one."""
        rows = ffi.new("uint32_t[]", count)
        found = lib.hs_locator_candidates(self._pointer, pack, rows, count)
        return list(ffi.unpack(rows, found)) if found else []

    def mark(self, number: int, boot_id: bytes) -> None:
        check(lib.hs_locator_mark(self._pointer, number, boot_id), "marking the locator")

    def checkpoint(self) -> None:
        check(lib.hs_locator_checkpoint(self._pointer), "syncing the locator")


# ---- dead rows -------------------------------------------------------------------------------------------


class Databases(NamedTuple):
    """Where it stands which rows are dead."""

    dead: Any  # None: there is no such database yet
    meta: Any


def row_is_dead(txn: Any, databases: Databases, number: int, row: int) -> bool:
    """Has a collection declared this row of a pack dead? Then the entry is not there, whatever the pack holds."""
    part = dead_part(txn, databases, number)
    return part is not None and part.has(row)


def dead_part(txn: Any, databases: Databases, number: int) -> Part | None:
    """Which rows of a pack are dead; None: none is. CorruptError."""
    if databases.dead is None:
        return None
    value = txn.get(pack_key(number), db=databases.dead)
    if value is None:
        return None
    return part_at(parts_decode(number, value), generation_of(txn, databases.meta))


def generation_of(txn: Any, meta: Any) -> int:
    """How many collections have deleted something."""
    return meta_number(txn, meta, b"generation") if txn.get(b"generation", db=meta) is not None else 0


# ---- reading packs ---------------------------------------------------------------------------------------


class Damaged(Exception):
    """A row names the id, but the bytes do not hash to it."""


def pack_count(pack: memoryview) -> int:
    """How many rows a pack has, as far as its size allows them."""
    if len(pack) < PACK_HEADER.size:
        return 0
    count: int = PACK_HEADER.unpack_from(pack)[2]
    return min(count, (len(pack) - PACK_HEADER.size) // PACK_ROW.size)


def pack_has(pack: memoryview, row: int, id: bytes) -> bool:
    """Is this row's full id ``id``?"""
    at = PACK_HEADER.size + row * PACK_ROW.size
    return row < pack_count(pack) and pack[at : at + _ID_SIZE] == id


def pack_id(pack: memoryview, row: int) -> bytes:
    """The id of a row below ``pack_count``."""
    at = PACK_HEADER.size + row * PACK_ROW.size
    return bytes(pack[at : at + _ID_SIZE])


def pack_kind(pack: memoryview, row: int) -> int:
    """What a row below ``pack_count`` says its entry is."""
    return pack[PACK_HEADER.size + row * PACK_ROW.size + KIND_AT]


def pack_raw_size(pack: memoryview, row: int) -> int:
    """The size that a row below ``pack_count`` says its entry has, decoded."""
    size: int = _ROW_TAIL.unpack_from(pack, PACK_HEADER.size + row * PACK_ROW.size + _ID_SIZE)[2]
    return size


def pack_row(pack: memoryview, row: int) -> tuple[bytes, bytes]:
    """A row below ``pack_count`` and its payload, as they stand there. CorruptError."""
    at = PACK_HEADER.size + row * PACK_ROW.size
    offset, stored, *_ = _ROW_TAIL.unpack_from(pack, at + _ID_SIZE)
    if offset + stored > len(pack):
        raise CorruptError(f"row {row} of a pack names a place outside of it; see Engine.check()")
    return bytes(pack[at : at + PACK_ROW.size]), bytes(pack[offset : offset + stored])


def pack_encode(rows: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A pack of such rows."""
    offset = PACK_HEADER.size + len(rows) * PACK_ROW.size
    table, payloads = [], b"".join(payload for _, payload in rows)
    for row, payload in rows:
        _, *tail = _ROW_TAIL.unpack_from(row, _ID_SIZE)
        table.append(row[:_ID_SIZE] + _ROW_TAIL.pack(offset, *tail))
        offset += len(payload)
    body = b"".join(table)
    head = PACK_HEADER.pack(_PACK_MAGIC, 1, len(rows), len(payloads), 0)[:-8]
    return head + blake3(head + blake3(body))[:8] + body + payloads


def pack_find(pack: memoryview, id: bytes) -> int | None:
    """The row of this id, from the table of contents."""
    table = bytes(pack[PACK_HEADER.size : PACK_HEADER.size + pack_count(pack) * PACK_ROW.size])
    at = table.find(id)
    while at >= 0 and at % PACK_ROW.size:
        at = table.find(id, at + 1)
    return at // PACK_ROW.size if at >= 0 else None


def pack_entry(pack: memoryview, row: int, id: bytes) -> Entry:
    """Decode and check the row's bytes. Damaged if they are not those that ``id`` names."""
    at = PACK_HEADER.size + row * PACK_ROW.size + _ID_SIZE
    offset, stored, raw_size, kind, codec = _ROW_TAIL.unpack_from(pack, at)
    if kind == BLOB:
        return Entry(BLOB, b"", raw_size)
    if kind not in (NODE, VALUE) or offset + stored > len(pack):
        raise Damaged(f"row {row} names a place outside its pack")
    data = bytes(pack[offset : offset + stored])
    try:
        raw = decode(codec, data, raw_size)
    except CorruptError as failure:
        raise Damaged(str(failure)) from failure
    if blake3(raw) != id:
        raise Damaged("the bytes have another hash")
    return Entry(kind, raw, raw_size, codec, data)


def log_block(value: memoryview, what: str) -> bytes:
    """A copy of a log block, if it is as long as its own table says: what LMDB says may lead beyond the file's end."""
    count = _LOG_HEADER.unpack_from(value)[1] if len(value) >= _LOG_HEADER.size else len(value)
    end_at = _LOG_PLACES_AT + 4 * count
    if end_at + 4 + _LOG_SUM_SIZE > len(value):
        raise CorruptError(f"{what}: it is cut short")
    if int.from_bytes(value[end_at : end_at + 4], "little") + _LOG_SUM_SIZE != len(value):
        raise CorruptError(f"{what}: it has another size than it says")
    return bytes(value)


def log_records(block: bytes, name: str, what: str) -> tuple[int, list[memoryview]]:
    """(first serial, records) of a log block of this branch that is whole. CorruptError."""
    if lib.hs_log_validate(block, len(block)) != lib.HS_OK:
        raise CorruptError(f"{what}: its checksum fails, or it is no block of commit records")
    first, records = log_parts(block)
    if any(_record_name(record) != name.encode() for record in records):
        raise CorruptError(f"{what}: a block of another branch stands there")
    return first, records


def log_parts(block: bytes) -> tuple[int, list[memoryview]]:
    """(first serial, records) of a log block that was validated."""
    _magic, count, first = _LOG_HEADER.unpack_from(block)
    places = struct.unpack_from(f"<{count + 1}I", block, _LOG_HEADER.size)
    view = memoryview(block)
    return first, [view[places[i] : places[i + 1]] for i in range(count)]


def log_encode(first: int, records: Sequence[Buffer]) -> bytes:
    """A log block of these records, the first of which has serial ``first``."""
    sizes = [memoryview(record).nbytes for record in records]
    places = [_LOG_PLACES_AT + 4 * (len(records) + 1)]
    for size in sizes:
        places.append(places[-1] + size)
    head = _LOG_HEADER.pack(_LOG_MAGIC, len(records), first) + struct.pack(f"<{len(places)}I", *places)
    body = b"".join((head, *records))
    return body + blake3(body)


def _record_name(record: memoryview) -> bytes:
    size = int.from_bytes(record[_RECORD_NAME], "little")
    return bytes(record[_RECORD_NAME_AT : _RECORD_NAME_AT + size])


def _record_time(record: memoryview) -> int:
    return int.from_bytes(record[RECORD_TIME], "little", signed=True)


def pack_table_size(pack: memoryview) -> int:
    """Bytes of header and rows."""
    return PACK_HEADER.size + pack_count(pack) * PACK_ROW.size


def pack_blobs(table: bytes) -> list[bytes]:
    """Ids of the rows that name files."""
    kinds = table[PACK_HEADER.size + KIND_AT :: PACK_ROW.size]
    starts = (PACK_HEADER.size + row * PACK_ROW.size for row, kind in enumerate(kinds) if kind == BLOB)
    return [table[at : at + _ID_SIZE] for at in starts] if BLOB in kinds else []


class _Supplement:
    """A private table of the packs that the shared locator does not cover: for stores that no coordinator repairs."""

    def __init__(self) -> None:
        self.low = self.high = 0
        self._table: Locator | None = None

    def find(self, txn: Any, packs: Any, id: bytes, low: int, high: int) -> list[tuple[int, int]]:
        """Candidates in packs low + 1 .. high."""
        if self._table is None or low < self.low or not self._extend(txn, packs, high):
            self._build(txn, packs, low, high)
        assert self._table is not None
        return self._table.find(id)

    def _extend(self, txn: Any, packs: Any, high: int) -> bool:
        assert self._table is not None
        for number, pack in _packs_between(txn, packs, self.high, high):
            if not self._table.insert(number, pack):
                return False
        self.high = max(self.high, high)
        return True

    def _build(self, txn: Any, packs: Any, low: int, high: int) -> None:
        rows = sum(pack_count(pack) for _, pack in _packs_between(txn, packs, low, high))
        capacity = 2 * rows
        while True:
            self.low = self.high = low
            self._table = self._create(capacity)
            self._table.mark(high, bytes(16))
            if self._extend(txn, packs, high):
                return
            capacity *= 2

    @staticmethod
    def _create(capacity: int) -> Locator:
        directory = Path(tempfile.mkdtemp(prefix="helios-reader-"))
        try:
            return Locator.create(directory / "locator", capacity, bytes(16))
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def _packs_between(txn: Any, packs: Any, low: int, high: int) -> Iterator[tuple[int, memoryview]]:
    """Packs low + 1 .. high, ascending."""
    with txn.cursor(db=packs) as cursor:
        found = cursor.set_range(pack_key(low + 1))
        while found:
            number = pack_number(cursor.key())
            if number > high:
                return
            yield number, cursor.value()
            found = cursor.next()


class _LogBlocks:
    """Blocks of the log that were read and validated: a block is never written over, and one look-up asks for a
    single record of it. When they are more than LOG_BLOCKS_BYTES_MAX all are forgotten. Not thread-safe."""

    def __init__(self) -> None:
        self._keys: list[tuple[str, int]] = []  # of branch and first serial, sorted
        self._records: dict[tuple[str, int], list[memoryview]] = {}
        self._bytes = 0

    def find(self, name: str, serial: int) -> tuple[int, list[memoryview]] | None:
        """(first serial, records) of the block that has this serial."""
        at = bisect.bisect_right(self._keys, (name, serial))
        if at == 0:
            return None
        key = self._keys[at - 1]
        records = self._records[key]
        return (key[1], records) if key[0] == name and serial < key[1] + len(records) else None

    def add(self, name: str, first: int, records: list[memoryview], size: int) -> None:
        """Keep a validated block; ``records`` are views of it, ``size`` is its bytes."""
        key = (name, first)
        if key in self._records:
            return
        if self._bytes + size > LOG_BLOCKS_BYTES_MAX:
            self._keys, self._records, self._bytes = [], {}, 0
        bisect.insort(self._keys, key)
        self._records[key] = records
        self._bytes += size


class _Shared:
    """The environment of one store in this process: LMDB allows one, however many readers there are."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.env: Any = None
        self.databases: list[Any] = []
        self.dead: Any = None

    def close(self) -> None:
        env, self.env, self.dead = self.env, None, None
        if env is not None:
            env.close()

    def open_dead(self) -> None:
        """The database of dead rows, once there is one."""
        if self.dead is None:
            with contextlib.suppress(lmdb.NotFoundError, lmdb.ReadonlyError):
                self.dead = self.env.open_db(_DEAD, create=False)


_shared: dict[tuple[int, int], _Shared] = {}
_shared_lock = threading.Lock()


def _before_fork() -> None:
    _shared_lock.acquire()
    for shared in _shared.values():
        shared.lock.acquire()
        shared.close()


def _after_fork() -> None:
    for shared in _shared.values():
        shared.lock.release()
    _shared_lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


class Reader:
    """L2 as one process reads it: one for each process and store; thread-safe.

    An LMDB environment does not survive a fork, and does not say so; and if the child closes it, its parent's places in
    the table of readers are gone. So every environment is closed before a fork, and opened anew on first use in
    parent and child. ``lock=False``: for a store on a read-only file system.
    """

    def __init__(self, store: StorePaths, *, lock: bool = True) -> None:
        self._paths = store
        self._lock_file = lock
        self._locator: Locator | None = None
        self._supplement = _Supplement()
        self._log_blocks = _LogBlocks()
        # (branch, serial) -> first serial of the block that has it, and the earliest time from there to the serial.
        self._earliest: dict[tuple[str, int], tuple[int, int]] = {}
        self._boot_id = boot_id()
        self._closed = False
        with translated(f"opening {store.db}"):
            self._key = identity(store.db)
        with _shared_lock:
            self._shared = _shared.setdefault(self._key, _Shared())
            self._shared.users += 1
        self._lock = self._shared.lock
        try:
            with self._lock, translated(f"opening {self._paths.db}"):
                self._begin().abort()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        """Open the environment. Others may be opening and closing it at the same time, which LMDB may trip over."""
        with translated(f"opening {self._paths.db}"):
            for pause in (*_OPEN_PAUSES, None):
                try:
                    env = _environment(self._paths.db, readonly=True, lock=self._lock_file)
                    break
                except lmdb.Error:
                    # The permanent ones too: a read that was cut short looks like another kind of file.
                    if pause is None:
                        raise
                    time.sleep(pause)
            self._shared.databases = [env.open_db(name, create=False) for name in _DATABASES]
            self._shared.env = env

    def close(self) -> None:
        """Close the environment, if no other reader uses it. Idempotent; uses after it raise ClosedError."""
        with _shared_lock:
            if self._closed:
                return
            self._closed = True
            self._shared.users -= 1
            if self._shared.users == 0:
                with self._lock:
                    self._shared.close()
                del _shared[self._key]
        self._locator = None
        with self._lock:
            self._log_blocks = _LogBlocks()

    def abandon(self) -> None:
        """In a forked child: forget it. Nothing in it is the parent's, so this is ``close``."""
        self.close()

    def _begin(self) -> Any:
        """A fresh read transaction, in an environment that is opened if a fork has closed it."""
        if self._closed:
            raise ClosedError(f"the reader of {self._paths.root} is closed")
        if self._shared.env is None:
            self._open()
        self._packs, self._log, self._branches, self._meta = self._shared.databases
        self._shared.open_dead()
        self._dead = self._shared.dead
        env = self._shared.env
        try:
            return env.begin(buffers=True)
        except lmdb.ReadersFullError:
            env.reader_check()
            return env.begin(buffers=True)
        except lmdb.MapResizedError:
            env.set_mapsize(0)
            return env.begin(buffers=True)

    @contextlib.contextmanager
    def _transaction(self, what: str) -> Iterator[Any]:
        """A fresh read transaction; its buffers die with it."""
        with translated(what), self._begin() as txn:
            yield txn

    def get(self, id: bytes) -> Entry | None:
        """The entry of this id; None if L2 has none.

        Call it after a miss in the ring: then a node that was published is found in one of the two, always. Raises
        CorruptError if all that L2 has under this id are bytes with another hash. Cost: one read transaction, one
        probe of the locator, one copy, one BLAKE3.
        """
        with self._lock:
            with contextlib.suppress(lmdb.Error, Damaged):
                entry = self._look_quickly(id)
                if entry is not None:
                    return entry
            damage = ""
            for attempt in range(_ATTEMPTS):
                try:
                    conclusive, entry = self._look(id, last=attempt == _ATTEMPTS - 1)
                except Damaged as failure:
                    # A read transaction that was suspended for long may see wrong bytes: look again in another.
                    if damage:
                        raise CorruptError(f"entry {id.hex()} in {self._paths.db}: {failure}") from failure
                    damage = str(failure)
                    continue
                if conclusive:
                    return entry
            return None

    def get_many(self, ids: Sequence[bytes]) -> list[Entry | None]:
        """The entries of these ids, as far as one look finds them. None says nothing: ``get`` looks again.

        Cost: one read transaction, and for each a probe of the locator, a copy and a BLAKE3.
        """
        found: list[Entry | None] = [None] * len(ids)
        with self._lock, contextlib.suppress(lmdb.Error):
            if self._locator is None:
                self._mark()
            if self._locator is None:
                return found
            txn = self._begin()
            try:
                packs: dict[int, memoryview | None] = {}
                for at, id in enumerate(ids):
                    with contextlib.suppress(Damaged):
                        found[at] = self._confirm(txn, id, self._locator.find(id), packs)
            finally:
                txn.abort()
        return found

    def _look_quickly(self, id: bytes) -> Entry | None:
        """A hit is a hit, whatever mark and transaction: ids name their bytes. A miss or an error says nothing."""
        if self._locator is None:
            return None
        candidates = self._locator.find(id)
        if not candidates:
            return None
        txn = self._begin()
        try:
            return self._confirm(txn, id, candidates)
        finally:
            txn.abort()

    def _look(self, id: bytes, *, last: bool) -> tuple[bool, Entry | None]:
        """(conclusive, entry), by PROTOCOL: transaction, then mark, then probe; a miss counts if the mark covers it."""
        with self._transaction(f"reading {self._paths.db}") as txn:
            mark = self._mark()
            candidates = self._locator.find(id) if self._locator is not None else []
            entry = self._confirm(txn, id, candidates)
            if entry is not None:
                return True, entry
            newest = self._newest(txn)
            if mark >= newest:
                # It names a pack that this transaction does not have yet: moved there, so look in a newer one.
                moved = any(number > newest for number, _ in candidates)
                return not moved or last, None
            if not last and self._locator_reopen():
                return False, None
            return True, self._beyond(txn, id, mark, newest)

    def _mark(self) -> int:
        """Packs up to here are in the locator. One of another boot counts only as far as it was synced."""
        if self._locator is None:
            self._locator = Locator.open(self._paths.locator, writable=False)
            if self._locator is None:
                return 0
        info = self._locator.info()
        return info.mark if info.boot_id == self._boot_id else min(info.checkpoint, info.mark)

    def _locator_reopen(self) -> bool:
        """Open the locator again by name, if that leads to another file now."""
        if self._locator is None or self._locator.is_named(self._paths.locator):
            return False
        self._locator = None
        return True

    def _confirm(
        self,
        txn: Any,
        id: bytes,
        candidates: list[tuple[int, int]],
        packs: dict[int, memoryview | None] | None = None,
    ) -> Entry | None:
        """The first candidate that is this id's. ``packs``: those of this transaction that were looked at already."""
        damaged: Damaged | None = None
        for number, row in candidates:
            if packs is None or number not in packs:
                pack = txn.get(pack_key(number), db=self._packs)
                if packs is not None:
                    packs[number] = pack
            else:
                pack = packs[number]
            if pack is None or not pack_has(pack, row, id) or row_is_dead(txn, self._dbs(), number, row):
                continue
            try:
                return pack_entry(pack, row, id)
            except Damaged as failure:
                damaged = Damaged(f"pack {number}: {failure}")
        if damaged is not None:
            raise damaged
        return None

    def _dbs(self) -> Databases:
        return Databases(self._dead, self._meta)

    def _newest(self, txn: Any) -> int:
        with txn.cursor(db=self._packs) as cursor:
            return pack_number(cursor.key()) if cursor.last() else 0

    def _beyond(self, txn: Any, id: bytes, mark: int, newest: int) -> Entry | None:
        """Look in the packs above the mark."""
        if newest - mark > _SCAN_PACKS_MAX:
            return self._confirm(txn, id, self._supplement.find(txn, self._packs, id, mark, newest))
        found = [
            (number, row)
            for number, pack in _packs_between(txn, self._packs, mark, newest)
            if (row := pack_find(pack, id)) is not None
        ]
        return self._confirm(txn, id, found[::-1])

    def uuid(self) -> bytes:
        """The store that the database says it belongs to."""
        with self._lock, self._transaction(f"reading {self._paths.db}") as txn:
            return bytes(txn.get(b"uuid", default=b"", db=self._meta)[:16])

    def branch(self, name: str) -> BranchRow | None:
        """The branch's row as of now, a deleted one's too; None if L2 has none. CorruptError if the log goes on behind
        it: a flipped bit of LMDB's may lead to a whole page of an earlier transaction."""
        with self._lock, self._transaction(f"reading branch {name!r}") as txn:
            data = txn.get(name.encode(), db=self._branches)
            if data is not None:
                row = row_decode(name, data)
                block = self._block_at(txn, name, _SERIAL_MAX)
                if block is not None:
                    first, records = log_records(block, name, f"the newest block of branch {name!r}'s log")
                    if row.serial < first + len(records) - 1:
                        raise CorruptError(
                            f"branch {name!r}: its row in {self._paths.db} ends at serial {row.serial}, and its log at "
                            f"{first + len(records) - 1}"
                        )
                return row
            self._compare_names(txn, name.encode() + b"\0", [])
            return None

    def branches(self, prefix: str = "") -> list[BranchRow]:
        """All rows whose name begins with ``prefix``, deleted branches included, in the order of their UTF-8."""
        start, rows = prefix.encode(), []
        with (
            self._lock,
            self._transaction("reading the branches") as txn,
            txn.cursor(db=self._branches) as cursor,
        ):
            found = cursor.set_range(start) if start else cursor.first()
            while found and bytes(cursor.key()[: len(start)]) == start:
                rows.append(row_decode(name_decode(bytes(cursor.key())), cursor.value()))
                found = cursor.next()
            self._compare_names(txn, start, rows)
        return rows

    def _compare_names(self, txn: Any, start: bytes, rows: list[BranchRow]) -> None:
        """CorruptError if the log has a branch, among those whose keys begin so, that ``rows`` has not: a flipped bit
        in a page of LMDB's makes rows vanish without a word."""
        names, last = {row.name.encode() for row in rows}, b""
        with txn.cursor(db=self._log) as cursor:
            found = cursor.set_range(start) if start else cursor.first()
            while found and bytes(cursor.key()[: len(start)]) == start:
                name = bytes(cursor.key()[:-_LOG_KEY_TAIL])
                if name <= last:  # and so round and round
                    raise CorruptError(f"the log in {self._paths.db} is not in order at {name!r}")
                last = name
                if name not in names:
                    raise CorruptError(
                        f"branch {name_decode(name)!r} has a log in {self._paths.db}, and no row"
                    )
                found = cursor.set_range(
                    name + b"\1"
                )  # behind all of its blocks: names hold no control character but in front (names.py)

    def records(self, name: str, serial: int) -> Iterator[bytes]:
        """Commit records of a branch, from this serial downwards to 1, newest first; stops where L2 has no more.

        No transaction stays open between two records. Raises CorruptError for a block whose sum fails, as it is read;
        the last few are kept.
        """
        while serial > 0:
            found = self._log_records(name, serial)
            if found is None:
                return
            first, records = found
            for place in range(serial - first, -1, -1):
                yield bytes(records[place])
            serial = first - 1

    def newest_until(self, name: str, serial: int, lowest: int, time_ns: int) -> bytes | None:
        """The newest record of a branch, of the serials ``lowest`` to ``serial``, whose time is not above ``time_ns``.

        Times need not rise along a log, so no block can be passed over before its times were seen; then its earliest
        is kept. Cost: what it passes over is read once in a process, and after that a look-up a block.
        """
        while serial >= lowest:
            known = self._earliest.get((name, serial))
            if known is None or known[1] <= time_ns:
                found = self._log_records(name, serial)
                if found is None:
                    return None
                first, records = found
                times = [_record_time(record) for record in records[: serial - first + 1]]
                for place in range(serial - first, max(lowest - first, 0) - 1, -1):
                    if times[place] <= time_ns:
                        return bytes(records[place])
                if len(self._earliest) >= _EARLIEST_MAX:
                    self._earliest.clear()
                known = self._earliest[name, serial] = first, min(times)
            serial = known[0] - 1
        return None

    def _log_records(self, name: str, serial: int) -> tuple[int, list[memoryview]] | None:
        """(first serial, records) of the block that has this serial; None: no block has it."""
        with self._lock:
            found = self._log_blocks.find(name, serial)
        if found is not None:
            return found
        block = self._log_block(name, serial)
        if block is None:
            return None
        first, records = log_records(block, name, f"log of branch {name!r} around serial {serial}")
        if not first <= serial < first + len(records):
            return None
        with self._lock:
            self._log_blocks.add(name, first, records, len(block))
        return first, records

    def _log_block(self, name: str, serial: int) -> bytes | None:
        """The block with the greatest first serial that is not above ``serial``."""
        with self._lock, self._transaction(f"reading the log of {name!r}") as txn:
            return self._block_at(txn, name, serial)

    def _block_at(self, txn: Any, name: str, serial: int) -> bytes | None:
        key, stem = log_key(name, serial), log_key(name, 0)[:-8]
        with txn.cursor(db=self._log) as cursor:
            found = cursor.set_range(key)
            if not found:
                found = cursor.last()
            elif bytes(cursor.key()) != key:
                found = cursor.prev()
            if not found or bytes(cursor.key())[:-8] != stem:
                return None
            return log_block(cursor.value(), f"log of branch {name!r} around serial {serial}")


# ---- writing ---------------------------------------------------------------------------------------------


class EpochError(StoreError):
    """Another coordinator has written since: this one must not write any more."""


def meta_number(txn: Any, meta: Any, name: bytes) -> int:
    """A number of the database ``meta``. CorruptError if it is none, or no other can follow it."""
    value = txn.get(name, db=meta)
    number = -1 if value is None or len(value) != 8 else int.from_bytes(value, "little")
    if not 0 <= number < _META_NUMBER_MAX:
        raise CorruptError(
            f"L2's {name.decode()!r} is damaged: {None if value is None else bytes(value[:16])!r}"
        )
    return number


class Batch:
    """One write transaction. Everything in it is there after it, or nothing."""

    def __init__(self, writer: Writer, txn: Any) -> None:
        self._writer = writer
        self._txn = txn
        self.next_pack = meta_number(txn, writer.meta, b"next_pack")

    def put_pack(self, pack: Buffer) -> int:
        """Store a pack; returns its number."""
        number = self.next_pack
        if not self._txn.put(pack_key(number), pack, db=self._writer.packs, append=True):
            raise CorruptError(f"pack {number} cannot be written: L2 has one of that number or above already")
        self.next_pack = number + 1
        self._txn.put(b"next_pack", self.next_pack.to_bytes(8, "little"), db=self._writer.meta)
        return number

    def put_log(self, name: str, first: int, block: Buffer) -> None:
        """Store a log block whose first record has serial ``first``."""
        if not self._txn.put(log_key(name, first), block, db=self._writer.log, overwrite=False):
            raise CorruptError(f"branch {name!r}: L2 has a log block from serial {first} already")

    def branch(self, name: str) -> BranchRow | None:
        data = self._txn.get(name.encode(), db=self._writer.branches)
        return None if data is None else row_decode(name, data)

    def put_branch(self, row: BranchRow) -> None:
        self._txn.put(row.name.encode(), row_encode(row), db=self._writer.branches)

    def known(self, pack: Any, rows: list[int], locator: Locator, *, since: int = 1) -> list[int]:
        """Those of a new pack's rows whose id L2 holds already, alive, in pack ``since`` or above; in this order."""
        view = ffi.buffer(pack, PACK_HEADER.size + (rows[-1] + 1) * PACK_ROW.size)
        found = []
        for row in rows:
            at = PACK_HEADER.size + row * PACK_ROW.size
            id = view[at : at + _ID_SIZE]
            if any(number >= since and self.has(number, place, id) for number, place in locator.find(id)):
                found.append(row)
        return found

    def has(self, number: int, row: int, id: bytes) -> bool:
        """Does this row of a pack hold this id, alive?"""
        pack = self._txn.get(pack_key(number), db=self._writer.packs)
        return pack is not None and pack_has(pack, row, id) and not self._is_dead(number, row)

    def _is_dead(self, number: int, row: int) -> bool:
        return row_is_dead(self._txn, self._writer.databases, number, row)

    # --- the clock ---

    def clock(self) -> Clock:
        """One that fails its checksum begins anew: then every pack is young."""
        data = self._txn.get(b"clock", db=self._writer.meta)
        with contextlib.suppress(CorruptError):
            return Clock() if data is None else Clock.decode(data)
        return Clock()

    def put_clock(self, clock: Clock) -> None:
        self._txn.put(b"clock", clock.encode(), db=self._writer.meta)

    # --- what a collection reads and writes ---

    def pack(self, number: int) -> memoryview | None:
        """A pack's bytes, valid until the next change."""
        found: memoryview | None = self._txn.get(pack_key(number), db=self._writer.packs)
        return found

    def generation(self) -> int:
        return generation_of(self._txn, self._writer.meta)

    def put_generation(self, generation: int) -> None:
        self._txn.put(b"generation", generation.to_bytes(8, "little"), db=self._writer.meta)

    def dead(self, number: int) -> Part | None:
        """Which rows of a pack are dead now."""
        return dead_part(self._txn, self._writer.databases, number)

    def put_dead(self, number: int, parts: list[Part]) -> None:
        """What is dead of a pack; no parts: nothing is."""
        if parts:
            self._txn.put(pack_key(number), parts_encode(number, parts), db=self._writer.dead)
        else:
            self._txn.delete(pack_key(number), db=self._writer.dead)

    def delete_pack(self, number: int) -> int:
        """Take a pack out, and what is said of its rows. Returns its bytes; 0 if it is not there."""
        pack = self._txn.get(pack_key(number), db=self._writer.packs)
        size = 0 if pack is None else len(pack)
        self._txn.delete(pack_key(number), db=self._writer.packs)
        self._txn.delete(pack_key(number), db=self._writer.dead)
        return size

    def collected(self) -> bytes:
        """What the last collection has left to say of itself (retention.py); b"": there was none."""
        return bytes(self._txn.get(b"collected", default=b"", db=self._writer.meta))

    def put_collected(self, data: bytes) -> None:
        self._txn.put(b"collected", data, db=self._writer.meta)

    def trim_log(self, name: str, oldest: int, blocks_max: int) -> tuple[int, int, bool]:
        """Drop commits of a branch below serial ``oldest``: so many blocks at most, and the row says what is left.
        Returns (commits, bytes dropped, whether more are left to drop)."""
        row = self.branch(name)
        assert row is not None and row.oldest <= oldest <= row.serial
        dropped, size = 0, 0
        for _ in range(blocks_max):
            if row.oldest >= oldest:
                break
            first, count, more = self._trim_block(name, row.oldest, oldest)
            dropped, size, row = dropped + count, size + more, replace(row, oldest=first)
        self.put_branch(row)
        return dropped, size, row.oldest < oldest

    def _trim_block(self, name: str, first: int, oldest: int) -> tuple[int, int, int]:
        """The block that begins with ``first``, without what is below ``oldest``: where the log begins then, how many
        commits and bytes went."""
        key, what = log_key(name, first), f"log of branch {name!r} from serial {first}"
        value = self._txn.get(key, db=self._writer.log)
        if value is None:
            raise CorruptError(f"{what}: it is not there")
        block = log_block(value, what)
        found, records = log_records(block, name, what)
        if found != first or not records:
            raise CorruptError(f"{what}: another block stands there")
        self._txn.delete(key, db=self._writer.log)
        kept = records[oldest - first :]
        if not kept:
            return first + len(records), len(records), len(block)
        shorter = log_encode(oldest, kept)
        self.put_log(name, oldest, shorter)
        return oldest, oldest - first, len(block) - len(shorter)


class Writer:
    """L2 as the coordinator writes it: the only one, by the coordinator lock. Not thread-safe.

    ``sync=False`` is for ephemeral stores, which nobody reads after a power loss.
    """

    def __init__(self, store: StorePaths, *, sync: bool) -> None:
        self._paths = store
        self._sync = sync
        self.epoch = 0
        self._env: Any = None
        self.reopen()

    def reopen(self) -> None:
        """Open the environment (again, after a failed commit)."""
        self.close()
        with translated(f"opening {self._paths.db}"):
            self._env = _environment(self._paths.db, readonly=False, sync=self._sync)
            self.packs, self.log, self.branches, self.meta = (
                self._env.open_db(name, create=False) for name in _DATABASES
            )
            self.dead = self._env.open_db(_DEAD)
            self.databases = Databases(self.dead, self.meta)

    def close(self) -> None:
        env, self._env = self._env, None
        if env is not None:
            env.close()

    def draw_epoch(self) -> int:
        """Become the one who may write: nobody with a lower epoch commits after this."""
        with translated(f"writing {self._paths.db}"), self._env.begin(write=True) as txn:
            self.epoch = meta_number(txn, self.meta, b"epoch") + 1
            txn.put(b"epoch", self.epoch.to_bytes(8, "little"), db=self.meta)
        return self.epoch

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Batch]:
        """A write transaction: committed and synced when the body ends, forgotten when it raises.

        If leaving raises, nothing of it may be acknowledged; ``reopen`` before the next.
        """
        with translated(f"writing {self._paths.db}"), self._env.begin(write=True, buffers=True) as txn:
            if meta_number(txn, self.meta, b"epoch") != self.epoch:
                raise EpochError(f"{self._paths.db}: another coordinator has taken over")
            yield Batch(self, txn)

    @contextlib.contextmanager
    def look(self) -> Iterator[Batch]:
        """A transaction that only reads: of a batch, what reads may be used."""
        with translated(f"reading {self._paths.db}"), self._env.begin(buffers=True) as txn:
            yield Batch(self, txn)

    def newest_pack(self) -> int:
        """The newest number that was given to a pack; 0 if none was. A collection may have deleted that one."""
        with self._env.begin(buffers=True) as txn:
            return meta_number(txn, self.meta, b"next_pack") - 1

    def packs_between(self, low: int, high: int) -> Iterator[tuple[int, memoryview]]:
        """Packs low + 1 .. high, ascending; a pack's bytes are valid until the next one is asked for."""
        with translated(f"reading {self._paths.db}"), self._env.begin(buffers=True) as txn:
            yield from _packs_between(txn, self.packs, low, high)

    def pack_numbers(self) -> list[int]:
        """The numbers of all packs, rising."""
        with (
            translated(f"reading {self._paths.db}"),
            self._env.begin() as txn,
            txn.cursor(db=self.packs) as cursor,
        ):
            return [pack_number(key) for key in cursor.iternext(keys=True, values=False)]

    def dead_rows(self) -> Iterator[tuple[int, list[Part]]]:
        """What is said of dead rows: (pack, parts), in order. No transaction stays open between two."""
        for key, value in self._rows_of(self.dead):
            yield pack_number(key), parts_decode(pack_number(key), value)

    def branch_rows(self) -> Iterator[BranchRow]:
        """The rows of all branches, deleted ones included. No transaction stays open between two."""
        for key, value in self._rows_of(self.branches):
            yield row_decode(name_decode(key), value)

    def _rows_of(self, database: Any) -> Iterator[tuple[bytes, bytes]]:
        after = b""
        while True:
            found: list[tuple[bytes, bytes]] = []
            with (
                translated(f"reading {self._paths.db}"),
                self._env.begin() as txn,
                txn.cursor(db=database) as cursor,
            ):
                if cursor.set_range(after + b"\0"):
                    found = list(islice(cursor.iternext(), _ROWS_A_LOOK))
            if not found:
                return
            yield from found
            after = found[-1][0]

    def log_block(self, name: str, serial: int) -> tuple[int, list[memoryview]]:
        """(first serial, records) of the block that begins with this serial. CorruptError."""
        what = f"log of branch {name!r} from serial {serial}"
        with translated(f"reading {self._paths.db}"), self._env.begin(buffers=True) as txn:
            value = txn.get(log_key(name, serial), db=self.log)
            if value is None:
                raise CorruptError(f"{what}: it is not there")
            block = log_block(value, what)
        return log_records(block, name, what)

    def reader_transactions(self) -> list[int]:
        """Of which transactions there are readers now, those of the dead included."""
        with translated(f"looking at the readers of {self._paths.db}"):
            lines = str(self._env.readers()).splitlines()
        fields = [line.split() for line in lines]
        return [
            int(field[-1])
            for field in fields
            if len(field) == 3 and field[0].isdigit() and field[-1].isdigit()
        ]

    def clear_dead_readers(self) -> int:
        """Give back the reader slots of processes that died in a read transaction."""
        with translated(f"checking the readers of {self._paths.db}"):
            return int(self._env.reader_check())


@functools.cache
def boot_id() -> bytes:
    """Names this boot of the machine, 16 bytes. StoreError."""
    path = Path("/proc/sys/kernel/random/boot_id")
    try:
        text = path.read_text(encoding="ascii")
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    return bytes.fromhex(text.strip().replace("-", ""))


@contextlib.contextmanager
def pinned(store: StorePaths, *, lock: bool) -> Iterator[int]:
    """Hold a read transaction, so that its pages stay as they are; yields its number. For check.py alone: it opens an
    environment of its own, so no reader of this process may have one; and on a damaged file LMDB may end the process.
    """
    with translated(f"opening {store.db}"):
        env = _environment(store.db, readonly=True, lock=lock)
        try:
            with env.begin() as txn:
                yield int(txn.id())
        finally:
            env.close()
