"""Bundles: what comes out is what went in, only what is lacking travels, and no lie gets further than an error."""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import helios_shm
from helios_shm import bundle, hashing
from helios_shm._capi import lib
from helios_shm.bundle import create_bundle, import_bundle, verify_bundle
from helios_shm.errors import (
    ConflictError,
    CorruptError,
    ExistsError,
    FormatError,
    NotFoundError,
    ReadOnlyError,
)
from helios_shm.record import record_head
from helios_shm.workspace import Said

RING = 4 << 20


@pytest.fixture
def engine() -> Iterator[helios_shm.Engine]:
    """A store of the test's own that no disk need see."""
    with helios_shm.open(None, l1_bytes=RING) as opened:
        yield opened


@pytest.fixture
def other() -> Iterator[helios_shm.Engine]:
    """Another one, that knows nothing."""
    with helios_shm.open(None, l1_bytes=RING) as opened:
        yield opened


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "states.bundle"


def told(branch: helios_shm.Branch) -> list[tuple[Any, ...]]:
    """All that a branch's log says and that another store can say as well, oldest first."""
    found = [
        (
            commit.snapshot.id,
            commit.sequence,
            commit.time,
            commit.message,
            commit.metadata,
            *tuple(parent.id for parent in commit.parents),
        )
        for commit in branch.log()
    ]
    return found[::-1]


def contents(snapshot: helios_shm.Snapshot) -> dict[str, tuple[str, bytes]]:
    return {path: (snapshot.stat(path).kind, value) for path, value in snapshot.items()}


def grow(branch: helios_shm.Branch, commits: int, seed: int) -> None:
    """Commits of all kinds of values: small, compressible, random, a file's, removed, of every kind, met again."""
    choose = random.Random(seed)
    again = choose.randbytes(9000)
    for number in range(commits):
        workspace = branch.fork()
        for _ in range(choose.randint(1, 6)):
            path = f"d{choose.randrange(4)}/{choose.choice('abcdefgh')}\N{SNOWMAN}"
            size = choose.choice([0, 3, 64, 65, 5000])
            value = choose.choice([choose.randbytes(size), b"text " * size, again])
            workspace.put(path, value, kind=choose.choice(["file", "executable", "symlink", "directory"]))
        for path in list(workspace)[:: choose.randint(5, 9)]:
            del workspace[path]
        workspace.commit(f"commit {number}", metadata={"n": number, "of": [seed, "\N{SNOWMAN}"]})


def test_branch_arrives_with_its_whole_history(
    engine: helios_shm.Engine, other: helios_shm.Engine, file: Path
) -> None:
    grow(engine.branch("main"), 40, seed=1)
    grow(engine.branch("side/line"), 3, seed=2)
    info = create_bundle(engine, file)
    done = import_bundle(other, file)
    assert done.commits == info.commits == 43 and info.needs == ()
    assert {ref.name: ref.commits for ref in info.refs} == {"main": 40, "side/line": 3}
    for name in ("main", "side/line"):
        assert told(other.branch(name)) == told(engine.branch(name))
        assert done.branches[name] == other.branch(name).last_commit
    theirs, ours = engine.branch("main").log(), other.branch("main").log()
    for a, b in zip(theirs, ours, strict=True):
        assert contents(a.snapshot) == contents(b.snapshot)
    assert other.check().ok


def test_large_values_arrive(engine: helios_shm.Engine, other: helios_shm.Engine, file: Path) -> None:
    workspace = engine.branch("main").fork()
    workspace["random"] = random.Random(3).randbytes(600_001)
    workspace["zeros"] = bytes(3 << 20)
    workspace["one block"] = b"x" * (128 << 10)
    state = workspace.commit().snapshot
    info = create_bundle(engine, file, ["main"])
    assert info.nbytes < 700_000
    import_bundle(other, file)
    assert contents(other.branch("main").head) == contents(state)


def test_value_travels_once(engine: helios_shm.Engine, other: helios_shm.Engine, file: Path) -> None:
    value = random.Random(4).randbytes(50_000)
    branch = engine.branch("main")
    for number in range(20):
        with branch.transaction() as workspace:
            workspace[f"copy {number}"] = value
    info = create_bundle(engine, file)
    assert info.values == 1 and info.nbytes < 60_000
    import_bundle(other, file)
    assert told(other.branch("main")) == told(branch)


