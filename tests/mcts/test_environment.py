"""What an environment leaves out, and states on the way of a playout."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

import helios_shm
from helios_shm import Engine, Snapshot
from helios_shm.mcts.environment import Passing, Rules
from tests.mcts.environments import Bet, Split, TicTacToe, Walk


def test_three_methods_make_an_environment(engine: Engine) -> None:
    rules = Rules(TicTacToe())
    assert rules.num_players(engine.empty) == 2
    assert rules.priors(engine.empty, 0, range(9)) is None
    assert rules.action_name(3) == "3"
    assert sorted(rules.rollout(engine.empty, Random(1))) in ([-1.0, 1.0], [0.0, 0.0])


def test_playouts_end_with_returns_of_every_player(engine: Engine) -> None:
    assert Rules(Split()).num_players(engine.empty) == 3
    returns = [Rules(Bet()).playout(engine.empty, Random(seed))[0] for seed in range(400)]
    assert set(returns) == {0.4, 1.0, 0.0}
    assert 0.5 < sum(value == 1.0 for value in returns) / sum(value != 0.4 for value in returns) < 0.95


def test_playouts_sum_rewards_discounted(engine: Engine) -> None:
    workspace = engine.empty.fork()
    workspace["at"] = b"5"
    state = workspace.commit().snapshot
    steps = [Rules(Walk()).playout(state, Random(seed), 0.5)[0] for seed in range(50)]
    assert 4.0 in steps  # one step right: -1 and half of 10
    assert all(value <= 4.0 for value in steps)


def test_a_playout_without_end_says_what_to_do(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helios_shm.mcts.environment._PLAYOUT_ACTIONS_MAX", 5)
    with pytest.raises(ValueError, match="give the environment a method rollout"):
        Rules(TicTacToe()).playout(engine.empty, Random(1))


class Recording(TicTacToe):
    """Looks at more of a state than its keys."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def legal_actions(self, state: Snapshot) -> list[int]:
        self.seen.append(state.id)
        assert dict(state.fork()) == dict(state)
        return super().legal_actions(state)


def test_a_passing_state_becomes_a_snapshot_when_that_is_asked_of_it(engine: Engine) -> None:
    env = Recording()
    Rules(env).playout(engine.empty, Random(1))
    assert len(set(env.seen)) == len(env.seen)
    assert dict(engine.snapshot(env.seen[2])).keys() < {str(square) for square in range(9)}


def test_a_passing_state_reads_like_a_snapshot(engine: Engine) -> None:
    workspace = engine.empty.fork()
    workspace["a/1"], workspace["a/2"], workspace["b"] = b"1", b"2", b"3"
    passing: Any = Passing(workspace)
    snapshot = workspace.fork().commit().snapshot
    assert dict(passing) == dict(snapshot)
    assert list(passing) == list(snapshot)
    assert len(passing) == 3 and "b" in passing and "c" not in passing
    assert list(passing.items("a/")) == list(snapshot.items("a/"))
    assert list(passing.keys("a/")) == ["a/1", "a/2"]
    assert list(passing.values("a/")) == [b"1", b"2"]
    assert dict(passing.view("a/")) == dict(snapshot.view("a/"))
    assert passing.get("c") is None
    with pytest.raises(KeyError):
        passing["c"]
    assert passing.id == snapshot.id
    with pytest.raises(AttributeError):
        passing.no_such_thing  # noqa: B018


def test_chance_without_outcomes_is_named() -> None:
    class Odd(TicTacToe):
        def current_player(self, state: Snapshot) -> int:
            return -1

    with helios_shm.open(None) as engine, pytest.raises(TypeError, match="no chance_outcomes"):
        Rules(Odd()).playout(engine.empty, Random(1))
