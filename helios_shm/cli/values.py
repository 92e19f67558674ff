"""put, rm, cat, ls: single values of a state."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import click

from .. import Kind, NotFoundError, Snapshot, Workspace
from .options import (
    STATE_PATH,
    Command,
    at_option,
    branch_option,
    json_lines_option,
    json_option,
    message_option,
    pass_place,
)
from .output import ID_DIGITS, columns, line, paint, report, say_commit, size, visible
from .references import snapshot_of
from .store import Place

KINDS = ("file", "executable", "symlink", "directory")
_WRITE_BYTES = 1 << 20


@click.command(cls=Command)
@click.argument("path", type=STATE_PATH)
@click.argument("source", type=click.Path(exists=True, dir_okay=False, allow_dash=True), required=False)
@click.option("--text", metavar="TEXT", help="The value itself, as UTF-8, instead of SOURCE.")
@click.option(
    "--kind", type=click.Choice(KINDS), default="file", show_default=True, help="What the value is."
)
@click.option("--metadata", metavar="JSON", help="An object that the commit keeps.")
@message_option
@branch_option
@json_option
@pass_place
def put(
    place: Place, path: str, source: str | None, text: str | None, kind: str, metadata: str | None, message: str,
    branch: str, as_json: bool,
) -> None:  # fmt: skip
    """Set a value, by one commit.

    SOURCE is a file, or - for standard input.
    """
    if (source is None) == (text is None):
        raise click.UsageError("say where the value comes from: SOURCE (- for standard input) or --text")
    facts = _metadata(metadata)
    value = text.encode(errors="surrogateescape") if text is not None else _source(str(source))
    with place.write() as engine:
        workspace = engine.branch(branch).fork()
        workspace.put(path, value, kind=cast(Kind, kind))
        commit = workspace.commit(message or f"put {path}", metadata=facts)
        say_commit(commit, as_json)


def _source(source: str) -> bytes:
    return sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()


def _metadata(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"--metadata is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise click.UsageError(f"--metadata is a JSON object, not a {type(found).__name__}")
    return found


@click.command(cls=Command)
@click.argument("paths", nargs=-1, required=True, type=STATE_PATH, metavar="PATH...")
@click.option("--recursive", "-r", is_flag=True, help="Also all that is below each PATH.")
@click.option("--force", "-f", is_flag=True, help="A path that is not there is no error.")
@message_option
@branch_option
@json_option
@pass_place
def rm(
    place: Place, paths: Sequence[str], recursive: bool, force: bool, message: str, branch: str, as_json: bool
) -> None:
    """Remove values, all by one commit."""
    with place.write() as engine:
        workspace = engine.branch(branch, create=False).fork()
        removed = sum(_remove(workspace, path, recursive, force) for path in paths)
        if not removed:
            line("nothing to remove") if not as_json else say_commit(engine.branch(branch).last_commit, True)
            return
        say_commit(workspace.commit(message or f"rm {' '.join(paths)}"[:200]), as_json)


def _remove(workspace: Workspace, path: str, recursive: bool, force: bool) -> int:
    found = [path] if path in workspace else []
    if recursive:
        found += list(workspace.keys(path if path.endswith("/") else f"{path}/"))
    if not found and not force:
        raise NotFoundError(f"there is no {path!r}{_is_above(workspace, path, recursive)}")
    for each in found:
        del workspace[each]
    return len(found)


def _is_above(workspace: Workspace, path: str, recursive: bool) -> str:
    below = path if path.endswith("/") else f"{path}/"
    there = not recursive and any(True for _ in workspace.keys(below))
    return f"; for what is below {below} say --recursive" if there else ""


@click.command(cls=Command)
@click.argument("paths", nargs=-1, required=True, type=STATE_PATH, metavar="PATH...")
@at_option
@branch_option
@pass_place
def cat(place: Place, paths: Sequence[str], at: str | None, branch: str) -> None:
    """Write values to standard output, byte for byte."""
    with place.read() as engine:
        state = snapshot_of(engine, at, branch)
        missing = [path for path in paths if path not in state]
        if missing:
            raise NotFoundError(f"there is no {missing[0]!r} in {at or branch}")
        output = sys.stdout.buffer
        for path in paths:
            value = state.buffer(path)
            for begin in range(0, len(value), _WRITE_BYTES):
                output.write(value[begin : begin + _WRITE_BYTES])
        output.flush()


@click.command(cls=Command)
@click.argument("prefix", required=False, default="", type=STATE_PATH, metavar="[PATH]")
@click.option(
    "--long", "-l", "is_long", is_flag=True, help="Also kind, size and the start of the value's BLAKE3."
)
@click.option("--recursive", "-r", is_flag=True, help="Every path, not the names right below PATH.")
@click.option(
    "--null", "-0", "is_null", is_flag=True, help="End each name by a NUL byte, as it is: for xargs -0."
)
@at_option
@branch_option
@json_lines_option
@pass_place
def ls(
    place: Place, prefix: str, is_long: bool, recursive: bool, is_null: bool, at: str | None, branch: str,
    as_json: bool,
) -> None:  # fmt: skip
    """List the paths of a state.

    The names right below PATH, or at the top without one, in order of their bytes. A name that ends in / stands for all
    that is below it.
    """
    with place.read() as engine:
        state = snapshot_of(engine, at, branch)
        names = _names(state, prefix, recursive)
        first = next(names, None)
        if first is None and prefix:
            raise NotFoundError(f"there is nothing at {prefix!r} in {at or branch}")
        found = _chain(first, names)
        if as_json:
            for path in found:
                report(_entry(state, path))
        elif is_null:
            for path in found:
                sys.stdout.buffer.write(path.encode() + b"\0")
        elif is_long:
            columns([_row(state, path) for path in found], right=(1,))
        else:
            for path in found:
                line(paint(visible(path), "name") if path.endswith("/") else visible(path))


def _chain(first: str | None, rest: Iterator[str]) -> Iterator[str]:
    if first is not None:
        yield first
        yield from rest


def _names(state: Snapshot, prefix: str, recursive: bool) -> Iterator[str]:
    """Whole paths; one that ends in '/' stands for all that is below it."""
    if prefix and not prefix.endswith("/") and prefix in state:
        yield prefix
        return
    below = prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
    yield from state.keys(below) if recursive else (below + name for name in state.listdir(below))


def _entry(state: Snapshot, path: str) -> dict[str, Any]:
    with contextlib.suppress(KeyError):
        stat = state.stat(path)
        return {"path": path, "kind": stat.kind, "size": stat.size, "id": stat.id}
    return {"path": path, "kind": "prefix", "keys": len(state.keys(path))}


def _row(state: Snapshot, path: str) -> list[str]:
    entry = _entry(state, path)
    if entry["kind"] == "prefix":
        return [
            "prefix",
            str(entry["keys"]),
            "keys" if entry["keys"] != 1 else "key",
            paint(visible(path), "name"),
        ]
    return [entry["kind"], size(entry["size"]), paint(entry["id"][:ID_DIGITS], "id"), visible(path)]


ALL = (put, rm, cat, ls)
