"""check: a whole store has nothing to report; each kind of damage is named; nothing ends the process that asks."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import helios_shm
from helios_shm import blobs, check, l2, lifecycle
from helios_shm.hashing import blake3
from helios_shm.pages import Meta, Pages, meta_read, page_size_of
from helios_shm.store import StorePaths

RING_BYTES = 4 << 20
LARGE = os.urandom(300_000)


def fill(path: Path) -> None:
    """Two branches and a deleted one, values of every form, several packs."""
    with helios_shm.open(path, l1_bytes=RING_BYTES) as engine:
        main = engine.branch("main")
        for n in range(8):
            ws = main.fork()
            ws.update({f"key/{n}/{i}": b"%d %d" % (n, i) for i in range(60)})
            ws[f"random/{n}"] = os.urandom(200)
            ws["packed"] = b"%d" % n * 8000
            if n == 3:
                ws["large"] = LARGE
            ws.commit(f"commit {n}", metadata={"n": n}, durable=n % 3 == 0)
        with engine.branch("other", at=main.at(4).snapshot).transaction() as ws:
            ws["other"] = b"1"
        engine.branch("gone", at=main.head).delete()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> StorePaths:
    """A store that nobody has open; tests damage copies of it."""
    paths = StorePaths(tmp_path_factory.mktemp("check") / "store")
    fill(paths.root)
    while lifecycle.is_in_use(paths):
        time.sleep(0.01)
    return paths


@pytest.fixture
def copy(whole: StorePaths, tmp_path: Path) -> StorePaths:
    shutil.copytree(whole.root, tmp_path / "copy")
    return StorePaths(tmp_path / "copy")


@pytest.fixture
def opened(store_path: Path) -> Iterator[helios_shm.Engine]:
    fill(store_path)
    with helios_shm.open(store_path, l1_bytes=RING_BYTES) as engine:
        yield engine


def flip(path: Path, offset: int, bit: int = 0) -> None:
    path.chmod(0o600)
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def places_of(paths: StorePaths, wanted: bytes) -> list[int]:
    """Wherever these bytes stand in the database: where they count, and on pages that are free by now."""
    whole = (paths.db / "data.mdb").read_bytes()
    places = [found.start() for found in re.finditer(re.escape(wanted), whole, re.DOTALL)]
    assert places
    return places


def flip_all(paths: StorePaths, wanted: bytes, offset: int, bit: int = 0) -> None:
    """Flip one bit in each copy of these bytes."""
    for place in places_of(paths, wanted):
        flip(paths.db / "data.mdb", place + offset, bit)


def said(paths: StorePaths) -> str:
    return "\n".join(check.look_at_files(paths))


# --- a whole store ---


def test_a_whole_store_has_nothing_to_report(opened: helios_shm.Engine) -> None:
    report = opened.check()
    assert report == helios_shm.CheckReport(True, ())
    assert opened.check(repair=True) == report


def test_a_new_and_an_ephemeral_store_have_nothing_to_report(store_path: Path) -> None:
    for path in (store_path, None):
        with helios_shm.open(path, l1_bytes=RING_BYTES) as engine:
            assert engine.check().damage == ()
            with engine.branch("main").transaction() as ws:
                ws["a"] = b"1" * 100
            assert engine.check().damage == ()


def test_a_read_only_engine_can_check_and_not_repair(
    copy: StorePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    with helios_shm.open(copy.root, readonly=True, l1_bytes=RING_BYTES) as engine:
        assert engine.check().ok
        with pytest.raises(helios_shm.ReadOnlyError):
            engine.check(repair=True)
    monkeypatch.setattr(lifecycle, "is_writable", lambda paths: False)
    with helios_shm.open(copy.root, readonly=True) as engine:
        assert engine.check().ok


def test_it_works_while_others_commit_and_raises_no_false_alarm(opened: helios_shm.Engine) -> None:
    code = """
