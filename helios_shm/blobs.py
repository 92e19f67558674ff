"""Large values: one file each, written once, read by mmap.

    blobs/ab/cdef...      the value whose BLAKE3 is abcdef...: plain bytes, mode 0400
    blobs/ab/.tmp-...     one that is being written

Invariants. A file appears under its name whole, by rename. It is not synced by its writer: whoever makes a row that
names it durable syncs it first (``sync``). So after a power loss a file may hold anything as long as no row names it;
a writer compares the bytes before it relies on one that is there, and replaces it where they differ. A reader checks
BLAKE3 on first touch in its process.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from typing_extensions import Buffer

from .errors import CapacityError, CorruptError, StoreError
from .hashing import blake3
from .store import StorePaths

_COMPARE_SIZE = 1 << 20
_NO_SPACE = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
# (device, inode, id) of files whose hash this process has seen to be right; bounded, since it only saves time.
_CHECKED_MAX = 1 << 16
_checked: set[tuple[int, int, bytes]] = set()
# (device, inode) of files whose sync has failed, and which have not been replaced since.
_unsynced: set[tuple[int, int]] = set()


def write_all(fd: int, data: memoryview) -> None:
    """Write all of it, however little the system takes at a time."""
    done = 0
    while done < len(data):
        done += os.write(fd, data[done : done + (1 << 30)])


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, data: bytes) -> None:
    """Put a small file under a name, whole or not at all. Not synced."""
    _put(path, memoryview(data), 0o600)


def _put(path: Path, view: memoryview, mode: int, *, synced: bool = False) -> None:
    """Put a file under a name, whole or not at all, with this mode whatever the umask says."""
    temporary = path.parent / f".tmp-{secrets.token_hex(8)}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        write_all(fd, view)
        os.fchmod(fd, mode)
        if synced:
            os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    finally:
        os.close(fd)


def path_of(store: StorePaths, id: bytes) -> Path:
    """Where the value of this id is, or would be."""
    name = id.hex()
    return store.blobs / name[:2] / name[2:]


def write(store: StorePaths, id: bytes, data: Buffer) -> None:
    """Write the value that ``id`` names, unless a file with exactly these bytes is there.

    Not durable before ``sync``. Raises CapacityError on a full disk. Cost: one write of the bytes, or one read.
    """
    view = memoryview(data).cast("B")
    path = path_of(store, id)
    if _is_there(path, view):
        return
    try:
        _write(path, view)
    except OSError as error:
        kind = CapacityError if error.errno in _NO_SPACE else StoreError
        raise kind(f"writing a value of {len(view)} bytes to {path}: {error.strerror}") from error


def _is_there(path: Path, view: memoryview) -> bool:
    try:
        found, _ = _map(path)
    except OSError:
        return False
    if len(found) != len(view):
        return False
    places = range(0, len(view), _COMPARE_SIZE)
    return all(found[at : at + _COMPARE_SIZE] == view[at : at + _COMPARE_SIZE] for at in places)


def _write(path: Path, view: memoryview, *, synced: bool = False) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(path.parent, 0o700)
        os.chmod(path.parent, 0o700)  # whatever the umask says
    _put(path, view, 0o400, synced=synced)


def _map(path: Path) -> tuple[memoryview, os.stat_result]:
    # Not to wait, should it be a pipe: then it cannot be mapped.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        mapping = mmap.mmap(fd, status.st_size, access=mmap.ACCESS_READ) if status.st_size else b""
        return memoryview(mapping), status
    finally:
        os.close(fd)


def read(store: StorePaths, id: bytes, size: int) -> memoryview | None:
    """The value as a read-only view of its file's mapping, valid whatever happens to the store; None: no such file.

    Raises CorruptError if the file has another size or (looked at once in a process) another hash. Cost: three system
    calls; the first time one pass over the bytes.
    """
    path = path_of(store, id)
    try:
        view, status = _map(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"reading {path}: {error.strerror}") from error
    if len(view) != size:
        raise CorruptError(f"value {id.hex()}: {path} has {len(view)} bytes where {size} were expected")
    key = (status.st_dev, status.st_ino, id)
    if key not in _checked:
        if blake3(view) != id:
            raise CorruptError(f"value {id.hex()}: {path} holds other bytes than its name says")
        if len(_checked) >= _CHECKED_MAX:
            _checked.clear()
        _checked.add(key)
    return view


def _sync_one(fd: int, path: Path, id: bytes, anew: bool) -> None:
    """Sync a file; one whose sync failed, or may have, is written anew.

    The system drops what it could not write and says so once: a second sync of the same file would succeed and have
    written nothing. What is mapped is still the value, or its hash says that it is not.
    """
    status = os.fstat(fd)
    file = (status.st_dev, status.st_ino)
    if not anew and file not in _unsynced:
        try:
            os.fsync(fd)
            return
        except OSError:
            _unsynced.add(file)
    view, _ = _map(path)
    if blake3(view) != id:
        raise CorruptError(f"value {id.hex()}: {path} holds other bytes than its name says")
    _write(path, view, synced=True)
    _unsynced.discard(file)


def sync(store: StorePaths, ids: Iterable[bytes], *, anew: bool = False) -> list[bytes]:
    """Make the files of these values, and their names, durable. Returns the ids whose files are missing.

    ``anew``: their sync may have failed in a process that is gone, so each is written anew rather than synced.
    Raises OSError, CorruptError: then nothing of them may be taken for durable.
    """
    missing, directories = [], set()
    for id in ids:
        path = path_of(store, id)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            missing.append(id)
            continue
        try:
            _sync_one(fd, path, id, anew)
        finally:
            os.close(fd)
        directories.add(path.parent)
    for directory in directories:
        fsync_directory(directory)
    if directories:
        fsync_directory(store.blobs)
    return missing
