"""Who opens one store at once: programs, processes and engines, while it and its segment come and go."""

import multiprocessing
import pickle
import shutil
import subprocess
import sys
import threading
from itertools import chain
from pathlib import Path

import pytest

import helios_shm
from helios_shm import Branch, Engine
from tests.processes.rig import (
    coordinators,
    finish,
    is_uncoordinated,
    line_of,
    segments,
    start_program,
    until,
    until_nothing_runs,
    workers,
)

FORK = multiprocessing.get_context("fork")

# Says that it is there, waits for the word to go, opens, commits its key, and says which sequence that was.
ONE_KEY = """
import sys, helios_shm
path, key = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
with helios_shm.open(path) as engine:
    ws = engine.branch("main").fork()
    ws[key] = key.encode()
    print(ws.commit().sequence, flush=True)
"""


def put(branch: Branch, key: str) -> int:
    ws = branch.fork()
    ws[key] = key.encode()
    return ws.commit().sequence or 0


def run_at_once(path: Path, keys: list[str]) -> list[int]:
    """A program for each key, all let go together; the sequences of their commits."""
    programs = [start_program(ONE_KEY, path, key) for key in keys]
    for program in programs:
        assert line_of(program) == "ready"
    for program in programs:
        assert program.stdin is not None
        program.stdin.write("go\n")
        program.stdin.flush()
    return [int(finish(program)) for program in programs]


def test_unrelated_programs_that_make_one_store_at_the_same_instant(store_path: Path) -> None:
    keys = [f"key/{n}" for n in range(8)]
    assert sorted(run_at_once(store_path, keys)) == list(range(1, 9))
    with helios_shm.open(store_path) as engine:
        assert list(engine.branch("main").head) == keys
        assert [commit.sequence for commit in engine.branch("main").log()] == list(range(8, 0, -1))
    assert [path.name for path in store_path.parent.iterdir()] == ["store"]


def test_unrelated_programs_that_make_one_segment_at_the_same_instant(store_path: Path) -> None:
    with helios_shm.open(store_path) as engine:
        put(engine.branch("main"), "first")
    until_nothing_runs(store_path)
    keys = [f"key/{n}" for n in range(6)]
    assert sorted(run_at_once(store_path, keys)) == list(range(2, 8))
    with helios_shm.open(store_path) as engine:
        assert list(engine.branch("main").head) == ["first", *keys]
        assert len(segments(store_path)) == 1 == len(coordinators(store_path))


def open_commit_close(path: Path, name: str, turns: int) -> list[int]:
    sequences = []
    for turn in range(turns):
        with helios_shm.open(path, l1_bytes=4 << 20) as engine:
            sequences.append(put(engine.branch("main"), f"{name}/{turn}"))
    return sequences


def test_processes_that_open_and_close_in_a_tight_loop(store_path: Path) -> None:
    turns = 25
    with workers(4, FORK, store_path) as crowd:
        for number, worker in enumerate(crowd):
            worker.tell(open_commit_close, str(number), turns)
        sequences = [worker.hear() for worker in crowd]
    assert all(mine == sorted(mine) for mine in sequences)
    assert sorted(chain(*sequences)) == list(range(1, 4 * turns + 1))
    with helios_shm.open(store_path) as engine:
        assert len(engine.branch("main").head) == 4 * turns
        assert engine.stats().participants == 1


def test_segments_that_come_and_go_between_two_processes(store_path: Path) -> None:
    """Each opening meets the segment just there, just going or just gone; nothing is lost or repeated."""
    with workers(2, FORK, store_path) as [one, other]:
        for turn in range(4):
            one.tell(open_commit_close, f"one/{turn}", 1)
            other.tell(open_commit_close, f"other/{turn}", 1)
            assert sorted(one.hear() + other.hear()) == [2 * turn + 1, 2 * turn + 2]
            if turn % 2:
                until(f"the segment of {store_path} is gone", lambda: not segments(store_path))
    until_nothing_runs(store_path)
    with helios_shm.open(store_path) as engine:
        assert engine.branch("main").last_commit.sequence == 8 == len(engine.branch("main").head)


# ---- a crowd ----


def arrive(path: Path, key: str) -> int:
    global _engine
    _engine = helios_shm.open(path)
    return put(_engine.branch("main"), key)


def depart(_path: Path) -> None:
    _engine.close()


_engine: Engine


def test_a_crowd_takes_a_slot_each_and_gives_them_all_back(store_path: Path) -> None:
    count = 32
    with workers(count, FORK, store_path) as crowd, helios_shm.open(store_path) as engine:
        for number, worker in enumerate(crowd):
            worker.tell(arrive, f"{number:02}")
        assert sorted(worker.hear() for worker in crowd) == list(range(1, count + 1))
        assert engine.stats().participants == count + 1
        for worker in crowd[:20]:
            worker.ask(depart)
        assert engine.stats().participants == count + 1 - 20
        for worker in crowd[20:]:
            worker.kill()
        until("the slots of the dead are free", lambda: engine.stats().participants == 1)
        assert len(engine.branch("main").head) == count


# ---- one process, several engines ----


