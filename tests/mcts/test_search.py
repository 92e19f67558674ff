"""Search: what it finds, how it ends, and what it leaves, in each of its modes."""

from __future__ import annotations

import gc
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

import helios_shm
from helios_shm import CapacityError, ClosedError, Engine, Snapshot
from helios_shm._capi import lib
from helios_shm.mcts import Search
from tests.mcts.environments import Bet, Deadly, Failing, Priced, Split, TicTacToe, Walk
from tests.programs import untraced

MODES = [(1, "tree"), (2, "tree"), (2, "root"), (2, "leaf")]
modes = pytest.mark.parametrize(("workers", "parallel"), MODES, ids=lambda value: str(value))


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with helios_shm.open(None) as engine:
        yield engine


def marked(engine: Engine, marks: str) -> Snapshot:
    """A position of tic-tac-toe, "x", "o" and "." row by row."""
    workspace = engine.empty.fork()
    for square, mark in enumerate(marks):
        if mark != ".":
            workspace[str(square)] = mark.encode()
    return workspace.commit().snapshot


def held(engine: Engine) -> int:
    """How many states this process holds."""
    return int(lib.hs_leases_count(engine._attachment._table))


def at(engine: Engine, square: int) -> Snapshot:
    workspace = engine.empty.fork()
    workspace["at"] = b"%d" % square
    return workspace.commit().snapshot


def assert_whole(search: Search[Any]) -> None:
    """Nobody is on the way, and what went through a state that is reached by one path only stands in it."""
    tree = search.tree(max_nodes=100_000)
    for node in tree:
        assert node.in_flight == 0
        if node.repeats is None and node.children and node.omitted == 0:
            below = sum(child.visits for child in node.children)
            assert node.state_visits >= below


# --- what it finds ---


@modes
def test_it_takes_the_winning_move(engine: Engine, workers: int, parallel: Any) -> None:
    with Search(
        TicTacToe(), marked(engine, "xx.oo...."), workers=workers, parallel=parallel, seed=1
    ) as search:
        result = search.run(600)
        assert result.action == 2
        assert result.value == 1.0
        assert result.num_simulations == 600
        assert sum(result.visit_counts.values()) == 600
        assert set(result.visit_counts) == {2, 5, 6, 7, 8}
        assert 0 < result.store_share < 1
        assert search.tree().visits == 600
        assert_whole(search)


@modes
def test_it_prevents_a_loss(engine: Engine, workers: int, parallel: Any) -> None:
    with Search(
        TicTacToe(), marked(engine, "oo.xx...."), workers=workers, parallel=parallel, seed=1
    ) as search:
        root = marked(engine, "oo.x....x")
        del root
        assert search.run(600).action in (2, 5)


@modes
@pytest.mark.parametrize("selection", ["puct", "uct"])
def test_runs_add_up(engine: Engine, workers: int, parallel: Any, selection: Any) -> None:
    with Search(
        TicTacToe(), engine.empty, workers=workers, parallel=parallel, seed=1, selection=selection
    ) as search:
        for runs in (1, 2, 3):
            assert search.run(101).num_simulations == 101
            assert sum(search.run(1).visit_counts.values()) == runs * 102
        assert search.metrics.expansions >= search.metrics.rows - 2


def test_one_process_gives_the_same_result_for_the_same_seed(engine: Engine) -> None:
    def found(seed: int) -> Any:
        with Search(TicTacToe(), engine.empty, seed=seed) as search:
            first = search.run(150)
            search.advance(first.action)
            second = search.run(150)
            return [(r.action, dict(r.visit_counts), r.value) for r in (first, second)]

    assert found(5) == found(5)
    assert found(5) != found(6)


def test_rewards_are_discounted(engine: Engine) -> None:
    with Search(Walk(), at(engine, 4), seed=1, discount=0.5, normalize=True) as search:
        result = search.run(2000)
        assert result.action == 1
        # -1 for this step, half of -1 for the next one, a half of a half of 10 at the end.
        assert search.tree().children[0].value == result.value
        assert result.value == pytest.approx(-1 + 0.5 * (-1 + 0.5 * 10), abs=0.6)
    with Search(Walk(), at(engine, 5), seed=1) as search:
        assert search.run(200).value == pytest.approx(9.0, abs=0.01)


def test_states_that_come_again_do_not_go_round_and_round(engine: Engine) -> None:
    with Search(Walk(), at(engine, 3), seed=1, normalize=True) as search:
        result = search.run(3000)
        assert result.action == 1
        assert search.metrics.rows == 7


