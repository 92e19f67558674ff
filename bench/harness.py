"""Interleaved measurement and the table that it ends in.

    round 1            round 2            round 3
    [ours][baseline]   [baseline][ours]   [ours][baseline]  ...     -> ratio of each round -> median

Invariants:
- Contenders of one comparison take turns in short rounds, in one process: drift meets them all.
- A contender runs its own loop over prepared inputs; what the loop costs with an empty body is taken off.
- Inputs are made outside the timed part; the garbage collector is off inside it.
- `ratio` is the median over the rounds of (our mean in the round / the baseline's mean in the round).

Used by the bench_*.py files. Nothing here knows helios_shm.
"""

import gc
import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

Items: TypeAlias = Sequence[Any]
Run: TypeAlias = Callable[[Items], object]
Unit: TypeAlias = Literal["ns", "/s", "bytes", "x"]


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a run works and how long it may take."""

    quick: bool
    disk: Path  # the stores: a real file system
    memory: Path  # the baselines without sync: tmpfs

    def scale(self, full: int, quick: int) -> int:
        """`full`, or `quick` in a quick run."""
        return quick if self.quick else full


def idle_single(items: Items) -> None:
    """The empty loop over inputs that are taken whole."""
    for _ in items:
        pass


def idle_pair(items: Items) -> None:
    """The empty loop over inputs of (key, value)."""
    for _key, _value in items:
        pass


@dataclass(frozen=True, slots=True)
class Contender:
    """One side of a comparison: `run` does one operation for each of `inputs(n)`."""

    name: str
    run: Run
    inputs: Callable[[int], Items]
    idle: Run = idle_single


@dataclass(frozen=True, slots=True)
class Samples:
    """Nanoseconds an operation, one figure for each timed call, grouped by round."""

    name: str
    batch: int  # operations in one timed call
    rounds: tuple[tuple[float, ...], ...]

    @property
    def n(self) -> int:
        """Operations measured."""
        return self.batch * sum(map(len, self.rounds))

    @property
    def spread(self) -> "Spread":
        """p50 and p99 over all timed calls."""
        return Spread.of(list(itertools.chain.from_iterable(self.rounds)), "ns")

    @staticmethod
    def joined(parts: Sequence["Samples"]) -> "Samples":
        """The same contender measured in several processes."""
        return Samples(parts[0].name, parts[0].batch, tuple(r for part in parts for r in part.rounds))


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, 99th percentile and mean of one figure."""

    p50: float
    p99: float
    mean: float
    unit: Unit

    @staticmethod
    def of(figures: Sequence[float], unit: Unit) -> "Spread":
        ordered = sorted(figures)
        p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
        return Spread(statistics.median(ordered), p99, statistics.fmean(ordered), unit)

    @staticmethod
    def single(figure: float, unit: Unit) -> "Spread":
        return Spread(figure, figure, figure, unit)


@dataclass(frozen=True, slots=True)
class Target:
    """What the figure must be: a ratio to the baseline ("x"), or an absolute figure in its own unit."""

    relation: Literal["<=", ">="]
    limit: float
    unit: Unit = "x"

    def met(self, figure: float) -> bool:
        return figure <= self.limit if self.relation == "<=" else figure >= self.limit

    def __str__(self) -> str:
        return f"{self.relation} {show(self.limit, self.unit)}"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report. `measured` is what the target judges; without a target the line informs."""

    operation: str
    n: int
    ours: Spread
    baseline: str
    beside: Spread
    measured: float
    target: Target | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.target is None:
            return "shown"
        return "met" if self.target.met(self.measured) else "missed"


@contextmanager
def collector_off() -> Iterator[None]:
    """No garbage collection inside; one before and one after."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


def timed(run: Run, items: Items) -> int:
    """Nanoseconds of one call, the clock's own cost included (it is part of the empty loop's cost too)."""
    start = time.perf_counter_ns()
    run(items)
    return time.perf_counter_ns() - start


def loop_cost(idle: Run, batch: int) -> float:
    """Nanoseconds of one timed call whose loop has an empty body."""
    items = [(0, 0)] * batch
    return statistics.median(timed(idle, items) for _ in range(200))


