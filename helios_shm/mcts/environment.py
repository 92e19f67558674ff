"""What a search needs to know of a game, a puzzle or a task: the environment.

    legal_actions(state)       what can be done there
    apply(state, action)       do it, in a workspace
    returns(state)             None, or how it has ended: one number a player

These three make an environment. What else a search can use has a default, and is a method or attribute that an
environment may have, by the names in ``Rules``. A state is a ``Snapshot``; all that tells it from others must stand
in its keys, since equal states are one state to a search, whichever moves led there. All methods are pure: the same
state, the same answer, in every process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any, Generic, Protocol, TypeVar

from .. import CommitMetrics, Snapshot, Workspace

A = TypeVar("A")

# ``current_player`` of a state in which chance moves: its actions are drawn by ``chance_outcomes``.
CHANCE = -1
_PLAYOUT_ACTIONS_MAX = 100_000


class Environment(Protocol[A]):
    """Three methods make an environment; the rest has defaults (see ``Rules``).

    Actions are hashable, and of any type that pickles.
    """

    def legal_actions(self, state: Snapshot) -> Sequence[A]:
        """What can be done in a state that has not ended: one action at least, always in the same order. With
        progressive widening, the most promising first."""
        ...

    def apply(self, state: Workspace, action: A) -> None:
        """Do it: change the keys that change."""
        ...

    def returns(self, state: Snapshot) -> Sequence[float] | None:
        """None, or if the state is terminal, what each player gets in it."""
        ...


class Rules(Generic[A]):
    """An environment with all that it leaves out.

    What an environment may have beside its three methods:

    ``num_players``                     how many numbers returns and values have. Default: as many as ``returns`` gives
                                        at the end of a random playout.
    ``current_player(state)``           who moves, 0 .. num_players - 1, or CHANCE. Default: each in turn, the first at
                                        the search's first root.
    ``step(workspace, action)``         like ``apply``, and returns the rewards for it: one number a player, or one
                                        number if there is one player. Called in the place of ``apply``. Default: 0.
    ``chance_outcomes(state)``          in a state where CHANCE moves: (action, probability) of each outcome.
    ``prior_logits(state, actions)``    how promising each action is, before a softmax. Default: all alike.
    ``rollout(state, rng)``             an estimate of what each player gets from here on. Default: a random playout.
    ``encode(state)``                   the bytes that an evaluator is given of a state.
    ``commit_reward(metrics)``          a reward more for the step whose commit had these CommitMetrics. Default: 0.
    ``action_name(action)``             how people write it. Default: ``str``.
    """

    def __init__(self, env: Environment[A]) -> None:
        for name in ("legal_actions", "apply", "returns"):
            if not callable(getattr(env, name, None)):
                raise TypeError(f"an environment has a method {name}; {type(env).__name__} has none")
        self.env = env
        self.legal_actions = env.legal_actions
        self.returns = env.returns
        self.current_player: Callable[[Snapshot], int] | None = getattr(env, "current_player", None)
        self.chance_outcomes: Callable[[Snapshot], Sequence[tuple[A, float]]] | None = getattr(
            env, "chance_outcomes", None
        )
        self.prior_logits: Callable[[Snapshot, Sequence[A]], Sequence[float]] | None = getattr(
            env, "prior_logits", None
        )
        self.encode: Callable[[Snapshot], bytes] | None = getattr(env, "encode", None)
        self.commit_reward: Callable[[CommitMetrics], float | Sequence[float]] | None = getattr(
            env, "commit_reward", None
        )
        self.action_name: Callable[[A], str] = getattr(env, "action_name", str)
        self._step: Callable[[Workspace, A], float | Sequence[float]] | None = getattr(env, "step", None)
        self._rollout: Callable[[Snapshot, Random], float | Sequence[float]] | None = getattr(
            env, "rollout", None
        )
        self._num_players: int | None = getattr(env, "num_players", None)

    def num_players(self, root: Snapshot) -> int:
        """How many players there are, found out from a root if need be."""
        if self._num_players is None:
            self._num_players = len(self.playout(root, Random(0)))
        return self._num_players

    def step(self, workspace: Workspace, action: A) -> float | Sequence[float] | None:
        """Apply an action. Returns the rewards; None if this environment has none."""
        if self._step is not None:
            return self._step(workspace, action)
        self.env.apply(workspace, action)
        return None

    def actions(self, state: Snapshot, player: int) -> Sequence[A]:
        """The actions of a state that has not ended, of a player or of chance."""
        if player == CHANCE:
            return [action for action, _ in self._outcomes(state)]
        actions = self.legal_actions(state)
        if len(actions) == 0:
            raise ValueError(
                f"state {state.id[:12]} has no legal action, and returns() says that it has not ended"
            )
        return actions

    def _outcomes(self, state: Snapshot) -> Sequence[tuple[A, float]]:
        if self.chance_outcomes is None:
            raise TypeError(
                f"in state {state.id[:12]} chance moves, and the environment has no chance_outcomes"
            )
        return self.chance_outcomes(state)

    def priors(self, state: Snapshot, player: int, actions: Sequence[A]) -> Sequence[float] | None:
        """Logits of actions, the logarithms of probabilities where chance moves; None: all alike."""
        if player == CHANCE:
            return [_log(probability) for _, probability in self._outcomes(state)]
        return None if self.prior_logits is None else self.prior_logits(state, actions)

    def rollout(self, state: Snapshot, rng: Random, discount: float = 1.0) -> float | Sequence[float]:
        """What each player gets from here on, as the environment estimates it, or by a random playout."""
        return self.playout(state, rng, discount) if self._rollout is None else self._rollout(state, rng)

    def playout(self, state: Snapshot, rng: Random, discount: float = 1.0) -> list[float]:
        """What each player gets if actions are drawn at random until the end. The states between are committed only
        if the environment looks at more of them than their keys."""
        ended = self.returns(state)
        totals: list[float] = [] if ended is None else [float(value) for value in ended]
        weight, passing = 1.0, Passing(state.fork())
        for _ in range(_PLAYOUT_ACTIONS_MAX):
            if ended is not None:
                return totals
            view: Any = passing
            action = self._draw(view, rng)
            rewards = self.step(passing.workspace, action)
            passing = Passing(passing.workspace)
            if rewards is not None:
                totals = added(totals, rewards, weight)
            weight *= discount
            view = passing
            ended = self.returns(view)
            if ended is not None:
                totals = added(totals, ended, weight)
        raise ValueError(
            f"a random playout from state {state.id[:12]} has not ended after {_PLAYOUT_ACTIONS_MAX:,} actions; "
            "give the environment a method rollout (and num_players)"
        )

    def _draw(self, state: Snapshot, rng: Random) -> A:
        if self.current_player is not None and self.current_player(state) == CHANCE:
            outcomes = self._outcomes(state)
            return rng.choices([action for action, _ in outcomes], [weight for _, weight in outcomes])[0]
        actions = self.actions(state, 0)
        return actions[rng.randrange(len(actions))]


class Passing(Mapping[str, bytes]):
    """A state on the way of a playout: reads like a Snapshot, is a Workspace, and becomes a Snapshot, by a commit
    that nobody sees, only when something is asked that a workspace does not know (``id``, ``fork``, ``diff``...)."""

    __slots__ = ("_snapshot", "workspace")

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._snapshot: Snapshot | None = None

    def __getitem__(self, path: str) -> bytes:
        return self.workspace[path]

    def __contains__(self, path: object) -> bool:
        return path in self.workspace

    def __iter__(self) -> Iterator[str]:
        return iter(self.workspace)

    def __len__(self) -> int:
        return len(self.workspace)

    # With a prefix and bounds, as those of Snapshot.
    def keys(self, *args: Any, **options: Any) -> Any:
        return self.workspace.keys(*args, **options)

    def items(self, *args: Any, **options: Any) -> Any:
        return self.workspace.items(*args, **options)

    def values(self, *args: Any, **options: Any) -> Any:
        return self.workspace.values(*args, **options)

    def view(self, *args: Any, **options: Any) -> Any:
        return self.workspace.view(*args, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self._snapshot is None:
            self._snapshot = self.workspace.commit().snapshot
        return getattr(self._snapshot, name)


def added(totals: list[float], more: float | Sequence[float], weight: float) -> list[float]:
    """Totals of the players and a weighted part more."""
    values = [more] if isinstance(more, int | float) else more
    if not totals:
        return [weight * float(value) for value in values]
    return [total + weight * float(value) for total, value in zip(totals, values, strict=True)]


def _log(probability: float) -> float:
    from math import inf, log

    return log(probability) if probability > 0 else -inf
