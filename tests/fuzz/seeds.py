"""The inputs that fuzzing began with: whole nodes, records, packs and locators, and the ends of every range.

    python -m tests.fuzz.seeds DIRECTORY        writes DIRECTORY/<target>/seed-<what it is>

A fuzzer finds by itself what lies a few changes away from these. Each is the input of a target (tests/fuzz/*.c say how
they read it), not the bare bytes. docs/FORMAT.md has the formats.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

KEY_MAX, INLINE_MAX, COUNT_MAX, LEVEL_MAX = 1024, 64, 256, 24
VALUE_MAX = 1 << 32
HASHED = 255


def u16(n: int) -> bytes:
    return struct.pack("<H", n)


def u64(n: int) -> bytes:
    return struct.pack("<Q", n & (1 << 64) - 1)


# ---- nodes ----


def common_prefix(keys: list[bytes]) -> bytes:
    if not keys:
        return b""
    size = 0
    low, high = keys[0], keys[-1]
    while size < min(len(low), len(high)) and low[size] == high[size]:
        size += 1
    return low[:size]


def node(level: int, keys: list[bytes], table: bytes, tail: bytes, totals: tuple[int, int]) -> bytes:
    prefix = common_prefix(keys)
    ends, end = b"", 0
    for key in keys:
        end += len(key) - len(prefix)
        ends += u16(end)
    head = bytes([2 if level else 1, 1, level, 0]) + u16(len(keys)) + u16(len(prefix))
    text = prefix + b"".join(key[len(prefix) :] for key in keys)
    return head + ends + table + text + tail + u64(totals[0]) + u64(totals[1])


def leaf(entries: list[tuple[bytes, int, int | bytes]]) -> bytes:
    """Entries {key, kind, inline bytes or the size of a value that is named by its hash}."""
    table = tail = b""
    total = 0
    for _, kind, value in entries:
        if isinstance(value, bytes):
            table += bytes([kind, len(value)])
            tail += value
            total += len(value)
        else:
            table += bytes([kind, HASHED])
            tail += u64(value) + b"h" * 32
            total += value
    return node(0, [key for key, _, _ in entries], table, tail, (len(entries), total))


def inner(level: int, keys: list[bytes], totals: tuple[int, int]) -> bytes:
    return node(level, keys, b"", b"".join(bytes([i & 255]) * 32 for i in range(len(keys))), totals)


def nodes() -> Iterator[tuple[str, bytes]]:
    for line in (ROOT / "tests" / "golden" / "nodes_v1.txt").read_text().splitlines():
        name, *fields = line.split()
        if len(fields) == 2 and not name.startswith(("#", "tree")):
            yield f"golden-{name}", bytes.fromhex(fields[1])
    # Keys of 1 byte: as many entries as a node may have, and one more.
    for count in (COUNT_MAX - 1, COUNT_MAX, COUNT_MAX + 1):
        keys = [bytes([i >> 8, i & 255]) for i in range(count)]
        yield f"leaf-of-{count}", leaf([(key, 0, b"") for key in keys])
    # The longest keys: as many as the sum allows, and one more; a key that is one byte too long.
    for count in (31, 32, 33, 34):
        keys = [bytes([i]) + b"k" * (KEY_MAX - 1) for i in range(count)]
        yield f"long-keys-{count}", inner(1, keys, (count, 0))
    for size in (KEY_MAX, KEY_MAX + 1):
        yield f"key-of-{size}", leaf([(b"k" * size, 0, b"v")])
    # A common prefix that is all of the first key, and the longest one.
    yield "prefix-is-a-key", leaf([(b"ab", 0, b""), (b"abc", 1, b"x"), (b"abd", 2, b"y" * INLINE_MAX)])
    yield "longest-prefix", leaf([(b"p" * (KEY_MAX - 1), 0, b""), (b"p" * KEY_MAX, 0, b"")])
    for size in (INLINE_MAX, INLINE_MAX + 1, VALUE_MAX, VALUE_MAX + 1, (1 << 64) - 1):
        yield f"hashed-{size}", leaf([(b"a", 4, size)])
    yield "sums-to-2-to-64", leaf([(b"a", 0, (1 << 64) - 65), (b"b", 0, 65)])
    for level in (1, LEVEL_MAX - 1, LEVEL_MAX, 255):
        yield f"inner-of-level-{level}", inner(level, [b"a", b"b"], (2, 9))
    most = (1 << 64) - 1
    yield "inner-totals-overflow", inner(2, [b"a", b"b"], (most, most))
    yield "count-lies", b"\1\1\0\0\0\1\0\0" + b"".join(u16(i) for i in range(1, 9))
    yield "prefix-lies", b"\1\1\0\0\1\0\0\4" + bytes(20)
    yield "inner-too-few-keys", inner(1, [b"a", b"b", b"c"], (2, 0))
    yield "empty-inner", inner(1, [], (0, 0))
    yield (
        "too-large",
        leaf([(bytes([i]) + b"k" * 127, 0, b"v" * INLINE_MAX) for i in range(COUNT_MAX)]) + b"\0" * 20000,
    )


# ---- records, log blocks ----


def record(
    serial: int, name: bytes = b"main", message: bytes = b"m", metadata: bytes = b"{}", flags: int = 2
) -> bytes:
    head = struct.pack("<BBHHHII", 3, 1, flags, len(name), 0, len(message), len(metadata))
    body = b"r" * 32 + struct.pack(
        "<4Qq3Q4I", 1, 5, serial, serial, 1700000000_000000000, 1, 2, 3, 4, 5, 6, 0
    )
    parents = (b"p" * 32 if flags & 2 else bytes(32)) + (b"q" * 32 if flags & 4 else bytes(32))
    return head + body + parents + name + message + metadata


def log_block(first: int, records: list[bytes]) -> bytes:
    at, places = 16 + 4 * (len(records) + 1), []
    for each in records:
        places.append(at)
        at += len(each)
    places.append(at)
    head = struct.pack(f"<IIQ{len(places)}I", 0x474C4C48, len(records), first, *places)
    return head + b"".join(records) + bytes(32)


def records() -> Iterator[tuple[str, bytes]]:
    most = (1 << 64) - 1
    yield "record", b"\0" + record(1)
    yield "record-longest", b"\0" + record(1, b"n" * 255, b"m" * 300, b"[]", 15)
    yield "record-detached", b"\0" + record(0, b"")
    yield "record-last-serial", b"\0" + record(most)
    yield "record-sizes-lie", b"\0" + record(1)[:8] + b"\xff" * 8 + record(1)[16:]
    yield "log-empty", b"\3" + log_block(1, [])
    yield "log", b"\3" + log_block(7, [record(7), record(8, message=b"second"), record(9)])
    yield "log-serials-wrap", b"\3" + log_block(most, [record(most), record(0, b"")])
    yield "log-count-lies", b"\3" + struct.pack("<IIQ", 0x474C4C48, 0xFFFFFFFF, 1) + bytes(64)


# ---- packs ----


def pack(rows: list[tuple[bytes, int, int, int, bytes]]) -> bytes:
    """Rows {id, raw size, kind, codec, payload}; offsets and sum are the target's to set."""
    at, table = 32 + 56 * len(rows), b""
    for id, raw_size, kind, codec, payload in rows:
        table += id + struct.pack("<IIQBB6x", at, len(payload), raw_size, kind, codec)
        at += len(payload)
    payloads = b"".join(row[4] for row in rows)
    return struct.pack("<QIIQQ", 0x314B43504F494C48, 1, len(rows), len(payloads), 0) + table + payloads


