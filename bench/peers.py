"""The peers: other libraries that do the same work, each used as its own documentation advises.

    with Lineup() as lineup:                              absent: noted in lineup.skipped, and left out
        redis = lineup.seat(Redis, setting.memory)        -> Redis, or None
        ...
        yield compare(..., skipped=lineup.skipped)

A peer is a class with a `name`, opened with a parent directory and closed with its process, files and shared
memory gone. Those that hold one state of path -> bytes are a Store: `fill` it, then take a Run for measure():

    commits()   items (key, value):     one changed key, published, for each
    batches()   items [(key, value)..]: one transaction, published, for each
    gets()      items key:              one read for each
    keys are made by `key(path)` outside the clock

A Run that a peer cannot give is None. In another process: `Kind.attach(store.address)`.
Packages are imported here only, by `package`, when a peer is opened: none need be installed.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any, ClassVar, TypeAlias, TypeVar

from .harness import Run, Skipped

Pairs: TypeAlias = Iterable[tuple[str, bytes]]
Peer = TypeVar("Peer", bound=AbstractContextManager[Any])


class Absent(Exception):
    """The package or program is not installed."""


def package(name: str) -> Any:
    """The module; Absent when it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise Absent(f"{error.name} is not installed") from error


class Store(AbstractContextManager["Store"], ABC):
    """A peer that holds one state: path -> bytes."""

    name: ClassVar[str]
    address: str  # what another process attaches to

    def key(self, path: str) -> Any:
        """The key as the peer wants it."""
        return path

    @abstractmethod
    def fill(self, pairs: Pairs) -> None:
        """Puts them all, outside the clock."""

    @abstractmethod
    def read(self, path: str) -> bytes | None:
        """The value as everybody sees it now; for checking, not for the clock."""

    def commits(self) -> Run | None:
        return None

    def batches(self) -> Run | None:
        return None

    def gets(self) -> Run | None:
        return None

    def close(self) -> None:
        """Ends what it started; its files are removed by whoever gave the directory."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Lineup(ExitStack):
    """The peers of one comparison, closed with it; those that cannot take part are in `skipped`."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped: list[Skipped] = []

    def seat(self, make: Callable[..., Peer], *arguments: Any, name: str = "") -> Peer | None:
        """`make(*arguments)`, entered; None and a note if it is not installed or fails to start."""
        name = name or getattr(make, "name", "") or make.__name__
        try:
            peer = make(*arguments)
            self.enter_context(peer)
        except Absent as error:
            self.skipped.append(Skipped(name, str(error)))
        except Exception as error:
            self.skipped.append(Skipped(name, f"{type(error).__name__}: {error}", installed=True))
        else:
            return peer
        return None
