"""Scratch: a directory of one process, in which one candidate after the other is tried.

    ROOT/               helios-scratch-UID in the directory for temporary files; of this user alone
        claims/         see judge.py
        Xa81k2j4/       of one Scratch; its lock says that the owner lives
            tree/       what a state says, by delta from the one before
            tmp/        TMPDIR of the commands; emptied behind each

Between two candidates only what differs is written, and what the commands left behind is removed: the tree is exactly
the state again. A Scratch removes its directory when it is closed. Those of owners who were killed are removed by
the next Scratch that anybody makes below the same root.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from multiprocessing.util import Finalize
from pathlib import Path
from types import TracebackType
from typing import Self

from ... import ClosedError, HeliosError, IngestMetrics, MaterializeMetrics, Snapshot, StoreError, Workspace
from .command import Command, Outcome

CLAIMS = "claims"


def root_directory(root: str | os.PathLike[str] | None = None) -> Path:
    """The directory for all scratches, made if need be. Raises StoreError if others can write there."""
    path = Path(root) if root is not None else Path(tempfile.gettempdir()) / f"helios-scratch-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise StoreError(
            f"{path} must be a directory that you own and nobody else can write to; pass another root="
        )
    return path.resolve()


class Scratch:
    """A directory for one candidate at a time. A context manager; for one thread; not for a forked child.

    root: where scratches are made; default: in the directory for temporary files.
    prefix: of a state's paths, those that are put here, without it; that of a directory ends in ``/``.
    keep: patterns as in .gitignore, of what commands leave and the next candidate may find, such as a build
        directory. Compiled files that are kept must be told from those of another candidate: Python's are not, if two
        sources of one size were written in one second.

    Raises StoreError if others can write to the root, OSError.
    """

    def __init__(
        self, root: str | os.PathLike[str] | None = None, *, prefix: str = "", keep: Sequence[str] = ()
    ) -> None:
        self.prefix, self.keep = prefix, tuple(keep)
        self.materialize_s = 0.0
        self.written = 0
        top = root_directory(root)
        with _one_at_a_time(top):
            _remove_abandoned(top)
            self._home = Path(tempfile.mkdtemp(dir=top))
            self._lock = _locked(self._home)
        # At the end of multiprocessing's children as well, which leave without atexit's functions.
        self._finalizer = Finalize(self, _end, (self._home, self._lock), exitpriority=10)
        self.tree, self.temporary = self._home / "tree", self._home / "tmp"
        self.tree.mkdir()
        self.temporary.mkdir()
        _living.add(self)

    def load(self, state: Snapshot) -> MaterializeMetrics:
        """Make ``tree`` hold exactly what a state says. Cost: a look at each file, a write for each that differs.

        Raises ValueError for states that no directory can hold, and what ``Snapshot.materialize`` raises."""
        self._check_open()
        began = time.perf_counter()
        try:
            metrics = self._materialize(state)
        except (HeliosError, OSError):
            _remove(self.tree)  # a command has left what cannot be removed one by one
            self.tree.mkdir()
            metrics = self._materialize(state)
        self.materialize_s += time.perf_counter() - began
        self.written += metrics.written
        return metrics

    def _materialize(self, state: Snapshot) -> MaterializeMetrics:
        return state.materialize(self.tree, prefix=self.prefix, exclude=self.keep, clean=True)

    def ingest(self, workspace: Workspace, *, exclude: Sequence[str] = ()) -> IngestMetrics:
        """Make what a workspace has below the prefix equal to ``tree``, without what is excluded."""
        self._check_open()
        return workspace.ingest(self.tree, prefix=self.prefix, exclude=(*self.keep, *exclude))

    def run(self, command: Command) -> Outcome:
        """Run a command in ``tree``; see ``Command.run``. What it leaves there stays until the next ``load``."""
        self._check_open()
        try:
            return command.run(self.tree, env={"TMPDIR": str(self.temporary)})
        finally:
            if os.listdir(self.temporary):
                _remove(self.temporary)
                self.temporary.mkdir()

    def close(self) -> None:
        """Remove the directory; idempotent. Happens by itself when nobody has the Scratch any more, or the process ends
        other than by a signal."""
        self._finalizer()

    def _check_open(self) -> None:
        if not self._finalizer.still_active():
            raise ClosedError(f"the scratch {self._home} is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _end(home: Path, lock: int) -> None:
    _remove(home)
    os.close(lock)


# --- forked children ---

_living: weakref.WeakSet[Scratch] = weakref.WeakSet()


def _forget_in_child() -> None:
    """A forked child has no part in its parent's: its copy of the lock would outlive the parent."""
    for scratch in _living:
        scratch._finalizer.cancel()
        os.close(scratch._lock)
    _living.clear()
    _of_thread.__dict__.clear()


os.register_at_fork(after_in_child=_forget_in_child)


# --- one for each thread that needs one ---

_of_thread = threading.local()


def scratch_of_thread(root: str | os.PathLike[str] | None, prefix: str, keep: tuple[str, ...]) -> Scratch:
    """This thread's own scratch with these options, made when it is first asked for."""
    mine: dict[str, Scratch] = _of_thread.__dict__
    name = repr((None if root is None else os.fspath(root), prefix, keep))
    if name not in mine:
        mine[name] = Scratch(root, prefix=prefix, keep=keep)
    return mine[name]


def close_scratches_of_thread() -> None:
    """Remove this thread's own; those that are needed later are made anew."""
    mine: dict[str, Scratch] = _of_thread.__dict__
    while mine:
        mine.popitem()[1].close()


def _locked(directory: Path) -> int:
    """An open directory under a lock that ends with this process. Raises BlockingIOError if somebody has it."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(fd)
        raise
    return fd


def remove_abandoned(root: str | os.PathLike[str] | None = None) -> None:
    """Remove the directories of owners who were killed."""
    top = root_directory(root)
    with _one_at_a_time(top):
        _remove_abandoned(top)


@contextlib.contextmanager
def _one_at_a_time(top: Path) -> Iterator[None]:
    """Among those who make or remove scratches below a root."""
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _remove_abandoned(top: Path) -> None:
    for path in top.iterdir():
        with contextlib.suppress(OSError):
            if path.name == CLAIMS:
                for claim in path.iterdir():
                    with contextlib.suppress(OSError):
                        _drop_claim(claim)
            else:
                fd = _locked(path)
                try:
                    _remove(path)
                finally:
                    os.close(fd)


def _drop_claim(path: Path) -> None:
    """Remove a claim whose owner was killed. Who waits for the lock meanwhile finds it without a name, and tries again.
    Raises BlockingIOError if it is somebody's."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink:
            os.unlink(path)
    finally:
        os.close(fd)


def _remove(directory: Path) -> None:
    """Remove a directory whatever permissions its directories have. What cannot be removed stays."""
    for place, names, _ in os.walk(directory):
        for name in names:
            path = os.path.join(place, name)
            if not os.path.islink(path):
                with contextlib.suppress(OSError):
                    os.chmod(path, 0o700)
    shutil.rmtree(directory, ignore_errors=True)
