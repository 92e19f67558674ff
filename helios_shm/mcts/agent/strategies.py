"""Searches for the best state of a task: best of n, beam, tournament, tree.

All take a task and the state to begin with, work on a pool of processes of their own, and give a ``Found``. What they
find does not depend on the number of workers or on who is killed meanwhile, for a task whose judge does not.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace

from ... import Snapshot
from .edit import Edit
from .judge import Spent
from .pool import Pool, StartMethod
from .scratch import remove_abandoned
from .task import Task


@dataclass(frozen=True, slots=True)
class Found:
    """What a search has found, and what that took.

    winner: the state of the best score; of several, the one that was proposed first. The state to begin with, if
        nothing is better.
    edits: what leads there.
    judged: how many different states have a score, that to begin with included.
    commands: how many commands were run for them; the others were known from elsewhere.
    dropped: proposals that did not fit their state, or were the death of several workers.
    deaths: of workers.
    seconds: from begin to end; the others are sums over all workers: in commands, putting states into directories, and
        in the store (edits, commits, what is remembered).
    """

    winner: Snapshot
    score: float
    edits: tuple[Edit, ...]
    solved: bool
    judged: int
    commands: int
    dropped: int
    deaths: int
    seconds: float
    command_seconds: float
    materialize_seconds: float
    store_seconds: float


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A judged state, on its way between processes. ``spent``: for it, by the worker."""

    state: Snapshot
    score: float
    edits: tuple[Edit, ...]
    spent: Spent
    proposals: tuple[Edit, ...] = ()


class _Search:
    """One search: a pool, and what it has found so far."""

    def __init__(self, task: Task, start: Snapshot, workers: int, start_method: StartMethod | None) -> None:
        if not isinstance(task, Task):
            raise TypeError(f"what is searched for is a Task, not {type(task).__name__}")
        self.task, self.began = task, time.perf_counter()
        self.pool = Pool(task, workers, start_method)
        self.spent, self.dropped = Spent(), 0
        self.seen: set[Snapshot] = set()
        self.start = start
        self.best: _Candidate | None = None

    def __enter__(self) -> _Search:
        return self

    def __exit__(self, *exception: object) -> None:
        self.pool.close()
        remove_abandoned(self.task.judge.root)

    @property
    def solved(self) -> bool:
        return self.best is not None and self.best.score >= self.task.solved

    def expanded(self, states: Iterable[_Candidate]) -> list[_Candidate]:
        """With their proposals, in order."""
        jobs = [(_expand, each.state, each.edits) for each in states]
        done = sorted(self.pool.run(jobs), key=lambda job: job.index)
        found = [job.result for job in done if job.result is not None]
        for each in found:
            self.note(each)
        return found

    def root(self) -> _Candidate:
        """The state to begin with, with its proposals. RuntimeError if whoever judges it dies."""
        found = self.expanded([_Candidate(self.start, 0.0, (), Spent())])
        if not found:
            raise RuntimeError(f"each of several workers has died of judging the first state, {self.start!r}")
        return found[0]

    def attempted(
        self, tries: Iterable[tuple[_Candidate, Edit]], *, to_the_end: bool = False
    ) -> list[_Candidate]:
        """The different new states that come of edits, in the order of these. When one solves the task, those behind
        it are left out, unless all are wanted."""
        done: dict[int, _Candidate] = {}
        run = self.pool.run((_attempt, each.state, each.edits, edit) for each, edit in tries)
        for job in run:
            if job.result is None or job.result.edits == ():
                self.dropped += 1
                continue
            done[job.index] = job.result
            if job.result.score >= self.task.solved and not to_the_end:
                run.stop_above(job.index)
        fresh = []
        for index in sorted(done):
            if not (run.stopped_above is not None and index > run.stopped_above) and self.note(done[index]):
                fresh.append(done[index])
        return fresh

    def note(self, found: _Candidate) -> bool:
        """Take a judged state into account. False: it was met before."""
        self.spend(found.spent)
        if found.state in self.seen:
            return False
        self.seen.add(found.state)
        if self.best is None or found.score > self.best.score:
            self.best = found
        return True

    def spend(self, spent: Spent) -> None:
        self.spent = Spent(*map(sum, zip(astuple(self.spent), astuple(spent), strict=True)))

    def found(self) -> Found:
        assert self.best is not None
        spent = self.spent
        return Found(
            self.best.state, self.best.score, self.best.edits, self.solved, len(self.seen), spent.judged, self.dropped,
            self.pool.deaths, time.perf_counter() - self.began, spent.command_s, spent.materialize_s, spent.store_s,
        )  # fmt: skip


# --- in the workers ---


def _expand(task: Task, state: Snapshot, edits: tuple[Edit, ...]) -> _Candidate:
    """A state with its score and proposals."""
    before = replace(task.judge.spent)
    verdict = task.judge(state)
    proposals = () if verdict.score >= task.solved else tuple(task.propose(state, verdict))
    return _Candidate(state, verdict.score, edits, _since(task, before), proposals)


def _attempt(task: Task, state: Snapshot, edits: tuple[Edit, ...], edit: Edit) -> _Candidate:
    """The state after one edit more, with its score; without any edits, if that does not fit."""
    before, began = replace(task.judge.spent), time.perf_counter()
    try:
        made = task.edited(state, edit)
    except (ValueError, KeyError):
        return _Candidate(state, 0.0, (), Spent())
    edited_s = time.perf_counter() - began
    verdict = task.judge(made)
    spent = _since(task, before)
    return _Candidate(made, verdict.score, (*edits, edit), replace(spent, store_s=spent.store_s + edited_s))


def _since(task: Task, before: Spent) -> Spent:
    now = astuple(task.judge.spent)
    return Spent(*(new - old for new, old in zip(now, astuple(before), strict=True)))


# --- the strategies ---


def best_of_n(
    task: Task,
    start: Snapshot,
    n: int | None = None,
    *,
    workers: int = 2,
    start_method: StartMethod | None = None,
    to_the_end: bool = False,
) -> Found:
    """Try the first ``n`` proposals of a state (None: all), each by itself, and take the best.

    to_the_end: go on when one has solved the task.
    Raises what the judge and the task's functions raise; whatever was found is lost then.
    """
    with _Search(task, start, workers, start_method) as search:
        root = search.root()
        search.attempted([(root, edit) for edit in root.proposals[:n]], to_the_end=to_the_end)
        return search.found()
