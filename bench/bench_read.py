"""Reading a key in a process that did not write it: the first time, and again."""

import random
from collections.abc import Iterator
from pathlib import Path

import helios_shm

from .baselines import lmdb_gets, lmdb_open
from .harness import Contender, Items, Row, Run, Samples, Setting, Target, compare, measure, path_key
from .states import build, store, twin
from .workers import Job, Worker

BASELINE = "py-lmdb get, view, the same process"
BATCH = 10


def reads(snapshot: helios_shm.Snapshot) -> Run:
    """snapshot[path] for each input."""

    def run(items: Items) -> None:
        for key in items:
            snapshot[key]

    return run


def reader(snapshot: helios_shm.Snapshot, lmdb_path: Path, keys: int) -> Job:
    """The child: reads every key once in random order, ours and LMDB's in turns, then some again."""
    transaction = lmdb_open(lmdb_path, readonly=True).begin(buffers=True)

    def job(seed: int) -> tuple[list[Samples], list[Samples]]:
        order = random.Random(seed).sample(range(keys), keys)
        names = [path_key(number) for number in order]
        encoded = [name.encode() for name in names]
        texts, octets = iter(names), iter(encoded)
        first = [
            Contender("first", reads(snapshot), lambda n: [next(texts) for _ in range(n)]),
            Contender(BASELINE, lmdb_gets(transaction), lambda n: [next(octets) for _ in range(n)]),
        ]
        once = measure(first, rounds=keys // BATCH, calls=1, batch=BATCH, warm_up=False)
        again = [
            Contender("again", reads(snapshot), lambda n: random.sample(names, n)),
            Contender(BASELINE, lmdb_gets(transaction), lambda n: random.sample(encoded, n)),
        ]
        return once, measure(again, rounds=50, calls=5, batch=BATCH)

    return job


def read(setting: Setting, keys: int, children: int) -> Iterator[Row]:
    """Each child is a fresh process, so that every one of its first reads is one."""
    once, again = [], []
    with store(setting) as engine, twin(setting, keys, 1024) as environment:
        snapshot = build(engine.branch("main"), keys, 1024)
        for seed in range(children):
            with Worker(reader, snapshot, Path(environment.path()), keys) as child:
                child.ask(seed)
                first, repeated = child.answer()
                once.append(first)
                again.append(repeated)
    for kind, parts, limit in (("first read", once, 2.5), ("repeated", again, 0.5)):
        ours, lmdb = (Samples.joined(side) for side in zip(*parts, strict=True))
        name = f"snapshot[path], {kind}, {keys:,} x 1 KiB, another process"
        yield compare(name, ours, [lmdb], Target("<=", limit, BASELINE), note=f"{children} fresh processes")


def read_100(setting: Setting) -> Iterator[Row]:
    return read(setting, 100, setting.scale(20, 2))


def read_10_000(setting: Setting) -> Iterator[Row]:
    return read(setting, setting.scale(10_000, 1_000), setting.scale(4, 1))
