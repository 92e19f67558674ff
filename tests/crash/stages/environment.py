"""Places where a store cannot be, or hardly: each answers with a clear typed error, or with correct work.

    stage --fork--> case: its own directory; its own mount and pid namespaces, limits, user where it asks for them
      ^               |--spawns--> coordinators, which inherit all of that
      `----- pipe ----'    "good", "skipped: why", or what was promised and what was found

A case fails by what it says, by any exception that it did not expect, by a signal (SIGBUS above all), and by silence:
after SECONDS_MAX it is killed, and has hung. When all are over, nothing may be left: no coordinator, no segment, no
half-made store.

Proves what a process of one user meets on one machine. Needs root for namespaces, mounts and other users: without it
those cases are counted as skipped. Network file systems are faked (statfs is asked, and its answer called one), and
so is the clock (a preloaded clock_gettime). Does not prove anything about a hostile process of the same user: whoever
may truncate a file that others have mapped may kill them.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helios_shm
from helios_shm import lifecycle, store
from helios_shm.errors import (
    BusyError,
    CapacityError,
    FormatError,
    HeliosError,
    NotFoundError,
    ReadOnlyError,
    StoreError,
)
from helios_shm.store import StorePaths
from tests.crash.stage import Outcome, Run
from tests.crash.tree import Mutant
from tests.processes import rig
from tests.programs import untraced

TITLE = "environment"
SECONDS = 16.0
SECONDS_MAX = 20.0
# What a program that waits for something waits at most.
PATIENCE = 10.0
AT_ONCE = 3

MIB = 1 << 20
RING = 4 * MIB
NOBODY = 65534
SHM = Path("/dev/shm")

MUTANTS = (
    Mutant(
        "memory that does not exist",
        "csrc/hs_segment.c",
        "    do error = posix_fallocate(fd, (off_t)offset, (off_t)size);\n    while (error == EINTR);\n",
        "    (void)fd, (void)offset, (void)size;\n    error = 0;\n",
        "on a full /dev/shm the first touch of a page is SIGBUS",
    ),
    Mutant(
        "directory for all to enter",
        "helios_shm/lifecycle.py",
        "    os.chmod(paths.root, 0o700)\n",
        "    os.chmod(paths.root, 0o755)\n",
        "what a store holds is its user's",
    ),
    Mutant(
        "owner not asked",
        "csrc/hs_segment.c",
        "file.st_uid != geteuid() || ",
        "",
        "who puts a file in the segment's place could read and change all",
    ),
    Mutant(
        "modes left to the umask",
        "helios_shm/blobs.py",
        "        os.fchmod(fd, mode)\n",
        "",
        "a large value's file is its user's alone, and read-only",
    ),
    Mutant(
        "another user's store",
        "helios_shm/store.py",
        "    if status.st_uid != os.geteuid():\n",
        "    if status.st_uid < 0:\n",
        "a store is one user's: two could not share its segment",
    ),
)
# The case that finds a seeded bug is done first.
_FINDS = {
    "memory that does not exist": "full /dev/shm",
    "directory for all to enter": "modes under any umask",
    "owner not asked": "segment's name taken by another user's file",
    "modes left to the umask": "modes under any umask",
    "another user's store": "store of another user",
}


class Skip(Exception):
    """This machine, or this user, cannot make the case."""


@dataclass(frozen=True)
class Case:
    name: str
    body: Callable[[Path], None]
    root: bool


CASES: list[Case] = []


def case(name: str, *, root: bool = False) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    def add(body: Callable[[Path], None]) -> Callable[[Path], None]:
        CASES.append(Case(name, body, root))
        return body

    return add


# ---- what is promised ------------------------------------------------------------------------------------


def refused(
    kind: type[BaseException] | tuple[type[BaseException], ...], names: object, act: Callable[[], Any]
) -> None:
    """It raises one of these, and the message names the object."""
    try:
        act()
    except kind as error:
        assert str(names) in str(error), f"{type(error).__name__} does not name {names}: {error}"
        return
    raise AssertionError(f"nothing was raised where {kind} was expected")


def works(path: Path, **options: Any) -> None:
    """The store takes commits, makes them durable, and has them when it is opened again."""
    key = os.urandom(8).hex()
    with helios_shm.open(path, **({"l1_bytes": RING} | options)) as engine:
        commit(engine, key, b"v" * 300)
        engine.sync(timeout=PATIENCE)
    with helios_shm.open(path, **({"l1_bytes": RING} | options)) as engine:
        assert engine.branch("main").head[key] == b"v" * 300


class _Unsynced:
    """An engine whose end waits for nothing: where writing may be what fails."""

    def __init__(self, paths: StorePaths) -> None:
        self.engine = helios_shm.open(paths.root, l1_bytes=RING)

    def close(self) -> None:
        self.engine.close(sync=False)


def cannot_open(
    kind: type[BaseException] | tuple[type[BaseException], ...], names: object, path: Path
) -> None:
    refused(kind, names, lambda: helios_shm.open(path, l1_bytes=RING))


def commit(engine: helios_shm.Engine, key: str, value: bytes) -> None:
    workspace = engine.branch("main").fork()
    workspace[key] = value
    workspace.commit()


def holds(engine: helios_shm.Engine, keys: dict[str, bytes]) -> None:
    head = engine.branch("main").head
    lost = [key for key, value in keys.items() if head.get(key) != value]
    assert not lost, f"{len(lost)} of {len(keys)} acknowledged commits are lost, {lost[0]} among them"


def made(path: Path) -> StorePaths:
    """A new store that nobody has opened yet."""
    return lifecycle.open_store(path, create=True)


def segment_of(paths: StorePaths) -> Path:
    return SHM / lifecycle.identify(paths).segment_name.lstrip("/")


def until(what: str, is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.01)


# ---- other places ----------------------------------------------------------------------------------------

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _CLONE_NEWPID = 0x20000, 0x20000000
_MS_RDONLY, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 8, 32, 4096, 16384, 1 << 18


def _system(done: int, what: str) -> None:
    if done != 0:
        raise Skip(f"{what}: {os.strerror(ctypes.get_errno())}")


def mount(kind: str, where: Path, options: str = "", flags: int = 0, source: str = "none") -> None:
    arguments = [source.encode(), os.fsencode(where), kind.encode()]
    _system(_libc.mount(*arguments, ctypes.c_ulong(flags), options.encode()), f"mount {kind} on {where}")


def own_mounts() -> None:
    """From here on, what this process and its children mount is theirs alone."""
    _system(_libc.unshare(_CLONE_NEWNS), "unshare mounts")
    mount("none", Path("/"), flags=_MS_REC | _MS_PRIVATE)


def own_shm(options: str, flags: int = 0) -> None:
    own_mounts()
    mount("tmpfs", SHM, options, flags)


def fill(path: Path) -> None:
    """Take all room that a file system has left."""
    with open(path, "wb", buffering=0) as file:
        for size in (MIB, 4096):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass


def become(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def without_privileges() -> None:
    """From here on modes bind this process and its children as they bind everybody; it stays the user it is."""
    header, data = _CapHeader(0x20080522, 0), (_CapData * 2)()
    _system(_libc.capget(ctypes.byref(header), data), "capget")
    for number in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        _system(_libc.prctl(24, number, 0, 0, 0), "PR_CAPBSET_DROP")
        data[0].effective &= ~(1 << number)
        data[0].permitted &= ~(1 << number)
    data[0].inheritable = data[1].inheritable = 0
    _system(_libc.capset(ctypes.byref(header), data), "capset")


def someone_elses_directory(directory: Path) -> Path:
    """A directory in which nobody can work, reached through ones that all may pass."""
    for above in (directory, *directory.parents):
        if above.stat().st_uid == os.geteuid() and not above.stat().st_mode & 0o001:
            above.chmod(above.stat().st_mode | 0o711)
    place = directory / "of-nobody"
    place.mkdir()
    os.chown(place, NOBODY, NOBODY)
    return place


def in_child(body: Callable[[], None]) -> None:
    """Do it in a process of its own; what it raises is raised here."""
    outcome = _Child(body)
    text = outcome.wait(SECONDS_MAX)
    if text != "good":
        raise AssertionError(text)


# ---- shared memory ---------------------------------------------------------------------------------------


@case("tiny /dev/shm", root=True)
def _tiny_shm(directory: Path) -> None:
    own_shm("size=1m")
    refused(CapacityError, SHM, lambda: helios_shm.open(directory / "store"))
    refused(CapacityError, SHM, lambda: helios_shm.open(directory / "store", l1_bytes=RING))
    assert not list(SHM.iterdir()), "a refused segment is left behind"


@case("/dev/shm smaller than the ring", root=True)
def _small_shm(directory: Path) -> None:
    own_shm("size=8m")
    with helios_shm.open(directory / "store", l1_bytes=64 * MIB) as engine:
        kept = {str(n): os.urandom(100 << 10) for n in range(60)}
        for key, value in kept.items():
            commit(engine, key, value)
        holds(engine, kept)


@case("full /dev/shm", root=True)
def _full_shm(directory: Path) -> None:
    own_shm("size=32m")
    fill(SHM / "filler")
    refused(CapacityError, SHM, lambda: helios_shm.open(directory / "store", l1_bytes=RING))
    (SHM / "filler").unlink()
    works(directory / "store")


@case("/dev/shm that fills up in use", root=True)
def _filling_shm(directory: Path) -> None:
    own_shm("size=24m")
    with helios_shm.open(directory / "store", l1_bytes=64 * MIB) as engine:
        kept = {str(n): os.urandom(100 << 10) for n in range(80)}
        for count, (key, value) in enumerate(kept.items()):
            if count == 10:
                fill(SHM / "filler")
            commit(engine, key, value)
        (SHM / "filler").unlink()
        engine.sync(timeout=PATIENCE)
        holds(engine, kept)


@case("no /dev/shm", root=True)
def _no_shm(directory: Path) -> None:
    own_mounts()
    mount("tmpfs", Path("/dev"), "size=1m")
    for name, minor in (("null", 3), ("zero", 5), ("urandom", 9)):
        os.mknod(f"/dev/{name}", 0o666 | stat.S_IFCHR, os.makedev(1, minor))
    refused(StoreError, SHM, lambda: helios_shm.open(directory / "store"))
    refused(StoreError, directory / "store", lambda: helios_shm.open(directory / "store", l1_bytes=RING))


@case("/dev/shm that cannot be written", root=True)
def _readonly_shm(directory: Path) -> None:
    own_shm("size=32m", _MS_RDONLY)
    refused(HeliosError, directory / "store", lambda: helios_shm.open(directory / "store", l1_bytes=RING))


@case("/dev/shm mounted noexec", root=True)
def _noexec_shm(directory: Path) -> None:
    own_shm("size=32m", _MS_NOEXEC)
    works(directory / "store")


# ---- disks -----------------------------------------------------------------------------------------------


@case("disk full when a store is made", root=True)
def _full_disk_at_start(directory: Path) -> None:
    own_mounts()
    mount("tmpfs", directory, "size=64k")
    fill(directory / "filler")
    refused(CapacityError, directory, lambda: helios_shm.open(directory / "store"))
    assert os.listdir(directory) == ["filler"], f"a store that was not made left {os.listdir(directory)}"


@case("disk that fills up in use", root=True)
def _full_disk(directory: Path) -> None:
    own_mounts()
    mount("tmpfs", directory, "size=8m")
    path = directory / "store"
    kept: dict[str, bytes] = {}
    with helios_shm.open(path, l1_bytes=16 * MIB) as engine:
        commit(engine, "first", b"1" * 1000)
        engine.sync(timeout=PATIENCE)
        fill(directory / "filler")
        for n in range(20):
            kept[str(n)] = os.urandom(50 << 10)
            commit(engine, str(n), kept[str(n)])
        refused((BusyError, CapacityError), "No space left", lambda: engine.sync(timeout=1.0))
        refused(CapacityError, "No space left", lambda: commit(engine, "large", os.urandom(MIB)))
        holds(engine, kept)
        (directory / "filler").unlink()
        engine.sync(timeout=PATIENCE)
    with helios_shm.open(path, l1_bytes=RING) as engine:
        holds(engine, kept)


@case("read-only file system", root=True)
def _readonly_file_system(directory: Path) -> None:
    path = directory / "store"
    works(path)
    until("the coordinator leaves", lambda: rig.is_uncoordinated(path))
    own_mounts()
    mount("none", directory, flags=_MS_BIND, source=str(directory))
    mount("none", directory, flags=_MS_BIND | _MS_REMOUNT | _MS_RDONLY)
    refused(ReadOnlyError, path, lambda: helios_shm.open(path))
    refused(ReadOnlyError, directory / "new", lambda: helios_shm.open(directory / "new"))
    with helios_shm.open(path, readonly=True) as engine:
        assert len(engine.branch("main").head) == 1
        refused(ReadOnlyError, path, lambda: commit(engine, "k", b""))


@case("directory that cannot be written", root=True)
def _readonly_directory(directory: Path) -> None:
    place = directory / "place"
    place.mkdir()
    without_privileges()
    works(place / "store")
    until("the coordinator leaves", lambda: rig.is_uncoordinated(place / "store"))
    (place / "store").chmod(0o500)
    refused(ReadOnlyError, place / "store", lambda: helios_shm.open(place / "store"))
    with helios_shm.open(place / "store", readonly=True) as engine:
        assert len(engine.branch("main").head) == 1
    place.chmod(0o500)
    refused(StoreError, place / "new", lambda: helios_shm.open(place / "new"))
    place.chmod(0o700)
    (place / "store").chmod(0o700)
    works(place / "store")


@case("network file system")
def _network(directory: Path) -> None:
    kind = store._file_system_kind(directory)
    store._NETWORK_FILE_SYSTEMS[kind] = "NFS"
    refused(FormatError, "NFS", lambda: helios_shm.open(directory / "store"))
    del store._NETWORK_FILE_SYSTEMS[kind]
    made(directory / "store")
    store._NETWORK_FILE_SYSTEMS[kind] = "NFS"
    refused(FormatError, directory / "store", lambda: helios_shm.open(directory / "store"))
    assert os.listdir(directory) == ["store"], "a refusal leaves something"


# ---- limits ----------------------------------------------------------------------------------------------


@case("little address space")
def _little_address_space(directory: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    works(directory / "store")


@case("no address space")
def _no_address_space(directory: Path) -> None:
    paths = made(directory / "store")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for more in (8 * MIB, 100 * MIB, 300 * MIB):
        resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.RLIM_INFINITY))
        with (
            contextlib.suppress(CapacityError, MemoryError, BusyError),
            contextlib.closing(_Unsynced(paths)) as opened,
        ):
            commit(opened.engine, "k", b"v")
            opened.engine.sync(timeout=1.0)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    works(paths.root)


@case("limited size of files")
def _file_size(directory: Path) -> None:
    paths = made(directory / "store")
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 << 10, resource.RLIM_INFINITY))
    refused(CapacityError, paths.root, lambda: helios_shm.open(paths.root, l1_bytes=RING))
    resource.setrlimit(resource.RLIMIT_FSIZE, (32 * MIB, resource.RLIM_INFINITY))  # more than the segment
    with helios_shm.open(paths.root, l1_bytes=RING) as engine:
        refused(CapacityError, "File too large", lambda: commit(engine, "large", bytes(33 * MIB)))
        commit(engine, "k", b"v")
        engine.sync(timeout=PATIENCE)
        assert dict(engine.branch("main").head) == {"k": b"v"}


@case("no descriptors left")
def _descriptors(directory: Path) -> None:
    paths = made(directory / "store")
    for spare in range(0, 12, 3):
        held = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096))
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        for fd in held[:spare]:
            os.close(fd)
        try:
            helios_shm.open(paths.root, l1_bytes=RING).close(sync=False)
        except (StoreError, OSError) as error:
            assert "Too many open files" in str(error), f"{type(error).__name__}: {error}"
            assert isinstance(error, HeliosError), f"a bare {type(error).__name__}: {error}"
        finally:
            for fd in held[spare:]:
                os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    works(paths.root)


# ---- modes and users -------------------------------------------------------------------------------------


def modes_are_private(paths: StorePaths) -> None:
    segment = segment_of(paths)
    expected = {segment: 0o600, paths.root: 0o700}
    for name in ("data.mdb", "lock.mdb"):
        expected[paths.db / name] = 0o600
    for found in paths.root.rglob("*"):
        if found.is_dir():
            expected[found] = 0o700
        else:
            expected[found] = 0o400 if paths.blobs in found.parents else 0o600
    wrong = {
        str(file): oct(file.stat().st_mode & 0o7777)
        for file, mode in expected.items()
        if stat.S_IMODE(file.stat().st_mode) != mode
    }
    assert not wrong, f"modes are wrong: {wrong}"
    assert len(expected) > 10, f"too little was looked at: {sorted(map(str, expected))}"


@case("modes under any umask", root=True)
def _modes(directory: Path) -> None:
    for umask in (0o000, 0o777):
        os.umask(umask)
        path = directory / f"store-{umask:o}"
        with helios_shm.open(path, l1_bytes=RING) as engine:
            commit(engine, "small", b"v")
            commit(engine, "large", os.urandom(300 << 10))
            engine.sync(timeout=PATIENCE)
            lifecycle_files = StorePaths.of(path)
            (path / "coordinator.error").unlink(missing_ok=True)
            until("the locator is there", lifecycle_files.locator.exists)
            modes_are_private(lifecycle_files)


@case("a umask that forbids everything", root=True)
def _umask_of_nobody(directory: Path) -> None:
    without_privileges()
    os.umask(0o777)
    with helios_shm.open(directory / "store", l1_bytes=RING) as engine:
        commit(engine, "large", os.urandom(300 << 10))
        engine.sync(timeout=PATIENCE)
        assert len(engine.branch("main").head["large"]) == 300 << 10


@case("store of another user", root=True)
def _other_user(directory: Path) -> None:
    place = someone_elses_directory(directory)
    mine = made(directory / "mine")
    segment = segment_of(mine)

    def as_nobody() -> None:
        become(NOBODY)
        for file in (mine.root / "helios.json", mine.db / "data.mdb", segment):
            refused(PermissionError, file, file.read_bytes)
        refused(StoreError, mine.root, lambda: helios_shm.open(mine.root))
        refused(StoreError, mine.root, lambda: helios_shm.open(mine.root, readonly=True))
        made(place / "theirs")

    with helios_shm.open(mine.root, l1_bytes=RING) as engine:
        commit(engine, "k", b"v")
        in_child(as_nobody)
        refused(StoreError, "belongs to user", lambda: helios_shm.open(place / "theirs"))
        engine.sync(timeout=PATIENCE)


# ---- names that others have taken ------------------------------------------------------------------------


def with_segment(paths: StorePaths, put: Callable[[Path], None]) -> None:
    """What stands under the segment's name is refused, named, and stays as it was."""
    segment = segment_of(paths)
    put(segment)
    before = os.lstat(segment)
    try:
        refused(FormatError, segment, lambda: helios_shm.open(paths.root, l1_bytes=RING))
        after = os.lstat(segment)
        same = (before.st_ino, before.st_mode, before.st_size, before.st_mtime_ns)
        assert same == (after.st_ino, after.st_mode, after.st_size, after.st_mtime_ns), "it was changed"
    finally:
        segment.rmdir() if segment.is_dir() and not segment.is_symlink() else segment.unlink()
    assert not rig.coordinators(paths.root), "a coordinator was started for a store that cannot be opened"


