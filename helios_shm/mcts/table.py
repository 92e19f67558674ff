"""The statistics of a search, in memory that all its processes share: ``hs_search_*`` of the C core.

    memfd:   table (csrc/hs_search.h) | a Tally of 128 bytes for each process

A memfd has no name: it goes with the last process that has it, whoever dies. Through a fork it is inherited; spawn and
forkserver hand its descriptor over.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import reduction
from typing import Any, Literal, NamedTuple

from .._capi import check, ffi, lib
from .metrics import TALLY_BYTES

CHOICE_ROW: int = lib.HS_SEARCH_CHOICE
CHANCE_ROW: int = lib.HS_SEARCH_CHANCE
TERMINAL_ROW: int = lib.HS_SEARCH_TERMINAL
NO_ROW = 2**32 - 1

LANES_MAX: int = lib.HS_SEARCH_LANES_MAX
PLAYERS_MAX: int = lib.HS_SEARCH_PLAYERS_MAX
# One row for so many bytes: what the actions of a row take beside it is 32 bytes each.
_BYTES_PER_ROW = 256
_PAGE = mmap.PAGESIZE
_PACKED_BYTES = 1 << 18
_PACKED = struct.Struct("<32sII")


@dataclass(frozen=True, slots=True)
class Settings:
    """How a table chooses; see ``Search`` for what each of them means."""

    bytes: int
    processes: int
    lanes: int
    num_players: int
    depth_max: int
    selection: Literal["puct", "uct"]
    exploration: float
    discount: float
    fpu: float | None
    in_flight: Literal["wu-uct", "virtual-loss"]
    virtual_loss: float
    normalize: bool
    widening: tuple[float, float] | None


class Row(NamedTuple):
    """What the table has of a state. ``visits`` and ``in_flight``: of all its edges; ``visits`` also those that ended
    here (``own_visits``)."""

    id: bytes
    kind: int
    player: int
    num_actions: int
    made_by: int
    visits: int
    in_flight: int
    own_visits: int
    own_value_sum: float
    returns: tuple[float, ...]


class Edge(NamedTuple):
    """What the table has of an action of a state."""

    visits: int
    in_flight: int
    value_sum: float
    prior: float
    child: int | None
    child_id: bytes | None
    rewards: tuple[float, ...]


class Counts(NamedTuple):
    """How full a table is."""

    rows: int
    rows_max: int
    slots: int
    slots_max: int
    full: bool
    tickets: int


class Descent:
    """What a walk down from the root has come to: an action to ``expand``, or a row to ``evaluate``, or neither."""

    __slots__ = ("_leaf",)

    def __init__(self, leaf: Any) -> None:
        self._leaf = leaf

    @property
    def expand(self) -> bool:
        return bool(self._leaf.what == lib.HS_SEARCH_EXPAND)

    @property
    def evaluate(self) -> bool:
        return bool(self._leaf.what == lib.HS_SEARCH_EVALUATE)

    @property
    def none(self) -> bool:
        """No ticket was left, or somebody said stop."""
        return bool(self._leaf.what == lib.HS_SEARCH_NONE)

    @property
    def row(self) -> int:
        return int(self._leaf.row)

    @property
    def action(self) -> int:
        return int(self._leaf.action)

    @property
    def id(self) -> bytes:
        return bytes(ffi.buffer(self._leaf.id))


class Table:
    """A table, mapped into this process."""

    def __init__(self, settings: Settings) -> None:
        if settings.num_players > PLAYERS_MAX:
            raise ValueError(f"a search has at most {PLAYERS_MAX} players, not {settings.num_players}")
        self.settings = settings
        config = self._config()
        self._table_size = int(config.size_bytes)
        self._fd = os.memfd_create("helios-search", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self._fd, self._table_size + _PAGE * -(-settings.processes * TALLY_BYTES // _PAGE))
            self._map()
            check(lib.hs_search_format(self._memory, config), "making the table of a search")
        except BaseException:
            os.close(self._fd)
            raise

    def _config(self) -> Any:
        settings, config = self.settings, ffi.new("hs_search_config *")
        size = ffi.new("uint64_t *")
        config.lanes, config.num_players = settings.lanes, settings.num_players
        config.depth_max = settings.depth_max
        config.rule = lib.HS_SEARCH_PUCT if settings.selection == "puct" else lib.HS_SEARCH_UCT
        virtual_loss = settings.in_flight == "virtual-loss"
        config.in_flight_rule = lib.HS_SEARCH_VIRTUAL_LOSS if virtual_loss else lib.HS_SEARCH_WU_UCT
        config.normalize = settings.normalize
        config.c, config.discount = settings.exploration, settings.discount
        config.fpu = float("nan") if settings.fpu is None else settings.fpu
        config.virtual_loss = settings.virtual_loss
        config.widening_c, config.widening_alpha = settings.widening or (0.0, 0.0)
        # Lanes are many and long, and hardly ever touched: they come on top of what rows and actions have.
        config.rows_max = 16
        check(lib.hs_search_size(config, size), "making the table of a search")
        config.rows_max = max(16, settings.bytes // _BYTES_PER_ROW)
        config.size_bytes = (size[0] + settings.bytes) // _PAGE * _PAGE
        return config

    def _map(self) -> None:
        self._mapped = mmap.mmap(self._fd, 0)
        self._memory = ffi.cast("void *", ffi.from_buffer(self._mapped))
        self._rng = ffi.new("uint64_t *")
        self._row_out = ffi.new("uint32_t *")
        self.compactions = 0  # by this process: how often rows have got other numbers

    def __getstate__(self) -> tuple[Settings, Any]:
        return self.settings, reduction.DupFd(self._fd)

    def __setstate__(self, state: tuple[Settings, Any]) -> None:
        self.settings, fd = state
        self._table_size = int(self._config().size_bytes)
        self._fd = fd.detach()
        self._map()
        check(lib.hs_search_attach(self._memory, self._table_size, ffi.NULL), "joining the table of a search")

    def close(self) -> None:
        """Let go of the descriptor; the memory goes with the last map. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def seed(self, seed: int) -> None:
        """Set what this process breaks ties by."""
        self._rng[0] = seed

    def tally(self, process: int) -> memoryview:
        """The words of a process for its counts."""
        at = self._table_size + process * TALLY_BYTES
        return memoryview(self._mapped)[at : at + TALLY_BYTES]

    # --- rows ---

    def find(self, id: bytes) -> int | None:
        """The row of a state, if the table has it."""
        if lib.hs_search_find(self._memory, id, self._row_out) < 0:
            return None
        return int(self._row_out[0])

    def insert(
        self,
        id: bytes,
        made_by: int,
        kind: int,
        player: int,
        num_actions: int,
        logits: Sequence[float] | None,
        returns: Sequence[float] | None,
    ) -> tuple[int, bool]:
        """Enter a state. Returns its row, and whether it is new. CapacityError: the table is full."""
        status = lib.hs_search_insert(
            self._memory,
            made_by,
            id,
            kind,
            player,
            num_actions,
            ffi.NULL if logits is None else ffi.new("float[]", list(logits)),
            ffi.NULL if returns is None else ffi.new("double[]", list(returns)),
            self._row_out,
        )
        return self._entered(status)

    def _entered(self, status: int) -> tuple[int, bool]:
        new = check(status, f"a search's table of {self.settings.bytes >> 20} MiB") == 1
        return int(self._row_out[0]), new

    def set_priors(self, row: int, logits: Sequence[float]) -> None:
        """Give a row its priors, by their logits."""
        values = ffi.new("float[]", list(logits))
        check(lib.hs_search_priors(self._memory, row, values, len(logits)), "setting priors")

    def set_noise(self, row: int, noise: Sequence[float], fraction: float) -> None:
        """Mix noise into a row's priors, in the place of what was mixed in before."""
        values = ffi.new("float[]", list(noise))
        check(lib.hs_search_noise(self._memory, row, values, len(noise), fraction), "setting noise")

    def row(self, row: int) -> Row | None:
        """What stands in a row; None: there is none of this number."""
        info = ffi.new("hs_search_row_info *")
        if lib.hs_search_row(self._memory, row, info) < 0:
            return None
        return Row(
            bytes(ffi.buffer(info.id)),
            info.kind,
            info.player,
            info.num_actions,
            info.made_by,
            info.visits,
            info.in_flight,
            info.own_visits,
            info.own_value_sum,
            tuple(info.returns[0 : self.settings.num_players]) if info.kind == TERMINAL_ROW else (),
        )

    def rows(self) -> Iterable[tuple[int, Row]]:
        """All rows by their numbers."""
        for number in range(self.counts().rows):
            row = self.row(number)
            if row is not None:
                yield number, row

    def edges(self, row: int) -> list[Edge]:
        """The actions of a row, in order."""
        count = check(lib.hs_search_edges(self._memory, row, ffi.NULL, 0), "reading a search's table")
        edges = ffi.new("hs_search_edge[]", max(count, 1))
        lib.hs_search_edges(self._memory, row, edges, count)
        return [self._edge(edges[index]) for index in range(count)]

    def _edge(self, edge: Any) -> Edge:
        known = edge.child != NO_ROW
        return Edge(
            edge.visits,
            edge.in_flight,
            edge.value_sum,
            edge.prior,
            edge.child if known else None,
            bytes(ffi.buffer(edge.child_id)) if known else None,
            tuple(edge.rewards[0 : self.settings.num_players]),
        )

    def changed(self, marks: bytearray) -> Iterator[tuple[bytes, bytes]]:
        """Rows by their ids, as a saved search has them, of which ``marks`` does not know or knows otherwise: 8 bytes a
        row, zeros at first, longer as rows come. What it has been told of, it knows. Cost: a pass over the table."""
        rows = self.counts().rows
        marks.extend(bytes(max(0, 8 * rows - len(marks))))
        room, known = bytearray(_PACKED_BYTES), ffi.from_buffer("uint64_t[]", marks)
        row = ffi.new("uint32_t *")
        while True:
            out = ffi.from_buffer("uint8_t[]", room)
            used = int(lib.hs_search_pack(self._memory, row, rows, known, out, len(room)))
            if used == lib.HS_FULL:
                room = bytearray(2 * len(room))
            elif check(used, "reading a search's table") == 0:
                return
            else:
                yield from _unpacked(bytes(memoryview(room)[:used]))

    def restore(self, row: int, own_visits: int, own_value_sum: float, edges: Sequence[Edge]) -> None:
        """Give a row these counts. Only while nobody searches."""
        given = ffi.new("hs_search_edge[]", max(len(edges), 1))
        for into, edge in zip(given, edges, strict=False):
            into.visits, into.value_sum, into.prior = edge.visits, edge.value_sum, edge.prior
            into.child = NO_ROW if edge.child is None else edge.child
            into.rewards[0 : len(edge.rewards)] = list(edge.rewards)
        status = lib.hs_search_restore(self._memory, row, own_visits, own_value_sum, given, len(edges))
        check(status, "restoring a search's table")

    # --- simulations ---

    def descent(self) -> Descent:
        return Descent(ffi.new("hs_search_leaf *"))

    def begin(self, lane: int, owner: int, root: int, descent: Descent) -> None:
        """Take a ticket and walk down from a root."""
        status = lib.hs_search_begin(self._memory, lane, owner, root, self._rng, descent._leaf)
        check(status, "a search's table")

    def replay(self, lane: int, owner: int, root: int, actions: Sequence[int], descent: Descent) -> None:
        """Take a ticket and walk down by these actions."""
        given = ffi.new("uint32_t[]", list(actions) or [0])
        status = lib.hs_search_replay(self._memory, lane, owner, root, given, len(actions), descent._leaf)
        check(status, "a search's table")

    def resume(self, lane: int, descent: Descent) -> None:
        """Go on walking down from the child that the path's last edge has now."""
        check(lib.hs_search_resume(self._memory, lane, self._rng, descent._leaf), "a search's table")

    def link(self, lane: int, child: int, rewards: Sequence[float] | None) -> bool:
        """Give the path's last edge its child. False: somebody has given it another, and the path leads there."""
        given = ffi.NULL if rewards is None else ffi.new("double[]", list(rewards))
        return check(lib.hs_search_link(self._memory, lane, child, given), "a search's table") == 0

    def backup(self, lane: int, values: Sequence[float], count: int = 1) -> None:
        """End a simulation with these values of the row it came to."""
        given = ffi.new("double[]", list(values))
        check(lib.hs_search_backup(self._memory, lane, given, count), "a search's table")

    def abandon(self, lane: int) -> None:
        """End a simulation as if it had never been. Nothing, if the lane has none."""
        check(lib.hs_search_abandon(self._memory, lane), "a search's table")

    def path(self, lane: int) -> list[tuple[int, int]]:
        """A lane's path from the root: each row, and the action that leaves it."""
        size = self.settings.depth_max
        rows, actions = ffi.new("uint32_t[]", size), ffi.new("uint32_t[]", size)
        count = check(lib.hs_search_path(self._memory, lane, rows, actions, size), "a search's table")
        return list(zip(rows[0:count], actions[0:count], strict=True))

    # --- all of it ---

    def tickets(self, add: int = 0) -> int:
        """Hand out tickets, one for a simulation. Returns how many are left."""
        return int(lib.hs_search_tickets(self._memory, add))

    def take_tickets(self) -> None:
        lib.hs_search_tickets(self._memory, -(2**63))

    def stop(self, on: bool) -> None:
        """Have everybody come to an end after the simulation at hand; or no longer."""
        lib.hs_search_stop(self._memory, on)

    @property
    def full(self) -> bool:
        return self.counts().full

    def counts(self) -> Counts:
        totals = ffi.new("hs_search_totals *")
        check(lib.hs_search_counts(self._memory, totals), "a search's table")
        return Counts(
            totals.rows, totals.rows_max, totals.slots, totals.slots_max, bool(totals.full), totals.tickets
        )

    def repair(self, owner: int) -> tuple[int, int]:
        """Finish, or take back, what a dead process was in the middle of. Returns how many of each."""
        finished, undone = ffi.new("uint32_t *"), ffi.new("uint32_t *")
        check(lib.hs_search_repair(self._memory, owner, finished, undone), "mending a search's table")
        return int(finished[0]), int(undone[0])

    def compact(self, roots: Sequence[int], rows_keep_max: int | None = None) -> list[int | None]:
        """Drop what cannot be reached from these rows; with ``rows_keep_max``, also what was visited least, until so
        many are left. Returns the new number of each row. Only while all workers are idle."""
        rows = self.counts().rows
        remap = ffi.new("uint32_t[]", max(rows, 1))
        keep = 2**32 - 1 if rows_keep_max is None else rows_keep_max
        given = ffi.new("uint32_t[]", list(roots))
        self.compactions += 1
        check(
            int(lib.hs_search_compact(self._memory, given, len(roots), keep, remap)),
            "making room in a search's table",
        )
        return [None if row == NO_ROW else row for row in remap[0:rows]]


def _unpacked(packed: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Rows by their ids out of what hs_search_pack has written."""
    at = 0
    while at < len(packed):
        id, _, size = _PACKED.unpack_from(packed, at)
        at += _PACKED.size + size
        yield id, packed[at - size : at]
