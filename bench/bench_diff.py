"""Diffs of two states that differ in few of their keys.

old: keys 0 .. n, one value each        new: the same, other values for `changed` of them, drawn at random

ours                  snapshot.diff(other), both states warm; then with the node cache emptied before each;
                      then from L2 alone, after everybody had left
immutables, pyrsistent, dict   have no diff: every key of one is looked up in the other
pygit2                diff_to_tree, two trees of 100 directories (1000 blobs serve all files)
ProllyTree            VersionedKvStore.diff of two commits (the diff of its ProllyTree class finds nothing)
floor                 memcpy of the nodes that differ, of both states
"""

import os
import random
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import helios_shm

from .harness import (
    Beside,
    Contender,
    Items,
    Point,
    Row,
    Run,
    Samples,
    Setting,
    Target,
    Values,
    compare,
    measure,
    path_key,
)
from .peers import Lineup, package
from .states import attachment, build, directory, until_left

SIZE = 48
Changes: TypeAlias = dict[int, bytes]  # key number -> new value


class Versions(AbstractContextManager["Versions"]):
    """A peer that holds an old and a new state. `differing()` finds the paths that differ, anew each time."""

    def differing(self) -> Iterable[str]:
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class Mappings(Versions):
    """Two mappings without a diff of their own: every key of the new one is looked up in the old one."""

    def __init__(self, old: Mapping[str, bytes], new: Mapping[str, bytes]) -> None:
        self.old, self.new = old, new

    def differing(self) -> Iterable[str]:
        look = self.old.get
        found = [path for path, value in self.new.items() if look(path) != value]
        return found if len(self.old) == len(self.new) else [*found, *(set(self.old) - set(self.new))]


def dicts(old: dict[str, bytes], new: dict[str, bytes]) -> Versions:
    return Mappings(old, new)


def immutables(old: dict[str, bytes], new: dict[str, bytes]) -> Versions:
    first = package("immutables").Map(old)
    return Mappings(first, first.update({path: new[path] for path in new if new[path] is not old[path]}))


def pyrsistent(old: dict[str, bytes], new: dict[str, bytes]) -> Versions:
    first = package("pyrsistent").pmap(old)
    return Mappings(first, first.update({path: new[path] for path in new if new[path] is not old[path]}))


class GitTrees(Versions):
    """Two trees in a bare repository, one directory of files for each of the paths' directories."""

    BLOBS = 1000

    def __init__(self, path: Path, keys: int, changes: Changes) -> None:
        self.git = package("pygit2")
        self.repository = self.git.init_repository(str(path), bare=True)
        write = self.repository.write
        blobs = [write(self.git.enums.ObjectType.BLOB, struct.pack("<Q", n)).raw for n in range(self.BLOBS)]
        other = write(self.git.enums.ObjectType.BLOB, b"changed").raw
        old = [blobs[n % self.BLOBS] for n in range(keys)]
        new = [other if n in changes else blob for n, blob in enumerate(old)]
        self.old, self.new = self._tree(old), self._tree(new)

    def _tree(self, blobs: list[bytes]) -> Any:
        """The tree of a state: one directory for each last two digits."""

        def write(mode: bytes, entries: Iterable[tuple[str, bytes]]) -> bytes:
            raw = b"".join(b"%s %s\0%s" % (mode, name.encode(), id) for name, id in entries)
            return bytes(self.repository.write(self.git.enums.ObjectType.TREE, raw).raw)

        folders = {}
        for folder in range(min(100, len(blobs))):
            numbers = range(folder, len(blobs), 100)
            names = (path_key(number).rpartition("/")[2] for number in numbers)
            folders[f"{folder:02d}"] = write(b"100644", zip(names, blobs[folder::100], strict=True))
        top = write(b"40000", [("perf", write(b"40000", folders.items()))])
        return self.repository[self.git.Oid(raw=top)]

    def differing(self) -> Iterable[str]:
        return [delta.new_file.path for delta in self.old.diff_to_tree(self.new).deltas]


class Prolly(Versions):
    """Two commits of a ProllyTree store, which lies in a git repository."""

    def __init__(self, path: Path, old: dict[str, bytes], new: dict[str, bytes]) -> None:
        prolly = package("prollytree")
        git = ["git", "-C", str(path), "-c", "init.defaultBranch=main"]
        subprocess.run([*git, "init", "-q"], check=True)
        for option, text in (("user.name", "bench"), ("user.email", "bench@localhost")):
            subprocess.run([*git, "config", option, text], check=True)
        data = path / "data"
        data.mkdir()
        self.store = prolly.VersionedKvStore(str(data))
        self.commits = []
        held: dict[str, bytes] = {}
        for state in (old, new):
            for name, value in state.items():
                if name not in held:
                    self.store.insert(name.encode(), value)
                elif held[name] is not value:
                    self.store.update(name.encode(), value)
            self.commits.append(self.store.commit("state"))
            held = state

    def differing(self) -> Iterable[str]:
        return [bytes(each.key).decode() for each in self.store.diff(*self.commits)]


