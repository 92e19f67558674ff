"""Opening, sharing, closing and pickling a store, and every place where one cannot be."""

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import helios_shm
from helios_shm import lifecycle
from tests.programs import untraced

RING_BYTES = 4 << 20
IS_ROOT = os.geteuid() == 0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[helios_shm.Engine]:
    """One engine for tests that neither close it nor look at the whole store."""
    with helios_shm.open(tmp_path_factory.mktemp("engine") / "store", l1_bytes=RING_BYTES) as opened:
        yield opened


def put(engine: helios_shm.Engine, branch: str, path: str = "a", value: bytes = b"1") -> helios_shm.Commit:
    workspace = engine.branch(branch).fork()
    workspace[path] = value
    return workspace.commit()


def can_mount() -> bool:
    return (
        IS_ROOT
        and subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
    )


def run_python(code: str, *arguments: object, cwd: str | None = None, mounts: str = "") -> str:
    """Run code in a fresh process, where asked to in a mount namespace of its own; what it printed."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    if mounts:
        command = ["unshare", "-m", "sh", "-ec", f'{mounts}; exec "$@"', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- opening ---


def test_open_makes_a_store_and_finds_it_again(store_path: Path) -> None:
    with helios_shm.open(store_path, l1_bytes=RING_BYTES) as engine:
        assert engine.path == store_path
        commit = put(engine, "main")
    with helios_shm.open(str(store_path), create=False) as engine:
        assert engine.branch("main").last_commit == commit
        assert engine.branches() == ["main"]
    assert (store_path.stat().st_mode & 0o777) == 0o700


def test_open_makes_missing_parents_and_takes_an_empty_directory(tmp_path: Path) -> None:
    for path in (tmp_path / "deep" / "er" / "store", tmp_path / "empty"):
        if path.name == "empty":
            path.mkdir()
        with helios_shm.open(path, l1_bytes=RING_BYTES) as engine:
            put(engine, "main")
            assert engine.path == path


def test_relative_path_means_the_directory_it_was_opened_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with helios_shm.open("store", l1_bytes=RING_BYTES) as engine:
        monkeypatch.chdir("/")
        assert engine.path == tmp_path / "store"
        put(engine, "main")
    assert not Path("/store").exists()


def test_create_false_where_there_is_no_store_is_not_found(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(helios_shm.NotFoundError, match=str(path)):
            helios_shm.open(path, create=False)
        with pytest.raises(helios_shm.NotFoundError, match=str(path)):
            helios_shm.open(path, readonly=True)
    assert list(tmp_path.iterdir()) == []


def test_directory_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    for create in (True, False):
        with pytest.raises((helios_shm.FormatError, helios_shm.NotFoundError), match=str(tmp_path)):
            helios_shm.open(tmp_path, create=create)
    with pytest.raises(helios_shm.FormatError):
        helios_shm.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_file_is_no_store(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("text")
    with pytest.raises(helios_shm.FormatError, match="file"):
        helios_shm.open(file)
    with pytest.raises(helios_shm.StoreError):
        helios_shm.open(file / "below")
    assert file.read_text() == "text"


@pytest.mark.parametrize("damage", ["version", "json", "empty", "garbage", "uuid", "other"])
def test_store_of_another_version_or_with_a_broken_header_is_refused(store_path: Path, damage: str) -> None:
    helios_shm.open(store_path, l1_bytes=RING_BYTES).close()
    header = store_path / "helios.json"
    text = header.read_text()
    content = json.loads(text)["helios_shm"]
    changed = {
        "version": json.dumps({"helios_shm": {**content, "format": content["format"] + 1}}),
        "json": text[:-5],
        "empty": "",
        "garbage": "\0" * 100,
        "uuid": json.dumps({"helios_shm": {**content, "uuid": content["uuid"][:-1]}}),
        "other": json.dumps({"somebody_else": content}),
    }[damage]
    header.chmod(0o600)
    header.write_text(changed)
    with pytest.raises(helios_shm.FormatError, match=str(store_path)):
        helios_shm.open(store_path)
    header.write_text(text)
    helios_shm.open(store_path, l1_bytes=RING_BYTES).close()


@pytest.mark.parametrize("path", [1, 1.5, b"bytes", ["list"]])
def test_path_of_another_type_is_type_error(path: object) -> None:
    with pytest.raises(TypeError, match=type(path).__name__):
        helios_shm.open(path)  # type: ignore[arg-type]


@pytest.mark.parametrize("l1_bytes", [0, -1, RING_BYTES - 1])
def test_ring_that_is_too_small_is_value_error_and_makes_nothing(store_path: Path, l1_bytes: int) -> None:
    with pytest.raises(ValueError, match="l1_bytes"):
        helios_shm.open(store_path, l1_bytes=l1_bytes)
    assert not store_path.exists()


@pytest.mark.parametrize("l1_bytes", ["4 MiB", 4e9, True])
def test_ring_size_of_another_type_is_type_error(store_path: Path, l1_bytes: object) -> None:
    with pytest.raises(TypeError, match="l1_bytes"):
        helios_shm.open(store_path, l1_bytes=l1_bytes)  # type: ignore[arg-type]
    assert not store_path.exists()


@pytest.mark.parametrize("l1_bytes", [1 << 36, 1 << 45, 1 << 63, 1 << 70])
def test_ring_larger_than_places_can_name_is_value_error(store_path: Path, l1_bytes: int) -> None:
    with pytest.raises(ValueError, match="l1_bytes"):
        helios_shm.open(store_path, l1_bytes=l1_bytes)
    assert not store_path.exists()


def test_ring_size_is_that_of_whoever_opened_first(store_path: Path) -> None:
    with helios_shm.open(store_path, l1_bytes=2 * RING_BYTES) as engine:
        assert engine.stats().l1_bytes == 2 * RING_BYTES
        with helios_shm.open(store_path, l1_bytes=RING_BYTES) as second:
            assert second.stats().l1_bytes == 2 * RING_BYTES


def test_engine_is_made_by_open_alone() -> None:
    with pytest.raises(TypeError, match="open"):
        helios_shm.Engine()


# --- places that cannot be written, or are too small ---

needs_mounts = pytest.mark.skipif(not can_mount(), reason="needs a mount namespace")

OPEN_READ_ONLY = """
import sys, helios_shm
path = sys.argv[1]
for use in (lambda: helios_shm.open(path), lambda: helios_shm.open(path + "/new")):
    try:
        use()
    except helios_shm.ReadOnlyError as error:
        assert path in str(error), error
    else:
        raise AssertionError("opened")
