"""l2: what was written is found, whatever the locator knows; damage is told, never returned."""

import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import lz4.block
import pytest

from helios_shm import l2, lifecycle
from helios_shm._capi import ffi, lib
from helios_shm.errors import CapacityError, ClosedError, CorruptError, FormatError, StoreError
from helios_shm.hashing import blake3
from helios_shm.l2 import BLOB, NODE, VALUE, BranchRow, Locator, Reader, Writer
from helios_shm.record import RECORD
from helios_shm.store import StorePaths

BOOT = l2.boot_id()
OTHER_BOOT = bytes(range(16))
MAGIC = 0x314B43504F494C48

Item = tuple[bytes, int, int, bytes, int]  # id, kind, codec, stored, raw size


def value(data: bytes, kind: int = VALUE) -> Item:
    return blake3(data), kind, 0, data, len(data)


def pack_of(items: list[Item]) -> bytes:
    at = 32 + 56 * len(items)
    rows = b""
    for id, kind, codec, stored, raw_size in items:
        rows += struct.pack("<32sIIQBB6x", id, at, len(stored), raw_size, kind, codec)
        at += len(stored)
    payload = b"".join(item[3] for item in items)
    head = struct.pack("<QIIQ", MAGIC, 1, len(items), len(payload))
    total = blake3(head + blake3(rows))[:8]
    pack = head + total + rows + payload
    assert lib.hs_pack_validate(pack, len(pack)) == lib.HS_OK
    return pack


def block_of(first: int, records: list[bytes]) -> bytes:
    at = 16 + 4 * (len(records) + 1)
    offsets = [at]
    for record in records:
        at += len(record)
        offsets.append(at)
    head = struct.pack("<IIQ", 0x474C4C48, len(records), first) + struct.pack(f"<{len(offsets)}I", *offsets)
    body = head + b"".join(records)
    return body + blake3(body)


def record_of(name: str, serial: int) -> bytes:
    """The shortest commit record of a branch."""
    zeros = bytes(32)
    numbers = (serial, serial, 0, 0, 0, 0, 0, 0, 0, 0)
    return RECORD.pack(3, 1, 0, len(name), 0, 0, 0, zeros, 1, 0, *numbers, zeros, zeros) + name.encode()


