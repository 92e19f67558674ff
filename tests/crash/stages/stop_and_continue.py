"""SIGSTOP for longer than every timeout, then SIGCONT: of writers at each of their steps and at random, and of the
coordinator at each of its own.

    lane (the oracle of one store; never stopped)
      |-- victim     commits; stops at a labelled step, or wherever a signal meets it
      |-- other      meanwhile commits, also durably, goes round the ring, reads: nothing of it may wait for the victim
      `-- coordinator  stopped in its turn: commits and reads go on, who waits for the disk is told whom it waits for

Proven: a process that stands still amid any step blocks nobody (promise 5), and when it goes on, past its deadlines, it
neither loses nor repeats a commit nor returns a wrong value. The one wait for a stopped process that there is, opening
past one who stands in the gate, ends with an error that names the gate. Several lanes run beside each other, since they
mostly wait.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import helios_shm
from helios_shm import Branch, BusyError, CapacityError, Engine, config, lifecycle
from helios_shm._capi import check, lib
from helios_shm.attachment import Attachment
from helios_shm.store import StorePaths
from tests.crash.stage import Outcome, Run
from tests.crash.stages.named_kills import ELSEWHERE
from tests.crash.tree import Mutant
from tests.processes.rig import (
    Worker,
    resume,
    until,
    until_nothing_runs,
    workers,
)

TITLE = "stop and continue"
SECONDS = 45.0
MUTANTS = (
    Mutant(
        "a busy chunk is waited for",
        "csrc/hs_chunk.c",
        "        if (w.state != HS_CHUNK_FREE || w.generation >= HS_GENERATION_MAX) continue;",
        "        if (w.state == HS_CHUNK_BUSY) break;\n"
        "        if (w.state != HS_CHUNK_FREE || w.generation >= HS_GENERATION_MAX) continue;",
        "A writer that stands still in its chunk would hold up the whole ring.",
    ),
    Mutant(
        "a wait without an end",
        "helios_shm/attachment.py",
        "lib.hs_round_wait, target, deadline.slice_ms()) != lib.HS_OK:\n            if deadline.passed():",
        "lib.hs_round_wait, target, deadline.slice_ms()) != lib.HS_OK:\n            if False:",
        "Who waits for a stopped coordinator must be told so at its deadline.",
    ),
)

CYCLES = 200
CYCLES_MUTANT = 24
LANES = 8
# Deadlines of those who may wait in vain, and how long a stop lasts: longer than these, than every slice of a wait
# (50 ms), and than what a coordinator waits anywhere (300 ms).
DEADLINE_SECONDS = 0.3
STOP_SECONDS = 0.7
# Nobody who is not stopped takes this long, on however busy a machine, unless it waits for who is. Where there is a bug
# to be found, a wrong suspicion does no harm.
OTHERS_SECONDS_MAX = 30.0
OTHERS_SECONDS_MAX_MUTANT = 5.0
RING_BYTES = 4 << 20
STOP = 2
FORK = multiprocessing.get_context("fork")
COMMITS_A_VICTIM = 6


def prove(run: Run) -> Outcome:
    outcome = Outcome()
    cycles = run.times(CYCLES) if run.mutant is None else CYCLES_MUTANT
    stops = _stops(run)
    lanes = [_Child(_lane, run, number, range(number, cycles, LANES), stops) for number in range(LANES)]
    for lane in lanes:
        said: Outcome = lane.result()
        for name, value in said.figures.items():
            if name != "violations":
                outcome.count(name, value)
        for violation in said.violations:
            outcome.violate(f"seed {run.seed}: {violation}")
    outcome.figures.setdefault("wrong values", 0)
    if run.mutant is None:
        outcome.reached("stops", cycles)
    return outcome


def _stops(run: Run) -> list[tuple[str, str]]:
    """Who is stopped, and where: every label of csrc/hs_step.h, and nowhere in particular."""
    text = (run.tree / "csrc" / "hs_step.h").read_text()
    lines = text[text.index("#define HS_STEPS(X)") : text.index("/* clang-format on */")].splitlines()
    found: list[tuple[str, str]] = []
    for line in lines:
        who = "coordinator" if "/* coordinator" in line else "worker"
        found += [(who, label) for label in re.findall(r"X\((\w+)\)", line)]
    # A coordinator evicts when there are more branches than slots, and leaves when there is nobody to be blocked.
    # Nobody collects here, or searches.
    left_out = ("evict", "leave", *ELSEWHERE)
    stops = [stop for stop in found if not stop[1].startswith(left_out)] + [("worker", "")] * 6
    run.chance("stops").shuffle(stops)
    return stops


class _Child:
    """A forked process that is not stopped, killed or waited for by anybody else, and what its function returns."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._pipe, theirs = FORK.Pipe(duplex=False)
        self._process = FORK.Process(target=_child, args=(theirs, function, arguments))
        self._process.start()
        theirs.close()

    def result(self) -> Any:
        answer = self._pipe.recv()
        self._process.join()
        self._pipe.close()
        if isinstance(answer, Exception):
            raise answer
        return answer


