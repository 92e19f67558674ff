"""Exit statuses: one for each class of errors, so that a script can tell what to do next. docs/CLI.md has the table."""

from __future__ import annotations

from typing import Final

from .. import (
    BusyError,
    CapacityError,
    ClosedError,
    ConflictError,
    ExistsError,
    HeliosError,
    NotFoundError,
    ReadOnlyError,
    StoreError,
)

DIFFERENT: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
INTERNAL: Final = 70
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141

# The first class that an error is of decides. In the order of the table.
ERRORS: Final[tuple[tuple[type[Exception], int, str], ...]] = (
    (NotFoundError, NOT_FOUND, "no such store, branch, tag, snapshot or path"),
    (ConflictError, 4, "the same keys were changed on both sides"),
    (BusyError, 5, "it takes too long, or others use the store: wait and try again"),
    (CapacityError, 6, "no room in shared memory, on disk, or among the processes"),
    (MemoryError, 6, "no memory"),
    (ReadOnlyError, 7, "the store cannot be written"),
    (StoreError, 8, "the store itself: damage, another version's format, a place where none can be"),
    (ExistsError, 9, "there is one of that name already"),
    (OSError, 10, "a file or directory outside of the store"),
    (ClosedError, INTERNAL, "an error of this program"),
    (HeliosError, 8, "the store itself"),
    (ImportError, USAGE, "a library is not installed"),
    (ValueError, USAGE, "bad input"),
    (TypeError, USAGE, "bad input"),
)
OTHERS: Final[tuple[tuple[int, str], ...]] = (
    (0, "done"),
    (
        DIFFERENT,
        "`diff --exit-code` found a difference; `check`, `doctor` or `bundle verify` found something wrong",
    ),
    (USAGE, "wrong usage, or bad input"),
    (INTERNAL, "an error of this program, with its traceback"),
    (INTERRUPTED, "interrupted by Ctrl-C, or by a no to a question"),
    (BROKEN_PIPE, "whoever read the output has gone"),
)


def status_of(error: BaseException) -> int:
    """The exit status that an error stands for."""
    for kind, status, _ in ERRORS:
        if isinstance(error, kind):
            return status
    return INTERNAL


def table() -> list[tuple[int, str]]:
    """All statuses with what they mean, for docs/CLI.md; where several errors share one, the first says it."""
    found: dict[int, str] = dict(OTHERS)
    for kind, status, meaning in ERRORS:
        found.setdefault(status, f"{meaning} (`{kind.__name__}`)")
    return sorted(found.items())
