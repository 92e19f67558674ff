"""The program: its commands in groups, the words that git's users try, and what an error looks like."""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import click

from .. import ConflictError, HeliosError, NotFoundError
from . import branches, care, directories, exchange, exits, history, measuring, shell, values, watching
from .options import Command, Context
from .output import paint, remark, visible, wants_colour
from .store import Place

NAME = "helios-shm"
COMPLETE_VARIABLE = "_HELIOS_SHM_COMPLETE"
TRACEBACK_VARIABLE = "HELIOS_TRACEBACK"
_CONFLICTS_IN_A_MESSAGE, _CONFLICTS_SHOWN = 3, 20

# What git's users try, and what to use here.
GIT_WORDS = {
    "add": "`put PATH FILE` for one value, `ingest DIRECTORY` for a directory; each is a commit",
    "archive": "`materialize DIRECTORY`, or `bundle create` with the history",
    "blame": "`log --path PATH`, the commits that touched a path",
    "checkout": "`materialize DIRECTORY` to have the files, `restore REFERENCE` to go back",
    "cherry-pick": "`merge REFERENCE --base ITS_PARENT`",
    "clean": "`materialize --clean`",
    "clone": "`git import REPOSITORY`, `bundle import FILE`, or `init` for a new store",
    "commit": "`put`, `rm` or `ingest`; each is a commit, with `-m MESSAGE`",
    "config": "the options: there is no configuration",
    "fetch": "`git import` or `bundle import`, incremental both",
    "fsck": "`check`",
    "grep": "`materialize DIRECTORY` and grep there",
    "mv": "`cat` into `put`, then `rm`",
    "prune": "`gc`",
    "pull": "`git import` or `bundle import`, incremental both, then `merge`",
    "push": "`git export` or `bundle create`",
    "rebase": "`merge`: commits of different keys need none",
    "reflog": "`log`, which holds every move of a branch",
    "remote": "`git import|export` and `bundle`, which name the other side each time",
    "reset": "`restore REFERENCE` or `undo`: new commits, nothing is lost",
    "revert": "`undo`, or `restore REFERENCE PATH...` for some paths",
    "rev-parse": "`show REFERENCE`",
    "stash": "`branch NAME` to keep a state under a name",
    "switch": "`--branch NAME`, which every command takes",
    "worktree": "`materialize DIRECTORY`, or `run -- COMMAND` in a scratch directory",
}


class _ReaderGone(Exception):
    """Whoever read the output has gone."""


class _Interrupted(Exception):
    """By Ctrl-C."""


class Program(click.Group):
    """The group of all commands: turns errors into one sentence and an exit status."""

    command_class = Command
    context_class = Context

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        def run() -> Any:
            return super(Program, self).main(
                args, NAME, COMPLETE_VARIABLE, standalone_mode=False, windows_expand_args=False, **extra
            )

        sys.exit(guarded(run))

    def invoke(self, ctx: click.Context) -> Any:
        """As click does it, but for what click would say something of its own about."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _ReaderGone from None
        except KeyboardInterrupt:
            raise _Interrupted from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            raise click.UsageError(self._unknown(ctx, name), ctx)
        return super().resolve_command(ctx, args)

    def _unknown(self, ctx: click.Context, name: str) -> str:
        text = f"there is no {visible(name)} command"
        if name in GIT_WORDS:
            return f"{text}: use {GIT_WORDS[name]}"
        near = difflib.get_close_matches(name, self.list_commands(ctx), 1)
        return f"{text}; did you mean {near[0]}?" if near else f"{text}; see {NAME} --help"

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the documentation."""
        return list(self.commands)


def guarded(run: Callable[[], Any]) -> int:
    """Run a command; its exit status, after one sentence on standard error where it failed."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # not a text file of Python's own
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        status = run()
        if sys.stdout is not None:
            sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.exceptions.Exit as asked:
        return int(asked.exit_code)
    except click.ClickException as error:
        _tell_usage(error)
        return error.exit_code
    except (_Interrupted, KeyboardInterrupt, click.Abort):
        remark(f"{NAME}: interrupted")
        return exits.INTERRUPTED
    except (_ReaderGone, BrokenPipeError):
        _close_output()
        return exits.BROKEN_PIPE
    except Exception as error:
        return _told(error)


def _tell_usage(error: click.ClickException) -> None:
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        remark(error.format_message())  # the help itself
        return
    context = error.ctx if isinstance(error, click.UsageError) else None
    remark(f"{NAME}: {paint('error', 'error')}: {error.format_message()}")
    if context is not None and context.command.get_help_option(context) is not None:
        remark(f"See {context.command_path} --help")


def _told(error: Exception) -> int:
    """Say what went wrong. A traceback is for an error of this program, and for who asks for it."""
    status = exits.status_of(error)
    if status == exits.INTERNAL or os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exception(error)
    remark(f"{NAME}: {paint('error', 'error')}: {_sentence(error)}")
    if isinstance(error, OSError) and not isinstance(error, HeliosError):
        _close_output()  # it may be what cannot be written
    if isinstance(error, ConflictError) and len(error.keys) > _CONFLICTS_IN_A_MESSAGE:
        for key in error.keys[:_CONFLICTS_SHOWN]:
            remark(f"  {visible(key)}")
        if len(error.keys) > _CONFLICTS_SHOWN:
            remark(f"  and {len(error.keys) - _CONFLICTS_SHOWN} more")
    return status


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, HeliosError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    text = str(error) or type(error).__name__
    # KeyError and its kind print their argument as Python would write it.
    if isinstance(error, KeyError) and not isinstance(error, NotFoundError):
        text = str(error.args[0]) if error.args else text
    return visible(text.replace("\n", " "))


def _close_output() -> None:
    """What is still in Python's buffer goes where it can, or nowhere, without a word at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


@click.group(cls=Program, invoke_without_command=True, no_args_is_help=False)
@click.option("--store", metavar="PATH", help="The store's directory; may also follow the command.")
@click.version_option(package_name=NAME, message="%(prog)s %(version)s")
@click.pass_context
def commands(ctx: click.Context, store: str | None) -> None:
    """Versioned states in shared memory: read, change, compare, merge and look after a store.

    The store is --store PATH, else $HELIOS_STORE, else .helios in this directory or in one above. A REFERENCE is a
    branch (main), a commit of one (main@17; @17 on the branch that is meant; main@2026-07-01T12:00), a tag, or the
    first digits of a snapshot's id.
    """
    place = ctx.ensure_object(Place)
    place.given = store if store is not None else place.given
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), color=wants_colour())


for _command in (
    *(care.init, care.status),
    *values.ALL,
    *directories.ALL,
    *history.ALL,
    *branches.ALL,
    *watching.ALL,
    *(care.check, care.gc, care.doctor, care.destroy),
    *measuring.ALL,
    *exchange.ALL,
    *shell.ALL,
):
    commands.add_command(_command)


def program(arguments: list[str]) -> int:
    """Run the command line. Returns the exit status."""
    try:
        commands.main(arguments)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    return 0
