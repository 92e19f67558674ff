"""A search as a state on a branch: stopped or killed, it can be opened again and goes on.

    search             JSON: what the search was made with, and how far it is
    root               the state that it searches from, as a nested state
    row/<id>           what is known of a state: packed, by ``encode_row``
    state/<id>         that state itself, nested, so that a collection keeps it as long as the row
    trial/<id>         a trial that was not told yet: the path to it

docs/FORMAT.md has the bytes. A save puts only what has changed since the last one, as one commit: whoever reads the
branch sees one save or another, never half of one, and the branch's history has those before.

What workers count while a save is under way may be in it for one state and not yet for another. Each row stands for
itself, and a search goes on from any of them; ``num_simulations`` is what the root's row says.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from .. import (
    Branch,
    CapacityError,
    Commit,
    ConflictError,
    CorruptError,
    FormatError,
    NotFoundError,
    Snapshot,
    Workspace,
)
from . import tree
from .rows import CountedEdge, CountedRow, TableRows
from .table import CHANCE_ROW, CHOICE_ROW, PLAYERS_MAX, TERMINAL_ROW, Edge, Table
from .tree import Row

FORMAT = "helios-shm search"
VERSION = 1
ROW_VERSION = 1
TRIAL_VERSION = 1

SEARCH, ROOT = "search", "root"
ROW, STATE, TRIAL = "row/", "state/", "trial/"

_ROW = struct.Struct("<BBhBBHIIQd")
_EDGE = struct.Struct("<IIQd")
_TRIAL = struct.Struct("<BBHI32s32s")
_PRIORS_FOLLOW = 1
_HAS_CHILD, _HAS_REWARDS = 1, 2
_ACTIONS_MAX = 1 << 20
_TRIAL_ID_SIZE = 16
_NOTHING = -1
# Half of what a table counts to (csrc/hs_search.h): there is room for as many again.
_VISITS_MAX = 2**27


@dataclass(frozen=True, slots=True)
class Header:
    """What a search was made with, and how far it is.

    ``env``: the type's name, for people; ``options``: by the names of ``Search``; ``nonce`` and ``next_serial``: of its
    trials; ``num_simulations``: of the root, filled in by a save."""

    env: str
    num_players: int
    root: bytes
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)
    nonce: bytes = b""
    next_serial: int = 0
    num_simulations: int = 0


class SavedTrial(NamedTuple):
    """A trial that was not told yet: the state that its walk began at, the one that it came to, and the actions between
    them, each by its place among the legal ones."""

    root: bytes
    leaf: bytes
    actions: tuple[int, ...]


# --- the bytes of a row ---


def encode_row(row: Row, edges: Sequence[tree.Edge], num_players: int) -> bytes:
    """A row with its edges, without what is in flight."""
    priors = [edge.prior for edge in edges]
    follow = bool(priors) and any(prior != _even(len(priors)) for prior in priors)
    known = [(index, edge) for index, edge in enumerate(edges) if edge.visits or edge.child is not None]
    parts = [
        _ROW.pack(
            ROW_VERSION,
            row.kind,
            row.player,
            num_players,
            _PRIORS_FOLLOW if follow else 0,
            0,
            len(edges),
            len(known),
            row.own_visits,
            _finite(row.own_value_sum),
        ),
        struct.pack(f"<{len(row.returns)}d", *row.returns),
        struct.pack(f"<{len(priors)}f", *priors) if follow else b"",
    ]
    for index, edge in known:
        flags = _HAS_CHILD * (edge.child is not None) + _HAS_REWARDS * any(edge.rewards)
        parts.append(_EDGE.pack(index, flags, edge.visits, _finite(edge.value_sum)))
        if edge.child is not None:
            parts.append(edge.child)
        if flags & _HAS_REWARDS:
            parts.append(struct.pack(f"<{num_players}d", *edge.rewards))
    return b"".join(parts)


def _even(actions: int) -> float:
    """The prior of each of so many actions that are all alike, as a float of 4 bytes."""
    return float(struct.unpack("<f", struct.pack("<f", 1 / actions))[0])


def _finite(value: float) -> float:
    """A sum that has overflowed as the greatest one that has not."""
    return value if math.isfinite(value) else math.copysign(1.7e308, value)


class _Head(NamedTuple):
    """What the bytes of a row begin with. ``edges``: how many follow."""

    kind: int
    player: int
    players: int
    alike: bool
    actions: int
    edges: int
    own_visits: int
    own_value_sum: float
    returns: tuple[float, ...]


def _decode_head(reader: _Reader) -> _Head:
    version, kind, player, players, flags, zero, actions, count, own_visits, own_value_sum = reader.take(_ROW)
    if version != ROW_VERSION:
        raise FormatError(f"{reader.what} is of version {version}, this library reads {ROW_VERSION}")
    ended = kind == TERMINAL_ROW
    reader.expect(kind in (CHOICE_ROW, CHANCE_ROW, TERMINAL_ROW), f"no row is of kind {kind}")
    reader.expect(1 <= players <= PLAYERS_MAX, f"{players} players")
    reader.expect((player == -1) == (kind == CHANCE_ROW) and -1 <= player < players, f"player {player} moves")
    reader.expect(flags & ~_PRIORS_FOLLOW == 0 and zero == 0, "flags that this version does not know")
    reader.expect((actions == 0) == ended and actions <= _ACTIONS_MAX, f"{actions} actions")
    reader.expect(count <= actions, f"{count} edges of {actions} actions")
    reader.expect(math.isfinite(own_value_sum), "a sum of values that is no number")
    returns = reader.numbers(players) if ended else ()
    return _Head(kind, player, players, flags == 0, actions, count, own_visits, own_value_sum, returns)


def decode_row(id: bytes, data: bytes) -> tuple[CountedRow, tuple[CountedEdge, ...], int]:
    """A row, its edges, and how many players it knows.

    Raises FormatError for another version's, CorruptError for bytes that ``encode_row`` would not have written.
    """
    reader = _Reader(id, data)
    head = _decode_head(reader)
    edges = reader.untried(head.actions, alike=head.alike)
    last, visits = -1, head.own_visits
    for _ in range(head.edges):
        index, flags, count, value_sum = reader.take(_EDGE)
        reader.expect(last < index < head.actions, f"edge {index} behind edge {last} of {head.actions}")
        edges[index] = _decode_edge(reader, head.players, flags, count, value_sum, edges[index].prior)
        visits += count
        last = index
    reader.end()
    row = CountedRow(id, head.kind, head.player, visits, 0, head.own_visits, head.own_value_sum, head.returns)
    return row, tuple(edges), head.players


def _decode_edge(
    reader: _Reader, players: int, flags: int, visits: int, value_sum: float, prior: float
) -> CountedEdge:
    reader.expect(flags & ~(_HAS_CHILD | _HAS_REWARDS) == 0, "flags that this version does not know")
    reader.expect(visits > 0 or flags & _HAS_CHILD, "an edge that nobody has entered")
    reader.expect(math.isfinite(value_sum), "a sum of values that is no number")
    child = reader.bytes(32) if flags & _HAS_CHILD else None
    rewards = reader.numbers(players) if flags & _HAS_REWARDS else ()
    return CountedEdge(visits, 0, value_sum, prior, child, rewards)


class _Reader:
    """Takes bytes apart, and says of what they are if they are not what they should be."""

    def __init__(self, id: bytes, data: bytes, kind: str = "row") -> None:
        self.id, self.data, self.kind, self.at = id, data, kind, 0

    @property
    def what(self) -> str:
        return f"{self.kind} {self.id.hex()}"

    def expect(self, held: object, found: str) -> None:
        if not held:
            raise CorruptError(f"{self.what} of a saved search: {found}")

    def bytes(self, size: int) -> bytes:
        self.expect(self.at + size <= len(self.data), f"it ends after {len(self.data)} bytes")
        self.at += size
        return self.data[self.at - size : self.at]

    def take(self, form: struct.Struct) -> tuple[Any, ...]:
        return form.unpack(self.bytes(form.size))

    def numbers(self, count: int) -> tuple[float, ...]:
        numbers = struct.unpack(f"<{count}d", self.bytes(8 * count))
        self.expect(all(map(math.isfinite, numbers)), "a number that is none")
        return numbers

    def untried(self, count: int, *, alike: bool) -> list[CountedEdge]:
        """So many actions with their priors. Those alike are one object: few bytes may say that they are many."""
        if alike:
            return [CountedEdge(0, 0, 0.0, _even(count), None, ())] * count if count else []
        priors = struct.unpack(f"<{count}f", self.bytes(4 * count))
        self.expect(all(0 <= prior <= 1.001 for prior in priors), "a prior that is no probability")
        return [CountedEdge(0, 0, 0.0, prior, None, ()) for prior in priors]

    def end(self) -> None:
        self.expect(self.at == len(self.data), f"{len(self.data) - self.at} bytes too many")


# --- trials and the header ---


def encode_trial(trial: SavedTrial) -> bytes:
    """The path of a trial."""
    head = _TRIAL.pack(TRIAL_VERSION, 0, 0, len(trial.actions), trial.root, trial.leaf)
    return head + struct.pack(f"<{len(trial.actions)}I", *trial.actions)


def decode_trial(id: bytes, data: bytes) -> SavedTrial:
    """Raises FormatError, CorruptError, as ``decode_row``."""
    reader = _Reader(id, data, "trial")
    version, flags, zero, count, root, leaf = reader.take(_TRIAL)
    if version != TRIAL_VERSION:
        raise FormatError(f"{reader.what} is of version {version}, this library reads {TRIAL_VERSION}")
    reader.expect(flags == zero == 0, "flags that this version does not know")
    actions = struct.unpack(f"<{count}I", reader.bytes(4 * count))
    reader.end()
    return SavedTrial(root, leaf, actions)


def encode_header(header: Header) -> bytes:
    """The value of ``search``."""
    said = asdict(header) | {"root": header.root.hex(), "nonce": header.nonce.hex()}
    return json.dumps(
        {"format": FORMAT, "version": VERSION, **said}, sort_keys=True, allow_nan=False
    ).encode()


def decode_header(data: bytes) -> Header:
    """Raises FormatError, CorruptError, as ``decode_row``."""
    said = _json_of(data)
    if said.get("format") != FORMAT or said.get("version") != VERSION:
        raise FormatError(
            f"this branch has no search as this library saves them: format {said.get('format')!r} of version "
            f"{said.get('version')!r}, not {FORMAT!r} of version {VERSION}"
        )

    def value(name: str, kind: type, is_good: Callable[[Any], bool] = lambda _: True) -> Any:
        found = said.get(name)
        if type(found) is not kind or not is_good(found):
            raise CorruptError(f"what a saved search says of itself: {name} is {found!r}")
        return found

    def natural(name: str) -> int:
        return int(value(name, int, lambda number: 0 <= number < 2**64))

    return Header(
        env=value("env", str),
        num_players=value("num_players", int, lambda number: 1 <= number <= PLAYERS_MAX),
        root=bytes.fromhex(value("root", str, lambda text: _is_hex(text, 32))),
        seed=value("seed", int),
        options=value("options", dict),
        nonce=bytes.fromhex(value("nonce", str, lambda text: _is_hex(text, 8) or text == "")),
        next_serial=natural("next_serial"),
        num_simulations=natural("num_simulations"),
    )


def _json_of(data: bytes) -> dict[str, Any]:
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise CorruptError("what a saved search says of itself is no JSON object")
    return said


def _is_hex(text: str, size: int) -> bool:
    try:
        return len(text) == 2 * size and bytes.fromhex(text).hex() == text
    except ValueError:
        return False


# --- saving ---


class Saver:
    """Saves one search to one branch, each time what has changed: of each row that was put, a hash is remembered. Keys
    of the branch that are none of a search's stay as they are."""

    def __init__(self, branch: Branch) -> None:
        self.branch = branch
        self._last = _Save()
        # What was about to be committed: it may have been, if the commit was interrupted.
        self._tried = self._last

    @classmethod
    def after(cls, saved: Saved) -> Saver:
        """One that goes on from what was loaded."""
        saver = cls(saved.branch)
        put = {id: hash(data) for id, data in saved.packed()}
        saver._last = saver._tried = _Save(
            saved.state[SEARCH], saved.header.num_simulations, put, saved.trials
        )
        return saver

    def save(
        self,
        header: Header,
        rows: Iterable[tuple[bytes, bytes]],
        root: Snapshot,
        trials: Mapping[bytes, SavedTrial] = {},
        *,
        whole: bool = True,
    ) -> Commit | None:
        """Commit what has changed. None: nothing has.

        rows: each by its id, as ``encode_row`` packs it. whole: these are all; others that were there before are
        removed, and their states can be collected. Else they are as they were.

        Raises ConflictError if somebody else has saved a search to the branch since: nothing is written.
        """
        workspace = self.branch.fork()
        last = self._found(workspace.base)
        put = {} if whole else dict(last.put)
        simulations = 0 if whole else last.simulations
        for id, data in rows:
            put[id] = mark = hash(data)
            if id == header.root:
                simulations = visits_of(data)
            if last.put.get(id) != mark:
                workspace[f"{ROW}{id.hex()}"] = data
            if id not in last.put:
                workspace.put(f"{STATE}{id.hex()}", id, kind="snapshot")
        for path in _stale(workspace.base, last, put) if whole else ():
            del workspace[path]
        for trial in last.trials.keys() - trials.keys():
            del workspace[f"{TRIAL}{trial.hex()}"]
        for trial in trials.keys() - last.trials.keys():
            workspace[f"{TRIAL}{trial.hex()}"] = encode_trial(trials[trial])
        now = _Save(
            encode_header(replace(header, num_simulations=simulations)), simulations, put, dict(trials)
        )
        return None if now == last else self._commit(workspace, root, now)

    def _commit(self, workspace: Workspace, root: Snapshot, now: _Save) -> Commit:
        assert now.said is not None, "it is about to be said"
        workspace[SEARCH] = now.said
        workspace.put(ROOT, root)
        self._tried = now
        commit = workspace.commit(f"search: {now.simulations:,} simulations", metadata={"rows": len(now.put)})
        self._last = now
        return commit

    def _found(self, base: Snapshot) -> _Save:
        """What this search has saved last. ConflictError where the branch has something else."""
        there = base.get(SEARCH)
        if self._last.said is None and there != self._tried.said:
            return self._last  # the first save takes the place of whatever is there
        for save in (self._tried, self._last):
            if there == save.said:
                return save
        raise ConflictError(
            f"branch {self.branch.name!r} does not have what this search saved there last: another search saves to it, "
            "or it was moved; give each search a branch of its own"
        )


