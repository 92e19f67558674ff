"""The command line for tests: single calls inside the test's process, and transcripts.

A transcript is a text of a session, as a user would see it, in tests/golden/cli:

    $ helios-shm put a --text hello          a command; ``$ printf 'text' | helios-shm ...`` gives it an input
    main@1  9a0364b9e99b  put a              what it wrote to standard output
    ! helios-shm: error: ...                 what it wrote to standard error
    [exit 3]                                 its exit status, unless 0

Other commands are the shell's.

Ids of snapshots are theirs, since they follow from the content; times and what follows from them, sizes on disk,
process ids and paths of this machine are replaced by words. HELIOS_REWRITE_GOLDEN=1 writes the transcripts anew.
"""

import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from helios_shm.cli.app import commands

GOLDEN = Path(__file__).parent / "golden" / "cli"
REWRITE_VARIABLE = "HELIOS_REWRITE_GOLDEN"
_REPLACED = [
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?: ?[+-]\d\d:?\d\d)?", "TIME"),
    (r'("latency_ns": )\d+', r"\1N"),
    (r'("(?:disk_bytes|coordinator_pid|unpersisted_bytes|shared_memory_bytes)": )(?:\d+|null)', r"\1N"),
    (r'("uuid": )"[0-9a-f]{32}"', r'\1"UUID"'),
    (r"((?:on disk|shared memory): +)[\d.]+ [KMG]?i?B", r"\1SIZE"),
    (r"\b(pid|process) \d+", r"\1 PID"),
    (r"(refs/heads/\w+ is )[0-9a-f]{12}", r"\1ID"),
    (r'("git": )"[0-9a-f]{40}"', r'\1"ID"'),
    (r'("after": )"[0-9a-f]{64}"', r'\1"KEY"'),
    (r"(freed?|kept) [\d.]+ [KMG]?i?B", r"\1 SIZE"),
    (r"(delete[d]? \d+ commits?), .*", r"\1, ..."),
    (r'("(?:freed_bytes|kept_bytes|packs_\w+|nodes_deleted|safepoints|pause_ns|duration_ns)": )\d+', r"\1N"),
    (r"(values?, )[\d.]+ [KMG]?i?B", r"\1SIZE"),
    (r'("bytes": )\d+(?=\}$)', r"\1N"),
    (r"[^ ]*/helios-run-\w+", "SCRATCH"),
]


@dataclass(frozen=True)
class Done:
    """What a call of the command line wrote, and its exit status."""

    out: str
    err: str
    status: int
    raw: bytes

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def call(*arguments: object, given: bytes | str | None = None, store: Path | None = None) -> Done:
    """Run the command line in this process."""
    where = [] if store is None else ["--store", str(store)]
    result = CliRunner().invoke(commands, [*where, *map(str, arguments)], input=given, env={"COLUMNS": "100"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.stdout, result.stderr, result.exit_code, result.stdout_bytes)


def good(*arguments: object, given: bytes | str | None = None, store: Path | None = None) -> Done:
    """The same, of a call that succeeds."""
    done = call(*arguments, given=given, store=store)
    assert done.status == 0, (arguments, done)
    return done


def replay(transcript: Path, directory: Path) -> str:
    """The transcript's commands, run again in a directory, as a transcript of what they do now."""
    lines = [line for line in transcript.read_text().splitlines() if line.startswith(("$ ", "# "))]
    return "".join(_played(line, directory) for line in lines)


def _played(line: str, directory: Path) -> str:
    if line.startswith("# "):
        return f"{line}\n"
    if "helios-shm" not in line:
        done = subprocess.run(
            ["sh", "-c", line.removeprefix("$ ")], capture_output=True, text=True, check=True
        )
        return normal(f"{line}\n{done.stdout}", directory)
    text, _, command = line.removeprefix("$ ").rpartition(" | ")
    words = shlex.split(command)
    assert words[0] == "helios-shm", line
    given = shlex.split(text)[1].encode().decode("unicode_escape") if text else None
    told = call(*words[1:], given=given)
    parts = [line, *told.lines, *(f"! {each}" for each in told.err.splitlines())]
    if told.status:
        parts.append(f"[exit {told.status}]")
    return normal("\n".join(part.rstrip() for part in parts) + "\n", directory)


def normal(text: str, directory: Path) -> str:
    """Output without what differs from run to run."""
    text = text.replace(os.path.realpath(directory), "HERE").replace(str(directory), "HERE")
    for pattern, replacement in _REPLACED:
        text = re.sub(pattern, replacement, text)
    return text
