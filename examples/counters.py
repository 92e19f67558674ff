"""Counters that several processes raise at once: how often letters occur in a text.

    python -m examples.counters [STORE]

Each worker takes some lines and adds what it counted to shared totals. All of them change the same few keys, and none
of them waits for another: where two commits meet, the rule "sum" adds up what both have added.
"""

from __future__ import annotations

import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import helios_shm
from helios_shm import Branch, Resolve, codecs

RULES: Resolve = {"letters/*": "sum", "longest": "max"}
TEXT = """\
The time has come, the walrus said,
to talk of many things:
of shoes and ships and sealing-wax,
of cabbages and kings,
and why the sea is boiling hot,
and whether pigs have wings.
"""


def count(branch: Branch, line: str) -> int:
    """Add one line's letters to the totals; the line's length."""
    letters = Counter(filter(str.isalpha, line.lower()))
    with branch.transaction(f"counted {line[:12]!r}", resolve=RULES) as workspace:
        totals = workspace.view("letters/", codec=codecs.json)
        for letter, times in letters.items():
            totals[letter] = totals.get(letter, 0) + times
        figures = workspace.view(codec=codecs.json)
        figures["longest"] = max(figures.get("longest", 0), len(line))
    return len(line)


def main(path: str | None = None) -> None:
    lines = TEXT.splitlines()
    with helios_shm.open(path) as engine, ProcessPoolExecutor(4) as pool:
        branch = engine.branch("letters")
        sizes = list(pool.map(partial(count, branch), lines))
        head = branch.head
        totals = dict(head.view("letters/", codec=codecs.json))
        assert totals == Counter(filter(str.isalpha, TEXT.lower()))
        assert head.view(codec=codecs.json)["longest"] == max(sizes)
        often = sorted(totals, key=lambda letter: (-totals[letter], letter))[:5]
        print(f"{len(list(branch.log()))} commits, {sum(totals.values())} letters")
        print(", ".join(f"{letter} {totals[letter]}" for letter in often))


if __name__ == "__main__":
    main(*sys.argv[1:2])
