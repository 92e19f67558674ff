"""Bundles: states, with their history, as one file that another store can take in.

    header    what the receiver must have, and what it gets: branches, tags, states
    body      STATE   the edits that make one state out of another     COMMIT  a commit of one of the branches
    end       how much there was, and the BLAKE3 of everything before

Each value stands in the file once, where it is needed first; later edits say where. Edits are made to a state that came
before in the file or that the receiver must have: so a bundle holds what the other side lacks.

An import looks at the file three times: its hash; its form, every length, id and reference; then it builds the states,
by the same commits as anybody's, and compares each with the id that the bundle says. Only when all of them are there
does a branch move. So a bundle can bring states, but none under another's name; and whatever is wrong with it is said
before anything can be seen of it.

docs/FORMAT.md has the bytes. Nothing here knows a file by more than its path; remotes can be built on the same stream.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from typing_extensions import Buffer

from . import codec, config, hashing
from ._capi import hot, lib
from .attachment import empty_root
from .branch import Branch, HeadMoved
from .commit import Commit
from .engine import Engine
from .errors import ConflictError, CorruptError, ExistsError, FormatError, NotFoundError
from .mapping import EVERYTHING
from .record import HAS_SECOND, RECORD, RESTORED, RecordHead, record_head
from .snapshot import Snapshot, make_snapshot
from .types import KINDS, Kind
from .workspace import Said, edited, read_only_error

MAGIC = b"HLBUNDLE"
VERSION = 1
_HEADER = struct.Struct("<8sIIII")  # magic, version, states to have, refs, 0
_REF = struct.Struct("<BBHIQ32s32s")  # kind, 0, name size, 0, commits, root, key of the commit before
_STATE = struct.Struct("<32s32s")  # base, root
_EDIT = struct.Struct("<BBH")  # operation, kind, key size
_VALUE = struct.Struct("<Q32s")  # size, id
_SAME = struct.Struct("<QQ32s")  # where the value stands, size, id
_COMMIT = struct.Struct(
    "<BHIIIqQ32s32s"
)  # flags, 0, ref, message size, metadata size, time, sequence, root, second
_END = struct.Struct("<QQQ")  # states, commits, values
_BLOCK = struct.Struct("<I")  # stored size; the highest bit: not compressed

_TAG_STATE, _TAG_COMMIT, _TAG_END = 1, 2, 3
_REMOVE, _INLINE, _NEW, _AGAIN, _LAST = 0, 1, 2, 3, 255
_BRANCH, _TAG, _BARE = 1, 2, 3
_SECOND, _RESTORED = 1, 2
_RAW_BLOCK = 1 << 31
_REMOVED = 2  # Snapshot._diff_batches
_INLINE_BYTES_MAX = 64
_BLOCK_BYTES = 128 << 10
_REFS_MAX = 1 << 20
_NOTHING = bytes(32)
_COPY_BYTES = 1 << 20

RefKind: TypeAlias = Literal["branch", "tag", "state"]
_REF_KINDS: dict[int, RefKind] = {_BRANCH: "branch", _TAG: "tag", _BARE: "state"}


@dataclass(frozen=True, slots=True)
class BundleRef:
    """What a bundle brings: a branch with so many commits, a tag, or a state without a name. ``id`` is its (newest)
    state; ``after`` says which commit must be there already for a branch to grow by these."""

    kind: RefKind
    name: str
    id: str
    commits: int
    after: str | None


@dataclass(frozen=True, slots=True)
class BundleInfo:
    """What is in a bundle. ``needs``: ids of states that the receiver must have. Sizes in bytes."""

    refs: tuple[BundleRef, ...]
    needs: tuple[str, ...]
    states: int
    commits: int
    values: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class BundleImport:
    """What an import did: the newest commit of each branch in the bundle by the name it has here, how many commits were
    made, tags, and the states without a name (nothing but this object keeps those)."""

    branches: Mapping[str, Commit]
    commits: int
    tags: Mapping[str, Snapshot]
    snapshots: tuple[Snapshot, ...]


def _key_of(root: bytes, second: bytes, time_ns: int, message: bytes, metadata: bytes) -> bytes:
    """What a commit says, in 32 bytes: equal in every store that has it."""
    fields = struct.pack("<32s32sqQ", root, second, time_ns, len(message))
    return hashing.blake3(fields + message + metadata)


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What a bundle says of a commit record."""

    head: RecordHead
    flags: int
    second: bytes
    message: bytes
    metadata: bytes

    @classmethod
    def of(cls, record: bytes) -> _Recorded:
        fields = RECORD.unpack_from(record)
        flags, name_size, message_size = fields[2], fields[3], fields[5]
        message_at = RECORD.size + name_size
        metadata_at = message_at + message_size
        return cls(
            record_head(record),
            (_SECOND if flags & HAS_SECOND else 0) | (_RESTORED if flags & RESTORED else 0),
            fields[21] if flags & HAS_SECOND else _NOTHING,
            record[message_at:metadata_at],
            record[metadata_at : metadata_at + fields[6]],
        )

    @property
    def key(self) -> bytes:
        return _key_of(self.head.root, self.second, self.head.time_ns, self.message, self.metadata)


