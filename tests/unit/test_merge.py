"""Merging states and branches: what comes of it, what is in conflict, where the common state is found."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest

import helios_shm
from helios_shm import Branch, Conflict, ConflictError, Engine, NotFoundError, Snapshot
from helios_shm.merge import history_from, nearest_common

Changes = Mapping[str, bytes | None]


def state(at: Snapshot, changes: Changes) -> Snapshot:
    """A detached state."""
    ws = at.fork()
    for path, value in changes.items():
        if value is None:
            del ws[path]
        else:
            ws[path] = value
    return ws.commit().snapshot


def step(branch: Branch, changes: Changes, message: str = "") -> Snapshot:
    ws = branch.fork()
    for path, value in changes.items():
        if value is None:
            del ws[path]
        else:
            ws[path] = value
    return ws.commit(message).snapshot


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One store for all tests that need no branches."""
    with helios_shm.open(tmp_path_factory.mktemp("states") / "store") as opened:
        yield opened


@pytest.fixture
def base(states: Engine) -> Snapshot:
    return start(states)


def start(engine: Engine) -> Snapshot:
    return state(engine.empty, {"a": b"1", "b": b"2", "c": b"3", "d/e": b"4"})


@pytest.fixture
def engine() -> Iterator[Engine]:
    """A store of one's own that is never synced: these tests make and end many."""
    with helios_shm.open(None) as opened:
        yield opened


@pytest.fixture
def main(engine: Engine) -> Branch:
    return engine.branch("main")


# --- states ---


def test_changes_of_both_sides_come_together(base: Snapshot) -> None:
    ours = state(base, {"a": b"ours", "b": None, "new": b"n"})
    theirs = state(base, {"c": b"theirs" * 100, "d/e": None, "d/f": b"x"})
    merged = ours.merge(theirs, base=base)
    assert dict(merged) == {"a": b"ours", "c": b"theirs" * 100, "d/f": b"x", "new": b"n"}
    assert merged == theirs.merge(ours, base=base)
    assert (dict(ours)["c"], dict(theirs)["a"]) == (b"3", b"1")


def test_merge_of_unchanged_sides_is_the_other_side(base: Snapshot) -> None:
    other = state(base, {"a": b"x"})
    assert base.merge(other, base=base) == other == other.merge(base, base=base)
    assert base.merge(base, base=base) == base
    assert other.merge(other, base=base) == other


def test_equal_changes_are_accepted(base: Snapshot) -> None:
    ours = state(base, {"a": b"same", "b": None, "mine": b"1"})
    theirs = state(base, {"a": b"same", "b": None, "theirs": b"2"})
    merged = ours.merge(theirs, base=base)
    assert merged == state(base, {"a": b"same", "b": None, "mine": b"1", "theirs": b"2"})


def test_different_changes_are_a_conflict_that_names_all_three_values(base: Snapshot) -> None:
    ours = state(base, {"a": b"o", "b": None, "c": b"C", "z": b"1"})
    theirs = state(base, {"a": b"t", "b": b"t", "c": None, "z": b"2", "d/e": b"fine"})
    with pytest.raises(ConflictError, match=r"have changed 4 paths: 'a', 'b', 'c', \.\.\.") as raised:
        ours.merge(theirs, base=base)
    assert raised.value.conflicts == (
        Conflict("a", b"1", b"o", b"t"),
        Conflict("b", b"2", None, b"t"),
        Conflict("c", b"3", b"C", None),
        Conflict("z", None, b"1", b"2"),
    )


def test_resolvers_are_chosen_by_pattern_and_the_rest_stays_in_conflict(base: Snapshot) -> None:
    base = state(base, {"n/hits": b"10", "n/best": b"3"})
    ours = state(base, {"a": b"o", "b": b"o", "n/hits": b"11", "n/best": b"5", "z": b"1"})
    theirs = state(base, {"a": b"t", "b": b"t", "n/hits": b"13", "n/best": b"4", "z": b"2"})
    rules = {"n/best": "max", "n/*": "sum", "a": "theirs", "b": "ours"}
    with pytest.raises(ConflictError) as raised:
        ours.merge(theirs, base=base, resolve=rules)  # type: ignore[arg-type]
    assert raised.value.keys == ("z",)
    merged = ours.merge(
        theirs, base=base, resolve={**rules, "z": lambda c: (c.ours or b"") + (c.theirs or b"")}
    )  # type: ignore[dict-item]
    assert dict(merged) == {
        "a": b"t", "b": b"o", "c": b"3", "d/e": b"4", "n/best": b"5", "n/hits": b"14", "z": b"12",
    }  # fmt: skip


