"""What is claimed of ``Search``: right answers, the same from every mode, and whatever dies meanwhile."""

from __future__ import annotations

import math
import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any

import pytest

import helios_shm
from helios_shm import Engine, Snapshot
from helios_shm.mcts import Search
from helios_shm.mcts.table import Table
from tests.mcts.made import Made
from tests.mcts.twin import Formula, Twin
from tests.mcts.whole import assert_nobody_is_under_way, assert_sums


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
    """Kill a worker of the search, any of them, after ``every`` seconds again and again. The list is of those killed."""
    killed: list[int] = []
    ended = threading.Event()
    chance = random.Random(seed)

    def kill() -> None:
        while not ended.wait(chance.uniform(0, 2 * every)):
            workers = [] if search._pool is None else list(search._pool.workers)
            alive = [worker.process.pid for worker in workers if worker.busy]
            if alive:
                pid = chance.choice(alive)
                assert pid is not None
                # The driver may have buried it just now. Its number is not given away so soon: they are handed out in turn.
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
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


# Whose best action a search is sure of after 1000 simulations and 450 states.
GAME = Slow(seed=40, branching=5, depth=8)


@pytest.mark.parametrize(("parallel", "seconds"), [("tree", 2.0), ("root", 1.0), ("leaf", 1.0)])
def test_kills_change_no_count_and_no_answer(store: Engine, parallel: Any, seconds: float) -> None:
    kills_survived(store, replace(GAME, loops=15_000), parallel, seconds, every=0.03)


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
    while time.monotonic() < end:
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
    assert lost > 5
