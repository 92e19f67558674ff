"""L1: putting 1 KiB into the shared ring and getting it back; how much of what it holds, and what compressing costs."""

import json
import random
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import lz4.block
import psutil

import helios_shm
from helios_shm import config
from helios_shm.l1 import L1

from .baselines import lmdb_gets, wheel_hashes
from .bench_cache import entry_bytes
from .harness import (
    Beside,
    Contender,
    Edits,
    Items,
    Row,
    Setting,
    Spread,
    Target,
    Values,
    compare,
    idle_pair,
    measure,
    path_key,
    show,
)
from .states import attachment, commits, directory, store, twin, until_left

RING_BYTES = 16 << 20


def ring(setting: Setting) -> Iterator[Row]:
    """Puts of values never seen before (hash, copy, sum, index), and hits of a hundred (find, copy, sum)."""
    with store(setting) as engine, twin(setting, 100, 1024) as environment:
        l1, values = L1(attachment(engine)), Values(1024)

        def puts(items: Items) -> None:
            for value in items:
                l1.put(value)

        def hits(items: Items) -> None:
            for identity in items:
                l1.get(identity)

        contenders = [
            Contender("put", puts, values.take),
            Contender("BLAKE3 wheel, one call, the same KiB", wheel_hashes, values.take),
        ]
        rounds = setting.scale(300, 10)
        put, wheel = measure(contenders, rounds=rounds, calls=5, batch=20)
        some = values.take(100)
        held = [l1.put(value) for value in some]
        if [l1.get(identity) for identity in held] != some:
            raise RuntimeError("what was just put is not in L1")
        names = [path_key(number).encode() for number in range(100)]
        with environment.begin(buffers=True) as transaction:
            get = lmdb_gets(transaction)
            contenders = [
                Contender("hit", hits, lambda count: held[:count]),
                Contender("py-lmdb get, view, open transaction", get, lambda count: names[:count]),
            ]
            hit, view = measure(contenders, rounds=rounds, calls=5, batch=50)
    yield compare("L1 put, 1 KiB", put, [wheel], Target("<=", 1.2, wheel.name))
    yield compare("L1 hit, 1 KiB", hit, [view], Target("<=", 1.5, view.name))


# ---- capacity ---------------------------------------------------------------------------------------------


def documents(total: int) -> list[bytes]:
    """JSON as an API answers, or a game keeps its players: 1-16 KiB each, of any size as often."""
    rng = random.Random(1)
    names = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "harbor", "island", "juniper"]

    def player() -> dict[str, object]:
        return {"id": rng.getrandbits(40), "name": f"{rng.choice(names)} {rng.choice(names)}",
                "active": rng.random() < 0.5, "score": round(rng.random() * 1000, 3),
                "tags": rng.sample(names, 3), "position": {"x": rng.randrange(640), "y": rng.randrange(480)},
                "since": f"2024-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"}  # fmt: skip

    found: list[bytes] = []
    while sum(map(len, found)) < total:
        size, players, made = rng.randrange(1024, 16384), [player()], 0
        while made < size:
            players.append(player())
            made = len(json.dumps(players))
        found.append(json.dumps({"round": len(found), "players": players}).encode())
    return found


