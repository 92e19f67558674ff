"""Which of a branch's commits touched a path: a look into many states at once.

Neighbouring states share most of their nodes, and the parent of a commit is the state before it. So each state is
looked at once, and the states of a stretch of the log together: all of them go down their trees side by side, and what
they lack is brought from L2 in one go for each level.

    records  ... r4  r3 | r2  r1 | r0     stretches: 1, 2, 4, ... records, so that who wants one commit pays for few
    roots            R4   R3  R2   R1  R0
    entries          e    e   e    f   f      r1 touched the path: its entry differs from that of the state before
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from ._capi import check, lib
from .attachment import Attachment, empty_root
from .mapping import encode_path, successor
from .record import RECORD_ROOT, parent_root, serial_of

_STRETCH_MAX: Final = 128

Entry = tuple[int, int, bytes] | None
"""Kind, size and BLAKE3 of a path's value; None: nothing is there."""


def touching(attachment: Attachment, records: Iterable[bytes], path: str, oldest: int) -> Iterator[bytes]:
    """Those of a branch's records, newest first, whose state differs from their parent's at ``path``; with a '/' at its
    end, anywhere below it. With the serial ``oldest`` history begins: what was before it may have been collected."""
    key, below = encode_path(path), path.endswith("/")
    nothing = empty_root()
    for stretch in _stretches(iter(records)):
        pairs = [
            (nothing if serial_of(record) <= oldest else parent_root(record) or nothing, record[RECORD_ROOT])
            for record in stretch
        ]
        moved = dict.fromkeys(root for pair in pairs if pair[0] != pair[1] for root in pair)
        entries = _entries(attachment, list(moved), key)
        for record, (old, new) in zip(stretch, pairs, strict=True):
            if old == new:
                continue
            if _differ_below(attachment, old, new, key) if below else entries[old] != entries[new]:
                yield record


def _stretches(records: Iterator[bytes]) -> Iterator[list[bytes]]:
    size = 1
    while stretch := list(islice(records, size)):
        yield stretch
        size = min(2 * size, _STRETCH_MAX)


def _entries(attachment: Attachment, roots: list[bytes], key: bytes) -> dict[bytes, Entry]:
    """What each state has at a key."""
    entries: dict[bytes, Entry] = {}
    while roots:
        lacking: list[bytes] = []
        missing: set[bytes] = set()
        call = attachment.call()
        try:
            for root in roots:
                status = lib.hs_stat(call.c, root, key, len(key))
                if status == lib.HS_MISSING:
                    lacking.append(root)
                    missing.add(call.missing[:])
                elif status == lib.HS_NOT_FOUND:
                    entries[root] = None
                else:
                    check(status, f"path {key.decode()!r} of snapshot {root.hex()}")
                    entries[root] = int(call.c.value_kind), int(call.c.size), call.id[:]
        finally:
            attachment.pool.append(call)
        attachment.load_nodes(sorted(missing))
        roots = lacking
    return entries


def _differ_below(attachment: Attachment, old: bytes, new: bytes, prefix: bytes) -> bool:
    """Does any path that begins with ``prefix`` differ between two states?"""
    stop = successor(prefix)
    batch = attachment.take_batch()
    call = attachment.call()
    try:
        status = attachment.run(call, lib.hs_diff, old, new, prefix, len(prefix), stop, len(stop), batch)
        check(status, f"snapshots {old.hex()} and {new.hex()}")
        return bool(batch.count)
    finally:
        attachment.pool.append(call)
        attachment.give_batch(batch)
