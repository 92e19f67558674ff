"""What history costs on disk: what a commit adds, a million commits, and the history of a real source tree.

    disk      blocks of all files of the store, or of the peer's, more than before
    new       bytes of the nodes and values that were not there before (CommitMetrics.new_bytes): the floor, and
              what goes into the ring

Peers keep every version too: LMDB and SQLite an entry for each {path, commit}, git its objects, loose and packed.
"""

import itertools
import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import lmdb

import helios_shm

from .harness import FLOOR, Beside, Point, Row, Setting, Skipped, Spread, Target, path_key, show
from .peers import Absent, package
from .states import build, directory, store

LIMIT = 1.3  # x the bytes of new nodes
STEP = 7  # bytes from one value to the next in the buffer that they are cut from
SAMPLE = 50  # commits for each one whose metrics are looked at


def disk_bytes(root: Path) -> int:
    """What the files below take of the disk."""
    return sum(path.stat().st_blocks * 512 for path in root.rglob("*") if path.is_file())


class Changes:
    """(path, value) without end: one of `keys` paths, a value that was not there before."""

    def __init__(self, keys: int, size: int) -> None:
        self.keys, self.size = keys, size
        self.buffer = os.urandom(16 << 20)
        self.count = 0

    def __iter__(self) -> "Changes":
        return self

    def __next__(self) -> tuple[str, bytes]:
        self.count += 1
        at = self.count * STEP % (len(self.buffer) - self.size)
        return path_key(self.count * 7919 % self.keys), self.buffer[at : at + self.size]


@dataclass(frozen=True, slots=True)
class Growth:
    """Of a store, by so many commits."""

    commits: int
    new: int
    disk: int
    seconds: float


def grown(workspace: helios_shm.Workspace, changes: Changes, commits: int) -> Growth:
    """One changed key a commit; the clock stops, and the disk is looked at, when all is persisted."""
    engine = workspace.base.engine
    before, new = disk_bytes(engine.path), 0
    start = time.perf_counter()
    for number, (path, value) in enumerate(itertools.islice(changes, commits)):
        workspace[path] = value
        commit = workspace.commit()
        if number % SAMPLE == 0:
            new += commit.metrics.new_bytes * min(SAMPLE, commits - number)
    engine.sync()
    return Growth(commits, new, disk_bytes(engine.path) - before, time.perf_counter() - start)


def lmdb_versions(root: Path, changes: Changes, commits: int) -> int:
    """LMDB, a transaction for each commit, {path, number of the commit} -> value."""
    with lmdb.open(str(root / "lmdb"), map_size=4 << 30, sync=False) as environment:
        before = disk_bytes(root / "lmdb")
        for number, (path, value) in enumerate(itertools.islice(changes, commits)):
            with environment.begin(write=True) as transaction:
                transaction.put(path.encode() + number.to_bytes(8, "big"), value)
        environment.sync(True)
        return disk_bytes(root / "lmdb") - before


