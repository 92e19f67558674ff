"""Views: a snapshot or a workspace seen through a prefix and a codec.

    view("a/", codec=json)["b"]      is  the entry "a/b", decoded
    view("a/", codec=json)["b"] = 1  is  the entry "a/b", set to b"1"

A view holds nothing but its source, prefix and codec; what is read or written through it is read from or written to
the source at that moment. Keys are what follows the prefix; the prefix is a string, no directory, so the entry whose
path is the prefix itself has the key "". An entry of another kind has the value that the source shows: a nested state
its 32-byte id, a link its target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Generic, Protocol, TypeVar, cast

from typing_extensions import Buffer

from .codecs import Codec
from .errors import HeliosError
from .mapping import EVERYTHING, Bounds, Items, Keys, Ranged, Values, bounds_of

T = TypeVar("T")


class Readable(Ranged[bytes], Protocol):
    """What a view reads: a source that gives out its values as memory, too."""

    def _buffer(self, path: str) -> memoryview: ...
    def _scan_buffers(self, bounds: Bounds, reverse: bool) -> Iterator[tuple[str, memoryview]]: ...


class Writable(Readable, Protocol):
    def __setitem__(self, path: str, value: Buffer, /) -> None: ...
    def __delitem__(self, path: str, /) -> None: ...


class _Seen(Generic[T]):
    """What both kinds of views do."""

    __slots__ = ("_codec", "_prefix", "_source", "_span")

    def __init__(self, source: Readable, prefix: str, codec: Codec[T] | None) -> None:
        self._span = bounds_of(prefix, None, None)  # before all else: the prefix may be none
        if codec is not None and not (hasattr(codec, "encode") and hasattr(codec, "decode")):
            raise TypeError(f"a codec has encode and decode; {codec!r:.40} has not")
        self._source = source
        self._prefix = prefix
        self._codec = codec

    def __repr__(self) -> str:
        through = "" if self._codec is None else f" through {self._codec!r}"
        return f"<{type(self).__name__} {self._prefix!r} of {self._source!r}{through}>"

    def _path(self, key: object) -> str:
        if not isinstance(key, str):
            raise TypeError(f"a path is a str, not {type(key).__name__}")
        return self._prefix + key

    def _error(self, path: str, action: str, error: Exception) -> Exception:
        """The error of a codec, with what it was about. A store's error is one already."""
        if isinstance(error, HeliosError):
            return error
        kind = TypeError if action == "encode" and isinstance(error, TypeError) else ValueError
        return kind(f"{self._codec!r} cannot {action} {path!r} of {self._source!r}: {error}")

    def _decode(self, path: str, data: memoryview) -> T:
        codec = self._codec
        assert codec is not None
        try:
            return codec.decode(data)
        except Exception as error:
            raise self._error(path, "decode", error) from error

    # --- Mapping, and what keys(), items() and values() ask for (mapping.py), whose bounds are always EVERYTHING ---

    def __getitem__(self, path: str, /) -> T:
        whole = self._path(path)
        try:
            if self._codec is None:
                return cast(T, self._source[whole])
            data = self._source._buffer(whole)
        except KeyError:
            raise KeyError(path) from None
        return self._decode(whole, data)

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and self._prefix + path in self._source

    def __len__(self) -> int:
        return self._count(EVERYTHING)

    def __iter__(self) -> Iterator[str]:
        return self._scan_keys(EVERYTHING, False)

    def __reversed__(self) -> Iterator[str]:
        return self._scan_keys(EVERYTHING, True)

    def keys(self) -> Keys:
        return Keys(self)

    def items(self) -> Items[T]:
        return Items(self)

    def values(self) -> Values[T]:
        return Values(self)

    def _count(self, bounds: Bounds) -> int:
        return self._source._count(self._span)

    def _scan_keys(self, bounds: Bounds, reverse: bool) -> Iterator[str]:
        cut = len(self._prefix)
        return (path[cut:] for path in self._source._scan_keys(self._span, reverse))

    def _scan_items(self, bounds: Bounds, reverse: bool) -> Iterator[tuple[str, T]]:
        cut = len(self._prefix)
        if self._codec is None:
            plain = self._source._scan_items(self._span, reverse)
            return ((path[cut:], cast(T, value)) for path, value in plain)
        encoded = self._source._scan_buffers(self._span, reverse)
        return ((path[cut:], self._decode(path, data)) for path, data in encoded)


class View(_Seen[T], Mapping[str, T]):
    """The entries of a snapshot that begin with a prefix, decoded: made by ``Snapshot.view``.

    Reading costs what it costs the snapshot, and decoding. Raises KeyError for a key that is not there; ValueError,
    naming path and codec, for bytes that the codec cannot decode.
    """

    __slots__ = ()


class MutableView(_Seen[T], MutableMapping[str, T]):
    """The entries of a workspace that begin with a prefix, decoded and encoded: made by ``Workspace.view``.

    Writing writes to the workspace's edits. Raises what ``View`` raises; TypeError or ValueError, naming path and
    codec, for a value that the codec cannot encode.
    """

    __slots__ = ()

    _source: Writable

    def __setitem__(self, path: str, value: T, /) -> None:
        whole = self._path(path)
        if self._codec is None:
            self._source[whole] = cast(Buffer, value)
            return
        try:
            data = self._codec.encode(value)
        except Exception as error:
            raise self._error(whole, "encode", error) from error
        self._source[whole] = data

    def __delitem__(self, path: str, /) -> None:
        try:
            del self._source[self._path(path)]
        except KeyError:
            raise KeyError(path) from None

    def clear(self) -> None:
        """Remove every entry that the view has."""
        for path in list(self._source._scan_keys(self._span, False)):
            del self._source[path]
