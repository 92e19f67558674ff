"""Kill -9 at each labelled step of worker and coordinator, many times, amid others at work.

    worker steps       four victims at a time, each with a step and an occurrence at which it kills itself; all commit
                       on the same two branches and on their own; as each dies, another process must be able to commit
    coordinator steps  one coordinator after the other starts with a step and an occurrence at which it kills itself,
                       while three workers commit; when it is dead, another must be able to commit durably
    evictions          branches are made that all want the same places in the table of branches; the coordinator dies
                       while it makes room for them
    leaving            the coordinator dies when it has taken the segment's name away
    lost segments      the coordinator is stopped at a step, the workers go on, it goes on or not; then all are killed
                       and the segment is removed: the disk alone must have all that was acknowledged as durable, and
                       of the rest a beginning

The acts are tests/crash/workload.py's: commits of one key and of many, large values and blob files, removals,
detached commits, durable ones, branches made, compared and set, deleted. tests/crash/oracle.py judges after each
batch, and at the end of each store again from its files, through an engine that has seen nothing of it.

Proven: at each step, at varied occurrences, nothing acknowledged is lost, nothing is applied twice or in part,
nothing acknowledged moves, and another process is served within a second. Not proven: deaths between the steps
(random kills), loss of what the disk was told but not synced (power loss).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

from tests.crash.stage import Outcome, Run
from tests.crash.stand import Armoury, Child, Hung, Service, Stand, Watch, armoury, run_delay, state_of
from tests.crash.tree import Mutant, program
from tests.crash.workload import SHARED
from tests.processes.rig import segments

TITLE = "named kills"
SECONDS = 133.0

# Each step of a worker, and up to which occurrence in its life it is to die there.
WORKER_STEPS = {
    "claim_before": 6, "claim_after": 6, "append_header": 40, "append_payload": 40, "publish_before": 8,
    "publish_after": 8, "index_before": 40, "index_after": 40, "head_before": 6, "head_after": 6,
    "release_before": 6, "release_after": 6, "tag_before": 2, "tag_after": 2, "join_locked": 1, "join_after": 1,
    "commit_begun": 12, "commit_leased": 12,
}  # fmt: skip
COORDINATOR_STEPS = (
    "txn_before", "collect_cursors", "collect_heads", "collect_reaped", "txn_after", "locator_after", "marks_after",
    "free_after", "round_done", "round_after",
)  # fmt: skip
# While tags leave a full window of the table of branches.
EVICTION_STEPS = {"evict_begun": 2, "evict_untagged": 12, "evict_moved": 12}
LEAVING_STEP = "leave_unlinked"
# Where it matters what a round that goes on makes of what was committed meanwhile: before its transaction.
THAWED = ("collect_reaped", "collect_heads", "collect_cursors", "txn_before")
STEPS = (*WORKER_STEPS, *COORDINATOR_STEPS, *EVICTION_STEPS, LEAVING_STEP)
# Gone through by tests/processes/test_collection.py, and by tests/c/test_mailbox.c and test_search_kills.c.
ELSEWHERE = ("gc_", "stop_", "box_", "search_")
OCCURRENCE_MAX = 3
ACTS_MAX = 120
# Names enough that all of these coordinators have something to evict.
CROWD_A_KILL = 80
KILL, STOP = 1, 2
# So many acts a worker does while the coordinator stands still.
ACTS_MEANWHILE = 16

WORKER_KILLS = 890
COORDINATOR_KILLS = 108
EVICTION_KILLS = 9
LEAVING_KILLS = 3
VICTIMS = 4
# Kills on one store: its branches' states grow with each worker.
KILLS_A_STORE = 120
COORDINATORS_A_STORE = 27

MUTANTS = (
    Mutant(
        "a round that has begun counts as durable",
        "helios_shm/attachment.py",
        "target = self._with_engine(lib.hs_round_target)\n",
        "target = self._with_engine(lib.hs_round_target) - 1\n",
        "what is published after the round took its cursors is not in it",
    ),
    Mutant(
        "the drain takes heads after cursors",
        "csrc/hs_drain.c",
        """    round.heads = heads_collect(drain);
    HS_STEP(collect_heads);
    for (uint32_t chunk = 0; chunk < segment->chunk_count; chunk++) cursor_collect(drain, chunk, &round);
    HS_STEP(collect_cursors);
""",
        """    for (uint32_t chunk = 0; chunk < segment->chunk_count; chunk++) cursor_collect(drain, chunk, &round);
    HS_STEP(collect_cursors);
    nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL); /* so that a kill finds somebody between the two */
    round.heads = heads_collect(drain);
    HS_STEP(collect_heads);
