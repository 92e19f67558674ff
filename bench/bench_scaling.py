"""Many processes at once: writers on branches of their own, writers on one branch, readers beside a writer.

    N = 1, 2, 4, 8, 16     own branches     child n commits to own<n>                         rate(N) / rate(1)
                           one branch       disjoint keys: commits are rebased on each other  rate(N) / rate(1)
                                            one key: read, change, commit; again after a conflict
                           readers          N children read the head's values, one more commits all the while

Every rate of one N is measured in the same rounds as every other, peers and one process alone included. Where there
are fewer cores than processes the curve flattens at the cores; the floor shows what copying memory gains here.
"""

import math
import os
import statistics
from collections.abc import Iterator, Sequence

from .crew import KEYS, Crew
from .harness import Beside, Point, Row, Setting, Skipped, Spread, Target
from .peers import Lineup, Lmdb, Manager, Redis, Sqlite, Store, UltraDict
from .states import store

COUNTS = (1, 2, 4, 8, 16)
ALONE = "one process alone, the same run"
CORES_FOR_TWELVE = 16
BLOCK = 10  # operations between two looks at the clock
Rates = dict[tuple[str, int], list[float]]  # what is done, by how many -> operations a second, one a round


def counts(setting: Setting) -> Sequence[int]:
    return COUNTS[: setting.scale(len(COUNTS), 2)]


def cores() -> int:
    return len(os.sched_getaffinity(0))


def gain(rates: Rates, ours: tuple[str, int], other: tuple[str, int]) -> float:
    """The median over the rounds of ours to the other."""
    pairs = zip(rates[ours], rates[other], strict=True)
    return statistics.median(a / b if b else math.inf for a, b in pairs)  # 0: not one was done in time


def beside(rates: Rates, ours: tuple[str, int], other: tuple[str, int], name: str) -> Beside:
    return Beside(name, Spread.of(rates[other], "/s"), gain(rates, ours, other))


def copying(rates: Rates, what: str, count: int) -> Beside:
    """One process's rate, times what memcpy by so many gains over memcpy by one, round for round."""
    rounds = zip(rates[what, 1], rates["copy", count], rates["copy", 1], strict=True)
    scaled = [one * many / single for one, many, single in rounds]
    ratio = statistics.median(a / b for a, b in zip(rates[what, count], scaled, strict=True))
    name = f"one process's rate x what memcpy of 4 MiB gains by {count}"
    return Beside(name, Spread.of(scaled, "/s"), ratio)


def judged(what: str, count: int) -> tuple[tuple[Target, ...], str]:
    """What is asked of so many processes here, and what the note says of it."""
    here = f"{cores()} cores"
    if what == "shared":
        return ((Target(">=", 1.0, ALONE),) if count > 1 else ()), here
    if what == "own" and count == 2 <= cores():
        return (Target(">=", 1.6, ALONE),), here
    if what == "own" and count == 16:
        if cores() >= CORES_FOR_TWELVE:
            return (Target(">=", 12.0, ALONE),), here
        return (), f"{here}; >= 12 x one process is asked where there are {CORES_FOR_TWELVE}"
    return (), here


TITLES = {
    "own": "commits by {} on own branches, 100 keys x 1 KiB",
    "shared": "commits by {} on one branch, disjoint keys, 1 KiB",
    "collide": "read, change, commit by {} of one key of one branch",
}
SUFFIX = {"own": "", "shared": "", "collide": " collide"}  # what a peer's work is called, behind its name


def written(
    rates: Rates, what: str, count: int, peers: Sequence[Store], skipped: Sequence[Skipped], seconds: float
) -> Row:
    """One row of one N."""
    processes = f"{count} process{'es' * (count > 1)}"
    mine = (what, count)
    others = [beside(rates, mine, (what, 1), ALONE)] if count > 1 else []
    for peer in peers:
        theirs = (peer.name + SUFFIX[what], count)
        if theirs in rates:
            others.append(beside(rates, mine, theirs, f"{peer.name}, {processes}"))
    targets, note = judged(what, count)
    return Row(
        operation=TITLES[what].format(processes),
        n=int(sum(rates[mine]) * seconds),
        ours=Spread.of(rates[mine], "/s"),
        peers=tuple(others),
        floor=copying(rates, what, count) if what == "own" else None,
        targets=targets,
        skipped=tuple(skipped),
        note=f"all processes together; bursts of {seconds} s, persisted between them; {note}"
        f"{'; UltraDict2 is left out: its lock sleeps for seconds where two contend' * (count > 1)}",
        at=Point("writers", TITLES[what].format("N processes"), "processes", count),
    )


