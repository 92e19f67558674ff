"""Values that the library hands out: frozen, slotted, picklable. ``Commit`` has a module of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from .snapshot import Snapshot

JSON: TypeAlias = Any
Kind: TypeAlias = Literal["file", "executable", "symlink", "directory", "snapshot"]
KINDS: tuple[Kind, ...] = ("file", "executable", "symlink", "directory", "snapshot")


@dataclass(frozen=True, slots=True)
class CommitMetrics:
    """What a commit cost. Bytes are those of nodes and values that were not there before (``new_bytes``), and of the
    state's values that did not have to be written (``reused_bytes``)."""

    latency_ns: int
    new_nodes: int
    new_bytes: int
    reused_bytes: int
    changed_keys: int
    retries: int


@dataclass(frozen=True, slots=True)
class Diff:
    """Paths that differ between two snapshots, each tuple in order. True if there are any."""

    old: Snapshot
    new: Snapshot
    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)

    def __len__(self) -> int:
        return len(self.added) + len(self.changed) + len(self.removed)


@dataclass(frozen=True, slots=True)
class Conflict:
    """One path changed on both sides; None stands for absence."""

    path: str
    base: bytes | None
    ours: bytes | None
    theirs: bytes | None


ResolverName: TypeAlias = Literal["ours", "theirs", "sum", "max", "min", "union", "append", "text"]
Resolver: TypeAlias = ResolverName | Callable[[Conflict], bytes | None]
Resolve: TypeAlias = Resolver | Mapping[str, Resolver]
Isolation: TypeAlias = Literal["snapshot", "serializable"]


@dataclass(frozen=True, slots=True)
class Stat:
    """An entry without its value: kind, size in bytes, and the BLAKE3 of the value in hex (what ``b3sum`` prints)."""

    kind: Kind
    size: int
    id: str


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check found: a sentence for each thing that is damaged, or was (``mended: ...``). ``ok``: nothing is."""

    ok: bool
    damage: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MaterializeMetrics:
    """What a materialize did: entries (files, links, empty directories) that it wrote, files and the like that it
    removed, and entries that were there already."""

    written: int
    removed: int
    skipped: int


@dataclass(frozen=True, slots=True)
class IngestMetrics:
    """What an ingest did: files and links whose bytes it read, and paths that it set and removed in the workspace."""

    read: int
    changed: int
    removed: int


@dataclass(frozen=True, slots=True)
class GCReport:
    """What a collection did, or would do (``dry_run``).

    ``freed_bytes``: of packs, history and large values that are gone, less what was written to keep what still lived in
    such packs. ``kept_bytes``: of the packs that stay. ``packs_rewritten``: of the packs deleted, those whose living
    entries were copied. ``large_values_deleted``: files. ``commits_dropped``: out of the histories of branches.
    ``pause_ns``: the longest that commits were held up at a time, in one of ``safepoints`` moments.
    """

    freed_bytes: int
    kept_bytes: int
    packs_deleted: int
    packs_rewritten: int
    nodes_deleted: int
    values_deleted: int
    large_values_deleted: int
    commits_dropped: int
    safepoints: int
    pause_ns: int
    duration_ns: int
    dry_run: bool
