"""Workload 3: reading a key hot, warm and cold; walking over the whole state and below a prefix.

    hot    the process that wrote the state reads a key again and again
    warm   another process: every key for the first time (its nodes come from the shared ring), then again
    cold   another process, and the segment is gone: every key for the first time, from L2 on the disk
    walk   keys() and items() from end to end, and below a prefix; figures are for each key

Every contender of a row runs in the one process that is measured. The files that the cold process reads are in
the page cache, ours and the peers' alike. The floor is a plain dict that holds the objects already.
"""

import dataclasses
import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
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
    Target,
    compare,
    measure,
    path_key,
    sized,
)
from .peers import (
    GETS,
    ITEMS,
    KEYS,
    MAPPINGS,
    PREFIX,
    Diskcache,
    Git,
    Icechunk,
    Lineup,
    Lmdb,
    Manager,
    Prolly,
    Redis,
    Sqlite,
    Store,
    UltraDict,
    Work,
    drain,
    installed,
)
from .states import build, directory, store, until_left
from .workers import Job, Worker

LMDB_GET = "py-lmdb get, view, open transaction"
FIRST, REPEATED = Target("<=", 2.0, LMDB_GET), Target("<=", 0.35, LMDB_GET)
WALKS: dict[Work, tuple[Target, ...]] = {
    KEYS: (Target("<=", 1.0, "py-lmdb cursor, keys only"),),
    ITEMS: (Target("<=", 1 / 0.7, "py-lmdb cursor, copies"),),
    PREFIX: (Target("<=", 1 / 0.7, "py-lmdb set_range + cursor, copies"),),
}
BATCH = 10
OTHERS = (Lmdb, UltraDict, Manager, Sqlite, Redis, Diskcache, Git)
SLOW: dict[
    str, dict[str, int]
] = {  # 5 us .. some ms a read; seldom, so that the caches stay with the fast ones
    "sqlite3": {"calls": 1, "every": 5},
    "diskcache": {"calls": 1, "every": 5},
    "redis": {"calls": 1, "every": 10},
    "multiprocessing.Manager": {"calls": 1, "every": 10},
    "pygit2": {"calls": 1, "every": 10},
    "ProllyTree": {"calls": 1, "every": 20},
    "icechunk": {"calls": 1, "every": 20},
}
Addresses: TypeAlias = list[tuple[type[Store], Any]]


class Names:
    """Inputs: random ones of these names; or, one after the other, each of them once."""

    def __init__(self, names: Sequence[Any], *, once: bool = False) -> None:
        self.names, self.random = names, random.Random(2)
        self.rest = iter(names) if once else None

    def __call__(self, count: int) -> Items:
        if self.rest is not None:
            return [next(self.rest) for _ in range(count)]
        return self.random.choices(self.names, k=count)


