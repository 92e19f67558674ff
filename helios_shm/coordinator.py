"""The coordinator: the one process that writes a store to disk, reaps the dead and frees chunks.

    python -m helios_shm.coordinator PATH        started by lifecycle.ensure_coordinator, by nobody else

    idle --bell--> gather --> collect --> one synced transaction --> locator --> marks, free, wake --+
      ^  (a few ms, cut short                {packs, record chains,                                  |
      |   by who waits)                       branch rows}                                           |
      +----------------------------------------------------------------------------------------------+

Invariants. It holds the coordinator lock from before its first look at the segment to after its last. What is
acknowledged has been synced: a round whose transaction failed is not finished, and its marks stay. It may die
anywhere: the next one starts from what L2 says. It leaves under the gate, when nobody takes part and nothing is left to
drain. One thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import blobs, l2, lifecycle
from ._capi import check, ffi, lib
from .collector import Collector, drop_dead
from .errors import BusyError, CorruptError, HeliosError, NotFoundError
from .record import record_head
from .store import StorePaths

_LOG = logging.getLogger("helios_shm.coordinator")

MIB = 1 << 20
PACK_BYTES = 4 * MIB
LOG_BLOCK_BYTES = MIB
RECORD_BYTES_MAX = 66048
# A transaction holds its pages in memory until it is written.
TRANSACTION_BYTES_MAX = 64 * MIB
# Gathering: a quiet store is drained after the short time, a busy one after the long, or when there is enough.
GATHER_SECONDS_QUIET = 0.004
GATHER_SECONDS_BUSY = 0.05
GATHER_SLICE_MS = 4
BUSY_ROUND_BYTES = 256 << 10
# An ephemeral store is drained when so little of its ring is free, or when somebody asks.
EPHEMERAL_FREE_SHARE = 0.5
EPHEMERAL_PAUSE_MS = 20
IDLE_MS = 200
LINGER_SECONDS = 0.3
CHUNKS_AHEAD = 16
CHECKPOINT_BYTES = 256 * MIB
RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 0.1, 2.0
# With nobody left who waits, a disk that stays full is left to the next open.
GIVE_UP_SECONDS = 20.0
GATE_SECONDS = 10.0
LOG_FILE_BYTES_MAX = MIB


class LocatorKeeper:
    """The locator file, kept up to date: what is missing is entered, what is too small or doubtful is built anew.

    A new file is built beside the old one, a few packs at a time, and renamed over it when it has them all.
    """

    CAPACITY_MIN = 1 << 16  # rows: 512 KiB
    GROW_LOAD = 0.5
    STEP_SECONDS = 0.02

    def __init__(self, paths: StorePaths, writer: l2.Writer, *, durable: bool) -> None:
        self._paths = paths
        self._writer = writer
        self._durable = durable
        self._boot_id = l2.boot_id()
        self._next_path = paths.locator.with_name("locator.next")
        self._next: l2.Locator | None = None
        self._next_mark = 0
        self._renewed = False
        self._unsynced = 0
        self.table = self._recover()

    def _recover(self) -> l2.Locator:
        """The table with all of L2's packs in it."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._next_path)  # of a keeper that ended while it grew
        newest = self._writer.newest_pack()
        table = l2.Locator.open(self._paths.locator, writable=True)
        if table is not None:
            info = table.info()
            # What another boot entered counts only as far as it was synced.
            mark = info.mark if info.boot_id == self._boot_id else min(info.mark, info.checkpoint)
            if mark <= newest:
                table.mark(mark, self._boot_id)
                if self._enter(table, mark, newest):
                    return table
        return self._rebuild(newest, info.capacity if table is not None else 0)

    def _enter(self, table: l2.Locator, low: int, high: int) -> bool:
        for number, pack in self._writer.packs_between(low, high):
            if not table.insert(number, pack):
                return False
        table.mark(high, self._boot_id)
        return True

    def _rebuild(self, newest: int, capacity: int) -> l2.Locator:
        """A new table of all packs, under the name, large enough."""
        self._next = None
        capacity = max(capacity, self.CAPACITY_MIN)
        while True:
            table = l2.Locator.create(self._next_path, capacity, self._boot_id)
            if self._enter(table, 0, newest):
                return self._rename(table)
            capacity *= 2

    def _rename(self, table: l2.Locator) -> l2.Locator:
        if self._durable:
            table.checkpoint()
        os.rename(self._next_path, self._paths.locator)
        if self._durable:
            blobs.fsync_directory(self._paths.root)
        self._next = None
        return table

    def add(self, tables: list[tuple[int, bytes]], size: int) -> None:
        """Enter packs that have been committed: (number, header and rows) of each. ``size``: their bytes."""
        if not tables:
            return
        newest = tables[-1][0]
        if all(self.table.insert(number, rows) for number, rows in tables):
            self.table.mark(newest, self._boot_id)
        else:
            self.table = self._rebuild(newest, 2 * self.table.info().capacity)
        self._unsynced += size

    def candidates(self, pack: Any, count: int) -> list[int]:
        return self.table.candidates(pack, count)

    def tend(self) -> bool:
        """Between rounds: a step of growing, a checkpoint. True while there is more to do."""
        if self._durable and self._unsynced >= CHECKPOINT_BYTES:
            self.checkpoint()
        if self._paths.locator_damaged.exists():
            self.table = self._rebuild(self._writer.newest_pack(), self.table.info().capacity)
            self._paths.locator_damaged.unlink(missing_ok=True)
        info = self.table.info()
        if self._next is None:
            full = info.rows > info.capacity * self.GROW_LOAD
            if not full and not self._renewed:
                return False
            self._renewed = False
            self._next = l2.Locator.create(
                self._next_path, 2 * info.capacity if full else info.capacity, self._boot_id
            )
            self._next_mark = 0
        return self._grow_step(self._next, info.mark)

    def renew(self) -> None:
        """Have it built anew, in steps: it names many packs that are gone."""
        self._renewed = True

    def _grow_step(self, table: l2.Locator, mark: int) -> bool:
        end = time.monotonic() + self.STEP_SECONDS
        for number, pack in self._writer.packs_between(self._next_mark, mark):
            if not table.insert(number, pack):
                self.table = self._rebuild(mark, 4 * self.table.info().capacity)
                return False
            self._next_mark = number
            if time.monotonic() >= end:
                return True
        table.mark(mark, self._boot_id)
        self.table = self._rename(table)
        return False

    def checkpoint(self) -> None:
        """Have all that is entered on disk. If that fails, the file is given up: a second sync of the same pages would
        succeed and have written nothing. Readers do without; the next keeper builds another."""
        try:
            self.table.checkpoint()
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(self._paths.locator)
            raise
        self._unsynced = 0