def crowd_rates(
    crew: Crew, sizes: Sequence[int], peers: Sequence[Store], seconds: float, turns: int
) -> Rates:
    """Everything that is written, by 1 .. 16, in turns; each burst is persisted before the next."""
    whats = ["own", "shared", "collide", "copy", *(peer.name for peer in peers)]
    whats += [f"{peer.name} collide" for peer in peers if isinstance(peer, Lmdb | Redis | Sqlite)]
    for what in whats:  # once, not counted
        crew.rate(what, 1 if what == UltraDict.name else sizes[-1], seconds / 4)
    rates: Rates = {}
    for turn in range(turns):
        for count in sizes:
            for what in whats if turn % 2 else reversed(whats):
                if what == UltraDict.name and count > 1:
                    continue  # its lock sleeps for seconds where two contend for it
                block = 1 if what == "copy" else BLOCK
                rates.setdefault((what, count), []).append(crew.rate(what, count, seconds, block))
                crew.engine.sync()
    return rates


def reading_rates(
    crew: Crew, sizes: Sequence[int], peers: Sequence[Store], seconds: float, turns: int
) -> Rates:
    """One that writes, beside so many that read; what is written has the writer's rate, by 0 for nobody beside it."""
    pairs = [("read", "shared"), *((f"{peer.name} read", peer.name) for peer in peers)]
    rates: Rates = {}
    for turn in range(turns):
        for count in (0, *sizes):
            for read, write in pairs if turn % 2 else reversed(pairs):
                done = [rate for rate, _ in crew.work([write, *[read] * count], seconds, BLOCK)]
                rates.setdefault((write, count), []).append(done[0])
                rates.setdefault((read, count), []).append(sum(done[1:]))
                crew.engine.sync()
    return rates


def read(rates: Rates, count: int, peers: Sequence[Store], skipped: Sequence[Skipped], seconds: float) -> Row:
    """The row of N readers. How much the writer keeps of its rate stands in the note."""
    sides = (("ours", "shared"), *((peer.name, peer.name) for peer in peers))
    kept = ", ".join(f"{name} {gain(rates, (write, count), (write, 0)):.2f} x" for name, write in sides)
    mine, processes = ("read", count), f"{count} process{'es' * (count > 1)}"
    return Row(
        operation=f"reads of the head by {processes} beside a writer, 1 KiB",
        n=int(sum(rates[mine]) * seconds),
        ours=Spread.of(rates[mine], "/s"),
        peers=tuple(
            beside(rates, mine, (f"{peer.name} read", count), f"{peer.name}, {processes}") for peer in peers
        ),
        skipped=tuple(skipped),
        note=f"all readers together, {cores()} cores; every read sees what was committed before it; the writer "
        f"makes {statistics.median(rates['shared', count]):,.0f} commits/s; of its rate alone it keeps: {kept}",
        at=Point("readers", "reads of the head beside a writer", "processes", count),
    )


def at_once(setting: Setting) -> Iterator[Row]:
    """Short bursts, and a sync between them: this is about the workers, not about the disk."""
    seconds, sizes, turns = 0.1, counts(setting), setting.scale(2, 1)
    kinds = (Lmdb, Redis, Sqlite, Manager, UltraDict)
    with store(setting) as engine, Lineup() as lineup:
        peers = lineup.stores(kinds, setting.memory, nbytes=(sizes[-1] + 1) * KEYS * 1024)
        fast = [peer for peer in peers if isinstance(peer, Lmdb | Redis | Sqlite)]
        with Crew(sizes[-1] + 1, engine, peers) as crew:
            rates = crowd_rates(crew, sizes, peers, seconds, turns)
            reads = reading_rates(crew, sizes, fast, seconds, turns)
    for what in TITLES:
        for count in sizes:
            yield written(rates, what, count, peers, lineup.skipped, seconds)
    for count in sizes:
        yield read(reads, count, fast, lineup.skipped, seconds)
