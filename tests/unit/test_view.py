"""Views: a state through a prefix and a codec, beside a dict of what it shows."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import helios_shm
from helios_shm import config
from helios_shm.codecs import Codec, json, ndarray, text
from helios_shm.codecs import pickle as pickled

RING_BYTES = 4 << 20
LARGE = config.BLOB_BYTES_MIN


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[helios_shm.Engine]:
    with helios_shm.open(tmp_path_factory.mktemp("view") / "store", l1_bytes=RING_BYTES) as opened:
        yield opened


def committed(workspace: helios_shm.Workspace) -> helios_shm.Snapshot:
    return workspace.commit().snapshot


# --- against the twin ---

PREFIXES = ["", "a", "a/", "a/b", "\u00e9", "\U0001f600", "zz"]
keys = st.text(st.sampled_from("ab/\u00e9\U0001f600\0"), min_size=1, max_size=4)
numbers = st.integers(-3, 3) | st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
states = st.dictionaries(keys, numbers, max_size=12)
changes = st.lists(st.tuples(keys | st.just(""), st.none() | numbers), max_size=12)


def seen(twin: dict[str, Any], prefix: str) -> dict[str, Any]:
    """What a view of this prefix shows, in its order."""
    return {path[len(prefix) :]: twin[path] for path in sorted(twin) if path.startswith(prefix)}


def agree(view: "helios_shm.View[Any] | helios_shm.MutableView[Any]", twin: dict[str, Any]) -> None:
    assert view == twin and len(view) == len(twin)
    assert list(view) == list(view.keys()) == list(twin)
    assert list(reversed(view)) == list(twin)[::-1]
    assert list(view.items()) == list(twin.items())
    assert list(reversed(view.items())) == list(twin.items())[::-1]
    assert list(view.values()) == list(twin.values())
    for key, value in twin.items():
        assert key in view and view[key] == view.get(key) == value
        assert (key, value) in view.items() and key in view.keys()  # noqa: SIM118 - the view of keys is the test
    for key in ("no such key", "a/b/c/d/e"):
        assert key not in view and view.get(key) is None and (key, None) not in view.items()


@settings(max_examples=50)
@given(states, st.sampled_from(PREFIXES), changes)
def test_views_agree_with_a_dict(
    engine: helios_shm.Engine, state: dict[str, Any], prefix: str, changes: list[tuple[str, Any]]
) -> None:
    workspace = engine.empty.fork()
    whole = workspace.view(codec=json)
    whole.update(state)
    base = committed(workspace)
    agree(base.view(prefix, codec=json), seen(state, prefix))
    view, twin = workspace.view(prefix, codec=json), dict(state)
    for key, value in changes:
        if prefix + key == "":
            continue
        if value is None:
            assert view.pop(key, None) == twin.pop(prefix + key, None)
        else:
            view[key] = twin[prefix + key] = value
    agree(view, seen(twin, prefix))
    assert dict(whole) == twin
    agree(committed(workspace).view(prefix, codec=json), seen(twin, prefix))
    assert base.view(codec=json) == state


def test_view_of_bytes_is_the_range_itself(engine: helios_shm.Engine) -> None:
    workspace = engine.empty.fork()
    workspace.update({"a": b"0", "a/x": b"1", "a/y": b"2" * LARGE, "b": b"3"})
    snapshot = committed(workspace)
    expected = {"x": b"1", "y": b"2" * LARGE}
    assert dict(snapshot.view("a/")) == expected
    assert dict(snapshot.view("a")) == {"": b"0", "/x": b"1", "/y": b"2" * LARGE}
    assert all(type(value) is bytes for value in snapshot.view().values())
    view = workspace.view("a/")
    view["x"] = bytearray(b"new")
    assert workspace["a/x"] == b"new" and view["x"] == b"new"
    with pytest.raises(TypeError, match="str"):
        view["x"] = "text"  # type: ignore[assignment]


def test_view_clears_what_it_shows_and_no_more(engine: helios_shm.Engine) -> None:
    workspace = engine.empty.fork()
    workspace.update({"a/1": b"", "a/2": b"", "b": b""})
    workspace.commit()
    workspace["a/3"] = b""
    view = workspace.view("a/")
    assert view.popitem() == ("1", b"")
    view.clear()
    assert not view and list(workspace) == ["b"]


def test_iteration_shows_the_workspace_as_it_is_when_it_begins(engine: helios_shm.Engine) -> None:
    workspace = engine.empty.fork()
    view = workspace.view("n/", codec=json)
    view.update({f"{i}": i for i in range(5)})
    for key, value in view.items():
        view[key + "0"] = 10 * value
        del view[key]
    assert dict(view) == {f"{i}0": 10 * i for i in range(5)}


# --- errors ---


def test_missing_key_is_key_error_of_the_key(engine: helios_shm.Engine) -> None:
    workspace = engine.empty.fork()
    workspace["a/b"] = b"1"
    snapshot = committed(workspace)
    for codec in (json, text):
        with pytest.raises(KeyError) as missing:
            snapshot.view("a/", codec=codec)["c"]
        assert missing.value.args == ("c",)
    with pytest.raises(KeyError) as missing:
        del workspace.view("a/")["c"]
    assert missing.value.args == ("c",)
    with pytest.raises(KeyError):
        workspace.view("a/")["c"]
    with pytest.raises(KeyError):
        snapshot.view()["\ud800"]


def test_bytes_that_the_codec_cannot_read_are_named(engine: helios_shm.Engine) -> None:
    workspace = engine.empty.fork()
    workspace["a/b"] = b"{"
    for source in (committed(workspace), workspace):
        view = source.view("a/", codec=json)
        for read in (
            lambda view=view: view["b"],
            lambda view=view: list(view.items()),
            lambda view=view: view.get("b"),
        ):
            with pytest.raises(
                ValueError, match=r"codecs\.json cannot decode 'a/b' of <(Snapshot|Workspace)"
            ) as error:
                read()
            assert error.value.__cause__ is not None
        assert "b" in view and len(view) == 1


class Odd(Codec[int]):
    """A codec of somebody's, with errors of its own."""

    def encode(self, value: int, /) -> bytes:
        raise ZeroDivisionError("odd")

    def decode(self, data: memoryview, /) -> int:
        raise KeyError(bytes(data))