""",
        "a head may name what lies beyond the cursors: its record is saved, its nodes are not",
    ),
    Mutant(
        "a round is acknowledged before its transaction",
        "csrc/hs_drain.c",
        "    HS_STEP(collect_cursors);\n",
        """    hs_store_release(&segment->header->rounds_done, round.round);
    hs_add32_seq_cst(&segment->header->done_bell, 1);
    hs_futex_wake_all(&segment->header->done_bell);
    HS_STEP(collect_cursors);
""",
        "who waits for durability is told before anything is on disk",
    ),
    Mutant(
        "a chain is followed to what a coordinator remembers",
        "helios_shm/coordinator.py",
        """        serial = row.serial if row is not None else 0
        first = serial + 1
""",
        """        remembered = vars(self._owner).setdefault("remembered", {})
        serial = remembered.get(head.name, 0)
        remembered[head.name] = head.serial
        first = serial + 1
""",
        "the next coordinator, which remembers nothing, writes again what L2 has",
    ),
    Mutant(
        "a dead writer's chunk is not reaped",
        "csrc/hs_drain.c",
        "    return drain->dead[owner] || !is_taken(drain->segment, owner);\n",
        "    return false;\n",
        "each death amid a commit takes a chunk out of the ring, for ever",
    ),
    Mutant(
        "a lost race is acknowledged",
        "csrc/hs_commit.c",
        """    if (!hs_branch_head_compare_and_set(&engine->segment, state->branch->slot, &expected, place))
        return HS_MOVED; /* E3: linearisation */
""",
        """    (void)hs_branch_head_compare_and_set(&engine->segment, state->branch->slot, &expected, place);
""",
        "of two commits on the same head one is in nobody's log",
    ),
)


def steps_in(header: Path) -> list[str]:
    """The labels of csrc/hs_step.h, but for those of a collection, of a mailbox and of a search."""
    found = re.findall(r"\bX\((\w+)\)", header.read_text().partition("#define HS_STEP_ENUM")[0])
    return [label for label in found if not label.startswith(ELSEWHERE)]


def crowd(tree: Path, segment: Path, count: int) -> list[str]:
    """So many names of branches that all want the same place in this segment's table."""
    made = program(tree, tree / "tests" / "crash" / "crowd.c")
    done = subprocess.run([made, segment, str(count)], check=True, capture_output=True, text=True)
    return done.stdout.split()


