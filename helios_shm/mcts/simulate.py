"""One process's part of a search: simulations, one after the other, on a table that others may work on as well.

    select    C walks down from the root to an action that nobody has taken yet (hs_search_select.c)
    expand    fork the row's state, apply the action, commit: the child's id is its key in the table
    simulate  what the child is worth: a rollout, in this process's own memory
    backup    C adds that to every edge of the path (hs_search_backup.c)

A child that the table has already, because another process or another order of moves led there, is no leaf: the walk
goes on from it. The store is used at expansion alone.
"""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from time import perf_counter_ns
from typing import Generic, NamedTuple, TypeVar

from .. import Engine, Snapshot
from .environment import CHANCE, Rules
from .metrics import Tally
from .table import CHANCE_ROW, CHOICE_ROW, TERMINAL_ROW, Descent, Table

A = TypeVar("A")

_NODES_MAX = 20_000  # whose actions are kept; of the others the states alone


class Node(NamedTuple, Generic[A]):
    """What a process knows of a row: its state, who moves, and what can be done there."""

    state: Snapshot
    player: int
    actions: Sequence[A]


@dataclass(frozen=True, slots=True)
class Leaf(Generic[A]):
    """What a walk came to, and what has to be evaluated: ``row`` is the row of ``state``; ``fresh``: it is new."""

    row: int
    state: Snapshot
    player: int
    action: A | None
    fresh: bool


