"""The values that the library hands out are frozen, comparable and picklable."""

import dataclasses
import pickle
from collections.abc import Iterator

import pytest

import helios_shm
from helios_shm.types import KINDS


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[object]]:
    with helios_shm.open(tmp_path_factory.mktemp("types") / "store", l1_bytes=4 << 20) as engine:
        workspace = engine.branch("main").fork()
        workspace["a"] = b"1"
        commit = workspace.commit("m", metadata={"k": 1})
        diff = engine.empty.diff(commit.snapshot)
        conflict = helios_shm.Conflict("a", None, b"1", b"2")
        yield [commit, commit.metrics, diff, conflict, commit.snapshot.stat("a"), engine.stats()]


def test_every_value_is_frozen_and_slotted(samples: list[object]) -> None:
    for sample in samples:
        assert dataclasses.is_dataclass(sample)
        name = dataclasses.fields(sample)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(sample, name, None)
        assert not hasattr(sample, "__dict__")


def test_every_value_survives_pickling(samples: list[object]) -> None:
    for sample in samples:
        assert pickle.loads(pickle.dumps(sample)) == sample


def test_every_value_is_hashable(samples: list[object]) -> None:
    assert len(set(samples)) == len(samples)


def test_diff_is_true_when_there_is_a_difference(samples: list[object]) -> None:
    diff = samples[2]
    assert isinstance(diff, helios_shm.Diff)
    assert (bool(diff), len(diff)) == (True, 1)
    nothing = dataclasses.replace(diff, added=())
    assert (bool(nothing), len(nothing)) == (False, 0)
    assert len(dataclasses.replace(diff, changed=("b",), removed=("c", "d"))) == 4


def test_kinds_are_those_of_leaf_entries() -> None:
    assert KINDS == ("file", "executable", "symlink", "directory", "snapshot")
