"""Fixtures for every test, and the guard that nothing of a test session outlives it.

- ``store_path``: a path where no store is yet
- ``engine``: an open store at that path, closed afterwards
- for the session: no process and no /dev/shm/helios* segment of it is left at its end
"""

import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

import helios_shm

# The machine's speed is no property of the code; a run in CI is the same run each time.
settings.register_profile("house", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("house")

# A shell that runs the tests in the background has them ignore Ctrl-C, and with them every program that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED_MEMORY = Path("/dev/shm")
# A coordinator leaves by itself soon after its last participant; this long it may take on a busy machine.
LEAVE_SECONDS_MAX = 20.0

# Children inherit it, through fork, spawn and exec alike: it tells our processes from anybody else's.
SESSION_VARIABLE = "HELIOS_TEST_SESSION"
SESSION = uuid.uuid4().hex


def is_multiprocessing_server(process: psutil.Process) -> bool:
    """True of multiprocessing's own two servers, which end with us; not of what a forkserver forked."""
    command = " ".join(process.cmdline())
    return process.ppid() == os.getpid() and (
        "multiprocessing.resource_tracker" in command or "multiprocessing.forkserver" in command
    )


def processes_of_session() -> list[psutil.Process]:
    """Every living process but this one that descends from this session, orphans included."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.pid != os.getpid() and process.environ().get(SESSION_VARIABLE) == SESSION
            if ours and not is_multiprocessing_server(process):
                found.append(process)
        except psutil.Error:
            continue
    return found


def name_process(process: psutil.Process) -> str:
    try:
        return f"process {process.pid}: {' '.join(process.cmdline())}"
    except psutil.Error:
        return f"process {process.pid}"


def segments() -> set[str]:
    return {path.name for path in SHARED_MEMORY.glob("helios*")}


def is_mapped(segment: str) -> bool:
    """True while a living process has the segment mapped: if none of ours does, another session does.

    Told by inode: a segment is linked under its name when it is whole, so the kernel's maps do not know the name.
    """
    try:
        inode = str((SHARED_MEMORY / segment).stat().st_ino)
    except FileNotFoundError:
        return False
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            if any(
                "/dev/shm/" in line and line.split()[4] == inode for line in maps.read_text().splitlines()
            ):
                return True
        except OSError:
            continue
    return False


def abandoned(before: set[str], deadline: float) -> set[str]:
    """New segments that stay though nobody has them mapped.

    Other sessions' segments come and go meanwhile, and no event says so: hence the looks until the deadline.
    """
    while found := {name for name in segments() - before if not is_mapped(name)} & segments():
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return found


@pytest.fixture(scope="session", autouse=True)
def nothing_outlives_the_session() -> Iterator[None]:
    os.environ[SESSION_VARIABLE] = SESSION
    before = segments()
    yield
    deadline = time.monotonic() + LEAVE_SECONDS_MAX
    # Not psutil.wait_procs: it waits for zombies too, and not every container's init reaps what was orphaned.
    while (alive := processes_of_session()) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [name_process(process) for process in alive]
    left += [f"segment {name}" for name in sorted(abandoned(before, deadline))]
    assert not left, "left behind by the tests: " + "; ".join(left)


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def engine(store_path: Path) -> Iterator[helios_shm.Engine]:
    with helios_shm.open(store_path) as opened:
        yield opened
