"""The worker processes of a search, as their driver sees them: starting, orders, reports, deaths.

start        fork, spawn or forkserver; the table goes along by its file descriptor
give         an order to a worker that is idle
wait         for reports and deaths, whichever comes first
a death      the kernel's word for it: the process's sentinel. What it was in the middle of is mended in the table
             (hs_search_repair), and another worker takes its place
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from ..errors import StoreError
from .metrics import Tally
from .options import StartMethod
from .table import Table
from .worker import Assignment, Order, Report, run_worker

A = TypeVar("A")

# A worker that dies again and again, and gets nowhere between, has a reason that the next one has too.
_DEATHS_MAX = 20
_END_SECONDS = 5.0


@dataclass(slots=True)
class Worker:
    """One worker: its process, the driver's end of its pipe, and what it is doing."""

    index: int
    owner: int
    table: Table
    process: BaseProcess
    connection: Connection
    busy: bool = False


@dataclass(frozen=True, slots=True)
class Death:
    """A worker died, and another one, idle, stands in its place. ``was_busy``: it was at work. How its simulations
    ended: ``finished``: they count; ``undone``: they never were."""

    worker: Worker
    was_busy: bool
    finished: int
    undone: int


class Pool(Generic[A]):
    """Workers of one search, worker i on ``tables[i]``. ``assign(index, incarnation)`` says what each is given."""

    def __init__(
        self,
        tables: Sequence[Table],
        assign: Callable[[int, int], Assignment[A]],
        start_method: StartMethod | None,
    ) -> None:
        self._context: Any = multiprocessing.get_context(start_method)
        self._assign, self._tables = assign, tables
        self._incarnations = 0
        self._deaths: dict[
            int, tuple[int, int]
        ] = {}  # of each worker: how many since it got anywhere, and where
        self.workers: list[Worker] = []
        try:
            for index in range(len(tables)):
                self.workers.append(self._started(index))
        except BaseException:
            self.close()
            raise

    def _started(self, index: int) -> Worker:
        self._incarnations += 1
        assignment, table = self._assign(index, self._incarnations), self._tables[index]
        ours, theirs = self._context.Pipe()
        # Through a fork a worker inherits the driver's ends of all pipes; while it has them, they do not end.
        forked = self._context.get_start_method() == "fork"
        others = [*(worker.connection for worker in self.workers), ours] if forked else []
        process = self._context.Process(
            target=run_worker,
            args=(assignment, table, theirs, others),
            name=f"helios-search-{index}",
            daemon=True,
        )
        try:
            process.start()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            error.add_note(
                "the environment and its actions travel to the workers: they must pickle, or be started by fork"
            )
            raise
        finally:
            theirs.close()
        return Worker(index, assignment.owner, table, process, ours)

    # --- orders and reports ---

    def give(self, worker: Worker, order: Order) -> None:
        """Have an idle worker do something."""
        worker.busy = True
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its death is told by wait()
            worker.connection.send(order)

    @property
    def busy(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.busy]

    def wait(
        self, timeout: float | None, others: Sequence[Any] = ()
    ) -> Iterator[tuple[Worker, Report | Death]]:
        """Reports and deaths that come within ``timeout`` seconds, as soon as there are any, or as one of ``others`` is
        ready."""
        by_connection = {worker.connection: worker for worker in self.workers}
        by_sentinel = {worker.process.sentinel: worker for worker in self.workers}
        ready = wait([*by_connection, *by_sentinel, *others], timeout)
        dead = {worker.index for sentinel, worker in by_sentinel.items() if sentinel in ready}
        for connection, worker in by_connection.items():
            if connection in ready:
                report = self._received(worker)
                if report is None:
                    dead.add(worker.index)
                else:
                    yield worker, report
        for index in sorted(dead):
            yield self._buried(index)

    def _received(self, worker: Worker) -> Report | None:
        """What a worker reports; None if it died instead."""
        try:
            report = worker.connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            return None
        worker.busy = False
        return report if isinstance(report, Report) else None

    def _buried(self, index: int) -> tuple[Worker, Death]:
        """Mend what a dead worker left, and start another."""
        worker = self.workers[index]
        worker.process.kill()  # its pipe may have ended before it
        worker.process.join()
        worker.connection.close()
        finished, undone = worker.table.repair(worker.owner)
        deaths, got_to = self._deaths.get(index, (0, 0))
        tally = Tally.seen(worker.table.tally(worker.owner))
        now = tally.total_ns + tally.evaluate_ns  # rollouts for others belong to no simulation of its own
        deaths = deaths + 1 if now == got_to else 1
        self._deaths[index] = deaths, now
        was_busy, code = worker.busy, worker.process.exitcode
        assert code is not None, "it was waited for"
        fresh = self.workers[index] = self._started(index)
        if deaths > _DEATHS_MAX or (now == got_to and code > 0):
            del self._deaths[index]
            raise StoreError(_given_up(deaths, code))
        return fresh, Death(fresh, was_busy, finished, undone)

    # --- the end ---

    def close(self) -> None:
        """End all workers; whoever does not listen is killed. Idempotent."""
        for worker in self.workers:
            worker.table.stop(True)
            with contextlib.suppress(OSError):
                worker.connection.send(None)
                worker.connection.close()
        for worker in self.workers:
            worker.process.join(_END_SECONDS if not worker.busy else 0.2)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
                worker.table.repair(worker.owner)
            worker.process.close()
        self.workers = []


def _given_up(deaths: int, code: int) -> str:
    """Why no worker is started in the place of one that died. An exit code above 0 is Python's, not a signal's."""
    if code > 0:
        return (
            f"a worker ended with exit code {code} before it had done anything; what it printed says why. Where "
            "workers are started by spawn or forkserver, they import the main module: it must start its search below "
            "if __name__ == '__main__'"
        )
    return f"{deaths} workers died, one after the other, in their first simulation; the last one's exit code was {code}"