def test_equal_changes_are_two_changes_to_a_resolver(base: Snapshot) -> None:
    other = state(base, {"a": b"2"})
    assert other.merge(other, base=base)["a"] == b"2"
    assert other.merge(other, base=base, resolve="sum")["a"] == b"3"
    assert other.merge(other, base=base, resolve={"b": "sum"})["a"] == b"2"


def test_equal_changes_that_a_resolver_cannot_read_are_accepted(base: Snapshot) -> None:
    ours, theirs = (
        state(base, {"a": b"text", "b": None, "c": b"4"}),
        state(base, {"a": b"text", "b": None, "c": b"5"}),
    )
    assert dict(ours.merge(theirs, base=base, resolve="sum")) == {"a": b"text", "c": b"6", "d/e": b"4"}
    link = put(base, "l", b"to", "symlink")
    gone = state(link, {"l": None})
    assert gone.merge(gone, base=link, resolve="sum") == gone


def test_what_a_resolver_cannot_read_stays_in_conflict_and_says_why(base: Snapshot) -> None:
    ours, theirs = state(base, {"a": b"x", "b": None}), state(base, {"a": b"2", "b": b"3"})
    with pytest.raises(
        ConflictError, match=r"'a' \(sum: ours is no JSON\), 'b' \(sum: ours has removed it\)"
    ):
        ours.merge(theirs, base=base, resolve="sum")


def test_error_of_a_callable_comes_out_and_nothing_moves(main: Branch) -> None:
    first = step(main, {"a": b"1"})
    theirs, head = state(first, {"a": b"2"}), step(main, {"a": b"3"})

    def broken(conflict: Conflict) -> bytes:
        raise RuntimeError(conflict.path)

    with pytest.raises(RuntimeError, match="a"):
        main.merge(theirs, base=first, resolve=broken)
    assert main.head == head


def test_large_values_of_theirs_are_taken_unread(base: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"big": b"\xa5" * 300_000, "text": b"abc " * 5000, "small": b"s" * 65}
    theirs, ours = state(base, values), state(base, {"a": b"x"})
    monkeypatch.setattr(Snapshot, "__getitem__", lambda *_: pytest.fail("read"))
    merged = ours.merge(theirs, base=base)
    monkeypatch.undo()
    assert merged == state(state(base, {"a": b"x"}), values)
    assert {path: merged[path] for path in values} == values


# --- kinds ---


def put(at: Snapshot, path: str, value: bytes | Snapshot, kind: helios_shm.Kind | None = None) -> Snapshot:
    ws = at.fork()
    ws.put(path, value, kind=kind)
    return ws.commit().snapshot


def test_kinds_are_merged_with_their_values(base: Snapshot) -> None:
    ours = state(base, {"b": b"o"})
    theirs = put(put(base, "a", b"1", "executable"), "l", b"to", "symlink")
    merged = ours.merge(theirs, base=base)
    assert (merged.stat("a").kind, merged.stat("l").kind, merged["l"]) == ("executable", "symlink", b"to")


def test_change_of_kind_alone_is_a_change(base: Snapshot) -> None:
    ours, theirs = state(base, {"a": b"o"}), put(base, "a", b"1", "executable")
    with pytest.raises(ConflictError) as raised:
        ours.merge(theirs, base=base)
    assert raised.value.conflicts == (Conflict("a", b"1", b"o", b"1"),)


