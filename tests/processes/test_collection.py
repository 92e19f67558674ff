"""Collection among processes: who holds what, commits beside it, and death of who asks and of the coordinator."""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

import helios_shm
from helios_shm import Branch, Engine
from helios_shm.store import StorePaths
from tests.marking import living, roots_of, stored
from tests.processes.rig import (
    coordinator,
    finish,
    line_of,
    resume,
    start_program,
    until,
    until_nothing_runs,
    workers,
)

FORK = multiprocessing.get_context("fork")
NOW = timedelta(0)
KILL, STOP = 1, 2
STEPS = [
    "gc_trimmed", "gc_marked", "gc_copied", "gc_pending", "stop_raised", "gc_flipped", "gc_committed", "stop_lowered",
    "gc_gone", "gc_deleted", "gc_trashed", "gc_punched", "gc_told",
]  # fmt: skip


def put(branch: Branch, edits: dict[str, bytes]) -> helios_shm.Commit:
    with branch.transaction() as ws:
        ws.update(edits)
    return branch.last_commit


def fill(engine: Engine, commits: int = 8) -> list[dict[str, bytes]]:
    """History that is to go, with values of every size, and a branch that is deleted. Returns main's states."""
    branch, states = engine.branch("main"), [dict[str, bytes]()]
    for n in range(commits):
        edits = {f"{n % 3}/{i}": os.urandom(200) for i in range(60)} | {f"large/{n % 2}": os.urandom(300_000)}
        put(branch, edits)
        states.append({**states[-1], **edits})
    gone = engine.branch("gone")
    put(gone, {f"{i}": os.urandom(500) for i in range(100)})
    gone.delete()
    engine.sync()
    return states[1:]


def epochs(path: Path) -> int:
    return (path / "coordinator.log").read_text().count("INFO epoch")


@contextlib.contextmanager
def armed(path: Path, monkeypatch: pytest.MonkeyPatch, step: str, action: int) -> Iterator[Engine]:
    """An engine whose coordinator dies, or stops, at a step."""
    monkeypatch.setenv("HELIOS_STEP_COORDINATOR", f"{step} 1 {action}")
    with helios_shm.open(path) as engine:
        until("the armed coordinator runs", lambda: epochs(path) == 1)
        monkeypatch.delenv("HELIOS_STEP_COORDINATOR")
        yield engine


def collected(engine: Engine, states: list[dict[str, bytes]]) -> None:
    """Two commits are left, whole, and nothing else is."""
    assert [dict(commit.snapshot) for commit in engine.branch("main").log()] == states[:-3:-1]
    assert engine.check().ok


def only_the_living_are_left(path: Path) -> None:
    with helios_shm.open(path) as engine:
        engine.gc(grace=NOW)
        nodes, values = living(engine, roots_of(engine))
    until_nothing_runs(path)
    kept_nodes, kept_values, files = stored(StorePaths(path))
    assert (kept_nodes, kept_values | files) == (nodes, values)
    names = {file.parent.name + file.name for file in (path / "blobs").rglob("*") if file.is_file()}
    assert names == {id.hex() for id in files}


# ---- who holds what ----

held: dict[str, object] = {}


def detached(engine: Engine, text: str) -> str:
    """A state that no branch has, and that nobody holds."""
    ws = engine.empty.fork()
    ws.update({f"{text}/{i}": f"{text} {i} ".encode() * 30 for i in range(40)})
    return ws.commit().snapshot.id


def hold(engine: Engine, id: str) -> None:
    held[id] = engine.snapshot(id)


def whole(engine: Engine, id: str) -> int:
    snapshot = held[id]
    assert isinstance(snapshot, helios_shm.Snapshot)
    return len(dict(snapshot))


def let_go(engine: Engine, id: str) -> None:
    del held[id]


def is_gone(engine: Engine, id: str) -> bool:
    try:
        engine.snapshot(id)
    except helios_shm.NotFoundError:
        return True
    return False


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_process_that_only_sleeps_keeps_what_it_holds(store_path: Path, method: str) -> None:
    with (
        helios_shm.open(store_path) as engine,
        workers(2, multiprocessing.get_context(method), engine) as (first, second),
    ):
        id, other = detached(engine, "state"), detached(engine, "other")
        first.ask(hold, id)
        second.ask(hold, id)
        second.ask(hold, other)
        for _ in range(2):
            engine.gc(grace=NOW)
            assert first.ask(whole, id) == second.ask(whole, other) == 40
        first.ask(let_go, id)
        second.kill()
        engine.gc(grace=NOW)
        assert is_gone(engine, id) and is_gone(engine, other)
        assert first.ask(is_gone, id) and engine.check().ok


def first_use(
    engine: Engine, snapshot: helios_shm.Snapshot, workspace: helios_shm.Workspace
) -> tuple[int, int]:
    return len(dict(snapshot)), len(dict(workspace.commit().snapshot))


def test_a_forked_child_keeps_what_it_inherited_before_its_first_use(store_path: Path) -> None:
    with helios_shm.open(store_path) as engine:
        snapshot = engine.snapshot(detached(engine, "state"))
        workspace = engine.snapshot(detached(engine, "base")).fork()
        workspace["own"] = b"edit"
        ids = [snapshot.id, workspace.base.id]
        with workers(1, FORK, engine, snapshot, workspace) as (child,):
            del snapshot, workspace
            for _ in range(3):
                engine.gc(grace=NOW)
            assert not any(is_gone(engine, id) for id in ids)
            assert child.ask(first_use) == (40, 41)
            engine.gc(grace=NOW)
            assert child.ask(first_use) == (40, 41)
        engine.gc(grace=NOW)
        assert all(is_gone(engine, id) for id in ids)