def sources(total: int) -> list[bytes]:
    """Python's standard library, file by file, as a tree of sources is committed."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(path for path in root.rglob("*.py") if "-packages" not in path.parts[len(root.parts)])
    random.Random(1).shuffle(paths)
    found: dict[bytes, None] = {}
    size = 0
    for path in paths:
        text = path.read_bytes()
        if 64 < len(text) < config.BLOB_BYTES_MIN and text not in found and size < total:
            found[text] = None
            size += len(text)
    return list(found)


def boards(total: int) -> list[bytes]:
    """Planes of a board game as a network reads them, numpy's uint8: 17 x 19 x 19, eight positions of each colour."""
    rng = random.Random(1)
    found: list[bytes] = []
    while len(found) * 17 * 361 < total:
        moves = rng.sample(range(361), rng.randrange(20, 250))
        planes = [bytearray(361) for _ in range(16)]
        for plane, stones in enumerate(planes):
            for move in moves[plane % 2 : len(moves) - plane // 2 : 2]:
                stones[move] = 1
        found.append(b"".join(planes) + bytes([len(found) % 2]) * 361)
    return found


def noise(total: int) -> list[bytes]:
    return Values(4096).take(total // 4096)


def held(setting: Setting, values: list[bytes]) -> tuple[int, int]:
    """Bytes of L1 that these values take when they are committed, and bytes of values that it gives back."""
    with directory(setting.disk) as parent:
        with helios_shm.open(parent / "store", l1_bytes=RING_BYTES) as engine:
            l1, ids = L1(attachment(engine)), []
            workspace = engine.branch("main").fork()
            engine.sync()
            coordinator = psutil.Process(engine.stats().coordinator_pid)
            coordinator.suspend()  # so that all that is put counts as not persisted
            try:
                for start in range(0, len(values), 64):
                    workspace.update(
                        {f"{start + n:08}": value for n, value in enumerate(values[start : start + 64])}
                    )
                    snapshot = workspace.commit().snapshot
                taken = engine.stats().unpersisted_bytes
            finally:
                coordinator.resume()
            ids = [bytes.fromhex(snapshot.stat(f"{n:08}").id) for n in range(len(values))]
            given = sum(len(l1.get(each) or b"") for each in ids)
        until_left(parent / "store")
    return taken, given


def capacity(setting: Setting) -> Iterator[Row]:
    """How many bytes of values a byte of L1 holds."""
    total = setting.scale(8 << 20, 1 << 18)
    kinds: tuple[tuple[str, Callable[[int], list[bytes]], float | None], ...] = (
        ("JSON of 1-16 KiB", documents, 2.5),
        ("source files", sources, 2.5),
        ("boards of 6 kB", boards, None),
        ("random 4 KiB", noise, None),
    )
    for name, make, limit in kinds:
        values = make(total)
        raw = sum(map(len, values))
        taken, given = held(setting, values)
        if given != raw:
            raise RuntimeError(f"{name}: L1 gives back {given} of {raw} bytes")
        fast = sum(
            entry_bytes(min(len(lz4.block.compress(each, store_size=False)), len(each))) for each in values
        )
        ours = Spread.single(raw / taken, "x")
        yield Row(
            operation=f"bytes held by a byte of L1, {name}",
            n=len(values),
            ours=ours,
            peers=(
                Beside.figures(
                    "LZ4's fast mode, each value, with headers", ours, Spread.single(raw / fast, "x")
                ),
            ),
            targets=(Target(">=", limit),) if limit else (),
            note=f"{show(raw, 'bytes')} of values in {show(taken, 'bytes')} of L1, with nodes and records",
        )


# ---- what compressing costs -------------------------------------------------------------------------------


class Texts:
    """Source text of one size, never the same twice."""

    def __init__(self, size: int) -> None:
        self._size, self._taken = size, 0
        self._text = b"".join(sources(1 << 22))

    def as_text(self, count: int) -> list[tuple[str, bytes]]:
        found = []
        for _ in range(count):
            at = (self._taken * 331) % (len(self._text) - self._size)
            head = b"# %d\n" % self._taken
            found.append((path_key(self._taken % 100), head + self._text[at : at + self._size - len(head)]))
            self._taken += 1
        return found


def compressing(setting: Setting) -> Iterator[Row]:
    """Commits of one value with LZ4 and without."""
    with ExitStack() as stack:
        engine = stack.enter_context(store(setting))
        before, config.LZ4_BYTES_MIN = config.LZ4_BYTES_MIN, 0  # type: ignore[misc]
        try:
            other = stack.enter_context(store(setting))
        finally:
            config.LZ4_BYTES_MIN = before  # type: ignore[misc]
        runs = [commits(each.branch("main").fork()) for each in (engine, other)]
        for size in (4096, 16384, 65536):
            for name, edits, targets in (
                ("random bytes", Edits(100, size), [Target("<=", 1.05, "LZ4 off")]),
                ("source text", Texts(size), []),
            ):
                ours, off = measure(
                    [Contender(who, run, edits.as_text, idle_pair)
                     for who, run in zip(("commit", "LZ4 off"), runs, strict=True)],
                    rounds=setting.scale(200, 3), calls=3, batch=5, seconds=setting.scale(2, 1),
                )  # fmt: skip
                yield compare(f"commit 1 key of 100 x {size // 1024} KiB of {name}", ours, [off], *targets)
