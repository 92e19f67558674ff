"""Undo and redo: beside an editor's two stacks, across processes, restarts and kills, and against commits of others."""

import contextlib
import multiprocessing
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import helios_shm
from helios_shm import config
from tests.programs import untraced

RING_BYTES = 4 << 20
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[helios_shm.Engine]:
    with helios_shm.open(tmp_path_factory.mktemp("undo") / "store", l1_bytes=RING_BYTES) as opened:
        yield opened


@pytest.fixture
def branch(engine: helios_shm.Engine, request: pytest.FixtureRequest) -> helios_shm.Branch:
    return engine.branch(request.node.name[:200])


def put(branch: helios_shm.Branch, value: str, message: str | None = None) -> helios_shm.Commit:
    workspace = branch.fork()
    workspace["k"] = value.encode()
    return workspace.commit(value if message is None else message)


def value_of(branch: helios_shm.Branch) -> str:
    return branch.head["k"].decode()


# --- one after the other ---


def test_undo_and_redo_are_commits_of_their_own(branch: helios_shm.Branch) -> None:
    made = [put(branch, value) for value in "abc"]
    undone = branch.undo()
    assert (undone.sequence, undone.message, undone.snapshot) == (4, "undo: c", made[1].snapshot)
    assert undone.parents == (made[2].snapshot,)
    assert undone.metadata == {"undo": {"to": 2, "of": 3, "below": 0}}
    assert branch.undo().metadata == {"undo": {"to": 1, "of": 2, "below": 4}}
    redone = branch.redo()
    assert (redone.sequence, redone.message, redone.snapshot) == (6, "redo: b", made[1].snapshot)
    assert redone.metadata == {"undo": {"to": 2, "stack": 4}}
    assert branch.redo().snapshot == made[2].snapshot
    assert [commit.message for commit in branch.log()] == [
        "redo: c", "redo: b", "undo: b", "undo: c", "c", "b", "a",
    ]  # fmt: skip
    assert branch.at(3) == made[2]


def test_first_commit_cannot_be_undone_and_nothing_redone_without_an_undo(branch: helios_shm.Branch) -> None:
    for step in (branch.undo, branch.redo):
        with pytest.raises(helios_shm.NotFoundError, match="no commit"):
            step()
    put(branch, "a")
    with pytest.raises(helios_shm.NotFoundError, match="nothing to redo"):
        branch.redo()
    put(branch, "b")
    branch.undo()
    with pytest.raises(helios_shm.NotFoundError, match="nothing to undo"):
        branch.undo()
    branch.redo()
    with pytest.raises(helios_shm.NotFoundError, match="nothing to redo"):
        branch.redo()
    assert branch.last_commit.sequence == 4 and value_of(branch) == "b"


def test_commit_after_an_undo_ends_what_could_be_redone_and_is_undone_itself(
    branch: helios_shm.Branch,
) -> None:
    for value in "abc":
        put(branch, value)
    branch.undo()
    put(branch, "d")
    with pytest.raises(helios_shm.NotFoundError, match="nothing to redo"):
        branch.redo()
    assert [branch.undo() and value_of(branch) for _ in range(2)] == ["b", "a"]
    assert [branch.redo() and value_of(branch) for _ in range(2)] == ["b", "d"]


def test_restores_and_moves_are_undone_like_commits(branch: helios_shm.Branch) -> None:
    first = put(branch, "a")
    second = put(branch, "b")
    branch.restore(first.snapshot, "back")
    assert branch.undo().message == "undo: back"
    assert value_of(branch) == "b"
    assert branch.compare_and_set(second, branch.engine.empty)
    assert branch.undo().message == "undo: commit 5" and value_of(branch) == "b"
    branch.redo()
    assert branch.head == branch.engine.empty


