"""What a fork does to handles that are inherited: nothing that anybody notices, at whatever instant it happens."""

import multiprocessing
import os
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import helios_shm
from helios_shm import Branch, Engine, Snapshot
from tests.processes.rig import Worker, until, until_nothing_runs, workers

FORK = multiprocessing.get_context("fork")


def put(branch: Branch, key: str) -> int:
    ws = branch.fork()
    ws[key] = key.encode()
    return ws.commit().sequence or 0


def read(branch: Branch) -> dict[str, bytes]:
    return dict(branch.head)


def in_child(function: object, *arguments: object) -> int:
    """Fork, call, leave without any cleaning up; the exit status says whether the call came back."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function(*arguments)  # type: ignore[operator]
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextmanager
def threads_running(target: object, count: int) -> Iterator[None]:
    """So many threads in ``target(number, stop)`` until the block is left; their exceptions come out here."""
    stop, failures = threading.Event(), []

    def run(number: int) -> None:
        try:
            target(number, stop)  # type: ignore[operator]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures, failures


# ---- at any instant ----


def test_children_forked_amid_commits_of_other_threads_read_and_commit(engine: Engine) -> None:
    """A lock that a thread held at the fork is nobody's in the child: it must not be met there."""
    shared, rounds = engine.branch("shared"), 25
    committed = [0, 0, 0]

    def commit_on(number: int, stop: threading.Event) -> None:
        own = engine.branch(f"thread/{number}")
        while not stop.is_set():
            put(own if committed[number] % 2 else shared, f"thread/{number}/{committed[number]}")
            committed[number] += 1

    def child(turn: int, known: tuple[int, ...]) -> None:
        put(shared, f"child/{turn}")
        head = shared.head
        assert head[f"child/{turn}"]
        for number, count in enumerate(known):
            for step in range(max(0, count - 5), count):
                of = head if step % 2 == 0 else engine.branch(f"thread/{number}").head
                assert f"thread/{number}/{step}" in of

    with threads_running(commit_on, 3):
        for turn in range(rounds):
            assert in_child(child, turn, tuple(committed)) == 0
    head = shared.head
    assert [key for key in head if key.startswith("child/")] == sorted(f"child/{n}" for n in range(rounds))
    for number, count in enumerate(committed):
        assert len(head.keys(f"thread/{number}/")) == (count + 1) // 2
        assert len(engine.branch(f"thread/{number}").head) == count // 2
    assert shared.last_commit.sequence == len(head)


def test_children_forked_amid_durable_commits_and_reads_of_l2(engine: Engine) -> None:
    """A fork in the middle of a read transaction or of a wait leaves both sides able to read and to wait."""
    branch = engine.branch("main")
    put(branch, "first")
    engine.sync()

    def wait_for_disk(number: int, stop: threading.Event) -> None:
        while not stop.is_set():
            ws = engine.branch(f"thread/{number}").fork()
            ws["n"] = os.urandom(8)
            ws.commit(durable=True)

    def read_disk(number: int, stop: threading.Event) -> None:
        while not stop.is_set():
            assert "main" in engine.branches()
            assert branch.at(1).snapshot["first"] == b"first"

    def child(turn: int) -> None:
        assert branch.at(1).snapshot["first"] == b"first"
        ws = branch.fork()
        ws[f"child/{turn}"] = b"1"
        ws.commit(durable=True)
        assert len(engine.branches()) >= 1

    with threads_running(wait_for_disk, 2), threads_running(read_disk, 2):
        for turn in range(20):
            assert in_child(child, turn) == 0
    assert len(branch.head) == 21
    assert len(branch.at(11).snapshot) == 11


def test_children_forked_while_other_threads_open_and_close(store_path: Path, tmp_path: Path) -> None:
    def open_and_close(number: int, stop: threading.Event) -> None:
        while not stop.is_set():
            with helios_shm.open(tmp_path / f"other/{number}", l1_bytes=4 << 20) as other:
                put(other.branch("main"), "k")

    with helios_shm.open(store_path) as engine:
        branch = engine.branch("main")
        with threads_running(open_and_close, 2):
            for turn in range(8):
                assert in_child(put, branch, f"child/{turn}") == 0
        assert len(branch.head) == 8


# ---- inheritance ----


def test_handles_inherited_through_three_forks(engine: Engine) -> None:
    branch = engine.branch("main")
    put(branch, "parent")

    def great_grandchild() -> None:
        assert put(branch, "great-grandchild") == 4

    def grandchild() -> None:
        assert put(branch, "grandchild") == 3
        assert in_child(great_grandchild) == 0

    def child() -> None:  # never used what it inherited when it forked
        assert in_child(grandchild) == 0
        assert list(branch.head) == ["grandchild", "great-grandchild", "parent", "unused"]

    put(branch, "unused")
    assert in_child(child) == 0
    assert put(branch, "parent again") == 5
    assert len(branch.head) == 5


def test_inherited_workspaces_are_independent(engine: Engine) -> None:
    branch = engine.branch("main")
    ws = branch.fork()
    ws["edited before the fork"] = b"both"

    def child() -> None:
        ws["of the child"] = b"1"
        ws["edited before the fork"] = b"child"
        ws.commit()

    assert in_child(child) == 0
    assert dict(branch.head) == {"edited before the fork": b"child", "of the child": b"1"}
    assert dict(ws.edits) == {"edited before the fork": b"both"}
    assert "of the child" not in ws


def test_child_that_never_touches_its_handles_takes_no_slot_and_harms_nothing(engine: Engine) -> None:
    branch = engine.branch("main")
    put(branch, "a")
    with workers(2, FORK, branch) as idle:
        assert idle[0].ask(participants) == 2  # itself and the parent; looking takes part
        assert engine.stats().participants == 2
    assert put(branch, "b") == 2


