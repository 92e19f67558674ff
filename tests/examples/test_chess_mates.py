"""The main job: the problem set is right, the search is deterministic, its end is clean."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import chess
import psutil
import pytest

from examples.chess_mates import cli, position
from examples.chess_mates.problems import Problem, load
from examples.chess_mates.runner import StopRequest, run
from examples.chess_mates.search import Search
from examples.chess_mates.worker import LOSS, WIN, Expansion, expand, judge
from helios_shm import Engine, Snapshot
from tests.programs import untraced

ROOT = Path(__file__).parents[2]
PROBLEMS = load()
# Far more than an end on request takes: it bounds a hang.
END_S_MAX = 30.0
# An environment variable that all processes of one command inherit, its coordinator too, wherever they end up.
MARK = "CHESS_MATES_TEST"


# --- the problem set: proven by exhaustive search, which shares no code with the search under test ---


class Prover:
    """Who mates in how many moves, by trying everything; each position once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], bool] = {}
        self._refutations: dict[tuple[int, chess.Move], int] = {}

    def forces(self, board: chess.Board, moves: int) -> bool:
        """Whether the player to move mates in at most `moves` moves."""
        key = (board.epd(), moves)
        if key not in self._known:
            candidates = [move for move in board.legal_moves if moves > 1 or board.gives_check(move)]
            candidates.sort(key=board.gives_check, reverse=True)
            self._known[key] = any(self.begins(board, move, moves) for move in candidates)
        return self._known[key]

    def begins(self, board: chess.Board, move: chess.Move, moves: int) -> bool:
        """Whether `move` begins a mate in at most `moves` moves."""
        board.push(move)
        try:
            if board.is_checkmate():
                return True
            replies = list(board.legal_moves)
            if moves == 1 or not replies:
                return False
            # What refuted other moves first: one refutation is enough.
            replies.sort(key=lambda reply: self._refutations.get((moves, reply), 0), reverse=True)
            return all(self._answers(board, reply, moves) for reply in replies)
        finally:
            board.pop()

    def _answers(self, board: chess.Board, reply: chess.Move, moves: int) -> bool:
        board.push(reply)
        mated = self.forces(board, moves - 1)
        board.pop()
        if not mated:
            self._refutations[moves, reply] = self._refutations.get((moves, reply), 0) + 1
        return mated


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_problem_is_a_mate_in_exactly_so_many_moves_by_exactly_its_keys(problem: Problem) -> None:
    board, prover = problem.board, Prover()
    assert board.is_valid()
    assert not any(prover.forces(board, moves) for moves in range(1, problem.mate_in))
    keys = {move.uci() for move in board.legal_moves if prover.begins(board, move, problem.mate_in)}
    assert keys == problem.keys


def test_set_is_large_and_has_mates_in_one_two_and_three() -> None:
    assert len(PROBLEMS) >= 24
    assert (
        len({problem.name for problem in PROBLEMS})
        == len({problem.epd for problem in PROBLEMS})
        == len(PROBLEMS)
    )
    assert {problem.mate_in for problem in PROBLEMS} == {1, 2, 3}


def test_load_takes_a_pattern_of_names() -> None:
    assert [problem.name for problem in load("loyd-18*")] == ["loyd-1880", "loyd-1897", "loyd-1860"]
    assert load("nobody") == []


# --- positions as states ---


@pytest.mark.parametrize("seed", range(20))
def test_position_survives_the_way_through_a_state(seed: int) -> None:
    rng = random.Random(seed)
    board, state = chess.Board(), position.encode(chess.Board(), 200)
    for plies_left in range(199, 119, -1):
        moves = list(board.legal_moves)
        if not moves:
            break
        board.push(rng.choice(moves))
        after = position.encode(board, plies_left)
        changed = {key for key in state.keys() | after.keys() if state.get(key) != after.get(key)}
        position.write(state, dict(state), after)
        assert state == after
        assert len(changed) <= 9
        read, read_plies_left = position.decode(state)
        assert (read.epd(), read_plies_left) == (board.epd(), plies_left)
        assert set(read.legal_moves) == set(board.legal_moves)


