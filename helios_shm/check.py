"""check(): everything that a store holds against what it must be, all damage by name.

    helios.json      its form; the database has the same uuid
    db/data.mdb      page by page (pages.py): trees, counts, free pages
      packs          table of contents; every entry: sizes, codec, BLAKE3 against its id; nodes: canonical form
      dead           sums; what a collection has declared dead counts as gone, and nothing that lives leads there
      log, branches  sums; serial, sequence and parent of each commit; a row says what its newest commit does
      reachable      from every commit, and from every node of the packs that a collection has gone through: nodes are
                     there, levels, keys and totals agree; values are there, of their size
    blobs/           every file that a row names: size, BLAKE3
    worktrees/       sums
    locator          every entry is found through it, and nothing else stands in it
    shared memory    every published entry's sum; the chains of the heads; what only they have can be read

The files are looked at by a process of their own. LMDB is asked for nothing there but a read transaction, which keeps
the pages of one moment as they are: a damaged database may end a process that opens it. Should it do so, that is
reported, and another process looks at the file without it. So a check may run while others commit. Its
memory is bounded: a bit for each entry, a table of ids (a large one in a file of its own), some thousand nodes. A
tree that many commits share is walked once.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import blobs, config, l2, lifecycle, worktree
from ._capi import ffi, lib
from .attachment import WORD_IN_L2, Attachment, Deadline, empty_root
from .dead import Clock, Part, part_at, parts_decode
from .errors import CorruptError, HeliosError, ReadOnlyError, StoreError
from .hashing import blake3
from .names import title
from .pages import Meta, Pages, Tree, meta_read, page_size_of
from .record import DELETED, HAS_PARENT, HAS_SECOND, RECORD, record_head
from .retention import collected_decode
from .snapshot import make_snapshot
from .store import INFO_NAME, StoreInfo, StorePaths, info_bytes, info_parse
from .types import CheckReport

Tell = Callable[[str], None]

# As many sentences as anybody reads; what is beyond is counted.
_SENTENCES_MAX = 10_000
_SUMMARIES_MAX = 1 << 16
_DICT_ENTRIES_MAX = 1 << 16
_BLOCK_SIZE = 1 << 20
_WORDS_A_CALL = 1024
# A writer's file grows while it writes; one that has not been touched for so long was left behind by a dead writer.
_TEMPORARY_SECONDS = 600.0
_META_ATTEMPTS = 16
# Packs that a coordinator may have entered in the locator and not yet marked.
_UNMARKED_MAX = 64
_MEND_SECONDS = 60.0
_PROGRAM = "import sys; from helios_shm.check import main; sys.exit(main(sys.argv[1:]))"
_PINNED, _PRIVATE, _UNPINNED = "pinned", "private", "unpinned"
_DATABASES = (b"packs", b"log", b"branches", b"meta")
# What may be missing would be missed by nobody if its name were damaged: so no other names may be there.
_KNOWN_DATABASES = frozenset((*_DATABASES, b"dead"))
_KNOWN_FACTS = frozenset((b"uuid", b"format", b"epoch", b"next_pack", b"generation", b"clock", b"collected"))
_KNOWN_FILES = re.compile(
    r"helios\.json|db|locator(\.next|\.damaged)?|blobs|worktrees|locks|leases|coordinator\.log|coordinator\.error"
    r"|gc\.(request|result)|\.tmp-[0-9a-f]{16}"
)
_TRASH_NAME = re.compile(r"trash-[0-9a-f]{64}")
_BLOB_DIRECTORY, _BLOB_NAME = re.compile(r"[0-9a-f]{2}"), re.compile(r"[0-9a-f]{62}")
_WORKTREE_NAME = re.compile(r"[0-9a-f]{32}")
_LOCATOR_HEADER_SIZE, _PACK_BITS, _ROW_BITS = 4096, 30, 20
_PACKS_ABOVE_MARK = 1 << 20


# ---- nodes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Summary:
    """What a parent says of a node, and the node of itself."""

    level: int
    keys: int
    value_bytes: int
    first: bytes
    last: bytes


@dataclass(frozen=True, slots=True)
class _Node:
    """A node whose form was validated."""

    raw: bytes
    count: int
    is_leaf: bool

    @staticmethod
    def of(raw: bytes) -> _Node:
        return _Node(raw, int.from_bytes(raw[4:6], "little"), raw[0] == 1)

    def _suffixes_at(self) -> int:
        return 8 + (4 if self.is_leaf else 2) * self.count + int.from_bytes(self.raw[6:8], "little")

    def _end(self, i: int) -> int:
        return int.from_bytes(self.raw[8 + 2 * i : 10 + 2 * i], "little")

    def key(self, i: int) -> bytes:
        at = self._suffixes_at()
        prefix = self.raw[at - int.from_bytes(self.raw[6:8], "little") : at]
        return prefix + self.raw[at + (self._end(i - 1) if i else 0) : at + self._end(i)]

    def children(self) -> Iterator[bytes]:
        at = len(self.raw) - 16 - 32 * self.count
        return (self.raw[at + 32 * i : at + 32 * i + 32] for i in range(self.count))

    def hashed_values(self) -> Iterator[tuple[int, bytes, int]]:
        """(entry, id, size) of the values that stand elsewhere."""
        forms = self.raw[9 + 2 * self.count : 8 + 4 * self.count : 2]
        if 255 not in forms:
            return
        at = self._suffixes_at() + self._end(self.count - 1)
        for i, form in enumerate(forms):
            if form == 255:
                yield i, self.raw[at + 8 : at + 40], int.from_bytes(self.raw[at : at + 8], "little")
            at += 40 if form == 255 else form

    def summary(self) -> _Summary:
        totals = self.raw[-16:]
        first, last = (self.key(0), self.key(self.count - 1)) if self.count else (b"", b"")
        keys, value_bytes = (int.from_bytes(part, "little") for part in (totals[:8], totals[8:]))
        return _Summary(self.raw[2], keys, value_bytes, first, last)


# ---- packs and what is in them ---------------------------------------------------------------------------


class _Packs:
    """All packs of one transaction, and a private table from id to entry."""

    def __init__(self, store: StorePaths, tell: Tell) -> None:
        self._store = store
        self._tell = tell
        self.packs: dict[int, memoryview] = {}
        self.generation = 0  # how many collections have deleted something
        self._given = 0  # numbers up to here were given to packs
        self._gone_through = 1  # the last collection left nothing open in the packs below this one
        self._dead: dict[int, Part] = {}
        self._first: dict[int, int] = {}  # ordinal of a pack's first entry
        self._entries = 0
        self._bad: set[int] = set()  # ordinals
        self._walked = bytearray()
        self._summaries: dict[bytes, _Summary] = {}
        # Where an id stands: in a dict, or, where there are many, in a table of the kind that the locator is.
        self._places: dict[bytes, list[tuple[int, int]]] = {}
        self._table: l2.Locator | None = None
        self._empty = empty_root()

    @property
    def newest(self) -> int:
        """The last number that was given to a pack; a collection may have deleted that one."""
        return max(self._given if self.generation else 0, *self.packs, 0)

    def add_fact(self, key: bytes, value: memoryview) -> None:
        """A row of meta, before the packs."""
        if key == b"generation":
            self.generation = int.from_bytes(value, "little")
        elif key == b"next_pack":
            self._given = int.from_bytes(value, "little") - 1
        elif key == b"collected" and (told := collected_decode(bytes(value))) is not None:
            self._gone_through = told.below
        elif key == b"clock":
            try:
                Clock.decode(value)
            except CorruptError as error:
                self._tell(f"meta: {error}")

    def add_dead(self, key: bytes, value: memoryview) -> None:
        """What is dead of a pack, before the packs."""
        number = int.from_bytes(key, "big")
        try:
            part = part_at(parts_decode(number, value), self.generation)
        except CorruptError as error:
            self._tell(f"dead: {error}")
            return
        if part is not None:
            self._dead[number] = part

    def is_dead(self, number: int, row: int) -> bool:
        part = self._dead.get(number)
        return part is not None and part.has(row)

    @property
    def entries(self) -> int:
        return self._entries

    def add(self, key: bytes, pack: memoryview) -> None:
        """A pack, and everything in it against its hash."""
        number = int.from_bytes(key, "big")
        if len(key) != 8 or number == 0:
            self._tell(f"packs: key {key!r} is no number of a pack")
            return
        self.packs[number] = pack
        self._first[number] = self._entries
        if lib.hs_pack_validate(ffi.from_buffer(pack), len(pack)) != lib.HS_OK:
            self._tell(f"pack {number}: its table of contents fails its checksum")
        for row in range(l2.pack_count(pack)):
            fault = None if self.is_dead(number, row) else self._entry_fault(pack, row)
            if fault is not None:
                self._bad.add(self._entries + row)
                self._tell(f"pack {number}, row {row}, {self._named(pack, row)}: {fault}")
        self._entries += l2.pack_count(pack)

    @staticmethod
    def _named(pack: memoryview, row: int) -> str:
        kind = {l2.NODE: "node", l2.VALUE: "value", l2.BLOB: "large value"}.get(
            l2.pack_kind(pack, row), "entry"
        )
        return f"{kind} {l2.pack_id(pack, row).hex()}"

    def _entry_fault(self, pack: memoryview, row: int) -> str | None:
        id = l2.pack_id(pack, row)
        try:
            entry = l2.pack_entry(pack, row, id)
        except l2.Damaged as failure:
            return str(failure)
        if entry.kind == l2.BLOB:
            return self.blob_fault(id, entry.size)
        if entry.kind == l2.NODE and lib.hs_node_validate(entry.raw, len(entry.raw)) != lib.HS_OK:
            return "the bytes are no canonical node"
        return None

    def blob_fault(self, id: bytes, size: int) -> str | None:
        """What is wrong with the file of a large value; None: nothing."""
        path = blobs.path_of(self._store, id)
        name = path.relative_to(self._store.root)
        try:
            with open(path, "rb") as file:
                found = os.fstat(file.fileno()).st_size
                if found != size:
                    return f"its file {name} has {found} bytes where {size} were expected"
                with contextlib.closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as mapping:
                    return None if blake3(mapping) == id else f"its file {name} holds other bytes"
        except FileNotFoundError:
            return f"its file {name} is missing"
        except (OSError, ValueError) as error:
            return f"its file {name} cannot be read: {error}"

    def index(self) -> None:
        """Once all packs are there: where each id stands."""
        self._walked = bytearray((self._entries >> 3) + 1)
        if self._entries > _DICT_ENTRIES_MAX:
            capacity = 2 * self._entries
            while not self._fill_table(capacity):
                capacity *= 2
            return
        for number, pack in self.packs.items():
            for row in range(l2.pack_count(pack)):
                self._places.setdefault(l2.pack_id(pack, row), []).append((number, row))

    def _fill_table(self, capacity: int) -> bool:
        directory = Path(tempfile.mkdtemp(prefix="helios-check-"))
        try:
            self._table = l2.Locator.create(directory / "locator", capacity, bytes(16))
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        self._table.mark(self.newest, bytes(16))
        for number, pack in self.packs.items():
            with contextlib.suppress(CorruptError):  # said before
                if not self._table.insert(number, pack):
                    return False
        return True

    def _find(self, id: bytes) -> Iterator[tuple[int, memoryview, int]]:
        """(ordinal, pack, row) of the whole entries of this id."""
        places = self._places.get(id, []) if self._table is None else self._table.find(id)
        for number, row in places:
            pack = self.packs.get(number)
            if pack is not None and l2.pack_has(pack, row, id) and not self.is_dead(number, row):
                ordinal = self._first[number] + row
                if ordinal not in self._bad:
                    yield ordinal, pack, row

    def _node(self, id: bytes) -> tuple[int, _Node] | None:
        for ordinal, pack, row in self._find(id):
            with contextlib.suppress(l2.Damaged):
                entry = l2.pack_entry(pack, row, id)
                if entry.kind == l2.NODE:
                    return ordinal, _Node.of(entry.raw)
        return None

    def _has_value(self, id: bytes, size: int) -> str | None:
        """What is wrong with a value that a leaf names; None: nothing."""
        for _, pack, row in self._find(id):
            if l2.pack_kind(pack, row) in (l2.VALUE, l2.BLOB):
                found = l2.pack_raw_size(pack, row)
                return None if found == size else f"has {found} bytes where {size} were expected"
        if size >= config.BLOB_BYTES_MIN:
            fault = self.blob_fault(id, size)
            return None if fault is None else f"is in no pack, and {fault}"
        return "is nowhere"

    def _summary(self, id: bytes) -> _Summary | None:
        known = self._summaries.get(id)
        if known is None:
            found = self._node(id)
            if found is None:
                return None
            if len(self._summaries) >= _SUMMARIES_MAX:
                self._summaries.clear()
            known = self._summaries[id] = found[1].summary()
        return known

    def walk_collected(self) -> None:
        """After a collection every living node of the packs that it went through leads to what lives."""
        for number in (number for number in self.packs if number < self._gone_through):
            pack = self.packs[number]
            for row in range(l2.pack_count(pack)):
                if l2.pack_kind(pack, row) == l2.NODE and not self.is_dead(number, row):
                    self.walk(l2.pack_id(pack, row), f"pack {number}, row {row}", inner=True)

    def walk(self, root: bytes, where: str, *, inner: bool = False) -> None:
        """Everything below a root, unless it was walked before. ``inner``: it may be no root, but a node below one."""
        waiting = [root] if root != self._empty else []
        is_root = not inner
        while waiting:
            id = waiting.pop()
            found = self._node(id)
            if found is None:
                self._tell(f"{where}: node {id.hex()} of its state is damaged or missing")
                continue
            ordinal, node = found
            if self._walked[ordinal >> 3] & (1 << (ordinal & 7)):
                continue
            self._walked[ordinal >> 3] |= 1 << (ordinal & 7)
            if is_root and not node.is_leaf and node.count < 2:
                self._tell(f"{where}: node {id.hex()} is no root")
            is_root = False
            if node.is_leaf:
                self._look_at_leaf(id, node, where)
            else:
                waiting += self._look_at_inner(id, node, where)

    def _look_at_leaf(self, id: bytes, node: _Node, where: str) -> None:
        for i, value, size in node.hashed_values():
            fault = self._has_value(value, size)
            if fault is not None:
                path = node.key(i).decode(errors="replace")
                self._tell(f"{where}: value {value.hex()} of path {path!r} {fault}")

    def _look_at_inner(self, id: bytes, node: _Node, where: str) -> list[bytes]:
        """The children that are there, after comparing what they say with what their parent does."""
        children: list[bytes] = []
        mine, keys, value_bytes, before = node.summary(), 0, 0, b""
        for i, child in enumerate(node.children()):
            found = self._summary(child)
            if found is None:
                self._tell(f"{where}: node {child.hex()} below node {id.hex()} is damaged or missing")
                return children
            told = node.key(i)
            if found.level + 1 != mine.level or found.last != told or found.first <= before:
                self._tell(f"{where}: node {child.hex()} does not fit into node {id.hex()}")
            keys, value_bytes, before = keys + found.keys, value_bytes + found.value_bytes, told
            children.append(child)
        if (keys, value_bytes) != (mine.keys, mine.value_bytes):
            self._tell(
                f"{where}: node {id.hex()} says {mine.keys} keys and {mine.value_bytes} bytes; its children "
                f"{keys} and {value_bytes}"
            )
        return children

    # --- the locator ---

    def compare_locator(self, store: StorePaths, table: l2.Locator, before: l2.LocatorInfo) -> None:
        """``before``: where it stood before the transaction of these packs began."""
        is_ours = before.boot_id == l2.boot_id()
        mark = before.mark if is_ours else min(before.mark, before.checkpoint)
        if mark > self.newest:
            self._tell(f"locator: it has all packs up to {mark}, and the database ends with {self.newest}")
        lost, first = 0, ""
        for number, pack in self.packs.items():
            for row in range(l2.pack_count(pack) if number <= mark else 0):
                id = l2.pack_id(pack, row)
                if (number, row) not in table.find(id) and not self.is_dead(number, row):
                    lost, first = lost + 1, first or f"{id.hex()} of pack {number}"
        if lost:
            self._tell(f"locator: {lost} entries are not found through it; the first is {first}")
        self._compare_words(store, table, before, mark)

    def _compare_words(self, store: StorePaths, table: l2.Locator, before: l2.LocatorInfo, mark: int) -> None:
        """Nothing may stand in the locator but the rows of packs."""
        count = strange = 0
        beyond: list[int] = []  # packs of others' rows that were entered meanwhile
        try:
            with open(store.locator, "rb") as file:
                if not table.is_named(store.locator):
                    return  # renamed meanwhile: another is there
                file.seek(_LOCATOR_HEADER_SIZE)
                left = 8 * before.capacity
                while left and len(data := file.read(min(left, _BLOCK_SIZE))) == min(left, _BLOCK_SIZE):
                    words = [word for word in memoryview(data).cast("Q") if word]
                    count += len(words)
                    strange += sum(not self._names_a_row(word, mark, beyond) for word in words)
                    left -= len(data)
        except OSError as error:
            self._tell(f"locator: it cannot be read: {error}")
            return
        last = max(table.info().mark, self.newest) + _UNMARKED_MAX
        strange += sum(number > last for number in beyond)
        if strange:
            self._tell(f"locator: {strange} of its rows name nothing")
        # A power cut may have kept rows and not their count; who opens the file to write counts them anew.
        if before.boot_id == l2.boot_id() and table.info().rows == before.rows != count:
            self._tell(f"locator: it has {count} rows and counts {before.rows}")

    def _names_a_row(self, word: int, mark: int, beyond: list[int]) -> bool:
        row = (word & ((1 << _ROW_BITS) - 1)) - 1
        newest = mark + _PACKS_ABOVE_MARK
        number = newest - ((newest - (word >> _ROW_BITS)) & ((1 << _PACK_BITS) - 1))
        if number <= self.newest:
            if number not in self.packs:
                return self.generation > 0  # of a pack that is gone
            return 0 <= row < l2.pack_count(self.packs[number])
        beyond.append(number)
        return row >= 0


# ---- branches and their logs -----------------------------------------------------------------------------


@dataclass(slots=True)
class _Log:
    """Where the log of a branch stands while it is read."""

    oldest: int
    next_serial: int | None  # None: the block before could not be read
    newest: bytes | None = None


class _History:
    """Commits in the order of their serials, branch after branch."""

    def __init__(self, packs: _Packs, tell: Tell) -> None:
        self._packs = packs
        self._tell = tell
        self._logs: dict[bytes, _Log] = {}

    def add_block(self, key: bytes, block: memoryview) -> None:
        name, serial = key[:-9], int.from_bytes(key[-8:], "big")
        if len(key) < 10 or key[-9]:
            self._tell(f"log: key {key!r} is none of a branch's")
            return
        what = f"log of {title(name.decode(errors='replace'))} from serial {serial}"
        log = self._logs.setdefault(name, _Log(serial, serial))
        if log.next_serial != serial:
            if log.next_serial is not None:
                self._tell(f"{what}: what follows on serial {log.next_serial - 1} is missing")
            log.newest = None
        if lib.hs_log_validate(ffi.from_buffer(block), len(block)) != lib.HS_OK:
            self._tell(f"{what}: the block is damaged")
            log.next_serial = log.newest = None
            return
        first, records = l2.log_parts(bytes(block))
        if first != serial:
            self._tell(f"{what}: the block begins with serial {first}")
        for record in records:
            self._add_record(name, log, bytes(record))
        log.next_serial = first + len(records)

    def _add_record(self, name: bytes, log: _Log, record: bytes) -> None:
        fields = RECORD.unpack_from(record)
        serial, sequence, root, parent, second = fields[10], fields[11], fields[7], fields[20], fields[21]
        where = f"{title(name.decode(errors='replace'))}, commit {sequence} (serial {serial})"
        fault = _record_fault(name, record) or _chain_fault(log.newest, record)
        if fault is not None:
            self._tell(f"{where}: {fault}")
        log.newest = record
        self._packs.walk(root, where)
        if fields[2] & HAS_PARENT and log.oldest == serial and sequence == 1:
            self._packs.walk(parent, f"{where}, its parent")
        if fields[2] & HAS_SECOND:
            self._packs.walk(second, f"{where}, its second parent")

    def add_row(self, key: bytes, data: memoryview) -> None:
        """A branch's row, when all blocks have been added."""
        log = self._logs.pop(key, None)
        try:
            name = l2.name_decode(key)
            row = l2.row_decode(name, data)
        except CorruptError as error:
            self._tell(str(error))
            return
        if log is None:
            self._tell(f"{title(name)}: there is no log of it")
        elif log.newest is not None:
            head = record_head(log.newest)
            told = (row.serial, row.sequence, row.incarnation, row.time_ns, row.root, row.deleted, row.oldest)
            found = (head.serial, head.sequence, head.incarnation, head.time_ns, head.root, head.deleted)
            if told != (*found, log.oldest):
                self._tell(f"{title(name)}: its row does not say what its newest commit does")
        else:
            self._tell(f"{title(name)}: its newest commit cannot be read")

    def finish(self) -> None:
        for name in self._logs:
            self._tell(f"{title(name.decode(errors='replace'))}: it has a log and no row")


