"""blobs: a large value is a file that is there whole or not at all, and is checked before it is believed."""

import errno
import os
from pathlib import Path

import pytest

from helios_shm import blobs
from helios_shm.errors import CapacityError, CorruptError, StoreError
from helios_shm.hashing import blake3
from helios_shm.store import StorePaths

VALUE = os.urandom(300_000)
ID = blake3(VALUE)


@pytest.fixture
def store(tmp_path: Path) -> StorePaths:
    (tmp_path / "blobs").mkdir()
    return StorePaths(tmp_path)


def replace(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def test_a_written_value_is_read_back_as_a_read_only_view(store: StorePaths) -> None:
    blobs.write(store, ID, VALUE)
    view = blobs.read(store, ID, len(VALUE))
    assert view is not None and view == VALUE and view.readonly


def test_the_file_is_private_and_named_by_the_id(store: StorePaths) -> None:
    os.umask(os.umask(0))
    blobs.write(store, ID, VALUE)
    path = store.blobs / ID.hex()[:2] / ID.hex()[2:]
    assert path.read_bytes() == VALUE and path.stat().st_mode & 0o777 == 0o400
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert os.listdir(path.parent) == [path.name]


def test_a_value_that_is_there_is_not_written_again(store: StorePaths) -> None:
    blobs.write(store, ID, VALUE)
    inode = blobs.path_of(store, ID).stat().st_ino
    blobs.write(store, ID, memoryview(VALUE))
    assert blobs.path_of(store, ID).stat().st_ino == inode


@pytest.mark.parametrize("damage", [VALUE[:-1], b"", VALUE[:-1] + bytes([VALUE[-1] ^ 1])])
def test_a_file_with_other_bytes_is_replaced(store: StorePaths, damage: bytes) -> None:
    """After a power loss a file that nobody synced may hold anything."""
    blobs.write(store, ID, VALUE)
    replace(blobs.path_of(store, ID), damage)
    blobs.write(store, ID, VALUE)
    assert blobs.read(store, ID, len(VALUE)) == VALUE


def test_no_file_is_none(store: StorePaths) -> None:
    assert blobs.read(store, ID, len(VALUE)) is None


def test_another_size_is_corrupt(store: StorePaths) -> None:
    blobs.write(store, ID, VALUE)
    with pytest.raises(CorruptError, match="were expected"):
        blobs.read(store, ID, len(VALUE) + 1)


def test_other_bytes_are_corrupt_each_time(store: StorePaths) -> None:
    blobs.write(store, ID, VALUE)
    replace(blobs.path_of(store, ID), bytes(len(VALUE)))
    for _ in range(2):
        with pytest.raises(CorruptError, match=ID.hex()):
            blobs.read(store, ID, len(VALUE))


def test_a_file_is_hashed_once_in_a_process(store: StorePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs.write(store, ID, VALUE)
    blobs.read(store, ID, len(VALUE))
    monkeypatch.setattr(blobs, "blake3", lambda data: pytest.fail("hashed again"))
    assert blobs.read(store, ID, len(VALUE)) == VALUE


def test_remembering_what_was_hashed_is_bounded(store: StorePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "_CHECKED_MAX", 2)
    for n in range(5):
        value = bytes([n]) * 10
        blobs.write(store, blake3(value), value)
        assert blobs.read(store, blake3(value), 10) == value
        assert len(blobs._checked) <= 2


def test_a_view_outlives_its_file(store: StorePaths) -> None:
    blobs.write(store, ID, VALUE)
    view = blobs.read(store, ID, len(VALUE))
    blobs.path_of(store, ID).unlink()
    assert view == VALUE


def test_an_empty_value_can_be_a_file(store: StorePaths) -> None:
    blobs.write(store, blake3(b""), b"")
    assert blobs.read(store, blake3(b""), 0) == b""


def test_a_full_disk_leaves_nothing_behind(store: StorePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(CapacityError, match="300000 bytes"):
        blobs.write(store, ID, VALUE)
    monkeypatch.undo()
    assert os.listdir(blobs.path_of(store, ID).parent) == []


def test_other_failures_are_store_errors(store: StorePaths) -> None:
    blobs.path_of(store, ID).parent.write_bytes(b"a file where the directory should be")
    with pytest.raises(StoreError):
        blobs.write(store, ID, VALUE)
    with pytest.raises(StoreError):
        blobs.read(store, ID, len(VALUE))


def test_sync_names_the_files_that_are_missing(store: StorePaths) -> None:
    blobs.write(store, ID, VALUE)
    assert blobs.sync(store, [ID, bytes(32)]) == [bytes(32)]
    assert blobs.sync(store, []) == []
