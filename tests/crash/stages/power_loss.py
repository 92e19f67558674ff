"""Power loss: workers and coordinators at work on a store, the disk after a power cut at any instant of it, and what
the library makes of each such disk.

    power_work.py under record_io.c --log--> power_loss.py --states of the disk--> other processes, after a restart:

        the store is there, or there is none and nothing was acknowledged; it opens, or is made
        each commit that was acknowledged durable is in its branch's log, once, at its place, with its whole state
        each log is a chain, and holds nothing that nobody committed, and nothing without what came before it
        engine.check() finds no damage
        in every fifth state a coordinator is started and work goes on: a new commit works and is durable; of those,
        some are opened once more, after another restart

Four of five states are read as the cut has left them, before any coordinator has mended anything, eight by one process
one after another. Runs make their store in directories that are new as well, or (every fourth) inside one that stays.

The oracle is this process: it knows what was tried and acknowledged from the notes that stand in the same log as the
file operations, and values by what they are made from. What was acknowledged before the cut must be there; what was
tried may be; a branch that one worker alone moves must stand where it stood after some try since its last
acknowledgement.

Of each two runs the second begins on a disk that the first left when its power went. The recorded store is on a memory
file system, and the recorder makes syncs take time: what matters is the order, and what a sync covers.

What it does not prove: that this machine's file system and disk keep what the model takes for certain.
"""

from __future__ import annotations

import gc
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import helios_shm
from helios_shm import Commit, Snapshot, config, l2, lifecycle
from helios_shm.check import look_at_files
from helios_shm.config import L1_BYTES_MIN
from helios_shm.engine import Engine
from helios_shm.errors import HeliosError, NotFoundError
from helios_shm.hashing import blake3
from helios_shm.store import StorePaths
from tests.crash.power_loss import (
    NOTE,
    RENAME,
    SYNC_END,
    Disk,
    Event,
    Found,
    Image,
    draw_plan,
    find_all,
    read_log,
)
from tests.crash.power_work import SHARED, Nursery, Recipe, value_of
from tests.crash.stage import Outcome, Run
from tests.crash.tree import ROOT, Mutant
from tests.programs import untraced

TITLE = "power loss"
SECONDS = 75.0
MUTANTS = (
    Mutant(
        "acknowledged before the transaction",
        "helios_shm/attachment.py",
        "target = self._with_engine(lib.hs_round_target)",
        "target = 0",
        "who waits goes on before anything is on disk",
    ),
    Mutant(
        "database not synced",
        "helios_shm/l2.py",
        "mode=0o700, sync=sync,",
        "mode=0o700, sync=False,",
        "MDB_NOSYNC",
    ),
    Mutant(
        "database's meta page not synced",
        "helios_shm/l2.py",
        "metasync=sync,",
        "metasync=False,",
        "MDB_NOMETASYNC: the newest transaction may be lost",
    ),
    Mutant(
        "blob not synced",
        "helios_shm/blobs.py",
        "            _sync_one(fd, path, id, anew)",
        "            pass",
        "a row names a file whose bytes are not on disk",
    ),
    Mutant(
        "blob synced after its row",
        "helios_shm/coordinator.py",
        """                self._sync_blobs()
                lib.hs_step_hit(b"txn_before")
            lib.hs_step_hit(b"txn_after")""",
        """                lib.hs_step_hit(b"txn_before")
            lib.hs_step_hit(b"txn_after")
            self._sync_blobs()""",
        "between the two the row is there and the file is not",
    ),
    Mutant(
        "blob's name not synced",
        "helios_shm/blobs.py",
        """    for directory in directories:
        fsync_directory(directory)""",
        """    for directory in directories:
        pass""",
        "the file was renamed, and its directory does not know",
    ),
    Mutant(
        "blob's directory not synced",
        "helios_shm/blobs.py",
        "        fsync_directory(store.blobs)",
        "        pass",
        "the directory of the first file in it was made, and blobs/ does not know",
    ),
    Mutant(
        "locator believed after a restart",
        "helios_shm/coordinator.py",
        "mark = info.mark if info.boot_id == self._boot_id else min(info.mark, info.checkpoint)",
        "mark = info.mark",
        "rows below the mark were in memory only",
    ),
    Mutant(
        "store not synced before it has its name",
        "helios_shm/lifecycle.py",
        "            for directory in (paths.locks, paths.blobs, paths.db, paths.root):",
        "            for directory in (paths.locks, paths.root):",
        "half a store under its name",
    ),
    Mutant(
        "way to the store not synced",
        "helios_shm/lifecycle.py",
        "            _way_sync(parent)",
        "            pass",
        "a directory above the store was made, and its parent does not know",
    ),
)

