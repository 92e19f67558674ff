"""Boxes that workers put encoded states into, and an evaluator its answers: ``hs_mailbox_*`` of the C core, and where
they lie.

    worker 0   box box box box --gather--> [bytes, bytes, ...] --evaluate--> answers --> boxes --collect--> worker
    worker 1   box box box box

The memory is a memfd: it has no name, and goes with the last process that has it. Through a fork it is inherited;
spawn and forkserver hand its descriptor over. csrc/hs_mailbox.h says who may change what, and what is done for the
dead.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import reduction
from typing import Any, NamedTuple

from .._capi import check, ffi, lib
from ..errors import CapacityError

# One call into C waits no longer than this; who waits longer calls again.
_WAIT_MS = 50


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a mailbox is. ``askers``: processes that ask, with ``boxes_each``; ``request_bytes_max``: of an encoded
    state; ``num_players``: values of an answer; ``logits_max``: prior logits of an answer."""

    askers: int
    boxes_each: int
    request_bytes_max: int
    num_players: int
    logits_max: int


class Question(NamedTuple):
    """What was taken out of a box, and where its answer goes."""

    box: int
    generation: int
    request: bytes


class Answer(NamedTuple):
    """``values``: one for each player, or one; ``logits``: of the actions, perhaps none."""

    values: list[float]
    logits: list[float]


class Counts(NamedTuple):
    """Batches and their answers so far, with the time they took; boxes and askers as they are now."""

    batches: int
    answers: int
    busy_ns: int
    free: int
    asked: int
    taken: int
    answered: int
    orphaned: int
    joined: int
    waiting: int


