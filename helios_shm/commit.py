"""A commit, and the commit record that it is read from.

A ``Commit`` is made for every commit, so it is made in C, by ``hot.make_commit``, and lazily: it keeps the record's
bytes and fills its fields when one of them is first asked for. To the outside it is an ordinary frozen dataclass.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ._capi import hot
from .errors import CorruptError
from .record import HAS_PARENT, HAS_SECOND, RECORD, record_text
from .snapshot import Snapshot, make_snapshot
from .types import JSON, CommitMetrics

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


FIELDS = ("snapshot", "parents", "branch", "sequence", "time", "message", "metadata", "metrics")


@dataclass(frozen=True, slots=True)
class Commit(hot.CommitBase):
    """One commit: a snapshot, where it came from, and what it cost.

    ``branch`` and ``sequence`` are None for a detached commit; ``parents`` are the snapshots it was made from, newest
    first, empty for a branch's first.
    """

    snapshot: Snapshot
    parents: tuple[Snapshot, ...]
    branch: str | None
    sequence: int | None
    time: datetime
    message: str
    metadata: Mapping[str, JSON] = field(hash=False)
    metrics: CommitMetrics

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """A field that is asked for before the record was decoded: decode it all."""
            if name not in FIELDS:
                raise AttributeError(f"'Commit' object has no attribute {name!r}")
            _fill_commit(self)
            return object.__getattribute__(self, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return Commit, tuple(getattr(self, name) for name in FIELDS)


def _fill_commit(commit: Commit) -> None:
    record, attachment = commit._record, commit._attachment
    (_, _, flags, name_size, _, message_size, metadata_size, root, _, _, serial, sequence, time_ns, latency, new_bytes,
     reused, new_nodes, changed, retries, _, parent, second) = RECORD.unpack_from(record)  # fmt: skip
    message_at = RECORD.size + name_size
    metadata_at = message_at + message_size
    parents = (parent,) * bool(flags & HAS_PARENT) + (second,) * bool(flags & HAS_SECOND)
    metadata = record[metadata_at : metadata_at + metadata_size]
    snapshot = make_snapshot(attachment, root)
    if commit._trusted:
        snapshot._trusted = True  # held all the time by the commit
    fields = {
        "snapshot": snapshot,
        "parents": tuple(make_snapshot(attachment, root) for root in parents),
        "branch": record_text(record[RECORD.size : message_at], "branch name") if serial else None,
        "sequence": sequence if serial else None,
        "time": EPOCH + timedelta(microseconds=time_ns // 1000),
        "message": record_text(record[message_at:metadata_at], "message"),
        "metadata": _metadata(metadata) if metadata else {},
        "metrics": CommitMetrics(latency, new_nodes, new_bytes, reused, changed, retries),
    }
    for name, value in fields.items():
        object.__setattr__(commit, name, value)


def _metadata(text: bytes) -> dict[str, JSON]:
    """A commit's metadata out of its record. CorruptError for anything but a JSON object of bearable depth."""
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"the metadata of a commit record is no JSON: {error}") from None
    if not isinstance(metadata, dict):
        raise CorruptError(f"the metadata of a commit record is a {type(metadata).__name__}, no object")
    return metadata
