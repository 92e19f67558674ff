"""A workspace: a full MutableMapping of bytes over a snapshot, isolated until its commit."""

import array
import copy
import mmap
import pickle
import random
import sys
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import pytest

import helios_shm
from helios_shm import config
from helios_shm._capi import ffi, hot
from helios_shm.types import KINDS, Kind


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[helios_shm.Engine]:
    with helios_shm.open(tmp_path_factory.mktemp("workspace") / "store", l1_bytes=4 << 20) as opened:
        yield opened


BASE = {"a": b"1", "b": b"2", "c/d": b"3"}


@pytest.fixture
def workspace(engine: helios_shm.Engine) -> helios_shm.Workspace:
    made = engine.empty.fork()
    made.update(BASE)
    made.commit()
    return made


# --- what it is ---


def test_workspace_is_made_by_forking_alone() -> None:
    with pytest.raises(TypeError, match="fork"):
        helios_shm.Workspace()


def test_fork_stands_on_its_snapshot_without_edits(workspace: helios_shm.Workspace) -> None:
    snapshot = workspace.base
    fork = snapshot.fork()
    assert fork.base == snapshot
    assert fork.branch is None
    assert fork.edits == {}
    assert isinstance(fork, MutableMapping)


def test_workspace_cannot_be_pickled_copied_or_hashed(workspace: helios_shm.Workspace) -> None:
    for use in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="snapshot"):
            use(workspace)
    with pytest.raises(TypeError):
        hash(workspace)


def test_repr_tells_where_it_stands(engine: helios_shm.Engine, workspace: helios_shm.Workspace) -> None:
    workspace["x"] = b""
    assert workspace.base.id[:12] in repr(workspace)
    assert "1 edits" in repr(workspace)
    assert "'named'" in repr(engine.branch("named").fork())


# --- editing ---


def test_edits_are_seen_here_and_nowhere_else(workspace: helios_shm.Workspace) -> None:
    snapshot, sibling = workspace.base, workspace.fork()
    workspace["a"] = b"new"
    workspace["e"] = b"added"
    del workspace["b"]
    assert dict(workspace) == {"a": b"new", "c/d": b"3", "e": b"added"}
    assert workspace.edits == {"a": b"new", "e": b"added", "b": None}
    assert dict(snapshot) == dict(sibling) == BASE
    assert workspace.base == snapshot


def test_edits_are_a_copy(workspace: helios_shm.Workspace) -> None:
    workspace["a"] = b"new"
    assert isinstance(workspace.edits, dict)
    workspace.edits.clear()
    assert workspace.edits == {"a": b"new"}


def test_fork_of_a_workspace_has_its_edits_and_a_life_of_its_own(workspace: helios_shm.Workspace) -> None:
    workspace["a"] = b"new"
    fork = workspace.fork()
    fork["b"] = b"fork"
    workspace["b"] = b"original"
    assert fork.edits == {"a": b"new", "b": b"fork"}
    assert workspace.edits == {"a": b"new", "b": b"original"}
    assert fork.base == workspace.base
    assert fork.commit().snapshot["b"] == b"fork"
    assert workspace.edits == {"a": b"new", "b": b"original"}


def test_discard_forgets_all_edits(workspace: helios_shm.Workspace) -> None:
    workspace["a"] = b"new"
    del workspace["b"]
    workspace.discard()
    assert workspace.edits == {}
    assert dict(workspace) == BASE


def test_what_was_removed_can_be_set_again(workspace: helios_shm.Workspace) -> None:
    del workspace["a"]
    assert "a" not in workspace
    with pytest.raises(KeyError):
        workspace["a"]
    with pytest.raises(KeyError):
        del workspace["a"]
    workspace["a"] = b"1"
    assert dict(workspace) == BASE
    assert workspace.commit().snapshot == workspace.base


def test_key_added_and_removed_leaves_the_state_as_it_was(workspace: helios_shm.Workspace) -> None:
    before = workspace.base
    workspace["x"] = b"1"
    del workspace["x"]
    assert dict(workspace) == BASE
    assert len(workspace) == len(BASE)
    assert workspace.commit().snapshot == before


def test_removing_what_is_not_there_is_key_error(workspace: helios_shm.Workspace) -> None:
    for path in ("absent", "", "x" * 2000, "\ud800"):
        with pytest.raises(KeyError):
            del workspace[path]
    assert workspace.edits == {}


# --- the rest of MutableMapping ---


def test_pop_returns_and_removes(workspace: helios_shm.Workspace) -> None:
    assert workspace.pop("a") == b"1"
    assert "a" not in workspace
    assert workspace.pop("a", None) is None
    with pytest.raises(KeyError):
        workspace.pop("a")