def commit_position(engine: Engine, board: chess.Board, plies_left: int) -> Snapshot:
    workspace = engine.empty.fork()
    workspace.update(position.encode(board, plies_left))
    return workspace.commit().snapshot


def play(snapshot: Snapshot, moves: str) -> Snapshot:
    for move in moves.split():
        (leaf,) = expand([Expansion(snapshot, move, "seed")])
        snapshot = leaf.snapshot
    return snapshot


def test_two_move_orders_meet_in_one_snapshot(engine: Engine) -> None:
    root = commit_position(engine, chess.Board(), 9)
    knights_first = play(root, "g1f3 g8f6 b1c3 b8c6")
    other_order = play(root, "b1c3 b8c6 g1f3 g8f6")
    assert knights_first == other_order
    assert hash(knights_first) == hash(other_order)
    assert play(root, "g1f3 b8c6 b1c3 e7e6") != knights_first


def test_rights_to_castle_and_to_capture_en_passant_keep_positions_apart(engine: Engine) -> None:
    root = commit_position(engine, chess.Board("4k3/8/8/8/3p4/8/4P3/4K2R w K - 0 1"), 9)
    two_steps = play(root, "e2e4 e8f8 h1h2 f8e8 h2h1 e8f8")
    without_castling = play(root, "h1h2 e8f8 h2h1 f8e8 e2e4 e8f8")
    assert two_steps == without_castling
    assert play(root, "e2e4")["play/ep"] == b"e3"
    assert play(root, "e2e3")["play/ep"] == b"-"
    assert play(root, "e1f1")["play/castling"] == b"-"
    assert play(root, "e2e3")["play/castling"] == b"K"


def test_expansion_commits_the_position_after_the_move(engine: Engine) -> None:
    problem = next(iter(load("opera")))
    root = commit_position(engine, problem.board, problem.plies)
    (leaf,) = expand([Expansion(root, "b3b8", "seed")])
    board = problem.board
    board.push_uci("b3b8")
    assert dict(leaf.snapshot) == position.encode(board, problem.plies - 1)
    assert leaf.outcome is None
    assert leaf.moves == ("d7b8",)
    assert leaf.value == LOSS  # The knight must capture, and is then too late: each rollout ends in the mate.
    assert leaf.metrics.changed_keys >= 3
    assert leaf.full_bytes == sum(len(key) + len(value) for key, value in leaf.snapshot.items())


@pytest.mark.parametrize(
    ("fen", "plies_left", "outcome", "moves"),
    [
        ("R5k1/5ppp/8/8/8/8/8/6K1 b - - 0 1", 2, LOSS, set()),  # The defender is mated.
        ("k7/2Q5/8/8/8/8/8/6K1 b - - 0 1", 2, WIN, set()),  # The defender is stalemated.
        ("8/8/8/8/8/1k6/8/K2r4 w - - 0 1", 3, LOSS, set()),  # The attacker is mated.
        ("7k/8/8/8/8/1q6/8/K7 w - - 0 1", 3, LOSS, set()),  # The attacker is stalemated.
        ("4k3/8/8/8/8/8/8/R3K3 b - - 0 1", 0, WIN, set()),  # No ply is left.
        ("4k3/8/8/8/8/8/4P3/4K3 w - - 0 1", 1, LOSS, set()),  # No check, so no mate with the last ply.
        ("6k1/5ppp/8/8/8/8/8/R5K1 w - - 0 1", 1, None, {"a1a8"}),  # Only checks are tried with the last ply.
    ],
)
def test_position_is_judged_for_the_player_to_move(
    fen: str, plies_left: int, outcome: int | None, moves: set[str]
) -> None:
    judged, tries = judge(chess.Board(fen), plies_left, random.Random(1))
    assert (judged, set(tries)) == (outcome, moves)