def plain(keys: int, changes: Changes) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Both states as dicts, equal values the same objects."""
    old = {path_key(n): value for n, value in enumerate(Values(SIZE, seed=7).take(keys))}
    return old, old | {path_key(n): value for n, value in changes.items()}


def each(differing: Callable[[], object]) -> Run:
    def run(items: Items) -> None:
        for _ in items:
            differing()

    return run


def nothing(count: int) -> Items:
    return range(count)


def seated(lineup: Lineup, setting: Setting, keys: int, changes: Changes) -> dict[str, tuple[Versions, int]]:
    """The peers that can hold so many keys, with how many rounds each sits out for one that it runs."""
    old, new = plain(keys, changes)
    path = lineup.enter_context(directory(setting.memory))
    peers: dict[str, tuple[Versions | None, int]] = {
        "dict, every key looked up": (lineup.seat(dicts, old, new), 5),
        "pygit2 diff_to_tree": (lineup.seat(GitTrees, path, keys, changes, name="pygit2"), 5),
    }
    if keys <= 100_000:
        peers["immutables.Map, every key looked up"] = lineup.seat(immutables, old, new), 5
    if keys <= 1_000:
        place = lineup.enter_context(directory(setting.memory))
        peers["pyrsistent.pmap, every key looked up"] = lineup.seat(pyrsistent, old, new), 5
        peers["ProllyTree VersionedKvStore.diff"] = (
            lineup.seat(Prolly, place, old, new, name="ProllyTree"),
            20,
        )
    return {name: (peer, every) for name, (peer, every) in peers.items() if peer is not None}


def emptied(engine: helios_shm.Engine) -> Callable[[int], Items]:
    """Inputs, made when this process's cache of nodes has been emptied."""

    def inputs(count: int) -> Items:
        attachment(engine).forget_nodes()
        return range(count)

    return inputs


def changed_state(snapshot: helios_shm.Snapshot, changes: Changes) -> tuple[helios_shm.Snapshot, int]:
    """The new state, and the bytes of the nodes in which it differs from the old one."""
    workspace = snapshot.fork()
    for number, value in changes.items():
        workspace[path_key(number)] = value
    commit = workspace.commit()
    return commit.snapshot, commit.metrics.new_bytes


def diff_row(
    setting: Setting, snapshot: helios_shm.Snapshot, keys: int, count: int, with_peers: bool
) -> Iterator[Row]:
    """One pair of states: warm, beside everybody; and cold."""
    picked = random.Random(count).sample(range(keys), count)
    changes = dict(zip(picked, Values(SIZE, seed=count).take(count), strict=True))
    other, new_bytes = changed_state(snapshot, changes)
    expected = tuple(sorted(map(path_key, picked)))
    both = memoryview(os.urandom(2 * new_bytes))
    engine = snapshot.engine
    engine.sync()

    def ours() -> helios_shm.Diff:
        return snapshot.diff(other)

    with Lineup() as lineup:
        peers = seated(lineup, setting, keys, changes) if with_peers else {}
        for name, (peer, _) in peers.items():
            if tuple(sorted(peer.differing())) != expected:
                raise AssertionError(f"{name} finds other paths than were changed")
        if (found := ours()).changed != expected or found.added or found.removed:
            raise AssertionError("the diff is not what was changed")
        contenders = [
            Contender("warm", each(ours), nothing, calls=10),
            Contender("memcpy of the nodes that differ", each(lambda: bytes(both)), nothing, calls=10),
            *(Contender(name, each(peer.differing), nothing, every=every) for name, (peer, every) in peers.items()),
        ]  # fmt: skip
        warm, floor, *others = measure(
            contenders, rounds=setting.scale(100, 3), calls=1, batch=1, seconds=1.5 if with_peers else 0.6
        )
        at = Point("diff", f"{keys:,} keys", "keys that differ", count)
        targets = [Target("<=", 1e6)] if keys >= 1_000_000 and count == 100 else []
        yield compare(
            f"diff of two states of {keys:,} keys, {count:,} differ", warm, others, *targets,
            floor=floor, skipped=lineup.skipped, at=at,
        )  # fmt: skip
    cold = Contender("node cache emptied", each(ours), emptied(engine), calls=1)
    (samples,) = measure([cold], rounds=setting.scale(8, 2), calls=1, batch=1, seconds=0.6)
    yield Row(
        operation=f"diff of two states of {keys:,} keys, {count:,} differ, no node in this process",
        n=samples.n,
        ours=samples.spread,
        peers=(Beside.figures("warm", samples.spread, warm.spread),),
        note="the cache of nodes is emptied before each, as in a process that has read neither state: "
        "the nodes come from L1",
    )


def from_l2(setting: Setting, path: Path, ids: tuple[str, str], keys: int, count: int) -> Row:
    """The first diff of a process that finds no segment: all nodes are on disk. One sample for each open."""
    taken: list[tuple[float, ...]] = []
    for _ in range(setting.scale(3, 1)):
        until_left(path)
        with helios_shm.open(path) as engine:
            old, new = map(engine.snapshot, ids)
            (samples,) = measure(
                [Contender("", each(partial(old.diff, new)), nothing)],
                rounds=1, calls=1, batch=1, warm_up=False,
            )  # fmt: skip
        taken += samples.rounds
    return compare(
        f"diff of two states of {keys:,} keys, {count:,} differ, first of a process, from L2",
        Samples("from L2", 1, tuple(taken)), [], note="after everybody had left; ids looked up before",
    )  # fmt: skip


def diff(setting: Setting) -> Iterator[Row]:
    """1, 100 and 10 000 keys that differ, of a thousand, of 100 000 and of a million."""
    counts = {1_000: (1, 100), 100_000: (100,), 1_000_000: (1, 100, 10_000)}
    if setting.quick:
        counts = {100: (10,), 300: (1, 30)}
    for keys, changed in counts.items():
        with directory(setting.disk) as parent:
            path, most = parent / "store", changed[-1]
            with helios_shm.open(path) as engine:
                snapshot = build(engine.branch("main"), keys, SIZE)
                for count in changed:
                    yield from diff_row(setting, snapshot, keys, count, count == 100 or keys < 10_000)
                other, _ = changed_state(snapshot, dict.fromkeys(range(0, keys, keys // most), b"other"))
                ids = snapshot.id, other.id
            if keys == max(counts):
                yield from_l2(setting, path, ids, keys, most)
            until_left(path)
