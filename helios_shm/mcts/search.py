"""``Search``: Monte Carlo tree search over snapshots, by one process or many.

    sequential (workers=1)   this process: select, expand, simulate, backup (simulate.py)
    tree                     all workers do that at once on one table in shared memory; this process looks after them
    root                     each worker on a table of its own; what they counted is added up
    leaf                     this process selects and expands; all workers roll out from the same leaf

Terms and formulae are those of the literature: Kocsis & Szepesvari 2006 (UCT), Rosin 2011 and Silver et al. 2017
(PUCT), Chaslot, Winands & van den Herik 2008 (leaf, root and tree parallelism, virtual loss), Liu et al. 2020
(WU-UCT), Coulom 2007 (progressive widening), Childs, Brodeur & Kocsis 2008 (transpositions); names as in mctx.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar

from .. import Branch, CapacityError, ClosedError, Commit, CorruptError, Snapshot
from .environment import Environment, Rules
from .evaluator import Evaluator, EvaluatorStats
from .gather import Batching, Gathering, Lookout
from .metrics import Metrics, Tally, summed
from .pool import Death, Pool, StartMethod, Worker
from .rows import TableRows
from .save import Changes, Header, Saved, Saver, restore
from .simulate import Simulator
from .table import Settings, Table
from .tree import TreeNode, grow
from .trials import TRIALS_MAX, Trial, Trials
from .worker import Assignment, Evaluate, Report
from .worker import Search as SearchOrder

A = TypeVar("A")

_TICKETS_UNBOUNDED = 2**40
_WAIT_SECONDS = 0.05  # at most, so that a Ctrl-C and the clock are seen
_DRIVER = 0  # the owner number of this process; worker i is i + 1
_MIB = 1 << 20
# What a search is made with, beside its environment, its root and its branch; saved with it.
_OPTIONS = (
    "workers",
    "parallel",
    "c_puct",
    "discount",
    "seed",
    "selection",
    "c_uct",
    "fpu",
    "normalize",
    "in_flight",
    "virtual_loss",
    "widening",
    "temperature",
    "dirichlet_alpha",
    "dirichlet_fraction",
    "depth_max",
    "table_bytes",
    "when_full",
    "save_every",
    "start_method",
    "batch_size",
    "leaves_per_worker",
    "batch_wait_ms",
    "encoded_bytes_max",
    "logits_max",
)


@dataclass(frozen=True, slots=True)
class Result(Generic[A]):
    """What a search found.

    ``action``: the one most visited (or drawn, with a temperature). ``visit_counts``: of each action of the root, with
    those of earlier runs and of the tree that was kept. ``value``: the mean value of ``action`` for the player who
    moves. ``num_simulations``: of this run. ``store_share``: which share of this run's time the state store took.
    """

    action: A
    visit_counts: Mapping[A, int]
    value: float
    num_simulations: int
    store_share: float


class Search(Generic[A]):
    """A search from a root: run it, take its advice, advance the root, go on.

    env: three methods or more; see ``Environment`` and ``Rules``.
    root: the state to search from; its engine is the store.
    workers: processes; 1: this one alone, which with a ``seed`` gives the same result each time.
    parallel: what several workers do at once: "tree", "root" or "leaf".
    c_puct, c_uct: how much is explored, by the two rules.
    discount: what a reward is worth an action later, 0 < discount <= 1.
    seed: of all that is random; None: another one each time.
    save_to: a branch that the search is saved to, every ``save_every`` seconds and after each run; see ``resume``.
    selection: "puct" or "uct"; default: "puct" if the environment has priors, else "uct".
    fpu: the value of an action that nobody has tried, under PUCT; default: the mean of its state.
    normalize: scale values by the least and the greatest that were met, for returns that are not about -1 .. 1.
    in_flight: how walks that have not come back are counted: "wu-uct" (as visits without a value) or "virtual-loss" (as
        visits that lost ``virtual_loss`` each).
    widening: (c, alpha): a state visited n times has its first ceil(c * n ** alpha) actions tried; default: all.
    temperature: 0: the action most visited; else one drawn by visits ** (1 / temperature).
    dirichlet_alpha, dirichlet_fraction: noise in the root's priors; None: none.
    depth_max: actions from the root; a state so deep is evaluated where it is.
    table_bytes: of shared memory for the statistics, used as it fills; a state takes 72 bytes and 32 for each action.
    when_full: "evict" the least visited states, or raise an "error" (CapacityError).
    start_method: of the workers: "fork", "spawn" or "forkserver"; default: multiprocessing's.
    evaluator: evaluates states in the place of rollouts and of the environment's priors, many at a time, in a process
        of its own (evaluator.py); it is given what the environment's ``encode`` makes of them.
    batch_size: the most states that the evaluator is given at once; default: half of those under way, so that workers
        walk on meanwhile (with one worker: all of them).
    leaves_per_worker: how many a worker has under way at once.
    batch_wait_ms: how long a state waits at most for a batch to grow, while a worker is on its way to another.
    encoded_bytes_max, logits_max: the most bytes of an encoded state, and the most prior logits of an evaluation.

    Raises ValueError and TypeError for options out of their bounds. A Search belongs to one thread. Close it, or use it
    as a context manager, so that its workers end; they also end when this process does.
    """

    def __init__(
        self,
        env: Environment[A],
        root: Snapshot,
        *,
        workers: int = 1,
        parallel: Literal["tree", "root", "leaf"] = "tree",
        c_puct: float = 1.25,
        discount: float = 1.0,
        seed: int | None = None,
        save_to: Branch | None = None,
        selection: Literal["puct", "uct"] | None = None,
        c_uct: float = math.sqrt(2),
        fpu: float | None = None,
        normalize: bool = False,
        in_flight: Literal["wu-uct", "virtual-loss"] = "wu-uct",
        virtual_loss: float = 1.0,
        widening: tuple[float, float] | None = None,
        temperature: float = 0.0,
        dirichlet_alpha: float | None = None,
        dirichlet_fraction: float = 0.25,
        depth_max: int = 1000,
        table_bytes: int = 256 * _MIB,
        when_full: Literal["evict", "error"] = "evict",
        save_every: float = 5.0,
        start_method: StartMethod | None = None,
        evaluator: Evaluator | None = None,
        batch_size: int | None = None,
        leaves_per_worker: int = 8,
        batch_wait_ms: float = 1.0,
        encoded_bytes_max: int = 65_536,
        logits_max: int = 4096,
    ) -> None:
        _among("parallel", parallel, ("tree", "root", "leaf"))
        _among("selection", selection, ("puct", "uct", None))
        _among("in_flight", in_flight, ("wu-uct", "virtual-loss"))
        _among("when_full", when_full, ("evict", "error"))
        _within("workers", workers, 1, 256)
        _within("discount", discount, 1e-9, 1)
        _within("c_puct", c_puct, 0, 1e9)
        _within("c_uct", c_uct, 0, 1e9)
        _within("temperature", temperature, 0, 1e9)
        _within("dirichlet_fraction", dirichlet_fraction, 0, 1)
        _within("depth_max", depth_max, 1, 65_000)
        _within("table_bytes", table_bytes, 1 << 16, 1 << 46)
        _within("save_every", save_every, 0, 1e9)
        if seed is not None and not isinstance(seed, int):
            raise TypeError(f"a seed is an int, not {type(seed).__name__}")
        if fpu is not None:
            _within("fpu", fpu, -1e300, 1e300)
        _within("virtual_loss", virtual_loss, 0, 1e9)
        if widening is not None:
            _within("the first number of widening", widening[0], 1e-9, 1e9)
            _within("the second number of widening", widening[1], 0, 1)
        if dirichlet_alpha is not None:
            _within("dirichlet_alpha", dirichlet_alpha, 1e-6, 1e6)
        if not isinstance(root, Snapshot):
            raise TypeError(f"a root is a Snapshot, not {type(root).__name__}")
        _within("leaves_per_worker", leaves_per_worker, 1, 1024)
        if batch_size is not None:
            _within("batch_size", batch_size, 1, 1 << 16)
        _within("batch_wait_ms", batch_wait_ms, 0, 60_000)
        _within("encoded_bytes_max", encoded_bytes_max, 1, 1 << 26)
        _within("logits_max", logits_max, 0, 1 << 20)
        given = dict(locals())
        self._options: dict[str, Any] = {name: given[name] for name in _OPTIONS}
        self._rules: Rules[A] = Rules(env)
        self._batching: Batching | None = None
        if evaluator is not None:
            if parallel == "leaf" and workers > 1:
                raise ValueError(
                    "an evaluator takes the place of rollouts: give parallel='tree' or 'root', not 'leaf'"
                )
            if self._rules.encode is None:
                raise TypeError(
                    f"an evaluator is given what encode(state) makes of a state; {type(env).__name__} has no encode"
                )
            self._batching = Batching(
                evaluator, batch_size, leaves_per_worker, batch_wait_ms, encoded_bytes_max, logits_max
            )
        self._env, self._root, self._branch = env, root, save_to
        self._workers, self._parallel = workers, parallel
        self._temperature, self._when_full = temperature, when_full
        self._dirichlet = (dirichlet_alpha, dirichlet_fraction)
        self._start_method = start_method
        self._seed = int.from_bytes(os.urandom(8), "little") if seed is None else seed
        self._rng = Random(f"{self._seed}:search")
        if selection is None:
            selection = "uct" if self._rules.prior_logits is None and evaluator is None else "puct"
        self._selection: Literal["puct", "uct"] = selection
        self._simulators: list[Simulator[A]] = []
        self._rows: list[int] = []  # of the root, in each table
        self._pool: Pool[A] | None = None
        self._moved = False
        self._noisy = False
        self._closed = False
        self._held_to = 0
        self._evictions = self._workers_lost = self._finished = self._undone = 0
        self._trials: Trials[A] | None = None
        self._gathering: Gathering[A] | None = None
        self._saver = None if save_to is None else Saver(save_to)
        self._changes: Changes | None = None
        self._kept: Snapshot | None = None  # what was saved last, which holds the states of its rows
        self._save_next = time.monotonic() + save_every

    @classmethod
    def resume(
        cls,
        env: Environment[A],
        branch: Branch,
        *,
        workers: int = 1,
        table_bytes: int | None = None,
        evaluator: Evaluator | None = None,
    ) -> Self:
        """Go on with the search that was saved to a branch, with the options that it had, and save it there.

        env: the same environment as before. workers: as in ``Search``; need not be as many as before. table_bytes:
        default, as before; if it is too small, the states visited least are left out. evaluator: as in ``Search``;
        it is not saved.

        Trials that were not told then can be told now: ``pending``. Raises NotFoundError where the branch has no
        search, FormatError and CorruptError where it is no search of this library's, ValueError where the environment
        has other actions or players than before. Cost: O(states).
        """
        saved = Saved.load(branch)
        options = {name: value for name, value in saved.header.options.items() if name in _OPTIONS}
        options |= {"workers": workers, "table_bytes": table_bytes or options.get("table_bytes", 256 * _MIB)}
        cls(env, saved.root, workers=workers, evaluator=evaluator)  # raises what the caller is to blame for
        try:
            search = cls(env, saved.root, save_to=branch, evaluator=evaluator, **options)
        except (TypeError, ValueError) as error:
            raise CorruptError(
                f"the search that branch {branch.name!r} has cannot have been made so: {error}"
            ) from None
        try:
            search._take_up(saved)
        except BaseException:
            search._saver = None
            search.close()
            raise
        return search

    def _take_up(self, saved: Saved) -> None:
        header = saved.header
        # Not what was drawn before, again.
        self._seed = Random(f"{header.seed}:{header.num_simulations}").getrandbits(63)
        self._rng = Random(f"{self._seed}:search")
        self._prepare()
        restore(saved, self._tables[0])
        self._saver, self._kept = Saver.after(saved), saved.state
        if header.nonce:
            first_lane = self._lane(self._workers + 1)
            self._trials = Trials(self._simulators[0], first_lane, header.nonce, header.next_serial)
            self._trials.restore(saved.trials)

    # --- what it stands on ---

    @property
    def root(self) -> Snapshot:
        """The state that is searched from."""
        return self._root

    @property
    def metrics(self) -> Metrics:
        """What the search has done since it was made."""
        owners = range(self._workers + 1)
        tally = summed(Tally.seen(table.tally(owner)) for table in self._tables for owner in owners)
        return Metrics(
            **{name: getattr(tally, name) for name in Tally.__slots__},
            rows=sum(table.counts().rows for table in self._tables),
            evictions=self._evictions,
            workers_lost=self._workers_lost,
            simulations_finished=self._finished,
            simulations_undone=self._undone,
        )

    @property
    def evaluator_stats(self) -> EvaluatorStats | None:
        """How large the evaluator's batches are, and how long they take; None: no evaluator was started."""
        return None if self._gathering is None else self._gathering.process.stats

    @property
    def _tables(self) -> list[Table]:
        return [simulator.table for simulator in self._simulators]

    def _prepare(self) -> None:
        """Make what is made on first use: tables with their root rows."""
        if self._closed:
            raise ClosedError("this search is closed")
        if self._simulators:
            return
        num_players = self._rules.num_players(self._root)
        apart = self._parallel == "root" and self._workers > 1
        for index in range(self._workers if apart else 1):
            table = Table(self._settings(num_players))
            table.seed(Random(f"{self._seed}:table:{index}").getrandbits(64))
            simulator = Simulator(
                self._root.engine,
                self._rules,
                table,
                Tally(),
                owner=_DRIVER,
                num_players=num_players,
                discount=self._options["discount"],
                rng=Random(f"{self._seed}:rollouts:{index}"),
            )
            self._rows.append(simulator.add_root(self._root))
            self._simulators.append(simulator)

    def _settings(self, num_players: int) -> Settings:
        options = self._options
        return Settings(
            bytes=options["table_bytes"],
            processes=self._workers + 1,
            lanes=self._lane(self._workers + 1) + TRIALS_MAX,
            num_players=num_players,
            depth_max=options["depth_max"],
            selection=self._selection,
            exploration=options["c_puct"] if self._selection == "puct" else options["c_uct"],
            discount=options["discount"],
            fpu=options["fpu"],
            in_flight=options["in_flight"],
            virtual_loss=options["virtual_loss"],
            normalize=options["normalize"],
            widening=options["widening"],
        )

    def _lane(self, owner: int) -> int:
        """The first lane of a process; behind all of them come those of trials."""
        return owner * (1 if self._batching is None else self._batching.leaves_per_worker)

    # --- running ---

    def run(self, num_simulations: int | None = None, seconds: float | None = None) -> Result[A]:
        """Search until so many simulations are done, or so many seconds are over, whichever comes first.

        Simulations that are under way when the time is over are finished, and there is always one. Raises ValueError if
        both are None, or the root has ended; CapacityError if the table is full and ``when_full`` is "error"; what the
        environment raises, which ends the run and leaves the counts as they are. Ctrl-C: likewise; the search can go
        on.
        """
        if num_simulations is None and seconds is None:
            raise ValueError("say how long to search: num_simulations, seconds, or both")
        if num_simulations is not None:
            _within("num_simulations", num_simulations, 1, _TICKETS_UNBOUNDED)
        if seconds is not None:
            _within("seconds", seconds, 0, 1e9)
        self._prepare()
        if self._rules.returns(self._root) is not None:
            raise ValueError(f"there is nothing to search: state {self._root.id[:12]} has ended")
        self._evaluate_roots()
        self._mix_noise()
        if self._workers > 1:
            self._started()
        before, spent = self._completed(), self.metrics
        try:
            self._run(Budget(num_simulations, seconds))
            if self._completed() == before:
                self._run(Budget(1, None))
        finally:
            for table in self._tables:
                table.take_tickets()
        if self._saver is not None:
            self.save()
        return self._result(self._completed() - before, spent)

    def _run(self, budget: Budget) -> None:
        if self._workers == 1:
            self._run_alone(budget)
        elif self._parallel == "leaf":
            self._run_leaf(budget)
        else:
            self._run_pool(budget)

    def _completed(self) -> int:
        """Simulations that went through the root. Each goes through one of its actions."""
        return sum(
            sum(edge.visits for edge in table.edges(row))
            for table, row in zip(self._tables, self._rows, strict=True)
        )

    def _mix_noise(self) -> None:
        alpha, fraction = self._dirichlet
        if alpha is None or self._noisy:
            return
        self._noisy = True
        for table, row in zip(self._tables, self._rows, strict=True):
            drawn = [self._rng.gammavariate(alpha, 1) for _ in table.edges(row)]
            total = math.fsum(drawn) or 1.0
            table.set_noise(row, [value / total for value in drawn], fraction)

    def _run_alone(self, budget: Budget) -> None:
        if self._gathering is not None:
            self._gather_alone(self._gathering, budget)
            return
        simulator, table = self._simulators[0], self._tables[0]
        memory = table.tally(_DRIVER)
        table.stop(False)
        table.take_tickets()
        table.tickets(budget.simulations)
        try:
            while not budget.over():
                try:
                    if not simulator.simulate(0, self._rows[0]):
                        break
                except CapacityError:
                    self._make_room(0)
                self._save_now_and_then()
        finally:
            simulator.tally.show(memory)

    def _evaluate_roots(self) -> None:
        """Start the evaluator, if there is one, and have it say which actions of the root are promising."""
        if self._batching is None:
            return
        if self._pool is not None:
            self._settle(self._pool)
        if self._gathering is None:
            self._gathering = Gathering(
                self._batching, self._workers, self._simulators[0].num_players, self._start_method
            )
        for simulator, row in zip(self._simulators, self._rows, strict=True):
            self._gathering.walks(simulator).evaluate_root(row, self._gathering.attend)

    def _gather_alone(self, gathering: Gathering[A], budget: Budget) -> None:
        simulator, table = self._simulators[0], self._tables[0]
        memory = table.tally(_DRIVER)

        lookout = Lookout(gathering.attend)

        def goes_on() -> bool:
            lookout()
            simulator.tally.show(memory)
            self._save_now_and_then()
            return not budget.over()

        table.stop(False)
        table.tickets(budget.simulations)
        try:
            while gathering.walks(simulator).run(self._rows[0], goes_on) == "full":
                self._make_room(0)
        finally:
            simulator.tally.show(memory)

    def _make_room(self, index: int) -> None:
        """Of a table that is full, drop the states visited least; or say that it is full."""
        simulator, table = self._simulators[index], self._tables[index]
        counts = table.counts()
        if not counts.full:
            raise CapacityError("a search's table refused a state, and is not full")
        if self._when_full == "error":
            raise CapacityError(
                f"the search's table of {self._options['table_bytes']:,} bytes is full: {counts.rows:,} states with "
                f"{counts.slots:,} actions; pass a larger table_bytes, or when_full='evict'"
            )
        self._compact(index, counts.rows_max // 2)
        after = table.counts()
        self._evictions += counts.rows - after.rows
        if after.rows * 10 > counts.rows_max * 9 or after.slots * 10 > counts.slots_max * 9:
            raise CapacityError(
                f"the search's table of {self._options['table_bytes']:,} bytes is full of what is searched just now"
            )
        simulator.forget()

    def _compact(self, index: int, keep: int | None) -> None:
        remap = self._tables[index].compact([self._rows[index]], keep)
        row = remap[self._rows[index]]
        assert row is not None, "a root is kept"
        self._rows[index] = row
        if self._trials is not None and index == 0:
            self._trials.renumber(remap)
        self._moved, self._held_to = True, 0

    # --- running with workers ---

    def _started(self) -> Pool[A]:
        if self._pool is None or not self._pool.workers:
            tables = self._tables * (self._workers if len(self._tables) == 1 else 1)
            self._pool = Pool(tables, self._assignment, self._start_method)
        return self._pool

    def _assignment(self, index: int, incarnation: int) -> Assignment[A]:
        return Assignment(
            env=self._env,
            root=self._root,
            num_players=self._simulators[0].num_players,
            discount=self._options["discount"],
            owner=index + 1,
            lane=self._lane(index + 1),
            seed=f"{self._seed}:{index}:{incarnation}",
            mailbox=None if self._gathering is None else self._gathering.mailbox,
        )

    def _run_pool(self, budget: Budget) -> None:
        """Tree and root parallelism: hand out tickets, and look after those who use them."""
        pool = self._started()
        self._settle(pool)
        before = self._completed()
        try:
            while not budget.over():
                left = budget.simulations - (self._completed() - before)
                if left <= 0:
                    break
                self._hand_out(pool, left)
                for index in self._until_idle(pool, budget):
                    self._make_room(index)
        except Exception:
            self._settle(pool)
            raise
        finally:  # an interrupt does not wait for the workers; whoever needs them idle next does
            self._stop(True)
        self._settle(pool)
        if self._gathering is not None:
            self._gathering.attend()

    def _hand_out(self, pool: Pool[A], tickets: int) -> None:
        """Tickets for the tables, as even as can be, and orders for the workers."""
        self._stop(False)
        for index, table in enumerate(self._tables):
            table.take_tickets()
            table.tickets((tickets + index) // len(self._tables))
        for worker in pool.workers:
            self._order(pool, worker)
        self._moved = False

    def _order(self, pool: Pool[A], worker: Worker) -> None:
        row = self._rows[worker.index if len(self._rows) > 1 else 0]
        pool.give(worker, SearchOrder(row, self._moved))

    def _until_idle(self, pool: Pool[A], budget: Budget) -> set[int]:
        """Until the workers have used up their tickets, or the time is over. Returns the tables that are full."""
        full: set[int] = set()
        while pool.busy:
            if budget.over():
                self._stop(True)
            others = () if self._gathering is None else self._gathering.attend()
            for worker, told in pool.wait(min(_WAIT_SECONDS, budget.left() or _WAIT_SECONDS), others):
                if isinstance(told, Death):
                    self._mourn(told)
                    if told.was_busy:
                        self._order(pool, worker)
                elif told.ending == "failed":
                    raise_from(told)
                elif told.ending == "full":
                    full.add(worker.index if len(self._tables) > 1 else 0)
            self._save_now_and_then()
        return full

    def _mourn(self, death: Death) -> None:
        """Count a death, and hold the states that nobody holds any more, before a collection finds them."""
        self._workers_lost += 1
        self._finished += death.finished
        self._undone += death.undone
        if self._gathering is not None:
            self._gathering.mailbox.withdraw(death.worker.owner)
        table, held = death.worker.table, self._simulators[0].held
        engine, to = self._root.engine, table.counts().rows
        for number in range(self._held_to if len(self._tables) == 1 else 0, to):
            row = table.row(number)
            if row is not None and row.id not in held:
                held[row.id] = engine.snapshot(row.id.hex())
        self._held_to = to

    def _stop(self, on: bool) -> None:
        for table in self._tables:
            table.stop(on)

    def _settle(self, pool: Pool[A]) -> None:
        """Until every worker is idle. What they report of a run that was interrupted is dropped."""
        while pool.busy:
            self._stop(True)
            others = () if self._gathering is None else self._gathering.attend_to_end()
            for _, told in pool.wait(_WAIT_SECONDS, others):
                if isinstance(told, Death):
                    self._mourn(told)

    def _run_leaf(self, budget: Budget) -> None:
        """Leaf parallelism: one walk, then a rollout from its leaf by each worker."""
        pool = self._started()
        self._settle(pool)
        simulator, table = self._simulators[0], self._tables[0]
        memory = table.tally(_DRIVER)
        table.stop(False)
        table.take_tickets()
        table.tickets(budget.simulations)
        try:
            while not budget.over():
                try:
                    if not self._leaf_simulated(simulator, pool):
                        break
                except CapacityError:
                    self._make_room(0)
                self._save_now_and_then()
        finally:
            simulator.tally.show(memory)

    def _leaf_simulated(self, simulator: Simulator[A], pool: Pool[A]) -> bool:
        table, descent = simulator.table, simulator.table.descent()
        with simulator.timed():
            try:
                table.begin(0, _DRIVER, self._rows[0], descent)
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

    # --- what was found ---

    def _result(self, simulations: int, before: Metrics) -> Result[A]:
        after = self.metrics
        node = self._simulators[0].node(self._rows[0], bytes.fromhex(self._root.id))
        visits, sums = [0] * len(node.actions), [0.0] * len(node.actions)
        for table, row in zip(self._tables, self._rows, strict=True):
            for index, edge in enumerate(table.edges(row)):
                visits[index] += edge.visits
                sums[index] += edge.value_sum
        means = [total / count if count else -math.inf for total, count in zip(sums, visits, strict=True)]
        chosen = self._chosen(visits, means)
        spent = after.total_ns - before.total_ns
        return Result(
            node.actions[chosen],
            dict(zip(node.actions, visits, strict=True)),
            means[chosen] if visits[chosen] else 0.0,
            simulations,
            (after.store_ns - before.store_ns) / spent if spent else 0.0,
        )

    def _chosen(self, visits: Sequence[int], means: Sequence[float]) -> int:
        most = max(visits)
        if self._temperature > 0 and most > 0:
            weights = [(count / most) ** (1 / self._temperature) for count in visits]
            return self._rng.choices(range(len(visits)), weights)[0]
        return max(range(len(visits)), key=lambda index: (visits[index], means[index]))

    def advance(self, action: A) -> Snapshot:
        """Make the state that an action leads to the root, and keep what is known below it; what is not is dropped, and
        its states can be collected. Returns the new root.

        Raises ValueError if the action is not legal at the root. Cost: a pass over the table.
        """
        self._prepare()
        if self._pool is not None:
            self._settle(self._pool)
        id, state = bytes.fromhex(self._root.id), self._root
        for index, simulator in enumerate(self._simulators):
            self._rows[index], state = simulator.child(self._rows[index], id, action)
        self._root, self._noisy = state, False
        for index, simulator in enumerate(self._simulators):
            self._compact(index, None)
            simulator.forget()
        return state

    # --- looking at it ---

    def tree(self, *, depth: int | None = None, min_visits: int = 1, max_nodes: int = 10_000) -> TreeNode[A]:
        """What the search has found, as a tree of plain values: to look at, and to write as JSON, HTML or SVG (see
        ``TreeNode``).

        depth: how many actions below the root are shown; None: all. min_visits: an action with fewer is not shown; 0:
        all are. max_nodes: those visited least are left out. Raises ValueError for bounds that leave nothing. Cost:
        O(nodes log nodes), and a call of ``legal_actions`` for each state whose actions are not known any more.
        """
        self._prepare()
        if self._pool is not None:
            self._settle(self._pool)
        simulator = self._simulators[0]
        return grow(
            TableRows(self._tables),
            bytes.fromhex(self._root.id),
            simulator.actions,
            name=self._rules.action_name,
            depth=depth,
            min_visits=min_visits,
            max_nodes=max_nodes,
        )

    # --- evaluators outside ---

    def ask(self, n: int = 1) -> list[Trial[A]]:
        """States that wait for an evaluation, ``n`` of them; fewer if so many walks end where the returns are known.

        Each counts as in flight until it is told, so that several lead to different states. In any order, and any time
        later, ``tell`` brings the values. The first trial of all is the root, whose priors are wanted. Raises
        BusyError if 512 trials have not been told.
        """
        _within("n", n, 1, TRIALS_MAX)
        trials = self._outside().ask(n)
        self._save_now_and_then()
        return trials

    def tell(
        self, trial_id: bytes, value: float | Sequence[float], *, prior_logits: Sequence[float] | None = None
    ) -> None:
        """The value of a trial's state: one number a player, or one for the player who moves there (of two players, the
        other has its negative); and logits of its actions, in the order of ``legal_actions``.

        Telling twice changes nothing. Raises NotFoundError for an id that this search never gave out, ValueError for
        values and logits of the wrong length or that are no numbers; then the trial still waits.
        """
        self._outside().tell(trial_id, value, prior_logits)
        self._save_now_and_then()

    @property
    def pending(self) -> list[Trial[A]]:
        """Trials that were not told yet, the oldest first: of a search that was resumed, those of before as well."""
        return [] if self._trials is None else self._trials.pending()

    def _outside(self) -> Trials[A]:
        self._prepare()
        if self._pool is not None:
            self._settle(self._pool)
        if self._trials is None:
            first_lane = self._lane(self._workers + 1)
            self._trials = Trials(self._simulators[0], first_lane, self._rng.randbytes(8))
        self._stop(False)
        self._trials.root = self._rows[0]
        return self._trials

    # --- the end ---

    def _save_now_and_then(self) -> None:
        if self._saver is not None and time.monotonic() >= self._save_next:
            self.save()

    def save(self) -> Commit | None:
        """Save the search to its branch now, in one commit. None: nothing has changed since the last save.

        It also does so by itself: after each run, when it is closed, and every ``save_every`` seconds of a run, or of
        asking and telling, but so that saving takes no more than a tenth of the time. Raises ValueError if it has no
        branch, ConflictError if another search saves to it. Cost: a pass over the table, and about 20 us for each state
        that has changed.
        """
        if self._saver is None or self._branch is None:
            raise ValueError("this search was made without save_to, a branch to save it to")
        self._prepare()
        began = time.monotonic()
        trials = {} if self._trials is None else self._trials.paths()
        if self._changes is None:
            self._changes = Changes(self._tables)
        rows, whole = self._changes.look()
        commit = self._saver.save(self._header(), rows, self._root, trials, whole=whole)
        self._changes.saved()
        if commit is not None:
            self._kept = commit.snapshot
        ended = time.monotonic()
        self._save_next = ended + max(self._options["save_every"], 9 * (ended - began))
        return commit

    def _header(self) -> Header:
        trials = self._trials
        return Header(
            env=f"{type(self._env).__module__}.{type(self._env).__qualname__}",
            num_players=self._simulators[0].num_players,
            root=bytes.fromhex(self._root.id),
            seed=self._seed,
            options=self._options | {"selection": self._selection},
            nonce=b"" if trials is None else trials.nonce,
            next_serial=0 if trials is None else trials.next_serial,
        )

    def close(self) -> None:
        """Save, if there is a branch to save to; end the workers and let go of the table. Idempotent."""
        if self._closed:
            return
        try:
            if self._saver is not None and self._simulators:
                self.save()
        finally:
            self._closed = True
            if self._gathering is not None:
                self._gathering.close()
            if self._pool is not None:
                self._pool.close()
            for table in self._tables:
                table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Budget:
    """So many simulations, so much time."""

    def __init__(self, simulations: int | None, seconds: float | None) -> None:
        self.simulations = _TICKETS_UNBOUNDED if simulations is None else simulations
        self._end = math.inf if seconds is None else time.monotonic() + seconds

    def left(self) -> float:
        """Seconds, 0 or more."""
        return max(0.0, self._end - time.monotonic())

    def over(self) -> bool:
        return time.monotonic() >= self._end


def raise_from(report: Report) -> None:
    """Raise in the driver what an environment raised in a worker."""
    assert report.error is not None
    report.error.add_note(f"in a worker of the search:\n{report.text}")
    raise report.error


def _among(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is one of {', '.join(map(repr, allowed))}; not {value!r}")


def _within(name: str, value: object, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is a number, not {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{name} is {least:g} .. {most:g}; not {value!r}")
