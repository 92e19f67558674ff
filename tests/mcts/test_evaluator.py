"""An evaluator in a process of its own: batches from all who ask, answers to those who asked, and what becomes of both
when one of them dies, or raises.

A question here is a number in eight bytes; its value is the number, unless an evaluator says something else of it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

import psutil
import pytest

from helios_shm import CapacityError, ClosedError
from helios_shm.mcts.evaluator import Evaluation, Evaluator, EvaluatorError, EvaluatorProcess
from helios_shm.mcts.mailbox import Answer, Mailbox, Shape
from tests.processes.rig import SECONDS_MAX, finish, line_of, start_program, until, workers

SHAPE = Shape(askers=3, boxes_each=4, request_bytes_max=64, num_players=2, logits_max=8)
FOR_EVER_MS = 60_000.0  # the other conditions of a batch decide
CONTEXT = multiprocessing.get_context("fork")


def encoded(number: int) -> bytes:
    return number.to_bytes(8, "little")


def decoded(request: bytes) -> int:
    return int.from_bytes(request, "little")


class Echo:
    """The value is the number, and the logits say how large the batch was."""

    def evaluate(self, batch: Sequence[bytes]) -> list[Evaluation]:
        return [Evaluation(float(decoded(request)), [float(len(batch))]) for request in batch]


class Vectors:
    """A value for each player, and no logits."""

    def evaluate(self, batch: Sequence[bytes]) -> list[Evaluation]:
        return [Evaluation((float(decoded(request)), -1.0)) for request in batch]


class Raises:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def evaluate(self, batch: Sequence[bytes]) -> list[Evaluation]:
        raise self.error


class Returns:
    """These evaluations, whatever was asked."""

    def __init__(self, *evaluations: Evaluation) -> None:
        self.evaluations = evaluations

    def evaluate(self, batch: Sequence[bytes]) -> Sequence[Evaluation]:
        return self.evaluations


class Stands:
    """Says which process it is, and stands still until there is a byte in ``gate`` for it."""

    def __init__(self) -> None:
        self.told, self.telling = CONTEXT.Pipe(duplex=False)
        self.gate, self.opening = CONTEXT.Pipe(duplex=False)

    def evaluate(self, batch: Sequence[bytes]) -> list[Evaluation]:
        self.telling.send((os.getpid(), len(batch)))
        self.gate.recv_bytes()
        return Echo().evaluate(batch)

    def heard(self) -> tuple[int, int]:
        """Its process and the size of its batch, when it is in the middle of one."""
        assert self.told.poll(SECONDS_MAX)
        pid, size = self.told.recv()
        return pid, size

    def open(self) -> None:
        self.opening.send_bytes(b"go")

    def close(self) -> None:
        for end in (self.told, self.telling, self.gate, self.opening):
            end.close()


@contextmanager
def evaluated(evaluator: Evaluator, **options: Any) -> Iterator[tuple[Mailbox, EvaluatorProcess]]:
    """A mailbox and the process that answers in it; nothing of them is left afterwards."""
    mailbox = Mailbox(options.pop("shape", SHAPE))
    options = {"batch_size": 12, "batch_wait_ms": 0.0, "start_method": "fork", **options}
    try:
        with EvaluatorProcess(evaluator, mailbox, **options) as process:
            yield mailbox, process
    finally:
        mailbox.release()


@pytest.fixture
def standing() -> Iterator[Stands]:
    made = Stands()
    yield made
    made.close()


# ---- what an asker does; in a process of its own, or here ----


def ask_all(mailbox: Mailbox, asker: int, first: int) -> None:
    """A question into each box of one's own."""
    for number, box in enumerate(mailbox.boxes(asker), first):
        assert mailbox.ask(box, encoded(number))


