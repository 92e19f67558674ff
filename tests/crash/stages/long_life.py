"""Long and crooked lives: forks of forks, ten thousand dead readers, handles used in children, views that outlive their
engine, an interpreter that ends in every state.

    exits          programs that end in each state an application can end in, their C core under ASan and UBSan
    families       forks of forks; handles used by children, before and after somebody closed them (ASan)
    views          buffers read after their engine, their store and its directory are gone (ASan)
    dead readers   processes that are killed while they hold a place in the database's table of readers
    growth         memory, descriptors and files of a long run: bounded by what is kept, whoever holds old snapshots

Proven: no sanitizer report, no crash, nothing left behind, and growth only by what is stored. What the C core allocates
is counted elsewhere (every malloc made to fail, under LeakSanitizer).
"""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

import helios_shm
from helios_shm import Engine, config
from tests.crash.stage import Outcome, Run
from tests.crash.tree import Mutant, sanitized
from tests.processes.rig import until, until_nothing_runs
from tests.programs import untraced

TITLE = "long life"
SECONDS = 60.0
MUTANTS = (
    Mutant(
        "a child keeps its parent's slot",
        "csrc/hs_engine.c",
        "        hs_participant_abandon(&engine->self);\n        hs_ring_init(",
        "        hs_ring_init(",
        "A slot that parent and child share: the first who leaves gives it back for both.",
    ),
    Mutant(
        "places of dead readers are kept",
        "helios_shm/coordinator.py",
        "            self.writer.clear_dead_readers()",
        "            pass",
        "The database's table of readers would fill up with the dead.",
    ),
)

DEAD_READERS = 10_000
READS_EACH = 5
# A commit of one small key, durable: two or three pages of the database's own trees besides.
GROWN_BYTES_MAX = 4096
PROGRAM_SECONDS_MAX = 120.0
# A sanitizer's report, or the interpreter's own last words.
REPORTS = re.compile(
    r"AddressSanitizer|runtime error:|Fatal Python error|LeakSanitizer|SystemError|double free"
)


def prove(run: Run) -> Outcome:
    outcome = Outcome()
    parts: tuple[Callable[[Run, Outcome], None], ...] = (_dead_readers, _exits, _families, _views, _growth)
    if run.mutant == MUTANTS[0].name:
        parts = (_families, _exits)
    elif run.mutant == MUTANTS[1].name:
        parts = (_dead_readers,)
    for part in parts:
        part(run, outcome)
        if run.mutant and outcome.violations:
            break
    if run.mutant is None:
        outcome.reached("dead readers", run.times(DEAD_READERS))
    return outcome


