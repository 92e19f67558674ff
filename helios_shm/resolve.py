"""Resolvers: what a path becomes that both sides changed, decided by its three values alone.

    base, ours, theirs --resolver--> the value, or None (removed), or Unresolved, which says why it stays a conflict

``Rules`` says which resolver a path has: one for all paths, or the first whose pattern matches. Patterns are those of
git's pathspecs with ``:(glob)``: ``*``, ``?`` and ``[...]`` stay within a segment, ``**`` is any number of segments,
and the whole path has to match.

Numbers and arrays are JSON, read strictly and written canonically, as ``codecs.json`` does; ``text`` is UTF-8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from types import ModuleType
from typing import Any, get_args

from . import codecs
from .types import Conflict, Resolve, Resolver, ResolverName

NAMES: tuple[ResolverName, ...] = get_args(ResolverName)


class Unresolved(Exception):
    """These values cannot be merged in this way; the text says why."""


# --- which resolver a path has ---


class Rules:
    """Which resolver a path has. False if none has any. Raises TypeError or ValueError for what is no ``Resolve``,
    ImportError where a resolver's library is missing."""

    __slots__ = ("_default", "_patterns")

    def __init__(self, resolve: Resolve | None) -> None:
        self._default: Resolver | None = None
        self._patterns: list[tuple[list[str], Resolver]] = []
        if isinstance(resolve, Mapping):
            self._patterns = [(_segments(pattern), _checked(each)) for pattern, each in resolve.items()]
        elif resolve is not None:
            self._default = _checked(resolve)

    def __bool__(self) -> bool:
        return self._default is not None or bool(self._patterns)

    def of(self, path: str) -> Resolver | None:
        """The resolver of a path."""
        if self._patterns:
            names = path.split("/")
            for pattern, resolver in self._patterns:
                if _matches(pattern, names):
                    return resolver
        return self._default


NO_RULES = Rules(None)


def _segments(pattern: object) -> list[str]:
    if not isinstance(pattern, str):
        raise TypeError(f"a pattern of paths is a str, not {type(pattern).__name__}")
    if not pattern:
        raise ValueError("a pattern of paths is not empty; '**' matches every path")
    return pattern.split("/")


def _checked(resolver: object) -> Resolver:
    if isinstance(resolver, str):
        if resolver not in NAMES:
            raise ValueError(f"a resolver is one of {', '.join(NAMES)}, or a callable; not {resolver!r}")
        if resolver == "text":
            _merge3()
        return resolver
    if not callable(resolver):
        raise TypeError(f"a resolver is a name or a callable, not {type(resolver).__name__}")
    return resolver


def _matches(pattern: Sequence[str], names: Sequence[str]) -> bool:
    """Does a pattern match all of a path? Followed by how many names its segments so far can have taken."""
    taken = {0}
    for place, segment in enumerate(pattern):
        if segment == "**":
            below = place == len(pattern) - 1  # `a/**` is what is below `a`
            taken = set(range(min(taken) + below, len(names) + 1))
        else:
            taken = {n + 1 for n in taken if n < len(names) and fnmatchcase(names[n], segment)}
        if not taken:
            return False
    return len(names) in taken


# --- asking it ---


def resolved(resolver: Resolver, conflict: Conflict) -> bytes | None:
    """What a path becomes: its value, or None where it is removed. Raises Unresolved; TypeError where a callable
    returns anything but bytes and None."""
    if not isinstance(resolver, str):
        return _called(resolver, conflict)
    base, ours, theirs = conflict.base, conflict.ours, conflict.theirs
    if resolver == "ours":
        return ours
    if resolver == "theirs":
        return theirs
    if ours is None and theirs is None:
        return None
    if base is not None and (ours is None or theirs is None):
        side = "ours" if ours is None else "theirs"
        raise Unresolved(f"{resolver}: {side} has removed it")
    return _NAMED[resolver](base, ours, theirs)


def _called(resolver: Callable[[Conflict], object], conflict: Conflict) -> bytes | None:
    value = resolver(conflict)
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    raise TypeError(
        f"the resolver of path {conflict.path!r} returns bytes, or None to remove it; "
        f"not {type(value).__name__}"
    )


# --- JSON ---


def _read_json(name: str, side: str, value: bytes) -> Any:
    try:
        return codecs.json.decode(memoryview(value))
    except ValueError:
        raise Unresolved(f"{name}: {side} is no JSON") from None


def _write_json(name: str, value: Any) -> bytes:
    try:
        return bytes(codecs.json.encode(value))
    except ValueError:
        raise Unresolved(f"{name}: the result is no JSON") from None


# --- numbers ---


