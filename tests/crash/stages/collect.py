"""Collections without a pause, beside commits, forks and deaths: every state that anyone could still name is whole.

    oracle (this process)   collects without grace, again and again, with a few commits of history; after each time
       |  ^                 it reads every commit that the logs still have; now and then it kills somebody
       |  +-- pipes: what they found
       +-- workers          commit states out of a small set, on branches and detached, so that what was collected a
             |              moment ago is made again; hold some, let some go, give ids to others, who may come too late
             +-- forked     hold what their parent held when it forked, and use it when that has let it go

The states are few and share most of what they are made of: a state's number says what is in it, to whoever holds it.
Whole is what can be read out of L2 alone, node by node and value by value, after everything was made durable (tests/
marking.py): neither a process's cache nor the ring hides what is missing. An id that nobody holds may be gone; then it
is gone as a whole, at the first look.

Proven: what is held, or named by a branch or its kept history, survives collections as far as it was tried. Not proven:
grace (tests/unit/test_collect.py), and that new packs are marked from, which seldom decides here (tests/models/
collect.pml).
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import random
import signal
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path

import helios_shm
from helios_shm import Branch, Engine, Snapshot, blobs
from helios_shm.errors import BusyError, HeliosError, NotFoundError
from tests.crash.stage import Outcome, Run
from tests.crash.stand import kill_coordinators
from tests.crash.tree import Mutant
from tests.marking import living
from tests.processes.rig import coordinators, until_nothing_runs

TITLE = "collect"
SECONDS = 130.0

COLLECTING_SECONDS = 60.0
COLLECTING_SECONDS_MUTANT = 40.0
WORKERS = 3
RING_BYTES = 4 << 20
STATES, KEYS, WAYS = 60, 90, 5
LARGE_BYTES = 262_144
HISTORY = 3
HELD_MAX = 12
WORKER_DEATH_SHARE, COORDINATOR_DEATH_SHARE = 0.25, 0.08
BOARD_SLOTS = 64
FORK = multiprocessing.get_context("fork")

MUTANTS = (
    Mutant(
        "leases are not looked at",
        "helios_shm/collector.py",
        "        found = lib.hs_lease_view_read(self._view, self._mark)\n",
        "        found = 0\n",
        "what a process holds, and no branch has, is deleted under its hands",
    ),
    Mutant(
        "stale entries of the ring are trusted",
        "csrc/hs_ring.c",
        "    return (uint32_t)(stale >> 32) != hs_place_generation(place) ||",
        "    return true ||",
        "a commit leaves out what the ring has, and a collection has deleted from L2",
    ),
    Mutant(
        "packs are deleted before they are copied",
        "helios_shm/collector.py",
        "            rows += found\n",
        "            rows += found[:0]\n",
        "what lives in a pack that mostly dies goes with it",
    ),
    Mutant(
        "dead rows count as there",
        "helios_shm/l2.py",
        "pack_has(pack, row, id) and not self._is_dead(number, row)\n",
        "pack_has(pack, row, id)\n",
        "a round leaves out what a collection has declared dead",
    ),
)


# ---- states ----


@cache
def content(number: int) -> dict[str, bytes]:
    """What is in state ``number``: of each key one of a few values, some of them large."""
    chance = random.Random(number)
    ways = {f"{i % 7}/{i}": chance.randrange(WAYS) for i in range(KEYS)}
    state = {key: f"{key} {way} ".encode() * (1 + 9 * way) for key, way in ways.items() if way}
    if number % 5 == 0:
        state["large"] = bytes([1 + number % 3]) * LARGE_BYTES
    return state


def edits_to(number: int, workspace: helios_shm.Workspace) -> None:
    """Make it that state, whatever it is."""
    wanted, there = content(number), dict(workspace)
    for path in there.keys() - wanted.keys():
        del workspace[path]
    workspace.update({path: value for path, value in wanted.items() if there.get(path) != value})


def faults(engine: Engine, snapshot: Snapshot, number: int, who: str) -> Iterator[str]:
    """What is wrong with a state that somebody holds."""
    engine.sync()
    try:
        _, values = living(engine, [bytes.fromhex(snapshot.id)])
    except (AssertionError, HeliosError) as error:
        yield f"{who} holds state {number}, {snapshot.id}, and L2 has not all of it: {error}"
        return
    attachment = engine._attachment
    for id in values:
        if attachment.reader.get(id) is None and not blobs.path_of(attachment.paths, id).exists():
            yield f"{who} holds state {number}, and value {id.hex()} of it is nowhere"
    attachment.forget_nodes()
    if dict(attachment_snapshot(engine, snapshot)) != content(number):
        yield f"{who} holds state {number}, and it is another one"


def attachment_snapshot(engine: Engine, snapshot: Snapshot) -> Snapshot:
    """The same state in a handle that has read nothing yet."""
    return engine.snapshot(snapshot.id)


# ---- a worker ----


class Hand:
    """One worker's process, from its first act to its last."""

    def __init__(self, engine: Engine, pipe: Connection, board: Board, name: str, seed: str) -> None:
        self._engine, self._pipe, self._board, self._name = engine, pipe, board, name
        self._chance = random.Random(seed)
        self._held: list[tuple[Snapshot, int]] = []
        self._children: list[int] = []
        self._acts = [self.detached] * 5 + [self.on_branch] * 5 + [self.look] * 3 + [self.take] * 2
        self._acts += [self.let_go] * 3 + [self.fork] + [self.delete]

    def live(self) -> None:
        while True:
            act = self._chance.choice(self._acts)
            with contextlib.suppress(BusyError):  # the machine is slow, or a coordinator has just died
                act()
            self._pipe.send(("done", act.__name__))

    def say(self, sentence: str) -> None:
        self._pipe.send(("violation", sentence[:2000]))  # in one piece, whoever else writes

    def _base(self) -> helios_shm.Workspace:
        if self._held and self._chance.random() < 0.6:
            return self._chance.choice(self._held)[0].fork()
        return self._engine.empty.fork()

    def detached(self) -> None:
        """A state without a branch; held, given to others, or neither."""
        number, ws = self._chance.randrange(STATES), self._base()
        edits_to(number, ws)
        snapshot = ws.commit().snapshot
        if self._chance.random() < 0.5:
            self._board.put(self._chance.randrange(BOARD_SLOTS), bytes.fromhex(snapshot.id), number)
        if self._chance.random() < 0.6:
            self._held.append((snapshot, number))

    def on_branch(self) -> None:
        branch = self._engine.branch(f"{self._name}/{self._chance.randrange(2)}")
        number = self._chance.randrange(STATES)
        with branch.transaction(f"{number}") as ws:
            edits_to(number, ws)
        if self._chance.random() < 0.3:
            with contextlib.suppress(NotFoundError):
                self._held.append((branch.last_commit.snapshot, number))

    def delete(self) -> None:
        with contextlib.suppress(NotFoundError):
            self._engine.branch(f"{self._name}/{self._chance.randrange(2)}").delete()

    def look(self) -> None:
        if self._held:
            snapshot, number = self._chance.choice(self._held)
            for fault in faults(self._engine, snapshot, number, self._name):
                self.say(fault)

    def take(self) -> None:
        """An id that somebody gave: it is whole, or it is not there."""
        id, number = self._board.get(self._chance.randrange(BOARD_SLOTS))
        if not any(id):
            return
        try:
            snapshot = self._engine.snapshot(id.hex())
        except NotFoundError:
            return
        for fault in faults(self._engine, snapshot, number, f"{self._name}, who was given it,"):
            self.say(fault)
        self._held.append((snapshot, number))

    def let_go(self) -> None:
        self._chance.shuffle(self._held)
        del self._held[self._chance.randrange(HELD_MAX) :]

    def fork(self) -> None:
        """A child that uses what it inherited only when this process has let go of it, perhaps long after."""
        pid = os.fork()
        if pid == 0:
            self._as_child()
        self._children.append(pid)
        if self._held:
            self._held.pop()
        while len(self._children) > 2:
            os.waitpid(self._children.pop(0), 0)

    def _as_child(self) -> None:
        try:
            time.sleep(self._chance.random() * 0.2)  # meanwhile others collect
            for snapshot, number in self._held[-2:]:
                for fault in faults(self._engine, snapshot, number, f"a child of {self._name}"):
                    self.say(fault)
        except BaseException:
            self.say(f"a child of {self._name}: {traceback.format_exc()}")
        finally:
            os._exit(0)


