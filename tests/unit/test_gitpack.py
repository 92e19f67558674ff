"""Packs: git itself reads them, and makes the same index of them."""

import random
import subprocess
from pathlib import Path

import pytest

from helios_shm.gitpack import ObjectKind, PackWriter, object_id
from tests.git_history import git, init


def packed(directory: Path, objects: list[tuple[ObjectKind, bytes]]) -> PackWriter:
    with PackWriter(directory) as pack:
        for kind, data in objects:
            pack.add(object_id(kind, data), kind, data)
        for kind, data in objects:
            assert pack.read(object_id(kind, data)) == (kind, data)
        pack.finish()
    return pack


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return init(tmp_path / "repository")


def some_objects() -> list[tuple[ObjectKind, bytes]]:
    choose = random.Random(1)
    sizes = [0, 1, 15, 16, 17, 2047, 2048, 100_000, 3_000_000]
    blobs: list[tuple[ObjectKind, bytes]] = [("blob", choose.randbytes(size)) for size in sizes]
    blobs += [("blob", b"%d" % number) for number in range(300)]
    tree = b"100644 f\0" + object_id("blob", b"7")
    commit = f"tree {object_id('tree', tree).hex()}\nauthor A <a> 1 +0000\ncommitter A <a> 1 +0000\n\nm\n"
    return [*blobs, ("tree", tree), ("commit", commit.encode())]


def test_git_reads_a_pack_and_makes_the_same_index(repository: Path, tmp_path: Path) -> None:
    objects = some_objects()
    directory = repository / "objects" / "pack"
    packed(directory, objects)
    (pack,) = directory.glob("pack-*.pack")
    assert sorted(path.suffix for path in directory.iterdir()) == [".idx", ".pack"]
    theirs = tmp_path / "theirs.idx"
    done = subprocess.run(
        ["git", "index-pack", "--strict", "-o", str(theirs), str(pack)],
        capture_output=True,
        text=True,
        cwd=repository,
    )
    assert done.returncode == 0, done.stderr
    assert theirs.read_bytes() == pack.with_suffix(".idx").read_bytes()
    assert f"pack-{done.stdout.split()[-1]}" == pack.stem
    for kind, data in objects:
        id = object_id(kind, data).hex()
        assert git(repository, "cat-file", kind, id) == data
    git(repository, "fsck", "--strict")


def test_what_is_not_finished_leaves_nothing(repository: Path) -> None:
    directory = repository / "objects" / "pack"
    with pytest.raises(KeyboardInterrupt), PackWriter(directory) as pack:
        pack.add(object_id("blob", b"x"), "blob", b"x")
        raise KeyboardInterrupt
    assert list(directory.iterdir()) == []
    with PackWriter(directory) as pack:
        pack.finish()
    assert list(directory.iterdir()) == []


def test_offsets_beyond_2_gib_stand_in_a_table_of_their_own(repository: Path) -> None:
    """As git reads them: the pack has a hole there, which no object is in."""
    directory = repository / "objects" / "pack"
    with PackWriter(directory) as pack:
        for number in range(6):
            data = b"%d" % number
            pack.add(object_id("blob", data), "blob", data)
            pack.places[object_id("blob", data)] = (pack.end + (number % 2 << 31), number, "blob")
        pack._write_index(directory / "far.idx", bytes(20))
        places = dict(pack.places)
    shown = subprocess.run(
        ["git", "show-index"], input=(directory / "far.idx").read_bytes(), capture_output=True, check=True
    )
    found = {}
    for row in shown.stdout.decode().splitlines():
        offset, id, crc = row.split()
        found[bytes.fromhex(id)] = (int(offset), int(crc.strip("()"), 16), "blob")
    assert found == places
