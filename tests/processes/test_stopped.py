"""A stopped process costs at most its own chunk; one that waits for a stopped one learns whom it waits for, and can be
interrupted."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import helios_shm
from helios_shm import Branch, Engine
from tests.processes.rig import Worker, coordinator, finish, line_of, resume, start_program, stop, workers

FORK = multiprocessing.get_context("fork")


def put(branch: Branch, key: str, durable: bool = False) -> int:
    ws = branch.fork()
    ws[key] = b"v"
    return ws.commit(durable=durable).sequence or 0


def put_many(branch: Branch, name: str, count: int) -> int:
    for turn in range(count):
        put(branch, f"{name}/{turn:04}")
    return count


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    stop(pid)
    try:
        yield
    finally:
        resume(pid)


# ---- a worker ----


def test_others_commit_read_and_sync_while_a_worker_is_stopped_amid_commits(engine: Engine) -> None:
    branch, count = engine.branch("main"), 2000
    with workers(2, FORK, branch) as [victim, other]:
        victim.tell(put_many, "victim", count)
        for turn in range(4):
            assert branch.wait(after=200 * turn + 40 * turn, timeout=30) is not None
            with stopped(victim.pid):
                before = len(branch.head.keys("victim/"))
                assert other.ask(put_many, f"other/{turn}", 40) == 40
                put(branch, f"mine/{turn}", durable=True)
                engine.sync(timeout=30)
                assert len(branch.head.keys(f"other/{turn}/")) == 40
                assert len(branch.head.keys("victim/")) == before
        assert victim.hear() == count
        head = branch.head
        assert [len(head.keys(who)) for who in ("victim/", "other/", "mine/")] == [count, 160, 4]
        assert branch.last_commit.sequence == count + 164
        assert engine.stats().participants == 3


def test_a_stopped_workers_chunk_does_not_keep_a_small_ring_from_going_round(store_path: Path) -> None:
    with helios_shm.open(store_path, l1_bytes=4 << 20) as engine:
        branch = engine.branch("main")
        with workers(1, FORK, engine.branch("victim")) as [victim]:
            victim.tell(put_many, "k", 3000)
            assert engine.branch("victim").wait(after=100, timeout=30) is not None
            with stopped(victim.pid):
                for turn in range(12):  # three times the ring
                    ws = branch.fork()
                    for part in range(50):
                        ws[f"{turn}/{part}"] = os.urandom(20_000)
                    ws.commit()
            assert victim.hear() == 3000
        assert len(branch.head) == 600
        assert len(engine.branch("victim").head) == 3000


# ---- the coordinator ----


def test_commits_and_reads_go_on_while_the_coordinator_is_stopped(engine: Engine, store_path: Path) -> None:
    branch = engine.branch("main")
    put(branch, "before", durable=True)
    pid = coordinator(store_path)
    with workers(1, FORK, branch) as [worker], stopped(pid):
        put_many(branch, "mine", 100)
        assert worker.ask(put_many, "worker", 100) == 100
        assert len(branch.head) == 201
        assert branch.at(1).snapshot["before"] == b"v"
        with pytest.raises(helios_shm.BusyError, match=f"coordinator {pid}") as caught:
            engine.sync(timeout=0.3)
        assert caught.value.commit is None
    engine.sync(timeout=30)
    assert coordinator(store_path) == pid
    assert engine.stats().unpersisted_bytes == 0


def test_a_store_opens_and_commits_while_its_coordinator_is_stopped(store_path: Path, engine: Engine) -> None:
    put(engine.branch("main"), "a", durable=True)
    with stopped(coordinator(store_path)):
        program = start_program(
            """
import sys, helios_shm
engine = helios_shm.open(sys.argv[1])
ws = engine.branch("main").fork()
ws["b"] = b"2"
print(ws.commit().sequence)
engine.close(sync=False)
""",
            store_path,
        )
        assert finish(program).strip() == "2"
        assert list(engine.branch("main").head) == ["a", "b"]
    engine.sync(timeout=30)


def test_opening_past_one_who_is_stopped_amid_it_gives_up_and_names_the_gate(
    store_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one wait for another process that there is: it ends, and those who are in the store notice nothing of it."""
    from helios_shm import config

    monkeypatch.setattr(config, "OPEN_DEADLINE", 0.2)
    branch = engine.branch("main")
    with workers(1, multiprocessing.get_context("spawn"), store_path) as [holder]:
        holder.tell(hold_the_gate)
        assert branch.wait(after=0, timeout=30) is not None
        with stopped(holder.pid):
            with pytest.raises(helios_shm.BusyError, match="gate"):
                open_anew(store_path)
            put(branch, "meanwhile", durable=True)
        holder.kill()
        assert list(branch.head) == ["in the gate", "meanwhile"]
        assert open_anew(store_path) >= 2


