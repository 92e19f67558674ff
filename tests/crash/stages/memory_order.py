"""Memory order: the C core's own functions in every execution that the C11 memory model allows.

    csrc/*.c --gcc -fsanitize=thread--> calls of tests/memory_order/runtime.c --> model.c: one graph after the other

The sources are compiled as they are; each atomic operation, fence and word of a chunk's bytes becomes an event of an
execution graph, and each graph that the model allows is visited once (tests/memory_order/model.h). Scenarios
(scenarios.c) put two or three processes beside each other and say what must hold.

For each end of each edge of docs/CONCURRENCY.md there is a weakening (weaker.txt): the operation at one line of the
sources does without its acquire or release part, or the fence is left out. Each must break a promise. An edge
without one is a violation; a weakened line that no scenario runs through is an error.

What it shows: the orders that are written suffice for these scenarios, and each of them is needed. What it does not:
larger programs; load buffering between relaxed operations; compilers that break C11.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.crash.stage import Outcome, Run
from tests.crash.tree import Mutant, library

TITLE = "memory order"
SECONDS = 4.0
MUTANTS: tuple[Mutant, ...] = ()

_HERE = Path(__file__).resolve().parents[2] / "memory_order"
# Compiled with the hooks in front; what else is needed comes from the tree's library.
_PRODUCT = (
    "chunk",
    "index",
    "branch",
    "participant",
    "ring",
    "drain",
    "locator",
    "checksum",
    "step",
    "engine",
    "mailbox",
    "search_table",
    "search_cell",
    "search_descend",
)
_HOOKED = ("scenarios", "rig", "leases", "mailbox", "search")
_EXPLORER = ("model", "runtime", "litmus", "plain", "main")
_FLAGS = ("-std=gnu11", "-Wall", "-Wextra", "-Wconversion", "-Werror")
# ThreadSanitizer is not there: its entry points are ours, and so are fences, which it does not know.
_HOOKS = ("-O1", "-g0", "-fsanitize=thread", "-U__SANITIZE_THREAD__", "-Wno-tsan", "-Wno-unused-function")

# Bits of enum order in model.h.
_WITHOUT = {"acquire": 1, "release": 2, "fence": 7}


@dataclass(frozen=True)
class Site:
    """One operation: the line of ``file`` that holds ``text``, in ``function``."""

    file: str
    function: str
    text: str
    without: int

    def line(self, csrc: Path) -> int:
        """Raises LookupError if it is not there, or not once."""
        if self.file == "kernel":
            return int(self.text)
        lines = (csrc / self.file).read_text().splitlines()
        begins = [n for n, line in enumerate(lines) if re.match(rf"\w.*\b{self.function}\(", line)]
        begins = [n for n in begins if not lines[n].endswith(";")]
        if len(begins) != 1:
            raise LookupError(f"{self.file} defines {self.function} {len(begins)} times")
        end = lines.index("}", begins[0]) if not lines[begins[0]].endswith("}") else begins[0] + 1
        found = [n for n in range(begins[0], end) if self.text in lines[n]]
        if len(found) != 1:
            raise LookupError(f"{self.function} in {self.file} has {self.text!r} {len(found)} times")
        return found[0] + 1


@dataclass(frozen=True)
class Weaker:
    """One end of an edge does without its order; a scenario in which that is seen."""

    name: str
    scenario: str
    sites: tuple[Site, ...]

    @property
    def edge(self) -> str:
        return self.name.split()[0]

    @property
    def end(self) -> str:
        return self.name.split()[1].rstrip(",")


def _read_weaker() -> Iterator[Weaker]:
    for line in (_HERE / "weaker.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, scenario, sites = line.split(" | ")
            yield Weaker(name, scenario, tuple(map(_read_site, sites.split("; "))))


def _read_site(text: str) -> Site:
    if text.startswith("kernel:"):
        return Site("kernel", "", text.removeprefix("kernel:"), _WITHOUT["fence"])
    where, _, without = text.rpartition(" -")
    place, _, operation = where.partition(": ")
    file, _, function = place.partition(" ")
    return Site(file, function, operation, _WITHOUT[without])


def prove(run: Run) -> Outcome:
    outcome, every = Outcome(), list(_read_weaker())
    _edges_are_covered(every, run.tree, outcome)
    explore = _build(run.tree, run.directory)
    _scenarios(every, explore, run, outcome)
    with ThreadPoolExecutor(2) as pool:
        for weaker, caught in zip(
            every, pool.map(lambda each: _is_caught(explore, run.tree, each), every), strict=True
        ):
            outcome.caught[weaker.name] = caught
    return outcome


def _edges_are_covered(every: list[Weaker], tree: Path, outcome: Outcome) -> None:
    """Each edge of the table has a weakening for each end, and its label at both ends in the sources."""
    table = (tree / "docs" / "CONCURRENCY.md").read_text() if (tree / "docs").exists() else ""
    edges = re.findall(r"^\| (E\d+) \|", table, re.MULTILINE)
    sources = "".join(path.read_text() for path in sorted((tree / "csrc").glob("hs_*.c")))
    for edge in edges:
        ends = {weaker.end for weaker in every if weaker.edge == edge}
        outcome.expect(ends == {"first", "second"}, f"edge {edge} has weakenings for {sorted(ends)} only")
        labels = len(re.findall(rf"\b{edge}\b", sources))
        outcome.expect(labels >= 2, f"edge {edge} is labelled {labels} times in csrc")
    unknown = sorted({weaker.edge for weaker in every} - set(edges))
    outcome.expect(not unknown, f"docs/CONCURRENCY.md does not name {unknown}")
    outcome.count("edges", len(edges))


def _build(tree: Path, directory: Path) -> Path:
    """The product's sources of the tree under the explorer."""
    common = ["gcc", *_FLAGS, f"-I{tree / 'csrc'}", f"-I{_HERE}", "-c"]
    hooked = [*common, *_HOOKS, "-include", str(_HERE / "hooks.h")]
    jobs = [[*hooked, str(tree / "csrc" / f"hs_{name}.c")] for name in _PRODUCT]
    jobs += [[*hooked, str(_HERE / f"{name}.c")] for name in _HOOKED]
    jobs += [[*common, "-O2", str(_HERE / f"{name}.c")] for name in _EXPLORER]
    objects = [str(directory / f"{Path(job[-1]).stem}.o") for job in jobs]
    with ThreadPoolExecutor(2) as pool:
        for done in [
            pool.submit(_command, [*job, "-o", made]) for job, made in zip(jobs, objects, strict=True)
        ]:
            done.result()
    explore = directory / "explore"
    _command(["gcc", "-o", str(explore), *objects, str(library(tree)), "-pthread", "-lrt", "-lm"])
    return explore


