"""What a commit judges: with resolvers, edits that others have changed; in a serialisable workspace, reads as well."""

from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest

import helios_shm
from helios_shm import Branch, Conflict, ConflictError, Engine, Resolve, Workspace, codecs, config

Change = Callable[[Workspace], object]


NUMBERS = count()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One store for all: each test has a branch of its own."""
    with helios_shm.open(tmp_path_factory.mktemp("isolation") / "store") as opened:
        yield opened


@pytest.fixture
def branch(engine: Engine) -> Branch:
    branch = engine.branch(f"main/{next(NUMBERS)}")
    ws = branch.fork()
    ws.update({"a": b"1", "b": b"2", "c/1": b"x", "c/2": b"y", "c/3": b"z", "n": b"10"})
    ws.commit()
    return branch


def change(branch: Branch, edits: dict[str, bytes | None]) -> None:
    """Somebody else's commit."""
    ws = branch.fork()
    for path, value in edits.items():
        if value is None:
            del ws[path]
        else:
            ws[path] = value
    ws.commit()


# --- resolvers in commits ---


def test_commit_resolves_what_the_branch_has_changed(branch: Branch) -> None:
    ws = branch.fork()
    ws.update({"n": b"11", "mine": b"m"})
    change(branch, {"n": b"13", "theirs": b"t"})
    commit = ws.commit("both", resolve={"n": "sum"})
    assert commit.snapshot["n"] == b"14"
    assert commit.snapshot["mine"] == b"m" and commit.snapshot["theirs"] == b"t"
    assert commit == branch.last_commit and not ws.edits and ws.base == commit.snapshot
    ws["n"] = b"15"
    assert ws.commit().snapshot["n"] == b"15"


def test_equal_edits_are_two_increments(branch: Branch) -> None:
    ws = branch.fork()
    ws["n"] = b"11"
    change(branch, {"n": b"11"})
    with pytest.raises(ConflictError, match="the branch has meanwhile changed 1 path: 'n'"):
        ws.commit()
    assert ws.commit(resolve="sum").snapshot["n"] == b"12"


def test_each_lost_race_is_resolved_from_the_first_base(branch: Branch) -> None:
    ws, others = branch.fork(), iter([b"100", b"1000", b"20"])
    ws["n"] = b"11"
    change(branch, {"n": b"50"})
    seen: list[Conflict] = []

    def add(conflict: Conflict) -> bytes:
        seen.append(conflict)
        for value in islice(others, 1):
            change(branch, {"n": value})
        return b"%d" % (int(conflict.ours or 0) + int(conflict.theirs or 0) - int(conflict.base or 0))

    assert ws.commit(resolve=add).snapshot["n"] == b"21"
    assert [conflict.theirs for conflict in seen] == [b"50", b"100", b"1000", b"20"]
    assert {(conflict.base, conflict.ours) for conflict in seen} == {(b"10", b"11")}


def test_what_stays_in_conflict_moves_nothing_and_leaves_the_edits(branch: Branch) -> None:
    ws = branch.fork()
    ws.update({"n": b"11", "a": b"mine", "b": b"x"})
    base = ws.base
    change(branch, {"n": b"12", "a": b"theirs", "b": b"3"})
    head = branch.head
    with pytest.raises(ConflictError, match=r"2 paths: 'a', 'b' \(sum: ours is no JSON\)") as raised:
        ws.commit(resolve={"n": "sum", "b": "sum"})
    assert raised.value.conflicts == (
        Conflict("a", b"1", b"mine", b"theirs"),
        Conflict("b", b"2", b"x", b"3"),
    )
    assert branch.head == head and ws.base == base
    assert ws.edits == {"n": b"11", "a": b"mine", "b": b"x"}
    assert ws.commit(resolve={"n": "sum", "*": "ours"}).snapshot["a"] == b"mine"