# --- the search ---


def search_all(
    engine: Engine, problems: list[Problem], *, workers: int, simulations_max: int, seed: int = 1
) -> list[Search]:
    return run(
        engine,
        problems,
        workers=workers,
        simulations_max=simulations_max,
        seed=seed,
        stop=StopRequest(),
        progress=lambda searches: None,
    )


def trace(searches: list[Search]) -> list[tuple[object, ...]]:
    """All that a search has found out, node by node."""
    return [
        (
            search.move,
            search.proven,
            search.simulations,
            search.tally.transpositions,
            {snapshot.id: (node.visits, node.value, node.outcome) for snapshot, node in search.nodes.items()},
        )
        for search in searches
    ]


def test_same_seed_gives_the_same_search_whatever_the_number_of_workers(engine: Engine) -> None:
    problems = load("[eln]*")
    assert len(problems) > 5
    one = trace(search_all(engine, problems, workers=1, simulations_max=150))
    assert one == trace(search_all(engine, problems, workers=1, simulations_max=150))
    assert one == trace(search_all(engine, problems, workers=3, simulations_max=150))
    assert one != trace(search_all(engine, problems, workers=1, simulations_max=150, seed=2))


def test_search_counts_each_snapshot_once_as_node_or_transposition(engine: Engine) -> None:
    (search,) = search_all(engine, load("rook-ending"), workers=1, simulations_max=5000)
    assert search.solved
    assert search.proven
    assert search.move == "f6f7"
    assert search.tally.transpositions > 0
    assert search.tally.snapshots == search.simulations + 1 == len(search.nodes) + search.tally.transpositions


def test_values_are_those_of_the_player_to_move(engine: Engine) -> None:
    """One result of its own, and from each child what the other player lost: that is all a node has."""
    (search,) = search_all(engine, load("napoleon"), workers=1, simulations_max=500)
    assert search.tally.transpositions == 0
    inner_nodes = 0
    for node in search.nodes.values():
        children = node.children.values()
        own_visits = node.visits - sum(child.visits for child in children)
        own_value = node.value + sum(child.value for child in children)
        assert (own_visits, abs(own_value)) == ((1, 1) if node.parents else (0, 0))
        inner_nodes += bool(children)
    assert inner_nodes > 1


@pytest.mark.parametrize(("name", "move"), [("opera", "b3b8"), ("opera", "h2h3"), ("immortal-22", "f3f6")])
def test_rollout_tells_the_defender_whether_it_was_mated(engine: Engine, name: str, move: str) -> None:
    (problem,) = load(name)
    root = commit_position(engine, problem.board, problem.plies)
    leaves = expand([Expansion(root, move, f"seed {number}") for number in range(5)])
    assert {leaf.value for leaf in leaves} == {LOSS if move in problem.keys else WIN}


def test_search_stops_at_its_budget(engine: Engine) -> None:
    (search,) = search_all(engine, load("napoleon"), workers=1, simulations_max=70)
    assert search.simulations == 70
    assert search.finished
    assert not search.proven


# --- the command ---


