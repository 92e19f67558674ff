"""Options, signals and the order in which things are opened and closed.

    signals caught { store open { searches { workers } } }

Called by __main__ and by tests.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import helios_shm

from . import report
from .problems import Problem, load
from .runner import Stopped, StopRequest, run

SIMULATIONS_MAX = 20_000


def main(argv: Sequence[str] | None = None) -> int:
    """Search as `argv` says (the command line by default). Returns the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    problems = load(options.problems)
    if not problems:
        parser.error(f"no problem is called {options.problems!r}; the names are in problems.epd")
    with _stop_signals() as stop:
        try:
            return _search_and_report(options, problems, stop)
        except (Stopped, helios_shm.HeliosError, OSError) as error:
            if stop.signum is not None:
                name = signal.Signals(stop.signum).name
                print(f"chess_mates: ended by {name}; no worker and no open store is left", file=sys.stderr)
                return 128 + stop.signum
            print(f"chess_mates: {type(error).__name__}: {error}", file=sys.stderr)
            return 1


def _search_and_report(options: argparse.Namespace, problems: Sequence[Problem], stop: StopRequest) -> int:
    out = report.console()
    with helios_shm.open(options.store) as engine:
        out.print(
            f"{len(problems)} problems, {options.workers} workers, at most {options.simulations:,}"
            f" simulations a problem, seed {options.seed}, store {options.store or 'ephemeral'}",
            highlight=False,
            soft_wrap=True,
        )
        start = time.perf_counter()
        with report.ProgressLine(out, problems) as progress:
            solutions = run(
                engine,
                problems,
                workers=options.workers,
                simulations_max=options.simulations,
                seed=options.seed,
                stop=stop,
                progress=progress,
            )
        elapsed_s = time.perf_counter() - start
        sums = report.totals(solutions, elapsed_s=elapsed_s, l1_hit_rate=engine.stats().hit_rate)
    report.print_tables(out, solutions, sums)
    if options.json is not None:
        options.json.write_text(
            json.dumps(report.as_json(solutions, sums), indent=2) + "\n", encoding="utf-8"
        )
    return 0 if sums.solved == sums.problems else 1


@contextmanager
def _stop_signals() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request to stop while the block runs."""
    stop = StopRequest()
    previous = {signum: signal.signal(signum, stop.ask) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.chess_mates",
        description="Find forced mates by parallel Monte Carlo tree search over snapshots.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--store", type=Path, metavar="PATH", help="keep the states in this store (None: ephemeral)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="with one worker, the same seed gives the same result"
    )
    parser.add_argument(
        "--simulations", type=_count, default=SIMULATIONS_MAX, help="at most so many for each problem"
    )
    parser.add_argument("--workers", type=_count, default=2, help="worker processes")
    parser.add_argument("--problems", default="*", metavar="PATTERN", help="only those whose name matches")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there as well")
    return parser


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {count}")
    return count