# --- writing ---


@dataclass(slots=True)
class _Ref:
    kind: int
    name: str
    root: bytes
    records: list[bytes] = field(default_factory=list)
    after: bytes = _NOTHING
    base: bytes | None = None  # the state before the first of the records


class _Writer:
    """Writes a bundle's bytes; remembers where each value stands."""

    def __init__(self, file: io.BufferedWriter, engine: Engine) -> None:
        self.file, self.attachment = file, engine._live()
        self.hasher = hashing.hasher()
        self.at = 0
        self.known: set[bytes] = {empty_root()}
        self.values: dict[bytes, int] = {}
        self.states = self.commits = 0

    def put(self, data: Buffer) -> None:
        self.file.write(data)
        self.hasher.update(data)
        self.at += memoryview(data).nbytes

    def header(self, have: Iterable[bytes], refs: list[_Ref]) -> None:
        needs = sorted(have)
        self.put(_HEADER.pack(MAGIC, VERSION, len(needs), len(refs), 0))
        for root in needs:
            self.put(root)
        self.known.update(needs)
        for ref in refs:
            name = ref.name.encode()
            self.put(_REF.pack(ref.kind, 0, len(name), 0, len(ref.records), ref.root, ref.after))
            self.put(name)

    def ref(self, number: int, ref: _Ref, near: bytes) -> None:
        """A ref's commits, oldest first, each after its state."""
        base = ref.base if ref.base is not None and ref.base in self.known else near
        for record in ref.records:
            said = _Recorded.of(record)
            self.state(base, said.head.root)
            base = said.head.root
            if said.flags & _SECOND:
                self.state(base, said.second)
            self.commit(number, said)
        self.state(base, ref.root)

    def commit(self, number: int, said: _Recorded) -> None:
        head = said.head
        sizes = (len(said.message), len(said.metadata))
        self.put(bytes([_TAG_COMMIT]))
        self.put(
            _COMMIT.pack(said.flags, 0, number, *sizes, head.time_ns, head.sequence, head.root, said.second)
        )
        self.put(said.message + said.metadata)
        self.commits += 1

    def state(self, base: bytes, root: bytes) -> None:
        """A state, if it is not there yet, after the states that are nested in it."""
        waiting = [(base, root, False)]
        while waiting:
            base, root, ready = waiting.pop()
            if root in self.known:
                continue
            nested = [] if ready else self._nested(base, root)
            if nested:
                waiting += [(base, root, True), *nested]
            else:
                self._state(base, root)

    def _changed(self, base: bytes, root: bytes) -> Iterator[tuple[Snapshot, Snapshot, str, bool]]:
        """The states themselves, each path in which they differ, and whether the new one has it."""
        old, new = make_snapshot(self.attachment, base), make_snapshot(self.attachment, root)
        for forms, paths in old._diff_batches(new, EVERYTHING):
            for form, path in zip(forms, paths, strict=True):
                yield old, new, path, form != _REMOVED

    def _nested(self, base: bytes, root: bytes) -> list[tuple[bytes, bytes, bool]]:
        """The states that are nested in one, and not there yet, each with one to describe it by."""
        return [
            (self._nested_before(old, path), new[path], False)
            for old, new, path, there in self._changed(base, root)
            if there and new._stat(path).kind == "snapshot" and new[path] not in self.known
        ]

    def _state(self, base: bytes, root: bytes) -> None:
        self.known.add(root)
        self.states += 1
        self.put(bytes([_TAG_STATE]) + _STATE.pack(base, root))
        for _, new, path, there in self._changed(base, root):
            if there:
                self._entry(new, path)
            else:
                self._edit(_REMOVE, 0, path)
        self.put(_EDIT.pack(_LAST, 0, 0))

    def _nested_before(self, old: Snapshot, path: str) -> bytes:
        """A state to describe a nested one by: the one that was there, if it is known."""
        if path in old and old._stat(path).kind == "snapshot" and old[path] in self.known:
            return old[path]
        return empty_root()

    def _edit(self, operation: int, kind: int, path: str) -> None:
        key = path.encode()
        self.put(_EDIT.pack(operation, kind, len(key)) + key)

    def _entry(self, snapshot: Snapshot, path: str) -> None:
        """An edit that sets a value."""
        stat = snapshot._stat(path)
        kind, id = KINDS.index(stat.kind), bytes.fromhex(stat.id)
        if stat.size <= _INLINE_BYTES_MAX:
            value = snapshot[path]
            self._edit(_INLINE, kind, path)
            self.put(bytes([stat.size]) + value)
        elif (at := self.values.get(id)) is not None:
            self._edit(_AGAIN, kind, path)
            self.put(_SAME.pack(at, stat.size, id))
        else:
            self._edit(_NEW, kind, path)
            self._value(id, stat.size)

    def _value(self, id: bytes, size: int) -> None:
        """A value, where it stands."""
        self.values[id] = self.at
        self.put(_VALUE.pack(size, id))
        whole = self.attachment.load_buffer(id, size)
        for begin in range(0, size, _BLOCK_BYTES):
            self._block(bytes(whole[begin : begin + _BLOCK_BYTES]))

    def _block(self, raw: bytes) -> None:
        worth_it = len(raw) >= config.LZ4_BYTES_MIN and not lib.hs_looks_random(raw, len(raw))
        stored = codec.encode_value(raw) if worth_it else None
        self.put(_BLOCK.pack(len(raw) | _RAW_BLOCK if stored is None else len(stored)))
        self.put(raw if stored is None else stored)

    def end(self) -> None:
        self.put(bytes([_TAG_END]) + _END.pack(self.states, self.commits, len(self.values)))
        self.put(self.hasher.digest())


