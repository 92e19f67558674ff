"""What the tests of all adapters do: play at random beside the package itself, here and in another process."""

import multiprocessing
import pickle
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from helios_shm import Snapshot
from helios_shm.mcts import CHANCE
from helios_shm.mcts.environment import Rules

Facts = tuple[Any, ...]


def facts(env: Any, state: Snapshot) -> Facts:
    """All that an environment says of a state."""
    returns = env.returns(state)
    if returns is not None:
        return (list(returns),)
    player = env.current_player(state) if hasattr(env, "current_player") else 0
    if player == CHANCE:
        return None, player, list(env.chance_outcomes(state))
    return None, player, list(env.legal_actions(state))


def do(env: Any, state: Snapshot, action: Any) -> tuple[Snapshot, Any]:
    """The state after an action, and the rewards for it (None: the environment has none)."""
    workspace = state.fork()
    rewards = Rules(env).step(workspace, action)
    return workspace.commit().snapshot, rewards


def play(env: Any, state: Snapshot, actions: Sequence[Any]) -> Snapshot:
    for action in actions:
        state, _ = do(env, state, action)
    return state


def choose(env: Any, state: Snapshot, rng: random.Random) -> Any:
    if facts(env, state)[1] == CHANCE:
        return rng.choice([action for action, chance in env.chance_outcomes(state) if chance > 0])
    return rng.choice(list(env.legal_actions(state)))


def walk(
    env: Any,
    state: Snapshot,
    rng: random.Random,
    check: Callable[[Snapshot, Any, Any], None],
    steps_max: int,
) -> list[Snapshot]:
    """Play at random; ``check(state, action, rewards)`` after each action (None at the root). All states, in order."""
    states = [state]
    check(state, None, None)
    while len(states) <= steps_max and env.returns(state) is None:
        action = choose(env, state, rng)
        state, rewards = do(env, state, action)
        check(state, action, rewards)
        states.append(state)
    return states


def _all_facts(env: Any, states: list[Snapshot]) -> list[Facts]:
    return [facts(env, state) for state in states]


def assert_another_process_agrees(env: Any, states: list[Snapshot]) -> None:
    """A worker that is handed the environment, and the states in any order, says the same of them."""
    shuffled = random.Random(1).sample(states, len(states))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        theirs = pool.submit(_all_facts, pickle.loads(pickle.dumps(env)), shuffled).result()
    assert theirs == _all_facts(env, shuffled)
