"""Tags: names that do not move, beside branches, for every process, over restarts; and what references mean."""

import multiprocessing
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import helios_shm
from helios_shm.names import TAG

RING_BYTES = 4 << 20


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[helios_shm.Engine]:
    with helios_shm.open(tmp_path_factory.mktemp("tags") / "store", l1_bytes=RING_BYTES) as opened:
        yield opened


@pytest.fixture
def space(request: pytest.FixtureRequest) -> str:
    """A prefix of this test's own."""
    return request.node.name[:150] + "/"


def state_of(engine: helios_shm.Engine, value: str) -> helios_shm.Snapshot:
    workspace = engine.empty.fork()
    workspace["k"] = value.encode()
    return workspace.commit().snapshot


# --- making, listing, removing ---


def test_tag_names_a_snapshot_and_stays(engine: helios_shm.Engine, space: str) -> None:
    branch = engine.branch(space)
    with branch.transaction() as workspace:
        workspace["k"] = b"1"
    first = branch.head
    engine.tag(space + "v1", first)
    engine.tag(space + "v0", engine.empty)
    with branch.transaction() as workspace:
        workspace["k"] = b"2"
    assert engine.snapshot(space + "v1") == first and first["k"] == b"1"
    assert engine.tags(space) == {space + "v0": engine.empty, space + "v1": first}
    assert list(engine.tags(space)) == [space + "v0", space + "v1"]
    assert engine.tags()[space + "v1"] == first
    assert engine.tags(space + "v1/") == {}


def test_same_tag_again_changes_nothing_and_another_snapshot_is_refused(
    engine: helios_shm.Engine, space: str
) -> None:
    one, two = state_of(engine, "1"), state_of(engine, "2")
    engine.tag(space, one)
    engine.tag(space, one)
    with pytest.raises(helios_shm.ExistsError, match=rf"{one.id[:12]}, not {two.id[:12]}; delete it first"):
        engine.tag(space, two)
    assert engine.snapshot(space) == one
    engine.delete_tag(space)
    assert engine.tags(space) == {}
    with pytest.raises(helios_shm.NotFoundError, match="no tag"):
        engine.delete_tag(space)
    engine.tag(space, two)
    assert engine.snapshot(space) == two


def test_tags_are_no_branches_and_branches_are_no_tags(engine: helios_shm.Engine, space: str) -> None:
    state = state_of(engine, space)
    engine.tag(space + "t", state)
    engine.branch(space + "b", at=state)
    assert engine.branches(space) == [space + "b"]
    assert list(engine.tags(space)) == [space + "t"]
    assert not any(name.startswith("\x01") for name in engine.branches())
    assert engine.branches(TAG) == engine.branches("\x01") == []
    with pytest.raises(helios_shm.NotFoundError):
        engine.branch(space + "t", create=False)
    with pytest.raises(helios_shm.NotFoundError):
        engine.delete_tag(space + "b")
    with pytest.raises(ValueError, match="control character"):
        engine.branch(TAG + space + "t")


@pytest.mark.parametrize("name", ["a", "a/b", "\u00e9t\u00e9", " ", "x" * 250, "\u20ac" * 83])
def test_tag_name_is_1_to_250_bytes_of_text(engine: helios_shm.Engine, name: str) -> None:
    engine.tag(name, engine.empty)
    assert engine.tags(name)[name] == engine.snapshot(name) == engine.empty
    engine.delete_tag(name)


@pytest.mark.parametrize("name", ["", "x" * 251, "\u20ac" * 84, "a\nb", "\0", "\x01tag/a", "a@b", "\ud800"])
def test_bad_tag_name_is_value_error(engine: helios_shm.Engine, name: str) -> None:
    with pytest.raises(ValueError, match="tag name"):
        engine.tag(name, engine.empty)
    with pytest.raises(ValueError, match="tag name"):
        engine.delete_tag(name)


def test_what_is_no_name_and_no_snapshot_is_type_error(engine: helios_shm.Engine, space: str) -> None:
    with pytest.raises(TypeError, match="tag name"):
        engine.tag(1, engine.empty)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a tag names a Snapshot"):
        engine.tag(space, engine.empty.id)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="prefix"):
        engine.tags(b"")  # type: ignore[arg-type]
    assert engine.tags(space) == {}


def test_snapshot_of_another_store_cannot_be_tagged(
    engine: helios_shm.Engine, store_path: Path, space: str
) -> None:
    with helios_shm.open(store_path) as other, pytest.raises(helios_shm.NotFoundError, match="another store"):
        engine.tag(space, other.empty)


names = st.sampled_from(["a", "a/", "a/b", "b", "\u00e9"])
steps = st.lists(
    st.tuples(st.sampled_from(["tag", "delete", "branch"]), names, st.integers(0, 2)), max_size=12
)


@settings(max_examples=40)
@given(steps=steps)
def test_tags_agree_with_a_dict(engine: helios_shm.Engine, steps: list[tuple[str, str, int]]) -> None:
    states = [engine.empty, state_of(engine, "1"), state_of(engine, "2")]
    twin: dict[str, helios_shm.Snapshot] = {}
    for name in engine.tags("dict/"):
        engine.delete_tag(name)
    for what, short, number in steps:
        name, state = "dict/" + short, states[number]
        if what == "branch":
            engine.branch(name).restore(state)  # of the same name; it does not matter
        elif what == "delete" and name in twin:
            engine.delete_tag(name)
            del twin[name]
        elif what == "delete":
            with pytest.raises(helios_shm.NotFoundError):
                engine.delete_tag(name)
        elif twin.setdefault(name, state) == state:
            engine.tag(name, state)
        else:
            with pytest.raises(helios_shm.ExistsError):
                engine.tag(name, state)
        assert engine.tags("dict/") == dict(sorted(twin.items()))
        assert engine.tags("dict/a/") == {key: twin[key] for key in sorted(twin) if key.startswith("dict/a/")}


