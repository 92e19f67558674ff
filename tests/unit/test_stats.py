"""What all processes count and measure: percentiles without samples, sums that outlive who added, Prometheus."""

import dataclasses
import math
import multiprocessing
import os
import pickle
import random
import signal
import statistics
from pathlib import Path
from typing import Any

import prometheus_client.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

import helios_shm
from helios_shm import Branch, ConflictError, Engine
from helios_shm._capi import lib
from helios_shm.metrics import Distribution, distribution
from tests.processes.rig import Worker, until_nothing_runs

ERROR = 1 / 16
LINEAR_MAX = 64
SHARES = (0.50, 0.90, 0.99)


def bucket(value: int) -> int:
    """As csrc/hs_histogram.h draws them, by search instead of by bits."""
    return max(n for n in range(lib.HS_HISTOGRAM_BUCKETS) if lib.hs_histogram_low(n) <= value)


def spread(values: list[int]) -> Distribution:
    counts = [0] * lib.HS_HISTOGRAM_BUCKETS
    for value in values:
        counts[bucket(value)] += 1
    return distribution(counts, sum(values), max(values, default=0), 1)


def check_percentiles(values: list[int]) -> None:
    found = spread(values)
    ordered = sorted(values)
    for share, got in zip(SHARES, (found.p50, found.p90, found.p99), strict=True):
        exact = ordered[max(1, math.ceil(share * len(ordered))) - 1]
        assert abs(got - exact) <= max(exact * ERROR, LINEAR_MAX)
    assert found.count == len(values)
    assert found.mean == pytest.approx(statistics.fmean(values))
    assert found.max == max(values)
    assert found.p50 <= found.p90 <= found.p99 <= found.max
    for edge, count in found.cumulative:
        assert count == sum(value <= edge for value in values)


@given(st.lists(st.integers(0, (1 << 40) - 1), min_size=1, max_size=60))
def test_percentiles_are_within_their_error_of_exact_ones(values: list[int]) -> None:
    check_percentiles(values)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 3.0])
def test_percentiles_of_latencies_as_they_are(sigma: float) -> None:
    chance = random.Random(7)
    check_percentiles([int(chance.lognormvariate(math.log(8_000), sigma)) for _ in range(2_000)])


def test_what_is_above_the_last_bucket_is_known_by_the_maximum() -> None:
    found = spread([1 << 50] * 3)
    assert (found.p50, found.max, found.cumulative[-1][1]) == (1 << 50, 1 << 50, 0)


def test_nothing_measured_is_all_zero() -> None:
    found = spread([])
    assert (found.count, found.mean, found.p50, found.p99, found.max) == (0, 0, 0, 0, 0)


# --- of a store ---


def put(branch: Branch, key: str, value: bytes = b"v") -> None:
    ws = branch.fork()
    ws[key] = value
    ws.commit()


def test_commits_conflicts_and_waits_are_measured(engine: Engine) -> None:
    branch = engine.branch("main")
    before = engine.stats()
    assert before.commits == before.latencies["commit"].count == 0
    taken = []
    for n in range(50):
        ws = branch.fork()
        ws[f"{n}"] = bytes(100)
        taken.append(ws.commit().metrics.latency_ns)
    mine, theirs = branch.fork(), branch.fork()
    mine["0"], theirs["0"] = b"mine", b"theirs"
    taken.append(theirs.commit(durable=True).metrics.latency_ns)
    with pytest.raises(ConflictError):
        mine.commit()
    engine.sync()
    stats = engine.stats()
    commit = stats.latencies["commit"]
    assert stats.commits == commit.count == 51
    assert stats.conflicts == 1
    assert commit.sum == pytest.approx(sum(taken) / 1e9)  # the very times that the records say
    assert commit.max == pytest.approx(max(taken) / 1e9)
    exact = sorted(taken)[25] / 1e9
    assert abs(commit.p50 - exact) <= max(exact * ERROR, LINEAR_MAX / 1e9)
    assert stats.latencies["durable_wait"].count == 2
    assert 1 <= stats.rounds <= stats.latencies["round"].count == stats.sizes["round"].count
    assert stats.sizes["round"].sum >= stats.appended_bytes > 51 * 100
    assert stats.unpersisted_bytes == 0
    chunks = stats.free_bytes + stats.busy_bytes + stats.idle_bytes + stats.sealed_bytes
    assert chunks == stats.l1_bytes


def test_reads_from_disk_are_measured(store_path: Path) -> None:
    with helios_shm.open(store_path) as engine, engine.branch("main").transaction() as ws:
        for n in range(500):
            ws[f"{n}"] = bytes([n % 251]) * 200
    until_nothing_runs(store_path)
    with helios_shm.open(store_path) as engine:  # nothing in shared memory
        assert len(dict(engine.branch("main").head)) == 500
        stats = engine.stats()
        assert stats.l2_reads >= 251
        assert 0 < stats.latencies["l2_read"].count <= stats.l2_reads
        assert stats.misses > 0