with helios_shm.open(path, readonly=True) as engine:
    branch = engine.branch("main")
    assert dict(branch.head) == {"a": b"1", "large": b"x" * 300_000}, branch.head
    assert [commit.sequence for commit in branch.log()] == [2, 1]
    assert engine.branches() == ["main"]
    workspace = branch.fork()
    workspace["b"] = b"2"
    for change in (workspace.commit, lambda: branch.restore(branch.head), branch.delete):
        try:
            change()
        except helios_shm.ReadOnlyError:
            pass
        else:
            raise AssertionError("changed")
print("read")
"""


@needs_mounts
def test_store_on_a_read_only_file_system_can_be_read(store_path: Path) -> None:
    with helios_shm.open(store_path, l1_bytes=RING_BYTES) as engine:
        put(engine, "main")
        put(engine, "main", "large", b"x" * 300_000)
    mounts = f'mount --bind "{store_path}" "{store_path}" && mount -o remount,bind,ro "{store_path}"'
    assert run_python(OPEN_READ_ONLY, store_path, mounts=mounts) == "read"
    with helios_shm.open(store_path, l1_bytes=RING_BYTES) as engine:
        assert put(engine, "main", "b").sequence == 3


OPEN_IN_LITTLE_MEMORY = """
import os, sys, helios_shm
path = sys.argv[1]
try:
    engine = helios_shm.open(path, l1_bytes=64 << 20)
