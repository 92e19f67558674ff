"""Is what several processes saw of a register one order of events that agrees with the clock? Exact and in linear
time for registers whose every value is new.

A register (here: a branch's head) holds an id. Whoever changes it says which id it replaced and which new one it put
there; no id comes twice. So the changes form a chain by themselves, and there is nothing to search for:

    initial --change 1--> id 1 --change 2--> id 2 ...        point[i]: the instant at which change i took effect

    change i, called at a, answered at b            a <= point[i] <= b
    a read of id i, called at a, answered at b      point[i] <= b  and  a <= point[i + 1]: some instant of [a, b] had
    it point[1] <= point[2] <= ...

Lower and upper bounds of points in a given order: they can be met if and only if the earliest points do. So the
history is linearizable, as far as changes and reads go, exactly if ``check`` finds nothing.

What else was seen is asked of each operation by itself, for some choice of points, not for all of them with the same
one, so it is a necessary condition: a *failure* changed nothing because what it wanted to replace was gone, so at
some instant of [a, b] anything else was there; a *glimpse* saw one of several ids and cannot say which ("no such
branch").

An operation that got no answer, because its process was killed, may have taken effect at any time after its call, or
not at all. A change whose id is in the chain has taken effect; its end is the end of time.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

FOREVER = 1 << 63
_MAX = 10


@dataclass(frozen=True, slots=True)
class Change:
    """``old`` was replaced by ``new``. ``who`` names the operation in what is said of it."""

    old: Hashable
    new: Hashable
    called: int
    answered: int
    who: str = ""


@dataclass(frozen=True, slots=True)
class Read:
    """``seen`` was there."""

    seen: Hashable
    called: int
    answered: int
    who: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """Something else was there than ``first`` and what followed it up to ``last``."""

    first: Hashable
    last: Hashable
    called: int
    answered: int
    who: str = ""


@dataclass(frozen=True, slots=True)
class Glimpse:
    """One of ``seen`` was there."""

    seen: Sequence[Hashable]
    called: int
    answered: int
    who: str = ""


def _named(id: Hashable) -> str:
    return id.hex()[:12] if isinstance(id, bytes) else str(id)


def chain(initial: Hashable, changes: Iterable[Change]) -> tuple[list[Change], list[str]]:
    """The changes in the order that they name, and what is wrong with that."""
    wrong: list[str] = []
    after: dict[Hashable, Change] = {}
    for change in changes:
        if (other := after.setdefault(change.old, change)) is not change:
            wrong.append(f"{change.who} and {other.who} both replaced {_named(change.old)}")
    ordered, at, seen = [], initial, {initial}
    while (change_ := after.pop(at, None)) is not None:
        ordered.append(change_)
        at = change_.new
        if at in seen:
            wrong.append(f"{change_.who} put {_named(at)} there, which had been there before")
            break
        seen.add(at)
    wrong += [
        f"{change.who} replaced {_named(change.old)}, which never was there" for change in after.values()
    ]
    return ordered, wrong[:_MAX]


def check(
    initial: Hashable,
    changes: Iterable[Change],
    reads: Iterable[Read] = (),
    failures: Iterable[Failure] = (),
    glimpses: Iterable[Glimpse] = (),
) -> list[str]:
    """What is wrong with a history; nothing, if it is linearizable."""
    ordered, wrong = chain(initial, changes)
    # Value i was put there by change i and replaced by change i + 1; value 0 is the initial one.
    number: dict[Hashable, int] = {initial: 0}
    number.update((change.new, i) for i, change in enumerate(ordered, 1))
    least = [0, *(change.called for change in ordered), FOREVER]
    most = [FOREVER, *(change.answered for change in ordered), FOREVER]
    for read in reads:
        i = number.get(read.seen)
        if i is None:
            wrong.append(f"{read.who} saw {_named(read.seen)}, which never was there")
            continue
        most[i] = min(most[i], read.answered)
        least[i + 1] = max(least[i + 1], read.called)
    earliest, early = _earliest(ordered, least, most)
    wrong += early
    if not wrong:
        latest = _latest(most)
        for failure in failures:
            if not _is_justified(failure, number, earliest, latest):
                wrong.append(f"{failure.who} failed, though {_named(failure.first)} was there all the time")
        for glimpse in glimpses:
            ids = (number[id] for id in glimpse.seen if id in number)
            if not any(earliest[i] <= glimpse.answered and latest[i + 1] >= glimpse.called for i in ids):
                wrong.append(f"{glimpse.who} saw what was not there at any time")
    return wrong[:_MAX]


def _earliest(ordered: list[Change], least: list[int], most: list[int]) -> tuple[list[int], list[str]]:
    """For each change the earliest point that agrees with all before it; and which changes have none."""
    wrong = []
    earliest = [0]
    for i, change in enumerate(ordered, 1):
        point = max(earliest[-1], least[i])
        if point > most[i]:
            wrong.append(
                f"{change.who} replaced {_named(change.old)} by {_named(change.new)}: not before {point}, as what "
                f"precedes it and who saw that say; and not after {most[i]}, as its answer and who saw it say"
            )
            point = least[i]
        earliest.append(point)
    return [*earliest, FOREVER], wrong


def _latest(most: list[int]) -> list[int]:
    """For each change the latest point that agrees with all after it."""
    latest = list(most)
    for i in range(len(most) - 2, 0, -1):
        latest[i] = min(latest[i + 1], most[i])
    latest[0] = 0
    return latest


def _is_justified(
    failure: Failure, number: dict[Hashable, int], earliest: list[int], latest: list[int]
) -> bool:
    if failure.first not in number:
        return True
    first, last = number[failure.first], number.get(failure.last, number[failure.first])
    return (first > 0 and latest[first] >= failure.called) or earliest[last + 1] <= failure.answered
