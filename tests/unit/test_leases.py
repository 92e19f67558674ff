"""Leases: what a process holds is seen from outside, in its table, for as long as an object of it lives."""

import contextlib
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

import helios_shm
from helios_shm._capi import ffi, hot, lib
from helios_shm.attachment import Attachment, empty_root
from helios_shm.snapshot import make_snapshot
from tests.processes.rig import until
from tests.programs import untraced

NOW = timedelta(0)
HEADER_BYTES = 64
COUNT_BITS = 16


def words_of(path: Path) -> Iterator[int]:
    """The words of a table whose count is not 0."""
    data = path.read_bytes()[HEADER_BYTES:]
    for at in range(0, len(data), 8):
        word = int.from_bytes(data[at : at + 8], "little")
        if word & ((1 << COUNT_BITS) - 1):
            yield word


def tables(store: Path) -> list[Path]:
    return sorted(path for path in (store / "leases").iterdir() if not path.name.startswith("."))


def leased(store: Path) -> set[bytes]:
    """What the ids begin with that any process holds."""
    return {(word >> COUNT_BITS).to_bytes(6, "little") for path in tables(store) for word in words_of(path)}


def is_leased(store: Path, state: helios_shm.Snapshot | str) -> bool:
    id = state if isinstance(state, str) else state.id
    return bytes.fromhex(id)[:6] in leased(store)


def held(engine: helios_shm.Engine) -> int:
    """How many states this process holds."""
    gc.collect()
    return int(lib.hs_leases_count(engine._attachment._table))


