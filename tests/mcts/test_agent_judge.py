"""Judges: scores, and each state is judged once, by whichever process."""

import multiprocessing
import os
import pickle
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import helios_shm
from helios_shm import Engine, Snapshot
from helios_shm.mcts.agent import Command, Judge, Outcome, share_passed, succeeded
from helios_shm.mcts.agent.scratch import remove_abandoned


def outcome_of(text: str, returncode: int = 0, limit: object = None) -> Outcome:
    data = text.encode()
    return Outcome(returncode, limit, data, len(data), 0.0, 0.0, 0)  # type: ignore[arg-type]


@pytest.fixture
def engine() -> Iterator[Engine]:
    """Nothing here is about disks."""
    with helios_shm.open(None) as opened:
        yield opened


def state_of(engine: Engine, answer: int) -> Snapshot:
    workspace = engine.empty.fork()
    workspace["answer"] = str(answer).encode()
    return workspace.commit().snapshot


def counting(log: Path, script: str = "true") -> Command:
    """A command that leaves a line wherever it runs."""
    return Command(["sh", "-c", f"echo $(cat answer) >> {log}; {script}"])


# --- scores ---


@pytest.mark.parametrize(
    ("text", "returncode", "score"),
    [
        ("....\n5 passed in 0.01s\n", 0, 1.0),
        ("=== 1 failed, 3 passed in 0.1s ===\n", 1, 0.75),
        ("3 failed, 2 passed, 4 skipped, 1 error, 2 warnings in 2.50s", 1, 2 / 6),
        ("2 errors in 0.2s", 2, 0.0),
        ("no tests ran in 0.00s", 5, 0.0),
        ("5 passed in 0.01s\nbut the process crashed", -11, 0.0),
        ("10 passed in 1s\n1 failed, 1 passed in 0.1s", 1, 0.5),
        ("Ran 4 tests in 0.001s\n\nOK\n", 0, 1.0),
        ("Ran 1 test in 0.001s\n\nFAILED (failures=1)\n", 1, 0.0),
        ("Ran 8 tests in 0.1s\n\nFAILED (failures=1, errors=2, skipped=1)\n", 1, 5 / 8),
        ("", 0, 0.0),
    ],
)
def test_share_of_tests_that_passed(text: str, returncode: int, score: float) -> None:
    assert share_passed(outcome_of(text, returncode)) == pytest.approx(score)
    assert share_passed(outcome_of(text, returncode, "time")) == 0


def test_share_is_read_from_the_real_runners(tmp_path: Path) -> None:
    tests = """
        import unittest
        class T(unittest.TestCase):
            def test_a(self): pass
            def test_b(self): self.assertTrue(0)
            def test_c(self): raise KeyError
            def test_d(self): pass
    """
    (tmp_path / "test_it.py").write_text(textwrap.dedent(tests))
    for argv in (["-m", "unittest"], ["-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"]):
        outcome = Command([sys.executable, *argv], env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}).run(tmp_path)
        assert share_passed(outcome) == 0.5, outcome.text


# --- memory ---


def test_a_state_is_judged_once_in_a_process_and_once_in_a_store(engine: Engine, tmp_path: Path) -> None:
    log, root = tmp_path / "log", tmp_path / "root"
    judge = Judge(counting(log, "exit $(cat answer)"), root=root)
    good, bad = state_of(engine, 0), state_of(engine, 1)
    assert judge.knows(good) is None
    assert [judge(state).score for state in (good, bad, good, bad)] == [1.0, 0.0, 1.0, 0.0]
    another = pickle.loads(pickle.dumps(judge))
    verdict = another(state_of(engine, 1))
    assert (verdict.score, verdict.remembered, verdict.outcome.returncode) == (0.0, True, 1)
    assert log.read_text().split() == ["0", "1"]
    assert (judge.spent.judged, judge.spent.remembered) == (2, 2)
    assert (another.spent.judged, another.spent.remembered) == (0, 1)


def test_another_command_or_prefix_judges_anew(engine: Engine, tmp_path: Path) -> None:
    log = tmp_path / "log"
    judges = [
        Judge(counting(log), root=tmp_path / "root"),
        Judge(counting(log, "false"), root=tmp_path / "root"),
        Judge(counting(log), prefix="none/", root=tmp_path / "root"),
    ]
    state = state_of(engine, 7)
    assert [judge(state).score for judge in judges] == [1.0, 0.0, 1.0]
    assert len(log.read_text().splitlines()) == 3


def test_the_score_is_computed_from_what_is_remembered(engine: Engine, tmp_path: Path) -> None:
    command = Command(["sh", "-c", "echo 3 passed, 1 failed in 1s; exit 1"])
    state = state_of(engine, 7)
    assert Judge(command, root=tmp_path / "root")(state).score == 0
    verdict = Judge(command, score=share_passed, root=tmp_path / "root")(state)
    assert (verdict.score, verdict.remembered) == (0.75, True)


