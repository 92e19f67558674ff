"""What a stage of the proof is.

A stage is a module of ``tests/crash/stages`` with

    TITLE      its row in the table
    SECONDS    about how long it takes in ``make crash``, mutants included (the longest begin first)
    MUTANTS    seeded bugs: the stage must find a violation in each mutated tree (tests/crash/tree.py)
    prove(run) does the work and returns an Outcome

and runs in a process of its own, started in the root of the tree that it judges: ``import helios_shm`` there is the
package under test, mutated or not. What a stage kills is never what judges: the oracle's knowledge is in this process
alone, and arrives over pipes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

# As many violations as a report needs.
_VIOLATIONS_MAX = 20


@dataclass(frozen=True)
class Run:
    """What one run is given. The same seed makes the same choices."""

    seed: int
    # 1 reaches the bars of ``make crash``; a soak asks for more. A mutant is looked for with the same effort, but the
    # stage may stop at the first violation.
    scale: float
    # Empty, the stage's own, on a disk; kept when it finds something.
    directory: Path
    # The root of the tree under test: csrc/ and helios_shm/ are in it.
    tree: Path
    # The name of the seeded bug that is in the tree, if there is one.
    mutant: str | None = None

    def chance(self, *parts: object) -> random.Random:
        """A generator of its own for each part of the work, so that one part's choices do not move another's."""
        return random.Random(f"{self.seed}/{'/'.join(map(str, parts))}")

    def times(self, count: int) -> int:
        """So many, at this run's scale."""
        return max(1, round(count * self.scale))


@dataclass
class Outcome:
    """What a stage has to say."""

    # What was done, by name, in the order in which it is to be read: {"kills": 1043, "lost": 0}.
    figures: dict[str, float] = field(default_factory=dict)
    # Each a sentence that names what was promised and what was found; a promise was broken.
    violations: list[str] = field(default_factory=list)
    # Bugs that the stage seeds by itself (a flag of a model, an operation left out), and whether each was found.
    caught: dict[str, bool] = field(default_factory=dict)

    def count(self, what: str, more: float = 1) -> None:
        self.figures[what] = self.figures.get(what, 0) + more

    def violate(self, sentence: str) -> None:
        """A promise was broken. Does not raise: a stage goes on, where it can."""
        self.count("violations")
        if len(self.violations) < _VIOLATIONS_MAX:
            self.violations.append(sentence)

    def expect(self, holds: bool, sentence: str) -> bool:
        if not holds:
            self.violate(sentence)
        return holds

    def reached(self, what: str, least: float) -> None:
        """The bar: so much of it must have been done, or the run has proven less than it says."""
        done = self.figures.get(what, 0)
        if done < least:
            self.violate(f"the bar was not reached: {what} is {done:g}, of {least:g}")
