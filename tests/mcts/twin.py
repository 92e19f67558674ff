"""Monte Carlo tree search in plain Python on a made-up game: what ``Search`` must do, in one process, to the number.

Written from the papers and from what the package says of itself, with dicts and lists; slow, and short enough to be
believed. Ties are broken by the same generator in the same order, so that visits must be equal, not alike.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, exp, inf, log, sqrt
from random import Random
from typing import Literal

from helios_shm.mcts import CHANCE
from tests.mcts.made import Made

_MASK = 2**64 - 1


def single(value: float) -> float:
    """As a 32-bit float has it."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


class SplitMix:
    """Steele, Lea & Flood 2014."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def draw(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & _MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)


@dataclass(frozen=True)
class Formula:
    """The options of a search by which it chooses."""

    selection: Literal["uct", "puct"] = "uct"
    c: float = sqrt(2)
    discount: float = 1.0
    in_flight: Literal["wu-uct", "virtual-loss"] = "wu-uct"
    virtual_loss: float = 1.0
    widening: tuple[float, float] | None = None
    fpu: float | None = None
    normalize: bool = False
    depth_max: int = 1000


@dataclass
class Edge:
    prior: float
    visits: int = 0
    in_flight: int = 0
    value_sum: float = 0.0
    child: bytes | None = None
    rewards: Sequence[float] | None = None


@dataclass
class State:
    player: int
    edges: list[Edge]
    returns: Sequence[float] | None = None
    own_visits: int = 0
    own_sum: float = 0.0

    @property
    def index(self) -> int:
        """Whose values are counted here."""
        return max(0, self.player)


@dataclass
class Walk:
    """A simulation: the edges that it went through, and the state that it came to."""

    path: list[tuple[bytes, int]] = field(default_factory=list)
    end: bytes = b""


class Twin:
    """A search of ``game`` from its start. Calls have the names and the meaning of ``Search``'s."""

    def __init__(self, game: Made, formula: Formula, seed: int) -> None:
        self.game, self.formula, self.root = game, formula, game.start
        self.rng = SplitMix(Random(f"{seed}:table:0").getrandbits(64))
        self.rollouts = Random(f"{seed}:rollouts:0")
        self.states: dict[bytes, State] = {}
        self.q_least, self.q_greatest = inf, -inf
        self._entered(self.root)

    # --- what is known ---

    def _entered(self, at: bytes) -> State:
        game = self.game
        if game.ends(at):
            made = State(0, [], game.vector("returns", at))
        else:
            made = State(game.player_of(at), [Edge(prior) for prior in self._priors(at)])
        self.states[at] = made
        return made

    def _priors(self, at: bytes) -> list[float]:
        logits, count = self.game.priors_of(at), len(self.game.actions_of(at))
        return [single(1 / count)] * count if logits is None else softmax(logits)

    # --- select ---

    def _chosen(self, state: State) -> int:
        if state.player == CHANCE:
            return self._outcome(state)
        scores = self._scores(state)
        best, chosen, ties = -inf, 0, 0
        for action, score in enumerate(scores):
            if score < best:
                continue
            ties = 1 if score > best else ties + 1
            best = score
            if ties == 1 or self.rng.draw() % ties == 0:
                chosen = action
        return chosen

    def _outcome(self, state: State) -> int:
        rest, possible = (self.rng.draw() >> 11) / 2**53, 0
        for action, edge in enumerate(state.edges):
            if edge.prior > 0:
                possible = action
            if rest < edge.prior:
                return action
            rest -= edge.prior
        return possible

    def _scores(self, state: State) -> list[float]:
        """Of those actions that are looked at."""
        by = self.formula
        visits = state.own_visits + sum(edge.visits for edge in state.edges)
        total = visits + sum(edge.in_flight for edge in state.edges)
        value = state.own_sum
        for edge in state.edges:
            value += edge.value_sum
        mean = value / visits if visits else 0.0
        unknown = mean if by.fpu is None else by.fpu
        wide = len(state.edges)
        if by.widening is not None:
            c, alpha = by.widening
            wide = min(wide, max(1, ceil(c * max(total, 1) ** alpha)))
        return [self._score(edge, max(total, 1), unknown) for edge in state.edges[:wide]]

    def _score(self, edge: Edge, total: int, unknown: float) -> float:
        by, n = self.formula, edge.visits + edge.in_flight
        if by.in_flight == "virtual-loss" and n:
            q = (edge.value_sum - by.virtual_loss * edge.in_flight) / n
        else:
            q = edge.value_sum / edge.visits if edge.visits else unknown
        if by.normalize and self.q_greatest > self.q_least:
            q = (q - self.q_least) / (self.q_greatest - self.q_least)
        if by.selection == "uct":
            return q + by.c * sqrt(log(total) / n) if n else inf
        return q + by.c * sqrt(total) * edge.prior / (1 + n)

    # --- a simulation ---

    def _walk(self, until: int | None = None) -> Walk | None:
        """Down from the root, expanding. None: it ended where the returns are known, and is backed up."""
        walk, at = Walk(), self.root
        while True:
            walk.end, state = at, self.states[at]
            if state.returns is not None:
                self._backup(walk, state.returns)
                return None
            seen = any(at == before for before, _ in walk.path)
            if seen or len(walk.path) == self.formula.depth_max or len(walk.path) == until:
                return walk
            action = self._chosen(state)
            edge = state.edges[action]
            edge.in_flight += 1
            walk.path.append((at, action))
            if edge.child is None:
                edge.child = self.game.next_of(at, action)
                edge.rewards = self.game.rewards_of(at, action)
                if edge.child not in self.states:
                    new = self._entered(edge.child)
                    if new.returns is None:
                        walk.end = edge.child
                        return walk
            at = edge.child

    def _backup(self, walk: Walk, values: Sequence[float], count: int = 1) -> None:
        end, worth = self.states[walk.end], list(values)
        end.own_visits += count
        end.own_sum += count * worth[end.index]
        for at, action in reversed(walk.path):
            state = self.states[at]
            edge = state.edges[action]
            rewards = edge.rewards or [0.0] * len(worth)
            worth = [r + self.formula.discount * g for r, g in zip(rewards, worth, strict=True)]
            edge.in_flight -= 1
            edge.visits += count
            edge.value_sum += count * worth[state.index]
            mean = edge.value_sum / edge.visits
            self.q_least, self.q_greatest = min(self.q_least, mean), max(self.q_greatest, mean)

    def _value(self, at: bytes) -> Sequence[float]:
        """What a rollout says."""
        return self.game.rollout_of(at, self.rollouts)

    # --- as Search has it ---

    def run(self, num_simulations: int) -> None:
        for _ in range(num_simulations):
            walk = self._walk()
            if walk is not None:
                self._backup(walk, self._value(walk.end))

    def run_leaf(self, num_simulations: int, workers: int) -> None:
        """Leaf parallelism: each walk ends in so many rollouts, which count as so many simulations."""
        done = 0
        while done < num_simulations:
            walk = self._walk()
            count = min(workers, num_simulations - done)
            if walk is None:
                done += 1
                continue
            rollouts = [self._value(walk.end) for _ in range(count)]
            self._backup(walk, [sum(each) / count for each in zip(*rollouts, strict=True)], count)
            done += count

    def run_beside(self, num_simulations: int, others: int) -> None:
        """So many walks are always under way beside the one that goes down; which of all comes back first is drawn."""
        done, waiting = 0, list[Walk]()
        while done + len(waiting) < num_simulations or waiting:
            if len(waiting) <= others and done + len(waiting) < num_simulations:
                walk = self._walk()
                if walk is None:
                    done += 1
                else:
                    waiting.append(walk)
                continue
            walk = waiting.pop(self.rollouts.randrange(len(waiting)))
            self._backup(walk, self._value(walk.end))
            done += 1

    def ask(self, waiting: Sequence[Walk]) -> Walk | None:
        """``waiting``: what was asked and not told."""
        asked = any(not walk.path for walk in waiting)
        for _ in range(1000):
            first = self.states[self.root].own_visits == 0 and not asked
            walk = self._walk(0 if first else None)
            if walk is not None:
                return walk
        return None

    def tell(self, walk: Walk, values: Sequence[float], logits: Sequence[float] | None = None) -> None:
        if logits is not None:
            for edge, prior in zip(self.states[walk.end].edges, softmax(logits), strict=True):
                edge.prior = prior
        self._backup(walk, values)

    def advance(self, action: int) -> None:
        """What is not below the new root, nor on the way of a trial, is forgotten by ``keep``."""
        edge = self.states[self.root].edges[action]
        if edge.child is None:
            edge.child = self.game.next_of(self.root, action)
            if edge.child not in self.states:
                self._entered(edge.child)
        self.root = edge.child

    def visits(self) -> list[int]:
        """Of the root's actions."""
        return [edge.visits for edge in self.states[self.root].edges]


def softmax(logits: Sequence[float]) -> list[float]:
    """Probabilities as the table has them: both sides are 32-bit floats."""
    given = [single(logit) for logit in logits]
    weights = [exp(logit - max(given)) for logit in given]
    total = 0.0
    for weight in weights:
        total += weight
    return [single(weight / total) for weight in weights]
