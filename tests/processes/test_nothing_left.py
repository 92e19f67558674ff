"""When the last process has left a store, soon no process and no segment of it is there, whatever ended that one."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

import helios_shm
from tests.processes.rig import (
    coordinator,
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


def put(path: Path, key: str) -> None:
    with helios_shm.open(path) as engine:
        ws = engine.branch("main").fork()
        ws[key] = b"v"
        ws.commit()


def test_store_that_was_closed(store_path: Path) -> None:
    put(store_path, "a")
    until_nothing_runs(store_path)
    assert sorted(path.name for path in store_path.parent.iterdir()) == ["store"]


def test_store_that_many_processes_used(store_path: Path) -> None:
    with workers(4, FORK, store_path) as crowd:
        for number, worker in enumerate(crowd):
            worker.tell(put, f"{number}")
        for worker in crowd:
            worker.hear()
    until_nothing_runs(store_path)


def test_store_whose_program_never_closed_it(store_path: Path) -> None:
    program = start_program(
        """
import sys, helios_shm
engine = helios_shm.open(sys.argv[1])
ws = engine.branch("main").fork()
ws["a"] = b"1"
ws.commit()
""",
        store_path,
    )
    finish(program)
    until_nothing_runs(store_path)
    with helios_shm.open(store_path) as engine:
        assert list(engine.branch("main").head) == ["a"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_store_whose_only_program_was_ended_by_a_signal(store_path: Path, number: signal.Signals) -> None:
    program = start_program(
        """
import signal, sys, helios_shm
engine = helios_shm.open(sys.argv[1])
ws = engine.branch("main").fork()
ws["a"] = b"1"
ws.commit()
print("committed", flush=True)
signal.pause()
""",
        store_path,
    )
    assert line_of(program) == "committed"
    program.send_signal(number)
    finish(program, -number)
    until_nothing_runs(store_path)
    with helios_shm.open(store_path) as engine:
        assert list(engine.branch("main").head) == ["a"]


POOL = """
import sys, helios_shm, multiprocessing
from concurrent.futures import ProcessPoolExecutor

def work(branch, name):
    turn = 0
    while True:
        ws = branch.fork()
        ws[f"{name}/{turn}"] = b"v"
        ws.commit()
        turn += 1

if __name__ == "__main__":
    path = None if sys.argv[1] == "None" else sys.argv[1]
    context = multiprocessing.get_context(sys.argv[2])
    with helios_shm.open(path) as engine, ProcessPoolExecutor(2, mp_context=context) as pool:
        branch = engine.branch("main")
        print(engine.path, flush=True)
        futures = [pool.submit(work, branch, n) for n in range(2)]
        # Both: an interpreter that is interrupted while it starts may take no notice, and then works for ever.
        while not all(len(branch.head.keys(f"{n}/")) >= 25 for n in range(2)):
            branch.wait(timeout=1)
        print("at work", flush=True)
        for future in futures:
            future.result()
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("ephemeral", [False, True])
def test_store_whose_pool_was_ended_by_ctrl_c(
    store_path: Path, tmp_path: Path, method: str, ephemeral: bool
) -> None:
    """Ctrl-C at a terminal goes to every process of the group; the coordinator is in a group of its own."""
    (tmp_path / "pool.py").write_text(POOL)
    program = start_program(
        f"import runpy, sys; sys.argv[1:] = sys.argv[1:]; runpy.run_path({str(tmp_path / 'pool.py')!r}, "
        "run_name='__main__')"
        if method == "fork"
        else f"import sys, subprocess; sys.exit(subprocess.call([sys.executable, {str(tmp_path / 'pool.py')!r}, "
        "*sys.argv[1:]]))",
        None if ephemeral else store_path,
        method,
        start_new_session=True,
    )
    path = Path(line_of(program))
    assert line_of(program) == "at work"
    os.killpg(program.pid, signal.SIGINT)
    program.communicate(timeout=60)
    assert program.returncode != 0
    if ephemeral:
        until(f"{path} is gone", lambda: not path.exists() and is_uncoordinated(path))
    else:
        until_nothing_runs(path)
        with helios_shm.open(path) as engine:
            assert engine.branch("main").last_commit.sequence == len(engine.branch("main").head) >= 50


def test_ephemeral_store_that_was_closed() -> None:
    with helios_shm.open(None) as engine:
        path = engine.path
        ws = engine.empty.fork()
        ws["a"] = b"1"
        ws.commit()
        names = segments(path)
        assert len(names) == 1
    until("store and segment are gone", lambda: not path.exists() and not any(map(Path.exists, names)))
    until("its coordinator is gone", lambda: is_uncoordinated(path))
    assert not list(path.parent.glob(f"*{path.name}*"))


def test_ephemeral_store_whose_process_was_killed_together_with_its_coordinator() -> None:
    """Nobody is left to remove it: the next who makes one does."""
    program = start_program(
        """
import signal, helios_shm
engine = helios_shm.open(None)
ws = engine.empty.fork(); ws["a"] = b"1"; ws.commit()
print(engine.path, flush=True)
signal.pause()
"""
    )
    path = Path(line_of(program))
    [segment] = segments(path)
    os.kill(coordinator(path), signal.SIGKILL)
    program.kill()
    program.communicate()
    until("its coordinator is dead", lambda: is_uncoordinated(path))
    with helios_shm.open(None):
        assert not path.exists() and not segment.exists()


def test_segment_stays_while_anybody_is_there(store_path: Path) -> None:
    with workers(1, FORK, store_path) as [other], helios_shm.open(store_path) as engine:
        before = segments(store_path)
        for number in range(3):
            other.ask(put, f"{number}")
        assert segments(store_path) == before
        assert len(engine.branch("main").head) == 3
    until_nothing_runs(store_path)


def test_killed_coordinator_of_a_store_that_is_then_closed(store_path: Path) -> None:
    with helios_shm.open(store_path) as engine:
        ws = engine.branch("main").fork()
        ws["a"] = b"1"
        ws.commit(durable=True)
        os.kill(coordinator(store_path), signal.SIGKILL)
    until_nothing_runs(store_path)


def test_descriptors_and_mappings_of_a_closed_engine_are_given_back(store_path: Path) -> None:
    """A process may open and close as often as it likes."""

    def held() -> tuple[int, int]:
        maps = Path("/proc/self/maps").read_text().splitlines()
        return len(os.listdir("/proc/self/fd")), sum(
            "/dev/shm" in line or str(store_path) in line for line in maps
        )

    put(store_path, "warm")
    before = held()
    for turn in range(5):
        put(store_path, f"{turn}")
    assert held() == before


def test_descriptors_of_forked_children_do_not_keep_a_store_alive(store_path: Path) -> None:
    """A child that inherited handles and never used them holds no lock of its parent's."""
    engine = helios_shm.open(store_path)
    ws = engine.branch("main").fork()
    ws["a"] = b"1"
    ws.commit()
    with workers(2, FORK, engine):
        engine.close()
        until_nothing_runs(store_path)
