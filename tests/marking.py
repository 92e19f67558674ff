"""The plain-Python twin of collection: what of a store lives, and what of it L2 has.

Written for reading: from roots down, node by node, through the reader alone. `living` is what must be kept, `stored`
what is there; after a collection without grace, of a store in which nobody holds anything, the two are the same.
"""

from collections.abc import Iterable

import helios_shm
from helios_shm import l2
from helios_shm.attachment import empty_root
from helios_shm.dead import part_at, parts_decode
from helios_shm.pages import Meta, Pages, meta_read, page_size_of
from helios_shm.store import StorePaths

SNAPSHOT, HASHED = 4, 255


def named(node: bytes) -> tuple[list[bytes], list[bytes]]:
    """(nodes and states, values) that a node's bytes name."""
    count, prefix = int.from_bytes(node[4:6], "little"), int.from_bytes(node[6:8], "little")
    if node[0] == 2:
        start = len(node) - 16 - 32 * count
        return [node[start + 32 * i : start + 32 * i + 32] for i in range(count)], []
    kinds = node[8 + 2 * count : 8 + 4 * count]
    at = (
        8
        + 4 * count
        + prefix
        + (int.from_bytes(node[6 + 2 * count : 8 + 2 * count], "little") if count else 0)
    )
    states, values = [], []
    for i in range(count):
        kind, form = kinds[2 * i], kinds[2 * i + 1]
        if form == HASHED:
            values.append(node[at + 8 : at + 40])
        elif kind == SNAPSHOT:
            states.append(node[at : at + 32])
        at += 40 if form == HASHED else form
    return states, values


def living(engine: helios_shm.Engine, roots: Iterable[bytes]) -> tuple[set[bytes], set[bytes]]:
    """(nodes, values) below these states."""
    reader = engine._attachment.reader
    nodes: set[bytes] = set()
    values: set[bytes] = set()
    waiting = list(roots)
    while waiting:
        id = waiting.pop()
        if id in nodes or id == empty_root():
            continue
        entry = reader.get(id)
        assert entry is not None, f"node {id.hex()} is nowhere"
        nodes.add(id)
        states, hashed = named(entry.raw)
        waiting += states
        values.update(hashed)
    return nodes, values


def roots_of(engine: helios_shm.Engine) -> list[bytes]:
    """What branches and tags name: every commit that a log has."""
    roots = [bytes.fromhex(snapshot.id) for snapshot in engine.tags().values()]
    for name in engine.branches():
        roots += [bytes.fromhex(commit.snapshot.id) for commit in engine.branch(name).log()]
    return roots


def stored(path: StorePaths) -> tuple[set[bytes], set[bytes], set[bytes]]:
    """(nodes, values, large values) of L2's living rows, out of the file of a store that nobody writes to."""
    data = memoryview((path.db / "data.mdb").read_bytes())
    size = page_size_of(data)
    assert size is not None
    metas = [meta for meta in (meta_read(data, page, size) for page in (0, 1)) if isinstance(meta, Meta)]
    pages = Pages(data, max(metas, key=lambda meta: meta.transaction))
    trees = pages.databases()
    facts = dict(pages.entries(trees[b"meta"]))
    generation = int.from_bytes(facts.get(b"generation", b""), "little")
    dead = {
        l2.pack_number(key): parts_decode(l2.pack_number(key), value)
        for key, value in pages.entries(trees[b"dead"])
    }
    found: dict[int, set[bytes]] = {l2.NODE: set(), l2.VALUE: set(), l2.BLOB: set()}
    for key, pack in pages.entries(trees[b"packs"]):
        part = part_at(dead.get(l2.pack_number(key), []), generation)
        for row in range(l2.pack_count(pack)):
            if part is None or not part.has(row):
                found[l2.pack_kind(pack, row)].add(l2.pack_id(pack, row))
    return found[l2.NODE], found[l2.VALUE], found[l2.BLOB]