def _record_fault(name: bytes, record: bytes) -> str | None:
    """What a canonical record may still have wrong: its texts."""
    _, _, _, name_size, _, message_size, metadata_size, *_ = RECORD.unpack_from(record)
    message_at = RECORD.size + name_size
    metadata_at = message_at + message_size
    if record[RECORD.size : message_at] != name:
        return "its record is another branch's"
    try:
        record[message_at:metadata_at].decode()
        json.loads(record[metadata_at : metadata_at + metadata_size] or "{}")
    except (ValueError, RecursionError) as error:
        return f"its message or metadata cannot be read: {error}"
    return None


def _chain_fault(before: bytes | None, record: bytes) -> str | None:
    """Does a record follow on the one before it? ``before`` None: that is not there (any more)."""
    fields = RECORD.unpack_from(record)
    incarnation, serial, sequence, parent = fields[8], fields[10], fields[11], fields[20]
    if before is None:
        return "it is the first, and not numbered so" if serial == 1 and sequence != 1 else None
    old = RECORD.unpack_from(before)
    begins = bool(old[2] & DELETED)
    expected = (old[8] + 1, 1) if begins else (old[8], old[11] + 1)
    if (incarnation, sequence) != expected:
        return f"it is number {sequence} of incarnation {incarnation} where {expected[1]} of {expected[0]} follows"
    if bool(fields[2] & HAS_PARENT) == begins or (not begins and parent != old[7]):
        return "its parent is not the commit before it"
    return None


