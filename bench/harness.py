"""Interleaved measurement, and the lines that it ends in.

    round 1                      round 2                      round 3
    [ours][peer][peer][floor]    [floor][peer][peer][ours]    [ours][peer] ...   -> ratio of each round -> median

    Row:  operation, n          p50  p95  p99
            ours
            each peer                           ratio   target   verdict
            the floor                           ratio   target   verdict
            skipped peers, note

Invariants:
- Contenders of one comparison take turns in short rounds, in one process: drift meets them all.
- A contender runs its own loop over prepared inputs; what the loop costs with an empty body is taken off.
- Inputs are made outside the timed part; the garbage collector is off inside it.
- A ratio is the median over the rounds of (our mean in the round / the other's mean in the round). A slow
  contender may sit rounds out (`every`); the ratio then counts the rounds in which both ran.
- A target names what it judges against; a name that nobody in the row bears is an error, not a silent pass.

Used by the bench_*.py files. Nothing here knows helios_shm, nor any peer.
"""

import fnmatch
import gc
import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

Items: TypeAlias = Sequence[Any]
Run: TypeAlias = Callable[[Items], object]
Unit: TypeAlias = Literal["ns", "/s", "bytes", "x", "%"]
Verdict: TypeAlias = Literal["met", "missed", "skipped", "shown"]

ROUNDS_MIN = 5
FLOOR = "floor"  # what a target names to be judged against the row's floor


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
    """One side of a comparison: `run` does one operation for each of `inputs(n)`.

    `calls` and `batch` are its own instead of the comparison's; with `every` = k it runs in one round of k.
    """

    name: str
    run: Run
    inputs: Callable[[int], Items]
    idle: Run = idle_single
    calls: int | None = None
    batch: int | None = None
    every: int = 1


@dataclass(frozen=True, slots=True)
class Samples:
    """Nanoseconds an operation, one figure for each timed call, grouped by round; () for a round sat out."""

    name: str
    batch: int  # operations in one timed call
    rounds: tuple[tuple[float, ...], ...]

    @property
    def n(self) -> int:
        """Operations measured."""
        return self.batch * sum(map(len, self.rounds))

    @property
    def spread(self) -> "Spread":
        """Over all timed calls."""
        return Spread.of(list(itertools.chain.from_iterable(self.rounds)), "ns")

    @staticmethod
    def joined(parts: Sequence["Samples"]) -> "Samples":
        """The same contender measured in several processes."""
        return Samples(parts[0].name, parts[0].batch, tuple(r for part in parts for r in part.rounds))


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, 95th and 99th percentile and mean of one figure."""

    p50: float
    p95: float
    p99: float
    mean: float
    unit: Unit

    @staticmethod
    def of(figures: Sequence[float], unit: Unit) -> "Spread":
        ordered = sorted(figures)

        def above(share: float) -> float:
            return ordered[min(len(ordered) - 1, int(len(ordered) * share))]

        return Spread(statistics.median(ordered), above(0.95), above(0.99), statistics.fmean(ordered), unit)

    @staticmethod
    def single(figure: float, unit: Unit) -> "Spread":
        return Spread(figure, figure, figure, figure, unit)


@dataclass(frozen=True, slots=True)
class Beside:
    """What our figure is put beside: a peer, or the floor. `ratio` is ours to it, also where more is better."""

    name: str
    spread: Spread
    ratio: float

    @staticmethod
    def of(ours: Samples, other: Samples) -> "Beside":
        """Two contenders of one measurement."""
        return Beside(other.name, other.spread, ratio(ours, other))

    @staticmethod
    def figures(name: str, ours: Spread, other: Spread) -> "Beside":
        """Two figures that were not taken in rounds: their medians."""
        return Beside(name, other, ours.p50 / other.p50 if other.p50 else math.inf)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A peer that should stand in the row and does not."""

    name: str
    reason: str
    installed: bool = False  # False: its package or program is not there; True: it is there and failed


@dataclass(frozen=True, slots=True)
class Target:
    """What the figure must be.

    `against` names a peer (or several: `py-lmdb*`; the worst ratio counts), or FLOOR: then `limit` is a ratio.
    Without it, our p50 itself is judged, and `limit` is in its unit.
    """

    relation: Literal["<=", ">="]
    limit: float
    against: str = ""

    def met(self, figure: float) -> bool:
        return figure <= self.limit if self.relation == "<=" else figure >= self.limit

    def judges(self, name: str) -> bool:
        return bool(self.against) and fnmatch.fnmatchcase(name, self.against)

    def text(self, unit: Unit) -> str:
        return f"{self.relation} {show(self.limit, 'x' if self.against else unit)}"


