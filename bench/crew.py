"""Processes that work at the same time: each attached to the store and to every peer, begun at one moment.

    parent                                child 0 .. child 15 (spawned)
    Crew(16, engine, peers)          ->   a branch of its own; peers attached by their addresses
    crew.rate("own", 4, seconds)     ->   the first 4: until the moment, then blocks of work until the time is up
        operations a second, summed  <-   operations, nanoseconds of each block

Invariants:
- Keys and values are made by the same code, inside the clock, whoever takes them: 0.1 us an operation.
- Child n changes keys n * KEYS .. n * KEYS + KEYS - 1, so that nobody's keys collide, except in `collide`.
- Values never repeat within a child, and differ between children.

Used by bench_scaling.py and bench_durable.py.
"""

import os
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import helios_shm

from .harness import Run, path_key
from .peers import COMMITS, GETS, Lmdb, Redis, Sqlite, Store
from .states import build, commits
from .workers import Job, Worker

KEYS = 100  # of each child
VALUE_BYTES = 1024
STARTERS = 4  # children that are started at a time
SETTLE_SECONDS = 0.02  # from the last child's being told to the moment they begin
Kind: TypeAlias = type[Store]


class Stream:
    """The (key, value) pairs of one child."""

    def __init__(self, number: int) -> None:
        self.random = random.Random(number)
        self.buffer = self.random.randbytes(1 << 20)
        self.at = 0

    def values(self, count: int) -> Iterator[bytes]:
        """Values one byte further each; a new buffer when this one has been gone through."""
        if self.at + count + VALUE_BYTES > len(self.buffer):
            self.buffer, self.at = self.random.randbytes(len(self.buffer)), 0
        for at in range(self.at, self.at + count):
            yield self.buffer[at : at + VALUE_BYTES]
        self.at += count

    def pairs(self, keys: Sequence[Any], count: int) -> list[tuple[Any, bytes]]:
        return list(zip(self.random.choices(keys, k=count), self.values(count), strict=True))


def durable_commits(workspace: helios_shm.Workspace) -> Run:
    """One changed key and a durable commit for each (key, value)."""

    def run(items: Sequence[Any]) -> None:
        for key, value in items:
            workspace[key] = value
            workspace.commit(durable=True)

    return run


def collisions(branch: helios_shm.Branch, key: str) -> Run:
    """Read the key that everybody wants, change it, commit; again from the new head if somebody was faster."""

    def run(items: Sequence[Any]) -> None:
        for _, value in items:
            while True:
                workspace = branch.fork()
                workspace[key] = workspace[key][:8] + value[8:]
                try:
                    workspace.commit()
                except helios_shm.ConflictError:
                    continue
                break

    return run


def fresh_reads(branch: helios_shm.Branch) -> Run:
    """The value at the head, which is looked up for each read."""

    def run(items: Sequence[Any]) -> None:
        for key, _ in items:
            branch.head[key]

    return run


def copies(size: int) -> Run:
    """One memcpy of so many bytes for each item."""
    source, target = memoryview(os.urandom(size)), memoryview(bytearray(size))

    def run(items: Sequence[Any]) -> None:
        for _ in items:
            target[:] = source

    return run


def peer_collisions(peer: Store, path: str) -> Run | None:
    """The same read, change and write, as the peer makes it atomic; None where it cannot."""
    key = peer.key(path)
    if isinstance(peer, Lmdb):

        def in_lmdb(items: Sequence[Any]) -> None:
            for _, value in items:
                with peer.environment.begin(write=True) as transaction:
                    transaction.put(key, transaction.get(key, b"")[:8] + value[8:])

        return in_lmdb
    if isinstance(peer, Sqlite):

        def in_sqlite(items: Sequence[Any]) -> None:
            execute = peer.database.execute
            for _, value in items:
                execute("BEGIN IMMEDIATE")
                old = execute(peer.GET, (key,)).fetchone()[0]
                execute(peer.PUT, (key, old[:8] + value[8:]))
                execute("COMMIT")

        return in_sqlite
    if isinstance(peer, Redis):

        def in_redis(items: Sequence[Any]) -> None:
            for _, value in items:

                def change(pipe: Any, value: bytes = value) -> None:
                    old = pipe.get(key)
                    pipe.multi()
                    pipe.set(key, old[:8] + value[8:])

                peer.client.transaction(change, key)

        return in_redis
    return None


