"""What tests of several processes share: children that do what they are told, programs of their own, and looks at
what is left of a store.

    test --tell(function, *arguments)--> pipe --> Worker's process: function(*arguments) --> pipe --hear()--> test

A worker does one thing at a time and answers when it has done it, so that a test decides what happens in which order.
"""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import psutil

from helios_shm import lifecycle
from helios_shm.store import StorePaths
from tests.programs import untraced

# Nothing here takes this long, unless it hangs.
SECONDS_MAX = 60.0
_POLL_SECONDS = 0.005


def _serve(pipe: Connection, given: tuple[Any, ...]) -> None:
    """The life of a worker's process. ``given`` is what it inherited or was sent at its start."""
    with pipe:
        while True:
            order = pipe.recv()
            if order is None:
                return
            function, arguments = order
            try:
                pipe.send((True, function(*given, *arguments)))
            except Exception as error:
                pipe.send((False, error))


class Worker:
    """A child process; ``given`` are its functions' first arguments: inherited under fork, pickled otherwise."""

    def __init__(self, context: BaseContext, *given: Any) -> None:
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, given))  # type: ignore[attr-defined]
        self.process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    def tell(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Begin something; ``hear`` has its answer."""
        self._pipe.send((function, arguments))

    def hear(self, seconds: float = SECONDS_MAX) -> Any:
        """The answer to what it was last told, or the exception that it got."""
        assert self._pipe.poll(seconds), f"worker {self.pid} does not answer"
        good, answer = self._pipe.recv()
        if not good:
            raise answer
        return answer

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self.tell(function, *arguments)
        return self.hear()

    def end(self) -> None:
        """Let it leave as a process does whose work is done."""
        self._pipe.send(None)
        self.process.join(SECONDS_MAX)
        self._pipe.close()
        assert self.process.exitcode == 0, f"worker {self.pid} ended with {self.process.exitcode}"

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.process.join(SECONDS_MAX)
        self._pipe.close()


@contextmanager
def workers(count: int, context: BaseContext, *given: Any) -> Iterator[list[Worker]]:
    """So many workers, gone afterwards, whatever happens."""
    made: list[Worker] = []
    try:
        for _ in range(count):
            made.append(Worker(context, *given))
        yield made
        for worker in made:
            if worker.process.is_alive():
                worker.end()
    finally:
        for worker in made:
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


# ---- programs of their own ----


def start_program(text: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Run a Python program that nobody is related to; its standard input and output are pipes of lines."""
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=untraced(),
        **options,
    )


def line_of(program: subprocess.Popen[str]) -> str:
    """The next line that it prints."""
    assert program.stdout is not None
    line = program.stdout.readline()
    if not line and program.stderr is not None:
        raise AssertionError(f"the program ended with {program.wait()}: {program.stderr.read()}")
    return line.strip()


def finish(program: subprocess.Popen[str], status: int = 0) -> str:
    """Wait for its end; returns what it printed."""
    out, err = program.communicate(timeout=SECONDS_MAX)
    assert program.returncode == status, f"ended with {program.returncode}: {err}"
    return str(out)


# ---- looking, until something is so ----


def until(what: str, is_so: Callable[[], Any]) -> Any:
    """Look until it is so; fail, naming it, if it does not come about."""
    end = time.monotonic() + SECONDS_MAX
    while not (found := is_so()):
        assert time.monotonic() < end, f"{what}: has not come about"
        time.sleep(_POLL_SECONDS)
    return found


def is_dead(pid: int) -> bool:
    """Gone, or a zombie: who was orphaned is init's to reap, and not every container's init is quick about it."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def stop(pid: int) -> None:
    """SIGSTOP a process, and return when it stands still."""
    os.kill(pid, signal.SIGSTOP)
    until(f"process {pid} is stopped", lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)


def resume(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)


def coordinators(path: Path) -> list[int]:
    """The processes that are a coordinator of the store at ``path``."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            if command[-2:] == ["helios_shm.coordinator", str(path)]:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def coordinator(path: Path) -> int:
    """The store's one coordinator, when it is there."""
    return int(until(f"a coordinator of {path} runs", lambda: coordinators(path))[0])


def is_uncoordinated(path: Path) -> bool:
    """No coordinator runs, and none is still dying: a process that is being torn down has lost its command line before
    it gives up its locks."""
    return not coordinators(path) and not lifecycle.coordinator_runs(StorePaths(path))


def segments(path: Path) -> list[Path]:
    """The segments of a store: of it, and of its copies."""
    store = uuid.UUID(json.loads((path / "helios.json").read_text())["helios_shm"]["uuid"])
    return sorted(Path("/dev/shm").glob(f"helios-{store.hex}-*"))


def until_nothing_runs(path: Path) -> None:
    """Wait until a store's coordinator has left, and its segment with it."""
    until(
        f"coordinator and segment of {path} are gone", lambda: is_uncoordinated(path) and not segments(path)
    )
