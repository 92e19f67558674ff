"""Committing: what a Commit says, what it costs, what it refuses, and that a failed one leaves everything as it was."""

import dataclasses
import pickle
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

import helios_shm
from helios_shm import config


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[helios_shm.Engine]:
    with helios_shm.open(tmp_path_factory.mktemp("commit") / "store", l1_bytes=4 << 20) as opened:
        yield opened


@pytest.fixture
def branch(engine: helios_shm.Engine, request: pytest.FixtureRequest) -> helios_shm.Branch:
    return engine.branch(request.node.name[:200])


# --- what a commit says ---


def test_commit_on_a_branch_says_where_it_is(branch: helios_shm.Branch) -> None:
    before = datetime.now(UTC)
    workspace = branch.fork()
    workspace["a"] = b"1"
    first = workspace.commit("first", metadata={"n": 1})
    workspace["a"] = b"2"
    second = workspace.commit()
    assert (first.branch, first.sequence, first.parents) == (branch.name, 1, ())
    assert (first.message, first.metadata) == ("first", {"n": 1})
    assert (second.branch, second.sequence, second.parents) == (branch.name, 2, (first.snapshot,))
    assert (second.message, second.metadata) == ("", {})
    assert before - timedelta(seconds=1) <= first.time <= second.time <= datetime.now(UTC)
    assert first.time.tzinfo is not None
    assert branch.last_commit == second
    assert branch.head == second.snapshot


def test_detached_commit_is_a_state_without_a_place(engine: helios_shm.Engine) -> None:
    workspace = engine.empty.fork()
    workspace["a"] = b"1"
    commit = workspace.commit("detached", metadata={"k": [1, None]})
    assert (commit.branch, commit.sequence, commit.parents) == (None, None, (engine.empty,))
    assert (commit.message, commit.metadata) == ("detached", {"k": [1, None]})
    assert commit.snapshot == {"a": b"1"}
    assert engine.snapshot(commit.snapshot.id) == commit.snapshot


@pytest.mark.parametrize("on_branch", [True, False])
@pytest.mark.parametrize("count", [1, 2, 100])
def test_after_a_commit_the_workspace_stands_on_it_ready_to_go_on(
    branch: helios_shm.Branch, on_branch: bool, count: int
) -> None:
    workspace = branch.fork() if on_branch else branch.engine.empty.fork()
    for turn in range(3):
        for i in range(count):
            workspace[f"{i}"] = str(turn).encode()
        snapshot = workspace.commit().snapshot
        assert workspace.base == snapshot
        assert workspace.edits == {}
        assert dict(workspace) == dict(snapshot) == {f"{i}": str(turn).encode() for i in range(count)}


def test_commit_is_a_frozen_value(branch: helios_shm.Branch) -> None:
    workspace = branch.fork()
    workspace["a"] = b"1"
    commit = workspace.commit("m", metadata={"k": 1})
    with pytest.raises(dataclasses.FrozenInstanceError):
        commit.message = "other"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        commit.nothing_like_that  # type: ignore[attr-defined]  # noqa: B018 - reading is the test
    assert commit == branch.last_commit
    assert len({commit, branch.last_commit}) == 1
    assert commit != dataclasses.replace(commit, message="other")
    assert "message='m'" in repr(commit)
    assert pickle.loads(pickle.dumps(commit)) == commit


# --- metrics ---


def test_metrics_tell_what_a_commit_cost(branch: helios_shm.Branch) -> None:
    workspace = branch.fork()
    for i in range(1000):
        workspace[f"{i:04}"] = f"{i}".encode() * 100
    whole = workspace.commit().metrics
    total = workspace.base.nbytes
    assert whole.changed_keys == 1000
    assert whole.new_nodes > 10
    assert whole.new_bytes >= total
    assert (whole.retries, whole.reused_bytes) == (0, 0)
    assert whole.latency_ns > 0
    workspace["0500"] = b"changed" * 50
    one = workspace.commit().metrics
    assert one.changed_keys == 1
    assert 1 <= one.new_nodes <= 8
    assert 350 <= one.new_bytes < 20_000
    assert total - 10_000 < one.reused_bytes <= total


