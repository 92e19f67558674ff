"""Directories: a state as files, files as a state, by delta; beside git's worktrees.

    state of n files, ten directories  --materialize-->  new directory | the same one, unchanged | one with some changed
    directory                          --ingest-->       seen for the first time | unchanged

git has the same files in one commit, packed, and makes a worktree of it each time; copytree copies a directory that is
there. The floor makes the same files by openat, write and close in a loop in C, in one thread; or looks at each by
fstatat. Nothing is removed while the clock may run: ext4 passes over what was removed in the last five seconds when it
looks for a free inode, so that what comes after a removal is slow.
"""

import ctypes
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helios_shm

from .bench_hash import compiled_library
from .harness import Contender, Items, Row, Run, Setting, Skipped, Target, compare, measure
from .states import directory, store

SIZE = 500
DIRECTORIES = 10
CHANGED = 20
WHO = (
    "-c",
    "user.name=bench",
    "-c",
    "user.email=bench@localhost",
    "-c",
    "gc.auto=0",
    "-c",
    "maintenance.auto=false",
)
WORKTREE, STATUS, COPYTREE = "git worktree add", "git status", "shutil.copytree"


def git(place: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(place), *WHO, *words], check=True, capture_output=True)


@dataclass(frozen=True, slots=True)
class Tree:
    """The files of one comparison, in a directory, in a repository, and as a state."""

    count: int
    root: Path
    numbers: Iterator[int]

    @staticmethod
    def plant(root: Path, count: int) -> "Tree":
        tree = Tree(count, root, itertools.count())
        for name in tree.names():
            path = tree.source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(SIZE))
        return tree

    @property
    def source(self) -> Path:
        return self.root / "source"

    def names(self) -> Iterator[str]:
        return (f"d{number % DIRECTORIES}/file_{number:05d}.dat" for number in range(self.count))

    def fresh(self, count: int) -> Items:
        """Names of directories that are not there."""
        return [self.root / f"made-{next(self.numbers)}" for _ in range(count)]

    def repository(self) -> Path:
        """The same files in one commit, packed."""
        place = self.root / "repository"
        shutil.copytree(self.source, place)
        git(place, "init", "-q")
        git(place, "add", ".")
        git(place, "commit", "-qm", "files")
        git(place, "gc", "-q")
        return place


def each(work: Callable[[Any], object]) -> Run:
    def run(items: Items) -> None:
        for item in items:
            work(item)

    return run


def same(count: int) -> Items:
    return range(count)


def peers_of(tree: Tree) -> tuple[list[Contender], list[Skipped], Path | None]:
    """git, if it is there: worktrees made, and an unchanged one looked at."""
    if shutil.which("git") is None:
        return [], [Skipped(name, "git is not installed") for name in (WORKTREE, STATUS)], None
    place = tree.repository()
    add = each(lambda path: git(place, "worktree", "add", "-q", "--detach", str(path)))
    return [Contender(WORKTREE, add, tree.fresh)], [], place


class Floor:
    """The loops in C."""

    def __init__(self, tree: Tree) -> None:
        self.library = compiled_library(tree.root)
        self.tree = tree
        self.names = b"".join(name.encode() + b"\0" for name in tree.names())
        self.bytes = os.urandom(SIZE * tree.count)

    def make(self, path: Path) -> None:
        path.mkdir()
        for number in range(DIRECTORIES):
            (path / f"d{number}").mkdir()
        self._call(path, self.library.bench_files, self.bytes, ctypes.c_size_t(SIZE))

    def look(self, path: Path) -> None:
        self._call(path, self.library.bench_stats)

    def _call(self, path: Path, function: Any, *more: object) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            error = function(fd, self.names, self.tree.count, *more)
        finally:
            os.close(fd)
        if error:
            raise OSError(error, os.strerror(error))

    def contender(
        self, name: str, work: Callable[[Path], object], inputs: Callable[[int], Items]
    ) -> list[Contender]:
        return [Contender(name, each(work), inputs)] if self.library is not None else []


def compared(
    operation: str,
    contenders: list[Contender],
    floor: list[Contender],
    *targets: Target,
    rounds: int,
    skipped: list[Skipped],
) -> Row:
    samples = measure([*contenders, *floor], rounds=rounds, calls=1, batch=1)
    ours, *others = samples
    beneath = others.pop() if floor else None
    return compare(operation, ours, others, *targets, floor=beneath, skipped=skipped)


def imported(engine: helios_shm.Engine, tree: Tree) -> helios_shm.Snapshot:
    workspace = engine.branch("main").fork()
    workspace.ingest(tree.source)
    return workspace.commit().snapshot


