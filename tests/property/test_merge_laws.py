"""The laws of merging, and agreement with a merge of plain dicts that is written for reading.

A twin state maps a path to {kind, value}; the value of a nested state is a twin state again.
"""

import json
from collections.abc import Iterator
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import helios_shm
from helios_shm import ConflictError, Engine, Kind, Resolve, Resolver, Snapshot

Twin: TypeAlias = dict[str, tuple[Kind, Any]]

PATHS = ["a", "b", "n/x", "n/y", "s/a", "w"]
MIRRORED: dict[Any, Resolver] = {"ours": "theirs", "theirs": "ours"}
LAWS = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

numbers = st.integers(-3, 3).map(lambda number: b"%d" % number)
arrays = st.lists(st.integers(0, 3), max_size=3).map(lambda items: json.dumps(items).encode())
values = st.one_of(numbers, arrays, st.sampled_from([b"", b"text\n", b"x" * 100]))
files = st.tuples(st.sampled_from(["file", "file", "executable", "symlink"]), values)
flat = st.dictionaries(st.sampled_from(PATHS), files)
entries = st.one_of(files, files, st.tuples(st.just("snapshot"), flat))
twins = st.dictionaries(st.sampled_from(PATHS), entries)
edits = st.dictionaries(st.sampled_from(PATHS), st.one_of(st.none(), entries), max_size=4)
names = st.sampled_from(["ours", "theirs", "sum", "max", "min", "union"])
rules = st.one_of(
    st.none(), names, st.dictionaries(st.sampled_from(["a", "n/*", "**", "*"]), names, max_size=2)
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with helios_shm.open(tmp_path_factory.mktemp("laws") / "store") as opened:
        yield opened


def real(engine: Engine, twin: Twin) -> Snapshot:
    ws = engine.empty.fork()
    for path, (kind, value) in twin.items():
        ws.put(path, real(engine, value) if kind == "snapshot" else value, kind=kind)
    return ws.commit().snapshot


def edited(twin: Twin, changes: dict[str, Any]) -> Twin:
    return {path: entry for path, entry in {**twin, **changes}.items() if entry is not None}


# --- the merge of twins ---


class Clash(Exception):
    """Paths that stay in conflict."""


def rule_of(resolve: Any, path: str) -> Any:
    if not isinstance(resolve, dict):
        return resolve
    matching = {"a": path == "a", "n/*": path.startswith("n/"), "**": True, "*": "/" not in path}
    return next((name for pattern, name in resolve.items() if matching[pattern]), None)


def merge(base: Twin, ours: Twin, theirs: Twin, resolve: Any) -> Twin:
    merged, clashes = dict(ours), []
    for path in sorted({*base, *theirs}):
        was, mine, its = base.get(path), ours.get(path), theirs.get(path)
        if its == was:
            continue
        if mine == was:
            outcome = its
        else:
            try:
                outcome = merge_entries(path, was, mine, its, resolve)
            except Clash:
                if mine != its:
                    clashes.append(path)
                continue
        merged.pop(path, None)
        if outcome is not None:
            merged[path] = outcome
    if clashes:
        raise Clash(clashes)
    return merged


def merge_entries(path: str, was: Any, mine: Any, its: Any, resolve: Any) -> Any:
    sides = (was, mine, its)
    if all(side is not None and side[0] == "snapshot" for side in sides):
        return "snapshot", merge(was[1], mine[1], its[1], resolve)
    name = rule_of(resolve, path)
    if name is None:
        if mine == its:
            return mine
        raise Clash
    if name in MIRRORED:
        chosen, other = (mine, its) if name == "ours" else (its, mine)
    else:
        if mine is None and its is None:
            return None
        if was is not None and (mine is None or its is None):
            raise Clash
        if any(side is not None and side[0] not in ("file", "executable") for side in sides):
            raise Clash
        chosen, other = (mine[0], computed(name, was and was[1], mine[1], its[1])), its
    if chosen is None or other is None:
        return chosen
    plain = {chosen[0], other[0]} <= {"file", "executable"}
    only_other = was is not None and was[0] == chosen[0] != other[0]
    return (other[0], chosen[1]) if plain and only_other else chosen


def computed(name: str, was: bytes | None, mine: bytes, its: bytes) -> bytes:
    wanted = list if name == "union" else int
    read = []
    for text in (mine, its, was):
        try:
            value = None if text is None else json.loads(text)
        except ValueError:
            if text is was and name in ("max", "min"):
                continue
            raise Clash from None
        if (
            text is not None
            and not isinstance(value, wanted)
            and not (text is was and name in ("max", "min"))
        ):
            raise Clash
        read.append(value)
    if name == "union":
        a, b, old = (set(items or ()) for items in read)
        result: Any = sorted((a & b) | (a - old) | (b - old))
    elif name == "sum":
        result = read[0] + read[1] - (read[2] or 0)
    else:
        result = (max if name == "max" else min)(read[:2])
    return json.dumps(result, separators=(",", ":")).encode()


# --- laws ---


@given(base=twins, changes=edits, resolve=rules)
@LAWS
def test_side_that_is_unchanged_gives_the_other(
    engine: Engine, base: Twin, changes: dict[str, Any], resolve: Resolve | None
) -> None:
    old, new = real(engine, base), real(engine, edited(base, changes))
    assert new.merge(old, base=old, resolve=resolve) == new
    assert old.merge(new, base=old, resolve=resolve) == new
    assert new.merge(new, base=old) == new


@given(base=twins, mine=edits, its=edits, resolve=rules)
@LAWS
def test_merge_agrees_with_its_twin(
    engine: Engine, base: Twin, mine: dict[str, Any], its: dict[str, Any], resolve: Resolve | None
) -> None:
    ours, theirs = edited(base, mine), edited(base, its)
    old, new, other = (real(engine, twin) for twin in (base, ours, theirs))
    try:
        expected = merge(base, ours, theirs, resolve)
    except Clash as clash:
        with pytest.raises(ConflictError) as raised:
            new.merge(other, base=old, resolve=resolve)
        assert list(raised.value.keys) == clash.args[0]
        for conflict in raised.value.conflicts:
            sides = [snapshot.get(conflict.path) for snapshot in (old, new, other)]
            assert sides == [conflict.base, conflict.ours, conflict.theirs]
    else:
        assert new.merge(other, base=old, resolve=resolve) == real(engine, expected)


def mirrored(resolve: Any) -> Any:
    if isinstance(resolve, dict):
        return {pattern: MIRRORED.get(name, name) for pattern, name in resolve.items()}
    return MIRRORED.get(resolve, resolve)


@given(base=twins, mine=edits, its=edits, resolve=rules)
@LAWS
def test_sides_can_be_swapped_with_their_resolvers(
    engine: Engine, base: Twin, mine: dict[str, Any], its: dict[str, Any], resolve: Resolve | None
) -> None:
    old, ours, theirs = (real(engine, twin) for twin in (base, edited(base, mine), edited(base, its)))
    found: list[Any] = []
    for one, other, rule in ((ours, theirs, resolve), (theirs, ours, mirrored(resolve))):
        try:
            found.append(dict(one.merge(other, base=old, resolve=rule)))
        except ConflictError as error:
            found.append(error.keys)
    assert found[0] == found[1]


@given(base=twins, mine=edits, its=edits)
@LAWS
def test_disjoint_edits_commute(
    engine: Engine, base: Twin, mine: dict[str, Any], its: dict[str, Any]
) -> None:
    its = {path: entry for path, entry in its.items() if path not in mine}
    old, ours, theirs = (real(engine, twin) for twin in (base, edited(base, mine), edited(base, its)))
    both = real(engine, edited(edited(base, mine), its))
    assert ours.merge(theirs, base=old) == both == theirs.merge(ours, base=old)


@given(base=twins, mine=edits, its=edits)
@LAWS
def test_what_was_merged_is_merged_no_more(
    engine: Engine, base: Twin, mine: dict[str, Any], its: dict[str, Any]
) -> None:
    old, ours, theirs = (real(engine, twin) for twin in (base, edited(base, mine), edited(base, its)))
    merged = ours.merge(theirs, base=old, resolve="ours")
    assert merged.merge(theirs, base=theirs) == merged == theirs.merge(merged, base=theirs)
    assert merged.merge(ours, base=ours) == merged


@given(base=twins, mine=edits, its=edits, resolve=rules)
@LAWS
def test_states_inside_are_merged_as_if_alone(
    engine: Engine, base: Twin, mine: dict[str, Any], its: dict[str, Any], resolve: Resolve | None
) -> None:
    inner = [real(engine, twin) for twin in (base, edited(base, mine), edited(base, its))]
    outer = [real(engine, {}).fork() for _ in inner]
    for ws, inside in zip(outer, inner, strict=True):
        ws.put("world", inside)
        ws["same"] = b"1"
    old, ours, theirs = (ws.commit().snapshot for ws in outer)
    if old in (ours, theirs):
        return
    try:
        expected = inner[1].merge(inner[2], base=inner[0], resolve=resolve)
    except ConflictError:
        with pytest.raises(ConflictError) as raised:
            ours.merge(theirs, base=old, resolve=resolve)
        assert raised.value.keys == ("world",)
    else:
        assert ours.merge(theirs, base=old, resolve=resolve).nested("world") == expected


@given(steps=st.lists(st.tuples(st.integers(0, 2), st.integers(-5, 5)), max_size=12))
@LAWS
def test_commits_with_sum_count_everything_whatever_they_began_from(
    engine: Engine, steps: list[tuple[int, int]]
) -> None:
    branch = engine.branch("counts")
    start = int(branch.head.get("n", b"0"))
    held = [branch.fork() for _ in range(3)]
    for who, step in steps:
        ws = held[who]
        ws["n"] = b"%d" % (int(ws.get("n", b"0")) + step)
        ws.commit(resolve={"n": "sum"})
    assert int(branch.head.get("n", b"0")) == start + sum(step for _, step in steps)
