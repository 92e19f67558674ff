"""Bytes that somebody else chose, where Python reads them: every lie is a typed error or does no harm.

What the core reads is fuzzed (tests/fuzz); here are codec, rows, log blocks, packs, records, helios.json, nodes as they
become paths, and the arguments of pickles. "Typed" is an error of helios_shm; ValueError for a pickle that lies.
"""

import contextlib
import json
import os
import pickle
import struct
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lz4.block
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import helios_shm
from helios_shm import codec, l2
from helios_shm._capi import check, hot, lib
from helios_shm.config import BLOB_BYTES_MIN
from helios_shm.engine import restore_branch, restore_engine, restore_snapshot
from helios_shm.errors import CorruptError, FormatError, HeliosError
from helios_shm.hashing import blake3
from helios_shm.record import RECORD, record_head
from helios_shm.snapshot import make_snapshot
from helios_shm.store import INFO_BYTES_MAX, StoreInfo, StorePaths, info_bytes, info_parse, info_read
from tests.fuzz import seeds

ALLOCATION_MAX = 8 << 20
sizes = st.integers(0, 1 << 64) | st.sampled_from([0, 1, 255, 1 << 20, 1 << 30, (1 << 63) - 1])


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """No lie about a size costs more than a value may have."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < ALLOCATION_MAX
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[helios_shm.Engine]:
    with helios_shm.open(tmp_path_factory.mktemp("hostile") / "store", l1_bytes=4 << 20) as engine:
        workspace = engine.branch("main").fork()
        workspace["a"] = b"1"
        workspace.commit("first", metadata={"k": [1]})
        yield engine


@st.composite
def changed(draw: st.DrawFn, whole: bytes) -> bytes:
    """Some bytes changed, cut, or something behind."""
    data = bytearray(whole)
    for at, value in draw(
        st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=6)
    ):
        data[at] = value
    cut = draw(st.none() | st.integers(0, len(whole)))
    return bytes(data[:cut]) + draw(st.binary(max_size=4))


# ---- codec ----


@given(st.integers(0, 3), st.binary(max_size=300), sizes)
def test_what_a_codec_is_told_is_right_or_corrupt(code: int, stored: bytes, size: int) -> None:
    with little_memory(), contextlib.suppress(CorruptError):
        assert len(codec.decode(code, stored, size)) == size


@given(st.binary(min_size=1, max_size=40), st.integers(1, 2000), st.data())
def test_damaged_lz4_is_corrupt_or_of_its_size(piece: bytes, times: int, data: st.DataObject) -> None:
    raw = piece * times
    stored = data.draw(changed(lz4.block.compress(raw, store_size=False)))
    with little_memory(), contextlib.suppress(CorruptError):
        assert len(codec.decode(codec.LZ4, stored, len(raw))) == len(raw)


def test_no_block_stands_for_what_would_be_a_file() -> None:
    """Half a MiB that claims 130 MiB kept within the ratio, and memory was taken for it."""
    whole = lz4.block.compress(bytes(BLOB_BYTES_MIN), store_size=False)
    assert codec.decode(codec.LZ4, whole, BLOB_BYTES_MIN) == bytes(BLOB_BYTES_MIN)
    with little_memory(), pytest.raises(CorruptError):
        codec.decode(codec.LZ4, os.urandom(1 << 19), 130 << 20)


# ---- helios.json ----

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
WHOLE = json.loads(info_bytes(StoreInfo(b"u" * 16, "now", False)))["helios_shm"]


@given(st.sampled_from([*WHOLE, "more"]), json_values)
def test_each_field_of_helios_json_is_believed_or_refused(name: str, value: Any) -> None:
    text = json.dumps({"helios_shm": {**WHOLE, name: value}}).encode()
    with contextlib.suppress(FormatError):
        info = info_parse(text, Path("x"))
        assert len(info.uuid) == 16 and type(info.ephemeral) is bool and type(info.created) is str


@given(changed(info_bytes(StoreInfo(b"u" * 16, "now", False))) | st.binary(max_size=99))
@example(b"[" * 60000)
@example(b"1" * 9000)
@example(b'{"helios_shm":' * 4000)
def test_any_bytes_are_a_description_or_a_format_error(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        info_parse(data, Path("x"))


def test_a_description_is_read_only_as_far_as_it_can_be_right(tmp_path: Path) -> None:
    paths = StorePaths(tmp_path)
    with open(paths.info, "wb") as file:
        file.truncate(1 << 40)
    with little_memory(), pytest.raises(FormatError, match=str(INFO_BYTES_MAX)):
        info_read(paths)


def test_a_pipe_in_place_of_a_file_makes_nobody_wait(tmp_path: Path) -> None:
    paths = StorePaths(tmp_path)
    os.mkfifo(paths.info)
    refused = threading.Event()

    def read() -> None:
        with pytest.raises(FormatError):
            info_read(paths)
        refused.set()

    threading.Thread(target=read, daemon=True).start()
    assert refused.wait(30)


# ---- rows and log blocks of L2 ----

ROW = l2.BranchRow("main", False, 5, 6, 7, 8, 9, 1, -1, b"r" * 32)


@given(changed(l2.row_encode(ROW)), st.text(max_size=4))
def test_a_row_is_the_one_that_was_written_or_corrupt(data: bytes, name: str) -> None:
    with contextlib.suppress(CorruptError):
        assert l2.row_decode(name, data) == ROW


def summed(block: bytes) -> bytes:
    return block[:-32] + blake3(block[:-32])


BLOCK = seeds.log_block(7, [seeds.record(7), seeds.record(8), seeds.record(9)])


@given(changed(BLOCK), st.booleans())
@example(struct.pack("<IIQ", 0x474C4C48, 0xFFFFFFFF, 1) + bytes(64), True)
@example(struct.pack("<IIQ", 0x474C4C48, 3, 1) + b"\xff" * 64, True)
def test_a_log_block_with_a_right_sum_may_lie_about_all_else(data: bytes, right: bool) -> None:
    block = summed(data) if right and len(data) >= 32 else data
    with little_memory(), contextlib.suppress(CorruptError):
        first, records = l2.log_records(block, "main", "a block")
        assert [record_head(bytes(record)).serial for record in records] == list(
            range(first, first + len(records))
        )


@given(st.binary(max_size=12))
def test_a_branch_name_in_l2_is_text_or_corrupt(key: bytes) -> None:
    with contextlib.suppress(CorruptError):
        assert l2.name_decode(key).encode() == key


# ---- packs ----

PAYLOAD = b"some value or other"
PACK = seeds.pack([(blake3(PAYLOAD), len(PAYLOAD), 2, 0, PAYLOAD), (b"b" * 32, 1 << 40, 4, 0, b"")])


@given(changed(PACK), st.integers(0, 3))
def test_a_pack_gives_bytes_of_their_hash_or_nothing(data: bytes, row: int) -> None:
    pack = memoryview(data)
    id = blake3(PAYLOAD)
    l2.pack_blobs(data)
    found = l2.pack_find(pack, id)
    with little_memory(), contextlib.suppress(l2.Damaged):
        for at in {row, found} - {None}:
            if at is not None and l2.pack_has(pack, at, id):
                entry = l2.pack_entry(pack, at, id)
                assert entry.kind == l2.BLOB or entry.raw == PAYLOAD


# ---- commit records ----


@given(st.binary(max_size=8), st.binary(max_size=8), st.binary(max_size=12))
@example(b"main", b"\xff", b"")
@example(b"\xff", b"", b"")
@example(b"main", b"", b"[1]")
@example(b"main", b"", b"[" * 30000)
@example(b"main", b"", b'{"a": ' + b"1" * 9000 + b"}")
def test_texts_of_a_record_are_texts_or_corrupt(name: bytes, message: bytes, metadata: bytes) -> None:
    record = seeds.record(1, name, message, metadata)
    with contextlib.suppress(CorruptError):
        assert record_head(record).name.encode() == name
        commit = hot.make_commit(record, hot.AttachmentBase())  # type: ignore[arg-type]
        assert commit.message.encode() == message and isinstance(commit.metadata, dict)


@given(st.integers(0, RECORD.size - 1))
def test_a_record_that_is_cut_is_corrupt(size: int) -> None:
    with pytest.raises(CorruptError):
        record_head(seeds.record(1)[:size])


def test_metadata_too_deep_to_be_read_back_is_not_written(store: helios_shm.Engine) -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ValueError, match="deep"):
        store.branch("deep").fork().commit("m", metadata={"deep": deep})


# ---- nodes, as snapshots read them ----


def give(engine: helios_shm.Engine, node: bytes) -> helios_shm.Snapshot:
    """A state whose root is this node, as if it had come out of a pack."""
    attachment = engine._attachment
    id = blake3(node)
    check(lib.hs_node_give(attachment.engine, id, node, len(node)), "a node")
    return make_snapshot(attachment, id)


def test_a_key_that_is_no_text_is_corrupt(store: helios_shm.Engine) -> None:
    snapshot = give(store, seeds.leaf([(b"a", 0, b"1"), (b"\xff\xfe", 0, b"2")]))
    assert snapshot["a"] == b"1" and len(snapshot) == 2
    for read in (list, reversed, lambda each: list(each.items()), lambda each: list(each.listdir())):
        with pytest.raises(CorruptError, match="no path"):
            list(read(snapshot))
    with pytest.raises(CorruptError, match="no path"):
        store.empty.diff(snapshot)


@pytest.mark.parametrize("keys", [(1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_a_number_of_keys_is_sayable_or_corrupt(store: helios_shm.Engine, keys: int) -> None:
    root = seeds.inner(1, [b"a", b"b"], (keys, 1))
    with contextlib.suppress(CorruptError):
        assert len(give(store, root)) == keys < 1 << 63


def test_a_value_of_another_size_than_its_state_says_is_corrupt(store: helios_shm.Engine) -> None:
    """In L1, where the core sees both sizes, and brought from elsewhere."""
    workspace = store.branch("sizes").fork()
    workspace["v"] = value = os.urandom(300)
    workspace.commit("m")
    tail = struct.pack("<Q", 301) + blake3(value)
    lying = seeds.node(0, [b"v"], bytes([0, seeds.HASHED]), tail, (1, 301))
    snapshot = give(store, lying)
    assert snapshot.stat("v").size == 301
    with pytest.raises(CorruptError):
        snapshot["v"]
    with pytest.raises(CorruptError):
        list(snapshot.values())


@given(data=st.data())
def test_any_leaf_is_refused_or_can_be_read(store: helios_shm.Engine, data: st.DataObject) -> None:
    whole = seeds.leaf([(b"a", 0, b"1"), (b"bc", 1, b"22"), (b"bd", 4, b"")])
    with contextlib.suppress(HeliosError):
        snapshot = give(store, data.draw(changed(whole)))
        assert len(list(snapshot.items())) == len(snapshot)


# ---- pickles ----

anything = st.none() | st.integers() | st.text(max_size=6) | st.binary(max_size=40) | st.tuples(st.integers())


@given(uuid=anything, path=anything, root=anything)
def test_a_snapshot_is_unpickled_from_what_it_is_made_of_alone(
    store: helios_shm.Engine, uuid: Any, path: Any, root: Any
) -> None:
    """A root of five bytes was handed to the core, which reads 32."""
    mine = (store._attachment.uuid, os.fspath(store.path))
    for arguments in ((*mine, root), (mine[0], path, b"r" * 32), (uuid, mine[1], b"r" * 32)):
        with contextlib.suppress(HeliosError, ValueError):
            restored = restore_snapshot(*arguments)
            assert len(restored._root) == 32


@given(uuid=anything, path=anything, name=anything)
def test_engines_and_branches_are_unpickled_likewise(
    store: helios_shm.Engine, uuid: Any, path: Any, name: Any
) -> None:
    for arguments in ((uuid, path), (b"u" * 16, path)):
        with contextlib.suppress(HeliosError, ValueError):
            restore_engine(*arguments)
    with contextlib.suppress(HeliosError, ValueError, TypeError):
        assert restore_branch(store._attachment.uuid, os.fspath(store.path), name).name == name


def test_an_honest_pickle_still_is_what_it_was(store: helios_shm.Engine) -> None:
    head = store.branch("main").head
    assert pickle.loads(pickle.dumps(head)) == head
