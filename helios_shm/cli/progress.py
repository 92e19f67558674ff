"""Progress bars, on standard error and on terminals only, for what may take longer than a second."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

from .output import console

Tell = Callable[[int, int | None], None]


def _say_nothing(done: int, total: int | None) -> None:
    """What there is to tell where nobody looks."""


@contextlib.contextmanager
def progress(label: str) -> Iterator[Tell]:
    """``with progress("ingesting") as tell: ... tell(done, total)``. Until it is told a total, it shows that it goes on
    and for how long. It is gone when it is done."""
    if not sys.stderr.isatty() or os.environ.get("TERM", "") == "dumb":
        yield _say_nothing
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    parts = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*parts, console=console(sys.stderr), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