def create_bundle(
    engine: Engine,
    file: str | os.PathLike[str],
    refs: Iterable[str | Branch | Snapshot] | None = None,
    *,
    have: Iterable[str | Snapshot | Commit] = (),
    history: bool = True,
) -> BundleInfo:
    """Write states and their history to a file, whole or not at all; one that is there is replaced.

    refs: branches, tags and snapshots, as objects or as ``engine.snapshot`` takes them; None: all branches and tags.
    have: what the receiver has, as snapshots, ids, commits, or ``main@17``: no commit up to there is written, and no
        value of these states. Ids that this store does not know are passed over.
    history: False writes the newest commit of each branch alone.

    Raises NotFoundError (a ref), TypeError, OSError. Cost: what differs between each commit and the one before it; in
    memory the records of the commits that it writes, and about 200 bytes for each value.
    """
    attachment = engine._live()
    for name, given in (("refs", refs), ("have", have)):
        if isinstance(given, str):
            raise TypeError(f"{name} is several, not one: write {name}=[{given!r}]")
    known, cuts = _had(engine, have)
    found = _all_refs(engine) if refs is None else [_ref_of(engine, ref) for ref in refs]
    for ref in found:
        if ref.kind == _BRANCH:
            _bring_records(engine, ref, known, cuts, history)
    path = Path(os.fspath(file))
    with _replacing(path) as out:
        writer = _Writer(out, engine)
        writer.header(known, found)
        near = min(known, default=empty_root())
        for number, ref in enumerate(found):
            writer.ref(number, ref, near)
            near = ref.root
        writer.end()
    assert attachment is writer.attachment
    return verify_bundle(path)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[io.BufferedWriter]:
    """A file that takes a name when it is whole and on disk."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _had(
    engine: Engine, have: Iterable[str | Snapshot | Commit]
) -> tuple[set[bytes], set[tuple[str | None, int | None]]]:
    """The roots that the receiver has, and {branch, sequence} of the commits."""
    roots: set[bytes] = set()
    cuts: set[tuple[str | None, int | None]] = set()
    for each in have:
        if isinstance(each, Commit):
            roots.add(each.snapshot._root)
            cuts.add((each.branch, each.sequence))
        elif isinstance(each, Snapshot):
            roots.add(each._root)
        else:
            try:
                roots.add(engine.snapshot(each)._root)
            except NotFoundError:
                if not _is_id(each):
                    raise
                continue
            name, _, sequence = each.partition("@")
            if sequence.isdecimal():
                cuts.add((name, int(sequence)))
    roots.discard(empty_root())
    return roots, cuts


def _is_id(text: str) -> bool:
    return len(text) == 64 and all(digit in "0123456789abcdef" for digit in text)


def _all_refs(engine: Engine) -> list[_Ref]:
    branches = [_ref_of(engine, engine.branch(name)) for name in engine.branches()]
    return branches + [_Ref(_TAG, name, snapshot._root) for name, snapshot in engine.tags().items()]


def _ref_of(engine: Engine, ref: str | Branch | Snapshot) -> _Ref:
    if isinstance(ref, Branch | Snapshot) and ref._attachment.uuid != engine._live().uuid:
        raise NotFoundError(f"{ref!r} is in another store than {engine.path}")
    if isinstance(ref, Snapshot):
        return _Ref(_BARE, "", ref._root)
    if isinstance(ref, Branch):
        return _Ref(_BRANCH, ref.name, ref.last_commit.snapshot._root)
    if not isinstance(ref, str):
        raise TypeError(f"a bundle is made of branches, tags and snapshots, not of a {type(ref).__name__}")
    with contextlib.suppress(NotFoundError, ValueError):
        return _ref_of(engine, engine.branch(ref, create=False))
    tags = engine.tags()
    if ref in tags:
        return _Ref(_TAG, ref, tags[ref]._root)
    return _Ref(_BARE, "", engine.snapshot(ref)._root)


def _bring_records(
    engine: Engine, ref: _Ref, known: set[bytes], cuts: set[tuple[str | None, int | None]], history: bool
) -> None:
    """The records of a branch that the receiver lacks, oldest first.

    A commit that is named ends the walk. A state does not say which of the commits with it the receiver has: then the
    oldest of them counts.
    """
    found: list[bytes] = []
    cut: int | None = None
    for record, head in engine.branch(ref.name)._records():
        named = (ref.name, head.sequence) in cuts
        if named or head.root in known:
            cut = len(found)
        found.append(record)
        if named or not history:
            break
    if cut is not None:
        before = _Recorded.of(found[cut])
        ref.after, ref.base = before.key, before.head.root
        ref.root = before.head.root
        del found[cut:]
    if found:
        ref.root = record_head(found[0]).root
    ref.records = found[::-1]


# --- reading ---


@dataclass(frozen=True, slots=True)
class _Said:
    """A COMMIT of a bundle."""

    ref: int
    flags: int
    time_ns: int
    sequence: int
    root: bytes
    second: bytes
    message: bytes
    metadata: bytes

    @property
    def key(self) -> bytes:
        return _key_of(self.root, self.second, self.time_ns, self.message, self.metadata)

    def to_say(self) -> Said:
        """Message and metadata, for a commit of ours. ValueError, TypeError, RecursionError."""
        return Said(self.message.decode(), json.loads(self.metadata) if self.metadata else None)


class _Reader:
    """Reads a bundle's bytes, none beyond its end. FormatError for whatever a writer would not have written."""

    def __init__(self, file: io.BufferedReader, name: str) -> None:
        self.file, self.name = file, name
        self.size = os.fstat(file.fileno()).st_size
        self.at, self.end = 0, self.size - hashing.ID_SIZE

    def bad(self, what: str) -> FormatError:
        return FormatError(f"bundle {self.name}, byte {self.at}: {what}")

    def take(self, size: int) -> bytes:
        if size > self.end - self.at:
            raise self.bad(f"{size} bytes are said to follow, and {self.end - self.at} do")
        data = self.file.read(size)
        if len(data) != size:
            raise self.bad("the file became shorter")
        self.at += size
        return data

    def unpack(self, form: struct.Struct) -> tuple[Any, ...]:
        return form.unpack(self.take(form.size))

    def seek(self, at: int) -> None:
        self.file.seek(at)
        self.at = at

    def check_hash(self) -> None:
        """CorruptError unless the file ends with the hash of all before."""
        start = self.file.read(_HEADER.size)
        if start[: len(MAGIC)] != MAGIC:
            raise FormatError(f"{self.name} is no bundle")
        if len(start) == _HEADER.size and _HEADER.unpack(start)[1] != VERSION:
            raise FormatError(
                f"bundle {self.name} has version {_HEADER.unpack(start)[1]}; this library reads {VERSION}"
            )
        self.file.seek(0)
        hasher, left = hashing.hasher(), self.end
        while left > 0 and (data := self.file.read(min(left, _COPY_BYTES))):
            hasher.update(data)
            left -= len(data)
        if left != 0 or self.file.read() != hasher.digest():
            raise CorruptError(
                f"bundle {self.name} is damaged or cut short: its bytes are not those of its hash"
            )
        self.seek(0)

    # --- header ---

    def header(self) -> tuple[list[bytes], list[_Ref], list[int]]:
        """What the receiver must have; the refs; how many commits each has."""
        _, _, needs_count, refs_count, zero = self.unpack(_HEADER)
        if zero != 0 or refs_count > _REFS_MAX:
            raise self.bad(f"{refs_count} refs, and {zero} where 0 must stand")
        needs = [self.take(hashing.ID_SIZE) for _ in self._bounded(needs_count, hashing.ID_SIZE)]
        if needs != sorted(set(needs)) or empty_root() in needs:
            raise self.bad("the states to have are not in order")
        refs, counts = [], []
        for _ in self._bounded(refs_count, _REF.size):
            kind, pad, name_size, zero, commits, root, after = self.unpack(_REF)
            name = self._text(name_size, "a ref's name")
            if kind not in _REF_KINDS or pad or zero or (kind == _BARE) != (name == ""):
                raise self.bad(f"ref {name!r} is of kind {kind}")
            if kind != _BRANCH and (commits or after != _NOTHING):
                raise self.bad(f"{_REF_KINDS[kind]} {name!r} has commits")
            refs.append(_Ref(kind, name, root, after=after))
            counts.append(commits)
        if len({(ref.kind, ref.name) for ref in refs if ref.name}) != sum(ref.name != "" for ref in refs):
            raise self.bad("two refs have one name")
        return needs, refs, counts

    def _bounded(self, count: int, size: int) -> range:
        if count * size > self.end - self.at:
            raise self.bad(f"{count} of {size} bytes are said to follow, and {self.end - self.at} bytes do")
        return range(count)

    def _text(self, size: int, what: str) -> str:
        try:
            return self.take(size).decode()
        except UnicodeDecodeError:
            raise self.bad(f"{what} is no UTF-8") from None

    # --- body ---

    def tag(self) -> int:
        return self.take(1)[0]

    def edits(self, values: bool) -> Iterator[_Edit]:
        """The edits of a state, after its base and root. values: bring them; else only look whether they are whole."""
        before = b""
        while True:
            operation, kind, key_size = self.unpack(_EDIT)
            if operation == _LAST:
                if kind or key_size:
                    raise self.bad("an end of edits with a key")
                return
            key = self.take(key_size)
            if not before < key or key_size > config.KEY_BYTES_MAX or kind >= len(KINDS):
                raise self.bad(f"key {key[:40]!r} after {before[:40]!r}, of kind {kind}")
            before = key
            try:
                path = key.decode()
            except UnicodeDecodeError:
                raise self.bad(f"key {key[:40]!r} is no UTF-8") from None
            yield self._edit(operation, kind, path, values)

    def _edit(self, operation: int, kind: int, path: str, values: bool) -> _Edit:
        at, value = self.at, None
        if operation == _INLINE:
            size = self.take(1)[0]
            if size > _INLINE_BYTES_MAX or (KINDS[kind] == "snapshot" and size != hashing.ID_SIZE):
                raise self.bad(f"the value of {path!r} has {size} bytes")
            value = self.take(size)
        elif operation == _NEW:
            value = self._value(path, values)
        elif operation == _AGAIN:
            value = self._again(path, values)
        elif operation != _REMOVE or kind:
            raise self.bad(f"operation {operation} at {path!r}")
        if operation in (_NEW, _AGAIN) and KINDS[kind] == "snapshot":
            raise self.bad(f"the state nested at {path!r} has no id")
        return _Edit(operation, KINDS[kind], path, value, at)

    def _value(self, path: str, values: bool) -> bytes:
        """A value that stands here; its bytes only if they are wanted."""
        size, id = self.unpack(_VALUE)
        if not _INLINE_BYTES_MAX < size <= config.VALUE_BYTES_MAX:
            raise self.bad(f"the value of {path!r} has {size} bytes")
        hasher, parts = hashing.hasher(), []
        for raw in self._blocks(size):
            hasher.update(raw)
            if values:
                parts.append(raw)
        if hasher.digest() != id:
            raise self.bad(f"the value of {path!r} is not the one that its id names")
        return b"".join(parts)

    def _blocks(self, size: int) -> Iterator[bytes]:
        for begin in range(0, size, _BLOCK_BYTES):
            raw_size = min(size - begin, _BLOCK_BYTES)
            (word,) = self.unpack(_BLOCK)
            is_raw, stored_size = word & _RAW_BLOCK, word & ~_RAW_BLOCK
            if stored_size > raw_size or (is_raw and stored_size != raw_size):
                raise self.bad(f"a block of {raw_size} bytes is stored in {stored_size}")
            stored = self.take(stored_size)
            try:
                yield codec.decode(codec.RAW if is_raw else codec.LZ4, stored, raw_size)
            except CorruptError as error:
                raise self.bad(str(error)) from None

    def _again(self, path: str, values: bool) -> bytes:
        """A value that stood before."""
        place, size, id = self.unpack(_SAME)
        back = self.at
        if place >= back:
            raise self.bad(f"the value of {path!r} stands behind it")
        self.seek(place)
        if self.unpack(_VALUE) != (size, id):
            raise self.bad(f"there is no such value, which {path!r} has again")
        self.seek(place)
        value = self._value(path, True) if values else b""
        self.seek(back)
        return value

    def commit(self, refs: int) -> _Said:
        flags, pad, ref, message_size, metadata_size, time_ns, sequence, root, second = self.unpack(_COMMIT)
        if (
            flags & ~(_SECOND | _RESTORED)
            or pad
            or ref >= refs
            or (second == _NOTHING) == bool(flags & _SECOND)
        ):
            raise self.bad(f"a commit with flags {flags} of ref {ref}")
        if message_size > config.MESSAGE_BYTES_MAX or metadata_size > config.METADATA_BYTES_MAX:
            raise self.bad(f"a commit with a message of {message_size} bytes and metadata of {metadata_size}")
        message, metadata = self.take(message_size), self.take(metadata_size)
        said = _Said(ref, flags, time_ns, sequence, root, second, message, metadata)
        try:
            if said.to_say().metadata != metadata:
                raise ValueError("not as this library writes them")
        except (ValueError, TypeError, RecursionError) as error:
            raise self.bad(f"message or metadata of a commit: {error}") from None
        return said


