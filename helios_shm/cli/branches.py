"""branch: the names that move."""

from __future__ import annotations

import contextlib

import click

from .. import Branch, NotFoundError
from .options import BRANCH_NAME, REFERENCE, Command, branch_option, json_lines_option, pass_place
from .output import ID_DIGITS, columns, commit_fields, line, local_time, paint, report, say_commit, visible
from .references import snapshot_of
from .store import Place


@click.command(cls=Command)
@click.argument("name", required=False, type=BRANCH_NAME)
@click.option(
    "--at", type=REFERENCE, metavar="REFERENCE", help="Where it begins; else at the head of --branch."
)
@click.option("--delete", "-d", is_flag=True, help="Remove the branch; its commits stay readable by id.")
@click.option("--prefix", default="", metavar="TEXT", help="List only names that begin so.")
@branch_option
@json_lines_option
@pass_place
def branch(
    place: Place, name: str | None, at: str | None, delete: bool, prefix: str, branch: str, as_json: bool
) -> None:
    """List, make or delete branches.

    Without a NAME, list them: name, sequence of the newest commit, its state, time and message.
    """
    if name is None:
        if delete or at is not None:
            raise click.UsageError("say which branch: NAME")
        _list(place, prefix, as_json)
        return
    with place.write() as engine:
        if delete:
            engine.branch(name, create=False).delete()
            report({"deleted": name}) if as_json else line(f"deleted branch {visible(name)}")
            return
        made = engine.branch(name, at=snapshot_of(engine, at, branch))
        say_commit(made.last_commit, as_json)


def _list(place: Place, prefix: str, as_json: bool) -> None:
    with place.read() as engine:
        names = engine.branches(prefix)
        if as_json:
            for name in names:
                with contextlib.suppress(NotFoundError):  # deleted since
                    report(commit_fields(engine.branch(name, create=False).last_commit))
            return
        columns([row for name in names if (row := _row(engine.branch(name)))], right=(1,))


def _row(branch: Branch) -> list[str]:
    with contextlib.suppress(NotFoundError):
        commit = branch.last_commit
        return [
            paint(visible(branch.name), "name"), str(commit.sequence), paint(commit.snapshot.id[:ID_DIGITS], "id"),
            local_time(commit.time), visible(commit.message.partition("\n")[0]),
        ]  # fmt: skip
    return []


ALL = (branch,)
