"""The tasks of Gymnasium, with discrete actions: the attributes of the unwrapped environment as a state.

    env/s            "328"           one key for each attribute that changes (captured.py)
    env/_np_random   {...}           where chance is declared (stochastic=True)
    over             "terminated"    or "truncated", in a state that is the end
    elapsed_steps    "12"            where the time limit counts
    observation      .npy or JSON    where observations are asked for

A step restores the process's own environment from the state, steps it, and writes what has changed. Rewards are those
of the steps; the end itself is worth 0.

Chance: with ``stochastic=True`` the generator is a part of the state, so that a state and an action have one outcome:
a search then plays against the chance of this one seed, as a search over copies of an environment does. Without it,
the outcome must not depend on the generator.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from itertools import product
from random import Random
from typing import Any

from ... import Engine, Snapshot, Workspace

try:
    import gymnasium
    from gymnasium import spaces
except ImportError as error:
    raise ImportError(
        'helios_shm.mcts.games.gymnasium needs the package gymnasium: pip install "helios-shm[gymnasium]"'
    ) from error

from .captured import RANDOM, Captured, encode_value, find_changing, goes_on_alike

# What environments remember in order to draw it, and what no step looks at.
IGNORED = frozenset(
    {
        *("_np_random_seed", "action_space", "observation_space", "spec", "metadata", "render_mode"),
        *("screen", "clock", "window", "window_surface", "surf", "isopen", "lastaction", "last_u"),
    }
)
_OVER, _ELAPSED, _OBSERVATION = "over", "elapsed_steps", "observation"
_ACTIONS_MAX = 10_000
_ROLLOUT_STEPS = 200


class Gymnasium:
    """The environment of a task of one player. Actions are ints, or tuples where several are taken at once.

    environment: an id (``Taxi-v4``), with the options of ``gymnasium.make``; or a function that makes an environment of
        these options, and pickles. Wrappers are taken off.
    attributes: those that are the state. Default: those that change in a few random episodes.
    stochastic: steps draw from ``np_random``; its state is a part of the state.
    time_limit: end an episode after so many steps, True: after as many as the environment says (``max_episode_steps``).
        The steps are counted in the state, so that equal situations at different times are different states.
    observations: keep the observation in the state, for ``encode``.
    rollout_steps, discount: of a playout.
    ignored, packages: see ``Captured``.

    Tried out when it is made: a few episodes, each step made twice, by the environment and by another one that was put
    into the same state. Raises ValueError if these differ, TypeError for other actions than discrete ones and for
    attributes that no bytes can say, such as those of a physics engine.
    """

    num_players = 1

    def __init__(
        self,
        environment: str | Callable[[], Any],
        *,
        attributes: Iterable[str] | None = None,
        stochastic: bool = False,
        time_limit: bool | int = False,
        observations: bool = False,
        rollout_steps: int | None = None,
        discount: float = 1.0,
        ignored: Collection[str] = (),
        packages: Collection[str] = (),
        **options: Any,
    ) -> None:
        make = partial(_make, environment, options)
        first, limit = _made(environment, options)
        self.name = environment if isinstance(environment, str) else type(first).__name__
        self.stochastic = stochastic
        self.observations = observations
        self.discount = discount
        self._actions = _actions_of(first.action_space)
        self.time_limit = self._limit(time_limit, limit)
        self.rollout_steps = rollout_steps or limit or _ROLLOUT_STEPS
        ignored = IGNORED | set(ignored)
        if attributes is None:
            attributes = find_changing(first, _reset, self._random_step, ignored)
        names = {*attributes, RANDOM} if stochastic else {*attributes} - {RANDOM}
        self._captured: Captured[Any] = Captured(make, names, ignored=ignored, packages=packages)
        if not goes_on_alike(self._captured, first, make(), _reset, self._random_step):
            raise ValueError(self._why_it_differs())

    def root(
        self, engine: Engine, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> Snapshot:
        """The state after ``reset``, which gets these arguments."""
        environment = self._captured.make()
        observation, _ = environment.reset(seed=seed, options=options)
        workspace = engine.empty.fork()
        self._captured.write(workspace, self._captured.capture(environment))
        if self.time_limit is not None:
            workspace[_ELAPSED] = b"0"
        if self.observations:
            workspace[_OBSERVATION] = encode_value(observation)
        return workspace.commit().snapshot

    def unwrapped(self, state: Snapshot | Workspace) -> Any:
        """The package's own environment in a state: a new one, the caller's own."""
        environment = self._captured.make()
        self._captured.put_back(environment, self._captured.content(state))
        return environment

    # --- the environment ---

    def legal_actions(self, state: Snapshot) -> Sequence[Any]:
        return self._actions

    def apply(self, state: Workspace, action: Any) -> None:
        self.step(state, action)

    def step(self, state: Workspace, action: Any) -> float:
        """Take an action. Returns the reward."""
        if action not in self._actions:
            raise ValueError(f"{action!r} is no action of {self.name}; it has {_few(self._actions)}")
        environment = self._captured.restored(self._captured.content(state))
        observation, reward, terminated, truncated, _ = environment.step(action)
        self._captured.write(state, self._captured.content_of_restored())
        if self.time_limit is not None:
            elapsed = int(state[_ELAPSED]) + 1
            state[_ELAPSED] = b"%d" % elapsed
            truncated = truncated or elapsed >= self.time_limit
        if terminated or truncated:
            state[_OVER] = b"terminated" if terminated else b"truncated"
        if self.observations:
            state[_OBSERVATION] = encode_value(observation)
        return float(reward)

    def returns(self, state: Snapshot) -> Sequence[float] | None:
        return [0.0] if _OVER in state else None

    def current_player(self, state: Snapshot) -> int:
        return 0

    def rollout(self, state: Snapshot, rng: Random) -> float:
        """Random actions until the end, or ``rollout_steps``: the sum of rewards from here on, discounted."""
        if _OVER in state:
            return 0.0
        steps = self.rollout_steps
        if self.time_limit is not None:
            steps = min(steps, self.time_limit - int(state[_ELAPSED]))
        environment = self._captured.restored(self._captured.content(state))
        actions, count = self._actions, len(self._actions)
        total, weight = 0.0, 1.0
        for _ in range(steps):
            _, reward, terminated, truncated, _ = environment.step(actions[int(rng.random() * count)])
            total += weight * float(reward)
            weight *= self.discount
            if terminated or truncated:
                break
        return total

    def encode(self, state: Snapshot) -> bytes:
        """The observation where observations are kept, else the attributes of the state, each after its length."""
        if self.observations:
            return state[_OBSERVATION]
        values = [value or b"" for value in self._captured.content(state)]
        return b"".join(len(value).to_bytes(4, "little") + value for value in values)

    # --- trying out ---

    def _limit(self, asked: bool | int, own: int | None) -> int | None:
        if asked is False:
            return None
        limit = own if asked is True else asked
        if limit is None or limit < 1:
            raise ValueError(f"{self.name} says no time limit of its own; give one of 1 step or more")
        return limit

    def _random_step(self, environment: Any, rng: Random) -> tuple[Any, bool]:
        observation, reward, terminated, truncated, _ = environment.step(rng.choice(self._actions))
        return (observation, reward, terminated, truncated), terminated or truncated

    def _why_it_differs(self) -> str:
        text = f"two equal states of {self.name} went on differently after the same action"
        if not self.stochastic:
            text += "; if its steps draw random numbers, say so: stochastic=True"
        return (
            text
            + f"; if its state is in other attributes than {self._captured.names}, name them: attributes=..."
        )


def _reset(environment: Any, seed: int) -> None:
    environment.reset(seed=seed)


def _made(environment: str | Callable[[], Any], options: dict[str, Any]) -> tuple[Any, int | None]:
    """An environment without wrappers, and after how many steps its wrappers would have ended an episode."""
    if isinstance(environment, str):
        made: Any = gymnasium.make(environment, disable_env_checker=True, **options)
    else:
        made = environment(**options)
    made.unwrapped.reset(seed=0)  # What only a reset sets is there, and is the same in every process.
    return made.unwrapped, None if made.spec is None else made.spec.max_episode_steps


def _make(environment: str | Callable[[], Any], options: dict[str, Any]) -> Any:
    return _made(environment, options)[0]


def _actions_of(space: Any) -> list[Any]:
    """All actions of a space. TypeError for one that has no list of them."""
    if isinstance(space, spaces.Discrete):
        return [int(space.start) + action for action in range(int(space.n))]
    counts: list[int] = []
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        counts = [int(count) for count in space.nvec]
        starts = [int(start) for start in space.start]
    elif isinstance(space, spaces.MultiBinary) and len(space.shape) == 1:
        counts = [2] * space.shape[0]
        starts = [0] * len(counts)
    size = 1
    for count in counts:
        size *= count
    if not counts or size > _ACTIONS_MAX:
        raise TypeError(
            f"{space} has no list of at most {_ACTIONS_MAX:,} actions; make the actions discrete first"
        )
    return list(product(*(range(start, start + count) for start, count in zip(starts, counts, strict=True))))


def _few(actions: Sequence[Any]) -> str:
    shown = ", ".join(str(action) for action in actions[:10])
    return f"{shown}, ... ({len(actions):,})" if len(actions) > 10 else shown
