"""What ``ingest`` and ``materialize`` share: the entries of a state, the names in a directory, and the way there.

    state:      path -> Entry(kind, id, size, value if it is small)   one C call for some hundreds of them
    directory:  path -> Found(kind, stat)                             a level of the tree at a time, in several
    threads

Nothing of the directory is touched but through hs_files.h, which resolves every path beneath the open directory
and follows no symbolic link; Python sees paths, never descriptors of what is below.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

from . import config
from ._capi import check, ffi, hot, lib
from .attachment import Attachment, Deadline
from .errors import BusyError, CapacityError, HeliosError, StoreError
from .hashing import blake3
from .mapping import Bounds
from .types import KINDS
from .worktree import CHECKED, ROW_SIZE, Worktree

FILE, EXECUTABLE, SYMLINK, DIRECTORY, SNAPSHOT = range(len(KINDS))

# hs_files.h
LIST, READ, WRITE, MAKE_LINK, MAKE_DIRECTORY, REMOVE, REMOVE_DIRECTORY = range(7)
REPLACE, SET_EXECUTABLE, HARD, CLONE, KEEP, IS_LINK = 16, 32, 64, 128, 256, 512
TEMPORARY = ".helios-tmp-"

Job = TypeVar("Job")
Progress = Callable[[int, int], object]

# So many jobs, or bytes, go to C at a time: what bounds memory, and how far apart two calls of `progress` are.
SLICE_JOBS, SLICE_BYTES = 512, 32 << 20
# Below these, threads cost more than they bring.
_FEW_JOBS, _FEW_BYTES = 24, 1 << 20
_FEW_LOOKS = 4096
_WORKERS_MAX = 8
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Somebody else was at work in the directory.
_CHANGED = (errno.EEXIST, errno.ELOOP, errno.ENOTDIR, errno.ENOENT, errno.EISDIR, errno.EAGAIN, errno.EXDEV)
_LOCK_SECONDS = 60.0
_COARSE = 5  # CLOCK_REALTIME_COARSE: what file systems take the time from
_IDENTITY = struct.Struct("<QQ")


class Entry(NamedTuple):
    """An entry of a state: id and size are of its value, which stands here if it is small enough to stand in a
    leaf."""

    kind: int
    id: bytes
    size: int
    value: bytes | None


class Found(NamedTuple):
    """A name in a directory: kind may be one that no state has (a socket), stat is hs_files_stat."""

    kind: int
    stat: bytes

    @property
    def size(self) -> int:
        return int.from_bytes(self.stat[:8], "little")


def now_ns() -> int:
    """The time as file systems write it."""
    return time.clock_gettime_ns(_COARSE)


# --- states ---


def entries_of(attachment: Attachment, root: bytes, bounds: Bounds) -> Iterator[tuple[str, Entry]]:
    """The entries of a range of a state, in order. Cost: a C call for some hundreds of them."""
    start, stop = bounds
    batch = attachment.take_batch()
    try:
        more = True
        while more:
            more = _entries_fill(attachment, batch, root, start, stop)
            if batch.count:
                last = b""
                for last, entry in _entries_in(batch):
                    yield last.decode(), entry
                start = last + b"\0"
    finally:
        attachment.give_batch(batch)


def _entries_fill(attachment: Attachment, batch: Any, root: bytes, start: bytes, stop: bytes | None) -> bool:
    """A batch from C, and after a node was brought from L2 perhaps an empty one. Returns: may there be more?"""
    call = attachment.call()
    try:
        end = ffi.NULL if stop is None else stop
        status = lib.hs_scan(call.c, root, start, len(start), end, len(stop or b""), lib.HS_SCAN_STATS, batch)
        if status == lib.HS_MISSING:
            attachment.resolve(call)
        else:
            check(status, f"snapshot {root.hex()}")
        return bool(status != lib.HS_OK)
    finally:
        attachment.pool.append(call)


def _entries_in(batch: Any) -> Iterator[tuple[bytes, Entry]]:
    count = batch.count
    key_ends = ffi.unpack(batch.key_ends, count)
    ends = ffi.unpack(batch.value_ends, count)
    forms = ffi.buffer(batch.forms, count)[:]
    keys = ffi.buffer(batch.keys, key_ends[-1])[:]
    data = ffi.buffer(batch.values, ends[-1])[:]
    by_id = lib.HS_BATCH_STAT_BY_ID
    key_at = at = 0
    for form, key_end, end in zip(forms, key_ends, ends, strict=True):
        value = data[at:end]
        if form & by_id:
            entry = Entry(form - by_id, value[:32], int.from_bytes(value[32:], "little"), None)
        else:
            entry = Entry(form, blake3(value), len(value), value)
        yield keys[key_at:key_end], entry
        key_at, at = key_end, end


def value_of(attachment: Attachment, entry: Entry) -> bytes:
    """The bytes of an entry, wherever they are."""
    return entry.value if entry.value is not None else attachment.load_value(entry.id, entry.size)


# --- directories ---


def open_directory(directory: str | os.PathLike[str], *, make: bool) -> int:
    """The directory itself, which may lie behind symbolic links: whoever names it means it. OSError."""
    if not isinstance(directory, str | os.PathLike):
        raise TypeError(f"a directory is a str or a path, not {type(directory).__name__}")
    if make:
        os.makedirs(directory, exist_ok=True)
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


@contextlib.contextmanager
def locked(fd: int, directory: str, *, shared: bool) -> Iterator[None]:
    """One ``materialize`` at a time in a directory, and no ``ingest`` beside it. BusyError after a minute."""
    deadline, how = Deadline(_LOCK_SECONDS), (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
    while True:
        try:
            fcntl.flock(fd, how)
            break
        except BlockingIOError:
            if deadline.passed():
                raise BusyError(
                    f"{directory}: another process is materialising or ingesting it; wait for it, or end it"
                ) from None
            time.sleep(deadline.slice_ms() / 1000)
        except OSError:  # a file system without locks
            break
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)


def is_temporary(path: str) -> bool:
    """Is this what a materialize that was interrupted left behind?"""
    name = path.rpartition("/")[2]
    return name.startswith(TEMPORARY) and len(name) == len(TEMPORARY) + 16


def inside(path: str, directory: str) -> bool:
    """Is a path below a directory, or it?"""
    return path == directory or path.startswith(directory + "/")


def parents_of(paths: Iterable[str]) -> dict[str, None]:
    """All directories above these paths but the topmost one, each before what is below it."""
    found: dict[str, None] = {}
    for path in paths:
        parent = path.rpartition("/")[0]
        if parent and parent not in found:
            above = [parent]
            while (parent := parent.rpartition("/")[0]) and parent not in found:
                above.append(parent)
            found.update(dict.fromkeys(reversed(above)))
    return found


class Files:
    """One open directory: what is done in it, by how many threads, and what its errors say."""

    def __init__(self, fd: int, directory: str, store: os.stat_result, workers: int | None) -> None:
        self.fd = fd
        self.directory = directory
        self.workers = _workers_of(workers)
        self._store = _IDENTITY.pack(store.st_ino, store.st_dev)  # as in hs_files_stat

    def walk(self, enters: Callable[[str], bool], starts: Iterable[str] = ("",)) -> dict[str, Found]:
        """All names below some directories but the store's; below another directory only if ``enters`` says so."""
        found: dict[str, Found] = {}
        level = list(starts)
        while level:
            listed = hot.files_list(
                self.fd, [encode(path) or b"." for path in level], self._threads(8 * len(level), 0)
            )
            below: list[str] = []
            for directory, names in zip(level, listed, strict=True):
                if isinstance(names, int):
                    if names not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                        raise self.error(names, directory or ".", "listing")
                    continue
                base = directory + "/" if directory else ""
                for name, kind, stat in names:
                    path = base + name
                    if kind == DIRECTORY:
                        if stat[24:40] == self._store:
                            continue
                        if enters(path):
                            below.append(path)
                    found[path] = Found(kind, stat)
            level = below
        return found

    def is_as(self, tree: Worktree, key: bytes) -> bool:
        """Does the index say that this holds of the directory, and is it still so? Cost: a look at each file."""
        given = tree.says(key)
        if given is None:
            return False
        looks = len(given[0]) // ROW_SIZE
        return hot.files_same(self.fd, *given, CHECKED, 0 if looks < _FEW_LOOKS else self.workers)

    def read(
        self, paths: Iterable[tuple[str, Found]], *, keep: bool
    ) -> Iterator[tuple[str, bytes, bytes, bytes]]:
        """(path, id, stat, bytes if they are kept) of files and links, those that are gone left out."""
        flags = READ | (KEEP if keep else 0)
        jobs = (
            (path, flags | (IS_LINK if kind == SYMLINK else 0), Found(kind, stat).size)
            for path, (kind, stat) in paths
        )
        for part, size in _slices(jobs):
            results = hot.files_read(
                self.fd, [(what, encode(path)) for path, what, _ in part], self._threads(len(part), size)
            )
            for (path, _, _), result in zip(part, results, strict=True):
                if not isinstance(result, int):
                    value, id, stat = result
                    yield path, id, stat, value or b""
                elif result != errno.ENOENT:
                    raise self.error(result, path, "reading")

    def write(
        self, jobs: Iterable[tuple[int, str, bytes, bytes | None, int]]
    ) -> Iterator[list[tuple[str, bytes]]]:
        """Make and remove: (what, path, bytes, source, size) each. Yields, for a slice of them, path and new stat."""
        for part, size in _slices((job, job[0], job[4]) for job in jobs):
            given = [(job[0], encode(job[1]), job[2], job[3]) for job, _, _ in part]
            results = hot.files_write(self.fd, given, self._threads(len(part), size))
            done = []
            for (job, _, _), result in zip(part, results, strict=True):
                if isinstance(result, int):
                    raise self.error(result, job[1], "writing")
                done.append((job[1], result))
            yield done

    def do(self, what: int, paths: Iterable[str], *, allowed: tuple[int, ...] = ()) -> None:
        """One thing after the other, in order."""
        given: list[tuple[int, bytes, bytes, bytes | None]] = [
            (what, encode(path), b"", None) for path in paths
        ]
        for (_, path, _, _), result in zip(
            given, hot.files_write(self.fd, given, 0) if given else (), strict=True
        ):
            if isinstance(result, int) and result not in allowed:
                raise self.error(result, os.fsdecode(path), "writing")

    def _threads(self, jobs: int, size: int) -> int:
        return 0 if jobs < _FEW_JOBS and size < _FEW_BYTES else min(self.workers, max(1, jobs // 8))

    def error(self, number: int, path: str, doing: str) -> Exception:
        """The exception for an errno, which names the file."""
        where = f"{doing} {os.path.join(self.directory, path)!r}"
        if number == errno.ENOSYS:
            return HeliosError("directories need openat2, which this system lacks: Linux 5.6 or later has it")
        if number in _NO_SPACE:
            return CapacityError(f"{where}: {os.strerror(number)}; make room, then run it again")
        if number in _CHANGED:
            return BusyError(
                f"{where}: somebody else changed it at the same time ({os.strerror(number)}); run it again"
            )
        if number == errno.ENOMEM:
            return MemoryError(where)
        return OSError(number, os.strerror(number), os.path.join(self.directory, path))


def encode(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def _workers_of(workers: int | None) -> int:
    if workers is None:
        return min(_WORKERS_MAX, len(os.sched_getaffinity(0)))
    if not isinstance(workers, int) or isinstance(workers, bool):
        raise TypeError(f"workers is an int, not {type(workers).__name__}")
    if not 1 <= workers <= 64:
        raise ValueError(f"workers is 1..64, not {workers}")
    return workers


def _slices(jobs: Iterable[tuple[Job, int, int]]) -> Iterator[tuple[list[tuple[Job, int, int]], int]]:
    part: list[tuple[Job, int, int]] = []
    size = 0
    for job in jobs:
        part.append(job)
        size += job[2]
        if len(part) >= SLICE_JOBS or size >= SLICE_BYTES:
            yield part, size
            part, size = [], 0
    if part:
        yield part, size


def store_status(attachment: Attachment, directory: str) -> os.stat_result:
    """The store's directory. ValueError if the other one lies in it."""
    root = os.fspath(attachment.paths.root)
    if inside(os.path.realpath(directory), root):
        raise ValueError(f"{directory} is inside the store {root}: no place for files of yours")
    try:
        return os.stat(root)
    except OSError as error:
        raise StoreError(f"{root}: {error.strerror}") from error


LARGE = config.BLOB_BYTES_MIN
