"""branch, tag, merge: names that move and names that stay, and bringing two states together."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import click

from .. import Branch, Commit, ConflictError, Engine, NotFoundError, Snapshot
from .options import (
    BRANCH_NAME,
    REFERENCE,
    Command,
    branch_option,
    json_lines_option,
    json_option,
    message_option,
    pass_place,
    resolve_option,
    rules,
)
from .output import ID_DIGITS, columns, commit_fields, line, local_time, paint, report, say_commit, visible
from .references import snapshot_of
from .store import Place


@click.command(cls=Command)
@click.argument("name", required=False, type=BRANCH_NAME)
@click.option(
    "--at", type=REFERENCE, metavar="REFERENCE", help="Where it begins; else at the head of --branch."
)
@click.option("--delete", "-d", is_flag=True, help="Remove the branch; its states stay until a gc.")
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


@click.command(cls=Command)
@click.argument("name", required=False)
@click.argument("reference", required=False, type=REFERENCE)
@click.option("--delete", "-d", is_flag=True, help="Remove the tag.")
@click.option("--prefix", default="", metavar="TEXT", help="List only names that begin so.")
@branch_option
@json_lines_option
@pass_place
def tag(
    place: Place,
    name: str | None,
    reference: str | None,
    delete: bool,
    prefix: str,
    branch: str,
    as_json: bool,
) -> None:
    """List, make or delete tags.

    A tag is a name that stays: collection keeps what it names. Without a REFERENCE it names the branch's head.
    """
    if name is None:
        if delete:
            raise click.UsageError("say which tag: NAME")
        with place.read() as engine:
            _say_tags(engine.tags(prefix), as_json)
        return
    with place.write() as engine:
        if delete:
            engine.delete_tag(name)
            report({"deleted": name}) if as_json else line(f"deleted tag {visible(name)}")
            return
        state = snapshot_of(engine, reference, branch)
        engine.tag(name, state)
        _say_tags({name: state}, as_json)


def _say_tags(tags: dict[str, Snapshot], as_json: bool) -> None:
    if as_json:
        for name, state in tags.items():
            report({"name": name, "id": state.id})
    else:
        columns(
            [[paint(visible(name), "name"), paint(each.id[:ID_DIGITS], "id")] for name, each in tags.items()]
        )


@click.command(cls=Command)
@click.argument("other", type=REFERENCE)
@click.option(
    "--base", type=REFERENCE, metavar="REFERENCE", help="What both come from; else it is looked for."
)
@resolve_option
@message_option
@branch_option
@json_option
@click.pass_context
def merge(
    ctx: click.Context, other: str, base: str | None, resolvers: Sequence[str], message: str, branch: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Bring what another state changed onto the branch.

    OTHER is a branch or any other REFERENCE. Where both sides changed a path to something else and no --resolve
    decides, nothing is changed: the paths are listed, and the exit status is 4.
    """
    with ctx.ensure_object(Place).write() as engine:
        into = engine.branch(branch)
        before = into.last_commit.sequence if branch in engine.branches(branch) else 0
        try:
            commit = into.merge(
                _other(engine, other, branch),
                base=None if base is None else snapshot_of(engine, base, branch),
                resolve=rules(resolvers),
                message=message or f"merge {other}",
            )
        except ConflictError as error:
            if as_json:
                report({"conflicts": list(error.keys)})
            raise
        _say_merged(commit, before, as_json)


def _say_merged(commit: Commit, before: int | None, as_json: bool) -> None:
    if commit.sequence == before and not as_json:
        line("nothing to merge")
    else:
        say_commit(commit, as_json)


def _other(engine: Engine, other: str, branch: str) -> Branch | Snapshot:
    """A branch, whose history says what both come from; else a state."""
    if other in engine.branches(other):
        return engine.branch(other)
    return snapshot_of(engine, other, branch)


ALL = (branch, tag, merge)
