"""BLAKE3 of bytes that Python holds: the only importer of the wheel.

The C core has its own BLAKE3 for what it builds; this one checks what comes back from the disk, and hashes large values
with its many lanes and threads. An id is plain BLAKE3, 32 bytes.
"""

from __future__ import annotations

from blake3 import blake3 as _blake3
from typing_extensions import Buffer

ID_SIZE = 32
# Below this the threads cost more than they bring.
_THREADED_SIZE = 4 << 20


def blake3(data: Buffer) -> bytes:
    """The id of these bytes, 32 bytes; the GIL is released for large ones."""
    if memoryview(data).nbytes < _THREADED_SIZE:
        return _blake3(data).digest()
    return _blake3(data, max_threads=_blake3.AUTO).digest()


def hasher() -> _blake3:
    """BLAKE3 of bytes that come in parts: ``update`` with each, then ``digest``."""
    return _blake3()


def matches(id: bytes, data: Buffer) -> bool:
    """Are these the bytes that ``id`` names?"""
    return blake3(data) == id