@dataclass(frozen=True, slots=True)
class Point:
    """Where a row stands in a plot: y is its p50, of ours and of everything beside it."""

    plot: str  # the workload; one file each
    panel: str  # what is held fixed within one pair of axes: "48 B values"
    axis: str  # what x counts: "keys", "processes"
    x: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """A target, whom it was judged against ("" for nobody), and the figure; None if all it names were skipped."""

    target: Target
    against: str
    figure: float | None

    @property
    def verdict(self) -> Verdict:
        if self.figure is None:
            return "skipped"
        return "met" if self.target.met(self.figure) else "missed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One operation at one size: ours, the peers, the floor, and what is asked of the ratios."""

    operation: str
    n: int
    ours: Spread
    peers: tuple[Beside, ...] = ()
    floor: Beside | None = None
    targets: tuple[Target, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    note: str = ""
    at: Point | None = None

    def __post_init__(self) -> None:
        names = [peer.name for peer in self.peers] + [each.name for each in self.skipped]
        for target in self.targets:
            known = self.floor if target.against == FLOOR else any(map(target.judges, names))
            if target.against and not known:
                raise ValueError(f"{self.operation}: nobody is called {target.against!r} among {names}")

    def judged(self, target: Target) -> Judgement:
        """The target beside the figure that it judges."""
        if not target.against:
            return Judgement(target, "", self.ours.p50)
        if target.against == FLOOR and self.floor:
            return Judgement(target, FLOOR, self.floor.ratio)
        found = [(peer.ratio, peer.name) for peer in self.peers if target.judges(peer.name)]
        if not found:
            return Judgement(target, target.against, None)
        figure, name = max(found) if target.relation == "<=" else min(found)
        return Judgement(target, name, figure)

    @property
    def judgements(self) -> tuple[Judgement, ...]:
        return tuple(map(self.judged, self.targets))

    @property
    def verdict(self) -> Verdict:
        """`missed` if any target is; without targets the row informs."""
        found = [each.verdict for each in self.judgements]
        order: tuple[Verdict, ...] = ("missed", "met", "skipped")
        return next((each for each in order if each in found), "shown")


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
    contenders: Sequence[Contender],
    *,
    rounds: int,
    calls: int,
    batch: int,
    warm_up: bool = True,
    seconds: float = math.inf,
) -> list[Samples]:
    """Lets the contenders take turns; each round is `calls` timed calls of `batch` operations.

    With `warm_up` one round more is run and not counted, by those that run in every round. When `seconds` have
    passed no round begins after the first ROUNDS_MIN. Returns one Samples a contender, in order.
    """
    batches = [contender.batch or batch for contender in contenders]
    loops = [loop_cost(each.idle, size) for each, size in zip(contenders, batches, strict=True)]
    taken: list[list[tuple[float, ...]]] = [[] for _ in contenders]
    end = time.monotonic() + seconds
    with collector_off():
        for turn in range(-1 if warm_up else 0, rounds):
            if turn >= ROUNDS_MIN and time.monotonic() > end:
                break
            order = range(len(contenders)) if turn % 2 else reversed(range(len(contenders)))
            for which in order:
                contender, size = contenders[which], batches[which]
                takes_part = turn % contender.every == 0 if turn >= 0 else contender.every == 1
                prepared = [contender.inputs(size) for _ in range((contender.calls or calls) * takes_part)]
                times = [max(timed(contender.run, items) - loops[which], 0.0) / size for items in prepared]
                if turn >= 0:
                    taken[which].append(tuple(times))
    sides = zip(contenders, batches, taken, strict=True)
    return [Samples(contender.name, size, tuple(figures)) for contender, size, figures in sides]


def ratio(ours: Samples, other: Samples) -> float:
    """Median over the rounds of our mean to the other's mean, where both ran."""
    pairs = [(a, b) for a, b in zip(ours.rounds, other.rounds, strict=True) if a and b]
    return statistics.median(statistics.fmean(a) / max(statistics.fmean(b), 0.001) for a, b in pairs)


def compare(
    operation: str,
    ours: Samples,
    others: Sequence[Samples],
    *targets: Target,
    floor: Samples | None = None,
    skipped: Sequence[Skipped] = (),
    note: str = "",
    at: Point | None = None,
) -> Row:
    """The row of one measurement: ratios to the others, and to the floor, over the rounds."""
    batches = f"percentiles of batches of {ours.batch}" if ours.batch > 1 else ""
    mean = f"mean {show(ours.spread.mean, 'ns')}"
    return Row(
        operation=operation,
        n=ours.n,
        ours=ours.spread,
        peers=tuple(Beside.of(ours, other) for other in others),
        floor=Beside.of(ours, floor) if floor else None,
        targets=targets,
        skipped=tuple(skipped),
        note="; ".join(part for part in (mean, batches, note) if part),
        at=at,
    )


