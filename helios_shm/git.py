"""Git: a repository's history into commits of a branch, and a branch into commits of a repository.

    import   git commit (parents first) -> commit:  its tree as the state, its message, its committer's time,
             metadata {"git": {...}}                all that is needed to write the very same commit object again
    export   commit -> git commit:                  the state as a tree; what came from git gets its own id back

    tree of the commit before --- differs in ---> tree      state before --- differs in ---> state
           equal ids: a subtree is not looked at                 equal ids: a node is not looked at

metadata["git"], what an import writes:

    id, tree, parents    hexadecimal ids           author, committer    "Name <email> seconds +hhmm"
    headers              [[name, text], ...]       what else the commit object says: encoding, gpgsig, mergetag
    raw                  the whole object (zlib, base64), where the above and the message do not make it, byte for byte
    modes                {path: mode} of what the commit changed, where the mode is not what we would write (100664)
    submodules           {path: id or null} of what the commit changed, if submodules="record"
    run                  [ids of the ref at the import before and at this one]; the last commit of an import has none

Invariants:
- A commit of the branch is one commit of git, parents before children; a branch that is imported again goes on where
  its newest commit came from. An import that died goes on as well: `run` tells which commits are there already.
- The cost of a commit is that of its differences from the commit before it, in both directions.
- Nothing is believed: an object is written under the id that its bytes have, and metadata that do not rebuild to their
  id are a commit like any other.
- What an export wrote is noted in the repository, in a blob that refs/helios-shm/STORE/BRANCH names: {incarnation,
  serial, commit, identity, other ids}. It is a shortcut: without it the whole branch is written again, to the same ids.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from . import config, hashing
from ._capi import hot, lib
from .attachment import empty_root
from .branch import Branch, HeadMoved
from .commit import Commit
from .errors import ConflictError, CorruptError, NotFoundError
from .gitpack import ObjectKind, PackWriter, object_id
from .mapping import EVERYTHING
from .record import RecordHead, record_head
from .snapshot import Snapshot, make_snapshot
from .types import JSON, Kind
from .workspace import Said, edited, read_only_error

Progress: TypeAlias = Callable[[int, int], object]
Entry: TypeAlias = tuple[bytes, bytes]  # mode as the tree writes it, id
Entries: TypeAlias = dict[bytes, Entry]

IDENTITY = ("helios-shm", "helios-shm@localhost")
_TREE, _GITLINK, _SYMLINK = b"40000", b"160000", b"120000"
_MODES: dict[Kind, bytes] = {"file": b"100644", "executable": b"100755", "symlink": _SYMLINK}
_ID = re.compile(r"[0-9a-f]{40}\Z")
_PERSON = re.compile(r"[^<>\n\0]*<[^<>\n\0]*>\Z")
_SIGNATURE = re.compile(r"[^<>\n\0]*<[^<>\n\0]*> \d{1,18} [+-]\d{4}\Z")
_ENTRY = re.compile(rb"([0-7]+) ([^\0]*)\0(.{20})", re.DOTALL)
_ENTRY_BYTES = 22  # of an entry, beside mode and name
# Characters that some file systems do not see in a name: with one of them inside, ".git" would still be that directory.
_UNSEEN = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
_ADDED, _REMOVED = 0, 2  # Snapshot._diff_batches
_TREES_CACHED = 512
_PACKED_MIN = 100  # git's own transfer.unpackLimit
_OBJECT_BYTES_MAX = 64 << 20  # of a commit object in metadata
_NS = 1_000_000_000
_TIME_NS_MAX = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class GitImport:
    """What an import did: the commits that it made, the newest commit of the branch (None: neither has any), and the
    git commit that this is."""

    commits: int
    head: Commit | None
    id: str


@dataclass(frozen=True, slots=True)
class GitExport:
    """What an export did: the commits that it wrote, how many of those that came from git could not keep their ids,
    and the full name of the ref with the id that it has now."""

    commits: int
    changed_ids: int
    ref: str
    id: str


# --- the repository ---


def _pygit2() -> Any:
    try:
        import pygit2
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'git repositories need the package pygit2: pip install "helios-shm[git]"', name=error.name
        ) from None
    return pygit2


class _Repository:
    """A git repository as bytes of objects by id."""

    def __init__(self, path: str | os.PathLike[str], *, create: bool = False) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"a repository's path is a str or a path, not {type(path).__name__}")
        self.path = os.fspath(path)
        self.git = _pygit2()
        try:
            if create and not os.path.exists(self.path):
                self.git.init_repository(self.path, bare=True)
            self.repository = self.git.Repository(self.path)
        except self.git.GitError as error:
            raise NotFoundError(f"there is no git repository at {self.path}: {error}") from None
        self.tree = functools.lru_cache(_TREES_CACHED)(self._tree)
        self.pack = PackWriter(self._objects() / "pack")

    def _objects(self) -> Path:
        """Where its objects are; a linked work tree's are the main one's."""
        place = Path(self.repository.path)
        common = place / "commondir"
        return (place / common.read_text().strip() if common.exists() else place) / "objects"

    def read(self, id: bytes, kind: int, what: str) -> bytes:
        """The bytes of an object. NotFoundError, CorruptError."""
        if id in self.pack:
            return self.pack.read(id)[1]
        try:
            found, data = self.repository.read(self.git.Oid(raw=id))
        except KeyError:
            raise NotFoundError(
                f"the git repository {self.path} has no {what} {id.hex()}: is it a partial clone?"
            ) from None
        except self.git.GitError as error:
            raise CorruptError(f"{what} {id.hex()} of the git repository {self.path}: {error}") from None
        if found != kind:
            raise CorruptError(f"object {id.hex()} of the git repository {self.path} is no {what}")
        return bytes(data)

    def commit(self, id: bytes) -> bytes:
        return self.read(id, self.git.enums.ObjectType.COMMIT, "commit")

    def blob(self, id: bytes) -> bytes:
        return self.read(id, self.git.enums.ObjectType.BLOB, "blob")

    def _tree(self, id: bytes) -> Entries:
        return _parse_tree(self.read(id, self.git.enums.ObjectType.TREE, "tree"), id)

    def tree_of(self, commit: bytes) -> bytes:
        """The id of a commit's tree."""
        return _header_id(self.commit(commit), commit)

    def has_commit(self, id: str) -> bool:
        found = self.repository.get(self.git.Oid(hex=id))
        return found is not None and found.type == self.git.enums.ObjectType.COMMIT

    def write(self, kind: ObjectKind, data: bytes) -> bytes:
        """Put an object that is not there yet into a pack, which nobody sees before ``flush``."""
        id = object_id(kind, data)
        if id not in self.pack and not self.repository.odb.exists(self.git.Oid(raw=id)):
            self.pack.add(id, kind, data)
        return id

    def flush(self) -> None:
        """Have everything that was written in the repository: as a pack, or, if it is little, object by object, as git
        does with what it receives."""
        with self.pack as pack:
            if len(pack) >= _PACKED_MIN:
                pack.finish()
            else:
                for kind, data in map(pack.read, pack.places):
                    self.repository.write(self.git.enums.ObjectType[kind.upper()], data)
        self.pack = PackWriter(pack.directory)

    def target(self, ref: str) -> bytes:
        """The commit that a name means. NotFoundError."""
        if not isinstance(ref, str):
            raise TypeError(f"a ref is a str, not {type(ref).__name__}")
        try:
            found = self.repository.revparse_single(ref).peel(self.git.Commit)
        except (KeyError, ValueError, self.git.GitError):
            raise NotFoundError(f"the git repository {self.path} has no commit {ref!r}") from None
        return bytes(found.id.raw)

    def history(self, newest: bytes, without: bytes | None) -> list[bytes]:
        """The commits that can be reached from one and not from the other, parents first."""
        mode = self.git.enums.SortMode
        walk = self.repository.walk(self.git.Oid(raw=newest), mode.TOPOLOGICAL | mode.REVERSE)
        if without is not None:
            walk.hide(self.git.Oid(raw=without))
        try:
            return [bytes(commit.id.raw) for commit in walk]
        except (KeyError, self.git.GitError) as error:
            raise CorruptError(
                f"the history of {newest.hex()} in the git repository {self.path} is not whole: {error}"
            ) from None

    def follows(self, newer: bytes, older: bytes) -> bool:
        """Is one the other, or later in its history?"""
        return newer == older or (
            self.has_commit(older.hex())
            and bool(self.repository.descendant_of(self.git.Oid(raw=newer), self.git.Oid(raw=older)))
        )


