"""The states that the figures are taken on: the same keys and values in a store and in LMDB.

    branch:  perf/00/file_0000000.dat ... perf/99/file_....dat       LMDB: the same keys, the same bytes

Used by the bench_*.py files.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

import helios_shm
from helios_shm import lifecycle
from helios_shm.attachment import Attachment
from helios_shm.store import StorePaths

from .baselines import lmdb_fill, lmdb_open
from .harness import Items, Run, Setting, Values, path_key

SLICE = 50_000  # keys in one commit while a state is built
LEAVE_SECONDS_MAX = 20.0


@contextmanager
def directory(parent: Path) -> Iterator[Path]:
    """A directory of its own, gone afterwards."""
    path = Path(tempfile.mkdtemp(prefix="helios-bench-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def store(setting: Setting) -> Iterator[helios_shm.Engine]:
    """A new store on the disk, gone afterwards."""
    with directory(setting.disk) as parent:
        with helios_shm.open(parent / "store") as engine:
            yield engine
        until_left(parent / "store")


def until_left(root: Path) -> None:
    """Returns when the store's coordinator has ended too: its directory and segment can go then."""
    deadline = time.monotonic() + LEAVE_SECONDS_MAX
    while lifecycle.is_in_use(StorePaths.of(root)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{root} is in use {LEAVE_SECONDS_MAX} s after it was closed")
        time.sleep(0.01)


def attachment(engine: helios_shm.Engine) -> Attachment:
    """This process's hold on the store, for figures below the public API."""
    return engine._attachment


def blocks_hashed(engine: helios_shm.Engine) -> int:
    """BLAKE3 compressions that this process has made for the store so far."""
    return int(attachment(engine).stats().blocks_hashed)


def build(branch: helios_shm.Branch, keys: int, size: int) -> helios_shm.Snapshot:
    """Commits `keys` values of `size` bytes to the branch and waits until they are persisted."""
    values = Values(size, seed=7)
    workspace = branch.fork()
    for start in range(0, keys, SLICE):
        for number, value in enumerate(values.take(min(SLICE, keys - start)), start):
            workspace[path_key(number)] = value
        workspace.commit()
    branch.engine.sync()
    return branch.head


@contextmanager
def twin(setting: Setting, keys: int, size: int) -> Iterator[lmdb.Environment]:
    """The same state in an LMDB environment without sync on tmpfs."""
    values = Values(size, seed=7)
    with directory(setting.memory) as path:
        environment = lmdb_open(path, megabytes=64 + keys * (size + 400) * 3 // 1_000_000)
        for start in range(0, keys, SLICE):
            taken = values.take(min(SLICE, keys - start))
            pairs = ((path_key(number).encode(), value) for number, value in enumerate(taken, start))
            lmdb_fill(environment, pairs)
        yield environment
        environment.close()


def commits(workspace: helios_shm.Workspace) -> Run:
    """One changed key and a commit for each (key, value); the workspace goes on from its new snapshot."""

    def run(items: Items) -> None:
        for key, value in items:
            workspace[key] = value
            workspace.commit()

    return run
