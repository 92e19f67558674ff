"""Handles in workers of every kind of start: what a child commits the parent sees at once, and the other way round."""

import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest

import helios_shm
from helios_shm import Branch, Engine, Snapshot
from tests.processes.rig import Worker, finish, start_program, until, until_nothing_runs, workers

METHODS = ("fork", "forkserver", "spawn")


@pytest.fixture(params=METHODS)
def context(request: pytest.FixtureRequest) -> BaseContext:
    return multiprocessing.get_context(request.param)


def put(branch: Branch, key: str, value: bytes) -> int:
    ws = branch.fork()
    ws[key] = value
    sequence = ws.commit().sequence
    assert sequence is not None
    return sequence


def read(branch: Branch) -> dict[str, bytes]:
    return dict(branch.head)


def extend(_engine: Engine, snapshot: Snapshot, key: str) -> Snapshot:
    ws = snapshot.fork()
    ws[key] = key.encode()
    return ws.commit().snapshot


def make_branch(engine: Engine, name: str) -> Branch:
    branch = engine.branch(name)
    put(branch, "made in", name.encode())
    return branch


def leave_without_close(branch: Branch, key: str) -> None:
    put(branch, key, b"last")
    os._exit(7)


def test_parent_and_child_see_each_others_commits_at_once(engine: Engine, context: BaseContext) -> None:
    branch = engine.branch("main")
    with workers(1, context, branch) as [child]:
        for turn in range(5):
            put(branch, f"parent/{turn}", b"p")
            assert f"parent/{turn}" in child.ask(read)
            assert child.ask(put, f"child/{turn}", b"c") == 2 * turn + 2
            assert branch.head[f"child/{turn}"] == b"c"
    assert len(branch.head) == 10
    assert [commit.sequence for commit in branch.log()] == list(range(10, 0, -1))


def test_engines_snapshots_and_branches_travel_both_ways(engine: Engine, context: BaseContext) -> None:
    with workers(1, context, engine) as [child]:
        snapshot = engine.empty
        for key in ("a", "b", "c"):
            snapshot = child.ask(extend, snapshot, key)
            assert snapshot[key] == key.encode()
        assert dict(snapshot) == {"a": b"a", "b": b"b", "c": b"c"}
        made = child.ask(make_branch, "of the child")
        assert made == engine.branch("of the child")
        assert dict(made.head) == {"made in": b"of the child"}
        assert made.engine.path == engine.path
    assert engine.branches() == ["of the child"]


def test_child_that_never_closes_leaves_its_commits_and_no_slot(engine: Engine, context: BaseContext) -> None:
    branch = engine.branch("main")
    child = Worker(context, branch)
    child.tell(leave_without_close, "from the child")
    child.process.join()
    assert child.process.exitcode == 7
    assert branch.head["from the child"] == b"last"
    assert put(branch, "after it", b"1") == 2


def test_child_goes_on_after_its_parent_has_closed(store_path: Path, context: BaseContext) -> None:
    engine = helios_shm.open(store_path)
    branch = engine.branch("main")
    with workers(1, context, branch) as [child]:
        put(branch, "of the parent", b"1")
        assert child.ask(put, "before", b"2") == 2
        engine.close()
        with pytest.raises(helios_shm.ClosedError):
            branch.head  # noqa: B018
        assert child.ask(put, "after", b"3") == 3
        with helios_shm.open(store_path) as again:
            assert dict(again.branch("main").head) == {"of the parent": b"1", "before": b"2", "after": b"3"}


def test_child_that_first_works_when_all_others_have_left(store_path: Path, context: BaseContext) -> None:
    """A handle that was given to a child outlives the segment it was made in."""
    engine = helios_shm.open(store_path)
    branch = engine.branch("main")
    put(branch, "of the parent", b"1")
    with workers(1, context, store_path) as [child]:
        engine.close()
        until_nothing_runs(store_path)
        pickled = pickle.dumps(branch)
        assert child.ask(put_pickled, pickled, "of the child", b"2") == 2
        assert child.ask(read_pickled, pickled) == {"of the parent": b"1", "of the child": b"2"}
    until_nothing_runs(store_path)


