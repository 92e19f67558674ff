"""``Workspace.ingest``: make what a workspace has below a prefix equal to a directory.

    1 found     every name in the directory that is meant, a level at a time; stats alone
    2 known     what the index says of a file that has not changed since: its id, unread. Else it is read and hashed
    3 edits     what differs from the workspace's entries: set; what is not there any more: removed

Nothing changes in the workspace before 3 is complete. Entries: files with their executable bit, symbolic links as
links (never followed), directories that hold nothing. Sockets, pipes and devices have no bytes and are passed
over. A nested state stays as it is while the directory holds just what it says; else its entries take its place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from . import config
from .attachment import Attachment
from .files import (
    DIRECTORY,
    SNAPSHOT,
    SYMLINK,
    Entry,
    Files,
    Found,
    Progress,
    inside,
    is_temporary,
    locked,
    now_ns,
    open_directory,
    parents_of,
    store_status,
    value_of,
)
from .globs import Globs
from .materialize import expanded, key_of, see_directories, unchecked
from .types import IngestMetrics
from .worktree import CHECKED, NO_KEY, WROTE, Key, Row, Worktree, settled, unsettled

Edits = dict[str, tuple[int, bytes] | None]
_EMPTY = Entry(DIRECTORY, b"", 0, b"")


@dataclass(slots=True)
class _Work:
    """One ingest. ``have``: the workspace's entries that are meant, nested states taken apart."""

    attachment: Attachment
    files: Files
    tree: Worktree
    globs: Globs
    prefix: str
    progress: Progress | None
    began_ns: int
    key: bytes | None  # names the base and the options, if there are no edits
    found: dict[str, Found] = field(default_factory=dict)
    have: dict[str, Entry] = field(default_factory=dict)
    nested: dict[str, list[str]] = field(
        default_factory=dict
    )  # path of a nested state, and those of what is in it
    kept_out: dict[str, Entry] = field(default_factory=dict)  # in nested states, and not meant
    rows: dict[str, Row] = field(default_factory=dict)
    edits: Edits = field(default_factory=dict)
    read: int = 0

    def run(self, entries: Iterable[tuple[str, Entry]]) -> IngestMetrics:
        self.take_apart(entries)
        files = self.look()
        self.compare(files)
        self.dissolve(files)
        rows = self.rows_left()
        key = NO_KEY
        if not self.edits and self.key is not None:
            key = Key(self.key, 0, *self.tree.times)
            key = see_directories(self.found, self.globs, self.tree, rows, self.began_ns, key)
        if rows != self.tree.rows or key != self.tree.key:
            self.tree.save(rows, key)
        removed = sum(edit is None for edit in self.edits.values())
        return IngestMetrics(self.read, len(self.edits) - removed, removed)

    def take_apart(self, entries: Iterable[tuple[str, Entry]]) -> None:
        everything, globs = self.globs.everything, self.globs
        for path, entry in entries:
            if not everything and not globs.takes(path, directory=entry.kind in (DIRECTORY, SNAPSHOT)):
                continue
            if entry.kind != SNAPSHOT:
                self.have[path] = entry
                continue
            inner = self.nested[path] = []
            for below, each in expanded(self.attachment, entry.value or b"", "", path + "/"):
                if everything or globs.takes(below, directory=each.kind == DIRECTORY):
                    self.have[below] = each
                    inner.append(below)
                else:
                    self.kept_out[below] = each

    # --- what is in the directory ---

    def look(self) -> dict[str, Found]:
        """The files, links and empty directories that are meant. ValueError for a name that is no path."""
        found = self.found = self.files.walk(self.globs.enters)
        globs, everything = self.globs, self.globs.everything
        files = {
            path: there
            for path, there in found.items()
            if there.kind <= SYMLINK and (everything or globs.takes(path)) and not is_temporary(path)
        }
        self._take_empty(found, files)
        for path in files:
            self._check(path)
        return files

    def _take_empty(self, found: dict[str, Found], files: dict[str, Found]) -> None:
        """A directory below which nothing is meant is an entry if it holds nothing, or was one before."""
        holding, taken = parents_of(found), parents_of(files)
        for path in sorted((path for path, there in found.items() if there.kind == DIRECTORY), reverse=True):
            if path in taken or not self.globs.takes(path, directory=True):
                continue
            before = self.have.get(path)
            if path not in holding or (before is not None and before.kind == DIRECTORY):
                files[path] = found[path]
                taken.update(parents_of([path]))

    def _check(self, path: str) -> None:
        key = self.prefix + path
        try:
            size = len(key) if key.isascii() else len(key.encode())
        except UnicodeEncodeError:
            name = os.path.join(os.fsencode(self.files.directory), os.fsencode(path))
            raise ValueError(
                f"{name!r} is not UTF-8, so no path of a state; rename it, or exclude it; nothing was changed"
            ) from None
        if size > config.KEY_BYTES_MAX:
            raise ValueError(
                f"{key[:60]!r}... has {size} bytes; a path has at most {config.KEY_BYTES_MAX}; nothing was changed"
            )

    # --- what differs ---

    def compare(self, files: dict[str, Found]) -> None:
        rows, have = self.tree.rows, self.have
        unknown: list[tuple[str, Found]] = []
        for path, there in files.items():
            old = have.get(path)
            if there.kind == DIRECTORY:
                if old is None or old.kind != DIRECTORY:
                    self.edits[path] = (DIRECTORY, b"")
                continue
            row = rows.get(path)
            if (
                row is not None
                and row.stat == there.stat
                and old is not None
                and (row.kind, row.id) == old[:2]
            ):
                self.rows[path] = row if row.flags & CHECKED else row._replace(flags=row.flags | CHECKED)
            else:
                unknown.append((path, there))
        self.take(unknown)
        for path in have:
            if path not in files and path not in self.edits:
                self.edits[path] = None

    def take(self, paths: list[tuple[str, Found]]) -> None:
        """Read files; those that differ from the workspace's become edits."""
        done = 0
        for path, id, stat, value in self.files.read(paths, keep=True):
            kind, old, before = stat[40], self.have.get(path), self.tree.rows.get(path)
            ours = before is not None and before.flags & WROTE and before.id == id and before.kind == kind
            kept = stat if settled(stat, self.began_ns) else unsettled(stat)
            self.rows[path] = Row(kept, id, CHECKED | (WROTE if ours else 0))
            if old is None or (kind, id) != old[:2]:
                self.edits[path] = (kind, value)
            done += 1
            if self.progress is not None and (done % 64 == 0 or done == len(paths)):
                self.progress(done, len(paths))
        self.read += done
        if done < len(paths):  # gone since
            for path, _ in paths:
                if path not in self.rows and path in self.have:
                    self.edits[path] = None

    def dissolve(self, files: dict[str, Found]) -> None:
        """Nested states whose directory differs give way to their entries, those that are not meant included."""
        for place, inner in self.nested.items():
            if not any(inside(path, place) for path in self.edits):
                continue
            for path, entry in self.kept_out.items():
                if inside(path, place):
                    self.edits[path] = (entry.kind, value_of(self.attachment, entry))
            for path in inner:
                if self.edits.get(path, ()) is None:
                    del self.edits[path]  # only the nested state had it
                elif path not in self.edits and path in files:
                    entry = self.have[path]
                    self.edits[path] = (entry.kind, value_of(self.attachment, entry))
            self.edits.setdefault(place, None)

    def rows_left(self) -> dict[str, Row]:
        """With those of paths that are not meant, and of directories, which an ingest has nothing to say about."""
        globs = self.globs
        kept = {
            path: unchecked(row)
            for path, row in self.tree.rows.items()
            if (row.kind == DIRECTORY and row.flags & WROTE) or not (globs.everything or globs.takes(path))
        }
        return {**kept, **self.rows}


def ingest(
    attachment: Attachment,
    entries: Callable[[], Iterable[tuple[str, Entry]]],
    base: bytes | None,
    directory: str | os.PathLike[str],
    *,
    prefix: str,
    include: Sequence[str],
    exclude: Sequence[str],
    workers: int | None,
    progress: Progress | None,
) -> tuple[Edits, IngestMetrics]:
    """See ``Workspace.ingest``. ``entries``: what the workspace has below the prefix; ``base``: the state that this is,
    if there are no edits. Paths, those of the edits
    that are returned as well, come without it."""
    globs = Globs(include, exclude)
    fd = open_directory(directory, make=False)
    try:
        place = os.path.realpath(directory)
        files = Files(fd, place, store_status(attachment, place), workers)
        with locked(fd, place, shared=True):
            began = now_ns()
            tree = Worktree(attachment.paths, place, os.fstat(fd), writable=not attachment.readonly)
            key = None if base is None else key_of("ingest", base, prefix, include, exclude)
            if key is not None and files.is_as(tree, key):
                return {}, IngestMetrics(0, 0, 0)
            work = _Work(attachment, files, tree, globs, prefix, progress, began, key)
            metrics = work.run(entries())
            return work.edits, metrics
    finally:
        os.close(fd)
