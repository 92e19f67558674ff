"""Runs the searches of many problems over one pool of worker processes.

Several searches are in flight at once, so that the workers are busy while a round of one of them is being
applied and selected. Searches share nothing but the store: what one finds does not depend on the others.

Invariants: the pool is gone when `run` returns or raises; it raises `Stopped` within one task after
`StopRequest.ask`.

Used by the command line and by tests. One thread; workers are forked before any other thread is started here.
"""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from helios_shm import Engine

from .problems import Problem
from .search import Search
from .worker import Leaf, expand

# Expansions a task: large enough to hide the cost of passing it on, small enough to end soon when asked to
# stop.
_TASK_SIZE = 8
_STOP_CHECK_S = 0.1


class Stopped(Exception):
    """The run was asked to stop."""


class StopRequest:
    """Set by a signal, looked at between rounds: no exception ever cuts through the pool or the store.

    The first signal asks. One that comes while that is being done kills the workers, in case one of them
    hangs.
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


@dataclass(slots=True)
class _Flight:
    """A search and the tasks of its round that workers have."""

    search: Search
    tasks: list[Future[list[Leaf]]]


def run(
    engine: Engine,
    problems: Sequence[Problem],
    *,
    workers: int,
    simulations_max: int,
    seed: int,
    stop: StopRequest,
    progress: Callable[[Sequence[Search]], None],
) -> list[Search]:
    """Search all `problems`, each with at most `simulations_max` expansions.

    `progress` is called after each round with the searches begun so far. Returns the finished searches in the
    order of `problems`. Raises `Stopped` if `stop` was asked.
    """
    begun: list[Search] = []
    flights: list[_Flight] = []
    waiting = iter(problems)
    with _worker_pool(workers) as pool:
        while True:
            stop.check()
            # One more than there are workers: that one is being selected while the others are worked on.
            while len(flights) <= workers and (problem := next(waiting, None)) is not None:
                search = Search(engine, problem, simulations_max=simulations_max, seed=seed)
                begun.append(search)
                if not search.finished:
                    flights.append(_Flight(search, _send_round(pool, search)))
            if not flights:
                return begun
            for flight in _landed(flights):
                flight.search.apply([leaf for task in flight.tasks for leaf in task.result()])
                if flight.search.finished:
                    flights.remove(flight)
                else:
                    flight.tasks = _send_round(pool, flight.search)
            progress(begun)


def _send_round(pool: ProcessPoolExecutor, search: Search) -> list[Future[list[Leaf]]]:
    expansions = search.select()
    return [
        pool.submit(expand, expansions[start : start + _TASK_SIZE])
        for start in range(0, len(expansions), _TASK_SIZE)
    ]


def _landed(flights: Sequence[_Flight]) -> list[_Flight]:
    """The flights all of whose tasks are done. Waits a moment for the next task; may be none."""
    under_way = [task for flight in flights for task in flight.tasks if not task.done()]
    wait(under_way, timeout=_STOP_CHECK_S, return_when=FIRST_COMPLETED)
    return [flight for flight in flights if all(task.done() for task in flight.tasks)]


@contextmanager
def _worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool that is gone, with nothing left running, however the block is left."""
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("fork"), initializer=_leave_signals_to_parent
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _leave_signals_to_parent() -> None:
    """A Ctrl-C goes to the whole process group; only the parent answers it, and it ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
