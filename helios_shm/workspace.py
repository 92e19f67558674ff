"""A workspace: a private, changeable copy of a state; a dict of pending edits over a snapshot.

    reads:   edits -> base snapshot            writes:   edits only
    commit:  all edits in one C call -> a new snapshot, and on a branch its new head

An edit is ``bytes`` (a plain file), None (removed), or a ``_Put`` (another kind). After a commit the workspace
stands on the new snapshot, without edits, ready to go on.
"""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast, overload

from typing_extensions import Buffer

from . import blobs, codec, config, hashing
from ._capi import error, ffi, hot, lib
from .attachment import Attachment, Call, Deadline, suspended
from .codecs import Codec
from .commit import Commit
from .errors import BusyError, ConflictError, HeliosError, NotFoundError, ReadOnlyError
from .files import Entry as FileEntry
from .files import entries_of
from .ingest import ingest
from .mapping import EVERYTHING, Bounds, Items, Keys, Values, bounds_of, encode_path, within
from .merge import Entry, Refused, changed_paths, conflict_error, conflict_of, entry_at, resolve_path
from .record import RECORD_BASE, RECORD_ROOT
from .resolve import NO_RULES, Rules, Unresolved
from .snapshot import Snapshot, bind_workspace, entry_of, make_snapshot
from .turn import Turn
from .types import JSON, KINDS, IngestMetrics, Kind, Resolve, Stat
from .view import MutableView

if TYPE_CHECKING:
    from .branch import Branch

T = TypeVar("T")

_LOOK_AFTER = lib.HS_LOOK_AFTER
_looks_random = lib.hs_looks_random
_NULL = ffi.NULL
_LARGE = min(config.LZ4_BYTES_MIN, config.BLOB_BYTES_MIN)
_path_of = itemgetter(0)
# With more edits than that, what the head has changed is walked instead.
_LOOKED_UP_MAX = 64
_EDIT_BYTES = 256  # about what one takes in memory beside its value


class _Put(NamedTuple):
    """An edit of a kind other than a plain file."""

    kind: int
    value: bytes
    held: Snapshot | None = None  # of kind snapshot: the state whose id the value is


class _Stored(NamedTuple):
    """An edit whose value the store has already: only in workspaces that a merge makes and nobody sees."""

    kind: int
    id: bytes
    size: int
    held: Snapshot  # that has it


Edit = bytes | _Put | None


