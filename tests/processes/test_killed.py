"""kill -9 of workers, of the coordinator, of everything: what was acknowledged is there, once; nobody else notices."""

import multiprocessing
import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import psutil

import helios_shm
from helios_shm import Branch, Engine, blobs
from helios_shm.hashing import blake3
from helios_shm.store import StorePaths
from tests.processes.rig import (
    coordinator,
    coordinators,
    is_dead,
    is_uncoordinated,
    line_of,
    segments,
    start_program,
    stop,
    until,
    until_nothing_runs,
    workers,
)

FORK = multiprocessing.get_context("fork")
SEED = 20240817


def put(branch: Branch, key: str, durable: bool = False) -> int:
    ws = branch.fork()
    ws[key] = key.encode()
    return ws.commit(durable=durable).sequence or 0


def put_many(branch: Branch, name: str, count: int, durable: bool = False) -> list[int]:
    return [put(branch, f"{name}/{turn:04}", durable) for turn in range(count)]


def kill_coordinator(path: Path) -> int:
    """Kill it, and return when it is dead. Its parent is init, which reaps it, or nobody does."""
    pid = coordinator(path)
    os.kill(pid, signal.SIGKILL)
    until(f"coordinator {pid} is dead", lambda: is_dead(pid))
    return pid


def check_chain(branch: Branch) -> None:
    """The log has every sequence once, each on the one before it."""
    log = list(branch.log())
    assert [commit.sequence for commit in log] == list(range(len(log), 0, -1))
    assert all(newer.parents == (older.snapshot,) for newer, older in pairwise(log))
    assert branch.head == log[0].snapshot


# ---- the coordinator ----


def test_the_next_who_waits_for_durability_starts_another_coordinator(
    engine: Engine, store_path: Path
) -> None:
    branch = engine.branch("main")
    ways: list[Callable[[], object]] = [
        engine.sync,
        lambda: put(branch, "durable", durable=True),
        lambda: helios_shm.open(store_path).close(),
    ]
    put(branch, "before", durable=True)
    for number, wait in enumerate(ways):
        killed = kill_coordinator(store_path)
        put(branch, f"meanwhile/{number}")
        wait()
        assert coordinator(store_path) != killed
        engine.sync(timeout=30)
        assert engine.stats().unpersisted_bytes == 0
    assert list(branch.head) == ["before", "durable", "meanwhile/0", "meanwhile/1", "meanwhile/2"]
    check_chain(branch)


def test_one_who_is_waiting_when_the_coordinator_dies_starts_another(
    engine: Engine, store_path: Path
) -> None:
    branch = engine.branch("main")
    put(branch, "before", durable=True)
    pid = coordinator(store_path)
    with workers(4, FORK, branch) as waiting:
        os.kill(pid, signal.SIGSTOP)
        for number, worker in enumerate(waiting):
            worker.tell(put, f"{number}", True)
        assert branch.wait(after=4, timeout=30) is not None  # all four have committed, and wait
        os.kill(pid, signal.SIGKILL)
        assert sorted(worker.hear() for worker in waiting) == [2, 3, 4, 5]
    assert len(coordinators(store_path)) == 1
    assert coordinator(store_path) != pid


def test_large_values_that_a_dead_coordinator_left_are_written_anew(engine: Engine, store_path: Path) -> None:
    """Their sync may have failed under it. The system says so once; asked again it would say that all is well."""
    branch = engine.branch("main")
    put(branch, "first", durable=True)

    def commit_large(value: bytes) -> Path:
        ws = branch.fork()
        ws["large"] = value
        ws.commit()
        return blobs.path_of(StorePaths(store_path), blake3(value))

    pid = coordinator(store_path)
    stop(pid)
    left = commit_large(b"left by the dead" * 20_000)
    before = left.stat().st_ino
    os.kill(pid, signal.SIGKILL)
    engine.sync(timeout=30)
    assert left.stat().st_ino != before and branch.head["large"] == b"left by the dead" * 20_000
    later = commit_large(b"of the living" * 30_000)
    before = later.stat().st_ino
    engine.sync(timeout=30)
    assert later.stat().st_ino == before


def test_coordinators_killed_in_a_loop_while_workers_commit_durably(engine: Engine, store_path: Path) -> None:
    branch, each, killed = engine.branch("main"), 25, 0
    put(branch, "first", durable=True)
    chance = random.Random(SEED)
    with workers(3, FORK, branch) as crowd:
        for number, worker in enumerate(crowd):
            worker.tell(put_many, f"{number}", each, True)
        for _ in range(10):
            # At a random commit of the workers, so at a random instant of a round.
            branch.wait(after=(branch.last_commit.sequence or 0) + chance.randrange(3), timeout=1)
            for pid in coordinators(store_path):
                os.kill(pid, signal.SIGKILL)
                killed += 1
        assert all(len(worker.hear()) == each for worker in crowd)
    assert killed >= 3
    engine.sync(timeout=30)
    assert len(branch.head) == 1 + 3 * each
    assert branch.last_commit.sequence == 1 + 3 * each
    check_chain(branch)


