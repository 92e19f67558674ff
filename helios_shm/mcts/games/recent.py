"""What was decoded lately, of bounded number, in this process only.

Pickled, or looked at after a fork, it is merely an empty or an equal one: it holds nothing that could not be decoded
again. Threads may share one: each operation is one on a dict, and what a race can lose is an entry.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A dict of at most ``size`` entries; the oldest go first. What it holds must not be changed by anybody."""

    __slots__ = ("_entries", "_size", "get")

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: dict[K, V] = {}
        self.get = self._entries.get

    def put(self, key: K, value: V) -> V:
        """Remember it. Returns the value."""
        entries = self._entries
        if len(entries) >= self._size:
            for oldest in list(entries)[: self._size // 4 + 1]:
                entries.pop(oldest, None)
        entries[key] = value
        return value

    def __len__(self) -> int:
        return len(self._entries)

    def __reduce__(self) -> tuple[Any, ...]:
        return Recent, (self._size,)