@case("segment's name taken by something else")
def _segment_name(directory: Path) -> None:
    paths = made(directory / "store")
    victim = directory / "victim"
    victim.write_bytes(bytes(64 << 10))
    victim.chmod(0o600)

    def file_of(size: int, mode: int) -> Callable[[Path], None]:
        def put(segment: Path) -> None:
            segment.write_bytes(bytes(size))
            segment.chmod(mode)

        return put

    for size, mode in ((0, 0o600), (100, 0o600), (8 * MIB, 0o600), (8 * MIB, 0o666)):
        with_segment(paths, file_of(size, mode))
    with_segment(paths, lambda segment: segment.symlink_to(victim))
    with_segment(paths, lambda segment: segment.symlink_to(directory / "nowhere"))
    with_segment(paths, lambda segment: segment.mkdir(0o700))
    with_segment(paths, lambda segment: os.mkfifo(segment, 0o600))
    assert victim.read_bytes() == bytes(64 << 10), "a symbolic link was followed and written to"


@case("segment's name taken by another user's file", root=True)
def _segment_of_other_user(directory: Path) -> None:
    paths = made(directory / "store")
    with helios_shm.open(paths.root, l1_bytes=RING) as engine:
        whole = segment_of(paths).read_bytes()
        commit(engine, "k", b"v")
    until("the coordinator leaves", lambda: rig.is_uncoordinated(paths.root))

    def put(segment: Path) -> None:
        segment.write_bytes(whole)
        segment.chmod(0o600)
        os.chown(segment, NOBODY, NOBODY)

    with_segment(paths, put)
    works(paths.root)


