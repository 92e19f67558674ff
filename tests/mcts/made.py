"""Games that nobody plays: drawn from a seed, so that tests have as many as they want, of every shape.

    shape "tree"    a state is the actions that led to it: no two paths meet
          "dag"     a state is its depth and one of ``width`` places: paths meet
          "graph"   a state is one of ``width`` places: paths meet themselves again, and games need not end

Everything about a state follows from the seed and from the state, by a hash: who moves (a player or chance), how many
actions there are and how promising they are, rewards, endings, and what a rollout says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from math import log
from random import Random
from typing import Literal

from helios_shm import Engine, Snapshot, Workspace
from helios_shm.mcts import CHANCE

KEY = "state"


@lru_cache(maxsize=100_000)
def number(*parts: object) -> float:
    """A number in 0 .. 1 that these parts have drawn."""
    digest = blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


@dataclass(frozen=True)
class Made:
    """A made-up game. The methods whose names end in ``_of`` are its rules, on the value of its one key."""

    seed: int
    shape: Literal["tree", "dag", "graph"] = "tree"
    num_players: int = 2
    branching: int = 4
    depth: int = 6
    width: int = 30
    chance: float = 0.0
    ending: float = 0.1  # how many of the states are terminal, beside those at ``depth``
    pays: float = 0.0  # how many of the actions have rewards
    has_priors: bool = False
    noise: float = 0.0  # of rollouts

    # --- the rules ---

    @property
    def start(self) -> bytes:
        return {"tree": b"", "dag": b"0/0", "graph": b"0"}[self.shape]

    def _depth(self, at: bytes) -> int:
        if self.shape == "tree":
            return len(at)
        return int(at.split(b"/")[0]) if self.shape == "dag" else 0

    def next_of(self, at: bytes, action: int) -> bytes:
        if self.shape == "tree":
            return at + b"abcdefghijkl"[action : action + 1]
        place = int(number(self.seed, "next", at, action) * self.width)
        return b"%d/%d" % (self._depth(at) + 1, place) if self.shape == "dag" else b"%d" % place

    def ends(self, at: bytes) -> bool:
        if at == self.start:
            return False
        return self._depth(at) >= self.depth or number(self.seed, "ends", at) < self.ending

    def vector(self, what: str, *about: object) -> list[float]:
        """A number a player; of two players, one has what the other loses."""
        values = [2 * number(self.seed, what, player, *about) - 1 for player in range(self.num_players)]
        return [values[0], -values[0]] if self.num_players == 2 else values

    def player_of(self, at: bytes) -> int:
        if at != self.start and number(self.seed, "chance", at) < self.chance:
            return CHANCE
        return int(number(self.seed, "player", at) * self.num_players)

    def actions_of(self, at: bytes) -> range:
        return range(1 + int(number(self.seed, "actions", at) * self.branching))

    def logits_of(self, at: bytes) -> list[float]:
        return [4 * number(self.seed, "logit", at, action) for action in self.actions_of(at)]

    def outcomes_of(self, at: bytes) -> list[tuple[int, float]]:
        weights = [number(self.seed, "weight", at, action) + 0.05 for action in self.actions_of(at)]
        return [(action, weight / sum(weights)) for action, weight in enumerate(weights)]

    def rewards_of(self, at: bytes, action: int) -> list[float] | None:
        if self.pays == 0:
            return None
        if number(self.seed, "pays", at, action) >= self.pays:
            return [0.0] * self.num_players
        return self.vector("reward", at, action)

    def value_of(self, at: bytes) -> list[float]:
        return self.vector("value", at)

    def rollout_of(self, at: bytes, rng: Random) -> list[float]:
        """The value of a state, less or more what chance adds."""
        values = self.value_of(at)
        if self.noise == 0:
            return values
        more = rng.uniform(-self.noise, self.noise)
        signs = [1, -1] if self.num_players == 2 else [1] * self.num_players
        return [value + sign * more for value, sign in zip(values, signs, strict=True)]

    def priors_of(self, at: bytes) -> list[float] | None:
        """The logits that a search gives a row."""
        if self.player_of(at) == CHANCE:
            return [log(probability) for _, probability in self.outcomes_of(at)]
        return self.logits_of(at) if self.has_priors else None

    # --- the environment ---

    def root(self, engine: Engine) -> Snapshot:
        workspace = engine.empty.fork()
        workspace[KEY] = self.start
        workspace["rules"] = repr(self).encode()
        return workspace.commit().snapshot

    def legal_actions(self, state: Snapshot) -> Sequence[int]:
        return self.actions_of(state[KEY])

    def apply(self, state: Workspace, action: int) -> None:
        state[KEY] = self.next_of(state[KEY], action)

    @property
    def step(self) -> Callable[[Workspace, int], Sequence[float]] | None:
        return self._step if self.pays else None

    def _step(self, state: Workspace, action: int) -> Sequence[float]:
        rewards = self.rewards_of(state[KEY], action)
        assert rewards is not None
        self.apply(state, action)
        return rewards

    def returns(self, state: Snapshot) -> Sequence[float] | None:
        at = state[KEY]
        return self.vector("returns", at) if self.ends(at) else None

    def current_player(self, state: Snapshot) -> int:
        return self.player_of(state[KEY])

    def chance_outcomes(self, state: Snapshot) -> Sequence[tuple[int, float]]:
        return self.outcomes_of(state[KEY])

    @property
    def prior_logits(self) -> Callable[[Snapshot, Sequence[int]], Sequence[float]] | None:
        return self._priors if self.has_priors else None

    def _priors(self, state: Snapshot, actions: Sequence[int]) -> Sequence[float]:
        return self.logits_of(state[KEY])

    def rollout(self, state: Snapshot, rng: Random) -> Sequence[float]:
        return self.rollout_of(state[KEY], rng)