def sqlite_versions(root: Path, changes: Changes, commits: int) -> int:
    """SQLite, a row for each commit, found by path and number."""
    place = root / "sqlite"
    place.mkdir()
    with closing(sqlite3.connect(place / "db", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = OFF")
        database.execute(
            "CREATE TABLE v (path TEXT, n INTEGER, value BLOB, PRIMARY KEY (path, n)) WITHOUT ROWID"
        )
        before = disk_bytes(place)
        for number, (path, value) in enumerate(itertools.islice(changes, commits)):
            database.execute("INSERT INTO v VALUES (?, ?, ?)", (path, number, value))
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return disk_bytes(place) - before


def git_versions(root: Path, changes: Changes, commits: int) -> tuple[int, int]:
    """libgit2, a commit each; (loose, packed)."""
    git = package("pygit2")
    place = root / "git"
    repository = git.init_repository(str(place), bare=True)
    who = git.Signature("bench", "bench@localhost", 1, 0)
    tree = repository.TreeBuilder()
    for number in range(changes.keys):
        tree.insert(path_key(number).replace("/", "-"), repository.create_blob(b"%d" % number), 0o100644)
    parents = [repository.create_commit("refs/heads/main", who, who, "", tree.write(), [])]
    before = disk_bytes(place)
    for path, value in itertools.islice(changes, commits):
        tree.insert(path.replace("/", "-"), repository.create_blob(value), 0o100644)
        parents = [repository.create_commit("refs/heads/main", who, who, "", tree.write(), parents)]
    loose = disk_bytes(place) - before
    repository.free()
    subprocess.run(["git", "-C", str(place), "gc", "-q", "--prune=now"], check=True)
    return loose, disk_bytes(place / "objects")


def per_commit(total: int, commits: int) -> Spread:
    return Spread.single(total / commits, "bytes")


def commit_row(setting: Setting, keys: int, size: int, with_peers: bool) -> Row:
    """What one commit of one changed key adds."""
    commits = setting.scale(20_000, 500)
    with store(setting) as engine:
        branch = engine.branch("main")
        build(branch, keys, size)
        growth = grown(branch.fork(), Changes(keys, size), commits)
    ours, new = per_commit(growth.disk, commits), per_commit(growth.new, commits)
    peers, skipped = [], []
    if with_peers:
        few, fewer = commits // 4, setting.scale(500, 20)
        with directory(setting.disk) as root:
            figures = {
                "py-lmdb, an entry a version": lmdb_versions(root, Changes(keys, size), few) / few,
                "SQLite, a row a version": sqlite_versions(root, Changes(keys, size), few) / few,
            }
            try:
                loose, packed = git_versions(root, Changes(keys, size), fewer)
                figures |= {"pygit2, loose objects": loose / fewer, "the same after git gc": packed / fewer}
            except (Absent, FileNotFoundError) as error:
                skipped.append(Skipped("pygit2", str(error)))
        peers = [Beside.figures(name, ours, Spread.single(each, "bytes")) for name, each in figures.items()]
    return Row(
        operation=f"bytes on disk of a commit, 1 key of {keys:,} x {size} B",
        n=commits,
        ours=ours,
        peers=tuple(peers),
        floor=Beside.figures("its new nodes and values, which go into the ring", ours, new),
        targets=(Target("<=", LIMIT, FLOOR),),
        skipped=tuple(skipped),
        note="peers keep each version, but no state of all keys for it, git apart",
        at=Point("disk", f"{size} B values", "keys", keys),
    )


def commit_bytes(setting: Setting) -> Iterator[Row]:
    """A small state and a large one."""
    sizes = ((100, 48), (setting.scale(1_000_000, 2_000), 48), (100, 1024))
    for keys, size in sizes[: setting.scale(3, 2)]:
        yield commit_row(setting, keys, size, keys == 100)


def million_commits(setting: Setting) -> Iterator[Row]:
    """A long history, at whose end all is persisted."""
    commits = setting.scale(1_000_000, 2_000)
    with store(setting) as engine:
        branch = engine.branch("main")
        build(branch, 100, 48)
        workspace, changes = branch.fork(), Changes(100, 48)
        steps = [grown(workspace, changes, commits // 5) for _ in range(5)]
    new, disk = sum(step.new for step in steps), sum(step.disk for step in steps)
    total = Spread.single(disk, "bytes")
    seconds = sum(step.seconds for step in steps)
    grow = ", ".join(f"{step.disk / step.new:.2f}" for step in steps)
    yield Row(
        operation=f"bytes on disk of {commits:,} commits, 1 key of 100 x 48 B",
        n=commits,
        ours=total,
        floor=Beside.figures("their new nodes and values", total, Spread.single(new, "bytes")),
        targets=(Target("<=", LIMIT, FLOOR),),
        note=f"{commits / seconds:,.0f} persisted commits/s over {seconds:.1f} s; "
        f"disk to new bytes in each fifth: {grow}; {show(disk / commits, 'bytes')} a commit",
    )


# --- the history of a real source tree: this one's own ---

SOURCE = Path(__file__).parent.parent


def git(*words: str, data: bytes = b"") -> bytes:
    return subprocess.run(
        ["git", "-C", str(SOURCE), *words], input=data, check=True, capture_output=True
    ).stdout


@dataclass(frozen=True, slots=True)
class Step:
    """What a commit of the tree changes: path -> id of its new bytes; None: removed."""

    id: str
    changes: dict[str, str | None]


def steps_of(commits: int) -> list[Step]:
    """The last commits of the tree's own history, oldest first; the first of them is whole."""
    ids = git("rev-list", "--first-parent", f"--max-count={commits}", "HEAD").decode().split()[::-1]
    found = [Step(ids[0], dict(entries(ids[0])))]
    for parent, id in itertools.pairwise(ids):
        fields = git("diff-tree", "-r", "-z", "--no-renames", parent, id).decode().split("\0")
        changes: dict[str, str | None] = {}
        for about, path in zip(fields[0:-1:2], fields[1::2], strict=True):
            _, mode, _, blob, _ = about[1:].split(" ")
            changes[path] = blob if mode not in ("000000", "160000") else None
        found.append(Step(id, changes))
    return found


def entries(commit: str) -> Iterator[tuple[str, str]]:
    """(path, id) of a commit's files."""
    for row in git("ls-tree", "-r", "-z", commit).decode().split("\0")[:-1]:
        about, path = row.split("\t")
        _, kind, id = about.split(" ")
        if kind == "blob":
            yield path, id


def contents(ids: set[str]) -> dict[str, bytes]:
    """The bytes of blobs."""
    asked = sorted(ids)
    raw = git("cat-file", "--batch", data="\n".join(asked).encode() + b"\n")
    found, at = {}, 0
    for id in asked:
        end = raw.index(b"\n", at)
        size = int(raw[at:end].split()[2])
        found[id] = raw[end + 1 : end + 1 + size]
        at = end + size + 2
    return found


def replayed(engine: helios_shm.Engine, steps: list[Step], blobs: dict[str, bytes]) -> tuple[int, int]:
    """The history as commits of a branch. Returns (new bytes, bytes of all states taken apart)."""
    workspace = engine.branch("main").fork()
    new = apart = 0
    for step in steps:
        for path, id in step.changes.items():
            if id is not None:
                workspace[path] = blobs[id]
            else:
                workspace.pop(path, None)
        commit = workspace.commit(step.id)
        new += commit.metrics.new_bytes
        apart += commit.snapshot.nbytes
    engine.sync()
    return new, apart


def git_sizes(setting: Setting, steps: list[Step]) -> tuple[int, int]:
    """What git takes for the same commits: (loose, in one pack)."""
    revisions = [steps[-1].id] + [f"^{id}" for id in parents_of(steps[0].id)]
    listed = git("rev-list", "--objects", "--first-parent", *revisions)
    pack = git(
        "pack-objects", "--stdout", "-q", data=b"\n".join(line.split()[0] for line in listed.splitlines())
    )
    with directory(setting.disk) as root:
        subprocess.run(["git", "-C", str(root), "init", "-q"], check=True)
        before = disk_bytes(root)
        subprocess.run(["git", "-C", str(root), "unpack-objects", "-q"], input=pack, check=True)
        return disk_bytes(root) - before, len(pack)


def parents_of(commit: str) -> list[str]:
    return git("rev-list", "--parents", "--max-count=1", commit).decode().split()[1:]


def real_history(setting: Setting) -> Iterator[Row]:
    """The commits of this source tree, replayed."""
    try:
        steps = steps_of(setting.scale(400, 10))
        blobs = contents({id for step in steps for id in step.changes.values() if id is not None})
    except (OSError, subprocess.CalledProcessError) as error:
        nothing = Spread.single(0.0, "bytes")
        why = Skipped(
            "the history of this source tree", f"no git, or no repository, here: {type(error).__name__}"
        )
        yield Row(operation="bytes on disk of a real history", n=0, ours=nothing, skipped=(why,))
        return
    with store(setting) as engine:
        before = disk_bytes(engine.path)
        new, apart = replayed(engine, steps, blobs)
        disk = Spread.single(disk_bytes(engine.path) - before, "bytes")
        head = engine.branch("main").head
        expected = dict(entries(steps[-1].id))
        if set(head) != set(expected) or any(
            head[path] != blobs.get(id, head[path]) for path, id in expected.items()
        ):
            raise AssertionError("the last state is not the last tree")
    loose, packed = git_sizes(setting, steps)
    figures = {
        "git, loose objects": loose,
        "git, one pack (deltas)": packed,
        "each state apart": apart,
    }
    yield Row(
        operation=f"bytes on disk of the last {len(steps):,} commits of this source tree",
        n=len(steps),
        ours=disk,
        peers=tuple(
            Beside.figures(name, disk, Spread.single(size, "bytes")) for name, size in figures.items()
        ),
        floor=Beside.figures("new nodes and values, not compressed", disk, Spread.single(new, "bytes")),
        targets=(Target("<=", LIMIT, FLOOR),),
        note=f"{len(expected):,} files; {show(apart / len(steps), 'bytes')} a state; a commit adds "
        f"{show(disk.p50 / len(steps), 'bytes')}",
    )
