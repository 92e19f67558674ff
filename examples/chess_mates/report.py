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

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from .problems import Problem
from .runner import Solution

_REDRAW_S = 0.1
# What a pipe or a log gets: rich takes 80 columns otherwise, and breaks lines.
_COLUMNS_WITHOUT_TERMINAL = 118


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _COLUMNS_WITHOUT_TERMINAL)


class ProgressLine:
    """Shows how far the searches of `problems` are. A context manager; call it after each slice."""

    def __init__(self, out: Console, problems: Sequence[Problem]) -> None:
        self._out = out
        self._problems_count = len(problems)
        self._announced = 0
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

    def __call__(self, finished: Sequence[Solution], current: Problem | None, simulations: int) -> None:
        if self._out.is_terminal:
            self._draw(finished, current, simulations)
        else:
            self._announce(finished)

    def _draw(self, finished: Sequence[Solution], current: Problem | None, simulations: int) -> None:
        now = time.monotonic()
        if now - self._drawn_at < _REDRAW_S:
            return
        self._drawn_at = now
        self._bar.update(
            self._task,
            completed=len(finished),
            simulations=sum(solution.simulations for solution in finished) + simulations,
            current="" if current is None else current.name,
        )
        self._bar.refresh()

    def _announce(self, finished: Sequence[Solution]) -> None:
        for number, solution in enumerate(finished[self._announced :], self._announced + 1):
            print(
                f"[{number}/{self._problems_count}] {solution.problem.name}: {move_in_san(solution)},"
                f" {_verdict(solution)}, {solution.simulations} simulations",
                flush=True,
            )
        self._announced = len(finished)


@dataclass(frozen=True, slots=True)
class Totals:
    """Figures of a whole run; counts and bytes are sums over all searches, times means."""

    problems: int
    solved: int
    proven: int
    elapsed_s: float
    simulations: int
    simulations_per_s: float
    snapshots: int
    transpositions: int
    commit_us: float
    store_us_per_snapshot: float
    store_share: float
    l1_hit_rate: float
    stored_bytes: int
    reused_bytes: int


def totals(solutions: Sequence[Solution], *, elapsed_s: float, l1_hit_rate: float) -> Totals:
    """Sum up; `solutions` holds one or more."""
    metrics = [solution.metrics for solution in solutions]
    simulations = sum(solution.simulations for solution in solutions)
    expansions = sum(each.expansions for each in metrics)
    store_ns = sum(each.store_ns for each in metrics)
    return Totals(
        problems=len(solutions),
        solved=sum(solution.solved for solution in solutions),
        proven=sum(solution.proven for solution in solutions),
        elapsed_s=elapsed_s,
        simulations=simulations,
        simulations_per_s=simulations / elapsed_s,
        snapshots=expansions,
        transpositions=sum(each.transpositions for each in metrics),
        commit_us=sum(each.commit_ns for each in metrics) / expansions / 1000,
        store_us_per_snapshot=store_ns / expansions / 1000,
        store_share=store_ns / sum(each.total_ns for each in metrics),
        l1_hit_rate=l1_hit_rate,
        stored_bytes=sum(each.new_bytes for each in metrics),
        reused_bytes=sum(each.reused_bytes for each in metrics),
    )


def print_tables(out: Console, solutions: Sequence[Solution], sums: Totals) -> None:
    """The table of problems and the figures of the run."""
    problems = Table(box=box.SIMPLE_HEAD)
    for name in ("problem", "mate in", "move", "verdict"):
        problems.add_column(name, no_wrap=True)
    for name in ("simulations", "states", "transpositions"):
        problems.add_column(name, justify="right", no_wrap=True)
    problems.add_column("source", ratio=1)
    for solution in solutions:
        problems.add_row(
            solution.problem.name,
            str(solution.problem.mate_in),
            move_in_san(solution),
            _verdict(solution),
            f"{solution.simulations:,}",
            f"{solution.metrics.rows:,}",
            f"{solution.metrics.transpositions:,}",
            Text(solution.problem.source, no_wrap=True, overflow="ellipsis"),
        )
    out.print(problems)

    figures = Table(box=None, show_header=False, padding=(0, 2))
    figures.add_row("problems solved", f"{sums.solved} of {sums.problems}, {sums.proven} proven")
    figures.add_row(
        "simulations", f"{sums.simulations:,} in {sums.elapsed_s:.1f} s: {sums.simulations_per_s:,.0f}/s"
    )
    figures.add_row("snapshots made", f"{sums.snapshots:,}")
    figures.add_row("transpositions found", f"{sums.transpositions:,}")
    figures.add_row("commit, mean", f"{sums.commit_us:.1f} us")
    figures.add_row(
        "fork and commit",
        f"{sums.store_us_per_snapshot:.1f} us a snapshot, {sums.store_share:.1%} of the time",
    )
    figures.add_row("L1 hit rate", f"{sums.l1_hit_rate:.1%}")
    figures.add_row("bytes stored", f"{sums.stored_bytes:,}, and {sums.reused_bytes:,} of values shared")
    out.print(figures)


def as_json(solutions: Sequence[Solution], sums: Totals) -> dict[str, Any]:
    """The same, for programs."""
    return {
        "problems": [
            {
                "name": solution.problem.name,
                "mate_in": solution.problem.mate_in,
                "move": solution.move.uci(),
                "solved": solution.solved,
                "proven": solution.proven,
                "simulations": solution.simulations,
                "states": solution.metrics.rows,
                "transpositions": solution.metrics.transpositions,
            }
            for solution in solutions
        ],
        "totals": asdict(sums),
    }


def move_in_san(solution: Solution) -> str:
    """The move as players write it."""
    return solution.problem.board.san(solution.move)


def _verdict(solution: Solution) -> str:
    if not solution.solved:
        return "not solved"
    return "proven" if solution.proven else "solved"
