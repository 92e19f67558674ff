"""How soon a process that is blocked in `branch.wait`, or awaits `branch.watch`, sees a commit, beside the same bytes
over a Pipe."""

import asyncio
import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import helios_shm

from .baselines import samples_of
from .harness import Row, Setting, Target, Values, compare, path_key
from .states import build, store
from .workers import Job, Worker, until_asleep


def waiter(branch: helios_shm.Branch, key: str, pipe: "Connection[Any, Any]") -> Job:
    """The child: blocks in `wait` (an integer: the sequence to wait behind), in an event loop, or in the pipe."""
    loop = asyncio.new_event_loop()

    def job(after: int | str) -> tuple[int, int]:
        if isinstance(after, str):
            if after == "watch":
                loop.run_until_complete(branch.watch().__anext__())
            else:
                pipe.recv_bytes()
            seen = time.perf_counter_ns()
            return seen, seen
        commit = branch.wait(after, timeout=30)
        seen = time.perf_counter_ns()
        assert commit is not None, "nobody committed within 30 s"
        _ = commit.snapshot[key]
        return seen, time.perf_counter_ns()

    return job


def wait(setting: Setting) -> Iterator[Row]:
    """From the call of `commit` (of `send_bytes`) to the return of `wait` (of `recv_bytes`)."""
    seen: list[int] = []
    watched: list[int] = []
    read: list[int] = []
    handed: list[int] = []
    sender, receiver = multiprocessing.get_context("spawn").Pipe()
    key = path_key(0)
    with store(setting) as engine:
        branch = engine.branch("main")
        build(branch, 100, 1024)
        workspace = branch.fork()
        with Worker(waiter, branch, key, receiver) as child:
            for value in Values(1024).take(setting.scale(300, 15)):
                child.ask(branch.last_commit.sequence)
                until_asleep(child.process.pid or 0)
                workspace[key] = value
                start = time.perf_counter_ns()
                workspace.commit()
                at, at_value = child.answer()
                seen.append(at - start)
                read.append(at_value - start)
                engine.sync()  # the coordinator is idle again, whoever is measured next

                child.ask("watch")
                until_asleep(child.process.pid or 0)
                workspace[key] = value + b"and again"
                start = time.perf_counter_ns()
                workspace.commit()
                watched.append(child.answer()[0] - start)
                engine.sync()

                child.ask("pipe")
                until_asleep(child.process.pid or 0)
                start = time.perf_counter_ns()
                sender.send_bytes(value)
                handed.append(child.answer()[0] - start)
    pipe = samples_of("the same 1 KiB over multiprocessing.Pipe", handed)
    note = "from the call of commit to the return of wait"
    yield compare(
        "commit seen in branch.wait",
        samples_of("wait", seen),
        [pipe],
        Target("<=", 1.2, pipe.name),
        note=note,
    )
    yield compare(
        "commit seen in `async for` over branch.watch",
        samples_of("watch", watched),
        [samples_of("wait", seen), pipe],
        note="from the call of commit to the task that awaited it",
    )
    yield compare("the same, and the changed value read", samples_of("read", read), [pipe])