def _parse_tree(data: bytes, id: bytes) -> Entries:
    """The entries of a tree object. CorruptError unless they are all that there is."""
    found = _ENTRY.findall(data)
    entries = {name: (mode, entry) for mode, name, entry in found}
    size = sum(map(len, entries)) + sum(len(mode) for mode, _, _ in found) + _ENTRY_BYTES * len(found)
    if len(entries) != len(found) or size != len(data):
        raise CorruptError(f"git's tree {id.hex()} is damaged")
    return entries


def _tree_bytes(entries: Entries) -> bytes:
    """A tree object: by name, a directory's ending in '/'."""

    def place(item: tuple[bytes, Entry]) -> bytes:
        return item[0] + b"/" if _is_tree(item[1]) else item[0]

    ordered = sorted(entries.items(), key=place)
    return b"".join(b"%b %b\0%b" % (mode, name, id) for name, (mode, id) in ordered)


def _is_tree(entry: Entry | None) -> bool:
    return entry is not None and entry[0].lstrip(b"0") == _TREE


def _header_id(raw: bytes, commit: bytes) -> bytes:
    """The tree that a commit object names."""
    line = raw[:45]
    if not line.startswith(b"tree ") or not _ID.match(line[5:].decode("latin-1")):
        raise CorruptError(f"git's commit {commit.hex()} names no tree")
    return bytes.fromhex(line[5:].decode())


