"""What forks of one state cost in memory, in all processes together.

    parent      built the state, committed as many forks and dropped them, and looks at everybody's memory
    children    1 or 8 fresh processes: read the keys, then hold their share of the forks, edited, then committed
    coordinator has written as many commits before, and has nothing to do when it is looked at

    figure = private (anonymous) memory of all of them, more than before, + bytes put into the ring

A process's cache of nodes grows by huge pages of 2 MiB, so that few forks may cost it nothing, or one too much; the
note has its whole size. Peers hold as many copies, or versions that share structure, in a process of their own.
"""

import copy
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helios_shm

from .harness import Beside, Point, Row, Setting, Skipped, Spread, Target, path_key, show
from .peers import Absent, package
from .states import build, store
from .workers import Job, Worker

VALUE = 1024
LIMIT = 8e3  # bytes a fork
PAGE = 4096
QUIET_SECONDS, QUIET_SECONDS_MAX = 0.4, 5.0


def private_bytes(process: int) -> int:
    """Anonymous memory of a process: what nobody else can share. The segment's pages are counted apart."""
    for row in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if row.startswith("Anonymous:"):
            return int(row.split()[1]) * 1024
    return 0


def settled_bytes(process: int) -> int:
    """The same, when it has not changed for a while: an idle coordinator gives memory back."""
    found, since, end = private_bytes(process), time.monotonic(), time.monotonic() + QUIET_SECONDS_MAX
    while time.monotonic() - since < QUIET_SECONDS and time.monotonic() < end:
        time.sleep(0.05)
        now = private_bytes(process)
        if now != found:
            found, since = now, time.monotonic()
    return found


def shared_memory_used() -> int:
    """Bytes taken on /dev/shm."""
    system = os.statvfs("/dev/shm")
    return (system.f_blocks - system.f_bfree) * system.f_frsize


def holder(snapshot: helios_shm.Snapshot) -> Job:
    """A child: a fresh process, so that no memory freed earlier takes up what is measured."""
    keys = list(snapshot)
    warm = snapshot.fork()
    warm[keys[0]] = b"warm"
    warm.commit()
    workspaces: list[helios_shm.Workspace] = []
    held: list[helios_shm.Commit] = []

    def job(forks: int) -> int:
        """Above 0: hold so many forks, edited. Then 0: commit them. Then -1: the bytes that they put."""
        if forks > 0:
            workspaces.extend(snapshot.fork() for _ in range(forks))
            for number, workspace in enumerate(workspaces):
                workspace[keys[number * 7 % len(keys)]] = os.urandom(VALUE)
        elif forks == 0:
            held.extend(workspace.commit() for workspace in workspaces)
        else:
            return sum(commit.metrics.new_bytes for commit in held)
        return 0

    return job


@dataclass(frozen=True, slots=True)
class Growth:
    """Bytes more than before."""

    pending: int  # private, with the edits not committed
    held: int  # private, with the commits held
    coordinator: int  # its part of that
    ring: int  # what the commits put into the ring
    shared: int  # all of /dev/shm: the ring's chunks come in steps
    children: int  # private, all that the children have, Python included
    processes: int


def forks_committed(snapshot: helios_shm.Snapshot, forks: int) -> None:
    """As many forks, committed and dropped."""
    keys = len(snapshot)
    for number in range(forks):
        workspace = snapshot.fork()
        workspace[path_key(number * 11 % keys)] = os.urandom(VALUE)
        workspace.commit()
    snapshot.engine.sync()


