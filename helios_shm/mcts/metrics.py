"""What a search counts: each process in words of shared memory that it alone writes, so that a death loses nothing.

Tally     one process's counts, private; shown to the others after each simulation
Metrics   the sums, as users see them
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields

from typing_extensions import Buffer

TALLY_BYTES = 128  # a process: two cache lines that nobody else writes


@dataclass(slots=True)
class Tally:
    """The counts of one process. Times in ns, sizes in bytes."""

    expansions: int = 0
    transpositions: int = 0
    evaluations: int = 0
    new_bytes: int = 0
    reused_bytes: int = 0
    changed_keys: int = 0
    commit_ns: int = 0
    store_ns: int = 0
    apply_ns: int = 0
    evaluate_ns: int = 0
    total_ns: int = 0

    def show(self, memory: memoryview) -> None:
        """Write the counts where the others read them."""
        _WORDS.pack_into(
            memory,
            0,
            self.expansions,
            self.transpositions,
            self.evaluations,
            self.new_bytes,
            self.reused_bytes,
            self.changed_keys,
            self.commit_ns,
            self.store_ns,
            self.apply_ns,
            self.evaluate_ns,
            self.total_ns,
        )

    @classmethod
    def seen(cls, memory: Buffer) -> Tally:
        """The counts as another process has shown them last."""
        return cls(*_WORDS.unpack_from(memory))


_WORDS = struct.Struct(f"<{len(fields(Tally))}q")


@dataclass(frozen=True, slots=True)
class Metrics:
    """What a search has done since it was made: sums over its processes. Times in ns, sizes in bytes.

    ``expansions``: states made by an action, each by one commit; ``transpositions``: of these, such as the table had
    already. ``evaluations``: rollouts. ``new_bytes``, ``reused_bytes``, ``changed_keys``, ``commit_ns``: sums of the
    commits' CommitMetrics. ``store_ns``: in fork and commit; ``apply_ns``: in the environment's apply or step;
    ``evaluate_ns``: in rollouts; ``total_ns``: in all of a simulation, waiting not counted.
    ``simulations_finished`` and ``simulations_undone``: those that dead workers left, and how they ended;
    ``workers_lost``: how many died. ``evictions``: rows that went because the table was full.
    """

    expansions: int
    transpositions: int
    evaluations: int
    new_bytes: int
    reused_bytes: int
    changed_keys: int
    commit_ns: int
    store_ns: int
    apply_ns: int
    evaluate_ns: int
    total_ns: int
    rows: int
    evictions: int
    workers_lost: int
    simulations_finished: int
    simulations_undone: int

    @property
    def store_share(self) -> float:
        """Which share of the time the state store takes: 0 .. 1."""
        return self.store_ns / self.total_ns if self.total_ns else 0.0

    @property
    def store_ns_per_expansion(self) -> float:
        """What the store costs for each state, in ns."""
        return self.store_ns / self.expansions if self.expansions else 0.0


def summed(tallies: Iterable[Tally]) -> Tally:
    """The sum of all."""
    columns = zip(*(astuple(tally) for tally in tallies), strict=True)
    return Tally(*map(sum, columns))
