"""Workload 2: commit one, ten, a thousand changed keys, and publish them.

    workspace[path] = value, n times; workspace.commit()      the branch's head is the new snapshot, for everybody

Beside each: the peers that publish a change to other processes, without sync, on tmpfs (ours persists behind).
The floor is BLAKE3 alone for as many blocks as our commit compresses, timed in the same rounds: bench_hash.py.
"""

from collections.abc import Callable, Iterator, Sequence

import helios_shm

from .baselines import alone, wheel_messages
from .bench_fork import change_row, fork_row
from .bench_read import Names, hot_row, reads, walk_rows
from .harness import (
    FLOOR,
    Contender,
    Edits,
    Items,
    Point,
    Row,
    Run,
    Setting,
    Target,
    compare,
    idle_pair,
    measure,
    path_key,
    sized,
)
from .peers import (
    BATCHES,
    COMMITS,
    GETS,
    ITEMS,
    KEYS,
    PREFIX,
    Diskcache,
    Git,
    Icechunk,
    Lineup,
    Lmdb,
    Manager,
    Prolly,
    Ray,
    Redis,
    Sqlite,
    Store,
    UltraDict,
    Work,
)
from .states import blocks_hashed, build, commits, store

LMDB_PUT = "py-lmdb begin+put+commit, no sync, tmpfs"
ONE_KEY = (Lmdb, UltraDict, Manager, Sqlite, Redis, Diskcache, Git, Icechunk, Prolly)
TURNS: dict[str, dict[str, int]] = {  # the slower, the seldomer: they take 10 us .. 20 ms a commit
    "py-lmdb": {},
    "UltraDict2": {"calls": 10},
    "multiprocessing.Manager": {"calls": 4},
    "sqlite3": {"calls": 4},
    "redis": {"calls": 4},
    "diskcache": {"calls": 4, "every": 2},
    "pygit2": {"calls": 1, "every": 2},
    "icechunk": {"calls": 1, "every": 10},
    "ProllyTree": {"calls": 1, "every": 20},
}


def blocks_of(engine: helios_shm.Engine, run: Run, items: Items) -> float:
    """BLAKE3 compressions for each of the items."""
    before = blocks_hashed(engine)
    run(items)
    return (blocks_hashed(engine) - before) / len(items)


def one_key(
    setting: Setting, keys: int, size: int, kinds: Sequence[type[Store]], *targets: Target, seconds: float
) -> Iterator[Row]:
    """One changed key, on a branch (what the targets are about) and detached."""
    edits = Edits(keys, size)
    with store(setting) as engine, Lineup() as lineup:
        branch = engine.branch("main")
        snapshot = build(branch, keys, size)
        peers = lineup.filled(kinds, setting.memory, keys, size)
        on_branch, detached = commits(branch.fork()), commits(snapshot.fork())
        blocks = blocks_of(engine, on_branch, edits.as_text(200))
        contenders = [
            Contender("on a branch", on_branch, edits.as_text, idle_pair),
            Contender("detached", detached, edits.as_text, idle_pair),
            *wheel_messages(),
            *(each.contender(COMMITS, edits.named(each.key), **TURNS[each.name]) for each in peers),
        ]
        rounds, calls = setting.scale(100, 2), setting.scale(50, 5)
        ours, apart, short, long, *others = measure(
            contenders, rounds=rounds, calls=calls, batch=1, seconds=seconds
        )
    name = f"commit 1 key of {keys:,} x {sized(size)}"
    at = Point("commit and publish", f"1 key, {sized(size)} values", "keys", keys)
    floor = alone(blocks, short, long)
    note = f"{blocks:.1f} blocks hashed"
    yield compare(
        f"{name}, on a branch", ours, others, *targets, floor=floor, skipped=lineup.skipped, note=note, at=at
    )
    put = [each for each in others if each.name == LMDB_PUT]
    yield compare(f"{name}, detached", apart, put)


def small(setting: Setting, size: int, limit: float) -> Iterator[Row]:
    targets = (Target("<=", limit, LMDB_PUT), Target("<=", 0.04, "redis*"), Target("<=", 0.003, "pygit2*"))
    return one_key(setting, 100, size, ONE_KEY, *targets, seconds=12)


