"""``Snapshot.materialize``: make a directory hold what a state says.

    1 wanted    the state's entries below the prefix, those of nested states too; unsafe names are refused
    2 found     what is in the directories that matter (with clean: in all); stats alone
    3 plan      the stat that the index has, and this id there: nothing to do. The same kind and size: hashed.
                Else: written. Known from an earlier materialize, not wanted, and still what that wrote: removed
    4 index     says what is about to be written (PENDING)
    5 do        remove; make directories; write
    6 index     says what is there

Until 4 nothing is written. A death after 4 leaves files that are whole, or new ones that are the beginning of what
the index says, or temporary ones; the next materialize knows all three for its own. A file that is replaced is
replaced by a rename.
"""

from __future__ import annotations

import errno
import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from . import blobs
from .attachment import Attachment
from .errors import CorruptError, ExistsError, NotFoundError
from .files import (
    CLONE,
    DIRECTORY,
    EXECUTABLE,
    HARD,
    LARGE,
    MAKE_DIRECTORY,
    MAKE_LINK,
    REMOVE,
    REMOVE_DIRECTORY,
    REPLACE,
    SET_EXECUTABLE,
    SNAPSHOT,
    SYMLINK,
    WRITE,
    Entry,
    Files,
    Found,
    Progress,
    entries_of,
    inside,
    is_temporary,
    locked,
    now_ns,
    open_directory,
    parents_of,
    store_status,
    value_of,
)
from .globs import Globs
from .hashing import blake3
from .mapping import EVERYTHING, bounds_of
from .types import KINDS, MaterializeMetrics
from .worktree import (
    CHECKED,
    NO_KEY,
    PENDING,
    WROTE,
    Key,
    Row,
    Worktree,
    settled,
    stat_of_nothing,
    unsettled,
)

_NAME_BYTES_MAX = 255
_PATH_BYTES_MAX = 4095
_NESTED_MAX = 32
Scan = Callable[[], Iterator[tuple[str, bytes]]]

_LINKS = {"copy": 0, "hard": HARD, "reflink": CLONE}
_NO_ID = bytes(32)


# --- 1: what is wanted ---


def expanded(
    attachment: Attachment, root: bytes, prefix: str, below: str = "", depth: int = 0
) -> Iterator[tuple[str, Entry]]:
    """The entries below a prefix as paths of files, those of nested states in their place."""
    skip = len(prefix)
    for key, entry in entries_of(attachment, root, bounds_of(prefix, None, None) if prefix else EVERYTHING):
        path = below + key[skip:]
        if entry.kind != SNAPSHOT:
            yield path, entry
            continue
        if depth == _NESTED_MAX:
            raise ValueError(f"{path!r}: states are nested in each other more than {_NESTED_MAX} deep")
        if entry.value is None or len(entry.value) != len(_NO_ID):
            raise CorruptError(f"{path!r} is a nested state whose id has {entry.size} bytes")
        yield path, Entry(DIRECTORY, entry.id, 0, b"")
        yield from expanded(attachment, entry.value, "", path + "/", depth + 1)


def wanted_of(
    attachment: Attachment, root: bytes, prefix: str, globs: Globs, *, allow_case_clashes: bool
) -> dict[str, Entry]:
    """The entries that are meant, each checked. ValueError for what a directory cannot, or must not, hold."""
    wanted: dict[str, Entry] = {}
    for path, entry in expanded(attachment, root, prefix):
        _check_path(path, entry, prefix)
        if globs.everything or globs.takes(path, directory=entry.kind == DIRECTORY):
            if path in wanted:
                raise ValueError(f"{path!r} comes twice: in the state itself and in one that is nested there")
            wanted[path] = entry
    above = parents_of(wanted)
    for path in above:
        if path in wanted and wanted[path].kind != DIRECTORY:
            raise ValueError(
                f"{path!r} is a {KINDS[wanted[path].kind]}, and other paths lie below it: it cannot be both"
            )
    if not allow_case_clashes:
        _check_case({**above, **dict.fromkeys(wanted)})
    _check_links(attachment, wanted)
    # A directory that holds something needs no saying.
    return {path: entry for path, entry in wanted.items() if path not in above}