class _Programs:
    """Runs programs whose C core is sanitized, and reads what they say."""

    def __init__(self, run: Run, outcome: Outcome) -> None:
        self._outcome = outcome
        self._tree, self._environment = _sanitized_once(run.directory, run.tree)

    def run(self, name: str, text: str, store: Path, status: int = 0) -> str:
        """A program by itself; what it printed. Its status is part of what is expected of it."""
        command = [sys.executable, "-X", "faulthandler", "-c", text, str(store)]
        child = subprocess.Popen(
            command,
            cwd=self._tree,
            env={**untraced(), **self._environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            out, err = child.communicate(timeout=PROGRAM_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            child.kill()
            out, err = child.communicate()
            self._outcome.violate(f"{name}: hangs; {err[-400:]}")
            return out
        if report := REPORTS.search(out + err):
            self._outcome.violate(f"{name}: {report[0]}: {err[-1500:]}")
        elif child.returncode != status:
            self._outcome.violate(f"{name}: ended with {child.returncode}, not {status}: {err[-600:]}")
        self._outcome.count("programs under sanitizers")
        return out


_sanitized_once = functools.cache(sanitized)


# ---- exits ----

BEGIN = """
import atexit, gc, os, pickle, signal, sys, threading
import helios_shm
path = sys.argv[1]
engine = helios_shm.open(path)
branch = engine.branch("main")
def put(key, **options):
    ws = branch.fork(); ws[key] = key.encode() * 10
    return ws.commit(**options)
def loop():
    while True:
        put("loop/" + str(threading.get_ident() % 5))
def start(function, daemon=True):
    inside = threading.Event()
    thread = threading.Thread(target=lambda: (inside.set(), function()), daemon=daemon)
    thread.start()
    inside.wait()
    return thread
put("{name}")
"""
# How a program ends, after it has committed one key: (its text, its status).
ENDINGS: dict[str, tuple[str, int]] = {
    "with everything open": ("", 0),
    "by sys.exit": ("sys.exit(3)", 3),
    "by an exception": ("raise RuntimeError('on purpose')", 1),
    "by os._exit": ("os._exit(4)", 4),
    "by SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    "by Ctrl-C amid commits": (
        "threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()\nloop()",
        -signal.SIGINT,
    ),
    "closed, with handles that live on": ("snapshot = branch.head\nengine.close()", 0),
    "with edits not committed": ("ws = branch.fork()\nws['never'] = b'1'", 0),
    "inside a transaction": ("with branch.transaction() as ws:\n    ws['never'] = b'1'\n    sys.exit(5)", 5),
    "amid iterations": ("log, items = branch.log(), iter(branch.head.items())\nnext(log); next(items)", 0),
    "with a thread in wait": ("start(branch.wait)", 0),
    "with a thread in sync": ("start(lambda: [engine.sync() for _ in iter(int, 1)])", 0),
    "with threads amid commits": ("start(loop); start(loop)", 0),
    "with a thread that ends it": ("start(lambda: put('by a thread'), daemon=False)", 0),
    "closing beside threads amid commits": (
        "def quiet():\n    try: loop()\n    except helios_shm.ClosedError: pass\n"
        "threads = [start(quiet, daemon=False) for _ in range(3)]\nengine.close()\n[t.join() for t in threads]",
        0,
    ),
    "with a commit at exit": ("atexit.register(put, 'at exit')", 0),
    "with a commit after its close": ("atexit.register(engine.close)\natexit.register(put, 'at exit')", 0),
    "with a finalizer that reads": (
        "class Late:\n    def __del__(self, read=branch.head.__getitem__):\n"
        "        read('with a finalizer that reads')\nlate = Late()",
        0,
    ),
    "in a cycle that is never collected": ("gc.disable()\ncycle = [engine, branch]\ncycle.append(cycle)", 0),
    "with views of values": (
        "put('large', durable=True)\nws = branch.fork(); ws['blob'] = b'b' * 300000; ws.commit()\n"
        "views = [branch.head.buffer(key) for key in branch.head]",
        0,
    ),
    "with what was unpickled": ("again = pickle.loads(pickle.dumps((engine, branch, branch.head)))", 0),
    "read-only": ("other = helios_shm.open(path, readonly=True)\nprint(len(other.branch('main').head))", 0),
    "opened twice": (
        "other = helios_shm.open(path)\nother.close()\nengine.close()\nother = helios_shm.open(path)",
        0,
    ),
    "beside a child that ends by sys.exit": (
        "pid = os.fork()\nif pid == 0:\n    put('by a child')\n    sys.exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0\nput('by a child')",
        0,
    ),
    "beside a child that never used it": (
        "pid = os.fork()\nif pid == 0:\n    sys.exit(0)\nassert os.waitpid(pid, 0)[1] == 0\nput('after it')",
        0,
    ),
    "beside a child that is killed": (
        "pid = os.fork()\nif pid == 0:\n    loop()\nbranch.wait()\n"
        "os.kill(pid, 9)\nos.waitpid(pid, 0)\nput('after it')",
        0,
    ),
    "forking beside threads amid commits": (
        "start(loop)\nfor _ in range(5):\n    pid = os.fork()\n    if pid == 0:\n        put('by a child')\n"
        "        os._exit(0)\n    assert os.waitpid(pid, 0)[1] == 0",
        0,
    ),
    "with an ephemeral store": (
        "other = helios_shm.open(None)\nws = other.empty.fork(); ws['a'] = b'1'; ws.commit()",
        0,
    ),
    "with a pool at work": (
        "import multiprocessing\ncontext = multiprocessing.get_context('fork')\n"
        "pool = context.Pool(2)\npool.map(put, ['p/1', 'p/2'])",
        0,
    ),
}


def _exits(run: Run, outcome: Outcome) -> None:
    """All endings against one store, which stays open here: each must leave it as it would be left by a good end."""
    path, programs = run.directory / "exits", _Programs(run, outcome)
    with helios_shm.open(path) as engine:

        def ending(name: str) -> None:
            text, status = ENDINGS[name]
            programs.run(f"ending {name}", BEGIN.replace("{name}", name) + text, path, status)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(ending, ENDINGS))
        head = engine.branch("main").head
        for name in ENDINGS:
            outcome.expect(head.get(name) == name.encode() * 10, f"ending {name}: its commit is not there")
        outcome.expect("never" not in head, "what was not committed is there")
        outcome.count("endings", len(ENDINGS))
        _expect_alone(engine, outcome, "after all endings")
    until_nothing_runs(path)


def _expect_alone(engine: Engine, outcome: Outcome, when: str) -> None:
    """Slots and chunks of those who have gone come back, and all that they committed goes to disk."""
    engine.sync(timeout=30)
    try:
        until("one participant", lambda: engine.stats().participants == 1)
    except AssertionError:
        outcome.violate(f"{when}: {engine.stats().participants} participants, of one process")


# ---- families ----

FAMILIES = """
# Forks of forks: each generation reads what its ancestors wrote, commits, and forks the next.
def generation(depth):
    assert set(branch.head) >= {"g/%d" % d for d in range(depth)}
    before = branch.head
    put("g/%d" % depth)
    assert "g/%d" % depth not in before
    if depth == 30:
        return
    pid = os.fork()
    if pid == 0:
        generation(depth + 1)
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0, depth
    assert "g/30" in branch.head
generation(0)

# Handles in children, whoever has closed them.
def child(function):
    pid = os.fork()
    if pid == 0:
        function()
        sys.exit(0)
    return pid
def good(pid):
    assert os.waitpid(pid, 0)[1] == 0
snapshot, commit, ws = branch.head, branch.last_commit, branch.fork()
ws["of the parent"] = b"1"
def use():
    assert snapshot["g/7"] == b"g/7" * 10 and commit.snapshot == snapshot and len(list(branch.log())) >= 30
    mine = ws.fork(); assert mine["of the parent"] == b"1"
    put("c/%d" % os.getpid())
    good(child(lambda: (put("c/%d" % os.getpid()), snapshot["g/8"])))
# A child has a slot of its own beside its parent's.
count = engine.stats().participants
def counted():
    put("c/%d" % os.getpid())
    os._exit(0 if engine.stats().participants == count + 1 else 9)
good(child(counted))
for _ in range(3):
    good(child(use))
def use_and_close():
    use(); engine.close()
    try: branch.head
    except helios_shm.ClosedError: return
    os._exit(9)
good(child(use_and_close))
good(child(counted))
use()
# The parent closes while the child is at work, and the child goes on.
ready, closed = os.pipe(), os.pipe()
def outlive():
    use(); os.write(ready[1], b"x"); os.read(closed[0], 1); use()
pid = child(outlive)
os.read(ready[0], 1)
engine.close()
os.write(closed[1], b"x")
good(pid)
def refused():
    for use in (lambda: branch.head, lambda: snapshot["g/7"], lambda: list(engine.branches()), branch.fork):
        try: use()
        except helios_shm.ClosedError: continue
        os._exit(9)
good(child(refused))
refused()
print("done")
"""


def _families(run: Run, outcome: Outcome) -> None:
    path, programs = run.directory / "families", _Programs(run, outcome)
    with helios_shm.open(path) as engine:
        said = programs.run("families", BEGIN.replace("{name}", "first") + FAMILIES, path)
        outcome.expect(said.strip().endswith("done"), "families: did not come to its end")
        head = engine.branch("main").head
        outcome.expect(len(head.keys("g/")) == 31, f"{len(head.keys('g/'))} generations of 31 are there")
        outcome.count("generations", len(head.keys("g/")))
        _expect_alone(engine, outcome, "after the families")
    until_nothing_runs(path)


# ---- views ----

VIEWS = """
import hashlib, shutil
sizes = [0, 1, 64, 65, 1000, 5000, 70000, 262143, 262144, 3000000]
def value(size):
    return hashlib.shake_128(b"%d" % size).digest(size)
ws = branch.fork()
for size in sizes:
    ws["v/%07d" % size] = value(size)
ws.commit(durable=True)
head = branch.head
views = {size: head.buffer("v/%07d" % size) for size in sizes}
copies = [memoryview(view)[1:] for view in views.values() if len(view)]
del ws, head
engine.close()
shutil.rmtree(path)
del engine, branch
gc.collect()
def check():
    for size, view in views.items():
        assert view.readonly and bytes(view) == value(size), size
check()
pid = os.fork()
if pid == 0:
    check()
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
views.clear()
gc.collect()
assert [bytes(copy[:3]) for copy in copies] == [value(size)[1:4] for size in sizes[1:]]
print("done")
"""


def _views(run: Run, outcome: Outcome) -> None:
    path = run.directory / "views"
    said = _Programs(run, outcome).run("views", BEGIN.replace("{name}", "first") + VIEWS, path)
    outcome.expect(said.strip() == "done", "views: did not come to its end")
    outcome.count("views that outlived their engine", 10)


# ---- dead readers ----


def _dead_readers(run: Run, outcome: Outcome) -> None:
    """Each takes a slot and places in the table of readers, reads from disk, and is killed; then all is as before."""
    path, killed = (
        run.directory / "readers",
        run.times(DEAD_READERS // READS_EACH) if run.mutant is None else 800,
    )
    with helios_shm.open(path) as engine:
        _put(engine, "a", b"x" * 5000, durable=True)
    until_nothing_runs(path)  # what is read now comes from the disk
    with helios_shm.open(path, l1_bytes=config.L1_BYTES_MIN) as engine:  # a small process forks fast
        before, counted_from = _footprint(path), 0
        root = bytes.fromhex(engine.branch("main").head.id)
        for number in range(killed):
            if not outcome.expect(
                _reads_and_dies(engine, root), f"after {number} deaths a reader could not read"
            ):
                return
            outcome.count("dead readers", READS_EACH)
            if number == killed // 10:  # by now the database has its trees, and pages to use again
                before, counted_from = _footprint(path), number
            if number % 10 == 9:  # something for the coordinator to do, and with it a look at who lives
                _put(engine, "b", b"%d" % number, durable=True)
        _expect_alone(engine, outcome, f"after {killed} killed readers")
        outcome.expect(
            engine.branch("main").head["a"] == b"x" * 5000, "the value that the dead read is wrong"
        )
        grown = (_footprint(path) - before) / ((killed - counted_from) / 10)
        outcome.figures["bytes of files grown a commit beside them"] = round(grown)
        outcome.expect(
            grown <= GROWN_BYTES_MAX, f"beside dead readers, a small commit takes {grown:.0f} bytes of disk"
        )
    until_nothing_runs(path)


def _reads_and_dies(engine: Engine, root: bytes) -> bool:
    """A process that is killed amid reads of so many threads: each of them has a place in the table of readers."""
    pid = os.fork()
    if pid == 0:
        try:
            attachment = engine._attachment
            attachment.pool.append(attachment.acquire())  # attached anew, as by any use in a forked child
            amid = [attachment.reader._begin() for _ in range(READS_EACH)]
            if amid and attachment.reader.get(root) is not None:
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def _footprint(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _put(engine: Engine, key: str, value: bytes, *, durable: bool = False) -> None:
    ws = engine.branch("main").fork()
    ws[key] = value
    ws.commit(durable=durable)


# ---- growth ----

HOLDER = """
import sys, helios_shm
with helios_shm.open(sys.argv[1]) as engine:
    held = []
    branch = engine.branch("main")
    for line in sys.stdin:
        held.append(branch.head)
        print(sum(len(old["k/00"]) for old in held[-5:]), flush=True)
"""


def _growth(run: Run, outcome: Outcome) -> None:
    """The same work twice: alone, and beside a process that holds every tenth snapshot and goes on reading them."""
    config.CACHE_BYTES = 4 << 20  # type: ignore[misc]  # so that a short run fills it
    rounds = run.times(400)
    alone, grown = _work_for_long(run, outcome, "alone", rounds, beside_holder=False)
    beside, _ = _work_for_long(run, outcome, "beside", rounds, beside_holder=True)
    outcome.figures["file growth beside a holder of snapshots, x"] = round(beside / alone, 2)
    outcome.expect(
        beside <= 1.3 * alone, f"who holds old snapshots makes the files grow to {beside} bytes, not {alone}"
    )
    outcome.figures["private MiB grown"] = round(grown / (1 << 20), 1)
    outcome.expect(grown <= 16 << 20, f"memory grew by {grown} bytes over the second half of the run")


def _work_for_long(
    run: Run, outcome: Outcome, name: str, rounds: int, *, beside_holder: bool
) -> tuple[int, int]:
    """(bytes on disk, private bytes that the second half of the run added)."""
    path, me = run.directory / f"growth-{name}", psutil.Process()
    with helios_shm.open(path, l1_bytes=4 << 20) as engine:
        ws, chance = engine.branch("main").fork(), run.chance("growth")
        for key in range(100):
            ws[f"k/{key:02}"] = chance.randbytes(300)
        ws.commit(durable=True)
        holder: Any = None
        if beside_holder:
            holder = subprocess.Popen(
                [sys.executable, "-c", HOLDER, str(path)],
                env={**untraced(), "PYTHONPATH": str(run.tree)},
                cwd=run.tree,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        middle = (0, 0)
        for number in range(rounds):
            if number == rounds // 2:
                middle = me.memory_full_info().uss, me.num_fds()
            for _ in range(20):
                ws[f"k/{chance.randrange(100):02}"] = chance.randbytes(300)
                ws.commit()
            engine.sync(timeout=30)
            if holder and number % 10 == 0:
                print("hold", file=holder.stdin, flush=True)
                outcome.expect(int(holder.stdout.readline()) >= 300, "the holder read something else")
        grown, fds = me.memory_full_info().uss - middle[0], me.num_fds() - middle[1]
        outcome.expect(fds <= 0, f"{fds} descriptors more than in the middle of the run")
        outcome.count("commits in growth", 20 * rounds)
        if holder:
            holder.communicate()
        size = (path / "db" / "data.mdb").stat().st_size
    until_nothing_runs(path)
    return size, grown