def _number(name: str, side: str, value: bytes) -> int | float:
    number = _read_json(name, side, value)
    if isinstance(number, float) and math.isfinite(number):
        return number
    if isinstance(number, int) and not isinstance(number, bool):
        return number
    raise Unresolved(f"{name}: {side} is no JSON number")


def _sum(base: bytes | None, ours: bytes | None, theirs: bytes | None) -> bytes:
    """What both have added: ours + theirs - base. Exact in integers, rounded once otherwise."""
    terms = [
        0 if value is None else _number("sum", side, value)
        for side, value in (("ours", ours), ("theirs", theirs), ("base", base))
    ]
    terms[2] = -terms[2]
    try:
        whole = all(isinstance(term, int) for term in terms)
        return _write_json("sum", sum(terms) if whole else math.fsum(terms))
    except OverflowError:
        raise Unresolved("sum: the result is no finite number") from None


def _extreme(name: str, choose: Callable[..., int | float]) -> Callable[..., bytes]:
    def chosen(base: bytes | None, ours: bytes | None, theirs: bytes | None) -> bytes:
        numbers = [
            _number(name, side, value)
            for side, value in (("ours", ours), ("theirs", theirs))
            if value is not None
        ]
        # 1 and 1.0 are equal: whole numbers are taken first, whichever side they stand on.
        numbers.sort(key=lambda number: isinstance(number, float))
        return _write_json(name, choose(numbers))

    return chosen


# --- arrays ---


def _array(name: str, side: str, value: bytes | None) -> list[Any]:
    array = [] if value is None else _read_json(name, side, value)
    if not isinstance(array, list):
        raise Unresolved(f"{name}: {side} is no JSON array")
    return array


def _set(side: str, value: bytes | None) -> dict[bytes, Any]:
    """An array as a set: canonical text to item."""
    return {_write_json("union", item): item for item in _array("union", side, value)}


def _in_order(item: tuple[bytes, Any]) -> tuple[int, int | float, bytes]:
    """Numbers by size, then all else by its canonical text."""
    text, value = item
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 0, value, text
    return 1, 0, text


def _union(base: bytes | None, ours: bytes | None, theirs: bytes | None) -> bytes:
    """Arrays as sets: what both have, and what either has added; so what either has removed is gone."""
    was, mine, its = _set("base", base), _set("ours", ours), _set("theirs", theirs)
    every = {**mine, **its}
    kept = [item for item in every.items() if (item[0] in mine and item[0] in its) or item[0] not in was]
    return _write_json("union", [value for _, value in sorted(kept, key=_in_order)])


def _append(base: bytes | None, ours: bytes | None, theirs: bytes | None) -> bytes:
    """What both have added behind the base, theirs first: of JSON arrays, else of bytes."""
    try:
        arrays = [
            _array("append", side, value)
            for side, value in (("base", base), ("ours", ours), ("theirs", theirs))
        ]
    except Unresolved:
        merged: bytes = _appended(base or b"", ours or b"", theirs or b"")
        return merged
    return _write_json("append", _appended(*arrays))


def _appended(base: Any, ours: Any, theirs: Any) -> Any:
    """The same of any sequences."""
    size = len(base)
    for side, sequence in (("ours", ours), ("theirs", theirs)):
        if sequence[:size] != base:
            raise Unresolved(f"append: {side} does not begin with base")
    return theirs + ours[size:]


# --- text ---


def _merge3() -> ModuleType:
    try:
        import merge3
    except ImportError:
        raise ImportError(
            "the resolver 'text' needs the library merge3: pip install \"helios-shm[merge]\""
        ) from None
    return merge3


def _lines(side: str, value: bytes | None) -> list[str]:
    try:
        text = (value or b"").decode()
    except UnicodeDecodeError:
        raise Unresolved(f"text: {side} is no UTF-8") from None
    if "\0" in text:
        raise Unresolved(f"text: {side} holds a NUL")
    return [line + "\n" for line in text.split("\n")]


def _text(base: bytes | None, ours: bytes | None, theirs: bytes | None) -> bytes:
    """Three-way by lines. The end of the text counts as the end of a line, and comes off again at the end."""
    merge = _merge3().Merge3(_lines("base", base), _lines("ours", ours), _lines("theirs", theirs))
    merged: list[str] = []
    for what, *groups in merge.merge_groups():
        if what == "conflict":
            raise Unresolved(f"text: both changed what follows line {len(merged)}")
        merged += groups[0]
    return "".join(merged)[:-1].encode()


_NAMED: dict[str, Callable[[bytes | None, bytes | None, bytes | None], bytes]] = {
    "sum": _sum,
    "max": _extreme("max", max),
    "min": _extreme("min", min),
    "union": _union,
    "append": _append,
    "text": _text,
}