# ---- the files -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Files:
    """One look at the files of a store."""

    store: StorePaths
    tell: Tell
    info: StoreInfo | None = None

    def look(self, pin: Callable[[], contextlib.AbstractContextManager[int | None]]) -> None:
        """Everything. ``pin`` holds a read transaction while it is entered, and says its number."""
        self._look_at_description()
        self._look_at_names()
        table: l2.Locator | None = None
        try:
            table = l2.Locator.open(self.store.locator, writable=False)
            if table is None and os.path.lexists(self.store.locator):
                self.tell("locator: the file is none")
        except HeliosError as error:
            self.tell(f"locator: {error}")
        # Before the transaction: what is marked in the locator by now is in it.
        stands = (table, table.info()) if table is not None else None
        for attempt in range(_META_ATTEMPTS):
            try:
                with pin() as transaction:
                    if self._look_at_database(transaction, stands, last=attempt == _META_ATTEMPTS - 1):
                        return
            except HeliosError as error:
                self.tell(f"the database cannot be opened: {error}")
                self._look_at_database(None, stands, last=True)
                return

    def _look_at_description(self) -> None:
        try:
            data = self.store.info.read_bytes()
            self.info = info_parse(data, self.store.info)
        except (OSError, HeliosError) as error:
            self.tell(f"{INFO_NAME}: {error}")
            return
        if data != info_bytes(self.info):
            self.tell(f"{INFO_NAME}: it is not as this library writes it")

    def _look_at_names(self) -> None:
        """Files that a store does not have."""
        for entry in _listed(self.store.root, self.tell):
            if not _KNOWN_FILES.fullmatch(entry.name):
                self.tell(f"{entry.name}: no file of a store")
        for directory in _listed(self.store.blobs, self.tell):
            if _TRASH_NAME.fullmatch(directory.name):
                continue  # the next collection removes it
            if not _BLOB_DIRECTORY.fullmatch(directory.name) or not directory.is_dir(follow_symlinks=False):
                self.tell(f"blobs/{directory.name}: no directory of large values")
                continue
            for entry in _listed(Path(directory.path), self.tell):
                self._look_at_blob_name(directory.name, entry)

        if self.store.worktrees.is_dir():
            for entry in _listed(self.store.worktrees, self.tell):
                self._look_at_worktree(entry)

    def _look_at_worktree(self, entry: os.DirEntry[str]) -> None:
        name = f"worktrees/{entry.name}"
        if entry.name.startswith(".tmp-"):
            if _is_left_behind(Path(entry.path)):
                self.tell(f"{name}: left behind by a writer that died")
        elif not _WORKTREE_NAME.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
            self.tell(f"{name}: no index of a directory")
        else:
            with contextlib.suppress(OSError):  # replaced meanwhile
                if not worktree.is_whole(Path(entry.path).read_bytes()):
                    self.tell(f"{name}: a damaged index of a directory, which nobody will use; delete it")

    def _look_at_blob_name(self, directory: str, entry: os.DirEntry[str]) -> None:
        if _BLOB_NAME.fullmatch(entry.name):
            return
        if not entry.name.startswith(".tmp-"):
            self.tell(f"blobs/{directory}/{entry.name}: no name of a large value")
        elif _is_left_behind(Path(entry.path)):
            self.tell(f"blobs/{directory}/{entry.name}: left behind by a writer that died")

    def _look_at_database(
        self, transaction: int | None, stands: tuple[l2.Locator, l2.LocatorInfo] | None, *, last: bool
    ) -> bool:
        """The database, and the locator against it. False: two transactions have passed since that of ``transaction``,
        whose meta page is gone, so begin anew."""
        try:
            with open(self.store.db / "data.mdb", "rb") as file:
                data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:
            self.tell(f"the database cannot be read: {error}")
            return True
        faults: list[str] = []
        meta = self._meta(data, transaction, faults.append)
        if meta is None and not last:
            return False
        for fault in faults:
            self.tell(f"the database is damaged: {fault}")
        if meta is None:
            self.tell("the database is damaged: no meta page can be used")
            return True
        packs = self._look_at_pages(data, meta)
        if stands is not None:
            packs.compare_locator(self.store, *stands)
        return True

    def _look_at_pages(self, data: memoryview, meta: Meta) -> _Packs:
        pages = Pages(data, meta)
        trees = pages.databases()
        packs = _Packs(self.store, self.tell)
        facts: dict[bytes, memoryview] = {}
        self._read(pages, trees, b"meta", facts.__setitem__)
        for key, value in facts.items():
            packs.add_fact(key, value)
        self._read(pages, trees, b"dead", packs.add_dead)
        self._read(pages, trees, b"packs", packs.add)
        packs.index()
        history = _History(packs, self.tell)
        self._read(pages, trees, b"log", history.add_block)
        self._read(pages, trees, b"branches", history.add_row)
        history.finish()
        packs.walk_collected()
        pages.account()
        missing = [f"{name.decode()} is missing" for name in _DATABASES if name not in trees]
        unknown = [f"it has a table {name!r}" for name in trees if name not in _KNOWN_DATABASES]
        unknown += [f"meta has a row {key!r}" for key in facts if key not in _KNOWN_FACTS]
        for fault in (*pages.damage, *missing, *unknown):
            self.tell(f"the database is damaged: {fault}")
        self._compare_facts(facts, packs, meta)
        return packs

    @staticmethod
    def _read(
        pages: Pages, trees: dict[bytes, Tree], name: bytes, take: Callable[[bytes, memoryview], None]
    ) -> None:
        if name in trees:
            for key, value in pages.entries(trees[name]):
                take(key, value)

    def _meta(self, data: memoryview, transaction: int | None, tell: Tell) -> Meta | None:
        """The meta page of the pinned transaction; without one, of the newest."""
        size = page_size_of(data)
        if size is None:
            return None
        for _ in range(_META_ATTEMPTS):  # one of them may be being written
            found = [meta_read(data, page, size) for page in (0, 1)]
            metas = [meta for meta in found if isinstance(meta, Meta)]
            numbers = [meta.transaction for meta in metas]
            if len(numbers) == 2 and abs(numbers[0] - numbers[1]) <= 1:
                break
        else:
            for meta in found:
                if isinstance(meta, str):
                    tell(meta)
            if len(numbers) == 2:
                tell(f"its meta pages are of transactions {numbers[0]} and {numbers[1]}")
        if transaction is not None and transaction in numbers:
            return metas[numbers.index(transaction)]
        if transaction is not None and len(numbers) == 2:
            return None
        return max(metas, key=lambda meta: meta.transaction, default=None)

    def _compare_facts(self, facts: dict[bytes, memoryview], packs: _Packs, meta: Meta) -> None:
        numbers = {
            name: int.from_bytes(facts[name], "little") if len(facts.get(name, b"")) == 8 else None
            for name in (b"format", b"epoch", b"next_pack")
        }
        if numbers[b"format"] != 1:
            self.tell(f"meta: the format is {numbers[b'format']}, not 1")
        epoch, next_pack = numbers[b"epoch"], numbers[b"next_pack"]
        if epoch is None or epoch > meta.transaction:
            self.tell(f"meta: epoch {epoch} in transaction {meta.transaction}")
        newest = max(packs.packs, default=0)
        if next_pack is None or next_pack <= newest or (next_pack > newest + 1 and not packs.generation):
            self.tell(f"meta: the next pack is {next_pack}, the newest {newest}")
        if self.info is not None and bytes(facts.get(b"uuid", b"")) != self.info.uuid:
            self.tell(f"meta: the database belongs to another store than {INFO_NAME}")