def answers(
    mailbox: Mailbox, asker: int, count: int, process: EvaluatorProcess | None = None
) -> dict[int, Answer]:
    """So many answers, by their boxes."""
    found: dict[int, Answer] = {}
    while len(found) < count:
        if process is not None:
            process.attend()
        for box in mailbox.collect(asker):
            answer = mailbox.read(box)
            assert answer is not None and box not in found
            found[box] = answer
    return found


def ask_and_wait(mailbox: Mailbox, asker: int, first: int) -> list[Answer]:
    """A question into each box of one's own, and their answers in the order of the boxes."""
    ask_all(mailbox, asker, first)
    found = answers(mailbox, asker, SHAPE.boxes_each)
    return [found[box] for box in mailbox.boxes(asker)]


# ---- batches ----


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_batch_is_gathered_from_all_workers(start_method: Any) -> None:
    """A batch has time for ever, and would take more than there is: it is complete when everybody waits."""
    options = {"start_method": start_method, "batch_wait_ms": FOR_EVER_MS, "batch_size": 100}
    with evaluated(Echo(), **options) as (mailbox, process), workers(3, CONTEXT, mailbox) as askers:
        for asker in range(3):
            mailbox.join(asker)
        for asker, worker in enumerate(askers):
            worker.tell(ask_and_wait, asker, 10 * asker)
        for asker, worker in enumerate(askers):
            assert worker.hear() == [Answer([10.0 * asker + n], [12.0]) for n in range(4)]
        stats = process.stats
        assert (stats.batches, stats.evaluations, stats.mean_batch_size) == (1, 12, 12.0)
        assert stats.seconds > 0 and stats.restarts == 0


def test_batch_of_its_size_waits_for_nobody() -> None:
    with evaluated(Echo(), batch_size=3, batch_wait_ms=FOR_EVER_MS) as (mailbox, process):
        mailbox.join(0)
        mailbox.join(1)  # it is at work all the time
        for number, box in enumerate(mailbox.boxes(0)):
            mailbox.ask(box, encoded(number))
        found = answers(mailbox, 0, 3)
        assert all(answer.logits == [3.0] for answer in found.values())
        mailbox.withdraw(1)
        left = answers(mailbox, 0, 1)
        assert {answer.values[0] for answer in [*found.values(), *left.values()]} == {0.0, 1.0, 2.0, 3.0}
        assert process.stats.batches == 2


def test_what_waits_for_others_waits_no_longer_than_it_may() -> None:
    with evaluated(Vectors(), batch_wait_ms=2.0) as (mailbox, _):
        mailbox.join(0)
        mailbox.join(1)
        mailbox.ask(5, encoded(7))
        assert answers(mailbox, 1, 1) == {5: Answer([7.0, -1.0], [])}


def test_workers_take_their_answers_in_any_order_and_go_on_meanwhile() -> None:
    """Each asks again as soon as it has an answer; every one fits its question."""
    rounds = 300
    with evaluated(Echo(), batch_size=4) as (mailbox, process), workers(3, CONTEXT, mailbox) as askers:
        for asker, worker in enumerate(askers):
            worker.tell(ask_again_and_again, asker, rounds)
        assert [worker.hear() for worker in askers] == [rounds] * 3
        assert process.stats.evaluations == 3 * rounds
        assert mailbox.counts().free == 12


def ask_again_and_again(mailbox: Mailbox, asker: int, rounds: int) -> int:
    """How many answers were right."""
    mailbox.join(asker)
    right, asked, numbers = 0, 0, dict.fromkeys(mailbox.boxes(asker), -1)
    while right < rounds:
        for box in reversed(numbers):
            if numbers[box] == -1 and asked < rounds:
                numbers[box] = asker << 16 | asked
                assert mailbox.ask(box, encoded(numbers[box]))
                asked += 1
        for box in mailbox.collect(asker):
            answer = mailbox.read(box)
            assert answer is not None
            right += answer.values == [float(numbers[box])]
            numbers[box] = -1
    mailbox.withdraw(asker)
    return right


# ---- what does not fit ----


