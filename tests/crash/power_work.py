"""The run that power_loss.py takes the power from: workers and coordinators on one store, each of whose steps is told.

    driver (nothing open) --fork--> worker a, worker b, later worker c     notes: what is tried, done, acknowledged
           ^                            | a coordinator is wanted
           +----------------------------+ the driver forks one; it dies after so many file operations; the next comes

Started with record_io.c preloaded:  python -m tests.crash.power_work '{"store": "...", "seed": 1, ...}'

Workers and coordinators run the product's code as it is, with these exceptions: coordinators are forked from a process
that has the library loaded instead of being started by exec; the locator begins with as few rows as its format allows
and grows as soon as it has a few, so that it grows often; the boot's name is given, so that a second run on what is
left of a first one takes place after a restart.

Notes are JSON, in the order of the log:

    {"made": true}                             open() has returned
    {"found": {branch: [message, ...]}}        what a worker saw first, oldest first
    {"try": op}                                {"id", "branch", "edits"}, or without edits: the branch is deleted
    {"done": id, "sequence": 3, "root": "..."} it has returned
    {"durable": [id, ...]}                     acknowledged: sync() or commit(durable=True) has returned
"""

from __future__ import annotations

import ctypes
import itertools
import json
import logging
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helios_shm
from helios_shm import coordinator, l2, lifecycle
from helios_shm.config import BLOB_BYTES_MIN, L1_BYTES_MIN, LZ4_BYTES_MIN
from helios_shm.store import StorePaths

SHARED = "main"
_LOCATOR_ROWS, _LOCATOR_LOAD = 1024, 0.02
# A worker's first commits are of files: a bug in them shows early.
_STEPS_WITH_FILES = 2
_SECONDS_MAX = 30.0

# [size, seed, 1 if it compresses]: a value is told by what it is made from.
Recipe = list[int]