def state_of(engine: helios_shm.Engine, number: int) -> helios_shm.Snapshot:
    workspace = engine.empty.fork()
    workspace["number"] = str(number).encode()
    return workspace.commit().snapshot


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def in_child(what: Callable[[], object]) -> int:
    """Fork; the child's exit status says whether ``what`` came to its end. Returns its pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(BaseException):
            what()
            status = 0
        os._exit(status)
    return pid


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# --- who holds what ---


def test_an_engine_that_holds_nothing_has_an_empty_table(engine: helios_shm.Engine, store_path: Path) -> None:
    assert held(engine) == 0 and leased(store_path) == set()
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tables(store_path))
    assert (store_path / "leases").stat().st_mode & 0o777 == 0o700


def test_snapshots_hold_their_state(engine: helios_shm.Engine, store_path: Path) -> None:
    snapshot = state_of(engine, 1)
    other = engine.snapshot(snapshot.id)
    assert is_leased(store_path, snapshot)
    del other
    assert is_leased(store_path, snapshot)
    id = snapshot.id
    del snapshot
    assert not is_leased(store_path, id) and held(engine) == 0


def test_workspaces_hold_their_base(engine: helios_shm.Engine, store_path: Path) -> None:
    workspace = state_of(engine, 1).fork()
    first = workspace.base.id
    assert is_leased(store_path, first)
    workspace["k"] = b"v"
    second = workspace.commit().snapshot.id
    assert is_leased(store_path, second) and not is_leased(store_path, first)
    copy = workspace.fork()
    del workspace
    assert is_leased(store_path, second)
    copy._base_snapshot = None  # as a hot commit leaves it
    assert is_leased(store_path, second)
    del copy
    assert not is_leased(store_path, second) and held(engine) == 0


def test_a_fork_holds_by_its_snapshot_until_that_goes(engine: helios_shm.Engine, store_path: Path) -> None:
    snapshot = state_of(engine, 1)
    id, workspace = snapshot.id, snapshot.fork()
    del snapshot
    workspace._base_snapshot = None
    assert is_leased(store_path, id)
    assert workspace.base.id == id and workspace["number"] == b"1"


def test_commits_hold_what_they_made(engine: helios_shm.Engine, store_path: Path) -> None:
    branch = engine.branch("main")
    workspace = branch.fork()
    workspace["k"] = b"v"
    commit = workspace.commit("slow", metadata={"a": 1})
    workspace["k"] = b"w"
    hot_commit = workspace.commit()
    first, second = commit._record[16:48].hex(), hot_commit._record[16:48].hex()
    del workspace
    assert is_leased(store_path, first) and is_leased(store_path, second)
    moved = branch.restore(commit.snapshot)
    del commit, hot_commit
    assert is_leased(store_path, first) and not is_leased(store_path, second)
    del moved
    assert held(engine) == 0


def test_edits_hold_the_states_that_they_nest(engine: helios_shm.Engine, store_path: Path) -> None:
    workspace, inner = engine.empty.fork(), state_of(engine, 1)
    workspace.put("by object", inner)
    workspace.put("by id", bytes.fromhex(inner.id), kind="snapshot")
    id = inner.id
    del inner
    assert is_leased(store_path, id)
    del workspace["by object"]
    assert is_leased(store_path, id)
    workspace.discard()
    assert not is_leased(store_path, id)


def test_all_operations_together_leave_nothing(engine: helios_shm.Engine, store_path: Path) -> None:
    branch = engine.branch("main")
    for number in range(30):
        with branch.transaction(f"commit {number}") as workspace:
            workspace["number"] = str(number).encode()
            workspace["large"] = bytes(2000) + str(number).encode() * 1000
        detached = branch.head.fork()
        detached["x"] = b"y"
        side = detached.commit().snapshot
        branch.compare_and_set(branch.head, side)
        branch.restore(branch.at(1).snapshot)
        branch.undo()
        losing = branch.fork()
        with branch.transaction() as workspace:
            workspace["number"] = b"other"
        losing["number"] = b"mine"
        with contextlib.suppress(helios_shm.ConflictError):
            losing.commit()
        engine.tag(f"t{number}", side) if hasattr(engine, "tag") else None
        assert pickle.loads(pickle.dumps(side)) == side
        assert dict(side.items()) and side.diff(branch.head)
        assert [commit.sequence for commit in branch.log(3)]
        with pytest.raises(helios_shm.NotFoundError):
            engine.snapshot("ab" * 32)
    del workspace, detached, side, losing
    assert held(engine) == 0 and leased(store_path) == set()


def test_a_table_goes_with_its_process_and_with_close(store_path: Path) -> None:
    with helios_shm.open(store_path, l1_bytes=4 << 20) as engine:
        snapshot = state_of(engine, 1)
        mine = [path for path in tables(store_path) if list(words_of(path))]
        assert len(mine) == 1
    assert mine[0] not in tables(store_path)
    with pytest.raises(helios_shm.ClosedError):
        len(snapshot)
    del snapshot


def test_a_million_states_are_held(engine: helios_shm.Engine, store_path: Path) -> None:
    attachment, count = engine._attachment, 1_000_000
    roots = (number.to_bytes(6, "little") + bytes(26) for number in range(1, count + 1))
    kept = [make_snapshot(attachment, root) for root in roots]
    assert held(engine) == count
    largest = max(tables(store_path), key=lambda path: path.stat().st_size)
    words = largest.read_bytes()[HEADER_BYTES:]
    assert sum(1 for at in range(0, len(words), 8) if words[at : at + 2] != b"\0\0") == count
    del kept
    assert held(engine) == 0 and leased(store_path) == set()


def test_threads_hold_and_let_go_beside_each_other(engine: helios_shm.Engine, store_path: Path) -> None:
    branch, failures = engine.branch("main"), []

    def run(name: str) -> None:
        try:
            for number in range(100):
                workspace = branch.fork()
                workspace[name] = str(number).encode()
                workspace.commit()
                workspace[name] = b"x" * 5000
                snapshot = workspace.commit("slow").snapshot
                assert is_leased(store_path, snapshot)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert held(engine) == 0


# --- forks and deaths ---


def test_a_child_holds_what_it_inherited_before_it_uses_it(
    engine: helios_shm.Engine, store_path: Path
) -> None:
    snapshot = state_of(engine, 7)
    id, inherited = snapshot.id, [snapshot]
    ready, go = os.pipe(), os.pipe()

    def child() -> None:
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        assert inherited[0]["number"] == b"7"  # it attaches here
        os.write(ready[1], b"x")
        os.read(go[0], 1)

    pid = in_child(child)
    os.read(ready[0], 1)
    del snapshot
    inherited.clear()
    assert held(engine) == 0 and is_leased(store_path, id)
    assert engine.gc(grace=NOW).freed_bytes >= 0
    os.write(go[1], b"x")
    os.read(ready[0], 1)
    assert is_leased(store_path, id)
    os.write(go[1], b"x")
    assert status_of(pid) == 0
    engine.gc(grace=NOW)
    assert not is_leased(store_path, id)
    with pytest.raises(helios_shm.NotFoundError):
        engine.snapshot(id)
    for end in (*ready, *go):
        os.close(end)


def test_a_child_outlives_its_parent_with_what_it_holds(store_path: Path) -> None:
    ready, go = os.pipe(), os.pipe()

    def parent() -> None:
        engine = helios_shm.open(store_path, l1_bytes=4 << 20)
        snapshot = state_of(engine, 5)

        def child() -> None:
            os.write(ready[1], bytes.fromhex(snapshot.id))
            os.read(go[0], 1)
            assert snapshot["number"] == b"5"
            os.write(ready[1], b"whole")

        in_child(child)
        os._exit(0)

    assert status_of(in_child(parent)) == 0
    id = os.read(ready[0], 32).hex()
    with helios_shm.open(store_path) as engine:
        assert is_leased(store_path, id)
        engine.gc(grace=NOW)
        os.write(go[1], b"x")
        assert os.read(ready[0], 5) == b"whole"
    for end in (*ready, *go):
        os.close(end)


def test_the_table_of_who_was_killed_is_nobodys(engine: helios_shm.Engine, store_path: Path) -> None:
    ready = os.pipe()

    def child() -> None:
        snapshot = state_of(engine, 9)
        os.write(ready[1], bytes.fromhex(snapshot.id))
        signal.pause()

    pid = in_child(child)
    id = os.read(ready[0], 32).hex()
    engine.gc(grace=NOW)
    assert is_leased(store_path, id) and engine.snapshot(id)["number"] == b"9"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    engine.gc(grace=NOW)
    assert not is_leased(store_path, id)
    with pytest.raises(helios_shm.NotFoundError):
        engine.snapshot(id)
    os.close(ready[0])
    os.close(ready[1])


# --- what is trusted, and what is looked for ---


@pytest.fixture
def collected(engine: helios_shm.Engine) -> helios_shm.Engine:
    """An engine over a store of which something was deleted."""
    state_of(engine, 1000)
    engine.sync()
    engine.gc(grace=NOW)
    assert engine._attachment._collection() > 0
    return engine


def test_nothing_is_looked_for_before_anything_was_deleted(engine: helios_shm.Engine) -> None:
    assert make_snapshot(engine._attachment, bytes(32))._trusted
    branch = engine.branch("main")
    workspace = branch.fork()
    assert workspace._trusted
    workspace["k"] = b"v"
    assert workspace.commit()._trusted and branch.head._trusted and branch.last_commit._trusted


def test_what_was_held_all_the_time_is_trusted(collected: helios_shm.Engine) -> None:
    branch = collected.branch("main")
    workspace = branch.fork()
    assert workspace._trusted
    for number in range(3):
        workspace["k"] = str(number).encode()
        commit = workspace.commit() if number else workspace.commit("slow")
        assert commit._trusted and commit.snapshot._trusted and workspace._trusted
    assert workspace.base._trusted and workspace.fork()._trusted and commit.snapshot.fork()._trusted
    assert branch.head._trusted and branch.last_commit._trusted and branch.last_commit.snapshot._trusted
    assert branch.restore(commit.snapshot)._trusted


def test_what_nobody_held_is_looked_for_on_first_use(collected: helios_shm.Engine) -> None:
    attachment, live = collected._attachment, state_of(collected, 3)
    for use in (
        len,
        dict,
        lambda s: s["number"],
        lambda s: "number" in s,
        lambda s: s.fork(),
        lambda s: s.diff(collected.empty),
    ):
        found = make_snapshot(attachment, live._root)
        assert not found._trusted
        use(found)
        assert found._trusted
        gone = make_snapshot(attachment, bytes(range(32)))
        with pytest.raises(helios_shm.NotFoundError, match="collected"):
            use(gone)
        assert not gone._trusted
    assert len(make_snapshot(attachment, empty_root())) == 0


def test_a_state_that_was_collected_cannot_be_used_anywhere(collected: helios_shm.Engine) -> None:
    branch, lost = collected.branch("main"), pickle.dumps(state_of(collected, 4))
    assert collected.gc(grace=NOW).freed_bytes >= 0
    gone = pickle.loads(lost)  # still in this process's node cache, and in the ring
    with branch.transaction() as workspace:
        workspace["k"] = b"v"
    for use in (
        lambda: gone["number"],
        lambda: branch.restore(gone),
        lambda: branch.compare_and_set(branch.head, gone),
        lambda: collected.branch("new", at=gone),
        lambda: collected.snapshot(gone.id),
    ):
        with pytest.raises(helios_shm.NotFoundError):
            use()
    for nested in (gone, gone._root):
        outer = collected.empty.fork()
        outer.put("nested", nested, kind="snapshot")
        with pytest.raises(helios_shm.NotFoundError):
            outer.commit()
    again = state_of(collected, 4)
    assert again == gone and gone["number"] == again["number"] == b"4"


def test_the_same_value_and_state_are_written_again_after_a_deletion(collected: helios_shm.Engine) -> None:
    value = bytes(range(256)) * 8

    def write() -> str:
        workspace = collected.empty.fork()
        workspace["value"] = value
        return workspace.commit().snapshot.id

    first = write()
    for _ in range(3):
        collected.gc(grace=NOW)
        with pytest.raises(helios_shm.NotFoundError):
            collected.snapshot(first)
        assert write() == first
        snapshot = collected.snapshot(first)
        collected.sync()
        collected._attachment.forget_nodes()
        assert snapshot["value"] == value
        del snapshot


def test_head_read_while_something_is_deleted_is_looked_for(collected: helios_shm.Engine) -> None:
    branch = collected.branch("main")
    with branch.transaction() as workspace:
        workspace["k"] = b"v"
    before = collected._attachment._collection()
    root = branch.head._root
    assert make_snapshot(collected._attachment, root, before)._trusted
    assert not make_snapshot(collected._attachment, root, before - 2)._trusted
    assert not make_snapshot(collected._attachment, root, before + 1)._trusted


# --- a process that is stopped ---


@pytest.mark.slow
def test_who_is_stopped_in_a_commit_breaks_nothing(engine: helios_shm.Engine) -> None:
    branch = engine.branch("main")
    with branch.transaction() as workspace:
        workspace["k"] = b"v"
    state_of(engine, 6)  # there is something to delete
    ready = os.pipe()

    def child() -> None:
        workspace = branch.fork()
        workspace["child"] = b"1"
        os.write(ready[1], b"x")
        lib.hs_step_arm(b"commit_begun", 1, 2)
        workspace.commit()

    pid = in_child(child)
    os.read(ready[0], 1)
    assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
    try:
        with pytest.raises(helios_shm.BusyError, match=str(pid)):
            engine.gc(grace=NOW)
        with branch.transaction() as workspace:
            workspace["k"] = b"w"
    finally:
        os.kill(pid, signal.SIGCONT)
    assert status_of(pid) == 0
    assert dict(branch.head) == {"child": b"1", "k": b"w"}
    engine.gc(grace=NOW)
    assert dict(branch.head) == {"child": b"1", "k": b"w"}
    os.close(ready[0])
    os.close(ready[1])


# --- the extension's own ---


def test_bad_arguments_make_nothing(engine: helios_shm.Engine) -> None:
    attachment = engine._attachment
    for call in (
        lambda: make_snapshot(),  # type: ignore[call-arg]
        lambda: make_snapshot(attachment, b"short"),
        lambda: make_snapshot(None, bytes(32)),  # type: ignore[arg-type]
        lambda: make_snapshot(attachment, bytes(32), "1"),  # type: ignore[arg-type]
        lambda: hot.make_commit(b"record", attachment, "1"),  # type: ignore[arg-type]
        lambda: hot.commit_of_call(b"record", attachment, None),  # type: ignore[arg-type]
        lambda: engine.empty.fork()._trust_under("1"),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError):
            call()
    snapshot = make_snapshot(attachment, bytes(32))
    for name in ("_attachment", "_root"):
        with pytest.raises((TypeError, AttributeError)):
            setattr(snapshot, name, getattr(snapshot, name))
    bare = helios_shm.Snapshot.__new__(helios_shm.Snapshot)
    with pytest.raises(ValueError, match="holds no state"):
        bare._trusted = True
    del snapshot
    assert held(engine) == 0


def test_a_store_that_cannot_be_written_has_no_tables() -> None:
    out = ffi.new("hs_leases **")
    assert lib.hs_leases_open(ffi.NULL, out) == lib.HS_OK
    assert lib.hs_leases_publish(out[0]) == lib.HS_OK
    lib.hs_leases_close(out[0])
    assert issubclass(Attachment, hot.AttachmentBase)


def test_tables_of_the_dead_go_with_their_slots(engine: helios_shm.Engine) -> None:
    """Not only at the next collection: a store that is never collected would keep one for each that was ever killed."""
    before = tables(engine.path)
    program = "import os, sys, helios_shm; e = helios_shm.open(sys.argv[1]); os.kill(os.getpid(), 9)"
    for _ in range(3):
        subprocess.run([sys.executable, "-c", program, str(engine.path)], check=False, env=untraced())
    until("the tables are gone", lambda: committed(engine) and tables(engine.path) == before)


def committed(engine: helios_shm.Engine) -> bool:
    """Something for the coordinator to do, and with it a look at who lives."""
    with engine.branch("main").transaction() as ws:
        ws["n"] = os.urandom(8)
    engine.sync()
    return True
