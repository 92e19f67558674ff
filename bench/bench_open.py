"""Opening: a new store, and a store whose segment stands because another process has it open."""

from collections.abc import Iterator

from .baselines import python_answer, python_ns
from .harness import Beside, Row, Setting, Spread, Target
from .states import directory, store, until_left

OPEN = """
import sys, time, helios_shm
start = time.perf_counter_ns()
engine = helios_shm.open(sys.argv[1])
print(time.perf_counter_ns() - start, flush=True)
engine.close()
"""


def opening(setting: Setting) -> Iterator[Row]:
    """Timed inside the child around `open`, so that neither Python's start nor the import is in it."""
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
    for name, figures, limit in (("of a new store", fresh, 60e6), ("whose segment stands", standing, 20e6)):
        spread = Spread.of(figures, "ns")
        yield Row(
            operation=f"first open {name}",
            n=len(figures),
            ours=spread,
            peers=(Beside.figures("Python's start + import (not in it)", spread, start),),
            targets=(Target("<=", limit),),
        )