def show(figure: float, unit: Unit) -> str:
    """A figure with three digits and its unit."""
    if unit == "x":
        return f"{figure:.2f} x" if figure >= 0.1 else f"{figure:.2g} x"
    if unit == "%":
        return f"{figure:.2f} %"
    if unit == "/s":
        return f"{figure:,.0f}/s"
    steps = {"ns": (("s", 1e9), ("ms", 1e6), ("us", 1e3), ("ns", 1.0)),
             "bytes": (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))}[unit]  # fmt: skip
    name, size = next((step for step in steps if abs(figure) >= step[1]), steps[-1])
    return f"{figure / size:.3g} {name}" if abs(figure) / size < 1000 else f"{figure / size:.0f} {name}"


HEADINGS = ("", "p50", "p95", "p99", "ours to it", "target", "")
WIDTHS = (62, 9, 9, 9, 10, 10, 7)


def line(columns: Sequence[str]) -> str:
    """One aligned line: the name to the left, figures to the right."""
    padded = (text.ljust(width) if at in (0, 6) else text.rjust(width)
              for at, (text, width) in enumerate(zip(columns, WIDTHS, strict=True)))  # fmt: skip
    return "  ".join(padded).rstrip()


def figures(spread: Spread) -> tuple[str, str, str]:
    """p50, p95 and p99; one figure that has no spread stands alone."""
    if spread.p50 == spread.p99:
        return show(spread.p50, spread.unit), "", ""
    return show(spread.p50, spread.unit), show(spread.p95, spread.unit), show(spread.p99, spread.unit)


def cells(row: Row) -> list[tuple[str, ...]]:
    """The table lines of a row: ours, the peers, the floor; each target beside what it judges."""
    table: list[tuple[str, ...]] = []
    sides: list[tuple[str, str, Spread, str]] = [("ours", "", row.ours, "")]
    sides += [(peer.name, peer.name, peer.spread, show(peer.ratio, "x")) for peer in row.peers]
    if row.floor:
        sides.append((f"floor: {row.floor.name}", FLOOR, row.floor.spread, show(row.floor.ratio, "x")))
    for label, name, spread, ratio_text in sides:
        asked = [
            (each.target.text(row.ours.unit), each.verdict)
            for each in row.judgements
            if each.against == name and each.figure is not None
        ]
        table.append((f"  {label}", *figures(spread), ratio_text, *(asked[0] if asked else ("", ""))))
        table += [("", "", "", "", "", *more) for more in asked[1:]]
    return table


def report(row: Row) -> str:
    """The lines of a row as text: its name, the table, and what is to be said about it."""
    lines = [f"{row.operation}  (n = {row.n:,})", *map(line, cells(row))]
    lines += [f"    missed: {missed_text(row, each)}" for each in row.judgements if each.verdict == "missed"]
    lines += [f"    skipped: {each.name} ({each.reason})" for each in row.skipped]
    if row.note:
        lines.append(f"    {row.note}")
    return "\n".join(lines)


def missed_text(row: Row, judgement: Judgement) -> str:
    """`0.81 x py-lmdb put (target <= 0.70 x)`."""
    target, figure = judgement.target, judgement.figure or 0.0
    text = f"(target {target.text(row.ours.unit)})"
    if not target.against:
        return f"{show(figure, row.ours.unit)} {text}"
    name = row.floor.name if judgement.against == FLOOR and row.floor else judgement.against
    return f"{show(figure, 'x')} {name} {text}"


def path_key(number: int) -> str:
    """The key of entry `number`, as an application would name it."""
    return f"perf/{number % 100:02d}/file_{number:07d}.dat"


def sized(size: int) -> str:
    """A size in bytes as rows name it."""
    return f"{size} B" if size < 1024 else f"{size >> 10} KiB"


class Values:
    """Random values that never repeat within a run, cut from a buffer one byte further each time."""

    def __init__(self, size: int, seed: int = 1) -> None:
        self.size = size
        self.random = random.Random(seed)

    def take(self, count: int) -> list[bytes]:
        buffer = self.random.randbytes(count + self.size)
        return [buffer[at : at + self.size] for at in range(count)]


def pairs_of(keys: int, size: int) -> Iterator[tuple[str, bytes]]:
    """The state that a row of so many keys is measured on, the same in every store."""
    return zip(map(path_key, range(keys)), Values(size, seed=7).take(keys), strict=True)


class Edits:
    """Inputs of (random key of the first `keys`, value never seen before)."""

    def __init__(self, keys: int, size: int, seed: int = 1) -> None:
        self.keys = keys
        self.values = Values(size, seed)

    def as_text(self, count: int) -> list[tuple[str, bytes]]:
        choose = self.values.random.randrange
        return [(path_key(choose(self.keys)), value) for value in self.values.take(count)]

    def named(self, key: Callable[[str], Any]) -> Callable[[int], Items]:
        """Inputs whose keys are made by `key`."""
        return lambda count: [(key(path), value) for path, value in self.as_text(count)]

    def as_bytes(self, count: int) -> list[tuple[bytes, bytes]]:
        return [(key.encode(), value) for key, value in self.as_text(count)]