def test_error_of_a_callable_leaves_everything(branch: Branch) -> None:
    ws = branch.fork()
    ws["a"] = b"mine"
    change(branch, {"a": b"theirs"})

    def broken(conflict: Conflict) -> bytes:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ws.commit(resolve=broken)
    assert ws.edits == {"a": b"mine"} and branch.head["a"] == b"theirs"


def test_theirs_gives_the_edit_up(branch: Branch) -> None:
    ws = branch.fork()
    ws["a"] = b"mine"
    change(branch, {"a": b"theirs"})
    last = branch.last_commit
    assert ws.commit(resolve="theirs") == last and ws.base == last.snapshot and not ws.edits


def test_callable_decides_about_removals(branch: Branch) -> None:
    ws = branch.fork()
    del ws["a"]
    ws["b"] = b"mine"
    change(branch, {"a": b"theirs", "b": None})
    values = {"a": None, "b": b"kept"}
    commit = ws.commit(resolve=lambda conflict: values[conflict.path])
    assert "a" not in commit.snapshot and commit.snapshot["b"] == b"kept"


def test_without_rebase_resolvers_are_not_asked(branch: Branch) -> None:
    ws = branch.fork()
    ws["n"] = b"11"
    change(branch, {"n": b"12"})
    with pytest.raises(ConflictError):
        ws.commit(resolve="sum", rebase=False)


def test_many_edits_are_judged_by_what_the_head_has_changed(branch: Branch) -> None:
    ws = branch.fork()
    ws.update({f"many/{i:04}": b"mine" for i in range(500)})
    change(branch, {f"many/{i:04}": b"theirs" for i in range(0, 500, 100)})
    with pytest.raises(ConflictError) as raised:
        ws.commit()
    assert raised.value.keys == tuple(f"many/{i:04}" for i in range(0, 500, 100))
    assert set(ws.commit(resolve="ours").snapshot.values()) >= {b"mine"}
    assert b"theirs" not in set(branch.head.values())


def test_branch_that_was_deleted_resolves_nothing(branch: Branch) -> None:
    ws = branch.fork()
    ws["n"] = b"11"
    change(branch, {"n": b"12"})

    def deleted(conflict: Conflict) -> bytes:
        branch.delete()
        change(branch, {"n": b"0"})
        return b"1"

    with pytest.raises(helios_shm.NotFoundError, match="was deleted"):
        ws.commit(resolve=deleted)


def test_detached_commits_have_nobody_to_resolve_with(branch: Branch) -> None:
    ws = branch.head.fork()
    ws["n"] = b"11"
    assert ws.commit(resolve="sum").snapshot["n"] == b"11"


@pytest.mark.parametrize("resolve", ["add", {"a": 3}])
def test_bad_resolvers_are_refused_before_anything_is_done(branch: Branch, resolve: Any) -> None:
    ws, last = branch.fork(), branch.last_commit
    ws["a"] = b"2"
    with pytest.raises((TypeError, ValueError)):
        ws.commit(resolve=resolve)
    with pytest.raises((TypeError, ValueError)):
        branch.transaction(resolve=resolve)
    with pytest.raises((TypeError, ValueError)):
        branch.update(lambda ws: pytest.fail("it ran"), resolve=resolve)
    assert branch.last_commit == last and ws.edits == {"a": b"2"}


def test_transaction_takes_resolvers_and_isolation(branch: Branch) -> None:
    with branch.transaction("sum", resolve={"n": "sum"}) as ws:
        ws["n"] = b"11"
        change(branch, {"n": b"12"})
    assert branch.head["n"] == b"13" and branch.last_commit.message == "sum"
    with pytest.raises(ConflictError), branch.transaction(isolation="serializable") as ws:
        ws["b"] = ws["a"]
        change(branch, {"a": b"changed"})
    with pytest.raises(ValueError, match="isolation is 'snapshot' or 'serializable', not 'none'"):
        branch.fork(isolation="none")  # type: ignore[arg-type]


# --- what was read ---