# ---- workers ----


def test_slots_of_killed_workers_come_back_and_others_go_on(engine: Engine) -> None:
    branch, chance = engine.branch("main"), random.Random(SEED)
    put(branch, "first")
    stay, told = 400, 0
    with workers(1, FORK, branch) as [survivor]:
        survivor.tell(put_many, "survivor", stay)
        for generation in range(6):
            with workers(3, FORK, branch) as victims:
                for number, victim in enumerate(victims):
                    victim.tell(put_many, f"victim/{generation}/{number}", 100_000)
                begun = branch.last_commit.sequence or 0
                assert branch.wait(after=begun + chance.randrange(1, 200), timeout=30) is not None
                for victim in victims:
                    victim.kill()
            told += 3
            until("the slots of the dead are free", lambda: engine.stats().participants <= 2)
            put(branch, f"after/{generation}", durable=True)
        assert len(survivor.hear()) == stay
        assert engine.stats().participants == 2
        check_chain(branch)
        head = branch.head
        assert len(head.keys("survivor/")) == stay and len(head.keys("after/")) == 6
        # Each victim's commits are there from its first to its last, without a hole.
        for generation in range(6):
            for number in range(3):
                mine = list(head.keys(f"victim/{generation}/{number}/"))
                assert mine == [f"victim/{generation}/{number}/{n:04}" for n in range(len(mine))]
        assert branch.last_commit.sequence == len(head)


def test_chunks_of_killed_workers_come_back(store_path: Path) -> None:
    """In a ring of four chunks, four chunks held by the dead would stop everybody."""
    with helios_shm.open(store_path, l1_bytes=4 << 20) as engine:
        branch = engine.branch("main")
        put(branch, "first")
        for generation in range(8):
            with workers(2, FORK, engine.branch(f"victims/{generation}")) as victims:
                for number, victim in enumerate(victims):
                    victim.tell(put_large, f"{number}", 1000)
                assert engine.branch(f"victims/{generation}").wait(after=4, timeout=30) is not None
                for victim in victims:
                    victim.kill()
            put_large(branch, f"{generation}", 4)
        assert len(branch.head) == 1 + 8 * 4
        engine.sync(timeout=30)
        assert engine.stats().participants == 1


def put_large(branch: Branch, name: str, count: int) -> None:
    ws = branch.fork()
    for turn in range(count):
        ws[f"{name}/{turn:04}"] = os.urandom(100_000)
        ws.commit()


def test_killed_readers_and_waiters_leave_nothing_behind(engine: Engine) -> None:
    branch = engine.branch("main")
    put(branch, "first", durable=True)
    for _ in range(4):
        with workers(3, FORK, branch) as [reader, waiter, syncer]:
            reader.tell(read_for_ever)
            waiter.tell(wait_for_ever)
            syncer.tell(put_many, "durable", 100_000, True)
            begun = branch.last_commit.sequence or 0
            assert branch.wait(after=begun + 3, timeout=30) is not None
            for worker in (reader, waiter, syncer):
                worker.kill()
    until("the slots of the dead are free", lambda: engine.stats().participants == 1)
    engine.sync(timeout=30)
    check_chain(branch)


def read_for_ever(branch: Branch) -> None:
    while True:
        dict(branch.head)
        list(branch.log(5))
        branch.engine.branches()


def wait_for_ever(branch: Branch) -> None:
    while True:
        branch.wait()


# ---- everything ----

# Its own session: one signal to the group ends it and all its children. Each prints a key when its commit has returned.
POOL = """
import os, sys, helios_shm
path, count = sys.argv[1], int(sys.argv[2])
engine = helios_shm.open(path)
branch = engine.branch("main")
for number in range(count):
    if os.fork() == 0:
        turn = 0
        while True:
            key = f"{os.getpid()}/{turn:06}"
            ws = branch.fork()
            ws[key] = b"v"
            sequence = ws.commit(durable=turn % 10 == 9).sequence
            os.write(1, f"{sequence} {key}\\n".encode())
            turn += 1
while True:
    os.wait()
"""


