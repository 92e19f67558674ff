"""Searches for the best state of a task: best of n, beam, tournament, tree.

All take a task and the state to begin with, work on a pool of processes of their own, and give a ``Found``. What they
find does not depend on the number of workers or on who is killed meanwhile, for a task whose judge does not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from random import Random
from typing import Any, TypeAlias

from ... import ConflictError, Engine, Resolve, Snapshot
from ..metrics import Metrics
from ..options import StartMethod
from ..search import Search
from ..tree import TreeNode
from .edit import Edit
from .judge import Spent
from .pool import Pool
from .scratch import close_scratches_of_thread, remove_abandoned
from .task import EditEnvironment, Task


@dataclass(frozen=True, slots=True)
class Found:
    """What a search has found, and what that took.

    winner: the state of the best score; of several, the one that was proposed first. The state to begin with, if
        nothing is better.
    edits: what leads there.
    judged: how many different states have a score, that to begin with included.
    commands: how many commands were run for them to the end; what the others came to was known from elsewhere.
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
        left_out = run.stopped_above
        for index in [index for index in done if left_out is not None and index > left_out]:
            self.spend(done.pop(index).spent)
        return [done[index] for index in sorted(done) if self.note(done[index])]

    def matched(
        self, pairs: Sequence[tuple[_Candidate, _Candidate]], root: _Candidate, resolve: Resolve | None
    ) -> list[_Candidate]:
        """The winner of each pair: the better one; or both merged, if each is better than the root, and that is better
        still."""
        winners = [max(pair, key=lambda each: each.score) for pair in pairs]
        meet = [i for i, pair in enumerate(pairs) if min(each.score for each in pair) > root.score]
        jobs = [(_merged, self.start, *pairs[i], resolve) for i in meet]
        for job in sorted(self.pool.run(jobs), key=lambda job: job.index):
            if job.result is not None and job.result.edits:
                self.note(job.result)
                place = meet[job.index]
                winners[place] = max(winners[place], job.result, key=lambda each: each.score)
        return winners

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
    score, proposals = task.judge(state).score, tuple(task.proposals(state))
    return _Candidate(state, score, edits, _since(task, before), proposals)


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


def _merged(
    task: Task, start: Snapshot, one: _Candidate, other: _Candidate, resolve: Resolve | None
) -> _Candidate:
    """Both candidates' edits at once, with a score; without any edits, if they are in each other's way."""
    before, began = replace(task.judge.spent), time.perf_counter()
    try:
        made = one.state.merge(other.state, base=start, resolve=resolve)
    except ConflictError:
        return _Candidate(start, 0.0, (), Spent())
    merge_s = time.perf_counter() - began
    verdict = task.judge(made)
    spent = _since(task, before)
    edits = (*one.edits, *(edit for edit in other.edits if edit not in one.edits))
    return _Candidate(made, verdict.score, edits, replace(spent, store_s=spent.store_s + merge_s))


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


def beam(
    task: Task,
    start: Snapshot,
    *,
    width: int = 4,
    branching: int | None = None,
    workers: int = 2,
    start_method: StartMethod | None = None,
) -> Found:
    """Beam search: of all that comes of one more edit, the ``width`` best states are gone on from, until one solves the
    task, ``depth_max`` edits were made, or nothing new comes.

    branching: how many proposals of a state are tried; None: all.
    Raises what the judge and the task's functions raise. Source: Lowerre, The Harpy Speech Recognition System, 1976.
    """
    with _Search(task, start, workers, start_method) as search:
        frontier = [search.root()]
        for depth in range(1, task.depth_max + 1):
            tries = [(each, edit) for each in frontier for edit in each.proposals[:branching]]
            fresh = search.attempted(tries)
            if search.solved or not fresh or depth == task.depth_max:
                break
            frontier = search.expanded(sorted(fresh, key=lambda each: -each.score)[:width])
        return search.found()


