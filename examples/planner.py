"""A planner that tries, fails and goes back: queens on a chessboard, none of which may attack another.

    python -m examples.planner [STORE]

The plan is a branch. Each of its states holds the board as a state of its own (a snapshot inside a snapshot) beside
what the planner knows of its search. Going back is ``restore``: the log keeps the attempts that failed, and every
board that was ever tried can be reached through it.
"""

from __future__ import annotations

import sys

import helios_shm
from helios_shm import Branch, Snapshot, codecs

SIZE = 6


def place(board: Snapshot, row: int, column: int) -> Snapshot | None:
    """The board with one more queen; None if she would be attacked."""
    workspace = board.fork()
    queens = workspace.view("queens/", codec=codecs.json)
    if any(column == other or abs(column - other) == row - int(name) for name, other in queens.items()):
        return None
    queens[f"{row}"] = column
    return workspace.commit().snapshot


def solve(plan: Branch, row: int) -> bool:
    """Fill the rows from this one on; leave the plan as it was if that cannot be."""
    if row == SIZE:
        return True
    before = plan.head
    for column in range(SIZE):
        board = place(before.nested("board"), row, column)
        if board is None:
            continue
        with plan.transaction(f"row {row}: column {column}") as workspace:
            workspace.put("board", board)
            workspace.view("search/", codec=codecs.json)["rows"] = row + 1
        if solve(plan, row + 1):
            return True
        plan.restore(before, f"back to row {row}")
    return False


def main(path: str | None = None) -> None:
    with helios_shm.open(path) as engine:
        start = engine.empty.fork()
        start.put("board", engine.empty)
        plan = engine.branch("plan", at=start.commit().snapshot)
        assert solve(plan, 0)
        board = plan.head.nested("board").view("queens/", codec=codecs.json)
        for row in range(SIZE):
            print(" ".join("Q" if board[f"{row}"] == column else "." for column in range(SIZE)))
        commits = list(plan.log())
        failed = sum(commit.message.startswith("back") for commit in commits)
        boards = {commit.snapshot.nested("board") for commit in commits}
        print(f"{len(commits)} commits, {failed} ways back, {len(boards)} boards")


if __name__ == "__main__":
    main(*sys.argv[1:2])
