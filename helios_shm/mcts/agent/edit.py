"""Edits: what a candidate does to a source tree.

Three are values: they pickle, are hashable and print, and need no directory:

    Write(path, data)               a whole file
    Delete(path)
    Replace(path, old, new)         a passage of a text file

Anything else is a function that is given a directory and changes files there, as an agent does: it runs in a scratch
that holds the state, and what it has done is ingested. Such a function pickles if it is one of a module, or a
``functools.partial`` of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ... import Kind, Snapshot, Workspace
from .scratch import Scratch


@dataclass(frozen=True, slots=True)
class Write:
    """A file's new content. ``kind``: default, that which the file has."""

    path: str
    data: bytes
    kind: Kind | None = None

    def apply(self, workspace: Workspace, prefix: str = "") -> None:
        """Do it in a workspace, to a path behind a prefix."""
        path = prefix + self.path
        workspace.put(path, self.data, kind=self.kind or _kind_of(workspace, path))

    def __str__(self) -> str:
        return f"write {self.path} ({len(self.data):,} bytes)"


@dataclass(frozen=True, slots=True)
class Delete:
    """A file goes."""

    path: str

    def apply(self, workspace: Workspace, prefix: str = "") -> None:
        """Do it in a workspace, to a path behind a prefix. Raises KeyError if there is no such file."""
        del workspace[prefix + self.path]

    def __str__(self) -> str:
        return f"delete {self.path}"


@dataclass(frozen=True, slots=True)
class Replace:
    """A passage of a UTF-8 file gives way to another.

    at: where ``old`` stands, in characters from the file's begin. None: it must stand there once.
    """

    path: str
    old: str
    new: str
    at: int | None = None

    def apply(self, workspace: Workspace, prefix: str = "") -> None:
        """Do it in a workspace, to a path behind a prefix. Raises KeyError if there is no such file, ValueError if
        the passage is not there, or more than once."""
        path = prefix + self.path
        text = workspace[path].decode()
        at = self._place(text)
        made = text[:at] + self.new + text[at + len(self.old) :]
        workspace.put(path, made.encode(), kind=_kind_of(workspace, path))

    def _place(self, text: str) -> int:
        if self.at is not None:
            if not text.startswith(self.old, self.at):
                raise ValueError(f"{self.path}: {self.old!r:.60} does not stand at {self.at}")
            return self.at
        count = text.count(self.old)
        if count != 1:
            raise ValueError(
                f"{self.path}: {self.old!r:.60} stands there {count} times; pass at=, or more of the text"
            )
        return text.index(self.old)

    def __str__(self) -> str:
        where = self.path if self.at is None else f"{self.path}, character {self.at}"
        return f"{where}: {self.old!r} -> {self.new!r}"


Edit: TypeAlias = Write | Delete | Replace | Callable[[Path], object]


def edited(
    state: Snapshot, edit: Edit, scratch: Callable[[], Scratch], prefix: str = "", ignore: Sequence[str] = ()
) -> Snapshot:
    """The state after an edit, committed beside all branches.

    scratch: gives the directory for an edit that needs one; ``ignore``: what is not taken from there.
    Raises ValueError or KeyError if the edit does not fit the state.
    """
    workspace = state.fork()
    if isinstance(edit, Write | Delete | Replace):
        edit.apply(workspace, prefix)
    else:
        place = scratch()
        place.load(state)
        edit(place.tree)
        place.ingest(workspace, exclude=ignore)
    return workspace.commit().snapshot


def _kind_of(workspace: Workspace, path: str) -> Kind | None:
    """What an existing file is, so that what is executable stays so."""
    base = workspace.base
    kind = base.stat(path).kind if path in base else None
    return kind if kind == "executable" else None
