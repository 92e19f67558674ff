"""Fail at n: the nth call that the product makes of the kernel or of malloc fails, for n = 1, 2, 3 ...

    stage --(workload, n)--> hosts (tests/crash/fail_host.py, tests/crash/fail_io.c preloaded) --> what is wrong
      \\--> tests/crash/fail_malloc.c, with the C core, under ASan and LeakSanitizer: the nth malloc or mmap

Each of tests/crash/fail_workloads.py is run with its first call failing, then its second, and so on, until a run passes
without reaching the nth. What a call fails with, of all that its kind may fail with, follows from n and the seed: each
run has every call with at least one error, a soak all of them. Afterwards the store is opened without faults.

Proven, for each case: what commit acknowledged is there, with the segment gone; after an exception nothing had moved,
the edits were kept, and the same again succeeds; the exception is one of ours, and says nothing that is not so; no
process died of a signal or hung; descriptors, mappings, memory of the core and of LMDB, names in /dev/shm and files
that are only for a moment are back to where they were. A large value whose sync failed must have been written and
synced again before its commit is called durable: else its bytes are taken away.

Not proven: two independent faults in one run (a burst of one error is tried); the interpreter's own memory; pages of
LMDB's file whose sync failed (power_loss.py has them): LMDB writes them again in its next transaction.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crash import fail_io
from tests.crash.fail_workloads import WORKLOADS, Workload
from tests.crash.stage import Outcome, Run
from tests.crash.tree import Mutant, program
from tests.programs import untraced

TITLE = "fail at n"
SECONDS = 100.0
HOSTS = 2
ERRORS_OF_A_CALL_MAX = 24
CALLS_MIN = 600
ALLOCATIONS_MIN = 50
MALLOC_SOURCE = Path(__file__).parents[1] / "fail_malloc.c"


class Host:
    """A process that runs one case at a time."""

    def __init__(self, directory: Path, library: Path, tree: Path) -> None:
        directory.mkdir()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.fail_host", str(directory)],
            cwd=tree,
            env={**untraced(), "LD_PRELOAD": str(library), "PYTHONPATH": str(tree)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, workload: str, nth: int, pick: int) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"workload": workload, "nth": nth, "pick": pick}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"a host of cases ended with {self._process.wait()}")
        found: dict[str, Any] = json.loads(answer)
        return found

    def end(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@dataclass
class Tally:
    """What all hosts have found."""

    outcome: Outcome
    stops: bool  # at the first violation
    lock: threading.Lock = field(default_factory=threading.Lock)
    # In how many ways each call can fail, and which of them have been tried.
    ways: dict[tuple[str, int], int] = field(default_factory=dict)
    tried: set[tuple[str, int, int]] = field(default_factory=set)

    def enter(self, workload: Workload, nth: int, pick: int, found: dict[str, Any]) -> None:
        with self.lock:
            self.outcome.count("cases")
            if ways := found["variants"]:
                self.ways[workload.name, nth] = ways
                self.tried.add((workload.name, nth, pick % ways))
            for problem in found["problems"]:
                self.outcome.violate(
                    f"{workload.name}, call {nth} (pick {pick}: {found['fault']}): {problem}"
                )

    @property
    def ended(self) -> bool:
        return self.stops and bool(self.outcome.violations)


def units(order: list[Workload]) -> Iterator[tuple[Workload, int]]:
    """The work in parts: a workload's calls, every HOSTS-th of them."""
    for workload in order:
        for offset in range(HOSTS):
            yield workload, offset


