"""init, status, check, gc, doctor, destroy: the store as a whole."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from .. import BusyError, Engine, NotFoundError
from .. import open as open_store
from ..doctor import Finding, examine, processes_of
from ..lifecycle import destroy_store
from ..store import StorePaths, info_read
from . import exits
from .options import Command, branch_option, json_option, pass_place
from .output import (
    columns,
    commit_fields,
    commit_line,
    count,
    line,
    paint,
    remark,
    report,
    size,
    visible,
)
from .progress import progress
from .store import Place

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@click.command(cls=Command)
@click.argument("path", required=False, type=click.Path(file_okay=False))
@json_option
@pass_place
def init(place: Place, path: str | None, as_json: bool) -> None:
    """Make a store.

    At PATH, else where --store or $HELIOS_STORE says, else at .helios here. One that is there stays as it is.
    """
    where = Path(path).absolute() if path is not None else place.new_path()
    made = not _is_store(where)
    with open_store(where) as engine:
        if as_json:
            report({"path": engine.path, "created": made})
        else:
            line(f"{'made a store at' if made else 'there is a store at'} {engine.path}")


def _is_store(path: Path) -> bool:
    try:
        info_read(StorePaths.of(path))
    except NotFoundError:
        return False
    return True


@click.command(cls=Command)
@branch_option
@json_option
@pass_place
def status(place: Place, branch: str, as_json: bool) -> None:
    """Show where the store is, what it holds, who uses it."""
    with place.read() as engine:
        facts = _status(engine, branch)
        if as_json:
            report(facts)
            return
        rows = [[f"{name.replace('_', ' ')}:", text] for name, text in _status_lines(engine, branch, facts)]
        columns([[paint(name, "heading"), text] for name, text in rows])


def _status(engine: Engine, branch: str) -> dict[str, Any]:
    stats = engine.stats()
    info = info_read(StorePaths.of(engine.path))
    moving = engine.branch(branch)
    found = branch in engine.branches(branch)
    return {
        "path": engine.path,
        "uuid": info.uuid.hex(),
        "created": info.created,
        "branches": len(engine.branches()),
        "branch": branch,
        "head": commit_fields(moving.last_commit) if found else None,
        "keys": len(moving.head),
        "bytes": moving.head.nbytes,
        "disk_bytes": disk_bytes(engine.path),
        "shared_memory_bytes": stats.l1_bytes,
        # Without this command's own.
        "participants": max(stats.participants - 1, 0),
        "coordinator_pid": stats.coordinator_pid,
        "unpersisted_bytes": stats.unpersisted_bytes,
    }


def _status_lines(engine: Engine, branch: str, facts: dict[str, Any]) -> list[tuple[str, str]]:
    head = commit_line(engine.branch(branch).last_commit) if facts["head"] else "no commit yet"
    others = count(facts["participants"], "other process", "other processes")
    return [
        ("store", visible(str(facts["path"]))),
        ("created", facts["created"]),
        ("branches", str(facts["branches"])),
        ("head", head),
        ("state", f"{count(facts['keys'], 'key')}, {size(facts['bytes'])}"),
        ("on_disk", size(facts["disk_bytes"])),
        ("shared_memory", f"{size(facts['shared_memory_bytes'])}, used by {others}"),
    ]


def disk_bytes(root: Path) -> int:
    """What a store's directory takes on disk."""
    total = 0
    for directory, _, names in os.walk(root):
        for name in names:
            try:
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


@click.command(cls=Command)
@click.option("--repair", is_flag=True, help="Mend what can be mended without losing anything.")
@json_option
@click.pass_context
def check(ctx: click.Context, repair: bool, as_json: bool) -> None:
    """Look at all that the store holds against its hashes.

    Names everything that is damaged, and exits with 1 if anything is. Others may go on committing meanwhile.
    """
    place = ctx.ensure_object(Place)
    with place.write() if repair else place.read() as engine:
        with progress("checking"):
            found = engine.check(repair=repair)
        if as_json:
            report({"ok": found.ok, "damage": list(found.damage)})
        else:
            for sentence in found.damage:
                line(visible(sentence))
            line(paint("all is whole", "good") if found.ok else paint("the store is damaged", "error"))
    if not found.ok:
        ctx.exit(exits.DIFFERENT)


