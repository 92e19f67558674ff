"""How a store, its segment and its coordinator come and go.

    gate         flock: {look for the segment, create it, take a slot} excludes {nobody left, all drained, unlink}
    coordinator  OFD lock on byte 0: who holds it writes to L2; looked at by F_OFD_GETLK, never taken to find out
    start        flock: somebody is starting a coordinator; handed to the new process, which drops it when it is one
    participants OFD lock on byte n: slot n's owner lives (csrc/hs_participant.c)

Every one of them is a kernel lock that dies with its holder, so nothing is ever left locked. The descriptors that hold
them are closed in forked children, or a child would hold its parent's lock. A store appears under its name whole: it is
built beside it, synced, and renamed. docs/CONCURRENCY.md, "Lifecycle", names what a death at each step leaves.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import stat
import struct
import sys
import tempfile
import threading
import time
import uuid as uuids
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from . import config, l2
from ._capi import check, ffi, lib
from .blobs import fsync_directory, write_all
from .config import L1_BYTES_DEFAULT, L1_BYTES_MAX, L1_BYTES_MIN, L1_SHARE_OF_FREE_SHM
from .errors import (
    BusyError,
    CapacityError,
    ExistsError,
    FormatError,
    NotFoundError,
    ReadOnlyError,
    StoreError,
)
from .hashing import blake3
from .store import (
    UNFINISHED_PREFIX,
    StoreInfo,
    check_directory,
    check_file_system,
    identity,
    info_bytes,
    info_read,
    is_vacant,
    may_write,
)
from .store import StorePaths as StorePaths

EPHEMERAL_PREFIX = "helios-ephemeral-"
SHARED_MEMORY = Path("/dev/shm")
# The descriptor under which a coordinator inherits the start lock.
START_LOCK_FD = 3

_FLOCK = struct.Struct("hh4xqqi4x")  # struct flock: type, whence, start, length, pid
_PARTICIPANTS_MAX = 1024
_GATE_PAUSE_MIN, _GATE_PAUSE_MAX = 0.0002, 0.01
_CREATE_ATTEMPTS = 16
# A coordinator whose last participant has gone leaves within a second, unless it has much to write.
_LEAVE_SECONDS = 10.0
# As much as there is of an error note.
_ERROR_NOTE_MAX = 4096
# A coordinator that failed is started again this much later, so that a broken store does not keep a machine busy.
_ERROR_PAUSE = 1.0


# ---- descriptors that hold locks -------------------------------------------------------------------------

_held: set[int] = set()
_held_lock = threading.Lock()


def _lock_open(path: Path) -> int:
    """Open a lock file so that a forked child will not keep it."""
    with _held_lock:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        _held.add(fd)
        return fd


def _lock_close(fd: int) -> None:
    """Nothing was written to a lock file, so an error of close says nothing; the descriptor is gone all the same."""
    with _held_lock, contextlib.suppress(OSError):
        _held.discard(fd)
        os.close(fd)


def _after_fork_in_child() -> None:
    for fd in _held:
        with contextlib.suppress(OSError):
            os.close(fd)
    _held.clear()
    _held_lock.release()


os.register_at_fork(
    before=_held_lock.acquire, after_in_parent=_held_lock.release, after_in_child=_after_fork_in_child
)


@contextlib.contextmanager
def _missing_as_not_found(paths: StorePaths) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"{paths.root}: there is no store (any more)") from None
    except OSError as error:
        if error.errno == errno.EROFS:
            raise ReadOnlyError(f"{paths.root}: {error.strerror}") from error
        raise StoreError(f"{error.filename or paths.root}: {error.strerror}") from error


@contextlib.contextmanager
def _as_store_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error


# ---- the gate --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def gate(paths: StorePaths, deadline: float | None = None) -> Iterator[None]:
    """Hold the gate. ``deadline`` is a time of ``time.monotonic()``; None waits for as long as it takes.

    Raises BusyError when the deadline passes (somebody was stopped inside it), NotFoundError if the store is gone.
    """
    with _missing_as_not_found(paths):
        fd = _lock_open(paths.gate)
    try:
        _flock_wait(fd, deadline, paths)
        try:
            if not _is_named(fd, paths.gate):
                raise NotFoundError(f"{paths.root}: the store was removed")
            yield
        finally:
            # Said, not left to close: a descriptor that a spawned child still has would keep it.
            fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        _lock_close(fd)


@contextlib.contextmanager
def turn(paths: StorePaths) -> Iterator[None]:
    """Be the only one who asks for a collection; waits for as long as it takes. NotFoundError if the store is gone."""
    with _missing_as_not_found(paths):
        fd = _lock_open(paths.collect_lock)
    try:
        _flock_wait(fd, None, paths)
        yield
        fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        _lock_close(fd)


def _flock_wait(fd: int, deadline: float | None, paths: StorePaths) -> None:
    pause = _GATE_PAUSE_MIN
    while not _flock_try(fd, paths.gate):
        if deadline is not None and time.monotonic() >= deadline:
            raise BusyError(f"{paths.gate}: another process holds it and does not go on; is one stopped?")
        time.sleep(pause)
        pause = min(2 * pause, _GATE_PAUSE_MAX)


def _flock_try(fd: int, path: Path) -> bool:
    with _as_store_error(path):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _is_named(fd: int, path: Path) -> bool:
    with _as_store_error(path):
        try:
            named = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        held = os.fstat(fd)
        return (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)


# ---- the coordinator lock --------------------------------------------------------------------------------


def _range_is_locked(path: Path, size: int, start: int = 0) -> bool:
    """Does anybody hold an OFD or POSIX lock on these of the file's bytes? Looks; takes nothing. Raises StoreError."""
    with _as_store_error(path):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        try:
            asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, size, 0)
            kind = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))[0]
            return bool(kind != fcntl.F_UNLCK)
        finally:
            os.close(fd)