def commit_1_kib(setting: Setting) -> Iterator[Row]:
    return small(setting, 1024, 0.60)


def commit_48_bytes(setting: Setting) -> Iterator[Row]:
    return small(setting, 48, 0.45)


def commit_10_000(setting: Setting) -> Iterator[Row]:
    """A larger state; without those whose commit takes time with every key."""
    kinds = (Lmdb, UltraDict, Manager, Sqlite, Redis, Diskcache, Git)
    for size in (1024, 48):
        yield from one_key(setting, setting.scale(10_000, 500), size, kinds, seconds=5)


def batches(workspace: helios_shm.Workspace) -> Run:
    """A commit of all pairs of each item; the workspace goes on from its new snapshot."""

    def run(items: Items) -> None:
        for pairs in items:
            for path, value in pairs:
                workspace[path] = value
            workspace.commit()

    return run


def changes(
    edits: Edits, keys: int, count: int, key: Callable[[str], object], *, order: bool
) -> Callable[[int], Items]:
    """Inputs of `count` different random keys each, with new values, sorted or not."""

    def inputs(number: int) -> Items:
        made = []
        for _ in range(number):
            chosen = edits.values.random.sample(range(keys), count)
            chosen = sorted(chosen, key=path_key) if order else chosen
            made.append(
                [(key(path_key(at)), v) for at, v in zip(chosen, edits.values.take(count), strict=True)]
            )
        return made

    return inputs


def many_keys(
    setting: Setting,
    count: int,
    keys: int,
    size: int,
    kinds: Sequence[type[Store]],
    *targets: Target,
    seconds: float,
) -> Iterator[Row]:
    """`count` changed keys in one commit; ours takes them as they come, LMDB both so and sorted beforehand."""
    edits = Edits(keys, size)
    with store(setting) as engine, Lineup() as lineup:
        branch = engine.branch("main")
        build(branch, keys, size)
        peers = lineup.filled(kinds, setting.memory, keys, size)
        run, unsorted = batches(branch.fork()), changes(edits, keys, count, str, order=False)
        blocks = blocks_of(engine, run, unsorted(5))
        contenders = [Contender("one commit", run, unsorted), *wheel_messages()]
        for each in peers:
            plain = each.contender(
                BATCHES, changes(edits, keys, count, each.key, order=False), **batch_turns(each)
            )
            contenders.append(plain)
            if isinstance(each, Lmdb):
                inputs = changes(edits, keys, count, each.key, order=True)
                contenders.append(Contender(f"{plain.name}, sorted", plain.run, inputs))
        rounds = setting.scale(60, 2)
        ours, short, long, *others = measure(contenders, rounds=rounds, calls=2, batch=1, seconds=seconds)
    yield compare(
        f"commit {count:,} keys of {keys:,} x {sized(size)}, on a branch", ours, others, *targets,
        floor=alone(blocks, short, long), skipped=lineup.skipped, note=f"{blocks:,.0f} blocks hashed",
        at=Point("commit and publish", f"{count:,} keys, {sized(size)} values", "keys", keys),
    )  # fmt: skip


def batch_turns(peer: Store) -> dict[str, int]:
    """Whoever takes longer than some ms for a commit of a thousand keys sits most rounds out."""
    return {"every": 10, "calls": 1} if isinstance(peer, Git | Diskcache | UltraDict | Manager) else {}


def commit_10(setting: Setting) -> Iterator[Row]:
    kinds = (Lmdb, UltraDict, Manager, Sqlite, Redis, Diskcache, Git)
    for size in (1024, 48):
        yield from many_keys(setting, 10, setting.scale(10_000, 200), size, kinds, seconds=3)