READS: dict[str, Change] = {
    "value": lambda ws: ws["a"],
    "get": lambda ws: ws.get("a"),
    "miss": lambda ws: ws.get("new"),
    "in": lambda ws: "new" in ws,
    "in keys": lambda ws: "new" in ws.keys("n"),
    "pair in items": lambda ws: ("a", b"1") in ws.items(),
    "length": lambda ws: len(ws),
    "length of a range": lambda ws: len(ws.keys("c/")),
    "keys": lambda ws: list(ws.keys("c/")),
    "items": lambda ws: list(ws.items("c/")),
    "values": lambda ws: list(ws.values("c/")),
    "first key": lambda ws: next(iter(ws)),
    "first item": lambda ws: next(iter(ws.items("c/"))),
    "last item": lambda ws: next(reversed(ws.items("c/"))),
    "two items": lambda ws: list(islice(ws.items("c/"), 2)),
    "empty range": lambda ws: list(ws.keys("d/")),
    "view": lambda ws: ws.view("c/")["1"],
    "view with a codec": lambda ws: ws.view(codec=codecs.json)["a"],
    "view's keys": lambda ws: list(ws.view("c/")),
    "clear": lambda ws: ws.clear(),
    "nothing": lambda ws: None,
}


@pytest.mark.parametrize(
    ("read", "changed", "conflict"),
    [
        ("value", {"a": b"9"}, True),
        ("value", {"a": None}, True),
        ("value", {"b": b"9"}, False),
        ("get", {"a": b"9"}, True),
        ("miss", {"new": b"9"}, True),
        ("miss", {"news": b"9"}, False),
        ("in", {"new": b"9"}, True),
        ("in keys", {"new": b"9"}, True),
        ("pair in items", {"a": b"9"}, True),
        ("length", {"new": b"9"}, True),
        ("length", {"a": None}, True),
        ("length", {"a": b"9"}, False),
        ("length of a range", {"c/4": b"9"}, True),
        ("length of a range", {"c/1": b"9", "d": b"9"}, False),
        ("keys", {"c/4": b"9"}, True),
        ("keys", {"c/1": None}, True),
        ("keys", {"c/1": b"9", "b": None}, False),
        ("items", {"c/1": b"9"}, True),
        ("items", {"d": b"9", "b": None}, False),
        ("values", {"c/3": b"9"}, True),
        ("first key", {"A": b"9"}, True),
        ("first key", {"a": None}, True),
        ("first key", {"aa": b"9", "b": None}, False),
        ("first item", {"c/0": b"9"}, True),
        ("first item", {"c/1": b"9"}, True),
        ("first item", {"c/2": b"9", "c/10": b"9"}, False),
        ("last item", {"c/3": b"9"}, True),
        ("last item", {"c/4": b"9"}, True),
        ("last item", {"c/2": b"9", "d": b"9"}, False),
        ("two items", {"c/11": b"9"}, True),
        ("two items", {"c/3": b"9", "c/21": b"9"}, False),
        ("empty range", {"d/1": b"9"}, True),
        ("empty range", {"d": b"9"}, False),
        ("view", {"c/1": b"9"}, True),
        ("view", {"c/2": b"9"}, False),
        ("view with a codec", {"a": b"9"}, True),
        ("view's keys", {"c/4": b"9"}, True),
        ("clear", {"new": b"9"}, True),
        ("nothing", {"a": b"9", "new": b"9", "c/1": None}, False),
    ],
)
def test_what_was_read_is_judged_and_no_more(
    branch: Branch, read: str, changed: dict[str, bytes | None], conflict: bool
) -> None:
    for isolation in ("serializable", "snapshot"):
        ws = branch.fork(isolation=isolation)  # type: ignore[arg-type]
        READS[read](ws)
        ws["out"] = b"1"
        before = branch.head
        change(branch, changed)
        if conflict and isolation == "serializable":
            head = branch.head
            with pytest.raises(ConflictError, match="it was read") as raised:
                ws.commit()
            assert set(raised.value.keys) <= set(changed) and branch.head == head
        elif read != "clear" or not conflict:
            assert ws.commit().snapshot["out"] == b"1"
        branch.restore(before)