def row(name: str, **changes: object) -> BranchRow:
    fields: dict[str, object] = {
        "deleted": False, "word": 1, "segment_nonce": 2, "serial": 3, "sequence": 4, "incarnation": 5, "oldest": 1,
        "time_ns": 6, "root": bytes(32),
    }  # fmt: skip
    return BranchRow(name, **{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def store(store_path: Path) -> StorePaths:
    return lifecycle.open_store(store_path, create=True)


@pytest.fixture
def writer(store: StorePaths) -> Iterator[Writer]:
    writer = Writer(store, sync=False)
    writer.draw_epoch()
    yield writer
    writer.close()


def put(writer: Writer, *items: Item) -> int:
    with writer.transaction() as batch:
        return batch.put_pack(pack_of(list(items)))


def read(store: StorePaths, *ids: bytes) -> list[l2.Entry | None]:
    """In another process, as it should be: LMDB allows one environment of a store in a process."""
    source = (
        "import sys, pickle\nfrom pathlib import Path\nfrom helios_shm.l2 import Reader\n"
        "from helios_shm.store import StorePaths\n"
        "reader = Reader(StorePaths(Path(sys.argv[1])))\n"
        "sys.stdout.buffer.write(pickle.dumps([reader.get(bytes.fromhex(id)) for id in sys.argv[2:]]))\n"
    )
    import pickle

    command = [sys.executable, "-c", source, str(store.root), *(id.hex() for id in ids)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return list(pickle.loads(done.stdout))


class Both:
    """A writer and a reader of one store in one process, one open at a time."""

    def __init__(self, store: StorePaths) -> None:
        self.store = store

    def put(self, *items: Item) -> int:
        writer = Writer(self.store, sync=False)
        writer.draw_epoch()
        try:
            return put(writer, *items)
        finally:
            writer.close()

    def enter(self, locator: Locator, *numbers: int) -> None:
        writer = Writer(self.store, sync=False)
        try:
            for number, pack in writer.packs_between(0, 1 << 40):
                if number in numbers:
                    assert locator.insert(number, pack)
        finally:
            writer.close()


@pytest.fixture
def both(store: StorePaths) -> Both:
    return Both(store)


@pytest.fixture
def locator(store: StorePaths) -> Locator:
    return Locator.create(store.locator, 4096, BOOT)


# ---- reading ----


def test_an_entry_is_found_through_the_locator(store: StorePaths, both: Both, locator: Locator) -> None:
    both.put(value(b"one"), value(b"node", NODE))
    both.enter(locator, 1)
    locator.mark(1, BOOT)
    reader = Reader(store)
    for _ in range(2):
        assert reader.get(blake3(b"one")) == l2.Entry(VALUE, b"one", 3)
        assert reader.get(blake3(b"node")) == l2.Entry(NODE, b"node", 4)
        assert reader.get(blake3(b"none")) is None
    reader.close()


def test_an_entry_above_the_mark_is_found_in_the_tables_of_contents(store: StorePaths, both: Both) -> None:
    both.put(value(b"one"))
    both.put(value(b"two"), value(b"three"))
    reader = Reader(store)
    assert [reader.get(blake3(data)).raw for data in (b"one", b"two", b"three")] == [b"one", b"two", b"three"]  # type: ignore[union-attr]
    assert reader.get(bytes(32)) is None
    reader.close()


def test_a_reader_opens_a_locator_that_was_replaced(store: StorePaths, both: Both, locator: Locator) -> None:
    both.put(value(b"one"))
    both.enter(locator, 1)
    locator.mark(1, BOOT)
    reader = Reader(store)
    assert reader.get(blake3(b"one")) is not None
    reader.close()
    both.put(value(b"two"))
    reader = Reader(store)
    assert reader.get(blake3(b"one")) is not None
    old = reader._locator
    larger = Locator.create(store.root / "next", 8192, BOOT)
    larger.insert(2, pack_of([value(b"two")]))
    larger.insert(1, pack_of([value(b"one")]))
    larger.mark(2, BOOT)
    os.rename(store.root / "next", store.locator)
    assert reader.get(blake3(b"two")) is not None
    assert reader._locator is not old
    reader.close()


def test_another_boots_mark_counts_as_far_as_it_was_synced(
    store: StorePaths, both: Both, locator: Locator
) -> None:
    """Rows that were entered before a power loss may be gone, though the mark says otherwise."""
    both.put(value(b"one"))
    both.put(value(b"two"))
    both.enter(locator, 1)
    locator.mark(1, OTHER_BOOT)
    locator.checkpoint()
    locator.mark(2, OTHER_BOOT)
    reader = Reader(store)
    assert reader.get(blake3(b"two")) is not None and reader.get(blake3(b"one")) is not None
    reader.close()


def test_many_packs_above_the_mark_are_entered_in_a_private_table(
    store: StorePaths, both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(l2, "_SCAN_PACKS_MAX", 3)
    for n in range(10):
        both.put(*(value(b"%d/%d" % (n, i)) for i in range(20)))
    reader = Reader(store)
    for n in range(10):
        for i in range(20):
            assert reader.get(blake3(b"%d/%d" % (n, i))) is not None
    assert reader.get(bytes(32)) is None
    assert (reader._supplement.low, reader._supplement.high) == (0, 10)
    reader.close()


def test_the_private_table_grows_with_the_store(
    store: StorePaths, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    supplement = l2._Supplement()
    for n in range(4):
        put(writer, *(value(b"%d/%d" % (n, i)) for i in range(600)))
        with writer._env.begin(buffers=True) as txn:
            found = supplement.find(txn, writer.packs, blake3(b"%d/5" % n), 0, n + 1)
        assert (n + 1, 5) in found


def test_garbage_in_the_locator_costs_nothing_but_time(
    store: StorePaths, both: Both, locator: Locator
) -> None:
    both.put(value(b"one"))
    del locator
    with open(store.locator, "r+b") as file:
        file.seek(4096)
        file.write(os.urandom(4096 * 8))
    reader = Reader(store)
    assert reader.get(blake3(b"one")) == l2.Entry(VALUE, b"one", 3)
    assert reader.get(bytes(32)) is None
    reader.close()


def test_a_compressed_entry_is_decoded(store: StorePaths, both: Both) -> None:
    raw = b"abc" * 1000
    both.put((blake3(raw), VALUE, 1, lz4.block.compress(raw, store_size=False), len(raw)))
    reader = Reader(store)
    assert reader.get(blake3(raw)) == l2.Entry(VALUE, raw, len(raw))
    reader.close()


def test_a_blob_row_says_its_size(store: StorePaths, both: Both) -> None:
    both.put((blake3(b"large"), BLOB, 0, b"", 1 << 30))
    reader = Reader(store)
    assert reader.get(blake3(b"large")) == l2.Entry(BLOB, b"", 1 << 30)
    reader.close()


@pytest.mark.parametrize(
    "item",
    [
        (blake3(b"right"), VALUE, 0, b"wrong", 5),
        (blake3(b"right"), VALUE, 1, b"\xff\xff", 100),
        (blake3(b"right"), VALUE, 0, b"righ", 5),
        (blake3(b"right"), 9, 0, b"right", 5),
    ],
)
def test_damage_is_an_error_that_names_the_entry(store: StorePaths, both: Both, item: Item) -> None:
    both_pack = struct.pack("<QIIQQ", MAGIC, 1, 1, len(item[3]), 0)
    both_pack += struct.pack("<32sIIQBB6x", item[0], 88, len(item[3]), item[4], item[1], item[2]) + item[3]
    writer = Writer(store, sync=False)
    writer.draw_epoch()
    with writer.transaction() as batch:
        batch.put_pack(both_pack)
    writer.close()
    reader = Reader(store)
    with pytest.raises(CorruptError, match=blake3(b"right").hex()):
        reader.get(blake3(b"right"))
    reader.close()


def test_a_good_copy_elsewhere_makes_up_for_a_damaged_one(
    store: StorePaths, both: Both, locator: Locator
) -> None:
    both.put(value(b"right"))
    writer = Writer(store, sync=False)
    writer.draw_epoch()
    broken = bytearray(pack_of([value(b"right")]))
    broken[-1] ^= 1
    with writer.transaction() as batch:
        batch.put_pack(bytes(broken))
    writer.close()
    both.enter(locator, 1, 2)
    locator.mark(2, BOOT)
    reader = Reader(store)
    assert reader.get(blake3(b"right")) == l2.Entry(VALUE, b"right", 5)
    reader.close()


def test_rows_that_point_outside_their_pack_are_damage(store: StorePaths) -> None:
    pack = memoryview(pack_of([value(b"x")])[:-1])
    with pytest.raises(l2.Damaged):
        l2.pack_entry(pack, 0, blake3(b"x"))
    assert l2.pack_count(memoryview(b"short")) == 0
    assert not l2.pack_has(pack, 1, blake3(b"x"))


def test_an_id_inside_another_row_is_not_taken_for_a_row() -> None:
    """The table of contents is searched as bytes: only places where a row begins count."""
    tricky = blake3(b"a")
    rows = [(b"\0" * 8 + tricky[:24], VALUE, 0, b"", 0), (tricky[24:] + b"\0" * 24, VALUE, 0, b"", 0)]
    pack = pack_of([*rows, value(b"a")])  # type: ignore[list-item]
    assert l2.pack_find(memoryview(pack), tricky) == 2
    shifted = bytearray(pack_of([value(b"z"), value(b"a")]))
    shifted[40:72] = blake3(b"a")
    assert l2.pack_find(memoryview(bytes(shifted)), blake3(b"a")) == 1


def test_another_process_sees_each_commit_at_once(store: StorePaths, writer: Writer) -> None:
    put(writer, value(b"one"))
    assert read(store, blake3(b"one"), blake3(b"two")) == [l2.Entry(VALUE, b"one", 3), None]
    put(writer, value(b"two"))
    assert read(store, blake3(b"two")) == [l2.Entry(VALUE, b"two", 3)]


def test_an_open_reader_sees_what_is_committed_after_it_opened(store: StorePaths, writer: Writer) -> None:
    put(writer, value(b"one"))
    source = (
        "import sys\nfrom pathlib import Path\nfrom helios_shm.l2 import Reader\n"
        "from helios_shm.store import StorePaths\n"
        "reader = Reader(StorePaths(Path(sys.argv[1])))\n"
        "for line in sys.stdin:\n"
        "    entry = reader.get(bytes.fromhex(line))\n    print(entry.raw if entry else None, flush=True)\n"
    )
    command = [sys.executable, "-c", source, str(store.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin and child.stdout

        def ask(data: bytes) -> str:
            assert child.stdin and child.stdout
            child.stdin.write(blake3(data).hex() + "\n")
            child.stdin.flush()
            return child.stdout.readline().strip()

        assert ask(b"one") == "b'one'" and ask(b"two") == "None"
        put(writer, value(b"two"))
        assert ask(b"two") == "b'two'"
        child.stdin.close()


def test_two_readers_of_one_store_in_one_process_get_along(store: StorePaths, both: Both) -> None:
    both.put(value(b"one"))
    before = dict(l2._shared)
    first, second = Reader(store), Reader(store)
    assert first.get(blake3(b"one")) == second.get(blake3(b"one")) is not None
    first.close()
    assert second.get(blake3(b"one")) is not None
    second.close()
    assert l2._shared == before


def test_a_closed_reader_says_so(store: StorePaths) -> None:
    reader = Reader(store)
    reader.close()
    reader.close()
    with pytest.raises(ClosedError):
        reader.get(bytes(32))


def in_child(body: Callable[[], bool]) -> bool:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if body() else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_parent_and_child_read_on_after_a_fork(store: StorePaths, both: Both) -> None:
    """A child that closed the inherited environment took its parent's place in LMDB's table of readers away."""
    both.put(value(b"one"))
    reader = Reader(store)

    def child() -> bool:
        found = reader.get(blake3(b"one"))
        reader.abandon()
        mine = Reader(store)
        return found is not None and mine.get(blake3(b"one")) == found

    assert reader.get(blake3(b"one")) is not None
    assert in_child(child)
    assert reader.get(blake3(b"one")) is not None
    reader.close()


def test_a_fork_beside_reading_threads_harms_nobody(store: StorePaths, both: Both) -> None:
    both.put(*(value(b"%d" % n) for n in range(50)))
    reader = Reader(store)
    stop = threading.Event()
    wrong: list[object] = []

    def read_on() -> None:
        while not stop.is_set():
            for n in range(50):
                entry = reader.get(blake3(b"%d" % n))
                if entry is None or entry.raw != b"%d" % n:
                    wrong.append(entry)

    threads = [threading.Thread(target=read_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        assert all(in_child(lambda: reader.get(blake3(b"7")) is not None) for _ in range(20))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    reader.close()


def test_a_database_that_is_none_is_a_format_error(store: StorePaths) -> None:
    (store.db / "data.mdb").write_bytes(os.urandom(8192))
    with pytest.raises(FormatError):
        Reader(store)


def test_a_missing_database_is_a_store_error(store: StorePaths) -> None:
    (store.db / "data.mdb").unlink()
    (store.db / "lock.mdb").unlink()
    store.db.rmdir()
    with pytest.raises(StoreError):
        Reader(store)


# ---- branches and log ----


def test_branch_rows_come_back_as_they_were_put(store: StorePaths, writer: Writer) -> None:
    rows = [row("a/1", word=1 << 63, root=os.urandom(32)), row("a/2", deleted=True), row("b", time_ns=-5)]
    with writer.transaction() as batch:
        for one in rows:
            assert batch.branch(one.name) is None
            batch.put_branch(one)
            assert batch.branch(one.name) == one
    writer.close()
    reader = Reader(store)
    assert reader.branches() == rows
    assert reader.branches("a/") == rows[:2]
    assert reader.branches("a/2") == [rows[1]]
    assert reader.branches("zz") == []
    assert [reader.branch(one.name) for one in rows] == rows
    assert reader.branch("none") is None
    reader.close()


@pytest.mark.parametrize("damage", [b"", b"\x02" + bytes(95), l2.row_encode(row("x"))[:-1]])
def test_a_branch_row_of_another_form_is_corrupt(damage: bytes) -> None:
    with pytest.raises(CorruptError, match="'x'"):
        l2.row_decode("x", damage)


def test_records_come_newest_first_over_all_blocks(store: StorePaths, writer: Writer) -> None:
    records = {name: [record_of(name, n) for n in range(1, 31)] for name in ("main", "main2", "a")}
    with writer.transaction() as batch:
        for name, all_of_it in records.items():
            for first, count in ((1, 1), (2, 9), (11, 20)):
                batch.put_log(name, first, block_of(first, all_of_it[first - 1 : first - 1 + count]))
    writer.close()
    reader = Reader(store)
    for name, all_of_it in records.items():
        for serial in (0, 1, 2, 10, 11, 17, 30):
            assert list(reader.records(name, serial)) == all_of_it[:serial][::-1]
    assert list(reader.records("main", 31)) == []
    assert list(reader.records("none", 3)) == []
    reader.close()


def test_blocks_of_the_log_are_kept_and_forgotten(
    store: StorePaths, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is kept, each record is found, and of the right branch; a closed reader gives none."""
    names = ("a", "main", "main2")
    expected = {name: [record_of(name, serial) for serial in range(1, 13)] for name in names}
    with writer.transaction() as batch:
        for name, all_of_it in expected.items():
            for first in (1, 2, 6, 11):
                last = {1: 1, 2: 5, 6: 10, 11: 12}[first]
                batch.put_log(name, first, block_of(first, all_of_it[first - 1 : last]))
    writer.close()
    read: list[str] = []
    validate = l2.log_records

    def counted(block: bytes, name: str, what: str) -> tuple[int, list[memoryview]]:
        read.append(name)
        return validate(block, name, what)

    monkeypatch.setattr(l2, "log_records", counted)
    reader = Reader(store)
    for _ in range(2):
        for name, all_of_it in expected.items():
            for serial in (12, 1, 5, 2, 6, 11, 10):
                assert next(reader.records(name, serial)) == all_of_it[serial - 1]
                assert list(reader.records(name, serial)) == all_of_it[:serial][::-1]
            assert list(reader.records(name, 13)) == []
    assert len(read) == 12 + 2 * 3  # each block once, and the last of each branch for what it does not have
    monkeypatch.setattr(l2, "LOG_BLOCKS_BYTES_MAX", 1500)
    small = Reader(store)
    read.clear()
    for name, all_of_it in expected.items():
        assert list(small.records(name, 12)) == all_of_it[::-1]
        assert list(small.records(name, 12)) == all_of_it[::-1]
    assert 12 < len(read) <= 24
    for one in (reader, small):
        one.close()
        with pytest.raises(ClosedError):
            next(one.records("main", 12))


def test_a_damaged_log_block_is_corrupt(store: StorePaths, writer: Writer) -> None:
    block = bytearray(block_of(1, [b"record"]))
    block[30] ^= 1
    with writer.transaction() as batch:
        batch.put_log("main", 1, bytes(block))
    writer.close()
    reader = Reader(store)
    with pytest.raises(CorruptError, match="'main'"):
        list(reader.records("main", 1))
    reader.close()


def test_a_log_block_of_another_branch_or_size_is_corrupt(store: StorePaths, writer: Writer) -> None:
    """A bit of LMDB's that flips may lead to another branch's block, or beyond the end of the file."""
    block = block_of(1, [record_of("other", 1)])
    cut = {"main": block, "short": block[:-1], "long": block + b"x", "none": b"", "table": block[:18]}
    with writer.transaction() as batch:
        for name, damaged in cut.items():
            batch.put_log(name, 1, damaged)
    writer.close()
    reader = Reader(store)
    for name in cut:
        with pytest.raises(CorruptError, match=repr(name)):
            list(reader.records(name, 1))
    reader.close()


def test_every_flipped_bit_of_a_branch_row_is_found() -> None:
    data = l2.row_encode(row("x"))
    assert l2.row_decode("x", data) == row("x")
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(CorruptError, match="'x'"):
            l2.row_decode("x", bytes(damaged))
    with pytest.raises(CorruptError, match="'y'"):  # the name is a key of LMDB's, and can flip as well
        l2.row_decode("y", data)


def test_a_pack_number_that_is_taken_is_an_error_and_loses_nothing(store: StorePaths, writer: Writer) -> None:
    """A flipped bit in the number of the next pack: LMDB declines to write the pack, and must be listened to."""
    pack = pack_of([value(b"a")])
    with writer.transaction() as batch:
        batch.put_pack(pack)
        batch.put_pack(pack)
    with pytest.raises(CorruptError, match="pack 1 "), writer.transaction() as batch:
        batch.next_pack = 1
        batch.put_pack(pack)
    assert writer.newest_pack() == 2


@pytest.mark.parametrize("key", [bytes(7) + b"\1\1", b"\x80" + bytes(7), b"\1"])
def test_a_pack_under_a_key_that_is_no_number_is_corrupt(
    store: StorePaths, writer: Writer, key: bytes
) -> None:
    """A flipped bit in the size of a key makes a number that no other number can follow."""
    pack = pack_of([value(b"a")])
    with writer.transaction() as batch:
        batch.put_pack(pack)
        batch._txn.put(key, pack, db=writer.packs)
    with pytest.raises(CorruptError, match="no number"):
        writer.pack_numbers()
    writer.close()
    reader = Reader(store)
    with pytest.raises(CorruptError, match="no number"):
        reader.get(blake3(b"b"))
    reader.close()


def test_a_row_that_the_log_has_gone_beyond_is_corrupt(store: StorePaths, writer: Writer) -> None:
    """A flipped bit of LMDB's can lead to the page that a table had a transaction before, whole and out of date."""
    with writer.transaction() as batch:
        batch.put_log(
            "a", 1, block_of(1, [record_of("a", serial) for serial in range(1, row("a").serial + 1)])
        )
        batch.put_branch(row("a"))
        batch.put_log(
            "b", 1, block_of(1, [record_of("b", serial) for serial in range(1, row("b").serial + 2)])
        )
        batch.put_branch(row("b"))
    writer.close()
    reader = Reader(store)
    assert reader.branch("a") == row("a")
    with pytest.raises(CorruptError, match=r"'b'.* its log at"):
        reader.branch("b")
    reader.close()


def test_a_branch_whose_row_vanished_is_missed(store: StorePaths, writer: Writer) -> None:
    """A flipped bit in the header of a page of LMDB's hides the rows at its end."""
    with writer.transaction() as batch:
        for name in ("a", "a/1", "b"):
            batch.put_log(name, 1, block_of(1, [record_of(name, 1)]))
            batch.put_log(name, 2, block_of(2, [record_of(name, 2)]))
        batch.put_branch(row("a"))
        batch.put_branch(row("b"))
    writer.close()
    reader = Reader(store)
    assert reader.branch("a") == row("a") and reader.branch("a/") is None
    assert reader.branches("b") == [row("b")]
    for look in (lambda: reader.branch("a/1"), reader.branches, lambda: reader.branches("a/")):
        with pytest.raises(CorruptError, match="'a/1' has a log"):
            look()
    reader.close()


def test_a_log_block_is_never_written_over(writer: Writer) -> None:
    with writer.transaction() as batch:
        batch.put_log("main", 1, block_of(1, [b"record"]))
    with pytest.raises(CorruptError, match="already"), writer.transaction() as batch:
        batch.put_log("main", 1, block_of(1, [b"other"]))


# ---- writing ----


def test_a_transaction_that_raises_leaves_nothing(store: StorePaths, writer: Writer) -> None:
    put(writer, value(b"one"))
    with pytest.raises(RuntimeError), writer.transaction() as batch:
        batch.put_pack(pack_of([value(b"two")]))
        raise RuntimeError
    assert writer.newest_pack() == 1
    assert put(writer, value(b"three")) == 2


def test_pack_numbers_are_never_used_twice(store: StorePaths, writer: Writer) -> None:
    assert [put(writer, value(b"%d" % n)) for n in range(3)] == [1, 2, 3]
    with writer._env.begin(write=True) as txn:
        txn.delete(l2.pack_key(3), db=writer.packs)
    assert put(writer, value(b"x")) == 4


def test_an_overtaken_coordinator_cannot_write(store: StorePaths, writer: Writer) -> None:
    epoch = writer.epoch
    writer.draw_epoch()
    writer.epoch = epoch
    with pytest.raises(l2.EpochError), writer.transaction():
        pass


def test_known_rows_are_those_that_an_older_pack_holds(
    store: StorePaths, writer: Writer, locator: Locator
) -> None:
    put(writer, value(b"a"), value(b"b"))
    for number, pack in writer.packs_between(0, 1):
        assert locator.insert(number, pack)
    fresh = pack_of([value(b"x"), value(b"b"), value(b"y"), value(b"a")])
    data = ffi.from_buffer(fresh)
    suspects = locator.candidates(data, 4)
    assert {1, 3} <= set(suspects)
    with writer.transaction() as batch:
        assert batch.known(data, [0, 1, 2, 3], locator) == [1, 3]


def test_blob_rows_of_a_pack_are_named() -> None:
    pack = pack_of(
        [value(b"a"), (b"\x01" * 32, BLOB, 0, b"", 9), value(b"b"), (b"\x02" * 32, BLOB, 0, b"", 9)]
    )
    table = pack[: l2.pack_table_size(memoryview(pack))]
    assert l2.pack_blobs(table) == [b"\x01" * 32, b"\x02" * 32]
    assert l2.pack_blobs(pack_of([value(b"a")])[:88]) == []


def test_a_limited_address_space_takes_a_smaller_map(store: StorePaths) -> None:
    source = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from helios_shm.l2 import Reader\nfrom helios_shm.store import StorePaths\n"
        "resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))\n"
        "print(Reader(StorePaths(Path(sys.argv[1]))).get(bytes(32)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", source, str(store.root)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "None", done.stderr


def test_lmdb_errors_have_their_types() -> None:
    import lmdb

    for raised, expected in [
        (lmdb.CorruptedError("x"), CorruptError),
        (lmdb.InvalidError("x"), FormatError),
        (lmdb.MapFullError("x"), CapacityError),
        (lmdb.LockError("x"), StoreError),
        (lmdb.Error("No space left on device"), CapacityError),
        (lmdb.Error("Input/output error"), StoreError),
        (OSError(28, "No space left on device"), CapacityError),
        (OSError(5, "Input/output error"), StoreError),
    ]:
        with pytest.raises(expected), l2.translated("doing something"):
            raise raised
