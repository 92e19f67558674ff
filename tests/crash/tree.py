"""The tree under test: ours, or a copy of it with one seeded bug.

    root/csrc, root/helios_shm, root/Makefile      what is judged
    root/tests -> our tests                        in a copy, a link: who judges is the same
    root/build/c/<flavour>                         objects of the C core; a copy begins with ours, so that only what
                                                   the bug touches is compiled again

A seeded bug is one replacement of text. The product has no code for it, and a bug whose text is no longer found is an
error, so it cannot rot unseen.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What the compiled module's link needs beside the C core; helios_shm/_ffi_build.py has the same for setuptools.
_LINK = ("-pthread", "-lrt", "-lm")
_PYTHON_FLAGS = (
    "-O1",
    "-std=gnu11",
    "-fPIC",
    "-w",
    "-fvisibility=hidden",
    f"-I{sysconfig.get_paths()['include']}",
    "-Icsrc",
)
_SANITIZERS = ("libasan.so", "libubsan.so")


@dataclass(frozen=True)
class Mutant:
    """A seeded bug: ``old``, which occurs once in ``file`` (relative to the root), is replaced by ``new``."""

    name: str
    file: str
    old: str
    new: str
    why: str

    @property
    def is_in_c(self) -> bool:
        return self.file.startswith("csrc/")


class BuildError(Exception):
    """Something does not compile; the text is the compiler's."""


def library(tree: Path, flavour: str = "plain") -> Path:
    """The C core of a tree as a static library: plain, pic, asan, tsan or coverage."""
    target = f"build/c/{flavour}/libhelios_shm.a"
    with _building(tree):
        _command(["make", "--no-print-directory", "-s", f"-j{os.cpu_count()}", target], tree)
    return tree / target


def program(tree: Path, source: Path, flavour: str = "plain", *flags: str) -> Path:
    """A C program of ours, linked with the C core of a tree; built again only if something has changed.

    ``flags`` come after the flavour's own.
    """
    archive = library(tree, flavour)
    key = hashlib.sha256(repr((str(source), flags)).encode()).hexdigest()[:8]
    made = tree / "build" / "crash" / f"{source.stem}-{flavour}-{key}"
    with _building(tree):
        newest = max(path.stat().st_mtime for path in (archive, source, *source.parent.glob("*.h")))
        if not made.exists() or made.stat().st_mtime < newest:
            made.parent.mkdir(parents=True, exist_ok=True)
            given = _flags(tree, flavour)
            includes = ["-Icsrc", f"-I{source.parent}"]
            command = ["gcc", *given, *includes, *flags, "-o", str(made), str(source), str(archive), *_LINK]
            _command(command, tree)
    return made


def mutated(mutant: Mutant, directory: Path) -> Path:
    """A copy of our tree under ``directory`` that has the bug, its compiled module built; returns the copy's root."""
    root = directory / mutant.name.replace(" ", "_")
    text = (ROOT / mutant.file).read_text()
    if text.count(mutant.old) != 1:
        raise BuildError(f"{mutant.name}: its text occurs {text.count(mutant.old)} times in {mutant.file}")
    if mutant.is_in_c:
        library(ROOT, "pic")
    _copy(root)
    (root / mutant.file).write_text(text.replace(mutant.old, mutant.new))
    if mutant.is_in_c:
        _compiled_module(root)
    return root


def sanitized(directory: Path, tree: Path = ROOT) -> tuple[Path, dict[str, str]]:
    """A copy of a tree whose C core runs under ASan and UBSan, and the environment in which Python can load it."""
    root = directory / "sanitized"
    library(tree, "asan")
    _copy(root, tree)
    _compiled_module(root, "asan", "-fsanitize=address,undefined")
    runtimes = [_command(["gcc", f"-print-file-name={name}"], root).strip() for name in _SANITIZERS]
    return root, {
        "PYTHONPATH": str(root),
        "LD_PRELOAD": ":".join(runtimes),
        # What Python itself never frees is not ours to report.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "PYTHONMALLOC": "malloc",
    }


def _copy(root: Path, tree: Path = ROOT) -> None:
    root.mkdir(parents=True)
    left_out = shutil.ignore_patterns("__pycache__", "_native.c")
    for name in ("csrc", "helios_shm"):
        shutil.copytree(tree / name, root / name, ignore=left_out)
    for name in ("Makefile", "setup.py", "pyproject.toml"):
        shutil.copy2(tree / name, root / name)
    (root / "tests").symlink_to(ROOT / "tests")
    with _building(tree):
        for objects in sorted((tree / "build" / "c").glob("*")):
            # Without the test programs: a copy needs the objects and the rules' dependencies alone.
            if (objects / "csrc").is_dir():
                shutil.copytree(objects / "csrc", root / "build" / "c" / objects.name / "csrc")


def _compiled_module(root: Path, flavour: str = "pic", *flags: str) -> None:
    """Link a copy's ``_native`` anew: the generated wrapper is ours, the core and the extension are the copy's."""
    wrapper = _wrapper()
    archive = library(root, flavour)
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    made = root / "helios_shm" / f"_native{suffix}"
    extension = [str(path) for path in sorted((root / "csrc" / "python").glob("*.c"))]
    inputs = [str(wrapper), *_PYTHON_FLAGS, *extension, str(archive)]
    _command(["gcc", "-shared", "-pthread", *flags, "-o", str(made), *inputs, *_LINK], root)


def _wrapper() -> Path:
    """The object file of the wrapper that cffi generates from the public header; made once."""
    generated, made = (ROOT / "build" / "crash" / name for name in ("_native.c", "_native.o"))
    header, recipe = ROOT / "csrc" / "helios_shm.h", ROOT / "helios_shm" / "_ffi_build.py"
    with _building(ROOT):
        newest = max(path.stat().st_mtime for path in (header, recipe))
        if not made.exists() or made.stat().st_mtime < newest:
            made.parent.mkdir(parents=True, exist_ok=True)
            runpy.run_path(str(recipe))["ffi"].emit_c_code(str(generated))
            _command(["gcc", *_PYTHON_FLAGS, "-c", "-o", str(made), str(generated)], ROOT)
    return made


def _flags(tree: Path, flavour: str) -> list[str]:
    """The compiler flags that the Makefile gives a flavour."""
    asked = ["make", "--no-print-directory", "-s", f"flags-{flavour}"]
    return _command(asked, tree).split()


def _command(command: list[str], tree: Path) -> str:
    # Without what a surrounding make has put into the environment: this one is nobody's sub-make.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    environment["PYTHON"] = sys.executable
    done = subprocess.run(
        command, cwd=tree, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command)}: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


@contextmanager
def _building(tree: Path) -> Iterator[None]:
    """One at a time builds in a tree."""
    (tree / "build").mkdir(exist_ok=True)
    with open(tree / "build" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
