"""A snapshot: identity by content, values of every size, what can be asked of it without reading it, and its limits."""

import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from blake3 import blake3

import helios_shm
from helios_shm import config
from helios_shm.types import KINDS
from tests import model


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[helios_shm.Engine]:
    with helios_shm.open(tmp_path_factory.mktemp("snapshot") / "store", l1_bytes=4 << 20) as opened:
        yield opened


def state_of(engine: helios_shm.Engine, content: dict[str, bytes]) -> helios_shm.Snapshot:
    workspace = engine.empty.fork()
    workspace.update(content)
    return workspace.commit().snapshot


def twin_id(content: dict[str, bytes]) -> str:
    return model.root_id({key.encode(): (model.FILE, value) for key, value in content.items()}).hex()


# --- identity ---


def test_empty_state_has_the_id_of_its_canonical_node(engine: helios_shm.Engine) -> None:
    assert engine.empty.id == twin_id({})
    assert len(engine.empty) == engine.empty.nbytes == 0
    assert list(engine.empty) == []
    assert not engine.empty  # as an empty dict; it is a valid state all the same
    assert engine.empty.fork().commit().snapshot == engine.empty


@pytest.mark.parametrize("count", [1, 2, 16, 17, 300, 3000])
def test_equal_content_has_equal_ids_whatever_the_order_and_the_commits(
    engine: helios_shm.Engine, count: int
) -> None:
    content = {f"{i * 7919 % count:05}": str(i).encode() * (i % 40) for i in range(count)}
    at_once = state_of(engine, content)
    backwards = engine.empty.fork()
    for n, path in enumerate(sorted(content, reverse=True)):
        backwards["not there at the end"] = b"x"
        backwards[path] = content[path]
        if n % (count // 5 + 1) == 0:
            backwards.commit()
            del backwards["not there at the end"]
    if "not there at the end" in backwards:
        del backwards["not there at the end"]
    backwards = backwards.commit().snapshot.fork()
    assert backwards.base == at_once
    assert backwards.base.id == at_once.id == twin_id(content)


def test_snapshots_are_equal_and_hash_by_content(engine: helios_shm.Engine) -> None:
    one, same, other = (state_of(engine, {"a": value}) for value in (b"1", b"1", b"2"))
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert len({one, same, other}) == 2
    assert one == {"a": b"1"}


def test_kind_is_part_of_the_content(engine: helios_shm.Engine) -> None:
    ids = set()
    for kind in KINDS[:4]:
        workspace = engine.empty.fork()
        workspace.put("a", b"x", kind=kind)
        snapshot = workspace.commit().snapshot
        assert snapshot.stat("a") == helios_shm.Stat(kind, 1, blake3(b"x").hexdigest())
        ids.add(snapshot.id)
    assert len(ids) == 4


def test_snapshot_is_made_by_commits_alone() -> None:
    with pytest.raises(TypeError, match="commits"):
        helios_shm.Snapshot()


def test_snapshot_cannot_be_changed(engine: helios_shm.Engine) -> None:
    snapshot = state_of(engine, {"a": b"1"})
    with pytest.raises(TypeError):
        snapshot["a"] = b"2"  # type: ignore[index]
    with pytest.raises(TypeError):
        del snapshot["a"]  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        snapshot.id = "other"  # type: ignore[misc]
    assert snapshot == {"a": b"1"}


def test_repr_names_the_id_and_the_store(engine: helios_shm.Engine) -> None:
    snapshot = state_of(engine, {"a": b"1"})
    assert snapshot.id[:12] in repr(snapshot)
    assert str(engine.path) in repr(snapshot)


def test_engine_of_a_snapshot_is_over_the_same_store_and_closing_it_leaves_others_open(
    engine: helios_shm.Engine,
) -> None:
    snapshot = state_of(engine, {"a": b"1"})
    other = snapshot.engine
    assert other.path == engine.path
    assert other.snapshot(snapshot.id) == snapshot
    other.close()
    assert dict(snapshot) == {"a": b"1"}


# --- values ---

EDGES = [
    0,
    1,
    64,
    65,
    1023,
    1024,
    4095,
    4096,
    4097,
    64 << 10,
    (256 << 10) - 1,
    256 << 10,
    (256 << 10) + 1,
    3 << 20,
]


@pytest.mark.parametrize("kind_of_bytes", ["noise", "repeated"])
@pytest.mark.parametrize("size", EDGES)
def test_value_of_any_size_comes_back(engine: helios_shm.Engine, size: int, kind_of_bytes: str) -> None:
    if kind_of_bytes == "noise":  # of which LZ4 saves nothing
        value = blake3(str(size).encode()).digest(length=size)
    else:
        value = (b"helios" * (size // 6 + 1))[:size]
    snapshot = state_of(engine, {"v": value, "other": b"o"})
    assert snapshot["v"] == value
    assert snapshot["v"] == value  # from wherever the first read left it
    assert dict(snapshot.items()) == {"v": value, "other": b"o"}
    assert snapshot.stat("v") == helios_shm.Stat("file", size, blake3(value).hexdigest())
    assert snapshot.nbytes == size + 1
    assert snapshot.id == twin_id({"v": value, "other": b"o"})
    view = snapshot.buffer("v")
    assert view.readonly
    assert view == value
    assert view.nbytes == size


def test_large_value_is_a_file_of_its_plain_bytes(engine: helios_shm.Engine) -> None:
    value = b"plain" * 100_000
    snapshot = state_of(engine, {"v": value})
    id = snapshot.stat("v").id
    assert (engine.path / "blobs" / id[:2] / id[2:]).read_bytes() == value


def test_large_values_are_not_kept_in_memory_by_the_snapshot(engine: helios_shm.Engine) -> None:
    value = b"x" * (config.READ_VALUE_BYTES_MAX + 1)
    snapshot = state_of(engine, {"large": value, "blob": bytes(300_000), "small": b"s" * 100})
    assert snapshot["large"] is not snapshot["large"]
    assert snapshot["blob"] is not snapshot["blob"]
    assert snapshot["small"] is snapshot["small"]


def test_what_a_snapshot_remembers_of_its_values_is_bounded(engine: helios_shm.Engine) -> None:
    content = {f"{i:05}": str(i).encode() for i in range(3 * config.READ_VALUES_MAX)}
    snapshot = state_of(engine, content)
    assert {path: snapshot[path] for path in content} == content
    assert len(snapshot._read) <= config.READ_VALUES_MAX


def test_value_that_left_l1_is_read_from_l2(engine: helios_shm.Engine) -> None:
    first = {f"{i:03}": blake3(str(i).encode()).digest(length=100 + 60 * i) for i in range(100)}
    snapshot = state_of(engine, first)
    for turn in range(3):
        state_of(engine, {str(i): blake3(f"{turn} {i}".encode()).digest(length=60_000) for i in range(100)})
    fresh = engine.snapshot(snapshot.id)
    assert {path: fresh[path] for path in first} == first
    assert dict(engine.snapshot(snapshot.id).items()) == first
    assert list(reversed(engine.snapshot(snapshot.id).values())) == list(first.values())[::-1]


def test_damaged_blob_file_is_an_error_that_names_it(engine: helios_shm.Engine) -> None:
    value = b"will be damaged" * 30_000
    snapshot = state_of(engine, {"v": value})
    id = snapshot.stat("v").id
    path = engine.path / "blobs" / id[:2] / id[2:]
    path.chmod(0o600)
    path.write_bytes(value[:-1])
    with pytest.raises(helios_shm.CorruptError, match=id):
        snapshot["v"]
    path.unlink()
    with pytest.raises(helios_shm.CorruptError, match=id):
        snapshot.buffer("v")


# --- single entries ---


@pytest.mark.parametrize("path", ["", "absent", "x" * 2000, "\ud800"])
def test_missing_path_is_key_error_however_it_is_asked_for(engine: helios_shm.Engine, path: str) -> None:
    snapshot = state_of(engine, {"a": b"1"})
    for ask in (snapshot.__getitem__, snapshot.stat, snapshot.buffer):
        with pytest.raises(KeyError):
            ask(path)


@pytest.mark.parametrize("path", [None, 1, b"a", ["a"]])
def test_path_of_another_type_is_type_error(engine: helios_shm.Engine, path: object) -> None:
    snapshot = state_of(engine, {"a": b"1"})
    asks: list[Any] = [snapshot.__getitem__, snapshot.stat, snapshot.buffer]
    for ask in asks:
        with pytest.raises(TypeError):
            ask(path)


def test_id_of_a_value_is_its_plain_blake3(engine: helios_shm.Engine) -> None:
    snapshot = state_of(engine, {"short": b"abc", "long": b"abc" * 1000})
    assert snapshot.stat("short").id == blake3(b"abc").hexdigest()
    assert snapshot.stat("long").id == blake3(b"abc" * 1000).hexdigest()


# --- diff ---


def test_diff_names_what_was_added_changed_and_removed(engine: helios_shm.Engine) -> None:
    old = state_of(engine, {"same": b"", "changed/x": b"1", "removed": b"2", "a": b"3"})
    new = state_of(engine, {"same": b"", "changed/x": b"2", "added": b"2", "added too": b"", "a": b"3"})
    found = old.diff(new)
    assert (found.old, found.new) == (old, new)
    assert found.added == ("added", "added too")
    assert found.changed == ("changed/x",)
    assert found.removed == ("removed",)
    assert found
    assert len(found) == 4
    back = new.diff(old)
    assert (back.added, back.changed, back.removed) == (found.removed, found.changed, found.added)


def test_diff_with_itself_is_empty(engine: helios_shm.Engine) -> None:
    snapshot = state_of(engine, {"a": b"1"})
    found = snapshot.diff(snapshot.fork().commit().snapshot)
    assert not found
    assert len(found) == 0


def test_diff_can_be_limited_to_a_prefix(engine: helios_shm.Engine) -> None:
    old = state_of(engine, {"a/1": b"", "b/1": b""})
    new = state_of(engine, {"a/2": b"", "b/2": b"", "ab": b""})
    found = old.diff(new, "a/")
    assert (found.added, found.removed) == (("a/2",), ("a/1",))


def test_diff_of_kinds_alone_is_a_change(engine: helios_shm.Engine) -> None:
    workspace = state_of(engine, {"a": b"1"}).fork()
    workspace.put("a", b"1", kind="executable")
    assert workspace.base.diff(workspace.commit().snapshot).changed == ("a",)


def test_diff_of_large_states_finds_exactly_the_changes(engine: helios_shm.Engine) -> None:
    content = {f"{i:06}": str(i).encode() for i in range(5000)}
    old = state_of(engine, content)
    workspace = old.fork()
    changes = {f"{i:06}" for i in range(0, 5000, 7)}
    for path in changes:
        workspace[path] = b"changed"
    new = workspace.commit().snapshot
    assert old.diff(new).changed == tuple(sorted(changes))
    assert len(engine.empty.diff(new).added) == 5000
    assert len(new.diff(engine.empty).removed) == 5000


def test_diff_needs_a_snapshot_of_the_same_store(
    engine: helios_shm.Engine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.raises(TypeError, match="dict"):
        engine.empty.diff({})  # type: ignore[arg-type]
    with helios_shm.open(None, l1_bytes=4 << 20) as elsewhere:
        with pytest.raises(helios_shm.NotFoundError, match="another store"):
            engine.empty.diff(elsewhere.empty)
        with pytest.raises(helios_shm.NotFoundError, match="another store"):
            engine.empty.fork().put("a", elsewhere.empty)
        with pytest.raises(helios_shm.NotFoundError, match="another store"):
            engine.branch("x").restore(elsewhere.empty)


# --- many readers ---


def test_threads_read_one_snapshot_at_once(engine: helios_shm.Engine) -> None:
    content = {f"{i:04}": blake3(str(i).encode()).digest(length=i * 10) for i in range(500)}
    snapshot = state_of(engine, content)
    wrong: list[str] = []

    def read(step: int) -> None:
        paths = sorted(content)[::step]
        wrong.extend(path for path in paths if snapshot[path] != content[path])
        wrong.extend(path for path, value in snapshot.items() if value != content[path])

    threads = [threading.Thread(target=read, args=(step,)) for step in (1, 2, 3, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_snapshot_pickles_as_its_id_and_where_the_store_is(engine: helios_shm.Engine) -> None:
    snapshot = state_of(engine, {f"{i}": b"x" * 1000 for i in range(100)})
    data = pickle.dumps(snapshot)
    assert len(data) < 400
    assert pickle.loads(data) == snapshot
    assert pickle.loads(data)["5"] == b"x" * 1000
