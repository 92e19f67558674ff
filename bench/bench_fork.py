"""What happens before a commit: forking a snapshot, and setting a key in the workspace."""

from collections.abc import Iterator

import lmdb

import helios_shm

from .baselines import dict_sets, lmdb_gets
from .harness import (
    Contender,
    Items,
    Row,
    Run,
    Setting,
    Target,
    Values,
    compare,
    idle_pair,
    measure,
    path_key,
)
from .states import build, store, twin


def forks(snapshot: helios_shm.Snapshot) -> Run:
    """One fork, dropped at once, for each input."""

    def run(items: Items) -> None:
        for _ in items:
            snapshot.fork()

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
        fork, get = measure(contenders, rounds=setting.scale(300, 10), calls=5, batch=50)
    return compare(f"snapshot.fork(), {keys:,} keys", fork, [get], Target("<=", 0.80, get.name))


def fork(setting: Setting) -> Iterator[Row]:
    """Forking a small snapshot; the large one is measured with the commits of a million keys."""
    with store(setting) as engine, twin(setting, 100, 1024) as environment:
        yield fork_row(setting, build(engine.branch("main"), 100, 1024), environment, 100)


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
        ours, plain = measure(contenders, rounds=setting.scale(200, 10), calls=5, batch=len(names))
    yield compare("workspace[path] = value", ours, [plain], Target("<=", 5.5, plain.name))