def participants(branch: Branch) -> int:
    return branch.engine.stats().participants


def test_close_in_a_child_leaves_the_parents_engine_open(engine: Engine) -> None:
    branch = engine.branch("main")
    put(branch, "a")

    def close_unused() -> None:
        engine.close()

    def close_used() -> None:
        put(branch, "b")
        engine.close()

    assert in_child(close_unused) == 0
    assert in_child(close_used) == 0
    assert put(branch, "c") == 3
    engine.sync()
    assert list(engine.branch("main").at(3).snapshot) == ["a", "b", "c"]


def test_ordinary_exit_of_a_child_leaves_the_parents_engine_open(engine: Engine) -> None:
    """Destructors that run in the child must know that nothing there is theirs."""
    branch = engine.branch("main")
    put(branch, "a")
    for _ in range(3):
        child = FORK.Process(target=put_and_forget, args=(engine, branch))
        child.start()
        child.join()
        assert child.exitcode == 0
    assert put(branch, "z") == 5


def put_and_forget(engine: Engine, branch: Branch) -> None:
    import gc

    put(branch, f"child {os.getpid()}")
    del engine, branch
    gc.collect()


def test_open_in_a_child_shares_what_was_inherited(engine: Engine) -> None:
    branch = engine.branch("main")
    put(branch, "a")

    def child() -> None:
        with helios_shm.open(engine.path) as mine:
            assert list(mine.branch("main").head) == ["a"]
            put(mine.branch("main"), "b")
        put(branch, "c")  # the inherited engine is still open

    assert in_child(child) == 0
    assert list(branch.head) == ["a", "b", "c"]


def test_open_in_a_child_of_a_process_that_closed(store_path: Path) -> None:
    with helios_shm.open(store_path) as engine:
        put(engine.branch("main"), "a")

    def child() -> None:
        with helios_shm.open(store_path) as mine:
            put(mine.branch("main"), "b")

    assert in_child(child) == 0
    with helios_shm.open(store_path) as engine:
        assert list(engine.branch("main").head) == ["a", "b"]


def test_threads_of_a_child_that_first_use_inherited_handles_at_once(engine: Engine) -> None:
    branch = engine.branch("main")
    put(branch, "a")
    engine.sync()

    def child() -> None:
        begin = threading.Barrier(6)

        def use(number: int, _stop: threading.Event) -> None:
            begin.wait()
            (put(branch, f"child/{number}"), branch.at(1), engine.branches(), engine.stats())

        with threads_running(use, 6):
            pass
        # One slot for all of them; that of the child before is free as soon as it is found dead.
        until("parent and child have a slot each", lambda: engine.stats().participants == 2)

    for _ in range(3):
        assert in_child(child) == 0
        assert len(branch.head) == 7


# ---- a segment that has gone ----


def test_inherited_branch_that_first_works_in_another_segment_sees_the_newest_commit(
    store_path: Path,
) -> None:
    """A branch's word in a new segment may equal its word in the one before: what was known of that word is void.

    The parent opens a store, looks at the head and forks; another process commits; everybody leaves, and the segment
    with them. The child, looking at last, meets in a new segment the very word that the parent had seen.
    """
    with helios_shm.open(store_path) as engine:
        put(engine.branch("main"), "old")
    until_nothing_runs(store_path)

    engine = helios_shm.open(store_path)
    branch = engine.branch("main")
    assert list(branch.head) == ["old"]
    with workers(1, FORK, branch) as [child]:
        put(engine.branch("main"), "new")
        engine.close()
        until_nothing_runs(store_path)
        assert list(child.ask(read)) == ["new", "old"]
        assert child.ask(put, "newest") == 3


def test_inherited_branch_whose_commits_have_the_same_places_in_another_segment(store_path: Path) -> None:
    """The first record of a segment always stands at the same place: two segments, one word, two heads."""
    engine = helios_shm.open(store_path, l1_bytes=4 << 20)
    branch = engine.branch("main")
    put(branch, "1")
    assert list(branch.head) == ["1"]
    with workers(1, FORK, branch) as [child]:
        engine.close()
        until_nothing_runs(store_path)
        with helios_shm.open(store_path, l1_bytes=4 << 20) as again:
            put(again.branch("main"), "2")
            assert list(child.ask(read)) == ["1", "2"]
            assert child.ask(put, "3") == 3
            assert list(again.branch("main").head) == ["1", "2", "3"]


def test_inherited_snapshot_is_readable_after_its_segment_has_gone(store_path: Path) -> None:
    engine = helios_shm.open(store_path)
    ws = engine.branch("main").fork()
    for n in range(500):
        ws[f"key/{n:03}"] = b"%d" % n * 50
    snapshot = ws.commit().snapshot
    with workers(1, FORK, snapshot) as [child]:
        engine.close()
        until_nothing_runs(store_path)
        assert child.ask(values) == {f"key/{n:03}": b"%d" % n * 50 for n in range(500)}


def values(snapshot: Snapshot) -> dict[str, bytes]:
    return dict(snapshot)


def test_grandchild_goes_on_after_its_parent_has_closed(store_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with workers(1, context, store_path) as [child]:
        assert child.ask(grandchild_commits_after_the_childs_close) == ["child", "grandchild"]


def grandchild_commits_after_the_childs_close(path: Path) -> list[str]:
    engine = helios_shm.open(path)
    branch = engine.branch("main")
    put(branch, "child")
    grandchild = Worker(FORK, branch)
    engine.close()
    grandchild.ask(put, "grandchild")
    found = list(grandchild.ask(read))
    grandchild.end()
    return found
