"""The plain-Python twin of the tree: what a state's canonical nodes, boundaries and root id must be.

It is written for reading, from docs/FORMAT.md and nothing else: a state is a dict, a tree is rebuilt from
scratch each time, and nothing is shared with the library but BLAKE3. The C core has to agree with it byte by
byte. `Model` is a versioned store of such states, for stateful tests to run beside an engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from blake3 import blake3

KEY_MAX = 1024
INLINE_MAX = 64
COUNT_MAX = 256
KEY_BYTES_MAX = 32768
SMALL_LEVEL = 16
SIDE = 3

LEAF, INNER, VERSION = 1, 2, 1
FILE, EXECUTABLE, SYMLINK, DIRECTORY, SNAPSHOT = range(5)

Entry: TypeAlias = tuple[int, bytes]
"""A value: (kind, bytes)."""
State: TypeAlias = dict[bytes, Entry]

# --- key hashes ---

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
PI = (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89)
PI_7 = 0x3F84D5B5B5470917


def fold(a: int, b: int) -> int:
    """The low half of a 64 x 64 bit product, xor its high half."""
    product = a * b
    return (product & MASK) ^ (product >> 64)


def key_blocks(key: bytes) -> Iterator[bytes]:
    """16 bytes at a time; the last block is the key's last 16 bytes, or the whole key padded with zeros."""
    if len(key) <= 16:
        yield key.ljust(16, b"\0")
        return
    for offset in range(0, len(key) - 16, 16):
        yield key[offset : offset + 16]
    yield key[-16:]


def key_hash(key: bytes) -> int:
    h = (PI[0] + len(key) * GOLDEN) & MASK
    for block in key_blocks(key):
        x, y = int.from_bytes(block[:8], "little"), int.from_bytes(block[8:], "little")
        rotated = (h << 32 | h >> 32) & MASK
        h = (fold(x ^ PI[1], y ^ h) + rotated) & MASK
    return (fold(h ^ PI[2], PI[3] ^ len(key)) + h) & MASK


def level_hash(key: bytes, level: int) -> int:
    """The hash that a key shows at a level; leaves are level 0."""
    z = (key_hash(key) + (level + 1) * GOLDEN) & MASK
    z = (z ^ z >> 32) * PI_7 & MASK
    z = (z ^ z >> 29) * PI[3] & MASK
    return z ^ z >> 32


# --- boundaries ---

Hash: TypeAlias = Callable[[bytes, int], int]


def is_local_minimum(hashes: Sequence[int], i: int) -> bool:
    """Strictly below the three neighbours on each side; never where one of them is missing."""
    if i < SIDE or i + SIDE >= len(hashes):
        return False
    window = [*hashes[i - SIDE : i], *hashes[i + 1 : i + SIDE + 1]]
    return hashes[i] < min(window)


def node_ends(keys: Sequence[bytes], level: int, hash_of: Hash = level_hash) -> list[int]:
    """The index after each node's last entry."""
    if len(keys) <= SMALL_LEVEL:
        return [len(keys)]
    hashes = [hash_of(key, level) for key in keys]
    ends, count, key_bytes = [], 0, 0
    for i, key in enumerate(keys):
        count += 1
        key_bytes += len(key)
        full = count >= COUNT_MAX or key_bytes >= KEY_BYTES_MAX
        if full or is_local_minimum(hashes, i) or i + 1 == len(keys):
            ends.append(i + 1)
            count = key_bytes = 0
    return ends


# --- node bytes ---


@dataclass(frozen=True, slots=True)
class Node:
    """A node: its canonical bytes and what its parent says of it."""

    data: bytes
    last_key: bytes
    keys: int
    value_bytes: int

    @property
    def id(self) -> bytes:
        return blake3(self.data).digest()


def common_prefix(keys: Sequence[bytes]) -> bytes:
    """The longest common prefix; of sorted keys the first and the last one decide."""
    if not keys:
        return b""
    first, last = keys[0], keys[-1]
    size = 0
    while size < min(len(first), len(last)) and first[size] == last[size]:
        size += 1
    return first[:size]


def key_material(keys: Sequence[bytes]) -> tuple[bytes, bytes, bytes]:
    """The count and prefix size, the table of suffix ends, and prefix + suffixes."""
    prefix = common_prefix(keys)
    ends, suffixes = b"", b""
    for key in keys:
        suffixes += key[len(prefix) :]
        ends += len(suffixes).to_bytes(2, "little")
    sizes = len(keys).to_bytes(2, "little") + len(prefix).to_bytes(2, "little")
    return sizes, ends, prefix + suffixes


def totals(keys: int, value_bytes: int) -> bytes:
    return keys.to_bytes(8, "little") + value_bytes.to_bytes(8, "little")


def value_form(value: bytes) -> tuple[int, bytes]:
    """The form byte and what stands in the leaf for the value."""
    if len(value) <= INLINE_MAX:
        return len(value), value
    return 255, len(value).to_bytes(8, "little") + blake3(value).digest()


def leaf(entries: Sequence[tuple[bytes, Entry]]) -> Node:
    keys = [key for key, _ in entries]
    sizes, ends, material = key_material(keys)
    forms, values, value_bytes = b"", b"", 0
    for _, (kind, value) in entries:
        form, stored = value_form(value)
        forms += bytes([kind, form])
        values += stored
        value_bytes += len(value)
    head = bytes([LEAF, VERSION, 0, 0])
    data = head + sizes + ends + forms + material + values + totals(len(keys), value_bytes)
    return Node(data, keys[-1] if keys else b"", len(keys), value_bytes)