def test_waits_for_room_are_measured(store_path: Path) -> None:
    with helios_shm.open(store_path, l1_bytes=4 << 20) as engine:
        branch, chance = engine.branch("main"), random.Random(1)
        for n in range(60):
            put(branch, f"{n}", chance.randbytes(200_000))
        assert engine.stats().latencies["room_wait"].count > 0
        assert engine.stats().latencies["room_wait"].count <= 61


def lose_races(branch: Branch, name: str, count: int) -> None:
    for n in range(count):
        put(branch, f"{name}/{n}")


def test_counts_are_those_of_all_processes_and_outlive_them(engine: Engine) -> None:
    branch = engine.branch("main")
    context = multiprocessing.get_context("fork")
    writers = [Worker(context, branch) for _ in range(3)]
    for number, writer in enumerate(writers):
        writer.tell(lose_races, f"{number}", 300)
    for writer in writers:
        writer.hear()
    while_they_live = engine.stats()
    assert while_they_live.commits == while_they_live.latencies["commit"].count == 900
    assert while_they_live.lost_races == sum(commit.metrics.retries for commit in branch.log())
    writers[0].kill()
    for writer in writers[1:]:
        writer.end()
    engine.sync()  # the dead one's slot is freed
    assert engine.stats().commits == engine.stats().latencies["commit"].count == 900
    late = Worker(context, branch)  # in one of their slots
    late.ask(lose_races, "late", 10)
    late.end()
    assert engine.stats().commits == engine.stats().latencies["commit"].count == 910


def count_until_killed(branch: Branch) -> None:
    for n in range(10**9):
        put(branch, f"{n % 50}", b"%d" % n)


def test_who_is_killed_amid_commits_loses_and_doubles_nothing(engine: Engine) -> None:
    """Whatever was counted of a commit, at most the one under way is missing; and freeing its slot changes nothing."""
    branch = engine.branch("main")
    for turn in range(4):
        writer = Worker(multiprocessing.get_context("fork"), branch)
        writer.tell(count_until_killed)
        start = engine.stats().commits
        assert branch.wait(after=start + 200, timeout=60) is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.process.join()
        counted = engine.stats()
        sequence = branch.last_commit.sequence
        assert sequence is not None
        engine.sync()
        put(branch, f"after/{turn}")
        after = engine.stats()
        assert after.commits == counted.commits + 1
        assert sequence - 4 <= counted.commits <= sequence
        assert after.latencies["commit"].count - 4 <= after.commits <= after.latencies["commit"].count + 4


def test_stats_pickle_and_compare(engine: Engine) -> None:
    put(engine.branch("main"), "k")
    stats = engine.stats()
    assert pickle.loads(pickle.dumps(stats)) == stats
    assert dataclasses.asdict(stats)["latencies"]["commit"]["count"] == 1


# --- Prometheus ---


def test_prometheus_reads_the_text(engine: Engine) -> None:
    branch = engine.branch("main")
    for n in range(20):
        put(branch, f"{n}")
    engine.sync()
    stats = engine.stats()
    families = {
        family.name: family
        for family in prometheus_client.parser.text_string_to_metric_families(stats.prometheus())
    }
    for family in families.values():
        assert family.documentation.endswith(".")
        assert family.type in ("counter", "gauge", "histogram")
        for sample in family.samples:
            assert sample.labels["store"] == stats.store == str(engine.path)

    def value(family: str, sample: str) -> Any:
        [found] = [each.value for each in families[family].samples if each.name == sample]
        return found

    assert value("helios_shm_commits", "helios_shm_commits_total") == 20
    assert value("helios_shm_participants", "helios_shm_participants") == 1
    assert value("helios_shm_commit_seconds", "helios_shm_commit_seconds_count") == 20
    assert (
        value("helios_shm_commit_seconds", "helios_shm_commit_seconds_sum") == stats.latencies["commit"].sum
    )
    states = families["helios_shm_ring_bytes"].samples
    assert sum(sample.value for sample in states) == stats.l1_bytes
    for family in families.values():
        if family.type == "histogram":
            buckets = [sample for sample in family.samples if sample.name.endswith("_bucket")]
            edges = [float(sample.labels["le"]) for sample in buckets]
            counts = [sample.value for sample in buckets]
            assert edges == sorted(set(edges)) and edges[-1] == math.inf
            assert counts == sorted(counts)
            assert counts[-1] == value(family.name, f"{family.name}_count")


def test_prometheus_label_is_escaped(tmp_path: Path) -> None:
    with helios_shm.open(tmp_path / 'odd "name"\\with\nall', l1_bytes=4 << 20) as engine:
        text = engine.stats().prometheus()
        for family in prometheus_client.parser.text_string_to_metric_families(text):
            assert {sample.labels["store"] for sample in family.samples} == {str(engine.path)}