def commit_1000(setting: Setting) -> Iterator[Row]:
    """A thousand of a hundred thousand; and of ten thousand, where the peers with a file a key can follow."""
    few, many = setting.scale(10_000, 1_200), setting.scale(100_000, 2_000)
    for size, limit in ((1024, 0.5), (48, 0.7)):
        kinds: tuple[type[Store], ...] = (Lmdb, UltraDict, Manager, Sqlite, Redis, Diskcache, Git)
        yield from many_keys(setting, 1000, few, size, kinds, seconds=1.5)
        targets = (Target("<=", limit, "py-lmdb*"), Target("<=", 4.0, FLOOR))
        kinds = (Lmdb, UltraDict, Manager, Sqlite, Redis)
        yield from many_keys(setting, 1000, many, size, kinds, *targets, seconds=3)


def million(setting: Setting, size: int, copies: Sequence[str], walks: Sequence[Work]) -> Iterator[Row]:
    """A state of a million keys beside LMDB with as many, and beside a state of 100 keys; its forks and reads."""
    keys = setting.scale(1_000_000, 2_000)
    edits, little_edits = Edits(keys, size), Edits(100, size)
    with store(setting) as engine, Lineup() as lineup:
        large, little = engine.branch("large"), engine.branch("little")
        build(large, keys, size)
        build(little, 100, size)
        (lmdb,) = lineup.filled([Lmdb], setting.memory, keys, size)
        contenders = [
            Contender("large", commits(large.fork()), edits.as_text, idle_pair),
            Contender("the same, 100 keys", commits(little.fork()), little_edits.as_text, idle_pair),
            lmdb.contender(COMMITS, edits.named(lmdb.key)),
        ]
        rounds = setting.scale(100, 5)
        many, few, put = measure(contenders, rounds=rounds, calls=setting.scale(50, 10), batch=1)
        targets = (Target("<=", 2.5, few.name), Target("<=", 0.65, LMDB_PUT))
        at = Point("commit and publish", f"1 key, {sized(size)} values", "keys", keys)
        yield compare(
            f"commit 1 key of {keys:,} x {sized(size)}, on a branch", many, [few, put], *targets, at=at
        )
        assert isinstance(lmdb, Lmdb)
        yield fork_row(setting, large.head, lmdb.environment, keys)
        yield change_row(setting, large.head, lmdb.environment, size, copies)
        yield hot_row(setting, large.head, [lmdb], size)
        yield from walk_rows(setting, large.head, [lmdb], size, walks)


def million_1_kib(setting: Setting) -> Iterator[Row]:
    """Of the peers that copy, one: deepcopy and pickle take seconds here. A GB of values is read below prefixes."""
    return million(setting, 1024, ("dict.copy", "immutables Map.set"), (KEYS, PREFIX))


def million_48_bytes(setting: Setting) -> Iterator[Row]:
    return million(
        setting,
        48,
        ("dict.copy", "deepcopy", "pickle dumps + loads", "immutables Map.set"),
        (KEYS, ITEMS, PREFIX),
    )


def beside_ray(setting: Setting) -> Iterator[Row]:
    """Apart from the others: Ray's own processes take the cores while it runs."""
    edits = Edits(100, 1024)
    with store(setting) as engine, Lineup() as lineup:
        branch = engine.branch("main")
        snapshot = build(branch, 100, 1024)
        peers = lineup.filled([Ray], setting.memory, 100, 1024)
        rounds = setting.scale(50, 2)
        contenders = [
            Contender("on a branch", commits(branch.fork()), edits.as_text, idle_pair),
            *(each.contender(COMMITS, edits.named(each.key), calls=5) for each in peers),
        ]
        ours, *others = measure(contenders, rounds=rounds, calls=20, batch=1)
        name = f"commit 1 key of 100 x {sized(1024)}, on a branch, beside Ray"
        yield compare(name, ours, others, skipped=lineup.skipped)
        names = Names(list(snapshot))
        contenders = [
            Contender("again", reads(snapshot), names),
            *(each.contender(GETS, names, calls=1) for each in peers),
        ]
        ours, *others = measure(contenders, rounds=rounds, calls=5, batch=10)
        name = f"snapshot[path], repeated, 100 x {sized(1024)}, hot, beside Ray"
        yield compare(name, ours, others, skipped=lineup.skipped)
