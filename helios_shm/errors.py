"""The error tree: grouped by what the one who catches an error does about it.

    HeliosError
      ConflictError    somebody else changed the same keys: look at .conflicts, merge, try again
      BusyError        it takes too long (also a TimeoutError): wait, look at what the message names, try again
      CapacityError    no room in shared memory, on disk, or among the participants: make room
      NotFoundError    no such store, branch, snapshot (also a LookupError)
      ExistsError      a branch of that name exists
      ReadOnlyError    the store was opened read-only
      ClosedError      the engine was closed
      StoreError       the store itself
        CorruptError   bytes that fail their checksum, hash or form; the message names them
        FormatError    no store, another version's store, or a place where a store cannot be

A missing path is KeyError; bad input is ValueError or TypeError, raised before anything is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .commit import Commit
    from .types import Conflict


class HeliosError(Exception):
    """What every error of this library is."""


class ConflictError(HeliosError):
    """Keys among the edits differ between the workspace's base and the branch's head.

    Nothing was written; the workspace keeps its edits and its base.
    """

    conflicts: tuple[Conflict, ...]

    def __init__(self, message: str, conflicts: tuple[Conflict, ...] = ()) -> None:
        super().__init__(message)
        self.conflicts = conflicts

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.conflicts)

    @property
    def keys(self) -> tuple[str, ...]:
        """The paths in conflict."""
        return tuple(conflict.path for conflict in self.conflicts)


class BusyError(HeliosError, TimeoutError):
    """A deadline passed. If ``commit`` is set, the commit happened and only durability is late: call ``sync()``."""

    commit: Commit | None

    def __init__(self, message: str, commit: Commit | None = None) -> None:
        super().__init__(message)
        self.commit = commit

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.commit)


class CapacityError(HeliosError):
    """Shared memory, the disk, or a table of fixed size is full; the message says which and what to do."""


class NotFoundError(HeliosError, LookupError):
    """There is no store, branch or snapshot of that name or id."""


class ExistsError(HeliosError):
    """There is one of that name already."""


class ReadOnlyError(HeliosError):
    """A change through an engine that was opened with ``readonly=True``."""


class ClosedError(HeliosError):
    """The engine behind this object was closed."""


class StoreError(HeliosError):
    """Something is wrong with the store itself."""


class CorruptError(StoreError):
    """Bytes that fail their checksum, their hash or their form; the message names what they belong to."""


class FormatError(StoreError):
    """No store, a store or segment of another version, or a file system that cannot hold one."""
