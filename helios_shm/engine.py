"""The engine: an open store. Wires the floors below; nothing clever.

Engines of one process over one store share one attachment; what was pickled finds the engine that its process has
open, or opens the store again.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from . import lifecycle
from ._capi import check, ffi, lib
from .attachment import Attachment, Deadline, empty_root, iter_attachments
from .branch import Branch, branch_of, make_branch
from .check import check_store
from .collect import collect
from .errors import ClosedError, CorruptError, NotFoundError, ReadOnlyError
from .l2 import BranchRow
from .metrics import Stats, make_stats
from .names import TAG, is_tag
from .record import RECORD_ROOT, RecordHead, record_head
from .snapshot import Snapshot, make_snapshot
from .tags import delete_tag, find_tag, set_tag
from .types import CheckReport, GCReport

_ID_DIGITS = 64
_ID_PREFIX_DIGITS_MIN = 4
_HEX = re.compile(r"[0-9a-f]+\Z")
_WORDS_A_CALL = 1024

_open_lock = threading.RLock()
# What unpickling opened: no engine holds it, and it serves whatever else is unpickled, until the process ends.
_kept: set[Attachment] = set()
os.register_at_fork(
    before=_open_lock.acquire, after_in_parent=_open_lock.release, after_in_child=_open_lock.release
)


def open(
    path: str | os.PathLike[str] | None,
    *,
    create: bool = True,
    readonly: bool = False,
    l1_bytes: int | None = None,
) -> Engine:
    """Open a store; make it if there is none.

    path: the store's directory; None: an ephemeral store, never synced, gone when the last engine over it is closed.
    create: False raises NotFoundError where there is no store.
    readonly: changes raise ReadOnlyError; implies create=False; works on a file system that cannot be written.
    l1_bytes: size of the shared ring in bytes (4 MiB or more), used by whoever opens the store first; default
        256 MiB or half of what /dev/shm has free, whichever is less.

    Raises NotFoundError, FormatError (no store, another version's, a network file system), CapacityError (shared
    memory, slots for processes), BusyError, StoreError, ReadOnlyError. Cost: a few milliseconds where a segment
    stands; tens where one must be made.
    """
    if path is not None and not isinstance(path, str | os.PathLike):
        raise TypeError(f"a store's path is a str, a path or None, not {type(path).__name__}")
    lifecycle.ring_bytes(l1_bytes)
    with _open_lock:
        if path is None:
            if readonly:
                raise ValueError("an ephemeral store cannot be read-only: it is new and empty")
            paths = lifecycle.create_ephemeral()
        else:
            paths = lifecycle.open_store(path, create=create and not readonly)
            if not readonly and not lifecycle.is_writable(paths):
                raise ReadOnlyError(f"{paths.root} cannot be written; open it with readonly=True")
        return _engine_over(paths, readonly, l1_bytes)


def _engine_over(paths: lifecycle.StorePaths, readonly: bool, l1_bytes: int | None) -> Engine:
    identity = lifecycle.identify(paths)
    for attachment in iter_attachments():
        theirs = attachment.identity
        same = (theirs.uuid, theirs.device, theirs.inode) == (identity.uuid, identity.device, identity.inode)
        if same and attachment.readonly == readonly:
            attachment.look_after()
            return Engine._over(attachment)
    return Engine._over(Attachment(paths, readonly=readonly, l1_bytes=l1_bytes))


class Engine:
    """An open store. A context manager; thread-safe; usable in forked children; picklable."""

    __slots__ = ("__weakref__", "_attachment", "_open")

    _attachment: Attachment
    _open: bool

    def __init__(self) -> None:
        raise TypeError("engines come from helios_shm.open()")

    @classmethod
    def _over(cls, attachment: Attachment) -> Self:
        engine = object.__new__(cls)
        engine._attachment = attachment
        engine._open = True
        attachment.engines.add(engine)
        return engine

    def _live(self) -> Attachment:
        if not self._open or self._attachment.closed:
            raise ClosedError(f"the engine of {self._attachment.paths.root} is closed")
        return self._attachment

    @property
    def path(self) -> Path:
        """The store's directory, absolute."""
        return self._attachment.paths.root

    @property
    def empty(self) -> Snapshot:
        """The state without entries: where every state begins."""
        return make_snapshot(self._live(), empty_root())

    def __repr__(self) -> str:
        return f"<Engine over {os.fspath(self.path)}{'' if self._open else ', closed'}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return restore_engine, (self._attachment.uuid, os.fspath(self.path))

    # --- branches ---

    def branch(self, name: str, *, create: bool = True, at: Snapshot | None = None) -> Branch:
        """A handle on a branch; its first commit makes it.

        create: False raises NotFoundError where there is no such branch. at: make it now, with this snapshot as
        its first commit; raises ExistsError if it is there.
        """
        branch = make_branch(self._live(), name)
        if at is not None:
            if not create:
                raise ValueError("at= makes a branch; create=False forbids it")
            branch._create(at)
        elif not create and branch._live_record() is None:
            raise NotFoundError(f"there is no branch {name!r} in {self.path}")
        return branch

    def branches(self, prefix: str = "") -> list[str]:
        """The names of all branches that begin with ``prefix``, sorted."""
        return [name for name in self._heads(prefix) if not is_tag(name)]

    def _heads(self, prefix: str) -> dict[str, bytes]:
        """Stored name (names.py) and root of all branches and tags that begin with ``prefix``, in order."""
        attachment = self._live()
        if not isinstance(prefix, str):
            raise TypeError(f"prefix is a str, not {type(prefix).__name__}")
        # The ring first: what is persisted and reused after this look is found in L2.
        newest: dict[str, RecordHead | BranchRow] = {
            head.name: head for head in self._ring_heads() if head.name.startswith(prefix)
        }
        for row in attachment.reader.branches(prefix):
            if row.name not in newest or row.serial >= newest[row.name].serial:
                newest[row.name] = row
        return {name: newest[name].root for name in sorted(newest) if not newest[name].deleted}

    def _ring_heads(self) -> list[RecordHead]:
        attachment = self._live()
        slot, words = ffi.new("uint32_t *"), ffi.new("uint64_t[]", _WORDS_A_CALL)
        found = []
        call = attachment.call()
        try:
            while count := lib.hs_branch_words(attachment.engine, slot, words, _WORDS_A_CALL):
                for i in range(count):
                    n = lib.hs_record_get(call.c, words[i])
                    if n != lib.HS_NOT_FOUND:
                        found.append(record_head(call.data[: check(n, "a commit record")]))
        finally:
            attachment.pool.append(call)
        return found

    # --- tags ---

    def tag(self, name: str, snapshot: Snapshot) -> None:
        """Give a snapshot a name that stays: ``snapshot(name)`` finds it from any process, after any restart, and
        collection keeps it.

        name: as a branch's, 1..250 bytes. Does nothing if the tag names this snapshot already; raises ExistsError if
        it names another. Branches and tags have names of their own: both may be called alike.
        """
        set_tag(self._live(), name, snapshot)

    def tags(self, prefix: str = "") -> dict[str, Snapshot]:
        """The tags whose names begin with ``prefix``, in order, and what they name."""
        if not isinstance(prefix, str):
            raise TypeError(f"prefix is a str, not {type(prefix).__name__}")
        heads = self._heads(TAG + prefix)
        return {name[len(TAG) :]: make_snapshot(self._attachment, root) for name, root in heads.items()}

    def delete_tag(self, name: str) -> None:
        """Remove a tag; what it named stays readable by id until it is collected. Raises NotFoundError."""
        delete_tag(self._live(), name)

    # --- snapshots ---

    def snapshot(self, ref: str) -> Snapshot:
        """A snapshot by a reference; of what it could mean, the first:

            an id                     64 hex digits
            a branch                  ``main``: its head
            a branch and a sequence   ``main@17``: the branch's 17th commit
            a tag                     ``v1``
            a shortened id            the first 4 digits or more of a state that some branch's log or a tag has

        Raises NotFoundError; ValueError for a shortened id that is ambiguous. Cost of a shortened id: a walk over all
        logs.
        """
        attachment = self._live()
        if not isinstance(ref, str):
            raise TypeError(f"a reference is a str, not {type(ref).__name__}")
        if not ref:
            raise ValueError("an empty reference names nothing")
        if len(ref) == _ID_DIGITS and _HEX.match(ref):
            snapshot = make_snapshot(attachment, bytes.fromhex(ref))
            try:
                len(snapshot)
            except NotFoundError:
                raise NotFoundError(f"there is no snapshot {ref} in {self.path}") from None
            except CorruptError:
                if attachment.from_l1(snapshot._root) is None:
                    raise
                raise NotFoundError(f"{ref} is the id of a value in {self.path}, not of a snapshot") from None
            return snapshot
        name, at, sequence = ref.partition("@")
        if at:
            if not sequence.isdecimal():
                raise ValueError(f"{ref!r}: a sequence number follows the '@'")
            return self.branch(name, create=False).at(int(sequence)).snapshot
        record = make_branch(attachment, ref)._live_record()
        if record is not None:
            return make_snapshot(attachment, record[RECORD_ROOT])
        tagged = find_tag(attachment, ref)
        if tagged is not None:
            return tagged
        if _HEX.match(ref) and len(ref) >= _ID_PREFIX_DIGITS_MIN:
            return self._by_prefix(ref)
        raise NotFoundError(f"no branch and no tag {ref!r} in {self.path}")

    def _by_prefix(self, digits: str) -> Snapshot:
        """The one recorded state whose id begins so. O(history)."""
        found: set[bytes] = set()
        for name in self._heads(""):
            with contextlib.suppress(NotFoundError):  # deleted since
                roots = (head.root for _, head in branch_of(self._attachment, name)._records())
                found.update(root for root in roots if root.hex().startswith(digits))
        if len(found) > 1:
            raise ValueError(
                f"{digits!r} is ambiguous: {', '.join(sorted(root.hex()[:16] for root in found)[:4])} ..."
            )
        if not found:
            raise NotFoundError(f"no branch, no tag and no recorded snapshot {digits!r} in {self.path}")
        return make_snapshot(self._attachment, found.pop())

    # --- the store as a whole ---

    def sync(self, timeout: float | None = None) -> None:
        """Wait until everything that was committed before survives power loss. Raises BusyError after ``timeout``
        seconds."""
        self._live().wait_durable(Deadline(timeout), "sync")

    def stats(self) -> Stats:
        """What all processes together counted and measured since the segment was made. Cost: a look at each chunk and
        each participant's counters, half a millisecond, and some ten microseconds for each process that took part."""
        attachment = self._live()
        return make_stats(os.fspath(self.path), attachment.stats(), attachment.metrics())

    def check(self, *, repair: bool = False) -> CheckReport:
        """Look at everything that the store holds, on disk and in shared memory, against its hashes; report all that
        is damaged, each by name. Works while others commit (it is about one moment) and on read-only engines.

        repair: mend what can be mended without losing anything (the locator, what dead writers left), and say so in
        ``damage``, as ``mended: ...``; then ReadOnlyError on a read-only engine. Nothing of a user's is ever deleted.
        Cost: reads and hashes the whole store, in a process of its own.
        """
        return check_store(self._live(), repair=repair)

    def gc(
        self,
        *,
        history: int | timedelta | Mapping[str, int | timedelta] | None = None,
        grace: timedelta = timedelta(hours=1),
        dry_run: bool = False,
    ) -> GCReport:
        """Delete what nobody can name any more, and give its room on the disk back. Commits go on meanwhile.

        Kept: the heads of branches and their history, tags, the states that kept commits merged, states nested in kept
        ones, every state that a living process holds (a Snapshot, a Commit, the base of a Workspace), and all that is
        not persisted yet. A deleted branch keeps nothing. A state is kept whole or is gone: then who names it by its
        id gets NotFoundError.

        history: how many of its newest commits each branch keeps (1 or more), or of what age at most; a mapping says so
            for branches whose name matches a glob pattern, in which ``*`` stands for slashes as well (the first that
            does; others keep all). None: all.
        grace: what was committed in this time is kept, whoever knows of it: an id may be on its way to another process.
        dry_run: change nothing, and say what would go.

        Raises ReadOnlyError, ValueError, TypeError, BusyError (some process stays within one commit, or the coordinator
        cannot work), CorruptError (see ``check``). One collection runs at a time; others wait for their turn. A
        collection that was begun goes on if the process that asked for it dies. Cost: a look at every node that lives;
        reads of every living pack; commits are held up for some milliseconds, a few times (``pause_ns``).
        """
        return collect(self._live(), history, grace, dry_run)

    def close(self, *, sync: bool = True) -> None:
        """Leave the store; idempotent. ``sync`` waits until all commits are durable first (not for an ephemeral
        store). Memoryviews stay valid; everything else that came from this engine raises ClosedError once the last
        engine over the store is closed; unless something of the store was unpickled in this process before it was
        opened, which keeps it open.

        Raises BusyError when nothing became durable for DURABLE_DEADLINE seconds (a full disk): the engine is closed
        all the same, and what is not on disk waits in shared memory for the next open."""
        if not self._open:
            return
        self._open = False
        attachment = self._attachment
        try:
            if (
                sync
                and not any(engine._open for engine in list(attachment.engines))
                and not attachment.closed
                and not attachment.identity.ephemeral
                and not attachment.readonly
                and attachment.attached_here
            ):
                attachment.wait_to_the_end("close")
        finally:
            with _open_lock:
                # It stays among them until now, so that of two that close at once the first leaves the other its wait;
                # and somebody may have opened the store meanwhile. What was unpickled stays open to the end.
                attachment.engines.discard(self)
                if not attachment.engines and attachment not in _kept:
                    attachment.close()

    def __enter__(self) -> Self:
        self._live()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# --- engines for what has none at hand ---


