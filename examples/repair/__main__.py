"""Bugs are put into a real package, and found and mended by search: its own tests say what an edit is worth.

    python -m examples.repair [--bugs N] [--seed N] [--strategy NAME] [--workers N] [--store PATH]

    1  the installed toolz goes into a store: a state
    2  mutations (mutations.py) that its tests notice are put in, drawn by the seed
    3  lines that failing tests go through, and others do not, are suspicious (localise.py)
    4  mutations of suspicious lines are the edits that are tried; each makes a state, which is put by delta into a
       directory of the worker's own, and the tests run there; who has been judged once is known for good
    5  what makes all tests pass is shown as a diff

Nothing is installed, changed or fetched: ``pip install "helios-shm[repair]"`` brings all that is needed.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from random import Random

import helios_shm
from helios_shm import Engine, Snapshot
from helios_shm.mcts.agent import (
    Command,
    Edit,
    Found,
    Judge,
    Replace,
    Score,
    Task,
    Verdict,
    beam,
    best_of_n,
    share_passed,
    succeeded,
    tournament,
    tree,
)

from . import localise
from .mutations import mutations_of

PACKAGES = ("toolz", "tlz")  # the second is a part of the first that stands beside it
MODULES = [f"toolz/{name}.py" for name in ("itertoolz", "functoolz", "dicttoolz", "recipes")]
TESTS = "toolz/tests"
# Compiled tests may be kept from candidate to candidate, since no edit touches them.
KEEP = ("/toolz/tests/__pycache__/",)
ENV = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONHASHSEED": "0"}
PROPOSALS_MAX = 16

PYTEST = [
    "-m",
    "pytest",
    "-q",
    "--tb=no",
    "--assert=plain",
    "-p",
    "no:cacheprovider",
    "-c",
    os.devnull,
    TESTS,
]


def tests(argv: Sequence[str], score: Score) -> Judge:
    """A judge by a run of Python with these arguments. The processor's time ends what hangs, on a busy machine too."""
    command = Command(
        [sys.executable, *argv], env=ENV, timeout_s=60, cpu_s=8, memory_bytes=1 << 30, output_bytes=1 << 20
    )
    return Judge(command, score=score, keep=KEEP)


JUDGE = tests(PYTEST, share_passed)
LOCALISE = tests([localise.__file__, "toolz", TESTS], succeeded)


# --- the task ---


def propose(state: Snapshot, verdict: Verdict) -> Sequence[Edit]:
    """Mutations of the lines that failing tests go through: from each file the most suspicious, then the next ones."""
    lines: dict[str, dict[str, float]] = json.loads(LOCALISE(state).outcome.text.rstrip().rpartition("\n")[2])
    ranked: list[tuple[int, float, Edit]] = []
    for path in sorted(lines.keys() & set(MODULES)):
        found = [
            mutation for mutation in mutations_of(path, state[path]) if str(mutation.line) in lines[path]
        ]
        found.sort(key=lambda mutation: -lines[path][str(mutation.line)])
        ranked += [(place, -lines[path][str(each.line)], each.edit) for place, each in enumerate(found)]
    ranked.sort(key=lambda each: each[:2])
    return [edit for _, _, edit in ranked[:PROPOSALS_MAX]]


STRATEGIES: dict[str, Callable[..., Found]] = {
    "best": best_of_n,
    "beam": partial(beam, width=2),
    "tournament": partial(tournament, resolve="text"),
    "tree": partial(tree, num_simulations=200, c_uct=0.5),
}


# --- the patient ---


def installed(engine: Engine) -> Snapshot:
    """The package as it is installed, as a state."""
    missing = [name for name in (*PACKAGES, "coverage", "merge3", "pytest") if find_spec(name) is None]
    if missing:
        raise SystemExit(f'not installed: {", ".join(missing)}; pip install "helios-shm[repair]"')
    workspace = engine.empty.fork()
    for package in PACKAGES:
        spec = find_spec(package)
        assert spec is not None and spec.origin is not None
        workspace.ingest(Path(spec.origin).parent, prefix=f"{package}/", exclude=["**/__pycache__/"])
    return workspace.commit().snapshot


def seeded(whole: Snapshot, count: int, rng: Random) -> Iterator[tuple[Snapshot, Replace]]:
    """The package with one bug more each time: one that fails some tests, but not most."""
    state, score = whole, JUDGE(whole).score
    mutations = [mutation for path in MODULES for mutation in mutations_of(path, whole[path])]
    rng.shuffle(mutations)
    hurt: set[tuple[str, int]] = set()
    for mutation in mutations:
        if len(hurt) == count:
            return
        edit = mutation.edit
        # Backwards in each file, so that what was drawn before still stands where it stood.
        if any(path == edit.path for path, _ in hurt):
            continue
        workspace = state.fork()
        edit.apply(workspace)
        tried = workspace.commit().snapshot
        worth = JUDGE(tried).score
        if score - 0.1 < worth < score:
            state, score = tried, worth
            hurt.add((edit.path, mutation.line))
            yield state, edit
    raise SystemExit(f"no {count} bugs of which the tests notice each; ask for fewer")


def diff(old: Snapshot, new: Snapshot) -> Iterator[str]:
    """What differs, as people write it."""
    for path in old.diff(new).changed:
        before, after = (state[path].decode().splitlines(keepends=True) for state in (old, new))
        yield from difflib.unified_diff(before, after, f"a/{path}", f"b/{path}", n=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 if all tests pass in the end, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.repair", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--bugs", type=int, default=2, choices=range(1, 4))
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--strategy", choices=STRATEGIES, default="tournament")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--store", type=Path, help="what was judged is known to later runs; default: none")
    options = parser.parse_args(argv)
    with helios_shm.open(options.store) as engine:
        whole = installed(engine)
        print(f"toolz {version('toolz')}: {len(whole)} files; {JUDGE(whole).outcome.text.splitlines()[-1]}")
        sick = whole
        for sick, edit in seeded(whole, options.bugs, Random(options.seed)):
            print(f"seeded in {edit}: {JUDGE(sick).outcome.text.splitlines()[-1]}")
        JUDGE.forget(engine)  # it knows that the package as it was is whole
        found = STRATEGIES[options.strategy](
            Task(JUDGE, propose, depth_max=options.bugs), sick, workers=options.workers
        )
        print(
            f"{options.strategy}: {found.judged} states judged by {found.commands} runs of commands in"
            f" {found.seconds:.1f} s; commands took {found.command_seconds:.1f} s of the workers' time, directories"
            f" {found.materialize_seconds:.2f} s, the store {found.store_seconds:.2f} s"
        )
        print(f"{found.score:.1%} of the tests pass; as it was: {'yes' if found.winner == whole else 'no'}")
        sys.stdout.writelines(diff(sick, found.winner))
        return 0 if found.solved else 1


if __name__ == "__main__":
    sys.exit(main())