def kill_everything(program: subprocess.Popen[str], path: Path) -> list[str]:
    """The whole group and the coordinator at once; returns the lines it had printed."""
    assert program.stdout is not None
    pids = [process.pid for process in psutil.Process(program.pid).children(recursive=True)]
    for pid in coordinators(path):
        os.kill(pid, signal.SIGKILL)
    os.killpg(program.pid, signal.SIGKILL)
    rest = program.stdout.read()
    program.wait()
    until("all of them are dead", lambda: all(map(is_dead, pids)) and is_uncoordinated(path))
    for stream in (program.stdin, program.stdout, program.stderr):
        assert stream is not None
        stream.close()
    # A line that was cut off was not acknowledged to anybody.
    return rest[: rest.rfind("\n") + 1].splitlines()


def test_everything_killed_at_once_loses_nothing_that_had_been_acknowledged(store_path: Path) -> None:
    acknowledged: dict[str, int] = {}
    for generation in range(4):
        program = start_program(POOL, store_path, 3, start_new_session=True)
        lines = [line_of(program) for _ in range(30 + 40 * generation)]
        lines += kill_everything(program, store_path)
        assert len(segments(store_path)) == 1  # what the dead have left: their last commits are in it
        for line in lines:
            sequence, key = line.split()
            assert key not in acknowledged
            acknowledged[key] = int(sequence)
        with helios_shm.open(store_path) as engine:
            branch = engine.branch("main")
            head = branch.head
            assert set(acknowledged) <= set(head)
            assert len(head) == branch.last_commit.sequence  # each commit added one key: none came twice
            check_chain(branch)
            for key in random.Random(SEED).sample(sorted(acknowledged), 20):
                assert key in branch.at(acknowledged[key]).snapshot
                assert acknowledged[key] == 1 or key not in branch.at(acknowledged[key] - 1).snapshot
            until("the slots of the dead are free", lambda e=engine: e.stats().participants == 1)


def test_a_program_that_is_killed_is_drained_by_its_coordinator(store_path: Path) -> None:
    """Its last commits were not durable when it died; its coordinator lives, writes them, and leaves."""
    program = start_program(POOL, store_path, 1, start_new_session=True)
    lines = [line_of(program) for _ in range(20)]
    os.killpg(program.pid, signal.SIGKILL)
    assert program.stdout is not None
    program.communicate()
    until_nothing_runs(store_path)
    with helios_shm.open(store_path) as engine:
        head = engine.branch("main").head
        assert {line.split()[1] for line in lines} <= set(head)
        check_chain(engine.branch("main"))


def test_a_parent_killed_under_its_pool_leaves_the_children_at_work(store_path: Path) -> None:
    program = start_program(POOL, store_path, 2, start_new_session=True)
    line_of(program)
    try:
        os.kill(program.pid, signal.SIGKILL)
        program.wait()
        with helios_shm.open(store_path) as engine:
            branch = engine.branch("main")
            for _ in range(50):
                assert branch.wait(timeout=30) is not None
            os.killpg(program.pid, signal.SIGKILL)
            until("the slots of the dead are free", lambda: engine.stats().participants == 1)
            check_chain(branch)
    finally:
        os.killpg(program.pid, signal.SIGKILL) if psutil.pid_exists(program.pid) else None
        program.communicate()


def test_killed_amid_opening_and_closing(store_path: Path) -> None:
    """The gate, the slot and the segment of a process that dies between them are nobody's."""
    text = """
import sys, helios_shm
path, turn = sys.argv[1], 0
while True:
    with helios_shm.open(path, l1_bytes=4 << 20) as engine:
        ws = engine.branch("main").fork()
        ws[f"{sys.argv[2]}/{turn:04}"] = b"v"
        ws.commit()
    print(turn, flush=True)
    turn += 1
"""
    chance, least = random.Random(SEED), {}
    for generation in range(6):
        programs = [start_program(text, store_path, f"{generation}/{number}") for number in range(2)]
        for number, program in enumerate(programs):
            for _ in range(chance.randrange(1, 12)):
                least[f"{generation}/{number}"] = int(line_of(program))
        for program in programs:
            program.kill()
            program.communicate()
        with helios_shm.open(store_path) as engine:
            head = engine.branch("main").head
            for name, turn in least.items():
                assert f"{name}/{turn:04}" in head
            check_chain(engine.branch("main"))
            until("the slots of the dead are free", lambda e=engine: e.stats().participants == 1)


def test_threads_that_commit_while_coordinators_are_killed_never_hang(store_path: Path) -> None:
    """A ring that is full needs its coordinator: who waits for room starts another."""
    with helios_shm.open(store_path, l1_bytes=4 << 20) as engine:
        branch, done = engine.branch("main"), threading.Event()

        def kill() -> None:
            for _ in range(10):
                for pid in coordinators(store_path):
                    os.kill(pid, signal.SIGKILL)
                if done.wait(0.2):  # so that some of them get to do something
                    return

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            put_large(branch, "k", 150)
        finally:
            done.set()
            killer.join()
        assert len(branch.head) == 150
        engine.sync(timeout=30)
        check_chain(branch)
