"""Strategies: they find the best there is, judge no state twice, and do not care who dies."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import helios_shm
from helios_shm import Engine, Snapshot
from helios_shm.mcts.agent import (
    Command,
    Edit,
    EditEnvironment,
    Found,
    Judge,
    Outcome,
    Task,
    Verdict,
    Write,
    beam,
    best_of_n,
    tournament,
    tree,
)
from tests.mcts.test_agent_command import MARK, processes_marked, wait_until_none
from tests.programs import untraced

ROOT = Path(__file__).parents[2]


def value_of(outcome: Outcome) -> float:
    """What the command printed."""
    return float(outcome.text or 0)


@pytest.fixture
def engine() -> Iterator[Engine]:
    """Nothing here is about disks."""
    with helios_shm.open(None) as opened:
        yield opened


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
    log = f"echo $(cat guess) >> {directory}/log"
    distance = f'g=$(cat guess); d=$((g - {target})); awk "BEGIN {{print 1 - ${{d#-}} / 100}}"'
    script = f"{log}; {script}\n{distance}"
    return Judge(Command(["sh", "-c", script]), score=value_of, root=directory / "root")


def test_best_of_n_finds_the_best_and_stops_there(engine: Engine, tmp_path: Path) -> None:
    start = state_of(engine, {"guess": b"90"})
    found = best_of_n(Task(near(tmp_path, 4), guess), start)
    assert found.winner == state_of(engine, {"guess": b"4"})
    assert (found.score, found.solved) == (1.0, True)
    assert found.edits == (Write("guess", b"4"),)
    assert found.judged == 6  # 90, and 0 to 4
    assert 6 <= found.commands <= 7  # 5 may have been tried beside 4
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


def test_a_solved_start_is_its_own_winner(engine: Engine, tmp_path: Path) -> None:
    start = state_of(engine, {"guess": b"4"})
    task = Task(near(tmp_path, 4), guess)
    for strategy in (best_of_n, beam, tournament, partial(tree, num_simulations=5)):
        found = strategy(task, start)
        assert (found.winner, found.edits, found.judged, found.solved) == (start, (), 1, True)


def test_bad_arguments_are_refused(engine: Engine, tmp_path: Path) -> None:
    task = Task(near(tmp_path, 4), guess)
    with pytest.raises(TypeError, match="Task"):
        best_of_n(task.judge, engine.empty)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="worker"):
        best_of_n(task, engine.empty, workers=0)
    with pytest.raises(ValueError, match="how long"):
        tree(task, engine.empty)
    with pytest.raises(TypeError, match="Command"):
        Judge(["true"])  # type: ignore[arg-type]


# --- several edits after each other: three locks with four numbers each; each number that is right is worth 1/3 ---

LOCKS = {"a": 2, "b": 3, "c": 1}
CLOSED = dict.fromkeys(LOCKS, b"0")
OPEN = {name: str(number).encode() for name, number in LOCKS.items()}


def turn(state: Snapshot, verdict: Verdict) -> Sequence[Edit]:
    return [
        Write(name, str(n).encode()) for name in LOCKS for n in range(4) if state[name] != str(n).encode()
    ]


def locks(directory: Path) -> Task:
    tests = "; ".join(f"[ $(cat {name}) = {number} ] && n=$((n+1))" for name, number in LOCKS.items())
    script = f'echo $(cat a b c) >> {directory}/log; n=0; {tests}; awk "BEGIN {{print $n / 3}}"'
    return Task(Judge(Command(["sh", "-c", script]), score=value_of, root=directory / "root"), turn)


STRATEGIES: dict[str, Callable[[Task, Snapshot], Found]] = {
    "beam": partial(beam, width=2),
    "tournament": tournament,
    "tree": partial(tree, num_simulations=400, seed=1),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies_open_all_locks_and_judge_each_state_once(
    engine: Engine, tmp_path: Path, name: str
) -> None:
    start = state_of(engine, CLOSED)
    found = STRATEGIES[name](locks(tmp_path), start)
    assert dict(found.winner) == OPEN
    assert (found.score, found.solved, found.deaths) == (1.0, True, 0)
    assert {(edit.path, edit.data) for edit in found.edits if isinstance(edit, Write)} == set(OPEN.items())
    assert len(log_of(tmp_path)) == len(set(log_of(tmp_path)))
    assert found.judged <= found.commands <= len(log_of(tmp_path)) <= found.commands + 1  # one was cut short
    assert min(found.command_seconds, found.materialize_seconds, found.store_seconds) > 0
    again = STRATEGIES[name](locks(tmp_path), start)
    assert again.winner == found.winner
    if name != "tree":
        assert again.judged == found.judged
    assert len(log_of(tmp_path)) - len(set(log_of(tmp_path))) <= 1  # that one, again
    assert os.listdir(tmp_path / "root") == ["claims"]


def test_neither_the_number_of_workers_nor_their_start_matters(engine: Engine, tmp_path: Path) -> None:
    start = state_of(engine, CLOSED)
    found = [
        beam(locks(tmp_path), start, width=2, workers=1, start_method="spawn"),
        tournament(locks(tmp_path), start, workers=1),
        beam(locks(tmp_path), start, width=2, workers=3, start_method="fork"),
        tournament(locks(tmp_path), start, workers=2, start_method="forkserver"),
    ]
    same = [(each.winner, each.score, each.edits, each.judged) for each in found]
    assert same[:2] == same[2:]


def test_the_environment_meets_a_tree_again_whichever_edits_led_there(engine: Engine, tmp_path: Path) -> None:
    env = EditEnvironment(locks(tmp_path))
    root = env.root(state_of(engine, CLOSED))
    ends = set()
    for order in itertools.permutations([Write(name, data) for name, data in OPEN.items()]):
        state = root
        for edit in order:
            assert env.returns(state) is None
            assert edit in env.legal_actions(state)
            workspace = state.fork()
            env.apply(workspace, edit)
            state = workspace.commit().snapshot
        ends.add(state)
    (end,) = ends
    assert env.returns(end) == (1.0,)
    assert env.rollout(root, None) == (0.0,)  # type: ignore[arg-type]
    assert len(log_of(tmp_path)) == 8


def promising(state: Snapshot, actions: Sequence[Edit]) -> Sequence[float]:
    return [9.0 if isinstance(edit, Write) and edit.data == OPEN[edit.path] else 0.0 for edit in actions]


def test_tree_search_follows_what_a_task_holds_to_be_promising(engine: Engine, tmp_path: Path) -> None:
    task = replace(locks(tmp_path), prior_logits=promising)
    found = tree(task, state_of(engine, CLOSED), seconds=30, workers=1, seed=1)
    assert dict(found.winner) == OPEN
    assert found.judged <= 12


# --- edits that do not fit, and deaths ---


def deadly(marker: str, times: int, number: int, directory: Path) -> None:
    """An agent that is killed the first few times."""
    path = Path(f"{marker}-{number}")
    count = int(path.read_text()) if path.exists() else 0
    path.write_text(str(count + 1))
    if count < times:
        os.kill(os.getpid(), signal.SIGKILL)
    (directory / "guess").write_text(str(number))
    (directory / "__pycache__").mkdir()
    (directory / "__pycache__" / "x.pyc").touch()


def deadly_guess(marker: str, state: Snapshot, verdict: Verdict) -> Sequence[Edit]:
    dying = [(0, 1), (2, 2), (9, 3), (1, 4), (0, 5)]
    return [partial(deadly, marker, times, number) for times, number in dying]


def test_the_death_of_workers_costs_time_alone(engine: Engine, tmp_path: Path) -> None:
    """Candidate 2 survives at the third try, 3 never does."""
    start = state_of(engine, {"guess": b"90"})
    task = Task(near(tmp_path, 2), partial(deadly_guess, str(tmp_path / "died")))
    found = best_of_n(task, start, to_the_end=True)
    assert found.winner == state_of(engine, {"guess": b"2"})
    assert (found.deaths, found.dropped, found.judged) == (2 + 3 + 1, 1, 5)
    assert os.listdir(tmp_path / "root") == ["claims"]


def misfits(state: Snapshot, verdict: Verdict) -> Sequence[Edit]:
    from helios_shm.mcts.agent import Delete, Replace

    return [Replace("guess", "no", ""), Replace("none", "", ""), Delete("none"), Write("guess", b"5")]


@pytest.mark.parametrize("strategy", [best_of_n, beam, tournament, partial(tree, num_simulations=20)])
def test_edits_that_do_not_fit_are_dropped(
    engine: Engine, tmp_path: Path, strategy: Callable[..., Found]
) -> None:
    found = strategy(Task(near(tmp_path, 5), misfits), state_of(engine, {"guess": b"90"}))
    assert (found.winner["guess"], found.judged) == (b"5", 2)


def broken(state: Snapshot, verdict: Verdict) -> Sequence[Edit]:
    raise LookupError("no idea")


def test_what_a_task_raises_reaches_the_caller(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="no idea") as caught:
        beam(Task(near(tmp_path, 5), broken), state_of(engine, {"guess": b"90"}))
    assert any("worker process" in note for note in caught.value.__notes__)


SEARCH = """
import sys, helios_shm
from pathlib import Path
from helios_shm.mcts.agent import best_of_n, Task, Judge, Command, Write
def propose(state, verdict):
    return [Write("guess", b"%d" % n) for n in range(9)]
script = f"[ $(cat guess) = start ] && exit 1; (setsid sleep 1000 &); echo >> {sys.argv[1]}/started; sleep 1000"
command = Command(["sh", "-c", script], env={sys.argv[2]: sys.argv[3]})
task = Task(Judge(command, root=Path(sys.argv[1], "root")), propose)
with helios_shm.open(None) as engine:
    workspace = engine.empty.fork()
    workspace["guess"] = b"start"
    best_of_n(task, workspace.commit().snapshot, workers=2, start_method="fork")
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_runs_on_when_the_driver_ends(tmp_path: Path, number: signal.Signals) -> None:
    mark = str(tmp_path)
    driver = subprocess.Popen(
        [sys.executable, "-c", SEARCH, str(tmp_path), MARK, mark],
        env={**untraced(), "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    started = tmp_path / "started"
    while not (started.exists() and len(started.read_text()) == 2):
        assert driver.poll() is None
        time.sleep(0.01)
    driver.send_signal(number)
    driver.wait()
    wait_until_none(mark)
    assert processes_marked(mark) == []
    if number == signal.SIGINT:
        assert os.listdir(tmp_path / "root") == ["claims"]
