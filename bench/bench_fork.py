"""Workload 1: fork a state and change one key, privately; and the two halves of it alone.

    state of n keys --fork--> private --[path] = value-->   dropped: nobody else ever sees it

Ours is O(1) in the keys and in the bytes; copies are not. The floor is what any of them does at least: an
object made, and one key set in it.
"""

from collections.abc import Iterator, Sequence

import lmdb

import helios_shm

from .baselines import dict_sets, lmdb_gets
from .harness import (
    Contender,
    Edits,
    Items,
    Point,
    Row,
    Run,
    Setting,
    Target,
    Values,
    compare,
    idle_pair,
    measure,
    pairs_of,
    path_key,
    sized,
)
from .peers import PRIVATE, Lineup, changed_copies, installed
from .states import build, store, twin

COPIES = ("dict.copy", "deepcopy", "pickle dumps + loads")  # they take time with every key
SHARING = ("immutables Map.set", "pyrsistent pmap.set")  # they take time with the depth
ABORTED = "py-lmdb begin+put+abort (one at a time)"


def forks(snapshot: helios_shm.Snapshot) -> Run:
    """One fork, dropped at once, for each input."""

    def run(items: Items) -> None:
        for _ in items:
            snapshot.fork()

    return run


def changed_forks(snapshot: helios_shm.Snapshot) -> Run:
    """One fork with one changed key for each (key, value)."""

    def run(items: Items) -> None:
        for path, value in items:
            workspace = snapshot.fork()
            workspace[path] = value

    return run


def lmdb_aborted(environment: lmdb.Environment) -> Run:
    """A write transaction that changes one key and is given up: private, but nobody else can write meanwhile."""

    def run(items: Items) -> None:
        for key, value in items:
            transaction = environment.begin(write=True)
            transaction.put(key, value)
            transaction.abort()

    return run


def fork_row(
    setting: Setting, snapshot: helios_shm.Snapshot, environment: lmdb.Environment, keys: int
) -> Row:
    """Forking this snapshot beside reading one of its keys from LMDB."""
    names = [path_key(number).encode() for number in range(min(keys, 100))]
    with environment.begin(buffers=True) as transaction:
        contenders = [
            Contender("fork", forks(snapshot), lambda n: (names * n)[:n]),
            Contender(
                "py-lmdb get, view, open transaction", lmdb_gets(transaction), lambda n: (names * n)[:n]
            ),
        ]
        fork, get = measure(contenders, rounds=setting.scale(200, 5), calls=5, batch=50)
    return compare(f"snapshot.fork(), {keys:,} keys", fork, [get], Target("<=", 0.80, get.name))


def change_row(
    setting: Setting,
    snapshot: helios_shm.Snapshot,
    environment: lmdb.Environment,
    size: int,
    peers: Sequence[str] = (*COPIES, *SHARING),
) -> Row:
    """Forking this snapshot and changing one key beside the peers that hold the same state."""
    keys = len(snapshot)
    edits = Edits(keys, size)
    state = dict(pairs_of(keys, size))
    large = keys * size >= 1 << 20 or keys >= 10_000
    with Lineup() as lineup:
        contenders = [
            Contender("fork and change", changed_forks(snapshot), edits.as_text, idle_pair),
            Contender(
                "an empty dict and one key", changed_copies(lambda _: {}, state), edits.as_text, idle_pair
            ),
            Contender(ABORTED, lmdb_aborted(environment), edits.as_bytes, idle_pair),
        ]
        for label, run in installed(lineup, PRIVATE, peers, state):
            slow = {"calls": 1, "batch": 1, "every": 10 if large else 2} if label in COPIES else {}
            contenders.append(Contender(label, run, edits.as_text, idle_pair, **slow))
        rounds = setting.scale(20 if large else 60, 2)
        ours, floor, *others = measure(contenders, rounds=rounds, calls=5, batch=20, seconds=4.0)
        return compare(
            f"fork and change 1 key of {keys:,} x {sized(size)}",
            ours,
            others,
            floor=floor,
            skipped=lineup.skipped,
            at=Point("fork and change one key", f"{sized(size)} values", "keys", keys),
        )


def fork(setting: Setting) -> Iterator[Row]:
    """Forking a small snapshot; the large one is measured with the commits of a million keys."""
    with store(setting) as engine, twin(setting, 100, 1024) as environment:
        yield fork_row(setting, build(engine.branch("main"), 100, 1024), environment, 100)


def fork_and_change(setting: Setting) -> Iterator[Row]:
    """Up to 100,000 keys and 64 KiB; a million keys are measured with the commits of a million keys."""
    sizes = {
        48: (100, 1_000, 10_000, 100_000),
        1024: (100, 1_000, 10_000, 100_000),
        65536: (100, 1_000, 4_000),
    }
    with store(setting) as engine:
        for size, counts in sizes.items():
            for keys in counts[: setting.scale(9, 2)]:
                snapshot = build(engine.branch(f"{size}/{keys}"), keys, size)
                with twin(setting, keys, size) as environment:
                    yield change_row(setting, snapshot, environment, size)


def workspace_set(setting: Setting) -> Iterator[Row]:
    """200 keys into a fresh workspace beside 200 keys into a fresh dict."""
    with store(setting) as engine:
        snapshot = build(engine.branch("main"), 100, 1024)

        def run(items: Items) -> None:
            workspace = snapshot.fork()
            for key, value in items:
                workspace[key] = value

        names, values = list(map(path_key, range(200))), Values(1024)

        def pairs(count: int) -> list[tuple[str, bytes]]:
            return list(zip(names, values.take(count), strict=True))

        contenders = [Contender("set", run, pairs, idle_pair), Contender("dict", dict_sets, pairs, idle_pair)]
        ours, plain = measure(contenders, rounds=setting.scale(100, 5), calls=5, batch=len(names))
    yield compare("workspace[path] = value", ours, [plain], Target("<=", 5.5, plain.name))
