"""Snapshots and workspaces are complete ordered mappings, and their views are complete, reversible sets over ranges."""

from collections.abc import Iterator, Mapping

import pytest

import helios_shm
from helios_shm.mapping import bounds_of, encode_path, successor, within

STATE = {
    "a": b"1",
    "a/b": b"2",
    "a/b/c": b"",
    "a0": b"4",
    "b": b"5" * 100,
    "b\0": b"6",
    "z": b"7",
    "\x7f": b"8",
    "\u00e9": b"9",
    "\u20ac": b"10",
    "\ufffd": b"11",
    "\U0001f600": b"12",
}
ORDER = sorted(STATE, key=str.encode)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[helios_shm.Engine]:
    with helios_shm.open(tmp_path_factory.mktemp("mapping") / "store", l1_bytes=4 << 20) as opened:
        yield opened


def committed(engine: helios_shm.Engine) -> helios_shm.Snapshot:
    workspace = engine.empty.fork()
    workspace.update(STATE)
    return workspace.commit().snapshot


def all_edits(engine: helios_shm.Engine) -> helios_shm.Workspace:
    workspace = engine.empty.fork()
    workspace.update(STATE)
    return workspace


def half_edits(engine: helios_shm.Engine) -> helios_shm.Workspace:
    """Half of it in the base, half of it in edits, with one key of the base changed and one removed."""
    workspace = engine.empty.fork()
    workspace.update({path: STATE[path] for path in ORDER[::2]})
    workspace[ORDER[0]] = b"old"
    workspace["gone"] = b"gone"
    workspace.commit()
    workspace.update({path: STATE[path] for path in ORDER[1::2]})
    workspace[ORDER[0]] = STATE[ORDER[0]]
    del workspace["gone"]
    return workspace


Either = helios_shm.Snapshot | helios_shm.Workspace


@pytest.fixture(params=[committed, all_edits, half_edits])
def mapping(request: pytest.FixtureRequest, engine: helios_shm.Engine) -> Either:
    made: Either = request.param(engine)
    return made


def test_iteration_is_ordered_by_utf8_bytes_both_ways(mapping: Either) -> None:
    assert list(mapping) == ORDER
    assert list(reversed(mapping)) == ORDER[::-1]


def test_views_have_the_order_of_the_mapping_both_ways(mapping: Either) -> None:
    pairs = [(path, STATE[path]) for path in ORDER]
    assert list(mapping.keys()) == ORDER
    assert list(mapping.items()) == pairs
    assert list(mapping.values()) == [value for _, value in pairs]
    assert list(reversed(mapping.keys())) == ORDER[::-1]
    assert list(reversed(mapping.items())) == pairs[::-1]
    assert list(reversed(mapping.values())) == [value for _, value in pairs[::-1]]


def test_mapping_equals_a_dict_of_the_same_content_and_no_other(mapping: Either) -> None:
    assert mapping == STATE
    assert dict(mapping.items()) == STATE
    assert dict(mapping) == STATE
    assert mapping != {**STATE, "a": b"other"}
    assert mapping != {**STATE, "more": b""}
    assert mapping != list(STATE)
    assert isinstance(mapping, Mapping)


def test_length_counts_entries_and_edits(mapping: Either) -> None:
    assert len(mapping) == len(STATE)
    assert len(mapping.keys()) == len(mapping.items()) == len(mapping.values()) == len(STATE)


def test_lookup_finds_what_is_there_and_nothing_else(mapping: Either) -> None:
    for path, value in STATE.items():
        assert mapping[path] == value
        assert path in mapping
        assert mapping.get(path) == value
    for path in ("", "absent", "a/", "a/b/c/", "b\0\0", "x" * 2000, "\ud800"):
        assert path not in mapping
        assert mapping.get(path) is None
        assert mapping.get(path, b"default") == b"default"
        with pytest.raises(KeyError):
            mapping[path]


@pytest.mark.parametrize("odd", [None, 0, b"a", 1.5, ("a",)])
def test_what_is_no_str_is_in_no_mapping(mapping: Either, odd: object) -> None:
    assert odd not in mapping
    assert odd not in mapping.keys("")
    assert odd not in mapping.items()
    assert odd not in mapping.values()
    with pytest.raises((TypeError, KeyError)):
        mapping[odd]  # type: ignore[index]


def test_key_error_names_the_path(mapping: Either) -> None:
    with pytest.raises(KeyError) as raised:
        mapping["absent"]
    assert raised.value.args == ("absent",)


RANGES = [
    ("", None, None),
    ("a", None, None),
    ("a/", None, None),
    ("b", None, None),
    ("absent", None, None),
    ("\u00e9", None, None),
    ("\U0001f600", None, None),
    ("", "a/b", None),
    ("", None, "a/b"),
    ("", "a", "b"),
    ("", "b", "a"),
    ("", "a", "a"),
    ("a", "a/b", "a0"),
    ("a", "b", None),
    ("a/", None, "a"),
    ("", "\u20ac", "\U0001f600"),
    ("", "", ""),
]