class Round:
    """One round's way into L2: packs, then the chains of the heads that moved, in few transactions."""

    def __init__(self, owner: Coordinator) -> None:
        self._owner = owner
        self._drain = owner.drain
        self._writer = owner.writer
        self._keeper = owner.keeper
        self._pack = ffi.new("uint8_t **")
        self._size = ffi.new("size_t *")
        self._count = ffi.new("uint32_t *")
        self._tables: list[tuple[int, bytes]] = []
        self._bytes = 0
        self._blobs: list[bytes] = []
        self._recent = 0  # new rows are left out where this pack or a newer one has them

    def write(self, also: Callable[[l2.Batch], None] | None = None) -> None:
        """Everything collected, synced, and in the locator. The heads come with the last transaction, and in it what
        ``also`` does."""
        more = True
        while more:
            self._tables, self._bytes, self._blobs = [], 0, []
            with self._writer.transaction() as batch:
                if not self._recent:
                    self._look_at_clock(batch)
                more = self._put_packs(batch)
                if not more:
                    self._put_heads(batch)
                    if also is not None:
                        also(batch)
                self._sync_blobs()
                lib.hs_step_hit(b"txn_before")
            lib.hs_step_hit(b"txn_after")
            self._keeper.add(self._tables, self._bytes)
        lib.hs_step_hit(b"locator_after")

    def _look_at_clock(self, batch: l2.Batch) -> None:
        """Which packs are recent. And now and then an entry: from here on no writer relies on what L2 has by now."""
        clock, now = batch.clock(), time.time_ns()
        if self._owner.round.entries and clock.is_due(now):
            check(lib.hs_drain_age(self._drain), "aging the ring")
            clock = clock.ticked(time.time_ns(), batch.next_pack)
            batch.put_clock(clock)
        self._recent = clock.recent_from(time.time_ns()) or batch.next_pack

    def _put_packs(self, batch: l2.Batch) -> bool:
        """As many packs as a transaction may hold. False: no more are left."""
        buffer = self._owner.pack_buffer
        while self._bytes < TRANSACTION_BYTES_MAX:
            status = lib.hs_drain_pack(self._drain, buffer, PACK_BYTES, self._pack, self._size, self._count)
            check(status, "packing a round")
            if self._count[0] == 0:
                return False
            if self._drop_known(batch, self._pack[0]):
                self._put_pack(batch, self._pack[0])
        return True

    def _drop_known(self, batch: l2.Batch, pack: Any) -> int:
        """Take out what L2 has already. Returns how many rows are left."""
        count = int(self._count[0])
        suspects = self._keeper.candidates(pack, count)
        if suspects:
            known = batch.known(pack, suspects, self._keeper.table, since=self._recent)
            if known:
                check(lib.hs_pack_drop(pack, self._size, known, len(known)), "thinning a pack")
                count -= len(known)
        return count

    def _put_pack(self, batch: l2.Batch, start: Any) -> None:
        pack = ffi.buffer(start, self._size[0])
        number = batch.put_pack(pack)
        rows = pack[: l2.pack_table_size(memoryview(pack))]
        self._tables.append((number, rows))
        self._blobs += l2.pack_blobs(rows)
        self._bytes += len(pack)

    def _put_heads(self, batch: l2.Batch) -> None:
        slot, word = ffi.new("uint32_t *"), ffi.new("uint64_t *")
        record = ffi.new("uint8_t[]", RECORD_BYTES_MAX)
        while True:
            status = lib.hs_drain_next_head(self._drain, slot, word, record, RECORD_BYTES_MAX, self._size)
            if status == lib.HS_NOT_FOUND:
                return
            check(status, "reading the commit record of a moved head")
            self._put_head(batch, slot[0], word[0], ffi.buffer(record, self._size[0])[:])

    def _put_head(self, batch: l2.Batch, slot: int, word: int, record: bytes) -> None:
        head = record_head(record)
        row = batch.branch(head.name)
        serial = row.serial if row is not None else 0
        first = serial + 1
        buffer = self._owner.log_buffer
        while True:
            what = f"following branch {head.name!r} from serial {serial}"
            status = lib.hs_drain_chain(
                self._drain, slot, serial, buffer, LOG_BLOCK_BYTES, self._size, self._count
            )
            check(status, what)
            count = int(self._count[0])
            if count == 0:
                break
            block = ffi.buffer(buffer, self._size[0])
            batch.put_log(head.name, serial + 1, block)
            self._owner.collector.note(block[:])
            serial += count
        if serial != head.serial:
            raise CorruptError(f"branch {head.name!r}: its chain ends at {serial}, its head is {head.serial}")
        batch.put_branch(
            l2.BranchRow(
                name=head.name,
                deleted=head.deleted,
                word=word,
                segment_nonce=self._owner.nonce,
                serial=head.serial,
                sequence=head.sequence,
                incarnation=head.incarnation,
                oldest=row.oldest if row is not None else first,
                time_ns=head.time_ns,
                root=head.root,
            )
        )

    def _sync_blobs(self) -> None:
        """The files that rows name are on disk before the rows are. An ephemeral store syncs nothing."""
        if self._blobs and self._owner.durable:
            for id in blobs.sync(self._owner.paths, self._blobs, anew=self._owner.heir):
                _LOG.error("large value %s: its file is missing", id.hex())