def test_chance_is_drawn_by_its_odds(engine: Engine) -> None:
    with Search(Bet(), engine.empty, seed=1) as search:
        result = search.run(4000)
        assert result.action == "coin"
        assert result.value == pytest.approx(0.75, abs=0.05)
        coin = next(child for child in search.tree().children if child.action == "coin")
        assert coin.kind == "chance"
        assert {child.action: round(child.prior, 6) for child in coin.children} == {
            "heads": 0.75,
            "tails": 0.25,
        }


def test_three_players_each_want_their_own(engine: Engine) -> None:
    with Search(Split(), engine.empty, seed=1, normalize=True) as search:
        # The first takes 2, the second 1 (2 would be the last), the third none.
        assert search.run(4000).action == 2
        search.advance(2)
        assert search.run(4000).action == 1
        assert [node.player for node in list(search.tree(depth=1))[:2]] == [1, 2]


def test_what_a_commit_costs_can_be_a_reward(engine: Engine) -> None:
    with Search(Priced(), engine.empty, seed=1, normalize=True) as search:
        result = search.run(100)
        assert result.action == 1
        assert result.value == -1.0
        assert search.metrics.changed_keys == 101
        assert search.metrics.new_bytes > 0
        assert search.metrics.commit_ns > 0


def test_equal_states_share_a_row_whatever_led_to_them(engine: Engine) -> None:
    with Search(TicTacToe(), engine.empty, seed=1, workers=2) as search:
        search.run(2000)
        metrics = search.metrics
        assert metrics.transpositions > 0
        assert metrics.rows <= metrics.expansions + 1 - metrics.transpositions + metrics.workers_lost


def test_noise_and_temperature_change_what_is_chosen(engine: Engine) -> None:
    def firsts(**options: Any) -> set[int]:
        found = set()
        for seed in range(12):
            with Search(TicTacToe(), engine.empty, seed=seed, selection="puct", **options) as search:
                found.add(search.run(40).action)
        return found

    assert len(firsts(temperature=5.0)) > 3
    assert len(firsts(dirichlet_alpha=0.05, dirichlet_fraction=1.0)) > 2


def test_widening_tries_the_first_actions_first(engine: Engine) -> None:
    with Search(TicTacToe(), engine.empty, seed=1, widening=(1.0, 0.5)) as search:
        visits = list(search.run(16).visit_counts.values())
        tried = [count > 0 for count in visits]
        assert tried == sorted(tried, reverse=True)
        assert 1 < sum(tried) <= 5


# --- re-rooting and room ---


def test_advance_keeps_what_is_known_below(engine: Engine) -> None:
    with Search(TicTacToe(), engine.empty, seed=1) as search:
        before = search.run(1000)
        below = {child.action: child.visits for child in search.tree().children[0].children}
        root = search.advance(before.action)
        assert search.root == root
        assert dict(root) == {str(before.action): b"x"}
        after = {child.action: child.visits for child in search.tree().children}
        # Other orders of moves may have come to the same states.
        assert all(after[action] >= visits for action, visits in below.items())
        assert search.run(10).num_simulations == 10


@modes
def test_a_game_is_played_to_its_end(engine: Engine, workers: int, parallel: Any) -> None:
    env = TicTacToe()
    with Search(env, engine.empty, workers=workers, parallel=parallel, seed=3) as search:
        while env.returns(search.root) is None:
            assert search.run(100).num_simulations == 100
            search.advance(search.run(100).action)
        assert len(search.root) >= 5
        with pytest.raises(ValueError, match="has ended"):
            search.run(1)


def test_advance_may_go_where_nobody_was(engine: Engine) -> None:
    with Search(TicTacToe(), engine.empty, seed=1) as search:
        search.advance(8)
        with pytest.raises(ValueError, match="8 is not legal"):
            search.advance(8)
        assert search.run(50).num_simulations == 50


def test_what_is_not_below_the_root_is_let_go(engine: Engine) -> None:
    with Search(TicTacToe(), engine.empty, seed=1) as search:
        search.run(2000)
        gc.collect()
        before, rows = held(engine), search.metrics.rows
        search.advance(0)
        gc.collect()
        assert search.metrics.rows < rows
        assert held(engine) <= before - (rows - search.metrics.rows) // 2


@pytest.mark.parametrize(("workers", "parallel"), MODES[:3])
def test_a_full_table_drops_what_is_visited_least(engine: Engine, workers: int, parallel: Any) -> None:
    with Search(
        TicTacToe(), engine.empty, workers=workers, parallel=parallel, seed=1, table_bytes=1 << 17
    ) as search:
        assert search.run(3000).num_simulations == 3000
        assert search.metrics.evictions > 0
        assert_whole(search)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_table_is_an_error_where_that_is_wanted(engine: Engine, workers: int) -> None:
    with Search(
        TicTacToe(), engine.empty, workers=workers, seed=1, table_bytes=1 << 17, when_full="error"
    ) as search:
        with pytest.raises(CapacityError, match="table_bytes"):
            search.run(5000)
        assert_whole(search)


