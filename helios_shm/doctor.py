"""What is wrong around a store, and what to do about it: the machine, the shared memory of stores that are gone, the
store's files, its segment and who takes part in it, its coordinator.

    examine(path) -> findings          each: how bad, about what, what was found, what to do, was it mended

It looks from outside: it opens no store, takes no slot, starts no coordinator, so that it works where opening fails.
Whether the contents are whole is ``Engine.check``'s to say.

Invariant. What ``fix`` does is safe whatever else happens: bytes that only a segment or a file of a store has are never
removed. A segment is removed only if nobody has it open and L2 has all that is in it, or its store was ephemeral.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import re
import resource
import shutil
import signal
import stat
import struct
import tempfile
import uuid as uuids
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import psutil

from . import config, l2, lifecycle
from ._capi import ffi, lib
from .collector import drop_dead
from .engine import open as open_engine
from .errors import HeliosError, NotFoundError
from .lifecycle import SHARED_MEMORY
from .store import StorePaths, check_directory, info_read

Severity: TypeAlias = Literal["error", "warning", "note"]

_SEGMENT = re.compile(r"helios-([0-9a-f]{32})-[0-9a-f]{8}")
_LOG_BYTES = 64 << 10
_DISK_BYTES_MIN = 256 << 20
_DISK_SHARE_MIN = 0.03
_FILES_MIN = 256
# The tables beside the ring, of a small one.
_TABLES_BYTES = 8 << 20
_SYSCALLS = {"openat2": 437, "futex_waitv": 449}
_FLOCK = struct.Struct("hh4xqqi4x")  # struct flock: type, whence, start, length, pid


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that somebody should know: ``severity`` error (it does not work), warning (something is to be done),
    note (good to know); ``subject`` says about what; ``advice`` what to do; ``mended``: it was done just now."""

    severity: Severity
    subject: str
    message: str
    advice: str
    mended: bool = False


@dataclass(frozen=True, slots=True)
class _Found:
    """A finding, and what mends it, where something does that is safe."""

    finding: Finding
    mend: Callable[[], None] | None = None


def _found(
    severity: Severity, subject: str, message: str, advice: str, mend: Callable[[], None] | None = None
) -> _Found:
    return _Found(Finding(severity, subject, message, advice), mend)


def examine(path: str | os.PathLike[str] | None, *, fix: bool = False) -> tuple[Finding, ...]:
    """Everything that is found, the machine first. path: a store's directory; None: the machine alone. fix: mend
    what can be mended safely; findings that were say so.

    Raises nothing for what it finds, NotFoundError and its kind included. Cost: some system calls, a look at each
    segment, a stat of each file of the store.
    """
    found = [*_machine(), *_leftovers(path)]
    if path is not None:
        found += _store(StorePaths.of(path))
    return tuple(_mended(each) if fix else each.finding for each in found)


def _mended(found: _Found) -> Finding:
    if found.mend is None:
        return found.finding
    try:
        found.mend()
    except (HeliosError, OSError, psutil.Error) as error:
        return replace(found.finding, advice=f"{found.finding.advice} (mending it failed: {error})")
    return replace(found.finding, mended=True)


# ---- the machine -----------------------------------------------------------------------------------------


def _machine() -> Iterator[_Found]:
    yield from _kernel()
    yield from _shared_memory()
    yield from _limits()


def _kernel() -> Iterator[_Found]:
    system, machine = platform.system(), platform.machine()
    if system != "Linux" or machine != "x86_64":
        yield _found("error", "machine", f"this is {system} on {machine}", "use Linux on x86-64")
    if not _has_file_locks():
        yield _found(
            "error",
            "kernel",
            "it has no locks of open file descriptions (F_OFD_SETLK)",
            "use Linux 3.15 or later",
        )
    consequences: dict[str, tuple[Severity, str, str]] = {
        "openat2": ("warning", "ingest and materialize cannot hold to their directory by it", "5.6"),
        "futex_waitv": ("note", "a wait for several words at once is many waits", "5.16"),
    }
    for name, (severity, consequence, release) in consequences.items():
        if not _has_syscall(name):
            yield _found(
                severity, "kernel", f"it has no {name}: {consequence}",
                f"use Linux {release} or later, or have the container's seccomp profile let it through",
            )  # fmt: skip


def _has_file_locks() -> bool:
    with tempfile.TemporaryFile() as file:
        try:
            asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
            fcntl.fcntl(file.fileno(), fcntl.F_OFD_GETLK, asked)
        except OSError:
            return False
    return True


