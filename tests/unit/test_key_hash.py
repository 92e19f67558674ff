"""The canonical key hash: library and definition (csrc/hs_checksum.h) and golden values agree."""

import random
from pathlib import Path

import pytest

from helios_shm._native import lib

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "key_hash_vectors.txt"

MASK = (1 << 64) - 1
STEP = 0x9E3779B97F4A7C15
P0, P1, P2, P3, P7 = (
    0x243F6A8885A308D3,
    0x13198A2E03707344,
    0xA4093822299F31D0,
    0x082EFA98EC4E6C89,
    0x3F84D5B5B5470917,
)


def fold(a: int, b: int) -> int:
    product = a * b
    return (product & MASK) ^ (product >> 64)


def blocks(key: bytes) -> list[bytes]:
    if len(key) <= 16:
        return [key.ljust(16, b"\0")]
    return [key[at : at + 16] for at in range(0, len(key) - 16, 16)] + [key[-16:]]


def key_hash(key: bytes) -> int:
    size = len(key)
    h = (P0 + size * STEP) & MASK
    for block in blocks(key):
        x, y = int.from_bytes(block[:8], "little"), int.from_bytes(block[8:], "little")
        h = (fold(x ^ P1, y ^ h) + (h << 32 | h >> 32)) & MASK
    return (fold(h ^ P2, P3 ^ size) + h) & MASK


def key_hash_level(hashed: int, level: int) -> int:
    z = (hashed + (level + 1) * STEP) & MASK
    z = ((z ^ z >> 32) * P7) & MASK
    z = ((z ^ z >> 29) * P3) & MASK
    return z ^ z >> 32


def golden() -> list[tuple[bytes, list[int]]]:
    rows = [line.split() for line in GOLDEN.read_text().splitlines() if not line.startswith("#")]
    return [(bytes.fromhex(key), [int(number, 16) for number in numbers]) for key, *numbers in rows]


@pytest.mark.parametrize(("key", "numbers"), golden(), ids=lambda value: repr(value)[:24])
def test_definition_and_library_give_the_golden_values(key: bytes, numbers: list[int]) -> None:
    for hashed in (key_hash(key), int(lib.hs_key_hash(key, len(key)))):
        assert [hashed, *(key_hash_level(hashed, level) for level in (0, 1, 7))] == numbers
    levels = [int(lib.hs_key_hash_level(numbers[0], level)) for level in (0, 1, 7)]
    assert levels == numbers[1:]


def test_library_follows_the_definition_at_every_length() -> None:
    source = random.Random(5)
    for size in range(1, 1025):
        key = source.randbytes(size)
        assert lib.hs_key_hash(key, size) == key_hash(key), size


def test_a_block_that_makes_the_product_zero_does_not_forget_the_ones_before() -> None:
    zero = P1.to_bytes(8, "little") * 2
    assert key_hash(b"a" * 16 + zero) != key_hash(b"b" * 16 + zero)
    for key in (b"a" * 16 + zero, b"b" * 16 + zero):
        assert lib.hs_key_hash(key, len(key)) == key_hash(key)