def value_of(recipe: Recipe) -> bytes:
    """The bytes that a recipe stands for."""
    size, seed, compresses = recipe
    rng = random.Random(seed)
    if not compresses:
        return rng.randbytes(size)
    return (rng.randbytes(16) * (size // 16 + 1))[:size]


def draw_recipe(rng: random.Random, blobs: list[Recipe]) -> Recipe:
    """A value of any class of size: inline, hashed, compressed, a file. Files are few, and used again."""
    seed = rng.randrange(1 << 30)
    kind = rng.random()
    if kind < 0.55:
        return [rng.randint(0, 64), seed, 0]
    if kind < 0.82:
        return [rng.randint(65, 3000), seed, 0]
    if kind < 0.95 or not blobs:
        return [rng.randint(LZ4_BYTES_MIN, 20000), seed, 1]
    return rng.choice(blobs)


# ---- coordinators -----------------------------------------------------------------------------------------


class Nursery:
    """The end of a socket behind which a process with nothing open forks coordinators. Survives forks."""

    def __init__(self) -> None:
        self._mine, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def spawn(self, paths: StorePaths, start_fd: int) -> None:
        """Instead of lifecycle's: the lock travels as a descriptor; the new process has it as its number 3."""
        socket.send_fds(self._mine, [os.fsencode(paths.root)], [start_fd])

    def fork(self, deaths: Iterator[int] | None) -> None:
        """Have a child fork a coordinator for each who asks, until nobody is left who could. ``deaths`` says after how
        many records the next one dies. None: there will be one coordinator, the child itself."""
        if os.fork() == 0:
            self._mine.close()
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            self._serve(deaths)
            os._exit(0)
        self._theirs.close()

    def _serve(self, deaths: Iterator[int] | None) -> None:
        while True:
            path, fds, _, _ = socket.recv_fds(self._theirs, 4096, 1)
            if not path:
                return
            records = None if deaths is None else next(deaths)
            if deaths is None or os.fork() == 0:
                self._theirs.close()
                _coordinate(StorePaths(Path(os.fsdecode(path))), fds[0], records)
            for fd in fds:
                os.close(fd)


def _coordinate(paths: StorePaths, start_fd: int, records: int | None) -> None:
    """The life of a forked coordinator: what ``python -m helios_shm.coordinator`` does."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        log = os.open(paths.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(log, 2)
        if start_fd != lifecycle.START_LOCK_FD:
            os.dup2(start_fd, lifecycle.START_LOCK_FD)
            os.close(start_fd)
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(process)d %(message)s")
        if records is not None:
            _recorder.record_die_after(ctypes.c_long(records))
        status = coordinator.coordinate(paths)
    finally:
        os._exit(status)


# ---- what the recorder offers ------------------------------------------------------------------------------

_recorder = ctypes.CDLL(None)


def _note(fields: dict[str, Any]) -> None:
    data = json.dumps(fields).encode()
    _recorder.record_note(data, ctypes.c_size_t(len(data)))


# ---- a worker ---------------------------------------------------------------------------------------------


class Worker:
    """One process's work, drawn from its seed: commits on a shared branch and on two of its own."""

    def __init__(self, store: Path, name: str, seed: int) -> None:
        self.name = name
        self._rng = random.Random(f"{seed}/{name}")
        shared = random.Random(f"{seed}/blobs")  # the same for all workers: they write the same files
        self._blobs = [[BLOB_BYTES_MIN + shared.randrange(9000), shared.getrandbits(30), 0] for _ in range(2)]
        self._waiting: list[str] = []  # done, not known to be durable
        self._steps = 0
        self.engine = helios_shm.open(store, l1_bytes=L1_BYTES_MIN)
        _note({"made": True})

    def tell_found(self) -> None:
        """What is there at the beginning of a run after a restart."""
        found = {
            name: [commit.message for commit in self.engine.branch(name).log()][::-1]
            for name in self.engine.branches()
        }
        _note({"found": found})

    def work(self, steps: int) -> None:
        for _ in range(steps):
            kind = self._rng.random()
            if kind < 0.40:
                self._commit(SHARED)
            elif kind < 0.68:
                self._commit(f"own/{self.name}")
            elif kind < 0.80:
                self._commit(f"side/{self.name}")
            elif kind < 0.86:
                self._delete(f"side/{self.name}")
            elif kind < 0.92:
                self._detached()
            else:
                self._sync()
        self._sync()
        self.engine.close()

    def _id(self) -> str:
        self._steps += 1
        return f"{self.name}/{self._steps}"

    def _commit(self, branch: str) -> None:
        rng, id = self._rng, self._id()
        workspace = self.engine.branch(branch).fork()
        edits: dict[str, Recipe | None] = {}
        for _ in range(rng.choice((1, 1, 2, 5))):
            path = f"{self.name}/{rng.randrange(24)}"
            remove = rng.random() < 0.15 and path in workspace
            edits[path] = None if remove else draw_recipe(rng, self._blobs)
            if self._steps <= _STEPS_WITH_FILES and not remove:
                edits[path] = rng.choice(self._blobs)
            if remove:
                del workspace[path]
            else:
                workspace[path] = value_of(edits[path] or [])
        _note({"try": {"id": id, "branch": branch, "edits": edits}})
        durable = rng.random() < 0.4
        commit = workspace.commit(id, durable=durable)
        self._done(id, commit.sequence, commit.snapshot.id, durable)

    def _detached(self) -> None:
        id, workspace = self._id(), self.engine.empty.fork()
        edits = {f"{n}": draw_recipe(self._rng, self._blobs) for n in range(self._rng.randint(1, 20))}
        for path, recipe in edits.items():
            workspace[path] = value_of(recipe)
        _note({"try": {"id": id, "branch": None, "edits": edits}})
        commit = workspace.commit(durable=True)
        self._done(id, None, commit.snapshot.id, True)

    def _delete(self, branch: str) -> None:
        id = self._id()
        if branch not in self.engine.branches(branch):
            return
        _note({"try": {"id": id, "branch": branch}})
        self.engine.branch(branch).delete()
        self._done(id, None, None, False)

    def _done(self, id: str, sequence: int | None, root: str | None, durable: bool) -> None:
        _note({"done": id, "sequence": sequence, "root": root})
        self._waiting.append(id)
        if durable:
            self._durable()

    def _sync(self) -> None:
        self.engine.sync()
        self._durable()

    def _durable(self) -> None:
        _note({"durable": self._waiting})
        self._waiting = []


# ---- the driver -------------------------------------------------------------------------------------------


def _in_child(function: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        function()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _wait(*pids: int) -> None:
    for pid in pids:
        if os.waitpid(pid, 0)[1] != 0:
            sys.exit(f"worker {pid} failed")


def _until_uncoordinated(paths: StorePaths) -> None:
    end = time.monotonic() + _SECONDS_MAX
    while lifecycle.coordinator_runs(paths):
        if time.monotonic() > end:
            sys.exit(f"the coordinator of {paths.root} does not leave")
        time.sleep(0.01)


def _prepare(plan: dict[str, Any]) -> None:
    """What is different from the product as it is."""
    boot = bytes.fromhex(plan["boot"])
    vars(l2).update(boot_id=lambda: boot)
    keeper = coordinator.LocatorKeeper
    keeper.CAPACITY_MIN, keeper.GROW_LOAD = _LOCATOR_ROWS, _LOCATOR_LOAD
    if plan["in_place"]:
        lifecycle._rename_into_place = lambda building, paths: False


def main(plan: dict[str, Any]) -> None:
    """One run. ``plan``: store, seed, boot, steps, life (0, 1, ...), in_place, deaths (records a coordinator makes)."""
    store, life, steps = Path(plan["store"]), plan["life"], plan["steps"]
    _prepare(plan)
    nursery = Nursery()
    nursery.fork(itertools.cycle(plan["deaths"]))
    lifecycle._spawn = nursery.spawn

    def look() -> None:
        worker = Worker(store, f"z{life}", plan["seed"])
        worker.tell_found()
        worker.engine.close()

    def work(name: str, count: int) -> Callable[[], None]:
        return lambda: Worker(store, f"{name}{life}", plan["seed"]).work(count)

    if life:
        _wait(_in_child(look))
    _wait(_in_child(work("a", steps)), _in_child(work("b", steps)))
    paths = StorePaths.of(store)
    _until_uncoordinated(paths)
    _wait(_in_child(work("c", steps // 3)))
    _until_uncoordinated(paths)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