@case("segment of another boot, layout or size")
def _foreign_segments(directory: Path) -> None:
    paths = made(directory / "store")
    with helios_shm.open(paths.root, l1_bytes=RING) as engine:
        whole = segment_of(paths).read_bytes()
        commit(engine, "k", b"v")
    until("the coordinator leaves", lambda: rig.is_uncoordinated(paths.root))

    def changed(at: int, size: int) -> Callable[[Path], None]:
        def put(segment: Path) -> None:
            data = bytearray(whole)
            data[at : at + size] = bytes(byte ^ 0x5A for byte in data[at : at + size])
            segment.write_bytes(data)
            segment.chmod(0o600)

        return put

    # magic, layout version, fingerprint, store, boot, device, inode, size, chunks: docs/FORMAT.md and hs_layout.h
    for at, size in (
        (0, 8),
        (8, 4),
        (12, 4),
        (16, 16),
        (32, 16),
        (48, 8),
        (56, 8),
        (88, 8),
        (144, 4),
        (148, 4),
    ):
        with_segment(paths, changed(at, size))

    def halved(segment: Path) -> None:
        segment.write_bytes(whole[: len(whole) // 2])
        segment.chmod(0o600)

    with_segment(paths, halved)
    works(paths.root)


@case("lock files that are none")
def _lock_files(directory: Path) -> None:
    victim = directory / "victim"
    victim.write_bytes(b"victim")
    for name in ("gate", "coordinator", "start", "participants"):
        paths = made(directory / name)
        lock = paths.locks / name
        lock.unlink()
        lock.symlink_to(victim)
        cannot_open(StoreError, lock, paths.root)
        lock.unlink()
        lock.mkdir()
        cannot_open(StoreError, lock, paths.root)
        lock.rmdir()
        lock.touch(0o600)
        if name == "start":  # the segment was there before the coordinator could be started
            works(paths.root)
    assert victim.read_bytes() == b"victim"


@case("pipes in the place of files")
def _pipes(directory: Path) -> None:
    for name in ("gate", "coordinator", "start", "participants"):
        paths = made(directory / name)
        (paths.locks / name).unlink()
        os.mkfifo(paths.locks / name, 0o600)
        _works_or_refuses(paths)
    for name in ("coordinator.log", "coordinator.error", "locator"):
        paths = made(directory / name.replace(".", "-"))
        os.mkfifo(paths.root / name, 0o600)
        _works_or_refuses(paths)
    paths = made(directory / "info")
    paths.info.unlink()
    os.mkfifo(paths.info, 0o600)
    cannot_open(FormatError, paths.info, paths.root)
    _pipe_for_a_value(directory / "whole")


def _works_or_refuses(paths: StorePaths) -> None:
    with contextlib.suppress(StoreError, BusyError), contextlib.closing(_Unsynced(paths)) as opened:
        commit(opened.engine, "k", b"v")
        opened.engine.sync(timeout=1.0)
        return
    # It was refused, and a segment may wait for a coordinator that can be started.
    until("nobody is there", lambda: not rig.coordinators(paths.root))
    segment_of(paths).unlink(missing_ok=True)


def _pipe_for_a_value(path: Path) -> None:
    with helios_shm.open(path, l1_bytes=RING) as engine:
        commit(engine, "large", os.urandom(300 << 10))
        engine.sync(timeout=PATIENCE)
        blob = next(found for found in (path / "blobs").rglob("*") if found.is_file())
        blob.unlink()
        os.mkfifo(blob, 0o600)
        head = engine.branch("main").head
        refused(HeliosError, blob, lambda: head["large"])


@case("a description that never ends")
def _endless_description(directory: Path) -> None:
    for name in ("zero", "sparse"):
        root = directory / name
        root.mkdir()
        if name == "zero":
            (root / "helios.json").symlink_to("/dev/zero")
        else:
            with open(root / "helios.json", "wb") as file:
                file.truncate(1 << 40)
        cannot_open(StoreError, root, root)


@case("paths that are no store")
def _paths(directory: Path) -> None:
    file = directory / "file"
    file.write_bytes(b"content")
    refused(FormatError, file, lambda: helios_shm.open(file))
    refused(FormatError, file / "below", lambda: helios_shm.open(file / "below"))
    other = directory / "other"
    other.mkdir()
    (other / "mine").write_bytes(b"")
    refused(FormatError, other, lambda: helios_shm.open(other))
    refused(NotFoundError, directory / "none", lambda: helios_shm.open(directory / "none", create=False))
    refused(HeliosError, "too long", lambda: helios_shm.open(directory / ("n" * 300)))
    loop = directory / "loop"
    loop.symlink_to(loop)
    refused(HeliosError, loop, lambda: helios_shm.open(loop))
    (directory / "link").symlink_to(directory / "real")
    works(directory / "link")
    assert (directory / "real" / "helios.json").exists()
    assert file.read_bytes() == b"content" and os.listdir(other) == ["mine"]


@case("another format on disk")
def _format(directory: Path) -> None:
    paths = made(directory / "store")
    whole = json.loads(paths.info.read_text())
    for changed in ({"format": 2}, {"format": "1"}, {"uuid": "00"}, {"uuid": None}):
        paths.info.write_text(json.dumps({"helios_shm": whole["helios_shm"] | changed}))
        refused(FormatError, paths.info, lambda: helios_shm.open(paths.root, l1_bytes=RING))
    for text in ("", "[]", "{}", "null", "\0", "[" * 100_000):
        paths.info.write_text(text)
        refused(FormatError, paths.info, lambda: helios_shm.open(paths.root, l1_bytes=RING))
    paths.info.write_text(json.dumps(whole))
    (paths.db / "data.mdb").write_bytes(b"not LMDB's" * 1000)
    refused(StoreError, paths.db, lambda: helios_shm.open(paths.root, l1_bytes=RING))


# ---- copies and moves ------------------------------------------------------------------------------------


def copy(path: Path, to: Path) -> None:
    subprocess.run(["cp", "-a", str(path), str(to)], check=True)


@case("copied store")
def _copied(directory: Path) -> None:
    with helios_shm.open(directory / "a", l1_bytes=RING) as a:
        commit(a, "common", b"1")
        a.sync(timeout=PATIENCE)
        copy(directory / "a", directory / "b")  # while it is open
        with helios_shm.open(directory / "b", l1_bytes=RING) as b:
            holds(b, {"common": b"1"})
            commit(a, "a", b"2")
            commit(b, "b", b"3")
            assert dict(a.branch("main").head) == {"common": b"1", "a": b"2"}
            assert dict(b.branch("main").head) == {"common": b"1", "b": b"3"}
    until("all coordinators leave", lambda: all(rig.is_uncoordinated(directory / name) for name in "ab"))
    copy(directory / "b", directory / "c")  # while it is closed
    with helios_shm.open(directory / "c", l1_bytes=RING) as c:
        holds(c, {"common": b"1", "b": b"3"})


@case("moved store")
def _moved(directory: Path) -> None:
    before, after = directory / "before", directory / "after"
    with helios_shm.open(before, l1_bytes=RING) as engine:
        commit(engine, "k", b"1")
        engine.sync(timeout=PATIENCE)
        before.rename(after)  # while it is open
        acknowledged = {"k": b"1"}
        with contextlib.suppress(HeliosError):
            commit(engine, "late", b"2")
            acknowledged["late"] = b"2"
            engine.sync(timeout=1.0)
        engine.close(sync=False)
    until("the coordinator leaves", lambda: not lifecycle.coordinator_runs(StorePaths(after)))
    with helios_shm.open(after, l1_bytes=RING) as engine:
        holds(engine, acknowledged)
    until("the coordinator leaves", lambda: rig.is_uncoordinated(after))
    after.rename(before)  # while it is closed
    with helios_shm.open(before, l1_bytes=RING) as engine:
        holds(engine, acknowledged)


# ---- other namespaces, other times -----------------------------------------------------------------------


@case("another pid namespace", root=True)
def _pid_namespace(directory: Path) -> None:
    path = directory / "store"

    def inside(body: Callable[[], None]) -> None:
        """In a namespace whose first process this is: it takes all others with it."""

        def enter() -> None:
            _system(_libc.unshare(_CLONE_NEWPID), "unshare pids")
            in_child(body)

        in_child(enter)

    def refused_inside() -> None:
        refused(FormatError, path, lambda: helios_shm.open(path, l1_bytes=RING))

    def commits_inside() -> None:
        engine = helios_shm.open(path, l1_bytes=RING)
        commit(engine, "inside", b"2")  # and dies, with its coordinator, when this process ends

    def lives_here() -> None:
        with helios_shm.open(path, l1_bytes=RING) as engine:
            commit(engine, "k", b"1")
            engine.sync(timeout=PATIENCE)
            # A forked child stays a participant only where its parent is one.
            inside(lambda: refused(FormatError, path, lambda: commit(engine, "forked", b"")))
            os.write(ready[1], b"1")
            os.read(go[0], 1)
            commit(engine, "l", b"1")

    ready, go = os.pipe(), os.pipe()
    here = _Child(lives_here)
    os.close(ready[1])
    assert os.read(ready[0], 1), here.wait(SECONDS_MAX)
    inside(refused_inside)
    os.write(go[1], b"1")
    said = here.wait(SECONDS_MAX)
    assert said == "good", said
    until("nobody is there", lambda: rig.is_uncoordinated(path))
    inside(commits_inside)
    with helios_shm.open(path, l1_bytes=RING) as engine:
        holds(engine, {"k": b"1", "l": b"1", "inside": b"2"})


_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
static long shift(void) { struct stat s; return stat(getenv("CLOCK_SHIFTED"), &s) == 0 ? s.st_size : 0; }
int clock_gettime(clockid_t id, struct timespec *out) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(id, out);
    if (done == 0 && id == CLOCK_REALTIME) out->tv_sec -= shift();
    return done;
}
time_t time(time_t *out) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (out) *out = t.tv_sec;
    return t.tv_sec;
}
"""

_CLOCK_PROGRAM = """
import os, sys, time, helios_shm
path, shifted = sys.argv[1:]
with helios_shm.open(path, l1_bytes=4 << 20) as engine:
    branch = engine.branch("main")
    for round, back in enumerate((0, 40_000_000, 3_000_000_000, 0)):
        with open(shifted, "wb") as file:
            file.truncate(back)
        ws = branch.fork()
        ws[str(round)] = b"v"
        ws.commit(durable=True)
    assert [record.sequence for record in branch.log()] == [4, 3, 2, 1]
    times = [record.time for record in branch.log()]
    assert len(branch.head) == 4 and times[1] < times[2] < times[3] <= times[0], times
