"""`python -m bench [--quick] [--only PATTERN] [--json FILE]`: prints each figure beside its baseline.

A report, not a test: a missed target is said loudly and changes nothing; the exit code is 1 only if a
benchmark could not be run.
"""

import argparse
import dataclasses
import datetime
import fnmatch
import json
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
    bench_commit,
    bench_drain,
    bench_durable,
    bench_fork,
    bench_hash,
    bench_memory,
    bench_open,
    bench_read,
    bench_ring,
    bench_scaling,
    bench_wait,
)
from .harness import HEADINGS, Row, Setting, line, report

Benchmark: TypeAlias = Callable[[Setting], Iterator[Row]]

BENCHMARKS: tuple[Benchmark, ...] = (
    bench_commit.commit_1_kib,
    bench_commit.commit_48_bytes,
    bench_commit.million_1_kib,
    bench_commit.million_48_bytes,
    bench_fork.fork,
    bench_fork.workspace_set,
    bench_read.read_100,
    bench_read.read_10_000,
    bench_ring.ring,
    bench_drain.drain,
    bench_durable.sustained,
    bench_durable.durable,
    bench_scaling.two_branches,
    bench_wait.wait,
    bench_memory.memory,
    bench_open.opening,
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
        "baselines": str(setting.memory),
        "kind": "quick: too short for figures to mean much" if setting.quick else "full",
    }


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does everything run?")
    parser.add_argument("--only", metavar="PATTERN", default="*", help="only names like this (* and ?)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the rows there too")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    parser.add_argument("--disk", metavar="DIR", type=Path, default=Path(tempfile.gettempdir()),
                        help="where the stores go: a real file system")  # fmt: skip
    return parser.parse_args(words)


def chosen(pattern: str) -> list[Benchmark]:
    """The benchmarks whose name matches, as a whole or in part."""
    return [each for each in BENCHMARKS if fnmatch.fnmatch(each.__name__, f"*{pattern}*")]


def run(benchmarks: list[Benchmark], setting: Setting) -> tuple[list[Row], list[str]]:
    """Runs and prints them one by one; returns all rows, and the names of those that broke."""
    rows: list[Row] = []
    broken: list[str] = []
    for benchmark in benchmarks:
        start = time.monotonic()
        try:
            for row in benchmark(setting):
                rows.append(row)
                print(report(row), flush=True)
        except Exception:
            broken.append(benchmark.__name__)
            print(f"    NOT MEASURED: {benchmark.__name__} broke", flush=True)
            traceback.print_exc()
        print(f"[{benchmark.__name__}: {time.monotonic() - start:.1f} s]", file=sys.stderr, flush=True)
    return rows, broken


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
    about = machine(setting)
    for name, value in about.items():
        print(f"{name}: {value}")
    print(f"\n{line(HEADINGS)}", flush=True)
    rows, broken = run(benchmarks, setting)
    missed = [row for row in rows if row.verdict == "missed"]
    print(f"\n{len(rows)} lines, {len(missed)} missed, {len(broken)} benchmarks broken")
    if options.json:
        records = [dataclasses.asdict(row) | {"verdict": row.verdict} for row in rows]
        options.json.write_text(json.dumps({"about": about, "rows": records, "broken": broken}, indent=1))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
