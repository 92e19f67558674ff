"""An object whose attributes are a state: read out into keys, and put back into one object of each process.

    env/s           "328"                plain values, as JSON
    env/board       "array |i1 3,3", newline, the elements in C order
    env/selector    \\x80\\x05...          all else, pickled

Only the attributes that change are in the state; each is a key of its own, so that a commit shares what a step has left
alone. Whoever uses this names them, or has them found: those that differed at some point of a few episodes. That no
other changes is looked at each time the object is used, as far as attributes that are set again go.

Equal values have equal bytes: pickles are made without a memo, so that they do not tell which equal objects are one,
and sets are written in order. Dicts keep theirs, which a program may go by.

A pickle makes only instances of classes of the object's own package, and of those it is told of, whoever wrote the
store: no function of it is called but those by which numpy reads its own.
"""

from __future__ import annotations

import builtins
import io
import json
import pickle
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping
from math import isfinite
from random import Random
from typing import Any, Generic, TypeVar

import numpy as np

E = TypeVar("E")

# The bytes of each attribute of the state, in the order of their names; None: it has none.
Content = tuple[bytes | None, ...]

RANDOM = "_np_random"

_ARRAY, _PICKLE = b"array ", b"\x80"
# Of dtypes whose ``str`` says all: numbers, times and fixed text.
_ARRAY_KINDS = "biufcmMSU"
_EPISODES, _STEPS = 4, 60
_LARGE_BYTES = 4096
_READERS = {
    ("copyreg", "_reconstructor"),
    ("numpy.random._pickle", "__generator_ctor"),
    ("numpy.random._pickle", "__bit_generator_ctor"),
    *(
        (f"{package}.{function}", name)
        for package in ("numpy._core", "numpy.core")
        for function, name in (
            ("multiarray", "_reconstruct"),
            ("multiarray", "scalar"),
            ("numeric", "_frombuffer"),
        )
    ),
}
_to_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_SCALARS, _STRINGS, _TUPLE = {int, str, bool, type(None)}, {str}, b'"tuple"'
_BUILTINS = {"bytearray", "complex", "dict", "frozenset", "list", "object", "range", "set", "slice", "tuple"}


class Captured(Generic[E]):
    """The attributes ``names`` of what ``make`` makes.

    make: makes an equal object in each process; it pickles.
    ignored: attributes that may change and say nothing of the state.
    packages: whose classes pickles may hold, besides the object's own package and numpy.
    """

    def __init__(
        self,
        make: Callable[[], E],
        names: Iterable[str],
        *,
        ignored: Collection[str] = (),
        packages: Collection[str] = (),
    ) -> None:
        self.make = make
        self.names = tuple(sorted(names))
        self.paths = tuple(f"env/{name}" for name in self.names)
        self._ignored = frozenset(ignored)
        self._packages = frozenset(packages) | {"numpy", "collections"}
        self._live: _Live[E] = _Live()

    def content(self, state: Mapping[str, bytes]) -> Content:
        """That of a state."""
        return tuple([state.get(path) for path in self.paths])

    def write(self, workspace: MutableMapping[str, bytes], content: Content) -> None:
        """Make a workspace hold it; only what differs is touched."""
        for path, value in zip(self.paths, content, strict=True):
            if value is None:
                workspace.pop(path, None)
            elif workspace.get(path) != value:
                workspace[path] = value

    def capture(self, thing: E) -> Content:
        """That of an object as it is now. Raises TypeError for an attribute that cannot be written down."""
        attributes = vars(thing)
        return tuple([self._encode(name, attributes) for name in self.names])

    def put_back(self, thing: E, content: Content) -> None:
        """Make an object what the content says."""
        attributes = vars(thing)
        packages = self._packages | {_root(type(thing).__module__)}
        for name, data in zip(self.names, content, strict=True):
            if data is None:
                attributes.pop(name, None)
            elif name == RANDOM:
                attributes[name].bit_generator.state = decode_value(data, packages)
            else:
                attributes[name] = decode_value(data, packages)

    def restored(self, content: Content) -> E:
        """This thread's own object, in the state of the content. Whoever takes it may do with it what he likes, until
        the next call."""
        live = self._live
        known, live.content = live.content, None
        if live.thing is None:
            live.thing = self.make()
            live.others = self._others(live.thing)
        else:
            self._see_that_others_stay(live.thing)
        if known != content:
            self.put_back(live.thing, content)
        return live.thing

    def content_of_restored(self) -> Content:
        """That of this thread's own object, as it is now: to be told before anybody else changes it."""
        assert self._live.thing is not None, "restored comes first"
        content = self._live.content = self.capture(self._live.thing)
        return content

    def _encode(self, name: str, attributes: Mapping[str, Any]) -> bytes | None:
        try:
            value = attributes[name]
        except KeyError:
            return None
        try:
            if name == RANDOM:
                return encode_value(value.bit_generator.state)
            return encode_value(value)
        except Exception as error:
            raise TypeError(f"attribute {name} cannot be written into a state: {error}") from error

    def _others(self, thing: E) -> dict[str, Any]:
        mine = {*self.names, *self._ignored, RANDOM}
        return {name: value for name, value in vars(thing).items() if name not in mine}

    def _see_that_others_stay(self, thing: E) -> None:
        attributes = vars(thing)
        for name, value in self._live.others.items():
            now = attributes.get(name, _MISSING)
            if now is not value and (now is _MISSING or not _same(now, value)):
                raise ValueError(
                    f"attribute {name} of {type(thing).__name__} has changed from {value!r} to {now!r}, and is none of "
                    f"the state's; name all that are: attributes={(*self.names, name)}"
                )