def _listed(directory: Path, tell: Tell) -> list[os.DirEntry[str]]:
    try:
        return sorted(os.scandir(directory), key=lambda entry: entry.name)
    except FileNotFoundError:
        tell(f"{directory.name}: the directory is missing")
    except OSError as error:
        tell(f"{directory.name}: the directory cannot be read: {error.strerror}")
    return []


def _is_left_behind(path: Path) -> bool:
    try:
        return time.time() - path.stat(follow_symlinks=False).st_mtime > _TEMPORARY_SECONDS
    except OSError:
        return False


def look_at_files(store: StorePaths, how: str = _UNPINNED) -> list[str]:
    """All damage in the files of a store, found in this process. ``how``: pinned, private (pinned without LMDB's lock
    file), unpinned (LMDB is not asked: for a store that nobody writes to)."""
    found: list[str] = []
    beyond = 0

    def tell(sentence: str) -> None:
        nonlocal beyond
        if len(found) < _SENTENCES_MAX:
            found.append(sentence)
        else:
            beyond += 1

    def pin() -> contextlib.AbstractContextManager[int | None]:
        return contextlib.nullcontext() if how == _UNPINNED else l2.pinned(store, lock=how == _PINNED)

    _Files(store, tell).look(pin)
    return [*found, f"and {beyond} more"] if beyond else found


