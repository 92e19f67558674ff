"""What a worker process does: expand leaves of the search tree.

    Expansion(parent, move, seed)  --fork, play, commit, roll out-->  Leaf(snapshot, value, moves, metrics)

Invariants: one fork and one commit an expansion; the rollout stays in the worker's own memory; the answer
depends on the expansion alone, not on the process, the order or the time it is made in.

`expand` is called in worker processes by the runner (and directly by tests). Values and outcomes are always
from the viewpoint of the player who is to move in the position they belong to.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import chess

from helios_shm import CommitMetrics, Snapshot

from . import position

WIN, LOSS = 1, -1

# How often the attacker of a rollout plays a check when there is one. Not always: some keys are quiet.
_CHECK_SHARE = 0.75


@dataclass(frozen=True, slots=True)
class Expansion:
    """Play `move` (UCI) in `parent`; `seed` decides the rollout and the order of equally promising moves."""

    parent: Snapshot
    move: str
    seed: str


@dataclass(frozen=True, slots=True)
class Leaf:
    """The committed child of an expansion.

    `outcome` is WIN or LOSS where the position itself decides, else None; `moves` are those worth trying,
    best first, and empty where the outcome is known. `full_bytes` is what a copy of the whole state would
    take: keys and values.
    """

    snapshot: Snapshot
    value: int
    outcome: int | None
    moves: tuple[str, ...]
    metrics: CommitMetrics
    full_bytes: int


def expand(batch: Sequence[Expansion]) -> list[Leaf]:
    """Expand each of `batch`, in order."""
    return [_expand_one(expansion) for expansion in batch]


def _expand_one(expansion: Expansion) -> Leaf:
    before = dict(expansion.parent.items())
    workspace = expansion.parent.fork()
    board, plies_left = position.decode(before)
    board.push_uci(expansion.move)
    context = {key: value for key, value in before.items() if not key.startswith(("board/", "play/"))}
    position.write(workspace, before, context | position.encode(board, plies_left - 1))
    commit = workspace.commit()
    rng = random.Random(expansion.seed)
    outcome, moves = judge(board, plies_left - 1, rng)
    return Leaf(
        snapshot=commit.snapshot,
        value=_roll_out(board, plies_left - 1, rng) if outcome is None else outcome,
        outcome=outcome,
        moves=moves,
        metrics=commit.metrics,
        full_bytes=full_bytes(commit.snapshot),
    )


def full_bytes(snapshot: Snapshot) -> int:
    """The bytes of all keys and values of a state."""
    return snapshot.nbytes + sum(len(key.encode()) for key in snapshot)


def judge(board: chess.Board, plies_left: int, rng: random.Random) -> tuple[int | None, tuple[str, ...]]:
    """The outcome for the player to move if the position decides it, else None; and the moves to try."""
    attacking = plies_left % 2 == 1
    moves = list(board.legal_moves)
    if not moves:
        # Mated, or stalemated: which saves the defender and fails the attacker.
        return (LOSS if attacking or board.is_check() else WIN), ()
    if plies_left == 0:
        return WIN, ()
    if plies_left == 1:
        # Only a check can mate now.
        moves = [move for move in moves if board.gives_check(move)]
        if not moves:
            return LOSS, ()
    rng.shuffle(moves)
    moves.sort(key=lambda move: _promise(board, move, attacking), reverse=True)
    return None, tuple(move.uci() for move in moves)


def _promise(board: chess.Board, move: chess.Move, attacking: bool) -> int:
    """A rank for the order in which moves are tried: checks, then captures."""
    return (2 if attacking and board.gives_check(move) else 0) + (1 if board.is_capture(move) else 0)


def _roll_out(board: chess.Board, plies_left: int, rng: random.Random) -> int:
    """Play on: checks more often than not, a mate if the last move allows one. Leaves `board` at the end."""
    attacker = board.turn if plies_left % 2 == 1 else not board.turn
    mover = board.turn
    while plies_left > 1:
        moves = list(board.legal_moves)
        if not moves:
            break
        if board.turn == attacker and rng.random() < _CHECK_SHARE:
            moves = [move for move in moves if board.gives_check(move)] or moves
        board.push(rng.choice(moves))
        plies_left -= 1
    mated = board.is_checkmate() if board.turn != attacker else plies_left == 1 and _can_mate(board)
    return WIN if mated == (mover == attacker) else LOSS


def _can_mate(board: chess.Board) -> bool:
    """Whether the player to move mates at once."""
    for move in list(board.legal_moves):
        if board.gives_check(move):
            board.push(move)
            mated = board.is_checkmate()
            board.pop()
            if mated:
                return True
    return False
