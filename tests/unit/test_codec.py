"""codec: what is stored stands for exactly the bytes it was made of, and lies about sizes cost nothing."""

import os
import tracemalloc

import lz4.block
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios_shm import codec
from helios_shm.config import LZ4_BYTES_MIN
from helios_shm.errors import CorruptError


@given(st.binary(max_size=100), st.integers(0, 400))
def test_what_was_encoded_decodes_to_the_same_bytes(piece: bytes, times: int) -> None:
    raw = piece * times
    code, stored = codec.encode_value(raw)
    assert codec.decode(code, stored, len(raw)) == raw


def test_repetitive_values_shrink_and_random_ones_stay() -> None:
    code, stored = codec.encode_value(b"abcd" * LZ4_BYTES_MIN)
    assert code == codec.LZ4 and len(bytes(stored)) < LZ4_BYTES_MIN
    raw = os.urandom(LZ4_BYTES_MIN)
    assert codec.encode_value(raw) == (codec.RAW, raw)


def test_short_values_are_left_alone() -> None:
    raw = b"a" * (LZ4_BYTES_MIN - 1)
    assert codec.encode_value(raw) == (codec.RAW, raw)


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