def test_merge_is_undone_and_redone_as_one_commit(branch: helios_shm.Branch) -> None:
    put(branch, "a")
    other = branch.engine.branch(branch.name[:190] + " other", at=branch.head)
    for i in range(3):
        with other.transaction() as workspace:
            workspace[f"other/{i}"] = b""
    with branch.transaction("ours") as workspace:
        workspace["ours"] = b""
    merged = branch.merge(other, message="both").snapshot
    assert sorted(merged) == ["k", "other/0", "other/1", "other/2", "ours"]
    assert branch.undo().message == "undo: both"
    assert sorted(branch.head) == ["k", "ours"]
    assert branch.redo().snapshot == merged
    branch.undo()
    branch.undo()
    assert sorted(branch.head) == ["k"]


def test_commit_that_changes_nothing_but_says_something_is_undone_too(branch: helios_shm.Branch) -> None:
    put(branch, "a")
    branch.fork().commit("a note")
    assert branch.undo().message == "undo: a note"
    assert value_of(branch) == "a"
    with pytest.raises(helios_shm.NotFoundError, match="nothing to undo"):
        branch.undo()


def test_branch_that_begins_at_a_snapshot_is_undone_back_to_it(branch: helios_shm.Branch) -> None:
    put(branch, "a")
    copy = branch.engine.branch(branch.name[:190] + " copy", at=branch.head)
    put(copy, "b")
    copy.undo()
    assert copy.head == branch.head
    with pytest.raises(helios_shm.NotFoundError, match="nothing to undo"):
        copy.undo()