def _check_links(attachment: Attachment, wanted: dict[str, Entry]) -> None:
    for path, entry in wanted.items():
        if entry.kind == SYMLINK and b"\0" in value_of(attachment, entry):
            raise ValueError(f"{path!r} is a symbolic link whose target holds a zero byte")


def _check_path(path: str, entry: Entry, prefix: str) -> None:
    where = f"{prefix + path!r} cannot be a path below a directory"
    if not path:
        raise ValueError(
            f"{where}: nothing is left of it behind the prefix {prefix!r}; a directory's ends in '/'"
        )
    if "\0" in path:
        raise ValueError(f"{where}: it holds a zero byte")
    size = len(path) if path.isascii() else len(path.encode())
    if size > _PATH_BYTES_MAX:
        raise ValueError(f"{where}: it has {size} bytes; {_PATH_BYTES_MAX} is the limit")
    if path[0] == "/":
        raise ValueError(f"{where}: it begins with a slash")
    if path[0] == "." or "//" in path or "/." in path or path[-1] == "/" or size > _NAME_BYTES_MAX:
        for name in path.split("/"):
            if name in ("", ".", ".."):
                raise ValueError(f"{where}: {name!r} is no name")
            if len(name.encode()) > _NAME_BYTES_MAX:
                raise ValueError(f"{where}: {name[:40]!r}... has more than {_NAME_BYTES_MAX} bytes")
            if is_temporary(name):
                raise ValueError(f"{where}: such names are for files that are being written")
    if entry.kind == SYMLINK and (not 0 < entry.size <= _PATH_BYTES_MAX):
        raise ValueError(
            f"{where}: a symbolic link's target has 1..{_PATH_BYTES_MAX} bytes, not {entry.size}"
        )
    if entry.kind == DIRECTORY and entry.size:
        raise ValueError(f"{where}: a directory's value is empty, this one has {entry.size} bytes")


def _check_case(paths: dict[str, None]) -> None:
    """No two may be one where case, or the form of an accent, makes no difference."""
    folded: dict[str, str] = {}
    for path in paths:
        fold = path.lower() if path.isascii() else unicodedata.normalize("NFC", path).casefold()
        other = folded.setdefault(fold, path)
        if other != path:
            raise ValueError(
                f"{other!r} and {path!r} are one name where case makes no difference; "
                "pass allow_case_clashes=True if the directory's file system tells them apart"
            )


# --- 2 and 3: what is there, and what is to be done ---


@dataclass(slots=True)
class _Plan:
    write: list[str] = field(default_factory=list)
    replace: set[str] = field(default_factory=set)  # of those
    remove: dict[str, None] = field(default_factory=dict)
    remove_directories: dict[str, None] = field(default_factory=dict)  # if they are empty then
    make: list[str] = field(default_factory=list)
    rows: dict[str, Row] = field(default_factory=dict)  # what stays as it is
    skipped: int = 0
    written: int = 0  # directories


class _Walk:
    """Values of paths that are asked for in order, from a walk; of all others by their ids."""

    __slots__ = ("_ahead", "_attachment", "_items")

    def __init__(self, attachment: Attachment, scan: Scan) -> None:
        self._attachment, self._items = attachment, scan()
        self._ahead = next(self._items, None)

    def value(self, path: str, entry: Entry) -> bytes:
        while self._ahead is not None and self._ahead[0] < path:
            self._ahead = next(self._items, None)
        if self._ahead is not None and self._ahead[0] == path and len(self._ahead[1]) == entry.size:
            return self._ahead[1]
        return value_of(self._attachment, entry)


