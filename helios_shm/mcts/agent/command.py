"""Commands: a program that is run in a directory, with limits, and what came of it.

``Command.run`` hands the command to a keeper (keeper.py), a small process beside this one that runs it and sees that
nothing of it is left: neither when it has ended, nor when it is cut short by a limit or by Ctrl-C, nor when this
process is killed. A keeper is started when one is needed and none is idle, and serves this process until it ends.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, Literal

from . import keeper

Limit = Literal["time", "memory", "processes", "output"]

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30
_LEAVE_S = 30.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a command.

    returncode: of the program; negative: the signal that ended it.
    limit: which of the command's limits ended it (``time``, ``memory``, ``processes``, ``output``), or None.
    output: what it printed on standard output and error, in the order in which it came; of much, the first and last.
    output_size: how many bytes it printed.
    seconds, cpu_seconds: how long it took; processor time of all its processes that were waited for.
    peak_bytes: the most memory that its processes were seen to have together.
    """

    returncode: int
    limit: Limit | None
    output: bytes
    output_size: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int

    @property
    def ok(self) -> bool:
        """Did it end by itself, with 0?"""
        return self.returncode == 0 and self.limit is None

    @property
    def timed_out(self) -> bool:
        return self.limit == "time"

    @property
    def out_of_memory(self) -> bool:
        return self.limit == "memory"

    @property
    def text(self) -> str:
        """The output as text, with marks for what is no UTF-8."""
        return self.output.decode("utf-8", "replace")

    def to_record(self) -> dict[str, Any]:
        """As what JSON can hold."""
        record = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**record, "output": self.output.decode("latin-1")}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Outcome:
        """The outcome that ``to_record`` made this of."""
        return cls(**{**record, "output": record["output"].encode("latin-1")})


@dataclass(frozen=True)
class Command:
    """A program with its arguments, and the limits that it runs under. Pickles; two that are equal do the same.

    argv: the program, looked up in PATH if it has no slash, and its arguments.
    timeout_s: seconds until it is killed.
    memory_bytes: how much its processes together may have resident (shared pages counted once). It is looked at every
        20 ms; a command that has more is killed. None: no limit.
    processes_max: how many there may be at a time, looked at likewise.
    env: variables to set, or with None to remove; all others are those of this process.
    cwd: where to run, below the directory that it is run in.
    cpu_s: seconds of processor time for each process, kept by the kernel. Default: ``timeout_s`` on all cores.
    address_space_bytes: what each process may map (RLIMIT_AS): the kernel refuses more, and the program sees that. No
        limit by default, since many programs map much and touch little.
    file_bytes: how long a file may become that it writes (RLIMIT_FSIZE).
    output_bytes: how much of its output is kept: the first half and the last.
    flood_bytes: how much it may print before it is killed.

    Raises TypeError or ValueError for what no command can have.
    """

    argv: Sequence[str]
    _: KW_ONLY
    timeout_s: float = 60.0
    memory_bytes: int | None = 2 * _GIB
    processes_max: int | None = 256
    env: Mapping[str, str | None] = field(default_factory=dict, hash=False)
    cwd: str = "."
    cpu_s: int | None = None
    address_space_bytes: int | None = None
    file_bytes: int | None = _GIB
    output_bytes: int = 64 * _KIB
    flood_bytes: int | None = 64 * _MIB

    def __post_init__(self) -> None:
        if isinstance(self.argv, str | bytes) or not all(isinstance(word, str) for word in self.argv):
            raise TypeError(f"argv is a sequence of str, a program and its arguments; not {self.argv!r:.80}")
        object.__setattr__(self, "argv", tuple(self.argv))
        object.__setattr__(self, "env", dict(self.env))
        if not self.argv or not self.argv[0]:
            raise ValueError("argv is empty: it begins with the program to run")
        if not 0 < self.timeout_s < math.inf:
            raise ValueError(f"timeout_s is a number of seconds above 0, not {self.timeout_s}")
        for name in (
            "memory_bytes", "processes_max", "cpu_s", "address_space_bytes", "file_bytes", "output_bytes", "flood_bytes"
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value > 0):
                raise ValueError(f"{name} is a whole number above 0, not {value!r}")
        if os.path.isabs(self.cwd) or ".." in Path(self.cwd).parts:
            raise ValueError(
                f"cwd lies below the directory that the command is run in; {self.cwd!r} does not"
            )

    @property
    def key(self) -> str:
        """A name for what this command does: equal for equal commands, in every process. 32 hex digits."""
        record = {each.name: getattr(self, each.name) for each in fields(self)}
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:32]

    def run(self, directory: str | os.PathLike[str], *, env: Mapping[str, str] | None = None) -> Outcome:
        """Run it in a directory, and wait until nothing of it is left.

        env: variables more, that are no part of what the command is (where to put temporary files).

        Thread-safe. Ctrl-C ends the command and is raised. Raises FileNotFoundError or another OSError if the program
        cannot be started, ChildProcessError if somebody killed the keeper. Cost: about 2 ms more than the program
        takes; for the first one in a process, the start of a Python interpreter.
        """
        request = self._request(directory, env)
        taken = _take()
        try:
            outcome = taken.run(request)
        except OSError as error:
            if taken.alive:  # the program could not be started
                _give_back(taken)
                raise
            taken.close()
            raise ChildProcessError(f"the keeper of command {self.argv[0]!r} has died: {error}") from error
        except BaseException:
            taken.close()
            raise
        _give_back(taken)
        return outcome

    def _request(self, directory: str | os.PathLike[str], env: Mapping[str, str] | None) -> dict[str, Any]:
        variables: dict[str, str | None] = {**os.environ, **(env or {}), **self.env}
        cores = os.cpu_count() or 1
        return {
            **{each.name: getattr(self, each.name) for each in fields(self)},
            "cwd": os.path.join(os.path.abspath(directory), self.cwd),
            "env": {name: value for name, value in variables.items() if value is not None},
            "cpu_s": self.cpu_s or math.ceil(self.timeout_s * cores) + 1,
        }