def inner(children: Sequence[Node], level: int) -> Node:
    sizes, ends, material = key_material([child.last_key for child in children])
    keys = sum(child.keys for child in children)
    value_bytes = sum(child.value_bytes for child in children)
    ids = b"".join(child.id for child in children)
    data = bytes([INNER, VERSION, level, 0]) + sizes + ends + material + ids + totals(keys, value_bytes)
    return Node(data, children[-1].last_key, keys, value_bytes)


# --- the tree ---


@dataclass(frozen=True, slots=True)
class Tree:
    """All nodes of a state, level by level, leaves first."""

    levels: list[list[Node]]

    @property
    def root(self) -> Node:
        return self.levels[-1][0]

    def nodes(self) -> Iterator[Node]:
        for level in self.levels:
            yield from level


def build(state: Mapping[bytes, Entry], hash_of: Hash = level_hash) -> Tree:
    """The tree of a state."""
    entries = sorted(state.items())
    starts_and_ends = spans(node_ends([key for key, _ in entries], 0, hash_of))
    levels = [[leaf(entries[start:end]) for start, end in starts_and_ends]]
    while len(levels[-1]) > 1:
        below, level = levels[-1], len(levels)
        ends = node_ends([node.last_key for node in below], level, hash_of)
        levels.append([inner(below[start:end], level) for start, end in spans(ends)])
    return Tree(levels)


def spans(ends: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip([0, *ends[:-1]], ends, strict=True))


def root_id(state: Mapping[bytes, Entry]) -> bytes:
    return build(state).root.id


# --- a versioned store ---

Change: TypeAlias = tuple[bytes, Entry | None, Entry | None]
"""A differing key with its old and new value; None for absent."""


def diff(old: Mapping[bytes, Entry], new: Mapping[bytes, Entry]) -> list[Change]:
    """Keys that differ, in order."""
    keys = sorted(old.keys() | new.keys())
    return [(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]


def scan(
    state: Mapping[bytes, Entry],
    prefix: bytes = b"",
    start: bytes | None = None,
    stop: bytes | None = None,
    reverse: bool = False,
) -> list[tuple[bytes, Entry]]:
    """Entries under a prefix, from start (inclusive) to stop (exclusive), in order or in reverse."""
    found = [
        (key, value)
        for key, value in sorted(state.items())
        if key.startswith(prefix) and (start is None or key >= start) and (stop is None or key < stop)
    ]
    return found[::-1] if reverse else found


class Conflict(Exception):
    """Keys among the edits differ between base and head."""

    def __init__(self, keys: list[bytes]) -> None:
        super().__init__(keys)
        self.keys = keys


@dataclass
class Workspace:
    """A base state and the edits upon it; a value of None removes the key."""

    base: State
    branch: str | None = None
    edits: dict[bytes, Entry | None] = field(default_factory=dict)

    def put(self, key: bytes, value: bytes, kind: int = FILE) -> None:
        self.edits[key] = (kind, value)

    def remove(self, key: bytes) -> None:
        """Remove a key that is there; KeyError if it is not."""
        if key not in self.state():
            raise KeyError(key)
        self.edits[key] = None

    def state(self) -> State:
        return applied(self.base, self.edits)

    def fork(self) -> Workspace:
        return Workspace(self.base, self.branch, dict(self.edits))

    def discard(self) -> None:
        self.edits.clear()


def applied(base: Mapping[bytes, Entry], edits: Mapping[bytes, Entry | None]) -> State:
    """The state after the edits."""
    state = dict(base)
    for key, value in edits.items():
        if value is None:
            state.pop(key, None)
        else:
            state[key] = value
    return state


def merged(base: State, ours: State, theirs: State) -> State:
    """What both have changed since base; Conflict for the keys that both have changed, and to different entries."""
    changes = {key: after for key, _, after in diff(base, theirs)}
    mine = {key: after for key, _, after in diff(base, ours)}
    conflicts = sorted(key for key in changes.keys() & mine.keys() if changes[key] != mine[key])
    if conflicts:
        raise Conflict(conflicts)
    return applied(ours, changes)


Outcome: TypeAlias = Literal["committed", "rebased", "unchanged"]


class Model:
    """A store: named branches, each the list of the states it has had. States are never changed."""

    def __init__(self) -> None:
        self.branches: dict[str, list[State]] = {}

    def head(self, branch: str) -> State:
        return self.branches.get(branch, [{}])[-1]

    def sequence(self, branch: str) -> int:
        """How many commits the branch has had."""
        return len(self.branches.get(branch, [{}])) - 1

    def fork(self, branch: str | None = None) -> Workspace:
        """A workspace on a branch's head, or a detached one on the empty state."""
        return Workspace(self.head(branch) if branch is not None else {}, branch)

    def commit(self, workspace: Workspace) -> Outcome:
        """Land the edits; afterwards the workspace stands on the new state, without edits.

        Raises Conflict, with nothing changed, if an edited key differs between base and head.
        """
        if not workspace.edits:
            return "unchanged"
        head = workspace.base if workspace.branch is None else self.head(workspace.branch)
        moved = {key for key, _, _ in diff(workspace.base, head)}
        conflicts = sorted(moved & workspace.edits.keys())
        if conflicts:
            raise Conflict(conflicts)
        state = applied(head, workspace.edits)
        if workspace.branch is not None:
            self.branches.setdefault(workspace.branch, [{}]).append(state)
        workspace.base, workspace.edits = state, {}
        return "rebased" if moved else "committed"

    def delete(self, branch: str) -> None:
        del self.branches[branch]
