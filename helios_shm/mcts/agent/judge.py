"""A judge: what a state is worth, by a command that is run on it.

    score(state)    remembered by this process?         a dict
                    remembered by the store?            a branch: id of the state -> outcome
                    being judged by another process?    wait for it (a file lock that dies with its owner)
                    else: put it into the scratch, run the command, remember the outcome

So each state is judged once, whoever meets it and as often as it is met, in this search and in later ones. What is
remembered is the outcome; the score is computed from it, by a function that may change.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ... import Branch, Engine, NotFoundError, ReadOnlyError, Snapshot
from .command import Command, Outcome
from .scratch import CLAIMS, root_directory, scratch_of_thread

Score = Callable[[Outcome], float]
_REMEMBERED_MAX = 4096


# --- scores ---


def succeeded(outcome: Outcome) -> float:
    """1 if the command ended with 0, else 0."""
    return float(outcome.ok)


_COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed|deselected)\b")
_UNITTEST_RAN = re.compile(r"^Ran (\d+) tests? in ", re.MULTILINE)
_UNITTEST_BAD = re.compile(r"^FAILED \((.*)\)$", re.MULTILINE)


def share_passed(outcome: Outcome) -> float:
    """The share of tests that passed, as pytest or unittest say in their last lines; 1 only if the command ended with
    0 as well. A run that was cut short, or never came to its tests, is worth 0."""
    if outcome.limit is not None:
        return 0.0
    passed, bad = _counted(outcome.text)
    share = passed / (passed + bad) if passed else 0.0
    return share if share < 1 or outcome.ok else 0.0


def _counted(text: str) -> tuple[int, int]:
    """How many tests passed and did not."""
    ran = _UNITTEST_RAN.findall(text)
    if ran:
        verdict = _UNITTEST_BAD.findall(text)
        bad = sum(
            int(n)
            for n in re.findall(r"(?:failures|errors|unexpected successes)=(\d+)", *verdict[-1:] or [""])
        )
        return int(ran[-1]) - bad, bad
    for line in reversed(text.splitlines()):
        counts = {word.rstrip("s"): int(number) for number, word in _COUNT.findall(line)}
        if counts and " in " in line:
            return counts.get("passed", 0), counts.get("failed", 0) + counts.get("error", 0)
    return 0, 0


# --- verdicts ---


@dataclass(frozen=True, slots=True)
class Judged:
    """What is remembered of a state: the outcome, and what it took to put the state into a directory."""

    outcome: Outcome
    materialize_s: float

    def to_json(self) -> bytes:
        record = {"outcome": self.outcome.to_record(), "materialize_s": self.materialize_s}
        return json.dumps(record).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Judged:
        record = json.loads(data)
        return cls(Outcome.from_record(record["outcome"]), record["materialize_s"])


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says of a state: its score, the outcome it comes from, and whether that was remembered."""

    score: float
    outcome: Outcome
    remembered: bool


@dataclass(slots=True)
class Spent:
    """What judging has cost in this process."""

    judged: int = 0
    remembered: int = 0
    command_s: float = 0.0
    materialize_s: float = 0.0
    store_s: float = 0.0


