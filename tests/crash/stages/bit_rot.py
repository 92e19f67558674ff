"""Bits rot, one at a time, in shared memory and in every file of a store: no wrong value, and check() names the damage.

    C core   tests/crash/bit_rot.c: 100,000 flips in a segment, nodes, a pack, a log block, a locator; some under ASan
    store    10,000 flips in the files of a real store, each in a child that may die of it:

               flip -> open, read every state of every branch -> compare with what was committed
                    -> check(), as its own process runs it    -> flip back

The oracle is what this process remembers of its commits. What may come of a flip in a store, each counted:

    typed errors      an answer is a CorruptError, FormatError or another of the library's; check() names damage
    damage named      check() does, whether an answer changed or not
    harmless          all answers are right and check() is silent: then the byte is one of those that mean nothing; the
                      function _unused lists them by kind. Any other byte is a violation
    older states      the newer of LMDB's two meta pages is taken for the elder, so LMDB shows the transaction before:
                      true states, a shorter log. check() must name it, and only a meta page may do it
    readers ended     LMDB trusts its pages, and ends a process that reads damaged ones. check() gives it none to read,
                      and must name the damage all the same. No other file may end anybody

What it does not prove. Two flips may do what one cannot. A sum of 64 bits (an entry of the ring) misses one damage in
2^64, one of 48 bits (a branch's row) one in 2^48. A head word in shared memory has no sum: a flip may lead it to an
older commit of its own branch (counted as older heads; whole and true states all the same).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import random
import resource
import select
import signal
import subprocess
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import helios_shm
from helios_shm import blobs, check, config, l2, lifecycle
from helios_shm._capi import ffi
from helios_shm.attachment import Attachment
from helios_shm.codec import LZ4
from helios_shm.errors import HeliosError
from helios_shm.pages import Meta, Pages, meta_read, page_size_of
from helios_shm.store import StorePaths
from tests.crash.stage import Outcome, Run
from tests.crash.tree import Mutant, program

TITLE = "bit rot"
SECONDS = 60.0
MUTANTS = (
    Mutant(
        "ring sum not compared",
        "csrc/hs_ring.c",
        "        if (hs_ring_checksum(segment->seed, hs_place_generation(place), header, sum) != header->checksum)\n"
        "            return HS_CORRUPT;\n",
        "        if (hs_ring_checksum(segment->seed, hs_place_generation(place), header, sum) == 0)\n"
        "            return HS_CORRUPT;\n",
        "what a reader copies out of the ring is believed",
    ),
    Mutant(
        "node from L2 not hashed",
        "csrc/hs_cache.c",
        "        if (memcmp(found, id, 32) != 0) return HS_CORRUPT;\n",
        "        if (memcmp(found, id, 0) != 0) return HS_CORRUPT;\n",
        "a node that comes from a pack is believed if its form is canonical",
    ),
    Mutant(
        "entry of a pack not hashed",
        "helios_shm/l2.py",
        "    if blake3(raw) != id:\n",
        "    if len(raw) != raw_size:\n",
        "a value that comes from a pack is believed",
    ),
    Mutant(
        "blob file not hashed",
        "helios_shm/blobs.py",
        "        if blake3(view) != id:\n",
        "        if len(view) != size:\n",
        "a large value's file is believed if it is long enough",
    ),
)

CORE_FLIPS, CORE_FLIPS_ASAN, STORE_FLIPS = 100_000, 8_000, 10_000
BATCH = 1000
# How LMDB ends a process: its assertions, wild pointers within and beyond the file, a division by a page size.
_LMDB_ENDS = {-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGFPE}
SECONDS_A_FLIP_MAX = 20.0
LEAVE_SECONDS_MAX = 30.0
# The epoch while nobody writes, the transactions in which pages became free while nobody reads; the locator's marks,
# below which packs are looked through without it.
_ANY_LOWER = "numbers for which any lower one serves"
# Of the locator; and the lowest bits of its seed, which are always taken as set.
_PADDING = "padding"
_SOURCE = Path(__file__).resolve().parents[1] / "bit_rot.c"


def prove(run: Run) -> Outcome:
    outcome = Outcome()
    in_core = run.mutant in ("ring sum not compared", "node from L2 not hashed")
    if run.mutant is None or in_core:
        _core(run, outcome, "plain", run.times(CORE_FLIPS))
    if run.mutant is None:
        _core(run, outcome, "asan", run.times(CORE_FLIPS_ASAN))
        outcome.reached("flips in the C core", run.times(CORE_FLIPS))
    if run.mutant is None or not in_core:
        _store(run, outcome, run.times(STORE_FLIPS))
    if run.mutant is None:
        outcome.reached("flips in a store", run.times(STORE_FLIPS))
    return outcome


# ---- the C core ------------------------------------------------------------------------------------------


def _core(run: Run, outcome: Outcome, flavour: str, flips: int) -> None:
    seed = run.chance("core", flavour).getrandbits(62)
    arguments = [str(seed), str(flips), str(run.directory)]
    done = subprocess.Popen(
        [program(run.tree, _SOURCE, flavour), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    said, error = done.communicate()
    replay = f"bit_rot {' '.join(arguments)} ({flavour})"
    if done.returncode != 0:
        (Path("/dev/shm") / f"helios-bit-rot-{done.pid}").unlink(missing_ok=True)
        outcome.violate(f"{replay} ended by {done.returncode}: {error[-1500:]}")
    names = {"flips": "flips in the C core", "wrong": "wrong values", "older": "older heads"}
    for line in said.splitlines():
        name, _, rest = line.partition(" ")
        if name == "violation:":
            outcome.violate(f"{replay}: {rest}")
        elif name in names:
            outcome.count(names[name], int(rest))


# ---- a store, and what is known of it --------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """What was committed: of each branch the log, newest first, and of each state its content, by id."""

    logs: dict[str, list[tuple[object, ...]]]
    states: dict[str, dict[str, bytes]]


@dataclass(frozen=True)
class Target:
    """Where flips go: ranges of a file, drawn by their sizes, and how often."""

    share: float
    file: str
    ranges: tuple[tuple[int, int], ...]

    def draw(self, r: random.Random) -> tuple[str, int, int]:
        begin, end = r.choices(self.ranges, [end - begin for begin, end in self.ranges])[0]
        return self.file, r.randrange(begin, end), r.randrange(8)


@dataclass(frozen=True)
class Store:
    """A store that nobody has open."""

    paths: StorePaths
    known: Known
    # By file: bytes that mean nothing, as (begin, end, what they are).
    unused: dict[str, list[tuple[int, int, str]]]
    targets: tuple[Target, ...]

    def why_unused(self, file: str, offset: int) -> str | None:
        for begin, end, kind in self.unused.get(file, ()):
            if begin <= offset < end:
                return kind
        return None

    def flip(self, file: str, offset: int, bit: int) -> None:
        path = self.paths.root / file
        with open(path, "r+b", buffering=0) as opened:
            byte = os.pread(opened.fileno(), 1, offset)[0]
            os.pwrite(opened.fileno(), bytes([byte ^ 1 << bit]), offset)


def _content(r: random.Random) -> Iterator[tuple[str, dict[str, bytes | None]]]:
    """Edits of all sizes and codecs, by branch; none: it is deleted."""
    yield "main", {f"many/{i:02}/{'x' * (i % 9)}": b"%d" % i for i in range(26)}
    yield (
        "main",
        {"hashed": r.randbytes(65), "inline": r.randbytes(64), "empty": b"", "many/07/xxxxxxx": None},
    )
    yield "other", {"a": b"1", "other": r.randbytes(300)}
    yield "gone", {"gone": r.randbytes(90)}
    yield "gone", {}
    large = r.randbytes(config.BLOB_BYTES_MIN + 77)
    yield (
        "main",
        {"raw": r.randbytes(3000), "packed": b"lz4 " * 1500, "inline": r.randbytes(20), "large": large},
    )


def _entry(commit: helios_shm.Commit) -> tuple[object, ...]:
    parents = tuple(parent.id for parent in commit.parents)
    said = (commit.message, dict(commit.metadata), commit.time, commit.metrics)
    return (commit.sequence, commit.snapshot.id, parents, *said)


def _made(run: Run) -> Store:
    """A store of some tens of KiB in a dozen transactions, that nobody has open."""
    paths = StorePaths(run.directory / "store")
    states: dict[str, dict[str, bytes]] = {}
    with helios_shm.open(paths.root, l1_bytes=config.L1_BYTES_MIN) as engine:
        for n, (name, edits) in enumerate(_content(run.chance("content"))):
            if not edits:
                engine.branch(name).delete()
                engine.sync()
                continue
            workspace = engine.branch(name).fork()
            state: dict[str, bytes] = dict(states.get(workspace.base.id, {}))
            for path, value in edits.items():
                if value is None:
                    del workspace[path], state[path]
                else:
                    workspace[path] = state[path] = value
            commit = workspace.commit(f"commit {n}", metadata={"n": n}, durable=True)
            states[commit.snapshot.id] = state
        logs = {name: [_entry(commit) for commit in engine.branch(name).log()] for name in engine.branches()}
    end = time.monotonic() + LEAVE_SECONDS_MAX
    while lifecycle.is_in_use(paths):
        if time.monotonic() > end:
            raise TimeoutError("the coordinator does not leave")
        time.sleep(0.01)
    _shrink_locator(paths)
    for blob in paths.blobs.glob("*/*"):
        blob.chmod(0o600)
    used, numbers = _survey(memoryview((paths.db / "data.mdb").read_bytes()))
    return Store(paths, Known(logs, states), _unused(paths, used, numbers), _targets(paths, used))


def _shrink_locator(paths: StorePaths) -> None:
    """The smallest that there is, so that flips meet its rows."""
    paths.locator.unlink()
    table = l2.Locator.create(paths.locator, 0, l2.boot_id())
    writer = l2.Writer(paths, sync=True)
    try:
        if not all(
            table.insert(number, pack) for number, pack in writer.packs_between(0, writer.newest_pack())
        ):
            raise ValueError("the store is too large for the smallest locator")
        table.mark(writer.newest_pack(), l2.boot_id())
    finally:
        writer.close()
    table.checkpoint()


def _survey(database: memoryview) -> tuple[list[tuple[int, int]], list[tuple[int, int, str]]]:
    """The ranges of the database's file that mean something, in order; and those among them for which others serve as
    well."""
    size = page_size_of(database)
    metas = [meta_read(database, page, size or 0) for page in (0, 1)]
    newest, elder = sorted((m for m in metas if isinstance(m, Meta)), key=lambda m: -m.transaction)
    pages = Pages(database, newest, notes_use=True)
    found = {name: dict(pages.entries(tree)) for name, tree in pages.databases().items()}
    pages.account()
    if pages.damage:
        raise ValueError(f"the store is damaged before the first flip: {pages.damage}")
    used = [(at, at + length) for at, length in pages.used]
    # Page number, flags, magic, version, address; of the newer all but the map's size, of the elder what tells that
    # it is the elder.
    for meta, parts in ((newest, [(40, 152)]), (elder, [(40, 46), (88, 94), (144, 152)])):
        for begin, end in [(0, 8), (10, 12), (16, 32), *parts]:
            used.append((meta.page * meta.page_size + begin, meta.page * meta.page_size + end))
    epoch = _offset(database, found[b"meta"][b"epoch"])
    numbers = [(epoch, epoch + 8, _ANY_LOWER)]
    for _, value in Pages(database, newest).entries(newest.free):
        at = _offset(database, value)  # the key stands before it
        numbers.append((at - 8, at, _ANY_LOWER))
    for pack in found[b"packs"].values():
        for row in range(l2.pack_count(pack)):
            _id, at, stored, _raw, _kind, codec = l2.PACK_ROW.unpack_from(
                pack, l2.PACK_HEADER.size + l2.PACK_ROW.size * row
            )
            at += _offset(database, pack)
            if codec == LZ4:  # it has been decoded, and hashed
                numbers.append((at, at + stored, "LZ4 of the same bytes"))
    return sorted(used), numbers


def _offset(database: memoryview, part: memoryview) -> int:
    begin, at = (int(ffi.cast("uintptr_t", ffi.from_buffer(view))) for view in (database, part))
    return at - begin


def _unused(
    paths: StorePaths, used: list[tuple[int, int]], numbers: list[tuple[int, int, str]]
) -> dict[str, list[tuple[int, int, str]]]:
    """Where a flip may change nothing and stay unseen, and why."""
    gaps = [(0, 0), *used, (os.stat(paths.db / "data.mdb").st_size,) * 2]
    free = [
        (end, begin, "LMDB's unused bytes")
        for (_, end), (begin, _) in itertools.pairwise(gaps)
        if end < begin
    ]
    text = paths.info.read_text()
    created = text.index('"created": "') + len('"created": "')
    everything = 1 << 40
    return {
        "db/data.mdb": [*free, *numbers],
        "db/lock.mdb": [(0, everything, "LMDB's lock file")],
        "coordinator.log": [(0, everything, "for people")],
        "helios.json": [(created, text.index('"', created), "for people")],
        "locator": [
            *(
                (begin, end, _PADDING)
                for begin, end in ((24, 25), (32, 33), (40, 64), (96, 128), (144, 4096))
            ),
            *((begin, end, _ANY_LOWER) for begin, end in ((64, 88), (128, 144))),
        ],
    }


def _targets(paths: StorePaths, used: list[tuple[int, int]]) -> tuple[Target, ...]:
    blob = next(paths.blobs.glob("*/*"))
    sizes = {
        name: os.stat(paths.root / name).st_size
        for name in ("db/data.mdb", "db/lock.mdb", "locator", "helios.json", "coordinator.log")
    }
    # Page headers, pointers and trees are a small part of the file, and where LMDB is most easily led astray.
    small = tuple((begin, end) for begin, end in used if end - begin <= 64)
    return (
        Target(0.40, "db/data.mdb", tuple(used)),
        Target(0.20, "db/data.mdb", small),
        Target(0.06, "db/data.mdb", ((0, 256), (4096, 4096 + 256))),
        Target(0.08, "db/data.mdb", ((0, sizes["db/data.mdb"]),)),
        Target(0.05, "locator", ((0, 160),)),
        Target(0.07, "locator", ((4096, sizes["locator"]),)),
        Target(0.06, str(blob.relative_to(paths.root)), ((0, blob.stat().st_size),)),
        Target(0.06, "helios.json", ((0, sizes["helios.json"]),)),
        Target(0.01, "coordinator.log", ((0, sizes["coordinator.log"]),)),
        Target(0.01, "db/lock.mdb", ((0, sizes["db/lock.mdb"]),)),
    )


# ---- one flip, in a child --------------------------------------------------------------------------------


@dataclass
class Answers:
    """What came of one flip: wrong answers in words, how many errors of which type, what check() said."""

    wrong: list[str] = field(default_factory=list)
    typed: dict[str, int] = field(default_factory=dict)
    older: bool = False
    named: list[str] = field(default_factory=list)

    def error(self, error: Exception) -> None:
        if not isinstance(error, HeliosError):
            self.wrong.append(
                f"no error of the library's: {traceback.format_exception_only(error)[-1].strip()}"
            )
        name = type(error).__name__
        self.typed[name] = self.typed.get(name, 0) + 1


def _read_all(store: Store, held: helios_shm.Engine, answers: Answers) -> None:
    """Open the store, with nothing remembered of it; read everything; compare it."""
    blobs._checked.clear()
    try:
        engine = helios_shm.open(store.paths.root, readonly=True)
        _forget(engine._attachment)
    except Exception as error:
        return answers.error(error)
    try:
        _read_logs(engine, store.known, answers)
        for id, state in store.known.states.items():
            try:
                snapshot = engine.snapshot(id)
                if dict(snapshot.items()) != state:
                    answers.wrong.append(f"state {id} has another content")
            except Exception as error:
                answers.error(error)
    finally:
        if engine._attachment is not held._attachment:  # the description names another store
            engine.close(sync=False)


def _forget(attachment: Attachment) -> None:
    """Make an attachment as good as new: another reader of L2, no node remembered. To make another one would cost four
    times as much; its private ring is empty, for reading fills none."""
    attachment.reader.close()
    attachment.forget_nodes()
    attachment.reader = l2.Reader(attachment.paths, lock=False)


def _read_logs(engine: helios_shm.Engine, known: Known, answers: Answers) -> None:
    try:
        names = engine.branches()
        if names != sorted(known.logs):
            answers.older = set(names) <= set(known.logs)
            if not answers.older:
                answers.wrong.append(f"the branches are {names}")
    except Exception as error:
        answers.error(error)
    for name, expected in known.logs.items():
        try:
            found = [_entry(commit) for commit in engine.branch(name).log()]
            if found != expected:
                answers.older = True
                if found != expected[len(expected) - len(found) :]:
                    answers.wrong.append(f"branch {name!r} has another log, of {len(found)} commits")
        except Exception as error:
            answers.error(error)


def _child(
    store: Store, flips: list[tuple[str, int, int]], first: int, *, reads_first: bool, out: int
) -> None:
    """Flips from ``first`` on, a line of JSON for each. ``reads_first``: False where reading has ended a child."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    lifecycle.is_writable = lambda paths: False  # a private engine: no coordinator, no shared memory
    held = helios_shm.open(store.paths.root, readonly=True)  # its attachment is the one of all openings
    for i in range(first, len(flips)):
        answers = Answers()
        store.flip(*flips[i])
        if reads_first or i > first:
            _read_all(store, held, answers)
        try:
            answers.named = check.look_at_files(store.paths)
        except Exception as error:
            answers.wrong.append(f"check() ended with {traceback.format_exception(error)[-2:]}")
        store.flip(*flips[i])
        os.write(out, json.dumps([i, *dataclasses.astuple(answers)]).encode() + b"\n")


