"""The adapter of Gymnasium steps as the package's environments do, and says so where it could not."""

import pickle
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import helios_shm
from helios_shm import Engine, Snapshot
from helios_shm.mcts.games.captured import decode_value, encode_value
from helios_shm.mcts.games.gymnasium import Gymnasium
from tests.mcts.games import assert_another_process_agrees, do, play, walk
from tests.programs import untraced

TASKS: list[tuple[str, dict[str, Any]]] = [
    ("Taxi-v4", {}),
    ("Taxi-v4", {"is_rainy": True, "fickle_passenger": True, "stochastic": True}),
    ("FrozenLake-v1", {"is_slippery": False}),
    ("FrozenLake-v1", {"stochastic": True}),
    ("CliffWalking-v1", {}),
    ("Blackjack-v1", {"stochastic": True, "natural": True}),
    ("CartPole-v1", {}),
    ("MountainCar-v0", {}),
    ("Acrobot-v1", {}),
]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """One store for all tests: none of them changes more than its own states."""
    with helios_shm.open(None) as engine:
        yield engine


@pytest.fixture(scope="module")
def taxi() -> Gymnasium:
    return Gymnasium("Taxi-v4")


class Corridor(gymnasium.Env[Any, Any]):
    """A walk along cells that remembers where it was, with an end that comes late."""

    def __init__(self, length: int = 5) -> None:
        self.action_space = spaces.MultiDiscrete([2, 2])
        self.observation_space = spaces.Discrete(length)
        self.length = length
        self.visits = np.zeros(length, np.int16)
        self.place = 0
        self.bell = False
        self.trail: list[tuple[int, frozenset[str]]] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.visits = np.zeros(self.length, np.int16)
        self.place, self.bell, self.trail = 0, False, []
        return 0, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        right, loud = action
        self.place = max(0, self.place + (1 if right else -1))
        if self.place < self.length:
            self.visits[self.place] += 1
        else:
            self.bell = True
        self.trail = [*self.trail, (self.place, frozenset(["loud", "right", "far"][: 1 + loud + right]))][-2:]
        return self.place, 1.0 - 0.25 * loud, self.bell, int(self.visits.sum()) > 30, {}


class Noisy(Corridor):
    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        place, _, terminated, truncated, infos = super().step(action)
        return place, float(self.np_random.random()), terminated, truncated, infos


