"""Going back: a state from deep in the history of a branch, and what is read from it.

    sequence   1 ............................ newest
               |<----------- depth ---------->|          one changed key a commit

    by id        engine.snapshot(id)[path]         pygit2: repository[id].tree[path].data
    by number    branch.at(sequence)               pygit2: revparse_single("HEAD~depth")
    restore      branch.restore(snapshot), read    pygit2: a commit with the old tree, read
    log          branch.log(), per commit          pygit2: walk()

Hot, and from L2 alone when everybody has left and come back. The peers that need milliseconds for one commit
(icechunk, ProllyTree) get a shallow history of their own. The floor copies the value.
"""

import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import helios_shm

from .harness import (
    Contender,
    Items,
    Point,
    Row,
    Run,
    Samples,
    Setting,
    Values,
    compare,
    measure,
)
from .peers import Lineup, package
from .states import directory, until_left

KEYS = 100
SIZE = 1024
Picked: TypeAlias = tuple[int, str]  # sequence number of a commit, path


def name_of(number: int) -> str:
    return f"file_{number:03d}.dat"


class History:
    """`keys` files in the first commit, then another value for one of them in each."""

    def __init__(self, commits: int, keys: int = KEYS) -> None:
        self.commits, self.keys = commits, keys
        self.first = dict(zip(map(name_of, range(keys)), Values(SIZE, seed=7).take(keys), strict=True))
        self.values = Values(SIZE, seed=8).take(commits - 1)

    def changes(self) -> Iterator[tuple[str, bytes]]:
        """What the commits after the first change."""
        return ((name_of(number * 37 % self.keys), value) for number, value in enumerate(self.values))

    def picks(self, depth: int, seed: int) -> Callable[[int], Items]:
        """Inputs: commits about so deep, and a path to read in each."""
        choose = random.Random(seed)
        oldest = max(1, self.commits - depth)
        newest = min(self.commits, oldest + max(1, depth // 20))

        def inputs(count: int) -> list[Picked]:
            return [
                (choose.randint(oldest, newest), name_of(choose.randrange(self.keys))) for _ in range(count)
            ]

        return inputs


class Git(AbstractContextManager["Git"]):
    """The same history in a bare repository, in one pack, as a repository that is kept in order has it."""

    name = "pygit2"

    def __init__(self, path: Path, history: History) -> None:
        self.git, self.path = package("pygit2"), str(path)
        self.repository = self.git.init_repository(self.path, bare=True)
        self.who = self.git.Signature("bench", "bench@localhost", 1, 0)
        marks = path / "marks"
        command = ["git", "-C", self.path, "fast-import", "--quiet", f"--export-marks={marks}"]
        subprocess.run(command, input=b"".join(self._stream(history)), check=True)
        by_mark = dict(line.split() for line in marks.read_text().splitlines())
        self.ids = [self.git.Oid(hex=by_mark[f":{n + 1}"]) for n in range(history.commits)]
        self.open()

    @staticmethod
    def _stream(history: History) -> Iterator[bytes]:
        """The history as `git fast-import` reads it."""
        who = b"committer bench <bench@localhost> 1 +0000\ndata 0\n"

        def change(name: str, value: bytes) -> bytes:
            return b"M 100644 inline %s\ndata %d\n%s\n" % (name.encode(), len(value), value)

        yield b"commit refs/heads/main\nmark :1\n" + who
        yield from (change(name, value) for name, value in history.first.items())
        for mark, (name, value) in enumerate(history.changes(), 2):
            yield b"commit refs/heads/main\nmark :%d\n" % mark + who + change(name, value)

    def open(self) -> None:
        """Anew: nothing of it is in this process."""
        self.repository = self.git.Repository(self.path)
        self.repository.set_head("refs/heads/main")

    def read(self, sequence: int, path: str) -> bytes:
        return bytes(self.repository[self.ids[sequence - 1]].tree[path].data)

    def by_id(self, items: Items) -> None:
        for sequence, path in items:
            self.read(sequence, path)

    def by_number(self, items: Items) -> None:
        newest = len(self.ids)
        for sequence, path in items:
            bytes(self.repository.revparse_single(f"main~{newest - sequence}").tree[path].data)

    def restore(self, items: Items) -> None:
        """On a branch of its own, so that `main` keeps its depth."""
        repository, who = self.repository, self.who
        for sequence, path in items:
            head = repository.references.get("refs/heads/restored")
            parent = head.target if head is not None else self.ids[-1]
            tree = repository[self.ids[sequence - 1]].tree
            made = repository.create_commit("refs/heads/restored", who, who, "", tree.id, [parent])
            bytes(repository[made].tree[path].data)

    def log(self, items: Items) -> None:
        for count in items:
            for commit in islice(self.repository.walk(self.ids[-1]), count):
                commit.commit_time  # noqa: B018  an attribute that is read, as log's loop reads one

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.repository.free()


class Icechunk(AbstractContextManager["Icechunk"]):
    """A row of an array for each file, a chunk each; readonly_session(snapshot_id=...) goes back."""

    name = "icechunk"

    def __init__(self, path: Path, history: History) -> None:
        icechunk, self.zarr, numpy = package("icechunk"), package("zarr"), package("numpy")
        self.repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(path)))
        session = self.repository.writable_session("main")
        array = self.zarr.create_array(
            session.store,
            name="state",
            shape=(history.keys, SIZE),
            chunks=(1, SIZE),
            dtype="u1",
            compressors=None,
        )
        names = list(history.first)
        array[:] = numpy.frombuffer(b"".join(history.first.values()), dtype="u1").reshape(history.keys, SIZE)
        self.ids = [session.commit("state")]
        self.rows = {name: row for row, name in enumerate(names)}
        for name, value in history.changes():
            session = self.repository.writable_session("main")
            array = self.zarr.open_array(session.store, path="state", mode="r+")
            array[self.rows[name]] = numpy.frombuffer(value, dtype="u1")
            self.ids.append(session.commit("state"))

    def read(self, sequence: int, path: str) -> bytes:
        session = self.repository.readonly_session(snapshot_id=self.ids[sequence - 1])
        array = self.zarr.open_array(session.store, path="state", mode="r")
        return bytes(array[self.rows[path]].tobytes())

    def by_id(self, items: Items) -> None:
        for sequence, path in items:
            self.read(sequence, path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class Prolly(AbstractContextManager["Prolly"]):
    """It goes back to branches alone: one is left at each commit."""

    name = "ProllyTree"

    def __init__(self, path: Path, history: History) -> None:
        prolly = package("prollytree")
        git = ["git", "-C", str(path)]
        subprocess.run([*git, "-c", "init.defaultBranch=main", "init", "-q"], check=True)
        for option, text in (("user.name", "bench"), ("user.email", "bench@localhost")):
            subprocess.run([*git, "config", option, text], check=True)
        data = path / "data"
        data.mkdir()
        self.store = prolly.VersionedKvStore(str(data))
        for name, value in history.first.items():
            self.store.insert(name.encode(), value)
        self._commit(1)
        for sequence, (name, value) in enumerate(history.changes(), 2):
            self.store.update(name.encode(), value)
            self._commit(sequence)

    def _commit(self, sequence: int) -> None:
        self.store.commit("state")
        self.store.create_branch(f"at-{sequence}")
        self.store.checkout("main")

    def read(self, sequence: int, path: str) -> bytes:
        self.store.checkout(f"at-{sequence}")
        return bytes(self.store.get(path.encode()))

    def by_id(self, items: Items) -> None:
        for sequence, path in items:
            self.read(sequence, path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class Ours:
    """The history on a branch, and what is measured on it."""

    def __init__(self, engine: helios_shm.Engine, ids: list[str]) -> None:
        self.engine, self.ids = engine, ids
        self.branch = engine.branch("main")
        self.restored = engine.branch("restored")

    @staticmethod
    def written(engine: helios_shm.Engine, history: History) -> "Ours":
        branch = engine.branch("main")
        workspace = branch.fork()
        workspace.update(history.first)
        ids = [workspace.commit().snapshot.id]
        for name, value in history.changes():
            workspace[name] = value
            ids.append(workspace.commit().snapshot.id)
        engine.sync()
        return Ours(engine, ids)

    def read(self, sequence: int, path: str) -> bytes:
        return self.engine.snapshot(self.ids[sequence - 1])[path]

    def by_id(self, items: Items) -> None:
        snapshot, ids = self.engine.snapshot, self.ids
        for sequence, path in items:
            snapshot(ids[sequence - 1])[path]

    def by_number(self, items: Items) -> None:
        at = self.branch.at
        for sequence, path in items:
            at(sequence).snapshot[path]

    def restore(self, items: Items) -> None:
        branch, snapshot, ids = self.restored, self.engine.snapshot, self.ids
        for sequence, path in items:
            branch.restore(snapshot(ids[sequence - 1])).snapshot[path]

    def log(self, items: Items) -> None:
        for count in items:
            for commit in self.branch.log(count):
                commit.sequence  # noqa: B018


def copies(value: bytes) -> Run:
    """The floor: the value's bytes copied."""
    view = memoryview(value)

    def run(items: Items) -> None:
        for _ in items:
            bytes(view)

    return run


def agree(history: History, ours: Ours, peer: Any, reads: int) -> None:
    """Do both give the same bytes for the same commits?"""
    for sequence, path in history.picks(history.commits, 1)(reads):
        if ours.read(sequence, path) != peer.read(sequence, path):
            raise AssertionError(f"{path} of commit {sequence} differs")


def deep(
    setting: Setting, history: History, ours: Ours, git: Git | None, lineup: Lineup, where: str
) -> Iterator[Row]:
    """By id and by number at growing depth; hot."""
    value = next(iter(history.first.values()))
    for depth in (100, 1_000, history.commits - 1):
        if depth >= history.commits:
            continue
        inputs = history.picks(depth, depth)
        for name, run, theirs in (
            ("by id", ours.by_id, git and ("pygit2 by id", git.by_id)),
            ("by number", ours.by_number, git and ("pygit2 revparse main~depth", git.by_number)),
        ):
            contenders = [
                Contender(name, run, inputs),
                Contender("memcpy of the value", copies(value), inputs),
            ]
            if theirs:
                contenders.append(Contender(*theirs, inputs, calls=2))
            mine, floor, *others = measure(
                contenders, rounds=setting.scale(40, 2), calls=10, batch=5, seconds=0.8
            )
            yield compare(
                f"a state {depth:,} commits back, {name}, and a value of it, {where}", mine, others,
                floor=floor, skipped=lineup.skipped,
                at=Point("history", f"{name}, {where}", "commits back", depth),
            )  # fmt: skip


def going_back(
    setting: Setting, history: History, ours: Ours, git: Git | None, lineup: Lineup
) -> Iterator[Row]:
    """Restoring the oldest states, and walking the whole log."""
    depth = history.commits - 1
    inputs = history.picks(depth, 3)
    contenders = [Contender("restore", ours.restore, inputs)]
    if git:
        contenders.append(Contender("pygit2 commit of the old tree", git.restore, inputs, calls=2))
    mine, *others = measure(contenders, rounds=setting.scale(40, 2), calls=10, batch=5, seconds=0.8)
    yield compare(
        f"restore a state {depth:,} commits back on a branch, and read a value",
        mine,
        others,
        skipped=lineup.skipped,
    )
    walkers = [Contender("log", ours.log, lambda n: [history.commits] * n)]
    if git:
        walkers.append(Contender("pygit2 walk", git.log, lambda n: [history.commits] * n))
    taken = measure(walkers, rounds=setting.scale(8, 2), calls=1, batch=1, seconds=2.0)
    mine, *others = [per_commit(samples, history.commits) for samples in taken]
    yield compare(
        f"log of {history.commits:,} commits, each with its sequence (a commit)",
        mine,
        others,
        skipped=lineup.skipped,
    )


def per_commit(samples: Samples, commits: int) -> Samples:
    rounds = tuple(tuple(figure / commits for figure in each) for each in samples.rounds)
    return Samples(samples.name, samples.batch * commits, rounds)


def from_disk(
    setting: Setting, path: Path, history: History, ids: list[str], git: Git | None
) -> Iterator[Row]:
    """The first reads after everybody had left: each of another commit, none of it in memory."""
    depth = history.commits - 1
    for name in ("by_id", "by_number"):
        until_left(path)
        with helios_shm.open(path) as engine:
            contenders = [Contender(name, getattr(Ours(engine, ids), name), history.picks(depth, 5))]
            if git:
                git.open()
                contenders.append(
                    Contender("pygit2, opened anew", getattr(git, name), history.picks(depth, 5))
                )
            mine, *others = measure(contenders, rounds=1, calls=setting.scale(100, 5), batch=1, warm_up=False)
        yield compare(
            f"a state {depth:,} commits back, {name.replace('_', ' ')}, and a value of it, first reads from L2",
            mine, others, note="everybody had left: no segment; one open of each",
        )  # fmt: skip


def shallow(setting: Setting, kind: type[Icechunk] | type[Prolly], commits: int) -> Row:
    """A peer that is slow to commit, at the depth that it reaches in the time."""
    history = History(commits, setting.scale(KEYS, 10))
    with directory(setting.memory) as path, directory(setting.disk) as parent, Lineup() as lineup:
        peer: Any = lineup.seat(kind, path, history)
        with helios_shm.open(parent / "store") as engine:
            ours = Ours.written(engine, history)
            inputs = history.picks(commits - 1, 4)
            contenders = [Contender("by id", ours.by_id, inputs)]
            if peer is not None:
                agree(history, ours, peer, 2)
                name = {"icechunk": "icechunk readonly_session", "ProllyTree": "ProllyTree checkout"}[
                    kind.name
                ]
                contenders.append(Contender(name, peer.by_id, inputs, calls=1, batch=1))
            mine, *others = measure(contenders, rounds=setting.scale(10, 2), calls=10, batch=5, seconds=0.8)
        until_left(parent / "store")
        return compare(
            f"a state {commits - 1:,} commits back, by id, and a value of it, beside {kind.name}", mine, others,
            skipped=lineup.skipped,
        )  # fmt: skip


def history(setting: Setting) -> Iterator[Row]:
    """A branch of 10 000 commits."""
    past = History(setting.scale(10_001, 151))
    with directory(setting.memory) as place, directory(setting.disk) as parent, Lineup() as lineup:
        path = parent / "store"
        git = lineup.seat(Git, place, past)
        with helios_shm.open(path) as engine:
            ours = Ours.written(engine, past)
            if git is not None:
                agree(past, ours, git, 20)
            yield from deep(setting, past, ours, git, lineup, "hot")
            yield from going_back(setting, past, ours, git, lineup)
        yield from from_disk(setting, path, past, ours.ids, git)
        until_left(path)
    yield shallow(setting, Icechunk, setting.scale(101, 5))
    yield shallow(setting, Prolly, setting.scale(5, 3))