def test_only_what_the_other_side_lacks_travels(
    engine: helios_shm.Engine, other: helios_shm.Engine, file: Path
) -> None:
    branch = engine.branch("main")
    with branch.transaction() as workspace:
        for number in range(2000):
            workspace[f"{number}"] = random.Random(number).randbytes(100)
    whole = create_bundle(engine, file)
    import_bundle(other, file)
    with branch.transaction("small") as workspace:
        workspace["5"] = b"changed"
    info = create_bundle(engine, file, have=[other.branch("main").head.id])
    assert (info.commits, info.states) == (1, 1) and info.nbytes < whole.nbytes / 200
    assert import_bundle(other, file).commits == 1
    assert told(other.branch("main")) == told(branch)


@pytest.mark.parametrize("name", ["id", "snapshot", "commit", "reference"])
def test_what_the_receiver_has_can_be_said_in_each_way(
    engine: helios_shm.Engine, other: helios_shm.Engine, file: Path, name: str
) -> None:
    branch = engine.branch("main")
    grow(branch, 5, seed=5)
    create_bundle(engine, file)
    import_bundle(other, file)
    commit = branch.last_commit
    grow(branch, 5, seed=6)
    have = {"id": commit.snapshot.id, "snapshot": commit.snapshot, "commit": commit, "reference": "main@5"}
    info = create_bundle(engine, file, [branch], have=[have[name], "0" * 64])
    assert info.commits == 5 and info.needs == (commit.snapshot.id,)
    import_bundle(other, file)
    assert told(other.branch("main")) == told(branch)


def test_state_that_came_back_cuts_nothing_off(
    engine: helios_shm.Engine, other: helios_shm.Engine, file: Path
) -> None:
    """A state alone does not say which of the commits with it the receiver has."""
    branch = engine.branch("main")
    for value in (b"1", b"2", b"1"):
        with branch.transaction() as workspace:
            workspace["a"] = value
    have = branch.at(1).snapshot
    assert create_bundle(engine, file, have=[have]).commits == 2
    assert create_bundle(engine, file, have=["main@3"]).commits == 0


def test_import_again_does_nothing_and_a_longer_bundle_brings_the_rest(
    engine: helios_shm.Engine, other: helios_shm.Engine, file: Path
) -> None:
    branch = engine.branch("main")
    grow(branch, 4, seed=7)
    create_bundle(engine, file)
    assert [import_bundle(other, file).commits for _ in range(2)] == [4, 0]
    grow(branch, 4, seed=8)
    before = file.read_bytes()
    create_bundle(engine, file)
    assert import_bundle(other, file).commits == 4
    file.write_bytes(before)
    assert import_bundle(other, file).commits == 0
    assert told(other.branch("main")) == told(branch)


def test_branch_with_other_commits_is_left_alone(
    engine: helios_shm.Engine, other: helios_shm.Engine, file: Path
) -> None:
    grow(engine.branch("main"), 3, seed=9)
    grow(other.branch("main"), 2, seed=10)
    before = told(other.branch("main"))
    create_bundle(engine, file)
    with pytest.raises(ExistsError, match="import with a prefix, and merge"):
        import_bundle(other, file)
    assert told(other.branch("main")) == before
    import_bundle(other, file, prefix="from/")
    import_bundle(other, file, names={"main": "theirs"})
    assert other.branches() == ["from/main", "main", "theirs"]
    assert told(other.branch("theirs")) == told(engine.branch("main"))


def test_missing_prerequisites_are_named(
    engine: helios_shm.Engine, other: helios_shm.Engine, file: Path
) -> None:
    grow(engine.branch("main"), 3, seed=11)
    have = engine.branch("main").at(2).snapshot
    create_bundle(engine, file, have=[have])
    with pytest.raises(NotFoundError, match=have.id):
        import_bundle(other, file)
    assert other.branches() == []


def test_newest_commit_alone(engine: helios_shm.Engine, other: helios_shm.Engine, file: Path) -> None:
    grow(engine.branch("main"), 5, seed=12)
    assert create_bundle(engine, file, ["main"], history=False).commits == 1
    import_bundle(other, file)
    ours = other.branch("main").last_commit
    assert (ours.sequence, ours.message, ours.snapshot.id) == (1, "commit 4", engine.branch("main").head.id)


