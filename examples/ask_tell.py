"""Ask and tell: a search whose states are evaluated elsewhere, in any order and as late as it takes.

    python -m examples.ask_tell [STORE]

From 1 to 100 in as few steps as can be, where a step adds one, doubles or triples. The search hands out numbers that
nobody has looked at yet and goes on; the evaluators, here a pool of processes that know nothing of search or store,
send back what they think of each, whenever they have it. A state that is out counts as a visit on its way, so that
those asked for together lie on different paths; an answer that comes twice counts once.
"""

from __future__ import annotations

import sys
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from math import log2

import helios_shm
from helios_shm import Snapshot, Workspace
from helios_shm.mcts import Search

TARGET = 100
DISCOUNT = 0.9  # so that fewer steps are worth more
OUT_AT_ONCE = 16
NUMBERS = 2000
STEPS = {"add one": lambda n: n + 1, "double": lambda n: 2 * n, "triple": lambda n: 3 * n}


class Numbers:
    """One player, who gets 1 for the target and nothing beyond it."""

    num_players = 1

    def legal_actions(self, state: Snapshot) -> list[str]:
        return list(STEPS)

    def apply(self, state: Workspace, action: str) -> None:
        state["number"] = b"%d" % STEPS[action](int(state["number"]))

    def returns(self, state: Snapshot) -> list[float] | None:
        number = int(state["number"])
        return None if number < TARGET else [float(number == TARGET)]


def judge(number: bytes) -> float:
    """What an evaluator says of a number: as if doubling led there."""
    return float(DISCOUNT ** log2(TARGET / int(number)))


def search_by(evaluators: Executor, search: Search[str]) -> int:
    """Let evaluators look at numbers until enough are known, or all. Returns how many were looked at."""
    out: dict[Future[float], bytes] = {}
    told = 0
    while told < NUMBERS:
        for trial in search.ask(OUT_AT_ONCE - len(out)) if len(out) < OUT_AT_ONCE else []:
            out[evaluators.submit(judge, trial.state["number"])] = trial.id
        if not out:
            break
        for answer in wait(out, return_when=FIRST_COMPLETED).done:
            trial_id = out.pop(answer)
            search.tell(trial_id, answer.result())
            search.tell(trial_id, answer.result())  # as from a network that delivers at least once
            told += 1
    return told


def main(path: str | None = None) -> None:
    with ProcessPoolExecutor(2) as evaluators, helios_shm.open(path) as engine:
        start = engine.empty.fork()
        start["number"] = b"1"
        with Search(Numbers(), start.commit().snapshot, discount=DISCOUNT, seed=1) as search:
            told = search_by(evaluators, search)
            steps = []
            while search.root["number"] != b"%d" % TARGET:
                best = max(search.tree(depth=1).children, key=lambda child: child.visits)
                assert best.action is not None
                steps.append(best.action)
                search.advance(best.action)
            print(f"from 1 to {TARGET} in {len(steps)} steps")
            print(f"{told} numbers were looked at", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:2])
