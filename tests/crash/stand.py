"""A store under attack: the oracle's engine, the workers, one that serves, and a watch on the coordinator.

    oracle (this process)  --fork-->  victims: follow their scripts until they are killed
       |   ^                 fork-->  the server: commits when it is told to, to see whether that works
       |   +--- pipes, pidfds ---     the coordinator: a process of the product's own, watched through a pidfd
       +--- orders, kills

Service. The clock of a kill begins with the call of kill, or, for one that kills itself, when the kernel tells us: as
we run again, less what we waited for a processor. It ends when the server, another process, has its next commit (a
durable one, if it was a coordinator that died). Part of this is the machine's delay and not the product's: the time
for which somebody on the way was runnable and had no processor (/proc/PID/schedstat, field 2). On the way are this
process, the server, the new coordinator, and whoever started that; this may be any of the workers, and the one that
waited longest is taken. The rest is held against the bar, the wait for the disk included. So on a machine that is
idle all of the delay counts, and on one that is overloaded less is known.

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
from multiprocessing.context import BaseContext
from pathlib import Path
from statistics import median

import helios_shm
from helios_shm import lifecycle
from helios_shm.errors import BusyError, HeliosError
from helios_shm.store import StorePaths
from tests.crash.oracle import Ledger, Voice
from tests.crash.stage import Outcome
from tests.crash.workload import SHARED, Part, live, live_over, serve
from tests.processes.rig import coordinators, segments

SERVICE_SECONDS_MAX = 1.0
# Nothing here takes this long, unless it hangs.
SECONDS_MAX = 20.0
# The dead are looked for in each round.
BASELINE_SECONDS_MAX = 5.0
# A coordinator that nobody needs leaves after 0.3 s.
GONE_SECONDS_MAX = 8.0
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


def state_of(pid: int) -> str:
    """The letter that the kernel has for a process's state; empty for one that is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def kill_coordinators(path: Path) -> None:
    """When nobody is left who would start another: the one that there is, or that is just starting."""
    while found := coordinators(path):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


def unlink_segments(path: Path) -> None:
    for segment in segments(path):
        segment.unlink()


def until_gone(ledger: Ledger, path: Path) -> None:
    """Wait until a store's coordinator has left, and its segment with it."""
    end = time.monotonic() + GONE_SECONDS_MAX
    while lifecycle.coordinator_runs(StorePaths(path)) or segments(path):
        if time.monotonic() > end:
            return ledger.violate("leaked", f"the coordinator or {segments(path)} did not go")
        time.sleep(0.02)
    return None


def look_through(ledger: Ledger, engine: helios_shm.Engine) -> None:
    """The store by its own account: nothing is damaged. Half written files of the dead are mended, and counted."""
    for sentence in engine.check(repair=True).damage:
        if sentence.startswith("mended: "):
            ledger.outcome.count("half written files")
        else:
            ledger.violate("damaged", f"check() says: {sentence}")


def judge_descriptors(ledger: Ledger, before: int) -> None:
    if (left := open_descriptors() - before) != 0:
        ledger.violate("leaked", f"{left} descriptors of this process stay open")


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Service:
    """How long after each kill somebody else was served."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        # By whose death: seconds in all, and without the machine's share.
        self._delays: dict[str, list[tuple[float, float]]] = {}

    def served(self, ledger: Ledger, who: str, what: str, seconds: float, waited: float) -> None:
        """After somebody's death it took so long, so much of it for want of a processor."""
        self._delays.setdefault(who, []).append((seconds, max(0.0, seconds - waited)))
        if seconds - waited > SERVICE_SECONDS_MAX:
            ledger.violate(
                "late",
                f"after {what}, a commit took {seconds:.2f} s, {waited:.2f} s of it for want of a processor",
            )

    def tell(self) -> None:
        """In milliseconds: the median, the longest, and the longest without the machine's share."""
        for who, delays in self._delays.items():
            inall, own = [1000 * both for both, _ in delays], [1000 * own for _, own in delays]
            self._outcome.figures[f"ms to service after a {who}"] = round(median(inall), 1)
            self._outcome.figures[f"ms at most ({who})"] = round(max(inall), 1)
            self._outcome.figures[f"ms of the product at most ({who})"] = round(max(own), 1)


