"""Ask and tell: states that somebody outside evaluates, in any order and as late as they like.

    ask    a walk down, expansion, and a lane of the table that keeps the path, counted as in flight
    tell   backup of that lane

An id is {nonce of the search: 8, serial: 8}: what was told before is told from what was never asked by its serial.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from .. import BusyError, CorruptError, NotFoundError, Snapshot
from .options import TRIALS_MAX
from .save import SavedTrial
from .simulate import Leaf, Simulator

A = TypeVar("A")

_TRIES_MAX = 1000  # walks that end where the returns are known, before ask() gives fewer
_ID = struct.Struct(">8sQ")


@dataclass(frozen=True, slots=True)
class Trial(Generic[A]):
    """A state that waits for its evaluation.

    ``id``: 16 bytes, for ``tell``; ``action``: what led to ``state``, None for the root.
    """

    id: bytes
    state: Snapshot
    action: A | None


@dataclass(slots=True)
class _Asked(Generic[A]):
    """A trial that was not told yet, and the lane that holds its path."""

    lane: int
    leaf: Leaf[A]


class Trials(Generic[A]):
    """The trials of one search. ``root``: the row to walk from."""

    def __init__(self, simulator: Simulator[A], first_lane: int, nonce: bytes, next_serial: int = 0) -> None:
        self._simulator, self.nonce, self.next_serial = simulator, nonce, next_serial
        self._free = list(range(first_lane + TRIALS_MAX - 1, first_lane - 1, -1))
        self._asked: dict[bytes, _Asked[A]] = {}
        self.root = 0

    def ask(self, n: int) -> list[Trial[A]]:
        """Up to ``n`` trials."""
        if n > len(self._free):
            raise BusyError(
                f"{len(self._asked)} trials were not told yet, and {TRIALS_MAX} is the limit: tell some first"
            )
        trials: list[Trial[A]] = []
        for _ in range(n):
            trial = self._ask_one()
            if trial is None:
                break
            trials.append(trial)
        return trials

    def _ask_one(self) -> Trial[A] | None:
        lane = self._free.pop()
        try:
            leaf = self._walked(lane)
        except BaseException:
            self._simulator.table.abandon(lane)
            self._free.append(lane)
            raise
        if leaf is None:
            self._free.append(lane)
            return None
        id = _ID.pack(self.nonce, self.next_serial)
        self.next_serial += 1
        self._asked[id] = _Asked(lane, leaf)
        return Trial(id, leaf.state, leaf.action)

    def _walked(self, lane: int) -> Leaf[A] | None:
        simulator, table = self._simulator, self._simulator.table
        descent, owner = table.descent(), simulator.owner
        root = table.row(self.root)
        assert root is not None, "the root has a row"
        for _ in range(_TRIES_MAX):
            table.tickets(1)
            if root.own_visits == 0 and not any(each.leaf.row == self.root for each in self._asked.values()):
                table.replay(lane, owner, self.root, [], descent)
            else:
                table.begin(lane, owner, self.root, descent)
            leaf = simulator.leaf(lane, descent)
            if leaf is not None:
                return leaf
        return None

    def tell(self, id: bytes, value: float | Sequence[float], prior_logits: Sequence[float] | None) -> None:
        """The value of a trial's state, and its priors."""
        asked = self._asked.get(id)
        if asked is None:
            self._told_before(id)
            return
        simulator, leaf = self._simulator, asked.leaf
        values = simulator.told(value, leaf, "the value told")
        if prior_logits is not None:
            simulator.set_priors(leaf, prior_logits)
        simulator.table.backup(asked.lane, values)
        del self._asked[id]
        self._free.append(asked.lane)

    def _told_before(self, id: bytes) -> None:
        """Nothing, if the trial was told before; NotFoundError if there never was one."""
        if isinstance(id, bytes) and len(id) == _ID.size:
            nonce, serial = _ID.unpack(id)
            if nonce == self.nonce and serial < self.next_serial:
                return
        raise NotFoundError(f"no trial of this search has the id {id!r}")

    # --- saving ---

    def pending(self) -> list[Trial[A]]:
        """Those that were not told yet, the oldest first."""
        return [Trial(id, asked.leaf.state, asked.leaf.action) for id, asked in sorted(self._asked.items())]

    def paths(self) -> dict[bytes, SavedTrial]:
        """Those that were not told yet, as they are saved."""
        return {id: self._path(asked) for id, asked in self._asked.items()}

    def _path(self, asked: _Asked[A]) -> SavedTrial:
        path = self._simulator.table.path(asked.lane)
        first = path[0][0] if path else asked.leaf.row
        return SavedTrial(self._id(first), self._id(asked.leaf.row), tuple(action for _, action in path))

    def _id(self, number: int) -> bytes:
        row = self._simulator.table.row(number)
        assert row is not None, "the rows of a trial's path stay"
        return row.id

    def restore(self, trials: Mapping[bytes, SavedTrial]) -> None:
        """Ask again what was asked when the search was saved, by the same paths. CorruptError where they lead to other
        states."""
        for id, trial in sorted(trials.items()):
            lane = self._free.pop()
            self._asked[id] = _Asked(lane, self._again(lane, id, trial))

    def _again(self, lane: int, id: bytes, trial: SavedTrial) -> Leaf[A]:
        simulator, table = self._simulator, self._simulator.table
        descent, root = table.descent(), table.find(trial.root)
        if root is not None:
            table.tickets(1)
            table.replay(lane, simulator.owner, root, trial.actions, descent)
            if descent.evaluate and descent.id == trial.leaf:
                node, path = simulator.node(descent.row, descent.id), table.path(lane)
                action = (
                    simulator.node(path[-1][0], self._id(path[-1][0])).actions[path[-1][1]] if path else None
                )
                return Leaf(descent.row, node.state, node.player, action, True)
        raise CorruptError(
            f"trial {id.hex()} of a saved search does not lead to state {trial.leaf.hex()[:12]}; has the environment "
            "changed?"
        )

    def renumber(self, remap: Sequence[int | None]) -> None:
        """Rows have new numbers."""
        for asked in self._asked.values():
            row = remap[asked.leaf.row]
            assert row is not None, "compaction keeps the paths of trials"
            asked.leaf = replace(asked.leaf, row=row)
