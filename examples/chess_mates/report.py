"""What a person sees: progress while the searches run, and the closing table.

On a terminal the progress is one bar that is redrawn in place; elsewhere a line for each problem when it is
finished.

Used by the command line.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

import chess
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from .problems import Problem
from .search import Search

_REDRAW_S = 0.1
# What a pipe or a log gets: rich takes 80 columns otherwise, and breaks lines.
_COLUMNS_WITHOUT_TERMINAL = 118


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _COLUMNS_WITHOUT_TERMINAL)


class ProgressLine:
    """Shows how far the searches of `problems` are. A context manager; call it after each round."""

    def __init__(self, out: Console, problems: Sequence[Problem]) -> None:
        self._out = out
        self._problems_count = len(problems)
        self._announced: set[str] = set()
        self._drawn_at = 0.0
        # No refresh thread: the workers are forked from this process.
        self._bar = Progress(
            TextColumn("searching"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[simulations]} simulations  {task.fields[current]}"),
            TimeElapsedColumn(),
            console=out,
            auto_refresh=False,
            transient=True,
            disable=not out.is_terminal,
        )
        self._task = self._bar.add_task("", total=self._problems_count, simulations=0, current="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, searches: Sequence[Search]) -> None:
        finished = [search for search in searches if search.finished]
        if self._out.is_terminal:
            self._draw(searches, finished)
        else:
            self._announce(finished)

    def _draw(self, searches: Sequence[Search], finished: Sequence[Search]) -> None:
        now = time.monotonic()
        if now - self._drawn_at < _REDRAW_S:
            return
        self._drawn_at = now
        current = [search.problem.name for search in searches if not search.finished]
        self._bar.update(
            self._task,
            completed=len(finished),
            simulations=sum(search.simulations for search in searches),
            current=", ".join(current),
        )
        self._bar.refresh()

    def _announce(self, finished: Sequence[Search]) -> None:
        for search in finished:
            name = search.problem.name
            if name not in self._announced:
                self._announced.add(name)
                print(
                    f"[{len(self._announced)}/{self._problems_count}] {name}: {move_in_san(search)},"
                    f" {_verdict(search)}, {search.simulations} simulations",
                    flush=True,
                )


@dataclass(frozen=True, slots=True)
class Totals:
    """Figures of a whole run; counts and bytes are sums over all searches."""

    problems: int
    solved: int
    elapsed_s: float
    simulations: int
    simulations_per_s: float
    snapshots: int
    transpositions: int
    commit_p50_us: float
    commit_p95_us: float
    commit_p99_us: float
    l1_hit_rate: float
    stored_bytes: int
    full_bytes: int


def totals(searches: Sequence[Search], *, elapsed_s: float, l1_hit_rate: float) -> Totals:
    """Sum up; `searches` holds one or more."""
    tallies = [search.tally for search in searches]
    commits_ns = sorted(ns for tally in tallies for ns in tally.commit_ns)
    simulations = sum(search.simulations for search in searches)
    return Totals(
        problems=len(searches),
        solved=sum(search.solved for search in searches),
        elapsed_s=elapsed_s,
        simulations=simulations,
        simulations_per_s=simulations / elapsed_s,
        snapshots=sum(tally.snapshots for tally in tallies),
        transpositions=sum(tally.transpositions for tally in tallies),
        commit_p50_us=_percentile(commits_ns, 50) / 1000,
        commit_p95_us=_percentile(commits_ns, 95) / 1000,
        commit_p99_us=_percentile(commits_ns, 99) / 1000,
        l1_hit_rate=l1_hit_rate,
        stored_bytes=sum(tally.stored_bytes for tally in tallies),
        full_bytes=sum(tally.full_bytes for tally in tallies),
    )


def _percentile(ordered: Sequence[int], percent: int) -> int:
    """The smallest element that at least `percent` of `ordered` do not exceed."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def print_tables(out: Console, searches: Sequence[Search], sums: Totals) -> None:
    """The table of problems and the figures of the run."""
    problems = Table(box=box.SIMPLE_HEAD)
    for name in ("problem", "mate in", "move", "verdict"):
        problems.add_column(name, no_wrap=True)
    for name in ("simulations", "transpositions"):
        problems.add_column(name, justify="right", no_wrap=True)
    problems.add_column("source", ratio=1)
    for search in searches:
        problems.add_row(
            search.problem.name,
            str(search.problem.mate_in),
            move_in_san(search),
            _verdict(search),
            f"{search.simulations:,}",
            f"{search.tally.transpositions:,}",
            Text(search.problem.source, no_wrap=True, overflow="ellipsis"),
        )
    out.print(problems)

    figures = Table(box=None, show_header=False, padding=(0, 2))
    figures.add_row("problems solved", f"{sums.solved} of {sums.problems}")
    figures.add_row(
        "simulations", f"{sums.simulations:,} in {sums.elapsed_s:.1f} s: {sums.simulations_per_s:,.0f}/s"
    )
    figures.add_row("snapshots made", f"{sums.snapshots:,}")
    figures.add_row("transpositions found", f"{sums.transpositions:,}")
    figures.add_row(
        "commit p50 / p95 / p99",
        f"{sums.commit_p50_us:.1f} / {sums.commit_p95_us:.1f} / {sums.commit_p99_us:.1f} us",
    )
    figures.add_row("L1 hit rate", f"{sums.l1_hit_rate:.1%}")
    figures.add_row(
        "bytes stored",
        f"{sums.stored_bytes:,} ({sums.stored_bytes / sums.full_bytes:.2f} x"
        f" the {sums.full_bytes:,} of full copies)",
    )
    out.print(figures)


def as_json(searches: Sequence[Search], sums: Totals) -> dict[str, Any]:
    """The same, for programs."""
    return {
        "problems": [
            {
                "name": search.problem.name,
                "mate_in": search.problem.mate_in,
                "move": search.move,
                "solved": search.solved,
                "proven": search.proven,
                "simulations": search.simulations,
                "transpositions": search.tally.transpositions,
            }
            for search in searches
        ],
        "totals": asdict(sums),
    }


def move_in_san(search: Search) -> str:
    """The move of a search as players write it."""
    if search.move is None:
        return "-"
    return search.problem.board.san(chess.Move.from_uci(search.move))


def _verdict(search: Search) -> str:
    if not search.solved:
        return "not solved"
    return "proven" if search.proven else "solved"