# ---- the process that looks at the files -----------------------------------------------------------------


def _in_child(store: StorePaths, *, private: bool) -> list[str]:
    """What ``look_at_files`` says, from a process that LMDB may end."""
    found: list[str] = []
    for how in (_PRIVATE if private else _PINNED, _UNPINNED):
        done = _run_child(store, how)
        answer = _answer(done.stdout)
        if answer is not None:
            return [*found, *answer]
        reason = (
            signal.Signals(-done.returncode).name
            if done.returncode < 0
            else f"{done.returncode}: {done.stderr.decode(errors='replace').strip()[-500:]}"
        )
        found.append(f"the database is damaged: a process that checked it was ended by {reason}")
    return found


def _run_child(store: StorePaths, how: str) -> subprocess.CompletedProcess[bytes]:
    # Not "-m": the package has imported this module before it would be run as a program.
    command = [sys.executable, "-P", "-c", _PROGRAM, os.fspath(store.root), how]
    try:
        return subprocess.run(
            command, env=lifecycle.child_environment(), stdin=subprocess.DEVNULL, capture_output=True, cwd="/",
            check=False,
        )  # fmt: skip
    except OSError as error:
        raise StoreError(f"{store.root}: cannot start a process that checks it: {error.strerror}") from error


def _answer(output: bytes) -> list[str] | None:
    try:
        answer = json.loads(output)
    except ValueError:
        return None
    return [str(sentence) for sentence in answer]


