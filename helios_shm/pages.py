"""LMDB's file read without LMDB, page by page, believing nothing: what check() looks at a damaged database with.

LMDB trusts its pages: a flipped bit in one may end the process by an assertion, or make a part of a tree vanish without
a word. This reader follows the same bytes, with bounds on every step, tells everything that does not fit, and goes on.

    page 0, 1   {header | meta}   the meta of the newer transaction counts; they are written in turn
    meta        map size, two trees (free pages, names of databases), last page, transaction
    page        number:8 pad:2 flags:2 lower:2 upper:2 | pointers, rising | (free) | nodes
                or, where a value is large, number:8 pad:2 flags:2 pages:4 | the value, over so many pages
    node        low:2 high:2 flags:2 key size:2 | key | value      branch: page number in low, high, flags
    tree        pad:4 flags:2 depth:2 | branch, leaf, overflow pages | entries | root       (48 bytes)

What it proves: every page up to the last is reachable once, or free once; the counts of each tree are right; keys rise;
every value lies in the file. What it cannot: whether a value is the one that was written (their hashes say that).
The format is that of LMDB 0.9 on machines of 64 bits, little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

_HEADER = struct.Struct("<QHHHH")  # number, pad, flags, lower, upper
_NODE = struct.Struct("<HHHH")  # low, high, flags, key size
_TREE = struct.Struct("<IHHQQQQQ")  # pad, flags, depth, branch, leaf, overflow pages, entries, root
_META = struct.Struct("<IIQQ48s48sQQ")  # magic, version, address, map size, two trees, last page, transaction
_NUMBER = struct.Struct("<Q")
_HEADER_SIZE, _NODE_SIZE, _TREE_SIZE = _HEADER.size, _NODE.size, _TREE.size
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW, _META_PAGE = 1, 2, 4, 8
_BIG, _TREE_VALUE = 1, 2  # flags of a node
_INTEGER_KEYS = 8
_NONE = (1 << 64) - 1
_DEPTH_MAX = 32
_PAGE_SIZES = tuple(1 << bits for bits in range(9, 17))
_PAGE_SIZE_AT = _HEADER_SIZE + 24  # the pad of a meta's first tree


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree as its parent describes it."""

    name: str
    flags: int
    depth: int
    branches: int
    leaves: int
    overflow: int
    entries: int
    root: int


@dataclass(frozen=True, slots=True)
class Meta:
    """A meta page that can be one."""

    page: int
    page_size: int
    free: Tree
    main: Tree
    last: int
    transaction: int


@dataclass(slots=True)
class _Count:
    branches: int = 0
    leaves: int = 0
    overflow: int = 0
    entries: int = 0


def _tree(name: str, data: bytes) -> Tree:
    _pad, *fields = _TREE.unpack(data)
    return Tree(name, *fields)


def meta_read(data: memoryview, page: int, page_size: int) -> Meta | str:
    """The meta of page 0 or 1, or what is wrong with it. ``data`` begins with the file's first bytes."""
    at = page * page_size
    what = f"meta page {page}"
    if at + _HEADER_SIZE + _META.size > len(data):
        return f"{what} is not there"
    number, _, flags, _, _ = _HEADER.unpack_from(data, at)
    magic, version, address, _, free, main, last, transaction = _META.unpack_from(data, at + _HEADER_SIZE)
    if magic != _MAGIC or version != _VERSION:
        return f"{what} has magic {magic:#x} and version {version}"
    if number != page or flags != _META_PAGE or address != 0:
        return f"{what} calls itself page {number} with flags {flags:#x}"
    if int.from_bytes(free[:4], "little") != page_size:
        return f"{what} has another page size than {page_size}"
    if transaction & 1 != page and transaction != 0:
        return f"{what} names transaction {transaction}, which belongs into the other"
    if free[4:6] != _INTEGER_KEYS.to_bytes(2, "little") or main[:6] != bytes(6):
        return f"{what} has trees of another kind"
    return Meta(page, page_size, _tree("free pages", free), _tree("names", main), last, transaction)


def page_size_of(data: memoryview) -> int | None:
    """The page size that either meta page names; None: neither does."""
    if len(data) < _PAGE_SIZE_AT + 4:
        return None
    first = int.from_bytes(data[_PAGE_SIZE_AT : _PAGE_SIZE_AT + 4], "little")
    for size in (first, *_PAGE_SIZES):
        at = size + _PAGE_SIZE_AT
        if size in _PAGE_SIZES and at + 4 <= len(data):
            second = int.from_bytes(data[at : at + 4], "little")
            if second == size and int.from_bytes(data[size : size + 8], "little") == 1:
                return size
    return first if first in _PAGE_SIZES else None