def grown(snapshot: helios_shm.Snapshot, forks: int, children: int) -> Growth:
    """So many forks held by so many processes."""
    engine = snapshot.engine
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(holder, snapshot)) for _ in range(children)]
        forks_committed(snapshot, forks)
        coordinator = engine.stats().coordinator_pid or os.getpid()
        people = {os.getpid(), *(worker.process.pid or 0 for worker in workers)}

        def everybody(command: int) -> int:
            for worker in workers:
                worker.ask(command)
            return sum(worker.answer() for worker in workers)

        def private() -> tuple[int, int]:
            """Of the coordinator, and of all of us."""
            settled = settled_bytes(coordinator)
            return settled, settled + sum(map(private_bytes, people))

        (idle, before), shared = private(), shared_memory_used()
        everybody(forks // children)
        pending = private()[1] - before
        everybody(0)
        engine.sync()
        (later, held), shared = private(), shared_memory_used() - shared
        whole = sum(private_bytes(worker.process.pid or 0) for worker in workers)
        return Growth(pending, held - before, later - idle, everybody(-1), shared, whole, len(people) + 1)


# --- peers: each makes versions of a state of the same size, one changed key in each ---


def changed_copies(duplicate: Callable[[dict[str, bytes]], dict[str, bytes]]) -> Callable[..., list[Any]]:
    def versions(state: dict[str, bytes], count: int) -> list[Any]:
        made = [duplicate(state) for _ in range(count)]
        for number, each in enumerate(made):
            each[path_key(number * 7 % len(state))] = os.urandom(VALUE)
        return made

    return versions


def changed_maps(make: Callable[[dict[str, bytes]], Any]) -> Callable[..., list[Any]]:
    def versions(state: dict[str, bytes], count: int) -> list[Any]:
        first = make(state)
        return [first, *(first.set(path_key(n * 7 % len(state)), os.urandom(VALUE)) for n in range(count))]

    return versions


# Name, how versions are made, and of how many forks one is made: copies are all alike.
PEERS: tuple[tuple[str, Callable[..., list[Any]], int], ...] = (
    ("dict.copy", changed_copies(dict.copy), 20),
    ("deepcopy", changed_copies(copy.deepcopy), 50),
    ("immutables Map.set", changed_maps(lambda state: package("immutables").Map(state)), 1),
    ("pyrsistent pmap.set", changed_maps(lambda state: package("pyrsistent").pmap(state)), 1),
)


def peer(which: int, keys: int) -> Job:
    """A child that holds versions of a state, and says what private memory they take, or why there are none."""
    _, versions, share = PEERS[which]
    state = {path_key(number): os.urandom(VALUE) for number in range(keys)}
    kept: list[Any] = []

    def job(forks: int) -> int | str:
        try:
            kept.extend(versions(state, 1))
            before = private_bytes(os.getpid())
            kept.extend(versions(state, forks // share))
        except Absent as error:
            return str(error)
        return (
            max(private_bytes(os.getpid()) - before, PAGE) * share
        )  # what fits into freed memory shows as 0

    return job


def peers_of(setting: Setting, keys: int, forks: int) -> tuple[dict[str, Spread], list[Skipped]]:
    found: dict[str, Spread] = {}
    skipped: list[Skipped] = []
    for which, (name, _, share) in enumerate(PEERS):
        if setting.quick and share == 50:
            continue  # a process more, which makes what dict.copy does
        with Worker(peer, which, keys) as child:
            child.ask(forks)
            answer: int | str = child.answer()
        if isinstance(answer, str):
            skipped.append(Skipped(name, answer))
        else:
            made = f" (one in {share} made)" if share > 1 else ""
            found[f"{name}{made}"] = Spread.single(answer, "bytes")
    return found, skipped


def memory(setting: Setting) -> Iterator[Row]:
    """Forks that are held, each with one changed key: before their commits and after them."""
    keys, forks = setting.scale(10_000, 1_000), setting.scale(1_000, 96)
    peers, skipped = peers_of(setting, keys, forks)
    cases = ((forks, 1), (4 * forks, 1), (forks, 8))
    with store(setting) as engine:
        snapshot = build(engine.branch("main"), keys, VALUE)
        for count, children in cases[: setting.scale(3, 1)]:
            growth = grown(snapshot, count, children)
            note = (
                f"private memory of {growth.processes} processes +{show(growth.held, 'bytes')}, of these the "
                f"coordinator {show(growth.coordinator, 'bytes')}; into the ring {show(growth.ring, 'bytes')}; "
                f"/dev/shm as a whole {show(growth.shared, 'bytes')}; a child as a whole, with Python, "
                f"{show(growth.children / children, 'bytes')}"
            )
            kinds = (
                ("not committed", growth.pending, f"private memory of {growth.processes} processes"),
                ("committed", growth.held + growth.ring, note),
            )
            for kind, total, said in kinds:
                ours = Spread.single(total, "bytes")
                beside = peers if count == forks else {}
                yield Row(
                    operation=f"{count:,} forks of {show(keys * VALUE, 'bytes')} in {children} "
                    f"process{'es' * (children > 1)}, one changed key each, {kind}",
                    n=count,
                    ours=ours,
                    peers=tuple(Beside.figures(name, ours, size) for name, size in beside.items()),
                    targets=(Target("<=", LIMIT * count),) if count == forks else (),
                    skipped=tuple(skipped),
                    note=said,
                    at=Point("memory", f"{count:,} forks, {kind}", "processes", children),
                )