class Simulator(Generic[A]):
    """Simulations of one process on one table."""

    def __init__(
        self,
        engine: Engine,
        rules: Rules[A],
        table: Table,
        tally: Tally,
        *,
        owner: int,
        num_players: int,
        discount: float,
        rng: Random,
    ) -> None:
        self.engine, self.rules, self.table, self.tally = engine, rules, table, tally
        self.owner, self.num_players, self.discount, self.rng = owner, num_players, discount, rng
        self.nodes: OrderedDict[bytes, Node[A]] = OrderedDict()
        # States are collected when nobody holds them.
        self.held: dict[bytes, Snapshot] = {}
        self._descent = table.descent()

    # --- rows ---

    def add_root(self, root: Snapshot) -> int:
        """The row of a state that no action of this search leads to."""
        ended = self.rules.returns(root)
        return self._insert(id_of(root), root, self._mover(root, ended, 0), ended)[0]

    def node(self, number: int, id: bytes) -> Node[A]:
        """What is known of a row."""
        found = self.nodes.get(id)
        if found is not None:
            self.nodes.move_to_end(id)
            return found
        row = self.table.row(number)
        assert row is not None, "a row that was walked to is there"
        state = self.state(id)
        node = self._remember(id, state, row.player, self.rules.actions(state, row.player))
        if len(node.actions) != row.num_actions:
            raise ValueError(
                f"legal_actions of state {state.id[:12]} gave {row.num_actions} actions before, and "
                f"{len(node.actions)} now: the same state must give the same actions, in the same order"
            )
        return node

    def state(self, id: bytes) -> Snapshot:
        """The state of a row."""
        state = self.held.get(id)  # an empty Snapshot is false
        return self.engine.snapshot(id.hex()) if state is None else state

    def actions(self, id: bytes, player: int) -> Sequence[A]:
        """The actions of a state of which the table may know nothing."""
        known = self.nodes.get(id)
        return self.rules.actions(self.state(id), player) if known is None else known.actions

    def _remember(self, id: bytes, state: Snapshot, player: int, actions: Sequence[A]) -> Node[A]:
        node = self.nodes[id] = Node(state, player, actions)
        self.held[id] = state
        if len(self.nodes) > _NODES_MAX:
            self.nodes.popitem(last=False)
        return node

    def forget(self) -> None:
        """Let go of the states that the table no longer has."""
        for id in [id for id in self.held if self.table.find(id) is None]:
            del self.held[id]
            self.nodes.pop(id, None)

    def _insert(
        self, id: bytes, state: Snapshot, player: int, returns: Sequence[float] | None
    ) -> tuple[int, bool]:
        """Enter a state in the table, unless somebody has. Returns its row, and whether it is new."""
        if returns is not None:
            self.held[id] = state
            return self.table.insert(
                id, self.owner, TERMINAL_ROW, player, 0, None, self.vector(returns, "returns", state)
            )
        node = self._remember(id, state, player, self.rules.actions(state, player))
        logits = self.rules.priors(state, player, node.actions)
        if logits is not None and len(logits) != len(node.actions):
            raise ValueError(
                f"prior_logits of state {state.id[:12]}: {len(logits)} numbers for {len(node.actions)} actions"
            )
        kind = CHANCE_ROW if player == CHANCE else CHOICE_ROW
        return self.table.insert(id, self.owner, kind, player, len(node.actions), logits, None)

    def _mover(self, state: Snapshot, ended: Sequence[float] | None, in_turn: int) -> int:
        """Who moves in a state; ``in_turn``, if the environment does not say."""
        if ended is not None:
            return 0
        if self.rules.current_player is None:
            return in_turn
        player = self.rules.current_player(state)
        if player != CHANCE and not 0 <= player < self.num_players:
            raise ValueError(
                f"current_player of state {state.id[:12]} is {player}; there are {self.num_players} players"
            )
        return player

    def vector(self, values: float | Sequence[float], what: str, state: Snapshot) -> Sequence[float]:
        vector = [float(values)] if isinstance(values, int | float) else [float(value) for value in values]
        if len(vector) != self.num_players:
            raise ValueError(
                f"{what} of state {state.id[:12]}: {len(vector)} numbers; there are {self.num_players} players"
            )
        if not all(-1e300 < value < 1e300 for value in vector):
            raise ValueError(f"{what} of state {state.id[:12]}: {vector} are not finite")
        return vector

    # --- what is said of a state by an evaluator, or from outside ---

    def encoded(self, state: Snapshot) -> bytes:
        """What an evaluator is given of a state."""
        assert self.rules.encode is not None, "a search with an evaluator has an environment that encodes"
        encoded = self.rules.encode(state)
        if not isinstance(encoded, bytes):
            raise TypeError(f"encode of state {state.id[:12]} returns bytes, not {type(encoded).__name__}")
        return encoded

    def told(self, value: float | Sequence[float], leaf: Leaf[A], what: str) -> Sequence[float]:
        """A value as one number for each player. One number is that of the player who moves there; of two players, the
        other has its negative."""
        if isinstance(value, int | float):
            if self.num_players == 1:
                value = [value]
            elif self.num_players == 2 and leaf.player != CHANCE:
                value = [value, -value] if leaf.player == 0 else [-value, value]
            else:
                raise ValueError(
                    f"{what} of state {leaf.state.id[:12]}: one number says nothing of {self.num_players} players: "
                    "give one for each"
                )
        return self.vector(value, what, leaf.state)

    def set_priors(self, leaf: Leaf[A], logits: Sequence[float]) -> None:
        """Give a leaf's actions their priors."""
        row = self.table.row(leaf.row)
        assert row is not None, "a leaf's row stays"
        if len(logits) != row.num_actions or not all(value < math.inf for value in logits):
            raise ValueError(
                f"prior_logits of state {leaf.state.id[:12]}: {row.num_actions} finite numbers are wanted, "
                f"not {list(logits)!r}"
            )
        self.table.set_priors(leaf.row, logits)

    # --- a simulation ---

    def simulate(self, lane: int, root: int) -> bool:
        """One simulation, or some if they end where the returns are known. False: no ticket was left, or somebody said
        stop."""
        descent, began = self._descent, perf_counter_ns()
        try:
            self.table.begin(lane, self.owner, root, descent)
            leaf = self.leaf(lane, descent)
            if leaf is not None:
                self.table.backup(lane, self.evaluate(leaf.state))
        except BaseException:
            self.table.abandon(lane)
            raise
        finally:
            self.tally.total_ns += perf_counter_ns() - began
        return not descent.none

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """What happens within belongs to the search."""
        began = perf_counter_ns()
        try:
            yield
        finally:
            self.tally.total_ns += perf_counter_ns() - began

    def child(self, number: int, id: bytes, action: A) -> tuple[int, Snapshot]:
        """The row and the state that an action of a row leads to, made if need be. ValueError: no such action."""
        node = self.node(number, id)
        try:
            index = list(node.actions).index(action)
        except ValueError:
            raise ValueError(f"{action!r} is not legal in state {node.state.id[:12]}") from None
        row = self.table.edges(number)[index].child
        if row is not None:
            info = self.table.row(row)
            assert info is not None, "a child that an edge names is there"
            return row, self.state(info.id)
        state, _ = self._expanded(node, action)
        child = id_of(state)
        known = self.table.find(child)
        return (self._entered(node, action, child, state).row if known is None else known), state

    def evaluate(self, state: Snapshot) -> Sequence[float]:
        """What a state is worth to each player, by a rollout."""
        began = perf_counter_ns()
        values = self.rules.rollout(state, self.rng, self.discount)
        self.tally.evaluations += 1
        self.tally.evaluate_ns += perf_counter_ns() - began
        return self.vector(values, "the rollout", state)

    def leaf(self, lane: int, descent: Descent) -> Leaf[A] | None:
        """Expand what a descent has come to, and go on while it is known. None: nothing is left to evaluate."""
        while descent.expand:
            node = self.node(descent.row, descent.id)
            action = node.actions[descent.action]
            state, rewards = self._expanded(node, action)
            id = id_of(state)
            row = self.table.find(id)
            if row is None:
                leaf = self._entered(node, action, id, state)
                if self.table.link(lane, leaf.row, rewards) and leaf.fresh:
                    return leaf
            else:
                self.tally.transpositions += 1
                self.table.link(lane, row, rewards)
            self.table.resume(lane, descent)
        if not descent.evaluate:
            return None
        node = self.node(descent.row, descent.id)
        return Leaf(descent.row, node.state, node.player, None, False)

    def _entered(self, node: Node[A], action: A, id: bytes, state: Snapshot) -> Leaf[A]:
        """Enter the state that an action led to; ``fresh``: it has to be evaluated."""
        ended = self.rules.returns(state)
        player = self._mover(state, ended, (node.player + 1) % self.num_players)
        row, new = self._insert(id, state, player, ended)
        return Leaf(row, state, player, action, new and ended is None)

    def _expanded(self, node: Node[A], action: A) -> tuple[Snapshot, Sequence[float] | None]:
        """The state that an action leads to, committed, and the rewards for it."""
        tally = self.tally
        began = perf_counter_ns()
        workspace = node.state.fork()
        forked = perf_counter_ns()
        rewards = self.rules.step(workspace, action)
        applied = perf_counter_ns()
        commit = workspace.commit()
        state, metrics = commit.snapshot, commit.metrics
        ended = perf_counter_ns()
        tally.expansions += 1
        tally.apply_ns += applied - forked
        tally.store_ns += forked - began + ended - applied
        tally.commit_ns += metrics.latency_ns
        tally.new_bytes += metrics.new_bytes
        tally.reused_bytes += metrics.reused_bytes
        tally.changed_keys += metrics.changed_keys
        vector = None if rewards is None else self.vector(rewards, "rewards", state)
        if self.rules.commit_reward is not None:
            more = self.vector(self.rules.commit_reward(metrics), "commit_reward", state)
            vector = more if vector is None else [a + b for a, b in zip(vector, more, strict=True)]
        return state, vector


def id_of(state: Snapshot) -> bytes:
    """The key of a state in the table: its root hash."""
    return bytes.fromhex(state.id)
