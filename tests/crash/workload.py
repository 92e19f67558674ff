"""What the workers of the kill stages do, so that whoever judges them can say what each act must have left.

A worker's acts follow from the seed and its number alone: ``script`` tells them, one after the other, to the worker
that performs them and to the oracle that expects them. Before each act the worker says that it begins, after it that
it is done, each by one write to its pipe, which survives it:

    INTENT n, time      act n      ACK n, time, sequence, snapshot id      INTENT n + 1 ...

So of a worker that was killed all acts are known that it was told are done, and the one that it may have been at.

On branches that many share, each act leaves one key of its worker's with the act's number in it, by which the oracle
finds out whose commit it sees. Beside them a worker has branches of its own, which come and go.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection
from typing import Literal

import helios_shm
from helios_shm._capi import check, lib

INTENT, ACK, END, FAILED = 1, 2, 3, 4
# what, whether durable, padding, act, time (CLOCK_MONOTONIC, ns), sequence (0: not told), snapshot id or text
RECORD = struct.Struct("<BBHIqq32s")

SHARED = ("main", "side")
KILL = 1
# Values from this size on are files of their own (helios_shm.config).
BLOB_BYTES = 270_000

How = Literal["commit", "transaction", "detached", "create", "set", "delete"]


@dataclass(frozen=True, slots=True)
class Act:
    """One thing that a worker does. ``edits``: None removes a path."""

    number: int
    how: How
    branch: str
    edits: dict[str, bytes | None] = field(default_factory=dict)
    durable: bool = False

    @property
    def is_shared(self) -> bool:
        return self.branch in SHARED


def mark_of(worker: int) -> str:
    """The path under which a worker leaves the number of its newest act on a shared branch."""
    return f"by/{worker}"


def probe(worker: int, number: int, branch: str, durable: bool) -> Act:
    """What a worker does when it is only asked whether it can."""
    return Act(number, "commit", branch, {mark_of(worker): b"%d" % number}, durable)


class _Script:
    """Tells a worker's acts. Knows which paths and branches the worker has, since only it changes them."""

    def __init__(self, seed: object, worker: int, durable_share: float) -> None:
        self._chance = random.Random(f"{seed}/script/{worker}")
        self._worker = worker
        self._durable_share = durable_share
        self._paths: dict[str, set[str]] = {name: set() for name in SHARED}
        self._own_count = 0
        self._own_commits = -1  # of the newest branch of its own; -1: there is none

    def act(self, number: int) -> Act:
        chance = self._chance
        durable = chance.random() < self._durable_share
        kind = chance.choices(("shared", "detached", "own"), (74, 8, 18))[0]
        if kind == "own":
            return self._on_own(number, durable)
        if kind == "detached":
            return Act(number, "detached", "", self._values(f"d/{self._worker}/{number}"), durable)
        branch = chance.choice(SHARED)
        edits = self._edits(branch)
        edits[mark_of(self._worker)] = b"%d" % number
        how: How = "transaction" if chance.random() < 0.2 else "commit"
        return Act(number, how, branch, edits, durable)

    def _edits(self, branch: str) -> dict[str, bytes | None]:
        kind = self._chance.choices(
            ("one", "some", "many", "large", "blob", "remove"), (34, 28, 8, 8, 1, 14)
        )[0]
        there = self._paths[branch]
        home = f"w/{self._worker}"
        if kind == "one":
            return {}
        if kind == "remove":
            gone = self._chance.sample(sorted(there), min(len(there), 20))
            there.difference_update(gone)
            return dict.fromkeys(gone)
        edits: dict[str, bytes | None] = {}
        if kind == "some":
            edits.update(self._values(home))
        elif kind == "many":
            edits.update((f"{home}/many/{i:02}", self._chance.randbytes(8)) for i in range(48))
        elif kind == "large":
            # Half of them can be compressed.
            size, pattern = (
                self._chance.randrange(4096, 40_000),
                self._chance.randbytes(self._chance.choice((64, 4096))),
            )
            edits[f"{home}/large"] = (pattern * (size // len(pattern) + 1))[:size]
        else:
            edits[f"{home}/blob"] = self._chance.randbytes(64) * (BLOB_BYTES // 64)
        there.update(edits)
        return edits

    def _values(self, home: str) -> dict[str, bytes | None]:
        """A few values: in leaves, and of their own."""
        chance = self._chance
        return {
            f"{home}/{chance.randrange(12)}": chance.randbytes(chance.choice((8, 64, 65, 900)))
            for _ in range(chance.randrange(2, 6))
        }

    def _on_own(self, number: int, durable: bool) -> Act:
        """The worker's own branch is made, changed, perhaps deleted, and made again or followed by another."""
        chance, worker = self._chance, self._worker
        if self._own_commits < 0:
            self._own_count += chance.random() < 0.8 or self._own_count == 0
        name = f"own/{worker}/{self._own_count}"
        edits: dict[str, bytes | None] = {f"{number}": b"%d of %d" % (number, worker)}
        if self._own_commits < 0:
            self._own_commits = 1
            # A branch is made by a commit, which may be durable, or from a snapshot that is there.
            return (
                Act(number, "create", name, edits)
                if chance.random() < 0.5
                else Act(number, "commit", name, edits, durable)
            )
        if self._own_commits >= 2 and chance.random() < 0.5:
            self._own_commits = -1
            return Act(number, "delete", name)
        self._own_commits += 1
        return (
            Act(number, "set", name, edits)
            if chance.random() < 0.3
            else Act(number, "commit", name, edits, durable)
        )


def script(seed: object, worker: int, durable_share: float) -> Iterator[Act]:
    """A worker's acts, numbered from 0, without end."""
    teller, number = _Script(seed, worker, durable_share), 0
    while True:
        yield teller.act(number)
        number += 1


# ---- the worker's process ----


def perform(engine: helios_shm.Engine, act: Act) -> tuple[int, bytes]:
    """Do it. Returns the sequence (0: not told) and the snapshot's id, both as the library tells them."""
    message = f"{act.number}" if act.number % 3 == 0 else ""
    if act.how == "detached":
        detached = _edited(engine.empty.fork(), act).commit(message, durable=act.durable)
        return 0, bytes.fromhex(detached.snapshot.id)
    branch = engine.branch(act.branch)
    if act.how == "commit":
        commit = _edited(branch.fork(), act).commit(message, durable=act.durable)
        return commit.sequence or 0, bytes.fromhex(commit.snapshot.id)
    if act.how == "transaction":
        with branch.transaction(message, durable=act.durable) as workspace:
            _edited(workspace, act)
        return 0, bytes.fromhex(workspace.base.id)
    if act.how == "delete":
        branch.delete()
        return 0, bytes(32)
    head = engine.empty if act.how == "create" else branch.head
    made = _edited(head.fork(), act).commit().snapshot
    if act.how == "create":
        engine.branch(act.branch, at=made)
    elif not branch.compare_and_set(head, made):
        raise AssertionError(f"somebody else has moved {act.branch}")
    return 0, bytes.fromhex(made.id)


def _edited(workspace: helios_shm.Workspace, act: Act) -> helios_shm.Workspace:
    for path, value in act.edits.items():
        if value is None:
            del workspace[path]
        else:
            workspace[path] = value
    return workspace


class Mouth:
    """A worker's end of its pipe."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def _say(self, what: int, act: int, durable: bool = False, sequence: int = 0, data: bytes = b"") -> None:
        os.write(self._fd, RECORD.pack(what, durable, 0, act, time.monotonic_ns(), sequence, data))

    def do(self, engine: helios_shm.Engine, act: Act) -> None:
        """Say it, do it, say so."""
        self._say(INTENT, act.number)
        sequence, snapshot_id = perform(engine, act)
        self._say(ACK, act.number, act.durable, sequence, snapshot_id)

    def end(self) -> None:
        self._say(END, 0)

    def fail(self, error: BaseException) -> None:
        text = f"{type(error).__name__}: {error}".encode()[:640]
        for at in range(0, len(text), 32):
            self._say(FAILED, 0, data=text[at : at + 32])


@dataclass(frozen=True, slots=True)
class Part:
    """What a worker is to do with its life."""

    seed: str
    worker: int
    acts_max: int
    durable_share: float = 0.1
    # Where it kills itself: at the nth time that it comes to this step.
    label: str = ""
    nth: int = 0
    # Before which act it waits until it is let go; -1: before none.
    gate: int = -1


def live(engine: helios_shm.Engine, fd: int, part: Part, gate: int = -1) -> None:
    """A worker's life: to the end of its part, then still there until it is killed. ``gate``: where it is let go."""
    mouth = Mouth(fd)
    try:
        if part.label:
            check(lib.hs_step_arm(part.label.encode(), part.nth, KILL), f"arming step {part.label}")
        for act in islice(script(part.seed, part.worker, part.durable_share), part.acts_max):
            if act.number == part.gate:
                os.read(gate, 1)
            mouth.do(engine, act)
        mouth.end()
    except BaseException as error:
        mouth.fail(error)
        os._exit(1)
    while True:
        signal.pause()


def live_over(engine: helios_shm.Engine, pipe: Connection, part: Part, gate: Connection) -> None:
    """The same, for a process that is handed what it needs."""
    live(engine, pipe.fileno(), part, gate.fileno())


def serve(engine: helios_shm.Engine, orders: int, fd: int, worker: int) -> None:
    """The life of one that commits when it is told to: one byte an order, the branch's index and 128 for durable."""
    mouth, number = Mouth(fd), 0
    try:
        while order := os.read(orders, 1):
            mouth.do(engine, probe(worker, number, SHARED[order[0] & 127], order[0] >= 128))
            number += 1
    except BaseException as error:
        mouth.fail(error)
        os._exit(1)
    os._exit(0)