except helios_shm.CapacityError as error:
    assert "/dev/shm" in str(error) and "l1_bytes" in str(error), error
    print("refused")
    sys.exit()
with engine:
    for turn in range(4):
        with engine.branch("main").transaction() as workspace:
            workspace.update({f"{turn}/{i}": os.urandom(50_000) for i in range(200)})
    assert len(engine.branch("main").head) == 800
    assert engine.branch("main").head.nbytes == 800 * 50_000
print("written")
"""


@needs_mounts
@pytest.mark.parametrize(("size", "outcome"), [("3m", "refused"), ("24m", "written")])
def test_little_shared_memory_is_made_do_with_and_too_little_refused(
    store_path: Path, size: str, outcome: str
) -> None:
    """The ring is allocated in steps: one that outgrows /dev/shm stays smaller than it was asked to be."""
    mounts = f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
    assert run_python(OPEN_IN_LITTLE_MEMORY, store_path, mounts=mounts) == outcome


FILL_THE_DISK = """
import os, sys, helios_shm
path = sys.argv[1]
engine = helios_shm.open(path, l1_bytes=4 << 20)
branch = engine.branch("main")
with branch.transaction("small") as workspace:
    workspace["small"] = b"kept"
engine.sync()
workspace = branch.fork()
workspace["blob"] = os.urandom(64 << 20)
try:
    workspace.commit("too large")
except helios_shm.CapacityError as error:
    assert path in str(error), error
else:
    raise AssertionError("committed")
assert list(workspace.edits) == ["blob"]
assert dict(branch.head) == {"small": b"kept"}
workspace.discard()
workspace["after"] = b"it"
workspace.commit(durable=True)
engine.close()
with helios_shm.open(path) as engine:
    assert dict(engine.branch("main").head) == {"small": b"kept", "after": b"it"}
print("whole")
"""


@needs_mounts
def test_full_disk_is_a_capacity_error_and_nothing_is_lost(tmp_path: Path) -> None:
    mounts = f'mount -t tmpfs -o size=32m tmpfs "{tmp_path}"'
    assert run_python(FILL_THE_DISK, tmp_path / "store", mounts=mounts) == "whole"


# --- read-only and ephemeral ---


def test_read_only_engine_reads_and_refuses_every_change(store_path: Path) -> None:
    with helios_shm.open(store_path, l1_bytes=RING_BYTES) as engine:
        commit = put(engine, "main")
    with helios_shm.open(store_path, readonly=True) as engine:
        branch = engine.branch("main")
        assert branch.last_commit == commit
        workspace = branch.fork()
        changes: list[Callable[[], object]] = [
            lambda: branch.restore(branch.head),
            lambda: branch.compare_and_set(branch.head, branch.head),
            lambda: engine.branch("new", at=branch.head),
            branch.delete,
        ]
        for count in (1, 2):
            workspace[f"{count}"] = b""
            changes.append(workspace.commit)
        changes += [lambda: engine.empty.fork().commit(), lambda: branch.fork().commit("message")]
        for change in changes:
            with pytest.raises(helios_shm.ReadOnlyError, match="read-only"):
                change()
        assert workspace.edits == {"1": b"", "2": b""}
        assert engine.branches() == ["main"]


def test_read_only_engine_follows_what_another_process_commits(store_path: Path) -> None:
    code = """
import sys, helios_shm
with helios_shm.open(sys.argv[1]) as engine, engine.branch("main").transaction() as workspace:
    workspace["from"] = b"outside"
