"""A search over an environment of one's own, which takes twenty lines: tic-tac-toe, played against oneself.

    python -m examples.tic_tac_toe [STORE]

Each move is the one most visited by 300 simulations, and then a commit on a branch. The search goes on from there with
what it has found out so far: its new root and the head of the branch are the same state.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import helios_shm
from helios_shm import Snapshot, Workspace
from helios_shm.mcts import Search

LINES = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]
MARKS = "XO"


class TicTacToe:
    """Nine squares in one key. Player 0 is X, and moves first."""

    def legal_actions(self, state: Snapshot) -> Sequence[int]:
        return [square for square, mark in enumerate(state["board"].decode()) if mark == "."]

    def apply(self, state: Workspace, action: int) -> None:
        board = list(state["board"].decode())
        board[action] = MARKS[(9 - board.count(".")) % 2]
        state["board"] = "".join(board).encode()

    def returns(self, state: Snapshot) -> Sequence[float] | None:
        board = state["board"].decode()
        for a, b, c in LINES:
            if board[a] == board[b] == board[c] != ".":
                return (1, -1) if board[a] == "X" else (-1, 1)
        return None if "." in board else (0, 0)

    def current_player(self, state: Snapshot) -> int:
        return (9 - state["board"].count(b".")) % 2


def main(path: str | None = None) -> None:
    env = TicTacToe()
    with helios_shm.open(path) as engine:
        game = engine.branch("tic-tac-toe")
        with game.transaction("a new game") as workspace:
            workspace["board"] = b"." * 9
        with Search(env, game.head, seed=1) as search:
            while env.returns(search.root) is None:
                square = search.run(300).action
                move = f"{MARKS[env.current_player(search.root)]} to {square}"
                with game.transaction(move) as workspace:
                    env.apply(workspace, square)
                assert search.advance(square) == game.head
                print(move)
        board = game.head["board"].decode()
        print(board[:3], board[3:6], board[6:], env.returns(game.head), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:2])