class Coordinator:
    """What holds the coordinator lock; ``run`` is its life."""

    def __init__(self, paths: StorePaths, lock: lifecycle.CoordinatorLock) -> None:
        self.paths = paths
        self._lock = lock
        self._stopping = False
        self._identity = lifecycle.identify(paths)
        self.durable = not self._identity.ephemeral
        self._failing_since: float | None = None
        self._retry = RETRY_SECONDS_MIN
        self._last_bytes = 0
        self._rounds = self._rested = 0  # done so far; and when memory was given back for the last time
        if self.durable:
            lifecycle.names_sync(paths)
        self.writer = l2.Writer(paths, sync=self.durable)
        self.epoch = self.writer.draw_epoch()
        self.keeper = LocatorKeeper(paths, self.writer, durable=self.durable)
        self.pack_buffer = ffi.new("uint8_t[]", PACK_BYTES)
        self.log_buffer = ffi.new("uint8_t[]", LOG_BLOCK_BYTES)
        self.round = ffi.new("hs_drain_round *")
        self._stats = ffi.new("hs_engine_stats *")
        self._engine = self._attach()
        drain = ffi.new("hs_drain **")
        check(lib.hs_engine_drain(self._engine, drain), "becoming the coordinator")
        self.drain = drain[0]
        self.nonce = int(self.stats().segment_nonce)
        # Of one that ended without a word: a sync may have failed under it, and would now succeed without effect. What
        # it left unfinished is all in the first round that is done.
        self.heir = int(self.stats().coordinator_pid) != 0
        self.collector = Collector(self)
        lib.hs_drain_announce(self.drain, self.epoch, os.getpid())

    def _attach(self) -> Any:
        ring_size = lifecycle.ring_bytes(None)
        args, _keep = lifecycle.open_args(self.paths, self._identity, lib.HS_OPEN_COORDINATOR, ring_size)
        out = ffi.new("hs_engine **")
        with lifecycle.gate(self.paths, time.monotonic() + GATE_SECONDS):
            status = lib.hs_engine_open(args, out)
        check(status, f"attaching to the shared memory of {self.paths.root}")
        return out[0]

    def stats(self) -> Any:
        check(lib.hs_engine_stats_get(self._engine, self._stats), "statistics")
        return self._stats

    def stop(self) -> None:
        """Finish the round, then leave, whoever is there: another coordinator will be started."""
        self._stopping = True

    # ---- the loop ----

    def run(self) -> None:
        """Drain until nobody needs it any more."""
        alone_since: float | None = None
        while True:
            lib.hs_drain_allocate_ahead(self.drain, CHUNKS_AHEAD)
            if self._work():
                alone_since = None if lib.hs_drain_participants(self.drain) else alone_since
                continue
            if self._stopping:
                return self._leave_early()
            now = time.monotonic()
            if lib.hs_drain_participants(self.drain) > 0:
                alone_since = None
            elif alone_since is None:
                alone_since = now
            if alone_since is not None and now - alone_since >= LINGER_SECONDS and self._leave():
                return None
            self._sleep(alone_since)

    def _work(self) -> bool:
        """Do what there is to do now. False: nothing."""
        lib.hs_drain_evict(self.drain)
        if self._is_wanted():
            if not self._stopping:
                self._gather()
            self._try_round()
            self.collector.step()
            return True
        if self._stopping:
            return False
        return any([self.collector.step(), self.keeper.tend()])

    def _is_wanted(self) -> bool:
        """Is it time for a round?"""
        if not lib.hs_drain_has_work(self.drain, 0):
            # Somebody may wait for a round in which nothing is left to do.
            return bool(lib.hs_drain_sleep(self.drain, 0, 1) == lib.HS_OK)
        if (
            self.durable or lib.hs_engine_collection(self._engine) & 1
        ):  # one that died keeps commits from beginning
            return True
        stats = self.stats()
        few = stats.chunks_free < stats.chunks * EPHEMERAL_FREE_SHARE
        return bool(few or lib.hs_drain_sleep(self.drain, 0, 1) == lib.HS_OK)

    def _sleep(self, alone_since: float | None) -> None:
        if not self.durable and lib.hs_drain_has_work(self.drain, 0):
            lib.hs_drain_sleep(self.drain, EPHEMERAL_PAUSE_MS, 1)
            return
        wait = IDLE_MS if alone_since is None else int(LINGER_SECONDS * 1000 / 4)
        if lib.hs_drain_sleep(self.drain, wait, 0) != lib.HS_OK and self._rested != self._rounds:
            # LMDB holds a transaction's pages in memory of its own, and the heap keeps it.
            self._rested = self._rounds
            lib.hs_drain_rest()

    def _gather(self) -> None:
        """Let more come together, unless somebody waits or there is enough."""
        busy = self._last_bytes >= BUSY_ROUND_BYTES
        end = time.monotonic() + (GATHER_SECONDS_BUSY if busy else GATHER_SECONDS_QUIET)
        while time.monotonic() < end and not self._stopping:
            stats = self.stats()
            if stats.unpersisted_bytes >= min(PACK_BYTES, stats.ring_size // 8):
                return
            if lib.hs_drain_sleep(self.drain, GATHER_SLICE_MS, 1) == lib.HS_OK:
                # Those whom the last round woke are about to ask as well.
                lib.hs_drain_rejoin(self.drain)
                return

    # ---- a round, and what if it fails ----

    def _try_round(self) -> None:
        try:
            self._collect(None)
        except l2.EpochError:
            raise
        except (HeliosError, OSError) as error:
            self._failed(error)
            return
        self._finish()
        if self.round.reaped:
            drop_dead(self.paths.leases)
        if self._failing_since is not None:
            self._recovered()

    def write_round(self, also: Callable[[l2.Batch], None] | None = None) -> None:
        """A round here and now, for the collector. What fails is raised; another round will try again."""
        self._collect(also)
        self._finish()

    def _collect(self, also: Callable[[l2.Batch], None] | None) -> None:
        check(lib.hs_drain_collect(self.drain, self.round), "collecting a round")
        Round(self).write(also)
        if self.round.reaped:
            self.writer.clear_dead_readers()

    def _finish(self) -> None:
        check(lib.hs_drain_finish(self.drain), "finishing a round")
        self.heir = False
        self._last_bytes = int(self.round.bytes)
        self._rounds += 1

    def _failed(self, error: Exception) -> None:
        """Nothing of the round is acknowledged. Say why, and try again a little later."""
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
            _LOG.error("a round failed and will be tried again: %s", error)
        note_error(self.paths, str(error))
        if lib.hs_drain_participants(self.drain) == 0:
            if not self.paths.root.exists():
                lib.hs_engine_unlink(self._engine)
                raise NotFoundError(f"{self.paths.root}: the store was removed") from error
            if now - self._failing_since > GIVE_UP_SECONDS:
                raise error
        time.sleep(self._retry)
        self._retry = min(2 * self._retry, RETRY_SECONDS_MAX)
        self.open_again()

    def open_again(self) -> None:
        """After something failed on the way to L2."""
        try:
            self.writer.reopen()
            # What was committed before the failure may be missing in the locator.
            self.keeper = LocatorKeeper(self.paths, self.writer, durable=self.durable)
        except (HeliosError, OSError) as again:
            _LOG.error("opening the store again: %s", again)

    def _recovered(self) -> None:
        self._failing_since = None
        self._retry = RETRY_SECONDS_MIN
        clear_error(self.paths)
        _LOG.info("writing again")

    # ---- leaving ----

    def _leave(self) -> bool:
        """Give the segment up and go, if nobody is there and nothing is left. False: somebody came."""
        if self.durable:
            self.keeper.checkpoint()
        gone: Path | None = None
        try:
            with lifecycle.gate(self.paths, time.monotonic() + GATE_SECONDS):
                if lib.hs_drain_participants(self.drain) > 0:
                    return False
                if self.durable and lib.hs_drain_has_work(self.drain, 1):
                    return False
                check(lib.hs_engine_unlink(self._engine), "giving the shared memory up")
                lib.hs_step_hit(b"leave_unlinked")
                if not self.durable:
                    with contextlib.suppress(FileNotFoundError):
                        gone = lifecycle.detach_directory(self.paths)
                self._close()
        except BusyError:
            return False
        except NotFoundError:
            # The directory was removed under us. Nobody can come any more; the memory must not stay.
            if lib.hs_drain_participants(self.drain) > 0:
                return False
            lib.hs_engine_unlink(self._engine)
            self._close()
        if gone is not None:
            shutil.rmtree(gone, ignore_errors=True)
        return True

    def _leave_early(self) -> None:
        """Told to stop while others are there: the segment stays for the next coordinator."""
        if lib.hs_drain_participants(self.drain) == 0 and self._leave():
            return
        self._close()

    def _close(self) -> None:
        self.writer.close()
        lib.hs_drain_announce(self.drain, self.epoch, 0)
        lib.hs_drain_close(self.drain)
        lib.hs_engine_close(self._engine)
        self._lock.release()


def note_error(paths: StorePaths, text: str) -> None:
    """Tell those who wait why nothing is written; best effort, since the disk may be what is wrong."""
    with contextlib.suppress(OSError):
        # Not to wait for a reader, should it be a pipe.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(paths.error_note, flags, 0o600)
        try:
            os.write(fd, text.encode() + b"\n")
        finally:
            os.close(fd)


def clear_error(paths: StorePaths) -> None:
    with contextlib.suppress(OSError):
        os.unlink(paths.error_note)


def _log_trim(paths: StorePaths) -> None:
    with contextlib.suppress(OSError):
        if os.stat(paths.log).st_size > LOG_FILE_BYTES_MAX:
            os.truncate(paths.log, 0)


def _arm_step() -> None:
    """Crash tests name a step in the environment: "label nth action"."""
    wanted = os.environ.get("HELIOS_STEP_COORDINATOR")
    if wanted:
        label, nth, action = wanted.split()
        check(lib.hs_step_arm(label.encode(), int(nth), int(action)), f"arming step {label}")


def coordinate(paths: StorePaths) -> int:
    """Become the store's coordinator and be it until nobody needs one. Returns the exit status."""
    lock = lifecycle.CoordinatorLock(paths)
    started = time.monotonic()
    try:
        if not lock.take():
            return 0
        lifecycle.start_lock_drop(paths)
        _log_trim(paths)
        _arm_step()
        coordinator = Coordinator(paths, lock)
        signal.signal(signal.SIGTERM, lambda *_: coordinator.stop())
        clear_error(paths)
        _LOG.info("epoch %d, started in %.0f ms", coordinator.epoch, (time.monotonic() - started) * 1000)
        coordinator.run()
    except NotFoundError as error:
        _LOG.info("nothing to coordinate: %s", error)
        return 0
    except Exception as error:
        note_error(paths, f"{type(error).__name__}: {error}")
        _LOG.exception("ended by an error")
        return 1
    _LOG.info("ended")
    return 0


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m helios_shm.coordinator PATH", file=sys.stderr)
        return 2
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(message)s"
    )
    return coordinate(StorePaths(Path(arguments[0])))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
