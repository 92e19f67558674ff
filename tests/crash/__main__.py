"""``make crash`` and ``make soak``: every stage of the proof, and the bugs that each must find.

    for each stage:  prove() on our tree -> no violation, its bars reached
                     prove() on each mutated tree -> at least one violation

Stages run beside each other, each in a process of its own (tests/crash/one.py). One seed a run, printed; with
``--seed`` it makes the same choices again. What a stage that found something has left is kept under build/crash/.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from helios_shm.errors import HeliosError
from helios_shm.store import INFO_NAME, StorePaths, info_read
from tests.crash.stage import Outcome
from tests.crash.tree import ROOT, BuildError, Mutant, library, mutated
from tests.programs import untraced

KEPT = ROOT / "build" / "crash" / "kept"
_SHARED_MEMORY = Path("/dev/shm")
# A stage that takes so many times what it says has hung.
_PATIENCE = 10.0
_PATIENCE_SECONDS_MIN = 120.0
# A bug that shows in a race may not show in every run; one that is not found with so many seeds is not found.
_TRIES = 3


@dataclass
class Report:
    """What became of one stage."""

    stage: str
    title: str
    outcome: Outcome = field(default_factory=Outcome)
    # Why there is no outcome: it raised, hung or was killed, or a tree could not be built. Never the product's fault
    # until somebody has looked.
    error: str = ""
    caught: dict[str, bool] = field(default_factory=dict)
    seconds: float = 0.0
    kept: Path | None = None

    @property
    def good(self) -> bool:
        return not self.error and not self.outcome.violations and all(self.caught.values())


class StageFailed(Exception):
    """A stage ended without an outcome."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    names = options.stage or stages()
    if unknown := sorted(set(names) - set(stages())):
        print(f"no such stage: {', '.join(unknown)}; there are {', '.join(stages())}", file=sys.stderr)
        return 2
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    # A shell that runs us in the background has us ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if options.hours:
            return _soak(names, seed, options)
        print(f"seed {seed}; to do the same again: python -m tests.crash --seed {seed}", flush=True)
        return _show(_round(names, seed, options.scale, options))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__.splitlines()[0])
    parser.add_argument("--stage", action="append", help="this one only; may be given several times")
    parser.add_argument("--seed", type=int, help="the seed that an earlier run printed")
    parser.add_argument("--scale", type=float, default=1.0, help="how much of everything; 1 reaches the bars")
    parser.add_argument(
        "--hours", type=float, default=0.0, help="go on for so long, with a new seed each time"
    )
    # One more than there are processors: many a stage waits for disks, deadlines and deaths.
    parser.add_argument("--jobs", type=int, default=(os.cpu_count() or 1) + 1, help="stages at a time")
    parser.add_argument("--no-mutants", action="store_true", help="leave the seeded bugs out")
    parser.add_argument("--verbose", action="store_true", help="show what the stages' children print")
    return parser.parse_args(arguments)


def stages() -> list[str]:
    return sorted(
        path.stem for path in (Path(__file__).parent / "stages").glob("*.py") if path.stem[0] != "_"
    )


def _module(stage: str) -> ModuleType:
    return importlib.import_module(f"tests.crash.stages.{stage}")


# ---- one round: every stage once ----


def _round(names: list[str], seed: int, scale: float, options: argparse.Namespace) -> list[Report]:
    """Every stage, the longest first; each is told as it ends. In the order of the stages."""
    library(ROOT)
    first = sorted(names, key=lambda name: -float(_module(name).SECONDS))
    # Left in this order: the children end, and no other begins, before the threads that wait for them are joined.
    with ThreadPoolExecutor(options.jobs) as pool, _Children() as children:
        futures = [pool.submit(_prove, name, seed, scale, options, children) for name in first]
        reports = []
        for future in as_completed(futures):
            reports.append(future.result())
            print(_line(reports[-1]), flush=True)
    return sorted(reports, key=lambda report: names.index(report.stage))


def _prove(stage: str, seed: int, scale: float, options: argparse.Namespace, children: _Children) -> Report:
    module = _module(stage)
    report, begun = Report(stage, module.TITLE), time.monotonic()
    mutants: tuple[Mutant, ...] = () if options.no_mutants else module.MUTANTS
    try:
        with _scratch(stage, report) as directory:
            asked = {"stage": stage, "seed": seed, "scale": scale, "mutant": None}
            report.outcome = children.run(ROOT, asked, directory / "run", options.verbose)
            report.caught.update(report.outcome.caught)
            for mutant in mutants:
                tree = mutated(mutant, directory / "trees")
                report.caught[mutant.name] = any(
                    children.run(
                        tree,
                        {**asked, "seed": seed + turn, "mutant": mutant.name},
                        directory / f"run-{tree.name}-{turn}",
                        options.verbose,
                    ).violations
                    for turn in range(_TRIES)
                )
                shutil.rmtree(tree)
    except (StageFailed, BuildError, OSError) as error:
        report.error = str(error)
    report.seconds = time.monotonic() - begun
    return report


