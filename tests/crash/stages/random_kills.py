"""Kill -9 at random instants: workers, the coordinator, everybody at once; under fork, forkserver and spawn.

    one by one   four workers at a time; two are let go into an act and killed a random moment later, while the others,
                 which replace the two before, do their first acts; now and then the coordinator is killed, in a round
    all at once  a process group (a leader and the workers that it forks) and the coordinator die together; the store
                 is opened again by a process that had no part in it; now and then the segment is removed before

The instants are drawn from the seed as numbers of acts and moments after them; where in the program a
kill then falls is up to the machine. tests/crash/oracle.py judges after each kill and, from the files, at the end of
each store. When the workers of a store have ended, slots and chunks must be free again; when the store is closed, the
coordinator, the segment's name in /dev/shm and this process's descriptors must be as before.

Proven: what named kills prove, wherever in a worker or coordinator death falls, as far as it was tried. Not proven:
that every instant was tried (single step goes through them for the protocol's core).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import re
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import helios_shm
from helios_shm import lifecycle
from helios_shm.errors import HeliosError
from helios_shm.store import StorePaths
from tests.crash.oracle import Ledger, Voice
from tests.crash.stage import Outcome, Run
from tests.crash.stand import (
    RING_BYTES,
    SECONDS_MAX,
    Child,
    Hung,
    Service,
    Stand,
    judge_descriptors,
    kill_coordinators,
    look_through,
    open_descriptors,
    run_delay,
    state_of,
    unlink_segments,
    until_gone,
)
from tests.crash.tree import Mutant
from tests.crash.workload import SHARED, Mouth, Part, live

TITLE = "random kills"
SECONDS = 105.0

# How many are killed one by one, by the way they were started.
KILLS = {"fork": 2300, "forkserver": 170, "spawn": 24}
GROUP_KILLS = 40
WORKERS = 4
KILLS_A_STORE = 240
# Of the kills one by one, so many hit the coordinator.
COORDINATOR_SHARE = 0.08
VICTIMS = 2
# A worker dies in one of its first acts, within a moment after it was begun.
ACTS_BEFORE_MAX = 8
MOMENT_SECONDS_MAX = 0.0006
# How often that moment begins when it says that it begins the act; else when it is let go.
INTENT_SHARE = 0.7
# About how long a round takes.
ROUND_SECONDS = 0.012
GROUP_ACTS_MAX = 30
GROUPS_A_STORE = 20
SEGMENT_LOST_SHARE = 0.4
# How often the coordinator has left before the next group comes.
LEAVE_SHARE = 0.3

MUTANTS = (
    Mutant(
        "slots of the dead stay taken",
        "csrc/hs_drain.c",
        "    if (!drain->dead[n]) return;\n",
        "    if (n < HS_PARTICIPANTS || !drain->dead[n]) return;\n",
        "each death takes a slot, for ever",
    ),
    Mutant(
        "a segment that nobody uses is thrown away",
        "helios_shm/attachment.py",
        "                    # A second segment beside one that others use would let both move the same branches.\n",
        """                    if not lifecycle.is_in_use(self.paths):
                        lifecycle.segment_remove(self.identity.segment_name)
""",
        "what was acknowledged and not yet drained goes with it when all die at once",
    ),
)


def spin(seconds: float) -> None:
    """Let a moment pass without giving the processor away."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


class OneByOne:
    """One store whose workers and coordinators are killed while others go on."""

    def __init__(self, run: Run, outcome: Outcome, stand: Stand, method: str, chance: random.Random) -> None:
        self._run = run
        self._outcome = outcome
        self._stand = stand
        self._method = method
        self._chance = chance
        # Each worker and the act that it dies in, unless it is faster.
        self._turns: dict[Child, int] = {}

    def kill(self, count: int) -> None:
        """So many."""
        done = 0
        while done < count and not (self._run.mutant and self._outcome.violations):
            while len(self._turns) < WORKERS:
                turn = self._chance.randint(0, ACTS_BEFORE_MAX)
                self._turns[self._begin(turn)] = turn
            if self._chance.random() < COORDINATOR_SHARE:
                self._kill_coordinator()
                done += 1
            victims = list(self._turns)[:VICTIMS]
            self._kill_workers(victims)
            done += len(victims)

    def _begin(self, turn: int) -> Child:
        if self._method == "fork":
            return self._stand.fork(turn + 2, gate=turn)
        return self._stand.start(multiprocessing.get_context(self._method), turn + 2, gate=turn)

    def _kill_workers(self, victims: list[Child]) -> None:
        """They wait before the act that they are to die in; they are let go, and each is killed a moment later."""
        turns = {child: self._turns.pop(child) for child in victims}

        def ready() -> bool:
            return all(len(child.voice.done) >= turn or child.voice.failure for child, turn in turns.items())

        self._stand.until("workers are ready to die", ready)
        begun = {child: len(child.voice.begun) for child in victims}
        for child in victims:
            child.release()
        if self._chance.random() < INTENT_SHARE:
            what = "a worker begins an act"
            self._stand.until(what, lambda: any(len(child.voice.begun) > n for child, n in begun.items()))
        killed = []
        for child in victims:
            spin(self._chance.random() * MOMENT_SECONDS_MAX)
            killed.append(child.kill())
        self._stand.bury(victims)
        for child, at in zip(victims, killed, strict=True):
            voice = child.voice
            self._outcome.count("kills")
            self._outcome.count(f"under {self._method}")
            self._outcome.count("amid an act", len(voice.begun) - len(voice.done))
            what = f"the kill of worker {voice.worker} in act {len(voice.done)}"
            self._stand.serve_after(at, what, SHARED[voice.worker % 2])
        self._stand.settle(victims)

    def _kill_coordinator(self) -> None:
        """While workers go on; mostly in the round that somebody waits for."""
        watch = self._stand.coordinator()
        self._stand.order(SHARED[0], durable=True)
        time.sleep(self._chance.random() * ROUND_SECONDS)
        killed = watch.send(signal.SIGKILL)
        self._stand.bury_coordinator()
        self._outcome.count("kills")
        self._outcome.count("of coordinators")
        self._stand.serve_after(killed, f"the kill of coordinator {watch.pid}", SHARED[1], durable=True)
        self._stand.settle()