class CoordinatorLock:
    """What makes a process the coordinator, for as long as it holds it."""

    def __init__(self, paths: StorePaths) -> None:
        self._path = paths.coordinator_lock
        self._fd = -1

    def take(self) -> bool:
        """Take it if it is free; False if another process has it. Raises StoreError."""
        with _as_store_error(self._path):
            fd = _lock_open(self._path)
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))
            except (BlockingIOError, PermissionError):
                _lock_close(fd)
                return False
            except BaseException:
                _lock_close(fd)
                raise
            self._fd = fd
            return True

    def release(self) -> None:
        if self._fd >= 0:
            _lock_close(self._fd)
            self._fd = -1


def coordinator_runs(paths: StorePaths) -> bool:
    """Does some process hold the coordinator lock?"""
    return _range_is_locked(paths.coordinator_lock, 1)


def coordinator_error(paths: StorePaths) -> str | None:
    """Why the coordinator cannot write, in its own words if it has room for them; None if it can, for all it says."""
    try:
        # Not to wait for a writer, should it be a pipe.
        fd = os.open(paths.error_note, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            text = os.read(fd, _ERROR_NOTE_MAX).decode(errors="replace").strip()
        finally:
            os.close(fd)
    except OSError:
        text = ""
    return text or _disk_error(paths)


def _disk_error(paths: StorePaths) -> str | None:
    """On a disk that is full the coordinator has no room to say so."""
    try:
        status = os.statvfs(paths.root)
    except OSError:
        return None
    if status.f_bavail > 0 and (status.f_favail > 0 or status.f_files == 0):
        return None
    return f"{os.strerror(errno.ENOSPC)} on the file system of {paths.root}"


def ensure_coordinator(paths: StorePaths) -> bool:
    """Start a coordinator unless one runs or is being started. True if this call started one; it is not waited for.

    Cheap where one runs (three system calls), so every slice of a wait may call it. Raises StoreError if the program
    cannot be started.
    """
    with _missing_as_not_found(paths):
        if coordinator_runs(paths):
            return False
        fd = _lock_open(paths.start_lock)
    try:
        if not _flock_try(fd, paths.start_lock):
            return False
        # It is looked at again inside the lock: one may have become coordinator and dropped the start lock meanwhile.
        if coordinator_runs(paths) or _failed_just_now(paths):
            fcntl.flock(fd, fcntl.LOCK_UN)
            return False
        try:
            _spawn(paths, fd)
        except BaseException:
            fcntl.flock(fd, fcntl.LOCK_UN)
            raise
        # Not unlocked: the lock is the new process's now, which shares its description.
        return True
    finally:
        _lock_close(fd)


def _failed_just_now(paths: StorePaths) -> bool:
    try:
        age = time.time() - os.stat(paths.error_note).st_mtime
    except OSError:
        return False
    return 0 <= age < _ERROR_PAUSE


def _spawn(paths: StorePaths, start_fd: int) -> None:
    executable = sys.executable or getattr(sys, "_base_executable", "")
    if not executable:
        raise StoreError(f"{paths.root}: no coordinator can be started: sys.executable is not set")
    arguments = [executable, "-P", "-m", "helios_shm.coordinator", os.fspath(paths.root)]
    settings = [os.fsencode(f"{name}={value}") for name, value in child_environment().items()]
    argv, _argv = _strings([os.fsencode(text) for text in arguments])
    envp, _envp = _strings(settings)
    status = lib.hs_spawn_detached(argv, envp, os.fsencode(paths.log), start_fd)
    check(status, f"starting the coordinator of {paths.root} ({executable})")


def child_environment() -> dict[str, str]:
    """This environment, and this very package in it: it may be there by the working directory or by a changed sys.path
    only, which a new process has not."""
    environment = dict(os.environ)
    given = [os.path.abspath(part) for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part]
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment["PYTHONPATH"] = os.pathsep.join([package, *given])
    return environment


def _strings(texts: list[bytes]) -> tuple[object, object]:
    """A NULL-terminated array of C strings, and what must stay alive with it."""
    keep = [ffi.new("char[]", text) for text in texts]
    return ffi.new("char *[]", [*keep, ffi.NULL]), keep


def start_lock_drop(paths: StorePaths) -> None:
    """In a new coordinator: give up the inherited start lock, if there is one."""
    try:
        inherited = os.fstat(START_LOCK_FD)
        named = os.stat(paths.start_lock)
    except OSError:
        return
    if (inherited.st_dev, inherited.st_ino) == (named.st_dev, named.st_ino):
        os.close(START_LOCK_FD)


# ---- who a store is --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Identity:
    """What ties a segment to a store: a copy of the directory, and another boot, are other stores to it."""

    uuid: bytes
    boot_id: bytes
    device: int
    inode: int
    ephemeral: bool
    segment_name: str


def identify(paths: StorePaths) -> Identity:
    """Who the store at ``paths`` is, on this boot. NotFoundError, FormatError, StoreError."""
    info = info_read(paths)
    check_directory(paths.root)
    device, inode = identity(paths.root)
    place = blake3(struct.pack("<QQ", device, inode)).hex()[:8]
    name = f"/helios-{uuids.UUID(bytes=info.uuid).hex}-{place}"
    return Identity(info.uuid, l2.boot_id(), device, inode, info.ephemeral, name)


def is_writable(paths: StorePaths) -> bool:
    """Can this process write to the store's directory and lock its files? StoreError if that cannot be told."""
    return all(may_write(path) for path in (paths.root, paths.locks, paths.db / "lock.mdb"))


def ring_bytes(wanted: int | None) -> int:
    """The ring's size: what is wanted, else the default, but no more than a share of what shared memory has left."""
    if wanted is not None:
        if not isinstance(wanted, int) or isinstance(wanted, bool):
            raise TypeError(f"l1_bytes must be an int, not {type(wanted).__name__}")
        if not L1_BYTES_MIN <= wanted <= L1_BYTES_MAX:
            raise ValueError(f"l1_bytes is {wanted}; it must be {L1_BYTES_MIN}..{L1_BYTES_MAX}")
        return wanted
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError as error:
        raise StoreError(f"{SHARED_MEMORY}: {error.strerror}; shared memory is needed") from error
    share = int(status.f_bavail * status.f_frsize * L1_SHARE_OF_FREE_SHM)
    return max(L1_BYTES_MIN, min(L1_BYTES_DEFAULT, share))


def open_args(paths: StorePaths, identity: Identity, mode: int, ring_size: int) -> tuple[Any, object]:
    """What hs_engine_open takes for this store, and what must stay alive with it."""
    args = ffi.new("hs_open_args *")
    keep = [
        ffi.new("char[]", identity.segment_name.encode()),
        ffi.new("char[]", os.fsencode(paths.participants)),
    ]
    args.segment_name, args.participants_path = keep
    ffi.memmove(args.store_uuid, identity.uuid, 16)
    ffi.memmove(args.boot_id, identity.boot_id, 16)
    args.store_device, args.store_inode = identity.device, identity.inode
    args.ring_size, args.cache_size = ring_size, config.CACHE_BYTES
    args.mode, args.ephemeral = mode, identity.ephemeral
    return args, keep


# ---- making a store --------------------------------------------------------------------------------------


def open_store(path: str | os.PathLike[str], *, create: bool) -> StorePaths:
    """The store at ``path``; made if there is none and ``create`` says so. An empty directory may become one.

    Raises NotFoundError, FormatError (something else is there; a network file system), ReadOnlyError, CapacityError,
    StoreError. Cost: one read; a few synced writes if it is made.
    """
    paths = StorePaths.of(path)
    for _ in range(_CREATE_ATTEMPTS):
        try:
            info_read(paths)
            check_directory(paths.root)
            return paths
        except NotFoundError:
            if not create:
                raise
        with contextlib.suppress(ExistsError):
            create_store(paths, ephemeral=False)
    raise BusyError(f"{paths.root}: others make and remove a store here all the time")


def create_store(paths: StorePaths, *, ephemeral: bool) -> None:
    """Make a store: whole under its name, or not at all. ExistsError if there is one, or something else, already."""
    parent = paths.root.parent
    try:
        if not ephemeral:
            os.makedirs(parent, exist_ok=True)
            _way_sync(parent)
        check_file_system(parent)
        _leftovers_remove(paths)
        _create_beside(paths, ephemeral)
    except OSError as error:
        raise _creation_error(paths, error) from error


def _way_sync(directory: Path) -> None:
    """Make the names that lead to a directory durable, within its file system: some may have been made just now, by us
    or by somebody who died before syncing them."""
    device = os.stat(directory).st_dev
    for above in directory.parents:
        if os.stat(above).st_dev != device:
            return
        with contextlib.suppress(PermissionError):  # not ours, so not made by us
            fsync_directory(above)


def names_sync(paths: StorePaths) -> None:
    """Make a store's name, and those of its files, durable: who made it may have died before doing so. Whoever
    acknowledges anything as durable calls this before."""
    for directory in (paths.root, paths.root.parent):
        with contextlib.suppress(PermissionError):
            fsync_directory(directory)


def _creation_error(paths: StorePaths, error: OSError) -> Exception:
    text = f"creating a store at {paths.root}: {error.strerror}"
    if error.errno == errno.EROFS:
        return ReadOnlyError(text)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CapacityError(text)
    if error.errno == errno.ENOTDIR:
        return FormatError(text)
    return StoreError(text)


def _create_beside(paths: StorePaths, ephemeral: bool) -> None:
    """Build it under another name and rename it."""
    name = f".{paths.root.name}.creating-{secrets.token_hex(4)}"
    building = StorePaths(paths.root.parent / name)
    try:
        os.mkdir(building.root, 0o700)
    except PermissionError:
        if not (paths.root.is_dir() and is_vacant(paths.root)):
            raise
        return _create_inside(paths, ephemeral)
    fd = -1
    try:
        os.chmod(building.root, 0o700)  # whatever the umask says, here and below
        fd = _directory_lock(building.root)
        _fill(building, ephemeral)
        if _rename_into_place(building, paths):
            if not ephemeral:
                fsync_directory(paths.root.parent)
            return None
    finally:
        shutil.rmtree(building.root, ignore_errors=True)
        if fd >= 0:
            _lock_close(fd)
    return _create_inside(paths, ephemeral)


def _rename_into_place(building: StorePaths, paths: StorePaths) -> bool:
    """False: a directory is there that cannot be replaced: something is mounted on it, or a store was begun in it."""
    try:
        os.rename(building.root, paths.root)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY, errno.EXDEV):
            raise
        if not is_vacant(paths.root):
            raise ExistsError(f"{paths.root}: exists already") from None
        return False
    return True