def materialize(setting: Setting) -> Iterator[Row]:
    """Into a new directory, into one that has it all, and into one in which some files differ."""
    count, rounds = setting.scale(1000, 50), setting.scale(15, 2)
    with store(setting) as engine, directory(setting.disk) as root:
        tree = Tree.plant(root, count)
        snapshot, floor = imported(engine, tree), Floor(tree)
        added, skipped, place = peers_of(tree)
        what = f"materialize {count:,} files x {SIZE} B"
        copied = Contender(COPYTREE, each(lambda path: shutil.copytree(tree.source, path)), tree.fresh)
        yield compared(
            f"{what}, new directory",
            [Contender("ours", each(snapshot.materialize), tree.fresh), *added, copied],
            floor.contender("openat, write and close in C", floor.make, tree.fresh),
            Target("<=", 0.1, WORKTREE),
            rounds=rounds,
            skipped=skipped[:1],
        )
        there = root / "there"
        snapshot.materialize(there)
        known = (
            [Contender(STATUS, each(lambda _: git(place, "status", "--porcelain")), same)] if place else []
        )
        yield compared(
            f"{what}, unchanged",
            [Contender("ours", each(lambda _: snapshot.materialize(there)), same), *added, *known],
            floor.contender("fstatat of each in C", lambda _: floor.look(there), same),
            Target("<=", 0.05, WORKTREE),
            rounds=rounds,
            skipped=skipped,
        )
        yield changed_row(what, snapshot, there, place, rounds, skipped)


def changed_row(
    what: str,
    snapshot: helios_shm.Snapshot,
    there: Path,
    place: Path | None,
    rounds: int,
    skipped: list[Skipped],
) -> Row:
    """To and fro between two states, as git does between two commits."""
    workspace = snapshot.fork()
    names = list(snapshot)[: CHANGED * 37 : 37] if len(snapshot) >= CHANGED * 37 else list(snapshot)[:CHANGED]
    for name in names:
        workspace[name] = os.urandom(SIZE)
    states = itertools.cycle([workspace.commit().snapshot, snapshot])
    contenders = [Contender("ours", each(lambda _: next(states).materialize(there)), same)]
    if place:
        for name in names:
            (place / name).write_bytes(os.urandom(SIZE))
        git(place, "commit", "-qam", "changed")
        commits = itertools.cycle(["HEAD~1", "HEAD@{1}"])
        contenders.append(
            Contender(
                "git checkout of the other commit",
                each(lambda _: git(place, "checkout", "-q", next(commits))),
                same,
            )
        )
    return compared(f"{what}, {len(names)} changed", contenders, [], rounds=rounds, skipped=skipped[:1])


def ingest(setting: Setting) -> Iterator[Row]:
    """Of a directory that nobody has seen, and of one in which nothing has changed."""
    count, rounds = setting.scale(1000, 50), setting.scale(15, 2)
    with store(setting) as engine, directory(setting.disk) as root:
        tree = Tree.plant(root, count)
        snapshot, floor = imported(engine, tree), Floor(tree)
        _, skipped, place = peers_of(tree)

        def planted(_: int) -> Items:
            (path,) = tree.fresh(1)
            for name in tree.names():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(os.urandom(SIZE))
            return [path]

        def prepared(_: int) -> Items:
            (path,) = planted(1)
            git(path, "init", "-q")
            return [path]

        def taken(path: Path) -> None:
            workspace = engine.empty.fork()
            workspace.ingest(path)
            workspace.commit()

        def added(path: Path) -> None:
            git(path, "add", ".")
            git(path, "commit", "-qm", "files")

        theirs = (
            [Contender("git add and commit (loose objects)", each(added), prepared, every=3)] if place else []
        )
        yield compared(
            f"ingest and commit {count:,} files x {SIZE} B, seen for the first time",
            [Contender("ours", each(taken), planted), *theirs],
            [],
            rounds=setting.scale(6, 2),
            skipped=skipped[:1],
        )
        workspace = snapshot.fork()
        known = (
            [Contender(STATUS, each(lambda _: git(place, "status", "--porcelain")), same)] if place else []
        )
        yield compared(
            f"ingest {count:,} files x {SIZE} B, unchanged",
            [Contender("ours", each(lambda _: workspace.ingest(tree.source)), same), *known],
            floor.contender("fstatat of each in C", lambda _: floor.look(tree.source), same),
            rounds=rounds,
            skipped=skipped[1:],
        )
