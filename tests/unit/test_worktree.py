"""The index of a directory: it is believed only of the directory, and of the files, that it was written of."""

import os
import struct
from pathlib import Path

import pytest

from helios_shm import worktree
from helios_shm.store import StorePaths
from helios_shm.worktree import CHECKED, NO_KEY, PENDING, WROTE, Key, Row, Worktree, settled, unsettled

SECOND = 1_000_000_000


def stat_of(mtime_ns: int, ctime_ns: int, *, size: int = 7, kind: int = 0) -> bytes:
    return struct.pack("<QqqQQQ", size, mtime_ns, ctime_ns, 11, 12, kind)


@pytest.fixture
def store(tmp_path: Path) -> StorePaths:
    root = tmp_path / "store"
    root.mkdir()
    return StorePaths(root)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "place"
    path.mkdir()
    return path


def index_of(store: StorePaths, place: Path, *, writable: bool = True) -> Worktree:
    return Worktree(store, str(place), place.stat(), writable=writable)


ROWS = {
    "a": Row(stat_of(1, 2), bytes(range(32)), WROTE | CHECKED),
    "d/\udcff": Row(stat_of(3, 4, kind=2), bytes(32), PENDING),
    "ü": Row(stat_of(5, 6), b"x" * 32, 0),
}


@pytest.mark.parametrize(
    ("mtime", "ctime", "now", "expected"),
    [
        (5, 6, 7, True),
        (5, 7, 7, False),
        (7, 6, 7, False),
        (9, 6, 7, False),
        (3 * SECOND, 3 * SECOND, 4 * SECOND, False),  # whole seconds: a file system that knows no less
        (3 * SECOND, 3 * SECOND, 6 * SECOND, True),
        (3 * SECOND, 3 * SECOND + 1, 4 * SECOND, True),
    ],
)
def test_what_changed_in_the_same_tick_is_not_believed(
    mtime: int, ctime: int, now: int, expected: bool
) -> None:
    assert settled(stat_of(mtime, ctime), now) == expected


def test_unsettled_stat_is_that_of_no_file_and_keeps_size_and_kind() -> None:
    stat = unsettled(stat_of(5, 6, kind=1))
    row = Row(stat, bytes(32), 0)
    assert (row.size, row.kind) == (7, 1)
    assert stat == stat_of(0, 0, kind=1)


def test_rows_and_key_come_back(store: StorePaths, place: Path) -> None:
    key = Key(b"k" * 32, 3, 0, 0)
    index_of(store, place).save(ROWS, key)
    found = index_of(store, place)
    assert (found.rows, found.key) == (ROWS, key)
    rows, names = found.says(key.name) or (b"", b"")
    assert (len(rows), bytes(names).count(0)) == (3 * 88, 3)
    assert found.says(b"other" + bytes(27)) is None
    assert store.worktrees.stat().st_mode & 0o777 == 0o700


def test_key_that_depends_on_the_directory_ends_with_its_times(store: StorePaths, place: Path) -> None:
    tree = index_of(store, place)
    tree.save({}, Key(b"k" * 32, 0, *tree.times))
    assert index_of(store, place).says(b"k" * 32) is not None
    os.utime(place, ns=(1, 1))
    assert index_of(store, place).says(b"k" * 32) is None


def test_index_of_another_directory_of_that_name_is_not_used(store: StorePaths, place: Path) -> None:
    index_of(store, place).save(ROWS)
    place.rename(place.with_name("away"))
    place.mkdir()
    assert index_of(store, place).rows == {}
    assert index_of(store, place).key == NO_KEY


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "version"])
def test_damaged_index_is_none(store: StorePaths, place: Path, damage: str) -> None:
    tree = index_of(store, place)
    tree.save(ROWS)
    data = bytearray(tree.path.read_bytes())
    assert worktree.is_whole(bytes(data))
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    elif damage == "version":
        data[8] = 2
        data[-32:] = worktree.blake3(bytes(data[:-32]))
    else:
        del data[len(data) // 2 if damage == "truncated" else 0 :]
    tree.path.write_bytes(data)
    assert not worktree.is_whole(bytes(data))
    assert index_of(store, place).rows == {}


def test_nothing_is_written_that_may_not_be(store: StorePaths, place: Path) -> None:
    index_of(store, place, writable=False).save(ROWS)
    assert not store.worktrees.exists()
    store.worktrees.write_bytes(b"")  # no directory can be made there: no index, and no error
    index_of(store, place).save(ROWS)


def test_of_many_indexes_those_of_gone_directories_go(
    store: StorePaths, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worktree, "_FILES_MANY", 2)
    for number in range(4):
        gone = place / str(number)
        gone.mkdir()
        index_of(store, gone).save(ROWS)
        if number < 2:
            gone.rmdir()
    index_of(store, place).save(ROWS)
    assert len(list(store.worktrees.iterdir())) == 3