class InTurn:
    """Inputs: these, one after the other, again and again."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = itertools.cycle(items)

    def __call__(self, count: int) -> Items:
        return [next(self.items) for _ in range(count)]


def reads(mapping: Any) -> Run:
    """mapping[path] for each input: of a snapshot, or of a dict."""

    def run(items: Items) -> None:
        for key in items:
            mapping[key]

    return run


def gets(peers: Sequence[Store], names: Sequence[str], *, once: bool = False) -> list[Contender]:
    """The peers reading those names, the slow ones seldom."""
    return [
        each.contender(GETS, Names([each.key(name) for name in names], once=once), **SLOW.get(each.name, {}))
        for each in peers
    ]


# --- hot ---


def hot_row(setting: Setting, snapshot: helios_shm.Snapshot, peers: Sequence[Store], size: int) -> Row:
    """This process reads a thousand of its keys again and again."""
    keys = len(snapshot)
    chosen = random.Random(1).sample(range(keys), min(keys, 1000))
    names = [path_key(number) for number in chosen]
    plain = {name: bytes(size) for name in names}
    with Lineup() as lineup:
        contenders = [
            Contender("hot", reads(snapshot), Names(names)),
            Contender("dict[path]", reads(plain), Names(names)),
            *gets(peers, names),
            *(
                Contender(f"{name}[path]", reads(mapping), Names(names))
                for name, mapping in installed(lineup, MAPPINGS, MAPPINGS, plain)
            ),
        ]
        rounds = setting.scale(100, 3)
        ours, floor, *others = measure(contenders, rounds=rounds, calls=5, batch=5 * BATCH, seconds=2.5)
        return compare(
            f"snapshot[path], repeated, {keys:,} x {sized(size)}, hot", ours, others, REPEATED,
            floor=floor, skipped=lineup.skipped, at=Point("read a key", f"hot, {sized(size)} values", "keys", keys),
        )  # fmt: skip


def read_hot(setting: Setting) -> Iterator[Row]:
    """Small and larger states; a million keys are read with the commits of a million keys."""
    with store(setting) as engine:
        for size in (48, 1024):
            for keys in (100, setting.scale(10_000, 200)):
                kinds = (*OTHERS, Prolly, Icechunk) if keys == 100 else OTHERS
                snapshot = build(engine.branch(f"{size}/{keys}"), keys, size)
                with Lineup() as lineup:
                    peers = lineup.filled(kinds, setting.memory, keys, size)
                    yield with_skipped(hot_row(setting, snapshot, peers, size), lineup)


def with_skipped(row: Row, lineup: Lineup) -> Row:
    """The row with those noted who could not be seated for it."""
    return dataclasses.replace(row, skipped=(*lineup.skipped, *row.skipped))


# --- warm ---


def first_and_again(
    snapshot: helios_shm.Snapshot, peers: Sequence[Store], keys: int, seed: int, name: str
) -> tuple[list[Samples], list[Samples]]:
    """Every key once in random order, all of them in turns; then some of the keys again."""
    names = [path_key(number) for number in random.Random(seed).sample(range(keys), keys)]
    ours = Contender(name, reads(snapshot), Names(names, once=True))
    once = measure(
        [ours, *gets(peers, names, once=True)], rounds=keys // BATCH, calls=1, batch=BATCH, warm_up=False
    )
    ours = Contender(name, reads(snapshot), Names(names))
    return once, measure([ours, *gets(peers, names)], rounds=50, calls=5, batch=5 * BATCH)


def reader(snapshot: helios_shm.Snapshot, addresses: Addresses, keys: int) -> Job:
    """The child of a warm read."""
    peers = [kind.attached(address) for kind, address in addresses]

    def job(seed: int) -> tuple[list[Samples], list[Samples]]:
        return first_and_again(snapshot, peers, keys, seed, "warm")

    return job


def joined_row(
    operation: str, parts: list[list[Samples]], *targets: Target, lineup: Lineup, at: Point
) -> Row:
    """The row of what several fresh processes measured."""
    ours, *others = (Samples.joined(side) for side in zip(*parts, strict=True))
    note = f"{len(parts)} fresh processes"
    return compare(operation, ours, others, *targets, skipped=lineup.skipped, note=note, at=at)


def read_warm(setting: Setting, keys: int, children: int) -> Iterator[Row]:
    """Each child is a fresh process, so that every one of its first reads is one."""
    found: dict[str, list[list[Samples]]] = {"first read": [], "repeated": []}
    with store(setting) as engine, Lineup() as lineup:
        snapshot = build(engine.branch("main"), keys, 1024)
        peers = lineup.filled(OTHERS, setting.memory, keys, 1024)
        addresses = [(type(each), each.address) for each in peers]
        for seed in range(children):
            with Worker(reader, snapshot, addresses, keys) as child:
                child.ask(seed)
                once, again = child.answer()
            found["first read"].append(once)
            found["repeated"].append(again)
        for kind, target in (("first read", FIRST), ("repeated", REPEATED)):
            name = f"snapshot[path], {kind}, {keys:,} x 1 KiB, another process"
            at = Point("read a key", f"{kind}, another process, 1 KiB values", "keys", keys)
            yield joined_row(name, found[kind], target, lineup=lineup, at=at)


def read_100(setting: Setting) -> Iterator[Row]:
    return read_warm(setting, 100, setting.scale(10, 2))


def read_10_000(setting: Setting) -> Iterator[Row]:
    return read_warm(setting, setting.scale(10_000, 1_000), setting.scale(4, 1))


# --- cold ---


def cold_reader(root: Path, addresses: Addresses, keys: int) -> Job:
    """The child of a cold read: it makes the segment anew. None of its keys have been in shared memory since."""
    engine = helios_shm.open(root)
    peers = [kind.attached(address) for kind, address in addresses]

    def job(seed: int | str) -> tuple[list[Samples], list[Samples]] | None:
        if isinstance(seed, str):
            engine.close()
            return None
        return first_and_again(engine.branch("main", create=False).head, peers, keys, seed, "cold")

    return job


def read_cold(setting: Setting) -> Iterator[Row]:
    """The store is closed by everybody before each child, so that its segment is gone."""
    keys = setting.scale(10_000, 500)
    parts: list[list[Samples]] = []
    with directory(setting.disk) as parent, Lineup() as lineup:
        root = parent / "store"
        with helios_shm.open(root) as engine:
            build(engine.branch("main"), keys, 1024)
        until_left(root)
        peers = lineup.filled((Lmdb, Sqlite, Diskcache, Git), setting.memory, keys, 1024)
        addresses = [(type(each), each.address) for each in peers]
        for seed in range(setting.scale(2, 1)):
            with Worker(cold_reader, root, addresses, keys) as child:
                child.ask(seed)
                once, _again = child.answer()
                parts.append(once)
                child.ask("close")
                child.answer()
            until_left(root)
        name = f"snapshot[path], first read, {keys:,} x 1 KiB, another process, no segment"
        at = Point("read a key", "first read, no segment, 1 KiB values", "keys", keys)
        yield joined_row(name, parts, lineup=lineup, at=at)


# --- walks ---


def per_key(walked: Samples, keys: int) -> Samples:
    """Figures of whole walks as figures of a key."""
    rounds = tuple(tuple(figure / keys for figure in figures) for figures in walked.rounds)
    return Samples(walked.name, walked.batch, rounds)


def our_walk(snapshot: helios_shm.Snapshot, work: Work) -> Run:
    """From end to end for each item; for PREFIX, each item is the prefix."""

    def run(items: Items) -> None:
        for item in items:
            drain(snapshot.keys() if work == KEYS else snapshot.items(item))

    return run


def plain_walk(plain: dict[str, bytes], work: Work) -> Run:
    """The same over a dict that holds all objects already; it has no order, and so no prefix."""

    def run(items: Items) -> None:
        for _ in items:
            drain(plain.keys() if work == KEYS else plain.items())

    return run


def walk_row(
    setting: Setting, snapshot: helios_shm.Snapshot, peers: Sequence[Store], size: int, work: Work
) -> Row:
    """One kind of walk; below a prefix, over one key of a hundred, each time below another."""
    keys = len(snapshot)
    name = {KEYS: "keys()", ITEMS: "items()", PREFIX: "items(prefix)"}[work]
    passed = keys // 100 if work == PREFIX else keys
    prefixes = [f"perf/{number:02d}/" for number in range(100)] if work == PREFIX else [""]
    contenders = [Contender(name, our_walk(snapshot, work), InTurn(prefixes))]
    if work != PREFIX:
        plain = dict.fromkeys(map(path_key, range(keys)), b"")
        contenders.append(Contender("dict, in no order", plain_walk(plain, work), lambda n: [None] * n))
    able = [each for each in peers if work in each.works()]
    contenders += [each.contender(work, InTurn([each.key(prefix) for prefix in prefixes])) for each in able]
    rounds = setting.scale(30 if passed < 100_000 else 5, 2)
    walked = measure(contenders, rounds=rounds, calls=1, batch=1, seconds=4.0)
    ours, *others = (per_key(each, passed) for each in walked)
    floor = None if work == PREFIX else others.pop(0)
    return compare(
        f"snapshot.{name}, {passed:,} of {keys:,} x {sized(size)}, a key", ours, others, *WALKS[work], floor=floor,
        note=f"n walks of {passed:,} keys", at=Point("walk", f"{name}, {sized(size)} values", "keys", keys),
    )  # fmt: skip


def walk_rows(
    setting: Setting,
    snapshot: helios_shm.Snapshot,
    peers: Sequence[Store],
    size: int,
    works: Sequence[Work] = (KEYS, ITEMS, PREFIX),
) -> Iterator[Row]:
    """keys(), items(), and items() below one of a hundred prefixes."""
    for work in works:
        yield walk_row(setting, snapshot, peers, size, work)


def walk(setting: Setting) -> Iterator[Row]:
    """A million keys are walked with the commits of a million keys."""
    with store(setting) as engine:
        for size in (48, 1024):
            keys = setting.scale(10_000, 300)
            snapshot = build(engine.branch(f"{size}"), keys, size)
            with Lineup() as lineup:
                peers = lineup.filled((Lmdb, Sqlite, UltraDict, Manager), setting.memory, keys, size)
                for row in walk_rows(setting, snapshot, peers, size):
                    yield with_skipped(row, lineup)