def test_whatever_a_codec_raises_does_not_look_like_a_missing_key(engine: helios_shm.Engine) -> None:
    workspace = engine.empty.fork()
    workspace["k"] = b"v"
    view = workspace.view(codec=Odd())
    with pytest.raises(ValueError, match="cannot decode 'k'"):
        view["k"]
    with pytest.raises(ValueError, match="cannot encode 'k'"):
        view["k"] = 1


def test_value_that_the_codec_cannot_write_changes_nothing(engine: helios_shm.Engine) -> None:
    workspace = engine.empty.fork()
    view = workspace.view("a/", codec=json)
    view["b"] = 1
    with pytest.raises(TypeError, match=r"codecs\.json cannot encode 'a/b'"):
        view["b"] = object()
    with pytest.raises(ValueError, match=r"codecs\.json cannot encode 'a/c'"):
        view["c"] = float("nan")
    assert dict(view) == {"b": 1}


def test_stores_own_errors_come_through_a_codec(engine: helios_shm.Engine, tmp_path: Path) -> None:
    with helios_shm.open(tmp_path / "other") as other:
        data = pickle.dumps(other.empty)
    (tmp_path / "other").rename(tmp_path / "elsewhere")
    workspace = engine.empty.fork()
    workspace["s"] = data
    with pytest.raises(helios_shm.NotFoundError):
        workspace.view(codec=pickled())["s"]


def test_what_is_no_prefix_no_codec_and_no_key_is_refused(engine: helios_shm.Engine) -> None:
    workspace = engine.empty.fork()
    workspace["a"] = b"1"
    for source in (committed(workspace), workspace):
        with pytest.raises(TypeError, match="prefix"):
            source.view(b"a")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="surrogate"):
            source.view("\ud800")
        with pytest.raises(TypeError, match="codec"):
            source.view(codec="json")  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="str"):
            source.view("a")[1]  # type: ignore[index]
        assert 1 not in source.view("a")
    with pytest.raises(ValueError, match="1024"):
        workspace.view("a" * 1024)["b"] = b""
    with pytest.raises(ValueError, match="path"):
        workspace.view()[""] = b""


