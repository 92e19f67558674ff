"""Rows of a search without a search: what trees are grown from and saves are made of, written down by hand or drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from random import Random
from typing import NamedTuple

from helios_shm.mcts.save import encode_row
from helios_shm.mcts.table import CHANCE_ROW, CHOICE_ROW, TERMINAL_ROW
from helios_shm.mcts.tree import Rows, TreeNode, grow


class PlainRow(NamedTuple):
    id: bytes
    kind: int = CHOICE_ROW
    player: int = 0
    own_visits: int = 0
    own_value_sum: float = 0.0
    returns: tuple[float, ...] = ()
    visits: int = 0
    in_flight: int = 0


class PlainEdge(NamedTuple):
    visits: int = 0
    in_flight: int = 0
    value_sum: float = 0.0
    prior: float = 0.0
    child: bytes | None = None
    rewards: tuple[float, ...] = ()


def summed(row: PlainRow, edges: Sequence[PlainEdge]) -> PlainRow:
    """A row with the counts that follow from its edges."""
    return row._replace(
        visits=row.own_visits + sum(edge.visits for edge in edges),
        in_flight=sum(edge.in_flight for edge in edges),
    )


class PlainRows:
    """Rows in a dict."""

    def __init__(self, rows: Mapping[PlainRow, Sequence[PlainEdge]], num_players: int = 2) -> None:
        self.num_players = num_players
        self.by_id = {row.id: (summed(row, edges), edges) for row, edges in rows.items()}

    def row(self, id: bytes) -> PlainRow | None:
        found = self.by_id.get(id)
        return None if found is None else found[0]

    def edges(self, row: PlainRow) -> Sequence[PlainEdge]:
        return self.by_id[row.id][1]

    def __iter__(self) -> Iterator[PlainRow]:
        return (row for row, _ in self.by_id.values())


def packed(rows: Rows) -> Iterator[tuple[bytes, bytes]]:
    """Each row by its id, as a saved search has it: in Python, what hs_search_pack does."""
    for row in rows:
        yield row.id, encode_row(row, rows.edges(row), rows.num_players)


def id_of(name: object) -> bytes:
    return sha256(repr(name).encode()).digest()


def numbered(rows: PlainRows) -> object:
    """Actions that are named by their place."""
    return lambda id, player: [f"a{i}" for i in range(len(rows.edges(rows.row(id))))]


def played(
    count: int, *, seed: int = 0, branching: int = 6, states: int = 100_000, depth: int = 30
) -> PlainRows:
    """What ``count`` simulations of a made-up game of two leave behind: each adds one state, as a search does. States
    are few if they shall be met on several paths, and cycles."""
    rng = Random(seed)
    visits: dict[bytes, int] = {}
    edges: dict[bytes, list[list[float]]] = {}
    children: dict[tuple[bytes, int], bytes] = {}
    root = id_of(0)
    edges[root] = [[0, 0.0] for _ in range(branching)]
    visits[root] = 0
    for _ in range(count):
        at, path = root, []
        while len(path) < depth:
            here = edges[at]
            action = min(range(branching), key=lambda i: (here[i][0] * (1 + i) + rng.random() * 3, i))
            path.append((at, action))
            known = (at, action) in children
            if not known:
                children[at, action] = id_of(rng.randrange(1, states))
            at = children[at, action]
            if at not in edges:
                edges[at] = [[0, 0.0] for _ in range(branching)]
                visits[at] = 0
                break
            if any(at == before for before, _ in path):
                break
        value = rng.uniform(-1, 1) + 0.3 * (path[0][1] == 0)
        visits[at] += 1
        for level, (state, action) in enumerate(path):
            edges[state][action][0] += 1
            edges[state][action][1] += value if level % 2 == 0 else -value
    rows = {
        PlainRow(id, own_visits=visits[id], player=id[0] % 2): [
            PlainEdge(int(n), 0, w, 1 / branching, children.get((id, i))) for i, (n, w) in enumerate(each)
        ]
        for id, each in edges.items()
    }
    return PlainRows(rows)


def tree_of(rows: PlainRows, root: bytes | None = None, **options: object) -> TreeNode[str]:
    """The tree below the first row, with actions a0, a1, ..."""
    return grow(rows, next(iter(rows)).id if root is None else root, numbered(rows), **options)


def small() -> PlainRows:
    """root -a0-> left -a0-> end, root -a1-> right -a0-> left (another path) and -a1-> root (a cycle); a chance row."""
    root, left, right, dice, end = map(id_of, ("root", "left", "right", "dice", "end"))
    return PlainRows(
        {
            PlainRow(root, player=0, own_visits=1, own_value_sum=0.5): [
                PlainEdge(6, 1, 3.0, 0.5, left),
                PlainEdge(3, 0, -1.5, 0.25, right, (1.0, -1.0)),
                PlainEdge(0, 0, 0.0, 0.25),
            ],
            PlainRow(left, player=1, own_visits=2): [
                PlainEdge(4, 0, 4.0, 0.9, end),
                PlainEdge(1, 0, 0.0, 0.1, dice),
            ],
            PlainRow(right, player=1): [
                PlainEdge(2, 0, -1.0, 0.5, left),
                PlainEdge(1, 0, 1.0, 0.5, root),
            ],
            PlainRow(dice, kind=CHANCE_ROW, player=-1, own_visits=1): [
                PlainEdge(0, 0, 0.0, 0.25),
                PlainEdge(0, 0, 0.0, 0.75),
            ],
            PlainRow(end, kind=TERMINAL_ROW, player=0, own_visits=4, returns=(1.0, -1.0)): [],
        }
    )