def _has_syscall(name: str) -> bool:
    """Called with arguments that it refuses: whoever has it says so otherwise than by ENOSYS."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(
        ctypes.c_long(_SYSCALLS[name]), ctypes.c_long(-1), None, None, ctypes.c_long(0), ctypes.c_long(0)
    )
    return ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM)


def _shared_memory() -> Iterator[_Found]:
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError as error:
        yield _found(
            "error",
            "shared memory",
            f"{SHARED_MEMORY}: {error.strerror}",
            f"mount a tmpfs at {SHARED_MEMORY}",
        )
        return
    total, free = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
    enlarge = "enlarge it: docker run --shm-size=1g, or mount -o remount,size=1g /dev/shm"
    if not os.access(SHARED_MEMORY, os.W_OK):
        yield _found("error", "shared memory", f"{SHARED_MEMORY} cannot be written", "chmod 1777 /dev/shm")
    elif free < config.L1_BYTES_MIN + _TABLES_BYTES:
        yield _found(
            "error", "shared memory", f"{SHARED_MEMORY} has {_mib(free)} free of {_mib(total)}: no store can be opened",
            f"{enlarge}; or remove what fills it",
        )  # fmt: skip
    elif free * config.L1_SHARE_OF_FREE_SHM < config.L1_BYTES_DEFAULT:
        ring = int(free * config.L1_SHARE_OF_FREE_SHM)
        yield _found(
            "warning", "shared memory",
            f"{SHARED_MEMORY} has {_mib(free)} free of {_mib(total)}: a new ring gets {_mib(ring)} instead of "
            f"{_mib(config.L1_BYTES_DEFAULT)}",
            f"{enlarge}; or pass l1_bytes to open()",
        )  # fmt: skip


def _mib(count: int) -> str:
    return f"{count >> 20} MiB"


def _limits() -> Iterator[_Found]:
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    needed = config.L1_BYTES_DEFAULT + l2.MAP_BYTES_MIN
    if space != resource.RLIM_INFINITY and space < l2.MAP_BYTES_MAX + needed:
        severity: Severity = "error" if space < needed else "warning"
        yield _found(
            severity, "limits", f"address space is limited to {_mib(space)}: the database gets a smaller map, or none",
            "ulimit -v unlimited",
        )  # fmt: skip
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < _FILES_MIN:
        yield _found(
            "warning", "limits", f"a process may have {files} files open", f"ulimit -n {_FILES_MIN} or more"
        )
    size, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if size != resource.RLIM_INFINITY:
        yield _found("warning", "limits", f"files may have {_mib(size)} at most", "ulimit -f unlimited")


# ---- what stores that are gone have left -----------------------------------------------------------------


def _leftovers(path: str | os.PathLike[str] | None) -> Iterator[_Found]:
    own = _own_segment(path)
    others = [name for name in _names(SHARED_MEMORY) if _SEGMENT.fullmatch(name) and name != own]
    for name in others:
        with contextlib.suppress(OSError):  # it is gone, or not ours to open
            yield from _stale_segment(name)
    root = Path(os.path.realpath(tempfile.gettempdir()))
    stores = [name for name in _names(root) if name.lstrip(".").startswith(lifecycle.EPHEMERAL_PREFIX)]
    dead = [name for name in stores if _is_mine(root / name) and not _ephemeral_lives(root / name)]
    if dead:
        yield _found(
            "warning", "ephemeral stores", f"{len(dead)} in {root} belong to processes that are gone",
            "doctor --fix removes them", _sweep,
        )  # fmt: skip


def _sweep() -> None:
    lifecycle.sweep_ephemeral()


def _names(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _own_segment(path: str | os.PathLike[str] | None) -> str | None:
    if path is None:
        return None
    with contextlib.suppress(HeliosError):
        return lifecycle.identify(StorePaths.of(path)).segment_name.lstrip("/")
    return None


def _is_mine(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.lstat(path).st_uid == os.geteuid()
    return False


def _ephemeral_lives(root: Path) -> bool:
    if lifecycle.creator_lives(root.name.lstrip(".")):
        return True
    with contextlib.suppress(HeliosError):
        return lifecycle.is_in_use(StorePaths(root))
    return False


def survey(segment_name: str) -> Any | None:
    """What a segment in /dev/shm is (struct hs_survey); None: no segment, or none that can be read."""
    out = ffi.new("hs_survey *")
    name = "/" + segment_name.lstrip("/")
    return out if lib.hs_segment_survey(name.encode(), out) == lib.HS_OK else None


def processes_of(path: str | os.PathLike[str]) -> list[int]:
    """The processes that have a store open, as far as that can be told from here."""
    paths = StorePaths.of(path)
    found = survey(lifecycle.identify(paths).segment_name)
    if found is None:
        return []
    slots = [(found.slots[i], int(found.pids[i])) for i in range(found.participants)]
    return [pid for slot, pid in slots if lifecycle.slot_is_alive(paths, slot)]


def _stale_segment(name: str) -> Iterator[_Found]:
    """A segment that nobody has mapped, of a store that was not asked for."""
    path = SHARED_MEMORY / name
    status = os.lstat(path)
    if status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode):
        return
    with _unused(path) as unused:
        if not unused:
            return
    found = survey(name)
    what = (
        f"{path} ({_mib(status.st_blocks * 512)}) of store {uuids.UUID(hex=name[7:39])}: no process uses it"
    )
    if found is None or not found.is_own:
        layout = (
            "cannot be read" if found is None else f"has layout {found.layout_version}, another version's"
        )
        yield _found(
            "warning", "segment", f"{what}; it {layout}",
            f"if its store is gone, or was opened by another version that has ended, rm {path}",
        )  # fmt: skip
    elif _has_more(found):
        yield _found(
            "warning", "segment", f"{what}, and {_unpersisted(found)} are in it alone",
            "open its store once (helios-shm --store PATH status), which writes them to disk; if it is gone, "
            f"rm {path}",
        )  # fmt: skip
    else:
        yield _found(
            "warning", "segment", f"{what}, and it holds nothing that is not on disk", f"rm {path}, or doctor --fix",
            lambda: _remove_segment(path),
        )  # fmt: skip


def _has_more(found: Any) -> bool:
    """Has a segment what the disk has not, and should have?"""
    return bool(not found.ephemeral and (found.unpersisted_bytes or found.unpersisted_heads))


def _unpersisted(found: Any) -> str:
    return f"{found.unpersisted_bytes} bytes of commits and {found.unpersisted_heads} heads of branches"


def _remove_segment(path: Path) -> None:
    """Remove it unless something has changed since it was found."""
    with _unused(path) as unused:
        found = survey(path.name)
        if not unused or found is None or not found.is_own or _has_more(found):
            raise BlockingIOError(errno.EBUSY, "somebody uses it now", os.fspath(path))
        os.unlink(path)


@contextlib.contextmanager
def _unused(path: Path) -> Iterator[bool]:
    """Has nobody this file open for writing, or mapped so, in whatever container? While it is so, the lease by which
    the kernel says that (fcntl(2), F_SETLEASE) keeps out everybody who would."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        # Who opens it meanwhile has the kernel tell us, by a signal that means nothing instead of one that kills.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)  # and the lease with it


