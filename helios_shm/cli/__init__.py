"""The command line: ``helios-shm``, a client of the public API.

    __init__     main, which also runs where click and rich are missing, to say so
    app          the program: its commands, git's words, errors and exit codes
    store        which store a command means
    output       lines, colours, JSON, sizes and times; progress: bars for what takes longer
    references   what ``main@17`` and its like name
    values history branches directories exchange care watching measuring   the commands
    reference    docs/CLI.md out of the commands' own help

Invariants. Standard output has results alone: bytes as they are, lines, or JSON; all else goes to standard error.
Colours and bars only on terminals. A command that changes the store makes one commit, which is durable when the command
ends. Nothing above ``main`` is imported before it is known that click and rich are there.
"""

from __future__ import annotations

import sys

MISSING = 'helios-shm needs click and rich, which are not installed: pip install "helios-shm[cli]"'


def main() -> int:
    """The entry point of ``helios-shm`` and of ``python -m helios_shm``. Returns the exit status."""
    try:
        import click as click
        import rich as rich
    except ImportError:
        print(MISSING, file=sys.stderr)
        return 2
    from .app import program

    return program(sys.argv[1:])