def test_command_solves_and_writes_its_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result_path = tmp_path / "result.json"
    arguments = ["--problems", "steinitz-*", "--json", str(result_path), "--store", str(tmp_path / "store")]
    names = [problem.name for problem in load("steinitz-*")]
    assert cli.main([*arguments, "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    result = json.loads(result_path.read_text())
    assert [problem["name"] for problem in result["problems"]] == names
    assert all(problem["solved"] and problem["proven"] for problem in result["problems"])
    totals = result["totals"]
    assert totals["solved"] == totals["problems"] == len(names)
    assert totals["snapshots"] == totals["simulations"] + len(names)
    assert 0 < totals["commit_p50_us"] <= totals["commit_p95_us"] <= totals["commit_p99_us"]
    assert totals["stored_bytes"] > 0
    assert totals["full_bytes"] > 0
    assert 0 <= totals["l1_hit_rate"] <= 1
    for expected in (
        *names,
        "simulations",
        "snapshots made",
        "transpositions",
        "commit p50 / p95 / p99",
        "L1 hit rate",
    ):
        assert expected in printed
    assert "full copies" in printed


def test_command_says_by_its_exit_code_that_a_problem_was_not_solved(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["--problems", "napoleon", "--simulations", "3", "--workers", "1"]) == 1
    assert "0 of 1" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--problems", "nobody"], ["--workers", "0"], ["--simulations", "-1"]])
def test_command_refuses_what_makes_no_sense(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        cli.main(arguments)
    assert refused.value.code == 2
    assert "error" in capsys.readouterr().err


def test_command_says_what_is_wrong_with_the_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "no-directory"
    path.write_text("not a store")
    assert cli.main(["--store", str(path), "--problems", "opera"]) == 1
    assert str(path) in capsys.readouterr().err


@contextmanager
def running_command(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a process group of its own, as a shell starts it, and after its first progress line."""
    process = subprocess.Popen(
        [sys.executable, "-m", "examples.chess_mates", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=untraced() | {MARK: str(time.monotonic_ns())},
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert any(line.startswith("[1/") for line in process.stdout)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def processes_like(process: psutil.Process) -> list[psutil.Process]:
    """All processes that carry the mark of `process`, itself included."""
    mark = process.environ()[MARK]
    found = []
    for other in psutil.process_iter():
        with suppress(psutil.Error):
            if other.environ().get(MARK) == mark:
                found.append(other)
    return found


def pool_workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The forked workers: they have the command line of their parent."""
    parent = psutil.Process(process.pid)
    return [child for child in parent.children() if child.cmdline() == parent.cmdline()]


def segments() -> dict[int, str]:
    """The segments of all stores of this machine, by inode: a mapping tells that for sure, and no name."""
    return {entry.inode(): entry.name for entry in os.scandir("/dev/shm") if entry.name.startswith("helios")}


def segment_of(process: subprocess.Popen[str]) -> int:
    """The inode of the one segment that a process has mapped."""
    maps = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
    (inode,) = {int(line.split()[4]) for line in maps if "/dev/shm/" in line} & segments().keys()
    return inode


def assert_nothing_is_left(started: list[psutil.Process], segment: int) -> None:
    # The coordinator follows as soon as it has seen that nobody is left; the segment goes with it.
    _, alive = psutil.wait_procs(started, timeout=END_S_MAX)
    assert not alive
    assert segment not in segments()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_the_group_ends_the_command_cleanly(signum: signal.Signals) -> None:
    with running_command() as process:
        workers = pool_workers(process)
        segment, started = segment_of(process), processes_like(psutil.Process(process.pid))
        assert len(started) > 1 + len(workers)  # The coordinator is on its way by now.
        os.killpg(process.pid, signum)
        _, errors = process.communicate(timeout=END_S_MAX)
    assert process.returncode == 128 + signum
    assert errors.splitlines() == [
        f"chess_mates: ended by {signum.name}; no worker and no open store is left"
    ]
    assert len(workers) == 2
    assert not any(worker.is_running() for worker in workers)
    assert_nothing_is_left(started, segment)


def test_workers_leave_an_interrupt_to_their_parent() -> None:
    with running_command("--problems", "loyd-*") as process:
        for worker in pool_workers(process):
            worker.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")


def test_second_interrupt_ends_workers_that_hang() -> None:
    with running_command() as process:
        segment, started = segment_of(process), processes_like(psutil.Process(process.pid))
        workers = pool_workers(process)
        for worker in workers:
            worker.suspend()
        give_up_at = time.monotonic() + END_S_MAX
        while process.poll() is None and time.monotonic() < give_up_at:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.2)
        assert process.returncode == 128 + signal.SIGINT
    assert_nothing_is_left(started, segment)