def engine_of(attachment: Attachment) -> Engine:
    """An engine over an attachment that somebody else keeps open."""
    if attachment.closed:
        raise ClosedError(f"the engine of {attachment.paths.root} is closed")
    engine = Engine._over(attachment)
    attachment.engines.discard(engine)  # it does not keep the attachment open
    return engine


def _attachment_for(uuid: bytes, path: str) -> Attachment:
    """The open attachment to a store, or a new one that stays open until the process ends. What it is given comes out
    of a pickle: ValueError if that lies about sizes or types."""
    _check_bytes("a store's uuid", uuid, 16)
    if not isinstance(path, str):
        raise ValueError(f"a store's path is a str, not {type(path).__name__}")
    with _open_lock:
        found = [attachment for attachment in iter_attachments() if attachment.uuid == uuid]
        if found:  # of several, over a store and its copies, the one that it came from
            return min(found, key=lambda each: (os.fspath(each.paths.root) != path, each.readonly))
        try:
            paths = lifecycle.open_store(path, create=False)
            if lifecycle.identify(paths).uuid != uuid:
                raise NotFoundError("another store is there now")
            attachment = _engine_over(paths, not lifecycle.is_writable(paths), None)._attachment
            _kept.add(attachment)
            return attachment
        except NotFoundError as error:
            raise NotFoundError(f"store {uuid.hex()} is not open here and not at {path}: {error}") from None


def _check_bytes(what: str, value: object, size: int) -> None:
    if type(value) is not bytes or len(value) != size:
        raise ValueError(f"{what} is {size} bytes, not {value!r:.80}")


def restore_engine(uuid: bytes, path: str) -> Engine:
    """Unpickle an engine."""
    return Engine._over(_attachment_for(uuid, path))


def restore_snapshot(uuid: bytes, path: str, root: bytes) -> Snapshot:
    """Unpickle a snapshot. The core reads as many bytes of a root as a root has."""
    _check_bytes("a snapshot's id", root, _ID_DIGITS // 2)
    return make_snapshot(_attachment_for(uuid, path), root)


def restore_branch(uuid: bytes, path: str, name: str) -> Branch:
    """Unpickle a branch."""
    return make_branch(_attachment_for(uuid, path), name)
