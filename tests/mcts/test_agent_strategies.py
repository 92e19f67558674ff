"""Strategies: they find the best there is, judge no state twice, and do not care who dies."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from helios_shm import Engine, Snapshot
from helios_shm.mcts.agent import Command, Edit, Judge, Outcome, Task, Verdict, Write, best_of_n


def value_of(outcome: Outcome) -> float:
    """What the command printed."""
    return float(outcome.text or 0)


def state_of(engine: Engine, files: dict[str, bytes]) -> Snapshot:
    workspace = engine.empty.fork()
    workspace.update(files)
    return workspace.commit().snapshot


def log_of(directory: Path) -> list[str]:
    return (directory / "log").read_text().splitlines()


def guess(state: Snapshot, verdict: Verdict) -> Sequence[Edit]:
    return [Write("guess", str(n).encode()) for n in range(10)]


def near(directory: Path, target: int, script: str = "") -> Judge:
    """1 for the target, the less the farther away."""
    log = f"cat guess >> {directory}/log; echo >> {directory}/log"
    distance = f'g=$(cat guess); d=$((g - {target})); awk "BEGIN {{print 1 - ${{d#-}} / 100}}"'
    script = f"{log}; {script}\n{distance}"
    return Judge(Command(["sh", "-c", script]), score=value_of, root=directory / "root")


def test_best_of_n_finds_the_best_and_stops_there(engine: Engine, tmp_path: Path) -> None:
    start = state_of(engine, {"guess": b"90"})
    found = best_of_n(Task(near(tmp_path, 4), guess), start)
    assert found.winner == state_of(engine, {"guess": b"4"})
    assert (found.score, found.solved) == (1.0, True)
    assert found.edits == (Write("guess", b"4"),)
    assert found.judged == found.commands == 6  # 90, and 0 to 4
    assert found.deaths == found.dropped == 0
    assert min(found.command_seconds, found.materialize_seconds, found.store_seconds) > 0


def test_best_of_n_takes_the_first_n_and_the_best_of_those(engine: Engine, tmp_path: Path) -> None:
    start = state_of(engine, {"guess": b"90"})
    task = Task(near(tmp_path, 7), guess)
    found = best_of_n(task, start, 5)
    assert (found.winner["guess"], found.solved, found.judged) == (b"4", False, 6)
    assert found.score == pytest.approx(0.97)
    again = best_of_n(task, start, to_the_end=True)
    assert (again.winner["guess"], again.judged, again.commands) == (b"7", 11, 5)
    assert len(log_of(tmp_path)) == len(set(log_of(tmp_path))) == 11