@dataclass(slots=True)
class _Work:
    """One materialize."""

    attachment: Attachment
    files: Files
    tree: Worktree
    globs: Globs
    wanted: dict[str, Entry]
    clean: bool
    links: int
    progress: Progress | None
    began_ns: int
    key: bytes
    scan: Scan
    directories: dict[str, None] = field(default_factory=dict)  # that are needed
    found: dict[str, Found] = field(default_factory=dict)
    plan: _Plan = field(default_factory=_Plan)

    def run(self) -> MaterializeMetrics:
        self.look()
        self.decide()
        plan = self.plan
        if plan.write or plan.remove or plan.make or plan.remove_directories:
            self.announce()
            removed = self.remove()
            self.write()
        else:
            removed = 0
        key = self.key_now()
        if plan.rows != self.tree.rows or key != self.tree.key:
            self.tree.save(plan.rows, key)
        return MaterializeMetrics(len(plan.write) + plan.written, removed, plan.skipped)

    def key_now(self) -> Key:
        """What the next one may rely on: all that is wanted is there, and with clean, nothing else. The directories'
        times say that nothing was added; they are known when nothing was to be done."""
        plan = self.plan
        entries = len(plan.write) + plan.written + plan.skipped
        for path, entry in self.wanted.items():
            if entry.kind == DIRECTORY:
                plan.rows[path] = Row(stat_of_nothing(DIRECTORY), _NO_ID, CHECKED | self._wrote(path))
        if not self.clean:
            return Key(self.key, entries, 0, 0)
        if plan.write or plan.remove or plan.make or plan.remove_directories:
            return NO_KEY
        mine = self.tree.times
        return see_directories(
            self.found, self.globs, self.tree, plan.rows, self.began_ns, Key(self.key, entries, *mine)
        )

    def _wrote(self, path: str) -> int:
        row = self.plan.rows.get(path)
        return row.flags & WROTE if row is not None else 0

    def look(self) -> None:
        rows, wanted, globs = self.tree.rows, self.wanted, self.globs
        self.directories = parents_of(wanted)
        self.directories.update((path, None) for path, entry in wanted.items() if entry.kind == DIRECTORY)
        if self.clean:
            self.found = self.files.walk(globs.enters)
            return
        needed = parents_of([*wanted, *rows])
        self.found = self.files.walk(needed.__contains__)
        in_the_way = [
            path
            for path, (kind, _) in self.found.items()
            if kind == DIRECTORY and path in wanted and path not in self.directories
        ]
        self.found.update(self.files.walk(lambda path: True, in_the_way))

    def decide(self) -> None:
        plan, found, rows = self.plan, self.found, self.tree.rows
        suspects: dict[str, Found] = {}
        for path, entry in self.wanted.items():
            there = found.get(path)
            if entry.kind == DIRECTORY:
                if there is not None and there.kind == DIRECTORY:
                    plan.skipped += 1
                else:
                    plan.written += 1
                continue
            row = rows.get(path)
            if there is None or there.kind == DIRECTORY:
                plan.write.append(path)
            elif (
                row is not None
                and row.stat == there.stat
                and row.id == entry.id
                and there.kind == entry.kind
                and not row.flags & PENDING
            ):
                plan.skipped += 1
                plan.rows[path] = row if row.flags & CHECKED else row._replace(flags=row.flags | CHECKED)
            elif there.kind == entry.kind and there.size == entry.size:
                suspects[path] = there
            else:
                self._replace(path)
        self._decide_suspects(suspects)
        self._decide_removals()
        self._decide_directories()

    def _replace(self, path: str) -> None:
        self.plan.write.append(path)
        self.plan.replace.add(path)

    def _decide_suspects(self, suspects: dict[str, Found]) -> None:
        """Same kind and size, and the index knows nothing or something else: the bytes decide."""
        plan, rows = self.plan, self.tree.rows
        unread = dict(suspects)
        for path, id, stat, _ in self.files.read(suspects.items(), keep=False):
            del unread[path]
            if id == self.wanted[path].id and stat[40] == self.wanted[path].kind:
                old = rows.get(path)
                ours = old is not None and old.flags & WROTE and (old.id == id or old.stat == stat)
                plan.rows[path] = Row(self._kept(stat), id, CHECKED | (WROTE if ours else 0))
                plan.skipped += 1
            else:
                self._replace(path)
        for path in unread:
            self._replace(path)

    def _kept(self, stat: bytes, now: int | None = None) -> bytes:
        return stat if settled(stat, self.began_ns if now is None else now) else unsettled(stat)

    def _decide_removals(self) -> None:
        plan, found, globs = self.plan, self.found, self.globs
        suspects: dict[str, Found] = {}
        for path, row in self.tree.rows.items():
            there = found.get(path)
            directory = row.kind == DIRECTORY
            if there is None or self._is_meant(path, there):
                continue
            if not globs.everything and not globs.takes(path, directory=directory):
                plan.rows[path] = unchecked(row)
            elif directory:
                if there.kind == DIRECTORY and row.flags & WROTE:
                    plan.remove_directories[path] = None
            elif not row.flags & WROTE:
                plan.rows[path] = unchecked(row)
            elif row.stat == there.stat:
                plan.remove[path] = None
            elif there.kind == row.kind and (row.flags & PENDING or there.size == row.size):
                suspects[path] = there
        for path, id, _, value in self.files.read(suspects.items(), keep=True):
            if self._is_ours(self.tree.rows[path], id, value):
                plan.remove[path] = None
        for path, there in found.items():
            if there.kind != DIRECTORY and is_temporary(path):
                plan.remove[path] = None
            elif self.clean and not self._is_meant(path, there):
                directory = there.kind == DIRECTORY
                if globs.everything or globs.takes(path, directory=directory):
                    (plan.remove_directories if directory else plan.remove)[path] = None
        for path in plan.remove:
            plan.rows.pop(path, None)

    def _is_meant(self, path: str, there: Found) -> bool:
        """Does the state have something at this path, and if it is a directory, is one there?"""
        if path in self.directories:
            return there.kind == DIRECTORY
        return path in self.wanted

    def _is_ours(self, row: Row, id: bytes, value: bytes) -> bool:
        """Is a file what an earlier materialize wrote, or was writing when it ended?"""
        if row.id == id:
            return True
        if not row.flags & PENDING:
            return False
        if not value:
            return True
        try:
            meant = self.attachment.load_buffer(row.id, row.size)
        except (NotFoundError, CorruptError):
            return False
        return bytes(meant[: len(value)]) == value

    def _decide_directories(self) -> None:
        """Which to make, and whether what is in the way may go."""
        plan, found = self.plan, self.found
        for path in self.directories:
            there = found.get(path)
            if there is None:
                plan.make.append(path)
            elif there.kind != DIRECTORY:
                if path not in plan.remove:
                    raise self._in_the_way(path)
                plan.make.append(path)
            elif (row := self.tree.rows.get(path)) is not None and row.kind == DIRECTORY:
                plan.rows[path] = unchecked(row)
        plan.make.sort()
        for path in plan.write:
            there = found.get(path)
            if there is not None and there.kind == DIRECTORY:
                self._clear(path)

    def _clear(self, directory: str) -> None:
        """A file is to be where a directory is: all that is in it must be ours, or clean says so."""
        base, plan = directory + "/", self.plan
        for path, there in self.found.items():
            if path.startswith(base) and there.kind != DIRECTORY and path not in plan.remove:
                raise self._in_the_way(path)
        for path, there in self.found.items():
            if inside(path, directory) and there.kind == DIRECTORY:
                plan.remove_directories[path] = None

    def _in_the_way(self, path: str) -> ExistsError:
        where = os.path.join(self.files.directory, path)
        return ExistsError(
            f"{where} is in the way of what the state has there, and no earlier materialize wrote it; "
            "move it, or pass clean=True to have it removed; nothing was written"
        )

    # --- 4 to 6: doing it ---

    def announce(self) -> None:
        """Say in the index what is about to be written, for whoever comes after a death: and which files are, until
        they are replaced, what an earlier materialize left."""
        rows = dict(self.tree.rows)
        ours = self._ours_until_replaced()
        for path in self.plan.write:
            entry = self.wanted[path]
            stat = ours.get(path) or entry.size.to_bytes(8, "little") + stat_of_nothing(entry.kind)[8:]
            rows[path] = Row(stat, entry.id, WROTE | PENDING)
        for path in self.plan.make:
            rows[path] = Row(stat_of_nothing(DIRECTORY), _NO_ID, WROTE)
        self.tree.save(rows)

    def _ours_until_replaced(self) -> dict[str, bytes]:
        """The stats of those files. Of what was written a moment before its row, or before a death, the bytes tell."""
        ours: dict[str, bytes] = {}
        unsure: dict[str, Found] = {}
        for path in self.plan.replace:
            row, there = self.tree.rows.get(path), self.found[path]
            if row is None or not row.flags & WROTE:
                continue
            if row.stat == there.stat:
                ours[path] = there.stat
            elif row.flags & PENDING or row.stat == unsettled(there.stat):
                unsure[path] = there
        for path, id, stat, value in self.files.read(unsure.items(), keep=True):
            if settled(stat, self.began_ns) and self._is_ours(self.tree.rows[path], id, value):
                ours[path] = stat
        return ours

    def remove(self) -> int:
        plan, done = self.plan, 0
        jobs = ((REMOVE, path, b"", None, 0) for path in plan.remove)
        for part in self.files.write(jobs):
            done += len(part)
            self._tell(done)
        # Those that hold something that is not ours stay.
        self.files.do(
            REMOVE_DIRECTORY,
            sorted(plan.remove_directories, reverse=True),
            allowed=(errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR),
        )
        return sum(not is_temporary(path) for path in plan.remove)

    def _tell(self, done: int) -> None:
        if self.progress is not None:
            self.progress(done, len(self.plan.remove) + len(self.plan.write))

    def write(self) -> None:
        plan = self.plan
        self.files.do(MAKE_DIRECTORY, plan.make)
        for path in plan.make:
            plan.rows[path] = Row(stat_of_nothing(DIRECTORY), _NO_ID, WROTE)
        stats: dict[str, bytes] = {}
        for part in self.files.write(self._jobs()):
            stats.update(part)
            self._tell(len(plan.remove) + len(stats))
        now = now_ns()
        for path, stat in stats.items():
            plan.rows[path] = Row(self._kept(stat, now), self.wanted[path].id, WROTE | CHECKED)

    def _value_of(self) -> Callable[[str, Entry], bytes]:
        """How values are had: where most are wanted and none is large, by a walk over the state beside this one."""
        sizes = [self.wanted[path].size for path in self.plan.write]
        if 4 * len(sizes) > len(self.wanted) and max(sizes, default=0) < LARGE:
            return _Walk(self.attachment, self.scan).value
        return lambda path, entry: value_of(self.attachment, entry)

    def _jobs(self) -> Iterator[tuple[int, str, bytes, bytes | None, int]]:
        value_at = self._value_of()
        for path in self.plan.write:
            entry = self.wanted[path]
            replace = REPLACE if path in self.plan.replace else 0
            if entry.kind == SYMLINK:
                yield MAKE_LINK | replace, path, value_of(self.attachment, entry), None, 0
                continue
            what = WRITE | replace | (SET_EXECUTABLE if entry.kind == EXECUTABLE else 0)
            source = self._source(entry)
            if source is not None:
                yield (
                    what | (self.links if entry.kind != EXECUTABLE else self.links & CLONE),
                    path,
                    b"",
                    source,
                    entry.size,
                )
            else:
                yield what, path, value_at(path, entry), None, entry.size

    def _source(self, entry: Entry) -> bytes | None:
        """The file of a large value, its bytes checked."""
        if entry.size < LARGE or blobs.read(self.attachment.paths, entry.id, entry.size) is None:
            return None
        return os.fsencode(blobs.path_of(self.attachment.paths, entry.id))