@dataclass(slots=True)
class Pages:
    """A database file of one transaction. ``damage`` grows as it is read; ``used`` are the (offset, size) of all
    bytes that mean something, where ``notes_use`` asks for them."""

    data: memoryview
    meta: Meta
    notes_use: bool = False
    damage: list[str] = field(default_factory=list)
    used: list[tuple[int, int]] = field(default_factory=list)
    seen: bytearray = field(default_factory=bytearray)
    whole: bool = True

    def __post_init__(self) -> None:
        size = self.meta.page_size
        if (self.meta.last + 1) * size > len(self.data):
            pages = len(self.data) // size
            self._tell(f"the file has {pages} pages where its last one is called {self.meta.last}")
        self.seen = bytearray(min(self.meta.last + 1, len(self.data) // size))
        self.seen[:2] = b"\1\1"

    def _tell(self, what: str) -> None:
        self.damage.append(what)
        self.whole = False

    def _use(self, at: int, size: int) -> None:
        if self.notes_use:
            self.used.append((at, size))

    # --- trees ---

    def databases(self) -> dict[bytes, Tree]:
        """The named databases."""
        found = {}
        for key, value, flags in self._entries(self.meta.main):
            if flags == _TREE_VALUE and len(value) == _TREE_SIZE and value[:6] == bytes(6):
                found[key] = _tree(repr(key.decode("ascii", "replace")), bytes(value))
            else:
                self._tell(f"{key!r} among the names is no database")
        return found

    def entries(self, tree: Tree) -> Iterator[tuple[bytes, memoryview]]:
        """(key, value) of a tree, in order, as far as they can be read."""
        for key, value, flags in self._entries(tree):
            if flags == 0:
                yield key, value
            else:
                self._tell(f"{tree.name}: the value of key {key!r} has flags {flags:#x}")

    def _entries(self, tree: Tree) -> Iterator[tuple[bytes, memoryview, int]]:
        count = _Count()
        if tree.root != _NONE:
            last: bytes | None = None
            for key, value, flags in self._page_entries(tree, tree.root, 1, count):
                if last is not None and not self._rises(tree, last, key):
                    self._tell(f"{tree.name}: key {key!r} does not stand behind {last!r}")
                last = key
                count.entries += 1
                yield key, value, flags
        elif tree.depth != 0:
            self._tell(f"{tree.name}: a depth of {tree.depth} where there is nothing")
        told = (tree.branches, tree.leaves, tree.overflow, tree.entries)
        found = (count.branches, count.leaves, count.overflow, count.entries)
        if told != found:
            self._tell(
                f"{tree.name}: {found} branch, leaf, overflow pages and entries where {told} were expected"
            )

    @staticmethod
    def _rises(tree: Tree, last: bytes, key: bytes) -> bool:
        if tree.flags & _INTEGER_KEYS:
            return int.from_bytes(last, "little") < int.from_bytes(key, "little")
        return last < key

    def _page_entries(
        self, tree: Tree, number: int, depth: int, count: _Count
    ) -> Iterator[tuple[bytes, memoryview, int]]:
        """The entries below a page. Depth bounds the way down; no page is entered twice."""
        is_leaf = depth == tree.depth
        nodes = self._nodes(tree, number, _LEAF if is_leaf else _BRANCH)
        if is_leaf:
            count.leaves += 1
            for at, end in nodes:
                entry = self._leaf_entry(tree, number, at, end, count)
                if entry is not None:
                    yield entry
            return
        count.branches += 1
        if depth >= _DEPTH_MAX:
            self._tell(f"{tree.name}: deeper than {_DEPTH_MAX} pages")
            return
        for i, (at, end) in enumerate(nodes):
            low, high, top, key_size = _NODE.unpack_from(self.data, at)
            key = bytes(self.data[at + _NODE_SIZE : min(at + _NODE_SIZE + key_size, end)])
            self._use(at, _NODE_SIZE + key_size)
            first = True
            for entry in self._page_entries(tree, low | high << 16 | top << 32, depth + 1, count):
                if first and i > 0 and entry[0] != key and not self._rises(tree, key, entry[0]):
                    self._tell(f"{tree.name}: page {number} says {key!r} where {entry[0]!r} begins")
                first = False
                yield entry
            if first:
                self._tell(f"{tree.name}: nothing below entry {i} of page {number}")

    def _take(self, tree: Tree, number: int, pages: int) -> bool:
        """Is this a run of pages in the file that nothing else has had?"""
        if number < 2 or pages < 1 or number + pages > len(self.seen):
            self._tell(f"{tree.name}: page {number} ({pages} pages) is not in the file")
            return False
        if any(self.seen[number : number + pages]):
            self._tell(f"{tree.name}: page {number} is used twice")
            return False
        self.seen[number : number + pages] = b"\1" * pages
        return True

    def _nodes(self, tree: Tree, number: int, kind: int) -> list[tuple[int, int]]:
        """(offset, end of its page) of the nodes of a page, after its header was looked at."""
        size = self.meta.page_size
        if not self._take(tree, number, 1):
            return []
        start = number * size
        told, _, flags, lower, upper = _HEADER.unpack_from(self.data, start)
        if told != number or flags != kind:
            self._tell(f"{tree.name}: page {number} calls itself page {told} with flags {flags:#x}")
            return []
        if not _HEADER_SIZE <= lower <= upper <= size or lower & 1:
            self._tell(f"{tree.name}: page {number} has its free space from {lower} to {upper}")
            return []
        count = (lower - _HEADER_SIZE) // 2
        offsets = struct.unpack_from(f"<{count}H", self.data, start + _HEADER_SIZE)
        self._use(start, 8)
        self._use(start + 10, lower - 10)
        if not count:
            self._tell(f"{tree.name}: page {number} is empty")
        if any(offset < upper or offset + _NODE_SIZE > size or offset & 1 for offset in offsets):
            self._tell(f"{tree.name}: page {number} has a node outside of itself")
            return []
        if not self._fit(kind, start, offsets, upper, size):
            self._tell(f"{tree.name}: the nodes of page {number} do not fill it from {upper} on")
        return [(start + offset, start + size) for offset in offsets]

    def _fit(self, kind: int, start: int, offsets: tuple[int, ...], upper: int, size: int) -> bool:
        """Do the nodes stand back to back, to the page's end?"""
        at = upper
        for offset in sorted(offsets):
            if offset != at:
                return False
            low, high, flags, key_size = _NODE.unpack_from(self.data, start + offset)
            value = 0 if kind == _BRANCH else 8 if flags & _BIG else low | high << 16
            at += _NODE_SIZE + key_size + value
            at += at & 1
        return at == size

    def _leaf_entry(
        self, tree: Tree, number: int, at: int, end: int, count: _Count
    ) -> tuple[bytes, memoryview, int] | None:
        low, high, flags, key_size = _NODE.unpack_from(self.data, at)
        value_at, size = at + _NODE_SIZE + key_size, low | high << 16
        if value_at + (8 if flags & _BIG else size) > end:
            self._tell(f"{tree.name}: an entry of page {number} leads out of it")
            return None
        key = bytes(self.data[at + _NODE_SIZE : value_at])
        self._use(at, _NODE_SIZE + key_size + (8 if flags & _BIG else size))
        if not flags & _BIG:
            return key, self.data[value_at : value_at + size], flags
        return self._big_entry(tree, key, _NUMBER.unpack_from(self.data, value_at)[0], size, flags, count)

    def _big_entry(
        self, tree: Tree, key: bytes, number: int, size: int, flags: int, count: _Count
    ) -> tuple[bytes, memoryview, int] | None:
        """A value that has pages of its own."""
        pages = (_HEADER_SIZE + size + self.meta.page_size - 1) // self.meta.page_size
        if not self._take(tree, number, pages):
            return None
        at = number * self.meta.page_size
        told, _, kind = struct.unpack_from("<QHH", self.data, at)
        span = int.from_bytes(self.data[at + 12 : at + 16], "little")
        if told != number or kind != _OVERFLOW or span != pages:
            self._tell(
                f"{tree.name}: page {number} calls itself page {told} with flags {kind:#x} and {span} pages, "
                f"not {pages}, for key {key!r}"
            )
        count.overflow += pages
        self._use(at, 8)
        self._use(at + 10, 6 + size)
        return key, self.data[at + _HEADER_SIZE : at + _HEADER_SIZE + size], flags & ~_BIG

    # --- free pages ---

    def free(self, after: int = 0) -> Iterator[tuple[int, list[int]]]:
        """(transaction, the pages that it gave up and nobody has taken since) of transactions above ``after``, in
        order."""
        for key, value, flags in self._entries(self.meta.free):
            if len(key) != 8 or flags or len(value) % 8 or len(value) < 8:
                self._tell(
                    f"free pages: an entry of {len(key)} and {len(value)} bytes, with flags {flags:#x}"
                )
                continue
            if int.from_bytes(key, "little") <= after:
                continue
            told, *numbers = struct.unpack(f"<{len(value) // 8}Q", value)
            if told > len(numbers):
                self._tell(f"free pages: {told} numbers in {len(value)} bytes")
            yield int.from_bytes(key, "little"), numbers[:told]

    def account(self) -> None:
        """After all trees were read: is every page either used or free, once?"""
        for transaction, numbers in self.free():
            if transaction > self.meta.transaction:
                self._tell(f"free pages: of transaction {transaction}, which is yet to come")
            for number in numbers:
                self._take(self.meta.free, number, 1)
        lost = self.seen.count(0)
        if lost and self.whole:
            self._tell(f"{lost} pages, of which the first is {self.seen.index(0)}, are neither used nor free")