def serve(run: Run, host: Host, work: Iterator[tuple[Workload, int]], tally: Tally) -> None:
    """One host's part."""
    while not tally.ended:
        with tally.lock:
            unit = next(work, None)
        if unit is None:
            return
        workload, offset = unit
        reached, nth = True, 1 + offset * workload.every + run.seed % workload.every
        while reached and not tally.ended:
            # Divisible by each number of variants; each has its turn, whichever runs fail this call.
            pick = (nth + run.seed // workload.every) % 60
            found = host.ask(workload.name, nth, pick)
            tally.enter(workload, nth, pick, found)
            reached = bool(found["fault"])
            nth += HOSTS * workload.every


def workloads(run: Run) -> list[Workload]:
    """All; for a mutant, the one that is to find it."""
    return [workload for workload in WORKLOADS if run.mutant is None or workload.name == FINDERS[run.mutant]]


def prove_calls(run: Run, outcome: Outcome) -> None:
    """Every call of the product of every workload."""
    tally = Tally(outcome, run.mutant is not None)
    library = fail_io.build(run.directory)
    hosts = [Host(run.directory / f"host-{n}", library, run.tree) for n in range(HOSTS)]
    # A seeded bug may show with one error of one call only: all of them are tried, until it does.
    for round_number in range(run.times(1) if run.mutant is None else ERRORS_OF_A_CALL_MAX):
        turn = Run(run.seed + round_number, run.scale, run.directory, run.tree, run.mutant)
        work = units(workloads(run))
        with ThreadPoolExecutor(HOSTS) as pool:
            for served in [pool.submit(serve, turn, host, work, tally) for host in hosts]:
                served.result()
    for host in hosts:
        host.end()
    outcome.figures["calls"] = len(tally.ways)
    outcome.figures["share of (call, error) pairs"] = round(
        len(tally.tried) / max(1, sum(tally.ways.values())), 2
    )


def prove_allocations(run: Run, outcome: Outcome) -> None:
    """Every allocation of the C core, as a C program."""
    made = program(run.tree, MALLOC_SOURCE, "asan", *WRAPPED)
    done = subprocess.run([made], capture_output=True, text=True, cwd=run.directory, timeout=120)
    for line in done.stdout.splitlines():
        word, _, rest = line.partition(" ")
        if word == "FAILED":
            outcome.violate(f"allocations: {rest}")
        elif word == "COUNT":
            outcome.count("allocations", int(rest))
    outcome.expect(
        done.returncode == 0,
        f"allocations: the program ended with {done.returncode}: {done.stderr[-600:]}",
    )


WRAPPED = tuple(
    f"-Wl,--wrap={name}"
    for name in ("malloc", "calloc", "realloc", "aligned_alloc", "strdup", "free", "mmap", "munmap")
)


def prove(run: Run) -> Outcome:
    outcome = Outcome()
    if run.mutant in (None, IN_C.name):
        prove_allocations(run, outcome)
    if run.mutant != IN_C.name:
        prove_calls(run, outcome)
    if run.mutant is None:
        outcome.reached("calls", CALLS_MIN)
        outcome.reached("allocations", ALLOCATIONS_MIN)
    return outcome


IN_C = Mutant(
    "an allocation is not looked at",
    "csrc/hs_drain.c",
    "!drain->dead || !drain->ranges || !drain->known",
    "!drain->dead || !drain->known",
    "the coordinator writes through NULL when memory is short",
)
MUTANTS: tuple[Mutant, ...] = (
    IN_C,
    Mutant(
        "a failed sync of a large value is ignored",
        "helios_shm/blobs.py",
        "        except OSError:\n            _unsynced.add(file)\n",
        "        except OSError:\n            return\n",
        "a durable commit names a file that is on no disk",
    ),
    Mutant(
        "a failed transaction is acknowledged",
        "helios_shm/coordinator.py",
        "        except (HeliosError, OSError) as error:\n            self._failed(error)\n            return\n",
        "        except (HeliosError, OSError) as error:\n            self._failed(error)\n",
        "marks move though L2 has nothing; the segment hides it until it is gone",
    ),
    Mutant(
        "a descriptor stays open after an error",
        "helios_shm/lifecycle.py",
        "            return bool(kind != fcntl.F_UNLCK)\n        finally:\n            os.close(fd)\n",
        "            os.close(fd)\n            return bool(kind != fcntl.F_UNLCK)\n        finally:\n            ...\n",
        "who waits on a system without locks loses a descriptor at each look",
    ),
    Mutant(
        "commit raises after the head has moved",
        "helios_shm/attachment.py",
        "            with contextlib.suppress(HeliosError):\n                lifecycle",
        "            if True:\n                lifecycle",
        "the caller takes it for failed, and commits twice",
    ),
)
# Which workload is to find a seeded bug.
FINDERS = {
    MUTANTS[1].name: "coordinator: round with a large value",
    MUTANTS[2].name: "coordinator: round",
    MUTANTS[3].name: "commit many keys",
    MUTANTS[4].name: "commit many keys",
}