print("good")
"""


@case("clock set back")
def _clock(directory: Path) -> None:
    source, made_, shifted = (directory / name for name in ("clock.c", "clock.so", "shifted"))
    source.write_text(_CLOCK)
    shifted.write_bytes(b"")
    if shutil.which("gcc") is None:
        raise Skip("gcc is not here")
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", made_, source, "-ldl"], check=True)
    done = subprocess.run(
        [sys.executable, "-c", _CLOCK_PROGRAM, directory / "store", shifted],
        env=untraced() | {"LD_PRELOAD": str(made_), "CLOCK_SHIFTED": str(shifted)},
        capture_output=True, text=True, timeout=SECONDS_MAX, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout == "good\n", done.stderr[-1000:]


# ---- running them ----------------------------------------------------------------------------------------


class _Child:
    """A forked process that says, at its end, how it went."""

    def __init__(self, body: Callable[[], None]) -> None:
        self._pipe, theirs = os.pipe()
        self.deadline = time.monotonic() + SECONDS_MAX
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._pipe)
            _be_child(body, theirs)
        os.close(theirs)
        fcntl.fcntl(self._pipe, fcntl.F_SETFL, os.O_NONBLOCK)
        self._said = b""

    def poll(self) -> str | None:
        """What it said, when it has ended; after its time it is killed."""
        with contextlib.suppress(BlockingIOError):
            self._said += os.read(self._pipe, 1 << 16)
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0 and time.monotonic() < self.deadline:
            return None
        if pid == 0:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self._pipe)
            return f"hangs: {self._said.decode()}"
        with contextlib.suppress(BlockingIOError):
            self._said += os.read(self._pipe, 1 << 16)
        os.close(self._pipe)
        if os.WIFSIGNALED(status):
            return f"died by signal {signal.Signals(os.WTERMSIG(status)).name}"
        return self._said.decode() or f"ended with wait status {status:#x}"

    def wait(self, seconds: float) -> str:
        self.deadline = time.monotonic() + seconds
        while (text := self.poll()) is None:
            time.sleep(0.005)
        return text


def _be_child(body: Callable[[], None], pipe: int) -> None:
    status = 1
    try:
        body()
        text = "good"
        status = 0
    except Skip as reason:
        text = f"skipped: {reason}"
    except AssertionError as failure:
        text = str(failure)
    except BaseException:
        text = traceback.format_exc()[-1500:]
    with contextlib.suppress(OSError):
        os.write(pipe, text.encode()[: 1 << 14])
    os._exit(status)


def _ordered(run: Run) -> Iterator[Case]:
    first = _FINDS.get(run.mutant or "")
    cases = sorted(CASES, key=lambda each: each.name != first)
    if run.mutant is None:
        run.chance("order").shuffle(cases)
    return iter(cases)


def prove(run: Run) -> Outcome:
    outcome = Outcome()
    waiting = _ordered(run)
    running: dict[str, _Child] = {}
    more = True
    while more or running:
        while more and len(running) < (1 if run.mutant else AT_ONCE):
            following = next(waiting, None)
            if following is None or (run.mutant and outcome.violations):
                more = False
            else:
                running[following.name] = _start(run, following)
        for name, child in list(running.items()):
            if (said := child.poll()) is not None:
                del running[name]
                _judge(outcome, name, said)
        time.sleep(0.005)
    _nothing_is_left(run, outcome)
    if run.mutant is None:
        outcome.reached("cases", len(CASES))
    return outcome


def _start(run: Run, wanted: Case) -> _Child:
    if wanted.root and os.geteuid() != 0:
        return _Child(_needs_root)
    directory = run.directory / wanted.name.replace("/", "").replace(" ", "-")
    directory.mkdir()
    return _Child(lambda: wanted.body(directory))


def _needs_root() -> None:
    raise Skip("needs root")


def _judge(outcome: Outcome, name: str, said: str) -> None:
    outcome.count("cases")
    outcome.count("skipped", said.startswith("skipped:"))
    if said != "good" and not said.startswith("skipped:"):
        outcome.violate(f"{name}: {said}")


def _nothing_is_left(run: Run, outcome: Outcome) -> None:
    """No process of these stores, no segment, no half-made store."""
    end = time.monotonic() + PATIENCE
    while left := _left(run.directory):
        if time.monotonic() >= end:
            outcome.violate(f"left behind: {', '.join(left)}")
            break
        time.sleep(0.1)
    for process in _processes(run.directory):
        os.kill(process, signal.SIGKILL)
    outcome.count("left behind", len(left))


def _processes(directory: Path) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdecimal() and os.fsencode(directory) in Path("/proc", name, "cmdline").read_bytes():
                found.append(int(name))
    return [pid for pid in found if pid != os.getpid()]


def _left(directory: Path) -> list[str]:
    found = [f"process {pid}" for pid in _processes(directory)]
    for info in directory.rglob("helios.json"):
        with contextlib.suppress(OSError, ValueError, HeliosError):
            status = info.lstat()
            if not stat.S_ISREG(status.st_mode) or status.st_size > 1 << 16:
                continue
            uuid = store.info_parse(info.read_bytes(), info).uuid
            found += [f"{path} of {info.parent}" for path in SHM.glob(f"helios-{uuid.hex()}-*")]
    found += [str(path) for path in directory.rglob(".*.creating-*")]
    return found
