"""What a collection is asked to keep, and how it is asked: rules of history, and the two files between the one who
asks and the coordinator. Pure.

    gc.request   who asks: {"id", "rules", "grace_ns", "dry_run", "time_ns"}; renamed into place, removed when answered
    gc.result    the coordinator: {"id", "tally", "error", "kind"}; renamed into place

A rule is what a user says of the commits of a branch: the newest n, or those younger than t. A branch's head is kept
whatever the rule says.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias

from .errors import CorruptError
from .names import is_tag
from .types import GCReport

Keep: TypeAlias = int | timedelta
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Rule:
    """Keep the ``newest`` commits (0: says nothing), or those younger than ``age_ns``, of branches that match."""

    pattern: str
    newest: int = 0
    age_ns: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """One collection, as it was asked for. ``time_ns``: when."""

    id: str
    rules: tuple[Rule, ...]
    grace_ns: int
    dry_run: bool
    time_ns: int

    def rule_of(self, branch: str) -> Rule | None:
        """The first that matches a branch's name; None: all of its history is kept."""
        if is_tag(branch):  # of which only what it names now is kept
            return Rule("*", newest=1)
        return next((rule for rule in self.rules if fnmatch.fnmatchcase(branch, rule.pattern)), None)

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()


def request_decode(data: bytes) -> Request:
    """CorruptError for anything that is no request."""
    try:
        fields = json.loads(data)
        rules = tuple(
            Rule(str(each["pattern"]), int(each["newest"]), int(each["age_ns"])) for each in fields["rules"]
        )
        return Request(
            str(fields["id"]), rules, int(fields["grace_ns"]), bool(fields["dry_run"]), int(fields["time_ns"])
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptError(f"the request for a collection cannot be read: {error!r}") from error


def nanoseconds(span: timedelta) -> int:
    return span // _MICROSECOND * 1000


def rules_of(history: Keep | Mapping[str, Keep] | None) -> tuple[Rule, ...]:
    """What ``Engine.gc`` was given. TypeError, ValueError."""
    if history is None:
        return ()
    if not isinstance(history, Mapping):
        return (_rule("*", history),)
    for pattern in history:
        if not isinstance(pattern, str):
            raise TypeError(f"history maps patterns of branch names, not {type(pattern).__name__}")
        if not pattern:
            raise ValueError("history has an empty pattern, which no branch name matches")
    return tuple(_rule(pattern, keep) for pattern, keep in history.items())


def _rule(pattern: str, keep: Keep) -> Rule:
    if isinstance(keep, timedelta):
        if keep < timedelta():
            raise ValueError(f"history keeps what is younger than a span of time, and {keep} is below zero")
        return Rule(pattern, age_ns=nanoseconds(keep))
    if isinstance(keep, bool) or not isinstance(keep, int):
        raise TypeError(f"history is a number of commits or a timedelta, not {type(keep).__name__}")
    if keep < 1:
        raise ValueError(f"history keeps 1 commit or more of a branch, its head among them, not {keep}")
    return Rule(pattern, newest=keep)


def grace_of(grace: timedelta) -> int:
    """In nanoseconds. TypeError, ValueError."""
    if not isinstance(grace, timedelta):
        raise TypeError(f"grace is a timedelta, not {type(grace).__name__}")
    if grace < timedelta():
        raise ValueError(f"grace is a span of time, and {grace} is below zero")
    return nanoseconds(grace)


_NO_SUMS = ("kept_bytes", "pause_ns")


@dataclass(slots=True)
class Tally:
    """What a collection has done so far; what GCReport says of it."""

    freed_bytes: int = 0
    kept_bytes: int = 0
    packs_deleted: int = 0
    packs_rewritten: int = 0
    nodes_deleted: int = 0
    values_deleted: int = 0
    large_values_deleted: int = 0
    commits_dropped: int = 0
    safepoints: int = 0
    pause_ns: int = 0
    duration_ns: int = 0

    def after(self, before: Tally) -> Tally:
        """This and what was done before it."""
        return Tally(
            **{
                name: value + getattr(before, name)
                for name, value in asdict(self).items()
                if name not in _NO_SUMS
            },
            kept_bytes=self.kept_bytes,
            pause_ns=max(self.pause_ns, before.pause_ns),
        )

    def report(self, *, dry_run: bool) -> GCReport:
        return GCReport(dry_run=dry_run, **asdict(self))


@dataclass(frozen=True, slots=True)
class Answer:
    """What the coordinator says when it is through: a tally, or why there is none."""

    id: str
    tally: Tally | None
    error: str = ""
    kind: str = ""

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()


def answer_decode(data: bytes) -> Answer:
    """CorruptError for anything that is no answer."""
    try:
        fields = json.loads(data)
        tally = None if fields["tally"] is None else Tally(**_numbers(fields["tally"]))
        return Answer(str(fields["id"]), tally, str(fields["error"]), str(fields["kind"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptError(f"the answer of a collection cannot be read: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Collected:
    """What the collection that deleted last has left in L2: should its coordinator die before it answers, the next one
    adds it to what it finds itself. ``below``: of the packs below this one no node leads to what is not there."""

    id: str
    below: int
    tally: Tally = field(default_factory=Tally)

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()


def collected_decode(data: bytes) -> Collected | None:
    """None for what is none: it only informs."""
    try:
        fields = json.loads(data)
        return Collected(str(fields["id"]), int(fields["below"]), Tally(**_numbers(fields["tally"])))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _numbers(fields: Any) -> dict[str, int]:
    return {str(name): int(value) for name, value in fields.items()}
