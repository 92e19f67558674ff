"""Serialisable workspaces: they remember what was read of their base, and a commit judges that as well.

    ws[path], get, in     ->  a path, with its value, or whether it is there
    len, iteration        ->  a range of paths, as far as it was consumed, with values or without
                                 |
    commit:  no edit's key and nothing read differs between base and head  ->  the edits go onto that head and no other
             else: resolvers for the edits, ConflictError for what was read

What was edited is judged as an edit, even if it was read before: so counters with ``sum`` do not conflict. Reads of an
own edit are no reads of the base. What is read by ``workspace.base`` is not seen here.

The judged head is the only one that the commit may follow (``no_rebase``): where it has moved again, all is judged
anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from operator import itemgetter
from typing import TypeVar

from .commit import Commit
from .mapping import EVERYTHING, Bounds
from .merge import Refused, conflict_of, entry_at
from .resolve import Rules
from .snapshot import Snapshot, entry_of
from .types import JSON, Resolve
from .workspace import Workspace

T = TypeVar("T")
_path_of = itemgetter(0)

# So many of the paths that were read and changed are named by an error, with their values.
_NAMED_MAX = 100
_CHANGED = 1  # in Snapshot._diff_batches: there on both sides


class _Range:
    """Paths that were read, with their values or without: from ``low`` (inclusive) to ``high`` (exclusive)."""

    __slots__ = ("high", "low", "values")

    def __init__(self, bounds: Bounds, values: bool) -> None:
        self.low, self.high = bounds
        self.values = values

    def reach(self, path: str, reverse: bool) -> None:
        """A scan over all of it has come to this path and no further."""
        if reverse:
            self.low = path.encode()
        else:
            self.high = path.encode() + b"\0"

    def changed(self, base: Snapshot, head: Snapshot) -> Iterator[str]:
        """The paths in it that differ, in order."""
        for forms, paths in base._diff_batches(head, (self.low, self.high)):
            for form, path in zip(forms, paths, strict=True):
                if self.values or form != _CHANGED:
                    yield path


class SerializableWorkspace(Workspace):
    """A workspace whose commit also judges what was read."""

    __slots__ = ("_counted", "_looked_up", "_scanned")

    _looked_up: dict[str, bool]  # path: was its value read, or only whether it is there?
    _counted: dict[Bounds, None]
    _scanned: list[_Range]

    @classmethod
    def _of(cls, workspace: Workspace) -> SerializableWorkspace:
        """The same, with nothing read yet."""
        made = cls.__new__(cls)
        made._attachment = workspace._attachment
        made._branch = workspace._branch
        made._stand_on(workspace._base, workspace._base_snapshot)
        made._trusted = workspace._trusted
        made._edits = dict(workspace._edits)
        return made

    def fork(self) -> Workspace:
        """An independent copy with the same base, branch and edits, which has read the same."""
        workspace = self._of(self)
        workspace._looked_up = dict(self._looked_up)
        workspace._counted = dict(self._counted)
        workspace._scanned = list(self._scanned)
        return workspace

    def _stand_on(self, base: bytes, snapshot: Snapshot | None) -> None:
        super()._stand_on(base, snapshot)
        self._looked_up, self._counted, self._scanned = {}, {}, []

    # --- remembering ---

    def __getitem__(self, path: str, /) -> bytes:
        if isinstance(path, str) and path not in self._edits:
            self._looked_up[path] = True
        return super().__getitem__(path)

    def _buffer(self, path: str) -> memoryview:
        if path not in self._edits:
            self._looked_up[path] = True
        return super()._buffer(path)

    def __contains__(self, path: object) -> bool:
        if isinstance(path, str) and path not in self._edits:
            self._looked_up.setdefault(path, False)
        return super().__contains__(path)

    def clear(self) -> None:
        """Remove every path."""
        self._counted[EVERYTHING] = None
        super().clear()

    def _note(self, bounds: Bounds) -> None:
        self._scanned.append(_Range(bounds, True))

    def _count(self, bounds: Bounds) -> int:
        self._counted[bounds] = None
        return super()._count(bounds)

    def _scan_keys(self, bounds: Bounds, reverse: bool) -> Iterator[str]:
        scan, read = super()._scan_keys(bounds, reverse), _Range(bounds, False)
        return self._remembered(scan, lambda path: path, read, bounds, reverse)

    def _scan_items(self, bounds: Bounds, reverse: bool) -> Iterator[tuple[str, bytes]]:
        scan, read = super()._scan_items(bounds, reverse), _Range(bounds, True)
        return self._remembered(scan, _path_of, read, bounds, reverse)

    def _remembered(
        self, scan: Iterator[T], path_of: Callable[[T], str], read: _Range, bounds: Bounds, reverse: bool
    ) -> Iterator[T]:
        """A scan that says as it goes on how far it has been consumed; nothing, before its first step."""
        self._scanned.append(read)
        for each in scan:
            read.reach(path_of(each), reverse)
            yield each
        read.low, read.high = bounds

    # --- judging ---

    def commit(
        self,
        message: str = "",
        *,
        metadata: Mapping[str, JSON] | None = None,
        durable: bool = False,
        rebase: bool = True,
        resolve: Resolve | None = None,
    ) -> Commit:
        """See ``Workspace.commit``; also ConflictError where what was read differs between base and head."""
        return self._commit(message, metadata=metadata, durable=durable, rebase=rebase, resolve=resolve)

    @property
    def _rebases(self) -> bool:
        """Does no more than the edits need to be judged, as the core does?"""
        if not self._edits:
            return True  # what was read was so, all at one time
        return not self._counted and not self._scanned and self._looked_up.keys() <= self._edits.keys()

    def _judge(self, head: Snapshot, rules: Rules) -> tuple[Workspace, list[Refused]]:
        rebased, refused = super()._judge(head, rules)
        base = self.base
        for path in islice(dict.fromkeys(self._reads_changed(head)), _NAMED_MAX):
            was, its = entry_at(base, path), entry_at(head, path)
            refused.append(Refused(conflict_of(path, was, was, its), "it was read"))
        return rebased, refused

    def _reads_changed(self, head: Snapshot) -> Iterator[str]:
        """What was read, is no edit, and differs between base and head."""
        base, edits = self.base, self._edits
        for path, value in list(self._looked_up.items()):
            was, its = entry_of(base, path), entry_of(head, path)
            if path not in edits and was != its and (value or was is None or its is None):
                yield path
        counted = (_Range(bounds, False) for bounds in list(self._counted))
        for read in chain(counted, list(self._scanned)):
            yield from (path for path in read.changed(base, head) if path not in edits)