def _command(command: list[str]) -> None:
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{made.stderr}")


def _scenarios(every: list[Weaker], explore: Path, run: Run, outcome: Outcome) -> None:
    """The litmus tests, then all scenarios, as they are written."""
    random_programs = run.times(4000)
    command = [str(explore), "--litmus", str(run.seed), str(random_programs)]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(command)}\n{found.stdout[-2000:]}{found.stderr}")
    (run.directory / "explore.log").write_text(found.stdout)
    for sentence in re.findall(r"^violation in (.*)$", found.stdout, re.MULTILINE):
        outcome.violate(f"{sentence} (to see it: {' '.join(command)})")
    walked: dict[str, list[str]] = {}
    for name, edges, executions in re.findall(
        r"^scenario (.*) \((.*)\): (\d+) executions", found.stdout, re.MULTILINE
    ):
        walked[name] = edges.split()
        outcome.count("scenarios")
        outcome.count("executions", int(executions))
    for weaker in every:
        known = weaker.edge in walked.get(weaker.scenario, [])
        outcome.expect(known, f"scenario {weaker.scenario!r} does not say that it walks over {weaker.edge}")
    for given, drawn in re.findall(r"^litmus known=(\d+) random=(\d+)", found.stdout, re.MULTILINE):
        outcome.count("litmus programs", int(given) + int(drawn))
    outcome.reached("scenarios", 30)
    outcome.reached("executions", 20000)


def _is_caught(explore: Path, tree: Path, weaker: Weaker) -> bool:
    """Does the full search find a broken promise? Raises if the weakened line is not run through."""
    words = [f"{site.file}:{site.line(tree / 'csrc')}:{site.without}" for site in weaker.sites]
    command = [str(explore), *(word for each in words for word in ("--weaken", each)), weaker.scenario]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode not in (0, 1):
        raise RuntimeError(f"{weaker.name}: {' '.join(command)}\n{found.stdout[-500:]}{found.stderr}")
    return found.returncode == 1