import os, sys, helios_shm
with helios_shm.open(sys.argv[1]) as engine:
    branch, n = engine.branch("busy"), 0
    print("begun", flush=True)
    while not os.path.exists(sys.argv[2]):
        n += 1
        with branch.transaction() as ws:
            ws.update({f"{n % 50}/{i}": os.urandom(n % 300) for i in range(5)})
        # Durably, so that there are not more commits than a few hundred a second to be looked at.
        with branch.transaction(durable=True) as ws:
            ws["large"] = os.urandom(300_000 if n % 20 == 0 else 10)
"""
    stop = opened.path.with_name("stop")
    command = [sys.executable, "-c", code, os.fspath(opened.path), os.fspath(stop)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as busy:
        try:
            assert busy.stdout and busy.stdout.readline() == "begun\n"
            for _ in range(3):
                assert opened.check().damage == ()
        finally:
            stop.touch()
    assert busy.returncode == 0
    assert opened.check().damage == ()


def test_a_closed_engine_checks_nothing(opened: helios_shm.Engine) -> None:
    opened.close()
    with pytest.raises(helios_shm.ClosedError):
        opened.check()


def test_a_store_of_many_entries_is_indexed_in_a_file(
    copy: StorePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "_DICT_ENTRIES_MAX", 0)
    assert said(copy) == ""
    blobs.path_of(copy, blake3(LARGE)).unlink()
    assert "path 'large'" in said(copy)


def test_deep_trees_and_many_pages_are_walked(store_path: Path) -> None:
    with helios_shm.open(store_path, l1_bytes=16 << 20) as engine:
        branch = engine.branch("main")
        for n in range(10):
            ws = branch.fork()
            ws.update({f"{i:06}/{'x' * (i % 30)}": b"%d" % (n * i) for i in range(n, 20_000, 17)})
            ws.commit(durable=True)
        for n in range(300):
            engine.branch(f"branch/{n}/{'y' * 100}", at=branch.head)
        engine.sync()
        assert engine.check().damage == ()
        data = memoryview((store_path / "db" / "data.mdb").read_bytes())
        metas = [meta_read(data, page, 4096) for page in (0, 1)]
        newest = max((meta for meta in metas if isinstance(meta, Meta)), key=lambda meta: meta.transaction)
        assert Pages(data, newest).databases()[b"branches"].depth > 1


# --- damage on disk, each kind ---


def test_description(copy: StorePaths) -> None:
    text = copy.info.read_text()
    for old, new in (('"format": 1', '"format": 2'), ("{", "["), ("helios_shm", "helios"), ("\n", "\n\n")):
        copy.info.write_text(text.replace(old, new, 1))
        assert "helios.json: " in said(copy)
    uuid = text.index('"uuid": "') + 9
    copy.info.write_text(text[:uuid] + ("0" if text[uuid] != "0" else "1") + text[uuid + 1 :])
    assert "meta: the database belongs to another store than helios.json" in said(copy)
    copy.info.unlink()
    assert "helios.json: " in said(copy)


def test_a_description_of_another_store_is_no_way_into_this_one(copy: StorePaths) -> None:
    """It would lead to another segment than the one in which commits may wait to be saved."""
    text = copy.info.read_text()
    copy.info.write_text(re.sub('("uuid": ").', r"\g<1>0" if '"uuid": "0' not in text else r"\g<1>1", text))
    for readonly in (False, True):
        with pytest.raises(helios_shm.CorruptError, match="the database beside it"):
            helios_shm.open(copy.root, readonly=readonly, l1_bytes=RING_BYTES)


def test_a_value_and_a_node_are_named_with_their_pack_and_what_needs_them(copy: StorePaths) -> None:
    with helios_shm.open(copy.root, readonly=True) as engine:
        head = engine.branch("main").head
        value, node = bytes.fromhex(head.stat("random/7").id), bytes.fromhex(head.id)
        expected = head["random/7"]
    while lifecycle.is_in_use(copy):
        time.sleep(0.01)
    flip_all(copy, expected, 100)
    found = said(copy)
    assert f"value {value.hex()}: the bytes have another hash" in found and "pack " in found
    assert (
        f"value {value.hex()} of path 'random/7' is nowhere" in found and "branch 'gone', commit 1 " in found
    )
    reader = l2.Reader(copy)
    entry = reader.get(node)
    reader.close()
    assert entry is not None
    flip_all(copy, entry.raw, 20, 3)
    found = said(copy)
    assert f"node {node.hex()}: the bytes have another hash" in found
    assert (
        f"branch 'main', commit 8 (serial 8): node {node.hex()} of its state is damaged or missing" in found
    )
    assert "random/7" not in found, "nothing below the root of commit 8 can be reached"


def test_a_table_of_contents_is_named(copy: StorePaths) -> None:
    whole = (copy.db / "data.mdb").read_bytes()
    for place in places_of(copy, blake3(LARGE)):
        if whole[place + 48] == l2.BLOB:
            flip(copy.db / "data.mdb", place + 3)
    found = said(copy)
    assert "its table of contents fails its checksum" in found
    assert "locator: " in found and "entries are not found through it" in found


@pytest.mark.parametrize("kind", ["changed", "cut", "missing", "directory"])
def test_a_large_value_is_named_with_its_file(copy: StorePaths, kind: str) -> None:
    path = blobs.path_of(copy, blake3(LARGE))
    path.chmod(0o600)
    if kind == "changed":
        flip(path, 200_000)
    elif kind == "cut":
        os.truncate(path, 299_999)
    else:
        path.unlink()
    if kind == "directory":
        path.mkdir()
    found = said(copy)
    assert path.name in found and f"large value {blake3(LARGE).hex()}" in found
    assert "path 'large'" in found


def test_log_and_row_are_named(copy: StorePaths) -> None:
    whole = (copy.db / "data.mdb").read_bytes()
    flip_all(copy, b"commit 7", 2)
    found = said(copy)
    assert "log of branch 'main' from serial " in found and "the block is damaged" in found
    assert "branch 'main': its newest commit cannot be read" in found
    (copy.db / "data.mdb").write_bytes(whole)
    reader = l2.Reader(copy)
    row = reader.branch("other")
    reader.close()
    assert row is not None
    flip_all(copy, l2.row_encode(row), 24)
    assert "branch 'other': its row in L2 fails its checksum" in said(copy)


def test_strange_and_left_behind_files_are_named(copy: StorePaths) -> None:
    (copy.root / "stray").touch()
    (copy.blobs / "zz").mkdir()
    directory = blobs.path_of(copy, blake3(LARGE)).parent
    (directory / "short").touch()
    (directory / ".tmp-young").touch()
    (directory / ".tmp-old").touch()
    os.utime(directory / ".tmp-old", (0, 0))
    found = said(copy).splitlines()
    assert found == [
        "stray: no file of a store",
        f"blobs/{directory.name}/.tmp-old: left behind by a writer that died",
        f"blobs/{directory.name}/short: no name of a large value",
        "blobs/zz: no directory of large values",
    ]


def test_the_locator_is_compared_with_the_packs(copy: StorePaths) -> None:
    data = copy.locator.read_bytes()
    row = next(at for at in range(4096, len(data), 8) if data[at : at + 8] != bytes(8))
    empty = next(at for at in range(4096, len(data), 8) if data[at : at + 8] == bytes(8))
    for offset, expected in (
        (row + 3, "locator: 1 entries are not found through it"),
        (empty + 1, "locator: 1 of its rows name nothing"),
        (25, "entries are not found through it"),
        (65, "locator: it has all packs up to "),
        (88, "and counts "),
        (0, "locator: the file is none"),
    ):
        flip(copy.locator, offset)
        assert expected in said(copy), offset
        copy.locator.write_bytes(data)
    copy.locator.unlink()
    assert said(copy) == "", "a locator may be missing: it is made anew"


def test_meta_pages_and_lost_pages_are_named(copy: StorePaths) -> None:
    path = copy.db / "data.mdb"
    whole = path.read_bytes()
    data = memoryview(whole)
    assert page_size_of(data) == 4096
    metas = [meta_read(data, page, 4096) for page in (0, 1)]
    newest = max((meta for meta in metas if isinstance(meta, Meta)), key=lambda meta: meta.transaction)
    at = newest.page * 4096 + 16
    for offset, expected in (
        (at, "meta page"),
        (at + 128, "belongs into the other"),
        (at + 129, "its meta pages are of transactions"),
        (at + 24 + 40, "free pages: "),
        (at + 24 + 48 + 40, "is used twice"),
    ):
        flip(path, offset)
        found = said(copy)
        assert "the database is damaged: " in found and expected in found, offset
        path.write_bytes(whole)
    os.truncate(path, len(whole) // 2)
    assert "pages where its last one is called" in said(copy)
    os.truncate(path, 100)
    assert "no meta page can be used" in said(copy)
    os.truncate(path, 0)
    assert "the database cannot be read" in said(copy)
    path.unlink()
    assert "the database cannot be read" in said(copy)


def test_no_garbage_in_any_file_ends_it(copy: StorePaths) -> None:
    """Runs of random bytes and of zeros, everywhere."""
    for path in (copy.db / "data.mdb", copy.locator, copy.info):
        whole = path.read_bytes()
        step = max(1, len(whole) // 30)
        for at in range(0, len(whole), step):
            for garbage in (os.urandom(64), bytes(64), b"\xff" * 64):
                path.write_bytes((whole[:at] + garbage + whole[at + 64 :])[: len(whole)])
                check.look_at_files(copy)
        path.write_bytes(whole)
    assert said(copy) == ""


# --- a database that ends whoever opens it ---


@pytest.mark.parametrize("how", [signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS])
def test_a_process_that_the_database_ends_is_reported_and_the_rest_is_looked_at(
    opened: helios_shm.Engine, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    program = (
        f"import os, sys; sys.argv[2] == 'pinned' and os.kill(os.getpid(), {int(how)}); {check._PROGRAM}"
    )
    monkeypatch.setattr(check, "_PROGRAM", program)
    (opened.path / "stray").touch()
    assert opened.check().damage == (
        f"the database is damaged: a process that checked it was ended by {how.name}",
        "stray: no file of a store",
    )


def test_a_program_that_fails_is_reported_with_its_reason(
    opened: helios_shm.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "_PROGRAM", "raise SystemExit('no luck')")
    assert all("no luck" in sentence for sentence in opened.check().damage)


def test_a_database_that_lmdb_refuses_is_reported_and_looked_at(opened: helios_shm.Engine) -> None:
    opened.sync()
    for page in (0, 1):
        flip(opened.path / "db" / "data.mdb", 4096 * page + 16)
    damage = opened.check().damage
    assert any("the database cannot be opened" in sentence for sentence in damage)
    assert any("no meta page can be used" in sentence for sentence in damage)


# --- shared memory ---


def test_damage_in_shared_memory_is_named(opened: helios_shm.Engine) -> None:
    with opened.branch("shared").transaction() as ws:
        ws["unique"] = value = os.urandom(500)
    segment = Path("/dev/shm" + lifecycle.identify(StorePaths(opened.path)).segment_name)
    with open(segment, "r+b") as file:
        at = file.read().index(value)
        opened.sync()
        file.seek(at)
        file.write(bytes([value[0] ^ 1]))
    damage = opened.check().damage
    assert len(damage) == 1
    assert damage[0].startswith("shared memory, chunk ") and blake3(value).hex() in damage[0]
    assert opened.branch("shared").head["unique"] == value, "L2 has it"


def test_damaged_head_in_shared_memory_is_named(opened: helios_shm.Engine) -> None:
    with opened.branch("shared").transaction("a message that stands in one place") as ws:
        ws["a"] = b"1"
    segment = Path("/dev/shm" + lifecycle.identify(StorePaths(opened.path)).segment_name)
    with open(segment, "r+b") as file:
        at = file.read().index(b"a message that stands in one place")
    flip(segment, at)
    damage = opened.check().damage
    flip(segment, at)  # or nothing could be written to disk any more
    assert any("its commit record is damaged" in sentence for sentence in damage)


# --- mending ---


def test_repair_renews_the_locator_and_removes_what_was_left_behind(opened: helios_shm.Engine) -> None:
    opened.sync()
    store = StorePaths(opened.path)
    store.worktrees.mkdir(exist_ok=True)
    left = [blobs.path_of(store, blake3(LARGE)).with_name(".tmp-left"), store.worktrees / ".tmp-left"]
    for path in left:
        path.touch()
        os.utime(path, (0, 0))
    flip(store.locator, 25)  # the seed: nothing is found any more
    assert not opened.check().ok
    report = opened.check(repair=True)
    assert report.ok
    assert [sentence.split(":")[0] for sentence in report.damage] == ["mended"] * 3
    assert not any(path.exists() for path in left) and opened.check() == helios_shm.CheckReport(True, ())


def test_files_that_are_being_written_are_no_damage(
    opened: helios_shm.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    written: list[str] = []

    def rename(source: Path, target: Path) -> None:
        written.append(target.parent.name)
        assert opened.check().ok, source
        os.replace(source, target)

    monkeypatch.setattr("helios_shm.blobs.os.rename", rename)
    opened.empty.fork().ingest(tmp_path / "there")
    opened.branch("main").head.materialize(tmp_path / "there")
    opened.gc()
    assert set(written) == {"worktrees", opened.path.name}


def test_repair_leaves_what_it_cannot_mend_alone_and_named(opened: helios_shm.Engine) -> None:
    opened.sync()
    path = blobs.path_of(StorePaths(opened.path), blake3(LARGE))
    flip(path, 5)
    report = opened.check(repair=True)
    assert not report.ok and path.exists()
    assert any(path.name in sentence for sentence in report.damage)


# --- pages ---


def walked(data: bytearray, meta: Meta) -> list[str]:
    pages = Pages(memoryview(data), meta)
    for tree in pages.databases().values():
        for _ in pages.entries(tree):
            pass
    pages.account()
    return pages.damage


def test_no_bit_of_a_page_ends_the_walk_and_those_of_its_header_are_told(copy: StorePaths) -> None:
    data = bytearray((copy.db / "data.mdb").read_bytes())
    metas = [meta_read(memoryview(data), page, 4096) for page in (0, 1)]
    meta = max((found for found in metas if isinstance(found, Meta)), key=lambda found: found.transaction)
    pages = Pages(memoryview(data), meta, notes_use=True)
    for tree in pages.databases().values():
        list(pages.entries(tree))
    pages.account()
    assert not pages.damage
    headers = {at for at, size in pages.used if at % 4096 == 0 and size == 8}
    chance = random.Random(7)
    for start in sorted(headers):
        for at in (*range(start, start + 8), start + 10, start + 11):
            bit = 1 << chance.randrange(8)
            data[at] ^= bit
            assert walked(data, meta), f"byte {at - start} of page {start // 4096}"
            data[at] ^= bit
    inside = [at + offset for at, size in pages.used for offset in range(min(size, 24))]
    for at in chance.sample(inside, min(len(inside), 500)):
        bit = 1 << chance.randrange(8)
        data[at] ^= bit
        walked(data, meta)  # a key or a value may be any other
        data[at] ^= bit


def test_each_field_of_a_meta_page_is_looked_at(copy: StorePaths) -> None:
    data = bytearray((copy.db / "data.mdb").read_bytes())
    for page in (0, 1):
        whole = meta_read(memoryview(data), page, 4096)
        for at in (*range(8), 10, *range(16, 60)):
            data[page * 4096 + at] ^= 1
            assert meta_read(memoryview(data), page, 4096) != whole or 32 <= at < 40 or at >= 46, at
            data[page * 4096 + at] ^= 1
    assert isinstance(meta_read(memoryview(data[:4100]), 1, 4096), str)
    assert page_size_of(memoryview(b"short")) is None and page_size_of(memoryview(bytes(9000))) is None
