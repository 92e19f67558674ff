"""How stored bytes differ from the bytes they stand for: the only importer of lz4.

    code 0  raw    stored == raw
    code 1  lz4    one LZ4 block without a size of its own: the size is in the row or entry that names it

Sizes come from the disk or from shared memory, so they are bounded before anything is allocated for them.
"""

from __future__ import annotations

import lz4.block
from typing_extensions import Buffer

from .config import BLOB_BYTES_MIN
from .errors import CorruptError

RAW = 0
LZ4 = 1

# The least of the library's levels that look for matches more than once: a fifth smaller than its fast mode.
_LEVEL = 1
# Kept only if an eighth is saved, so that a read does not pay for nothing.
_GAIN_SHIFT = 3
# No LZ4 block grows by more than this; a larger claim is a lie that would cost memory.
_RATIO_MAX = 255
_SLACK = 64
# Nor does any stand for a value that would be a file: rows and entries hold smaller ones.
_RAW_BYTES_MAX = BLOB_BYTES_MIN


def encode_value(raw: bytes) -> bytes | None:
    """The LZ4 block of a value that would be no file, or None where none is worth it. Cost: some us a KiB."""
    size = len(raw)
    stored: bytes = lz4.block.compress(raw, mode="high_compression", compression=_LEVEL, store_size=False)
    return None if len(stored) > size - (size >> _GAIN_SHIFT) else stored


def decode(codec: int, stored: Buffer, raw_size: int) -> bytes:
    """The bytes that ``stored`` stands for. CorruptError where codec, sizes and bytes do not fit together."""
    size = memoryview(stored).nbytes
    if codec == RAW:
        if size != raw_size:
            raise CorruptError(f"{size} raw bytes where {raw_size} were expected")
        return bytes(stored)
    if codec != LZ4:
        raise CorruptError(f"unknown codec {codec}")
    if not 0 <= raw_size <= min(size * _RATIO_MAX + _SLACK, _RAW_BYTES_MAX):
        raise CorruptError(f"{size} compressed bytes cannot stand for {raw_size}")
    try:
        raw: bytes = lz4.block.decompress(stored, uncompressed_size=raw_size)
    except lz4.block.LZ4BlockError as error:
        raise CorruptError(f"{size} bytes are no LZ4 block of {raw_size}: {error}") from error
    if len(raw) != raw_size:
        raise CorruptError(f"an LZ4 block of {len(raw)} bytes where {raw_size} were expected")
    return raw