@dataclass(frozen=True, slots=True)
class _Save:
    """What stands in a branch after a save: its key ``search`` (None: no save yet), marks of its rows, its trials."""

    said: bytes | None = None
    simulations: int = 0
    put: Mapping[bytes, int] = field(default_factory=dict)
    trials: Mapping[bytes, SavedTrial] = field(default_factory=dict)


def _stale(base: Snapshot, last: _Save, put: Mapping[bytes, int]) -> Iterator[str]:
    """What is there and shall not be: of this search, or, at its first save, of an earlier one."""
    if last.said is not None:
        for id in last.put.keys() - put.keys():
            yield f"{ROW}{id.hex()}"
            yield f"{STATE}{id.hex()}"
        return
    fresh = {id.hex() for id in put}
    for prefix in (ROW, STATE):
        yield from (path for path in base.keys(prefix) if path.removeprefix(prefix) not in fresh)
    yield from base.keys(TRIAL)


class Changes:
    """What the tables of a search have that was not saved yet: the sums, where several have a state."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self._tables = tables
        self._marks: list[bytearray] = []
        self._known = _NOTHING
        self._looked = 0

    def look(self) -> tuple[Iterator[tuple[bytes, bytes]], bool]:
        """Rows to give to ``Saver.save``, and whether they are all: they are, if rows were dropped since the last save,
        or it has failed."""
        self._looked = sum(table.compactions for table in self._tables)
        whole = self._looked != self._known
        if whole:
            self._marks = [bytearray() for _ in self._tables]
        self._known = _NOTHING
        return (self._tables[0].changed(self._marks[0]) if len(self._tables) == 1 else self._summed()), whole

    def saved(self) -> None:
        """What was looked at last has been saved."""
        self._known = self._looked

    def _summed(self) -> Iterator[tuple[bytes, bytes]]:
        rows = TableRows(self._tables)
        changed = zip(self._tables, self._marks, strict=True)
        for id in {id for table, marks in changed for id, _ in table.changed(marks)}:
            row = rows.row(id)
            assert row is not None, "rows stay while a search is saved"
            yield id, encode_row(row, rows.edges(row), rows.num_players)


def visits_of(data: bytes) -> int:
    """How often the state of a packed row was visited."""
    return decode_row(b"", data)[0].visits


# --- loading ---


class Saved:
    """A search as a branch has it: rows to look at, to grow trees from, and to restore. Nothing of it is read before it
    is asked for, but the header."""

    def __init__(self, branch: Branch, state: Snapshot) -> None:
        """Raises NotFoundError where no search was saved, FormatError, CorruptError."""
        self.branch, self.state = branch, state
        if SEARCH not in state:
            raise NotFoundError(f"no search was saved to branch {branch.name!r}: it has no key {SEARCH!r}")
        self.header = decode_header(state[SEARCH])
        self.root = self._root()
        self.trials = {
            _id_of(path, TRIAL, _TRIAL_ID_SIZE): decode_trial(_id_of(path, TRIAL, _TRIAL_ID_SIZE), data)
            for path, data in state.items(TRIAL)
        }
        self._last: tuple[CountedRow, tuple[CountedEdge, ...]] | None = None

    @classmethod
    def load(cls, branch: Branch) -> Saved:
        """The search that a branch has now."""
        return cls(branch, branch.head)

    def _root(self) -> Snapshot:
        try:
            root = self.state.nested(ROOT)
        except (KeyError, ValueError) as error:
            raise CorruptError(f"a saved search has no root: {error}") from None
        if root.id != self.header.root.hex():
            raise CorruptError(
                f"a saved search has root {root.id}, and says that it is {self.header.root.hex()}"
            )
        return root

    @property
    def num_players(self) -> int:
        return self.header.num_players

    def row(self, id: bytes) -> CountedRow | None:
        """What is known of a state."""
        data = self.state.get(f"{ROW}{id.hex()}")
        return None if data is None else self._decoded(id, data)[0]

    def edges(self, row: Row) -> Sequence[CountedEdge]:
        """The actions of a state."""
        if self._last is None or self._last[0].id != row.id:
            self._decoded(row.id, self.state[f"{ROW}{row.id.hex()}"])
        assert self._last is not None
        return self._last[1]

    def _decoded(self, id: bytes, data: bytes) -> tuple[CountedRow, tuple[CountedEdge, ...]]:
        row, edges, players = decode_row(id, data)
        if players != self.num_players:
            raise CorruptError(
                f"row {id.hex()} of a saved search: {players} players in a game of {self.num_players}"
            )
        self._last = row, edges
        return self._last

    def head(self, id: bytes, data: bytes) -> _Head:
        """What a row begins with."""
        head = _decode_head(_Reader(id, data))
        if head.players != self.num_players:
            raise _other_players(id, head.players, self.num_players)
        return head

    def packed(self) -> Iterator[tuple[bytes, bytes]]:
        """Each row by its id, as it was put."""
        for path, data in self.state.items(ROW):
            yield _id_of(path, ROW, 32), data

    def __iter__(self) -> Iterator[CountedRow]:
        for id, data in self.packed():
            yield self._decoded(id, data)[0]


def _other_players(id: bytes, players: int, expected: int) -> CorruptError:
    return CorruptError(f"row {id.hex()} of a saved search: {players} players in a game of {expected}")


def _id_of(path: str, prefix: str, size: int) -> bytes:
    text = path.removeprefix(prefix)
    if not _is_hex(text, size):
        raise CorruptError(f"a saved search has the key {path!r}")
    return bytes.fromhex(text)


def restore(saved: Saved, table: Table, made_by: int = 0) -> None:
    """Give a table what was saved; nobody may be searching in it.

    If it is too small, it gets the states most visited. Raises ValueError where the environment's actions, or players,
    are others than when it was saved, CapacityError where not even the rewards of what it got have room.
    """
    if saved.num_players != table.settings.num_players:
        raise ValueError(
            f"a search of {saved.num_players} players was saved, and the environment now has "
            f"{table.settings.num_players}"
        )
    numbers: dict[bytes, int] = {}
    for id, head in _in_order(saved, table):
        try:
            number, new = table.insert(
                id, made_by, head.kind, head.player, head.actions, None, head.returns or None
            )
        except CapacityError:
            break
        if not new and (known := table.row(number)) is not None and known.num_actions != head.actions:
            raise ValueError(
                f"state {id.hex()[:12]} had {head.actions} actions when the search was saved, and now has "
                f"{known.num_actions}"
            )
        numbers[id] = number
    for id, data in saved.packed():
        if id in numbers:
            row, edges, _ = decode_row(id, data)
            given = [_restored(edge, numbers) for edge in edges]
            table.restore(numbers[id], *_counted(row.own_visits, row.own_value_sum), given)


def _in_order(saved: Saved, table: Table) -> Iterable[tuple[bytes, _Head]]:
    """The rows: as they come, if the table has room for all of them, else those most visited first."""
    heads = {id: saved.head(id, data) for id, data in saved.packed()}
    counts = table.counts()
    rewards = 1 + (saved.num_players - 1) // 4  # slots of an edge's rewards, or a row's returns
    slots = sum(head.actions + (head.edges + 1) * rewards for head in heads.values())
    if counts.rows + len(heads) <= counts.rows_max and counts.slots + slots <= counts.slots_max:
        return heads.items()
    order = sorted((-row.visits, row.id) for row in saved)
    return [(id, heads[id]) for _, id in order]


def _restored(edge: CountedEdge, numbers: Mapping[bytes, int]) -> Edge:
    child = None if edge.child is None else numbers.get(edge.child)
    visits, value_sum = _counted(edge.visits, edge.value_sum)
    return Edge(visits, 0, value_sum, edge.prior, child, None, edge.rewards if child is not None else ())


def _counted(visits: int, value_sum: float) -> tuple[int, float]:
    """Counts as a table can have them: those of several may add up to more than one counts to. The mean stays."""
    if visits <= _VISITS_MAX:
        return visits, value_sum
    return _VISITS_MAX, value_sum / visits * _VISITS_MAX
