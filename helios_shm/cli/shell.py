"""completion and bench: what stands beside the store."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class

from .. import NotFoundError
from .. import open as open_store
from .options import Command, json_option
from .output import columns, line, paint, remark, report, seconds

_COMMITS = 2000
_KEYS = 1000
_TREE = Path(__file__).resolve().parents[2]


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes a shell complete commands.

    Options, branches and paths as well. In ~/.bashrc: eval "$(helios-shm completion bash)"; in ~/.zshrc the same with
    zsh; for fish: helios-shm completion fish > ~/.config/fish/completions/helios-shm.fish
    """
    from .app import COMPLETE_VARIABLE, NAME

    kind = get_completion_class(shell)
    assert kind is not None
    line(kind(ctx.find_root().command, {}, NAME, COMPLETE_VARIABLE).source())


@click.command(cls=Command, context_settings={"allow_interspersed_args": False})
@click.option("--full", is_flag=True, help="Run the source tree's benchmarks, with ARGUMENTS.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@json_option
@click.pass_context
def bench(ctx: click.Context, full: bool, arguments: tuple[str, ...], as_json: bool) -> None:
    """Measure a few operations on this machine.

    A matter of seconds, in a store that is gone afterwards. The benchmarks that stand beside their peers and floors
    are in the source tree: --full runs them.
    """
    if full:
        ctx.exit(_run_full(arguments))
    if arguments:
        raise click.UsageError("ARGUMENTS go with --full")
    figures = _measure()
    if as_json:
        report(
            {
                name: {"n": len(times), "p50": _share(times, 50), "p99": _share(times, 99)}
                for name, times in figures
            }
        )
        return
    rows = [
        (name, str(len(times)), seconds(_share(times, 50)), seconds(_share(times, 99)))
        for name, times in figures
    ]
    columns([[paint(text, "heading") for text in ("operation", "n", "p50", "p99")], *rows], right=(1, 2, 3))
    if (_TREE / "bench" / "__main__.py").exists():
        remark(f"The benchmarks beside their peers: helios-shm bench --full, or make bench in {_TREE}")


def _run_full(arguments: tuple[str, ...]) -> int:
    if not (_TREE / "bench" / "__main__.py").exists():
        raise NotFoundError(
            "the benchmarks are in the source tree of helios_shm, and this is an installed copy"
        )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(_TREE), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=_TREE, env=environment, check=False
    )
    return done.returncode


def _share(times: list[float], percent: int) -> float:
    return statistics.quantiles(times, n=100, method="inclusive")[percent - 1]


def _measure() -> list[tuple[str, list[float]]]:
    """Seconds that each of many calls took, by operation."""
    with open_store(None) as engine:
        branch = engine.branch("bench")
        with branch.transaction() as ws:
            ws.update({f"key/{number:06}": b"value %d" % number for number in range(_KEYS)})

        def commit(number: int) -> None:
            ws = branch.fork()
            ws[f"key/{number % _KEYS:06}"] = b"changed %d" % number
            ws.commit()

        head = branch.head
        paths = list(head)
        early = branch.at(1).snapshot
        operations: list[tuple[str, Callable[[int], Any]]] = [
            ("fork", lambda number: branch.fork()),
            ("read one of 1000 keys", lambda number: head[paths[number % _KEYS]]),
            ("fork, set one key, commit", commit),
            ("diff against the first state", lambda number: early.diff(branch.head)),
        ]
        return [(name, _timed(operation)) for name, operation in operations]


def _timed(operation: Callable[[int], Any]) -> list[float]:
    times = []
    for number in range(_COMMITS):
        begin = time.perf_counter()
        operation(number)
        times.append(time.perf_counter() - begin)
    return times


ALL = (completion, bench)