def peer_reads(peer: Store) -> Run:
    """Reads that see what was committed just before: in LMDB that is a transaction for each."""
    if not isinstance(peer, Lmdb):
        get = peer.works()[GETS].run
        return lambda items: get([key for key, _ in items])

    def in_lmdb(items: Sequence[Any]) -> None:
        for key, _ in items:
            with peer.environment.begin(buffers=True) as transaction:
                transaction.get(key)

    return in_lmdb


@dataclass(frozen=True, slots=True)
class Post:
    """What a child attaches to."""

    number: int
    path: Path
    everybodys: str  # the key that all collide on
    peers: tuple[tuple[Kind, Any, bool], ...]  # kind, address, durable


def works_of(post: Post, engine: helios_shm.Engine) -> dict[str, tuple[Run, Sequence[Any]]]:
    """Everything that a child can do, and the keys it does it to."""
    mine = range(post.number * KEYS, (post.number + 1) * KEYS)
    paths = [path_key(number) for number in mine]
    own, shared = engine.branch(f"own{post.number}"), engine.branch("shared")
    build(own, KEYS, VALUE_BYTES)
    names = [path_key(number) for number in range(KEYS)]
    works: dict[str, tuple[Run, Sequence[Any]]] = {
        "own": (commits(own.fork()), names),
        "durable": (durable_commits(own.fork()), names),
        "shared": (commits(shared.fork()), paths),
        "collide": (collisions(shared, post.everybodys), names),
        "read": (fresh_reads(shared), paths),
        "copy": (copies(4 << 20), names),
    }
    for kind, address, durable in post.peers:
        peer = kind.attached(address, durable=durable)
        keys = [peer.key(path) for path in paths]
        works[kind.name] = (peer.works()[COMMITS].run, keys)
        if GETS in peer.works():
            works[f"{kind.name} read"] = (peer_reads(peer), keys)
        collide = peer_collisions(peer, post.everybodys)
        if collide:
            works[f"{kind.name} collide"] = (collide, keys)
    return works


def hand(post: Post) -> Job:
    """The child: (what, moment, seconds, operations in a block) -> (operations a second, ns of each block).

    What is finished between the moment and its end counts: rates of children that began late do not add up."""
    engine = helios_shm.open(post.path)
    works, stream = works_of(post, engine), Stream(post.number)

    def job(command: tuple[str, float, float, int]) -> tuple[float, list[int]]:
        what, moment, seconds, block = command
        run, keys = works[what]
        taken: list[int] = []
        end = int((moment + seconds) * 1e9)
        time.sleep(max(0.0, moment - time.monotonic()))
        now = time.monotonic_ns()
        while now < end:
            begun = now
            run(stream.pairs(keys, block))
            now = time.monotonic_ns()
            if now <= end:
                taken.append(now - begun)
        return block * len(taken) / seconds, taken

    return job


class Crew(AbstractContextManager["Crew"]):
    """So many children, each with a branch of its own and one that they share."""

    def __init__(self, size: int, engine: helios_shm.Engine, peers: Sequence[Store]) -> None:
        keys = size * KEYS + 1  # the last one is everybody's
        build(engine.branch("shared"), keys, VALUE_BYTES)
        for peer in peers:
            peer.fill((path_key(number), bytes(VALUE_BYTES)) for number in range(keys))
        named = tuple((type(peer), peer.address, peer.durable) for peer in peers)
        posts = [Post(number, engine.path, path_key(keys - 1), named) for number in range(size)]
        self.engine, self.stack = engine, ExitStack()
        with ThreadPoolExecutor(STARTERS) as pool:
            self.children = list(pool.map(lambda post: Worker(hand, post), posts))
        for child in self.children:
            self.stack.enter_context(child)

    def __exit__(self, *error: Any) -> None:
        self.stack.__exit__(*error)

    def work(self, whats: Sequence[str], seconds: float, block: int = 10) -> list[tuple[float, list[int]]]:
        """Child n does whats[n], all at once; the operations a second and the nanoseconds a block of each."""
        moment = time.monotonic() + SETTLE_SECONDS
        for child, what in zip(self.children, whats, strict=False):
            child.ask((what, moment, seconds, block))
        return [child.answer() for child in self.children[: len(whats)]]

    def rate(self, what: str, count: int, seconds: float, block: int = 10) -> float:
        """Operations a second of the first `count` children together."""
        return sum(rate for rate, _ in self.work([what] * count, seconds, block))
