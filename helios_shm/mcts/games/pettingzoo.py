"""The games of PettingZoo in which agents act in turn (AEC), as those of ``pettingzoo.classic``: the attributes of the
unwrapped environment as a state.

    env/board              [0,1,0,...]      one key for each attribute that changes (captured.py)
    env/agent_selection    "player_2"
    env/_np_random         {...}            where chance is declared (stochastic=True)

A step restores the process's own environment from the state, steps it, and writes what has changed. Player i is the
i-th of ``possible_agents``. Rewards are those of the steps (``env.rewards``); the end itself is worth 0. Agents that
are done before the others take their empty steps at once, as the AEC rules have them.

What an environment remembers beside the position, such as the last boards for its observations, is a part of its state:
move orders meet where it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from random import Random
from typing import Any, NamedTuple

from ... import Engine, Snapshot, Workspace
from .recent import Recent

try:
    import pettingzoo
except ImportError as error:
    raise ImportError(
        'helios_shm.mcts.games.pettingzoo needs the package pettingzoo: pip install "helios-shm[pettingzoo]"'
    ) from error

from .captured import RANDOM, Captured, Content, encode_value, find_changing, goes_on_alike

# What environments remember in order to draw it, and what no step looks at.
IGNORED = frozenset(
    {
        *("_ezpickle_args", "_ezpickle_kwargs", "action_spaces", "observation_spaces", "render_mode"),
        *("screen", "screen_height", "screen_width", "screen_scaling", "clock", "metadata"),
    }
)
# Players do not see everything in them: a search over their states would look into hands, or at a choice that the
# other is making at the same time.
HIDDEN = frozenset(
    {
        *("gin_rummy_v4", "hanabi_v5", "leduc_holdem_v4", "rps_v2"),
        *("texas_holdem_v4", "texas_holdem_no_limit_v6"),
    }
)
# What the AEC rules look at; some of it changes at the end of a long game only.
_OF_EVERY_GAME = {
    *("agents", "agent_selection", "_agent_selector", "rewards", "_cumulative_rewards"),
    *("terminations", "truncations", "infos"),
}
_PACKAGES = {"pettingzoo", "chess"}  # of the objects that the classic games are made of
_STATES_KEPT = 512


class _Facts(NamedTuple):
    player: int
    actions: list[int]  # none: it is over


class PettingZoo:
    """The environment of a game. Actions are ints; the legal ones are those of the action mask.

    environment: an id (``classic/tictactoe_v3``, or ``tictactoe_v3``), with the options of ``pettingzoo.make``; or a
        function that makes an AEC environment of these options, and pickles. Wrappers are taken off.
    attributes, stochastic, ignored, packages: as of ``Gymnasium``.
    discount: of a playout.

    Tried out when it is made: a few games, each action taken twice, by the environment and by another one that was put
    into the same state. Raises ValueError if these differ, and for games of hidden information (``HIDDEN``); TypeError
    for what is no AEC environment with discrete actions, and for attributes that no bytes can say.
    """

    def __init__(
        self,
        environment: str | Callable[[], Any],
        *,
        attributes: Iterable[str] | None = None,
        stochastic: bool = False,
        discount: float = 1.0,
        ignored: Collection[str] = (),
        packages: Collection[str] = (),
        **options: Any,
    ) -> None:
        make = partial(_make, environment, options)
        first = make()
        self.name = str(first.metadata.get("name", type(first).__name__))
        if self.name in HIDDEN:
            raise ValueError(f"{self.name} cannot be searched: players do not see everything in it")
        self.agents: tuple[Any, ...] = tuple(first.possible_agents)
        self.num_players = len(self.agents)
        self.discount = discount
        self.stochastic = stochastic
        ignored = IGNORED | set(ignored)
        if attributes is None:
            attributes = find_changing(first, _reset, self._random_step, ignored)
            attributes |= _OF_EVERY_GAME & vars(first).keys()
        names = {*attributes, RANDOM} if stochastic else {*attributes} - {RANDOM}
        self._captured: Captured[Any] = Captured(
            make, names, ignored=ignored, packages=_PACKAGES | set(packages)
        )
        self._recent: Recent[Content, _Facts] = Recent(_STATES_KEPT)
        if not goes_on_alike(self._captured, first, make(), _reset, self._random_step):
            raise ValueError(
                f"two equal states of {self.name} went on differently after the same action; if it draws random "
                "numbers, say so: stochastic=True; if its state is in other attributes than "
                f"{self._captured.names}, name them: attributes=..."
            )

    def root(
        self, engine: Engine, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> Snapshot:
        """The state after ``reset``, which gets these arguments."""
        environment = self._captured.make()
        environment.reset(seed=seed, options=options)
        workspace = engine.empty.fork()
        self._captured.write(workspace, self._captured.capture(environment))
        return workspace.commit().snapshot

    def unwrapped(self, state: Snapshot | Workspace) -> Any:
        """The package's own environment in a state: a new one, the caller's own."""
        environment = self._captured.make()
        self._captured.put_back(environment, self._captured.content(state))
        return environment

    # --- the environment ---

    def legal_actions(self, state: Snapshot) -> Sequence[int]:
        return self._facts(state).actions

    def apply(self, state: Workspace, action: int) -> None:
        self.step(state, action)

    def step(self, state: Workspace, action: int) -> Sequence[float]:
        """Take an action. Returns the rewards, one a player."""
        content = self._captured.content(state)
        facts = self._recent.get(content)
        environment = self._captured.restored(content)
        legal = self._facts_of(environment).actions if facts is None else facts.actions
        if action not in legal:
            raise ValueError(f"{action!r} is no action of {self.name} in this state; it has {legal}")
        rewards = self._step(environment, action)
        content = self._captured.content_of_restored()
        self._captured.write(state, content)
        self._recent.put(content, self._facts_of(environment))
        return rewards

    def returns(self, state: Snapshot) -> Sequence[float] | None:
        return None if self._facts(state).actions else [0.0] * self.num_players

    def current_player(self, state: Snapshot) -> int:
        return self._facts(state).player

    def rollout(self, state: Snapshot, rng: Random) -> Sequence[float]:
        """Random actions until the end: the sums of rewards from here on, discounted."""
        facts = self._facts(state)
        environment = self._captured.restored(self._captured.content(state))
        totals, weight = [0.0] * self.num_players, 1.0
        while facts.actions:
            rewards = self._step(environment, facts.actions[int(rng.random() * len(facts.actions))])
            totals = [total + weight * reward for total, reward in zip(totals, rewards, strict=True)]
            weight *= self.discount
            facts = self._facts_of(environment)
        return totals

    def encode(self, state: Snapshot) -> bytes:
        """What the agent who moves observes; an array as ``captured.encode_value`` writes it."""
        environment = self._captured.restored(self._captured.content(state))
        observation = environment.observe(environment.agent_selection)
        if isinstance(observation, dict) and "observation" in observation:
            observation = observation["observation"]
        return encode_value(observation)

    # --- the package's environment ---

    def _facts(self, state: Snapshot) -> _Facts:
        content = self._captured.content(state)
        facts = self._recent.get(content)
        if facts is None:
            facts = self._recent.put(content, self._facts_of(self._captured.restored(content)))
        return facts

    def _facts_of(self, environment: Any) -> _Facts:
        agent = environment.agent_selection
        player = self.agents.index(agent)
        return _Facts(player, [] if _over(environment) else _legal(environment, agent))

    def _step(self, environment: Any, action: int) -> list[float]:
        environment.step(action)
        rewards = [float(environment.rewards.get(agent, 0.0)) for agent in self.agents]
        while not _over(environment) and _done(environment, environment.agent_selection):
            environment.step(None)
        return rewards

    def _random_step(self, environment: Any, rng: Random) -> tuple[Any, bool]:
        facts = self._facts_of(environment)
        if not facts.actions:
            return None, True
        action = rng.choice(facts.actions)
        return (facts, self._step(environment, action)), _over(environment)


def _make(environment: str | Callable[[], Any], options: dict[str, Any]) -> Any:
    if isinstance(environment, str):
        id = environment if "/" in environment else f"classic/{environment}"
        made: Any = pettingzoo.make("aec", id, **options)
    else:
        made = environment(**options)
    if not isinstance(made, pettingzoo.AECEnv):
        raise TypeError(
            f"an AEC environment is expected, in which agents act in turn; not {type(made).__name__}"
        )
    made = made.unwrapped
    made.reset(seed=0)  # What only a reset sets is there, and is the same in every process.
    return made


def _reset(environment: Any, seed: int) -> None:
    environment.reset(seed=seed)


def _done(environment: Any, agent: Any) -> bool:
    return bool(environment.terminations[agent] or environment.truncations[agent])


def _over(environment: Any) -> bool:
    return all(_done(environment, agent) for agent in environment.agents)


def _legal(environment: Any, agent: Any) -> list[int]:
    """The actions that the mask allows, in the observation or in the info; without a mask, all."""
    observation = environment.observe(agent)
    mask = observation.get("action_mask") if isinstance(observation, dict) else None
    if mask is None:
        mask = environment.infos.get(agent, {}).get("action_mask")
    if mask is not None:
        return [action for action, allowed in enumerate(mask.tolist()) if allowed]
    space = environment.action_space(agent)
    if not hasattr(space, "n"):
        raise TypeError(f"agent {agent} has actions {space}; a search needs discrete ones")
    return [int(space.start) + action for action in range(int(space.n))]
