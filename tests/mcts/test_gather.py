"""Searches with an evaluator: what it says is what the search goes by, batches come from all workers, and deaths and
exceptions leave nothing behind and nothing hanging."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import helios_shm
from helios_shm import CapacityError, Engine, Snapshot, Workspace
from helios_shm.mcts.evaluator import Evaluation, EvaluatorError
from helios_shm.mcts.search import Search
from tests.mcts.made import KEY, Made
from tests.mcts.whole import Victims, assert_nobody_is_under_way, assert_sums
from tests.processes.rig import SECONDS_MAX

LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
FOR_EVER_MS = 60_000.0
CONTEXT = multiprocessing.get_context("fork")


class Board:
    """Tic-tac-toe in one key: nine bytes."""

    num_players = 2

    def legal_actions(self, state: Snapshot) -> list[int]:
        return [square for square, mark in enumerate(state["board"]) if mark == ord(".")]

    def apply(self, state: Workspace, action: int) -> None:
        board = bytearray(state["board"])
        board[action] = b"xo"[(9 - board.count(b".")) % 2]
        state["board"] = bytes(board)

    def returns(self, state: Snapshot) -> list[float] | None:
        board = state["board"]
        for a, b, c in LINES:
            if board[a] == board[b] == board[c] != ord("."):
                return [1.0, -1.0] if board[a] == ord("x") else [-1.0, 1.0]
        return None if b"." in board else [0.0, 0.0]

    def encode(self, state: Snapshot) -> bytes:
        return state["board"]


class Signed(Board):
    """Says as well which process encoded it."""

    def encode(self, state: Snapshot) -> bytes:
        return state["board"] + os.getpid().to_bytes(4, "little")


class Once:
    """True the first time that anybody asks, in whichever process, after ``after`` times."""

    def __init__(self, after: int = 0) -> None:
        self.left = CONTEXT.Value("q", after)

    def __call__(self) -> bool:
        with self.left.get_lock():
            self.left.value -= 1
            return bool(self.left.value == -1)


class Uniform:
    """Knows nothing."""

    def evaluate(self, batch: Sequence[bytes]) -> list[Evaluation]:
        return [Evaluation(0.0) for _ in batch]


class Net:
    """A network of one hidden layer, whose weights nobody has trained: the same for the same board."""

    def __init__(self) -> None:
        rng = np.random.default_rng(7)
        self.hidden, self.out = rng.normal(size=(9, 16)), rng.normal(size=(16, 10)) / 8

    def evaluate(self, batch: Sequence[bytes]) -> list[Evaluation]:
        boards = np.stack([np.frombuffer(board[:9], np.uint8) for board in batch])
        out = self.forward((boards == ord("x")).astype(float) - (boards == ord("o")))
        free = boards == ord(".")
        return [Evaluation(np.tanh(row[9]), row[:9][legal]) for row, legal in zip(out, free, strict=True)]

    def forward(self, inputs: Any) -> Any:
        """Row by row: the sums of a matrix product depend on how many rows there are, in their last bits."""
        return np.array([np.tanh(row @ self.hidden) @ self.out for row in inputs])


class Counted(Net):
    """Tells the most processes that had part in a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.most = CONTEXT.Value("q", 0)

    def evaluate(self, batch: Sequence[bytes]) -> list[Evaluation]:
        self.most.value = max(self.most.value, len({request[9:] for request in batch}))
        return super().evaluate(batch)


class Dying(Net):
    """Kills its process in the middle of a batch, once."""

    def __init__(self) -> None:
        super().__init__()
        self.dies = Once(after=10)

    def evaluate(self, batch: Sequence[bytes]) -> list[Evaluation]:
        if self.dies():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().evaluate(batch)


