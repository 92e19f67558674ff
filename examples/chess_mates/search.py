"""The search tree of one problem: selection, expansion by others, backup, proof.

    select()  ->  a round of expansions  ->  (workers)  ->  their leaves, in the same order  ->  apply()

A node is a snapshot; the table {snapshot: node} is the transposition table, for positions reached by
different move orders are equal snapshots. The tree is therefore a graph; plies left fall by one at each move,
so it has no cycle.

Invariants
  - Statistics live here, in one process; workers see snapshots only.
  - A node's value is the sum of results from the viewpoint of its player to move, so a parent takes the
    lowest.
  - Outcomes are proofs (MCTS-Solver): WIN if some move leads to a LOSS of the other, LOSS if all lead to a
    WIN. Nodes with an outcome are not visited again, and the search ends when the root has one.
  - What a round holds follows from what has been applied before, so the same seed gives the same search,
    whatever the number of workers and whoever of them is first. Virtual losses spread a round over the tree;
    apply() takes them back.

Used by the runner. One thread.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from helios_shm import Engine, Snapshot

from . import position
from .problems import Problem
from .worker import LOSS, WIN, Expansion, Leaf, full_bytes, judge

ROUND_SIZE = 32

# Of the bounds, where results are +1 and -1. Anything from 0.4 to 1.0 solves the set within 7300 simulations
# a problem.
_EXPLORATION = 1.0
# A selection can end at a node whose moves are all in flight; this many in a round, and it is sent as it is.
_DEAD_ENDS_MAX = 8


@dataclass(slots=True, eq=False)
class Node:
    """Statistics of one position. The first `tried` of `moves` were handed out; `children` have come back."""

    snapshot: Snapshot
    moves: tuple[str, ...]
    tried: int = 0
    children: dict[str, "Node"] = field(default_factory=dict)
    parents: list["Node"] = field(default_factory=list)
    visits: int = 0
    value: float = 0.0
    outcome: int | None = None
    losing_moves: int = 0


@dataclass(slots=True)
class Tally:
    """What a search has done to the store."""

    snapshots: int = 0
    transpositions: int = 0
    stored_bytes: int = 0
    full_bytes: int = 0
    commit_ns: list[int] = field(default_factory=list)


class Search:
    """A search for the mate of `problem`, of at most `simulations_max` expansions."""

    def __init__(self, engine: Engine, problem: Problem, *, simulations_max: int, seed: int) -> None:
        self.problem = problem
        self.tally = Tally()
        self.simulations = 0
        self._simulations_max = simulations_max
        self._seed = f"{seed}/{problem.name}"
        self._sent = 0
        self._round: list[tuple[list[Node], str]] = []
        self._virtual_losses: list[Node] = []
        self._root = self._commit_root(engine)
        self.nodes: dict[Snapshot, Node] = {self._root.snapshot: self._root}

    def _commit_root(self, engine: Engine) -> Node:
        problem = self.problem
        workspace = engine.empty.fork()
        workspace["problem/name"] = problem.name.encode()
        workspace["problem/source"] = problem.source.encode()
        workspace["problem/epd"] = problem.epd.encode()
        workspace["problem/goal"] = f"mate in {problem.mate_in}".encode()
        workspace.update(position.encode(problem.board, problem.plies))
        commit = workspace.commit()
        self._count(commit.metrics.new_bytes, full_bytes(commit.snapshot), commit.metrics.latency_ns)
        outcome, moves = judge(problem.board, problem.plies, random.Random(self._seed))
        return Node(commit.snapshot, moves, outcome=outcome)

    # --- what the caller may ask ---

    @property
    def proven(self) -> bool:
        """Whether the mate is proven."""
        return self._root.outcome == WIN

    @property
    def finished(self) -> bool:
        return self._root.outcome is not None or self.simulations >= self._simulations_max

    @property
    def move(self) -> str | None:
        """The move to play (UCI): the proven one, else the most visited."""
        children = self._root.children
        for move, child in children.items():
            if child.outcome == LOSS:
                return move
        return max(children, key=lambda move: children[move].visits, default=None)

    @property
    def solved(self) -> bool:
        """Whether the move is one of the problem's keys."""
        return self.move in self.problem.keys

    # --- rounds ---

    def select(self) -> list[Expansion]:
        """The next round of expansions, at least one unless finished. apply() must come before the next."""
        assert not self._round, "the last round has not been applied"
        size = min(ROUND_SIZE, self._simulations_max - self.simulations)
        dead_ends = 0
        while len(self._round) < size and dead_ends < _DEAD_ENDS_MAX:
            path = self._descend()
            leaf = path[-1]
            if leaf.tried < len(leaf.moves):
                self._round.append((path, leaf.moves[leaf.tried]))
                leaf.tried += 1
            else:
                dead_ends += 1
        first, self._sent = self._sent, self._sent + len(self._round)
        return [
            Expansion(path[-1].snapshot, move, f"{self._seed}/{number}")
            for number, (path, move) in enumerate(self._round, first)
        ]

    def apply(self, leaves: Sequence[Leaf]) -> None:
        """Enter the leaves of the last round, in its order."""
        for node in self._virtual_losses:
            node.visits -= 1
            node.value -= WIN
        self._virtual_losses.clear()
        for (path, move), leaf in zip(self._round, leaves, strict=True):
            self._count(leaf.metrics.new_bytes, leaf.full_bytes, leaf.metrics.latency_ns)
            self.simulations += 1
            child = self._link(path[-1], move, leaf)
            _back_up([*path, child], leaf.value)
        self._round.clear()

    def _descend(self) -> list[Node]:
        """The path from the root to a node with an untried move, or with all moves in flight or decided."""
        node = self._root
        path = [node]
        while node.tried == len(node.moves):
            candidates = [child for child in node.children.values() if child.outcome is None]
            if not candidates:
                break
            node = _most_promising(node, candidates)
            # A virtual loss for the player who chose this child is a win for the one who is to move in it.
            node.visits += 1
            node.value += WIN
            self._virtual_losses.append(node)
            path.append(node)
        return path

    def _link(self, parent: Node, move: str, leaf: Leaf) -> Node:
        """Make the leaf a child of `parent`; a position that is known already keeps its node."""
        child = self.nodes.get(leaf.snapshot)
        if child is None:
            child = self.nodes[leaf.snapshot] = Node(leaf.snapshot, leaf.moves, outcome=leaf.outcome)
        else:
            self.tally.transpositions += 1
        parent.children[move] = child
        child.parents.append(parent)
        if child.outcome is not None:
            _prove(parent, child.outcome)
        return child

    def _count(self, stored_bytes: int, full: int, latency_ns: int) -> None:
        self.tally.snapshots += 1
        self.tally.stored_bytes += stored_bytes
        self.tally.full_bytes += full
        self.tally.commit_ns.append(latency_ns)


def _most_promising(node: Node, candidates: Sequence[Node]) -> Node:
    """The child with the highest upper confidence bound for the player to move in `node`."""
    log_visits = math.log(node.visits + 1)

    def bound(child: Node) -> float:
        return -child.value / child.visits + _EXPLORATION * math.sqrt(log_visits / child.visits)

    return max(candidates, key=bound)


def _back_up(path: Sequence[Node], value: int) -> None:
    """Add a result, seen from the last node of `path`, to all its nodes."""
    for node in reversed(path):
        node.visits += 1
        node.value += value
        value = -value


def _prove(node: Node, child_outcome: int) -> None:
    """Tell `node` that one of its children has got an outcome, and its parents if that decides it."""
    news = [(node, child_outcome)]
    while news:
        node, child_outcome = news.pop()
        if child_outcome == WIN:
            node.losing_moves += 1
        if node.outcome is not None:
            continue
        if child_outcome == LOSS:
            node.outcome = WIN
        elif node.losing_moves == len(node.moves):
            node.outcome = LOSS
        if node.outcome is not None:
            news.extend((parent, node.outcome) for parent in node.parents)