def _shown(path: bytes) -> str:
    return repr(path.decode("utf-8", "backslashreplace"))


def _check_name(name: bytes, entry: Entry | None, path: bytes) -> None:
    """ValueError for a name that no tree may have: it would be written outside of a checkout, or into .git."""
    try:
        text = _UNSEEN.sub("", name.decode()).casefold()
    except UnicodeDecodeError:
        raise ValueError(f"path {_shown(path)} is no UTF-8") from None
    if not name or b"/" in name or b"\0" in name or name in (b".", b".."):
        raise ValueError(f"path {_shown(path)} has a part that is no name")
    plain = text.split(":")[0].rstrip(" .")
    if plain in (".git", "git~1") or (plain == ".gitmodules" and entry is not None and entry[0] == _SYMLINK):
        raise ValueError(f"path {_shown(path)} would be git's own when it is checked out")


# --- import: differences of trees ---

Change: TypeAlias = tuple[bytes, Entry | None, Entry | None]


def _changes(
    repository: _Repository, old: bytes | None, new: bytes | None, prefix: bytes
) -> Iterator[Change]:
    """(path, old, new) of all that differs between two trees and is no tree itself; None: nothing."""
    if old == new:
        return
    before = {} if old is None else repository.tree(old)
    after = {} if new is None else repository.tree(new)
    for name in sorted({name for name, _ in before.items() ^ after.items()}):
        was, now = before.get(name), after.get(name)
        path = prefix + name
        if now is not None:
            _check_name(name, now, path)
            if len(path) > config.KEY_BYTES_MAX:
                raise ValueError(f"path {_shown(path)} has more than {config.KEY_BYTES_MAX} bytes")
        below = [entry[1] if entry is not None and _is_tree(entry) else None for entry in (was, now)]
        if below != [None, None]:
            yield from _changes(repository, below[0], below[1], path + b"/")
        leaf_was, leaf_now = None if below[0] else was, None if below[1] else now
        if leaf_was != leaf_now:
            yield path, leaf_was, leaf_now


def _kind(mode: bytes, path: bytes) -> Kind:
    """What a mode of git's means. ValueError."""
    number = int(mode, 8)
    if number & 0o170000 == 0o120000:
        return "symlink"
    if number & 0o170000 == 0o100000:
        return "executable" if number & 0o100 else "file"
    raise ValueError(f"path {_shown(path)} has the mode {mode.decode()}, which is no file's")


class _Edits:
    """The edits that make one tree's state into another's, and what of the trees no state can hold."""

    def __init__(self, repository: _Repository, record_submodules: bool) -> None:
        self.repository, self.record_submodules = repository, record_submodules
        self.modes: dict[str, str] = {}
        self.submodules: dict[str, str | None] = {}

    def between(self, old: bytes | None, new: bytes | None) -> Iterator[tuple[str, Kind, bytes | None]]:
        for path, was, now in _changes(self.repository, old, new, b""):
            text = path.decode()
            was_link, now_link = (entry is not None and entry[0] == _GITLINK for entry in (was, now))
            if was_link or now_link:
                self._note_submodule(text, now if now_link else None)
            was, now = None if was_link else was, None if now_link else now
            if now is None:
                if was is not None:
                    yield text, "file", None
                continue
            kind = _kind(now[0], path)
            known = (_MODES[kind], None if was is None else _MODES[_kind(was[0], path)])
            if now[0] != known[0] or (was is not None and was[0] != known[1]):
                self.modes[text] = now[0].decode()
            yield text, kind, self.repository.blob(now[1])

    def _note_submodule(self, path: str, entry: Entry | None) -> None:
        if entry is not None and not self.record_submodules:
            raise ValueError(
                f'path {path!r} is a submodule, which no state can hold; submodules="record" leaves it out of the '
                "state and notes it in the commit's metadata"
            )
        self.submodules[path] = None if entry is None else entry[1].hex()

    def noted(self) -> dict[str, JSON]:
        found: dict[str, JSON] = {"modes": self.modes, "submodules": self.submodules}
        return {name: value for name, value in found.items() if value}


# --- import: what a commit object says ---


@dataclass(slots=True)
class _Said:
    """A git commit as a commit of ours says it."""

    git: dict[str, JSON]
    message: str
    time_ns: int
    tree: bytes
    parents: list[bytes]


def _object_bytes(git: Mapping[str, JSON], message: str) -> bytes:
    """The commit object that metadata and message stand for."""
    lines = [f"tree {git['tree']}", *(f"parent {parent}" for parent in git["parents"])]
    lines += [f"author {git['author']}", f"committer {git['committer']}"]
    lines += [f"{name} {text}".replace("\n", "\n ") for name, text in git.get("headers", ())]
    return ("\n".join(lines) + "\n\n" + message).encode()