ORPHAN = """
import os, sys
import helios_shm
engine = helios_shm.open(sys.argv[1])
snapshot = engine.snapshot(sys.argv[2])
pid = os.fork()
if pid:
    print(pid, flush=True)
    os._exit(0)  # as one that is killed: nothing is closed
sys.stdin.readline()
print(len(dict(snapshot)), flush=True)
engine.close()
"""


def test_an_orphan_keeps_what_its_parent_held_when_it_was_forked(store_path: Path) -> None:
    with helios_shm.open(store_path) as engine:
        id = detached(engine, "state")
        parent = start_program(ORPHAN, store_path, id)
        assert int(line_of(parent)) > 0
        until("the parent is gone", lambda: parent.poll() is not None)
        for _ in range(2):
            engine.gc(grace=NOW)
        assert parent.stdin is not None
        parent.stdin.write("go on\n")
        parent.stdin.flush()
        assert line_of(parent) == "40"
        parent.communicate()
        until("its orphan has left", lambda: engine.stats().participants == 1)
        engine.gc(grace=NOW)
        assert is_gone(engine, id)


# ---- deaths ----


@pytest.mark.parametrize("step", STEPS)
def test_the_coordinator_dies_at_a_step_and_the_next_one_collects(
    store_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with armed(store_path, monkeypatch, step, KILL) as engine:
        states = fill(engine)
        report = engine.gc(history=2, grace=NOW)
        assert epochs(store_path) == 2 or step == "gc_told", "the step was not reached"
        assert report.commits_dropped == len(states) - 2 + 1, (
            "those of main, and one of the branch that is gone"
        )
        assert report.freed_bytes > 5 * 300_000 and report.large_values_deleted == 5
        collected(engine, states)
        put(engine.branch("main"), {"after": b"it"})
        engine.sync()
        assert engine.check().ok
    only_the_living_are_left(store_path)


ASKER = """
import sys
from datetime import timedelta
import helios_shm
with helios_shm.open(sys.argv[1]) as engine:
    print("asking", flush=True)
    try:
        print(engine.gc(history=2, grace=timedelta(0)).commits_dropped, flush=True)
    except KeyboardInterrupt:
        print("given up", flush=True)
"""


def test_who_asked_dies_and_the_collection_goes_on(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = StorePaths(store_path)
    with armed(store_path, monkeypatch, "gc_marked", STOP) as engine:
        states = fill(engine)
        pid = coordinator(store_path)
        asker = start_program(ASKER, store_path)
        assert line_of(asker) == "asking"
        until("the coordinator has marked", lambda: "T (stopped)" in Path(f"/proc/{pid}/status").read_text())
        asker.kill()
        asker.communicate()
        resume(pid)
        until("the request is done", lambda: not paths.gc_request.exists())
        collected(engine, states)
        assert engine.gc(history=2, grace=NOW).commits_dropped == 0
        assert not paths.gc_result.exists()
    only_the_living_are_left(store_path)


def test_who_gives_up_takes_the_request_back(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = StorePaths(store_path)
    with armed(store_path, monkeypatch, "gc_marked", STOP) as engine:
        fill(engine)
        pid = coordinator(store_path)
        asker = start_program(ASKER, store_path)
        assert line_of(asker) == "asking"
        until("the coordinator has marked", lambda: "T (stopped)" in Path(f"/proc/{pid}/status").read_text())
        asker.send_signal(signal.SIGINT)
        given_up = line_of(asker)
        left = paths.gc_request.exists()
        resume(pid)
        finish(asker)
        assert given_up == "given up" and not left
        engine.sync()
        assert engine.check().ok
        assert engine.gc(history=2, grace=NOW).freed_bytes > 0
    only_the_living_are_left(store_path)


def test_two_who_ask_take_turns(store_path: Path) -> None:
    with helios_shm.open(store_path) as engine:
        states = fill(engine)
        askers = [start_program(ASKER, store_path) for _ in range(2)]
        dropped = sorted(int(finish(asker).split()[-1]) for asker in askers)
        assert dropped[0] == 0 and dropped[1] > 0
        collected(engine, states)


# ---- commits beside it ----


def commit_many(engine: Engine, name: str, count: int) -> list[str]:
    """Commits that each replace some of a state. Returns the newest state's keys."""
    branch, state = engine.branch(name), dict[str, bytes]()
    for n in range(count):
        edits = {f"{name}/{(n * 7 + i) % 50}": f"{name} {n} {i} ".encode() * (1 + n % 40) for i in range(10)}
        with branch.transaction(f"{n}") as ws:
            ws.update(edits)
        state.update(edits)
        assert branch.head[f"{name}/{n * 7 % 50}"] == edits[f"{name}/{n * 7 % 50}"]
    assert dict(branch.head) == state
    return sorted(state)


def test_commits_go_on_beside_collections(store_path: Path) -> None:
    with helios_shm.open(store_path) as engine:
        engine.branch("main", at=engine.empty)
        with workers(3, FORK, engine) as team:
            for n, worker in enumerate(team):
                worker.tell(commit_many, f"branch {n}", 1500)
            pauses, freed = [], 0
            for _ in range(8):
                report = engine.gc(history=3, grace=NOW)
                pauses.append(report.pause_ns / 1e6)
                freed += report.freed_bytes
            keys = [worker.hear() for worker in team]
        print("longest pauses of a collection, ms:", [round(pause, 1) for pause in pauses])
        assert freed > 0
        for n, names in enumerate(keys):
            log = list(engine.branch(f"branch {n}").log())
            assert [commit.message for commit in log][:3] == ["1499", "1498", "1497"]
            assert sorted(log[0].snapshot) == names
            assert all(len(dict(commit.snapshot)) > 0 for commit in log)
        assert engine.check().ok
    only_the_living_are_left(store_path)