"""
    helios_shm.open(store_path, l1_bytes=RING_BYTES).close()
    with helios_shm.open(store_path, readonly=True, l1_bytes=RING_BYTES) as engine:
        run_python(code, store_path)
        assert dict(engine.branch("main").head) == {"from": b"outside"}


def test_store_can_be_open_for_reading_and_for_writing_in_one_process(store_path: Path) -> None:
    with helios_shm.open(store_path, l1_bytes=RING_BYTES) as writer:
        commit = put(writer, "main")
        with helios_shm.open(store_path, readonly=True) as reader:
            assert reader.branch("main").last_commit == commit
            with pytest.raises(helios_shm.ReadOnlyError):
                put(reader, "main", "b")
            later = put(writer, "main", "b")
            assert reader.branch("main").last_commit == later
        assert put(writer, "main", "c").sequence == 3


def test_ephemeral_store_is_gone_when_it_was_closed() -> None:
    engine = helios_shm.open(None, l1_bytes=RING_BYTES)
    path, name = engine.path, engine._attachment.identity.segment_name
    put(engine, "main", value=b"x" * 300_000)
    engine.sync()
    assert path.is_dir()
    assert Path("/dev/shm" + name).exists()
    engine.close()
    deadline = time.monotonic() + 20
    while (path.exists() or Path("/dev/shm" + name).exists()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not path.exists()
    assert not Path("/dev/shm" + name).exists()


def test_ephemeral_stores_are_strangers_to_each_other() -> None:
    with (
        helios_shm.open(None, l1_bytes=RING_BYTES) as one,
        helios_shm.open(None, l1_bytes=RING_BYTES) as other,
    ):
        commit = put(one, "main")
        assert one.path != other.path
        assert other.branches() == []
        with pytest.raises(helios_shm.NotFoundError):
            other.snapshot(commit.snapshot.id)


def test_ephemeral_store_cannot_be_read_only() -> None:
    with pytest.raises(ValueError, match="ephemeral"):
        helios_shm.open(None, readonly=True)


# --- references ---


def test_snapshot_is_found_by_id_branch_and_sequence(shared: helios_shm.Engine) -> None:
    commits = [put(shared, "refs", value=bytes([n])) for n in range(3)]
    assert shared.snapshot("refs") == commits[2].snapshot
    assert shared.snapshot("refs@2") == commits[1].snapshot
    for commit in commits:
        assert shared.snapshot(commit.snapshot.id) == commit.snapshot
        assert shared.snapshot(commit.snapshot.id[:16]) == commit.snapshot
    assert shared.snapshot(shared.empty.id) == shared.empty


def test_shortened_id_that_means_two_states_is_ambiguous(shared: helios_shm.Engine) -> None:
    branch = shared.branch("many")
    by_prefix: dict[str, str] = {}
    for n in range(2000):
        workspace = branch.fork()
        workspace["n"] = str(n).encode()
        id = workspace.commit().snapshot.id
        if (other := by_prefix.setdefault(id[:4], id)) != id:
            with pytest.raises(ValueError, match="ambiguous"):
                shared.snapshot(id[:4])
            assert shared.snapshot(id[:12]).id == id
            assert shared.snapshot(other[:12]).id == other
            return
    raise AssertionError("no two of 2000 ids begin alike")


@pytest.mark.parametrize(
    ("ref", "error"),
    [
        ("0" * 64, helios_shm.NotFoundError),
        ("deadbeef", helios_shm.NotFoundError),
        ("abc", helios_shm.NotFoundError),
        ("no such branch", helios_shm.NotFoundError),
        ("refs2@1", helios_shm.NotFoundError),
        ("F" * 64, helios_shm.NotFoundError),
        ("0" * 65, helios_shm.NotFoundError),
        ("", ValueError),
        ("refs2@", ValueError),
        ("refs2@x", ValueError),
        ("refs2@-1", ValueError),
        ("@1", ValueError),
        ("\0", ValueError),
        (None, TypeError),
        (b"refs2", TypeError),
        (1, TypeError),
    ],
)
def test_reference_to_nothing_is_refused(
    shared: helios_shm.Engine, ref: object, error: type[Exception]
) -> None:
    with pytest.raises(error):
        shared.snapshot(ref)  # type: ignore[arg-type]


def test_id_of_a_value_is_no_snapshot(shared: helios_shm.Engine) -> None:
    snapshot = put(shared, "values", value=b"v" * 1000).snapshot
    with pytest.raises(helios_shm.NotFoundError):
        shared.snapshot(snapshot.stat("a").id)


# --- sharing and closing ---


def test_store_opened_twice_in_a_process_is_one_attachment(store_path: Path) -> None:
    first = helios_shm.open(store_path, l1_bytes=RING_BYTES)
    second = helios_shm.open(os.path.relpath(store_path))
    link = store_path.with_name("link")
    link.symlink_to(store_path)
    third = helios_shm.open(link)
    assert first._attachment is second._attachment is third._attachment
    commit = put(first, "main")
    assert first.stats().participants == 1
    first.close()
    third.close()
    with pytest.raises(helios_shm.ClosedError):
        first.branches()
    assert second.branch("main").last_commit == commit
    assert dict(commit.snapshot) == {"a": b"1"}  # its attachment is open still
    second.close()
    with pytest.raises(helios_shm.ClosedError):
        commit.snapshot["a"]


def test_everything_of_a_closed_engine_raises_closed_error(store_path: Path) -> None:
    engine = helios_shm.open(store_path, l1_bytes=RING_BYTES)
    branch = engine.branch("main")
    commit = put(engine, "main", "large", b"x" * 300_000)
    commit = put(engine, "main", "small", b"y")
    snapshot, workspace, empty = commit.snapshot, branch.fork(), engine.empty
    assert snapshot["small"] == b"y"
    assert snapshot["small"] == b"y"
    workspace["b"] = b"2"
    iterator = iter(snapshot.items())
    next(iterator)
    large, small = snapshot.buffer("large"), snapshot.buffer("small")
    engine.close()
    uses: list[Callable[[], object]] = [
        lambda: engine.empty,
        lambda: engine.branch("main"),
        engine.branches,
        lambda: engine.snapshot(snapshot.id),
        lambda: engine.snapshot("main"),
        engine.sync,
        engine.stats,
        engine.__enter__,
        lambda: branch.engine,
        lambda: branch.head,
        lambda: branch.last_commit,
        branch.fork,
        lambda: branch.transaction().__enter__(),
        lambda: list(branch.log()),
        lambda: branch.at(1),
        lambda: branch.restore(snapshot),
        lambda: branch.compare_and_set(snapshot, snapshot),
        lambda: branch.wait(timeout=0),
        branch.delete,
        lambda: snapshot.engine,
        lambda: snapshot.nbytes,
        lambda: snapshot["large"],
        lambda: snapshot["small"],
        lambda: snapshot.get("small"),
        lambda: "small" in snapshot,
        lambda: len(snapshot),
        lambda: list(snapshot),
        lambda: list(reversed(snapshot)),
        lambda: list(snapshot.items("s")),
        lambda: len(snapshot.keys("s")),
        lambda: snapshot.stat("small"),
        lambda: snapshot.buffer("small"),
        lambda: snapshot.diff(empty),
        snapshot.fork,
        lambda: workspace["small"],
        lambda: len(workspace),
        lambda: list(workspace),
        workspace.commit,
        lambda: workspace.commit("message"),
    ]
    for number, use in enumerate(uses):
        with pytest.raises(helios_shm.ClosedError, match="closed"):
            print(number, use())
    assert workspace.edits == {"b": b"2"}
    assert large == b"x" * 300_000
    assert bytes(small) == b"y"
    assert (commit.snapshot, commit.sequence, branch.name, engine.path) == (snapshot, 2, "main", store_path)
    assert "closed" in repr(engine)
    assert snapshot.id[:12] in repr(snapshot)
    engine.close()
    engine.close(sync=False)


def test_context_manager_closes_also_after_an_exception(store_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), helios_shm.open(store_path, l1_bytes=RING_BYTES) as engine:
        put(engine, "main")
        raise ZeroDivisionError
    with pytest.raises(helios_shm.ClosedError):
        engine.branches()


def test_close_makes_all_commits_durable_unless_told_otherwise(store_path: Path) -> None:
    engine = helios_shm.open(store_path, l1_bytes=RING_BYTES)
    put(engine, "main")
    engine.close()
    with helios_shm.open(store_path, l1_bytes=RING_BYTES) as engine:
        row = engine._attachment.reader.branch("main")
        assert row is not None and row.sequence == 1
        put(engine, "main", "b")
        engine.close(sync=False)
    with helios_shm.open(store_path, l1_bytes=RING_BYTES) as engine:  # the segment had it
        assert engine.branch("main").last_commit.sequence == 2


def test_engine_that_nobody_closed_gives_its_slot_back(store_path: Path) -> None:
    with helios_shm.open(store_path, l1_bytes=RING_BYTES) as engine:
        put(engine, "main")
    for sequence in (2, 3, 4):
        engine = helios_shm.open(store_path, l1_bytes=RING_BYTES)
        assert put(engine, "main", f"{sequence}").sequence == sequence
        del engine
    with helios_shm.open(store_path, l1_bytes=RING_BYTES) as engine:
        assert engine.stats().participants == 1
        assert engine.branch("main").last_commit.sequence == 4


def test_program_that_ends_without_closing_loses_nothing(store_path: Path) -> None:
    code = """