def test_forgotten_and_unremembered_states_are_judged_again(engine: Engine, tmp_path: Path) -> None:
    log = tmp_path / "log"
    state = state_of(engine, 7)
    judge = Judge(counting(log), root=tmp_path / "root")
    judge.forget(engine)
    judge(state)
    judge.forget(engine)
    judge(state)
    alone = Judge(counting(log), remember=False, root=tmp_path / "root")
    for _ in range(2):
        alone(state)
    assert len(log.read_text().splitlines()) == 3
    assert len(engine.branches("judged/")) == 1


def test_what_the_clock_has_ended_is_remembered_by_this_process_alone(engine: Engine, tmp_path: Path) -> None:
    judge = Judge(Command(["sleep", "1000"], timeout_s=0.05), score=succeeded, root=tmp_path / "root")
    state = state_of(engine, 7)
    assert judge(state).outcome.timed_out
    assert judge(state).remembered
    assert pickle.loads(pickle.dumps(judge)).knows(state) is None


def test_a_read_only_store_is_judged_too(store_path: Path, tmp_path: Path) -> None:
    with helios_shm.open(store_path) as engine:
        engine.branch("main").update(lambda workspace: workspace.update({"answer": b"1"}))
    log = tmp_path / "log"
    with helios_shm.open(store_path, readonly=True) as engine:
        judge = Judge(counting(log), root=tmp_path / "root")
        assert judge(engine.branch("main").head).score == 1
        assert judge(engine.branch("main").head).remembered
    assert len(log.read_text().splitlines()) == 1


def judge_all(judge: Judge, states: list[Snapshot]) -> None:
    for state in states:
        judge(state)


def test_processes_that_meet_the_same_states_judge_each_once(engine: Engine, tmp_path: Path) -> None:
    log = tmp_path / "log"
    judge = Judge(counting(log, "sleep 0.02"), root=tmp_path / "root")
    states = [state_of(engine, answer) for answer in range(5)]
    contexts = [multiprocessing.get_context(method) for method in ("fork", "fork", "spawn")]
    workers = [context.Process(target=judge_all, args=(judge, states)) for context in contexts]  # type: ignore[attr-defined]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert sorted(log.read_text().split()) == ["0", "1", "2", "3", "4"]
    assert os.listdir(tmp_path / "root") == ["claims"]
    assert os.listdir(tmp_path / "root" / "claims") == []


def test_a_judge_killed_in_the_middle_is_replaced_by_another(engine: Engine, tmp_path: Path) -> None:
    """The first one dies while it judges; who waits for its verdict then judges himself."""
    log = tmp_path / "log"
    script = f"if [ -e {tmp_path}/first ]; then exit 0; else touch {tmp_path}/first; exec sleep 1000; fi"
    judge = Judge(counting(log, script), root=tmp_path / "root")
    state = state_of(engine, 3)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=judge_all, args=(judge, [state])) for _ in range(2)]
    workers[0].start()
    while not (tmp_path / "first").exists():
        assert workers[0].is_alive()
    workers[1].start()
    workers[0].kill()
    for worker in workers:
        worker.join()
    assert workers[1].exitcode == 0
    assert log.read_text().split() == ["3", "3"]
    assert judge(state).remembered


def test_claims_of_the_dead_go_with_their_directories(engine: Engine, tmp_path: Path) -> None:
    judge = Judge(Command(["sleep", "1000"]), root=tmp_path / "root")
    living = Judge(counting(tmp_path / "log", "sleep 1000"), root=tmp_path / "root")
    state, context = state_of(engine, 3), multiprocessing.get_context("fork")
    claims = tmp_path / "root" / "claims"
    workers = [context.Process(target=judge_all, args=(each, [state])) for each in (judge, living)]
    for worker in workers:
        worker.start()
    while not (tmp_path / "log").exists() or len(os.listdir(claims)) < 2:
        assert all(worker.is_alive() for worker in workers)
    workers[0].kill()
    workers[0].join()
    deadline = time.monotonic() + 20
    while len(os.listdir(claims)) > 1 and time.monotonic() < deadline:
        remove_abandoned(tmp_path / "root")
    assert os.listdir(claims) == [f"{living.key}-{state.id}"]
    workers[1].kill()
    workers[1].join()


def test_a_judge_that_costs_less_has_the_first_word(engine: Engine, tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = Judge(
        Command(["sh", "-c", "awk '{print ($1 > 4) ? 1 : $1 / 4}' answer"]),
        score=printed,
        root=tmp_path / "root",
    )
    judge = Judge(counting(log, "exit $(cat answer)"), screen=first, root=tmp_path / "root")
    states = [state_of(engine, answer) for answer in (0, 2, 5, 4)]
    assert judge.knows(states[0]) is None
    assert [judge(state).score for state in states] == [0.0, 0.25, 0.5, 0.5]
    assert log.read_text().split() == ["5", "4"]
    assert judge.spent.judged == 6
    again = pickle.loads(pickle.dumps(judge))
    assert [verdict.score for state in states if (verdict := again.knows(state))] == [0.0, 0.25, 0.5, 0.5]
    assert len(list(again.remembered(engine))) == 6
    assert list(again.remembered(engine, again.heads(engine))) == []
    with pytest.raises(ValueError, match="prefix"):
        Judge(Command(["true"]), prefix="src/", screen=first)


def printed(outcome: Outcome) -> float:
    return float(outcome.text)
