"""What a thousand forks of one state cost in memory, in all processes together."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

import helios_shm

from .harness import Row, Setting, Spread, Target, Values, path_key, show
from .states import build, store


def private_bytes(process: int) -> int:
    """Anonymous memory of a process: what nobody else can share. The segment's pages are counted apart."""
    for row in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if row.startswith("Anonymous:"):
            return int(row.split()[1]) * 1024
    return 0


def processes(engine: helios_shm.Engine) -> list[int]:
    """This process and the store's coordinator."""
    found = [os.getpid()]
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "helios_shm.coordinator" in command and str(engine.path) in command:
            found.append(process.pid)
    return found


def shared_memory_used() -> int:
    """Bytes taken on /dev/shm."""
    system = os.statvfs("/dev/shm")
    return (system.f_blocks - system.f_bfree) * system.f_frsize


def memory(setting: Setting) -> Iterator[Row]:
    """1000 forks that are held, each with one changed key: before their commits and after them."""
    keys, forks = setting.scale(10_000, 1_000), setting.scale(1_000, 100)
    with store(setting) as engine:
        snapshot = build(engine.branch("main"), keys, 1024)
        warm = snapshot.fork()
        warm[path_key(0)] = b"warm"
        warm.commit()
        people = processes(engine)
        values = Values(1024).take(forks)
        private, shared = sum(map(private_bytes, people)), shared_memory_used()
        workspaces = [snapshot.fork() for _ in range(forks)]
        for number, workspace in enumerate(workspaces):
            workspace[path_key(number * 7 % keys)] = values[number]
        pending = sum(map(private_bytes, people)) - private
        commits = [workspace.commit() for workspace in workspaces]
        engine.sync()
        people = processes(engine)
        held = sum(map(private_bytes, people)) - private
        appended = sum(commit.metrics.new_bytes for commit in commits)
        grown = shared_memory_used() - shared
        plain = dict(snapshot)
        private = private_bytes(os.getpid())
        copies = [dict(plain) for _ in range(forks // 20)]
        copied = (private_bytes(os.getpid()) - private) * 20
        del copies
    size = show(keys * 1024, "bytes")
    beside = Spread.single(copied, "bytes")
    limit = Target("<=", 8e3 * forks, "bytes")
    baseline = f"{forks:,} x dict.copy (one in 20 made)"
    yield Row(
        f"{forks:,} forks of {size}, one changed key each, not committed", forks,
        Spread.single(pending, "bytes"), baseline, beside, pending, limit,
    )  # fmt: skip
    yield Row(
        f"{forks:,} forks of {size}, one changed key each, committed", forks,
        Spread.single(held + appended, "bytes"), baseline, beside, held + appended, limit,
        f"private memory of {len(people)} processes +{show(held, 'bytes')}, into the ring "
        f"{show(appended, 'bytes')}, /dev/shm as a whole {show(grown, 'bytes')}",
    )  # fmt: skip
