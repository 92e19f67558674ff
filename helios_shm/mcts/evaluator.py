"""Batched evaluation: one process that holds a neural network, or talks to a remote model, for all workers.

    class Net:
        def evaluate(self, batch: Sequence[bytes]) -> list[Evaluation]:
            values, logits = forward(decode(batch))
            return [Evaluation(value, row) for value, row in zip(values, logits)]

    Search(env, root, workers=8, evaluator=Net(), batch_size=32)

The environment's ``encode(state)`` makes the bytes. Workers go on with other leaves while theirs are evaluated
(gather.py), so that a batch is gathered from all of them (mailbox.py).

An evaluator that dies is started again, and what it had taken is evaluated again. One that raises ends the search, and
its traceback reaches the caller.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from time import perf_counter_ns
from typing import Any, Protocol

from ..errors import ClosedError, HeliosError
from .mailbox import Mailbox, Question
from .options import StartMethod

RESTARTS_MAX = 3
# An evaluator that is in the middle of a batch when the search ends has so long to come out of it.
_END_SECONDS = 1.0
_LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluator says of a state.

    ``value``: what the player who moves can expect; or one number for each player. ``prior_logits``: how promising each
    action is, before a softmax, in the order of ``legal_actions``; None: all alike, or as the environment says.
    """

    value: float | Sequence[float]
    prior_logits: Sequence[float] | None = None


class Evaluator(Protocol):
    """One method makes an evaluator. It runs in a process of its own, which it reaches by a fork or pickled; what does
    not travel (a network on a device) it makes there, on first use."""

    def evaluate(self, batch: Sequence[bytes]) -> Sequence[Evaluation]:
        """Evaluate states, as the environment's ``encode`` wrote them: one Evaluation for each, in order. Called with
        the same state again if its process died before."""
        ...


class EvaluatorError(HeliosError):
    """The evaluator raised an exception, whose traceback is in the message (and which is the ``__cause__``, if it
    pickles); or its process died again and again."""


@dataclass(frozen=True, slots=True)
class EvaluatorStats:
    """``batches`` evaluated, ``evaluations`` in them, the ``seconds`` that took, and ``restarts`` of the process."""

    batches: int
    evaluations: int
    seconds: float
    restarts: int

    @property
    def mean_batch_size(self) -> float:
        return self.evaluations / self.batches if self.batches else 0.0


