"""What is done while the nth call fails: one workload for each thing that the product does.

A workload's ``act`` runs with the fault armed; when it raises, it is run again without one and must then succeed, so
that each is written to go on where it was. What a commit acknowledged is entered in ``Case.acked`` when it returns,
and not before.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import helios_shm
from helios_shm import attachment, config, lifecycle
from helios_shm.store import StorePaths

KIB = 1 << 10
SMALL, LZ4, BLOB = 100, 8 * KIB, config.BLOB_BYTES_MIN + KIB
BRANCH = "main"
# What stores begin with: path to size.
RICH = {f"kept/{n:03d}": SMALL for n in range(20)} | {"kept/lz4": LZ4, "kept/blob": BLOB}
L1_BYTES = config.L1_BYTES_MIN


def value(path: str, size: int) -> bytes:
    """The value that belongs at a path."""
    return (f"{path} {size} ".encode() * (size // len(path) + 1))[:size]


@dataclass
class Case:
    """One run of a workload: the store, what it holds for sure, and what was begun."""

    store: Path
    acked: dict[str, int]  # path to size
    commits: int
    engine: helios_shm.Engine | None = None
    pending: tuple[helios_shm.Workspace, dict[str, int]] | None = None
    problems: list[str] = field(default_factory=list)
    # What must come true after an act that raised nothing; looked at when no fault is armed any more.
    promises: list[Callable[[], None]] = field(default_factory=list)

    def keep_promises(self) -> None:
        while self.promises:
            self.promises.pop()()

    def opened(self) -> helios_shm.Engine:
        if self.engine is None:
            self.engine = helios_shm.open(self.store, l1_bytes=L1_BYTES)
        return self.engine

    def close(self) -> None:
        engine, self.engine, self.pending = self.engine, None, None
        if engine is not None:
            engine.close()

    def commit(self, edits: dict[str, int], message: str = "", *, durable: bool = False) -> None:
        """Commit values; after an exception, the same workspace again, whose edits must be as before."""
        if self.pending is None:
            workspace = self.opened().branch(BRANCH).fork()
            for path, size in edits.items():
                workspace[path] = value(path, size)
            self.pending = workspace, edits
        workspace, edits = self.pending
        try:
            workspace.commit(message, durable=durable)
        except helios_shm.BusyError as late:
            if late.commit is not None:
                self._moved(edits)
            raise
        self._moved(edits)

    def _moved(self, edits: dict[str, int]) -> None:
        self.acked.update(edits)
        self.commits += 1
        self.pending = None

    def judge_failed_commit(self) -> None:
        """An exception from commit means that nothing moved, and that the edits are as before."""
        if self.pending is None:
            return
        workspace, edits = self.pending
        if {path: len(each or b"") for path, each in workspace.edits.items()} != edits:
            self.problems.append("a failed commit did not keep its edits")
        branch = self.opened().branch(BRANCH)
        found = (
            branch.last_commit.sequence if self.commits else len(list(branch.log()) if branch.head else [])
        )
        if found != self.commits:
            self.problems.append(f"commit raised, but the head moved: {found} commits, not {self.commits}")
            self._moved(edits)

    def check_content(self) -> None:
        """Exactly what was acknowledged is there, by every way of reading."""
        branch = self.opened().branch(BRANCH)
        head = dict(branch.head)
        wrong = [path for path, each in head.items() if each != value(path, self.acked.get(path, -1))]
        if head.keys() != self.acked.keys() or wrong:
            missing, extra = sorted(self.acked.keys() - head.keys()), sorted(head.keys() - self.acked.keys())
            self.problems.append(
                f"missing {missing[:3]}, unexpected {extra[:3]}, wrong values at {wrong[:3]}"
            )
        if (found := sum(1 for _ in branch.log())) != self.commits:
            self.problems.append(f"the log has {found} commits, not {self.commits}")


@dataclass(frozen=True)
class Workload:
    """``point``: where the fault is armed: around ``act``, in the process that runs it ("act") or in a child that it
    forks ("forked"); or around a method of the coordinator. ``generation``: how many forks away the fault is.
    ``cut``: when ``act`` has returned, the power fails. ``every``: a workload most of whose calls are another's as well
    has only every so many of them failed in a run; the seed says which."""

    name: str
    act: Callable[[Case], None]
    prepare: Callable[[Case], None] = lambda case: None
    point: str = "act"
    generation: int = 0
    made: bool = True  # the store is there already
    cut: bool = False
    every: int = 1


# ---- opening ----


def _make(case: Case) -> None:
    lifecycle.open_store(case.store, create=True)


def _make_ephemeral(case: Case) -> None:
    """What it leaves when it fails, the next one sweeps away when the process has ended."""
    root = lifecycle.create_ephemeral().root
    case.promises.append(lambda: shutil.rmtree(root))


def _open(case: Case) -> None:
    case.opened()


def _open_readonly(case: Case) -> None:
    with helios_shm.open(case.store, readonly=True) as engine:
        _read(engine, case)


def _open_private(case: Case) -> None:
    """As on a file system that cannot be written."""
    is_writable, lifecycle.is_writable = lifecycle.is_writable, lambda paths: False
    try:
        _open_readonly(case)
    finally:
        lifecycle.is_writable = is_writable


def _ephemeral(case: Case) -> None:
    with helios_shm.open(None, l1_bytes=L1_BYTES) as engine:
        workspace = engine.branch("b").fork()
        workspace["key"] = b"value"
        workspace.commit()
        engine.sync()
        if dict(engine.branch("b").head) != {"key": b"value"}:
            case.problems.append("an ephemeral store lost its commit")


def _close(case: Case) -> None:
    case.close()


# ---- committing ----


def _warm(case: Case) -> None:
    """Everything that a process does once is done."""
    case.commit({"warm": SMALL}, durable=True)


def _commit_small(case: Case) -> None:
    case.commit({"small": SMALL})


def _commit_many(case: Case) -> None:
    case.commit({f"many/{n:04d}": SMALL for n in range(300)} | {"many/lz4": LZ4}, "many")


def _commit_large(case: Case) -> None:
    case.commit({"large/a": BLOB, "large/b": BLOB, "kept/blob": BLOB})


def _commit_durable(case: Case) -> None:
    case.commit({"durable": SMALL}, durable=True)


def _commit_durable_large(case: Case) -> None:
    case.commit({"large/a": BLOB, "small": SMALL}, durable=True)


def _sync(case: Case) -> None:
    case.opened().sync()


# ---- reading ----


def _read(engine: helios_shm.Engine, case: Case) -> None:
    branch = engine.branch(BRANCH, create=False)
    head = branch.head
    if engine.branches() != [BRANCH]:
        case.problems.append("the branch is not listed")
    for path, size in case.acked.items():
        if head[path] != value(path, size):
            case.problems.append(f"{path} has another value")
    if bytes(head.buffer("kept/blob")) != value("kept/blob", BLOB):
        case.problems.append("kept/blob has another value as a buffer")
    if len(list(branch.log())) != case.commits or engine.snapshot(head.id) != head:
        case.problems.append("the log or the snapshot differs")


def _read_all(case: Case) -> None:
    _read(case.opened(), case)


def _open_and_read(case: Case) -> None:
    _read_all(case)


# ---- processes ----


def _in_fork(case: Case) -> None:
    _read_all(case)
    case.commit({"forked": SMALL})


def _spawn_prepare(case: Case) -> None:
    """A program that leaves a file beside the store that it is given, instead of a coordinator."""
    program = case.store.parent / "program"
    program.write_text('#!/bin/sh\n: > "$4.ran"\n')
    program.chmod(0o700)


def _spawn(case: Case) -> None:
    program = str(case.store.parent / "program")
    executable, sys.executable = sys.executable, program
    marker = Path(f"{case.store}.ran")
    try:
        real_spawn(StorePaths(case.store), 0)
    finally:
        sys.executable = executable
    case.promises.append(lambda: _has_started(case, marker))


def _has_started(case: Case, marker: Path) -> None:
    deadline = attachment.Deadline(5)
    while not marker.exists():
        if deadline.passed():
            case.problems.append("the program was said to have started, and has not")
            return
        time.sleep(0.001)


# The fault hosts replace it by a request to a process that forks coordinators which have everything imported.
real_spawn = lifecycle._spawn


def _then_close(case: Case) -> None:
    case.commit({"last": SMALL}, durable=True)
    case.close()


def _rebuild_prepare(case: Case) -> None:
    with contextlib.suppress(FileNotFoundError):
        (case.store / "locator").unlink()


WORKLOADS = (
    Workload("make a store", _make, made=False),
    Workload("open, then read", _open_and_read),
    Workload("open read-only", _open_readonly, every=8),
    Workload("open in private memory", _open_private, every=4),
    Workload("make an ephemeral store", _make_ephemeral, made=False, every=5),
    Workload("an ephemeral store", _ephemeral, made=False, every=8),
    Workload("commit one key", _commit_small, prepare=_open),
    Workload("commit many keys", _commit_many, prepare=_open),
    Workload("commit large values", _commit_large, prepare=_warm),
    Workload("commit durably", _commit_durable, prepare=_warm, cut=True),
    Workload("read cold", _read_all, prepare=_open),
    Workload("read warm", _read_all, prepare=_read_all, every=2),
    Workload("sync", _sync, prepare=_commit_small),
    Workload("close", _close, prepare=_commit_small),
    Workload("go on in a forked child", _in_fork, prepare=_warm, point="forked", every=2),
    Workload("start a program: caller", _spawn, prepare=_spawn_prepare),
    Workload("start a program: child", _spawn, prepare=_spawn_prepare, generation=1),
    Workload("start a program: grandchild", _spawn, prepare=_spawn_prepare, generation=2),
    Workload("coordinator: start", _commit_durable, point="start"),
    Workload(
        "coordinator: start without a locator",
        _commit_durable,
        prepare=_rebuild_prepare,
        point="start",
        every=4,
    ),
    Workload("coordinator: round", _commit_durable, point="_try_round", cut=True),
    Workload("coordinator: round with a large value", _commit_durable_large, point="_try_round", cut=True),
    Workload("coordinator: locator grows", _then_close, point="tend"),
    Workload("coordinator: leave", _then_close, point="_leave"),
)
