"""Laws of directories: there and back is the identity, and by delta is as from scratch."""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import helios_shm
from helios_shm import Engine
from tests.trees import Tree, entries_of, plant, state, tree_of

NAMES = st.sampled_from(["a", "b", "c.py", "d d", "é", "-", "...", "\\", "*"])
ENTRIES = st.one_of(
    st.tuples(st.sampled_from(["file", "executable"]), st.binary(max_size=100)),
    st.tuples(st.just("symlink"), st.sampled_from([b"a", b"../..", b"/etc/passwd", b"\xff"])),
    st.just(("directory", b"")),
)


def consistent(pairs: list[tuple[list[str], tuple[str, bytes]]]) -> Tree:
    """A tree in which no path lies below another."""
    tree: Tree = {}
    for names, entry in pairs:
        path = "/".join(names)
        if not any(path.startswith(other + "/") or other.startswith(path + "/") for other in tree):
            tree[path] = entry
    return tree


TREES = st.lists(st.tuples(st.lists(NAMES, min_size=1, max_size=4), ENTRIES), max_size=12).map(consistent)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with helios_shm.open(None) as opened:
        yield opened


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("places")
    return (Path(tempfile.mkdtemp(dir=root)) / f"{number}" for number in itertools.count())


@settings(max_examples=25)
@given(tree=TREES)
def test_there_and_back_is_the_identity(engine: Engine, places: Iterator[Path], tree: Tree) -> None:
    ws = engine.empty.fork()
    ws.ingest(plant(next(places), tree))
    snapshot = ws.commit().snapshot
    assert entries_of(snapshot) == tree
    assert snapshot == state(engine, tree)
    out = next(places)
    snapshot.materialize(out)
    assert tree_of(out) == tree


@settings(max_examples=25)
@given(trees=st.lists(TREES, min_size=2, max_size=4), clean=st.booleans())
def test_materialize_by_delta_is_as_from_scratch(
    engine: Engine, places: Iterator[Path], trees: list[Tree], clean: bool
) -> None:
    place = next(places)
    for tree in trees:
        for _ in range(2):
            metrics = state(engine, tree).materialize(place, clean=clean)
            assert tree_of(place) == tree
            assert metrics.written + metrics.skipped == len(tree)
        assert metrics.written == metrics.removed == 0


@settings(max_examples=25)
@given(trees=st.lists(TREES, min_size=2, max_size=3))
def test_ingest_by_delta_is_as_from_scratch(
    engine: Engine, places: Iterator[Path], trees: list[Tree]
) -> None:
    """What stood there is the state before, so that sizes and names stay and bytes change."""
    place = next(places)
    ws = engine.empty.fork()
    for tree in trees:
        state(engine, tree).materialize(place, clean=True)
        for path, (kind, data) in tree.items():
            if kind == "file" and data:
                (place / path).write_bytes(data[::-1])
        for _ in range(2):
            ws.ingest(place)
            snapshot = ws.commit().snapshot
            assert entries_of(snapshot) == tree_of(place)
            assert snapshot == state(engine, tree_of(place))