def _child(pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        pipe.send(function(*arguments))
    except Exception:
        pipe.send(RuntimeError(traceback.format_exc()))


# ---- a lane ----


def _lane(run: Run, number: int, turns: range, stops: list[tuple[str, str]]) -> Outcome:
    """All cycles of one store. Every commit that anybody was told of is in ``acknowledged``."""
    outcome, path = Outcome(), run.directory / f"lane-{number}"
    with helios_shm.open(path, l1_bytes=RING_BYTES) as engine:
        lane = _Lane(run, outcome, path, engine)
        with workers(2, FORK, engine) as [lane.other, lane.waiter]:
            for worker in (lane.other, lane.waiter):
                worker.ask(
                    _attach
                )  # now, not while somebody stands still in the gate; the coordinator as well
            engine.sync(timeout=OTHERS_SECONDS_MAX)
            for turn in turns:
                who, label = stops[turn % len(stops)]
                lane.where = f"cycle {turn}, {who} stopped at {label or 'a random instant'}"
                try:
                    (lane.stop_coordinator if who == "coordinator" else lane.stop_worker)(turn, label)
                    lane.check_new()
                except AssertionError as error:  # somebody did not answer
                    outcome.violate(f"{lane.where}: {error}")
                if outcome.violations:
                    lane.end_at_once()
                    return outcome
        lane.check_all()
    until_nothing_runs(path)
    with helios_shm.open(path, create=False) as engine:
        lane.engine = engine
        lane.where = "reopened from the disk"
        lane.check_all()
    until_nothing_runs(path)
    return outcome


def _value(key: str) -> bytes:
    """What every key has, told by its name: inline, a value of its own, compressed, a file."""
    chance = random.Random(key)
    size = chance.choice((5, 60, 300, 2000, 9000, 40_000, 300_000))
    return (
        chance.randbytes(min(size, 2000)) * (size // 2000 + 1)
        if chance.random() < 0.5
        else key.encode() * size
    )[:size]


def _commit(branch: Branch, key: str, *, durable: bool = False) -> int:
    """Commit one key, again if it was in vain; the sequence that it got. What a failed commit left is committed."""
    ws = branch.fork()
    ws[key] = _value(key)
    while True:
        try:
            return ws.commit(durable=durable).sequence or 0
        except BusyError as late:
            if late.commit is not None:
                return late.commit.sequence or 0
        except CapacityError:
            pass
        assert dict(ws.edits) == {key: _value(key)}, "a failed commit changed the workspace"


def _victim(pipe: Connection, engine: Engine, label: str, nth: int, keys: list[str], created: str) -> None:
    config.COMMIT_DEADLINE = config.DURABLE_DEADLINE = config.OPEN_DEADLINE = DEADLINE_SECONDS  # type: ignore[misc]
    try:
        if label:
            check(lib.hs_step_arm(label.encode(), nth, STOP), label)
        branch = engine.branch("main")
        for turn, key in enumerate(keys):
            pipe.send((key, _commit(branch, key, durable=turn % 4 == 3)))
        pipe.send((created, _commit(engine.branch(created), created)))
        pipe.send(None)
        pipe.recv()  # a signal that comes late still meets a process
    except BaseException:
        pipe.send(traceback.format_exc())


class _Lane:
    """One store, what is known of it, and who works on it."""

    other: Worker
    waiter: Worker

    def __init__(self, run: Run, outcome: Outcome, path: Path, engine: Engine) -> None:
        self.run, self.outcome, self.path, self.engine = run, outcome, path, engine
        self.patience = OTHERS_SECONDS_MAX_MUTANT if run.mutant else OTHERS_SECONDS_MAX
        self.acknowledged: dict[str, int] = {}
        self.branches: set[str] = set()
        self.new: list[str] = []
        self.where = ""

    def acknowledge(self, told: list[tuple[str, int]]) -> None:
        for key, sequence in told:
            self.acknowledged[key] = sequence
            self.new.append(key)

    # --- a writer ---

    def stop_worker(self, turn: int, label: str) -> None:
        chance = self.run.chance("cycle", turn)
        once = label.startswith(("join", "tag"))
        nth = 1 if once or not label else chance.randrange(1, COMMITS_A_VICTIM)
        keys = [f"{turn:06}/victim/{n}" for n in range(COMMITS_A_VICTIM)]
        created = f"made-{turn}"
        pipe, theirs = FORK.Pipe()
        arguments = (theirs, self.engine, label, nth, keys, created)
        process = FORK.Process(
            target=_victim, args=arguments, daemon=True
        )  # ends with us, whatever becomes of us
        process.start()
        theirs.close()
        pid = process.pid or 0
        heard = 0 if label else chance.randrange(COMMITS_A_VICTIM)
        told = [pipe.recv() for _ in range(heard)]
        if not label:
            os.kill(pid, signal.SIGSTOP)
        _, status = os.waitpid(pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), f"the victim ended with {status} before it came to the step"
        self.outcome.count("stops")
        with _standing_still(pid):
            self._others(turn, label)
        while (said := pipe.recv()) is not None:
            assert not isinstance(said, str), f"the victim failed: {said}"
            told.append(said)
        pipe.send("end")
        process.join()
        pipe.close()
        self.branches.add(created)
        assert [key for key, _ in told] == [*keys, created], "the victim skipped a commit"
        self.acknowledge(told[:-1])
        head = self.engine.branch(created, create=False).head
        self._expect(dict(head) == {created: _value(created)}, f"branch {created} has {list(head)}")

    def _others(self, turn: int, label: str) -> None:
        """What somebody else does while the victim stands still; none of it may need the victim."""
        self.other.tell(_work, f"{turn:06}/other", turn % 5 == 0)
        self.acknowledge(self.other.hear(self.patience))
        self.waiter.tell(_open_anew, self.path)
        said = self.waiter.hear(self.patience)
        self.outcome.count("work of others beside a stopped one", 2)
        if label.startswith("join"):
            self._expect("gate" in said, f"opening past who stands in the gate: {said or 'went through'}")
        else:  # at a random instant it may stand in the gate as well
            self._expect(said == "" or (not label and "gate" in said), f"opening was refused: {said}")

    # --- the coordinator ---

    def stop_coordinator(self, turn: int, label: str) -> None:
        chance = self.run.chance("cycle", turn)
        self.engine.sync(timeout=OTHERS_SECONDS_MAX)  # so that there is one
        os.kill(self.engine.stats().coordinator_pid or 0, signal.SIGKILL)
        until("the coordinator is dead", lambda: not lifecycle.coordinator_runs(StorePaths(self.path)))
        self.waiter.ask(_set_environment, f"{label} {chance.randrange(1, 4)} {STOP}")
        # Its rounds need something to do, until one has come to the step.
        number = 0
        while (pid := _stopped_coordinator(self.engine)) is None:
            assert number < 500, f"no coordinator came to {label}"
            self.waiter.tell(_wait_in_vain, f"{turn:06}/round/{number}")
            self.acknowledge([self.waiter.hear(self.patience)[0]])
            number += 1
        self.waiter.ask(_set_environment, "")
        self.outcome.count("stops")
        with _standing_still(pid):
            self.waiter.tell(_wait_in_vain, f"{turn:06}/vain")
            told, said = self.waiter.hear(self.patience)
            self.acknowledge([told])
            if label != "round_after":  # past its round it has told its waiters already
                self._expect(
                    f"coordinator {pid}" in said,
                    f"a wait for it ended with: {said or 'no error'}, not naming it",
                )
            self.other.tell(_commit_and_read, f"{turn:06}/other")
            self.acknowledge(self.other.hear(self.patience))
            self.outcome.count("work of others beside a stopped one", 2)
        self.engine.sync(timeout=OTHERS_SECONDS_MAX)

    # --- checking ---

    def _expect(self, holds: bool, sentence: str) -> None:
        self.outcome.expect(holds, f"{self.where}: {sentence}")

    def check_new(self) -> None:
        """What came since the last look, and that nothing came twice or went."""
        branch = self.engine.branch("main")
        head = branch.head
        for key in self.new:
            self._check_value(head, key)
        self.new.clear()
        self._expect(len(head) == len(self.acknowledged), f"{len(head)} keys, not {len(self.acknowledged)}")
        newest = branch.last_commit.sequence
        self._expect(
            newest == len(head), f"{newest} commits for {len(head)} keys: one was applied twice, or none"
        )

    def _check_value(self, head: helios_shm.Snapshot, key: str) -> None:
        self.outcome.count("values read")
        found = head.get(key)
        if found is None:
            self._expect(False, f"{key}, acknowledged, is not there")
        elif found != _value(key):
            self.outcome.count("wrong values")
            self._expect(False, f"{key} has a wrong value")

    def check_all(self) -> None:
        branch = self.engine.branch("main")
        log, head = list(branch.log()), branch.head
        for key in self.acknowledged:
            self._check_value(head, key)
        numbers = [commit.sequence for commit in log]
        self._expect(numbers == list(range(len(self.acknowledged), 0, -1)), "the log has holes or repeats")
        chained = all(newer.parents == (older.snapshot,) for newer, older in pairwise(log))
        self._expect(chained, "the log is not a chain")
        by_sequence = {commit.sequence: commit.snapshot for commit in log}
        for key, sequence in self.acknowledged.items():
            self._expect(key in by_sequence[sequence], f"{key} is not in commit {sequence}, as it was told")
        self._expect(self.branches <= set(self.engine.branches()), "a branch is not there")

    def end_at_once(self) -> None:
        """After a violation: whoever hangs must not keep us from telling."""
        for worker in (self.other, self.waiter):
            worker.kill()
        self.engine.close(sync=False)


@contextmanager
def _standing_still(pid: int) -> Iterator[None]:
    """The stop lasts as long as the body, and at least so long."""
    begun = time.monotonic()
    try:
        yield
        time.sleep(max(0.0, STOP_SECONDS - (time.monotonic() - begun)))
    finally:
        resume(pid)


def _stopped_coordinator(engine: Engine) -> int | None:
    """The coordinator, if it stands still."""
    pid = engine.stats().coordinator_pid
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return None
    return pid if state == "T" else None


# ---- what workers are told to do; their first argument is the engine that they inherited ----


def _attach(engine: Engine) -> None:
    engine.stats()


def _work(engine: Engine, name: str, around: bool) -> list[tuple[str, int]]:
    """Commit, commit durably, read it back; ``around``: as much as goes round the ring."""
    branch, told = engine.branch("main"), []
    for number in range(3):
        key = f"{name}/{number}"
        told.append((key, _commit(branch, key, durable=number == 2)))
        assert branch.head[key] == _value(key)
    if around:
        ws = engine.empty.fork()
        for number in range(6 * RING_BYTES // (4 * 100_000)):
            ws[str(number)] = os.urandom(100_000)
            ws.commit()
    engine.sync(timeout=OTHERS_SECONDS_MAX)
    return told


def _commit_and_read(engine: Engine, name: str) -> list[tuple[str, int]]:
    branch, told = engine.branch("main"), []
    for number in range(3):
        key = f"{name}/{number}"
        told.append((key, _commit(branch, key)))
        assert branch.head[key] == _value(key)
    return told


def _wait_in_vain(engine: Engine, key: str) -> tuple[tuple[str, int], str]:
    """Commit, and wait for the disk with a deadline; what the error said, if there was one."""
    sequence = _commit(engine.branch("main"), key)
    try:
        engine.sync(timeout=DEADLINE_SECONDS)
    except BusyError as error:
        return (key, sequence), str(error)
    return (key, sequence), ""


def _open_anew(engine: Engine, path: Path) -> str:
    """As another process would: beside the attachment that this one has. What the error said, if there was one."""
    config.OPEN_DEADLINE = DEADLINE_SECONDS  # type: ignore[misc]
    try:
        Attachment(StorePaths.of(path), readonly=False, l1_bytes=None).close()
    except BusyError as error:
        return str(error)
    return ""


def _set_environment(engine: Engine, step: str) -> None:
    os.environ["HELIOS_STEP_COORDINATOR"] = step
    if not step:
        del os.environ["HELIOS_STEP_COORDINATOR"]
