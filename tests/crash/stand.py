"""A store under attack: the oracle's engine, the workers, one that serves, and a watch on the coordinator.

    oracle (this process)  --fork-->  victims: follow their scripts until they are killed
       |   ^                 fork-->  the server: commits when it is told to, to see whether that works
       |   +--- pipes, pidfds ---     the coordinator: a process of the product's own, watched through a pidfd
       +--- orders, kills

Service. The clock of a kill begins before it: with the call of kill, or, for one that kills itself, with the last
that it said; for a coordinator that does, as the kernel wakes us with its death. It ends when the server, another
process, has its next commit (a durable one, if it was a coordinator that died). Of this, what the three processes on
the way (oracle, server, the new coordinator) spent runnable without a processor (/proc/PID/schedstat, field 2) is the
machine's delay, not the product's: the rest is held against the bar. Waiting for the disk is not taken off.

How a coordinator gets a step to die at: lifecycle starts whatever sys.executable names, here a script that takes the
next of the steps that wait for one into its environment, and becomes the interpreter.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import helios_shm
from helios_shm import lifecycle
from helios_shm.errors import BusyError, HeliosError
from helios_shm.store import StorePaths
from tests.crash.oracle import Ledger, Voice
from tests.crash.stage import Outcome
from tests.crash.workload import SHARED, Part, live, serve
from tests.processes.rig import coordinators, segments

SERVICE_SECONDS_MAX = 1.0
# Nothing here takes this long, unless it hangs.
SECONDS_MAX = 20.0
RING_BYTES = 8 << 20
_DURABLE = 128


class Hung(Exception):
    """Something has not come about; the sentence says what."""


def run_delay(pid: int) -> float:
    """Seconds that a process's main thread has waited for a processor so far; 0 for one that is gone."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def is_stopped(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Armoury:
    """What the next coordinators are to die or stop at: each that starts takes one, in their order."""

    def __init__(self, directory: Path) -> None:
        self._queue, self._taken = directory / "steps", directory / "steps.taken"
        self._queue.mkdir()
        self._taken.mkdir()
        self._count = 0
        self.program = directory / "interpreter"
        self.program.write_text(
            f"#!/bin/sh\nfor step in '{self._queue}'/*; do\n"
            f"  if mv \"$step\" '{self._taken}/' 2>/dev/null; then\n"
            f"    read -r HELIOS_STEP_COORDINATOR < '{self._taken}'/\"${{step##*/}}\"\n"
            f"    export HELIOS_STEP_COORDINATOR\n"
            f"  fi\n  break\ndone\nexec '{sys.executable}' \"$@\"\n"
        )
        self.program.chmod(0o700)

    def add(self, label: str, nth: int, action: int) -> None:
        """One coordinator more dies or stops there; nth 0: at no step."""
        self._count += 1
        name = f"{self._count:08}"
        (self._queue.parent / name).write_text(f"{label} {nth} {action}\n" if nth else "\n")
        (self._queue.parent / name).rename(self._queue / name)

    def waiting(self) -> int:
        return len(os.listdir(self._queue))

    def clear(self) -> None:
        for path in self._queue.iterdir():
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def armoury(directory: Path) -> Iterator[Armoury]:
    """Coordinators that are started meanwhile take their steps from it."""
    arms, real = Armoury(directory), sys.executable
    sys.executable = str(arms.program)
    try:
        yield arms
    finally:
        sys.executable = real


class Child:
    """A process that may be killed, with its voice. ``fd`` polls as readable when it is dead."""

    def __init__(self, voice: Voice, pid: int, reap: Callable[[], object] | None = None) -> None:
        self.voice = voice
        self.pid = pid
        self.fd = os.pidfd_open(pid)
        self.status: int | None = None
        self._reap = reap

    def is_dead(self) -> bool:
        return bool(select.select([self.fd], [], [], 0)[0])

    def kill(self) -> float:
        """Kill it; returns when that was begun."""
        begun = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.fd, signal.SIGKILL)
        return begun

    def bury(self) -> None:
        """Wait for its end, and hear the last that it said."""
        select.select([self.fd], [], [])
        if self._reap is not None:
            self._reap()
        else:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        self.fd = -1
        self.voice.hear()
        self.voice.close()