def _headers(raw: bytes) -> tuple[list[tuple[str, str]], bytes]:
    """(name, text) of each header, continued lines joined; and the message."""
    head, _, message = raw.partition(b"\n\n")
    found: list[tuple[str, str]] = []
    for line in head.decode("utf-8", "replace").split("\n"):
        if line.startswith(" ") and found:
            found[-1] = (found[-1][0], found[-1][1] + "\n" + line[1:])
        else:
            name, _, text = line.partition(" ")
            found.append((name, text))
    return found, message


def _message_text(message: bytes, encoding: str) -> str:
    """The message as text, of at most as many bytes as a record holds."""
    for name in ("utf-8", encoding, "latin-1"):
        try:
            text = message.decode(name)
            break
        except (UnicodeDecodeError, LookupError, ValueError):
            continue
    return text.encode()[: config.MESSAGE_BYTES_MAX].decode("utf-8", "ignore")


def _said(id: bytes, raw: bytes) -> _Said:
    """What our commit says of a git commit."""
    headers, message = _headers(raw)
    tree = _header_id(raw, id)
    once = dict(reversed(headers))
    parents = [text for name, text in headers if name == "parent" and _ID.match(text)]
    git: dict[str, JSON] = {"id": id.hex(), "tree": tree.hex(), "parents": parents}
    git |= {name: once.get(name, "") for name in ("author", "committer")}
    named = ("tree", "parent", "author", "committer")
    if more := [[name, text] for name, text in headers if name not in named]:
        git["headers"] = more
    text = _message_text(message, once.get("encoding", "utf-8"))
    if _object_bytes(git, text) != raw:
        git.pop("headers", None)
        git["raw"] = base64.b64encode(zlib.compress(raw, 9)).decode()
    return _Said(git, text, _time_ns(git["committer"]), tree, [bytes.fromhex(each) for each in parents])


def _time_ns(committer: str) -> int:
    seconds = re.search(r"> (-?\d{1,18})\b", committer)
    nanoseconds = int(seconds[1]) * _NS if seconds else 0
    return max(-_TIME_NS_MAX, min(nanoseconds, _TIME_NS_MAX))


# --- import ---


@dataclass(slots=True)
class _Start:
    """Where an import goes on: the branch's head, and what of git's history it stands for."""

    head: Commit | None
    tree: bytes | None  # git's tree of the head
    since: bytes | None  # all that can be reached from here is there
    done: set[bytes] = field(default_factory=set)  # and these
    tip: bytes | None = None  # what the import before went for


def import_repository(
    branch: Branch,
    repository: str | os.PathLike[str],
    *,
    ref: str = "HEAD",
    submodules: Literal["refuse", "record"] = "refuse",
    progress: Progress | None = None,
) -> GitImport:
    """Bring a git repository's history to a branch: one commit for each that can be reached from ``ref`` and is not
    there yet, parents first, with git's message, the committer's time, the tree as its state, and the state of git's
    second parent as its own.

    repository: the repository, or a directory with a work tree. ref: ``HEAD``, a branch, tag or id.
    submodules: ``refuse`` them; or ``record`` them in the commit's metadata, for an export to put them back.
    progress: is called with (commits done, commits to do) after each.

    A branch that was imported before goes on where it stopped. Raises NotFoundError (no repository, ref or object),
    ConflictError (the branch has commits of its own, or ``ref`` has left the history that was imported), CorruptError
    (a damaged object), ValueError naming commit and path (a name that is no UTF-8, has more than 1024 bytes, or would
    leave the tree; a submodule), ReadOnlyError. What was brought up to then stays, and the next import goes on there.
    Cost: what differs between each commit and the one before it; memory for 64 MiB of values and for one object.
    """
    if submodules not in ("refuse", "record"):
        raise ValueError(f"submodules is 'refuse' or 'record', not {submodules!r}")
    if branch._attachment.readonly:
        raise read_only_error(branch._attachment)
    source = _Repository(repository)
    tip = source.target(ref)
    start = _where(branch, source)
    if start.tip is not None and not source.follows(tip, start.tip):
        raise ConflictError(
            f"branch {branch.name!r} was imported up to git's commit {start.tip.hex()}, which is not in the history of "
            f"{ref!r} of {source.path}; import into another branch"
        )
    todo = [id for id in source.history(tip, start.since) if id not in start.done]
    importer = _Importer(branch, source, start, submodules == "record", tip)
    for done, id in enumerate(todo, 1):
        try:
            importer.bring(id, last=done == len(todo))
        except ValueError as error:
            raise ValueError(f"git's commit {id.hex()} of {source.path}: {error}") from None
        except HeadMoved:
            raise ConflictError(
                f"branch {branch.name!r} was changed by somebody else during the import; run it again"
            ) from None
        if progress is not None:
            progress(done, len(todo))
    return GitImport(len(todo), importer.head, tip.hex())