# ---- the store -------------------------------------------------------------------------------------------


def _store(paths: StorePaths) -> Iterator[_Found]:
    yield from _unfinished(paths)
    try:
        info_read(paths)
    except NotFoundError:
        yield _found("error", "store", f"there is no store at {paths.root}", "make one: helios-shm init")
        return
    except HeliosError as error:
        yield _found("error", "store", str(error), "use the version of helios_shm that made it, or a backup")
        return
    try:
        check_directory(paths.root)
    except HeliosError as error:
        yield _found(
            "error", "store", str(error), "run as the user who owns it, and have it on a disk of this machine"
        )
        return
    yield from _permissions(paths)
    yield from _disk(paths)
    yield from _segment(paths)
    yield from _leases(paths)
    yield from _coordinator(paths)
    yield from _locator(paths)


def _unfinished(paths: StorePaths) -> Iterator[_Found]:
    """Beside the store: what makers and removers of it left when they died."""
    making, gone = f".{paths.root.name}.creating-", f"{paths.root.name}.gone-"
    for name in _names(paths.root.parent):
        path = paths.root.parent / name
        if name.startswith(making) and _is_mine(path) and not _is_locked(path):
            yield _found(
                "warning", "leftovers", f"{path}: a store that was never finished", f"rm -r {path}, or doctor --fix",
                lambda path=path: shutil.rmtree(path),  # type: ignore[misc]
            )  # fmt: skip
        elif name.startswith(gone) and _is_mine(path):
            yield _found(
                "warning", "leftovers", f"{path}: a store that was being removed", f"rm -r {path}, or doctor --fix",
                lambda path=path: shutil.rmtree(path),  # type: ignore[misc]
            )  # fmt: skip