class _Live(threading.local, Generic[E]):
    """One object a thread; never pickled."""

    def __init__(self) -> None:
        self.thing: E | None = None
        self.content: Content | None = None  # what it holds; None: whoever had it last has not said
        self.others: dict[str, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _Live, ()


# --- finding out about an object ---

# reset(thing, seed); step(thing, rng) -> (what came of it, whether it was the last one)
Reset = Callable[[E, int], object]
Step = Callable[[E, Random], tuple[Any, bool]]


def find_changing(thing: E, reset: Reset[E], step: Step[E], ignored: Collection[str]) -> set[str]:
    """The attributes that were not always the same in a few episodes of random steps: looked at after each step, large
    ones after each episode."""
    rng = Random(0)
    reset(thing, 0)
    first = _noted(thing, ignored)
    large = {name for name, value in first.items() if isinstance(value, bytes) and len(value) > _LARGE_BYTES}
    names = set[str]()
    for episode in range(_EPISODES):
        reset(thing, episode)
        names |= _differing(first, thing, ignored)
        for _ in range(_STEPS):
            _, ended = step(thing, rng)
            names |= _differing(first, thing, {*ignored, *large})
            if ended:
                break
        names |= _differing(first, thing, ignored)
    return names


def goes_on_alike(captured: Captured[E], one: E, other: E, reset: Reset[E], step: Step[E]) -> bool:
    """Is the state all that matters? Each step of a few episodes is made twice: by one object, and by another that had
    gone astray before it was put into the same state."""
    rng = Random(1)
    for episode in range(_EPISODES):
        reset(one, episode)
        reset(other, episode + _EPISODES)
        for number in range(_STEPS):
            _, astray = step(other, rng)
            if astray:
                reset(other, number)
            captured.put_back(other, captured.capture(one))
            ours, ended = step(one, Random(number))
            theirs, _ = step(other, Random(number))
            if captured.capture(one) != captured.capture(other) or encode_value(ours) != encode_value(theirs):
                return False
            if ended:
                break
    return True


def _differing(first: Mapping[str, Any], thing: object, ignored: Collection[str]) -> set[str]:
    now = _noted(thing, ignored)
    names = (first.keys() | now.keys()).difference(ignored)
    return {name for name in names if first.get(name) != now.get(name)}


def _noted(thing: object, ignored: Collection[str]) -> dict[str, Any]:
    """The bytes of all attributes, as they are now; of what cannot be written down, which object it is."""
    record: dict[str, Any] = {}
    for name, value in vars(thing).items():
        if name in ignored or name == RANDOM:
            continue
        try:
            record[name] = encode_value(value)
        except Exception:
            record[name] = id(value)
    return record


# --- values ---


def encode_value(value: Any) -> bytes:
    """A value as bytes: JSON where that says all, an array's elements, else a pickle without memo.

    Numbers of numpy that are a Python number are written as that.
    """
    try:
        return _to_json(_plain(value)).encode()
    except _NotPlain:
        pass
    if type(value) is np.ndarray and value.dtype.kind in _ARRAY_KINDS:
        shape = ",".join(map(str, value.shape))
        return f"array {value.dtype.str} {shape}\n".encode() + value.tobytes()
    return _pickled(value)


def decode_value(data: bytes, packages: Collection[str]) -> Any:
    """The value of these bytes; a new one each time. Raises ValueError for a pickle that it does not trust."""
    if data.startswith(_ARRAY):
        header, _, elements = data.partition(b"\n")
        _, dtype, shape = header.decode().split(" ")
        sizes = [int(size) for size in shape.split(",") if size]
        return np.frombuffer(elements, dtype).reshape(sizes).copy()
    if data.startswith(_PICKLE):
        return _Unpickler(io.BytesIO(data), packages).load()
    value = json.loads(data)
    return _unplain(value) if _TUPLE in data else value


class _NotPlain(Exception):
    pass


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind is int or kind is str or kind is bool or value is None:
        return value
    if kind is float or kind is np.float64:
        if isfinite(value):
            return float(value)
    elif kind is list:
        return value if _SCALARS.issuperset(map(type, value)) else [_plain(item) for item in value]
    elif kind is tuple:
        return {"tuple": [_plain(item) for item in value]}
    elif kind is dict:
        if _STRINGS.issuperset(map(type, value)) and "tuple" not in value:
            return {key: _plain(item) for key, item in value.items()}
    elif isinstance(value, np.integer | np.bool_ | np.str_):
        return value.item()
    raise _NotPlain


def _unplain(value: Any) -> Any:
    if type(value) is list:
        return [_unplain(item) for item in value]
    if type(value) is dict:
        if "tuple" in value:
            return tuple([_unplain(item) for item in value["tuple"]])
        return {key: _unplain(item) for key, item in value.items()}
    return value


def _pickled(value: Any) -> bytes:
    try:
        return _dumped(value, fast=True)
    except ValueError:  # It holds itself: only a memo can write that down.
        return _dumped(value, fast=False)


def _dumped(value: Any, *, fast: bool) -> bytes:
    out = io.BytesIO()
    pickler = _Pickler(out, 5)
    pickler.fast = fast
    pickler.dump(value)
    return out.getvalue()


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        kind = type(value)
        if kind is set or kind is frozenset:
            return kind is set, sorted(value, key=encode_value)
        return None


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, pid: Any) -> Any:
        mutable, items = pid
        return set(items) if mutable else frozenset(items)

    def __init__(self, data: io.BytesIO, packages: Collection[str]) -> None:
        super().__init__(data)
        self._packages = packages

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if (module, name) in _READERS:
            return found
        if module == builtins.__name__ and name in _BUILTINS:
            return found
        if isinstance(found, type) and _root(found.__module__) in self._packages:
            return found
        raise ValueError(
            f"a state holds a pickle with {module}.{name}; name its package if you trust who wrote it: "
            f"packages=({_root(module)!r},)"
        )


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


_MISSING = _Missing()


def _same(one: Any, other: Any) -> bool:
    try:
        return encode_value(one) == encode_value(other)
    except Exception:
        return False


def _root(module: str) -> str:
    return module.partition(".")[0]