def test_states_without_a_branch(engine: helios_shm.Engine, other: helios_shm.Engine, file: Path) -> None:
    grow(engine.branch("main"), 3, seed=13)
    refs = [engine.branch("main").at(2).snapshot, "main@1", engine.empty]
    create_bundle(engine, file, refs)
    found = import_bundle(other, file)
    assert [each.id for each in found.snapshots] == [
        engine.snapshot("main@2").id, engine.snapshot("main@1").id, engine.empty.id,
    ]  # fmt: skip
    assert contents(found.snapshots[0]) == contents(engine.snapshot("main@2"))


def test_tags_arrive(engine: helios_shm.Engine, other: helios_shm.Engine, file: Path) -> None:
    grow(engine.branch("main"), 3, seed=21)
    engine.tag("v1", engine.snapshot("main@2"))
    engine.tag("main", engine.snapshot("main@1"))
    engine.tag("alone", engine.empty)
    done = import_bundle(other, file) if create_bundle(engine, file) else None
    assert done is not None and set(done.tags) == {"v1", "main", "alone"}
    assert {name: each.id for name, each in other.tags().items()} == {
        name: each.id for name, each in engine.tags().items()
    }
    assert import_bundle(other, file).tags == done.tags
    other.delete_tag("v1")
    other.tag("v1", other.empty)
    with pytest.raises(ExistsError, match="tag 'v1'"):
        import_bundle(other, file)
    import_bundle(other, file, prefix="p/")
    assert other.tags("p/")["p/v1"].id == engine.tags()["v1"].id
    assert [ref.kind for ref in create_bundle(engine, file, ["v1", "main"]).refs] == ["tag", "branch"]


def test_nested_states_come_along(engine: helios_shm.Engine, other: helios_shm.Engine, file: Path) -> None:
    branch = engine.branch("main")
    inner = engine.empty.fork()
    inner["x"] = b"deep"
    for value in (b"1", b"2" * 100):
        inner["y"] = value
        middle = engine.empty.fork()
        middle.put("inner", inner.commit().snapshot)
        with branch.transaction() as workspace:
            workspace.put("middle", middle.commit().snapshot)
    create_bundle(engine, file)
    import_bundle(other, file)
    root = other.branch("main").head["middle"]
    middle_there = other.snapshot(root.hex())
    assert other.snapshot(middle_there["inner"].hex())["y"] == b"2" * 100


def test_second_parents_and_restored_commits_arrive(
    engine: helios_shm.Engine, other: helios_shm.Engine, file: Path
) -> None:
    branch = engine.branch("main")
    grow(branch, 2, seed=14)
    side = branch.at(1).snapshot.fork()
    side["side"] = b"line" * 30
    second = side.commit().snapshot
    workspace = branch.fork()
    workspace["merged"] = b"1"
    said = Said("merge", {"k": 1}, second=second, time_ns=-5)
    branch._move(lib.HS_MOVE_COMPARE, workspace.fork().base, branch.head, said)
    branch.restore(branch.at(1).snapshot, "back")
    create_bundle(engine, file)
    import_bundle(other, file)
    assert told(other.branch("main")) == told(branch)
    assert contents(other.branch("main").at(3).parents[1]) == contents(second)


def test_file_is_replaced_whole_or_not_at_all(engine: helios_shm.Engine, file: Path) -> None:
    grow(engine.branch("main"), 2, seed=15)
    create_bundle(engine, file)
    before = file.read_bytes()
    with pytest.raises(NotFoundError):
        create_bundle(engine, file, ["main", "nobody"])
    assert file.read_bytes() == before and os.listdir(file.parent).count(file.name) == 1
    assert [name for name in os.listdir(file.parent) if name.startswith(".states")] == []


def test_same_states_make_the_same_bytes(engine: helios_shm.Engine, file: Path) -> None:
    grow(engine.branch("main"), 6, seed=16)
    create_bundle(engine, file)
    before = file.read_bytes()
    create_bundle(engine, file)
    assert file.read_bytes() == before


def test_empty_store_makes_an_empty_bundle(
    engine: helios_shm.Engine, other: helios_shm.Engine, file: Path
) -> None:
    assert create_bundle(engine, file).refs == ()
    assert import_bundle(other, file).commits == 0


