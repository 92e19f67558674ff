"""A branch: a moving head with a history, compared, restored, deleted, made anew, and waited for."""

import multiprocessing
import pickle
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import helios_shm
from helios_shm.workspace import Said

RING_BYTES = 4 << 20


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[helios_shm.Engine]:
    with helios_shm.open(tmp_path_factory.mktemp("branch") / "store", l1_bytes=RING_BYTES) as opened:
        yield opened


@pytest.fixture
def branch(engine: helios_shm.Engine, request: pytest.FixtureRequest) -> helios_shm.Branch:
    return engine.branch(request.node.name[:200])


def put(
    branch: helios_shm.Branch, path: str = "n", value: bytes = b"", message: str = ""
) -> helios_shm.Commit:
    workspace = branch.fork()
    workspace[path] = value
    return workspace.commit(message)


def go_once_around_the_ring(engine: helios_shm.Engine) -> None:
    """So that nothing that was committed before is left in it."""
    workspace = engine.empty.fork()
    for i in range(2 * RING_BYTES // 50_000):
        workspace[f"{i}"] = bytes([i % 256]) + (i * 0x9E3779B97F4A7C15).to_bytes(12, "little") * 300 * 14
        workspace.put(f"{i}", workspace[f"{i}"], kind="executable")
    workspace.commit()
    engine.sync()


# --- handles ---


def test_handle_of_a_branch_that_is_not_there_yet(branch: helios_shm.Branch) -> None:
    assert branch.head == branch.engine.empty
    assert branch.name not in branch.engine.branches()
    for ask in (lambda: branch.last_commit, lambda: branch.at(1), branch.delete, lambda: next(branch.log())):
        with pytest.raises(helios_shm.NotFoundError, match=r"no commit|does not exist"):
            ask()
    with pytest.raises(helios_shm.NotFoundError, match="no branch"):
        branch.engine.branch(branch.name, create=False)


def test_handles_of_one_name_are_equal_and_see_the_same_head(branch: helios_shm.Branch) -> None:
    other = branch.engine.branch(branch.name)
    assert other == branch
    assert hash(other) == hash(branch)
    assert branch != branch.engine.branch("another")
    assert branch != branch.name
    commit = put(branch)
    assert other.head == commit.snapshot
    assert other.last_commit == commit
    assert branch.engine.branch(branch.name, create=False) == branch
    assert branch.name in repr(branch)


def test_branch_is_made_by_its_engine_alone() -> None:
    with pytest.raises(TypeError, match=r"Engine\.branch"):
        helios_shm.Branch()


@pytest.mark.parametrize(
    "name", ["a", "a/b", "\u00e9t\u00e9", " ", "-", "..", "x" * 255, "\u20ac" * 85, "0" * 64]
)
def test_name_is_1_to_255_bytes_of_text(engine: helios_shm.Engine, name: str) -> None:
    put(engine.branch(name))
    assert name in engine.branches()
    assert engine.branch(name).last_commit.branch == name
    engine.branch(name).delete()


@pytest.mark.parametrize("name", ["", "x" * 256, "\u20ac" * 86, "a\nb", "\0", "\x7f", "a@b", "\ud800"])
def test_bad_name_is_value_error(engine: helios_shm.Engine, name: str) -> None:
    with pytest.raises(ValueError, match="branch name"):
        engine.branch(name)


def test_name_of_another_type_is_type_error(engine: helios_shm.Engine) -> None:
    with pytest.raises(TypeError, match="bytes"):
        engine.branch(b"main")  # type: ignore[arg-type]


def test_branches_are_listed_in_order_by_prefix(engine: helios_shm.Engine) -> None:
    names = ["list/b", "list/a", "list/a/1", "lister", "list/\u00e9"]
    for name in names:
        put(engine.branch(name))
    assert engine.branches("list/") == sorted(name for name in names if name.startswith("list/"))
    go_once_around_the_ring(engine)
    assert engine.branches("list/") == sorted(name for name in names if name.startswith("list/"))
    engine.branch("list/a").delete()
    assert "list/a" not in engine.branches("list/")
    engine.sync()
    assert engine.branches("list/a") == ["list/a/1"]
    with pytest.raises(TypeError, match="prefix"):
        engine.branches(None)  # type: ignore[arg-type]


# --- history ---


def test_log_has_all_commits_newest_first(branch: helios_shm.Branch) -> None:
    commits = [put(branch, f"{i}", b"x" * i, f"message {i}") for i in range(20)]
    assert list(branch.log()) == commits[::-1]
    assert list(branch.log(limit=3)) == commits[:-4:-1]
    assert list(branch.log(0)) == []
    assert [commit.parents for commit in commits[1:]] == [(commit.snapshot,) for commit in commits[:-1]]
    with pytest.raises(ValueError, match="limit"):
        branch.log(-1)


def test_log_of_a_path_has_the_commits_that_touched_it(branch: helios_shm.Branch) -> None:
    made = put(branch, "a", b"1")
    put(branch, "b", b"1")
    changed = put(branch, "a", b"2")
    with branch.transaction() as workspace:
        del workspace["a"]
        workspace["c"] = b""
    removed = branch.last_commit
    put(branch, "b", b"2")
    restored = branch.restore(made.snapshot)
    assert list(branch.log(path="a")) == [restored, removed, changed, made]
    assert list(branch.log(2, path="a")) == [restored, removed]
    assert list(branch.log(path="absent")) == []
    with pytest.raises(ValueError, match="path"):
        branch.log(path="")
    with pytest.raises(TypeError, match="path"):
        branch.log(path=b"a")  # type: ignore[arg-type]


@pytest.mark.parametrize("persisted", [0, 1, 30, 60])
def test_history_is_whole_across_the_border_between_ring_and_l2(
    branch: helios_shm.Branch, persisted: int
) -> None:
    commits = []
    for i in range(60):
        if i == persisted:
            go_once_around_the_ring(branch.engine)
        commits.append(put(branch, f"{i % 7}", f"{i}".encode(), f"{i}"))
    if persisted == 60:
        go_once_around_the_ring(branch.engine)
    assert list(branch.log()) == commits[::-1]
    assert [branch.at(sequence) for sequence in range(1, 61)] == commits
    fresh = branch.engine.branch(branch.name)
    assert fresh.head == commits[-1].snapshot
    assert list(fresh.log()) == commits[::-1]
    assert dict(commits[0].snapshot) == {"0": b"0"}
    assert put(fresh, "more").sequence == 61


def test_history_is_there_after_reopening(store_path: Path) -> None:
    with helios_shm.open(store_path, l1_bytes=RING_BYTES) as engine:
        branch = engine.branch("main")
        ids = [put(branch, f"{i}", b"v" * 100, f"{i}").snapshot.id for i in range(50)]
    with helios_shm.open(store_path, l1_bytes=RING_BYTES) as engine:
        branch = engine.branch("main", create=False)
        assert [commit.snapshot.id for commit in branch.log()] == ids[::-1]
        assert branch.at(17).message == "16"
        assert dict(branch.at(3).snapshot) == {f"{i}": b"v" * 100 for i in range(3)}
        assert put(branch, "x").sequence == 51


@pytest.mark.parametrize("sequence", [0, -1, 4, 1 << 70])
def test_at_a_sequence_that_is_not_there_is_not_found(branch: helios_shm.Branch, sequence: int) -> None:
    for i in range(3):
        put(branch, f"{i}")
    with pytest.raises(helios_shm.NotFoundError, match=str(sequence)):
        branch.at(sequence)


def test_at_a_time_is_the_newest_commit_until_then(branch: helios_shm.Branch) -> None:
    commits = []
    for i in range(8):
        commits.append(put(branch, f"{i}"))
        while datetime.now(UTC) - commits[-1].time < timedelta(microseconds=3):
            pass
    for commit in commits:
        assert branch.at(commit.time) == commit  # by its own time, exactly
        assert branch.at(commit.time.astimezone(None).replace(tzinfo=None)) == commit  # local time
        assert branch.at(commit.time + timedelta(microseconds=1)) == commit
    assert branch.at(datetime.now(UTC) + timedelta(days=1)) == commits[-1]
    with pytest.raises(helios_shm.NotFoundError):
        branch.at(commits[0].time - timedelta(microseconds=1))


@pytest.mark.parametrize("when", ["1", 1.0, True, None])
def test_at_something_else_is_type_error(branch: helios_shm.Branch, when: object) -> None:
    put(branch)
    with pytest.raises(TypeError):
        branch.at(when)  # type: ignore[arg-type]


# --- moving the head ---


def test_restore_makes_an_old_state_the_head_and_keeps_the_history(branch: helios_shm.Branch) -> None:
    first, second = put(branch, "a", b"1"), put(branch, "a", b"2")
    restored = branch.restore(first.snapshot, "back")
    assert (restored.sequence, restored.message, restored.snapshot) == (3, "back", first.snapshot)
    assert restored.parents == (second.snapshot,)
    assert branch.head == first.snapshot
    assert [commit.sequence for commit in branch.log()] == [3, 2, 1]


def test_restore_makes_a_branch_that_is_not_there(branch: helios_shm.Branch) -> None:
    workspace = branch.engine.empty.fork()
    workspace["a"] = b"1"
    snapshot = workspace.commit().snapshot
    assert branch.restore(snapshot).sequence == 1
    assert branch.head == snapshot


def test_compare_and_set_makes_a_branch_from_the_empty_state_it_has_before(branch: helios_shm.Branch) -> None:
    state = branch.engine.empty.fork()
    state["k"] = b"v"
    first = state.commit().snapshot
    fresh = branch.engine.branch("fresh")
    with pytest.raises(helios_shm.NotFoundError):
        fresh.compare_and_set(first, first)
    assert fresh.compare_and_set(fresh.head, first)
    assert fresh.last_commit.sequence == 1 and fresh.head == first
    assert not fresh.compare_and_set(branch.engine.empty, first)


def test_compare_and_set_moves_only_from_what_was_expected(branch: helios_shm.Branch) -> None:
    first, second = put(branch, "a", b"1"), put(branch, "a", b"2")
    assert not branch.compare_and_set(first, branch.engine.empty)
    assert branch.last_commit == second
    assert branch.compare_and_set(second, first.snapshot)
    assert branch.compare_and_set(first.snapshot, second.snapshot)
    assert branch.head == second.snapshot
    assert branch.last_commit.sequence == 4


def test_what_is_no_snapshot_cannot_be_moved_to(branch: helios_shm.Branch) -> None:
    put(branch)
    nothing: tuple[object, ...] = (None, branch.head.id, branch.last_commit, {})
    for wrong in nothing:
        with pytest.raises(TypeError, match="snapshot"):
            branch.restore(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="snapshot"):
            branch.compare_and_set(branch.head, wrong)  # type: ignore[arg-type]
    for wrong in (None, "id"):
        with pytest.raises(TypeError, match="snapshot"):
            branch.compare_and_set(wrong, branch.head)  # type: ignore[arg-type]
    assert branch.last_commit.sequence == 1


def test_branch_can_be_made_at_a_snapshot_once(branch: helios_shm.Branch) -> None:
    commit = put(branch, "a", b"1")
    name = branch.name[:100] + " copy"
    copy = branch.engine.branch(name, at=commit.snapshot)
    assert copy.head == commit.snapshot
    assert copy.last_commit.sequence == 1
    with pytest.raises(helios_shm.ExistsError, match="exists"):
        branch.engine.branch(name, at=commit.snapshot)
    with pytest.raises(ValueError, match="create"):
        branch.engine.branch(name, at=commit.snapshot, create=False)
    put(copy, "b")
    assert branch.head == commit.snapshot


# --- deleting ---


def test_deleted_branch_is_gone_for_every_handle_and_its_states_are_not(branch: helios_shm.Branch) -> None:
    other = branch.engine.branch(branch.name)
    commit = put(branch, "a", b"1")
    branch.delete()
    assert branch.name not in branch.engine.branches()
    for handle in (branch, other, branch.engine.branch(branch.name)):
        assert handle.head == branch.engine.empty
        with pytest.raises(helios_shm.NotFoundError):
            handle.last_commit  # noqa: B018 - reading is the test
        with pytest.raises(helios_shm.NotFoundError):
            handle.delete()
        with pytest.raises(helios_shm.NotFoundError):
            handle.compare_and_set(commit, commit.snapshot)
    assert dict(branch.engine.snapshot(commit.snapshot.id)) == {"a": b"1"}


@pytest.mark.parametrize("made_anew", [False, True])
@pytest.mark.parametrize("edits", [0, 1, 3])
def test_workspace_of_a_branch_that_was_deleted_since_cannot_commit(
    branch: helios_shm.Branch, made_anew: bool, edits: int
) -> None:
    put(branch, "a", b"1")
    workspace = branch.fork()
    for i in range(edits):
        workspace[f"{i}"] = b"mine"
    branch.delete()
    if made_anew:
        put(branch, "a", b"1")
    with pytest.raises(helios_shm.NotFoundError, match="deleted"):
        workspace.commit()
    assert len(workspace.edits) == edits
    assert (branch.name in branch.engine.branches()) is made_anew


def test_branch_made_anew_begins_a_history_of_its_own(branch: helios_shm.Branch) -> None:
    for i in range(5):
        put(branch, f"{i}")
    branch.delete()
    commit = put(branch, "new")
    assert (commit.sequence, commit.parents) == (1, ())
    assert dict(branch.head) == {"new": b""}
    assert list(branch.log()) == [commit]
    go_once_around_the_ring(branch.engine)
    assert list(branch.engine.branch(branch.name).log()) == [commit]
    with pytest.raises(helios_shm.NotFoundError):
        branch.at(2)


# --- many at once ---


def test_threads_commit_to_other_keys_of_one_branch_and_none_is_lost(branch: helios_shm.Branch) -> None:
    def work(name: str) -> None:
        for i in range(100):
            put(branch, f"{name}/{i}", b"x")

    threads = [threading.Thread(target=work, args=(f"{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(branch.head) == 400
    assert branch.last_commit.sequence == 400
    assert [commit.sequence for commit in branch.log()] == list(range(400, 0, -1))


def test_of_threads_that_count_together_each_success_counts_once(branch: helios_shm.Branch) -> None:
    done = []

    def work() -> None:
        for _ in range(50):
            workspace = branch.fork()
            workspace["n"] = str(int(workspace.get("n", b"0")) + 1).encode()
            try:
                done.append(workspace.commit().sequence)
            except helios_shm.ConflictError as conflict:
                assert conflict.keys == ("n",)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert int(branch.head["n"]) == len(done)
    assert sorted(filter(None, done)) == list(range(1, len(done) + 1))


# --- waiting ---


def test_wait_returns_at_once_when_there_is_something_newer(branch: helios_shm.Branch) -> None:
    commits = [put(branch, f"{i}") for i in range(3)]
    assert branch.wait(after=0) == commits[-1]
    assert branch.wait(after=2) == commits[-1]


def test_wait_gives_up_after_its_timeout(branch: helios_shm.Branch) -> None:
    assert branch.wait(timeout=0) is None
    put(branch)
    assert branch.wait(timeout=0.01) is None
    assert branch.wait(after=1, timeout=-1) is None
    for after in ("1", True):
        with pytest.raises(TypeError, match="after is the sequence number"):
            branch.wait(after=after)  # type: ignore[arg-type]


def test_wait_is_woken_by_the_first_and_by_later_commits_of_a_thread(branch: helios_shm.Branch) -> None:
    for sequence in range(1, 6):
        thread = threading.Thread(target=put, args=(branch.engine.branch(branch.name), f"{sequence}"))
        thread.start()
        commit = branch.wait(after=sequence - 1)
        thread.join()
        assert commit is not None and commit.sequence == sequence


def commit_on_request(branch: helios_shm.Branch, count: int) -> None:
    """In another process: wait for each commit of the test, and answer it."""
    for sequence in range(1, 2 * count, 2):
        assert branch.wait(after=sequence - 1) is not None
        put(branch, "answer", str(sequence).encode())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_wait_for_each_other(branch: helios_shm.Branch, method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    process = context.Process(target=commit_on_request, args=(branch, 5))
    process.start()
    for sequence in range(1, 10, 2):
        put(branch, "question", str(sequence).encode())
        answer = branch.wait(after=sequence)
        assert answer is not None and answer.sequence == sequence + 1
        assert answer.snapshot["answer"] == str(sequence).encode()
    process.join()
    assert process.exitcode == 0


# --- pickling ---


def test_branch_pickles_by_name(branch: helios_shm.Branch) -> None:
    commit = put(branch, "a", b"1")
    copy = pickle.loads(pickle.dumps(branch))
    assert copy == branch
    assert copy.last_commit == commit
    put(copy, "b")
    assert branch.last_commit.sequence == 2


def test_commit_says_a_second_parent_and_a_time_of_its_own(branch: helios_shm.Branch) -> None:
    first = put(branch)
    workspace = branch.fork()
    commit = workspace._commit_said(Said("merged", None, second=branch.engine.empty, time_ns=-1_500))
    assert commit.parents == (first.snapshot, branch.engine.empty)
    assert commit.time == datetime(1970, 1, 1, tzinfo=UTC) - timedelta(microseconds=2)
    following = put(branch, "other")
    assert following.parents == (commit.snapshot,)
    assert following.time > first.time


def test_commit_that_expects_a_head_moves_no_other(branch: helios_shm.Branch) -> None:
    put(branch)
    workspace = branch.fork()
    workspace["other"] = b""
    with pytest.raises(helios_shm.ConflictError):
        workspace._commit_said(Said("", None, expected_serial=2))
    assert branch.last_commit.sequence == 1
    assert workspace._commit_said(Said("", None, expected_serial=1)).sequence == 2