@dataclass(frozen=True, slots=True)
class _Edit:
    """One edit of a state; the value is empty where it is not wanted."""

    operation: int
    kind: Kind
    path: str
    value: bytes | None
    at: int


# --- looking at a whole bundle ---


@dataclass(slots=True)
class _Seen:
    """A bundle that was read to its end: its form is right, and what it says fits together."""

    info: BundleInfo
    needs: list[bytes]
    refs: list[_Ref]
    body: int  # where it begins
    keys: list[list[bytes]]  # of each ref's commits
    places: list[list[int]]  # where these stand


class _Look:
    """Reads a bundle from the start, once."""

    def __init__(self, reader: _Reader) -> None:
        self.reader = reader
        self.needs, self.refs, self.counts = reader.header()
        self.body = reader.at
        self.known = {empty_root(), *self.needs}
        self.keys: list[list[bytes]] = [[] for _ in self.refs]
        self.places: list[list[int]] = [[] for _ in self.refs]
        self.newest = [b""] * len(self.refs)
        self.states = self.commits = self.values = 0

    def seen(self) -> _Seen:
        reader = self.reader
        while (tag := reader.tag()) != _TAG_END:
            if tag == _TAG_STATE:
                self._state()
            elif tag == _TAG_COMMIT:
                self._commit()
            else:
                raise reader.bad(f"a part of kind {tag}")
        if reader.unpack(_END) != (self.states, self.commits, self.values) or reader.at != reader.end:
            raise reader.bad("the end does not say what there was")
        self._whole()
        return _Seen(self._info(), self.needs, self.refs, self.body, self.keys, self.places)

    def _state(self) -> None:
        base, root = self.reader.unpack(_STATE)
        if base not in self.known or root in self.known:
            raise self.reader.bad(
                f"state {root.hex()} stands twice, or is made of one that does not come before"
            )
        for edit in self.reader.edits(False):
            self.values += edit.operation == _NEW
            if edit.kind == "snapshot" and edit.value is not None and edit.value not in self.known:
                raise self.reader.bad(
                    f"state {edit.value.hex()}, nested at {edit.path!r}, does not come before"
                )
        self.known.add(root)
        self.states += 1

    def _commit(self) -> None:
        at = self.reader.at
        said = self.reader.commit(len(self.refs))
        if said.root not in self.known or (said.flags & _SECOND and said.second not in self.known):
            raise self.reader.bad(f"a commit of state {said.root.hex()}, which does not come before")
        if self.refs[said.ref].kind != _BRANCH:
            raise self.reader.bad("a commit of what is no branch")
        self.keys[said.ref].append(said.key)
        self.places[said.ref].append(at)
        self.newest[said.ref] = said.root
        self.commits += 1

    def _whole(self) -> None:
        """Does all that is named stand here?"""
        for ref, count, keys, newest in zip(self.refs, self.counts, self.keys, self.newest, strict=True):
            if count != len(keys) or ref.root not in self.known or (newest and newest != ref.root):
                raise self.reader.bad(f"{_REF_KINDS[ref.kind]} {ref.name!r} does not end as the header says")

    def _info(self) -> BundleInfo:
        refs = tuple(
            BundleRef(
                _REF_KINDS[ref.kind],
                ref.name,
                ref.root.hex(),
                count,
                None if ref.after == _NOTHING else ref.after.hex(),
            )
            for ref, count in zip(self.refs, self.counts, strict=True)
        )
        needs = tuple(root.hex() for root in self.needs)
        return BundleInfo(refs, needs, self.states, self.commits, self.values, self.reader.size)


