"""The adapter of PettingZoo plays the classic games as the package does, and games of more than two players."""

import pickle
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pettingzoo
import pytest
from gymnasium import spaces
from pettingzoo import AECEnv

import helios_shm
from helios_shm import Engine, Snapshot
from helios_shm.mcts.games.pettingzoo import HIDDEN, PettingZoo
from tests.mcts.games import assert_another_process_agrees, do, play, walk
from tests.programs import untraced

LIGHT = ["tictactoe_v3", "connect_four_v3"]
HEAVY = ["chess_v6", "go_v5"]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """One store for all tests: none of them changes more than its own states."""
    with helios_shm.open(None) as engine:
        yield engine


class Countdown(AECEnv[Any, Any, Any]):
    """Three players take one or two from a heap. Who cannot pay out of his own purse is done; the last one wins. No
    action mask; rewards on the way."""

    metadata = {"name": "countdown"}  # noqa: RUF012

    def __init__(self, heap: int = 12) -> None:
        self.start = heap
        self.possible_agents = ["a", "b", "c"]
        self.action_spaces = {agent: spaces.Discrete(2, start=1) for agent in self.possible_agents}

    def action_space(self, agent: Any) -> Any:
        return self.action_spaces[agent]

    def observe(self, agent: Any) -> Any:
        return self.heap

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        self.agents = self.possible_agents[:]
        self.heap = self.start
        self.purses = {"a": 3, "b": 5, "c": 7}
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[Any, dict[str, Any]] = {agent: {} for agent in self.agents}
        self.agent_selection = self.agents[0]

    def step(self, action: Any) -> None:
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards[agent] = 0
        self._clear_rewards()
        self.heap -= action
        self.purses[agent] -= action
        self.rewards[agent] = 0.5 * action
        order = self.agents
        self.agent_selection = order[(order.index(agent) + 1) % len(order)]
        if self.heap <= 0:
            self.rewards[agent] += 10
            self.truncations = dict.fromkeys(self.agents, True)
        elif self.purses[agent] <= 0:
            self.terminations[agent] = True
            self._deads_step_first()
        self._accumulate_rewards()


class Beside:
    """An environment of the package that takes the steps of a walk, and is compared with each state."""

    def __init__(self, env: PettingZoo, real: Any) -> None:
        self.env = env
        self.real = real
        real.reset(seed=1)

    def __call__(self, state: Snapshot, action: Any, rewards: Any) -> None:
        env, real = self.env, self.real
        if action is not None:
            real.step(action)
            assert list(rewards) == [float(real.rewards.get(agent, 0)) for agent in env.agents]
            self.skip_the_dead()
        over = all(real.terminations[agent] or real.truncations[agent] for agent in real.agents)
        assert env.returns(state) == ([0.0] * env.num_players if over else None)
        if not over:
            observation, *_ = real.last()
            if isinstance(observation, dict):
                legal = [action for action, allowed in enumerate(observation["action_mask"]) if allowed]
            else:
                legal = [1, 2]
            assert list(env.legal_actions(state)) == legal
            assert env.agents[env.current_player(state)] == real.agent_selection

    def skip_the_dead(self) -> None:
        real = self.real
        while not all(real.terminations[agent] or real.truncations[agent] for agent in real.agents):
            if not (real.terminations[real.agent_selection] or real.truncations[real.agent_selection]):
                break
            real.step(None)


@pytest.mark.parametrize("name", [*LIGHT, *(pytest.param(name, marks=pytest.mark.slow) for name in HEAVY)])
def test_random_game_goes_as_in_the_package(engine: Engine, name: str) -> None:
    env = PettingZoo(name)
    assert env.num_players == 2
    for seed in range(5 if name in LIGHT else 1):
        real = pettingzoo.make("aec", f"classic/{name}")
        walk(env, env.root(engine, seed=1), random.Random(seed), Beside(env, real), 80)


def test_game_of_three_goes_on_when_one_is_done(engine: Engine) -> None:
    env, seen = PettingZoo(Countdown, heap=14), set()
    assert (env.num_players, env.agents) == (3, ("a", "b", "c"))
    for seed in range(12):
        states = walk(env, env.root(engine), random.Random(seed), Beside(env, Countdown(14)), 80)
        seen |= {state["env/agents"] for state in states}
        totals = env.rollout(states[0], random.Random(seed))
        assert len(totals) == 3
        assert max(totals) >= 10
    assert {b'["a","b","c"]', b'["b","c"]'} <= seen


@pytest.mark.parametrize("name", LIGHT)
def test_states_say_the_same_in_another_process(engine: Engine, name: str) -> None:
    env = PettingZoo(name)
    assert_another_process_agrees(env, walk(env, env.root(engine), random.Random(7), lambda *_: None, 30))


def test_two_move_orders_meet_in_one_snapshot(engine: Engine) -> None:
    for name, one, other in (
        ("tictactoe_v3", [0, 4, 8], [8, 4, 0]),
        ("connect_four_v3", [3, 2, 4, 5], [4, 5, 3, 2]),
    ):
        env = PettingZoo(name)
        root = env.root(engine)
        assert play(env, root, one) == play(env, root, other)
        assert play(env, root, one) != play(env, root, one[:-1])


def test_playout_leaves_the_state_alone_and_ends_in_the_package_s_rewards(engine: Engine) -> None:
    env = PettingZoo("tictactoe_v3")
    state = play(env, env.root(engine), [0, 3, 1, 4])
    before = dict(state)
    values = {tuple(env.rollout(state, random.Random(seed))) for seed in range(30)}
    assert {(1.0, -1.0), (-1.0, 1.0)} <= values <= {(1.0, -1.0), (-1.0, 1.0), (0.0, 0.0)}
    assert dict(state) == before
    won, rewards = do(env, state, 2)
    assert rewards == [1.0, -1.0]
    assert list(env.rollout(won, random.Random(1))) == [0.0, 0.0]
    assert env.encode(state).startswith(b"array |i1 3,3,2\n")
    assert env.unwrapped(state).board.squares == [1, 1, 0, 2, 2, 0, 0, 0, 0]


@pytest.mark.parametrize("name", sorted(HIDDEN))
def test_game_of_hidden_information_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} cannot be searched"):
        PettingZoo(lambda: Masked(name))


class Masked(Countdown):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.metadata = {"name": name}


def test_what_is_no_action_and_no_turn_based_game_is_refused(engine: Engine) -> None:
    env = PettingZoo("tictactoe_v3")
    workspace = play(env, env.root(engine), [4]).fork()
    with pytest.raises(
        ValueError, match=r"4 is no action of tictactoe_v3 in this state; it has \[0, 1, 2, 3, 5"
    ):
        env.step(workspace, 4)
    assert not workspace.edits
    with pytest.raises(TypeError, match="AEC environment is expected"):
        PettingZoo(dict)
    with pytest.raises(pettingzoo.env_registry.exceptions.PettingZooRegistryError, match="no_such_game"):
        PettingZoo("no_such_game")


def test_environment_pickles_small(engine: Engine) -> None:
    env = PettingZoo("connect_four_v3")
    root = env.root(engine)
    env.rollout(root, random.Random(1))
    data = pickle.dumps(env)
    assert len(data) < 2000
    assert do(pickle.loads(data), root, 3) == do(env, root, 3)


def test_missing_package_names_its_extra() -> None:
    program = "import sys; sys.modules['pettingzoo'] = None; import helios_shm.mcts.games.pettingzoo"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=untraced(), timeout=60, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert 'pip install "helios-shm[pettingzoo]"' in done.stderr
