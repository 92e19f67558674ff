"""The coordinator dies at each labelled step of a round: the next one finishes its work, and nothing happens twice."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import helios_shm
from helios_shm import lifecycle
from helios_shm.store import StorePaths

WAIT_SECONDS_MAX = 40.0
KILL = 1
STEPS = [
    "collect_reaped", "collect_heads", "collect_cursors", "txn_before", "txn_after", "locator_after", "marks_after",
    "free_after", "round_done", "round_after",
]  # fmt: skip


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + WAIT_SECONDS_MAX
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.005)


def epochs(path: Path) -> int:
    return (path / "coordinator.log").read_text().count("INFO epoch")


def coordinator_of(path: Path) -> psutil.Process:
    paths = StorePaths(path)
    until(lambda: lifecycle.coordinator_runs(paths), "a coordinator runs")
    for process in psutil.process_iter():
        try:
            if process.cmdline()[-2:] == ["helios_shm.coordinator", str(path)]:
                return process
        except psutil.Error:
            continue
    raise AssertionError("no coordinator")


def commit_some(engine: helios_shm.Engine, first: int, count: int, *, durable: bool) -> None:
    """Commits n, n + 1 ... on two branches: each adds one key that names it."""
    for n in range(first, first + count):
        for name in ("main", "other"):
            ws = engine.branch(name).fork()
            ws[f"{name}/{n}"] = b"%d " % n * 50
            ws.commit(f"{n}", durable=durable)


def check_all(engine: helios_shm.Engine, count: int) -> None:
    """Exactly the commits 0 .. count - 1, once each, on both branches, with whole states."""
    for name in ("main", "other"):
        branch = engine.branch(name, create=False)
        log = list(branch.log())
        assert [commit.message for commit in log] == [f"{n}" for n in range(count - 1, -1, -1)]
        assert [commit.sequence for commit in log] == list(range(count, 0, -1))
        assert dict(branch.head) == {f"{name}/{n}": b"%d " % n * 50 for n in range(count)}
        for commit in (log[0], log[-1]):
            assert len(commit.snapshot) == commit.sequence


def reopened_and_checked(path: Path, count: int) -> None:
    """From the disk alone: the segment is gone."""
    until(lambda: not lifecycle.coordinator_runs(StorePaths(path)), "the coordinator leaves")
    assert not Path("/dev/shm" + lifecycle.identify(StorePaths(path)).segment_name).exists()
    with helios_shm.open(path, create=False) as engine:
        check_all(engine, count)


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step_everything_acknowledged_is_there_once(
    store_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setenv("HELIOS_STEP_COORDINATOR", f"{step} 2 {KILL}")
    with helios_shm.open(store_path) as engine:
        until(lambda: "INFO epoch" in (store_path / "coordinator.log").read_text(), "the armed one runs")
        monkeypatch.delenv("HELIOS_STEP_COORDINATOR")
        commit_some(engine, 0, 6, durable=True)
        check_all(engine, 6)
        assert epochs(store_path) == 2, "the step was not reached"
    reopened_and_checked(store_path, 6)


# So many tags fill the table of branches beyond what the coordinator leaves in it.
TAGS = 12_400


@pytest.mark.parametrize("step", ["evict_begun", "evict_untagged", "evict_moved"])
def test_killed_while_it_takes_tags_out_no_branch_is_lost_or_doubled(
    store_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setenv("HELIOS_STEP_COORDINATOR", f"{step} 1 {KILL}")
    with helios_shm.open(store_path) as engine:
        until(lambda: "INFO epoch" in (store_path / "coordinator.log").read_text(), "the armed one runs")
        monkeypatch.delenv("HELIOS_STEP_COORDINATOR")
        commit_some(engine, 0, 3, durable=True)
        for n in range(TAGS):  # reading a head enters its tag
            assert len(engine.branch(f"read/{n}").head) == 0
        commit_some(engine, 3, 3, durable=True)
        until(lambda: epochs(store_path) == 2, "the step was reached, and another took over")
        check_all(engine, 6)
    reopened_and_checked(store_path, 6)


def test_killed_between_the_segments_name_and_its_lock_it_leaves_nothing(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELIOS_STEP_COORDINATOR", f"leave_unlinked 1 {KILL}")
    with helios_shm.open(store_path) as engine:
        until(lambda: "INFO epoch" in (store_path / "coordinator.log").read_text(), "the armed one runs")
        monkeypatch.delenv("HELIOS_STEP_COORDINATOR")
        commit_some(engine, 0, 3, durable=False)
    until(lambda: not lifecycle.coordinator_runs(StorePaths(store_path)), "the coordinator is dead")
    assert "INFO ended" not in (store_path / "coordinator.log").read_text(), "the step was not reached"
    reopened_and_checked(store_path, 3)


def test_killed_again_and_again_it_is_replaced(store_path: Path) -> None:
    with helios_shm.open(store_path) as engine:
        for n in range(5):
            commit_some(engine, 20 * n, 19, durable=False)
            coordinator_of(store_path).kill()
            commit_some(engine, 20 * n + 19, 1, durable=True)
        check_all(engine, 100)
    reopened_and_checked(store_path, 100)


def test_a_stopped_one_delays_durability_and_nothing_else(store_path: Path) -> None:
    with helios_shm.open(store_path) as engine:
        coordinator = coordinator_of(store_path)
        engine.sync()
        coordinator.suspend()
        try:
            commit_some(engine, 0, 20, durable=False)
            check_all(engine, 20)
            with pytest.raises(helios_shm.BusyError):
                engine.sync(timeout=0.3)
        finally:
            coordinator.resume()
        engine.sync()
    reopened_and_checked(store_path, 20)


def test_told_to_stop_it_finishes_and_another_goes_on(store_path: Path) -> None:
    with helios_shm.open(store_path) as engine:
        commit_some(engine, 0, 5, durable=False)
        first = coordinator_of(store_path)
        until(lambda: epochs(store_path) == 1, "it has begun")
        first.send_signal(signal.SIGTERM)
        first.wait(WAIT_SECONDS_MAX)
        commit_some(engine, 5, 5, durable=True)
        assert coordinator_of(store_path).pid != first.pid
        check_all(engine, 10)
    reopened_and_checked(store_path, 10)


def test_large_values_survive_the_death_of_their_round(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = os.urandom(700_000)
    monkeypatch.setenv("HELIOS_STEP_COORDINATOR", f"txn_before 1 {KILL}")
    with helios_shm.open(store_path) as engine:
        until(lambda: epochs(store_path) == 1, "the armed one runs")
        monkeypatch.delenv("HELIOS_STEP_COORDINATOR")
        ws = engine.branch("main").fork()
        ws["large"] = value
        ws.commit("large", durable=True)
        assert epochs(store_path) == 2
    until(lambda: not lifecycle.coordinator_runs(StorePaths(store_path)), "the coordinator leaves")
    with helios_shm.open(store_path) as engine:
        assert engine.branch("main").head["large"] == value
