"""Include and exclude patterns: git itself says which paths they mean."""

import random
import subprocess
from pathlib import Path

import pytest

from helios_shm.globs import Globs

_NAMES = ("a", "b", "a.py", "foo", "f o", "x-y", "[z]", "#h", "!n", "b.txt")
_SEGMENTS = (
    "*", "*", "*", "**", "**", "a", "b", "a.py", "*.py", "foo", "f*", "?", "[a-b]", "[!a]", "[^a]", "x-y",
    "\\[z\\]", "\\#h", "\\!n", "b.*", "f\\ o",
)  # fmt: skip


def _pattern(rng: random.Random) -> str:
    pattern = "/".join(rng.choice(_SEGMENTS) for _ in range(rng.randint(1, 3)))
    return rng.choice(("", "!")) + rng.choice(("", "", "/")) + pattern + rng.choice(("", "", "/"))


def _plant(root: Path, rng: random.Random) -> set[str]:
    for _ in range(60):
        path = root.joinpath(*(rng.choice(_NAMES) for _ in range(rng.randint(1, 3))))
        if not path.exists() and not any(above.is_file() for above in path.parents):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_exclude_leaves_out_what_git_ignores(tmp_path: Path) -> None:
    rng = random.Random(5)
    repository = tmp_path / "repository"
    repository.mkdir()
    files = _plant(repository, rng)
    ignore = tmp_path / "ignore"
    listing = ["git", "-C", str(repository), "ls-files", "-o", "-z", f"--exclude-from={ignore}"]
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    for _ in range(120):
        patterns = [_pattern(rng) for _ in range(rng.randint(1, 5))]
        ignore.write_text("\n".join(patterns) + "\n")
        listed = subprocess.run(listing, check=True, capture_output=True).stdout.decode()
        globs = Globs(exclude=patterns)
        assert {path for path in files if globs.takes(path)} == set(listed.split("\0")) - {""}, patterns


@pytest.mark.parametrize(
    ("include", "exclude", "taken"),
    [
        # Directories are taken back first, so that what is in them can be.
        ([], ["*", "!*/", "!*.py"], {"sub/a.py", "sub/deep/a.py"}),
        # What is below a directory is matched, it itself is not.
        ([], ["sub/**", "!sub/keep"], {"sub/keep"}),
        ([], ["/sub/*", "!/sub/deep"], {"sub/deep/a.py", "sub/deep/x"}),
        (["sub/", "!sub/deep/"], [], {"sub/a.py", "sub/keep", "sub/x"}),
        (["sub/", "!sub/deep/", "sub/deep/x"], [], {"sub/a.py", "sub/keep", "sub/x", "sub/deep/x"}),
        (["sub/deep"], ["*.py"], {"sub/deep/x"}),
        (["# a note", "*.py "], [], {"sub/a.py", "sub/deep/a.py"}),
    ],
)
def test_the_last_pattern_that_matches_a_path_itself_decides(
    include: list[str], exclude: list[str], taken: set[str]
) -> None:
    files = {"sub/a.py", "sub/keep", "sub/x", "sub/deep/a.py", "sub/deep/x"}
    globs = Globs(include, exclude)
    assert {path for path in files if globs.takes(path)} == taken
