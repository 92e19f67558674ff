"""The adapter of chess says what python-chess says, and keeps positions apart or together as the rules do."""

import pickle
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import chess
import pytest

import helios_shm
from helios_shm import Engine, Snapshot
from helios_shm.mcts.games.chess import Chess, balance
from tests.mcts.games import assert_another_process_agrees, do, play, walk
from tests.programs import untraced

ENV = Chess()
# Endings come soon from there, and with them mates, stalemates, and boards with too little material.
ENDINGS = [
    "8/8/8/8/8/5k2/6q1/K7 b - - 0 1",
    "4k3/P6P/8/8/8/8/p6p/4K3 w - - 0 1",
    "7k/8/5K2/8/8/8/6p1/R7 b - - 0 1",
    "r3k2r/8/8/8/8/8/8/R3K2R w KQkq - 0 1",
    "4k3/pppppppp/8/8/8/8/PPPPPPPP/4K3 w - - 0 1",
]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """One store for all tests: none of them changes more than its own states."""
    with helios_shm.open(None) as engine:
        yield engine


def moves(text: str) -> list[chess.Move]:
    return [chess.Move.from_uci(move) for move in text.split()]


def outcome(board: chess.Board) -> list[float] | None:
    ended = board.outcome()
    if ended is None:
        return None
    if ended.winner is None:
        return [0.0, 0.0]
    return [1.0, -1.0] if ended.winner else [-1.0, 1.0]


class Beside:
    """A board of the package that makes the moves of a walk, and is compared with each state."""

    def __init__(self, env: Chess, board: chess.Board) -> None:
        self.env = env
        self.board = board

    def __call__(self, state: Snapshot, action: Any, rewards: Any) -> None:
        env, board = self.env, self.board
        if action is not None:
            board.push(action)
            board.clear_stack()  # A state does not know its past: repetitions are none of its endings.
        assert rewards is None
        assert env.returns(state) == outcome(board)
        assert set(env.legal_actions(state)) == set(board.legal_moves)
        assert env.current_player(state) == (0 if board.turn else 1)
        assert env.board(state).epd() == board.epd()
        assert env.encode(state) == board.epd().encode()
        assert dict(state) == env.encode_board(board)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("fen", [chess.STARTING_FEN, *ENDINGS])
def test_random_game_goes_as_in_the_package(engine: Engine, fen: str, seed: int) -> None:
    walk(ENV, ENV.root(engine, fen), random.Random(seed), Beside(ENV, chess.Board(fen)), 60)


@pytest.mark.parametrize("seed", range(3))
def test_random_game_of_chess960_goes_as_in_the_package(engine: Engine, seed: int) -> None:
    env, rng = Chess(chess960=True), random.Random(seed)
    board = chess.Board.from_chess960_pos(rng.randrange(960))
    for rank in ("1", "8"):  # So that castling comes soon.
        for name in "bcdfg":
            square = chess.parse_square(name + rank)
            if board.piece_type_at(square) not in (chess.KING, chess.ROOK):
                board.remove_piece_at(square)
    walk(env, env.root(engine, board), rng, Beside(env, board), 40)


def test_clock_ends_the_game_where_it_is_asked_for(engine: Engine) -> None:
    env, board = Chess(halfmove_clock=True), chess.Board("4k3/8/8/8/8/8/8/R3K3 w - - 140 100")
    root = env.root(engine, board)
    (*_, last) = walk(env, root, random.Random(1), Beside(env, board), 60)
    assert root["play/halfmove_clock"] == b"140"
    assert env.returns(last) == [0.0, 0.0]
    assert last["play/halfmove_clock"] in (b"0", b"150")
    assert "play/halfmove_clock" not in ENV.root(engine)


def test_states_say_the_same_in_another_process(engine: Engine) -> None:
    states = walk(ENV, ENV.root(engine), random.Random(7), lambda *_: None, 60)
    assert_another_process_agrees(ENV, states)


def test_two_move_orders_meet_in_one_snapshot(engine: Engine) -> None:
    root = ENV.root(engine)
    knights_first = play(ENV, root, moves("g1f3 g8f6 b1c3 b8c6"))
    assert knights_first == play(ENV, root, moves("b1c3 b8c6 g1f3 g8f6"))
    assert knights_first != play(ENV, root, moves("b1c3 b8c6 g1f3 e7e6"))
    assert play(ENV, root, moves("g1f3 g8f6 f3g1 f6g8")) == root


def test_rights_to_castle_and_to_capture_en_passant_keep_positions_apart(engine: Engine) -> None:
    root = ENV.root(engine, "4k3/8/8/8/3p4/8/4P3/4K2R w K - 0 1")
    assert play(ENV, root, moves("e2e4"))["play/ep"] == b"e3"
    assert play(ENV, root, moves("e2e3"))["play/ep"] == b"-"
    assert play(ENV, root, moves("e1f1"))["play/castling"] == b"-"
    assert play(ENV, root, moves("e2e3"))["play/castling"] == b"K"
    assert play(ENV, root, moves("h1h2 e8f8 h2h1 f8e8")) != root