class Kills:
    """The stage's state: stores one after the other, and what was reached."""

    def __init__(self, run: Run, outcome: Outcome, arms: Armoury) -> None:
        self.run = run
        self.outcome = outcome
        self.arms = arms
        self.reached: dict[str, int] = dict.fromkeys(STEPS, 0)
        self.service = Service(outcome)
        self._losses = run.chance("losses")
        self._stores = 0

    def is_over(self) -> bool:
        """A seeded bug has been found."""
        return self.run.mutant is not None and bool(self.outcome.violations)

    # ---- worker steps ----

    def worker_batch(self, stand: Stand, cases: list[tuple[str, int]]) -> None:
        """Victims that live at the same time, until each is dead; as each dies, another must be able to commit."""
        victims = {stand.fork(ACTS_MAX, label=label, nth=nth): label for label, nth in cases}
        ended: list[Child] = []
        while victims:
            fds = [child.fd for child in victims]
            died = stand.until(
                "a victim ends", lambda: any(child.is_dead() or child.voice.ended for child in victims), *fds
            )
            for child in [child for child in victims if child.is_dead() or child.voice.ended]:
                label = victims.pop(child)
                reached = not child.voice.ended
                child.kill()
                stand.bury([child])
                ended.append(child)
                if not reached:
                    self.outcome.count("not reached")
                elif child.status == -signal.SIGKILL:  # else it failed: settling says why
                    self._count(stand, child, label, died)
        stand.settle(ended)

    def _count(self, stand: Stand, child: Child, label: str, died: float) -> None:
        voice = child.voice
        self.reached[label] += 1
        self.outcome.count("kills")
        self.outcome.count("of workers")
        self.outcome.count("unacknowledged", len(voice.begun) - len(voice.done))
        branch = voice.begun[-1].branch if voice.begun and voice.begun[-1].is_shared else SHARED[0]
        stand.serve_after(
            died,
            f"a kill at {label} in act {len(voice.done)} of worker {voice.worker}",
            branch,
        )

    def workers(self, count: int) -> None:
        """So many deaths at the steps of a worker, each step as often as the others."""
        chance = self.run.chance("workers")
        plan = islice(cycle(WORKER_STEPS), count)
        cases = [(label, chance.randint(1, WORKER_STEPS[label])) for label in plan]
        chance.shuffle(cases)
        for first in range(0, count, KILLS_A_STORE):
            mine = cases[first : first + KILLS_A_STORE]
            with self.attacked("worker steps") as stand:
                for at in range(0, len(mine), VICTIMS):
                    self.worker_batch(stand, mine[at : at + VICTIMS])
                    if self.is_over():
                        break
            if self.is_over():
                return

    # ---- coordinator steps ----

    def coordinators(self, count: int) -> None:
        """So many coordinators, each of which dies at a step."""
        if self.is_over():
            return
        chance = self.run.chance("coordinators")
        cases = [
            (label, chance.randint(1, OCCURRENCE_MAX)) for label in islice(cycle(COORDINATOR_STEPS), count)
        ]
        chance.shuffle(cases)
        for first in range(0, count, COORDINATORS_A_STORE):
            mine = cases[first : first + COORDINATORS_A_STORE]
            for label, nth in mine:
                self.arms.add(label, nth, KILL)
            self.arms.add("", 0, KILL)
            with self.attacked("coordinator steps", durable_share=0.3) as stand:
                dead = 0
                while dead < len(mine) and not self.is_over():
                    self._coordinator_dies(stand, *mine[dead], len(mine) - dead)
                    # Each that started has taken a step; one of them lives.
                    for label, _ in mine[dead : (dead := len(mine) - self.arms.waiting())]:
                        self._count_coordinator(label)
            self.arms.clear()
            if self.is_over():
                return

    def _coordinator_dies(self, stand: Stand, label: str, nth: int, waiting: int) -> None:
        """Workers commit until the coordinator is dead; then others must serve them. ``waiting``: steps that nobody
        has taken while it lives; if it was dead before we looked, the clock of its kill is not known."""
        for _ in range(3 - len(stand.children)):
            stand.fork(400)
        watch, branch = stand.coordinator(), SHARED[nth % 2]
        what = f"the coordinator's death at {label}, the {nth}. time"

        def is_over() -> bool:
            return watch.is_dead() or self.arms.waiting() < waiting or self._nudge(stand, branch)

        died = stand.until(what, is_over, watch.fd)
        if watch.is_dead():
            stand.bury_coordinator()
            stand.serve_after(died, what, branch, durable=True)
        self.outcome.count("killed beside", len(stand.children))
        stand.settle(stand.kill_all())

    def _count_coordinator(self, label: str) -> None:
        self.reached[label] += 1
        self.outcome.count("kills")
        self.outcome.count("of coordinators")

    def evictions(self, count: int) -> None:
        """So many coordinators die while they make room in the table of branches."""
        chance = self.run.chance("evictions")
        cases = [
            (label, chance.randint(1, EVICTION_STEPS[label]))
            for label in islice(cycle(EVICTION_STEPS), count)
        ]
        for label, nth in cases:
            self.arms.add(label, nth, KILL)
        self.arms.add("", 0, KILL)
        with self.attacked("evictions") as stand:
            names = crowd(self.run.tree, segments(stand.path)[0], CROWD_A_KILL * count)
            made: list[str] = []
            while self.arms.waiting():
                made.append(names[len(made)])
                self._crowd(stand, made[-1])
            for label, _ in cases:
                self._count_coordinator(label)
            stand.engine.sync()
            wrong = [name for name in made if dict(stand.engine.branch(name).head) != {"name": name.encode()}]
            if wrong or set(made) - set(stand.engine.branches("crowd/")):
                stand.ledger.violate(
                    "lost", f"of {len(made)} crowded branches {wrong} are not as made, or not there"
                )
        self.arms.clear()

    def _crowd(self, stand: Stand, name: str) -> None:
        """Make a branch, by this process: it waits until there is room for it, whoever has died meanwhile."""
        begun, before, wait = time.monotonic(), self.arms.waiting(), run_delay(os.getpid())
        workspace = stand.engine.branch(name).fork()
        workspace["name"] = name.encode()
        workspace.commit()
        if self.arms.waiting() == before - 1:  # one has died meanwhile
            waited = run_delay(os.getpid()) - wait + run_delay(stand.coordinator().pid)
            what = "the death of a coordinator that made room"
            stand.service.served(
                stand.ledger, "coordinator making room", what, time.monotonic() - begun, waited
            )

    def leavings(self, count: int) -> None:
        """So many coordinators die when they have taken their segment's name away."""
        for _ in range(count):
            self.arms.add(LEAVING_STEP, 1, KILL)
            with self.attacked("leaving") as stand:
                log = stand.path / "coordinator.log"
                stand.serve(SHARED[0])
            said = log.read_text()
            if said.count("INFO epoch") == said.count("INFO ended") + 1:
                self._count_coordinator(LEAVING_STEP)
            self.arms.clear()

    @staticmethod
    def _nudge(stand: Stand, branch: str) -> bool:
        """See that there is something to write, also when the workers' scripts are at an end."""
        voice = stand.server.voice
        if len(voice.done) == len(voice.begun):
            stand.order(branch, durable=True)
        return False

    # ---- lost segments ----

    def losses(self, labels: Sequence[str]) -> None:
        """At each of these steps; where it matters, also going on from there."""
        for label in labels:
            for thaw in (False, True) if label in THAWED else (False,):
                if not self.is_over():
                    self._lose(label, thaw=thaw, nth=self._losses.randint(2, 1 + OCCURRENCE_MAX))

    def _lose(self, label: str, *, thaw: bool, nth: int) -> None:
        """The coordinator stands still at a step, workers go on; it may go on as well; all die, the segment is
        lost."""
        self.arms.add(label, nth, STOP)
        with self.attacked(
            f"{'thawed' if thaw else 'frozen'} at {label}", durable_share=0.3, lost=True
        ) as stand:
            watch = stand.coordinator()
            for _ in range(2):
                stand.fork(400)
            other = stand.fork(ACTS_MEANWHILE, gate=2, durable_share=0)
            stand.until(
                f"the coordinator stops at {label}",
                lambda: state_of(watch.pid) == "T" or self._nudge(stand, SHARED[0]),
            )
            # Who does not wait for durability is not held up.
            other.release()
            stand.until(
                "another goes on beside a stopped coordinator", lambda: other.voice.ended or other.is_dead()
            )
            if thaw:
                self._thaw(stand, watch)
            self.reached[label] += 1
        self.outcome.count("segments lost")

    @staticmethod
    def _thaw(stand: Stand, watch: Watch) -> None:
        """Let it go on until somebody has been told that a commit is durable."""

        def durable() -> int:
            return sum(voice.durable_acts for voice in stand.ledger.voices.values())

        before = durable()
        watch.send(signal.SIGCONT)
        stand.until("a durable commit is acknowledged", lambda: durable() > before)

    # ---- the frame of one store ----

    @contextmanager
    def attacked(self, what: str, *, durable_share: float = 0.1, lost: bool = False) -> Iterator[Stand]:
        """One store's life around what is done to it: made before, judged after."""
        self._stores += 1
        name = f"store-{self._stores}"
        where = f"seed {self.run.seed}, {name}: {what}"
        seed = f"{self.run.seed}/named/{self._stores}"
        path = self.run.directory / name
        stand = Stand(self.outcome, self.service, path, seed, where, durable_share=durable_share)
        try:
            yield stand
            if lost:
                stand.leave_by_force()
            else:
                stand.settle(stand.kill_all())
                stand.baseline()
                stand.leave()
            stand.audit(thorough=not lost)
        except Hung as hung:
            stand.ledger.violate("hung", str(hung))
            stand.abandon()
        except BaseException:
            stand.abandon()
            raise


