"""lifecycle: a store appears whole, one coordinator serves it, and every lock dies with whoever holds it."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from helios_shm import coordinator, lifecycle, store
from helios_shm.errors import (
    BusyError,
    CapacityError,
    ExistsError,
    FormatError,
    NotFoundError,
    ReadOnlyError,
    StoreError,
)
from helios_shm.store import UNFINISHED_PREFIX, StorePaths

WAIT_SECONDS_MAX = 30.0


def until(condition: object, what: str) -> None:
    assert callable(condition)
    end = time.monotonic() + WAIT_SECONDS_MAX
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.005)


def python(source: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", source, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def paths(store_path: Path) -> Iterator[StorePaths]:
    made = lifecycle.open_store(store_path, create=True)
    yield made
    until(lambda: not lifecycle.coordinator_runs(made), "the coordinator leaves")


# ---- the directory ----


def test_a_new_store_is_private_whatever_the_umask(store_path: Path) -> None:
    before = os.umask(0)
    try:
        paths = lifecycle.open_store(store_path, create=True)
    finally:
        os.umask(before)
    assert store_path.stat().st_mode & 0o777 == 0o700
    for path in store_path.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert sorted(path.name for path in store_path.iterdir()) == ["blobs", "db", "helios.json", "locks"]
    assert store.info_read(paths).ephemeral is False


def test_a_store_that_appears_between_two_looks_is_one(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its description was not there yet, and then its directory was: that was called a directory of other contents."""
    paths = StorePaths.of(store_path)
    read = store._info_bytes_read

    def read_too_early(path: Path) -> bytes:
        monkeypatch.setattr(store, "_info_bytes_read", read)
        lifecycle.create_store(paths, ephemeral=False)
        raise FileNotFoundError(path)

    monkeypatch.setattr(store, "_info_bytes_read", read_too_early)
    assert not store.info_read(paths).ephemeral


def test_a_description_that_leads_nowhere_is_no_store(store_path: Path) -> None:
    store_path.mkdir()
    (store_path / "helios.json").symlink_to("nowhere")
    with pytest.raises(FormatError):
        store.info_read(StorePaths.of(store_path))


def test_opening_again_finds_the_same_store(paths: StorePaths) -> None:
    uuid = lifecycle.identify(paths).uuid
    again = lifecycle.open_store(paths.root, create=True)
    assert again == paths and lifecycle.identify(again).uuid == uuid