STATES_MIN = 1500
RUNS = 6
_STEPS = 12
_SYNC_MICROSECONDS = 300
_AT_ONCE = 3
_DRAWS = 3  # states for each instant
_WRITTEN = 5  # in one state of so many work goes on
_REOPENED = 40  # one of so many is opened after another restart
_FULLY_CHECKED = 60  # one of so many by engine.check() itself
_CONTROL_STATES_MAX = 90
_PASSES_MAX = 8
_KEPT_MAX = 4
_READ_BY_ONE = 8  # states that are only read, by one process
_SECONDS_A_LOOK_MAX = 90.0
_DURABLE_SECONDS = 20.0
_SHM = Path("/dev/shm")
_GOOD = "good"

Edits = dict[str, Recipe | None]


@cache
def _value(recipe: tuple[int, ...]) -> bytes:
    return value_of(list(recipe))


@cache
def _value_id(recipe: tuple[int, ...]) -> str:
    return blake3(_value(recipe)).hex()


# ---- what must be there -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Op:
    """Something that a worker tried. ``branch`` None: a detached commit. ``edits`` None: the branch is deleted."""

    id: str
    branch: str | None
    edits: Edits | None
    sequence: int | None = None
    root: str | None = None
    durable: bool = False

    @property
    def worker(self) -> str:
        return self.id.partition("/")[0]


@dataclass
class Expected:
    """What is known at one instant, from the notes up to it."""

    made: bool = False
    ops: dict[str, Op] = field(default_factory=dict)  # in the order in which they were tried

    def copy(self) -> Expected:
        return Expected(self.made, dict(self.ops))

    def hear(self, note: dict[str, Any]) -> None:
        if "made" in note:
            self.made = True
        elif "try" in note:
            tried = note["try"]
            self.ops[tried["id"]] = Op(tried["id"], tried["branch"], tried.get("edits"))
        elif "done" in note:
            done = self.ops[note["done"]]
            self.ops[done.id] = replace(done, sequence=note["sequence"], root=note["root"])
        elif "durable" in note:
            for id in note["durable"]:
                self.ops[id] = replace(self.ops[id], durable=True)
        else:
            self._restart(note["found"])

    def _restart(self, found: dict[str, list[str]]) -> None:
        """A run begins on what another left: what was found then is on disk, and what was not will never be."""
        there = {id for ids in found.values() for id in ids}
        self.ops = {
            op.id: replace(op, durable=True)
            for op in self.ops.values()
            if op.id in there or (op.branch is None and op.durable)
        }

    def of_branch(self, name: str | None) -> list[Op]:
        return [op for op in self.ops.values() if op.branch == name]

    def branches(self) -> set[str]:
        return {op.branch for op in self.ops.values() if op.branch is not None}


# ---- looking at a state: in a process of its own ----------------------------------------------------------


class _Broken(Exception):
    """A promise was not kept; says which."""


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise _Broken(sentence)


def _open(store: Path, expected: Expected) -> Engine:
    try:
        return helios_shm.open(store, create=False, l1_bytes=L1_BYTES_MIN)
    except NotFoundError:
        durable = [op.id for op in expected.ops.values() if op.durable]
        _require(not durable, f"the store is gone, with the durable commits {durable}")
    return helios_shm.open(store, l1_bytes=L1_BYTES_MIN)


def _check_store(engine: Engine, expected: Expected) -> None:
    there = set(engine.branches())
    unknown = there - expected.branches()
    _require(not unknown, f"branches that nobody made: {sorted(unknown)}")
    read: set[tuple[int, ...]] = set()
    for name in sorted(expected.branches()):
        log = list(engine.branch(name).log())[::-1] if name in there else []
        ids = [commit.message for commit in log]
        if name == SHARED:
            _check_shared(ids, expected.of_branch(name))
        else:
            _check_alone(name, ids, expected.of_branch(name))
        _check_chain(name, log, expected, read)
    for op in expected.of_branch(None):
        if op.durable:
            state = op.edits or {}
            _check_state(
                f"detached commit {op.id}", engine.snapshot(op.root or ""), state, state, state, read
            )