class Board:
    """Ids that workers give each other, in memory that all of them share."""

    _SIZE = 34

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, self._SIZE * BOARD_SLOTS)

    def put(self, slot: int, id: bytes, number: int) -> None:
        self._memory[slot * self._SIZE : (slot + 1) * self._SIZE] = id + number.to_bytes(2, "little")

    def get(self, slot: int) -> tuple[bytes, int]:
        data = self._memory[slot * self._SIZE : (slot + 1) * self._SIZE]
        return data[:32], int.from_bytes(data[32:], "little")


def work(engine: Engine, pipe: Connection, board: Board, name: str, seed: str) -> None:
    try:
        Hand(engine, pipe, board, name, seed).live()
    except (EOFError, BrokenPipeError):
        pass
    except BaseException:
        pipe.send(("violation", f"{name}: {traceback.format_exc()}"[:2000]))


# ---- the oracle ----


class Worker:
    def __init__(self, engine: Engine, board: Board, name: str, seed: str) -> None:
        self.name = name
        self.pipe, theirs = FORK.Pipe(duplex=False)
        self.process = FORK.Process(target=work, args=(engine, theirs, board, name, seed))
        self.process.start()
        theirs.close()

    def hear(self, outcome: Outcome) -> None:
        with contextlib.suppress(EOFError):
            while self.pipe.poll():
                kind, text = self.pipe.recv()
                if kind == "violation":
                    outcome.violate(text)
                else:
                    outcome.count("acts")
                    if text in ("detached", "on_branch"):
                        outcome.count("commits")

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def prove(run: Run) -> Outcome:
    outcome = Outcome(figures={"collections": 0, "commits": 0, "deaths": 0})
    path = run.directory / "store"
    with helios_shm.open(path, l1_bytes=RING_BYTES) as engine:
        oracle = Oracle(run, outcome, engine, path)
        try:
            oracle.collect()
        finally:
            oracle.end()
        if outcome.violations:
            kill_coordinators(path)
            return outcome
        oracle.collect_once()
        oracle.read_all()
        outcome.violations += engine.check().damage
    until_nothing_runs(path)
    with helios_shm.open(path, create=False, l1_bytes=RING_BYTES) as engine:
        Oracle(run, outcome, engine, path).read_all()
        outcome.violations += engine.check().damage
    until_nothing_runs(path)
    if run.mutant is None:
        outcome.reached("collections", run.times(20))
        outcome.reached("commits", run.times(500))
    return outcome