# --- nothing to commit ---


def test_nothing_to_commit_makes_no_record(branch: helios_shm.Branch) -> None:
    workspace = branch.fork()
    workspace["a"] = b"1"
    last = workspace.commit("last")
    assert workspace.commit() == last
    workspace["a"] = b"1"  # what is there already
    assert workspace.commit() == last
    assert branch.fork().commit(metadata={}) == last
    assert branch.last_commit.sequence == 1
    assert workspace.edits == {}


def test_after_nothing_to_commit_the_workspace_stands_on_the_head(branch: helios_shm.Branch) -> None:
    """It once stayed on the base it was forked from, though the commit that it returned was another's."""
    behind, ahead = branch.fork(), branch.fork()
    ahead["a"] = b"1"
    ahead.commit()
    behind = branch.fork()
    ahead["b"] = b"2"
    last = ahead.commit()
    assert behind.commit() == last
    assert behind.base == last.snapshot
    behind["b"] = b"3"
    assert behind.commit().sequence == 3


def test_message_or_metadata_alone_make_a_record(branch: helios_shm.Branch) -> None:
    workspace = branch.fork()
    workspace["a"] = b"1"
    first = workspace.commit()
    assert workspace.commit("only a message").sequence == 2
    assert workspace.commit(metadata={"only": "metadata"}).sequence == 3
    assert branch.head == first.snapshot
    assert branch.last_commit.metadata == {"only": "metadata"}
    assert branch.last_commit.metrics.changed_keys == 0


def test_first_commit_makes_the_branch_even_of_nothing(branch: helios_shm.Branch) -> None:
    commit = branch.fork().commit()
    assert (commit.sequence, commit.snapshot) == (1, branch.engine.empty)
    assert branch.name in branch.engine.branches()


# --- message and metadata ---


def test_message_and_metadata_come_back_after_reopening(store_path: object) -> None:
    metadata = {"nested": {"list": [1, 2.5, None, True, "\u00e9"]}, "": 0, "lone": "\ud800"}
    with helios_shm.open(str(store_path), l1_bytes=4 << 20) as engine:
        workspace = engine.branch("main").fork()
        workspace.commit("\u00fcber\n\0 all", metadata=metadata)
        workspace.commit("m" * config.MESSAGE_BYTES_MAX)
        workspace.commit(metadata={"k": "v" * (config.METADATA_BYTES_MAX - 10)})
        workspace.commit(
            "m" * config.MESSAGE_BYTES_MAX, metadata={"k": "v" * (config.METADATA_BYTES_MAX - 10)}
        )
        before = list(engine.branch("main").log())
    with helios_shm.open(str(store_path), l1_bytes=4 << 20) as engine:
        commits = list(engine.branch("main").log())
        assert [pickle.dumps(commit) for commit in commits] == [pickle.dumps(commit) for commit in before]
        assert commits[-1].message == "\u00fcber\n\0 all"
        assert commits[-1].metadata == metadata
        assert commits[0].message == "m" * config.MESSAGE_BYTES_MAX
        assert len(commits[0].metadata["k"]) == config.METADATA_BYTES_MAX - 10


