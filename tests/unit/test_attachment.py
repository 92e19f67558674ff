"""A process's attachment: its calls come back whatever happens, its waits end, its slot is one of many."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from blake3 import blake3

import helios_shm
from helios_shm import config
from helios_shm import snapshot as snapshot_module
from helios_shm import workspace as workspace_module
from helios_shm.attachment import Deadline
from helios_shm.l1 import L1

RING_BYTES = 4 << 20


@pytest.fixture
def engine(store_path: Path) -> Iterator[helios_shm.Engine]:
    with helios_shm.open(store_path, l1_bytes=RING_BYTES) as opened:
        yield opened


def noise(seed: str, size: int) -> bytes:
    return blake3(seed.encode()).digest(length=size)


def put(engine: helios_shm.Engine, path: str = "a", value: bytes = b"1") -> helios_shm.Commit:
    workspace = engine.branch("main").fork()
    workspace[path] = value
    return workspace.commit()


# --- calls ---


def interrupt(*_: object) -> int:
    raise KeyboardInterrupt


def test_call_interrupted_while_it_reads_comes_back(
    engine: helios_shm.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """close() waits for every call that is out: one that Ctrl-C had swallowed once kept it waiting for ever."""
    snapshot = put(engine).snapshot
    with monkeypatch.context() as patch:
        patch.setattr(snapshot_module, "_get", interrupt)
        with pytest.raises(KeyboardInterrupt):
            snapshot["absent: only Python says so, and hears the interrupt"]
    assert snapshot["a"] == b"1"
    engine.close()


@pytest.mark.parametrize("count", [1, 2])
def test_call_interrupted_while_it_commits_comes_back_and_the_edits_stay(
    engine: helios_shm.Engine, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    put(engine)
    workspace = engine.branch("main").fork()
    # One edit that changes nothing: the core's answer is then looked at in Python, where an interrupt is heard.
    workspace.update({"a": b"1"} if count == 1 else {f"{i}": b"" for i in range(count)})
    before = workspace.edits
    with monkeypatch.context() as patch:
        patch.setattr(workspace_module, "continued", interrupt)
        patch.setattr(workspace_module.Said, "tell", interrupt)
        with pytest.raises(KeyboardInterrupt):
            workspace.commit("said once" if count > 1 else "")
    assert workspace.edits == before
    commit = workspace.commit()
    assert commit.message == ""
    assert set(commit.snapshot) == {"a", *before}
    engine.close()


def test_calls_are_used_again(engine: helios_shm.Engine) -> None:
    snapshot = put(engine).snapshot
    for n in range(50):
        put(engine, str(n))
        assert dict(engine.snapshot(snapshot.id)) == {"a": b"1"}
    assert len(engine._attachment._calls) <= 3
    assert len(engine._attachment.pool) == len(engine._attachment._calls)


# --- waits ---


def test_deadline_cuts_waits_into_slices() -> None:
    assert Deadline(None).slice_ms() == config.WAIT_SLICE_MS
    assert not Deadline(None).passed()
    assert Deadline(0).passed()
    assert Deadline(-1).slice_ms() == 0
    assert Deadline(1000).slice_ms() == config.WAIT_SLICE_MS
    assert 0 < Deadline(0.02).slice_ms() <= 21


def test_commit_into_a_ring_that_stays_full_gives_up_and_leaves_everything_as_it_was(
    engine: helios_shm.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "COMMIT_DEADLINE", 0.1)
    put(engine)
    engine.sync()
    coordinator = psutil.Process(engine.stats().coordinator_pid)
    branch = engine.branch("main")
    workspace = branch.fork()
    content = {f"{i:03}": noise(str(i), 100_000) for i in range(100)}
    workspace.update(content)
    head = branch.head
    coordinator.suspend()
    try:
        with pytest.raises(helios_shm.CapacityError, match=f"stayed full.*coordinator {coordinator.pid}"):
            workspace.commit("large")
        with pytest.raises(helios_shm.CapacityError, match="stayed full"):
            for i in range(200):
                L1(engine._attachment).put(noise(f"L1 {i}", 100_000))
    finally:
        coordinator.resume()
    assert workspace.edits == content
    assert branch.head == head
    monkeypatch.undo()
    assert workspace.commit("large").sequence == 2
    assert dict(branch.head) == {**content, "a": b"1"}


def test_coordinator_that_was_killed_is_replaced_by_whoever_waits(engine: helios_shm.Engine) -> None:
    put(engine)
    engine.sync()
    for n in range(2):
        first = engine.stats().coordinator_pid
        psutil.Process(first).kill()
        put(engine, f"after {n}")
        engine.sync(timeout=30)
        assert engine.stats().coordinator_pid != first
    assert engine.branch("main").last_commit.sequence == 3


# --- L2 ---


def forgotten(engine: helios_shm.Engine, path: str) -> tuple[str, bytes, bytes]:
    """A value that only L2 has: the state, the value, its id."""
    value = noise(path, 2000)
    snapshot, l1 = put(engine, path, value).snapshot, L1(engine._attachment)
    id = bytes.fromhex(snapshot.stat(path).id)
    for i in range(200):
        l1.put(noise(f"filler {path} {i}", 50_000))
    assert l1.get(id) is None
    return snapshot.id, value, id


def test_what_is_read_from_l2_is_back_in_a_ring_of_which_nobody_reads(engine: helios_shm.Engine) -> None:
    state, value, id = forgotten(engine, "v")
    assert engine.snapshot(state)["v"] == value
    assert L1(engine._attachment).get(id) == value


def test_what_is_read_from_l2_twice_is_back_in_a_ring_of_which_half_is_read(
    engine: helios_shm.Engine,
) -> None:
    state, value, id = forgotten(engine, "v")
    l1 = L1(engine._attachment)
    hot = [l1.put(noise(f"{i}", 50_000)) for i in range(60)][::2]
    for i in range(80):
        assert all(l1.get(each) for each in hot), "what is read in each lap stays"
        l1.put(noise(f"cold {i}", 50_000))
    assert engine.snapshot(state)["v"] == value
    assert l1.get(id) is None
    assert engine.snapshot(state)["v"] == value
    assert l1.get(id) == value


def test_threads_that_read_from_l2_together_all_get_it(engine: helios_shm.Engine) -> None:
    content = {f"{i:03}": noise(str(i), 3000) for i in range(300)}
    workspace = engine.empty.fork()
    workspace.update(content)
    snapshot = workspace.commit().snapshot
    l1 = L1(engine._attachment)
    for i in range(200):
        l1.put(noise(f"filler {i}", 50_000))
    found: list[dict[str, bytes]] = []
    threads = [
        threading.Thread(target=lambda: found.append(dict(engine.snapshot(snapshot.id)))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [content] * 4


# --- participants ---

TAKE_ALL_SLOTS = """
import resource, sys
import helios_shm
from helios_shm import lifecycle
from helios_shm._capi import ffi, lib
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
engine = helios_shm.open(sys.argv[1], l1_bytes=4 << 20)
attachment = engine._attachment
args, keep = lifecycle.open_args(attachment.paths, attachment.identity, lib.HS_OPEN_PARTICIPANT, 4 << 20)
taken = []
while True:
    out = ffi.new("hs_engine **")
    status = lib.hs_engine_open(args, out)
    if status != lib.HS_OK:
        break
    taken.append(out[0])
assert status == lib.HS_FULL, status
print(len(taken) + 1, flush=True)
sys.stdin.read()
"""


def can_have_files(count: int) -> bool:
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= count


@pytest.mark.skipif(not can_have_files(8192), reason="a process may not open so many files")
def test_process_that_finds_no_slot_is_told_so_and_served_once_one_is_free(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "OPEN_DEADLINE", 0.2)
    command = [sys.executable, "-c", TAKE_ALL_SLOTS, str(store_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == 1024
        with pytest.raises(helios_shm.CapacityError, match="slots"):
            helios_shm.open(store_path)
        process.kill()
    monkeypatch.undo()
    with helios_shm.open(store_path) as engine:  # the dead one's slots come back
        assert put(engine).sequence == 1
