"""docs/CLI.md out of the program: its prose, and between two marks what every command says with ``--help``.

python -m helios_shm.cli.reference docs/CLI.md      writes what is between the marks anew
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from . import exits
from .app import NAME, commands
from .options import HELP_WIDTH, Context

BEGIN, END = "<!-- begin: generated -->", "<!-- end: generated -->"


def help_texts() -> Iterator[tuple[str, str]]:
    """(command, what it says with --help) of the program and all its commands, in order."""
    yield from _help_of(commands, Context(commands, info_name=NAME, terminal_width=HELP_WIDTH))


def _help_of(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            named = Context(below, info_name=name, parent=context, terminal_width=HELP_WIDTH)
            yield from _help_of(below, named)


def generated() -> str:
    """The table of exit statuses and all help texts."""
    parts = ["## Exit statuses", "| status | means |\n|---|---|"]
    parts[1] += "".join(f"\n| {status} | {meaning} |" for status, meaning in exits.table())
    for path, text in help_texts():
        name = path if path == NAME else path.removeprefix(f"{NAME} ")
        parts += [f"## {name}", "```\n" + text.rstrip() + "\n```"]
    return "\n\n".join(parts) + "\n"


def renewed(document: str) -> str:
    """A document with what is between the marks as the program says it now."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{generated()}\n{END}{after}"


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m helios_shm.cli.reference docs/CLI.md", file=sys.stderr)
        return exits.USAGE
    path = Path(arguments[0])
    path.write_text(renewed(path.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
