"""A branch: a name for a moving head.

    head word (shared, moved by compare-and-swap) -> commit record (ring, later L2's log) -> root

A handle remembers the last record that it read together with its head word; a segment's words are unique for ever, so
an unchanged word of the same segment means an unchanged head.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from . import config
from ._capi import check, error, ffi, hot, lib
from .attachment import WORD_IN_L2, Attachment, Deadline, Stale, empty_root
from .commit import EPOCH, Commit
from .errors import BusyError, CapacityError, ConflictError, CorruptError, ExistsError, NotFoundError
from .history import touching
from .isolation import SerializableWorkspace
from .l2 import BranchRow
from .mapping import encode_path
from .merge import Generation, checked, history_from, merge_states, nearest_common
from .names import branch_name
from .record import (
    RECORD_ROOT,
    RecordHead,
    began_empty,
    is_deleted,
    is_of,
    record_head,
    roots_of,
    sequence_of,
)
from .resolve import Rules
from .snapshot import Snapshot, make_snapshot
from .turn import Turn
from .types import JSON, Isolation, Resolve
from .undo import At, Step, redo_of, undo_of
from .watch import Watch, make_watch
from .workspace import Said, Workspace, continued, read_only_error, silence

if TYPE_CHECKING:
    from .engine import Engine

T = TypeVar("T")
_NO_SLOT = 0xFFFFFFFF
_NO_INCARNATION = bytes(8)
_MICROSECOND = timedelta(microseconds=1)


class Branch(hot.BranchBase):
    """A handle on a branch. Thread-safe, picklable. The branch itself begins with its first commit."""

    __slots__ = ("__weakref__", "_attachment", "_known", "_name", "_ref")

    _attachment: Attachment
    _name: str
    _ref: Any  # hs_branch_ref
    # segment, head word in it, and that record's bytes; None: no such branch (yet, or any more)
    _known: tuple[int, int, bytes | None]

    def __init__(self) -> None:
        raise TypeError("branches come from Engine.branch()")

    @property
    def name(self) -> str:
        """1..255 bytes of UTF-8."""
        return self._name

    @property
    def engine(self) -> Engine:
        """An engine over the store that this branch is in."""
        from .engine import engine_of

        return engine_of(self._attachment)

    def __repr__(self) -> str:
        return f"<Branch {self._name!r} of {os.fspath(self._attachment.paths.root)}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Branch):
            return NotImplemented
        return self._name == other._name and self._attachment.uuid == other._attachment.uuid

    def __hash__(self) -> int:
        return hash((self._name, self._attachment.uuid))

    def __reduce__(self) -> tuple[Any, ...]:
        from .engine import restore_branch

        attachment = self._attachment
        return restore_branch, (attachment.uuid, os.fspath(attachment.paths.root), self._name)

    # --- the head ---

    def _word(self) -> int:
        attachment = self._attachment
        deadline = Deadline(config.COMMIT_DEADLINE)
        call = attachment.call()
        try:
            while (status := lib.hs_branch_word(call.c, self._ref)) in (lib.HS_WAIT, lib.HS_FULL):
                # The coordinator is making room in the table of branches, or must.
                if deadline.passed():
                    raise CapacityError(f"branch {self._name!r}: the shared table of branches stays full")
                attachment.wait_for_room(deadline, f"branch {self._name!r}")
            attachment.waited_for_room(deadline)
            check(status, f"branch {self._name!r}")
            return int(call.c.word)
        finally:
            attachment.pool.append(call)

    def _head_record(self) -> bytes | None:
        """The newest commit record (deleted ones included), or None: there never was such a branch."""
        while True:
            word = self._word()
            segment = self._attachment.segment
            known_segment, known_word, known = self._known
            if (
                word == known_word
                and segment == known_segment
                and not (word & WORD_IN_L2 and self._attachment.private)
            ):
                return known
            record = self._record_of(word)
            if not isinstance(record, Stale):
                self._known = (segment, word, record)
                return record

    def _record_of(self, word: int) -> bytes | Stale | None:
        """The record that a head word stands for: from the ring, else L2's newest."""
        record = self._ring_record(word)
        if record is not None:
            return record
        row = self._attachment.row_of(self._ref, word)
        if row is None or isinstance(row, Stale):
            return row
        record = next(self._attachment.reader.records(self._name, row.serial), None)
        if record is None or not _agree(row, record_head(record)):
            raise CorruptError(
                f"branch {self._name!r} of {self._attachment.paths.root}: its log in L2 has no commit of serial "
                f"{row.serial} as its row says"
            )
        return record

    def _ring_record(self, word: int) -> bytes | None:
        """The record of this branch at a word, if the ring has it. CorruptError if another branch's is there."""
        if word & WORD_IN_L2:
            return None
        attachment = self._attachment
        call = attachment.call()
        try:
            n = lib.hs_record_get(call.c, word)
            if n == lib.HS_NOT_FOUND:
                return None
            record = bytes(call.data[: check(n, f"a commit record of branch {self._name!r}")])
        finally:
            attachment.pool.append(call)
        if not is_of(record, self._name.encode()):
            raise CorruptError(
                f"branch {self._name!r}: the head word {word:#x} leads to another branch's record"
            )
        return record

    def _live_record(self) -> bytes | None:
        """The head's record, if the branch exists."""
        record = self._head_record()
        return None if record is None or is_deleted(record) else record

    def _existing(self) -> bytes:
        record = self._live_record()
        if record is None:
            raise NotFoundError(
                f"branch {self._name!r} has no commit (or was deleted) in {self._attachment.paths.root}"
            )
        return record

    @property
    def head(self) -> Snapshot:
        """The newest committed state; the empty state before the first commit. Cost: one C call."""
        under = self._attachment._collection()
        record = self._live_record()
        root = empty_root() if record is None else record[RECORD_ROOT]
        return make_snapshot(self._attachment, root, under)

    @property
    def last_commit(self) -> Commit:
        """The newest commit. Raises NotFoundError before the first."""
        under = self._attachment._collection()
        return hot.make_commit(self._existing(), self._attachment, under)

    # --- changing ---

    def fork(self, *, isolation: Isolation = "snapshot") -> Workspace:
        """A private copy of the head whose commits move this branch. O(1).

        isolation: what a commit judges: "snapshot", its edits; "serializable", what was read as well: paths (those that
        are not there, too) and ranges, as far as they were consumed, unless they were edited.
        """
        workspace = self._fork()
        if isolation == "snapshot":
            return workspace
        if isolation == "serializable":
            return SerializableWorkspace._of(workspace)
        raise ValueError(f"isolation is 'snapshot' or 'serializable', not {isolation!r}")

    def _fork(self) -> Workspace:
        under = self._attachment._collection()
        record = self._live_record()
        workspace: Workspace = Workspace.__new__(Workspace)
        workspace._attachment = self._attachment
        workspace._branch = self
        if record is None:
            workspace._base = empty_root() + _NO_INCARNATION
        else:
            workspace._base = record[16:56]
        workspace._base_snapshot = None
        workspace._trust_under(under)
        workspace._edits = {}
        return workspace

    def transaction(
        self,
        message: str = "",
        *,
        metadata: Mapping[str, JSON] | None = None,
        durable: bool = False,
        rebase: bool = True,
        resolve: Resolve | None = None,
        isolation: Isolation = "snapshot",
    ) -> AbstractContextManager[Workspace]:
        """``with branch.transaction() as ws:``: fork, run the body once, commit on leaving it; after an exception
        nothing is committed. Takes what ``fork`` and ``Workspace.commit`` take, raises what these raise."""
        Rules(resolve)  # raises before the body runs
        return _Transaction(
            self,
            isolation,
            message,
            {"metadata": metadata, "durable": durable, "rebase": rebase, "resolve": resolve},
        )

    def update(
        self,
        fn: Callable[[Workspace], T],
        message: str = "",
        *,
        metadata: Mapping[str, JSON] | None = None,
        durable: bool = False,
        resolve: Resolve | None = None,
        retries: int = 100,
    ) -> T:
        """Run ``fn`` on a serialisable fork of the head and commit what it has edited: any read-modify-write. Where
        something that it has read or edited was changed meanwhile, it runs again, on the head that is then.

        retries: how often it may run again. resolve: as in ``Workspace.commit``; what that decides, it need not run
        again for. Returns what ``fn`` returned in the run that was committed. Raises what ``fn`` and
        ``Workspace.commit`` raise; ConflictError after the last run.
        """
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise ValueError(f"retries is a number from 0 on, not {retries!r}")
        said, rules, turn = Said(message, metadata), Rules(resolve), Turn(self)
        try:
            while True:
                workspace = self.fork(isolation="serializable")
                value = fn(workspace)
                try:
                    workspace._commit_said(said, durable=durable, rules=rules)
                except ConflictError:
                    if retries == 0:
                        raise
                    retries -= 1
                    turn.passed(said)
                else:
                    return value
        finally:
            turn.give()

    def merge(
        self,
        other: Branch | Snapshot,
        *,
        base: Snapshot | None = None,
        resolve: Resolve | None = None,
        message: str = "",
    ) -> Commit:
        """Bring what ``other`` has changed since ``base`` onto the head, by one commit whose second parent is
        ``other``'s state; see ``Snapshot.merge``, whose "ours" is the head. A branch that is not there is made.

        base: default, the nearest state that both histories have in common: the states of the branches' logs and those
        that were merged into them; for a snapshot, those of every branch that has it. Of a state that was merged from a
        third branch, that one is known and not what it comes from: where three and more branches merge each other
        crosswise, pass ``base``, or an increment that came by two ways may count twice.

        Where ``other``'s state is in this branch's history, there is nothing to merge: ``last_commit``. Raises
        ConflictError; NotFoundError where there is no common state (pass ``base``) or ``other`` is a branch that does
        not exist; BusyError where the head moves faster than this can follow. Cost: O(changes x depth), and of looking
        for a base, a record for each commit back to it.
        """
        rules = Rules(resolve)
        of = other if isinstance(other, Branch) else None
        theirs = checked(self._attachment, of.last_commit.snapshot if of is not None else other)
        if base is not None:
            checked(self._attachment, base)
        said, deadline = Said(message, None, second=theirs), Deadline(config.COMMIT_DEADLINE)
        what = f"merge of {theirs.id[:12]} into branch {self._name!r}"
        turn = Turn(self)
        try:
            while True:
                ours = self.head
                since = base if base is not None else self._common(theirs, of, what)
                if since == theirs and self._live_record() is not None:
                    return self.last_commit
                merged = merge_states(ours, theirs, since, rules, what)
                with contextlib.suppress(HeadMoved):
                    return self._move(lib.HS_MOVE_COMPARE, merged, ours, said)
                if deadline.passed():
                    raise BusyError(f"{what}: the head moved faster than this merge could follow")
                turn.passed(said)
        finally:
            turn.give()

    def _common(self, theirs: Snapshot, of: Branch | None, what: str) -> Snapshot:
        """The nearest state that this branch's history has in common with a state's, in another branch's log or
        in any."""
        root = theirs._root
        for history in (of._history(),) if of is not None else self._histories():
            with contextlib.suppress(NotFoundError):  # deleted while it was read
                common = nearest_common(self._history(), history_from(root, history))
                if common is not None:
                    return make_snapshot(self._attachment, common)
        logs = (
            f"the logs of {self._name!r} and {of._name!r} have" if of is not None else "no branch's log has"
        )
        known = (each for each in (self, of) if each is not None and each._live_record() is not None)
        dropped = "".join(each._dropped() for each in known)
        raise NotFoundError(f"{what}: {logs} no state that both come from{dropped}; pass base=")

    def _history(self) -> Iterator[Generation]:
        """The states of each commit that is in the log, newest first: its own, and that of its second parent. A branch
        that began with edits, or with a merge, began with the empty state; one that was made at a state, with that."""
        record = None
        if self._live_record() is not None:
            for record, _ in self._records():
                yield roots_of(record)
        if record is None or (sequence_of(record) == 1 and began_empty(record)):
            yield (empty_root(),)

    def _histories(self) -> Iterator[Iterator[Generation]]:
        """This branch's history, then every other's."""
        yield self._history()
        for name in self.engine.branches():
            if name != self._name:
                yield make_branch(self._attachment, name)._history()

    def restore(self, snapshot: Snapshot, message: str = "") -> Commit:
        """Make a snapshot the head by a new commit, whatever the head is now. Later commits stay in the log."""
        return self._move(lib.HS_MOVE_RESTORE, snapshot, None, Said(message, None))

    def undo(self) -> Commit:
        """Take the newest commit back, by a new commit with the state before it; after an undo, the one before that.

        Merges and restores are taken back like any commit. Raises NotFoundError when only the branch's first commit is
        left; BusyError when others moved the head each time for 30 s. Cost: a look-up of up to four commits, as
        ``at`` does it.
        """
        return self._step(undo_of)

    def redo(self) -> Commit:
        """Take the newest undo back, by a new commit. Raises NotFoundError when there is none since the last commit
        that was neither undo nor redo; and what ``undo`` raises."""
        return self._step(redo_of)

    def _step(self, step_of: Callable[[Commit, At, str], Step]) -> Commit:
        """Look at the head, and commit what follows from it if it is the head still; else look again."""
        attachment = self._attachment
        deadline = Deadline(config.COMMIT_DEADLINE)
        what = f"branch {self._name!r}"
        while True:
            record = self._existing()
            with contextlib.suppress(HeadMoved):
                head = hot.make_commit(record, attachment)
                step = step_of(head, partial(self._commit_below, record), what)
                said = Said(step.message, step.metadata, expected_serial=record_head(record).serial)
                return self._move(lib.HS_MOVE_RESTORE, step.snapshot, said=said)
            if deadline.passed():
                raise BusyError(f"{what}: its head moved faster than undo and redo could follow")

    def compare_and_set(self, expected: Snapshot | Commit, new: Snapshot) -> bool:
        """If the head is ``expected``, make it ``new`` by a new commit and return True; else change nothing,
        return False."""
        if isinstance(expected, Commit):
            expected = expected.snapshot
        try:
            self._move(lib.HS_MOVE_COMPARE, new, expected)
        except HeadMoved:
            return False
        return True

    def delete(self) -> None:
        """Remove the branch. Its states stay readable by id until a collection; workspaces forked from it can no longer
        commit. Raises NotFoundError."""
        self._move(lib.HS_MOVE_DELETE, make_snapshot(self._attachment, empty_root()))

    def _create(self, snapshot: Snapshot) -> None:
        self._move(lib.HS_MOVE_CREATE, snapshot)

    def _move(
        self, move: int, snapshot: Snapshot, expected: Snapshot | None = None, said: Said | None = None
    ) -> Commit:
        """Make a snapshot the head by a new commit, as ``move`` says (csrc/helios_shm.h). Raises HeadMoved where the
        head is not ``expected``, or has another serial than ``said`` asks for."""
        attachment = self._attachment
        if attachment.readonly:
            raise read_only_error(attachment)
        for each in (snapshot, expected) if move == lib.HS_MOVE_COMPARE else (snapshot,):
            if not isinstance(each, Snapshot):
                raise TypeError(f"a branch moves between snapshots, not {type(each).__name__}")
            if each._attachment.uuid != attachment.uuid:
                raise NotFoundError(f"snapshot {each.id} is in another store, {each._attachment.paths.root}")
        snapshot._validate()
        said = said or Said("", None)
        call = attachment.call()
        what = f"branch {self._name!r}"
        try:
            said.tell(call)
            n = lib.hs_commit_root(
                call.c, self._ref, move, snapshot._root, ffi.NULL if expected is None else expected._root
            )
            n = continued(attachment, call, self._ref, n, what)
            if n > 0:
                record = bytes(call.data[: n & ~lib.HS_LOOK_AFTER])
                return hot.commit_of_call(record, attachment, call)
        finally:
            silence(call)
            attachment.pool.append(call)
        if n == lib.HS_MOVED:
            raise HeadMoved
        if n == lib.HS_NOT_FOUND:
            raise NotFoundError(f"{what} does not exist in {attachment.paths.root}")
        if n == lib.HS_EXISTS:
            raise ExistsError(f"{what} exists already in {attachment.paths.root}")
        raise error(n, what)

    # --- history ---

    def log(self, limit: int | None = None, *, path: str | None = None) -> Iterator[Commit]:
        """The branch's commits since it was (last) made, newest first, at most ``limit``; down to the oldest that
        collections have left. Raises NotFoundError, when it is iterated, for a branch that does not exist.

        path: only commits that touched this path (with a '/' at its end: anything below it). Cost then: a look into
        each state, many at once, up to twice as many as had to be read for what was taken of the iterator.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"limit is 0 or more, not {limit}")
        if path is not None:
            encode_path(path)
        return islice(self._log(path), limit)

    def _log(self, path: str | None) -> Iterator[Commit]:
        records: Iterator[bytes] = (record for record, _ in self._records())
        if path is not None:
            records = touching(self._attachment, records, path, self._oldest())
        for record in records:
            yield hot.make_commit(record, self._attachment)

    def _records(self) -> Iterator[tuple[bytes, RecordHead]]:
        """Records of this incarnation, newest first: along the chain while the ring has it, then L2's log; down to the
        oldest that collections have left.

        A record that stands in the ring names its parent by a word of the same segment; one that only L2 has, perhaps
        by a word of a segment that has gone, which leads anywhere in this one.
        """
        while True:
            record = self._existing()
            segment, word, known = self._known
            if known is record:  # else another thread has looked meanwhile
                break
        head = record_head(record)
        oldest = -1
        while True:
            yield record, head
            if oldest < 0:
                oldest = self._oldest()
            if head.sequence == 1 or head.serial <= oldest:
                return
            if word & WORD_IN_L2 or segment != self._attachment.segment:
                break
            word = head.parent_word
            parent = self._ring_record(word)
            if parent is None:
                break
            serial = head.serial - 1
            record, head = parent, record_head(parent)
            if head.serial != serial:
                raise self._broken(serial)
        for record in self._attachment.reader.records(self._name, head.serial - 1):
            head = record_head(record)
            yield record, head
            if head.sequence == 1 or head.serial <= oldest:
                return
        if head.serial > self._oldest():  # else it was collected meanwhile
            raise self._broken(head.serial - 1)

    def _oldest(self) -> int:
        """The serial of the oldest commit that collections have left; 0: L2 knows of none."""
        row = self._attachment.reader.branch(self._name)
        return 0 if row is None else row.oldest

    def _broken(self, serial: int) -> CorruptError:
        return CorruptError(
            f"branch {self._name!r} of {self._attachment.paths.root}: its commit of serial {serial} is nowhere"
        )

    def at(self, when: int | datetime) -> Commit:
        """The commit of a sequence number (1, 2, ...), or of a point in time (aware, or local time): the newest whose
        time is not later. Clocks may be set back, and imports bring times of their own, so commits before it may have
        later times.

        Raises NotFoundError, also for one that a collection has dropped. Cost: one look-up in L2 for what is persisted;
        by time, the commits after it are read, once in a process.
        """
        if isinstance(when, bool) or not isinstance(when, int | datetime):
            raise TypeError(
                f"a commit is found by its sequence number or a datetime, not by {type(when).__name__}"
            )
        if isinstance(when, int):
            record = self._at_sequence(when)
        else:
            # In whole microseconds: a float of seconds is not exact enough to find a commit by its own time.
            time_ns = (when.astimezone(UTC) - EPOCH) // _MICROSECOND * 1000 + 999
            record = self._at_time(time_ns)
        if record is None:
            raise NotFoundError(f"branch {self._name!r} has no commit {when}{self._dropped()}")
        return hot.make_commit(record, self._attachment)

    def _dropped(self) -> str:
        """What a message says of history that was collected."""
        head, oldest = record_head(self._existing()), self._oldest()
        first = head.sequence - (head.serial - oldest)
        dropped = oldest and first > 1
        return f"; a collection dropped all of {self._name!r} before commit {first}" if dropped else ""

    def _at_sequence(self, sequence: int) -> bytes | None:
        record = self._existing()
        head = record_head(record)
        if not 1 <= sequence <= head.sequence:
            return None
        return (
            record if sequence == head.sequence else self._at_serial(head.serial - (head.sequence - sequence))
        )

    def _at_serial(self, serial: int) -> bytes | None:
        """The record of a serial, below the head's: L2's, else the ring's. None: it is of an earlier incarnation, or
        not in the log any more."""
        row = self._attachment.reader.branch(self._name)
        if row is not None and serial < row.oldest:
            return None
        if row is not None and row.serial >= serial:
            record = next(self._attachment.reader.records(self._name, serial), None)
            if record is None and row.oldest <= serial:
                raise self._broken(serial)
            return record
        return next((record for record, head in self._records() if head.serial == serial), None)

    def _at_time(self, time_ns: int) -> bytes | None:
        """The newest record whose time is not above: along the ring as far as L2 lacks it, then by L2's log."""
        row = self._attachment.reader.branch(self._name)
        persisted = 0 if row is None else row.serial
        for record, head in self._records():
            if head.time_ns <= time_ns:
                return record
            if head.serial <= persisted:
                lowest = head.serial - head.sequence + 1
                return self._attachment.reader.newest_until(self._name, head.serial - 1, lowest, time_ns)
        return None

    def _commit_below(self, record: bytes, sequence: int) -> Commit:
        """The commit of a sequence number up to that of the head whose record this is. HeadMoved if it is not found
        since the head is another now; NotFoundError."""
        head = record_head(record)
        found = record
        if sequence != head.sequence:
            below = self._at_serial(head.serial - (head.sequence - sequence))
            if below is None:
                if self._live_record() != record:
                    raise HeadMoved
                raise NotFoundError(f"branch {self._name!r} has no commit {sequence} any more")
            found = below
        return hot.make_commit(found, self._attachment)

    def wait(self, after: int | None = None, timeout: float | None = None) -> Commit | None:
        """Sleep until the branch has a commit with a sequence above ``after`` (default: above the one it has now);
        return the newest, or None after ``timeout`` seconds. Waits that come late coalesce; the newest is never
        missed."""
        attachment = self._attachment
        if after is not None and (isinstance(after, bool) or not isinstance(after, int)):
            raise TypeError(f"after is the sequence number of a commit, not {type(after).__name__}")
        deadline = Deadline(timeout)
        record = self._live_record()
        if after is None:
            after = 0 if record is None else sequence_of(record)
        while record is None or sequence_of(record) <= after:
            if deadline.passed():
                return None
            call = attachment.call()
            try:
                lib.hs_branch_wait(call.c, self._ref, self._known[1], deadline.slice_ms())
            finally:
                attachment.pool.append(call)
            record = self._live_record()
        return hot.make_commit(record, attachment)

    def watch(self, prefix: str = "", *, after: int | None = None) -> Watch:
        """The branch's commits as they come: ``for commit in branch.watch():`` sleeps between them, ``async for`` lets
        asyncio's event loop run on.

        Gives out the newest commit after the last one given out, and never misses the newest; those in between, when
        several came meanwhile, are in ``log``. A branch that is deleted and made anew is watched on.

        prefix: only commits after which something below it differs from what was last given out. O(changes x depth) for
            each commit that is looked at.
        after: begin after the commit of this sequence number; default: after the one that is the newest now.

        No polling; all waits of a process's event loops share one thread for each store. Raises TypeError, ValueError;
        while iterating, ClosedError once the engine is closed.
        """
        return make_watch(self, prefix, after)


