"""The collection of what nobody needs any more, as the coordinator does it: in small pieces between its rounds.

    gc.request --> sweep --> round --> trim logs --> mark --> place --> copy --> announce --> STOP flip GO --+
       ^           what one   F, and    history       what     which     live     the next     round, what   |
       |           that died  all that  that is not   lives    rows of   rows of  generation's is new, raise  |
    the caller     has left   is there  kept                   old packs old packs dead rows   generation     |
       |                                                                                                      |
       +-- gc.result <-- locator <-- punch holes <-- trash large values (STOP ... GO each) <-- delete packs <-+

Packs below F are old: of them lives what is marked, from heads, kept commits, leases, and from every node of the packs
at or above F, which are young: all of those live. Everything before the flip adds and takes nothing away but history;
the flip is one transaction at a moment when nobody is inside a commit (hs_drain_stop), so that this holds always:

    closed   a living row of a node in L2 means that all below it is alive in L2

Everything after the flip takes away what nobody can find. So a coordinator may die anywhere: the next one finds the
request and begins anew, and ``collected`` in L2 tells it what was done. docs/CONCURRENCY.md, "Collection".
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import mmap
import os
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import blobs, l2
from ._capi import check, ffi, lib
from .dead import Part
from .errors import BusyError, CorruptError, HeliosError
from .pages import Meta, Pages, meta_read, page_size_of
from .record import DELETED, HAS_SECOND, RECORD
from .retention import Answer, Collected, Request, Rule, Tally, collected_decode, request_decode

if TYPE_CHECKING:
    from .coordinator import Coordinator

_LOG = logging.getLogger("helios_shm.coordinator")

# Between two looks at whether there is a round to do.
SLICE_SECONDS = 0.005
# At the safepoint: how long to wait for those who are in a commit, and how long to mark what is new.
STOP_MS = 5
SETTLE_SECONDS = 0.004
STOPS_MAX = 400
STOP_PAUSE_SECONDS = 0.01
# So much that came since the last look is left to the safepoint.
GROWN_MAX = 1024
# So many wanted nodes are looked for one by one; more, by a look at every pack.
FETCH_MAX = 4096
FETCH_A_LOOK = 64
NEW_PACK_BYTES = 2 << 20
TRANSACTION_PACKS = 64
TRANSACTION_ROWS = 256
LOG_BLOCKS = 16
# A pack of which less than this share lives is copied.
REWRITE_SHARE = 0.5
RENEW_SHARE = 0.25
TRASH_FILES = 64
TRASH_PREFIX = "trash-"
PUNCH_PAGES = 16384
ALIVE_SECONDS = 1.0
ALL_ROWS = 0xFFFFFFFF
_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 1, 2
_BITS = [bytes(0xFF if byte >> bit & 1 else 0 for bit in range(8)) for byte in range(256)]

Work = Generator[None, None, None]


def drop_dead(leases: Path) -> None:
    """Remove the tables of processes that are gone; never between hs_drain_stop and hs_drain_go."""
    check(lib.hs_lease_drop_dead(os.fsencode(leases)), f"removing the leases of the dead in {leases}")


class Mark:
    """What lives (csrc/hs_mark.c), and the tables of leases that it is told of."""

    def __init__(self, leases: Path) -> None:
        self._leases = os.fsencode(leases)
        mark, view = ffi.new("hs_mark **"), ffi.new("hs_lease_view **")
        check(lib.hs_mark_open(mark), "marking")
        self._mark = ffi.gc(mark[0], lib.hs_mark_close)
        check(lib.hs_lease_view_open(self._leases, view), f"reading the leases in {leases}")
        self._view = ffi.gc(view[0], lib.hs_lease_view_close)
        self._row = ffi.new("uint32_t *")
        self._bytes = ffi.new("uint64_t *")
        self._rows = ffi.new("uint32_t *")

    def add(self, root: bytes) -> None:
        check(lib.hs_mark_add(self._mark, root), "marking")

    def node(self, id: bytes, raw: bytes) -> None:
        check(lib.hs_mark_node(self._mark, id, raw, len(raw)), f"marking from node {id.hex()}")

    def pack(self, pack: memoryview, number: int, row: int, dead: bytes | None, *, young: bool) -> int:
        """Look at some rows of a pack, from ``row`` downwards. Returns where to go on; 0: that was all."""
        self._row[0] = row
        data, bitmap = ffi.from_buffer(pack), ffi.NULL if dead is None else dead
        if row == ALL_ROWS:
            check(lib.hs_pack_validate(data, len(pack)), f"the table of contents of pack {number}")
        flags = lib.HS_MARK_YOUNG if young else 0
        check(
            lib.hs_mark_pack(self._mark, data, len(pack), bitmap, flags, self._row),
            f"marking from pack {number}",
        )
        return int(self._row[0])

    def leases(self) -> int | None:
        """Read the tables again. Returns how many states came in that nothing marked is; None: some process is just
        putting a table in its place, so look again."""
        found = lib.hs_lease_view_read(self._view, self._mark)
        return None if found == lib.HS_TIMED_OUT else check(found, "reading the leases")

    def pending(self) -> int:
        return int(lib.hs_mark_pending(self._mark))

    def wanted(self, most: int) -> list[bytes]:
        """Nodes that live and have not been looked at, in turn; none: all of them were given."""
        ids = ffi.new("uint8_t[]", 32 * most)
        return _ids(ids, lib.hs_mark_wanted(self._mark, ids, most))

    def watch(self) -> None:
        lib.hs_mark_watch(self._mark)

    def grown(self, most: int) -> list[bytes] | None:
        """What was marked since ``watch``; None: more than ``most``."""
        ids = ffi.new("uint8_t[]", 32 * most)
        count = lib.hs_mark_grown(self._mark, ids, most)
        return None if count > most else _ids(ids, count)

    def place(self, pack: memoryview, number: int, dead: bytes | None) -> tuple[bytes, int, int]:
        """(dead rows of a pack, stored bytes and number of its living ones). Newest pack first: an id lives in one."""
        bitmap = bytearray((l2.pack_count(pack) + 7) // 8 or 1)
        before = ffi.NULL if dead is None else dead
        status = lib.hs_mark_place(
            self._mark,
            ffi.from_buffer(pack),
            len(pack),
            before,
            ffi.from_buffer(bitmap),
            self._bytes,
            self._rows,
        )
        check(status, f"looking at pack {number}")
        return bytes(bitmap), int(self._bytes[0]), int(self._rows[0])

    def has(self, id: bytes) -> bool:
        return bool(lib.hs_mark_has(self._mark, id))


def _ids(data: Any, count: int) -> list[bytes]:
    view = ffi.buffer(data, 32 * count)[:]
    return [view[at : at + 32] for at in range(0, len(view), 32)]


class Collector:
    """Looks for requests, and does a piece of the one at hand whenever it is let."""

    def __init__(self, owner: Coordinator) -> None:
        self._owner = owner
        self._paths = owner.paths
        self._collection: Collection | None = None
        self._work: Iterator[None] = iter(())
        self._told_alive = 0.0

    @property
    def active(self) -> bool:
        return self._collection is not None

    def note(self, block: bytes) -> None:
        """Commits that a round has just written to a log."""
        if self._collection is not None:
            self._collection.note(block)

    def step(self) -> bool:
        """A piece of work. False: there is none."""
        request = self._request()
        if self._collection is not None and (request is None or request.id != self._collection.request.id):
            self._drop()  # whoever asked has given up
        if request is None:
            return False
        try:
            if self._collection is None:
                self._begin(request)
            self._piece()
        except l2.EpochError:
            raise
        except (HeliosError, OSError) as error:
            self._failed(request, error)
        return True

    def _request(self) -> Request | None:
        try:
            data = self._paths.gc_request.read_bytes()
        except OSError:
            return None
        try:
            return request_decode(data)
        except CorruptError as error:
            _LOG.error("%s", error)
            self._paths.gc_request.unlink(missing_ok=True)
            return None

    def _begin(self, request: Request) -> None:
        self._collection = Collection(self._owner, request)
        self._work = self._collection.run()
        self._told_alive = 0.0

    def _piece(self) -> None:
        assert self._collection is not None
        now = time.monotonic()
        if now - self._told_alive > ALIVE_SECONDS:
            self._told_alive = now
            with contextlib.suppress(OSError):
                os.utime(self._paths.gc_request)
        for _ in self._work:
            if time.monotonic() - now >= SLICE_SECONDS:
                return
        self._answer(Answer(self._collection.request.id, self._collection.total()))
        lib.hs_step_hit(b"gc_told")
        self._drop()

    def _failed(self, request: Request, error: Exception) -> None:
        _LOG.error("a collection failed: %s", error)
        kind = "BusyError" if isinstance(error, BusyError) else "StoreError"
        if isinstance(error, CorruptError):
            kind = "CorruptError"
        with contextlib.suppress(OSError):
            self._answer(Answer(request.id, None, str(error), kind))
        self._drop()
        self._owner.open_again()

    def _answer(self, answer: Answer) -> None:
        """The answer, then the request goes: who finds both has nothing to do."""
        with contextlib.suppress(FileNotFoundError):
            blobs.replace_file(self._paths.gc_result, answer.encode())
        self._paths.gc_request.unlink(missing_ok=True)

    def _drop(self) -> None:
        self._collection, self._work = None, iter(())


@dataclass(slots=True)
class Collection:
    """One collection, from the first look to the last. ``run`` yields wherever it may be left for a round."""

    owner: Coordinator
    request: Request
    tally: Tally = field(default_factory=Tally)
    _mark: Mark = field(init=False)
    _young: int = 0
    _scanned: set[int] = field(default_factory=set)  # young packs that are marked from
    _noted: list[bytes] = field(default_factory=list)
    _strange: int = 0  # leased states that nothing marked is, and that were not looked for in all packs
    _missing: set[bytes] = field(default_factory=set)
    _generation: int = 0
    _deaths: dict[int, bytes] = field(
        default_factory=dict
    )  # old pack -> its dead rows, from the next generation on
    _rewrites: list[int] = field(default_factory=list)
    _dead_files: set[bytes] = field(default_factory=set)
    _stale_rows: int = 0  # of the locator: of packs that go
    _flipped: bool = False
    _took: bool = False  # something has been taken away, or may have been, since commits were stopped
    _below: int = 1  # of the packs below this one no living node leads to what is gone
    _before: Tally = field(default_factory=Tally)  # of a coordinator that died after its flip
    _began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._mark = Mark(self.owner.paths.leases)

    def run(self) -> Work:
        """All of it, wherever an earlier coordinator may have left it."""
        yield from self._sweep()
        self._look_at_meta()
        self.owner.write_round()
        yield from self._trim()
        lib.hs_step_hit(b"gc_trimmed")
        yield from self._mark_all()
        lib.hs_step_hit(b"gc_marked")
        yield from self._place()
        if not self.request.dry_run:
            yield from self._take_away()
        self.tally.duration_ns = int((time.monotonic() - self._began) * 1e9)

    def total(self) -> Tally:
        """What was done, by a coordinator that died on the way as well."""
        return self.tally.after(self._before)

    def _take_away(self) -> Work:
        if self._deaths:
            yield from self._copy()
            lib.hs_step_hit(b"gc_copied")
            yield from self._announce()
            lib.hs_step_hit(b"gc_pending")
            yield from self._delete()
            lib.hs_step_hit(b"gc_gone")
            yield from self._sweep()
            lib.hs_step_hit(b"gc_deleted")
        yield from self._trash()
        lib.hs_step_hit(b"gc_trashed")
        yield from self._punch()
        lib.hs_step_hit(b"gc_punched")
        if self._stale_rows > self.owner.keeper.table.info().rows * RENEW_SHARE:
            self.owner.keeper.renew()

    def note(self, block: bytes) -> None:
        """Commits that a round has written: what they name lives."""
        _, records = l2.log_parts(block)
        for record in records:
            self._noted += _states(record)

    # ---- what an earlier one has left; and this one, after its flip ----

    def _sweep(self) -> Work:
        """Delete the packs that are dead as a whole. Take back what was announced and never came to hold."""
        if self.request.dry_run:
            return
        with self.owner.writer.look() as batch:
            generation = batch.generation()
        gone: list[int] = []
        unheeded: list[tuple[int, list[Part]]] = []
        for number, parts in self.owner.writer.dead_rows():
            if parts[-1].generation > generation:
                unheeded.append((number, [part for part in parts if part.generation <= generation]))
            elif not parts[-1].bitmap:
                gone.append(number)
            yield
        for at in range(0, len(gone), TRANSACTION_PACKS):
            with self.owner.writer.transaction() as batch:
                for number in gone[at : at + TRANSACTION_PACKS]:
                    batch.delete_pack(number)
            yield
        for at in range(0, len(unheeded), TRANSACTION_ROWS):
            with self.owner.writer.transaction() as batch:
                for number, parts in unheeded[at : at + TRANSACTION_ROWS]:
                    batch.put_dead(number, parts)
            yield

    # ---- what is old, and what history is kept ----

    def _look_at_meta(self) -> None:
        with self.owner.writer.look() as batch:
            self._generation = batch.generation()
            self._young = batch.next_pack
            if self.request.grace_ns:
                since = time.time_ns() - self.request.grace_ns
                self._young = min(self._young, batch.clock().young_from(since))
            told = collected_decode(batch.collected())
        if told is not None:
            self._below = told.below
        if told is not None and told.id == self.request.id:
            self._before = told.tally

    def _trim(self) -> Work:
        """Drop the history that is not kept; what is, lives."""
        cuts: list[tuple[l2.BranchRow, int]] = []
        for row in self.owner.writer.branch_rows():
            oldest = yield from self._oldest_kept(row)
            if oldest > row.oldest:
                cuts.append((row, oldest))
            elif self.request.dry_run:
                yield from self._note_log(row, oldest)
        if self.request.dry_run:
            for row, oldest in cuts:
                yield from self._note_log(row, oldest)
                yield from self._count_cut(row, oldest)
            return
        yield from self._cut([(row.name, oldest) for row, oldest in cuts])
        for row in self.owner.writer.branch_rows():
            yield from self._note_log(row, row.oldest)

    def _oldest_kept(self, row: l2.BranchRow) -> Generator[None, None, int]:
        """The serial of the oldest commit of a branch that is kept."""
        if row.deleted:
            return row.serial  # which says that it was deleted
        born = max(row.oldest, row.serial - row.sequence + 1)
        rule = self.request.rule_of(row.name)
        if rule is None:
            return born
        if rule.newest:
            return max(born, row.serial - rule.newest + 1)
        return (yield from self._oldest_younger(row, born, rule))

    def _oldest_younger(self, row: l2.BranchRow, born: int, rule: Rule) -> Generator[None, None, int]:
        """The first commit, from the oldest on, that is younger than the rule says; the head, if none is."""
        since = self.request.time_ns - rule.age_ns
        serial = row.oldest
        while serial <= row.serial:
            first, records = self.owner.writer.log_block(row.name, serial)
            for at, record in enumerate(records):
                if first + at >= born and RECORD.unpack_from(record)[12] >= since:
                    return first + at
            serial = first + len(records)
            yield
        return row.serial

    def _note_log(self, row: l2.BranchRow, oldest: int) -> Work:
        """What a branch names, and the commits of its log from ``oldest`` on."""
        if row.deleted:
            return
        self._noted.append(row.root)
        serial = row.oldest
        while serial <= row.serial:
            first, records = self.owner.writer.log_block(row.name, serial)
            for record in records[max(0, oldest - first) :]:
                self._noted += _states(record)
            serial = first + len(records)
            self._add_noted()
            yield

    def _add_noted(self) -> None:
        noted, self._noted = self._noted, []
        for root in noted:
            self._mark.add(root)

    def _cut(self, cuts: list[tuple[str, int]]) -> Work:
        while cuts:
            with self.owner.writer.transaction() as batch:
                for name, oldest in cuts[-TRANSACTION_ROWS:][::-1]:
                    dropped, size, more = batch.trim_log(name, oldest, blocks_max=LOG_BLOCKS)
                    self.tally.commits_dropped += dropped
                    self.tally.freed_bytes += size
                    if more:
                        break
                    cuts.pop()
                self._tell(batch)
            yield

    def _count_cut(self, row: l2.BranchRow, oldest: int) -> Work:
        serial = row.oldest
        while serial < oldest:
            first, records = self.owner.writer.log_block(row.name, serial)
            gone = records[: oldest - first]
            self.tally.commits_dropped += len(gone)
            self.tally.freed_bytes += sum(map(len, gone))
            serial = first + len(records)
            yield

    # ---- marking ----

    def _mark_all(self) -> Work:
        """Everything that lives now."""
        self._add_noted()
        yield from self._read_leases()
        self._strange = 0
        yield from self._pass()
        yield from self._catch_up()

    def _read_leases(self) -> Work:
        if not self.request.dry_run:
            drop_dead(self.owner.paths.leases)
        for _ in range(STOPS_MAX):
            found = self._mark.leases()
            if found is not None:
                self._strange += found
                return
            time.sleep(STOP_PAUSE_SECONDS / 4)
            yield
        raise BusyError(
            f"{self.owner.paths.leases} stays locked: is a process stopped that was just opening the store?"
        )

    def _catch_up(self) -> Work:
        """What has come since: new packs, new commits, states that are held and that nothing marked is."""
        self._add_noted()
        for number in self._unscanned():
            yield from self._scan(number)
        yield from self._read_leases()
        if self._strange:
            self._strange = 0
            yield from self._pass()
        yield from self._complete()

    def _unscanned(self) -> list[int]:
        """Young packs that have not been looked at."""
        newest = self.owner.writer.newest_pack()
        return [number for number in range(self._young, newest + 1) if number not in self._scanned]

    def _pass(self) -> Work:
        """A look at every pack, newest first: for what is wanted, and for leased states."""
        for number in reversed(self.owner.writer.pack_numbers()):
            if number not in self._scanned:
                yield from self._scan(number)

    def _scan(self, number: int) -> Work:
        row = ALL_ROWS
        while row:
            with self.owner.writer.look() as batch:
                row = self._scan_some(batch, number, row)
            yield

    def _scan_some(self, batch: l2.Batch, number: int, row: int) -> int:
        """Some rows of a pack. Returns where to go on; 0: that was all."""
        pack, part = batch.pack(number), batch.dead(number)
        left = 0
        if pack is not None and (part is None or part.bitmap):
            left = self._mark.pack(
                pack, number, row, None if part is None else part.bitmap, young=number >= self._young
            )
        if not left and number >= self._young:
            self._scanned.add(number)
        return left

    def _complete(self) -> Work:
        """Until nothing is wanted but what is nowhere."""
        while (before := self._pending()) > FETCH_MAX:
            yield from self._pass()
            if self._pending() >= before:
                break
        unfound: set[bytes] = set()
        yield from self._fetch_all(unfound)
        if unfound:  # should the locator lack what a pack has
            yield from self._pass()
            unfound.clear()
            yield from self._fetch_all(unfound)
            _LOG.error(
                "%d nodes that a state needs are nowhere, the first is %s",
                len(unfound),
                min(unfound, default=b"").hex(),
            )
            self._missing |= unfound

    def _pending(self) -> int:
        return self._mark.pending() - len(self._missing)

    def _fetch_all(self, unfound: set[bytes]) -> Work:
        more = True
        while more:
            with self.owner.writer.look() as batch:
                more = self._fetch_some(batch, unfound)
            yield

    def _fetch_some(self, batch: l2.Batch, unfound: set[bytes]) -> bool:
        """Look at some nodes that are wanted, each found through the locator. False: there are no more."""
        wanted = self._mark.wanted(FETCH_A_LOOK)
        for id in wanted:
            raw = None if id in self._missing else self._node(batch, id)
            if raw is not None:
                self._mark.node(id, raw)
            elif id not in self._missing:
                unfound.add(id)
        return bool(wanted)

    def _node(self, batch: l2.Batch, id: bytes) -> bytes | None:
        for number, row in self.owner.keeper.table.find(id):
            if batch.has(number, row, id):
                pack = batch.pack(number)
                assert pack is not None
                try:
                    return l2.pack_entry(pack, row, id).raw
                except l2.Damaged as failure:
                    raise CorruptError(
                        f"node {id.hex()} in pack {number}: {failure}; see Engine.check()"
                    ) from failure
        return None

    # ---- which rows of old packs die ----

    def _place(self) -> Work:
        """Each living id in one pack, the newest that has it. What is not so placed in an old pack dies."""
        self._mark.watch()
        for number in reversed(self.owner.writer.pack_numbers()):
            with self.owner.writer.look() as batch:
                self._place_one(batch, number)
            yield
        if self.request.dry_run:
            yield from self._count_files()

    def _place_one(self, batch: l2.Batch, number: int) -> None:
        pack, part = batch.pack(number), batch.dead(number)
        if pack is None or (part is not None and not part.bitmap):
            return
        before = None if part is None else part.bitmap
        bitmap, live_bytes, live_rows = self._mark.place(pack, number, before)
        self.tally.kept_bytes += len(pack)
        if number >= self._young:
            return
        rows = l2.pack_count(pack)
        if live_rows == rows or bitmap == before:
            return
        self._count_deaths(pack, before or bytes(len(bitmap)), bitmap)
        self._deaths[number] = bitmap if live_rows else b""
        live_bytes += live_rows * l2.PACK_ROW.size
        if not live_rows or live_bytes < len(pack) * REWRITE_SHARE:
            self.tally.freed_bytes += len(pack) - live_bytes
            self.tally.kept_bytes -= len(pack) - live_bytes
            self.tally.packs_deleted += 1
            self._stale_rows += rows
            if live_rows:
                self.tally.packs_rewritten += 1
                self._rewrites.append(number)

    def _count_deaths(self, pack: memoryview, before: bytes, after: bytes) -> None:
        """Of which kinds the rows are that die now; which of them name files."""
        kinds = bytes(pack[l2.PACK_HEADER.size : l2.pack_table_size(pack)][l2.KIND_AT :: l2.PACK_ROW.size])
        dying = b"".join(_BITS[new & ~old] for old, new in zip(before, after, strict=True))[: len(kinds)]
        masked = int.from_bytes(kinds, "little") & int.from_bytes(dying, "little")
        died = masked.to_bytes(len(kinds), "little")
        self.tally.nodes_deleted += died.count(l2.NODE)
        self.tally.values_deleted += died.count(l2.VALUE)
        at = died.find(l2.BLOB)
        while at >= 0:
            self._dead_files.add(l2.pack_id(pack, at))
            at = died.find(l2.BLOB, at + 1)

    # ---- copying what lives in packs that are mostly dead ----

    def _copy(self) -> Work:
        """The living rows of such packs into new ones, and the old ones die as a whole."""
        sources = list(self._rewrites)
        while sources:
            with self.owner.writer.transaction() as batch:
                tables, done = self._copy_some(batch, sources)
            self.owner.keeper.add(tables, sum(len(table) for _, table in tables))
            for number in done:
                self._deaths[number] = b""
            self._scanned.update(number for number, _ in tables)
            yield

    def _copy_some(self, batch: l2.Batch, sources: list[int]) -> tuple[list[tuple[int, bytes]], list[int]]:
        """One new pack out of the next sources. Returns (number and table of it), and the sources that are copied."""
        rows: list[tuple[bytes, bytes]] = []  # row, payload
        size, done = 0, []
        while sources and size < NEW_PACK_BYTES // 2:
            number = sources.pop()
            pack = batch.pack(number)
            assert pack is not None
            found = _living_rows(pack, Part(0, self._deaths[number]))
            rows += found
            size += sum(l2.PACK_ROW.size + len(payload) for _, payload in found)
            done.append(number)
        pack_bytes = l2.pack_encode(rows)
        number = batch.put_pack(pack_bytes)
        return [(number, pack_bytes[: l2.pack_table_size(memoryview(pack_bytes))])], done

    # ---- the flip ----

    def _announce(self) -> Work:
        """Say which rows will be dead from the next generation on."""
        numbers = sorted(self._deaths)
        for at in range(0, len(numbers), TRANSACTION_ROWS):
            with self.owner.writer.transaction() as batch:
                for number in numbers[at : at + TRANSACTION_ROWS]:
                    self._announce_one(batch, number)
            yield

    def _announce_one(self, batch: l2.Batch, number: int) -> None:
        now = batch.dead(number)
        batch.put_dead(
            number, [*([] if now is None else [now]), Part(self._generation + 1, self._deaths[number])]
        )

    def _delete(self) -> Work:
        """Let it hold, at a moment when nobody is in a commit and all that was published is marked from."""
        for _ in range(STOPS_MAX):
            self.owner.write_round()
            yield from self._catch_up()
            yield from self._revive_grown()
            pid = self._stopped(self._flip)
            if self._flipped:
                return
            pause = time.monotonic() + STOP_PAUSE_SECONDS
            while time.monotonic() < pause:
                time.sleep(STOP_PAUSE_SECONDS / 4)
                yield
        who = f"process {pid} does not leave its commit" if pid else "too much is committed meanwhile"
        raise BusyError(f"nothing could be deleted: {who}; call gc() again")

    def _stopped(self, action: Callable[[], None]) -> int:
        """Do something while nobody is in a commit. Returns 0, or who would not leave one (then it was not done)."""
        pid = ffi.new("uint64_t *")
        self._took = False
        began = time.monotonic_ns()
        status = lib.hs_drain_stop(self.owner.drain, STOP_MS, pid)
        try:
            if status == lib.HS_TIMED_OUT:
                return int(pid[0]) or -1
            check(status, "stopping commits")
            try:
                action()
            finally:
                check(lib.hs_drain_go(self.owner.drain, int(self._took)), "letting commits go on")
            self.tally.safepoints += 1
            return 0
        finally:
            self.tally.pause_ns = max(self.tally.pause_ns, time.monotonic_ns() - began)

    def _flip(self) -> None:
        self.owner.write_round(self._settle)
        if self._flipped:
            lib.hs_step_hit(b"gc_committed")

    def _settle(self, batch: l2.Batch) -> None:
        """In the last round's transaction: mark from what is new, and raise the generation. If that takes too long,
        leave it; the round is a round then like others."""
        end = time.monotonic() + SETTLE_SECONDS
        if not self._mark_rest(batch, end) or (grown := self._mark.grown(GROWN_MAX)) is None:
            return
        for id in grown:
            self._revive(batch, id)
        batch.put_generation(self._generation + 1)
        self._flipped = self._took = True
        self._below = self._young
        self._tell(batch)
        lib.hs_step_hit(b"gc_flipped")

    def _revive_grown(self) -> Work:
        """What was marked since it was decided which rows die."""
        most = GROWN_MAX
        while (grown := self._mark.grown(most)) is None:
            most *= 4
        self._mark.watch()
        for at in range(0, len(grown), TRANSACTION_ROWS):
            with self.owner.writer.transaction() as batch:
                for id in grown[at : at + TRANSACTION_ROWS]:
                    self._revive(batch, id)
            yield

    def _mark_rest(self, batch: l2.Batch, end: float) -> bool:
        """What has come since the last look, here and now. False: it is too much."""
        self._add_noted()
        for number in range(self._young, batch.next_pack):
            row = 0 if number in self._scanned else ALL_ROWS
            while row:
                if time.monotonic() > end:
                    return False
                row = self._scan_some(batch, number, row)
        unfound: set[bytes] = set()
        while self._fetch_some(batch, unfound):
            if time.monotonic() > end:
                return False
        # Each is said once only: what came in now is to be looked for after this.
        found = self._mark.leases()
        self._strange += found or 0
        return not unfound and found is not None and not self._strange

    def _revive(self, batch: l2.Batch, id: bytes) -> None:
        """Something that was marked after it had been decided which rows die: one of its rows lives."""
        rows = [place for place in self.owner.keeper.table.find(id) if batch.has(*place, id)]
        if not rows or any(not self._will_die(*place) for place in rows):
            return
        number, row = rows[0]
        pack = batch.pack(number)
        assert pack is not None
        bitmap = bytearray(self._deaths[number] or _all_dead(l2.pack_count(pack)))
        bitmap[row >> 3] &= ~(1 << (row & 7))
        self._deaths[number] = bytes(bitmap)
        self._announce_one(batch, number)

    def _will_die(self, number: int, row: int) -> bool:
        bitmap = self._deaths.get(number)
        return bitmap is not None and Part(0, bitmap).has(row)

    def _tell(self, batch: l2.Batch) -> None:
        """Leave in L2 what has been done, should this coordinator not live to say it."""
        batch.put_collected(Collected(self.request.id, self._below, self.total()).encode())

    # ---- large values ----

    def _trash(self) -> Work:
        """Files that nothing living names. Taken out of their place at moments when nobody is in a commit, who might
        have found one there."""
        yield from self._unlink_trash()
        waiting: list[Path] = []
        for path in self._dead_paths():
            if path is not None:
                waiting.append(path)
            if len(waiting) == TRASH_FILES:
                yield from self._trash_some(waiting)
                waiting = []
            yield
        if waiting:
            yield from self._trash_some(waiting)
        yield from self._unlink_trash()

    def _dead_paths(self) -> Iterator[Path | None]:
        """Files of values that are not marked. None now and then."""
        for directory in sorted(os.scandir(self.owner.paths.blobs), key=lambda entry: entry.name):
            if len(directory.name) == 2 and directory.is_dir(follow_symlinks=False):
                yield from (
                    Path(entry.path)
                    for entry in list(os.scandir(directory.path))
                    if self._is_dead_file(entry)
                )
                yield None

    def _is_dead_file(self, entry: os.DirEntry[str]) -> bool:
        id = _id_of(Path(entry.path))
        if id is None or self._mark.has(id):
            return False
        # One that no row has named may be one that is about to be. It would be written again, so this only saves that.
        return id in self._dead_files or time.time_ns() - entry.stat().st_mtime_ns >= self.request.grace_ns

    def _trash_some(self, paths: list[Path]) -> Work:
        for _ in range(STOPS_MAX):
            self.owner.write_round()
            if not self._stopped(lambda: self._rename(paths)):
                with self.owner.writer.transaction() as batch:
                    self._tell(batch)
                return
            time.sleep(STOP_PAUSE_SECONDS / 4)
            yield
        raise BusyError(
            "large values could not be deleted: some process does not leave its commit; call gc() again"
        )

    def _rename(self, paths: list[Path]) -> None:
        self.owner.write_round()
        self._took = True
        with self.owner.writer.look() as batch:
            for path in paths:
                id = _id_of(path)
                assert id is not None
                if not any(batch.has(*place, id) for place in self.owner.keeper.table.find(id)):
                    with contextlib.suppress(FileNotFoundError):
                        size = path.stat().st_size
                        os.rename(path, self.owner.paths.blobs / f"{TRASH_PREFIX}{id.hex()}")
                        self.tally.large_values_deleted += 1
                        self.tally.freed_bytes += size

    def _unlink_trash(self) -> Work:
        for path in self.owner.paths.blobs.glob(f"{TRASH_PREFIX}*"):
            path.unlink(missing_ok=True)
            yield

    def _count_files(self) -> Work:
        for path in self._dead_paths():
            if path is not None:
                self.tally.large_values_deleted += 1
                self.tally.freed_bytes += path.stat().st_size
            yield

    # ---- the disk's room ----

    def _punch(self) -> Work:
        """LMDB keeps the pages that it does not use; give those that nobody can see back to the file system."""
        for _ in range(2):  # neither meta page may lead to a state that has them
            with self.owner.writer.transaction() as batch:
                self._tell(batch)
            yield
        self.owner.writer.clear_dead_readers()
        fd = os.open(self.owner.paths.db / "data.mdb", os.O_RDWR | os.O_CLOEXEC)
        try:
            last, more = 0, True
            while more:
                # Nobody writes while this process has a write transaction open, even one that changes nothing.
                with self.owner.writer.transaction():
                    last, more = self._punch_some(fd, last)
                yield
        finally:
            os.close(fd)

    def _punch_some(self, fd: int, last: int) -> tuple[int, bool]:
        """The pages that some transactions above ``last`` have given up. Returns the last of these, and whether there
        may be more."""
        data = memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_READ))
        meta = _newest_meta(data)
        if meta is None:
            return last, False
        # A page that transaction t gave up is to be seen in t - 1 and before.
        visible = min([meta.transaction - 1, *self.owner.writer.reader_transactions()])
        done = 0
        for transaction, numbers in Pages(data, meta).free(last):
            if transaction > visible or done > PUNCH_PAGES:
                return last, transaction <= visible
            for first, count in _runs(numbers):
                if not _punch(fd, first * meta.page_size, count * meta.page_size):
                    return last, False
            last, done = transaction, done + len(numbers)
        return last, False


def _states(record: memoryview) -> list[bytes]:
    """The states that a commit keeps: its own, and the one that was merged into it. Its parent is kept as a commit, or
    not at all."""
    fields = RECORD.unpack_from(record)
    if fields[2] & DELETED:
        return []
    return [fields[7], fields[21]] if fields[2] & HAS_SECOND else [fields[7]]


def _all_dead(rows: int) -> bytes:
    whole, rest = divmod(rows, 8)
    return b"\xff" * whole + (bytes([(1 << rest) - 1]) if rest else b"")


def _living_rows(pack: memoryview, dead: Part) -> list[tuple[bytes, bytes]]:
    """(row, payload) of a pack's rows that are not dead. CorruptError."""
    found = []
    for row in range(l2.pack_count(pack)):
        if not dead.has(row):
            found.append(l2.pack_row(pack, row))
    return found


def _id_of(path: Path) -> bytes | None:
    """The id that a file of a large value is named by."""
    try:
        id = bytes.fromhex(path.parent.name + path.name)
    except ValueError:
        return None
    return id if len(id) == 32 else None


def _newest_meta(data: memoryview) -> Meta | None:
    size = page_size_of(data)
    found = [] if size is None else [meta_read(data, page, size) for page in (0, 1)]
    metas = [meta for meta in found if isinstance(meta, Meta)]
    return max(metas, key=lambda meta: meta.transaction) if len(metas) == 2 else None


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """(first, count) of pages that follow on each other."""
    first = count = 0
    for number in sorted(numbers):
        if count and number == first + count:
            count += 1
            continue
        if count:
            yield first, count
        first, count = number, 1
    if count:
        yield first, count


def _punch(fd: int, offset: int, size: int) -> bool:
    """Give a part of a file back to the file system; it reads as zeros then. False: this file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
    if libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(size)) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM):
        return False
    raise OSError(number, os.strerror(number))
