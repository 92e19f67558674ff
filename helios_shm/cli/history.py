"""log, show, diff, restore, undo, redo: what a branch was."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import click

from .. import Commit, Diff, Engine, NotFoundError, Snapshot, Workspace
from . import exits
from .options import (
    REFERENCE,
    STATE_PATH,
    Command,
    branch_option,
    json_lines_option,
    json_option,
    message_option,
    pass_place,
)
from .output import (
    commit_fields,
    commit_line,
    commit_name,
    count,
    line,
    local_time,
    paint,
    report,
    say_commit,
    size,
    visible,
)
from .references import commit_of, snapshot_of
from .store import Place

_PATCH_BYTES_MAX = 4 << 20
_SIGNS = (("added", "A"), ("changed", "M"), ("removed", "D"))


@click.command(cls=Command)
@click.option("--limit", "-n", type=click.IntRange(0), metavar="N", help="At most so many.")
@click.option(
    "--path", type=STATE_PATH, help="Only commits that touched it (with / at its end: anything below)."
)
@click.option("--oneline", is_flag=True, help="A line for each commit.")
@branch_option
@json_lines_option
@pass_place
def log(place: Place, limit: int | None, path: str | None, oneline: bool, branch: str, as_json: bool) -> None:
    """Show a branch's commits, newest first."""
    with place.read() as engine:
        for commit in engine.branch(branch, create=False).log(limit, path=path):
            if as_json:
                report(commit_fields(commit))
            elif oneline:
                line(commit_line(commit))
            else:
                _say_whole(commit)
                line()


def _say_whole(commit: Commit) -> None:
    line(f"{paint(visible(commit_name(commit)), 'name')} {paint(commit.snapshot.id, 'id')}")
    line(f"Date:    {local_time(commit.time)}")
    for parent in commit.parents[1:]:
        line(f"Merge:   {parent.id}")
    metrics = commit.metrics
    if metrics.changed_keys:  # a move to a state that was there says nothing of that
        line(f"Changed: {count(metrics.changed_keys, 'key')}, {size(metrics.new_bytes)} new")
    if commit.metadata:
        line(f"Data:    {visible(str(dict(commit.metadata)))}")
    for part in commit.message.splitlines():
        line(f"    {visible(part)}".rstrip())


@click.command(cls=Command)
@click.argument("reference", required=False, type=REFERENCE)
@click.option("--patch", "-p", is_flag=True, help="Also how the values that are text differ.")
@branch_option
@json_option
@pass_place
def show(place: Place, reference: str | None, patch: bool, branch: str, as_json: bool) -> None:
    """Show a commit and what it changed.

    Without a REFERENCE, the branch's newest. A added, M changed, D removed.
    """
    with place.read() as engine:
        commit = commit_of(engine, reference, branch)
        before = commit.parents[0] if commit.parents else engine.empty
        change = before.diff(commit.snapshot)
        if as_json:
            report({**commit_fields(commit), **_paths(change)})
            return
        _say_whole(commit)
        line()
        _say_change(change, patch)


