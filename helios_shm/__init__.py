"""helios_shm: a shared-memory multiprocess state runtime. README.md has an example; ARCHITECTURE.md the way
through the code."""

from . import codecs
from .branch import Branch
from .codecs import Codec
from .commit import Commit
from .engine import Engine, open
from .errors import (
    BusyError,
    CapacityError,
    ClosedError,
    ConflictError,
    CorruptError,
    ExistsError,
    FormatError,
    HeliosError,
    NotFoundError,
    ReadOnlyError,
    StoreError,
)
from .mapping import Items, Keys, Values
from .metrics import Stats
from .snapshot import Snapshot
from .types import (
    JSON,
    CheckReport,
    CommitMetrics,
    Conflict,
    Diff,
    GCReport,
    IngestMetrics,
    Isolation,
    Kind,
    MaterializeMetrics,
    Resolve,
    Resolver,
    Stat,
)
from .view import MutableView, View
from .watch import Watch
from .workspace import Workspace

__all__ = [
    "JSON",
    "Branch",
    "BusyError",
    "CapacityError",
    "CheckReport",
    "ClosedError",
    "Codec",
    "Commit",
    "CommitMetrics",
    "Conflict",
    "ConflictError",
    "CorruptError",
    "Diff",
    "Engine",
    "ExistsError",
    "FormatError",
    "GCReport",
    "HeliosError",
    "IngestMetrics",
    "Isolation",
    "Items",
    "Keys",
    "Kind",
    "MaterializeMetrics",
    "MutableView",
    "NotFoundError",
    "ReadOnlyError",
    "Resolve",
    "Resolver",
    "Snapshot",
    "Stat",
    "Stats",
    "StoreError",
    "Values",
    "View",
    "Watch",
    "Workspace",
    "codecs",
    "open",
]
