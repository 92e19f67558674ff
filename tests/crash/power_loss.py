"""The model of a disk that loses power: what of a recorded run may be there afterwards.

    record_io.c --log--> read_log --events--> Disk.apply, one after another
                                                   | at any instant
                                                   v
                         draw_plan --plan--> Disk.lose_power --Image--> Image.write(directory): a store to open

What the kernel has in memory is the latest of everything. What the disk has for certain is what was there when a sync
of it began that has ended since. Between the two, anything goes that a journalling file system on a disk with a
volatile cache can do:

    data     Each sector (512 bytes) of a file has one of the versions that it had since its last sync, whatever its
             neighbours have. So a write is there, not there, or torn; an older write may be missing while a newer one
             is there, in one file or in two.
    sizes    Any size that the file had since its last sync. Bytes inside it of which no version was written are zeros,
             or, where a write made the file longer, what was on the disk before: anything.
    names    For each directory, the operations since its last sync up to some instant (a rename is one operation, in
             one directory or in two). They are independent of the data: a renamed file may have none.
             A sync of a file says nothing about its name, and one of a directory nothing about the directory's own.
    lock.mdb Any bytes. LMDB makes the file anew whenever nobody has it open.

A sync of a range (O_DSYNC, msync) covers the pages of the range, and the size as far as the range needs it. A state is
drawn by a plan: how much of the unsynced is there, in which order it was lost, and whether the parts of the disk agree
about it. Plans mix the ends (all, nothing) with the torn middle, since bugs live at both.

What it does not model: a disk that lies about syncs (the control does: ``dropped``), sectors that lose what was synced,
file systems without a journal that forget a synced name.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
PAGE = 4096
WHOLE = (1 << 64) - 1
LOCK_FILE = "lock.mdb"

(
    CREATE,
    MKDIR,
    UNLINK,
    RMDIR,
    RENAME,
    LINK,
    WRITE,
    TRUNCATE,
    ALLOCATE,
    SYNC_BEGIN,
    SYNC_END,
    NOTE,
    UNKNOWN,
) = range(1, 14)
_HEADER = struct.Struct("<IIQQQQIIII")  # struct record in record_io.c


@dataclass(frozen=True, slots=True)
class Event:
    """One record of the log."""

    kind: int
    process: int
    inode: int = 0
    offset: int = 0
    size: int = 0
    number: int = 0
    path: str = ""
    other: str = ""
    data: bytes = b""


def read_log(log: bytes) -> list[Event]:
    """The events of a log, in their order."""
    events, at = [], 0
    while at < len(log):
        kind, process, inode, offset, size, number, n, m, k, _ = _HEADER.unpack_from(log, at)
        at += _HEADER.size
        path, other, data = log[at : at + n], log[at + n : at + n + m], log[at + n + m : at + n + m + k]
        at += n + m + k
        events.append(Event(kind, process, inode, offset, size, number, path.decode(), other.decode(), data))
    return events


# What of the unsynced is there: asked with the instant of an operation, and the sector for data.
Chooser = Callable[[int, int], bool]


@dataclass(eq=False, slots=True)
class File:
    """A file: what is on disk for certain, and the versions since."""

    base: bytearray = field(default_factory=bytearray)  # zeros beyond its end
    size: int = 0
    latest: bytearray = field(default_factory=bytearray)
    versions: dict[int, list[tuple[int, bytes]]] = field(default_factory=dict)  # sector -> (instant, bytes)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # (instant, size)
    allocated: int = 0  # up to here what was not written reads as zeros

    def _note(self, now: int, start: int, end: int) -> None:
        for sector in range(start // SECTOR, -(-end // SECTOR)):
            bytes_now = bytes(self.latest[sector * SECTOR : (sector + 1) * SECTOR])
            self.versions.setdefault(sector, []).append((now, bytes_now))

    def write(self, now: int, offset: int, data: bytes) -> None:
        end, before = offset + len(data), len(self.latest)
        if end > before:
            self.latest.extend(bytes(end - before))
            self.sizes.append((now, end))
        self.latest[offset:end] = data
        self._note(now, offset, end)

    def truncate(self, now: int, size: int) -> None:
        before = len(self.latest)
        if size < before:
            self.latest[size:] = bytes(before - size)
            self._note(now, size, before)
            del self.latest[size:]
        else:
            self.latest.extend(bytes(size - before))
            self.allocated = max(self.allocated, size)
        if size != before:
            self.sizes.append((now, size))

    def sync(self, began: int, start: int = 0, end: int = WHOLE) -> None:
        """All up to the instant ``began`` is on disk, of the pages that hold bytes start .. end."""
        first, last = start // PAGE * (PAGE // SECTOR), -(-end // PAGE) * (PAGE // SECTOR)
        for sector in [sector for sector in self.versions if first <= sector < last]:
            self._settle(sector, began)
        known = [size for at, size in self.sizes if at <= began]
        if known and end == WHOLE:
            self.size = known[-1]
            self.sizes = self.sizes[len(known) :]
        elif known:
            self.size = max(self.size, min(known[-1], end))

    def _settle(self, sector: int, began: int) -> None:
        versions = self.versions[sector]
        synced = [data for at, data in versions if at <= began]
        if not synced:
            return
        at, end = sector * SECTOR, sector * SECTOR + len(synced[-1])
        if end > len(self.base):
            self.base.extend(bytes(end - len(self.base)))
        self.base[at:end] = synced[-1]
        if len(synced) == len(versions):
            del self.versions[sector]
        else:
            self.versions[sector] = versions[len(synced) :]

    def lose_power(self, there: Chooser, plan: Plan) -> bytes:
        """One content that it may have afterwards."""
        size = self._size_after(there, plan)
        content = bytearray(self.base[:size])
        content.extend(bytes(size - len(content)))
        for sector, versions in self.versions.items():
            at = sector * SECTOR
            if at >= size:
                continue
            left = [data for instant, data in versions if there(instant, sector)]
            if left:
                data = left[-1]
            elif plan.garbage and at >= max(self.size, self.allocated):
                data = plan.rng.randbytes(SECTOR)
            else:
                continue
            content[at : at + len(data)] = data
        return bytes(content[:size])

    def _size_after(self, there: Chooser, plan: Plan) -> int:
        if plan.free_sizes and self.sizes:
            return plan.rng.choice([self.size, *(size for _, size in self.sizes)])
        left = [size for instant, size in self.sizes if there(instant, -1)]
        return left[-1] if left else self.size


@dataclass(eq=False, slots=True)
class Change:
    """One operation on names: in one directory, or, a rename, in two."""

    now: int
    directories: tuple[Directory, ...]
    # (directory, name, what it names from now on)
    entries: tuple[tuple[Directory, str, Node | None], ...]

    def make(self, directory: Directory, names: dict[str, Node]) -> None:
        for where, name, node in self.entries:
            if where is directory and node is None:
                names.pop(name, None)
            elif where is directory and node is not None:
                names[name] = node


@dataclass(eq=False, slots=True)
class Directory:
    """A directory: the names that are on disk for certain, and the operations since."""

    base: dict[str, Node] = field(default_factory=dict)
    latest: dict[str, Node] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)

    def sync(self, began: int) -> None:
        """All up to the instant ``began`` is on disk; a rename from or to another directory, there as well."""
        while self.changes and self.changes[0].now <= began:
            change = self.changes.pop(0)
            change.make(self, self.base)
            for other in change.directories:
                if other is not self:
                    other.sync(change.now)


Node = File | Directory


@dataclass
class Plan:
    """How one state is drawn; see ``draw_plan``."""

    name: str
    rng: random.Random
    data: Callable[[File], Chooser]
    # Up to which instant a directory's operations are there.
    names: Callable[[Directory], int]
    free_sizes: bool = False
    garbage: bool = False


def _torn(rng: random.Random, share: float) -> Chooser:
    return lambda _now, _sector: rng.random() < share


def _some_writes(rng: random.Random, share: float) -> Chooser:
    """Each write whole or not at all."""
    chosen: dict[int, bool] = {}
    return lambda now, _sector: chosen.setdefault(now, rng.random() < share)


def _up_to(instant: int) -> Chooser:
    return lambda now, _sector: now <= instant


def _from(instant: int) -> Chooser:
    return lambda now, _sector: now >= instant


def draw_plan(rng: random.Random, disk: Disk) -> Plan:
    """One way to lose power. Recent instants are drawn more often: most of what is unsynced is recent."""
    first = disk.oldest_unsynced()

    def instant() -> int:
        return disk.now - int((disk.now - first + 1) * rng.random() ** 2)

    shares = (0.1, 0.5, 0.9)
    draws: list[Callable[[], Chooser]] = [
        lambda: _up_to(0),
        lambda: _up_to(disk.now),
        lambda: _up_to(instant()),
        lambda: _from(instant()),
        lambda: _some_writes(rng, rng.choice(shares)),
        lambda: _torn(rng, rng.choice(shares)),
    ]
    names: list[Callable[[], Callable[[Directory], int]]] = [
        lambda: lambda _directory: 0,
        lambda: lambda _directory: disk.now,
        lambda: (lambda at: lambda _directory: at)(instant()),
        lambda: lambda _directory: instant(),
    ]
    kind, agreed = rng.randrange(len(draws)), rng.random() < 0.4
    if agreed:  # all files alike
        chooser = draws[kind]()

        def data(_file: File) -> Chooser:
            return chooser
    else:

        def data(_file: File) -> Chooser:
            return rng.choice(draws)()

    which = rng.randrange(len(names))
    if (
        rng.random() < 0.1
    ):  # an earlier instant of everything that was not synced: the journal and its data in order
        at = instant()
        return Plan(f"ordered up to {at}", rng, lambda _file: _up_to(at), lambda _directory: at)
    name = f"data {kind if agreed else 'mixed'}, names {which}"
    return Plan(name, rng, data, names[which](), rng.random() < 0.3, rng.random() < 0.3)


@dataclass(frozen=True)
class Image:
    """A state of the disk: files by path, and directories (the top is ``''``)."""

    plan: str
    directories: tuple[str, ...]
    files: dict[str, bytes]

    def write(self, directory: Path) -> None:
        """Make it real, in an empty directory."""
        for name in self.directories:
            (directory / name).mkdir(0o700, exist_ok=True)
        for name, data in self.files.items():
            (directory / name).write_bytes(data)


@dataclass(frozen=True)
class Found:
    """What is at a path (the recorded directory itself is ``''``): a file's bytes, or None for a directory."""

    path: str
    inode: int
    data: bytes | None