def hold_the_gate(path: Path) -> None:
    from helios_shm import lifecycle

    engine = helios_shm.open(path)
    with lifecycle.gate(lifecycle.StorePaths.of(path)):
        put(engine.branch("main"), "in the gate")
        signal.pause()


def open_anew(path: Path) -> int:
    """As another process would: beside the engine that this one has."""
    from helios_shm.attachment import Attachment
    from helios_shm.lifecycle import StorePaths

    attachment = Attachment(StorePaths.of(path), readonly=False, l1_bytes=None)
    try:
        return int(attachment.stats().participants)
    finally:
        attachment.close()


BLOCKING: dict[str, str] = {
    "sync": "engine.sync()",
    "durable commit": "ws = branch.fork(); ws['late'] = b'1'; ws.commit(durable=True)",
    "wait": "branch.wait()",
    "close": "engine.close()",
}


@pytest.mark.parametrize("call", BLOCKING)
def test_ctrl_c_gets_through_a_blocked_call(store_path: Path, engine: Engine, call: str) -> None:
    put(engine.branch("main"), "a", durable=True)
    with stopped(coordinator(store_path)):
        program = start_program(
            f"""
import sys, helios_shm
engine = helios_shm.open(sys.argv[1])
branch = engine.branch("main")
ws = branch.fork(); ws["b"] = b"2"; ws.commit()
try:
    print("blocking", flush=True)
    {BLOCKING[call]}
except KeyboardInterrupt:
    print(list(branch.head) if {call != "close"} else "closing")
    engine.close(sync=False)
""",
            store_path,
        )
        assert line_of(program) == "blocking"
        if call == "durable commit":
            assert engine.branch("main").wait(after=2, timeout=30) is not None
        program.send_signal(signal.SIGINT)
        expected = {"durable commit": "['a', 'b', 'late']", "close": "closing"}.get(call, "['a', 'b']")
        assert finish(program).strip() == expected
    engine.sync(timeout=30)


def test_a_durable_commit_that_is_late_happened(
    store_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from helios_shm import config

    branch = engine.branch("main")
    put(branch, "a", durable=True)
    monkeypatch.setattr(config, "DURABLE_DEADLINE", 0.2)
    with stopped(coordinator(store_path)):
        with pytest.raises(helios_shm.BusyError) as caught:
            put(branch, "b", durable=True)
        late = caught.value.commit
        assert late is not None and late.sequence == 2
        assert branch.head == late.snapshot
    engine.sync(timeout=30)
    assert list(branch.head) == ["a", "b"] and branch.last_commit.sequence == 2


def test_close_gives_up_when_nothing_becomes_durable_and_loses_nothing(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from helios_shm import config

    engine = helios_shm.open(store_path)
    put(engine.branch("main"), "a", durable=True)
    monkeypatch.setattr(config, "DURABLE_DEADLINE", 0.2)
    with stopped(coordinator(store_path)):
        put(engine.branch("main"), "b")
        with pytest.raises(helios_shm.BusyError):
            engine.close()
        with pytest.raises(helios_shm.ClosedError):
            engine.branch("main")
    with helios_shm.open(store_path) as engine:
        assert list(engine.branch("main").head) == ["a", "b"]


def test_who_waits_for_durability_is_woken_when_the_coordinator_goes_on(
    store_path: Path, engine: Engine
) -> None:
    put(engine.branch("main"), "a", durable=True)
    pid = coordinator(store_path)
    with workers(3, FORK, engine.branch("main")) as waiting:
        with stopped(pid):
            for number, worker in enumerate(waiting):
                worker.tell(put, f"late/{number}", True)
            assert engine.branch("main").wait(after=3, timeout=30) is not None
        assert sorted(worker.hear() for worker in waiting) == [2, 3, 4]


# ---- all of it, at random ----


def test_stops_at_random_lose_nothing_and_block_nobody(store_path: Path, engine: Engine) -> None:
    branch, count = engine.branch("main"), 400
    names = ["a", "b", "c"]
    with workers(len(names), FORK, branch) as crowd:
        for name, worker in zip(names, crowd, strict=True):
            worker.tell(put_many, name, count)
        done = threading.Event()
        thread = threading.Thread(target=stop_each_in_turn, args=(crowd, done, store_path))
        thread.start()
        try:
            assert [worker.hear() for worker in crowd] == [count] * len(names)
        finally:
            done.set()
            thread.join()
    assert [len(branch.head.keys(name)) for name in names] == [count] * len(names)
    assert branch.last_commit.sequence == count * len(names)


def stop_each_in_turn(crowd: list[Worker], done: threading.Event, path: Path) -> None:
    pids: list[Callable[[], int]] = [lambda worker=worker: worker.pid for worker in crowd]  # type: ignore[misc]
    pids.append(lambda: coordinator(path))
    turn = 0
    while not done.is_set():
        pid = pids[turn % len(pids)]()
        stop(pid)
        resume(pid)
        turn += 1
