"""A worker process of a search: waits for orders, searches on the shared table, and says why it stopped.

    driver -- Order --> worker        one pipe each; a worker whose driver is gone ends
    driver <-- Report -- worker

While it searches, driver and worker talk through the table alone: tickets, the word that says stop, and the counts.
"""

from __future__ import annotations

import itertools
import pickle
import signal
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from random import Random
from typing import Any, Generic, Literal, TypeVar

from .. import Snapshot
from ..errors import CapacityError, ClosedError
from .environment import Environment, Rules
from .gather import Gatherer, Lookout
from .mailbox import Mailbox
from .metrics import Tally
from .simulate import Simulator
from .table import Table

A = TypeVar("A")

_LOOK_EVERY = 16  # simulations between two looks for the driver
# Why a worker is idle again: no ticket was left or somebody said stop; the table is full; the environment raised
# something; it was asked for a rollout.
Ending = Literal["ended", "full", "failed", "values"]


@dataclass(frozen=True, slots=True)
class Assignment(Generic[A]):
    """What a worker is given when it is started. Pickles, or is inherited through a fork."""

    env: Environment[A]
    root: Snapshot  # of the store
    num_players: int
    discount: float
    owner: int
    lane: int  # the first, if there are several
    seed: str
    mailbox: Mailbox | None = None  # of the evaluator; None: rollouts


@dataclass(frozen=True, slots=True)
class Search:
    """Order: search from this row of the table as long as there are tickets."""

    row: int
    moved: bool  # rows have new numbers, and some are gone


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Order: a rollout from this state (leaf parallelism)."""

    state: Snapshot


Order = Search | Evaluate | None


@dataclass(frozen=True, slots=True)
class Report:
    """Why a worker waits for orders again; ``values``: of a rollout; ``error``: what the environment raised."""

    ending: Ending
    values: Sequence[float] | None = None
    error: Exception | None = None
    text: str = ""  # its traceback


def run_worker(
    assignment: Assignment[Any], table: Table, orders: Connection, others: Sequence[Connection]
) -> None:
    """The main function of a worker process."""
    # A Ctrl-C reaches the whole group; the driver decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for connection in others:  # inherited through a fork; while we hold them, the others' ends are not seen
        connection.close()
    tally = table.tally(assignment.owner)
    rng = Random(assignment.seed)
    table.seed(rng.getrandbits(64))
    counts = Tally.seen(tally)
    simulator: Simulator[Any] = Simulator(
        assignment.root.engine,
        Rules(assignment.env),
        table,
        counts,
        owner=assignment.owner,
        num_players=assignment.num_players,
        discount=assignment.discount,
        rng=rng,
    )
    try:
        while (order := orders.recv()) is not None:
            orders.send(_obey(order, simulator, assignment, tally, orders))
    except (EOFError, ConnectionError):
        return  # the driver is gone


def _obey(
    order: Search | Evaluate,
    simulator: Simulator[Any],
    assignment: Assignment[Any],
    tally: memoryview,
    orders: Connection,
) -> Report:
    try:
        if isinstance(order, Evaluate):
            return Report("values", values=simulator.evaluate(order.state))
        if order.moved:
            simulator.forget()
        if assignment.mailbox is not None:
            return Report(_gather(simulator, assignment, assignment.mailbox, order.row, tally, orders))
        return Report(_search(simulator, assignment.lane, order.row, tally, orders))
    except Exception as error:
        simulator.table.stop(True)
        return Report("failed", error=portable(error), text="".join(traceback.format_exception(error)))
    finally:
        simulator.tally.show(tally)


def _search(simulator: Simulator[Any], lane: int, row: int, tally: memoryview, orders: Connection) -> Ending:
    """Simulations until there is no ticket left, or no driver."""
    for count in itertools.count():
        try:
            went = simulator.simulate(lane, row)
        except CapacityError:
            if not simulator.table.full:
                raise
            simulator.table.stop(True)
            return "full"
        simulator.tally.show(tally)
        if not went:
            return "ended"
        if count % _LOOK_EVERY == 0 and orders.poll(0):  # no order comes now: the pipe has ended
            return "ended"
    raise AssertionError("counting does not end")


def _gather(
    simulator: Simulator[Any],
    assignment: Assignment[Any],
    mailbox: Mailbox,
    row: int,
    tally: memoryview,
    orders: Connection,
) -> Ending:
    """The same with an evaluator."""

    def look() -> None:
        if orders.poll(0):  # no order comes now: the pipe has ended
            raise EOFError("the driver is gone")

    lookout = Lookout(look)

    def goes_on() -> bool:
        simulator.tally.show(tally)
        lookout()
        return True

    gatherer = Gatherer(simulator, mailbox, asker=assignment.owner, first_lane=assignment.lane)
    try:
        ending = gatherer.run(row, goes_on)
    except ClosedError:
        ending = "ended"  # the driver knows why
    if ending == "full":
        simulator.table.stop(True)
    return ending


def portable(error: Exception) -> Exception:
    """The error if it pickles, else one that says the same."""
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return copy if isinstance(copy, Exception) else RuntimeError(str(error))
