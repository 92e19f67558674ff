"""Sixteen real writers on one hot branch: nothing is lost, and nobody is kept from it for ever, however slow it is.

What each has waited is measured by bench/bench_hot.py; here it is whether they come through at all.
"""

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable

import pytest

from helios_shm import Branch, Engine, Workspace, codecs
from tests.processes.rig import resume, stop, workers

FORK = multiprocessing.get_context("fork")
CROWD = 16
EACH = 25
RULES = {"hits/*": "sum", "best/*": "max", "seen": "union", "**/log": "append"}


def bump(ws: Workspace, path: str) -> int:
    numbers = ws.view(codec=codecs.json)
    value: int = numbers.get(path, 0) + 1
    numbers[path] = value
    return value


def keys_of_its_own(branch: Branch, number: int) -> None:
    for turn in range(EACH):
        with branch.transaction(resolve="sum") as ws:
            ws[f"{number}/{turn}"] = b"1"


def shared_keys(branch: Branch, number: int) -> None:
    for turn in range(EACH):
        with branch.transaction(resolve=RULES) as ws:
            values = ws.view(codec=codecs.json)
            bump(ws, "hits/all")
            values["best/all"] = max(values.get("best/all", 0), number * EACH + turn)
            values["seen"] = [*values.get("seen", []), f"{number}/{turn}"]
            ws["a/log"] = ws.get("a/log", b"") + b"%d/%d\n" % (number, turn)


def tickets(branch: Branch, number: int) -> list[int]:
    return [branch.update(lambda ws: bump(ws, "tickets"), retries=10_000) for _ in range(EACH)]


def merges(branch: Branch, number: int) -> None:
    """Increments made on a branch of one's own, and merged."""
    mine = branch.engine.branch(f"of/{number}", at=branch.head)
    for _ in range(EACH // 5):
        with mine.transaction() as ws:
            bump(ws, "n")
            bump(ws, f"by/{number}")
        branch.merge(mine, resolve={"n": "sum"})
        mine.merge(branch, resolve={"n": "theirs"})


def together(branch: Branch, work: Callable[[Branch, int], object]) -> list[object]:
    with workers(CROWD, FORK, branch) as crowd:
        for number, worker in enumerate(crowd):
            worker.tell(work, number)
        return [worker.hear() for worker in crowd]


def test_disjoint_keys_all_arrive(engine: Engine) -> None:
    branch = engine.branch("hot")
    together(branch, keys_of_its_own)
    assert Counter(path.split("/")[0] for path in branch.head) == {str(n): EACH for n in range(CROWD)}
    assert branch.last_commit.sequence == CROWD * EACH


def test_no_increment_is_lost(engine: Engine) -> None:
    branch = engine.branch("hot")
    together(branch, shared_keys)
    head = branch.head.view(codec=codecs.json)
    everything = {f"{number}/{turn}" for number in range(CROWD) for turn in range(EACH)}
    assert (head["hits/all"], head["best/all"]) == (CROWD * EACH, CROWD * EACH - 1)
    assert set(head["seen"]) == everything and len(head["seen"]) == len(everything)
    lines = branch.head["a/log"].decode().split()
    assert sorted(lines) == sorted(everything)
    for number in range(CROWD):  # each writer's own lines in the order in which it wrote them
        mine = [line for line in lines if line.startswith(f"{number}/")]
        assert mine == [f"{number}/{turn}" for turn in range(EACH)]
    assert branch.last_commit.sequence == CROWD * EACH


def test_each_update_draws_a_ticket_of_its_own(engine: Engine) -> None:
    branch = engine.branch("hot")
    drawn = together(branch, tickets)
    everything = [ticket for mine in drawn for ticket in mine]  # type: ignore[attr-defined]
    assert sorted(everything) == list(range(1, CROWD * EACH + 1))
    assert all(mine == sorted(mine) for mine in drawn)  # type: ignore[type-var]


def test_merges_of_many_branches_lose_nothing(engine: Engine) -> None:
    branch = engine.branch("hot")
    branch.update(lambda ws: ws.update({"n": b"0"}))
    together(branch, merges)
    head = branch.head.view(codec=codecs.json)
    assert {head[f"by/{number}"] for number in range(CROWD)} == {EACH // 5}
    assert head["n"] == CROWD * (EACH // 5)


# --- who is slower than all others ---


def hurry(branch: Branch, number: int) -> int:
    """Commit without a pause until the branch says that it is enough."""
    for turn in range(10**9):
        with branch.transaction(resolve={"n": "sum"}) as ws:
            if "enough" in ws:
                return turn
            bump(ws, "n")
    raise AssertionError("never enough")


def slow_update(branch: Branch, number: int) -> int:
    runs = 0

    def step(ws: Workspace) -> None:
        nonlocal runs
        runs += 1
        bump(ws, "n")
        end = time.monotonic() + 0.02
        while time.monotonic() < end:
            pass

    for _ in range(3):
        branch.update(step)
    return runs


def large_commit(branch: Branch, number: int) -> int:
    for turn in range(3):
        ws = branch.fork()
        ws.update({f"large/{turn}/{i:05}": b"x" * 100 for i in range(5000)})
        ws.commit()
    return 3


@pytest.mark.parametrize("slow", [slow_update, large_commit])
def test_slow_writer_comes_through_among_fast_ones(
    engine: Engine, slow: Callable[[Branch, int], int]
) -> None:
    branch = engine.branch("hot")
    branch.update(lambda ws: ws.update({"n": b"0"}))
    with workers(CROWD, FORK, branch) as crowd:
        for number, worker in enumerate(crowd[1:]):
            worker.tell(hurry, number)
        crowd[0].ask(slow, 0)
        branch.update(lambda ws: ws.update({"enough": b""}))
        fast = sum(worker.hear() for worker in crowd[1:])
    head = branch.head
    assert int(head["n"]) == fast + (3 if slow is slow_update else 0)
    assert len(head.keys("large/")) == (0 if slow is slow_update else 15_000)


def stand_still(branch: Branch, path: str) -> None:
    """Take the turn, and say so; whoever stops this process now stops it in its turn."""
    from helios_shm.turn import Turn
    from helios_shm.workspace import Said

    turn, said = Turn(branch), Said("", None)
    turn._began -= 10.0
    while not said.ticket:
        turn.passed(said)


@pytest.mark.parametrize("dies", [False, True])
def test_nobody_waits_for_the_turn_of_who_is_stopped_or_dead(engine: Engine, dies: bool) -> None:
    branch = engine.branch("hot")
    branch.update(lambda ws: ws.update({"n": b"0"}))
    with workers(2, FORK, branch) as (one, other):
        one.ask(stand_still, "n")
        if dies:
            one.kill()
        else:
            stop(one.pid)
        other.ask(keys_of_its_own, 1)
        assert len(branch.head.keys("1/")) == EACH
        if not dies:
            resume(one.pid)
            one.ask(keys_of_its_own, 2)
            assert len(branch.head.keys("2/")) == EACH
