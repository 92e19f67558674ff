"""ingest, materialize, run: states as directories, and back."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import click

from .. import Commit, IngestMetrics, Workspace
from .options import (
    Command,
    at_option,
    branch_option,
    json_option,
    message_option,
    pass_place,
    resolve_option,
    rules,
)
from .output import commit_fields, count, line, remark, report, say_commit, visible
from .progress import progress
from .references import snapshot_of
from .store import BRANCH_VARIABLE, STORE_VARIABLE, Place

F = TypeVar("F", bound=Callable[..., Any])
_SCRATCH_PREFIX = "helios-run-"


def _part_options(function: F) -> F:
    """Which part of a state, and of a directory."""
    for name, what in (("--exclude", "Leave these out"), ("--include", "Only these")):
        function = click.option(
            name, multiple=True, metavar="GLOB", help=f"{what}, as in .gitignore; may be given several times."
        )(function)
    return click.option(
        "--prefix", default="", metavar="PATH", help="What is below this path of the state, instead of all."
    )(function)


def below(prefix: str) -> str:
    """The prefix of all that is below a path."""
    return prefix if not prefix or prefix.endswith("/") else f"{prefix}/"


@click.command(cls=Command)
@click.argument("directory", type=click.Path(exists=True, file_okay=False))
@_part_options
@resolve_option
@message_option
@branch_option
@json_option
@pass_place
def ingest(
    place: Place, directory: str, prefix: str, include: Sequence[str], exclude: Sequence[str],
    resolvers: Sequence[str], message: str, branch: str, as_json: bool,
) -> None:  # fmt: skip
    """Make the state equal to a directory, by one commit.

    Deletions included, executable bits, symbolic links and empty directories as well. Only what has changed is read.
    """
    with place.write() as engine:
        workspace = engine.branch(branch).fork()
        with progress("ingesting") as tell:
            metrics = workspace.ingest(
                directory, prefix=below(prefix), include=include, exclude=exclude, progress=tell
            )
        commit = _committed(workspace, metrics, message or f"ingest {directory}", resolvers)
        _say_ingested(commit, metrics, as_json)


def _committed(
    workspace: Workspace, metrics: IngestMetrics, message: str, resolvers: Sequence[str]
) -> Commit | None:
    """The commit of what was ingested; None: there was nothing new."""
    if not metrics.changed and not metrics.removed:
        return None
    return workspace.commit(message, resolve=rules(resolvers))


def _say_ingested(commit: Commit | None, metrics: IngestMetrics, as_json: bool) -> None:
    if as_json:
        figures = {"read": metrics.read, "changed": metrics.changed, "removed": metrics.removed}
        report({**figures, "commit": None if commit is None else commit_fields(commit)})
        return
    if commit is None:
        line("nothing has changed")
        return
    say_commit(commit, False)
    line(
        f"{count(metrics.changed, 'path')} set, {metrics.removed} removed, {count(metrics.read, 'file')} read"
    )


@click.command(cls=Command)
@click.argument("directory", type=click.Path(file_okay=False))
@_part_options
@click.option("--clean", is_flag=True, help="Also remove what the state does not have.")
@click.option(
    "--links", type=click.Choice(("copy", "hard", "reflink")), default="copy", show_default=True,
    help="How large values get there; hard links must not be written to.",
)  # fmt: skip
@at_option
@branch_option
@json_option
@pass_place
def materialize(
    place: Place, directory: str, prefix: str, include: Sequence[str], exclude: Sequence[str], clean: bool,
    links: str, at: str | None, branch: str, as_json: bool,
) -> None:  # fmt: skip
    """Make a directory hold a state.

    Writes only what differs from what is there, removes only what an earlier materialize wrote (all else by --clean),
    and never writes outside of the directory. Interrupted, it can be run again.
    """
    with place.remember() as engine, progress("materializing") as tell:
        metrics = snapshot_of(engine, at, branch).materialize(
            directory,
            prefix=below(prefix),
            include=include,
            exclude=exclude,
            clean=clean,
            links=cast(Literal["copy", "hard", "reflink"], links),
            progress=tell,
        )
    figures = {"written": metrics.written, "removed": metrics.removed, "skipped": metrics.skipped}
    if as_json:
        report(figures)
    else:
        line(f"{metrics.written} written, {metrics.removed} removed, {metrics.skipped} were there already")


@click.command(cls=Command, context_settings={"allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
@click.option("--keep", is_flag=True, help="Leave the scratch directory, and say where it is.")
@_part_options
@resolve_option
@message_option
@branch_option
@click.pass_context
def run(
    ctx: click.Context, command: Sequence[str], keep: bool, prefix: str, include: Sequence[str],
    exclude: Sequence[str], resolvers: Sequence[str], message: str, branch: str,
) -> None:  # fmt: skip
    """Run a command on the state's files and commit what it did.

    The state is materialized in a scratch directory, where COMMAND runs, with HELIOS_STORE and HELIOS_BRANCH in its
    environment. If it succeeds, the directory is ingested as one commit; else nothing is. The exit status is COMMAND's
    (128 and the signal's number, if one ended it).
    """
    with ctx.ensure_object(Place).write() as engine, _scratch(keep) as directory:
        part = {"prefix": below(prefix), "include": include, "exclude": exclude}
        workspace = engine.branch(branch).fork()
        with progress("materializing") as tell:
            workspace.base.materialize(directory, **part, progress=tell)  # type: ignore[arg-type]
        status = _run(command, directory, engine.path, branch)
        if status == 0:
            with progress("ingesting") as tell:
                metrics = workspace.ingest(directory, **part, progress=tell)  # type: ignore[arg-type]
            commit = _committed(workspace, metrics, message or f"run {' '.join(command)}"[:200], resolvers)
            remark("nothing has changed" if commit is None else _summary(commit, metrics))
        else:
            remark(f"the command ended with {status}: nothing was committed")
    ctx.exit(status)


def _summary(commit: Commit, metrics: IngestMetrics) -> str:
    """For standard error: standard output is the command's."""
    done = f"{count(metrics.changed, 'path')} set, {metrics.removed} removed"
    return f"{visible(str(commit.branch))}@{commit.sequence}: {done}"


@contextlib.contextmanager
def _scratch(keep: bool) -> Iterator[Path]:
    """A directory for one run. It stays where it is asked for, and where what was done there would be lost."""
    directory = Path(tempfile.mkdtemp(prefix=_SCRATCH_PREFIX))
    try:
        yield directory
    except Exception:
        keep = True
        raise
    finally:
        if keep:
            remark(f"kept: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)


def _run(command: Sequence[str], directory: Path, store: Path, branch: str) -> int:
    environment = {**os.environ, STORE_VARIABLE: os.fspath(store), BRANCH_VARIABLE: branch}
    try:
        status = subprocess.run(command, cwd=directory, env=environment, check=False).returncode
    except FileNotFoundError:
        remark(f"{visible(command[0])}: no such command")
        return 127
    return status if status >= 0 else 128 - status


ALL = (ingest, materialize, run)
