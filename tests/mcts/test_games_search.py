"""Searches over the packages' games, by several processes: what they must find, and that they end in order."""

import random
from collections.abc import Iterator
from typing import Any, Literal

import pytest

import helios_shm
from helios_shm import Engine, Snapshot
from helios_shm.mcts import Search
from helios_shm.mcts.environment import Rules
from helios_shm.mcts.games.chess import Chess
from helios_shm.mcts.games.gymnasium import Gymnasium
from helios_shm.mcts.games.open_spiel import OpenSpiel
from helios_shm.mcts.games.pettingzoo import PettingZoo
from tests.mcts.games import play


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """One store for all tests: none of them changes more than its own states."""
    with helios_shm.open(None) as engine:
        yield engine


def found(env: Any, root: Snapshot, simulations: int, **options: Any) -> str:
    """The best action by the name that the environment gives it, after a search by two processes."""
    with Search(env, root, workers=2, seed=1, **options) as search:
        result = search.run(simulations)
        assert result.num_simulations == simulations == sum(result.visit_counts.values())
        assert search.tree().in_flight == 0
        name = getattr(env, "action_name", str)
        return str(name(result.action))


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_mate_in_one_is_found(engine: Engine, start_method: Literal["fork", "spawn"]) -> None:
    env = Chess(rollout_plies=4)
    root = env.root(engine, "6k1/5ppp/8/8/8/8/8/R5K1 w - - 0 1")
    assert found(env, root, 150, start_method=start_method) == "a1a8"


def test_three_in_a_row_are_completed_and_prevented(engine: Engine) -> None:
    for env in (
        OpenSpiel("tic_tac_toe"),
        OpenSpiel("tic_tac_toe", states="history"),
        PettingZoo("tictactoe_v3"),
    ):
        root = env.root(engine)
        assert found(env, play(env, root, [0, 3, 1, 4]), 200) == "2"
        assert found(env, play(env, root, [0, 4, 1]), 400) == "2"


def test_four_in_a_row_are_completed(engine: Engine) -> None:
    for env in (OpenSpiel("connect_four"), PettingZoo("connect_four_v3")):
        assert found(env, play(env, env.root(engine), [3, 0, 3, 0, 3, 1]), 150) == "3"


def test_game_with_chance_is_searched(engine: Engine) -> None:
    env, roll, stop, six = OpenSpiel("pig", {"winscore": 5}), 0, 1, 5
    # Who stops with a six has won; who rolls once more may lose it.
    assert found(env, play(env, env.root(engine), [roll, six]), 300) == str(stop)
    with Search(env, env.root(engine), seed=1) as search:
        assert {node.kind for node in search.run(400) and search.tree()} == {"choice", "chance", "terminal"}


def test_rewards_on_the_way_lead_to_the_goal(engine: Engine) -> None:
    lake = Gymnasium("FrozenLake-v1", is_slippery=False, time_limit=12, discount=0.9)
    goal = 15
    with Search(lake, lake.root(engine, seed=1), workers=2, seed=1, discount=0.9) as search:
        for _ in range(12):
            if lake.returns(search.root) is not None:
                break
            search.advance(search.run(600).action)
        assert search.root["env/s"] == b"%d" % goal
        assert search.root["over"] == b"terminated"


def test_playout_of_the_environment_and_of_the_library_agree(engine: Engine) -> None:
    """The package's own clone gives what the default playout over workspaces gives, on the average."""
    env: Any = OpenSpiel("tic_tac_toe")
    root = play(env, env.root(engine), [4])

    class Plain:
        legal_actions, apply, returns = env.legal_actions, env.apply, env.returns
        current_player = env.current_player

    rng, count = random.Random(1), 400
    quick = sum(Rules(env).rollout(root, rng)[0] for _ in range(count)) / count  # type: ignore[index]
    slow = sum(Rules(Plain()).rollout(root, rng)[0] for _ in range(count)) / count  # type: ignore[index, arg-type]
    assert abs(quick - slow) < 0.2  # four standard errors
