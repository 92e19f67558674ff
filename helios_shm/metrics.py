"""What all processes of a store counted and measured together: ``Stats``, and the text that Prometheus reads.

Counters and histograms stand in shared memory (csrc/hs_metrics.h): each process adds to its own, and what it added
stays when it leaves or dies. A histogram counts how many values fell into each of its buckets, eight to a power of two,
so that a percentile is known to a sixteenth of itself without any value having been kept.

All of it begins with the segment: when the last process has left a store and the next one comes, it begins at zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import ceil
from typing import Any

from ._capi import lib

_NS = 1e-9
_PARTS = 8  # buckets to a power of two
# By name: which of the core's histograms, what one of its units is, and what it measures.
_LATENCIES = {
    "commit": (lib.HS_MEASURE_COMMIT, "Commits, from the call to the commit record."),
    "room_wait": (lib.HS_MEASURE_ROOM, "Waits for room in shared memory."),
    "durable_wait": (lib.HS_MEASURE_DURABLE, "Waits until a commit, or all, survives power loss."),
    "round": (lib.HS_MEASURE_ROUND, "Rounds of the coordinator, from its look to its end."),
    "l2_read": (lib.HS_MEASURE_L2_READ, "Reads from the disk's database, of one or many at a time."),
    "collection": (lib.HS_MEASURE_COLLECTION, "Collections."),
}
_SIZES = {"round": (lib.HS_MEASURE_ROUND_BYTES, "What a round of the coordinator collected.")}


@dataclass(frozen=True, slots=True)
class Distribution:
    """How values are spread: seconds for latencies, bytes for sizes. ``mean`` and ``max`` are exact, percentiles within
    a sixteenth (6.25 %; below a microsecond, or 1 KiB, within 64 ns or bytes). All 0 where ``count`` is."""

    count: int
    sum: float
    mean: float
    p50: float
    p90: float
    p99: float
    max: float
    cumulative: tuple[tuple[float, int], ...] = field(repr=False)
    """(value, how many were at most so large) for values a factor of two apart."""


@dataclass(frozen=True, slots=True)
class Stats:
    """The store as all processes together see it. Sizes are bytes, times seconds; counters begin with the segment,
    which lives for as long as any process has the store open.

    store: its directory.
    hit_rate: the share of L1 look-ups that L1 answered (0..1; 0 before the first), ``hits`` and ``misses`` of them.
    commits: that happened, detached ones as well. conflicts: refused ones. lost_races: times that a commit found the
        head moved and began anew on the new one.
    participants: processes that have the store open.
    persist_lag: age of the oldest that L2 does not have yet (0 when all is persisted), ``unpersisted_bytes`` of it.
    puts, appended_bytes: entries put into L1, and bytes of the ring that all entries took.
    l2_reads: nodes and values looked for in L2. rounds: that a coordinator has done.
    l1_bytes: the ring, of which chunks free for use, held by a writer just now, open for the next writer, and full,
        waiting until they are persisted: ``free_bytes``, ``busy_bytes``, ``idle_bytes``, ``sealed_bytes``.
    cache_bytes, blocks_hashed: this process's private nodes; BLAKE3 blocks that it hashed for nodes and values.
    coordinator_pid: None before the first.
    latencies: ``commit``, ``room_wait``, ``durable_wait``, ``round``, ``l2_read``, ``collection``.
    sizes: ``round``, the bytes that a coordinator's round collected.
    """

    store: str
    hit_rate: float
    commits: int
    participants: int
    persist_lag: float
    conflicts: int
    lost_races: int
    hits: int
    misses: int
    puts: int
    appended_bytes: int
    l2_reads: int
    rounds: int
    unpersisted_bytes: int
    l1_bytes: int
    free_bytes: int
    busy_bytes: int
    idle_bytes: int
    sealed_bytes: int
    cache_bytes: int
    blocks_hashed: int
    coordinator_pid: int | None
    latencies: Mapping[str, Distribution] = field(hash=False)
    sizes: Mapping[str, Distribution] = field(hash=False)

    def prometheus(self) -> str:
        """These figures in Prometheus' text exposition format, labelled with the store: counters, gauges, histograms;
        seconds and bytes."""
        return "\n".join(_exposition(self)) + "\n"


# --- from the core's counts ---


def make_stats(store: str, raw: Any, totals: Any) -> Stats:
    """From a struct hs_engine_stats and a struct hs_metrics_totals."""
    counters = [int(count) for count in totals.counters]
    hits, misses = counters[lib.HS_COUNT_HITS], counters[lib.HS_COUNT_MISSES]
    chunk_bytes = int(raw.ring_size) // int(raw.chunks)
    return Stats(
        store=store,
        hit_rate=hits / (hits + misses) if hits + misses else 0.0,
        commits=counters[lib.HS_COUNT_COMMITS],
        participants=int(raw.participants),
        persist_lag=float(raw.persist_lag_ns) * _NS,
        conflicts=counters[lib.HS_COUNT_CONFLICTS],
        lost_races=counters[lib.HS_COUNT_LOST_RACES],
        hits=hits,
        misses=misses,
        puts=counters[lib.HS_COUNT_PUTS],
        appended_bytes=counters[lib.HS_COUNT_APPENDED],
        l2_reads=counters[lib.HS_COUNT_L2_READS],
        rounds=int(raw.rounds_done),
        unpersisted_bytes=int(raw.unpersisted_bytes),
        l1_bytes=int(raw.ring_size),
        free_bytes=int(raw.chunks_free) * chunk_bytes,
        busy_bytes=int(raw.chunks_busy) * chunk_bytes,
        idle_bytes=int(raw.chunks_idle) * chunk_bytes,
        sealed_bytes=int(raw.chunks_sealed) * chunk_bytes,
        cache_bytes=int(raw.cache_bytes),
        blocks_hashed=int(raw.blocks_hashed),
        coordinator_pid=int(raw.coordinator_pid) or None,
        latencies={name: _distribution(totals.measured[at], _NS) for name, (at, _) in _LATENCIES.items()},
        sizes={name: _distribution(totals.measured[at], 1) for name, (at, _) in _SIZES.items()},
    )


def _distribution(measured: Any, unit: float) -> Distribution:
    """From a struct hs_measured whose values count ``unit``."""
    return distribution(list(measured.buckets), int(measured.sum), int(measured.max), unit)


def distribution(buckets: Sequence[int], total: int, largest: int, unit: float) -> Distribution:
    """From how many values fell into each bucket, their sum, and the largest."""
    below = list(accumulate(buckets))
    count = below[-1]
    p50, p90, p99 = (_percentile(buckets, below, largest, share) * unit for share in (0.50, 0.90, 0.99))
    # Whole powers of two, and of them those whose buckets have an end.
    edges = range(_PARTS, len(buckets), _PARTS)
    cumulative = tuple(((lib.hs_histogram_low(edge) - 1) * unit, below[edge - 1]) for edge in edges)
    mean = total * unit / count if count else 0.0
    return Distribution(count, total * unit, mean, p50, p90, p99, largest * unit, cumulative)


def _percentile(buckets: Sequence[int], below: Sequence[int], largest: int, share: float) -> float:
    """The middle of the bucket that holds the value of this rank (the nearest-rank method)."""
    count = below[-1]
    if count == 0:
        return 0.0
    rank = max(1, ceil(share * count))
    bucket = next(number for number, so_far in enumerate(below) if so_far >= rank)
    if bucket + 1 == len(buckets):
        return float(largest)
    middle: float = (lib.hs_histogram_low(bucket) + lib.hs_histogram_low(bucket + 1)) / 2
    return min(middle, float(largest))


# --- the text format ---

# Name without `helios_shm_`, kind, help, field.
_SINGLE = (
    ("commits_total", "counter", "Commits that happened.", "commits"),
    ("conflicts_total", "counter", "Commits refused: a key was changed on both sides.", "conflicts"),
    ("lost_races_total", "counter", "Times that a commit began anew on a head that had moved.", "lost_races"),
    ("l1_hits_total", "counter", "Look-ups in shared memory that it answered.", "hits"),
    ("l1_misses_total", "counter", "Look-ups in shared memory that it did not answer.", "misses"),
    ("l1_puts_total", "counter", "Entries put into shared memory.", "puts"),
    ("l1_appended_bytes_total", "counter", "Bytes of the ring that entries took.", "appended_bytes"),
    ("l2_reads_total", "counter", "Nodes and values looked for in the disk's database.", "l2_reads"),
    ("rounds_total", "counter", "Rounds that a coordinator has done.", "rounds"),
    ("participants", "gauge", "Processes that have the store open.", "participants"),
    ("persist_lag_seconds", "gauge", "Age of the oldest that is not on disk yet.", "persist_lag"),
    ("unpersisted_bytes", "gauge", "What is not on disk yet.", "unpersisted_bytes"),
)


def _exposition(stats: Stats) -> Iterator[str]:
    label = f'store="{_escaped(stats.store)}"'
    for name, kind, text, attribute in _SINGLE:
        yield from _head(name, kind, text)
        yield f"helios_shm_{name}{{{label}}} {getattr(stats, attribute)}"
    yield from _head("ring_bytes", "gauge", "Shared memory for entries, by the state of its chunks.")
    for state in ("free", "busy", "idle", "sealed"):
        yield f'helios_shm_ring_bytes{{{label},state="{state}"}} {getattr(stats, state + "_bytes")}'
    yield from _head("coordinator_pid", "gauge", "The process that writes to disk; 0: none yet.")
    yield f"helios_shm_coordinator_pid{{{label}}} {stats.coordinator_pid or 0}"
    for name, (_, text) in _LATENCIES.items():
        yield from _histogram(f"{name}_seconds", text, label, stats.latencies[name])
    for name, (_, text) in _SIZES.items():
        yield from _histogram(f"{name}_bytes", text, label, stats.sizes[name])


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP helios_shm_{name} {text}"
    yield f"# TYPE helios_shm_{name} {kind}"


def _histogram(name: str, text: str, label: str, values: Distribution) -> Iterator[str]:
    yield from _head(name, "histogram", text)
    for edge, count in values.cumulative:
        yield f'helios_shm_{name}_bucket{{{label},le="{edge:.12g}"}} {count}'
    yield f'helios_shm_{name}_bucket{{{label},le="+Inf"}} {values.count}'
    yield f"helios_shm_{name}_sum{{{label}}} {values.sum}"
    yield f"helios_shm_{name}_count{{{label}}} {values.count}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
