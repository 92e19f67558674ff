"""Lines, colours, JSON, sizes and times: what every command prints with.

Text that comes out of a store is made visible first: a control character in a path or message would move the cursor of
a terminal, or begin a new line in a list.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import IO, TYPE_CHECKING, Any

import click

from .. import Commit

if TYPE_CHECKING:
    from rich.console import Console

ID_DIGITS = 12
_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_STYLES: dict[str, dict[str, Any]] = {
    "id": {"fg": "yellow"},
    "name": {"fg": "cyan", "bold": True},
    "added": {"fg": "green"},
    "changed": {"fg": "yellow"},
    "removed": {"fg": "red"},
    "heading": {"bold": True},
    "dim": {"dim": True},
    "good": {"fg": "green"},
    "note": {"fg": "blue"},
    "warning": {"fg": "yellow", "bold": True},
    "error": {"fg": "red", "bold": True},
}


def wants_colour(stream: IO[Any] | None = None) -> bool:
    """Colours: on terminals that can, unless NO_COLOR (https://no-color.org) is set."""
    stream = stream or sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") != "dumb"


def console(stream: IO[str]) -> Console:
    """rich's console on a stream, by the same rule."""
    from rich.console import Console

    return Console(file=stream, color_system="auto" if wants_colour(stream) else None, highlight=False)


def paint(text: str, style: str) -> str:
    """Text in a style; ``line`` takes the style away again where nobody would see it."""
    return click.style(text, **_STYLES[style])


def line(text: str = "") -> None:
    """One line on standard output."""
    click.echo(text, color=wants_colour())


def remark(text: str) -> None:
    """One line on standard error: what is no result."""
    click.echo(text, err=True, color=wants_colour(sys.stderr))


def visible(text: str) -> str:
    """Text without control characters: each as Python would write it."""
    return _INVISIBLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def columns(rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Rows as aligned columns, two blanks apart; ``right``: indices of those that are aligned at their right."""
    listed = [list(row) for row in rows]
    widths = (
        [max(len(click.unstyle(row[i])) for row in listed) for i in range(len(listed[0]))] if listed else []
    )
    for row in listed:
        cells = []
        for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
            blanks = " " * (width - len(click.unstyle(cell)))
            cells.append(blanks + cell if index in right else cell + blanks)
        line("  ".join(cells).rstrip())


def report(fields: dict[str, Any]) -> None:
    """One JSON object on a line of its own; keys are documented and stay."""
    line(json.dumps(fields, ensure_ascii=True, default=_plain))


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)


# --- figures ---


def size(count: int) -> str:
    """Bytes, for people: 87 B, 1.2 KiB."""
    if count < 1024:
        return f"{count} B"
    scaled = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        scaled /= 1024
        if scaled < 1024:
            return f"{scaled:.1f} {unit}"
    return f"{scaled / 1024:.1f} TiB"


def count(number: int, noun: str, plural: str = "") -> str:
    """1 key, 2 keys."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def seconds(duration: float) -> str:
    """A duration, for people: 12 us, 3.4 ms, 1.20 s."""
    if duration < 1e-3:
        return f"{duration * 1e6:.0f} us"
    return f"{duration * 1e3:.1f} ms" if duration < 1 else f"{duration:.2f} s"


def local_time(when: datetime) -> str:
    """A time of a commit where this process is."""
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


# --- commits ---


def commit_fields(commit: Commit) -> dict[str, Any]:
    """A commit, for JSON."""
    metrics = commit.metrics
    return {
        "id": commit.snapshot.id,
        "branch": commit.branch,
        "sequence": commit.sequence,
        "time": commit.time.astimezone(UTC).isoformat(),
        "message": commit.message,
        "metadata": dict(commit.metadata),
        "parents": [parent.id for parent in commit.parents],
        "changed_keys": metrics.changed_keys,
        "new_bytes": metrics.new_bytes,
        "reused_bytes": metrics.reused_bytes,
        "latency_ns": metrics.latency_ns,
    }


def commit_name(commit: Commit) -> str:
    return f"{commit.branch}@{commit.sequence}" if commit.branch is not None else "a detached commit"


def commit_line(commit: Commit) -> str:
    """A commit in one line: where, what, why."""
    message = visible(commit.message.partition("\n")[0])
    parts = [
        paint(visible(commit_name(commit)), "name"),
        paint(commit.snapshot.id[:ID_DIGITS], "id"),
        message,
    ]
    return "  ".join(part for part in parts if part)


def say_commit(commit: Commit, as_json: bool) -> None:
    """What every command that makes a commit prints in the end."""
    if as_json:
        report(commit_fields(commit))
    else:
        line(commit_line(commit))