import sys, helios_shm
engine = helios_shm.open(sys.argv[1], l1_bytes=4 << 20)
workspace = engine.branch("main").fork()
workspace["a"] = b"1"
print(workspace.commit().snapshot.id)
"""
    id = run_python(code, store_path)
    with helios_shm.open(store_path, l1_bytes=RING_BYTES) as engine:
        assert engine.branch("main").head.id == id
        assert dict(engine.branch("main").head) == {"a": b"1"}


def test_engine_can_be_closed_while_threads_use_it(store_path: Path) -> None:
    for _ in range(3):
        engine = helios_shm.open(store_path, l1_bytes=RING_BYTES)
        snapshot = put(engine, "main", value=b"x" * 1000).snapshot
        ended: list[type] = []

        def work(engine: helios_shm.Engine, use: Callable[[], object], ended: list[type] = ended) -> None:
            try:
                while True:
                    use()
            except helios_shm.HeliosError as error:
                ended.append(type(error))

        uses: list[Callable[[], object]] = [
            lambda engine=engine: put(engine, "main", str(time.monotonic_ns())),  # type: ignore[misc]
            lambda snapshot=snapshot: list(snapshot.items()),  # type: ignore[misc]
            lambda engine=engine: engine.stats(),  # type: ignore[misc]
            lambda engine=engine: engine.branch("main").wait(timeout=10),  # type: ignore[misc]
        ]
        threads = [threading.Thread(target=work, args=(engine, use)) for use in uses]
        for thread in threads:
            thread.start()
        put(engine, "other")
        engine.close()
        for thread in threads:
            thread.join()
        assert set(ended) == {helios_shm.ClosedError}


# --- waiting for durability ---


def stopped_coordinator(engine: helios_shm.Engine) -> psutil.Process:
    """The store's coordinator, stopped where it is."""
    engine.sync()
    process = psutil.Process(engine.stats().coordinator_pid)
    process.suspend()
    return process


