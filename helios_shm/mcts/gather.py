"""One process's simulations with an evaluator: several walks under way at once, each with a lane of the table and a
box of the mailbox.

    walk ... leaf --encode--> box 0        a walk in flight counts on its path, so that the next one goes elsewhere
    walk ... leaf --encode--> box 1
    no lane is free, or an answer is there: priors of the leaf, backup, and the lane is free again

What is evaluated is a state that is new to the table, or one where a walk may go no further. A process in the
sequential mode backs up in the order in which it walked, so that the same seed gives the same search.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar

from ..errors import CapacityError
from .evaluator import Evaluator, EvaluatorError, EvaluatorProcess
from .mailbox import Answer, Mailbox, Shape
from .options import StartMethod
from .simulate import Leaf, Simulator
from .table import Table

A = TypeVar("A")

_LOOK_SECONDS = 0.01
# Why there are no walks any more: no ticket was left or somebody said stop; the table is full.
Ended = Literal["ended", "full"]


@dataclass(frozen=True, slots=True)
class Batching:
    """The options of batched evaluation; see ``Search``."""

    evaluator: Evaluator
    batch_size: int | None
    leaves_per_worker: int
    batch_wait_ms: float
    encoded_bytes_max: int
    logits_max: int


class Lookout:
    """Looks, when it is called, if the last time was some while ago: for what takes as long as a walk to look for."""

    def __init__(self, look: Callable[[], object]) -> None:
        self._look = look
        self._next = 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _LOOK_SECONDS
            self._look()


class Gatherer(Generic[A]):
    """The walks of one process. ``first_lane``: of as many lanes as it has boxes; ``in_order``: for the sequential
    mode."""

    def __init__(
        self,
        simulator: Simulator[A],
        mailbox: Mailbox,
        *,
        asker: int,
        first_lane: int,
        in_order: bool = False,
    ) -> None:
        self._simulator, self._mailbox, self._asker = simulator, mailbox, asker
        self._lane_of = {box: first_lane + n for n, box in enumerate(mailbox.boxes(asker))}
        self._in_order = in_order
        self._descent = simulator.table.descent()
        self._free: list[int] = []
        self._out: dict[int, Leaf[A]] = {}  # by boxes, in the order of their walks
        self._answers: dict[int, Answer] = {}

    @property
    def _table(self) -> Table:
        return self._simulator.table

    def run(self, root: int, goes_on: Callable[[], bool]) -> Ended:
        """Simulations from this row, until no ticket is left, somebody says stop, or not ``goes_on()``; then what is
        under way is finished. ``goes_on`` is asked after each walk, and every 50 ms of waiting.

        Raises ClosedError if the evaluator is given up. Then, and whatever else is raised, what was under way is as if
        it had never been.
        """
        ending: Ended = "ended"
        walking = True
        with self._boxes(goes_on):
            while walking or self._out:
                walking = goes_on() and walking
                if walking and self._free:
                    try:
                        walking = self._walk(root)
                    except CapacityError:
                        if not self._table.full:
                            raise
                        walking, ending = False, "full"
                if self._out:
                    self._take_answers(wait=not (walking and self._free))
        return ending

    def evaluate_root(self, row: int, goes_on: Callable[[], object]) -> None:
        """Have a root evaluated that never was: its priors are wanted before the first walk."""
        found = self._table.row(row)
        assert found is not None, "a root has a row"
        if found.own_visits > 0:
            return
        self._table.stop(False)
        self._table.tickets(1)
        try:
            with self._boxes(goes_on):
                self._walk(row, no_further=True)
                while self._out:
                    goes_on()
                    self._take_answers(wait=True)
        finally:
            self._table.take_tickets()

    @contextlib.contextmanager
    def _boxes(self, goes_on: Callable[[], object]) -> Iterator[None]:
        """All boxes, and lanes, for what happens within."""
        try:
            # Some that were withdrawn may be in the evaluator's hands.
            while self._mailbox.withdraw(self._asker) > 0:
                goes_on()
                self._mailbox.collect(self._asker)  # wakes when a batch of theirs is answered
            self._free = list(reversed(self._lane_of))
            self._mailbox.join(self._asker)
            yield
        except BaseException:
            for box in self._out:
                self._table.abandon(self._lane_of[box])
            raise
        finally:
            self._out.clear()
            self._answers.clear()
            self._mailbox.withdraw(self._asker)

    def _walk(self, root: int, *, no_further: bool = False) -> bool:
        """Walk down, and ask for an evaluation of what is there. False: there was no ticket."""
        simulator, table, descent = self._simulator, self._table, self._descent
        box = self._free.pop()
        lane = self._lane_of[box]
        with simulator.timed():
            try:
                if no_further:
                    table.replay(lane, simulator.owner, root, [], descent)
                else:
                    table.begin(lane, simulator.owner, root, descent)
                leaf = simulator.leaf(lane, descent)
                if leaf is not None:
                    is_asked = self._mailbox.ask(box, simulator.encoded(leaf.state))
                    assert is_asked, "a box is free when its answer was taken"
            except BaseException:
                table.abandon(lane)
                self._free.append(box)
                raise
        if leaf is None:
            self._free.append(box)
        else:
            self._out[box] = replace(leaf, fresh=True) if no_further else leaf
        return not descent.none

    def _take_answers(self, *, wait: bool) -> None:
        """Back up what is answered; in order: when all is."""
        if self._in_order and not wait:
            return
        for box in self._mailbox.collect(self._asker, wait=wait):
            answer = self._mailbox.read(box)
            if answer is not None:
                self._answers[box] = answer
        if self._in_order and len(self._answers) < len(self._out):
            return
        for box in [box for box in self._out if box in self._answers]:
            self._back_up(box, self._out[box], self._answers.pop(box))

    def _back_up(self, box: int, leaf: Leaf[A], answer: Answer) -> None:
        simulator = self._simulator
        with simulator.timed():
            value = answer.values if len(answer.values) > 1 else answer.values[0]
            values = simulator.told(value, leaf, "the evaluator's value")
            if answer.logits and leaf.fresh:
                simulator.set_priors(leaf, answer.logits)
            self._table.backup(self._lane_of[box], values)
        simulator.tally.evaluations += 1
        del self._out[box]
        self._free.append(box)


class Gathering(Generic[A]):
    """What the driver has of batched evaluation: the mailbox, the evaluator's process, and walks of its own. Asker 0 is
    the driver, asker i + 1 is worker i."""

    def __init__(
        self, options: Batching, workers: int, num_players: int, start_method: StartMethod | None
    ) -> None:
        each, leaves = options.leaves_per_worker, workers * options.leaves_per_worker
        self._alone = workers == 1
        self.mailbox = Mailbox(
            Shape(workers + 1, each, options.encoded_bytes_max, num_players, options.logits_max)
        )
        try:
            self.process = EvaluatorProcess(
                options.evaluator,
                self.mailbox,
                batch_size=options.batch_size or (leaves if self._alone else max(1, leaves // 2)),
                batch_wait_ms=options.batch_wait_ms,
                start_method=start_method,
            )
        except BaseException:
            self.mailbox.release()
            raise

    def walks(self, simulator: Simulator[A]) -> Gatherer[A]:
        """The driver's walks on a table."""
        return Gatherer(simulator, self.mailbox, asker=0, first_lane=0, in_order=self._alone)

    def attend(self) -> list[Any]:
        """See after the evaluator. Returns what to wait for beside workers. Raises EvaluatorError."""
        self.process.attend()
        return self.process.waitables

    def attend_to_end(self) -> list[Any]:
        """The same while workers come to an end: what the evaluator raises lets them go, and is raised by the next
        ``attend``. Returns what to wait for beside them."""
        with contextlib.suppress(EvaluatorError):
            self.process.attend()
        return self.process.waitables

    def close(self) -> None:
        """End the evaluator, and all waits for it. Idempotent."""
        self.process.stop()
        self.mailbox.release()
