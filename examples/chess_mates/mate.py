"""The environment: mate in so many moves, on top of the library's chess.

    board/e4 ... play/turn ...   the position (helios_shm.mcts.games.chess)
    play/plies_left              how many plies are left to mate in; odd: the attacker is to move
    problem/name ...             which problem it is; stays as it is

Player 0 attacks and player 1 defends: returns are (1, -1) for the mate, (-1, 1) for the defence, which also wins by
stalemate, and when no ply is left. Positions with the same plies left are one state, whichever moves led there.

What makes a tree search find mates: priors that look at checks first, and playouts that play them more often than not
and see a mate with the last ply.
"""

from collections.abc import Sequence
from random import Random

import chess

from helios_shm import Engine, Snapshot, Workspace
from helios_shm.mcts.games.chess import Chess

from .problems import Problem

PLIES_LEFT = "play/plies_left"
ATTACKER, DEFENDER = 0, 1
MATE, DEFENCE = (1.0, -1.0), (-1.0, 1.0)

# Logits: a check is tried about four times as often as another move.
_CHECK_LOGIT, _CAPTURE_LOGIT = 1.5, 0.5
# How often the attacker of a playout plays a check when there is one. Not always: some keys are quiet.
_CHECK_SHARE = 0.75


class Mate(Chess):
    """Chess that ends after ``play/plies_left`` plies, with the mate or without it."""

    def problem_root(self, engine: Engine, problem: Problem) -> Snapshot:
        """The state of a problem, whose side to move attacks."""
        workspace = self.root(engine, problem.board).fork()
        workspace["problem/name"] = problem.name.encode()
        workspace["problem/source"] = problem.source.encode()
        workspace["problem/goal"] = f"mate in {problem.mate_in}".encode()
        workspace[PLIES_LEFT] = b"%d" % problem.plies
        return workspace.commit().snapshot

    def legal_actions(self, state: Snapshot) -> Sequence[chess.Move]:
        """All legal moves; with the last ply, checks alone, since nothing else can mate."""
        moves = super().legal_actions(state)
        if plies_left(state) != 1:
            return moves
        board = self.board(state)
        return [move for move in moves if board.gives_check(move)]

    def apply(self, state: Workspace, action: chess.Move) -> None:
        left = plies_left(state)
        super().apply(state, action)
        state[PLIES_LEFT] = b"%d" % (left - 1)

    def returns(self, state: Snapshot) -> Sequence[float] | None:
        left = plies_left(state)
        if not super().legal_actions(state):
            mated = left % 2 == 0 and self.board(state).is_check()
            return MATE if mated else DEFENCE
        if left == 0 or not self.legal_actions(state):
            return DEFENCE
        return None

    def current_player(self, state: Snapshot) -> int:
        return ATTACKER if plies_left(state) % 2 else DEFENDER

    def prior_logits(self, state: Snapshot, actions: Sequence[chess.Move]) -> Sequence[float]:
        """Checks first, then captures, for the attacker; all alike for the defender."""
        if self.current_player(state) == DEFENDER:
            return [0.0] * len(actions)
        board = self.board(state)
        return [
            _CHECK_LOGIT * board.gives_check(move) + _CAPTURE_LOGIT * board.is_capture(move)
            for move in actions
        ]

    def rollout(self, state: Snapshot, rng: Random) -> Sequence[float]:
        """Play on at random, checks more often than not, and mate if the last ply allows it."""
        board = self.board(state)
        for left in range(plies_left(state), 1, -1):
            moves = list(board.legal_moves)
            if not moves:
                return MATE if left % 2 == 0 and board.is_check() else DEFENCE
            if left % 2 == 1 and rng.random() < _CHECK_SHARE:
                moves = [move for move in moves if board.gives_check(move)] or moves
            board.push(rng.choice(moves))
        return MATE if _can_mate(board) else DEFENCE


def plies_left(state: Snapshot | Workspace) -> int:
    return int(state[PLIES_LEFT])


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