class Armoury:
    """What the next coordinators are to die or stop at: each that starts takes one, in their order."""

    def __init__(self, directory: Path) -> None:
        self._queue, self._taken = directory / "steps", directory / "steps.taken"
        self._queue.mkdir()
        self._taken.mkdir()
        self._count = 0
        self.program = directory / "interpreter"
        self.program.write_text(
            "#!/bin/sh\nset -C\n"  # so that > makes a file or fails
            f"for step in '{self._queue}'/*; do\n"
            f"  if echo > '{self._taken}'/\"${{step##*/}}\"; then\n"
            '    read -r HELIOS_STEP_COORDINATOR < "$step"\n'
            "    export HELIOS_STEP_COORDINATOR\n"
            "    break\n  fi\n"
            f"done 2>/dev/null\nexec '{sys.executable}' \"$@\"\n"
        )
        self.program.chmod(0o700)

    def add(self, label: str, nth: int, action: int) -> None:
        """One coordinator more dies or stops there; nth 0: at no step."""
        self._count += 1
        name = f"{self._count:08}"
        (self._queue.parent / name).write_text(f"{label} {nth} {action}\n" if nth else "\n")
        (self._queue.parent / name).rename(self._queue / name)

    def waiting(self) -> int:
        return len(os.listdir(self._queue)) - len(os.listdir(self._taken))

    def clear(self) -> None:
        for path in (*self._queue.iterdir(), *self._taken.iterdir()):
            path.unlink()


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

    def __init__(
        self, voice: Voice, pid: int, gate: int = -1, reap: Callable[[], object] | None = None
    ) -> None:
        self.voice = voice
        self._gate = gate
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

    def release(self) -> None:
        """Let it go on, where it waits before an act."""
        os.write(self._gate, b"!")

    def bury(self) -> None:
        """Wait for its end, and hear the last that it said."""
        select.select([self.fd], [], [])
        if self._reap is not None:
            self._reap()
        else:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        for fd in (self.fd, self._gate):
            if fd >= 0:
                os.close(fd)
        self.fd = self._gate = -1
        self.voice.hear()
        self.voice.close()


