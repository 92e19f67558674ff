"""Commits of one changed key: small states, and a state of a million keys."""

from collections.abc import Iterator

import helios_shm

from .baselines import lmdb_commits
from .bench_fork import fork_row
from .harness import Contender, Edits, Row, Setting, Target, compare, idle_pair, measure
from .states import build, commits, store, twin

BASELINE = "py-lmdb begin+put+commit, no sync, tmpfs"


def ours(name: str, workspace: helios_shm.Workspace, keys: int, size: int) -> Contender:
    return Contender(name, commits(workspace), Edits(keys, size).as_text, idle_pair)


def small(setting: Setting, size: int, limit: float) -> Iterator[Row]:
    """A state of 100 keys, on a branch (what the target is about) and detached."""
    with store(setting) as engine, twin(setting, 100, size) as environment:
        branch = engine.branch("main")
        snapshot = build(branch, 100, size)
        contenders = [
            ours("on a branch", branch.fork(), 100, size),
            ours("detached", snapshot.fork(), 100, size),
            Contender(BASELINE, lmdb_commits(environment), Edits(100, size).as_bytes, idle_pair),
        ]
        rounds = setting.scale(100, 5)
        on_branch, detached, lmdb = measure(contenders, rounds=rounds, calls=setting.scale(50, 10), batch=1)
    yield compare(
        f"commit 1 key of 100 x {size} B, on a branch", on_branch, [lmdb], Target("<=", limit, BASELINE)
    )
    yield compare(f"commit 1 key of 100 x {size} B, detached", detached, [lmdb])


def commit_1_kib(setting: Setting) -> Iterator[Row]:
    return small(setting, 1024, 0.70)


def commit_48_bytes(setting: Setting) -> Iterator[Row]:
    return small(setting, 48, 0.55)


def million(setting: Setting, size: int) -> Iterator[Row]:
    """A state of a million keys beside LMDB with as many, and beside a state of 100 keys; and its fork."""
    keys = setting.scale(1_000_000, 2_000)
    with store(setting) as engine, twin(setting, keys, size) as environment:
        large, little = engine.branch("large"), engine.branch("little")
        build(large, keys, size)
        build(little, 100, size)
        contenders = [
            ours("large", large.fork(), keys, size),
            ours("the same, 100 keys", little.fork(), 100, size),
            Contender(BASELINE, lmdb_commits(environment), Edits(keys, size).as_bytes, idle_pair),
        ]
        rounds = setting.scale(100, 5)
        many, few, lmdb = measure(contenders, rounds=rounds, calls=setting.scale(50, 10), batch=1)
        fork = fork_row(setting, large.head, environment, keys)
    name = f"commit 1 key of {keys:,} x {size} B, on a branch"
    yield compare(name, many, [few, lmdb], Target("<=", 2.5, few.name), Target("<=", 0.65, BASELINE))
    yield fork


def million_1_kib(setting: Setting) -> Iterator[Row]:
    return million(setting, 1024)


def million_48_bytes(setting: Setting) -> Iterator[Row]:
    return million(setting, 48)