def tournament(
    task: Task,
    start: Snapshot,
    n: int | None = None,
    *,
    resolve: Resolve | None = None,
    seed: int = 0,
    workers: int = 2,
    start_method: StartMethod | None = None,
) -> Found:
    """A knockout among the first ``n`` proposals of a state (None: all): those who are no worse than it are paired by
    lot, round by round, and the better one goes on; or, if that is better than either, both in one: what the two have
    changed, merged against the state to begin with. In the end the winner meets all others once more, as long as that
    makes it better. So repairs of several faults that were found apart come together.

    resolve: how changes of one file are merged; see ``Snapshot.merge``. Default: they are in each other's way;
        ``"text"`` merges lines.
    seed: of the lots.
    Raises what the judge and the task's functions raise.
    """
    lots = Random(seed)
    with _Search(task, start, workers, start_method) as search:
        root = search.root()
        tried = search.attempted([(root, edit) for edit in root.proposals[:n]])
        field = [each for each in tried if each.score >= root.score]
        while len(field) > 1 and not search.solved:
            lots.shuffle(field)
            pairs = list(zip(field[::2], field[1::2], strict=False))
            rest = field[2 * len(pairs) :]
            field = [*search.matched(pairs, root, resolve), *rest]
        champion = field[0] if field else root
        while not search.solved:
            duels = [(champion, each) for each in tried if each.edits[0] not in champion.edits]
            best = max([champion, *search.matched(duels, root, resolve)], key=lambda each: each.score)
            if best.score <= champion.score:
                break
            champion = best
        return search.found()


def tree(
    task: Task,
    start: Snapshot,
    num_simulations: int | None = None,
    seconds: float | None = None,
    *,
    workers: int = 2,
    **options: Any,
) -> Found:
    """Monte Carlo tree search over edits: ``helios_shm.mcts.Search`` on the task's ``EditEnvironment``, until a state
    solves it, or so many simulations or seconds are over.

    options: of ``Search``.
    Raises ValueError if neither bound is given, and what the judge and the task's functions raise.
    """
    if num_simulations is None and seconds is None:
        raise ValueError("say how long to search: num_simulations, seconds, or both")
    try:
        return _tree(task, start, num_simulations, seconds, workers, options)
    finally:
        close_scratches_of_thread()
        remove_abandoned(task.judge.root)


def _tree(
    task: Task,
    start: Snapshot,
    num_simulations: int | None,
    seconds: float | None,
    workers: int,
    options: dict[str, Any],
) -> Found:
    began, env, engine = time.perf_counter(), EditEnvironment(task), start.engine
    before, root = task.judge.heads(engine), env.root(start)
    if env.returns(root) is not None:
        return _found_in_tree(task, env, [(root, ())], before, began, None)
    with Search(env, root, workers=workers, **options) as search:
        left = math.inf if num_simulations is None else num_simulations
        paths: list[_Path] = [(root, ())]
        while left > 0 and (seconds is None or time.perf_counter() - began < seconds):
            part = min(left, _SLICE * workers)
            search.run(
                int(part), None if seconds is None else max(0.0, began + seconds - time.perf_counter())
            )
            left -= part
            paths = list(_paths(search.tree(max_nodes=_NODES_MAX), engine))
            if any(_score(task, env, state) >= task.solved for state, _ in paths):
                break
        return _found_in_tree(task, env, paths, before, began, search.metrics)


_Path: TypeAlias = tuple[Snapshot, tuple[Edit, ...]]
# Simulations of a worker between two looks whether the task is solved.
_SLICE = 4
_NODES_MAX = 100_000


def _paths(root: TreeNode[Edit], engine: Engine) -> Iterator[_Path]:
    """The states of a tree, each once, and the edits that lead there."""
    ahead: list[tuple[TreeNode[Edit], tuple[Edit, ...]]] = [(root, ())]
    for node, edits in ahead:
        if node.state is not None and node.repeats is None:
            yield engine.snapshot(node.state), edits
        for child in node.children:
            assert child.action is not None
            ahead.append((child, (*edits, child.action)))


def _score(task: Task, env: EditEnvironment, state: Snapshot) -> float:
    verdict = task.judge.knows(env.tree(state))
    return -math.inf if verdict is None else verdict.score


def _found_in_tree(
    task: Task,
    env: EditEnvironment,
    paths: Iterable[_Path],
    before: dict[str, Snapshot],
    began: float,
    metrics: Metrics | None,
) -> Found:
    """The best of the states that a tree search has met, given those nearest to the root first. What they took stands
    in what the judge remembers since then."""
    best: tuple[float, Snapshot, tuple[Edit, ...]] | None = None
    seen: set[Snapshot] = set()
    for state, edits in paths:
        source, score = env.tree(state), _score(task, env, state)
        if source not in seen and score > -math.inf:
            seen.add(source)
            best = (score, source, edits) if best is None or score > best[0] else best
    assert best is not None, "the state to begin with was judged"
    score, winner, edits = best
    judged = list(task.judge.remembered(winner.engine, before))
    return Found(
        winner, score, edits, score >= task.solved, len(seen), len(judged), 0,
        0 if metrics is None else metrics.workers_lost, time.perf_counter() - began,
        math.fsum(each.outcome.seconds for each in judged), math.fsum(each.materialize_s for each in judged),
        0.0 if metrics is None else metrics.store_ns / 1e9,
    )  # fmt: skip