def unchecked(row: Row) -> Row:
    return row._replace(flags=row.flags & ~CHECKED) if row.flags & CHECKED else row


def key_of(*what: object) -> bytes:
    """A name for what holds of a directory: of whom, and with which options."""
    words = [list(each) if isinstance(each, list | tuple) else each for each in what]
    return blake3(repr(words).encode("utf-8", "surrogatepass"))


def see_directories(
    found: dict[str, Found], globs: Globs, tree: Worktree, rows: dict[str, Row], began_ns: int, key: Key
) -> Key:
    """Have the directories' times checked as well; without the key, if one was changed just now."""
    seen: dict[str, Row] = {}
    for path, there in found.items():
        if there.kind == DIRECTORY and globs.enters(path):
            if not settled(there.stat, began_ns):
                return NO_KEY
            old = tree.rows.get(path)
            seen[path] = Row(there.stat, _NO_ID, CHECKED | (old.flags & WROTE if old is not None else 0))
    if max(tree.times) >= began_ns:
        return NO_KEY
    rows.update(seen)
    return key


def _known(
    attachment: Attachment,
    directory: str | os.PathLike[str],
    store: os.stat_result,
    key: bytes,
    workers: int | None,
) -> MaterializeMetrics | None:
    """Is the directory as an earlier materialize of this state with these options left it? Else None."""
    try:
        fd = open_directory(directory, make=False)
    except OSError:
        return None
    try:
        place = os.path.realpath(directory)
        tree = Worktree(attachment.paths, place, os.fstat(fd), writable=False)
        if tree.key.name != key:
            return None
        files = Files(fd, place, store, workers)
        with locked(fd, place, shared=True):
            same = files.is_as(tree, key)
        return MaterializeMetrics(0, 0, tree.key.entries) if same else None
    finally:
        os.close(fd)


