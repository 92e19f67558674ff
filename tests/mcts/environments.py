"""Small environments to search in: each shows one thing."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from random import Random

from helios_shm import CommitMetrics, Snapshot, Workspace
from helios_shm.mcts import CHANCE

LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))


class TicTacToe:
    """The three methods and nothing else: a key for each mark."""

    def legal_actions(self, state: Snapshot) -> list[int]:
        return [square for square in range(9) if str(square) not in state]

    def apply(self, state: Workspace, action: int) -> None:
        state[str(action)] = b"x" if len(state) % 2 == 0 else b"o"

    def returns(self, state: Snapshot) -> list[float] | None:
        marks = [state.get(str(square)) for square in range(9)]
        for a, b, c in LINES:
            if marks[a] is not None and marks[a] == marks[b] == marks[c]:
                return [1.0, -1.0] if marks[a] == b"x" else [-1.0, 1.0]
        return [0.0, 0.0] if len(state) == 9 else None


class Walk:
    """One player on the squares 0 .. 6 of a line; each step costs 1, the right end pays 10, the left end nothing."""

    num_players = 1

    def legal_actions(self, state: Snapshot) -> list[int]:
        return [-1, 1]

    def apply(self, state: Workspace, action: int) -> None:
        raise AssertionError("step stands in its place")

    def step(self, state: Workspace, action: int) -> float:
        state["at"] = b"%d" % (int(state["at"]) + action)
        return -1.0

    def returns(self, state: Snapshot) -> list[float] | None:
        return {0: [0.0], 6: [10.0]}.get(int(state["at"]))

    def rollout(self, state: Snapshot, rng: Random) -> float:
        return 0.0


class Bet:
    """One player: a sure 0.4, or a coin that pays 1 or 0 with 3 : 1."""

    num_players = 1

    def legal_actions(self, state: Snapshot) -> list[str]:
        return ["sure", "coin"]

    def current_player(self, state: Snapshot) -> int:
        return CHANCE if state.get("bet") == b"coin" else 0

    def chance_outcomes(self, state: Snapshot) -> list[tuple[str, float]]:
        return [("heads", 0.75), ("tails", 0.25)]

    def apply(self, state: Workspace, action: str) -> None:
        state["bet"] = action.encode()

    def returns(self, state: Snapshot) -> list[float] | None:
        paid = {b"sure": 0.4, b"heads": 1.0, b"tails": 0.0}.get(state.get("bet", b""))
        return None if paid is None else [paid]


class Split:
    """Three players, one after the other, take 0, 1 or 2 of what is left of 4; who takes the last gets nothing."""

    def legal_actions(self, state: Snapshot) -> list[int]:
        left = int(state.get("left", b"4"))
        return [number for number in range(3) if number <= left]

    def apply(self, state: Workspace, action: int) -> None:
        turn, left = int(state.get("turn", b"0")), int(state.get("left", b"4")) - action
        state["turn"], state["left"] = b"%d" % (turn + 1), b"%d" % left
        state[f"took/{turn}"] = b"%d" % (0 if left == 0 else action)

    def returns(self, state: Snapshot) -> list[float] | None:
        if int(state.get("turn", b"0")) < 3:
            return None
        return [float(state[f"took/{player}"]) for player in range(3)]


class Priced:
    """One player chooses how much to write; the reward is what the commit did not cost."""

    num_players = 1

    def legal_actions(self, state: Snapshot) -> list[int]:
        return [1, 100]

    def apply(self, state: Workspace, action: int) -> None:
        for number in range(action):
            state[f"k/{number}"] = os.urandom(8)

    def commit_reward(self, metrics: CommitMetrics) -> float:
        return -float(metrics.changed_keys)

    def returns(self, state: Snapshot) -> list[float] | None:
        return [0.0] if len(state) else None


class Failing(TicTacToe):
    """Raises when a third mark is made."""

    num_players = 2

    def apply(self, state: Workspace, action: int) -> None:
        if len(state) == 2:
            raise LookupError(f"no square {action}")
        super().apply(state, action)


class Deadly(TicTacToe):
    """One rollout in twenty takes its process along."""

    num_players = 2

    def rollout(self, state: Snapshot, rng: Random) -> Sequence[float]:
        if rng.random() < 0.05:
            os.kill(os.getpid(), signal.SIGKILL)
        return [0.0, 0.0]