def test_a_store_has_one_name_whatever_path_leads_to_it(paths: StorePaths, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(paths.root)
    assert lifecycle.open_store(tmp_path / "link", create=False) == paths
    assert lifecycle.open_store(tmp_path / "x" / ".." / "store", create=False) == paths


def test_parents_are_made(tmp_path: Path) -> None:
    assert lifecycle.open_store(tmp_path / "a" / "b" / "c", create=True).info.exists()


def test_nothing_is_made_where_nothing_should_be(store_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no store"):
        lifecycle.open_store(store_path, create=False)
    assert not store_path.exists()


def test_an_empty_directory_becomes_a_store(store_path: Path) -> None:
    store_path.mkdir()
    with pytest.raises(NotFoundError):
        lifecycle.open_store(store_path, create=False)
    assert lifecycle.open_store(store_path, create=True).info.exists()


def test_a_directory_with_other_things_is_left_alone(store_path: Path) -> None:
    store_path.mkdir()
    (store_path / "mine").write_text("precious")
    with pytest.raises(FormatError, match=r"no helios\.json"):
        lifecycle.open_store(store_path, create=True)
    assert [path.name for path in store_path.iterdir()] == ["mine"]


def test_a_file_is_no_store(store_path: Path) -> None:
    store_path.write_text("a file")
    with pytest.raises(FormatError, match="not a directory"):
        lifecycle.open_store(store_path, create=True)
    with pytest.raises((FormatError, StoreError)):
        lifecycle.open_store(store_path / "below", create=True)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"helios_shm": {"format": 1}}', "\x00garbage"])
def test_a_description_that_is_none_is_a_format_error(paths: StorePaths, text: str) -> None:
    paths.info.write_text(text)
    with pytest.raises(FormatError, match=r"helios\.json"):
        lifecycle.open_store(paths.root, create=True)


def test_another_format_version_is_refused(paths: StorePaths) -> None:
    fields = json.loads(paths.info.read_text())
    fields["helios_shm"]["format"] = 2
    paths.info.write_text(json.dumps(fields))
    with pytest.raises(FormatError, match="format 2"):
        lifecycle.open_store(paths.root, create=True)


def test_somebody_elses_directory_is_refused(paths: StorePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(StoreError, match="54321"):
        lifecycle.open_store(paths.root, create=True)


def test_a_network_file_system_is_refused(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_file_system_kind", lambda directory: 0x6969)
    with pytest.raises(FormatError, match="NFS"):
        lifecycle.open_store(store_path, create=True)
    assert not store_path.exists()


def test_the_file_system_of_this_test_is_known(tmp_path: Path) -> None:
    assert store._file_system_kind(Path("/proc")) == 0x9FA0
    assert store._file_system_kind(tmp_path / "nothing") == 0


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EROFS, ReadOnlyError),
        (errno.ENOSPC, CapacityError),
        (errno.ENOTDIR, FormatError),
        (errno.EIO, StoreError),
    ],
)
def test_a_failed_creation_is_typed_and_leaves_nothing(
    store_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[Exception]
) -> None:
    def fail(path: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lifecycle, "fsync_directory", fail)
    with pytest.raises(expected):
        lifecycle.open_store(store_path, create=True)
    monkeypatch.undo()
    assert [path.name for path in store_path.parent.iterdir()] == []


