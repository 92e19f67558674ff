"""What errors of the system do: each test tells of one that was once taken for something else."""

import errno
import fcntl
import os
import shutil
from pathlib import Path
from types import ModuleType

import lmdb
import pytest

import helios_shm
from helios_shm import blobs, coordinator, hashing, l2, lifecycle
from helios_shm.attachment import Attachment
from helios_shm.errors import BusyError, StoreError
from helios_shm.store import StorePaths


def refuse(*_: object, **__: object) -> bool:
    raise StoreError("no descriptor is left")


def no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_a_commit_that_moved_the_head_returns_though_nobody_can_look_for_a_coordinator(
    engine: helios_shm.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looked now and then whether a coordinator runs, after the head had moved; an error there came out of commit,
    which says that nothing moved. A retry then committed twice."""
    monkeypatch.setattr(lifecycle, "ensure_coordinator", refuse)
    for n in range(2):
        ws = engine.branch("main").fork()
        ws.put("a", b"%d" % n)
        ws["b"] = b"2"
        ws.commit(f"{n}")
        assert not ws.edits
    assert engine.branch("main").last_commit.sequence == 2


def test_a_durable_commit_that_cannot_be_waited_for_says_that_it_happened(
    engine: helios_shm.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Attachment, "wait_durable", refuse)
        ws = engine.branch("main").fork()
        ws["a"] = b"1"
        with pytest.raises(BusyError) as caught:
            ws.commit(durable=True)
    assert caught.value.commit == engine.branch("main").last_commit


def test_who_may_commit_never_gets_private_memory(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """access(2) failed for want of memory; os.access called it a no; the engine took private memory, in which commits
    were acknowledged, and forgotten at the end."""
    answers = iter([True])
    monkeypatch.setattr(lifecycle, "is_writable", lambda paths: next(answers, False))
    with helios_shm.open(store_path) as engine:
        ws = engine.branch("main").fork()
        ws["a"] = b"1"
        ws.commit(durable=True)
    monkeypatch.undo()
    with helios_shm.open(store_path) as engine:
        assert dict(engine.branch("main").head) == {"a": b"1"}


def test_a_store_of_which_it_cannot_be_told_is_not_called_read_only(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helios_shm.open(store_path).close()
    monkeypatch.setattr(lifecycle, "may_write", refuse)
    with pytest.raises(StoreError, match="no descriptor is left"):
        helios_shm.open(store_path)


def test_a_description_that_is_written_in_pieces_is_whole(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """write(2) may take less than it was given; the store was then there, and no store."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[:7])))
    lifecycle.create_store(StorePaths.of(store_path), ephemeral=False)
    assert lifecycle.identify(StorePaths.of(store_path)).ephemeral is False


@pytest.mark.parametrize("module, name", [(fcntl, "flock"), (os, "chmod"), (os, "fsync")])
def test_a_creation_that_fails_leaves_nothing(
    store_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str
) -> None:
    """What failed between making the directory and filling it left a descriptor, and an empty directory that nobody
    took for a leftover."""
    monkeypatch.setattr(module, name, no_locks)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(StoreError):
        lifecycle.create_store(StorePaths.of(store_path), ephemeral=False)
    assert set(os.listdir("/proc/self/fd")) == before
    assert os.listdir(store_path.parent) == []


def test_a_database_that_cannot_be_locked_when_it_is_made_is_no_other_kind_of_file(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB, refused a lock on the lock file that it was given empty, says that it is not one of LMDB's."""

    def refused(*_: object, **__: object) -> None:
        raise lmdb.InvalidError("not an LMDB file")

    monkeypatch.setattr(lmdb, "open", refused)
    with pytest.raises(StoreError, match="cannot use"):
        lifecycle.create_store(StorePaths.of(store_path), ephemeral=False)
    assert os.listdir(store_path.parent) == []


def test_a_gate_without_locks_is_an_error_of_ours(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = StorePaths.of(store_path)
    lifecycle.create_store(paths, ephemeral=False)

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(StoreError), lifecycle.gate(paths):
        pass


def test_what_is_left_of_an_unfinished_ephemeral_store_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / f".{lifecycle.EPHEMERAL_PREFIX}1-1-abcd.creating-0123"
    (left / "db").mkdir(parents=True)
    assert lifecycle.sweep_ephemeral() == 1
    assert not left.exists()


def test_a_large_value_whose_sync_failed_is_written_anew(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system drops pages that it could not write and says so once: the sync of the next round succeeded, and had
    written nothing."""
    paths = StorePaths.of(store_path)
    lifecycle.create_store(paths, ephemeral=False)
    value = b"v" * 300_000
    id = hashing.blake3(value)
    blobs.write(paths, id, value)
    path = blobs.path_of(paths, id)
    before, synced, fsync = path.stat().st_ino, [], os.fsync
    keeper = os.open(path, os.O_RDONLY)  # so that the number is not used again

    def sync(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        if synced[-1] == before or len(synced) <= 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(OSError):
        blobs.sync(paths, [id])
    assert blobs.sync(paths, [id]) == []
    os.close(keeper)
    after = path.stat()
    assert before != after.st_ino and after.st_ino in synced and synced.count(before) == 1
    assert path.read_bytes() == value and after.st_mode & 0o777 == 0o400


def test_a_locator_whose_sync_failed_is_given_up(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second msync would succeed, and the checkpoint then cover rows that are on no disk."""
    paths = StorePaths.of(store_path)
    lifecycle.create_store(paths, ephemeral=False)
    writer = l2.Writer(paths, sync=True)
    keeper = coordinator.LocatorKeeper(paths, writer, durable=True)
    with monkeypatch.context() as patch:
        patch.setattr(l2.Locator, "checkpoint", refuse)
        with pytest.raises(StoreError):
            keeper.checkpoint()
    assert not paths.locator.exists()
    shutil.copy(paths.info, paths.locator.with_name("locator.next"))
    coordinator.LocatorKeeper(paths, writer, durable=True)
    assert paths.locator.exists() and not paths.locator.with_name("locator.next").exists()
    writer.close()
