"""What is always there to put figures beside: py-lmdb, the BLAKE3 wheel, dict, memcpy, the disk, Python's start.

Each is used as its own documentation advises, so that the comparison is fair: LMDB without sync on tmpfs,
explicit begin/commit (cheaper than a context manager), views instead of copies when reading.
"""

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

import lmdb
from blake3 import blake3

from .harness import Contender, Items, Run, Samples, Values


def lmdb_open(
    directory: Path, *, readonly: bool = False, megabytes: int = 256, sync: bool = False
) -> lmdb.Environment:
    """An environment; without sync, put `directory` on tmpfs."""
    return lmdb.open(str(directory), map_size=megabytes << 20, sync=sync, readonly=readonly)


def lmdb_fill(environment: lmdb.Environment, pairs: Iterable[tuple[bytes, bytes]]) -> None:
    """Writes all pairs in one transaction."""
    with environment.begin(write=True) as transaction:
        for key, value in pairs:
            transaction.put(key, value)


def lmdb_commits(environment: lmdb.Environment) -> Run:
    """begin + put + commit for each (key, value)."""

    def run(items: Items) -> None:
        for key, value in items:
            transaction = environment.begin(write=True)
            transaction.put(key, value)
            transaction.commit()

    return run


def lmdb_batches(environment: lmdb.Environment) -> Run:
    """begin + putmulti + commit for each list of (key, value)."""

    def run(items: Items) -> None:
        for pairs in items:
            transaction = environment.begin(write=True)
            transaction.cursor().putmulti(pairs)
            transaction.commit()

    return run


def lmdb_keys(environment: lmdb.Environment) -> Run:
    """A keys-only cursor from the first to the last key, for each item."""

    def run(items: Items) -> None:
        for _ in items:
            with environment.begin() as transaction:
                deque(transaction.cursor().iternext(keys=True, values=False), maxlen=0)

    return run


def lmdb_items(environment: lmdb.Environment) -> Run:
    """A cursor that copies each key and value, for each item."""

    def run(items: Items) -> None:
        for _ in items:
            with environment.begin() as transaction:
                deque(transaction.cursor().iternext(keys=True, values=True), maxlen=0)

    return run


def lmdb_prefix(environment: lmdb.Environment) -> Run:
    """set_range and a cursor that copies, as long as the keys begin with the prefix, for each prefix."""

    def run(items: Items) -> None:
        for prefix in items:
            with environment.begin() as transaction:
                cursor = transaction.cursor()
                cursor.set_range(prefix)
                for key, _value in cursor.iternext(keys=True, values=True):
                    if not key.startswith(prefix):
                        break

    return run


def lmdb_gets(transaction: lmdb.Transaction) -> Run:
    """get for each key; the transaction decides between views and copies."""

    def run(items: Items) -> None:
        for key in items:
            transaction.get(key)

    return run


def dict_sets(items: Items) -> None:
    """The pairs into a fresh dict."""
    mapping = {}
    for key, value in items:
        mapping[key] = value


def wheel_hashes(items: Items) -> None:
    """One call of the BLAKE3 wheel for each value."""
    for value in items:
        blake3(value).digest()


def wheel_messages() -> tuple[Contender, Contender]:
    """The wheel on one block and on one chunk of 16; what both have in common is its call."""
    short, long = (
        Contender(f"BLAKE3 {size}", wheel_hashes, Values(size).take, calls=3, batch=20) for size in (64, 1024)
    )
    return short, long


def block_ns(short: Sequence[float], long: Sequence[float]) -> float:
    """Nanoseconds that the wheel takes for one more 64-byte block of a chunk, from one round of both messages."""
    return max(min(long) - min(short), 1.0) / 15


def alone(blocks: float, short: Samples, long: Samples) -> Samples:
    """What so many blocks take by themselves, in each round of the two messages: the floor."""
    rounds = tuple((blocks * block_ns(a, b),) for a, b in zip(short.rounds, long.rounds, strict=True))
    return Samples("BLAKE3 alone for those blocks (wheel)", 1, rounds)


def copy_rate(seconds: float) -> float:
    """memcpy calls of 4 MiB a second, for about `seconds`."""
    source = memoryview(os.urandom(4 << 20))
    target = memoryview(bytearray(4 << 20))
    done, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        target[:] = source
        done += 1
    return done / elapsed


def disk_write_ns(directory: Path, size: int) -> int:
    """Nanoseconds to write `size` bytes one after the other into a new file and sync it once."""
    block = os.urandom(1 << 20)
    path = directory / "sequential"
    with path.open("wb", buffering=0) as file:
        start = time.perf_counter_ns()
        for at in range(0, size, len(block)):
            file.write(block[: size - at])
        os.fsync(file.fileno())
        taken = time.perf_counter_ns() - start
    path.unlink()
    return taken


def python_ns(code: str, *arguments: str) -> int:
    """Wall time of a fresh interpreter that runs `code`."""
    start = time.perf_counter_ns()
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
    return time.perf_counter_ns() - start


def python_answer(code: str, *arguments: str) -> int:
    """The integer that a fresh interpreter prints when it runs `code`."""
    command = [sys.executable, "-c", code, *arguments]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def samples_of(name: str, figures: Iterable[float]) -> Samples:
    """Figures that were taken one at a time, each its own round."""
    return Samples(name, 1, tuple((figure,) for figure in figures))
