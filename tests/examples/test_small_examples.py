"""The small examples run as they stand, say what they promise, and go on in a store that they are given."""

import subprocess
import sys
from pathlib import Path

import pytest

import helios_shm
from tests.programs import untraced

ROOT = Path(__file__).parents[2]

COUNTERS = """\
6 commits, 138 letters
a 16, s 15, e 12, h 12, i 11
"""
TIME_TRAVEL = """\
two steps back: a cat
one forward:    a black cat
as it was sent: a black cat sleeps
at the end:     a black cat sleeps well
  1  draft 1
  2  draft 2
  3  draft 3
  4  undo: draft 3
  5  undo: draft 2
  6  redo: draft 2
  7  changed my mind
  8  took the other one
"""
PLANNER = """\
. Q . . . .
. . . Q . .
. . . . . Q
Q . . . . .
. . Q . . .
. . . . Q .
57 commits, 25 ways back, 32 boards
"""


def output_of(example: str, store: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"examples.{example}", str(store)],
        cwd=ROOT, env=untraced(), timeout=60, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("example", ["counters", "time_travel", "planner", "tic_tac_toe", "ask_tell"])
def test_example_names_the_command_that_runs_it(example: str) -> None:
    assert f"python -m examples.{example} [STORE]" in (ROOT / "examples" / f"{example}.py").read_text()


def test_examples_say_what_they_promise_and_leave_it_for_others(store_path: Path) -> None:
    assert output_of("counters", store_path) == COUNTERS
    assert output_of("time_travel", store_path) == TIME_TRAVEL
    assert output_of("planner", store_path) == PLANNER
    with helios_shm.open(store_path, create=False) as engine:
        assert engine.branches() == ["document", "letters", "other", "plan"]
        assert list(engine.tags()) == ["sent"]
        document = engine.branch("document")
        assert document.undo().message == "undo: took the other one"
        assert document.head["text"] == b"a black dog"
        plan = engine.branch("plan")
        assert list(plan.head.listdir()) == ["board", "search/"]
        assert len(plan.head.nested("board")) == 6
        assert plan.at(2).snapshot.nested("board")["queens/0"] == b"0"


def test_ask_and_tell_finds_the_fewest_steps_whatever_order_the_answers_come_in(store_path: Path) -> None:
    assert output_of("ask_tell", store_path) == "from 1 to 100 in 7 steps\n"


def test_tic_tac_toe_against_oneself_is_a_draw_and_the_same_each_time(store_path: Path) -> None:
    printed = output_of("tic_tac_toe", store_path)
    *moves, first, second, third, returns = printed.splitlines()
    assert [move.split()[0] for move in moves] == list("XOXOXOXOX")
    assert moves[0] == "X to 4"
    assert sorted(first + second + third) == sorted("OOOOXXXXX")
    assert returns == "(0, 0)"
    assert output_of("tic_tac_toe", store_path) == printed
    with helios_shm.open(store_path, create=False) as engine:
        log = [commit.message for commit in engine.branch("tic-tac-toe").log()]
        assert log == ([*reversed(moves), "a new game"] * 2)
