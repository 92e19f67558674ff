"""Watching a branch: ``for commit in branch.watch()``, ``async for commit in branch.watch(prefix)``.

    __next__    sleeps on the branch's own futex, as Branch.wait does
    __anext__   a future of the event loop; one thread a store sleeps for all such futures of this process:

      commit on any branch --futex--> watcher: which of the awaited heads moved? --call_soon_threadsafe--> futures

A watch remembers the newest commit that it has given out: the branch's incarnation and sequence, and, for a prefix, the
state. What it looks for is the newest commit after that one; so commits that come while nobody asks coalesce, and the
newest of them is never missed. Nothing is taken before it is given out: who is cancelled while he waits loses nothing.

The thread is a daemon that begins with the first wait and ends soon after the last. It says that it watches, looks
at the heads, and sleeps until one of the store has moved since it began (csrc/hs_branch.h): a wait that is entered
while it sleeps looks for itself after it was entered, so that between the two no commit falls. After a fork the child
has neither the thread nor the waits; it begins its own.

Invariants. The locks here are held for a few assignments, never while anything is waited for. A thread that sleeps
holds a call of the attachment, so that nobody closes the engine under it.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, NoReturn, Self

from . import config
from ._capi import hot, lib
from .attachment import Attachment, empty_root
from .errors import ClosedError, NotFoundError
from .mapping import Bounds, bounds_of
from .record import record_head
from .snapshot import Snapshot, make_snapshot

if TYPE_CHECKING:
    from .branch import Branch
    from .commit import Commit

_LINGER_SECONDS = 0.2
_JOIN_SECONDS = 1.0


class _Mark(NamedTuple):
    """A commit's place in the life of a branch; later ones are greater."""

    incarnation: int
    sequence: int


class _Found(NamedTuple):
    """A commit that has not been given out yet."""

    mark: _Mark
    record: bytes
    root: bytes


