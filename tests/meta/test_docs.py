"""Documents are held to the code: the README's example runs, and a file that a document names exists."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("bench/*.md")])


def example_of(document: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    assert blocks, f"{document} has no python block"
    return str(blocks[0])


@pytest.mark.parametrize(("document", "lines_max"), [("README.md", 20), ("docs/SEARCH.md", 26)])
def test_example_runs_as_it_stands(document: str, lines_max: int, tmp_path: Path) -> None:
    example = example_of(document)
    assert len(example.splitlines()) <= lines_max
    program = tmp_path / "example.py"
    program.write_text(example)
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    promised = re.findall(r"# prints (.+)$", example, re.MULTILINE)
    assert promised and done.stdout.splitlines() == promised


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_document_names_files_that_exist(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    known = r"(?:csrc|docs|tests|bench|examples|helios_shm)/[\w./-]*\w|\b(?:hs_\w+|helios_shm)\.[ch]\b"
    missing = []
    for named in set(re.findall(known, text)):
        place = ROOT / ("csrc/" + named if "/" not in named else named)
        if not place.exists():
            missing.append(named)
    assert sorted(missing) == []


def test_readme_names_every_command() -> None:
    readme = (ROOT / "README.md").read_text()
    missing = [command for command in ("run", "test", "bench", "check") if f"make {command}" not in readme]
    assert missing == []


def test_every_step_that_a_crash_test_may_die_at_is_documented() -> None:
    labels = re.findall(r"\bX\((\w+)\)", (ROOT / "csrc" / "hs_step.h").read_text())
    documented = re.findall(r"`(\w+)`", (ROOT / "docs" / "CONCURRENCY.md").read_text())
    assert len(labels) > 1 and sorted(set(labels) - set(documented)) == []
