"""The process whose instructions are counted: does the six operations, in sections that callgrind counts apart.

    python -m tests.instructions.worker STORE MARK_LIBRARY       under valgrind; count.py starts it

    warm up | n | 3 n | n | 3 n | ...        for each operation; only what stands between bars is counted

Each section is prepared before it begins: inputs are made, workspaces forked. What is left in it is a user's own loop
over the public API. Everything that could differ from run to run is held still: values and their order come from a
fixed seed, the garbage collector is off, the store's coordinator is stopped (count.py does that), so that no chunk
changes its state and nobody sleeps who would have to be woken, and the clock nearly is (mark.c).
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import helios_shm
from helios_shm import l2

# How often each length of section is counted, and how much longer the long ones are.
TURNS = 5
LONG = 3
# The states that the operations work on: branch -> (keys, bytes of a value).
STATES = {
    "small_48": (100, 48),
    "small_1024": (100, 1024),
    "large_48": (100_000, 48),
    "read_1024": (10_000, 1024),
}
_SEED = 11


def path(number: int) -> str:
    """The path of a key, as long as paths are in a source tree."""
    return f"perf/{number % 100:02}/file_{number:07}.dat"


@dataclass
class Stage:
    """What the operations work on."""

    engine: helios_shm.Engine
    random: random.Random = field(default_factory=lambda: random.Random(_SEED))
    ordered: list[str] = field(default_factory=lambda: sorted(map(path, range(STATES["read_1024"][0]))))

    def some(self, keys: int, count: int) -> list[str]:
        """Keys of a state in an order without order, the same ones each time; all of them before any comes again."""
        names = [path(number) for number in random.Random(_SEED).sample(range(keys), min(keys, count))]
        return list(itertools.islice(itertools.cycle(names), count))

    def edits(self, keys: int, size: int, count: int) -> list[tuple[str, bytes]]:
        """Such keys with values that were never there."""
        return [(name, self.random.randbytes(size)) for name in self.some(keys, count)]


Section = Callable[[], object]


def commit_one(branch: str, stage: Stage, times: int) -> Section:
    """Set one key, commit; the workspace goes on from its new snapshot."""
    edits = stage.edits(*STATES[branch], times)
    workspace = stage.engine.branch(branch).fork()

    def section() -> None:
        for key, value in edits:
            workspace[key] = value
            workspace.commit()

    return section


def commit_48_bytes(stage: Stage, times: int) -> Section:
    return commit_one("small_48", stage, times)


def commit_1_kib(stage: Stage, times: int) -> Section:
    return commit_one("small_1024", stage, times)


def commit_thousand(stage: Stage, times: int) -> Section:
    """Commits of a thousand keys each; ``times`` counts keys."""
    edits = stage.edits(*STATES["large_48"], times)
    batches = [edits[begin : begin + 1000] for begin in range(0, times, 1000)]
    workspace = stage.engine.branch("large_48").fork()

    def section() -> None:
        for batch in batches:
            for key, value in batch:
                workspace[key] = value
            workspace.commit()

    return section


def first_read(stage: Stage, times: int) -> Section:
    """Keys that this snapshot has not read, in a process that has the nodes: the value is copied out of L1."""
    names = stage.some(STATES["read_1024"][0], times)
    snapshot = stage.engine.snapshot("read_1024")

    def section() -> None:
        for name in names:
            snapshot[name]

    return section


def repeated_read(stage: Stage, times: int) -> Section:
    """Keys that this snapshot has read."""
    names = stage.some(100, times)
    snapshot = stage.engine.snapshot("read_1024")
    for name in set(names):
        snapshot[name]

    def section() -> None:
        for name in names:
            snapshot[name]

    return section


def items(stage: Stage, times: int) -> Section:
    """(path, value) in order, of so many keys."""
    snapshot = stage.engine.snapshot("read_1024")
    stop = stage.ordered[times]

    def section() -> None:
        for _ in snapshot.items(stop=stop):
            pass

    return section


# Operation -> how it is prepared, and how many make a short section. Reads come first: commits fill the ring.
OPERATIONS: dict[str, tuple[Callable[[Stage, int], Section], int]] = {
    "repeated_read": (repeated_read, 3000),
    "first_read": (first_read, 1000),
    "items": (items, 2000),
    "commit_48_bytes": (commit_48_bytes, 500),
    "commit_1_kib": (commit_1_kib, 500),
    "commit_thousand": (commit_thousand, 1000),
}


def sections(name: str, stage: Stage) -> Iterator[tuple[str, Section]]:
    """The counted sections of an operation, with what each is called: operation, length, turn."""
    prepare, times = OPERATIONS[name]
    prepare(stage, LONG * times)()
    for turn in range(TURNS):
        for length in (1, LONG):
            yield f"{name} {length * times} {turn}", prepare(stage, length * times)


def main(store: str, library: str) -> None:
    mark = ctypes.CDLL(library)
    mark.section_end.argtypes = [ctypes.c_char_p]
    begun = time.monotonic_ns()
    if time.monotonic_ns() - begun != 1000:
        raise SystemExit("the clock goes on: mark.c is not preloaded")
    if not mark.section_is_countable():
        raise SystemExit("nothing is counted: this process does not run under valgrind")
    # Valgrind has no room for more, and gives another error for that than the system would.
    l2._MAP_SIZES = (1 << 32,)
    engine = helios_shm.open(Path(store), create=False)
    stage = Stage(engine)
    gc.disable()
    for name in OPERATIONS:
        for called, section in sections(name, stage):
            title = called.encode()
            mark.section_begin()
            section()
            mark.section_end(title)
    engine.close(sync=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
