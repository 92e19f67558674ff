"""What the disk decides: durable commits, and a long run of commits that are all persisted at its end."""

import random
import statistics
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack

import helios_shm

from .baselines import disk_write_ns
from .harness import Beside, Row, Setting, Spread, Target, Values, path_key, show
from .states import build, store
from .workers import Job, Worker


def durable_committer(branch: helios_shm.Branch) -> Job:
    """The child: durable commits for `seconds`; returns the nanoseconds of each."""
    workspace = branch.fork()
    values = Values(1024, seed=zlib.crc32(branch.name.encode()))

    def job(seconds: float) -> list[int]:
        taken: list[int] = []
        begun = time.perf_counter()
        while time.perf_counter() - begun < seconds:
            workspace["key"] = values.take(1)[0]
            start = time.perf_counter_ns()
            workspace.commit(durable=True)
            taken.append(time.perf_counter_ns() - start)
        return taken

    return job


def durable(setting: Setting) -> Iterator[Row]:
    """Eight processes, each on its own branch, against one of them, in turns."""
    seconds = setting.scale(500, 50) / 1000
    rates: dict[int, list[float]] = {1: [], 8: []}
    latencies: dict[int, list[int]] = {1: [], 8: []}
    with store(setting) as engine, ExitStack() as stack:
        children = [stack.enter_context(Worker(durable_committer, engine.branch(f"b{n}"))) for n in range(8)]
        for _ in range(setting.scale(10, 2)):
            for count in (1, 8):
                for child in children[:count]:
                    child.ask(seconds)
                taken = [child.answer() for child in children[:count]]
                rates[count].append(sum(map(len, taken)) / seconds)
                latencies[count] += [figure for each in taken for figure in each]
    gain = statistics.median(eight / one for one, eight in zip(rates[1], rates[8], strict=True))
    waits = {count: Spread.of(latencies[count], "ns") for count in (1, 8)}
    note = "; ".join(
        f"{count} processes: p50 {show(spread.p50, 'ns')}, p99 {show(spread.p99, 'ns')} a commit"
        for count, spread in waits.items()
    )
    yield Row(
        operation="durable commits, 8 processes against 1",
        n=len(latencies[8]),
        ours=Spread.of(rates[8], "/s"),
        peers=(Beside("1 process, the same run", Spread.of(rates[1], "/s"), gain),),
        targets=(Target(">=", 4.0, "1 process, the same run"),),
        note=note,
    )


BLOCK = 100
STEP = 7  # bytes from one value to the next in the buffer that they are cut from


class Writer:
    """Commits one key of `keys` at a time; 9 million values before one comes again."""

    def __init__(self, workspace: helios_shm.Workspace, keys: int) -> None:
        self.workspace = workspace
        self.names = [path_key(number) for number in range(keys)]
        self.buffer = random.Random(1).randbytes(64 << 20)
        self.count = 0
        self.new_bytes = 0  # from one commit in each block, times the block

    def block(self) -> float:
        """BLOCK commits; returns nanoseconds a commit."""
        workspace, names, buffer = self.workspace, self.names, self.buffer
        start = time.perf_counter_ns()
        for count in range(self.count, self.count + BLOCK):
            at = count * STEP % (len(buffer) - 1024)
            workspace[names[count * 7919 % len(names)]] = buffer[at : at + 1024]
            commit = workspace.commit()
        taken = time.perf_counter_ns() - start
        self.count += BLOCK
        self.new_bytes += BLOCK * commit.metrics.new_bytes
        return taken / BLOCK


def bursts(engine: helios_shm.Engine, writer: Writer, count: int) -> Spread:
    """Nanoseconds a commit in bursts of 2000 with an idle coordinator, one figure a block."""
    figures: list[float] = []
    for _ in range(count):
        figures += [writer.block() for _ in range(20)]
        engine.sync()
    return Spread.of(figures, "ns")


def sustained(setting: Setting) -> Iterator[Row]:
    """One process, one key of 10 000 at a time, as fast as it can; the clock stops when all is persisted."""
    seconds, sample = setting.scale(30, 1), setting.scale(1024, 16) << 20
    with store(setting) as engine:
        branch = engine.branch("main")
        build(branch, 10_000, 1024)
        writer = Writer(branch.fork(), 10_000)
        burst = bursts(engine, writer, setting.scale(10, 2))
        disk = [disk_write_ns(setting.disk, sample)]
        figures: list[float] = []
        writer.new_bytes = 0
        begun = time.perf_counter_ns()
        while time.perf_counter_ns() - begun < seconds * 1e9:
            figures.append(writer.block())
        engine.sync()
        total = time.perf_counter_ns() - begun
        disk.append(disk_write_ns(setting.disk, sample))
        used = sum(path.stat().st_blocks * 512 for path in engine.path.rglob("*") if path.is_file())
    count = BLOCK * len(figures)
    disk_rate = sample / statistics.fmean(disk)  # bytes a nanosecond: GB/s
    per_commit, disk_each = total / count, writer.new_bytes / disk_rate / count
    yield Row(
        operation=f"sustained {seconds} s, 1 key of 10,000 x 1 KiB, all persisted",
        n=count,
        ours=Spread.of(figures, "ns"),
        peers=(Beside("burst, the same run", burst, per_commit / burst.mean),),
        floor=Beside(
            "sequential write + sync of the same bytes",
            Spread.single(disk_each, "ns"),
            per_commit / disk_each,
        ),
        targets=(Target("<=", max(1.5, disk_each / burst.mean), "burst*"),),
        note=f"p99 of batches of {BLOCK}; {show(per_commit, 'ns')} a commit with the sync at the end, burst mean "
        f"{show(burst.mean, 'ns')}, {writer.new_bytes / total:.3g} GB/s; the disk alone (sequential write + "
        f"sync, {sample >> 20} MiB before and after: {disk_rate:.3g} GB/s) needs {show(disk_each, 'ns')}; "
        f"the target is the larger of 1.5 x burst and the disk; the store takes {show(used, 'bytes')}",
    )