def test_what_is_no_bundle_is_said(tmp_path: Path, file: Path) -> None:
    with pytest.raises(NotFoundError):
        verify_bundle(file)
    file.write_bytes(b"PK\3\4 something else")
    with pytest.raises(FormatError, match="no bundle"):
        verify_bundle(file)
    file.write_bytes(b"")
    with pytest.raises(FormatError):
        verify_bundle(file)
    file.write_bytes(bundle.MAGIC + (2).to_bytes(4, "little") + bytes(100))
    with pytest.raises(FormatError, match="version 2"):
        verify_bundle(file)


def test_bad_arguments_are_refused(
    engine: helios_shm.Engine, other: helios_shm.Engine, file: Path, tmp_path: Path
) -> None:
    grow(engine.branch("main"), 1, seed=17)
    with pytest.raises(TypeError):
        create_bundle(engine, file, [17])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"refs=\['main'\]"):
        create_bundle(engine, file, "main")
    with pytest.raises(NotFoundError, match="another store"):
        create_bundle(engine, file, [other.branch("main")])
    with pytest.raises(NotFoundError):
        create_bundle(engine, file, have=["nobody"])
    assert not file.exists()
    create_bundle(engine, file)
    helios_shm.open(tmp_path / "store", l1_bytes=RING).close()
    with helios_shm.open(tmp_path / "store", readonly=True) as readonly, pytest.raises(ReadOnlyError):
        import_bundle(readonly, file)


# ---- hostile bytes ----


def resealed(body: bytes) -> bytes:
    """With the right hash: what somebody writes who knows the format."""
    return body + hashing.blake3(body)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small bundle with a part of every kind."""
    root = tmp_path_factory.mktemp("small")
    with helios_shm.open(root / "store", l1_bytes=RING) as engine:
        nested = engine.empty.fork()
        nested["in"] = b"side"
        workspace = engine.branch("main").fork()
        workspace["a"] = b"1"
        workspace["b"] = b"0123456789" * 10
        workspace["z"] = bytes(5000)
        first = workspace.commit("first", metadata={"k": [1]}).snapshot
        workspace["c"] = b"0123456789" * 10
        workspace.put("n", nested.commit().snapshot)
        del workspace["a"]
        workspace.commit("second")
        create_bundle(engine, root / "file", ["main", first])
    return (root / "file").read_bytes()


def outcome(engine: helios_shm.Engine, file: Path, prefix: str) -> str:
    """What an import of these bytes comes to; any other error than a typed one is the test's."""
    before = engine.branches()
    try:
        import_bundle(engine, file, prefix=prefix)
    except (FormatError, CorruptError, NotFoundError, ExistsError) as error:
        assert engine.branches() == before, "an import that fails leaves no branch"
        return type(error).__name__
    return "taken"


def test_every_flipped_byte_and_every_cut_is_found(small: bytes, tmp_path: Path) -> None:
    file = tmp_path / "flipped"
    for at in range(len(small)):
        data = bytearray(small)
        data[at] ^= 1 << at % 8
        file.write_bytes(data)
        with pytest.raises((FormatError, CorruptError)):
            verify_bundle(file)
        file.write_bytes(small[:at])
        with pytest.raises((FormatError, CorruptError)):
            verify_bundle(file)
    file.write_bytes(small + b"\0")
    with pytest.raises(CorruptError):
        verify_bundle(file)


def test_every_flipped_byte_and_every_cut_under_a_right_hash_is_typed(
    small: bytes, other: helios_shm.Engine, tmp_path: Path
) -> None:
    """Then only what the bytes say can be wrong: form, references, and in the end the states themselves."""
    file = tmp_path / "forged"
    body = small[:-32]
    found: dict[str, int] = {}
    for at in range(len(body)):
        data = bytearray(body)
        data[at] ^= 1 << at % 8
        for kind, forged in (("flip", bytes(data)), ("cut", body[:at])):
            file.write_bytes(resealed(forged))
            try:
                verify_bundle(file)
                result = outcome(other, file, f"{at}/")
            except FormatError:
                result = "FormatError"
            found[result] = found.get(result, 0) + 1
            assert kind == "flip" or result == "FormatError"
    # A changed message, name, time or sequence is another bundle, and a good one; no changed state is taken.
    assert min(found.values()) > 0 and {"FormatError", "CorruptError", "taken"} <= found.keys()
    states = {commit.snapshot.id for name in other.branches() for commit in other.branch(name).log()}
    assert len(states) == 2


