"""codec: what is stored stands for exactly the bytes it was made of, and lies about sizes cost nothing."""

import os
import tracemalloc
from collections.abc import Iterator

import lz4.block
import pytest
from hypothesis import given
from hypothesis import strategies as st

import helios_shm
from helios_shm import codec, config
from helios_shm._capi import lib
from helios_shm.errors import CorruptError

PIECES = st.lists(st.tuples(st.binary(max_size=40), st.integers(1, 300)), max_size=40)


def stored_bytes(engine: helios_shm.Engine, value: bytes) -> int:
    """Bytes that a value takes of L1, with what a commit of it adds."""
    attachment = engine._attachment
    call = attachment.call()
    try:
        assert len(value) > 64
        snapshot = committed(engine, value)
        size = int(lib.hs_l1_get(call.c, bytes.fromhex(snapshot.stat("v").id)))
        return size - lib.HS_ENCODED if size >= lib.HS_ENCODED else size
    finally:
        attachment.pool.append(call)


def committed(engine: helios_shm.Engine, value: bytes) -> helios_shm.Snapshot:
    workspace = engine.empty.fork()
    workspace["v"] = value
    return workspace.commit().snapshot


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[helios_shm.Engine]:
    with helios_shm.open(tmp_path_factory.mktemp("codec") / "store", l1_bytes=16 << 20) as opened:
        yield opened


@given(PIECES)
def test_what_was_compressed_is_read_as_it_was(
    engine: helios_shm.Engine, pieces: list[tuple[bytes, int]]
) -> None:
    value = b"".join(piece * times for piece, times in pieces)[: config.BLOB_BYTES_MIN - 1]
    assert committed(engine, value)["v"] == value


@pytest.mark.parametrize("size", [config.LZ4_BYTES_MIN, 4096, 70_000, 120_000])
def test_text_shrinks_and_random_bytes_stay(engine: helios_shm.Engine, size: int) -> None:
    text = b"".join(b"line %d says what the others say; " % i for i in range(size // 20))[:size]
    assert stored_bytes(engine, text) < size / 2
    assert committed(engine, text)["v"] == text
    assert stored_bytes(engine, os.urandom(size)) == size


def test_short_values_are_left_alone(engine: helios_shm.Engine) -> None:
    assert stored_bytes(engine, b"a" * (config.LZ4_BYTES_MIN - 1)) == config.LZ4_BYTES_MIN - 1


@pytest.mark.parametrize(
    ("code", "stored", "size"),
    [
        (codec.RAW, b"abc", 4),
        (codec.LZ4, b"\xff\xff\xff\xff", 100),
        (codec.LZ4, lz4.block.compress(b"a" * 100, store_size=False), 99),
        (codec.LZ4, lz4.block.compress(b"a" * 100, store_size=False), 101),
        (codec.LZ4, b"", 5),
        (codec.LZ4, b"x", -1),
        (7, b"abc", 3),
    ],
)
def test_bytes_that_do_not_fit_their_size_are_corrupt(code: int, stored: bytes, size: int) -> None:
    with pytest.raises(CorruptError):
        codec.decode(code, stored, size)


def test_a_huge_claim_is_refused_before_memory_is_taken_for_it() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(CorruptError, match="cannot stand for"):
            codec.decode(codec.LZ4, b"\x00" * 6, 805_000_000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