@contextmanager
def one_store(run: Run, outcome: Outcome, name: str, service: Service) -> Iterator[Stand]:
    """A store's life around what is done to it."""
    seed, where = f"{run.seed}/random/{name}", f"seed {run.seed}, {name}"
    stand = Stand(outcome, service, run.directory / name, seed, where)
    try:
        yield stand
        # Those who were not killed are, in the end; they count for nothing.
        stand.settle(stand.kill_all())
        stand.baseline()
        stand.leave()
        stand.audit()
    except Hung as hung:
        stand.ledger.violate("hung", str(hung))
        stand.abandon()
    except BaseException:
        stand.abandon()
        raise


class Groups:
    """A store whose processes die all at once, again and again. This process has it open only in between."""

    def __init__(self, run: Run, outcome: Outcome, name: str, service: Service) -> None:
        self._outcome = outcome
        self._service = service
        self._descriptors = open_descriptors()
        self._seed = f"{run.seed}/random/{name}"
        self._chance = run.chance(name)
        self._path = run.directory / name
        self._paths = StorePaths(self._path)
        self._leader = 0
        self._ledger = Ledger(outcome, self._seed, f"seed {run.seed}, {name}", 0.1)
        ours, theirs = os.pipe()
        self._voice, self._mouth, self._mouth_fd = (
            self._ledger.listen(ours, tells=False),
            Mouth(theirs),
            theirs,
        )
        lifecycle.open_store(self._path, create=True)

    def kill(self) -> None:
        """A group begins, works, and dies; the store is opened and judged."""
        voices, leader = self._begin()
        self._leader = leader
        acts = self._chance.randint(0, GROUP_ACTS_MAX * WORKERS // 2)
        self._hear_until(f"{acts} acts", voices, lambda: sum(len(voice.done) for voice in voices) >= acts)
        coordinator = self._coordinator()
        spin(self._chance.random() * MOMENT_SECONDS_MAX)
        killed = time.monotonic()
        # In either order.
        for pid in self._chance.sample([-leader, coordinator], 2):
            with contextlib.suppress(ProcessLookupError):
                if pid:
                    os.kill(pid, signal.SIGKILL)
        os.waitpid(leader, 0)
        self._leader = 0
        self._hear_until(
            "all of a killed group are dead", voices, lambda: all(voice.fd < 0 for voice in voices)
        )
        self._outcome.count("kills")
        self._outcome.count("of whole groups")
        lost = self._chance.random() < SEGMENT_LOST_SHARE
        if lost:
            self._lose_segment(voices)
        self._open_and_judge(voices, None if lost else killed)

    def abandon(self, why: str) -> None:
        """After something hung: say so, and leave nothing running."""
        self._ledger.violate("hung", why)
        self.leave_nothing()

    def leave_nothing(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._leader:
                os.killpg(self._leader, signal.SIGKILL)
                os.waitpid(self._leader, 0)
        kill_coordinators(self._path)
        unlink_segments(self._path)

    def _begin(self) -> tuple[list[Voice], int]:
        """The voices of a new group, and its leader's pid."""
        pipes = [os.pipe() for _ in range(WORKERS)]
        voices = [self._ledger.listen(ours) for ours, _ in pipes]
        leader = os.fork()
        if leader == 0:
            parts = [Part(self._seed, voice.worker, GROUP_ACTS_MAX) for voice in voices]
            _lead(self._path, list(zip((theirs for _, theirs in pipes), parts, strict=True)))
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(leader, leader)  # whoever of us two comes first
        for _, theirs in pipes:
            os.close(theirs)
        return voices, leader

    def _coordinator(self) -> int:
        """The pid of the newest coordinator that has said so, or 0."""
        try:
            said = re.findall(r"(\d+) INFO epoch", self._paths.log.read_text())
        except FileNotFoundError:
            return 0
        pid = int(said[-1]) if said else 0
        return pid if pid and state_of(pid) not in ("", "Z") else 0

    def _hear_until(self, what: str, voices: list[Voice], is_so: Callable[[], bool]) -> None:
        end = time.monotonic() + SECONDS_MAX
        while not is_so():
            if time.monotonic() > end:
                raise Hung(f"{what}: has not come about within {SECONDS_MAX:g} s")
            heard = {voice.fd: voice for voice in voices if voice.fd >= 0}
            for fd in select.select(list(heard), [], [], 0.005)[0]:
                if not heard[fd].hear():
                    heard[fd].close()
            if any(voice.failure for voice in voices):
                raise Hung(
                    next(f"worker {voice.worker}: {voice.failure}" for voice in voices if voice.failure)
                )

    def _lose_segment(self, voices: list[Voice]) -> None:
        kill_coordinators(self._path)
        unlink_segments(self._path)
        self._ledger.lose_segment(voices)
        self._outcome.count("segments lost")

    def _open_and_judge(self, voices: list[Voice], killed: float | None) -> None:
        """Open the store, commit durably, judge; close it again."""
        waited = run_delay(os.getpid())
        try:
            with helios_shm.open(self._path, create=False, l1_bytes=RING_BYTES) as engine:
                self._mouth.do(engine, self._ledger.told(self._voice, self._chance.choice(SHARED), True))
                self._voice.hear()
                if killed is not None:
                    seconds = self._voice.done[-1].time_ns / 1e9 - killed
                    waited = run_delay(os.getpid()) - waited + run_delay(engine.stats().coordinator_pid or 0)
                    self._service.served(self._ledger, "group", "the death of a group", seconds, waited)
                self._ledger.settle(engine, voices)
                stats = engine._live().stats()
                if stats.participants != 1 or stats.chunks_busy:
                    left = f"{stats.participants - 1} slots and {stats.chunks_busy} busy chunks are left"
                    self._ledger.violate("leaked", left)
        except HeliosError as error:
            self._ledger.violate("unreadable", f"opening it again raised {type(error).__name__}: {error}")
        if self._chance.random() < LEAVE_SHARE:
            until_gone(self._ledger, self._path)

    def end(self) -> None:
        """Once more from the files, when nobody is there."""
        os.close(self._mouth_fd)
        self._voice.close()
        until_gone(self._ledger, self._path)
        with helios_shm.open(self._path, create=False, l1_bytes=RING_BYTES) as engine:
            self._ledger.audit(engine)
            look_through(self._ledger, engine)
        until_gone(self._ledger, self._path)
        judge_descriptors(self._ledger, self._descriptors)


def _lead(path: Path, parts: list[tuple[int, Part]]) -> NoReturn:
    """A leader's life: a group of its own, the store, workers; the acts are theirs."""
    try:
        with contextlib.suppress(PermissionError):
            os.setpgid(0, 0)
        engine = helios_shm.open(path, l1_bytes=RING_BYTES)
        for fd, part in parts:
            if os.fork() == 0:
                live(engine, fd, part)
        for fd, _ in parts:
            os.close(fd)
        while True:
            signal.pause()
    finally:
        os._exit(1)


def groups(run: Run, outcome: Outcome, service: Service, count: int) -> None:
    """So many groups die."""
    for number in range(0, count, GROUPS_A_STORE):
        group = Groups(run, outcome, f"groups-{number // GROUPS_A_STORE}", service)
        try:
            for _ in range(min(GROUPS_A_STORE, count - number)):
                group.kill()
                if run.mutant and outcome.violations:
                    return group.leave_nothing()
            group.end()
        except Hung as hung:
            group.abandon(str(hung))


def one_by_one(run: Run, outcome: Outcome, service: Service, method: str, count: int) -> None:
    """So many are killed one by one, started by one method."""
    for number in range(0, count, KILLS_A_STORE):
        name = f"{method}-{number // KILLS_A_STORE}"
        with one_store(run, outcome, name, service) as stand:
            killer = OneByOne(run, outcome, stand, method, run.chance(name))
            killer.kill(min(KILLS_A_STORE, count - number))
        if run.mutant and outcome.violations:
            return


def warm_up() -> None:
    """What multiprocessing keeps open from its first use on, and what every forkserver's child would import anew."""
    multiprocessing.set_forkserver_preload(["helios_shm", "tests.crash.workload"])
    for method in ("forkserver", "spawn"):
        process = multiprocessing.get_context(method).Process(target=os.getpid)  # type: ignore[attr-defined]
        process.start()
        process.join()
        process.close()


def prove(run: Run) -> Outcome:
    outcome = Outcome()
    service = Service(outcome)
    if run.mutant is None:
        warm_up()
    # Few are enough to find a seeded bug, if they find it at all.
    groups(run, outcome, service, run.times(GROUP_KILLS) if run.mutant is None else GROUPS_A_STORE)
    for method, count in KILLS.items():
        if run.mutant is None or (method == "fork" and not outcome.violations):
            one_by_one(run, outcome, service, method, run.times(count))
    service.tell()
    if run.mutant is None:
        outcome.reached("kills", run.times(2500))
    return outcome