@given(st.data())
def test_any_bytes_behind_the_magic_are_typed(
    small: bytes, tmp_path_factory: Any, data: st.DataObject
) -> None:
    file = tmp_path_factory.mktemp("any") / "bytes"
    body = bytearray(small[:-32])
    for at, value in data.draw(
        st.lists(st.tuples(st.integers(8, len(body) - 1), st.integers(0, 255)), max_size=8)
    ):
        body[at] = value
    cut = data.draw(st.none() | st.integers(8, len(body)))
    file.write_bytes(resealed(bytes(body[:cut]) + data.draw(st.binary(max_size=20))))
    try:
        verify_bundle(file)
    except (FormatError, CorruptError):
        pass
    finally:
        shutil.rmtree(file.parent)


def test_forged_state_moves_nothing(engine: helios_shm.Engine, other: helios_shm.Engine, file: Path) -> None:
    """Form and hashes are right, but the state is not the one that its id names."""
    for value in (b"harmless", b"harmful!"):
        with engine.branch("main").transaction() as workspace:
            workspace["script"] = value
    create_bundle(engine, file)
    body = file.read_bytes()[:-32].replace(b"harmful!", b"harmless")
    file.write_bytes(resealed(body))
    assert verify_bundle(file).commits == 2
    with pytest.raises(CorruptError, match="what it holds of it makes"):
        import_bundle(other, file)
    assert other.branches() == []


# ---- interrupted ----

IMPORTER = """
import os, signal, sys
import helios_shm
from helios_shm import bundle
from helios_shm.branch import Branch
after = int(sys.argv[3])
move, moved = Branch._move, 0
def dying(self, *arguments, **options):
    global moved
    if moved == after:
        os.kill(os.getpid(), signal.SIGKILL)
    moved += 1
    return move(self, *arguments, **options)
Branch._move = dying
with helios_shm.open(sys.argv[1], create=False) as engine:
    bundle.import_bundle(engine, sys.argv[2])
"""


@pytest.mark.parametrize("after", [0, 1, 7])
def test_import_that_was_killed_can_be_run_again(
    engine: helios_shm.Engine, other: helios_shm.Engine, file: Path, after: int
) -> None:
    branch = engine.branch("main")
    grow(branch, 10, seed=18)
    create_bundle(engine, file)
    done = subprocess.run(
        [sys.executable, "-c", IMPORTER, str(other.path), str(file), str(after)], timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert len(told(other.branch("main")) if after else other.branches()) == after
    assert import_bundle(other, file).commits == 10 - after
    assert told(other.branch("main")) == told(branch)


def test_branch_that_moves_meanwhile_is_a_conflict(
    engine: helios_shm.Engine, other: helios_shm.Engine, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(engine.branch("main"), 3, seed=19)
    create_bundle(engine, file)
    build: Callable[..., list[helios_shm.Snapshot]] = bundle._build

    def and_then_somebody_commits(*arguments: Any) -> list[helios_shm.Snapshot]:
        grow(other.branch("main"), 1, seed=20)
        return build(*arguments)

    monkeypatch.setattr(bundle, "_build", and_then_somebody_commits)
    with pytest.raises(ConflictError, match="run it again"):
        import_bundle(other, file)
    assert record_head(other.branch("main")._existing()).sequence == 1


def test_collection_in_the_middle_takes_no_state_away(
    tmp_path: Path, engine: helios_shm.Engine, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(engine.branch("main"), 6, seed=22)
    create_bundle(engine, file)
    build: Callable[..., list[helios_shm.Snapshot]] = bundle._build
    with helios_shm.open(tmp_path / "collected", l1_bytes=RING) as other:

        def and_then_somebody_collects(*arguments: Any) -> list[helios_shm.Snapshot]:
            held = build(*arguments)
            other.sync()
            other.gc(grace=timedelta(0))
            return held

        monkeypatch.setattr(bundle, "_build", and_then_somebody_collects)
        import_bundle(other, file)
        assert told(other.branch("main")) == told(engine.branch("main"))
        assert other.check().ok