@pytest.mark.parametrize(
    "message", ["x" * config.MESSAGE_BYTES_MAX, "\u20ac" * (config.MESSAGE_BYTES_MAX // 3)]
)
def test_longest_message_is_cut_to_fit(branch: helios_shm.Branch, message: str) -> None:
    put(branch, "a")
    put(branch, "b", message)
    undone = branch.undo().message
    assert ("undo: " + message).startswith(undone)
    assert config.MESSAGE_BYTES_MAX - 3 < len(undone.encode()) <= config.MESSAGE_BYTES_MAX


@pytest.mark.parametrize(
    "said",
    [
        {"to": 1, "of": 2, "below": 0},
        {"to": 1, "stack": 0},
        {"to": 9, "of": 2, "below": 0},
        {"to": "1"},
        [1],
        None,
    ],
)
def test_metadata_of_a_users_own_undoes_nothing(branch: helios_shm.Branch, said: object) -> None:
    put(branch, "a")
    put(branch, "b")
    with branch.transaction("c", metadata={"undo": said}) as workspace:
        workspace["k"] = b"c"
    with pytest.raises(helios_shm.NotFoundError, match="nothing to redo"):
        branch.redo()
    assert branch.undo().message == "undo: c" and value_of(branch) == "b"
    branch.redo()
    assert value_of(branch) == "c"


def test_record_of_an_undo_that_does_not_fit_its_log_is_an_ordinary_commit(branch: helios_shm.Branch) -> None:
    """As when somebody copies commits with all they say, but not all commits."""
    from helios_shm._capi import lib
    from helios_shm.workspace import Said

    first = put(branch, "a")
    put(branch, "b")
    third = put(branch, "c")
    for said in (
        {"to": 1, "of": 3, "below": 0},
        {"to": 2, "stack": 1},
        {"to": True, "of": 3, "below": 0},
        {"to": 7},
    ):
        copied = branch._move(lib.HS_MOVE_RESTORE, third.snapshot, said=Said("copied", {"undo": said}))
        with pytest.raises(helios_shm.NotFoundError, match="nothing to redo"):
            branch.redo()
        assert branch.undo().message == "undo: copied"
        assert branch.last_commit.metadata["undo"]["of"] == copied.sequence
        branch.restore(third.snapshot)
    branch._move(lib.HS_MOVE_RESTORE, first.snapshot, said=Said("", {"undo": {"to": 1, "stack": 2}}))
    with pytest.raises(helios_shm.NotFoundError, match="nothing to redo"):
        branch.redo()


def test_branch_made_anew_has_nothing_of_the_old_one_to_undo(branch: helios_shm.Branch) -> None:
    for value in "abc":
        put(branch, value)
    branch.undo()
    branch.delete()
    put(branch, "new")
    for step in (branch.undo, branch.redo):
        with pytest.raises(helios_shm.NotFoundError, match="nothing to"):
            step()
    put(branch, "newer")
    branch.undo()
    assert value_of(branch) == "new"


def test_read_only_engine_undoes_nothing(store_path: Path) -> None:
    with helios_shm.open(store_path) as engine:
        put(engine.branch("main"), "a")
        put(engine.branch("main"), "b")
    with helios_shm.open(store_path, readonly=True) as engine, pytest.raises(helios_shm.ReadOnlyError):
        engine.branch("main").undo()


def test_undo_costs_no_walk_along_the_log(branch: helios_shm.Branch, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(300):
        put(branch, f"{i}")
    for _ in range(200):
        branch.undo()
    branch.engine.sync()

    def walk(self: helios_shm.Branch) -> Iterator[Any]:
        raise AssertionError("it walks")

    looked: list[int] = []
    at_serial = helios_shm.Branch._at_serial
    monkeypatch.setattr(helios_shm.Branch, "_records", walk)
    monkeypatch.setattr(
        helios_shm.Branch, "_at_serial", lambda self, serial: looked.append(serial) or at_serial(self, serial)
    )
    for step in (branch.undo, branch.redo, branch.redo):
        looked.clear()
        branch.engine.sync()
        step()
        assert len(looked) <= 4
    assert value_of(branch) == "100"


# --- beside an editor ---


class EditorMachine(RuleBasedStateMachine):
    """A branch beside an editor's stacks: what was done, and what was undone."""

    engine: ClassVar[helios_shm.Engine]
    count: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).count += 1
        self.branch = self.engine.branch(f"editor/{self.count}")
        self.done: list[bytes] = []
        self.undone: list[bytes] = []
        self.commits = 0

    def new_state(self, value: bytes) -> None:
        self.done.append(value)
        self.undone.clear()
        self.commits += 1

    @rule(value=st.sampled_from([b"1", b"2", b"3"]))
    def commit(self, value: bytes) -> None:
        with self.branch.transaction("a commit") as workspace:
            workspace["k"] = value
        self.new_state(value)

    @precondition(lambda self: self.commits)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        commit = self.branch.at(data.draw(st.integers(1, self.commits)))
        self.branch.restore(commit.snapshot)
        self.new_state(commit.snapshot["k"])

    @rule(times=st.integers(1, 4))
    def undo(self, times: int) -> None:
        for _ in range(times):
            if len(self.done) > 1:
                assert self.branch.undo().message.startswith("undo: ")
                self.undone.append(self.done.pop())
                self.commits += 1
            else:
                with pytest.raises(helios_shm.NotFoundError):
                    self.branch.undo()

    @rule(times=st.integers(1, 4))
    def redo(self, times: int) -> None:
        for _ in range(times):
            if self.undone:
                assert self.branch.redo().message.startswith("redo: ")
                self.done.append(self.undone.pop())
                self.commits += 1
            else:
                with pytest.raises(helios_shm.NotFoundError):
                    self.branch.redo()

    @rule()
    def persist(self) -> None:
        self.engine.sync()

    @invariant()
    def shows_what_the_editor_shows(self) -> None:
        if self.done:
            assert self.branch.head["k"] == self.done[-1]
            assert self.branch.last_commit.sequence == self.commits


def test_branch_behaves_as_an_editor(engine: helios_shm.Engine) -> None:
    EditorMachine.engine = engine
    limits = settings(max_examples=25, stateful_step_count=25, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(EditorMachine, settings=limits)  # type: ignore[no-untyped-call]


# --- many at once ---


def test_undos_of_many_threads_each_take_one_commit_back(branch: helios_shm.Branch) -> None:
    for i in range(41):
        put(branch, f"{i}")
    threads = [threading.Thread(target=lambda: [branch.undo() for _ in range(10)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value_of(branch) == "0" and branch.last_commit.sequence == 81
    undone = [branch.at(sequence).metadata["undo"]["of"] for sequence in range(42, 82)]
    assert undone == list(range(41, 1, -1))  # each once, newest first


def test_undo_and_redo_of_processes_beside_commits_lose_nothing(branch: helios_shm.Branch) -> None:
    for i in range(20):
        put(branch, f"{i}")
    context: Any = multiprocessing.get_context("fork")
    processes = [context.Process(target=undo_and_redo, args=(branch, 25)) for _ in range(3)]
    for process in processes:
        process.start()
    for i in range(50):
        with branch.transaction("beside", rebase=True) as workspace:
            workspace[f"own/{i}"] = b""
    for process in processes:
        process.join()
        assert process.exitcode == 0
    follows_its_records(branch)


def undo_and_redo(branch: helios_shm.Branch, times: int) -> None:
    for _ in range(times):
        branch.undo()
        with contextlib.suppress(
            helios_shm.NotFoundError
        ):  # somebody has committed, or redone it, in between
            branch.redo()


def follows_its_records(branch: helios_shm.Branch) -> None:
    """Replay the log with an editor's stacks: every undo and redo did what it had to at its place."""
    done: list[str] = []
    undone: list[str] = []
    for commit in reversed(list(branch.log())):
        if commit.message.startswith("undo: "):
            undone.append(done.pop())
        elif commit.message.startswith("redo: "):
            done.append(undone.pop())
        else:
            done.append(commit.snapshot.id)
            undone.clear()
        assert commit.snapshot.id == done[-1], commit


# --- processes that end ---

PROGRAM = """
import os, sys, helios_shm
engine = helios_shm.open(sys.argv[1], l1_bytes=4 << 20)
branch = engine.branch("main")
for what in sys.argv[2:]:
    if what == "undo": branch.undo()
    elif what == "redo": branch.redo()
    elif what == "tag": engine.tag("marked", branch.head)
    elif what == "die": print("ready", flush=True); os.kill(os.getpid(), 9)
    elif what == "close": engine.close()
    else:
        with branch.transaction(what) as workspace: workspace["k"] = what.encode()
"""


def run(store: Path, *steps: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(store), *steps],
        env={**untraced(), "PYTHONPATH": str(ROOT)}, timeout=60, check=False, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return done.returncode


@pytest.mark.parametrize("end", ["close", "die"])
def test_history_undo_and_tags_survive_processes_that_end(store_path: Path, end: str) -> None:
    expected = -signal.SIGKILL if end == "die" else 0
    assert run(store_path, "a", "b", "c", "undo", "tag", end) == expected
    assert run(store_path, "undo", "redo", "redo", "d", end) == expected
    assert run(store_path, "undo", "undo", "undo", end) == expected
    with helios_shm.open(store_path) as engine:
        branch = engine.branch("main", create=False)
        assert value_of(branch) == "a"
        follows_its_records(branch)
        assert engine.snapshot("marked")["k"] == b"b" == engine.snapshot("main@2")["k"]
        assert [branch.redo() and value_of(branch) for _ in range(3)] == ["b", "c", "d"]
        assert branch.last_commit.sequence == 14
        assert engine.check().ok


def test_what_was_synced_is_there_after_the_machine_has_gone_down(store_path: Path, tmp_path: Path) -> None:
    """Its shared memory goes with it: a copy of the directory, taken while the store is open, is all that is left."""
    with helios_shm.open(store_path) as engine:
        branch = engine.branch("main")
        put(branch, "a")
        put(branch, "b")
        branch.undo()
        engine.tag("marked", branch.head)
        engine.sync()
        subprocess.run(["cp", "-r", store_path, tmp_path / "copy"], check=True)
    with helios_shm.open(tmp_path / "copy") as engine:
        branch = engine.branch("main", create=False)
        assert branch.head["k"] == b"a" == engine.tags()["marked"]["k"]
        assert [commit.message for commit in branch.log()] == ["undo: b", "b", "a"]
        assert branch.redo().snapshot["k"] == b"b"
