"""What is claimed of ``Search``: right answers, the same from every mode, and whatever dies meanwhile."""

from __future__ import annotations

import math
import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import count as count_from
from random import Random
from typing import Any

import pytest

import helios_shm
from helios_shm import Engine, Snapshot
from helios_shm.mcts import Search
from helios_shm.mcts.table import Table
from tests.mcts.made import Made
from tests.mcts.twin import Formula, Twin
from tests.mcts.whole import Victims, assert_nobody_is_under_way, assert_sums


@pytest.fixture(scope="module")
def store() -> Iterator[Engine]:
    with helios_shm.open(None) as engine:
        yield engine


# --- workers that are killed ---


@dataclass(frozen=True)
class Slow(Made):
    """A game whose rollouts take a while of the processor, so that kills meet them anywhere."""

    loops: int = 0

    def rollout(self, state: Snapshot, rng: Random) -> Sequence[float]:
        for _ in range(self.loops):
            pass
        return super().rollout(state, rng)


@contextmanager
def killing(search: Search[Any], every: float, seed: int) -> Iterator[list[int]]:
    """Kill a worker of the search, any of them, every so many seconds. The list is of those who were killed."""
    killed: list[int] = []
    ended = threading.Event()
    chance, victims = random.Random(seed), Victims(search)

    def kill() -> None:
        while not ended.wait(chance.uniform(0, 2 * every)):
            if alive := victims.busy():
                worker = chance.choice(alive)
                pid = worker.process.pid
                assert pid is not None
                # The driver may have buried it just now; its number is not given away so soon.
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    victims.killed(worker)
                    killed.append(pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


def best_action(game: Made, at: bytes | None = None) -> tuple[int, list[float]]:
    """What is best for whoever moves, and what each player then gets, if all know the whole game."""
    at = game.start if at is None else at

    @cache
    def worth(place: bytes) -> tuple[float, ...]:
        if game.ends(place):
            return tuple(game.vector("returns", place))
        after = [worth(game.next_of(place, action)) for action in game.actions_of(place)]
        return max(after, key=lambda values: values[game.player_of(place)])

    player = game.player_of(at)
    values = [worth(game.next_of(at, action)) for action in game.actions_of(at)]
    action = max(range(len(values)), key=lambda a: values[a][player])
    return action, [each[player] for each in values]


# Whose best action has nine tenths of the visits after 500 simulations, whatever the seed: disturbed or not, a search
# is sure of it.
GAME = Slow(seed=189, branching=5, depth=8)


@pytest.mark.parametrize(("parallel", "seconds"), [("tree", 2.0), ("root", 0.5), ("leaf", 0.5)])
def test_kills_change_no_count_and_no_answer(store: Engine, parallel: Any, seconds: float) -> None:
    kills_survived(
        store, replace(GAME, loops=20_000), parallel, seconds, every=0.02 if parallel == "tree" else 0.06
    )


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["tree", "root", "leaf"])
def test_a_kill_every_second_changes_no_count_and_no_answer(store: Engine, parallel: Any) -> None:
    kills_survived(store, replace(GAME, loops=500_000), parallel, 30.0, every=1.0)


