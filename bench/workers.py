"""Processes that answer: a worker is set up once, then does one job for each command.

    parent                        child (spawned: it shares nothing with the parent)
    Worker(setup, *arguments) ->  job = setup(*arguments)
    ask(command)              ->  job(command)
    answer()                  <-  its result

Used by the benchmarks that need a process which did not write what it reads.
"""

import multiprocessing
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

Job: TypeAlias = Callable[[Any], Any]
DEADLINE_S = 120.0


def serve(connection: "Connection[Any, Any]", setup: Callable[..., Job], arguments: tuple[Any, ...]) -> None:
    """The child's main loop; None ends it."""
    job = setup(*arguments)
    connection.send("ready")
    while (command := connection.recv()) is not None:
        connection.send(job(command))


class Worker(AbstractContextManager["Worker"]):
    """One spawned process and the pipe to it."""

    def __init__(self, setup: Callable[..., Job], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, setup, arguments))
        self.process.start()
        other.close()
        self.answer()

    def ask(self, command: Any) -> None:
        self.connection.send(command)

    def answer(self) -> Any:
        """The result of the oldest command not yet answered; TimeoutError if none comes."""
        if not self.connection.poll(DEADLINE_S):
            raise TimeoutError(f"no answer from process {self.process.pid} within {DEADLINE_S} s")
        return self.connection.recv()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self.process.is_alive():
            self.connection.send(None)
            self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.connection.close()


def until_asleep(pid: int) -> None:
    """Returns when the process has blocked in the kernel and stayed so for 2 ms."""
    stat = Path(f"/proc/{pid}/stat")
    deadline = time.monotonic() + DEADLINE_S
    quiet = 0
    while quiet < 4:
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} does not block")
        time.sleep(0.0005)
        quiet = quiet + 1 if stat.read_text().rpartition(") ")[2].startswith("S") else 0
