"""Search kills: the counts of a tree that many processes search, whoever of them dies.

    tests/c/test_search_kills.c, with the tree's C core --> three workers, two lanes each, one table
                                                        --> kill -9 of one at random, repair, another in its place

First its tests: a search, the taking back of one, a witness and a repairer die, or stop, at each of their labelled
steps, and others overwrite their stamps meanwhile or do not. Then kills at random. After each, what the table counts
must follow from what was given: tickets that are not left are visits of the root, nothing is in flight, each row was
visited as often as it was entered, and the values that came in are those that went on or ended there.

Not proven: orders of instructions on several processors (the memory order stage has those of the edges); tables larger
than a few hundred rows; a driver's death, with which the table goes.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.crash.stage import Outcome, Run
from tests.crash.tree import Mutant, program

TITLE = "search kills"
SECONDS = 40.0
KILLS = 300
_SOURCE = Path(__file__).resolve().parents[2] / "c" / "test_search_kills.c"
_SECONDS_MAX = 300.0

_CELL, _BACKUP = "csrc/hs_search_cell.c", "csrc/hs_search_backup.c"
MUTANTS = (
    Mutant(
        "no witness",
        _CELL,
        "        bear_witness(map, cell, word);\n",
        "        if (after == NULL && stamp == 0) bear_witness(map, cell, word);\n",
        "a change that was made and overwritten is taken for one that was not",
    ),
    Mutant(
        "witness of any cell",
        _CELL,
        " || cell_of(map, lane, word) != cell",
        "",
        "an old stamp in another cell speaks for a change that was not made",
    ),
    Mutant(
        "old stamp believed",
        _CELL,
        "== stamp_of(lane, serial)) serial++;",
        "== stamp_of(lane, serial)) serial += 0;",
        "an old stamp in the same cell speaks for a change that was not made",
    ),
    Mutant(
        "stamp ignored",
        _CELL,
        "if ((stood & HS_SEARCH_STAMP_MASK) == stamp) return true;",
        "if ((stood & HS_SEARCH_STAMP_MASK) == stamp && stood == 0) return true;",
        "a change that stands in its cell is made again",
    ),
    Mutant(
        "ticket lost",
        _BACKUP,
        "{.state = HS_SEARCH_GIVE, .counts = HS_SEARCH_VISITS_ONE, .value = 1}",
        "{.state = HS_SEARCH_GIVE, .counts = HS_SEARCH_VISITS_ONE, .value = 0}",
        "a simulation that was taken back is missing from those that were asked for",
    ),
    Mutant(
        "entered edge left in flight",
        _BACKUP,
        "hs_search_undo_from(map, lane, made ? level + 1 : level);",
        "hs_search_undo_from(map, lane, level);",
        "the dead leave virtual loss behind",
    ),
    Mutant(
        "returns from the leaf",
        _BACKUP,
        "    for (uint32_t below = lane->depth; below > level;) fold(map, lane, --below, returns);\n",
        "",
        "a backup that is finished by repair adds values without the rewards below",
    ),
)


def prove(run: Run) -> Outcome:
    outcome = Outcome()
    made = program(run.tree, _SOURCE)
    _ran([str(made)], outcome)
    if run.mutant is not None and outcome.violations:
        return outcome
    seed = run.chance("kills").randrange(1 << 32)
    said = _ran([str(made), str(seed), str(run.times(KILLS))], outcome)
    for kills, lanes, simulations in re.findall(
        r"^killed (\d+), repaired (\d+) lanes, (\d+) simulations$", said, re.MULTILINE
    ):
        outcome.count("kills", int(kills))
        outcome.count("lanes repaired", int(lanes))
        outcome.count("simulations", int(simulations))
    outcome.reached("kills", KILLS)
    return outcome


def _ran(command: list[str], outcome: Outcome) -> str:
    """What the program says; a test that fails, or does not end, is a violation."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        outcome.violate(f"{' '.join(command)} did not end within {_SECONDS_MAX:g} s")
        return ""
    failed = re.findall(r"^FAIL (.*)$", done.stdout, re.MULTILINE)
    for sentence in failed:
        outcome.violate(f"{sentence} (to see it: {' '.join(command)})")
    if done.returncode != 0 and not failed:
        raise RuntimeError(
            f"{' '.join(command)}: {done.returncode}\n{done.stdout[-1000:]}{done.stderr[-1000:]}"
        )
    return done.stdout