def _where(branch: Branch, source: _Repository) -> _Start:
    """How much of git's history a branch has: its newest commit says so."""
    if branch._live_record() is None:
        return _Start(None, None, None)
    head, done = None, set()
    since: bytes | None = None
    for record, _ in branch._records():
        commit = hot.make_commit(record, branch._attachment)
        git = _git_of(commit)
        if head is None:
            if git is None:
                return _where_exported(branch, source, commit)
            head, newest = commit, git
            since, tip = _run_of(git)
            if since == tip:  # whole
                return _Start(head, bytes.fromhex(git["tree"]), since, set(), tip)
        elif git is None or "run" not in git or _run_of(git)[0] != since:
            break
        done.add(bytes.fromhex(git["id"]))
    return _Start(head, bytes.fromhex(newest["tree"]), since, done, tip)


def _run_of(git: Mapping[str, JSON]) -> tuple[bytes | None, bytes]:
    """What the import that brought this commit began and would have ended with: both the commit itself at its end."""
    id = bytes.fromhex(git["id"])
    since, tip = git.get("run", (git["id"], git["id"]))
    return (bytes.fromhex(since) if since else None), bytes.fromhex(tip) if tip else id


def _where_exported(branch: Branch, source: _Repository, commit: Commit) -> _Start:
    """The head is a commit of our own: this repository has it if all was exported to it."""
    note = _Note.read(branch, source)
    head = record_head(commit._record)
    if note is None or (note.serial, note.incarnation) != (head.serial, head.incarnation):
        raise ConflictError(
            f"branch {branch.name!r} has commits that are not in the git repository {source.path}; export them "
            "first, or import into another branch and merge"
        )
    id = bytes.fromhex(note.commit)
    return _Start(commit, source.tree_of(id), id, set(), id)


def _git_of(commit: Commit) -> Mapping[str, JSON] | None:
    """metadata["git"] of a commit, if it is what an import writes."""
    git = commit.metadata.get("git")
    if not isinstance(git, dict) or not isinstance(git.get("parents"), list):
        return None
    ids = [git.get("id"), git.get("tree"), *git["parents"]]
    if not all(isinstance(id, str) and _ID.match(id) for id in ids):
        return None
    texts = [git.get("author"), git.get("committer")]
    run = git.get("run")
    fits = run is None or (
        isinstance(run, list)
        and len(run) == 2
        and all(each is None or (isinstance(each, str) and _ID.match(each)) for each in run)
        and run[1] is not None
    )
    return git if fits and all(isinstance(text, str) for text in texts) else None


class _Importer:
    """Brings one commit after the other."""

    def __init__(
        self, branch: Branch, source: _Repository, start: _Start, record_submodules: bool, tip: bytes
    ) -> None:
        self.branch, self.source, self.record_submodules = branch, source, record_submodules
        self.head, self.tree = start.head, start.tree
        self.states: dict[bytes, Snapshot] = {}  # of git's commits
        self.run = [start.since.hex() if start.since else None, tip.hex()]

    def bring(self, id: bytes, *, last: bool) -> None:
        said = _said(id, self.source.commit(id))
        edits = _Edits(self.source, self.record_submodules)
        snapshot = edited(self._snapshot(), edits.between(self.tree, said.tree))
        said.git |= edits.noted()
        if not last:
            said.git["run"] = self.run
        second = self._second(said, snapshot)
        self._advance(snapshot, Said(said.message, {"git": said.git}, second=second, time_ns=said.time_ns))
        self.tree = said.tree
        self.states[id] = snapshot

    def _snapshot(self) -> Snapshot:
        return (
            make_snapshot(self.branch._attachment, empty_root()) if self.head is None else self.head.snapshot
        )

    def _second(self, said: _Said, snapshot: Snapshot) -> Snapshot | None:
        """The state of git's second parent. A state is what its content says: it need not be looked for."""
        if len(said.parents) < 2:
            return None
        parent = said.parents[1]
        if parent in self.states:
            return self.states[parent]
        if not self.source.has_commit(parent.hex()):  # cut off: a shallow clone
            return None
        edits = _Edits(self.source, True)
        return edited(snapshot, edits.between(said.tree, self.source.tree_of(parent)))

    def _advance(self, snapshot: Snapshot, said: Said) -> None:
        if self.head is None:
            self.head = self.branch._move(lib.HS_MOVE_CREATE, snapshot, None, said)
            return
        said.expected_serial = record_head(self.head._record).serial
        self.head = self.branch._move(lib.HS_MOVE_COMPARE, snapshot, self.head.snapshot, said)


# --- export: differences of states, as changes of trees ---

