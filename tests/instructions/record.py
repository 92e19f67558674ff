"""The recorded figures, and what is said when today's differ from them. Pure but for reading and writing the record.

    [environment]              what the figures were counted with; they mean little elsewhere
    [first_read]
    instructions = 1234.5
    reason = "..."             why it is what it is: for a figure that grew, what it bought

Rules:
- A figure that grew by more than 5 % fails until it is recorded anew, which takes a reason.
- A figure that fell by more than 5 % fails as well: as long as the record is above it, a growth back would pass unseen.
- Recording takes over what fell, and what grew by more than 5 %. What grew by less keeps its figure and its reason, so
  that small growths add up until they are seen.
- In another environment than the recorded one nothing is judged: it is reported, or, where the judgement was asked for,
  refused. There, recording takes over everything.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

RECORDED = Path(__file__).with_name("recorded.toml")
TOLERANCE = 0.05
# Counting the same twice gives figures that differ by less.
NOISE = 0.01
_REASON_CHARACTERS_MIN = 10

_HEADING = """\
# Instructions of one operation each, counted by `make instructions` (tests/instructions/README.md).
# Written by `make instructions-record REASON="..."`.
"""


class RecordError(Exception):
    """The record is not as it must be, or may not become what it is to become."""


@dataclass(frozen=True)
class Figure:
    """What one operation takes, and why."""

    instructions: float
    reason: str


@dataclass(frozen=True)
class Record:
    """The file as values."""

    environment: dict[str, str]
    figures: dict[str, Figure]


def parse(text: str, operations: Iterable[str] | None = None) -> Record:
    """The record that a text is. Raises RecordError: something is missing, or ``operations`` are others."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecordError(f"the record cannot be read: {error}") from None
    environment = tables.pop("environment", None)
    if not isinstance(environment, dict) or not environment:
        raise RecordError("the record does not say in which environment it was made")
    if operations is not None:
        if unknown := sorted(set(tables) - set(operations)):
            raise RecordError(
                f"the record has figures of operations that there are not: {', '.join(unknown)}"
            )
        if missing := sorted(set(operations) - set(tables)):
            raise RecordError(f"the record has no figures of {', '.join(missing)}")
    return Record(environment, {name: _figure(name, table) for name, table in tables.items()})


def _figure(name: str, table: object) -> Figure:
    if not isinstance(table, dict) or set(table) != {"instructions", "reason"}:
        raise RecordError(f"{name}: a figure has `instructions` and `reason`, and nothing else")
    instructions, reason = table["instructions"], table["reason"]
    if not isinstance(instructions, int | float) or not 0 < instructions < float("inf"):
        raise RecordError(f"{name}: instructions are a number above 0, not {instructions!r}")
    return Figure(float(instructions), checked_reason(reason, name))


def checked_reason(reason: object, what: str) -> str:
    """A reason that says something. Raises RecordError."""
    if not isinstance(reason, str) or len(reason.strip()) < _REASON_CHARACTERS_MIN:
        raise RecordError(f"{what}: a reason is a sentence, not {reason!r}")
    return reason.strip()


def render(record: Record) -> str:
    """The text of a record."""
    lines = [_HEADING, "[environment]"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in record.environment.items()]
    for name, figure in record.figures.items():
        lines += ["", f"[{name}]", f"instructions = {figure.instructions}"]
        lines += [f"reason = {json.dumps(figure.reason)}"]
    return "\n".join(lines) + "\n"


def change(before: float, now: float) -> float:
    """By which part of itself a figure grew; below 0 if it fell."""
    return now / before - 1


def has_grown(before: float, now: float) -> bool:
    return change(before, now) > TOLERANCE


def has_fallen(before: float, now: float) -> bool:
    return change(before, now) < -TOLERANCE


def complaints(record: Record, counted: Mapping[str, float]) -> list[str]:
    """What is wrong with today's figures, a sentence each; counted in the recorded environment."""
    found = []
    for name, figure in record.figures.items():
        now = counted[name]
        moved = f"{name}: {figure.instructions:,.1f} -> {now:,.1f} instructions"
        if has_grown(figure.instructions, now):
            found.append(
                f"{moved} ({change(figure.instructions, now):+.1%}): bring it back, or record it with the reason"
            )
        elif has_fallen(figure.instructions, now):
            found.append(
                f"{moved} ({change(figure.instructions, now):+.1%}): better; record it, "
                "or a growth back would pass unseen"
            )
    return found


def differences(record: Record, environment: Mapping[str, str]) -> list[str]:
    """In what today's environment is not the recorded one."""
    names = [*record.environment, *(name for name in environment if name not in record.environment)]
    pairs = [
        (name, record.environment.get(name, "nothing"), environment.get(name, "nothing")) for name in names
    ]
    return [f"{name}: recorded with {then}, now {now}" for name, then, now in pairs if then != now]


def renewed(
    record: Record | None, environment: Mapping[str, str], counted: Mapping[str, float], reason: str
) -> Record:
    """The record after today's figures were recorded. Raises RecordError for a reason that says nothing."""
    given = checked_reason(reason, "recording")
    kept = {} if record is None or differences(record, environment) else record.figures
    return Record(
        dict(environment),
        {name: _renewed(kept.get(name), Figure(now, given)) for name, now in counted.items()},
    )


def _renewed(before: Figure | None, now: Figure) -> Figure:
    """Which of the two stands in the record from now on."""
    if before is None or has_grown(before.instructions, now.instructions):
        return now
    return now if change(before.instructions, now.instructions) < -NOISE else before