@click.command(cls=Command)
@click.option("--fix", is_flag=True, help="Mend what can be mended without any risk for what is stored.")
@json_option
@click.pass_context
def doctor(ctx: click.Context, fix: bool, as_json: bool) -> None:
    """Say what is wrong around the store, and what to do.

    Looks at the machine, at what stores that are gone have left in shared memory, and, where there is a store, at its
    files, its segment, who takes part, its coordinator. Exits with 1 if something is to be done. Whether the contents
    are whole is what check says.
    """
    place = ctx.ensure_object(Place)
    path = place.path() if place.is_named() else None
    with progress("looking"):
        findings = examine(path, fix=fix)
    undone = [finding for finding in findings if finding.severity != "note" and not finding.mended]
    if as_json:
        report({"ok": not undone, "findings": [dataclasses.asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            _say_finding(finding)
        where = visible(str(path)) if path is not None else "no store here; this machine"
        line(
            paint(f"{where}: nothing to do", "good")
            if not undone
            else f"{where}: {count(len(undone), 'thing')} to do"
        )
    if undone:
        ctx.exit(exits.DIFFERENT)


def _say_finding(finding: Finding) -> None:
    grade = paint("mended", "good") if finding.mended else paint(finding.severity, finding.severity)
    line(f"{grade}: {finding.subject}: {visible(finding.message)}")
    if not finding.mended:
        line(f"  {visible(finding.advice)}")


@click.command(cls=Command)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option(
    "--force", is_flag=True, help="Even while other processes use it: their commits fail from then on."
)
@json_option
@click.pass_context
def destroy(ctx: click.Context, yes: bool, force: bool, as_json: bool) -> None:
    """Remove the store.

    Its directory with all history, and its shared memory. Asks before; refuses while other processes use it.
    """
    paths = StorePaths.of(ctx.ensure_object(Place).path())
    info_read(paths)
    if not yes and not click.confirm(f"Remove the store at {visible(str(paths.root))}, all of it?", err=True):
        remark("nothing was removed")
        ctx.exit(exits.INTERRUPTED)
    try:
        with progress("removing"):
            destroy_store(paths, force=force)
    except BusyError as error:
        pids = ", ".join(map(str, processes_of(paths.root)))
        raise BusyError(f"{error}: {pids}" if pids else str(error)) from None
    report({"destroyed": paths.root}) if as_json else line(f"removed {paths.root}")


@click.command(cls=Command)
@click.option(
    "--history", "rules", multiple=True, metavar="[PATTERN=]KEEP",
    help="What of their history branches keep: so many of the newest commits (100), or those of so long (30d); all, "
    "without it. PATTERN (tmp/*) says of which branches; may be given several times, the first that matches decides.",
)  # fmt: skip
@click.option(
    "--grace", default="1h", show_default=True, metavar="TIME",
    help="What was committed in this time stays, whoever knows of it: 90s, 15m, 1h, 7d.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Change nothing; say what would go.")
@json_option
@pass_place
def gc(place: Place, rules: Sequence[str], grace: str, dry_run: bool, as_json: bool) -> None:
    """Delete what nobody can name any more.

    Stays: what branches and tags name, the history of branches (or what --history says), and what living processes
    hold. Others may go on committing meanwhile.
    """
    history = _history(rules)
    with place.write() as engine, progress("collecting"):
        found = engine.gc(history=history, grace=_time(grace), dry_run=dry_run)
    if as_json:
        report(dataclasses.asdict(found))
        return
    line(f"{'would free' if dry_run else 'freed'} {size(found.freed_bytes)}, kept {size(found.kept_bytes)}")
    gone = [
        count(found.commits_dropped, "commit"), count(found.nodes_deleted, "node"),
        count(found.values_deleted, "value"), count(found.large_values_deleted, "large value"),
    ]  # fmt: skip
    line(f"{'would delete' if dry_run else 'deleted'} {', '.join(gone)}")


def _history(rules: Sequence[str]) -> int | timedelta | dict[str, int | timedelta] | None:
    """``100``, ``30d``, ``tmp/*=1`` as ``Engine.gc`` takes them; a rule without a pattern is for all other branches."""
    patterns: dict[str, int | timedelta] = {}
    others: int | timedelta | None = None
    for rule in rules:
        pattern, _, keep = rule.rpartition("=")
        kept = int(keep) if keep.isascii() and keep.isdecimal() else _time(keep)
        if pattern:
            patterns[pattern] = kept
        else:
            others = kept
    if not patterns:
        return others
    return patterns if others is None else {**patterns, "*": others}


def _time(text: str) -> timedelta:
    """A time with its unit: 90s, 15m, 1h, 7d, 2w."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if found is None:
        raise click.UsageError(f"{text!r} is no time; say 90s, 15m, 1h, 7d or 2w")
    return timedelta(**{_UNITS[found[2]]: float(found[1])})