TreeChange: TypeAlias = tuple[bytes, Entry | None]


class _Trees:
    """States as trees of a repository."""

    def __init__(self, target: _Repository) -> None:
        self.target = target

    def changes(self, old: Snapshot, new: Snapshot, prefix: str = "") -> Iterator[TreeChange]:
        """What becomes of each path of a tree when a state changes: its entry, or None. Nested states are directories,
        and our empty directories nothing."""
        if old == new:
            return
        for forms, paths in old._diff_batches(new, EVERYTHING):
            for form, path in zip(forms, paths, strict=True):
                was = None if form == _ADDED else _held(old, path)
                now = None if form == _REMOVED else _held(new, path)
                yield from self._change(was, now, prefix + path)

    def _change(self, was: _Held | None, now: _Held | None, path: str) -> Iterator[TreeChange]:
        before, after = (None if held is None else held.nested for held in (was, now))
        one = after if before is None else before
        key = path.encode()
        if was is not None and was.mode is not None and (now is None or now.mode is None):
            yield key, None
        if one is not None:
            nothing = make_snapshot(one._attachment, empty_root())
            yield from self.changes(
                nothing if before is None else before, nothing if after is None else after, path + "/"
            )
        if now is not None and now.mode is not None:
            yield key, self.entry(now, path)

    def entry(self, held: _Held, path: str, mode: bytes | None = None) -> Entry:
        """Write a value as a blob."""
        entry = (mode or held.mode or b"", self.target.write("blob", held.snapshot[held.path]))
        parts = path.encode().split(b"/")
        for part in parts:
            _check_name(part, entry if part is parts[-1] else None, path.encode())
        return entry

    def noted(
        self, git: Mapping[str, JSON], state: Snapshot, changed: Mapping[bytes, Entry | None]
    ) -> Iterator[TreeChange]:
        """What an import noted of a commit because its state cannot say it."""
        for path, mode in _texts(git, "modes"):
            held = _held(state, path) if path in state else None
            if (
                held is not None
                and held.mode is not None
                and mode is not None
                and re.match(r"100[0-7]{3}\Z", mode)
            ):
                yield path.encode(), self.entry(held, path, mode.encode())
        for path, id in _texts(git, "submodules"):
            key = path.encode()
            for part in key.split(b"/"):
                _check_name(part, None, key)
            if id is not None and _ID.match(id):
                yield key, (_GITLINK, bytes.fromhex(id))
            elif changed.get(key) is None:
                yield key, None

    def updated(self, tree: bytes | None, changes: Iterable[TreeChange], prefix: bytes = b"") -> bytes | None:
        """A tree with changes, written; None: it is empty. Only trees on the way to a change are read."""
        entries = {} if tree is None else dict(self.target.tree(tree))
        here: Entries = {}
        below: dict[bytes, list[TreeChange]] = {}
        for path, entry in changes:
            name, slash, rest = path.partition(b"/")
            if slash:
                below.setdefault(name, []).append((rest, entry))
            elif entry is not None:
                here[name] = entry
            elif not _is_tree(entries.get(name)):
                entries.pop(name, None)
        for name, inner in below.items():
            self._update_below(entries, name, inner, prefix)
        for name, entry in here.items():
            if _is_tree(entries.get(name)):
                raise _both(prefix + name)
            entries[name] = entry
        return self.target.write("tree", _tree_bytes(entries)) if entries else None

    def _update_below(self, entries: Entries, name: bytes, inner: list[TreeChange], prefix: bytes) -> None:
        was = entries.get(name)
        if was is not None and not _is_tree(was):
            if all(entry is None for _, entry in inner):
                return
            raise _both(prefix + name)
        made = self.updated(None if was is None else was[1], inner, prefix + name + b"/")
        if made is None:
            entries.pop(name, None)
        else:
            entries[name] = (_TREE, made)


@dataclass(frozen=True, slots=True)
class _Held:
    """What a state has at a path: a mode, or a nested state, or neither (a directory)."""

    snapshot: Snapshot
    path: str
    mode: bytes | None
    nested: Snapshot | None


def _held(snapshot: Snapshot, path: str) -> _Held:
    kind = snapshot._stat(path).kind
    nested = make_snapshot(snapshot._attachment, snapshot[path]) if kind == "snapshot" else None
    return _Held(snapshot, path, _MODES.get(kind), nested)


def _both(path: bytes) -> ValueError:
    return ValueError(
        f"path {_shown(path)} is a file and has paths below it; git's trees can hold only one of these"
    )


def _texts(git: Mapping[str, JSON], name: str) -> Iterator[tuple[str, str | None]]:
    """The entries of a mapping in metadata, if it is one."""
    found = git.get(name)
    for path, text in found.items() if isinstance(found, dict) else ():
        if text is None or isinstance(text, str):
            yield path, text


# --- export: commit objects ---


