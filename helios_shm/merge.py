"""Three-way merge of states, path by path.

        base
       /    \\            what theirs has changed since base goes onto ours; a path that ours has changed as well is a
    ours   theirs        conflict, and stays one unless a resolver decides
       \\    /
       merged

Walked is the difference of base and theirs alone, so a merge costs O(changes x depth); values are read only where both
have changed a path. A path's entry is {kind, value}: another kind of the same value is a change. Where base, ours and
theirs have a state each (kind snapshot), these are merged in the same way, by the same resolvers; its inner paths are
what the patterns are held against.

``Snapshot.merge`` and ``Branch.merge`` accept what both sides have changed to the same. A commit that meets a head
which has moved does not (workspace.py): there, two equal edits are two increments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import NamedTuple

from .attachment import Attachment
from .errors import ConflictError, NotFoundError
from .mapping import EVERYTHING
from .resolve import Rules, Unresolved, resolved
from .snapshot import Snapshot, entry_of, make_snapshot
from .types import Conflict, Kind, Resolver, Stat

NESTED_STATES_MAX = 64
_SHOWN_MAX = 3
_PLAIN = ("file", "executable")


class Entry(NamedTuple):
    """What a side has at a path."""

    kind: Kind
    value: bytes


class Refused(NamedTuple):
    """A path that stays in conflict, and why if there is more to say."""

    conflict: Conflict
    why: str


def merge_states(
    ours: Snapshot, theirs: Snapshot, base: Snapshot, rules: Rules, what: str, depth: int = 0
) -> Snapshot:
    """The state that has what ``ours`` and ``theirs`` have changed since ``base``. Raises ConflictError."""
    if theirs == base or (ours == theirs and not rules):
        return ours
    if ours == base:
        return theirs
    workspace = ours.fork()
    refused: list[Refused] = []
    for path in changed_paths(base, theirs):
        was, mine, its = entry_of(base, path), entry_of(ours, path), entry_of(theirs, path)
        if mine == was:
            workspace._take(path, theirs, its)
        elif mine != its or _may_resolve(rules, path, was, mine):
            sides = entry_at(base, path), entry_at(ours, path), entry_at(theirs, path)
            try:
                outcome = resolve_path(ours, rules, path, *sides, depth=depth)
            except Unresolved as why:
                if (
                    mine != its
                ):  # equal changes are no conflict without a resolver, so none with one that is no help
                    refused.append(Refused(conflict_of(path, *sides), str(why)))
            else:
                workspace._set_entry(path, outcome)
    if refused:
        raise conflict_error(f"{what}: both sides have changed", refused)
    return workspace.commit().snapshot


def changed_paths(old: Snapshot, new: Snapshot) -> Iterator[str]:
    """The paths whose entries differ, in order."""
    for _, paths in old._diff_batches(new, EVERYTHING):
        yield from paths


def _may_resolve(rules: Rules, path: str, was: Stat | None, mine: Stat | None) -> bool:
    """Has a path that both sides changed to the same still something to be asked for?"""
    states = was is not None and mine is not None and was.kind == mine.kind == "snapshot"
    return bool(rules) and (states or rules.of(path) is not None)


def checked(attachment: Attachment, other: object) -> Snapshot:
    """A snapshot of this store. Raises TypeError or NotFoundError for all else."""
    if not isinstance(other, Snapshot):
        raise TypeError(f"what is merged is a Snapshot, not {type(other).__name__}")
    if other._attachment.uuid != attachment.uuid:
        raise NotFoundError(f"snapshot {other.id} is in another store, {other._attachment.paths.root}")
    return other


# --- one path ---


def entry_at(snapshot: Snapshot, path: str) -> Entry | None:
    """What a snapshot has at a path; None: nothing."""
    stat = entry_of(snapshot, path)
    return None if stat is None else Entry(stat.kind, snapshot[path])


def conflict_of(path: str, base: Entry | None, ours: Entry | None, theirs: Entry | None) -> Conflict:
    values = (None if side is None else side.value for side in (base, ours, theirs))
    return Conflict(path, *values)


def resolve_path(
    at: Snapshot,
    rules: Rules,
    path: str,
    base: Entry | None,
    ours: Entry | None,
    theirs: Entry | None,
    *,
    depth: int = 0,
) -> Entry | None:
    """What a path becomes that both sides changed. ``at``: any snapshot of the store. Raises Unresolved."""
    if base and ours and theirs and base.kind == ours.kind == theirs.kind == "snapshot":
        return Entry("snapshot", _merge_nested(at, rules, path, base, ours, theirs, depth))
    resolver = rules.of(path)
    if resolver is None:
        raise Unresolved
    _check_readable(resolver, base, ours, theirs)
    value = resolved(resolver, conflict_of(path, base, ours, theirs))
    if value is None:
        return None
    first, second = (theirs, ours) if resolver == "theirs" else (ours, theirs)
    return Entry(_kind_of(value, base, first, second), value)


def _merge_nested(
    at: Snapshot, rules: Rules, path: str, base: Entry, ours: Entry, theirs: Entry, depth: int
) -> bytes:
    if depth == NESTED_STATES_MAX:
        raise Unresolved(f"states are merged {NESTED_STATES_MAX} deep and no deeper")
    mine, its, was = (make_snapshot(at._attachment, side.value) for side in (ours, theirs, base))
    try:
        return merge_states(mine, its, was, rules, "inside", depth + 1)._root
    except ConflictError as error:
        raise Unresolved(str(error)) from None


def _check_readable(resolver: Resolver, *sides: Entry | None) -> None:
    """A named resolver that looks into values looks into files alone."""
    if not isinstance(resolver, str) or resolver in ("ours", "theirs") or not any(sides[1:]):
        return
    for side in sides:
        if side is not None and side.kind not in _PLAIN:
            raise Unresolved(f"{resolver}: it is a {side.kind} on one side")


def _kind_of(value: bytes, base: Entry | None, first: Entry | None, second: Entry | None) -> Kind:
    """The kind of a resolved value: the first side's, unless only the second has changed it. The target of a link or
    the id of a state says nothing as another kind: such kinds go with the value that has them."""
    if first is None or second is None:
        one = first or second or base
        return one.kind if one is not None else "file"
    ruled, other = (first, second)
    if base is not None and first.kind == base.kind:
        ruled, other = second, first
    if ruled.kind == other.kind or ruled.value == value:
        return ruled.kind
    if ruled.kind in _PLAIN and (other.kind in _PLAIN or other.value != value):
        return ruled.kind
    return other.kind if other.value == value else "file"


# --- what is refused ---


def conflict_error(what: str, refused: Iterable[Refused]) -> ConflictError:
    """All of them, in order of their paths."""
    every = sorted(refused, key=lambda each: each.conflict.path)
    shown = [repr(each.conflict.path) + (f" ({each.why})" if each.why else "") for each in every[:_SHOWN_MAX]]
    more = ", ..." if len(every) > _SHOWN_MAX else ""
    number = f"{len(every)} path" + ("s" if len(every) > 1 else "")
    return ConflictError(f"{what} {number}: {', '.join(shown)}{more}", tuple(each.conflict for each in every))


# --- ancestors ---

Generation = tuple[bytes, ...]


def history_from(root: bytes, history: Iterable[Generation]) -> Iterator[Generation]:
    """The part of a history that a state in it comes from. Of one that was merged into it, no more is known."""
    generations = iter(history)
    for generation in generations:
        if generation[0] == root:
            yield generation
            yield from generations
        elif root in generation:
            yield (root,)
            return


def nearest_common(ours: Iterable[Generation], theirs: Iterable[Generation]) -> bytes | None:
    """The nearest root that two histories have in common; None if there is none.

    A history is the roots of one commit after the other, newest first: its own, then the second parent's if it is a
    merge. Both are walked step by step, so the cost is that of the way to what is found.
    """
    seen: tuple[set[bytes], set[bytes]] = (set(), set())
    for pair in zip_longest(ours, theirs, fillvalue=()):
        for mine, generation in zip(seen, pair, strict=True):
            mine.update(generation)
        for generation, other in ((pair[0], seen[1]), (pair[1], seen[0])):
            for root in generation:
                if root in other:
                    return root
    return None
