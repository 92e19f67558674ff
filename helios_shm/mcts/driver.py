"""What the process that has a search does while it runs: itself, or through its workers.

    alone   select, expand, simulate, backup, one after the other; or with an evaluator, several under way
    pool    tree and root parallelism: hand out tickets, wait for reports and deaths, make room, save now and then
    leaf    one walk, then a rollout from its leaf by each worker

A run that raises lets its workers come to an end first, except for an interrupt: whoever next needs them idle waits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from .. import CapacityError, Snapshot
from .environment import Environment
from .forest import DRIVER, Forest
from .gather import Batching, Gathering, Lookout
from .options import SIMULATIONS_MAX, Options
from .pool import Death, Pool, Worker
from .worker import Assignment, Evaluate, Report
from .worker import Search as SearchOrder

A = TypeVar("A")

_WAIT_SECONDS = 0.05  # at most, so that a Ctrl-C and the clock are seen


class Budget:
    """So many simulations, so much time."""

    def __init__(self, simulations: int | None, seconds: float | None) -> None:
        self.simulations = SIMULATIONS_MAX if simulations is None else simulations
        self._end = math.inf if seconds is None else time.monotonic() + seconds

    def left(self) -> float:
        """Seconds, 0 or more."""
        return max(0.0, self._end - time.monotonic())

    def over(self) -> bool:
        return time.monotonic() >= self._end


class Driver(Generic[A]):
    """Runs one search. ``now_and_then``: is called between simulations, a few times a second at least."""

    def __init__(
        self,
        env: Environment[A],
        forest: Forest[A],
        options: Options,
        batching: Batching | None,
        seed: int,
        now_and_then: Callable[[], None],
    ) -> None:
        self._env, self._forest, self._options = env, forest, options
        self._batching, self._seed, self._now_and_then = batching, seed, now_and_then
        self._pool: Pool[A] | None = None
        self.gathering: Gathering[A] | None = None
        self.workers_lost = self.finished = self.undone = 0

    @property
    def leaves(self) -> int:
        """How many simulations a process has under way at once."""
        return 1 if self._batching is None else self._batching.leaves_per_worker

    @property
    def workers(self) -> list[Worker]:
        """Those that were started, worker i at place i."""
        return [] if self._pool is None else self._pool.workers

    def prepare(self) -> None:
        """Start what a run needs: the evaluator, which says which actions of the roots are promising, and workers."""
        if self._batching is not None:
            self.settle()
            if self.gathering is None:
                self.gathering = Gathering(
                    self._batching,
                    self._options.workers,
                    self._forest.num_players,
                    self._options.start_method,
                )
            for simulator, row in zip(self._forest.simulators, self._forest.rows, strict=True):
                self.gathering.walks(simulator).evaluate_root(row, self.gathering.attend)
        if self._options.workers > 1:
            self._started()

    def run(self, budget: Budget) -> None:
        """Simulations until the budget is used up."""
        if self._options.workers == 1:
            self._run_alone(budget)
            return
        pool = self._started()
        self.settle()
        try:
            if self._options.parallel == "leaf":
                self._run_one_by_one(budget, lambda: self._leaf_simulated(pool))
            else:
                self._run_pool(pool, budget)
        except Exception:
            self.settle()
            raise
        finally:
            self._forest.stop(True)
        self.settle()

    def settle(self) -> None:
        """Until every worker is idle. What they report of a run that was interrupted is dropped."""
        pool = self._pool
        while pool is not None and pool.busy:
            self._forest.stop(True)
            others = () if self.gathering is None else self.gathering.attend_to_end()
            for _, told in pool.wait(_WAIT_SECONDS, others):
                if isinstance(told, Death):
                    self._mourn(told)

    def close(self) -> None:
        """End all processes. Idempotent."""
        if self.gathering is not None:
            self.gathering.close()
        if self._pool is not None:
            self._pool.close()

    # --- this process ---

    def _run_alone(self, budget: Budget) -> None:
        if self.gathering is not None:
            self._gather_alone(self.gathering, budget)
            return
        simulator, row = self._forest.simulators[0], self._forest.rows
        self._run_one_by_one(budget, lambda: simulator.simulate(0, row[0]))

    def _run_one_by_one(self, budget: Budget, simulate: Callable[[], bool]) -> None:
        forest, simulator = self._forest, self._forest.simulators[0]
        memory = simulator.table.tally(DRIVER)
        forest.hand_out(budget.simulations)
        try:
            while not budget.over():
                try:
                    if not simulate():
                        break
                except CapacityError:
                    forest.make_room(0)
                self._now_and_then()
        finally:
            simulator.tally.show(memory)

    def _gather_alone(self, gathering: Gathering[A], budget: Budget) -> None:
        forest, simulator = self._forest, self._forest.simulators[0]
        memory = simulator.table.tally(DRIVER)
        lookout = Lookout(gathering.attend)

        def goes_on() -> bool:
            lookout()
            simulator.tally.show(memory)
            self._now_and_then()
            return not budget.over()

        forest.hand_out(budget.simulations)
        try:
            while gathering.walks(simulator).run(forest.rows[0], goes_on) == "full":
                forest.make_room(0)
        finally:
            simulator.tally.show(memory)

    # --- workers on tables ---

    def _started(self) -> Pool[A]:
        if self._pool is None or not self._pool.workers:
            tables = self._forest.tables
            tables = tables * (self._options.workers if len(tables) == 1 else 1)
            self._pool = Pool(tables, self._assignment, self._options.start_method)
        return self._pool

    def _assignment(self, index: int, incarnation: int) -> Assignment[A]:
        return Assignment(
            env=self._env,
            root=self._forest.root,
            num_players=self._forest.num_players,
            discount=self._options.discount,
            owner=index + 1,
            lane=(index + 1) * self.leaves,
            seed=f"{self._seed}:{index}:{incarnation}",
            mailbox=None if self.gathering is None else self.gathering.mailbox,
        )

    def _run_pool(self, pool: Pool[A], budget: Budget) -> None:
        """Hand out tickets, and look after those who use them, until all simulations are done."""
        forest = self._forest
        before = forest.completed()
        while not budget.over():
            left = budget.simulations - (forest.completed() - before)
            if left <= 0:
                break
            forest.hand_out(left)
            for worker in pool.workers:
                self._order(pool, worker)
            forest.moved = False
            for index in self._until_idle(pool, budget):
                forest.make_room(index)
        if self.gathering is not None:
            self.gathering.attend()

    def _order(self, pool: Pool[A], worker: Worker) -> None:
        rows = self._forest.rows
        row = rows[worker.index if len(rows) > 1 else 0]
        pool.give(worker, SearchOrder(row, self._forest.moved))

    def _until_idle(self, pool: Pool[A], budget: Budget) -> set[int]:
        """Until the workers have used up their tickets, or the time is over. Returns the tables that are full."""
        full: set[int] = set()
        while pool.busy:
            if budget.over():
                self._forest.stop(True)
            others = () if self.gathering is None else self.gathering.attend()
            for worker, told in pool.wait(min(_WAIT_SECONDS, budget.left() or _WAIT_SECONDS), others):
                if isinstance(told, Death):
                    self._mourn(told)
                    if told.was_busy:
                        self._order(pool, worker)
                elif told.ending == "failed":
                    raise_from(told)
                elif told.ending == "full":
                    full.add(worker.index if len(self._forest.rows) > 1 else 0)
            self._now_and_then()
        return full

    def _mourn(self, death: Death) -> None:
        """Count a death, and see to what the dead one held."""
        self.workers_lost += 1
        self.finished += death.finished
        self.undone += death.undone
        if self.gathering is not None:
            self.gathering.mailbox.withdraw(death.worker.owner)
        self._forest.hold(death.worker.table)

    # --- workers at one leaf ---

    def _leaf_simulated(self, pool: Pool[A]) -> bool:
        simulator = self._forest.simulators[0]
        table, descent = simulator.table, simulator.table.descent()
        with simulator.timed():
            try:
                table.begin(0, DRIVER, self._forest.rows[0], descent)
                leaf = simulator.leaf(0, descent)
                if leaf is not None:
                    values = self._rollouts(pool, leaf.state, min(len(pool.workers), 1 + table.tickets()))
                    table.tickets(1 - len(values))
                    means = [math.fsum(column) / len(values) for column in zip(*values, strict=True)]
                    table.backup(0, means, len(values))
            except BaseException:
                table.abandon(0)
                raise
        return not descent.none

    def _rollouts(self, pool: Pool[A], state: Snapshot, count: int) -> list[Sequence[float]]:
        """What ``count`` workers say of a state; fewer if some die, one at least."""
        values: list[Sequence[float]] = []
        while not values:
            for worker in pool.workers[:count]:
                pool.give(worker, Evaluate(state))
            while pool.busy:
                for _, told in pool.wait(_WAIT_SECONDS):
                    if isinstance(told, Death):
                        self._mourn(told)
                    elif told.ending == "failed":
                        raise_from(told)
                    elif told.values is not None:
                        values.append(told.values)
        return values


def raise_from(report: Report) -> None:
    """Raise in the driver what an environment raised in a worker."""
    assert report.error is not None
    report.error.add_note(f"in a worker of the search:\n{report.text}")
    raise report.error