class Watch:
    """A look at the coordinator of a segment."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.fd = os.pidfd_open(pid)

    def is_dead(self) -> bool:
        return bool(select.select([self.fd], [], [], 0)[0])

    def close(self) -> None:
        os.close(self.fd)


class Stand:
    """One store, from its making to the last look at what is left of it."""

    def __init__(
        self, outcome: Outcome, path: Path, seed: str, where: str, *, durable_share: float = 0.1
    ) -> None:
        self.outcome = outcome
        self.path = path
        self.paths = StorePaths(path)
        self.seed = seed
        self.durable_share = durable_share
        self.ledger = Ledger(outcome, seed, where, durable_share)
        self.children: list[Child] = []
        self.delays: list[tuple[float, float]] = []  # of each kill: raw, and without the machine's share
        self._descriptors = open_descriptors()
        self.engine = helios_shm.open(path, l1_bytes=RING_BYTES)
        for name in SHARED:
            self.engine.branch(name)
        self.watch: Watch | None = None
        self._known_dead = 0
        self.server = self._start_server()

    # ---- processes ----

    def fork(self, acts_max: int, *, label: str = "", nth: int = 0) -> Child:
        """A worker that is forked from this process, with its engine."""
        ours, theirs = os.pipe()
        voice = self.ledger.listen(ours)
        part = Part(self.seed, voice.worker, acts_max, self.durable_share, label, nth)
        pid = os.fork()
        if pid == 0:
            live(self.engine, theirs, part)
        os.close(theirs)
        child = Child(voice, pid)
        self.children.append(child)
        return child

    def _start_server(self) -> Child:
        ours, theirs = os.pipe()
        orders, self._orders = os.pipe()
        voice = self.ledger.listen(ours, tells=False)
        pid = os.fork()
        if pid == 0:
            os.close(self._orders)
            serve(self.engine, orders, theirs, voice.worker)
        os.close(theirs)
        os.close(orders)
        return Child(voice, pid)

    def bury(self, children: list[Child]) -> None:
        for child in children:
            child.bury()
            self.children.remove(child)

    def kill_all(self) -> list[Child]:
        """Kill the workers; returns them."""
        killed = list(self.children)
        for child in killed:
            child.kill()
        self.bury(killed)
        return killed

    # ---- waiting ----

    def until(self, what: str, is_so: Callable[[], object], *fds: int) -> None:
        """Hear everybody until it is so. ``fds``: what else to wake up for."""
        end = time.monotonic() + SECONDS_MAX
        while not is_so():
            if time.monotonic() > end:
                raise Hung(f"{what}: has not come about within {SECONDS_MAX:g} s")
            heard = {
                child.voice.fd: child.voice for child in (*self.children, self.server) if child.voice.fd >= 0
            }
            for fd in select.select([*heard, *fds], [], [], 0.005)[0]:
                if fd in heard and not heard[fd].hear():
                    heard[fd].close()

    def coordinator(self) -> Watch:
        """The coordinator that lives now, or comes."""
        self.until("a coordinator runs", self._look)
        assert self.watch is not None
        return self.watch

    def _look(self) -> bool:
        """Does the coordinator live that the segment names? It is watched from now on."""
        if self.watch is not None:
            if not self.watch.is_dead():
                return True
            self.bury_coordinator()
        pid = self.engine.stats().coordinator_pid
        if not pid or pid == self._known_dead:
            return False
        with contextlib.suppress(ProcessLookupError):
            self.watch = Watch(pid)
        return self.watch is not None and not self.watch.is_dead()

    def _forget_watch(self) -> None:
        if self.watch is not None:
            self.watch.close()
        self.watch = None

    def bury_coordinator(self) -> float:
        """The one that was watched dies, or is dead. Returns about when: as we are woken, less what we waited to
        run."""
        assert self.watch is not None
        select.select([self.watch.fd], [], [])
        self._known_dead = self.watch.pid
        self._forget_watch()
        return time.monotonic()

    # ---- service ----

    def order(self, branch: str, durable: bool) -> None:
        self.ledger.told(self.server.voice, branch, durable)
        os.write(self._orders, bytes([SHARED.index(branch) | (_DURABLE if durable else 0)]))

    def _served(self, wanted: int) -> bool:
        if self.server.voice.failure:
            raise Hung(f"the server failed: {self.server.voice.failure}")
        return len(self.server.voice.done) >= wanted

    def serve_after(self, killed: float, what: str, branch: str, *, durable: bool = False) -> None:
        """Measure how long after a kill (monotonic time) another worker's commit takes. Durable ones wait for a
        coordinator: the clock starts again when the next one dies meanwhile."""
        mine, servers = run_delay(os.getpid()), run_delay(self.server.pid)
        self.order(branch, durable)
        wanted = len(self.server.voice.begun)

        def served() -> bool:
            nonlocal killed
            if self._served(wanted):
                return True
            if durable and self.watch is not None and self.watch.is_dead():
                killed = self.bury_coordinator()
            elif durable:
                self._look()
            return False

        self.until(f"after {what}, the server commits", served, self.server.fd)
        raw = self.server.voice.done[-1].time_ns / 1e9 - killed
        waited = run_delay(os.getpid()) - mine + run_delay(self.server.pid) - servers
        if durable:
            waited += run_delay(self.engine.stats().coordinator_pid or 0)
        self.delays.append((raw, max(0.0, raw - waited)))
        if raw - waited > SERVICE_SECONDS_MAX:
            self.ledger.violate(
                "late",
                f"after {what}, a commit took {raw:.2f} s, {waited:.2f} s of it for want of a processor",
            )

    # ---- the end ----

    def settle(self, ended: list[Child] | None = None) -> None:
        self.ledger.settle(self.engine, [child.voice for child in ended or []])

    def baseline(self) -> None:
        """With only oracle and server left: slots, chunks and the waiters' hints are as they were."""

        def clean() -> bool:
            with contextlib.suppress(BusyError):
                self.engine.sync(timeout=SECONDS_MAX)
            stats = self.engine._live().stats()
            return bool(stats.participants == 2 and stats.chunks_busy == 0)

        try:
            self.until("slots and chunks of the dead are free", clean)
        except Hung:
            stats = self.engine._live().stats()
            self.ledger.violate(
                "leaked",
                f"of the dead are left {stats.participants - 2} slots and {stats.chunks_busy} busy chunks",
            )

    def leave(self) -> None:
        """All end as they should; the store is closed, and nothing but its files is left."""
        self._end_server()
        self.engine.close()
        self._forget_watch()
        self._until_gone()

    def leave_by_force(self) -> None:
        """Kill everybody, and lose the segment: what is left is what power loss would leave if the disk keeps all."""
        if self.watch is not None:
            signal.pidfd_send_signal(self.watch.fd, signal.SIGKILL)
        self.server.kill()
        ended = self.kill_all()
        self._end_server()
        self.outcome.count("killed beside", len(ended) + 1)
        # Nobody is left who would start another; one may be starting.
        while found := coordinators(self.path):
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.001)
        self._forget_watch()
        self.settle(ended)
        self.engine.close(sync=False)
        for segment in segments(self.path):
            segment.unlink()

    def _end_server(self) -> None:
        os.close(self._orders)
        self.server.bury()
        self.ledger._judge_failure(self.server.voice)

    def _until_gone(self) -> None:
        end = time.monotonic() + SECONDS_MAX
        while lifecycle.coordinator_runs(self.paths) or segments(self.path):
            if time.monotonic() > end:
                return self.ledger.violate("leaked", f"the coordinator or {segments(self.path)} did not go")
            time.sleep(0.02)
        if (left := open_descriptors() - self._descriptors) != 0:
            self.ledger.violate("leaked", f"{left} descriptors of this process stay open")
        return None

    def audit(self, *, segment_lost: bool = False) -> None:
        """Open the store again, and judge all of it."""
        try:
            with helios_shm.open(self.path, create=False, l1_bytes=RING_BYTES) as engine:
                self.ledger.audit(engine, segment_lost=segment_lost)
        except HeliosError as error:
            self.ledger.violate("unreadable", f"opening it again raised {type(error).__name__}: {error}")
        self._until_gone()

    def abandon(self) -> None:
        """After something hung: leave nothing running."""
        for child in (*self.children, self.server):
            if child.fd >= 0:
                child.kill()
                child.bury()
        self._forget_watch()
        for pid in coordinators(self.path):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(HeliosError):
            self.engine.close(sync=False)
        for segment in segments(self.path):
            segment.unlink()
