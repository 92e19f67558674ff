"""States and values of a size that takes its time: outside `make test`, run by `pytest -m slow`."""

import mmap
from pathlib import Path

import pytest
from blake3 import blake3

import helios_shm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_million_keys_are_imported_in_one_commit_through_a_small_ring(store_path: Path) -> None:
    count = 1_000_000
    with helios_shm.open(store_path, l1_bytes=4 << 20) as engine:
        workspace = engine.branch("main").fork()
        workspace.update({f"{i:07}": i.to_bytes(4, "little") * 25 for i in range(count)})
        commit = workspace.commit("import", durable=True)
        assert (len(commit.snapshot), commit.snapshot.nbytes) == (count, count * 100)
        assert commit.metrics.changed_keys == count
    with helios_shm.open(store_path, l1_bytes=4 << 20) as engine:
        head = engine.branch("main").head
        assert head == commit.snapshot
        for i in range(0, count, 9973):
            assert head[f"{i:07}"] == i.to_bytes(4, "little") * 25
        assert len(head.keys("05")) == 100_000
        assert sum(1 for _ in head) == count
        assert [path for path, _ in zip(reversed(head), range(3), strict=False)] == [
            "0999999",
            "0999998",
            "0999997",
        ]
        with engine.branch("main").transaction() as edited:
            edited["0500000"] = b"changed"
        assert head.diff(engine.branch("main").head).changed == ("0500000",)


def test_store_holds_more_branches_than_the_shared_table(store_path: Path) -> None:
    count = 40_000
    with helios_shm.open(store_path, l1_bytes=4 << 20) as engine:
        for i in range(count):
            with engine.branch(f"{i}").transaction() as workspace:
                workspace["i"] = str(i).encode()
        assert len(engine.branches()) == count
        for i in range(0, count, 37):
            assert engine.branch(f"{i}").head["i"] == str(i).encode()
            assert engine.branch(f"{i}").restore(engine.empty).sequence == 2
    with helios_shm.open(store_path, l1_bytes=4 << 20) as engine:
        assert len(engine.branches()) == count
        assert engine.branch("37").last_commit.sequence == 2
        assert dict(engine.branch("38").head) == {"i": b"38"}


def test_value_of_a_gibibyte_is_kept_in_a_file(store_path: Path) -> None:
    size = 1 << 30
    with mmap.mmap(-1, size) as memory:
        memory[size // 2] = 1
        expected = blake3(memory).hexdigest()
        with helios_shm.open(store_path, l1_bytes=4 << 20) as engine:
            with engine.branch("main").transaction() as workspace:
                workspace["v"] = memory
            head = engine.branch("main").head
            assert head.stat("v") == helios_shm.Stat("file", size, expected)
            view = head.buffer("v")
            assert (len(view), view[size // 2], view[0], view[-1]) == (size, 1, 0, 0)
