"""Ordered views over a range of paths: what ``keys()``, ``items()`` and ``values()`` of snapshots and workspaces
return.

A range is {start inclusive, stop exclusive} in UTF-8 bytes; a prefix is a range as well. Whoever can scan, count
and look up such a range (``Ranged``) gets the three views and their reversals for nothing.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, MappingView, ValuesView
from typing import Any, Generic, Protocol, TypeVar, cast

from . import config

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Bounds = tuple[bytes, bytes | None]

EVERYTHING: Bounds = (b"", None)


class Ranged(Protocol[T_co]):
    """A source of ordered entries."""

    def _scan_keys(self, bounds: Bounds, reverse: bool) -> Iterator[str]: ...
    def _scan_items(self, bounds: Bounds, reverse: bool) -> Iterator[tuple[str, T_co]]: ...
    def _count(self, bounds: Bounds) -> int: ...
    def __contains__(self, path: object, /) -> bool: ...
    def __getitem__(self, path: str, /) -> T_co: ...


def encode_path(path: object) -> bytes:
    """A path as it is stored: 1..1024 bytes of UTF-8. Raises TypeError or ValueError."""
    if not isinstance(path, str):
        raise TypeError(f"a path is a str, not {type(path).__name__}")
    key = _encode("path", path)
    if not 0 < len(key) <= config.KEY_BYTES_MAX:
        raise ValueError(f"a path has 1..{config.KEY_BYTES_MAX} bytes of UTF-8, {path[:40]!r} has {len(key)}")
    return key


def bounds_of(prefix: str, start: str | None, stop: str | None) -> Bounds:
    """The range of paths that begin with ``prefix`` and lie in ``start`` <= path < ``stop``."""
    low = _encode("prefix", prefix)
    high = successor(low) if low else None
    if start is not None:
        low = max(low, _encode("start", start))
    if stop is not None:
        end = _encode("stop", stop)
        high = end if high is None else min(high, end)
    return low, high


def _encode(name: str, text: str) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"{name} is a str, not {type(text).__name__}")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} {text!r} holds a lone surrogate: it is no Unicode text") from None


def successor(prefix: bytes) -> bytes:
    """The smallest bytes above all that begin with ``prefix``; UTF-8 has no byte 0xff that would carry."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def within(key: bytes, bounds: Bounds) -> bool:
    """Does a key lie in a range?"""
    start, stop = bounds
    return key >= start and (stop is None or key < stop)


class _View(MappingView):
    __slots__ = ("_bounds", "_source")

    def __init__(self, source: Ranged[Any], bounds: Bounds = EVERYTHING) -> None:
        self._source = source
        self._bounds = bounds

    def __len__(self) -> int:
        return self._source._count(self._bounds)

    def _holds(self, path: object) -> bool:
        return isinstance(path, str) and path in self._source and within(path.encode(), self._bounds)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)} entries>"


class Keys(_View, KeysView[str]):
    """Paths in order. Cost: one C call for some hundreds of them."""

    __slots__ = ()

    def __contains__(self, path: object) -> bool:
        return self._holds(path)

    def __iter__(self) -> Iterator[str]:
        return self._source._scan_keys(self._bounds, False)

    def __reversed__(self) -> Iterator[str]:
        return self._source._scan_keys(self._bounds, True)


class Items(_View, ItemsView[str, T], Generic[T]):
    """(path, value) in order."""

    __slots__ = ()

    def __contains__(self, item: object) -> bool:
        if not isinstance(item, tuple) or len(item) != 2:
            return False
        path, value = item
        return self._holds(path) and self._source[path] == value

    def __iter__(self) -> Iterator[tuple[str, T]]:
        return cast(Iterator[tuple[str, T]], self._source._scan_items(self._bounds, False))

    def __reversed__(self) -> Iterator[tuple[str, T]]:
        return cast(Iterator[tuple[str, T]], self._source._scan_items(self._bounds, True))


class Values(_View, ValuesView[T], Generic[T]):
    """Values in the order of their paths."""

    __slots__ = ()

    def __contains__(self, value: object) -> bool:
        return any(each == value for each in self)

    def __iter__(self) -> Iterator[T]:
        return cast(Iterator[T], (value for _, value in self._source._scan_items(self._bounds, False)))

    def __reversed__(self) -> Iterator[T]:
        return cast(Iterator[T], (value for _, value in self._source._scan_items(self._bounds, True)))