# ---- shared memory ---------------------------------------------------------------------------------------


def _look_at_memory(attachment: Attachment, tell: Tell, *, deep: bool) -> None:
    """L1. ``deep``: read what the heads' newest commits changed, which asks L2 for the rest."""
    for place, id in _damaged_entries(attachment):
        name = f"entry {id.hex()}" if any(id) else "an entry whose header cannot be"
        tell(f"shared memory, chunk {place >> 16 & 0xFFFF}, unit {place & 0xFFFF}: {name} fails its checksum")
    attachment.forget_nodes()
    for word in _head_words(attachment):
        try:
            _look_at_chain(attachment, word, tell, deep=deep)
        except HeliosError as error:
            tell(f"shared memory, head {word:#x}: {error}")


def _damaged_entries(attachment: Attachment) -> Iterator[tuple[int, bytes]]:
    chunk, offset, place = ffi.new("uint32_t *"), ffi.new("uint32_t *"), ffi.new("uint64_t *")
    id = ffi.new("uint8_t[32]")
    call = attachment.call()
    try:
        while lib.hs_l1_damage(call.c.engine, chunk, offset, place, id) == lib.HS_OK:
            yield int(place[0]), bytes(ffi.buffer(id))
    finally:
        attachment.pool.append(call)


def _head_words(attachment: Attachment) -> list[int]:
    slot, words = ffi.new("uint32_t *"), ffi.new("uint64_t[]", _WORDS_A_CALL)
    found: list[int] = []
    call = attachment.call()
    try:
        while count := lib.hs_branch_words(call.c.engine, slot, words, _WORDS_A_CALL):
            found += ffi.unpack(words, count)
    finally:
        attachment.pool.append(call)
    return found