def test_popitem_takes_all_in_the_end(workspace: helios_shm.Workspace) -> None:
    taken = [workspace.popitem() for _ in range(3)]
    assert dict(taken) == BASE
    with pytest.raises(KeyError):
        workspace.popitem()
    assert workspace.commit().snapshot == workspace.base.engine.empty


def test_setdefault_keeps_what_is_there(workspace: helios_shm.Workspace) -> None:
    assert workspace.setdefault("a", b"other") == b"1"
    assert workspace.setdefault("x", b"other") == b"other"
    assert workspace.edits == {"x": b"other"}


def test_update_takes_mappings_pairs_snapshots_and_workspaces(workspace: helios_shm.Workspace) -> None:
    other = workspace.base.engine.empty.fork()
    other.update({"m": b"1"})
    other.update([("p", b"2")])
    other.update(workspace.base)
    other.update(workspace)
    other.update(a=b"keyword")
    assert dict(other) == {**BASE, "m": b"1", "p": b"2", "a": b"keyword"}


def test_clear_removes_everything(workspace: helios_shm.Workspace) -> None:
    workspace["x"] = b"1"
    workspace.clear()
    assert dict(workspace) == {}
    assert len(workspace) == 0
    assert workspace.commit().snapshot == workspace.base.engine.empty


def test_edits_during_iteration_change_nothing_of_it(workspace: helios_shm.Workspace) -> None:
    """A key edited ahead of an iteration was once passed over by it: no longer the base's, and not yet an edit."""
    seen = []
    for path, value in workspace.items():
        seen.append((path, value))
        workspace["b"] = b"edited meanwhile"
        workspace["zz"] = b"added meanwhile"
        workspace[path] = value + b"!"
    assert seen == sorted(BASE.items())
    assert list(workspace) == ["a", "b", "c/d", "zz"]
    for path in workspace:
        del workspace[path]
    assert len(workspace) == 0


def test_edited_keys_interleave_with_those_of_the_base_in_both_directions(engine: helios_shm.Engine) -> None:
    generator = random.Random(1)
    twin: dict[str, bytes] = {}
    workspace = engine.empty.fork()
    for step in range(300):
        path = f"{generator.randrange(200):03}"
        if generator.random() < 0.3 and path in twin:
            del workspace[path], twin[path]
        else:
            workspace[path] = twin[path] = str(step).encode()
        if step % 60 == 30:
            workspace.commit()
    assert list(workspace.items()) == sorted(twin.items())
    assert list(reversed(workspace.items())) == sorted(twin.items(), reverse=True)
    assert len(workspace) == len(twin)
    assert len(workspace.keys("1")) == sum(path.startswith("1") for path in twin)


# --- keys ---


@pytest.mark.parametrize(
    "path", ["x", "x" * 1024, "\u20ac" * 341, "\0", "a\0b", " ", "/", "//", "../x", "\U0010ffff"]
)
def test_any_text_of_1_to_1024_bytes_is_a_path(engine: helios_shm.Engine, path: str) -> None:
    workspace = engine.empty.fork()
    workspace[path] = b"value"
    snapshot = workspace.commit().snapshot
    assert list(snapshot.items()) == [(path, b"value")]
    assert snapshot[path] == b"value"


class Text(str):
    """A str all the same."""


def test_subclass_of_str_is_a_path(engine: helios_shm.Engine) -> None:
    workspace = engine.empty.fork()
    workspace[Text("t")] = b"1"
    assert [type(path) for path in workspace] == [str]
    assert workspace.commit().snapshot[Text("t")] == b"1"


@pytest.mark.parametrize("path", ["", "x" * 1025, "\u20ac" * 342, "\ud800", "a\udfffb"])
def test_bad_path_is_value_error_and_changes_nothing(workspace: helios_shm.Workspace, path: str) -> None:
    with pytest.raises(ValueError, match=r"path"):
        workspace[path] = b"value"
    with pytest.raises(ValueError, match=r"path"):
        workspace.put(path, b"value")
    assert workspace.edits == {}


@pytest.mark.parametrize("path", [None, 1, b"a", 1.5])
def test_path_of_another_type_is_type_error(workspace: helios_shm.Workspace, path: object) -> None:
    with pytest.raises(TypeError, match="str"):
        workspace[path] = b"value"  # type: ignore[index]
    assert workspace.edits == {}


# --- values ---


def mapped(data: bytes) -> mmap.mmap:
    memory = mmap.mmap(-1, len(data))
    memory[:] = data
    return memory


def noncontiguous(data: bytes) -> memoryview:
    spread = bytearray(2 * len(data))
    spread[::2] = data
    return memoryview(spread)[::2]


