"""The adapter of OpenSpiel says what OpenSpiel says, for every game that it takes, and refuses the others."""

import pickle
import random
import subprocess
import sys
from array import array
from collections.abc import Iterator
from typing import Any

import pyspiel
import pytest

import helios_shm
from helios_shm import Engine, Snapshot
from helios_shm.mcts import CHANCE
from helios_shm.mcts.games.open_spiel import FIELDS, SORTED, OpenSpiel
from tests.mcts.games import assert_another_process_agrees, do, play, walk
from tests.programs import untraced

KINDS = {kind.short_name: kind for kind in pyspiel.registered_games() if kind.default_loadable}
# OpenSpiel warns itself that there is something wrong with quoridor.
GAMES = sorted(
    name
    for name, kind in KINDS.items()
    if kind.dynamics == pyspiel.GameType.Dynamics.SEQUENTIAL
    and kind.information == pyspiel.GameType.Information.PERFECT_INFORMATION
    and kind.chance_mode != pyspiel.GameType.ChanceMode.SAMPLED_STOCHASTIC
    and name != "quoridor"
)
OTHERS = sorted(set(KINDS) - set(GAMES) - {"quoridor"})
# Any free square may be taken at any time.
SQUARES = {"gomoku", "havannah", "hex", "mnk", "y"}
WITH_CHANCE = ["2048", "backgammon", "pig"]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """One store for all tests: none of them changes more than its own states."""
    with helios_shm.open(None) as engine:
        yield engine


class Beside:
    """A state of the package that makes the actions of a walk, and is compared with each state."""

    def __init__(self, env: OpenSpiel) -> None:
        self.env = env
        self.state = env.game.new_initial_state()
        self.rewards = [0.0] * env.num_players

    def __call__(self, state: Snapshot, action: Any, rewards: Any) -> None:
        env, real = self.env, self.state
        if action is not None:
            real.apply_action(action)
        if rewards is not None:
            self.rewards = [a + b for a, b in zip(self.rewards, rewards, strict=True)]
        assert str(env.position(state)) == str(real)
        ended = env.returns(state)
        assert (ended is not None) == real.is_terminal()
        if ended is not None:
            assert [a + b for a, b in zip(self.rewards, ended, strict=True)] == pytest.approx(real.returns())
        elif real.is_chance_node():
            assert env.current_player(state) == CHANCE
            assert list(env.chance_outcomes(state)) == list(real.chance_outcomes())
        else:
            assert env.current_player(state) == real.current_player()
            assert list(env.legal_actions(state)) == list(real.legal_actions())


def test_there_are_many_games() -> None:
    assert len(GAMES) > 35
    assert {"chess", "go", "connect_four", "backgammon", "2048", "othello"} <= set(GAMES)
    assert set(GAMES) >= FIELDS


@pytest.mark.parametrize("name", GAMES)
def test_random_game_goes_as_in_the_package(engine: Engine, name: str) -> None:
    env = OpenSpiel(name)
    assert env.num_players == env.game.num_players()
    walk(env, env.root(engine), random.Random(name), Beside(env), 150)


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_fields_and_histories_tell_the_same_game(engine: Engine, name: str) -> None:
    for seed in range(10):
        for states in ("fields", "history"):
            env = OpenSpiel(name, states=states)  # type: ignore[arg-type]
            walk(env, env.root(engine), random.Random(seed), Beside(env), 100)


@pytest.mark.parametrize("name", ["connect_four", "chess", "2048", "nim", "hex"])
def test_states_say_the_same_in_another_process(engine: Engine, name: str) -> None:
    env = OpenSpiel(name)
    assert_another_process_agrees(env, walk(env, env.root(engine), random.Random(7), lambda *_: None, 90))


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [("connect_four", [3, 2, 4, 5], [4, 5, 3, 2]), ("tic_tac_toe", [0, 4, 8], [8, 4, 0])],
)
def test_two_move_orders_meet_in_one_snapshot(
    engine: Engine, name: str, one: list[int], other: list[int]
) -> None:
    env = OpenSpiel(name)
    root = env.root(engine)
    assert play(env, root, one) == play(env, root, other)
    assert play(env, root, one) != play(env, root, one[:-1])
    histories = OpenSpiel(name, states="history")
    root = histories.root(engine)
    assert play(histories, root, one) != play(histories, root, other)


@pytest.mark.parametrize("name", sorted(SORTED))
def test_exchanged_moves_meet_where_they_make_the_same_position(engine: Engine, name: str) -> None:
    env, rng = OpenSpiel(name), random.Random(name)
    assert env.states == "sorted"
    root, met = env.root(engine), 0
    for _ in range(25):
        state = start = walk(env, root, rng, lambda *_: None, rng.randrange(6))[-1]
        real, other = env.position(start), env.position(start)
        for action in moves_of(real, rng, 4):
            state = do(env, state, action)[0]
        done = real.history()[len(other.history()) :]
        met += len(done) == 4 and exchanged(
            env, start, other, [done[2], done[1], done[0], done[3]], real, state
        )
    assert met > 0