@contextlib.contextmanager
def _opened(file: str | os.PathLike[str]) -> Iterator[_Reader]:
    name = os.fspath(file)
    try:
        with open(name, "rb") as bundle:
            reader = _Reader(bundle, name)
            reader.check_hash()
            yield reader
    except FileNotFoundError:
        raise NotFoundError(f"there is no bundle {name}") from None


def verify_bundle(file: str | os.PathLike[str]) -> BundleInfo:
    """Look at a bundle as a whole: its hash, its form, every value against its id, every reference.

    What this cannot say is whether the states are those that the ids name: only an import builds them, and compares.
    Raises NotFoundError (no file), FormatError (no bundle, another version, a lie), CorruptError (damaged, cut short).
    Cost: reads and decompresses the file, in a few MiB of memory and about 200 bytes for each state and commit.
    """
    with _opened(file) as reader:
        return _Look(reader).seen().info


# --- importing ---


@dataclass(slots=True)
class _Growth:
    """What an import does to one branch: the commits from the n-th on, after the head that it has."""

    branch: Branch
    ref: int
    head: Commit | None
    start: int


def import_bundle(
    engine: Engine,
    file: str | os.PathLike[str],
    *,
    prefix: str = "",
    names: Mapping[str, str] | None = None,
) -> BundleImport:
    """Take in a bundle: states, commits with their times, messages and metadata, and tags.

    prefix: is put before the names of all branches and tags. names: {name in the bundle: name here} for some of them,
    without the prefix.

    A branch that is not there yet is made. One that is there grows if its newest commit is among the bundle's or the
    one before them; if it has all of them already nothing is done. No branch moves, and no tag is made, unless all
    states were built and have the ids that the bundle says. A process that dies in the middle leaves some of the
    commits; the same import goes on there.

    Raises NotFoundError (no file; states that must be there, by id), ExistsError (a branch with other commits, a tag
    that names something else: use ``prefix``), ConflictError (somebody else moved a branch meanwhile), FormatError and
    CorruptError as ``verify_bundle``, ReadOnlyError. Cost: three readings of the file; memory as ``verify_bundle``, 64
    MiB of edits, and the largest value.
    """
    attachment = engine._live()
    if attachment.readonly:
        raise read_only_error(attachment)
    with _opened(file) as reader:
        seen = _Look(reader).seen()
        held = _needed(
            engine, seen, reader.name
        )  # until branches and tags hold them, a collection may not have them
        renamed = [_renamed(ref.name, prefix, names or {}) for ref in seen.refs]
        growths = [
            _growth(engine, seen, number, renamed[number], reader.name)
            for number, ref in enumerate(seen.refs)
            if ref.kind == _BRANCH
        ]
        tags = {
            name: make_snapshot(attachment, ref.root)
            for ref, name in zip(seen.refs, renamed, strict=True)
            if ref.kind == _TAG
        }
        _check_tags(engine, tags, reader.name)
        held += _build(engine, reader, seen)
        for growth in growths:
            _grow(growth, reader, seen)
        for name, snapshot in tags.items():
            engine.tag(name, snapshot)
        return BundleImport(
            {growth.branch.name: growth.branch.last_commit for growth in growths},
            sum(len(seen.keys[growth.ref]) - growth.start for growth in growths),
            tags,
            tuple(make_snapshot(attachment, ref.root) for ref in seen.refs if ref.kind == _BARE),
        )


