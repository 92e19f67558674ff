"""A snapshot: an immutable, content-addressed, ordered mapping from path to bytes.

    Snapshot = (attachment, 32-byte root id) + the values that were read through it (a small dict)

Two snapshots are equal when their ids are; a pickled one is {store uuid, path, id}.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload

from typing_extensions import Buffer

from . import config
from ._capi import check, ffi, hot, lib
from .codecs import Codec
from .errors import CorruptError, NotFoundError
from .mapping import EVERYTHING, Bounds, Items, Keys, Values, bounds_of, successor
from .materialize import materialize
from .types import KINDS, Diff, MaterializeMetrics, Resolve, Stat
from .view import View

if TYPE_CHECKING:
    from .engine import Engine
    from .workspace import Workspace

T = TypeVar("T")

# What a scan gives beside the paths: 0 nothing, 1 values as bytes, 2 values as bytes or memoryviews.
_BUFFERS: Final = 2
_get = lib.hs_get
_ENCODED = lib.HS_ENCODED
_READ_BYTES_MAX, _READ_VALUES_MAX = config.READ_VALUE_BYTES_MAX, config.READ_VALUES_MAX


class Snapshot(hot.SnapshotBase, Mapping[str, bytes]):
    """An immutable state. Reading takes no lock and never sees anything but this state.

    Thread-safe; picklable (as 32 bytes and where the store is); hashable. An empty snapshot is a valid state:
    never test one for truth.
    """

    __slots__ = ("__weakref__",)

    _read: dict[str, bytes]

    def __init__(self) -> None:
        raise TypeError("snapshots come from commits and from Engine.snapshot()")

    # --- what it is ---

    @property
    def id(self) -> str:
        """The BLAKE3 of the root node, 64 hex digits. Equal states have equal ids, in every process and store."""
        return self._root.hex()

    @property
    def engine(self) -> Engine:
        """An engine over the store that this snapshot is in."""
        from .engine import engine_of

        return engine_of(self._attachment)

    @property
    def nbytes(self) -> int:
        """Bytes of all values together. O(1)."""
        return self._totals()[1]

    def __len__(self) -> int:
        return self._totals()[0]

    def _totals(self) -> tuple[int, int]:
        self._validate()
        attachment = self._attachment
        call = attachment.call()
        try:
            check(attachment.run(call, lib.hs_totals, self._root), f"snapshot {self.id}")
            return int(call.c.keys), int(call.c.value_bytes)
        finally:
            attachment.pool.append(call)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Snapshot):
            return self._root == other._root
        return Mapping.__eq__(self, other)

    def __hash__(self) -> int:
        return hash(self._root)

    def __repr__(self) -> str:
        return f"<Snapshot {self.id[:12]} of {os.fspath(self._attachment.paths.root)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        from .engine import restore_snapshot

        attachment = self._attachment
        return restore_snapshot, (attachment.uuid, os.fspath(attachment.paths.root), self._root)

    # --- whether it is whole ---

    def _validate(self) -> None:
        """See that the state is there, if nobody has; it is held, and stays. NotFoundError if it was collected."""
        if not self._trusted:
            self._attachment.validate(self._root)
            self._trusted = True

    # --- single entries ---

    def _look_up(self, path: str) -> bytes:
        """``snapshot[path]``, whatever the path is and wherever its value is. Raises KeyError."""
        value = self._read.get(path)
        if value is not None:
            return value
        try:
            key = path.encode()
        except (AttributeError, UnicodeEncodeError):
            return self._absent(path)
        self._validate()
        attachment = self._attachment
        try:
            call = attachment.pool.pop()
        except IndexError:
            call = attachment.acquire()
        try:
            n = _get(call.c, self._root, key, len(key))
            value = call.data[:n] if 0 <= n < _ENCODED else self._get_slowly(call, n, path, key)
        finally:
            attachment.pool.append(call)
        if len(value) <= _READ_BYTES_MAX:
            read = self._read
            if not read:
                attachment.forget_on_close(self)
            elif len(read) >= _READ_VALUES_MAX:
                read.clear()
            read[path] = value
        return value

    def _forget(self) -> None:
        self._read.clear()

    def _absent(self, path: object) -> bytes:
        if not isinstance(path, str):
            raise TypeError(f"a path is a str, not {type(path).__name__}")
        raise KeyError(path)

    def _get_slowly(self, call: Any, n: int, path: str, key: bytes) -> bytes:
        """Whatever is not a value in the call's memory: absent, in L2, encoded, or large."""
        attachment = self._attachment
        while n == lib.HS_MISSING and call.c.missing_kind == lib.HS_ENTRY_NODE:
            attachment.resolve(call)
            n = _get(call.c, self._root, key, len(key))
        if n >= 0:
            return attachment.decoded(call, n)
        if n == lib.HS_NOT_FOUND:
            raise KeyError(path)
        if n == lib.HS_SMALL:
            stat = self._stat(path)
            return attachment.load_value(bytes.fromhex(stat.id), stat.size)
        check(n if n != lib.HS_MISSING else 0, f"path {path!r} of snapshot {self.id}")
        return attachment.load_value(call.missing[:], int(call.c.size))

    def _contains(self, path: object) -> bool:
        """``path in snapshot``, whatever the path is and wherever the tree's nodes are."""
        if not isinstance(path, str):
            return False
        try:
            self._stat(path)
        except KeyError:
            return False
        return True

    def _stat(self, path: str) -> Stat:
        try:
            key = path.encode()
        except UnicodeEncodeError:
            raise KeyError(path) from None
        self._validate()
        attachment = self._attachment
        call = attachment.call()
        try:
            status = attachment.run(call, lib.hs_stat, self._root, key, len(key))
            if status == lib.HS_NOT_FOUND:
                raise KeyError(path)
            check(status, f"path {path!r} of snapshot {self.id}")
            return Stat(KINDS[call.c.value_kind], int(call.c.size), call.id[:].hex())
        finally:
            attachment.pool.append(call)

    def stat(self, path: str) -> Stat:
        """Kind, size and BLAKE3 of a path's value, without reading the value. Raises KeyError."""
        if not isinstance(path, str):
            raise TypeError(f"a path is a str, not {type(path).__name__}")
        return self._stat(path)

    def buffer(self, path: str) -> memoryview:
        """A path's value as a read-only memoryview: of the mapped file, without a copy, where the value is large
        enough to be one. It stays valid after close. Raises KeyError."""
        return self._buffer(path)

    def _buffer(self, path: str) -> memoryview:
        value = self._read.get(path)
        if value is not None:
            return memoryview(value)
        stat = self.stat(path)
        if stat.size < config.BLOB_BYTES_MIN:
            return memoryview(self[path])
        return self._attachment.load_buffer(bytes.fromhex(stat.id), stat.size)

    def nested(self, path: str) -> Snapshot:
        """The state that is an entry of this one (``Workspace.put`` of a Snapshot). Raises KeyError where there is no
        entry, ValueError where it is of another kind, NotFoundError where the store has no such state."""
        stat = self.stat(path)
        if stat.kind != "snapshot":
            raise ValueError(f"path {path!r} of snapshot {self.id} is a {stat.kind}, no nested snapshot")
        root = self[path]
        if len(root) != len(self._root):
            raise CorruptError(f"path {path!r} of snapshot {self.id}: an id of {len(root)} bytes")
        nested = make_snapshot(self._attachment, root)
        nested._totals()
        return nested

    @overload
    def view(self, prefix: str = "") -> View[bytes]: ...
    @overload
    def view(self, prefix: str = "", *, codec: Codec[T]) -> View[T]: ...
    def view(self, prefix: str = "", *, codec: Codec[Any] | None = None) -> View[Any]:
        """The entries whose paths begin with ``prefix``, as a mapping whose keys are what follows it, and whose values
        are decoded by ``codec`` (``codecs.json``, ...) from ``buffer``; without one they are bytes. O(1). Raises
        TypeError or ValueError for a prefix or codec that is none."""
        return View(self, prefix, codec)

    # --- ranges ---

    def __iter__(self) -> Iterator[str]:
        return self._scan_keys(EVERYTHING, False)

    def __reversed__(self) -> Iterator[str]:
        return self._scan_keys(EVERYTHING, True)

    def keys(self, prefix: str = "", *, start: str | None = None, stop: str | None = None) -> Keys:
        """The paths that begin with ``prefix``, from ``start`` (inclusive) to ``stop`` (exclusive), in order.
        ``len()`` costs O(log n)."""
        return Keys(self, bounds_of(prefix, start, stop))

    def items(self, prefix: str = "", *, start: str | None = None, stop: str | None = None) -> Items[bytes]:
        """(path, value) of the same range."""
        return Items(self, bounds_of(prefix, start, stop))

    def values(self, prefix: str = "", *, start: str | None = None, stop: str | None = None) -> Values[bytes]:
        """The values of the same range, in the order of their paths."""
        return Values(self, bounds_of(prefix, start, stop))

    def listdir(self, prefix: str = "") -> Iterator[str]:
        """The names right below a prefix such as ``src/``, in order: ``name`` for a path, ``name/`` once for all
        paths that go on behind it. Cost: a C call for each such ``name/``, and one for some hundreds of paths."""
        start, stop = bounds_of(prefix, None, None)
        while True:
            for path in self._scan_keys((start, stop), False):
                name, slash, _ = path[len(prefix) :].partition("/")
                yield name + slash
                if slash:
                    start = successor(f"{prefix}{name}/".encode())
                    break
            else:
                return

    def _count(self, bounds: Bounds) -> int:
        if bounds == EVERYTHING:
            return len(self)
        self._validate()
        attachment = self._attachment
        start, stop = bounds
        call = attachment.call()
        try:
            status = attachment.run(
                call,
                lib.hs_count,
                self._root,
                start,
                len(start),
                ffi.NULL if stop is None else stop,
                len(stop or b""),
            )
            check(status, f"snapshot {self.id}")
            return int(call.c.keys)
        finally:
            attachment.pool.append(call)

    def _scan_keys(self, bounds: Bounds, reverse: bool) -> Iterator[str]:
        return self._scan(*bounds, reverse, False)

    def _scan_items(self, bounds: Bounds, reverse: bool) -> Iterator[tuple[str, bytes]]:
        return self._scan(*bounds, reverse, True)

    def _scan_buffers(self, bounds: Bounds, reverse: bool) -> Iterator[tuple[str, memoryview]]:
        """(path, value as ``buffer`` gives it)."""
        found = self._scan(*bounds, reverse, _BUFFERS)
        return ((path, value if type(value) is memoryview else memoryview(value)) for path, value in found)

    def _scan_slowly(
        self, start: bytes, stop: bytes | None, reverse: bool, items: int
    ) -> tuple[list[str], list[Buffer] | None, bool]:
        """The next batch of a range, wherever it is: paths, their values if these are wanted too (as memory, where
        ``items`` is _BUFFERS), and whether there may be more. After a node was brought from L2, perhaps an empty
        one."""
        self._validate()
        flags = (lib.HS_SCAN_REVERSE if reverse else 0) | (0 if items else lib.HS_SCAN_KEYS)
        batch = self._attachment.take_batch()
        try:
            more = self._fill(batch, lib.hs_scan, (self._root,), start, stop, flags)
            if not batch.count:
                return [], [], more
            load = self._attachment.load_buffer if items == _BUFFERS else self._attachment.load_value
            return _batch_keys(batch), list(_batch_values(batch, load)) if items else None, more
        finally:
            self._attachment.give_batch(batch)

    def _fill(
        self,
        batch: Any,
        function: Any,
        roots: tuple[bytes, ...],
        start: bytes,
        stop: bytes | None,
        *flags: int,
    ) -> bool:
        """One C call that fills a batch; a node that is missing is brought from L2. Returns: may there be more?"""
        attachment = self._attachment
        call = attachment.call()
        try:
            end = ffi.NULL if stop is None else stop
            status = function(call.c, *roots, start, len(start), end, len(stop or b""), *flags, batch)
            if status == lib.HS_MISSING:
                attachment.resolve(call)
            else:
                check(status, f"snapshot {self.id}")
            return bool(status != lib.HS_OK)
        finally:
            attachment.pool.append(call)

    # --- forking and comparing ---

    def _fork(self) -> Workspace:
        """``fork`` of a snapshot whose store may be closed."""
        attachment = self._attachment
        if attachment._closed:
            attachment.acquire()  # raises ClosedError
        self._validate()
        workspace: Workspace = _workspace_type.__new__(_workspace_type)
        workspace._attachment = attachment
        workspace._branch = None
        workspace._base = self._root
        workspace._trusted = True
        workspace._base_snapshot = self
        workspace._edits = {}
        return workspace

    def diff(self, other: Snapshot, prefix: str = "") -> Diff:
        """The paths in which ``other`` differs from this snapshot. O(changes x depth)."""
        if not isinstance(other, Snapshot):
            raise TypeError(f"a snapshot can be compared with a Snapshot, not with {type(other).__name__}")
        if other._attachment.uuid != self._attachment.uuid:
            raise NotFoundError(f"snapshot {other.id} is in another store, {other._attachment.paths.root}")
        found: tuple[list[str], list[str], list[str]] = ([], [], [])
        if self._root != other._root:
            for forms, keys in self._diff_batches(other, bounds_of(prefix, None, None)):
                for form, key in zip(forms, keys, strict=True):
                    found[form].append(key)
        added, changed, removed = found
        return Diff(self, other, tuple(added), tuple(changed), tuple(removed))

    def merge(self, theirs: Snapshot, *, base: Snapshot, resolve: Resolve | None = None) -> Snapshot:
        """The state that has what this snapshot and ``theirs`` have changed since ``base``, path by path.

        A path that both have changed, to different entries, is a conflict. resolve: what decides it: a resolver for
        all paths, or a mapping from patterns of paths to resolvers, of which the first that matches counts. Then it
        is asked about equal changes as well (``sum`` counts both; those that it cannot read are accepted). States that
        all three have at a path are merged in the same way.

            ours, theirs     that side's value; this snapshot's is ours
            sum, max, min    of JSON numbers; sum is ours + theirs - base, absent ones count as 0
            union            of JSON arrays as sets, sorted; what either side has removed is gone
            append           what both have added behind the base, theirs first: JSON arrays or bytes
            text             line by line (``pip install "helios-shm[merge]"``)
            a callable       takes a Conflict, returns the value, or None to remove the path

        In patterns, ``*``, ``?`` and ``[...]`` stay within a segment between slashes, ``**`` goes across them.

        Raises ConflictError, also where a resolver cannot read a value, or one side has removed what the other has
        changed, and nobody says which it shall be; NotFoundError for another store's snapshots. Cost: O(changes of
        theirs x depth); values are read only where both have changed a path.
        """
        from .merge import checked, merge_states
        from .resolve import Rules

        rules = Rules(resolve)
        for each in (theirs, base):
            checked(self._attachment, each)
        return merge_states(self, theirs, base, rules, f"merge of {theirs.id[:12]} into {self.id[:12]}")

    def _diff_batches(self, other: Snapshot, bounds: Bounds) -> Iterator[tuple[bytes, list[str]]]:
        """For each batch: what became of each path (0 added, 1 changed, 2 removed), and the paths."""
        start, stop = bounds
        self._validate()
        other._validate()
        batch = self._attachment.take_batch()
        try:
            more = True
            while more:
                more = self._fill(batch, lib.hs_diff, (self._root, other._root), start, stop)
                if batch.count:
                    yield ffi.buffer(batch.forms, batch.count)[:], _batch_keys(batch)
                    start = _last_key(batch) + b"\0"
        finally:
            self._attachment.give_batch(batch)

    # --- directories ---

    def _items_below(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        skip = len(prefix)
        items = self._scan_items(bounds_of(prefix, None, None), False)
        return ((path[skip:], value) for path, value in items) if skip else items

    def materialize(
        self,
        directory: str | os.PathLike[str],
        *,
        prefix: str = "",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        clean: bool = False,
        links: Literal["copy", "hard", "reflink"] = "copy",
        workers: int | None = None,
        progress: Callable[[int, int], object] | None = None,
        allow_case_clashes: bool = False,
    ) -> MaterializeMetrics:
        """Make a directory hold what this state has below ``prefix``, by delta: what is there already is not written.

        directory: is made if it is not there; may be in use, of any content.
        prefix: cut off the paths as it stands; that of a directory ends in ``/``.
        include, exclude: patterns as in .gitignore; what is not included, or is excluded, is neither written nor
            removed.
        clean: remove what the state does not have there. Without it, only what an earlier materialize wrote is
            removed, and only while it is still that. What the state has is made so in either case, whatever was there;
            but a directory in the place of a file, or the other way round, goes only if its content may go.
        links: how large values (256 KiB and more) get there: ``copy``; ``hard`` links to the store's own file, which is
            read-only and must stay as it is; ``reflink``. What the file system cannot do is copied.
        workers: threads; default: one a core, at most 8.
        progress: called with (done, total) files now and then.
        allow_case_clashes: accept paths that differ only in case.

        Files get the executable bit and what the umask leaves; symbolic links are made, never followed; nested states
        become directories. Nothing is synced. Interrupted, it can be run again.

        Raises, before anything is written: ValueError for paths that no directory can safely have (empty names, ``.``,
        ``..``, a slash in front, zero bytes, both file and directory, clashes of case), ExistsError for what is in the
        way. BusyError if others change the directory meanwhile, CapacityError on a full disk, OSError. Cost: a look at
        each file, and a write for each that differs.
        """
        return materialize(
            self._attachment,
            self._root,
            lambda: self._items_below(prefix),
            directory,
            prefix=prefix,
            include=include,
            exclude=exclude,
            clean=clean,
            links=links,
            workers=workers,
            progress=progress,
            allow_case_clashes=allow_case_clashes,
        )


def entry_of(snapshot: Snapshot, path: str) -> Stat | None:
    """What a snapshot has at a path, without the value; None: nothing."""
    try:
        return snapshot._stat(path)
    except KeyError:
        return None


def _batch_keys(batch: Any) -> list[str]:
    """The paths of a batch. CorruptError for a key that is none: to the core keys are bytes."""
    ends = ffi.unpack(batch.key_ends, batch.count)
    data = ffi.buffer(batch.keys, ends[-1])[:]
    text = data.decode() if data.isascii() else None
    begin = 0
    keys = []
    try:
        for end in ends:
            keys.append(text[begin:end] if text is not None else data[begin:end].decode())
            begin = end
    except UnicodeDecodeError as error:
        raise CorruptError(f"a key of this state is no path: {error}") from None
    return keys


def _batch_values(batch: Any, load: Callable[[bytes, int], Buffer]) -> Iterator[Buffer]:
    """The values of a batch: bytes that stand in it, and what ``load`` gives for an id and a size."""
    count = batch.count
    ends = ffi.unpack(batch.value_ends, count)
    forms = ffi.buffer(batch.forms, count)[:]
    data = ffi.buffer(batch.values, ends[-1])[:]
    begin = 0
    for form, end in zip(forms, ends, strict=True):
        value = data[begin:end]
        begin = end
        if form == lib.HS_BATCH_BY_ID:
            yield load(value[:32], int.from_bytes(value[32:], "little"))
        else:
            yield value


def _last_key(batch: Any) -> bytes:
    count = batch.count
    begin = batch.key_ends[count - 2] if count > 1 else 0
    return bytes(ffi.buffer(batch.keys, batch.key_ends[count - 1])[begin:])


def bind_workspace(workspace_type: type[Workspace]) -> None:
    """Snapshots fork workspaces and workspaces stand on snapshots: workspace.py, which is above, says here what
    fork makes."""
    global _workspace_type
    _workspace_type = workspace_type


_workspace_type: Any = None


# (attachment, root, under=1): the snapshot of a root id; not looked up. ``under``: the collection word from before
# the state was seen to be there; an odd one says that nobody saw it.
make_snapshot = hot.make_snapshot
