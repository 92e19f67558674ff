"""Every command's output, as transcripts in tests/golden/cli; and the documentation, which has every help text."""

import os
from pathlib import Path

import pytest

import helios_shm
from helios_shm.cli.app import commands
from helios_shm.cli.reference import help_texts, renewed
from tests.command_line import GOLDEN, REWRITE_VARIABLE, replay

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "CLI.md"
TRANSCRIPTS = sorted(GOLDEN.glob("*.txt"))


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda path: path.stem)
def test_output_is_that_of_the_transcript(
    transcript: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HELIOS_STORE", raising=False)
    monkeypatch.setenv("TZ", "UTC")
    found = replay(transcript, tmp_path)
    if os.environ.get(REWRITE_VARIABLE):
        transcript.write_text(found)
    assert found == transcript.read_text()


def test_every_command_is_in_a_transcript() -> None:
    played = "\n".join(path.read_text() for path in TRANSCRIPTS)
    # Their output is another at each run; test_cli.py and tests/processes/test_command_line.py run them.
    elsewhere = {"stats", "top", "bench", "completion", "doctor"}
    missing = [
        name for name in commands.commands if name not in elsewhere and f"helios-shm {name}" not in played
    ]
    assert missing == []


def test_documentation_has_every_help_text_as_the_program_says_it() -> None:
    document = DOCUMENT.read_text()
    assert document == renewed(document), "run: python -m helios_shm.cli.reference docs/CLI.md"
    assert len(list(help_texts())) > len(commands.commands)


def test_documentation_names_no_command_that_is_not_there() -> None:
    headings = [line[3:] for line in DOCUMENT.read_text().splitlines() if line.startswith("## ")]
    known = {path.removeprefix("helios-shm ") for path, _ in help_texts()}
    assert set(headings) == known | {"Exit statuses"}


def test_every_error_class_has_a_status_of_its_own_kind() -> None:
    from helios_shm.cli import exits

    errors = [getattr(helios_shm, name) for name in helios_shm.__all__ if name.endswith("Error")]
    found = {error.__name__: exits.status_of(error("x")) for error in errors}
    assert len(set(found.values()) - {exits.INTERNAL}) >= 7
    assert found["CorruptError"] == found["FormatError"] == found["StoreError"]
    assert 0 not in found.values() and exits.DIFFERENT not in found.values()