@click.command(cls=Command)
@click.argument("old", type=REFERENCE)
@click.argument("new", required=False, type=REFERENCE)
@click.option("--prefix", default="", type=STATE_PATH, help="Only paths that begin so.")
@click.option("--patch", "-p", is_flag=True, help="Also how the values that are text differ.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 if there is a difference.")
@branch_option
@json_option
@click.pass_context
def diff(
    ctx: click.Context, old: str, new: str | None, prefix: str, patch: bool, exit_code: bool, branch: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Show the paths in which two states differ.

    What NEW has against OLD: A added, M changed, D removed. Without NEW, the branch's head.
    """
    with ctx.ensure_object(Place).read() as engine:
        change = snapshot_of(engine, old, branch).diff(snapshot_of(engine, new, branch), prefix)
        if as_json:
            report({"old": change.old.id, "new": change.new.id, **_paths(change)})
        else:
            _say_change(change, patch)
        differs = bool(change)
    if exit_code and differs:
        ctx.exit(exits.DIFFERENT)


def _paths(change: Diff) -> dict[str, Any]:
    return {name: list(getattr(change, name)) for name, _ in _SIGNS}


def _say_change(change: Diff, patch: bool) -> None:
    listed = [(path, name, sign) for name, sign in _SIGNS for path in getattr(change, name)]
    for path, name, sign in sorted(listed):
        if patch:
            _say_patch(change, path)
        else:
            line(f"{paint(sign, name)} {visible(path)}")


def _say_patch(change: Diff, path: str) -> None:
    old, new = (_text(state, path) for state in (change.old, change.new))
    names = [f"{side}/{visible(path)}" if path in state else "/dev/null"
             for side, state in (("old", change.old), ("new", change.new))]  # fmt: skip
    if old is None or new is None:
        line(paint(f"Binary values {names[0]} and {names[1]} differ", "heading"))
        return
    if old == new:
        kinds = " and ".join(state.stat(path).kind for state in (change.old, change.new))
        line(paint(f"{visible(path)}: same bytes, other kinds: {kinds}", "heading"))
        return
    for text in difflib.unified_diff(old, new, names[0], names[1], lineterm=""):
        line(_painted(text))


def _painted(text: str) -> str:
    style = {"+": "added", "-": "removed", "@": "name"}.get(text[:1])
    if text.startswith(("+++", "---")):
        style = "heading"
    shown = text[:1] + visible(text[1:])
    return paint(shown, style) if style else shown


def _text(state: Snapshot, path: str) -> list[str] | None:
    """A value's lines: none for a path that is not there; None for a value that is no text."""
    if path not in state:
        return []
    if state.stat(path).size > _PATCH_BYTES_MAX:
        return None
    value = state[path]
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else _lines(text)


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    if lines[-1]:
        lines[-1] += " (no newline at its end)"
        return lines
    return lines[:-1]


@click.command(cls=Command)
@click.argument("reference", type=REFERENCE)
@click.argument("paths", nargs=-1, type=STATE_PATH, metavar="[PATH]...")
@message_option
@branch_option
@json_option
@pass_place
def restore(
    place: Place, reference: str, paths: Sequence[str], message: str, branch: str, as_json: bool
) -> None:
    """Bring an earlier state back, by a new commit.

    All of it, or only PATHs (one that ends in / means all that is below it). What was the head stays in the log.
    """
    with place.write() as engine:
        state = snapshot_of(engine, reference, branch)
        message = message or " ".join(("restore", reference, *paths))[:200]
        moving = engine.branch(branch)
        commit = _restored(engine, branch, state, paths, message) if paths else moving.restore(state, message)
        say_commit(commit, as_json)


def _restored(engine: Engine, branch: str, state: Snapshot, paths: Sequence[str], message: str) -> Commit:
    workspace = engine.branch(branch, create=False).fork()
    for path in paths:
        if not _bring(workspace, state, path):
            raise NotFoundError(f"there is no {path!r}, neither in that state nor in branch {branch!r}")
    return workspace.commit(message)


def _bring(workspace: Workspace, state: Snapshot, path: str) -> int:
    """Make a path, or what is below one, as it is in a state. Returns how many paths that are."""
    wanted = list(state.keys(path)) if path.endswith("/") else [path] * (path in state)
    present = list(workspace.keys(path)) if path.endswith("/") else [path] * (path in workspace)
    for each in wanted:
        workspace.put(each, state.buffer(each), kind=state.stat(each).kind)
    gone = set(present) - set(wanted)
    for each in gone:
        del workspace[each]
    return len(wanted) + len(gone)


@click.command(cls=Command)
@click.option("--times", "-n", type=click.IntRange(1), default=1, show_default=True, help="So many commits.")
@branch_option
@json_lines_option
@pass_place
def undo(place: Place, times: int, branch: str, as_json: bool) -> None:
    """Take the newest commit back, by a new one.

    Again, and it takes back the one before. redo takes the undo back.
    """
    with place.write() as engine:
        moving = engine.branch(branch, create=False)
        for _ in range(times):
            say_commit(moving.undo(), as_json)


@click.command(cls=Command)
@click.option("--times", "-n", type=click.IntRange(1), default=1, show_default=True, help="So many undos.")
@branch_option
@json_lines_option
@pass_place
def redo(place: Place, times: int, branch: str, as_json: bool) -> None:
    """Take the newest undo back, by a new commit."""
    with place.write() as engine:
        moving = engine.branch(branch, create=False)
        for _ in range(times):
            say_commit(moving.redo(), as_json)


ALL = (log, show, diff, restore, undo, redo)