def moves_of(position: Any, rng: random.Random, count: int) -> Iterator[int]:
    """Random actions, which the position takes."""
    for _ in range(count):
        if not position.is_terminal():
            action = rng.choice(position.legal_actions())
            position.apply_action(action)
            yield action


def exchanged(
    env: OpenSpiel, state: Snapshot, real: Any, actions: list[int], goal: Any, expected: Snapshot
) -> bool:
    """Whether these actions lead to the expected state. They must not if the game shows something else."""
    for action in actions:
        if real.is_terminal() or action not in real.legal_actions():
            return False
        real.apply_action(action)
        state = do(env, state, action)[0]
    same = str(real) == str(goal) and real.returns() == goal.returns()
    assert same or state != expected
    # In the others some orders of actions are no game.
    assert not same or state == expected or env.game.get_type().short_name not in SQUARES
    return state == expected


def test_sorted_history_goes_over_several_keys(engine: Engine) -> None:
    env = OpenSpiel("hex")
    states = walk(env, env.root(engine), random.Random(1), Beside(env), 90)
    assert list(states[-1]) == ["history/0", "history/1"]
    assert env.root(engine, env.position(states[-1])) == states[-1]


def test_history_is_shared_by_the_states_that_go_on_from_it(engine: Engine) -> None:
    env = OpenSpiel("2048")
    states = walk(env, env.root(engine), random.Random(1), lambda *_: None, 150)
    last = states[-1]
    assert list(last) == ["history/0", "history/1", "history/2"]
    actions = [int(action) for value in last.values() for action in value.split()]
    assert actions == env.position(last).history()
    assert env.root(engine, env.position(last)) == last
    assert [len(value.split()) for value in last.values()] == [64, 64, 22]
    changed = last.fork()
    env.apply(changed, env.legal_actions(last)[0])
    assert list(changed.edits) == ["history/2"]


@pytest.mark.parametrize("name", ["tic_tac_toe", "connect_four", "nim", *WITH_CHANCE])
def test_playout_is_the_package_s_own(engine: Engine, name: str) -> None:
    env = OpenSpiel(name)
    for state in walk(env, env.root(engine), random.Random(2), lambda *_: None, 4):
        before = facts = str(env.position(state))
        value = env.rollout(state, random.Random(3))
        assert len(value) == env.num_players
        assert env.game.min_utility() <= min(value) <= max(value) <= env.game.max_utility()
        assert value == env.rollout(state, random.Random(3))
        assert facts == before == str(env.position(state))


def test_playouts_from_the_end_give_what_is_left() -> None:
    env = OpenSpiel("tic_tac_toe")
    won = env.game.new_initial_state()
    for action in (0, 3, 1, 4, 2):
        won.apply_action(action)
    assert won.returns() == [1.0, -1.0]
    state = {"state": won.to_json().encode()}
    assert list(env.rollout(state, random.Random(1))) == [1.0, -1.0]  # type: ignore[arg-type]


def test_encoding_is_the_observation_of_who_moves(engine: Engine) -> None:
    env = OpenSpiel("connect_four")
    state = play(env, env.root(engine), [3])
    assert array("f", env.encode(state)).tolist() == env.position(state).observation_tensor(1)


@pytest.mark.parametrize("name", OTHERS)
def test_game_that_is_not_for_it_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} cannot be searched: (players|chance)"):
        OpenSpiel(name)


def test_what_is_no_action_no_state_and_no_choice_is_refused(engine: Engine) -> None:
    env = OpenSpiel("tic_tac_toe")
    workspace = env.root(engine).fork()
    with pytest.raises(ValueError, match="9 is no action of tic_tac_toe"):
        env.apply(workspace, 9)
    assert not workspace.edits
    with pytest.raises(ValueError, match="one of tic_tac_toe"):
        env.root(engine, pyspiel.load_game("connect_four").new_initial_state())
    with pytest.raises(ValueError, match="states='history'"):
        OpenSpiel("othello", states="fields")
    with pytest.raises(ValueError, match="'fields', 'sorted' or 'history'"):
        OpenSpiel("othello", states="json")  # type: ignore[arg-type]
    with pytest.raises(pyspiel.SpielError, match="Unknown game"):
        OpenSpiel("ludo")


def test_parameters_make_the_game_and_survive_a_pickle(engine: Engine) -> None:
    env = OpenSpiel("connect_four", {"rows": 5, "columns": 6})
    assert str(env.game) == "connect_four(columns=6,rows=5)" == str(OpenSpiel(env.game).game)
    walk(env, env.root(engine), random.Random(1), Beside(env), 50)
    copy = pickle.loads(pickle.dumps(env))
    assert str(copy.game) == str(env.game)
    assert list(copy.legal_actions(env.root(engine))) == [0, 1, 2, 3, 4, 5]


def test_missing_package_names_its_extra() -> None:
    program = "import sys; sys.modules['pyspiel'] = None; import helios_shm.mcts.games.open_spiel"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=untraced(), timeout=60, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert 'pip install "helios-shm[open_spiel]"' in done.stderr
