"""csrc/python: base types of the public classes, with the fields that C reads and the methods called most often."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, overload

from typing_extensions import Buffer

from .attachment import Attachment, Call
from .branch import Branch
from .commit import Commit
from .snapshot import Snapshot
from .types import JSON, Resolve
from .workspace import Edit, Workspace

class AttachmentBase:
    pool: list[Call]
    readonly: bool
    _leases: int

    def _collection(self) -> int: ...

class CallBase:
    _address: int

class BranchBase:
    _address: int

class SnapshotBase:
    @property
    def _attachment(self) -> Attachment: ...
    @property
    def _root(self) -> bytes: ...
    _read: dict[str, bytes]
    _trusted: bool

    def __getitem__(self, path: str, /) -> bytes: ...
    def __contains__(self, path: object, /) -> bool: ...
    def fork(self) -> Workspace: ...
    @overload
    def _scan(
        self, start: bytes, stop: bytes | None, reverse: bool, items: Literal[False], /
    ) -> Iterator[str]: ...
    @overload
    def _scan(
        self, start: bytes, stop: bytes | None, reverse: bool, items: Literal[True], /
    ) -> Iterator[tuple[str, bytes]]: ...
    @overload
    def _scan(
        self, start: bytes, stop: bytes | None, reverse: bool, items: Literal[2], /
    ) -> Iterator[tuple[str, bytes | memoryview]]: ...

class CommitBase:
    @property
    def _attachment(self) -> Attachment: ...
    @property
    def _record(self) -> bytes: ...
    @property
    def _trusted(self) -> bool: ...

class WorkspaceBase:
    _attachment: Attachment
    _branch: Branch | None
    _base: bytes
    _base_snapshot: Snapshot | None
    _trusted: bool
    _edits: dict[str, Any]

    def _trust_under(self, word: int, /) -> None: ...
    def __setitem__(self, path: str, value: Buffer, /) -> None: ...
    def __delitem__(self, path: str, /) -> None: ...
    def __getitem__(self, path: str, /) -> bytes: ...
    def commit(
        self,
        message: str = "",
        *,
        metadata: Mapping[str, JSON] | None = None,
        durable: bool = False,
        rebase: bool = True,
        resolve: Resolve | None = None,
    ) -> Commit: ...

class L1Base:
    _attachment: Attachment

    def put(self, value: bytes, /) -> bytes: ...
    def get(self, id: bytes, /) -> bytes | None: ...

class Edits:
    def __init__(
        self, edits: dict[str, Edit], form: Callable[[Edit], tuple[int, bytes]], /
    ) -> None: ...
    @property
    def address(self) -> int: ...

def bind(
    *,
    commit: type[Commit],
    snapshot: type[Snapshot],
    workspace: type[Workspace],
    large: int,
    read_size_max: int,
    read_count_max: int,
) -> None: ...
def make_commit(record: bytes, attachment: Attachment, under: int = 1, /) -> Commit: ...
def commit_of_call(record: bytes, attachment: Attachment, call: Call, /) -> Commit: ...
def make_snapshot(attachment: Attachment, root: bytes, under: int = 1, /) -> Snapshot: ...

# hot_files.c: a result is an errno, or what was found. What a file is known by (hs_files_stat) is 48 bytes.
def files_list(root: int, paths: list[bytes], workers: int, /) -> list[int | list[tuple[str, int, bytes]]]: ...
def files_read(
    root: int, jobs: list[tuple[int, bytes]], workers: int, /
) -> list[int | tuple[bytes | None, bytes, bytes]]: ...
def files_write(
    root: int, jobs: list[tuple[int, bytes, bytes, bytes | None]], workers: int, /
) -> list[int | bytes]: ...
def files_same(root: int, rows: Buffer, names: Buffer, checked: int, workers: int, /) -> bool: ...
def files_directory(root: int, path: bytes, /) -> int: ...
