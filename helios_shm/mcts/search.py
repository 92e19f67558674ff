"""``Search``: Monte Carlo tree search over snapshots, by one process or many.

    sequential (workers=1)   this process: select, expand, simulate, backup (simulate.py)
    tree                     all workers do that at once on one table in shared memory; this process looks after them
    root                     each worker on a table of its own; what they counted is added up
    leaf                     this process selects and expands; all workers roll out from the same leaf

The trees and their roots are in forest.py, what runs them in driver.py.

Terms and formulae are those of the literature: Kocsis & Szepesvari 2006 (UCT), Rosin 2011 and Silver et al. 2017
(PUCT), Chaslot, Winands & van den Herik 2008 (leaf, root and tree parallelism, virtual loss), Liu et al. 2020
(WU-UCT), Coulom 2007 (progressive widening), Childs, Brodeur & Kocsis 2008 (transpositions); names as in mctx.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from random import Random
from types import TracebackType
from typing import Generic, Literal, Self, TypeVar

from .. import Branch, ClosedError, Commit, CorruptError, Snapshot
from .driver import Budget, Driver
from .environment import Environment, Rules
from .evaluator import Evaluator, EvaluatorStats
from .forest import Forest, means_of
from .gather import Batching
from .metrics import Metrics, Tally
from .options import MIB, SIMULATIONS_MAX, TRIALS_MAX, Options, StartMethod, within
from .rows import TableRows
from .save import Changes, Header, Saved, Saver, restore
from .tree import TreeNode, grow
from .trials import Trial, Trials

A = TypeVar("A")


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
        table_bytes: int = 256 * MIB,
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
        if not isinstance(root, Snapshot):
            raise TypeError(f"a root is a Snapshot, not {type(root).__name__}")
        self._options = Options(
            workers=workers,
            parallel=parallel,
            c_puct=c_puct,
            discount=discount,
            seed=seed,
            selection=selection,
            c_uct=c_uct,
            fpu=fpu,
            normalize=normalize,
            in_flight=in_flight,
            virtual_loss=virtual_loss,
            widening=widening,
            temperature=temperature,
            dirichlet_alpha=dirichlet_alpha,
            dirichlet_fraction=dirichlet_fraction,
            depth_max=depth_max,
            table_bytes=table_bytes,
            when_full=when_full,
            save_every=save_every,
            start_method=start_method,
            batch_size=batch_size,
            leaves_per_worker=leaves_per_worker,
            batch_wait_ms=batch_wait_ms,
            encoded_bytes_max=encoded_bytes_max,
            logits_max=logits_max,
        )
        self._env, self._first, self._branch = env, root, save_to
        self._rules: Rules[A] = Rules(env)
        self._batching = None if evaluator is None else self._batching_of(evaluator)
        if selection is None:
            selection = "uct" if self._rules.prior_logits is None and evaluator is None else "puct"
        self._selection: Literal["puct", "uct"] = selection
        self._seed_with(int.from_bytes(os.urandom(8), "little") if seed is None else seed)
        # Made on first use.
        self._made: tuple[Forest[A], Driver[A]] | None = None
        self._closed = False
        self._saver = None if save_to is None else Saver(save_to)
        self._changes: Changes | None = None
        self._kept: Snapshot | None = None  # what was saved last, which holds the states of its rows
        self._save_next = time.monotonic() + save_every

    def _batching_of(self, evaluator: Evaluator) -> Batching:
        options = self._options
        if options.parallel == "leaf" and options.workers > 1:
            raise ValueError(
                "an evaluator takes the place of rollouts: give parallel='tree' or 'root', not 'leaf'"
            )
        if self._rules.encode is None:
            raise TypeError(
                "an evaluator is given what encode(state) makes of a state; "
                f"{type(self._env).__name__} has no encode"
            )
        return Batching(
            evaluator,
            options.batch_size,
            options.leaves_per_worker,
            options.batch_wait_ms,
            options.encoded_bytes_max,
            options.logits_max,
        )

    def _seed_with(self, seed: int) -> None:
        self._seed = seed
        self._rng = Random(f"{seed}:search")

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
        known = {field.name for field in fields(Options)}
        options = {name: value for name, value in saved.header.options.items() if name in known}
        options |= {"workers": workers, "table_bytes": table_bytes or options.get("table_bytes", 256 * MIB)}
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
        self._seed_with(Random(f"{header.seed}:{header.num_simulations}").getrandbits(63))
        forest = self._forest
        restore(saved, forest.tables[0])
        self._saver, self._kept = Saver.after(saved), saved.state
        if header.nonce:
            forest.trials = Trials(forest.simulators[0], self._lanes, header.nonce, header.next_serial)
            forest.trials.restore(saved.trials)

    # --- what it stands on ---

    @property
    def root(self) -> Snapshot:
        """The state that is searched from."""
        return self._first if self._made is None else self._made[0].root

    @property
    def metrics(self) -> Metrics:
        """What the search has done since it was made."""
        if self._made is None:
            nothing = dict.fromkeys((field.name for field in fields(Metrics)), 0)
            return Metrics(**nothing)
        forest, driver = self._made
        return forest.metrics(
            workers_lost=driver.workers_lost, finished=driver.finished, undone=driver.undone
        )

    @property
    def evaluator_stats(self) -> EvaluatorStats | None:
        """How large the evaluator's batches are, and how long they take; None: no evaluator was started."""
        gathering = None if self._made is None else self._made[1].gathering
        return None if gathering is None else gathering.process.stats

    @property
    def _forest(self) -> Forest[A]:
        return self._ready()[0]

    @property
    def _driver(self) -> Driver[A]:
        return self._ready()[1]

    @property
    def _lanes(self) -> int:
        """How many lanes are those of processes; behind them come those of trials."""
        return self._options.lanes(self._driver.leaves) - TRIALS_MAX

    def _ready(self) -> tuple[Forest[A], Driver[A]]:
        """The trees and their driver, made if need be."""
        if self._closed:
            raise ClosedError("this search is closed")
        if self._made is None:
            forest: Forest[A] = Forest(
                self._rules,
                self._first,
                self._options,
                selection=self._selection,
                leaves=1 if self._batching is None else self._options.leaves_per_worker,
                seed=self._seed,
            )
            driver = Driver(
                self._env, forest, self._options, self._batching, self._seed, self._save_now_and_then
            )
            self._made = forest, driver
        return self._made

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
            within("num_simulations", num_simulations, 1, SIMULATIONS_MAX)
        if seconds is not None:
            within("seconds", seconds, 0, 1e9)
        forest, driver = self._ready()
        if self._rules.returns(forest.root) is not None:
            raise ValueError(f"there is nothing to search: state {forest.root.id[:12]} has ended")
        driver.prepare()
        if self._options.dirichlet_alpha is not None:
            forest.mix_noise(self._options.dirichlet_alpha, self._options.dirichlet_fraction, self._rng)
        before, spent = forest.completed(), forest.tally()
        try:
            driver.run(Budget(num_simulations, seconds))
            if forest.completed() == before:
                driver.run(Budget(1, None))
        finally:
            forest.take_tickets()
        if self._saver is not None:
            self.save()
        return self._result(forest, forest.completed() - before, spent)

    def _result(self, forest: Forest[A], simulations: int, before: Tally) -> Result[A]:
        after, actions = forest.tally(), forest.root_node().actions
        visits, sums = forest.counted()
        means = means_of(visits, sums)
        chosen = self._chosen(visits, means)
        spent = after.total_ns - before.total_ns
        return Result(
            actions[chosen],
            dict(zip(actions, visits, strict=True)),
            means[chosen] if visits[chosen] else 0.0,
            simulations,
            (after.store_ns - before.store_ns) / spent if spent else 0.0,
        )

    def _chosen(self, visits: Sequence[int], means: Sequence[float]) -> int:
        most, temperature = max(visits), self._options.temperature
        if temperature > 0 and most > 0:
            weights = [(count / most) ** (1 / temperature) for count in visits]
            return self._rng.choices(range(len(visits)), weights)[0]
        return max(range(len(visits)), key=lambda index: (visits[index], means[index]))

    def advance(self, action: A) -> Snapshot:
        """Make the state that an action leads to the root, and keep what is known below it; what is not is dropped, and
        its states can be collected. Returns the new root.

        Raises ValueError if the action is not legal at the root. Cost: a pass over the table.
        """
        forest, driver = self._ready()
        driver.settle()
        forest.advance(action)
        return forest.root

    # --- looking at it ---

    def tree(self, *, depth: int | None = None, min_visits: int = 1, max_nodes: int = 10_000) -> TreeNode[A]:
        """What the search has found, as a tree of plain values: to look at, and to write as JSON, HTML or SVG (see
        ``TreeNode``).

        depth: how many actions below the root are shown; None: all. min_visits: an action with fewer is not shown; 0:
        all are. max_nodes: those visited least are left out. Raises ValueError for bounds that leave nothing. Cost:
        O(nodes log nodes), and a call of ``legal_actions`` for each state whose actions are not known any more.
        """
        forest, driver = self._ready()
        driver.settle()
        return grow(
            TableRows(forest.tables),
            forest.root_id,
            forest.simulators[0].actions,
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
        within("n", n, 1, TRIALS_MAX)
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
        trials = None if self._made is None else self._made[0].trials
        return [] if trials is None else trials.pending()

    def _outside(self) -> Trials[A]:
        forest, driver = self._ready()
        driver.settle()
        if forest.trials is None:
            forest.trials = Trials(forest.simulators[0], self._lanes, self._rng.randbytes(8))
        forest.stop(False)
        forest.trials.root = forest.rows[0]
        return forest.trials

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
        if self._saver is None:
            raise ValueError("this search was made without save_to, a branch to save it to")
        forest = self._forest
        began = time.monotonic()
        trials = {} if forest.trials is None else forest.trials.paths()
        if self._changes is None:
            self._changes = Changes(forest.tables)
        rows, whole = self._changes.look()
        commit = self._saver.save(self._header(forest), rows, forest.root, trials, whole=whole)
        self._changes.saved()
        if commit is not None:
            self._kept = commit.snapshot
        ended = time.monotonic()
        self._save_next = ended + max(self._options.save_every, 9 * (ended - began))
        return commit

    def _header(self, forest: Forest[A]) -> Header:
        trials = forest.trials
        return Header(
            env=f"{type(self._env).__module__}.{type(self._env).__qualname__}",
            num_players=forest.num_players,
            root=forest.root_id,
            seed=self._seed,
            options=asdict(self._options) | {"selection": self._selection},
            nonce=b"" if trials is None else trials.nonce,
            next_serial=0 if trials is None else trials.next_serial,
        )

    def close(self) -> None:
        """Save, if there is a branch to save to; end the workers and let go of the table. Idempotent."""
        if self._closed:
            return
        try:
            if self._saver is not None and self._made is not None:
                self.save()
        finally:
            self._closed = True
            if self._made is not None:
                forest, driver = self._made
                driver.close()
                forest.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
