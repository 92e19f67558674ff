"""What the proof and the instruction counts need of Debian's packages, installed where it is missing."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable

from tests.crash.tree import ROOT


class NotInstalled(Exception):
    """A program is missing and could not be installed; the text says what to install by hand."""


def install(is_there: Callable[[], bool], *packages: str) -> None:
    """See that ``is_there``, by installing ``packages`` with apt-get if it is not. Raises NotInstalled."""
    if is_there():
        return
    wanted = f"apt-get install {' '.join(packages)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise NotInstalled(f"it needs what is not here; as root on Debian: {wanted}")
    # One at a time: apt-get does not wait for its own lists.
    (ROOT / "build").mkdir(exist_ok=True)
    with open(ROOT / "build" / "apt-get.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_there():
            return
        said = ""
        get = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=60"]
        for command in (["install"], ["update"], ["install"]):
            more = ["-y", "--no-install-recommends", *packages] if command == ["install"] else []
            said = _run([*get, *command, *more])
            if is_there():
                return
    raise NotInstalled(f"{wanted} failed: {said[-500:]}")


def _run(command: list[str]) -> str:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return done.stderr or done.stdout