def test_state_that_encodes_to_more_than_a_box_holds_names_the_option() -> None:
    with evaluated(Echo()) as (mailbox, _):
        with pytest.raises(CapacityError, match=r"65 bytes.* take 64: .*encoded_bytes_max"):
            mailbox.ask(0, bytes(65))
        assert mailbox.counts().free == 12
        assert mailbox.ask(0, bytes(64))


@pytest.mark.parametrize(
    ("evaluations", "says"),
    [
        ((), "was given 1 states, and returned 0"),
        ((Evaluation(0.0), Evaluation(0.0)), "was given 1 states, and returned 2"),
        ((Evaluation(float("nan")),), "values are finite"),
        ((Evaluation((1.0, 2.0, 3.0)),), "one number or 2, one for each player, not 3"),
        ((Evaluation(0.0, [0.0] * 9),), "9 prior_logits.* take 8: .*logits_max"),
    ],
)
def test_evaluations_that_cannot_be_used_end_it(evaluations: tuple[Evaluation, ...], says: str) -> None:
    with evaluated(Returns(*evaluations)) as (mailbox, process):
        mailbox.join(0)
        mailbox.ask(0, encoded(1))
        with pytest.raises(EvaluatorError, match=says):
            answers(mailbox, 0, 1, process)


def test_options_out_of_their_bounds_are_refused() -> None:
    mailbox = Mailbox(SHAPE)
    with pytest.raises(ValueError, match="batch_size is 0"):
        EvaluatorProcess(Echo(), mailbox, batch_size=0)
    with pytest.raises(ValueError, match="batch_wait_ms is -1"):
        EvaluatorProcess(Echo(), mailbox, batch_size=1, batch_wait_ms=-1)
    with pytest.raises(TypeError, match="int has none"):
        EvaluatorProcess(7, mailbox, batch_size=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Shape"):
        Mailbox(Shape(0, 4, 64, 2, 8))
    mailbox.release()
    mailbox.release()


def test_evaluator_that_does_not_travel_says_so() -> None:
    mailbox = Mailbox(SHAPE)
    evaluator = Returns()
    evaluator.evaluate = lambda batch: []  # type: ignore[method-assign]
    with pytest.raises((AttributeError, TypeError), match="pickle") as caught:
        EvaluatorProcess(evaluator, mailbox, batch_size=1, start_method="spawn")
    assert "must pickle" in caught.value.__notes__[0]
    mailbox.release()


# ---- exceptions and deaths ----


class OfItsOwn(Exception):
    """Cannot be made again from what a pickle keeps of it."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(one + other)


@pytest.mark.parametrize(
    ("error", "cause"),
    [(LookupError("no such square"), LookupError), (OfItsOwn("no such", " square"), type(None))],
)
def test_exception_of_an_evaluator_reaches_the_caller_with_its_traceback(
    error: Exception, cause: type[object]
) -> None:
    with evaluated(Raises(error)) as (mailbox, process):
        mailbox.join(0)
        mailbox.ask(0, encoded(1))
        assert wait(process.waitables, SECONDS_MAX)
        with pytest.raises(EvaluatorError, match="no such square") as caught:
            until("the evaluator has said why", process.attend)
        assert "in evaluate" in str(caught.value) and "raise self.error" in str(caught.value)
        assert type(caught.value.__cause__) is cause
        with pytest.raises(ClosedError):
            mailbox.collect(0)
        with pytest.raises(EvaluatorError):
            process.attend()


def killed_in_the_middle(process: EvaluatorProcess, standing: Stands) -> int:
    """Kill it while it has a batch, and see after it. Returns how large the batch was."""
    pid, size = standing.heard()
    assert pid == process.pid
    os.kill(pid, signal.SIGKILL)
    assert wait(process.waitables, SECONDS_MAX)
    until("it is started again", lambda: process.attend() or process.pid != pid)
    return size


def test_evaluator_killed_in_the_middle_of_a_batch_is_started_again_and_does_it_again(
    standing: Stands,
) -> None:
    with (
        evaluated(standing, batch_wait_ms=FOR_EVER_MS) as (mailbox, process),
        workers(1, CONTEXT, mailbox) as [worker],
    ):
        mailbox.join(0)
        worker.tell(ask_and_wait, 0, 40)
        assert [killed_in_the_middle(process, standing) for _ in range(3)] == [4, 4, 4]
        assert process.stats.restarts == 3
        standing.open()
        assert worker.hear() == [Answer([40.0 + n], [4.0]) for n in range(4)]
        assert process.stats.evaluations == 4


def test_evaluator_that_dies_again_and_again_is_given_up(standing: Stands) -> None:
    with evaluated(standing, restarts_max=2) as (mailbox, process):
        mailbox.join(0)
        mailbox.ask(0, encoded(1))
        with pytest.raises(EvaluatorError, match=r"died 3 times, .*; the last time by SIGKILL"):
            while True:
                killed_in_the_middle(process, standing)
        assert process.waitables == [] and process.pid is None
        with pytest.raises(ClosedError):
            mailbox.collect(0)


def test_killed_worker_takes_its_questions_along_and_nobody_waits_for_it(standing: Stands) -> None:
    """One dies with a question that is being evaluated, one that is asked, and one that it never asked."""
    options = {"batch_size": 5, "batch_wait_ms": FOR_EVER_MS}
    with evaluated(standing, **options) as (mailbox, _), workers(2, CONTEXT, mailbox) as [dying, living]:
        mailbox.join(0)
        mailbox.join(1)
        dying.ask(ask_all, 0, 10)
        mailbox.ask(4, encoded(20))
        assert standing.heard()[1] == 5
        dying.kill()
        assert mailbox.withdraw(0) == 4
        assert mailbox.counts()[3:] == (7, 0, 1, 0, 4, 1, 0)
        assert not mailbox.ask(0, encoded(1))  # its successor waits until the box is let go of
        standing.open()
        living.tell(answers, 1, 1)
        assert living.hear() == {4: Answer([20.0], [5.0])}
        until("the boxes are free", lambda: mailbox.counts().free == 12)
        assert mailbox.ask(0, encoded(1))
        assert mailbox.withdraw(0) == 0
        living.tell(ask_and_wait, 1, 30)
        standing.open()
        assert [answer.values for answer in living.hear()] == [[30.0], [31.0], [32.0], [33.0]]


def test_stop_ends_an_evaluator_that_is_in_the_middle_of_a_batch(standing: Stands) -> None:
    with evaluated(standing) as (mailbox, process):
        mailbox.join(0)
        mailbox.ask(0, encoded(1))
        pid, _ = standing.heard()
        process.stop()
        process.stop()
        assert not psutil.pid_exists(pid)


PARENT = """
import os, sys
from helios_shm.mcts.evaluator import EvaluatorProcess
from helios_shm.mcts.mailbox import Mailbox
from tests.mcts.test_evaluator import SHAPE, Stands
if __name__ == "__main__":
    mailbox, standing = Mailbox(SHAPE), Stands()
    process = EvaluatorProcess(standing, mailbox, batch_size=1, start_method="fork")
    sibling = os.fork()  # has all that tells the evaluator of its parent's end
    if sibling == 0:
        sys.stdin.readline()
        os._exit(0)
    mailbox.join(0)
    mailbox.ask(0, b"question")
    print(standing.heard()[0], sibling, flush=True)
    sys.stdin.readline()
"""


def test_evaluator_ends_with_who_started_it_though_that_was_killed() -> None:
    program = start_program(PARENT)
    evaluator, sibling = map(int, line_of(program).split())
    program.kill()
    until("the evaluator is gone", lambda: not psutil.pid_exists(evaluator) or is_zombie(evaluator))
    os.kill(sibling, signal.SIGKILL)
    finish(program, -signal.SIGKILL)


def is_zombie(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
