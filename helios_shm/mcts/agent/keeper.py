"""A process that runs commands for one worker, one at a time, and leaves nothing of them behind.

    worker ---- socket ---- keeper ---- command ---- its children ---- ...

    a request comes     start the command in a session of its own, its output into a pipe
    meanwhile           read the pipe, so that nobody waits at it; look at the clock, and every 20 ms at the memory and
                        number of all its processes
    it has ended        or a limit was passed, or the worker has gone: stop and kill everything that descends from the
                        keeper, until there is nothing; then answer

It works without privileges and control groups. The keeper is a *subreaper*: whatever loses its parent becomes its
child, so "no child is left" says that nothing is left, in whichever sessions and groups the command's processes were.
It holds pidfds of the worker and sees its end at once, kill -9 included. If the keeper itself is killed, the kernel
kills the command (PR_SET_PDEATHSIG), but not what the command had started.

Run as a file, with the standard library alone: ``python -I keeper.py SOCKET_FD WORKER_PID``.

Messages, both ways: a size (4 bytes, big endian), JSON; after an answer's, likewise, the output.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_SIZE = struct.Struct(">I")
_READ = 1 << 16
_TICK_S = 0.02
# So many processes and threads may the user start elsewhere while a command runs, before the kernel refuses him more:
# the last resort against one that forks faster than it can be killed. It does not hold for root.
_OTHERS_MAX = 4096
_PAGE = resource.getpagesize()
_libc = ctypes.CDLL(None, use_errno=True)


# --- messages ---


def send(channel: socket.socket, data: bytes) -> None:
    channel.sendall(_SIZE.pack(len(data)) + data)


def receive(channel: socket.socket) -> bytes | None:
    """The next message; None: the other side has gone."""
    head = _receive(channel, _SIZE.size)
    return None if head is None else _receive(channel, _SIZE.unpack(head)[0])


def _receive(channel: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        try:
            part = channel.recv(min(size - len(data), _READ))
        except ConnectionError:
            return None
        if not part:
            return None
        data += part
    return bytes(data)


# --- what a command says ---


class Kept:
    """The beginning and the end of a stream, together at most ``limit`` bytes and a line that says what is between."""

    def __init__(self, limit: int) -> None:
        self._first, self._last = bytearray(), bytearray()
        self._first_max, self._last_max = limit // 2, limit - limit // 2
        self.size = 0

    def add(self, data: bytes) -> None:
        self.size += len(data)
        room = self._first_max - len(self._first)
        self._first += data[:room]
        self._last += data[room:]
        if len(self._last) > self._last_max + _READ:
            self._cut()

    def _cut(self) -> None:
        del self._last[: max(0, len(self._last) - self._last_max)]

    def value(self) -> bytes:
        self._cut()
        left_out = self.size - len(self._first) - len(self._last)
        mark = b"\n[... %d bytes ...]\n" % left_out if left_out else b""
        return bytes(self._first) + mark + bytes(self._last)


# --- processes ---


def children_of(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                yield from map(int, file.read().split())


def descendants(of: int) -> list[int]:
    """All processes below one, parents first. Of those that begin or end meanwhile, some."""
    found = list(children_of(of))
    seen = set(found)
    for pid in found:
        below = [child for child in children_of(pid) if child not in seen]
        seen.update(below)
        found += below
    return found


def end_descendants() -> Iterator[tuple[int, int, resource.struct_rusage]]:
    """Kill all that descends from this process; gives what each of its own children came to, in the end all.

    Parents are stopped before their children are looked for: who is stopped has no more. What lost its parent
    meanwhile is ours in the next round. There is a next one while anybody is left to be waited for."""
    while True:
        family = list(children_of(os.getpid()))
        for pid in family:
            _kill(pid, signal.SIGSTOP)
            family += children_of(pid)
        for pid in family:
            _kill(pid, signal.SIGKILL)
        try:
            yield os.wait4(-1, 0)
            while (more := os.wait4(-1, os.WNOHANG))[0]:
                yield more
        except ChildProcessError:
            return


def _kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _processes_of_user() -> int:
    me, count = os.getuid(), 0
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                count += entry.stat().st_uid == me
    return count


def _resident(family: list[int]) -> int:
    """Bytes of memory that these processes have; pages that several share count once for each."""
    total = 0
    for pid in family:
        with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{pid}/statm") as file:
            total += int(file.read().split()[1]) * _PAGE
    return total


def _proportional(family: list[int]) -> int:
    """The same with shared pages divided among those who share them. Costs a walk over the page tables."""
    total = 0
    for pid in family:
        with contextlib.suppress(OSError, StopIteration), open(f"/proc/{pid}/smaps_rollup") as file:
            total += next(int(line.split()[1]) for line in file if line.startswith("Pss:")) * 1024
    return total


def _set_limits(request: dict[str, Any], keeper: int) -> None:
    """In the command's process, before it becomes the command."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != keeper:
        os._exit(1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for which, name, grace in (
        (resource.RLIMIT_CPU, "cpu_s", 1),  # a signal that says why, and a second later the end
        (resource.RLIMIT_AS, "address_space_bytes", 0),
        (resource.RLIMIT_FSIZE, "file_bytes", 0),
        (resource.RLIMIT_NPROC, "user_processes", 0),
    ):
        if request[name] is not None:
            _, hard = resource.getrlimit(which)
            allowed = hard if hard != resource.RLIM_INFINITY else sys.maxsize
            resource.setrlimit(which, (min(request[name], allowed), min(request[name] + grace, allowed)))


class Running:
    """One command, from its start until nothing of it is left."""

    def __init__(self, request: dict[str, Any], channel: socket.socket, worker: int) -> None:
        self.request, self.channel, self.worker = request, channel, worker
        self.kept = Kept(request["output_bytes"])
        self.limit: str | None = None
        self.gone = False  # the worker
        self.returncode = 0
        self.cpu_s = 0.0
        self.peak_bytes = 0
        self.began = time.monotonic()
        self.deadline = self.began + request["timeout_s"]
        self.output, theirs = os.pipe()
        processes = request["processes_max"]
        request["user_processes"] = (
            None if processes is None else _processes_of_user() + processes + _OTHERS_MAX
        )
        try:
            # We are one thread, so what runs between fork and exec may be Python.
            self.process = subprocess.Popen(
                request["argv"], cwd=request["cwd"], env=request["env"], stdin=subprocess.DEVNULL, stdout=theirs,
                stderr=subprocess.STDOUT, start_new_session=True,
                preexec_fn=partial(_set_limits, request, os.getpid()),
            )  # fmt: skip
        except BaseException:
            os.close(self.output)
            raise
        finally:
            os.close(theirs)
        os.set_blocking(self.output, False)

    def wait(self) -> None:
        """Until it has ended by itself or must end."""
        ended = os.pidfd_open(self.process.pid)
        poll = select.poll()
        for fd in (ended, self.output, self.worker, self.channel.fileno()):
            poll.register(fd, select.POLLIN)
        next_look = self.began
        try:
            while self.limit is None:
                now = time.monotonic()
                if now >= self.deadline:
                    self.limit = "time"
                    break
                if now >= next_look:
                    self.look()
                    next_look = time.monotonic() + _TICK_S
                ready = {fd for fd, _ in poll.poll(1000 * max(0.0, min(next_look, self.deadline) - now))}
                if self.output in ready and not self.read():
                    poll.unregister(self.output)
                if self.worker in ready or self.channel.fileno() in ready:
                    self.gone = True
                    break
                if ended in ready:
                    break
        finally:
            os.close(ended)

    def look(self) -> None:
        """At what the command's processes use together."""
        memory, processes = self.request["memory_bytes"], self.request["processes_max"]
        family = descendants(os.getpid())
        used = _resident(family)
        if memory is not None and used > memory:
            used = _proportional(family)
            if used > memory:
                self.limit = "memory"
        self.peak_bytes = max(self.peak_bytes, used)
        if processes is not None and len(family) > processes:
            self.limit = "processes"

    def read(self) -> bool:
        """Take what is in the pipe. False: nothing will come any more."""
        try:
            data = os.read(self.output, _READ)
        except BlockingIOError:
            return True
        self.kept.add(data)
        flood = self.request["flood_bytes"]
        if flood is not None and self.kept.size > flood and self.limit is None:
            self.limit = "output"
        return bool(data)

    def end(self) -> None:
        """Kill everything that is left, and take the last of the output."""
        leader = self.process.pid
        with contextlib.suppress(OSError):
            os.killpg(leader, signal.SIGKILL)  # at once, so that nobody in it forks away
        for pid, status, usage in end_descendants():
            self.cpu_s += usage.ru_utime + usage.ru_stime
            if pid == leader:
                self.process.returncode = self.returncode = os.waitstatus_to_exitcode(status)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.output, _READ):
                self.kept.add(data)
        os.close(self.output)

    def answer(self) -> bytes:
        return json.dumps(
            {
                "returncode": self.returncode,
                "limit": self.limit or ("time" if self.returncode == -signal.SIGXCPU else None),
                "seconds": time.monotonic() - self.began,
                "cpu_seconds": self.cpu_s,
                "peak_bytes": self.peak_bytes,
                "output_size": self.kept.size,
            }
        ).encode()


# --- the process ---


def serve(channel: socket.socket, worker: int) -> None:
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    poll.register(worker, select.POLLIN)
    while True:
        if worker in {fd for fd, _ in poll.poll()}:
            return
        message = receive(channel)
        if message is None:
            return
        with contextlib.suppress(ConnectionError):
            if not _serve(json.loads(message), channel, worker):
                return


def _serve(request: dict[str, Any], channel: socket.socket, worker: int) -> bool:
    """One request. False: the worker has gone."""
    try:
        running = Running(request, channel, worker)
    except OSError as error:
        send(channel, json.dumps({"errno": error.errno, "filename": error.filename}).encode())
        send(channel, b"")
        return True
    try:
        running.wait()
    finally:
        running.end()
    if not running.gone:
        send(channel, running.answer())
        send(channel, running.kept.value())
    return not running.gone


def _hurry() -> None:
    """Come before what is being looked after, if that is allowed: else who forks without end does it faster than
    anybody kills."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def main(arguments: list[str]) -> int:
    channel = socket.socket(fileno=int(arguments[0]))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _hurry()
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    try:
        worker = os.pidfd_open(int(arguments[1]))
    except ProcessLookupError:
        return 0
    serve(channel, worker)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