def test_what_a_directory_was_compared_with_was_read(branch: Branch, tmp_path: Path) -> None:
    (tmp_path / "1").write_bytes(b"x")
    for changed, conflict in (({"b": b"9"}, False), ({"c/1": b"9"}, True), ({"c/4": b"9"}, True)):
        ws = branch.fork(isolation="serializable")
        ws.ingest(tmp_path, prefix="c/")
        ws["out"] = b"%d" % len(changed) + str(changed).encode()
        change(branch, changed)
        if conflict:
            with pytest.raises(ConflictError):
                ws.commit()
        else:
            ws.commit()


def test_conflict_over_a_read_names_what_was_read_and_what_is_there(branch: Branch) -> None:
    ws = branch.fork(isolation="serializable")
    ws["out"] = ws["a"] + ws.get("new", b"")
    change(branch, {"a": b"9", "new": b"8"})
    with pytest.raises(ConflictError) as raised:
        ws.commit()
    assert raised.value.conflicts == (Conflict("a", b"1", b"1", b"9"), Conflict("new", None, None, b"8"))


def test_what_is_read_and_written_is_judged_as_written(branch: Branch) -> None:
    ws = branch.fork(isolation="serializable")
    ws["n"] = b"%d" % (int(ws["n"]) + 1)
    for path in ws.keys("c/"):
        ws[path] = ws[path] * 2
    change(branch, {"n": b"20"})
    assert ws.commit(resolve={"n": "sum"}).snapshot["n"] == b"21"


def test_reading_an_edit_is_no_read(branch: Branch) -> None:
    ws = branch.fork(isolation="serializable")
    ws["a"] = b"mine"
    assert ws["a"] == b"mine" and "a" in ws and bytes(ws.view()["a"]) == b"mine"
    change(branch, {"b": b"9"})
    ws.commit()


def test_reads_go_with_a_fork_and_end_with_a_commit(branch: Branch) -> None:
    ws = branch.fork(isolation="serializable")
    assert ws["a"] and len(ws.keys("c/")) == 3 and list(ws.items("n"))
    copy = ws.fork()
    ws["out"] = b"1"
    ws.commit()
    change(branch, {"a": b"9", "c/9": b"9", "n": b"9"})
    ws["out"] = b"2"
    assert ws.commit().snapshot["out"] == b"2"
    copy["other"] = b"1"
    with pytest.raises(ConflictError) as raised:
        copy.commit()
    assert raised.value.keys == ("a", "c/9", "n")


def test_reads_alone_are_no_conflict(branch: Branch) -> None:
    ws = branch.fork(isolation="serializable")
    assert ws["a"] == b"1"
    change(branch, {"a": b"9"})
    assert ws.commit() == branch.last_commit


def test_write_skew_is_possible_in_snapshots_and_not_when_serialisable(branch: Branch) -> None:
    def take_leave(ws: Workspace, who: str) -> None:
        if sum(value == b"on" for value in ws.values("duty/")) > 1:
            ws[f"duty/{who}"] = b"off"

    for isolation, left in (("snapshot", 0), ("serializable", 1)):
        change(branch, {"duty/a": b"on", "duty/b": b"on"})
        first, second = (branch.fork(isolation=isolation) for _ in range(2))  # type: ignore[arg-type]
        take_leave(first, "a")
        take_leave(second, "b")
        first.commit()
        if isolation == "snapshot":
            second.commit()
        else:
            with pytest.raises(ConflictError):
                second.commit()
        assert list(branch.head.values("duty/")).count(b"on") == left


def test_range_that_a_million_changes_is_named_in_part(branch: Branch) -> None:
    ws = branch.fork(isolation="serializable")
    ws["out"] = b"%d" % len(ws)
    change(branch, {f"new/{i}": b"x" for i in range(300)})
    with pytest.raises(ConflictError, match="100 paths") as raised:
        ws.commit()
    assert len(raised.value.conflicts) == 100