class Mailbox:
    """A mailbox, mapped into this process. What belongs to one asker, or to the evaluator, that one alone may call."""

    def __init__(self, shape: Shape) -> None:
        """Raises ValueError if it cannot be so large, OSError if there is no memory."""
        self.shape = shape
        size = ffi.new("uint64_t *")
        check(lib.hs_mailbox_size(self._config(), size), f"a mailbox of {shape}")
        self._fd = os.memfd_create("helios-mailbox", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self._fd, size[0])
            self._map()
            status = lib.hs_mailbox_format(self._memory, len(self._mapped), self._config())
            check(status, "making a mailbox")
        except BaseException:
            os.close(self._fd)
            raise

    def _config(self) -> Any:
        shape, config = self.shape, ffi.new("hs_mailbox_config *")
        config.askers, config.boxes_each = shape.askers, shape.boxes_each
        config.request_size_max = shape.request_bytes_max
        config.num_players, config.logits_max = shape.num_players, shape.logits_max
        return config

    def _map(self) -> None:
        shape = self.shape
        self._mapped = mmap.mmap(self._fd, 0)
        self._memory = ffi.cast("void *", ffi.from_buffer(self._mapped))
        self._boxes = ffi.new("uint32_t[]", shape.boxes_each)
        self._values = ffi.new("double[]", shape.num_players)
        self._logits = ffi.new("float[]", max(shape.logits_max, 1))
        self._numbers = ffi.new("uint32_t[2]")
        self._items = ffi.new("hs_mailbox_item[]", shape.askers * shape.boxes_each)

    def __getstate__(self) -> tuple[Shape, Any]:
        return self.shape, reduction.DupFd(self._fd)

    def __setstate__(self, state: tuple[Shape, Any]) -> None:
        self.shape, fd = state
        self._fd = fd.detach()
        self._map()
        found = ffi.new("hs_mailbox_config *")
        check(lib.hs_mailbox_attach(self._memory, len(self._mapped), found), "joining a mailbox")

    def release(self) -> None:
        """Let go of the descriptor; the memory goes with the last map. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        """End all waits of all processes, for good: they raise ClosedError."""
        lib.hs_mailbox_close(self._memory)

    def counts(self) -> Counts:
        counts = ffi.new("hs_mailbox_counts *")
        lib.hs_mailbox_counts_get(self._memory, counts)
        return Counts(*(int(getattr(counts, name)) for name in Counts._fields))

    # --- who asks ---

    def boxes(self, asker: int) -> range:
        """The boxes of an asker."""
        each = self.shape.boxes_each
        return range(asker * each, (asker + 1) * each)

    def join(self, asker: int) -> None:
        """From now on a batch may wait for this asker."""
        check(lib.hs_mailbox_join(self._memory, asker), f"asker {asker}")

    def withdraw(self, asker: int) -> int:
        """The asker ends; or it is dead, and another process does this for it. What it asked is nobody's any more.
        Returns how many of its boxes come free only when the evaluator has answered."""
        return check(lib.hs_mailbox_withdraw(self._memory, asker), f"asker {asker}")

    def ask(self, box: int, request: bytes) -> bool:
        """Put an encoded state into a box; never waits. False: the box is not free. CapacityError: it is too small."""
        if len(request) > self.shape.request_bytes_max:
            raise CapacityError(
                f"a state encodes to {len(request):,} bytes; an evaluator's boxes take "
                f"{self.shape.request_bytes_max:,}: give the search a larger encoded_bytes_max"
            )
        status = lib.hs_mailbox_ask(self._memory, box, request, len(request))
        return status != lib.HS_WAIT and check(status, f"box {box}") == 0

    def collect(self, asker: int, *, wait: bool = True) -> list[int]:
        """The boxes of an asker that are answered; none after 50 ms of waiting, or at once. Raises ClosedError."""
        wait_ms = _WAIT_MS if wait else 0
        boxes = self._boxes
        count = lib.hs_mailbox_collect(self._memory, asker, wait_ms, boxes, self.shape.boxes_each)
        if count == lib.HS_TIMED_OUT:
            return []
        return list(boxes[0 : check(count, "waiting for an evaluator")])

    def read(self, box: int) -> Answer | None:
        """Take the answer out of a box, which comes free; None: it has none."""
        numbers = self._numbers
        status = lib.hs_mailbox_read(self._memory, box, self._values, numbers, self._logits, numbers + 1)
        if status == lib.HS_NOT_FOUND:
            return None
        check(status, f"box {box}")
        return Answer(list(self._values[0 : numbers[0]]), list(self._logits[0 : numbers[1]]))

    # --- who answers ---

    def gather(self, taker: int, batch_size: int, batch_wait_us: int) -> list[Question]:
        """Take questions: ``batch_size``, or what there is when all askers wait or ``batch_wait_us`` have passed since
        the first was asked. None after 50 ms without. ``taker`` is another number for each life of an evaluator.
        Raises ClosedError."""
        items = self._items
        size = min(batch_size, len(items))
        count = lib.hs_mailbox_gather(self._memory, taker, size, batch_wait_us, _WAIT_MS, items)
        if count == lib.HS_TIMED_OUT:
            return []
        check(count, "gathering a batch")
        return [self._question(items[index]) for index in range(count)]

    @staticmethod
    def _question(item: Any) -> Question:
        return Question(item.box, item.generation, bytes(ffi.buffer(item.request, item.size)))

    def answer(
        self, taker: int, question: Question, values: Sequence[float], logits: Sequence[float]
    ) -> bool:
        """Put an answer into its box. False: nobody waits for it any more. CapacityError: too many logits."""
        if len(logits) > self.shape.logits_max:
            raise CapacityError(
                f"an evaluation has {len(logits):,} prior_logits; an evaluator's boxes take "
                f"{self.shape.logits_max:,}: give the search a larger logits_max"
            )
        status = lib.hs_mailbox_answer(
            self._memory,
            taker,
            question.box,
            question.generation,
            ffi.new("double[]", values),
            len(values),
            ffi.new("float[]", logits),
            len(logits),
        )
        return status != lib.HS_NOT_FOUND and check(status, f"box {question.box}") == 0

    def ring(self, questions: Sequence[Question], busy_ns: int) -> None:
        """Wake who waits for these answers; count them as a batch that took so long."""
        items = self._items
        for item, question in zip(items, questions, strict=False):
            item.box = question.box
        lib.hs_mailbox_ring(self._memory, items, len(questions), busy_ns)

    def give_back(self, taker: int) -> int:
        """Have what a dead evaluator had taken asked again. Returns how many."""
        return check(lib.hs_mailbox_give_back(self._memory, taker), "an evaluator's boxes")