class EvaluatorProcess:
    """The process that evaluates what stands in a mailbox, as the one that started it sees it.

    evaluator: see ``Evaluator``; what it is given, ``mailbox`` holds.
    batch_size: the most states evaluated at once, 1 or more.
    batch_wait_ms: how long a state waits at most for others, while workers are on their way to more.
    start_method: "fork", "spawn" or "forkserver"; default: multiprocessing's.
    restarts_max: how often a process that died is replaced without having answered a batch.

    Whoever runs a search calls ``attend`` now and then, and whenever something of ``waitables`` is ready; nothing else
    notices that the process is dead. Belongs to one thread. Raises ValueError for options out of their bounds,
    TypeError for an evaluator without ``evaluate``.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        mailbox: Mailbox,
        *,
        batch_size: int,
        batch_wait_ms: float = 1.0,
        start_method: StartMethod | None = None,
        restarts_max: int = RESTARTS_MAX,
    ) -> None:
        if not callable(getattr(evaluator, "evaluate", None)):
            raise TypeError(f"an evaluator has a method evaluate; {type(evaluator).__name__} has none")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it is 1 or more")
        if not 0 <= batch_wait_ms <= 60_000:
            raise ValueError(f"batch_wait_ms is {batch_wait_ms}; it is between 0 and 60000")
        self._evaluator, self._mailbox = evaluator, mailbox
        self._batch_size, self._wait_us = batch_size, round(batch_wait_ms * 1000)
        self._context: Any = multiprocessing.get_context(start_method)
        self._restarts_max = restarts_max
        self._life = 0
        self._deaths = self._batches = 0  # in a row; batches when it died last
        self._failure: EvaluatorError | None = None
        self._process: BaseProcess | None = None
        self._report: Connection | None = None
        self._start()

    def _start(self) -> None:
        """Begin a life; what it takes carries its number."""
        self._life += 1
        self._report, theirs = self._context.Pipe(duplex=False)
        has_server = self._context.get_start_method() == "forkserver"
        work = (
            self._evaluator,
            self._mailbox,
            self._life,
            self._batch_size,
            self._wait_us,
            theirs,
            has_server,
        )
        process = self._context.Process(
            target=_run, args=work, name=f"helios-evaluator-{self._life}", daemon=True
        )
        try:
            process.start()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            error.add_note("an evaluator travels to its process: it must pickle, or be started by fork")
            raise
        finally:
            theirs.close()
        self._process = process

    @property
    def pid(self) -> int | None:
        """The process as it is now; None after ``stop``."""
        return None if self._process is None else self._process.pid

    @property
    def waitables(self) -> list[Any]:
        """For ``multiprocessing.connection.wait``: ready when ``attend`` has something to do."""
        if self._failure is not None or self._process is None or self._report is None:
            return []
        return [self._process.sentinel, self._report]

    @property
    def stats(self) -> EvaluatorStats:
        """Of all its lives; a batch in which one died is not counted."""
        counts = self._mailbox.counts()
        return EvaluatorStats(counts.batches, counts.answers, counts.busy_ns / 1e9, max(self._life - 1, 0))

    def attend(self) -> None:
        """See after the process. If it is dead, start another and have it evaluate what the dead one had taken.

        Raises EvaluatorError if the evaluator raised, or died once too often; then all who wait for it are let go.
        """
        if self._failure is None and self._process is not None:
            self._failure = self._reported() or self._buried()
            if self._failure is not None:
                self._mailbox.close()
                self._mailbox.give_back(self._life)
        if self._failure is not None:
            raise self._failure

    def _reported(self) -> EvaluatorError | None:
        """What the evaluator raised, if it did."""
        assert self._report is not None
        try:
            if not self._report.poll(0):
                return None
            text, cause = self._report.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            return None
        failure = EvaluatorError(f"the evaluator raised {text}")
        failure.__cause__ = _loaded(cause)
        return failure

    def _buried(self) -> EvaluatorError | None:
        """Mend what a dead process left, and start another; or say that this is enough."""
        process = self._process
        assert process is not None and self._report is not None
        if process.is_alive():
            return None
        process.join()
        code = process.exitcode
        failure = self._reported()  # its last word
        if failure is not None:
            return failure
        self._report.close()
        self._process = self._report = None
        process.close()
        self._mailbox.give_back(self._life)
        batches = self._mailbox.counts().batches
        self._deaths = self._deaths + 1 if batches == self._batches else 1
        self._batches = batches
        if self._deaths > self._restarts_max:
            return EvaluatorError(
                f"the evaluator's process died {self._deaths} times, one after the other, without an answer; the last "
                f"time {_ending(code)}. What it printed may say why"
            )
        try:
            self._start()
        except Exception as error:
            failure = EvaluatorError(
                f"the evaluator's process died {_ending(code)}, and cannot be started again: {error}"
            )
            failure.__cause__ = error
            return failure
        return None

    def stop(self) -> None:
        """End the process and all waits for it; one that is in the middle of a long batch is killed. Idempotent."""
        self._mailbox.close()
        process, self._process = self._process, None
        if process is None:
            return
        process.join(_END_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
        process.close()
        self._mailbox.give_back(self._life)
        if self._report is not None:
            self._report.close()

    def __enter__(self) -> EvaluatorProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"by {signal.Signals(-code).name}"
    return f"with exit code {code}"


def _loaded(pickled: bytes | None) -> BaseException | None:
    if pickled is None:
        return None
    with contextlib.suppress(Exception):
        error = pickle.loads(pickled)
        if isinstance(error, BaseException):
            return error
    return None


# ---- In the evaluator's process ----


def _run(
    evaluator: Evaluator,
    mailbox: Mailbox,
    life: int,
    batch_size: int,
    wait_us: int,
    report: Connection,
    has_server: bool,
) -> None:
    """Its main function: batches, until the mailbox is closed or the one who started it is gone."""
    # A Ctrl-C reaches the whole group; the one who runs the search decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_leave_with_parent, args=(has_server,), daemon=True).start()
    try:
        while True:
            questions = mailbox.gather(life, batch_size, wait_us)
            if questions:
                _answer(evaluator, mailbox, life, questions)
    except ClosedError:
        return
    except BaseException as error:
        with contextlib.suppress(OSError):
            report.send(("".join(traceback.format_exception(error)), _dumped(error)))
    finally:
        report.close()


def _leave_with_parent(has_server: bool) -> None:
    """End this process when the one who started it has ended, whatever an evaluator is in the middle of.

    Its end is told by a pipe, unless other children inherited that: then by being somebody else's child.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    while not wait([parent.sentinel], _LOOK_SECONDS) and (has_server or os.getppid() == parent.pid):
        pass
    os._exit(1)


def _answer(evaluator: Evaluator, mailbox: Mailbox, life: int, questions: Sequence[Question]) -> None:
    """Evaluate a batch."""
    began = perf_counter_ns()
    found = evaluator.evaluate([question.request for question in questions])
    if len(found) != len(questions):
        raise ValueError(f"evaluate was given {len(questions)} states, and returned {len(found)} evaluations")
    for question, evaluation in zip(questions, found, strict=True):
        logits = evaluation.prior_logits
        values = _numbers(evaluation.value, mailbox.shape.num_players)
        mailbox.answer(life, question, values, () if logits is None else [float(logit) for logit in logits])
    mailbox.ring(questions, perf_counter_ns() - began)


def _numbers(value: float | Sequence[float], num_players: int) -> list[float]:
    """A value as numbers: one, for the player who moves, or one for each player."""
    try:
        numbers = [float(each) for each in value]  # type: ignore[union-attr]
    except TypeError:
        numbers = [float(value)]  # type: ignore[arg-type]
    if len(numbers) not in (1, num_players):
        raise ValueError(
            f"an evaluation's value is one number or {num_players}, one for each player, not {len(numbers)}"
        )
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"an evaluation's value is {numbers}; values are finite")
    return numbers


def _dumped(error: BaseException) -> bytes | None:
    with contextlib.suppress(Exception):
        return pickle.dumps(error)
    return None