# ---- all flips -------------------------------------------------------------------------------------------


def _store(run: Run, outcome: Outcome, count: int) -> None:
    store = _made(run)
    r = run.chance("flips")
    shares = [target.share for target in store.targets]
    flips = [r.choices(store.targets, shares)[0].draw(r) for _ in range(count)]
    for begin in range(0, count, BATCH):
        _batch(run, outcome, store, flips[begin : begin + BATCH])
        if run.mutant is not None and outcome.violations:
            return


def _batch(run: Run, outcome: Outcome, store: Store, flips: list[tuple[str, int, int]]) -> None:
    """Children, one after the other, until each flip has its answers."""
    done, reads_first = 0, True
    while done < len(flips):
        pid, pipe = _forked(store, flips, done, reads_first=reads_first)
        before = done
        with open(pipe, "rb") as lines:
            for line in _lines(lines.fileno(), pid):
                i, *fields = json.loads(line)
                _judge(run, outcome, store, flips[i], Answers(*fields), died=not reads_first and i == before)
                done = i + 1
                if run.mutant is not None and outcome.violations:
                    os.kill(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if done == len(flips) or (run.mutant is not None and outcome.violations):
            return
        store.flip(*flips[done])  # the child died with it
        if not reads_first and done == before:
            outcome.violate(f"{_where(run, flips[done])}: check() ended the process by {status}")
            done += 1
        elif status not in _LMDB_ENDS or flips[done][0] != "db/data.mdb":
            outcome.violate(f"{_where(run, flips[done])}: reading ended the process by {status}")
            done += 1
        else:
            outcome.count("readers ended")
            reads_first = False
            continue
        reads_first = True


def _forked(
    store: Store, flips: list[tuple[str, int, int]], first: int, *, reads_first: bool
) -> tuple[int, int]:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            _child(store, flips, first, reads_first=reads_first, out=write)
        finally:
            os._exit(0)
    os.close(write)
    return pid, read


def _lines(fd: int, pid: int) -> Iterator[bytes]:
    """What a child says; one that says nothing for long is ended."""
    buffer = b""
    while True:
        if not select.select([fd], [], [], SECONDS_A_FLIP_MAX)[0]:
            os.kill(pid, signal.SIGKILL)
        data = os.read(fd, 1 << 16)
        if not data:
            return
        *lines, buffer = (buffer + data).split(b"\n")
        yield from lines


def _where(run: Run, flip: tuple[str, int, int]) -> str:
    file, offset, bit = flip
    return f"seed {run.seed}, bit {bit} of byte {offset} of {file}"


def _judge(
    run: Run, outcome: Outcome, store: Store, flip: tuple[str, int, int], answers: Answers, *, died: bool
) -> None:
    file, offset, _ = flip
    where = _where(run, flip)
    outcome.count("flips in a store")
    outcome.count("wrong values", len(answers.wrong))
    for wrong in answers.wrong:
        outcome.violate(f"{where}: {wrong}")
    if answers.older:
        is_meta = file == "db/data.mdb" and offset < 2 * 4096
        outcome.count("older states")
        outcome.expect(is_meta, f"{where}: commits are missing without a word")
    changed = bool(answers.typed) or answers.older or died
    if answers.typed:
        outcome.count("typed errors")
    if answers.named:
        outcome.count("damage named")
        return
    kind = store.why_unused(file, offset)
    if changed:
        outcome.violate(f"{where}: check() is silent, reading is not: {answers}")
    elif outcome.expect(
        kind is not None, f"{where}: nothing changes, check() is silent, and the byte is in use"
    ):
        outcome.count(f"harmless: {kind}")
