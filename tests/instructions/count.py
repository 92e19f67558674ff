"""Counts: makes the store, stops its coordinator, runs worker.py under callgrind, reads what callgrind wrote.

    (instructions of 3 n operations - instructions of n) / 2 n  =  instructions of one

The difference takes off what a section costs whatever is in it. Of several sections of one length the median counts:
in one of them a table doubles, and pays for all.
"""

from __future__ import annotations

import contextlib
import os
import platform
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import _cffi_backend
import psutil

import helios_shm
from helios_shm import _native
from tests.crash import debian
from tests.crash.tree import ROOT
from tests.instructions.worker import LONG, OPERATIONS, STATES, TURNS, path
from tests.programs import untraced

KEPT = ROOT / "build" / "instructions"
_HEADER = Path("/usr/include/valgrind/callgrind.h")
_SECONDS_MAX = 600.0
_COORDINATOR_SECONDS_MAX = 60.0
_L1_BYTES = 128 << 20


class NotCounted(Exception):
    """There are no figures; the text says why."""


def install() -> None:
    """See that valgrind is there. Raises debian.NotInstalled."""
    debian.install(lambda: shutil.which("valgrind") is not None and _HEADER.exists(), "valgrind")


def environment() -> dict[str, str]:
    """All that a count depends on beside our sources. Valgrind shows every program one processor, by what the real one
    can do, so the maker and the model of that do not matter."""
    flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    vectors = [name for name in ("avx2", "avx") if flags is not None and name in flags[1].split()]
    compiled = re.search(
        rb"GCC: \([^)]*\) [\d.]+|clang version [\d.]+", Path(str(_native.__file__)).read_bytes()
    )
    said = subprocess.run(["valgrind", "--version"], check=True, capture_output=True, text=True).stdout
    return {
        "processor": " ".join([platform.machine(), *vectors[:1]]),
        "python": f"{platform.python_implementation()} {platform.python_version()}, {platform.python_compiler()}",
        "compiler": compiled[0].decode() if compiled else "unknown",
        "libc": " ".join(platform.libc_ver()),
        "cffi": ".".join(str(_cffi_backend.__version__).split(".")[:2]),
        "valgrind": said.strip().removeprefix("valgrind-"),
    }


def count() -> dict[str, float]:
    """Instructions of one of each operation. Callgrind's files stay under build/instructions. Raises NotCounted."""
    shutil.rmtree(KEPT, ignore_errors=True)
    KEPT.mkdir(parents=True)
    library = KEPT / "mark.so"
    source = Path(__file__).with_name("mark.c")
    _run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library), str(source)])
    with _store() as root:
        _run(
            [
                *_same_addresses(),
                "valgrind",
                "--tool=callgrind",
                "--instr-atstart=no",
                "--trace-children=no",
                f"--callgrind-out-file={KEPT}/callgrind.out",
                sys.executable,
                "-m",
                "tests.instructions.worker",
                str(root),
                str(library),
            ],
            LD_PRELOAD=str(library),
        )
    return figures(totals(KEPT))


def totals(directory: Path) -> dict[str, int]:
    """What callgrind counted in each section, by the section's name."""
    found: dict[str, int] = {}
    for dump in sorted(directory.glob("callgrind.out.*")):
        text = dump.read_text(errors="replace")
        name = re.search(r"^desc: Trigger: Client Request: (.+)$", text, re.MULTILINE)
        total = re.search(r"^totals: (\d+)$", text, re.MULTILINE)
        if name is not None and total is not None:
            found[name[1]] = int(total[1])
    return found


def figures(totals: dict[str, int]) -> dict[str, float]:
    """Instructions of one operation, from what its sections took. NotCounted if one is missing or makes no sense."""
    found: dict[str, float] = {}
    for name, (_, times) in OPERATIONS.items():
        medians = []
        for length in (times, LONG * times):
            counts = [totals.get(f"{name} {length} {turn}", 0) for turn in range(TURNS)]
            if not all(counts):
                raise NotCounted(f"{name}: callgrind counted nothing in a section of {length}")
            medians.append(statistics.median(counts))
        figure = (medians[1] - medians[0]) / ((LONG - 1) * times)
        if figure <= 0:
            raise NotCounted(f"{name}: more of them took fewer instructions")
        found[name] = round(figure, 1)
    return found


@contextlib.contextmanager
def _store() -> Iterator[Path]:
    """A store with the states, in memory all of it, and its coordinator stopped."""
    with tempfile.TemporaryDirectory(prefix="helios-instructions-") as parent:
        root = Path(parent) / "store"
        with helios_shm.open(root, l1_bytes=_L1_BYTES) as engine:
            chance = random.Random(5)
            for name, (keys, size) in STATES.items():
                workspace = engine.branch(name).fork()
                workspace.update((path(number), chance.randbytes(size)) for number in range(keys))
                workspace.commit()
            engine.sync(timeout=_COORDINATOR_SECONDS_MAX)
            coordinator = engine.stats().coordinator_pid
            if coordinator is None:
                raise NotCounted("the store has no coordinator that could be stopped")
            os.kill(coordinator, signal.SIGSTOP)
            try:
                yield root
            finally:
                os.kill(coordinator, signal.SIGCONT)
        # It writes in the directory until it has left.
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(coordinator).wait(_COORDINATOR_SECONDS_MAX)


def _same_addresses() -> list[str]:
    """What starts a program at the addresses it always has, where the system allows that."""
    prefix = ["setarch", "-R"]
    allowed = (
        shutil.which("setarch") and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    )
    return prefix if allowed else []


def _run(command: list[str], **more: str) -> None:
    surroundings = {**untraced(), "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT), **more}
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=surroundings,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS_MAX,
        )
    except subprocess.TimeoutExpired:
        raise NotCounted(f"{command[0]} did not end in {_SECONDS_MAX:.0f} s") from None
    if done.returncode != 0:
        raise NotCounted(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