def test_sync_gives_up_after_its_timeout_and_says_who_is_late(store_path: Path) -> None:
    with helios_shm.open(store_path, l1_bytes=RING_BYTES) as engine:
        put(engine, "main")
        coordinator = stopped_coordinator(engine)
        try:
            put(engine, "main", "b")
            with pytest.raises(helios_shm.BusyError, match=str(coordinator.pid)) as raised:
                engine.sync(timeout=0.05)
            assert raised.value.commit is None
        finally:
            coordinator.resume()
        engine.sync(timeout=30)


def test_durable_commit_that_is_late_happened_all_the_same(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helios_shm.config.DURABLE_DEADLINE", 0.05)
    with helios_shm.open(store_path, l1_bytes=RING_BYTES) as engine:
        branch = engine.branch("main")
        put(engine, "main")
        coordinator = stopped_coordinator(engine)
        try:
            for count in (1, 2):
                workspace = branch.fork()
                workspace.update({f"{count}/{i}": b"" for i in range(count)})
                with pytest.raises(helios_shm.BusyError, match="do not repeat") as raised:
                    workspace.commit(durable=True)
                assert raised.value.commit == branch.last_commit
                assert workspace.edits == {}
                assert workspace.base == branch.head
        finally:
            coordinator.resume()
        engine.sync(timeout=30)


WAITS = {
    "sync": "engine.sync()",
    "wait": "branch.wait()",
    "durable": "workspace.commit(durable=True)",
    "close": "engine.close()",
    "room": "[put(bytes([i]) * 70_000) for i in range(256)]",
}


@pytest.mark.parametrize("wait", WAITS)
def test_ctrl_c_gets_through_every_wait(store_path: Path, wait: str) -> None:
    """The coordinator is stopped, so that no wait ends by itself."""
    code = f"""
import os, sys, psutil, helios_shm
engine = helios_shm.open(sys.argv[1], l1_bytes=4 << 20)
branch = engine.branch("main")
def put(value):
    workspace = branch.fork()
    for i in range(8):
        workspace[str(i)] = os.urandom(70_000)
    return workspace.commit()
put(b"")
engine.sync()
coordinator = psutil.Process(engine.stats().coordinator_pid)
coordinator.suspend()
workspace = branch.fork()
workspace["b"] = b"2"
if {wait!r} in ("sync", "close"):
    workspace.commit()
try:
    print("waiting", coordinator.pid, flush=True)
    {WAITS[wait]}
except KeyboardInterrupt:
    print("interrupted", flush=True)
finally:
    coordinator.resume()
engine.close()
"""
    command = [sys.executable, "-c", code, str(store_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=untraced()) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("waiting"), process.stderr and process.stderr.read()
        waits = psutil.Process(process.pid)
        while waits.status() != psutil.STATUS_SLEEPING:  # it is on its way into the wait
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
        assert out == "interrupted\n", error
        assert process.returncode == 0, error


# --- pickling ---


def test_engine_pickles_as_itself(shared: helios_shm.Engine) -> None:
    commit = put(shared, "pickled")
    copy = pickle.loads(pickle.dumps(shared))
    assert copy.path == shared.path
    assert copy.branch("pickled").last_commit == commit
    copy.close()
    assert shared.branch("pickled").last_commit == commit


UNPICKLE = """
import pickle, sys
import helios_shm
with open(sys.argv[1], "rb") as file:
    engine, branch, snapshot, commit, diff, metrics, error = pickle.load(file)
assert engine.path == branch.engine.path == snapshot.engine.path
assert branch.last_commit == commit and branch.head == snapshot
assert dict(snapshot) == {"a": b"1", "large": b"x" * 300_000}
assert (diff.old, diff.new, diff.added) == (engine.empty, snapshot, ("a", "large"))
assert commit.metrics == metrics and commit.parents[0] == engine.snapshot("main@1")
assert error.conflicts[0].ours == b"1"
with branch.transaction("from there") as workspace:
    workspace["b"] = b"2"
engine.close()
with helios_shm.open(engine.path) as again:
    assert again.branch("main").head["b"] == b"2"
assert snapshot["a"] == b"1"  # what was unpickled is served until the process ends
print(pickle.loads(pickle.dumps(snapshot)).id)
"""


def things_to_pickle(engine: helios_shm.Engine) -> tuple[object, ...]:
    branch = engine.branch("main")
    put(engine, "main")
    commit = put(engine, "main", "large", b"x" * 300_000)
    error = helios_shm.ConflictError("conflict", (helios_shm.Conflict("a", None, b"1", b"2"),))
    diff = engine.empty.diff(commit.snapshot)
    return engine, branch, commit.snapshot, commit, diff, commit.metrics, error


@pytest.mark.parametrize("is_open", [True, False])
def test_pickles_find_their_store_from_a_fresh_process_elsewhere(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_open: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = helios_shm.open(store_path.name, l1_bytes=RING_BYTES)
    things = things_to_pickle(engine)
    (tmp_path / "pickle").write_bytes(pickle.dumps(things))
    id = engine.branch("main").head.id
    if not is_open:
        engine.close()
    assert run_python(UNPICKLE, tmp_path / "pickle", cwd="/") == id
    engine.close()
    with helios_shm.open(store_path, l1_bytes=RING_BYTES) as engine:
        assert engine.branch("main").last_commit.message == "from there"


def test_pickle_whose_store_is_gone_is_not_found_and_says_which_and_where(tmp_path: Path) -> None:
    path = tmp_path / "gone"
    engine = helios_shm.open(path, l1_bytes=RING_BYTES)
    things = things_to_pickle(engine)[:4]
    data = [pickle.dumps(thing) for thing in things]
    uuid = engine._attachment.uuid.hex()
    engine.close()
    wait_until_left(path)
    shutil.move(path, tmp_path / "elsewhere")
    for pickled in data:
        with pytest.raises(helios_shm.NotFoundError, match=f"{uuid}.*{path}"):
            pickle.loads(pickled)
    helios_shm.open(path, l1_bytes=RING_BYTES).close()  # another store at the same place is not it
    for pickled in data:
        with pytest.raises(helios_shm.NotFoundError, match=f"{uuid}.*{path}"):
            pickle.loads(pickled)
    with helios_shm.open(
        tmp_path / "elsewhere", l1_bytes=RING_BYTES
    ):  # but it is found where this process has it
        assert pickle.loads(data[2])["a"] == b"1"


def wait_until_left(path: Path) -> None:
    """Until the store's coordinator has ended."""
    paths = lifecycle.StorePaths.of(path)
    while lifecycle.is_in_use(paths):
        time.sleep(0.01)


# --- the store as a whole ---


def test_stats_are_of_all_processes_together(store_path: Path) -> None:
    with helios_shm.open(store_path, l1_bytes=RING_BYTES) as engine:
        before = engine.stats()
        assert (before.commits, before.participants, before.hit_rate) == (0, 1, 0.0)
        snapshot = put(engine, "main", value=b"v" * 1000).snapshot
        engine.sync()
        after = engine.stats()
        assert (after.commits, after.persist_lag, after.unpersisted_bytes) == (1, 0.0, 0)
        assert after.coordinator_pid is not None and psutil.pid_exists(after.coordinator_pid)
        for _ in range(10):
            assert engine.snapshot(snapshot.id)["a"] == b"v" * 1000
        assert 0 < engine.stats().hit_rate <= 1
        assert engine.stats().cache_bytes > 0
        assert engine.stats().blocks_hashed > before.blocks_hashed


def use_in_child(engine: helios_shm.Engine, snapshot: helios_shm.Snapshot, name: str) -> None:
    assert dict(snapshot) == {"a": b"1"}
    put(engine, name)
    assert engine.stats().participants >= 2


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_engine_goes_into_processes_of_every_start_method(shared: helios_shm.Engine, method: str) -> None:
    snapshot = put(shared, f"for {method}").snapshot
    context: Any = multiprocessing.get_context(method)
    names = [f"{method} {n}" for n in range(2)]
    processes = [context.Process(target=use_in_child, args=(shared, snapshot, name)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert set(names) <= set(shared.branches())


def test_forked_child_that_closes_leaves_the_parent_open(store_path: Path) -> None:
    with helios_shm.open(store_path, l1_bytes=RING_BYTES) as engine:
        put(engine, "main")
        for use_before_close in (False, True):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    if use_before_close:
                        put(engine, "main", "child")
                    engine.close()
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert dict(engine.branch("main").head)["a"] == b"1"
        assert engine.branch("main").last_commit.sequence == 2
