"""Tags: names for snapshots that do not move.

A tag is made, and removed, by one move of a branch of its own (names.py), so it is there for every process at once, is
kept by collection and outlives restarts as branches do.
"""

from __future__ import annotations

from ._capi import lib
from .attachment import Attachment
from .branch import Branch, branch_of
from .errors import ExistsError, NotFoundError
from .names import tag_name
from .record import RECORD_ROOT
from .snapshot import Snapshot, make_snapshot


def set_tag(attachment: Attachment, name: str, snapshot: Snapshot) -> None:
    """Make a tag. ExistsError if it is there and names another snapshot, TypeError for what is no snapshot."""
    if not isinstance(snapshot, Snapshot):
        raise TypeError(f"a tag names a Snapshot, not {type(snapshot).__name__}")
    branch = _branch_of_tag(attachment, name)
    while True:
        try:
            branch._move(lib.HS_MOVE_CREATE, snapshot)
            return
        except ExistsError:
            record = branch._live_record()
        if record is None:  # deleted meanwhile
            continue
        if record[RECORD_ROOT] == snapshot._root:
            return
        raise ExistsError(
            f"tag {name!r} of {attachment.paths.root} names snapshot {record[RECORD_ROOT].hex()[:12]}, not "
            f"{snapshot.id[:12]}; delete it first to move it"
        )


def find_tag(attachment: Attachment, name: str) -> Snapshot | None:
    """What a tag names; None: there is no such tag, or cannot be one of this name."""
    try:
        branch = _branch_of_tag(attachment, name)
    except ValueError:
        return None
    record = branch._live_record()
    return None if record is None else make_snapshot(attachment, record[RECORD_ROOT])


def delete_tag(attachment: Attachment, name: str) -> None:
    """Remove a tag. NotFoundError if there is none."""
    branch = _branch_of_tag(attachment, name)
    try:
        branch.delete()
    except NotFoundError:
        raise NotFoundError(f"there is no tag {name!r} in {attachment.paths.root}") from None


def _branch_of_tag(attachment: Attachment, name: str) -> Branch:
    return branch_of(attachment, tag_name(name))
