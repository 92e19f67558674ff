"""The main job: the problem set is right, the search proves its mates, its end is clean."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import chess
import psutil
import pytest

import helios_shm
from examples.chess_mates import cli
from examples.chess_mates.mate import ATTACKER, DEFENCE, DEFENDER, MATE, PLIES_LEFT, Mate
from examples.chess_mates.problems import Problem, load
from examples.chess_mates.proof import proven_moves
from examples.chess_mates.runner import Solution, Stopped, StopRequest, run
from helios_shm import Engine, Snapshot
from helios_shm.mcts import TreeNode
from tests.programs import untraced

ROOT = Path(__file__).parents[2]
PROBLEMS = load()
ENV = Mate()
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


# --- the environment ---


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """One store for all tests: none of them changes more than its own states."""
    with helios_shm.open(None) as engine:
        yield engine


def commit_position(engine: Engine, board: chess.Board, plies_left: int) -> Snapshot:
    workspace = ENV.root(engine, board).fork()
    workspace[PLIES_LEFT] = b"%d" % plies_left
    return workspace.commit().snapshot


def play(snapshot: Snapshot, moves: str) -> Snapshot:
    for move in moves.split():
        workspace = snapshot.fork()
        ENV.apply(workspace, chess.Move.from_uci(move))
        snapshot = workspace.commit().snapshot
    return snapshot


def test_move_orders_meet_where_as_many_plies_are_left(engine: Engine) -> None:
    root = commit_position(engine, chess.Board(), 9)
    knights_first = play(root, "g1f3 g8f6 b1c3 b8c6")
    assert knights_first == play(root, "b1c3 b8c6 g1f3 g8f6")
    assert knights_first[PLIES_LEFT] == b"5"
    assert play(root, "g1f3 g8f6 f3g1 f6g8") != root


def test_root_tells_which_problem_it_is(engine: Engine) -> None:
    (problem,) = load("opera")
    root = ENV.problem_root(engine, problem)
    after = play(root, "b3b8")
    assert after["problem/name"] == root["problem/name"] == b"opera"
    assert root["problem/goal"] == b"mate in 2"
    assert (root[PLIES_LEFT], after[PLIES_LEFT]) == (b"3", b"2")
    assert (ENV.current_player(root), ENV.current_player(after)) == (ATTACKER, DEFENDER)
    assert [move.uci() for move in ENV.legal_actions(after)] == ["d7b8"]
    # The knight must capture, and is then too late: each playout ends in the mate.
    assert {tuple(ENV.rollout(after, random.Random(seed))) for seed in range(5)} == {MATE}


@pytest.mark.parametrize(
    ("fen", "plies_left", "returns", "moves"),
    [
        ("R5k1/5ppp/8/8/8/8/8/6K1 b - - 0 1", 2, MATE, set()),  # The defender is mated.
        ("k7/2Q5/8/8/8/8/8/6K1 b - - 0 1", 2, DEFENCE, set()),  # The defender is stalemated.
        ("8/8/8/8/8/1k6/8/K2r4 w - - 0 1", 3, DEFENCE, set()),  # The attacker is mated.
        ("7k/8/8/8/8/1q6/8/K7 w - - 0 1", 3, DEFENCE, set()),  # The attacker is stalemated.
        ("4k3/8/8/8/8/8/8/R3K3 b - - 0 1", 0, DEFENCE, None),  # No ply is left.
        ("4k3/8/8/8/8/8/4P3/4K3 w - - 0 1", 1, DEFENCE, set()),  # No check, so no mate with the last ply.
        ("6k1/5ppp/8/8/8/8/8/R5K1 w - - 0 1", 1, None, {"a1a8"}),  # Only checks are tried with the last ply.
    ],
)
def test_position_is_judged_for_attacker_and_defender(
    engine: Engine, fen: str, plies_left: int, returns: tuple[float, float] | None, moves: set[str] | None
) -> None:
    state = commit_position(engine, chess.Board(fen), plies_left)
    assert ENV.returns(state) == returns
    if moves is not None:
        assert {move.uci() for move in ENV.legal_actions(state)} == moves


def test_checks_and_captures_are_looked_at_first_by_the_attacker_alone(engine: Engine) -> None:
    (problem,) = load("opera")
    root = ENV.problem_root(engine, problem)
    logits = dict(
        zip(map(str, ENV.legal_actions(root)), ENV.prior_logits(root, ENV.legal_actions(root)), strict=True)
    )
    assert logits["b3e6"] > logits["b3b8"] > logits["h2h3"] == 0
    after = play(root, "h2h3")
    assert set(ENV.prior_logits(after, ENV.legal_actions(after))) == {0.0}


@pytest.mark.parametrize(("name", "move"), [("opera", "b3b8"), ("opera", "h2h3"), ("immortal-22", "f3f6")])
def test_playout_tells_whether_the_defender_was_mated(engine: Engine, name: str, move: str) -> None:
    (problem,) = load(name)
    after = play(ENV.problem_root(engine, problem), move)
    ends = {tuple(ENV.rollout(after, random.Random(seed))) for seed in range(5)}
    assert ends == {MATE if move in problem.keys else DEFENCE}


# --- proofs ---


def node(
    kind: str, player: int | None, *children: TreeNode[str], returns: tuple[float, ...] = (), **more: Any
) -> Any:
    number = next(STATES)
    fields: dict[str, Any] = {
        "state": f"{number:064x}",
        "action": f"move {number}",
        "action_name": None,
        "visits": 1,
        "state_visits": 1,
        "in_flight": 0,
        "value": 0.0,
        "prior": 1.0,
        "rewards": (),
        "repeats": None,
        "omitted": 0,
    }
    return TreeNode(**(fields | more), kind=kind, player=player, returns=returns, children=children)  # type: ignore[arg-type]


STATES = itertools.count()


def test_proof_needs_every_answer_and_one_move_against_each() -> None:
    def mate() -> Any:
        return node("terminal", None, returns=MATE)

    def open_end() -> Any:
        return node("choice", DEFENDER)

    forced = node("choice", DEFENDER, node("choice", ATTACKER, open_end(), mate()), mate())
    unsure = node("choice", DEFENDER, node("choice", ATTACKER, mate()), omitted=1)
    refuted = node("choice", DEFENDER, mate(), node("terminal", None, returns=DEFENCE))
    unvisited = node("unvisited", None, state=None)
    again = node("choice", DEFENDER, state=forced.state, repeats="transposition")
    root = node("choice", ATTACKER, unsure, refuted, unvisited, forced, again)
    assert proven_moves(root) == [forced.action, again.action]
    assert proven_moves(node("choice", ATTACKER, unsure, again)) == []  # What is not shown proves nothing.


# --- the search ---


def search_all(
    engine: Engine, problems: list[Problem], *, workers: int, simulations_max: int, seed: int = 1
) -> list[Solution]:
    return run(
        engine,
        problems,
        workers=workers,
        simulations_max=simulations_max,
        seed=seed,
        stop=StopRequest(),
        progress=lambda finished, current, simulations: None,
    )


def trace(solutions: list[Solution]) -> list[tuple[object, ...]]:
    """All that a search has found out, but for times."""
    return [
        (
            solution.move,
            solution.proven,
            solution.simulations,
            solution.metrics.rows,
            solution.metrics.transpositions,
            solution.metrics.changed_keys,
        )
        for solution in solutions
    ]


def test_same_seed_gives_the_same_search(engine: Engine) -> None:
    problems = load("loyd-1[89]*")
    assert len(problems) == 3
    one = trace(search_all(engine, problems, workers=1, simulations_max=150))
    again = trace(search_all(engine, problems, workers=1, simulations_max=150))
    other = trace(search_all(engine, problems, workers=1, simulations_max=150, seed=2))
    assert one == again != other


@pytest.mark.parametrize("workers", [1, 3])
def test_search_proves_quiet_keys_in_one_process_and_in_several(engine: Engine, workers: int) -> None:
    rook, bishops = search_all(
        engine, load("*ook-ending") + load("bishops-*"), workers=workers, simulations_max=5000
    )
    assert (rook.move.uci(), rook.proven, rook.solved) == ("f6f7", True, True)
    assert bishops.move.uci() in ("e3c5", "e3h6")
    assert bishops.proven and bishops.solved
    assert bishops.metrics.transpositions > 0
    for solution in (rook, bishops) if workers == 1 else ():
        metrics = solution.metrics
        # Each state was made once, but for the root, which was there; what was made again is a transposition.
        assert metrics.rows == metrics.expansions - metrics.transpositions + 1


def test_search_stops_at_its_budget(engine: Engine) -> None:
    (solution,) = search_all(engine, load("napoleon"), workers=1, simulations_max=20)
    assert (solution.simulations, solution.proven) == (20, False)


def test_run_tells_how_far_it_is_and_stops_when_asked(engine: Engine) -> None:
    told: list[tuple[int, str | None, int]] = []
    stop = StopRequest()

    def progress(finished: Sequence[Solution], current: Problem | None, simulations: int) -> None:
        told.append((len(finished), current and current.name, simulations))
        if current is not None and current.name == "queen-ending":
            stop.ask(signal.SIGINT)

    with pytest.raises(Stopped):
        run(
            engine, load("rook-ending") + load("queen-ending"),
            workers=1, simulations_max=10_000, seed=1, stop=stop, progress=progress,
        )  # fmt: skip
    assert (1, None, 0) in told
    assert told[0][:2] == (0, "rook-ending")
    assert told[-1] == (1, "queen-ending", 64)


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
    assert totals["proven"] == totals["problems"]
    assert 0 < totals["snapshots"] <= totals["simulations"]
    assert 0 < totals["commit_us"] <= totals["store_us_per_snapshot"]
    assert 0 < totals["store_share"] < 1
    assert totals["stored_bytes"] > 0
    assert totals["reused_bytes"] > 0
    assert 0 <= totals["l1_hit_rate"] <= 1
    for expected in (
        *names,
        "simulations",
        "snapshots made",
        "transpositions",
        "commit, mean",
        "fork and commit",
        "L1 hit rate",
        "bytes stored",
    ):
        assert expected in printed


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
    """The forked workers of a search, as soon as both are there: they have the command line of their parent."""
    parent = psutil.Process(process.pid)
    give_up_at = time.monotonic() + END_S_MAX
    while time.monotonic() < give_up_at:
        workers = []
        for child in parent.children():
            with suppress(psutil.Error):
                if child.cmdline() == parent.cmdline():
                    workers.append(child)
        if len(workers) == 2:
            return workers
    raise AssertionError("no search has started two workers")


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


# After the first line, the second search goes on for seconds: more than the tests take to interrupt it.
LONG = ("--problems", "*[oe][kn]-ending")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_the_group_ends_the_command_cleanly(signum: signal.Signals) -> None:
    with running_command(*LONG) as process:
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
    with running_command(*LONG) as process:
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
