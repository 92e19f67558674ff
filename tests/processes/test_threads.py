"""Engine, Branch and Snapshot in many threads, up to a close while all of them are inside."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import helios_shm
from helios_shm import Branch, Engine


def put(branch: Branch, key: str, value: bytes = b"v") -> int:
    ws = branch.fork()
    ws[key] = value
    return ws.commit().sequence or 0


def in_threads(*targets: Callable[[], None]) -> list[BaseException]:
    """Run them all at once; the exceptions they ended with."""
    ended: list[BaseException] = []
    begin = threading.Barrier(len(targets))

    def run(target: Callable[[], None]) -> None:
        begin.wait()
        try:
            target()
        except BaseException as error:
            ended.append(error)

    threads = [threading.Thread(target=run, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ended


def test_threads_commit_to_own_branches_and_to_one_while_others_read(engine: Engine) -> None:
    count, each = 8, 60
    shared = engine.branch("shared")
    put(shared, "first")
    left = threading.Semaphore(0)
    done = threading.Event()

    def writer(number: int) -> Callable[[], None]:
        def run() -> None:
            own = engine.branch(f"own/{number}")
            for turn in range(each):
                put(shared, f"{number}/{turn:02}")
                assert put(own, f"{turn:02}") == turn + 1
            left.release()

        return run

    def reader() -> None:
        seen = 0
        while not done.is_set():
            head = shared.head
            keys = list(head)
            assert len(keys) == len(head) >= seen
            seen = len(keys)
            assert all(head[key] == b"v" for key in keys[-3:])

    def finisher() -> None:
        for _ in range(count):
            left.acquire()
        done.set()

    assert in_threads(*map(writer, range(count)), reader, reader, finisher) == []
    assert len(shared.head) == 1 + count * each == shared.last_commit.sequence
    for number in range(count):
        assert list(engine.branch(f"own/{number}").head) == [f"{turn:02}" for turn in range(each)]


def test_one_handle_counts_exactly_in_threads(engine: Engine) -> None:
    branch, each = engine.branch("main"), 50

    def run() -> None:
        gained = 0
        while gained < each:
            ws = branch.fork()
            ws["n"] = b"%d" % (int(ws.get("n", b"0")) + 1)
            try:
                ws.commit()
                gained += 1
            except helios_shm.ConflictError as error:
                assert error.keys == ("n",)

    assert in_threads(*[run] * 4) == []
    assert branch.head["n"] == b"200"


USES: dict[str, Callable[[Engine, Branch], object]] = {
    "commit": lambda engine, branch: put(branch, "k", threading.current_thread().name.encode()),
    "commit durably": lambda engine, branch: put_durably(branch),
    "read": lambda engine, branch: dict(branch.head),
    "scan": lambda engine, branch: [len(value) for value in branch.head.values()],
    "read the log": lambda engine, branch: list(branch.log(5)),
    "read the disk": lambda engine, branch: (engine.branches(), branch.at(1)),
    "sync": lambda engine, branch: engine.sync(),
    "wait": lambda engine, branch: branch.wait(timeout=0.01),
    "stats": lambda engine, branch: engine.stats(),
}


def put_durably(branch: Branch) -> None:
    ws = branch.fork()
    ws["durable"] = b"1"
    ws.commit("said", durable=True)


@pytest.mark.parametrize("use", USES)
def test_close_while_threads_are_inside_ends_them_with_closed_error(store_path: Path, use: str) -> None:
    """Whatever the threads are doing in the core: its memory goes only when the last of them has come out."""
    for _ in range(4):
        engine = helios_shm.open(store_path, l1_bytes=4 << 20)
        branch = engine.branch("main")
        put(branch, "first")
        inside = threading.Barrier(4)

        def run(engine: Engine = engine, branch: Branch = branch, inside: threading.Barrier = inside) -> None:
            with contextlib.suppress(helios_shm.ConflictError):
                USES[use](engine, branch)
            inside.wait()
            while True:
                try:
                    USES[use](engine, branch)
                except helios_shm.ConflictError:
                    continue
                except helios_shm.BusyError as late:
                    # The close came between the head's move and its durability: not to be repeated, and not undone.
                    assert late.commit is not None

        def close(engine: Engine = engine, inside: threading.Barrier = inside) -> None:
            inside.wait()
            engine.close()

        ended = in_threads(run, run, run, close)
        assert [type(error) for error in ended] == [helios_shm.ClosedError] * 3, ended


def test_two_threads_close_one_engine(store_path: Path) -> None:
    for _ in range(5):
        engine = helios_shm.open(store_path, l1_bytes=4 << 20)
        put(engine.branch("main"), "k")
        assert in_threads(engine.close, engine.close, engine.close) == []


def test_wait_wakes_a_thread_for_each_commit_of_another(engine: Engine) -> None:
    branch = engine.branch("main")
    ping, pong = engine.branch("ping"), engine.branch("pong")
    rounds = 50

    def serve() -> None:
        for turn in range(rounds):
            commit = ping.wait(after=turn, timeout=30)
            assert commit is not None and commit.sequence == turn + 1
            put(pong, f"{turn}")

    def play() -> None:
        for turn in range(rounds):
            put(ping, f"{turn}")
            commit = pong.wait(after=turn, timeout=30)
            assert commit is not None and commit.sequence == turn + 1

    assert in_threads(serve, play) == []
    assert branch.wait(after=0, timeout=0.01) is None
