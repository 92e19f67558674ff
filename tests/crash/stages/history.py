"""Every outcome on a branch's head, with its times, is held against one order of events.

    undisturbed  four processes on three branches: reads, waits, commits (with and without rebase), transactions,
                 compare_and_set; on one of the branches one of them deletes it again and again
    killed       the same without deletions, while processes are killed and others take their place: an operation
    without
                 an answer may have taken effect, or not; the log says which, once for all

Each process writes what it is about to do, with CLOCK_MONOTONIC, into memory that this process gave it, then does it,
then writes the time and the outcome: who is killed in between leaves an operation without an answer. Each state that
is committed is new (it has the number of the operation that made it under its process's name), so ids are unique, and
each change names the id that it replaced: tests/crash/linearizable.py then decides exactly. What the log says must be
the same chain.

A deletion does not say what it replaced. One process alone deletes: it looks before it does, and so knows in which
life of the branch that was; what it replaced is the last of that life's chain.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import time
import traceback
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import helios_shm
from helios_shm.errors import ConflictError, HeliosError, NotFoundError
from tests.crash.linearizable import FOREVER, Change, Failure, Glimpse, Read, chain, check
from tests.crash.stage import Outcome, Run
from tests.crash.tree import Mutant

TITLE = "history check"
SECONDS = 20.0

WORKERS = 4
OPERATIONS_EACH = 45_000
# Enough to find a seeded bug.
OPERATIONS_EACH_MUTANT = 12_000
# With kills: so many processes, each of which would do so many operations, if it is not killed before.
LIVES, OPERATIONS_A_LIFE = 48, 700
RING_BYTES = 64 << 20
STEADY = ("one", "two")
MORTAL = "mortal"
BRANCHES = (*STEADY, MORTAL)

MUTANTS = (
    Mutant(
        "a head is stored, not compared",
        "csrc/hs_branch.c",
        """    if (!hs_cas_seq_cst(&segment->branches[slot].head, expected, desired))
        return false; /* E3 (release end) */
""",
        """    (void)expected;
    hs_store_release(&segment->branches[slot].head, desired);
""",
        "two that built on the same head both replace it",
    ),
    Mutant(
        "a handle believes the head that it knows",
        "helios_shm/branch.py",
        "                word == known_word\n",
        "                (word == known_word or hash(word) % 64 == 0)\n",
        "now and then a read gives what was replaced long ago",
    ),
    Mutant(
        "a comparison fails without a reason",
        "csrc/hs_commit.c",
        "        if (memcmp(head->root, state->expected_root, HS_HASH_SIZE) == 0) return HS_OK;\n",
        """        if (memcmp(head->root, state->expected_root, HS_HASH_SIZE) == 0)
            return head->sequence % 32 == 7 ? HS_MOVED : HS_OK;
""",
        "the head was what was expected, all the time",
    ),
)

# operation, branch, outcome, padding, number, called, answered, id, id
RECORD = struct.Struct("<BBBBIqq32s32s")
READ, COMMIT, STRICT, SET, DELETE, WAIT, TRANSACTION = range(1, 8)
# Outcomes: changed (id: old, id: new), saw (id), absent, failed (id that should have been there), created (new).
CHANGED, SAW, ABSENT, FAILED, CREATED, NOTHING = range(1, 7)
NO_ID = bytes(32)


class Operation(NamedTuple):
    """One of a process's operations, as it left it. ``answered`` 0: never."""

    worker: int
    what: int
    branch: int
    outcome: int
    number: int
    called: int
    answered: int
    first: bytes
    second: bytes

    @property
    def who(self) -> str:
        names = ("", "read", "commit", "strict commit", "compare_and_set", "delete", "wait", "transaction")
        return f"{names[self.what]} {self.number} of worker {self.worker}"


def _id(snapshot: helios_shm.Snapshot) -> bytes:
    return bytes.fromhex(snapshot.id)


# ---- a worker's process ----