@contextmanager
def _scratch(stage: str, report: Report) -> Iterator[Path]:
    """A directory for all that a stage makes; kept if it has found something."""
    directory = Path(tempfile.mkdtemp(prefix=f"helios-crash-{stage}-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory / "trees", ignore_errors=True)
        if report.outcome.violations:
            report.kept = KEPT / directory.name
            KEPT.mkdir(parents=True, exist_ok=True)
            shutil.move(directory, report.kept)
        else:
            _sweep(directory)
        shutil.rmtree(directory, ignore_errors=True)


def _sweep(directory: Path) -> None:
    """Remove the segments of the stores under a directory: a bug's coordinator may have died before it could."""
    for place, _, names in os.walk(directory):
        if INFO_NAME in names:
            with suppress(HeliosError, OSError):
                info = info_read(
                    StorePaths.of(Path(place))
                )  # whatever a stage left there: pipes, endless files
                # A copy of a store has the uuid of its original, and a segment of its own.
                for segment in _SHARED_MEMORY.glob(f"helios-{info.uuid.hex()}-*"):
                    segment.unlink(missing_ok=True)


class _Children:
    """The stages' processes: each leads a session, so that nothing of it outlives it, or us."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False

    def __enter__(self) -> _Children:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._ended = True
            for child in self._running:
                _kill(child)

    def run(self, tree: Path, asked: dict[str, Any], directory: Path, verbose: bool) -> Outcome:
        directory.mkdir(parents=True)
        log = directory.with_suffix(".log")
        environment = {**untraced(), "PYTHONPATH": str(tree), "TMPDIR": str(directory)}
        words = json.dumps({**asked, "directory": str(directory)})
        with open(log, "wb") as errors, self._lock:
            if self._ended:
                raise StageFailed("interrupted")
            child = subprocess.Popen(
                [sys.executable, "-m", "tests.crash.one", words],
                cwd=tree,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=None if verbose else errors,
                start_new_session=True,
            )
            self._running.add(child)
        with child:
            try:
                said, _ = child.communicate(timeout=_patience(asked))
            except subprocess.TimeoutExpired:
                said = b""
            with self._lock:
                self._running.discard(child)
            _kill(child)
        if child.returncode != 0 or not said:
            raise StageFailed(_failure(child, asked, log))
        return Outcome(**json.loads(said))


def _patience(asked: dict[str, Any]) -> float:
    seconds = float(_module(asked["stage"]).SECONDS) * max(float(asked["scale"]), 1.0)
    return max(_PATIENCE_SECONDS_MIN, _PATIENCE * seconds)


def _failure(child: subprocess.Popen[bytes], asked: dict[str, Any], log: Path) -> str:
    last = log.read_text(errors="replace").strip().splitlines()[-12:]
    bug = f" with the bug {asked['mutant']!r}" if asked["mutant"] else ""
    return f"{asked['stage']}{bug} ended with {child.returncode} and no outcome: " + "\n    ".join(last)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a stage's session."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


# ---- telling ----


def _line(report: Report) -> str:
    figures = ", ".join(f"{_number(value)} {name}" for name, value in report.outcome.figures.items())
    bugs = f"{sum(report.caught.values())}/{len(report.caught)} bugs caught"
    verdict = "ok    " if report.good else "FAILED"
    return f"{verdict} {report.title:<18} {report.seconds:5.0f} s  {bugs:<18} {figures}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.3g}"


def _show(reports: list[Report]) -> int:
    """The reasons of what failed, and the closing line; returns the exit status."""
    for report in reports:
        missed = [
            f"the seeded bug {name!r} was not found" for name, found in report.caught.items() if not found
        ]
        for sentence in [*report.outcome.violations, *missed, *([report.error] if report.error else [])]:
            print(f"  {report.title}: {sentence}")
        if report.kept is not None:
            print(f"  {report.title}: kept in {report.kept.relative_to(ROOT)}")
    failed = sum(not report.good for report in reports)
    print(f"{len(reports) - failed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


# ---- a soak: rounds until the time is up ----


def _soak(names: list[str], seed: int, options: argparse.Namespace) -> int:
    """Rounds of growing scale, each with the next seed; ends at the first that fails, or when the time is up."""
    end, totals, number = time.monotonic() + 3600 * options.hours, {name: Outcome() for name in names}, 0
    while number == 0 or time.monotonic() < end:
        scale = options.scale * min(1 << number, 16)
        print(f"round {number + 1}: --seed {seed + number} --scale {scale:g}", flush=True)
        reports = _round(names, seed + number, scale, options)
        for report in reports:
            for name, value in report.outcome.figures.items():
                totals[report.stage].count(name, value)
        if not all(report.good for report in reports):
            return _show(reports)
        number += 1
        options.no_mutants = True  # once is enough: a stage does not forget how to find them
    print(f"all {number} rounds:")
    for name, total in totals.items():
        print(
            f"  {_module(name).TITLE:<18} {', '.join(f'{_number(v)} {k}' for k, v in total.figures.items())}"
        )
    return _show(reports)


if __name__ == "__main__":
    sys.exit(main())