def measure(
    contenders: Sequence[Contender], *, rounds: int, calls: int, batch: int, warm_up: bool = True
) -> list[Samples]:
    """Lets the contenders take turns; each round is `calls` timed calls of `batch` operations.

    With `warm_up` one round more is run and not counted. Returns one Samples a contender, in order.
    """
    loops = [loop_cost(contender.idle, batch) for contender in contenders]
    taken: list[list[tuple[float, ...]]] = [[] for _ in contenders]
    with collector_off():
        for turn in range(-1 if warm_up else 0, rounds):
            order = range(len(contenders)) if turn % 2 else reversed(range(len(contenders)))
            for which in order:
                contender = contenders[which]
                prepared = [contender.inputs(batch) for _ in range(calls)]
                times = [max(timed(contender.run, items) - loops[which], 0.0) / batch for items in prepared]
                if turn >= 0:
                    taken[which].append(tuple(times))
    return [Samples(c.name, batch, tuple(figures)) for c, figures in zip(contenders, taken, strict=True)]


def ratio(ours: Samples, baseline: Samples) -> float:
    """Median over the rounds of our mean to the baseline's mean."""
    pairs = zip(ours.rounds, baseline.rounds, strict=True)
    return statistics.median(statistics.fmean(a) / max(statistics.fmean(b), 0.001) for a, b in pairs)


def compare(
    operation: str, ours: Samples, baseline: Samples, target: Target | None = None, note: str = ""
) -> Row:
    """The line for a ratio of two interleaved contenders."""
    batches = f"p99 of batches of {ours.batch}" if ours.batch > 1 else ""
    means = f"means {show(ours.spread.mean, 'ns')} and {show(baseline.spread.mean, 'ns')}"
    return Row(
        operation, ours.n, ours.spread, baseline.name, baseline.spread, ratio(ours, baseline), target,
        "; ".join(part for part in (batches, means, note) if part),
    )  # fmt: skip


def show(figure: float, unit: Unit) -> str:
    """A figure with three digits and its unit."""
    if unit == "x":
        return f"{figure:.2f} x"
    if unit == "/s":
        return f"{figure:,.0f}/s"
    steps = {"ns": (("s", 1e9), ("ms", 1e6), ("us", 1e3), ("ns", 1.0)),
             "bytes": (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))}[unit]  # fmt: skip
    name, size = next((step for step in steps if abs(figure) >= step[1]), steps[-1])
    return f"{figure / size:.3g} {name}" if figure / size < 1000 else f"{figure / size:.0f} {name}"


HEADINGS = ("operation", "n", "p50", "p99", "baseline", "p50", "p99", "figure", "target", "")


def cells(row: Row) -> tuple[str, ...]:
    """The columns of a line."""
    unit = row.target.unit if row.target else "x"
    return (
        row.operation, f"{row.n:,}", show(row.ours.p50, row.ours.unit), show(row.ours.p99, row.ours.unit),
        row.baseline, show(row.beside.p50, row.beside.unit), show(row.beside.p99, row.beside.unit),
        show(row.measured, unit), str(row.target) if row.target else "", row.verdict,
    )  # fmt: skip


WIDTHS = (60, 9, 9, 9, 40, 9, 9, 9, 10, 6)
LEFT = (0, 4, 8, 9)


def line(columns: Iterable[str]) -> str:
    """One aligned line."""
    padded = (
        text.ljust(width) if at in LEFT else text.rjust(width)
        for at, (text, width) in enumerate(zip(columns, WIDTHS, strict=True))
    )
    return "  ".join(padded).rstrip()


def report(row: Row) -> str:
    """The line of a row, and under it what is to be said about it."""
    lines = [line(cells(row))]
    if row.target and row.verdict == "missed":
        lines.append(f"    missed: {show(row.measured, row.target.unit)} (target {row.target})")
    if row.note:
        lines.append(f"    {row.note}")
    return "\n".join(lines)


def path_key(number: int) -> str:
    """The key of entry `number`, as an application would name it."""
    return f"perf/{number % 100:02d}/file_{number:07d}.dat"


class Values:
    """Random values that never repeat within a run, cut from a buffer one byte further each time."""

    def __init__(self, size: int, seed: int = 1) -> None:
        self.size = size
        self.random = random.Random(seed)

    def take(self, count: int) -> list[bytes]:
        buffer = self.random.randbytes(count + self.size)
        return [buffer[at : at + self.size] for at in range(count)]


class Edits:
    """Inputs of (random key of the first `keys`, value never seen before)."""

    def __init__(self, keys: int, size: int, seed: int = 1) -> None:
        self.keys = keys
        self.values = Values(size, seed)

    def as_text(self, count: int) -> list[tuple[str, bytes]]:
        choose = self.values.random.randrange
        return [(path_key(choose(self.keys)), value) for value in self.values.take(count)]

    def as_bytes(self, count: int) -> list[tuple[bytes, bytes]]:
        return [(key.encode(), value) for key, value in self.as_text(count)]
