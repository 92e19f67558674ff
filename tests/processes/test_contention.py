"""Many processes on one branch: disjoint keys all arrive, of one key exactly one wins, nobody starves."""

import multiprocessing
from collections import Counter
from itertools import chain, pairwise

import pytest

import helios_shm
from helios_shm import Branch, Engine
from tests.processes.rig import workers

FORK = multiprocessing.get_context("fork")
CROWD = 16


def commit_many(branch: Branch, name: str, count: int) -> list[int]:
    """Each commit on what the one before left, as a worker does; the sequences."""
    sequences = []
    ws = branch.fork()
    for turn in range(count):
        ws[f"{name}/{turn:03}"] = name.encode()
        sequences.append(ws.commit().sequence or 0)
    return sequences


def commit_from_stale_bases(branch: Branch, name: str, count: int) -> list[int]:
    """Each commit from the state of the beginning, with a message, several keys at once."""
    base = branch.fork()
    sequences = []
    for turn in range(count):
        ws = base.fork()
        for part in range(3):
            ws[f"{name}/{turn:03}/{part}"] = name.encode() * 20
        sequences.append(ws.commit(f"{name} {turn}", metadata={"turn": turn}).sequence or 0)
    return sequences


def try_key(branch: Branch, key: str, value: bytes) -> tuple[bool, tuple[str, ...]]:
    """Commit from the workspace that ``fork_workspace`` left; (won, keys in conflict)."""
    ws = _forked.pop()
    ws[key] = value
    try:
        ws.commit()
    except helios_shm.ConflictError as error:
        assert key in str(error)
        [conflict] = error.conflicts
        assert conflict.ours == value != conflict.theirs
        assert dict(ws.edits) == {key: value}  # nothing moved
        return False, error.keys
    return True, ()


def fork_workspace(branch: Branch) -> None:
    _forked.append(branch.fork())


_forked: list[helios_shm.Workspace] = []


def count_up(branch: Branch, times: int) -> int:
    conflicts = 0
    for _ in range(times):
        while True:
            ws = branch.fork()
            ws["n"] = b"%d" % (int(ws.get("n", b"0")) + 1)
            try:
                ws.commit()
                break
            except helios_shm.ConflictError as error:
                assert error.keys == ("n",)
                conflicts += 1
    return conflicts


def count_up_by_compare_and_set(branch: Branch, times: int) -> int:
    lost = 0
    for _ in range(times):
        while True:
            head = branch.head
            ws = head.fork()
            ws["n"] = b"%d" % (int(head["n"]) + 1)
            if branch.compare_and_set(head, ws.commit().snapshot):
                break
            lost += 1
    return lost


@pytest.mark.parametrize("commit", [commit_many, commit_from_stale_bases])
def test_sixteen_processes_with_keys_of_their_own_all_succeed(engine: Engine, commit: object) -> None:
    branch, each = engine.branch("main"), 100 if commit is commit_many else 30
    with workers(CROWD, FORK, branch) as crowd:
        for number, worker in enumerate(crowd):
            worker.tell(commit, f"{number:02}", each)  # type: ignore[arg-type]
        sequences = [worker.hear() for worker in crowd]
    total = CROWD * each
    assert sorted(chain(*sequences)) == list(range(1, total + 1))
    assert all(mine == sorted(mine) for mine in sequences)
    head = branch.head
    parts = 1 if commit is commit_many else 3
    assert Counter(key[:2] for key in head) == {f"{n:02}": each * parts for n in range(CROWD)}
    log = list(branch.log())
    assert [entry.sequence for entry in log] == list(range(total, 0, -1))
    # A chain: each commit's parent is the commit before it, and each adds its own keys and no others.
    assert all(newer.parents == (older.snapshot,) for newer, older in pairwise(log))
    assert [len(entry.snapshot) for entry in log] == list(range(total * parts, 0, -parts))


def test_of_those_who_change_one_key_exactly_one_wins_each_round(engine: Engine) -> None:
    branch, crowd_size = engine.branch("main"), 8
    with workers(crowd_size, FORK, branch) as crowd:
        for turn in range(10):
            for worker in crowd:
                worker.ask(fork_workspace)
            for number, worker in enumerate(crowd):
                worker.tell(try_key, "contested", b"%d of %d" % (number, turn))
            answers = [worker.hear() for worker in crowd]
            winners = [number for number, (won, _) in enumerate(answers) if won]
            assert len(winners) == 1
            assert [keys for won, keys in answers if not won] == [("contested",)] * (crowd_size - 1)
            assert branch.head["contested"] == b"%d of %d" % (winners[0], turn)
    assert branch.last_commit.sequence == 10


@pytest.mark.parametrize("count", [count_up, count_up_by_compare_and_set])
def test_increments_that_are_tried_again_reach_the_exact_total(engine: Engine, count: object) -> None:
    branch, each = engine.branch("main"), 40
    ws = branch.fork()
    ws["n"] = b"0"
    ws.commit()
    with workers(CROWD, FORK, branch) as crowd:
        for worker in crowd:
            worker.tell(count, each)  # type: ignore[arg-type]
        for worker in crowd:
            worker.hear()
    assert branch.head["n"] == b"%d" % (CROWD * each)
    assert branch.last_commit.sequence == 1 + CROWD * each
    assert [int(entry.snapshot["n"]) for entry in branch.log()] == list(range(CROWD * each, -1, -1))


def test_a_ring_far_smaller_than_what_a_crowd_writes(store_path: object) -> None:
    """Writers that wait for room do not keep it from each other: no chunk is held by one that waits."""
    with helios_shm.open(store_path, l1_bytes=4 << 20) as engine:  # type: ignore[arg-type]
        branch, each = engine.branch("main"), 6
        with workers(6, FORK, branch) as crowd:
            for number, worker in enumerate(crowd):
                worker.tell(commit_large, f"{number}", each)
            for worker in crowd:
                worker.hear()
        head = branch.head
        assert len(head) == 6 * each * 40
        assert {len(value) for value in head.values()} == {20_000}


def commit_large(branch: Branch, name: str, count: int) -> None:
    ws = branch.fork()
    for turn in range(count):
        for part in range(40):
            ws[f"{name}/{turn}/{part:02}"] = f"{name}/{turn}/{part}/".encode().ljust(20_000, b"\xa5")
        ws.commit()
