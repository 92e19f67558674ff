"""A pool of processes that try candidates, and may be killed meanwhile.

    driver ---- pipe ---- worker ---- keeper ---- command
             one each      has a scratch of its own

A job is a function of a module with its arguments; the worker calls it with what all jobs of the pool share in front.
A worker who dies has his job given to another; a job that was the death of several is given up. Workers whose driver
dies leave at once, and their keepers end what was running. Ctrl-C is the driver's affair alone.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from ..options import StartMethod

T = TypeVar("T")
DEATHS_MAX = 3
_LEAVE_S = 30.0


@dataclass(slots=True)
class Job(Generic[T]):
    """A call, and what came of it. ``result`` None: its workers died, DEATHS_MAX times."""

    index: int
    call: Callable[..., T]
    arguments: tuple[Any, ...]
    deaths: int = 0
    result: T | None = None


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection
    job: Job[Any] | None = field(default=None)


class Pool:
    """Processes for jobs. A context manager; for one thread.

    shared: is given to every job, pickled once for each worker.
    workers: how many processes, 1 or more.
    start_method: of multiprocessing; default: that of this Python.
    """

    def __init__(self, shared: object, workers: int, start_method: StartMethod | None = None) -> None:
        if not isinstance(workers, int) or workers < 1:
            raise ValueError(f"a pool has 1 worker or more, not {workers!r}")
        self._context: BaseContext = multiprocessing.get_context(start_method)
        self._shared, self._wanted = shared, workers
        self._workers: list[_Worker] = []
        self.deaths = 0

    def run(self, jobs: Iterable[tuple[Callable[..., T], *tuple[Any, ...]]]) -> Run[T]:
        """Do jobs, each a function and its arguments; those that are done can be taken one by one, in any order."""
        return Run(self, jobs)

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(  # type: ignore[attr-defined]
            target=_work, args=(theirs, os.getpid(), self._shared), daemon=False
        )
        try:
            process.start()
        finally:
            theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def has_room(self) -> bool:
        """Is one without a job, or may one more be started?"""
        return len(self.busy()) < self._wanted

    def idle(self) -> _Worker:
        """One without a job, started if need be."""
        return next((each for each in self._workers if each.job is None), None) or self._start()

    def busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.job is not None]

    def drop(self, worker: _Worker) -> None:
        """Kill one, with all that it runs."""
        self._workers.remove(worker)
        worker.job = None
        worker.process.kill()
        worker.connection.close()
        worker.process.join()

    def close(self) -> None:
        """Kill those who work, and have the others leave; idempotent."""
        for worker in self.busy():
            self.drop(worker)
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.connection.send(None)  # others that were forked may have this end too: it does not end
        for worker in self._workers:
            worker.process.join(_LEAVE_S)
            worker.connection.close()
            worker.process.kill()
            worker.process.join()
        self._workers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Run(Generic[T]):
    """Jobs under way: an iterator over those that are done."""

    def __init__(self, pool: Pool, jobs: Iterable[tuple[Callable[..., T], *tuple[Any, ...]]]) -> None:
        self._pool = pool
        self._jobs = (Job(index, call, tuple(rest)) for index, (call, *rest) in enumerate(jobs))
        self._again: deque[Job[T]] = deque()
        self.stopped_above: int | None = None

    def stop_above(self, index: int) -> None:
        """Forget all jobs that come after one."""
        self.stopped_above = index if self.stopped_above is None else min(self.stopped_above, index)
        for worker in self._pool.busy():
            if worker.job is not None and worker.job.index > self.stopped_above:
                self._pool.drop(worker)

    def __iter__(self) -> Iterator[Job[T]]:
        try:
            while True:
                self._hand_out()
                busy = self._pool.busy()
                if not busy:
                    return
                ready = set(wait([each.connection for each in busy]))
                for worker in busy:
                    if worker.connection in ready and worker.job is not None:
                        yield from self._take(worker)
        finally:
            for worker in self._pool.busy():
                self._pool.drop(worker)

    def _next(self) -> Job[T] | None:
        job = self._again.popleft() if self._again else next(self._jobs, None)
        return (
            None
            if job is None or (self.stopped_above is not None and job.index > self.stopped_above)
            else job
        )

    def _hand_out(self) -> None:
        while self._pool.has_room() and (job := self._next()) is not None:
            worker = self._pool.idle()
            worker.job = job
            with contextlib.suppress(OSError):  # dead already: seen when its answer is waited for
                worker.connection.send((job.call, job.arguments))

    def _take(self, worker: _Worker) -> Iterator[Job[T]]:
        job = worker.job
        assert job is not None
        try:
            good, result = worker.connection.recv()
        except (EOFError, OSError):
            self._pool.deaths += 1
            self._pool.drop(worker)
            job.deaths += 1
            if job.deaths < DEATHS_MAX:
                self._again.append(job)
            else:
                yield job
            return
        worker.job = None
        if not good:
            raise result
        job.result = result
        yield job


# --- in the worker ---


def _work(connection: Connection, driver: int, shared: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with, args=(driver,), daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        while (job := connection.recv()) is not None:
            call, arguments = job
            connection.send_bytes(_called(call, shared, arguments))


def _called(call: Callable[..., object], shared: object, arguments: tuple[Any, ...]) -> memoryview:
    """What a call comes to, pickled: (True, its result) or (False, the exception)."""
    try:
        return ForkingPickler.dumps((True, call(shared, *arguments)))
    except Exception as error:
        error.add_note(f"in worker process {os.getpid()}")
        with contextlib.suppress(Exception):
            return ForkingPickler.dumps((False, error))
        return ForkingPickler.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))


def _leave_with(driver: int) -> None:
    """End this process as soon as another has ended."""
    with contextlib.suppress(ProcessLookupError):
        poll = select.poll()
        poll.register(os.pidfd_open(driver), select.POLLIN)
        poll.poll()
    os._exit(1)