def _check_shared(ids: list[str], ops: list[Op]) -> None:
    """Workers take turns: each has its commits in its order, without a gap, up to the last durable one or beyond."""
    _require(len(ids) == len(set(ids)), f"branch {SHARED}: a commit is there twice: {ids}")
    for worker in {op.worker for op in ops} | {id.partition("/")[0] for id in ids}:
        theirs = [op for op in ops if op.worker == worker]
        found = [id for id in ids if id.partition("/")[0] == worker]
        tried = [op.id for op in theirs]
        lost = [op.id for op in theirs if op.durable and op.id not in found]
        _require(not lost, f"branch {SHARED}: durable commits are lost: {lost}")
        _require(found == tried[: len(found)], f"branch {SHARED} has {found} of {worker}, who tried {tried}")


def _check_alone(name: str, ids: list[str], ops: list[Op]) -> None:
    """One worker moved it: it stands as after one of its tries, none older than the last durable one."""
    allowed: list[list[str]] = [[]]
    for op in ops:
        after = [] if op.edits is None else [*allowed[-1], op.id]
        allowed = [after] if op.durable else [*allowed, after]
    _require(ids in allowed, f"branch {name} holds {ids}, which is none of {allowed}")


def _check_chain(name: str, log: list[Commit], expected: Expected, read: set[tuple[int, ...]]) -> None:
    before: str | None = None
    state: Edits = {}
    for place, commit in enumerate(log, 1):
        op, what = expected.ops[commit.message], f"commit {commit.message} of branch {name}"
        parents = [snapshot.id for snapshot in commit.parents]
        _require(commit.sequence == place, f"{what} has sequence {commit.sequence}, at place {place}")
        _require(parents == ([before] if before else []), f"{what} has parents {parents} after {before}")
        before = commit.snapshot.id
        if op.root is not None:
            said = (op.sequence, op.root)
            _require(said == (place, before), f"{what} is {(place, before)}, and was acknowledged as {said}")
        state.update(op.edits or {})
        edits = op.edits or {}
        _check_state(what, commit.snapshot, state, state if place == len(log) else edits, edits, read)


def _check_state(
    what: str,
    snapshot: Snapshot,
    state: Edits,
    named: Edits,
    values: Edits,
    read: set[tuple[int, ...]],
) -> None:
    """All keys of the state are there (so all of its nodes are), these paths name the values that were committed, and
    these values are there, byte for byte; each value is read once."""
    keys = sorted(path for path, recipe in state.items() if recipe is not None)
    _require(list(snapshot) == keys, f"{what} has other keys than were committed")
    for path, recipe in named.items():
        if recipe is not None:
            _require(
                snapshot.stat(path).id == _value_id(tuple(recipe)), f"{what} names another value at {path}"
            )
    for path, recipe in values.items():
        if recipe is not None and tuple(recipe) not in read:
            read.add(tuple(recipe))
            _require(snapshot[path] == _value(tuple(recipe)), f"{what} has another value at {path}")


def _check_damage(engine: Engine, state: State) -> None:
    """By engine.check(), which starts a process of its own; in most states by what runs in that process."""
    if state.number % _FULLY_CHECKED == 0:
        damage = engine.check().damage
    else:
        damage = tuple(look_at_files(StorePaths(engine.path)))
    _require(not damage, f"engine.check(): {'; '.join(damage)}")


def _new_edits(expected: Expected, rng: random.Random) -> dict[str, Recipe]:
    """A value of each kind; of files, one that the lost run may have left behind, whole or not."""
    recipes = [recipe for op in expected.ops.values() for recipe in (op.edits or {}).values() if recipe]
    files = [recipe for recipe in recipes if recipe[0] >= config.BLOB_BYTES_MIN]
    edits = {"new/small": [8, rng.randrange(99), 0], "new/value": [500, rng.randrange(99), 0]}
    if files:
        edits["new/file"] = rng.choice(files)
    return edits


def _check_goes_on(engine: Engine, edits: dict[str, Recipe]) -> None:
    branch = engine.branch(SHARED)
    before = branch.last_commit.sequence or 0 if SHARED in engine.branches() else 0
    with branch.transaction("new", durable=True) as workspace:
        for path, recipe in edits.items():
            workspace[path] = _value(tuple(recipe))
    _require(
        branch.last_commit.sequence == before + 1,
        f"a new commit comes after {before} others, and is not next",
    )
    _check_new(engine, edits)


def _check_new(engine: Engine, edits: dict[str, Recipe]) -> None:
    commit = engine.branch(SHARED).last_commit
    _require(commit.message == "new", f"the new commit is not the head: {commit.message}")
    for path, recipe in edits.items():
        _require(
            commit.snapshot[path] == _value(tuple(recipe)), f"the new commit has another value at {path}"
        )