def _look_at_chain(attachment: Attachment, word: int, tell: Tell, *, deep: bool) -> None:
    """From a head back to what L2 has."""
    below: int | None = None
    persisted = 0
    name = ""
    while not word & WORD_IN_L2 and below != 0:
        record = _ring_record(attachment, word)
        if record is None:
            break  # L2 has it
        head = record_head(record)
        if below is not None and (head.serial, head.name) != (below, name):
            tell(
                f"shared memory: commit {below} of {title(name)} is followed by {head.serial} of {title(head.name)}"
            )
            return
        if deep and below is None:
            persisted = _persisted(attachment, head.name)
        name, below, word = head.name, head.serial - 1, head.parent_word
        if deep and head.serial > persisted:
            _look_at_change(attachment, record)
    if deep and below and _persisted(attachment, name) < below:
        tell(f"shared memory: commit {below} of {title(name)} is neither here nor in L2")


def _persisted(attachment: Attachment, name: str) -> int:
    """The serial of the newest commit that L2 has of a branch."""
    row = attachment.reader.branch(name)
    return 0 if row is None else row.serial


def _ring_record(attachment: Attachment, word: int) -> bytes | None:
    call = attachment.call()
    try:
        n = lib.hs_record_get(call.c, word)
        if n == lib.HS_NOT_FOUND:
            return None
        if n < 0:
            raise CorruptError("its commit record is damaged")
        return bytes(call.data[:n])
    finally:
        attachment.pool.append(call)


