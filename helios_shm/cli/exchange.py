"""git import, git export; bundle create, verify, import: history from elsewhere, and to elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import parseaddr
from typing import Literal, cast

import click

from .. import CorruptError, FormatError, bundle, git
from . import exits
from .options import REFERENCE, Section, branch_option, json_option, pass_place
from .output import ID_DIGITS, columns, commit_fields, commit_line, count, line, paint, report, size, visible
from .progress import progress
from .store import Place


@click.group(name="git", cls=Section)
def git_commands() -> None:
    """Bring history from git, and to git.

    Needs pygit2: pip install "helios-shm[git]". Both ways are incremental: what was brought is not brought again.
    """


@git_commands.command("import")
@click.argument("repository", type=click.Path())
@click.option(
    "--ref", default="HEAD", show_default=True, metavar="REF", help="A branch, tag or id of REPOSITORY."
)
@click.option(
    "--submodules", type=click.Choice(("refuse", "record")), default="refuse", show_default=True,
    help="Refuse them, or keep them in the commits' metadata.",
)  # fmt: skip
@branch_option
@json_option
@pass_place
def git_import(place: Place, repository: str, ref: str, submodules: str, branch: str, as_json: bool) -> None:
    """Bring a git repository's history to a branch.

    A commit for each of git's, with its message, time, and tree.
    """
    with place.write() as engine:
        with progress("importing") as tell:
            done = git.import_repository(
                engine.branch(branch), repository, ref=ref, progress=tell,
                submodules=cast(Literal["refuse", "record"], submodules),
            )  # fmt: skip
        if as_json:
            head = None if done.head is None else commit_fields(done.head)
            report({"commits": done.commits, "head": head, "git": done.id})
            return
        line(f"{count(done.commits, 'commit')} from git, up to {paint(done.id[:ID_DIGITS], 'id')}")
        if done.head is not None:
            line(commit_line(done.head))


@git_commands.command("export")
@click.argument("repository", type=click.Path())
@click.option("--ref", metavar="REF", help="Where to, in REPOSITORY; else the branch's name.")
@click.option("--create", is_flag=True, help="Make a bare repository if there is nothing.")
@click.option("--force", is_flag=True, help="Move REF even if that leaves commits behind.")
@click.option("--identity", metavar="NAME <EMAIL>", help="Who made the commits that say nobody.")
@branch_option
@json_option
@pass_place
def git_export(
    place: Place, repository: str, ref: str | None, create: bool, force: bool, identity: str | None, branch: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Write a branch's history to a git repository.

    Commits that came from git get their ids again.
    """
    who = git.IDENTITY if identity is None else parseaddr(identity)
    with place.read() as engine, progress("exporting") as tell:
        done = git.export_branch(
            engine.branch(branch, create=False), repository, ref=ref or branch, identity=who, create=create,
            force=force, progress=tell,
        )  # fmt: skip
    if as_json:
        report({"commits": done.commits, "changed_ids": done.changed_ids, "ref": done.ref, "git": done.id})
        return
    line(f"{count(done.commits, 'commit')} to git: {visible(done.ref)} is {paint(done.id[:ID_DIGITS], 'id')}")
    if done.changed_ids:
        line(f"{count(done.changed_ids, 'commit')} of git's could not keep the id")


# --- bundles ---


@click.group(name="bundle", cls=Section)
def bundle_commands() -> None:
    """Carry states and their history in a file.

    One verified file: for another machine, or for a backup.
    """


@bundle_commands.command("create")
@click.argument("file", type=click.Path(dir_okay=False))
@click.argument("references", nargs=-1, type=REFERENCE, metavar="[REFERENCE]...")
@click.option(
    "--have", multiple=True, metavar="REFERENCE",
    help="What the other side has, which is then left out; may be given several times.",
)  # fmt: skip
@click.option("--no-history", is_flag=True, help="The newest commit of each branch alone.")
@json_option
@pass_place
def bundle_create(
    place: Place, file: str, references: Sequence[str], have: Sequence[str], no_history: bool, as_json: bool
) -> None:
    """Write branches, tags and states to a file.

    Without a REFERENCE, all branches and tags.
    """
    with place.read() as engine, progress("writing"):
        info = bundle.create_bundle(engine, file, references or None, have=have, history=not no_history)
    _say_info(info, as_json)


@bundle_commands.command("verify")
@click.argument("file", type=click.Path(dir_okay=False))
@json_option
@click.pass_context
def bundle_verify(ctx: click.Context, file: str, as_json: bool) -> None:
    """Look at a bundle as a whole, without a store.

    Its hash, its form, each value against its id. Exits with 1 if it is damaged, or no bundle.
    """
    try:
        with progress("verifying"):
            info = bundle.verify_bundle(file)
    except (CorruptError, FormatError) as error:
        report({"ok": False, "error": str(error)}) if as_json else line(visible(str(error)))
        ctx.exit(exits.DIFFERENT)
    _say_info(info, as_json)


@bundle_commands.command("import")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--prefix", default="", metavar="TEXT", help="Put before the names of all branches and tags.")
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="THERE=HERE",
    help="Another name for one; may be given several times.",
)
@json_option
@pass_place
def bundle_import(place: Place, file: str, prefix: str, names: Sequence[str], as_json: bool) -> None:
    """Take in a bundle.

    Branches that are here grow by what the bundle has more; where that is not possible, nothing is changed.
    """
    renamed = [each.partition("=") for each in names]
    if not all(equals for _, equals, _ in renamed):
        raise click.UsageError("--name is THERE=HERE")
    with place.write() as engine:
        with progress("importing"):
            done = bundle.import_bundle(
                engine, file, prefix=prefix, names={there: here for there, _, here in renamed}
            )
        if as_json:
            report(
                {
                    "commits": done.commits,
                    "branches": {name: commit_fields(commit) for name, commit in done.branches.items()},
                    "tags": {name: state.id for name, state in done.tags.items()},
                    "snapshots": [state.id for state in done.snapshots],
                }
            )
            return
        line(count(done.commits, "commit"))
        for commit in done.branches.values():
            line(commit_line(commit))
        for name, state in done.tags.items():
            line(f"{paint(visible(name), 'name')}  {paint(state.id[:ID_DIGITS], 'id')}  a tag")


def _say_info(info: bundle.BundleInfo, as_json: bool) -> None:
    if as_json:
        refs = [
            {"kind": ref.kind, "name": ref.name, "id": ref.id, "commits": ref.commits, "after": ref.after}
            for ref in info.refs
        ]
        figures = {
            "states": info.states,
            "commits": info.commits,
            "values": info.values,
            "bytes": info.nbytes,
        }
        report({"ok": True, "refs": refs, "needs": list(info.needs), **figures})
        return
    columns(
        [
            [
                ref.kind, paint(visible(ref.name), "name"), paint(ref.id[:ID_DIGITS], "id"),
                count(ref.commits, "commit") if ref.kind == "branch" else "",
            ]
            for ref in info.refs
        ]
    )  # fmt: skip
    for id in info.needs:
        line(f"needs {paint(id[:ID_DIGITS], 'id')}")
    line(f"{count(info.states, 'state')}, {count(info.values, 'value')}, {size(info.nbytes)}")


ALL = (git_commands, bundle_commands)