def test_a_store_opened_twice_in_a_process_is_closed_by_the_second_close(store_path: Path) -> None:
    first, second = helios_shm.open(store_path), helios_shm.open(store_path)
    branch = first.branch("main")
    put(branch, "a")
    assert second.stats().participants == 1
    first.close()
    first.close()
    with pytest.raises(helios_shm.ClosedError):
        first.branch("main")
    assert put(second.branch("main"), "b") == 2
    assert list(branch.head) == ["a", "b"]
    second.close()
    with pytest.raises(helios_shm.ClosedError):
        branch.head  # noqa: B018


def test_a_process_that_reads_only_and_writes_the_same_store(store_path: Path) -> None:
    with helios_shm.open(store_path) as writing:
        put(writing.branch("main"), "a")
        with helios_shm.open(store_path, readonly=True) as reading:
            assert list(reading.branch("main").head) == ["a"]
            put(writing.branch("main"), "b")
            assert list(reading.branch("main").head) == ["a", "b"]
            with pytest.raises(helios_shm.ReadOnlyError):
                put(reading.branch("main"), "c")
            writing.sync()
            assert reading.branch("main").at(1).snapshot["a"] == b"a"
        assert put(writing.branch("main"), "c") == 3


def test_threads_that_open_and_close_one_store_share_it(store_path: Path) -> None:
    """Who opens while the last of the others closes gets an engine that is open."""
    turns, failures = 40, []

    def run(number: int) -> None:
        try:
            for turn in range(turns):
                with helios_shm.open(store_path, l1_bytes=4 << 20) as engine:
                    put(engine.branch("main"), f"{number}/{turn}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    with helios_shm.open(store_path) as engine:
        assert engine.branch("main").last_commit.sequence == 3 * turns == len(engine.branch("main").head)


# ---- a segment after another ----


def test_a_log_does_not_follow_words_of_a_segment_that_has_gone(store_path: Path) -> None:
    """A record that only the disk has names its parent by a word; in the next segment another branch's record stands
    there, and the log went on with that one."""
    with helios_shm.open(store_path, l1_bytes=4 << 20) as engine:
        for key in ("a", "b", "c"):
            put(engine.branch("main"), key)
    for turn in range(3):
        until_nothing_runs(store_path)
        with helios_shm.open(store_path, l1_bytes=4 << 20) as engine:
            for number in range(turn + 1):
                put(engine.branch("othr"), f"{turn}/{number}")
            found = [(commit.branch, commit.sequence) for commit in engine.branch("main").log()]
            assert found == [("main", 3), ("main", 2), ("main", 1)]
            assert list(engine.branch("main").at(2).snapshot) == ["a", "b"]


# ---- a store under another name ----


def test_a_store_that_was_moved_while_closed_opens_under_its_new_path(
    store_path: Path, tmp_path: Path
) -> None:
    with helios_shm.open(store_path) as engine:
        put(engine.branch("main"), "a")
    moved = tmp_path / "moved" / "deeper"
    moved.parent.mkdir()
    until_nothing_runs(store_path)
    store_path.rename(moved)
    with helios_shm.open(moved) as engine:
        assert engine.path == moved
        assert put(engine.branch("main"), "b") == 2
    with pytest.raises(helios_shm.NotFoundError):
        helios_shm.open(store_path, create=False)


def test_a_store_that_was_moved_before_its_coordinator_had_left(store_path: Path, tmp_path: Path) -> None:
    """The coordinator of the old path may linger; whoever opens the new one needs nothing of the old path."""
    with helios_shm.open(store_path) as engine:
        put(engine.branch("main"), "a")
    moved = tmp_path / "moved"
    store_path.rename(moved)
    with helios_shm.open(moved) as engine:
        assert list(engine.branch("main").head) == ["a"]
        ws = engine.branch("main").fork()
        ws["b"] = b"2"
        assert ws.commit(durable=True).sequence == 2
    until_nothing_runs(moved)
    until(f"the coordinator of {store_path} is gone", lambda: is_uncoordinated(store_path))
    with helios_shm.open(moved) as engine:
        assert list(engine.branch("main").head) == ["a", "b"]
    assert not store_path.exists()


def test_a_copy_does_not_meet_the_segment_of_its_original(store_path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with helios_shm.open(store_path) as engine:
        put(engine.branch("main"), "both")
        engine.sync()
        shutil.copytree(store_path, copy)
        put(engine.branch("main"), "of the original")
        program = subprocess.run(
            [sys.executable, "-c", ONE_KEY, str(copy), "of the copy"],
            input="go\n", capture_output=True, text=True,
        )  # fmt: skip
        assert program.stdout.split() == ["ready", "2"], program.stderr
        with helios_shm.open(copy) as copied:
            assert list(copied.branch("main").head) == ["both", "of the copy"]
            assert len(segments(store_path)) == 2
            put(copied.branch("main"), "more")
            for store in (engine, copied):  # both of one uuid
                assert pickle.loads(pickle.dumps(store.branch("main"))).engine.path == store.path
        assert list(engine.branch("main").head) == ["both", "of the original"]
    until_nothing_runs(store_path)
    until_nothing_runs(copy)