def _look_at_change(attachment: Attachment, record: bytes) -> None:
    """Read every path that differs from the commit's parent: all that is new in it."""
    fields = RECORD.unpack_from(record)
    state = make_snapshot(attachment, fields[7])
    parent = make_snapshot(attachment, fields[20] if fields[2] & HAS_PARENT else empty_root())
    change = parent.diff(state)
    for path in (*change.added, *change.changed):
        state.buffer(path)


# ---- all of it, and mending ------------------------------------------------------------------------------


def check_store(attachment: Attachment, *, repair: bool) -> CheckReport:
    """See Engine.check."""
    if repair and (attachment.readonly or attachment.private):
        raise ReadOnlyError(f"{attachment.paths.root} is open read-only; a repair changes it")
    damage = _look(attachment)
    mended = _mend(attachment, damage) if repair else []
    if mended:
        damage = _look(attachment)
    return CheckReport(not damage, tuple(damage + [f"mended: {sentence}" for sentence in mended]))


def _look(attachment: Attachment) -> list[str]:
    attachment.pool.append(attachment.call())  # raises ClosedError
    damage = _in_child(attachment.paths, private=attachment.private)
    files_are_whole = not damage
    _look_at_memory(attachment, damage.append, deep=files_are_whole)
    return damage


def _mend(attachment: Attachment, damage: list[str]) -> list[str]:
    """Mend what can be without losing anything: what was left behind is removed, the locator made anew."""
    mended = []
    paths = attachment.paths
    for path in sorted([*paths.blobs.glob("[0-9a-f][0-9a-f]/.tmp-*"), *paths.worktrees.glob(".tmp-*")]):
        if _is_left_behind(path):
            path.unlink(missing_ok=True)
            mended.append(f"{path.relative_to(paths.root)} was removed")
    if any(sentence.startswith("locator:") for sentence in damage):
        _renew_locator(attachment)
        mended.append("the locator was built anew")
    return mended


def _renew_locator(attachment: Attachment) -> None:
    """Put it aside: the coordinator sees that, and enters all packs in a new one."""
    store = attachment.paths
    try:
        os.rename(store.locator, store.locator_damaged)
    except FileNotFoundError:
        store.locator_damaged.touch(0o600)
    deadline = Deadline(_MEND_SECONDS)
    while store.locator_damaged.exists():
        attachment.wait_durable(deadline, "renewing the locator")
        time.sleep(config.WAIT_SLICE_MS / 1000)
        if deadline.passed():
            raise StoreError(f"{store.root}: the coordinator has built no new locator; see {store.log}")


def main(arguments: list[str]) -> int:
    """Look at the files of a store, say what was found as one JSON list."""
    root, how = arguments
    sys.stdout.write(json.dumps(look_at_files(StorePaths(Path(root)), how)))
    return 0