@pytest.mark.parametrize(
    ("ours", "theirs", "resolve", "value", "kind"),
    [
        (("file", b"o"), ("executable", b"1"), "ours", b"o", "executable"),
        (("file", b"o"), ("executable", b"1"), "theirs", b"1", "executable"),
        (("executable", b"1"), ("file", b"9"), "theirs", b"9", "executable"),
        (("executable", b"5"), ("file", b"9"), "sum", b"13", "executable"),
        (("file", b"5"), ("symlink", b"to"), "ours", b"5", "file"),
        (("file", b"5"), ("symlink", b"to"), "theirs", b"to", "symlink"),
        (("symlink", b"x"), ("symlink", b"y"), "theirs", b"y", "symlink"),
        (("symlink", b"x"), ("symlink", b"y"), lambda c: b"z", b"z", "symlink"),
        (("file", b"5"), ("symlink", b"y"), lambda c: b"z", b"z", "file"),
        (("symlink", b"y"), ("file", b"5"), lambda c: c.theirs, b"5", "file"),
    ],
)
def test_kind_of_what_is_resolved(
    base: Snapshot,
    ours: tuple[helios_shm.Kind, bytes],
    theirs: tuple[helios_shm.Kind, bytes],
    resolve: helios_shm.Resolver,
    value: bytes,
    kind: str,
) -> None:
    mine, its = put(base, "a", ours[1], ours[0]), put(base, "a", theirs[1], theirs[0])
    merged = mine.merge(its, base=base, resolve=resolve)
    assert (merged["a"], merged.stat("a").kind) == (value, kind)


def test_named_resolvers_look_into_files_alone(base: Snapshot) -> None:
    ours, theirs = put(base, "a", b"5", "symlink"), state(base, {"a": b"6"})
    with pytest.raises(ConflictError, match="'a' \\(sum: it is a symlink on one side"):
        ours.merge(theirs, base=base, resolve="sum")


# --- states in states ---


def test_states_inside_are_merged_in_the_same_way(base: Snapshot) -> None:
    ours_inside, theirs_inside = state(base, {"a": b"5"}), state(base, {"a": b"7", "new": b"n"})
    outer = put(base, "world", base)
    ours, theirs = put(outer, "world", ours_inside), put(outer, "world", theirs_inside)
    merged = ours.merge(theirs, base=outer, resolve={"a": "sum"})
    assert dict(merged.nested("world")) == {**base, "a": b"11", "new": b"n"}
    with pytest.raises(
        ConflictError, match="'world' \\(inside: both sides have changed 1 path: 'a'\\)"
    ) as raised:
        ours.merge(theirs, base=outer)
    assert raised.value.conflicts == (Conflict("world", base._root, ours_inside._root, theirs_inside._root),)


def test_states_without_a_state_to_come_from_are_in_conflict(base: Snapshot) -> None:
    one, two = state(base, {"a": b"5"}), state(base, {"b": b"7"})
    ours, theirs = put(base, "world", one), put(base, "world", two)
    with pytest.raises(ConflictError):
        ours.merge(theirs, base=base)
    assert ours.merge(theirs, base=base, resolve="theirs").nested("world") == two
    with pytest.raises(ConflictError, match="sum: it is a snapshot"):
        ours.merge(theirs, base=base, resolve="sum")


def test_states_are_merged_so_deep_and_no_deeper(base: Snapshot) -> None:
    def nested(inside: Snapshot, times: int) -> Snapshot:
        for _ in range(times):
            inside = put(base, "x", inside)
        return inside

    one, two = state(base, {"a": b"5"}), state(base, {"b": b"7"})
    merged = nested(one, 20).merge(nested(two, 20), base=nested(base, 20))
    assert merged == nested(one.merge(two, base=base), 20)
    with pytest.raises(ConflictError, match="inside: "):
        nested(one, 80).merge(nested(two, 80), base=nested(base, 80))


# --- what is refused before anything is done ---