def is_in(path: str, prefix: str, start: str | None, stop: str | None) -> bool:
    key = path.encode()
    return (
        path.startswith(prefix)
        and (start is None or key >= start.encode())
        and (stop is None or key < stop.encode())
    )


@pytest.mark.parametrize(("prefix", "start", "stop"), RANGES)
def test_range_has_exactly_what_lies_in_it(
    mapping: Either, prefix: str, start: str | None, stop: str | None
) -> None:
    expected = [path for path in ORDER if is_in(path, prefix, start, stop)]
    keys = mapping.keys(prefix, start=start, stop=stop)
    items = mapping.items(prefix, start=start, stop=stop)
    values = mapping.values(prefix, start=start, stop=stop)
    assert list(keys) == expected
    assert list(reversed(keys)) == expected[::-1]
    assert list(items) == [(path, STATE[path]) for path in expected]
    assert list(values) == [STATE[path] for path in expected]
    assert len(keys) == len(items) == len(values) == len(expected)
    for path in ORDER:
        assert (path in keys) is (path in expected)
        assert ((path, STATE[path]) in items) is (path in expected)
        assert (path, b"other") not in items
    assert all(STATE[path] in values for path in expected)
    assert b"nowhere" not in values


def test_views_are_sets(mapping: Either) -> None:
    keys, items = mapping.keys("a"), mapping.items("a/")
    assert keys & {"a", "z"} == {"a"}
    assert keys - {"a", "a0"} == {"a/b", "a/b/c"}
    assert keys | {"x"} == {"a", "a/b", "a/b/c", "a0", "x"}
    assert keys ^ {"a", "x"} == {"a/b", "a/b/c", "a0", "x"}
    assert keys == {"a": 0, "a/b": 0, "a/b/c": 0, "a0": 0}.keys()
    assert keys <= set(STATE)
    assert keys.isdisjoint({"z"})
    assert items & {("a/b", b"2"), ("a/b", b"3")} == {("a/b", b"2")}
    assert mapping.keys() == STATE.keys()
    assert mapping.items() == STATE.items()


def test_views_of_one_range_can_be_walked_more_than_once_and_side_by_side(mapping: Either) -> None:
    keys = mapping.keys("a")
    assert list(zip(keys, keys, strict=True)) == [(path, path) for path in keys]


def test_repr_of_a_view_is_short(mapping: Either) -> None:
    assert repr(mapping.keys("a")) == "<Keys: 4 entries>"
    assert repr(mapping.items()) == f"<Items: {len(STATE)} entries>"


@pytest.mark.parametrize("bound", ["prefix", "start", "stop"])
def test_bound_of_another_type_or_with_a_surrogate_is_refused(mapping: Either, bound: str) -> None:
    for look in (mapping.keys, mapping.items, mapping.values):
        with pytest.raises(TypeError, match=bound):
            look(**{bound: b"a"})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=bound):
            look(**{bound: "\ud800"})


def test_ranges_of_many_batches_are_whole(engine: helios_shm.Engine) -> None:
    """More entries, more key bytes and more value bytes than one call brings."""
    state = {f"{i:05}" + "k" * 200: bytes([i % 251]) * (i % 2000) for i in range(2000)}
    workspace = engine.empty.fork()
    workspace.update(state)
    snapshot = workspace.commit().snapshot
    assert dict(snapshot.items()) == state
    assert list(reversed(snapshot.items())) == sorted(state.items(), reverse=True)
    assert len(snapshot.keys(start="00500", stop="01500")) == 1000
    assert list(snapshot.keys(start="00500", stop="01500")) == sorted(state)[500:1500]


# --- the bounds themselves ---


def test_prefix_is_a_range_up_to_its_successor() -> None:
    assert bounds_of("a", None, None) == (b"a", b"b")
    assert bounds_of("\u00bf", None, None) == (b"\xc2\xbf", b"\xc2\xc0")
    assert successor("\U0010ffff".encode()) > "\U0010ffff".encode() + b"\xff"
    assert bounds_of("a", "aa", "ab") == (b"aa", b"ab")
    assert bounds_of("a", "0", "z") == (b"a", b"b")
    assert within(b"a", (b"a", b"b"))
    assert not within(b"b", (b"a", b"b"))
    assert within(b"b", (b"a", None))


def test_path_is_one_to_1024_bytes_of_utf8() -> None:
    assert encode_path("\u20ac") == b"\xe2\x82\xac"
    assert len(encode_path("\u20ac" * 341)) == 1023
    for path in ("", "x" * 1025, "\u20ac" * 342):
        with pytest.raises(ValueError, match="1024"):
            encode_path(path)
    with pytest.raises(ValueError, match="surrogate"):
        encode_path("a\udfff")
    with pytest.raises(TypeError, match="bytes"):
        encode_path(b"a")
