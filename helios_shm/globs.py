"""Which paths are meant: include and exclude patterns, as .gitignore has them. The only importer of pathspec.

    exclude   a path is left out if it is said to be, or any directory above it is, whatever is said of what is below
    include   none: all; else a path is meant if it is said to be; if nothing is said of it, as the directory above it

A pattern is a line of a .gitignore file: ``*`` stays within a name, ``**`` crosses directories, a slash at the end
means directories only, a slash before or in the middle anchors it, ``!`` takes back what an earlier pattern said;
the last one that matches a path decides what is said of it. pathspec compiles single patterns alone: its own
decision is made for files, and takes what was said of a directory above for what is said of the path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern


class _Patterns:
    """What a list of patterns says of a path. TypeError, ValueError."""

    __slots__ = ("_patterns",)

    def __init__(self, name: str, lines: Sequence[str]) -> None:
        if isinstance(lines, str | bytes):
            raise TypeError(f"{name} is a sequence of patterns, not one: write {name}=[{lines!r}]")
        # Each with: does it mean directories only? The last one first.
        self._patterns: list[tuple[GitIgnoreSpecPattern, bool]] = []
        for line in lines:
            if not isinstance(line, str):
                raise TypeError(f"a pattern is a str, not {type(line).__name__}")
            try:
                self._patterns.insert(0, _compiled(line))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def say(self, path: str, directory: bool) -> bool | None:
        """Is this very path matched, whatever is above it? None: no pattern matches it."""
        for pattern, directories_only in self._patterns:
            if (directory or not directories_only) and pattern.include is not None:
                found = pattern.match_file(path)
                # A group is there where what was matched is a directory above, and its slash.
                if found is not None and found.match.lastindex is None:
                    return pattern.include
        return None


def _compiled(line: str) -> tuple[GitIgnoreSpecPattern, bool]:
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

    text = line if line.endswith("\\ ") else line.rstrip()
    directories_only = text.endswith("/") and text != "/"
    return GitIgnoreSpecPattern(text.removesuffix("/") if directories_only else text), directories_only


class Globs:
    """The paths that are meant. Paths are relative to the directory, without a slash at either end."""

    __slots__ = ("_exclude", "_include", "_left_out", "_taken")

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self._include = _Patterns("include", include)
        self._exclude = _Patterns("exclude", exclude)
        # Of directories.
        self._left_out: dict[str, bool] = {"": False}
        self._taken: dict[str, bool] = {"": not self._include}

    @property
    def everything(self) -> bool:
        """No pattern at all?"""
        return not self._include and not self._exclude

    def enters(self, directory: str) -> bool:
        """May anything below this directory be meant?"""
        return not self._leaves_out(directory, True)

    def takes(self, path: str, *, directory: bool = False) -> bool:
        """Is this path meant?"""
        return not self._leaves_out(path, directory) and self._includes(path, directory)

    def _leaves_out(self, path: str, directory: bool) -> bool:
        known = self._left_out.get(path) if directory else None
        if known is None:
            known = bool(self._exclude) and (
                self._leaves_out(_parent(path), True) or bool(self._exclude.say(path, directory))
            )
            if directory:
                self._left_out[path] = known
        return known

    def _includes(self, path: str, directory: bool) -> bool:
        known = self._taken.get(path) if directory else None
        if known is None:
            said = self._include.say(path, directory)
            known = self._includes(_parent(path), True) if said is None else said
            if directory:
                self._taken[path] = known
        return known


def _parent(path: str) -> str:
    return path.rpartition("/")[0]