class Oracle:
    """Collects, kills, and reads what the branches have."""

    def __init__(self, run: Run, outcome: Outcome, engine: Engine, path: Path) -> None:
        self._run, self._outcome, self._engine, self._path = run, outcome, engine, path
        self._chance = run.chance("collect")
        self._board = Board()
        self._workers: list[Worker] = []
        self._born = 0

    def collect(self) -> None:
        """For as long as it takes."""
        seconds = (
            COLLECTING_SECONDS * self._run.scale if self._run.mutant is None else COLLECTING_SECONDS_MUTANT
        )
        end = time.monotonic() + seconds
        while time.monotonic() < end and not (self._run.mutant and self._outcome.violations):
            while len(self._workers) < WORKERS:
                self._born += 1
                name = f"worker {self._born}"
                self._workers.append(Worker(self._engine, self._board, name, f"{self._run.seed}/{name}"))
            self.collect_once()
            self.read_all()
            for worker in self._workers:
                worker.hear(self._outcome)
            self._kill_some()

    def collect_once(self) -> None:
        try:
            report = self._engine.gc(history=HISTORY, grace=timedelta(0))
        except BusyError:
            return self._outcome.count("collections that were given up")
        except HeliosError as error:
            return self._outcome.violate(f"a collection failed: {error!r}")
        self._outcome.count("collections")
        self._outcome.count("MiB freed", round(report.freed_bytes / (1 << 20), 1))
        figures = self._outcome.figures
        figures["ms of the longest pause"] = max(
            figures.get("ms of the longest pause", 0), report.pause_ns // 10**6
        )
        return None

    def read_all(self) -> None:
        """Every commit of every branch."""
        for name in self._engine.branches():
            try:
                self._read(self._engine.branch(name))
            except HeliosError:
                self._outcome.violate(f"branch {name}: {traceback.format_exc()}")

    def _read(self, branch: Branch) -> None:
        try:
            commits = list(branch.log(HISTORY))
        except NotFoundError:  # deleted just now; perhaps it is there again
            return
        self._outcome.count("commits read out of logs", len(commits))
        for commit in commits:
            number = int(commit.message)
            for fault in faults(self._engine, commit.snapshot, number, f"the log of {branch.name}"):
                self._outcome.violate(fault)

    def _kill_some(self) -> None:
        if self._chance.random() < WORKER_DEATH_SHARE:
            victim = self._workers.pop(self._chance.randrange(len(self._workers)))
            victim.kill()
            victim.hear(self._outcome)
            self._outcome.count("deaths")
        if self._chance.random() < COORDINATOR_DEATH_SHARE:
            for pid in coordinators(self._path):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                self._outcome.count("deaths")

    def end(self) -> None:
        for worker in self._workers:
            worker.kill()
            worker.hear(self._outcome)
        self._workers = []