def test_view_of_a_snapshot_pickles_and_one_of_a_workspace_does_not(engine: helios_shm.Engine) -> None:
    workspace = engine.empty.fork()
    workspace["a/b"] = b"[1]"
    view = committed(workspace).view("a/", codec=json)
    copy = pickle.loads(pickle.dumps(view))
    assert copy == view == {"b": [1]} and repr(copy) == repr(view)
    with pytest.raises(TypeError, match="hand over the snapshot"):
        pickle.dumps(workspace.view())


def test_view_says_what_it_is(engine: helios_shm.Engine) -> None:
    assert repr(engine.empty.view("a/")) == f"<View 'a/' of {engine.empty!r}>"
    assert repr(engine.empty.fork().view(codec=json)).endswith("through codecs.json>")


# --- arrays, without copies ---


def is_over_a_file(array: Any) -> bool:
    """Do its bytes lie in a mapped file of the store?"""
    address = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(each, 16) for each in line.split()[0].split("-"))
        if low <= address < high:
            return "/blobs/" in line
    return False


@pytest.mark.parametrize("given", [False, True], ids=["carried", "given"])
@pytest.mark.parametrize("cold", [False, True], ids=["warm", "cold"])
def test_large_array_is_read_out_of_its_file(store_path: Path, given: bool, cold: bool) -> None:
    large = np.arange(LARGE // 8 + 1, dtype="<f8")
    codec: Codec[Any] = ndarray("<f8", large.shape) if given else ndarray()
    engine = helios_shm.open(store_path)
    workspace = engine.empty.fork()
    workspace.view("a/", codec=codec)["large"] = large
    snapshot = committed(workspace)
    if cold:  # its nodes are brought from L2
        engine.close()
        engine = helios_shm.open(store_path)
        snapshot = engine.snapshot(snapshot.id)
        snapshot._attachment.forget_nodes()
    view = snapshot.view("a/", codec=codec)
    ((_, listed),) = view.items()
    for array in (view["large"], listed, snapshot.fork().view(codec=codec)["a/large"]):
        assert (array == large).all() and is_over_a_file(array)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    engine.close()
    assert (listed == large).all()  # what was read stays


def test_small_arrays_are_read_and_listed(engine: helios_shm.Engine) -> None:
    workspace = engine.empty.fork()
    view = workspace.view(codec=ndarray())
    sizes = [0, 1, 100, 1000, 20_000]
    for size in sizes:
        view[f"{size:05}"] = np.arange(size)
    for source in (view, committed(workspace).view(codec=ndarray())):
        assert [array.tolist() for array in source.values()] == [list(range(size)) for size in sizes]
        assert source["00100"].sum() == 4950


# --- states within states ---


def test_nested_state_is_whole(engine: helios_shm.Engine) -> None:
    inner = engine.empty.fork()
    inner.update({"x": b"1", "y": b"2" * LARGE})
    world = committed(inner)
    outer = engine.empty.fork()
    outer.put("world", world)
    outer.put("nothing", engine.empty)
    outer["file"] = bytes(32)
    plan = committed(outer)
    assert plan.nested("world") == world and dict(plan.nested("world")) == dict(world)
    assert plan.nested("nothing") == engine.empty and len(plan.nested("nothing")) == 0
    assert plan.stat("world").kind == "snapshot" and plan["world"] == plan.view()["world"] == bytes.fromhex(
        world.id
    )
    with pytest.raises(KeyError):
        plan.nested("absent")
    with pytest.raises(ValueError, match=r"'file'.* is a file, no nested"):
        plan.nested("file")
    with pytest.raises(TypeError, match="str"):
        plan.nested(None)  # type: ignore[arg-type]


def test_nested_state_that_the_store_lacks_is_not_found(engine: helios_shm.Engine) -> None:
    outer = engine.empty.fork()
    outer.put("world", bytes(range(32)), kind="snapshot")
    with pytest.raises(helios_shm.NotFoundError):
        committed(outer).nested("world")


def test_nested_states_survive_reopening(store_path: Path) -> None:
    with helios_shm.open(store_path) as engine:
        workspace = engine.empty.fork()
        for depth in range(5):
            state = committed(workspace)
            workspace = engine.empty.fork()
            workspace.view(codec=json)["depth"] = depth
            workspace.put("below", state)
        id = committed(workspace).id
    with helios_shm.open(store_path) as engine:
        state = engine.snapshot(id)
        for depth in range(4, -1, -1):
            assert state.view(codec=json)["depth"] == depth
            state = state.nested("below")
        assert state == engine.empty