def _look(state: State) -> None:
    """All that is promised of a state. Raises _Broken, or what the library raised."""
    engine = _open(state.store, state.expected)
    try:
        _check_store(engine, state.expected)
        if state.writes:
            _check_goes_on(engine, _new_edits(state.expected, random.Random(state.seed)))
        _check_damage(engine, state)
    finally:
        engine.close(sync=False)


def _look_again(state: State) -> None:
    """After ``_look``, and another restart."""
    with helios_shm.open(state.store, readonly=True, l1_bytes=L1_BYTES_MIN) as engine:
        _check_new(engine, _new_edits(state.expected, random.Random(state.seed)))
        _check_damage(engine, state)


class Look:
    """A process that looks at some states, one after another; or, with a coordinator, at one."""

    def __init__(self, states: list[State], again: bool = False) -> None:
        self.states, self.again = states, again
        self.answer, theirs = os.pipe()
        self.deadline = time.monotonic() + _SECONDS_A_LOOK_MAX
        self.pid = os.fork()
        if self.pid:
            os.close(theirs)
            with suppress(OSError):
                os.setpgid(self.pid, self.pid)
            self.ended = os.pidfd_open(self.pid)
            return
        try:
            os.setpgid(0, 0)
            gc.disable()
            for state in states:
                os.write(theirs, (json.dumps(_looked(state, again)[:3000]) + "\n").encode())
        finally:
            os._exit(0)

    def end(self) -> list[str]:
        """What was found of each state, empty if nothing; of fewer states, if the process did not get through. Nothing
        of it runs afterwards."""
        late = not select.select([self.ended], [], [], 0)[0]
        os.killpg(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.ended)
        with open(self.answer, encoding="utf-8") as answer:
            found = [str(json.loads(line)) for line in answer if line.endswith("\n")]
        if len(found) < len(self.states):
            found.append("it hangs" if late else f"the process that opened it ended with status {status}")
        for state in self.states[: len(found)]:
            _segment_remove(state.store)
        return found


def _segment_remove(store: Path) -> None:
    """Nobody uses it any more, and nobody will: the directory goes as well."""
    with suppress(HeliosError):
        lifecycle.segment_remove(lifecycle.identify(StorePaths(store)).segment_name)


def _looked(state: State, again: bool) -> str:
    boot = random.Random(f"{state.seed}/{again}").randbytes(16)
    vars(l2).update(boot_id=lambda: boot)
    config.DURABLE_DEADLINE = _DURABLE_SECONDS  # type: ignore[misc]
    try:
        if state.writes:
            nursery = Nursery()
            nursery.fork(None)
            lifecycle._spawn = nursery.spawn
        else:
            lifecycle._spawn = lambda paths, start_fd: None
        (_look_again if again else _look)(state)
    except _Broken as broken:
        return str(broken)
    except BaseException:
        return traceback.format_exc(limit=-6)
    return ""


# ---- a recorded run, and states of it ---------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """A state of the disk, made real."""

    number: int
    label: str
    seed: str
    place: Path
    image: Image
    expected: Expected

    @property
    def store(self) -> Path:
        return _store_of(self.place)

    @property
    def writes(self) -> bool:
        """Is a coordinator started, and a new commit made? Otherwise the state is read as the cut has left it."""
        return self.number % _WRITTEN == 0


@dataclass(frozen=True)
class Recording:
    """A run: what the disk held before it, what was known of that, and what happened."""

    number: int
    start: list[Found]
    known: Expected
    events: list[Event]


def _store_of(top: Path) -> Path:
    return top / "new" / "deeper" / "store"


