"""hashing: ids are plain BLAKE3, the same as the C core's."""

import os

import pytest

from helios_shm._capi import ffi, lib
from helios_shm.hashing import blake3, matches

EMPTY = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


def of_core(data: bytes) -> bytes:
    out = ffi.new("uint8_t[32]")
    lib.hs_blake3(data, len(data), out)
    return bytes(ffi.buffer(out))


def test_the_empty_value_has_the_published_hash() -> None:
    assert blake3(b"").hex() == EMPTY


@pytest.mark.parametrize("size", [1, 63, 64, 65, 1024, 1025, 100_000, (4 << 20) + 1])
def test_the_core_and_the_wheel_agree(size: int) -> None:
    data = os.urandom(size)
    assert blake3(data) == of_core(data)


def test_any_buffer_can_be_hashed() -> None:
    assert blake3(memoryview(b"abc")) == blake3(bytearray(b"abc")) == blake3(b"abc")


def test_matches_tells_right_bytes_from_wrong_ones() -> None:
    assert matches(blake3(b"abc"), b"abc")
    assert not matches(blake3(b"abc"), b"abd")
