"""Exceptions that a signal handler raises at any instant: what was acknowledged is there, nothing hangs afterwards."""

import gc
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import coverage
import pytest

import helios_shm
from helios_shm import Branch, Engine
from tests.processes.rig import until_nothing_runs

# An exception between a file's opening and its `with` leaves the file to the collector, in anybody's Python.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

SEED = 20240817


class Interrupted(BaseException):
    """What the handler raises, as KeyboardInterrupt is raised by Ctrl-C."""


@contextmanager
def untraced() -> Iterator[None]:
    """Coverage's tracer holds a lock of its own now and then; an exception out of it there would leave that locked."""
    tracer = coverage.Coverage.current()
    if tracer is not None:
        tracer.stop()
    try:
        yield
    finally:
        if tracer is not None:
            tracer.start()


@contextmanager
def interruptible() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise Interrupted

    timer = signal.setitimer(signal.ITIMER_REAL, 0)  # another's, for the test as a whole
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.collect()  # here, where what was left open is expected
        signal.setitimer(signal.ITIMER_REAL, *timer)


def put(branch: Branch, key: str, durable: bool = False) -> None:
    ws = branch.fork()
    ws[key] = b"v"
    ws.commit(durable=durable)


WORK: dict[str, Callable[[Engine, Branch, str], object]] = {
    "commit": lambda engine, branch, key: put(branch, key),
    "commit with a message": lambda engine, branch, key: say(branch, key),
    "commit durably": lambda engine, branch, key: put(branch, key, durable=True),
    "read": lambda engine, branch, key: (put(branch, key), dict(branch.head)),
    "read the disk": lambda engine, branch, key: (
        put(branch, key),
        engine.branches(),
        branch.at(1),
        engine.sync(),
    ),
    "wait": lambda engine, branch, key: (put(branch, key), branch.wait(timeout=0.002)),
}


def say(branch: Branch, key: str) -> None:
    with branch.transaction("said", metadata={"key": key}) as ws:
        ws[key] = b"v"
        ws[f"{key}/more"] = b"v" * 5000


@pytest.mark.parametrize("work", WORK)
def test_work_interrupted_at_random_instants(store_path: Path, work: str) -> None:
    chance, done, interrupted = random.Random(SEED), [], 0
    engine = helios_shm.open(store_path, l1_bytes=4 << 20)
    branch = engine.branch("main")
    put(branch, "first")
    with untraced(), interruptible():
        for turn in range(250):
            key = f"{turn:04}"
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.00002, 0.0012))
                while True:
                    WORK[work](engine, branch, key)
                    done.append(key)
                    key = f"{turn:04}/{len(done)}"
            except Interrupted:
                interrupted += 1
    assert interrupted == 250
    head = branch.head
    assert set(done) <= set(head)
    log = list(branch.log())
    assert [commit.sequence for commit in log] == list(range(len(log), 0, -1))
    engine.sync(timeout=30)
    closer = threading.Thread(target=engine.close)
    closer.start()
    closer.join(30)
    assert not closer.is_alive(), "close hangs"
    until_nothing_runs(store_path)


def test_opening_and_closing_interrupted_at_random_instants(store_path: Path) -> None:
    """Whatever was half open has been given back: the store opens again, and has what was acknowledged."""
    chance, done = random.Random(SEED), []
    with helios_shm.open(store_path, l1_bytes=4 << 20) as engine:
        put(engine.branch("main"), "first")
        with untraced(), interruptible():
            for turn in range(60):
                try:
                    signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0001, 0.004))
                    while True:
                        with helios_shm.open(
                            store_path.with_name(f"other-{turn % 3}"), l1_bytes=4 << 20
                        ) as other:
                            put(other.branch("main"), f"{turn}/{len(done)}")
                            done.append((turn % 3, f"{turn}/{len(done)}"))
                except Interrupted:
                    pass
        put(engine.branch("main"), "last")
    for number in range(3):
        with helios_shm.open(store_path.with_name(f"other-{number}"), l1_bytes=4 << 20) as other:
            assert {key for of, key in done if of == number} <= set(other.branch("main").head)
            assert other.stats().participants == 1
