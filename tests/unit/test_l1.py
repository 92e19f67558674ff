"""L1 by itself: a bounded, content-addressed cache of values."""

from collections.abc import Iterator

import pytest
from blake3 import blake3

import helios_shm
from helios_shm.l1 import L1


@pytest.fixture(scope="module")
def l1(tmp_path_factory: pytest.TempPathFactory) -> Iterator[L1]:
    with helios_shm.open(tmp_path_factory.mktemp("l1") / "store", l1_bytes=4 << 20) as engine:
        yield L1(engine._attachment)


@pytest.mark.parametrize("size", [0, 1, 64, 1024, 5000, 100_000, 500_000])
def test_value_is_found_by_its_blake3(l1: L1, size: int) -> None:
    value = blake3(str(size).encode()).digest(length=size)
    id = l1.put(value)
    assert id == blake3(value).digest()
    assert l1.get(id) == value
    assert l1.put(value) == id


def test_what_was_never_put_is_not_there(l1: L1) -> None:
    assert l1.get(bytes(32)) is None


@pytest.mark.parametrize("id", [b"", bytes(31), bytes(33)])
def test_id_of_another_size_is_value_error(l1: L1, id: bytes) -> None:
    with pytest.raises(ValueError, match="32"):
        l1.get(id)


def test_value_that_no_chunk_holds_is_value_error(l1: L1) -> None:
    with pytest.raises(ValueError, match="L1 put"):
        l1.put(bytes(1 << 20))


def test_many_rings_full_go_through_and_the_newest_are_there(l1: L1) -> None:
    ids = [l1.put(blake3(str(i).encode()).digest(length=40_000)) for i in range(400)]
    found = [l1.get(id) for id in ids]
    assert found[-1] == blake3(b"399").digest(length=40_000)
    assert None in found
    assert all(value is None or blake3(value).digest() == id for id, value in zip(ids, found, strict=True))