class Hand:
    """One process: does operations, and writes each down before and after."""

    def __init__(self, engine: helios_shm.Engine, memory: mmap.mmap, worker: int, seed: str) -> None:
        self._engine = engine
        self._memory = memory
        self._worker = worker
        self._chance = random.Random(f"{seed}/{worker}")
        self._branches = [engine.branch(name) for name in BRANCHES]
        self._seen: list[helios_shm.Snapshot | None] = [None for _ in BRANCHES]
        self._empty = engine.empty

    def work(self, count: int, branches: int, deletes: bool) -> None:
        """So many operations on the first so many branches."""
        chance = self._chance
        kinds = (READ, COMMIT, STRICT, SET, WAIT, TRANSACTION)
        plan = chance.choices(kinds, (34, 24, 10, 14, 8, 10), k=count)
        where = chance.choices(range(branches), k=count)
        for number in range(count):
            what, branch = plan[number], where[number]
            if deletes and BRANCHES[branch] == MORTAL and chance.random() < 0.1:
                what = DELETE
            elif what == SET:
                self._set(number, branch)
                continue
            self._do(number, what, branch)

    def _write(
        self, number: int, what: int, branch: int, outcome: int, times: tuple[int, int], *ids: bytes
    ) -> None:
        first, second = (*ids, NO_ID, NO_ID)[:2]
        RECORD.pack_into(
            self._memory, number * RECORD.size, what, branch, outcome, 0, number, *times, first, second
        )

    def _do(self, number: int, what: int, branch: int) -> None:
        # Who deletes looks before, and only deletes what it has seen: so it knows in which life.
        before = self._look(branch) if what == DELETE else NO_ID
        if what == DELETE and before == NO_ID:
            what = READ
        called = time.monotonic_ns()
        self._write(number, what, branch, NOTHING, (called, 0), before)
        outcome, *ids = self._result(number, what, branch, before)
        self._write(number, what, branch, outcome, (called, time.monotonic_ns()), *ids)

    def _look(self, branch: int) -> bytes:
        try:
            return _id(self._branches[branch].last_commit.snapshot)
        except NotFoundError:
            return NO_ID

    def _result(self, number: int, what: int, branch: int, before: bytes) -> tuple[int, *tuple[bytes, ...]]:
        handle = self._branches[branch]
        if what == DELETE:
            handle.delete()
            return CHANGED, before
        if what == READ:
            return self._saw(branch, handle.head)
        if what == WAIT and number % 4:
            commit = handle.wait(after=0, timeout=0)
            return self._saw(branch, commit.snapshot) if commit is not None else (ABSENT,)
        if what == WAIT:
            commit = handle.wait(timeout=0.001)
            return self._saw(branch, commit.snapshot) if commit is not None else (NOTHING,)
        return self._commit(number, what, handle)

    def _saw(self, branch: int, head: helios_shm.Snapshot) -> tuple[int, *tuple[bytes, ...]]:
        self._seen[branch] = head
        return (ABSENT,) if head == self._empty else (SAW, _id(head))

    def _mark(self, number: int) -> tuple[str, bytes]:
        """What makes a state unlike any other."""
        return f"{self._worker}", b"%d" % number

    def _commit(self, number: int, what: int, handle: helios_shm.Branch) -> tuple[int, *tuple[bytes, ...]]:
        path, mark = self._mark(number)
        workspace = handle.fork()
        base = workspace.base
        workspace[path] = mark
        message = f"{self._worker}.{number}"
        # From the empty state a commit makes the branch or follows whoever did, whatever it is told.
        rebase = what == COMMIT or base == self._empty
        try:
            if what == TRANSACTION and not rebase:
                with handle.transaction(message, rebase=False) as workspace:
                    base = workspace.base
                    workspace[path] = mark
                made = _id(workspace.base)
                return (CREATED, made) if base == self._empty else (CHANGED, _id(base), made)
            commit = workspace.commit(message, rebase=rebase)
        except ConflictError:
            return FAILED, _id(base)
        except NotFoundError:
            return FAILED, _id(base), b"life".ljust(32)
        if not commit.parents:
            return CREATED, _id(commit.snapshot)
        return CHANGED, _id(commit.parents[0]), _id(commit.snapshot)

    def _set(self, number: int, branch: int) -> None:
        """Compare and set, from what this process saw last to a state that is made ready before."""
        expected = self._seen[branch]
        if expected is None or expected == self._empty:
            return self._do(number, READ, branch)
        path, mark = self._mark(number)
        workspace = expected.fork()
        workspace[path] = mark
        made = workspace.commit().snapshot
        ids = _id(expected), _id(made)
        called = time.monotonic_ns()
        self._write(number, SET, branch, NOTHING, (called, 0), *ids)
        try:
            outcome = CHANGED if self._branches[branch].compare_and_set(expected, made) else FAILED
        except NotFoundError:
            outcome = ABSENT
        self._write(number, SET, branch, outcome, (called, time.monotonic_ns()), *ids)
        return None


# ---- from what processes wrote to a history ----