BAD_MESSAGES = [
    ({"message": "m" * (config.MESSAGE_BYTES_MAX + 1)}, ValueError),
    ({"message": "\u20ac" * (config.MESSAGE_BYTES_MAX // 3 + 1)}, ValueError),
    ({"message": "\ud800"}, ValueError),
    ({"message": b"bytes"}, TypeError),
    ({"metadata": {"k": "v" * config.METADATA_BYTES_MAX}}, ValueError),
    ({"metadata": {"k": float("nan")}}, ValueError),
    ({"metadata": {"k": b"bytes"}}, TypeError),
    ({"metadata": {"k": object()}}, TypeError),
    ({"metadata": ["no mapping"]}, TypeError),
    ({"metadata": {1: "no text"}}, TypeError),
]


@pytest.mark.parametrize(("said", "error"), BAD_MESSAGES, ids=range(len(BAD_MESSAGES)))
def test_bad_message_or_metadata_is_refused_and_nothing_moves(
    branch: helios_shm.Branch, said: dict[str, object], error: type[Exception]
) -> None:
    workspace = branch.fork()
    workspace["a"] = b"1"
    with pytest.raises(error):
        workspace.commit(**said)  # type: ignore[arg-type]
    assert workspace.edits == {"a": b"1"}
    assert branch.name not in branch.engine.branches()
    assert workspace.commit("good").sequence == 1
    workspace["a"] = b"2"
    assert workspace.commit().message == ""  # what was said before is not said again


# --- rebase and conflict ---


def test_edits_to_other_keys_are_rebased_onto_the_new_head(branch: helios_shm.Branch) -> None:
    mine, theirs = branch.fork(), branch.fork()
    mine["mine"] = b"1"
    theirs["theirs"] = b"2"
    first = theirs.commit()
    second = mine.commit()
    assert second.parents == (first.snapshot,)
    assert second.sequence == 2
    assert dict(branch.head) == dict(mine.base) == {"mine": b"1", "theirs": b"2"}


CHANGES: list[tuple[bytes | None, bytes | None, bytes | None]] = [
    (b"base", b"ours", b"theirs"),
    (b"base", b"same", b"same"),  # judging by value would lose increments
    (b"base", None, b"theirs"),
    (b"base", b"ours", None),
    (b"base", None, None),
    (None, b"ours", b"theirs"),
    (None, b"same", b"same"),
    (b"base", b"base", b"theirs"),
    (b"large" * 2000, b"ours" * 2000, b"theirs" * 2000),
]


@pytest.mark.parametrize(("base", "ours", "theirs"), CHANGES, ids=range(len(CHANGES)))
@pytest.mark.parametrize("with_others", [False, True])
def test_conflict_names_keys_and_values_and_changes_nothing(
    branch: helios_shm.Branch,
    base: bytes | None,
    ours: bytes | None,
    theirs: bytes | None,
    with_others: bool,
) -> None:
    def change(workspace: helios_shm.Workspace, value: bytes | None) -> None:
        if value is None:
            del workspace["key"]
        else:
            workspace["key"] = value

    start = branch.fork()
    start["unrelated"] = b"0"
    if base is not None:
        start["key"] = base
    start.commit()
    mine, other = branch.fork(), branch.fork()
    change(mine, ours)
    change(other, theirs)
    if with_others:
        mine.update({f"mine/{i}": b"" for i in range(50)})
        other.update({f"theirs/{i}": b"" for i in range(50)})
    head = other.commit().snapshot
    before = (mine.base, mine.edits)
    with pytest.raises(helios_shm.ConflictError) as raised:
        mine.commit()
    assert raised.value.keys == ("key",)
    assert raised.value.conflicts == (helios_shm.Conflict("key", base, ours, theirs),)
    assert "'key'" in str(raised.value)
    assert (mine.base, mine.edits) == before
    assert branch.head == head
    mine.discard()
    mine = branch.fork()
    change(mine, ours) if "key" in mine or ours is not None else None
    mine.commit("after looking again")


def test_conflict_names_all_keys_in_order_and_no_others(branch: helios_shm.Branch) -> None:
    mine, theirs = branch.fork(), branch.fork()
    for i in range(0, 100, 2):
        mine[f"{i:03}"] = b"mine"
    for i in range(0, 100, 3):
        theirs[f"{i:03}"] = b"theirs"
    theirs.commit()
    with pytest.raises(
        helios_shm.ConflictError, match=r"has meanwhile changed 17 paths: '000', '006', '012', \.\.\."
    ) as raised:
        mine.commit()
    assert raised.value.keys == tuple(f"{i:03}" for i in range(0, 100, 6))


def test_key_that_was_changed_and_changed_back_is_no_conflict(branch: helios_shm.Branch) -> None:
    start = branch.fork()
    start["key"] = b"0"
    start.commit()
    mine, theirs = branch.fork(), branch.fork()
    mine["key"] = b"mine"
    for value in (b"1", b"0"):
        theirs["key"] = value
        theirs.commit()
    assert mine.commit().sequence == 4


def test_change_of_kind_alone_is_a_conflict(branch: helios_shm.Branch) -> None:
    start = branch.fork()
    start["key"] = b"0"
    start.commit()
    mine, theirs = branch.fork(), branch.fork()
    mine["key"] = b"mine"
    theirs.put("key", b"0", kind="executable")
    theirs.commit()
    with pytest.raises(helios_shm.ConflictError) as raised:
        mine.commit()
    assert raised.value.keys == ("key",)


def test_without_rebase_a_moved_head_is_a_conflict_even_of_other_keys(branch: helios_shm.Branch) -> None:
    mine, theirs = branch.fork(), branch.fork()
    mine["mine"] = b"1"
    theirs["theirs"] = b"2"
    theirs.commit()
    with pytest.raises(helios_shm.ConflictError, match="rebase=False") as raised:
        mine.commit(rebase=False)
    assert raised.value.keys == ()
    assert mine.edits == {"mine": b"1"}
    assert mine.commit().sequence == 2  # and the flag is not remembered
    mine["mine"] = b"3"
    assert mine.commit(rebase=False).sequence == 3


def test_conflict_with_large_values_of_both_sides_can_be_read(branch: helios_shm.Branch) -> None:
    mine, theirs = branch.fork(), branch.fork()
    mine["blob"], theirs["blob"] = b"m" * 300_000, b"t" * 300_000
    theirs.commit()
    with pytest.raises(helios_shm.ConflictError) as raised:
        mine.commit()
    (conflict,) = raised.value.conflicts
    assert (conflict.base, conflict.ours, conflict.theirs) == (None, b"m" * 300_000, b"t" * 300_000)


# --- transactions ---


def test_transaction_commits_on_leaving(branch: helios_shm.Branch) -> None:
    with branch.transaction("message", metadata={"k": 1}) as workspace:
        workspace["a"] = b"1"
        assert branch.name not in branch.engine.branches()
    assert (branch.last_commit.message, branch.last_commit.metadata) == ("message", {"k": 1})
    assert dict(branch.head) == {"a": b"1"}


def test_transaction_that_raises_commits_nothing(branch: helios_shm.Branch) -> None:
    with pytest.raises(ZeroDivisionError), branch.transaction() as workspace:
        workspace["a"] = b"1"
        raise ZeroDivisionError
    assert branch.name not in branch.engine.branches()


def test_transaction_in_conflict_raises_on_leaving(branch: helios_shm.Branch) -> None:
    with pytest.raises(helios_shm.ConflictError), branch.transaction() as mine:
        mine["key"] = b"mine"
        with branch.transaction() as theirs:
            theirs["key"] = b"theirs"
    assert branch.head["key"] == b"theirs"
    with pytest.raises(helios_shm.ConflictError, match="rebase"), branch.transaction(rebase=False) as mine:
        mine["other"] = b"mine"
        with branch.transaction() as theirs:
            theirs["key"] = b"theirs again"


def test_durable_commit_is_in_l2_when_it_returns(branch: helios_shm.Branch) -> None:
    workspace = branch.fork()
    for n in range(3):
        workspace["a"] = str(n).encode()
        commit = workspace.commit(durable=True)
        row = branch._attachment.reader.branch(branch.name)
        assert row is not None and row.sequence == commit.sequence == n + 1
    with branch.transaction("also", durable=True) as workspace:
        workspace["b"] = b"1"
        workspace["c"] = b"1"
    row = branch._attachment.reader.branch(branch.name)
    assert row is not None and row.sequence == 4