class Judge:
    """Scores states by a command. Pickles, and forgets on the way what only this process knows.

    command: is run in a directory that holds the state; tests, as a rule.
    score: the number that its outcome is worth, more is better; a function of a module if the judge is to be pickled.
    prefix: of a state's paths, those that the directory is to hold; states that differ elsewhere count as different.
    keep: what commands may find of each other; see Scratch.
    screen: a judge that costs less, and has the first word: a state that it does not give 1 is worth half of what it
        gives, and this one's command does not run; any other is worth 1/2 and half of its score here.
    remember: keep outcomes in the store as well, on a branch of this command's: ``judged/...``. Otherwise each process
        remembers its own.
    root: where scratches are made; see Scratch.

    An outcome is taken to follow from the state and the command: whoever judges by something else (the clock, another
    machine, a variable of the environment) passes ``remember=False``, or ``forget``s. ``spent`` says what judging has
    cost in this process.
    """

    def __init__(
        self,
        command: Command,
        *,
        score: Score = succeeded,
        prefix: str = "",
        keep: Sequence[str] = (),
        screen: Judge | None = None,
        remember: bool = True,
        root: str | os.PathLike[str] | None = None,
    ) -> None:
        if not isinstance(command, Command):
            raise TypeError(f"a judge runs a Command, not {type(command).__name__}")
        if screen is not None and screen.prefix != prefix:
            raise ValueError(
                f"a judge of {prefix!r} is screened by one of the same prefix, not {screen.prefix!r}"
            )
        self.command, self.score = command, score
        self.prefix: str = prefix
        self.keep = tuple(keep)
        self.screen: Judge | None = screen
        self.remember, self.root = remember, root
        self._begin()

    def _begin(self) -> None:
        self.spent: Spent = Spent() if self.screen is None else self.screen.spent
        self._known: OrderedDict[str, Judged] = OrderedDict()
        self.key = hashlib.sha256(f"{self.command.key} {self.prefix}".encode()).hexdigest()[:32]
        self._name = f"judged/{self.key}"

    def __getstate__(self) -> dict[str, Any]:
        names = ("command", "score", "prefix", "keep", "screen", "remember", "root")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def __call__(self, state: Snapshot) -> Verdict:
        """Judge a state, in this thread's own scratch.

        Raises what ``Scratch.load`` and ``Command.run`` raise. Cost: some microseconds for what this process knows,
        some ten for what the store knows; else the command's, and that of the delta.
        """
        first = None if self.screen is None else self.screen(state)
        if first is not None and first.score < 1:
            return replace(first, score=first.score / 2)
        judged = self._remembered(state)
        if judged is not None:
            self.spent.remembered += 1
            return self._verdict(judged, remembered=True)
        with self._claimed(state):
            judged = self._remembered(state)  # by whoever had the claim before
            remembered = judged is not None
            if judged is None:
                judged = self._run(state)
                self._take_down(state, judged)
        return self._verdict(judged, remembered=remembered)

    def knows(self, state: Snapshot) -> Verdict | None:
        """The verdict on a state that was judged already, or None. Runs nothing."""
        first = None if self.screen is None else self.screen.knows(state)
        if first is not None and first.score < 1:
            return replace(first, score=first.score / 2)
        judged = self._remembered(state)
        return None if judged is None else self._verdict(judged, remembered=True)

    def forget(self, engine: Engine) -> None:
        """Have every state judged anew: forget what this process and the store remember."""
        self._known.clear()
        with contextlib.suppress(NotFoundError):
            self._branch(engine).delete()
        if self.screen is not None:
            self.screen.forget(engine)

    def remembered(self, engine: Engine, since: Mapping[str, Snapshot] | None = None) -> Iterator[Judged]:
        """What the store remembers; with ``since``, an earlier ``heads()``, what has come to it."""
        for name, head in self.heads(engine).items():
            old = engine.empty if since is None else since.get(name, engine.empty)
            for id in old.diff(head).added:
                yield Judged.from_json(head[id])

    def heads(self, engine: Engine) -> dict[str, Snapshot]:
        """What the store remembers now: for this judge and those that screen for it, branch and state."""
        found = {} if self.screen is None else self.screen.heads(engine)
        with contextlib.suppress(NotFoundError):
            found[self._name] = self._branch(engine).head
        return found

    def _verdict(self, judged: Judged, *, remembered: bool) -> Verdict:
        score = float(self.score(judged.outcome))
        return Verdict(score if self.screen is None else (1 + score) / 2, judged.outcome, remembered)

    def _run(self, state: Snapshot) -> Judged:
        scratch = scratch_of_thread(self.root, self.prefix, self.keep)
        began = time.perf_counter()
        scratch.load(state)
        materialize_s = time.perf_counter() - began
        judged = Judged(scratch.run(self.command), materialize_s)
        self.spent.judged += 1
        self.spent.materialize_s += judged.materialize_s
        self.spent.command_s += judged.outcome.seconds
        return judged

    # --- what is remembered ---

    def _branch(self, engine: Engine) -> Branch:
        return engine.branch(self._name)

    def _remembered(self, state: Snapshot) -> Judged | None:
        judged = self._known.get(state.id)
        if judged is None and self.remember:
            began = time.perf_counter()
            with contextlib.suppress(NotFoundError, KeyError):
                judged = Judged.from_json(self._branch(state.engine).head[state.id])
                self._know(state, judged)
            self.spent.store_s += time.perf_counter() - began
        return judged

    def _know(self, state: Snapshot, judged: Judged) -> None:
        self._known[state.id] = judged
        while len(self._known) > _REMEMBERED_MAX:
            self._known.popitem(last=False)

    def _take_down(self, state: Snapshot, judged: Judged) -> None:
        """Remember an outcome. One that the clock has ended follows not from the state alone: only this process keeps
        it."""
        self._know(state, judged)
        if not self.remember or judged.outcome.timed_out:
            return
        began = time.perf_counter()
        with (
            contextlib.suppress(ReadOnlyError),
            self._branch(state.engine).transaction(f"judged {state.id[:12]}", resolve="ours") as workspace,
        ):
            workspace[state.id] = judged.to_json()
        self.spent.store_s += time.perf_counter() - began

    @contextlib.contextmanager
    def _claimed(self, state: Snapshot) -> Iterator[None]:
        """Nobody else judges this state by this command meanwhile."""
        if not self.remember:
            yield
            return
        claims = root_directory(self.root) / CLAIMS
        with contextlib.suppress(FileExistsError):
            claims.mkdir(mode=0o700)
        path = claims / f"{self.key}-{state.id}"
        fd = _claim(path)
        try:
            yield
        finally:
            os.unlink(path)
            fcntl.flock(fd, fcntl.LOCK_UN)  # a child that was forked meanwhile has it too
            os.close(fd)


def _claim(path: Path) -> int:
    """An open file of this name under a lock; whoever had it before has removed his."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
