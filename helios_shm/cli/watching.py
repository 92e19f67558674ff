"""watch: commits as they come."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from .. import Commit
from .options import STATE_PATH, Command, branch_option, json_lines_option
from .output import commit_fields, commit_line, line, remark, report, visible
from .store import BRANCH_VARIABLE, STORE_VARIABLE, Place


@click.command(cls=Command, context_settings={"allow_interspersed_args": False})
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@click.option("--prefix", default="", type=STATE_PATH, help="Only commits that changed something below it.")
@click.option(
    "--after", type=click.IntRange(0), metavar="N", help="Begin after this sequence, instead of now."
)
@click.option("--limit", "-n", type=click.IntRange(1), metavar="N", help="Leave after so many.")
@click.option("--stop-on-error", is_flag=True, help="Leave when COMMAND fails, with its exit status.")
@branch_option
@json_lines_option
@click.pass_context
def watch(
    ctx: click.Context, command: Sequence[str], prefix: str, after: int | None, limit: int | None,
    stop_on_error: bool, branch: str, as_json: bool,
) -> None:  # fmt: skip
    """Print a branch's commits as they come, or run a command for each.

    Of commits that come while nobody looks, the newest is given out and never missed. COMMAND has HELIOS_STORE,
    HELIOS_BRANCH, HELIOS_SEQUENCE, HELIOS_SNAPSHOT, HELIOS_TIME and HELIOS_MESSAGE in its environment. Sleeps in
    between; Ctrl-C leaves.
    """
    with (
        ctx.ensure_object(Place).read() as engine,
        engine.branch(branch).watch(prefix, after=after) as commits,
    ):
        for number, commit in enumerate(commits, 1):
            if as_json:
                report(commit_fields(commit))
            elif not command:
                line(commit_line(commit))
            sys.stdout.flush()
            status = _run(command, commit, engine.path) if command else 0
            if status and stop_on_error:
                ctx.exit(status)
            if number == limit:
                return


def _run(command: Sequence[str], commit: Commit, store: Path) -> int:
    facts = {
        STORE_VARIABLE: os.fspath(store),
        BRANCH_VARIABLE: str(commit.branch),
        "HELIOS_SEQUENCE": str(commit.sequence),
        "HELIOS_SNAPSHOT": commit.snapshot.id,
        "HELIOS_TIME": commit.time.isoformat(),
        "HELIOS_MESSAGE": commit.message.replace("\0", "\\0"),
    }
    try:
        done = subprocess.run(command, env={**os.environ, **facts}, check=False)
    except FileNotFoundError:
        raise click.UsageError(f"{visible(command[0])}: no such command") from None
    status = done.returncode if done.returncode >= 0 else 128 - done.returncode
    if status:
        remark(f"the command for {visible(str(commit.branch))}@{commit.sequence} ended with {status}")
    return status


ALL = (watch,)