def operations(memory: mmap.mmap, worker: int) -> Iterator[Operation]:
    """What a process has begun, in its order."""
    for what, branch, outcome, _, number, called, answered, first, second in RECORD.iter_unpack(memory):
        if what == 0:
            return
        yield Operation(worker, what, branch, outcome, number, called, answered, first, second)


@dataclass
class History:
    """What was seen of one branch."""

    changes: list[Change] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    glimpses: list[Glimpse] = field(default_factory=list)
    # Operations that cannot be entered before all changes are known.
    created: list[Operation] = field(default_factory=list)
    deleted: list[Operation] = field(default_factory=list)
    absent: list[Operation] = field(default_factory=list)
    of_lives: list[Operation] = field(default_factory=list)

    def add(self, operation: Operation) -> None:
        first, second = operation.first, operation.second
        times = _times(operation)
        match operation.outcome:
            case _ if operation.what == DELETE and operation.outcome == CHANGED:
                self.deleted.append(operation)
            case _ if operation.outcome == CHANGED:
                self.changes.append(Change(first, second, *times))
            case _ if operation.outcome == CREATED:
                self.created.append(operation)
            case _ if operation.outcome == SAW:
                self.reads.append(Read(first, *times))
            case _ if operation.outcome == FAILED and operation.what != SET and second != NO_ID:
                self.of_lives.append(operation)
            case _ if operation.outcome == FAILED:
                self.failures.append(Failure(first, first, *times))
            case _ if operation.outcome == ABSENT:
                self.absent.append(operation)
            case _:
                raise AssertionError(f"{operation} has no outcome")

    def judge(self) -> list[str]:
        """What is wrong with it."""
        after = {change.old: change.new for change in self.changes}
        lives = {each.first: _life(each.first, after) for each in self.created}
        life_of = {id: lives[first] for first, ids in lives.items() for id in ids}
        strange = [each for each in (*self.deleted, *self.of_lives) if each.first not in life_of]
        if strange:
            return [f"{each.who} saw {each.first.hex()[:12]}, which was made by nobody" for each in strange]
        # In the order in which they were ended; one may not have been.
        order = [life_of[each.first] for each in self.deleted]
        order += [ids for ids in lives.values() if not any(ids is ended for ended in order)]
        if not len(self.deleted) <= len(order) <= len(self.deleted) + 1 or len(order) != len(lives):
            return [f"{len(lives)} lives of a branch were begun, and {len(self.deleted)} ended"]
        absent: list[Hashable] = [("absent", i) for i in range(len(self.deleted) + 1)]
        number = {ids[0]: i for i, ids in enumerate(order)}
        for each in self.created:
            self.changes.append(Change(absent[number[each.first]], each.first, *_times(each)))
        for i, each in enumerate(self.deleted):
            self.changes.append(Change(order[i][-1], absent[i + 1], *_times(each)))
        for each in self.of_lives:
            ids = life_of[each.first]
            self.failures.append(Failure(ids[0], ids[-1], *_times(each)))
        self.glimpses += [Glimpse(absent, *_times(each)) for each in self.absent]
        return check(absent[0], self.changes, self.reads, self.failures, self.glimpses)


def _times(operation: Operation) -> tuple[int, int, str]:
    return operation.called, operation.answered or FOREVER, operation.who


def _life(first: bytes, after: dict[Hashable, Hashable]) -> list[Hashable]:
    """The ids of a branch's life, from its first on."""
    ids: list[Hashable] = [first]
    while (id := after.pop(ids[-1], None)) is not None:
        ids.append(id)
    return ids


# ---- runs ----