def find_all(top: Path) -> list[Found]:
    """Everything below a directory, and it; a directory before what is in it."""
    found = [Found("", top.stat().st_ino, None)]
    for path in sorted(top.rglob("*")):
        data = None if path.is_dir() else path.read_bytes()
        found.append(Found(str(path.relative_to(top)), path.stat().st_ino, data))
    return found


class Disk:
    """The files below the recorded directory, as the kernel has them and as the disk may have them.

    ``dropped`` names syncs that do nothing, for controls: "file", "directory", "range".
    """

    def __init__(self, start: Sequence[Found], dropped: Collection[str] = ()) -> None:
        """``start`` is what is there before the run: all of it is on disk."""
        self.now = 0
        self._dropped = frozenset(dropped)
        self._inodes: dict[int, Node] = {}
        self._begun: dict[int, tuple[int, Event]] = {}
        for found in start:
            node: Node = Directory()
            if found.data is not None:
                node = File(bytearray(found.data), len(found.data), bytearray(found.data))
            self._inodes[found.inode] = node
            if found.path:
                directory, name = self._place(found.path)
                directory.base[name] = directory.latest[name] = node
            else:
                assert isinstance(node, Directory)
                self.top = node

    # ---- the run ----

    def apply(self, event: Event) -> None:
        """The next event of the run."""
        self.now += 1
        kind = event.kind
        if kind in (CREATE, MKDIR, UNLINK, RMDIR, RENAME, LINK):
            self._name(event)
        elif kind in (WRITE, TRUNCATE, ALLOCATE):
            self._data(event)
        elif kind == SYNC_BEGIN:
            self._begun[event.number] = (self.now, event)
        elif kind == SYNC_END:
            self._synced(*self._begun.pop(event.number))
        elif kind != NOTE:
            raise ValueError(f"the run did something that this model has no rule for: {event}")

    def _place(self, path: str) -> tuple[Directory, str]:
        *parents, name = path.split("/")
        directory = self.top
        for parent in parents:
            node = directory.latest[parent]
            assert isinstance(node, Directory), path
            directory = node
        return directory, name

    def _change(self, *entries: tuple[Directory, str, Node | None]) -> None:
        directories = tuple(dict.fromkeys(directory for directory, _, _ in entries))
        change = Change(self.now, directories, entries)
        for directory in directories:
            change.make(directory, directory.latest)
            directory.changes.append(change)

    def _name(self, event: Event) -> None:
        directory, name = self._place(event.path)
        if event.kind in (CREATE, MKDIR):
            node: Node = File() if event.kind == CREATE else Directory()
            self._inodes[event.inode] = node
            self._change((directory, name, node))
        elif event.kind in (UNLINK, RMDIR):
            self._change((directory, name, None))
        else:
            target, new_name = self._place(event.other)
            node = directory.latest[name]
            if event.kind == LINK:
                self._change((target, new_name, node))
            else:
                self._change((directory, name, None), (target, new_name, node))

    def _data(self, event: Event) -> None:
        file = self._inodes[event.inode]
        assert isinstance(file, File), event
        if event.kind == WRITE:
            file.write(self.now, event.offset, event.data)
        elif event.kind == TRUNCATE:
            file.truncate(self.now, event.size)
        elif event.offset + event.size > len(file.latest):
            file.truncate(self.now, event.offset + event.size)

    def _synced(self, began: int, event: Event) -> None:
        node = self._inodes[event.inode]
        if isinstance(node, Directory):
            if "directory" not in self._dropped:
                node.sync(began)
        elif event.size == WHOLE:
            if "file" not in self._dropped:
                node.sync(began)
        elif "range" not in self._dropped:
            node.sync(began, event.offset, event.offset + event.size)

    def oldest_unsynced(self) -> int:
        """The instant of the oldest operation that may be lost."""
        instants = [self.now]
        for _, node in _walk("", self.top, lambda directory: directory.latest):
            if isinstance(node, Directory):
                instants += [change.now for change in node.changes[:1]]
            else:
                instants += [versions[0][0] for versions in node.versions.values()]
        return min(instants)

    # ---- the cut ----

    def lose_power(self, plan: Plan) -> Image:
        """One state that the disk may be in, if power is lost now."""
        cuts = self._consistent_cuts(plan)

        def names(directory: Directory) -> dict[str, Node]:
            found = dict(directory.base)
            for change in directory.changes:
                if change.now <= cuts[directory]:
                    change.make(directory, found)
            return found

        directories, files = [], {}
        for path, node in _walk("", self.top, names):
            if isinstance(node, Directory):
                directories.append(path)
            elif path.endswith(LOCK_FILE):
                files[path] = _any_bytes(node, plan)
            else:
                files[path] = node.lose_power(plan.data(node), plan)
        return Image(plan.name, tuple(directories), files)

    def _consistent_cuts(self, plan: Plan) -> dict[Directory, int]:
        """An instant for each directory, so that no operation on two is there in one of them alone."""
        directories = {node for node in self._inodes.values() if isinstance(node, Directory)} | {self.top}
        ordered = sorted(directories, key=lambda each: each.changes[0].now if each.changes else 0)
        cuts = {directory: plan.names(directory) for directory in ordered}
        moved = True
        while moved:
            moved = False
            for directory in ordered:
                for change in directory.changes:
                    if change.now <= cuts[directory] and any(
                        cuts[other] < change.now for other in change.directories
                    ):
                        cuts[directory] = change.now - 1
                        moved = True
        return cuts


def _walk(
    path: str, directory: Directory, names: Callable[[Directory], dict[str, Node]]
) -> Iterator[tuple[str, Node]]:
    yield path, directory
    for name, node in names(directory).items():
        below = f"{path}/{name}" if path else name
        if isinstance(node, Directory):
            yield from _walk(below, node, names)
        else:
            yield below, node


def _any_bytes(file: File, plan: Plan) -> bytes:
    size = plan.rng.choice([file.size, *(size for _, size in file.sizes)])
    return plan.rng.randbytes(size) if plan.rng.random() < 0.5 else bytes(size)