def _renamed(name: str, prefix: str, names: Mapping[str, str]) -> str:
    return names.get(name, prefix + name)


def _needed(engine: Engine, seen: _Seen, name: str) -> list[Snapshot]:
    """The states that must be there. NotFoundError."""
    found, missing = [], []
    for root in seen.needs:
        try:
            found.append(engine.snapshot(root.hex()))
        except NotFoundError:
            missing.append(root.hex())
    if missing:
        raise NotFoundError(
            f"bundle {name} holds only what differs from states that {engine.path} has not: {', '.join(missing[:8])}"
            f"{' ...' if len(missing) > 8 else ''}; bring these first, or have the bundle made without them"
        )
    return found


def _check_tags(engine: Engine, tags: Mapping[str, Snapshot], name: str) -> None:
    there = engine.tags() if tags else {}
    for tag, snapshot in tags.items():
        if tag in there and there[tag] != snapshot:
            raise ExistsError(
                f"tag {tag!r} of {engine.path} names {there[tag].id[:12]}, in bundle {name} {snapshot.id[:12]}; import "
                "with a prefix"
            )


def _growth(engine: Engine, seen: _Seen, number: int, name: str, bundle: str) -> _Growth:
    """Where a branch goes on. ExistsError if it is not where the bundle's commits begin, or one of them."""
    branch, ref, keys = engine.branch(name), seen.refs[number], seen.keys[number]
    record = branch._live_record()
    if record is None:
        if not keys:
            raise NotFoundError(
                f"bundle {bundle} has no commit of branch {ref.name!r}, whose newest one it takes to be there; there "
                f"is no branch {name!r} in {engine.path}"
            )
        return _Growth(branch, number, None, 0)
    head, key = hot.make_commit(record, branch._attachment), _Recorded.of(record).key
    if key in keys:
        return _Growth(branch, number, head, len(keys) - keys[::-1].index(key))
    if key == ref.after:
        return _Growth(branch, number, head, 0)
    newest = keys[-1] if keys else ref.after
    if any(_Recorded.of(each).key == newest for each, _ in branch._records()):
        return _Growth(branch, number, head, len(keys))
    raise ExistsError(
        f"branch {name!r} of {engine.path} is there, and its newest commit (state {head.snapshot.id[:12]}) is none of "
        f"those of {ref.name!r} in bundle {bundle}; import with a prefix, and merge"
    )


