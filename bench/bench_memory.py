"""What a thousand forks of one state cost in memory, in all processes together."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

import helios_shm

from .harness import Beside, Row, Setting, Spread, Target, show
from .states import build, store
from .workers import Job, Worker


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


@dataclass(frozen=True, slots=True)
class Growth:
    """Bytes more than before."""

    pending: int  # private, with the edits not committed
    held: int  # private, with the commits held
    ring: int  # what the commits put into the ring
    shared: int  # all of /dev/shm: the ring's chunks come in steps
    copies: int  # private, for as many copies of a dict
    processes: int


def holder(snapshot: helios_shm.Snapshot, parent: int) -> Job:
    """The child: a fresh process, so that no memory freed earlier takes up what is measured."""

    def job(forks: int) -> Growth:
        keys = list(snapshot)
        warm = snapshot.fork()
        warm[keys[0]] = b"warm"
        warm.commit()
        snapshot.engine.sync()
        people = {parent, *processes(snapshot.engine)}
        before, shared = sum(map(private_bytes, people)), shared_memory_used()
        workspaces = [snapshot.fork() for _ in range(forks)]
        for number, workspace in enumerate(workspaces):
            workspace[keys[number * 7 % len(keys)]] = os.urandom(1024)
        pending = sum(map(private_bytes, people)) - before
        commits = [workspace.commit() for workspace in workspaces]
        snapshot.engine.sync()
        held = sum(map(private_bytes, people)) - before
        ring = sum(commit.metrics.new_bytes for commit in commits)
        shared = shared_memory_used() - shared
        plain = dict(snapshot)
        before = private_bytes(os.getpid())
        copies = [dict(plain) for _ in range(forks // 20)]
        copied = (private_bytes(os.getpid()) - before) * forks // len(copies)
        return Growth(pending, held, ring, shared, copied, len(people))

    return job


def memory(setting: Setting) -> Iterator[Row]:
    """1000 forks that are held, each with one changed key: before their commits and after them."""
    keys, forks = setting.scale(10_000, 1_000), setting.scale(1_000, 100)
    with store(setting) as engine:
        snapshot = build(engine.branch("main"), keys, 1024)
        with Worker(holder, snapshot, os.getpid()) as child:
            child.ask(forks)
            grown: Growth = child.answer()
    copies, limit = Spread.single(grown.copies, "bytes"), Target("<=", 8e3 * forks)
    cases = (
        ("not committed", grown.pending, f"private memory of {grown.processes} processes"),
        (
            "committed",
            grown.held + grown.ring,
            f"private memory of {grown.processes} processes +{show(grown.held, 'bytes')}, into the ring "
            f"{show(grown.ring, 'bytes')}; /dev/shm as a whole {show(grown.shared, 'bytes')}",
        ),
    )
    for kind, total, note in cases:
        ours = Spread.single(total, "bytes")
        yield Row(
            operation=f"{forks:,} forks of {show(keys * 1024, 'bytes')}, one changed key each, {kind}",
            n=forks,
            ours=ours,
            peers=(Beside.figures(f"{forks:,} x dict.copy (one in 20 made)", ours, copies),),
            targets=(limit,),
            note=note,
        )