# --- update ---


def test_update_returns_what_the_function_returns_and_commits_what_it_wrote(branch: Branch) -> None:
    def bump(ws: Workspace) -> int:
        numbers = ws.view(codec=codecs.json)
        numbers["n"] += 1
        return int(numbers["n"])

    assert branch.update(bump, "bumped", metadata={"by": 1}) == 11
    commit = branch.last_commit
    assert (commit.message, commit.metadata, commit.snapshot["n"]) == ("bumped", {"by": 1}, b"11")


def test_update_runs_again_when_something_it_read_was_changed(branch: Branch) -> None:
    runs: list[bytes] = []

    def copy(ws: Workspace) -> bytes:
        runs.append(ws["a"])
        if len(runs) < 3:
            change(branch, {"a": b"%d" % (len(runs) * 100)})
        ws["copy"] = ws["a"]
        return ws["a"]

    assert branch.update(copy) == b"200"
    assert runs == [b"1", b"100", b"200"] and branch.head["copy"] == b"200"


def test_update_does_not_run_again_for_what_a_resolver_decides(branch: Branch) -> None:
    runs: list[int] = []

    def bump(ws: Workspace) -> None:
        runs.append(1)
        ws["n"] = b"%d" % (int(ws["n"]) + 1)
        change(branch, {"n": b"20", "other": b"1"})

    branch.update(bump, resolve={"n": "sum"})
    assert len(runs) == 1 and branch.head["n"] == b"21"


def test_update_gives_up_after_its_retries(branch: Branch) -> None:
    runs: list[int] = []

    def never(ws: Workspace) -> None:
        runs.append(1)
        ws["out"] = ws["n"]
        change(branch, {"n": b"%d" % (100 + len(runs))})

    with pytest.raises(ConflictError):
        branch.update(never, retries=4)
    assert len(runs) == 5 and "out" not in branch.head
    for retries in (-1, True, 1.5):
        with pytest.raises(ValueError, match="retries is a number from 0 on"):
            branch.update(never, retries=retries)  # type: ignore[arg-type]


def test_update_lets_other_errors_through(branch: Branch) -> None:
    last = branch.last_commit

    def broken(ws: Workspace) -> None:
        ws["a"] = b"9"
        raise ConflictError("its own")

    with pytest.raises(ConflictError, match="its own"):
        branch.update(broken)
    assert branch.last_commit == last


def test_update_that_only_reads_commits_nothing(branch: Branch) -> None:
    last = branch.last_commit
    assert branch.update(lambda ws: ws["a"]) == b"1"
    assert branch.last_commit == last


def test_update_makes_a_branch_that_is_not_there(engine: Engine) -> None:
    branch = engine.branch("new")
    branch.update(lambda ws: ws.update({"a": b"1"}))
    assert branch.last_commit.sequence == 1


def test_head_that_moves_for_ever_ends_with_a_deadline(
    branch: Branch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "COMMIT_DEADLINE", 0.05)
    ws = branch.fork()
    ws["n"] = b"11"
    change(branch, {"n": b"0"})
    turns = iter(range(10**9))

    def again(conflict: Conflict) -> bytes:
        change(branch, {"n": b"%d" % (100 + next(turns))})
        return b"1"

    with pytest.raises(helios_shm.BusyError, match="moved faster than this commit could follow"):
        ws.commit(resolve=again)
    assert ws.edits == {"n": b"11"}


@pytest.mark.parametrize("resolve", [None, "sum", {"n": "sum"}])
def test_threads_of_one_process_lose_no_increment(branch: Branch, resolve: Resolve | None) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def bump(ws: Workspace) -> None:
        ws["n"] = b"%d" % (int(ws["n"]) + 1)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: branch.update(bump, resolve=resolve, retries=10**6), range(60)))
    assert branch.head["n"] == b"70"
