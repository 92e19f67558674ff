"""Opening: a new store; a store whose segment stands because another process has it open; and, of a store of a million
keys, from open to the first value, with a segment and without."""

from collections.abc import Iterator

import helios_shm

from .baselines import python_answer, python_ns
from .harness import Beside, Row, Setting, Spread, Target, path_key
from .states import build, directory, store, twin, until_left

# Timed inside the child, so that neither Python's start nor the import is in it.
OPEN = """
import sys, time, helios_shm
start = time.perf_counter_ns()
engine = helios_shm.open(sys.argv[1])
print(time.perf_counter_ns() - start, flush=True)
engine.close()
"""
OPEN_AND_READ = """
import sys, time, helios_shm
start = time.perf_counter_ns()
engine = helios_shm.open(sys.argv[1])
value = engine.branch("main", create=False).head[sys.argv[2]]
print(time.perf_counter_ns() - start, flush=True)
engine.close()
"""
LMDB_OPEN_AND_GET = """
import sys, time, lmdb
start = time.perf_counter_ns()
environment = lmdb.open(sys.argv[1], readonly=True)
with environment.begin() as transaction:
    value = transaction.get(sys.argv[2].encode())
print(time.perf_counter_ns() - start, flush=True)
"""
NEW_MAX, STANDING_MAX = 60e6, 20e6  # ns


def opening(setting: Setting) -> Iterator[Row]:
    """First opens of small stores."""
    fresh: list[int] = []
    standing: list[int] = []
    starts: list[int] = []
    with store(setting) as engine:
        engine.branch("main", at=engine.empty)  # the segment is in use, not merely there
        for _ in range(setting.scale(25, 2)):
            with directory(setting.disk) as parent:
                fresh.append(python_answer(OPEN, str(parent / "store")))
                until_left(parent / "store")
            standing.append(python_answer(OPEN, str(engine.path)))
            starts.append(python_ns("import helios_shm"))
    start = Spread.of(starts, "ns")
    for name, figures, limit in (
        ("of a new store", fresh, NEW_MAX),
        ("whose segment stands", standing, STANDING_MAX),
    ):
        spread = Spread.of(figures, "ns")
        yield Row(
            operation=f"first open {name}",
            n=len(figures),
            ours=spread,
            peers=(Beside.figures("Python's start + import (not in it)", spread, start),),
            targets=(Target("<=", limit),),
        )


def open_cold(setting: Setting) -> Iterator[Row]:
    """A fresh process opens a store of a million keys and reads one of them, another one each time."""
    keys, times = setting.scale(1_000_000, 1_000), setting.scale(8, 2)
    names = [path_key(number * keys // (2 * times)) for number in range(2 * times)]
    made: list[int] = []
    standing: list[int] = []
    lmdb: list[int] = []
    with directory(setting.disk) as parent, twin(setting, keys, 48) as environment:
        root = parent / "store"
        with helios_shm.open(root) as engine:
            build(engine.branch("main"), keys, 48)
        for name in names[:times]:
            until_left(root)
            made.append(python_answer(OPEN_AND_READ, str(root), name))
            lmdb.append(python_answer(LMDB_OPEN_AND_GET, environment.path(), name))
        with helios_shm.open(root) as engine:
            engine.branch("main").head[names[0]]
            for name in names[times:]:
                standing.append(python_answer(OPEN_AND_READ, str(root), name))
        until_left(root)
    beside = Spread.of(lmdb, "ns")
    for what, figures, limit in (
        ("the segment is made", made, NEW_MAX),
        ("the segment stands", standing, STANDING_MAX),
    ):
        spread = Spread.of(figures, "ns")
        yield Row(
            operation=f"open + first read of a store of {keys:,} keys, {what}",
            n=len(figures),
            ours=spread,
            peers=(Beside.figures("py-lmdb open + get, tmpfs", spread, beside),),
            targets=(Target("<=", limit),),
            note="fresh processes, imports not counted; the files are in the page cache",
        )
