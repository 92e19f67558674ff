"""Watching what other processes commit: writers that die or stop between a head's move and its waking, forks beside a
watcher, Ctrl-C."""

import asyncio
import itertools
import multiprocessing
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import helios_shm
from helios_shm import Branch, Commit, Engine, Watch
from helios_shm._capi import check, lib
from tests.processes.rig import (
    SECONDS_MAX,
    Worker,
    finish,
    line_of,
    resume,
    start_program,
    until,
    until_nothing_runs,
    workers,
)
from tests.processes.test_fork import FORK, in_child, put

KILL, STOP = 1, 2


def put_many(branch: Branch, name: str, count: int) -> str:
    for n in range(count):
        put(branch, f"{name}/{n}")
    return name


def put_and_stumble(branch: Branch, action: int) -> int:
    """Commit, and die or stop when the head has moved and nobody has been woken for it."""
    branch.fork()  # attached, so that the next step of that name is the commit's
    check(lib.hs_step_arm(b"head_after", 1, action), "arming a step")
    return put(branch, "stumbled")


async def seen_by_loop(watch: Watch, is_last: Callable[[Commit], bool]) -> list[Commit]:
    seen = []
    async for commit in watch:
        seen.append(commit)
        if is_last(commit):
            break
    return seen


def follow(branch: Branch, after: int, last: int, how: str) -> list[int]:
    """In any process: the sequences that a watch gives out, up to the last."""
    watch = branch.watch(after=after)
    if how == "async for":
        seen = asyncio.run(seen_by_loop(watch, lambda commit: commit.sequence == last))
    else:
        seen = []
        for commit in watch:
            seen.append(commit)
            if commit.sequence == last:
                break
    return [commit.sequence or 0 for commit in seen]


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_watchers_and_writers_in_many_processes(engine: Engine, method: str) -> None:
    """Whoever watches sees ever newer commits, and the newest at last; each of two watchers here and two elsewhere."""
    branch, each = engine.branch("main"), 200
    put(branch, "first")
    last = 1 + 2 * each
    with workers(4, multiprocessing.get_context(method), branch) as [one, two, waiting, looping]:
        waiting.tell(follow, 1, last, "for")
        looping.tell(follow, 1, last, "async for")
        one.tell(put_many, "one", each)
        two.tell(put_many, "two", each)
        seen = [follow(branch, 1, last, how) for how in ("for", "async for")]
        seen += [worker.hear() for worker in (waiting, looping)]
        assert (one.hear(), two.hear()) == ("one", "two")
    for sequences in seen:
        assert sequences[-1] == last
        assert sequences == sorted(set(sequences))


@pytest.mark.parametrize("how", ["for", "async for"])
@pytest.mark.parametrize("action", [KILL, STOP])
def test_commit_of_a_writer_that_woke_nobody_is_seen(engine: Engine, how: str, action: int) -> None:
    branch = engine.branch("main")
    put(branch, "first")
    writer = Worker(FORK, branch)
    try:
        seen: list[list[int]] = []
        thread = threading.Thread(target=lambda: seen.append(follow(branch, 1, 2, how)))
        thread.start()
        writer.tell(put_and_stumble, action)
        thread.join(SECONDS_MAX)
        assert seen == [[2]]
        if action == STOP:
            resume(writer.pid)
            assert writer.hear() == 2
            writer.end()
        else:
            writer.process.join(SECONDS_MAX)
            assert writer.process.exitcode == -signal.SIGKILL
    finally:
        writer.process.kill()
        writer.process.join()
    assert follow(branch, 0, 2, how) == [2]


def watch_in_child(branch: Branch, last: int) -> None:
    """A forked child inherits neither the thread nor the waits: what it awaits is watched by a thread of its own."""
    assert [thread.name for thread in threading.enumerate() if "watcher" in thread.name] == []
    put(branch, f"child/{last}")
    assert follow(branch, last - 1, last, "async for") == [last]
    assert sum("watcher" in thread.name for thread in threading.enumerate()) == 1


def test_fork_beside_a_running_watcher(engine: Engine) -> None:
    branch = engine.branch("main")
    put(branch, "first")

    async def main() -> Commit:
        task = asyncio.create_task(branch.watch(after=3).__anext__())  # type: ignore[arg-type]
        await asyncio.sleep(0)
        for turn in range(3):
            status = await asyncio.to_thread(in_child, watch_in_child, branch, 2 + turn)
            assert status == 0
        return await task

    assert (asyncio.run(asyncio.wait_for(main(), SECONDS_MAX)).sequence or 0) >= 4


def test_fork_while_another_thread_watches_and_commits(engine: Engine) -> None:
    """At whatever instant: no lock of the watcher's is inherited locked."""
    branch, stop = engine.branch("main"), threading.Event()

    async def main() -> None:
        watch = branch.watch()
        for turn in itertools.count():
            if stop.is_set():
                return
            task = asyncio.create_task(watch.__anext__())  # type: ignore[arg-type]
            await asyncio.sleep(0)
            put(branch, f"mine/{turn}")
            await task

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    try:
        for turn in range(15):
            last = put(branch, f"before/{turn}") + 1
            assert in_child(await_something, branch, last) == 0
    finally:
        stop.set()
        thread.join(SECONDS_MAX)
    assert not thread.is_alive()


def await_something(branch: Branch, last: int) -> None:
    put(branch, f"child/{last}")
    seen = asyncio.run(
        seen_by_loop(branch.watch(after=last - 1), lambda commit: (commit.sequence or 0) >= last)
    )
    assert len(seen) == 1


_WATCHES = """
import asyncio, sys, helios_shm

async def loops(watch):
    async for commit in watch:
        print(commit.sequence, flush=True)

engine = helios_shm.open(sys.argv[1])
watch = engine.branch("main").watch()
print("ready", flush=True)
try:
    if sys.argv[2] == "async for":
        asyncio.run(loops(watch))
    else:
        for commit in watch:
            print(commit.sequence, flush=True)
except KeyboardInterrupt:
    print("interrupted", watch._waits, flush=True)
    found = engine.branch("main").watch(after=0).__next__()
    print(found.sequence, flush=True)
if sys.argv[3] == "close":
    engine.close()
"""


@pytest.mark.parametrize("end", ["close", "exit"])
@pytest.mark.parametrize("how", ["for", "async for"])
def test_interrupt_ends_a_watch_and_leaves_nothing(store_path: Path, how: str, end: str) -> None:
    with helios_shm.open(store_path) as engine:
        branch = engine.branch("main")
        program = start_program(_WATCHES, store_path, how, end)
        assert line_of(program) == "ready"
        # The watch begins after now, and is looked at by its process at once: any commit from here on is news.
        put(branch, "a")
        assert line_of(program) == "1"
        program.send_signal(signal.SIGINT)
        assert line_of(program) == "interrupted set()"
        assert line_of(program) == "1"
        assert finish(program) == ""
        until("only this process takes part", lambda: engine.stats().participants == 1)
    until_nothing_runs(store_path)


def test_end_of_a_program_amid_waits(store_path: Path) -> None:
    """A daemon thread that sleeps in shared memory does not hold up the interpreter's end, nor crash it."""
    program = start_program(
        """
import asyncio, sys, threading, helios_shm
engine = helios_shm.open(sys.argv[1], l1_bytes=4 << 20)
async def main():
    await engine.branch("main").watch().__anext__()
thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
thread.start()
while not any("watcher" in each.name for each in threading.enumerate()):
    pass
print("watching", flush=True)
""",
        store_path,
    )
    assert line_of(program) == "watching"
    assert finish(program) == ""
    until_nothing_runs(store_path)
