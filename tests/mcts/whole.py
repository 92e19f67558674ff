"""What must hold in a search's tables when nobody is under way: the sums of everything that was ever backed up.

On a game that is a tree, with rollouts that follow from the state, each count stands twice:

    visits of an edge        = visits of its child
    value sum of an edge     = visits * rewards + discount * what the child's own sum and edges add up to

So a simulation that was lost, counted twice, or left half backed up is seen, and which state it was.
"""

from __future__ import annotations

from typing import Any

from helios_shm import Engine
from helios_shm._capi import check, ffi, lib
from helios_shm.mcts import Search
from helios_shm.mcts.metrics import Tally
from helios_shm.mcts.pool import Worker
from helios_shm.mcts.table import TERMINAL_ROW, Row, Table
from tests.mcts.made import KEY, Made

# Sums of numbers about 1, added in two orders: so much for each.
_CLOSE = 1e-10


class Victims:
    """Which workers may be killed: those who have got somewhere since the death before, and of the others each a few
    times in a row. A search whose workers never get anywhere is given up, by design, and on a busy machine a worker
    starts slowly."""

    IN_VAIN_MAX = 3

    def __init__(self, search: Search[Any]) -> None:
        self._search = search
        self._seen: dict[int, int] = {}
        self._in_vain: dict[int, int] = {}

    def busy(self) -> list[Worker]:
        """Those who are at work, and may be killed."""
        return [
            worker
            for worker in list(self._search._driver.workers)
            if worker.busy
            and (
                self._done(worker) != self._seen.get(worker.index)
                or self._in_vain.get(worker.index, 0) < self.IN_VAIN_MAX
            )
        ]

    def killed(self, worker: Worker) -> None:
        """One was killed."""
        done = self._done(worker)
        in_vain = done == self._seen.get(worker.index)
        self._in_vain[worker.index] = self._in_vain.get(worker.index, 0) + 1 if in_vain else 0
        self._seen[worker.index] = done

    @staticmethod
    def _done(worker: Worker) -> int:
        tally = Tally.seen(worker.table.tally(worker.owner))
        return tally.total_ns + tally.evaluate_ns


def assert_nobody_is_under_way(search: Search[Any]) -> None:
    """No lane is busy, no ticket is out, no edge has anybody in it."""
    for table in search._forest.tables:
        totals = ffi.new("hs_search_totals *")
        check(lib.hs_search_counts(table._memory, totals), "reading a table")
        assert (totals.lanes_busy, totals.tickets) == (0, 0)
        for _, row in table.rows():
            assert row.in_flight == 0


def assert_sums(engine: Engine, search: Search[int], game: Made, discount: float = 1.0) -> None:
    """Every count and every sum of a search of a game that is a tree, by a path from the root to the leaves."""
    assert game.shape == "tree" and game.noise == 0
    for table, root in zip(search._forest.tables, search._forest.rows, strict=True):
        met: set[int] = set()
        _worth(engine, table, root, game, discount, met)
        lost = {number for number, row in table.rows() if number not in met and row.visits}
        assert not lost, f"rows {lost} have visits, and no path leads to them"


def _worth(
    engine: Engine, table: Table, number: int, game: Made, discount: float, met: set[int]
) -> list[float]:
    """What all evaluations at and below a row add up to, for each player."""
    row = table.row(number)
    assert row is not None and number not in met, "a tree has one path to each state"
    met.add(number)
    at = engine.snapshot(row.id.hex())[KEY]
    worth = _own(row, at, game)
    for action, edge in enumerate(table.edges(number)):
        if edge.child is None:
            assert (edge.visits, edge.value_sum) == (0, 0.0), f"{at!r} has visits by {action} to nowhere"
            continue
        child = table.row(edge.child)
        assert child is not None
        assert edge.visits == child.visits, f"{at!r} by {action}: {edge.visits} went, {child.visits} came"
        below = _worth(engine, table, edge.child, game, discount, met)
        rewards = game.rewards_of(at, action) or [0.0] * game.num_players
        through = [edge.visits * r + discount * b for r, b in zip(rewards, below, strict=True)]
        off = abs(edge.value_sum - through[max(0, row.player)])
        assert off <= _CLOSE * edge.visits, f"{at!r} by {action}"
        worth = [sum_ + more for sum_, more in zip(worth, through, strict=True)]
    return worth


def _own(row: Row, at: bytes, game: Made) -> list[float]:
    """What evaluations at the row itself add up to."""
    values = list(row.returns) if row.kind == TERMINAL_ROW else game.value_of(at)
    own = [row.own_visits * value for value in values]
    off = abs(row.own_value_sum - own[max(0, row.player)])
    assert off <= _CLOSE * row.own_visits, f"{at!r} itself"
    return own
