"""Opening: a new store, and a store whose segment stands because another process has it open."""

from collections.abc import Iterator

import helios_shm

from .baselines import python_answer, python_ns
from .harness import Row, Setting, Spread, Target
from .states import directory

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
    with directory(setting.disk) as parent, helios_shm.open(parent / "standing") as engine:
        workspace = engine.branch("main").fork()
        workspace["key"] = b"value"
        workspace.commit()
        for turn in range(setting.scale(25, 3)):
            fresh.append(python_answer(OPEN, str(parent / f"new{turn}")))
            standing.append(python_answer(OPEN, str(parent / "standing")))
            starts.append(python_ns("import helios_shm"))
    start = Spread.of(starts, "ns")
    for name, figures, limit in (("of a new store", fresh, 60e6), ("whose segment stands", standing, 20e6)):
        spread = Spread.of(figures, "ns")
        yield Row(
            f"first open {name}", len(figures), spread, "Python's start + import (not in it)", start,
            spread.p50, Target("<=", limit, "ns"),
        )  # fmt: skip
