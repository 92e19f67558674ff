"""Many writers on one hot branch: how much they get done together, and whether each gets its share.

    16 processes, begun at one moment, the same number of commits each
        disjoint   keys of one's own: rebased on each other
        sum        transaction(resolve="sum"): everybody increments one key
        update     branch.update: the same, run again where somebody was faster

Two rows for each: commits a second of all together, beside one process alone with as many; and how long the slowest
writer took for its whole work, beside the median one. What single commits waited stands in the note.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise

import helios_shm
from helios_shm import Workspace, codecs

from .harness import Beside, Row, Setting, Spread, Target
from .states import store
from .workers import Job, Worker

ALONE = "one process alone, the same run"
MEDIAN = "the median writer"
UNFAIR = 10.0
RETRIES = 1_000_000
SETTLE_SECONDS = 0.05  # from the last child's being told to the moment they begin
Waits = list[int]  # nanoseconds of each commit of one writer


def bump(workspace: Workspace) -> None:
    numbers = workspace.view(codec=codecs.json)
    numbers["n"] = numbers.get("n", 0) + 1


def disjoint(branch: helios_shm.Branch, number: int, turn: int) -> None:
    with branch.transaction() as workspace:
        workspace[f"{number}/{turn % 100}"] = b"%d" % turn


def summed(branch: helios_shm.Branch, number: int, turn: int) -> None:
    with branch.transaction(resolve="sum") as workspace:
        bump(workspace)


def updated(branch: helios_shm.Branch, number: int, turn: int) -> None:
    branch.update(bump, retries=RETRIES)


WORK: dict[str, Callable[[helios_shm.Branch, int, int], None]] = {
    "disjoint": disjoint,
    "sum": summed,
    "update": updated,
}


def writer(branch: helios_shm.Branch, number: int) -> Job:
    """A child; a command is (what, commits, the moment to begin)."""

    def job(command: tuple[str, int, float]) -> Waits:
        what, count, moment = command
        step = WORK[what]
        time.sleep(max(0.0, moment - time.monotonic()))
        marks = [time.perf_counter_ns()]
        for turn in range(count):
            step(branch, number, turn)
            marks.append(time.perf_counter_ns())
        return [end - begin for begin, end in pairwise(marks)]

    return job


def burst(crew: list[Worker], what: str, count: int) -> tuple[list[Waits], float]:
    """What each waited, and commits a second of all from the moment to the last one's end."""
    moment = time.monotonic() + SETTLE_SECONDS
    for each in crew:
        each.ask((what, count, moment))
    waits = [each.answer() for each in crew]
    return waits, len(crew) * count * 1e9 / max(sum(mine) for mine in waits)


def rows(what: str, crew: list[Worker], count: int, rounds: int) -> Iterator[Row]:
    """Rounds of all, and of one who does as many alone, in turns."""
    rates, alone, longest, median, single = [], [], [], [], []
    for _ in range(rounds):
        waits, rate = burst(crew, what, count)
        rates.append(rate)
        alone.append(burst(crew[:1], what, count * len(crew))[1])
        works = [sum(mine) for mine in waits]
        longest.append(float(max(works)))
        median.append(statistics.median(works))
        single += [wait for mine in waits for wait in mine]
    ours, one = Spread.of(rates, "/s"), Spread.of(alone, "/s")
    commits = Spread.of(single, "ns")
    name = f"{len(crew)} writers on one branch, {what}"
    yield Row(
        operation=f"commits by {name}",
        n=len(single),
        ours=ours,
        peers=(Beside.figures(ALONE, ours, one),),
        note=f"{count} commits each; a commit waits {commits.p50 / 1e3:,.0f} us (p50), "
        f"{commits.p99 / 1e3:,.0f} us (p99), {max(single) / 1e3:,.0f} us (the longest)",
    )
    ratios = [most / usual for most, usual in zip(longest, median, strict=True)]
    yield Row(
        operation=f"slowest of {name}",
        n=rounds,
        ours=Spread.of(longest, "ns"),
        peers=(Beside(MEDIAN, Spread.of(median, "ns"), statistics.median(ratios)),),
        targets=(Target("<=", UNFAIR, MEDIAN),),
        note=f"from the moment when all begin to the end of its {count} commits",
    )


def hot(setting: Setting) -> Iterator[Row]:
    """One crew for all; a sync between the kinds of work."""
    with store(setting) as engine, ExitStack() as stack:
        branch = engine.branch("hot")
        branch.update(lambda workspace: workspace.update({"n": b"0"}))
        crew = [stack.enter_context(Worker(writer, branch, n)) for n in range(setting.scale(16, 4))]
        for what in WORK:
            burst(crew, what, 5)
            yield from rows(what, crew, setting.scale(300, 20), setting.scale(3, 1))
            engine.sync()