def test_a_directory_that_cannot_be_replaced_is_filled(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something mounted on the directory: rename says EBUSY."""
    store_path.mkdir()
    inode = store_path.stat().st_ino
    rename = os.rename

    def busy(source: os.PathLike[str], target: os.PathLike[str]) -> None:
        if Path(target) == store_path:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        rename(source, target)

    monkeypatch.setattr(os, "rename", busy)
    paths = lifecycle.open_store(store_path, create=True)
    assert lifecycle.identify(paths).inode == inode
    assert [path.name for path in store_path.parent.iterdir()] == ["store"]


def test_a_parent_that_cannot_be_written_is_no_hindrance_to_an_empty_directory(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_path.mkdir()
    mkdir = os.mkdir

    def denied(path: os.PathLike[str], mode: int = 0o777) -> None:
        if ".creating-" in os.fspath(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        mkdir(path, mode)

    monkeypatch.setattr(os, "mkdir", denied)
    assert lifecycle.open_store(store_path, create=True).info.exists()
    with pytest.raises(StoreError, match="Permission denied"):
        lifecycle.open_store(store_path.parent / "other", create=True)


def test_a_failure_inside_an_empty_directory_leaves_it_empty(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_path.mkdir()
    monkeypatch.setattr(lifecycle, "_rename_into_place", lambda building, paths: False)
    fill = lifecycle._fill

    def fail(paths: StorePaths, ephemeral: bool) -> None:
        fill(paths, ephemeral)
        if paths.root == store_path:
            raise OSError(errno.EIO, "late")

    monkeypatch.setattr(lifecycle, "_fill", fail)
    with pytest.raises(StoreError, match="late"):
        lifecycle.open_store(store_path, create=True)
    assert list(store_path.iterdir()) == []


def test_what_a_dead_creator_left_is_removed_and_a_living_ones_is_not(store_path: Path) -> None:
    dead, alive = (store_path.parent / f".store.creating-{n}" for n in ("dead", "alive"))
    for path in (dead, alive):
        path.mkdir()
        (path / "db").mkdir()
    fd = os.open(alive, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    lifecycle.open_store(store_path, create=True)
    os.close(fd)
    assert not dead.exists() and alive.exists()


def test_of_many_creators_one_wins_and_the_others_open_its_store(store_path: Path) -> None:
    source = (
        "import sys\nfrom helios_shm import lifecycle\nsys.stdin.readline()\n"
        "print(lifecycle.identify(lifecycle.open_store(sys.argv[1], create=True)).uuid.hex())"
    )
    children = [python(source, str(store_path)) for _ in range(6)]
    uuids = {child.communicate("go\n")[0] for child in children}
    assert [child.returncode for child in children] == [0] * 6
    assert len(uuids) == 1
    assert [path.name for path in store_path.parent.iterdir()] == ["store"]


def test_creating_over_a_store_is_refused(paths: StorePaths) -> None:
    with pytest.raises(ExistsError):
        lifecycle.create_store(paths, ephemeral=False)


def test_a_copy_of_a_store_has_another_segment(paths: StorePaths, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", paths.root, tmp_path / "copy"], check=True)
    copy = lifecycle.identify(StorePaths.of(tmp_path / "copy"))
    original = lifecycle.identify(paths)
    assert copy.uuid == original.uuid and copy.segment_name != original.segment_name
    assert original.segment_name.startswith(f"/helios-{original.uuid.hex()}-")


def test_a_store_without_write_permission_is_told(paths: StorePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lifecycle.is_writable(paths)
    monkeypatch.setattr(lifecycle, "may_write", lambda path: path != paths.locks)
    assert not lifecycle.is_writable(paths)


def test_the_ring_fits_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lifecycle.ring_bytes(8 << 20) == 8 << 20
    for wrong in (1.5, "1", True):
        with pytest.raises(TypeError):
            lifecycle.ring_bytes(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be"):
        lifecycle.ring_bytes(1)
    monkeypatch.setattr(lifecycle, "SHARED_MEMORY", Path("/no/shm"))
    with pytest.raises(StoreError, match="/no/shm"):
        lifecycle.ring_bytes(None)


# ---- a power cut while a store is made ----


def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """From now on: which directories are synced, and what is renamed, in order."""
    steps: list[tuple[str, Path]] = []
    sync, rename = lifecycle.fsync_directory, os.rename

    def tell_sync(path: Path) -> None:
        steps.append(("sync", path))
        sync(path)

    def tell_rename(source: Path, target: Path) -> None:
        steps.append(("rename", target))
        rename(source, target)

    monkeypatch.setattr(lifecycle, "fsync_directory", tell_sync)
    monkeypatch.setattr(os, "rename", tell_rename)
    return steps


def test_the_directories_above_a_store_are_made_durable_before_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were made and not synced: after a power cut the store was gone with the first of them, and every durable
    commit with it."""
    steps = synced(monkeypatch)
    paths = lifecycle.open_store(tmp_path / "new" / "deeper" / "store", create=True)
    before = steps[: steps.index(("rename", paths.root))]
    assert {("sync", tmp_path), ("sync", tmp_path / "new")} <= set(before)
    assert steps[-1] == ("sync", paths.root.parent)


def test_a_directory_above_that_cannot_be_read_is_no_hindrance(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = lifecycle.fsync_directory

    def denied(path: Path) -> None:
        if path == store_path.parent.parent:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        sync(path)

    monkeypatch.setattr(lifecycle, "fsync_directory", denied)
    lifecycle.names_sync(lifecycle.open_store(store_path, create=True))


def test_a_coordinator_makes_the_stores_name_durable_before_it_acknowledges_anything(
    paths: StorePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who made the store may have died between renaming it and syncing its parent."""
    steps = synced(monkeypatch)
    lock = lifecycle.CoordinatorLock(paths)
    assert lock.take()
    made = coordinator.Coordinator(paths, lock)
    assert made._leave()
    assert steps[:2] == [("sync", paths.root), ("sync", paths.root.parent)]


def test_a_store_in_a_directory_that_stays_has_its_description_last(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """helios.json was renamed before db/ was synced: after a power cut there was a store without a database."""
    store_path.mkdir()
    monkeypatch.setattr(lifecycle, "_rename_into_place", lambda building, paths: False)
    steps = synced(monkeypatch)
    paths = lifecycle.open_store(store_path, create=True)
    before = steps[: steps.index(("rename", paths.info))]
    assert {("sync", path) for path in (paths.locks, paths.blobs, paths.db, paths.root)} <= set(before)
    assert steps[-1] == ("sync", paths.root)


def test_a_store_that_was_not_finished_in_a_directory_that_stays_is_made_anew(store_path: Path) -> None:
    """Half a store in a mount point was taken for something else, for ever."""
    paths = StorePaths(store_path)
    for directory in (paths.root, paths.locks, paths.db):
        directory.mkdir()
    (paths.db / "data.mdb").write_bytes(b"half")
    paths.gate.touch()
    (store_path / f"{UNFINISHED_PREFIX}1234").touch()
    with pytest.raises(NotFoundError):
        lifecycle.open_store(store_path, create=False)
    inode = store_path.stat().st_ino
    assert lifecycle.open_store(store_path, create=True) == paths
    assert store_path.stat().st_ino == inode
    assert sorted(path.name for path in store_path.iterdir()) == ["blobs", "db", "helios.json", "locks"]


def test_of_many_creators_in_a_directory_that_stays_one_wins_and_the_others_open_its_store(
    store_path: Path,
) -> None:
    """Who came while another filled it found "a directory with other contents"."""
    store_path.mkdir()
    source = (
        "import sys\nfrom helios_shm import lifecycle\n"
        "lifecycle._rename_into_place = lambda building, paths: False\nsys.stdin.readline()\n"
        "print(lifecycle.identify(lifecycle.open_store(sys.argv[1], create=True)).uuid.hex())"
    )
    children = [python(source, str(store_path)) for _ in range(4)]
    uuids = {child.communicate("go\n")[0] for child in children}
    assert [child.returncode for child in children] == [0] * 4
    assert len(uuids) == 1


# ---- the gate ----


def hold_gate(paths: StorePaths) -> subprocess.Popen[str]:
    source = (
        "import sys\nfrom pathlib import Path\nfrom helios_shm import lifecycle\n"
        "with lifecycle.gate(lifecycle.StorePaths(Path(sys.argv[1]))):\n"
        "    print('in', flush=True)\n    sys.stdin.readline()\n"
    )
    child = python(source, str(paths.root))
    assert child.stdout and child.stdout.readline() == "in\n"
    return child


def test_the_gate_lets_one_in_at_a_time(paths: StorePaths) -> None:
    child = hold_gate(paths)
    with pytest.raises(BusyError, match="gate"), lifecycle.gate(paths, time.monotonic() + 0.05):
        pass
    child.communicate("\n")
    with lifecycle.gate(paths):
        pass


def test_the_gate_dies_with_its_holder(paths: StorePaths) -> None:
    child = hold_gate(paths)
    child.kill()
    child.communicate()
    with lifecycle.gate(paths, time.monotonic() + WAIT_SECONDS_MAX):
        pass


def test_threads_exclude_each_other_at_the_gate(paths: StorePaths) -> None:
    inside, most = [0], [0]

    def enter() -> None:
        for _ in range(20):
            with lifecycle.gate(paths):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_a_forked_child_does_not_keep_its_parents_gate(paths: StorePaths) -> None:
    read_end, write_end = os.pipe()
    with lifecycle.gate(paths):
        pid = os.fork()
        if pid == 0:
            os.close(write_end)
            os.read(read_end, 1)
            os._exit(0)
    with lifecycle.gate(paths, time.monotonic() + WAIT_SECONDS_MAX):
        pass
    os.close(write_end)
    os.waitpid(pid, 0)
    os.close(read_end)


def test_the_gate_of_a_removed_store_is_not_found(paths: StorePaths) -> None:
    with pytest.raises(NotFoundError), lifecycle.gate(StorePaths(paths.root / "nothing")):
        pass


def test_a_store_that_is_removed_while_one_waits_at_its_gate_is_not_found(paths: StorePaths) -> None:
    child = hold_gate(paths)
    caught: list[Exception] = []

    def enter() -> None:
        try:
            with lifecycle.gate(paths):
                pass
        except NotFoundError as error:
            caught.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    moved = lifecycle.detach_directory(paths)
    child.communicate("\n")
    thread.join()
    os.rename(moved, paths.root)
    # It may have looked before it had to wait: then the directory was gone already, which is the same to it.
    assert len(caught) == 1


# ---- the coordinator ----


def coordinators(paths: StorePaths) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.cmdline()[-2:] == ["helios_shm.coordinator", str(paths.root)]:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_looking_for_a_coordinator_takes_no_lock(paths: StorePaths) -> None:
    assert not lifecycle.coordinator_runs(paths)
    lock = lifecycle.CoordinatorLock(paths)
    assert lock.take()
    assert lifecycle.coordinator_runs(paths)
    assert not lifecycle.CoordinatorLock(paths).take()
    lock.release()
    lock.release()
    assert not lifecycle.coordinator_runs(paths)


def test_the_coordinator_lock_dies_with_its_holder_and_not_with_a_child(paths: StorePaths) -> None:
    lock = lifecycle.CoordinatorLock(paths)
    assert lock.take()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert lifecycle.coordinator_runs(paths)
    lock.release()


def test_a_crowd_starts_one_coordinator(paths: StorePaths) -> None:
    source = (
        "import sys\nfrom pathlib import Path\nfrom helios_shm import lifecycle\n"
        "paths = lifecycle.StorePaths(Path(sys.argv[1]))\nsys.stdin.readline()\n"
        "print(sum(lifecycle.ensure_coordinator(paths) for _ in range(20)), flush=True)\n"
    )
    with lifecycle.gate(paths):  # it cannot leave before all have asked
        children = [python(source, str(paths.root)) for _ in range(5)]
        started = sum(int(child.communicate("\n")[0]) for child in children)
        until(lambda: lifecycle.coordinator_runs(paths), "a coordinator runs")
        assert len(coordinators(paths)) == 1
    assert started == 1


def test_a_coordinator_without_participants_leaves_no_trace(paths: StorePaths) -> None:
    segment = Path("/dev/shm" + lifecycle.identify(paths).segment_name)
    assert lifecycle.ensure_coordinator(paths)
    until(lambda: lifecycle.coordinator_runs(paths), "it runs")
    until(lambda: not lifecycle.coordinator_runs(paths), "it leaves")
    assert not segment.exists()
    assert lifecycle.coordinator_error(paths) is None


def test_a_second_coordinator_gives_way(paths: StorePaths) -> None:
    lock = lifecycle.CoordinatorLock(paths)
    assert lock.take()
    command = [sys.executable, "-m", "helios_shm.coordinator", str(paths.root)]
    assert subprocess.run(command, check=False).returncode == 0
    lock.release()


def test_the_start_lock_is_the_new_processs_until_it_is_coordinator(paths: StorePaths) -> None:
    """While one is being started nobody starts another, and the lock dies with a start that fails."""
    lock = os.open(paths.start_lock, os.O_RDWR | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert not lifecycle.ensure_coordinator(paths)
    os.close(lock)
    assert lifecycle.ensure_coordinator(paths)
    until(lambda: lifecycle.coordinator_runs(paths), "it runs")


def test_a_broken_store_is_noted_and_not_tried_all_the_time(paths: StorePaths) -> None:
    (paths.db / "data.mdb").write_bytes(b"x" * 8192)
    assert lifecycle.ensure_coordinator(paths)
    until(lambda: lifecycle.coordinator_error(paths) is not None, "the error is noted")
    assert "FormatError" in str(lifecycle.coordinator_error(paths))
    until(lambda: not coordinators(paths), "it ends")
    os.utime(paths.error_note)
    assert not lifecycle.ensure_coordinator(paths)


def test_a_program_that_cannot_be_started_is_an_error(
    paths: StorePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(StoreError, match="/no/such/python"):
        lifecycle.ensure_coordinator(paths)
    monkeypatch.setattr(sys, "executable", "")
    monkeypatch.setattr(sys, "_base_executable", "", raising=False)
    with pytest.raises(StoreError, match=r"sys\.executable"):
        lifecycle.ensure_coordinator(paths)
    monkeypatch.undo()
    assert lifecycle.ensure_coordinator(paths), "the start lock was left locked"
    until(lambda: lifecycle.coordinator_runs(paths), "it runs")


def test_a_coordinator_of_no_store_is_not_started(store_path: Path) -> None:
    with pytest.raises(NotFoundError):
        lifecycle.ensure_coordinator(StorePaths(store_path))


# ---- ephemeral stores ----


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_an_ephemeral_store_goes_with_its_coordinator(temporary: Path) -> None:
    paths = lifecycle.create_ephemeral()
    assert lifecycle.identify(paths).ephemeral and paths.root.parent == temporary
    assert lifecycle.ensure_coordinator(paths)
    until(lambda: list(temporary.iterdir()) == [], "it is removed")


def test_a_dead_ones_ephemeral_store_is_swept(temporary: Path) -> None:
    source = "from helios_shm import lifecycle\nprint(lifecycle.create_ephemeral().root)"
    left = Path(python(source).communicate()[0].strip())
    segment = Path("/dev/shm" + lifecycle.identify(StorePaths(left)).segment_name)
    segment.write_bytes(b"")
    assert lifecycle.sweep_ephemeral() == 1
    assert list(temporary.iterdir()) == [] and not segment.exists()


def test_what_is_in_use_is_not_swept(temporary: Path) -> None:
    mine = lifecycle.create_ephemeral()
    assert lifecycle.sweep_ephemeral() == 0
    others = mine.root.with_name(f"{lifecycle.EPHEMERAL_PREFIX}1-0-abc")
    os.rename(mine.root, others)
    paths = StorePaths(others)
    for path in (paths.coordinator_lock, paths.participants):
        with open(path, "r+b") as file:
            lock = lifecycle._FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, lock)
            assert lifecycle.sweep_ephemeral() == 0
    child = hold_gate(paths)
    assert lifecycle.sweep_ephemeral() == 0
    child.communicate("\n")
    assert lifecycle.sweep_ephemeral() == 1


def test_directories_that_only_look_like_one_are_left_alone(temporary: Path) -> None:
    (temporary / f"{lifecycle.EPHEMERAL_PREFIX}mine").mkdir()
    (temporary / f"{lifecycle.EPHEMERAL_PREFIX}file").write_text("x")
    durable = lifecycle.open_store(temporary / f"{lifecycle.EPHEMERAL_PREFIX}9-9-durable", create=True)
    assert lifecycle.sweep_ephemeral() == 0
    assert durable.info.exists()


def test_sigint_does_not_reach_the_coordinator_and_sigterm_ends_it(paths: StorePaths) -> None:
    assert lifecycle.ensure_coordinator(paths)
    with lifecycle.gate(paths):  # it cannot leave by itself
        until(lambda: coordinators(paths) and lifecycle.coordinator_runs(paths), "it runs")
        process = coordinators(paths)[0]
        until(lambda: "epoch" in paths.log.read_text() or process.num_fds() > 3, "it has begun")
        process.send_signal(signal.SIGINT)
        assert process.is_running() and lifecycle.coordinator_runs(paths)
        process.send_signal(signal.SIGTERM)
    process.wait(WAIT_SECONDS_MAX)
    assert not lifecycle.coordinator_runs(paths)