# --- how it ends ---


@modes
def test_a_time_budget_ends_it(engine: Engine, workers: int, parallel: Any) -> None:
    with Search(TicTacToe(), engine.empty, workers=workers, parallel=parallel) as search:
        assert search.run(seconds=0.1).num_simulations > 0
        assert search.run(5, seconds=1000).num_simulations == 5
        assert search.run(seconds=0).num_simulations >= 0


@modes
def test_what_the_environment_raises_reaches_the_caller(engine: Engine, workers: int, parallel: Any) -> None:
    with Search(Failing(), engine.empty, workers=workers, parallel=parallel, seed=1) as search:
        for _ in range(2):
            with pytest.raises(LookupError, match="no square") as raised:
                search.run(1000)
            if workers > 1 and parallel != "leaf":
                assert "in apply" in raised.value.__notes__[0]
        assert_whole(search)


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_workers_start_in_every_way(engine: Engine, start_method: Any) -> None:
    with Search(TicTacToe(), engine.empty, workers=2, seed=1, start_method=start_method) as search:
        assert search.run(200).num_simulations == 200
    assert multiprocessing.active_children() == []


def test_workers_that_die_change_no_count(engine: Engine) -> None:
    with Search(Deadly(), engine.empty, workers=2, seed=1) as search:
        assert search.run(400).num_simulations == 400
        assert search.metrics.workers_lost > 3
        assert search.metrics.simulations_undone > 3
        assert_whole(search)


def test_workers_that_do_nothing_but_die_end_it(engine: Engine) -> None:
    class Doomed(TicTacToe):
        num_players = 2

        def rollout(self, state: Snapshot, rng: object) -> list[float]:
            os.kill(os.getpid(), signal.SIGKILL)
            return [0.0, 0.0]

    with (
        Search(Doomed(), engine.empty, workers=2, start_method="fork") as search,
        pytest.raises(helios_shm.StoreError, match="workers died"),
    ):
        search.run(100)


PROGRAM = """
import sys, helios_shm
sys.path.insert(0, {path!r})
from helios_shm._capi import lib
from helios_shm.mcts import Search
from tests.mcts.environments import TicTacToe
with helios_shm.open(None) as engine, Search(TicTacToe(), engine.empty, workers={workers}) as search:
    search.run(100)
    print(*(worker.process.pid for worker in search._driver.workers), flush=True)
    search.run(seconds=1000)
"""


@pytest.mark.parametrize(("workers", "end"), [(1, "SIGINT"), (2, "SIGINT"), (2, "SIGKILL")])
def test_however_the_driver_ends_no_worker_stays(workers: int, end: str) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(path=os.getcwd(), workers=workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=untraced(),
    )
    assert child.stdout is not None
    pids = [int(pid) for pid in child.stdout.readline().split()]
    fds = [os.pidfd_open(pid) for pid in pids]
    child.send_signal(getattr(signal, end))
    _, errors = child.communicate(timeout=60)
    if end == "SIGINT":
        assert "KeyboardInterrupt" in errors
    assert len(pids) == (workers if workers > 1 else 0)
    for fd in fds:
        assert multiprocessing.connection.wait([fd], 30)  # readable: the process has ended
        os.close(fd)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"workers": 0}, ValueError),
        ({"workers": True}, TypeError),
        ({"parallel": "forest"}, ValueError),
        ({"selection": "best"}, ValueError),
        ({"discount": 0}, ValueError),
        ({"discount": math.nan}, ValueError),
        ({"c_puct": -1}, ValueError),
        ({"temperature": "hot"}, TypeError),
        ({"table_bytes": 10}, ValueError),
        ({"when_full": "explode"}, ValueError),
        ({"widening": (0, 0)}, ValueError),
        ({"seed": "x"}, TypeError),
    ],
)
def test_bad_options_are_refused(engine: Engine, options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Search(TicTacToe(), engine.empty, **options)


def test_bad_calls_are_refused(engine: Engine) -> None:
    search = Search(TicTacToe(), engine.empty)
    for call, error in (
        (lambda: search.run(), ValueError),
        (lambda: search.run(0), ValueError),
        (lambda: search.run(seconds=-1), ValueError),
        (lambda: search.ask(0), ValueError),
        (lambda: search.tree(max_nodes=0), ValueError),
    ):
        with pytest.raises(error):
            call()
    with pytest.raises(TypeError, match="has a method legal_actions"):
        Search(object(), engine.empty)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a root is a Snapshot"):
        Search(TicTacToe(), {})  # type: ignore[arg-type]
    search.close()
    search.close()
    for late in (
        lambda: search.run(1),
        lambda: search.ask(),
        lambda: search.tree(),
        lambda: search.advance(0),
    ):
        with pytest.raises(ClosedError):
            late()


class Odd(TicTacToe):
    """An environment with one fault."""

    def __init__(self, **faults: Callable[..., Any]) -> None:
        for name, fault in faults.items():
            setattr(self, name, fault)


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"legal_actions": lambda state: []}, "no legal action"),
        ({"returns": lambda state: [0.0] if len(state) > 2 else None, "num_players": 2}, "1 numbers"),
        ({"rollout": lambda state, rng: [math.nan, 0.0], "num_players": 2}, "not finite"),
        ({"current_player": lambda state: 7}, "there are 2 players"),
        ({"prior_logits": lambda state, actions: [0.0]}, "1 numbers for 9 actions"),
    ],
)
def test_faults_of_environments_are_named(engine: Engine, faults: Any, message: str) -> None:
    with Search(Odd(**faults), engine.empty) as search, pytest.raises(ValueError, match=message):
        search.run(100)


