"""House rules that a reader would otherwise have to check by eye."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLACES = {
    "": ("*.py", "*.toml", "*.md", "Makefile", "MANIFEST.in"),
    "helios_shm": ("**/*.py", "**/*.pyi", "**/*.html"),
    "csrc": ("*.c", "*.h"),
    "tests": ("**/*.py", "**/*.pyi", "**/*.c", "**/*.h"),
    "bench": ("**/*.py", "**/*.md"),
    "examples": ("**/*.py", "**/*.md"),
    "docs": ("**/*.md",),
}
# A literal that says what a test is about may be written in any script; code and prose stay ASCII.
MAY_HOLD_OTHER_SCRIPTS = "tests/"


def files() -> Iterator[Path]:
    for place, patterns in PLACES.items():
        for pattern in patterns:
            yield from sorted((ROOT / place).glob(pattern))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def lines_matching(pattern: str, paths: Iterator[Path]) -> list[str]:
    found = re.compile(pattern)
    return [
        f"{name(path)}:{number}: {line.strip()}"
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if found.search(line)
    ]


def test_nothing_is_put_off_in_comments() -> None:
    marks = "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"])
    assert lines_matching(rf"\b({marks})\b", files()) == []


def test_sources_are_ascii() -> None:
    checked = (path for path in files() if not name(path).startswith(MAY_HOLD_OTHER_SCRIPTS))
    assert lines_matching(r"[^\x00-\x7f]", checked) == []


def test_no_tabs_and_no_trailing_blanks() -> None:
    checked = (path for path in files() if path.name != "Makefile")
    assert lines_matching(r"\t|\s$", checked) == []


def c_files(*suffixes: str) -> Iterator[Path]:
    return (path for path in sorted((ROOT / "csrc").iterdir()) if path.suffix in suffixes)


def test_atomics_are_used_by_their_named_orders_only() -> None:
    checked = (path for path in c_files(".c", ".h") if path.name != "hs_atomic.h")
    bare = r"\b(atomic_\w+\s*\(|__atomic_\w+|__sync_\w+|memory_order_\w+|volatile\b(?!.*__asm__|.*\basm\b))"
    assert [line for line in lines_matching(bare, checked) if "asm" not in line] == []


def test_every_c_file_opens_with_what_it_is() -> None:
    guard = r"(#(ifndef|define|include|pragma once).*\n|\n)*"
    silent = [name(path) for path in c_files(".c", ".h") if not re.match(guard + r"/\*", path.read_text())]
    assert silent == []


def test_every_python_module_opens_with_what_it_is() -> None:
    places = ("helios_shm", "bench", "examples")
    modules = (path for place in places for path in sorted((ROOT / place).rglob("*.py")))
    silent = [name(path) for path in modules if not path.read_text().startswith(('"""', 'r"""', "#!"))]
    assert silent == []


def test_cdef_header_has_only_guard_and_includes_for_the_preprocessor() -> None:
    lines = (ROOT / "csrc" / "helios_shm.h").read_text().splitlines()
    directives = [line for line in lines if line.lstrip().startswith("#")]
    allowed = re.compile(r"#(ifndef HELIOS_SHM_H|define HELIOS_SHM_H|endif.*|include <\w+\.h>)$")
    assert [line for line in directives if not allowed.match(line)] == []


@pytest.mark.parametrize("suffix", [".so", ".o", ".gcda", ".mdb", ".bin"])
def test_git_would_not_take_build_outputs(suffix: str) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert [line for line in tracked.splitlines() if line.endswith(suffix)] == []