def _is_locked(directory: Path) -> bool:
    """Does its maker hold its lock, or may it not yet have taken it?"""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return not os.listdir(directory)
    except OSError:
        return True
    finally:
        os.close(fd)


def _permissions(paths: StorePaths) -> Iterator[_Found]:
    """Owner and mode of every directory and file: private to one user."""
    for directory, names, files in os.walk(paths.root):
        for name in [".", *files, *(each for each in names if os.path.islink(os.path.join(directory, each)))]:
            path = Path(directory) if name == "." else Path(directory, name)
            with contextlib.suppress(FileNotFoundError):
                yield from _permission(path, os.lstat(path), path.parent.parent == paths.blobs)
    if not lifecycle.is_writable(paths):
        yield _found(
            "note",
            "store",
            f"{paths.root} cannot be written",
            "open it with readonly=True, or make it writable",
        )


def _permission(path: Path, status: os.stat_result, is_blob: bool) -> Iterator[_Found]:
    mode = stat.S_IMODE(status.st_mode)
    wanted = 0o700 if stat.S_ISDIR(status.st_mode) else 0o400 if is_blob else 0o600
    if stat.S_ISLNK(status.st_mode):
        yield _found(
            "warning", "permissions", f"{path} is a symbolic link", "put in its place what it leads to"
        )
    elif status.st_uid != os.geteuid():
        yield _found(
            "error",
            "permissions",
            f"{path} belongs to user {status.st_uid}",
            f"chown -R {os.geteuid()} the store",
        )
    elif mode & 0o077 or mode & wanted != wanted:
        yield _found(
            "warning", "permissions", f"{path} has mode {mode:04o}, not {wanted:04o}",
            f"chmod {wanted:04o} it, or doctor --fix", lambda: os.chmod(path, wanted),
        )  # fmt: skip


def _disk(paths: StorePaths) -> Iterator[_Found]:
    status = os.statvfs(paths.root)
    free, total = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
    if status.f_bavail == 0 or (status.f_files and status.f_favail == 0):
        yield _found(
            "error", "disk", f"the file system of {paths.root} is full: nothing becomes durable",
            "make room there, then helios-shm gc",
        )  # fmt: skip
    elif free < min(_DISK_BYTES_MIN, total * _DISK_SHARE_MIN):
        yield _found(
            "warning",
            "disk",
            f"the file system of {paths.root} has {_mib(free)} free",
            "make room; helios-shm gc",
        )


# ---- its segment and who takes part ----------------------------------------------------------------------


def _segment(paths: StorePaths) -> Iterator[_Found]:
    identity = lifecycle.identify(paths)
    path = SHARED_MEMORY / identity.segment_name.lstrip("/")
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        if lifecycle.is_in_use(paths):
            yield _found(
                "error", "segment", "processes use the store whose shared memory is not in this /dev/shm",
                "end them: they are in another container, or their segment was removed",
            )  # fmt: skip
        return
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) != 0o600:
        mend = (lambda: os.chmod(path, 0o600)) if status.st_uid == os.geteuid() else None
        yield _found(
            "error", "segment", f"{path} belongs to user {status.st_uid}, with mode {stat.S_IMODE(status.st_mode):04o}",
            f"chown {os.geteuid()} and chmod 0600 it", mend,
        )  # fmt: skip
    found = survey(identity.segment_name)
    if found is None:
        yield _found("error", "segment", f"{path} is no segment", f"end what uses the store, then rm {path}")
    elif not found.is_own:
        yield _found(
            "error", "segment",
            f"{path} has layout {found.layout_version} (fingerprint {found.fingerprint:08x}); this version has "
            f"{found.own_layout_version} (fingerprint {found.own_fingerprint:08x})",
            "end the processes of the other version, which write what is in it to disk; or use that version",
        )  # fmt: skip
    elif bytes(found.boot_id) != identity.boot_id:
        yield _found(
            "error", "segment", f"{path} was made on another boot of this machine, or on another",
            f"it is of no use: if nothing uses the store, rm {path}",
        )  # fmt: skip
    else:
        yield from _taking_part(paths, found)


