"""Evaluations a second of a search whose evaluator takes a while for each call and a little for each state, as a neural
network on a device does, or a remote model: leaves gathered from workers, beside one by one.

    one by one     walk, 1.05 ms, backup; walk, 1.05 ms, backup ...
    in batches     8 leaves of each worker under way; walks go on while a batch takes 1 ms, and 0.05 ms for each state

The evaluator sleeps: its time is somebody else's, and all cores are left to the workers.
"""

import statistics
import time
from collections.abc import Iterator, Sequence

import helios_shm
from helios_shm import Snapshot, Workspace
from helios_shm.mcts import Evaluation, Search

from .harness import Beside, Row, Setting, Spread, Target
from .states import store

CALL_SECONDS, STATE_SECONDS = 1e-3, 5e-5
ONE_BY_ONE = "one by one, the same evaluator"
LEAVES = (8, 32)  # of each worker
WORKERS = 2


class Numbers:
    """A number that grows for ever, in one of eight ways."""

    num_players = 1

    def legal_actions(self, state: Snapshot) -> Sequence[int]:
        return range(8)

    def apply(self, state: Workspace, action: int) -> None:
        state["number"] = b"%d" % (int(state["number"]) * 8 + action + 1)

    def returns(self, state: Snapshot) -> Sequence[float] | None:
        return None

    def encode(self, state: Snapshot) -> bytes:
        return state["number"]


class Device:
    """Takes its time, and thinks little of anything."""

    def evaluate(self, batch: Sequence[bytes]) -> list[Evaluation]:
        time.sleep(CALL_SECONDS + STATE_SECONDS * len(batch))
        return [Evaluation(1.0 / len(number)) for number in batch]


def rate(search: Search[int], evaluations: int) -> float:
    """Evaluations a second: one a simulation, since nothing ends."""
    start = time.perf_counter()
    done = search.run(evaluations).num_simulations
    return done / (time.perf_counter() - start)


def rates(
    engine: helios_shm.Engine, leaves: int, setting: Setting
) -> tuple[list[float], list[float], float, int]:
    """Of both, round by round; the mean size of a batch, and how many evaluations there were in batches."""
    start = engine.empty.fork()
    start["number"] = b"0"
    root, device, each = start.commit().snapshot, Device(), setting.scale(600, 40)
    with (
        Search(Numbers(), root, seed=1, evaluator=device, workers=WORKERS, leaves_per_worker=leaves) as ours,
        Search(Numbers(), root, seed=1, evaluator=device, leaves_per_worker=1) as theirs,
    ):
        rate(ours, each)
        rate(theirs, each // 8)
        pairs = [(rate(ours, each), rate(theirs, each // 8)) for _ in range(setting.scale(7, 3))]
        stats = ours.evaluator_stats
    assert stats is not None, "an evaluator has run"
    return [a for a, _ in pairs], [b for _, b in pairs], stats.mean_batch_size, stats.evaluations


def evaluator(setting: Setting) -> Iterator[Row]:
    """Batches of two workers, with few and with many leaves each."""
    for leaves in LEAVES:
        with store(setting) as engine:
            batched, single, size, count = rates(engine, leaves, setting)
        ratio = statistics.median(a / b for a, b in zip(batched, single, strict=True))
        yield Row(
            operation=f"evaluations of 1 ms + 0.05 ms a state, {WORKERS} workers with {leaves} leaves each",
            n=count,
            ours=Spread.of(batched, "/s"),
            peers=(Beside(ONE_BY_ONE, Spread.of(single, "/s"), ratio),),
            targets=(Target(">=", 4.0, ONE_BY_ONE),) if leaves == LEAVES[0] else (),
            note=f"batches of {size:.1f} states",
        )