class Raising(Net):
    def __init__(self) -> None:
        super().__init__()
        self.raises = Once(after=5)

    def evaluate(self, batch: Sequence[bytes]) -> list[Evaluation]:
        if self.raises():
            raise LookupError("no such board")
        return super().evaluate(batch)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One store for all of them: each has searches of its own."""
    with helios_shm.open(tmp_path_factory.mktemp("gather") / "store") as engine:
        yield engine


@pytest.fixture
def root(engine: Engine) -> Snapshot:
    """x is to move, and wins by square 2."""
    return start(engine, b"xx.oo....")


def start(engine: Engine, board: bytes) -> Snapshot:
    workspace = engine.empty.fork()
    workspace["board"] = board
    return workspace.commit().snapshot


def check_nothing_is_in_flight(search: Search[Any], *, is_whole: bool = True) -> None:
    """And the counts of every row agree with those above it, unless rows went because the table was full."""
    for table in search._forest.tables:
        arrivals: dict[int, int] = {}
        for number, row in table.rows():
            assert row.in_flight == 0
            for edge in table.edges(number):
                assert edge.in_flight == 0
                if edge.child is not None:
                    arrivals[edge.child] = arrivals.get(edge.child, 0) + edge.visits
        for number, row in table.rows():
            if number in arrivals and row.num_actions and is_whole:
                assert row.visits == arrivals[number]


# ---- what it says is what the search goes by ----


class Wide(Board):
    """A number that grows for ever, in one of nine ways."""

    def legal_actions(self, state: Snapshot) -> list[int]:
        return list(range(9))

    def apply(self, state: Workspace, action: int) -> None:
        number = int.from_bytes(state["board"], "little") * 9 + action + 1
        state["board"] = number.to_bytes(number.bit_length() // 8 + 1, "little")

    def returns(self, state: Snapshot) -> list[float] | None:
        return None


class WideNet(Net):
    def evaluate(self, batch: Sequence[bytes]) -> list[Evaluation]:
        numbers = np.stack([np.frombuffer(number[:9].ljust(9, b"!"), np.uint8) for number in batch])
        return [Evaluation(np.tanh(row[9]), row[:9]) for row in self.forward(numbers / 255)]


@pytest.mark.parametrize("leaves", [1, 8])
def test_search_with_an_evaluator_is_what_ask_and_tell_make_of_it(engine: Engine, leaves: int) -> None:
    """The same walks, in the same order, by hand: the same counts."""
    root, net = start(engine, b"!"), WideNet()
    with Search(Wide(), root, seed=5, evaluator=net, leaves_per_worker=leaves) as search:
        found = search.run(200)
    with Search(Wide(), root, seed=5, selection="puct") as twin:
        evaluate(twin, net, twin.ask(1))
        for _ in range(200 // leaves):
            evaluate(twin, net, twin.ask(leaves))
        counts = {edge.action: edge.visits for edge in twin.tree(depth=1).children}
    assert found.num_simulations == 200
    assert {action: count for action, count in found.visit_counts.items() if count} == counts


def evaluate(search: Search[Any], net: WideNet, trials: list[Any]) -> None:
    evaluations = net.evaluate([trial.state["board"] for trial in trials])
    for trial, evaluation in zip(trials, evaluations, strict=True):
        assert evaluation.prior_logits is not None
        search.tell(trial.id, evaluation.value, prior_logits=evaluation.prior_logits)


@pytest.mark.parametrize(
    "options",
    [
        {"workers": 1},
        {"workers": 2},
        {"workers": 2, "parallel": "root"},
        {"workers": 2, "leaves_per_worker": 3, "batch_size": 2, "batch_wait_ms": 0},
        {"workers": 2, "start_method": "spawn"},
    ],
    ids=str,
)
def test_win_is_found_whatever_the_evaluator_thinks(root: Snapshot, options: dict[str, Any]) -> None:
    with Search(Board(), root, seed=3, evaluator=Net(), **options) as search:
        result = search.run(300)
        assert result.action == 2
        assert result.num_simulations == 300 and sum(result.visit_counts.values()) == 300
        assert result.value > 0.5
        assert search.metrics.evaluations > 0
        check_nothing_is_in_flight(search)
        assert search.run(50).num_simulations == 50
        search.advance(5)
        assert search.run(100).num_simulations == 100
        check_nothing_is_in_flight(search)


def test_sequential_search_is_the_same_for_the_same_seed(engine: Engine) -> None:
    root = start(engine, b"." * 9)
    found = []
    for _ in range(2):
        with Search(Board(), root, seed=11, evaluator=Net(), dirichlet_alpha=0.3) as search:
            found.append(dict(search.run(300).visit_counts))
    assert found[0] == found[1]


def test_batches_hold_leaves_of_several_workers(engine: Engine) -> None:
    root, net = start(engine, b"." * 9), Counted()
    options = {"workers": 3, "leaves_per_worker": 4, "batch_size": 12, "batch_wait_ms": FOR_EVER_MS}
    with Search(Signed(), root, seed=1, evaluator=net, start_method="fork", **options) as search:
        search.run(600)
        assert net.most.value == 3
        stats = search.evaluator_stats
        assert stats is not None and stats.evaluations >= search.metrics.evaluations
        assert 1 < stats.mean_batch_size <= 12


def test_time_ends_a_run_when_what_is_under_way_is_evaluated(engine: Engine) -> None:
    with Search(Board(), start(engine, b"." * 9), workers=2, seed=1, evaluator=Uniform()) as search:
        assert search.run(seconds=0.1).num_simulations > 0
        check_nothing_is_in_flight(search)


@pytest.mark.parametrize("workers", [1, 2])
def test_full_table_makes_room_between_batches(engine: Engine, workers: int) -> None:
    options = {"table_bytes": 1 << 20, "depth_max": 50, "workers": workers, "evaluator": WideNet()}
    with Search(Wide(), start(engine, b"!"), seed=1, **options) as search:
        assert search.run(3000).num_simulations == 3000
        assert search.metrics.evictions > 0
        check_nothing_is_in_flight(search, is_whole=False)


@pytest.mark.parametrize("workers", [1, 2])
def test_search_that_was_saved_goes_on_with_an_evaluator(engine: Engine, workers: int) -> None:
    """Which is not saved, unlike its options."""
    branch = engine.branch(f"search/{workers}")
    options = {"evaluator": Net(), "workers": workers, "leaves_per_worker": 4, "batch_size": 3}
    with Search(Board(), start(engine, b"." * 9), seed=1, save_to=branch, **options) as search:
        before = search.run(100).visit_counts
    with Search.resume(Board(), branch, workers=workers, evaluator=Net()) as search:
        after = search.run(100)
        assert all(after.visit_counts[action] >= count for action, count in before.items())
        assert sum(after.visit_counts.values()) == 200
        assert search.evaluator_stats is not None and search.evaluator_stats.evaluations > 0
        assert search.evaluator_stats.mean_batch_size <= 3
        check_nothing_is_in_flight(search)


# ---- what cannot be done ----


def test_what_cannot_be_evaluated_is_refused(engine: Engine, root: Snapshot) -> None:
    class Mute(Board):
        encode = None  # type: ignore[assignment]

    with pytest.raises(TypeError, match="Mute has no encode"):
        Search(Mute(), root, evaluator=Net())
    with pytest.raises(ValueError, match="'tree' or 'root', not 'leaf'"):
        Search(Board(), root, workers=2, parallel="leaf", evaluator=Net())
    with pytest.raises(ValueError, match="batch_size is 1"):
        Search(Board(), root, evaluator=Net(), batch_size=0)
    with pytest.raises(TypeError, match="int has none"), Search(Board(), root, evaluator=7) as search:  # type: ignore[arg-type]
        search.run(1)


@pytest.mark.parametrize("workers", [1, 2])
def test_state_that_encodes_to_too_much_ends_the_run_and_says_what_to_do(
    engine: Engine, workers: int
) -> None:
    root = start(engine, b"." * 9)
    options = {"evaluator": Net(), "workers": workers, "encoded_bytes_max": 9}
    with Search(Long(), root, seed=1, **options) as search:
        with pytest.raises(CapacityError, match=r"10 bytes.* take 9: .*encoded_bytes_max"):
            search.run(500)
        check_nothing_is_in_flight(search)


class Long(Board):
    """Has more to say of later boards."""

    def encode(self, state: Snapshot) -> bytes:
        board = state["board"]
        return board if board.count(b".") > 6 else board + b"!"


@pytest.mark.parametrize("workers", [1, 2])
def test_logits_that_do_not_fit_the_actions_end_the_run(engine: Engine, workers: int) -> None:
    class Nine(Net):
        def evaluate(self, batch: Sequence[bytes]) -> list[Evaluation]:
            return [Evaluation(0.0, [0.0] * 9) for _ in batch]

    root = start(engine, b"." * 9)
    with Search(Board(), root, seed=1, workers=workers, evaluator=Nine(), start_method="fork") as search:
        with pytest.raises(ValueError, match="8 finite numbers are wanted"):
            search.run(500)
        check_nothing_is_in_flight(search)


# ---- exceptions and deaths ----


@pytest.mark.parametrize("workers", [1, 2])
def test_exception_of_the_evaluator_ends_the_search_with_its_text(engine: Engine, workers: int) -> None:
    root = start(engine, b"." * 9)
    with Search(Board(), root, seed=1, workers=workers, evaluator=Raising(), start_method="fork") as search:
        with pytest.raises(EvaluatorError, match="LookupError: no such board") as caught:
            search.run(seconds=SECONDS_MAX)
        assert isinstance(caught.value.__cause__, LookupError)
        with pytest.raises(EvaluatorError, match="no such board"):
            search.run(1)
        check_nothing_is_in_flight(search)


@pytest.mark.parametrize("workers", [1, 2])
def test_search_goes_on_with_another_evaluator_when_its_own_is_killed(engine: Engine, workers: int) -> None:
    root = start(engine, b"." * 9)
    options = {"evaluator": Dying(), "workers": workers, "start_method": "fork"}
    with Search(Board(), root, seed=1, **options) as search:
        assert search.run(800).num_simulations == 800
        stats = search.evaluator_stats
        assert stats is not None and stats.restarts == 1
        check_nothing_is_in_flight(search)


def test_killed_worker_costs_its_walks_and_nothing_else(engine: Engine) -> None:
    root = start(engine, b"." * 9)
    env = Deadly(os.getpid())
    options = {"evaluator": Net(), "workers": 2, "start_method": "fork", "batch_wait_ms": FOR_EVER_MS}
    with Search(env, root, seed=1, **options) as search:
        assert search.run(1500).num_simulations == 1500
        assert search.metrics.workers_lost == 1
        check_nothing_is_in_flight(search)


class Deadly(Board):
    """Kills one worker, with some of its leaves under way."""

    def __init__(self, driver: int) -> None:
        self.driver, self.dies = driver, Once(after=100)

    def encode(self, state: Snapshot) -> bytes:
        if os.getpid() != self.driver and self.dies():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(state)


@dataclass(frozen=True)
class Encoded(Made):
    def encode(self, state: Snapshot) -> bytes:
        return state[KEY]


class Judge:
    """Knows what a rollout would say, and takes a while to say it, so that kills meet it anywhere."""

    def __init__(self, game: Encoded) -> None:
        self.game = game

    def evaluate(self, batch: Sequence[bytes]) -> list[Evaluation]:
        return [self.judged(at) for at in batch for _ in range(200)][::200]

    def judged(self, at: bytes) -> Evaluation:
        return Evaluation(self.game.value_of(at), self.game.logits_of(at))


@contextmanager
def killing(search: Search[Any], seed: int) -> Iterator[list[int]]:
    """Kill one of the workers, or the evaluator if it has answered since it was killed last, again and again. The list
    is of those killed."""
    killed: list[int] = []
    ended, chance, victims = threading.Event(), random.Random(seed), Victims(search)

    def kill() -> None:
        answered = 0
        while not ended.wait(chance.uniform(0, 0.08)):
            gathering = search._driver.gathering
            workers = {worker.process.pid: worker for worker in victims.busy()}
            if gathering is None or not workers:
                continue
            pid, batches = chance.choice([*workers, gathering.process.pid]), gathering.process.stats.batches
            if pid is None or (pid == gathering.process.pid and batches == answered):
                continue
            answered = batches if pid == gathering.process.pid else answered
            with suppress(ProcessLookupError):  # it may have been buried just now
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                if pid in workers:
                    victims.killed(workers[pid])

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


def test_kills_of_workers_and_evaluator_change_no_count_and_no_sum(engine: Engine) -> None:
    game, kills, restarts = Encoded(seed=40, branching=5, depth=8), 0, 0
    for seed in range(30):
        options = {"workers": 3, "evaluator": Judge(game), "start_method": "fork"}
        with Search(game, game.root(engine), seed=seed, **options) as search:
            search.run(10)
            with killing(search, seed) as killed:
                first, second = search.run(400), search.run(400)
            search.run(10)  # who died last is found
            assert first.num_simulations == second.num_simulations == 400
            assert_nobody_is_under_way(search)
            assert_sums(engine, search, game)
            stats = search.evaluator_stats
            assert stats is not None
            restarts += stats.restarts
            kills += len(killed)
        if kills >= 4 and restarts > 0:
            return
    raise AssertionError(f"{kills} kills, and the evaluator was started again {restarts} times: too few")


@pytest.mark.parametrize("workers", [1, 2])
def test_exception_of_the_environment_takes_back_what_is_under_way(engine: Engine, workers: int) -> None:
    root = start(engine, b"." * 9)
    options = {"evaluator": Net(), "workers": workers, "start_method": "fork"}
    with Search(Failing(), root, seed=1, **options) as search:
        with pytest.raises(LookupError, match="no square"):
            search.run(seconds=SECONDS_MAX)
        check_nothing_is_in_flight(search)
        assert search.run(20).num_simulations == 20


class Failing(Board):
    """Raises once."""

    def __init__(self) -> None:
        self.raises = Once(after=60)

    def apply(self, state: Workspace, action: int) -> None:
        if self.raises():
            raise LookupError(f"no square {action}")
        super().apply(state, action)
