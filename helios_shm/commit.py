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


# Where they stand in a record.
_ROOT, _METRICS = 7, slice(13, 19)
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
            """A field that is asked for before the record was decoded: decode what it takes."""
            if name not in FIELDS:
                raise AttributeError(f"'Commit' object has no attribute {name!r}")
            _FILL.get(name, _fill_rest)(self, RECORD.unpack_from(self._record))
            return object.__getattribute__(self, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return Commit, tuple(getattr(self, name) for name in FIELDS)


def _fill_snapshot(commit: Commit, record: tuple[Any, ...]) -> None:
    snapshot = make_snapshot(commit._attachment, record[_ROOT])
    if commit._trusted:
        snapshot._trusted = True  # held all the time by the commit
    object.__setattr__(commit, "snapshot", snapshot)


def _fill_metrics(commit: Commit, record: tuple[Any, ...]) -> None:
    latency, new_bytes, reused, new_nodes, changed, retries = record[_METRICS]
    metrics = CommitMetrics(latency, new_nodes, new_bytes, reused, changed, retries)
    object.__setattr__(commit, "metrics", metrics)


def _fill_rest(commit: Commit, record: tuple[Any, ...]) -> None:
    data, attachment = commit._record, commit._attachment
    (_, _, flags, name_size, _, message_size, metadata_size, _, _, _, serial, sequence, time_ns,
     *_, parent, second) = record  # fmt: skip
    message_at = RECORD.size + name_size
    metadata_at = message_at + message_size
    parents = (parent,) * bool(flags & HAS_PARENT) + (second,) * bool(flags & HAS_SECOND)
    metadata = data[metadata_at : metadata_at + metadata_size]
    fields = {
        "parents": tuple(make_snapshot(attachment, root) for root in parents),
        "branch": record_text(data[RECORD.size : message_at], "branch name") if serial else None,
        "sequence": sequence if serial else None,
        "time": EPOCH + timedelta(microseconds=time_ns // 1000),
        "message": record_text(data[message_at:metadata_at], "message"),
        "metadata": _metadata(metadata) if metadata else {},
    }
    for name, value in fields.items():
        object.__setattr__(commit, name, value)


# Made for every commit, and of most commits only these two are looked at.
_FILL = {"snapshot": _fill_snapshot, "metrics": _fill_metrics}


def _metadata(text: bytes) -> dict[str, JSON]:
    """A commit's metadata out of its record. CorruptError for anything but a JSON object of bearable depth."""
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"the metadata of a commit record is no JSON: {error}") from None
    if not isinstance(metadata, dict):
        raise CorruptError(f"the metadata of a commit record is a {type(metadata).__name__}, no object")
    return metadata