class Player:
    """A process that works, and the memory that it writes to."""

    def __init__(self, engine: helios_shm.Engine, worker: int, seed: str, count: int, branches: int) -> None:
        self.worker = worker
        self.memory = mmap.mmap(-1, (count + 1) * RECORD.size)  # a record of zeros ends it
        self.pid = os.fork()
        if self.pid == 0:
            try:
                Hand(engine, self.memory, worker, seed).work(count, branches, deletes=worker == 0)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)

    def done(self) -> int:
        """How many operations it has begun; read while it works, so about."""
        low, high = 0, len(self.memory) // RECORD.size - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.memory[middle * RECORD.size] else (low, middle)
        return low

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def end(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def undisturbed(run: Run, outcome: Outcome) -> None:
    """All at work until each is done."""
    seed, where = f"{run.seed}/undisturbed", f"seed {run.seed}, undisturbed"
    with helios_shm.open(run.directory / "undisturbed", l1_bytes=RING_BYTES) as engine:
        count = run.times(OPERATIONS_EACH) if run.mutant is None else OPERATIONS_EACH_MUTANT
        players = [Player(engine, worker, seed, count, len(BRANCHES)) for worker in range(WORKERS)]
        for player in players:
            outcome.expect(
                (status := player.end()) == 0, f"worker {player.worker} ended with {status} ({where})"
            )
        judge(outcome, engine, players, where)


def killed(run: Run, outcome: Outcome) -> None:
    """Some are killed while they work, and others take their places."""
    seed, where = f"{run.seed}/killed", f"seed {run.seed}, killed"
    chance = run.chance("killed")
    with helios_shm.open(run.directory / "killed", l1_bytes=RING_BYTES) as engine:
        players: list[Player] = []
        working: list[Player] = []
        for worker in range(1, 1 + run.times(LIVES)):
            players.append(Player(engine, worker, seed, OPERATIONS_A_LIFE, len(STEADY)))
            working.append(players[-1])
            if len(working) == WORKERS:
                victim = working.pop(chance.randrange(WORKERS))
                least = chance.randrange(OPERATIONS_A_LIFE * 3 // 4)
                while victim.done() < least:
                    time.sleep(0.001)
                victim.kill()
        for player in working:
            outcome.expect(
                (status := player.end()) == 0, f"worker {player.worker} ended with {status} ({where})"
            )
        outcome.count("processes killed", len(players) - len(working))
        judge(outcome, engine, players, where)


def judge(outcome: Outcome, engine: helios_shm.Engine, players: list[Player], where: str) -> None:
    """Each branch's history, and what the log says."""
    histories = {branch: History() for branch in range(len(BRANCHES))}
    logs = {branch: Log(engine, name) for branch, name in enumerate(BRANCHES)}
    for player in players:
        for operation in operations(player.memory, player.worker):
            if not operation.answered:
                outcome.count("without an answer")
                resolved = logs[operation.branch].resolve(operation)
                if resolved is not None:
                    outcome.count("of them done", resolved.outcome in (CHANGED, CREATED))
                    histories[operation.branch].add(resolved)
            elif operation.outcome != NOTHING:
                histories[operation.branch].add(operation)
            outcome.count("operations")
    for branch, history in histories.items():
        outcome.count("changes", len(history.changes) + len(history.created) + len(history.deleted))
        outcome.count("failures", len(history.failures) + len(history.of_lives))
        found = history.judge() or logs[branch].differs(history)
        for sentence in found:
            outcome.violate(f"branch {BRANCHES[branch]}: {sentence} ({where})")


class Log:
    """What a branch's log says when all have ended."""

    def __init__(self, engine: helios_shm.Engine, name: str) -> None:
        try:
            self._commits = list(engine.branch(name).log())
        except NotFoundError:
            self._commits = []
        self._by_message = {commit.message: commit for commit in self._commits if commit.message}
        self._by_id = {_id(commit.snapshot): commit for commit in self._commits}

    def resolve(self, operation: Operation) -> Operation | None:
        """An operation that got no answer: what it has done, if it has done anything."""
        if operation.what == SET:
            commit = self._by_id.get(operation.second)
        else:
            commit = self._by_message.get(f"{operation.worker}.{operation.number}")
        if commit is None:
            return None
        old = _id(commit.parents[0]) if commit.parents else NO_ID
        new = _id(commit.snapshot)
        if old == NO_ID:
            return operation._replace(outcome=CREATED, first=new)
        return operation._replace(outcome=CHANGED, first=old, second=new)

    def differs(self, history: History) -> list[str]:
        """The log, from its first commit, is the end of the chain that the changes form."""
        ordered, _ = chain(("absent", 0), history.changes)
        ids = [change.new for change in ordered][-len(self._commits) :] if self._commits else []
        said = [_id(commit.snapshot) for commit in reversed(self._commits)]
        return (
            []
            if ids == said
            else [f"its log of {len(said)} commits is not the end of the chain of {len(ordered)}"]
        )


def prove(run: Run) -> Outcome:
    outcome = Outcome()
    for part in (undisturbed, killed):
        if run.mutant is None or not outcome.violations:
            try:
                part(run, outcome)
            except HeliosError as error:
                outcome.violate(f"{part.__name__} (seed {run.seed}) raised {type(error).__name__}: {error}")
    if run.mutant is None:
        outcome.reached("operations", run.times(100_000))
    return outcome