class Watch:
    """A look at the coordinator of a segment."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.fd = os.pidfd_open(pid)

    def is_dead(self) -> bool:
        return bool(select.select([self.fd], [], [], 0)[0])

    def send(self, number: signal.Signals) -> float:
        """Send it a signal; returns when that was begun."""
        begun = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.fd, number)
        return begun

    def close(self) -> None:
        os.close(self.fd)


class Stand:
    """One store, from its making to the last look at what is left of it."""

    def __init__(
        self,
        outcome: Outcome,
        service: Service,
        path: Path,
        seed: str,
        where: str,
        *,
        durable_share: float = 0.1,
    ) -> None:
        self.outcome = outcome
        self.path = path
        self.seed = seed
        self.durable_share = durable_share
        self.ledger = Ledger(outcome, seed, where, durable_share)
        self.children: list[Child] = []
        self.service = service
        self._descriptors = open_descriptors()
        self.engine = helios_shm.open(path, l1_bytes=RING_BYTES)
        for name in SHARED:
            self.engine.branch(name)
        self.watch: Watch | None = None
        self._known_dead = 0
        self.server = self._start_server()

    # ---- processes ----

    def fork(
        self,
        acts_max: int,
        *,
        label: str = "",
        nth: int = 0,
        gate: int = -1,
        durable_share: float | None = None,
    ) -> Child:
        """A worker that is forked from this process, with its engine."""
        share = self.durable_share if durable_share is None else durable_share
        ours, theirs = os.pipe()
        gate_in, gate_out = os.pipe()
        voice = self.ledger.listen(ours, durable_share=share)
        part = Part(self.seed, voice.worker, acts_max, share, label, nth, gate)
        pid = os.fork()
        if pid == 0:
            live(self.engine, theirs, part, gate_in)
        os.close(theirs)
        os.close(gate_in)
        child = Child(voice, pid, gate_out)
        self.children.append(child)
        return child

    def start(self, context: BaseContext, acts_max: int, *, gate: int = -1) -> Child:
        """A worker that a start method of multiprocessing makes, and that is handed the engine."""
        ours, theirs = context.Pipe(duplex=False)
        gate_in, gate_out = context.Pipe(duplex=False)
        voice = self.ledger.listen(os.dup(ours.fileno()))
        part = Part(self.seed, voice.worker, acts_max, self.durable_share, gate=gate)
        handed = (self.engine, theirs, part, gate_in)
        process = context.Process(target=live_over, args=handed)  # type: ignore[attr-defined]
        process.start()
        opened = os.dup(gate_out.fileno())
        for end in (ours, theirs, gate_in, gate_out):
            end.close()

        def reap() -> None:
            process.join()
            process.close()

        child = Child(voice, process.pid, opened, reap)
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

    def until(self, what: str, is_so: Callable[[], object], *fds: int, seconds: float = SECONDS_MAX) -> float:
        """Hear everybody until it is so. ``fds``: what else to wake up for. Returns when it came about: the time now,
        less what this process has waited for a processor since it last looked."""
        end, waited = time.monotonic() + seconds, run_delay(os.getpid())
        while not is_so():
            if time.monotonic() > end:
                raise Hung(f"{what}: has not come about within {seconds:g} s; {self._log()}")
            waited = run_delay(os.getpid())
            heard = {
                child.voice.fd: child.voice for child in (*self.children, self.server) if child.voice.fd >= 0
            }
            for fd in select.select([*heard, *fds], [], [], 0.005)[0]:
                if fd in heard and not heard[fd].hear():
                    heard[fd].close()
        return time.monotonic() - (run_delay(os.getpid()) - waited)

    def _log(self) -> str:
        """The last that the coordinators had to say."""
        lines = StorePaths(self.path).log.read_text(errors="replace").splitlines()
        return f"participants {self.engine.stats().participants}, log: {' | '.join(lines[-4:])}"

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

    def bury_coordinator(self) -> None:
        """The one that was watched dies, or is dead. Returns about when: as we are woken, less what we waited to
        run."""
        assert self.watch is not None
        select.select([self.watch.fd], [], [])
        self._known_dead = self.watch.pid
        self._forget_watch()

    # ---- service ----

    def order(self, branch: str, durable: bool) -> None:
        self.ledger.told(self.server.voice, branch, durable)
        os.write(self._orders, bytes([SHARED.index(branch) | (_DURABLE if durable else 0)]))

    def serve(self, branch: str) -> None:
        """Have the server commit durably, and wait for it."""
        self.order(branch, durable=True)
        wanted = len(self.server.voice.begun)
        self.until("the server commits", lambda: self._served(wanted), self.server.fd)

    def _served(self, wanted: int) -> bool:
        if self.server.voice.failure:
            raise Hung(f"the server failed: {self.server.voice.failure}")
        return len(self.server.voice.done) >= wanted

    def serve_after(self, killed: float, what: str, branch: str, *, durable: bool = False) -> None:
        """Measure how long after a kill (monotonic time) another worker's commit takes. Durable ones wait for a
        coordinator: the clock starts again when the next one dies meanwhile."""
        before = [run_delay(pid) for pid in (os.getpid(), self.server.pid)]
        starters = {child.pid: run_delay(child.pid) for child in self.children}
        self.order(branch, durable)
        wanted = len(self.server.voice.begun)

        def served() -> bool:
            nonlocal killed
            if self._served(wanted):
                return True
            if durable and self.watch is not None and self.watch.is_dead():
                self.bury_coordinator()
                killed = time.monotonic()
            elif durable:
                self._look()
            return False

        self.until(f"after {what}, the server commits", served, self.server.fd)
        raw = self.server.voice.done[-1].time_ns / 1e9 - killed
        after = [run_delay(pid) for pid in (os.getpid(), self.server.pid)]
        waited = sum(after) - sum(before)
        if durable:
            waited += run_delay(self.engine.stats().coordinator_pid or 0)
            waited += max((run_delay(pid) - was for pid, was in starters.items()), default=0.0)
        who = "coordinator" if durable else "worker"
        self.service.served(self.ledger, who, what, raw, waited)

    # ---- the end ----

    def settle(self, ended: list[Child] | None = None) -> None:
        self.ledger.settle(self.engine, [child.voice for child in ended or []])

    def baseline(self) -> None:
        """With only oracle and server left, each with its slot: no other slot is taken, and no chunk."""
        self.serve(SHARED[0])

        def clean() -> bool:
            with contextlib.suppress(BusyError):
                self.engine.sync(timeout=SECONDS_MAX)
            stats = self.engine._live().stats()
            return bool(stats.participants == 2 and stats.chunks_busy == 0)

        try:
            self.until("slots and chunks of the dead are free", clean, seconds=BASELINE_SECONDS_MAX)
        except Hung:
            stats = self.engine._live().stats()
            self.ledger.violate(
                "leaked",
                f"of the dead are left {stats.participants - 2} slots and {stats.chunks_busy} busy chunks",
            )
        self.settle()

    def leave(self) -> None:
        """All end as they should; the store is closed, and nothing but its files is left."""
        self._end_server()
        self.engine.close()
        self._forget_watch()
        self._until_gone()

    def leave_by_force(self) -> None:
        """Kill everybody, and lose the segment: what is left is what power loss would leave if the disk keeps all."""
        if self.watch is not None:
            self.watch.send(signal.SIGKILL)
        self.server.kill()
        ended = self.kill_all()
        self._end_server()
        self.outcome.count("killed beside", len(ended) + 1)
        kill_coordinators(self.path)
        self._forget_watch()
        self.settle(ended)
        self.ledger.lose_segment(self.ledger.voices.values())
        self.engine.close(sync=False)
        unlink_segments(self.path)

    def _end_server(self) -> None:
        os.close(self._orders)
        self.server.bury()
        self.ledger._judge_failure(self.server.voice)

    def _until_gone(self) -> None:
        until_gone(self.ledger, self.path)
        judge_descriptors(self.ledger, self._descriptors)

    def audit(self, *, thorough: bool = True) -> None:
        """Open the store again, and judge all of it. ``thorough``: every byte, too, against its hashes."""
        try:
            with helios_shm.open(self.path, create=False, l1_bytes=RING_BYTES) as engine:
                self.ledger.audit(engine)
                if thorough:
                    look_through(self.ledger, engine)
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
        kill_coordinators(self.path)
        with contextlib.suppress(HeliosError):
            self.engine.close(sync=False)
        unlink_segments(self.path)