class Proof:
    """The stage's work: runs, states, looks; and what they found."""

    def __init__(self, run: Run, directory: Path, outcome: Outcome) -> None:
        self._run = run
        self._directory = directory  # on a memory file system
        self._outcome = outcome
        self._library = _recorder(run.directory)
        self._looks: list[Look] = []
        self._waiting: list[State] = []  # to be read
        self.found = 0

    # ---- recording ----

    def record(self, number: int, before: Image | None, known: Expected) -> Recording:
        """A run of workers and coordinators on what is there before."""
        top, log = self._directory / f"{number}", self._directory / f"{number}.log"
        top.mkdir()
        if before is not None:
            before.write(top)
        in_place = number % 4 == 2
        if in_place:
            _store_of(top).mkdir(parents=True)
        start = find_all(top)
        self._command(self._plan(number, top, known, in_place), top, log)
        events = read_log(log.read_bytes())
        _segment_remove(_store_of(top))  # the last coordinator may have died
        log.unlink()
        shutil.rmtree(top)
        self._outcome.count("runs")
        self._outcome.count("operations", len(events))
        notes = [json.loads(event.data) for event in events if event.kind == NOTE]
        self._outcome.count("acknowledged", sum(len(note.get("durable", ())) for note in notes))
        renamed = [event for event in events if event.kind == RENAME]
        self._outcome.count("locators", sum(event.other.endswith("/locator") for event in renamed))
        return Recording(number, start, known, events)

    def _plan(self, number: int, top: Path, known: Expected, in_place: bool) -> dict[str, Any]:
        rng = self._run.chance("run", number)
        return {
            "store": str(_store_of(top)),
            "seed": rng.getrandbits(40),
            "boot": rng.randbytes(16).hex(),
            "steps": _STEPS,
            "life": number,
            "again": known.made,
            "in_place": in_place,
            "deaths": [rng.randint(40, 200) for _ in range(20)],
        }

    def _command(self, plan: dict[str, Any], top: Path, log: Path) -> None:
        environment = {
            **untraced(),
            "LD_PRELOAD": str(self._library),
            "RECORD_ROOT": str(top),
            "RECORD_LOG": str(log),
            "RECORD_SYNC": str(_SYNC_MICROSECONDS),
            "PYTHONPATH": str(self._run.tree),
        }
        command = [sys.executable, "-m", "tests.crash.power_work", json.dumps(plan)]
        done = subprocess.run(command, cwd=self._run.tree, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"run {plan['life']} failed: {done.stderr[-3000:]}")

    # ---- states ----

    def examine(self, recording: Recording, count: int, what: str, dropped: Sequence[str] = ()) -> None:
        """Look at so many different states, if there are; stop early where one violation is enough."""
        left, rng = count, self._run.chance("cuts", recording.number, *dropped)
        seen: set[int] = set()
        for _ in range(_PASSES_MAX):
            for image, expected, label in self._states(recording, left, rng, dropped, seen):
                self._begin(image, expected, f"{what}, {label}")
                left -= 1
                if self.found and (dropped or self._run.mutant):
                    left = 0
                if left == 0:
                    break
        self._finish()

    def breaks(self, recording: Recording, dropped: Sequence[str]) -> bool:
        """Does the disk of this run break a promise, if it ignores these syncs?"""
        self.found = 0
        self.examine(recording, _CONTROL_STATES_MAX, "control", dropped)
        return self.found > 0

    def state_of(self, recording: Recording, rng: random.Random) -> tuple[Image, Expected]:
        """A state that the run may leave if power goes in its second half."""
        disk, expected = Disk(recording.start), recording.known.copy()
        for event in recording.events[: rng.randint(len(recording.events) // 2, len(recording.events))]:
            disk.apply(event)
            if event.kind == NOTE:
                expected.hear(json.loads(event.data))
        return disk.lose_power(draw_plan(rng, disk)), expected

    def _states(
        self, recording: Recording, count: int, rng: random.Random, dropped: Sequence[str], seen: set[int]
    ) -> Iterator[tuple[Image, Expected, str]]:
        """States that differ from those seen, at about ``count`` instants, in the order of the run."""
        cuts = Counter(_instants(recording.events, count, rng))
        disk, expected = Disk(recording.start, dropped), recording.known.copy()
        for at, event in enumerate(recording.events, 1):
            disk.apply(event)
            if event.kind == NOTE:
                expected.hear(json.loads(event.data))
            now = expected.copy() if cuts[at] else expected
            for _ in range(cuts[at]):
                seed = rng.getrandbits(32)
                image = disk.lose_power(draw_plan(random.Random(seed), disk))
                promised = tuple(op.id for op in now.ops.values() if op.durable)
                key = hash((promised, image.directories, tuple(image.files.items())))
                if key not in seen:
                    seen.add(key)
                    where = f"cut after operation {at} of {len(recording.events)}"
                    yield image, now, f"{where}, plan {seed} ({image.plan})"

    def _begin(self, image: Image, expected: Expected, label: str) -> None:
        number = int(self._outcome.figures.get("states", 0))
        place = self._directory / f"state-{number}"
        place.mkdir()
        image.write(place)
        state = State(number, label, f"{self._run.seed}/{number}", place, image, expected)
        self._outcome.count("states")
        self._outcome.count("written to", state.writes)
        if state.writes:
            self._look([state])
        else:
            self._waiting.append(state)
        if len(self._waiting) >= _READ_BY_ONE:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._look(self._waiting)
            self._waiting = []

    def _look(self, states: list[State], again: bool = False) -> None:
        while len(self._looks) >= _AT_ONCE:
            self._reap()
        for state in states:
            for op in state.expected.ops.values():
                for recipe in (op.edits or {}).values():
                    _value_id(tuple(recipe or (0, 0, 0)))  # made once, here, for all children
        self._looks.append(Look(states, again))

    def _finish(self) -> None:
        while self._waiting or self._looks:
            self._flush()
            if self._looks:
                self._reap()

    def _reap(self) -> None:
        """Hear from at least one of those that look."""
        left = min(look.deadline for look in self._looks) - time.monotonic()
        ended, _, _ = select.select([look.ended for look in self._looks], [], [], max(0.0, left))
        now = time.monotonic()
        for look in [look for look in self._looks if look.ended in ended or look.deadline <= now]:
            self._looks.remove(look)
            self._hear(look)

    def _hear(self, look: Look) -> None:
        found = look.end()
        for state, what in zip(look.states, found, strict=False):
            if what:
                self.found += 1
                kept = self._keep(state)
                self._outcome.violate(f"seed {self._run.seed}, {state.label}, {kept}: {what}")
            elif state.writes and not look.again and state.number % _REOPENED == 0:
                self._outcome.count("opened again")
                self._look([state], again=True)
                continue
            shutil.rmtree(state.place)
        self._waiting += look.states[len(found) :]

    def _keep(self, state: State) -> str:
        """Keep the state as the cut left it, for who wants to look."""
        kept = self._run.directory / state.place.name
        if kept.exists() or self.found > _KEPT_MAX:
            return "not kept"
        kept.mkdir()
        state.image.write(kept)
        return f"kept as {kept.name}"


def _instants(events: list[Event], count: int, rng: random.Random) -> Iterator[int]:
    """After which events the power goes: anywhere; and, as often, right after something was acknowledged or synced."""
    telling = [at for at, event in enumerate(events, 1) if event.kind in (NOTE, SYNC_END, RENAME)]
    while count > 0:
        at = rng.randint(1, len(events)) if rng.random() < 0.5 else rng.choice(telling)
        for _ in range(_DRAWS):
            yield at
        count -= _DRAWS


def _recorder(directory: Path) -> Path:
    """record_io.c, compiled."""
    source, made = ROOT / "tests" / "crash" / "record_io.c", directory / "record_io.so"
    flags = ["-shared", "-fPIC", "-O1", "-std=gnu11", "-fvisibility=hidden", "-pthread"]
    subprocess.run(["gcc", *flags, "-o", str(made), str(source), "-ldl"], check=True)
    return made


# ---- the stage --------------------------------------------------------------------------------------------

# Syncs that the model's disk ignores: each kind must matter.
_CONTROLS = {
    "syncs dropped": ("file", "directory", "range"),
    "file syncs dropped": ("file",),
    "directory syncs dropped": ("directory",),
    "synchronous writes dropped": ("range",),
}


def prove(run: Run) -> Outcome:
    outcome = Outcome()
    gc.collect()
    gc.freeze()  # what children share stays shared
    with tempfile.TemporaryDirectory(prefix="helios-power-", dir=_SHM) as directory:
        proof = Proof(run, Path(directory), outcome)
        recordings = _prove_runs(run, proof)
        if run.mutant is None:
            control = Proof(run, Path(directory), Outcome())
            for name, dropped in _CONTROLS.items():
                outcome.caught[name] = control.breaks(recordings[0], dropped)
            outcome.reached("states", run.times(STATES_MIN))
    return outcome


def _prove_runs(run: Run, proof: Proof) -> list[Recording]:
    """Runs in pairs: the second of a pair begins on a disk that lost its power in the first."""
    recordings: list[Recording] = []
    runs = run.times(RUNS)
    states = 1 + run.times(STATES_MIN) // runs
    for number in range(runs):
        before, known = None, Expected()
        if number % 2:
            before, known = proof.state_of(recordings[-1], run.chance("restart", number))
        recordings.append(proof.record(number, before, known))
        proof.examine(recordings[-1], states, f"run {number}")
        if run.mutant and proof.found:
            break
    return recordings
