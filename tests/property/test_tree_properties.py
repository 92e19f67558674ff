"""The tree through the public API against its plain-Python twin: ids, diffs and scans."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import helios_shm


def load_model() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "model.py"
    spec = importlib.util.spec_from_file_location("helios_model", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


model = load_model()

# Few letters make common prefixes and keys that are prefixes of others; NUL is among them.
short_keys = st.text("ab/\x00\u00e9", min_size=1, max_size=6)
path_keys = st.integers(0, 400).map(lambda i: f"perf/{i % 7}/file_{i:04d}.dat")
long_keys = st.integers(0, 60).map(lambda i: "x" * (1024 - 2 * (i % 3) - 3) + f"{i:03d}")
keys = st.one_of(short_keys, path_keys, long_keys)
values = st.one_of(
    st.binary(max_size=3), st.sampled_from([b"v" * 48, b"v" * 63, b"v" * 64, b"v" * 65, b"v" * 300])
)
batches = st.lists(st.dictionaries(keys, st.one_of(st.none(), values), max_size=60), min_size=1, max_size=5)
grown = st.dictionaries(path_keys, values, min_size=200, max_size=400)


@pytest.fixture(scope="module")
def engine() -> Iterator[helios_shm.Engine]:
    with helios_shm.open(None) as opened:
        yield opened


def entries(state: dict[str, bytes]) -> dict[bytes, tuple[int, bytes]]:
    return {key.encode(): (model.FILE, value) for key, value in state.items()}


def put(workspace: helios_shm.Workspace, state: dict[str, bytes], batch: dict[str, bytes | None]) -> None:
    """The batch into the workspace and the dict; None removes the key where it is there."""
    for key, value in batch.items():
        if value is not None:
            workspace[key] = state[key] = value
        elif state.pop(key, None) is not None:
            del workspace[key]


def write(
    engine: helios_shm.Engine, batches: list[dict[str, bytes | None]]
) -> tuple[helios_shm.Snapshot, dict[str, bytes]]:
    """The snapshot after committing each batch, and the dict beside it."""
    workspace, state = engine.empty.fork(), dict[str, bytes]()
    for batch in batches:
        put(workspace, state, batch)
        workspace.commit()
    return workspace.base, state


@given(batches=batches, seed=st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_id_depends_on_the_content_alone(engine, batches, seed) -> None:
    snapshot, state = write(engine, batches)
    assert snapshot.id == model.root_id(entries(state)).hex()
    shuffled = list(state.items())
    seed.shuffle(shuffled)
    half = len(shuffled) // 2
    again, _ = write(engine, [dict(shuffled[:half]), dict(shuffled[half:])])
    assert again.id == snapshot.id


@given(base=grown, batch=st.dictionaries(path_keys, st.one_of(st.none(), values), max_size=40))
@settings(max_examples=40)
def test_edits_to_a_grown_state_give_its_id_and_its_diff(engine, base, batch) -> None:
    old, old_state = write(engine, [base])
    new, new_state = write(engine, [base, batch])
    assert new.id == model.root_id(entries(new_state)).hex()
    changes = model.diff(entries(old_state), entries(new_state))
    found = old.diff(new)
    assert list(found.added) == [key.decode() for key, was, _ in changes if was is None]
    assert list(found.removed) == [key.decode() for key, _, now in changes if now is None]
    assert list(found.changed) == [key.decode() for key, was, now in changes if was and now]


@given(
    base=st.one_of(grown, st.dictionaries(short_keys, values, max_size=60)),
    bounds=st.tuples(keys, keys),
    cut=st.integers(0, 6),
)
@settings(max_examples=60)
def test_scans_agree_with_the_twin(engine, base, bounds, cut) -> None:
    snapshot, state = write(engine, [base])
    prefix = bounds[0][:cut]
    for start, stop in ((None, None), (bounds[0], None), (None, bounds[1]), bounds):
        expected = model.scan(
            entries(state), prefix.encode(), start and start.encode(), stop and stop.encode()
        )
        found = snapshot.items(prefix, start=start, stop=stop)
        assert list(found) == [(key.decode(), value) for key, (_, value) in expected]
        assert list(reversed(found)) == [(key.decode(), value) for key, (_, value) in reversed(expected)]
        assert len(found) == len(expected)
