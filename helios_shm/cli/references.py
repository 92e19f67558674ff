"""What a reference names: ``main`` (a branch), ``main@17``, ``@17`` (of the branch that is meant),
``main@2026-07-01T12:00``, a tag, the first digits of a snapshot's id."""

from __future__ import annotations

import contextlib
from datetime import datetime

from .. import Branch, Commit, Engine, NotFoundError, Snapshot


def _at(engine: Engine, reference: str, branch: str) -> Commit | None:
    """The commit that a reference with an '@' names; None: it has none."""
    name, at, when = reference.partition("@")
    if not at:
        return None
    moving = engine.branch(name or branch, create=False)
    if when.isascii() and when.isdecimal():
        return moving.at(int(when))
    try:
        time = datetime.fromisoformat(when)
    except ValueError:
        raise ValueError(
            f"{reference!r}: a sequence number or a time (2026-07-01T12:00) follows the '@'"
        ) from None
    return moving.at(time)


def snapshot_of(engine: Engine, reference: str | None, branch: str) -> Snapshot:
    """The state that a reference names; None: the branch's head. Raises NotFoundError, ValueError."""
    if reference is None:
        return engine.branch(branch, create=False).head
    commit = _at(engine, reference, branch)
    return engine.snapshot(reference) if commit is None else commit.snapshot


def commit_of(engine: Engine, reference: str | None, branch: str) -> Commit:
    """The commit that a reference names: of an id, the newest that some branch's log has of that state. Raises
    NotFoundError, ValueError. Cost for an id: O(history)."""
    if reference is None:
        return engine.branch(branch, create=False).last_commit
    commit = _at(engine, reference, branch)
    if commit is not None:
        return commit
    with contextlib.suppress(NotFoundError, ValueError):
        return engine.branch(reference, create=False).last_commit
    snapshot = engine.snapshot(reference)
    found = [commit for name in engine.branches() if (commit := _newest(engine.branch(name), snapshot))]
    if not found:
        raise NotFoundError(f"{reference}: no branch's log has a commit of snapshot {snapshot.id}")
    return max(found, key=lambda commit: commit.time)


def _newest(branch: Branch, snapshot: Snapshot) -> Commit | None:
    with contextlib.suppress(NotFoundError):  # deleted since
        return next((commit for commit in branch.log() if commit.snapshot == snapshot), None)
    return None
