"""Looking into a branch's past, by path and by time, beside a look at each commit."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

import helios_shm
from helios_shm.commit import EPOCH
from helios_shm.history import touching
from helios_shm.workspace import Said

RING_BYTES = 4 << 20
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[helios_shm.Engine]:
    with helios_shm.open(tmp_path_factory.mktemp("history") / "store", l1_bytes=RING_BYTES) as opened:
        yield opened


@pytest.fixture
def branch(engine: helios_shm.Engine, request: pytest.FixtureRequest) -> helios_shm.Branch:
    return engine.branch(request.node.name[:200])


@pytest.fixture(scope="module")
def fresh(engine: helios_shm.Engine) -> Callable[[], helios_shm.Branch]:
    """A branch for each example of a property."""
    names = iter(range(1 << 30))
    return lambda: engine.branch(f"fresh/{next(names)}")


def commit_edits(branch: helios_shm.Branch, edits: dict[str, bytes | None], message: str = "-") -> None:
    workspace = branch.fork()
    for path, value in edits.items():
        if value is None:
            workspace.pop(path, None)
        else:
            workspace[path] = value
    workspace.commit(message)


def by_looking_at_each(branch: helios_shm.Branch, path: str) -> list[int | None]:
    """The commits that touched a path, from the whole states."""
    found = []
    states = [{}, *(dict(commit.snapshot) for commit in reversed(list(branch.log())))]
    for sequence, (old, new) in enumerate(pairwise(states), start=1):
        changed = {each for each in old.keys() | new.keys() if old.get(each) != new.get(each)}
        if path in changed or (path.endswith("/") and any(each.startswith(path) for each in changed)):
            found.append(sequence)
    return found[::-1]


# --- by path ---

PATHS = ["a", "a/", "a/b", "a/b/c", "a0", "b", "\u00e9/x"]
edits = st.dictionaries(st.sampled_from(PATHS), st.none() | st.sampled_from([b"1", b"2"]), max_size=3)


@settings(max_examples=40)
@given(st.lists(edits, max_size=20), st.booleans())
def test_log_of_a_path_agrees_with_a_look_at_each_state(
    fresh: Callable[[], helios_shm.Branch], history: list[dict[str, bytes | None]], persisted: bool
) -> None:
    branch = fresh()
    for each in history:
        commit_edits(branch, each)
    if not history:
        return
    if persisted:
        branch.engine.sync()
        branch._attachment.forget_nodes()
    for path in [*PATHS, "a/b/", "\u00e9/", "absent", "absent/"]:
        assert [commit.sequence for commit in branch.log(path=path)] == by_looking_at_each(branch, path)


def go_once_around_the_ring(engine: helios_shm.Engine) -> None:
    """So that states that were committed before are in L2 alone."""
    workspace = engine.empty.fork()
    for i in range(2 * RING_BYTES // 50_000):
        workspace[f"{i}"] = blake3(f"{i}".encode()).digest(length=50_000)
    workspace.commit()
    engine.sync()


def test_log_of_a_path_of_many_commits_is_found_in_l2(store_path: Path) -> None:
    with helios_shm.open(store_path, l1_bytes=RING_BYTES) as engine:
        branch = engine.branch("main")
        commit_edits(branch, {f"d{i % 7}/k{i:04}": b"x" * 80 for i in range(3000)})
        for i in range(400):
            commit_edits(branch, {f"d{i % 7}/k{i:04}": f"{i}".encode()})
        go_once_around_the_ring(engine)
        branch._attachment.forget_nodes()
        below_d3 = [i + 2 for i in range(399, -1, -1) if i % 7 == 3] + [1]
        assert [commit.sequence for commit in branch.log(path="d3/k0010")] == [12, 1]
        assert [commit.sequence for commit in branch.log(path="d3/")] == below_d3
        assert [commit.sequence for commit in branch.log(3, path="d0/")] == [401, 394, 387]
        assert list(branch.log(path="nothing")) == []


def test_who_wants_one_commit_pays_for_few(branch: helios_shm.Branch) -> None:
    for i in range(200):
        commit_edits(branch, {"k": f"{i}".encode()})
    taken: list[bytes] = []

    def records() -> Iterator[bytes]:
        for record, _ in branch._records():
            taken.append(record)
            yield record

    assert len(list(islice(touching(branch._attachment, records(), "k", 0), 1))) == 1
    assert len(taken) == 1


def test_node_that_is_nowhere_is_not_found(branch: helios_shm.Branch) -> None:
    with pytest.raises(helios_shm.NotFoundError, match="no node"):
        branch._attachment.load_nodes([bytes(range(32))])


# --- by time ---


def commit_at(branch: helios_shm.Branch, time_ns: int) -> None:
    workspace = branch.fork()
    workspace["k"] = f"{time_ns}".encode()
    workspace._commit_said(Said("at", None, time_ns=time_ns))


def newest_until(branch: helios_shm.Branch, when: datetime) -> helios_shm.Commit | None:
    return next((commit for commit in branch.log() if commit.time <= when), None)


def agrees_at_all_times(branch: helios_shm.Branch, times: list[int]) -> None:
    for time_ns in sorted({*times, *(each - 1000 for each in times), *(each + 1000 for each in times)}):
        when = EPOCH + timedelta(microseconds=time_ns // 1000)
        expected = newest_until(branch, when)
        if expected is None:
            with pytest.raises(helios_shm.NotFoundError):
                branch.at(when)
        else:
            assert branch.at(when) == expected


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(-3, 9), st.booleans()), min_size=1, max_size=12))
def test_commit_of_a_time_is_the_newest_that_is_not_later_however_clocks_were_set(
    fresh: Callable[[], helios_shm.Branch], moments: list[tuple[int, bool]]
) -> None:
    branch = fresh()
    times: list[int] = []
    for second, persisted in moments:
        commit_at(branch, second * SECOND)
        times.append(second * SECOND)
        if persisted:
            branch.engine.sync()
            agrees_at_all_times(branch, times)
    agrees_at_all_times(branch, times)


def test_commit_of_a_time_is_found_across_blocks_again_and_again(branch: helios_shm.Branch) -> None:
    times = [(1000 + (i if i % 50 else i - 40)) * SECOND for i in range(300)]
    for i, time_ns in enumerate(times):
        commit_at(branch, time_ns)
        if i % 60 == 59:
            branch.engine.sync()
    for _ in range(2):
        agrees_at_all_times(branch, times[::9])


def test_time_of_an_earlier_incarnation_is_none_of_this_one(branch: helios_shm.Branch) -> None:
    commit_at(branch, SECOND)
    branch.engine.sync()
    branch.delete()
    commit_at(branch, 5 * SECOND)
    commit_at(branch, 6 * SECOND)
    branch.engine.sync()
    with pytest.raises(helios_shm.NotFoundError):
        branch.at(EPOCH + timedelta(seconds=2))
    assert branch.at(EPOCH + timedelta(seconds=5)).sequence == 1
    assert branch.at(datetime.now(UTC)).sequence == 2


def test_what_is_kept_of_times_is_bounded(branch: helios_shm.Branch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helios_shm.l2._EARLIEST_MAX", 2)
    times = [i * SECOND for i in range(1, 13)]
    for time_ns in times:
        commit_at(branch, time_ns)
        branch.engine.sync()
    agrees_at_all_times(branch, times)
    assert len(branch._attachment.reader._earliest) <= 2
