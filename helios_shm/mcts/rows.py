"""What the tables of a search have counted, as the rows that trees are grown from and saves are made of.

Root parallelism has a table for each worker. To whoever looks at them here they are one: counts and values of a state
that several have are added up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from . import tree
from .table import Table


@dataclass(frozen=True, slots=True)
class CountedRow:
    """A state; see ``tree.Row``."""

    id: bytes
    kind: int
    player: int
    visits: int
    in_flight: int
    own_visits: int
    own_value_sum: float
    returns: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CountedEdge:
    """An action of a state; see ``tree.Edge``."""

    visits: int
    in_flight: int
    value_sum: float
    prior: float
    child: bytes | None
    rewards: tuple[float, ...]


class TableRows:
    """The rows of tables; see ``tree.Rows``."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self._tables = tables

    @property
    def num_players(self) -> int:
        return self._tables[0].settings.num_players

    def row(self, id: bytes) -> CountedRow | None:
        """A state as all tables together know it."""
        found = [row for each, number in self._places(id) if (row := each.row(number)) is not None]
        if not found:
            return None
        first = found[0]
        return CountedRow(
            id,
            first.kind,
            first.player,
            sum(row.visits for row in found),
            sum(row.in_flight for row in found),
            sum(row.own_visits for row in found),
            sum(row.own_value_sum for row in found),
            first.returns,
        )

    def _places(self, id: bytes) -> Iterator[tuple[Table, int]]:
        for each in self._tables:
            number = each.find(id)
            if number is not None:
                yield each, number

    def edges(self, row: tree.Row) -> list[CountedEdge]:
        """The actions of a state."""
        return self.edges_of(row.id)

    def edges_of(self, id: bytes) -> list[CountedEdge]:
        """The same, by the state's id."""
        columns = zip(*(each.edges(number) for each, number in self._places(id)), strict=True)
        return [
            CountedEdge(
                sum(edge.visits for edge in edges),
                sum(edge.in_flight for edge in edges),
                sum(edge.value_sum for edge in edges),
                edges[0].prior,
                next((edge.child_id for edge in edges if edge.child_id is not None), None),
                next((edge.rewards for edge in edges if edge.child_id is not None), ()),
            )
            for edges in columns
        ]

    def __iter__(self) -> Iterator[CountedRow]:
        seen: set[bytes] = set()
        for each in self._tables:
            for _, row in each.rows():
                if row.id not in seen:
                    if len(self._tables) > 1:
                        seen.add(row.id)
                    counted = self.row(row.id)
                    assert counted is not None, "a row that was just seen is there"
                    yield counted