def _build(engine: Engine, reader: _Reader, seen: _Seen) -> list[Snapshot]:
    """Make all states, and hold them. CorruptError for one that is not what it is said to be."""
    attachment, held = engine._live(), []
    reader.seek(seen.body)
    while (tag := reader.tag()) != _TAG_END:
        if tag == _TAG_COMMIT:
            reader.commit(len(seen.refs))
            continue
        base, root = reader.unpack(_STATE)
        edits = ((edit.path, edit.kind, edit.value) for edit in reader.edits(True))
        made = edited(make_snapshot(attachment, base), edits)
        if made._root != root:
            raise CorruptError(
                f"bundle {reader.name} says that a state is {root.hex()}; what it holds of it makes {made.id}"
            )
        held.append(made)
    return held


def _grow(growth: _Growth, reader: _Reader, seen: _Seen) -> None:
    """Make a branch's commits, one after the other."""
    branch, head = growth.branch, growth.head
    attachment = branch._attachment
    for place in seen.places[growth.ref][growth.start :]:
        reader.seek(place)
        theirs = reader.commit(len(seen.refs))
        said = theirs.to_say()
        if theirs.flags & _SECOND:
            said.second = make_snapshot(attachment, theirs.second)
        said.time_ns = theirs.time_ns
        snapshot = make_snapshot(attachment, theirs.root)
        try:
            if head is None:
                head = branch._move(lib.HS_MOVE_CREATE, snapshot, None, said)
                continue
            said.expected_serial = record_head(head._record).serial
            move = lib.HS_MOVE_RESTORE if theirs.flags & _RESTORED else lib.HS_MOVE_COMPARE
            head = branch._move(move, snapshot, head.snapshot, said)
        except (HeadMoved, ExistsError):
            raise ConflictError(
                f"branch {branch.name!r} was changed by somebody else during the import; run it again"
            ) from None
