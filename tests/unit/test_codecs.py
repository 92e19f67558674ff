"""Codecs: what goes in comes out, equal values have equal bytes, and what is no value is refused with its reason."""

import json
import math
import pickle
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helios_shm import Codec, codecs


def encoded(codec: Codec[Any], value: object) -> bytes:
    return bytes(codec.encode(value))


def through(codec: Codec[Any], value: object) -> Any:
    return codec.decode(memoryview(encoded(codec, value)))


def decoded(codec: Codec[Any], data: bytes) -> Any:
    return codec.decode(memoryview(data))


# --- text ---

scalars = st.characters(exclude_categories=["Cs"])


@given(st.text(scalars))
def test_text_is_utf8(text: str) -> None:
    assert encoded(codecs.text, text) == text.encode()
    assert through(codecs.text, text) == text


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="bytes"):
        codecs.text.encode(b"a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="surrogate"):
        codecs.text.encode("\ud800")
    with pytest.raises(ValueError, match="utf-8"):
        decoded(codecs.text, b"\xff")


# --- JSON ---

trees = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(scalars),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(scalars), inner),
    max_leaves=20,
)


def shuffled(value: Any) -> Any:
    """The same value, its dicts filled in another order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    return [shuffled(each) for each in value] if isinstance(value, list) else value


@settings(max_examples=50)
@given(trees)
def test_json_comes_back_and_has_one_encoding(value: Any) -> None:
    data = encoded(codecs.json, value)
    back = decoded(codecs.json, data)
    assert back == value and repr(back) == repr(json.loads(json.dumps(value, sort_keys=True)))
    assert encoded(codecs.json, shuffled(value)) == encoded(codecs.json, back) == data


def test_json_is_canonical() -> None:
    value = {"b": [1, 2.5, None, True, "\u00e9\n"], "a": {}, "\U0001f600": (), "\uffff": -0.0}
    assert encoded(codecs.json, value) == (
        b'{"a":{},"b":[1,2.5,null,true,"\xc3\xa9\\n"],"\xef\xbf\xbf":-0.0,"\xf0\x9f\x98\x80":[]}'
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf], {"a": math.nan}])
def test_json_has_no_nan_and_no_infinity(value: object) -> None:
    with pytest.raises(ValueError, match=r"JSON|nan|inf"):
        codecs.json.encode(value)


@pytest.mark.parametrize(
    "text", [b"NaN", b"[Infinity]", b'{"a":-Infinity}', b"", b"{", b"[1,]", b"1 2", b"\xff", b'"a']
)
def test_what_is_no_json_is_not_read(text: bytes) -> None:
    with pytest.raises(ValueError):
        decoded(codecs.json, text)


def test_json_of_another_writer_is_read() -> None:
    assert decoded(codecs.json, b' {"b" : [1.0e1],\n"a": "\\u00e9"} ') == {"b": [10.0], "a": "\u00e9"}


@pytest.mark.parametrize("value", [{1: "a"}, {"a": [{None: 1}]}, [({True: 1},)], {"a": 1, 2: 3}])
def test_json_refuses_keys_that_would_come_back_as_others(value: object) -> None:
    with pytest.raises(TypeError):
        codecs.json.encode(value)


@pytest.mark.parametrize("value", [b"a", {1, 2}, object(), 1j, np.int64(1)])
def test_json_refuses_what_it_cannot_write(value: object) -> None:
    with pytest.raises(TypeError, match="JSON"):
        codecs.json.encode(value)


def test_json_refuses_what_has_no_end() -> None:
    deep: list[Any] = []
    for _ in range(2 * sys.getrecursionlimit()):
        deep = [deep]
    around: list[Any] = []
    around.append(around)
    for value in (deep, around):
        with pytest.raises(ValueError, match=r"deep|[Cc]ircular"):
            codecs.json.encode(value)
    with pytest.raises(ValueError, match="deep"):
        decoded(codecs.json, b"[" * 100_000 + b"]" * 100_000)
    with pytest.raises(ValueError, match="surrogate"):
        codecs.json.encode(["\udfff"])


# --- arrays ---

DTYPES = ["?", "u1", "<i8", ">f4", "<c16", "S5", "<U3", "M8[ns]", "V7", [("a", "<i4"), ("b", ">f8", (2,))]]
SHAPES = [(), (0,), (3,), (2, 0, 4), (2, 3, 4)]


def array_of(dtype: Any, shape: tuple[int, ...]) -> Any:
    wanted = np.dtype(dtype)
    count = math.prod(shape)
    raw = bytes(i % 2 for i in range(count * wanted.itemsize))
    return np.frombuffer(raw, wanted, count).reshape(shape) if raw else np.zeros(shape, wanted)


def agree(back: Any, array: Any) -> None:
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes()
    assert not back.flags.writeable


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_array_comes_back_by_every_form(dtype: Any, shape: tuple[int, ...]) -> None:
    array = array_of(dtype, shape)
    agree(through(codecs.ndarray(), array), array)
    agree(through(codecs.ndarray(dtype), array), array)
    agree(through(codecs.ndarray(shape=shape), array), array)
    bare = codecs.ndarray(dtype, shape)
    assert encoded(bare, array) == array.tobytes()
    agree(through(bare, array), array)


def test_array_of_any_layout_has_its_values_back() -> None:
    array = np.arange(60).reshape(3, 4, 5)
    for each in (
        array.T,
        array[::-1, :, ::2],
        np.asfortranarray(array),
        np.broadcast_to(array[0, 0], (3, 5)),
    ):
        agree(through(codecs.ndarray(), each), each)
        agree(through(codecs.ndarray(each.dtype, each.shape), each), each)
    fortran = through(codecs.ndarray(), np.asfortranarray(array))
    assert fortran.flags.f_contiguous and not fortran.flags.c_contiguous


def test_array_is_what_numpy_saves_and_loads(tmp_path: Any) -> None:
    array = np.arange(7.0)
    np.save(tmp_path / "a.npy", array)
    assert encoded(codecs.ndarray(), array) == (tmp_path / "a.npy").read_bytes()


def test_array_is_read_without_a_copy() -> None:
    array = np.arange(1000)
    for codec in (codecs.ndarray(), codecs.ndarray(array.dtype, array.shape)):
        data = encoded(codec, array)
        back = decoded(codec, data)
        assert np.shares_memory(back, np.frombuffer(data, "u1"))
        with pytest.raises(ValueError, match="read-only"):
            back[0] = 1


def test_array_of_another_dtype_or_shape_is_refused_both_ways() -> None:
    array = np.arange(6, dtype="<i4")
    for codec in (codecs.ndarray("<i8"), codecs.ndarray(shape=(2, 3)), codecs.ndarray("<i4", (3,))):
        with pytest.raises(ValueError, match="expected"):
            codec.encode(array)
    data = encoded(codecs.ndarray(), array)
    for codec in (codecs.ndarray("<i8"), codecs.ndarray(shape=(2, 3))):
        with pytest.raises(ValueError, match="expected"):
            decoded(codec, data)
    for size in (0, 23, 25):
        with pytest.raises(ValueError, match="bytes"):
            decoded(codecs.ndarray("<i4", (6,)), bytes(size))


@pytest.mark.parametrize("value", [[1, 2], 1.0, np.float64(1), None, np.ma.array([1], mask=[True])])
def test_what_is_no_array_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="ndarray"):
        encoded(codecs.ndarray(), value)


def test_arrays_of_objects_are_refused() -> None:
    for array in (np.array([object()]), np.zeros(1, [("a", "O")])):
        with pytest.raises(TypeError, match="objects"):
            codecs.ndarray().encode(array)
        with pytest.raises(TypeError, match="objects"):
            codecs.ndarray(array.dtype)


def test_array_whose_header_could_not_be_read_back_is_not_written() -> None:
    wide = np.zeros(1, [(f"a field with quite a long name, number {i}", "u1") for i in range(200)])
    with pytest.raises(ValueError, match="describe"):
        codecs.ndarray().encode(wide)


def test_bytes_that_are_no_array_are_refused_wherever_they_are_cut_or_bent() -> None:
    data = encoded(codecs.ndarray(), np.arange(3))
    for size in range(len(data)):
        with pytest.raises(ValueError):
            decoded(codecs.ndarray(), data[:size])
    with pytest.raises(ValueError, match="bytes"):
        decoded(codecs.ndarray(), data + b"\0")
    for old, new in (
        (b"(3,)", b"(-3)"),
        (b"(3,)", b"-3,)"),
        (b"'<i8'", b"'|O8'"),
        (b"<i8", b"<q8"),
        (b"\x01\0", b"\x03\0"),
    ):
        with pytest.raises(ValueError):
            decoded(codecs.ndarray(), data.replace(old, new, 1))


@given(st.binary(max_size=100), st.integers(0, 127))
def test_bent_header_is_a_value_error_or_an_array(garbage: bytes, at: int) -> None:
    data = bytearray(encoded(codecs.ndarray(), np.arange(3)))
    data[at : at + len(garbage)] = garbage
    try:
        back = decoded(codecs.ndarray(), bytes(data))
    except ValueError:
        return
    assert back.nbytes <= len(data)


@pytest.mark.parametrize("arguments", [("no such type",), (None, (-1,)), (None, ("a",)), (None, (1.5, None))])
def test_codec_for_what_is_no_dtype_or_shape_is_refused(arguments: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        codecs.ndarray(*arguments)


def test_without_numpy_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(ImportError, match=r'pip install "helios-shm\[numpy\]"'):
        codecs.ndarray()


# --- pickles ---


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_comes_back(protocol: int) -> None:
    value = {"a": {1, 2}, 3: (None, 4j)}
    codec = codecs.pickle(protocol)
    assert through(codec, value) == value
    assert encoded(codec, value) == pickle.dumps(value, protocol)


@pytest.mark.parametrize(
    ("protocol", "kind"), [(-1, ValueError), (99, ValueError), ("5", TypeError), (True, TypeError)]
)
def test_pickle_protocol_that_there_is_not_is_refused(protocol: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="protocol"):
        codecs.pickle(protocol)


# --- codecs as values ---

ALL = [codecs.text, codecs.json, codecs.ndarray(), codecs.ndarray("<f4", (2, 3)), codecs.pickle()]


@pytest.mark.parametrize("codec", ALL, ids=repr)
def test_codec_pickles_compares_and_names_itself(codec: Codec[Any]) -> None:
    copy = pickle.loads(pickle.dumps(codec))
    assert copy == codec and hash(copy) == hash(codec)
    assert [each for each in ALL if each == codec] == [codec]
    assert repr(codec).startswith("codecs.")
