"""The compiled BLAKE3 against the wheel: golden vectors, and every length up to 9000 bytes."""

import random
from pathlib import Path

import blake3 as wheel

from helios_shm._native import ffi, lib

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "blake3_vectors.txt"


def ours(data: bytes, size: int) -> bytes:
    out = ffi.new("uint8_t[32]")
    lib.hs_blake3(data, size, out)
    return bytes(ffi.buffer(out))


def golden() -> list[tuple[int, str]]:
    rows = [line.split() for line in GOLDEN.read_text().splitlines() if not line.startswith("#")]
    return [(int(size), digest) for size, digest in rows]


def test_golden_vectors_hold_for_the_wheel_and_for_us() -> None:
    vectors = golden()
    data = bytes(i % 251 for i in range(max(size for size, _ in vectors)))
    assert len(vectors) >= 50
    for size, digest in vectors:
        assert ours(data, size).hex() == digest, size
        assert wheel.blake3(data[:size]).hexdigest() == digest, size


def test_every_length_to_9000_gives_the_hash_of_the_wheel() -> None:
    data = random.Random(3).randbytes(9000)
    view = memoryview(data)
    differing = [size for size in range(9001) if ours(data, size) != wheel.blake3(view[:size]).digest()]
    assert differing == []


def test_long_messages_give_the_hash_of_the_wheel() -> None:
    data = random.Random(4).randbytes(1_000_000)
    view = memoryview(data)
    for size in (65535, 65536, 65537, 100_001, 131_072, 196_613, 262_144, 999_424, 1_000_000):
        assert ours(data, size) == wheel.blake3(view[:size]).digest(), size