class Watch(Iterator["Commit"], AsyncIterator["Commit"]):
    """The commits of a branch as they come, from ``Branch.watch``: an iterator, an asynchronous iterator, and a context
    manager that closes it. Thread-safe: each commit is given out once."""

    __slots__ = ("__weakref__", "_bounds", "_branch", "_closed", "_mark", "_seen", "_waits")

    _branch: Branch
    _bounds: Bounds | None  # None: anything
    _closed: bool
    _mark: _Mark
    _seen: Snapshot | None  # what the prefix held at _mark or has held unchanged since; None: unknown
    _waits: set[_Wait]

    def __init__(self) -> None:
        raise TypeError("watches come from Branch.watch()")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Watch cannot be pickled; hand over its branch, and watch that")

    def __repr__(self) -> str:
        return f"<Watch of {self._branch!r}{', closed' if self._closed else ''}>"

    # --- what is new ---

    def _look(self) -> _Found | None:
        """The newest commit, if it is to be given out."""
        branch = self._branch
        record = branch._live_record()
        if record is None:
            return None
        head = record_head(record)
        found = _Found(_Mark(head.incarnation, head.sequence), record, head.root)
        if found.mark <= self._mark:
            return None
        if self._bounds is None or self._differs(found.root, self._bounds):
            return found
        self._advance(found)  # below the prefix nothing is new: compare with this state from now on
        return None

    def _differs(self, root: bytes, bounds: Bounds) -> bool:
        """Has this state anything else below the prefix than what was last seen?"""
        seen = self._seen
        if seen is None:
            return True
        if seen._root == root:
            return False
        return any(True for _ in seen._diff_batches(make_snapshot(self._branch._attachment, root), bounds))

    def _advance(self, found: _Found) -> bool:
        """Go on from there; False: another thread has gone on from there, or from later, already."""
        attachment = self._branch._attachment
        seen = None if self._bounds is None else make_snapshot(attachment, found.root)
        with attachment._lock:
            if found.mark <= self._mark:
                return False
            self._mark, self._seen = found.mark, seen
            return True

    def _give(self, found: _Found | None) -> Commit | None:
        if found is None or not self._advance(found):
            return None
        return hot.make_commit(found.record, self._branch._attachment)

    # --- for ---

    def __next__(self) -> Commit:
        """The newest commit that was not given out yet; sleeps until there is one. Raises StopIteration once the watch
        is closed, ClosedError once the engine is."""
        while not self._closed:
            commit = self._give(self._look())
            if commit is not None:
                return commit
            self._sleep()
        raise StopIteration

    def _sleep(self) -> None:
        """A slice of waiting for the head to move on from where nothing was new."""
        branch = self._branch
        _, word, record = branch._known
        if record is not None and self._is_new(record):
            return  # another thread has looked meanwhile, and found something newer
        attachment = branch._attachment
        call = attachment.call()
        try:
            lib.hs_branch_wait(call.c, branch._ref, word, config.WAIT_SLICE_MS)
        finally:
            attachment.pool.append(call)

    def _is_new(self, record: bytes) -> bool:
        head = record_head(record)
        return not head.deleted and _Mark(head.incarnation, head.sequence) > self._mark

    def __iter__(self) -> Self:
        return self

    # --- async for ---

    async def __anext__(self) -> Commit:
        """The same for asyncio: the event loop runs on while it waits. Raises StopAsyncIteration once the watch is
        closed."""
        loop = asyncio.get_running_loop()
        watcher = _watcher_of(self._branch._attachment)
        while True:
            wait = _Wait(self, loop)
            self._waits.add(wait)
            try:
                if self._closed:
                    raise StopAsyncIteration
                watcher.add(wait)  # before the look, so that no commit falls in between
                found = self._look() or await wait.future
            finally:
                watcher.remove(wait)
                self._waits.discard(wait)
                wait.drop()
            commit = self._give(found)
            if commit is not None:
                return commit

    def __aiter__(self) -> Self:
        return self

    # --- closing ---

    def close(self) -> None:
        """End the watch, and every wait for it: at once those of event loops, within 50 ms those of threads.
        Idempotent, from any thread."""
        self._closed = True
        for wait in list(self._waits):
            _settle([wait], wait.loop)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def make_watch(branch: Branch, prefix: str, after: int | None) -> Watch:
    """A watch that gives out what comes after a sequence, or after now."""
    bounds = bounds_of(prefix, None, None)
    if after is not None and (isinstance(after, bool) or not isinstance(after, int)):
        raise TypeError(f"after is the sequence number of a commit, not {type(after).__name__}")
    if after is not None and after < 0:
        raise ValueError(f"after is 0 or more, not {after}")
    watch: Watch = Watch.__new__(Watch)
    watch._branch = branch
    watch._bounds = bounds if prefix else None
    watch._closed = False
    watch._waits = set()
    record = branch._head_record()
    head = None if record is None else record_head(record)
    if head is None or head.deleted:
        # Whoever makes the branch begins the next incarnation.
        watch._mark = _Mark(1 if head is None else head.incarnation + 1, after or 0)
        root: bytes | None = empty_root() if not after else None
    else:
        watch._mark = _Mark(head.incarnation, head.sequence if after is None else after)
        root = head.root if watch._mark.sequence == head.sequence else _root_at(branch, watch._mark.sequence)
    watch._seen = None if root is None or not prefix else make_snapshot(branch._attachment, root)
    return watch


def _root_at(branch: Branch, sequence: int) -> bytes | None:
    """The state after a commit; None: nobody knows."""
    if sequence == 0:
        return empty_root()
    try:
        return branch.at(sequence).snapshot._root
    except NotFoundError:
        return None


# --- one thread a store ---