def _taking_part(paths: StorePaths, found: Any) -> Iterator[_Found]:
    if lifecycle.is_in_use(paths) and found.pid_namespace not in (0, found.own_pid_namespace):
        yield _found(
            "error", "segment", "the store is in use in another PID namespace (container)",
            "use it there, or end what uses it",
        )  # fmt: skip
        return
    living = processes_of(paths.root)
    dead = [pid for pid in found.pids[0 : found.participants] if pid not in living]
    coordinated = lifecycle.coordinator_runs(paths)
    if dead:
        yield _dead(paths, dead, coordinated)
    for pid in living:
        if _is_stopped(pid):
            what = f"process {pid} is stopped and keeps its chunk of the ring"
            yield _found("warning", "participants", what, f"kill -CONT {pid}")
    if not coordinated:
        yield from _uncoordinated(paths, found, bool(living))


def _dead(paths: StorePaths, pids: list[int], coordinated: bool) -> _Found:
    what = f"processes that died have slots: {', '.join(map(str, pids))}"
    if coordinated:
        return _found("note", "participants", what, "the coordinator frees them at its next round")
    return _found("warning", "participants", what, "opening the store frees them", _opening(paths))


def _uncoordinated(paths: StorePaths, found: Any, is_used: bool) -> Iterator[_Found]:
    """Nobody writes to disk just now. Whoever uses the store starts somebody when it waits, or now and then."""
    open_it = "open the store once (helios-shm status), or doctor --fix"
    if _has_more(found):
        what = f"nobody writes {_unpersisted(found)} to disk"
        yield _found("note" if is_used else "warning", "coordinator", what, open_it, _opening(paths))
    elif not is_used:
        what = "nobody uses the store, and its shared memory is still there"
        yield _found("warning", "segment", what, open_it, _opening(paths))


def _is_stopped(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP))
    return False


def _opening(paths: StorePaths) -> Callable[[], None]:
    """Open and close the store: its coordinator frees what the dead held, writes what is left and goes."""

    def open_once() -> None:
        with open_engine(paths.root, create=False) as engine:
            engine.sync(config.DURABLE_DEADLINE)

    return open_once


def _leases(paths: StorePaths) -> Iterator[_Found]:
    """Tables of what processes hold (csrc/hs_lease.h) whose processes have died. They keep nothing."""
    dead = [name for name in _names(paths.leases) if _is_free(paths.leases / name)]
    if dead:
        yield _found(
            "note", "leases", f"{len(dead)} tables in {paths.leases} are of processes that died",
            "the coordinator removes them, or doctor --fix", lambda: drop_dead(paths.leases),
        )  # fmt: skip


def _is_free(path: Path) -> bool:
    """Does nobody hold this file's lock?"""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


# ---- its coordinator and its locator ---------------------------------------------------------------------


def _coordinator(paths: StorePaths) -> Iterator[_Found]:
    reason = lifecycle.coordinator_error(paths)
    if reason is not None:
        running = (
            "the coordinator cannot write"
            if lifecycle.coordinator_runs(paths)
            else "the last coordinator failed"
        )
        yield _found("error", "coordinator", f"{running}: {reason}", f"mend that; see {paths.log}")
    told = [line for line in _log_end(paths) if " ERROR " in line]
    if told:
        yield _found(
            "note", "coordinator", f"its log has errors, the last: {told[-1].strip()}", f"see {paths.log}"
        )
    found = survey(lifecycle.identify(paths).segment_name)
    pid = int(found.coordinator_pid) if found is not None else 0
    if pid and lifecycle.coordinator_runs(paths) and _is_stopped(pid):
        yield _found(
            "error", "coordinator", f"process {pid} is stopped: nothing becomes durable", f"kill -CONT {pid}"
        )


def _log_end(paths: StorePaths) -> list[str]:
    try:
        with open(paths.log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_BYTES))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def _locator(paths: StorePaths) -> Iterator[_Found]:
    if not paths.locator.exists():
        return  # a store that nobody has written to, or one whose next coordinator builds it
    try:
        table = l2.Locator.open(paths.locator, writable=False)
    except HeliosError as error:
        yield _found("error", "locator", str(error), "helios-shm check --repair")
        return
    if table is None:
        yield _found(
            "warning", "locator", f"{paths.locator} cannot be used: what only the disk has is found slowly",
            "helios-shm check --repair, or doctor --fix: it is built anew from the packs",
            lambda: _renew_locator(paths),
        )  # fmt: skip


def _renew_locator(paths: StorePaths) -> None:
    """Ask the coordinator for a new one: the file holds nothing that the packs do not."""
    paths.locator_damaged.touch(0o600)
    _opening(paths)()