def packs() -> Iterator[tuple[str, bytes]]:
    whole = pack([(bytes([i]) * 32, 3 + i, 1 + i % 2, 0, b"p" * (3 + i)) for i in range(5)])
    sealed, right = b"\4\0", b"\7\0"
    yield "pack", sealed + whole
    yield "pack-drop", b"\4\2\0\3" + whole
    yield "pack-drop-all", b"\4\5\0\1\2\3\4" + whole
    yield "pack-drop-outside", b"\4\2\1\5" + whole
    yield "pack-empty", sealed + pack([])
    yield "pack-blob", sealed + pack([(b"b" * 32, 1 << 40, 4, 0, b""), (b"c" * 32, 2, 2, 1, b"zz")])
    yield "pack-same-ids", sealed + pack([(b"i" * 32, 1, 2, 0, b"x")] * 40)
    yield "pack-count-lies", b"\0\0" + whole[:12] + b"\xff\xff\xff\xff" + whole[16:]
    yield "pack-stored-lies", sealed + whole[:68] + b"\xff\xff\xff\xff" + whole[72:]
    yield "pack-offset-lies", sealed + whole[:64] + b"\xff\xff\xff\xff" + whole[68:]
    yield "pack-fixed", right + whole


# ---- the locator ----


def locators() -> Iterator[tuple[str, bytes]]:
    def made(flags: int, patches: list[tuple[int, int]], rows: bytes = b"\0", tail: bytes = b"") -> bytes:
        text = b"".join(bytes([at // 8]) + u64(value) for at, value in patches)
        return bytes([flags]) + u64(5) + u16(300) + bytes([len(patches)]) + text + rows + tail

    yield "locator", made(4, [])
    yield "locator-readonly", made(0, [])
    for name, capacity in (
        ("none", 0),
        ("small", 512),
        ("odd", 1025),
        ("huge", 1 << 36),
        ("overflow", 1 << 61),
    ):
        yield f"locator-capacity-{name}", made(4, [(16, capacity)])
    yield "locator-version", made(4, [(8, 2 | 4096 << 32)])
    yield "locator-header-size", made(4, [(8, 1 | 1 << 32)])
    yield "locator-mark", made(5, [(64, (1 << 64) - 1), (128, 1 << 63)])
    yield "locator-rows-lie", made(4, [(88, (1 << 64) - 1)])
    yield "locator-cut", made(2, [], b"\0", u16(100))
    yield "locator-cut-in-rows", made(2, [], b"\0", u16(4096 + 80))
    full = b"".join(bytes([1, way % 8, way // 8, 1]) + b"\xff" * 8 for way in range(90))
    yield "locator-full-bucket", made(4, [], bytes([90]) + full)


# ---- trees: a recipe, as tests/fuzz/tree.c reads it ----


def recipe(made: bytes, *asked: bytes, flags: int = 0) -> bytes:
    return bytes([flags]) + made + bytes([0, 11]) + b"".join(asked)


def tree_leaf(first: int, count: int, lies: int = 0, shape: int = 0) -> bytes:
    return bytes([lies, 0, shape]) + u16(count) + bytes([0]) + u16(first) + bytes([5, 1])


def tree_inner(first: int, count: int, step: int = 1, lies: int = 0) -> bytes:
    return bytes([lies, 3, first, count - 1, 0, step - 1])


def tree_chain(length: int) -> bytes:
    return bytes([0, 6, length])


def tree_grown(count: int, shape: int) -> bytes:
    return bytes([0, 10, shape]) + u16(count) + bytes([3])


def trees() -> Iterator[tuple[str, bytes]]:
    two = bytes([0, 0, 0])  # scan the last node
    edit = bytes([3, 0, 0, 40, 1, 0]) + u16(3) + bytes([9, 4, 0])
    deep = tree_leaf(1, 40) + tree_chain(22) + tree_leaf(60, 40) + tree_chain(22) + tree_inner(22, 2, 22)
    yield "tree-deepest", recipe(deep, two, edit)
    yield "tree-too-deep", recipe(tree_leaf(1, 2), tree_chain(25), two)
    wide = b"".join(tree_leaf(1 + 256 * i, 256, shape=64) for i in range(16))
    yield "tree-widest", recipe(wide, tree_inner(0, 16), two, edit)
    for name, shape in (("short", 64), ("long", 64 + 3 * 10), ("prefixed", 64 + 3 * 7)):
        yield f"tree-of-{name}-keys", recipe(tree_grown(999, shape), two, edit, flags=0)
        yield f"tree-of-{name}-keys-fails", recipe(tree_grown(999, shape), two, edit, flags=7)
    pair = tree_leaf(1, 9) + tree_leaf(20, 9)
    for name, lie in (("byte", 1), ("totals", 2), ("key", 4), ("child", 8), ("id", 16), ("level", 32)):
        told = b"\xff" * (16 if lie == 2 else 3)
        yield f"tree-lies-about-{name}", recipe(pair, tree_inner(0, 2, 1, lie) + told, two, edit)
    childless = tree_leaf(1, 0) + tree_leaf(1, 9) + tree_leaf(20, 9)
    yield "tree-child-without-entries", recipe(childless, tree_inner(1, 2, 1, 8) + b"\0", two, edit)
    overlap = tree_leaf(1, 30) + tree_leaf(5, 60)
    yield "tree-overlaps", recipe(overlap, tree_inner(0, 2), two, edit)


# ---- segments: changes, as tests/fuzz/segment.c reads them ----


def entry(lies: int, where: int, unit: int, payload: bytes, *more: bytes) -> bytes:
    return bytes([0, lies, where]) + u16(unit) + payload + b"".join(more)


def segments() -> Iterator[tuple[str, bytes]]:
    zeros = bytes([2]) + u16(300)
    most = b"\xff" * 8
    yield "segment", bytes([0, 0])
    for cut in (0, 20, 50, 63):
        yield f"segment-cut-{cut}", bytes([1 + 4 * cut, 0])
    yield "segment-longer", bytes([3, 0])
    yield "segment-entry", bytes([0, 0]) + entry(64, 16, 100, zeros)
    yield "segment-entry-at-the-end", bytes([0, 0]) + entry(64 + 128, 16, 0, zeros)
    yield "segment-stored-lies", bytes([0, 0]) + entry(2, 16, 65000, zeros, b"\1", most)
    for chunk in (0, 3):
        at_the_end = entry(2 + 4 + 64 + 128, 16 + chunk, 0, zeros, b"\1", u64(1 << 20))
        yield f"segment-stored-beyond-{chunk}", bytes([0, 0]) + at_the_end + struct.pack("<I", 1 << 19)
    yield "segment-raw-lies", bytes([0, 0]) + entry(4, 16, 9, zeros, b"\1", most)
    record = bytes([0, 0, 9, 0, 1, 1, 3, 0])
    head = bytes([5, 0, 1, 3, 0])
    yield "segment-head", bytes([0, 1]) + entry(32, 48, 200, record, b"\2", b"\0") + head
    for offset in (8, 24, 72, 80, 136):
        yield f"segment-header-{offset}", bytes([0, 0, 8, 0, offset // 8]) + most
    yield "segment-chunk-outside", bytes([0, 2, 7, 1, 0]) + most + bytes([5, 0, 1, 0]) + most
    yield "segment-cursor-outside", bytes([0, 0, 4, 64]) + b"\1\0\0\0" + u16(0) + b"\xff\xff\1"
    yield "segment-words", bytes([0, 3]) + b"".join(bytes([9, 2, 1, 2, n]) + most for n in range(4))


TARGETS = {
    "node": nodes, "record": records, "pack": packs, "locator": locators, "tree": trees, "segment": segments,
}  # fmt: skip


def inputs(target: str) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of a target's first inputs."""
    # A node stands behind {flags, size of a key, the key}.
    before = b"\0\2ab" if target == "node" else b""
    for name, data in TARGETS[target]():
        yield f"seed-{name}", before + data


def main(directory: Path) -> None:
    for target in TARGETS:
        (directory / target).mkdir(parents=True, exist_ok=True)
        for name, data in inputs(target):
            (directory / target / name).write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