def materialize(
    attachment: Attachment,
    root: bytes,
    scan: Scan,
    directory: str | os.PathLike[str],
    *,
    prefix: str,
    include: Sequence[str],
    exclude: Sequence[str],
    clean: bool,
    links: str,
    workers: int | None,
    progress: Progress | None,
    allow_case_clashes: bool,
) -> MaterializeMetrics:
    """See ``Snapshot.materialize``. ``scan``: begins a walk over what is below the prefix, by paths without it."""
    if links not in _LINKS:
        raise ValueError(f"links is one of {', '.join(_LINKS)}; not {links!r}")
    globs = Globs(include, exclude)
    if not isinstance(directory, str | os.PathLike):
        raise TypeError(f"a directory is a str or a path, not {type(directory).__name__}")
    store = store_status(attachment, os.fspath(directory))
    key = key_of("materialize", root, prefix, include, exclude, bool(clean), bool(allow_case_clashes))
    known = _known(attachment, directory, store, key, workers)
    if known is not None:
        return known
    wanted = wanted_of(attachment, root, prefix, globs, allow_case_clashes=allow_case_clashes)
    fd = open_directory(directory, make=True)
    try:
        place = os.path.realpath(directory)
        files = Files(fd, place, store, workers)
        with locked(fd, place, shared=False):
            began = now_ns()
            tree = Worktree(attachment.paths, place, os.fstat(fd), writable=not attachment.readonly)
            work = _Work(
                attachment, files, tree, globs, wanted, clean, _LINKS[links], progress, began, key, scan
            )
            return work.run()
    finally:
        os.close(fd)