def _create_inside(paths: StorePaths, ephemeral: bool) -> None:
    """Build it inside a directory that must stay: under the directory's own lock, helios.json last. What a maker that
    died has left there is removed."""
    fd = _directory_lock(paths.root)
    try:
        if not is_vacant(paths.root):
            raise ExistsError(f"{paths.root}: exists already")
        _unfinished_remove(paths)
        try:
            _fill(paths, ephemeral)
        except BaseException:
            paths.info.unlink(missing_ok=True)
            _unfinished_remove(paths)
            raise
    finally:
        _lock_close(fd)


def _unfinished_remove(paths: StorePaths) -> None:
    """Remove what ``_fill`` makes; last the file that says that it is unfinished."""
    for directory in (paths.locks, paths.blobs, paths.db):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(directory)
    for path in paths.root.glob(f"{UNFINISHED_PREFIX}*"):
        path.unlink()


def _directory_lock(path: Path) -> int:
    with _held_lock:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        _held.add(fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except BaseException:
        _lock_close(fd)
        raise
    return fd


def _leftovers_remove(paths: StorePaths) -> None:
    """Remove what creators of this store left half made when they died: those whose lock nobody holds."""
    prefix = f".{paths.root.name}.creating-"
    for name in os.listdir(paths.root.parent):
        if not name.startswith(prefix):
            continue
        path = paths.root.parent / name
        with contextlib.suppress(OSError, StoreError):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                # A creator takes its lock right after mkdir; a directory with nothing in it may be that young.
                if _flock_try(fd, path) and os.listdir(path):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(fd)


def _fill(paths: StorePaths, ephemeral: bool) -> None:
    """The files of a new store, synced. helios.json is there from the beginning under another name, by which others see
    that a store is being made here, and under its own when all else is on disk."""
    os.chmod(paths.root, 0o700)
    unfinished = paths.root / f"{UNFINISHED_PREFIX}{secrets.token_hex(4)}"
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(fd, 0o600)
        for directory in (paths.locks, paths.blobs):
            os.mkdir(directory, 0o700)
            os.chmod(directory, 0o700)
        for lock in (paths.gate, paths.coordinator_lock, paths.start_lock, paths.participants):
            with open(os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                os.fchmod(file.fileno(), 0o600)
        uuid = uuids.uuid4().bytes
        l2.create(paths.db, uuid)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        write_all(fd, memoryview(info_bytes(StoreInfo(uuid, created, ephemeral))))
        if not ephemeral:
            os.fsync(fd)
            for directory in (paths.locks, paths.blobs, paths.db, paths.root):
                fsync_directory(directory)
    finally:
        os.close(fd)
    os.rename(unfinished, paths.info)
    if not ephemeral:
        fsync_directory(paths.root)


# ---- ephemeral stores ------------------------------------------------------------------------------------


def create_ephemeral() -> StorePaths:
    """A store in the temporary directory that its coordinator removes when the last process has left it."""
    sweep_ephemeral()
    process = psutil.Process()
    started = int(process.create_time() * 100)
    name = f"{EPHEMERAL_PREFIX}{process.pid}-{started}-{secrets.token_hex(4)}"
    paths = StorePaths.of(Path(tempfile.gettempdir()) / name)
    create_store(paths, ephemeral=True)
    return paths


def sweep_ephemeral() -> int:
    """Remove this user's ephemeral stores whose processes are all gone, with their segments, and what is left of those
    that were never finished. Best effort. Returns how many."""
    removed = 0
    root = Path(os.path.realpath(tempfile.gettempdir()))
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = [name for name in os.listdir(root) if name.lstrip(".").startswith(EPHEMERAL_PREFIX)]
    for name in names:
        with contextlib.suppress(OSError, StoreError, NotFoundError, BusyError):
            status = os.lstat(root / name)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                continue
            if creator_lives(name.lstrip(".")):
                continue
            if name.startswith("."):
                shutil.rmtree(root / name)
                removed += 1
            else:
                removed += _sweep_one(StorePaths(root / name))
    return removed


def creator_lives(name: str) -> bool:
    """Whoever makes a store has no lock in it for an instant; its name says who that is."""
    try:
        pid, started = name.removeprefix(EPHEMERAL_PREFIX).split("-")[:2]
        return int(psutil.Process(int(pid)).create_time() * 100) == int(started)
    except (ValueError, psutil.Error):
        return False


def _sweep_one(paths: StorePaths) -> int:
    with gate(paths, time.monotonic()):
        if not info_read(paths).ephemeral or is_in_use(paths):
            return 0
        segment_remove(identify(paths).segment_name)
        gone = detach_directory(paths)
    shutil.rmtree(gone, ignore_errors=True)
    return 1


def is_in_use(paths: StorePaths) -> bool:
    """Does a coordinator or a participant of the store live?"""
    return coordinator_runs(paths) or _range_is_locked(paths.participants, _PARTICIPANTS_MAX)


def slot_is_alive(paths: StorePaths, slot: int) -> bool:
    """Does the owner of a participant's slot live?"""
    return _range_is_locked(paths.participants, 1, slot)


def is_used_elsewhere(paths: StorePaths, identity: Identity) -> bool:
    """Do others use the store through a segment that is not to be seen here? Under the gate only."""
    return is_in_use(paths) and not (SHARED_MEMORY / identity.segment_name.lstrip("/")).exists()


def segment_foreign(identity: Identity) -> str:
    """What to say of a segment that the core refuses."""
    return (
        f"{SHARED_MEMORY}{identity.segment_name} is not a segment of this store, of this user, made on this boot "
        "by this version in this PID namespace (container); close what uses it, or remove it if nothing does"
    )


def segment_remove(segment_name: str) -> None:
    """Remove the name of a segment that nobody uses."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(SHARED_MEMORY / segment_name.lstrip("/"))


def detach_directory(paths: StorePaths) -> Path:
    """Take a store's name away, so that nobody opens it while it is being removed. Returns where it is now."""
    gone = paths.root.with_name(f"{paths.root.name}.gone-{secrets.token_hex(4)}")
    os.rename(paths.root, gone)
    return gone


# ---- removing a store ------------------------------------------------------------------------------------


def destroy_store(paths: StorePaths, *, force: bool) -> None:
    """Remove a store with its segment: first its name, so that nobody opens what is half gone.

    Raises BusyError while others use it, unless ``force``: then their commits fail from now on, as if the directory had
    been removed under them. A coordinator that is about to leave is waited for. NotFoundError, StoreError.
    """
    info_read(paths)
    check_directory(paths.root)
    deadline = time.monotonic() + _LEAVE_SECONDS
    while (gone := _detach_unused(paths, force=force)) is None:
        if time.monotonic() >= deadline or _range_is_locked(paths.participants, _PARTICIPANTS_MAX):
            raise BusyError(f"{paths.root}: other processes use the store; end them first")
        time.sleep(_GATE_PAUSE_MAX)
    with _as_store_error(gone):
        shutil.rmtree(gone)


def _detach_unused(paths: StorePaths, *, force: bool) -> Path | None:
    """Take the segment and the directory away under the gate. None: somebody uses them."""
    with gate(paths, time.monotonic() + _LEAVE_SECONDS), _as_store_error(paths.root):
        if is_in_use(paths) and not force:
            return None
        segment_remove(identify(paths).segment_name)
        return detach_directory(paths)
