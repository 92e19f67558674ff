"""Undo and redo, as commits: what they lead to, from what commits say.

An undo is a commit whose state is an older one of its branch, and whose record says which; so is a redo. Nothing is
ever taken out of the log.

    sequence   1     2     3     4            5            6            7
               a     b     c     undo of c    undo of b    redo of b    d
    state      A     B     C     B            A            B            D
    says                         to 2, of 3   to 1, of 2   to 2         -
                                 below 0      below 4      stack 4
    redo       -     -     -     4            5, 4         4            -

A record says (metadata, key "undo"), all as sequences of its own branch:

    to      the commit, neither undo nor redo, whose state it makes the head again
    of      in an undo: the commit that it takes back
    below   in an undo: the undo that was the newest to redo before it; 0: none was
    stack   in a redo: the undo that is the newest to redo after it; 0: none is

So undo and redo are stacks that are linked through the log, and each call looks at no more than four of its records,
however many there are. What a branch shows before the commit ``of`` is what its record ``of - 1`` shows, whatever that
is. A commit of any other kind begins a new stack of redos. A record that says so but was not made by undo or redo, or
does not fit the log that it stands in, is an ordinary commit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from . import config
from .commit import Commit
from .errors import NotFoundError
from .record import is_restored
from .snapshot import Snapshot
from .types import JSON

KEY: Final = "undo"

At = Callable[[int], Commit]
"""The commit of a sequence number, on the branch as it is looked at."""


@dataclass(frozen=True, slots=True)
class Step:
    """A commit that undo or redo would make."""

    snapshot: Snapshot
    message: str
    metadata: dict[str, JSON]


def undo_of(head: Commit, at: At, what: str) -> Step:
    """The commit that takes back the newest one that counts. NotFoundError if that is the branch's first."""
    said = _said(head, at)
    last = _shown(head, said)
    if last == 1:
        raise NotFoundError(f"{what}: nothing to undo; its first commit stands")
    before = at(last - 1)
    says = {"to": _shown(before, _said(before, at)), "of": last, "below": _newest_undo(head, said)}
    return Step(before.snapshot, _message("undo", at(last)), {KEY: says})


def redo_of(head: Commit, at: At, what: str) -> Step:
    """The commit that takes back the newest undo. NotFoundError if there is none since the last other commit."""
    newest_undo = _newest_undo(head, _said(head, at))
    said = _said(at(newest_undo), at) if newest_undo else {}
    if "of" not in said:
        raise NotFoundError(f"{what}: nothing to redo; its newest commit is no undo")
    again = at(said["of"])
    return Step(again.snapshot, _message("redo", again), {KEY: {"to": said["of"], "stack": said["below"]}})


def _shown(commit: Commit, said: dict[str, int]) -> int:
    """The sequence of the commit whose state a record shows: its own, or what it leads to."""
    return said.get("to", _sequence(commit))


def _newest_undo(commit: Commit, said: dict[str, int]) -> int:
    """The sequence of the undo that a redo would take back after this record; 0: none."""
    return _sequence(commit) if "of" in said else said.get("stack", 0)


def _said(commit: Commit, at: At) -> dict[str, int]:
    """What a record says of undo and redo; empty for an ordinary commit."""
    said = commit.metadata.get(KEY) if is_restored(commit._record) else None
    if not isinstance(said, dict) or not _is_sound(said, _sequence(commit)):
        return {}
    return said if at(said["to"]).snapshot == commit.snapshot else {}


def _is_sound(said: dict[str, Any], sequence: int) -> bool:
    if said.keys() not in ({"to", "of", "below"}, {"to", "stack"}):
        return False
    lowest = {"to": 1, "of": 2, "below": 0, "stack": 0}
    return all(type(value) is int and lowest[name] <= value < sequence for name, value in said.items())


def _sequence(commit: Commit) -> int:
    assert commit.sequence is not None  # those of a branch have one
    return commit.sequence


def _message(verb: str, commit: Commit) -> str:
    """``undo: `` and the message of what it is about, within a message's size."""
    whole = f"{verb}: {commit.message or f'commit {commit.sequence}'}"
    return whole.encode()[: config.MESSAGE_BYTES_MAX].decode(errors="ignore")