# --- processes and restarts ---


def tag_and_look(engine: helios_shm.Engine, name: str, wanted: dict[str, str]) -> None:
    """In another process: it sees our tags, and makes one."""
    assert {name: state.id for name, state in engine.tags().items() if name in wanted} == wanted
    engine.tag(name, engine.snapshot(next(iter(wanted))))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_see_each_others_tags(engine: helios_shm.Engine, space: str, method: str) -> None:
    state = state_of(engine, method)
    engine.tag(space + "ours", state)
    context: Any = multiprocessing.get_context(method)
    process = context.Process(
        target=tag_and_look, args=(engine, space + "theirs", {space + "ours": state.id})
    )
    process.start()
    process.join()
    assert process.exitcode == 0
    assert engine.tags(space) == {space + "ours": state, space + "theirs": state}


def test_of_many_who_make_a_tag_at_once_one_wins(engine: helios_shm.Engine, space: str) -> None:
    states = [state_of(engine, f"{i}") for i in range(8)]
    won: list[helios_shm.Snapshot] = []
    start = threading.Barrier(len(states))

    def work(state: helios_shm.Snapshot) -> None:
        start.wait()
        try:
            engine.tag(space, state)
            won.append(state)
        except helios_shm.ExistsError:
            pass

    threads = [threading.Thread(target=work, args=(state,)) for state in states]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [engine.snapshot(space)]


def test_tag_that_vanishes_while_it_is_looked_at_is_made(
    engine: helios_shm.Engine, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.tag(space, state_of(engine, "1"))
    look = helios_shm.Branch._live_record

    def delete_and_look(branch: helios_shm.Branch) -> bytes | None:
        monkeypatch.setattr(helios_shm.Branch, "_live_record", look)
        engine.delete_tag(space)
        return look(branch)

    monkeypatch.setattr(helios_shm.Branch, "_live_record", delete_and_look)
    engine.tag(space, engine.empty)
    assert engine.snapshot(space) == engine.empty


def test_tags_survive_reopening_and_deleted_ones_do_not(store_path: Path) -> None:
    with helios_shm.open(store_path) as engine:
        ids = {f"v{i}": state_of(engine, f"{i}").id for i in range(20)}
        for name, id in ids.items():
            engine.tag(name, engine.snapshot(id))
        engine.delete_tag("v7")
    with helios_shm.open(store_path) as engine:
        assert {name: state.id for name, state in engine.tags().items()} == {
            name: ids[name] for name in sorted(ids) if name != "v7"
        }
        assert engine.snapshot("v3")["k"] == b"3"
        assert engine.branches() == []
        with pytest.raises(helios_shm.NotFoundError):
            engine.snapshot("v7")
        engine.tag("v7", engine.snapshot(ids["v1"]))
        assert engine.check().ok
    with helios_shm.open(store_path, readonly=True) as engine:
        assert engine.tags("v7") == {"v7": engine.snapshot(ids["v1"])}
        with pytest.raises(helios_shm.ReadOnlyError):
            engine.tag("new", engine.empty)
        with pytest.raises(helios_shm.ReadOnlyError):
            engine.delete_tag("v1")
        state = engine.empty
    for use in (engine.tags, lambda: engine.tag("a", state), lambda: engine.delete_tag("a")):
        with pytest.raises(helios_shm.ClosedError):
            use()


# --- references ---


def test_reference_means_the_first_of_id_branch_sequence_tag_and_shortened_id(store_path: Path) -> None:
    with helios_shm.open(store_path) as engine:
        branch = engine.branch("main")
        commits = []
        for i in range(3):
            with branch.transaction() as workspace:
                workspace["k"] = f"{i}".encode()
            commits.append(branch.last_commit)
        first, second, third = (commit.snapshot for commit in commits)
        short = first.id[:10]
        assert engine.snapshot("main") == third
        assert engine.snapshot("main@2") == second
        assert engine.snapshot(first.id) == engine.snapshot(short) == first
        engine.tag("main", first)
        assert engine.snapshot("main") == third  # the branch
        engine.tag(short, second)
        assert engine.snapshot(short) == second  # the tag
        engine.branch(short, at=third)
        assert engine.snapshot(short) == third  # the branch
        engine.branch(first.id, at=third)
        assert engine.snapshot(first.id) == first  # the id
        branch.delete()
        assert engine.snapshot("main") == first  # the tag
        with pytest.raises(helios_shm.NotFoundError, match="main"):
            engine.snapshot("main@1")  # tags have no sequences


def test_shortened_id_finds_what_a_tag_alone_names(engine: helios_shm.Engine, space: str) -> None:
    state = state_of(engine, space)
    with pytest.raises(helios_shm.NotFoundError):
        engine.snapshot(state.id[:16])
    engine.tag(space, state)
    assert engine.snapshot(state.id[:16]) == state


@pytest.mark.parametrize("ref", ["absent", "ab", "f" * 20, "x" * 255, "absent@1"])
def test_reference_to_nothing_is_not_found(engine: helios_shm.Engine, ref: str) -> None:
    with pytest.raises(helios_shm.NotFoundError):
        engine.snapshot(ref)