# --- ask and tell ---


def test_trials_are_told_in_any_order_and_once(engine: Engine) -> None:
    with Search(TicTacToe(), engine.empty, seed=1) as search:
        trials = search.ask(30)
        assert trials[0].action is None
        assert trials[0].state == engine.empty
        assert len({trial.state for trial in trials}) == 30
        assert len({trial.id for trial in trials}) == 30
        assert all(len(trial.id) == 16 for trial in trials)
        assert sum(child.in_flight for child in search.tree().children) == 29
        for trial in reversed(trials):
            for _ in range(2):
                search.tell(trial.id, 0.25)
        tree = search.tree()
        assert sum(child.visits for child in tree.children) == 29
        assert_whole(search)


def test_priors_told_of_the_root_lead_the_search(engine: Engine) -> None:
    with Search(TicTacToe(), engine.empty, seed=1, selection="puct") as search:
        (root,) = search.ask()
        logits = [0.0] * 9
        logits[6] = 20.0
        search.tell(root.id, [0.0, 0.0], prior_logits=logits)
        for trial in search.ask(5):
            assert trial.action == 6 or "6" in trial.state
            search.tell(trial.id, 0.0)


def test_one_number_is_for_the_player_who_moves(engine: Engine) -> None:
    with Search(TicTacToe(), engine.empty, seed=1) as search:
        for trial in search.ask(10):
            if trial.action is not None and len(trial.state) == 1:  # the second player moves there
                search.tell(trial.id, 0.5)
        values = [child.value for child in search.tree().children if child.visits]
        assert values and set(values) == {-0.5}


def test_bad_tellings_leave_the_trial_waiting(engine: Engine) -> None:
    with Search(TicTacToe(), engine.empty, seed=1) as search, Search(TicTacToe(), engine.empty) as other:
        root, trial = search.ask(2)
        for value, logits in (([0.0], None), (math.nan, None), (0.0, [1.0]), (0.0, [math.inf] * 8)):
            with pytest.raises(ValueError):
                search.tell(trial.id, value, prior_logits=logits)
        for id in (b"", bytes(16), other.ask()[0].id, None):
            with pytest.raises(helios_shm.NotFoundError):
                search.tell(id, 0.0)  # type: ignore[arg-type]
        search.tell(trial.id, 0.0)
        search.tell(root.id, 0.0)
        assert_whole(search)


def test_there_is_a_limit_to_what_is_not_told(engine: Engine) -> None:
    with Search(TicTacToe(), engine.empty, seed=1) as search:
        for _ in range(8):
            search.ask(64)
        with pytest.raises(helios_shm.BusyError, match="tell some"):
            search.ask()


def test_asking_a_search_that_knows_all_gives_nothing(engine: Engine) -> None:
    root = marked(engine, "xoxoxo.o.")
    with Search(TicTacToe(), root, seed=1) as search:
        for trial in search.ask(8):
            search.tell(trial.id, 0.0)
        search.run(50)
        assert search.ask(8) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_runs_and_trials_take_turns(engine: Engine, workers: int) -> None:
    with Search(TicTacToe(), engine.empty, seed=1, workers=workers) as search:
        trials = search.ask(5)
        search.run(100)
        search.advance(4)
        for trial, again in pairwise([*trials, trials[0]]):
            search.tell(trial.id, 1.0)
            search.tell(trial.id, 1.0)
            del again
        assert search.run(100).num_simulations == 100
        assert_whole(search)