def test_what_cannot_be_merged(main: Branch, tmp_path: Path) -> None:
    base = start(main.engine)
    with pytest.raises(TypeError, match="what is merged is a Snapshot, not str"):
        base.merge("x", base=base)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not NoneType"):
        base.merge(base, base=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not 'nobody'"):
        base.merge(base, base=base, resolve="nobody")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        main.merge(3)  # type: ignore[arg-type]
    with helios_shm.open(tmp_path / "other") as other:
        elsewhere = state(other.empty, {"a": b"1"})
        with pytest.raises(NotFoundError, match="in another store"):
            base.merge(elsewhere, base=base)
        with pytest.raises(NotFoundError, match="in another store"):
            main.merge(base, base=elsewhere)


def test_read_only_engine_merges_nothing(store_path: Path) -> None:
    with helios_shm.open(store_path) as writable:
        step(writable.branch("main"), {"a": b"1"})
        other = state(writable.branch("main").head, {"b": b"2"}).id
    with helios_shm.open(store_path, readonly=True) as engine:
        branch = engine.branch("main")
        with pytest.raises(helios_shm.ReadOnlyError):
            branch.merge(engine.snapshot(other), base=branch.head)


# --- branches ---


def test_merge_commit_has_both_parents_and_a_message(engine: Engine, main: Branch) -> None:
    first = step(main, {"a": b"1"})
    plan = engine.branch("plan", at=first)
    theirs = step(plan, {"b": b"2"})
    ours = step(main, {"c": b"3"})
    commit = main.merge(plan, message="take the plan")
    assert dict(commit.snapshot) == {"a": b"1", "b": b"2", "c": b"3"}
    assert (commit.parents, commit.message, commit.sequence) == ((ours, theirs), "take the plan", 3)
    assert main.last_commit.parents == (ours, theirs) and main.head == commit.snapshot


def test_merge_that_could_be_a_fast_forward_is_a_commit(engine: Engine, main: Branch) -> None:
    first = step(main, {"a": b"1"})
    plan = engine.branch("plan", at=first)
    theirs = step(plan, {"b": b"2"})
    commit = main.merge(plan)
    assert (commit.snapshot, commit.parents, commit.sequence) == (theirs, (first, theirs), 2)


def test_merge_of_what_is_contained_is_the_last_commit(engine: Engine, main: Branch) -> None:
    first = step(main, {"a": b"1"})
    plan = engine.branch("plan", at=first)
    head = step(main, {"a": b"2"})
    for other in (plan, first, head):
        assert main.merge(other, message="nothing").sequence == 2
    step(plan, {"b": b"1"})
    merged = main.merge(plan)
    assert main.merge(plan) == merged == main.merge(plan.head) == main.last_commit
    assert main.merge(first, base=first) == merged


def test_second_merge_begins_where_the_first_ended(engine: Engine, main: Branch) -> None:
    plan = engine.branch("plan", at=step(main, {"n": b"0"}))
    for expected in (b"2", b"4", b"6"):
        for branch in (main, plan):
            n = int(branch.head["n"]) + 1
            step(branch, {"n": b"%d" % n, branch.name: b"%d" % n})
        main.merge(plan, resolve="sum")
        assert main.head["n"] == expected
        plan.merge(main, resolve="sum")
        assert plan.head["n"] == expected


def test_branch_that_is_not_there_is_made_by_a_merge(engine: Engine, main: Branch) -> None:
    theirs = step(main, {"a": b"1"})
    copy = engine.branch("copy").merge(main)
    assert (copy.snapshot, copy.branch, copy.sequence, copy.parents) == (theirs, "copy", 1, (theirs,))
    assert engine.branches() == ["copy", "main"]
    step(main, {"b": b"2"})
    assert dict(engine.branch("copy").merge(main).snapshot) == {"a": b"1", "b": b"2"}


def test_branches_that_began_empty_have_that_in_common(engine: Engine, main: Branch) -> None:
    other = engine.branch("other")
    step(main, {"a": b"1"})
    step(other, {"b": b"2"})
    assert dict(main.merge(other).snapshot) == {"a": b"1", "b": b"2"}


def test_branches_with_nothing_in_common_want_a_base(engine: Engine, main: Branch) -> None:
    step(main, {"a": b"1", "b": b"2"})
    foreign = engine.branch("foreign", at=state(main.head, {"b": None}))
    with pytest.raises(
        NotFoundError, match="'main' and 'foreign' have no state that both come from; pass base="
    ):
        main.merge(foreign)
    assert dict(main.merge(foreign, base=main.head).snapshot) == {"a": b"1"}


def test_history_that_was_collected_is_not_taken_for_an_empty_beginning(engine: Engine, main: Branch) -> None:
    plan = engine.branch("plan", at=step(main, {"a": b"1", "gone": b"1"}))
    step(plan, {"b": b"2"})
    step(main, {"gone": None})
    engine.gc(history=1, grace=timedelta(0))
    # With the empty state as its base, a merge would bring back what main has removed.
    with pytest.raises(
        NotFoundError, match=r"dropped all of 'main' before commit 2; .* 'plan' .* 2; pass base="
    ):
        main.merge(plan)
    with pytest.raises(NotFoundError, match="dropped all of 'main' before commit 2; pass base="):
        main.merge(plan.head.fork().commit().snapshot)


def test_snapshot_without_a_base_is_looked_for_in_every_log(engine: Engine, main: Branch) -> None:
    first = step(main, {"a": b"1"})
    plan = engine.branch("plan", at=first)
    middle = step(plan, {"b": b"2"})
    step(plan, {"c": b"3"})
    step(main, {"d": b"4"})
    assert dict(main.merge(middle).snapshot) == {"a": b"1", "b": b"2", "d": b"4"}
    with pytest.raises(NotFoundError, match="no branch's log has"):
        main.merge(state(main.head, {"x": b"1"}))


def test_branch_that_does_not_exist_cannot_be_merged(engine: Engine, main: Branch) -> None:
    step(main, {"a": b"1"})
    with pytest.raises(NotFoundError, match="'nowhere' has no commit"):
        main.merge(engine.branch("nowhere"))


def test_conflict_of_a_merge_moves_nothing(engine: Engine, main: Branch) -> None:
    plan = engine.branch("plan", at=step(main, {"a": b"1"}))
    step(plan, {"a": b"2"})
    head = step(main, {"a": b"3"})
    with pytest.raises(ConflictError, match="into branch 'main'") as raised:
        main.merge(plan)
    assert raised.value.conflicts == (Conflict("a", b"1", b"3", b"2"),)
    assert main.head == head and main.last_commit.sequence == 2
    assert main.merge(plan, resolve="theirs").snapshot["a"] == b"2"


def test_head_that_moves_while_a_merge_is_made_is_merged_too(engine: Engine, main: Branch) -> None:
    plan = engine.branch("plan", at=step(main, {"a": b"1", "n": b"0"}))
    step(plan, {"a": b"2", "n": b"1"})
    step(main, {"a": b"3", "n": b"1"})
    turns = [0, 1, 2]

    def meanwhile(conflict: Conflict) -> bytes:
        if turns:
            turn = turns.pop(0)
            step(main, {f"late/{turn}": b"x", "n": b"%d" % (turn + 2)})
        return (conflict.ours or b"") + (conflict.theirs or b"")

    commit = main.merge(plan, resolve={"a": meanwhile, "n": "sum"})
    assert dict(commit.snapshot) == {
        "a": b"32", "n": b"5", "late/0": b"x", "late/1": b"x", "late/2": b"x",
    }  # fmt: skip
    assert commit.sequence == 6


# --- histories ---


def roots(text: str) -> list[tuple[bytes, ...]]:
    """Generations, newest first: `c+x b a` is three, of which the newest merged x."""
    return [tuple(name.encode() for name in generation.split("+")) for generation in text.split()]


@pytest.mark.parametrize(
    ("ours", "theirs", "common"),
    [
        ("c b a", "e d b a", b"b"),
        ("a", "a", b"a"),
        ("c b a", "b a", b"b"),
        ("a", "e d c b a", b"a"),
        ("m+e c b a", "f e d b a", b"e"),
        ("c b a", "m+c e b a", b"c"),
        ("c b a", "z y x", None),
        ("", "a", None),
    ],
)
def test_nearest_common_state(ours: str, theirs: str, common: bytes | None) -> None:
    mine, its = (roots(text) if text else [] for text in (ours, theirs))
    assert nearest_common(mine, its) == common == nearest_common(its, mine)


def test_history_of_a_state_within_one() -> None:
    history = roots("m+e c b a")
    assert list(history_from(b"c", history)) == roots("c b a")
    assert list(history_from(b"m", history)) == history
    assert list(history_from(b"e", history)) == roots("e")
    assert list(history_from(b"x", history)) == []
