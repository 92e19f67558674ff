"""Surroundings that a store meets seldom: umasks, full disks, namespaces, things that stand where files should."""

import os
import stat
import struct
from pathlib import Path

import pytest

import helios_shm
from helios_shm import config, lifecycle
from helios_shm.errors import BusyError, FormatError, StoreError
from helios_shm.store import StorePaths
from tests.processes import rig

RING = 4 << 20
# Where the header of a segment says of which PID namespace it is: hs_segment_header in csrc/hs_layout.h.
NAMESPACE_AT = 156


def commit(engine: helios_shm.Engine, key: str, value: bytes = b"v") -> None:
    workspace = engine.branch("main").fork()
    workspace[key] = value
    workspace.commit()


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_all_files_are_the_users_alone_whatever_the_umask(store_path: Path, umask: int) -> None:
    """A umask that takes the owner's bits as well left directories of mode 0, in which their maker could do nothing."""
    before = os.umask(umask)
    try:
        with helios_shm.open(store_path, l1_bytes=RING) as engine:
            commit(engine, "large", bytes(config.BLOB_BYTES_MIN))
            engine.sync()
    finally:
        os.umask(before)
    for path in (store_path, *store_path.rglob("*")):
        wanted = 0o700 if path.is_dir() else 0o400 if "blobs" in path.parts else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_a_new_store_has_its_lock_files_memory(store_path: Path) -> None:
    """LMDB maps its lock file with holes in it: on a disk that is full, or fills up, the next reader died by SIGBUS."""
    paths = lifecycle.open_store(store_path, create=True)
    status = (paths.db / "lock.mdb").stat()
    assert status.st_blocks * 512 >= status.st_size >= 64 * 2048


def test_a_segment_that_is_none_is_named(store_path: Path) -> None:
    paths = lifecycle.open_store(store_path, create=True)
    segment = Path("/dev/shm", lifecycle.identify(paths).segment_name.lstrip("/"))
    segment.mkdir()
    try:
        with pytest.raises(FormatError, match=str(segment)):
            helios_shm.open(store_path)
    finally:
        segment.rmdir()


_DIES_WITH_ITS_COORDINATOR = """
import os, signal, sys, helios_shm
engine = helios_shm.open(sys.argv[1], l1_bytes=4 << 20)
engine.sync()
os.kill(engine.stats().coordinator_pid, signal.SIGSTOP)
ws = engine.branch("main").fork()
ws["k"] = b"v"
ws.commit()
os.kill(engine.stats().coordinator_pid, signal.SIGKILL)
print("committed", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_pid_namespace_leaves_that_has_ended_is_taken_over(store_path: Path) -> None:
    """A container that is killed takes all its processes along. Its segment, with acknowledged commits in it, was
    refused by everybody else for ever."""
    program = rig.start_program(_DIES_WITH_ITS_COORDINATOR, store_path)
    assert rig.line_of(program) == "committed"
    program.communicate()
    rig.until("nobody is there", lambda: rig.is_uncoordinated(store_path))
    (segment,) = rig.segments(store_path)
    with open(segment, "r+b", buffering=0) as file:
        file.seek(NAMESPACE_AT)
        (own,) = struct.unpack("I", file.read(4))
        assert own == Path("/proc/self/ns/pid").stat().st_ino
        file.seek(NAMESPACE_AT)
        file.write(struct.pack("I", own ^ 1))
    with helios_shm.open(store_path, l1_bytes=RING) as engine:
        assert dict(engine.branch("main").head) == {"k": b"v"}


def test_a_segment_of_another_pid_namespace_is_refused_while_it_is_used(store_path: Path) -> None:
    with helios_shm.open(store_path, l1_bytes=RING) as engine:
        commit(engine, "k")
        (segment,) = rig.segments(store_path)
        with open(segment, "r+b", buffering=0) as file:
            file.seek(NAMESPACE_AT)
            (own,) = struct.unpack("I", file.read(4))
            file.seek(NAMESPACE_AT)
            file.write(struct.pack("I", own ^ 1))
            program = rig.start_program("import helios_shm, sys; helios_shm.open(sys.argv[1])", store_path)
            _, said = program.communicate(timeout=rig.SECONDS_MAX)
            assert program.returncode == 1 and "FormatError" in said and str(segment) in said
            child = os.fork()
            if child == 0:  # a child that was forked into another namespace
                try:
                    commit(engine, "forked")
                except FormatError:
                    os._exit(7)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            file.seek(NAMESPACE_AT)
            file.write(struct.pack("I", own))


@pytest.mark.parametrize("name", ["coordinator.log", "coordinator.error", "locator"])
def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(store_path: Path, name: str) -> None:
    paths = lifecycle.open_store(store_path, create=True)
    os.mkfifo(paths.root / name, 0o600)
    try:
        with helios_shm.open(store_path, l1_bytes=RING) as engine:
            commit(engine, "k")
    except StoreError as error:
        assert name == "coordinator.log" and "starting the coordinator" in str(error)
    assert lifecycle.coordinator_error(StorePaths(store_path)) is None
    if name == "coordinator.log":
        (paths.root / name).unlink()
        helios_shm.open(store_path, l1_bytes=RING).close()


def test_close_gives_up_when_nothing_becomes_durable(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that stayed full, close, and so the end of every with statement, never came back."""
    engine = helios_shm.open(store_path, l1_bytes=RING)
    commit(engine, "before")
    engine.sync()
    coordinator = rig.coordinator(store_path)
    rig.stop(coordinator)
    monkeypatch.setattr(config, "DURABLE_DEADLINE", 0.2)
    try:
        commit(engine, "k")
        with pytest.raises(BusyError, match="close"):
            engine.close()
    finally:
        rig.resume(coordinator)
    with helios_shm.open(store_path, l1_bytes=RING) as again:
        assert dict(again.branch("main").head) == {"before": b"v", "k": b"v"}