def put_pickled(_path: Path, pickled: bytes, key: str, value: bytes) -> int:
    return put(pickle.loads(pickled), key, value)


def read_pickled(_path: Path, pickled: bytes) -> dict[str, bytes]:
    return read(pickle.loads(pickled))


# ---- pools ----


def play(state: Snapshot, move: int) -> tuple[Snapshot, int]:
    ws = state.fork()
    ws["moves"] = bytes(sorted({*state.get("moves", b""), move}))
    commit = ws.commit()
    return commit.snapshot, commit.metrics.latency_ns


def count_up(branch: Branch, key: str) -> int:
    """An increment that is tried until it meets no other."""
    for attempt in range(10_000):
        ws = branch.fork()
        ws[key] = b"%d" % (int(ws.get(key, b"0")) + 1)
        try:
            ws.commit()
            return attempt
        except helios_shm.ConflictError as error:
            assert error.keys == (key,)
    raise AssertionError("never got through")


def test_a_pool_expands_states_and_transpositions_meet(engine: Engine, context: BaseContext) -> None:
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        roots = {engine.empty}
        for _ply in range(3):
            futures = [pool.submit(play, root, move) for root in roots for move in range(4)]
            children = [future.result() for future in futures]
            assert all(latency > 0 for _, latency in children)
            roots = {child for child, _ in children}
        # Three moves out of four, each order and repetition, are so many sets of one to three.
        assert len(roots) == 4 + 6 + 4
    assert engine.branches() == []


def test_a_pool_counts_exactly(engine: Engine, context: BaseContext) -> None:
    branch = engine.branch("counter")
    with ProcessPoolExecutor(3, mp_context=context) as pool:
        list(pool.map(count_up, [branch] * 60, ["n"] * 60))
    assert branch.head["n"] == b"60"
    assert branch.last_commit.sequence == 60


def test_a_pool_works_on_an_ephemeral_store(context: BaseContext) -> None:
    with helios_shm.open(None) as engine, ProcessPoolExecutor(2, mp_context=context) as pool:
        states = [future.result()[0] for future in [pool.submit(play, engine.empty, n) for n in range(8)]]
        assert len(set(states)) == 8
        path = engine.path
    until(f"{path} is gone", lambda: not path.exists())


# ---- pickles ----


def test_a_pickle_opens_its_store_from_any_working_directory(engine: Engine, tmp_path: Path) -> None:
    branch = engine.branch("main")
    put(branch, "a", b"1")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "handles").write_bytes(pickle.dumps((engine, branch, branch.head)))
    program = start_program(
        """
import pickle, sys
engine, branch, snapshot = pickle.load(open(sys.argv[1], "rb"))
assert branch.engine.path == engine.path == snapshot.engine.path
assert dict(branch.head) == dict(snapshot) == {"a": b"1"}
ws = branch.fork()
ws["b"] = b"2"
print(ws.commit().snapshot.id)
""",
        tmp_path / "handles",
        cwd=elsewhere,
    )
    assert finish(program).strip() == branch.head.id
    assert branch.head["b"] == b"2"


def test_a_pickle_made_over_a_relative_path_holds_the_absolute_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with helios_shm.open("store") as engine:
        assert engine.path == tmp_path / "here" / "store"
        put(engine.branch("main"), "a", b"1")
        program = start_program(
            "import pickle, sys; print(dict(pickle.loads(bytes.fromhex(sys.argv[1]))))",
            pickle.dumps(engine.branch("main").head).hex(),
            cwd=tmp_path / "there",
        )
        assert finish(program).strip() == "{'a': b'1'}"


def test_a_pickle_whose_store_has_gone_names_store_and_path(store_path: Path) -> None:
    with helios_shm.open(store_path) as engine:
        put(engine.branch("main"), "a", b"1")
        pickled = pickle.dumps(engine.branch("main"))
    until_nothing_runs(store_path)
    store_path.rename(store_path.with_name("moved"))
    with pytest.raises(helios_shm.NotFoundError, match=str(store_path)):
        pickle.loads(pickled)
    with helios_shm.open(store_path.with_name("moved")):
        assert pickle.loads(pickled).head["a"] == b"1"  # the engine that is open for that uuid serves
