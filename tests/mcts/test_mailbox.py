"""The mailbox beside a plain-Python twin: any order of questions, batches, answers, withdrawals and deaths."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from helios_shm.mcts.mailbox import Answer, Mailbox, Question, Shape

SHAPE = Shape(askers=2, boxes_each=3, request_bytes_max=16, num_players=2, logits_max=4)
BOXES = st.integers(0, SHAPE.askers * SHAPE.boxes_each - 1)
ASKERS = st.integers(0, SHAPE.askers - 1)
REQUESTS = st.binary(max_size=SHAPE.request_bytes_max)


@dataclass
class Twin:
    """What a box should be. ``taker``: whose hands it is in, or was when it was withdrawn."""

    state: str = "free"
    request: bytes = b""
    taker: int = 0
    answer: Answer | None = None


def answer_to(request: bytes, life: int) -> Answer:
    return Answer([float(len(request)), float(life)], [float(byte) for byte in request[:4]])


class Beside(RuleBasedStateMachine):
    """Two askers, and an evaluator that may die. What a life has taken, and not answered, is ``hands``."""

    def __init__(self) -> None:
        super().__init__()
        self.mailbox, self.life = Mailbox(SHAPE), 1
        self.twins = [Twin() for _ in range(SHAPE.askers * SHAPE.boxes_each)]
        self.hands: list[Question] = []
        self.late: list[tuple[int, Question]] = []  # of dead lives

    @rule(box=BOXES, request=REQUESTS)
    def ask(self, box: int, request: bytes) -> None:
        twin = self.twins[box]
        assert self.mailbox.ask(box, request) == (twin.state == "free")
        if twin.state == "free":
            self.twins[box] = Twin("asked", request)

    @rule(size=st.integers(1, 7))
    def gather(self, size: int) -> None:
        asked = {box for box, twin in enumerate(self.twins) if twin.state == "asked"}
        if not asked:
            return
        batch = self.mailbox.gather(self.life, size, 0)
        assert len(batch) == min(size, len(asked))
        assert {question.box for question in batch} <= asked
        for question in batch:
            twin = self.twins[question.box]
            assert question.request == twin.request
            twin.state, twin.taker = "taken", self.life
        self.hands += batch

    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        if not self.hands:
            return
        question = self.hands.pop(data.draw(st.integers(0, len(self.hands) - 1)))
        twin, answer = self.twins[question.box], answer_to(question.request, self.life)
        is_wanted = self.mailbox.answer(self.life, question, answer.values, answer.logits)
        assert is_wanted == (twin.state == "taken")
        self.twins[question.box] = Twin("answered", answer=answer) if is_wanted else Twin()
        assert not self.mailbox.answer(self.life, question, [7.0], [])  # once

    @rule(box=BOXES)
    def read(self, box: int) -> None:
        twin = self.twins[box]
        assert self.mailbox.read(box) == twin.answer
        if twin.state == "answered":
            self.twins[box] = Twin()

    @rule(asker=ASKERS)
    def collect(self, asker: int) -> None:
        answered = [box for box in self.mailbox.boxes(asker) if self.twins[box].state == "answered"]
        assert self.mailbox.collect(asker, wait=False) == answered

    @rule(asker=ASKERS)
    def withdraw(self, asker: int) -> None:
        held = 0
        for box in self.mailbox.boxes(asker):
            twin = self.twins[box]
            if twin.state in ("taken", "orphaned"):
                twin.state, held = "orphaned", held + 1
            else:
                self.twins[box] = Twin()
        assert self.mailbox.withdraw(asker) == held

    @rule()
    def die(self) -> None:
        """The evaluator dies, and another takes its place."""
        again = [twin for twin in self.twins if twin.state == "taken"]
        self.twins = [Twin() if twin.state == "orphaned" else twin for twin in self.twins]
        for twin in again:
            twin.state = "asked"
        assert self.mailbox.give_back(self.life) == len(again)
        self.late += [(self.life, question) for question in self.hands]
        self.hands, self.life = [], self.life + 1

    @rule()
    def answer_late(self) -> None:
        """What a dead life had taken is answered in its name: nothing comes of it."""
        for life, question in self.late:
            assert not self.mailbox.answer(life, question, [7.0], [])

    @invariant()
    def boxes_are_as_many_of_each_kind(self) -> None:
        counts = self.mailbox.counts()
        for state in ("free", "asked", "taken", "answered", "orphaned"):
            assert getattr(counts, state) == sum(twin.state == state for twin in self.twins)

    def teardown(self) -> None:
        self.mailbox.release()


TestBesideItsTwin = Beside.TestCase
TestBesideItsTwin.settings = settings(max_examples=60, stateful_step_count=40)