class Workspace(hot.WorkspaceBase, MutableMapping[str, bytes]):
    """A changeable state that nobody else sees before ``commit``. As thread-safe as a dict; it cannot be pickled: hand
    over a snapshot instead."""

    __slots__ = ("__weakref__",)

    _attachment: Attachment
    _branch: Branch | None
    _base: bytes  # root id; on a branch, followed by the incarnation (8 bytes)
    _base_snapshot: Snapshot | None  # made when it is asked for
    _edits: dict[str, Edit]

    def __init__(self) -> None:
        raise TypeError("workspaces come from Snapshot.fork() and Branch.fork()")

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a Workspace cannot be pickled; commit it and hand over the snapshot")

    def __repr__(self) -> str:
        where = f" of branch {self._branch.name!r}" if self._branch is not None else ""
        return f"<Workspace{where} on {self.base.id[:12]}, {len(self._edits)} edits>"

    __hash__ = None  # type: ignore[assignment]

    # --- where it stands ---

    @property
    def base(self) -> Snapshot:
        """The snapshot that the edits are made to."""
        snapshot = self._base_snapshot
        if snapshot is None:
            snapshot = make_snapshot(self._attachment, self._base[:32])
            if self._trusted:
                snapshot._trusted = True  # held all the time by the workspace
            self._base_snapshot = snapshot
        return snapshot

    def _validate(self) -> None:
        """See that the base is there, if nobody has. NotFoundError if it was collected."""
        if not self._trusted:
            self.base._validate()
            self._trusted = True

    @property
    def branch(self) -> Branch | None:
        """The branch that ``commit`` moves; None for a detached workspace."""
        return self._branch

    @property
    def edits(self) -> Mapping[str, bytes | None]:
        """The pending edits: path to new value, None where the path is removed. A copy."""
        return {path: edit.value if isinstance(edit, _Put) else edit for path, edit in self._edits.items()}

    def discard(self) -> None:
        """Forget all edits."""
        self._edits = {}

    def fork(self) -> Workspace:
        """An independent copy with the same base, branch and edits."""
        workspace: Workspace = Workspace.__new__(Workspace)
        workspace._attachment = self._attachment
        workspace._branch = self._branch
        workspace._base = self._base
        workspace._trusted = self._trusted
        workspace._base_snapshot = self._base_snapshot
        workspace._edits = dict(self._edits)
        return workspace

    # --- writing ---

    def put(self, path: str, value: Buffer | Snapshot, *, kind: Kind | None = None) -> None:
        """Set a value of a kind: file (the default), executable, symlink, directory, or snapshot (the default for
        a Snapshot).

        Raises TypeError for a str or another non-buffer, ValueError for a bad path, an unknown kind, or more than
        4 GiB.
        """
        key = str(encode_path(path), "utf-8")
        if kind is not None and kind not in KINDS:
            raise ValueError(f"kind is one of {', '.join(KINDS)}; not {kind!r}")
        if isinstance(value, Snapshot):
            if kind not in (None, "snapshot"):
                raise ValueError(f"a Snapshot is put as kind 'snapshot', not {kind!r}")
            if value._attachment.uuid != self._attachment.uuid:
                raise NotFoundError(
                    f"snapshot {value.id} is in another store, {value._attachment.paths.root}"
                )
            self._edits[key] = _Put(KINDS.index("snapshot"), value._root, value)
            return
        data = _bytes_of(value)
        if kind == "snapshot" and len(data) != 32:
            raise ValueError(f"kind 'snapshot' takes a Snapshot or its 32-byte id, not {len(data)} bytes")
        if kind is None or kind == "file":
            self._edits[key] = data
        else:
            held = make_snapshot(self._attachment, data) if kind == "snapshot" else None
            self._edits[key] = _Put(KINDS.index(kind), data, held)

    def _remove(self, path: str) -> None:
        """``del workspace[path]``."""
        if path not in self:
            raise KeyError(path)
        self._edits[path] = None

    def clear(self) -> None:
        """Remove every path."""
        self._edits = dict.fromkeys(self.base)

    def ingest(
        self,
        directory: str | os.PathLike[str],
        *,
        prefix: str = "",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        workers: int | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> IngestMetrics:
        """Make the paths below ``prefix`` equal to a directory, deletions included; edits only, until ``commit``.

        prefix: put before the names as it stands; that of a directory ends in ``/``.
        include, exclude: patterns as in .gitignore; what is not included, or is excluded, stays in the workspace as
            it is.
        workers: threads; default: one a core, at most 8.
        progress: called with (done, total) of the files that are read.

        Takes files with their executable bit, symbolic links as links, and directories that hold nothing (kind
        ``directory``, an empty value). Passes over sockets, pipes and devices, and the store itself if it lies there. A
        nested state stays while the directory holds just what it says; else its entries take its place. Files that have
        not changed since an earlier ingest or materialize, by size, times and inode, are not read.

        Raises ValueError for names that are no UTF-8 or too long, BusyError for files that others keep writing,
        OSError; then nothing has changed. Cost: a look at each file; what differs is held in memory until the commit.
        """
        self._note(bounds_of(prefix, None, None))
        edits, metrics = ingest(
            self._attachment,
            lambda: self._entries(prefix),
            None if self._edits else self._base[:32],
            directory,
            prefix=prefix,
            include=include,
            exclude=exclude,
            workers=workers,
            progress=progress,
        )
        made: dict[str, Edit] = {}
        for path, edit in edits.items():
            made[prefix + path] = edit and (edit[1] if edit[0] == 0 else _Put(*edit))
        self._edits.update(made)
        return metrics

    def _note(self, bounds: Bounds) -> None:
        """All of this range is read beside the mapping's methods: for those who remember what was read."""

    def _entries(self, prefix: str) -> Iterator[tuple[str, FileEntry]]:
        """The entries below a prefix, edits included, by paths without it; in no order."""
        bounds, skip = bounds_of(prefix, None, None), len(prefix)
        edits = {path: edit for path, edit in self._edits.items() if path.startswith(prefix)}
        for path, entry in entries_of(self._attachment, self._base[:32], bounds):
            if path not in edits:
                yield path[skip:], entry
        for path, edit in edits.items():
            if edit is not None:
                kind, value = (edit.kind, edit.value) if isinstance(edit, _Put) else (0, edit)
                yield path[skip:], FileEntry(kind, hashing.blake3(value), len(value), value)

    # --- reading ---

    def _lookup(self, path: str) -> bytes:
        """``workspace[path]``, whatever the path is and whatever edit there is."""
        try:
            edit = self._edits[path]
        except KeyError:
            return self.base[path]
        if edit is None:
            raise KeyError(path)
        return edit.value if isinstance(edit, _Put) else edit

    def _buffer(self, path: str) -> memoryview:
        """The value as memory, of the base's mapped file where it is one. Raises KeyError."""
        return memoryview(self[path]) if path in self._edits else self.base._buffer(path)

    def __contains__(self, path: object) -> bool:
        if path in self._edits:
            return self._edits[path] is not None
        return path in self.base

    def __len__(self) -> int:
        return self._count(EVERYTHING)

    def __iter__(self) -> Iterator[str]:
        return self._scan_keys(EVERYTHING, False)

    def __reversed__(self) -> Iterator[str]:
        return self._scan_keys(EVERYTHING, True)

    def keys(self, prefix: str = "", *, start: str | None = None, stop: str | None = None) -> Keys:
        """Paths in order, edits included; see ``Snapshot.keys``. O(edits + what is read)."""
        return Keys(self, bounds_of(prefix, start, stop))

    def items(self, prefix: str = "", *, start: str | None = None, stop: str | None = None) -> Items[bytes]:
        """(path, value) in order, edits included."""
        return Items(self, bounds_of(prefix, start, stop))

    def values(self, prefix: str = "", *, start: str | None = None, stop: str | None = None) -> Values[bytes]:
        """Values in the order of their paths, edits included."""
        return Values(self, bounds_of(prefix, start, stop))

    @overload
    def view(self, prefix: str = "") -> MutableView[bytes]: ...
    @overload
    def view(self, prefix: str = "", *, codec: Codec[T]) -> MutableView[T]: ...
    def view(self, prefix: str = "", *, codec: Codec[Any] | None = None) -> MutableView[Any]:
        """The entries whose paths begin with ``prefix``, edits included, as a mapping that can be changed: see
        ``Snapshot.view``. What is written through it is encoded by ``codec`` into an edit."""
        return MutableView(self, prefix, codec)

    def _edited(self, bounds: Bounds) -> dict[str, bytes | None]:
        """The edits of a range, as they are now."""
        edits = self.edits
        if bounds == EVERYTHING:
            return dict(edits)
        return {path: value for path, value in edits.items() if within(path.encode(), bounds)}

    def _count(self, bounds: Bounds) -> int:
        base = self.base
        count = base._count(bounds)
        for path, value in self._edited(bounds).items():
            count += (value is not None) - (path in base)
        return count

    # A scan shows the workspace as it is when the scan begins: edits made during it change nothing of it.

    def _scan_keys(self, bounds: Bounds, reverse: bool) -> Iterator[str]:
        edits = self._edited(bounds)
        # Sorting str by code points is sorting UTF-8 by bytes.
        mine = sorted((path for path, value in edits.items() if value is not None), reverse=reverse)
        theirs = (path for path in self.base._scan_keys(bounds, reverse) if path not in edits)
        return heapq.merge(mine, theirs, reverse=reverse)

    def _scan_items(self, bounds: Bounds, reverse: bool) -> Iterator[tuple[str, bytes]]:
        edits = self._edited(bounds)
        mine = sorted(
            ((path, value) for path, value in edits.items() if value is not None),
            key=_path_of,
            reverse=reverse,
        )
        theirs = (item for item in self.base._scan_items(bounds, reverse) if item[0] not in edits)
        return heapq.merge(mine, theirs, key=_path_of, reverse=reverse)

    def _scan_buffers(self, bounds: Bounds, reverse: bool) -> Iterator[tuple[str, memoryview]]:
        return ((path, memoryview(value)) for path, value in self._scan_items(bounds, reverse))

    # --- entries, for merging ---

    def _set_entry(self, path: str, entry: Entry | None) -> None:
        """``put``, or remove where there is no entry."""
        if entry is None:
            self._edits[path] = None
        else:
            self.put(path, entry.value, kind=entry.kind)

    def _take(self, path: str, snapshot: Snapshot, stat: Stat | None) -> None:
        """Have at a path what a snapshot of the same store has there; a value that is not tiny is not read for it."""
        if stat is None or stat.size <= lib.HS_VALUE_INLINE_MAX:
            self._set_entry(path, None if stat is None else Entry(stat.kind, snapshot[path]))
        else:
            stored = _Stored(KINDS.index(stat.kind), bytes.fromhex(stat.id), stat.size, snapshot)
            self._edits[path] = cast(Edit, stored)

    # --- committing ---

    def _commit(
        self,
        message: str = "",
        *,
        metadata: Mapping[str, JSON] | None = None,
        durable: bool = False,
        rebase: bool = True,
        resolve: Resolve | None = None,
    ) -> Commit:
        """``commit`` in general: any edits, a message, metadata, resolvers."""
        said, rules = Said(message, metadata), Rules(resolve)
        return self._commit_said(said, durable=durable, rebase=rebase, rules=rules)

    def _commit_said(
        self, said: Said, *, durable: bool = False, rebase: bool = True, rules: Rules = NO_RULES
    ) -> Commit:
        """``commit`` with all that a commit can say."""
        if self._attachment.readonly:
            raise read_only_error(self._attachment)
        what = self._what(said.message.decode())
        if (rules or not self._rebases) and rebase and self._branch is not None:
            outcome = self._attempt_until_judged(said, rules, what)
        else:
            outcome = self._attempt(said, rebase, what)
        return self._settle(outcome, what, durable)

    def _attempt_until_judged(self, said: Said, rules: Rules, what: str) -> _Outcome:
        """Attempt the edits; where the branch has changed their keys, what they and these changes come to, always from
        the first base and edits; and so on, until an attempt was lost to nobody. Raises ConflictError."""
        assert self._branch is not None
        deadline = Deadline(config.COMMIT_DEADLINE)
        attempt, rebases = self, self._rebases
        turn = None
        try:
            while (outcome := attempt._attempt(said, rebases, what)).n in (lib.HS_CONFLICT, lib.HS_MOVED):
                if deadline.passed():
                    raise BusyError(f"{what}: the branch's head moved faster than this commit could follow")
                if turn is None and not said.ticket:  # else it is all within another's turn: an update's
                    turn = Turn(self._branch)
                if turn is not None:
                    turn.passed(said)
                assert outcome.head is not None
                attempt, refused = self._judge(outcome.head, rules)
                if refused:
                    raise conflict_error(f"{what}: the branch has meanwhile changed", refused)
            return outcome
        finally:
            if turn is not None:
                turn.give()

    @property
    def _rebases(self) -> bool:
        """May the core put the edits onto a head that has moved, if none of their keys has?"""
        return True

    def _judge(self, head: Snapshot, rules: Rules) -> tuple[Workspace, list[Refused]]:
        """The edits as they are to be on a head, and what of them is in conflict with it."""
        base = self.base
        rebased = Workspace.fork(self)
        rebased._base, rebased._base_snapshot = head._root + self._base[32:], head
        refused = []
        for path in rebased._moved(base, head):
            sides = entry_at(base, path), _entry(rebased._edits[path]), entry_at(head, path)
            try:
                outcome = resolve_path(base, rules, path, *sides)
            except Unresolved as why:
                refused.append(Refused(conflict_of(path, *sides), str(why)))
            else:
                rebased._set_entry(path, outcome)
                if rules.of(path) == "theirs" and outcome == sides[2]:
                    del rebased._edits[path]  # whatever the head has there when it is moved
        return rebased, refused

    def _moved(self, base: Snapshot, head: Snapshot) -> list[str]:
        """The paths among the edits that differ between base and head."""
        edits = self._edits
        if len(edits) > _LOOKED_UP_MAX:
            return [path for path in changed_paths(base, head) if path in edits]
        return [path for path in edits if entry_of(base, path) != entry_of(head, path)]

    def _attempt(self, said: Said, rebase: bool, what: str) -> _Outcome:
        """One commit of the core, with all that it asks for on the way."""
        self._validate()
        while True:
            outcome = self._attempt_formed(said, rebase, what)
            if outcome.n != lib.HS_COLLECTED:  # files of large values may have gone that were found there
                return outcome

    def _attempt_formed(self, said: Said, rebase: bool, what: str) -> _Outcome:
        attachment = self._attachment
        under = attachment._collection()
        edits = hot.Edits(self._edits, partial(_form, attachment))
        branch = self._branch
        ref = _NULL if branch is None else branch._ref
        call = attachment.call()
        try:
            said.tell(call)
            call.c.no_rebase, call.c.formed_under = not rebase, under
            n = lib.hs_commit_many(call.c, ref, self._base, ffi.cast("hs_edits *", edits.address))
        except BaseException:  # Ctrl-C arrived meanwhile
            lib.hs_commit_cancel(call.c)
            silence(call)
            attachment.pool.append(call)
            raise
        return self._outcome(call, n, what)

    def _what(self, message: str) -> str:
        what = f"commit {message!r}" if message else "commit"
        return what if self._branch is None else f"{what} on branch {self._branch.name!r}"

    def _outcome(self, call: Call, n: int, what: str) -> _Outcome:
        """See a commit that was begun through to its end, whatever it asks for on the way; gives the call back."""
        attachment, branch = self._attachment, self._branch
        try:
            n = continued(attachment, call, _NULL if branch is None else branch._ref, n, what)
            if n > 0:
                return _Outcome(n, hot.commit_of_call(call.data[: n & ~_LOOK_AFTER], attachment, call), None)
            if n != lib.HS_CONFLICT and n != lib.HS_MOVED:
                return _Outcome(n, None, None)
            head = ffi.buffer(call.c.head_root)[:]
            return _Outcome(n, None, make_snapshot(attachment, head, int(call.c.collection)))
        finally:
            silence(call)
            attachment.pool.append(call)

    def _finish(self, call: Call, n: int, message: str, durable: bool) -> Commit:
        """The rest of a commit that was begun."""
        what = self._what(message)
        return self._settle(self._outcome(call, n, what), what, durable)

    def _settle(self, outcome: _Outcome, what: str, durable: bool) -> Commit:
        """Stand on what a commit has made, or say why it has made nothing."""
        attachment, branch = self._attachment, self._branch
        n, commit, head = outcome
        if n == lib.HS_UNCHANGED and branch is not None:
            commit = branch.last_commit
            self._stand_on(commit._record[RECORD_BASE], commit.snapshot)
            return commit
        if head is not None:
            raise self._conflict(head, what)
        if n == lib.HS_DELETED:
            raise NotFoundError(f"{what}: the branch was deleted since this workspace was forked")
        if commit is None:
            raise error(n, what)
        record = commit._record
        snapshot = make_snapshot(attachment, record[RECORD_ROOT])
        snapshot._trusted = commit._trusted  # held all the time by the commit
        self._stand_on(record[RECORD_ROOT] if branch is None else record[RECORD_BASE], snapshot)
        if n & _LOOK_AFTER:
            attachment.look_after()
        if durable:
            self._wait_durable(commit)
        return commit

    def _stand_on(self, base: bytes, snapshot: Snapshot | None) -> None:
        """Begin anew on a state."""
        self._base = base
        if snapshot is not None and snapshot._trusted:
            self._trusted = True  # held all the time by the snapshot
        self._base_snapshot = snapshot
        self._edits = {}

    def _wait_durable(self, commit: Commit) -> None:
        try:
            self._attachment.wait_durable(Deadline(config.DURABLE_DEADLINE), "a durable commit")
        except (HeliosError, MemoryError) as late:
            # Whatever it is, the head has moved; any other error would say that nothing did.
            raise BusyError(
                f"{late}; the commit itself happened: do not repeat it, call sync()", commit
            ) from late

    def _conflict(self, head: Snapshot, what: str) -> ConflictError:
        """All edits whose keys differ between base and head, in order, with the three values."""
        _, refused = self._judge(head, NO_RULES)
        if refused:
            return conflict_error(f"{what}: the branch has meanwhile changed", refused)
        return ConflictError(
            f"{what}: the head has moved from {self.base.id[:12]} to {head.id[:12]}, and rebase=False"
        )


class _Outcome(NamedTuple):
    """What the core said in the end: its result, the commit, and for lost races the head."""

    n: int
    commit: Commit | None
    head: Snapshot | None


class Said:
    """What a commit says beside its edits: message and metadata, checked and encoded; and, for those commits that stand
    for others, a second parent, a time other than now (ns since the epoch), and the serial of the only head that
    it may follow (0: any)."""

    __slots__ = ("expected_serial", "message", "metadata", "second", "ticket", "time_ns")

    def __init__(
        self,
        message: str,
        metadata: Mapping[str, JSON] | None,
        *,
        second: Snapshot | None = None,
        time_ns: int | None = None,
        expected_serial: int = 0,
    ) -> None:
        if not isinstance(message, str):
            raise TypeError(f"a message is a str, not {type(message).__name__}")
        if metadata is not None and not isinstance(metadata, Mapping):
            raise TypeError(f"metadata is a mapping, not {type(metadata).__name__}")
        try:
            self.message = message.encode()
            self.metadata = _json_of(metadata) if metadata else b""
        except UnicodeEncodeError:
            raise ValueError("the message holds a lone surrogate: it is no Unicode text") from None
        if len(self.message) > config.MESSAGE_BYTES_MAX:
            raise ValueError(
                f"a message has at most {config.MESSAGE_BYTES_MAX} bytes of UTF-8, this one has {len(self.message)}"
            )
        if len(self.metadata) > config.METADATA_BYTES_MAX:
            raise ValueError(
                f"metadata has at most {config.METADATA_BYTES_MAX} bytes as JSON, this has {len(self.metadata)}"
            )
        if time_ns is not None and not -(1 << 63) <= time_ns < 1 << 63:
            raise ValueError(f"a commit's time is 64 bits of nanoseconds since 1970, not {time_ns}")
        self.second, self.time_ns, self.expected_serial = second, time_ns, expected_serial
        self.ticket = 0  # of the turn that this commit has (turn.py)

    def tell(self, call: Call) -> None:
        """Leave it in a call. It must outlive the commit, which copies nothing before its record."""
        call.said = self
        c = call.c
        if self.message:
            c.message, c.message_size = ffi.from_buffer("uint8_t[]", self.message), len(self.message)
        if self.metadata:
            c.metadata, c.metadata_size = ffi.from_buffer("uint8_t[]", self.metadata), len(self.metadata)
            c.always = 1
        if self.second is not None:
            c.second = ffi.from_buffer("uint8_t[]", self.second._root)
            c.always = 1
        if self.time_ns is not None:
            c.time_ns, c.has_time = self.time_ns, 1
        c.expected_serial = self.expected_serial
        c.ticket = self.ticket


def _json_of(metadata: Mapping[str, JSON]) -> bytes:
    for key in metadata:
        if not isinstance(key, str):
            raise TypeError(f"metadata's keys are str, not {type(key).__name__}")
    try:
        return json.dumps(dict(metadata), sort_keys=True, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("metadata is nested too deeply") from None


def silence(call: Call) -> None:
    """Take back what was left in a call, so that the next commit does not say it again."""
    c = call.c
    c.message = c.metadata = c.second = _NULL
    c.message_size = c.metadata_size = c.always = c.no_rebase = c.has_time = c.expected_serial = c.ticket = 0
    call.said = None


def continued(attachment: Attachment, call: Call, ref: Any, n: int, what: str) -> int:
    """Do what a suspended commit asks for until it has ended; cancel it when that fails or is interrupted."""
    deadline = Deadline(config.COMMIT_DEADLINE)
    try:
        while call.c.state != _NULL:
            suspended(attachment, call, ref, n, deadline, what)
            n = lib.hs_commit_continue(call.c)
    except BaseException:
        lib.hs_commit_cancel(call.c)
        raise
    finally:
        attachment.waited_for_room(deadline)
    return n


def read_only_error(attachment: Attachment) -> ReadOnlyError:
    return ReadOnlyError(
        f"{attachment.paths.root} is open read-only; open it without readonly=True to change it"
    )


def _entry(edit: Edit) -> Entry | None:
    """What a path has where it was edited so."""
    if edit is None:
        return None
    return Entry(KINDS[edit.kind], edit.value) if isinstance(edit, _Put) else Entry("file", edit)


def _bytes_of(value: object) -> bytes:
    """The bytes of a buffer: bytes themselves, a copy of anything else."""
    if isinstance(value, str):
        raise TypeError("a value is bytes-like, not str; encode it first")
    if not isinstance(value, bytes):
        try:
            view = memoryview(value)  # type: ignore[arg-type]
        except TypeError:
            raise TypeError(f"a value is bytes-like, not {type(value).__name__}") from None
        with view:
            _check_size(view.nbytes)
            return bytes(view)
    _check_size(len(value))
    return bytes(value)


def _check_size(size: int) -> None:
    if size > config.VALUE_BYTES_MAX:
        raise ValueError(f"a value has at most {config.VALUE_BYTES_MAX} bytes, this one has {size}")


def edited(snapshot: Snapshot, edits: Iterable[tuple[str, Kind, Buffer | None]]) -> Snapshot:
    """A snapshot with edits of {path, kind, new value; None: removed}, committed beside all branches. Never more than
    ``EDITED_BYTES`` of them wait in memory."""
    workspace = snapshot.fork()
    waiting = 0
    for path, kind, value in edits:
        if value is None:
            workspace._edits[path] = None
        else:
            workspace.put(path, value, kind=kind)
            waiting += memoryview(value).nbytes
        waiting += _EDIT_BYTES
        if waiting > config.EDITED_BYTES:
            workspace.commit()
            waiting = 0
    return workspace.commit().snapshot if workspace._edits else workspace.base


def _form(attachment: Attachment, edit: Edit | _Stored) -> tuple[int, bytes]:
    """How an edit is handed over: {form, bytes}. Large values become blob files or are compressed here."""
    if edit is None:
        return lib.HS_EDIT_REMOVE, b""
    if isinstance(edit, _Stored):
        return edit.kind | lib.HS_EDIT_KNOWN, edit.id + edit.size.to_bytes(8, "little")
    kind, value, held = edit if isinstance(edit, _Put) else (0, edit, None)
    if held is not None:
        held._totals()  # what is named by a state is there
    size = len(value)
    if size >= config.BLOB_BYTES_MIN:
        id = hashing.blake3(value)
        blobs.write(attachment.paths, id, value)
        return kind | lib.HS_EDIT_BLOB, id + size.to_bytes(8, "little")
    if size < attachment.lz4_min or _looks_random(value, size):
        return kind, value
    stored = codec.encode_value(value)
    if stored is None:
        return kind, value
    return kind | lib.HS_EDIT_LZ4, hashing.blake3(value) + size.to_bytes(8, "little") + stored


bind_workspace(Workspace)
hot.bind(
    commit=Commit,
    snapshot=Snapshot,
    workspace=Workspace,
    large=_LARGE,
    read_size_max=config.READ_VALUE_BYTES_MAX,
    read_count_max=config.READ_VALUES_MAX,
)