def prove(run: Run) -> Outcome:
    outcome = Outcome()
    with armoury(run.directory) as arms:
        kills = Kills(run, outcome, arms)
        if run.mutant is None:
            check_steps(run, outcome)
            kills.workers(run.times(WORKER_KILLS))
            kills.losses(COORDINATOR_STEPS * run.times(1))
            kills.coordinators(run.times(COORDINATOR_KILLS))
            kills.evictions(max(len(EVICTION_STEPS), run.times(EVICTION_KILLS)))
            kills.leavings(run.times(LEAVING_KILLS))
        else:
            # A little of everything first: it finds most of what can be found.
            kills.workers(4 * VICTIMS)
            kills.losses(COORDINATOR_STEPS[:2])
            kills.coordinators(len(COORDINATOR_STEPS))
            kills.losses(COORDINATOR_STEPS)
    for label, times in kills.reached.items():
        outcome.expect(
            times > 0 or run.mutant is not None, f"step {label} was never reached (seed {run.seed})"
        )
    kills.service.tell()
    if run.mutant is None:
        outcome.reached("kills", run.times(1000))
    return outcome


def check_steps(run: Run, outcome: Outcome) -> None:
    """Every label has its place in this stage."""
    labels = steps_in(run.tree / "csrc" / "hs_step.h")
    strange = set(labels) ^ set(STEPS)
    outcome.expect(bool(labels) and not strange, f"hs_step.h and this stage differ in {sorted(strange)}")
