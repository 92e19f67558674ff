"""`python -m bench [--quick] [--only PATTERN] [--out DIR]`: each figure beside its peers and its floor.

    benchmarks -> Row, Row, ...  -> the terminal, line by line
                                 -> DIR/results.json   everything, for programs
                                    DIR/results.md     the table, for people
                                    DIR/<plot>.svg     growth, one file a workload

A report, not a test: a missed target is said loudly and changes nothing; the exit code is 1 only if a
benchmark could not be run.
"""

import argparse
import datetime
import fnmatch
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from . import (
    bench_bulk,
    bench_cache,
    bench_commit,
    bench_diff,
    bench_directories,
    bench_disk,
    bench_drain,
    bench_durable,
    bench_evaluator,
    bench_fork,
    bench_git,
    bench_hash,
    bench_history,
    bench_hot,
    bench_memory,
    bench_open,
    bench_read,
    bench_ring,
    bench_scaling,
    bench_search,
    bench_wait,
)
from .harness import HEADINGS, Row, Setting, line, report
from .plots import draw
from .results import Report, write

Benchmark: TypeAlias = Callable[[Setting], Iterator[Row]]
SECONDS_MAX = 600.0  # for everything, on 2 cores
BUILD = Path(__file__).parent.parent / "build" / "bench"

BENCHMARKS: tuple[Benchmark, ...] = (
    bench_commit.commit_1_kib,
    bench_commit.commit_48_bytes,
    bench_commit.commit_10_000,
    bench_commit.commit_10,
    bench_commit.commit_1000,
    bench_commit.beside_ray,
    bench_commit.million_1_kib,
    bench_commit.million_48_bytes,
    bench_fork.fork,
    bench_fork.fork_and_change,
    bench_fork.workspace_set,
    bench_read.read_100,
    bench_read.read_10_000,
    bench_read.read_hot,
    bench_read.read_cold,
    bench_read.walk,
    bench_ring.ring,
    bench_ring.capacity,
    bench_ring.compressing,
    bench_bulk.bulk_keys,
    bench_bulk.bulk_tree,
    bench_cache.cache_reads,
    bench_cache.cache_search,
    bench_drain.drain,
    bench_durable.sustained,
    bench_durable.durable,
    bench_scaling.at_once,
    bench_hot.hot,
    bench_wait.wait,
    bench_evaluator.evaluator,
    bench_search.search_strength,
    bench_search.search_speedup,
    bench_search.search_store,
    bench_search.search_taxi,
    bench_search.search_handover,
    bench_search.search_clones,
    bench_memory.memory,
    bench_open.opening,
    bench_open.open_cold,
    bench_diff.diff,
    bench_history.history,
    bench_directories.materialize,
    bench_directories.ingest,
    bench_disk.commit_bytes,
    bench_disk.million_commits,
    bench_disk.real_history,
    bench_git.histories,
    bench_hash.hashing,
)


def processor() -> str:
    """The model of the first core."""
    for row in Path("/proc/cpuinfo").read_text().splitlines():
        if row.startswith("model name"):
            return row.partition(":")[2].strip()
    return platform.machine()


def revision() -> str:
    """The commit that is measured, and whether files differ from it."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True, cwd=Path(__file__).parent)
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "--short=12", "HEAD")
    if not head:
        return "unknown"
    return head + (" with changes" if git("status", "--porcelain") else "")


def machine(setting: Setting) -> dict[str, str]:
    """What a figure means nothing without."""
    return {
        "machine": f"{processor()}, {len(os.sched_getaffinity(0))} cores, Linux {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "commit": revision(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "stores": str(setting.disk),
        "peers without sync": str(setting.memory),
        "kind": "quick: too short for figures to mean much" if setting.quick else "full",
    }


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does everything run?")
    parser.add_argument("--only", metavar="PATTERN", default="*", help="only names like this (* and ?)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where results and plots go (default: build/bench "
                        "for a full run, build/bench/part for any other)")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="print the names and end")
    parser.add_argument("--disk", metavar="DIR", type=Path, default=Path(tempfile.gettempdir()),
                        help="where the stores go: a real file system")  # fmt: skip
    return parser.parse_args(words)


def chosen(pattern: str) -> list[Benchmark]:
    """The benchmark of that name; if there is none, those whose name matches as a whole or in part."""
    exact = [each for each in BENCHMARKS if each.__name__ == pattern]
    return exact or [each for each in BENCHMARKS if fnmatch.fnmatch(each.__name__, f"*{pattern}*")]


def run(benchmarks: list[Benchmark], setting: Setting) -> Report:
    """Runs them one by one and prints each row as it comes."""
    found = Report(machine(setting))
    for name, value in found.about.items():
        print(f"{name}: {value}")
    print(f"\n{line(HEADINGS)}", flush=True)
    for benchmark in benchmarks:
        start = time.monotonic()
        rows: list[Row] = []
        try:
            for row in benchmark(setting):
                rows.append(row)
                print(report(row), flush=True)
        except Exception:
            found.broken.append(benchmark.__name__)
            print(f"    NOT MEASURED: {benchmark.__name__} broke", flush=True)
            traceback.print_exc()
        found.rows += [(benchmark.__name__, row) for row in rows]
        found.seconds[benchmark.__name__] = time.monotonic() - start
        print(f"    [{benchmark.__name__}: {found.seconds[benchmark.__name__]:.1f} s]\n", flush=True)
    return found


def finish(found: Report, directory: Path) -> None:
    """The closing lines, the files, the plots."""
    missed = [row for _, row in found.rows if row.verdict == "missed"]
    print(f"{len(found.rows)} rows, {len(missed)} missed, {len(found.broken)} benchmarks broken")
    total = sum(found.seconds.values())
    late = f": MORE THAN {SECONDS_MAX:.0f} s" if total > SECONDS_MAX else ""
    print(f"{total:.0f} s in all{late}")
    directory.mkdir(parents=True, exist_ok=True)
    written = [*write(found, directory), *draw(found, directory)]
    print(f"written: {', '.join(map(str, written))}")


def main(words: list[str] | None = None) -> int:
    options = arguments(words)
    benchmarks = chosen(options.only)
    if options.list:
        print("\n".join(each.__name__ for each in benchmarks))
        return 0
    if not benchmarks:
        print(f"no benchmark is named like {options.only!r}; --list prints the names", file=sys.stderr)
        return 2
    # Asked to end, it still removes its stores: SIGTERM becomes an exception, as Ctrl-C is one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    setting = Setting(options.quick, options.disk, Path("/dev/shm"))
    found = run(benchmarks, setting)
    partial = options.quick or len(benchmarks) < len(BENCHMARKS)
    finish(found, options.out or (BUILD / "part" if partial else BUILD))
    return 1 if found.broken else 0


if __name__ == "__main__":
    sys.exit(main())
