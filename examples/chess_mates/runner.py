"""Searches one problem after the other, each with several processes on one shared tree, until its mate is proven.

A search runs in slices, so that a request to stop is seen between them: no exception ever cuts through the search or
the store. When its simulations have doubled, its tree is looked at for a proof.

Invariants: no worker is left when `run` returns or raises; it raises `Stopped` within one slice after
`StopRequest.ask`. One worker and the same seed: the same searches.

Used by the command line and by tests. One thread; workers are forked.
"""

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType

import chess

from helios_shm import Engine
from helios_shm.mcts import Metrics, Search

from .mate import Mate
from .problems import Problem
from .proof import proven_moves

_SLICE_S = 0.25
_FIRST_LOOK = 64  # simulations
# More than any of the set needs; of a larger tree the least visited part would not be looked at.
_NODES_MAX = 200_000


class Stopped(Exception):
    """The run was asked to stop."""


class StopRequest:
    """Set by a signal, looked at between slices.

    The first signal asks. One that comes while that is being done kills the workers, in case one of them hangs; the
    search puts others in their places, finishes its slice, and sees the request.
    """

    def __init__(self) -> None:
        self.signum: int | None = None

    def ask(self, signum: int, frame: FrameType | None = None) -> None:
        if self.signum is not None:
            for process in multiprocessing.active_children():
                process.kill()
        self.signum = signum

    def check(self) -> None:
        if self.signum is not None:
            raise Stopped


@dataclass(frozen=True, slots=True)
class Solution:
    """What the search for a problem's mate has come to. `move`: the proven one, else the most visited."""

    problem: Problem
    move: chess.Move
    proven: bool
    simulations: int
    metrics: Metrics

    @property
    def solved(self) -> bool:
        """Whether the move is one of the problem's keys."""
        return self.move.uci() in self.problem.keys


# Called after each slice: what is finished, the problem that is being searched, and its simulations so far.
Progress = Callable[[Sequence[Solution], Problem | None, int], None]


def run(
    engine: Engine,
    problems: Sequence[Problem],
    *,
    workers: int,
    simulations_max: int,
    seed: int,
    stop: StopRequest,
    progress: Progress,
) -> list[Solution]:
    """Search all `problems`, each with at most `simulations_max` simulations. Raises `Stopped` if `stop` was asked."""
    finished: list[Solution] = []
    for problem in problems:

        def tell(simulations: int, problem: Problem = problem) -> None:
            progress(finished, problem, simulations)

        finished.append(_solve(engine, problem, workers, simulations_max, seed, stop, tell))
        progress(finished, None, 0)
    return finished


def _solve(
    engine: Engine,
    problem: Problem,
    workers: int,
    simulations_max: int,
    seed: int,
    stop: StopRequest,
    tell: Callable[[int], None],
) -> Solution:
    env = Mate()
    done, next_look = 0, min(_FIRST_LOOK, simulations_max)
    with Search(
        env,
        env.problem_root(engine, problem),
        workers=workers,
        parallel="tree",
        seed=seed,
        start_method="fork",
    ) as search:
        while True:
            stop.check()
            result = search.run(next_look - done, _SLICE_S)
            done += result.num_simulations
            tell(done)
            if done < next_look:
                continue
            proven = proven_moves(search.tree(max_nodes=_NODES_MAX))
            if proven or done >= simulations_max:
                move = max(proven, key=lambda move: result.visit_counts[move], default=result.action)
                return Solution(problem, move, bool(proven), done, search.metrics)
            next_look = min(2 * done, simulations_max)
