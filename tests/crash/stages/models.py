"""The protocol's models, searched in full by Spin, and every mutant of them caught.

    tests/models/NAME.pml --spin -a--> pan.c --gcc--> pan --all interleavings--> states, errors
                                                            \\-> a trail, replayed by spin -t for the report

CHECKS are the models as they stand: a search that ends with an error, or before it has seen every state, is a
violation. MUTATIONS break one rule each, by a macro; one that is not found is a bug that the models would not see. As
many searches run at once as there are processors. A soak also searches larger bounds, as far as it gets.

What this proves: within the bounds, no interleaving of loads and stores, with deaths at the labelled steps, breaks a
property that the model's head names. What it does not: that the code does what the model does (the other stages are for
that), memory orders (a stage of its own), more processes than the bounds have.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.crash import debian
from tests.crash.stage import Outcome, Run
from tests.crash.tree import Mutant

TITLE = "models"
SECONDS = 55.0
MUTANTS: tuple[Mutant, ...] = ()  # they are flags of the models: MUTATIONS

_MEGABYTES_MAX = 3000
_TRAIL_LINES = 30


@dataclass(frozen=True)
class Check:
    """One search of one model. ``cycles``: for cycles without progress, instead of assertions and dead ends."""

    model: str
    bounds: str
    cycles: bool = False
    # Searched in a soak only, as far as its time and memory go.
    large: bool = False

    @property
    def name(self) -> str:
        return f"{self.model} {self.bounds}" + (" cycles" if self.cycles else "")


@dataclass(frozen=True)
class Mutation:
    """A model with one rule broken by ``flag``, at bounds that show it."""

    model: str
    flag: str
    bounds: str
    cycles: bool = False

    @property
    def name(self) -> str:
        return f"{self.model.removesuffix('.pml')} {self.flag}"


@dataclass(frozen=True)
class Effort:
    """How a search is made. Depth (of the longest path) and hash table are memory that is cleared first."""

    optimise: str
    depth: int
    hash_bits: int
    seconds_max: float


_MUTATION = Effort("-O0", 100_000, 18, 120)
_CHECK = Effort("-O1", 1_000_000, 22, 240)
_SOAK = Effort("-O2", 5_000_000, 26, 900)


@dataclass(frozen=True)
class Found:
    """What a search found."""

    errors: int
    states: int
    complete: bool
    trail: str


CHECKS = (
    Check("chunk.pml", "NCH=2 CAP=2 K=2 FAULTS=1 CRASHES=0 READER=0"),
    Check("chunk.pml", "NCH=2 CAP=2 K=1 FAULTS=1 CRASHES=1 READER=1"),
    Check("chunk.pml", "SUSPECT NCH=1 CAP=1 K=1 FAULTS=0 CRASHES=0 READER=1"),
    Check("head.pml", "NCH=2 K0=2 K1=1 FAULTS=0 CRASHES=0 WAITERS=0"),
    Check("head.pml", "NCH=2 K0=1 K1=1 FAULTS=1 CRASHES=0 WAITERS=0"),
    Check("head.pml", "NCH=2 K0=1 K1=1 FAULTS=0 CRASHES=1 WAITERS=1"),
    Check("room.pml", "NCH=2 NB=1 PARTS=2 STOPS=0 CRASHES=0"),
    Check("room.pml", "NCH=1 NB=1 PARTS=2 STOPS=0 CRASHES=1"),
    Check("branch.pml", "K=1 EVICTIONS=1 DEATHS=1"),
    Check("wait.pml", "WAITERS=1 CRASHES=1"),
    Check("wait.pml", "WAITERS=1 CRASHES=0", cycles=True),
    Check("slot.pml", "DEATHS=2 CRASHES=1"),
    Check("life.pml", "NP=2 DEATHS=2"),
    Check("find.pml", "CRASHES=2"),
    Check("collect.pml", "DEATHS=1 CRASHES=1 COLLECTIONS=1"),
    Check("collect.pml", "HEADS DEATHS=1 CRASHES=1 COLLECTIONS=1"),
    Check("mailbox.pml", "K=2 DEATHS=0 CRASHES=0"),
    Check("mailbox.pml", "K=1 DEATHS=1 CRASHES=1"),
    Check("search.pml", "LANES=2 K=1 BACK=1 DEATHS=2 OPS=2"),
    Check("chunk.pml", "NCH=2 CAP=1 K=2 FAULTS=1 CRASHES=1 READER=0", large=True),
    Check("chunk.pml", "DEDUP NCH=2 CAP=2 K=1 FAULTS=1 CRASHES=1 READER=1", large=True),
    Check("head.pml", "NCH=2 K0=2 K1=1 FAULTS=0 CRASHES=1 WAITERS=0", large=True),
    Check("head.pml", "NCH=2 K0=1 K1=1 FAULTS=1 CRASHES=1 WAITERS=1", large=True),
    Check("room.pml", "NCH=2 NB=1 PARTS=2 STOPS=1 CRASHES=1", large=True),
    Check("branch.pml", "K=1 EVICTIONS=2 DEATHS=1", large=True),
    Check("wait.pml", "WAITERS=2 CRASHES=1", large=True),
    Check("life.pml", "NP=3 DEATHS=2", large=True),
    Check("find.pml", "CRASHES=4", large=True),
    Check("collect.pml", "DEATHS=1 CRASHES=1 COLLECTIONS=2", large=True),
    Check("collect.pml", "HEADS DEATHS=1 CRASHES=1 COLLECTIONS=2", large=True),
    Check("mailbox.pml", "K=2 DEATHS=1 CRASHES=1", large=True),
    Check("search.pml", "LANES=2 K=2 BACK=0 DEATHS=1 OPS=2", large=True),
    Check("search.pml", "LANES=2 K=2 BACK=1 DEATHS=1 OPS=64", large=True),
)

_SUSPECT = "SUSPECT NCH=1 CAP=1 K=1 FAULTS=0 CRASHES=0 READER=1"
_HEAD = "NCH=2 K0=2 K1=1 FAULTS=0 CRASHES=0 WAITERS=0"
_DURABLE = "NCH=2 K0=1 K1=1 FAULTS=0 CRASHES=0 WAITERS=1"
_ROOM = "NCH=2 NB=1 PARTS=2 STOPS=0 CRASHES=0"
_SLOT = "DEATHS=1 CRASHES=0"
MUTATIONS = (
    Mutation("chunk.pml", "HOLD", "NCH=1 CAP=2 K=1 FAULTS=0 CRASHES=0 READER=0"),
    Mutation("chunk.pml", "NOCAS", _SUSPECT),
    Mutation("chunk.pml", "IXFIRST", "DEDUP NCH=2 CAP=1 K=1 FAULTS=1 CRASHES=0 READER=0"),
    Mutation("chunk.pml", "NOGEN", "NCH=1 CAP=1 K=2 FAULTS=0 CRASHES=0 READER=0"),
    Mutation("chunk.pml", "NOSUM", _SUSPECT),
    Mutation("chunk.pml", "MARKFIRST", "NCH=2 CAP=1 K=1 FAULTS=0 CRASHES=1 READER=0"),
    Mutation("chunk.pml", "FREENOW", "NCH=1 CAP=2 K=2 FAULTS=0 CRASHES=0 READER=0"),
    *(
        Mutation("head.pml", flag, _HEAD)
        for flag in ("FREEANY", "NOAGAIN", "CASFIRST", "HEADLAST", "STATELAST", "FREENOW")
    ),
    *(Mutation("head.pml", flag, _DURABLE) for flag in ("ACKFIRST", "THISROUND", "WAITMARK")),
    Mutation("head.pml", "NOIDEMP", "NCH=2 K0=2 K1=1 FAULTS=0 CRASHES=1 WAITERS=0"),
    Mutation("room.pml", "ONLYSEALED", "NCH=2 NB=1 PARTS=2 STOPS=1 CRASHES=0"),
    *(Mutation("room.pml", flag, _ROOM) for flag in ("HOLDWAIT", "FORGET", "BELLLATE", "NOBELL")),
    *(
        Mutation("branch.pml", flag, "K=1 EVICTIONS=1 DEATHS=0")
        for flag in (
            "NOINSERTING",
            "NOEVICTING",
            "HEADFIRST",
            "SAMEWORD",
            "NORECHECK",
            "KEEPAWAY",
            "EVICTANY",
        )
    ),
    Mutation("branch.pml", "NOUNDO", "K=1 EVICTIONS=1 DEATHS=1"),
    *(
        Mutation("wait.pml", flag, "WAITERS=1 CRASHES=0")
        for flag in ("BELLFIRST", "NORECHECK", "LATEBELL", "RINGORDER", "NOWAITERS", "THISROUND", "DONEFIRST")
    ),
    Mutation("wait.pml", "NOPROBE", "WAITERS=1 CRASHES=1"),
    Mutation("wait.pml", "NOSTARTLOCK", "WAITERS=2 CRASHES=1"),
    Mutation("wait.pml", "TRYPROBE", "WAITERS=2 CRASHES=1", cycles=True),
    *(
        Mutation("slot.pml", flag, _SLOT)
        for flag in ("ONELOOK", "NOWHOSE", "FREEFIRST", "UNLOCKFIRST", "FILLFIRST", "NOGATE")
    ),
    *(
        Mutation("life.pml", flag, "NP=2 DEATHS=1")
        for flag in ("NOGATE", "LINKONLY", "NOGATEEXIT", "NOLOOK", "NOWORK")
    ),
    *(
        Mutation("find.pml", flag, "CRASHES=1")
        for flag in ("OLDTXN", "NOMARK", "LATEMARK", "NOSCAN", "MARKFIRST", "NORECOVER")
    ),
    *(
        Mutation("collect.pml", flag, "DEATHS=0 CRASHES=1 COLLECTIONS=1")
        for flag in (
            "NOSTOP",
            "NOLOOK",
            "NOSTALE",
            "NOAGAIN",
            "NOLEASES",
            "EARLYLEASES",
            "NOYOUNG",
            "NOFINAL",
            "TWOTXN",
            "NOVALID",
            "ROOTRING",
            "NOWAIT",
            "EARLYFALL",
            "NORECOVER",
            "OLDFORM",
            "FREETRASH",
        )
    ),
    Mutation("collect.pml", "HEADONCE", "HEADS DEATHS=0 CRASHES=0 COLLECTIONS=1"),
    *(Mutation("mailbox.pml", flag, "K=1 DEATHS=1 CRASHES=0") for flag in ("NOORPHAN", "BLIND")),
    *(
        Mutation("mailbox.pml", flag, "K=2 DEATHS=0 CRASHES=1")
        for flag in ("NOGIVEBACK", "NORING", "EARLYDEAD")
    ),
    *(Mutation("mailbox.pml", flag, "K=2 DEATHS=0 CRASHES=0") for flag in ("LATELOOK", "LATESLEEP", "NOALL")),
    *(
        Mutation("search.pml", flag, "LANES=2 K=1 BACK=1 DEATHS=1 OPS=2")
        for flag in (
            "NOHELP",
            "NOSTAMP",
            "LATEWORD",
            "EARLY",
            "WORDFIRST",
            "NOSKIP",
            "ANYCELL",
            "NAMEFIRST",
            "CHILDFIRST",
        )
    ),
    Mutation("search.pml", "ONELOOK", "LANES=2 K=2 BACK=0 DEATHS=1 OPS=2"),
)


def _output(command: list[str], directory: Path, seconds: float) -> str:
    done = subprocess.run(
        command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds,
        check=False,
    )  # fmt: skip
    return done.stdout


def search(model: Path, flags: list[str], *, cycles: bool, effort: Effort, directory: Path) -> Found:
    """Search one model, in a directory of its own. RuntimeError if it does not compile."""
    directory.mkdir(parents=True)
    shutil.copy(model, directory / "model.pml")
    defines = [f"-D{flag}" for flag in flags]
    said = _output(["spin", "-a", *defines, "model.pml"], directory, 60)
    kind = ["-DNP"] if cycles else ["-DSAFETY"]
    options = ["-w", *kind, "-DCOLLAPSE", "-DVECTORSZ=2048", f"-DMEMLIM={_MEGABYTES_MAX}"]
    said += _output(["gcc", effort.optimise, *options, "-o", "pan", "pan.c"], directory, 120)
    if not (directory / "pan").exists():
        raise RuntimeError(f"{model.name} {' '.join(flags)} does not compile:\n{said[-1000:]}")
    try:
        options = [f"-m{effort.depth}", f"-w{effort.hash_bits}", *(["-l", "-f"] if cycles else [])]
        said = _output(["./pan", *options], directory, effort.seconds_max)
    except subprocess.TimeoutExpired:
        said = ""
    errors = re.search(r"errors: (\d+)", said)
    states = re.search(r"^\s*([\d.e+]+) states, stored", said, re.MULTILINE)
    cut = "max search depth too small" in said or "out of memory" in said or "Search not completed" in said
    trail = ""
    if (directory / "model.pml.trail").exists() and effort is not _MUTATION:
        why = "\n".join(line for line in said.splitlines() if line.startswith("pan:"))
        replayed = _output(["spin", "-t", "-p", "-g", *defines, "model.pml"], directory, 60)
        trail = "\n".join([why, *replayed.splitlines()[-_TRAIL_LINES:]])
    return Found(
        errors=int(errors.group(1)) if errors else 0,
        states=int(float(states.group(1))) if states else 0,
        complete=errors is not None and not cut,
        trail=trail,
    )


def prove(run: Run) -> Outcome:
    outcome = Outcome()
    debian.install(lambda: shutil.which("spin") is not None, "spin")
    models = run.tree / "tests" / "models"
    soak = run.scale > 1
    checks = [check for check in CHECKS if soak or not check.large]
    effort = _SOAK if soak else _CHECK

    def checked(number: int, check: Check) -> Found:
        place = run.directory / f"check-{number}"
        return search(
            models / check.model, check.bounds.split(), cycles=check.cycles, effort=effort, directory=place
        )

    def mutated(number: int, mutation: Mutation) -> Found:
        place = run.directory / f"mutation-{number}"
        flags = [mutation.flag, *mutation.bounds.split()]
        return search(
            models / mutation.model, flags, cycles=mutation.cycles, effort=_MUTATION, directory=place
        )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        searches = list(pool.map(checked, range(len(checks)), checks))
        mutations = list(pool.map(mutated, range(len(MUTATIONS)), MUTATIONS))
    for check, found in zip(checks, searches, strict=True):
        outcome.count("searches")
        outcome.count("states", found.states)
        if found.errors:
            outcome.violate(f"{check.name}: {found.errors} error after {found.states} states\n{found.trail}")
        elif check.large and not found.complete:
            outcome.count("larger searches cut short")  # a soak sees as much as its time and memory allow
        elif not found.complete:
            outcome.violate(f"{check.name}: the search did not end; {found.states} states were seen")
    for mutation, found in zip(MUTATIONS, mutations, strict=True):
        outcome.caught[mutation.name] = found.errors > 0
    outcome.figures["models"] = len({check.model for check in checks})
    outcome.figures["core seconds"] = round(sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]), 1)
    outcome.reached("models", len(list(models.glob("*.pml"))))
    return outcome