class Wired(Corridor):
    """What it knows is in something that no bytes can say."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        self.world = (number for number in range(100))
        return super().reset(seed=seed)

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        _, *rest = super().step(action)
        return next(self.world), *rest  # type: ignore[return-value]


class Beside:
    """An environment of the package that takes the steps of a walk, and is compared with each state."""

    def __init__(self, env: Gymnasium, real: Any, seed: int) -> None:
        self.env = env
        self.real = real
        self.observation, _ = real.reset(seed=seed)

    def __call__(self, state: Snapshot, action: Any, reward: Any) -> None:
        ended = False
        if action is not None:
            self.observation, expected, terminated, truncated, _ = self.real.step(action)
            ended = terminated or truncated
            assert reward == float(expected)
            assert state.get("over") == (b"terminated" if terminated else b"truncated" if truncated else None)
        assert self.env.returns(state) == ([0.0] if ended else None)
        assert decode_value(self.env.encode(state), ()) == pytest.approx(self.observation)
        assert self.env.current_player(state) == 0


def make(task: str, options: dict[str, Any]) -> Any:
    return gymnasium.make(task, **{name: value for name, value in options.items() if name != "stochastic"})


@pytest.mark.parametrize(("task", "options"), TASKS, ids=lambda value: str(value))
def test_random_episode_goes_as_in_the_package(engine: Engine, task: str, options: dict[str, Any]) -> None:
    real = make(task, options)
    limited = real.spec.max_episode_steps is not None
    env = Gymnasium(task, observations=True, time_limit=limited, **options)
    assert env.num_players == 1
    for seed in range(3):
        root = env.root(engine, seed=seed)
        assert list(env.legal_actions(root)) == list(range(real.action_space.n))
        walk(env, root, random.Random(seed), Beside(env, real, seed), 60)
    real.close()


def test_time_limit_ends_the_episode_as_the_package_s_does(engine: Engine) -> None:
    env, real = (
        Gymnasium("MountainCar-v0", time_limit=True, observations=True),
        gymnasium.make("MountainCar-v0"),
    )
    (*_, last) = walk(env, env.root(engine, seed=1), random.Random(1), Beside(env, real, 1), 300)
    assert (last["over"], last["elapsed_steps"]) == (b"truncated", b"200")
    assert env.rollout(last, random.Random(1)) == 0.0
    short = Gymnasium("MountainCar-v0", time_limit=5)
    assert len(walk(short, short.root(engine), random.Random(1), lambda *_: None, 300)) == 6
    assert short.rollout(short.root(engine), random.Random(1)) == -5.0
    with pytest.raises(ValueError, match="CliffWalking-v1 says no time limit"):
        Gymnasium("CliffWalking-v1", time_limit=True)


@pytest.mark.parametrize(("task", "options"), [TASKS[1], TASKS[2], TASKS[6]], ids=lambda value: str(value))
def test_states_say_the_same_in_another_process(engine: Engine, task: str, options: dict[str, Any]) -> None:
    env = Gymnasium(task, **options)
    assert_another_process_agrees(
        env, walk(env, env.root(engine, seed=1), random.Random(7), lambda *_: None, 30)
    )


def test_taxi_is_one_number_and_ways_meet(engine: Engine, taxi: Gymnasium) -> None:
    root = taxi.root(engine, seed=5)
    assert list(root) == ["env/s"]
    assert int(root["env/s"]) == taxi.unwrapped(root).s
    south, north, pick_up = 0, 1, 4
    there_and_back = play(taxi, root, [south, north])
    assert there_and_back == play(taxi, root, [pick_up, north, south, south, north])
    assert play(taxi, root, [south, pick_up]) == play(taxi, root, [south])


def test_branches_of_one_state_do_not_touch_each_other(engine: Engine) -> None:
    env, rng = Gymnasium(Corridor), random.Random(3)
    states = walk(env, env.root(engine), rng, lambda *_: None, 12)
    before = [dict(state) for state in states]
    again = {}
    for _ in range(60):
        state, action = rng.choice(states[:-1]), rng.choice(list(env.legal_actions(states[0])))
        after = do(env, state, action)
        assert again.setdefault((state, action), after) == after
        env.rollout(state, rng)
    assert [dict(state) for state in states] == before


def test_attributes_are_keys_of_their_own_in_readable_form(engine: Engine) -> None:
    env = Gymnasium(Corridor)
    root = env.root(engine)
    assert dict(root) == {
        "env/bell": b"false",
        "env/place": b"0",
        "env/trail": b"[]",
        "env/visits": b"array <i2 5\n" + bytes(10),
    }
    workspace = root.fork()
    assert env.step(workspace, (1, 0)) == 1.0
    assert set(workspace.edits) == {"env/place", "env/trail", "env/visits"}
    state = workspace.commit().snapshot
    assert state["env/visits"] == b"array <i2 5\n" + np.array([0, 1, 0, 0, 0], "<i2").tobytes()
    assert env.unwrapped(state).trail == [(1, frozenset({"loud", "right"}))]
    assert list(env.legal_actions(root)) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_chance_must_be_declared_and_is_then_a_part_of_the_state(engine: Engine) -> None:
    for task in ("FrozenLake-v1", "Blackjack-v1", Noisy):
        with pytest.raises(ValueError, match="stochastic=True"):
            Gymnasium(task)
    env = Gymnasium(Noisy, stochastic=True)
    root = env.root(engine, seed=1)
    assert b"PCG64" in root["env/_np_random"]
    assert do(env, root, (1, 0)) == do(env, root, (1, 0))
    assert do(env, root, (1, 0)) != do(env, env.root(engine, seed=2), (1, 0))
    assert root == env.root(engine, seed=1)


def test_state_that_is_not_in_the_attributes_is_found_out(engine: Engine) -> None:
    with pytest.raises(TypeError, match="attribute world cannot be written into a state"):
        Gymnasium(Wired)
    with pytest.raises(ValueError, match=r"name them: attributes"):
        Gymnasium(Corridor, attributes=["trail"])
    # Within the trial the bell never rings: the corridor is too long for it. Later it is noticed.
    env = Gymnasium(Corridor, attributes=["place", "trail", "visits"], length=29)
    workspace = env.root(engine).fork()
    for _ in range(29):
        env.step(workspace, (1, 0))
    with pytest.raises(ValueError, match=r"bell .* from False to True.*attributes="):
        env.step(env.root(engine).fork(), (1, 0))


def test_playout_is_the_sum_of_rewards(engine: Engine, taxi: Gymnasium) -> None:
    env = Gymnasium(Corridor, discount=0.5, rollout_steps=3)
    root = env.root(engine)
    quiet_or_loud = [env.rollout(root, random.Random(seed)) for seed in range(20)]
    assert all(0.75 * 1.75 <= value <= 1.75 for value in quiet_or_loud)
    assert len(set(quiet_or_loud)) > 3
    assert quiet_or_loud == [env.rollout(root, random.Random(seed)) for seed in range(20)]
    assert -200 * 10 <= taxi.rollout(taxi.root(engine, seed=1), random.Random(1)) <= 20
    assert taxi.rollout_steps == 200


def test_actions_that_are_none_are_refused(engine: Engine, taxi: Gymnasium) -> None:
    workspace = taxi.root(engine).fork()
    with pytest.raises(ValueError, match="6 is no action of Taxi-v4; it has 0, 1, 2, 3, 4, 5"):
        taxi.step(workspace, 6)
    assert not workspace.edits
    with pytest.raises(TypeError, match=r"Box.* make the actions discrete"):
        Gymnasium("Pendulum-v1")
    with pytest.raises(gymnasium.error.Error):
        Gymnasium("NoSuchTask-v0")


def test_environment_pickles_small(engine: Engine, taxi: Gymnasium) -> None:
    root = taxi.root(engine, seed=1)
    taxi.rollout(root, random.Random(1))
    data = pickle.dumps(taxi)
    assert len(data) < 2000
    copy = pickle.loads(data)
    assert do(copy, root, 0) == do(taxi, root, 0)


# --- values as bytes ---


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 3, -2.5, "text", [1, [2.0]], {"a": {"b": []}}, (1, (2, [3])), {"tuple": 1}, {1: 2}),
        *(
            b"bytes",
            float("inf"),
            1 + 2j,
            {3, 1, 2},
            frozenset({("b", 1), ("a", 2)}),
            [np.float32(0.1)],
            random.Random,
        ),
    ],
)
def test_value_comes_back_as_it_was(value: Any) -> None:
    back = decode_value(encode_value(value), {"numpy", "random"})
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("dtype", ["i1", "<f4", ">u2", "?", "c16", "U3", "M8[s]", "O", "i4,f4"])
def test_array_comes_back_as_it_was(dtype: str) -> None:
    array = np.zeros((2, 0, 3) if dtype == "c16" else (2, 3), dtype)
    back = decode_value(encode_value(array), {"numpy"})
    assert (back.dtype, back.shape, back.tolist()) == (array.dtype, array.shape, array.tolist())
    assert back.flags.writeable


def test_equal_values_have_equal_bytes() -> None:
    text, other = "ab", "".join(["a", "b"])
    assert encode_value([(text, text, b"1")]) == encode_value([(text, other, b"1")])
    assert encode_value({8, 0, 16, b"z"}) == encode_value({16, b"z", 8, 0})
    assert encode_value(np.int64(3)) == encode_value(3)
    assert encode_value(np.arange(6).reshape(2, 3).T) == encode_value(np.array([[0, 3], [1, 4], [2, 5]]))


def test_state_of_a_stranger_calls_nothing() -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return eval, ("1/0",)

    for evil in (Evil(), [Evil()], subprocess.Popen, eval, np.testing.assert_equal):
        data = pickle.dumps(evil) if isinstance(evil, Evil | list) else encode_value(evil)
        with pytest.raises(ValueError, match=r"a state holds a pickle with .*packages="):
            decode_value(data, {"numpy"})


def test_value_that_holds_itself_is_written_too() -> None:
    loop: list[Any] = [b"x"]
    loop.append(loop)
    back = decode_value(encode_value((b"", [loop]))[:], ())
    assert back[1][0][1] is back[1][0]


def test_missing_package_names_its_extra() -> None:
    program = "import sys; sys.modules['gymnasium'] = None; import helios_shm.mcts.games.gymnasium"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=untraced(), timeout=60, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert 'pip install "helios-shm[gymnasium]"' in done.stderr
