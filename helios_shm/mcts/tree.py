"""What a search has found, as a tree of plain values: to look at, to walk through, to write to a file.

    rows (a table, or a saved search) -> grow() -> TreeNode -> to_json(), to_html(), to_svg()

A search knows states, and states are met on many paths: what it has is a graph, perhaps with cycles. The tree shows
each state once in full, where most simulations went through; wherever else an action leads to it, stands a node
without children that says so (``repeats``). Nodes are taken in the order of their visits, so that a bound on their
number cuts off what was visited least.

Trees may be deeper than Python calls may nest: nothing here recurses.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import isfinite
from typing import Any, Generic, Literal, Protocol, TypeVar

from .environment import CHANCE
from .table import CHANCE_ROW, CHOICE_ROW, TERMINAL_ROW

A = TypeVar("A")

NodeKind = Literal["choice", "chance", "terminal", "unvisited"]
KINDS: dict[int, NodeKind] = {CHOICE_ROW: "choice", CHANCE_ROW: "chance", TERMINAL_ROW: "terminal"}

JSON_FORMAT = "helios-shm search tree"
JSON_VERSION = 1


class Row(Protocol):
    """A state that a search knows."""

    @property
    def id(self) -> bytes:
        """32 bytes."""
        ...

    @property
    def kind(self) -> int:
        """CHOICE_ROW, CHANCE_ROW or TERMINAL_ROW."""
        ...

    @property
    def player(self) -> int:
        """Who moves there; CHANCE."""
        ...

    @property
    def visits(self) -> int:
        """Simulations that came there: those that ended there, and those that went on by its edges."""
        ...

    @property
    def in_flight(self) -> int:
        """Of all its edges."""
        ...

    @property
    def own_visits(self) -> int:
        """Simulations that ended there."""
        ...

    @property
    def own_value_sum(self) -> float:
        """Their values, for the player who moves there; where chance moves, for player 0."""
        ...

    @property
    def returns(self) -> Sequence[float]:
        """Of a state that has ended: one number a player. Else nothing."""
        ...


class Edge(Protocol):
    """An action of a row."""

    @property
    def visits(self) -> int: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def value_sum(self) -> float:
        """Rewards and what came after, for the player who moves at the row; where chance moves, for player 0."""
        ...

    @property
    def prior(self) -> float:
        """A probability."""
        ...

    @property
    def child(self) -> bytes | None:
        """The row that it leads to; None: nobody has been there."""
        ...

    @property
    def rewards(self) -> Sequence[float]:
        """One number a player; nothing: all are 0."""
        ...


class Rows(Protocol):
    """What a search has counted: a table, a saved search, or the sum of several."""

    @property
    def num_players(self) -> int: ...
    def row(self, id: bytes) -> Row | None:
        """The row of a state; None: it has none."""
        ...

    def edges(self, row: Row) -> Sequence[Edge]:
        """One for each legal action, in their order; none of a state that has ended."""
        ...

    def __iter__(self) -> Iterator[Row]:
        """Every row, each once."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class TreeNode(Generic[A]):
    """A state as a search came to it: by an action of the node above it. Picklable.

    ``state``         id of the snapshot, in hex; None: nobody has taken this action yet
    ``action``        what led here, None at the root; ``action_name``: as the environment writes it
    ``kind``          "choice", "chance", "terminal", or "unvisited" where ``state`` is None
    ``player``        who moves here; CHANCE; None where nobody does
    ``visits``        simulations that went through this action; at the root, all
    ``state_visits``  simulations that came to this state, on whatever path
    ``in_flight``     those on their way through this action now
    ``value``         mean of what they brought, rewards of the action included, for the player who chose it (where
                      chance did, for player 0; at the root, for the player who moves there). None: no visits
    ``prior``         how probable the action was held to be (of chance: is); at the root 1
    ``rewards``       for the action, one number a player
    ``returns``       of a state that has ended: what each player gets
    ``repeats``       this state is shown in full elsewhere in the tree, with its children: "cycle" if that is above
                      this node, else "transposition". None: it is shown here
    ``omitted``       how many of its actions are not shown: too few visits, too deep, too many nodes
    ``children``      most visited first; ties in the order of the prior, then of the actions
    """

    state: str | None
    action: A | None
    action_name: str | None
    kind: NodeKind
    player: int | None
    visits: int
    state_visits: int
    in_flight: int
    value: float | None
    prior: float
    rewards: tuple[float, ...]
    returns: tuple[float, ...]
    repeats: Literal["transposition", "cycle"] | None
    omitted: int
    children: tuple[TreeNode[A], ...] = field(repr=False)

    def __iter__(self) -> Iterator[TreeNode[A]]:
        """This node and all below it, parents first, the most visited of siblings first."""
        ahead = [self]
        while ahead:
            node = ahead.pop()
            yield node
            ahead.extend(reversed(node.children))

    def __len__(self) -> int:
        """How many nodes these are. O(nodes)."""
        return sum(1 for _ in self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TreeNode):
            return NotImplemented
        return _flat(self) == _flat(other)

    def __hash__(self) -> int:
        return hash((self.state, self.action, self.visits, self.value, len(self.children)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _unflat, (_flat(self),)

    def principal_line(self) -> list[TreeNode[A]]:
        """From this node, the most visited action at each step, as far as it was visited and is shown."""
        line = [self]
        while line[-1].children and line[-1].children[0].visits:
            line.append(line[-1].children[0])
        return line

    def find(self, state: str) -> TreeNode[A] | None:
        """The node that shows a state in full, by its id or a beginning of it; None: there is none."""
        for node in self:
            if node.repeats is None and node.state is not None and node.state.startswith(state):
                return node
        return None

    def to_json(self, *, indent: int | None = None) -> str:
        """The tree as JSON, by the schema "Tree of a search" of docs/FORMAT.md. O(nodes)."""
        whole = {"format": JSON_FORMAT, "version": JSON_VERSION, "nodes": records(self)}
        return json.dumps(
            whole, allow_nan=False, indent=indent, separators=(",", ":") if indent is None else None
        )

    def to_html(self, *, title: str = "Search tree") -> str:
        """A page to open and click through: one file that needs no other and no network. See ``picture``."""
        from .picture import html

        return html(self, title=title)

    def to_svg(self, *, title: str = "Search tree", max_nodes: int = 200) -> str:
        """A picture of the ``max_nodes`` most visited nodes. See ``picture``."""
        from .picture import svg

        return svg(self, title=title, max_nodes=max_nodes)


# --- growing ---


@dataclass(slots=True)
class _Draft:
    """A node while the tree grows."""

    above: _Draft | None
    depth: int
    fields: dict[str, Any]
    row: Row | None
    children: list[_Draft] = field(default_factory=list)


def grow(
    rows: Rows,
    root: bytes,
    actions: Callable[[bytes, int], Sequence[A]],
    *,
    name: Callable[[A], str] = str,
    depth: int | None = None,
    min_visits: int = 1,
    max_nodes: int = 10_000,
) -> TreeNode[A]:
    """The tree of what ``rows`` has below a state.

    root: id of the state, 32 bytes. A state without a row is a tree of one unvisited choice.
    actions: takes the id of a state and the player who moves there, and gives its actions in the order of its edges.
    name: how people write an action.
    depth: how many actions below the root are shown; None: all.
    min_visits: an action with fewer visits, those in flight counted, is not shown. 0: all are, whether visited or not.
    max_nodes: no more nodes than that; those visited least are left out.

    Raises ValueError for bounds that leave nothing, and where there are not as many actions as edges. Cost: O(nodes log
    nodes), and a call of ``actions`` for each state shown with children.
    """
    for what, value, least in (
        ("min_visits", min_visits, 0),
        ("max_nodes", max_nodes, 1),
        ("depth", depth or 0, 0),
    ):
        if value < least:
            raise ValueError(f"{what} is a number from {least} on, not {value}")
    first = _root_draft(rows, root)
    drafts, serial = [first], count()
    ahead = [(-first.fields["visits"], next(serial), first)]
    shown: dict[bytes, _Draft] = {}
    while ahead:
        draft = heapq.heappop(ahead)[2]
        if draft.row is None:
            continue
        if (full := shown.get(draft.row.id)) is not None:
            draft.fields["repeats"] = "cycle" if _is_above(full, draft) else "transposition"
            continue
        edges = rows.edges(draft.row)
        if depth is not None and draft.depth >= depth:
            draft.fields["omitted"] = len(edges)
            continue
        shown[draft.row.id] = draft
        chosen = _chosen(edges, min_visits)[: max_nodes - len(drafts)]
        draft.fields["omitted"] = len(edges) - len(chosen)
        if not chosen:
            continue
        known = _actions_of(draft.row, len(edges), actions)
        for index in chosen:
            child = _edge_draft(rows, draft, edges[index], known[index], name(known[index]))
            draft.children.append(child)
            drafts.append(child)
            heapq.heappush(ahead, (-child.fields["visits"], next(serial), child))
    return _built(drafts)


def _chosen(edges: Sequence[Edge], min_visits: int) -> list[int]:
    """Which actions are shown, most visited first."""
    enough = [index for index, edge in enumerate(edges) if edge.visits + edge.in_flight >= min_visits]
    return sorted(enough, key=lambda index: (-edges[index].visits, -edges[index].prior, index))


def _actions_of(row: Row, count: int, actions: Callable[[bytes, int], Sequence[A]]) -> Sequence[A]:
    known = actions(row.id, row.player)
    if len(known) != count:
        raise ValueError(
            f"state {row.id.hex()[:12]} has {count} actions in the search, and the environment now says {len(known)}; "
            "legal_actions must be the same at each call"
        )
    return known


def _root_draft(rows: Rows, root: bytes) -> _Draft:
    row = rows.row(root)
    fields = _state_fields(row) | {
        "state": root.hex(),
        "action": None,
        "action_name": None,
        "visits": 0 if row is None else row.visits,
        "in_flight": 0 if row is None else row.in_flight,
        "value": None if row is None else _mean(rows, row),
        "prior": 1.0,
        "rewards": (0.0,) * rows.num_players,
    }
    if row is None:
        fields["kind"] = "choice"
    return _Draft(None, 0, fields, row)


def _mean(rows: Rows, row: Row) -> float | None:
    """What a state was worth to who moves there."""
    total = row.own_value_sum + sum(edge.value_sum for edge in rows.edges(row))
    return total / row.visits if row.visits else None


def _edge_draft(rows: Rows, above: _Draft, edge: Edge, action: Any, action_name: str) -> _Draft:
    row = None if edge.child is None else rows.row(edge.child)
    fields = _state_fields(row) | {
        "state": None if edge.child is None else edge.child.hex(),
        "action": action,
        "action_name": action_name,
        "visits": edge.visits,
        "in_flight": edge.in_flight,
        "value": edge.value_sum / edge.visits if edge.visits else None,
        "prior": edge.prior,
        "rewards": tuple(edge.rewards) or (0.0,) * rows.num_players,
    }
    return _Draft(above, above.depth + 1, fields, row)


def _state_fields(row: Row | None) -> dict[str, Any]:
    """What a node says of its state, on whatever path."""
    none = {"repeats": None, "omitted": 0}
    if row is None:
        return {"kind": "unvisited", "player": None, "state_visits": 0, "returns": (), **none}
    return {
        "kind": KINDS[row.kind],
        "player": None if row.kind == TERMINAL_ROW else CHANCE if row.kind == CHANCE_ROW else row.player,
        "state_visits": row.visits,
        "returns": tuple(row.returns),
        **none,
    }


def _is_above(full: _Draft, draft: _Draft) -> bool:
    above = draft.above
    while above is not None and above is not full:
        above = above.above
    return above is full


def _built(drafts: list[_Draft]) -> TreeNode[Any]:
    """The nodes of drafts, in which each stands behind the one above it."""
    built: dict[int, TreeNode[Any]] = {}
    for draft in reversed(drafts):
        children = tuple(built.pop(id(child)) for child in draft.children)
        built[id(draft)] = TreeNode(children=children, **draft.fields)
    return built[id(drafts[0])]


# --- flat ---

_FIELDS = [name for name in TreeNode.__dataclass_fields__ if name != "children"]


def _flat(tree: TreeNode[Any]) -> list[tuple[Any, ...]]:
    """Each node as its number of children and its fields, parents first."""
    return [(len(node.children), *(getattr(node, name) for name in _FIELDS)) for node in tree]


def _unflat(flat: list[tuple[Any, ...]]) -> TreeNode[Any]:
    built: list[TreeNode[Any]] = []
    for size, *values in reversed(flat):
        children = tuple(built.pop() for _ in range(size))
        built.append(TreeNode(children=children, **dict(zip(_FIELDS, values, strict=True))))
    return built[0]


def records(tree: TreeNode[Any]) -> list[dict[str, Any]]:
    """The nodes as JSON has them, parents first: children and repeated states by their place in this list."""
    nodes = list(tree)
    place = {id(node): index for index, node in enumerate(nodes)}
    full: dict[str, int] = {}
    for index, node in enumerate(nodes):
        # One that stands below the last level shown has no children; where it stands with them, it is shown.
        if node.state is not None and node.repeats is None and (node.children or node.state not in full):
            full[node.state] = index
    return [
        {
            "state": node.state,
            "action": node.action_name,
            "kind": node.kind,
            "player": node.player,
            "visits": node.visits,
            "state_visits": node.state_visits,
            "in_flight": node.in_flight,
            "value": _number(node.value),
            "prior": _number(node.prior),
            "rewards": [_number(value) for value in node.rewards],
            "returns": [_number(value) for value in node.returns],
            "repeats": node.repeats,
            "same_as": None if node.repeats is None or node.state is None else full.get(node.state),
            "omitted": node.omitted,
            "children": [place[id(child)] for child in node.children],
        }
        for node in nodes
    ]


def _number(value: float | None) -> float | None:
    """JSON has no infinity."""
    return value if value is not None and isfinite(value) else None
