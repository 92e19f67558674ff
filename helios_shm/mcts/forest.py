"""The trees of a search: its tables, the row of the root in each, and what is done to all of them.

There is one, or with root parallelism one for each worker. Rows have new numbers after each compaction; whoever keeps
such numbers is told (``trials``), and workers are told that rows have moved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Generic, Literal, TypeVar

from .. import CapacityError, Snapshot
from .environment import Rules
from .metrics import Metrics, Tally, summed
from .options import Options
from .rows import TableRows
from .simulate import Node, Simulator, id_of
from .table import Table
from .trials import Trials

A = TypeVar("A")

DRIVER = 0  # the owner number of the process that has the search; worker i is i + 1


class Forest(Generic[A]):
    """Tables of one search, each with a simulator of this process."""

    def __init__(
        self,
        rules: Rules[A],
        root: Snapshot,
        options: Options,
        *,
        selection: Literal["puct", "uct"],
        leaves: int,
        seed: int,
    ) -> None:
        self.root, self._options = root, options
        self.num_players = rules.num_players(root)
        self.trials: Trials[A] | None = None
        self.simulators: list[Simulator[A]] = []
        self.rows: list[int] = []  # of the root, in each table
        self.moved = False
        self._noisy = False
        self._held_to = 0
        self.evictions = 0
        settings = options.settings(self.num_players, selection, leaves)
        apart = options.parallel == "root" and options.workers > 1
        for index in range(options.workers if apart else 1):
            table = Table(settings)
            table.seed(Random(f"{seed}:table:{index}").getrandbits(64))
            simulator = Simulator(
                root.engine,
                rules,
                table,
                Tally(),
                owner=DRIVER,
                num_players=self.num_players,
                discount=options.discount,
                rng=Random(f"{seed}:rollouts:{index}"),
            )
            self.rows.append(simulator.add_root(root))
            self.simulators.append(simulator)

    @property
    def tables(self) -> list[Table]:
        return [simulator.table for simulator in self.simulators]

    @property
    def root_id(self) -> bytes:
        return id_of(self.root)

    def close(self) -> None:
        for table in self.tables:
            table.close()

    # --- counts ---

    def completed(self) -> int:
        """Simulations that went through the root. Each goes through one of its actions."""
        return sum(self.counted()[0])

    def counted(self) -> tuple[list[int], list[float]]:
        """Of each action of the root: visits, and the sum of values."""
        edges = TableRows(self.tables).edges_of(self.root_id)
        return [edge.visits for edge in edges], [edge.value_sum for edge in edges]

    def root_node(self) -> Node[A]:
        """The root's state and actions."""
        return self.simulators[0].node(self.rows[0], self.root_id)

    def tally(self) -> Tally:
        """What all processes have counted."""
        owners = range(self._options.workers + 1)
        return summed(Tally.seen(table.tally(owner)) for table in self.tables for owner in owners)

    def metrics(self, *, workers_lost: int, finished: int, undone: int) -> Metrics:
        """What users see of it."""
        tally = self.tally()
        return Metrics(
            **{name: getattr(tally, name) for name in Tally.__slots__},
            rows=sum(table.counts().rows for table in self.tables),
            evictions=self.evictions,
            workers_lost=workers_lost,
            simulations_finished=finished,
            simulations_undone=undone,
        )

    # --- tickets ---

    def hand_out(self, tickets: int) -> None:
        """Let so many simulations begin, as even as can be among the tables."""
        self.stop(False)
        for index, table in enumerate(self.tables):
            table.take_tickets()
            table.tickets((tickets + index) // len(self.simulators))

    def take_tickets(self) -> None:
        """Let no more begin."""
        for table in self.tables:
            table.take_tickets()

    def stop(self, on: bool) -> None:
        """Have everybody come to an end after the simulation at hand; or no longer."""
        for table in self.tables:
            table.stop(on)

    # --- roots and room ---

    def mix_noise(self, alpha: float, fraction: float, rng: Random) -> None:
        """Dirichlet noise into the root's priors, once for each root."""
        if self._noisy:
            return
        self._noisy = True
        for table, row in zip(self.tables, self.rows, strict=True):
            drawn = [rng.gammavariate(alpha, 1) for _ in table.edges(row)]
            total = math.fsum(drawn) or 1.0
            table.set_noise(row, [value / total for value in drawn], fraction)

    def advance(self, action: A) -> None:
        """Make the state that an action leads to the root, and drop what is not below it. ValueError: not legal."""
        id, state = self.root_id, self.root
        for index, simulator in enumerate(self.simulators):
            self.rows[index], state = simulator.child(self.rows[index], id, action)
        self.root, self._noisy = state, False
        for index, simulator in enumerate(self.simulators):
            self._compact(index, None)
            simulator.forget()

    def make_room(self, index: int) -> None:
        """Of a full table, drop the states visited least. CapacityError where that is not wanted, or in vain."""
        simulator, table = self.simulators[index], self.tables[index]
        size, counts = self._options.table_bytes, table.counts()
        if not counts.full:
            raise CapacityError("a search's table refused a state, and is not full")
        if self._options.when_full == "error":
            raise CapacityError(
                f"the search's table of {size:,} bytes is full: {counts.rows:,} states with {counts.slots:,} actions; "
                "pass a larger table_bytes, or when_full='evict'"
            )
        self._compact(index, counts.rows_max // 2)
        after = table.counts()
        self.evictions += counts.rows - after.rows
        if after.rows * 10 > counts.rows_max * 9 or after.slots * 10 > counts.slots_max * 9:
            raise CapacityError(f"the search's table of {size:,} bytes is full of what is searched just now")
        simulator.forget()

    def _compact(self, index: int, keep: int | None) -> None:
        remap = self.tables[index].compact([self.rows[index]], keep)
        row = remap[self.rows[index]]
        assert row is not None, "a root is kept"
        self.rows[index] = row
        if self.trials is not None and index == 0:
            self.trials.renumber(remap)
        self.moved, self._held_to = True, 0

    def hold(self, table: Table) -> None:
        """Hold the states that a dead process held, before a collection finds them."""
        held, engine = self.simulators[0].held, self.root.engine
        to = table.counts().rows
        for number in range(self._held_to if len(self.simulators) == 1 else 0, to):
            row = table.row(number)
            if row is not None and row.id not in held:
                held[row.id] = engine.snapshot(row.id.hex())
        self._held_to = to


def means_of(visits: Sequence[int], sums: Sequence[float]) -> list[float]:
    """Mean values; of what nobody visited, less than any."""
    return [total / count if count else -math.inf for total, count in zip(sums, visits, strict=True)]
