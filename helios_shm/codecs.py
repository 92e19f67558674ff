"""Codecs: how values become bytes and back, for ``view(codec=...)``.

    view[path] = value   ->  codec.encode(value)  ->  bytes of the entry
    view[path]           <-  codec.decode(memoryview of these bytes)

Whatever has the two methods of ``Codec`` is one. Those here are values: equal when they are made alike, hashable, and
they pickle, so that they can be handed to a pool of workers. Equal values have equal bytes (``pickle`` alone does not
promise it), so that equal states have equal ids. Bytes come from whoever wrote the store: all of them but ``pickle``
can be decoded whoever that was; bytes that are no value of the codec are a ValueError.
"""

from __future__ import annotations

import io
import json as _json
import math
import pickle as _pickle
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar, cast

from typing_extensions import Buffer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike

T = TypeVar("T")

_NPY_VERSION = (1, 0)
_NPY_SIZE_AT = slice(8, 10)  # of the header's size, behind the magic and the version
_NPY_HEADER_AT = 10
_NPY_HEADER_BYTES_MAX = 10_000  # numpy reads no longer ones: parsing them is not safe


class Codec(Protocol[T]):
    """A way to write values of one type as bytes, and to read them."""

    def encode(self, value: T, /) -> Buffer:
        """The bytes of a value. Raises TypeError or ValueError for what cannot be written."""
        ...

    def decode(self, data: memoryview, /) -> T:
        """The value of these bytes, read-only and contiguous; it may keep them. Raises ValueError for bytes that are
        no such value."""
        ...


# --- text ---


@dataclass(frozen=True, slots=True)
class _Text:
    def __repr__(self) -> str:
        return "codecs.text"

    def encode(self, value: str, /) -> bytes:
        if not isinstance(value, str):
            raise TypeError(f"text is a str, not {type(value).__name__}")
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise ValueError("a lone surrogate is no Unicode text") from None

    def decode(self, data: memoryview, /) -> str:
        return str(data, "utf-8")


text: Codec[str] = _Text()
"""``str`` as UTF-8."""


# --- JSON ---


@dataclass(frozen=True, slots=True)
class _Json:
    def __repr__(self) -> str:
        return "codecs.json"

    def encode(self, value: Any, /) -> bytes:
        try:
            written = _canonical.encode(value)
            _check_keys(value)
            return written.encode()
        except RecursionError:
            raise ValueError("JSON is nested too deeply") from None
        except UnicodeEncodeError:
            raise ValueError("JSON text holds a lone surrogate, which is no Unicode text") from None

    def decode(self, data: memoryview, /) -> Any:
        try:
            return _json.loads(str(data, "utf-8"), parse_constant=_refuse_constant)
        except RecursionError:
            raise ValueError("JSON is nested too deeply") from None


_canonical = _json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))


def _check_keys(value: object) -> None:
    """The standard library turns the keys 1, None and True into text, and what is read back is another value."""
    found: list[Iterable[object]] = [(value,)]
    while found:
        for each in found.pop():
            if isinstance(each, dict):
                for key in each:
                    if not isinstance(key, str):
                        raise TypeError(f"keys in JSON are str, not {type(key).__name__}: {key!r:.40}")
                found.append(each.values())
            elif isinstance(each, list | tuple):
                found.append(each)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


json: Codec[Any] = _Json()
"""None, bool, int, float, str, lists and dicts with str keys, as canonical JSON: keys sorted by code points, no
spaces, UTF-8, neither NaN nor infinities. Tuples are read back as lists. Any JSON in UTF-8 can be read."""


# --- arrays ---