def _agree(row: BranchRow, head: RecordHead) -> bool:
    """Does a branch's row say what its newest record does?"""
    return (row.serial, row.sequence, row.incarnation, row.time_ns, row.root, row.deleted) == (
        head.serial, head.sequence, head.incarnation, head.time_ns, head.root, head.deleted,
    )  # fmt: skip


class HeadMoved(Exception):
    """The head was not the one that was expected."""


class _Transaction(AbstractContextManager[Workspace]):
    __slots__ = ("_branch", "_isolation", "_message", "_options", "_workspace")

    def __init__(
        self, branch: Branch, isolation: Isolation, message: str, options: Mapping[str, Any]
    ) -> None:
        self._branch = branch
        self._isolation: Isolation = isolation
        self._message = message
        self._options = options

    def __enter__(self) -> Workspace:
        self._workspace = self._branch.fork(isolation=self._isolation)
        return self._workspace

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._workspace.commit(self._message, **self._options)


def make_branch(attachment: Attachment, name: str) -> Branch:
    """The handle of a name that a user gives; not looked up."""
    return branch_of(attachment, branch_name(name))


def branch_of(attachment: Attachment, name: str) -> Branch:
    """The handle of a name that the store may have (names.py); not looked up."""
    encoded = name.encode()
    branch: Branch = Branch.__new__(Branch)
    branch._attachment = attachment
    branch._name = name
    branch._known = (0, 0, None)
    branch._ref = ffi.new("hs_branch_ref *")
    ffi.memmove(branch._ref.name, encoded, len(encoded))
    branch._ref.name_size = len(encoded)
    branch._ref.slot = _NO_SLOT
    branch._address = int(ffi.cast("uintptr_t", branch._ref))
    return branch
