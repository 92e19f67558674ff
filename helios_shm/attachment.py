"""One process's attachment to one store: the engine of the C core, its calls, L2, the coordinator, and what a fork
does to them.

    Engine, Branch, Snapshot, Workspace  ->  Attachment  ->  hs_engine (L0, L1)
                                                        \\->  Reader, blobs (L2)

A C function never calls back into Python. Where it lacks something it returns a status, and the loops here do what
is needed and call again: HS_MISSING (bring a node or value from L2), HS_HEAD_IN_L2 (bring a branch's row), HS_WAIT
(no room: the coordinator must persist first), HS_CONTENDED (look at the clock), HS_YIELD (wait for another's turn).

Invariants. ``pool`` holds the calls that nobody uses; it is empty in a closed or just forked attachment, so that
the hot paths, which pop a call from it, notice both without asking. Every wait is cut into slices, so that Ctrl-C
gets through, has a deadline, and sees to it that a coordinator runs.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any, Literal, Protocol, SupportsIndex

from . import blobs, codec, config, lifecycle
from ._capi import check, error, ffi, hot, lib
from .errors import (
    BusyError,
    CapacityError,
    ClosedError,
    CorruptError,
    FormatError,
    HeliosError,
    NotFoundError,
)
from .l2 import BranchRow, Entry, Reader

RECORD_BYTES_MAX = 66048
_CALL_DATA_BYTES = 128 << 10
_REMEMBERERS_MIN = 1024
WORD_IN_L2 = 1 << 63


class Stale(Enum):
    """The answer of ``row_of`` when the head moved while L2 was asked."""

    STALE = 1


class Call(hot.CallBase):
    """An hs_call with the memory that its results go to. Used by one thread at a time."""

    __slots__ = ("__weakref__", "c", "data", "id", "memory", "missing", "said")

    def __init__(self, engine: Any, capacity: int = _CALL_DATA_BYTES) -> None:
        self.memory = ffi.new("uint8_t[]", capacity)
        self.data = ffi.buffer(self.memory)
        self.c = ffi.new("hs_call *")
        self._address = int(ffi.cast("uintptr_t", self.c))
        self.said: object = None  # what a commit says, kept alive while it runs
        self.c.engine = engine
        self.c.data = self.memory
        self.c.capacity = capacity
        self.id = ffi.buffer(self.c.id)
        self.missing = ffi.buffer(self.c.missing)


class _ClosedPool(list[Call]):
    """The pool of a closed attachment: calls come back to it, and none goes out. With a list that gives calls out as
    well, threads that are hardly ever without their call would keep ``close`` waiting for as long as they like."""

    def pop(self, index: SupportsIndex = -1) -> Call:
        raise IndexError("closed")


class Rememberer(Protocol):
    """What keeps values that it read, and must not give them out after close."""

    def _forget(self) -> None: ...


class Deadline:
    """A point in time after which a wait gives up; None: never."""

    __slots__ = ("at", "room_ns")

    def __init__(self, seconds: float | None) -> None:
        self.at = None if seconds is None else time.monotonic() + seconds
        self.room_ns = 0  # waited for room so far

    def passed(self) -> bool:
        return self.at is not None and time.monotonic() >= self.at

    def slice_ms(self) -> int:
        """How long the next slice of a wait may be: what is left, at most WAIT_SLICE_MS."""
        if self.at is None:
            return config.WAIT_SLICE_MS
        left = (self.at - time.monotonic()) * 1000
        return max(0, min(config.WAIT_SLICE_MS, int(left) + 1))


class Attachment(hot.AttachmentBase):
    """This process's hold on a store. Thread-safe. Shared by all engines of the process that opened the same store."""

    def __init__(self, paths: lifecycle.StorePaths, *, readonly: bool, l1_bytes: int | None) -> None:
        self.paths = paths
        self.identity = lifecycle.identify(paths)
        self.uuid = self.identity.uuid
        self.readonly = readonly
        self.lz4_min = config.LZ4_BYTES_MIN or config.BLOB_BYTES_MIN  # of the values that are tried with LZ4
        self.engines: weakref.WeakSet[Any] = (
            weakref.WeakSet()
        )  # open or closing; the last to close closes this
        self.pool: list[Call] = []
        self._batches: list[Any] = []
        self._calls: weakref.WeakSet[Call] = weakref.WeakSet()
        self._rememberers: list[weakref.ref[Rememberer]] = []
        self._rememberers_max = _REMEMBERERS_MIN
        self._l1_bytes = l1_bytes
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._closed = False
        self._engine: Any = None
        self._table: Any = None  # hs_leases, which csrc/python frees with this object
        self.segment = 0  # how many segments it has been attached to: words of one mean nothing in another
        # A store on a file system that cannot be written has no coordinator and no other processes' commits. Who may
        # commit never gets private memory, which would acknowledge and forget.
        self.private = readonly and not lifecycle.is_writable(paths)
        self.reader = Reader(paths, lock=not self.private)
        try:
            if (found := self.reader.uuid()) != self.uuid:
                raise CorruptError(
                    f"{paths.info} describes store {self.uuid.hex()}; the database beside it is that of {found.hex()}"
                )
            self._attach()
        except BaseException:
            self.reader.close()  # LMDB cannot be opened a second time while this one is
            raise
        _attachments.add(self)

    # --- attaching, forking, closing ---

    def _attach(self) -> None:
        """Take part in the store's segment, making it if there is none; see that a coordinator runs."""
        self._show_leases()
        mode = lib.HS_OPEN_PRIVATE if self.private else lib.HS_OPEN_PARTICIPANT
        ring_size = config.L1_BYTES_MIN if self.private else lifecycle.ring_bytes(self._l1_bytes)
        args, _keep = lifecycle.open_args(self.paths, self.identity, mode, ring_size)
        args.leases = self._table
        out = ffi.new("hs_engine **")
        try:
            self._open_engine(args, out)
        except BaseException:
            if out[0] != ffi.NULL:  # Ctrl-C came while it was opened, and is heard only now that it is
                lib.hs_engine_close(out[0])
            raise
        self._engine = out[0]
        self.segment += 1
        self._pid = os.getpid()
        if not self.private:
            lifecycle.ensure_coordinator(self.paths)

    def _show_leases(self) -> None:
        """Have a table of leases where the coordinator sees it."""
        what = f"cannot say in {self.paths.leases} which states this process holds"
        if self._table is None:
            directory = ffi.NULL if self.private else ffi.new("char[]", os.fsencode(self.paths.leases))
            out = ffi.new("hs_leases **")
            check(lib.hs_leases_open(directory, out), what)
            self._table = out[0]
            self._leases = int(ffi.cast("uintptr_t", out[0]))
        check(lib.hs_leases_publish(self._table), what)

    def _open_engine(self, args: Any, out: Any) -> None:
        what = f"cannot attach to the shared memory of {self.paths.root}"
        if self.private:
            check(lib.hs_engine_open(args, out), what)
        else:
            deadline = Deadline(config.OPEN_DEADLINE)
            while True:
                with lifecycle.gate(self.paths, deadline.at):
                    # A second segment beside one that others use would let both move the same branches.
                    elsewhere = lifecycle.is_used_elsewhere(self.paths, self.identity)
                    # What a container leaves that has ended with all its processes is taken over.
                    args.adopt = not lifecycle.is_in_use(self.paths)
                    status = lib.HS_TIMED_OUT if elsewhere else lib.hs_engine_open(args, out)
                if status not in (lib.HS_FULL, lib.HS_TIMED_OUT) or deadline.passed():
                    break
                # Slots of the dead are freed by the coordinator; one that is leaving takes a moment.
                lifecycle.ensure_coordinator(self.paths)
                time.sleep(config.WAIT_SLICE_MS / 1000)
            if status == lib.HS_TIMED_OUT:
                raise BusyError(
                    f"{what}: the store is in use by processes whose shared memory is not in this /dev/shm "
                    "(another container?), or was removed there under their hands; close them first"
                )
            if status == lib.HS_FULL:
                raise CapacityError(
                    f"{what}: all slots for processes are taken; close engines that are not needed"
                )
            if status == lib.HS_NO_SPACE:
                raise CapacityError(
                    f"{what}: /dev/shm has no room for {args.ring_size} bytes; pass a smaller l1_bytes to open(), "
                    "or enlarge /dev/shm (docker run --shm-size)"
                )
            if status == lib.HS_FORMAT:
                raise FormatError(f"{what}: {lifecycle.segment_foreign(self.identity)}")
            check(status, what)

    def after_fork_in_child(self) -> None:
        """Nothing of the parent's may be used; what is needed is made on first use."""
        for call in self._calls:
            lib.hs_call_let_go(call.c)
        self.pool = []
        self._batches = []
        self._calls = weakref.WeakSet()
        self._lock = threading.Lock()

    def _reattach(self) -> None:
        """In a forked child, on first use: an LMDB environment, a slot and a chunk of its own."""
        self.reader.abandon()
        self.reader = Reader(self.paths, lock=not self.private)
        if self.private:
            self._attach()
            return
        status = lib.HS_CLOSING
        if self._engine is not None:
            with lifecycle.gate(self.paths, Deadline(config.OPEN_DEADLINE).at):
                status = lib.hs_engine_after_fork(self._engine)
        if status == lib.HS_CLOSING or status == lib.HS_FULL:
            # The parent and everybody else has gone, and the segment with them; or no slot is free just now.
            inherited, self._engine = self._engine, None
            if inherited is not None:
                lib.hs_engine_close(inherited)
            self._attach()
        elif status == lib.HS_FORMAT:
            raise FormatError(
                f"cannot attach to the shared memory of {self.paths.root} in a forked process: "
                + lifecycle.segment_foreign(self.identity)
            )
        else:
            check(status, f"cannot attach to the shared memory of {self.paths.root} in a forked process")
            self._pid = os.getpid()

    def acquire(self) -> Call:
        """A call, when the pool has none: a new one, after whatever a fork or a close asks for."""
        with self._lock:
            if self._closed:
                raise ClosedError(f"the engine of {self.paths.root} is closed")
            if self._pid != os.getpid():
                self._reattach()
            try:
                return self.pool.pop()
            except IndexError:
                call = Call(self._engine)
                self._calls.add(call)
                return call

    def call(self) -> Call:
        """A call from the pool; give it back with ``pool.append``."""
        try:
            return self.pool.pop()
        except IndexError:
            return self.acquire()

    @property
    def engine(self) -> Any:
        """The hs_engine, attached in this process."""
        if self._closed or self._pid != os.getpid():
            self.pool.append(self.acquire())
        return self._engine

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def attached_here(self) -> bool:
        """Was it used in this process (rather than only inherited through a fork)?"""
        return self._pid == os.getpid()

    def close(self) -> None:
        """Leave the store. Waits for calls of other threads to come back; idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        _attachments.discard(self)
        if self._pid != os.getpid():
            self.reader.abandon()
            lib.hs_leases_withdraw(self._table)
            return
        before, self.pool = self.pool, _ClosedPool()
        # Calls inside other threads end within a slice of a wait.
        while len(self.pool) < len(self._calls):
            try:
                self.pool.append(before.pop())
            except IndexError:
                time.sleep(0.001)
        # In this order: after a Ctrl-C in between, it is not closed a second time.
        engine, self._engine = self._engine, None
        lib.hs_engine_close(engine)
        lib.hs_leases_withdraw(self._table)
        self.reader.close()
        for reference in self._rememberers:
            if (rememberer := reference()) is not None:
                rememberer._forget()

    def __del__(self) -> None:
        # Nobody holds anything of this store any more, and nobody closed it: give the slot back.
        if getattr(self, "_engine", None) is not None and self._pid == os.getpid():
            lib.hs_engine_close(self._engine)

    def forget_on_close(self, rememberer: Rememberer) -> None:
        """See that what this object remembers of the store cannot be read through it after close."""
        self._rememberers.append(weakref.ref(rememberer))
        if len(self._rememberers) > self._rememberers_max:
            self._rememberers = [reference for reference in self._rememberers if reference() is not None]
            self._rememberers_max = 2 * len(self._rememberers) + _REMEMBERERS_MIN

    # --- what was collected, and what is there ---

    def validate(self, root: bytes) -> None:
        """See that a state is there, whose lease is held: then it stays. NotFoundError if it was collected.

        Cost: a look at a word while nothing was ever deleted; else a look-up."""
        call = self.call()  # of this process: the lease is seen
        try:
            self._show_leases()
            deadline = Deadline(config.COMMIT_DEADLINE)
            while (word := int(lib.hs_engine_collection(self._engine))) & 1:
                self.wait_for_collection(word, deadline, f"state {root.hex()}")
            # In the ring first: what is not there any more is in L2.
            if word == 0 or root == empty_root() or lib.hs_root_stands(self._engine, root):
                return
        finally:
            self.pool.append(call)
        entry = self.reader.get(root)
        if entry is None or entry.kind != lib.HS_ENTRY_NODE:
            raise NotFoundError(
                f"state {root.hex()} is not in {self.paths.root}: it was collected, or never was there"
            )

    def wait_for_collection(self, word: int, deadline: Deadline, what: str) -> None:
        """After HS_STOPPED: a slice of waiting until the collection that deletes just now has done so. Raises
        BusyError at the deadline."""
        if deadline.passed():
            raise BusyError(f"{what}: a collection has not ended in time; {self._who_holds_what()}")
        if lib.hs_collection_wait(self._engine, word, deadline.slice_ms()) != lib.HS_OK:
            lifecycle.ensure_coordinator(self.paths)  # it may have died, and another one ends it

    # --- doing what a status asks for ---

    def resolve(self, call: Call) -> None:
        """After HS_MISSING for a node: bring it from L2 into the node cache."""
        node = call.missing[:]
        self._offer(node, self._give_node(node, self._from_l2(node)))

    def load_nodes(self, ids: Sequence[bytes]) -> None:
        """Bring nodes from L2 into the node cache, together: for states that are looked at once, so L1 is not
        offered them. Raises NotFoundError."""
        for id, entry in zip(ids, self._many_from_l2(ids), strict=True):
            if entry is None:
                entry = self._from_l2(id)
            self._give_node(id, entry)

    def _from_l2(self, id: bytes) -> Entry | None:
        """An entry of L2, measured."""
        began = time.monotonic_ns()
        entry = self.reader.get(id)
        self.measure(lib.HS_MEASURE_L2_READ, time.monotonic_ns() - began, lib.HS_COUNT_L2_READS, 1)
        return entry

    def _many_from_l2(self, ids: Sequence[bytes]) -> list[Entry | None]:
        """Entries of L2, measured as one read."""
        began = time.monotonic_ns()
        entries = self.reader.get_many(ids)
        self.measure(lib.HS_MEASURE_L2_READ, time.monotonic_ns() - began, lib.HS_COUNT_L2_READS, len(ids))
        return entries

    def _give_node(self, id: bytes, entry: Entry | None) -> Entry:
        """Put a node that was read from L2 into the node cache."""
        if entry is None or entry.kind != lib.HS_ENTRY_NODE:
            raise NotFoundError(f"no node {id.hex()} in {self.paths.root}")
        status = self._with_engine(lib.hs_node_give, id, entry.raw, len(entry.raw))
        check(status, f"node {id.hex()} of {self.paths.root}")
        return entry

    def _offer(self, id: bytes, entry: Entry) -> None:
        """What was read from L2 goes (back) to L1 if the core finds it worth that (csrc/hs_heat.h), best effort."""
        if self.private or entry.size >= config.BLOB_BYTES_MIN:
            return
        call = self.call()
        try:
            stored = entry.stored
            lib.hs_l1_put_cached(call.c, entry.kind, id, entry.codec, stored, len(stored), entry.size)
        finally:
            self.pool.append(call)

    def run(self, call: Call, function: Callable[..., int], *args: Any) -> int:
        """Call a reading function until it needs nothing from L2 any more."""
        while True:
            status = function(call.c, *args)
            if status != lib.HS_MISSING or call.c.missing_kind != lib.HS_ENTRY_NODE:
                return status
            self.resolve(call)

    def load_value(self, id: bytes, size: int) -> bytes:
        """A value by id: from L1, else from L2, else from its blob file. CorruptError if it has another size than the
        state that names it says."""
        raw = self._load_value(id, size)
        if len(raw) != size:
            raise CorruptError(
                f"value {id.hex()} has {len(raw)} bytes; a state of {self.paths.root} says {size}"
            )
        return raw

    def _load_value(self, id: bytes, size: int) -> bytes:
        raw = self.from_l1(id)
        if raw is not None:
            return raw
        if size >= config.BLOB_BYTES_MIN:
            view = blobs.read(self.paths, id, size)
            if view is not None:
                return view.tobytes()
        entry = self._from_l2(id)
        if entry is not None and entry.kind == lib.HS_ENTRY_VALUE:
            self._offer(id, entry)
            return entry.raw
        view = blobs.read(self.paths, id, size)
        if view is None:
            raise CorruptError(f"value {id.hex()} ({size} bytes) is nowhere in {self.paths.root}")
        return view.tobytes()

    def load_values(self, wanted: Sequence[tuple[bytes, int]]) -> list[bytes | None]:
        """Values by (id, size) that L1 did not have: from L2 in one go. None: ask ``load_value``, which looks
        everywhere and says what is wrong."""
        values: list[bytes | None] = []
        for (id, size), entry in zip(wanted, self._many_from_l2([id for id, _ in wanted]), strict=True):
            if entry is None or entry.kind != lib.HS_ENTRY_VALUE or len(entry.raw) != size:
                values.append(None)
            else:
                self._offer(id, entry)
                values.append(entry.raw)
        return values

    def load_buffer(self, id: bytes, size: int) -> memoryview:
        """A value by id, without a copy where it is a blob file."""
        if size >= config.BLOB_BYTES_MIN:
            view = blobs.read(self.paths, id, size)
            if view is not None:
                return view
        return memoryview(self.load_value(id, size))

    def from_l1(self, id: bytes) -> bytes | None:
        """A value by id if L1 has it."""
        call = self.call()
        try:
            n = lib.hs_l1_get(call.c, id)
            if n == lib.HS_NOT_FOUND:
                return None
            if n == lib.HS_SMALL:
                large = Call(self._engine, int(call.c.size))
                n = lib.hs_l1_get(large.c, id)
                return self.decoded(large, n) if n >= 0 else None
            return self.decoded(call, check(n, f"value {id.hex()}"))
        finally:
            self.pool.append(call)

    def decoded(self, call: Call, n: int) -> bytes:
        """The bytes of a size that hs_get or hs_l1_get returned."""
        if n < lib.HS_ENCODED:
            return bytes(call.data[:n])
        stored = call.data[: n - lib.HS_ENCODED]
        return codec.decode(call.c.codec, stored, int(call.c.raw_size))

    def take_batch(self) -> Any:
        """An hs_batch; give it back with ``give_batch``."""
        try:
            return self._batches.pop()
        except IndexError:
            return ffi.new("hs_batch *")

    def give_batch(self, batch: Any) -> None:
        self._batches.append(batch)

    # --- branches: heads that only L2 has ---

    def provide_head(self, call: Call, ref: Any) -> None:
        """After HS_HEAD_IN_L2: tell the core what L2's row says of the head word that it saw (``call.c.word``)."""
        word = int(call.c.word)
        row = self.row_of(ref, word)
        if row is None:
            lib.hs_branch_provide(call.c, ref, word, empty_root(), 0, 0, 0, 0)
        elif row is not Stale.STALE:
            lib.hs_branch_provide(
                call.c, ref, word, row.root, row.serial, row.sequence, row.incarnation, row.deleted
            )

    def row_of(self, ref: Any, word: int) -> BranchRow | Literal[Stale.STALE] | None:
        """L2's row for a head word that the ring has no record of.

        None: L2 knows no such branch. STALE: the row is another head's, so the head has moved meanwhile; load it anew.
        Raises CorruptError if it has not: the ring forgets a head's record only when L2 has a row that names its word.
        """
        name = ffi.buffer(ref.name, ref.name_size)[:].decode()
        row = self.reader.branch(name)
        if word & WORD_IN_L2 or (row is not None and row.word == word):
            return row
        if self._head_is(ref, word):
            raise CorruptError(
                f"branch {name!r} of {self.paths.root}: its head {word:#x} is neither in shared memory nor in L2"
            )
        return Stale.STALE

    def _head_is(self, ref: Any, word: int) -> bool:
        """Is this still the branch's head word?"""
        call = self.call()
        try:
            return bool(lib.hs_branch_word(call.c, ref) == lib.HS_OK and call.c.word == word)
        finally:
            self.pool.append(call)

    # --- waiting ---

    def wait_for_room(self, deadline: Deadline, what: str) -> None:
        """After HS_WAIT: a slice of waiting for the coordinator to make room. Raises CapacityError at the deadline."""
        if self.private:
            raise CapacityError(f"{what}: the store cannot be written, and its private memory is full")
        if deadline.passed():
            raise CapacityError(f"{what}: shared memory stayed full; {self._who_holds_what()}")
        lifecycle.ensure_coordinator(self.paths)
        began = time.monotonic_ns()
        lib.hs_room_wait(self._engine, deadline.slice_ms())
        deadline.room_ns += time.monotonic_ns() - began

    def waited_for_room(self, deadline: Deadline) -> None:
        """What was done under this deadline has ended: measure how long it waited for room, if it did."""
        if deadline.room_ns:
            self.measure(lib.HS_MEASURE_ROOM, deadline.room_ns)
            deadline.room_ns = 0

    def wait_durable(self, deadline: Deadline, what: str) -> None:
        """Wait until all that this process published so far is in L2, synced. Raises BusyError at the deadline."""
        if self.private:
            return
        began = time.monotonic_ns()
        target = self._with_engine(lib.hs_round_target)
        while self._with_engine(lib.hs_round_wait, target, deadline.slice_ms()) != lib.HS_OK:
            if deadline.passed():
                raise BusyError(
                    f"{what}: the coordinator has not confirmed it in time; {self._who_holds_what()}"
                )
            lifecycle.ensure_coordinator(self.paths)
        self.measure(lib.HS_MEASURE_DURABLE, time.monotonic_ns() - began)

    def wake_coordinator(self) -> None:
        """See that one runs, and that it looks at what there is to do."""
        lifecycle.ensure_coordinator(self.paths)
        self._with_engine(lib.hs_round_wait, self._with_engine(lib.hs_round_target), 1)

    def wait_to_the_end(self, what: str) -> None:
        """Wait until all that this process published so far is in L2, for as long as rounds are being done: a disk may
        be slow. Raises BusyError when none was for DURABLE_DEADLINE seconds."""
        while True:
            done = int(self.stats().rounds_done)
            try:
                return self.wait_durable(Deadline(config.DURABLE_DEADLINE), what)
            except BusyError:
                if int(self.stats().rounds_done) == done:
                    raise

    def look_after(self) -> None:
        """Now and then: see that a coordinator runs. Best effort: who waits for one hears why there is none."""
        if not self.private:
            with contextlib.suppress(HeliosError):
                lifecycle.ensure_coordinator(self.paths)

    def _who_holds_what(self) -> str:
        stats = self.stats()
        pids = ffi.new("uint64_t[]", 64)
        count = self._with_engine(lib.hs_engine_busy_pids, pids, 64)
        holders = ", ".join(str(int(pids[i])) for i in range(count)) or "no process"
        reason = lifecycle.coordinator_error(self.paths)
        return (
            f"coordinator {int(stats.coordinator_pid) or 'none'}, "
            f"{int(stats.unpersisted_bytes)} bytes not yet persisted, "
            f"{int(stats.chunks_free)} of {int(stats.chunks)} chunks free, chunks held by {holders}"
            + (f"; the coordinator reports: {reason}" if reason else f"; see {self.paths.log}")
        )

    def stats(self) -> Any:
        """The core's counters, a struct hs_engine_stats."""
        out = ffi.new("hs_engine_stats *")
        check(self._with_engine(lib.hs_engine_stats_get, out), "statistics")
        return out

    def metrics(self) -> Any:
        """What all processes counted and measured, a struct hs_metrics_totals."""
        out = ffi.new("hs_metrics_totals *")
        self._with_engine(lib.hs_engine_metrics_get, out)
        return out

    def measure(self, measure: int, value: int, counter: int = 0, more: int = 0) -> None:
        """Add a value to one of this process's histograms (enum hs_measure), and perhaps to a counter."""
        self._with_engine(lib.hs_engine_measure, measure, value, counter, more)

    def forget_nodes(self) -> None:
        """Empty the cache of nodes, so that the next ones come from L1 or L2."""
        call = self.call()
        try:
            lib.hs_engine_forget(self._engine)
        finally:
            self.pool.append(call)

    def _with_engine(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function that takes the engine alone; a call is held meanwhile, so that nobody closes the engine."""
        call = self.call()
        try:
            return function(self._engine, *args)
        finally:
            self.pool.append(call)


def empty_root() -> bytes:
    """The id of the empty state."""
    out = ffi.new("uint8_t[32]")
    lib.hs_empty_root(out)
    return bytes(ffi.buffer(out))


def suspended(
    attachment: Attachment, call: Call, ref: Any, status: int, deadline: Deadline, what: str
) -> None:
    """Do what a suspended commit asks for, so that it can go on; on an exception the caller cancels it."""
    if status == lib.HS_MISSING:
        attachment.resolve(call)
    elif status == lib.HS_HEAD_IN_L2:
        attachment.provide_head(call, ref)
    elif status == lib.HS_WAIT:
        attachment.wait_for_room(deadline, what)
    elif status == lib.HS_STOPPED:
        attachment.wait_for_collection(int(call.c.collection), deadline, what)
    elif status == lib.HS_CONTENDED or status == lib.HS_YIELD:
        if deadline.passed():
            raise BusyError(f"{what}: the branch's head moved faster than this commit could follow")
        if status == lib.HS_YIELD:
            lib.hs_branch_yield(call.c, ref, call.c.ticket, deadline.slice_ms())
    else:
        raise error(status, what)


_attachments: weakref.WeakSet[Attachment] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for attachment in list(_attachments):
        attachment.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)


def iter_attachments() -> Iterator[Attachment]:
    """The open attachments of this process."""
    return iter([attachment for attachment in list(_attachments) if not attachment.closed])
