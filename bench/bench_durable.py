"""What the disk decides: durable commits of many processes, and commits that are all persisted in the end."""

import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import helios_shm

from .baselines import disk_write_ns
from .crew import Crew
from .harness import FLOOR, Beside, Point, Row, Setting, Skipped, Spread, Target, path_key, show
from .peers import Lineup, Lmdb, Redis, Sqlite, Store
from .states import build, store

COUNTS = (1, 2, 4, 8, 16)
ALONE = "one process alone, the same run"


def sync_rate(directory: Path, seconds: float) -> float:
    """Times a second that 4 KiB can be written in place and synced, one after the other, by one process."""
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        file.write(bytes(1 << 20))
        os.fsync(file.fileno())
        done, begun = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - begun) < seconds:
            os.pwrite(file.fileno(), os.urandom(4096), 4096 * (done % 256))
            os.fdatasync(file.fileno())
            done += 1
    return done / elapsed


def durable(setting: Setting) -> Iterator[Row]:
    """`commit(durable=True)` by N processes, each on its own branch; peers sync each of theirs, too."""
    # A quick run has one window for each: long enough for a commit, however slow the disk is.
    seconds, sizes = setting.scale(250, 400) / 1000, COUNTS[: setting.scale(len(COUNTS), 2)]
    rates: dict[tuple[str, int], list[float]] = {}
    taken: dict[int, list[int]] = {}
    with store(setting) as engine, Lineup() as lineup:
        peers = lineup.stores((Lmdb, Sqlite, Redis), setting.disk, durable=True, nbytes=64 << 20)
        with Crew(sizes[-1], engine, peers) as crew:
            whats = ["durable", *(peer.name for peer in peers)]
            for turn in range(setting.scale(2, 1)):
                for count in sizes:
                    rates.setdefault(("fsync", count), []).append(sync_rate(setting.disk, seconds / 2))
                    for what in whats if turn % 2 else reversed(whats):
                        done = crew.work([what] * count, seconds, 1)
                        rates.setdefault((what, count), []).append(sum(rate for rate, _ in done))
                        if what == "durable":
                            taken.setdefault(count, []).extend(ns for _, each in done for ns in each)
    for count in sizes:
        yield durable_row(rates, taken[count], count, peers, lineup.skipped)


def durable_row(
    rates: dict[tuple[str, int], list[float]],
    taken: list[int],
    count: int,
    peers: Sequence[Store],
    skipped: Sequence[Skipped],
) -> Row:
    """One row of one N: commits a second of all together."""
    ours, processes = rates["durable", count], f"{count} process{'es' * (count > 1)}"

    def beside(name: str, key: tuple[str, int]) -> Beside:
        pairs = zip(ours, rates[key], strict=True)
        ratio = statistics.median(a / b if b else math.inf for a, b in pairs)
        return Beside(name, Spread.of(rates[key], "/s"), ratio)

    alone = [beside(ALONE, ("durable", 1))] if count > 1 else []
    waits = Spread.of(taken, "ns") if taken else Spread.single(math.nan, "ns")
    return Row(
        operation=f"durable commits by {processes}, each on its own branch, 1 KiB",
        n=len(taken),
        ours=Spread.of(ours, "/s"),
        peers=(*alone, *(beside(f"{peer.name}, synced, {processes}", (peer.name, count)) for peer in peers)),
        floor=beside("one fsync of 4 KiB after the other", ("fsync", count)),
        targets=(Target(">=", 4.0, ALONE),) if count == 8 else (),
        skipped=tuple(skipped),
        note=f"one commit: p50 {show(waits.p50, 'ns')}, p99 {show(waits.p99, 'ns')}",
        at=Point("durable", "durable commits", "processes", count),
    )


BLOCK = 101  # a prime: the commit that is looked at, the last of each, goes through all keys
COMMITS_ASKED, DISK_SHARE_ASKED = 40_000, 0.5
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


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def stored(path: Path) -> int:
    """Bytes that a directory's files take on the disk."""
    return sum(each.stat().st_blocks * 512 for each in path.rglob("*") if each.is_file())


def sustained_in(setting: Setting, keys: int, seconds: float) -> Iterator[Row]:
    """Slices of commits, each until all of it is persisted, in turns with the disk taking as many bytes."""
    slices = setting.scale(4, 1)
    with store(setting) as engine:
        branch = engine.branch("main")
        build(branch, keys, 1024)
        writer = Writer(branch.fork(), keys)
        writer.block()
        engine.sync()
        coordinator = engine.stats().coordinator_pid or os.getpid()
        rates: list[float] = []
        disk: list[float] = []
        before, worked, count, written = stored(engine.path), cpu_seconds(coordinator), 0, 0
        for _ in range(slices):
            writer.new_bytes, done = 0, writer.count
            begun = time.perf_counter_ns()
            while time.perf_counter_ns() - begun < seconds / slices * 1e9:
                writer.block()
            engine.sync()
            taken = time.perf_counter_ns() - begun
            done = writer.count - done
            rates.append(done / taken * 1e9)
            disk.append(done / disk_write_ns(setting.disk, writer.new_bytes) * 1e9)
            count, written = count + done, written + writer.new_bytes
        worked, used = cpu_seconds(coordinator) - worked, stored(engine.path) - before
    rate, share = statistics.median(rates), statistics.median(a / b for a, b in zip(rates, disk, strict=True))
    # Either will do: so many commits, or half of what the disk takes.
    target = Target(">=", COMMITS_ASKED) if rate >= COMMITS_ASKED else Target(">=", DISK_SHARE_ASKED, FLOOR)
    yield Row(
        operation=f"sustained {seconds:g} s, 1 key of {keys:,} x 1 KiB, all persisted",
        n=count,
        ours=Spread.of(rates, "/s"),
        floor=Beside("sequential write + sync of the same bytes", Spread.of(disk, "/s"), share),
        targets=(target,),
        note=f"asked: {COMMITS_ASKED:,}/s, or {DISK_SHARE_ASKED} x the disk; a commit has {written / count:,.0f} new "
        f"bytes, {used / count:,.0f} on the disk ({used / written:.2f} x); the coordinator used "
        f"{worked / count * 1e6:.1f} us of a core a commit, {worked / written * 1e9:.1f} ns a new byte",
    )


def sustained(setting: Setting) -> Iterator[Row]:
    """One process, one key at a time, as fast as it can, in a small state and in one of a million keys."""
    yield from sustained_in(setting, setting.scale(10_000, 500), setting.scale(4, 1))
    yield from sustained_in(setting, setting.scale(1_000_000, 1_000), setting.scale(5, 1))
