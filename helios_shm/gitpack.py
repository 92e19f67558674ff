"""A pack of git's: many objects in one file, written as they come and seen by nobody until it has its name.

    tmp_pack_...   "PACK" version count | {kind and size, zlib}... | SHA-1    ->  pack-SHA.pack
                                                                                  pack-SHA.idx  ids, CRCs, offsets

No deltas: whoever keeps the repository repacks it. What was added can be read back before the pack is finished. The
formats are git's own (gitformat-pack: pack version 2, index version 2).
"""

from __future__ import annotations

import hashlib
import os
import secrets
import struct
import zlib
from itertools import accumulate
from pathlib import Path
from typing import Final, Literal, TypeAlias

ObjectKind: TypeAlias = Literal["commit", "tree", "blob"]
_KINDS: Final[dict[ObjectKind, int]] = {"commit": 1, "tree": 2, "blob": 3}
_HEADER = struct.Struct(">4sII")
_INDEX_MAGIC = b"\xfftOc\0\0\0\2"
_FAR = 1 << 31  # offsets from here on stand in a table of their own
_LEVEL = 1
_COPY_BYTES = 1 << 20


def object_id(kind: ObjectKind, data: bytes) -> bytes:
    """The id of an object, 20 bytes."""
    header = f"{kind} {len(data)}\0".encode()
    return hashlib.sha1(header + data, usedforsecurity=False).digest()


class PackWriter:
    """A pack on its way into ``objects/pack``. A context manager: what is not finished leaves nothing."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.places: dict[bytes, tuple[int, int, ObjectKind]] = {}  # id -> offset, CRC of the entry, kind
        self.path: Path | None = None
        self.end = _HEADER.size

    def __enter__(self) -> PackWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self.path is not None:
            self.file.close()
            self.path.unlink(missing_ok=True)
            self.path = None

    def __contains__(self, id: bytes) -> bool:
        return id in self.places

    def __len__(self) -> int:
        return len(self.places)

    def add(self, id: bytes, kind: ObjectKind, data: bytes) -> None:
        """Append an object that is not in it yet."""
        if self.path is None:
            self._begin()
        entry = _entry_head(_KINDS[kind], len(data)) + zlib.compress(data, _LEVEL)
        self.file.seek(self.end)
        self.file.write(entry)
        self.places[id] = (self.end, zlib.crc32(entry), kind)
        self.end += len(entry)

    def read(self, id: bytes) -> tuple[ObjectKind, bytes]:
        """The kind and bytes of an object that was added."""
        offset, _, kind = self.places[id]
        self.file.flush()
        descriptor, inflate = self.file.fileno(), zlib.decompressobj()
        head = os.pread(descriptor, 10, offset)
        at = offset + 1 + next(n for n, byte in enumerate(head) if byte < 128)
        parts = []
        while not inflate.eof and (data := os.pread(descriptor, 1 << 16, at)):
            parts.append(inflate.decompress(data))
            at += len(data)
        return kind, b"".join(parts)

    def finish(self) -> None:
        """Give it its name; from then on git sees it. On disk before that."""
        if self.path is None:
            return
        self.file.seek(0)
        self.file.write(_HEADER.pack(b"PACK", 2, len(self.places)))
        self.file.seek(0)
        hasher = hashlib.sha1(usedforsecurity=False)
        while data := self.file.read(_COPY_BYTES):
            hasher.update(data)
        self.file.write(hasher.digest())
        self.file.flush()
        os.fsync(self.file.fileno())
        name = self.directory / f"pack-{hasher.hexdigest()}"
        os.replace(self.path, name.with_suffix(".pack"))
        self.path = None
        self.file.close()
        self._write_index(name.with_suffix(".idx"), hasher.digest())

    def _begin(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.path, descriptor = _create(self.directory, "tmp_pack_")
        self.file = os.fdopen(descriptor, "w+b")
        self.file.write(bytes(_HEADER.size))

    def _write_index(self, name: Path, pack: bytes) -> None:
        ids = sorted(self.places)
        counts = [0] * 256
        for id in ids:
            counts[id[0]] += 1
        offsets = [self.places[id][0] for id in ids]
        far = [offset for offset in offsets if offset >= _FAR]
        numbers = iter(range(_FAR, _FAR + len(far)))
        near = [next(numbers) if offset >= _FAR else offset for offset in offsets]
        data = b"".join(
            [_INDEX_MAGIC, struct.pack(">256I", *accumulate(counts)), *ids,
             struct.pack(f">{len(ids)}I", *(self.places[id][1] for id in ids)),
             struct.pack(f">{len(ids)}I", *near), struct.pack(f">{len(far)}Q", *far), pack]
        )  # fmt: skip
        path, descriptor = _create(self.directory, "tmp_idx_")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data + hashlib.sha1(data, usedforsecurity=False).digest())
            file.flush()
            os.fsync(descriptor)
        os.replace(path, name)


def _create(directory: Path, prefix: str) -> tuple[Path, int]:
    """A new file with the mode that git gives packs."""
    path = directory / f"{prefix}{secrets.token_hex(8)}"
    return path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)


def _entry_head(kind: int, size: int) -> bytes:
    """Kind and size, seven bits a byte after the first four."""
    head = bytearray()
    byte, size = kind << 4 | size & 15, size >> 4
    while size:
        head.append(byte | 128)
        byte, size = size & 127, size >> 7
    head.append(byte)
    return bytes(head)