def squared(data: bytes) -> memoryview:
    return memoryview(data).cast("B", (len(data) // 4, 4))


@pytest.mark.parametrize("size", [4, 64, 4096, 300_000])
@pytest.mark.parametrize(
    "kind",
    [bytes, bytearray, memoryview, mapped, noncontiguous, squared, lambda data: array.array("I", data)],
    ids=["bytes", "bytearray", "memoryview", "mmap", "noncontiguous", "two-dimensional", "array"],
)
def test_any_buffer_is_a_value(engine: helios_shm.Engine, kind: Callable[[bytes], bytes], size: int) -> None:
    data = bytes(range(4)) * (size // 4)
    workspace = engine.empty.fork()
    workspace["v"] = kind(data)
    assert workspace["v"] == data
    assert type(workspace["v"]) is bytes
    assert workspace.commit().snapshot["v"] == data


def test_numpy_array_is_a_value(engine: helios_shm.Engine) -> None:
    numpy = pytest.importorskip("numpy")
    matrix = numpy.arange(12, dtype="<u2").reshape(3, 4)
    workspace = engine.empty.fork()
    workspace["row-major"] = matrix
    workspace["column"] = matrix[:, 1]
    snapshot = workspace.commit().snapshot
    assert (numpy.frombuffer(snapshot.buffer("row-major"), "<u2").reshape(3, 4) == matrix).all()
    assert snapshot["column"] == matrix[:, 1].tobytes()


class Bytes(bytes):
    """bytes all the same."""


def test_subclass_of_bytes_is_a_value_and_comes_back_plain(engine: helios_shm.Engine) -> None:
    workspace = engine.empty.fork()
    workspace["v"] = Bytes(b"1")
    assert type(workspace["v"]) is bytes
    assert workspace.commit().snapshot["v"] == b"1"


@pytest.mark.parametrize("size", [10, 100, 300_000])
def test_buffer_changed_after_assignment_does_not_change_the_state(
    engine: helios_shm.Engine, size: int
) -> None:
    buffer = bytearray(b"a" * size)
    workspace = engine.empty.fork()
    workspace["v"] = buffer
    workspace["w"] = memoryview(buffer)
    buffer[:] = b"b" * size
    buffer.extend(b"no view of it is left open")
    assert workspace["v"] == workspace["w"] == b"a" * size
    assert workspace.commit().snapshot == {"v": b"a" * size, "w": b"a" * size}


def test_bytes_are_kept_by_reference(engine: helios_shm.Engine) -> None:
    workspace, value = engine.empty.fork(), b"x" * 1000
    workspace["v"] = value
    assert workspace["v"] is value


@pytest.mark.parametrize("value", ["text", None, 1, 1.5, [1], {"a": 1}, object()])
def test_what_is_no_buffer_is_type_error(workspace: helios_shm.Workspace, value: object) -> None:
    with pytest.raises(TypeError, match=type(value).__name__):
        workspace["a"] = value  # type: ignore[assignment]
    with pytest.raises(TypeError, match=type(value).__name__):
        workspace.put("a", value)  # type: ignore[arg-type]
    assert workspace.edits == {}


def test_value_above_4_gib_is_refused_before_it_is_copied(workspace: helios_shm.Workspace) -> None:
    with mmap.mmap(-1, (4 << 30) + 1) as memory, pytest.raises(ValueError, match="4294967296"):
        workspace["v"] = memory
    assert workspace.edits == {}


# --- kinds ---


@pytest.mark.parametrize("size", [0, 10, 100, 5000, 300_000])
@pytest.mark.parametrize("kind", KINDS[:4])
def test_kind_is_kept_for_values_of_every_size(engine: helios_shm.Engine, kind: Kind, size: int) -> None:
    workspace = engine.empty.fork()
    workspace.put("v", b"k" * size, kind=kind)
    assert workspace["v"] == b"k" * size
    assert workspace.edits == {"v": b"k" * size}
    snapshot = workspace.commit().snapshot
    assert snapshot.stat("v").kind == kind
    assert snapshot["v"] == b"k" * size


def test_plain_assignment_makes_a_plain_file_of_any_kind(engine: helios_shm.Engine) -> None:
    workspace = engine.empty.fork()
    workspace.put("v", b"1", kind="executable")
    workspace.commit()
    workspace["v"] = b"1"
    assert workspace.commit().snapshot.stat("v").kind == "file"


def test_snapshot_is_put_as_its_id(engine: helios_shm.Engine, workspace: helios_shm.Workspace) -> None:
    inside = workspace.base
    outer = engine.empty.fork()
    outer.put("by object", inside)
    outer.put("by id", bytes.fromhex(inside.id), kind="snapshot")
    snapshot = outer.commit().snapshot
    assert snapshot["by object"] == snapshot["by id"] == bytes.fromhex(inside.id)
    assert snapshot.stat("by object").kind == "snapshot"


def test_bad_kind_is_value_error(workspace: helios_shm.Workspace) -> None:
    for kind in ("folder", "", 3):
        with pytest.raises(ValueError, match="kind"):
            workspace.put("v", b"1", kind=kind)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="32"):
        workspace.put("v", b"short", kind="snapshot")
    with pytest.raises(ValueError, match="snapshot"):
        workspace.put("v", workspace.base, kind="file")
    assert workspace.edits == {}


# --- how edits are handed to the core ---


def test_edit_that_was_made_in_large_numbers_lands_whole(engine: helios_shm.Engine) -> None:
    content = {f"key/{i % 97}/{i}": str(i).encode() * (i % 30) for i in range(20_000)}
    workspace = engine.empty.fork()
    workspace.update(content)
    snapshot = workspace.commit().snapshot
    assert len(snapshot) == len(content)
    assert snapshot == content
    for path in list(content)[::2]:
        del workspace[path]
    assert len(workspace.commit().snapshot) == len(content) // 2


def test_commit_far_larger_than_the_ring_goes_through_it(engine: helios_shm.Engine) -> None:
    """The coordinator drains while the commit goes on."""
    content = {f"{i:07}": i.to_bytes(4, "little") * 20 for i in range(200_000)}
    workspace = engine.empty.fork()
    workspace.update(content)
    snapshot = workspace.commit().snapshot
    assert engine.stats().l1_bytes < sum(map(len, content.values()))
    assert len(snapshot) == 200_000
    assert snapshot.nbytes == 200_000 * 80
    for path in list(content)[::997]:
        assert snapshot[path] == content[path]
    assert len(snapshot.keys("00")) == 100_000


# --- how edits are handed to the core ---


def test_edits_of_every_form_in_one_commit(engine: helios_shm.Engine) -> None:
    made = engine.empty.fork()
    made["gone"] = b"x"
    made.commit()
    values = {
        "small": b"s",
        "\u00e4\u4e2d/\U0001f600": b"not ASCII",
        "text": b"ab" * 4000,
        "noise": random.randbytes(5000),
        "blob": random.randbytes(config.BLOB_BYTES_MIN),
    }
    made.update(values)
    made.put("link", b"small", kind="symlink")
    made.put("long link", b"ab" * 3000, kind="symlink")
    del made["gone"]
    snapshot = made.commit().snapshot
    assert dict(snapshot) == {**values, "link": b"small", "long link": b"ab" * 3000}
    assert [snapshot.stat(path).kind for path in ("link", "long link", "blob")] == [
        "symlink",
        "symlink",
        "file",
    ]


def test_edits_hold_what_they_were_made_of_and_let_it_go() -> None:
    path, value, large = (
        "/".join(("path", "held")),
        random.randbytes(100),
        random.randbytes(config.LZ4_BYTES_MIN),
    )
    made: dict[str, Any] = {path: value, "large": large, "none": None}
    before = sys.getrefcount(path), sys.getrefcount(value), sys.getrefcount(large)

    def form(edit: Any) -> tuple[int, bytes]:
        made.clear()  # as another thread might
        return (0, b"") if edit is None else (1, edit[:7])

    edits = hot.Edits(made, form)
    c = ffi.cast("hs_edits *", edits.address)
    assert [bytes(ffi.buffer(c.key_at[i], c.key_sizes[i])) for i in range(3)] == [
        b"path/held",
        b"large",
        b"none",
    ]
    assert [bytes(ffi.buffer(c.value_at[i], c.value_sizes[i])) for i in range(3)] == [value, large[:7], b""]
    assert bytes(ffi.buffer(c.forms, 3)) == b"\0\1\0"
    del edits
    assert (sys.getrefcount(path), sys.getrefcount(value), sys.getrefcount(large)) == tuple(
        n - 1 for n in before
    )


@pytest.mark.parametrize("made", [None, (), (1,), (1, "text"), ("1", b""), [1, b""]])
def test_form_that_is_none_is_refused_and_leaves_nothing_behind(made: object) -> None:
    path, value = "".join(("pa", "th")), random.randbytes(config.LZ4_BYTES_MIN)
    before = sys.getrefcount(path), sys.getrefcount(value)
    with pytest.raises(TypeError):
        hot.Edits({path: value}, lambda edit: made)  # type: ignore[arg-type,return-value]
    with pytest.raises(ZeroDivisionError):
        hot.Edits({path: value, "b": value}, lambda edit: (0, b"%d" % (1 // 0)))
    assert (sys.getrefcount(path), sys.getrefcount(value)) == before