class _Wait:
    """One task that awaits a watch. ``word``: the head word at which there was nothing new."""

    __slots__ = ("error", "found", "future", "loop", "watch", "word")

    def __init__(self, watch: Watch, loop: asyncio.AbstractEventLoop) -> None:
        self.watch = watch
        self.loop = loop
        self.future: asyncio.Future[_Found | None] = loop.create_future()
        self.word: int | None = None
        self.found: _Found | None = None
        self.error: BaseException | None = None

    def drop(self) -> None:
        """Nobody awaits it any more."""
        if self.loop.is_closed():
            return
        if not self.future.cancel() and not self.future.cancelled():
            self.future.exception()  # if it was an error, it counts as seen

    def finish(self) -> None:
        """In the event loop."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.found)


def _settle(waits: list[_Wait], loop: asyncio.AbstractEventLoop) -> None:
    """Have an event loop finish waits of its own. One that is closed has nobody who waits."""

    def finish() -> None:
        for wait in waits:
            wait.finish()

    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(finish)


class _Watcher:
    """The waits of one store in this process, and the thread that sleeps for them."""

    def __init__(self, attachment: Attachment) -> None:
        # Weak: the attachment ends when nobody holds it, and who waits holds it.
        self._attachment = weakref.ref(attachment)
        self._root = attachment.paths.root
        self._lock = threading.Lock()
        self._waits: set[_Wait] = set()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._more = threading.Lock()  # free: a wait has come since the thread has looked
        self._more.acquire()

    def add(self, wait: _Wait) -> None:
        with self._lock:
            self._waits.add(wait)
            if self._thread is None and not self._stopping:
                thread = threading.Thread(
                    target=self._run, name=f"helios_shm watcher of {self._root}", daemon=True
                )
                thread.start()
                self._thread = thread
        with contextlib.suppress(RuntimeError):  # it is free already
            self._more.release()

    def remove(self, wait: _Wait) -> None:
        with self._lock:
            self._waits.discard(wait)

    def stop(self) -> None:
        """End the thread: the interpreter is about to go, and with it what the thread would come back to."""
        with self._lock:
            self._stopping = True
            thread = self._thread
        if thread is None:
            return
        with contextlib.suppress(RuntimeError):
            self._more.release()
        thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        while self._has_waits():
            attachment = self._attachment()
            try:
                if attachment is None:
                    raise ClosedError(f"the engine of {self._root} is closed")
                self._watch(attachment)
            except Exception as error:  # it was closed, as a rule
                waits = self._snapshot()
                for wait in waits:
                    wait.error = error
                self._deliver(waits)
            del attachment

    def _has_waits(self) -> bool:
        """Are there waits, or will there be some soon? No: the thread is over."""
        while True:
            with self._lock:
                if self._stopping:
                    return False
                if self._waits:
                    return True
            if self._more.acquire(timeout=_LINGER_SECONDS):
                continue
            with self._lock:
                if not self._waits:
                    self._thread = None
                    return False

    def _snapshot(self) -> list[_Wait]:
        with self._lock:
            return list(self._waits)

    def _watch(self, attachment: Attachment) -> None:
        """Look at the heads that are waited for; if none is new, sleep until some head of the store moves."""
        call = attachment.call()
        try:
            engine = call.c.engine
            seen = lib.hs_watch_begin(engine)
            ready = self._ready()
            if not ready and not self._stopping:
                lib.hs_watch_sleep(engine, seen, config.WAIT_SLICE_MS)
        finally:
            attachment.pool.append(call)
        self._deliver(ready)

    def _ready(self) -> list[_Wait]:
        """The waits that are over. A head is looked at once for all who wait for it."""
        words: dict[str, int] = {}
        ready = []
        for wait in self._snapshot():
            if wait.loop.is_closed():
                self.remove(wait)
                continue
            branch = wait.watch._branch
            try:
                word = words.get(branch._name)
                if word is None:
                    word = words[branch._name] = branch._word()
                if word == wait.word:
                    continue
                wait.found = wait.watch._look()
                wait.word = word
            except Exception as error:
                wait.error = error
            if wait.found is not None or wait.error is not None:
                ready.append(wait)
        return ready

    def _deliver(self, waits: list[_Wait]) -> None:
        loops: dict[asyncio.AbstractEventLoop, list[_Wait]] = {}
        for wait in waits:
            self.remove(wait)
            loops.setdefault(wait.loop, []).append(wait)
        for loop, mine in loops.items():
            _settle(mine, loop)


_lock = threading.Lock()
_watchers: weakref.WeakKeyDictionary[Attachment, _Watcher] = weakref.WeakKeyDictionary()


def _watcher_of(attachment: Attachment) -> _Watcher:
    with _lock:
        watcher = _watchers.get(attachment)
        if watcher is None:
            watcher = _watchers[attachment] = _Watcher(attachment)
        return watcher


def _after_fork_in_child() -> None:
    """The threads are the parent's, and so are those who wait."""
    global _lock, _watchers
    _lock = threading.Lock()
    _watchers = weakref.WeakKeyDictionary()


def _stop_all() -> None:
    for watcher in list(_watchers.values()):
        watcher.stop()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_stop_all)