@dataclass(frozen=True, slots=True)
class _NdArray:
    dtype: np.dtype[Any] | None
    shape: tuple[int, ...] | None

    def __repr__(self) -> str:
        given = [
            f"{name}={value!r}" for name in ("dtype", "shape") if (value := getattr(self, name)) is not None
        ]
        return f"codecs.ndarray({', '.join(given)})"

    def encode(self, value: np.ndarray[Any, Any], /) -> Buffer:
        np = _numpy()
        if not isinstance(value, np.ndarray) or isinstance(
            value, np.ma.MaskedArray
        ):  # its mask would be lost
            raise TypeError(f"an array is a numpy.ndarray, not {type(value).__name__}")
        self._expect(value.dtype, value.shape)
        if value.dtype.hasobject:
            raise TypeError(f"an array of dtype {value.dtype} holds Python objects, not bytes")
        return value.tobytes() if self._is_bare() else _npy_bytes(value)

    def decode(self, data: memoryview, /) -> np.ndarray[Any, Any]:
        if self.dtype is not None and self.shape is not None:
            return _array_over(data, 0, self.dtype, self.shape)
        dtype, shape, fortran, begin = _npy_header(data)
        self._expect(dtype, shape)
        if not fortran:
            return _array_over(data, begin, dtype, shape)
        return _array_over(data, begin, dtype, shape[::-1]).transpose()

    def _is_bare(self) -> bool:
        """Are the bytes those of the elements alone, since dtype and shape are known without them?"""
        return self.dtype is not None and self.shape is not None

    def _expect(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        if self.dtype is not None and dtype != self.dtype:
            raise ValueError(f"an array of dtype {dtype} where {self.dtype} was expected")
        if self.shape is not None and shape != self.shape:
            raise ValueError(f"an array of shape {shape} where {self.shape} was expected")


def ndarray(
    dtype: DTypeLike | None = None, shape: tuple[int, ...] | None = None
) -> Codec[np.ndarray[Any, Any]]:
    """NumPy arrays, of any dtype that holds no Python objects.

    dtype, shape: of every array of this codec; others are a ValueError. With both, the bytes are those of the elements
    alone, in C order. Otherwise they are a ``.npy`` file, version 1.0, as ``numpy.save`` writes it:
    https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html

    Decoding copies nothing: the array is a read-only view of the bytes, for a large value of its mapped file;
    ``copy()`` makes it writable. Raises ImportError without NumPy, TypeError or ValueError for a dtype or shape that
    is none.
    """
    numpy = _numpy()
    wanted = None if dtype is None else numpy.dtype(dtype)
    if wanted is not None and wanted.hasobject:
        raise TypeError(f"dtype {wanted} holds Python objects, not bytes")
    if shape is not None:
        shape = tuple(int(size) for size in shape)
        if min(shape, default=0) < 0:
            raise ValueError(f"a shape has no negative sizes: {shape}")
    return _NdArray(wanted, shape)


def _numpy() -> ModuleType:
    try:
        import numpy
    except ImportError:
        raise ImportError('codecs.ndarray needs NumPy: pip install "helios-shm[numpy]"') from None
    return numpy


def _npy_bytes(value: np.ndarray[Any, Any]) -> Buffer:
    from numpy.lib import format

    file = io.BytesIO()
    format.write_array(file, value, version=_NPY_VERSION, allow_pickle=False)
    size = int.from_bytes(file.getbuffer()[_NPY_SIZE_AT], "little")
    if size > _NPY_HEADER_BYTES_MAX:
        raise ValueError(
            f"the dtype takes {size} bytes to describe; {_NPY_HEADER_BYTES_MAX} can be read back"
        )
    return file.getvalue()


def _npy_header(data: memoryview) -> tuple[np.dtype[Any], tuple[int, ...], bool, int]:
    """(dtype, shape, in Fortran's order, where the elements begin) of a ``.npy`` file."""
    from numpy.lib import format

    _numpy()
    size = int.from_bytes(data[_NPY_SIZE_AT], "little")
    head = io.BytesIO(data[: _NPY_HEADER_AT + size])
    version = format.read_magic(head)
    if version != _NPY_VERSION:
        raise ValueError(f"a .npy file of version {version} where {_NPY_VERSION} was expected")
    try:
        shape, fortran, dtype = format.read_array_header_1_0(head, max_header_size=_NPY_HEADER_BYTES_MAX)
    except Exception as error:  # it is parsed as Python, by Python's own parsers, which have many
        raise ValueError(f"the header of a .npy file is damaged: {error}") from None
    return dtype, shape, fortran, head.tell()


def _array_over(
    data: memoryview, begin: int, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> np.ndarray[Any, Any]:
    """A read-only array over the bytes from ``begin`` to the end, in C order."""
    numpy = _numpy()
    count = math.prod(shape)
    if dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError(f"an array of dtype {dtype} and shape {shape} cannot be read from bytes")
    if len(data) - begin != count * dtype.itemsize:
        raise ValueError(
            f"{len(data) - begin} bytes where an array of dtype {dtype} and shape {shape} has {count * dtype.itemsize}"
        )
    array = (
        numpy.ndarray(shape, dtype) if not len(data) - begin else numpy.frombuffer(data, dtype, count, begin)
    )
    array.flags.writeable = False
    return cast("np.ndarray[Any, Any]", array.reshape(shape))


# --- pickles ---


@dataclass(frozen=True, slots=True)
class _Pickle:
    protocol: int

    def __repr__(self) -> str:
        return f"codecs.pickle(protocol={self.protocol})"

    def encode(self, value: Any, /) -> bytes:
        return _pickle.dumps(value, self.protocol)

    def decode(self, data: memoryview, /) -> Any:
        return _pickle.loads(data)


def pickle(protocol: int = 5) -> Codec[Any]:
    """Any object that pickles. Reading runs whatever code the bytes name: use it only where everybody who can write the
    store is trusted. Equal objects may have different bytes. Raises ValueError for a protocol that there is not."""
    if isinstance(protocol, bool) or not isinstance(protocol, int):
        raise TypeError(f"a pickle protocol is an int, not {type(protocol).__name__}")
    if not 0 <= protocol <= _pickle.HIGHEST_PROTOCOL:
        raise ValueError(f"pickle protocols are 0..{_pickle.HIGHEST_PROTOCOL}, not {protocol}")
    return _Pickle(protocol)
