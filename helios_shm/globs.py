"""Which paths are meant: include and exclude patterns, as .gitignore has them. The only importer of pathspec.

    exclude   a path is left out if it matches, or any directory above it does, whatever is said of what is below
    include   none: all; else a path is meant only if it, or a directory above it, matches

A pattern is a line of a .gitignore file: ``*`` stays within a name, ``**`` crosses directories, a slash at the end
means directories only, a slash before or in the middle anchors it, ``!`` takes back what an earlier pattern said;
the last one that matches decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Match = Callable[[str], bool]


def _matcher(name: str, patterns: Sequence[str]) -> Match | None:
    """None: there are no patterns. TypeError, ValueError."""
    if isinstance(patterns, str | bytes):
        raise TypeError(f"{name} is a sequence of patterns, not one: write {name}=[{patterns!r}]")
    lines = list(patterns)
    for line in lines:
        if not isinstance(line, str):
            raise TypeError(f"a pattern is a str, not {type(line).__name__}")
    if not lines:
        return None
    from pathspec import GitIgnoreSpec

    try:
        spec = GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return spec.match_file


class Globs:
    """The paths that are meant. Paths are relative to the directory, without a slash at either end."""

    __slots__ = ("_exclude", "_include", "_left_out")

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self._include = _matcher("include", include)
        self._exclude = _matcher("exclude", exclude)
        self._left_out: dict[str, bool] = {"": False}  # directories

    @property
    def everything(self) -> bool:
        """No pattern at all?"""
        return self._include is None and self._exclude is None

    def enters(self, directory: str) -> bool:
        """May anything below this directory be meant?"""
        return not self._leaves_out(directory)

    def takes(self, path: str, *, directory: bool = False) -> bool:
        """Is this path meant?"""
        if self._exclude is not None:
            out = (
                self._leaves_out(path)
                if directory
                else self._leaves_out(_parent(path)) or self._exclude(path)
            )
            if out:
                return False
        return self._include is None or self._include(path + "/" if directory else path)

    def _leaves_out(self, directory: str) -> bool:
        known = self._left_out.get(directory)
        if known is None:
            exclude = self._exclude
            known = exclude is not None and (self._leaves_out(_parent(directory)) or exclude(directory + "/"))
            self._left_out[directory] = known
        return known


def _parent(path: str) -> str:
    return path.rpartition("/")[0]
