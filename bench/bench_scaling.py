"""Two processes against one: commits on two branches, beside what memcpy scales to."""

import statistics
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack

import helios_shm

from .baselines import copy_rate
from .harness import Beside, Edits, Row, Setting, Spread, Target
from .states import build, commits, store
from .workers import Job, Worker

BLOCK = 50


def committer(branch: helios_shm.Branch) -> Job:
    """The child: at `start` (monotonic) it commits for `seconds`, or copies; returns operations a second."""
    run = commits(branch.fork())
    edits = Edits(100, 1024, seed=zlib.crc32(branch.name.encode()))

    def job(command: tuple[str, float, float]) -> float:
        what, start, seconds = command
        blocks = [edits.as_text(BLOCK) for _ in range(int(seconds * 300_000) // BLOCK)]
        time.sleep(max(0.0, start - time.monotonic()))
        if what == "copy":
            return copy_rate(seconds)
        done, begun = 0, time.perf_counter()
        for block in blocks:
            run(block)
            done += BLOCK
            if time.perf_counter() - begun >= seconds:
                break
        return done / (time.perf_counter() - begun)

    return job


def together(children: list[Worker], what: str, seconds: float) -> float:
    """The sum of the rates of these children, started at one moment."""
    start = time.monotonic() + 0.1 + seconds
    for child in children:
        child.ask((what, start, seconds))
    return sum(float(child.answer()) for child in children)


def two_branches(setting: Setting) -> Iterator[Row]:
    """Short bursts, and a sync between them: this is about the workers, not about the disk."""
    seconds = setting.scale(100, 20) / 1000
    rates: dict[tuple[str, int], list[float]] = {}
    with store(setting) as engine, ExitStack() as stack:
        branches = [engine.branch(name) for name in ("one", "two")]
        for branch in branches:
            build(branch, 100, 1024)
        children = [stack.enter_context(Worker(committer, branch)) for branch in branches]
        for _ in range(setting.scale(25, 3)):
            for what in ("commit", "copy"):
                for count in (1, 2):
                    rates.setdefault((what, count), []).append(together(children[:count], what, seconds))
                    engine.sync()
    commit, copy = (
        [two / one for one, two in zip(rates[what, 1], rates[what, 2], strict=True)]
        for what in ("commit", "copy")
    )
    one, two = (statistics.median(rates["commit", count]) for count in (1, 2))
    yield Row(
        operation="two processes on two branches against one",
        n=len(commit),
        ours=Spread.of(commit, "x"),
        floor=Beside.figures(
            "memcpy of 4 MiB, two against one", Spread.of(commit, "x"), Spread.of(copy, "x")
        ),
        targets=(Target(">=", 1.6),),
        note=f"{one:,.0f} commits/s with one, {two:,.0f} with two; bursts of {seconds} s",
    )