class _Exporter:
    """Writes one commit after the other."""

    def __init__(self, target: _Repository, identity: str, note: _Note | None) -> None:
        self.target, self.identity, self.trees = target, identity, _Trees(target)
        self.commit = None if note is None else note.commit
        self.tree = None if note is None else target.tree_of(bytes.fromhex(note.commit))
        self.other_ids = {} if note is None else dict(note.other_ids)
        self.written: set[str] = set()
        self.changed_ids = 0

    def bring(self, before: Snapshot, commit: Commit) -> None:
        git = _git_of(commit)
        changed = dict(self.trees.changes(before, commit.snapshot))
        if git is not None:
            changed |= dict(self.trees.noted(git, commit.snapshot, changed))
        self.tree = self.trees.updated(self.tree, changed.items()) or self.target.write("tree", b"")
        raw = self._native(commit) if git is None else self._rebuilt(commit, git)
        self.commit = self.target.write("commit", raw).hex()
        self.written.add(self.commit)
        if git is not None and git["id"] != self.commit:
            self.other_ids[git["id"]] = self.commit
            self.changed_ids += 1

    def _rebuilt(self, commit: Commit, git: Mapping[str, JSON]) -> bytes:
        """What came from git: the object that it was, if tree and parents are what they were."""
        parents = [self.other_ids.get(id, id) for id in git["parents"] if self._is_known(id)]
        assert self.tree is not None
        if parents == git["parents"] and self.tree.hex() == git["tree"]:
            raw = _unpacked(git) if "raw" in git else _object_bytes(git, commit.message)
            if raw is not None and object_id("commit", raw).hex() == git["id"]:
                return raw
        people = [self._signed(commit, git, each) for each in ("author", "committer")]
        return _object(self.tree.hex(), parents, people, commit.message)

    def _native(self, commit: Commit) -> bytes:
        """What did not come from git: a child of the commit before it."""
        parents = [] if self.commit is None else [self.commit]
        seconds = max(0, record_head(commit._record).time_ns // _NS)
        people = [f"{self._person(commit, each)} {seconds} +0000" for each in ("author", "committer")]
        assert self.tree is not None
        return _object(self.tree.hex(), parents, people, commit.message)

    def _is_known(self, id: str) -> bool:
        return id in self.other_ids or id in self.written or self.target.has_commit(id)

    def _person(self, commit: Commit, role: str) -> str:
        named = commit.metadata.get(role)
        return named if isinstance(named, str) and _PERSON.match(named) else self.identity

    def _signed(self, commit: Commit, git: Mapping[str, JSON], role: str) -> str:
        if _SIGNATURE.match(git[role]):
            return str(git[role])
        return f"{self.identity} {max(0, record_head(commit._record).time_ns // _NS)} +0000"


def _object(tree: str, parents: list[str], people: list[str], message: str) -> bytes:
    """A commit object of our own making. Git's messages hold no NUL and end with a line's end."""
    text = message.replace("\0", "\ufffd")
    if text and not text.endswith("\n"):
        text += "\n"
    git = {"tree": tree, "parents": parents, "author": people[0], "committer": people[1]}
    return _object_bytes(git, text)


def _unpacked(git: Mapping[str, JSON]) -> bytes | None:
    """The commit object that metadata hold as a whole, if they do."""
    try:
        packed = base64.b64decode(git["raw"], validate=True)
        return zlib.decompressobj().decompress(packed, _OBJECT_BYTES_MAX)
    except (TypeError, ValueError, binascii.Error, zlib.error):
        return None


# --- export ---


@dataclass(frozen=True, slots=True)
class _Note:
    """What an export left in the repository about a branch: which commit stands for which."""

    incarnation: int
    serial: int
    root: str
    commit: str
    identity: str
    other_ids: dict[str, str]

    @staticmethod
    def ref(branch: Branch) -> str:
        name = hashing.blake3(branch.name.encode()).hex()[:32]
        return f"refs/helios-shm/{branch._attachment.uuid.hex()}/{name}"

    @classmethod
    def read(cls, branch: Branch, target: _Repository) -> _Note | None:
        """None: nothing was exported, or what is noted cannot be used."""
        found = target.repository.references.get(cls.ref(branch))
        if found is None:
            return None
        try:
            note = cls(**json.loads(target.blob(bytes(found.target.raw))))
        except (ValueError, TypeError, AttributeError, CorruptError, NotFoundError):
            return None
        return note if note._is_sound() and target.has_commit(note.commit) else None

    def _is_sound(self) -> bool:
        others = self.other_ids
        return (
            all(isinstance(each, int) for each in (self.incarnation, self.serial))
            and isinstance(others, dict)
            and all(isinstance(id, str) and _ID.match(id) for id in (self.commit, *others, *others.values()))
        )

    def to_bytes(self) -> bytes:
        return json.dumps({name: getattr(self, name) for name in self.__slots__}, sort_keys=True).encode()


def export_branch(
    branch: Branch,
    repository: str | os.PathLike[str],
    *,
    ref: str,
    identity: tuple[str, str] = IDENTITY,
    create: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> GitExport:
    """Write a branch's history to a git repository and point a ref at its end.

    What came from git is written byte for byte as it was, under the same ids (unless its parents or tree cannot be:
    then as a new commit of the same people, without its signature). Every other commit becomes a child of the one
    before it: tree, message, time in whole seconds; its people are metadata["author"] and ["committer"] ("Name
    <email>"), else ``identity``. The same history gets the same ids, whenever and wherever it is exported. Nested
    states become directories; empty directories are left out, as git has none.

    repository: the repository. create: make a bare one if nothing is there. ref: a branch, or a name from ``refs/`` on.
    force: move the ref even if that leaves commits behind. progress: is called with (commits done, commits to do).

    Raises NotFoundError (no repository, no commit on the branch), ConflictError (the ref has commits that the branch
    has not; it is checked out), ValueError naming commit and path (a path that is a file and a directory, or that no
    tree may have, such as ``..`` and ``.git``), CorruptError. Until the ref moves, nothing can be seen of it. Cost:
    what differs between each new commit and the one before it; in memory about 200 bytes for each new object.
    """
    target = _Repository(repository, create=create)
    full, name = _full_ref(ref, target), _identity_text(identity)
    branch._existing()
    note = _Note.read(branch, target)
    records, base = _new_records(branch, note if note is not None and note.identity == name else None)
    exporter = _Exporter(target, name, note if base is not None else None)
    before = make_snapshot(branch._attachment, empty_root()) if base is None else base
    head: RecordHead | None = None
    with target.pack:
        for done, record in enumerate(records, 1):
            commit = hot.make_commit(record, branch._attachment)
            head = record_head(record)
            try:
                exporter.bring(before, commit)
            except ValueError as error:
                raise ValueError(f"commit {head.sequence} of branch {branch.name!r}: {error}") from None
            before = commit.snapshot
            if progress is not None:
                progress(done, len(records))
        assert exporter.commit is not None
        target.flush()
    _move_ref(target, full, exporter.commit, force)
    if head is not None:
        made = _Note(
            head.incarnation, head.serial, head.root.hex(), exporter.commit, name, exporter.other_ids
        )
        blob = target.write("blob", made.to_bytes())
        target.flush()
        target.repository.references.create(_Note.ref(branch), target.git.Oid(raw=blob), force=True)
    return GitExport(len(records), exporter.changed_ids, full, exporter.commit)


def _identity_text(identity: tuple[str, str]) -> str:
    text = f"{identity[0]} <{identity[1]}>"
    if not _PERSON.match(text) or not text.isprintable():
        raise ValueError(f"an identity is a name and an address without '<' and '>', not {identity!r}")
    return text


def _new_records(branch: Branch, note: _Note | None) -> tuple[list[bytes], Snapshot | None]:
    """The branch's commits since a note, oldest first, and the state that the note is about; without one, all."""
    records: list[bytes] = []
    for record, head in branch._records():
        if note is not None and (head.serial, head.incarnation, head.root.hex()) == (
            note.serial, note.incarnation, note.root,
        ):  # fmt: skip
            return records[::-1], make_snapshot(branch._attachment, head.root)
        records.append(record)
    return records[::-1], None


def _full_ref(ref: str, target: _Repository) -> str:
    """The full name of a ref that may be written."""
    if not isinstance(ref, str):
        raise TypeError(f"a ref is a str, not {type(ref).__name__}")
    full = ref if ref.startswith("refs/") else f"refs/heads/{ref}"
    if not target.git.reference_is_valid_name(full) or full.startswith("refs/helios-shm/"):
        raise ValueError(f"{ref!r} is no name for a ref of git's")
    repository = target.repository
    if not repository.is_bare and not repository.head_is_unborn and repository.head.name == full:
        raise ConflictError(
            f"{full} is checked out in {target.path}, and its files would no longer be those of its commit; export to "
            "another ref and merge that"
        )
    return full


def _move_ref(target: _Repository, full: str, commit: str, force: bool) -> None:
    """Point a ref at a commit, if nothing is left behind."""
    try:
        with target.repository.transaction() as transaction:
            transaction.lock_ref(full)
            found = target.repository.references.get(full)
            if found is not None and not force:
                older = bytes(found.resolve().target.raw)
                if not target.follows(bytes.fromhex(commit), older):
                    raise ConflictError(
                        f"{full} of {target.path} is at {older.hex()}, which is not in the history of the "
                        "branch; import it, export to another ref, or force it"
                    )
            transaction.set_target(full, target.git.Oid(hex=commit), message="helios-shm: export")
    except target.git.GitError as error:
        raise ConflictError(f"{full} of {target.path} cannot be moved now: {error}") from None