# --- keepers ---


class _Keeper:
    """The worker's end of one."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair()
        self.alive = True
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", keeper.__file__, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True,
            )  # fmt: skip

    def run(self, request: dict[str, Any]) -> Outcome:
        try:
            keeper.send(self._channel, json.dumps(request).encode())
            answer, output = keeper.receive(self._channel), keeper.receive(self._channel)
        except OSError:
            self.alive = False
            raise
        if answer is None or output is None:
            self.alive = False
            raise ConnectionResetError("it has closed its socket")
        record = json.loads(answer)
        if "errno" in record:
            raise OSError(record["errno"], os.strerror(record["errno"]), record["filename"])
        return Outcome(output=output, **record)

    def close(self) -> None:
        """Have it end what it runs, and wait for it."""
        self._channel.close()
        try:
            self._process.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def forget(self) -> None:
        """In a forked child: it is the parent's."""
        self._channel.close()
        self._process.returncode = 0


_idle: list[_Keeper] = []
_lock = threading.Lock()
_pid = 0  # of the process that has been told to close its keepers when it ends


def _take() -> _Keeper:
    global _pid
    with _lock:
        if _idle:
            return _idle.pop()
        if (
            _pid != os.getpid()
        ):  # at the end of multiprocessing's children as well, which leave without atexit's
            Finalize(None, close_keepers, exitpriority=0)
            _pid = os.getpid()
    return _Keeper()


def _give_back(taken: _Keeper) -> None:
    with _lock:
        _idle.append(taken)


def close_keepers() -> None:
    """End the keepers that this process has and does not use. Happens by itself when the interpreter ends; whoever
    leaves otherwise may call it."""
    with _lock:
        idle, _idle[:] = _idle[:], []
    for each in idle:
        each.close()


def _forget_keepers() -> None:
    global _lock
    _lock = threading.Lock()
    while _idle:
        _idle.pop().forget()


os.register_at_fork(after_in_child=_forget_keepers)