def kills_survived(store: Engine, game: Slow, parallel: Any, seconds: float, every: float) -> None:
    """Searches, one after the other, while their workers die: each ends with what it was asked for."""
    right, _ = best_action(game)
    simulations = (
        1000 if parallel == "tree" else 3000
    )  # the others have three trees, or three rollouts a state
    kills, lost, end = 0, 0, time.monotonic() + seconds
    while lost == 0 or time.monotonic() < end:
        with Search(
            game, game.root(store), workers=3, parallel=parallel, seed=kills, start_method="fork", c_uct=1.0
        ) as search:
            with killing(search, every, seed=kills) as killed:
                first = search.run(simulations // 2)
                result = search.run(simulations - simulations // 2)
            search.run(10)  # who died last is found
            assert first.num_simulations + result.num_simulations == simulations
            assert sum(result.visit_counts.values()) == simulations
            assert result.action == right
            assert_nobody_is_under_way(search)
            assert_sums(store, search, game)
            # Who is dead and not buried yet can be killed again.
            assert search.metrics.workers_lost == len(set(killed))
            kills, lost = kills + len(killed), lost + search.metrics.workers_lost


# --- one mode and another ---

# Two means differ by more than this many standard errors by chance once in 100 million times (Student's t, 30 degrees
# of freedom), and there are fifteen comparisons. What differs by four standard deviations of one search, as the shares
# do if each value counts twice, lies eleven standard errors apart.
SEARCHES = 16
ERRORS_MAX = 8.0
SIMULATIONS = 200
NOISY = Made(seed=24, branching=4, depth=20, ending=0, noise=0.1)
Found = list[
    float
]  # of one search: the share of visits of each action of the root, and the root's mean value


def found(tables: Sequence[Sequence[tuple[int, float]]]) -> Found:
    """Of (visits, value sum) of the root's actions, in one tree or several."""
    edges = [
        (sum(visits for visits, _ in each), sum(value for _, value in each))
        for each in zip(*tables, strict=True)
    ]
    total = sum(visits for visits, _ in edges)
    return [*(visits / total for visits, _ in edges), sum(value for _, value in edges) / total]


def searched(
    store: Engine, seed: int, simulations: int = SIMULATIONS, each: int = 1, **options: Any
) -> Found:
    """What a search finds out. Its simulations are counted; ``each``: as so many."""
    with Search(
        NOISY, NOISY.root(store), seed=seed, start_method="fork", table_bytes=16 << 20, **options
    ) as search:
        assert search.run(simulations // each).num_simulations == simulations
        return found(
            [
                [(edge.visits, edge.value_sum) for edge in table.edges(row)]
                for table, row in zip(search._forest.tables, search._forest.rows, strict=True)
            ]
        )


def thought(seed: int, search: Callable[[Twin], None]) -> Found:
    """What the twin finds out."""
    twin = Twin(NOISY, Formula(), seed)
    search(twin)
    return found([[(edge.visits, edge.value_sum) for edge in twin.states[twin.root].edges]])


def apart(some: Sequence[Found], others: Sequence[Found], allowed: Sequence[float] | None = None) -> float:
    """The greatest difference between two means, less what is allowed, in its standard errors."""
    greatest = 0.0
    for index, (a, b) in enumerate(zip(zip(*some, strict=True), zip(*others, strict=True), strict=True)):
        error = math.sqrt(statistics.variance(a) / len(a) + statistics.variance(b) / len(b))
        difference = abs(statistics.fmean(a) - statistics.fmean(b)) - (allowed[index] if allowed else 0)
        greatest = max(greatest, difference / error)
    return greatest


@pytest.fixture(scope="module")
def alone(store: Engine) -> list[Found]:
    """What one process finds out, again and again."""
    return [searched(store, seed) for seed in range(SEARCHES)]


def test_tree_parallelism_agrees_with_one_process(store: Engine, alone: list[Found]) -> None:
    """What one walk does not know of the other is no more than if another were always under way."""
    tree = [searched(store, 1000 + seed, workers=2, parallel="tree") for seed in range(SEARCHES)]
    beside = [thought(seed, lambda twin: twin.run_beside(SIMULATIONS, 1)) for seed in range(30)]
    one = [thought(30 + seed, lambda twin: twin.run(SIMULATIONS)) for seed in range(30)]
    allowed = [
        abs(statistics.fmean(a) - statistics.fmean(b))
        for a, b in zip(zip(*beside, strict=True), zip(*one, strict=True), strict=True)
    ]
    assert apart(tree, alone, allowed) < ERRORS_MAX


def test_root_parallelism_agrees_with_two_searches(store: Engine) -> None:
    """It is two searches of half as many simulations, and their sum."""
    root = [searched(store, 2000 + seed, workers=2, parallel="root") for seed in range(SEARCHES)]
    halves = [searched(store, 3000 + seed, SIMULATIONS // 2) for seed in range(2 * SEARCHES)]
    pairs = zip(halves[::2], halves[1::2], strict=True)
    two = [[(x + y) / 2 for x, y in zip(a, b, strict=True)] for a, b in pairs]
    assert apart(root, two) < ERRORS_MAX


def test_leaf_parallelism_agrees_with_two_rollouts_a_leaf(store: Engine) -> None:
    leaf = [searched(store, 4000 + seed, workers=2, parallel="leaf") for seed in range(SEARCHES)]
    two = [thought(seed, lambda twin: twin.run_leaf(SIMULATIONS, 2)) for seed in range(SEARCHES)]
    assert apart(leaf, two) < ERRORS_MAX


Backup = Callable[[Table, int, Sequence[float], int], None]


def counted_twice(backup: Backup) -> Backup:
    return lambda table, lane, values, count=1: backup(table, lane, values, 2 * count)


def of_the_other_player(backup: Backup) -> Backup:
    """Every second value."""
    turns = count_from(0)

    def wrong(table: Table, lane: int, values: Sequence[float], count: int = 1) -> None:
        backup(table, lane, values if next(turns) % 2 else values[::-1], count)

    return wrong


@pytest.mark.parametrize(("bug", "each"), [(counted_twice, 2), (of_the_other_player, 1)])
def test_a_bug_of_counting_is_seen(
    store: Engine,
    alone: list[Found],
    monkeypatch: pytest.MonkeyPatch,
    bug: Callable[[Backup], Backup],
    each: int,
) -> None:
    """The comparison has the power to find what counts alone do not show: here the visits add up."""
    assert apart([searched(store, 5000 + seed) for seed in range(SEARCHES)], alone) < ERRORS_MAX
    monkeypatch.setattr(Table, "backup", bug(Table.backup))
    assert apart([searched(store, 6000 + seed, each=each) for seed in range(SEARCHES)], alone) > ERRORS_MAX
