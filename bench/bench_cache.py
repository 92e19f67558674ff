"""Which reads L1 serves, beside exact LRU of the same bytes.

    trace  -> the product: processes in turns; L1, else L2 and back to L1 by the product's own rule  -> hits
           -> exact LRU, simulated, with as many bytes as the whole ring has                         -> hits

A read goes the way that a value takes in `snapshot[path]` below the private caches of a process, which would hide L1.
Both sides begin with what the filling of the store leaves in them, and the first quarter of a trace is not
counted. LRU pays for an entry what the ring does: its header and its padding to 16 bytes; beside it stands one
that pays for nothing but the bytes of the values.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import helios_shm
from helios_shm.hashing import blake3
from helios_shm.l1 import L1

from .harness import Beside, Point, Row, Setting, Spread, Target, show
from .states import attachment, directory, until_left
from .traces import Lru, Trace, content, filling, scanned, searched, sizes_of, zipf
from .workers import Job, Worker

PROCESSES = 2
WARMING = 0.25  # of a trace, not counted
MIB = 1 << 20
ENTRY_HEADER, UNIT = 56, 16
LRU = "exact LRU of the same bytes"


def entry_bytes(size: int) -> int:
    """What a value takes of the ring (csrc/hs_layout.h)."""
    return -(-(ENTRY_HEADER + size) // UNIT) * UNIT


def player(path: Path, l1_bytes: int, sizes: list[int]) -> Job:
    """A process that plays batches."""
    engine = helios_shm.open(path, l1_bytes=l1_bytes)
    held = attachment(engine)
    l1, ids = L1(held), [blake3(content(number, size)) for number, size in enumerate(sizes)]

    def job(batch: list[int]) -> int:
        for event in batch:
            if event >= 0:
                held.load_value(ids[event], sizes[event])
            else:
                l1.put(content(~event, sizes[~event]))
        return len(batch)

    return job


class Stage:
    """A store with a ring of this size, the processes that play on it, and the simulations that go along."""

    def __init__(self, stack: ExitStack, setting: Setting, l1_bytes: int, sizes: list[int]) -> None:
        root = stack.enter_context(directory(setting.disk)) / "store"
        stack.callback(until_left, root)
        self.engine = stack.enter_context(helios_shm.open(root, l1_bytes=l1_bytes))
        self.ring_bytes = self.engine.stats().l1_bytes
        self.workers = [stack.enter_context(Worker(player, root, l1_bytes, sizes)) for _ in range(PROCESSES)]
        self._lru = {LRU: Lru(self.ring_bytes, entry_bytes),
                     "exact LRU whose headers are free": Lru(self.ring_bytes, int)}  # fmt: skip

    def play(self, trace: Trace) -> tuple[float, dict[str, float]]:
        """Hits of a hundred reads: L1's, and those of the simulations."""
        before = attachment(self.engine).stats().hits
        for turn, batch in enumerate(trace.batches):
            worker = self.workers[turn % PROCESSES]
            worker.ask(list(batch))
            worker.answer()
        found = attachment(self.engine).stats().hits - before
        share = 100 / max(1, trace.reads)
        return found * share, {name: lru.hits(trace) * share for name, lru in self._lru.items()}

    def row(self, trace: Trace, *targets: Target) -> Row:
        warming, trace = trace.parted(WARMING)
        self.play(warming)
        hits, others = self.play(trace)
        ours = Spread.single(hits, "%")
        peers = [Beside.figures(name, ours, Spread.single(share, "%")) for name, share in others.items()]
        whole = sum(map(entry_bytes, trace.sizes))
        return Row(
            operation=f"L1 hit rate, {trace.name}, ring of {self.ring_bytes // MIB} MiB",
            n=trace.reads,
            ours=ours,
            peers=tuple(peers),
            targets=(Target(">=", 1.0, LRU), *targets),
            note=f"{len(trace.sizes):,} objects of {show(whole, 'bytes')} in all, {PROCESSES} processes in turns",
            at=Point("cache", trace.name, "MiB of ring", self.ring_bytes // MIB),
        )


def cache_reads(setting: Setting) -> Iterator[Row]:
    """Reads of stores eight and four times as large as their ring, a store for each trace."""
    for mebibytes, larger in ((4, 8), (setting.scale(8, 4), 4)):
        sizes = sizes_of(setting.scale(mebibytes * larger, 5) * MIB, seed=1)
        reads = setting.scale(max(60_000, 6 * len(sizes)), 500)
        scan = len(sizes) // larger * 2
        zipfs = [zipf(alpha, sizes, reads) for alpha in (0.8, 1.0, 1.2)]
        for trace in (*zipfs, scanned(sizes, reads // 2, 2 * scan, scan)):
            with ExitStack() as stack:
                stage = Stage(stack, setting, mebibytes * MIB, sizes)
                stage.play(filling(sizes))
                stage.engine.sync()
                row = stage.row(trace)
            yield row


def cache_search(setting: Setting) -> Iterator[Row]:
    """A tree search recorded on one store and played by several processes on others."""
    with ExitStack() as stack:
        root = stack.enter_context(directory(setting.disk)) / "store"
        stack.callback(until_left, root)
        trace = searched(stack.enter_context(helios_shm.open(root)), setting.scale(6000, 50))
    for mebibytes in (4, 16):
        with ExitStack() as stack:
            stage = Stage(stack, setting, mebibytes * MIB, list(trace.sizes))
            row = stage.row(trace, Target(">=", 95.0))
        yield row