@pytest.mark.parametrize(
    ("move", "changed"),
    [
        ("e1g1", {"board/e1", "board/f1", "board/g1", "board/h1", "play/turn", "play/castling"}),
        ("b5c6", {"board/b5", "board/c5", "board/c6", "play/turn", "play/ep"}),
        ("a7a8q", {"board/a7", "board/a8", "play/turn", "play/ep"}),
        ("e1e2", {"board/e1", "board/e2", "play/turn", "play/castling", "play/ep"}),
    ],
)
def test_move_changes_the_keys_that_it_must(engine: Engine, move: str, changed: set[str]) -> None:
    root = ENV.root(engine, "4k3/P7/8/1Pp5/8/8/8/4K2R w K c6 0 2")
    expected = changed | {"play/ep"}
    state, _ = do(ENV, root, chess.Move.from_uci(move))
    before, after = dict(root), dict(state)
    assert {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)} == expected


def test_keys_beside_the_position_stay_and_tell_states_apart(engine: Engine) -> None:
    workspace = ENV.root(engine).fork()
    workspace["task"] = b"win in ten"
    (move,) = moves("e2e4")
    root = workspace.commit().snapshot
    state, _ = do(ENV, root, move)
    assert state["task"] == b"win in ten"
    assert state != do(ENV, ENV.root(engine), move)[0]


def test_playout_ends_where_the_game_does_or_by_material(engine: Engine) -> None:
    rng = random.Random(3)
    mated = ENV.root(engine, "R5k1/5ppp/8/8/8/8/8/6K1 b - - 0 1")
    assert list(ENV.rollout(mated, rng)) == [1.0, -1.0]
    queen_up = ENV.root(engine, "k7/8/8/8/8/8/8/KQ6 w - - 0 1")
    assert list(Chess(rollout_plies=0).rollout(queen_up, rng)) == [9 / 39, -9 / 39]
    assert balance(chess.Board()) == [0.0, 0.0]
    root = ENV.root(engine)
    before = ENV.encode(root)
    assert ENV.rollout(root, random.Random(5)) == ENV.rollout(root, random.Random(5))
    assert ENV.encode(root) == before
    forced = ENV.root(engine, "k7/8/1K6/8/8/8/8/7R w - - 0 1")
    ends = [tuple(ENV.rollout(forced, random.Random(seed))) for seed in range(20)]
    assert (1.0, -1.0) in ends


def test_what_is_no_position_and_no_move_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="no position of chess"):
        ENV.root(engine, chess.Board("8/8/8/8/8/8/8/K7 w - - 0 1"))
    with pytest.raises(ValueError, match="BAD_CASTLING_RIGHTS"):
        ENV.root(engine, chess.Board.from_chess960_pos(0))  # Its rooks are not in the corners.
    workspace = ENV.root(engine).fork()
    with pytest.raises(ValueError, match="e2e5 is no legal move"):
        ENV.apply(workspace, chess.Move.from_uci("e2e5"))
    assert not workspace.edits
    workspace["board/e4"] = b"green knight"
    with pytest.raises(ValueError, match="board/e4 holds b'green knight'"):
        ENV.legal_actions(workspace.commit().snapshot)
    workspace = ENV.root(engine).fork()
    workspace["play/castling"] = b"QK"
    with pytest.raises(ValueError, match="play/castling holds b'QK'"):
        ENV.legal_actions(workspace.commit().snapshot)
    with pytest.raises(ValueError, match="rollout_plies"):
        Chess(rollout_plies=-1)


def test_moves_made_in_one_workspace_are_one_state(engine: Engine) -> None:
    root = ENV.root(engine)
    workspace = root.fork()
    for move in moves("e2e4 e7e5 g1f3"):
        ENV.apply(workspace, move)
    assert workspace.commit().snapshot == play(ENV, root, moves("e2e4 e7e5 g1f3"))


def test_environment_pickles_without_what_it_has_decoded(engine: Engine) -> None:
    env = Chess(halfmove_clock=True, rollout_plies=7)
    small = len(pickle.dumps(env))
    walk(env, env.root(engine), random.Random(1), lambda *_: None, 30)
    assert len(pickle.dumps(env)) == small
    copy = pickle.loads(pickle.dumps(env))
    assert (copy.halfmove_clock, copy.rollout_plies, copy.chess960) == (True, 7, False)


def test_missing_package_names_its_extra() -> None:
    program = "import sys; sys.modules['chess'] = None; import helios_shm.mcts.games.chess"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=untraced(), timeout=60, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert 'pip install "helios-shm[chess]"' in done.stderr
